//! The listeners: accept, handshake, hand over to the version of HTTP that was negotiated, drain.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hosting_edge_http3::Code;
use hosting_edge_map::Routing;
use hosting_scaffold::client_address::is_trusted;
use hosting_scaffold::networks::{NetworkPlace, Networks};
use ipnet::IpNet;
use pingora_core::server::ShutdownWatch;
use prometheus_client::metrics::gauge::Gauge;
use quinn::{Endpoint, Incoming};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access_log::{AccessLog, Addresses};
use crate::certs::CertStore;
use crate::conn::Conn;
use crate::h1::{self, H1Limits};
use crate::h2::{self, H2Limits};
use crate::h3;
use crate::h3_stream::H3Limits;
use crate::host_look;
use crate::metrics::Metrics;
use crate::node_check::NodeChecks;
use crate::node_keys::NodeKeys;
use crate::proxy::Edge;
use crate::proxy_header;
use crate::quic::{HalfOpen, Quic, code};
use crate::replica::EdgeReplica;
use crate::self_check::{CheckSecret, EdgeSelfCheck};
use crate::settings::{Settings, ms};
use crate::tls::Front;
use crate::traffic::TrafficBook;
use crate::visitor::Visitor;
use crate::windows::Windows;

/// An address cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("{flag} {address}: {source}{}", hint(source))]
pub struct BindError {
    flag: &'static str,
    address: SocketAddr,
    source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process has it (`ss -ltnp` says which, of UDP `ss -lunp`): stop that, or choose another port"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher one, or grant it"
        }
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        // Only to help: every other kind speaks for itself.
        _ => "",
    }
}

/// Sockets that have their address but take no connections yet: a port that is taken is found out at start, and a client is
/// refused until there is a view to serve.
#[derive(Debug)]
pub struct Bound {
    http: Vec<Socket>,
    https: Vec<Socket>,
    http3: Vec<Socket>,
    http3_port: u16,
    backlog: i32,
}

impl Bound {
    /// # Errors
    /// The first address that cannot be had.
    pub fn bind(settings: &Settings) -> Result<Self, BindError> {
        let all = |flag, addresses: &[SocketAddr], kind| {
            addresses
                .iter()
                .map(|address| {
                    bind(*address, kind).map_err(|source| BindError { flag, address: *address, source })
                })
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            http: all("--http-listen", &settings.http_listen, Type::STREAM)?,
            https: all("--https-listen", &settings.https_listen, Type::STREAM)?,
            http3: all("--http3-listen (UDP)", settings.http3_addresses(), Type::DGRAM)?,
            http3_port: settings.http3_port,
            backlog: settings.backlog.max(1),
        })
    }

    /// The addresses for HTTP, with the ports that the kernel chose for 0.
    #[must_use]
    pub fn http(&self) -> Vec<SocketAddr> {
        addresses(&self.http)
    }

    /// The addresses for HTTPS.
    #[must_use]
    pub fn https(&self) -> Vec<SocketAddr> {
        addresses(&self.https)
    }

    /// The UDP addresses for HTTP/3. What comes before they are opened waits, or is lost, and clients take HTTPS.
    #[must_use]
    pub fn http3(&self) -> Vec<SocketAddr> {
        addresses(&self.http3)
    }

    /// Takes connections from here on. Call it on the runtime that serves them, when there is a view to serve.
    ///
    /// # Errors
    /// What the system says; another process may have been quicker with the same port.
    pub fn open(self) -> io::Result<Listeners> {
        let backlog = self.backlog;
        let port = self
            .http3()
            .first()
            .map(|first| if self.http3_port == 0 { first.port() } else { self.http3_port });
        let open = |sockets: Vec<Socket>| {
            sockets
                .into_iter()
                .map(|socket| {
                    socket.listen(backlog)?;
                    TcpListener::from_std(socket.into())
                })
                .collect::<io::Result<Vec<_>>>()
        };
        Ok(Listeners {
            http: open(self.http)?,
            https: open(self.https)?,
            http3: self.http3.into_iter().map(UdpSocket::from).collect(),
            alt_svc: port.map(|port| format!("h3=\":{port}\"; ma={ALT_SVC_SECONDS}").into()),
        })
    }
}

