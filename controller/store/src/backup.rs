//! A copy of the store while it is in use, putting it back, and moving it to the other database.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::open::lock;
use crate::schema::{self, SchemaError};
use crate::sql::{self, Connection, SqliteConnection, SqliteOptions, SqliteReaders};
use crate::writer::Connect;
use crate::{Database, OpenError, Store, StoreError, tables};

/// The longest statement of a transfer.
const TRANSFER_LIMIT: Duration = Duration::from_secs(600);

impl Store {
    /// Puts a copy in place of the store at `path`, which no controller may have open. Copying by hand is a trap: a
    /// write-ahead log left beside the old file would be replayed onto the new one.
    ///
    /// # Errors
    /// When a controller runs, or a file cannot be written; run it again then.
    pub fn restore(path: &Path, copy: &Path) -> Result<(), OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::File { path, source }
        };
        let _lock = lock(path)?;
        let aside = beside(path, ".restore");
        let mut from = File::open(copy).map_err(failed(copy))?;
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)
            .and_then(|mut to| io::copy(&mut from, &mut to).and_then(|_| to.sync_all()))
            .map_err(failed(&aside))?;
        for log in [beside(path, "-wal"), beside(path, "-shm")] {
            match fs::remove_file(&log) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&log)(error)),
                Ok(()) | Err(_) => {}
            }
        }
        fs::rename(&aside, path).and_then(|()| File::open(folder_of(path))?.sync_all()).map_err(failed(path))
    }

    /// As [`Store::backup_to`], of a store that a controller may have open.
    ///
    /// # Errors
    /// When the database cannot be read, or the copy not be written.
    pub async fn backup(database: &Database, path: &Path) -> Result<(), OpenError> {
        let failed = |source| OpenError::Store { database: database.to_string(), source };
        let snapshot = reader(database).await.map_err(failed)?;
        place_copy(snapshot, path).await.map_err(failed)
    }

    /// Writes a consistent copy to `path` (mode 0600), which must not exist. The name appears once the copy is whole and on
    /// disk. Secrets in it stay sealed: keep the key file apart. Writes go on meanwhile.
    ///
    /// # Errors
    /// When the copy cannot be written; nothing is left at `path` then.
    pub async fn backup_to(&self, path: &Path) -> Result<(), StoreError> {
        place_copy(self.0.readers.snapshot().await?, path).await
    }

    /// Copies a store into another database, which must have none: from SQLite to PostgreSQL, or a backup file to where it is wanted.
    /// No controller may have a store on SQLite open meanwhile. `seen` hears of each table, and how many of its rows are copied.
    ///
    /// What runs at the source (sessions, leases) is not copied; whatever a subscriber had from the source it may go on from.
    ///
    /// # Errors
    /// When a database cannot be opened, or the target has a store already. The target is left as it was then.
    pub async fn transfer(
        from: &Database,
        to: &Database,
        seen: impl FnMut(&'static str, u64) + Send,
    ) -> Result<(), OpenError> {
        let source_lock = match from {
            Database::Sqlite(path) if path.is_file() => Some(lock(path)?),
            Database::Sqlite(path) => {
                let source = io::Error::new(io::ErrorKind::NotFound, "there is no such file");
                return Err(OpenError::File { path: path.clone(), source });
            }
            Database::Postgres(_) => None,
        };
        let failed = |database: &Database| {
            let database = database.to_string();
            move |source| OpenError::Store { database, source }
        };
        let source = reader(from).await.map_err(failed(from))?;
        // A copy of its own, brought up to date: the source stays as it is, whatever build it is of.
        let beside = match to {
            Database::Sqlite(path) => folder_of(path).to_owned(),
            Database::Postgres(_) => std::env::temp_dir(),
        };
        let folder = tempfile::Builder::new().prefix("hosting-transfer-").tempdir_in(&beside);
        let folder = folder.map_err(|source| OpenError::File { path: beside, source })?;
        let aside = folder.path().join("store.db");
        copy_into_file(source, &aside).await.map_err(failed(from))?;
        drop(source_lock);

        let mut copied = opened(&Database::Sqlite(aside)).await?;
        let _target_lock = match to {
            Database::Sqlite(path) => Some(lock(path)?),
            Database::Postgres(_) => None,
        };
        let mut target = opened(to).await?;
        let heads = target.rows(sql::query("SELECT cell FROM head")).await.map_err(failed(to))?;
        if !heads.is_empty() {
            return Err(OpenError::NotEmpty(to.to_string()));
        }
        tables::copy(&mut copied, &mut target, seen).await.map_err(failed(to))?;
        target.close().await.map_err(failed(to))?;
        copied.close().await.map_err(failed(from))
    }
}

