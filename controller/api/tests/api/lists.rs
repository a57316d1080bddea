//! What of a resource is shown, and how long lists are.

use axum::http::Method;
use hosting_api::{Op, Takes, table};
use hosting_resource::Kind;
use serde_json::{Value, json};

use crate::authorization::path_of;
use crate::harness::TestApi;

fn fields_of(item: &Value) -> Vec<&str> {
    item.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn an_answer_has_the_fields_that_were_asked_for() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let zone = format!("/zones/{}", ids.zone);
    let some = test.get(&format!("{zone}?fields=name,status,tenant_name")).await.ok(200);
    assert_eq!(fields_of(&some), ["id", "name", "status", "tenant_name"], "{some}");
    let listed = test.get("/zones?fields=created_at,%20name").await.ok(200);
    assert_eq!(fields_of(&listed["items"][0]), ["created_at", "id", "name"], "{listed}");
    let of_zone = test.get(&format!("{zone}/records?fields=content")).await.ok(200);
    assert_eq!(fields_of(&of_zone["items"][0]), ["content", "id"], "{of_zone}");
    for (query, named) in
        [("fields=frob", "frob"), ("fields=name,,id", ""), ("fields=name,dkim", "dkim"), ("fields=*", "*")]
    {
        let refused = test.get(&format!("{zone}?{query}")).await;
        assert_eq!((refused.status, &refused.body["field"]), (400, &json!("fields")), "{query}");
        assert!(
            refused.error().contains(&format!("{named:?} is none of its fields; it has ")),
            "{}",
            refused.error()
        );
    }
    // A hidden field is none.
    assert_eq!(test.get("/api-keys?fields=key_hash").await.status, 400);
    // Other fields are another representation.
    let whole = test.get(&zone).await;
    let part = test.get(&format!("{zone}?fields=name")).await;
    assert_ne!(whole.headers["etag"], part.headers["etag"]);
}

/// Every field that an answer has can be asked for, so what `fields` takes is all there is.
#[tokio::test]
async fn every_field_that_is_shown_is_known() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    test.post(&format!("/tenants/{}/suspend", ids.tenant), json!({"reason": "unpaid"})).await.ok(202);
    let mut seen = 0;
    for route in table() {
        let known = route.params.iter().find(|param| param.name == "fields").map(|param| &param.takes);
        let Some(Takes::Names(known)) = known else { continue };
        let answer = test.get(&path_of(&test, &ids, &route)).await;
        if matches!(route.op, Op::Get(Kind::ApiKey)) {
            continue;
        }
        let body = answer.ok(200);
        let items = body["items"].as_array().cloned().unwrap_or_else(|| vec![body]);
        for field in items.iter().flat_map(|item| fields_of(item)) {
            assert!(known.iter().any(|one| one == field), "{}: {field}", route.path);
            seen += 1;
        }
    }
    assert!(seen > 200, "{seen}");
}

#[tokio::test]
async fn a_list_is_counted_when_asked() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    test.brand("second").await;
    let (_, first) = test.key(&["*:read"], &["first"]).await;
    let total = async |path: &str, key: &str| {
        let answer = test.call(Method::GET, path, Some(key), None).await.ok(200);
        assert!(answer.get("total_is_lower_bound").is_none(), "{path}: {answer}");
        answer["total"].as_u64()
    };
    let records = format!("/zones/{}/records", ids.zone);
    for n in 0..7 {
        let record = json!({"type": "TXT", "name": format!("n{n}"), "content": "x", "ttl": 60 + n % 2});
        test.post(&records, record).await.ok(202);
    }
    let of_tenant = format!("/tenants/{}/fqdns", ids.tenant);
    for (path, whole, own) in [
        ("/zones?limit=1&count=true", Some(2), Some(1)),
        ("/zones?limit=1", None, None),
        ("/zones?count=false", None, None),
        ("/zones?status=active&count=true&limit=1", Some(2), Some(1)),
        ("/zones?status=deleted&count=true", Some(0), Some(0)),
        ("/zones?status=failed&count=true", Some(0), Some(0)),
        ("/zones?search=first&count=true", Some(1), Some(1)),
        ("/zones?search=second&count=true", Some(1), Some(0)),
        ("/zones?search=zo&count=true", Some(2), Some(1)),
        ("/tenants?customer_id=customer-of-second&count=true", Some(1), Some(0)),
        (&format!("{of_tenant}?count=true"), Some(1), Some(1)),
    ] {
        assert_eq!(total(path, &test.admin).await, whole, "{path}");
        assert_eq!(total(path, &first).await, own, "{path}");
    }
    let of_zone = total(&format!("{records}?limit=2&count=true"), &first).await.unwrap();
    let texts = total(&format!("{records}?limit=2&count=true&type=TXT"), &first).await.unwrap();
    assert!(texts == 8 && of_zone > texts, "{texts} {of_zone}");
    // The second page counts the whole list too.
    let page = test.get(&format!("{records}?limit=2&count=true")).await.ok(200);
    let next = page["next_cursor"].as_str().unwrap();
    let second = test.get(&format!("{records}?limit=2&count=true&cursor={next}")).await.ok(200);
    assert_eq!((&page["total"], &second["total"]), (&json!(of_zone), &json!(of_zone)));
}
