//! What is the same for every route: errors, warnings, limits, ids, metrics, documents.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::json;

use crate::harness::TestApi;

#[tokio::test]
async fn errors_are_one_sentence_in_json() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let missing = test.get("/no/such/path").await;
    assert_eq!((missing.status, missing.body.is_object()), (404, true));
    let wrong = test.call(Method::PATCH, "/brands", Some(&test.admin), None).await;
    assert_eq!((wrong.status, wrong.headers["allow"].to_str().unwrap()), (405, "GET, HEAD, OPTIONS, POST"));

    let raw = |body: &'static str| {
        Request::builder()
            .method(Method::POST)
            .uri("/api/v1/regions")
            .header("x-api-key", &test.admin)
            .body(Body::from(body))
            .unwrap()
    };
    for (body, start) in [
        ("", "invalid JSON: "),
        ("{", "invalid JSON: "),
        ("[]", "invalid JSON: the body must be an object"),
        ("{\"name\": 5}", "invalid JSON: name: "),
        ("{}", "validation error: name: is required"),
        ("{\"name\": \"Not A Slug\"}", "validation error: name: "),
    ] {
        let answer = test.send(raw(body)).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.error().starts_with(start), "{body}: {}", answer.error());
    }
    let deep: &'static str = Box::leak("[".repeat(10_000).into_boxed_str());
    assert_eq!(test.send(raw(deep)).await.status, 400);
    let long: &'static str = Box::leak(format!("{{\"name\": \"{}\"}}", "a".repeat(70_000)).into_boxed_str());
    assert_eq!(test.send(raw(long)).await.status, 413);

    // References to nothing, names that are taken, things in use.
    let mut tenant = test.tenant_body("first");
    tenant["shard_id"] = json!("no-such-shard");
    let answer = test.post("/tenants", tenant).await;
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("shard_id"), "{}", answer.error());
    assert_eq!(test.post("/regions", json!({"name": "north"})).await.status, 409);
    assert_eq!(
        test.post(&format!("/tenants/{}/fqdns", ids.tenant), json!({"fqdn": ids.fqdn_name.to_uppercase()}))
            .await
            .status,
        409
    );
    let used = test.delete("/brands/first").await;
    assert_eq!(used.status, 400);
    assert!(used.error().contains("tenant"), "{}", used.error());
    assert_eq!(test.post("/tenants/t_nobody00000/webroots", json!({})).await.status, 404);
    assert_eq!(test.get(&format!("/webroots/{}", ids.tenant)).await.status, 404, "an id of another kind");
    let long_id = test.get(&format!("/brands/{}", "x".repeat(5000))).await;
    assert_eq!(long_id.status, 404);

    // A state that does not allow it is a conflict, not our fault.
    for path in [format!("/webroots/{}/retry", ids.webroot), format!("/tenants/{}/retry", ids.tenant)] {
        let answer = test.post(&path, json!({})).await;
        assert_eq!(answer.status, 409, "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn what_is_not_served_yet_is_named() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let site = |runtime: &str| json!({"subscription_id": ids.subscription, "runtime": runtime, "runtime_version": "20"});
    let webroots = format!("/tenants/{}/webroots", ids.tenant);
    let answer = test.post(&webroots, site("node")).await;
    assert_eq!((answer.status, answer.body["field"].as_str()), (501, Some("runtime")), "{answer:?}");
    assert!(answer.error().contains("runtime"), "{}", answer.error());
    let mut tenant = test.tenant_body("first");
    tenant["databases"] = json!([{"subscription_id": "x"}]);
    let answer = test.post("/tenants", tenant).await;
    assert_eq!((answer.status, answer.body["field"].as_str()), (501, Some("databases")));
    let answer = test.put(&format!("/tenants/{}", ids.tenant), json!({"ssh_enabled": true})).await;
    assert_eq!((answer.status, answer.body["field"].as_str()), (501, Some("ssh_enabled")));
    let records = format!("/zones/{}/records", ids.zone);
    let answer = test.post(&records, json!({"type": "TLSA", "name": "x", "content": "3 1 1 00"})).await;
    assert_eq!((answer.status, answer.body["field"].as_str()), (501, Some("type")));
}

#[tokio::test]
async fn unknown_fields_are_ignored_with_a_warning() {
    let test = TestApi::empty().await;
    let made = test.post("/regions", json!({"name": "a", "colour": "red"})).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.body["warnings"][0]["message"], json!("colour: unknown field, ignored"));
    let changed = test.put(&format!("/regions/{}", made.id()), json!({"size": 1})).await.ok(200);
    assert_eq!(changed["warnings"][0]["field"], json!("size"));
}

