//! QUIC beneath HTTP/3: which attempts at a connection are looked at, the handshake, and the limits on what a client sends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hosting_edge_map::{Host, Routing, parse_host};
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{
    Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime,
    TransportConfig, TransportErrorCode, VarInt,
};

use crate::metrics::Metrics;
use crate::quic_socket::QuicSocket;
use crate::settings::{Settings, ms};
use crate::windows::{LARGE, SMALL};

/// Handshakes at once with addresses that may be somebody else's. Above that a client shows first that it gets what is sent to it
/// (RFC 9000 §8.1.2), which costs it a round trip and the edge nothing that it would have to keep.
const HALF_OPEN: usize = 256;
/// Streams of one direction at once: a client needs three, and may try what nobody knows (RFC 9114 §6.2).
const SINGLE_STREAMS: u8 = 8;
/// Bytes that are kept of a client whose first packet was not looked at yet, and of all such clients.
const EARLY: u64 = 16 * 1_024;
const ALL_EARLY: u64 = 4 * 1_024 * 1_024;
/// Shorter times without a packet end connections on ways that lose some.
const SHORTEST_IDLE: Duration = Duration::from_secs(5);
/// The alert for a name in no route, which rustls sends when there is no certificate (RFC 8446 §6.2).
const ACCESS_DENIED: u8 = 49;

/// Takes QUIC connections.
#[derive(Debug)]
pub(crate) struct Quic {
    config: ServerConfig,
    half_open: Arc<AtomicUsize>,
    most_half_open: usize,
    routing: Arc<Routing>,
    limit: Duration,
    metrics: Metrics,
}

/// A place among the handshakes with addresses that may be somebody else's.
#[derive(Debug)]
pub(crate) struct HalfOpen(Arc<AtomicUsize>);

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Quic {
    /// # Errors
    /// The library has no cipher suite that QUIC begins with.
    pub(crate) fn new(
        tls: Arc<rustls::ServerConfig>,
        routing: Arc<Routing>,
        settings: &Settings,
        metrics: Metrics,
    ) -> Result<Self, rustls::Error> {
        let crypto =
            QuicServerConfig::try_from(tls).map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config
            .transport_config(Arc::new(transport(settings)))
            // Other ports of the same address: those that routers change without being asked. Another address ends the connection
            // (`h3::serve`).
            .migration(true)
            .incoming_buffer_size(EARLY)
            .incoming_buffer_size_total(ALL_EARLY);
        Ok(Self {
            config,
            half_open: Arc::default(),
            // So few that addresses which are not the sender's take nobody's share of the connections.
            most_half_open: HALF_OPEN.min(settings.per_network() / 2),
            routing,
            limit: ms(settings.handshake_timeout_ms),
            metrics,
        })
    }

    /// Takes packets from here on.
    pub(crate) fn open(&self, socket: Arc<QuicSocket>) -> io::Result<Endpoint> {
        let mut config = EndpointConfig::default();
        let ids = socket.ids();
        config.cid_generator(move || Box::new(ids));
        Endpoint::new_with_abstract_socket(config, Some(self.config.clone()), socket, Arc::new(TokioRuntime))
    }

    /// How long a handshake may take.
    pub(crate) const fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether an attempt is looked at now: with a place if its address may be somebody else's. `None`: it was told to come back
    /// with what shows that the address is its own.
    pub(crate) fn look_at(&self, incoming: Incoming) -> Option<(Incoming, Option<HalfOpen>)> {
        if incoming.remote_address_validated() {
            return Some((incoming, None));
        }
        let place = HalfOpen(Arc::clone(&self.half_open));
        if self.half_open.fetch_add(1, Ordering::Relaxed) < self.most_half_open {
            return Some((incoming, Some(place)));
        }
        self.metrics.http3_retries.inc();
        // Who did not come with a token can be sent away for one.
        let _ = incoming.retry();
        None
    }

    /// The whole handshake, within the limit. With the connection comes the name that it was made for, unless the default
    /// certificate was served.
    pub(crate) async fn handshake(&self, incoming: Incoming) -> Option<(Connection, Option<Arc<str>>)> {
        let peer = incoming.remote_address();
        // A first packet that says everything may fail at once.
        let connect = async { incoming.accept()?.await };
        match tokio::time::timeout(self.limit, connect).await {
            Ok(Ok(conn)) => {
                self.metrics.handshakes.inc();
                let name = self.name(&conn);
                Some((conn, name))
            }
            Ok(Err(ConnectionError::TransportError(error)))
                if error.code == TransportErrorCode::crypto(ACCESS_DENIED) =>
            {
                self.metrics.handshakes_unknown.inc();
                None
            }
            // Nobody answered. That is what anybody can have happen with addresses of others, so it says nothing of how clients fare.
            Ok(Err(ConnectionError::TimedOut)) | Err(_) => None,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "QUIC handshake failed");
                self.metrics.handshakes_failed.inc();
                None
            }
        }
    }

    fn name(&self, conn: &Connection) -> Option<Arc<str>> {
        let said = conn.handshake_data()?.downcast::<HandshakeData>().ok()?.server_name?;
        match parse_host(said.as_bytes()) {
            Ok(Host::Name(name)) => self.routing.knows(&name).then(|| Arc::from(&*name)),
            Ok(Host::Address(_)) | Err(_) => None,
        }
    }
}

fn transport(settings: &Settings) -> TransportConfig {
    let idle = ms(settings.idle_timeout_ms).max(SHORTEST_IDLE);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(settings.h2_max_streams.max(1).into())
        .max_concurrent_uni_streams(SINGLE_STREAMS.into())
        // Without a packet for so long the client is gone. One that is there answers, also while a node takes its time.
        .max_idle_timeout(IdleTimeout::try_from(idle).ok())
        .keep_alive_interval(Some(idle / 3))
        // What all streams have under way together is bounded by the connection's windows, small until there is memory for more.
        .stream_receive_window(LARGE.into())
        .receive_window(SMALL.into())
        .send_window(SMALL.into())
        .datagram_receive_buffer_size(None);
    transport
}

/// The connection has a share of the memory for large windows: both ways.
pub(crate) fn enlarge(conn: &Connection) {
    conn.set_receive_window(LARGE.into());
    conn.set_send_window(LARGE.into());
}

/// What a connection with a share takes of the memory.
pub(crate) const SHARE: u32 = 2 * LARGE;

/// An error code as QUIC has it.
pub(crate) fn code(code: hosting_edge_http3::Code) -> VarInt {
    VarInt::from_u32(code as u32)
}
