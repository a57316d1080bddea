//! Rollouts: changes that touch much come to some subscribers first. Until a rollout comes to this one, its items wait, and what they
//! would replace stays in effect. What has nothing to replace does not wait: there is nobody whom it could hurt.

use std::collections::{BTreeMap, BTreeSet};

use hosting_intent::{Cause, Key, Removal};
use hosting_ledger::{Journal, Quarantined, Why};
use hosting_proto::feed as wire;

use super::{Change, Judged, Policy, Subscriber, stored};
use crate::Replica;

/// Which rollouts have come here, as the controller of this session said last.
#[derive(Debug, Default)]
pub(super) struct Rollouts {
    /// `None`: nothing was said in this session, so that all wait.
    said: Option<wire::Rollouts>,
    /// Keys that wait, by rollout.
    waiting: BTreeMap<u64, BTreeSet<Key>>,
}

impl Rollouts {
    /// A session begins: its controller says anew which are open.
    pub(super) fn forget(&mut self) {
        self.said = None;
    }

    fn is_open(&self, rollout: u64) -> bool {
        rollout == 0
            || self.said.as_ref().is_some_and(|said| rollout <= said.upto && !said.held.contains(&rollout))
    }

    pub(super) fn wait(&mut self, rollout: u64, key: &Key) {
        self.waiting.entry(rollout).or_default().insert(key.clone());
    }

    pub(super) fn end_wait(&mut self, rollout: u64, key: &Key) {
        if let Some(keys) = self.waiting.get_mut(&rollout) {
            keys.remove(key);
            if keys.is_empty() {
                self.waiting.remove(&rollout);
            }
        }
    }

    pub(super) fn waiting(&self) -> u64 {
        self.waiting.values().map(|keys| keys.len() as u64).sum()
    }

    /// One exception for each rollout that has not come here.
    pub(super) fn to_wire(&self) -> impl Iterator<Item = wire::Exception> {
        self.waiting.iter().map(|(rollout, keys)| wire::Exception {
            r#type: wire::exception::Type::Waiting as i32,
            kind: 0,
            key: format!("rollout/{rollout}"),
            revision: *rollout,
            reason: format!("{} items wait for rollout {rollout}", keys.len()),
        })
    }
}

impl<J: Journal, R: Replica, P: Policy> Subscriber<J, R, P> {
    /// The rollout that a change has to wait for.
    pub(super) fn waits_for(&self, key: &Key, change: &Change) -> Option<u64> {
        let (rollout, value) = match change {
            Change::Set(item) => (item.rollout, Some(&item.value)),
            Change::Gone(removal) => (removal.rollout, None),
        };
        if self.rollouts.is_open(rollout) || !P::ROLLOUTS_WAIT {
            return None;
        }
        let effective = self.view.effective(key)?;
        (Some(&effective.value) != value).then_some(rollout)
    }

    /// Keeps a change for later.
    pub(super) fn wait(&mut self, rollout: u64, key: &Key, change: Change, revision: u64) {
        let good = self.view.effective(key);
        let wanted = match change {
            Change::Set(item) => Some(stored(&item)),
            Change::Gone(_) => None,
        };
        let reason = format!("waits for rollout {rollout}");
        self.quarantine(key, Quarantined { why: Why::Waiting(rollout), reason, revision, wanted, good });
    }

    /// Keys whose newest word waits for a rollout, with that.
    pub fn waiting(&self) -> impl Iterator<Item = (&Key, u64)> {
        self.rollouts.waiting.iter().flat_map(|(rollout, keys)| keys.iter().map(move |key| (key, *rollout)))
    }

    /// The controller says which rollouts have come here: what waited for one of them goes into effect.
    pub(super) fn on_rollouts(&mut self, said: wire::Rollouts) {
        self.rollouts.said = Some(said);
        let open: Vec<Key> = self
            .rollouts
            .waiting
            .iter()
            .filter(|(rollout, _)| self.rollouts.is_open(**rollout))
            .flat_map(|(_, keys)| keys.iter().cloned())
            .collect();
        if open.is_empty() {
            return;
        }
        tracing::info!(audience = %self.config.audience, keys = open.len(), "a rollout has come here");
        self.take_effect(open);
    }

    /// Puts what was kept of these keys into effect, past the brake.
    pub(super) fn take_effect(&mut self, keys: Vec<Key>) {
        let (mut upserts, mut removals) = (Vec::new(), Vec::new());
        for key in keys {
            let wanted = self.view.wanted(&key);
            let change = match wanted {
                Some(stored) => match self.judge(&key, &stored.value) {
                    Ok(intent) => Judged::Good(stored.into_item(key), intent),
                    Err((why, reason)) => Judged::Bad(stored.into_item(key), why, reason),
                },
                None => Judged::Gone(Removal {
                    key,
                    cause: Cause::Person,
                    traceparent: String::new(),
                    rollout: 0,
                }),
            };
            self.apply(change, &mut upserts, &mut removals);
        }
        self.unwritten = true;
        self.publish(upserts, removals);
    }
}
