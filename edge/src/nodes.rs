//! The nodes as requests see them: a place at one, a connection to it, and what its answer, or none, says about it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hosting_edge_map::{Candidate, Candidates, Millis, Tenant, UnderWay};
use tokio::net::TcpStream;

use crate::exchange::Failure;
use crate::metrics::Metrics;
use crate::settings::{Settings, ms};
use crate::upstream::{IdleConnections, connect, is_ours};

/// What requests need of all nodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    /// Where [`Millis`] count from.
    start: Instant,
    idle: IdleConnections,
    connect: Duration,
    eject: Millis,
    /// Requests of one shard that may wait for a place at a node, and for how long.
    waiting: usize,
    wait: Duration,
    metrics: Metrics,
}

impl Nodes {
    pub(crate) fn new(settings: &Settings, metrics: Metrics) -> Self {
        Self {
            start: Instant::now(),
            idle: IdleConnections::new(settings.upstream_pool, ms(settings.upstream_idle_timeout_ms)),
            connect: ms(settings.connect_timeout_ms),
            eject: settings.eject_ms,
            waiting: settings.max_waiting,
            wait: ms(settings.wait_timeout_ms),
            metrics,
        }
    }

    /// Idle connections.
    pub(crate) const fn idle(&self) -> &IdleConnections {
        &self.idle
    }

    /// The time on the nodes' clock.
    pub(crate) fn now(&self) -> Millis {
        self.at(Instant::now())
    }

    fn at(&self, time: Instant) -> Millis {
        let since = time.saturating_duration_since(self.start);
        // Not 0, which is before everything.
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// A place at a node, if need be after a wait.
    pub(crate) async fn place(
        &self,
        candidates: &Candidates,
        candidate: Candidate,
    ) -> Result<Option<UnderWay>, Failure> {
        let Some(node) = candidates.node(candidate) else { return Ok(None) };
        if let Some(place) = node.begin() {
            return Ok(Some(place));
        }
        let _waiting = candidates.pool().queue(self.waiting).ok_or(Failure::Busy)?;
        self.metrics.waited.inc();
        tokio::time::timeout(self.wait, node.wait()).await.map_err(|_| Failure::Busy)
    }

    /// A new connection.
    pub(crate) async fn connect(
        &self,
        candidates: &Candidates,
        candidate: Candidate,
    ) -> io::Result<TcpStream> {
        let mut connected = connect(candidate.address, self.connect).await;
        if connected.as_ref().is_err_and(is_ours) && self.idle.give_up_one() {
            connected = connect(candidate.address, self.connect).await;
        }
        connected.inspect_err(|error| {
            if is_ours(error) {
                tracing::warn!(%error, "no connection to a node can be made; raise LimitNOFILE, or lower upstream_pool or max_connections");
                return;
            }
            let Some(node) = candidates.node(candidate) else { return };
            let now = self.now();
            if !node.is_ejected(now) {
                tracing::warn!(node = %node.id, address = %candidate.address, %error, "node takes no connections; out of rotation for a while");
                self.metrics.ejections.inc();
            }
            node.failed(now, self.eject);
        })
    }

    /// The node answered a request at `time`.
    pub(crate) fn answered(&self, candidates: &Candidates, candidate: Candidate, time: Instant) {
        if let Some(node) = candidates.node(candidate) {
            node.answered(self.at(time));
        }
    }

    /// A request was sent, and no answer came. One tenant's alone say nothing of the node: they may make its application fall over.
    pub(crate) fn left_unanswered(
        &self,
        candidates: &Candidates,
        candidate: Candidate,
        tenant: Option<&Arc<Tenant>>,
    ) {
        let Some((node, tenant)) = candidates.node(candidate).zip(tenant) else { return };
        // The cell's place in memory is the tenant's alone as long as a request of it is under way.
        let tenant = Arc::as_ptr(tenant).addr() as u64;
        if node.left_unanswered(tenant, self.now(), self.eject) {
            tracing::warn!(node = %node.id, "node left requests of several tenants unanswered; out of rotation for a while");
            self.metrics.ejections.inc();
        }
    }
}
