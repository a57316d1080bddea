//! The memory that clients take, however they try.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::connections::{asked_itself, https, try_https};
use crate::http2::{block, frame};
use crate::load::{ask_http1, browser, tls};
use crate::processes::{HOST, Running, Site};

const MIB: usize = 1024 * 1024;
const BUDGET: usize = 256 * MIB;

/// Resident memory of a process in bytes: the most that it had, and what it has now.
fn memory(edge: &Running) -> (usize, usize) {
    let text = std::fs::read_to_string(format!("/proc/{}/status", edge.pid())).unwrap();
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
    };
    (of("VmHWM:"), of("VmRSS:"))
}

fn budget<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let base = [
        ("HOSTING_EDGE_MEMORY_BYTES", "268435456"),
        ("HOSTING_EDGE_MAX_CONNECTIONS", "1100"),
        ("HOSTING_EDGE_H2_WINDOW_MEMORY", "8388608"),
        ("HOSTING_EDGE_CACHE_BYTES", "4194304"),
        ("HOSTING_EDGE_MAX_COMPRESSIONS", "8"),
        ("HOSTING_EDGE_CERTIFICATE_CACHE", "100"),
        ("HOSTING_EDGE_UPSTREAM_POOL", "256"),
        ("HOSTING_EDGE_THREADS", "2"),
    ];
    [&base[..], more].concat()
}

/// A kind of client that takes what it can get.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A head that never ends.
    SlowHead,
    /// A handshake whose first message never ends.
    HalfHandshake,
    /// A block of fields that never ends.
    FloodOfFields,
    /// Large answers, with room for all of them, that are not read.
    Unread,
    /// Large answers that there is no room for.
    Stalled,
    /// The same with HTTP/3.
    Stalled3,
}

