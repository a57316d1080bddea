//! `Idempotency-Key`: asked twice, done once, answered alike.

use axum::body::Body;
use axum::http::{Method, Request};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Answer, TestApi};

async fn with_key(
    test: &TestApi,
    method: Method,
    path: &str,
    api_key: &str,
    key: &str,
    body: &Value,
) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(format!("/api/v1{path}"))
        .header("x-api-key", api_key)
        .header("idempotency-key", key)
        .body(Body::from(body.to_string()));
    test.send(request.unwrap()).await
}

async fn post(test: &TestApi, path: &str, key: &str, body: &Value) -> Answer {
    with_key(test, Method::POST, path, &test.admin, key, body).await
}

fn is_replayed(answer: &Answer) -> bool {
    answer.headers.get("idempotency-replayed").is_some_and(|value| value == "true")
}

#[tokio::test]
async fn of_a_hundred_that_want_one_name_one_gets_it() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let path = format!("/tenants/{}/fqdns", ids.tenant);
    let body = json!({"fqdn": "one.first-zone.example"});
    let answers = join_all((0..100).map(|_| test.post(&path, body.clone()))).await;
    let won = answers.iter().filter(|answer| answer.status == 202).count();
    let lost = answers.iter().filter(|answer| answer.status == 409).count();
    assert_eq!((won, lost), (1, 99));
}

#[tokio::test]
async fn a_hundred_with_one_key_make_one_and_hear_the_same() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let path = format!("/tenants/{}/fqdns", ids.tenant);
    let body = json!({"fqdn": "one.first-zone.example", "webroot_id": ids.webroot});
    let before = test.get("/audit-logs?limit=200").await.body["items"].as_array().unwrap().len();
    let answers = join_all((0..100).map(|_| post(&test, &path, "\"k 1\"", &body))).await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (202, &answers[0].body));
        assert_eq!(answer.headers["x-revision"], answers[0].headers["x-revision"]);
        assert_eq!(answer.headers["location"], answers[0].headers["location"]);
    }
    assert_eq!(answers.iter().filter(|answer| !is_replayed(answer)).count(), 1);
    let made = test.get(&format!("{path}?search=one.first-zone")).await.body;
    assert_eq!(made["items"].as_array().unwrap().len(), 1, "{made}");
    let after = test.get("/audit-logs?limit=200").await.body["items"].as_array().unwrap().len();
    assert_eq!(after, before + 1, "what changes nothing is no row");
    // Quotes are the header's, not the key's. Waiting is no part of the request.
    let again = post(&test, &format!("{path}?wait=ready"), "k 1", &body).await;
    assert!(is_replayed(&again) && again.status == 200, "{again:?}");
    assert_eq!(again.body["id"], answers[0].body["id"]);
    // A controller that is started again knows it too.
    let twin = test.copy().await;
    let again = post(&twin, &path, "k 1", &body).await;
    assert!(is_replayed(&again), "{again:?}");
    assert_eq!(again.body["id"], answers[0].body["id"]);
}

