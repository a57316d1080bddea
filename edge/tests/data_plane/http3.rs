//! HTTP/3 over real sockets: what reaches a node of a request, what of it is refused, and what a client may take.

use std::time::Duration;

use hosting_edge::Settings;
use hosting_intent::message::State;
use http::Request;
use quinn::VarInt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::harness::{Edge, Node, one_site, pool, route, settings, tenant};
use crate::http3_client::{Browser, End, Fields, GET, POST, Raw, config, connect, fields, frame, read};
use crate::rules::site;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// An edge whose site is at this node.
pub(crate) async fn edge_for(settings: Settings, address: std::net::SocketAddr) -> Edge {
    let mut edge = Edge::with(settings).await;
    edge.publish(
        vec![
            tenant("t_a", State::Active),
            pool("s1", &[("n1", address, true)]),
            route("a.example", "t_a", "web_a", "s1"),
        ],
        Vec::new(),
    );
    edge
}

/// A node that does as it is told with each connection, once the head of a request is there.
pub(crate) async fn node_that<F: Future<Output = ()> + Send + 'static>(
    act: impl Fn(TcpStream) -> F + Send + 'static,
) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                if stream.read_buf(&mut head).await.unwrap() == 0 {
                    break;
                }
            }
            tokio::spawn(act(stream));
        }
    });
    address
}

/// Bytes that no compression and no accident makes.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// With which a node has the whole of a request in chunks.
pub(crate) const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

