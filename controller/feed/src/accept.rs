//! The accept loop: TCP, TLS, and how many of each at once. Knows no RPC.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
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
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::Connected;

use crate::metrics::{FeedMetrics, Refusal};

/// How much the listener takes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AcceptLimits {
    /// Connections with a valid certificate.
    pub(crate) connections: usize,
    /// Of these with the certificate of one node: a node alone cannot keep the others out.
    pub(crate) of_one_node: usize,
    /// Connections without one, or with an expired one: they enrol or renew, and are cut after `anonymous_life`.
    pub(crate) anonymous: usize,
    pub(crate) anonymous_life: Duration,
    pub(crate) handshakes: usize,
    pub(crate) handshake_timeout: Duration,
}

/// How many places each party has taken: handshakes under way by network, connections by node. Nobody alone can keep the
/// others out.
#[derive(Debug)]
struct Taken<K: Ord>(Mutex<BTreeMap<K, usize>>);

impl<K: Ord> Default for Taken<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord + Clone> Taken<K> {
    fn enter(self: &Arc<Self>, party: K, limit: usize) -> Option<Place<K>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(party.clone()).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place { taken: Arc::clone(self), party })
    }
}

/// One of a party's places; given back when dropped.
#[derive(Debug)]
struct Place<K: Ord> {
    taken: Arc<Taken<K>>,
    party: K,
}

impl<K: Ord> Drop for Place<K> {
    fn drop(&mut self) {
        let mut counts = self.taken.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.party) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.party);
            }
        }
    }
}

/// What counts as one party: an IPv4 address, or an IPv6 /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Verified in the handshake, but for its end.
    pub(crate) certificate: Option<NodeCertificate>,
}

/// A connection past its handshake.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// When it is cut.
    end: Option<Pin<Box<Sleep>>>,
    metrics: FeedMetrics,
    _permit: OwnedSemaphorePermit,
    _place: Option<Place<String>>,
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
                "connections that enrol are short",
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
    let anonymous = Arc::new(Semaphore::new(limits.anonymous));
    let handshakes = Arc::new(Semaphore::new(limits.handshakes));
    let shaking = Arc::new(Taken::default());
    let by_node = Arc::new(Taken::default());
    let tasks = TaskTracker::new();
    loop {
        // Whoever comes while too many shake hands waits in the kernel's backlog.
        let next = async {
            let permit = Arc::clone(&handshakes).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
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
        let Some(place) = shaking.enter(network(address.ip()), limits.handshakes / 4) else {
            metrics.refuse(Refusal::Busy);
            continue;
        };
        let acceptor = TlsAcceptor::from(tls.load_full());
        let (known, anonymous, by_node) = (Arc::clone(&known), Arc::clone(&anonymous), Arc::clone(&by_node));
        let (metrics, out) = (metrics.clone(), out.clone());
        tasks.spawn(async move {
            let _held = (permit, place);
            let shaken = async {
                tcp.set_nodelay(true)?;
                acceptor.accept(tcp).await
            };
            let stream = match tokio::time::timeout(limits.handshake_timeout, shaken).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "handshake");
                    return metrics.refuse(Refusal::Handshake);
                }
                Err(_) => return metrics.refuse(Refusal::Handshake),
            };
            let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let certificate = leaf.and_then(|der| NodeCertificate::parse(der).ok());
            let valid = certificate.as_ref().is_some_and(|certificate| certificate.is_valid_at(unix_now()));
            let (pool, end) = if valid {
                (known, None)
            } else {
                (anonymous, Some(Box::pin(tokio::time::sleep(limits.anonymous_life))))
            };
            let Ok(permit) = pool.try_acquire_owned() else {
                tracing::warn!(%address, valid, "too many connections");
                return metrics.refuse(Refusal::Busy);
            };
            let node =
                certificate.as_ref().filter(|_| valid).map(|certificate| certificate.name.node_id.clone());
            let place = match node.map(|node| by_node.enter(node.clone(), limits.of_one_node).ok_or(node)) {
                None => None,
                Some(Ok(place)) => Some(place),
                Some(Err(node)) => {
                    tracing::warn!(%address, node, "too many connections of one node");
                    return metrics.refuse(Refusal::Busy);
                }
            };
            metrics.connections.inc();
            let peer = Peer { address, certificate };
            let connection = Connection { stream, peer, end, metrics, _permit: permit, _place: place };
            // An error means that the server has ended.
            let _ = out.send(Ok(connection)).await;
        });
    }
    tasks.close();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_cannot_take_every_handshake() {
        let shaking = Arc::new(Taken::default());
        let here: IpAddr = network("2001:db8::1".parse().unwrap());
        let held: Vec<_> = (0..2).filter_map(|_| shaking.enter(here, 2)).collect();
        assert_eq!(held.len(), 2);
        assert!(shaking.enter(network("2001:db8::2".parse().unwrap()), 2).is_none(), "the same network");
        assert!(shaking.enter(network("192.0.2.1".parse().unwrap()), 2).is_some());
        drop(held);
        assert!(shaking.enter(here, 2).is_some());
        assert!(shaking.0.lock().unwrap().is_empty());
    }
}
