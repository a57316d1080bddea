//! The schema's version, moved by the embedded migrations, one transaction each.
//!
//! SQLite keeps it in `PRAGMA user_version`, PostgreSQL in a table of its own. The databases differ in the words of their schema alone:
//! tables and columns are the same, which [`crate::tables`] and its test see to.

use crate::sql::{self, Connection, Dialect};
use crate::{Database, OpenError, StoreError, search};

/// A step of the schema.
struct Migration {
    sqlite: &'static str,
    /// Empty for what was before there was a store on PostgreSQL: [`POSTGRES_BEGINS`] has all of it.
    postgres: &'static str,
    /// Rows that follow from others by rules of ours are made by these.
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    /// [`search::index_all`].
    Search,
}

impl Migration {
    const fn of(sqlite: &'static str, postgres: &'static str) -> Self {
        Self { sqlite, postgres, then: Then::Nothing }
    }

    async fn then(&self, connection: &mut Connection) -> Result<(), StoreError> {
        match self.then {
            Then::Nothing => Ok(()),
            Then::Search => search::index_all(connection).await,
        }
    }
}

/// The migration that is PostgreSQL's first.
const POSTGRES_BEGINS: u32 = 5;

/// In the order in which they are applied; never edited once released, only added to.
const MIGRATIONS: &[Migration] = &[
    Migration::of(include_str!("../migrations/0001_first.sql"), ""),
    Migration::of(include_str!("../migrations/0002_zone_suffixes.sql"), ""),
    Migration::of(include_str!("../migrations/0003_enrolments.sql"), ""),
    Migration::of(include_str!("../migrations/0004_audit_size.sql"), ""),
    Migration::of(
        include_str!("../migrations/0005_two_databases.sql"),
        include_str!("../migrations/postgres/0005_first.sql"),
    ),
    Migration::of(
        include_str!("../migrations/0006_several_controllers.sql"),
        include_str!("../migrations/postgres/0006_several_controllers.sql"),
    ),
    Migration::of(
        include_str!("../migrations/0007_jobs.sql"),
        include_str!("../migrations/postgres/0007_jobs.sql"),
    ),
    Migration::of(
        include_str!("../migrations/0008_keys.sql"),
        include_str!("../migrations/postgres/0008_keys.sql"),
    ),
    Migration::of(
        include_str!("../migrations/0009_log_length.sql"),
        include_str!("../migrations/postgres/0009_log_length.sql"),
    ),
    Migration {
        sqlite: include_str!("../migrations/0010_costs.sql"),
        postgres: include_str!("../migrations/postgres/0010_costs.sql"),
        then: Then::Search,
    },
    Migration::of(
        include_str!("../migrations/0011_replies.sql"),
        include_str!("../migrations/postgres/0011_replies.sql"),
    ),
    Migration::of(
        include_str!("../migrations/0012_replies_within_bounds.sql"),
        include_str!("../migrations/postgres/0012_replies_within_bounds.sql"),
    ),
    Migration::of(
        include_str!("../migrations/0013_served.sql"),
        include_str!("../migrations/postgres/0013_served.sql"),
    ),
    Migration::of(
        include_str!("../migrations/0014_history.sql"),
        include_str!("../migrations/postgres/0014_history.sql"),
    ),
    Migration::of(
        include_str!("../migrations/0015_quota_usage.sql"),
        include_str!("../migrations/postgres/0015_quota_usage.sql"),
    ),
    Migration::of(
        include_str!("../migrations/0016_operations.sql"),
        include_str!("../migrations/postgres/0016_operations.sql"),
    ),
    Migration::of(
        include_str!("../migrations/0017_audit_chain.sql"),
        include_str!("../migrations/postgres/0017_audit_chain.sql"),
    ),
    Migration::of(
        include_str!("../migrations/0018_key_uses.sql"),
        include_str!("../migrations/postgres/0018_key_uses.sql"),
    ),
    Migration::of(
        include_str!("../migrations/0019_rollouts.sql"),
        include_str!("../migrations/postgres/0019_rollouts.sql"),
    ),
    Migration::of(
        include_str!("../migrations/0020_webhooks.sql"),
        include_str!("../migrations/postgres/0020_webhooks.sql"),
    ),
    Migration::of(
        include_str!("../migrations/0021_audit_heads.sql"),
        include_str!("../migrations/postgres/0021_audit_heads.sql"),
    ),
    Migration::of(
        include_str!("../migrations/0022_places.sql"),
        include_str!("../migrations/postgres/0022_places.sql"),
    ),
    Migration::of(
        include_str!("../migrations/0023_traffic.sql"),
        include_str!("../migrations/postgres/0023_traffic.sql"),
    ),
];

