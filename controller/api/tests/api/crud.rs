//! Every kind: created, read, listed, changed, deleted, with the promised codes.

use hosting_resource::{IdPolicy, Kind};
use serde_json::{Value, json};

use crate::harness::{Ids, TestApi, example};

/// A change that the kind's PUT takes.
fn change(kind: Kind) -> Value {
    match kind {
        Kind::Brand | Kind::Region | Kind::Package => json!({"name": "renamed"}),
        Kind::Cluster => json!({"status": "active", "config": {"a": 1}}),
        Kind::Shard => json!({"lb_backend": "other"}),
        Kind::Node => json!({"hostname": "renamed", "web_port": 8080}),
        Kind::Tenant => json!({"customer_id": "renamed"}),
        Kind::Webroot => json!({"public_folder": "htdocs"}),
        Kind::Fqdn => json!({"ssl_enabled": false}),
        Kind::Zone => json!({}),
        Kind::ZoneRecord => json!({"ttl": 120}),
        Kind::ApiKey => json!({"name": "renamed", "scopes": ["tenants:read"], "brands": ["*"]}),
        Kind::Role => json!({"name": "renamed", "scopes": ["zones:read"]}),
        Kind::Webhook => json!({"name": "renamed", "kinds": ["zone"]}),
        Kind::CertificateAuthority => json!({"name": "renamed", "enabled": false, "priority": 2}),
        Kind::Subscription => json!({"package_id": "package-of-first"}),
        Kind::LbAddress | Kind::Certificate => json!({}),
    }
}

fn parent_id(test: &TestApi, ids: &Ids, kind: Kind) -> String {
    let id = match kind {
        Kind::Brand => &ids.brand,
        Kind::Region => &test.region,
        Kind::Cluster => &test.cluster,
        Kind::Tenant => &ids.tenant,
        Kind::Fqdn => &ids.fqdn,
        Kind::Zone => &ids.zone,
        other => panic!("{other} has no children"),
    };
    id.clone()
}

#[tokio::test]
async fn every_kind_goes_round() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    for kind in Kind::ALL.iter().copied() {
        let info = kind.info();
        let collection = match info.parent {
            Some(parent) => info
                .collection
                .replace(&format!("{{{}}}", parent.param), &parent_id(&test, &ids, parent.kind)),
            None => info.collection.to_owned(),
        };
        let mut body = example(&test, &ids, kind);
        match kind {
            Kind::Cluster | Kind::Shard => body["name"] = json!("another"),
            Kind::Subscription => body["name"] = json!("another"),
            // What is nested has its own test; here only the kind itself.
            Kind::Tenant => {
                for field in ["subscriptions", "zones", "webroots"] {
                    body.as_object_mut().unwrap().remove(field);
                }
            }
            Kind::Webroot => body["fqdns"] = json!([{"fqdn": "nested.customer-1.example"}]),
            _ => {}
        }
        let made = test.post(&collection, body.clone()).await;
        assert_eq!(made.status, info.codes.create, "{kind}: {made:?}");
        assert_eq!(made.body["generation"], 1, "{kind}: {made:?}");
        assert!(made.body["revision"].as_u64().is_some_and(|revision| revision > 0), "{kind}: {made:?}");
        assert!(made.headers.contains_key("x-revision"), "{kind}");
        assert!(made.body.get("warnings").is_none(), "{kind}: {made:?}");
        let id = made.id();
        match info.id {
            IdPolicy::Prefixed(prefix) => assert!(id.starts_with(prefix), "{kind}: {id}"),
            IdPolicy::Uuid => assert_eq!(id.len(), 36, "{kind}: {id}"),
            IdPolicy::CallerOrUuid | IdPolicy::Caller => assert_eq!(json!(id), body["id"], "{kind}"),
        }

        let item = info.item.replace("{id}", &id);
        let read = test.get(&item).await.ok(200);
        if let Some(parent) = info.parent {
            assert_eq!(read[parent.field], json!(parent_id(&test, &ids, parent.kind)), "{kind}: {read}");
        }
        assert_eq!(read["created_at"], made.body["created_at"], "{kind}");
        let list = test.get(&format!("{collection}?limit=200")).await.ok(200);
        let items = list["items"].as_array().unwrap();
        assert!(items.iter().any(|one| one["id"] == id.as_str()), "{kind}: {list}");

        match info.codes.update {
            Some(code) => {
                let changed = test.put(&item, change(kind)).await;
                assert_eq!(changed.status, code, "{kind}: {changed:?}");
                let read = test.get(&item).await.ok(200);
                for (field, value) in change(kind).as_object().unwrap() {
                    assert_eq!(&read[field], value, "{kind}: {read}");
                }
                if change(kind) != json!({}) {
                    assert_eq!(read["generation"], 2, "{kind}: {read}");
                }
                // What was read can be sent back: nothing changes, nothing is complained of.
                let same = test.put(&item, read.clone()).await;
                assert_eq!(same.status, code, "{kind}: {same:?}");
                assert!(same.body.get("warnings").is_none(), "{kind}: {same:?}");
                assert_eq!(same.body["generation"], read["generation"], "{kind}");
            }
            None => assert_eq!(test.put(&item, json!({})).await.status, 405, "{kind}"),
        }

        let gone = test.delete(&item).await;
        assert_eq!(gone.status, info.codes.delete, "{kind}: {gone:?}");
        assert_eq!(gone.body, json!(""), "{kind}: the answer of a deletion has no body");
        if kind == Kind::ApiKey {
            assert!(test.get(&item).await.ok(200)["revoked_at"].is_string());
            assert_eq!(test.delete(&item).await.status, 404);
            assert_eq!(test.put(&item, change(kind)).await.status, 404);
        } else {
            let missing = test.until(&item, |answer| answer.status == 404).await;
            assert_eq!(missing.error(), format!("{} not found", kind.name().replace('_', " ")));
        }
    }
}

