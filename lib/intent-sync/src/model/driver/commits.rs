//! Steps of the store: commits, compaction, copies.

use std::collections::BTreeMap;
use std::sync::Arc;

use hosting_intent::{Bytes, Cause, Key};
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;

use super::super::parts::{Class, class, route_key, state_key, unknown_key, value};
use super::{AUDIENCES, Change, Driver, ModelStore, Saved, Which, failed, sums};
use crate::subscriber::Policy;

impl<S: ModelStore, P: Policy> Driver<'_, S, P> {
    pub(super) fn any_key(&mut self) -> Key {
        match self.rng.random_range(0..10) {
            0..6 => route_key(self.rng.random_range(0..8)),
            6..9 => state_key(self.rng.random_range(0..4)),
            _ => unknown_key(self.rng.random_range(0..2)),
        }
    }

    pub(super) fn any_value(&mut self, key: &Key) -> Bytes {
        let class = match self.rng.random_range(0..10) {
            0..6 => Class::Good,
            6..8 => Class::Stopping,
            _ => Class::Poisoned,
        };
        self.mark += 1;
        value(key, class, self.mark)
    }

    pub(super) fn any_cause(&mut self) -> Cause {
        if self.rng.random_bool(0.5) { Cause::Person } else { Cause::Planner }
    }

    pub(super) async fn commit(&mut self) -> Result<(), String> {
        let mut changes: BTreeMap<(Which, Key), Change> = BTreeMap::new();
        let rollout = if self.rng.random_bool(0.3) { self.mark + 1 } else { 0 };
        if rollout != 0 {
            self.mark = rollout;
            self.rollouts.push(rollout);
        }
        for _ in 0..self.rng.random_range(1..=5) {
            let audience = self.any_audience();
            let key = self.any_key();
            let present = self.reference.get(&audience).is_some_and(|view| view.contains_key(&key));
            let value = if present && self.rng.random_bool(0.4) { None } else { Some(self.any_value(&key)) };
            let cause = self.any_cause();
            changes.insert(
                (audience, key.clone()),
                Change { audience: audience.audience()?, key, value, cause, rollout },
            );
        }
        self.write("commit", changes.into_values().collect()).await
    }

    pub(super) fn any_audience(&mut self) -> Which {
        AUDIENCES.choose(&mut self.rng).copied().unwrap_or(Which::EdgeA)
    }

    pub(super) fn any_present(&mut self, audience: Which) -> Option<(Key, Bytes)> {
        let view = self.reference.get(&audience)?;
        let at = self.rng.random_range(0..view.len().max(1));
        view.iter().nth(at).map(|(key, value)| (key.clone(), value.clone()))
    }

    /// A tenant changes its cluster: gone here and there at one revision.
    pub(super) async fn move_item(&mut self) -> Result<(), String> {
        let (from, to) = (self.any_audience(), self.any_audience());
        let Some((key, value)) = self.any_present(from).filter(|_| from != to) else { return Ok(()) };
        let cause = self.any_cause();
        let change = |audience: Which, value| {
            Ok::<_, String>(Change {
                audience: audience.audience()?,
                key: key.clone(),
                value,
                cause,
                rollout: 0,
            })
        };
        self.write("move", vec![change(from, None)?, change(to, Some(value))?]).await
    }

    /// A name is withdrawn and given to somebody else before anybody has heard of it.
    pub(super) async fn recreate(&mut self) -> Result<(), String> {
        let audience = self.any_audience();
        let Some((key, _)) = self.any_present(audience) else { return Ok(()) };
        let cause = self.any_cause();
        let gone =
            Change { audience: audience.audience()?, key: key.clone(), value: None, cause, rollout: 0 };
        self.write("withdraw", vec![gone]).await?;
        let value = Some(self.any_value(&key));
        let anew = Change { audience: audience.audience()?, key, value, cause, rollout: 0 };
        self.write("create anew", vec![anew]).await
    }

    /// What the brake is for.
    pub(super) async fn clear(&mut self) -> Result<(), String> {
        let audience = self.any_audience();
        let cause = self.any_cause();
        let keys: Vec<Key> =
            self.reference.get(&audience).into_iter().flat_map(BTreeMap::keys).cloned().collect();
        let whose = audience.audience()?;
        let changes = keys.into_iter().filter(|_| self.rng.random_bool(0.8)).map(|key| Change {
            audience: whose.clone(),
            key,
            value: None,
            cause,
            rollout: 0,
        });
        let changes: Vec<Change> = changes.collect();
        if changes.is_empty() { Ok(()) } else { self.write("clear", changes).await }
    }

    pub(super) async fn write(&mut self, what: &str, changes: Vec<Change>) -> Result<(), String> {
        self.store.commit(&changes).await.map_err(failed)?;
        let mut text = format!("{what}:");
        for change in changes {
            let is = |which: &Which| which.audience().is_ok_and(|audience| audience == change.audience);
            let Some(audience) = AUDIENCES.into_iter().find(is) else {
                continue;
            };
            let sign = if change.value.is_some() { '+' } else { '-' };
            text.push_str(&format!(
                " {audience:?} {sign}{} ({:?}) in {}",
                change.key, change.cause, change.rollout
            ));
            let view = self.reference.entry(audience).or_default();
            match change.value {
                Some(value) => {
                    text.push_str(&format!(" {:?}", class(&change.key, &value)));
                    self.ever.entry((audience, change.key.clone())).or_default().insert(value.clone());
                    view.insert(change.key, value);
                }
                None => {
                    view.remove(&change.key);
                }
            }
        }
        self.log(text);
        self.note_heads().await
    }

    /// Remembers what the reference has at each audience's position, and holds the store to it.
    pub(super) async fn note_heads(&mut self) -> Result<(), String> {
        for audience in AUDIENCES {
            let head = self.store.audience(&audience.audience()?).await.map_err(failed)?;
            let Some(view) = self.reference.get(&audience) else { continue };
            if (head.count, head.digest) != sums(view) {
                return Err(format!("the store's sums for {audience:?} are not the reference's"));
            }
            if self.epochs.insert(head.epoch.clone()) && self.epochs.len() > 1 {
                self.summary.epochs += 1;
            }
            let at = (audience, head.epoch, head.revision);
            match self.history.get(&at) {
                Some(known) if **known != *view => {
                    return Err(format!("{audience:?} had something else at {} {} before", at.1, at.2));
                }
                Some(_) => {}
                None => {
                    self.history.insert(at, Arc::new(view.clone()));
                }
            }
        }
        Ok(())
    }

    pub(super) async fn compact(&mut self) -> Result<(), String> {
        let audience = self.any_audience();
        let newest = self.store.audience(&audience.audience()?).await.map_err(failed)?.revision;
        let to = self.rng.random_range(newest / 2..=newest);
        // Only revisions of the audience can be a floor.
        let head = self.store.audience(&audience.audience()?).await.map_err(failed)?;
        let to = (0..=to).rev().find(|to| self.history.contains_key(&(audience, head.epoch.clone(), *to)));
        let Some(to) = to else { return Ok(()) };
        self.log(format!("compact {audience:?} to {to}"));
        self.store.compact(&audience.audience()?, to).await.map_err(failed)
    }

    pub(super) async fn back_up(&mut self) -> Result<(), String> {
        let mut heads = BTreeMap::new();
        for audience in AUDIENCES {
            let head = self.store.audience(&audience.audience()?).await.map_err(failed)?;
            heads.insert(audience, (head.epoch, head.revision));
        }
        self.log(format!("back up as {}: {heads:?}", self.saved.len()));
        let store = self.store.backup().await.map_err(failed)?;
        self.saved.push(Saved {
            store,
            reference: self.reference.clone(),
            heads,
            history: self.history.clone(),
        });
        Ok(())
    }

    pub(super) async fn put_back(&mut self) -> Result<(), String> {
        if self.saved.is_empty() {
            return Ok(());
        }
        let which = self.rng.random_range(0..self.saved.len());
        self.log(format!("put back {which}"));
        // Nobody exchanges the files under a running controller.
        for node in 0..self.nodes.len() {
            self.disconnect(node);
        }
        let Some(saved) = self.saved.get(which) else { return Ok(()) };
        self.store.restore(&saved.store).await.map_err(failed)?;
        self.reference = saved.reference.clone();
        let history = &self.history;
        for node in &mut self.nodes {
            let Some((epoch, _)) = saved.heads.get(&node.audience) else { continue };
            let status = node.subscriber.status();
            // Of the epoch that goes on now, and not on the way to where it goes on from.
            let undone = |e: &String, revision: u64| {
                let at = (node.audience, e.clone(), revision);
                e == epoch && saved.history.get(&at) != history.get(&at)
            };
            let position = status.position;
            node.undone |= position.as_ref().is_some_and(|at| undone(&at.epoch, at.revision));
            node.disk_undone |=
                node.journal.disk().stored.as_ref().is_some_and(|(m, _)| undone(&m.epoch, m.revision));
            if position.is_none_or(|position| position.epoch != *epoch) {
                // It comes from elsewhere and may well arrive at less than it once had here.
                node.acked.remove(epoch);
            }
        }
        self.history.retain(|(audience, epoch, _), _| {
            saved.heads.get(audience).is_none_or(|(current, _)| current != epoch)
        });
        // Of the other epochs a branch that was left may be in the copy; subscribers still there are judged by the one they know.
        for (at, view) in &saved.history {
            self.history.entry(at.clone()).or_insert_with(|| Arc::clone(view));
        }
        self.note_heads().await
    }
}
