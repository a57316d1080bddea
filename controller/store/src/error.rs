//! What can go wrong with the database itself, told apart by what an operator has to do.

use std::sync::Arc;

use hosting_intent_sync::SourceError;
use hosting_planner::{ApplyError, WorldError};

/// The database failed. Cloneable, because one failed commit is the answer to many mutations.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No room for another page. Nothing was written; a retry helps once there is room.
    #[error("the disk that holds the store is full; free some space there, then retry")]
    DiskFull,
    /// The file is not what SQLite wrote.
    #[error("the store's file is damaged ({0}); stop the controller and put back a backup")]
    Corrupt(Arc<str>),
    /// Another process holds the database's lock, or every reader is in use. A retry helps.
    #[error("the store is busy ({0}); retry")]
    Busy(Arc<str>),
    /// The files cannot be read or written.
    #[error(
        "the store's files cannot be read or written ({0}); look at the disk and the file's owner and mode"
    )]
    Io(Arc<str>),
    /// The store was closed, or its writer ended.
    #[error("the store is closed")]
    Closed,
    /// A row that this build did not write, or a newer one did.
    #[error("the store has a row that this build cannot read: {0}")]
    Row(Arc<str>),
    /// A value that does not fit the store.
    #[error("{field}: {problem}")]
    Value {
        /// What was to be written.
        field: &'static str,
        /// Why it cannot be.
        problem: Arc<str>,
    },
    /// Anything else that SQLite or its driver says.
    #[error("the store failed: {0}")]
    Sql(Arc<str>),
}

impl StoreError {
    pub(crate) fn row(problem: impl Into<Arc<str>>) -> Self {
        Self::Row(problem.into())
    }

    pub(crate) fn value(field: &'static str, problem: impl Into<Arc<str>>) -> Self {
        Self::Value { field, problem: problem.into() }
    }

    /// Whether the same call may succeed later without anybody changing it.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::DiskFull | Self::Busy(_) | Self::Io(_) => true,
            Self::Corrupt(_) | Self::Closed | Self::Row(_) | Self::Value { .. } | Self::Sql(_) => false,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the driver's enum grows; what is not told apart is shown as it is"
    )]
    fn from(error: sqlx::Error) -> Self {
        let text: Arc<str> = error.to_string().into();
        if let sqlx::Error::Database(database) = &error {
            // The low byte is the primary code: https://www.sqlite.org/rescode.html
            let code = database.code().and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff);
            return match code {
                Some(13) => Self::DiskFull,
                Some(11 | 26) => Self::Corrupt(text),
                Some(5 | 6) => Self::Busy(text),
                Some(3 | 8 | 10 | 14) => Self::Io(text),
                _ => Self::Sql(text),
            };
        }
        match error {
            sqlx::Error::PoolTimedOut => Self::Busy("all readers are in use".into()),
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => Self::Closed,
            sqlx::Error::Io(_) => Self::Io(text),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Self::Row(text),
            _ => Self::Sql(text),
        }
    }
}

impl From<StoreError> for WorldError {
    fn from(error: StoreError) -> Self {
        Self(Box::new(error))
    }
}

/// The store's own error comes out of planning's reads as a boxed one.
impl From<WorldError> for StoreError {
    fn from(error: WorldError) -> Self {
        match error.0.downcast::<Self>() {
            Ok(error) => *error,
            Err(other) => Self::Sql(other.to_string().into()),
        }
    }
}

impl From<StoreError> for ApplyError {
    fn from(error: StoreError) -> Self {
        Self::World(error.into())
    }
}

impl From<StoreError> for SourceError {
    fn from(error: StoreError) -> Self {
        Self(Box::new(error))
    }
}

/// For a column or parameter: SQLite's integers are signed.
pub(crate) fn to_sql(field: &'static str, number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::value(field, format!("{number} is beyond 2^63-1")))
}

/// A parameter that is only compared: beyond 2^63-1 nothing is stored.
pub(crate) fn to_bound(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn from_sql(field: &'static str, number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::row(format!("{field} is {number}")))
}