async fn attack(site: &Site, kind: Kind) -> std::io::Result<Box<dyn std::any::Any + Send>> {
    let head = |more: &[u8]| [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", more].concat();
    // SETTINGS_INITIAL_WINDOW_SIZE.
    let window = |size: u32| frame(4, 0, 0, &[&[0, 4][..], &size.to_be_bytes()].concat());
    let request: [(&[u8], &[u8]); 4] = [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", HOST.as_bytes()),
        (b":path", b"/big/400000"),
    ];
    let ask = |stream: u32| frame(1, 0x5, stream, &block(&request, false));
    let requests: Vec<u8> = (0..100).flat_map(|n| ask(2 * n + 1)).collect();
    match kind {
        Kind::SlowHead => {
            let mut tcp = TcpStream::connect(site.http).await?;
            tcp.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX: ").as_bytes()).await?;
            tcp.write_all(&vec![b'x'; 60_000]).await?;
            Ok(Box::new(tcp))
        }
        Kind::HalfHandshake => {
            let mut tcp = TcpStream::connect(site.https).await?;
            let mut hello = vec![0; 16_000];
            // A ClientHello of 65 000 bytes.
            hello[..4].copy_from_slice(&[1, 0, 0xfd, 0xe8]);
            for _ in 0..4 {
                tcp.write_all(&[22, 3, 1, 0x3e, 0x80]).await?;
                tcp.write_all(&hello).await?;
                hello.fill(0);
            }
            Ok(Box::new(tcp))
        }
        Kind::FloodOfFields => {
            let mut tls = try_https(site, b"h2").await?;
            let fields = block(&[(b"x-field", &[b'x'; 1_000])], false).repeat(14);
            let frames =
                [window(0), frame(1, 0, 1, &[block(&request, false), fields.clone()].concat())].concat();
            tls.write_all(&head(&frames)).await?;
            for _ in 0..3 {
                tls.write_all(&frame(9, 0, 1, &fields)).await?;
            }
            // And of the next frame, all but its end.
            let last = frame(9, 0, 1, &fields);
            tls.write_all(&last[..last.len() - 1]).await?;
            tls.flush().await?;
            Ok(Box::new(tls))
        }
        Kind::Unread | Kind::Stalled => {
            let mut tls = try_https(site, b"h2").await?;
            let most = 0x7fff_ffff_u32;
            let opening = match kind {
                Kind::Unread => {
                    [window(most), frame(8, 0, 0, &(most - 65_535).to_be_bytes()), requests].concat()
                }
                _ => [window(0), requests].concat(),
            };
            tls.write_all(&head(&opening)).await?;
            tls.flush().await?;
            Ok(Box::new(tls))
        }
        Kind::Stalled3 => {
            let mut config = crate::http3_client::config(tls(site, &[b"h3"]));
            let mut transport = quinn::TransportConfig::default();
            transport
                .stream_receive_window(1_000_u32.into())
                .keep_alive_interval(Some(Duration::from_secs(1)));
            config.transport_config(std::sync::Arc::new(transport));
            let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap())?;
            let conn =
                endpoint.connect_with(config, site.https, HOST).map_err(std::io::Error::other)?.await?;
            let (driver, mut requests) = h3::client::new(h3_quinn::Connection::new(conn.clone()))
                .await
                .map_err(std::io::Error::other)?;
            let mut streams = Vec::new();
            for _ in 0..100 {
                let request = http::Request::get(format!("https://{HOST}/big/400000")).body(()).unwrap();
                streams.push(requests.send_request(request).await.map_err(std::io::Error::other)?);
            }
            Ok(Box::new((endpoint, conn, driver, requests, streams)))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_stays_within_its_budget_whatever_clients_do() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let site = std::sync::Arc::new(Site::new().await);
    let edge = site.start(&budget(&[("HOSTING_EDGE_MAX_HANDSHAKES_PER_NETWORK", "100000")])).await;
    let mut tcp = TcpStream::connect(site.http).await.unwrap();
    ask_http1(&mut tcp, "/x").await.unwrap();
    let (_, before) = memory(&edge);
    let limit = site.metric("hosting_edge_memory_limit_bytes");
    let most = |kind| match kind {
        Kind::Stalled3 => 100,
        Kind::Unread | Kind::Stalled => 200,
        Kind::FloodOfFields => 600,
        Kind::SlowHead | Kind::HalfHandshake => 1_100,
    };
    for kind in [
        Kind::SlowHead,
        Kind::HalfHandshake,
        Kind::FloodOfFields,
        Kind::Unread,
        Kind::Stalled,
        Kind::Stalled3,
    ] {
        let (mut attackers, mut held) = (JoinSet::new(), Vec::new());
        let begun = Instant::now();
        for n in 0..most(kind) {
            let site = std::sync::Arc::clone(&site);
            attackers.spawn(async move {
                // Refused, or cut: as it should be.
                tokio::time::timeout(Duration::from_secs(5), attack(&site, kind)).await
            });
            if n % 50 == 49 {
                while attackers.len() > 50 {
                    held.extend(attackers.join_next().await.unwrap().ok());
                }
            }
        }
        while let Some(attacker) = attackers.join_next().await {
            held.extend(attacker.ok());
        }
        // What is held is counted, whatever it is.
        let least = if matches!(kind, Kind::FloodOfFields | Kind::Stalled3) { 40 } else { 50 };
        let mut counted = site.metric("hosting_edge_memory_held_bytes");
        while counted < least * MIB as u64 {
            assert!(begun.elapsed() < Duration::from_secs(30), "{kind:?}: {} MiB", counted / MIB as u64);
            tokio::time::sleep(Duration::from_millis(20)).await;
            counted = site.metric("hosting_edge_memory_held_bytes");
        }
        let (peak, now) = memory(&edge);
        println!(
            "{kind:?}: {} ms, counted {} of {} MiB, resident {} MiB, at most {} MiB, refused {}, {} and closed {}, {}",
            begun.elapsed().as_millis(),
            counted / MIB as u64,
            limit / MIB as u64,
            now / MIB,
            peak / MIB,
            site.metric("hosting_edge_memory_connections_refused_total"),
            site.metric("hosting_edge_memory_requests_refused_total"),
            site.metric("hosting_edge_memory_idle_closed_total"),
            site.metric("hosting_edge_memory_connections_cut_total"),
        );
        assert!(peak <= BUDGET, "{kind:?}: {} MiB", peak / MIB);
        assert!(counted <= limit, "{kind:?}");
        drop(held);
        settles(&site).await;
        println!("    afterwards resident {} MiB", memory(&edge).1 / MIB);
        // Whoever comes now is served.
        let mut tcp = TcpStream::connect(site.http).await.unwrap();
        ask_http1(&mut tcp, "/x").await.unwrap();
    }
    println!("resident before: {} MiB", before / MIB);
    for refused in ["connections_refused", "requests_refused", "idle_closed"] {
        assert!(site.metric(&format!("hosting_edge_memory_{refused}_total")) > 0, "{refused}");
    }
}

/// Waits until nothing is held any more.
async fn settles(site: &Site) {
    let limit = Instant::now() + Duration::from_secs(30);
    while site.metric("hosting_edge_memory_held_bytes") > 64 * 1024 {
        assert!(Instant::now() < limit, "{:#}", site.admin_json("/connections?limit=3"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_has_its_share_of_handshakes_and_others_theirs() {
    let site = Site::new().await;
    let _edge = site.start(&[("HOSTING_EDGE_MAX_HANDSHAKES_PER_NETWORK", "3")]).await;
    asked_itself(&site).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(TcpStream::connect(site.https).await.unwrap());
    }
    let begun = Instant::now();
    while site.metric("hosting_edge_open_connections{protocol=\"handshake\"}") < 3 {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = site.metric("hosting_edge_handshakes_over_share_total");
    let mut fourth = TcpStream::connect(site.https).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), fourth.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "closed at once");
    assert_eq!(site.metric("hosting_edge_handshakes_over_share_total"), before + 1);
    // Connections without TLS are none of this, and a place is given back.
    ask_http1(&mut TcpStream::connect(site.http).await.unwrap(), "/x").await.unwrap();
    waiting.clear();
    while site.metric("hosting_edge_open_connections{protocol=\"handshake\"}") > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let held = [https(&site, b"http/1.1").await, https(&site, b"h2").await];
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_of_every_version_leave_by_themselves_when_others_find_no_room() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let site = Site::new().await;
    let settings = [
        ("HOSTING_EDGE_MEMORY_BYTES", "134217728"),
        ("HOSTING_EDGE_MAX_CONNECTIONS", "300"),
        ("HOSTING_EDGE_H2_MAX_STREAMS", "8"),
        ("HOSTING_EDGE_MAX_HANDSHAKES_PER_NETWORK", "100000"),
    ];
    let edge = site.start(&budget(&settings)).await;
    asked_itself(&site).await;
    let mut http1 = TcpStream::connect(site.http).await.unwrap();
    ask_http1(&mut http1, "/x").await.unwrap();
    let (mut http2, driver) = h2::client::handshake(https(&site, b"h2").await).await.unwrap();
    let driver = tokio::spawn(driver);
    let request = http::Request::get(format!("https://{HOST}/x")).body(()).unwrap();
    let answer = http2.send_request(request, true).unwrap().0.await.unwrap();
    assert_eq!(answer.status(), 200);
    drop(answer);
    let mut http3 = browser(&site).await;
    assert_eq!(http3.get(&format!("https://{HOST}/x")).await.head.status(), 200);

    // What a handshake may take is known when it begins, so no request finds too little.
    let mut others = Vec::new();
    while site.metric("hosting_edge_memory_connections_refused_total") == 0 {
        assert!(others.len() < 300, "{:#}", site.admin_json("/connections?limit=3"));
        for _ in 0..10 {
            others.push(TcpStream::connect(site.https).await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ended = async {
        let read = http1.read(&mut [0; 1]).await;
        assert!(matches!(read, Ok(0)), "{read:?}");
        // It may want to say a last word that nobody reads any more.
        let _ = driver.await.unwrap();
        http3.driver.await.unwrap()
    };
    let ended = tokio::time::timeout(Duration::from_secs(20), ended).await.expect("each leaves");
    assert!(ended.is_h3_no_error(), "{ended}");
    assert!(site.metric("hosting_edge_memory_idle_closed_total") >= 3, "{}", edge.said());
    assert_eq!(site.metric("hosting_edge_memory_connections_cut_total"), 0, "nobody has to be cut for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_holds_is_counted_for_its_connection() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    const KIB: u64 = 1024;
    let site = Site::new().await;
    let _edge = site.start(&[]).await;
    asked_itself(&site).await;
    let counted = async |protocol: &str, tls: bool, least: u64| {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let listed = site.admin_json(&format!("/connections?protocol={protocol}"));
            let all = listed["connections"].as_array().unwrap().iter();
            let held = all.filter(|one| one["tls"].is_string() == tls).map(|one| one["held_bytes"].as_u64());
            let held = held.max().flatten().unwrap_or_default();
            if held >= least {
                println!("{protocol} {tls}: {} KiB, at least {}", held / KIB, least / KIB);
                return;
            }
            assert!(Instant::now() < limit, "{protocol} {tls}: {} of {} KiB", held / KIB, least / KIB);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // A connection, and what is read of and written to a node.
    let mut http1 = TcpStream::connect(site.http).await.unwrap();
    http1.write_all(format!("GET /slow/60000 HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    counted("http1", false, (16 + 8 + 4) * KIB).await;
    // What TLS holds for a client that does not read.
    let mut unread = https(&site, b"http/1.1").await;
    unread.write_all(format!("GET /big/20000000 HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    unread.flush().await.unwrap();
    counted("http1", true, (36 + 8 + 32 + 96) * KIB).await;
    // The fields of a request, in the three forms that they have on their way.
    let (mut http2, driver) = h2::client::handshake(https(&site, b"h2").await).await.unwrap();
    let driver = tokio::spawn(driver);
    let request =
        http::Request::get(format!("https://{HOST}/slow/60000")).header("x-field", "x".repeat(40_000));
    let answer = http2.send_request(request.body(()).unwrap(), true).unwrap();
    counted("http2", true, (36 + 96 + 2 + 16 + 8 + 3 * 39) * KIB).await;
    drop((http1, unread, answer, http2));
    driver.abort();
}

#[test]
fn settings_that_promise_more_than_there_is_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let check = |memory: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_hosting-edge"))
            .args(["--check-config", "--http-listen", "127.0.0.1:0", "--https-listen", "127.0.0.1:0"])
            .args(["--admin-listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path().join("edge"))
            .envs(budget(&[]))
            .env("HOSTING_EDGE_MEMORY_BYTES", memory)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (ok, said) = check("134217728");
    assert!(
        !ok && said.contains("memory_bytes: 128 MiB is less than") && said.contains("max_connections"),
        "{said}"
    );
    let needed = said.split("set it to ").nth(1).unwrap().split(' ').next().unwrap();
    let (ok, said) = check(needed);
    assert!(ok, "{said}");
}
