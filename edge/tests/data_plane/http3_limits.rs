//! HTTP/3: what a client may take, and how connections end.

use std::time::{Duration, Instant};

use hosting_edge::Settings;
use hosting_intent::message::EdgeSettings;
use hosting_intent::{Cause, EdgeIntent, Key, Kind, Removal};
use http::Request;
use quinn::{ConnectionError, VarInt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::harness::{Edge, Node, settings, upsert};
use crate::http3::{LAST_CHUNK, SECOND, edge_for, holds, node_that, noise, reaches};
use crate::http3_client::{
    Browser, End, GET, POST, Raw, config, connect, connect_from, far_away, fields, frame, read,
};
use crate::rules::{Script, site};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gives_up_ends_what_was_done_for_it() {
    let (asked, mut was_asked) = mpsc::channel(1);
    let (ended, mut has_ended) = mpsc::channel(1);
    let address = node_that(move |mut stream| {
        let (asked, ended) = (asked.clone(), ended.clone());
        async move {
            asked.send(()).await.unwrap();
            // Says nothing, and waits for the end.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            ended.send(rest).await.unwrap();
        }
    })
    .await;
    let edge = edge_for(settings(), address).await;
    let client = Raw::connect(&edge).await;
    // A whole request whose answer is not wanted any more, an upload that breaks off, and a connection that ends.
    for how in 0..3 {
        let (mut send, mut recv) = client.conn.open_bi().await.unwrap();
        send.write_all(&fields(if how == 1 { POST } else { GET })).await.unwrap();
        if how != 1 {
            send.finish().unwrap();
        }
        timeout(5 * SECOND, was_asked.recv()).await.unwrap().unwrap();
        assert!(timeout(Duration::from_millis(100), has_ended.recv()).await.is_err(), "{how}: not yet");
        match how {
            0 => recv.stop(VarInt::from_u32(0x10c)).unwrap(),
            1 => send.reset(VarInt::from_u32(0x10c)).unwrap(),
            _ => client.conn.close(VarInt::from_u32(0x100), b""),
        }
        let rest = timeout(5 * SECOND, has_ended.recv()).await.unwrap().unwrap();
        assert!(!holds(&rest, LAST_CHUNK), "{how}: the node must not take it for whole");
    }
    reaches(&edge, "hosting_edge_requests_total{code=\"none\"}", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    for head in ["Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"] {
        let address = node_that(move |mut stream| async move {
            let begin = if head.starts_with('C') { "12345" } else { "5\r\n12345\r\n" };
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n{begin}").as_bytes()).await.unwrap();
        })
        .await;
        let edge = edge_for(settings(), address).await;
        let client = Raw::connect(&edge).await;
        assert_eq!(client.ask(&fields(GET)).await, End::Reset(0x102), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_cut_off() {
    let node = Node::start("node-1").await;
    let slow = Settings { header_timeout_ms: 300, idle_timeout_ms: 400, body_timeout_ms: 300, ..settings() };
    let edge = edge_for(slow, node.address).await;
    let client = Raw::connect(&edge).await;
    // A head that does not end; a body that stops, and one that comes byte by byte.
    let (mut send, recv) = client.conn.open_bi().await.unwrap();
    send.write_all(&fields(GET)[..20]).await.unwrap();
    let (mut post, answer) = client.conn.open_bi().await.unwrap();
    post.write_all(&[fields(POST), frame(0, b"abc")].concat()).await.unwrap();
    let (mut dripping, dripped) = client.conn.open_bi().await.unwrap();
    dripping.write_all(&[&fields(POST), &b"\0\x80\x01\0\0"[..]].concat()).await.unwrap();
    let drip = tokio::spawn(async move {
        while dripping.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let begun = Instant::now();
    assert_eq!(read(recv).await.status(), 408);
    assert_eq!(read(answer).await.status(), 408);
    assert_eq!(read(dripped).await.status(), 408);
    assert!(begun.elapsed() < 3 * SECOND, "{:?}", begun.elapsed());
    timeout(SECOND, drip).await.unwrap().unwrap();
    // A node takes longer than a connection may be idle.
    let waiting = fields(&[&GET[..3], &[(b":path", b"/slow/900")]].concat());
    assert_eq!(client.ask(&waiting).await.status(), 200);
    let error = timeout(3 * SECOND, client.conn.closed()).await.unwrap();
    let ConnectionError::ApplicationClosed(close) = error else { panic!("{error}") };
    assert_eq!(close.error_code.into_inner(), 0x100);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_more_than_his_share() {
    let node = Node::start("node-1").await;
    let few = Settings { h2_max_streams: 2, max_connections_per_network: 2, ..settings() };
    let edge = edge_for(few, node.address).await;
    let client = Raw::connect(&edge).await;
    let slow = fields(&[&GET[..3], &[(b":path", b"/slow/600")]].concat());
    let mut asked = Vec::new();
    for _ in 0..2 {
        let (mut send, recv) = client.conn.open_bi().await.unwrap();
        send.write_all(&slow).await.unwrap();
        send.finish().unwrap();
        asked.push(recv);
    }
    assert!(timeout(Duration::from_millis(200), client.conn.open_bi()).await.is_err(), "two at once");
    for recv in asked {
        assert_eq!(read(recv).await.status(), 200);
    }
    let mut third = timeout(5 * SECOND, client.conn.open_bi()).await.unwrap().unwrap();
    third.0.finish().unwrap();
    // Connections, whatever they speak.
    let second = TcpStream::connect(edge.http).await.unwrap();
    reaches(&edge, "hosting_edge_connections", 2).await;
    assert!(matches!(connect(&edge, "a.example").await, Err(ConnectionError::ConnectionClosed(_))));
    assert!(edge.metric("hosting_edge_connections_over_share_total") >= 1);
    assert!(connect_from(&edge, "127.0.0.9", "a.example").await.is_ok(), "from elsewhere");
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_gives_up_request_after_request_is_sent_away() {
    let (edge, _node) = site().await;
    // Beside answers that are taken it may be often.
    let client = Raw::connect(&edge).await;
    let gives_up = async |client: &Raw| {
        let Ok((mut send, mut recv)) = client.conn.open_bi().await else { return false };
        let _ = send.write_all(&fields(&[GET, &[(b"X", b"1")]].concat())).await;
        let _ = recv.stop(VarInt::from_u32(0x10c));
        send.finish().is_ok() && client.conn.close_reason().is_none()
    };
    for _ in 0..1_500 {
        assert!(gives_up(&client).await);
        assert_eq!(client.ask(&fields(GET)).await.status(), 200);
    }
    let mut given_up = 0;
    while given_up < 5_000 && gives_up(&client).await {
        given_up += 1;
    }
    assert!((1_000..2_000).contains(&given_up), "{given_up}");
    let error = timeout(5 * SECOND, client.conn.closed()).await.unwrap();
    let ConnectionError::ApplicationClosed(close) = error else { panic!("{error}") };
    assert_eq!(close.error_code.into_inner(), 0x107);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_before_the_handshake() {
    let (edge, _node) = site().await;
    let mut tls = crate::tls::config(&edge, &[b"h3"]);
    tls.enable_early_data = true;
    let config = config(tls);
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let first =
        endpoint.connect_with(config.clone(), edge.http3.unwrap(), "a.example").unwrap().await.unwrap();
    // The ticket comes behind the handshake.
    first.accept_uni().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let again = endpoint.connect_with(config, edge.http3.unwrap(), "a.example").unwrap();
    assert!(again.into_0rtt().is_err(), "the ticket allows early data");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_limit_are_refused() {
    let node = Node::start("node-1").await;
    let edge =
        edge_for(Settings { max_connections: 3, max_connections_per_network: 3, ..settings() }, node.address)
            .await;
    // One permit is held by each listener that waits for its next connection.
    let held = [TcpStream::connect(edge.http).await.unwrap(), TcpStream::connect(edge.https).await.unwrap()];
    tokio::time::sleep(Duration::from_millis(100)).await;
    let refused = timeout(5 * SECOND, connect(&edge, "a.example")).await.unwrap();
    assert!(matches!(refused, Err(ConnectionError::ConnectionClosed(_))), "{refused:?}");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_proven_when_many_handshakes_are_under_way() {
    let node = Node::start("node-1").await;
    // Half of a network's share is one.
    let edge = edge_for(Settings { max_connections_per_network: 2, ..settings() }, node.address).await;
    let first = Raw::connect(&edge).await;
    // The edge knows that the handshake is over when it answers; the client knew before.
    assert_eq!(first.ask(&fields(GET)).await.status(), 200);
    assert_eq!(edge.metric("hosting_edge_http3_retries_total"), 0);
    // A handshake that gets no further: its client does not take what it is told.
    let deaf = std::net::UdpSocket::bind("127.0.0.5:0").unwrap();
    let relay = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = config(crate::tls::config(&edge, &[b"h3"]));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint.connect_with(config, relay.local_addr().unwrap(), "a.example").unwrap();
    let packet = tokio::task::spawn_blocking(move || {
        let mut packet = vec![0; 2_000];
        let (length, _) = relay.recv_from(&mut packet).unwrap();
        packet.truncate(length);
        packet
    })
    .await
    .unwrap();
    drop(connecting);
    deaf.send_to(&packet, edge.http3.unwrap()).unwrap();
    reaches(&edge, "hosting_edge_http3_connections", 2).await;
    let second = connect(&edge, "a.example").await.unwrap();
    // One for each packet of its first flight, which are two when it offers keys of both kinds.
    assert!((1..=2).contains(&edge.metric("hosting_edge_http3_retries_total")));
    drop((first, second));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_keeps_its_address_and_may_change_its_port() {
    let (edge, _node) = site().await;
    let client = Raw::connect(&edge).await;
    assert_eq!(client.ask(&fields(GET)).await.status(), 200);
    client.endpoint.rebind(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    assert_eq!(client.ask(&fields(GET)).await.status(), 200);
    client.endpoint.rebind(std::net::UdpSocket::bind("127.0.0.7:0").unwrap()).unwrap();
    // The request may be sent again elsewhere.
    assert_eq!(timeout(10 * SECOND, client.ask(&fields(GET))).await.unwrap(), End::Reset(0x10b));
    let error = timeout(5 * SECOND, client.conn.closed()).await.unwrap();
    let ConnectionError::ApplicationClosed(close) = error else { panic!("{error}") };
    assert_eq!(close.error_code.into_inner(), 0x100);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_is_finished_when_the_edge_stops() {
    let node = Node::start("node-1").await;
    let mut edge = edge_for(settings(), node.address).await;
    let mut browser = Browser::connect(&edge, "a.example").await;
    let idle = Raw::connect(&edge).await;
    assert_eq!(idle.ask(&fields(GET)).await.status(), 200);
    let mut control = idle.conn.accept_uni().await.unwrap();
    let said = tokio::spawn(async move {
        let mut said = Vec::new();
        while let Ok(Some(chunk)) = control.read_chunk(100, true).await {
            said.extend_from_slice(&chunk.bytes);
        }
        said
    });
    let mut slow = browser
        .requests
        .send_request(Request::get("https://a.example/slow/800").body(()).unwrap())
        .await
        .unwrap();
    slow.finish().await.unwrap();
    timeout(5 * SECOND, async {
        while node.requests() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    edge.stop.cancel();
    // The client is told soon, and then asks for nothing more here.
    let served = timeout(SECOND, async {
        let mut served = 0;
        loop {
            let request = Request::get("https://a.example/").body(()).unwrap();
            let Ok(mut stream) = browser.requests.send_request(request).await else { return served };
            let _ = stream.finish().await;
            served += usize::from(stream.recv_response().await.is_ok());
        }
    })
    .await
    .unwrap();
    assert!(matches!(connect(&edge, "a.example").await, Err(ConnectionError::ConnectionClosed(_))));
    let error = timeout(SECOND, idle.conn.closed()).await.unwrap();
    assert!(matches!(error, ConnectionError::ApplicationClosed(_)), "{error}");
    // Settings of 6 bytes, and that stream 4 would not be served.
    assert!(said.await.unwrap().ends_with(&[0x80, 1, 0, 0, 7, 1, 4]));
    assert!(!edge.done.is_finished());
    assert_eq!(slow.recv_response().await.unwrap().status(), 200);
    let mut body = Vec::new();
    while let Some(mut data) = slow.recv_data().await.unwrap() {
        let rest = bytes::Buf::remaining(&data);
        body.extend_from_slice(&bytes::Buf::copy_to_bytes(&mut data, rest));
    }
    assert!(body.starts_with(b"GET /slow/800"));
    timeout(5 * SECOND, &mut edge.done).await.unwrap().unwrap();
    assert_eq!(node.requests(), 2 + served);
    drop(browser.endpoint);
    let closed = timeout(5 * SECOND, browser.driver).await.unwrap().unwrap();
    assert!(closed.is_h3_no_error(), "{closed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_on_its_way_is_not_lost_when_the_edge_stops() {
    let body = noise(100_000);
    let sent = body.clone();
    let address = node_that(move |mut stream| {
        let sent = sent.clone();
        async move {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", sent.len());
            stream.write_all(&[head.as_bytes(), &sent].concat()).await.unwrap();
        }
    })
    .await;
    let mut edge = edge_for(settings(), address).await;
    // The edge has given all of it to its library long before the client, of which nothing is known yet, can have it.
    let way = far_away(&edge, Duration::from_millis(500)).await;
    let config = config(crate::tls::config(&edge, &[b"h3"]));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let conn = endpoint.connect_with(config, way, "a.example").unwrap().await.unwrap();
    let client = Raw::over(endpoint, conn).await;
    let (mut send, recv) = client.conn.open_bi().await.unwrap();
    send.write_all(&fields(GET)).await.unwrap();
    send.finish().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    edge.stop.cancel();
    assert!(read(recv).await == End::Answer(vec![200], body));
    timeout(5 * SECOND, &mut edge.done).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_take_longer_than_a_client_may_be_silent() {
    let node = Node::start("node-1").await;
    // The shortest time without a packet is five seconds; the client here sends none of its own accord.
    let edge = edge_for(Settings { idle_timeout_ms: 1_000, ..settings() }, node.address).await;
    let client = Raw::connect(&edge).await;
    let waiting = fields(&[&GET[..3], &[(b":path", b"/slow/6500")]].concat());
    assert_eq!(client.ask(&waiting).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_has_an_end() {
    let node = Node::start("node-1").await;
    let mut short = settings();
    short.shared.drain_timeout_ms = 300;
    let mut edge = edge_for(short, node.address).await;
    let client = Raw::connect(&edge).await;
    let (mut send, recv) = client.conn.open_bi().await.unwrap();
    send.write_all(&fields(&[&GET[..3], &[(b":path", b"/slow/20000")]].concat())).await.unwrap();
    send.finish().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    edge.stop.cancel();
    assert_eq!(timeout(3 * SECOND, read(recv)).await.unwrap(), End::Closed(0x100));
    timeout(3 * SECOND, &mut edge.done).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_https_are_told_of_http3_and_no_others() {
    let address = node_that(|mut stream| async move {
        let own = "HTTP/1.1 200 OK\r\nAlt-Svc: h3=\"elsewhere.example:1\"\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(own.as_bytes()).await.unwrap();
    })
    .await;
    for (http3, told) in [(true, true), (false, false)] {
        let edge = edge_for(Settings { http3, ..settings() }, address).await;
        assert_eq!(edge.http3.is_some(), http3);
        let says = |response: &reqwest::Response| {
            response.headers().get("alt-svc").map(|value| value.to_str().unwrap().to_owned())
        };
        let said = edge.http3.filter(|_| told).map(|at| format!("h3=\":{}\"; ma=86400", at.port()));
        for (client, version) in [
            (edge.client(&["a.example"]), reqwest::Version::HTTP_2),
            (edge.client_with(&["a.example"], reqwest::ClientBuilder::http1_only), reqwest::Version::HTTP_11),
        ] {
            let response = client.get(edge.tls_url("a.example", "/")).send().await.unwrap();
            assert_eq!((response.version(), says(&response)), (version, said.clone()));
            let response = client.get(edge.url("a.example", "/")).send().await.unwrap();
            assert_eq!((response.status().as_u16(), says(&response)), (200, None), "in clear");
        }
    }
    // Where ports are mapped, another one; over HTTP/3 nothing is said, and behind a proxy it is not the edge's to say.
    let mapped = Settings { http3_port: 443, ..settings() };
    let edge = edge_for(mapped, address).await;
    let response = edge.client(&["a.example"]).get(edge.tls_url("a.example", "/")).send().await.unwrap();
    assert_eq!(response.headers()["alt-svc"], "h3=\":443\"; ma=86400");
    let mut browser = Browser::connect(&edge, "a.example").await;
    assert!(browser.get("https://a.example/").await.head.headers().get("alt-svc").is_none());
    let behind = Settings { forwarded_from: vec!["127.0.0.0/8".parse().unwrap()], ..settings() };
    let edge = edge_for(behind, address).await;
    let response = edge.client(&["a.example"]).get(edge.tls_url("a.example", "/")).send().await.unwrap();
    assert!(response.headers().get("alt-svc").is_none());
}

/// What the cluster says goes before the edge's own settings, from the next answer of a connection on; but no edge tells of what it does not serve.
#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_of_http3_as_the_cluster_says() {
    let node = Node::start("node-1").await;
    let says = |http3_off, http3_port| {
        let settings = EdgeSettings { http3_off, http3_port, ..EdgeSettings::default() };
        upsert(Kind::EdgeSettings, "settings", EdgeIntent::EdgeSettings(settings))
    };
    for http3 in [true, false] {
        let mut edge = edge_for(Settings { http3, http3_port: 7_443, ..settings() }, node.address).await;
        // Of HTTP/2 there is one connection all along.
        let h2 = edge.client(&["a.example"]);
        let h1 = edge.client_with(&["a.example"], reqwest::ClientBuilder::http1_only);
        let told = async |edge: &Edge| {
            let mut told = Vec::new();
            for client in [&h2, &h1] {
                let response = client.get(edge.tls_url("a.example", "/")).send().await.unwrap();
                assert_eq!(response.status(), 200);
                let value = response.headers().get("alt-svc");
                told.push(value.map(|value| value.to_str().unwrap().to_owned()));
                response.bytes().await.unwrap();
            }
            assert_eq!(told[0], told[1]);
            told.swap_remove(0)
        };
        let port = |port| http3.then(|| format!("h3=\":{port}\"; ma=86400"));
        assert_eq!(told(&edge).await, port(7_443), "nobody says anything");
        for (item, expected) in [
            (says(false, 0), port(7_443)),
            (says(false, 443), port(443)),
            (says(false, 8_443), port(8_443)),
            (says(false, 443), port(443)),
            (says(true, 443), None),
            (says(true, 0), None),
            (says(false, 65_535), port(65_535)),
        ] {
            edge.publish(vec![item.clone()], Vec::new());
            assert_eq!(told(&edge).await, expected, "{item:?}");
        }
        let key = Key::new(Kind::EdgeSettings, "settings");
        let gone = Removal { key, cause: Cause::Person, traceparent: String::new(), rollout: 0 };
        edge.publish(Vec::new(), vec![gone]);
        assert_eq!(told(&edge).await, port(7_443), "as before it was told");
        let h2 = edge.metric("hosting_edge_open_connections{protocol=\"http2\"}");
        assert_eq!(h2, 1, "the connection of before");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_harms_nobody() {
    let (edge, node) = site().await;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in [0, 1, 21, 100, 1_200, 1_472] {
        for first in [0x00, 0x40, 0x80, 0xc0, 0xe0, 0xf0, 0xff] {
            let mut packet = noise(length);
            if let Some(byte) = packet.first_mut() {
                *byte = first;
            }
            socket.send_to(&packet, edge.http3.unwrap()).unwrap();
        }
    }
    let client = Raw::connect(&edge).await;
    for length in [1, 10, 1_000, 40_000] {
        let (mut send, recv) = client.conn.open_bi().await.unwrap();
        let _ = send.write_all(&noise(length)).await;
        let _ = send.finish();
        let ended = timeout(5 * SECOND, read(recv)).await.unwrap();
        if matches!(ended, End::Closed(_)) {
            break;
        }
    }
    let client = Raw::connect(&edge).await;
    assert!(!holds(&Script::take_bytes(&node), b"HTTP/1.1"));
    assert_eq!(client.ask(&fields(GET)).await.status(), 200);
}
