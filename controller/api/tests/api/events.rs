//! The stream of events: what is told, to whom, from where on, and how it ends.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{Method, Request};
use futures::StreamExt;
use hosting_api::ApiConfig;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::harness::TestApi;

/// One block of a stream: name, id and data.
#[derive(Debug, Clone, Default, PartialEq)]
struct Block {
    name: String,
    id: String,
    data: Value,
}

/// A client of the stream.
struct Client {
    stream: BodyDataStream,
    text: String,
}

impl Client {
    async fn connect(test: &TestApi, query: &str, key: &str, last: Option<&str>) -> Self {
        let mut request = Request::builder().uri(format!("/api/v1/events?{query}")).header("x-api-key", key);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = test.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self { stream: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next block; `None` at the end, or after some time without one.
    async fn block(&mut self) -> Option<Block> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let mut parsed = Block::default();
                for line in block.lines() {
                    match line.split_once(": ") {
                        Some(("event", name)) => parsed.name = name.to_owned(),
                        Some(("id", id)) => parsed.id = id.to_owned(),
                        Some(("data", data)) => parsed.data = serde_json::from_str(data).unwrap(),
                        _ => {}
                    }
                }
                self.text = rest.to_owned();
                return Some(parsed);
            }
            let chunk = tokio::time::timeout(Duration::from_millis(400), self.stream.next()).await.ok()??;
            self.text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
    }

    /// What is told of resources until nothing comes.
    async fn told(&mut self) -> Vec<Value> {
        let mut told = Vec::new();
        while let Some(block) = self.block().await {
            if block.name == "resource" {
                told.push(block.data);
            }
        }
        told
    }

    /// The first event that is no heartbeat.
    async fn event(&mut self) -> Block {
        loop {
            let block = self.block().await.unwrap();
            if !block.name.is_empty() {
                return block;
            }
        }
    }
}

fn short(told: &[Value]) -> Vec<(String, String, String)> {
    let text = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
    told.iter().map(|one| (text(one, "change"), text(one, "kind"), text(one, "id"))).collect()
}

async fn behaving(heartbeat: Duration, max_watching: usize) -> TestApi {
    TestApi::behaving(ApiConfig { heartbeat, max_watching, ..ApiConfig::default() }).await.equipped().await
}

#[tokio::test]
async fn what_becomes_of_a_resource_is_told_from_a_revision_on() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let mut client = Client::connect(&test, "kind=zone_record", &test.admin, None).await;
    let begin = client.block().await.unwrap();
    // What the fleet does meanwhile has revisions too.
    let place: u64 = begin.id.parse().unwrap();
    assert!(
        place > 0 && place <= test.store.read().await.unwrap().head(),
        "it begins with a place: {begin:?}"
    );
    let records = format!("/zones/{}/records", ids.zone);
    let made = test.post(&records, json!({"type": "TXT", "name": "e", "content": "x"})).await.ok(202);
    let id = made["id"].as_str().unwrap().to_owned();
    let path = format!("/zone-records/{id}");
    test.until(&path, |answer| answer.body["status"] == "active").await;
    test.delete(&path).await.ok(202);
    for _ in 0..200 {
        if test.get(&path).await.status == 404 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let told = client.told().await;
    let of = |change: &str| (change.to_owned(), "zone_record".to_owned(), id.clone());
    let seen = short(&told);
    assert_eq!((seen.first(), seen.last()), (Some(&of("created")), Some(&of("deleted"))), "{told:?}");
    assert!(seen.contains(&of("updated")) && seen.iter().all(|one| one.2 == id), "{told:?}");
    assert_eq!(told[0]["revision"], made["revision"]);
    assert_eq!((&told[0]["tenant_id"], &told[0]["brand_id"]), (&json!(ids.tenant), &json!("first")));
    assert!(told.iter().any(|one| one["status"] == "active"), "{told:?}");
    let revisions: Vec<u64> = told.iter().map(|one| one["revision"].as_u64().unwrap()).collect();
    assert!(revisions.is_sorted(), "{revisions:?}");

    // From a revision on: all that came after it, by either way of saying so.
    let first = made["revision"].as_u64().unwrap();
    let since = format!("kind=zone_record&since={first}");
    let again = Client::connect(&test, &since, &test.admin, None).await.told().await;
    assert_eq!(again, told[1..].to_vec());
    let before = (first - 1).to_string();
    let again = Client::connect(&test, &since, &test.admin, Some(&before)).await.told().await;
    assert_eq!(again, told, "the header of a client that comes back counts");
}

