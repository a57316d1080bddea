//! Names, records and what is wrong with them, as callers see it.

use serde_json::{Value, json};

use crate::harness::TestApi;

const SCOPES: &[&str] = &[
    "brands:read",
    "brands:write",
    "subscriptions:read",
    "subscriptions:write",
    "subscriptions:delete",
    "zones:read",
    "zones:write",
];

fn codes(body: &Value) -> Vec<&str> {
    let list = body["warnings"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|warning| warning["code"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_will_not_work_is_told_in_every_place() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let records = format!("/zones/{}/records", ids.zone);
    let mx = json!({"type": "MX", "name": "@", "content": "nowhere", "priority": 10});
    let mx = test.post(&records, mx).await.ok(202);
    assert_eq!(codes(&mx), ["target_missing"]);
    for field in ["record", "message", "remedy"] {
        assert!(!mx["warnings"][0][field].as_str().unwrap().is_empty(), "{field}: {mx}");
    }
    let path = format!("/zone-records/{}", mx["id"].as_str().unwrap());
    let waited = test.put(&format!("{path}?wait=ready"), json!({"ttl": 600})).await.ok(200);
    assert_eq!(codes(&waited), ["target_missing"]);
    let zone = test.get(&format!("/zones/{}", ids.zone)).await.ok(200);
    assert_eq!(codes(&zone), ["target_missing"]);
    // What was read can be sent back.
    let same = test.put(&format!("/zones/{}", ids.zone), zone).await.ok(200);
    assert_eq!(same["generation"], json!(1));

    let explain = |body: &Value| -> Vec<String> {
        let links = body["links"].as_array().unwrap().iter();
        links.filter(|link| link["state"] == "warning").map(|link| link["detail"].to_string()).collect()
    };
    let path = format!("/explain/{}", ids.fqdn_name);
    assert_eq!(explain(&test.get(&path).await.ok(200)), [] as [&str; 0]);
    let own = json!({"name": "first.example", "brand_id": "first", "region_id": test.region});
    assert_eq!(codes(&test.post("/zones", own).await.ok(202)), ["name_server_without_address"; 2]);
    let explained = test.get(&path).await.ok(200);
    assert_eq!((explain(&explained).len(), &explained["broken"]), (2, &Value::Null), "{explained}");
}

#[tokio::test]
async fn a_record_is_shown_in_its_normal_form() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let records = format!("/zones/{}/records", ids.zone);
    let body = json!({"type": "AAAA", "name": "WWW2.First-Zone.Example.", "content": "2001:DB8:0::1"});
    let made = test.post(&records, body).await.ok(202);
    assert_eq!((&made["name"], &made["content"]), (&json!("www2.first-zone.example"), &json!("2001:db8::1")));
    let again = json!({"type": "aaaa", "name": "www2", "content": "2001:db8::1"});
    assert_eq!(test.post(&records, again).await.status, 409);
    let path = format!("/zone-records/{}", made["id"].as_str().unwrap());
    let same = test.put(&path, json!({"content": "2001:db8:0::0001"})).await.ok(202);
    assert_eq!((&same["generation"], &same["content"]), (&json!(1), &json!("2001:db8::1")));
}

#[tokio::test]
async fn a_brands_key_stays_in_its_brand() {
    let test = TestApi::with_fleet().await;
    let (first, second) = (test.brand("first").await, test.brand("second").await);
    let (_, key) = test.key(SCOPES, &["second"]).await;
    let call = async |method: &str, path: &str, body: Value| {
        let body = (method != "GET" && method != "DELETE").then_some(body);
        test.call(method.parse().unwrap(), path, Some(&key), body).await
    };
    for (body, status) in [
        (json!({"dns_group": "other"}), 403),
        (json!({"base_hostname": "first.example"}), 409),
        (json!({"base_hostname": "co.uk"}), 400),
        (json!({"name": "Second", "dns_group": "default"}), 200),
    ] {
        assert_eq!(call("PUT", "/brands/second", body.clone()).await.status, status, "{body}");
    }
    let clusters = json!({"cluster_ids": [test.cluster]});
    assert_eq!(call("PUT", "/brands/second/clusters", clusters.clone()).await.status, 403);
    test.put("/brands/second/clusters", clusters).await.ok(200);
    for name in ["first.example", "x.first.example", "co.uk"] {
        let zone = json!({"name": name, "brand_id": "second", "region_id": test.region});
        let refused = call("POST", "/zones", zone).await;
        assert!(matches!(refused.status, 400 | 409), "{name}: {refused:?}");
    }

    // Each has the ids of its own system.
    let crm = json!({"id": "crm-1", "name": "web"});
    let theirs = format!("/tenants/{}/subscriptions", first.tenant);
    let own = format!("/tenants/{}/subscriptions", second.tenant);
    test.post(&theirs, crm.clone()).await.ok(201);
    let made = call("POST", &own, crm.clone()).await.ok(201);
    assert_eq!((&made["id"], &made["tenant_id"]), (&json!("crm-1"), &json!(second.tenant)));
    assert_eq!(call("POST", &own, crm).await.status, 409);
    let read = call("GET", "/subscriptions/crm-1", Value::Null).await.ok(200);
    assert_eq!(read["tenant_id"], json!(second.tenant));
    assert_eq!(call("GET", "/subscriptions/first~crm-1", Value::Null).await.status, 403);
    // Who may see both has to say which.
    let both = test.get("/subscriptions/crm-1").await;
    assert!(both.status == 409 && both.error().contains("~crm-1"), "{both:?}");
    let one = test.get("/subscriptions/first~crm-1").await.ok(200);
    assert_eq!((&one["id"], &one["tenant_id"]), (&json!("crm-1"), &json!(first.tenant)));
    let zone = json!({"name": "crm.example", "subscription_id": "crm-1", "tenant_id": second.tenant,
        "region_id": test.region});
    assert_eq!(call("POST", "/zones", zone).await.ok(202)["subscription_id"], json!("crm-1"));
    let gone = call("DELETE", "/subscriptions/crm-1?wait=ready", Value::Null).await;
    assert_eq!((gone.status, &gone.body["id"]), (200, &json!("crm-1")), "{gone:?}");
    test.get("/subscriptions/crm-1").await.ok(200);
}
