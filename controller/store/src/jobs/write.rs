//! Enqueueing, saving under a fence, ends and lanes, removal.

use hosting_planner::{Draft, Errand};
use serde_json::Value;

use super::{Job, JobState};
use crate::error::{from_sql, to_sql};
use crate::sql;
use crate::{ReadTx, Store, StoreError, WriteTx, batch};

/// Ended jobs that one transaction removes.
const REMOVED_AT_ONCE: i64 = 500;

/// A job to enqueue.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// Name of its kind.
    pub kind: String,
    /// What it is about, e.g. the id of a resource.
    pub subject: String,
    /// Jobs of one lane run one at a time, in order.
    pub lane: String,
    /// Brand whose keys may see it; `None`: platform admins alone.
    pub brand: Option<String>,
    /// The kind's parameters.
    pub params: Value,
    /// It begins no earlier, in milliseconds since the Unix epoch; with `waits`, it begins as soon as these have settled, and at
    /// this time at the latest.
    pub due_at: i64,
    /// It is given up after so many attempts of one step.
    pub attempt_limit: u32,
    /// Ids of resources that it waits for.
    pub waits: Vec<String>,
}

impl WriteTx {
    /// Enqueues a job in this transaction; its id. It belongs to the request behind the mutation: its key and its trace. A mutation
    /// that does nothing else takes no revision.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn enqueue_job(&mut self, new: NewJob) -> Result<String, StoreError> {
        let id = format!("job_{}", uuid::Uuid::new_v4().simple());
        let seq = self.next_job_seq().await?;
        let at_head = !self.beside().is_lane_taken(&new.lane, &id).await?;
        let now = Draft::now(self);
        let next_at = at_head.then_some(new.due_at);
        let (actor, traceparent) = (self.origin().actor.clone(), self.origin().traceparent.clone());
        let query = sql::query(
            "INSERT INTO jobs (id, seq, kind, subject, lane, brand, params, state, due_at, next_at, set_at, attempts, \
             attempt_limit, actor, traceparent, fence, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, 0, ?)",
        )
        .bind(&id)
        .bind(to_sql("jobs.seq", seq)?)
        .bind(&new.kind)
        .bind(&new.subject)
        .bind(&new.lane)
        .bind(&new.brand)
        .bind(new.params.to_string())
        .bind(JobState::Waiting.as_str())
        .bind(new.due_at)
        .bind(next_at)
        .bind(now)
        .bind(i64::from(new.attempt_limit))
        .bind(&actor)
        .bind(&traceparent)
        .bind(now);
        self.execute(query).await?;
        self.add_job_waits(&id, &new.waits).await?;
        Ok(id)
    }

    /// Enqueues the job that a change asks for, unless its lane has one that has not ended.
    pub(crate) async fn run_errand(&mut self, errand: Errand) -> Result<(), StoreError> {
        let lane = errand.lane();
        if self.beside().is_lane_taken(&lane, "").await? {
            return if errand.wakes { self.wake_lane(&lane).await } else { Ok(()) };
        }
        let job = NewJob {
            kind: errand.kind.to_owned(),
            params: errand.params(),
            subject: errand.subject,
            lane,
            brand: errand.brand,
            due_at: Draft::now(self),
            attempt_limit: errand.attempts,
            waits: Vec::new(),
        };
        self.enqueue_job(job).await.map(drop)
    }

    /// Lets the job of a lane look now, if it rests. One that a runner works on is to look again: its [`Job::due_at`] moves, which the
    /// runner sees when it records what it did.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn wake_lane(&mut self, lane: &str) -> Result<(), StoreError> {
        let now = Draft::now(self);
        let query = sql::query(
            "UPDATE jobs SET due_at = CASE WHEN due_at < ?1 THEN ?1 ELSE due_at + 1 END, \
             next_at = CASE WHEN state = ?2 THEN ?1 ELSE next_at END, set_at = CASE WHEN state = ?2 THEN ?1 ELSE set_at END \
             WHERE lane = ?3 AND ended_at IS NULL AND started_at IS NOT NULL",
        );
        let query = query.bind(now).bind(JobState::Retrying.as_str()).bind(lane);
        self.execute(query).await.map(drop)
    }

    /// Writes a job and the steps that it has begun, if its row still has the fence `held`: false, and nothing is written, when
    /// another runner has taken the job since. The next job of the lane takes the place of one that has ended.
    ///
    /// What is fixed at enqueueing and [`Job::cancelled_by`] are not written.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn save_job(&mut self, job: &Job, held: u64) -> Result<bool, StoreError> {
        let query = sql::query(
            "UPDATE jobs SET seq = ?, state = ?, due_at = ?, next_at = ?, set_at = ?, attempts = ?, progress = ?, error = ?, \
             lease_owner = ?, fence = ?, started_at = ?, ended_at = ? WHERE id = ? AND fence = ?",
        )
        .bind(to_sql("jobs.seq", job.seq)?)
        .bind(job.state.as_str())
        .bind(job.due_at)
        .bind(job.next_at)
        .bind(job.set_at)
        .bind(i64::from(job.attempts))
        .bind(&job.progress)
        .bind(&job.error)
        .bind(&job.lease_owner)
        .bind(to_sql("jobs.fence", job.fence)?)
        .bind(job.started_at)
        .bind(job.ended_at)
        .bind(&job.id)
        .bind(to_sql("jobs.fence", held)?);
        if self.execute(query).await? == 0 {
            return Ok(false);
        }
        self.save_steps(job).await?;
        if job.ended_at.is_some() {
            self.promote(&job.lane).await?;
        }
        Ok(true)
    }

    async fn save_steps(&mut self, job: &Job) -> Result<(), StoreError> {
        let mut rows = Vec::new();
        for (place, step) in (0_i64..).zip(&job.steps) {
            let result = (!step.result.is_null()).then(|| step.result.to_string());
            rows.push((place, step, result));
        }
        batch::insert(
            self.beside(),
            "INSERT INTO job_steps (job, place, name, state, attempts, started_at, ended_at, error, result)",
            "ON CONFLICT (job, place) DO UPDATE SET name = excluded.name, state = excluded.state, \
             attempts = excluded.attempts, started_at = excluded.started_at, ended_at = excluded.ended_at, \
             error = excluded.error, result = excluded.result",
            &rows,
            |row, (place, step, result)| {
                row.push_bind(job.id.clone()).push_bind(*place).push_bind(step.name.clone());
                row.push_bind(step.state.as_str()).push_bind(i64::from(step.attempts));
                row.push_bind(step.started_at).push_bind(step.ended_at).push_bind(step.error.clone());
                row.push_bind(result.clone());
            },
        )
        .await?;
        Ok(())
    }

    /// The first job of a lane that has not ended comes to be due, unless it is already. `set_at` stays: it is when `due_at` was set.
    async fn promote(&mut self, lane: &str) -> Result<(), StoreError> {
        let query = sql::query(
            "UPDATE jobs SET next_at = due_at WHERE next_at IS NULL AND ended_at IS NULL AND id = \
             (SELECT id FROM jobs WHERE lane = ? AND ended_at IS NULL ORDER BY seq LIMIT 1)",
        );
        self.execute(query.bind(lane)).await?;
        Ok(())
    }

    /// Puts a job that has ended, and that still has the fence `held`, at the end of its lane again, with the steps that `job` has;
    /// false, and nothing is written, when it is not so any more. Asks anew for nothing that it waited for.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn requeue_job(&mut self, job: &Job, held: u64) -> Result<bool, StoreError> {
        let mut again = job.clone();
        again.seq = self.next_job_seq().await?;
        let at_head = !self.beside().is_lane_taken(&job.lane, &job.id).await?;
        again.next_at = at_head.then_some(again.due_at);
        if !self.save_job(&again, held).await? {
            return Ok(false);
        }
        let query = sql::query("UPDATE jobs SET cancelled_by = NULL WHERE id = ?").bind(&job.id);
        self.execute(query).await?;
        let first_gone = to_sql("job_steps.place", job.steps.len() as u64)?;
        let query = sql::query("DELETE FROM job_steps WHERE job = ? AND place >= ?");
        let query = query.bind(&job.id).bind(first_gone);
        self.execute(query).await?;
        Ok(true)
    }

    /// Notes that a job is to be cancelled, for the runner that works on it. The first one who asks is noted.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn note_job_cancelled(&mut self, id: &str, by: &str) -> Result<(), StoreError> {
        let query = sql::query(
            "UPDATE jobs SET cancelled_by = ? WHERE id = ? AND ended_at IS NULL AND cancelled_by IS NULL",
        );
        let query = query.bind(by).bind(id);
        self.execute(query).await?;
        Ok(())
    }

    /// Counted apart from the rows, so that a removed job's number never comes again.
    async fn next_job_seq(&mut self) -> Result<u64, StoreError> {
        self.next_number("job_seq").await
    }

    /// The next number of a counter that planning does not know.
    pub(crate) async fn next_number(&mut self, counter: &'static str) -> Result<u64, StoreError> {
        let query = sql::query(
            "INSERT INTO counters (name, value) VALUES (?, 1) \
             ON CONFLICT (name) DO UPDATE SET value = counters.value + 1 RETURNING value",
        );
        let row = self.optional(query.bind(counter)).await?;
        let row = row.ok_or_else(|| StoreError::row(format!("the counter {counter} gives no value")))?;
        from_sql(counter, row.try_get(0)?)
    }
}

