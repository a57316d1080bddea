//! Defects of the reference API that ours must not have, by their numbers in the list of them: what is served without each.

use std::path::Path;

use axum::body::Body;
use axum::http::{Method, Request};
use hosting_intent::{Key, Kind as IntentKind};
use hosting_planner::World;
use hosting_planner::gates::{Exception, ExceptionKind};
use hosting_proto::intent::{self as wire, rr_set};
use prost::Message;
use serde_json::{Value, json};

use crate::harness::{Answer, TestApi, certificate};

impl TestApi {
    /// The current intent of an audience, as its machines get it.
    async fn told<M: Message + Default>(&self, audience: &str, key: &Key) -> Option<M> {
        let audience = audience.parse().unwrap();
        let row = self.store.read().await.unwrap().intent(&audience, key).await.unwrap()?;
        Some(M::decode(row.value).unwrap())
    }

    async fn rdata(&self, key: &str) -> Vec<String> {
        let key = Key::new(IntentKind::RrSet, key);
        match self.told::<wire::RrSet>("dns/default", &key).await.and_then(|set| set.data) {
            Some(rr_set::Data::Records(records)) => records.rdata,
            Some(rr_set::Data::AddressSet(set)) => vec![set],
            None => Vec::new(),
        }
    }

    async fn with_header(&self, method: Method, path: &str, header: (&str, &str), body: Value) -> Answer {
        let request = Request::builder().method(method).uri(format!("/api/v1{path}"));
        let request = request.header("x-api-key", &self.admin).header(header.0, header.1);
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }
}

/// Defect 1: conflicts with the state of things were 500. They are 409, and say why.
#[tokio::test]
async fn defect_1_conflicts_are_409() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let name = json!({"fqdn": ids.fqdn_name, "webroot_id": ids.webroot});
    let conflicts = [
        test.post(&format!("/webroots/{}/retry", ids.webroot), json!({})).await,
        test.post(&format!("/tenants/{}/fqdns", ids.tenant), name).await,
        test.post("/regions", json!({"name": "north"})).await,
        test.post(&format!("/tenants/{}/subscriptions", ids.tenant), json!({"id": "sub-first", "name": "x"}))
            .await,
    ];
    for (n, answer) in conflicts.iter().enumerate() {
        assert_eq!(answer.status, 409, "{n}: {answer:?}");
        assert!(answer.error().len() > 10, "{n}: {answer:?}");
    }
}

/// Defect 8: a site lost the subscription that it was made with.
#[tokio::test]
async fn defect_8_a_site_keeps_its_subscription() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let body = json!({"subscription_id": ids.subscription, "runtime": "static"});
    let made = test.post(&format!("/tenants/{}/webroots", ids.tenant), body).await.ok(202);
    assert_eq!(made["subscription_id"], ids.subscription.as_str());
    let path = format!("/webroots/{}", made["id"].as_str().unwrap());
    test.put(&path, json!({"public_folder": "htdocs"})).await.ok(202);
    assert_eq!(test.get(&path).await.ok(200)["subscription_id"], ids.subscription.as_str());
}

/// Defect 12: a changed host name changed nothing at the edge, and one without a site failed.
#[tokio::test]
async fn defect_12_a_name_moves_to_another_site_and_may_have_none() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let sites = format!("/tenants/{}/webroots?wait=ready", ids.tenant);
    let other = test.post(&sites, json!({"runtime": "static"})).await.ok(200);
    let edge = format!("edge/{}", test.cluster);
    let key = Key::new(IntentKind::Route, ids.fqdn_name.as_str());
    let path = format!("/fqdns/{}?wait=ready", ids.fqdn);
    for site in [other["id"].clone(), Value::Null] {
        let changed = test.put(&path, json!({"webroot_id": site})).await.ok(200);
        assert_eq!(changed["status"], "active", "{changed}");
        let route: wire::Route = test.told(&edge, &key).await.unwrap();
        assert_eq!(route.webroot_id, site.as_str().unwrap_or_default());
    }
    let body = json!({"fqdn": "unbound.first-zone.example"});
    let unbound = test.post(&format!("/tenants/{}/fqdns?wait=ready", ids.tenant), body).await;
    assert_eq!((unbound.status, &unbound.body["status"]), (200, &json!("active")), "{unbound:?}");
}

/// Defects 10 and 17: one certificate for each webroot, and tenants' own never came to the edge. Each host name has its own, and the edge
/// is told of it with the names that it chooses by (SNI).
#[tokio::test]
async fn defects_10_and_17_each_name_has_its_certificate_at_the_edge() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let other = "shop.first-zone.example";
    let name = json!({"fqdn": other, "webroot_id": ids.webroot});
    let fqdn = test.post(&format!("/tenants/{}/fqdns?wait=ready", ids.tenant), name).await;
    let made = test.post(&format!("/fqdns/{}/certificates?wait=ready", fqdn.id()), certificate(other)).await;
    assert_eq!(made.status, 200, "{made:?}");
    let edge = format!("edge/{}", test.cluster);
    for (id, name) in [(&ids.certificate, ids.fqdn_name.as_str()), (&made.id(), other)] {
        let key = Key::new(IntentKind::Certificate, id.as_str());
        let told: wire::Certificate = test.told(&edge, &key).await.unwrap();
        assert_eq!((told.names, told.tenant_id.as_str()), (vec![name.to_owned()], ids.tenant.as_str()));
        assert!(!told.chain_der.is_empty() && told.key.is_some());
    }
}