/// Sockets that take connections.
#[derive(Debug)]
pub struct Listeners {
    http: Vec<TcpListener>,
    https: Vec<TcpListener>,
    http3: Vec<UdpSocket>,
    /// What clients of HTTPS are told of HTTP/3.
    alt_svc: Option<Arc<str>>,
}

fn addresses(sockets: &[Socket]) -> Vec<SocketAddr> {
    sockets.iter().filter_map(|socket| socket.local_addr().ok()?.as_socket()).collect()
}

fn bind(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        // So that [::] and 0.0.0.0 can stand side by side whatever the system's default.
        socket.set_only_v6(true)?;
    }
    if kind == Type::DGRAM {
        // One socket takes the packets of all clients. The kernel gives what it has.
        socket.set_recv_buffer_size(UDP_BUFFER)?;
    } else {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Bytes of packets that wait until the edge reads them.
const UDP_BUFFER: usize = 4 * 1_024 * 1_024;
/// How long clients keep in mind that there is HTTP/3.
const ALT_SVC_SECONDS: u32 = 86_400;
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
    metrics: Metrics,
    checks: Option<NodeChecks>,
    drain: Duration,
    addresses: Addresses,
    balancers: Vec<IpNet>,
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
        let edge = Edge::new(
            Arc::clone(&routing),
            keys,
            metrics.clone(),
            settings,
            secret.clone(),
            Arc::clone(&certs),
            log,
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
            metrics,
            checks: NodeChecks::of(settings),
            drain: settings.shared.drain(),
            addresses: settings.access_log_addresses,
            balancers: settings.proxy_protocol_from.clone(),
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

    /// What asks this server, at the addresses of `bound`, for what `replica` applied.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn self_check(&self, bound: &Bound, replica: &EdgeReplica) -> Result<EdgeSelfCheck, rustls::Error> {
        let listeners = (bound.http(), bound.https());
        let (routing, certs) = (Arc::clone(&self.routing), Arc::clone(&self.certs));
        let (secret, balancers) = (self.secret.clone(), self.balancers.clone());
        EdgeSelfCheck::new(listeners, secret, replica.hosts(), routing, certs, balancers)
    }

    /// What [`crate::host_look`] finds of a host.
    pub fn look(&self) -> impl Fn(&str) -> Option<serde_json::Value> + Send + Sync + 'static {
        let (edge, routing, certs) =
            (Arc::clone(&self.edge), Arc::clone(&self.routing), Arc::clone(&self.certs));
        move |host| host_look::look(&routing, &certs, edge.nodes().now(), host)
    }

    /// Serves until `stop`, then drains: no new connections, requests under way are finished, idle connections closed, and
    /// what is left at the deadline is cut. Runs its connections on the current runtime.
    pub async fn run(self, listeners: Listeners, stop: CancellationToken) {
        let server = Arc::new(self);
        let (draining, shutdown) = watch::channel(false);
        let accepting = TaskTracker::new();
        let connections = TaskTracker::new();
        let http = listeners.http.into_iter().map(|listener| (listener, false));
        let https = listeners.https.into_iter().map(|listener| (listener, true));
        for (listener, tls) in http.chain(https) {
            let accept = Accept {
                server: Arc::clone(&server),
                tls,
                shutdown: shutdown.clone(),
                connections: connections.clone(),
                stop: stop.clone(),
                alt_svc: listeners.alt_svc.clone().filter(|_| tls),
            };
            accepting.spawn(accept.run(listener));
        }
        let mut endpoints = Vec::new();
        for socket in listeners.http3 {
            let endpoint = match server.quic.open(socket) {
                Ok(endpoint) => endpoint,
                Err(error) => {
                    tracing::error!(%error, "HTTP/3 cannot be served at one of its addresses");
                    continue;
                }
            };
            let accept = AcceptQuic {
                server: Arc::clone(&server),
                shutdown: shutdown.clone(),
                connections: connections.clone(),
                stop: stop.clone(),
            };
            tokio::spawn(accept.run(endpoint.clone()));
            endpoints.push(endpoint);
        }
        let stopped = stop.clone();
        accepting.spawn(async move { stopped.cancelled().await });
        accepting.close();
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
            () = accepting.wait() => {}
            () = sweeping => {}
            () = checking => {}
        }

        // A send fails only when no connection listens any more.
        let _ = draining.send(true);
        connections.close();
        if tokio::time::timeout(server.drain, connections.wait()).await.is_err() {
            tracing::warn!(connections = connections.len(), "drain deadline passed, cutting what is left");
        }
        for endpoint in endpoints {
            endpoint.close(code(Code::NoError), b"");
            // Whoever is gone does not say so.
            let _ = tokio::time::timeout(LAST_WORD, endpoint.wait_idle()).await;
        }
    }
}

