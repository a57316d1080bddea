//! Takes the steps of rollouts: who gets a change that touches much next, whether it hurts those who have it, and taking it back when it
//! does (ADR 31).
//!
//! Each controller follows which rollouts are under way and tells its sessions. One of them, by a lease, takes the steps. What becomes of a
//! rollout next is decided in `steps`; what it knows beyond the document is read anew at every look.

mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hosting_feed::fleet::{Fleet, Rollouts};
use hosting_intent::{Audience, Key};
use hosting_planner::gates::Fleet as _;
use hosting_planner::{ApplyError, Draft as _, PlanError, World as _, revert};
use hosting_proto::feed as wire;
use hosting_scaffold::telemetry::{current_traceparent, set_remote_parent};
use hosting_store::{
    ClientHealth, Commit, HistoryOf, Lease, Member, OpenRollouts, Origin, Revert, Rollout, RolloutPolicy,
    RolloutState, Store, StoreError, UndoOf, WriteError, WriteTx, trace_id,
};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use self::steps::{Next, Seen, look};
use crate::fleet::FleetView;

/// How long the lease is good without being held on.
const TERM: Duration = Duration::from_secs(10);
/// A look at least this often while a rollout is under way.
const TICK: Duration = Duration::from_millis(500);
/// What comes within this time is looked at together.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// The policy and the rollouts are read at least this often, in case a way to learn of a change is missing.
const READ_EVERY: Duration = Duration::from_secs(5);
/// After the store failed.
const STORE_FAILED: Duration = Duration::from_secs(1);
/// An item that is not served as applied for so long is not only late.
const NOT_SERVED: Duration = Duration::from_secs(2);
/// Changes that one mutation takes back.
const MOST_CHANGES: u32 = 2_000;

/// How a rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Outcome {
    Done,
    Reverted,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct RolloutMetrics {
    open: Gauge,
    ended: Family<OutcomeLabel, Counter>,
    stuck: Gauge,
}

impl RolloutMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for outcome in [Outcome::Done, Outcome::Reverted] {
            drop(metrics.ended.get_or_create(&OutcomeLabel { outcome }));
        }
        let ours = registry.sub_registry_with_prefix("hosting_controller");
        ours.register("rollouts_open", "Rollouts under way", metrics.open.clone());
        ours.register("rollouts_ended", "Rollouts that ended, by how", metrics.ended.clone());
        ours.register("rollouts_stuck", "Rollouts that cannot be taken back", metrics.stuck.clone());
        metrics
    }
}

/// What sessions tell of the rollouts under way.
#[derive(Debug)]
struct Told {
    open: Arc<OpenRollouts>,
    /// Of each of them, in the same order, to whom it has come: each session asks.
    opened: Vec<BTreeSet<Member>>,
}

impl Told {
    fn new(open: Arc<OpenRollouts>) -> Self {
        let opened = open.rollouts.iter().map(|rollout| rollout.opened.iter().cloned().collect()).collect();
        Self { open, opened }
    }
}

impl Rollouts for Told {
    fn told_to(&self, audience: &Audience, node_id: &str) -> wire::Rollouts {
        let member = (audience.clone(), node_id.to_owned());
        let open = &self.open.rollouts;
        let held = open.iter().zip(&self.opened).filter(|(_, opened)| !opened.contains(&member));
        let held = held.flat_map(|(rollout, _)| rollout.ids()).collect();
        let watched = open
            .iter()
            .any(|rollout| rollout.state != RolloutState::Waiting && rollout.audiences.contains(audience));
        wire::Rollouts { upto: self.open.upto, held, watched }
    }
}

/// Follows the rollouts and the policy until `stop`, and tells `fleet`'s sessions. For each controller.
///
/// # Errors
/// When the store is closed.
pub(crate) async fn follow(
    store: Store,
    fleet: Fleet,
    known: watch::Sender<Arc<OpenRollouts>>,
    mut commits: broadcast::Receiver<Arc<Commit>>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    loop {
        let pause = match read(&store, &fleet, &known).await {
            Ok(()) => READ_EVERY,
            Err(StoreError::Closed) if stop.is_cancelled() => return Ok(()),
            Err(error @ StoreError::Closed) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "rollouts cannot be read; trying again, until then none comes further");
                STORE_FAILED
            }
        };
        let read_at = Instant::now() + pause;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(read_at) => break,
                commit = commits.recv() => match commit {
                    Ok(commit) if commit.rollouts || commit.lost || commit.new_epoch => break,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return Ok(()),
                },
            }
        }
    }
}

