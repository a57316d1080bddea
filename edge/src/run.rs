//! The wiring: ledger → publish → serve → connect.

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::future::Either;
use hosting_edge_map::Routing;
use hosting_intent::Role;
use hosting_intent_sync::Replica;
use hosting_intent_sync::client::{
    AudienceKeys, ClientMetrics, EdgeKeyStore, Lending, RequestTeller, Subscription, SubscriptionError,
};
use hosting_intent_sync::self_check::{CheckMetrics, SelfChecks};
use hosting_scaffold::admin::{self, Readiness};
use hosting_scaffold::request_spans::RequestTracer;
use hosting_scaffold::role::{Admin, AdminPort, RoleProcess, VIEW, background_runtime, ms, runtime};
use hosting_scaffold::tasks::{Ending, OnEnd, Spawner};
use hosting_scaffold::{BUILD, notify};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use prometheus_client::metrics::counter::Counter;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::access_log::AccessLog;
use crate::budget;
use crate::certs::{CertStore, DevCa};
use crate::launch;
use crate::listeners::{Bound, Place, Purpose, places};
use crate::metrics::Metrics;
use crate::node_keys::NodeKeys;
use crate::replica::EdgeReplica;
use crate::server::Server;
use crate::settings::{Settings, StartArgs};
use crate::take_over::{self, Giver, Taken, Taker};
use crate::traffic::{TrafficReports, TrafficSender};

const LISTENERS: &str = "listeners";

