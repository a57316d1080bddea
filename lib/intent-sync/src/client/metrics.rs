//! What a subscriber counts.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::subscriber::{Counters, Status};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum ResumeKind {
    Delta,
    Snapshot,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Resume {
    kind: ResumeKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Why {
    Rejected,
    Held,
    Unsupported,
    Waiting,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Exception {
    why: Why,
}

/// Counters and gauges of one subscription. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ClientMetrics {
    pub(super) connected: Gauge,
    pub(super) frames: Counter,
    pub(super) renewals: Counter,
    pub(super) certificate_end: Gauge,
    sessions: Counter,
    resumes: Family<Resume, Counter>,
    deltas: Counter,
    digest_mismatches: Counter,
    gaps: Counter,
    rejected: Counter,
    ledger_failures: Counter,
    position: Gauge,
    durable: Gauge,
    head: Gauge,
    items: Gauge,
    exceptions: Family<Exception, Gauge>,
    disk_alarm: Gauge,
    /// What the counters show so far.
    shown: Arc<Mutex<Counters>>,
}

impl ClientMetrics {
    /// Registers everything under `intent_`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let intent = registry.sub_registry_with_prefix("intent");
        intent.register("connected", "1 while a session stands", metrics.connected.clone());
        intent.register("frames", "Frames received", metrics.frames.clone());
        intent.register("renewals", "Certificates renewed", metrics.renewals.clone());
        intent.register(
            "certificate_end_seconds",
            "When the certificate ends, seconds since the Unix epoch",
            metrics.certificate_end.clone(),
        );
        intent.register("sessions", "Sessions that began", metrics.sessions.clone());
        intent.register(
            "resumes",
            "How the view was brought up to date: delta, from its position; snapshot, from the start",
            metrics.resumes.clone(),
        );
        intent.register("deltas", "Revisions put into effect from the log", metrics.deltas.clone());
        intent.register(
            "digest_mismatches",
            "Bookmarks that differed from the view",
            metrics.digest_mismatches.clone(),
        );
        intent.register("gaps", "Frames that did not start where the view stands", metrics.gaps.clone());
        intent.register("rejected", "Items rejected", metrics.rejected.clone());
        intent.register(
            "ledger_failures",
            "Writes of the ledger that failed",
            metrics.ledger_failures.clone(),
        );
        intent.register("position", "Revision in effect", metrics.position.clone());
        intent.register("durable", "Revision on disk", metrics.durable.clone());
        intent.register("head", "Newest revision of the cell that a bookmark covered", metrics.head.clone());
        intent.register("items", "Items in effect", metrics.items.clone());
        intent.register("exceptions", "Items that are not in effect, by reason", metrics.exceptions.clone());
        intent.register("disk_alarm", "1 while the ledger cannot be written", metrics.disk_alarm.clone());
        metrics
    }

    pub(super) fn show(&self, status: &Status) {
        let revision =
            |position: Option<&crate::subscriber::Position>| gauge(position.map_or(0, |p| p.revision));
        self.position.set(revision(status.position.as_ref()));
        self.durable.set(revision(status.durable.as_ref()));
        self.head.set(gauge(status.head));
        self.items.set(gauge(status.effective));
        self.disk_alarm.set(i64::from(status.disk_alarm.is_some()));
        let exceptions = [
            (Why::Rejected, status.rejected),
            (Why::Held, status.held),
            (Why::Unsupported, status.unsupported),
            (Why::Waiting, status.waiting),
        ];
        for (why, count) in exceptions {
            self.exceptions.get_or_create(&Exception { why }).set(gauge(count));
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, now) = (std::mem::replace(&mut *shown, status.counters), status.counters);
        drop(shown);
        self.sessions.inc_by(now.sessions.saturating_sub(before.sessions));
        self.deltas.inc_by(now.deltas.saturating_sub(before.deltas));
        self.digest_mismatches.inc_by(now.digest_mismatches.saturating_sub(before.digest_mismatches));
        self.gaps.inc_by(now.gaps.saturating_sub(before.gaps));
        self.rejected.inc_by(now.rejected.saturating_sub(before.rejected));
        self.ledger_failures.inc_by(now.ledger_failures.saturating_sub(before.ledger_failures));
        let resumes = [
            (ResumeKind::Delta, now.resumed.saturating_sub(before.resumed)),
            (ResumeKind::Snapshot, now.snapshots.saturating_sub(before.snapshots)),
        ];
        for (kind, more) in resumes {
            self.resumes.get_or_create(&Resume { kind }).inc_by(more);
        }
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
