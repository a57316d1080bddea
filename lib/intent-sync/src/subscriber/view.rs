//! The view: changes are judged one by one, held by the brake, and put into effect together.

use std::collections::BTreeMap;
use std::time::Instant;

use hosting_intent::{Cause, Item, Key, Kind, Rejection, Removal, RoleIntent as _, kind_name};
use hosting_ledger::{Journal, Quarantined, Record, Why};

use super::{Change, Judged, Policy, Position, Subscriber, stored};
use crate::{Batch, Replica};

impl<J: Journal, R: Replica, P: Policy> Subscriber<J, R, P> {
    /// Judges every change by itself, lets the brake have its say, and puts the rest into effect together.
    pub(super) fn settle(&mut self, position: Position, changes: BTreeMap<Key, Change>, now: Instant) {
        let before = self.effective;
        let mut stops = Vec::new();
        let (mut upserts, mut removals) = (Vec::new(), Vec::new());
        for (key, change) in changes {
            if let Some(rollout) = self.waits_for(&key, &change) {
                self.wait(rollout, &key, change, position.revision);
                continue;
            }
            let change = match change {
                Change::Gone(removal) => Judged::Gone(removal),
                Change::Set(item) => match self.judge(&key, &item.value) {
                    Ok(intent) => Judged::Good(item, intent),
                    Err((why, reason)) => Judged::Bad(item, why, reason),
                },
            };
            if self.stops(&key, &change) {
                stops.push((key, change));
            } else {
                self.apply(change, &mut upserts, &mut removals);
            }
        }
        // A key that is held already is no further attempt; it waits for the operator in any case.
        let (mut hold, new): (Vec<_>, Vec<_>) = stops.into_iter().partition(|(key, _)| self.is_held(key));
        if self.attempts.exceed(new.len(), before.max(self.effective), now) {
            tracing::error!(
                audience = %self.config.audience, keys = new.len(), revision = position.revision,
                "too many removals without a person's cause; they are held until an operator releases them"
            );
            hold.extend(new);
        } else {
            let removed = new.iter().filter(|(_, change)| matches!(change, Judged::Gone(_))).count();
            self.attempts.removed(removed);
            for (_, change) in new {
                self.apply(change, &mut upserts, &mut removals);
            }
        }
        for (key, change) in hold {
            self.hold(&key, change, position.revision);
        }
        self.position = Some(position);
        self.unwritten = true;
        self.publish(upserts, removals);
    }

    /// Whether a change stops serving something that is served, or destroys it, without a person having asked for it.
    pub(super) fn stops(&self, key: &Key, change: &Judged<R::Intent>) -> bool {
        let present = || self.view.effective(key).map(|stored| R::Intent::parse(key, &stored.value));
        match change {
            // That a Retire is no longer wanted destroys nothing.
            Judged::Gone(removal) => {
                removal.cause != Cause::Person
                    && key.known_kind() != Some(Kind::Retire)
                    && present().is_some()
            }
            Judged::Good(item, intent) if item.cause != Cause::Person && intent.takes_away() => {
                match present() {
                    Some(Ok(served)) => !served.takes_away(),
                    Some(Err(_)) => true,
                    // New and empty from the start takes nothing away, except a Retire, which is about something else.
                    None => key.known_kind() == Some(Kind::Retire),
                }
            }
            Judged::Good(..) | Judged::Bad(..) => false,
        }
    }

    pub(super) fn is_held(&self, key: &Key) -> bool {
        self.view.quarantined(key).is_some_and(|quarantined| quarantined.why == Why::Held)
    }

    pub(super) fn judge(&self, key: &Key, value: &[u8]) -> Result<R::Intent, (Why, String)> {
        if let Some(kind) = key.known_kind()
            && !self.config.kinds.contains(&kind)
        {
            return Err((Why::Unsupported, format!("this role does not apply {}", kind_name(key.kind))));
        }
        let intent = R::Intent::parse(key, value).map_err(|rejection| match rejection {
            Rejection::UnknownKind(_) => (Why::Unsupported, rejection.to_string()),
            Rejection::Malformed(_) | Rejection::Invalid { .. } => (Why::Rejected, rejection.to_string()),
        })?;
        self.replica.check(key, &intent).map_err(|rejection| (Why::Rejected, rejection.to_string()))?;
        Ok(intent)
    }

