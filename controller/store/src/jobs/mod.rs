//! Rows of durable jobs. What a row means and how it moves on is the job runner's (`hosting-jobs`); the store keeps the rows, the
//! order within a lane, and the fence against a runner whose lease is over.
//!
//! | file | what is in it |
//! |---|---|
//! | `mod` | the rows as structs, and how they are read |
//! | `write` | enqueueing, saving under a fence, ends and lanes, removal |
//! | `due` | what is due, leases, the clock that was put back, the pace of a kind |
//! | `waits` | resources that jobs wait for |
//! | `list` | pages for the API |

mod due;
mod list;
mod waits;
mod write;

pub use due::Pace;
pub use list::{JobPage, JobQuery};
use serde_json::Value;
pub use waits::JobWait;
pub use write::NewJob;

use crate::batch::CHUNK;
use crate::error::from_sql;
use crate::sql::{QueryBuilder, Row};
use crate::{ReadTx, StoreError, batch};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobState {
    /// Not begun: its time has not come, what it waits for has not settled, or another job of its lane is before it.
    Waiting,
    /// A runner works on it, or did until its lease ran out.
    Running,
    /// An attempt failed; there will be another one.
    Retrying,
    /// It was cancelled or given up; the steps already done are being undone.
    Undoing,
    /// All steps are done.
    Done,
    /// Given up. Steps that are done are left as they are: their kind undoes nothing, or undoing did not succeed.
    Failed,
    /// Cancelled before any step was done, or by a kind that undoes nothing.
    Cancelled,
    /// Cancelled or given up, and all steps that were done are undone.
    Undone,
}

impl JobState {
    /// All of them, in the order in which a job may come to them.
    pub const ALL: [Self; 8] = [
        Self::Waiting,
        Self::Running,
        Self::Retrying,
        Self::Undoing,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
        Self::Undone,
    ];

    /// As the API and the store spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Undoing => "undoing",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Undone => "undone",
        }
    }

    /// Whether nothing more happens by itself.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Waiting | Self::Running | Self::Retrying | Self::Undoing => false,
            Self::Done | Self::Failed | Self::Cancelled | Self::Undone => true,
        }
    }

    fn read(text: &str) -> Result<Self, StoreError> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| StoreError::row(format!("a job has the state {text:?}")))
    }
}

/// Where a step of a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StepState {
    /// Begun and not recorded: its effect may have happened.
    Running,
    /// An attempt failed, and is known to have had no effect.
    Failed,
    /// Recorded: its effect has happened.
    Done,
    /// Its undoing has begun and is not recorded.
    Undoing,
    /// Its effect is taken back.
    Undone,
}

impl StepState {
    const ALL: [Self; 5] = [Self::Running, Self::Failed, Self::Done, Self::Undoing, Self::Undone];

    /// As the API and the store spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Done => "done",
            Self::Undoing => "undoing",
            Self::Undone => "undone",
        }
    }

    fn read(text: &str) -> Result<Self, StoreError> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| StoreError::row(format!("a step of a job has the state {text:?}")))
    }
}

/// A step that a job has begun.
#[derive(Debug, Clone, PartialEq)]
pub struct JobStep {
    /// What the kind calls it.
    pub name: String,
    /// Where it stands.
    pub state: StepState,
    /// Begun attempts, those of its undoing not counted.
    pub attempts: u32,
    /// Begin of the first attempt, milliseconds since the Unix epoch.
    pub started_at: i64,
    /// End of the last attempt that is recorded, milliseconds since the Unix epoch.
    pub ended_at: Option<i64>,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// What it leaves for later steps; `Null` for nothing.
    pub result: Value,
}

/// A stored job with the steps that it has begun. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// `job_` and 32 hex digits.
    pub id: String,
    /// The order of enqueueing.
    pub seq: u64,
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
    /// Where it stands.
    pub state: JobState,
    /// It begins no earlier. Moves when it is to look again while a runner works on it ([`crate::WriteTx::wake_lane`]).
    pub due_at: i64,
    /// When a runner has to look at it; `None` when it has ended, or another job of its lane is before it.
    pub next_at: Option<i64>,
    /// What the clock said when `next_at` was set.
    pub set_at: i64,
    /// Begun attempts of the step that it is at, or of that step's undoing.
    pub attempts: u32,
    /// It is given up after so many attempts of one step.
    pub attempt_limit: u32,
    /// How far it is, in the kind's words.
    pub progress: Option<String>,
    /// Why the last attempt failed, or why the job was given up.
    pub error: Option<String>,
    /// Who cancelled it, e.g. `api key <id>`.
    pub cancelled_by: Option<String>,
    /// The API key behind the change that it comes from.
    pub actor: Option<String>,
    /// W3C traceparent of that change; empty when there is none.
    pub traceparent: String,
    /// The runner that works on it until `next_at`.
    pub lease_owner: Option<String>,
    /// Grows with each lease.
    pub fence: u64,
    /// When it was enqueued.
    pub created_at: i64,
    /// When a runner first began it.
    pub started_at: Option<i64>,
    /// When it came to a final state.
    pub ended_at: Option<i64>,
    /// Steps that it has begun, in order.
    pub steps: Vec<JobStep>,
}

