//! Two honest sites and a hostile third behind one node address, with honest and hostile visitors over both versions of HTTP: no
//! byte of one reaches another. `HOSTING_SOAK_REQUESTS` says how many honest requests are made (2 000 unless set).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use hosting_intent::message::State;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Edge, pool, route, tenant};

/// In every byte that a hostile visitor or site means for others.
const MARK: &str = "CONTRABAND";

/// What the node found wrong with what it got.
type Faults = Arc<Mutex<Vec<String>>>;

/// A web server with three sites, told apart by Host as nginx does. Honest sites answer with what they were asked; the hostile one
/// with whatever could upset a proxy.
async fn node(faults: Faults) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let turn = Arc::new(AtomicU64::new(0));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(connection(stream, Arc::clone(&faults), Arc::clone(&turn)));
        }
    });
    address
}

async fn connection(mut stream: TcpStream, faults: Faults, turn: Arc<AtomicU64>) {
    let (mut pending, mut buffer, mut owner) = (Vec::new(), vec![0; 65_536], None::<String>);
    loop {
        let (head, body) = match parse(&pending) {
            Parsed::Whole { head, body, length } => {
                pending.drain(..length);
                (head, body)
            }
            Parsed::More => {
                let Ok(read @ 1..) = stream.read(&mut buffer).await else { return };
                pending.extend_from_slice(&buffer[..read]);
                continue;
            }
            Parsed::Bad(why) => {
                faults.lock().unwrap().push(format!("{why}: {:?}", String::from_utf8_lossy(&pending)));
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
                return;
            }
        };
        let host = field(&head, "host").unwrap_or_default().to_owned();
        if owner.get_or_insert_with(|| host.clone()) != &host {
            faults.lock().unwrap().push(format!("a connection of {owner:?} carries {host}"));
        }
        if host == "web_hostile" {
            // As web servers do: whatever comes behind a request with `close` is no request (RFC 9112 §9.6).
            let last = field(&head, "connection").is_some_and(|options| options.contains("close"));
            if !hostile_answer(&mut stream, turn.fetch_add(1, Ordering::Relaxed)).await || last {
                return;
            }
            continue;
        }
        // A hostile visitor may ask an honest site, but its hidden requests must not be seen as requests.
        if head.starts_with(MARK) || head.contains(&format!("GET /{MARK}")) {
            faults.lock().unwrap().push(format!("a hidden request: {head:?}"));
        }
        let said = format!("{host} {} {}", field(&head, "x-nonce").unwrap_or("-"), body.len());
        let answer = if body.len() % 2 == 0 {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len())
        } else {
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{said}\r\n0\r\n\r\n",
                said.len()
            )
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// What a site's code can bring a web server to send. `false`: the server closes.
async fn hostile_answer(stream: &mut TcpStream, turn: u64) -> bool {
    let extra = format!("HTTP/1.1 200 OK\r\nSet-Cookie: {MARK}=1\r\nContent-Length: 10\r\n\r\n{MARK}");
    let (answer, later, goes_on) = match turn % 12 {
        0 => (format!("HTTP/1.1 103 Early Hints\r\n\r\n{extra}"), extra.repeat(2), true),
        1 => (format!("HTTP/1.1 100 Continue\r\n\r\n{extra}"), extra, true),
        2 => (
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n{extra}"
            ),
            extra,
            true,
        ),
        3 => (format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{extra}"), extra, true),
        4 => (format!("HTTP/1.1 204 No Content\r\n\r\n{extra}"), extra, true),
        5 => (format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n{extra}"), extra, true),
        6 => (
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{extra}"),
            String::new(),
            true,
        ),
        7 => ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort".into(), String::new(), false),
        8 => ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".into(), extra, true),
        9 => (String::new(), String::new(), false),
        // Clean, and then what nobody asked for, when the connection may be with another request already.
        10 => ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into(), extra, true),
        _ => ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into(), String::new(), true),
    };
    if stream.write_all(answer.as_bytes()).await.is_err() || !goes_on {
        return false;
    }
    if !later.is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
        return stream.write_all(later.as_bytes()).await.is_ok();
    }
    true
}