/// Reads the rollouts and the policy once, before anybody is told anything.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn read(
    store: &Store,
    fleet: &Fleet,
    known: &watch::Sender<Arc<OpenRollouts>>,
) -> Result<(), StoreError> {
    let mut tx = store.read().await?;
    let open = Arc::new(tx.open_rollouts().await?);
    let policy = RolloutPolicy::of(&tx.platform_config().await?);
    drop(tx);
    store.set_rolls_out(policy.enabled);
    let is_news = known.send_if_modified(|known| {
        let is_news = known.rollouts != open.rollouts || known.upto == 0;
        known.clone_from(&open);
        is_news
    });
    if is_news {
        fleet.set_rollouts(Arc::new(Told::new(open)));
    }
    Ok(())
}

/// Takes the steps.
pub(crate) struct Keeper {
    store: Store,
    view: Arc<FleetView>,
    known: watch::Receiver<Arc<OpenRollouts>>,
    metrics: RolloutMetrics,
    lease: Option<Lease>,
    /// Since when an item is not served as applied.
    failing: BTreeMap<(Member, Key), Instant>,
}

impl Keeper {
    pub(crate) fn new(
        store: Store,
        view: Arc<FleetView>,
        known: watch::Receiver<Arc<OpenRollouts>>,
        metrics: RolloutMetrics,
    ) -> Self {
        Self { store, view, known, metrics, lease: None, failing: BTreeMap::new() }
    }

