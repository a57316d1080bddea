//! The memory that clients take together, counted while the edge serves.
//!
//! Connections, handshakes and requests draw on one [`Account`]. Its costs are upper bounds of what each can hold, so that a client that holds
//! as much as it can is counted for that. How large the account is says the budget (`budget.rs`).

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;

const KIB: usize = 1_024;

/// A connection without TLS: its task, and the first read of a head.
pub(crate) const CONNECTION: usize = 16 * KIB;
/// The same with TLS: also the session, and a record whose end is missing.
pub(crate) const TLS_CONNECTION: usize = 36 * KIB;
/// A TLS handshake under way: a message of it may be 64 KiB.
pub(crate) const HANDSHAKE: usize = 96 * KIB;
/// A connection of HTTP/3, its handshake included, without requests.
pub(crate) const HTTP3_CONNECTION: usize = 96 * KIB;
/// What a connection of HTTP/2 with requests may have received and not passed on, and what is gathered for its client.
pub(crate) const HTTP2_WINDOW: usize = 96 * KIB;
/// What a connection of HTTP/3 with requests may have sent and not heard of.
pub(crate) const HTTP3_WINDOW: usize = 64 * KIB;
/// What a TLS session holds for a client that does not read.
pub(crate) const UNREAD: usize = 96 * KIB;
/// Of a connection's own buffers, so much is in its cost.
pub(crate) const FREE: usize = 4 * KIB;
/// A request of HTTP/2 or HTTP/3 without its fields: its task is 9 KiB.
pub(crate) const STREAM: usize = 16 * KIB;
/// What HTTP/2's library keeps of each stream that a connection had at once, to the connection's end.
pub(crate) const STREAM_PLACE: usize = 2 * KIB;
/// A request at a node, without its buffers.
pub(crate) const EXCHANGE: usize = 8 * KIB;
/// A WebSocket's buffers, both ways.
pub(crate) const TUNNEL: usize = 24 * KIB;

/// What is held of the account, and what was refused for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryMetrics {
    held: Gauge,
    limit: Gauge,
    /// Connections that were refused.
    refused: Counter,
    /// Requests, and bytes of requests, that there was no memory for.
    denied: Counter,
    /// Idle connections that were closed to make room.
    pub(crate) made_room: Counter,
    /// Connections that were cut because they held most.
    pub(crate) cut: Counter,
}

impl MemoryMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "hosting_edge_memory_held_bytes",
            "Memory that connections and requests are counted for",
            metrics.held.clone(),
        );
        registry.register(
            "hosting_edge_memory_limit_bytes",
            "Memory that connections and requests may take: memory_bytes without what is set aside",
            metrics.limit.clone(),
        );
        registry.register(
            "hosting_edge_memory_connections_refused",
            "Connections refused because there was no memory for them",
            metrics.refused.clone(),
        );
        registry.register(
            "hosting_edge_memory_requests_refused",
            "Requests refused, or ended, because there was no memory for them",
            metrics.denied.clone(),
        );
        registry.register(
            "hosting_edge_memory_idle_closed",
            "Idle connections closed to make room",
            metrics.made_room.clone(),
        );
        registry.register(
            "hosting_edge_memory_connections_cut",
            "Connections cut because they held most of the memory",
            metrics.cut.clone(),
        );
        metrics
    }
}

/// Memory that connections and requests draw on.
#[derive(Debug)]
pub(crate) struct Account {
    limit: usize,
    metrics: MemoryMetrics,
    /// A request found no memory since the last look.
    is_short: AtomicBool,
    pressed: Notify,
}

impl Account {
    pub(crate) fn new(limit: usize, metrics: MemoryMetrics) -> Self {
        metrics.limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
        Self { limit, metrics, is_short: AtomicBool::new(false), pressed: Notify::new() }
    }

    pub(crate) const fn metrics(&self) -> &MemoryMetrics {
        &self.metrics
    }

    fn held(&self) -> &AtomicI64 {
        self.metrics.held.inner()
    }

    fn take(&self, bytes: usize, most: usize) -> bool {
        let (bytes, most) =
            (i64::try_from(bytes).unwrap_or(i64::MAX), i64::try_from(most).unwrap_or(i64::MAX));
        let fits = |held: i64| held.checked_add(bytes).filter(|then| *then <= most);
        self.held().fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    /// For a new connection, which leaves an eighth to the requests of those that are here.
    pub(crate) fn admit(&self, bytes: usize) -> bool {
        let is_taken = self.take(bytes, self.limit / 8 * 7);
        if !is_taken {
            self.metrics.refused.inc();
            self.pressed.notify_one();
        }
        is_taken
    }

    /// For what a connection or a request has come to hold.
    pub(crate) fn grow(&self, bytes: usize) -> bool {
        let is_taken = self.take(bytes, self.limit);
        if !is_taken {
            self.metrics.denied.inc();
            self.is_short.store(true, Ordering::Relaxed);
            self.pressed.notify_one();
        }
        is_taken
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        self.held().fetch_sub(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Ends when somebody found no memory.
    pub(crate) async fn pressed(&self) {
        self.pressed.notified().await;
    }

    /// How much should be given back, so that a quarter is free.
    pub(crate) fn excess(&self) -> usize {
        let held = usize::try_from(self.held().load(Ordering::Relaxed)).unwrap_or_default();
        held.saturating_sub(self.limit / 4 * 3)
    }

    /// Whether a request found no memory since this was asked last.
    pub(crate) fn take_shortage(&self) -> bool {
        self.is_short.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_connections_leave_an_eighth_to_requests() {
        let account = Account::new(800, MemoryMetrics::default());
        assert!(account.admit(700) && !account.admit(1));
        assert!(account.grow(100) && !account.grow(1));
        assert_eq!((account.excess(), account.take_shortage(), account.take_shortage()), (200, true, false));
        account.give_back(800);
        assert!(account.admit(1));
        assert_eq!(account.excess(), 0);
    }
}
