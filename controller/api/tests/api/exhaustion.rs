//! Callers who take more than their share.

use axum::body::{Body, Bytes};
use axum::http::{Method, Request};
use futures::StreamExt;
use serde_json::json;

use crate::harness::TestApi;

#[tokio::test]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let test = TestApi::empty().await;
    let begun = futures::stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"{\"name\":")) });
    let body = Body::from_stream(begun.chain(futures::stream::pending()));
    let request = Request::builder()
        .method(Method::POST)
        .uri("/api/v1/regions")
        .header("authorization", format!("Bearer {}", test.admin));
    let answer =
        tokio::time::timeout(std::time::Duration::from_secs(10), test.send(request.body(body).unwrap()));
    let answer = answer.await.expect("it waits for ever");
    assert_eq!(answer.status, 408, "{answer:?}");
}

#[tokio::test]
async fn refused_bodies_do_not_fill_the_audit_log() {
    let test = TestApi::empty().await;
    let large = test.post("/regions", json!({"name": "x".repeat(60_000)})).await;
    assert_eq!(large.status, 400, "{large:?}");
    let path = format!("/regions/{}", "a".repeat(1_500));
    assert_eq!(test.delete(&path).await.status, 404);
    let rows = test.get("/audit-logs").await.ok(200);
    assert!(rows.to_string().len() < 4_096, "{} bytes", rows.to_string().len());
    let kept = &rows["items"][1];
    assert_eq!((&kept["status_code"], &kept["method"]), (&json!(400), &json!("POST")), "{rows}");
    assert!(kept["request_body"]["name"].as_str().unwrap().ends_with("… (60000 bytes)"), "{kept}");
}

