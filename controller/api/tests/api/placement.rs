//! Tenants without a shard, drains, and what would fail without some nodes.

use axum::http::Method;
use serde_json::{Value, json};

use crate::harness::{Ids, TestApi};
use crate::platform;

impl TestApi {
    fn unplaced(&self, customer: &str) -> Value {
        json!({
            "brand_id": "acme", "customer_id": customer, "region_id": self.region, "cluster_id": self.cluster,
        })
    }

    async fn second_shard(&self) -> String {
        let shard = json!({"name": "web-2", "role": "web"});
        let shard = self.post(&format!("/clusters/{}/shards", self.cluster), shard).await.id();
        let node = json!({
            "id": "web-2", "hostname": "web-2", "roles": ["web"], "ip_address": "192.0.2.22", "shard_ids": [shard],
            "failure_domain": "rack-2",
        });
        self.post(&format!("/clusters/{}/nodes", self.cluster), node).await.ok(201);
        shard
    }
}

/// However many ask at once, a shard takes as many as it has room for.
#[tokio::test]
async fn the_last_places_of_a_shard_are_given_once() {
    let (test, _place) = platform().await;
    test.brand("acme").await;
    // One is there already.
    test.put(&format!("/shards/{}", test.shard), json!({"max_tenants": 4})).await.ok(200);
    let all = (0..24).map(|n| {
        let body = test.unplaced(&format!("c{n}"));
        let test = &test;
        async move { test.post("/tenants", body).await.status }
    });
    let mut codes = futures::future::join_all(all).await;
    codes.sort_unstable();
    assert_eq!(codes.iter().filter(|code| **code == 202).count(), 3, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 409).count(), 21, "{codes:?}");
    let drain = test.get(&format!("/shards/{}/drain", test.shard)).await.ok(200);
    assert_eq!((&drain["tenants"], &drain["is_empty"]), (&json!(4), &json!(false)));
    let stats = test.get("/dashboard/stats").await.ok(200);
    assert_eq!(stats["tenants_per_shard"][0]["count"], json!(4), "{stats}");
}

#[tokio::test]
async fn a_tenant_without_a_shard_says_where_it_lives_and_why() {
    let (test, _place) = platform().await;
    test.brand("acme").await;
    let second = test.second_shard().await;
    let plan = test.post("/tenants?dry_run=true", test.unplaced("c0")).await.ok(200);
    let planned = plan["resources"].as_array().unwrap().iter().find(|one| one["kind"] == "tenant").unwrap();
    assert_eq!(planned["placement"]["shard_id"], json!(second), "{plan}");
    let tenant = test.post("/tenants", test.unplaced("c0")).await.ok(202);
    assert_eq!((&tenant["shard_id"], &tenant["shard_name"]), (&json!(second), &json!("web-2")));
    assert_eq!(tenant["placement"], planned["placement"]);
    assert!(tenant["placement"]["reason"].as_str().unwrap().contains("0 tenants before"), "{tenant}");
    // What came with it is on that shard.
    let empty = json!({"shard_id": ""});
    let mut body = test.unplaced("c1");
    body.as_object_mut().unwrap().extend(empty.as_object().cloned().unwrap());
    test.post("/tenants?wait=ready", body).await.ok(200);
}

