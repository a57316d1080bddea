//! SQLite by rusqlite, on the calling thread or on Tokio's blocking threads.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{OpenFlags, Statement, StatementStatus};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Query, Row, Value};
use crate::StoreError;

/// Prepared statements that a connection keeps. Those of many rows differ by the number of rows, so there are some hundreds.
const PREPARED: usize = 512;

/// Most of the database that the writer's connection keeps in memory, KiB.
const WRITER_CACHE: i64 = 65_536;
/// The same of a reader's.
const READER_CACHE: i64 = 16_384;

/// How a connection is opened.
#[derive(Debug, Clone)]
pub(crate) struct SqliteOptions {
    /// The database file.
    pub(crate) path: PathBuf,
    /// How long to wait for another process's lock.
    pub(crate) busy_timeout: Duration,
    /// Whether it may not write. Such a connection makes no file.
    pub(crate) read_only: bool,
}

/// An open database.
#[derive(Debug)]
pub(crate) struct Connection {
    connection: rusqlite::Connection,
    /// Steps of the virtual machine that answered rows.
    steps: u64,
}

impl Connection {
    pub(crate) fn open(options: &SqliteOptions) -> Result<Self, StoreError> {
        let access = if options.read_only {
            OpenFlags::SQLITE_OPEN_READ_ONLY
        } else {
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
        };
        // Each connection is used by one thread at a time.
        let connection = rusqlite::Connection::open_with_flags(
            &options.path,
            access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE,
        )?;
        connection.busy_timeout(options.busy_timeout)?;
        // Plans that depend on bound values are made anew at each use: a fifth of the writer's time.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        connection.set_prepared_statement_cache_capacity(PREPARED);
        if !options.read_only {
            connection.execute_batch("PRAGMA journal_mode = WAL")?;
        }
        // Sorting must not put rows into a file outside the data folder. A log of 32 MiB, where 4 is usual, has pages that are changed
        // again and again copied into the database once.
        connection.execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY; \
             PRAGMA trusted_schema = OFF; PRAGMA journal_size_limit = 67108864; PRAGMA wal_autocheckpoint = 8192",
        )?;
        let cache = if options.read_only { READER_CACHE } else { WRITER_CACHE };
        connection.pragma_update(None, "cache_size", -cache)?;
        Ok(Self { connection, steps: 0 })
    }

    pub(crate) fn rows(&mut self, query: &Query) -> Result<Vec<Row>, StoreError> {
        let mut statement = self.connection.prepare_cached(&query.text)?;
        bind(&mut statement, &query.values)?;
        let columns = statement.column_count();
        let mut rows = statement.raw_query();
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            let mut values = Vec::with_capacity(columns);
            for column in 0..columns {
                values.push(value(row.get_ref(column)?)?);
            }
            all.push(Row::new(values));
        }
        drop(rows);
        self.steps += u64::try_from(statement.reset_status(StatementStatus::VmStep)).unwrap_or_default();
        Ok(all)
    }

    /// Steps of the virtual machine that answered rows so far: some for each row that was looked at.
    pub(crate) const fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn execute(&mut self, query: &Query) -> Result<u64, StoreError> {
        // A change outside of a transaction has only itself to go with.
        let text = if self.is_idle() { Cow::Borrowed(&*query.text) } else { without_journal(&query.text) };
        let mut statement = self.connection.prepare_cached(&text)?;
        bind(&mut statement, &query.values)?;
        Ok(statement.raw_execute()? as u64)
    }

    pub(crate) fn batch(&mut self, text: &str) -> Result<(), StoreError> {
        Ok(self.connection.execute_batch(text)?)
    }

    /// Whether no transaction is open.
    fn is_idle(&self) -> bool {
        self.connection.is_autocommit()
    }

    pub(crate) fn close(self) -> Result<(), StoreError> {
        self.connection.close().map_err(|(_, error)| error.into())
    }
}

/// A change that keeps what it did before it failed. For any other SQLite copies each page that it touches, to take back that change alone
/// (https://www.sqlite.org/tempfiles.html, "Statement Journal Files"). Here a change that fails ends its mutation or its group, and all of
/// it goes with their savepoint or transaction.
fn without_journal(text: &str) -> Cow<'_, str> {
    for (plain, fails) in [("INSERT INTO ", "INSERT OR FAIL INTO "), ("UPDATE ", "UPDATE OR FAIL ")] {
        if let Some(rest) = text.strip_prefix(plain) {
            return Cow::Owned(format!("{fails}{rest}"));
        }
    }
    Cow::Borrowed(text)
}

fn bind(statement: &mut Statement<'_>, values: &[Value]) -> Result<(), StoreError> {
    for (place, value) in (1..).zip(values) {
        let value = match value {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(blob) => ValueRef::Blob(blob),
        };
        statement.raw_bind_parameter(place, ToSqlOutput::Borrowed(value))?;
    }
    Ok(())
}

fn value(value: ValueRef<'_>) -> Result<Value, StoreError> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Text(text) => {
            let text =
                std::str::from_utf8(text).map_err(|_| StoreError::row("a text column is not UTF-8"))?;
            Value::Text(text.to_owned())
        }
        ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
        ValueRef::Real(_) => return Err(StoreError::row("a column is a floating-point number")),
    })
}

type Shared = Arc<Mutex<Connection>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Connection> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A fixed number of connections that may not write.
#[derive(Debug, Clone)]
pub(crate) struct Readers {
    idle: Arc<Mutex<Vec<Shared>>>,
    places: Arc<Semaphore>,
    count: u32,
    /// How long to wait for a free one.
    timeout: Duration,
}