/// Runs the edge until it is told to stop.
///
/// # Errors
/// What stands in the way, with the remedy.
pub fn run(settings: Settings, start: StartArgs) -> anyhow::Result<()> {
    // User bytes and control traffic do not share threads: neither a flood of requests nor a large snapshot delays the other.
    let user = runtime("edge-io", settings.threads())?;
    let control = background_runtime("edge-control", 2)?;
    let outcome = control.block_on(wire(settings, start, user.handle().clone()));
    user.shutdown_timeout(Duration::from_secs(1));
    control.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn wire(mut settings: Settings, start: StartArgs, user: Handle) -> anyhow::Result<()> {
    budget::check(&settings)?;
    let mut taker = taker(&settings, start).await?;
    let taken = taker.as_ref().map(|taker| taker.places.clone()).unwrap_or_default();
    let process = RoleProcess::without_admin_port(
        "hosting-edge",
        &settings.shared,
        [(LISTENERS, "closed until there is a view")],
    )?;
    let admin_place = Place { purpose: Purpose::Admin, address: settings.shared.admin_listen };
    let admin = if taken.contains(&admin_place) {
        None
    } else {
        Some(process.admin().serve(admin::bind(settings.shared.admin_listen).await?)?)
    };
    let (group, readiness) = (&process.group, process.readiness.clone());
    raise_file_limit(&mut settings);
    DirBuilder::new()
        .recursive(true)
        .mode(0o755) // the authority's certificate is for everybody, each secret in here has a mode of its own
        .create(&settings.shared.data_dir)
        .with_context(|| format!("data_dir {}", settings.shared.data_dir.display()))?;

    let bound = Bound::bind_beside(&settings, &taken)?;
    if let Some(taker) = &mut taker {
        // The last thing before what reads the ledger: whatever is wrong with the settings costs the edge that runs nothing.
        taker.take_feed().await?;
    }

    let metrics = Metrics::new(&process.registry);
    let feed_metrics = process.registry.register(ClientMetrics::register);
    let (routing, writer) = Routing::new(settings.map_buckets);
    let writer = writer.with_balance(settings.balance());
    let ca = DevCa::load_or_make(&settings.dev_ca(), &settings.dev_ca_key())?;
    let certs = CertStore::new(ca, Arc::clone(&routing), settings.certificate_cache, metrics.clone())?;
    let edge_key = EdgeKeyStore::load(&settings.shared.data_dir);
    let audience_keys = AudienceKeys::load(&settings.shared.data_dir).context("sealing key")?;
    let keys = Arc::new(NodeKeys::default());
    // Ends after all connections have.
    let (log, _writer) = AccessLog::open(settings.access_log().as_ref(), &metrics)
        .with_context(|| format!("access_log {}", settings.access_log.display()))?;
    let server =
        Server::new(&settings, routing, Arc::clone(&certs), Arc::clone(&keys), metrics.clone(), log)?;
    if let Some(tracer) = RequestTracer::connect("hosting-edge")? {
        server.trace(tracer, &settings);
    }
    let folder = settings.shared.data_dir.join("traffic");
    let reports = TrafficReports::new(server.traffic(), folder.clone(), metrics.traffic_lost.clone())
        .with_context(|| format!("{}", folder.display()))?;
    process.looks.add("hosts", server.look());
    let teller = server.request_teller();
    process.looks.add_routes(server.routes());
    let counted = metrics.clone();
    let (replica, loaded) = EdgeReplica::new(writer, certs, audience_keys.clone(), metrics.clone());
    let wanted: Vec<Place> =
        places(&settings).into_iter().chain([admin_place]).filter(|place| taken.contains(place)).collect();
    let at = |purpose, bound: Vec<SocketAddr>| {
        let taken = wanted.iter().filter(|place| place.purpose == purpose).map(|place| place.address);
        taken.chain(bound).collect()
    };
    let listeners = (at(Purpose::Http, bound.http()), at(Purpose::Https, bound.https()));
    let check = Arc::new(server.self_check(listeners, &replica).context("TLS of the self-check")?);
    let (replica, checks) = SelfChecks::of(replica, process.registry.register(CheckMetrics::register));
    let served = checks.served().with_health(Arc::new(move || counted.health()));
    let (opened, is_open) = oneshot::channel();
    let stop = group.stop();
    group.spawn("self-check", OnEnd::Fatal, async move {
        if is_open.await.is_ok() {
            checks.run(check, stop.clone()).await;
        }
        // Without listeners there is nothing to ask.
        stop.cancelled().await;
        Ok::<(), std::io::Error>(())
    });

    let lending = Lending::default();
    let passed_on = CancellationToken::new();
    let opening = Opening {
        server,
        bound,
        loaded,
        opened,
        readiness,
        admin_port: admin.map(|port| (admin_place, port)),
        admin: process.admin(),
        spawner: group.spawner(),
        ending: group.ending(),
        lending: lending.clone(),
        lost: metrics.take_over_packets_lost,
        data_dir: settings.shared.data_dir.clone(),
        wait: ms(settings.take_over_wait_ms),
        longest_drain: ms(settings.take_over_drain_ms),
        takes_over: false,
        _passed_on: passed_on.clone().drop_guard(),
        user,
    };
    group.spawn("listeners", OnEnd::Fatal, opening.serve(taker, wanted));
    let told = edge_key.subscribe();
    let stop = group.stop();
    group.spawn("edge key", OnEnd::Fatal, async move {
        // Ends only with the process: the subscription holds the sender.
        stop.run_until_cancelled(keys.follow(told)).await;
        Ok::<(), std::io::Error>(())
    });
    let subscription = Subscription {
        data_dir: settings.shared.data_dir,
        controllers: settings.shared.controller,
        token_file: settings.shared.join_token_file,
        role: Role::Lb,
        build: BUILD,
        metrics: feed_metrics,
        edge_key: Some(edge_key),
        audience_keys: Some(audience_keys),
        served: Some(served),
        lending,
    };
    let beside = Beside { sender: reports.sender(), teller };
    let stop = group.stop();
    group.spawn("traffic", OnEnd::Fatal, async move {
        reports.run(passed_on).await;
        // The listeners' task says why it ended.
        stop.cancelled().await;
        Ok::<(), std::io::Error>(())
    });
    group.spawn("feed", OnEnd::Fatal, feed(subscription, replica, beside, group.stop()));
    process.run().await
}

/// What the controllers hear beside the subscription.
struct Beside {
    sender: TrafficSender,
    teller: Arc<dyn RequestTeller>,
}

/// Applies what the controller says, and tells it what was passed on.
async fn feed<R: Replica>(
    subscription: Subscription,
    replica: R,
    beside: Beside,
    stop: CancellationToken,
) -> Result<(), SubscriptionError> {
    let Some(subscription) = subscription.identify(&stop).await? else { return Ok(()) };
    let sending = beside.sender.run(subscription.traffic(), stop.clone());
    let telling = subscription.requests().run(beside.teller, stop.clone());
    let applying = Box::pin(subscription.run(replica, stop));
    match futures::future::select(applying, Box::pin(futures::future::join(sending, telling))).await {
        Either::Left((ended, _)) => ended,
        Either::Right((_, applying)) => applying.await,
    }
}

/// The edge to take over from, if there is one and that is wanted.
async fn taker(settings: &Settings, start: StartArgs) -> anyhow::Result<Option<Taker>> {
    let folder = settings.shared.data_dir.display();
    match (Taker::find(&settings.shared.data_dir).await?, start.take_over) {
        (Some(running), false) => anyhow::bail!(
            "data_dir {folder}: an edge runs with it already (process {}, build {}); stop that one first, replace it with --take-over, or give this one a folder of its own",
            running.pid,
            running.build
        ),
        (None, true) => anyhow::bail!(
            "--take-over: no edge that serves runs with data_dir {folder}; start this one without the flag"
        ),
        (found, _) => Ok(found),
    }
}

/// What it takes to open the listeners.
struct Opening {
    server: Server,
    bound: Bound,
    loaded: watch::Receiver<bool>,
    opened: oneshot::Sender<()>,
    readiness: Readiness,
    /// Unless the process before has it.
    admin_port: Option<(Place, AdminPort)>,
    admin: Admin,
    spawner: Spawner,
    ending: Ending,
    lending: Lending,
    lost: Counter,
    data_dir: PathBuf,
    /// For the controller's word, before sockets are taken over.
    wait: Duration,
    longest_drain: Duration,
    /// From another process.
    takes_over: bool,
    /// Says, when it is dropped, that nothing is passed on any more.
    _passed_on: DropGuard,
    user: Handle,
}

impl Opening {
    /// Opens the listeners when a view is loaded, not before: what is not known yet must not look empty.
    async fn serve(mut self, mut taker: Option<Taker>, wanted: Vec<Place>) -> anyhow::Result<()> {
        let stop = self.spawner.stop();
        let has_view = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            has_view = async { self.loaded.wait_for(|loaded| *loaded).await.is_ok() } => has_view,
        };
        if !has_view {
            // The replica is gone with the feed's task, and that one says why.
            stop.cancelled().await;
            return Ok(());
        }
        self.readiness.ready(VIEW);
        let mut admin_socket = None;
        if let Some(taker) = &mut taker {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.catch_up() => {}
            }
            for Taken { place, socket, before } in taker.take_sockets(wanted).await? {
                if place.purpose == Purpose::Admin {
                    admin_socket = Some((place, socket));
                } else {
                    self.bound.take(place.purpose, socket, before);
                }
            }
        }
        let (http, https, http3) = (self.bound.http(), self.bound.https(), self.bound.http3());
        let listeners = {
            let _on_it = self.user.enter();
            self.bound.open_counting(self.lost).context("cannot listen")?
        };
        let handles = listeners.handles().context("cannot listen")?;
        self.takes_over = taker.is_some();
        let before = match taker {
            Some(mut taker) => {
                let connections = taker.serve().await?;
                tracing::info!(process = taker.pid, build = taker.build, connections, "taken over");
                Some(follow_before(taker, &self.spawner))
            }
            None => None,
        };
        if let Some((place, socket)) = admin_socket {
            let listener = TcpListener::from_std(socket.into()).context("admin port")?;
            self.admin_port = Some((place, self.admin.serve(listener).context("admin port")?));
        }
        let giver = Giver {
            lending: self.lending,
            handles,
            admin: self.admin_port,
            letting_go: self.server.letting_go(),
            ending: self.ending,
            longest_drain: self.longest_drain,
            before,
        };
        let (server, stopped) = (self.user.spawn(self.server.run(listeners, stop.clone())), stop.clone());
        // Before anybody hears that this process serves, so that whoever heard it can take over.
        match take_over::listen(&self.data_dir) {
            Ok(listener) => self.spawner.spawn("take-over", OnEnd::Log, async move {
                giver.run(listener, stop).await;
                Ok::<(), std::io::Error>(())
            }),
            Err(error) => {
                tracing::warn!(%error, data_dir = %self.data_dir.display(), "no other process will be able to take over from this one; a new one needs a stop of this one first");
            }
        }
        tracing::info!(?http, ?https, ?http3, "serving");
        self.readiness.ready(LISTENERS);
        // Nobody listens when the process is about to end.
        let _ = self.opened.send(());
        if self.takes_over {
            launch::tell_serving();
        }
        notify::tell(&format!("READY=1\nMAINPID={}", std::process::id()));
        server.await.context("serving")?;
        // Without connections it may have drained before the process that took over had its answer.
        stopped.cancelled().await;
        Ok(())
    }

    /// Waits until the controller says that the view is its newest, for some time.
    async fn catch_up(&self) {
        let mut status = self.lending.status();
        let newest = status.wait_for(|status| status.as_ref().is_some_and(|status| status.caught_up));
        if tokio::time::timeout(self.wait, newest).await.is_err() {
            tracing::warn!(waited = ?self.wait, "the controller does not say that the view is its newest; taking over with what the ledger says");
        }
    }
}

