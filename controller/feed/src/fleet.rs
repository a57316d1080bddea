//! Who is there and how far: the leases, positions and exceptions of all subscribers, in memory.
//!
//! A subscriber is alive while its last frame is younger than the lease, whether or not its connection still stands: what
//! is silent may still be serving. It is in service while it is alive and has applied the head that it saw when it joined;
//! one that comes back within its lease never left. The clock is monotonic. Heartbeats write no rows; positions are merged
//! and saved a few times a second. [`crate::server`] feeds it; gates, `?wait=ready` and the API read it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hosting_intent::{Audience, Key};
use hosting_proto::feed::{Ack, Exception};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::registry::{StatusSink, Watermark};
use crate::words;

/// What a subscriber is told it must stay under, in silence.
pub const LEASE: Duration = Duration::from_secs(15);
/// How often a subscriber says that it is there, and the controller likewise.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// Orders to a session that is not taking them pile up no further than this.
const ORDERS: usize = 4;
/// Most exceptions that are kept of one subscriber. One that has more lists the first thousand itself.
const MAX_EXCEPTIONS: usize = 2_000;
/// A long list of exceptions is saved no more often than this: each time the whole of it is written.
const LIST_EVERY: Duration = Duration::from_secs(5);
/// Exceptions of a list that is saved at each flush; a longer list is saved now and then.
const SHORT_LIST: usize = 50;

/// A subscriber as gates and operators see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscriber {
    /// Who.
    pub node_id: String,
    /// About what.
    pub audience: Audience,
    /// Build that said Hello; empty when known only from the store.
    pub build: String,
    /// Epoch of the revisions.
    pub epoch: String,
    /// Highest revision in effect.
    pub applied: u64,
    /// Highest revision on the node's disk.
    pub durable: u64,
    /// What it does not apply, and why.
    pub exceptions: Vec<Exception>,
    /// A session stands.
    pub connected: bool,
    /// Since its last frame; since the controller's start when there was none.
    pub silent_for: Duration,
    /// Alive within the lease and caught up with the head it saw when it joined.
    pub in_service: bool,
}

/// How far a subscriber is, as gates see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Who.
    pub node_id: String,
    /// Epoch of the revision.
    pub epoch: String,
    /// Highest revision in effect.
    pub applied: u64,
    /// As [`Subscriber::in_service`].
    pub in_service: bool,
}

/// What changed since it was last taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct News {
    /// Revisions that somebody applied, by audience: each after the first, up to the second. Ranges of one audience are apart, so that
    /// one subscriber that catches up from far behind does not make of all of them one that holds everything.
    pub applied: BTreeMap<Audience, Vec<(u64, u64)>>,
    /// Items about which a subscriber said something.
    pub items: BTreeSet<(Audience, Key)>,
    /// Who is in service, or who there is; or more changed than is listed.
    pub everything: bool,
}

impl News {
    /// Items that are listed; beyond, everything may have changed.
    const MAX_ITEMS: usize = 10_000;
    /// Ranges of one audience that are kept apart.
    const MAX_RANGES: usize = 16;

    /// Adds an item.
    pub fn item(&mut self, audience: &Audience, key: Key) {
        if self.items.len() < Self::MAX_ITEMS {
            self.items.insert((audience.clone(), key));
        } else {
            self.everything = true;
        }
    }

    /// Adds the revisions after `before`, up to `after`.
    fn moved(&mut self, audience: &Audience, before: u64, after: u64) {
        if before >= after {
            return;
        }
        let ranges = self.applied.entry(audience.clone()).or_default();
        let (mut from, mut upto) = (before, after);
        ranges.retain(|range| {
            let apart = range.1 < from || upto < range.0;
            if !apart {
                (from, upto) = (from.min(range.0), upto.max(range.1));
            }
            apart
        });
        if ranges.len() >= Self::MAX_RANGES {
            self.everything = true;
        } else {
            ranges.push((from, upto));
        }
    }
}

