//! Where resources stand, and waiting until they do.

use std::time::Duration;

use hosting_planner::gates::{Inputs, Truth, Verdict, evaluate, units_of};
use hosting_planner::{World, has_children};
use hosting_resource::{Resource, Status, timestamp};
use hosting_store::ReadTx;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{Api, ApiError};

/// Looks are at least this far apart: a busy store rings its doorbell more often than anybody can look.
const PAUSE: Duration = Duration::from_millis(5);
/// And at most this far, whatever nobody rings for.
const TICK: Duration = Duration::from_millis(200);

/// A resource and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) resource: Resource,
    pub(crate) verdict: Verdict,
    pub(crate) inputs: Inputs,
}

impl Look {
    /// In effect everywhere in service, and the stored status says so too.
    fn is_ready(&self) -> bool {
        let verdict = &self.verdict;
        if self.resource.status == Status::Deleting {
            return false;
        }
        verdict.conditions.is_empty()
            || (verdict.settled && verdict.open.is_empty() && self.resource.status == verdict.status)
    }

    fn is_rejected(&self) -> bool {
        self.verdict.status == Status::Failed
    }

    /// As the API shows it.
    pub(crate) fn conditions(&self) -> Vec<Value> {
        self.verdict
            .conditions
            .iter()
            .map(|condition| {
                json!({
                    "name": condition.name,
                    "status": condition.status.as_str(),
                    "message": condition.message,
                    "since": timestamp(condition.since),
                })
            })
            .collect()
    }

    fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self
            .verdict
            .conditions
            .iter()
            .filter(|condition| condition.status == Truth::Failed)
            .map(|condition| {
                format!(
                    "{} {}: {}: {}",
                    self.resource.kind, self.resource.id, condition.name, condition.message
                )
            })
            .collect();
        if reasons.is_empty() {
            reasons.extend(
                self.verdict
                    .message
                    .iter()
                    .map(|message| format!("{} {}: {message}", self.resource.kind, self.resource.id)),
            );
        }
        reasons
    }
}

/// How waiting ended.
#[derive(Debug)]
pub(crate) enum Waited {
    /// Everything is in effect, or gone.
    Ready(Vec<Look>),
    /// Not within the time limit.
    Late(Vec<Look>),
    /// Something of it will not come into effect as it is.
    Rejected(Vec<Look>, Vec<String>),
}

/// The nodes that what was looked at waits for or does without, sorted.
pub(crate) fn lagging(looks: &[Look]) -> Vec<String> {
    let mut nodes: Vec<String> = looks.iter().flat_map(|look| look.verdict.lagging.iter().cloned()).collect();
    nodes.sort();
    nodes.dedup();
    nodes
}

impl Api {
    /// Where a resource stands now.
    pub(crate) async fn look(&self, tx: &mut ReadTx, resource: Resource) -> Result<Look, ApiError> {
        let mut inputs = Inputs::default();
        for unit in units_of(&resource) {
            inputs.rows.extend(tx.owned(&unit.owner()).await?);
        }
        if resource.status == Status::Deleting {
            inputs.has_children = has_children(tx, &resource).await?;
        }
        let fleet = self.platform().fleet();
        let verdict = evaluate(&resource, &inputs, fleet.as_ref(), self.store().now());
        Ok(Look { resource, verdict, inputs })
    }

    /// Waits until all of `ids` are in effect; those that are gone count as ready.
    pub(crate) async fn until_ready(&self, ids: &[String], limit: Duration) -> Result<Waited, ApiError> {
        let deadline = Instant::now() + limit;
        let mut doorbell = self.store().doorbell();
        let mut changes = self.platform().changes();
        let stop = self.stopping();
        loop {
            // Marked as seen before looking: what changes while looking is looked at once more.
            doorbell.borrow_and_update();
            changes.borrow_and_update();
            let mut looks = Vec::new();
            {
                let mut tx = self.store().read().await?;
                for id in ids {
                    if let Some(resource) = tx.resource(id).await? {
                        looks.push(self.look(&mut tx, resource).await?);
                    }
                }
            }
            let reasons: Vec<String> =
                looks.iter().filter(|look| look.is_rejected()).flat_map(Look::reasons).collect();
            if looks.iter().any(Look::is_rejected) {
                return Ok(Waited::Rejected(looks, reasons));
            }
            if looks.iter().all(Look::is_ready) {
                return Ok(Waited::Ready(looks));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || stop.is_cancelled() {
                return Ok(Waited::Late(looks));
            }
            tokio::select! {
                // An error means that the other side is gone: then the tick alone drives.
                Ok(()) = doorbell.changed() => {}
                Ok(()) = changes.changed() => {}
                () = stop.cancelled() => {}
                () = tokio::time::sleep(TICK.min(left)) => {}
            }
            tokio::time::sleep(PAUSE.min(left)).await;
        }
    }
}
