//! Waiting for the fleet, suspension, deletion, workflows, audit bodies.

use std::time::{Duration, Instant};

use axum::http::Method;
use hosting_intent::{Key, Kind as IntentKind};
use hosting_planner::gates::{Exception, ExceptionKind};
use serde_json::json;

use crate::harness::TestApi;

#[tokio::test]
async fn ready_waits_for_the_fleet() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    // The edge takes nothing new for a while.
    let head = test.store.read().await.unwrap().head();
    test.fleet.set(|fleet| {
        fleet.stuck.insert("edge-1".into(), head);
    });
    let fleet = test.fleet.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(400)).await;
        fleet.set(|fleet| fleet.stuck.clear());
    });
    let begun = Instant::now();
    let body = json!({"fqdn": "a.first-zone.example", "webroot_id": ids.webroot});
    let made = test.post(&format!("/tenants/{}/fqdns?wait=ready", ids.tenant), body).await;
    assert_eq!(made.status, 200, "{made:?}");
    assert!(begun.elapsed() >= Duration::from_millis(390), "it came back before the edge had it");
    assert_eq!(made.body["status"], "active");
    assert_eq!(made.body["lagging"], json!([]));
    let conditions: Vec<_> =
        made.body["conditions"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(conditions.contains(&"route") && conditions.contains(&"dns"), "{made:?}");
}

#[tokio::test]
async fn at_the_time_limit_it_says_who_lags() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    test.fleet.set(|fleet| fleet.away.push("edge-1".into()));
    let body = json!({"fqdn": "a.first-zone.example", "webroot_id": ids.webroot});
    let late = test.post(&format!("/tenants/{}/fqdns?wait=ready&wait_timeout=1", ids.tenant), body).await;
    assert_eq!(late.status, 202, "{late:?}");
    assert!(late.headers.contains_key("retry-after"));
    assert_eq!(late.body["lagging"], json!(["edge-1"]));
    let route =
        late.body["conditions"].as_array().unwrap().iter().find(|one| one["name"] == "route").unwrap();
    assert_eq!(route["status"], "waiting");
    let shown = test.get(&format!("/fqdns/{}", late.id())).await.ok(200);
    assert_eq!(shown["lagging"], json!(["edge-1"]));
    test.fleet.set(|fleet| fleet.away.clear());
    test.until(&format!("/fqdns/{}", late.id()), |answer| answer.body["status"] == "active").await;

    for (query, field) in [
        ("wait=soon", "wait"),
        ("wait=ready&wait_timeout=0", "wait_timeout"),
        ("wait=ready&wait_timeout=301", "wait_timeout"),
    ] {
        let answer = test.post(&format!("/regions?{query}"), json!({"name": "x"})).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.error().contains(field), "{}", answer.error());
    }
}

#[tokio::test]
async fn a_rejection_is_a_conflict_with_its_reason() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    test.fleet.set(|fleet| {
        fleet.exceptions.insert(
            ("edge-1".into(), Key::new(IntentKind::Route, "bad.first-zone.example")),
            Exception { kind: ExceptionKind::Rejected, revision: u64::MAX, reason: "no room".into() },
        );
    });
    let body = json!({"fqdn": "bad.first-zone.example", "webroot_id": ids.webroot});
    let rejected = test.post(&format!("/tenants/{}/fqdns?wait=ready", ids.tenant), body).await;
    assert_eq!(rejected.status, 409, "{rejected:?}");
    assert!(rejected.error().contains("no room"), "{}", rejected.error());
    assert!(rejected.body["reasons"][0].as_str().unwrap().contains("edge-1"), "{rejected:?}");
    let path = format!("/fqdns/{}", rejected.id());
    let failed = test.until(&path, |answer| answer.body["status"] == "failed").await;
    assert!(failed.body["status_message"].as_str().unwrap().contains("no room"));
    let workflow = test.get(&format!("/workflows/create-fqdn-{}/await", rejected.id())).await;
    assert_eq!(workflow.status, 500);

    // Tried again while nothing is better, it fails again.
    let again = test.post(&format!("{path}/retry"), json!({})).await;
    assert_eq!((again.status, again.body), (202, json!("")));
    test.until(&path, |answer| answer.body["status"] == "failed").await;
    test.fleet.set(|fleet| fleet.exceptions.clear());
    let all = test.post(&format!("/tenants/{}/retry-failed?wait=ready", ids.tenant), json!({})).await;
    assert_eq!(
        (all.status, &all.body["status"], &all.body["count"]),
        (200, &json!("retrying"), &json!(1)),
        "{all:?}"
    );
    assert_eq!(test.get(&path).await.body["status"], "active");
}

