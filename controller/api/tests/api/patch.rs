//! PATCH: merge patches (RFC 7396), in which null is not absent.

use axum::http::Method;
use hosting_resource::Kind;
use serde_json::{Value, json};

use crate::authorization::path_of;
use crate::harness::{Answer, TestApi};

impl TestApi {
    async fn patch(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PATCH, path, Some(&self.admin), Some(body)).await
    }
}

#[tokio::test]
async fn every_kind_that_can_be_changed_takes_a_patch_of_nothing() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let mut patched = 0;
    for route in hosting_api::table().iter().filter(|route| route.method == Method::PATCH) {
        let path = path_of(&test, &ids, route);
        if route.subject == Some(Kind::ApiKey) {
            continue;
        }
        let before = test.get(&path).await.ok(200);
        let answer = test.patch(&path, json!({})).await;
        assert_eq!(answer.status, route.success, "{path}: {answer:?}");
        assert!(answer.body.get("warnings").is_none(), "{path}: {answer:?}");
        let after = test.get(&path).await.ok(200);
        assert_eq!(after, before, "{path}");
        patched += 1;
    }
    assert!(patched > 8, "{patched}");
}

#[tokio::test]
async fn null_takes_away_and_absent_leaves_alone() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let cluster = format!("/clusters/{}", test.cluster);
    test.put(&cluster, json!({"config": {"a": 1, "deep": {"x": 1, "y": 2}}})).await.ok(200);
    let patch = json!({"config": {"b": 2, "deep": {"y": null, "z": {"n": null}}}});
    let patched = test.patch(&cluster, patch).await.ok(200);
    assert_eq!(patched["config"], json!({"a": 1, "b": 2, "deep": {"x": 1, "z": {}}}));
    let replaced = test.put(&cluster, json!({"config": {"c": 3}})).await.ok(200);
    assert_eq!(replaced["config"], json!({"c": 3}), "a PUT replaces");

    let fqdn = format!("/fqdns/{}", ids.fqdn);
    assert_eq!(
        test.patch(&fqdn, json!({"ssl_enabled": false})).await.ok(200)["webroot_id"],
        ids.webroot.as_str()
    );
    assert!(
        test.patch(&fqdn, json!({"webroot_id": null}))
            .await
            .ok(200)
            .get("webroot_id")
            .is_none_or(Value::is_null)
    );

    // What a PUT takes for "not given" is refused: a patch that says something and changes nothing would be lost.
    let record = format!("/zone-records/{}", ids.record);
    for (field, value) in
        [("ttl", json!(null)), ("ttl", json!(0)), ("content", json!("")), ("content", json!(null))]
    {
        let refused = test.patch(&record, json!({field: value})).await;
        assert_eq!(
            (refused.status, &refused.body["field"]),
            (400, &json!(field)),
            "{field} {value}: {refused:?}"
        );
    }
    assert_eq!(test.patch(&record, json!({"ttl": 120})).await.ok(202)["content"], "hello");

    // A key's PUT wants all of it.
    let (key, _) = test.key(&["tenants:read"], &["first"]).await;
    let renamed = test.patch(&format!("/api-keys/{key}"), json!({"name": "renamed"})).await.ok(200);
    assert_eq!((&renamed["name"], &renamed["scopes"]), (&json!("renamed"), &json!(["tenants:read"])));

    let rows = test.get("/audit-logs?action=patch&limit=200").await.ok(200);
    let rows = rows["items"].as_array().unwrap().clone();
    assert!(rows.iter().any(|row| row["method"] == "PATCH" && row["status_code"] == 200), "{rows:?}");
    assert!(rows.iter().any(|row| row["status_code"] == 400), "{rows:?}");
}
