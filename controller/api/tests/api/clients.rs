//! What clients that were written for other implementations of this API send.

use axum::http::Method;
use hosting_api::unserved;
use serde_json::{Value, json};

use crate::harness::TestApi;

#[tokio::test]
async fn what_is_not_built_says_so_to_those_who_may_know() {
    let test = TestApi::empty().await;
    for (method, path) in unserved() {
        let path: String = path
            .split('/')
            .map(|part| if part.starts_with('{') { "x" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        let answer = test.call(method.clone(), &path, Some(&test.admin), Some(json!({}))).await;
        assert_eq!(answer.status, 501, "{method} {path}: {answer:?}");
        assert!(answer.error().ends_with("not served by this platform yet"), "{}", answer.error());
        assert_eq!(test.call(method, &path, None, None).await.status, 401, "{path}");
    }
    assert_eq!(test.get("/no/such/path").await.status, 404);
    assert_eq!(test.post("/databases/db_x", json!({})).await.status, 405);
}

#[tokio::test]
async fn empty_is_not_given_where_it_is_no_value() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let empty = |fields: &[&str]| -> Value {
        fields.iter().map(|field| ((*field).to_owned(), json!(""))).collect::<serde_json::Map<_, _>>().into()
    };
    for (path, body) in [
        (
            "/brands/first".to_owned(),
            empty(&["name", "base_hostname", "primary_ns", "secondary_ns", "hostmaster_email", "dns_group"]),
        ),
        (format!("/regions/{}", test.region), empty(&["name"])),
        (format!("/clusters/{}", test.cluster), empty(&["name", "status"])),
        (format!("/shards/{}", test.shard), empty(&["lb_backend", "status", "name", "role"])),
        ("/nodes/web-1".to_owned(), json!({"hostname": "", "status": "", "dns_group": "", "web_port": 0})),
        (format!("/tenants/{}", ids.tenant), empty(&["customer_id", "brand_id"])),
        (format!("/webroots/{}", ids.webroot), empty(&["runtime", "runtime_version", "subscription_id"])),
        (format!("/zones/{}", ids.zone), empty(&["name", "region_id"])),
        (format!("/zone-records/{}", ids.record), json!({"content": "", "ttl": 0, "name": "", "type": ""})),
    ] {
        let before = test.get(&path).await.ok(200);
        let answer = test.put(&path, body).await;
        assert!(matches!(answer.status, 200 | 202), "{path}: {answer:?}");
        assert!(answer.body.get("warnings").is_none(), "{path}: {answer:?}");
        assert_eq!(test.get(&path).await.body["generation"], before["generation"], "{path}: nothing changes");
    }
    let unbound = test.put(&format!("/fqdns/{}", ids.fqdn), json!({"webroot_id": null})).await.ok(200);
    assert_eq!(unbound["webroot_id"], Value::Null);
}

#[tokio::test]
async fn scopes_may_have_stars() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let (_, reader) = test.key(&["*:read"], &["first"]).await;
    let (_, owner) = test.key(&["tenants:*"], &["first"]).await;
    let status = async |key: &str, method: Method, path: &str| {
        test.call(method, path, Some(key), Some(json!({}))).await.status
    };
    let tenant = format!("/tenants/{}", ids.tenant);
    assert_eq!(status(&reader, Method::GET, &tenant).await, 200);
    assert_eq!(status(&reader, Method::GET, "/zones").await, 200);
    assert_eq!(status(&reader, Method::PUT, &tenant).await, 403);
    assert_eq!(status(&owner, Method::PUT, &tenant).await, 202);
    assert_eq!(status(&owner, Method::GET, "/zones").await, 403);
    for wrong in ["*", "*:fly", "nothing:*", ":", "tenants:", "**:read"] {
        let body = json!({"name": "k", "scopes": [wrong], "brands": ["first"]});
        assert_eq!(test.post("/api-keys", body).await.status, 400, "{wrong}");
    }
    let (_, maker) = test.key(&["api_keys:write", "*:read"], &["*"]).await;
    let make = async |scope: &str| {
        let body = json!({"name": "k", "scopes": [scope], "brands": ["first"]});
        test.call(Method::POST, "/api-keys", Some(&maker), Some(body)).await.status
    };
    assert_eq!((make("*:read").await, make("zones:read").await), (201, 201));
    assert_eq!((make("zones:*").await, make("*:*").await, make("*:write").await), (403, 403, 403));
}

#[tokio::test]
async fn a_name_is_made_at_its_site() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let other = test.brand("second").await;
    let path = format!("/webroots/{}/fqdns", ids.webroot);
    let made = test.post(&path, json!({"fqdn": "at-site.first-zone.example"})).await;
    assert_eq!(
        (made.status, &made.body["webroot_id"], &made.body["tenant_id"]),
        (202, &json!(ids.webroot), &json!(ids.tenant))
    );
    let same = json!({"fqdn": "too.first-zone.example", "webroot_id": ids.webroot});
    assert_eq!(test.post(&path, same).await.status, 202);
    let another = json!({"fqdn": "x.first-zone.example", "webroot_id": other.webroot});
    let refused = test.post(&path, another).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.error().starts_with("validation error: webroot_id: "), "{}", refused.error());
    assert_eq!(
        test.post("/webroots/web_none000000/fqdns", json!({"fqdn": "y.first-zone.example"})).await.status,
        404
    );
    assert_eq!(test.get(&path).await.body["items"].as_array().unwrap().len(), 3);
    let (_, foreign) = test.key(&["*:*"], &["second"]).await;
    let body = json!({"fqdn": "z.first-zone.example"});
    assert_eq!(test.call(Method::POST, &path, Some(&foreign), Some(body)).await.status, 403);
}

