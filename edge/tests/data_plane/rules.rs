//! The table of rules that a translator between HTTP versions keeps (RFC 9110, 9112, 9113): what a client sends, what a node
//! gets, what the node says, what the client gets. Whatever carries requests in the edge is held to it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hosting_intent::message::State;
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Edge, pool, route, tenant};

/// A node that keeps what it gets, and says what it is told to.
pub(crate) struct Script {
    pub(crate) address: SocketAddr,
    /// The bytes of each connection.
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    answer: Arc<Mutex<Vec<u8>>>,
}

const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";

impl Script {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Self { address, seen: Arc::default(), answer: Arc::new(Mutex::new(FINE.into())) };
        let (seen, answer) = (Arc::clone(&script.seen), Arc::clone(&script.answer));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let index = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(Vec::new());
                    seen.len() - 1
                };
                tokio::spawn(serve(stream, index, Arc::clone(&seen), Arc::clone(&answer)));
            }
        });
        script
    }

    fn say(&self, answer: &str) {
        *self.answer.lock().unwrap() = answer.as_bytes().to_vec();
    }

    /// All connections' bytes since the last call, in the order of the connections.
    pub(crate) fn take_bytes(&self) -> Vec<u8> {
        self.seen.lock().unwrap().iter_mut().flat_map(std::mem::take).collect()
    }

    /// The same as texts.
    fn take(&self) -> Vec<String> {
        let mut seen = self.seen.lock().unwrap();
        seen.iter_mut()
            .map(|bytes| String::from_utf8_lossy(&std::mem::take(bytes)).into_owned())
            .filter(|text| !text.is_empty())
            .collect()
    }
}

/// Answers each whole request; what is behind a request is the next one, as a real server takes it.
async fn serve(
    mut stream: TcpStream,
    index: usize,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    answer: Arc<Mutex<Vec<u8>>>,
) {
    let mut pending = Vec::new();
    let mut buffer = [0; 16_384];
    loop {
        let Ok(read @ 1..) = stream.read(&mut buffer).await else { return };
        seen.lock().unwrap()[index].extend_from_slice(&buffer[..read]);
        pending.extend_from_slice(&buffer[..read]);
        while let Some(length) = request_length(&pending) {
            pending.drain(..length);
            let answer = answer.lock().unwrap().clone();
            if stream.write_all(&answer).await.is_err() {
                return;
            }
            if answer.starts_with(b"CLOSE") || String::from_utf8_lossy(&answer).contains("Connection: close")
            {
                return;
            }
        }
    }
}

fn request_length(bytes: &[u8]) -> Option<usize> {
    // One character for each byte, so that positions are the bytes'.
    let text: String = bytes
        .iter()
        .map(|byte| if byte.is_ascii() { char::from(byte.to_ascii_lowercase()) } else { '?' })
        .collect();
    let head = text.find("\r\n\r\n")? + 4;
    if text[..head].contains("transfer-encoding: chunked") {
        return Some(head + text[head..].find("0\r\n\r\n")? + 5);
    }
    let length = text[..head]
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
    (bytes.len() >= head + length).then_some(head + length)
}

pub(crate) async fn site() -> (Edge, Script) {
    let node = Script::start().await;
    let mut edge = Edge::start().await;
    edge.publish(
        vec![
            tenant("t_a", State::Active),
            pool("s1", &[("n1", node.address, true)]),
            route("a.example", "t_a", "web_a", "s1"),
        ],
        Vec::new(),
    );
    (edge, node)
}

/// How the client's connection stands after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Closed,
    /// Closed so that the client sees that something is missing.
    Cut,
}

struct Row {
    rule: &'static str,
    request: &'static str,
    answer: &'static str,
    /// What the node must get; `!` before what it must not get. Empty: it gets nothing.
    node: &'static [&'static str],
    /// The same for the client.
    client: &'static [&'static str],
    end: End,
    /// The edge resets its connection to the node, which discards what the node has not read yet. Such a row is said again until
    /// the node has read something.
    resets: bool,
}

impl Row {
    const fn new(rule: &'static str, request: &'static str) -> Self {
        Self {
            rule,
            request,
            answer: FINE,
            node: &["GET "],
            client: &["HTTP/1.1 200 "],
            end: End::Open,
            resets: false,
        }
    }

    const fn resets(self) -> Self {
        Self { resets: true, ..self }
    }

