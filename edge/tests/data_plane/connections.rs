//! What the admin port tells of the connections that are open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::load::tls;
use crate::processes::{HOST, Site};

pub(crate) async fn try_https(site: &Site, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(site.https).await?;
    let connector = TlsConnector::from(Arc::new(tls(site, &[alpn])));
    connector.connect(ServerName::try_from(HOST).unwrap(), tcp).await
}

pub(crate) async fn https(site: &Site, alpn: &[u8]) -> TlsStream<TcpStream> {
    try_https(site, alpn).await.unwrap()
}

/// Waits until the edge has asked itself what it serves, which it does when it starts.
pub(crate) async fn asked_itself(site: &Site) {
    let limit = Instant::now() + Duration::from_secs(20);
    while site.metric("hosting_edge_handshakes_total{outcome=\"done\"}") == 0 {
        assert!(Instant::now() < limit);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until(site, "/connections", |listed| listed["connections"] == json!([])).await;
}

/// Asks until the answer is as it should be.
async fn until(site: &Site, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        let listed = site.admin_json(path);
        if is_so(&listed) {
            return listed;
        }
        assert!(Instant::now() < limit, "{listed:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_open_connection_is_told_of_with_what_it_does() {
    let site = Site::new().await;
    let _edge = site.start(&[]).await;
    asked_itself(&site).await;

    let idle = TcpStream::connect(site.http).await.unwrap();
    // Those of different sockets are accepted in any order.
    let opened = |count: usize| {
        let site = &site;
        async move { until(site, "/connections", |listed| listed["open"] == count).await }
    };
    opened(1).await;
    let handshake = TcpStream::connect(site.https).await.unwrap();
    opened(2).await;
    let mut upload = TcpStream::connect(site.http).await.unwrap();
    let head = format!("POST /echo HTTP/1.1\r\nHost: {HOST}:80\r\nContent-Length: 100\r\n\r\n");
    upload.write_all(head.as_bytes()).await.unwrap();
    upload.write_all(&[b'x'; 40]).await.unwrap();
    opened(3).await;
    let mut socket = TcpStream::connect(site.http).await.unwrap();
    let upgrade =
        format!("GET /upgrade HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    socket.write_all(upgrade.as_bytes()).await.unwrap();
    opened(4).await;
    let (mut h2, connection) = h2::client::handshake(https(&site, b"h2").await).await.unwrap();
    let driver = tokio::spawn(connection);
    let request =
        || http::Request::get(format!("https://{HOST}:{}/slow/60000", site.https.port())).body(()).unwrap();
    let streams: Vec<_> = (0..12).map(|_| h2.send_request(request(), true).unwrap()).collect();

    let listed = until(&site, "/connections", |listed| {
        let all = listed["connections"].as_array().unwrap();
        let sum = |field: &str| all.iter().map(|one| one[field].as_u64().unwrap()).sum::<u64>();
        let is_moving = |field: &str| all.iter().any(|one| one["now"][0][field] != json!(0));
        all.len() == 5
            && sum("under_way") == 14
            && all.iter().any(|one| one["now"][0]["received"] == 40)
            && all.iter().any(|one| one["now"][0]["upgraded"] == true)
            && is_moving("seconds")
    })
    .await;
    let all = listed["connections"].as_array().unwrap();
    let [idle_at, handshake_at, upload_at, socket_at, h2_at] = &all[..] else { panic!("{listed:#}") };
    for (one, protocol, tls, under_way) in [
        (idle_at, "http1", json!(null), 0),
        (handshake_at, "handshake", json!(null), 0),
        (upload_at, "http1", json!(null), 1),
        (socket_at, "http1", json!(null), 1),
        (h2_at, "http2", json!("1.3"), 12),
    ] {
        assert_eq!(
            (&one["protocol"], &one["tls"], &one["under_way"], &one["requests"], &one["client"]),
            (&json!(protocol), &tls, &json!(under_way), &json!(under_way), &json!("127.0.0.1")),
            "{one:#}"
        );
        assert_eq!(one["idle_seconds"].is_null(), under_way > 0, "{one:#}");
        let held = one["held_bytes"].as_u64().unwrap();
        let least = if protocol == "http1" { 16 * 1024 } else { 36 * 1024 };
        assert!(held >= least, "{one:#}");
    }
    assert_eq!((&h2_at["name"], &idle_at["name"]), (&json!(HOST), &json!(null)));
    assert_eq!(h2_at["now"].as_array().unwrap().len(), 8, "others are counted only");
    assert_eq!(h2_at["now"][7]["host"], format!("{HOST}:{}", site.https.port()));
    assert_eq!(upload_at["now"][0]["host"], format!("{HOST}:80"));
    let since: jiff::Timestamp = idle_at["since"].as_str().unwrap().parse().unwrap();
    assert!(since.duration_until(jiff::Timestamp::now()).abs() < jiff::SignedDuration::from_mins(1));

    for (query, found) in [
        ("?protocol=http1", 3),
        ("?protocol=handshake", 1),
        (&format!("?host={}.", HOST.to_uppercase()), 3),
        ("?host=other.example", 0),
        ("?address=127.0.0.0/8", 5),
        ("?address=192.0.2.1", 0),
    ] {
        assert_eq!(site.admin_json(&format!("/connections{query}"))["found"], found, "{query}");
    }
    let first = site.admin_json("/connections?limit=1");
    assert_eq!((&first["open"], &first["connections"][0]["id"]), (&json!(5), &idle_at["id"]));
    for wrong in ["?protocol=x", "?address=x", "?limit=x", "?color=x"] {
        let answer = site.admin(&format!("/connections{wrong}")).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert_eq!(site.metric("hosting_edge_requests_under_way"), 14);
    assert_eq!(site.metric("hosting_edge_open_connections{protocol=\"http2\"}"), 1);
    assert_eq!(site.metric("hosting_edge_open_connections{protocol=\"handshake\"}"), 1);

    upload.write_all(&[b'x'; 60]).await.unwrap();
    let mut answer = [0; 12];
    upload.read_exact(&mut answer).await.unwrap();
    until(&site, "/connections?protocol=http1", |listed| {
        listed["connections"].as_array().unwrap().iter().any(|one| {
            (&one["requests"], &one["under_way"], &one["now"]) == (&json!(1), &json!(0), &json!([]))
        })
    })
    .await;
    drop((idle, handshake, upload, socket, streams, h2));
    driver.abort();
    until(&site, "/connections", |listed| listed["open"] == 0).await;
    assert_eq!(site.metric("hosting_edge_memory_held_bytes"), 0, "all that was counted is given back");
    assert_eq!(site.metric("hosting_edge_requests_under_way"), 0);
}
