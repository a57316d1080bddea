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
    /// The database is not what was written to it.
    #[error("the store is damaged ({0}); stop the controller and put back a backup")]
    Corrupt(Arc<str>),
    /// Another process holds the database's lock, or every reader is in use. A retry helps.
    #[error("the store is busy ({0}); retry")]
    Busy(Arc<str>),
    /// The files cannot be read or written.
    #[error(
        "the store's files cannot be read or written ({0}); look at the disk and the file's owner and mode"
    )]
    Io(Arc<str>),
    /// Another controller does by now what this one was to do alone.
    #[error("another controller has taken this over")]
    LostLease,
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
    /// Anything else that the database or its driver says.
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
            Self::Corrupt(_)
            | Self::LostLease
            | Self::Closed
            | Self::Row(_)
            | Self::Value { .. }
            | Self::Sql(_) => false,
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

/// For a column or parameter: both databases' integers are signed.
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