/// What a session is told from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Apply what the brake holds.
    Release { by: String },
    /// End, for this reason; the node may come back after so long.
    Leave { reason: String, retry_after: Duration },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Who {
    audience: Audience,
    node_id: String,
}

#[derive(Debug)]
struct Entry {
    /// The session that may speak for it; 0: none.
    session: u64,
    orders: Option<mpsc::Sender<Order>>,
    build: String,
    epoch: String,
    applied: u64,
    durable: u64,
    exceptions: Vec<Exception>,
    last_frame: Instant,
    /// The audience's head when it joined.
    joined: (String, u64),
    in_service: bool,
    /// A deadline for it is set.
    armed: bool,
    exceptions_dirty: bool,
    /// When a list of exceptions was handed out to be saved.
    listed: Option<Instant>,
}

impl Entry {
    /// Ends the session. One that takes no orders now finds that nobody gives it any.
    fn send_away(&mut self, reason: &str) {
        if let Some(orders) = self.orders.take() {
            let _ = orders.try_send(Order::Leave { reason: reason.to_owned(), retry_after: HEARTBEAT });
        }
    }
}

/// The state, with time as an argument.
#[derive(Debug)]
struct Core {
    lease: Duration,
    entries: BTreeMap<Who, Entry>,
    /// When to look at whom again. At most one deadline each: it is moved when it is due, not at each frame.
    deadlines: BTreeSet<(Instant, Who)>,
    /// Not saved yet.
    dirty: BTreeSet<Who>,
    /// Long lists of exceptions whose time to be saved has not come.
    put_off: BTreeSet<Who>,
    news: News,
    next_session: u64,
}

impl Core {
    fn new(lease: Duration) -> Self {
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

    fn join(&mut self, who: &Who, hello: Joining, orders: mpsc::Sender<Order>, now: Instant) -> u64 {
        self.next_session += 1;
        let session = self.next_session;
        let lease = self.lease;
        let entry = self.entries.entry(who.clone()).or_insert_with(|| Entry {
            session,
            orders: None,
            build: String::new(),
            epoch: String::new(),
            applied: 0,
            durable: 0,
            exceptions: Vec::new(),
            last_frame: now,
            joined: (String::new(), 0),
            in_service: false,
            armed: false,
            exceptions_dirty: false,
            listed: None,
        });
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

    fn ack(&mut self, who: &Who, session: u64, mut ack: Ack, now: Instant) -> Option<bool> {
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
                let key = Key { kind: exception.kind, name: exception.key.clone() };
                self.news.item(&who.audience, key);
            }
            entry.exceptions = ack.exceptions;
            entry.exceptions_dirty = true;
            changed = true;
        }
        if changed {
            self.dirty.insert(who.clone());
        }
        let caught_up = entry.epoch == entry.joined.0 && entry.applied >= entry.joined.1;
        if caught_up && !entry.in_service {
            entry.in_service = true;
            self.news.everything = true;
            changed = true;
        }
        Some(changed)
    }

    fn touch(&mut self, who: &Who, session: u64, now: Instant) -> bool {
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
    fn expire(&mut self, now: Instant) -> (bool, Option<Instant>) {
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
                self.news.everything |= ended;
                changed |= ended;
            }
        }
        (changed, None)
    }

    fn serves(&self, entry: &Entry, now: Instant) -> bool {
        entry.in_service && now.saturating_duration_since(entry.last_frame) < self.lease
    }

    fn view(&self, who: &Who, entry: &Entry, now: Instant) -> Subscriber {
        Subscriber {
            node_id: who.node_id.clone(),
            audience: who.audience.clone(),
            build: entry.build.clone(),
            epoch: entry.epoch.clone(),
            applied: entry.applied,
            durable: entry.durable,
            exceptions: entry.exceptions.clone(),
            connected: entry.session != 0,
            silent_for: now.saturating_duration_since(entry.last_frame),
            in_service: self.serves(entry, now),
        }
    }

    fn of<'a>(&'a self, audience: &'a Audience) -> impl Iterator<Item = (&'a Who, &'a Entry)> {
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