#[tokio::test]
async fn a_key_is_for_one_request_of_one_caller() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let path = format!("/tenants/{}/fqdns", ids.tenant);
    let body = json!({"fqdn": "one.first-zone.example"});
    post(&test, &path, "k", &body).await.ok(202);
    for (path, body) in [
        (path.clone(), json!({"fqdn": "two.first-zone.example"})),
        (format!("/tenants/{}/webroots", ids.tenant), body.clone()),
    ] {
        let other = post(&test, &path, "k", &body).await;
        assert_eq!(other.status, 422, "{other:?}");
        assert!(other.error().starts_with("Idempotency-Key: was used for another request"), "{other:?}");
    }
    let (_, another) = test.key(&["*:*"], &["first"]).await;
    let taken = with_key(&test, Method::POST, &path, &another, "k", &body).await;
    assert_eq!(taken.status, 409, "another caller's key is another one: {taken:?}");
    let bind = async || {
        let path = format!("/webroots/{}/fqdns", ids.webroot);
        post(&test, &path, "w", &json!({"fqdn": "w.first-zone.example"})).await
    };
    let bound = bind().await;
    assert_eq!(bound.status, 202, "{bound:?}");
    let webroot = format!("/webroots/{}", ids.webroot);
    test.delete(&webroot).await;
    test.until(&webroot, |answer| answer.status == 404).await;
    let again = bind().await;
    assert!(is_replayed(&again) && again.body["id"] == bound.body["id"], "what it lay in is gone: {again:?}");
    // A change that was refused was not made: the next attempt is a new one.
    let two = json!({"fqdn": "two.first-zone.example"});
    let missing = post(&test, "/tenants/t_none/fqdns", "k2", &two).await;
    assert_eq!(missing.status, 404);
    assert_eq!(post(&test, &path, "k2", &two).await.status, 202);
    let record = format!("/zone-records/{}", ids.record);
    let delete = async || with_key(&test, Method::DELETE, &record, &test.admin, "d", &json!({})).await;
    let deleted = delete().await;
    assert!(deleted.status < 300 && !is_replayed(&deleted), "{deleted:?}");
    test.until(&record, |answer| answer.status == 404).await;
    let again = delete().await;
    assert_eq!((again.status, is_replayed(&again)), (deleted.status, true), "{again:?}");
}

#[tokio::test]
async fn what_is_shown_once_is_shown_to_who_did_not_hear_it_and_kept_sealed() {
    let test = TestApi::with_fleet().await;
    test.brand("first").await;
    let (key_id, narrow) = test.key(&["*:*"], &["first"]).await;
    let body = json!({"name": "k", "scopes": ["tenants:read"], "brands": ["first"]});
    let made = post(&test, "/api-keys", "secret", &body).await;
    let raw = made.body["key"].as_str().unwrap().to_owned();
    let again = post(&test, "/api-keys", "secret", &body).await;
    assert!(is_replayed(&again));
    assert_eq!(again.body, made.body);
    let copy = test.copy().await;
    for file in std::fs::read_dir(copy.folder()).unwrap() {
        let file = file.unwrap().path();
        let bytes = std::fs::read(&file).unwrap_or_default();
        let found = bytes.windows(raw.len()).any(|window| window == raw.as_bytes());
        assert!(!found, "{} has the key in clear", file.display());
    }
    // Who may no longer see the resource does not see it by its answer.
    let body = json!({"customer_id": "mine", "brand_id": "first", "region_id": test.region, "cluster_id": test.cluster, "shard_id": test.shard});
    let mine = with_key(&test, Method::POST, "/tenants", &narrow, "t", &body).await;
    assert_eq!(mine.status, 202, "{mine:?}");
    test.brand("second").await;
    test.put(&format!("/api-keys/{key_id}"), json!({"name": "k", "scopes": ["*:*"], "brands": ["second"]}))
        .await
        .ok(200);
    let refused = with_key(&test, Method::POST, "/tenants", &narrow, "t", &body).await;
    assert_eq!(refused.status, 403, "{refused:?}");
}

#[tokio::test]
async fn a_key_that_cannot_be_one_is_refused() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let path = format!("/tenants/{}/fqdns", ids.tenant);
    let body = json!({"fqdn": "one.first-zone.example"});
    for wrong in ["", "\"\"", &"x".repeat(256)] {
        let refused = post(&test, &path, wrong, &body).await;
        assert_eq!((refused.status, &refused.body["field"]), (400, &json!("Idempotency-Key")), "{wrong}");
    }
    let planned = post(&test, &format!("{path}?dry_run=true"), "k", &body).await;
    assert_eq!(planned.status, 400, "{planned:?}");
    let token = post(&test, "/nodes/web-1/join-tokens", "k", &json!({})).await;
    assert_eq!(token.status, 400, "{token:?}");
    let read = with_key(&test, Method::GET, "/brands", &test.admin, "", &json!({})).await;
    assert_eq!(read.status, 200, "reads ignore it");
}
