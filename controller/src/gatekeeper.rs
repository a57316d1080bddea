//! Brings resources forward: opens gates, writes statuses, ends deletions, drains the replan queue, takes silent nodes out
//! of service.
//!
//! Owns no truth: what it knows is read anew at every look, so a crash, a second gatekeeper or a missed wake-up costs time
//! and nothing else. It never plans by itself ([`hosting_planner`] does) and never waits inside a mutation. `run` is
//! spawned once by the wiring; waiting for readiness is the API's, which asks the same questions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use hosting_intent::{Audience, Key, Kind as IntentKind};
use hosting_planner::gates::{self, Fleet, Gate, Inputs, Verdict, differs, evaluate, units_of};
use hosting_planner::{PlanError, World, trace_of};
use hosting_proto::feed::key_report::Phase;
use hosting_resource::{Doc, Kind, Resource, Status, kinds};
use hosting_scaffold::telemetry::{current_traceparent, set_remote_parent};
use hosting_store::{
    Commit, Cursor, ListQuery, Order, Origin, PageError, ReadTx, Sort, Store, StoreError, WriteError,
};
use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::fleet::FleetView;
use crate::metrics::{GatekeeperMetrics, Turn};

/// What comes within this time is looked at together.
const DEBOUNCE: Duration = Duration::from_millis(2);
/// A look at least this often, whatever nobody rings for.
const TICK: Duration = Duration::from_secs(1);
/// How often to look at what has failed, and at data destroyed late.
const SWEEP: Duration = Duration::from_secs(2);
/// A refused mutation is tried again after this long.
const REFUSED: Duration = Duration::from_secs(10);
/// After the store failed.
const STORE_FAILED: Duration = Duration::from_secs(1);
/// Known nodes are not taken out of service so soon after the start: they may be about to come back.
const GRACE: Duration = Duration::from_secs(15);
/// Resources evaluated on one read snapshot.
const PAGE: u32 = 200;
/// Mutations under way at once: they share commits.
const AT_ONCE: usize = 64;
/// Statuses, or nodes, that one mutation writes.
const TOGETHER: usize = 100;
/// Mutations that drain the replan queue, before the gates are looked at again.
const DRAINS: usize = 4;

/// The task.
pub(crate) struct Gatekeeper {
    store: Store,
    fleet: Arc<dyn Fleet + Send + Sync>,
    /// Moves whenever an answer of `fleet` may be another one.
    changes: watch::Receiver<u64>,
    grace: Duration,
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
}

/// A registered node that can be in and out of service.
#[derive(Debug)]
struct Node {
    id: String,
    /// The audience whose lease decides whether it is in service.
    audience: Audience,
    out: bool,
    created_at: i64,
}

/// What a look at a resource asks for.
#[derive(Debug)]
enum Action {
    Continue(String),
    Remove { id: String, retired: Vec<String> },
    Open { id: String, gates: Vec<Gate> },
    Record { id: String, generation: u64, verdict: Box<Verdict> },
}

impl Action {
    fn id(&self) -> &str {
        match self {
            Self::Continue(id)
            | Self::Remove { id, .. }
            | Self::Open { id, .. }
            | Self::Record { id, .. } => id,
        }
    }
}

/// What is to be done, in the trace of the user's change that it comes from; empty when that is not known.
#[derive(Debug)]
struct Due {
    action: Action,
    trace: String,
}

impl Due {
    fn span(&self) -> Span {
        let id = self.action.id();
        let span = match &self.action {
            Action::Continue(_) => tracing::info_span!("deletion.continue", id),
            Action::Remove { .. } => tracing::info_span!("deletion.finish", id),
            Action::Open { gates, .. } => tracing::info_span!("gates.open", id, ?gates),
            // Of no interest by itself.
            Action::Record { .. } if self.trace.is_empty() => Span::none(),
            Action::Record { verdict, .. } => {
                tracing::info_span!("status.write", id, status = verdict.status.as_str())
            }
        };
        set_remote_parent(&span, &self.trace);
        span
    }
}

/// What goes into one mutation.
#[derive(Debug)]
struct Job {
    dues: Vec<Due>,
    /// One for each trace, all of the same length.
    spans: Vec<Span>,
    gates: u64,
    statuses: u64,
}

impl Job {
    fn new(dues: Vec<Due>) -> Self {
        let count = |of: fn(&Action) -> usize| {
            u64::try_from(dues.iter().map(|due| of(&due.action)).sum::<usize>()).unwrap_or(u64::MAX)
        };
        Self {
            gates: count(|action| if let Action::Open { gates, .. } = action { gates.len() } else { 0 }),
            statuses: count(|action| usize::from(matches!(action, Action::Record { .. }))),
            spans: dues.iter().map(Due::span).collect(),
            dues,
        }
    }
}

