//! Resources that jobs wait for. Whoever sees a resource settle says so here; a job whose resources have all settled, or of which one
//! has failed, is due at once.

use hosting_planner::Draft;
use hosting_resource::Status;

use super::JobState;
use crate::sql::{self, QueryBuilder};
use crate::{ReadTx, StoreError, WriteTx, batch};

/// A resource that a job waits for, or one that has settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobWait {
    /// Its id.
    pub resource: String,
    /// How it settled: a status, or `deleted`; `None` while it has not.
    pub status: Option<String>,
    /// Why it failed.
    pub message: Option<String>,
}

impl ReadTx {
    /// What a job waits for, in the byte order of ids.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn job_waits(&mut self, job: &str) -> Result<Vec<JobWait>, StoreError> {
        let query = sql::query("SELECT resource, status, message FROM job_waits WHERE job = ?").bind(job);
        let mut waits = Vec::new();
        for row in self.all(query).await? {
            waits.push(JobWait {
                resource: row.try_get(0)?,
                status: row.try_get(1)?,
                message: row.try_get(2)?,
            });
        }
        waits.sort_unstable_by(|a, b| a.resource.cmp(&b.resource));
        Ok(waits)
    }

    /// Resources above `after` that jobs wait for and that have not settled, in ascending order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn awaited_resources(&mut self, after: &str, limit: u32) -> Result<Vec<String>, StoreError> {
        let query = sql::query(
            "SELECT DISTINCT resource FROM job_waits WHERE status IS NULL AND resource > ? ORDER BY resource LIMIT ?",
        );
        let rows = self.all(query.bind(after).bind(i64::from(limit))).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }

    /// Those of `ids` that jobs wait for and that have not settled.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn awaited_among(&mut self, ids: &[String]) -> Result<Vec<String>, StoreError> {
        let mut found = Vec::new();
        for ids in batch::chunks(ids) {
            let mut sql = QueryBuilder::new(
                "SELECT DISTINCT resource FROM job_waits WHERE status IS NULL AND resource IN ",
            );
            batch::list(&mut sql, ids);
            for row in self.all(sql.build()).await? {
                found.push(row.try_get(0)?);
            }
        }
        Ok(found)
    }
}

impl WriteTx {
    pub(super) async fn add_job_waits(&mut self, job: &str, resources: &[String]) -> Result<(), StoreError> {
        batch::insert(
            self.beside(),
            "INSERT INTO job_waits (job, resource)",
            "ON CONFLICT (job, resource) DO NOTHING",
            resources,
            |row, resource| {
                row.push_bind(job.to_owned()).push_bind(resource.clone());
            },
        )
        .await?;
        // The gatekeeper looks at them, though their documents may not have changed.
        self.concerns(resources);
        Ok(())
    }

    /// Says how resources settled; how many jobs are due by that. What is said of a resource that nobody waits for is not kept.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn settle_job_waits(&mut self, settled: &[JobWait]) -> Result<u64, StoreError> {
        let mut due = 0;
        let now = Draft::now(self);
        for settled in batch::chunks(settled) {
            let ids: Vec<String> = settled.iter().map(|one| one.resource.clone()).collect();
            let mut sql =
                QueryBuilder::new("SELECT DISTINCT job FROM job_waits WHERE status IS NULL AND resource IN ");
            batch::list(&mut sql, &ids);
            let mut jobs = Vec::new();
            for row in self.all(sql.build()).await? {
                jobs.push(row.try_get::<String>(0)?);
            }
            if jobs.is_empty() {
                continue;
            }
            for one in settled {
                let query = sql::query(
                    "UPDATE job_waits SET status = ?, message = ? WHERE resource = ? AND status IS NULL",
                );
                let query = query.bind(&one.status).bind(&one.message).bind(&one.resource);
                self.execute(query).await?;
            }
            for jobs in batch::chunks(&jobs) {
                let mut sql = QueryBuilder::new("UPDATE jobs SET due_at = ");
                sql.push_bind(now).push(", next_at = CASE WHEN next_at IS NULL THEN NULL ELSE ");
                sql.push_bind(now).push(" END, set_at = ").push_bind(now);
                sql.push(" WHERE state = ").push_bind(JobState::Waiting.as_str()).push(" AND id IN ");
                batch::list(&mut sql, jobs);
                sql.push(
                    " AND (NOT EXISTS (SELECT 1 FROM job_waits w WHERE w.job = jobs.id AND w.status IS NULL) \
                     OR EXISTS (SELECT 1 FROM job_waits w WHERE w.job = jobs.id AND w.status = ",
                );
                sql.push_bind(Status::Failed.as_str()).push("))");
                due += self.execute(sql.build()).await?;
            }
        }
        Ok(due)
    }
}