/// Defect 13: there was no job behind the retry of a host name. One that failed is tried again, and comes into effect.
#[tokio::test]
async fn defect_13_a_failed_name_is_tried_again() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let name = "late.first-zone.example";
    let rejected = Exception { kind: ExceptionKind::Rejected, revision: u64::MAX, reason: "no room".into() };
    let at = ("edge-1".to_owned(), Key::new(IntentKind::Route, name));
    test.fleet.set(|fleet| drop(fleet.exceptions.insert(at, rejected)));
    let body = json!({"fqdn": name, "webroot_id": ids.webroot});
    let made = test.post(&format!("/tenants/{}/fqdns", ids.tenant), body).await;
    let path = format!("/fqdns/{}", made.id());
    test.until(&path, |answer| answer.body["status"] == "failed").await;
    test.fleet.set(|fleet| fleet.exceptions.clear());
    assert_eq!(test.post(&format!("{path}/retry"), json!({})).await.status, 202);
    test.until(&path, |answer| answer.body["status"] == "active").await;
}

/// Defect 15: the dates of an uploaded certificate were not set.
#[tokio::test]
async fn defect_15_an_uploaded_certificate_has_its_dates() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let shown = test.get(&format!("/certificates/{}", ids.certificate)).await.ok(200);
    let at = |field: &str| shown[field].as_str().unwrap_or_else(|| panic!("{field}: {shown}")).to_owned();
    assert!(at("issued_at") < at("expires_at"), "{shown}");
}

/// Defect 18: reads of zones broke on a missing column.
#[tokio::test]
async fn defect_18_zones_are_read_one_by_one_and_as_lists() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    // One of the brand, of no tenant.
    let body = json!({"name": "brands-own.example", "brand_id": "first", "region_id": test.region});
    let own = test.post("/zones", body).await;
    assert_eq!(own.status, 202, "{own:?}");
    for id in [&ids.zone, &own.id()] {
        let shown = test.get(&format!("/zones/{id}")).await.ok(200);
        for field in ["name", "brand_id", "region_id", "status", "created_at", "updated_at"] {
            assert!(shown[field].is_string(), "{field}: {shown}");
        }
    }
    let list = test.get("/zones").await.ok(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
}

/// Defect 19: the serial of a zone never moved, and its mailbox was wrong.
#[tokio::test]
async fn defect_19_the_serial_moves_with_each_change_and_the_mailbox_is_the_brands() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let zone = || async {
        let key = Key::new(IntentKind::Zone, "first-zone.example");
        test.told::<wire::Zone>("dns/default", &key).await.unwrap()
    };
    let before = zone().await;
    assert_eq!(before.hostmaster, "hostmaster@first.example");
    assert_eq!(before.primary_ns.trim_end_matches('.'), "ns1.first.example");
    test.put(&format!("/zone-records/{}", ids.record), json!({"content": "changed"})).await.ok(202);
    let after = zone().await;
    assert!(after.serial.wrapping_sub(before.serial) < u32::MAX / 2 && after.serial != before.serial);
}

/// Defect 20: relative names, and `@`, never resolved. Both are under their zone.
#[tokio::test]
async fn defect_20_relative_names_are_under_their_zone() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let records = format!("/zones/{}/records", ids.zone);
    for (name, kind, content) in [("@", "MX", "mail"), ("mail", "A", "192.0.2.7"), ("a.b", "CNAME", "mail")] {
        let mut body = json!({"type": kind, "name": name, "content": content});
        if kind == "MX" {
            body["priority"] = json!(10);
        }
        test.post(&records, body).await.ok(202);
    }
    let zone = "first-zone.example";
    assert_eq!(test.rdata(&format!("{zone}/{zone}/TXT")).await, ["\"hello\""]);
    assert_eq!(test.rdata(&format!("{zone}/{zone}/MX")).await, [format!("10 mail.{zone}.")]);
    assert_eq!(test.rdata(&format!("{zone}/mail.{zone}/A")).await, ["192.0.2.7"]);
    assert_eq!(test.rdata(&format!("{zone}/a.b.{zone}/CNAME")).await, [format!("mail.{zone}.")]);
}

