//! What reads cost, counted where somebody asks for it: tests that hold it to a bound, and benchmarks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::StoreError;
use crate::sql::{Connection, Dialect, query};

/// Counts what the snapshots of a store read; give it to a [`crate::StoreConfig`]. Cheap to clone. On PostgreSQL a metered statement
/// costs another one.
#[derive(Debug, Clone, Default)]
pub struct ReadMeter(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    statements: AtomicU64,
    work: AtomicU64,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// Statements.
    pub statements: u64,
    /// Rows that PostgreSQL fetched, or steps of SQLite's virtual machine: some for each row that is looked at.
    pub work: u64,
}

impl ReadMeter {
    /// All that was read since the last call.
    #[must_use]
    pub fn take(&self) -> Reading {
        let Counted { statements, work } = &*self.0;
        Reading { statements: statements.swap(0, Ordering::Relaxed), work: work.swap(0, Ordering::Relaxed) }
    }

    fn add(&self, work: u64) {
        self.0.statements.fetch_add(1, Ordering::Relaxed);
        self.0.work.fetch_add(work, Ordering::Relaxed);
    }
}

/// The meter of one snapshot.
pub(crate) struct Metered {
    meter: ReadMeter,
    /// What the connection has done so far.
    done: u64,
}

impl Metered {
    pub(crate) async fn begin(meter: &ReadMeter, connection: &mut Connection) -> Result<Self, StoreError> {
        Ok(Self { meter: meter.clone(), done: work(connection).await? })
    }

    /// A statement was answered.
    pub(crate) async fn note(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        let done = work(connection).await?;
        self.meter.add(done.saturating_sub(self.done));
        self.done = done;
        Ok(())
    }
}

/// What a connection has done: since it was opened, or in its transaction.
async fn work(connection: &mut Connection) -> Result<u64, StoreError> {
    match connection.dialect() {
        Dialect::Sqlite => Ok(connection.steps()),
        Dialect::Postgres => {
            let fetched = query(
                "SELECT CAST(coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0) AS BIGINT) \
                 FROM pg_stat_xact_user_tables",
            );
            let rows = connection.rows(fetched).await?;
            let fetched: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
            crate::error::from_sql("tuples", fetched)
        }
    }
}
