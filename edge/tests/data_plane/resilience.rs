//! Dead nodes, hostile clients, changes under load, the end.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use hosting_edge::Settings;
use hosting_intent::message::State;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Edge, Node, gone, one_site, pool, read_all, route, settings, tenant};
use crate::processes::Site;

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_costs_no_request_and_few_tries() {
    let alive = Node::start("alive").await;
    let mut edge = Edge::start().await;
    let hosts: Vec<String> = (0..30).map(|n| format!("h{n}.example.com")).collect();
    let dead = nobody().await;
    let mut intents = vec![
        tenant("t_a", State::Active),
        pool("s1", &[("dead", dead, true), ("alive", alive.address, true)]),
    ];
    intents.extend(hosts.iter().map(|host| route(host, "t_a", "web_a", "s1")));
    edge.publish(intents, Vec::new());
    let client = edge.client(&hosts.iter().map(String::as_str).collect::<Vec<_>>());
    for host in &hosts {
        // Not idempotent, with a body: nothing was sent when the connection failed.
        let response = client.post(edge.url(host, "/echo")).body("body").send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["x-served-by"]),
            (200, &"alive".parse().unwrap())
        );
        assert_eq!(response.text().await.unwrap(), "body");
    }
    assert_eq!(edge.metric("hosting_edge_upstream_ejections_total"), 1, "found out once");
    assert!(edge.metric("hosting_edge_upstream_retries_total") <= 2);

    // It comes back at its address: after its time away it gets its hosts again.
    let back = Node::on(TcpListener::bind(dead).await.unwrap(), "back");
    let until = Instant::now() + Duration::from_secs(10);
    while back.requests() == 0 {
        assert!(Instant::now() < until, "never asked again");
        tokio::time::sleep(Duration::from_millis(100)).await;
        for host in &hosts {
            assert_eq!(client.get(edge.url(host, "/")).send().await.unwrap().status(), 200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_node_is_dead_the_page_says_so_quickly() {
    let mut edge = Edge::start().await;
    edge.publish(
        vec![
            pool("s1", &[("d1", nobody().await, true), ("d2", nobody().await, true)]),
            route("www.example.com", "t_a", "web_a", "s1"),
            // Swallows packets (TEST-NET-1); some machines refuse at once instead.
            pool("s2", &[("hole", "192.0.2.1:9".parse().unwrap(), true)]),
            route("hole.example.com", "t_a", "web_a", "s2"),
        ],
        Vec::new(),
    );
    let client = edge.client(&["www.example.com", "hole.example.com"]);
    for (host, codes) in [("www.example.com", [502, 502]), ("hole.example.com", [502, 504])] {
        let start = Instant::now();
        let response =
            client.get(edge.url(host, "/")).header("accept", "application/json").send().await.unwrap();
        assert!(codes.contains(&response.status().as_u16()), "{}", response.status());
        assert!(response.text().await.unwrap().contains("\"error\":"));
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}

/// A node that accepts nothing, with as many connections waiting as it takes.
async fn full() -> (socket2::Socket, SocketAddr, TcpStream) {
    let node = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    node.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    node.listen(0).unwrap();
    let address = node.local_addr().unwrap().as_socket().unwrap();
    let waiting = TcpStream::connect(address).await.unwrap();
    (node, address, waiting)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_queue_is_full_for_a_moment_costs_no_visitor_a_page() {
    let ((node, address, _waiting), (_full, full_for_good, _first)) = (full().await, full().await);
    let mut edge = Edge::start().await;
    edge.publish(
        vec![
            pool("s1", &[("n1", address, true)]),
            route("www.example.com", "t_a", "web_a", "s1"),
            pool("s2", &[("n2", full_for_good, true)]),
            route("full.example.com", "t_a", "web_a", "s2"),
        ],
        Vec::new(),
    );
    let client = edge.client(&["www.example.com", "full.example.com"]);
    let start = Instant::now();
    let asking = tokio::spawn(client.get(edge.url("www.example.com", "/")).send());
    tokio::time::sleep(Duration::from_millis(100)).await;
    node.accept().unwrap();
    node.set_nonblocking(true).unwrap();
    let _node = Node::on(TcpListener::from_std(node.into()).unwrap(), "n1");
    assert_eq!(asking.await.unwrap().unwrap().status(), 200);
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    assert_eq!(client.get(edge.url("full.example.com", "/")).send().await.unwrap().status(), 504);
}

/// Answers one request per connection and closes without saying so, like a node whose keep-alive time ran out.
pub(crate) async fn forgetful(drop_requests: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, served) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&served);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                count.fetch_add(1, Ordering::SeqCst);
                if !drop_requests {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
            });
        }
    });
    (address, served)
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_pooled_connections_are_not_the_clients_problem() {
    let (address, _) = forgetful(false).await;
    let mut edge = Edge::start().await;
    edge.publish(
        vec![pool("s1", &[("n1", address, true)]), route("www.example.com", "t_a", "web_a", "s1")],
        Vec::new(),
    );
    let client = edge.client(&["www.example.com"]);
    for pause in [0u64, 0, 29, 30, 31, 40, 0, 29, 30, 31] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let response = client.get(edge.url("www.example.com", "/")).send().await.unwrap();
        assert_eq!(response.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_had_an_effect_is_not_sent_twice() {
    let (address, asked) = forgetful(true).await;
    let mut edge = Edge::start().await;
    edge.publish(
        vec![
            pool("s1", &[("n1", address, true), ("n2", address, true)]),
            route("www.example.com", "t_a", "web_a", "s1"),
        ],
        Vec::new(),
    );
    let client = edge.client(&["www.example.com"]);
    let response = client.post(edge.url("www.example.com", "/")).body("buy").send().await.unwrap();
    assert_eq!((response.status().as_u16(), asked.load(Ordering::SeqCst)), (502, 1));
    let response = client.get(edge.url("www.example.com", "/")).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), asked.load(Ordering::SeqCst)),
        (502, 3),
        "a GET goes to one more node"
    );
    assert_eq!(edge.metric("hosting_edge_upstream_ejections_total"), 0);
}

