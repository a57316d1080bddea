//! What the common reads cost: statements, and rows that are looked at, in a small store and in one with many more resources.
//!
//! A change that makes one of them grow with what is stored fails here; a new list, view or filter gets its line.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "helpers of tests are not recognised as tests; some are for other tests"
)]

#[path = "../../store/tests/databases/mod.rs"]
mod databases;
#[path = "api/harness.rs"]
mod harness;

use std::collections::BTreeMap;

use hosting_intent::{Cause, Key, Kind as IntentKind};
use hosting_planner::{Change, Draft, IntentChange, WorldError};
use hosting_proto::feed::KeyReport;
use hosting_resource::{Kind, Resource};
use hosting_store::{AuditEntry, NewJob, NodeReport, Origin, ReadMeter, Reading, StoreConfig, WriteError};
use serde_json::{Value, json};

use self::databases::{Backend, Place};
use self::harness::{Ids, TestApi};

struct Lab {
    test: TestApi,
    ids: Ids,
    meter: ReadMeter,
    filled: usize,
    place: Place,
}

impl Lab {
    async fn new(backend: Backend) -> Self {
        let place = Place::new(backend);
        let meter = ReadMeter::default();
        let config = StoreConfig { meter: Some(meter.clone()), ..StoreConfig::of(place.database.clone()) };
        let test = TestApi::on(config, tempfile::tempdir().unwrap()).await.equipped().await;
        let ids = test.brand("acme").await;
        test.until(&format!("/webroots/{}", ids.webroot), |answer| answer.body["status"] == "active").await;
        // What it reads is not to be counted.
        test.gatekeeper.0.abort();
        Self { test, ids, meter, filled: 0, place }
    }

    /// Adds `count` resources, and as many intents, reports, audit rows and jobs.
    async fn fill(&mut self, count: usize) {
        let of = |kind, id: &str| (kind, id.to_owned());
        let kinds = [
            of(Kind::Fqdn, &self.ids.fqdn),
            of(Kind::Zone, &self.ids.zone),
            of(Kind::Tenant, &self.ids.tenant),
            of(Kind::ZoneRecord, &self.ids.record),
        ];
        let mut models = Vec::new();
        for (kind, id) in kinds {
            let found = self.test.store.read().await.unwrap().resources(&[id]).await.unwrap().remove(0);
            models.push((kind, found));
        }
        let numbers: Vec<usize> = (self.filled..self.filled + count).collect();
        self.filled += count;
        for some in numbers.chunks(200) {
            let put: Vec<Resource> = some.iter().map(|n| copy(&models[n % 4].1, *n)).collect();
            let intents = some.iter().map(|n| intent(*n)).collect();
            let change = Change { put, intents, ..Change::default() };
            let jobs: Vec<NewJob> = some.iter().map(|n| job(*n)).collect();
            let written = self.test.store.write(Origin::default(), move |tx| {
                Box::pin(async move {
                    tx.apply(change).await?;
                    for job in jobs {
                        tx.enqueue_job(job).await.map_err(WorldError::from)?;
                    }
                    Ok::<_, hosting_planner::ApplyError>(())
                })
            });
            written.await.map_err(|error: WriteError<_>| error.to_string()).unwrap();
            let entry = |n: &usize| AuditEntry {
                method: ["POST", "PUT", "DELETE"][n % 3].to_owned(),
                path: format!("/api/v1/zones/{n}"),
                resource_type: "zones".into(),
                resource_id: Some(format!("filled-{n}")),
                status_code: 202,
                body: None,
            };
            let rows = some.iter().map(|n| self.test.store.audit(Origin::default(), entry(n)));
            futures::future::try_join_all(rows).await.unwrap();
            let reports = some.iter().map(|n| KeyReport {
                kind: IntentKind::Webroot as u32,
                key: format!("web_{n:010}"),
                phase: 2,
                ..KeyReport::default()
            });
            let report = NodeReport { reports: reports.collect(), ..NodeReport::default() };
            self.test.store.save_reports("web-1", report).await.unwrap();
        }
    }

    async fn cost(&self, path: &str) -> Reading {
        let _ = self.meter.take();
        let answer = self.test.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        self.meter.take()
    }

