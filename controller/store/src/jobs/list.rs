//! Pages of jobs for the API, the newest first.

use super::{JOB, Job, JobState, job};
use crate::error::to_bound;
use crate::sql::QueryBuilder;
use crate::{ReadTx, StoreError, batch};

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobQuery {
    /// Exactly this kind.
    pub kind: Option<String>,
    /// Exactly this state.
    pub state: Option<JobState>,
    /// Exactly this subject.
    pub subject: Option<String>,
    /// What the caller may see: jobs of these brands. `None` sees all, those without a brand too.
    pub brands: Option<Vec<String>>,
    /// Older than the job with this number.
    pub before: Option<u64>,
    /// At most this many, 1–1000; 0 for 50.
    pub limit: u32,
}

/// One page of jobs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JobPage {
    /// The newest first.
    pub jobs: Vec<Job>,
    /// The [`JobQuery::before`] of the next page; `None` on the last one.
    pub next: Option<u64>,
}

impl ReadTx {
    /// One page of jobs with their steps. A job that is tried again by hand comes to be the newest.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn job_page(&mut self, list: &JobQuery) -> Result<JobPage, StoreError> {
        let limit = if list.limit == 0 { 50 } else { list.limit.min(1_000) };
        let rows = self.all(build(list, limit).build()).await?;
        let mut jobs: Vec<Job> = rows.iter().map(job).collect::<Result<_, _>>()?;
        let more = jobs.len() > limit as usize;
        jobs.truncate(limit as usize);
        let next = jobs.last().filter(|_| more).map(|last| last.seq);
        self.add_steps(&mut jobs).await?;
        Ok(JobPage { jobs, next })
    }
}

fn build(list: &JobQuery, limit: u32) -> QueryBuilder {
    let mut sql = QueryBuilder::new("SELECT ");
    sql.push(JOB).push(" FROM jobs WHERE seq < ").push_bind(to_bound(list.before.unwrap_or(u64::MAX)));
    if let Some(kind) = &list.kind {
        sql.push(" AND kind = ").push_bind(kind.clone());
    }
    if let Some(state) = list.state {
        sql.push(" AND state = ").push_bind(state.as_str());
    }
    if let Some(subject) = &list.subject {
        sql.push(" AND subject = ").push_bind(subject.clone());
    }
    if let Some(brands) = &list.brands {
        sql.push(" AND brand IN ");
        batch::list(&mut sql, brands);
    }
    sql.push(" ORDER BY seq DESC LIMIT ").push_bind(i64::from(limit) + 1);
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page must cost the same among a hundred jobs or a million.
    #[tokio::test(flavor = "multi_thread")]
    async fn pages_and_due_jobs_come_from_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let kek = crate::Kek::load_or_create(&folder.path().join("kek")).unwrap();
        let config = crate::StoreConfig::new(folder.path().join("store.db"));
        let store = crate::Store::open(&config, kek).await.unwrap();
        let plan = async |sql: &str| {
            let mut explain = QueryBuilder::new("EXPLAIN QUERY PLAN ");
            explain.push(sql);
            let rows = store.read().await.unwrap().all(explain.build()).await.unwrap();
            let steps = rows.iter().map(|row| row.try_get::<String>(3).unwrap());
            steps.collect::<Vec<_>>().join("; ")
        };
        let text = |text: &str| Some(text.to_owned());
        for (list, index) in [
            (JobQuery::default(), "sqlite_autoindex_jobs_2 (seq<?)"),
            (JobQuery { kind: text("k"), ..JobQuery::default() }, "jobs_by_kind"),
            (JobQuery { state: Some(JobState::Failed), ..JobQuery::default() }, "jobs_by_state"),
            (JobQuery { subject: text("s"), ..JobQuery::default() }, "jobs_by_subject"),
            (JobQuery { brands: Some(vec!["b".into()]), ..JobQuery::default() }, "jobs_by_brand"),
        ] {
            let plan = plan(build(&list, 50).text()).await;
            assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{list:?}: {plan}");
        }
        for (sql, index) in [
            (
                "SELECT id FROM jobs WHERE kind = 'k' AND next_at IS NOT NULL AND next_at <= 5 ORDER BY next_at, seq",
                "jobs_due",
            ),
            (
                "SELECT kind, next_at FROM jobs WHERE kind = 'k' AND next_at IS NOT NULL ORDER BY next_at, seq LIMIT 1",
                "jobs_due",
            ),
            ("SELECT id FROM jobs WHERE next_at IS NOT NULL AND set_at > 5 ORDER BY set_at, id", "jobs_set"),
            ("SELECT id FROM jobs WHERE lane = 'l' AND ended_at IS NULL ORDER BY seq", "jobs_lane"),
            (
                "SELECT id FROM jobs WHERE ended_at IS NOT NULL AND state = 'done' AND ended_at < 5 ORDER BY ended_at, id",
                "jobs_ended",
            ),
            (
                "SELECT DISTINCT job FROM job_waits WHERE status IS NULL AND resource IN ('r')",
                "job_waits_open",
            ),
        ] {
            let plan = plan(sql).await;
            assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
        }
    }
}
