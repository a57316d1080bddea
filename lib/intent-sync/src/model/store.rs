//! The smallest store: maps behind a lock.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use hosting_intent::{Audience, Digest, Item, Key, Removal};

use super::{Change, ModelStore};
use crate::{AudienceHead, FeedSource, LogEntry, SourceError, Window};

/// What a broken store does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flaws {
    /// Goes on in the old epoch when it was put back.
    pub reuse_epochs: bool,
    /// Leaves withdrawals out of the log.
    pub lose_deletes: bool,
}

/// A store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    flaws: Flaws,
    state: Mutex<State>,
    /// Outside of the state, so that no epoch comes twice, whatever is put back.
    epochs: Mutex<u64>,
}

#[derive(Debug, Clone)]
pub struct State {
    epoch: String,
    head: u64,
    audiences: BTreeMap<Audience, Kept>,
}

#[derive(Debug, Clone, Default)]
struct Kept {
    revision: u64,
    floor: u64,
    items: BTreeMap<Key, Item>,
    log: Vec<LogEntry>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(flaws: Flaws) -> Self {
        let state = State { epoch: "epoch-1".to_owned(), head: 0, audiences: BTreeMap::new() };
        Self { flaws, state: Mutex::new(state), epochs: Mutex::new(1) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn head_of(&self, audience: &Audience) -> AudienceHead {
        let (revision, floor, count, digest) =
            self.audiences.get(audience).map_or((0, 0, 0, Digest::EMPTY), |a| {
                (a.revision, a.floor, a.items.len() as u64, Digest::of(a.items.values()))
            });
        AudienceHead { epoch: self.epoch.clone(), head: self.head, revision, floor, count, digest }
    }
}

#[async_trait]
impl FeedSource for MemoryStore {
    async fn audience(&self, audience: &Audience) -> Result<AudienceHead, SourceError> {
        Ok(self.lock().head_of(audience))
    }

    async fn window(&self, audience: &Audience, after: u64, limit: usize) -> Result<Window, SourceError> {
        let state = self.lock();
        let mut entries = Vec::new();
        let mut changes = 0;
        let log = state.audiences.get(audience).map_or(&[][..], |a| &a.log);
        for entry in log.iter().filter(|entry| entry.revision > after) {
            changes += entry.upserts.len() + entry.removals.len();
            if changes > limit && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(Window { head: state.head_of(audience), entries })
    }

    async fn page(
        &self,
        audience: &Audience,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, SourceError> {
        let state = self.lock();
        let Some(audience) = state.audiences.get(audience) else { return Ok(Vec::new()) };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(audience
            .items
            .range::<Key, _>((from, Bound::Unbounded))
            .take(limit)
            .map(|(_, item)| item.clone())
            .collect())
    }

    async fn begin_epoch(&self, seen: &str) -> Result<(), SourceError> {
        let mut state = self.lock();
        if state.epoch == seen && !self.flaws.reuse_epochs {
            let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
            *epochs += 1;
            state.epoch = format!("epoch-{epochs}");
        }
        Ok(())
    }
}

#[async_trait]
impl ModelStore for MemoryStore {
    type Backup = State;

    async fn commit(&self, changes: &[Change]) -> Result<(), SourceError> {
        let mut state = self.lock();
        state.head += 1;
        let revision = state.head;
        for change in changes {
            let audience = state.audiences.entry(change.audience.clone()).or_default();
            if audience.revision != revision {
                let prev = std::mem::replace(&mut audience.revision, revision);
                audience.log.push(LogEntry { prev, revision, upserts: Vec::new(), removals: Vec::new() });
            }
            let Some(entry) = audience.log.last_mut() else { continue };
            match &change.value {
                Some(value) => {
                    let item = Item {
                        key: change.key.clone(),
                        revision,
                        value: value.clone(),
                        cause: change.cause,
                        traceparent: String::new(),
                        rollout: change.rollout,
                    };
                    entry.upserts.push(item.clone());
                    audience.items.insert(change.key.clone(), item);
                }
                None => {
                    audience.items.remove(&change.key);
                    if !self.flaws.lose_deletes {
                        entry.removals.push(Removal {
                            key: change.key.clone(),
                            cause: change.cause,
                            traceparent: String::new(),
                            rollout: change.rollout,
                        });
                    }
                }
            }
        }
        Ok(())
    }

    async fn compact(&self, audience: &Audience, revision: u64) -> Result<(), SourceError> {
        if let Some(audience) = self.lock().audiences.get_mut(audience) {
            audience.log.retain(|entry| entry.revision > revision);
            audience.floor = audience.floor.max(revision);
        }
        Ok(())
    }

    async fn backup(&self) -> Result<State, SourceError> {
        Ok(self.lock().clone())
    }

    async fn restore(&self, backup: &State) -> Result<(), SourceError> {
        self.lock().clone_from(backup);
        Ok(())
    }
}
