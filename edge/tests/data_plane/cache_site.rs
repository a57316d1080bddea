//! A node that writes down what it is asked, and an edge with a cache before it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hosting_edge::Settings;
use hosting_intent::message::{CachePolicy, HttpPolicy, State};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Edge, pool, route, tenant, with_policy};

pub(crate) const HOST: &str = "www.example.com";

/// A node with the heads of the requests that it got.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

/// What it says: bytes, after a while.
pub(crate) struct Says {
    pub(crate) bytes: Vec<u8>,
    pub(crate) after: Duration,
}

/// A response with these field lines and this body.
pub(crate) fn says(status: u16, fields: &str, body: &str) -> Says {
    let fields: String =
        fields.split('|').filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect();
    let length = if matches!(status, 204 | 304) {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    let text = format!("HTTP/1.1 {status} Well\r\n{fields}{length}connection: close\r\n\r\n{body}");
    Says { bytes: text.into_bytes(), after: Duration::ZERO }
}

impl Says {
    pub(crate) fn after(self, millis: u64) -> Self {
        Self { after: Duration::from_millis(millis), ..self }
    }
}

impl Site {
    pub(crate) async fn start(answer: impl Fn(&str) -> Says + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (written, answer) = (Arc::clone(&heads), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (written, answer) = (Arc::clone(&written), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let head = String::from_utf8(head).unwrap();
                    written.lock().unwrap().push(head.clone());
                    let says = answer(&head);
                    tokio::time::sleep(says.after).await;
                    // The edge may be gone.
                    let _ = stream.write_all(&says.bytes).await;
                    let _ = stream.shutdown().await;
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                });
            }
        });
        Self { address, heads }
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.heads.lock().unwrap().len()
    }
}

pub(crate) fn cache() -> CachePolicy {
    CachePolicy {
        enabled: true,
        max_ttl_seconds: 86_400,
        bypass_cookies: vec!["wordpress_logged_in_*".into()],
        ignored_query: vec!["utm_*".into()],
        max_object_bytes: 1_000_000,
        ..CachePolicy::default()
    }
}

pub(crate) async fn edge_of(site: &Site, cache: CachePolicy, settings: Settings) -> Edge {
    let mut edge = Edge::with(settings).await;
    let policy = HttpPolicy { cache: Some(cache), ..HttpPolicy::default() };
    edge.publish(
        vec![
            tenant("t_a", State::Active),
            pool("s1", &[("n1", site.address, true)]),
            with_policy(route(HOST, "t_a", "web_a", "s1"), policy),
        ],
        Vec::new(),
    );
    edge
}

/// What a client got.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) status: u16,
    fields: HashMap<String, String>,
    pub(crate) body: String,
}

impl Got {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// Whether no node was asked, by the edge's word.
    pub(crate) fn is_hit(&self) -> bool {
        self.field("cache-status").starts_with("edge; hit")
    }
}

pub(crate) fn read(text: &str) -> Got {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let fields =
        lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.to_lowercase(), v.to_owned()));
    Got { status, fields: fields.collect(), body: body.to_owned() }
}

/// Asks over a connection of its own. `fields`: lines with `|` between them.
pub(crate) async fn ask(edge: &Edge, method: &str, path: &str, fields: &str) -> Got {
    ask_at(edge.http, method, path, fields).await
}

pub(crate) async fn ask_at(http: SocketAddr, method: &str, path: &str, fields: &str) -> Got {
    let fields: String =
        fields.split('|').filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect();
    let mut stream = TcpStream::connect(http).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    // Cut off: what came until then is the answer.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut all)).await.unwrap();
    read(&String::from_utf8_lossy(&all))
}

pub(crate) async fn get(edge: &Edge, path: &str) -> Got {
    ask(edge, "GET", path, "").await
}
