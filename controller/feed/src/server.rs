//! The listener.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use hosting_intent::Audience;
use hosting_intent_sync::FeedSource;
use hosting_intent_sync::identity::{JoinToken, unix_now, utc};
use hosting_intent_sync::tls::{NameError, NodeName};
use hosting_proto::feed::enrollment_server::EnrollmentServer;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use zeroize::Zeroizing;

use crate::accept::{AcceptLimits, accept};
use crate::enrol::EnrollmentService;
use crate::fleet::{Fleet, HEARTBEAT, LEASE};
use crate::metrics::FeedMetrics;
use crate::pki::{Authorities, MAX_NODE_LIFE, MIN_NODE_LIFE, PkiError};
use crate::registry::{Doorbell, JoinTokens, Keys, Nodes, RegistryError, StatusSink};
use crate::ring::{Hub, RingLimits};
use crate::service::IntentFeedService;
use crate::shared::{Shared, Trust, renewal};
use crate::trust::{TrustError, server_config};
use crate::watches::{RequestWatches, WatchedRequests};
use crate::witness::Witness;

/// Calls of one connection at once: a subscription, a report, a renewal, and room.
const STREAMS: u32 = 16;
/// After the sessions were told to leave.
const DRAIN: Duration = Duration::from_secs(5);
/// How often the listener's own certificate is looked at.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(3600);

/// How the feed behaves. The defaults are for production.
#[derive(Debug, Clone)]
pub struct FeedConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Life of nodes' certificates, 24 hours to 30 days.
    pub node_life: Duration,
    /// How often each side says that it is there.
    pub heartbeat: Duration,
    /// How long a silent subscriber counts as alive.
    pub lease: Duration,
    /// Connections of enrolled nodes.
    pub max_connections: usize,
    /// Connections of one enrolled node.
    pub max_node_connections: usize,
    /// Connections of others, each cut after half a minute; beyond this the oldest idle one makes room. A quarter of it for
    /// one network.
    pub max_anonymous: usize,
    /// How long one of these may say nothing.
    pub anonymous_silence: Duration,
    /// For TCP and TLS together.
    pub handshake_timeout: Duration,
    /// From the start of a subscription to its Hello.
    pub hello_timeout: Duration,
    /// Snapshots sent at the same time.
    pub max_snapshots: usize,
    /// Newest changes kept in memory for each audience.
    pub ring: RingLimits,
    /// Positions are saved no more often than this.
    pub flush_every: Duration,
}

impl FeedConfig {
    /// Defaults, listening on `listen`.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            node_life: Duration::from_secs(7 * 24 * 3600),
            heartbeat: HEARTBEAT,
            lease: LEASE,
            max_connections: 10_000,
            max_node_connections: 32,
            max_anonymous: 64,
            anonymous_silence: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            hello_timeout: Duration::from_secs(10),
            max_snapshots: 8,
            ring: RingLimits::default(),
            flush_every: Duration::from_millis(250),
        }
    }
}

/// The rest of the controller, as the feed sees it.
pub struct FeedDeps {
    /// The log and the current items.
    pub source: Arc<dyn FeedSource>,
    /// Rings at commits.
    pub doorbell: Box<dyn Doorbell>,
    /// The registry.
    pub nodes: Arc<dyn Nodes>,
    /// Join tokens.
    pub tokens: Arc<dyn JoinTokens>,
    /// Where positions and reports go.
    pub status: Arc<dyn StatusSink>,
    /// What edges and nodes are given in Welcome, and what the store's age is known by.
    pub keys: Arc<dyn Keys>,
}