#[tokio::test]
async fn a_purge_is_checked_and_waited_for() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let purge = format!("/tenants/{}/purge-cache", ids.tenant);
    for (wrong, field) in [
        (json!({}), "everything"),
        (json!({"everything": true, "tags": ["a"]}), "everything"),
        (json!({"hosts": ["-"]}), "hosts[0]"),
        (json!({"urls": ["/a"]}), "urls[0]"),
        (json!({"tags": ["a", "b,c"]}), "tags[1]"),
        (json!({"tags": vec!["a"; 31]}), "tags"),
    ] {
        let refused = test.post(&purge, wrong.clone()).await;
        assert!(refused.status == 400 && refused.body.to_string().contains(field), "{wrong}: {refused:?}");
    }
    let before = test.get(&format!("/tenants/{}", ids.tenant)).await.body["generation"].as_u64().unwrap();
    let done = test.post(&format!("{purge}?wait=ready"), json!({"tags": ["post-1"]})).await.ok(200);
    assert_eq!((&done["status"], done["generation"].as_u64()), (&json!("active"), Some(before + 1)));
    test.post(&purge, json!({"everything": true})).await.ok(202);
    let nobodys = test.post("/tenants/t_nobodys000/purge-cache", json!({"everything": true})).await;
    assert_eq!(nobodys.status, 404, "{nobodys:?}");
}

/// Defect 42 of the reference: nobody saw that a tenant was suspended. What its machines do then is tested with the roles.
#[tokio::test]
async fn suspension_and_back() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let tenant = format!("/tenants/{}", ids.tenant);
    let on = test.post(&format!("{tenant}/unsuspend"), json!({})).await;
    assert_eq!(on.status, 202, "{on:?}");
    assert_eq!(test.get(&tenant).await.body["generation"], 1, "what is on stays as it is");
    let off = test.call(Method::POST, &format!("{tenant}/suspend"), Some(&test.admin), None).await;
    assert_eq!(off.status, 202, "{off:?}");
    let shown = test.get(&tenant).await.ok(200);
    assert_eq!((&shown["status"], &shown["suspend_reason"]), (&json!("suspended"), &json!("")));
    let wrong = test.post(&format!("{tenant}/suspend"), json!({"reason": "a\nb"})).await;
    assert_eq!(wrong.status, 400, "{wrong:?}");
    let off = test.post(&format!("{tenant}/suspend"), json!({"reason": "unpaid"})).await;
    assert_eq!((off.status, off.body), (202, json!("")));
    let shown = test.get(&tenant).await.ok(200);
    assert_eq!((&shown["status"], &shown["suspend_reason"]), (&json!("suspended"), &json!("unpaid")));
    let explained = test.get(&format!("/explain/{}", ids.fqdn_name)).await.ok(200);
    assert_eq!(explained["broken"], "tenant");
    assert!(explained.to_string().contains("unpaid"));
    let on = test.post(&format!("{tenant}/unsuspend?wait=ready"), json!({})).await.ok(200);
    assert_eq!((&on["status"], &on["suspend_reason"]), (&json!("active"), &json!("")));
    let explained = test.get(&format!("/explain/{}.", ids.fqdn_name.to_uppercase())).await.ok(200);
    assert_eq!(explained["broken"], json!(null), "{explained:#}");
    let names: Vec<_> =
        explained["links"].as_array().unwrap().iter().map(|link| link["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["FQDN", "tenant", "site", "route", "dns"]);
    assert_eq!(explained["fqdn_id"], json!(ids.fqdn));
    assert_eq!(explained["tenant_id"], json!(ids.tenant));
    assert_eq!(explained["webroot_id"], json!(ids.webroot));
    let unknown = test.get("/explain/nowhere.example").await.ok(200);
    assert_eq!((&unknown["broken"], unknown.get("fqdn_id")), (&json!("FQDN"), None));
}

#[tokio::test]
async fn a_deletion_can_be_waited_for() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let gone = test.delete(&format!("/fqdns/{}?wait=ready", ids.fqdn)).await.ok(200);
    assert_eq!((&gone["id"], &gone["status"]), (&json!(ids.fqdn), &json!("deleted")));
    assert_eq!(test.get(&format!("/fqdns/{}", ids.fqdn)).await.status, 404);

    test.fleet.set(|fleet| fleet.away.push("dns-1".into()));
    let late = test.delete(&format!("/zones/{}?wait=ready&wait_timeout=1", ids.zone)).await;
    assert_eq!((late.status, &late.body["status"]), (202, &json!("deleting")), "{late:?}");
    assert!(late.body["lagging"].to_string().contains("dns-1"), "{late:?}");
    test.fleet.set(|fleet| fleet.away.clear());
    test.until(&format!("/zones/{}", ids.zone), |answer| answer.status == 404).await;

    let all = test.delete(&format!("/tenants/{}?wait=ready", ids.tenant)).await;
    assert_eq!(all.status, 200, "{all:?}");
    for path in [format!("/webroots/{}", ids.webroot), format!("/subscriptions/{}", ids.subscription)] {
        assert_eq!(test.get(&path).await.status, 404, "{path}");
    }
    assert_eq!(test.delete("/brands/first").await.status, 200);
}