    pub(super) fn apply(
        &mut self,
        change: Judged<R::Intent>,
        upserts: &mut Vec<(Item, R::Intent)>,
        removals: &mut Vec<Removal>,
    ) {
        match change {
            Judged::Good(item, intent) => {
                let stored = stored(&item);
                let same = self.view.effective(&item.key).is_some_and(|present| {
                    present.value == stored.value && present.revision == stored.revision
                });
                self.put(&item.key, Some(Record::Accepted(stored)));
                if !same {
                    upserts.push((item, intent));
                }
            }
            Judged::Bad(item, why, reason) => {
                if why == Why::Rejected {
                    self.counters.rejected += 1;
                    tracing::warn!(
                        audience = %self.config.audience, key = %item.key, revision = item.revision, %reason,
                        "rejected"
                    );
                }
                let good = self.view.effective(&item.key);
                self.quarantine(
                    &item.key,
                    Quarantined { why, reason, revision: item.revision, wanted: Some(stored(&item)), good },
                );
            }
            Judged::Gone(removal) => {
                let effective = self.view.effective(&removal.key).is_some();
                if !effective && self.view.get(&removal.key).is_none() {
                    return;
                }
                self.put(&removal.key, None);
                if effective {
                    removals.push(removal);
                }
            }
        }
    }

    pub(super) fn hold(&mut self, key: &Key, change: Judged<R::Intent>, revision: u64) {
        self.counters.held += 1;
        let good = self.view.effective(key);
        let (wanted, reason) = match change {
            Judged::Good(item, _) | Judged::Bad(item, ..) => (
                Some(stored(&item)),
                "takes away what is served, among too many others, and nobody asked for it",
            ),
            Judged::Gone(_) => (None, "removed among too many others, and nobody asked for it"),
        };
        self.quarantine(
            key,
            Quarantined { why: Why::Held, reason: reason.to_owned(), revision, wanted, good },
        );
    }

    pub(super) fn quarantine(&mut self, key: &Key, quarantined: Quarantined) {
        self.put(key, Some(Record::Quarantined(Box::new(quarantined))));
    }

    /// The one place where the view changes: sums, quarantine and dirty keys follow.
    pub(super) fn put(&mut self, key: &Key, record: Option<Record>) {
        if let Some(record) = &record {
            if let Some(wanted) = record.wanted() {
                self.count += 1;
                self.digest.add(key, &wanted.value);
            }
            self.effective += u64::from(record.effective().is_some());
        }
        let before = match record {
            Some(record) => self.view.insert(key, record),
            None => self.view.remove(key),
        };
        if let Some(before) = &before {
            if let Some(wanted) = before.wanted() {
                self.count = self.count.saturating_sub(1);
                self.digest.remove(key, &wanted.value);
            }
            self.effective = self.effective.saturating_sub(u64::from(before.effective().is_some()));
        }
        let (before, after) = (before.as_ref().and_then(Record::quarantined), self.view.quarantined(key));
        let told = |quarantined: Option<&Quarantined>| {
            quarantined.map(|quarantined| (quarantined.why, quarantined.revision, quarantined.reason.clone()))
        };
        if told(before) != told(after) {
            self.exceptions_changed = true;
        }
        let waits = |quarantined: Option<&Quarantined>| match quarantined.map(|quarantined| quarantined.why) {
            Some(Why::Waiting(rollout)) => Some(rollout),
            Some(Why::Rejected | Why::Held | Why::Unsupported) | None => None,
        };
        let (waited, waits, is_exception) = (waits(before), waits(after), after.is_some());
        if let Some(rollout) = waited {
            self.rollouts.end_wait(rollout, key);
        }
        if let Some(rollout) = waits {
            self.rollouts.wait(rollout, key);
        }
        if is_exception && waits.is_none() {
            self.quarantine.insert(key.clone());
        } else {
            self.quarantine.remove(key);
        }
        self.unwritten = true;
        if !self.rewrite {
            self.dirty.insert(key.clone());
        }
    }

    /// Puts some of the ledger's view into effect; the rest follows.
    pub(super) fn publish_piece(&mut self, upserts: Vec<(Item, R::Intent)>) {
        let Some(position) = &self.position else { return };
        let (epoch, revision) = (position.epoch.clone(), position.revision);
        self.replica.publish(Batch { epoch, revision, upserts, removals: Vec::new(), more: P::MARK_PIECES });
    }

    pub(super) fn publish(&mut self, upserts: Vec<(Item, R::Intent)>, mut removals: Vec<Removal>) {
        let Some(position) = &self.position else { return };
        if !P::PUBLISH_REMOVALS {
            removals.clear();
        }
        self.counters.published += 1;
        self.replica.publish(Batch {
            epoch: position.epoch.clone(),
            revision: position.revision,
            upserts,
            removals,
            more: false,
        });
    }
}