/// Writes what a snapshot sees to `path`: the name appears once the copy is whole and on disk.
async fn place_copy(snapshot: Connection, path: &Path) -> Result<(), StoreError> {
    let io = |error: io::Error| StoreError::Io(format!("{}: {error}", path.display()).into());
    if fs::symlink_metadata(path).is_ok() {
        return Err(StoreError::value("path", format!("{} exists already", path.display())));
    }
    let partial = beside(path, ".partial");
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        // Left by a copy that was cut short.
        Ok(()) | Err(_) => {}
    }
    let copied = copy_into_file(snapshot, &partial).await;
    let placed = copied.and_then(|()| {
        File::open(&partial).and_then(|file| file.sync_all()).map_err(io)?;
        fs::hard_link(&partial, path).map_err(io)
    });
    let removed = fs::remove_file(&partial).map_err(io);
    placed?;
    removed?;
    File::open(folder_of(path)).and_then(|folder| folder.sync_all()).map_err(io)
}

/// A connection whose statements see one state, without any check of what the database holds.
async fn reader(database: &Database) -> Result<Connection, StoreError> {
    let timeout = Duration::from_secs(5);
    match database {
        Database::Sqlite(path) => {
            let options = SqliteOptions { path: path.clone(), busy_timeout: timeout, read_only: true };
            sql::Readers::Sqlite(SqliteReaders::open(&options, 1, timeout)?).snapshot().await
        }
        Database::Postgres(url) => {
            let options = sql::postgres_options(url.as_str(), TRANSFER_LIMIT)?;
            sql::Readers::Postgres(sql::postgres_pool(&options, 1, timeout), TRANSFER_LIMIT).snapshot().await
        }
    }
}

/// A connection to a database whose schema is up to date.
async fn opened(database: &Database) -> Result<Connection, OpenError> {
    let connect = match database {
        Database::Sqlite(path) => Connect::Sqlite(SqliteOptions {
            path: path.clone(),
            busy_timeout: Duration::from_secs(5),
            read_only: false,
        }),
        Database::Postgres(url) => {
            let options = sql::postgres_options(url.as_str(), TRANSFER_LIMIT);
            let options =
                options.map_err(|source| OpenError::Store { database: database.to_string(), source })?;
            Connect::Postgres(Box::new(options), TRANSFER_LIMIT)
        }
    };
    let failed = |source| OpenError::Store { database: database.to_string(), source };
    let mut connection = connect.open().await.map_err(failed)?;
    schema::migrate(&mut connection).await.map_err(|error| error.of(database))?;
    Ok(connection)
}

/// Writes what a snapshot sees into a new file of mode 0600.
async fn copy_into_file(mut snapshot: Connection, path: &Path) -> Result<(), StoreError> {
    let io = |error: io::Error| StoreError::Io(format!("{}: {error}", path.display()).into());
    let name =
        path.to_str().ok_or_else(|| StoreError::value("path", format!("{} is not UTF-8", path.display())))?;
    // SQLite takes an empty file for none, and leaves its mode as it is.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
    if let Connection::SqliteSnapshot(lease) = snapshot {
        return lease.copy_to(name.to_owned()).await;
    }
    let options =
        SqliteOptions { path: path.to_owned(), busy_timeout: Duration::from_secs(5), read_only: false };
    let mut copy = Connection::Sqlite(SqliteConnection::open(&options)?);
    schema::migrate(&mut copy).await.map_err(|error| match error {
        SchemaError::Store(error) => error,
        SchemaError::Newer { .. } | SchemaError::Foreign => {
            StoreError::row("a new file has a schema already")
        }
    })?;
    tables::copy(&mut snapshot, &mut copy, |_, _| {}).await?;
    // One file, without a log beside it.
    copy.batch("PRAGMA journal_mode = DELETE").await?;
    copy.close().await
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
