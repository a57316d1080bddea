//! What the engine knows of each key, with the indexes that keep a pass from going over all of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::driver::{Claim, Key, Outcome, Rest};

/// What is known of one key.
#[derive(Debug, Default)]
pub(crate) struct KeyState {
    /// How the last work on it ended.
    pub(crate) outcome: Option<Outcome>,
    /// What is wanted of it changed after that.
    pub(crate) stale: bool,
    /// What it has for itself alone.
    pub(crate) held: Vec<Claim>,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// When it is tried again after a failure.
    pub(crate) not_before: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// In every pass.
    Always,
    /// In a pass at this time or later.
    At(u64),
    /// Only in passes over everything.
    Rests,
}

impl KeyState {
    fn turn(&self) -> Turn {
        match &self.outcome {
            _ if self.stale => Turn::Always,
            Some(Outcome::Unknown(_)) => Turn::At(self.not_before),
            Some(Outcome::Rest(Rest::Ready(_) | Rest::Kept(_) | Rest::Retired | Rest::Refused(_))) => {
                Turn::Rests
            }
            Some(Outcome::Rest(Rest::Blocked(_) | Rest::Gone) | Outcome::Waits { .. }) | None => Turn::Always,
        }
    }

    /// How it stands, unless what is wanted of it changed since.
    pub(crate) fn settled(&self) -> Option<&Outcome> {
        self.outcome.as_ref().filter(|_| !self.stale)
    }

    /// Whether something may be left of it on the host, wanted or not.
    pub(crate) fn is_left(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Rest(Rest::Kept(_)) | Outcome::Unknown(_)))
    }
}

/// How many keys stand how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) ready: usize,
    pub(crate) failed: usize,
    pub(crate) blocked: usize,
    pub(crate) orphans: usize,
}

impl Counts {
    fn of(&mut self, outcome: Option<&Outcome>) -> Option<&mut usize> {
        Some(match outcome? {
            Outcome::Rest(Rest::Ready(_) | Rest::Retired) => &mut self.ready,
            Outcome::Unknown(_) | Outcome::Rest(Rest::Refused(_)) => &mut self.failed,
            Outcome::Rest(Rest::Blocked(_)) | Outcome::Waits { .. } => &mut self.blocked,
            Outcome::Rest(Rest::Kept(_)) => &mut self.orphans,
            Outcome::Rest(Rest::Gone) => return None,
        })
    }
}

/// All keys. Each change of one keeps the indexes as they must be.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    states: BTreeMap<Key, KeyState>,
    always: BTreeSet<Key>,
    retries: BTreeSet<(u64, Key)>,
    holders: BTreeMap<Claim, BTreeSet<Key>>,
    counts: Counts,
}

impl Keys {
    pub(crate) fn get(&self, key: &Key) -> Option<&KeyState> {
        self.states.get(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }

    pub(crate) const fn counts(&self) -> Counts {
        self.counts
    }

    /// When the first failed key is to be tried again.
    pub(crate) fn retry_at(&self) -> Option<u64> {
        self.retries.first().map(|(at, _)| *at)
    }

    /// The key that has a claim.
    pub(crate) fn holder(&self, claim: &Claim) -> Option<&Key> {
        self.holders.get(claim)?.first()
    }

    /// Keys that every pass looks at, and those that failed and are due.
    pub(crate) fn due(&self, now: u64) -> impl Iterator<Item = &Key> {
        let retries = self.retries.iter().take_while(move |(at, _)| *at <= now);
        self.always.iter().chain(retries.map(|(_, key)| key))
    }

    /// Every key but those that failed and are not due.
    pub(crate) fn all_due(&self, now: u64) -> impl Iterator<Item = &Key> {
        let due = move |state: &KeyState| !matches!(state.turn(), Turn::At(at) if now < at);
        self.states.iter().filter(move |(_, state)| due(state)).map(|(key, _)| key)
    }

    /// Whether a key failed and is not due.
    pub(crate) fn waits_for_time(&self, key: &Key, now: u64) -> bool {
        self.states.get(key).is_some_and(|state| matches!(state.turn(), Turn::At(at) if now < at))
    }

    /// Changes a key; one that is not known yet is made.
    pub(crate) fn update(&mut self, key: &Key, change: impl FnOnce(&mut KeyState)) {
        let mut state = self.take(key).unwrap_or_default();
        change(&mut state);
        match state.turn() {
            Turn::Always => drop(self.always.insert(key.clone())),
            Turn::At(at) => drop(self.retries.insert((at, key.clone()))),
            Turn::Rests => {}
        }
        for claim in &state.held {
            self.holders.entry(claim.clone()).or_default().insert(key.clone());
        }
        if let Some(count) = self.counts.of(state.outcome.as_ref()) {
            *count += 1;
        }
        self.states.insert(key.clone(), state);
    }

    /// Forgets a key.
    pub(crate) fn take(&mut self, key: &Key) -> Option<KeyState> {
        let state = self.states.remove(key)?;
        match state.turn() {
            Turn::Always => drop(self.always.remove(key)),
            Turn::At(at) => drop(self.retries.remove(&(at, key.clone()))),
            Turn::Rests => {}
        }
        for claim in &state.held {
            if let Some(holders) = self.holders.get_mut(claim) {
                holders.remove(key);
                if holders.is_empty() {
                    self.holders.remove(claim);
                }
            }
        }
        if let Some(count) = self.counts.of(state.outcome.as_ref()) {
            *count = count.saturating_sub(1);
        }
        Some(state)
    }
}