/// Defect 39 of the reference: pages by id in the order of time skipped rows and repeated others.
#[tokio::test]
async fn pages_neither_skip_nor_repeat() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    for n in 0..7 {
        let fqdn = json!({"fqdn": format!("n{n}.other.example")});
        test.post(&format!("/tenants/{}/fqdns", ids.tenant), fqdn).await.ok(202);
    }
    let collection = format!("/tenants/{}/fqdns", ids.tenant);
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = test.get(&format!("{collection}?limit=3{cursor}")).await.ok(200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 3);
        seen.extend(items.iter().map(|one| one["fqdn"].as_str().unwrap().to_owned()));
        // One that is created meanwhile comes at the end and moves nothing.
        if seen.len() == 3 {
            test.post(&collection, json!({"fqdn": "late.other.example"})).await.ok(202);
        }
        match page.get("next_cursor").and_then(Value::as_str) {
            Some(next) => {
                assert_eq!(page["has_more"], true);
                cursor = format!("&cursor={next}");
            }
            None => {
                assert_eq!(page["has_more"], false);
                break;
            }
        }
    }
    let mut distinct = seen.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!((distinct.len(), seen.len()), (9, 9), "{seen:?}");
    assert_eq!(seen.last().map(String::as_str), Some("late.other.example"));

    assert_eq!(test.get(&format!("{collection}?limit=9999")).await.status, 200);
    assert_eq!(test.get(&format!("{collection}?cursor=nonsense")).await.status, 400);
    let foreign = test.get("/tenants?limit=1&sort=status").await;
    assert_eq!(foreign.status, 200);
    assert_eq!(test.get("/tenants?sort=shoe_size").await.status, 400);
    assert_eq!(test.get("/tenants?order=sideways").await.status, 400);
    assert_eq!(test.get("/tenants?status=cheerful").await.status, 400);
    let empty = test.get("/brands?search=nothing-has-this-name").await.ok(200);
    assert_eq!(empty, json!({"items": [], "has_more": false}));
}

