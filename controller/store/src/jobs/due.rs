//! What is due, leases, the clock that was put back, the pace of a kind.

use hosting_planner::Draft;

use crate::error::to_sql;
use crate::sql::{self, QueryBuilder};
use crate::{ReadTx, StoreError, WriteTx};

/// Jobs that one transaction sets by the clock anew.
const REBASED_AT_ONCE: i64 = 500;

/// How fast jobs of a kind may begin, over all controllers. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pace {
    /// The time that the last begun job uses up: the theoretical arrival time of the generic cell rate algorithm.
    pub arrival: i64,
    /// No job of the kind begins before.
    pub rest_until: i64,
    /// What the clock said when either was set.
    pub set_at: i64,
}

impl ReadTx {
    /// Ids of jobs of a kind that a runner has to look at by `now`, the one that waits longest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn due_jobs(&mut self, kind: &str, now: i64, limit: u32) -> Result<Vec<String>, StoreError> {
        let query = sql::query(
            "SELECT id FROM jobs WHERE kind = ? AND next_at IS NOT NULL AND next_at <= ? ORDER BY next_at, seq LIMIT ?",
        );
        let rows = self.all(query.bind(kind).bind(now).bind(i64::from(limit))).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }

    /// For each of the kinds that has a job to look at, now or later: when the first one is, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn next_job_times(&mut self, kinds: &[&str]) -> Result<Vec<(String, i64)>, StoreError> {
        if kinds.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = QueryBuilder::new("");
        for (n, kind) in kinds.iter().enumerate() {
            // One look into the index for each kind, however many jobs it has.
            sql.push(if n == 0 { "" } else { " UNION ALL " });
            sql.push("SELECT kind, next_at FROM (SELECT kind, next_at FROM jobs WHERE kind = ");
            sql.push_bind((*kind).to_owned());
            sql.push(" AND next_at IS NOT NULL ORDER BY next_at, seq LIMIT 1) AS first");
        }
        let mut times = Vec::new();
        for row in self.all(sql.build()).await? {
            times.push((row.try_get(0)?, row.try_get(1)?));
        }
        Ok(times)
    }

    /// Whether a job's time was set by a clock that was past `at`, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn is_job_set_after(&mut self, at: i64) -> Result<bool, StoreError> {
        let query = sql::query("SELECT 1 FROM jobs WHERE next_at IS NOT NULL AND set_at > ? LIMIT 1");
        Ok(self.optional(query.bind(at)).await?.is_some())
    }

    /// The pace of a kind; all zero for one that never began a job.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn job_pace(&mut self, kind: &str) -> Result<Pace, StoreError> {
        let query = sql::query("SELECT arrival, rest_until, set_at FROM job_pace WHERE kind = ?").bind(kind);
        let Some(row) = self.optional(query).await? else { return Ok(Pace::default()) };
        Ok(Pace { arrival: row.try_get(0)?, rest_until: row.try_get(1)?, set_at: row.try_get(2)? })
    }
}

impl WriteTx {
    /// Writes the pace of a kind.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put_job_pace(&mut self, kind: &str, pace: Pace) -> Result<(), StoreError> {
        let query = sql::query(
            "INSERT INTO job_pace (kind, arrival, rest_until, set_at) VALUES (?, ?, ?, ?) ON CONFLICT (kind) DO UPDATE \
             SET arrival = excluded.arrival, rest_until = excluded.rest_until, set_at = excluded.set_at",
        );
        self.execute(query.bind(kind).bind(pace.arrival).bind(pace.rest_until).bind(pace.set_at)).await?;
        Ok(())
    }

    /// Lengthens the lease on a job to `until`, milliseconds since the Unix epoch; false when the fence is not `held` any more or the
    /// job has ended.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn renew_job_lease(&mut self, id: &str, held: u64, until: i64) -> Result<bool, StoreError> {
        let query = sql::query(
            "UPDATE jobs SET next_at = ?, set_at = ? WHERE id = ? AND fence = ? AND ended_at IS NULL",
        );
        let query = query.bind(until).bind(Draft::now(self)).bind(id).bind(to_sql("jobs.fence", held)?);
        Ok(self.execute(query).await? > 0)
    }

    /// Sets times by the clock as it is now that were set by one more than `tolerance` milliseconds ahead of it: each job keeps the
    /// delay that was meant. At most 500; how many. Without it, jobs would stand still for as long as the clock was put back.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn rebase_jobs(&mut self, tolerance: i64) -> Result<u64, StoreError> {
        let now = Draft::now(self);
        let query = sql::query(
            "UPDATE jobs SET next_at = ?1 + (next_at - set_at), due_at = ?1 + (due_at - set_at), set_at = ?1 WHERE id IN \
             (SELECT id FROM jobs WHERE next_at IS NOT NULL AND set_at > ?2 ORDER BY set_at, id LIMIT ?3)",
        );
        let query = query.bind(now).bind(now.saturating_add(tolerance)).bind(REBASED_AT_ONCE);
        self.execute(query).await
    }
}
