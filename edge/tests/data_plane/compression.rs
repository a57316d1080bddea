//! Answers that are compressed on their way, by every version of HTTP.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

use hosting_edge::Settings;
use hosting_intent::message::HttpPolicy;
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, ETAG, VARY};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Edge, pool, route, settings, with_policy};
use crate::http3::node_that;
use crate::http3_client::Browser;

const HOST_NAME: &str = "www.example.com";

fn text() -> String {
    (0..20_000).map(|n| format!("<p>line {}</p>\n", n % 97)).collect()
}

async fn edge(node: SocketAddr, on: bool, settings: Settings) -> Edge {
    let mut edge = Edge::with(settings).await;
    let policy = HttpPolicy { compression: Some(on), ..HttpPolicy::default() };
    edge.publish(
        vec![pool("s1", &[("n1", node, true)]), with_policy(route(HOST_NAME, "t_a", "web_a", "s1"), policy)],
        Vec::new(),
    );
    edge
}

/// A node whose answers are this text.
async fn texts() -> SocketAddr {
    node_that(|mut stream: TcpStream| async move {
        let text = text();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\netag: \"v1\"\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            text.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // A client of HEAD takes none of it.
        let _ = stream.write_all(text.as_bytes()).await;
        // Over HTTP/3 the end of a request may come late. Closed before it is read, the connection would be reset, and the answer cut.
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}

fn decoded(coding: &str, bytes: &[u8]) -> String {
    let mut out = String::new();
    match coding {
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_string(&mut out).unwrap(),
        "br" => brotli::Decompressor::new(bytes, 4_096).read_to_string(&mut out).unwrap(),
        "zstd" => zstd::Decoder::new(bytes).unwrap().read_to_string(&mut out).unwrap(),
        other => panic!("{other}"),
    };
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_compressed_as_the_client_takes_it() {
    let edge = edge(texts().await, true, settings()).await;
    let h1 = edge.client(&[HOST_NAME]);
    let h2 = edge.client_with(&[HOST_NAME], |builder| builder.resolve(HOST_NAME, edge.https));
    for coding in ["gzip", "br", "zstd"] {
        for (client, url) in [(&h1, edge.url(HOST_NAME, "/")), (&h2, edge.tls_url(HOST_NAME, "/"))] {
            let answer = client.get(url).header("accept-encoding", coding).send().await.unwrap();
            let fields = answer.headers();
            assert_eq!(fields[CONTENT_ENCODING], coding);
            assert_eq!(
                (&fields[ETAG], &fields[VARY]),
                (&"W/\"v1\"".parse().unwrap(), &"accept-encoding".parse().unwrap())
            );
            assert!(!fields.contains_key(CONTENT_LENGTH));
            let bytes = answer.bytes().await.unwrap();
            assert!(bytes.len() < text().len() / 10, "{coding}: {}", bytes.len());
            assert!(decoded(coding, &bytes) == text(), "{coding}");
        }
        let mut browser = Browser::connect(&edge, HOST_NAME).await;
        let request = http::Request::get(format!("https://{HOST_NAME}/")).header("accept-encoding", coding);
        let answer = browser.ask(request.body(()).unwrap(), b"").await;
        assert!(answer.head.headers()[CONTENT_ENCODING] == coding && decoded(coding, &answer.body) == text());
    }
    assert_eq!(edge.metric("hosting_edge_compressions_total{outcome=\"done\"}"), 9);
    let head = h1.head(edge.url(HOST_NAME, "/")).header("accept-encoding", "gzip").send().await.unwrap();
    assert!(!head.headers().contains_key(CONTENT_ENCODING));
    let plain = h1.get(edge.url(HOST_NAME, "/")).send().await.unwrap();
    assert_eq!(
        (plain.headers().get(CONTENT_ENCODING), &plain.headers()[VARY]),
        (None, &"accept-encoding".parse().unwrap())
    );
    assert!(plain.text().await.unwrap() == text());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_compressed_where_nobody_asked_for_it_or_there_is_no_room() {
    let node = texts().await;
    for (on, most, refused) in [(false, 1, 0), (true, 0, 1)] {
        let edge = edge(node, on, Settings { max_compressions: most, ..settings() }).await;
        let client = edge.client(&[HOST_NAME]);
        let answer =
            client.get(edge.url(HOST_NAME, "/")).header("accept-encoding", "gzip").send().await.unwrap();
        assert_eq!(answer.headers().get(CONTENT_ENCODING), None);
        assert_eq!(answer.headers()[ETAG], "\"v1\"");
        assert!(answer.text().await.unwrap() == text());
        assert_eq!(edge.metric("hosting_edge_compressions_total{outcome=\"no_room\"}"), refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_pieces_goes_on_in_pieces() {
    let (say, said) = tokio::sync::mpsc::channel::<&str>(4);
    let said = std::sync::Arc::new(tokio::sync::Mutex::new(said));
    let node = node_that(move |mut stream: TcpStream| {
        let said = std::sync::Arc::clone(&said);
        async move {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            while let Some(piece) = said.lock().await.recv().await {
                let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
                stream.write_all(chunk.as_bytes()).await.unwrap();
            }
            stream.write_all(b"0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let edge = edge(node, true, settings()).await;
    let client = edge.client(&[HOST_NAME]);
    let mut answer =
        client.get(edge.url(HOST_NAME, "/")).header("accept-encoding", "zstd").send().await.unwrap();
    let mut all = Vec::new();
    for piece in ["one ", "two ", "three"] {
        say.send(piece).await.unwrap();
        let chunk =
            tokio::time::timeout(Duration::from_secs(2), answer.chunk()).await.expect("it waits for more");
        all.extend_from_slice(&chunk.unwrap().unwrap());
    }
    drop(say);
    all.extend_from_slice(&answer.bytes().await.unwrap());
    assert_eq!(decoded("zstd", &all), "one two three");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    let node = node_that(|mut stream: TcpStream| async move {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 100000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[b'a'; 50_000]).await.unwrap();
    })
    .await;
    let edge = edge(node, true, settings()).await;
    let client = edge.client(&[HOST_NAME]);
    let answer = client.get(edge.url(HOST_NAME, "/")).header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(answer.headers()[CONTENT_ENCODING], "gzip");
    assert!(answer.bytes().await.is_err());
    // Nor by a client that only looks at the connection.
    let mut tcp = TcpStream::connect(edge.http).await.unwrap();
    let get = format!("GET / HTTP/1.0\r\nHost: {HOST_NAME}\r\nAccept-Encoding: gzip\r\n\r\n");
    tcp.write_all(get.as_bytes()).await.unwrap();
    assert!(tcp.read_to_end(&mut Vec::new()).await.is_err(), "a reset, not an end");
}