#[tokio::test]
async fn lists_filter_search_and_sort() {
    let test = TestApi::with_fleet().await;
    test.brand("alpha").await;
    test.brand("beta").await;
    let names = async |query: &str| {
        let list = test.get(query).await.ok(200);
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("/brands?sort=name&order=asc").await, ["alpha", "beta"]);
    assert_eq!(names("/brands?sort=name").await, ["beta", "alpha"], "descending unless asked");
    assert_eq!(names("/brands").await, ["beta", "alpha"], "newest first");
    assert_eq!(names("/brands?search=LPH").await, ["alpha"]);
    assert_eq!(names("/zones?search=beta").await, ["beta-zone.example"]);
    let tenants = test.get("/tenants?customer_id=customer-of-alpha").await.ok(200);
    assert_eq!(tenants["items"].as_array().unwrap().len(), 1);
    assert_eq!(tenants["items"][0]["region_name"], "north");
    assert_eq!(tenants["items"][0]["cluster_name"], "one");
    assert_eq!(tenants["items"][0]["shard_name"], "web-1");
    assert!(tenants["items"][0]["uid"].as_u64().unwrap() >= 5000);
    let nodes = test.get(&format!("/clusters/{}/nodes?search=dns", test.cluster)).await.ok(200);
    assert_eq!(nodes["items"][0]["id"], "dns-1");
    let web = test.get("/nodes/web-1").await.ok(200);
    assert_eq!(web["shards"], json!([{"shard_id": test.shard, "shard_role": "web", "shard_index": 1}]));
}

/// Defect 5 of the reference: what was nested went without checks and defaults.
#[tokio::test]
async fn a_tenant_comes_with_what_is_nested_in_it() {
    let test = TestApi::with_fleet().await;
    test.brand("first").await;
    let mut body = test.tenant_body("first");
    body["subscriptions"] = json!([{"id": "nested-sub", "name": "default"}]);
    body["zones"] = json!([{"subscription_id": "nested-sub", "name": "nested.example"}]);
    body["webroots"] = json!([{
        "subscription_id": "nested-sub", "runtime": "php", "runtime_version": "8.2",
        "fqdns": [{"fqdn": "www.nested.example"}],
    }]);
    body["fqdns"] = json!([{"fqdn": "parked.nested.example"}]);
    let made = test.post("/tenants?wait=ready", body).await.ok(200);
    let tenant = made["id"].as_str().unwrap();
    assert_eq!(made["status"], "active");
    let webroots = test.get(&format!("/tenants/{tenant}/webroots")).await.ok(200);
    assert_eq!(webroots["items"][0]["status"], "active", "{webroots}");
    assert_eq!(webroots["items"][0]["subscription_id"], "nested-sub");
    let webroot = webroots["items"][0]["id"].as_str().unwrap();
    let bound = test.get(&format!("/webroots/{webroot}/fqdns")).await.ok(200);
    assert_eq!(bound["items"].as_array().unwrap().len(), 1);
    assert_eq!(bound["items"][0]["fqdn"], "www.nested.example");
    let zones = test.get("/zones?search=nested.example").await.ok(200);
    let zone = zones["items"][0]["id"].as_str().unwrap();
    assert_eq!(
        (&zones["items"][0]["brand_id"], &zones["items"][0]["tenant_id"]),
        (&json!("first"), &json!(tenant))
    );
    let records = test.get(&format!("/zones/{zone}/records")).await.ok(200);
    let auto: Vec<_> =
        records["items"].as_array().unwrap().iter().filter(|one| one["managed_by"] == "auto").collect();
    assert!(auto.iter().any(|one| one["name"] == "www.nested.example" && one["type"] == "A"), "{records}");
    let auto = auto[0]["id"].as_str().unwrap();
    let edited = test.put(&format!("/zone-records/{auto}"), json!({"ttl": 600})).await;
    assert_eq!(
        (edited.status, edited.error()),
        (403, "auto-managed records cannot be edited; create a custom record to override")
    );
    assert_eq!(test.delete(&format!("/zone-records/{auto}")).await.status, 403);

    let summary = test.get(&format!("/tenants/{tenant}/resource-summary")).await.ok(200);
    assert_eq!(
        (&summary["webroots"]["active"], &summary["fqdns"]["active"]),
        (&json!(1), &json!(2)),
        "{summary}"
    );
    assert_eq!(summary["databases"], json!({}));
    // Webroot, two names, zone, automatic record.
    assert!(summary["total"].as_u64().unwrap() >= 5, "{summary}");

    // One fault and nothing of it is there.
    let mut bad = test.tenant_body("first");
    bad["customer_id"] = json!("never-there");
    bad["subscriptions"] = json!([{"id": "nested-sub", "name": "default"}]);
    assert_eq!(test.post("/tenants", bad).await.status, 409);
    assert_eq!(test.get("/tenants?customer_id=never-there").await.ok(200)["items"], json!([]));
}