/// Defect 21: changing or deleting one record took all of its name and type. The others stay.
#[tokio::test]
async fn defect_21_one_record_of_a_set_is_changed_and_deleted_alone() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let make = async |content: &str| {
        let body = json!({"type": "A", "name": "many", "content": content});
        test.post(&format!("/zones/{}/records", ids.zone), body).await.id()
    };
    let (one, two) = (make("192.0.2.1").await, make("192.0.2.2").await);
    make("192.0.2.3").await;
    let key = "first-zone.example/many.first-zone.example/A";
    let sorted = async || {
        let mut rdata = test.rdata(key).await;
        rdata.sort();
        rdata
    };
    assert_eq!(sorted().await, ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    test.put(&format!("/zone-records/{one}"), json!({"content": "192.0.2.9"})).await.ok(202);
    assert_eq!(sorted().await, ["192.0.2.2", "192.0.2.3", "192.0.2.9"]);
    test.delete(&format!("/zone-records/{two}")).await.ok(202);
    assert_eq!(sorted().await, ["192.0.2.3", "192.0.2.9"]);
}

/// Defect 40: keys stood in plain text in the files that platforms are seeded from.
#[test]
fn defect_40_seeds_hold_no_keys() {
    let infra = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../infra");
    let (mut folders, mut seen) = (vec![infra], 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            seen += 1;
            for secret in ["hst_", "whsec_", "PRIVATE KEY", "api_key:", "password:"] {
                assert!(!text.contains(secret), "{}: {secret}", path.display());
            }
        }
    }
    assert!(seen > 3, "{seen}");
}

/// Defect 41: the status `deleted` could be asked for and was never seen. What is deleted is 404, and nothing has that status.
#[tokio::test]
async fn defect_41_what_is_deleted_is_not_found() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let path = format!("/zone-records/{}", ids.record);
    test.delete(&path).await.ok(202);
    test.until(&path, |answer| answer.status == 404).await;
    assert_eq!(test.delete(&path).await.status, 404);
    let gone = test.get(&format!("/zones/{}/records?status=deleted", ids.zone)).await.ok(200);
    assert_eq!(gone["items"], json!([]));
}

/// Defect 43: the history of jobs held secrets.
#[tokio::test]
async fn defect_43_jobs_show_no_secrets() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let vars = json!({"vars": [{"name": "DB", "value": "swordfish-1", "secret": true}]});
    let url = ("x-callback-url", "https://crm.example/done?token=swordfish-2");
    let path = format!("/webroots/{}/env-vars", ids.webroot);
    assert_eq!(test.with_header(Method::PUT, &path, url, vars).await.status, 202);
    let list = test.get("/jobs?limit=200").await.ok(200);
    let items = list["items"].as_array().unwrap();
    assert!(items.iter().any(|job| job["subject"] == ids.webroot.as_str()), "{list}");
    let mut texts = vec![list.to_string()];
    for job in items {
        texts.push(test.get(&format!("/jobs/{}", job["id"].as_str().unwrap())).await.body.to_string());
    }
    for at in ["/audit-logs?limit=200".to_owned(), format!("/webroots/{}/history", ids.webroot)] {
        texts.push(test.get(&at).await.body.to_string());
    }
    assert!(texts.iter().all(|text| !text.contains("swordfish")), "{texts:?}");
}

/// Defect 46: host names and sites had no optimistic concurrency.
#[tokio::test]
async fn defect_46_names_and_sites_are_not_changed_over_somebody_elses_change() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    for (path, change) in [
        (format!("/fqdns/{}", ids.fqdn), json!({"ssl_enabled": true})),
        (format!("/webroots/{}", ids.webroot), json!({"public_folder": "htdocs"})),
    ] {
        let seen = test.get(&path).await.headers["etag"].to_str().unwrap().to_owned();
        let first = test.with_header(Method::PUT, &path, ("if-match", &seen), change.clone()).await;
        assert!(first.status < 300, "{path}: {first:?}");
        for method in [Method::PUT, Method::PATCH, Method::DELETE] {
            let late = test.with_header(method.clone(), &path, ("if-match", &seen), change.clone()).await;
            assert_eq!(late.status, 412, "{method} {path}: {late:?}");
        }
        test.get(&path).await.ok(200);
    }
}

/// Each defect of the reference's API that what is served could have is named by a test. Those of what needs a driver, and of its machines, are
/// tested with these.
#[test]
fn every_defect_is_named_by_a_test() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    for folder in ["tests/api", "../planner/src/tests"] {
        for entry in std::fs::read_dir(here.join(folder)).unwrap() {
            text.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default());
        }
    }
    let named: std::collections::BTreeSet<u32> = text
        .split("/// Defect")
        .skip(1)
        .flat_map(|after| {
            after.split([':', '.']).next().unwrap_or_default().split(|c: char| !c.is_ascii_digit())
        })
        .filter_map(|number| number.parse().ok())
        .collect();
    for defect in
        [1, 2, 3, 4, 5, 7, 8, 10, 12, 13, 14, 15, 17, 18, 19, 20, 21, 36, 39, 40, 41, 42, 43, 45, 46]
    {
        assert!(named.contains(&defect), "no test names defect {defect}: {named:?}");
    }
}
