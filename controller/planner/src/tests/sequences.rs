//! Whatever the order of changes: the intents are those that planning everything from scratch gives.

use proptest::prelude::*;

use hosting_resource::Doc;
use hosting_resource::kinds::zone_record::{AutoRecord, ZoneRecord};

use super::*;
use crate::{delete_for_good, end_keeping, retry, set_in_service, suspend, undelete, unsuspend};

#[derive(Debug, Clone)]
pub(super) enum Step {
    Tenant(u8),
    Zone(u8, u8),
    Webroot(u8, bool),
    Fqdn(u8, u8, Option<u8>),
    Bind(u8, Option<u8>),
    Record(u8, u8, u8),
    Service(u8, bool),
    Delete(u8),
    Undelete(u8),
    Expire(u8),
    Suspend(u8),
    Unsuspend(u8),
    Address(bool),
    NodeOut(u8, bool),
    NodeAway(u8),
    Brand(u8),
    ZoneTo(u8, u8),
    Retry(u8),
    Settle,
    Drain,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any::<u8>().prop_map(Step::Tenant),
        4 => any::<(u8, u8)>().prop_map(|(a, b)| Step::Zone(a, b)),
        4 => any::<(u8, bool)>().prop_map(|(a, b)| Step::Webroot(a, b)),
        6 => any::<(u8, u8, Option<u8>)>().prop_map(|(a, b, c)| Step::Fqdn(a, b, c)),
        3 => any::<(u8, Option<u8>)>().prop_map(|(a, b)| Step::Bind(a, b)),
        4 => any::<(u8, u8, u8)>().prop_map(|(a, b, c)| Step::Record(a, b, c)),
        1 => any::<(u8, bool)>().prop_map(|(a, b)| Step::Service(a, b)),
        6 => any::<u8>().prop_map(Step::Delete),
        2 => any::<u8>().prop_map(Step::Undelete),
        1 => any::<u8>().prop_map(Step::Expire),
        1 => any::<u8>().prop_map(Step::Suspend),
        1 => any::<u8>().prop_map(Step::Unsuspend),
        1 => any::<bool>().prop_map(Step::Address),
        2 => any::<(u8, bool)>().prop_map(|(a, b)| Step::NodeOut(a, b)),
        1 => any::<u8>().prop_map(Step::NodeAway),
        1 => any::<u8>().prop_map(Step::Brand),
        1 => any::<(u8, u8)>().prop_map(|(a, b)| Step::ZoneTo(a, b)),
        1 => any::<u8>().prop_map(Step::Retry),
        4 => Just(Step::Settle),
        4 => Just(Step::Drain),
    ]
}

const NAMES: [&str; 7] = [
    "example.com",
    "www.example.com",
    "a.www.example.com",
    "shop.example.com",
    "acme.example",
    "x.acme.example",
    "other.example",
];

impl Lab {
    fn pick(&self, kind: Kind, n: u8) -> Option<Resource> {
        let all: Vec<&Resource> = self.store.resources.values().filter(|r| r.kind == kind).collect();
        all.get(usize::from(n) % all.len().max(1)).map(|r| (*r).clone())
    }

