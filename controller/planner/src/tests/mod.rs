//! Planning as a whole, on a store in memory.

mod certificates;
mod deletion;
mod gates;
mod http_policies;
mod issuance;
mod names;
mod overlay;
mod ownership;
mod placement;
mod planning;
mod quotas;
mod rollouts;
mod sequences;
mod traces;
mod undelete;
mod undo;
mod zones;

use std::collections::{BTreeMap, BTreeSet};

use hosting_intent::{Audience, Intent, Key, Kind as IntentKind, message as m};
use hosting_resource::{Doc, Kind, Resource, Status};
use serde_json::{Value, json};

use crate::fake::Fake;
use crate::gates::{
    Evidence, Exception, Fleet, Phase, Report, Reports, Subscriber, Verdict, evaluate, gather, units_of,
};
use crate::{
    Deleted, PlanError, Unit, World, WorldError, continue_delete, create, delete, derive, drain,
    finish_delete, has_children, open_gates, record_status, trace_of, update, wants_continuing,
};

/// A store with a platform in it, and ways to act on it.
pub(super) struct Lab {
    pub(super) store: Fake,
    drawn: u64,
    pub(super) cluster: String,
    pub(super) shard: String,
    pub(super) region: String,
}

pub(super) fn at(audience: &str) -> Audience {
    audience.parse().unwrap()
}

/// Everybody applies everything at once, but for those named here.
#[derive(Default, Clone)]
pub(super) struct Everybody {
    pub(super) audiences: BTreeMap<Audience, BTreeSet<String>>,
    pub(super) out: BTreeSet<String>,
    /// Node, how far it has applied.
    pub(super) stuck: BTreeMap<String, u64>,
    pub(super) reports: BTreeMap<(String, Key), Report>,
    pub(super) exceptions: BTreeMap<(String, Key), Exception>,
}

impl Everybody {
    pub(super) fn of(store: &Fake) -> Self {
        let mut all = Self::default();
        for node in store.resources.values().filter(|r| r.kind == Kind::Node) {
            for audience in crate::node_audiences(&Doc::read(node.clone()).unwrap()) {
                all.audiences.entry(audience).or_default().insert(node.id.clone());
            }
        }
        all
    }
}

#[async_trait::async_trait]
impl Fleet for Everybody {
    fn subscribers(&self, audience: &Audience) -> Vec<Subscriber> {
        let nodes = self.audiences.get(audience).cloned().unwrap_or_default();
        nodes
            .into_iter()
            .map(|node_id| Subscriber {
                applied: self.stuck.get(&node_id).copied().unwrap_or(u64::MAX),
                in_service: !self.out.contains(&node_id),
                node_id,
            })
            .collect()
    }

    fn exception(&self, _: &Audience, node: &str, key: &Key) -> Option<Exception> {
        self.exceptions.get(&(node.to_owned(), key.clone())).cloned()
    }

    async fn reports(&self, _: &mut dyn Evidence, about: &[(String, Key)]) -> Result<Reports, WorldError> {
        let known = |(node, key): &(String, Key)| {
            self.report(node, key).map(|report| ((node.clone(), key.clone()), report))
        };
        Ok(about.iter().filter_map(known).collect())
    }
}

impl Everybody {
    fn report(&self, node: &str, key: &Key) -> Option<Report> {
        if let Some(report) = self.reports.get(&(node.to_owned(), key.clone())) {
            return Some(report.clone());
        }
        if self.stuck.contains_key(node) || self.out.contains(node) {
            return None;
        }
        let phase = if key.known_kind() == Some(IntentKind::Retire) { Phase::Retired } else { Phase::Ready };
        Some(Report { phase, revision: u64::MAX, message: String::new() })
    }
}

impl Lab {
    /// A region, a cluster with an IPv4 address, a web shard with two nodes, an edge, a name server, a brand with its zone.
    pub(super) async fn new() -> Self {
        let mut lab = Self::bare().await;
        lab.post(Kind::LbAddress, Some(&lab.cluster.clone()), json!({"address": "192.0.2.80"}))
            .await
            .unwrap();
        lab.node("web1", &["web"], true, "192.0.2.11").await;
        lab.node("web2", &["web"], true, "192.0.2.12").await;
        lab.node("edge1", &["lb"], false, "192.0.2.1").await;
        lab.node("dns1", &["dns"], false, "192.0.2.53").await;
        lab.brand("acme", "acme.example").await;
        lab
    }

    pub(super) async fn bare() -> Self {
        let mut lab = Self {
            store: Fake::new(),
            drawn: 0,
            cluster: String::new(),
            shard: String::new(),
            region: String::new(),
        };
        lab.region = lab.post(Kind::Region, None, json!({"name": "eu"})).await.unwrap().id;
        let region = lab.region.clone();
        lab.cluster = lab.post(Kind::Cluster, Some(&region), json!({"name": "c1"})).await.unwrap().id;
        let cluster = lab.cluster.clone();
        let shard = json!({"name": "web-1", "role": "web"});
        lab.shard = lab.post(Kind::Shard, Some(&cluster), shard).await.unwrap().id;
        lab
    }