impl ReadTx {
    /// The job that a lane is at; `None` when it has none that has not ended.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn job_in_lane(&mut self, lane: &str) -> Result<Option<String>, StoreError> {
        let query =
            sql::query("SELECT id FROM jobs WHERE lane = ? AND ended_at IS NULL ORDER BY seq LIMIT 1");
        let row = self.optional(query.bind(lane)).await?;
        row.map(|row| row.try_get(0)).transpose()
    }

    /// Whether a lane has a job that has not ended, beside `id`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn is_lane_taken(&mut self, lane: &str, id: &str) -> Result<bool, StoreError> {
        let query = sql::query("SELECT 1 FROM jobs WHERE lane = ? AND ended_at IS NULL AND id <> ? LIMIT 1");
        let query = query.bind(lane).bind(id);
        Ok(self.optional(query).await?.is_some())
    }
}

impl Store {
    /// Removes jobs that came to the final state `state` before `before` (milliseconds since the Unix epoch), at most 500; how many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn remove_ended_jobs(&self, state: JobState, before: i64) -> Result<u64, StoreError> {
        self.status_write(move |tx| {
            Box::pin(async move {
                let query = sql::query(
                    "SELECT id FROM jobs WHERE ended_at IS NOT NULL AND state = ? AND ended_at < ? \
                     ORDER BY ended_at, id LIMIT ?",
                );
                let rows = tx.all(query.bind(state.as_str()).bind(before).bind(REMOVED_AT_ONCE)).await?;
                let mut ids = Vec::new();
                for row in rows {
                    ids.push(row.try_get::<String>(0)?);
                }
                for (head, column) in [
                    ("DELETE FROM job_steps", "job"),
                    ("DELETE FROM job_waits", "job"),
                    ("DELETE FROM jobs", "id"),
                ] {
                    batch::delete(tx.beside(), head, &[column], &ids, |id, _| id.clone()).await?;
                }
                Ok(ids.len() as u64)
            })
        })
        .await
    }
}