/// The feed cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The listener's address.
    #[error(
        "cannot listen on {address} for the feed: {source}; is another controller running? Set another address or stop it"
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A certificate or the TLS configuration.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A field of the configuration.
    #[error("{field}: {problem}")]
    Config {
        /// Which.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// HTTP/2 or the runtime.
    #[error("feed listener: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Why there is no join token.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The registry has no such node.
    #[error("there is no node {0}; create it first")]
    NoNode(String),
    /// The node's id cannot stand in a certificate.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The store.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// A bound listener, not yet serving.
pub struct FeedServer {
    shared: Arc<Shared>,
    listener: TcpListener,
    address: SocketAddr,
    doorbell: Box<dyn Doorbell>,
    limits: AcceptLimits,
    flush_every: Duration,
}

impl std::fmt::Debug for FeedServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeedServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl FeedServer {
    /// Binds the listener. `advertise` is what join tokens name as the controllers' `host:port`; empty: the bound address.
    ///
    /// # Errors
    /// [`FeedError::Listen`], [`FeedError::Config`], [`FeedError::Trust`].
    pub async fn bind(
        config: FeedConfig,
        deps: FeedDeps,
        authorities: Authorities,
        fleet: Fleet,
        metrics: FeedMetrics,
        advertise: Vec<String>,
    ) -> Result<Self, FeedError> {
        if !(MIN_NODE_LIFE..=MAX_NODE_LIFE).contains(&config.node_life) {
            return Err(TrustError::Pki(PkiError::Life(config.node_life)).into());
        }
        if config.heartbeat.is_zero() || config.lease < config.heartbeat * 2 {
            return Err(FeedError::Config {
                field: "lease",
                problem: format!("must be at least twice the heartbeat ({:?})", config.heartbeat),
            });
        }
        let now = unix_now();
        let (tls, not_after) = server_config(&authorities, now)?;
        let listen = |source| FeedError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let advertise = if advertise.is_empty() { vec![address.to_string()] } else { advertise };
        let witness = Witness::new(deps.keys.witness_key());
        let shared = Shared {
            trust: ArcSwap::from_pointee(Trust {
                authorities,
                made_at: now,
                renew_at: renewal(now, not_after),
            }),
            tls: Arc::new(ArcSwap::from_pointee(tls)),
            hub: Arc::new(Hub::new(deps.source, config.ring, metrics.clone(), witness.clone())),
            nodes: deps.nodes,
            tokens: deps.tokens,
            status: deps.status,
            witness,
            keys: deps.keys,
            fleet,
            metrics,
            throttle: Mutex::default(),
            reporting: Mutex::default(),
            snapshots: Arc::new(Semaphore::new(config.max_snapshots)),
            sessions: TaskTracker::new(),
            watches: RequestWatches::default(),
            node_life: config.node_life,
            heartbeat: config.heartbeat,
            lease: config.lease,
            hello_timeout: config.hello_timeout,
            controllers: RwLock::new(advertise),
        };
        let limits = AcceptLimits {
            connections: config.max_connections,
            of_one_node: config.max_node_connections,
            anonymous: config.max_anonymous,
            anonymous_life: Duration::from_secs(30),
            anonymous_silence: config.anonymous_silence,
            handshakes: 1_024,
            handshake_timeout: config.handshake_timeout,
        };
        Ok(Self {
            shared: Arc::new(shared),
            listener,
            address,
            doorbell: deps.doorbell,
            limits,
            flush_every: config.flush_every,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// To mint tokens and exchange authorities while it runs.
    #[must_use]
    pub fn handle(&self) -> FeedHandle {
        FeedHandle { shared: Arc::clone(&self.shared) }
    }

    /// Serves until `stop`, then sends every session away and waits a few seconds for them.
    ///
    /// # Errors
    /// [`FeedError::Serve`].
    pub fn run(self, stop: CancellationToken) -> BoxFuture<'static, Result<(), FeedError>> {
        // Boxed, so that the whole of HTTP/2 is compiled with this crate and not again with its caller.
        Box::pin(self.serve(stop))
    }

    async fn serve(self, stop: CancellationToken) -> Result<(), FeedError> {
        let Self { shared, listener, doorbell, limits, flush_every, address } = self;
        tracing::info!(%address, cell = shared.trust.load().authorities.cell(), "feed listening");
        // Readers of the log and of the fleet go on until the last session has left.
        let inner = CancellationToken::new();
        let (connections, incoming) = mpsc::channel(16);
        let acceptor = accept(
            listener,
            Arc::clone(&shared.tls),
            limits,
            shared.metrics.clone(),
            connections,
            stop.clone(),
        );
        let enrolment = EnrollmentServer::new(EnrollmentService { shared: Arc::clone(&shared) })
            .max_decoding_message_size(64 * 1024);
        let serve = Server::builder()
            .http2_keepalive_interval(Some(shared.lease))
            .http2_keepalive_timeout(Some(shared.lease))
            .max_concurrent_streams(STREAMS)
            .concurrency_limit_per_connection(STREAMS as usize)
            .http2_max_header_list_size(16 * 1024)
            .add_service(IntentFeedService { shared: Arc::clone(&shared) })
            .add_service(enrolment)
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.clone().cancelled_owned());
        let drain = async {
            stop.cancelled().await;
            shared.fleet.leave_all("the controller is stopping");
            shared.watches.close();
            shared.sessions.close();
            let _ = tokio::time::timeout(DRAIN, shared.sessions.wait()).await;
        };
        let served = async {
            let served = tokio::select! {
                served = serve => served,
                // Connections that do not end by themselves do not hold us up.
                () = async { drain.await; tokio::time::sleep(DRAIN).await } => Ok(()),
            };
            inner.cancel();
            served
        };
        let certificates = keep_certificate(&shared, inner.clone());
        let (served, (), (), (), ()) = tokio::join!(
            served,
            acceptor,
            shared.hub.run(doorbell, inner.clone()),
            shared.fleet.run(shared.status.as_ref(), flush_every, inner.clone()),
            certificates,
        );
        Ok(served?)
    }
}

/// Replaces the listener's certificate before it ends.
async fn keep_certificate(shared: &Shared, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(CERTIFICATE_CHECK) => {}
            () = stop.cancelled() => return,
        }
        let trust = shared.trust.load_full();
        let now = unix_now();
        // A clock that was put back makes one that is valid later only.
        if (trust.made_at..trust.renew_at).contains(&now) {
            continue;
        }
        match server_config(&trust.authorities, now) {
            Ok((config, not_after)) => {
                shared.tls.store(Arc::new(config));
                let renewed = Trust {
                    authorities: trust.authorities.clone(),
                    made_at: now,
                    renew_at: renewal(now, not_after),
                };
                // Unless somebody exchanged the authorities meanwhile, which made a new certificate as well.
                let before = shared.trust.compare_and_swap(&trust, Arc::new(renewed));
                if Arc::ptr_eq(&before, &trust) {
                    tracing::info!(until = %utc(not_after), "the feed's certificate is renewed");
                }
            }
            Err(error) => tracing::error!(%error, "the feed's certificate could not be renewed"),
        }
    }
}

