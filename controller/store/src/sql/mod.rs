//! The databases: statements, values and rows in one form, over SQLite or PostgreSQL.
//!
//! A statement is written once, in the words that both understand, with `?` (or `?1`) for its parameters. What only one of them can do is
//! asked for by [`Dialect`]. SQLite is called on the thread that asks: the writer has a thread of its own, readers are called on Tokio's
//! blocking threads. PostgreSQL is spoken to by sqlx.

mod postgres;
mod query;
mod sqlite;
mod value;

use std::time::Duration;

use sqlx::{PgConnection, PgPool, Postgres, Transaction};

pub(crate) use postgres::{
    Link as PostgresLink, WAY, connect as connect_postgres, listen, options as postgres_options,
    place as postgres_place, pool as postgres_pool,
};
pub(crate) use query::{Query, QueryBuilder, Separated, query};
pub(crate) use sqlite::{Connection as SqliteConnection, Lease, Readers as SqliteReaders, SqliteOptions};
pub(crate) use value::{Row, Value};

use crate::StoreError;

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

/// A connection that statements are sent over.
pub(crate) enum Connection {
    /// The writer's: statements run on the calling thread.
    Sqlite(SqliteConnection),
    /// A reader's snapshot: statements run on Tokio's blocking threads.
    SqliteSnapshot(Lease),
    /// The writer's.
    Postgres(PostgresLink<Box<PgConnection>>),
    /// A reader's snapshot.
    PostgresSnapshot(PostgresLink<Transaction<'static, Postgres>>),
}

impl Connection {
    pub(crate) const fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) | Self::SqliteSnapshot(_) => Dialect::Sqlite,
            Self::Postgres(_) | Self::PostgresSnapshot(_) => Dialect::Postgres,
        }
    }

    /// Runs a statement; all rows that it answers.
    pub(crate) async fn rows(&mut self, query: Query) -> Result<Vec<Row>, StoreError> {
        match self {
            Self::Sqlite(connection) => {
                // Nothing else lets the runtime see to its timers while statements answer at once.
                tokio::task::consume_budget().await;
                connection.rows(&query)
            }
            Self::SqliteSnapshot(lease) => lease.rows(query).await,
            Self::Postgres(link) => link.rows(query).await,
            Self::PostgresSnapshot(link) => link.rows(query).await,
        }
    }

    /// Steps of SQLite's virtual machine since the connection was opened; 0 for PostgreSQL.
    pub(crate) fn steps(&self) -> u64 {
        match self {
            Self::Sqlite(connection) => connection.steps(),
            Self::SqliteSnapshot(lease) => lease.steps(),
            Self::Postgres(_) | Self::PostgresSnapshot(_) => 0,
        }
    }

    /// Runs a statement; the number of rows that it changed.
    pub(crate) async fn execute(&mut self, query: Query) -> Result<u64, StoreError> {
        match self {
            Self::Sqlite(connection) => {
                tokio::task::consume_budget().await;
                connection.execute(&query)
            }
            Self::Postgres(link) => link.execute(query).await,
            // Snapshots are for reading.
            Self::SqliteSnapshot(lease) => lease.rows(query).await.map(|_| 0),
            Self::PostgresSnapshot(link) => link.execute(query).await,
        }
    }

    /// Runs a statement without parameters or rows, over and over, e.g. `COMMIT`.
    pub(crate) async fn command(&mut self, text: &'static str) -> Result<(), StoreError> {
        match self.dialect() {
            Dialect::Sqlite => self.execute(query(text)).await.map(drop),
            // The simple protocol takes one round trip, prepared or not.
            Dialect::Postgres => self.batch(text).await,
        }
    }

    /// Runs statements without parameters, separated by semicolons.
    pub(crate) async fn batch(&mut self, text: &str) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(connection) => connection.batch(text),
            Self::SqliteSnapshot(lease) => lease.batch(text.to_owned()).await,
            Self::Postgres(link) => link.batch(text).await,
            Self::PostgresSnapshot(link) => link.batch(text).await,
        }
    }

    /// Closes it in order: SQLite folds its log into the file.
    pub(crate) async fn close(self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(connection) => connection.close(),
            Self::Postgres(link) => Ok(sqlx::Connection::close(*link.into_inner()).await?),
            Self::SqliteSnapshot(_) | Self::PostgresSnapshot(_) => Ok(()),
        }
    }
}

/// Connections for snapshots.
#[derive(Debug, Clone)]
pub(crate) enum Readers {
    Sqlite(SqliteReaders),
    /// And how long a statement may take.
    Postgres(PgPool, Duration),
}

impl Readers {
    /// A connection whose statements all see one state: that of its first read.
    pub(crate) async fn snapshot(&self) -> Result<Connection, StoreError> {
        Ok(match self {
            Self::Sqlite(readers) => Connection::SqliteSnapshot(readers.lease().await?),
            Self::Postgres(pool, limit) => {
                let begin = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
                let begun = tokio::time::timeout(*limit, begin).await;
                let transaction =
                    begun.map_err(|_| StoreError::Io("PostgreSQL does not answer".into()))??;
                Connection::PostgresSnapshot(PostgresLink::new(transaction, *limit))
            }
        })
    }

    /// Waits for those who read, and closes the connections.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(readers) => readers.close().await,
            Self::Postgres(pool, _) => pool.close().await,
        }
    }
}