/// The columns of [`job`], in its order.
const JOB: &str = "id, seq, kind, subject, lane, brand, params, state, due_at, next_at, set_at, attempts, attempt_limit, \
     progress, error, cancelled_by, actor, traceparent, lease_owner, fence, created_at, started_at, ended_at";

/// A job without its steps.
fn job(row: &Row) -> Result<Job, StoreError> {
    Ok(Job {
        id: row.try_get(0)?,
        seq: from_sql("jobs.seq", row.try_get(1)?)?,
        kind: row.try_get(2)?,
        subject: row.try_get(3)?,
        lane: row.try_get(4)?,
        brand: row.try_get(5)?,
        params: json("jobs.params", Some(row.try_get(6)?))?,
        state: JobState::read(row.try_get::<&str>(7)?)?,
        due_at: row.try_get(8)?,
        next_at: row.try_get(9)?,
        set_at: row.try_get(10)?,
        attempts: small("jobs.attempts", row.try_get(11)?)?,
        attempt_limit: small("jobs.attempt_limit", row.try_get(12)?)?,
        progress: row.try_get(13)?,
        error: row.try_get(14)?,
        cancelled_by: row.try_get(15)?,
        actor: row.try_get(16)?,
        traceparent: row.try_get(17)?,
        lease_owner: row.try_get(18)?,
        fence: from_sql("jobs.fence", row.try_get(19)?)?,
        created_at: row.try_get(20)?,
        started_at: row.try_get(21)?,
        ended_at: row.try_get(22)?,
        steps: Vec::new(),
    })
}

fn small(field: &'static str, number: i64) -> Result<u32, StoreError> {
    u32::try_from(number).map_err(|_| StoreError::row(format!("{field} is {number}")))
}

fn json(field: &'static str, text: Option<String>) -> Result<Value, StoreError> {
    match text {
        None => Ok(Value::Null),
        Some(text) => {
            serde_json::from_str(&text).map_err(|error| StoreError::row(format!("{field}: {error}")))
        }
    }
}

impl ReadTx {
    /// A job with its steps.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn job(&mut self, id: &str) -> Result<Option<Job>, StoreError> {
        Ok(self.jobs(&[id.to_owned()]).await?.pop())
    }

    /// Jobs with their steps by id, in the order of enqueueing; those that are not there are left out.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn jobs(&mut self, ids: &[String]) -> Result<Vec<Job>, StoreError> {
        let mut jobs = Vec::new();
        for ids in batch::chunks(ids) {
            let mut sql = QueryBuilder::new("SELECT ");
            sql.push(JOB).push(" FROM jobs WHERE id IN ");
            batch::list(&mut sql, ids);
            let rows = self.all(sql.build()).await?;
            let found: Vec<Job> = rows.iter().map(job).collect::<Result<_, _>>()?;
            jobs.extend(found);
        }
        jobs.sort_unstable_by_key(|job| job.seq);
        self.add_steps(&mut jobs).await?;
        Ok(jobs)
    }

    async fn add_steps(&mut self, jobs: &mut [Job]) -> Result<(), StoreError> {
        for jobs in jobs.chunks_mut(CHUNK) {
            let ids: Vec<String> = jobs.iter().map(|job| job.id.clone()).collect();
            let mut sql = QueryBuilder::new(
                "SELECT job, name, state, attempts, started_at, ended_at, error, result FROM job_steps WHERE job IN ",
            );
            batch::list(&mut sql, &ids);
            sql.push(" ORDER BY job, place");
            for row in self.all(sql.build()).await? {
                let owner: String = row.try_get(0)?;
                let step = JobStep {
                    name: row.try_get(1)?,
                    state: StepState::read(row.try_get::<&str>(2)?)?,
                    attempts: small("job_steps.attempts", row.try_get(3)?)?,
                    started_at: row.try_get(4)?,
                    ended_at: row.try_get(5)?,
                    error: row.try_get(6)?,
                    result: json("job_steps.result", row.try_get(7)?)?,
                };
                if let Some(job) = jobs.iter_mut().find(|job| job.id == owner) {
                    job.steps.push(step);
                }
            }
        }
        Ok(())
    }
}
