//! What is said of each intent: the worst of the things that come from it.

use std::collections::BTreeMap;

pub use hosting_proto::feed::key_report::Phase;

use crate::{
    desired::Desired,
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

#[derive(Debug, Default)]
struct Entry {
    revision: u64,
    parts: BTreeMap<Key, Option<Outcome>>,
    /// Others' parts, and whether the work on them has ended.
    waits_for: BTreeMap<Key, bool>,
    last: Option<Report>,
}

/// Reports per intent, and what was last said of each.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    entries: BTreeMap<hosting_intent::Key, Entry>,
}

/// Told each time a report changes; `None`: there is nothing to say of the key any more.
pub(crate) type Sink<'a> = dyn Fn(&hosting_intent::Key, Option<&Report>) + Sync + 'a;

impl Reports {
    /// A new pass begins: `settled` gives what is known of a wanted key if its spec has not changed since.
    pub(crate) fn begin(
        &mut self,
        desired: &Desired,
        settled: impl Fn(&Key) -> Option<Outcome>,
        orphan: impl Fn(&Key) -> bool,
        sink: &Sink<'_>,
    ) {
        for entry in self.entries.values_mut() {
            entry.revision = 0;
            entry.parts.retain(|key, _| orphan(key) && !desired.wants.contains_key(key));
            entry.waits_for.clear();
        }
        for (key, wanted) in &desired.wants {
            if let Some((origin, revision)) = &wanted.origin {
                let entry = self.entries.entry(origin.clone()).or_default();
                entry.revision = entry.revision.max(*revision);
                entry.parts.insert(key.clone(), settled(key));
            }
        }
        for (key, wanted) in &desired.wants {
            for intent in &wanted.also {
                if let Some(entry) = self.entries.get_mut(intent) {
                    entry.waits_for.insert(key.clone(), settled(key).is_some());
                }
            }
        }
        let keys: Vec<_> = self.entries.keys().cloned().collect();
        for key in keys {
            self.publish(&key, sink);
        }
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
            entry.parts.insert(key.clone(), Some(outcome.clone()));
        }
        self.publish(origin, sink);
    }

    /// The work on a key that `intent` waits for ended.
    pub(crate) fn ended(&mut self, intent: &hosting_intent::Key, key: &Key, sink: &Sink<'_>) {
        if let Some(ended) = self.entries.get_mut(intent).and_then(|entry| entry.waits_for.get_mut(key)) {
            *ended = true;
            self.publish(intent, sink);
        }
    }

    fn publish(&mut self, origin: &hosting_intent::Key, sink: &Sink<'_>) {
        let Some(entry) = self.entries.get_mut(origin) else { return };
        let report = entry.report();
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
    fn report(&self) -> Option<Report> {
        let worst = self
            .parts
            .values()
            .map(|outcome| said(outcome.as_ref()))
            .max_by_key(|(phase, message)| (rank(*phase), !message.is_empty()))?;
        // Said once, it stays said until the intent itself changes: its parts' own changes are their own news.
        let was_ready = self
            .last
            .as_ref()
            .is_some_and(|last| last.phase == Phase::Ready && last.revision == self.revision);
        let waits = worst.0 == Phase::Ready && !was_ready && self.waits_for.values().any(|ended| !ended);
        let (phase, message) = if waits { (Phase::Converging, "") } else { worst };
        let revision = if phase == Phase::Orphan { 0 } else { self.revision };
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