    async fn costs(&self) -> BTreeMap<&'static str, Reading> {
        let Ids { brand, tenant, webroot, fqdn, fqdn_name, zone, record, job, .. } = &self.ids;
        let (cluster, region) = (&self.test.cluster, &self.test.region);
        let first = self.test.get("/zones?limit=2").await.ok(200);
        let second = format!("/zones?limit=2&cursor={}", first["next_cursor"].as_str().unwrap());
        let requests: Vec<(&'static str, String)> = vec![
            ("get fqdn", format!("/fqdns/{fqdn}")),
            ("get webroot", format!("/webroots/{webroot}")),
            ("get zone", format!("/zones/{zone}")),
            ("get node", "/nodes/web-1".into()),
            ("list tenants", "/tenants?limit=2".into()),
            ("list zones, second page", second),
            ("list zones by name", "/zones?limit=2&sort=name&order=asc".into()),
            ("list zones by status", "/zones?limit=2&sort=status".into()),
            ("list fqdns of a tenant", format!("/tenants/{tenant}/fqdns?limit=2")),
            ("list records of a zone", format!("/zones/{zone}/records?limit=2")),
            ("list of the active", "/zones?limit=2&status=active".into()),
            ("list of a brand", format!("/zones?limit=2&brand_id={brand}")),
            ("list of a region", format!("/zones?limit=2&region_id={region}")),
            ("list of a customer", "/tenants?limit=2&customer_id=customer-7".into()),
            ("list of a brand by status", format!("/zones?limit=2&brand_id={brand}&status=active")),
            ("list of names by label", format!("/tenants/{tenant}/fqdns?fqdn={fqdn_name}")),
            ("search of a list", "/zones?limit=2&search=cme-zone.exam".into()),
            ("search of a list, frequent", "/zones?limit=2&search=filled".into()),
            ("search of a list, nothing there", "/tenants?limit=2&search=nothing-like-this".into()),
            ("search everywhere", "/search?q=acme-zone".into()),
            ("some fields of a list", "/zones?limit=2&fields=name,status".into()),
            ("count of a kind", "/zones?limit=2&count=true".into()),
            (
                "count of a brand's in a status",
                format!("/zones?limit=2&brand_id={brand}&status=active&count=true"),
            ),
            ("count of a zone's records", format!("/zones/{zone}/records?limit=2&count=true")),
            ("count of what a search finds", "/zones?limit=2&search=filled&count=true".into()),
            ("list of what is deleted and kept", "/zones?limit=2&status=deleted".into()),
            ("how far a node is drained", "/nodes/web-1/drain".into()),
            ("names that hang on a node", "/plan/without?nodes=web-1&limit=2".into()),
            ("nodes of a cluster", format!("/clusters/{cluster}/nodes?limit=2")),
            ("explain", format!("/explain/{fqdn_name}")),
            ("explain what was", format!("/explain/{fqdn_name}?at=20")),
            ("history of a name", format!("/names/{fqdn_name}/history?limit=2")),
            ("history of a record", format!("/zone-records/{record}/history?limit=2")),
            ("dashboard", "/dashboard/stats".into()),
            ("subscribers", "/subscribers".into()),
            ("audit page", "/audit-logs?limit=2".into()),
            ("audit of a resource", "/audit-logs?limit=2&resource_id=filled-7".into()),
            ("audit of a type", "/audit-logs?limit=2&resource_type=zones".into()),
            ("audit by method", "/audit-logs?limit=2&action=DELETE&sort=method".into()),
            ("audit search", "/audit-logs?limit=2&search=nothing".into()),
            ("audit of a type by method", "/audit-logs?limit=2&resource_type=zones&action=PATCH".into()),
            ("audit of a time", "/audit-logs?limit=2&date_from=2001-01-01&date_to=2999-01-01".into()),
            (
                "audit of a type of long ago",
                "/audit-logs?limit=2&resource_type=zones&date_to=2001-01-01".into(),
            ),
            ("jobs", "/jobs?limit=2".into()),
            ("jobs of a kind", "/jobs?limit=2&kind=callback".into()),
            ("jobs about a resource", format!("/jobs?limit=2&subject={record}")),
            ("get job", format!("/jobs/{job}")),
        ];
        let mut costs = BTreeMap::new();
        for (name, path) in requests {
            costs.insert(name, self.cost(&path).await);
        }
        costs
    }
}

