//! The wiring: store → authorities → fleet → feed, gatekeeper, API.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use hosting_api::{Api, ApiConfig, ConfirmRules};
use hosting_feed::fleet::{Fleet, LEASE};
use hosting_feed::metrics::FeedMetrics;
use hosting_feed::{FeedConfig, FeedServer};
use hosting_jobs::kinds::JobDeps;
use hosting_jobs::kinds::callback::CallbackRules;
use hosting_jobs::kinds::certificate::SharedFleet;
use hosting_jobs::webhooks::{Deliverer, WebhookConfig, WebhookMetrics};
use hosting_jobs::{Bell, JobMetrics, Runner, RunnerConfig};
use hosting_scaffold::admin::{self, Metrics};
use hosting_scaffold::http::{self, HttpLimits};
use hosting_scaffold::role::runtime;
use hosting_scaffold::server_tls::ServerTls;
use hosting_scaffold::tasks::{OnEnd, TaskGroup};
use hosting_scaffold::telemetry;
use hosting_store::{Kek, Store, StoreConfig};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::authorities::Rotation;
use crate::fleet::{FleetView, Running};
use crate::gatekeeper::Gatekeeper;
use crate::kek_file::KekFile;
use crate::metrics::GatekeeperMetrics;
use crate::registry::{Registry, feed_deps};
use crate::rollouts::{Keeper, RolloutMetrics};
use crate::settings::Settings;
use crate::{authorities, bootstrap, housekeeping, members, rollouts};

/// How often positions are saved when other controllers want to know them.
const SHARED_FLUSH: Duration = Duration::from_millis(40);

