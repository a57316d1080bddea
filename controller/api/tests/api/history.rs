//! What resources and names were, and who may see it.

use axum::http::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, TestApi};

async fn items(test: &TestApi, path: &str) -> Vec<Value> {
    test.get(path).await.ok(200)["items"].as_array().unwrap().clone()
}

fn events(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["event"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn changes_of_a_resource_are_shown_with_their_fields_also_when_it_is_gone() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("acme").await;
    let (key_id, key) = test.key(&["*:*"], &["acme"]).await;
    let record = format!("/zone-records/{}", ids.record);
    let changed =
        test.call(Method::PUT, &record, Some(&key), Some(json!({"content": "other", "ttl": 60}))).await;
    let revision = changed.ok(202)["revision"].clone();
    test.delete(&record).await.ok(202);
    test.until(&record, |answer| answer.status == 404).await;
    let page = test.get(&format!("{record}/history")).await.ok(200);
    assert_eq!((&page["has_more"], page["complete_since_revision"].is_u64()), (&json!(false), true));
    let rows = page["items"].as_array().unwrap();
    assert_eq!(events(rows), ["deleted", "deleting", "changed", "created"]);
    assert_eq!((&rows[2]["revision"], &rows[2]["api_key_id"]), (&revision, &json!(key_id)));
    assert_eq!((&rows[2]["kind"], &rows[2]["id"]), (&json!("zone_record"), &json!(ids.record)));
    assert_eq!(
        rows[2]["fields"],
        json!([
            {"field": "/content", "before": "hello", "after": "other"},
            {"field": "/ttl", "before": 3600, "after": 60},
        ])
    );
    let made = rows[3]["fields"].as_array().unwrap();
    assert!(made.contains(&json!({"field": "/content", "after": "hello"})), "{made:?}");
    assert!(rows[0].get("api_key_id").is_none(), "the controller ended it");
    assert_eq!(rows[0]["trace_id"], rows[1]["trace_id"], "in the trace of whoever asked");
    assert_eq!(rows[3]["trace_id"].as_str().unwrap().len(), 32);
}

#[tokio::test]
async fn a_name_has_the_history_of_all_that_was_called_so() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("acme").await;
    let name = &ids.fqdn_name;
    let body = json!({"type": "TXT", "name": "www", "content": "x"});
    let record = test.post(&format!("/zones/{}/records", ids.zone), body).await.id();
    test.put(&format!("/fqdns/{}", ids.fqdn), json!({"webroot_id": null})).await.ok(200);
    test.delete(&format!("/fqdns/{}", ids.fqdn)).await.ok(202);
    test.until(&format!("/fqdns/{}", ids.fqdn), |answer| answer.status == 404).await;
    let again =
        test.post(&format!("/tenants/{}/fqdns", ids.tenant), json!({"fqdn": name})).await.ok(202)["id"]
            .clone();
    let rows = items(&test, &format!("/names/{name}/history")).await;
    assert_eq!(rows[0]["id"], again);
    let of = |id: &str| -> Vec<&str> {
        rows.iter().filter(|row| row["id"] == id).map(|row| row["event"].as_str().unwrap()).collect()
    };
    assert_eq!(of(&ids.fqdn), ["deleted", "deleting", "changed", "created"]);
    assert_eq!(of(&record), ["created"]);
    assert_eq!(of(&ids.certificate), ["deleted", "deleting", "created"]);
    let unbound = rows.iter().find(|row| row["id"] == json!(ids.fqdn) && row["event"] == "changed").unwrap();
    assert_eq!(unbound["fields"][0]["before"], json!(ids.webroot));
    assert!(rows.iter().all(|row| row["kind"] != "zone_record" || row["id"] == json!(record)));
    // Page by page it is the same.
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = test.get(&format!("/names/{name}/history?limit=2{cursor}")).await.ok(200);
        paged.extend(page["items"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, rows);
    assert_eq!(test.get(&format!("/names/{name}/history?cursor=x")).await.status, 400);
    let same = items(&test, &format!("/names/{}./history", name.to_uppercase())).await;
    assert_eq!(same, rows);
}

#[tokio::test]
async fn nothing_secret_is_in_a_history() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("acme").await;
    let site = format!("/webroots/{}", ids.webroot);
    let php = json!({"subscription_id": ids.subscription, "runtime": "php", "runtime_version": "8.4"});
    let php = test.post(&format!("/tenants/{}/webroots", ids.tenant), php).await.id();
    for text in ["hunter2-first", "hunter2-second"] {
        let vars = json!({"vars": [{"name": "TOKEN", "value": text, "secret": true}, {"name": "PLAIN", "value": text}]});
        test.put(&format!("/webroots/{php}/env-vars"), vars).await.ok(202);
    }
    let certificate = format!("/certificates/{}", ids.certificate);
    test.delete(&certificate).await.ok(202);
    let (id, key) = test.key(&["tenants:read"], &["acme"]).await;
    test.post(&format!("/api-keys/{id}/rotate"), json!({"overlap_seconds": 60})).await.ok(200);
    test.delete(&format!("/api-keys/{id}")).await.ok(204);
    let mut seen = String::new();
    for path in [&site, &format!("/webroots/{php}"), &certificate, &format!("/api-keys/{id}")] {
        let rows = items(&test, &format!("{path}/history")).await;
        seen += &Value::from(rows).to_string();
    }
    for secret in ["hunter2", &key, "BEGIN PRIVATE", "$secret", "sealed", "key_hash\",\"before"] {
        assert!(!seen.contains(secret), "{secret}: {seen}");
    }
    let rows = items(&test, &format!("/webroots/{php}/history")).await;
    assert_eq!(events(&rows)[..2], ["changed", "changed"]);
    assert_eq!(rows[0]["fields"], json!([{"field": "/env", "before": "[REDACTED]", "after": "[REDACTED]"}]));
    let rows = items(&test, &format!("/api-keys/{id}/history")).await;
    assert_eq!(events(&rows), ["deleted", "changed", "created"]);
}

