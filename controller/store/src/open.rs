//! Opening: files and their modes, the lock against a second controller, connections, the head row.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use crate::commit_log::CommitLog;
use crate::keyring::{self, SharedKek};
use crate::schema;
use crate::sql::{self, Connection, SqliteOptions, SqliteReaders};
use crate::write_tx::{IndexFn, new_epoch};
use crate::writer::{self, Connect};
use crate::{Database, Inner, Kek, ReadMeter, Store, StoreError};

/// How to open a store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Where the rows are.
    pub database: Database,
    /// Index rows of a resource; tests give their own.
    pub index: IndexFn,
    /// The cell's id, `[a-z0-9-]{1,32}`. `None`: the stored one, or a new one for a new store.
    pub cell: Option<String>,
    /// Read connections. 1–64.
    pub readers: u32,
    /// How long to wait for another process's lock, or for a free reader.
    pub busy_timeout: Duration,
    /// A mutation that takes longer is rolled back: all others wait behind it.
    pub mutation_timeout: Duration,
    /// The audit log's largest size in bytes: beyond it the oldest rows go.
    pub audit_bytes: u64,
    /// Answers that are kept of one API key for those who ask again; the oldest goes for the next.
    pub replies_per_key: u64,
    /// Milliseconds since the Unix epoch.
    pub clock: fn() -> i64,
    /// Counts what is read, if somebody wants to know.
    pub meter: Option<ReadMeter>,
}

impl StoreConfig {
    /// The defaults for a SQLite file.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::of(Database::Sqlite(path.into()))
    }

    /// The defaults for a database.
    #[must_use]
    pub fn of(database: Database) -> Self {
        Self {
            database,
            index: hosting_resource::Resource::index,
            cell: None,
            readers: 8,
            busy_timeout: Duration::from_secs(5),
            mutation_timeout: Duration::from_secs(10),
            audit_bytes: 1 << 30,
            replies_per_key: 100_000,
            clock: wall_clock,
            meter: None,
        }
    }
}

fn wall_clock() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another controller has it open.
    #[error(
        "{path} is in use by another controller{holder}; stop that one first, or give this one its own data folder"
    )]
    InUse {
        /// The database file.
        path: PathBuf,
        /// ` (process 1234)`, or empty when the other one did not say.
        holder: String,
    },
    /// A newer build has migrated the file.
    #[error(
        "{database} has schema version {found}, this build knows versions up to {known}; start a newer controller, or put back a backup from before the upgrade"
    )]
    NewerSchema {
        /// Which database.
        database: String,
        /// Its version.
        found: u32,
        /// The newest one that this build knows.
        known: u32,
    },
    /// A database, but not ours.
    #[error("{0} is not a controller's store; give another one")]
    Foreign(String),
    /// A store would be written where there is one.
    #[error("{0} has a store already; give a database without one")]
    NotEmpty(String),
    /// The secrets in it are sealed by another key.
    #[error(
        "{database} is sealed by key {expected}, the key file holds {found}; put back the key file that belongs to it"
    )]
    WrongKek {
        /// Which database.
        database: String,
        /// Id of the key that belongs to the store.
        expected: String,
        /// Id of the key that was given.
        found: String,
    },
    /// The configured cell is not the stored one.
    #[error(
        "{database} belongs to cell {stored:?}, the configuration says {configured:?}; correct the cell or the database"
    )]
    WrongCell {
        /// Which database.
        database: String,
        /// What the store says.
        stored: String,
        /// What the configuration says.
        configured: String,
    },
    /// A setting is out of range.
    #[error("{field}: {problem}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A file or folder cannot be made or opened.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The database itself.
    #[error("{database}: {source}")]
    Store {
        /// Which database.
        database: String,
        /// What is wrong: full disk and damaged file are told apart.
        source: StoreError,
    },
}

impl Store {
    /// Opens the store, making it if there is none. Must be called within a Tokio runtime: the writer runs on it.
    ///
    /// # Errors
    /// See [`OpenError`]; each message says what to do.
    pub async fn open(config: &StoreConfig, kek: Kek) -> Result<Self, OpenError> {
        check(config)?;
        let store =
            |error: StoreError| OpenError::Store { database: config.database.to_string(), source: error };
        let (lock, connect) = match &config.database {
            Database::Sqlite(path) => {
                make_folder(path)?;
                let lock = lock(path)?;
                (Some(lock), Connect::Sqlite(sqlite_options(path, config)))
            }
            Database::Postgres(url) => {
                let options = sql::postgres_options(url.as_str(), config.mutation_timeout).map_err(store)?;
                (None, Connect::Postgres(Box::new(options), config.mutation_timeout + sql::WAY))
            }
        };
        let mut connection = connect.open_patiently().await.map_err(store)?;
        schema::migrate(&mut connection).await.map_err(|error| error.of(&config.database))?;
        if let Connect::Postgres(..) = &connect {
            connection.close().await.map_err(store)?;
            connection = connect.open().await.map_err(store)?;
        }
        let head = read_head(&mut connection, config, &kek).await.map_err(store)?;
        if let Some(expected) = keyring::missing_key(&mut connection, &kek).await.map_err(store)? {
            return Err(OpenError::WrongKek {
                database: config.database.to_string(),
                expected,
                found: kek.id().to_owned(),
            });
        }
        if let Some(configured) = config.cell.as_ref().filter(|cell| **cell != head.cell) {
            return Err(OpenError::WrongCell {
                database: config.database.to_string(),
                stored: head.cell,
                configured: configured.clone(),
            });
        }

        let root = keyring::derivation_root(&mut connection, &kek, &head.kek_id, head.is_new)
            .await
            .map_err(store)?;

        let readers = match &connect {
            Connect::Sqlite(options) => sql::Readers::Sqlite(
                SqliteReaders::open(options, config.readers, config.busy_timeout).map_err(store)?,
            ),
            Connect::Postgres(options, limit) => sql::Readers::Postgres(
                sql::postgres_pool(options, config.readers, config.busy_timeout),
                *limit,
            ),
        };
        let controller = uuid::Uuid::new_v4().simple().to_string();
        let log = match config.database {
            Database::Sqlite(_) => None,
            // Before the head is read that callers begin from.
            Database::Postgres(_) => {
                Some(CommitLog::begin(&mut connection, controller.clone()).await.map_err(store)?)
            }
        };
        let head = read_head(&mut connection, config, &kek).await.map_err(store)?;
        let keys = SharedKek::new(kek);
        let rolls_out = Arc::new(AtomicBool::new(false));
        let (ring, doorbell) = watch::channel(head.revision);
        // A reader that is further behind takes everything for touched, so the size bounds memory and nothing else.
        let (commits, _) = broadcast::channel(1024);
        let writer = writer::start(writer::Setup {
            connection,
            connect,
            index: config.index,
            clock: config.clock,
            mutation_timeout: config.mutation_timeout,
            cell: head.cell.clone(),
            audit_bytes: config.audit_bytes,
            replies_per_key: config.replies_per_key,
            keys: keys.clone(),
            rolls_out: Arc::clone(&rolls_out),
            ring,
            commits: commits.clone(),
            lock,
            log,
            controller: controller.clone(),
        })
        .map_err(|error| store(StoreError::Io(error.to_string().into())))?;
        Ok(Self(Arc::new(Inner {
            cell: head.cell,
            controller,
            keys,
            rolls_out,
            root,
            clock: config.clock,
            database: config.database.clone(),
            meter: config.meter.clone(),
            readers,
            writer,
            head: doorbell,
            commits,
        })))
    }
}

