//! The listeners in front of Pingora: accept, handshake, read the request's header against the clock, hand over, drain.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hosting_edge_map::Routing;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::default_h2_options;
use pingora_core::protocols::{Shutdown, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use prometheus_client::metrics::gauge::Gauge;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certs::CertStore;
use crate::conn::Conn;
use crate::metrics::Metrics;
use crate::proxy::Edge;
use crate::settings::{Settings, ms};
use crate::tls::Front;

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
            "; another process has it (`ss -ltnp` says which): stop that, or choose another port"
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
    backlog: i32,
}

impl Bound {
    /// # Errors
    /// The first address that cannot be had.
    pub fn bind(settings: &Settings) -> Result<Self, BindError> {
        let all = |flag, addresses: &[SocketAddr]| {
            addresses
                .iter()
                .map(|address| bind(*address).map_err(|source| BindError { flag, address: *address, source }))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            http: all("--http-listen", &settings.http_listen)?,
            https: all("--https-listen", &settings.https_listen)?,
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

    /// Takes connections from here on. Call it on the runtime that serves them, when there is a view to serve.
    ///
    /// # Errors
    /// What the system says; another process may have been quicker with the same port.
    pub fn open(self) -> io::Result<Listeners> {
        let backlog = self.backlog;
        let open = |sockets: Vec<Socket>| {
            sockets
                .into_iter()
                .map(|socket| {
                    socket.listen(backlog)?;
                    TcpListener::from_std(socket.into())
                })
                .collect::<io::Result<Vec<_>>>()
        };
        Ok(Listeners { http: open(self.http)?, https: open(self.https)? })
    }
}

/// Sockets that take connections.
#[derive(Debug)]
pub struct Listeners {
    http: Vec<TcpListener>,
    https: Vec<TcpListener>,
}

fn addresses(sockets: &[Socket]) -> Vec<SocketAddr> {
    sockets.iter().filter_map(|socket| socket.local_addr().ok()?.as_socket()).collect()
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // So that [::] and 0.0.0.0 can stand side by side whatever the system's default.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The data plane, ready to serve.
pub struct Server {
    proxy: Arc<HttpProxy<Edge>>,
    front: Front,
    limits: Limits,
    permits: Arc<Semaphore>,
    metrics: Metrics,
    drain: Duration,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    header: Duration,
    header_bytes: usize,
    idle: Duration,
    body: Duration,
    write: Duration,
}

impl Server {
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(
        settings: &Settings,
        routing: Arc<Routing>,
        certs: Arc<CertStore>,
        metrics: Metrics,
    ) -> Result<Self, rustls::Error> {
        // Pingora takes ring unless a provider is there; a second install only says that the first one stands.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let conf = ServerConf {
            threads: threads(settings),
            upstream_keepalive_pool_size: settings.upstream_pool,
            max_retries: 2 * hosting_edge_map::MAX_TRIES,
            ..ServerConf::default()
        };
        let edge = Edge::new(Arc::clone(&routing), metrics.clone(), settings);
        let mut proxy = HttpProxy::new(edge, Arc::new(conf));
        proxy.handle_init_modules();
        let mut h2 = default_h2_options();
        h2.max_concurrent_streams(settings.h2_max_streams.max(1));
        h2.max_header_list_size(u32::try_from(settings.max_header_bytes).unwrap_or(u32::MAX));
        proxy.h2_options = Some(h2);
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(ms(settings.idle_timeout_ms));
        proxy.server_options = Some(options);
        let limits = Limits {
            header: ms(settings.header_timeout_ms),
            header_bytes: settings.max_header_bytes,
            idle: ms(settings.idle_timeout_ms),
            body: ms(settings.body_timeout_ms),
            write: ms(settings.write_timeout_ms),
        };
        let front =
            Front::new(certs, routing, ms(settings.handshake_timeout_ms), limits.header, metrics.clone())?;
        Ok(Self {
            proxy: Arc::new(proxy),
            front,
            limits,
            permits: Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS))),
            metrics,
            drain: ms(settings.drain_timeout_ms),
        })
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
            };
            accepting.spawn(accept.run(listener));
        }
        accepting.close();
        accepting.wait().await;

        // A send fails only when no connection listens any more.
        let _ = draining.send(true);
        server.proxy.http_cleanup().await;
        connections.close();
        if tokio::time::timeout(server.drain, connections.wait()).await.is_err() {
            tracing::warn!(connections = connections.len(), "drain deadline passed, cutting what is left");
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
                    let serve =
                        serve(Arc::clone(&self.server), self.tls, tcp, peer, self.shutdown.clone(), permit);
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
    tcp: TcpStream,
    peer: SocketAddr,
    shutdown: ShutdownWatch,
    _permit: OwnedSemaphorePermit,
) {
    let _counted = Counted::new(&server.metrics);
    // Fails only on a connection that is gone.
    let _ = tcp.set_nodelay(true);
    let conn = if tls { server.front.accept(tcp, peer).await } else { Some(Conn::tcp(tcp, peer)) };
    if let Some(conn) = conn {
        if conn.is_h2() {
            // Boxed by Pingora's trait; it never hands an HTTP/2 connection back.
            server.proxy.process_new(Box::new(conn), &shutdown).await;
        } else {
            serve_h1(&server, conn, shutdown).await;
        }
    }
}