/// Another one of the same kind, as if it had been created and come into effect.
fn copy(model: &Resource, n: usize) -> Resource {
    let mut copy = model.clone();
    copy.id = match model.kind {
        Kind::Tenant => format!("t_{n:010}"),
        _ => format!("{n:08x}-3f39-4c36-b0a4-7d0c3c7f2a11"),
    };
    let (field, label) = match model.kind {
        Kind::Fqdn => ("fqdn", format!("filled{n}.acme-zone.example")),
        Kind::Zone => ("name", format!("filled{n}.example")),
        Kind::Tenant => ("customer_id", format!("customer-{n}")),
        _ => ("name", format!("filled{n}.acme-zone.example")),
    };
    copy.spec.insert(field.to_owned(), Value::from(label.clone()));
    copy.label = label;
    if model.kind == Kind::Tenant {
        copy.tenant = Some(copy.id.clone());
    }
    copy.created_revision = 1_000_000 + n as u64;
    copy
}

fn intent(n: usize) -> IntentChange {
    IntentChange {
        audience: "node/web-1".parse().unwrap(),
        key: Key::new(IntentKind::Webroot, format!("web_{n:010}")),
        owner: format!("webroot/web_{n:010}"),
        value: Some(hosting_intent::Bytes::from_static(b"x")),
        cause: Cause::Person,
        traceparent: None,
        rollout: 0,
    }
}

fn job(n: usize) -> NewJob {
    NewJob {
        kind: "callback".into(),
        subject: format!("filled-{n}"),
        lane: format!("filled-{n}"),
        brand: Some("acme".into()),
        params: json!({}),
        due_at: i64::MAX / 2,
        attempt_limit: 1,
        waits: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_cost_what_they_show_on_sqlite() {
    reads_cost_what_they_show_however_much_is_stored(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_cost_what_they_show_on_postgres() {
    reads_cost_what_they_show_however_much_is_stored(Backend::Postgres).await;
}

async fn reads_cost_what_they_show_however_much_is_stored(backend: Backend) {
    let mut lab = Lab::new(backend).await;
    lab.fill(40).await;
    let few = lab.costs().await;
    lab.fill(10_000).await;
    let mut grown = Vec::new();
    // PostgreSQL looks at a table that grew within a minute or two; until then it goes by what it knew of the small one.
    for is_known in [false, true] {
        if is_known {
            lab.place.analyze();
        }
        let many = lab.costs().await;
        for (name, small) in &few {
            let large = many[name];
            let (statements, rows) = bound(name, backend, is_known);
            let steps = if backend == Backend::Sqlite { 20 } else { 1 };
            if large.statements > small.statements + statements || large.work > small.work + rows * steps {
                grown.push(format!("{name}: {small:?}, with much more in the store {large:?}, {is_known}"));
            }
        }
    }
    assert!(grown.is_empty(), "{grown:#?}");
}

/// Beside what a small store costs, for requests with a bound of their own: statements, and rows.
fn bound(name: &str, backend: Backend, is_known: bool) -> (u64, u64) {
    match name {
        // The index that it takes instead has all of a tenant, or of a zone.
        "explain" | "get zone" if backend == Backend::Postgres && !is_known => (0, 8_000),
        // Or it sorts those of a type in the place of going along the index that has them in order.
        "audit of a type by method" | "audit of a type of long ago"
            if backend == Backend::Postgres && !is_known =>
        {
            (0, 10_100)
        }
        // Two thousand rows of an index say that more has it than is looked up; then the list is gone along.
        "list of a brand"
        | "list of a region"
        | "list of a brand by status"
        | "search of a list, frequent"
        | "search everywhere" => (4, 3_000),
        // Ten thousand rows of the list are gone along.
        "count of a brand's in a status" | "count of a zone's records" | "count of what a search finds" => {
            (30, 26_000)
        }
        // Of two hundred tenants, one after another. PostgreSQL sorts those of the shard where they are a good part of all.
        "names that hang on a node" if backend == Backend::Postgres => (200, 8_000),
        "names that hang on a node" => (200, 1_000),
        // Two thousand rows, whatever fits.
        "audit search" | "audit of a type by method" | "audit of a type of long ago" => (0, 2_100),
        // Five hundred records are looked at for what is wrong with them. PostgreSQL sorts those of the zone where they are a good part of all.
        "get zone" if backend == Backend::Postgres => (0, 2_600),
        "get zone" => (0, 520),
        _ => (0, 10),
    }
}
