//! How long, from where, and in whose place an API key opens.

use axum::body::Body;
use axum::http::{Method, Request};
use hosting_api::ApiConfig;
use hosting_scaffold::http::ClientAddress;
use serde_json::json;

use crate::harness::{Answer, TestApi};

impl TestApi {
    async fn read_with(&self, key: &str, from: Option<&str>) -> Answer {
        let mut request =
            Request::builder().uri("/api/v1/tenants").header("x-api-key", key).body(Body::empty()).unwrap();
        if let Some(from) = from {
            request.extensions_mut().insert(ClientAddress(from.parse().unwrap()));
        }
        self.send(request).await
    }
}

#[tokio::test]
async fn a_key_ends_when_it_says() {
    let test = TestApi::with_fleet().await;
    let body = |at: &str| json!({"name": "k", "scopes": ["tenants:read"], "brands": ["*"], "expires_at": at});
    let past = test.post("/api-keys", body("2001-02-03T04:05:06+01:00")).await;
    assert_eq!((past.status, &past.body["expires_at"]), (201, &json!("2001-02-03T03:05:06Z")));
    let refused = test.read_with(past.body["key"].as_str().unwrap(), None).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.error(), "this API key ended at 2001-02-03T03:05:06Z; ask for a new one");
    let path = format!("/api-keys/{}", past.id());
    test.call(Method::PATCH, &path, Some(&test.admin), Some(json!({"expires_at": null}))).await.ok(200);
    test.read_with(past.body["key"].as_str().unwrap(), None).await.ok(200);
    test.call(Method::PATCH, &path, Some(&test.admin), Some(body("2999-01-01T00:00:00Z"))).await.ok(200);
    // A PUT without it leaves it alone.
    let put =
        test.put(&path, json!({"name": "k", "scopes": ["tenants:read"], "brands": ["*"]})).await.ok(200);
    assert_eq!(put["expires_at"], "2999-01-01T00:00:00Z");
    test.read_with(past.body["key"].as_str().unwrap(), None).await.ok(200);
    let wrong = test.post("/api-keys", body("tomorrow")).await;
    assert_eq!((wrong.status, &wrong.body["field"]), (400, &json!("expires_at")));
}

#[tokio::test]
async fn a_key_opens_from_its_networks_alone() {
    let test = TestApi::with_fleet().await;
    let body = json!({
        "name": "k", "scopes": ["tenants:read"], "brands": ["*"],
        "allowed_networks": ["192.0.2.77/24", "2001:db8::1", "192.0.2.0/24"],
    });
    let made = test.post("/api-keys", body).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.body["allowed_networks"], json!(["192.0.2.0/24", "2001:db8::1/128"]));
    let key = made.body["key"].as_str().unwrap().to_owned();
    for (from, status) in [
        (Some("192.0.2.200"), 200),
        (Some("2001:db8::1"), 200),
        (Some("192.0.3.1"), 403),
        (Some("2001:db8::2"), 403),
        (None, 403),
    ] {
        let answer = test.read_with(&key, from).await;
        assert_eq!(answer.status, status, "{from:?}: {answer:?}");
    }
    let path = format!("/api-keys/{}", made.id());
    test.call(Method::PATCH, &path, Some(&test.admin), Some(json!({"allowed_networks": null}))).await.ok(200);
    test.read_with(&key, Some("203.0.113.9")).await.ok(200);
    let wrong = json!({"name": "k", "scopes": ["tenants:read"], "brands": ["*"], "allowed_networks": ["10.0.0.0/33"]});
    assert_eq!(test.post("/api-keys", wrong).await.body["field"], "allowed_networks[0]");
}

#[tokio::test]
async fn the_key_before_opens_for_a_while_beside_the_new_one() {
    let test = TestApi::with_fleet().await;
    let (id, first) = test.key(&["tenants:read"], &["*"]).await;
    let path = format!("/api-keys/{id}/rotate");
    let rotated = test.post(&path, json!({"overlap_seconds": 3600})).await.ok(200);
    let second = rotated["key"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    assert!(rotated["former_until"].is_string() && rotated.get("rotated_out").is_none(), "{rotated}");
    assert!(second.starts_with(rotated["key_prefix"].as_str().unwrap()));
    for key in [&first, &second] {
        test.read_with(key, None).await.ok(200);
    }
    // A third one ends the first at once; without an overlap the second too.
    let third =
        test.post(&path, json!({"overlap_seconds": 0})).await.ok(200)["key"].as_str().unwrap().to_owned();
    let ended = test.read_with(&first, None).await;
    assert!(ended.status == 401 && ended.error().starts_with("this API key ended at"), "{ended:?}");
    // A file that still holds it does not make it new: that is how a controller admits its bootstrap key at each start.
    let text = first.clone();
    let admitted = test.store.write(hosting_store::Origin::default(), move |tx| {
        Box::pin(async move {
            hosting_planner::admit_key(tx, "bootstrap", &text, &mut |buffer| rand::fill(buffer)).await
        })
    });
    admitted.await.unwrap();
    assert_eq!(test.read_with(&first, None).await.status, 401);
    let ended = test.read_with(&second, None).await;
    assert!(ended.status == 401 && ended.error().starts_with("this API key ended at"), "{ended:?}");
    test.read_with(&third, None).await.ok(200);
    let long = test.post(&path, json!({"overlap_seconds": 2_592_001})).await;
    assert_eq!((long.status, &long.body["field"]), (400, &json!("overlap_seconds")));
    // Nobody gets a key that can more than their own.
    let (_, limited) = test.key(&["api_keys:write"], &["*"]).await;
    let refused = test.call(Method::POST, &path, Some(&limited), None).await;
    assert_eq!((refused.status, refused.error()), (403, "insufficient scope: requires tenants:read"));
    test.delete(&format!("/api-keys/{id}")).await.ok(204);
    for key in [&second, &third] {
        assert_eq!(test.read_with(key, None).await.status, 401);
    }
}

#[tokio::test]
async fn a_key_shows_when_it_was_used_last_and_no_request_writes_it() {
    let behaviour =
        ApiConfig { key_uses_every: std::time::Duration::from_millis(50), ..ApiConfig::default() };
    let test = TestApi::behaving(behaviour).await;
    let (id, key) = test.key(&["regions:read"], &["*"]).await;
    let path = format!("/api-keys/{id}");
    assert!(test.get(&path).await.body.get("last_used_at").is_none(), "it was never used");
    let refused = test.call(Method::GET, "/tenants", Some(&key), None).await;
    assert_eq!(refused.status, 403);
    let head = test.store.read().await.unwrap().head();
    test.call(Method::GET, "/regions", Some(&key), None).await.ok(200);
    let used = test.until(&path, |answer| answer.body["last_used_at"].is_string()).await;
    let at: jiff::Timestamp = used.body["last_used_at"].as_str().unwrap().parse().unwrap();
    assert!(jiff::Timestamp::now().duration_since(at).as_secs() < 60, "{at}");
    assert_eq!(test.store.read().await.unwrap().head(), head, "it is no change of the key");
    let listed = test.get("/api-keys?fields=last_used_at").await.ok(200);
    let items = listed["items"].as_array().unwrap();
    assert!(items.iter().any(|item| item["id"] == id && item["last_used_at"].is_string()), "{listed}");

    // Of two controllers the one that was asked last is believed.
    test.store.save_key_uses(vec![(id.clone(), 1_000)]).await.unwrap();
    assert!(test.store.read().await.unwrap().key_uses(&[id]).await.unwrap().values().all(|at| *at > 1_000));
}
