//! Rules that a translator between HTTP versions keeps and that depend on when something is sent. The others are rows of the table in
//! `edge/conformance`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hosting_intent::message::State;
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Edge, pool, route, tenant};

/// A node that keeps what it gets.
pub(crate) struct Script {
    pub(crate) address: SocketAddr,
    /// The bytes of each connection.
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

const FINE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";

impl Script {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Self { address, seen: Arc::default() };
        let seen = Arc::clone(&script.seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let index = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(Vec::new());
                    seen.len() - 1
                };
                tokio::spawn(serve(stream, index, Arc::clone(&seen)));
            }
        });
        script
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
async fn serve(mut stream: TcpStream, index: usize, seen: Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut pending = Vec::new();
    let mut buffer = [0; 16_384];
    loop {
        let Ok(read @ 1..) = stream.read(&mut buffer).await else { return };
        seen.lock().unwrap()[index].extend_from_slice(&buffer[..read]);
        pending.extend_from_slice(&buffer[..read]);
        while let Some(length) = request_length(&pending) {
            pending.drain(..length);
            if stream.write_all(FINE).await.is_err() {
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

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_side_gets_its_answer() {
    let (edge, _node) = site().await;
    let mut stream = TcpStream::connect(edge.http).await.unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = crate::harness::read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("fine"), "{answer}");
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
