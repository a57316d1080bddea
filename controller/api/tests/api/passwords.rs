//! Passwords of basic authentication: written, and never shown.

use axum::body::Body;
use axum::http::{Method, Request};
use hosting_intent::basic_auth::PasswordHash;
use serde_json::{Value, json};

use crate::harness::TestApi;

const CANARY: &str = "canary-7a11-of-a-password";
const BCRYPT: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";

fn policy(users: Value) -> Value {
    json!({"http": {"basic_auth": {"enabled": true, "users": users}}})
}

/// The hashes of a resource's users, in their order.
async fn hashes(test: &TestApi, id: &str) -> Vec<String> {
    let stored = test.store.read().await.unwrap().resources(&[id.to_owned()]).await.unwrap().remove(0);
    let users = stored.spec["http"]["basic_auth"]["users"].as_array().unwrap().clone();
    users.iter().map(|user| user["password_hash"]["$password"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_password_becomes_a_hash_that_stays_and_is_never_shown() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let body = json!({"fqdn": "staging.first.example", "http": policy(json!([
        {"name": "anna", "password": CANARY}, {"name": "berta", "password_hash": BCRYPT}]))["http"]});
    let made = test.post(&format!("/tenants/{}/fqdns", ids.tenant), body).await;
    assert_eq!(made.status, 202, "{made:?}");
    let path = format!("/fqdns/{}", made.id());
    let shown = test.get(&path).await.ok(200);
    assert_eq!(shown["http"]["basic_auth"]["users"], json!([{"name": "anna"}, {"name": "berta"}]));
    let before = hashes(&test, &made.id()).await;
    assert!(matches!(PasswordHash::parse(&before[0]), Ok(PasswordHash::Argon2id { .. })), "{before:?}");
    assert!(hosting_passwords::verify(CANARY.as_bytes(), &before[0]));
    assert_eq!(before[1], BCRYPT);
    let generation = async || test.get(&path).await.ok(200)["generation"].clone();
    let first = generation().await;

    // What was read, names alone, the same password, and the password of an imported hash change nothing.
    test.put(&path, shown).await.ok(200);
    test.put(&path, policy(json!([{"name": "anna"}, {"name": "berta"}]))).await.ok(200);
    test.put(&path, policy(json!([{"name": "anna", "password": CANARY}, {"name": "berta"}]))).await.ok(200);
    test.put(&path, policy(json!([{"name": "anna"}, {"name": "berta", "password": "myPassword"}])))
        .await
        .ok(200);
    let patch = json!({"http": {"basic_auth": {"realm": ""}}});
    test.call(Method::PATCH, &path, Some(&test.admin), Some(patch)).await.ok(200);
    assert_eq!((generation().await, hashes(&test, &made.id()).await), (first.clone(), before.clone()));

    let changed = policy(json!([{"name": "anna", "password": "another-password"}, {"name": "berta"}]));
    test.put(&path, changed).await.ok(200);
    let after = hashes(&test, &made.id()).await;
    assert!(after[0] != before[0] && after[1] == before[1] && generation().await != first);
    assert!(hosting_passwords::verify(b"another-password", &after[0]));

    let many: Vec<Value> = (0..101).map(|n| json!({"name": format!("u{n}"), "password": CANARY})).collect();
    for (users, told) in [
        (many.into(), "can be given in one request"),
        (json!([{"name": "carl"}]), "http.basic_auth.users[0].password: is required"),
        (
            json!([{"name": "anna", "password": "hunter2"}]),
            "http.basic_auth.users[0].password: must have from 8",
        ),
        (json!([{"name": "anna", "password": CANARY, "password_hash": BCRYPT}]), "give one of them"),
        (json!([{"name": "anna", "password_hash": "hunter2"}]), "password_hash: is neither"),
        (json!([{"name": "anna", "password_hash": {"$password": ""}}]), "password_hash: is neither"),
    ] {
        let refused = test.put(&path, policy(users)).await;
        assert!(refused.status == 400 && refused.error().contains(told), "{refused:?}");
        assert!(!refused.error().contains(CANARY) && !refused.error().contains("hunter2"));
    }
    for path in ["/audit-logs?limit=200", &path, &format!("{path}/history"), "/fqdns?limit=100"] {
        let answer = test.get(path).await;
        let answer = answer.body.to_string();
        for secret in [CANARY, "another-password", "$argon2", "$2y$", "$password"] {
            assert!(!answer.contains(secret), "GET {path} has {secret}: {answer}");
        }
    }
    let rows = test.get("/audit-logs?limit=200").await.ok(200).to_string();
    assert!(rows.contains("basic_auth") && rows.contains("[REDACTED]"), "{rows}");
}

#[tokio::test]
async fn passwords_stand_in_nested_bodies_plans_and_bulks_and_are_asked_for_once() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let mut tenant = test.tenant_body("first");
    tenant["http"] = policy(json!([{"name": "anna", "password": CANARY}]))["http"].clone();
    let planned = test.post("/tenants?dry_run=true", tenant.clone()).await;
    assert!(planned.status == 200 && !planned.body.to_string().contains("$argon2"), "{planned:?}");
    let made = test.post("/tenants", tenant).await;
    assert_eq!(made.status, 202, "{made:?}");
    assert!(hosting_passwords::verify(CANARY.as_bytes(), &hashes(&test, &made.id()).await[0]));

    // The same key and body are the same request, whatever salt would be next.
    let once = async |password: &str| {
        let body = json!({"fqdn": "once.first.example", "http": policy(json!([{"name": "anna", "password": password}]))["http"]});
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/api/v1/tenants/{}/fqdns", ids.tenant))
            .header("x-api-key", &test.admin)
            .header("idempotency-key", "once")
            .body(Body::from(body.to_string()));
        test.send(request.unwrap()).await
    };
    let (first, again) = (once(CANARY).await, once(CANARY).await);
    assert_eq!((first.status, again.status, first.id()), (202, 202, again.id()));
    assert_eq!(once("another-password").await.status, 422);

    let item = |name: &str, more: Value| {
        let mut item = json!({"op": "create", "kind": "fqdn", "parent": ids.tenant, "body": {"fqdn": name,
            "http": policy(json!([{"name": "anna", "password": CANARY}]))["http"]}});
        item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        item
    };
    let items = json!([item("bulk.first.example", json!({}))]);
    let done = test.post("/bulk", json!({"items": items})).await.ok(200);
    assert_eq!(done["results"][0]["status"], 202, "{done}");
    let id = done["results"][0]["id"].as_str().unwrap();
    assert!(hosting_passwords::verify(CANARY.as_bytes(), &hashes(&test, id).await[0]));
    // What rests on other items is worked out in the writer, where nothing may take so long.
    let tenant = json!({"name": "t", "op": "create", "kind": "tenant", "body": test.tenant_body("first")});
    let items = json!([tenant, item("ref.first.example", json!({"parent": {"$id": "t"}}))]);
    let done = test.post("/bulk", json!({"items": items})).await.ok(200);
    assert_eq!(
        (&done["results"][0]["status"], &done["results"][1]["status"]),
        (&json!(202), &json!(400)),
        "{done}"
    );
    assert!(done["results"][1].to_string().contains("give password_hash"), "{done}");
}
