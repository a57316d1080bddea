//! An edge fed by hand, and nodes that say what they saw.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hosting_edge::{
    AccessLog, Bound, CertStore, DevCa, EdgeReplica, EdgeSelfCheck, LogWriter, Metrics, NodeKeys, Server,
    Settings, TrafficBook,
};
use hosting_edge_map::Routing;
use hosting_intent::message::{Brand, BrandPage, HttpPolicy, PoolNode, Route, ShardPool, State, TenantState};
use hosting_intent::{Audience, Cause, EdgeIntent, Item, Key, Kind, Removal};
use hosting_intent_sync::client::{AudienceKeys, KeysWatch};
use hosting_intent_sync::sealing::SealingKey;
use hosting_intent_sync::{Batch, Replica};
use hosting_scaffold::admin;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A node: answers with the request's head as text, and with its own name in `x-served-by`.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    pub(crate) async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, name)
    }

    pub(crate) fn on(listener: TcpListener, name: &'static str) -> Self {
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(name, Arc::clone(&count), request));
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // The edge closes connections as it likes.
                    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, requests, task }
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn answer(
    name: &'static str,
    count: Arc<AtomicUsize>,
    mut request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    count.fetch_add(1, Ordering::SeqCst);
    let response = Response::builder().header("x-served-by", name).header("x-shard", "what the node thinks");
    let path = request.uri().path().to_owned();
    if path == "/upgrade" {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut buffer = [0; 64];
            loop {
                match io.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => io.write_all(&buffer[..n].to_ascii_uppercase()).await.unwrap(),
                }
            }
        });
        let switching = response.status(101).header("connection", "upgrade").header("upgrade", "websocket");
        return Ok(switching.body(Full::default()).unwrap());
    }
    if let Some(bytes) = path.strip_prefix("/big/") {
        let body = vec![b'x'; bytes.parse().unwrap()];
        return Ok(response.body(Full::new(body.into())).unwrap());
    }
    if let Some(millis) = path.strip_prefix("/slow/") {
        tokio::time::sleep(Duration::from_millis(millis.parse().unwrap())).await;
    }
    let mut seen = format!("{} {}\n", request.method(), request.uri());
    for (field, value) in request.headers() {
        seen += &format!("{field}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    let body =
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    if path == "/echo" {
        return Ok(response.body(Full::new(body)).unwrap());
    }
    Ok(response.body(Full::new(Bytes::from(seen))).unwrap())
}

/// Tells of a host.
pub(crate) type Look = Box<dyn Fn(&str) -> Option<serde_json::Value> + Send + Sync>;

pub(crate) struct Edge {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    /// For HTTP/3, unless it is off.
    pub(crate) http3: Option<SocketAddr>,
    pub(crate) http6: SocketAddr,
    pub(crate) ca: String,
    pub(crate) registry: admin::Metrics,
    pub(crate) stop: CancellationToken,
    pub(crate) done: JoinHandle<()>,
    /// What it tells of a host.
    pub(crate) look: Look,
    /// What was passed on for each tenant.
    pub(crate) traffic: Arc<TrafficBook>,
    /// What asks its listeners for what its replica applied.
    pub(crate) check: Arc<EdgeSelfCheck>,
    replica: Option<KeysWatch<EdgeReplica>>,
    /// The key pair that its audience's keys are sealed to.
    pub(crate) pair: SealingKey,
    revision: u64,
    log_writer: Option<LogWriter>,
    dir: TempDir,
}

pub(crate) fn settings() -> Settings {
    Settings {
        http_listen: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
        https_listen: vec!["127.0.0.1:0".parse().unwrap()],
        connect_timeout_ms: 300,
        // Nodes count what they are asked.
        node_check_interval_ms: 0,
        ..Settings::default()
    }
}

impl Edge {
    pub(crate) async fn start() -> Self {
        Self::with(settings()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let mut edge = Self::unloaded(settings);
        assert!(TcpStream::connect(edge.http).await.is_err(), "nothing is served before the first batch");
        edge.publish(Vec::new(), Vec::new());
        edge.open().await;
        edge
    }

    /// Knows nothing yet, and is closed.
    pub(crate) fn unloaded(mut settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        settings.shared.data_dir = dir.path().to_owned();
        let registry = admin::Metrics::new();
        let metrics = Metrics::new(&registry);
        let (routing, writer) = Routing::new(settings.map_buckets);
        let writer = writer.with_balance(settings.balance());
        let ca = DevCa::load_or_make(&settings.dev_ca(), &settings.dev_ca_key()).unwrap();
        let certs =
            CertStore::new(ca, Arc::clone(&routing), settings.certificate_cache, metrics.clone()).unwrap();
        let (log, log_writer) = AccessLog::open(settings.access_log().as_ref(), &metrics).unwrap();
        let server = Server::new(
            &settings,
            routing,
            Arc::clone(&certs),
            Arc::new(NodeKeys::default()),
            metrics.clone(),
            log,
        )
        .unwrap();
        let keys = AudienceKeys::load(dir.path()).unwrap();
        let pair = SealingKey::load_or_create(&dir.path().join("sealing.key")).unwrap();
        let (replica, mut loaded) = EdgeReplica::new(writer, certs, keys.clone(), metrics);
        let bound = Bound::bind(&settings).unwrap();
        let look = Box::new(server.look());
        let traffic = server.traffic();
        let check = Arc::new(server.self_check((bound.http(), bound.https()), &replica).unwrap());
        let replica = KeysWatch::new(replica, Some(keys), &audience());
        let (http, https, http3) = (bound.http(), bound.https(), bound.http3());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let done = tokio::spawn(async move {
            if loaded.wait_for(|loaded| *loaded).await.is_ok() {
                server.run(bound.open().unwrap(), stopped).await;
            }
        });
        Self {
            http: http[0],
            http6: http[1],
            https: https[0],
            http3: http3.first().copied(),
            ca: std::fs::read_to_string(settings.dev_ca()).unwrap(),
            registry,
            stop,
            done,
            look,
            traffic,
            check,
            replica: Some(replica),
            pair,
            revision: 0,
            log_writer,
            dir,
        }
    }

    /// Waits until the access log has a line of each of so many requests, and ends it; its lines. Clients have their answers
    /// before the lines are written.
    pub(crate) async fn logged(&mut self, requests: usize) -> Vec<serde_json::Value> {
        let path = self.dir.path().join("access.log");
        let written = || std::fs::read_to_string(&path).unwrap();
        for _ in 0..1_000 {
            if written().lines().count() >= requests {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(self.log_writer.take());
        let lines: Vec<_> = written().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), requests, "{lines:?}");
        lines
    }

    /// Waits until it takes connections.
    pub(crate) async fn open(&self) {
        while TcpStream::connect(self.http).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// For a subscriber, which then is the one that publishes.
    pub(crate) fn take_replica(&mut self) -> KeysWatch<EdgeReplica> {
        self.replica.take().unwrap()
    }

    pub(crate) fn publish(&mut self, upserts: Vec<(Item, EdgeIntent)>, removals: Vec<Removal>) {
        let replica = self.replica.as_mut().unwrap();
        for (item, intent) in &upserts {
            replica.check(&item.key, intent).unwrap();
        }
        self.revision += 1;
        replica.publish(Batch { epoch: "e".into(), revision: self.revision, upserts, removals, more: false });
    }

    /// Why it would not apply an intent.
    pub(crate) fn refusal(&self, (item, intent): &(Item, EdgeIntent)) -> Option<String> {
        self.replica.as_ref().unwrap().check(&item.key, intent).err().map(|rejection| rejection.to_string())
    }

    pub(crate) fn metric(&self, line: &str) -> u64 {
        let text = self.registry.encode();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {line} in:\n{text}")).parse().unwrap()
    }

    pub(crate) fn url(&self, host: &str, path: &str) -> String {
        format!("http://{host}:{}{path}", self.http.port())
    }

    pub(crate) fn tls_url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.https.port())
    }

    /// A client that finds every host here and trusts the development authority.
    pub(crate) fn client(&self, hosts: &[&str]) -> reqwest::Client {
        self.client_with(hosts, |builder| builder)
    }

    pub(crate) fn client_with(
        &self,
        hosts: &[&str],
        with: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    ) -> reqwest::Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ca = reqwest::Certificate::from_pem(self.ca.as_bytes()).unwrap();
        let mut builder = reqwest::Client::builder().tls_certs_only([ca]).no_proxy();
        for host in hosts {
            builder = builder.resolve(host, self.http);
        }
        with(builder).build().unwrap()
    }

    /// Sends bytes over a connection of its own and reads until the edge closes it or two seconds pass.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        read_all(&mut stream).await
    }
}

