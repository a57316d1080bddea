//! What is to be asked for, in which order, and what came out: a state machine with time as an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hosting_intent::Key;
use hosting_proto::feed as wire;

use super::ranges::Ranges;
use crate::Batch;

/// Items that wait to be asked for; beyond, the oldest are given up.
pub(super) const MAX_WANTED: usize = 1_000;
/// Of a view that is loaded whole (a start, another epoch), the newest so many are asked for.
pub(super) const OF_A_VIEW: usize = 100;
/// Failed checks listed in one [`wire::Served`]; the others count as not asked for yet.
pub(super) const LISTED_FAILURES: usize = 100;
/// Bytes of a reason.
const REASON_BYTES: usize = 300;
/// Between two tries of what failed: doubling from the first to the second.
pub(super) const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// One item to ask for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ask<I> {
    pub(crate) key: Key,
    pub(crate) revision: u64,
    /// The item as applied; `None`: it was withdrawn.
    pub(crate) wanted: Option<I>,
}

#[derive(Debug)]
struct Wanted<I> {
    /// The revisions that the item may be of: of a withdrawal only the batch is known.
    first: u64,
    last: u64,
    intent: Option<I>,
    failures: u32,
    /// Why it failed last.
    reason: Option<String>,
    again: Option<Instant>,
}

/// What of a batch is to be asked for.
#[derive(Debug)]
pub(crate) struct Noted<I> {
    epoch: String,
    revision: u64,
    items: Vec<(Key, u64, Option<I>)>,
    /// Revisions of items that there was no room for.
    left_out: Option<(u64, u64)>,
    /// More of the view follows.
    more: bool,
}

/// The state, with time as an argument.
#[derive(Debug)]
pub(crate) struct Checks<I> {
    epoch: String,
    upto: u64,
    wanted: BTreeMap<Key, Wanted<I>>,
    /// Those that were not asked for since they came, by revision.
    fresh: BTreeSet<(u64, Key)>,
    /// Those that failed, by when they are tried again.
    again: BTreeSet<(Instant, Key)>,
    sampled: Ranges,
    /// A view comes in pieces, of which more follow.
    in_pieces: bool,
}

impl<I> Default for Checks<I> {
    fn default() -> Self {
        Self {
            epoch: String::new(),
            upto: 0,
            wanted: BTreeMap::new(),
            fresh: BTreeSet::new(),
            again: BTreeSet::new(),
            sampled: Ranges::default(),
            in_pieces: false,
        }
    }
}

impl<I: Clone> Noted<I> {
    /// The newest items of a batch that are covered and above `floor`. A removal has no revision of its own; it is the batch's.
    pub(crate) fn of(batch: &Batch<I>, floor: u64, covers: impl Fn(&Key) -> bool) -> Self {
        let upserts = batch.upserts.iter().map(|(item, intent)| (&item.key, item.revision, Some(intent)));
        let removals = batch.removals.iter().map(|removal| (&removal.key, batch.revision, None));
        let mut all: Vec<_> =
            upserts.chain(removals).filter(|(key, revision, _)| *revision > floor && covers(key)).collect();
        let mut left_out = None;
        if all.len() > MAX_WANTED {
            let rest = all.len() - MAX_WANTED;
            all.select_nth_unstable_by_key(rest, |(_, revision, _)| *revision);
            let old = all.drain(..rest).map(|(_, revision, _)| revision);
            left_out = old.fold(None, |range: Option<(u64, u64)>, revision| {
                let (first, last) = range.unwrap_or((revision, revision));
                Some((first.min(revision), last.max(revision)))
            });
        }
        let items = all.into_iter().map(|(key, revision, intent)| (key.clone(), revision, intent.cloned()));
        Self {
            epoch: batch.epoch.clone(),
            revision: batch.revision,
            items: items.collect(),
            left_out,
            more: batch.more,
        }
    }
}

impl<I: Clone> Checks<I> {
    /// Takes in what was put into effect.
    pub(crate) fn note(&mut self, noted: Noted<I>) {
        let Noted { epoch, revision, mut items, left_out, more } = noted;
        let before = self.upto;
        let is_view = self.in_pieces || epoch != self.epoch;
        if epoch == self.epoch {
            self.upto = revision;
        } else {
            // What was asked for under the revisions of another epoch says nothing, and a whole view is not asked for.
            *self = Self { epoch, upto: revision, ..Self::default() };
            self.sampled.insert(0, revision);
        }
        self.in_pieces = more;
        if is_view && items.len() > OF_A_VIEW {
            items.sort_unstable_by_key(|(_, revision, _)| std::cmp::Reverse(*revision));
            items.truncate(OF_A_VIEW);
        }
        if let Some((first, last)) = left_out {
            self.sampled.insert(first, last);
        }
        for (key, revision, intent) in items {
            let first = if intent.is_some() { revision } else { revision.min(before.saturating_add(1)) };
            self.forget(&key);
            self.fresh.insert((revision, key.clone()));
            let wanted = Wanted { first, last: revision, intent, failures: 0, reason: None, again: None };
            self.wanted.insert(key, wanted);
        }
        while self.wanted.len() > if is_view { OF_A_VIEW } else { MAX_WANTED } {
            // The oldest that was not asked for; else one that failed, which then counts as never asked for.
            let oldest =
                self.fresh.first().map(|(_, key)| key).or_else(|| self.again.first().map(|(_, key)| key));
            let Some(oldest) = oldest.cloned() else { return };
            if let Some(given_up) = self.forget(&oldest) {
                self.sampled.insert(given_up.first, given_up.last);
            }
        }
    }