    pub(super) async fn node(&mut self, id: &str, roles: &[&str], in_shard: bool, ip: &str) -> Resource {
        let shards: Vec<&str> = if in_shard { vec![self.shard.as_str()] } else { vec![] };
        let body = json!({"id": id, "hostname": id, "roles": roles, "ip_address": ip, "shard_ids": shards});
        self.post(Kind::Node, Some(&self.cluster.clone()), body).await.unwrap()
    }

    pub(super) async fn brand(&mut self, id: &str, base: &str) -> Resource {
        let body = json!({
            "id": id, "name": id, "base_hostname": base, "primary_ns": format!("ns1.{base}"),
            "secondary_ns": format!("ns2.{base}"), "hostmaster_email": format!("hostmaster@{base}"),
        });
        self.post(Kind::Brand, None, body).await.unwrap()
    }

    pub(super) async fn tenant(&mut self, brand: &str, customer: &str) -> Resource {
        let body = json!({
            "brand_id": brand, "customer_id": customer, "region_id": self.region, "cluster_id": self.cluster,
            "shard_id": self.shard, "subscriptions": [{"id": format!("sub-{customer}"), "name": "main"}],
        });
        self.post(Kind::Tenant, None, body).await.unwrap()
    }

    pub(super) async fn webroot(&mut self, tenant: &Resource) -> Resource {
        self.webroot_with(tenant, false).await
    }

    pub(super) async fn webroot_with(&mut self, tenant: &Resource, service: bool) -> Resource {
        let body = json!({
            "subscription_id": format!("sub-{}", tenant.text("customer_id")), "runtime": "static",
            "runtime_version": "1", "service_hostname_enabled": service,
        });
        self.post(Kind::Webroot, Some(&tenant.id), body).await.unwrap()
    }

    pub(super) async fn fqdn(
        &mut self,
        tenant: &Resource,
        name: &str,
        webroot: Option<&Resource>,
    ) -> Result<Resource, PlanError> {
        let body = json!({"fqdn": name, "webroot_id": webroot.map(|w| w.id.clone())});
        self.post(Kind::Fqdn, Some(&tenant.id), body).await
    }

    pub(super) async fn zone(&mut self, tenant: &Resource, name: &str) -> Result<Resource, PlanError> {
        let body = json!({
            "name": name, "subscription_id": format!("sub-{}", tenant.text("customer_id")),
            "region_id": self.region, "tenant_id": tenant.id,
        });
        self.post(Kind::Zone, None, body).await
    }

    pub(super) async fn record(
        &mut self,
        zone: &Resource,
        record_type: &str,
        name: &str,
        content: &str,
    ) -> Result<Resource, PlanError> {
        let body = json!({"type": record_type, "name": name, "content": content});
        self.post(Kind::ZoneRecord, Some(&zone.id), body).await
    }

    pub(super) async fn post(
        &mut self,
        kind: Kind,
        parent: Option<&str>,
        body: Value,
    ) -> Result<Resource, PlanError> {
        let parent = parent.map(|id| self.store.resources[id].clone());
        let drawn = &mut self.drawn;
        let mut entropy = |buffer: &mut [u8]| {
            *drawn += 1;
            let mut hasher = blake3::Hasher::new();
            hasher.update(&drawn.to_le_bytes());
            hasher.finalize_xof().fill(buffer);
        };
        let creation = kind.def().create(parent.as_ref(), body.as_object().unwrap(), &mut entropy).unwrap();
        let created = create(&mut self.store, creation).await;
        self.end(created).map(|created| created.into_iter().next().unwrap())
    }

    pub(super) async fn put(&mut self, id: &str, body: Value) -> Result<Resource, PlanError> {
        let current = self.store.resources[id].clone();
        let change = current.kind.def().update(&current, body.as_object().unwrap()).unwrap();
        let updated = update(&mut self.store, current, change).await;
        self.end(updated)
    }

    pub(super) async fn delete(&mut self, id: &str) -> Result<Deleted, PlanError> {
        let kind = self.store.resources[id].kind;
        let deleted = delete(&mut self.store, kind, id).await;
        self.end(deleted)
    }

    pub(super) fn end<T>(&mut self, result: Result<T, PlanError>) -> Result<T, PlanError> {
        match &result {
            Ok(_) => {
                self.store.commit();
            }
            Err(_) => self.store.roll_back(),
        }
        result
    }

    pub(super) fn get(&self, id: &str) -> Option<&Resource> {
        self.store.resources.get(id)
    }

    pub(super) fn status(&self, id: &str) -> Option<Status> {
        self.get(id).map(|resource| resource.status)
    }

    /// What `key` says to `audience`.
    pub(super) fn intent(&self, audience: &str, kind: IntentKind, name: &str) -> Option<Intent> {
        let row = self.store.intents.get(&(at(audience), Key::new(kind, name)))?;
        Some(Intent::parse(&row.key, &row.value).unwrap())
    }

    pub(super) fn route(&self, name: &str) -> Option<m::Route> {
        match self.intent(&format!("edge/{}", self.cluster), IntentKind::Route, name) {
            Some(Intent::Route(route)) => Some(route),
            other => {
                assert_eq!(other, None);
                None
            }
        }
    }