#[tokio::test]
async fn generations_guard_against_overwriting() {
    let test = TestApi::empty().await;
    let made = test.post("/regions", json!({"name": "a"})).await;
    let path = format!("/api/v1/regions/{}", made.id());
    let read = test.get(&format!("/regions/{}", made.id())).await;
    assert!(read.headers["etag"].to_str().unwrap().starts_with("\"1-"));
    let put = |tag: &str, name: &str| {
        Request::builder()
            .method(Method::PUT)
            .uri(&path)
            .header("x-api-key", &test.admin)
            .header("if-match", tag)
            .body(Body::from(json!({"name": name}).to_string()))
            .unwrap()
    };
    let changed = test.send(put("\"1\"", "b")).await;
    assert!(changed.status == 200 && changed.headers["etag"].to_str().unwrap().starts_with("\"2-"));
    let late = test.send(put("\"1\"", "c")).await;
    assert_eq!(late.status, 412);
    assert!(late.error().contains("generation 2"), "{}", late.error());
    assert_eq!(test.send(put("*", "c")).await.status, 200);
    assert_eq!(test.send(put("soon", "d")).await.status, 400);
}

#[tokio::test]
async fn requests_have_ids_traces_and_metrics() {
    let test = TestApi::empty().await;
    let request = Request::builder()
        .uri("/api/v1/regions")
        .header("x-api-key", &test.admin)
        .header("x-request-id", "mine-1")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .body(Body::empty())
        .unwrap();
    let answer = test.send(request).await;
    assert_eq!(answer.headers["x-request-id"], "mine-1");
    let trace = answer.headers["traceparent"].to_str().unwrap();
    assert!(
        trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && !trace.contains("b7ad6b7169203331"),
        "{trace}"
    );
    let answer = test.get("/regions/nothing").await;
    assert_eq!(answer.headers["x-request-id"].len(), 36);
    assert_eq!(answer.headers["traceparent"].len(), 55);
    test.get("/x/y/z").await;

    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &test.registry).unwrap();
    for line in [
        "http_requests_total{method=\"GET\",path=\"/api/v1/regions\",status=\"200\"} 1",
        "http_requests_total{method=\"GET\",path=\"/api/v1/regions/{id}\",status=\"404\"} 1",
        "http_requests_total{method=\"GET\",path=\"unmatched\",status=\"404\"} 1",
        "http_request_duration_seconds_count{method=\"GET\",path=\"/api/v1/regions/{id}\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn documents_and_health_need_no_key() {
    let test = TestApi::empty().await;
    let plain = |path: &str| Request::builder().uri(path).body(Body::empty()).unwrap();
    let document = test.send(plain("/docs/openapi.json")).await;
    assert_eq!((document.status, document.body["openapi"].as_str()), (200, Some("3.1.0")));
    let page = test.send(plain("/docs")).await;
    assert!(page.body.as_str().unwrap().contains("/api/v1/tenants"));
    assert_eq!(test.send(plain("/healthz")).await.ok(200), json!({"status": "ok"}));
    assert_eq!(test.send(plain("/readyz")).await.ok(200), json!({"core_db": "ok"}));
    test.store.close().await;
    assert_eq!(test.router_status("/readyz").await, 503);
}

impl TestApi {
    async fn router_status(&self, path: &str) -> u16 {
        use tower::ServiceExt;
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        self.router.clone().oneshot(request).await.unwrap().status().as_u16()
    }
}
