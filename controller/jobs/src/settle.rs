//! Resources that jobs wait for: asked in the same way as `?wait=ready` asks, and said to the jobs once they have settled.

use hosting_planner::World;
use hosting_planner::gates::{Fleet, Settled, evaluate, gather, settled};
use hosting_resource::Status;
use hosting_store::{JobWait, Origin, ReadTx, Store, StoreError};

/// What a resource that is gone is said to be; no stored status says so.
const GONE: &str = "deleted";

/// Looks at resources that jobs may wait for, and says to these jobs which have settled. How many jobs are due by that. What has not
/// settled is to be looked at again.
///
/// # Errors
/// When the store fails.
pub async fn settle(store: &Store, fleet: &dyn Fleet, ids: &[String]) -> Result<u64, StoreError> {
    let mut tx = store.read().await?;
    let mut outcomes = Vec::new();
    for id in tx.awaited_among(ids).await? {
        outcomes.extend(look(&mut tx, fleet, store.now(), id).await?);
    }
    drop(tx);
    if outcomes.is_empty() {
        return Ok(0);
    }
    let write = store
        .write(Origin::default(), move |tx| Box::pin(async move { tx.settle_job_waits(&outcomes).await }));
    Ok(write.await?.value)
}

/// How a resource has settled; `None` while it has not.
async fn look(
    tx: &mut ReadTx,
    fleet: &dyn Fleet,
    now: i64,
    id: String,
) -> Result<Option<JobWait>, StoreError> {
    let Some(resource) = tx.resource(&id).await? else {
        return Ok(Some(JobWait { resource: id, status: Some(GONE.to_owned()), message: None }));
    };
    let inputs = gather(tx, fleet, std::slice::from_ref(&resource)).await?.pop().unwrap_or_default();
    let verdict = evaluate(&resource, &inputs, fleet, now);
    Ok(match settled(&resource, &verdict) {
        None => None,
        Some(Settled::Ready) => {
            let status = Some(resource.status.as_str().to_owned());
            Some(JobWait { resource: id, status, message: None })
        }
        Some(Settled::Rejected) => {
            let status = Some(Status::Failed.as_str().to_owned());
            Some(JobWait { resource: id, status, message: verdict.message })
        }
    })
}
