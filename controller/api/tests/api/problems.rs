//! Failures as RFC 9457 has them, beside the one sentence that clients of this API read.

use axum::body::Body;
use axum::http::{Method, Request};
use hosting_intent::{Key, Kind};
use hosting_planner::gates::{Exception, ExceptionKind};
use serde_json::{Value, json};

use crate::harness::{Answer, TestApi};

fn name(answer: &Answer) -> &str {
    answer.body["type"].as_str().unwrap().strip_prefix("/docs#problem-").unwrap()
}

#[tokio::test]
async fn failures_have_a_type_a_place_and_the_fields_that_are_wrong() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let (_, narrow) = test.key(&["tenants:read"], &["first"]).await;
    let records = format!("/zones/{}/records", ids.zone);
    let fqdns = format!("/tenants/{}/fqdns", ids.tenant);
    let key = Some(test.admin.as_str());
    for (key, method, path, body, status, wanted, field) in [
        (None, Method::GET, "/regions", json!(null), 401, "unauthenticated", None),
        (Some(narrow.as_str()), Method::GET, "/zones", json!(null), 403, "insufficient-scope", None),
        (Some(narrow.as_str()), Method::GET, "/dashboard/stats", json!(null), 403, "forbidden", None),
        (key, Method::GET, "/zones/none", json!(null), 404, "not-found", None),
        (key, Method::GET, "/nowhere", json!(null), 404, "not-found", None),
        (key, Method::POST, "/zones/none", json!({}), 405, "method-not-allowed", None),
        (key, Method::GET, "/zones?limit=x", json!(null), 400, "validation", Some("limit")),
        (key, Method::POST, "/regions", json!([]), 400, "bad-request", None),
        (key, Method::POST, "/regions", json!({"name": ""}), 400, "validation", Some("name")),
        (key, Method::POST, "/tenants", json!({"brand_id": "none"}), 400, "validation", Some("customer_id")),
        (
            key,
            Method::POST,
            &records,
            json!({"type": "A", "name": "a", "content": "x"}),
            400,
            "validation",
            Some("content"),
        ),
        (
            key,
            Method::POST,
            &records,
            json!({"type": "CNAME", "name": "@", "content": "a.example"}),
            400,
            "validation",
            Some("type"),
        ),
        (key, Method::POST, "/regions", json!({"name": "north"}), 409, "taken", Some("name")),
        (key, Method::POST, &fqdns, json!({"fqdn": ids.fqdn_name}), 409, "taken", Some("fqdn")),
        (key, Method::DELETE, &format!("/regions/{}", test.region), json!(null), 400, "in-use", None),
        (key, Method::GET, "/logs", json!(null), 501, "not-served", None),
    ] {
        let body = (method != Method::GET && method != Method::DELETE).then_some(body);
        let answer = test.call(method.clone(), path, key, body).await;
        assert_eq!((answer.status, name(&answer)), (status, wanted), "{method} {path}: {answer:?}");
        assert_eq!(answer.body["status"], status, "{path}");
        let plain = path.split('?').next().unwrap();
        let request_id = answer.headers["x-request-id"].to_str().unwrap();
        assert_eq!(answer.body["instance"], format!("/api/v1{plain}#{request_id}"));
        assert_eq!(answer.headers["content-type"], "application/json");
        let Some(field) = field else {
            assert!(answer.body.get("errors").is_none(), "{answer:?}");
            continue;
        };
        let errors = answer.body["errors"].as_array().unwrap();
        // Of a tenant, which ids are missing too.
        let count = if path == "/tenants" { 3 } else { 1 };
        assert_eq!(
            (errors.len(), &errors[0]["field"], &answer.body["field"]),
            (count, &json!(field), &json!(field))
        );
        assert!(!errors[0]["reason"].as_str().unwrap().starts_with("validation error"), "{answer:?}");
    }
    let nested = json!({"brand_id": "first", "customer_id": "c", "region_id": test.region, "cluster_id": test.cluster,
        "shard_id": test.shard, "webroots": [{"runtime": "cobol"}]});
    let answer = test.post("/tenants", nested).await;
    assert_eq!(answer.body["errors"][0]["field"], "webroots[0].runtime", "{answer:?}");
    let twice = test.get("/zones?limit=1&limit=1").await;
    let wanted = json!([{"field": "limit", "reason": "is given twice", "remedy": "give it once"}]);
    assert_eq!(twice.body["errors"], wanted);
}

