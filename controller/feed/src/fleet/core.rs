//! The state of the fleet, with time as an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hosting_intent::{Audience, Key};
use hosting_proto::feed::exception::Type;
use hosting_proto::feed::{Ack, Exception, Served, ServedMark};
use tokio::sync::mpsc;

use super::{HEARTBEAT, MAX_EXCEPTIONS, News, Remote, Subscriber};
use crate::words;

/// What a session is told from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Apply what the brake holds.
    Release { by: String },
    /// End, for this reason; the node may come back after so long.
    Leave { reason: String, retry_after: Duration },
}

/// Moments that are kept of how far a subscriber served.
const MAX_MARKS: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Who {
    pub(super) audience: Audience,
    pub(super) node_id: String,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// The session of this controller that may speak for it; 0: none.
    pub(super) session: u64,
    /// The controller that speaks for it, and whether it is connected there; `None`: this one, or nobody.
    pub(super) elsewhere: Option<(String, bool)>,
    /// It has come here, and the store does not know yet.
    pub(super) claims: bool,
    pub(super) orders: Option<mpsc::Sender<Order>>,
    pub(super) build: String,
    pub(super) epoch: String,
    pub(super) applied: u64,
    pub(super) durable: u64,
    pub(super) exceptions: Vec<Exception>,
    pub(super) served: Option<Served>,
    last_frame: Instant,
    /// The audience's head when it joined.
    joined: (String, u64),
    pub(super) in_service: bool,
    /// A deadline for it is set.
    armed: bool,
    pub(super) exceptions_dirty: bool,
    /// When a list of exceptions was handed out to be saved.
    pub(super) listed: Option<Instant>,
}

impl Entry {
    /// One that nothing is known of yet.
    const fn unknown(now: Instant) -> Self {
        Self {
            session: 0,
            elsewhere: None,
            claims: false,
            orders: None,
            build: String::new(),
            epoch: String::new(),
            applied: 0,
            durable: 0,
            exceptions: Vec::new(),
            served: None,
            last_frame: now,
            joined: (String::new(), 0),
            in_service: false,
            armed: false,
            exceptions_dirty: false,
            listed: None,
        }
    }

    /// Ends the session. One that takes no orders now finds that nobody gives it any.
    pub(super) fn send_away(&mut self, reason: &str) {
        if let Some(orders) = self.orders.take() {
            let _ = orders.try_send(Order::Leave { reason: reason.to_owned(), retry_after: HEARTBEAT });
        }
    }
}

/// The state, with time as an argument.
#[derive(Debug)]
pub(super) struct Core {
    lease: Duration,
    pub(super) entries: BTreeMap<Who, Entry>,
    /// When to look at whom again. At most one deadline each: it is moved when it is due, not at each frame.
    pub(super) deadlines: BTreeSet<(Instant, Who)>,
    /// Not saved yet.
    pub(super) dirty: BTreeSet<Who>,
    /// Long lists of exceptions whose time to be saved has not come.
    pub(super) put_off: BTreeSet<Who>,
    pub(super) news: News,
    next_session: u64,
}

impl Core {
    pub(super) fn new(lease: Duration) -> Self {
        Self {
            lease,
            entries: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            dirty: BTreeSet::new(),
            put_off: BTreeSet::new(),
            news: News::default(),
            next_session: 0,
        }
    }

    pub(super) fn join(
        &mut self,
        who: &Who,
        hello: Joining,
        orders: mpsc::Sender<Order>,
        now: Instant,
    ) -> u64 {
        self.next_session += 1;
        let session = self.next_session;
        let lease = self.lease;
        let entry = self.entries.entry(who.clone()).or_insert_with(|| Entry::unknown(now));
        // One that comes back within its lease never left; any other has to catch up first.
        let stays = entry.in_service && now.duration_since(entry.last_frame) < lease;
        if let Some(before) = entry.orders.replace(orders) {
            let _ = before.try_send(Order::Leave {
                reason: "a newer session of the same node and audience took over".into(),
                retry_after: HEARTBEAT,
            });
        }
        self.news.everything |= stays != entry.in_service;
        entry.session = session;
        (entry.elsewhere, entry.claims) = (None, true);
        // It may be another build, or have other tables: it says it again.
        entry.served = None;
        self.dirty.insert(who.clone());
        entry.build = hello.build;
        entry.last_frame = now;
        entry.in_service = stays;
        // Where it says it is counts, not where it once was: it may have lost its disk. Positions of another epoch say
        // nothing about this one.
        let at = hello.cursor.filter(|(epoch, _)| *epoch == hello.epoch).map_or(0, |(_, revision)| revision);
        self.news.everything |= entry.epoch != hello.epoch || at < entry.applied;
        self.news.moved(&who.audience, entry.applied.min(at), at);
        entry.epoch.clone_from(&hello.epoch);
        (entry.applied, entry.durable) = (at, at);
        entry.joined = (hello.epoch, hello.head);
        if !std::mem::replace(&mut entry.armed, true) {
            self.deadlines.insert((now + lease, who.clone()));
        }
        session
    }

