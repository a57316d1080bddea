//! Clients that go on asking, each over connections that it keeps for as long as it may, and count what fails.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Buf;
use http::Request;
use quinn::Endpoint;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::http3_client;
use crate::processes::{HOST, Site};
use crate::tls::trusting;

const PATIENCE: Duration = Duration::from_secs(10);

/// What came of requests, by version of HTTP.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) answered: BTreeMap<&'static str, usize>,
    /// Connections that were begun.
    pub(crate) connections: BTreeMap<&'static str, usize>,
    pub(crate) failed: Vec<String>,
}

/// Clients of all versions.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    clients: JoinSet<()>,
}

#[derive(Clone)]
struct Asker {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    /// Every so many requests, one takes long.
    slow_every: usize,
}

impl Asker {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    fn path(&self, count: usize) -> &'static str {
        if count.is_multiple_of(self.slow_every) { "/slow/300" } else { "/x" }
    }

    fn connected(&self, version: &'static str) {
        *self.tally.lock().unwrap().connections.entry(version).or_default() += 1;
    }

    fn count(&self, version: &'static str, outcome: Result<(), String>) {
        let mut tally = self.tally.lock().unwrap();
        match outcome {
            Ok(()) => *tally.answered.entry(version).or_default() += 1,
            Err(error) => tally.failed.push(format!("{version}: {error}")),
        }
    }
}

pub(crate) fn tls(site: &Site, alpn: &[&[u8]]) -> ClientConfig {
    trusting(&site.ca(), alpn)
}

impl Load {
    /// `clients` of each version.
    pub(crate) fn start(site: &Site, clients: usize) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (stop, tally) = (Arc::default(), Arc::default());
        let mut load = Self { stop, tally, clients: JoinSet::new() };
        for n in 0..clients {
            let asker =
                Asker { stop: Arc::clone(&load.stop), tally: Arc::clone(&load.tally), slow_every: 20 + n };
            load.clients.spawn(http1(asker.clone(), site.http));
            load.clients.spawn(http2(asker.clone(), site.https, site.ca()));
            load.clients.spawn(http3(asker, site.https, tls(site, &[b"h3"])));
        }
        load
    }

    pub(crate) fn so_far(&self) -> Tally {
        self.tally.lock().unwrap().clone()
    }

    /// Waits until each version got so many answers more.
    pub(crate) async fn more(&self, answers: usize) {
        let before = self.so_far().answered;
        let done = |now: &Tally| {
            ["h1", "h2", "h3"].iter().all(|version| {
                let of = |all: &BTreeMap<_, usize>| all.get(version).copied().unwrap_or_default();
                of(&now.answered) >= of(&before) + answers
            })
        };
        let waited = tokio::time::timeout(PATIENCE, async {
            while !done(&self.so_far()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(waited.await.is_ok(), "{:?}", self.so_far());
    }

    pub(crate) async fn end(mut self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        self.so_far()
    }
}

async fn http1(asker: Asker, address: SocketAddr) {
    let mut count = 0;
    while asker.goes_on() {
        let mut stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) => {
                asker.count("h1", Err(format!("connecting: {error}")));
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        asker.connected("h1");
        while asker.goes_on() {
            count += 1;
            let asked = tokio::time::timeout(PATIENCE, ask_http1(&mut stream, asker.path(count))).await;
            match asked.unwrap_or_else(|_| Err("no answer".into())) {
                Ok(keeps) => {
                    asker.count("h1", Ok(()));
                    if !keeps {
                        break;
                    }
                }
                Err(error) => {
                    asker.count("h1", Err(error));
                    break;
                }
            }
        }
    }
}

/// A client of HTTP/3 that is connected to a process.
pub(crate) async fn browser(site: &Site) -> http3_client::Browser {
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = http3_client::config(tls(site, &[b"h3"]));
    let conn = endpoint.connect_with(config, site.https, HOST).unwrap().await.unwrap();
    http3_client::Browser::over(endpoint, conn).await
}

/// Whether the connection is kept.
pub(crate) async fn ask_http1(stream: &mut TcpStream, path: &str) -> Result<bool, String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| format!("sending: {error}"))?;
    let mut all = Vec::new();
    loop {
        let read = stream.read_buf(&mut all).await.map_err(|error| format!("reading: {error}"))?;
        if read == 0 {
            return Err(format!("closed after {} bytes of the answer", all.len()));
        }
        let text = String::from_utf8_lossy(&all).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        if !head.starts_with("http/1.1 200") {
            return Err(head.to_owned());
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.ok_or("no length")?.trim().parse().map_err(|_| "no length")?;
        if body.len() >= length {
            return Ok(!head.contains("connection: close"));
        }
    }
}

async fn http2(asker: Asker, address: SocketAddr, ca: String) {
    let ca = reqwest::Certificate::from_pem(ca.as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([ca])
        .no_proxy()
        .resolve(HOST, address)
        .timeout(PATIENCE)
        .build()
        .unwrap();
    let mut count = 0;
    while asker.goes_on() {
        count += 1;
        let url = format!("https://{HOST}:{}{}", address.port(), asker.path(count));
        let outcome = async {
            let answer = client.get(url).send().await?;
            assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
            answer.bytes().await.map(drop)
        };
        let outcome: Result<(), reqwest::Error> = outcome.await;
        asker.count("h2", outcome.map_err(|error| format!("{error:?}")));
    }
}

async fn http3(asker: Asker, address: SocketAddr, tls: ClientConfig) {
    let config = http3_client::config(tls);
    let mut count = 0;
    while asker.goes_on() {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let conn = match endpoint.connect_with(config.clone(), address, HOST).unwrap().await {
            Ok(conn) => conn,
            Err(error) => {
                asker.count("h3", Err(format!("connecting: {error}")));
                continue;
            }
        };
        asker.connected("h3");
        let (mut driver, mut requests) =
            h3::client::new(h3_quinn::Connection::new(conn.clone())).await.unwrap();
        let driver = tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
        while asker.goes_on() {
            count += 1;
            let url = format!("https://{HOST}:{}{}", address.port(), asker.path(count));
            let mut stream = match requests.send_request(Request::get(url).body(()).unwrap()).await {
                Ok(stream) => stream,
                // Nothing was sent, because the edge said that the connection ends.
                Err(_) if conn.close_reason().is_none_or(is_gentle) => break,
                Err(error) => {
                    asker.count("h3", Err(format!("asking: {error}")));
                    break;
                }
            };
            let answer = async {
                stream.finish().await.map_err(|error| format!("asking: {error}"))?;
                let head = stream.recv_response().await.map_err(|error| format!("head: {error}"))?;
                while let Some(mut data) =
                    stream.recv_data().await.map_err(|error| format!("body: {error}"))?
                {
                    data.advance(data.remaining());
                }
                if head.status() == 200 { Ok(()) } else { Err(head.status().to_string()) }
            };
            let answer = tokio::time::timeout(PATIENCE, answer).await;
            let answer = answer.unwrap_or_else(|_| Err("no answer".into()));
            let failed = answer.is_err();
            asker.count("h3", answer);
            if failed {
                break;
            }
        }
        drop(requests);
        driver.abort();
        conn.close(0x100_u32.into(), b"");
        endpoint.wait_idle().await;
    }
}

fn is_gentle(error: quinn::ConnectionError) -> bool {
    matches!(error, quinn::ConnectionError::ApplicationClosed(close) if close.error_code == 0x100_u32.into())
}
