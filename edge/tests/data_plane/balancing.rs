//! Nodes that hang, nodes that come back, and more requests than there is room for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use hosting_edge::Settings;
use hosting_intent::message::State;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Edge, Node, pool, route, settings, tenant};
use crate::resilience::forgetful;

/// A node that takes every connection and, while it hangs, answers nothing.
struct Hanging {
    address: SocketAddr,
    hangs: Arc<AtomicBool>,
    /// Requests of visitors.
    asked: Arc<AtomicUsize>,
}

impl Hanging {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hangs, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (state, count) = (Arc::clone(&hangs), Arc::clone(&asked));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&state), Arc::clone(&count)));
            }
        });
        Self { address, hangs, asked }
    }
}

async fn serve(mut stream: TcpStream, hangs: Arc<AtomicBool>, asked: Arc<AtomicUsize>) {
    let mut request = [0; 4_096];
    while let Ok(read @ 1..) = stream.read(&mut request).await {
        let is_question = request[..read].starts_with(b"GET /.well-known/hosting-alive ");
        asked.fetch_add(usize::from(!is_question), Ordering::SeqCst);
        while hangs.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let answer: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nback";
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !is_so().await {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_is_found_out_by_the_edge_and_comes_back_slowly() {
    let alive = Node::start("alive").await;
    let hanging = Hanging::start().await;
    let settings = Settings {
        node_check_interval_ms: 50,
        node_check_timeout_ms: 50,
        slow_start_ms: 3_000,
        ..settings()
    };
    let mut edge = Edge::with(settings).await;
    let hosts: Vec<String> = (0..40).map(|n| format!("h{n}.example.com")).collect();
    let mut intents = vec![pool("s1", &[("hanging", hanging.address, true), ("alive", alive.address, true)])];
    intents.extend(hosts.iter().map(|host| route(host, "t_a", "web_a", "s1")));
    edge.publish(intents, Vec::new());
    eventually("nobody noticed", async || edge.metric("hosting_edge_nodes_down") == 1).await;
    let client = edge.client(&hosts.iter().map(String::as_str).collect::<Vec<_>>());
    let at_hanging = async || {
        let answers = join_all(hosts.iter().map(|host| client.get(edge.url(host, "/")).send())).await;
        let mut count = 0;
        for answer in answers {
            let answer = answer.unwrap();
            assert_eq!(answer.status(), 200);
            count += usize::from(answer.text().await.unwrap() == "back");
        }
        count
    };
    assert_eq!(at_hanging().await, 0);
    assert_eq!(hanging.asked.load(Ordering::SeqCst), 0, "no visitor waits for it");
    assert_eq!(edge.metric("hosting_edge_upstream_ejections_total"), 1);

    hanging.hangs.store(false, Ordering::SeqCst);
    eventually("it is not noticed again", async || edge.metric("hosting_edge_nodes_down") == 0).await;
    let early = at_hanging().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let late = at_hanging().await;
    assert!(early < late && late > 5, "{early} of its hosts at once, {late} later");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_no_node_answers_the_edge_tries_them_all_the_same() {
    let hanging = Hanging::start().await;
    let settings = Settings { node_check_interval_ms: 20, node_check_timeout_ms: 20, ..settings() };
    let mut edge = Edge::with(settings).await;
    edge.publish(
        vec![pool("s1", &[("n1", hanging.address, true)]), route("www.example.com", "t_a", "web_a", "s1")],
        Vec::new(),
    );
    eventually("nobody noticed", async || edge.metric("hosting_edge_nodes_down") == 1).await;
    let client = edge.client(&["www.example.com"]);
    let asked = tokio::spawn(client.get(edge.url("www.example.com", "/")).send());
    eventually("it is not asked", async || hanging.asked.load(Ordering::SeqCst) == 1).await;
    hanging.hangs.store(false, Ordering::SeqCst);
    assert_eq!(asked.await.unwrap().unwrap().text().await.unwrap(), "back");
}

/// Sends a request for a host to a path and returns the code.
async fn code(client: &reqwest::Client, edge: &Edge, host: &str, path: &str) -> u16 {
    let url = format!("http://{}{path}", edge.http);
    client.get(url).header("host", host).send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_site_hangs_leaves_room_for_the_others() {
    let node = Node::start("node-1").await;
    let settings = Settings { node_max_requests: 10, wait_timeout_ms: 200, ..settings() };
    let mut edge = Edge::with(settings).await;
    edge.publish(
        vec![
            tenant("t_a", State::Active),
            pool("s1", &[("n1", node.address, true)]),
            route("slow.example.com", "t_a", "web_a", "s1"),
            route("other.example.com", "t_b", "web_b", "s1"),
        ],
        Vec::new(),
    );
    let client = edge.client(&[]);
    let slow = join_all((0..20).map(|_| code(&client, &edge, "slow.example.com", "/slow/1500")));
    let other = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        join_all((0..4).map(|_| code(&client, &edge, "other.example.com", "/"))).await
    };
    let (slow, other) = tokio::join!(slow, other);
    assert_eq!(other, [200; 4]);
    let count = |wanted: u16| slow.iter().filter(|code| **code == wanted).count();
    assert_eq!((count(200), count(503)), (5, 15), "{slow:?}");
    assert_eq!(edge.metric("hosting_edge_requests_busy_total"), 15);
    // The room comes back.
    assert_eq!(code(&client, &edge, "slow.example.com", "/").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_a_place_and_not_for_ever() {
    let node = Node::start("node-1").await;
    let settings = Settings { node_max_requests: 2, max_waiting: 2, wait_timeout_ms: 2_000, ..settings() };
    let mut edge = Edge::with(settings).await;
    let hosts = ["a.example", "b.example", "c.example", "d.example", "e.example", "f.example"];
    let mut intents = vec![pool("s1", &[("n1", node.address, true)])];
    // Of a tenant each: one alone may have half of the room.
    intents.extend(hosts.iter().map(|host| route(host, &format!("t_{}", &host[..1]), "web_a", "s1")));
    edge.publish(intents, Vec::new());
    let client = edge.client(&[]);
    let held = join_all(hosts[..2].iter().map(|host| code(&client, &edge, host, "/slow/700")));
    let late = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let begun = Instant::now();
        let codes = join_all(hosts[2..].iter().map(|host| code(&client, &edge, host, "/"))).await;
        (codes, begun.elapsed())
    };
    let (held, (late, took)) = tokio::join!(held, late);
    assert_eq!(held, [200, 200]);
    let count = |wanted: u16| late.iter().filter(|code| **code == wanted).count();
    assert_eq!((count(200), count(503)), (2, 2), "two wait, two find no place to wait: {late:?}");
    assert!(took > Duration::from_millis(300) && took < Duration::from_millis(1_900), "{took:?}");
    assert_eq!(edge.metric("hosting_edge_requests_waited_total"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_in_trouble_is_not_asked_twice_as_often() {
    let (address, asked) = forgetful(true).await;
    let mut edge = Edge::start().await;
    edge.publish(
        vec![
            pool("s1", &[("n1", address, true), ("n2", address, true)]),
            route("www.example.com", "t_a", "web_a", "s1"),
        ],
        Vec::new(),
    );
    let client = edge.client(&[]);
    for _ in 0..600 {
        assert_eq!(code(&client, &edge, "www.example.com", "/").await, 502);
    }
    let asked = asked.load(Ordering::SeqCst);
    // A hundred at once, and one for each five requests.
    assert!((800..=825).contains(&asked), "600 requests were {asked}");
}
