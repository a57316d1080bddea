//! The schema's version: `PRAGMA user_version`, moved by the embedded migrations, one transaction each.

use sqlx::{Connection, SqliteConnection};

use crate::StoreError;

/// In the order in which they are applied; never edited once released, only added to.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_first.sql"),
    include_str!("../migrations/0002_zone_suffixes.sql"),
    include_str!("../migrations/0003_enrolments.sql"),
    include_str!("../migrations/0004_audit_size.sql"),
    include_str!("../migrations/0005_keys.sql"),
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

impl From<StoreError> for SchemaError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<sqlx::Error> for SchemaError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Brings an empty or older file up to date.
pub(crate) async fn migrate(connection: &mut SqliteConnection) -> Result<(), SchemaError> {
    let application: i32 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await?;
    let found: u32 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await?;
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await?;
    let empty = application == 0 && found == 0 && tables == 0;
    if application != APPLICATION_ID && !empty {
        return Err(SchemaError::Foreign);
    }
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    if found > known {
        return Err(SchemaError::Newer { found, known });
    }
    for (version, migration) in (1_u32..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
        let mut step = connection.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql(*migration).execute(&mut *step).await?;
        // Pragmas take no parameters; both are numbers of our own.
        let marks = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(marks)).execute(&mut *step).await?;
        step.commit().await?;
    }
    Ok(())
}
