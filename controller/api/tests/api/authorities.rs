//! Public certificate authorities: what is shown of them, and when many names would be done.

use std::time::Duration;

use serde_json::json;

use crate::harness::TestApi;

#[tokio::test]
async fn the_key_of_an_external_account_is_never_shown() {
    let test = TestApi::with_fleet().await;
    let body = json!({
        "name": "bound", "directory_url": "https://acme.ca.example/dir", "eab_kid": "kid-1",
        "eab_hmac_key": "c2VjcmV0LXNlY3JldC1zZWNyZXQ",
    });
    let made = test.post("/certificate-authorities", body.clone()).await.ok(201);
    assert_eq!(made["warnings"][0]["code"], "terms_not_agreed", "{made}");
    assert!(made["eab_hmac_key"]["set_at"].is_string() && !made.to_string().contains("c2Vjcm"), "{made}");
    let path = format!("/certificate-authorities/{}", made["id"].as_str().unwrap());
    let shown = test.get(&path).await.ok(200);
    assert!(!shown.to_string().contains("c2Vjcm") && !shown.to_string().contains("$secret"), "{shown}");
    let twice = test.post("/certificate-authorities", body).await;
    assert_eq!(twice.status, 409, "{twice:?}");
    let unknown = test.put(&path, json!({"brand_ids": ["nobody"]})).await;
    assert_eq!((unknown.status, &unknown.body["field"]), (400, &json!("brand_ids")), "{unknown:?}");
    // Another directory is another authority.
    let moved = test.put(&path, json!({"directory_url": "https://other.ca.example/dir"})).await;
    assert_eq!((moved.status, &moved.body["field"]), (400, &json!("directory_url")), "{moved:?}");
}

#[tokio::test]
async fn when_the_last_of_many_is_done_follows_from_what_is_allowed() {
    let test = TestApi::with_fleet().await;
    let body = json!({
        "name": "slow", "directory_url": "https://acme.ca.example/dir", "terms_agreed": true,
        "orders": {"count": 100, "seconds": 3_600}, "names_per_order": 10,
    });
    let made = test.post("/certificate-authorities", body).await.ok(201);
    let path = format!("/certificate-authorities/{}/forecast", made["id"].as_str().unwrap());
    let few = test.get(&format!("{path}?names=100")).await.ok(200);
    assert_eq!(few["done_at_worst"], few["done_at_best"], "{few}");
    let many = test.get(&format!("{path}?names=10000")).await.ok(200);
    assert_eq!((&many["orders_at_least"], &many["orders_at_most"]), (&json!(1_000), &json!(10_000)));
    let seconds = |field: &str| {
        let at: jiff::Timestamp = many[field].as_str().unwrap().parse().unwrap();
        at.as_second() - jiff::Timestamp::now().as_second()
    };
    // 100 at once, each of the others after 36 seconds.
    let about =
        |seconds: i64, wanted: i64| (seconds - wanted).abs() <= Duration::from_secs(60).as_secs() as i64;
    assert!(about(seconds("done_at_best"), 900 * 36), "{many}");
    assert!(about(seconds("done_at_worst"), 9_900 * 36), "{many}");
    let nobody = test.get("/certificate-authorities/none/forecast").await;
    assert_eq!(nobody.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_says_that_nobody_may_be_asked() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("acme").await;
    let path = format!("/fqdns/{}", ids.fqdn);
    test.put(&path, json!({"ssl_enabled": false})).await.ok(200);
    let plain = test.get(&path).await.ok(200);
    assert!(plain.get("issuance").is_none(), "{plain}");
    let asked = test.post(&format!("{path}/issue"), json!({})).await;
    assert_eq!(asked.status, 202, "{asked:?}");
    test.put(&path, json!({"ssl_enabled": true})).await.ok(200);
    // One that was brought goes before.
    let running = crate::jobs::Running::start(&test);
    let waiting = test.until(&path, |answer| answer.body["issuance"]["problem"].is_object()).await.ok(200);
    assert_eq!(waiting["issuance"]["problem"]["code"], "brought", "{waiting}");
    running.end().await;
    test.delete(&format!("/certificates/{}", ids.certificate)).await;
    test.put(&path, json!({"ssl_enabled": false})).await.ok(200);
    test.put(&path, json!({"ssl_enabled": true})).await.ok(200);
    test.post(&format!("{path}/issue"), json!({})).await.ok(202);
    // Of another brand alone.
    let authority = format!("/certificate-authorities/{}", test.certificate_authority);
    test.brand("other").await;
    test.put(&authority, json!({"brand_ids": ["other"]})).await.ok(200);
    let running = crate::jobs::Running::start(&test);
    let waiting = test.until(&path, |answer| answer.body["issuance"]["problem"].is_object()).await.ok(200);
    let problem = &waiting["issuance"]["problem"];
    assert_eq!(
        (&problem["code"], &waiting["issuance"]["state"]),
        (&json!("no_authority"), &json!("waiting")),
        "{waiting}"
    );
    running.end().await;
    let explained = test.get(&format!("/explain/{}", ids.fqdn_name)).await.ok(200);
    let links = explained["links"].as_array().unwrap();
    let said = links.iter().find(|link| link["name"] == "certificate").unwrap();
    assert_eq!(said["state"], "warning");
    assert!(said["detail"].as_str().unwrap().contains("(no_authority); an operator adds one"), "{said}");
}

#[tokio::test]
async fn a_host_below_a_wildcard_is_explained_by_it() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("acme").await;
    let body = json!({"fqdn": "*.far.test"});
    let made = test.post(&format!("/tenants/{}/fqdns", ids.tenant), body).await.ok(202);
    let explained = test.get("/explain/any.far.test").await.ok(200);
    assert_eq!(
        (&explained["fqdn"], &explained["fqdn_id"]),
        (&json!("any.far.test"), &made["id"]),
        "{explained}"
    );
    let unknown = test.get("/explain/x.any.far.test").await.ok(200);
    assert_eq!(unknown["fqdn_id"], json!(null), "{unknown}");
}

