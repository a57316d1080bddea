//! What the feed counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How a session began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Resume {
    /// From its position in the log.
    Delta,
    /// From the start, although it had a position.
    Snapshot,
    /// From the start: it had nothing.
    New,
    /// From the start and apart from the others: it says that it is ahead of the store and cannot prove it.
    Apart,
}

/// Why somebody was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Refusal {
    /// No certificate, or an expired one.
    Unauthenticated,
    /// The registry does not know the node.
    Revoked,
    /// The certificate is of an enrolment that another one has replaced.
    Replaced,
    /// Not an audience of the node.
    Audience,
    /// A bad, used or expired token.
    Token,
    /// Too many failed enrolments.
    Rate,
    /// Too many connections or snapshots.
    Busy,
    /// The TLS handshake failed.
    Handshake,
    /// The subscriber broke the protocol.
    Protocol,
}

/// Which certificate was issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Issued {
    /// For a join token.
    Enrolled,
    /// For a certificate before it.
    Renewed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ResumeLabel {
    kind: Resume,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RefusalLabel {
    reason: Refusal,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct IssuedLabel {
    kind: Issued,
}

/// Counters and gauges of the feed. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct FeedMetrics {
    pub(crate) connections: Gauge,
    pub(crate) sessions: Gauge,
    pub(crate) snapshots_running: Gauge,
    pub(crate) resumes: Family<ResumeLabel, Counter>,
    pub(crate) frames: Counter,
    pub(crate) bytes: Counter<u64, AtomicU64>,
    pub(crate) ring_hits: Counter,
    pub(crate) ring_misses: Counter,
    pub(crate) issued: Family<IssuedLabel, Counter>,
    pub(crate) refused: Family<RefusalLabel, Counter>,
    pub(crate) reports: Counter,
}

impl FeedMetrics {
    /// Registers everything under `feed_`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let feed = registry.sub_registry_with_prefix("feed");
        feed.register("connections", "Open connections", metrics.connections.clone());
        feed.register("sessions", "Subscriptions that stand", metrics.sessions.clone());
        feed.register("snapshots_running", "Snapshots being sent", metrics.snapshots_running.clone());
        feed.register("resumes", "Sessions by how they began", metrics.resumes.clone());
        feed.register("frames", "Frames sent", metrics.frames.clone());
        feed.register("sent_bytes", "Bytes of frames sent", metrics.bytes.clone());
        feed.register("ring_hits", "Revisions sent from memory", metrics.ring_hits.clone());
        feed.register("ring_misses", "Positions behind the ring", metrics.ring_misses.clone());
        feed.register("certificates", "Certificates issued to nodes", metrics.issued.clone());
        feed.register("refused", "Calls and connections turned away", metrics.refused.clone());
        feed.register("reports", "Reports of nodes taken in", metrics.reports.clone());
        metrics
    }

    pub(crate) fn refuse(&self, reason: Refusal) {
        self.refused.get_or_create(&RefusalLabel { reason }).inc();
    }

    pub(crate) fn resume(&self, kind: Resume) {
        self.resumes.get_or_create(&ResumeLabel { kind }).inc();
    }

    pub(crate) fn issue(&self, kind: Issued) {
        self.issued.get_or_create(&IssuedLabel { kind }).inc();
    }
}