/// Sends bytes and takes what comes until nothing does for a while; the connection may stay open.
pub(crate) async fn ask(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The edge may refuse before it has taken everything.
    let _ = stream.write_all(bytes).await;
    let (mut all, mut wait) = (Vec::new(), Duration::from_secs(5));
    while let Ok(Ok(1..)) = tokio::time::timeout(wait, stream.read_buf(&mut all)).await {
        wait = Duration::from_millis(100);
    }
    String::from_utf8_lossy(&all).into_owned()
}

pub(crate) async fn read_all(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut all = Vec::new();
    // Cut off or timed out: what came until then is the answer.
    let _ = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut all)).await;
    String::from_utf8_lossy(&all).into_owned()
}

/// What it subscribes to.
pub(crate) fn audience() -> Audience {
    "edge/c1".parse().unwrap()
}

pub(crate) fn upsert(kind: Kind, name: &str, intent: EdgeIntent) -> (Item, EdgeIntent) {
    let key = Key::new(kind, name);
    let item = Item {
        key,
        revision: 1,
        value: Bytes::new(),
        cause: Cause::Person,
        traceparent: String::new(),
        rollout: 0,
    };
    (item, intent)
}

pub(crate) fn route(fqdn: &str, tenant: &str, webroot: &str, shard: &str) -> (Item, EdgeIntent) {
    let route = Route {
        tenant_id: tenant.into(),
        webroot_id: webroot.into(),
        shard_id: shard.into(),
        may_upgrade: true,
        http: None,
    };
    upsert(Kind::Route, fqdn, EdgeIntent::Route(route))
}