/// Threads for user bytes.
#[must_use]
pub fn threads(settings: &Settings) -> usize {
    match settings.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    }
}

struct Accept {
    server: Arc<Server>,
    tls: bool,
    shutdown: ShutdownWatch,
    connections: TaskTracker,
    stop: CancellationToken,
    alt_svc: Option<Arc<str>>,
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
                () = self.stop.cancelled() => return,
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
                        self.shutdown.clone(),
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
    alt_svc: Option<Arc<str>>,
    shutdown: ShutdownWatch,
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
    let (conn, name) = if tls {
        let Some(accepted) = server.front.accept(tcp, peer).await else { return };
        accepted
    } else {
        (Conn::tcp(tcp, peer), None)
    };
    let visitor = Visitor::new(client, &server.forwarders, server.addresses, tls, name).with_alt_svc(alt_svc);
    if conn.is_h2() {
        h2::serve(&server.edge, conn, visitor, server.h2, &server.windows, shutdown).await;
    } else {
        h1::serve(&server.edge, conn, &visitor, server.h1, shutdown).await;
    }
}

/// Takes connections of HTTP/3, and refuses them once the server drains.
struct AcceptQuic {
    server: Arc<Server>,
    shutdown: ShutdownWatch,
    connections: TaskTracker,
    stop: CancellationToken,
}

impl AcceptQuic {
    async fn run(self, endpoint: Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            if self.stop.is_cancelled() {
                incoming.refuse();
                continue;
            }
            let Some((incoming, unproven)) = self.server.quic.look_at(incoming) else { continue };
            // Nobody waits in a queue here: whoever is refused takes HTTPS.
            let Ok(permit) = Arc::clone(&self.server.permits).try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let Some(place) = self.server.enter(incoming.remote_address().ip()) else {
                incoming.refuse();
                continue;
            };
            let server = Arc::clone(&self.server);
            self.connections.spawn(serve_quic(
                server,
                incoming,
                unproven,
                self.shutdown.clone(),
                (permit, place),
            ));
        }
        if !self.stop.is_cancelled() {
            tracing::error!("HTTP/3 is not served any more at one of its addresses; restart the edge");
        }
    }
}

async fn serve_quic(
    server: Arc<Server>,
    incoming: Incoming,
    unproven: Option<HalfOpen>,
    shutdown: ShutdownWatch,
    _places: (OwnedSemaphorePermit, NetworkPlace),
) {
    let _counted = [&server.metrics.connections, &server.metrics.http3_connections].map(Counted::new);
    let client = incoming.remote_address().ip();
    let Some((conn, name)) = server.quic.handshake(incoming).await else { return };
    drop(unproven);
    let visitor = Visitor::new(client, &server.forwarders, server.addresses, true, name);
    h3::serve(&server.edge, conn, visitor, server.h3, &server.windows, shutdown).await;
}

/// Counts a connection for as long as it lives, however it ends.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_says_so() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let settings = Settings {
            http_listen: vec![taken.local_addr().unwrap()],
            https_listen: Vec::new(),
            ..Settings::default()
        };
        let text = Bound::bind(&settings).unwrap_err().to_string();
        assert!(text.contains("--http-listen") && text.contains("another process"), "{text}");
    }

    #[tokio::test]
    async fn a_bound_address_refuses_until_it_is_opened() {
        let settings = Settings {
            http_listen: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
            https_listen: Vec::new(),
            ..Settings::default()
        };
        let bound = Bound::bind(&settings).unwrap();
        let addresses = bound.http();
        for address in &addresses {
            assert!(TcpStream::connect(address).await.is_err());
        }
        let _open = bound.open().unwrap();
        for address in &addresses {
            TcpStream::connect(address).await.unwrap();
        }
    }
}
