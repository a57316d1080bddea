//! Where a test's store is: in a file of SQLite, or in a database of a PostgreSQL server that the test started.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses a part of it; helpers are not recognised as tests"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hosting_local_postgres::{Running, Server};
use hosting_store::Database;
use tempfile::TempDir;

/// Which database a test is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
}

/// A PostgreSQL server, ended with its last user.
#[derive(Clone)]
pub(crate) struct Postgres {
    running: Arc<Running>,
    _folder: Arc<TempDir>,
    drawn: Arc<AtomicU64>,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        // A thousand small files for each test: a disk's file system is slow at them, and nothing here outlives the machine.
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory } else { Path::new("/tmp") };
        let folder = tempfile::Builder::new().prefix("hosting-pg-").tempdir_in(place).unwrap();
        // The server's user goes through it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        // `./test` installs the server: a test without one has not passed.
        let server = Server::in_folder(&folder.path().join("server"), false).unwrap();
        server.prepare_from(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("postgres")).unwrap();
        let running = server.start().unwrap();
        Self { running: Arc::new(running), _folder: Arc::new(folder), drawn: Arc::default() }
    }

    /// A database of its own. The first is the one that every server has, which takes no time to make.
    pub(crate) fn database(&self) -> Database {
        let name = Self::name(self.drawn.fetch_add(1, Ordering::Relaxed));
        self.running.server().create_database(&name).unwrap();
        self.running.server().url(&name).parse().unwrap()
    }

    fn name(drawn: u64) -> String {
        match drawn {
            0 => "postgres".to_owned(),
            _ => format!("cell{drawn}"),
        }
    }

    /// Where the server listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.running.server().socket()
    }
}

/// A folder, and the database that a store in it is in.
pub(crate) struct Place {
    pub(crate) database: Database,
    postgres: Option<Postgres>,
    pub(crate) folder: TempDir,
}

impl Place {
    pub(crate) fn new(backend: Backend) -> Self {
        match backend {
            Backend::Sqlite => Self::in_file(),
            Backend::Postgres => Self::on(&Postgres::start()),
        }
    }

    fn in_file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { database: Database::Sqlite(folder.path().join("store.db")), postgres: None, folder }
    }

    pub(crate) fn on(postgres: &Postgres) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { database: postgres.database(), postgres: Some(postgres.clone()), folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The database's planner learns what is stored by now.
    pub(crate) fn analyze(&self) {
        if let Some(postgres) = &self.postgres {
            for n in 0..postgres.drawn.load(Ordering::Relaxed) {
                postgres.running.server().analyze(&Postgres::name(n)).unwrap();
            }
        }
    }

    /// The key file.
    pub(crate) fn kek(&self) -> PathBuf {
        self.folder.path().join("kek")
    }

    /// Another database beside the first, without a store.
    pub(crate) fn another(&self) -> Database {
        match &self.postgres {
            Some(postgres) => postgres.database(),
            None => {
                let drawn = fs::read_dir(self.path()).unwrap().count();
                Database::Sqlite(self.path().join(format!("another-{drawn}.db")))
            }
        }
    }
}
