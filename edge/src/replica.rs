//! The edge's side of the feed: a batch in, a table and certificates out.

use std::sync::Arc;

use hosting_edge_map::{Writer, check};
use hosting_intent::{EdgeIntent, EdgeKind, Key, Rejection};
use hosting_intent_sync::client::AudienceKeys;
use hosting_intent_sync::{Batch, Replica};
use hosting_scaffold::telemetry::spans_of;
use tokio::sync::watch;

use crate::certs::CertStore;
use crate::metrics::{Metrics, gauge};
use crate::self_check::HostsOf;
use crate::tenant_certs;

/// Puts batches into effect. The only writer of the table.
#[derive(Debug)]
pub struct EdgeReplica {
    writer: Writer,
    certs: Arc<CertStore>,
    keys: AudienceKeys,
    metrics: Metrics,
    loaded: watch::Sender<bool>,
    hosts: Arc<HostsOf>,
}

impl EdgeReplica {
    /// `loaded` turns true with the first batch: not yet known is never empty.
    #[must_use]
    pub fn new(
        writer: Writer,
        certs: Arc<CertStore>,
        keys: AudienceKeys,
        metrics: Metrics,
    ) -> (Self, watch::Receiver<bool>) {
        let (loaded, is_loaded) = watch::channel(false);
        (Self { writer, certs, keys, metrics, loaded, hosts: Arc::default() }, is_loaded)
    }

    /// By which hosts it shows what is applied.
    pub(crate) fn hosts(&self) -> Arc<HostsOf> {
        Arc::clone(&self.hosts)
    }
}

impl Replica for EdgeReplica {
    type Intent = EdgeIntent;

    fn check(&self, key: &Key, intent: &EdgeIntent) -> Result<(), Rejection> {
        if let EdgeIntent::Certificate(certificate) = intent {
            tenant_certs::open(&self.keys, key, certificate)?;
        }
        check(intent)
    }

    fn publish(&mut self, batch: Batch<EdgeIntent>) {
        let upserts = batch.upserts.iter().map(|(item, _)| item.traceparent.as_str());
        let traces = upserts.chain(batch.removals.iter().map(|removal| removal.traceparent.as_str()));
        let spans = spans_of(traces, || {
            tracing::info_span!(
                "edge.apply",
                revision = batch.revision,
                upserts = batch.upserts.len(),
                removals = batch.removals.len()
            )
        });
        let _entered = spans.first().map(tracing::Span::enter);

        let added = batch.upserts.iter().filter(|(_, intent)| matches!(intent, EdgeIntent::Route(_)));
        let removed =
            batch.removals.iter().filter(|removal| EdgeKind::of(&removal.key) == Some(EdgeKind::Route));
        self.writer.apply(&batch.upserts, &batch.removals);
        for (item, intent) in &batch.upserts {
            if matches!(intent, EdgeIntent::TenantState(_) | EdgeIntent::ShardPool(_)) {
                self.hosts.note(item.key.clone(), self.writer.host_of(&item.key));
            }
            if let EdgeIntent::ShardPool(pool) = intent {
                self.hosts.note_pool(&item.key.name, Some(pool));
            }
        }
        // After the table, because names in no route are not signed; before the batch counts as applied, so that whoever waits
        // for it can shake hands.
        self.certs.apply(
            added.map(|(item, _)| item.key.name.as_str()),
            removed.map(|removal| removal.key.name.as_str()),
        );
        for (item, intent) in &batch.upserts {
            let EdgeIntent::Certificate(certificate) = intent else { continue };
            match tenant_certs::open(&self.keys, &item.key, certificate) {
                Ok(key) => self.certs.tenants().put(&item.key.name, certificate, key),
                // It opened when it was checked.
                Err(error) => tracing::error!(%error, key = %item.key, "a certificate is not shown"),
            }
        }
        for removal in &batch.removals {
            if EdgeKind::of(&removal.key) == Some(EdgeKind::ShardPool) {
                self.hosts.note_pool(&removal.key.name, None);
            }
            if EdgeKind::of(&removal.key) == Some(EdgeKind::Certificate) {
                self.certs.tenants().remove(&removal.key.name);
            }
        }
        self.metrics.tenant_certificates.set(gauge(self.certs.tenants().len()));
        let sizes = self.writer.sizes();
        self.metrics.routes.set(gauge(sizes.routes));
        self.metrics.tenants.set(gauge(sizes.tenants));
        self.metrics.pools.set(gauge(sizes.pools));
        self.metrics.applied_revision.set(i64::try_from(batch.revision).unwrap_or(i64::MAX));
        tracing::debug!(
            revision = batch.revision,
            epoch = batch.epoch,
            upserts = batch.upserts.len(),
            removals = batch.removals.len(),
            "applied"
        );
        self.loaded.send_if_modified(|loaded| !std::mem::replace(loaded, true));
    }
}