#[tokio::test]
async fn a_history_is_seen_by_whom_the_resource_belongs_to() {
    let test = TestApi::with_fleet().await;
    let ours = test.brand("ours").await;
    let theirs = test.brand("theirs").await;
    let (_, foreign) = test.key(&["*:*"], &["theirs"]).await;
    let (_, own) = test.key(&["*:*"], &["ours"]).await;
    let as_key =
        async |key: &str, path: &str| -> Answer { test.call(Method::GET, path, Some(key), None).await };
    for id in [&ours.record, &ours.zone] {
        let kind = if *id == ours.zone { "zones" } else { "zone-records" };
        test.delete(&format!("/{kind}/{id}")).await.ok(202);
        test.until(&format!("/{kind}/{id}"), |answer| answer.status == 404).await;
        let path = format!("/{kind}/{id}/history");
        let refused = as_key(&foreign, &path).await;
        assert_eq!((refused.status, refused.error()), (403, "no access to this brand"));
        let rows = as_key(&own, &path).await.ok(200)["items"].as_array().unwrap().clone();
        assert_eq!(events(&rows), ["deleted", "deleting", "created"]);
        let wrong_kind = as_key(&own, &format!("/fqdns/{id}/history")).await;
        assert_eq!((wrong_kind.status, wrong_kind.error()), (404, "fqdn not found"));
    }
    // A subscription's id is its brand's.
    test.delete(&format!("/subscriptions/{}", theirs.subscription)).await.ok(202);
    let path = format!("/subscriptions/{}/history", theirs.subscription);
    test.until(&format!("/subscriptions/{}", theirs.subscription), |answer| answer.status == 404).await;
    let rows = as_key(&foreign, &path).await.ok(200)["items"].as_array().unwrap().clone();
    assert_eq!((events(&rows).last(), &rows[0]["id"]), (Some(&"created"), &json!(theirs.subscription)));
    assert_eq!(as_key(&own, &path).await.status, 404);
    // A name that went from hand to hand: each sees what was its own.
    let name = "was.anothers.example";
    let body = |webroot: &str| json!({"fqdn": name, "webroot_id": webroot});
    let first = test.post(&format!("/tenants/{}/fqdns", ours.tenant), body(&ours.webroot)).await.id();
    test.delete(&format!("/fqdns/{first}")).await.ok(202);
    test.until(&format!("/fqdns/{first}"), |answer| answer.status == 404).await;
    let second = test.post(&format!("/tenants/{}/fqdns", theirs.tenant), json!({"fqdn": name})).await.id();
    let rows = as_key(&foreign, &format!("/names/{name}/history")).await.ok(200);
    let rows = rows["items"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["id"] == json!(second)) && !rows.is_empty(), "{rows:?}");
    let rows = as_key(&own, &format!("/names/{name}/history")).await.ok(200);
    assert_eq!(rows["items"].as_array().unwrap().len(), 3, "what it was while it was ours");
    let (_, third) = test.key(&["*:*"], &["none"]).await;
    let refused = as_key(&third, &format!("/names/{name}/history")).await;
    assert_eq!((refused.status, refused.error()), (403, "no access to this brand"));
    test.delete(&format!("/fqdns/{second}")).await.ok(202);
    test.until(&format!("/fqdns/{second}"), |answer| answer.status == 404).await;
    let rows = as_key(&own, &format!("/names/{name}/history")).await.ok(200);
    let rows = rows["items"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["id"] == json!(first)) && rows.len() == 3, "{rows:?}");
    // Who may not read a kind does not read what it was.
    let (_, narrow) = test.key(&["fqdns:read"], &["ours"]).await;
    let rows = as_key(&narrow, &format!("/names/{}/history", ours.fqdn_name)).await.ok(200);
    assert!(rows["items"].as_array().unwrap().iter().all(|row| row["kind"] == "fqdn"), "{rows}");
}