#[tokio::test]
async fn a_place_that_is_gone_or_not_there_yet_is_a_reset() {
    let test = TestApi::with_fleet().await;
    test.brand("first").await;
    // A controller's memory begins where it began.
    let copy = test.copy().await;
    copy.gatekeeper.0.abort();
    for since in ["0", "1", "99999999"] {
        let head = copy.store.read().await.unwrap().head();
        let mut client = Client::connect(&copy, &format!("since={since}"), &test.admin, None).await;
        let reset = client.event().await;
        assert_eq!((reset.name.as_str(), &reset.data["revision"]), ("reset", &json!(head)), "{since}");
        assert_eq!(reset.id, head.to_string());
        copy.post("/regions", json!({"name": format!("r{since}")})).await.ok(201);
        assert_eq!(client.event().await.name, "resource", "it goes on");
    }
    for wrong in ["x", "-1", ""] {
        let request = Request::builder().uri("/api/v1/events").header("x-api-key", &test.admin);
        let request = request.header("last-event-id", wrong).body(Body::empty()).unwrap();
        assert_eq!(test.send(request).await.status, 400, "{wrong:?}");
    }
}

#[tokio::test]
async fn a_key_hears_of_what_it_may_read_and_nothing_else() {
    let test = TestApi::with_fleet().await;
    let ours = test.brand("ours").await;
    let theirs = test.brand("theirs").await;
    let (_, all) = test.key(&["*:read"], &["theirs"]).await;
    let (_, zones) = test.key(&["events:read", "zones:read"], &["theirs"]).await;
    let (_, none) = test.key(&["zones:read"], &["theirs"]).await;
    let mut clients = Vec::new();
    for (query, key) in [
        ("", &all),
        ("", &zones),
        ("kind=zone&brand_id=ours", &all),
        (&format!("tenant_id={}", ours.tenant), &all),
        (&format!("tenant_id={}", theirs.tenant), &test.admin),
        ("kind=region", &test.admin),
    ] {
        clients.push(Client::connect(&test, query, key, None).await);
    }
    for ids in [&ours, &theirs] {
        let body = json!({"customer_id": "other"});
        test.put(&format!("/tenants/{}", ids.tenant), body).await.ok(202);
        test.put(&format!("/zones/{}", ids.zone), json!({"tenant_id": null})).await.ok(200);
        test.post(
            &format!("/zones/{}/records", ids.zone),
            json!({"type": "TXT", "name": "q", "content": "x"}),
        )
        .await
        .ok(202);
    }
    test.post("/regions", json!({"name": "south"})).await.ok(201);
    let mut heard = Vec::new();
    for client in &mut clients {
        heard.push(client.told().await);
    }
    let kinds = |n: usize| -> std::collections::BTreeSet<String> {
        short(&heard[n]).into_iter().map(|one| one.1).collect()
    };
    let brands = |n: usize| heard[n].iter().all(|one| one["brand_id"] == "theirs");
    assert!(brands(0) && kinds(0).contains("tenant") && kinds(0).contains("zone_record"), "{:?}", heard[0]);
    assert!(brands(1) && kinds(1) == ["zone".to_owned()].into(), "{:?}", heard[1]);
    assert!(heard[2].is_empty() && heard[3].is_empty(), "{heard:?}");
    assert!(
        heard[4].iter().all(|one| one["tenant_id"] == theirs.tenant) && !heard[4].is_empty(),
        "{:?}",
        heard[4]
    );
    assert_eq!(short(&heard[5]).len(), 1, "{:?}", heard[5]);
    for (query, key, wanted) in [
        ("", &none, "insufficient scope: requires events:read"),
        ("kind=tenant", &zones, "insufficient scope: requires tenants:read"),
        ("kind=zone,region", &all, "platform admin access required"),
    ] {
        let refused = test.call(Method::GET, &format!("/events?{query}"), Some(key), None).await;
        assert_eq!((refused.status, refused.error()), (403, wanted), "{query}");
    }
}

#[tokio::test]
async fn a_stream_shows_that_it_stands_and_ends_with_its_key() {
    let test = behaving(Duration::from_millis(50), 16).await;
    let (id, key) = test.key(&["*:read"], &["*"]).await;
    let mut client = Client::connect(&test, "kind=zone", &key, None).await;
    let begin: u64 = client.block().await.unwrap().id.parse().unwrap();
    // A change that it does not hear of moves its place.
    test.post("/regions", json!({"name": "south"})).await.ok(201);
    let mut place = begin;
    while place == begin {
        let beat = client.block().await.unwrap();
        assert_eq!(beat.name, "");
        place = beat.id.parse().unwrap();
    }
    assert!(place > begin);
    // A place of two is taken; the key's share is an eighth of sixteen.
    let _second = Client::connect(&test, "", &key, None).await;
    let third = test.call(Method::GET, "/events", Some(&key), None).await;
    assert_eq!((third.status, third.headers["retry-after"].to_str().unwrap()), (503, "1"));
    test.delete(&format!("/api-keys/{id}")).await.ok(204);
    let end = client.event().await;
    assert_eq!((end.name.as_str(), end.id.as_str()), ("end", ""));
    assert_eq!(end.data["reason"], "invalid API key");
    assert_eq!(client.block().await, None);
    drop(client);
}

#[tokio::test]
async fn a_draining_controller_ends_its_streams() {
    let test = TestApi::with_fleet().await;
    let mut client = Client::connect(&test, "", &test.admin, None).await;
    client.block().await.unwrap();
    test.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), client.stream.next()).await;
    assert!(ended.unwrap().is_none());
}
