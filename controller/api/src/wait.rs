//! Where resources stand, and waiting until they do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hosting_intent::Audience;
use hosting_planner::World;
use hosting_planner::gates::{Inputs, Settled, Truth, Verdict, evaluate, gather, settled};
use hosting_resource::{Resource, timestamp};
use hosting_store::ReadTx;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::receipt::{Receipt, not_serving, receipt};
use crate::{Api, ApiError, Platform};

/// Looks are at least this far apart: a busy store rings its doorbell more often than anybody can look.
const PAUSE: Duration = Duration::from_millis(5);
/// And at most this far, whatever nobody rings for.
const TICK: Duration = Duration::from_millis(200);

/// What a look of each of those that wait may cost the others: with many of them each looks less often, so that a thousand
/// that wait do not take the processor from those that write.
const FAIR: Duration = Duration::from_micros(250);

/// Places for requests that wait. Each key has a share, so that no caller can keep the others from waiting.
#[derive(Debug)]
pub(crate) struct Waiting {
    most: usize,
    share: usize,
    by_key: Mutex<BTreeMap<String, usize>>,
}

impl Waiting {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, share: (most / 8).max(1), by_key: Mutex::default() }
    }

    /// `None` when all places are taken, or the key's share is.
    pub(crate) fn enter(self: &Arc<Self>, key: &str) -> Option<WaitingPlace> {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if by_key.values().sum::<usize>() >= self.most {
            return None;
        }
        let count = by_key.entry(key.to_owned()).or_default();
        if *count >= self.share {
            return None;
        }
        *count += 1;
        drop(by_key);
        Some(WaitingPlace { waiting: Arc::clone(self), key: key.to_owned() })
    }

    pub(crate) fn count(&self) -> usize {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

/// A place among those that wait; given back when dropped.
#[derive(Debug)]
pub(crate) struct WaitingPlace {
    waiting: Arc<Waiting>,
    key: String,
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        let mut by_key = self.waiting.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_key.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                by_key.remove(&self.key);
            }
        }
    }
}

/// A resource and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) resource: Resource,
    pub(crate) verdict: Verdict,
    pub(crate) inputs: Inputs,
}

impl Look {
    /// Whether each machine serves it.
    pub(crate) fn receipt(&self, platform: &dyn Platform) -> Receipt {
        receipt(&self.resource, &self.inputs, self.verdict.settled, platform)
    }

    fn is_ready(&self) -> bool {
        settled(&self.resource, &self.verdict) == Some(Settled::Ready)
    }

    fn is_rejected(&self) -> bool {
        settled(&self.resource, &self.verdict) == Some(Settled::Rejected)
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
        let fleet = self.platform().fleet();
        let one = std::slice::from_ref(&resource);
        let inputs = gather(tx, fleet.as_ref(), one).await?.pop().unwrap_or_default();
        let verdict = evaluate(&resource, &inputs, fleet.as_ref(), self.store().now());
        Ok(Look { resource, verdict, inputs })
    }

    /// Waits until all of `ids` are in effect; those that are gone count as ready. With `proof` also until machines serve them, and what was
    /// changed of those audiences at those revisions; the node ids are those that do not yet.
    pub(crate) async fn until_ready(
        &self,
        ids: &[String],
        limit: Duration,
        proof: Option<Vec<(Audience, u64)>>,
    ) -> Result<(Waited, Vec<String>), ApiError> {
        let mut proof = proof.map(|changed| changed.into_iter().collect::<BTreeMap<_, _>>());
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
                return Ok((Waited::Rejected(looks, reasons), Vec::new()));
            }
            let missing = proof.as_mut().map(|changed| self.not_proven(&looks, changed)).unwrap_or_default();
            if looks.iter().all(Look::is_ready) && missing.is_empty() {
                return Ok((Waited::Ready(looks), missing));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let pause = FAIR.saturating_mul(u32::try_from(self.waiting()).unwrap_or(u32::MAX)).max(PAUSE);
            if left.is_zero() || stop.is_cancelled() {
                return Ok((Waited::Late(looks), missing));
            }
            tokio::select! {
                // An error means that the other side is gone: then the tick alone drives.
                Ok(()) = doorbell.changed() => {}
                Ok(()) = changes.changed() => {}
                () = stop.cancelled() => {}
                () = tokio::time::sleep(TICK.max(pause).min(left)) => {}
            }
            tokio::time::sleep(pause.min(left)).await;
        }
    }
}

impl Api {
    /// The node ids that do not serve yet what is looked at, and what was changed. What is withdrawn meanwhile is noted there.
    fn not_proven(&self, looks: &[Look], changed: &mut BTreeMap<Audience, u64>) -> Vec<String> {
        for look in looks {
            for (audience, revision) in look.resource.progress().withdrawn.unwrap_or_default() {
                let Ok(audience) = audience.parse() else { continue };
                let newest = changed.entry(audience).or_default();
                *newest = revision.max(*newest);
            }
        }
        let changed: Vec<_> =
            changed.iter().map(|(audience, revision)| (audience.clone(), *revision)).collect();
        let mut missing = not_serving(self.platform(), &changed);
        for look in looks.iter().filter(|look| look.is_ready()) {
            missing.extend(look.receipt(self.platform()).missing);
        }
        missing.sort();
        missing.dedup();
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_share_of_the_places_and_gives_them_back() {
        let waiting = Arc::new(Waiting::new(16));
        let held: Vec<_> = (0..2).filter_map(|_| waiting.enter("a")).collect();
        assert_eq!(held.len(), 2);
        assert!(waiting.enter("a").is_none(), "its share is an eighth");
        let others: Vec<_> = (0..14).filter_map(|n| waiting.enter(&format!("b{n}"))).collect();
        assert_eq!((others.len(), waiting.count()), (14, 16));
        assert!(waiting.enter("c").is_none(), "all are taken");
        drop(held);
        assert!(waiting.enter("a").is_some());
        drop(others);
        assert_eq!(waiting.count(), 0);
        assert!(waiting.by_key.lock().unwrap().is_empty());
    }
}
