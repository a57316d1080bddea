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
    assert!(kept["request_body"]["not_kept"].as_str().unwrap().contains("bytes"), "{kept}");
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