/// Says when the process that was taken over from has ended.
fn follow_before(taker: Taker, spawner: &Spawner) -> (u32, CancellationToken) {
    let (pid, ended, stop) = (taker.pid, CancellationToken::new(), spawner.stop());
    let told = ended.clone();
    spawner.spawn("process before", OnEnd::Log, async move {
        stop.run_until_cancelled(taker.ended()).await;
        if !stop.is_cancelled() {
            tracing::info!(process = pid, "the process before has no connections any more");
        }
        told.cancel();
        // Its end is the end of this task, which is nothing that anybody has to look at.
        stop.cancelled().await;
        Ok::<(), std::io::Error>(())
    });
    (pid, ended)
}

/// Every connection takes a file handle here and one towards a node, and idle ones to nodes have theirs. Takes no more than there
/// are handles for: without one no client could be told anything.
fn raise_file_limit(settings: &mut Settings) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let soft =
        if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    let (connections, pool) = shares(soft, settings.max_connections, settings.upstream_pool);
    if (connections, pool) != (settings.max_connections, settings.upstream_pool) {
        tracing::warn!(
            limit = soft,
            max_connections = connections,
            upstream_pool = pool,
            "few file handles: these are in force instead of what is set; raise LimitNOFILE of the service"
        );
        (settings.max_connections, settings.upstream_pool) = (connections, pool);
    }
}

