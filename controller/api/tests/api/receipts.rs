//! Served receipts: what machines' own listeners answer with, and waiting for it.

use std::sync::Arc;
use std::time::Duration;

use hosting_api::{NotServed, ServedView};
use hosting_intent::{Key, Kind as IntentKind};
use serde_json::{Value, json};

use crate::harness::{FakeFleet, TestApi};

/// A subscriber that serves everything.
fn all() -> ServedView {
    ServedView { upto: u64::MAX, marks: vec![(1, 1_000), (u64::MAX, 60_000)], ..ServedView::default() }
}

fn says(fleet: &FakeFleet, node: &str, served: ServedView) {
    fleet.set(|state| drop(state.served.insert(node.to_owned(), served)));
}

/// What each machine does with the item of a kind.
fn states(receipt: &Value, kind: &str) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    receipt["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["key"].as_str().unwrap().starts_with(kind))
        .flat_map(|item| item["subscribers"].as_array().unwrap())
        .map(|one| (text(&one["node_id"]), text(&one["state"]), text(&one["detail"])))
        .collect()
}

fn one(node: &str, state: &str, detail: &str) -> Vec<(String, String, String)> {
    vec![(node.to_owned(), state.to_owned(), detail.to_owned())]
}

#[tokio::test]
async fn a_receipt_names_each_machine_that_does_not_serve_what_it_applied() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let path = format!("/fqdns/{}/receipt", ids.fqdn);
    let receipt = async || test.get(&path).await.ok(200);

    // Acknowledged, which proves nothing: these builds do not ask their listeners.
    let none = receipt().await;
    assert_eq!((&none["served"], &none["missing"]), (&json!(false), &json!(["dns-1", "edge-1"])));
    assert_eq!(states(&none, "route/"), one("edge-1", "does_not_check", "does not ask its listeners"));

    says(&test.fleet, "edge-1", all());
    says(&test.fleet, "dns-1", all());
    let whole = receipt().await;
    assert_eq!(
        (&whole["served"], &whole["sampled"], &whole["missing"]),
        (&json!(true), &json!(false), &json!([]))
    );
    let revision = whole["revision"].as_u64().unwrap();
    assert!(revision > 0 && whole["id"] == json!(ids.fqdn) && whole["kind"] == "fqdn");
    assert_eq!(whole["items"][0]["subscribers"][0]["at"], "1970-01-01T00:01:00Z");

    // Its map is not the one that its listeners read.
    let key = Key::new(IntentKind::Route, &ids.fqdn_name);
    let reason = "http 127.0.0.1:80 does not know the host".to_owned();
    let stale = NotServed { key: key.clone(), revision, reason: reason.clone() };
    says(&test.fleet, "edge-1", ServedView { failed: vec![stale], ..all() });
    let failed = receipt().await;
    assert_eq!((&failed["served"], &failed["missing"]), (&json!(false), &json!(["edge-1"])));
    assert_eq!(states(&failed, "route/"), one("edge-1", "not_served", &reason));
    // What failed of an older version of the item is no word on this one.
    let old = NotServed { key, revision: 0, reason };
    says(&test.fleet, "edge-1", ServedView { failed: vec![old], ..all() });
    assert_eq!(receipt().await["served"], json!(true));

    says(&test.fleet, "edge-1", ServedView { pending: vec![(revision, revision)], ..all() });
    let items = receipt().await;
    let of_the_route = |receipt: &Value| {
        let items = receipt["items"].as_array().unwrap().clone();
        items.into_iter().find(|item| item["key"].as_str().unwrap().starts_with("route/")).unwrap()["revision"].as_u64()
    };
    let route = of_the_route(&items).unwrap();
    says(&test.fleet, "edge-1", ServedView { pending: vec![(0, 0), (route, route + 5)], ..all() });
    assert_eq!(states(&receipt().await, "route/"), one("edge-1", "unchecked", "was not asked for yet"));
    says(&test.fleet, "edge-1", ServedView { upto: route - 1, ..all() });
    assert_eq!(states(&receipt().await, "route/"), one("edge-1", "unchecked", "was not asked for yet"));
    says(&test.fleet, "edge-1", ServedView { sampled: vec![(0, route)], ..all() });
    let sampled = receipt().await;
    assert_eq!(states(&sampled, "route/"), one("edge-1", "sampled", ""));
    assert_eq!((&sampled["served"], &sampled["sampled"]), (&json!(true), &json!(true)));
    says(&test.fleet, "edge-1", all());
    test.fleet.set(|state| state.away = vec!["edge-1".into()]);
    let away = receipt().await;
    assert_eq!(states(&away, "route/"), one("edge-1", "out_of_service", ""));
    assert_eq!((&away["served"], &away["missing"]), (&json!(false), &json!([])), "nobody serves it");

    let site = test.get(&format!("/webroots/{}/receipt", ids.webroot)).await.ok(200);
    assert_eq!(states(&site, "webroot/"), one("web-1", "ready", ""));
    assert_eq!(test.get("/fqdns/none/receipt").await.status, 404);
}

#[tokio::test]
async fn waiting_for_served_ends_when_every_machine_in_service_serves_it() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    says(&test.fleet, "edge-1", all());
    says(&test.fleet, "dns-1", ServedView { upto: 1, ..all() });
    let body = |name: &str| json!({"fqdn": format!("{name}.first-zone.example"), "webroot_id": ids.webroot});
    let path = format!("/tenants/{}/fqdns?wait=served", ids.tenant);

    let late = test.post(&format!("{path}&wait_timeout=1"), body("late")).await;
    assert_eq!((late.status, &late.body["not_serving"]), (202, &json!(["dns-1"])), "{late:?}");
    assert_eq!(late.body["receipts"][0]["missing"], json!(["dns-1"]));
    let gone = test.delete(&format!("/fqdns/{}?wait=served&wait_timeout=1", late.id())).await;
    assert_eq!(
        (gone.status, &gone.body["not_serving"]),
        (202, &json!(["dns-1"])),
        "withdrawn, and still answered"
    );

    let fleet = Arc::clone(&test.fleet);
    let later = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        says(&fleet, "dns-1", all());
    });
    let made = test.post(&path, body("now")).await;
    later.await.unwrap();
    assert_eq!((made.status, &made.body["not_serving"]), (200, &json!([])), "{made:?}");
    assert_eq!(made.body["receipts"][0]["served"], json!(true));
    let gone = test.delete(&format!("/fqdns/{}?wait=served", made.id())).await;
    assert_eq!((gone.status, &gone.body["status"]), (200, &json!("deleted")), "{gone:?}");
}
