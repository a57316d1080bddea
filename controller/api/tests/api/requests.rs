//! Requests of a name as they end: who may watch them, what is told, and how it ends.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{Method, Request};
use futures::StreamExt;
use hosting_api::{ApiConfig, RequestNews};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::harness::{Ids, TestApi};

/// A line as an edge writes it.
const LINE: &str = r#"{"time":"2026-11-30T20:00:00.000Z","client":"192.0.2.0","tls":true,"host":"www.example.com","method":"GET","target":"/a?b","status":200,"received":0,"sent":5,"seconds":0.0125,"upstream_seconds":0.01,"tenant":"t","webroot":"web_a","shard":"s","node":"n","trace_id":"4bf9","user_agent":"x"}"#;

struct Client {
    stream: BodyDataStream,
    text: String,
}

impl Client {
    async fn connect(test: &TestApi, fqdn: &str, key: &str) -> Self {
        let request =
            Request::builder().uri(format!("/api/v1/fqdns/{fqdn}/requests")).header("x-api-key", key);
        let response = test.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { stream: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next block that is no heartbeat, with its data; `None` at the end.
    async fn block(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                let found = field("event: ")
                    .map(|event| (event.to_owned(), serde_json::from_str(field("data: ").unwrap()).unwrap()));
                self.text = rest.to_owned();
                match found {
                    Some(found) => return Some(found),
                    None => continue,
                }
            }
            let chunk = tokio::time::timeout(Duration::from_secs(10), self.stream.next()).await.unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
    }
}

/// What edges say to the newest watch.
fn say(test: &TestApi, news: RequestNews) {
    test.fleet.set(|state| state.watched.last().unwrap().1.unbounded_send(news).unwrap());
}

async fn behaving(heartbeat: Duration) -> (TestApi, Ids) {
    let config = ApiConfig { heartbeat, ..ApiConfig::default() };
    let test = TestApi::behaving(config).await.equipped().await;
    let ids = test.brand("acme").await;
    (test, ids)
}

#[tokio::test]
async fn requests_are_told_as_the_edges_tell_them_without_what_is_the_operators() {
    let (test, ids) = behaving(Duration::from_secs(15)).await;
    let (_, key) = test.key(&["fqdns:read"], &["acme"]).await;
    let mut client = Client::connect(&test, &ids.fqdn, &key).await;
    let tenant = test.get(&format!("/tenants/{}", ids.tenant)).await.ok(200);
    let wanted = format!("edge/{} {} {}", tenant["cluster_id"].as_str().unwrap(), ids.fqdn_name, ids.tenant);
    test.fleet.set(|state| assert_eq!(state.watched[0].0, wanted));
    say(&test, RequestNews::Edges(2));
    let lines = vec![LINE.to_owned(), "{}".to_owned(), "no line".to_owned(), LINE.to_owned()];
    say(&test, RequestNews::Requests { lines, missed: 7 });
    assert_eq!(client.block().await, Some(("edges".into(), json!({"edges": 2}))));
    assert_eq!(client.block().await, Some(("missed".into(), json!({"requests": 7}))));
    let row = json!({
        "time": "2026-11-30T20:00:00.000Z", "client": "192.0.2.0", "tls": true, "host": "www.example.com",
        "method": "GET", "target": "/a?b", "status": 200, "received_bytes": 0, "sent_bytes": 5, "ms": 12.5,
        "site_ms": 10.0, "webroot_id": "web_a", "user_agent": "x",
    });
    assert_eq!(client.block().await, Some(("request".into(), row.clone())));
    assert_eq!(client.block().await, Some(("request".into(), row)), "what is no line is left out");
    // The edges' watch ends with the stream.
    drop(client);
    test.fleet.set(|state| assert!(state.watched[0].1.is_closed()));
}

#[tokio::test]
async fn without_a_place_or_a_cluster_the_answer_says_so() {
    let (test, ids) = behaving(Duration::from_secs(15)).await;
    test.fleet.set(|state| state.watches_are_full = true);
    let path = format!("/fqdns/{}/requests", ids.fqdn);
    let full = test.get(&path).await;
    assert_eq!((full.status, full.headers["retry-after"].to_str().unwrap()), (503, "1"));
    assert!(full.error().contains("as many names of the cluster are watched as may be"), "{full:?}");
    let (_, other) = test.key(&["tenants:read"], &["acme"]).await;
    let refused = test.call(Method::GET, &path, Some(&other), None).await;
    assert_eq!((refused.status, refused.error()), (403, "insufficient scope: requires fqdns:read"));
}

#[tokio::test]
async fn a_stream_ends_with_its_key_with_its_name_and_with_the_controller() {
    let (test, ids) = behaving(Duration::from_millis(50)).await;
    let (id, key) = test.key(&["fqdns:read"], &["acme"]).await;
    let mut of_key = Client::connect(&test, &ids.fqdn, &key).await;
    let mut of_name = Client::connect(&test, &ids.fqdn, &test.admin).await;
    test.delete(&format!("/api-keys/{id}")).await.ok(204);
    assert_eq!(of_key.block().await, Some(("end".into(), json!({"reason": "invalid API key"}))));
    assert_eq!(of_key.block().await, None);
    test.delete(&format!("/fqdns/{}", ids.fqdn)).await.ok(202);
    let (name, data) = of_name.block().await.unwrap();
    assert_eq!((name.as_str(), &data["reason"]), ("end", &json!("the name is not there any more")));
    let other = test.brand("other").await;
    let mut of_controller = Client::connect(&test, &other.fqdn, &test.admin).await;
    test.stop.cancel();
    assert_eq!(of_controller.block().await, None);
}
