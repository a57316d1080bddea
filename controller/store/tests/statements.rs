//! What the common mutations cost: statements sent to the database, in a small store and in one with many more resources.
//!
//! The limits are what each takes today. A change that needs more has to say so here.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

mod databases;

use std::collections::BTreeMap;

use hosting_planner::gates::Gate;
use hosting_planner::{create, delete, drain, open_gates, suspend, undelete, unsuspend, update};
use hosting_resource::{Kind, Resource};
use hosting_store::{Kek, NewJob, Origin, Store, StoreConfig};
use serde_json::{Value, json};

use self::databases::{Backend, Place};

const LIMITS: [(&str, u64); 21] = [
    ("create certificate", 23),
    ("create fqdn", 23),
    ("create record", 16),
    ("create tenant with subscription", 21),
    ("create tenant without shard", 20),
    ("create webroot", 17),
    ("create zone", 21),
    ("delete certificate", 12),
    // One of them looks for certificates, which go with the name.
    ("delete fqdn", 11),
    ("delete record", 12),
    ("delete webroot", 16),
    ("delete webroot, kept", 14),
    ("enqueue callback", 6),
    ("open routed", 11),
    ("open shown", 13),
    ("open site_ready", 10),
    ("suspend tenant", 10),
    ("unbind fqdn", 19),
    ("undelete webroot", 23),
    ("unsuspend tenant", 10),
    ("update record", 11),
];

struct Lab {
    store: Store,
    _place: Place,
    drawn: u64,
    region: String,
    cluster: String,
    shard: String,
}

impl Lab {
    async fn new(backend: Backend) -> Self {
        let place = Place::new(backend);
        let kek = Kek::load_or_create(&place.kek()).unwrap();
        let store = Store::open(&StoreConfig::of(place.database.clone()), kek).await.unwrap();
        let empty = String::new;
        let mut lab =
            Self { store, _place: place, drawn: 0, region: empty(), cluster: empty(), shard: empty() };
        lab.region = lab.post(Kind::Region, None, json!({"name": "eu"})).await.id;
        let region = lab.region.clone();
        lab.cluster = lab.post(Kind::Cluster, Some(&region), json!({"name": "c"})).await.id;
        let cluster = lab.cluster.clone();
        lab.shard = lab.post(Kind::Shard, Some(&cluster), json!({"name": "web-1", "role": "web"})).await.id;
        for address in ["192.0.2.1", "2001:db8::1"] {
            lab.post(Kind::LbAddress, Some(&cluster), json!({"address": address})).await;
        }
        for n in 1..3 {
            let body = json!({
                "id": format!("web{n}"), "hostname": format!("web{n}"), "roles": ["web"],
                "ip_address": format!("192.0.2.1{n}"), "shard_ids": [lab.shard],
            });
            lab.post(Kind::Node, Some(&cluster), body).await;
        }
        let brand = json!({
            "id": "acme", "name": "acme", "base_hostname": "acme.example", "primary_ns": "ns1.acme.example",
            "secondary_ns": "ns2.acme.example", "hostmaster_email": "hostmaster@acme.example",
        });
        lab.post(Kind::Brand, None, brand).await;
        lab.drain().await;
        lab
    }

    async fn get(&self, id: &str) -> Option<Resource> {
        use hosting_planner::World;
        self.store.read().await.unwrap().resource(id).await.unwrap()
    }

    /// Creates what a body means, and answers the first resource and what that took.
    async fn created(&mut self, kind: Kind, parent: Option<&str>, body: Value) -> (Resource, u64) {
        let parent = match parent {
            Some(parent) => self.get(parent).await,
            None => None,
        };
        let drawn = &mut self.drawn;
        let mut entropy = |buffer: &mut [u8]| {
            *drawn += 1;
            let mut hasher = blake3::Hasher::new();
            hasher.update(&drawn.to_le_bytes());
            hasher.finalize_xof().fill(buffer);
        };
        let creation = kind.def().create(parent.as_ref(), body.as_object().unwrap(), &mut entropy).unwrap();
        let before = self.store.stats().statements;
        let written = self
            .store
            .write(Origin::default(), move |tx| Box::pin(async move { create(tx, creation).await }))
            .await
            .unwrap();
        (written.value.into_iter().next().unwrap(), self.store.stats().statements - before)
    }