    pub(super) async fn take(&mut self, step: &Step) {
        // Refusals are part of the game: they must leave nothing behind.
        match step {
            Step::Tenant(n) => {
                let brand = if n % 3 == 0 { "bolt" } else { "acme" };
                let customer = format!("c{}", self.store.head);
                if self.store.resources.values().filter(|r| r.kind == Kind::Tenant).count() < 4 {
                    self.tenant(brand, &customer).await;
                }
            }
            Step::Zone(t, n) => {
                let Some(tenant) = self.pick(Kind::Tenant, *t) else { return };
                let name = NAMES[usize::from(*n) % NAMES.len()];
                let subscription = format!("sub-{}", tenant.text("customer_id"));
                let mut body =
                    json!({"name": name, "subscription_id": subscription, "region_id": self.region});
                if n % 4 == 0 {
                    body["brand_id"] = json!(tenant.brand);
                } else {
                    body["tenant_id"] = json!(tenant.id);
                }
                let _ = self.post(Kind::Zone, None, body).await;
            }
            Step::Webroot(t, service) => {
                let Some(tenant) = self.pick(Kind::Tenant, *t) else { return };
                let body = json!({
                    "subscription_id": format!("sub-{}", tenant.text("customer_id")), "runtime": "static",
                    "runtime_version": "1", "service_hostname_enabled": service,
                });
                let _ = self.post(Kind::Webroot, Some(&tenant.id), body).await;
            }
            Step::Fqdn(t, n, w) => {
                let Some(tenant) = self.pick(Kind::Tenant, *t) else { return };
                let webroot = w.and_then(|w| self.pick(Kind::Webroot, w));
                let name = NAMES[usize::from(*n) % NAMES.len()];
                let _ = self.fqdn(&tenant, name, webroot.as_ref()).await;
            }
            Step::Bind(f, w) => {
                let Some(fqdn) = self.pick(Kind::Fqdn, *f) else { return };
                let webroot = w.and_then(|w| self.pick(Kind::Webroot, w)).map(|w| w.id);
                let _ = self.put(&fqdn.id, json!({"webroot_id": webroot})).await;
            }
            Step::Record(z, n, t) => {
                let Some(zone) = self.pick(Kind::Zone, *z) else { return };
                let (record_type, content) =
                    [("A", "198.51.100.1"), ("AAAA", "2001:db8::9"), ("CNAME", "t.example"), ("TXT", "x")]
                        [usize::from(*t) % 4];
                let name = ["www", "shop", "a.www", "x"][usize::from(*n) % 4];
                let _ = self.record(&zone, record_type, name, content).await;
            }
            Step::Service(w, on) => {
                let Some(webroot) = self.pick(Kind::Webroot, *w) else { return };
                let _ = self.put(&webroot.id, json!({"service_hostname_enabled": on})).await;
            }
            Step::Delete(n) => {
                let kinds = [
                    Kind::Fqdn,
                    Kind::Fqdn,
                    Kind::ZoneRecord,
                    Kind::Zone,
                    Kind::Webroot,
                    Kind::Tenant,
                    Kind::Subscription,
                ];
                let kind = kinds[usize::from(*n) % kinds.len()];
                let Some(resource) = self.pick(kind, n / 7) else { return };
                let _ = self.delete(&resource.id).await;
            }
            Step::Undelete(n) => {
                let deleted = self.store.resources.values().filter(|r| r.status == Status::Deleted);
                let deleted: Vec<_> = deleted.map(|r| (r.kind, r.id.clone())).collect();
                let Some((kind, id)) = deleted.get(usize::from(*n) % deleted.len().max(1)) else { return };
                let done = undelete(&mut self.store, *kind, id).await;
                let _ = self.end(done);
            }
            Step::Expire(n) => {
                let deleted = self.store.resources.values().filter(|r| r.status == Status::Deleted);
                let deleted: Vec<_> = deleted.map(|r| r.id.clone()).collect();
                let Some(id) = deleted.get(usize::from(*n) % deleted.len().max(1)) else { return };
                let done = end_keeping(&mut self.store, id, i64::MAX).await;
                assert!(self.end(done).unwrap());
            }
            Step::Suspend(n) => {
                let Some(tenant) = self.pick(Kind::Tenant, *n) else { return };
                let done = suspend(&mut self.store, &tenant.id, "unpaid").await;
                let _ = self.end(done);
            }
            Step::Unsuspend(n) => {
                let Some(tenant) = self.pick(Kind::Tenant, *n) else { return };
                let done = unsuspend(&mut self.store, &tenant.id).await;
                let _ = self.end(done);
            }
            Step::Address(add) => {
                let six =
                    self.store.resources.values().find(|r| r.label.contains("2001")).map(|r| r.id.clone());
                match (add, six) {
                    (true, None) => {
                        let cluster = self.cluster.clone();
                        let body = json!({"address": "2001:db8::80"});
                        self.post(Kind::LbAddress, Some(&cluster), body).await.unwrap();
                    }
                    (false, Some(id)) => {
                        let kind = self.store.resources[&id].kind;
                        if kind == Kind::LbAddress {
                            self.delete(&id).await.unwrap();
                        }
                    }
                    _ => {}
                }
            }
            Step::NodeOut(n, in_service) => {
                let node = if n % 2 == 0 { "web1" } else { "web2" };
                let done = set_in_service(&mut self.store, node, *in_service).await;
                let _ = self.end(done);
            }
            Step::NodeAway(n) => {
                let shards = if n % 2 == 0 { json!([]) } else { json!([self.shard]) };
                let _ = self.put("web2", json!({"shard_ids": shards})).await;
            }
            Step::Brand(n) => {
                let body = match n % 4 {
                    0 => json!({"dns_group": "other"}),
                    1 => json!({"dns_group": "default"}),
                    2 => json!({"base_hostname": "sites.acme.example"}),
                    _ => {
                        json!({"base_hostname": "acme.example", "secondary_ns": format!("ns{n}.acme.example")})
                    }
                };
                let _ = self.put("acme", body).await;
            }
            Step::ZoneTo(z, t) => {
                let (Some(zone), Some(tenant)) = (self.pick(Kind::Zone, *z), self.pick(Kind::Tenant, *t))
                else {
                    return;
                };
                let _ = self.put(&zone.id, json!({"tenant_id": tenant.id})).await;
            }
            Step::Retry(n) => {
                let Some(fqdn) = self.pick(Kind::Fqdn, *n) else { return };
                let done = retry(&mut self.store, Kind::Fqdn, &fqdn.id).await;
                let _ = self.end(done);
            }
            Step::Settle => self.settle().await,
            Step::Drain => {
                self.drain().await;
                self.assert_planned().await;
            }
        }
    }