#[tokio::test]
async fn who_answers_goes_before_who_applies_changes() {
    let site = Site::new().await;
    let running = site.start(&[]).await;
    let of = |name: &str| -> BTreeSet<i32> {
        running.nice().into_iter().filter(|(one, _)| one == name).map(|(_, nice)| nice).collect()
    };
    let usual = of("hosting-edge");
    assert_eq!(of("edge-io"), usual);
    assert_eq!(of("access-log"), usual);
    let control = of("edge-control");
    let is_behind = |nice: &i32| usual.iter().all(|usual| usual < nice);
    assert!(!control.is_empty() && control.iter().all(is_behind), "{control:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_under_load_lose_no_request() {
    let (one, two) = (Node::start("node-1").await, Node::start("node-2").await);
    let mut edge = Edge::start().await;
    let (first, second) = (one.address, two.address);
    let both = move |shard: &str, a: bool, b: bool| pool(shard, &[("n1", first, a), ("n2", second, b)]);
    edge.publish(
        vec![
            tenant("t_a", State::Active),
            both("s1", true, true),
            both("s2", true, true),
            route("www.example.com", "t_a", "web_a", "s1"),
        ],
        Vec::new(),
    );
    let done = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..8)
        .map(|n| {
            let (done, url) = (
                Arc::clone(&done),
                if n % 2 == 0 {
                    edge.url("www.example.com", "/")
                } else {
                    edge.tls_url("www.example.com", "/")
                },
            );
            let client = edge.client(&["www.example.com"]);
            tokio::spawn(async move {
                let mut count = 0;
                while !done.load(Ordering::Relaxed) {
                    let response = client.get(&url).send().await.unwrap();
                    assert_eq!(response.status(), 200);
                    response.bytes().await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    // On a thread of its own, as the feed's.
    let edge = tokio::task::spawn_blocking(move || {
        for round in 0..300u32 {
            let host = format!("other-{round}.example.com");
            let shard = if round % 2 == 0 { "s1" } else { "s2" };
            edge.publish(
                vec![
                    both(shard, round % 3 != 0, round % 3 != 1),
                    route("www.example.com", "t_a", &format!("web_{}", round % 5), shard),
                    route(&host, "t_a", "web_x", "s1"),
                ],
                if round > 0 { vec![gone(&format!("other-{}.example.com", round - 1))] } else { Vec::new() },
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        edge
    })
    .await
    .unwrap();
    done.store(true, Ordering::Relaxed);
    let counts: Vec<usize> = join_all(load).await.into_iter().map(Result::unwrap).collect();
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
    assert_eq!(edge.metric("hosting_edge_routes"), 2);
    assert_eq!(edge.metric("hosting_edge_applied_revision"), 302);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_cut_off() {
    let node = Node::start("node-1").await;
    let mut edge = Edge::with(Settings {
        header_timeout_ms: 300,
        handshake_timeout_ms: 300,
        idle_timeout_ms: 400,
        body_timeout_ms: 300,
        ..settings()
    })
    .await;
    edge.publish(
        vec![pool("s1", &[("n1", node.address, true)]), route("www.example.com", "t_a", "web_a", "s1")],
        Vec::new(),
    );
    // Says nothing at all.
    let start = Instant::now();
    assert_eq!(edge.raw(b"").await, "");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());

    // A byte now and then, each well within any limit per read.
    let mut stream = TcpStream::connect(edge.http).await.unwrap();
    let start = Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n").await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let drip = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let answer = read_all(&mut read).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    drip.abort();

    // Whatever the first byte is, and however much of a body comes at a time.
    let unhurried = [
        ("1", "1"),
        ("!", "a"),
        ("_GET / HTTP/1.1\r\nX: ", "a"),
        ("POST /echo HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 100000\r\n\r\n", "a"),
        ("POST /echo HTTP/1.1\r\nHost: www.example.com\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n"),
    ];
    for (first, next) in unhurried {
        let mut stream = TcpStream::connect(edge.http).await.unwrap();
        let start = Instant::now();
        stream.write_all(first.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let drip = tokio::spawn(async move {
            while write.write_all(next.as_bytes()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let answer = read_all(&mut read).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{first:?}: {answer}");
        assert!(start.elapsed() < Duration::from_millis(1_500), "{first:?}: {:?}", start.elapsed());
        drip.abort();
    }

    // A body that stops.
    let answer =
        edge.raw(b"POST /echo HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 100\r\n\r\nabc").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");

    // A handshake that never comes, and one that never speaks HTTP/2 after it.
    let mut stream = TcpStream::connect(edge.https).await.unwrap();
    let start = Instant::now();
    read_all(&mut stream).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let mut stream = crate::tls::connect(&edge, "www.example.com", &[b"h2"]).await.unwrap();
    let start = Instant::now();
    read_all(&mut stream).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());

    // An idle connection after a request.
    let start = Instant::now();
    let answer = edge.raw(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_limit_wait_for_a_place() {
    let node = Node::start("node-1").await;
    let mut edge = Edge::with(Settings { max_connections: 3, ..settings() }).await;
    edge.publish(
        vec![pool("s1", &[("n1", node.address, true)]), route("www.example.com", "t_a", "web_a", "s1")],
        Vec::new(),
    );
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(TcpStream::connect(edge.http).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(edge.metric("hosting_edge_connections") <= 3);
    drop(held);
    let answer = edge.raw(b"GET / HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_network_does_not_take_every_place() {
    let node = Node::start("node-1").await;
    let mut edge = Edge::with(Settings { max_connections_per_network: 3, ..settings() }).await;
    edge.publish(
        vec![pool("s1", &[("n1", node.address, true)]), route("www.example.com", "t_a", "web_a", "s1")],
        Vec::new(),
    );
    let until = Instant::now() + Duration::from_secs(5);
    while edge.metric("hosting_edge_connections") > 0 {
        assert!(Instant::now() < until, "the connections that waited for the start stay");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(TcpStream::connect(edge.http).await.unwrap());
    }
    // Those over the share are closed at once.
    let mut closed = 0;
    for stream in &mut held {
        let mut byte = [0];
        closed += usize::from(matches!(
            tokio::time::timeout(Duration::from_millis(200), stream.read(&mut byte)).await,
            Ok(Ok(0) | Err(_))
        ));
    }
    assert_eq!(closed, 5);
    assert_eq!(edge.metric("hosting_edge_connections_over_share_total"), 5);
    // A visitor from another network has its place.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.9.9.9:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(edge.http).await.unwrap();
    other.write_all(b"GET / HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n").await.unwrap();
    let answer = read_all(&mut other).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-real-ip: 127.9.9.9\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_waits_for_requests_under_way_and_takes_no_new_ones() {
    let (edge, node) = one_site().await;
    let client = edge.client(&["www.example.com"]);
    let slow = client.get(edge.url("www.example.com", "/slow/600"));
    let slow = tokio::spawn(async move { slow.send().await.unwrap().text().await.unwrap() });
    let h2 = client.get(edge.tls_url("www.example.com", "/slow/600"));
    let h2 = tokio::spawn(async move { h2.send().await.unwrap().text().await.unwrap() });
    let mut idle = TcpStream::connect(edge.http).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n").await.unwrap();
    while node.requests() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let start = Instant::now();
    edge.stop.cancel();
    read_all(&mut idle).await;
    assert!(
        start.elapsed() < Duration::from_millis(500),
        "idle connections go at once: {:?}",
        start.elapsed()
    );
    assert!(TcpStream::connect(edge.http).await.is_err(), "no new connections");
    assert!(slow.await.unwrap().starts_with("GET /slow/600\n"));
    assert!(h2.await.unwrap().starts_with("GET /slow/600\n"));
    edge.done.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_has_a_deadline() {
    let node = Node::start("node-1").await;
    let mut short = settings();
    short.shared.drain_timeout_ms = 200;
    let mut edge = Edge::with(short).await;
    edge.publish(
        vec![pool("s1", &[("n1", node.address, true)]), route("www.example.com", "t_a", "web_a", "s1")],
        Vec::new(),
    );
    let client = edge.client(&["www.example.com"]);
    let stuck = client.get(edge.url("www.example.com", "/slow/60000"));
    tokio::spawn(async move { stuck.send().await });
    while node.requests() < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let start = Instant::now();
    edge.stop.cancel();
    edge.done.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

/// A node that shows the mark of each request with its answer, `marks` permitting, and counts its connections. The second request of
/// each of the first `poisoned` connections gets, with the mark of the first, what an attacker left there.
async fn marking(marks: bool, poisoned: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let poisoned = count.fetch_add(1, Ordering::SeqCst) < poisoned;
            tokio::spawn(async move {
                let (mut head, mut shown) = (Vec::new(), None);
                while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                    let text = String::from_utf8_lossy(&head).into_owned();
                    if !text.ends_with("\r\n\r\n") {
                        continue;
                    }
                    head.clear();
                    let mark = text.lines().find(|line| line.starts_with("x-hosting-request: ")).unwrap();
                    let (mark, body) = match &shown {
                        Some(before) if poisoned => (String::clone(before), "evil"),
                        _ => (mark.to_owned(), "fine"),
                    };
                    let field = if marks { format!("{mark}\r\n") } else { String::new() };
                    shown = Some(mark);
                    let answer = format!("HTTP/1.1 200 OK\r\n{field}content-length: 4\r\n\r\n{body}");
                    // So that requests at the same time have connections of their own.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (address, connections)
}

/// Asks two sites in turn at a node; returns the bodies.
async fn two_sites(edge: &mut Edge, node: SocketAddr) -> Vec<String> {
    edge.publish(
        vec![
            pool("s1", &[("n1", node, true)]),
            route("a.example.com", "t_a", "web_a", "s1"),
            route("b.example.com", "t_b", "web_b", "s1"),
        ],
        Vec::new(),
    );
    let client = edge.client(&["a.example.com", "b.example.com"]);
    let mut bodies = Vec::new();
    for host in ["a.example.com", "b.example.com", "a.example.com", "b.example.com"] {
        let response = client.get(edge.url(host, "/")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("x-hosting-request"));
        bodies.push(response.text().await.unwrap());
    }
    bodies
}

#[tokio::test(flavor = "multi_thread")]
async fn sites_share_connections_to_a_node_that_shows_which_request_it_answers() {
    for (marks, expected) in [(true, 1), (false, 2)] {
        let (address, connections) = marking(marks, 0).await;
        let mut edge = Edge::start().await;
        assert_eq!(two_sites(&mut edge, address).await, ["fine"; 4]);
        assert_eq!(connections.load(Ordering::SeqCst), expected, "marks: {marks}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_site_left_in_a_shared_connection_reaches_no_other() {
    let (address, connections) = marking(true, 1).await;
    let mut edge = Edge::start().await;
    assert_eq!(two_sites(&mut edge, address).await, ["fine"; 4]);
    assert_eq!(connections.load(Ordering::SeqCst), 2);
    assert_eq!(edge.metric("hosting_edge_foreign_answers_total"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_connections_one_site_spoils_the_others_are_served() {
    let (address, connections) = marking(true, 12).await;
    let mut edge = Edge::start().await;
    edge.publish(
        vec![
            pool("s1", &[("n1", address, true)]),
            route("a.example.com", "t_a", "web_a", "s1"),
            route("b.example.com", "t_b", "web_b", "s1"),
        ],
        Vec::new(),
    );
    let client = edge.client(&["a.example.com", "b.example.com"]);
    let ask = async |host: &str| {
        let response = client.get(edge.url(host, "/")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.text().await.unwrap()
    };
    assert_eq!(join_all((0..12).map(|_| ask("a.example.com"))).await, ["fine"; 12]);
    assert_eq!(connections.load(Ordering::SeqCst), 12);
    for _ in 0..5 {
        assert_eq!(ask("b.example.com").await, "fine");
    }
    // After three of them a request makes a connection of its own.
    assert_eq!(
        (edge.metric("hosting_edge_foreign_answers_total"), connections.load(Ordering::SeqCst)),
        (3, 13)
    );
}