#[tokio::test]
async fn certificates_are_replaced_by_those_who_may_be_asked_and_one_replacement_at_a_time() {
    let test = TestApi::with_fleet().await;
    let ca = |name: &str, agreed: bool| json!({"name": name, "directory_url": "https://acme.ca.example/dir", "terms_agreed": agreed});
    let id = |made: &serde_json::Value| made["id"].as_str().unwrap().to_owned();
    let first = id(&test.post("/certificate-authorities", ca("first", true)).await.ok(201));
    let closed = id(&test.post("/certificate-authorities", ca("closed", false)).await.ok(201));
    let path = format!("/certificate-authorities/{first}");
    let reissue = format!("{path}/reissue");
    for (body, field, why) in [
        (json!({"names": 0}), "names", "from 1 to 100000"),
        (json!({"names": 100_001}), "names", "from 1 to 100000"),
        (json!({"to_authority_id": "none"}), "to_authority_id", "no such certificate authority"),
        (json!({"to_authority_id": closed}), "to_authority_id", "terms are not agreed"),
    ] {
        let refused = test.post(&reissue, body).await;
        assert_eq!((refused.status, &refused.body["field"]), (400, &json!(field)), "{refused:?}");
        assert!(refused.body.to_string().contains(why), "{refused:?}");
    }
    assert!(test.get(&path).await.ok(200).get("reissue").is_none(), "nothing was begun");
    let forecast = test.get(&format!("{path}/forecast?from_authority_id={first}")).await.ok(200);
    assert_eq!((&forecast["names"], &forecast["orders_at_most"]), (&json!(0), &json!(0)));
    // No jobs run in these tests: it stays where it is.
    let begun = test.post(&reissue, json!({})).await.ok(202);
    assert_eq!((&begun["reissue"]["names"], &begun["reissue"]["done"]), (&json!(0), &json!(0)), "{begun}");
    let twice = test.post(&reissue, json!({})).await;
    assert_eq!(twice.status, 409, "{twice:?}");
    let jobs = test.get("/jobs?kind=reissue").await.ok(200);
    assert_eq!(jobs["items"].as_array().unwrap().len(), 1, "{jobs}");
}
