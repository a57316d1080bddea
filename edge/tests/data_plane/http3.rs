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
    let lines = edge.logged();
    assert_eq!(lines.len(), 4);
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
async fn targets_and_fields_keep_their_bytes_as_over_http1() {
    let (edge, node) = site().await;
    let client = Raw::connect(&edge).await;
    for target in [
        &b"/r?j={\"a\":1}&x=<y>"[..],
        b"/r/latin\xe9?q=\xe9\xff",
        b"/r//a|b/A%2FB/%zz/;v=1,2/~u?q={x}&l[]=1+^`??",
    ] {
        let request = [&GET[..3], &[(b":path", target)]].concat();
        assert_eq!(client.ask(&fields(&request)).await.status(), 200, "{target:?}");
        assert!(node.take_bytes().starts_with(&[b"GET ", target, b" HTTP/1.1\r\n"].concat()), "{target:?}");
    }
    let more: Fields<'_> = &[
        (b"x", b"caf\xe9\t\xff\""),
        (b"cookie", b"a=1"),
        (b"cookie", b"b=2"),
        (b"te", b"trailers"),
        (b"host", b"A.example"),
    ];
    assert_eq!(client.ask(&fields(&[GET, more].concat())).await.status(), 200);
    let sent = node.take_bytes();
    for line in [
        &b"\r\nx: caf\xe9\t\xff\"\r\n"[..],
        b"\r\ncookie: a=1; b=2\r\n",
        b"\r\nx-hosting-host: a.example\r\n",
    ] {
        assert!(holds(&sent, line), "{}", sent.escape_ascii());
    }
    // Frames that nobody knows, an empty one in the middle of a body, and trailers, which are dropped.
    let body = [
        frame(0x21, &[1; 3_000]),
        fields(POST),
        frame(0, b"hello"),
        frame(0, b""),
        frame(0x40, b"?"),
        frame(0, b" world"),
        fields(&[(b"x-trailer", b"1")]),
    ];
    assert_eq!(client.ask(&body.concat()).await.status(), 200);
    let sent = node.take_bytes();
    assert!(sent.ends_with(b"\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"), "{}", sent.escape_ascii());
    assert!(!holds(&sent, b"x-trailer"));
    // A body that is waited for.
    let expecting: Fields<'_> = &[(b"expect", b"100-continue"), (b"content-length", b"2")];
    let (mut send, recv) = client.conn.open_bi().await.unwrap();
    send.write_all(&fields(&[POST, expecting].concat())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    send.write_all(&frame(0, b"ok")).await.unwrap();
    send.finish().unwrap();
    assert_eq!(read(recv).await, End::Answer(vec![100, 200], b"fine".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_reaches_no_node_and_leaves_its_neighbours_alone() {
    let (edge, node) = site().await;
    let client = Raw::connect(&edge).await;
    const MALFORMED: End = End::Reset(0x10e);
    let with = |more: Fields<'_>| fields(&[GET, more].concat());
    let post = |length: &[u8], body: &[u8]| {
        [fields(&[POST, &[(b"content-length", length)]].concat()), frame(0, body)].concat()
    };
    let cases = [
        ("an upper case name", with(&[(b"X", b"1")]), MALFORMED),
        ("a name that is none", with(&[(b"x y", b"1")]), MALFORMED),
        ("an empty name", with(&[(b"", b"1")]), MALFORMED),
        ("a name beyond ASCII", with(&[(b"caf\xe9", b"1")]), MALFORMED),
        ("a line break", with(&[(b"x", b"a\r\nb: c")]), MALFORMED),
        ("a line feed", with(&[(b"x", b"a\nb: c")]), MALFORMED),
        ("a zero", with(&[(b"x", b"\0")]), MALFORMED),
        ("connection", with(&[(b"connection", b"close")]), MALFORMED),
        ("keep-alive", with(&[(b"keep-alive", b"1")]), MALFORMED),
        ("transfer-encoding", with(&[(b"transfer-encoding", b"chunked")]), MALFORMED),
        ("upgrade", with(&[(b"upgrade", b"websocket")]), MALFORMED),
        ("proxy-connection", with(&[(b"proxy-connection", b"x")]), MALFORMED),
        ("te", with(&[(b"te", b"gzip")]), MALFORMED),
        ("a path twice", with(&[(b":path", b"/2")]), MALFORMED),
        ("a method twice", fields(&[&[(&b":method"[..], &b"POST"[..])], GET].concat()), MALFORMED),
        (
            "a pseudo-header field behind a field",
            fields(&[&GET[..3], &[(b"x", b"1")], &GET[3..]].concat()),
            MALFORMED,
        ),
        ("an answer's", with(&[(b":status", b"200")]), MALFORMED),
        ("one that nobody knows", with(&[(b":nobody", b"1")]), MALFORMED),
        ("an extended CONNECT", with(&[(b":protocol", b"websocket")]), MALFORMED),
        ("no method", fields(&GET[1..]), MALFORMED),
        ("no scheme", fields(&[&GET[..1], &GET[2..]].concat()), MALFORMED),
        ("no path", fields(&GET[..3]), MALFORMED),
        ("an empty path", fields(&[&GET[..3], &[(b":path", b"")]].concat()), MALFORMED),
        ("nothing", fields(&[]), MALFORMED),
        ("no request at all", Vec::new(), End::Reset(0x10d)),
        ("a control", with(&[(b"x", b"\x1b")]), status(400)),
        ("two hosts", with(&[(b"host", b"b.example")]), status(400)),
        ("no host", fields(&[&GET[..2], &GET[3..]].concat()), status(400)),
        ("an empty host", fields(&[&GET[..2], &[(b":authority", b"")], &GET[3..]].concat()), status(400)),
        ("a user", fields(&[&GET[..2], &[(b":authority", b"u@a.example")], &GET[3..]].concat()), status(400)),
        ("a space in the target", fields(&[&GET[..3], &[(b":path", b"/a b")]].concat()), status(400)),
        ("a fragment", fields(&[&GET[..3], &[(b":path", b"/a#b")]].concat()), status(400)),
        (
            "no path but a URL",
            fields(&[&GET[..3], &[(b":path", b"https://a.example/")]].concat()),
            status(400),
        ),
        ("two lengths", with(&[(b"content-length", b"0"), (b"content-length", b"0")]), status(400)),
        ("a list of lengths", with(&[(b"content-length", b"5, 5")]), status(400)),
        ("a length that is none", with(&[(b"content-length", b"+5")]), status(400)),
        ("CONNECT", fields(&[(b":method", b"CONNECT"), (b":authority", b"a.example:443")]), status(405)),
        (
            "another host",
            fields(&[&GET[..2], &[(b":authority", b"b.example")], &GET[3..]].concat()),
            status(421),
        ),
    ];
    for (what, stream, end) in cases {
        let ended = client.ask(&stream).await;
        match &end {
            End::Answer(statuses, _) => assert_eq!(ended.status(), statuses[0], "{what}: {ended:?}"),
            End::Reset(_) | End::Closed(_) => assert_eq!(ended, end, "{what}"),
        }
        assert_eq!(client.ask(&fields(GET)).await.status(), 200, "after {what}");
        // What came before that would be here too.
        let sent = node.take_bytes();
        let requests = sent.windows(11).filter(|window| window == b" HTTP/1.1\r\n").count();
        assert_eq!(requests, 1, "{what}: {}", sent.escape_ascii());
    }
    // Bodies that are not as long as they were said to be: what the node has of them is no whole request.
    for (what, stream) in [("too short", post(b"10", b"hello")), ("too long", post(b"3", b"hello"))] {
        let ended = timeout(5 * SECOND, client.ask(&stream)).await.unwrap();
        assert_eq!(ended.status(), 400, "{what}");
        assert_eq!(client.ask(&fields(GET)).await.status(), 200, "after {what}");
    }
    let bad_trailers = [fields(POST), frame(0, b"hello"), fields(&[(b":path", b"/")])].concat();
    assert_eq!(client.ask(&bad_trailers).await.status(), 400);
    assert!(!holds(&node.take_bytes(), LAST_CHUNK));
}

fn status(code: u16) -> End {
    End::Answer(vec![code], Vec::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_connection_is_said_with_its_code() {
    let (edge, node) = site().await;
    let after = |bytes: &[u8]| [&fields(POST), bytes].concat();
    for (what, stream, code) in [
        ("no list", frame(1, b""), 0x200),
        ("a table that was not announced", frame(1, b"\x02\0\x80"), 0x200),
        ("a body without a head", frame(0, b"x"), 0x105),
        ("settings", after(&frame(4, b"")), 0x105),
        ("a promise", after(&frame(5, b"\0")), 0x105),
        ("a frame of HTTP/2", after(&frame(9, b"")), 0x105),
        ("a head that breaks off", b"\x01\x20\0\0".to_vec(), 0x106),
        // Whose beginning the node has by then, but not its end.
        ("a body that breaks off", after(b"\0\x05abc"), 0x106),
    ] {
        let client = Raw::connect(&edge).await;
        assert_eq!(client.ask(&fields(GET)).await.status(), 200);
        node.take_bytes();
        assert_eq!(client.ask(&stream).await, End::Closed(code), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!holds(&node.take_bytes(), LAST_CHUNK), "{what}");
    }
    for (what, stream, code) in [
        ("another control stream", &b"\0\x04\0"[..], 0x103),
        ("a push", b"\x01\0", 0x103),
        ("a table", b"\x02\x3f\xe1\x1f", 0x201),
        ("an acknowledgement", b"\x03\x80", 0x202),
    ] {
        let client = Raw::connect(&edge).await;
        let mut single = client.conn.open_uni().await.unwrap();
        single.write_all(stream).await.unwrap();
        let error = timeout(5 * SECOND, client.conn.closed()).await.unwrap();
        let quinn::ConnectionError::ApplicationClosed(close) = error else { panic!("{what}: {error}") };
        assert_eq!(close.error_code.into_inner(), code, "{what}");
    }
    // What nobody knows ends nothing; a client is told that nobody reads it.
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