    /// A name is served only when its route is there, and automatic records are where they belong.
    async fn assert_names(&mut self) {
        for fqdn in self.store.resources.values().filter(|r| r.kind == Kind::Fqdn) {
            for record in records_of(fqdn) {
                assert!(self.store.resources.contains_key(record.id.as_str()), "{fqdn:?}");
            }
        }
        for record in self.store.resources.values().filter(|r| r.text("managed_by") == "auto") {
            let source = Doc::<ZoneRecord>::of(record).unwrap().state.source.unwrap();
            let source = self.store.resources.get(&source).unwrap_or_else(|| panic!("an orphan: {record:?}"));
            assert!(records_of(source).iter().any(|r| r.id == record.id), "{record:?}");
        }
    }
}

/// The automatic records that an FQDN or a webroot remembers.
fn records_of(source: &Resource) -> Vec<AutoRecord> {
    let stored = source.state.get("auto_records").cloned();
    stored.map(|records| serde_json::from_value(records).unwrap()).unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn intents_are_what_planning_everything_gives(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut lab = Lab::new().await;
            lab.brand("bolt", "bolt.example").await;
            lab.put("bolt", json!({"undelete_days": 7})).await.unwrap();
            let cluster = lab.cluster.clone();
            let body = json!({"id": "dns2", "hostname": "dns2", "roles": ["dns"], "dns_group": "other"});
            lab.post(Kind::Node, Some(&cluster), body).await.unwrap();
            for step in &steps {
                lab.take(step).await;
            }
            lab.drain().await;
            lab.assert_planned().await;
            lab.assert_names().await;
            lab.settle().await;
            lab.assert_planned().await;
            lab.assert_names().await;
            // Records of a zone that is kept wait until it comes back, or goes.
            let is_kept = |id: &Option<String>| {
                id.as_ref().is_some_and(|id| lab.status(id) == Some(Status::Deleted))
            };
            let open = lab.store.resources.values().filter(|r| r.status.is_open() && !is_kept(&r.parent));
            let open: Vec<_> = open.collect();
            assert!(open.is_empty(), "never settles: {open:#?}");
            // And everything can go.
            let tenants: Vec<String> =
                lab.store.resources.values().filter(|r| r.kind == Kind::Tenant).map(|r| r.id.clone()).collect();
            for id in tenants {
                let deleted = delete_for_good(&mut lab.store, Kind::Tenant, &id).await;
                lab.end(deleted).unwrap();
            }
            lab.settle().await;
            assert!(lab.store.resources.values().all(|r| r.kind != Kind::Tenant && r.kind != Kind::Fqdn));
            lab.assert_planned().await;
        });
    }
}