/// What operators do with a running feed. Cheap to clone.
#[derive(Clone)]
pub struct FeedHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for FeedHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeedHandle").finish_non_exhaustive()
    }
}

impl FeedHandle {
    /// Makes a join token for a node of the registry; only its hash is kept. The text goes to the operator, once.
    ///
    /// # Errors
    /// [`MintError::NoNode`], [`MintError::Name`], [`MintError::Registry`].
    pub async fn mint(&self, node_id: &str, life: Duration) -> Result<Zeroizing<String>, MintError> {
        let (cell, ca) = {
            let trust = self.shared.trust.load();
            (trust.authorities.cell().to_owned(), trust.authorities.issuing())
        };
        NodeName::new(cell, node_id)?;
        let record = self.shared.nodes.node(node_id).await?;
        let record = record.ok_or_else(|| MintError::NoNode(node_id.to_owned()))?;
        let expires_at = unix_now().saturating_add(i64::try_from(life.as_secs()).unwrap_or(i64::MAX));
        let controllers = self.shared.controllers();
        let secret = Zeroizing::new(rand::random::<[u8; 32]>());
        let roles = record.roles.iter().map(ToString::to_string).collect();
        let token = JoinToken::new(*secret, ca, node_id.to_owned(), roles, controllers, expires_at);
        self.shared.tokens.put(token.secret_hash(), node_id, expires_at).await?;
        Ok(token.encode())
    }

    /// Puts changed authorities into effect for new connections. The caller has stored them before.
    ///
    /// # Errors
    /// [`TrustError`]; the ones before stay in effect.
    pub fn replace_authorities(&self, authorities: Authorities) -> Result<(), TrustError> {
        self.shared.use_authorities(authorities)
    }

    /// Watches the requests of a host that edges of a cluster serve for a tenant; `None`: [`crate::MOST_REQUEST_WATCHES`] of the cluster
    /// are under way.
    #[must_use]
    pub fn watch_requests(&self, cluster: &Audience, host: &str, tenant: &str) -> Option<WatchedRequests> {
        self.shared.watches.begin(cluster, host, tenant)
    }

    /// What join tokens and sessions name as the controllers now.
    #[must_use]
    pub fn controllers(&self) -> Vec<String> {
        self.shared.controllers()
    }

    /// The authorities in effect, to change and put back.
    #[must_use]
    pub fn authorities(&self) -> Authorities {
        self.shared.trust.load().authorities.clone()
    }

    /// What join tokens and sessions name as the controllers from now on.
    pub fn advertise(&self, controllers: Vec<String>) {
        *self.shared.controllers.write().unwrap_or_else(PoisonError::into_inner) = controllers;
    }
}
