//! What every role that follows the feed has in common: its settings and flags, and how its process starts.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Looks, Metrics, Readiness};
use crate::tasks::{OnEnd, Spawner, TaskGroup};
use crate::telemetry::{self, LogFormat, TelemetryGuard};

/// The part of readiness that is there when a view of the feed is.
pub const VIEW: &str = "view";

/// For everything but the work under way, when the process ends.
const END_MARGIN: Duration = Duration::from_secs(5);

/// Settings of every role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleSettings {
    /// Where the ledger, the identity and what else the process keeps lie. One process at a time.
    pub data_dir: PathBuf,
    /// Address of the admin port. Keep it off public networks.
    pub admin_listen: SocketAddr,
    /// Feed addresses of the controllers, `host:port`, tried in turn. Empty: those of the join token.
    pub controller: Vec<String>,
    /// File with the join token for the first start; not needed once there is an identity in `data_dir`.
    pub join_token_file: Option<PathBuf>,
    /// Waiting for work under way at the end.
    pub drain_timeout_ms: u64,
    /// Log filter, as `tracing` reads it.
    pub log: String,
    /// How logs look.
    pub log_format: LogFormat,
}

impl RoleSettings {
    /// A role's defaults.
    #[must_use]
    pub fn new(data_dir: &str, admin_port: u16, drain_timeout_ms: u64, log: &str) -> Self {
        Self {
            data_dir: PathBuf::from(data_dir),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], admin_port)),
            controller: Vec::new(),
            join_token_file: None,
            drain_timeout_ms,
            log: log.to_owned(),
            log_format: LogFormat::Auto,
        }
    }

    /// [`RoleSettings::drain_timeout_ms`].
    #[must_use]
    pub const fn drain(&self) -> Duration {
        ms(self.drain_timeout_ms)
    }
}

/// Flags of every role. Flatten them into the role's own.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
#[group(skip)]
pub struct RoleFlags {
    /// Folder for the ledger, the identity and what else the process keeps
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Address for /metrics, /healthz and /readyz
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_listen: Option<SocketAddr>,
    /// Where a controller's feed is; repeat it for several
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub controller: Vec<String>,
    /// File with the join token (first start only; it says which node this is)
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_token_file: Option<PathBuf>,
    /// Log filter, for example `info,hosting_intent_sync=debug`
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// How logs look
    #[arg(long, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
}

/// Milliseconds as settings have them.
#[must_use]
pub const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// Threads of a runtime that wait for files and databases. One is begun for each call that finds none idle, and a thread that was told of a call is not idle
/// before it ran: on a machine that has too much to do there would soon be the 512 that are usual, each with memory of its own.
const BLOCKING_THREADS: usize = 32;

/// A runtime of its own, with named threads.
///
/// # Errors
/// The system gives no threads.
pub fn runtime(name: &'static str, threads: usize) -> anyhow::Result<Runtime> {
    start(name, threads, || {})
}

/// A runtime beside one that answers requests: its threads, and those that they begin, wait where there are not cores enough for all.
///
/// # Errors
/// The system gives no threads.
pub fn background_runtime(name: &'static str, threads: usize) -> anyhow::Result<Runtime> {
    start(name, threads, stand_back)
}

fn start(
    name: &'static str,
    threads: usize,
    on_start: impl Fn() + Send + Sync + 'static,
) -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .on_thread_start(on_start)
        .worker_threads(threads)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name(name)
        // What a thread freed goes back to the system when the thread ends, and what a start frees is much.
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
        .context("cannot start threads")
}

/// The nice value of threads that stand back: a quarter of a core for which a thread of the usual priority has work too. Without units of
/// their own (systemd), other processes of the machine go before as well, and a change still has to come through.
const BACKGROUND_NICE: i32 = 5;

/// Lets threads that answer requests go before the calling one when there are not cores enough for all. Where everything has the same
/// priority, a change of thousands of items holds up requests for as long as it is applied.
fn stand_back() {
    // On Linux it is of the thread alone, and of threads that it begins.
    if let Err(error) = rustix::process::setpriority_process(None, BACKGROUND_NICE) {
        tracing::warn!(%error, "the priority of a thread cannot be lowered; requests wait for it");
    }
}