#[tokio::test]
async fn a_trailing_dot_makes_no_other_name() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let zone = json!({"name": "Dotted.Example.", "tenant_id": ids.tenant, "region_id": test.region});
    assert_eq!(test.post("/zones", zone.clone()).await.ok(202)["name"], "dotted.example");
    assert_eq!(test.post("/zones", zone).await.status, 409);
    let names = format!("/tenants/{}/fqdns", ids.tenant);
    let name = test.post(&names, json!({"fqdn": "WWW.dotted.example."})).await.ok(202);
    assert_eq!(name["fqdn"], "www.dotted.example");
    assert_eq!(test.post(&names, json!({"fqdn": "www.dotted.example"})).await.status, 409);
}

#[tokio::test]
async fn a_brands_base_host_name_becomes_a_tenants_zone_by_a_platform_admin_alone() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let zone = json!({"name": "first.example", "tenant_id": ids.tenant, "region_id": test.region});
    let (_, own) = test.key(&["*:*"], &["first"]).await;
    let refused = test.call(Method::POST, "/zones", Some(&own), Some(zone.clone())).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(refused.error().contains("the base host name of the brand first"), "{}", refused.error());
    assert_eq!(test.post("/zones", zone).await.status, 202);
}

#[tokio::test]
async fn what_is_gone_or_makes_no_sense_is_an_error() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let record = format!("/zone-records/{}", ids.record);
    assert_eq!(test.delete(&format!("{record}?wait=ready")).await.status, 200);
    assert_eq!(test.delete(&record).await.status, 404);
    assert_eq!(test.get("/tenants/t_none000000/webroots").await.status, 404);
    for wrong in ["sort=nonsense", "status=nonsense", "cursor=nonsense"] {
        assert_eq!(test.get(&format!("/tenants?{wrong}")).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn what_names_no_subscription_is_billed_with_the_default_one() {
    let test = TestApi::with_fleet().await;
    test.brand("first").await;
    let tenant = test.post("/tenants", test.tenant_body("first")).await.id();
    let subscriptions = format!("/tenants/{tenant}/subscriptions");
    assert_eq!(test.get(&subscriptions).await.body["items"], json!([]));
    let webroots = format!("/tenants/{tenant}/webroots");
    let site = test.post(&webroots, json!({"runtime": "static"})).await;
    assert_eq!(site.status, 202, "{site:?}");
    let made = test.get(&subscriptions).await.ok(200);
    assert_eq!((made["items"].as_array().unwrap().len(), &made["items"][0]["name"]), (1, &json!("default")));
    let id = &made["items"][0]["id"];
    assert_eq!(&site.body["subscription_id"], id);
    let again = test.post(&webroots, json!({"runtime": "static", "subscription_id": ""})).await.ok(202);
    assert_eq!(&again["subscription_id"], id);
    let zone = json!({"name": "billed.example", "tenant_id": tenant, "region_id": test.region});
    assert_eq!(&test.post("/zones", zone).await.ok(202)["subscription_id"], id);
    assert_eq!(test.get(&subscriptions).await.body["items"].as_array().unwrap().len(), 1);

    // In one body with its tenant; one that is named so is taken.
    let mut body = test.tenant_body("first");
    body["webroots"] = json!([{"runtime": "static"}, {"runtime": "static"}]);
    body["zones"] = json!([{"name": "nested-billed.example"}]);
    let whole = test.post("/tenants", body.clone()).await;
    assert_eq!((whole.status, &whole.body["brand_id"]), (202, &json!("first")), "{whole:?}");
    let made = test.get(&format!("/tenants/{}/subscriptions", whole.id())).await.ok(200);
    assert_eq!(made["items"].as_array().unwrap().len(), 1, "{made}");
    body["subscriptions"] = json!([{"id": "own", "name": "default"}]);
    body["zones"] = json!([]);
    let own = test.post("/tenants", body).await.id();
    let sites = test.get(&format!("/tenants/{own}/webroots")).await.ok(200);
    assert_eq!(sites["items"][0]["subscription_id"], "own", "{sites}");

    // A zone that moves to a tenant without any.
    let bare = test.post("/tenants", test.tenant_body("first")).await.id();
    let zone =
        test.get("/zones?name=billed.example").await.body["items"][0]["id"].as_str().unwrap().to_owned();
    let moved = test.put(&format!("/zones/{zone}"), json!({"tenant_id": bare})).await.ok(200);
    assert_ne!(&moved["subscription_id"], id);
}