/// How many connections of clients, and idle ones to nodes, so many handles are enough for. The idle ones give way first: they
/// only save time.
fn shares(handles: u64, connections: usize, pool: usize) -> (usize, usize) {
    const OTHERS: usize = 1_000;
    let handles = usize::try_from(handles).unwrap_or(usize::MAX);
    let left = handles.saturating_sub(OTHERS);
    if connections.saturating_mul(2).saturating_add(pool) <= left {
        return (connections, pool);
    }
    let pool = pool.min(left.saturating_sub(connections.saturating_mul(2)).max(left / 4));
    (connections.min((left - pool) / 2).max(1), pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_shared_between_clients_and_idle_connections() {
        assert_eq!(shares(524_288, 50_000, 20_480), (50_000, 20_480));
        assert_eq!(shares(u64::MAX, 50_000, 20_480), (50_000, 20_480));
        assert_eq!(shares(111_000, 50_000, 20_480), (44_760, 20_480));
        assert_eq!(shares(21_000, 50_000, 20_480), (7_500, 5_000));
        assert_eq!(shares(21_000, 1_000, 20_480), (1_000, 18_000));
        assert_eq!(shares(1_024, 50_000, 20_480), (9, 6));
        assert_eq!(shares(10, 50_000, 20_480), (1, 0));
    }
}
