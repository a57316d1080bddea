//! Webhooks over the API: who may make which, what is shown of them, what people ask for. Delivering has its tests with the deliverer.

use axum::http::Method;
use hosting_store::{EventPlace, WebhookDelivery, WebhookPosition};
use serde_json::{Value, json};

use crate::harness::TestApi;

fn hook(changes: Value) -> Value {
    let mut body =
        json!({"name": "h", "brand_id": "acme", "url": "https://crm.example/hook", "kinds": ["zone"]});
    for (field, value) in changes.as_object().unwrap() {
        body[field] = value.clone();
    }
    body
}

#[tokio::test]
async fn a_secret_is_shown_once_and_a_new_one_when_it_is_asked_for() {
    let test = TestApi::with_fleet().await;
    test.brand("acme").await;
    let made = test.post("/webhooks", hook(json!({}))).await;
    assert_eq!(made.status, 201, "{made:?}");
    let secret = made.body["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("whsec_"), "{secret}");
    let path = format!("/webhooks/{}", made.id());
    let rotated = test.post(&format!("{path}/rotate-secret"), json!({"overlap_seconds": 60})).await;
    let second = rotated.body["secret"].as_str().unwrap().to_owned();
    assert!(second != secret && rotated.body["former_secret_until"].is_string(), "{rotated:?}");
    let wrong = test.post(&format!("{path}/rotate-secret"), json!({"overlap_seconds": 3_000_000})).await;
    assert_eq!(wrong.status, 400, "{wrong:?}");
    for shown in [&path, "/webhooks", &format!("{path}/history"), "/audit-logs"] {
        let text = test.get(shown).await.body.to_string();
        for hidden in [secret.as_str(), second.as_str(), "$secret", "sealed"] {
            assert!(!text.contains(hidden), "{shown}: {hidden}: {text}");
        }
    }
    assert!(test.get(&path).await.body["secret_set_at"].is_string());
}

#[tokio::test]
async fn a_webhook_hears_of_no_more_than_its_maker_reads() {
    let test = TestApi::with_fleet().await;
    test.brand("acme").await;
    test.brand("other").await;
    let make = async |scopes: &[&str], changes: Value| {
        let (_, key) = test.key(scopes, &["acme"]).await;
        let made = test.call(Method::POST, "/webhooks", Some(&key), Some(hook(changes))).await;
        (made.status, made.body["error"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(make(&["webhooks:write", "zones:read"], json!({})).await.0, 201);
    assert_eq!(
        make(&["webhooks:write", "zones:read"], json!({"kinds": ["zone", "fqdn"]})).await,
        (403, "insufficient scope: requires fqdns:read".to_owned())
    );
    let all = make(&["webhooks:write", "zones:read"], json!({"kinds": []})).await;
    assert_eq!(all, (403, "insufficient scope: requires *:read".to_owned()));
    assert_eq!(make(&["webhooks:write", "*:read"], json!({"kinds": []})).await.0, 201);
    for foreign in [json!({"brand_id": "other"}), json!({"brand_id": null}), json!({"brand_id": "no-such"})] {
        let refused = make(&["*:*"], foreign.clone()).await;
        assert_eq!(refused, (403, "no access to this brand".to_owned()), "{foreign}");
    }
    let refused = make(&["*:*"], json!({"kinds": ["node"]})).await;
    assert!(refused.0 == 400 && refused.1.contains("kinds[0]"), "{refused:?}");

    // Nor does it hear of more afterwards, or does somebody else get its secret.
    let made = test.post("/webhooks", hook(json!({"kinds": ["zone", "fqdn"]}))).await;
    let path = format!("/webhooks/{}", made.id());
    let (_, key) = test.key(&["webhooks:*", "zones:read"], &["acme"]).await;
    for (method, path, body) in [
        (Method::PUT, path.clone(), json!({"kinds": ["zone", "tenant"]})),
        (Method::PUT, path.clone(), json!({"url": "https://mine.example/"})),
        (Method::POST, format!("{path}/rotate-secret"), json!({})),
    ] {
        let refused = test.call(method, &path, Some(&key), Some(body)).await;
        assert_eq!(refused.status, 403, "{path}: {refused:?}");
    }
}

#[tokio::test]
async fn a_url_obeys_the_operators_rules_when_it_is_given() {
    let test = TestApi::with_fleet().await;
    test.brand("acme").await;
    for (bad, why) in [
        ("https://10.0.0.1/", "address"),
        ("https://169.254.169.254/latest/meta-data", "address"),
        ("https://u:p@crm.example/", "user name"),
        ("ftp://crm.example/", "https://"),
        ("crm.example", "https://"),
    ] {
        let refused = test.post("/webhooks", hook(json!({"url": bad}))).await;
        assert_eq!(
            (refused.status, refused.body["errors"][0]["field"].as_str()),
            (400, Some("url")),
            "{bad}"
        );
        assert!(refused.error().contains(why), "{bad}: {refused:?}");
    }
    let made = test.post("/webhooks", hook(json!({}))).await;
    let path = format!("/webhooks/{}", made.id());
    assert_eq!(test.put(&path, json!({"url": "https://[::1]/"})).await.status, 400);
    assert_eq!(test.put(&path, json!({"enabled": false})).await.ok(200)["enabled"], false);
}

#[tokio::test]
async fn deliveries_are_shown_and_made_again_when_they_are_asked_for() {
    let test = TestApi::with_fleet().await;
    test.brand("acme").await;
    let made = test.post("/webhooks", hook(json!({}))).await;
    let (id, path) = (made.id(), format!("/webhooks/{}", made.id()));
    let lease = test.store.hold("webhooks", std::time::Duration::from_secs(60)).await.unwrap().unwrap();
    let delivery = |n: i64| WebhookDelivery {
        webhook: id.clone(),
        id: format!("evt_{n}"),
        event_type: "resource.updated".into(),
        body: json!({"type": "resource.updated", "n": n}).to_string(),
        status: "delivered",
        attempts: 1,
        created_at: n,
        attempted_at: Some(n),
        duration_ms: Some(12),
        response_status: Some(204),
        answer: Some("thanks".into()),
        error: None,
    };
    let position = WebhookPosition {
        webhook: id.clone(),
        epoch: "e".into(),
        at: EventPlace::end_of(7),
        attempts: 1,
        next_at: 5_000,
        failing_since: Some(4_000),
        delivered: 3,
        dropped: 1,
        delivered_at: Some(3),
        error: Some("the receiver answered 503".into()),
    };
    test.store.record_webhooks(&lease, vec![position], (1..=3).map(delivery).collect()).await.unwrap();
    let shown = test.get(&path).await.ok(200);
    assert_eq!((&shown["delivery"]["delivered"], &shown["delivery"]["dropped"]), (&json!(3), &json!(1)));
    assert!(shown["delivery"]["failing_since"].is_string(), "{shown}");
    let first = test.get(&format!("{path}/deliveries?limit=2")).await.ok(200);
    assert_eq!((first["items"][0]["id"].as_str(), first["has_more"].as_bool()), (Some("evt_3"), Some(true)));
    assert_eq!(first["items"][0]["payload"]["n"], 3);
    let next = first["next_cursor"].as_str().unwrap();
    let rest = test.get(&format!("{path}/deliveries?limit=2&cursor={next}")).await.ok(200);
    assert_eq!((rest["items"][0]["id"].as_str(), rest["has_more"].as_bool()), (Some("evt_1"), Some(false)));
    assert_eq!(test.get(&format!("{path}/deliveries?cursor=evt_9")).await.status, 400);

    let again = test.post(&format!("{path}/deliveries/evt_2/redeliver"), json!({})).await.ok(202);
    assert_eq!((&again["id"], &again["status"]), (&json!("evt_2"), &json!("pending")));
    assert_eq!(test.post(&format!("{path}/deliveries/evt_9/redeliver"), json!({})).await.status, 404);
    let tested = test.post(&format!("{path}/test"), json!({})).await.ok(202);
    let pending = test.store.read().await.unwrap().pending_deliveries(10).await.unwrap();
    let ids: Vec<&str> = pending.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["evt_2", tested["id"].as_str().unwrap()]);
    // Nobody delivers here: what waits is bounded.
    for _ in 0..19 {
        test.post(&format!("{path}/test"), json!({})).await.ok(202);
    }
    assert_eq!(test.post(&format!("{path}/test"), json!({})).await.status, 409);
}

#[tokio::test]
async fn a_brands_webhooks_go_with_it() {
    let test = TestApi::empty().await;
    let brand = json!({
        "id": "acme", "name": "acme", "base_hostname": "acme.example", "primary_ns": "ns1.acme.example",
        "secondary_ns": "ns2.acme.example", "hostmaster_email": "h@acme.example",
    });
    test.post("/brands", brand).await.ok(201);
    let made = test.post("/webhooks", hook(json!({}))).await;
    test.delete("/brands/acme").await.ok(200);
    assert_eq!(test.get(&format!("/webhooks/{}", made.id())).await.status, 404);
}