/// Runs the controller until it is told to stop.
///
/// # Errors
/// What stands in the way, with the remedy.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    let threads = std::thread::available_parallelism().map_or(2, NonZero::get);
    let runtime = runtime("controller", threads)?;
    let outcome = runtime.block_on(wire(settings));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn wire(settings: Settings) -> anyhow::Result<()> {
    let _telemetry = telemetry::init("hosting-controller", &settings.log, settings.log_format)?;
    let metrics = Metrics::new();
    let group = TaskGroup::new();

    hosting_resource::kinds::webroot::set_php_bounds(settings.php_bounds());
    let kek = Kek::load_or_create(&settings.kek())?;
    let mut store_config = StoreConfig::of(settings.database()?);
    store_config.audit_bytes = settings.audit_max_mib << 20;
    let store = Store::open(&store_config, kek).await?;
    let authorities = authorities::load(&store).await?;
    if let Some(file) = &settings.bootstrap_key_file {
        bootstrap::first_key(&store, file).await?;
    }

    let fleet = Fleet::new(LEASE);
    // Before the view is loaded: a node that is registered meanwhile must not be missed.
    let commits = store.commits();
    let view = FleetView::load(&store, fleet.clone()).await?;
    let rollouts = watch::Sender::default();
    let rollout_commits = store.commits();
    rollouts::read(&store, &fleet, &rollouts).await?;
    let registry = Arc::new(Registry::new(store.clone(), Arc::clone(&view)));
    let deps = feed_deps(&store, &registry);
    let mut feed_config = FeedConfig::new(settings.feed_listen);
    if store.is_shared() {
        // Other controllers' gates wait for what is saved.
        feed_config.flush_every = SHARED_FLUSH;
    }
    feed_config.node_life = Duration::from_secs(settings.node_certificate_hours * 3600);
    let node_life = feed_config.node_life;
    let feed_metrics = metrics.register(FeedMetrics::register);
    let keeper = Keeper::new(
        store.clone(),
        Arc::clone(&view),
        rollouts.subscribe(),
        metrics.register(RolloutMetrics::register),
    );
    group.spawn(
        "rollouts",
        OnEnd::Fatal,
        rollouts::follow(store.clone(), fleet.clone(), rollouts, rollout_commits, group.stop()),
    );
    group.spawn("rollouts' steps", OnEnd::Fatal, keeper.run(group.stop()));
    let feed =
        FeedServer::bind(feed_config, deps, authorities, fleet, feed_metrics, settings.advertise.clone())
            .await?;

    let keks = KekFile::new(settings.kek(), store.clone());
    let rotation = Rotation::new(store.clone(), feed.handle(), view.clone(), node_life);
    let running = Running {
        store: store.clone(),
        view: Arc::clone(&view),
        feed: feed.handle(),
        token_life: Duration::from_secs(settings.join_token_minutes * 60),
        keks: keks.clone(),
        authorities: rotation.clone(),
    };
    let bell = Bell::default();
    let callbacks = CallbackRules { own: view.own_addresses(), ..settings.callbacks()? };
    let config = ApiConfig {
        stop: group.stop(),
        rate_limits: settings.rate_limits(),
        origins: settings.origins()?,
        confirm: ConfirmRules { above: settings.confirm_above, required: settings.confirm_required },
        callbacks: callbacks.clone(),
        bell: bell.clone(),
        ..ApiConfig::default()
    };
    let api = metrics.register(|registry| Api::new(store.clone(), Arc::new(running), config, registry));
    let listener = TcpListener::bind(settings.listen).await.map_err(|error| {
        anyhow::anyhow!("API address {}: {error}; choose another with --listen", settings.listen)
    })?;

    group.spawn("fleet view", OnEnd::Fatal, Arc::clone(&view).follow(store.clone(), commits, group.stop()));
    group.spawn(
        "members",
        OnEnd::Fatal,
        members::run(store.clone(), Arc::clone(&view), feed.handle(), group.stop()),
    );
    group.spawn("feed", OnEnd::Fatal, feed.run(group.stop()));
    let seen: Arc<dyn hosting_planner::gates::Fleet> = Arc::clone(&view) as _;
    let gatekeeper =
        Gatekeeper::new(store.clone(), view, bell.clone(), metrics.register(GatekeeperMetrics::register));
    group.spawn("gatekeeper", OnEnd::Fatal, gatekeeper.run(group.stop()));
    let webhook_config = WebhookConfig::new(callbacks.clone());
    let webhook_metrics = metrics.register(WebhookMetrics::register);
    let deliverer = Deliverer::new(store.clone(), webhook_config, webhook_metrics);
    group.spawn("webhooks", OnEnd::Fatal, deliverer.run(group.stop()));
    let deps = JobDeps {
        store: store.clone(),
        callbacks,
        audit_head_minutes: settings.audit_head_minutes,
        audit_days: settings.audit_retention_days,
        history_days: settings.history_retention_days,
        history_bytes: settings.history_max_mib << 20,
        fleet: SharedFleet(seen),
        ownership: settings.ownership()?,
    };
    let keep = Duration::from_secs(u64::from(settings.job_retention_days) * 24 * 3600);
    let runner_config = RunnerConfig { keep, ..RunnerConfig::new() };
    let job_metrics = metrics.register(JobMetrics::register);
    let runner =
        Runner::new(store.clone(), hosting_jobs::kinds::all(&deps), bell, runner_config, job_metrics);
    group.spawn("jobs", OnEnd::Fatal, runner.run(group.stop()));
    let log_revisions = settings.log_revisions;
    group.spawn("housekeeping", OnEnd::Log, housekeeping::run(store.clone(), log_revisions, group.stop()));
    group.spawn("key file", OnEnd::Log, keks.run(group.stop()));
    group.spawn("authorities", OnEnd::Log, rotation.run(group.stop()));
    let limits = HttpLimits {
        connections: settings.api_connections,
        per_network: settings.api_connections_per_network,
        trusted: settings.trusted()?,
        ..HttpLimits::default()
    };
    group.spawn("beside the API", OnEnd::Fatal, attend(api.clone(), group.stop()));
    let tls = settings.tls()?.map(Arc::new);
    match &tls {
        Some(tls) => group.spawn("API certificate", OnEnd::Log, follow(Arc::clone(tls), group.stop())),
        None if !settings.listen.ip().is_loopback() && limits.trusted.is_empty() => {
            tracing::warn!(
                api = %settings.listen,
                "API keys pass in plain text: set tls_certificate_file and tls_key_file, or listen on loopback behind a TLS proxy"
            );
        }
        None => {}
    }
    group.spawn("API", OnEnd::Fatal, serve(listener, api, metrics, limits, tls, group.stop()));
    tracing::info!(api = %settings.listen, feed = %settings.feed_listen, cell = store.cell(), "controller running");

    let outcome = group.run(Duration::from_millis(settings.drain_timeout_ms)).await;
    store.close().await;
    outcome
}

async fn attend(api: Api, stop: CancellationToken) -> Result<(), std::io::Error> {
    api.attend(stop).await;
    Ok(())
}

async fn follow(tls: Arc<ServerTls>, stop: CancellationToken) -> Result<(), std::io::Error> {
    tls.follow(stop).await;
    Ok(())
}

async fn serve(
    listener: TcpListener,
    api: Api,
    metrics: Metrics,
    limits: HttpLimits,
    tls: Option<Arc<ServerTls>>,
    stop: CancellationToken,
) -> Result<(), std::io::Error> {
    let router = api.router().merge(admin::metrics_router(metrics));
    http::serve(listener, router, limits, tls, stop).await
}
