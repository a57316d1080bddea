//! Kinds whose next job follows the one that ends.

use hosting_store::{NewJob, StoreError, WriteTx};

use crate::kind::AnyKind;

/// The lane of a recurring kind.
pub(crate) fn lane_of(kind: &str) -> String {
    format!("kind/{kind}")
}

/// Enqueues the next job of a recurring kind, unless there is one beside `ended`.
pub(crate) async fn enqueue_next(
    tx: &mut WriteTx,
    kind: &dyn AnyKind,
    ended: &str,
) -> Result<(), StoreError> {
    let name = kind.facts().name;
    let Some((due_at, params)) = kind.next_run(hosting_planner::Draft::now(tx)) else { return Ok(()) };
    let lane = lane_of(name);
    if tx.beside().is_lane_taken(&lane, ended).await? {
        return Ok(());
    }
    let job = NewJob {
        kind: name.to_owned(),
        subject: name.to_owned(),
        lane,
        brand: None,
        params,
        due_at,
        attempt_limit: kind.limits().attempts,
        waits: Vec::new(),
    };
    tx.enqueue_job(job).await.map(drop)
}
