//! The edge asks its own listeners for what it applied.

use std::time::Duration;

use hosting_edge::EdgeReplica;
use hosting_intent::message::State;
use hosting_intent::{EdgeIntent, Item, Key, Kind, Rejection};
use hosting_intent_sync::client::KeysWatch;
use hosting_intent_sync::self_check::{CheckMetrics, SelfCheck, SelfChecks};
use hosting_intent_sync::{Batch, Replica};
use hosting_scaffold::admin::Metrics as Registry;
use tokio_util::sync::CancellationToken;

use crate::harness::{Edge, Node, gone, pool, route, settings, tenant};

async fn says(edge: &Edge, (item, intent): &(Item, EdgeIntent)) -> Result<(), String> {
    edge.check.check(&item.key, Some(intent)).await
}

async fn says_gone(edge: &Edge, host: &str) -> Result<(), String> {
    edge.check.check(&Key::new(Kind::Route, host), None).await
}

fn address() -> std::net::SocketAddr {
    "192.0.2.1:80".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_is_what_every_listener_answers() {
    let mut edge = Edge::start().await;
    let first = [
        tenant("t_a", State::Active),
        tenant("t_b", State::Active),
        pool("s1", &[("n1", address(), true)]),
        route("www.example.com", "t_a", "web_a", "s1"),
        route("parked.example.com", "t_a", "", ""),
    ];
    edge.publish(first.to_vec(), Vec::new());
    for item in &first {
        assert_eq!(says(&edge, item).await, Ok(()), "{}", item.0.key);
    }
    assert_eq!(says_gone(&edge, "other.example.com").await, Ok(()));
    let still = says_gone(&edge, "www.example.com").await.unwrap_err();
    assert!(still.starts_with("http 127.0.0.1:") && still.ends_with(" still knows the host"), "{still}");

    // Each of them changed: only the new version passes.
    let second = [
        tenant("t_a", State::Suspended),
        pool("s1", &[("n1", address(), true), ("n2", address(), false)]),
        route("www.example.com", "t_a", "web_b", "s1"),
        route("parked.example.com", "t_b", "", ""),
    ];
    for item in &second {
        let wrong = says(&edge, item).await.unwrap_err();
        assert!(wrong.contains(" has another `"), "{wrong}");
        edge.publish(vec![item.clone()], Vec::new());
        assert_eq!(says(&edge, item).await, Ok(()), "{}", item.0.key);
    }
    edge.publish(Vec::new(), vec![gone("www.example.com")]);
    assert_eq!(says_gone(&edge, "www.example.com").await, Ok(()));
    let missing = says(&edge, &second[2]).await.unwrap_err();
    assert!(missing.ends_with(" does not know the host"), "{missing}");
    assert_eq!(edge.metric("hosting_edge_requests_total{code=\"2xx\"}"), 0, "checks are no requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_table_and_a_dead_listener_are_named() {
    let (mut edge, mut other) = (Edge::start().await, Edge::start().await);
    let site = route("www.example.com", "t_a", "web_a", "s1");
    // The table that is written is not the one that these listeners read.
    other.publish(vec![site.clone()], Vec::new());
    assert_eq!(says(&other, &site).await, Ok(()));
    assert!(says(&edge, &site).await.unwrap_err().contains("does not know the host"));

    edge.publish(vec![site.clone()], Vec::new());
    assert_eq!(says(&edge, &site).await, Ok(()));
    edge.stop.cancel();
    tokio::time::timeout(Duration::from_secs(20), &mut edge.done).await.unwrap().unwrap();
    let dead = says(&edge, &site).await.unwrap_err();
    assert!(dead.starts_with(&format!("http {}: ", edge.http)) && dead.contains("refused"), "{dead}");
}

/// Says that it applied what it forgets.
struct Forgets(KeysWatch<EdgeReplica>);

impl Replica for Forgets {
    type Intent = EdgeIntent;

    fn check(&self, key: &Key, intent: &EdgeIntent) -> Result<(), Rejection> {
        self.0.check(key, intent)
    }

    fn publish(&mut self, mut batch: Batch<EdgeIntent>) {
        batch.upserts.retain(|(item, _)| item.key.name != "lost.example.com");
        self.0.publish(batch);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_acknowledges_without_applying_says_so_itself() {
    let mut edge = Edge::unloaded(settings());
    let registry = Registry::new();
    let metrics = registry.register(CheckMetrics::register);
    let (mut replica, checks) = SelfChecks::of(Forgets(edge.take_replica()), metrics);
    let stop = CancellationToken::new();
    let upserts = ["kept.example.com", "lost.example.com"].map(|host| route(host, "t_a", "web_a", "s1"));
    replica.publish(Batch {
        epoch: "e".into(),
        revision: 9,
        upserts: upserts.into(),
        removals: Vec::new(),
        more: false,
    });
    edge.open().await;
    let running = tokio::spawn(checks.run(edge.check.clone(), stop.clone()));
    let failing = || registry.encode().contains("intent_self_check_failing 1\n");
    let begun = std::time::Instant::now();
    while !failing() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", registry.encode());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_can_ask() {
    let node = Node::start("node-1").await;
    let mut edge = Edge::start().await;
    let all = vec![pool("s1", &[("n1", node.address, true)]), route("www.example.com", "t_a", "web_a", "s1")];
    edge.publish(all, Vec::new());
    let path = "/.well-known/hosting-self-check";
    let ask = async |field: &str| {
        edge.raw(
            format!("GET {path} HTTP/1.1\r\nhost: www.example.com\r\n{field}connection: close\r\n\r\n")
                .as_bytes(),
        )
        .await
    };
    for field in ["", "x-hosting-self-check: \r\n", &format!("x-hosting-self-check: {}\r\n", "0".repeat(64))]
    {
        let answer = ask(field).await;
        assert!(
            answer.contains(&format!("GET {path}")) && answer.contains("x-served-by: node-1"),
            "{answer}"
        );
    }
}