enum Parsed {
    Whole { head: String, body: Vec<u8>, length: usize },
    More,
    Bad(&'static str),
}

/// A strict reader of requests: whatever it does not like is a fault of the edge.
fn parse(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        let begins = ["GET ", "POST ", "PUT ", "HEAD ", "DELETE ", "OPTIONS ", "PATCH "];
        let known = begins.iter().any(|begin| {
            let length = begin.len().min(bytes.len());
            bytes[..length] == begin.as_bytes()[..length]
        });
        return if known { Parsed::More } else { Parsed::Bad("not a request") };
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    if !head.lines().next().unwrap_or_default().ends_with(" HTTP/1.1") {
        return Parsed::Bad("not a request line");
    }
    let mut at = end + 4;
    if field(&head, "transfer-encoding").is_some() {
        let mut body = Vec::new();
        loop {
            let Some(line) = bytes[at..].windows(2).position(|window| window == b"\r\n") else {
                return Parsed::More;
            };
            let text = std::str::from_utf8(&bytes[at..at + line]).unwrap_or("?");
            let Ok(size) = usize::from_str_radix(text, 16) else { return Parsed::Bad("not a chunk size") };
            let begin = at + line + 2;
            if bytes.len() < begin + size + 2 {
                return Parsed::More;
            }
            if &bytes[begin + size..begin + size + 2] != b"\r\n" {
                return Parsed::Bad("not the end of a chunk");
            }
            body.extend_from_slice(&bytes[begin..begin + size]);
            at = begin + size + 2;
            if size == 0 {
                return Parsed::Whole { head, body, length: at };
            }
        }
    }
    let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap_or(usize::MAX / 2));
    if bytes.len() < at + length {
        return Parsed::More;
    }
    let body = bytes[at..at + length].to_vec();
    at += length;
    Parsed::Whole { head, body, length: at }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (field, value) = line.split_once(": ")?;
        field.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// Honest visitors of one site, over one version of HTTP, who check every answer.
async fn honest(edge: Arc<Edge>, site: &'static str, tls: bool, requests: u64) -> u64 {
    let host = format!("{site}.example");
    let client = edge.client(&[&host]);
    let url = if tls { edge.tls_url(&host, "/") } else { edge.url(&host, "/") };
    let mut checked = 0;
    for number in 0..requests {
        let nonce = format!("{site}-{tls}-{number}");
        let body = vec![b'b'; usize::try_from(number % 7).unwrap()];
        let request = match number % 3 {
            0 => client.get(&url),
            1 => client.post(&url).body(body.clone()),
            _ => client.put(&url).body(reqwest::Body::from(body.clone())),
        };
        let sent = if number % 3 == 0 { 0 } else { body.len() };
        let response = request.header("x-nonce", &nonce).send().await.unwrap();
        assert_eq!(response.status(), 200, "{nonce}");
        assert!(response.headers().get("set-cookie").is_none(), "{nonce}: {response:?}");
        assert_eq!(response.text().await.unwrap(), format!("web_{site} {nonce} {sent}"));
        checked += 1;
    }
    checked
}

/// A visitor of the hostile site, and one that sends honest sites what could upset a proxy.
async fn hostile(edge: Arc<Edge>, done: Arc<AtomicU64>) {
    let hidden = format!("GET /{MARK} HTTP/1.1\r\nHost: web_one\r\n\r\n");
    let mut turn = 0u64;
    while done.load(Ordering::Relaxed) == 0 {
        turn += 1;
        let requests = match turn % 10 {
            0 | 1 => "GET / HTTP/1.1\r\nHost: hostile.example\r\n\r\n".repeat(2),
            2 => format!(
                "GET / HTTP/1.1\r\nHost: hostile.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n{hidden}"
            ),
            3 => "POST / HTTP/1.1\r\nHost: one.example\r\nContent-Length: 500\r\n\r\ncut".to_owned(),
            4 => format!(
                "POST / HTTP/1.1\r\nHost: one.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n{hidden}"
            ),
            5 => format!(
                "GET / HTTP/1.1\r\nHost: two.example\r\nContent-Length: {}\r\n\r\n{hidden}",
                hidden.len()
            ),
            6 => format!(
                "POST / HTTP/1.1\r\nHost: two.example\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
            ),
            7 => format!(
                "POST / HTTP/1.1\r\nHost: hostile.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello{hidden}"
            ),
            8 => format!(
                "POST / HTTP/1.1\r\nHost: one.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: {MARK}\r\n\r\n"
            ),
            _ => "POST / HTTP/1.1\r\nHost: hostile.example\r\nContent-Length: 70000\r\n\r\nearly".to_owned(),
        };
        if let Ok(mut stream) = TcpStream::connect(edge.http).await {
            let _ = stream.write_all(requests.as_bytes()).await;
            let mut buffer = [0; 4_096];
            let _ = tokio::time::timeout(Duration::from_millis(3), stream.read(&mut buffer)).await;
        }
        if turn.is_multiple_of(4) {
            hostile_h2(&edge, turn).await;
        }
    }
}

/// Uploads that end in an empty frame, are reset half-way, or go to the hostile site.
async fn hostile_h2(edge: &Edge, turn: u64) {
    let host = ["one.example", "hostile.example", "two.example"][usize::try_from(turn / 4 % 3).unwrap()];
    let Ok(stream) = crate::tls::connect(edge, host, &[b"h2"]).await else { return };
    let Ok((client, connection)) = h2::client::handshake(stream).await else { return };
    let driver = tokio::spawn(async move {
        let _ = connection.await;
    });
    let Ok(mut client) = client.ready().await else { return };
    for how in 0..3 {
        let request =
            http::Request::builder().method("POST").uri(format!("https://{host}/")).body(()).unwrap();
        let Ok((response, mut body)) = client.send_request(request, false) else { break };
        let _ = body.send_data(Bytes::from_static(b"hello"), false);
        tokio::time::sleep(Duration::from_millis(1)).await;
        match how {
            0 => drop(body.send_data(Bytes::new(), true)),
            1 => body.send_reset(h2::Reason::CANCEL),
            _ => drop(body.send_data(Bytes::from_static(b"0\r\n\r\nGET /CONTRABAND HTTP/1.1\r\n\r\n"), true)),
        }
        let _ = tokio::time::timeout(Duration::from_millis(5), response).await;
    }
    driver.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_one_reaches_another() {
    let requests: u64 =
        std::env::var("HOSTING_SOAK_REQUESTS").ok().map_or(2_000, |count| count.parse().expect("a number"));
    let faults = Faults::default();
    let node = node(Arc::clone(&faults)).await;
    let mut edge = Edge::start().await;
    edge.publish(
        [tenant("t_a", State::Active), pool("s1", &[("n1", node, true)])]
            .into_iter()
            .chain(
                ["one", "two", "hostile"]
                    .map(|site| route(&format!("{site}.example"), "t_a", &format!("web_{site}"), "s1")),
            )
            .collect(),
        Vec::new(),
    );
    let edge = Arc::new(edge);
    let done = Arc::new(AtomicU64::new(0));
    let attackers: Vec<_> =
        (0..4).map(|_| tokio::spawn(hostile(Arc::clone(&edge), Arc::clone(&done)))).collect();
    let visitors: Vec<_> = [("one", false), ("one", true), ("two", false), ("two", true)]
        .into_iter()
        .map(|(site, tls)| tokio::spawn(honest(Arc::clone(&edge), site, tls, requests / 4)))
        .collect();
    let checked: u64 = join_all(visitors).await.into_iter().map(Result::unwrap).sum();
    done.store(1, Ordering::Relaxed);
    join_all(attackers).await;
    let faults = faults.lock().unwrap();
    assert!(faults.is_empty(), "{} of them, for example {:?}", faults.len(), &faults[..faults.len().min(5)]);
    println!("{checked} honest answers checked");
    assert_eq!(checked, requests / 4 * 4);
}

/// Every way to say a body's length twice, and what may hide behind it.
fn smuggling() -> Vec<String> {
    let hidden = format!("GET /{MARK} HTTP/1.1\r\nHost: web_two\r\n\r\n");
    let codings = [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding:chunked",
        "Transfer-Encoding:\tchunked",
        "transfer-encoding: CHUNKED",
        "Transfer-Encoding : chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding: chunked\x0b",
        "Transfer-Encoding: chunked\x00",
        "Transfer-Encoding\x00: chunked",
        "Transfer_Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: ",
        "Transfer-Encoding: gzip",
        "Content-Encoding: chunked",
        "TE: chunked",
        "Transfer-Encoding: ch\u{212a}nked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
    ];
    let lengths = [
        "",
        "Content-Length: 0",
        "Content-Length: 4",
        "Content-Length: +4",
        "Content-Length: -1",
        "Content-Length: 4, 4",
        "Content-Length: 4\r\nContent-Length: 0",
        "Content-Length : 4",
        "Content-Length: 0x4",
        "Content-Length: 4 4",
        "Content-Length: 99999999999999999999",
        "Content-Length:\r\n 4",
        "Content-Length: ",
        "Content_Length: 4",
    ];
    let bodies = [
        "0\r\n\r\n",
        "4\r\nabcd\r\n0\r\n\r\n",
        "0;x\r\n\r\n",
        "0\n\n",
        "00000000000000000\r\n\r\n",
        "-0\r\n\r\n",
        "0\r\nX: y\r\n\r\n",
        "4\r\nabcdX\r\n0\r\n\r\n",
    ];
    let mut all = Vec::new();
    for (index, coding) in codings.iter().enumerate() {
        for length in lengths {
            let length = if length.is_empty() { String::new() } else { format!("{length}\r\n") };
            let body = bodies[index % bodies.len()];
            all.push(format!(
                "POST / HTTP/1.1\r\nHost: one.example\r\n{length}{coding}\r\n\r\n{body}{hidden}"
            ));
        }
    }
    for body in bodies {
        all.push(format!(
            "POST / HTTP/1.1\r\nHost: one.example\r\nTransfer-Encoding: chunked\r\n\r\n{body}{hidden}"
        ));
        all.push(format!("POST / HTTP/1.0\r\nHost: one.example\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n{body}{hidden}"));
    }
    for head in [
        "GET / HTTP/1.1\r\nHost: one.example\r\nHost: two.example\r\n\r\n",
        "GET http://two.example/ HTTP/1.1\r\nHost: one.example\r\n\r\n",
        "GET / HTTP/1.1\nHost: one.example\n\n",
        "GET / HTTP/1.1\r\nHost: one.example\r\n\r\r\n",
        "GET /\x00 HTTP/1.1\r\nHost: one.example\r\n\r\n",
        "GET / x HTTP/1.1\r\nHost: one.example\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: one.example\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: one.example\r\n\r\n",
        "GET /\tx HTTP/1.1\r\nHost: one.example\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\nHost: one.example\r\n\r\n",
        "GET / http/1.1\r\nHost: one.example\r\n\r\n",
        "G\u{cb}T / HTTP/1.1\r\nHost: one.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: one.example\r\nConnection: content-length\r\nContent-Length: 4\r\n\r\nabcd",
    ] {
        all.push(format!("{head}{hidden}"));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_hides_in_another() {
    let faults = Faults::default();
    let node = node(Arc::clone(&faults)).await;
    let mut edge = Edge::start().await;
    edge.publish(
        [tenant("t_a", State::Active), pool("s1", &[("n1", node, true)])]
            .into_iter()
            .chain(
                ["one", "two"]
                    .map(|site| route(&format!("{site}.example"), "t_a", &format!("web_{site}"), "s1")),
            )
            .collect(),
        Vec::new(),
    );
    let corpus = smuggling();
    assert!(corpus.len() > 400);
    let mut codes: HashMap<String, usize> = HashMap::new();
    for piece in corpus.chunks(32) {
        let answers = join_all(piece.iter().map(|request| async {
            let mut stream = TcpStream::connect(edge.http).await.unwrap();
            let _ = stream.write_all(request.as_bytes()).await;
            let _ = stream.shutdown().await;
            crate::harness::read_all(&mut stream).await
        }))
        .await;
        for (request, answer) in piece.iter().zip(answers) {
            // The hidden request's Host is a webroot's id, which is no host of the edge: read as a request of its own it is 404.
            let found: Vec<String> =
                answer.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].to_owned()).collect();
            let sound =
                found.first().is_some_and(|first| first.starts_with('4') || first == "501" || first == "200")
                    && found.iter().skip(1).all(|later| later == "404" || later == "400")
                    && found.len() <= 2;
            assert!(sound, "{request:?} got {answer:?}");
            *codes.entry(found.join(" ")).or_default() += 1;
        }
    }
    assert!(faults.lock().unwrap().is_empty(), "{:?}", faults.lock().unwrap());
    println!("{} requests: {codes:?}", corpus.len());
}