impl Gatekeeper {
    pub(crate) fn new(store: Store, view: Arc<FleetView>, metrics: GatekeeperMetrics) -> Self {
        let changes = view.changes();
        Self::with(store, view, changes, GRACE, metrics)
    }

    fn with(
        store: Store,
        fleet: Arc<dyn Fleet + Send + Sync>,
        changes: watch::Receiver<u64>,
        grace: Duration,
        metrics: GatekeeperMetrics,
    ) -> Self {
        let born = store.now();
        Self {
            store,
            fleet,
            changes,
            grace,
            started: Instant::now(),
            born,
            nodes: Vec::new(),
            refused: BTreeMap::new(),
            failed: BTreeMap::new(),
            next_sweep: Instant::now(),
            metrics,
        }
    }

    /// Works until `stop`.
    ///
    /// # Errors
    /// When the store is closed. Any other failure is logged and tried again.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let mut doorbell = self.store.doorbell();
        let mut commits = self.store.commits();
        let mut registry_is_stale = true;
        loop {
            // Marked as seen before looking: what changes while looking is looked at once more.
            doorbell.borrow_and_update();
            self.changes.borrow_and_update();
            registry_is_stale |= registry_changed(&mut commits);
            let began = Instant::now();
            let round = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                round = self.round(registry_is_stale) => round,
            };
            let more = match round {
                Ok(more) => {
                    self.metrics.round(began.elapsed());
                    registry_is_stale = false;
                    more
                }
                Err(_) if stop.is_cancelled() => return Ok(()),
                Err(error @ StoreError::Closed) => return Err(error),
                Err(error) => {
                    tracing::error!(%error, "gates cannot be looked at; trying again");
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

    /// One look at everything that is open. True when the replan queue has more.
    async fn round(&mut self, registry_is_stale: bool) -> Result<bool, StoreError> {
        if registry_is_stale {
            self.read_registry().await?;
        }
        self.turn_service().await?;
        self.look().await?;
        let more = self.drain().await?;
        if Instant::now() >= self.next_sweep {
            self.next_sweep = Instant::now() + SWEEP;
            let now = Instant::now();
            self.refused.retain(|_, until| *until > now);
            self.metrics.queued(self.store.read().await?.replan_count().await?);
            self.look_at_failed().await?;
            self.close_late_retirements().await?;
        }
        Ok(more)
    }

    async fn read_registry(&mut self) -> Result<(), StoreError> {
        let mut tx = self.store.read().await?;
        let mut nodes = Vec::new();
        let mut after = String::new();
        loop {
            let page = tx.list(Kind::Node, &after, PAGE).await.map_err(world_failed)?;
            let short = page.len() < PAGE as usize;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.id);
            nodes.extend(page.iter().filter_map(node));
            if short {
                break;
            }
        }
        self.nodes = nodes;
        Ok(())
    }

    /// Takes out of service who is silent or behind, and back who has caught up.
    async fn turn_service(&mut self) -> Result<(), StoreError> {
        let in_grace = self.started.elapsed() < self.grace;
        let mut seen: BTreeMap<&Audience, BTreeMap<String, bool>> = BTreeMap::new();
        let mut turns = Vec::new();
        for node in &self.nodes {
            let audience = seen.entry(&node.audience).or_insert_with(|| {
                let all = self.fleet.subscribers(&node.audience).into_iter();
                all.map(|one| (one.node_id, one.in_service)).collect()
            });
            // The registry and the fleet's view of it may be a moment apart.
            let Some(in_service) = audience.get(&node.id).copied() else { continue };
            let spared = in_grace && node.created_at < self.born;
            if in_service == node.out && (in_service || !spared) {
                turns.push((node.id.clone(), in_service));
            }
        }
        for some in turns.chunks(TOGETHER) {
            let some = some.to_vec();
            let turned = some.clone();
            let span = tracing::info_span!("service.turn", nodes = some.len());
            let done = self
                .mutate("nodes", span, "", move |tx| {
                    Box::pin(async move {
                        for (node, in_service) in &some {
                            hosting_planner::set_in_service(tx, node, *in_service).await?;
                        }
                        Ok(())
                    })
                })
                .await?;
            for (node, in_service) in turned {
                if done {
                    tracing::info!(node, in_service, "a node's service turned");
                    self.metrics.turned(if in_service { Turn::In } else { Turn::Out });
                }
                if let Some(known) = self.nodes.iter_mut().find(|known| known.id == node) {
                    known.out = !in_service;
                }
            }
        }
        Ok(())
    }

    /// Looks at all open resources, a page at a time.
    async fn look(&mut self) -> Result<(), StoreError> {
        let mut after = String::new();
        let mut seen = 0;
        loop {
            let mut tx = self.store.read().await?;
            let open = tx.open_resources(&after, PAGE).await?;
            let last_page = open.len() < PAGE as usize;
            seen += open.len();
            let Some(last) = open.last() else { break };
            after.clone_from(&last.id);
            let dues = self.decide_all(&mut tx, &open).await?;
            drop(tx);
            self.act(dues).await?;
            if last_page {
                break;
            }
        }
        self.metrics.open(seen);
        Ok(())
    }

    /// A site may come up after all, an edge take what it rejected: what failed is looked at now and then, a page of each
    /// kind at a time.
    async fn look_at_failed(&mut self) -> Result<(), StoreError> {
        for kind in Kind::ALL.iter().copied().filter(|kind| gates::is_gated(*kind)) {
            let mut tx = self.store.read().await?;
            let query = ListQuery {
                status: Some(Status::Failed),
                sort: Sort::Id,
                order: Order::Asc,
                after: self.failed.remove(&kind),
                limit: PAGE,
                ..ListQuery::new(kind)
            };
            let page = tx.page(&query).await.map_err(page_failed)?;
            let dues = self.decide_all(&mut tx, &page.items).await?;
            drop(tx);
            if let Some(next) = page.next {
                self.failed.insert(kind, next);
            }
            self.act(dues).await?;
        }
        Ok(())
    }

    async fn decide_all(&self, tx: &mut ReadTx, resources: &[Resource]) -> Result<Vec<Due>, StoreError> {
        let now = Instant::now();
        let mut dues = Vec::new();
        for resource in resources {
            if self.refused.get(&resource.id).is_none_or(|until| *until <= now) {
                let action = self.decide(tx, resource).await?;
                dues.extend(action.map(|action| Due { action, trace: trace_of(resource).to_owned() }));
            }
        }
        Ok(dues)
    }

    async fn decide(&self, tx: &mut ReadTx, resource: &Resource) -> Result<Option<Action>, StoreError> {
        let id = resource.id.clone();
        let mut inputs = Inputs::default();
        if resource.status == Status::Deleting {
            inputs.has_children = hosting_planner::has_children(tx, resource).await.map_err(world_failed)?;
            if hosting_planner::wants_continuing(resource, inputs.has_children) {
                return Ok(Some(Action::Continue(id)));
            }
        }
        for unit in units_of(resource) {
            inputs.rows.extend(tx.owned(&unit.owner()).await.map_err(world_failed)?);
        }
        let verdict = evaluate(resource, &inputs, self.fleet.as_ref(), self.store.now());
        Ok(if verdict.remove {
            Some(Action::Remove { id, retired: verdict.retired })
        } else if !verdict.open.is_empty() {
            Some(Action::Open { id, gates: verdict.open })
        } else if differs(resource, &verdict) {
            Some(Action::Record { id, generation: resource.generation, verdict: Box::new(verdict) })
        } else {
            None
        })
    }

    /// Mutations of their own, so that one that is refused leaves the others alone; statuses go together.
    async fn act(&mut self, dues: Vec<Due>) -> Result<(), StoreError> {
        let (statuses, others): (Vec<_>, Vec<_>) =
            dues.into_iter().partition(|due| matches!(due.action, Action::Record { .. }));
        let mut jobs: Vec<Vec<Due>> = others.into_iter().map(|due| vec![due]).collect();
        let mut statuses = statuses.into_iter().peekable();
        while statuses.peek().is_some() {
            jobs.push(statuses.by_ref().take(TOGETHER).collect());
        }
        let this = &*self;
        let done: Vec<_> = stream::iter(jobs)
            .map(|dues| async move {
                let ids: Vec<String> = dues.iter().map(|due| due.action.id().to_owned()).collect();
                let what = ids.first().map(String::as_str).unwrap_or_default();
                let Job { dues, spans, gates, statuses } = Job::new(dues);
                let span = spans.first().cloned().unwrap_or_else(Span::none);
                let trace = dues.first().map(|due| due.trace.clone()).unwrap_or_default();
                let done = this
                    .mutate(what, span, &trace, move |tx| {
                        Box::pin(async move {
                            for due in dues {
                                carry_out(tx, due.action).await?;
                            }
                            Ok(())
                        })
                    })
                    .await;
                drop(spans);
                if matches!(done, Ok(true)) {
                    this.metrics.opened(gates);
                    this.metrics.wrote(statuses);
                }
                (ids, done)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let until = Instant::now() + REFUSED;
        for (ids, done) in done {
            if !done? {
                self.refused.extend(ids.into_iter().map(|id| (id, until)));
            }
        }
        Ok(())
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
                .write(origin(&span, ""), |tx| Box::pin(async move { hosting_planner::drain(tx).await }))
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

    /// Nodes that were away when a row went, and have destroyed its data now.
    async fn close_late_retirements(&mut self) -> Result<(), StoreError> {
        const REPORTS: u32 = 1_000;
        let mut late = Vec::new();
        let mut tx = self.store.read().await?;
        for report in tx.reports_in(Phase::Retired, REPORTS).await? {
            let Some(id) = retired_id(&report.key) else { continue };
            if tx.resource(&id).await.map_err(world_failed)?.is_some() {
                continue;
            }
            let Ok(audience) = Audience::node(&report.node) else { continue };
            let row = tx.intent(&audience, &report.key).await.map_err(world_failed)?;
            if row.is_some_and(|row| report.revision >= row.revision) {
                late.push((report.node, id));
            }
        }
        drop(tx);
        for some in late.chunks(TOGETHER) {
            let some = some.to_vec();
            let span = tracing::info_span!("retirements.close", nodes = some.len());
            self.mutate("late retirements", span, "", move |tx| {
                Box::pin(async move {
                    for (node, id) in &some {
                        hosting_planner::retired(tx, node, id).await?;
                    }
                    Ok(())
                })
            })
            .await?;
        }
        Ok(())
    }

    /// Runs a mutation in `span`, which continues `trace`. False when it was refused, which is logged. Only the store's own
    /// failures are errors.
    async fn mutate<F>(&self, what: &str, span: Span, trace: &str, mutation: F) -> Result<bool, StoreError>
    where
        F: for<'t> FnOnce(
                &'t mut hosting_store::WriteTx,
            ) -> futures::future::BoxFuture<'t, Result<(), PlanError>>
            + Send
            + 'static,
    {
        let origin = origin(&span, trace);
        async {
            match self.store.write(origin, mutation).await {
                Ok(_) => Ok(true),
                Err(WriteError::Store(error)) => Err(error),
                Err(error) => {
                    self.metrics.refused();
                    tracing::error!(%error, what, "cannot be brought forward; trying again later");
                    Ok(false)
                }
            }
        }
        .instrument(span)
        .await
    }
}

/// A log filter may leave the span out: then what comes of the change is in the trace all the same.
fn origin(span: &Span, trace: &str) -> Origin {
    let own = span.in_scope(current_traceparent);
    Origin { traceparent: if own.is_empty() { trace.to_owned() } else { own }, actor: None, admin: false }
}

async fn carry_out(tx: &mut hosting_store::WriteTx, action: Action) -> Result<(), PlanError> {
    match action {
        Action::Continue(id) => hosting_planner::continue_delete(tx, &id).await.map(|_| ()),
        Action::Remove { id, retired } => hosting_planner::finish_delete(tx, &id, &retired).await.map(|_| ()),
        Action::Open { id, gates } => hosting_planner::open_gates(tx, &id, &gates).await,
        Action::Record { id, generation, verdict } => {
            hosting_planner::record_status(tx, &id, generation, &verdict).await
        }
    }
}

/// Whether any commit since the last call changed node resources. One that was missed may have.
fn registry_changed(commits: &mut broadcast::Receiver<Arc<Commit>>) -> bool {
    let mut changed = false;
    loop {
        match commits.try_recv() {
            Ok(commit) => changed |= commit.new_epoch || commit.kinds.contains(&Kind::Node),
            Err(TryRecvError::Lagged(_)) => changed = true,
            Err(TryRecvError::Empty | TryRecvError::Closed) => return changed,
        }
    }
}

/// `None` for a node that applies no intents.
fn node(resource: &Resource) -> Option<Node> {
    let node = Doc::<kinds::node::Node>::of(resource).ok()?;
    Some(Node {
        id: node.id.clone(),
        audience: hosting_planner::node_service_audience(&node)?,
        out: node.state.out_of_service,
        created_at: node.created_at,
    })
}

/// The resource that a Retire speaks of.
fn retired_id(key: &Key) -> Option<String> {
    (key.known_kind() == Some(IntentKind::Retire)).then(|| key.name.split_once('/'))??.1.to_owned().into()
}

/// The store's own error comes out of its reads as a boxed one.
fn world_failed(error: hosting_planner::WorldError) -> StoreError {
    match error.0.downcast::<StoreError>() {
        Ok(error) => *error,
        Err(other) => StoreError::Sql(other.to_string().into()),
    }
}

/// The cursor comes from the page before, so only the store can fail.
fn page_failed(error: PageError) -> StoreError {
    match error {
        PageError::Store(error) => error,
        PageError::Cursor => StoreError::Row("a cursor of another list".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use hosting_intent_sync::FeedSource;
    use hosting_planner::gates::{Exception, Phase as Seen, Report, Subscriber};
    use hosting_planner::{Deleted, create, delete};
    use hosting_store::{Kek, StoreConfig};
    use prometheus_client::registry::Registry;
    use serde_json::{Value, json};
    use tokio::task::JoinHandle;

    use super::*;

    /// A fleet that applies what it is told, but for who is told not to.
    #[derive(Default)]
    struct Puppets {
        members: Mutex<BTreeMap<Audience, BTreeSet<String>>>,
        out: Mutex<BTreeSet<String>>,
        stuck: Mutex<BTreeSet<String>>,
        broken: Mutex<BTreeSet<String>>,
    }

    impl Fleet for Puppets {
        fn subscribers(&self, audience: &Audience) -> Vec<Subscriber> {
            let members = self.members.lock().unwrap().get(audience).cloned().unwrap_or_default();
            members
                .into_iter()
                .map(|node_id| Subscriber {
                    applied: if self.stuck.lock().unwrap().contains(&node_id) { 0 } else { u64::MAX },
                    in_service: !self.out.lock().unwrap().contains(&node_id),
                    node_id,
                })
                .collect()
        }

        fn exception(&self, _: &Audience, _: &str, _: &Key) -> Option<Exception> {
            None
        }

        fn report(&self, node: &str, key: &Key) -> Option<Report> {
            if self.stuck.lock().unwrap().contains(node) {
                return None;
            }
            let phase = if self.broken.lock().unwrap().contains(&key.name) {
                Seen::Failed
            } else if key.known_kind() == Some(IntentKind::Retire) {
                Seen::Retired
            } else {
                Seen::Ready
            };
            Some(Report { phase, revision: u64::MAX, message: "because".into() })
        }
    }

    struct Lab {
        store: Store,
        puppets: Arc<Puppets>,
        changes: watch::Sender<u64>,
        stop: CancellationToken,
        task: JoinHandle<Result<(), StoreError>>,
        tenant: String,
        shard: String,
        cluster: String,
        region: String,
        registry: Registry,
        _dir: tempfile::TempDir,
    }

    fn metrics() -> GatekeeperMetrics {
        GatekeeperMetrics::register(&mut Registry::default())
    }

    impl Lab {
        async fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let kek = Kek::load_or_create(&dir.path().join("kek")).unwrap();
            let store = Store::open(&StoreConfig::new(dir.path().join("store.db")), kek).await.unwrap();
            let puppets = Arc::new(Puppets::default());
            let changes = watch::Sender::new(0);
            let stop = CancellationToken::new();
            let mut registry = Registry::default();
            let metrics = GatekeeperMetrics::register(&mut registry);
            let keeper = Gatekeeper::with(
                store.clone(),
                puppets.clone(),
                changes.subscribe(),
                Duration::ZERO,
                metrics,
            );
            let task = tokio::spawn(keeper.run(stop.clone()));
            let empty = String::new;
            let mut lab = Self {
                store,
                puppets,
                changes,
                stop,
                task,
                tenant: empty(),
                shard: empty(),
                cluster: empty(),
                region: empty(),
                registry,
                _dir: dir,
            };
            lab.region = lab.post(Kind::Region, None, json!({"name": "eu"})).await;
            let region = lab.region.clone();
            lab.cluster = lab.post(Kind::Cluster, Some(&region), json!({"name": "c"})).await;
            let cluster = lab.cluster.clone();
            lab.shard = lab.post(Kind::Shard, Some(&cluster), json!({"name": "w", "role": "web"})).await;
            lab.post(Kind::LbAddress, Some(&cluster), json!({"address": "192.0.2.1"})).await;
            lab.member("node/web1", "web1");
            lab.member("node/web2", "web2");
            lab.member(&format!("edge/{cluster}"), "edge1");
            lab.member("dns/default", "dns1");
            for (id, role, ip) in [
                ("web1", "web", "192.0.2.11"),
                ("web2", "web", "192.0.2.12"),
                ("edge1", "lb", ""),
                ("dns1", "dns", ""),
            ] {
                let shards = if role == "web" { vec![lab.shard.clone()] } else { vec![] };
                let body =
                    json!({"id": id, "hostname": id, "roles": [role], "ip_address": ip, "shard_ids": shards});
                lab.post(Kind::Node, Some(&cluster), body).await;
            }
            let brand = json!({"id": "acme", "name": "acme", "base_hostname": "acme.example",
                "primary_ns": "ns1.acme.example", "secondary_ns": "ns2.acme.example",
                "hostmaster_email": "h@acme.example"});
            lab.post(Kind::Brand, None, brand).await;
            let tenant = json!({"brand_id": "acme", "customer_id": "c", "region_id": lab.region,
                "cluster_id": lab.cluster, "shard_id": lab.shard,
                "subscriptions": [{"id": "sub", "name": "sub"}],
                "zones": [{"subscription_id": "sub", "name": "example.com"}]});
            lab.tenant = lab.post(Kind::Tenant, None, tenant).await;
            lab
        }

        fn member(&self, audience: &str, node: &str) {
            self.puppets
                .members
                .lock()
                .unwrap()
                .entry(audience.parse().unwrap())
                .or_default()
                .insert(node.into());
        }

        fn change(&self, how: impl FnOnce(&Puppets)) {
            how(&self.puppets);
            self.changes.send_modify(|version| *version += 1);
        }

        async fn post(&self, kind: Kind, parent: Option<&str>, body: Value) -> String {
            self.post_by("", kind, parent, body).await
        }

        async fn post_by(&self, trace: &str, kind: Kind, parent: Option<&str>, body: Value) -> String {
            let parent = match parent {
                Some(id) => self.get(id).await,
                None => None,
            };
            let creation = kind
                .def()
                .create(parent.as_ref(), body.as_object().unwrap(), &mut |bytes: &mut [u8]| rand::fill(bytes))
                .unwrap();
            let origin = Origin { traceparent: trace.to_owned(), actor: None, admin: false };
            let made = self
                .store
                .write(origin, move |tx| Box::pin(async move { create(tx, creation).await }))
                .await
                .unwrap();
            made.value.first().unwrap().id.clone()
        }

        async fn webroot(&self) -> String {
            let body = json!({"subscription_id": "sub", "runtime": "static", "runtime_version": "1",
                "service_hostname_enabled": false});
            self.post(Kind::Webroot, Some(&self.tenant), body).await
        }

        async fn fqdn(&self, name: &str, webroot: &str) -> String {
            let body = json!({"fqdn": name, "webroot_id": webroot});
            self.post(Kind::Fqdn, Some(&self.tenant), body).await
        }

        async fn delete(&self, kind: Kind, id: &str) -> Deleted {
            let id = id.to_owned();
            let deleted = self
                .store
                .write(Origin::default(), move |tx| Box::pin(async move { delete(tx, kind, &id).await }))
                .await;
            deleted.unwrap().value
        }

        async fn get(&self, id: &str) -> Option<Resource> {
            self.store.read().await.unwrap().resource(id).await.unwrap()
        }

        async fn row(&self, audience: &str, kind: IntentKind, name: &str) -> bool {
            let mut tx = self.store.read().await.unwrap();
            tx.intent(&audience.parse().unwrap(), &Key::new(kind, name)).await.unwrap().is_some()
        }

        /// Waits until the resource stands there; `None`: until it is gone. Answers how long it took.
        async fn until(&self, id: &str, status: Option<Status>) -> Duration {
            let began = Instant::now();
            loop {
                let found = self.get(id).await.map(|resource| resource.status);
                if found == status {
                    return began.elapsed();
                }
                assert!(began.elapsed() < Duration::from_secs(20), "{id} is {found:?}, not {status:?}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }

        async fn end(self) {
            self.stop.cancel();
            self.task.await.unwrap().unwrap();
            self.store.close().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn names_go_live_within_the_budget() {
        let lab = Lab::start().await;
        let webroot = lab.webroot().await;
        lab.until(&webroot, Some(Status::Active)).await;
        lab.until(&lab.tenant, Some(Status::Active)).await;
        let mut times = Vec::new();
        for n in 0..40 {
            let fqdn = lab.fqdn(&format!("n{n}.example.com"), &webroot).await;
            times.push(lab.until(&fqdn, Some(Status::Active)).await);
            assert!(
                lab.row("dns/default", IntentKind::RrSet, &format!("example.com/n{n}.example.com/A")).await
            );
        }
        times.sort();
        // Commit to routed to answered to `active`: four commits. The budget for all of it is 1 s.
        assert!(times[38] < Duration::from_secs(1), "{times:?}");
        lab.end().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_edge_that_does_not_answer_holds_the_gate_until_it_is_out_of_service() {
        let lab = Lab::start().await;
        let webroot = lab.webroot().await;
        lab.until(&webroot, Some(Status::Active)).await;
        let edge = format!("edge/{}", lab.cluster);
        lab.member(&edge, "edge2");
        lab.change(|puppets| {
            puppets.stuck.lock().unwrap().insert("edge2".into());
        });
        let fqdn = lab.fqdn("www.example.com", &webroot).await;
        lab.until(&fqdn, Some(Status::Provisioning)).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(lab.row(&edge, IntentKind::Route, "www.example.com").await);
        assert!(!lab.row("dns/default", IntentKind::RrSet, "example.com/www.example.com/A").await);
        lab.change(|puppets| {
            puppets.out.lock().unwrap().insert("edge2".into());
        });
        lab.until(&fqdn, Some(Status::Active)).await;
        lab.end().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn silent_nodes_leave_the_pool_and_come_back() {
        let lab = Lab::start().await;
        let edge = format!("edge/{}", lab.cluster);
        let pool = async |lab: &Lab| -> Vec<bool> {
            let mut tx = lab.store.read().await.unwrap();
            let key = Key::new(IntentKind::ShardPool, lab.shard.as_str());
            let row = tx.intent(&edge.parse().unwrap(), &key).await.unwrap().unwrap();
            let Ok(hosting_intent::Intent::ShardPool(pool)) = hosting_intent::Intent::parse(&key, &row.value)
            else {
                panic!("{row:?}");
            };
            pool.nodes.iter().map(|node| node.in_service).collect()
        };
        let until = async |lab: &Lab, wanted: &[bool]| {
            let began = Instant::now();
            while pool(lab).await != wanted {
                assert!(began.elapsed() < Duration::from_secs(20), "{:?}, not {wanted:?}", pool(lab).await);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        until(&lab, &[true, true]).await;
        lab.change(|puppets| {
            puppets.out.lock().unwrap().insert("web1".into());
        });
        until(&lab, &[false, true]).await;
        lab.change(|puppets| {
            puppets.out.lock().unwrap().insert("web2".into());
        });
        let began = Instant::now();
        while !lab.get("web2").await.unwrap().flag("out_of_service") {
            assert!(began.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(pool(&lab).await, [false, true], "never none");
        lab.change(|puppets| puppets.out.lock().unwrap().clear());
        until(&lab, &[true, true]).await;
        lab.end().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_failed_is_well_again_when_the_node_says_so() {
        let lab = Lab::start().await;
        let webroot = lab.webroot().await;
        lab.until(&webroot, Some(Status::Active)).await;
        let second = {
            lab.change(|puppets| puppets.stuck.lock().unwrap().extend(["web1".into(), "web2".into()]));
            let second = lab.webroot().await;
            let broken = second.clone();
            lab.change(move |puppets| {
                puppets.stuck.lock().unwrap().clear();
                puppets.broken.lock().unwrap().insert(broken);
            });
            second
        };
        lab.until(&second, Some(Status::Failed)).await;
        assert!(lab.get(&second).await.unwrap().status_message.unwrap().contains("because"));
        lab.change(|puppets| puppets.broken.lock().unwrap().clear());
        lab.until(&second, Some(Status::Active)).await;
        lab.end().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_tenant_with_much_in_it_goes_whole() {
        let lab = Lab::start().await;
        let mut ids = Vec::new();
        for n in 0..3 {
            let webroot = lab.webroot().await;
            for k in 0..60 {
                ids.push(lab.fqdn(&format!("n{n}-{k}.example.com"), &webroot).await);
            }
            ids.push(webroot);
        }
        for id in &ids {
            lab.until(id, Some(Status::Active)).await;
        }
        assert!(matches!(lab.delete(Kind::Tenant, &lab.tenant).await, Deleted::Deleting(_)));
        lab.until(&lab.tenant, None).await;
        for id in &ids {
            assert_eq!(lab.get(id).await, None);
        }
        let edge = format!("edge/{}", lab.cluster);
        let mut tx = lab.store.read().await.unwrap();
        let left = tx.audience_rows(&edge.parse().unwrap(), None, 10).await.unwrap();
        assert!(left.iter().all(|row| row.key.known_kind() == Some(IntentKind::ShardPool)), "{left:?}");
        drop(tx);
        lab.end().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_waited_is_in_the_trace_of_its_request() {
        let trace = |n: u8| format!("00-{}-00000000000000{n:02x}-01", format!("{n:02x}").repeat(16));
        let lab = Lab::start().await;
        lab.change(|puppets| puppets.stuck.lock().unwrap().extend(["web1".into(), "web2".into()]));
        let body = json!({"subscription_id": "sub", "runtime": "static", "runtime_version": "1",
            "service_hostname_enabled": false});
        let webroot = lab.post_by(&trace(1), Kind::Webroot, Some(&lab.tenant), body).await;
        let mut names = Vec::new();
        for n in 2..12 {
            let name = format!("n{n}.example.com");
            let body = json!({"fqdn": name, "webroot_id": webroot});
            names.push((lab.post_by(&trace(n), Kind::Fqdn, Some(&lab.tenant), body).await, name, trace(n)));
        }
        let edge = format!("edge/{}", lab.cluster);
        assert!(!lab.row(&edge, IntentKind::Route, "n2.example.com").await, "it waits for the site");
        lab.change(|puppets| puppets.stuck.lock().unwrap().clear());
        let logged = async |audience: &str, kind: IntentKind, name: &str| -> Vec<String> {
            let window = lab.store.window(&audience.parse().unwrap(), 0, 10_000).await.unwrap();
            let items = window.entries.into_iter().flat_map(|entry| entry.upserts);
            items.filter(|item| item.key == Key::new(kind, name)).map(|item| item.traceparent).collect()
        };
        for (id, name, trace) in &names {
            lab.until(id, Some(Status::Active)).await;
            assert_eq!(logged(&edge, IntentKind::Route, name).await, [trace.as_str()]);
            let records = format!("example.com/{name}/A");
            assert_eq!(logged("dns/default", IntentKind::RrSet, &records).await, [trace.as_str()]);
            assert_eq!(trace_of(&lab.get(id).await.unwrap()), "", "it has arrived");
        }
        lab.end().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_done_is_counted() {
        let lab = Lab::start().await;
        let webroot = lab.webroot().await;
        let fqdn = lab.fqdn("www.example.com", &webroot).await;
        lab.until(&fqdn, Some(Status::Active)).await;
        lab.change(|puppets| {
            puppets.out.lock().unwrap().insert("web1".into());
        });
        let count = |name: &str| -> f64 {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &lab.registry).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
        };
        let began = Instant::now();
        while count("hosting_controller_node_turns_total{to=\"Out\"}") < 1.0
            || count("hosting_controller_open_resources") > 0.0
        {
            assert!(began.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // The site's, the name's.
        assert!(count("hosting_controller_gates_opened_total") >= 2.0);
        assert!(count("hosting_controller_statuses_written_total") >= 2.0);
        let rounds = count("hosting_controller_rounds_total");
        assert!(rounds >= 3.0 && count("hosting_controller_round_seconds_sum") > 0.0);
        assert!(count("hosting_controller_round_seconds_count") >= rounds);
        assert_eq!(count("hosting_controller_node_turns_total{to=\"In\"}"), 0.0);
        assert_eq!(count("hosting_controller_replan_queue"), 0.0);
        assert_eq!(count("hosting_controller_gatekeeper_refusals_total"), 0.0);
        lab.end().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_gatekeeper_that_starts_late_finds_everything() {
        let lab = Lab::start().await;
        lab.stop.cancel();
        lab.task.await.unwrap().unwrap();
        let stop = CancellationToken::new();
        let lab = Lab { stop: stop.clone(), task: tokio::spawn(async { Ok(()) }), ..lab };
        let webroot = lab.webroot().await;
        let fqdn = lab.fqdn("www.example.com", &webroot).await;
        lab.post(Kind::LbAddress, Some(&lab.cluster.clone()), json!({"address": "2001:db8::1"})).await;
        assert_eq!(lab.get(&fqdn).await.unwrap().status, Status::Pending);
        let keeper = Gatekeeper::with(
            lab.store.clone(),
            lab.puppets.clone(),
            lab.changes.subscribe(),
            Duration::ZERO,
            metrics(),
        );
        let lab = Lab { task: tokio::spawn(keeper.run(stop)), ..lab };
        lab.until(&fqdn, Some(Status::Active)).await;
        let began = Instant::now();
        while !lab.row("dns/default", IntentKind::RrSet, "example.com/www.example.com/AAAA").await {
            assert!(began.elapsed() < Duration::from_secs(20), "the replan queue was not drained");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        lab.end().await;
    }
}