    pub(super) fn ack(&mut self, who: &Who, session: u64, mut ack: Ack, now: Instant) -> Option<bool> {
        words::exceptions(&mut ack.exceptions, MAX_EXCEPTIONS);
        if !self.touch(who, session, now) {
            return None;
        }
        let entry = self.entries.get_mut(who)?;
        // What is in effect is never beyond what was sent, and a durable position never beyond the applied one.
        let durable = ack.durable.min(ack.applied);
        let moved =
            (entry.epoch.as_str(), entry.applied, entry.durable) != (&ack.epoch, ack.applied, durable);
        if moved {
            self.news.everything |= entry.epoch != ack.epoch || ack.applied < entry.applied;
            self.news.moved(&who.audience, entry.applied.min(ack.applied), ack.applied);
            (entry.epoch, entry.applied, entry.durable) = (ack.epoch, ack.applied, durable);
        }
        let mut changed = moved;
        if ack.has_exceptions && ack.exceptions != entry.exceptions {
            for exception in entry.exceptions.iter().chain(&ack.exceptions) {
                if exception.r#type() == Type::Waiting {
                    // One for all of a rollout's items.
                    let from = exception.revision.saturating_sub(1);
                    self.news.moved(&who.audience, from, entry.applied);
                    continue;
                }
                let key = Key { kind: exception.kind, name: exception.key.clone() };
                self.news.item(&who.audience, key);
            }
            entry.exceptions = ack.exceptions;
            entry.exceptions_dirty = true;
            changed = true;
        }
        let caught_up = entry.epoch == entry.joined.0 && entry.applied >= entry.joined.1;
        if caught_up && !entry.in_service {
            entry.in_service = true;
            self.news.everything = true;
            changed = true;
        }
        if changed {
            self.dirty.insert(who.clone());
        }
        Some(changed)
    }

    /// Takes in what a subscriber serves, and dates how far it is. False: a newer session speaks for it.
    pub(super) fn served(
        &mut self,
        who: &Who,
        session: u64,
        mut served: Served,
        at_ms: i64,
        now: Instant,
    ) -> bool {
        words::served(&mut served);
        if !self.touch(who, session, now) {
            return false;
        }
        let Some(entry) = self.entries.get_mut(who) else { return false };
        let before = entry.served.take().filter(|before| before.epoch == served.epoch);
        served.marks = before.map(|before| before.marks).unwrap_or_default();
        // Up to the first revision of which something is not served yet, everything is.
        let open = served
            .pending
            .iter()
            .map(|range| range.first)
            .chain(served.failed.iter().map(|one| one.revision));
        let upto = open.min().map_or(served.upto, |first| served.upto.min(first.saturating_sub(1)));
        if served.marks.last().is_none_or(|last| last.upto < upto) {
            if served.marks.len() >= MAX_MARKS {
                served.marks.remove(0);
            }
            served.marks.push(ServedMark { upto, at_ms });
        }
        entry.served = Some(served);
        self.dirty.insert(who.clone());
        true
    }

    pub(super) fn touch(&mut self, who: &Who, session: u64, now: Instant) -> bool {
        let lease = self.lease;
        let Some(entry) = self.entries.get_mut(who).filter(|entry| entry.session == session) else {
            return false;
        };
        entry.last_frame = now;
        if !std::mem::replace(&mut entry.armed, true) {
            self.deadlines.insert((now + lease, who.clone()));
        }
        true
    }

    /// Takes those out of service whose lease is over. Answers whether any was, and when to look again.
    pub(super) fn expire(&mut self, now: Instant) -> (bool, Option<Instant>) {
        let mut changed = false;
        while let Some((at, _)) = self.deadlines.first() {
            if *at > now {
                return (changed, Some(*at));
            }
            let Some((_, who)) = self.deadlines.pop_first() else { break };
            let Some(entry) = self.entries.get_mut(&who) else { continue };
            let ends = entry.last_frame + self.lease;
            if ends > now {
                self.deadlines.insert((ends, who));
            } else {
                entry.armed = false;
                let ended = std::mem::take(&mut entry.in_service);
                if ended && entry.elsewhere.is_none() {
                    self.dirty.insert(who);
                }
                self.news.everything |= ended;
                changed |= ended;
            }
        }
        (changed, None)
    }

    /// Takes in what another controller says of a subscriber, or that nobody knows it any more.
    pub(super) fn learn(&mut self, who: Who, said: Option<Remote>, now: Instant) {
        let Some(said) = said else {
            if let Some(mut entry) = self.entries.remove(&who) {
                entry.send_away("the registry no longer gives this audience to the node");
                self.news.everything = true;
            }
            return;
        };
        let lease = self.lease;
        let entry = self.entries.entry(who.clone()).or_insert_with(|| Entry::unknown(now));
        entry.send_away("the node has come to another controller");
        (entry.session, entry.claims) = (0, false);
        self.news.everything |=
            entry.epoch != said.epoch || said.applied < entry.applied || entry.in_service != said.in_service;
        self.news.moved(&who.audience, entry.applied.min(said.applied), said.applied);
        if entry.exceptions != said.exceptions {
            for exception in entry.exceptions.iter().chain(&said.exceptions) {
                if exception.r#type() == Type::Waiting {
                    self.news.moved(&who.audience, exception.revision.saturating_sub(1), said.applied);
                    continue;
                }
                self.news.item(&who.audience, Key { kind: exception.kind, name: exception.key.clone() });
            }
            entry.exceptions = said.exceptions;
        }
        entry.served = said.served;
        (entry.build, entry.epoch) = (said.build, said.epoch);
        (entry.applied, entry.durable, entry.in_service) = (said.applied, said.durable, said.in_service);
        entry.elsewhere = Some((said.controller, said.connected));
        entry.last_frame = now;
        if !std::mem::replace(&mut entry.armed, true) {
            self.deadlines.insert((now + lease, who));
        }
    }

    /// Those controllers run: whoever is connected to one of them is there.
    pub(super) fn alive(&mut self, controllers: &BTreeSet<String>, now: Instant) {
        let lease = self.lease;
        for (who, entry) in &mut self.entries {
            let Some((controller, true)) = &entry.elsewhere else { continue };
            if !controllers.contains(controller) {
                continue;
            }
            entry.last_frame = now;
            if !std::mem::replace(&mut entry.armed, true) {
                self.deadlines.insert((now + lease, who.clone()));
            }
        }
    }

    pub(super) fn serves(&self, entry: &Entry, now: Instant) -> bool {
        entry.in_service && now.saturating_duration_since(entry.last_frame) < self.lease
    }

    pub(super) fn view(&self, who: &Who, entry: &Entry, now: Instant) -> Subscriber {
        Subscriber {
            node_id: who.node_id.clone(),
            audience: who.audience.clone(),
            build: entry.build.clone(),
            epoch: entry.epoch.clone(),
            applied: entry.applied,
            durable: entry.durable,
            exceptions: entry.exceptions.clone(),
            connected: entry.session != 0
                || entry.elsewhere.as_ref().is_some_and(|(_, connected)| *connected),
            silent_for: now.saturating_duration_since(entry.last_frame),
            in_service: self.serves(entry, now),
        }
    }

    pub(super) fn of<'a>(&'a self, audience: &'a Audience) -> impl Iterator<Item = (&'a Who, &'a Entry)> {
        let from = Who { audience: audience.clone(), node_id: String::new() };
        self.entries.range(from..).take_while(move |(who, _)| who.audience == *audience)
    }
}

/// What a session says when it joins.
#[derive(Debug, Clone)]
pub(crate) struct Joining {
    /// Build of the subscriber.
    pub(crate) build: String,
    /// The store's epoch.
    pub(crate) epoch: String,
    /// The audience's newest revision.
    pub(crate) head: u64,
    /// Where the subscriber says it is.
    pub(crate) cursor: Option<(String, u64)>,
}