    const fn node(self, node: &'static [&'static str]) -> Self {
        Self { node, ..self }
    }

    const fn client(self, client: &'static [&'static str]) -> Self {
        Self { client, ..self }
    }

    const fn answer(self, answer: &'static str) -> Self {
        Self { answer, ..self }
    }

    const fn ends(self, end: End) -> Self {
        Self { end, ..self }
    }

    /// Refused with this status: the node gets nothing.
    const fn refused(self, client: &'static [&'static str]) -> Self {
        Self { node: &[], client, end: End::Closed, ..self }
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

const NEXT: &str = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";

const ROWS: &[Row] = &[
    // Requests: fields.
    Row::new("9110 7.6.1: hop-by-hop fields do not pass", "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: x\r\nProxy-Connection: x\r\nTE: gzip\r\nTrailer: x\r\nX-Kept: 1\r\n\r\n")
        .node(&["X-Kept: 1\r\n", "!X-Hop", "!Keep-Alive", "!Proxy-Connection", "!TE:", "!Trailer", "!onnection"]),
    Row::new("9110 7.6.1: Connection must not name what belongs to the message", "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: host\r\n\r\n")
        .refused(&["HTTP/1.1 400 "]),
    Row::new("9112 3.2: one Host", "GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n").refused(&["HTTP/1.1 400 "]),
    Row::new("9112 5.1: no space before the colon", "GET / HTTP/1.1\r\nHost: a.example\r\nX : 1\r\n\r\n").refused(&["HTTP/1.1 400 "]),
    Row::new("9112 5.2: no folded fields", "GET / HTTP/1.1\r\nHost: a.example\r\nX: 1\r\n 2\r\n\r\n").refused(&["HTTP/1.1 400 "]),
    Row::new("9110 5.5: no control characters", "GET / HTTP/1.1\r\nHost: a.example\r\nX: a\rb\r\n\r\n").refused(&["HTTP/1.1 400 "]),
    Row::new("9113 8.2.3: cookies are one field for the node", "GET / HTTP/1.1\r\nHost: a.example\r\nCookie: a=1\r\nX: y\r\nCookie: b=2\r\n\r\n")
        .node(&["cookie: a=1; b=2\r\n", "!Cookie"]),
    // Requests: targets.
    Row::new("9112 3.2.1: legal and usual targets keep their bytes", "GET /r//a|b/A%2FB/%252F/%zz/;v=1,2/~u/caf\u{e9}?q={x}&l[]=1&j={\"a\":1}+^`\\<>?? HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .node(&["GET /r//a|b/A%2FB/%252F/%zz/;v=1,2/~u/caf\u{e9}?q={x}&l[]=1&j={\"a\":1}+^`\\<>?? HTTP/1.1\r\n"]),
    Row::new("9112 3.2: no fragment", "GET /a#b HTTP/1.1\r\nHost: a.example\r\n\r\n").refused(&["HTTP/1.1 400 "]),
    Row::new("9112 3.2: origin form or absolute form", "GET a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n").refused(&["HTTP/1.1 400 "]),
    Row::new("9112 3.2.2: absolute form becomes origin form", "GET http://a.example/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n").node(&["GET /x?y HTTP/1.1\r\nhost: web_a\r\n"]),
    Row::new("9112 3.2.4: the server as a whole is the edge", "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n").node(&[]).client(&["HTTP/1.1 204 ", "allow: GET", "!ontent-"]),
    Row::new("9110 9.3.8: TRACE is not served", "TRACE / HTTP/1.1\r\nHost: a.example\r\n\r\n").refused(&["HTTP/1.1 405 ", "allow: GET"]),
    Row::new("9110 2.5: a later minor version is 1.1", "GET / HTTP/1.7\r\nHost: a.example\r\n\r\n").node(&["GET / HTTP/1.1\r\n"]),
    Row::new("9110 15.6.6: another major version", "GET / HTTP/3.0\r\nHost: a.example\r\n\r\n").refused(&["HTTP/1.1 505 "]),
    // Requests: bodies.
    Row::new("9112 6.3: a length passes as it is", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello")
        .node(&["POST / HTTP/1.1\r\n", "content-length: 5\r\n", "\r\n\r\nhello", "!ransfer-"]),
    Row::new("9112 7.1: exactly one last chunk", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n00\r\nX-Trailer: 1\r\n\r\n")
        .node(&["transfer-encoding: chunked\r\n", "\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "!X-Trailer", "!x=y"]),
    Row::new("9110 9.3.1: a body on a method without", "GET / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello")
        .node(&["content-length: 5\r\n", "\r\n\r\nhello"]),
    Row::new("9112 6.3: a length of nothing", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n").node(&["content-length: 0\r\n"]),
    Row::new("9112 6.1: no length beside chunks", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").refused(&["HTTP/1.1 400 "]),
    Row::new("9112 6.1: an unknown coding", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n").refused(&["HTTP/1.1 501 "]),
    Row::new("9112 6.1: no coding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").refused(&["HTTP/1.1 400 "]),
    Row::new("9112 6.3: a length is a number", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: +5\r\n\r\nhello").refused(&["HTTP/1.1 400 "]),
    Row::new("9112 7.1: a chunk that is none", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n")
        .node(&["POST /", "!0\r\n\r\n", "!X"]).client(&["HTTP/1.1 400 "]).ends(End::Closed).resets(),
    // Requests: expectations and upgrades.
    Row::new("9110 10.1.1: the edge answers an expectation", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n")
        .node(&["POST /", "!xpect"]).client(&["HTTP/1.1 200 ", "!100 Continue"]),
    Row::new("9110 10.1.1: not to HTTP/1.0", "POST / HTTP/1.0\r\nHost: a.example\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello")
        .node(&["hello", "!xpect"]).client(&["HTTP/1.1 200 ", "!100 Continue"]).ends(End::Closed),
    Row::new("9110 10.1.1: an unknown expectation", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\nExpect: x\r\n\r\n").refused(&["HTTP/1.1 417 "]),
    Row::new("9110 7.8: offers that nobody takes are not there", "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
        .node(&["GET /", "!pgrade", "!HTTP2"]),
    Row::new("9110 7.8: a body goes with the old protocol", "POST / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello")
        .node(&["POST /", "!pgrade", "hello"]),
    Row::new("9112 9.6: an upgrade has a connection of its own", "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .node(&["upgrade: websocket\r\nconnection: upgrade, close\r\n"]),
    // Responses: interim ones and upgrades.
    Row::new("a node's interim response ends the connection", GET).answer("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nSPLIT")
        .client(&["HTTP/1.1 502 ", "!SPLIT"]),
    Row::new("a node's interim response ends the connection", GET).answer("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nSPLIT")
        .client(&["HTTP/1.1 502 ", "!SPLIT"]),
    Row::new("9110 15.2.2: nobody asked for another protocol", GET).answer("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        .client(&["HTTP/1.1 502 "]),
    Row::new("9110 15.2.2: not the protocol that was asked for", "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .answer("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n").client(&["HTTP/1.1 502 "]),
    // Responses: bodies.
    Row::new("9112 6.3: a length passes as it is", GET).client(&["content-length: 4\r\n", "\r\n\r\nfine", "!chunked"]),
    Row::new("9112 7.1: chunks for HTTP/1.1", GET).answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n")
        .client(&["transfer-encoding: chunked\r\n", "\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "!X-T"]),
    Row::new("9112 6.1: no chunks for HTTP/1.0", "GET / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n").answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        .client(&["!ransfer-", "connection: close\r\n", "\r\n\r\nabc"]).ends(End::Closed),
    Row::new("9112 9.3: HTTP/1.0 may keep its connection", "GET / HTTP/1.0\r\nHost: a.example\r\nConnection: Keep-Alive\r\n\r\n").client(&["connection: keep-alive\r\n", "fine"]),
    Row::new("9112 9.3: HTTP/1.0 closes", "GET / HTTP/1.0\r\nHost: a.example\r\n\r\n").client(&["connection: close\r\n", "fine"]).ends(End::Closed),
    Row::new("9112 6.3: until the connection closes", GET).answer("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc").client(&["transfer-encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"]),
    Row::new("9112 6.3: no body for HEAD", "HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n").node(&["HEAD /"]).answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").client(&["content-length: 4\r\n", "!fine"]),
    Row::new("9110 15.4.5: no body with 304", GET).answer("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n").client(&["HTTP/1.1 304 ", "ETag: \"x\"", "!ransfer-"]),
    Row::new("9110 8.6: no length with 204", GET).answer("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n").client(&["HTTP/1.1 204 ", "!ontent-"]),
    Row::new("9112 6.3: two lengths", GET).answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nfine").client(&["HTTP/1.1 502 "]),
    Row::new("9112 6.1: a length beside chunks", GET).answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").client(&["HTTP/1.1 502 "]),
    Row::new("9112 8: what is cut does not look whole", GET).answer("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nfine").client(&["content-length: 9\r\n", "fine"]).ends(End::Cut),
    Row::new("9112 8: what is cut does not look whole", GET).answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n9\r\nfine").client(&["fine", "!0\r\n\r\n"]).ends(End::Cut),
    Row::new("9112 8: what is cut does not look whole", "GET / HTTP/1.0\r\nHost: a.example\r\n\r\n").answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n9\r\nfine").client(&["fine"]).ends(End::Cut),
    // Responses: heads.
    Row::new("9110 7.6.1: hop-by-hop fields do not pass", GET).answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: x\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nTrailer: x\r\nX-Kept: 1\r\n\r\nfine")
        .client(&["X-Kept: 1\r\n", "!X-Hop", "!Keep-Alive", "!Proxy-Connection", "!Upgrade", "!Trailer", "!onnection"]),
    Row::new("9112 4: a status line that is none", GET).answer("HTTP/1.1 2000 OK\r\n\r\n").client(&["HTTP/1.1 502 "]),
    Row::new("9112 5: a head that is none", GET).answer("HTTP/1.1 200 OK\r\nbad field\r\n\r\n").client(&["HTTP/1.1 502 "]),
    Row::new("our own pages name no product", "GET / HTTP/1.1\r\nHost: nobody.example\r\n\r\n").node(&[]).client(&["HTTP/1.1 404 ", "date: ", "!erver"]),
];

fn check(row: &Row, whose: &str, rules: &[&str], text: &str) {
    for rule in rules {
        let held = match rule.strip_prefix('!') {
            Some(not) => !text.contains(not),
            None => text.contains(rule),
        };
        assert!(held, "{} ({:?})\n{whose}: {rule:?} in\n{text}", row.rule, row.request);
    }
}

async fn talk(edge: &Edge, bytes: &[u8]) -> (String, End) {
    let mut stream = TcpStream::connect(edge.http).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let (mut all, mut wait) = (Vec::new(), Duration::from_secs(5));
    let end = loop {
        match tokio::time::timeout(wait, stream.read_buf(&mut all)).await {
            Ok(Ok(1..)) => wait = Duration::from_millis(80),
            Ok(Ok(0)) => break End::Closed,
            Ok(Err(_)) => break End::Cut,
            Err(_) => break End::Open,
        }
    };
    (String::from_utf8_lossy(&all).into_owned(), end)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_of_the_table() {
    let (edge, node) = site().await;
    let mut seen_rules = 0;
    for row in ROWS {
        node.say(row.answer);
        let (mut got, mut end) = talk(&edge, row.request.as_bytes()).await;
        let mut sent = node.take().concat();
        for _ in 0..50 {
            if !row.resets || !sent.is_empty() {
                break;
            }
            (got, end) = talk(&edge, row.request.as_bytes()).await;
            sent = node.take().concat();
        }
        assert_eq!(row.node.is_empty(), sent.is_empty(), "{} ({:?}) sent {sent:?}", row.rule, row.request);
        check(row, "node", row.node, &sent);
        check(row, "client", row.client, &got);
        assert_eq!(end, row.end, "{} ({:?}) got {got:?}", row.rule, row.request);
        // Whatever happened, the next visitor gets an answer of its own.
        node.say(FINE);
        let (next, _) = talk(&edge, NEXT.as_bytes()).await;
        assert!(
            next.starts_with("HTTP/1.1 200 ") && next.ends_with("\r\n\r\nfine"),
            "after {}: {next}",
            row.rule
        );
        node.take();
        seen_rules += 1;
    }
    assert!(seen_rules > 50, "{seen_rules}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order_whatever_they_are() {
    let (edge, node) = site().await;
    let requests = [
        GET,
        "\r\nPOST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello",
        "GET / HTTP/1.1\r\nHost: nobody.example\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: nobody.example\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n",
    ];
    let (got, end) = talk(&edge, requests.concat().as_bytes()).await;
    let codes: Vec<&str> = got.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!((codes, end), (vec!["200", "200", "404", "404", "200", "200"], End::Closed), "{got}");
    assert_eq!(node.take().concat().matches("hello").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_side_gets_its_answer() {
    let (edge, _node) = site().await;
    let mut stream = TcpStream::connect(edge.http).await.unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = crate::harness::read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("fine"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_expects_leave_gets_it_once_its_request_is_sent_on() {
    let (edge, node) = site().await;
    let expecting = |host: &str| {
        format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    };
    let mut stream = TcpStream::connect(edge.http).await.unwrap();
    stream.write_all(expecting("a.example").as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 13];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 ");
    assert!(node.take().concat().ends_with("\r\n\r\nhello"));
    // Refused at once, without the body.
    let (got, end) = talk(&edge, expecting("nobody.example").as_bytes()).await;
    assert!(got.starts_with("HTTP/1.1 404 ") && got.contains("connection: close"), "{got}");
    assert_eq!(end, End::Closed);
}

/// An HTTP/2 connection of its own.
async fn h2(edge: &Edge) -> h2::client::SendRequest<Bytes> {
    let stream = crate::tls::connect(edge, "a.example", &[b"h2"]).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

fn h2_request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("https://a.example{path}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_bodies_end_once_however_their_frames_end() {
    let (edge, node) = site().await;
    for (with_length, frames) in [
        (false, &["hello", ""][..]),
        (false, &["hello"]),
        (false, &["he", "", "llo", ""]),
        (false, &[""]),
        (true, &["hello", ""]),
        (true, &["hel", "lo"]),
    ] {
        let mut client = h2(&edge).await.ready().await.unwrap();
        let mut request = h2_request(Method::POST, "/");
        if with_length {
            request = request.header("content-length", "5");
        }
        let (response, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
        for (index, frame) in frames.iter().enumerate() {
            tokio::time::sleep(Duration::from_millis(30)).await;
            let sent = body.send_data(Bytes::from_static(frame.as_bytes()), index + 1 == frames.len());
            // A body of a known length is whole before its last, empty frame: the answer may be there by then.
            assert!(sent.is_ok() || (with_length && frame.is_empty()), "{frames:?}");
        }
        assert_eq!(response.await.unwrap().status(), StatusCode::OK, "{frames:?}");
        let sent = node.take().concat();
        if with_length {
            assert!(
                sent.contains("content-length: 5\r\n") && sent.ends_with("\r\n\r\nhello"),
                "{frames:?}: {sent}"
            );
        } else {
            assert_eq!(sent.matches("0\r\n\r\n").count(), 1, "{frames:?}: {sent}");
            assert!(sent.ends_with("0\r\n\r\n"), "{frames:?}: {sent}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_requests_keep_to_the_same_rules() {
    let (edge, node) = site().await;
    let client = h2(&edge).await;
    let ask = |request: http::request::Builder| {
        let client = client.clone();
        async move {
            let (response, _) =
                client.ready().await.unwrap().send_request(request.body(()).unwrap(), true).unwrap();
            response.await.map(|response| response.status().as_u16())
        }
    };
    let crumbs = h2_request(Method::GET, "/r/a|b?q={x}&l[]=1")
        .header("cookie", "a=1")
        .header("x", "y")
        .header("cookie", "b=2")
        .header("te", "trailers");
    assert_eq!(ask(crumbs).await.unwrap(), 200);
    let sent = node.take().concat();
    assert!(sent.starts_with("GET /r/a|b?q={x}&l[]=1 HTTP/1.1\r\nhost: web_a\r\n"), "{sent}");
    assert!(sent.contains("cookie: a=1; b=2\r\n") && !sent.contains("te: "), "{sent}");
    assert_eq!(ask(h2_request(Method::POST, "/")).await.unwrap(), 200);
    assert!(node.take().concat().contains("content-length: 0\r\n"));
    assert_eq!(ask(h2_request(Method::TRACE, "/")).await.unwrap(), 405);
    // A node's interim response, and a body that is cut: the stream ends, the connection goes on.
    node.say("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nSPLIT");
    assert_eq!(ask(h2_request(Method::GET, "/")).await.unwrap(), 502);
    node.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nfine");
    let (response, _) = client
        .clone()
        .ready()
        .await
        .unwrap()
        .send_request(h2_request(Method::GET, "/").body(()).unwrap(), true)
        .unwrap();
    // The reset may overtake what came before it.
    if let Ok(response) = response.await {
        let (mut body, mut whole) = (response.into_body(), true);
        while let Some(piece) = body.data().await {
            whole &= piece.is_ok();
        }
        assert!(!whole, "a cut answer looked whole");
    }
    node.say(FINE);
    assert_eq!(ask(h2_request(Method::GET, "/")).await.unwrap(), 200);
}
