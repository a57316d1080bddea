//! What operators ask for: dashboard, search, runtimes, the fleet.

use axum::http::Method;
use hosting_api::{AuthorityChange, KekChange};
use serde_json::json;

use crate::harness::TestApi;

#[tokio::test]
async fn the_dashboard_counts() {
    let test = TestApi::with_fleet().await;
    test.brand("first").await;
    let stats = test.get("/dashboard/stats").await.ok(200);
    for (field, count) in [
        ("regions", 1),
        ("clusters", 1),
        ("shards", 1),
        ("nodes", 3),
        ("brands", 1),
        ("tenants", 1),
        ("zones", 1),
        ("webroots", 1),
        ("fqdns", 1),
        ("databases", 0),
        ("incidents_open", 1),
        ("capability_gaps_open", 1),
    ] {
        assert_eq!(stats[field], json!(count), "{field}: {stats}");
    }
    assert_eq!(stats["tenants_per_shard"][0]["count"], 1);
    assert_eq!(stats["nodes_per_cluster"][0]["count"], 3);
    assert_eq!(stats["mttr_minutes"], json!(null));
}

#[tokio::test]
async fn search_finds_by_id_and_name() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let found = async |query: &str| {
        let answer = test.get(&format!("/search?{query}")).await.ok(200);
        answer["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["type"].as_str().unwrap().to_owned(), one["id"].as_str().unwrap().to_owned()))
            .collect::<Vec<_>>()
    };
    let by_name = found("q=first-zone").await;
    assert!(
        by_name.contains(&("zone".into(), ids.zone.clone()))
            && by_name.contains(&("fqdn".into(), ids.fqdn.clone()))
    );
    assert_eq!(found(&format!("q={}", ids.webroot)).await, [("webroot".to_owned(), ids.webroot.clone())]);
    assert!(found("q=").await.is_empty());
    assert!(found("q=%25").await.is_empty(), "a wildcard is a character like others");
}

