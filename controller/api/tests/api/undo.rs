//! `POST /undo`: planned first, with what stays, by whom it may be done.

use axum::http::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, TestApi};
use crate::jobs::Running;

async fn undo(test: &TestApi, key: &str, query: &str, body: Value) -> Answer {
    test.call(Method::POST, &format!("/undo{query}"), Some(key), Some(body)).await
}

fn ids<'v>(list: &'v Value, how: &str) -> Vec<&'v str> {
    let items = list.as_array().unwrap().iter().filter(|item| item["how"] == how);
    items.map(|item| item["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_revision_a_key_and_a_trace_are_taken_back() {
    let test = TestApi::with_fleet().await;
    let ids_of = test.brand("acme").await;
    let record = format!("/zone-records/{}", ids_of.record);
    let (id, key) = test.key(&["*:*"], &["acme"]).await;
    let as_key =
        async |method, path: &str, body: Value| test.call(method, path, Some(&key), Some(body)).await;
    // A revision.
    let changed = as_key(Method::PUT, &record, json!({"content": "other"})).await.ok(202);
    let body = json!({"revision": changed["revision"]});
    let plan = undo(&test, &key, "?dry_run=true", body.clone()).await.ok(200);
    let planned = plan["resources"].as_array().unwrap().iter().find(|one| one["id"] == json!(ids_of.record));
    assert_eq!((&plan["dry_run"], &planned.unwrap()["fields"]), (&json!(true), &json!(["/content"])));
    assert_eq!(ids(&plan["answer"]["taken_back"], "changed"), [ids_of.record.as_str()]);
    assert_eq!(test.get(&record).await.body["content"], "other", "a plan changes nothing");
    let undone = undo(&test, &key, "?wait=ready", body.clone()).await.ok(200);
    assert_eq!(ids(&undone["taken_back"], "changed"), [ids_of.record.as_str()]);
    assert_eq!(test.get(&record).await.body["content"], "hello");
    let rows = test.get(&format!("{record}/history")).await.ok(200);
    assert_eq!(rows["items"][0]["api_key_id"], json!(id), "it is a change like any other");
    let again = undo(&test, &key, "", body).await.ok(200);
    assert_eq!((&again["taken_back_total"], &again["conflicts_total"]), (&json!(0), &json!(1)), "{again}");
    // A key, in a span of time.
    let from = rows["items"][0]["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let from = (from + jiff::SignedDuration::from_millis(1)).to_string();
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let made = as_key(
        Method::POST,
        &format!("/zones/{}/records", ids_of.zone),
        json!({"type": "A", "name": "a", "content": "192.0.2.7"}),
    )
    .await;
    let gone = test.call(Method::DELETE, &record, Some(&key), None).await;
    let trace = gone.headers["traceparent"].to_str().unwrap().to_owned();
    gone.ok(202);
    test.until(&record, |answer| answer.status == 404).await;
    let undone = undo(&test, &test.admin, "", json!({"key": id, "from": from})).await.ok(200);
    assert_eq!(ids(&undone["taken_back"], "restored"), [ids_of.record.as_str()]);
    assert_eq!(ids(&undone["taken_back"], "deleted"), [made.id()]);
    let back = test.until(&record, |answer| answer.body["status"] == "active").await.body;
    assert_eq!((&back["content"], &back["id"]), (&json!("hello"), &json!(ids_of.record)));
    // A trace: of the undo itself, and of the first deletion, which has nothing left to take back.
    let last = test.get(&format!("{record}/history?limit=1")).await.ok(200)["items"][0]["trace_id"].clone();
    let undone = undo(&test, &key, "", json!({"trace": last})).await.ok(200);
    assert_eq!(ids(&undone["taken_back"], "deleted"), [ids_of.record.as_str()], "{undone}");
    assert_eq!(ids(&undone["taken_back"], "restored"), [made.id()], "an undo is undone");
    let undone = undo(&test, &key, "", json!({"trace": trace})).await.ok(200);
    assert_eq!(undone["conflicts_total"], 1, "{undone}");
    for wrong in [
        json!({}),
        json!({"revision": 1, "trace": "x"}),
        json!({"key": "k"}),
        json!({"trace": "short"}),
        json!({"key": "k", "from": "yesterday"}),
        json!({"revision": 1, "from": "2026-01-01"}),
        json!({"revision": u64::MAX}),
    ] {
        assert_eq!(undo(&test, &key, "", wrong.clone()).await.status, 400, "{wrong}");
    }
    assert_eq!(undo(&test, &key, "", json!({"revision": 999_999})).await.status, 404);
}

#[tokio::test]
async fn what_stays_is_listed_with_the_reason() {
    let test = TestApi::with_fleet().await;
    let ids_of = test.brand("acme").await;
    let record = format!("/zone-records/{}", ids_of.record);
    let (_, key) = test.key(&["*:*"], &["acme"]).await;
    let mine = test.call(Method::PUT, &record, Some(&key), Some(json!({"content": "mine", "ttl": 99}))).await;
    let theirs = test.put(&record, json!({"content": "theirs"})).await.ok(202)["revision"].clone();
    let undone = undo(&test, &key, "", json!({"revision": mine.body["revision"]})).await.ok(200);
    assert_eq!(
        (&undone["conflicts"][0]["field"], &undone["conflicts"][0]["revision"]),
        (&json!("/content"), &theirs)
    );
    let now = test.get(&record).await.body;
    assert_eq!((&now["content"], &now["ttl"]), (&json!("theirs"), &json!(3600)));
    // What nodes destroyed does not come back.
    let gone = test.delete(&format!("/webroots/{}", ids_of.webroot)).await;
    let revision = gone.headers["x-revision"].to_str().unwrap().parse::<u64>().unwrap();
    test.until(&format!("/webroots/{}", ids_of.webroot), |answer| answer.status == 404).await;
    let plan = undo(&test, &key, "?dry_run=true", json!({"revision": revision})).await.ok(200);
    let lost = &plan["answer"]["not_restorable"][0];
    assert_eq!((&lost["kind"], &lost["id"]), (&json!("webroot"), &json!(ids_of.webroot)));
    assert!(lost["reason"].as_str().unwrap().contains("was destroyed"), "{plan}");
}

#[tokio::test]
async fn secrets_come_back_sealed_and_work() {
    let test = TestApi::with_fleet().await;
    let ids_of = test.brand("acme").await;
    let path = format!("/certificates/{}", ids_of.certificate);
    let before = test.get(&path).await.body;
    let gone = test.delete(&path).await;
    let revision = gone.headers["x-revision"].to_str().unwrap().parse::<u64>().unwrap();
    test.until(&path, |answer| answer.status == 404).await;
    let undone = undo(&test, &test.admin, "?wait=ready", json!({"revision": revision})).await.ok(200);
    assert_eq!(ids(&undone["taken_back"], "restored"), [ids_of.certificate.as_str()], "{undone}");
    let after = test.get(&path).await.body;
    assert_eq!((&after["status"], &after["cert_pem"]), (&json!("active"), &before["cert_pem"]));
}

#[tokio::test]
async fn a_caller_undoes_what_it_could_change_by_hand() {
    let test = TestApi::with_fleet().await;
    let ours = test.brand("ours").await;
    let theirs = test.brand("theirs").await;
    let change = async |record: &str| {
        let changed = test.put(&format!("/zone-records/{record}"), json!({"content": "other"})).await;
        changed.ok(202)["revision"].clone()
    };
    let revision = change(&ours.record).await;
    let (_, foreign) = test.key(&["*:*"], &["theirs"]).await;
    let refused = undo(&test, &foreign, "", json!({"revision": revision})).await;
    let missing = undo(&test, &foreign, "", json!({"revision": 999_999})).await;
    assert_eq!((refused.status, refused.error()), (404, missing.error()), "like one that is not there");
    let (_, narrow) = test.key(&["undo:write", "zones:write"], &["ours"]).await;
    let refused = undo(&test, &narrow, "", json!({"revision": revision})).await;
    assert_eq!((refused.status, refused.error()), (403, "insufficient scope: requires zone_records:write"));
    let made = test
        .post(&format!("/zones/{}/records", ours.zone), json!({"type": "TXT", "name": "m", "content": "x"}))
        .await;
    let (_, writer) = test.key(&["undo:write", "zone_records:write"], &["ours"]).await;
    let refused = undo(&test, &writer, "", json!({"revision": made.body["revision"]})).await;
    assert_eq!((refused.status, refused.error()), (403, "insufficient scope: requires zone_records:delete"));
    undo(&test, &writer, "", json!({"revision": revision})).await.ok(200);
    // Of what one key did to both, each undoes its own.
    let (admin_id, admin) = test.key(&["*:*"], &["*"]).await;
    for record in [&ours.record, &theirs.record] {
        let path = format!("/zone-records/{record}");
        test.call(Method::PUT, &path, Some(&admin), Some(json!({"content": "by admin"}))).await.ok(202);
    }
    let span = json!({"key": admin_id, "from": "2000-01-01"});
    let undone = undo(&test, &foreign, "", span).await.ok(200);
    assert_eq!(ids(&undone["taken_back"], "changed"), [theirs.record.as_str()]);
    assert!(!undone.to_string().contains(&ours.record));
    assert_eq!(test.get(&format!("/zone-records/{}", ours.record)).await.body["content"], "by admin");
    // Only a platform admin changes what only a platform admin sets, and gives no key back.
    let limits = test.put("/brands/ours", json!({"dns_group": "other"})).await;
    let (_, own) = test.key(&["*:*"], &["ours"]).await;
    let body = json!({"revision": limits.body["revision"]});
    let refused = undo(&test, &own, "", body).await;
    assert_eq!((refused.status, refused.error()), (403, "dns_group: only a platform admin may change it"));
    let (id, key) = test.key(&["*:*"], &["*"]).await;
    let gone = test.delete(&format!("/api-keys/{id}")).await;
    let revision = gone.headers["x-revision"].to_str().unwrap().parse::<u64>().unwrap();
    let undone = undo(&test, &test.admin, "", json!({"revision": revision})).await.ok(200);
    assert_eq!((&undone["taken_back_total"], &undone["not_restorable_total"]), (&json!(0), &json!(1)));
    assert_eq!(test.call(Method::GET, "/tenants", Some(&key), None).await.status, 401);
}

#[tokio::test]
async fn more_than_a_transaction_holds_goes_on_as_a_job() {
    let test = TestApi::with_fleet().await;
    let ids_of = test.brand("acme").await;
    let (id, key) = test.key(&["*:*"], &["acme"]).await;
    let records = format!("/zones/{}/records", ids_of.zone);
    for n in 0..200 {
        let body = json!({"type": "TXT", "name": format!("n{n}"), "content": "x"});
        test.call(Method::POST, &records, Some(&key), Some(body)).await.ok(202);
    }
    let undone = undo(&test, &key, "", json!({"key": id, "from": "2000-01-01"})).await.ok(200);
    let first = undone["taken_back_total"].as_u64().unwrap();
    assert!((50..200).contains(&first), "{first}");
    let job = undone["job_id"].as_str().unwrap().to_owned();
    let runner = Running::start(&test);
    let done = test.until(&format!("/jobs/{job}"), |answer| answer.body["state"] == "done").await.body;
    assert_eq!(done["kind"], "undo");
    // They are gone when their intents are; the zone's own text stays.
    let texts = |body: &Value| {
        let rows = body["items"].as_array().into_iter().flatten();
        rows.filter(|row| row["type"] == "TXT").count()
    };
    test.until(&format!("{records}?limit=200"), |answer| texts(&answer.body) == 1).await.ok(200);
    runner.end().await;
}
