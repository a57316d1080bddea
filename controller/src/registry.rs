//! What the feed asks of the store: who is a node, which tokens are good, where positions go, what a commit touched.

use std::sync::Arc;

use async_trait::async_trait;
use hosting_feed::FeedDeps;
use hosting_feed::registry::{
    Doorbell, JoinTokens, Keys, NodeRecord, Nodes, RegistryError, Reported, StatusSink, TokenUse, Touched,
    Watermark,
};
use hosting_intent::Audience;
use hosting_intent::edge_key::ClusterEdgeKey;
use hosting_intent_sync::tls;
use hosting_planner::{Admitted, World};
use hosting_proto::feed::{self, ReportRequest};
use hosting_store::{Commit, Enrolled, FleetOrder, Origin, ReportChange, Store, Traffic, TrafficReport};
use prost::Message as _;
use tokio::sync::broadcast::{self, error::RecvError};
use zeroize::Zeroizing;

use crate::fleet::FleetView;
use crate::node_record::record;

/// The store, as the feed sees it.
#[derive(Clone)]
pub(crate) struct Registry {
    store: Store,
    view: Arc<FleetView>,
}

impl Registry {
    pub(crate) const fn new(store: Store, view: Arc<FleetView>) -> Self {
        Self { store, view }
    }
}

impl Registry {
    /// When a node was made (milliseconds since the Unix epoch), and by which revision; zeros if there is none.
    async fn born(&self, node_id: &str) -> Result<(i64, u64), RegistryError> {
        let node = self.store.read().await.map_err(failed)?.resource(node_id).await.map_err(failed)?;
        Ok(node.map_or((0, 0), |node| (node.created_at, node.created_revision)))
    }
}