#[tokio::test]
async fn runtimes_are_noted() {
    let test = TestApi::with_fleet().await;
    let path = format!("/clusters/{}/runtimes", test.cluster);
    assert_eq!(test.get(&path).await.ok(200)["items"], json!([]));
    let made = test.post(&path, json!({"runtime": "php", "version": "8.2"})).await.ok(201);
    assert_eq!((&made["cluster_id"], &made["available"]), (&json!(test.cluster), &json!(true)));
    test.post(&path, json!({"runtime": "php", "version": "8.2"})).await.ok(201);
    assert_eq!(test.get(&path).await.ok(200)["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        test.post(&path, json!({"runtime": "php"})).await.error(),
        "validation error: version: is required"
    );
    let remove = async |version: &str| {
        let body = json!({"runtime": "php", "version": version});
        test.call(Method::DELETE, &path, Some(&test.admin), Some(body)).await.status
    };
    assert_eq!((remove("9.9").await, remove("8.2").await, remove("8.2").await), (404, 204, 404));
}

#[tokio::test]
async fn brands_are_held_to_their_clusters() {
    let test = TestApi::with_fleet().await;
    test.brand("first").await;
    let other = test.post(&format!("/regions/{}/clusters", test.region), json!({"name": "two"})).await.id();
    let path = "/brands/first/clusters";
    assert_eq!(test.get(path).await.ok(200), json!({"cluster_ids": []}));
    let set = test.put(path, json!({"cluster_ids": [other]})).await.ok(200);
    assert_eq!(set["cluster_ids"], json!([other]));
    assert_eq!(test.get(path).await.ok(200), json!({"cluster_ids": [other]}));
    let refused = test.post("/tenants", test.tenant_body("first")).await;
    assert_eq!(refused.status, 400);
    assert!(refused.error().contains(&format!("cluster {} is not allowed for brand first", test.cluster)));
    assert_eq!(test.put(path, json!({"cluster_ids": ["nowhere"]})).await.status, 400);
}

#[tokio::test]
async fn shards_converge() {
    let test = TestApi::with_fleet().await;
    test.brand("first").await;
    let answer = test.post(&format!("/shards/{}/converge", test.shard), json!({})).await;
    assert_eq!((answer.status, answer.body), (202, json!({"status": "converging"})));
}

#[tokio::test]
async fn nodes_join_and_are_forgotten() {
    let test = TestApi::with_fleet().await;
    let made = test.post("/nodes/web-1/join-tokens", json!({})).await.ok(201);
    assert_eq!(made, json!({"token": "token-of-web-1", "expires_at": "1970-01-01T01:00:00Z"}));
    assert_eq!(test.post("/nodes/nobody/join-tokens", json!({})).await.status, 404);
    let rows = test.get("/audit-logs?limit=200").await;
    assert!(!rows.body.to_string().contains("token-of-web-1"));

    let busy = test.post("/nodes/edge-1/forget", json!({})).await;
    assert_eq!(busy.status, 409, "{busy:?}");
    test.fleet.set(|fleet| fleet.away.push("edge-1".into()));
    let forgotten = test.post("/nodes/edge-1/forget", json!({})).await.ok(200);
    assert_eq!(forgotten, json!({"node_id": "edge-1", "data_left": []}));
    assert_eq!(test.fleet.state.lock().unwrap().forgotten, ["edge-1"]);
    assert_eq!(test.post("/nodes/nobody/forget", json!({})).await.status, 404);
}

#[tokio::test]
async fn subscribers_are_listed_and_released() {
    let test = TestApi::with_fleet().await;
    let list = test.get("/subscribers").await.ok(200);
    assert!(list["epoch"].is_string() && list["head"].is_u64());
    let row = &list["items"][0];
    assert_eq!((&row["node_id"], &row["applied"], &row["durable"]), (&json!("edge-1"), &json!(3), &json!(2)));
    assert_eq!((&row["rejected"], &row["held"], &row["orphans"]), (&json!([]), &json!([]), &json!([])));
    let released = test.post("/subscribers/edge-1/release", json!({})).await.ok(200);
    assert_eq!(released, json!({"audiences": ["edge/c"]}));
    assert_eq!(test.fleet.state.lock().unwrap().released, ["edge/c edge-1"]);
    assert_eq!(test.post("/subscribers/nobody/release", json!({})).await.status, 404);
}

#[tokio::test]
async fn key_encryption_keys_are_named_and_changed() {
    let test = TestApi::empty().await;
    let keks = test.get("/platform/keks").await.ok(200);
    assert_eq!(keks, json!({"current": test.store.kek().id(), "former": [], "resealed": true}));
    assert_eq!(test.post("/platform/keks/rotate", json!({})).await.ok(200), keks);
    let needed = test.post("/platform/keks/forget", json!({})).await;
    assert_eq!((needed.status, needed.error()), (409, "still needed"));
    let asked = test.fleet.state.lock().unwrap().kek_changes.clone();
    assert_eq!(asked, [KekChange::Rotate, KekChange::ForgetFormer]);
}

#[tokio::test]
async fn certificate_authorities_are_shown_and_exchanged() {
    let test = TestApi::empty().await;
    let shown = json!({
        "items": [{"fingerprint": "ab", "issues": true}], "untold": ["edge-1 (edge/c)"],
        "retirable_at": "1970-01-01T01:00:00Z",
    });
    assert_eq!(test.get("/platform/authorities").await.ok(200), shown);
    assert_eq!(test.post("/platform/authorities/add", json!({})).await.ok(200), shown);
    let unknown = test.post("/platform/authorities/promote", json!({"fingerprint": "ff"})).await;
    assert_eq!((unknown.status, unknown.error()), (404, "ff"));
    let needed = test.post("/platform/authorities/retire", json!({"fingerprint": "ab"})).await;
    assert_eq!((needed.status, needed.error()), (409, "still needed"));
    let forced = json!({"fingerprint": "ab", "force": true});
    assert_eq!(test.post("/platform/authorities/retire", forced).await.ok(200), shown);
    assert_eq!(test.post("/platform/authorities/retire", json!({})).await.status, 400);
    let asked = test.fleet.state.lock().unwrap().authority_changes.clone();
    let fingerprint = || "ab".to_owned();
    assert_eq!(
        asked,
        [
            AuthorityChange::Add,
            AuthorityChange::Promote { fingerprint: "ff".to_owned() },
            AuthorityChange::Retire { fingerprint: fingerprint(), force: false },
            AuthorityChange::Retire { fingerprint: fingerprint(), force: true },
        ]
    );
}

#[tokio::test]
async fn heads_of_the_audit_log_are_listed_and_a_key_gives_way_to_another() {
    let test = TestApi::empty().await;
    test.post("/regions", json!({"name": "north"})).await.ok(201);
    assert_eq!(test.get("/audit/heads").await.ok(200)["items"], json!([]));
    let first = test.store.sign_audit_head().await.unwrap().unwrap();
    let said = test.post("/audit/heads/replace-key", json!({})).await.ok(200);
    assert_eq!((&said["number"], &said["key"]), (&json!(2), &json!(first.key)));
    test.store.sign_audit_head().await.unwrap().unwrap();
    let page = test.get("/audit/heads?limit=2").await.ok(200);
    assert_eq!(
        (page["items"][0]["link"].as_str(), &page["has_more"]),
        (Some(first.link.as_str()), &json!(true))
    );
    let next = page["next_cursor"].as_str().unwrap();
    let last = test.get(&format!("/audit/heads?cursor={next}")).await.ok(200);
    assert_eq!((&last["items"][0]["key"], &last["has_more"]), (&said["successor"], &json!(false)));
    for bad in ["x", "-1", "9223372036854775808"] {
        assert_eq!(test.get(&format!("/audit/heads?cursor={bad}")).await.status, 400, "{bad}");
    }
}
