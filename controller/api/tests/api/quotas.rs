//! Limits of how many resources somebody may have, and what there is beside them.

use axum::http::Method;
use futures::future::join_all;
use serde_json::{Value, json};

fn row<'a>(usage: &'a Value, kind: &str) -> &'a Value {
    usage["items"].as_array().unwrap().iter().find(|row| row["kind"] == kind).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_get_ten_places() {
    let (test, _place) = crate::platform().await;
    let ids = test.brand("acme").await;
    let path = format!("/tenants/{}", ids.tenant);
    test.call(Method::PATCH, &path, Some(&test.admin), Some(json!({"limits": {"fqdns": 10}}))).await.ok(202);
    // One is there already.
    let ask = |n: usize| {
        let test = &test;
        let path = format!("{path}/fqdns");
        async move { test.post(&path, json!({"fqdn": format!("n{n}.elsewhere.example")})).await }
    };
    let answers = join_all((0..100).map(ask)).await;
    let made = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!(made, 9);
    for answer in answers.iter().filter(|answer| answer.status != 202) {
        let body = &answer.body;
        assert_eq!(
            (answer.status, &body["quota"], &body["limit"], &body["used"]),
            (409, &json!("fqdns"), &json!(10), &json!(10))
        );
        assert_eq!(body["of"], json!({"type": "tenant", "id": ids.tenant}));
    }
    let usage = test.get(&format!("{path}/usage")).await.ok(200);
    assert_eq!(row(&usage, "fqdns"), &json!({"kind": "fqdns", "used": 10, "limit": 10, "from": "own"}));
    // A place is free again once what had it is gone.
    let one = answers.iter().find(|answer| answer.status == 202).unwrap().id();
    test.delete(&format!("/fqdns/{one}?wait=ready")).await.ok(200);
    assert_eq!(row(&test.get(&format!("{path}/usage")).await.ok(200), "fqdns")["used"], 9);
    test.post(&format!("{path}/fqdns"), json!({"fqdn": "last.example"})).await.ok(202);
    // What is planned takes no place and is refused like the change.
    let refused = test.post(&format!("{path}/fqdns?dry_run=true"), json!({"fqdn": "more.example"})).await;
    assert_eq!((refused.status, &refused.body["quota"]), (409, &json!("fqdns")));
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_what_there_is() {
    let (test, _place) = crate::platform().await;
    let ids = test.brand("acme").await;
    let package = json!({"name": "medium", "limits": {"webroots": 5, "zones": 2}});
    let package = test.post("/brands/acme/packages", package).await;
    assert_eq!((package.status, &package.body["limits"]["zones"]), (201, &json!(2)), "{package:?}");
    let tenant = format!("/tenants/{}", ids.tenant);
    test.put(&tenant, json!({"package_id": package.id(), "limits": {"zones": 7}})).await.ok(202);
    let usage = test.get(&format!("{tenant}/usage")).await.ok(200);
    let used = |kind: &str| row(&usage, kind)["used"].as_u64().unwrap();
    assert_eq!((used("fqdns"), used("webroots"), used("zones"), used("certificates")), (1, 1, 1, 1));
    assert_eq!(
        (used("subscriptions"), used("zone_records"), used("tenants")),
        (1, 1, 0),
        "automatic records are not counted"
    );
    assert_eq!(row(&usage, "webroots")["from"], "package");
    assert_eq!((&row(&usage, "zones")["limit"], &row(&usage, "zones")["from"]), (&json!(7), &json!("own")));
    assert!(row(&usage, "fqdns").get("limit").is_none());
    let brand = test.get("/brands/acme/usage").await.ok(200);
    assert_eq!(
        (row(&brand, "tenants")["used"].as_u64(), row(&brand, "packages")["used"].as_u64()),
        (Some(1), Some(2))
    );
    let billed = test.get(&format!("/subscriptions/{}/usage", ids.subscription)).await.ok(200);
    assert_eq!(
        (row(&billed, "webroots")["used"].as_u64(), row(&billed, "zones")["used"].as_u64()),
        (Some(1), Some(1))
    );
    // A tenant goes with everything that was counted.
    test.delete(&format!("{tenant}?wait=ready&wait_timeout=20")).await.ok(200);
    let brand = test.get("/brands/acme/usage").await.ok(200);
    for row in brand["items"].as_array().unwrap() {
        let left = [("packages", 2), ("webhooks", 1)].into_iter().find(|(kind, _)| row["kind"] == *kind);
        assert_eq!(row["used"], left.map_or(0, |(_, count)| count), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_checked_and_a_brands_are_the_platforms_to_set() {
    let (test, _place) = crate::platform().await;
    test.brand("acme").await;
    let wrong = test.post("/brands/acme/packages", json!({"name": "x", "limits": {"websites": 1}})).await;
    assert_eq!((wrong.status, &wrong.body["field"]), (400, &json!("limits.websites")));
    let (_, key) = test.key(&["brands:*", "packages:*"], &["acme"]).await;
    let limits = json!({"limits": {"webroots": 1}});
    let refused = test.call(Method::PUT, "/brands/acme", Some(&key), Some(limits.clone())).await;
    assert_eq!((refused.status, refused.error()), (403, "limits: only a platform admin may change it"));
    test.put("/brands/acme", limits).await.ok(200);
    test.call(Method::PUT, "/brands/acme", Some(&key), Some(json!({"name": "Acme"}))).await.ok(200);
    let path = "/brands/acme/packages";
    let made = test
        .call(
            Method::POST,
            path,
            Some(&key),
            Some(json!({"id": "p", "name": "p", "limits": {"webroots": 1, "zones": 1}})),
        )
        .await;
    assert_eq!(made.status, 201, "{made:?}");
    // A merge patch takes one limit away and leaves the others.
    let patch = json!({"limits": {"webroots": null, "fqdns": 3}});
    let patched = test.call(Method::PATCH, "/packages/p", Some(&key), Some(patch)).await.ok(200);
    assert_eq!(patched["limits"], json!({"zones": 1, "fqdns": 3}));
}