#[tokio::test]
async fn workflows_end() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    for workflow in [
        format!("create-tenant-{}", ids.tenant),
        format!("create-webroot-{}", ids.webroot),
        format!("fqdn-{}", ids.fqdn),
        format!("create-zone-record-{}", ids.record),
        "delete-tenant-t_gone000000".to_owned(),
    ] {
        let done = test.get(&format!("/workflows/{workflow}/await")).await;
        assert_eq!((done.status, &done.body["status"]), (200, &json!("completed")), "{workflow}: {done:?}");
    }
    assert_eq!(test.get("/workflows/create-tenant-t_never00000/await").await.status, 404);
    assert_eq!(test.get("/workflows/create-database-db_x/await").await.status, 404);
    test.fleet.set(|fleet| fleet.away.push("edge-1".into()));
    let body = json!({"fqdn": "a.first-zone.example", "webroot_id": ids.webroot});
    let fqdn = test.post(&format!("/tenants/{}/fqdns", ids.tenant), body).await.id();
    let late = test.get(&format!("/workflows/create-fqdn-{fqdn}/await?wait_timeout=1")).await;
    assert_eq!((late.status, late.body["lagging"].to_string()), (504, "[\"edge-1\"]".to_owned()));
}

/// Defect 4 of the reference: nested secrets stood in the audit log.
#[tokio::test]
async fn audit_rows_hold_no_secrets() {
    let test = TestApi::with_fleet().await;
    test.brand("first").await;
    let canary = "canary-4711";
    let cluster = format!("/clusters/{}", test.cluster);
    test.put(&cluster, json!({"config": {"stalwart_token": canary, "mail_hostname": "m"}})).await.ok(200);
    let mut tenant = test.tenant_body("first");
    tenant["databases"] = json!([{"users": [{"username": "u", "password": canary}]}]);
    tenant["oops"] = json!(canary);
    tenant["webroots"] = json!([{"subscription_id": "s", "runtime": "php", "runtime_version": "8.2", "env_vars": [{"name": "A", "value": canary}], "password": canary}]);
    let refused = test.post("/tenants", tenant).await;
    assert_eq!(refused.status, 501, "{refused:?}");
    let rows = test.get("/audit-logs?limit=200").await.ok(200);
    assert!(!rows.to_string().contains(canary), "{rows:#}");
    let row = &rows["items"][0];
    assert_eq!((&row["path"], &row["status_code"]), (&json!("/api/v1/tenants"), &json!(501)));
    assert_eq!(row["request_body"]["brand_id"], "first");
    assert_eq!(row["request_body"]["databases"], "[REDACTED]");
    assert_eq!(rows["items"][1]["request_body"]["config"]["mail_hostname"], "m");
    let only = test.get("/audit-logs?resource_type=clusters&action=PUT&limit=1").await.ok(200);
    assert_eq!(only["items"][0]["resource_id"], json!(test.cluster));
    assert!(only["items"][0]["revision"].is_u64());
    assert_eq!(test.get("/audit-logs?date_from=yesterday").await.status, 400);
    assert_eq!(test.get("/audit-logs?date_to=1970-01-02").await.ok(200)["items"], json!([]));
    let first = test.get("/audit-logs?limit=2").await.ok(200);
    let next = first["next_cursor"].as_str().unwrap();
    let second = test.get(&format!("/audit-logs?limit=2&cursor={next}")).await.ok(200);
    assert_ne!(first["items"][1]["id"], second["items"][0]["id"]);
}