/// Waits for a metric: the edge may count after a client knows.
pub(crate) async fn reaches(edge: &Edge, line: &str, value: u64) {
    let reached = async {
        while edge.metric(line) != value {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(5 * SECOND, reached).await.is_ok(), "{line} is {}", edge.metric(line));
}

pub(crate) fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_to_their_node_and_bodies_both_ways_whole() {
    let (mut edge, node) = one_site().await;
    let mut browser = Browser::connect(&edge, "www.example.com").await;
    let answer = browser.get("https://www.example.com/x?y=z").await;
    assert_eq!(answer.head.status(), 200);
    assert_eq!(answer.head.headers()["x-shard"], "s1-name");
    assert_eq!(answer.head.headers()["x-served-by"], "node-1");
    let seen = String::from_utf8(answer.body).unwrap();
    assert!(seen.starts_with("GET /x?y=z\n"), "{seen}");
    for line in [
        "host: web_ab12cd34ef\n",
        "x-forwarded-proto: https\n",
        "x-forwarded-for: 127.0.0.1\n",
        "x-hosting-host: www.example.com\n",
    ] {
        assert!(seen.contains(line), "{line} not in {seen}");
    }
    let answer = browser.ask(Request::head("https://www.example.com/").body(()).unwrap(), b"").await;
    assert_eq!((answer.head.status().as_u16(), answer.body.len()), (200, 0));
    assert!(answer.head.headers().contains_key("content-length"));
    let body = noise(5_000_003);
    for length in [None, Some(body.len())] {
        let mut request = Request::post("https://www.example.com/echo");
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let answer = browser.ask(request.body(()).unwrap(), &body).await;
        assert_eq!(answer.head.status(), 200);
        assert!(answer.body == body, "{} bytes came back", answer.body.len());
    }
    assert_eq!(node.requests(), 4);
    assert_eq!(edge.metric("hosting_edge_http3_connections"), 1);
    reaches(&edge, "hosting_edge_requests_total{code=\"2xx\"}", 4).await;
    drop(browser.requests);
    browser.conn.close(VarInt::from_u32(0x100), b"");
    reaches(&edge, "hosting_edge_connections", 0).await;
    reaches(&edge, "hosting_edge_http3_connections", 0).await;
    edge.stop.cancel();
    timeout(5 * SECOND, &mut edge.done).await.unwrap().unwrap();
    let lines = edge.logged(4).await;
    assert_eq!((&lines[2]["received"], &lines[2]["sent"]), (&body.len().into(), &body.len().into()));
    assert_eq!((&lines[0]["client"], &lines[0]["tls"]), (&"127.0.0.1".into(), &true.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_for_large_windows_bodies_come_whole_too() {
    let node = Node::start("node-1").await;
    let edge = edge_for(Settings { h2_window_memory: 0, ..settings() }, node.address).await;
    let mut browser = Browser::connect(&edge, "a.example").await;
    let body = noise(1_000_000);
    let answer = browser.ask(Request::post("https://a.example/echo").body(()).unwrap(), &body).await;
    assert!(answer.body == body, "{} bytes came back", answer.body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_passed_on_as_it_comes() {
    let (go_on, told) = mpsc::channel::<()>(1);
    let told = std::sync::Arc::new(tokio::sync::Mutex::new(told));
    let address = node_that(move |mut stream| {
        let told = std::sync::Arc::clone(&told);
        async move {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
                .await
                .unwrap();
            // The rest only when the client has this.
            told.lock().await.recv().await.unwrap();
            stream.write_all(b"4\r\nlast\r\n0\r\nx-trailer: 1\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let edge = edge_for(settings(), address).await;
    let mut browser = Browser::connect(&edge, "a.example").await;
    let mut stream =
        browser.requests.send_request(Request::get("https://a.example/").body(()).unwrap()).await.unwrap();
    stream.finish().await.unwrap();
    assert_eq!(stream.recv_response().await.unwrap().status(), 200);
    let mut first = timeout(5 * SECOND, stream.recv_data()).await.unwrap().unwrap().unwrap();
    assert_eq!(bytes::Buf::copy_to_bytes(&mut first, 5), "first");
    drop(first);
    go_on.send(()).await.unwrap();
    let mut last = stream.recv_data().await.unwrap().unwrap();
    assert_eq!(bytes::Buf::copy_to_bytes(&mut last, 4), "last");
    drop(last);
    assert!(stream.recv_data().await.unwrap().is_none());
    // Dropped, as over HTTP/2.
    assert!(stream.recv_trailers().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_with_its_body_is_told_to_send_it() {
    let (edge, _node) = site().await;
    let client = Raw::connect(&edge).await;
    let expecting: Fields<'_> = &[(b"expect", b"100-continue"), (b"content-length", b"2")];
    let (mut send, recv) = client.conn.open_bi().await.unwrap();
    send.write_all(&fields(&[POST, expecting].concat())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    send.write_all(&frame(0, b"ok")).await.unwrap();
    send.finish().unwrap();
    assert_eq!(read(recv).await, End::Answer(vec![100, 200], b"fine".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_knows_ends_nothing_and_is_not_read() {
    let (edge, _node) = site().await;
    let client = Raw::connect(&edge).await;
    for _ in 0..50 {
        let mut single = client.conn.open_uni().await.unwrap();
        single.write_all(b"\x40\x41whatever").await.unwrap();
        assert_eq!(single.stopped().await.unwrap(), Some(VarInt::from_u32(0x103)));
    }
    assert_eq!(client.ask(&fields(GET)).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_are_too_large_are_refused_before_they_are_kept() {
    let (edge, node) = site().await;
    let client = Raw::connect(&edge).await;
    let huge = vec![b'v'; 100_000];
    let many: Vec<_> = std::iter::repeat_n((&b"x"[..], &b"y"[..]), 3_000).collect();
    for more in [vec![(&b"cookie"[..], &huge[..])], vec![(b"cookie", &huge[..70_000])], many] {
        assert_eq!(client.ask(&fields(&[GET, &more].concat())).await.status(), 431);
    }
    // A frame that says that it is endless: nobody waits for its end.
    let (mut send, recv) = client.conn.open_bi().await.unwrap();
    send.write_all(b"\x01\xff\xff\xff\xff\xff\xff\xff\xff").await.unwrap();
    assert_eq!(timeout(5 * SECOND, read(recv)).await.unwrap().status(), 431);
    assert!(node.take_bytes().is_empty());
    let fits = vec![b'v'; 50_000];
    assert_eq!(client.ask(&fields(&[GET, &[(b"cookie", &fits)]].concat())).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_has_its_certificate_and_its_connection_serves_no_other() {
    let node = Node::start("node-1").await;
    let mut edge = edge_for(Settings { default_certificate: false, ..settings() }, node.address).await;
    edge.publish(vec![route("b.example", "t_b", "web_b", "s1")], Vec::new());
    for (name, other) in [("a.example", "b.example"), ("b.example", "a.example")] {
        // The client verifies the name.
        let mut browser = Browser::connect(&edge, name).await;
        assert_eq!(browser.get(&format!("https://{name}/")).await.head.status(), 200);
        assert_eq!(browser.get(&format!("https://{other}/")).await.head.status(), 421);
        assert_eq!(browser.get(&format!("https://{}/", name.to_uppercase())).await.head.status(), 200);
    }
    assert!(connect(&edge, "c.example").await.is_err());
    reaches(&edge, "hosting_edge_handshakes_total{outcome=\"unknown_name\"}", 1).await;
    assert_eq!(edge.metric("hosting_edge_handshakes_total{outcome=\"done\"}"), 2);
    // Another protocol than HTTP/3.
    let config = config(crate::tls::config(&edge, &[b"h2"]));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    assert!(endpoint.connect_with(config, edge.http3.unwrap(), "a.example").unwrap().await.is_err());
    reaches(&edge, "hosting_edge_handshakes_total{outcome=\"failed\"}", 1).await;
}
