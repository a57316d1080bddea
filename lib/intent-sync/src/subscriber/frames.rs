//! What each frame of a session means.

use std::collections::BTreeMap;
use std::time::Instant;

use hosting_intent::{Cause, Digest, Item, Key, Removal};
use hosting_ledger::{Journal, Why};
use hosting_proto::feed as wire;
use wire::Up;

use super::{Change, Mode, Partial, Policy, Position, REPAIRS, SessionEnd, Staging, Subscriber};
use crate::Replica;
use crate::convert::{item_from_wire, removal_from_wire, up};

impl<J: Journal, R: Replica, P: Policy> Subscriber<J, R, P> {
    pub(super) fn on_snapshot_begin(
        &mut self,
        begin: wire::SnapshotBegin,
    ) -> Result<Option<String>, SessionEnd> {
        self.never_back(&begin.epoch, begin.base)?;
        if !P::SWEEP_AT_END {
            let effective = self.view.iter().filter(|(_, record)| record.effective().is_some());
            let removals = effective
                .map(|(key, _)| Removal {
                    key,
                    cause: Cause::Planner,
                    traceparent: String::new(),
                    rollout: 0,
                })
                .collect();
            self.publish(Vec::new(), removals);
        }
        if let Some(session) = &mut self.session {
            session.epoch = begin.epoch;
            session.partial = None;
            session.fresh = false;
            session.caught_up = false;
            session.mode = Mode::Staging(Staging { at: begin.base, items: BTreeMap::new() });
        }
        Ok(None)
    }

    pub(super) fn on_snapshot_items(&mut self, items: wire::SnapshotItems) -> Option<String> {
        let session = self.session.as_mut()?;
        match &mut session.mode {
            Mode::Awaiting => None,
            Mode::Following => Some("snapshot items outside a snapshot".to_owned()),
            Mode::Staging(_) if session.partial.is_some() => {
                Some("snapshot items amid a revision".to_owned())
            }
            Mode::Staging(staging) => {
                for item in items.items {
                    let item = item_from_wire(item);
                    staging.items.insert(item.key.clone(), item);
                }
                None
            }
        }
    }

    pub(super) fn on_snapshot_end(
        &mut self,
        end: &wire::SnapshotEnd,
        now: Instant,
    ) -> Result<Option<String>, SessionEnd> {
        let Some(session) = &mut self.session else { return Ok(None) };
        let staging = match std::mem::replace(&mut session.mode, Mode::Awaiting) {
            Mode::Awaiting => return Ok(None),
            Mode::Following => return Ok(Some("the end of a snapshot that did not begin".to_owned())),
            Mode::Staging(staging) => staging,
        };
        if session.partial.take().is_some() {
            return Ok(Some("the end of a snapshot amid a revision".to_owned()));
        }
        let epoch = session.epoch.clone();
        self.never_back(&epoch, end.revision)?;
        let digest = Digest::of(staging.items.values());
        let count = staging.items.len() as u64;
        if staging.at != end.revision || count != end.count || Digest::from_bytes(&end.digest) != Some(digest)
        {
            self.counters.bad_snapshots += 1;
            return Ok(Some(format!(
                "snapshot of {count} items at revision {} with digest {digest} does not match its end: {} items at {}",
                staging.at, end.count, end.revision
            )));
        }
        self.adopt(Position { epoch, revision: end.revision }, staging.items, now);
        self.counters.snapshots += 1;
        if let Some(session) = &mut self.session {
            session.mode = Mode::Following;
        }
        Ok(None)
    }

    /// Puts a verified snapshot into effect: only what differs from the view is a change.
    pub(super) fn adopt(&mut self, position: Position, staged: BTreeMap<Key, Item>, now: Instant) {
        let renewed = self.position.as_ref().is_some_and(|present| present.epoch != position.epoch);
        // Nobody asked for what a sweep removes.
        let cause = if renewed { Cause::Restore } else { Cause::Planner };
        let mut changes: BTreeMap<Key, Change> = self
            .view
            .wanted_keys()
            .filter(|key| !staged.contains_key(key))
            .map(|key| {
                let gone = Removal { key: key.clone(), cause, traceparent: String::new(), rollout: 0 };
                (key, Change::Gone(gone))
            })
            .collect();
        for (key, item) in staged {
            let known = self.view.wanted(&key);
            if known.is_none_or(|known| known.value != item.value || known.revision != item.revision) {
                changes.insert(key, Change::Set(item));
            }
        }
        self.settle(position, changes, now);
    }