/// Counts a connection for as long as it lives, however it ends.
struct Counted(Gauge);

impl Counted {
    fn new(metrics: &Metrics) -> Self {
        metrics.connections.inc();
        Self(metrics.connections.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn serve_h1(server: &Server, conn: Conn, mut shutdown: ShutdownWatch) {
    let limits = &server.limits;
    let mut stream: Stream = Box::new(conn);
    let mut first_wait = limits.header;
    let mut settings = None;
    loop {
        let head = match read_head(&mut stream, first_wait, limits, &mut shutdown).await {
            Head::Ready(head) => head,
            Head::Gone => return,
            Head::Refuse(answer) => {
                // The client may not be listening; then it does not matter.
                if stream.write_all(answer).await.is_ok() && stream.flush().await.is_ok() {
                    Shutdown::shutdown(stream.as_mut()).await;
                }
                server.metrics.request(400);
                return;
            }
        };
        let mut session = ServerSession::new_http1(stream);
        if let Some(settings) = settings.take() {
            HttpPersistentSettings::apply_to_session(settings, &mut session);
        }
        session.set_keepalive(Some(limits.idle.as_secs().max(1)));
        session.set_read_timeout(Some(limits.body));
        session.set_write_timeout(Some(limits.write));
        session.set_pipelined_prefix(head);
        match server.proxy.process_new_http(session, &shutdown).await {
            Some(reused) => (stream, settings) = reused.consume(),
            None => return,
        }
        first_wait = limits.idle;
    }
}

enum Head {
    /// A whole request header, and whatever came with it.
    Ready(BytesMut),
    /// The client is gone, said nothing in time, or we are draining.
    Gone,
    /// Answer this and close.
    Refuse(&'static [u8]),
}

const TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const TOO_LARGE: &[u8] =
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Reads up to the end of a request's header. Pingora would do it too, but with a limit per read: a client that sends a byte
/// a minute would hold its connection for ever.
async fn read_head(
    stream: &mut Stream,
    wait: Duration,
    limits: &Limits,
    shutdown: &mut ShutdownWatch,
) -> Head {
    let mut buffer = BytesMut::with_capacity(4 * 1024);
    let first = tokio::select! {
        biased;
        read = pingora_timeout::timeout(wait, stream.read_buf(&mut buffer)) => read,
        _ = shutdown.wait_for(|draining| *draining) => return Head::Gone,
    };
    if !matches!(first, Ok(Ok(1..))) {
        return Head::Gone;
    }
    let mut seen = 0;
    if complete(&mut buffer, &mut seen) {
        return Head::Ready(buffer);
    }
    let rest = async {
        loop {
            if buffer.len() > limits.header_bytes {
                return Some(Head::Refuse(TOO_LARGE));
            }
            match stream.read_buf(&mut buffer).await {
                Ok(1..) if complete(&mut buffer, &mut seen) => return None,
                Ok(1..) => {}
                Ok(0) | Err(_) => return Some(Head::Gone),
            }
        }
    };
    match pingora_timeout::timeout(limits.header, rest).await {
        Ok(None) if buffer.len() > limits.header_bytes + 64 * 1024 => Head::Refuse(TOO_LARGE),
        Ok(None) => Head::Ready(buffer),
        Ok(Some(end)) => end,
        Err(_) => Head::Refuse(TIMEOUT),
    }
}

/// Whether a request's header is complete; `seen` is where to look on from. What cannot be one counts as complete: Pingora's
/// parser refuses it better than we.
fn complete(buffer: &mut BytesMut, seen: &mut usize) -> bool {
    // Empty lines before a request are allowed (RFC 9112 §2.2); with them in front the search would end too early.
    while matches!(buffer.first(), Some(b'\r' | b'\n')) {
        buffer.advance(1);
        *seen = 0;
    }
    if buffer.first().is_some_and(|first| !first.is_ascii_alphabetic()) {
        return true;
    }
    let new = buffer.get(*seen..).unwrap_or_default();
    let found = memchr::memmem::find(new, b"\n\r\n").or_else(|| memchr::memmem::find(new, b"\n\n")).is_some();
    *seen = buffer.len().saturating_sub(2);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_header_is_found_wherever_the_pieces_break() {
        for whole in [
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\nhost: a\n\n",
        ] {
            let (mut buffer, mut seen, mut ended) = (BytesMut::new(), 0, None);
            for (at, byte) in whole.bytes().enumerate() {
                buffer.extend_from_slice(&[byte]);
                if complete(&mut buffer, &mut seen) {
                    ended = Some(at + 1);
                    break;
                }
            }
            assert_eq!(ended, Some(whole.len()), "{whole:?}");
        }
        assert!(
            complete(&mut BytesMut::from(&b"\x16\x03\x01"[..]), &mut 0),
            "TLS on the wrong port is for the parser"
        );
    }

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