#[tokio::test]
async fn the_media_type_of_problems_is_for_those_who_name_it() {
    let test = TestApi::empty().await;
    for (accept, wanted) in [
        ("application/problem+json", "application/problem+json"),
        ("application/json, application/problem+json", "application/problem+json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
    ] {
        for (method, path) in
            [(Method::GET, "/regions/none"), (Method::PUT, "/regions"), (Method::GET, "/none")]
        {
            let request = Request::builder().method(method).uri(format!("/api/v1{path}"));
            let request = request.header("x-api-key", &test.admin).header("accept", accept);
            let answer = test.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(answer.headers["content-type"], wanted, "{path} {accept}");
        }
    }
}

#[tokio::test]
async fn a_rejected_change_shows_the_resource_and_the_problem() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let key = Key::new(Kind::Route, "no.first-zone.example");
    let rejected = Exception { kind: ExceptionKind::Rejected, revision: u64::MAX, reason: "no room".into() };
    test.fleet.set(|fleet| {
        fleet.exceptions.insert(("edge-1".into(), key), rejected);
    });
    let path = format!("/tenants/{}/fqdns?wait=ready", ids.tenant);
    let answer = test.post(&path, json!({"fqdn": "no.first-zone.example", "webroot_id": ids.webroot})).await;
    assert_eq!((answer.status, name(&answer)), (409, "conflict"), "{answer:?}");
    assert_eq!(answer.body["fqdn"], "no.first-zone.example");
    assert!(answer.body["status"].is_string(), "the status is the resource's own: {answer:?}");
    assert_ne!(answer.body["reasons"], Value::Null);
}

#[tokio::test]
async fn every_wrong_field_of_a_body_is_told_at_once() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let told = async |path: &str, body: Value| {
        let answer = test.post(path, body).await;
        assert_eq!((answer.status, name(&answer)), (400, "validation"), "{path}: {answer:?}");
        let errors = answer.body["errors"].as_array().unwrap().clone();
        // Who looks at one field gets the first.
        assert_eq!(answer.body["field"], errors[0]["field"]);
        assert!(answer.error().contains(errors[0]["reason"].as_str().unwrap()), "{answer:?}");
        assert!(errors.iter().all(|error| !error["reason"].as_str().unwrap().is_empty()));
        errors.iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        told("/tenants", json!({"brand_id": "first"})).await,
        ["customer_id", "region_id", "cluster_id"]
    );
    let brand = json!({
        "id": "b", "name": "", "base_hostname": "no host", "primary_ns": "ns1.b.example", "secondary_ns": "-",
        "hostmaster_email": "nobody",
    });
    assert_eq!(told("/brands", brand).await, ["name", "base_hostname", "secondary_ns", "hostmaster_email"]);
    let mut tenant = test.tenant_body("first");
    tenant["customer_id"] = json!("");
    tenant["webroots"] = json!([
        {"runtime": "cobol", "runtime_version": "1", "public_folder": "../up", "fqdns": []},
        {"runtime": "static", "runtime_version": "1", "env_file_name": "a/b"},
    ]);
    let nested =
        ["customer_id", "webroots[0].runtime", "webroots[0].public_folder", "webroots[1].env_file_name"];
    assert_eq!(told("/tenants", tenant).await, nested);
    let key = json!({"name": "k", "scopes": ["a:read", "zones:read", "zones:fly"], "brands": []});
    assert_eq!(told("/api-keys", key).await, ["scopes[0]", "scopes[2]", "brands"]);
    let record = json!({"type": "A", "name": "a b", "content": "192.0.2.1", "ttl": 1});
    assert_eq!(told(&format!("/zones/{}/records", ids.zone), record).await, ["name", "ttl"]);
    // A list full of faults does not become an answer full of them.
    let many: Vec<String> = (0..200).map(|n| format!("x{n}:read")).collect();
    assert_eq!(told("/api-keys", json!({"name": "k", "scopes": many, "brands": ["*"]})).await.len(), 50);
}
