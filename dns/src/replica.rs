//! The feed's view as zones.

use std::sync::Arc;

use hosting_dns_zone::{Writer, Zones};
use hosting_intent::{DnsIntent, Key, Rejection};
use hosting_intent_sync::{Batch, Replica};
use hosting_scaffold::telemetry::spans_of;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::self_check::{Context, SelfCheckMaker};

/// What is in effect: epoch and revision; `None` until anything is known.
pub type Applied = Option<(String, u64)>;

/// Puts batches of the feed into effect. Lives on the feed's thread.
#[derive(Debug)]
pub struct DnsReplica {
    writer: Writer,
    metrics: Metrics,
    applied: watch::Sender<Applied>,
    context: Arc<Context>,
}

impl DnsReplica {
    /// Around a writer whose zones are the ones served.
    #[must_use]
    pub fn new(writer: Writer, metrics: Metrics) -> Self {
        Self { writer, metrics, applied: watch::Sender::new(None), context: Arc::default() }
    }

    /// What asks the listeners at these addresses for what is applied here.
    #[must_use]
    pub fn self_check(&self) -> SelfCheckMaker {
        SelfCheckMaker(Arc::clone(&self.context))
    }

    /// What is served.
    #[must_use]
    pub fn zones(&self) -> Zones {
        self.writer.zones()
    }

    /// Follows what is in effect.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }
}

impl Replica for DnsReplica {
    type Intent = DnsIntent;

    fn check(&self, key: &Key, intent: &DnsIntent) -> Result<(), Rejection> {
        self.writer.check(key, intent)
    }

    fn publish(&mut self, batch: Batch<DnsIntent>) {
        let upserts = batch.upserts.iter().map(|(item, _)| item.traceparent.as_str());
        let traces = upserts.chain(batch.removals.iter().map(|removal| removal.traceparent.as_str()));
        let spans = spans_of(traces, || {
            tracing::info_span!(
                "dns.apply",
                revision = batch.revision,
                upserts = batch.upserts.len(),
                removals = batch.removals.len(),
            )
        });
        let _entered = spans.first().map(tracing::Span::enter);
        for removal in &batch.removals {
            self.context.forget(&removal.key);
        }
        for (item, intent) in &batch.upserts {
            self.context.put(&item.key, intent);
        }
        let applied = self.writer.apply(
            batch.upserts.iter().map(|(item, intent)| (&item.key, intent)),
            batch.removals.iter().map(|removal| &removal.key),
        );
        for (key, rejection) in &applied.rejected {
            tracing::error!(%key, %rejection, "an item that was accepted cannot be applied; the last good one stays");
        }
        let counts = self.writer.zones().counts();
        tracing::debug!(changed = applied.zones, zones = counts.zones, rrsets = counts.rrsets, "applied");
        self.metrics.applied_revision.set(i64::try_from(batch.revision).unwrap_or(i64::MAX));
        self.applied.send_replace(Some((batch.epoch, batch.revision)));
    }
}