    pub(super) fn rr_set(&self, key: &str) -> Option<m::RrSet> {
        match self.intent("dns/default", IntentKind::RrSet, key) {
            Some(Intent::RrSet(set)) => Some(set),
            other => {
                assert_eq!(other, None);
                None
            }
        }
    }

    pub(super) fn serial(&self, zone: &str) -> u32 {
        match self.intent("dns/default", IntentKind::Zone, zone) {
            Some(Intent::Zone(zone)) => zone.serial,
            other => panic!("no zone {zone}: {other:?}"),
        }
    }

    pub(super) async fn look(&mut self, id: &str, fleet: &dyn Fleet) -> Verdict {
        let resource = self.store.resources[id].clone();
        let one = std::slice::from_ref(&resource);
        let inputs = gather(&mut self.store, fleet, one).await.unwrap().remove(0);
        evaluate(&resource, &inputs, fleet, self.store.time)
    }

    /// What the gatekeeper does, until nothing is left to do.
    pub(super) async fn settle(&mut self) {
        let fleet = Everybody::of(&self.store);
        self.settle_with(&fleet).await;
    }

    pub(super) async fn settle_with(&mut self, fleet: &dyn Fleet) {
        for _ in 0..1_000 {
            // As the gatekeeper does: its mutations are in the trace of the resource that they concern.
            self.store.traceparent.clear();
            self.store.actor = None;
            let mut busy = self.drain().await;
            let ids: Vec<String> = self
                .store
                .resources
                .values()
                .filter(|r| r.status.is_open() || r.status == Status::Failed)
                .map(|r| r.id.clone())
                .collect();
            for id in ids {
                let Some(resource) = self.get(&id).cloned() else { continue };
                self.store.traceparent = trace_of(&resource).to_owned();
                let has_children = has_children(&mut self.store, &resource).await.unwrap();
                if wants_continuing(&resource, has_children) {
                    busy = true;
                    let more = continue_delete(&mut self.store, &id).await;
                    self.end(more).unwrap();
                }
                let verdict = self.look(&id, fleet).await;
                if verdict.remove {
                    let gone = finish_delete(&mut self.store, &id, &verdict.retired).await;
                    busy |= self.end(gone).unwrap();
                    continue;
                }
                if !verdict.open.is_empty() {
                    busy = true;
                    let opened = open_gates(&mut self.store, &id, &verdict.open).await;
                    self.end(opened).unwrap();
                    continue;
                }
                busy |= verdict.status != resource.status;
                let written = record_status(&mut self.store, &id, resource.generation, &verdict).await;
                self.end(written).unwrap();
            }
            if !busy {
                self.store.traceparent.clear();
                return;
            }
        }
        panic!("it does not settle");
    }

    /// True when anything was in the queue.
    pub(super) async fn drain(&mut self) -> bool {
        let mut any = false;
        for _ in 0..10_000 {
            if self.store.queue.is_empty() {
                return any;
            }
            any = true;
            let drained = drain(&mut self.store).await;
            let drained = self.end(drained).unwrap();
            assert!(drained.unsound.is_empty(), "{:?}", drained.unsound);
        }
        panic!("the replan queue does not end: {:?}", self.store.queue);
    }

    /// All units that there can be, by the resources and by the rows that are there.
    async fn units(&mut self) -> BTreeSet<Unit> {
        let mut units =
            BTreeSet::from(["dns/default", "dns/other"].map(|audience| Unit::Audience(at(audience))));
        for resource in self.store.resources.values() {
            units.extend(units_of(resource));
            if resource.kind == Kind::Node {
                for word in ["node", "gateway"] {
                    units.insert(Unit::Audience(at(&format!("{word}/{}", resource.id))));
                }
            } else if resource.kind == Kind::Cluster {
                units.insert(Unit::Audience(at(&format!("edge/{}", resource.id))));
            }
        }
        units.extend(self.store.intents.values().map(|row| Unit::from_owner(&row.owner).unwrap()));
        units
    }

    /// The rows are what a plan of everything from scratch gives. The queue must be empty.
    pub(super) async fn assert_planned(&mut self) {
        assert_eq!(self.store.queue, []);
        let mut wanted = BTreeMap::new();
        for unit in self.units().await {
            for intent in derive(&unit, &mut self.store).await.unwrap() {
                Intent::parse(&intent.key, &intent.value).unwrap();
                let at = (intent.audience.clone(), intent.key.clone());
                let twice = wanted.insert(at, (unit.owner(), intent.value));
                assert_eq!(twice, None, "{} wants what another unit wants", unit.owner());
            }
        }
        let there: BTreeMap<_, _> = self
            .store
            .intents
            .iter()
            .map(|(at, row)| (at.clone(), (row.owner.clone(), row.value.clone())))
            .collect();
        for (at, row) in &wanted {
            assert_eq!(there.get(at), Some(row), "missing or stale: {} {}", at.0, at.1);
        }
        for (at, row) in &there {
            assert_eq!(wanted.get(at), Some(row), "left over: {} {}", at.0, at.1);
        }
    }
}