impl Registry {
    /// The machine that enrolled before, in the same role or in any, no longer opens what is sealed from now on.
    async fn expel_former(&self, node_id: &str, role: &str) -> Result<(), RegistryError> {
        let Some(record) = self.node(node_id).await? else { return Ok(()) };
        let mut former = Vec::new();
        for audience in record.audiences(node_id) {
            let is_of_role = role.is_empty() || audience.role().name() == role;
            if is_of_role && self.store.sealing_key(&audience, node_id).await.map_err(failed)?.is_some() {
                former.push(audience);
            }
        }
        if former.is_empty() {
            return Ok(());
        }
        let node = node_id.to_owned();
        self.store
            .write(Origin::default(), move |tx| {
                Box::pin(async move { hosting_planner::expel_reader(tx, &node, former).await })
            })
            .await
            .map_err(failed)?;
        Ok(())
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> RegistryError {
    RegistryError::from(Box::<dyn std::error::Error + Send + Sync>::from(error))
}

#[async_trait]
impl Nodes for Registry {
    async fn node(&self, node_id: &str) -> Result<Option<NodeRecord>, RegistryError> {
        let mut tx = self.store.read().await.map_err(failed)?;
        let Some(node) = tx.resource(node_id).await.map_err(failed)? else { return Ok(None) };
        let Some(mut record) = record(&node) else { return Ok(None) };
        for enrolled in tx.enrolments(node_id).await.map_err(failed)? {
            // Of a node of the same id that was deleted: none of its certificates is good, whatever the clock said.
            let is_former = enrolled.incarnation != node.created_revision;
            let since = enrolled.at.saturating_add(i64::from(is_former));
            let known = record.good_since.entry(enrolled.role).or_insert(since);
            *known = since.max(*known);
        }
        Ok(Some(record))
    }

    async fn enrol(&self, node_id: &str, role: &str) -> Result<i64, RegistryError> {
        let (created_at, incarnation) = self.born(node_id).await?;
        let at = self.store.now().max(created_at);
        let enrolled = Enrolled { role: role.to_owned(), at, incarnation };
        let at = self.store.enrol(node_id, enrolled).await.map_err(failed)?;
        if self.store.is_shared() {
            let order = FleetOrder::SendAway {
                node: node_id.to_owned(),
                role: role.to_owned(),
                reason: format!("node {node_id} was joined anew; another machine may have taken its place"),
            };
            self.store.order(order).await.map_err(failed)?;
        }
        self.expel_former(node_id, role).await?;
        Ok(at)
    }

    async fn learn(&self, node_id: &str, enrolled: &tls::Enrolled) -> Result<(), RegistryError> {
        let (_, incarnation) = self.born(node_id).await?;
        let enrolled = Enrolled { role: enrolled.role.clone(), at: enrolled.at, incarnation };
        tracing::info!(node = node_id, role = enrolled.role, "an enrolment that the store did not know");
        self.store.learn_enrolment(node_id, enrolled).await.map_err(failed)
    }

    async fn reads_with(
        &self,
        node_id: &str,
        audience: &Audience,
        sealing_key: &[u8; 32],
    ) -> Result<(), RegistryError> {
        if self.store.sealing_key(audience, node_id).await.map_err(failed)?.as_ref() == Some(sealing_key) {
            return Ok(());
        }
        let (node, audience, key) = (node_id.to_owned(), audience.clone(), *sealing_key);
        let admitted = self
            .store
            .write(Origin::default(), move |tx| {
                Box::pin(async move { hosting_planner::admit_reader(tx, &audience, &node, &key).await })
            })
            .await
            .map_err(failed)?;
        if admitted.value == Admitted::Replaced {
            tracing::warn!(node = node_id, "a node came with another sealing key: secrets are sealed anew");
        }
        Ok(())
    }
}

impl Keys for Registry {
    fn cluster_edge_key(&self, cluster_id: &str) -> ClusterEdgeKey {
        self.store.cluster_edge_key(cluster_id)
    }

    fn witness_key(&self) -> Zeroizing<[u8; 32]> {
        self.store.derive("hosting store witness 1")
    }
}

#[async_trait]
impl JoinTokens for Registry {
    async fn put(&self, hash: [u8; 32], node_id: &str, expires_at: i64) -> Result<(), RegistryError> {
        let now = self.store.now() / 1000;
        self.store.put_join_token(hash, node_id, now, expires_at).await.map_err(failed)
    }

    async fn is_good(&self, hash: [u8; 32], node_id: &str, now: i64) -> Result<bool, RegistryError> {
        let mut tx = self.store.read().await.map_err(failed)?;
        tx.is_join_token_good(hash, node_id, now).await.map_err(failed)
    }

    async fn consume(&self, hash: [u8; 32], node_id: &str, now: i64) -> Result<TokenUse, RegistryError> {
        let used = self.store.consume_join_token(hash, node_id, now).await.map_err(failed)?;
        Ok(match used {
            hosting_store::TokenUse::Granted => TokenUse::Granted,
            hosting_store::TokenUse::Unknown => TokenUse::Unknown,
            hosting_store::TokenUse::Used => TokenUse::Used,
            hosting_store::TokenUse::Expired => TokenUse::Expired,
        })
    }

    async fn grant(
        &self,
        hash: [u8; 32],
        key: [u8; 32],
        enrolled: &tls::Enrolled,
    ) -> Result<(), RegistryError> {
        self.store.grant(hash, key, &enrolled.role, enrolled.at).await.map_err(failed)
    }

    async fn granted(
        &self,
        hash: [u8; 32],
        key: [u8; 32],
        since: i64,
    ) -> Result<Option<tls::Enrolled>, RegistryError> {
        let mut tx = self.store.read().await.map_err(failed)?;
        let granted = tx.granted(hash, key, since).await.map_err(failed)?;
        Ok(granted.map(|(role, at)| tls::Enrolled { role, at }))
    }
}

#[async_trait]
impl StatusSink for Registry {
    async fn watermarks(&self, watermarks: &[Watermark]) -> Result<(), RegistryError> {
        let seen_at = self.store.now();
        let row = |one: &Watermark| hosting_store::Watermark {
            node: one.node_id.clone(),
            audience: one.audience.clone(),
            epoch: one.epoch.clone(),
            applied: one.applied,
            durable: one.durable,
            seen_at,
            controller: self.store.controller().to_owned(),
            connected: one.connected,
            in_service: one.in_service,
            build: one.build.clone(),
            served: one.served.as_ref().map(|served| served.encode_to_vec()).unwrap_or_default(),
        };
        for claim in [true, false] {
            let rows: Vec<_> = watermarks.iter().filter(|one| one.claim == claim).map(row).collect();
            self.store.save_watermarks(&rows, claim).await.map_err(failed)?;
        }
        for one in watermarks {
            if let Some(exceptions) = &one.exceptions {
                self.store.set_exceptions(&one.node_id, &one.audience, exceptions).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn report(&self, node_id: &str, report: &ReportRequest) -> Result<Reported, RegistryError> {
        let mut tx = self.store.read().await.map_err(failed)?;
        let Some(believed) = tx.believable(node_id, report).await.map_err(failed)? else {
            // Of before the store was put back, or begun anew. The node reports everything again once it is in this epoch.
            tracing::debug!(node = node_id, epoch = report.epoch, "a report of another epoch");
            return Ok(Reported::Taken);
        };
        let is_news = believed.all_of.is_none() && tx.last_pass(node_id).await.map_err(failed)?.is_none();
        drop(tx);
        match self.store.save_reports(node_id, believed).await {
            Ok(changed) => self.view.reported(node_id, &changed),
            Err(error) => {
                // What of it is written by now is not known.
                self.view.reported(node_id, &ReportChange::everything());
                return Err(failed(error));
            }
        }
        Ok(if is_news { Reported::WantAll } else { Reported::Taken })
    }

    async fn traffic(&self, cluster_id: &str, report: &feed::TrafficReport) -> Result<(), RegistryError> {
        let of = |one: &feed::TenantTraffic| {
            let traffic = Traffic {
                requests: one.requests,
                classes: [
                    one.informational,
                    one.successful,
                    one.redirected,
                    one.client_errors,
                    one.server_errors,
                ],
                received: one.received,
                sent: one.sent,
                cached: one.cached,
                node_us: one.node_us,
            };
            (one.tenant_id.clone(), traffic)
        };
        let report = TrafficReport {
            source: hex::encode(&report.source),
            number: report.number,
            hour: report.hour.saturating_mul(1_000),
            tenants: report.tenants.iter().map(of).collect(),
        };
        let strangers = self.store.add_traffic(cluster_id, report).await.map_err(failed)?;
        if strangers > 0 {
            tracing::warn!(
                cluster = cluster_id,
                strangers,
                "an edge reports traffic of tenants that are not its cluster's"
            );
        }
        Ok(())
    }
}

/// What the feed is given of a store: the registry is its nodes, tokens, status and keys.
pub(crate) fn feed_deps(store: &Store, registry: &Arc<Registry>) -> FeedDeps {
    FeedDeps {
        source: Arc::new(store.clone()),
        doorbell: Box::new(Commits(store.commits())),
        nodes: registry.clone(),
        tokens: registry.clone(),
        status: registry.clone(),
        keys: registry.clone(),
    }
}

/// Rings at each commit with what it touched.
pub(crate) struct Commits(pub(crate) broadcast::Receiver<Arc<Commit>>);

#[async_trait]
impl Doorbell for Commits {
    async fn ring(&mut self) -> Touched {
        match self.0.recv().await {
            Ok(commit) => {
                let audiences = (!commit.new_epoch && !commit.lost).then(|| commit.audiences.clone());
                Touched { head: commit.revision, audiences }
            }
            Err(RecvError::Lagged(_)) => Touched { head: 0, audiences: None },
            // Nothing will ever be written again; sessions live on heartbeats until the process ends.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hosting_feed::fleet::{Fleet, LEASE, Remote};
    use hosting_intent::Role;
    use hosting_planner::{Change, Draft, gates::Phase};
    use hosting_proto::feed::{KeyReport, ReportedKey};
    use hosting_resource::{Resource, Status};
    use hosting_store::{Kek, StoreConfig};
    use serde_json::{Map, Value, json};

    use super::*;

    async fn open(folder: &Path, fleet: Fleet) -> Registry {
        let kek = Kek::load_or_create(&folder.join("kek")).unwrap();
        let store = Store::open(&StoreConfig::new(folder.join("store.db")), kek).await.unwrap();
        let view = FleetView::load(&store, fleet).await.unwrap();
        Registry::new(store, view)
    }

    async fn outcome(registry: &Registry, report: &ReportRequest) -> Reported {
        registry.report("n1", report).await.unwrap()
    }

    fn web_1(roles: &[&str], created_revision: u64, created_at: i64) -> Resource {
        let Value::Object(spec) = json!({"hostname": "web-1", "roles": roles}) else { panic!("no object") };
        Resource {
            id: "web-1".into(),
            kind: hosting_resource::Kind::Node,
            parent: None,
            tenant: None,
            brand: None,
            label: "web-1".into(),
            status: Status::Active,
            status_message: None,
            shape: 1,
            generation: 1,
            created_revision,
            created_at,
            updated_at: created_at,
            spec,
            state: Map::new(),
        }
    }

    async fn apply(store: &Store, change: Change) {
        store
            .write(Origin::default(), move |tx| Box::pin(async move { tx.apply(change).await }))
            .await
            .unwrap();
    }

    async fn put(store: &Store, node: Resource) {
        apply(store, Change { put: vec![node], ..Change::default() }).await;
    }

    fn of(role: &str, at: i64) -> tls::Enrolled {
        tls::Enrolled { role: role.to_owned(), at }
    }

    #[tokio::test]
    async fn certificates_of_a_former_life_are_not_good_again_whatever_the_clock_says() {
        let folder = tempfile::tempdir().unwrap();
        let registry = open(folder.path(), Fleet::new(LEASE)).await;
        let store = &registry.store;
        let record = async || registry.node("web-1").await.unwrap().unwrap();
        put(store, web_1(&["web"], 1, 5_000)).await;
        // Of before enrolments were kept: good unless the node is younger.
        assert!(record().await.admits(&of("", 5_000), Role::Web).is_ok());
        assert!(record().await.admits(&of("", 4_999), Role::Web).is_err());
        let first = registry.enrol("web-1", "web").await.unwrap();
        let second = registry.enrol("web-1", "web").await.unwrap();
        assert!(first < second && first >= 5_000);
        assert!(record().await.admits(&of("web", first), Role::Web).is_err());
        assert!(record().await.admits(&of("web", second), Role::Web).is_ok());

        let gone = Change { remove: vec!["web-1".into()], ..Change::default() };
        apply(store, gone).await;
        assert_eq!(registry.node("web-1").await.unwrap(), None);
        // The clock was ahead in its former life.
        put(store, web_1(&["web"], 3, 6_000)).await;
        assert!(record().await.admits(&of("web", second), Role::Web).is_err());
        let third = registry.enrol("web-1", "web").await.unwrap();
        assert!(third > second && record().await.admits(&of("web", third), Role::Web).is_ok());

        // The store was put back and knows less than a certificate says.
        registry.learn("web-1", &of("web", third + 10)).await.unwrap();
        assert!(record().await.admits(&of("web", third), Role::Web).is_err());
        assert!(record().await.admits(&of("web", third + 10), Role::Web).is_ok());
        store.close().await;
    }

    #[tokio::test]
    async fn a_join_token_of_a_former_life_is_worth_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let registry = open(folder.path(), Fleet::new(LEASE)).await;
        let now = registry.store.now() / 1000;
        put(&registry.store, web_1(&["web"], 1, (now - 60) * 1000)).await;
        for secret in [[1; 32], [2; 32]] {
            JoinTokens::put(&registry, secret, "web-1", now + 900).await.unwrap();
        }
        assert_eq!(registry.consume([1; 32], "web-1", now).await.unwrap(), TokenUse::Granted);
        put(&registry.store, web_1(&["web"], 2, (now + 60) * 1000)).await;
        assert_eq!(registry.consume([2; 32], "web-1", now).await.unwrap(), TokenUse::Expired);
        registry.store.close().await;
    }

    #[tokio::test]
    async fn a_subscription_ends_when_the_registry_no_longer_gives_it() {
        let folder = tempfile::tempdir().unwrap();
        let fleet = Fleet::new(LEASE);
        let registry = open(folder.path(), fleet.clone()).await;
        let (store, view) = (&registry.store, &registry.view);
        let known = || fleet.all().into_iter().map(|one| one.audience.to_string()).collect::<Vec<_>>();
        let saved = |audience: &str| {
            let said = Remote {
                controller: "former".into(),
                connected: false,
                in_service: true,
                build: "1".into(),
                epoch: "e".into(),
                applied: 1,
                durable: 1,
                exceptions: Vec::new(),
                served: None,
            };
            (audience.parse().unwrap(), "web-1".to_owned(), said)
        };
        put(store, web_1(&["web", "dns"], 1, 1)).await;
        fleet.restore(["node/web-1", "dns/default"].map(saved));
        view.refresh(store).await.unwrap();
        assert_eq!(known(), ["dns/default", "node/web-1"]);
        put(store, web_1(&["dns", "database"], 1, 1)).await;
        view.refresh(store).await.unwrap();
        assert_eq!(known(), ["dns/default"]);
        apply(store, Change { remove: vec!["web-1".into()], ..Change::default() }).await;
        view.refresh(store).await.unwrap();
        assert!(known().is_empty());
        store.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_begins_in_the_middle_is_asked_for_everything_and_news_is_what_changed() {
        let folder = tempfile::tempdir().unwrap();
        let registry = open(folder.path(), Fleet::new(LEASE)).await;
        let epoch = registry.store.read().await.unwrap().epoch().to_owned();
        let seen =
            |key: &str, phase: i32| KeyReport { kind: 21, key: key.into(), phase, ..KeyReport::default() };
        let request =
            |full, reports| ReportRequest { epoch: epoch.clone(), full, reports, ..Default::default() };
        let key = |key: &str| hosting_intent::Key { kind: 21, name: key.into() };
        let phase = async |node: &str, name: &str| {
            let mut tx = registry.store.read().await.unwrap();
            let about = [(node.to_owned(), key(name))];
            // As gates ask for it.
            let said = hosting_planner::gates::Fleet::reports(registry.view.as_ref(), &mut tx, &about).await;
            said.unwrap().into_values().next().map(|report| report.phase)
        };
        let news =
            || registry.view.take_news().items.into_iter().map(|(_, key)| key.name).collect::<Vec<_>>();

        assert_eq!(outcome(&registry, &request(false, vec![seen("a", 2)])).await, Reported::WantAll);
        assert_eq!(phase("n1", "a").await, Some(Phase::Ready), "what it says is taken");
        let all = request(true, vec![seen("a", 2), seen("b", 3), seen("c", 2)]);
        assert_eq!(outcome(&registry, &all).await, Reported::Taken);
        assert_eq!(news(), ["a", "b", "c"]);
        assert_eq!(outcome(&registry, &all).await, Reported::Taken);
        assert!(news().is_empty(), "said a second time it concerns nobody");
        assert_eq!(outcome(&registry, &request(false, vec![seen("b", 2)])).await, Reported::Taken);
        assert_eq!((phase("n1", "b").await, phase("n2", "b").await), (Some(Phase::Ready), None));
        let gone = vec![ReportedKey { kind: 21, key: "a".into() }, ReportedKey { kind: 21, key: "c".into() }];
        let gone = ReportRequest { gone, ..request(false, vec![seen("c", 3)]) };
        assert_eq!(outcome(&registry, &gone).await, Reported::Taken);
        assert_eq!((phase("n1", "a").await, phase("n1", "b").await), (None, Some(Phase::Ready)));
        assert_eq!(phase("n1", "c").await, Some(Phase::Failed), "gone, and wanted anew");
        assert_eq!(news(), ["a", "b", "c"]);
        registry.store.close().await;
    }
}
