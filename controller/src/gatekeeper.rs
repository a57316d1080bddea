//! Brings resources forward: opens gates, writes statuses, ends deletions, drains the replan queue, takes silent nodes out
//! of service.
//!
//! Owns no truth: what it knows is read anew at every look, so a crash or a missed wake-up costs time and nothing else. Of several
//! controllers one has it at work, by a lease that each of its mutations names. It looks at what commits, acknowledgements and reports concern; a slow look goes over everything that is open. It never plans by itself ([`hosting_planner`] does) and never waits inside a mutation. `run` is
//! spawned once by the wiring; waiting for readiness is the API's, which asks the same questions.

mod act;
mod look;
mod service;
mod turns;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hosting_feed::fleet::News;
use hosting_jobs::Bell;
use hosting_planner::gates::Fleet;
use hosting_resource::Kind;
use hosting_store::{Cursor, Lease, PageError, Store, StoreError, WriteError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use self::act::REFUSED;
use self::service::Node;
use self::turns::Turns;
use crate::fleet::FleetView;
use crate::metrics::GatekeeperMetrics;

/// What comes within this time is looked at together.
const DEBOUNCE: Duration = Duration::from_millis(2);
/// How long a lease is good without being held on, and how often it is.
const TERM: Duration = Duration::from_secs(10);
const RENEW: Duration = Duration::from_secs(2);
/// A look at least this often, whatever nobody rings for.
const TICK: Duration = Duration::from_secs(1);
/// How often to look at a page of what is open that nobody rang for.
const SLOW: Duration = Duration::from_secs(1);
/// How often to look at what has failed, and at data destroyed late.
const SWEEP: Duration = Duration::from_secs(2);
/// After the store failed.
const STORE_FAILED: Duration = Duration::from_secs(1);
/// Known nodes are not taken out of service so soon after the start: they may be about to come back.
const GRACE: Duration = Duration::from_secs(15);
/// Resources evaluated on one read snapshot.
const PAGE: u32 = 200;
/// Resources looked at in one round; what comes meanwhile waits for no more than these.
const TURNS: usize = 100;
/// Statuses, or nodes, that one mutation writes.
const TOGETHER: usize = 100;
/// Entries of the replan queue that are counted for its gauge.
const QUEUE_SHOWN: u32 = 10_000;
/// Mutations that drain the replan queue, before the gates are looked at again.
const DRAINS: usize = 4;

/// The task.
pub(crate) struct Gatekeeper {
    store: Store,
    fleet: Arc<dyn Fleet>,
    /// Moves whenever an answer of `fleet` may be another one.
    changes: watch::Receiver<u64>,
    /// Takes what changed in the fleet.
    news: Box<dyn Fn() -> News + Send + Sync>,
    /// What to look at in the next round.
    suspects: Suspects,
    /// Of these, what is on its way and has not had its look yet.
    turns: Turns,
    /// How far the slow look at everything that is open came.
    slow: String,
    next_slow: Instant,
    /// How far the slow look at which nodes are in service came.
    slow_node: usize,
    next_service: Instant,
    /// Whether known nodes were spared at the last look.
    spares: bool,
    /// How far the slow look at what jobs wait for came.
    slow_wait: String,
    next_slow_wait: Instant,
    /// Rung when a job that waited is due.
    bell: Bell,
    paces: Paces,
    started: Instant,
    /// `started`, by the store's clock.
    born: i64,
    nodes: Vec<Node>,
    /// What is not tried before then.
    refused: BTreeMap<String, Instant>,
    /// How far the sweep over failed resources is, by kind.
    failed: BTreeMap<Kind, Cursor>,
    next_sweep: Instant,
    metrics: GatekeeperMetrics,
    /// By what it works: one gatekeeper at a time does, of whichever controller.
    lease: Option<Lease>,
    /// When the lease is to be held on.
    renew: Instant,
}

/// How patient it is.
#[derive(Debug, Clone, Copy)]
struct Paces {
    /// [`GRACE`], but in tests.
    grace: Duration,
    /// [`SLOW`], but in tests.
    slow: Duration,
}

/// What may have come a step further.
#[derive(Debug, Default)]
struct Suspects {
    ids: BTreeSet<String>,
    /// All that is open.
    all: bool,
    /// The registry of nodes changed.
    registry: bool,
}

impl Gatekeeper {
    pub(crate) fn new(store: Store, view: Arc<FleetView>, bell: Bell, metrics: GatekeeperMetrics) -> Self {
        let changes = view.changes();
        let source = Arc::clone(&view);
        let news = Box::new(move || source.take_news());
        Self::with(store, view, changes, news, Paces { grace: GRACE, slow: SLOW }, bell, metrics)
    }

    fn with(
        store: Store,
        fleet: Arc<dyn Fleet>,
        changes: watch::Receiver<u64>,
        news: Box<dyn Fn() -> News + Send + Sync>,
        paces: Paces,
        bell: Bell,
        metrics: GatekeeperMetrics,
    ) -> Self {
        let born = store.now();
        Self {
            store,
            fleet,
            changes,
            news,
            suspects: Suspects { all: true, registry: true, ..Suspects::default() },
            turns: Turns::default(),
            slow: String::new(),
            next_slow: Instant::now() + paces.slow,
            slow_node: 0,
            next_service: Instant::now() + paces.slow,
            spares: true,
            slow_wait: String::new(),
            next_slow_wait: Instant::now() + paces.slow,
            bell,
            paces,
            started: Instant::now(),
            born,
            nodes: Vec::new(),
            refused: BTreeMap::new(),
            failed: BTreeMap::new(),
            next_sweep: Instant::now(),
            metrics,
            lease: None,
            renew: Instant::now(),
        }
    }

    /// Whether it is this one's turn to work. One that begins knows nothing yet: it looks at everything, and spares nodes that may be
    /// about to come.
    async fn leads(&mut self) -> Result<bool, StoreError> {
        if self.lease.is_some() && Instant::now() < self.renew {
            return Ok(true);
        }
        let before = self.lease.take();
        self.renew = Instant::now() + RENEW;
        self.lease = self.store.hold("gatekeeper", TERM).await?;
        if self.lease.is_some() && self.lease != before {
            tracing::info!("this controller's gatekeeper works from now on");
            self.suspects = Suspects { all: true, registry: true, ..Suspects::default() };
            (self.started, self.born) = (Instant::now(), self.store.now());
        }
        Ok(self.lease.is_some())
    }

    /// Works until `stop`.
    ///
    /// # Errors
    /// When the store is closed. Any other failure is logged and tried again.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let mut doorbell = self.store.doorbell();
        let mut commits = self.store.commits();
        loop {
            // Marked as seen before looking: what changes while looking is looked at once more.
            doorbell.borrow_and_update();
            self.changes.borrow_and_update();
            self.note_commits(&mut commits);
            let began = Instant::now();
            let round = tokio::select! {
                () = stop.cancelled() => return self.leave().await,
                round = self.turn() => round,
            };
            let more = match round {
                Ok(more) => {
                    self.metrics.round(began.elapsed());
                    more
                }
                Err(_) if stop.is_cancelled() => return Ok(()),
                Err(error @ StoreError::Closed) => return Err(error),
                Err(StoreError::LostLease) => {
                    self.lease = None;
                    false
                }
                Err(error) => {
                    tracing::error!(%error, "gates cannot be looked at; trying again");
                    // What this round was to look at is not known any more.
                    self.suspects = Suspects { all: true, registry: true, ..Suspects::default() };
                    tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        () = tokio::time::sleep(STORE_FAILED) => continue,
                    }
                }
            };
            if !more {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    rung = doorbell.changed() => rung.map_err(|_| StoreError::Closed)?,
                    // An error means that the fleet's view is gone: then doorbell and tick drive alone.
                    Ok(()) = self.changes.changed() => {}
                    () = tokio::time::sleep(TICK) => {}
                }
            }
            // A look over very many open resources leaves the store some time for others.
            let pause = DEBOUNCE.max(began.elapsed().min(TICK) / 8);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// A round, if it is this one's turn.
    async fn turn(&mut self) -> Result<bool, StoreError> {
        if self.leads().await? {
            return self.round().await;
        }
        // Whoever leads takes everything for changed at its first look.
        let _ = (self.news)();
        self.suspects = Suspects::default();
        self.turns.clear();
        Ok(false)
    }

    /// Lets another controller go on at once.
    async fn leave(&mut self) -> Result<(), StoreError> {
        let Some(lease) = self.lease.take().filter(|_| self.store.is_shared()) else { return Ok(()) };
        if let Ok(Err(error)) = tokio::time::timeout(TICK, self.store.let_go(lease)).await {
            tracing::debug!(%error, "the gatekeeper's lease is not given back");
        }
        Ok(())
    }

    /// One look at what may have come a step further. True when there is more to do at once.
    async fn round(&mut self) -> Result<bool, StoreError> {
        let Suspects { mut ids, mut all, registry } = std::mem::take(&mut self.suspects);
        if registry {
            self.read_registry().await?;
        }
        let news = (self.news)();
        all |= news.everything || registry;
        self.turn_service(all).await?;
        if !all {
            all = !self.find(news, &mut ids).await?;
        }
        if all {
            self.turns.clear();
            self.look_at_all().await?;
        } else {
            // What is not on its way needs no look, but a job may wait for it.
            ids = self.line_up(ids).await?;
            let next = self.turns.take(TURNS);
            self.look_at(&next).await?;
            ids.extend(next);
            self.look_slowly().await?;
        }
        self.settle(&ids, all).await?;
        let more = self.drain().await? || !self.turns.is_empty();
        if Instant::now() >= self.next_sweep {
            self.next_sweep = Instant::now() + SWEEP;
            let now = Instant::now();
            self.refused.retain(|_, until| *until > now);
            self.metrics.queued(self.store.read().await?.replan_count(QUEUE_SHOWN).await?);
            self.look_at_failed().await?;
            self.close_late_retirements().await?;
        }
        Ok(more)
    }

    /// True when the replan queue may have more.
    async fn drain(&mut self) -> Result<bool, StoreError> {
        for _ in 0..DRAINS {
            let queue = self.store.read().await?.replan_batch(1).await?;
            let Some(first) = queue.into_iter().next() else {
                self.metrics.queued(0);
                return Ok(false);
            };
            if self.refused.get(&first.owner()).is_some_and(|until| *until > Instant::now()) {
                return Ok(false);
            }
            let span = tracing::info_span!("replan.drain");
            let answer = self
                .store
                .write(self.origin(&span, ""), |tx| Box::pin(async move { hosting_planner::drain(tx).await }))
                .instrument(span)
                .await;
            match answer {
                Ok(committed) => {
                    for error in committed.value.unsound {
                        tracing::error!(%error, "a unit of the replan queue is left as it was");
                    }
                    tracing::debug!(entries = committed.value.entries, "replan queue drained");
                    if !committed.value.more {
                        return Ok(false);
                    }
                }
                Err(WriteError::Store(error)) => return Err(error),
                Err(error) => {
                    self.metrics.refused();
                    tracing::error!(%error, unit = first.owner(), "the replan queue stands still; trying again");
                    self.refused.insert(first.owner(), Instant::now() + REFUSED);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// The store's own error comes out of its reads as a boxed one.
fn world_failed(error: hosting_planner::WorldError) -> StoreError {
    error.into()
}

/// The cursor comes from the page before, so only the store can fail.
fn page_failed(error: PageError) -> StoreError {
    match error {
        PageError::Store(error) => error,
        PageError::Cursor => StoreError::Row("a cursor of another list".into()),
    }
}

#[cfg(test)]
mod tests;