#[tokio::test]
async fn a_name_is_explained_as_it_was() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("acme").await;
    let name = &ids.fqdn_name;
    let head = async || test.store.read().await.unwrap().head();
    let at = async |at: &str| test.get(&format!("/explain/{name}?at={at}")).await;
    let links = |answer: Value| -> Vec<(String, String, String)> {
        let text = |link: &Value, field: &str| link[field].as_str().unwrap().to_owned();
        let links = answer["links"].as_array().unwrap().iter();
        links.map(|link| (text(link, "name"), text(link, "state"), text(link, "detail"))).collect()
    };
    let bound = head().await;
    let time = jiff::Timestamp::now().to_string();
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let record = json!({"type": "A", "name": "www", "content": "192.0.2.7"});
    test.post(&format!("/zones/{}/records", ids.zone), record).await.ok(202);
    let suspended = test.post(&format!("/tenants/{}/suspend", ids.tenant), json!({"reason": "unpaid"})).await;
    let suspended: u64 = suspended.headers["x-revision"].to_str().unwrap().parse().unwrap();
    let unbound = test.put(&format!("/fqdns/{}", ids.fqdn), json!({"webroot_id": null})).await.ok(200);
    test.delete(&format!("/fqdns/{}", ids.fqdn)).await.ok(202);
    test.until(&format!("/fqdns/{}", ids.fqdn), |answer| answer.status == 404).await;
    for moment in [bound.to_string(), time] {
        let then = at(&moment).await.ok(200);
        assert_eq!(
            (&then["fqdn_id"], &then["webroot_id"]),
            (&json!(ids.fqdn), &json!(ids.webroot)),
            "{then}"
        );
        let states: Vec<(String, String)> =
            links(then).into_iter().map(|(name, state, _)| (name, state)).collect();
        let wanted = [("FQDN", "ok"), ("tenant", "ok"), ("site", "ok"), ("dns", "ok"), ("fleet", "unknown")];
        assert_eq!(states, wanted.map(|(name, state)| (name.to_owned(), state.to_owned())));
    }
    let then = at(&suspended.to_string()).await.ok(200);
    assert_eq!(then["broken"], "tenant");
    let then = links(then);
    assert!(then[1].2.ends_with("was suspended: unpaid") && then[3].2.contains("A 192.0.2.7"), "{then:?}");
    let then = at(&unbound["revision"].to_string()).await.ok(200);
    assert_eq!((links(then.clone())[2].1.as_str(), &then["webroot_id"]), ("broken", &Value::Null));
    let gone = at(&head().await.to_string()).await.ok(200);
    assert_eq!((&gone["broken"], &gone["fqdn_id"]), (&json!("FQDN"), &Value::Null));
    let before = at("1").await.ok(200);
    assert_eq!(before["broken"], "FQDN");
    for wrong in ["999999999", "2999-01-01", "yesterday"] {
        assert_eq!(at(wrong).await.status, 400, "{wrong}");
    }
    // Whose it was then may see it.
    let (_, own) = test.key(&["*:*"], &["acme"]).await;
    let (_, foreign) = test.key(&["*:*"], &["none"]).await;
    let path = format!("/explain/{name}?at={bound}");
    test.call(Method::GET, &path, Some(&own), None).await.ok(200);
    let refused = test.call(Method::GET, &path, Some(&foreign), None).await;
    assert_eq!((refused.status, refused.error()), (403, "no access to this brand"));
    test.store.prune_history(i64::MAX, 0).await.unwrap();
    let dropped = at(&bound.to_string()).await;
    assert_eq!(dropped.status, 404);
    assert!(dropped.error().starts_with("the history does not reach back to"), "{dropped:?}");
}