    /// Works until `stop`.
    ///
    /// # Errors
    /// When the store is closed.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let mut changes = self.view.changes();
        loop {
            let open = Arc::clone(&self.known.borrow_and_update());
            changes.borrow_and_update();
            self.metrics.open.set(i64::try_from(open.rollouts.len()).unwrap_or(i64::MAX));
            let round = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                round = self.round(&open) => round,
            };
            match round {
                Ok(()) => {}
                Err(error @ StoreError::Closed) => {
                    return if stop.is_cancelled() { Ok(()) } else { Err(error) };
                }
                Err(StoreError::LostLease) => self.lease = None,
                Err(error) => {
                    tracing::error!(%error, "rollouts cannot be taken further; trying again");
                    tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        () = tokio::time::sleep(STORE_FAILED) => {}
                    }
                }
            }
            let idle = open.rollouts.is_empty();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                moved = self.known.changed() => if moved.is_err() { return Ok(()) },
                Ok(()) = changes.changed(), if !idle => {}
                () = tokio::time::sleep(TICK), if !idle => {}
            }
            tokio::time::sleep(DEBOUNCE).await;
        }
    }

    async fn round(&mut self, open: &OpenRollouts) -> Result<(), StoreError> {
        if open.rollouts.is_empty() {
            self.failing.clear();
            return Ok(());
        }
        self.lease = self.store.hold("rollouts", TERM).await?;
        if self.lease.is_none() {
            return Ok(());
        }
        let mut stuck = 0;
        // Audiences of the earlier ones: who goes to the same subscribers waits.
        let mut taken: BTreeSet<Audience> = BTreeSet::new();
        for rollout in &open.rollouts {
            let rollout = self.with_audiences(rollout).await?;
            let is_free = rollout.audiences.is_disjoint(&taken);
            taken.extend(rollout.audiences.iter().cloned());
            let span = tracing::info_span!("rollout", id = rollout.id);
            set_remote_parent(&span, &rollout.traceparent);
            stuck += i64::from(rollout.state == RolloutState::Paused && rollout.revert.is_some());
            self.one(rollout, is_free).instrument(span).await?;
        }
        self.metrics.stuck.set(stuck);
        Ok(())
    }

    /// With whom it reaches by now: a walk finds more as it goes.
    async fn with_audiences(&self, rollout: &Rollout) -> Result<Rollout, StoreError> {
        let mut tx = self.store.read().await?;
        let mut reached = rollout.clone();
        for id in rollout.ids() {
            reached.audiences.extend(tx.rollout_audiences(id).await?);
        }
        drop(tx);
        if reached != *rollout {
            self.write(rollout, reached.clone()).await?;
        }
        Ok(reached)
    }

    async fn one(&mut self, rollout: Rollout, is_free: bool) -> Result<(), StoreError> {
        if rollout.state == RolloutState::Reverting {
            return self.go_on_reverting(&rollout).await;
        }
        let mut tx = self.store.read().await?;
        let policy = RolloutPolicy::of(&tx.platform_config().await?);
        let is_planned = tx.rollout_is_planned(rollout.id).await?;
        drop(tx);
        let seen = self.seen(&rollout).await?;
        match look(&rollout, &policy, &seen, self.store.now(), (is_planned, is_free)) {
            Next::Stay => Ok(()),
            Next::Write(next) => {
                tracing::info!(
                    step = next.step,
                    state = next.state.name(),
                    reached = next.opened.len(),
                    "a rollout comes further"
                );
                if next.state == RolloutState::Done {
                    self.metrics.ended.get_or_create(&OutcomeLabel { outcome: Outcome::Done }).inc();
                }
                self.write(&rollout, *next).await
            }
            Next::Revert(reason) => {
                tracing::error!(reason, "a rollout hurts and is taken back; see `hostctl rollouts show`");
                self.write(&rollout, reverting(&rollout, reason, self.store.now())).await
            }
        }
    }

    async fn seen(&mut self, rollout: &Rollout) -> Result<Vec<Seen>, StoreError> {
        let ids: BTreeSet<u64> = rollout.ids().collect();
        let first = ids.first().copied().unwrap_or(rollout.id);
        let mut seen = Vec::new();
        let mut failing = BTreeMap::new();
        let mut tx = self.store.read().await?;
        for audience in &rollout.audiences {
            for registered in self.view.subscribers(audience) {
                let member = (audience.clone(), registered.node_id);
                let node = member.1.as_str();
                let served = self.view.served(audience, node);
                let mut trouble = None;
                for exception in self.view.rejected(audience, node) {
                    if exception.revision < first {
                        continue;
                    }
                    let key = Key { kind: exception.kind, name: exception.key.clone() };
                    let row = tx.intent(audience, &key).await?;
                    if row.is_some_and(|row| ids.contains(&row.rollout)) {
                        trouble = Some(format!("does not take {key}: {}", exception.reason));
                    }
                }
                for failed in served.iter().flat_map(|served| &served.failed) {
                    let key = Key { kind: failed.kind, name: failed.key.clone() };
                    let row = tx.intent(audience, &key).await?;
                    if !row.is_some_and(|row| ids.contains(&row.rollout)) {
                        continue;
                    }
                    let at = (member.clone(), key);
                    let since = self.failing.get(&at).copied().unwrap_or_else(Instant::now);
                    if since.elapsed() >= NOT_SERVED {
                        trouble = Some(format!("does not serve {} as applied: {}", at.1, failed.reason));
                    }
                    failing.insert(at, since);
                }
                let waits = ids.iter().any(|id| self.view.waits(audience, node, *id));
                seen.push(Seen {
                    in_service: registered.in_service,
                    waits: waits || registered.applied < rollout.id,
                    trouble,
                    checks: served.is_some(),
                    health: served.and_then(|served| served.health).map(|health| client_health(&health)),
                    member,
                });
            }
        }
        self.failing.retain(|(member, _), _| !rollout.audiences.contains(&member.0));
        self.failing.append(&mut failing);
        Ok(seen)
    }

    /// Writes `next`, unless somebody else has written meanwhile: then that is looked at first.
    async fn write(&self, was: &Rollout, next: Rollout) -> Result<(), StoreError> {
        let was = was.clone();
        let origin = Origin { lease: self.lease.clone(), ..Origin::default() };
        let written = self.store.write(origin, move |tx| {
            Box::pin(async move {
                let is_same = tx.beside().rollout(was.id).await?.is_some_and(|now| is_as_it_was(&now, &was));
                if is_same {
                    tx.put_rollout(&next).await?;
                }
                Ok::<_, StoreError>(())
            })
        });
        written.await.map(drop).map_err(flat)
    }

    /// Takes back what is left of it, a transaction's worth; ends it when what follows from that is planned.
    async fn go_on_reverting(&self, rollout: &Rollout) -> Result<(), StoreError> {
        if let Some(revert) = rollout.revert.as_ref().filter(|revert| revert.is_undone) {
            let (newest, oldest) = self.store.read().await?.replan_ends().await?;
            let Some(upto) = revert.planned_upto else {
                let revert = Some(Revert { planned_upto: Some(newest), ..revert.clone() });
                return self.write(rollout, Rollout { revert, ..rollout.clone() }).await;
            };
            if oldest != 0 && oldest <= upto {
                return Ok(());
            }
            self.metrics.ended.get_or_create(&OutcomeLabel { outcome: Outcome::Reverted }).inc();
            let next =
                Rollout { state: RolloutState::Reverted, changed_at: self.store.now(), ..rollout.clone() };
            return self.write(rollout, next).await;
        }
        let origin = Origin {
            lease: self.lease.clone(),
            traceparent: rollout
                .revert
                .as_ref()
                .map_or_else(current_traceparent, |one| one.traceparent.clone()),
            admin: true,
            ..Origin::default()
        };
        let was = rollout.clone();
        let taken_back =
            self.store.write(origin, move |tx| Box::pin(async move { take_back(tx, was).await }));
        match taken_back.await {
            Ok(_) => Ok(()),
            Err(WriteError::Store(error)) => Err(error),
            Err(WriteError::Refused(PlanError::Apply(ApplyError::World(error)))) => Err(error.into()),
            Err(error) => {
                tracing::error!(%error, "a rollout cannot be taken back; it stays where it is until somebody mends it");
                let reason = format!("{}; and cannot be taken back: {error}", rollout.reason);
                let revert = Some(rollout.revert.clone().unwrap_or_else(|| Revert {
                    upto: rollout.id,
                    traceparent: String::new(),
                    is_undone: false,
                    planned_upto: None,
                }));
                let now = self.store.now();
                let state = RolloutState::Paused;
                self.write(rollout, Rollout { state, reason, revert, changed_at: now, ..rollout.clone() })
                    .await
            }
        }
    }
}

