//! What is said of each intent: the worst of the things that come from it.

use std::collections::{BTreeMap, BTreeSet};

pub use hosting_proto::feed::key_report::Phase;

use crate::{
    desired::Wanted,
    driver::{Key, Outcome, Rest},
};

/// The state of one intent on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How it stands.
    pub phase: Phase,
    /// Revision of the intent item this speaks of; 0 for an orphan.
    pub revision: u64,
    /// For people; at most [`MESSAGE_BYTES`].
    pub message: String,
}

/// Longest message in bytes.
pub(crate) const MESSAGE_BYTES: usize = 1000;

/// One key's share in what is said of an intent.
#[derive(Debug, Default)]
struct Part {
    /// Revision of the intent, as long as it wants the key.
    revision: Option<u64>,
    outcome: Option<Outcome>,
}

#[derive(Debug, Default)]
struct Entry {
    parts: BTreeMap<Key, Part>,
    last: Option<Report>,
}

/// Others' parts that an intent waits for.
#[derive(Debug, Default)]
struct Waiting {
    /// Whether the work on each has ended.
    ended: BTreeMap<Key, bool>,
    /// Number of those that have not.
    open: usize,
}

impl Waiting {
    fn put(&mut self, key: &Key, ended: bool) {
        self.remove(key);
        self.open += usize::from(!ended);
        self.ended.insert(key.clone(), ended);
    }

    fn remove(&mut self, key: &Key) {
        if self.ended.remove(key) == Some(false) {
            self.open -= 1;
        }
    }
}

/// Reports per intent, and what was last said of each.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    entries: BTreeMap<hosting_intent::Key, Entry>,
    waiting: BTreeMap<hosting_intent::Key, Waiting>,
    /// Intents whose entries changed since they were last published.
    touched: BTreeSet<hosting_intent::Key>,
}

/// A key whose wanted state changed, and what is known of it.
pub(crate) struct Changed<'a> {
    pub(crate) key: &'a Key,
    pub(crate) old: Option<&'a Wanted>,
    pub(crate) new: Option<&'a Wanted>,
    /// How it stands, if its spec is as before.
    pub(crate) settled: Option<&'a Outcome>,
    /// How it stands, if something may be left of it.
    pub(crate) left: Option<&'a Outcome>,
    /// The intent that it is reported under when nobody wants it.
    pub(crate) unwanted: Option<hosting_intent::Key>,
}

/// Told each time a report changes; `None`: there is nothing to say of the key any more.
pub(crate) type Sink<'a> = dyn Fn(&hosting_intent::Key, Option<&Report>) + Sync + 'a;

impl Reports {
    /// What is wanted of a key changed. Said with [`Reports::publish_touched`], when all changes are known.
    pub(crate) fn change(&mut self, changed: Changed<'_>) {
        let Changed { key, old, new, settled, left, unwanted } = changed;
        let before = match old {
            Some(old) => old.origin.as_ref().map(|(origin, _)| origin),
            None => unwanted.as_ref(),
        };
        if let Some(origin) = before {
            if let Some(entry) = self.entries.get_mut(origin) {
                entry.parts.remove(key);
            }
            self.touched.insert(origin.clone());
        }
        let (origin, part) = match new {
            Some(new) => {
                let origin = new.origin.as_ref();
                let part =
                    Part { revision: origin.map(|(_, revision)| *revision), outcome: settled.cloned() };
                (origin.map(|(origin, _)| origin.clone()), Some(part))
            }
            None => (unwanted, left.map(|left| Part { revision: None, outcome: Some(left.clone()) })),
        };
        if let (Some(origin), Some(part)) = (origin, part) {
            self.entries.entry(origin.clone()).or_default().parts.insert(key.clone(), part);
            self.touched.insert(origin);
        }
        for intent in old.map(|old| old.also.as_slice()).unwrap_or_default() {
            if let Some(waiting) = self.waiting.get_mut(intent) {
                waiting.remove(key);
                if waiting.ended.is_empty() {
                    self.waiting.remove(intent);
                }
            }
            self.touched.insert(intent.clone());
        }
        for intent in new.map(|new| new.also.as_slice()).unwrap_or_default() {
            self.waiting.entry(intent.clone()).or_default().put(key, settled.is_some());
            self.touched.insert(intent.clone());
        }
    }

