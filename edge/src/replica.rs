//! The edge's side of the feed: a batch in, a table and certificates out.

use std::cmp::Reverse;
use std::sync::Arc;

use hosting_edge_map::{Writer, check};
use hosting_intent::{EdgeIntent, EdgeKind, Key, Rejection};
use hosting_intent_sync::client::AudienceKeys;
use hosting_intent_sync::{Batch, Replica};
use hosting_scaffold::telemetry::spans_of;
use tokio::sync::watch;

use crate::certs::CertStore;
use crate::metrics::{Metrics, gauge};
use crate::self_check::{HOSTS, HostsOf};
use crate::tenant_certs;
use crate::tickets;

/// Puts batches into effect. The only writer of the table.
#[derive(Debug)]
pub struct EdgeReplica {
    writer: Writer,
    certs: Arc<CertStore>,
    keys: AudienceKeys,
    metrics: Metrics,
    loaded: watch::Sender<bool>,
    hosts: Arc<HostsOf>,
    /// Of the pieces of a view that is not whole yet, the newest tenants and shards: by which host they show is known at its end.
    shown: Vec<(u64, Key)>,
}

impl EdgeReplica {
    /// `loaded` turns true with the first whole batch: not yet known is never empty.
    #[must_use]
    pub fn new(
        writer: Writer,
        certs: Arc<CertStore>,
        keys: AudienceKeys,
        metrics: Metrics,
    ) -> (Self, watch::Receiver<bool>) {
        let (loaded, is_loaded) = watch::channel(false);
        (Self { writer, certs, keys, metrics, loaded, hosts: Arc::default(), shown: Vec::new() }, is_loaded)
    }

    /// By which hosts it shows what is applied.
    pub(crate) fn hosts(&self) -> Arc<HostsOf> {
        Arc::clone(&self.hosts)
    }
}

impl Replica for EdgeReplica {
    type Intent = EdgeIntent;
    // Listeners are opened when all of it is there.
    const PIECES: Option<usize> = Some(256);