/// The fleet. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fleet {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    core: Mutex<Core>,
    version: watch::Sender<u64>,
    /// Something to save, or a first deadline.
    work: Notify,
}

impl Fleet {
    /// An empty fleet with the given lease ([`LEASE`] but in tests).
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self {
            shared: Arc::new(Shared {
                core: Mutex::new(Core::new(lease)),
                version: watch::Sender::new(0),
                work: Notify::new(),
            }),
        }
    }

    /// Puts in what was saved before a restart. Each counts as in service for one lease: until then silence proves nothing,
    /// and a gate must not open past somebody who is only reconnecting.
    pub fn restore(&self, known: impl IntoIterator<Item = Watermark>) {
        let now = Instant::now();
        let mut core = self.core();
        for mark in known {
            let who = Who { audience: mark.audience, node_id: mark.node_id };
            if core.entries.contains_key(&who) {
                continue;
            }
            let deadline = (now + core.lease, who.clone());
            core.deadlines.insert(deadline);
            core.entries.insert(
                who,
                Entry {
                    session: 0,
                    orders: None,
                    build: String::new(),
                    epoch: mark.epoch,
                    applied: mark.applied,
                    durable: mark.durable,
                    exceptions: mark.exceptions.unwrap_or_default(),
                    last_frame: now,
                    joined: (String::new(), 0),
                    in_service: true,
                    armed: true,
                    exceptions_dirty: false,
                    listed: None,
                },
            );
        }
        core.news.everything = true;
        drop(core);
        self.changed();
        self.shared.work.notify_one();
    }

    /// What changed since the last call. For one caller.
    #[must_use]
    pub fn take_news(&self) -> News {
        std::mem::take(&mut self.core().news)
    }

    /// Counts the changes of positions, exceptions and service. Waiters look again at each.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// Everyone known for `audience`, by node id.
    #[must_use]
    pub fn subscribers(&self, audience: &Audience) -> Vec<Subscriber> {
        let now = Instant::now();
        let core = self.core();
        core.of(audience).map(|(who, entry)| core.view(who, entry, now)).collect()
    }

    /// [`Fleet::subscribers`] without what costs: for gates, which ask often.
    #[must_use]
    pub fn standings(&self, audience: &Audience) -> Vec<Standing> {
        let now = Instant::now();
        let core = self.core();
        core.of(audience)
            .map(|(who, entry)| Standing {
                node_id: who.node_id.clone(),
                epoch: entry.epoch.clone(),
                applied: entry.applied,
                in_service: core.serves(entry, now),
            })
            .collect()
    }

    /// What a node says about one key of `audience` that it does not apply.
    #[must_use]
    pub fn exception(&self, audience: &Audience, node_id: &str, kind: u32, key: &str) -> Option<Exception> {
        let who = Who { audience: audience.clone(), node_id: node_id.to_owned() };
        let core = self.core();
        let entry = core.entries.get(&who)?;
        entry.exceptions.iter().find(|one| one.kind == kind && one.key == key).cloned()
    }

    /// Everyone known, by audience and node id.
    #[must_use]
    pub fn all(&self) -> Vec<Subscriber> {
        let now = Instant::now();
        let core = self.core();
        core.entries.iter().map(|(who, entry)| core.view(who, entry, now)).collect()
    }

    /// The ones of `audience` that gates wait for, by node id.
    #[must_use]
    pub fn in_service(&self, audience: &Audience) -> Vec<Subscriber> {
        let mut list = self.subscribers(audience);
        list.retain(|subscriber| subscriber.in_service);
        list
    }

    /// Whether a node's subscription to `audience` is in service.
    #[must_use]
    pub fn is_in_service(&self, audience: &Audience, node_id: &str) -> bool {
        let who = Who { audience: audience.clone(), node_id: node_id.to_owned() };
        let core = self.core();
        core.entries.get(&who).is_some_and(|entry| core.serves(entry, Instant::now()))
    }

    /// Node ids of those known for `audience` that are not in service or have not applied `revision` of `epoch`.
    #[must_use]
    pub fn lagging(&self, audience: &Audience, epoch: &str, revision: u64) -> Vec<String> {
        let now = Instant::now();
        let core = self.core();
        core.of(audience)
            .filter(|(_, entry)| {
                let reached = entry.epoch == epoch && entry.applied >= revision;
                !reached || !core.serves(entry, now)
            })
            .map(|(who, _)| who.node_id.clone())
            .collect()
    }

    /// Tells a node's session to apply what its brake holds. False: no session, or it takes no orders now.
    #[must_use]
    pub fn release(&self, audience: &Audience, node_id: &str, by: &str) -> bool {
        let who = Who { audience: audience.clone(), node_id: node_id.to_owned() };
        let core = self.core();
        core.entries
            .get(&who)
            .and_then(|entry| entry.orders.as_ref())
            .is_some_and(|orders| orders.try_send(Order::Release { by: by.to_owned() }).is_ok())
    }

    /// Ends a node's sessions and forgets it: it was removed from the registry.
    pub fn forget(&self, node_id: &str) {
        self.retain(|_, node| node != node_id);
    }

    /// Ends and forgets the subscriptions (audience, node id) that the registry no longer gives.
    pub fn retain(&self, gives: impl Fn(&Audience, &str) -> bool) {
        let mut core = self.core();
        core.news.everything = true;
        core.entries.retain(|who, entry| {
            let stays = gives(&who.audience, &who.node_id);
            if !stays {
                entry.send_away("the registry no longer gives this audience to the node");
            }
            stays
        });
        drop(core);
        self.changed();
    }

    /// Ends the sessions of those subscriptions (audience, node id). Where they stand is remembered: what is said to be
    /// applied is still being served.
    pub(crate) fn send_away(&self, reason: &str, whom: impl Fn(&Audience, &str) -> bool) {
        for (who, entry) in &mut self.core().entries {
            if whom(&who.audience, &who.node_id) {
                entry.send_away(reason);
            }
        }
    }

    /// Tells every session to come back later, each at its own moment.
    pub(crate) fn leave_all(&self, reason: &str) {
        for entry in self.core().entries.values() {
            if let Some(orders) = &entry.orders {
                let _ =
                    orders.try_send(Order::Leave { reason: reason.to_owned(), retry_after: Duration::ZERO });
            }
        }
    }

    pub(crate) fn join(&self, audience: &Audience, node_id: &str, joining: Joining) -> Membership {
        let who = Who { audience: audience.clone(), node_id: node_id.to_owned() };
        let (sender, orders) = mpsc::channel(ORDERS);
        let session = self.core().join(&who, joining, sender, Instant::now());
        self.changed();
        self.shared.work.notify_one();
        Membership { fleet: self.clone(), who, session, orders }
    }

    /// Saves what changed and lets leases expire, until `stop`; then saves once more.
    ///
    /// A failed save is tried again; nothing is lost but time.
    pub async fn run(&self, sink: &dyn StatusSink, every: Duration, stop: CancellationToken) {
        loop {
            let (changed, next) = self.core().expire(Instant::now());
            if changed {
                self.changed();
            }
            self.save(sink).await;
            // Not more often than `every`, whatever comes.
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = stop.cancelled() => break,
            }
            let lease_ends = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let puts_off = !self.core().put_off.is_empty();
            tokio::select! {
                () = self.shared.work.notified() => {}
                () = lease_ends => {}
                () = tokio::time::sleep(LIST_EVERY), if puts_off => {}
                () = stop.cancelled() => break,
            }
        }
        self.save(sink).await;
    }

    async fn save(&self, sink: &dyn StatusSink) {
        let marks = self.take_dirty(Instant::now());
        if marks.is_empty() {
            return;
        }
        if let Err(error) = sink.watermarks(&marks).await {
            tracing::warn!(%error, count = marks.len(), "positions of subscribers could not be saved; trying again");
            self.mark_dirty(&marks);
        }
    }

    fn take_dirty(&self, now: Instant) -> Vec<Watermark> {
        let mut core = self.core();
        let mut dirty = std::mem::take(&mut core.dirty);
        dirty.append(&mut core.put_off);
        let mut marks = Vec::with_capacity(dirty.len());
        for who in dirty {
            let Some(entry) = core.entries.get_mut(&who) else { continue };
            let soon = entry.exceptions.len() <= SHORT_LIST
                || entry.listed.is_none_or(|at| now.saturating_duration_since(at) >= LIST_EVERY);
            let list = entry.exceptions_dirty && soon;
            if list {
                entry.exceptions_dirty = false;
                entry.listed = Some(now);
            }
            let put_off = entry.exceptions_dirty;
            marks.push(Watermark {
                epoch: entry.epoch.clone(),
                applied: entry.applied,
                durable: entry.durable,
                exceptions: list.then(|| entry.exceptions.clone()),
                node_id: who.node_id.clone(),
                audience: who.audience.clone(),
            });
            if put_off {
                core.put_off.insert(who);
            }
        }
        marks
    }

    fn mark_dirty(&self, marks: &[Watermark]) {
        let mut core = self.core();
        for mark in marks {
            let who = Who { audience: mark.audience.clone(), node_id: mark.node_id.clone() };
            if let Some(entry) = core.entries.get_mut(&who) {
                entry.exceptions_dirty |= mark.exceptions.is_some();
                core.dirty.insert(who);
            }
        }
        drop(core);
        self.shared.work.notify_one();
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.shared.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.shared.version.send_modify(|version| *version += 1);
    }
}