impl Readers {
    pub(crate) fn open(options: &SqliteOptions, count: u32, timeout: Duration) -> Result<Self, StoreError> {
        let options = SqliteOptions { read_only: true, ..options.clone() };
        let mut idle = Vec::new();
        for _ in 0..count {
            idle.push(Arc::new(Mutex::new(Connection::open(&options)?)));
        }
        let places = Arc::new(Semaphore::new(count as usize));
        Ok(Self { idle: Arc::new(Mutex::new(idle)), places, count, timeout })
    }

    pub(crate) async fn lease(&self) -> Result<Lease, StoreError> {
        let place = tokio::time::timeout(self.timeout, Arc::clone(&self.places).acquire_owned())
            .await
            .map_err(|_| StoreError::Busy("all readers are in use".into()))?
            .map_err(|_| StoreError::Closed)?;
        let shared = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let shared = shared.ok_or(StoreError::Closed)?;
        Ok(Lease(Some(Held { shared, idle: Arc::clone(&self.idle), _place: place })))
    }

    pub(crate) async fn close(&self) {
        // Whoever reads gives its place back first.
        if let Ok(all) = self.places.acquire_many(self.count).await {
            self.places.close();
            drop(all);
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// What a lease holds; going, it ends the transaction and gives the connection back, and then its place.
#[derive(Debug)]
struct Held {
    shared: Shared,
    idle: Arc<Mutex<Vec<Shared>>>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut connection = lock(&self.shared);
        if !connection.is_idle()
            && let Err(error) = connection.batch("ROLLBACK")
        {
            tracing::warn!(%error, "a reader cannot end its snapshot");
        }
        drop(connection);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&self.shared));
    }
}

/// A reader's connection for as long as its snapshot lives. Its first statement begins the snapshot.
#[derive(Debug)]
pub(crate) struct Lease(Option<Held>);

impl Lease {
    async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let Some(held) = &self.0 else { return Err(StoreError::Closed) };
        let shared = Arc::clone(&held.shared);
        let work = move || {
            let mut connection = lock(&shared);
            if connection.is_idle() {
                connection.batch("BEGIN")?;
            }
            work(&mut connection)
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)?
    }

    pub(crate) async fn rows(&self, query: Query) -> Result<Vec<Row>, StoreError> {
        self.run(move |connection| connection.rows(&query)).await
    }

    pub(crate) fn steps(&self) -> u64 {
        self.0.as_ref().map_or(0, |held| lock(&held.shared).steps())
    }

    pub(crate) async fn batch(&self, text: String) -> Result<(), StoreError> {
        self.run(move |connection| connection.batch(&text)).await
    }

    /// A copy of the database in a new file. SQLite makes it outside of any transaction.
    pub(crate) async fn copy_to(&self, path: String) -> Result<(), StoreError> {
        let Some(held) = &self.0 else { return Err(StoreError::Closed) };
        let shared = Arc::clone(&held.shared);
        let copy = super::query("VACUUM INTO ?").bind(path);
        tokio::task::spawn_blocking(move || lock(&shared).execute(&copy).map(drop))
            .await
            .map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(held) = self.0.take() else { return };
        // A statement whose caller went away may still run. Nobody waits for it here.
        let busy = held.shared.try_lock().is_err();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if busy => drop(runtime.spawn_blocking(move || drop(held))),
            Ok(_) | Err(_) => drop(held),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let text: Arc<str> = error.to_string().into();
        // The low byte is the primary code: https://www.sqlite.org/rescode.html
        match error.sqlite_error().map(|error| error.extended_code & 0xff) {
            Some(13) => Self::DiskFull,
            Some(11 | 26) => Self::Corrupt(text),
            Some(5 | 6) => Self::Busy(text),
            Some(3 | 8 | 10 | 14) => Self::Io(text),
            _ => Self::Sql(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::query;

    fn names(connection: &mut Connection) -> i64 {
        let rows = connection.rows(&query("SELECT count(*) FROM names")).unwrap();
        rows[0].try_get(0).unwrap()
    }

    #[test]
    fn what_fails_half_way_goes_with_its_savepoint_its_transaction_or_itself() {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions {
            path: folder.path().join("x.db"),
            busy_timeout: Duration::from_secs(1),
            read_only: false,
        };
        let mut connection = Connection::open(&options).unwrap();
        connection.batch("CREATE TABLE names (name TEXT NOT NULL PRIMARY KEY) STRICT").unwrap();
        let twice = query("INSERT INTO names (name) VALUES ('a'), ('b'), ('b')");
        assert!(connection.execute(&twice).is_err());
        assert_eq!(names(&mut connection), 0, "alone it takes itself back");
        connection.batch("BEGIN; SAVEPOINT mutation").unwrap();
        assert!(connection.execute(&twice).is_err());
        assert_eq!(names(&mut connection), 2, "in a transaction no copy of the pages is kept for it");
        connection.batch("ROLLBACK TO SAVEPOINT mutation; RELEASE SAVEPOINT mutation").unwrap();
        connection.execute(&query("INSERT INTO names (name) VALUES ('c')")).unwrap();
        connection.batch("COMMIT").unwrap();
        assert_eq!(names(&mut connection), 1);
        connection.batch("BEGIN").unwrap();
        assert!(connection.execute(&query("UPDATE names SET name = NULL")).is_err());
        connection.batch("ROLLBACK").unwrap();
        assert_eq!(names(&mut connection), 1);
    }
}
