//! The listeners: accept, handshake, hand over to the version of HTTP that was negotiated, drain.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hosting_edge_http3::Code;
use hosting_edge_map::Routing;
use hosting_intent_sync::client::RequestTeller;
use hosting_scaffold::client_address::is_trusted;
use hosting_scaffold::networks::{NetworkPlace, Networks};
use hosting_scaffold::request_spans::RequestTracer;
use ipnet::IpNet;
use quinn::{Endpoint, Incoming};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access_log::{AccessLog, Addresses};
use crate::alt_svc::AltSvc;
use crate::budget;
use crate::certs::CertStore;
use crate::conn::Conn;
use crate::crawlers::CrawlerList;
use crate::h1::{self, H1Limits};
use crate::h2::{self, H2Limits};
use crate::h3;
use crate::h3_stream::H3Limits;
use crate::host_look;
use crate::listeners::Listeners;
use crate::live::{self, Connections, Protocol};
use crate::memory::{Account, CONNECTION, HANDSHAKE, HTTP3_CONNECTION, TLS_CONNECTION};
use crate::metrics::{Counted, Metrics};
use crate::node_check::NodeChecks;
use crate::node_keys::NodeKeys;
use crate::phase::{Phase, PhaseWatch};
use crate::proxy::Edge;
use crate::proxy_header;
use crate::quic::{HalfOpen, Quic, code};
use crate::quic_socket::QuicSocket;
use crate::replica::EdgeReplica;
use crate::self_check::{CheckSecret, EdgeSelfCheck};
use crate::settings::{Settings, ms};
use crate::tls::Front;
use crate::trace::Tracing;
use crate::traffic::TrafficBook;
use crate::visitor::Visitor;
use crate::watching;
use crate::windows::Windows;

/// Saying why connections end may take this long.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How often idle connections to nodes are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// The data plane, ready to serve.
pub struct Server {
    edge: Arc<Edge>,
    front: Front,
    secret: CheckSecret,
    routing: Arc<Routing>,
    certs: Arc<CertStore>,
    h1: H1Limits,
    h2: H2Limits,
    h3: H3Limits,
    quic: Quic,
    windows: Windows,
    permits: Arc<Semaphore>,
    networks: Arc<Networks>,
    per_network: usize,
    /// Handshakes under way by network.
    handshakes: Arc<Networks>,
    handshakes_per_network: usize,
    connections: Connections,
    metrics: Metrics,
    checks: Option<NodeChecks>,
    drain: Duration,
    longest_drain: Duration,
    letting_go: LettingGo,
    addresses: Addresses,
    balancers: Vec<IpNet>,
    crawlers: Arc<CrawlerList>,
    forwarders: Arc<[IpNet]>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("h1", &self.h1).field("h2", &self.h2).finish_non_exhaustive()
    }
}

