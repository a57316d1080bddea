//! The accept loop: TCP, TLS, and how many of each at once. Knows no RPC.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use hosting_intent_sync::identity::unix_now;
use hosting_intent_sync::tls::NodeCertificate;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::Connected;

use crate::metrics::{FeedMetrics, Refusal};
use crate::seats::{Party, Seat, Seats};

/// How much the listener takes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AcceptLimits {
    /// Connections with a valid certificate.
    pub(crate) connections: usize,
    /// Of these with the certificate of one node: a node alone cannot keep the others out.
    pub(crate) of_one_node: usize,
    /// Connections without one, or with an expired one: they enrol or renew, and are cut after `anonymous_life`, those that
    /// do not say what they want after `anonymous_silence`.
    pub(crate) anonymous: usize,
    pub(crate) anonymous_life: Duration,
    pub(crate) anonymous_silence: Duration,
    pub(crate) handshakes: usize,
    pub(crate) handshake_timeout: Duration,
}

/// How many connections each node has.
#[derive(Debug, Default)]
struct Nodes(Mutex<BTreeMap<String, usize>>);

impl Nodes {
    fn enter(self: &Arc<Self>, node: &str, limit: usize) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(node.to_owned()).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place { nodes: Arc::clone(self), node: node.to_owned() })
    }
}

/// One of a node's connections; given back when dropped.
#[derive(Debug)]
struct Place {
    nodes: Arc<Nodes>,
    node: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.nodes.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.node);
            }
        }
    }
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Verified in the handshake, but for its end.
    pub(crate) certificate: Option<NodeCertificate>,
    /// What a connection without a valid certificate keeps while it is at work.
    pub(crate) seat: Option<Seat>,
}

/// A connection past its handshake.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// When it is cut.
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    metrics: FeedMetrics,
    _known: Option<(OwnedSemaphorePermit, Place)>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "connections without a valid certificate are short",
            )));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Accepts until `stop`; gives connections past their handshake to `out`.
pub(crate) async fn accept(
    listener: TcpListener,
    tls: Arc<ArcSwap<ServerConfig>>,
    limits: AcceptLimits,
    metrics: FeedMetrics,
    out: mpsc::Sender<io::Result<Connection>>,
    stop: CancellationToken,
) {
    let known = Arc::new(Semaphore::new(limits.connections));
    let by_node = Arc::new(Nodes::default());
    let anonymous = Seats::new(limits.anonymous, limits.anonymous / 4);
    let handshakes = Seats::new(limits.handshakes, limits.handshakes / 4);
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the peer is gone already.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let Some(shaking) = handshakes.take(Party::at(address.ip())) else {
            metrics.refuse(Refusal::Busy);
            continue;
        };
        let acceptor = TlsAcceptor::from(tls.load_full());
        let (known, anonymous, by_node) = (Arc::clone(&known), Arc::clone(&anonymous), Arc::clone(&by_node));
        let (metrics, out) = (metrics.clone(), out.clone());
        tasks.spawn(async move {
            let shaken = async {
                tcp.set_nodelay(true)?;
                acceptor.accept(tcp).await
            };
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(limits.handshake_timeout, shaken) => shaken,
                () = shaking.given_up() => return metrics.refuse(Refusal::Busy),
            };
            let stream = match shaken {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "handshake");
                    return metrics.refuse(Refusal::Handshake);
                }
                Err(_) => return metrics.refuse(Refusal::Handshake),
            };
            drop(shaking);
            let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let certificate = leaf.and_then(|der| NodeCertificate::parse(der).ok());
            let node = certificate.as_ref().map(|certificate| certificate.name.node_id.clone());
            let is_valid =
                certificate.as_ref().is_some_and(|certificate| certificate.is_valid_at(unix_now()));
            let mut peer = Peer { address, certificate, seat: None };
            let connection = match node {
                Some(node) if is_valid => {
                    let places = known.try_acquire_owned().ok().zip(by_node.enter(&node, limits.of_one_node));
                    let Some(places) = places else {
                        tracing::warn!(%address, node, "too many connections, of this node or of all");
                        return metrics.refuse(Refusal::Busy);
                    };
                    Connection { stream, peer, end: None, metrics, _known: Some(places) }
                }
                node => {
                    let party = node.map_or_else(|| Party::at(address.ip()), Party::Node);
                    let Some(seat) = anonymous.take(party) else {
                        tracing::warn!(%address, "too many connections without a valid certificate");
                        return metrics.refuse(Refusal::Busy);
                    };
                    peer.seat = Some(seat.clone());
                    let end = Some(Box::pin(end_of(seat, limits)) as Pin<Box<_>>);
                    Connection { stream, peer, end, metrics, _known: None }
                }
            };
            connection.metrics.connections.inc();
            // An error means that the server has ended.
            let _ = out.send(Ok(connection)).await;
        });
    }
    tasks.close();
}

/// Waits until a connection without a valid certificate has to go.
async fn end_of(seat: Seat, limits: AcceptLimits) {
    let time_is_up = async {
        tokio::time::sleep(limits.anonymous_silence).await;
        if seat.has_called() {
            tokio::time::sleep(limits.anonymous_life.saturating_sub(limits.anonymous_silence)).await;
        }
    };
    tokio::select! {
        () = time_is_up => {}
        () = seat.given_up() => {}
    }
}