/// `PRAGMA application_id` of our files: "hstr".
const APPLICATION_ID: i32 = i32::from_be_bytes(*b"hstr");

/// Why the schema cannot be used.
#[derive(Debug)]
pub(crate) enum SchemaError {
    /// Written by a newer build.
    Newer {
        found: u32,
        known: u32,
    },
    /// Some other program's database.
    Foreign,
    Store(StoreError),
}

impl SchemaError {
    /// What is said of it when that database is opened.
    pub(crate) fn of(self, database: &Database) -> OpenError {
        let database = database.to_string();
        match self {
            Self::Newer { found, known } => OpenError::NewerSchema { database, found, known },
            Self::Foreign => OpenError::Foreign(database),
            Self::Store(source) => OpenError::Store { database, source },
        }
    }
}

impl From<StoreError> for SchemaError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Brings an empty or older database up to date.
pub(crate) async fn migrate(connection: &mut Connection) -> Result<(), SchemaError> {
    let found = match connection.dialect() {
        Dialect::Sqlite => sqlite_version(connection).await?,
        Dialect::Postgres => postgres_version(connection).await?,
    };
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    if found > known {
        return Err(SchemaError::Newer { found, known });
    }
    for (version, migration) in (1_u32..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
        match connection.dialect() {
            Dialect::Sqlite => {
                connection.batch("BEGIN IMMEDIATE").await?;
                connection.batch(migration.sqlite).await?;
                migration.then(connection).await?;
                // Pragmas take no parameters; both are numbers of our own.
                let marks =
                    format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version}");
                connection.batch(&marks).await?;
                connection.batch("COMMIT").await?;
            }
            Dialect::Postgres if version < POSTGRES_BEGINS => {}
            Dialect::Postgres => postgres_step(connection, version, migration).await?,
        }
    }
    Ok(())
}

async fn number(connection: &mut Connection, text: &'static str) -> Result<i64, StoreError> {
    let rows = connection.rows(sql::query(text)).await?;
    rows.first().map_or(Ok(0), |row| row.try_get(0))
}

async fn sqlite_version(connection: &mut Connection) -> Result<u32, SchemaError> {
    let application = number(connection, "PRAGMA application_id").await?;
    let found = number(connection, "PRAGMA user_version").await?;
    let tables = number(connection, "SELECT count(*) FROM sqlite_schema").await?;
    let empty = application == 0 && found == 0 && tables == 0;
    if application != i64::from(APPLICATION_ID) && !empty {
        return Err(SchemaError::Foreign);
    }
    u32::try_from(found).map_err(|_| SchemaError::Foreign)
}

/// A schema of PostgreSQL is ours when it has our version table, or nothing at all.
async fn postgres_version(connection: &mut Connection) -> Result<u32, SchemaError> {
    let table = number(
        connection,
        "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'hosting_schema'",
    );
    if table.await? == 0 {
        let tables = number(connection, "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()");
        return if tables.await? == 0 { Ok(0) } else { Err(SchemaError::Foreign) };
    }
    let found = number(connection, "SELECT version FROM hosting_schema").await?;
    u32::try_from(found).map_err(|_| SchemaError::Foreign)
}

/// One step in a transaction. Of several controllers that start at once one makes it, and the others find it made.
async fn postgres_step(
    connection: &mut Connection,
    version: u32,
    step: &Migration,
) -> Result<(), StoreError> {
    connection.batch("BEGIN").await?;
    let lock = format!("SELECT pg_advisory_xact_lock({APPLICATION_ID})");
    connection.batch(&lock).await?;
    connection
        .batch("CREATE TABLE IF NOT EXISTS hosting_schema (id BIGINT PRIMARY KEY CHECK (id = 1), version BIGINT NOT NULL)")
        .await?;
    if number(connection, "SELECT version FROM hosting_schema").await? < i64::from(version) {
        connection.batch(step.postgres).await?;
        step.then(connection).await?;
        let mark = sql::query(
            "INSERT INTO hosting_schema (id, version) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET version = excluded.version",
        );
        connection.execute(mark.bind(version)).await?;
    }
    connection.batch("COMMIT").await
}