pub(crate) fn tenant(id: &str, state: State) -> (Item, EdgeIntent) {
    upsert(
        Kind::TenantState,
        id,
        EdgeIntent::TenantState(TenantState {
            state: state as i32,
            reason: "unpaid".into(),
            ..TenantState::default()
        }),
    )
}

/// The same route, or tenant, with a policy.
pub(crate) fn with_policy((item, intent): (Item, EdgeIntent), policy: HttpPolicy) -> (Item, EdgeIntent) {
    let http = Some(policy);
    let intent = match intent {
        EdgeIntent::Route(route) => EdgeIntent::Route(Route { http: http.map(Box::new), ..route }),
        EdgeIntent::TenantState(state) => {
            EdgeIntent::TenantState(TenantState { http: http.map(Box::new), ..state })
        }
        other => panic!("{other:?} has no policy"),
    };
    (item, intent)
}

/// The same tenant, of the brand `acme`.
pub(crate) fn of_acme((item, intent): (Item, EdgeIntent)) -> (Item, EdgeIntent) {
    match intent {
        EdgeIntent::TenantState(state) => {
            (item, EdgeIntent::TenantState(TenantState { brand_id: "acme".into(), ..state }))
        }
        other => panic!("{other:?} has no brand"),
    }
}

/// The brand, with these pages.
pub(crate) fn acme(pages: &[(&str, &str)], brand: Brand) -> (Item, EdgeIntent) {
    let page = |(word, html): &(&str, &str)| BrandPage { word: (*word).into(), html: (*html).into() };
    let pages = pages.iter().map(page).collect();
    upsert(Kind::Brand, "acme", EdgeIntent::Brand(Brand { pages, ..brand }))
}

pub(crate) fn pool(id: &str, nodes: &[(&str, SocketAddr, bool)]) -> (Item, EdgeIntent) {
    let nodes = nodes
        .iter()
        .map(|(id, address, in_service)| PoolNode {
            node_id: (*id).into(),
            addresses: vec![address.to_string()],
            in_service: *in_service,
        })
        .collect();
    upsert(Kind::ShardPool, id, EdgeIntent::ShardPool(ShardPool { name: format!("{id}-name"), nodes }))
}

pub(crate) fn gone(fqdn: &str) -> Removal {
    Removal { key: Key::new(Kind::Route, fqdn), cause: Cause::Person, traceparent: String::new(), rollout: 0 }
}

/// An edge with one site at one node.
pub(crate) async fn one_site() -> (Edge, Node) {
    let node = Node::start("node-1").await;
    let mut edge = Edge::start().await;
    edge.publish(
        vec![
            tenant("t_a", State::Active),
            pool("s1", &[("n1", node.address, true)]),
            route("www.example.com", "t_a", "web_ab12cd34ef", "s1"),
        ],
        Vec::new(),
    );
    (edge, node)
}