    async fn post(&mut self, kind: Kind, parent: Option<&str>, body: Value) -> Resource {
        self.created(kind, parent, body).await.0
    }

    async fn put(&self, resource: &str, body: Value) -> u64 {
        let current = self.get(resource).await.unwrap();
        let change = current.kind.def().update(&current, body.as_object().unwrap()).unwrap();
        self.cost(move |tx| Box::pin(async move { update(tx, current, change).await.map(|_| ()) })).await
    }

    async fn cost<F>(&self, mutation: F) -> u64
    where
        F: for<'t> FnOnce(
                &'t mut hosting_store::WriteTx,
            )
                -> futures::future::BoxFuture<'t, Result<(), hosting_planner::PlanError>>
            + Send
            + 'static,
    {
        let before = self.store.stats().statements;
        self.store.write(Origin::default(), mutation).await.unwrap();
        self.store.stats().statements - before
    }

    async fn drain(&self) {
        loop {
            let drained = self
                .store
                .write(Origin::default(), |tx| Box::pin(async move { drain(tx).await }))
                .await
                .unwrap();
            if drained.value.entries == 0 {
                return;
            }
        }
    }

    async fn tenant(&mut self, name: &str) -> (Resource, u64) {
        let body = json!({
            "brand_id": "acme", "customer_id": name, "region_id": self.region, "cluster_id": self.cluster,
            "shard_id": self.shard, "subscriptions": [{"id": format!("sub-{name}"), "name": "main"}],
        });
        self.created(Kind::Tenant, None, body).await
    }

    /// The common mutations, with what each took.
    async fn costs(&mut self, name: &str) -> BTreeMap<&'static str, u64> {
        let mut costs = BTreeMap::new();
        let (tenant, cost) = self.tenant(name).await;
        costs.insert("create tenant with subscription", cost);
        let subscription = format!("sub-{name}");
        let zone_name = format!("{name}.example");
        let body = json!({
            "name": zone_name, "subscription_id": subscription, "region_id": self.region, "tenant_id": tenant.id,
        });
        let (zone, cost) = self.created(Kind::Zone, None, body).await;
        costs.insert("create zone", cost);
        let site = json!({"subscription_id": subscription, "runtime": "static", "runtime_version": "1"});
        let (webroot, cost) = self.created(Kind::Webroot, Some(&tenant.id), site).await;
        costs.insert("create webroot", cost);
        let id = webroot.id.clone();
        let open = |id: String, gate: Gate| {
            self.cost(move |tx| Box::pin(async move { open_gates(tx, &id, &[gate]).await }))
        };
        costs.insert("open site_ready", open(id.clone(), Gate::SiteReady).await);
        let bound = json!({"fqdn": format!("www.{zone_name}"), "webroot_id": id});
        let (fqdn, cost) = self.created(Kind::Fqdn, Some(&tenant.id), bound).await;
        costs.insert("create fqdn", cost);
        let id = fqdn.id.clone();
        let routed = self.cost(move |tx| Box::pin(async move { open_gates(tx, &id, &[Gate::Routed]).await }));
        costs.insert("open routed", routed.await);
        let made = rcgen::generate_simple_self_signed([format!("www.{zone_name}")]).unwrap();
        let body = json!({"cert_pem": made.cert.pem(), "key_pem": made.signing_key.serialize_pem()});
        let (certificate, cost) = self.created(Kind::Certificate, Some(&fqdn.id), body).await;
        costs.insert("create certificate", cost);
        let id = certificate.id.clone();
        let shown = self.cost(move |tx| Box::pin(async move { open_gates(tx, &id, &[Gate::Shown]).await }));
        costs.insert("open shown", shown.await);
        let record = json!({"type": "TXT", "name": "note", "content": "hello"});
        let (record, cost) = self.created(Kind::ZoneRecord, Some(&zone.id), record).await;
        costs.insert("create record", cost);
        costs.insert("update record", self.put(&record.id, json!({"content": "other"})).await);
        costs.insert("unbind fqdn", self.put(&fqdn.id, json!({"webroot_id": null})).await);
        let id = tenant.id.clone();
        let suspended =
            self.cost(move |tx| Box::pin(async move { suspend(tx, &id, "unpaid").await.map(|_| ()) }));
        costs.insert("suspend tenant", suspended.await);
        let id = tenant.id.clone();
        let back = self.cost(move |tx| Box::pin(async move { unsuspend(tx, &id).await.map(|_| ()) }));
        costs.insert("unsuspend tenant", back.await);
        for (what, kind, id) in [
            ("delete certificate", Kind::Certificate, certificate.id),
            ("delete record", Kind::ZoneRecord, record.id),
            ("delete fqdn", Kind::Fqdn, fqdn.id),
            ("delete webroot", Kind::Webroot, webroot.id),
        ] {
            let gone = self.cost(move |tx| Box::pin(async move { delete(tx, kind, &id).await.map(|_| ()) }));
            costs.insert(what, gone.await);
        }
        self.put("acme", json!({"undelete_days": 7})).await;
        let site = json!({"subscription_id": subscription, "runtime": "static", "runtime_version": "1"});
        let kept = self.post(Kind::Webroot, Some(&tenant.id), site).await.id;
        let id = kept.clone();
        let gone =
            self.cost(move |tx| Box::pin(async move { delete(tx, Kind::Webroot, &id).await.map(|_| ()) }));
        costs.insert("delete webroot, kept", gone.await);
        let back = self
            .cost(move |tx| Box::pin(async move { undelete(tx, Kind::Webroot, &kept).await.map(|_| ()) }));
        costs.insert("undelete webroot", back.await);
        self.put("acme", json!({"undelete_days": 0})).await;
        let placed = json!({
            "brand_id": "acme", "customer_id": format!("{name}-placed"), "region_id": self.region,
            "cluster_id": self.cluster,
        });
        costs.insert("create tenant without shard", self.created(Kind::Tenant, None, placed).await.1);
        let new = NewJob {
            kind: "callback".into(),
            subject: tenant.id.clone(),
            lane: tenant.id.clone(),
            brand: Some("acme".into()),
            params: json!({}),
            due_at: 0,
            attempt_limit: 1,
            waits: vec![tenant.id],
        };
        let enqueued = self.cost(move |tx| {
            Box::pin(async move {
                let enqueued = tx.enqueue_job(new).await;
                enqueued.map(|_| ()).map_err(|error| hosting_planner::WorldError::from(error).into())
            })
        });
        costs.insert("enqueue callback", enqueued.await);
        costs
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn common_mutations_take_few_statements_on_sqlite() {
    common_mutations_take_few_statements_however_much_is_stored(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn common_mutations_take_few_statements_on_postgres() {
    common_mutations_take_few_statements_however_much_is_stored(Backend::Postgres).await;
}

async fn common_mutations_take_few_statements_however_much_is_stored(backend: Backend) {
    let mut lab = Lab::new(backend).await;
    // What is made once, like the key of an audience.
    lab.costs("begin").await;
    let few = lab.costs("first").await;
    for n in 0..8 {
        let (tenant, _) = lab.tenant(&format!("t{n}")).await;
        let zone = json!({
            "name": format!("t{n}.example"), "subscription_id": format!("sub-t{n}"), "region_id": lab.region,
            "tenant_id": tenant.id,
        });
        lab.post(Kind::Zone, None, zone).await;
        let site = |site: usize| {
            let names: Vec<Value> =
                (0..10).map(|name| json!({"fqdn": format!("n{site}-{name}.t{n}.example")})).collect();
            json!({
                "subscription_id": format!("sub-t{n}"), "runtime": "static", "runtime_version": "1", "fqdns": names,
            })
        };
        for number in 0..10 {
            lab.post(Kind::Webroot, Some(&tenant.id), site(number)).await;
        }
    }
    lab.drain().await;
    let many = lab.costs("last").await;
    assert_eq!(few, many, "the cost of a mutation grows with what is stored");
    let limits = BTreeMap::from(LIMITS);
    assert_eq!(few.keys().collect::<Vec<_>>(), limits.keys().collect::<Vec<_>>());
    for (mutation, statements) in few {
        assert!(
            statements <= limits[mutation],
            "{mutation} takes {statements} statements, {} before",
            limits[mutation]
        );
    }
}
