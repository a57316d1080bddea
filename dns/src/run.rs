//! The wiring: ledger → publish → serve → connect.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hosting_dns_zone::{Writer, Zones};
use hosting_intent::Role;
use hosting_intent_sync::client::{ClientMetrics, Lending, Subscription};
use hosting_intent_sync::self_check::{CheckMetrics, SelfChecks};
use hosting_scaffold::BUILD;
use hosting_scaffold::admin::Readiness;
use hosting_scaffold::role::{RoleProcess, VIEW, background_runtime, runtime};
use hosting_scaffold::tasks::OnEnd;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::replica::{Applied, DnsReplica};
use crate::server::{Server, check_addresses};
use crate::settings::Settings;

/// How often the packet threads are looked after.
const SOUND_CHECK: Duration = Duration::from_secs(1);

const LISTENERS: &str = "listeners";

/// Runs the server until it is told to stop.
///
/// # Errors
/// What stands in the way, with the remedy.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    // Queries and control traffic do not share threads: neither a flood over TCP nor a large snapshot delays the other.
    let streams = runtime("dns-tcp", settings.udp_threads())?;
    let control = background_runtime("dns-control", 2)?;
    let outcome = control.block_on(wire(settings, streams.handle().clone()));
    streams.shutdown_timeout(Duration::from_secs(1));
    control.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn wire(settings: Settings, streams: Handle) -> anyhow::Result<()> {
    let process =
        RoleProcess::start("hosting-dns", &settings.shared, [(LISTENERS, "closed until there is a view")])
            .await?;
    raise_file_limit(&settings);
    let (group, readiness) = (&process.group, process.readiness.clone());
    check_addresses(&settings)?;

    let writer = Writer::new();
    let zones = writer.zones();
    let metrics = Metrics::new(&process.registry, zones.clone());
    let feed_metrics = process.registry.register(ClientMetrics::register);
    let counted = metrics.clone();
    let replica = DnsReplica::new(writer, metrics.clone());
    let applied = replica.applied();
    let maker = replica.self_check();
    let (replica, checks) = SelfChecks::of(replica, process.registry.register(CheckMetrics::register));
    let served = checks.served().with_health(Arc::new(move || counted.health()));
    let edge_port = settings.edge_port;
    let (opened, is_open) = oneshot::channel::<Vec<SocketAddr>>();
    let stop = group.stop();
    group.spawn("self-check", OnEnd::Fatal, async move {
        if let Ok(addresses) = is_open.await {
            checks.run(Arc::new(maker.at(&addresses, edge_port)), stop.clone()).await;
        }
        // Without listeners there is nothing to ask.
        stop.cancelled().await;
        Ok::<(), std::io::Error>(())
    });

    let serve = serve(settings.clone(), zones, metrics, applied, opened, readiness, streams, group.stop());
    group.spawn("listeners", OnEnd::Fatal, serve);
    let subscription = Subscription {
        data_dir: settings.shared.data_dir,
        controllers: settings.shared.controller,
        token_file: settings.shared.join_token_file,
        role: Role::Dns,
        build: BUILD,
        metrics: feed_metrics,
        edge_key: None,
        audience_keys: None,
        served: Some(served),
        lending: Lending::default(),
    };
    group.spawn("feed", OnEnd::Fatal, subscription.run(replica, group.stop()));
    process.run().await
}

/// Opens the listeners when a view is loaded, not before: what is not known yet must not look empty.
#[allow(clippy::too_many_arguments, reason = "one call: what the listeners need, and whom they tell")]
async fn serve(
    settings: Settings,
    zones: Zones,
    metrics: Metrics,
    mut applied: watch::Receiver<Applied>,
    opened: oneshot::Sender<Vec<SocketAddr>>,
    readiness: Readiness,
    streams: Handle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let known = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        known = async { applied.wait_for(Option::is_some).await.is_ok() } => known,
    };
    if !known {
        // The sender ends with the feed's task, which says why by itself.
        stop.cancelled().await;
        return Ok(());
    }
    drop(applied);
    readiness.ready(VIEW);
    let counts = zones.counts();
    let drain = settings.shared.drain();
    // On a thread of those that serve: the threads for packets have the priority of the one that begins them.
    let on = streams.clone();
    let starting = streams.spawn(async move { Server::start(&settings, zones, &metrics, &on) });
    let server = starting.await??;
    tracing::info!(addresses = ?server.addresses(), zones = counts.zones, rrsets = counts.rrsets, "serving");
    readiness.ready(LISTENERS);
    // Nobody listens when the process is about to end.
    let _ = opened.send(server.addresses().to_vec());
    let mut look = tokio::time::interval(SOUND_CHECK);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => anyhow::ensure!(server.is_sound(), "a packet thread panicked"),
        }
    }
    readiness.not_ready(LISTENERS, "draining");
    server.drain(drain).await;
    Ok(())
}

/// Every connection takes a file handle; threads and files a few more.
fn raise_file_limit(settings: &Settings) {
    let wanted = u64::try_from(settings.tcp_max_connections).unwrap_or(u64::MAX).saturating_add(1_000);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let soft =
        if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    if soft < wanted {
        tracing::warn!(
            limit = soft,
            wanted,
            "few file handles for tcp_max_connections; raise LimitNOFILE of the service, or lower tcp_max_connections"
        );
    }
}