fn check(config: &StoreConfig) -> Result<(), OpenError> {
    if !(1..=64).contains(&config.readers) {
        let problem = format!("{} read connections; 1 to 64 are allowed", config.readers);
        return Err(OpenError::Config { field: "readers", problem });
    }
    if let Some(cell) = &config.cell {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if cell.is_empty() || cell.len() > 32 || !cell.bytes().all(good) {
            let problem = format!("{cell:?} is not 1 to 32 characters of a-z, 0-9 and '-'");
            return Err(OpenError::Config { field: "cell", problem });
        }
    }
    Ok(())
}

fn sqlite_options(path: &Path, config: &StoreConfig) -> SqliteOptions {
    SqliteOptions { path: path.to_owned(), busy_timeout: config.busy_timeout, read_only: false }
}

struct Head {
    cell: String,
    revision: u64,
    kek_id: String,
    /// This call made it.
    is_new: bool,
}

async fn read_head(connection: &mut Connection, config: &StoreConfig, kek: &Kek) -> Result<Head, StoreError> {
    let cell = config.cell.clone().unwrap_or_else(|| {
        let drawn = uuid::Uuid::new_v4().simple().to_string();
        drawn.chars().take(8).collect()
    });
    let query = sql::query(
        "INSERT INTO head (id, cell, epoch, revision, kek_id) VALUES (1, ?, ?, 0, ?) ON CONFLICT (id) DO NOTHING",
    );
    let made = connection.execute(query.bind(&cell).bind(new_epoch(&cell)).bind(kek.id())).await?;
    let rows = connection.rows(sql::query("SELECT cell, revision, kek_id FROM head WHERE id = 1")).await?;
    let row = rows.first().ok_or_else(|| StoreError::row("there is no head row"))?;
    Ok(Head {
        cell: row.try_get(0)?,
        revision: crate::error::from_sql("head.revision", row.try_get(1)?)?,
        kek_id: row.try_get(2)?,
        is_new: made > 0,
    })
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> OpenError + '_ {
    move |source| OpenError::File { path: path.to_owned(), source }
}

/// Makes the folder for us alone. One that exists keeps its mode: it may hold more than the store.
fn make_folder(path: &Path) -> Result<(), OpenError> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(file_error(folder))?;
    let mode = fs::metadata(folder).map_err(file_error(folder))?.mode();
    if mode & 0o077 != 0 {
        tracing::warn!(folder = %folder.display(), mode = format!("{:o}", mode & 0o7777),
            "the store's folder is open to others; chmod 700 it");
    }
    Ok(())
}

/// The database file itself, locked: nothing else that somebody might tidy away tells two controllers apart. Held as long as
/// anything may write, and until SQLite has closed the file: closing a second handle drops SQLite's own locks.
///
/// Makes the file if there is none. SQLite gives `-wal` and `-shm` its mode.
pub(crate) fn lock(path: &Path) -> Result<File, OpenError> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(file_error(path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder_of(&file).map(|pid| format!(" (process {pid})")).unwrap_or_default();
                return Err(OpenError::InUse { path: path.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => {
                return Err(OpenError::File { path: path.to_owned(), source });
            }
        }
        let locked = file.metadata().map_err(file_error(path))?;
        // A copy may have been put in its place meanwhile: then the lock is on what nobody opens any more.
        if fs::metadata(path).is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino())) {
            file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(file_error(path))?;
            return Ok(file);
        }
    }
}

/// The process that holds the lock on a file, as the kernel lists it; only for the message.
fn holder_of(file: &File) -> Option<u32> {
    let inode = file.metadata().ok()?.ino().to_string();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (kind, pid, at) = (words.next()?, words.nth(2)?, words.next()?);
        let same = kind == "FLOCK" && at.rsplit(':').next() == Some(inode.as_str());
        pid.parse().ok().filter(|_| same)
    })
}
