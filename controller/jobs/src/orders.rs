//! What people do to jobs: cancel, try again. Inside the transaction that also writes the audit row.

use hosting_planner::Draft;
use hosting_store::{Job, StoreError, WriteTx};

use crate::kinds;
use crate::machine::{self, Cancelled, Refused, Retried};

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// There is no such job.
    #[error("job not found")]
    NotFound,
    /// Its state does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A runner took the job at the same moment.
    #[error("job {0} was begun at this moment; ask again")]
    Begun(String),
}

/// Cancels a job: what is done of it is undone. One that a runner works on is cancelled once its step has come to an end. Answers the
/// job as it then is.
///
/// # Errors
/// The store's own outside; inside, why nothing was done.
pub async fn cancel(tx: &mut WriteTx, id: &str, by: &str) -> Result<Result<Job, OrderError>, StoreError> {
    let Some(mut job) = tx.beside().job(id).await? else { return Ok(Err(OrderError::NotFound)) };
    let fence = job.fence;
    // A kind that this build does not know is left to a runner that does.
    let undoes = kinds::of(&job.kind).is_none_or(|kind| kind.facts.undoes);
    let cancelled = match machine::cancel(&mut job, by, undoes, Draft::now(tx)) {
        Ok(cancelled) => cancelled,
        Err(refused) => return Ok(Err(refused.into())),
    };
    tx.note_job_cancelled(id, by).await?;
    if cancelled == Cancelled::Written && !tx.save_job(&job, fence).await? {
        return Ok(Err(OrderError::Begun(id.to_owned())));
    }
    reread(tx, id).await
}

/// Tries a job again: at once, what waits for its next attempt; from the first step that is not done, what has ended without success.
/// Answers the job as it then is.
///
/// # Errors
/// The store's own outside; inside, why nothing was done.
pub async fn retry(tx: &mut WriteTx, id: &str) -> Result<Result<Job, OrderError>, StoreError> {
    let Some(mut job) = tx.beside().job(id).await? else { return Ok(Err(OrderError::NotFound)) };
    let fence = job.fence;
    let written = match machine::retry(&mut job, Draft::now(tx)) {
        Ok(Retried::Sooner) => tx.save_job(&job, fence).await?,
        Ok(Retried::Anew) => tx.requeue_job(&job, fence).await?,
        Err(refused) => return Ok(Err(refused.into())),
    };
    if written { reread(tx, id).await } else { Ok(Err(OrderError::Begun(id.to_owned()))) }
}

async fn reread(tx: &mut WriteTx, id: &str) -> Result<Result<Job, OrderError>, StoreError> {
    Ok(tx.beside().job(id).await?.ok_or(OrderError::NotFound))
}