/// A session's place in the fleet; given up when dropped.
#[derive(Debug)]
pub(crate) struct Membership {
    fleet: Fleet,
    who: Who,
    session: u64,
    pub(crate) orders: mpsc::Receiver<Order>,
}

impl Membership {
    /// Takes in what the subscriber says. False: a newer session speaks for it now.
    pub(crate) fn ack(&self, ack: Ack) -> bool {
        let outcome = self.fleet.core().ack(&self.who, self.session, ack, Instant::now());
        if outcome == Some(true) {
            self.fleet.changed();
            self.fleet.shared.work.notify_one();
        }
        outcome.is_some()
    }

    /// Whose it is.
    pub(crate) fn node_id(&self) -> &str {
        &self.who.node_id
    }

    /// The subscriber is there, and says nothing about its position. False as for [`Membership::ack`].
    pub(crate) fn touch(&self) -> bool {
        self.fleet.core().touch(&self.who, self.session, Instant::now())
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut core = self.fleet.core();
        let entry = core.entries.get_mut(&self.who).filter(|entry| entry.session == self.session);
        if let Some(entry) = entry {
            entry.session = 0;
            entry.orders = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_catches_up_does_not_widen_what_others_applied() {
        let audience = edge("edge/c1");
        let mut news = News::default();
        for (before, after) in [(100, 101), (5, 6), (6, 8), (101, 102), (7, 7), (100, 101)] {
            news.moved(&audience, before, after);
        }
        assert_eq!(news.applied[&audience], [(5, 8), (100, 102)]);
        for n in 0..News::MAX_RANGES as u64 {
            news.moved(&audience, 1_000 + 10 * n, 1_001 + 10 * n);
        }
        assert!(news.everything, "more than is kept apart");
    }

    fn edge(audience: &str) -> Audience {
        audience.parse().unwrap()
    }

    const LEASE: Duration = Duration::from_secs(15);

    fn who(node_id: &str) -> Who {
        Who { audience: edge("edge/c1"), node_id: node_id.into() }
    }

    fn joining(head: u64, cursor: Option<u64>) -> Joining {
        let cursor = cursor.map(|revision| ("e".to_owned(), revision));
        Joining { build: "1".into(), epoch: "e".into(), head, cursor }
    }

    fn at(applied: u64) -> Ack {
        Ack { epoch: "e".into(), applied, durable: applied, ..Ack::default() }
    }

    fn join(core: &mut Core, node_id: &str, joining: Joining, now: Instant) -> (u64, mpsc::Receiver<Order>) {
        let (sender, receiver) = mpsc::channel(ORDERS);
        (core.join(&who(node_id), joining, sender, now), receiver)
    }

    fn served(core: &Core, node_id: &str, now: Instant) -> bool {
        core.view(&who(node_id), &core.entries[&who(node_id)], now).in_service
    }

    #[test]
    fn a_newcomer_is_in_service_once_it_has_the_head_it_saw() {
        let (mut core, now) = (Core::new(LEASE), Instant::now());
        let (session, _orders) = join(&mut core, "n1", joining(10, None), now);
        assert!(!served(&core, "n1", now));
        assert_eq!(core.ack(&who("n1"), session, at(9), now), Some(true));
        assert!(!served(&core, "n1", now));
        assert_eq!(core.ack(&who("n1"), session, at(10), now), Some(true));
        assert!(served(&core, "n1", now));
        assert_eq!(core.ack(&who("n1"), session, at(10), now), Some(false), "a heartbeat changes nothing");
        assert_eq!(core.dirty.len(), 1);
    }

    #[test]
    fn silence_ends_the_service_and_heartbeats_keep_it() {
        let (mut core, start) = (Core::new(LEASE), Instant::now());
        let (session, _orders) = join(&mut core, "n1", joining(0, None), start);
        core.ack(&who("n1"), session, at(0), start);
        for beat in 1..10 {
            let now = start + Duration::from_secs(5 * beat);
            assert!(!core.expire(now).0, "beat {beat}");
            core.ack(&who("n1"), session, at(0), now);
            assert!(core.deadlines.len() <= 1);
        }
        let last = start + Duration::from_secs(45);
        let just_before = last + LEASE - Duration::from_millis(1);
        let (changed, next) = core.expire(just_before);
        assert_eq!((changed, next), (false, Some(last + LEASE)));
        assert!(served(&core, "n1", just_before));
        let (changed, next) = core.expire(last + LEASE);
        assert_eq!((changed, next), (true, None));
        assert!(!served(&core, "n1", last + LEASE));
        // It was only slow: its next word brings it back and arms the lease again.
        let back = last + LEASE * 2;
        assert_eq!(core.ack(&who("n1"), session, at(0), back), Some(true));
        assert!(served(&core, "n1", back));
        assert!(core.expire(back + LEASE).0);
    }

    #[test]
    fn within_the_lease_a_reconnect_stays_in_service_and_afterwards_it_must_catch_up() {
        let (mut core, start) = (Core::new(LEASE), Instant::now());
        let (session, _orders) = join(&mut core, "n1", joining(5, Some(5)), start);
        core.ack(&who("n1"), session, at(5), start);
        let soon = start + Duration::from_secs(10);
        let (session, _orders) = join(&mut core, "n1", joining(8, Some(5)), soon);
        assert!(served(&core, "n1", soon), "it may be serving all along");
        assert_eq!(core.entries[&who("n1")].applied, 5);
        core.ack(&who("n1"), session, at(8), soon);
        let late = soon + LEASE;
        core.expire(late);
        let (session, _orders) = join(&mut core, "n1", joining(9, Some(8)), late);
        assert!(!served(&core, "n1", late));
        core.ack(&who("n1"), session, at(8), late);
        assert!(!served(&core, "n1", late));
        core.ack(&who("n1"), session, at(9), late);
        assert!(served(&core, "n1", late));
    }

    #[test]
    fn a_wiped_node_does_not_keep_its_old_position() {
        let (mut core, now) = (Core::new(LEASE), Instant::now());
        let (session, _orders) = join(&mut core, "n1", joining(5, Some(5)), now);
        core.ack(&who("n1"), session, at(5), now);
        join(&mut core, "n1", joining(5, None), now).1.close();
        assert_eq!(core.entries[&who("n1")].applied, 0);
        let other = Joining { epoch: "f".into(), ..joining(5, Some(5)) };
        join(&mut core, "n1", other, now).1.close();
        assert_eq!((core.entries[&who("n1")].epoch.as_str(), core.entries[&who("n1")].applied), ("f", 0));
    }

    #[test]
    fn the_newer_session_speaks_and_the_older_is_sent_away() {
        let (mut core, now) = (Core::new(LEASE), Instant::now());
        let (old, mut old_orders) = join(&mut core, "n1", joining(0, None), now);
        let (new, _new_orders) = join(&mut core, "n1", joining(0, None), now);
        assert!(matches!(old_orders.try_recv(), Ok(Order::Leave { .. })));
        assert_eq!(core.ack(&who("n1"), old, at(7), now), None);
        assert_eq!(core.entries[&who("n1")].applied, 0);
        assert!(core.ack(&who("n1"), new, at(7), now).is_some());
    }

    #[test]
    fn lagging_names_the_silent_and_the_slow() {
        let fleet = Fleet::new(LEASE);
        let members: Vec<_> = ["a", "b", "c"]
            .map(|node| fleet.join(&edge("edge/c1"), node, joining(0, None)))
            .into_iter()
            .collect();
        members[0].ack(at(4));
        members[1].ack(at(3));
        assert_eq!(fleet.lagging(&edge("edge/c1"), "e", 4), ["b", "c"]);
        assert_eq!(fleet.lagging(&edge("edge/c1"), "other", 4), ["a", "b", "c"]);
        assert_eq!(fleet.lagging(&edge("edge/c"), "e", 4), [""; 0]);
        assert_eq!(fleet.in_service(&edge("edge/c1")).len(), 2);
        let standings = fleet.standings(&edge("edge/c1"));
        let short: Vec<_> = standings.iter().map(|s| (s.node_id.as_str(), s.applied, s.in_service)).collect();
        assert_eq!(short, [("a", 4, true), ("b", 3, true), ("c", 0, false)]);
        let exceptions = vec![Exception { kind: 3, key: "k".into(), ..Exception::default() }];
        members[1].ack(Ack { exceptions: exceptions.clone(), has_exceptions: true, ..at(3) });
        assert_eq!(fleet.exception(&edge("edge/c1"), "b", 3, "k").as_ref(), exceptions.first());
        assert_eq!(fleet.exception(&edge("edge/c1"), "a", 3, "k"), None);
        assert!(fleet.release(&edge("edge/c1"), "a", "ops"));
        assert!(!fleet.release(&edge("edge/c1"), "x", "ops"));
        drop(members);
        assert!(!fleet.release(&edge("edge/c1"), "a", "ops"));
        assert_eq!(fleet.in_service(&edge("edge/c1")).len(), 2, "a broken connection alone proves nothing");
        fleet.forget("a");
        assert_eq!(fleet.subscribers(&edge("edge/c1")).len(), 2);
    }

    #[test]
    fn exceptions_are_bounded_and_long_lists_saved_now_and_then() {
        let fleet = Fleet::new(LEASE);
        let member = fleet.join(&edge("edge/c1"), "a", joining(0, None));
        let list = |count: usize, revision| {
            (0..count)
                .map(|n| Exception {
                    key: n.to_string(),
                    revision,
                    reason: "x".repeat(9_000),
                    ..Exception::default()
                })
                .collect()
        };
        let say = |count, revision| {
            member.ack(Ack { exceptions: list(count, revision), has_exceptions: true, ..at(0) });
        };
        let saved =
            |marks: Vec<Watermark>| marks.into_iter().find_map(|mark| mark.exceptions).map(|list| list.len());
        let start = Instant::now();
        say(MAX_EXCEPTIONS + 10, 1);
        assert_eq!(saved(fleet.take_dirty(start)), Some(MAX_EXCEPTIONS));
        assert_eq!(fleet.subscribers(&edge("edge/c1"))[0].exceptions[0].reason.len(), words::MAX_TEXT);
        for beat in 1..20 {
            say(MAX_EXCEPTIONS, 1 + beat);
            assert_eq!(saved(fleet.take_dirty(start + Duration::from_millis(200 * beat))), None);
        }
        assert_eq!(saved(fleet.take_dirty(start + LIST_EVERY)), Some(MAX_EXCEPTIONS), "without another word");
        assert_eq!(saved(fleet.take_dirty(start + LIST_EVERY * 2)), None);
        // What is short is saved at once.
        say(1, 50);
        assert_eq!(saved(fleet.take_dirty(start + LIST_EVERY * 2)), Some(1));
        say(0, 51);
        assert_eq!(saved(fleet.take_dirty(start + LIST_EVERY * 2)), Some(0));
    }

    #[derive(Default)]
    struct Sink {
        saved: Mutex<Vec<Watermark>>,
        fail: Mutex<u32>,
    }

    #[async_trait::async_trait]
    impl StatusSink for Sink {
        async fn watermarks(&self, marks: &[Watermark]) -> Result<(), crate::registry::RegistryError> {
            let mut fail = self.fail.lock().unwrap();
            if *fail > 0 {
                *fail -= 1;
                return Err(crate::registry::RegistryError("disk full".into()));
            }
            self.saved.lock().unwrap().extend_from_slice(marks);
            Ok(())
        }

        async fn report(
            &self,
            _: &str,
            _: &hosting_proto::feed::ReportRequest,
        ) -> Result<crate::registry::Reported, crate::registry::RegistryError> {
            Ok(crate::registry::Reported::Taken)
        }
    }

    #[tokio::test]
    async fn positions_are_merged_saved_and_saved_again_after_a_failure() {
        let (fleet, sink, stop) = (Fleet::new(LEASE), Sink::default(), CancellationToken::new());
        *sink.fail.lock().unwrap() = 1;
        let member = fleet.join(&edge("edge/c1"), "a", joining(0, None));
        let exceptions = vec![Exception { key: "k".into(), ..Exception::default() }];
        member.ack(Ack { exceptions: exceptions.clone(), has_exceptions: true, ..at(1) });
        for revision in 2..=500 {
            member.ack(at(revision));
        }
        let run = fleet.run(&sink, Duration::from_millis(5), stop.clone());
        let talk = async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            stop.cancel();
        };
        tokio::join!(run, talk);
        let saved = sink.saved.lock().unwrap();
        assert_eq!(saved.len(), 1);
        assert_eq!((saved[0].applied, &saved[0].exceptions), (500, &Some(exceptions)));
    }

    #[tokio::test]
    async fn the_end_of_a_lease_is_announced_without_anybody_asking() {
        let (fleet, sink, stop) =
            (Fleet::new(Duration::from_millis(100)), Sink::default(), CancellationToken::new());
        let member = fleet.join(&edge("edge/c1"), "a", joining(0, None));
        member.ack(at(0));
        assert!(fleet.is_in_service(&edge("edge/c1"), "a"));
        let mut changes = fleet.changes();
        changes.mark_unchanged();
        let run = fleet.run(&sink, Duration::from_millis(1), stop.clone());
        let wait = async {
            changes.changed().await.unwrap();
            assert!(!fleet.is_in_service(&edge("edge/c1"), "a"));
            stop.cancel();
        };
        tokio::join!(run, wait);
        fleet.restore([Watermark {
            node_id: "b".into(),
            audience: edge("edge/c1"),
            epoch: "e".into(),
            applied: 3,
            durable: 3,
            exceptions: None,
        }]);
        assert!(fleet.is_in_service(&edge("edge/c1"), "b"), "until a lease has passed");
    }
}
