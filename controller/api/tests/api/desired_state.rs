//! What a node is to serve, as the reference's agents read it.

use axum::http::Method;
use serde_json::{Value, json};

use crate::harness::TestApi;

/// Defect 45 of the reference: fields that were never loaded. Each is there, with what there is.
#[tokio::test]
async fn a_web_node_is_told_the_tenants_of_its_shards() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("acme").await;
    let vars = json!({"vars": [{"name": "A", "value": "b"}, {"name": "TOKEN", "value": "s3cret-text", "secret": true}]});
    test.put(&format!("/webroots/{}/env-vars", ids.webroot), vars).await.ok(202);
    test.until(&format!("/webroots/{}", ids.webroot), |answer| answer.body["status"] == "active").await;
    let path = "/internal/v1/nodes/web-1/desired-state";
    let state = test.get(path).await.ok(200);
    let uid = test.get(&format!("/tenants/{}", ids.tenant)).await.body["uid"].clone();
    assert_eq!(
        state,
        json!({
            "node_id": "web-1",
            "has_more": false,
            "shards": [{
                "shard_id": test.shard,
                "shard_role": "web",
                "tenants": [{
                    "id": ids.tenant, "uid": uid, "sftp_enabled": false, "ssh_enabled": false, "status": "active",
                    "ssh_keys": [],
                    "webroots": [{
                        "id": ids.webroot, "runtime": "static", "runtime_version": "1", "runtime_config": "{}",
                        "public_folder": "", "env_file_name": ".env.hosting", "status": "active", "cron_jobs": [], "daemons": [],
                        "env_vars": {"A": "b", "TOKEN": "***"},
                        "fqdns": [{"fqdn": ids.fqdn_name, "ssl_enabled": false, "status": "active"}],
                    }],
                }],
            }],
        })
    );
    // In clear only for who may write nodes, and asks for it.
    let open = format!("{path}?secrets=true");
    let (_, reader) = test.key(&["*:read"], &["*"]).await;
    let refused = test.call(Method::GET, &open, Some(&reader), None).await;
    assert_eq!((refused.status, refused.error()), (403, "insufficient scope: requires nodes:write"));
    let (_, machine) = test.key(&["nodes:read", "nodes:write"], &["*"]).await;
    let opened = test.call(Method::GET, &open, Some(&machine), None).await.ok(200);
    let site = &opened["shards"][0]["tenants"][0]["webroots"][0];
    assert_eq!(site["env_vars"]["TOKEN"], "s3cret-text");

    test.post(&format!("/tenants/{}/suspend?wait=ready", ids.tenant), json!({"reason": "unpaid"}))
        .await
        .ok(200);
    let state = test.get(path).await.ok(200);
    assert_eq!(state["shards"][0]["tenants"][0]["status"], "suspended");
}

#[tokio::test]
async fn an_edge_is_told_the_names_and_pages_go_on() {
    let test = TestApi::with_fleet().await;
    let first = test.brand("first").await;
    let second = test.brand("second").await;
    let edges = test
        .post(&format!("/clusters/{}/shards", test.cluster), json!({"name": "lb-1", "role": "lb"}))
        .await
        .id();
    test.put("/nodes/edge-1", json!({"shard_ids": [edges]})).await.ok(200);
    let path = "/internal/v1/nodes/edge-1/desired-state";
    let state = test.get(path).await.ok(200);
    let mut names: Vec<(&str, &str)> = state["shards"][0]["fqdn_mappings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["fqdn"].as_str().unwrap(), one["lb_backend"].as_str().unwrap()))
        .collect();
    names.sort_unstable();
    let expected = [(first.fqdn_name.as_str(), "shard-web-1"), (second.fqdn_name.as_str(), "shard-web-1")];
    assert_eq!(names, expected);
    assert!(state["shards"][0].get("tenants").is_none(), "{state}");

    let mut seen = Vec::new();
    let mut next = String::new();
    for _ in 0..5 {
        let page = test.get(&format!("/internal/v1/nodes/web-1/desired-state?limit=1{next}")).await.ok(200);
        let tenants = page["shards"][0]["tenants"].as_array().cloned().unwrap_or_default();
        seen.extend(tenants.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => break,
        }
    }
    let mut tenants = [first.tenant, second.tenant];
    tenants.sort_unstable();
    seen.sort_unstable();
    assert_eq!(seen, tenants);
    for bad in ["x", "no-such/t_1"] {
        let refused = test.get(&format!("/internal/v1/nodes/web-1/desired-state?cursor={bad}")).await;
        assert_eq!(refused.status, 400, "{bad}");
    }
    assert_eq!(test.get("/internal/v1/nodes/no-such/desired-state").await.status, 404);
    let empty = test.get("/internal/v1/nodes/dns-1/desired-state").await.ok(200);
    assert_eq!(empty["shards"], Value::Array(Vec::new()));
}