impl Server {
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(
        settings: &Settings,
        routing: Arc<Routing>,
        certs: Arc<CertStore>,
        keys: Arc<NodeKeys>,
        metrics: Metrics,
        log: AccessLog,
    ) -> Result<Self, rustls::Error> {
        // Pingora takes ring unless a provider is there; a second install only says that the first one stands.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let secret = CheckSecret::new(&rustls::crypto::aws_lc_rs::default_provider())?;
        let crawlers = Arc::new(CrawlerList::new(settings.crawlers_file(), metrics.crawlers.clone()));
        let edge = Edge::new(
            Arc::clone(&routing),
            keys,
            metrics.clone(),
            settings,
            secret.clone(),
            Arc::clone(&certs),
            log,
            Arc::clone(&crawlers),
        );
        let h1 = H1Limits {
            header: ms(settings.header_timeout_ms),
            header_bytes: settings.max_header_bytes,
            idle: ms(settings.idle_timeout_ms),
            body: ms(settings.body_timeout_ms),
        };
        let h2 = H2Limits {
            streams: settings.h2_max_streams,
            header_bytes: settings.max_header_bytes,
            idle: ms(settings.idle_timeout_ms),
        };
        let h3 = H3Limits {
            header: h1.header,
            header_bytes: settings.max_header_bytes,
            idle: h1.idle,
            client: ms(settings.write_timeout_ms),
        };
        let front = Front::new(Arc::clone(&certs), Arc::clone(&routing), settings, metrics.clone())?;
        let quic = Quic::new(front.http3(), Arc::clone(&routing), settings, metrics.clone())?;
        Ok(Self {
            edge: Arc::new(edge),
            front,
            secret,
            routing,
            certs,
            h1,
            h2,
            h3,
            quic,
            windows: Windows::new(settings.h2_window_memory),
            permits: Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS))),
            networks: Arc::default(),
            per_network: settings.per_network(),
            handshakes: Arc::default(),
            handshakes_per_network: settings.handshakes_per_network(),
            connections: Connections::new(
                Account::new(budget::working(settings), metrics.memory.clone()),
                metrics.live.clone(),
            ),
            metrics,
            checks: NodeChecks::of(settings),
            drain: settings.shared.drain(),
            longest_drain: ms(settings.take_over_drain_ms),
            letting_go: LettingGo::default(),
            addresses: settings.access_log_addresses,
            balancers: settings.proxy_protocol_from.clone(),
            crawlers,
            forwarders: settings.forwarded_from.clone().into(),
        })
    }

    /// What it passed on for each tenant.
    #[must_use]
    pub fn traffic(&self) -> Arc<TrafficBook> {
        self.edge.traffic()
    }

    /// A place among the connections of the client's network.
    fn enter(&self, client: IpAddr) -> Option<NetworkPlace> {
        let place = self.networks.enter(client, self.per_network);
        if place.is_none() {
            self.metrics.over_share.inc();
        }
        place
    }

    /// A place among the handshakes of the client's network.
    fn begin_handshake(&self, client: IpAddr) -> Option<NetworkPlace> {
        let place = self.handshakes.enter(client, self.handshakes_per_network);
        if place.is_none() {
            self.metrics.handshakes_over_share.inc();
        }
        place
    }

    /// Gives requests their places in traces, as the settings ask for, and records some with `tracer`.
    pub fn trace(&self, tracer: RequestTracer, settings: &Settings) {
        if let Some(tracing) = Tracing::new(tracer, settings) {
            self.edge.trace(tracing);
        }
    }

    /// What the admin port tells of the connections that are open, and of requests as they come.
    pub fn routes(&self) -> Router {
        let addresses = self.addresses;
        live::routes(self.connections.clone(), move |client| addresses.of(client))
            .merge(watching::routes(self.edge.watchers(), Arc::clone(&self.routing)))
    }

    /// What tells controllers of requests that somebody watches there.
    pub(crate) fn request_teller(&self) -> Arc<dyn RequestTeller> {
        Arc::new(self.edge.watchers())
    }

    /// What asks this server, at its addresses for HTTP and HTTPS, for what `replica` applied.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn self_check(
        &self,
        listeners: (Vec<SocketAddr>, Vec<SocketAddr>),
        replica: &EdgeReplica,
    ) -> Result<EdgeSelfCheck, rustls::Error> {
        let (routing, certs) = (Arc::clone(&self.routing), Arc::clone(&self.certs));
        let (secret, balancers) = (self.secret.clone(), self.balancers.clone());
        EdgeSelfCheck::new(listeners, secret, replica.hosts(), routing, certs, balancers)
    }

    /// What [`crate::host_look`] finds of a host.
    pub fn look(&self) -> impl Fn(&str) -> Option<serde_json::Value> + Send + Sync + 'static {
        let (edge, routing, certs) =
            (Arc::clone(&self.edge), Arc::clone(&self.routing), Arc::clone(&self.certs));
        move |host| host_look::look(&routing, &certs, edge.countries(), edge.nodes().now(), host)
    }

    /// Has the server let go of its sockets, for the process that takes them over.
    pub(crate) fn letting_go(&self) -> LettingGo {
        self.letting_go.clone()
    }

    /// Serves until `stop`, then drains: no new connections, requests under way are finished, idle connections closed, and
    /// what is left at the deadline is cut. Runs its connections on the current runtime.
    ///
    /// When another process took the sockets over instead, connections have longer: idle ones of HTTP/1.1 may bring a last request,
    /// those of HTTP/2 and HTTP/3 are told to go elsewhere, and upgraded ones go on to the deadline.
    pub async fn run(self, listeners: Listeners, stop: CancellationToken) {
        let server = Arc::new(self);
        let letting_go = server.letting_go.clone();
        let (reached, phase) = PhaseWatch::new();
        let (accepting, quic) = (TaskTracker::new(), TaskTracker::new());
        let connections = letting_go.connections.clone();
        let (closed, cut) = (CancellationToken::new(), CancellationToken::new());
        let http = listeners.http.into_iter().map(|listener| (listener, false));
        let https = listeners.https.into_iter().map(|listener| (listener, true));
        let alt_svc =
            listeners.http3_port.map(|port| Arc::new(AltSvc::new(port, Arc::clone(&server.routing))));
        for (listener, tls) in http.chain(https) {
            let accept = Accept {
                server: Arc::clone(&server),
                tls,
                phase: phase.clone(),
                connections: connections.clone(),
                closed: closed.clone(),
                alt_svc: alt_svc.clone().filter(|_| tls),
            };
            accepting.spawn(accept.run(listener));
        }
        for socket in listeners.http3 {
            let endpoint = match server.quic.open(Arc::clone(&socket)) {
                Ok(endpoint) => endpoint,
                Err(error) => {
                    tracing::error!(%error, "HTTP/3 cannot be served at one of its addresses");
                    continue;
                }
            };
            let accept = AcceptQuic {
                server: Arc::clone(&server),
                phase: phase.clone(),
                connections: connections.clone(),
                socket,
                cut: cut.clone(),
            };
            quic.spawn(accept.run(endpoint));
        }
        accepting.close();
        quic.close();
        let serving = async {
            let end = tokio::select! {
                biased;
                () = letting_go.wanted.cancelled() => Phase::HandedOver,
                () = stop.cancelled() => Phase::Stopping,
            };
            closed.cancel();
            server.edge.watchers().end();
            accepting.wait().await;
            // Fails only when no connection listens any more.
            let _ = reached.send(end);
            letting_go.accepting_ended.cancel();
            connections.close();
            let drain = if end == Phase::HandedOver { server.longest_drain } else { server.drain };
            if tokio::time::timeout(drain, connections.wait()).await.is_err() {
                let (connections, upgraded) = (connections.len(), server.metrics.upgraded.get());
                tracing::warn!(connections, upgraded, "drain deadline passed, cutting what is left");
            }
            cut.cancel();
            quic.wait().await;
        };
        let sweeping = async {
            loop {
                tokio::time::sleep(SWEEP).await;
                server.edge.nodes().idle().sweep();
            }
        };
        let checking = async {
            match server.checks {
                Some(checks) => {
                    let (routing, metrics) = (Arc::clone(&server.routing), server.metrics.clone());
                    checks.run(routing, metrics, || server.edge.nodes().now()).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = serving => {}
            () = sweeping => {}
            () = Arc::clone(server.edge.countries()).follow() => {}
            () = checking => {}
            () = server.crawlers.follow() => {}
            () = server.connections.make_room() => {}
        }
        letting_go.drained.cancel();
    }
}

/// By which a server's sockets go to another process. A clone speaks of the same server.
#[derive(Debug, Clone, Default)]
pub(crate) struct LettingGo {
    wanted: CancellationToken,
    accepting_ended: CancellationToken,
    drained: CancellationToken,
    connections: TaskTracker,
}

impl LettingGo {
    /// The server takes no more connections when this returns, and drains.
    pub(crate) async fn begin(&self) {
        self.wanted.cancel();
        self.accepting_ended.cancelled().await;
    }

    /// Connections that the server has now.
    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Ends when the server's last connection has.
    pub(crate) async fn drained(&self) {
        self.drained.cancelled().await;
    }
}

struct Accept {
    server: Arc<Server>,
    tls: bool,
    phase: PhaseWatch,
    connections: TaskTracker,
    closed: CancellationToken,
    alt_svc: Option<Arc<AltSvc>>,
}

impl Accept {
    async fn run(self, listener: TcpListener) {
        loop {
            // First the right to a connection, then the connection: at the limit they wait in the kernel's queue.
            let next = async {
                let permit =
                    Arc::clone(&self.server.permits).acquire_owned().await.map_err(io::Error::other)?;
                let (tcp, peer) = listener.accept().await?;
                Ok::<_, io::Error>((permit, tcp, peer))
            };
            let accepted = tokio::select! {
                () = self.closed.cancelled() => return,
                accepted = next => accepted,
            };
            match accepted {
                Ok((permit, tcp, peer)) => {
                    // A balancer's connections are those of its clients; whose, its header says. It passes no UDP on.
                    let (place, alt_svc) = if is_trusted(&self.server.balancers, peer.ip()) {
                        (None, None)
                    } else {
                        let Some(place) = self.server.enter(peer.ip()) else { continue };
                        (Some(place), self.alt_svc.clone())
                    };
                    let serve = serve(
                        Arc::clone(&self.server),
                        self.tls,
                        (tcp, peer),
                        alt_svc,
                        self.phase.clone(),
                        (permit, place),
                    );
                    self.connections.spawn(serve);
                }
                Err(error) => {
                    self.server.metrics.accept_errors.inc();
                    // No file handles, no memory: it would come back at once, so let others end first.
                    if error.kind() != io::ErrorKind::ConnectionAborted {
                        tracing::warn!(%error, "cannot accept connections");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                }
            }
        }
    }
}

async fn serve(
    server: Arc<Server>,
    tls: bool,
    (mut tcp, peer): (TcpStream, SocketAddr),
    alt_svc: Option<Arc<AltSvc>>,
    phase: PhaseWatch,
    (_permit, place): (OwnedSemaphorePermit, Option<NetworkPlace>),
) {
    let _counted = Counted::new(&server.metrics.connections);
    // Fails only on a connection that is gone.
    let _ = tcp.set_nodelay(true);
    let (client, _place) = match place {
        Some(place) => (peer.ip(), place),
        None => {
            let header = tokio::time::timeout(server.h1.header, proxy_header::read(&mut tcp, peer)).await;
            let client = match header.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(client) => client,
                Err(error) => {
                    tracing::debug!(%peer, %error, "no PROXY protocol header");
                    server.metrics.proxy_headers_refused.inc();
                    return;
                }
            };
            let Some(place) = server.enter(client) else { return };
            (client, place)
        }
    };
    let bytes = if tls { HANDSHAKE } else { CONNECTION };
    let Some(mut opened) = server.connections.enter(client, bytes) else { return };
    let watch = opened.watch();
    let (mut conn, name) = if tls {
        let Some(_handshake) = server.begin_handshake(client) else { return };
        let Some(accepted) = Box::pin(server.front.accept(tcp, peer)).await else { return };
        accepted
    } else {
        (Conn::tcp(tcp, peer), None)
    };
    let protocol = if conn.is_h2() { Protocol::Http2 } else { Protocol::Http1 };
    let bytes = if tls { TLS_CONNECTION } else { CONNECTION };
    opened.speaks(protocol, conn.tls_minor(), name.as_ref(), bytes);
    conn.watch(&watch);
    let visitor = Visitor::new(client, &server.forwarders, server.addresses, tls, name)
        .with_alt_svc(alt_svc)
        .watched(watch);
    let serving = async {
        if conn.is_h2() {
            Box::pin(h2::serve(&server.edge, conn, visitor, server.h2, &server.windows, phase)).await;
        } else {
            h1::serve(&server.edge, conn, &visitor, server.h1, phase).await;
        }
    };
    if opened.until_cut(serving).await.is_err() {
        tracing::debug!(%client, "a connection is cut: there is no memory for what it holds");
    }
}

/// Takes connections of HTTP/3, and refuses them once the server is to end.
struct AcceptQuic {
    server: Arc<Server>,
    phase: PhaseWatch,
    connections: TaskTracker,
    socket: Arc<QuicSocket>,
    /// What is left is cut.
    cut: CancellationToken,
}

impl AcceptQuic {
    async fn run(self, endpoint: Endpoint) {
        let ends = self.ends(&endpoint);
        tokio::pin!(ends);
        loop {
            let incoming = tokio::select! {
                incoming = endpoint.accept() => incoming,
                () = &mut ends => break,
            };
            match incoming {
                Some(incoming) => self.take(incoming),
                None => {
                    tracing::error!(
                        "HTTP/3 is not served any more at one of its addresses; restart the edge"
                    );
                    break;
                }
            }
        }
        endpoint.close(code(Code::NoError), b"");
        // Whoever is gone does not say so.
        let _ = tokio::time::timeout(LAST_WORD, endpoint.wait_idle()).await;
    }

    /// Ends when there is nothing to do here any more.
    async fn ends(&self, endpoint: &Endpoint) {
        let mut phase = self.phase.clone();
        let handed_over = async {
            phase.ends().await;
            if phase.now() != Phase::HandedOver {
                return std::future::pending().await;
            }
            // Who was on his way to a connection when the socket went to another process has arrived by then.
            tokio::time::sleep(self.server.quic.limit()).await;
            endpoint.wait_idle().await;
        };
        tokio::select! {
            () = self.cut.cancelled() => {}
            () = handed_over => {}
            () = self.socket.unread() => {
                tracing::warn!("nobody reads the UDP socket that was taken over: HTTP/3 ends here");
            }
        }
    }

    fn take(&self, incoming: Incoming) {
        // What still comes to a socket that went to another process was on its way here before.
        let takes = match self.phase.now() {
            Phase::Serving => true,
            Phase::HandedOver => self.socket.is_handed_over(),
            Phase::Stopping => false,
        };
        if !takes {
            return incoming.refuse();
        }
        let Some((incoming, unproven)) = self.server.quic.look_at(incoming) else { return };
        // Nobody waits in a queue here: whoever is refused takes HTTPS.
        let Ok(permit) = Arc::clone(&self.server.permits).try_acquire_owned() else {
            return incoming.refuse();
        };
        let Some(place) = self.server.enter(incoming.remote_address().ip()) else {
            return incoming.refuse();
        };
        let server = Arc::clone(&self.server);
        let serve = serve_quic(server, incoming, unproven, self.phase.clone(), (permit, place));
        self.connections.spawn(serve);
    }
}

async fn serve_quic(
    server: Arc<Server>,
    incoming: Incoming,
    unproven: Option<HalfOpen>,
    phase: PhaseWatch,
    _places: (OwnedSemaphorePermit, NetworkPlace),
) {
    let _counted = [&server.metrics.connections, &server.metrics.http3_connections].map(Counted::new);
    let client = incoming.remote_address().ip();
    let Some(mut opened) = server.connections.enter(client, HTTP3_CONNECTION) else {
        return incoming.refuse();
    };
    let Some(handshake) = server.begin_handshake(client) else { return incoming.refuse() };
    let Some((conn, name)) = server.quic.handshake(incoming).await else { return };
    drop((unproven, handshake));
    opened.speaks(Protocol::Http3, 3, name.as_ref(), HTTP3_CONNECTION);
    let visitor =
        Visitor::new(client, &server.forwarders, server.addresses, true, name).watched(opened.watch());
    let serving = h3::serve(&server.edge, conn.clone(), visitor, server.h3, &server.windows, phase);
    if opened.until_cut(serving).await.is_err() {
        conn.close(code(Code::ExcessiveLoad), b"");
    }
}