/// Whether nobody but the keeper has changed it.
fn is_as_it_was(now: &Rollout, was: &Rollout) -> bool {
    (now.state, now.step, now.changed_at) == (was.state, was.step, was.changed_at)
}

fn reverting(rollout: &Rollout, reason: String, now: i64) -> Rollout {
    Rollout { state: RolloutState::Reverting, reason, changed_at: now, revert: None, ..rollout.clone() }
}

/// Takes its revisions back, the newest first, as the controller's own change.
async fn take_back(tx: &mut WriteTx, was: Rollout) -> Result<(), PlanError> {
    let traceparent = tx.origin().traceparent.clone();
    let upto = was.revert.as_ref().map_or_else(|| tx.revision().saturating_sub(1), |revert| revert.upto);
    let mut rollout = tx.beside().rollout(was.id).await.map_err(store_failed)?.unwrap_or(was);
    if rollout.state != RolloutState::Reverting {
        return Ok(());
    }
    let mut more = false;
    let mut conflicts = BTreeSet::new();
    for revision in rollout.revisions.iter().rev() {
        let undo_of = UndoOf {
            of: HistoryOf::Revision(*revision),
            upto,
            brands: None,
            trace: trace_id(&traceparent).to_owned(),
        };
        let changes = tx.to_undo(&undo_of, MOST_CHANGES).await.map_err(store_failed)?.changes;
        let undone = revert(tx, &changes).await?;
        let left = undone.conflicts.iter().chain(&undone.not_restorable);
        conflicts.extend(left.map(|one| format!("{} {} {}: {}", one.kind, one.id, one.field, one.reason)));
        more |= undone.more;
        if more {
            break;
        }
    }
    rollout.revert = Some(Revert { upto, traceparent, is_undone: !more, planned_upto: None });
    rollout.conflicts = conflicts.into_iter().take(20).collect();
    tx.put_rollout(&rollout).await.map_err(store_failed)
}

fn client_health(health: &wire::Health) -> ClientHealth {
    ClientHealth {
        start: health.start,
        requests: health.requests,
        failed: health.failed,
        handshakes: health.handshakes,
        failed_handshakes: health.failed_handshakes,
        busy_us: health.busy_us,
    }
}

fn flat(error: WriteError<StoreError>) -> StoreError {
    match error {
        WriteError::Store(error) | WriteError::Refused(error) => error,
        other => StoreError::Row(format!("a rollout is not written: {other}").into()),
    }
}

fn store_failed(error: StoreError) -> PlanError {
    hosting_planner::WorldError::from(error).into()
}
