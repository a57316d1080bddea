//! Who is there and how far: the leases, positions and exceptions of all subscribers, in memory.
//!
//! A subscriber is alive while its last frame is younger than the lease, whether or not its connection still stands: what
//! is silent may still be serving. It is in service while it is alive and has applied the head that it saw when it joined;
//! one that comes back within its lease never left. The clock is monotonic. Heartbeats write no rows; positions are merged
//! and saved a few times a second. Of subscribers of other controllers it knows what those saved ([`Fleet::learn`]); they are alive
//! while their controller is ([`Fleet::alive`]). [`crate::server`] feeds it; gates, `?wait=ready` and the API read it.

mod core;
mod news;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hosting_intent::Audience;
use hosting_proto::feed::{self, Ack, Exception, Served};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::core::{Core, Who};
pub(crate) use self::core::{Joining, Order};
pub use self::news::News;
use crate::registry::{StatusSink, Watermark};

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

/// What another controller, or a former start of this one, says of a subscriber.
#[derive(Debug, Clone, PartialEq)]
pub struct Remote {
    /// Which controller.
    pub controller: String,
    /// Whether the subscriber is connected to it.
    pub connected: bool,
    /// As [`Subscriber::in_service`].
    pub in_service: bool,
    /// As [`Subscriber::build`].
    pub build: String,
    /// As [`Subscriber::epoch`].
    pub epoch: String,
    /// As [`Subscriber::applied`].
    pub applied: u64,
    /// As [`Subscriber::durable`].
    pub durable: u64,
    /// As [`Subscriber::exceptions`].
    pub exceptions: Vec<Exception>,
    /// As [`Fleet::served`] answers.
    pub served: Option<Served>,
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
    /// Which rollouts are under way, and to whom they have come.
    rollouts: watch::Sender<Arc<dyn Rollouts>>,
}

/// Which rollouts have come to whom.
pub trait Rollouts: std::fmt::Debug + Send + Sync {
    /// What a subscriber is told of them.
    fn told_to(&self, audience: &Audience, node_id: &str) -> feed::Rollouts;
}

/// Nothing is known of rollouts yet: all of them wait.
#[derive(Debug)]
struct NotYetKnown;

impl Rollouts for NotYetKnown {
    fn told_to(&self, _: &Audience, _: &str) -> feed::Rollouts {
        feed::Rollouts::default()
    }
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
                rollouts: watch::Sender::new(Arc::new(NotYetKnown)),
            }),
        }
    }

    /// Takes in what other controllers of the store say of a subscriber; `None`: nobody knows it any more.
    pub fn learn(&self, audience: Audience, node_id: String, said: Option<Remote>) {
        let who = Who { audience, node_id };
        self.core().learn(who, said, Instant::now());
        self.changed();
        self.shared.work.notify_one();
    }

    /// Says which rollouts are under way, and to whom they have come. Sessions tell their subscribers.
    pub fn set_rollouts(&self, rollouts: Arc<dyn Rollouts>) {
        self.shared.rollouts.send_replace(rollouts);
    }

    pub(crate) fn rollouts(&self) -> watch::Receiver<Arc<dyn Rollouts>> {
        self.shared.rollouts.subscribe()
    }

    /// Says which other controllers run.
    pub fn alive(&self, controllers: &BTreeSet<String>) {
        self.core().alive(controllers, Instant::now());
    }

    /// Ends this controller's sessions, because it was away from the store for longer than the others wait.
    pub fn abandon(&self, reason: &str) {
        let mut core = self.core();
        for entry in core.entries.values_mut() {
            entry.send_away(reason);
            (entry.session, entry.claims) = (0, false);
        }
        core.dirty.clear();
        core.put_off.clear();
    }

    /// Takes in what was saved, at the start and after this controller was away. Whoever was in service stays it for one lease: until then
    /// silence proves nothing, and a gate must not open past somebody who is only reconnecting. Who has a session here speaks for itself.
    pub fn restore(&self, known: impl IntoIterator<Item = (Audience, String, Remote)>) {
        let now = Instant::now();
        let mut core = self.core();
        for (audience, node_id, said) in known {
            let who = Who { audience, node_id };
            if core.entries.get(&who).is_none_or(|entry| entry.session == 0) {
                core.learn(who, Some(said), now);
            }
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

    /// One of them.
    #[must_use]
    pub fn subscriber(&self, audience: &Audience, node_id: &str) -> Option<Subscriber> {
        let who = Who { audience: audience.clone(), node_id: node_id.to_owned() };
        let core = self.core();
        core.entries.get(&who).map(|entry| core.view(&who, entry, Instant::now()))
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

    /// What a subscriber found when it asked its own listeners, of the epoch that its position is of; `None`: it does not ask, or has said
    /// nothing of that epoch yet.
    #[must_use]
    pub fn served(&self, audience: &Audience, node_id: &str) -> Option<Served> {
        let who = Who { audience: audience.clone(), node_id: node_id.to_owned() };
        let core = self.core();
        let entry = core.entries.get(&who)?;
        entry.served.as_ref().filter(|served| served.epoch == entry.epoch).cloned()
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
    pub fn send_away(&self, reason: &str, whom: impl Fn(&Audience, &str) -> bool) {
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
            if entry.elsewhere.is_some() {
                continue;
            }
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
                served: entry.served.clone(),
                build: entry.build.clone(),
                connected: entry.session != 0,
                in_service: entry.in_service,
                claim: std::mem::take(&mut entry.claims),
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
                entry.claims |= mark.claim;
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

    /// Takes in what the subscriber says it serves. False as for [`Membership::ack`].
    pub(crate) fn served(&self, served: Served) -> bool {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let outcome = self.fleet.core().served(&self.who, self.session, served, at_ms, Instant::now());
        if outcome {
            self.fleet.changed();
            self.fleet.shared.work.notify_one();
        }
        outcome
    }

    /// Of which audience it is.
    pub(crate) fn audience(&self) -> &Audience {
        &self.who.audience
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
        let Some(entry) = entry else { return };
        entry.session = 0;
        entry.orders = None;
        core.dirty.insert(self.who.clone());
        drop(core);
        self.fleet.shared.work.notify_one();
    }
}
