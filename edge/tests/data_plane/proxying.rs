//! Requests that reach a node.

use std::time::Duration;

use futures::future::join_all;
use hosting_intent::message::State;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Edge, Node, one_site, pool, route, tenant};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_sees_the_webroot_and_the_truth_about_the_client() {
    let (edge, _node) = one_site().await;
    let client = edge.client(&["www.example.com"]);
    let response = client
        .get(edge.url("www.example.com", "/a/b?c=d"))
        .header("X-Hosting-Host", "other.example.com")
        .header("X_Hosting_Host", "other.example.com")
        .header("X-Hosting-Tenant", "t_b")
        .header("X-Hosting-Request", "mine")
        .header("X-Forwarded-For", "203.0.113.7")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "other.example.com")
        .header("X-Forwarded-Port", "1")
        .header("X-Real-IP", "203.0.113.7")
        .header("Forwarded", "for=203.0.113.7")
        .header("Proxy", "http://203.0.113.7")
        .header("Connection", "x-secret-hop")
        .header("X-Secret-Hop", "1")
        .header("Keep-Alive", "timeout=5")
        .header("TE", "trailers")
        .header("X-Other", "kept")
        .header("Cookie", "a=b")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-served-by"], "node-1");
    assert_eq!(response.headers().get_all("x-shard").iter().collect::<Vec<_>>(), ["s1-name"]);
    let seen = response.text().await.unwrap();
    let host = format!("www.example.com:{}", edge.http.port());
    let mut lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines.remove(0), "GET /a/b?c=d");
    lines.sort_unstable();
    let marks: Vec<&str> = lines
        .extract_if(.., |line| line.starts_with("x-hosting-request"))
        .filter_map(|line| line.strip_prefix("x-hosting-request: "))
        .collect();
    assert!(
        marks.iter().all(|mark| mark.len() == 16 && mark.bytes().all(|byte| byte.is_ascii_hexdigit()))
            && marks.len() == 1,
        "{seen}"
    );
    let expected = [
        "accept: */*".to_owned(),
        "cookie: a=b".to_owned(),
        format!("forwarded: for=127.0.0.1;host=\"{host}\";proto=http"),
        "host: web_ab12cd34ef".to_owned(),
        "x-forwarded-for: 127.0.0.1".to_owned(),
        format!("x-forwarded-host: {host}"),
        "x-forwarded-proto: http".to_owned(),
        format!("x-hosting-host: {host}"),
        "x-other: kept".to_owned(),
        "x-real-ip: 127.0.0.1".to_owned(),
    ];
    assert_eq!(lines, expected, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_clients_are_served_and_named() {
    let (edge, _node) = one_site().await;
    let mut stream = TcpStream::connect(edge.http6).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n").await.unwrap();
    let answer = crate::harness::read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-forwarded-for: ::1\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn absolute_targets_become_origin_form() {
    let (edge, _node) = one_site().await;
    for (target, path) in [
        ("http://www.example.com/x?y", "/x?y"),
        ("http://www.example.com?y", "/?y"),
        ("http://www.example.com", "/"),
        ("http://www.example.com/a//b/../c%00", "/a//b/../c%00"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n");
        let answer = edge.raw(request.as_bytes()).await;
        assert!(answer.contains(&format!("\r\n\r\nGET {path}\n")), "{target}: {answer}");
        assert!(answer.contains("host: web_ab12cd34ef\n"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_every_size_go_both_ways_over_one_connection() {
    let (edge, node) = one_site().await;
    let hosts = &["www.example.com"];
    for client in [edge.client(hosts), edge.client_with(hosts, reqwest::ClientBuilder::http1_only)] {
        for size in [0usize, 1, 1_000, 16_384, 70_000, 3_000_000] {
            let body: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            for url in [edge.url("www.example.com", "/echo"), edge.tls_url("www.example.com", "/echo")] {
                let response = client.post(&url).body(body.clone()).send().await.unwrap();
                assert_eq!(response.status(), 200, "{url} {size}");
                assert!(response.bytes().await.unwrap() == body, "{url} {size}");
            }
        }
    }
    assert_eq!(node.requests(), 24);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_upload_and_expect_continue_work() {
    let (edge, _node) = one_site().await;
    let mut stream = TcpStream::connect(edge.http).await.unwrap();
    stream
        .write_all(b"POST /echo HTTP/1.1\r\nHost: www.example.com\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    for piece in ["3\r\nabc\r\n", "5\r\ndefgh\r\n", "0\r\n\r\n"] {
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.write_all(piece.as_bytes()).await.unwrap();
    }
    let answer = crate::harness::read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("abcdefgh"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_pass_through() {
    let (edge, _node) = one_site().await;
    // Many, because whether the node's answer is read before the request's end is a race that few lose.
    for _ in 0..300 {
        let mut stream = TcpStream::connect(edge.http).await.unwrap();
        stream.write_all(UPGRADE).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        for word in ["hello", "again"] {
            stream.write_all(word.as_bytes()).await.unwrap();
            let mut back = [0; 5];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(back, word.to_ascii_uppercase().as_bytes());
        }
    }
}

const UPGRADE: &[u8] =
    b"GET /upgrade HTTP/1.1\r\nHost: www.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_decline_an_upgrade() {
    let (edge, _node) = one_site().await;
    let declined = String::from_utf8_lossy(UPGRADE).replace("/upgrade", "/");
    for _ in 0..3 {
        let answer = crate::harness::ask(edge.http, declined.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("upgrade: websocket\n"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_stays_with_its_node_and_hosts_spread() {
    let (one, two) = (Node::start("node-1").await, Node::start("node-2").await);
    let mut edge = Edge::start().await;
    let hosts: Vec<String> = (0..40).map(|n| format!("h{n}.example.com")).collect();
    let mut intents = vec![
        tenant("t_a", State::Active),
        pool("s1", &[("n1", one.address, true), ("n2", two.address, true)]),
    ];
    intents.extend(hosts.iter().map(|host| route(host, "t_a", "web_a", "s1")));
    edge.publish(intents, Vec::new());
    let client = edge.client(&hosts.iter().map(String::as_str).collect::<Vec<_>>());
    for host in &hosts {
        let served = join_all((0..3).map(|_| async {
            let response = client.get(edge.url(host, "/")).send().await.unwrap();
            response.headers()["x-served-by"].to_str().unwrap().to_owned()
        }))
        .await;
        assert!(served.iter().all(|node| node == &served[0]), "{host}: {served:?}");
    }
    assert!(one.requests() >= 24 && two.requests() >= 24, "{} and {}", one.requests(), two.requests());
}