/// A role's process: logs go where they should, the admin port answers, and nothing is ready.
#[derive(Debug)]
pub struct RoleProcess {
    /// Its tasks.
    pub group: TaskGroup,
    /// Its metrics.
    pub registry: Metrics,
    /// Its readiness. [`VIEW`] and the role's own parts are not there yet.
    pub readiness: Readiness,
    /// What its admin port tells by name.
    pub looks: Looks,
    drain: Duration,
    _telemetry: TelemetryGuard,
}

/// What the admin port tells, for who serves it at a time of his own. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin {
    spawner: Spawner,
    registry: Metrics,
    readiness: Readiness,
    looks: Looks,
}

impl Admin {
    /// Serves the admin port until the process stops or lets go of it.
    ///
    /// # Errors
    /// No file handle to be had.
    pub fn serve(&self, port: TcpListener) -> io::Result<AdminPort> {
        let socket = port.as_fd().try_clone_to_owned()?;
        let (stop, let_go) = (self.spawner.stop(), self.spawner.stop().child_token());
        let (metrics, readiness, looks) = (self.registry.clone(), self.readiness.clone(), self.looks.clone());
        let serve = admin::serve(port, metrics, readiness, looks, let_go.clone());
        self.spawner.spawn("admin port", OnEnd::Fatal, async move {
            serve.await?;
            // One that was let go of is no reason to end.
            stop.cancelled().await;
            Ok::<(), io::Error>(())
        });
        Ok(AdminPort { socket, let_go })
    }
}

/// The admin port, for who hands it over. Dropped, it is served as before.
#[derive(Debug)]
pub struct AdminPort {
    /// Its socket, which listens for as long as this lives.
    pub socket: OwnedFd,
    let_go: CancellationToken,
}

impl AdminPort {
    /// The process takes no more connections here.
    pub fn let_go(self) {
        self.let_go.cancel();
    }
}

impl RoleProcess {
    /// Starts it. `not_ready` are the role's own parts of readiness, each with why it is not there.
    ///
    /// # Errors
    /// The log filter or the admin port cannot be used.
    pub async fn start(
        service: &'static str,
        settings: &RoleSettings,
        not_ready: impl IntoIterator<Item = (&'static str, &'static str)>,
    ) -> anyhow::Result<Self> {
        let process = Self::without_admin_port(service, settings, not_ready)?;
        process.admin().serve(admin::bind(settings.admin_listen).await?)?;
        Ok(process)
    }

    /// Starts it with the admin port left to [`RoleProcess::admin`].
    ///
    /// # Errors
    /// The log filter cannot be used.
    pub fn without_admin_port(
        service: &'static str,
        settings: &RoleSettings,
        not_ready: impl IntoIterator<Item = (&'static str, &'static str)>,
    ) -> anyhow::Result<Self> {
        let telemetry = telemetry::init(service, &settings.log, settings.log_format)?;
        let (group, registry, readiness) = (TaskGroup::new(), Metrics::new(), Readiness::new());
        readiness.not_ready(VIEW, "nothing is known yet: no ledger, and no snapshot from the controller");
        for (part, why) in not_ready {
            readiness.not_ready(part, why);
        }
        Ok(Self {
            group,
            registry,
            readiness,
            looks: Looks::default(),
            drain: settings.drain() + END_MARGIN,
            _telemetry: telemetry,
        })
    }

    /// What serves the admin port.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin {
            spawner: self.group.spawner(),
            registry: self.registry.clone(),
            readiness: self.readiness.clone(),
            looks: self.looks.clone(),
        }
    }

    /// Runs until it is told to stop or a task fails, and then until all tasks have ended, for as long as the settings allow.
    ///
    /// # Errors
    /// Those of its tasks.
    pub async fn run(self) -> anyhow::Result<()> {
        self.group.run(self.drain).await
    }
}