    fn check(&self, key: &Key, intent: &EdgeIntent) -> Result<(), Rejection> {
        match intent {
            EdgeIntent::Certificate(certificate) => tenant_certs::check(&self.keys, key, certificate)?,
            EdgeIntent::TicketKeys(shared) => tickets::check(&self.keys, key, shared)?,
            EdgeIntent::TrustRoots(_)
            | EdgeIntent::Brand(_)
            | EdgeIntent::EdgeCount(_)
            | EdgeIntent::TenantState(_)
            | EdgeIntent::Route(_)
            | EdgeIntent::ShardPool(_)
            | EdgeIntent::AudienceKey(_)
            | EdgeIntent::EdgeSettings(_)
            | EdgeIntent::AcmeChallenge(_) => {}
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

        for (item, intent) in &batch.upserts {
            if matches!(intent, EdgeIntent::TenantState(_) | EdgeIntent::ShardPool(_)) {
                self.shown.push((item.revision, item.key.clone()));
            }
            if let EdgeIntent::ShardPool(pool) = intent {
                self.hosts.note_pool(&item.key.name, Some(pool));
            }
        }
        if self.shown.len() > HOSTS {
            self.shown.sort_by_key(|(revision, _)| Reverse(*revision));
            self.shown.truncate(HOSTS);
        }
        if batch.more {
            self.writer.stage(&batch.upserts);
        } else {
            self.writer.apply(&batch.upserts, &batch.removals);
            for (_, key) in std::mem::take(&mut self.shown) {
                let host = self.writer.host_of(&key);
                self.hosts.note(key, host);
            }
        }
        for (item, intent) in &batch.upserts {
            if let EdgeIntent::AcmeChallenge(challenge) = intent {
                self.certs.challenges().put(&item.key.name, challenge);
            }
            if let EdgeIntent::TicketKeys(shared) = intent
                && let Err(error) = self.certs.tickets().put(&self.keys, &item.key, shared)
            {
                tracing::error!(%error, "session tickets stay as they were");
            }
            let EdgeIntent::Certificate(certificate) = intent else { continue };
            let shown = tenant_certs::private_key(&self.keys, &item.key, certificate)
                .and_then(|key| self.certs.tenants().put(&item.key.name, certificate, key));
            if let Err(error) = shown {
                // It opened when it was checked.
                tracing::error!(%error, key = %item.key, "a certificate is not shown");
            }
        }
        for removal in &batch.removals {
            match EdgeKind::of(&removal.key) {
                Some(EdgeKind::ShardPool) => self.hosts.note_pool(&removal.key.name, None),
                Some(EdgeKind::AcmeChallenge) => self.certs.challenges().remove(&removal.key.name),
                Some(EdgeKind::TicketKeys) => self.certs.tickets().clear(),
                Some(EdgeKind::Certificate) => self.certs.tenants().remove(&removal.key.name),
                Some(EdgeKind::Route) => self.certs.forget(&removal.key.name),
                Some(
                    EdgeKind::TrustRoots
                    | EdgeKind::Brand
                    | EdgeKind::EdgeCount
                    | EdgeKind::TenantState
                    | EdgeKind::AudienceKey
                    | EdgeKind::EdgeSettings,
                )
                | None => {}
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
        if !batch.more {
            self.loaded.send_if_modified(|loaded| !std::mem::replace(loaded, true));
        }
    }
}

#[cfg(test)]
mod tests {
    use hosting_edge_map::Routing;
    use hosting_intent::message::{Route, State, TenantState};
    use hosting_intent::{Bytes, Cause, Item, Kind};
    use hosting_scaffold::admin;

    use super::*;
    use crate::certs::DevCa;

    fn batch(more: bool, upserts: Vec<(Key, EdgeIntent)>) -> Batch<EdgeIntent> {
        let item = |key| Item {
            key,
            revision: 1,
            value: Bytes::new(),
            cause: Cause::Person,
            traceparent: String::new(),
            rollout: 0,
        };
        let upserts = upserts.into_iter().map(|(key, intent)| (item(key), intent)).collect();
        Batch { epoch: "e".into(), revision: 1, upserts, removals: Vec::new(), more }
    }

    fn route(host: &str) -> (Key, EdgeIntent) {
        let route = Route { tenant_id: "t_a".into(), ..Route::default() };
        (Key::new(Kind::Route, host), EdgeIntent::Route(route))
    }

    #[test]
    fn a_view_in_pieces_is_loaded_and_seen_with_its_last_piece_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let (routing, writer) = Routing::new(16);
        let metrics = Metrics::new(&admin::Metrics::new());
        let ca = DevCa::load_or_make(&dir.path().join("ca.pem"), &dir.path().join("ca.key")).unwrap();
        let certs = CertStore::new(ca, Arc::clone(&routing), 10, metrics.clone()).unwrap();
        let keys = AudienceKeys::load(dir.path()).unwrap();
        let (mut replica, loaded) = EdgeReplica::new(writer, Arc::clone(&certs), keys, metrics);
        let tenant = Key::new(Kind::TenantState, "t_a");
        let state = TenantState { state: State::Suspended as i32, ..TenantState::default() };
        let state = (tenant.clone(), EdgeIntent::TenantState(state));
        for piece in [vec![state], vec![route("a.example"), route("b.example")]] {
            replica.publish(batch(true, piece));
            assert!(!*loaded.borrow() && routing.is_empty() && !routing.knows("a.example"));
        }
        replica.publish(batch(false, vec![route("c.example")]));
        assert!(*loaded.borrow());
        for host in ["a.example", "b.example", "c.example"] {
            assert!(routing.seen(host).contains(&"suspended true".to_owned()), "{host}");
        }
        assert!(
            replica.hosts().get(&tenant).flatten().is_some(),
            "the self-check knows a host of the tenant"
        );
        replica.publish(batch(false, vec![route("d.example")]));
        assert!(routing.knows("d.example") && certs.get("d.example", &[]).is_some());
    }
}
