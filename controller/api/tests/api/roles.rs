//! Roles: scopes by a name, which keys have beside their own.

use axum::http::Method;
use hosting_resource::roles::BUILT_IN;
use serde_json::{Value, json};

use crate::harness::{Answer, TestApi};

impl TestApi {
    async fn key_of(&self, body: Value) -> Answer {
        let mut whole = json!({"name": "k", "brands": ["*"]});
        for (field, value) in body.as_object().unwrap() {
            whole[field] = value.clone();
        }
        self.post("/api-keys", whole).await
    }

    async fn status(&self, method: Method, path: &str, key: &str) -> u16 {
        self.call(method, path, Some(key), Some(json!({}))).await.status
    }
}

#[tokio::test]
async fn a_changed_role_counts_at_once_for_all_of_its_keys() {
    let (test, _place) = crate::platform().await;
    let role = json!({"id": "dns", "name": "DNS", "scopes": ["zones:read"]});
    test.post("/roles", role).await.ok(201);
    let made = test.key_of(json!({"roles": ["dns"]})).await;
    assert_eq!((made.status, &made.body["roles"]), (201, &json!(["dns"])), "{made:?}");
    let key = made.body["key"].as_str().unwrap().to_owned();
    let beside = test.key_of(json!({"scopes": ["regions:read"], "roles": ["dns"]})).await;
    let beside = beside.body["key"].as_str().unwrap().to_owned();
    assert_eq!(test.status(Method::GET, "/zones", &key).await, 200);
    assert_eq!(test.status(Method::GET, "/regions", &key).await, 403);
    assert_eq!(test.status(Method::GET, "/regions", &beside).await, 200, "its own scopes too");
    test.put("/roles/dns", json!({"scopes": ["regions:read"]})).await.ok(200);
    for key in [&key, &beside] {
        assert_eq!(test.status(Method::GET, "/zones", key).await, 403);
        assert_eq!(test.status(Method::GET, "/regions", key).await, 200);
    }
    let inside = test.call(Method::GET, "/zones", Some(&key), None).await;
    assert_eq!(inside.error(), "insufficient scope: requires zones:read");

    // It stays while a key has it, and goes when those are revoked.
    let kept = test.delete("/roles/dns").await;
    assert_eq!((kept.status, kept.body["type"].as_str()), (400, Some("/docs#problem-in-use")));
    let path = format!("/api-keys/{}", made.id());
    let put = json!({"name": "k", "scopes": [], "brands": ["*"], "roles": null});
    assert_eq!(test.put(&path, put).await.body["errors"][0]["field"], "scopes");
    let list = test.get("/api-keys?limit=200").await.ok(200);
    for one in list["items"].as_array().unwrap().iter().filter(|one| one["roles"] == json!(["dns"])) {
        test.delete(&format!("/api-keys/{}", one["id"].as_str().unwrap())).await.ok(204);
    }
    test.delete("/roles/dns").await.ok(204);
}

#[tokio::test]
async fn nobody_gives_more_than_they_have_by_a_role() {
    let test = TestApi::with_fleet().await;
    let role = |scopes: &[&str]| json!({"id": "r", "name": "r", "scopes": scopes});
    let (_, maker) = test.key(&["api_keys:*", "zones:read", "undo:write"], &["*"]).await;
    let call = async |method: Method, path: &str, body: Value| {
        test.call(method, path, Some(&maker), Some(body)).await
    };
    let refused = |answer: &Answer, scope: &str| {
        let expected = format!("insufficient scope: requires {scope}");
        assert_eq!((answer.status, answer.error()), (403, expected.as_str()));
    };
    refused(&call(Method::POST, "/roles", role(&["zones:write"])).await, "zones:write");
    assert_eq!(call(Method::POST, "/roles", role(&["zones:read"])).await.status, 201);
    refused(
        &call(Method::PUT, "/roles/r", json!({"scopes": ["zones:read", "zones:write"]})).await,
        "zones:write",
    );
    // Somebody who may widens it: from then on it is more than the maker gives.
    test.put("/roles/r", json!({"scopes": ["zones:*"]})).await.ok(200);
    refused(&call(Method::PUT, "/roles/r", json!({"name": "mine"})).await, "zones:*");
    let key = |roles: &[&str]| json!({"name": "k", "brands": ["*"], "roles": roles});
    refused(&call(Method::POST, "/api-keys", key(&["r"])).await, "zones:*");
    refused(&call(Method::POST, "/api-keys", key(&["read-only"])).await, "*:read");
    // Nor by the key of somebody who has it.
    let theirs = test.key_of(json!({"roles": ["r"]})).await.id();
    refused(&call(Method::POST, &format!("/api-keys/{theirs}/rotate"), json!({})).await, "zones:*");
    // A narrowed role is not widened again by an undo.
    let narrowed = test.put("/roles/r", json!({"scopes": ["zones:read"]})).await.ok(200);
    let undone = call(Method::POST, "/undo", json!({"revision": narrowed["revision"]})).await;
    let text = undone.body.to_string();
    assert!(undone.status != 200 || text.contains("not_restorable"), "{text}");
    assert_eq!(test.get("/roles/r").await.ok(200)["scopes"], json!(["zones:read"]));
    assert_eq!(call(Method::POST, "/api-keys", key(&["r"])).await.status, 201);
    let missing = test.key_of(json!({"roles": ["no-such"]})).await;
    assert_eq!((missing.status, &missing.body["field"]), (400, &json!("roles")));
    let none = test.key_of(json!({})).await;
    assert_eq!((none.status, &none.body["field"]), (400, &json!("scopes")));
}

#[tokio::test]
async fn built_in_roles_open_what_they_say() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("acme").await;
    for (role, expected) in [
        ("read-only", [200, 403, 403, 403]),
        ("operator", [200, 202, 403, 403]),
        ("support", [200, 403, 202, 403]),
        ("billing", [403, 403, 202, 403]),
        ("brand-admin", [200, 403, 202, 403]),
    ] {
        assert!(BUILT_IN.iter().any(|(id, ..)| *id == role), "{role}");
        let key = test.key_of(json!({"roles": [role]})).await.body["key"].as_str().unwrap().to_owned();
        let answers = [
            test.status(Method::GET, "/incidents", &key).await,
            test.status(Method::POST, &format!("/shards/{}/converge", test.shard), &key).await,
            test.status(Method::POST, &format!("/tenants/{}/unsuspend", ids.tenant), &key).await,
            test.status(Method::POST, "/api-keys", &key).await,
        ];
        assert_eq!(answers, expected, "{role}");
    }
    assert_eq!(test.put("/roles/support", json!({"scopes": ["*:*"]})).await.status, 404);
}
