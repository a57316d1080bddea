//! The wiring: ledger → publish → serve → connect.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::future::Either;
use hosting_edge_map::Routing;
use hosting_intent::Role;
use hosting_intent_sync::Replica;
use hosting_intent_sync::client::{
    AudienceKeys, ClientMetrics, EdgeKeyStore, Subscription, SubscriptionError,
};
use hosting_intent_sync::self_check::{CheckMetrics, SelfChecks};
use hosting_scaffold::BUILD;
use hosting_scaffold::admin::Readiness;
use hosting_scaffold::role::{RoleProcess, VIEW, runtime};
use hosting_scaffold::tasks::OnEnd;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::access_log::AccessLog;
use crate::certs::{CertStore, DevCa};
use crate::metrics::Metrics;
use crate::node_keys::NodeKeys;
use crate::replica::EdgeReplica;
use crate::server::{Bound, Server, threads};
use crate::settings::Settings;
use crate::traffic::{TrafficReports, TrafficSender};

const LISTENERS: &str = "listeners";

/// Runs the edge until it is told to stop.
///
/// # Errors
/// What stands in the way, with the remedy.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    // User bytes and control traffic do not share threads: neither a flood of requests nor a large snapshot delays the other.
    let user = runtime("edge-io", threads(&settings))?;
    let control = runtime("edge-control", 2)?;
    let outcome = control.block_on(wire(settings, user.handle().clone()));
    user.shutdown_timeout(Duration::from_secs(1));
    control.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn wire(mut settings: Settings, user: Handle) -> anyhow::Result<()> {
    let process =
        RoleProcess::start("hosting-edge", &settings.shared, [(LISTENERS, "closed until there is a view")])
            .await?;
    let (group, readiness) = (&process.group, process.readiness.clone());
    raise_file_limit(&mut settings);
    DirBuilder::new()
        .recursive(true)
        .mode(0o755) // the authority's certificate is for everybody, each secret in here has a mode of its own
        .create(&settings.shared.data_dir)
        .with_context(|| format!("data_dir {}", settings.shared.data_dir.display()))?;

    let bound = Bound::bind(&settings)?;

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
    let folder = settings.shared.data_dir.join("traffic");
    let reports = TrafficReports::new(server.traffic(), folder.clone(), metrics.traffic_lost.clone())
        .with_context(|| format!("{}", folder.display()))?;
    process.looks.add("hosts", server.look());
    let counted = metrics.clone();
    let (replica, loaded) = EdgeReplica::new(writer, certs, audience_keys.clone(), metrics);
    let check = Arc::new(server.self_check(&bound, &replica).context("TLS of the self-check")?);
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

    let serve = serve(server, bound, loaded, opened, readiness, user, group.stop());
    group.spawn("listeners", OnEnd::Fatal, serve);
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
    };
    let sender = reports.sender();
    let stop = group.stop();
    group.spawn("traffic", OnEnd::Fatal, async move {
        reports.run(stop).await;
        Ok::<(), std::io::Error>(())
    });
    group.spawn("feed", OnEnd::Fatal, feed(subscription, replica, sender, group.stop()));
    process.run().await
}

/// Applies what the controller says, and tells it what was passed on.
async fn feed<R: Replica>(
    subscription: Subscription,
    replica: R,
    sender: TrafficSender,
    stop: CancellationToken,
) -> Result<(), SubscriptionError> {
    let Some(subscription) = subscription.identify(&stop).await? else { return Ok(()) };
    let sending = sender.run(subscription.traffic(), stop.clone());
    let applying = Box::pin(subscription.run(replica, stop));
    match futures::future::select(applying, Box::pin(sending)).await {
        Either::Left((ended, _)) => ended,
        Either::Right(((), applying)) => applying.await,
    }
}

/// Opens the listeners when a view is loaded, not before: what is not known yet must not look empty.
async fn serve(
    server: Server,
    bound: Bound,
    mut loaded: watch::Receiver<bool>,
    opened: oneshot::Sender<()>,
    readiness: Readiness,
    user: Handle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let has_view = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        has_view = async { loaded.wait_for(|loaded| *loaded).await.is_ok() } => has_view,
    };
    if !has_view {
        // The replica is gone with the feed's task, and that one says why.
        stop.cancelled().await;
        return Ok(());
    }
    readiness.ready(VIEW);
    let (http, https, http3) = (bound.http(), bound.https(), bound.http3());
    let task = user.spawn(async move {
        let listeners = bound.open()?;
        tracing::info!(?http, ?https, ?http3, "serving");
        readiness.ready(LISTENERS);
        // Nobody listens when the process is about to end.
        let _ = opened.send(());
        server.run(listeners, stop).await;
        Ok::<(), std::io::Error>(())
    });
    task.await?.context("cannot listen")
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
