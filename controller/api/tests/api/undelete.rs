//! What is deleted and kept: 404 for whoever does not ask for it, listed for whoever does, and brought back.

use axum::http::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, TestApi};

fn ids(answer: &Value) -> Vec<String> {
    answer["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

async fn keep(test: &TestApi) -> crate::harness::Ids {
    let ids = test.brand("acme").await;
    test.put("/brands/acme", json!({"undelete_days": 14})).await.ok(200);
    ids
}

#[tokio::test]
async fn a_site_is_gone_to_everybody_and_back_with_its_names() {
    let (test, _place) = crate::platform().await;
    let of = keep(&test).await;
    let site = format!("/webroots/{}", of.webroot);
    let before = test.get(&site).await.ok(200);
    let plan = test.delete(&format!("{site}?dry_run=true")).await.ok(200);
    assert_eq!(plan["destroyed"], json!([]), "{plan}");
    let plan = test.delete(&format!("{site}?dry_run=true&now=true")).await.ok(200);
    assert_eq!(plan["destroyed"][0]["id"], json!(of.webroot));
    test.delete(&format!("{site}?wait=ready")).await.ok(200);
    // Clients take 404 for a deletion that is through; it says more to people.
    let gone = test.get(&site).await;
    assert_eq!(gone.status, 404);
    assert!(
        gone.error().contains("can be brought back until") && gone.error().contains("/undelete"),
        "{gone:?}"
    );
    for (method, body) in [(Method::PUT, json!({})), (Method::PATCH, json!({})), (Method::POST, json!(null))]
    {
        let path = if method == Method::POST { format!("{site}/retry") } else { site.clone() };
        let body = Some(body).filter(|body| !body.is_null());
        assert_eq!(test.call(method, &path, Some(&test.admin), body).await.status, 404, "{path}");
    }
    let shown = test.get(&format!("{site}?status=deleted")).await.ok(200);
    assert_eq!(shown["status"], "deleted");
    assert_eq!(shown["restorable_until"], gone.body["restorable_until"]);
    let list = format!("/tenants/{}/webroots", of.tenant);
    assert!(!ids(&test.get(&list).await.ok(200)).contains(&of.webroot));
    let counted = test.get(&format!("{list}?count=true")).await.ok(200);
    assert_eq!(counted["total"], json!(counted["items"].as_array().unwrap().len()));
    assert_eq!(ids(&test.get(&format!("{list}?status=deleted")).await.ok(200)), [of.webroot.as_str()]);
    assert_eq!(
        ids(&test.get(&format!("/tenants/{}/fqdns?status=deleted", of.tenant)).await.ok(200)),
        [of.fqdn.as_str()]
    );
    let found = test.get(&format!("/search?q={}", of.fqdn_name)).await.ok(200);
    assert!(!found.to_string().contains(&of.fqdn), "{found}");
    let stats = test.get("/dashboard/stats").await.ok(200);
    assert_eq!(stats["webroots"], json!(0), "{stats}");
    // What it was is told all the same.
    let rows = test.get(&format!("{site}/history")).await.ok(200);
    assert_eq!(rows["items"][0]["event"], "deleting");
    let plan = test.post(&format!("{site}/undelete?dry_run=true"), json!(null)).await.ok(200);
    assert_eq!(plan["answer"]["taken_back_total"], json!(3), "{plan}");
    let back = test.post(&format!("{site}/undelete?wait=ready"), json!(null)).await.ok(200);
    let taken: Vec<&str> =
        back["taken_back"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!((taken, &back["conflicts_total"]), (vec!["webroot", "fqdn", "certificate"], &json!(0)));
    let after = test.get(&site).await.ok(200);
    assert_eq!(
        (&after["id"], &after["status"], &after["created_at"]),
        (&before["id"], &json!("active"), &before["created_at"])
    );
    assert!(after.get("restorable_until").is_none());
    assert_eq!(test.post(&format!("{site}/undelete"), json!(null)).await.status, 409, "it is not deleted");
}

#[tokio::test]
async fn a_deletion_for_good_ends_what_is_kept() {
    let (test, _place) = crate::platform().await;
    let of = keep(&test).await;
    let tenant = format!("/tenants/{}", of.tenant);
    test.delete(&tenant).await.ok(202);
    assert_eq!(test.get(&tenant).await.status, 404);
    let zone = json!({"name": "acme-zone.example", "region_id": test.region, "brand_id": "acme"});
    let refused = test.post("/zones", zone).await;
    assert_eq!((refused.status, refused.error().contains("by the deleted zone")), (409, true), "{refused:?}");
    assert_eq!(test.delete(&tenant).await.status, 202, "deleted twice is deleted");
    test.delete(&format!("{tenant}?now=true&wait=ready&wait_timeout=60")).await.ok(200);
    assert_eq!(test.get(&format!("{tenant}?status=deleted")).await.status, 404);
    assert_eq!(test.post(&format!("{tenant}/undelete"), json!(null)).await.status, 404);
}

#[tokio::test]
async fn who_brings_back_needs_the_right_to_write() {
    let (test, _place) = crate::platform().await;
    let of = keep(&test).await;
    let zone = format!("/zones/{}", of.zone);
    test.delete(&zone).await.ok(202);
    let call = async |scopes: &[&str], brands: &[&str]| -> Answer {
        let (_, key) = test.key(scopes, brands).await;
        test.call(Method::POST, &format!("{zone}/undelete"), Some(&key), None).await
    };
    test.brand("other").await;
    assert_eq!(call(&["zones:delete", "zones:read"], &["acme"]).await.status, 403);
    assert_eq!(call(&["zones:write"], &["other"]).await.status, 403);
    call(&["zones:write"], &["acme"]).await.ok(202);
    test.until(&zone, |answer| answer.body["status"] == "active").await;
}