    fn forget(&mut self, key: &Key) -> Option<Wanted<I>> {
        let wanted = self.wanted.remove(key)?;
        self.fresh.remove(&(wanted.last, key.clone()));
        if let Some(again) = wanted.again {
            self.again.remove(&(again, key.clone()));
        }
        Some(wanted)
    }

    /// Of a view that comes in pieces, the revision that an item has to be above to be among the newest so far.
    pub(crate) fn floor(&self) -> u64 {
        let oldest = self.fresh.first().filter(|_| self.in_pieces && self.fresh.len() >= OF_A_VIEW);
        oldest.map_or(0, |(revision, _)| *revision)
    }

    /// What is to be asked for next: the newest that was not asked for yet, else what failed and is due.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Ask<I>> {
        let key = match self.fresh.pop_last() {
            Some((_, key)) => key,
            None => {
                let due = self.again.first().is_some_and(|(at, _)| *at <= now);
                if !due {
                    return None;
                }
                self.again.pop_first()?.1
            }
        };
        let wanted = self.wanted.get_mut(&key)?;
        wanted.again = None;
        Some(Ask { revision: wanted.last, wanted: wanted.intent.clone(), key })
    }

    /// When there is something to ask for; `None`: the moment has passed.
    pub(crate) fn due(&self) -> Option<Instant> {
        if self.fresh.is_empty() { self.again.first().map(|(at, _)| *at) } else { None }
    }

    /// Whether anything waits to be asked for the first time.
    pub(crate) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// Whether anything waits to be asked for, now or later.
    pub(crate) fn has_work(&self) -> bool {
        !self.fresh.is_empty() || !self.again.is_empty()
    }

    /// Takes in what came out. An outcome of an item that was replaced meanwhile says nothing.
    pub(crate) fn done(&mut self, key: &Key, revision: u64, outcome: Result<(), String>, now: Instant) {
        let Some(wanted) = self.wanted.get_mut(key).filter(|wanted| wanted.last == revision) else { return };
        match outcome {
            Ok(()) => {
                self.wanted.remove(key);
            }
            Err(mut reason) => {
                reason.truncate(reason.floor_char_boundary(REASON_BYTES));
                wanted.reason = Some(reason);
                let delay = AGAIN.0.saturating_mul(1 << wanted.failures.min(20)).min(AGAIN.1);
                wanted.failures = wanted.failures.saturating_add(1);
                let at = now + delay;
                wanted.again = Some(at);
                self.again.insert((at, key.clone()));
            }
        }
    }

    /// Items that are not served as applied.
    pub(crate) fn failing(&self) -> usize {
        self.wanted.values().filter(|wanted| wanted.reason.is_some()).count()
    }

    /// What there is to say.
    pub(crate) fn report(&self) -> wire::Served {
        let mut failing: Vec<_> = self
            .wanted
            .iter()
            .filter_map(|(key, wanted)| Some((wanted.last, key, wanted.reason.as_deref()?)))
            .collect();
        failing.sort_unstable_by(|one, other| other.cmp(one));
        let mut pending = Ranges::default();
        for (last, key, _) in failing.iter().skip(LISTED_FAILURES) {
            let first = self.wanted.get(*key).map_or(*last, |wanted| wanted.first);
            pending.insert(first, *last);
        }
        for wanted in self.wanted.values().filter(|wanted| wanted.reason.is_none()) {
            pending.insert(wanted.first, wanted.last);
        }
        let failed = failing.iter().take(LISTED_FAILURES).map(|(revision, key, reason)| wire::FailedCheck {
            kind: key.kind,
            key: key.name.clone(),
            revision: *revision,
            reason: (*reason).to_owned(),
        });
        wire::Served {
            epoch: self.epoch.clone(),
            upto: self.upto,
            pending: pending.to_wire(),
            sampled: self.sampled.to_wire(),
            failed: failed.collect(),
            marks: Vec::new(),
            health: None,
        }
    }
}
