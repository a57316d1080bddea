//! What depends on the database, over PostgreSQL, and two APIs over one database.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "helpers of tests are not recognised as tests; some are for other tests"
)]

#[path = "api/bulk.rs"]
mod bulk;
#[path = "../../store/tests/databases/mod.rs"]
mod databases;
#[path = "api/harness.rs"]
mod harness;
#[path = "api/incidents.rs"]
mod incidents;
#[path = "../../jobs/tests/loopback_dns/mod.rs"]
mod loopback_dns;
#[path = "api/ownership.rs"]
mod ownership;
#[path = "api/placement.rs"]
mod placement;
#[path = "api/quotas.rs"]
mod quotas;
#[path = "api/records.rs"]
mod records;
#[path = "api/undelete.rs"]
mod undelete;

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use futures::StreamExt;
use futures::future::join_all;
use hosting_store::StoreConfig;
use serde_json::json;
use tower::ServiceExt;

use self::databases::{Backend, Place};
use self::harness::TestApi;

/// A platform with a fleet, on a database of its own.
async fn platform() -> (TestApi, Place) {
    let place = Place::new(Backend::Postgres);
    let config = StoreConfig::of(place.database.clone());
    (TestApi::on(config, tempfile::tempdir().unwrap()).await.equipped().await, place)
}

/// Another controller of the same store.
async fn beside(one: &TestApi, config: StoreConfig) -> TestApi {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(one.folder().join("kek"), folder.path().join("kek")).unwrap();
    TestApi::open(config, folder).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_controller_tells_what_becomes_of_a_resource() {
    let place = Place::new(Backend::Postgres);
    let config = || StoreConfig::of(place.database.clone());
    let one = TestApi::on(config(), tempfile::tempdir().unwrap()).await;
    let other = beside(&one, config()).await;
    let listen = async |test: &TestApi| {
        let request = Request::builder().uri("/api/v1/events?kind=region").header("x-api-key", &one.admin);
        let answer = test.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        answer.into_body().into_data_stream()
    };
    let mut streams = [listen(&one).await, listen(&other).await];
    let mut made = Vec::new();
    for (test, name) in [(&one, "a"), (&other, "b"), (&one, "c")] {
        let region = json!({"name": name});
        made.push(test.call(Method::POST, "/regions", Some(&one.admin), Some(region)).await.id());
    }
    for stream in &mut streams {
        let mut text = String::new();
        while text.matches("event: resource").count() < made.len() {
            let chunk = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.unwrap().unwrap();
            text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
        let places: Vec<_> = made.iter().map(|id| text.find(id).unwrap()).collect();
        assert!(places.is_sorted(), "in the order of revisions: {text}");
        assert!(!text.contains("event: reset"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_with_one_idempotency_key_make_one_whichever_controller_they_ask() {
    let place = Place::new(Backend::Postgres);
    let config = || StoreConfig::of(place.database.clone());
    let one = TestApi::on(config(), tempfile::tempdir().unwrap()).await.equipped().await;
    let ids = one.brand("acme").await;
    let other = beside(&one, config()).await;
    let ask = |n: usize| {
        let test = if n.is_multiple_of(2) { &one } else { &other };
        let request = Request::builder()
            .method("POST")
            .uri(format!("/api/v1/tenants/{}/fqdns", ids.tenant))
            .header("x-api-key", &one.admin)
            .header("idempotency-key", "the-same")
            .body(Body::from(
                json!({"fqdn": "one.acme-zone.example", "webroot_id": ids.webroot}).to_string(),
            ));
        test.send(request.unwrap())
    };
    let answers = join_all((0..100).map(ask)).await;
    let first = answers.iter().filter(|answer| answer.headers.get("idempotency-replayed").is_none()).count();
    assert_eq!(first, 1);
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (202, &answers[0].body));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_that_want_one_name_one_gets_it_whichever_controller_they_ask() {
    let (one, place) = platform().await;
    let two = beside(&one, StoreConfig::of(place.database.clone())).await;
    let ids = one.brand("first").await;
    let path = format!("/tenants/{}/fqdns", ids.tenant);
    let body = json!({"fqdn": "one.first-zone.example"});
    let ask = |n: usize| {
        let test = if n.is_multiple_of(2) { &one } else { &two };
        test.post(&path, body.clone())
    };
    let answers = join_all((0..100).map(ask)).await;
    let count = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(202), count(409)), (1, 99));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_get_ten_places_over_two_controllers() {
    let place = Place::new(Backend::Postgres);
    let config = || StoreConfig::of(place.database.clone());
    let one = TestApi::on(config(), tempfile::tempdir().unwrap()).await.equipped().await;
    let ids = one.brand("acme").await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(one.folder().join("kek"), folder.path().join("kek")).unwrap();
    let other = TestApi::open(config(), folder).await;
    one.put(&format!("/tenants/{}", ids.tenant), json!({"limits": {"zones": 11}})).await.ok(202);
    let ask = |n: usize| {
        let test = if n.is_multiple_of(2) { &one } else { &other };
        let zone = json!({"name": format!("z{n}.example"), "region_id": one.region, "tenant_id": ids.tenant});
        async move { test.post("/zones", zone).await }
    };
    let answers = join_all((0..100).map(ask)).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 202).count(), 10);
    assert!(answers.iter().all(|answer| answer.status == 202 || answer.body["used"] == 11), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_role_counts_at_every_controller_at_once() {
    let place = Place::new(Backend::Postgres);
    let config = || StoreConfig::of(place.database.clone());
    let one = TestApi::on(config(), tempfile::tempdir().unwrap()).await;
    let other = beside(&one, config()).await;
    one.post("/roles", json!({"id": "r", "name": "r", "scopes": ["zones:read"]})).await.ok(201);
    let key = one.post("/api-keys", json!({"name": "k", "roles": ["r"], "brands": ["*"]})).await;
    let key = key.body["key"].as_str().unwrap();
    let may = async |path: &str| other.call(Method::GET, path, Some(key), None).await.status == 200;
    assert!(may("/zones").await && !may("/regions").await);
    one.put("/roles/r", json!({"scopes": ["regions:read"]})).await.ok(200);
    assert!(!may("/zones").await && may("/regions").await);
}