/// One key's refusals: a hundred rows in a while, the others in one row with their count.
#[tokio::test]
async fn refusals_beyond_a_hundred_are_counted_in_one_row() {
    let test = TestApi::with_fleet().await;
    test.brand("first").await;
    let (id, key) = test.key(&["*:*"], &["first"]).await;
    for n in 0..150 {
        let path = if n % 3 == 0 { "/regions" } else { "/zones" };
        let refused =
            test.call(Method::POST, path, Some(&key), Some(json!({"name": "x".repeat(1_000)}))).await;
        assert!(matches!(refused.status, 400 | 403), "{refused:?}");
    }
    let (_, other) = test.key(&["*:*"], &["first"]).await;
    test.call(Method::POST, "/regions", Some(&other), Some(json!({}))).await;
    // What is counted is written at the end of the while, or of the process.
    test.stop.cancel();
    let counted =
        test.until("/audit-logs?action=refusals", |answer| answer.body["items"][0].is_object()).await;
    let row = &counted.body["items"][0];
    assert_eq!((&row["api_key_id"], &row["request_body"]["refused"]), (&json!(id), &json!(50)), "{row}");
    assert_eq!(row["request_body"]["by_status"], json!({"400": 34, "403": 16}), "{row}");
    let mut rows = 0;
    let mut cursor = String::new();
    loop {
        let page = test.get(&format!("/audit-logs?limit=200{cursor}")).await.ok(200);
        rows +=
            page["items"].as_array().unwrap().iter().filter(|row| row["api_key_id"] == id.as_str()).count();
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(rows, 101);
}

/// A crowd of large requests of one key: somebody else's small one is not behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_request_is_not_behind_another_keys_large_ones() {
    let test = TestApi::with_fleet().await;
    test.brand("greedy").await;
    test.brand("modest").await;
    let (_, greedy) = test.key(&["*:*"], &["greedy"]).await;
    let (_, modest) = test.key(&["*:*"], &["modest"]).await;
    let mut body = test.tenant_body("greedy");
    body["webroots"] = json!(vec![json!({"runtime": "static"}); 100]);
    let finished = std::sync::atomic::AtomicUsize::new(0);
    let order = std::sync::atomic::Ordering::SeqCst;
    let large = async {
        let answer = test.call(Method::POST, "/tenants", Some(&greedy), Some(body.clone())).await;
        finished.fetch_add(1, order);
        answer.status
    };
    let crowd = futures::future::join_all((0..12).map(|_| async {
        let answer = test.call(Method::POST, "/tenants", Some(&greedy), Some(body.clone())).await;
        finished.fetch_add(1, order);
        answer.status
    }));
    let small = async {
        large.await;
        let mut behind = Vec::new();
        for n in 0..3 {
            let before = finished.load(order);
            let change = json!({"name": format!("Modest {n}")});
            let answer = test.call(Method::PUT, "/brands/modest", Some(&modest), Some(change)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            behind.push(finished.load(order) - before);
        }
        behind
    };
    let (crowd, behind) = tokio::join!(crowd, small);
    assert!(crowd.iter().all(|status| *status == 202), "{crowd:?}");
    // The one that had begun, and one that may have been answered meanwhile.
    assert!(behind.iter().all(|count| *count <= 2), "{behind:?}");
}

/// A large request that waits for the fleet does not keep the key's next one from being written.
#[tokio::test]
async fn waiting_for_the_fleet_is_nobodys_turn() {
    let test = TestApi::with_fleet().await;
    test.brand("first").await;
    test.fleet.set(|fleet| fleet.away.push("edge-1".into()));
    let mut body = test.tenant_body("first");
    body["webroots"] = json!(vec![json!({"runtime": "static"}); 60]);
    let waiting = test.post("/tenants?wait=ready&wait_timeout=20", body.clone());
    let next = async {
        test.until("/tenants?search=t_", |answer| answer.body["items"][1].is_object()).await;
        let made = test.post("/tenants", body.clone()).await;
        test.fleet.set(|fleet| fleet.away.clear());
        made.status
    };
    let (waited, next) = tokio::join!(waiting, next);
    assert_eq!((waited.status, next), (200, 202), "{waited:?}");
}

/// A fault at the end of a large body is found before the writer has made the rest.
#[tokio::test]
async fn what_a_large_body_refers_to_is_looked_up_before_it_is_written() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let refused_before = test.store.stats().refused;
    let sites = |last: serde_json::Value| {
        let mut body = test.tenant_body("first");
        body["subscriptions"] = json!([{"id": "sub-new", "name": "x"}]);
        let mut list = vec![json!({"subscription_id": "sub-new", "runtime": "static"}); 200];
        list.push(last);
        body["webroots"] = json!(list);
        body
    };
    let fqdn =
        |name: &str| json!({"subscription_id": "sub-new", "runtime": "static", "fqdns": [{"fqdn": name}]});
    let mut twice = sites(fqdn("twice.example"));
    twice["fqdns"] = json!([{"fqdn": "TWICE.example."}]);
    for (body, status, word) in [
        (sites(json!({"subscription_id": "nope", "runtime": "static"})), 400, "there is no subscription"),
        (sites(json!({"subscription_id": ids.subscription, "runtime": "static"})), 400, "another tenant"),
        (sites(fqdn(&ids.fqdn_name)), 409, "taken"),
        (sites(json!({"subscription_id": "sub-new", "runtime": "nope"})), 400, "webroots[200].runtime"),
        (twice, 409, "taken"),
    ] {
        let refused = test.post("/tenants", body).await;
        assert_eq!(refused.status, status, "{refused:?}");
        assert!(refused.error().contains(word), "{word}: {}", refused.error());
    }
    // What is there is found by the id that its brand gave it.
    let site = json!({
        "subscription_id": ids.subscription, "runtime": "static", "fqdns": [{"fqdn": "found.first-zone.example"}],
    });
    test.post(&format!("/tenants/{}/webroots", ids.tenant), site).await.ok(202);
    assert_eq!(test.store.stats().refused, refused_before, "the writer has not seen any of them");
}

#[tokio::test]
async fn one_key_cannot_take_every_place_to_wait() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let scopes = ["fqdns:write"];
    let (_, greedy) = test.key(&scopes, &["first"]).await;
    let (_, other) = test.key(&scopes, &["first"]).await;
    test.fleet.set(|fleet| fleet.away.push("edge-1".into()));
    let wait = async |key: &str, on: bool| {
        let path = format!("/fqdns/{}?wait=ready&wait_timeout=2", ids.fqdn);
        test.call(Method::PUT, &path, Some(key), Some(json!({"ssl_enabled": on}))).await.status
    };
    let crowd = futures::future::join_all((0..140).map(|n| wait(&greedy, n % 2 == 0)));
    let late = async {
        tokio::time::sleep(std::time::Duration::from_millis(1_000)).await;
        wait(&other, true).await
    };
    let (crowd, late) = tokio::join!(crowd, late);
    let refused = crowd.iter().filter(|status| **status == 503).count();
    assert_eq!(refused, 140 - 128, "{crowd:?}");
    assert_ne!(late, 503);
}

#[tokio::test]
async fn a_body_with_too_much_in_it_does_not_reach_the_writer() {
    let test = TestApi::with_fleet().await;
    test.brand("first").await;
    let site = |n: usize| json!({"fqdns": vec![json!({"fqdn": "a.b"}); n], "runtime": "static"});
    let mut body = test.tenant_body("first");
    body["webroots"] = json!([site(500), site(500)]);
    let refused = test.post("/tenants", body).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.error().contains("describes 1002 resources"), "{}", refused.error());
}