#[tokio::test]
async fn a_node_is_drained_and_taken_back() {
    let (test, _place) = platform().await;
    let Ids { tenant, .. } = test.brand("acme").await;
    let refused = test.post("/nodes/web-1/drain", json!({})).await;
    assert_eq!(
        (refused.status, refused.error().contains("last one of shard web-1")),
        (409, true),
        "{refused:?}"
    );
    let node = json!({
        "id": "web-1b", "hostname": "web-1b", "roles": ["web"], "ip_address": "192.0.2.23", "shard_ids": [test.shard],
    });
    test.post(&format!("/clusters/{}/nodes", test.cluster), node).await.ok(201);
    let state = test.get("/nodes/web-1/drain").await.ok(200);
    assert_eq!((&state["is_out"], &state["pools"][0]["serves"]), (&json!(false), &json!(true)), "{state}");
    let drained = test.post("/nodes/web-1/drain", json!({})).await.ok(200);
    assert!(drained["draining"]["since"].is_string(), "{drained}");
    let state = test.until("/nodes/web-1/drain", |state| state.body["is_out"] == true).await.body;
    assert_eq!(
        (&state["pools"][0]["serves"], &state["pools"][0]["others_serving"]),
        (&json!(false), &json!(1))
    );
    // Only the other one is left now.
    let last = test.get("/plan/without?nodes=web-1b").await.ok(200);
    assert_eq!(
        (&last["parts"][0]["name"], &last["parts"][0]["lost"]),
        (&json!("web-1"), &json!(true)),
        "{last}"
    );
    assert_eq!(last["names"][0]["name"], "www.acme-zone.example", "{last}");
    assert_eq!(last["names"][0]["tenant_id"], json!(tenant));
    let back = test.post("/nodes/web-1/undrain", json!(null)).await.ok(200);
    assert!(back.get("draining").is_none());
    let fine = test.get("/plan/without?nodes=web-1b").await.ok(200);
    assert_eq!((&fine["parts"][0]["serving"], &fine["names"]), (&json!(1), &json!([])), "{fine}");
    let rows = test.get("/audit-logs?limit=5").await.ok(200);
    assert!(rows["items"].to_string().contains("/nodes/web-1/undrain"), "{rows}");
}

#[tokio::test]
async fn a_shard_is_drained_and_takes_no_more() {
    let (test, _place) = platform().await;
    test.brand("acme").await;
    let path = format!("/shards/{}", test.shard);
    assert_eq!(test.post(&format!("{path}/drain"), json!({})).await.status, 409, "it is the last one");
    let second = test.second_shard().await;
    test.post(&format!("{path}/drain"), json!({"force": false})).await.ok(200);
    assert_eq!(test.post("/tenants", test.unplaced("c0")).await.ok(202)["shard_id"], json!(second));
    let mut named = test.unplaced("c1");
    named["shard_id"] = json!(test.shard);
    let refused = test.post("/tenants", named.clone()).await;
    assert_eq!((refused.status, refused.error().contains("is being drained")), (409, true), "{refused:?}");
    test.post(&format!("{path}/undrain"), json!(null)).await.ok(200);
    test.post("/tenants", named).await.ok(202);
}

#[tokio::test]
async fn what_would_fail_is_for_the_platforms_keys_and_for_known_nodes() {
    let (test, _place) = platform().await;
    test.brand("acme").await;
    let (_, key) = test.key(&["*:*"], &["acme"]).await;
    let path = "/plan/without?nodes=web-1,edge-1,dns-1";
    assert_eq!(test.call(Method::GET, path, Some(&key), None).await.status, 403);
    let mut names = Vec::new();
    let mut next = format!("{path}&limit=1");
    loop {
        let page = test.get(&next).await.ok(200);
        let parts: Vec<&str> =
            page["parts"].as_array().unwrap().iter().map(|part| part["part"].as_str().unwrap()).collect();
        assert_eq!(parts, ["shard", "cluster", "dns_group"]);
        names.extend(
            page["names"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| format!("{} {}", one["part"].as_str().unwrap(), one["name"].as_str().unwrap())),
        );
        match page["next_cursor"].as_str() {
            Some(cursor) => next = format!("{path}&limit=1&cursor={cursor}"),
            None => break,
        }
    }
    let wanted =
        ["shard www.acme-zone.example", "cluster www.acme-zone.example", "dns_group acme-zone.example"];
    assert_eq!(names, wanted);
    for wrong in ["", "?nodes=,", "?nodes=nobody", "?nodes=web-1&cursor=x"] {
        assert_eq!(test.get(&format!("/plan/without{wrong}")).await.status, 400, "{wrong}");
    }
}