    /// Says what changed. Gives back how many intents it was.
    pub(crate) fn publish_touched(&mut self, sink: &Sink<'_>) -> usize {
        let touched = std::mem::take(&mut self.touched);
        for intent in &touched {
            self.publish(intent, sink);
        }
        touched.len()
    }

    /// The work on a key of `origin` ended.
    pub(crate) fn set(
        &mut self,
        origin: &hosting_intent::Key,
        key: &Key,
        outcome: &Outcome,
        sink: &Sink<'_>,
    ) {
        let entry = self.entries.entry(origin.clone()).or_default();
        if *outcome == Outcome::Rest(Rest::Gone) {
            entry.parts.remove(key);
        } else {
            entry.parts.entry(key.clone()).or_default().outcome = Some(outcome.clone());
        }
        self.publish(origin, sink);
    }

    /// The work on a key that `intent` waits for ended.
    pub(crate) fn ended(&mut self, intent: &hosting_intent::Key, key: &Key, sink: &Sink<'_>) {
        let Some(waiting) = self.waiting.get_mut(intent) else { return };
        if waiting.ended.contains_key(key) {
            waiting.put(key, true);
            self.publish(intent, sink);
        }
    }

    fn publish(&mut self, origin: &hosting_intent::Key, sink: &Sink<'_>) {
        let Some(entry) = self.entries.get_mut(origin) else { return };
        let waits = self.waiting.get(origin).is_some_and(|waiting| waiting.open > 0);
        let report = entry.report(waits);
        if entry.last != report {
            entry.last = report;
            sink(origin, entry.last.as_ref());
        }
        if entry.parts.is_empty() {
            self.entries.remove(origin);
        }
    }
}

impl Entry {
    fn report(&self, waits_for_others: bool) -> Option<Report> {
        let worst = self
            .parts
            .values()
            .map(|part| said(part.outcome.as_ref()))
            .max_by_key(|(phase, message)| (rank(*phase), !message.is_empty()))?;
        let wanted = self.parts.values().filter_map(|part| part.revision).max().unwrap_or_default();
        // Said once, it stays said until the intent itself changes: its parts' own changes are their own news.
        let was_ready =
            self.last.as_ref().is_some_and(|last| last.phase == Phase::Ready && last.revision == wanted);
        let waits = worst.0 == Phase::Ready && !was_ready && waits_for_others;
        let (phase, message) = if waits { (Phase::Converging, "") } else { worst };
        let revision = if phase == Phase::Orphan { 0 } else { wanted };
        Some(Report { phase, revision, message: shorten(message) })
    }
}

pub(crate) fn said(outcome: Option<&Outcome>) -> (Phase, &str) {
    match outcome {
        None => (Phase::Converging, ""),
        Some(Outcome::Unknown(message) | Outcome::Rest(Rest::Refused(message))) => (Phase::Failed, message),
        Some(Outcome::Waits { why, hidden_failure: true }) => (Phase::Failed, why),
        Some(Outcome::Waits { why, hidden_failure: false }) => (Phase::Blocked, why),
        Some(Outcome::Rest(Rest::Ready(message))) => (Phase::Ready, message),
        Some(Outcome::Rest(Rest::Blocked(message))) => (Phase::Blocked, message),
        Some(Outcome::Rest(Rest::Kept(message))) => (Phase::Orphan, message),
        Some(Outcome::Rest(Rest::Retired | Rest::Gone)) => (Phase::Retired, ""),
    }
}

/// Worse is higher. An orphan beside wanted parts of the same intent says nothing about them.
fn rank(phase: Phase) -> u8 {
    match phase {
        Phase::Unspecified => 0,
        Phase::Orphan => 1,
        Phase::Retired => 2,
        Phase::Ready => 3,
        Phase::Converging => 4,
        Phase::Blocked => 5,
        Phase::Failed => 6,
    }
}

fn shorten(message: &str) -> String {
    if message.len() <= MESSAGE_BYTES {
        return message.to_owned();
    }
    let mut end = MESSAGE_BYTES - '…'.len_utf8();
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", message.get(..end).unwrap_or_default())
}