    pub(super) fn on_delta(&mut self, delta: wire::Delta, now: Instant) -> Option<String> {
        let session = self.session.as_mut()?;
        let at = match &session.mode {
            Mode::Awaiting => return None,
            Mode::Staging(staging) => staging.at,
            Mode::Following => match &self.position {
                // A revision of another epoch says nothing about this one, whatever its number.
                Some(position) if position.epoch == session.epoch => position.revision,
                _ => return Some("a delta, and no snapshot of its epoch before it".to_owned()),
            },
        };
        if P::CHECK_PREV && (delta.prev != at || delta.revision <= delta.prev) {
            self.counters.gaps += 1;
            return Some(format!(
                "delta from {} to {}, but the position is {at}",
                delta.prev, delta.revision
            ));
        }
        let mut partial = match session.partial.take() {
            None => Partial { prev: delta.prev, revision: delta.revision, changes: BTreeMap::new() },
            Some(partial) if (partial.prev, partial.revision) == (delta.prev, delta.revision) => partial,
            Some(partial) => {
                self.counters.gaps += 1;
                return Some(format!("delta to {} amid revision {}", delta.revision, partial.revision));
            }
        };
        for removal in delta.removals {
            let removal = removal_from_wire(removal);
            // Set and withdrawn in one revision: the name was created anew, and the new one wins.
            if !matches!(partial.changes.get(&removal.key), Some(Change::Set(_))) {
                partial.changes.insert(removal.key.clone(), Change::Gone(removal));
            }
        }
        for item in delta.upserts {
            let item = item_from_wire(item);
            partial.changes.insert(item.key.clone(), Change::Set(item));
        }
        if delta.more {
            session.partial = Some(partial);
            return None;
        }
        if let Mode::Staging(staging) = &mut session.mode {
            staging.at = partial.revision;
            for (key, change) in partial.changes {
                match change {
                    Change::Set(item) => staging.items.insert(key, item),
                    Change::Gone(_) => staging.items.remove(&key),
                };
            }
            return None;
        }
        let epoch = session.epoch.clone();
        session.caught_up = false;
        if std::mem::take(&mut session.fresh) {
            self.counters.resumed += 1;
        }
        self.counters.deltas += 1;
        self.settle(Position { epoch, revision: partial.revision }, partial.changes, now);
        None
    }

    pub(super) fn on_bookmark(&mut self, bookmark: &wire::Bookmark) -> Option<String> {
        let session = self.session.as_mut()?;
        match &session.mode {
            Mode::Awaiting => return None,
            Mode::Staging(_) => return Some("a bookmark amid a snapshot".to_owned()),
            Mode::Following if session.partial.is_some() => {
                return Some("a bookmark amid a revision".to_owned());
            }
            Mode::Following => {}
        }
        let Some(at) = self.position.as_ref().filter(|position| position.epoch == session.epoch) else {
            return Some("a bookmark, and no snapshot of its epoch before it".to_owned());
        };
        let at = at.revision;
        if bookmark.revision != at {
            self.counters.gaps += 1;
            return Some(format!("bookmark at {}, but the position is {at}", bookmark.revision));
        }
        if bookmark.count != self.count || Digest::from_bytes(&bookmark.digest) != Some(self.digest) {
            self.counters.digest_mismatches += 1;
            return Some(format!(
                "{} items with digest {} at revision {at}; the controller has {}",
                self.count, self.digest, bookmark.count
            ));
        }
        if std::mem::take(&mut session.fresh) {
            self.counters.resumed += 1;
        }
        self.counters.bookmarks += 1;
        self.head = bookmark.head;
        session.caught_up = true;
        session.repairs = 0;
        None
    }

    /// An operator speaks: what is held goes into effect.
    pub(super) fn on_release(&mut self, release: &wire::Release) {
        let held: Vec<Key> = self
            .exceptions()
            .filter(|(_, quarantined)| quarantined.why == Why::Held)
            .map(|(key, _)| key.clone())
            .collect();
        self.attempts.forgive();
        if held.is_empty() {
            return;
        }
        tracing::warn!(audience = %self.config.audience, by = %release.by, keys = held.len(), "held changes are released");
        self.take_effect(held);
    }

    pub(super) fn want_snapshot(&mut self, reason: String) -> Result<Up, SessionEnd> {
        let Some(session) = &mut self.session else { return Err(self.unsound("no session")) };
        session.mode = Mode::Awaiting;
        session.partial = None;
        session.caught_up = false;
        session.repairs += 1;
        if session.repairs > REPAIRS {
            return Err(self.unsound(&format!("{REPAIRS} snapshots did not help: {reason}")));
        }
        tracing::warn!(audience = %self.config.audience, %reason, "asking for a snapshot");
        Ok(up(wire::up::Frame::WantSnapshot(wire::WantSnapshot { reason })))
    }

    /// Within an epoch nothing goes back: a controller that is behind us must begin another epoch first, which it does when
    /// it sees our cursor.
    pub(super) fn never_back(&mut self, epoch: &str, revision: u64) -> Result<(), SessionEnd> {
        match &self.position {
            Some(position) if position.epoch == epoch && revision < position.revision => {
                let reason = format!(
                    "a snapshot at revision {revision}, behind {} of the same epoch",
                    position.revision
                );
                Err(self.unsound(&reason))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn unsound(&mut self, reason: &str) -> SessionEnd {
        self.session = None;
        SessionEnd::Unsound(reason.to_owned())
    }
}
