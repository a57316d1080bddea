//! The wiring: ledger → publish → serve → connect.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hosting_edge_map::{EDGE_KINDS, Routing};
use hosting_intent_sync::client::{Client, ClientMetrics, Options};
use hosting_intent_sync::identity::{Enrolment, Identity, TokenSource};
use hosting_intent_sync::subscriber::{Brake, Config, Strict, Subscriber};
use hosting_ledger::{Ledger, LedgerError};
use hosting_scaffold::admin::{self, Readiness};
use hosting_scaffold::tasks::{OnEnd, TaskGroup};
use hosting_scaffold::{BUILD, telemetry};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::certs::{CertStore, DevCa};
use crate::metrics::Metrics;
use crate::replica::EdgeReplica;
use crate::server::{Bound, Server, threads};
use crate::settings::{Settings, ms};

/// How long a first start goes on asking a controller that cannot be reached.
const ENROL_PATIENCE: Duration = Duration::from_secs(600);
/// For everything but the connections, when the process ends.
const END_MARGIN: Duration = Duration::from_secs(5);

const VIEW: &str = "view";
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

fn runtime(name: &'static str, threads: usize) -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
        .context("cannot start threads")
}

async fn wire(settings: Settings, user: Handle) -> anyhow::Result<()> {
    let _telemetry = telemetry::init("hosting-edge", &settings.log, settings.log_format)?;
    raise_file_limit(&settings);
    DirBuilder::new()
        .recursive(true)
        .mode(0o755) // the authority's certificate is for everybody, each secret in here has a mode of its own
        .create(&settings.data_dir)
        .with_context(|| format!("data_dir {}", settings.data_dir.display()))?;

    let group = TaskGroup::new();
    let registry = admin::Metrics::new();
    let readiness = Readiness::new();
    readiness.not_ready(VIEW, "nothing is known yet: no ledger, and no snapshot from the controller");
    readiness.not_ready(LISTENERS, "closed until there is a view");
    let port = admin::bind(settings.admin_listen).await?;
    let bound = Bound::bind(&settings)?;

    let metrics = Metrics::new(&registry);
    let feed_metrics = registry.register(ClientMetrics::register);
    let (routing, writer) = Routing::new(settings.map_buckets);
    let ca = DevCa::load_or_make(&settings.dev_ca(), &settings.dev_ca_key())?;
    let certs = CertStore::start(ca, Arc::clone(&routing), settings.certificate_cache, metrics.clone())?;
    let server = Server::new(&settings, routing, Arc::clone(&certs), metrics.clone())?;
    let (replica, loaded) = EdgeReplica::new(writer, certs, metrics);

    let drain = ms(settings.drain_timeout_ms) + END_MARGIN;
    group.spawn(
        "admin port",
        OnEnd::Fatal,
        admin::serve(port, registry.clone(), readiness.clone(), group.stop()),
    );
    let serve = serve(server, bound, loaded, readiness, user, group.stop());
    group.spawn("listeners", OnEnd::Fatal, serve);
    group.spawn("feed", OnEnd::Fatal, subscribe(settings, replica, feed_metrics, group.stop()));
    group.run(drain).await
}

/// Opens the listeners when a view is loaded, not before: what is not known yet must not look empty.
async fn serve(
    server: Server,
    bound: Bound,
    mut loaded: watch::Receiver<bool>,
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
    let (http, https) = (bound.http(), bound.https());
    let task = user.spawn(async move {
        let listeners = bound.open()?;
        tracing::info!(?http, ?https, "serving");
        readiness.ready(LISTENERS);
        server.run(listeners, stop).await;
        Ok::<(), std::io::Error>(())
    });
    task.await?.context("cannot listen")
}

async fn subscribe(
    settings: Settings,
    replica: EdgeReplica,
    metrics: ClientMetrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let enrolment = Enrolment {
        dir: settings.identity(),
        token: TokenSource::from_path(settings.join_token_file.as_deref()),
        controllers: settings.controller.clone(),
        patience: ENROL_PATIENCE,
    };
    let identity = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        identity = Identity::load_or_enroll(&enrolment) => identity?,
    };
    let audience = audience(&identity)?;
    tracing::info!(node = identity.node_id(), cell = identity.cell(), audience, "identity");
    let config =
        Config { audience, build: BUILD.to_owned(), kinds: EDGE_KINDS.to_vec(), brake: Brake::default() };
    let replica = identity.watch_roots(replica);
    // Reads the whole ledger and publishes it.
    let opened = tokio::task::spawn_blocking(move || {
        let ledger = open_ledger(&settings, &config.audience)?;
        Subscriber::<_, _, Strict>::open(config, ledger, replica)
    });
    let subscriber = opened.await??;
    Client::new(identity, Options::default(), metrics).run(subscriber, stop).await?;
    Ok(())
}

fn audience(identity: &Identity) -> anyhow::Result<String> {
    let audiences = identity.audiences();
    let mut edges = audiences.iter().filter(|audience| audience.starts_with("edge/"));
    match (edges.next(), edges.next()) {
        (Some(audience), None) => Ok(audience.clone()),
        (None, _) => anyhow::bail!(
            "node {} is no edge: the controller gives it {audiences:?}; give it the role `lb` and enrol again",
            identity.node_id()
        ),
        (Some(_), Some(_)) => anyhow::bail!(
            "node {} belongs to several clusters ({audiences:?}); an edge serves one",
            identity.node_id()
        ),
    }
}

/// A damaged ledger was set aside by the first try; the second begins with nothing and waits for the controller.
fn open_ledger(settings: &Settings, audience: &str) -> Result<Ledger, LedgerError> {
    match Ledger::open(settings.ledger(), audience) {
        Err(error @ LedgerError::Corrupt { .. }) => {
            tracing::error!(%error, "beginning without a ledger");
            Ledger::open(settings.ledger(), audience)
        }
        other => other,
    }
}

/// Every connection takes a file handle here and one towards a node.
fn raise_file_limit(settings: &Settings) {
    let wanted =
        u64::try_from(settings.max_connections).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(1_000);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let soft =
        if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    if soft < wanted {
        tracing::warn!(
            limit = soft,
            wanted,
            "few file handles for max_connections; raise LimitNOFILE of the service, or lower max_connections"
        );
    }
}
