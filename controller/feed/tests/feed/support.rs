//! A whole feed over real TLS on loopback, with a store, a registry and a fleet's worth of subscribers in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hosting_feed::fleet::Fleet;
use hosting_feed::metrics::FeedMetrics;
use hosting_feed::pki::Authorities;
use hosting_feed::registry::{
    HeadDoorbell, JoinTokens, Keys, NodeRecord, Nodes, RegistryError, Reported, StatusSink, TokenUse,
    Watermark,
};
use hosting_feed::{FeedConfig, FeedDeps, FeedHandle, FeedServer};
use hosting_intent::edge_key::ClusterEdgeKey;
use hosting_intent::{
    Audience, Bytes, Cause, Digest, Intent, Item, Key, Kind, Rejection, Removal, Role, message,
};
use hosting_intent_sync::client::{
    Client, ClientMetrics, EdgeKeyStore, Lending, Options, Reporter, ReporterTask,
};
use hosting_intent_sync::identity::{Enrolment, Identity, IdentityError, TokenSource, unix_now};
use hosting_intent_sync::subscriber::{Brake, Config, Status, Strict, Subscriber};
use hosting_intent_sync::tls::Enrolled;
use hosting_intent_sync::{AudienceHead, Batch, FeedSource, LogEntry, Replica, SourceError, Window};
use hosting_ledger::Ledger;
use hosting_proto::feed::{ReportRequest, TrafficReport};
use prometheus_client::registry::Registry;
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

pub const EDGE: &str = "edge/c1";

pub fn audience_of(audience: &str) -> Audience {
    audience.parse().unwrap()
}

#[derive(Clone, Default)]
struct Log {
    items: BTreeMap<Key, Item>,
    digest: Digest,
    log: Vec<LogEntry>,
    revision: u64,
    floor: u64,
}

#[derive(Clone)]
pub struct Rows {
    epoch: String,
    head: u64,
    audiences: BTreeMap<Audience, Log>,
    windows: u64,
    failing: bool,
    epochs_fail: bool,
}

/// A store: log, current rows, doorbell.
pub struct Store {
    rows: Mutex<Rows>,
    pub head: watch::Sender<u64>,
}

impl Store {
    pub fn new() -> Arc<Self> {
        let rows = Rows {
            epoch: "epoch-1".into(),
            head: 0,
            audiences: BTreeMap::new(),
            windows: 0,
            failing: false,
            epochs_fail: false,
        };
        Arc::new(Self { rows: Mutex::new(rows), head: watch::Sender::new(0) })
    }

    /// One revision of one audience; answers it.
    pub fn commit(&self, audience: &str, upserts: Vec<(Key, Bytes)>, removals: Vec<Key>) -> u64 {
        let mut rows = self.rows.lock().unwrap();
        rows.head += 1;
        let revision = rows.head;
        let entry = rows.audiences.entry(audience_of(audience)).or_default();
        let upserts: Vec<Item> = upserts
            .into_iter()
            .map(|(key, value)| Item {
                key,
                revision,
                value,
                cause: Cause::Person,
                traceparent: String::new(),
                rollout: 0,
            })
            .collect();
        let removals: Vec<Removal> = removals
            .into_iter()
            .map(|key| Removal { key, cause: Cause::Person, traceparent: String::new(), rollout: 0 })
            .collect();
        for removal in &removals {
            if let Some(before) = entry.items.remove(&removal.key) {
                entry.digest.remove(&before.key, &before.value);
            }
        }
        for item in &upserts {
            entry.digest.add(&item.key, &item.value);
            if let Some(before) = entry.items.insert(item.key.clone(), item.clone()) {
                entry.digest.remove(&before.key, &before.value);
            }
        }
        entry.log.push(LogEntry { prev: entry.revision, revision, upserts, removals });
        entry.revision = revision;
        drop(rows);
        self.head.send_replace(revision);
        revision
    }

    /// What a backup holds: everything.
    pub fn copy(&self) -> Rows {
        self.rows.lock().unwrap().clone()
    }

    /// The store goes back to a copy. Nobody is told.
    pub fn put_back(&self, copy: &Rows) {
        let mut rows = self.rows.lock().unwrap();
        let windows = rows.windows;
        *rows = Rows { windows, ..copy.clone() };
    }

    pub fn route(&self, name: &str) -> u64 {
        self.commit(EDGE, vec![route(name)], vec![])
    }

    /// Forgets the log up to `revision`.
    pub fn compact(&self, audience: &str, revision: u64) {
        let mut rows = self.rows.lock().unwrap();
        let entry = rows.audiences.get_mut(&audience_of(audience)).unwrap();
        entry.log.retain(|row| row.revision > revision);
        entry.floor = revision;
    }

    /// Reads of the log so far.
    pub fn windows(&self) -> u64 {
        self.rows.lock().unwrap().windows
    }

    pub fn fail(&self, failing: bool) {
        self.rows.lock().unwrap().failing = failing;
    }

    /// No new epoch can be written.
    pub fn fail_epochs(&self, failing: bool) {
        self.rows.lock().unwrap().epochs_fail = failing;
    }

    pub fn names(&self, audience: &str) -> BTreeSet<String> {
        self.rows.lock().unwrap().audiences[&audience_of(audience)]
            .items
            .keys()
            .map(|key| key.name.clone())
            .collect()
    }
}

impl Rows {
    fn check(&self) -> Result<(), SourceError> {
        if self.failing { Err(SourceError("the disk is gone".into())) } else { Ok(()) }
    }

    fn head_of(&self, audience: &Audience) -> AudienceHead {
        let empty = Log::default();
        let rows = self.audiences.get(audience).unwrap_or(&empty);
        AudienceHead {
            epoch: self.epoch.clone(),
            head: self.head,
            revision: rows.revision,
            floor: rows.floor,
            count: rows.items.len() as u64,
            digest: rows.digest,
        }
    }
}

#[async_trait]
impl FeedSource for Store {
    async fn audience(&self, audience: &Audience) -> Result<AudienceHead, SourceError> {
        let rows = self.rows.lock().unwrap();
        rows.check()?;
        Ok(rows.head_of(audience))
    }

    async fn window(&self, audience: &Audience, after: u64, limit: usize) -> Result<Window, SourceError> {
        let mut rows = self.rows.lock().unwrap();
        rows.check()?;
        rows.windows += 1;
        let entries = rows.audiences.get(audience).map_or_else(Vec::new, |rows| {
            let from = rows.log.partition_point(|entry| entry.revision <= after);
            rows.log[from..].iter().take(limit).cloned().collect()
        });
        Ok(Window { head: rows.head_of(audience), entries })
    }

    async fn page(
        &self,
        audience: &Audience,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, SourceError> {
        let rows = self.rows.lock().unwrap();
        rows.check()?;
        Ok(rows.audiences.get(audience).map_or_else(Vec::new, |rows| {
            let after = |key: &&Key| after.is_none_or(|after| *key > after);
            rows.items
                .iter()
                .filter(|(key, _)| after(key))
                .take(limit)
                .map(|(_, item)| item.clone())
                .collect()
        }))
    }

    async fn begin_epoch(&self, seen: &str) -> Result<(), SourceError> {
        let mut rows = self.rows.lock().unwrap();
        if rows.epochs_fail {
            return Err(SourceError("the disk is full".into()));
        }
        if rows.epoch == seen {
            rows.epoch = format!("{seen}+");
        }
        Ok(())
    }
}

pub fn route(name: &str) -> (Key, Bytes) {
    padded_route(name, 10)
}

/// A route whose value is about `size` bytes larger than need be (unknown fields are kept).
pub fn padded_route(name: &str, size: usize) -> (Key, Bytes) {
    let route = message::Route {
        tenant_id: "t_abcdefghij".into(),
        webroot_id: "web_abcdefghij".into(),
        shard_id: "shard-1".into(),
        may_upgrade: false,
        http: None,
    };
    let mut value = route.encode_to_vec();
    // Field 15, length-delimited: of a newer controller.
    value.push(15 << 3 | 2);
    prost::encoding::encode_varint(size as u64, &mut value);
    value.resize(value.len() + size, b'.');
    (Key::new(Kind::Route, name), value.into())
}

/// The registry.
#[derive(Default)]
pub struct Registered {
    pub nodes: Mutex<BTreeMap<String, NodeRecord>>,
    tokens: Mutex<BTreeMap<[u8; 32], (String, i64, bool)>>,
    /// Public sealing keys, by audience and node.
    pub readers: Mutex<BTreeMap<(Audience, String), [u8; 32]>>,
    pub marks: Mutex<Vec<Watermark>>,
    pub grants: Mutex<BTreeMap<[[u8; 32]; 2], Enrolled>>,
    pub reports: Mutex<Vec<(String, ReportRequest)>>,
    /// By cluster.
    pub traffic: Mutex<Vec<(String, TrafficReport)>>,
    /// Reports are not taken in while it is held.
    pub hold_reports: tokio::sync::Mutex<()>,
}

impl Registered {
    pub fn add(&self, node: &str, roles: &[&str]) {
        self.add_at(node, roles, 0);
    }

    /// Made at that time, milliseconds since the Unix epoch.
    pub fn add_at(&self, node: &str, roles: &[&str], created_at: i64) {
        let record = NodeRecord {
            roles: roles.iter().map(|role| Role::from_name(role).unwrap()).collect(),
            cluster_id: "c1".into(),
            good_since: BTreeMap::from([(String::new(), created_at)]),
            ..NodeRecord::default()
        };
        self.nodes.lock().unwrap().insert(node.to_owned(), record);
    }

    pub fn remove(&self, node: &str) {
        self.nodes.lock().unwrap().remove(node);
    }
}

#[async_trait]
impl Nodes for Registered {
    async fn node(&self, node_id: &str) -> Result<Option<NodeRecord>, RegistryError> {
        Ok(self.nodes.lock().unwrap().get(node_id).cloned())
    }

    async fn enrol(&self, node_id: &str, role: &str) -> Result<i64, RegistryError> {
        let mut nodes = self.nodes.lock().unwrap();
        let Some(node) = nodes.get_mut(node_id) else { return Ok(0) };
        let last = node.good_since.values().max().copied().unwrap_or_default();
        let at = (unix_now() * 1000).max(last + 1);
        node.good_since.insert(role.to_owned(), at);
        Ok(at)
    }

    async fn learn(&self, node_id: &str, enrolled: &Enrolled) -> Result<(), RegistryError> {
        let mut nodes = self.nodes.lock().unwrap();
        nodes.get_mut(node_id).unwrap().good_since.insert(enrolled.role.clone(), enrolled.at);
        Ok(())
    }

    async fn reads_with(
        &self,
        node_id: &str,
        audience: &Audience,
        sealing_key: &[u8; 32],
    ) -> Result<(), RegistryError> {
        let at = (audience.clone(), node_id.to_owned());
        self.readers.lock().unwrap().insert(at, *sealing_key);
        Ok(())
    }
}

pub const KEK: [u8; 32] = [9; 32];

impl Keys for Registered {
    fn cluster_edge_key(&self, cluster_id: &str) -> ClusterEdgeKey {
        ClusterEdgeKey::derive(&KEK, cluster_id)
    }

    fn witness_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(KEK)
    }
}

#[async_trait]
impl JoinTokens for Registered {
    async fn put(&self, hash: [u8; 32], node_id: &str, expires_at: i64) -> Result<(), RegistryError> {
        self.tokens.lock().unwrap().insert(hash, (node_id.to_owned(), expires_at, false));
        Ok(())
    }

    async fn is_good(&self, hash: [u8; 32], node_id: &str, now: i64) -> Result<bool, RegistryError> {
        let tokens = self.tokens.lock().unwrap();
        Ok(tokens.get(&hash).is_some_and(|(node, end, used)| node == node_id && *end > now && !used))
    }

    async fn consume(&self, hash: [u8; 32], node_id: &str, now: i64) -> Result<TokenUse, RegistryError> {
        Ok(match self.tokens.lock().unwrap().get_mut(&hash) {
            Some((node, _, _)) if node != node_id => TokenUse::Unknown,
            Some((_, _, true)) => TokenUse::Used,
            Some((_, expires_at, _)) if *expires_at <= now => TokenUse::Expired,
            Some((_, _, used)) => {
                *used = true;
                TokenUse::Granted
            }
            None => TokenUse::Unknown,
        })
    }

    async fn grant(&self, hash: [u8; 32], key: [u8; 32], enrolled: &Enrolled) -> Result<(), RegistryError> {
        self.grants.lock().unwrap().insert([hash, key], enrolled.clone());
        Ok(())
    }

    async fn granted(
        &self,
        hash: [u8; 32],
        key: [u8; 32],
        _since: i64,
    ) -> Result<Option<Enrolled>, RegistryError> {
        Ok(self.grants.lock().unwrap().get(&[hash, key]).cloned())
    }
}

#[async_trait]
impl StatusSink for Registered {
    async fn watermarks(&self, watermarks: &[Watermark]) -> Result<(), RegistryError> {
        self.marks.lock().unwrap().extend_from_slice(watermarks);
        Ok(())
    }

    async fn report(&self, node_id: &str, report: &ReportRequest) -> Result<Reported, RegistryError> {
        drop(self.hold_reports.lock().await);
        let mut reports = self.reports.lock().unwrap();
        // As the controller: who begins with less than everything is asked for it.
        let knows = report.full || report.all_of.is_some() || reports.iter().any(|(node, _)| node == node_id);
        reports.push((node_id.to_owned(), report.clone()));
        Ok(if knows { Reported::Taken } else { Reported::WantAll })
    }

    async fn traffic(&self, cluster_id: &str, report: &TrafficReport) -> Result<(), RegistryError> {
        self.traffic.lock().unwrap().push((cluster_id.to_owned(), report.clone()));
        Ok(())
    }
}

/// A running controller's feed.
pub struct Feed {
    pub store: Arc<Store>,
    pub registry: Arc<Registered>,
    pub fleet: Fleet,
    pub handle: FeedHandle,
    pub address: SocketAddr,
    pub metrics: Registry,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
    /// Of its own, so that it can be killed with everything that it has spawned.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn config() -> FeedConfig {
    FeedConfig {
        heartbeat: Duration::from_millis(200),
        lease: Duration::from_secs(3),
        flush_every: Duration::from_millis(20),
        ..FeedConfig::new(([127, 0, 0, 1], 0).into())
    }
}

impl Feed {
    pub async fn start() -> Self {
        Self::with(Store::new(), Arc::default(), Authorities::create("cell-1", unix_now()).unwrap(), config())
            .await
    }

    pub async fn with(
        store: Arc<Store>,
        registry: Arc<Registered>,
        authorities: Authorities,
        config: FeedConfig,
    ) -> Self {
        let mut metrics = Registry::default();
        let fleet = Fleet::new(config.lease);
        let deps = FeedDeps {
            source: Arc::clone(&store) as _,
            doorbell: Box::new(HeadDoorbell(store.head.subscribe())),
            nodes: Arc::clone(&registry) as _,
            tokens: Arc::clone(&registry) as _,
            status: Arc::clone(&registry) as _,
            keys: Arc::clone(&registry) as _,
        };
        let counters = FeedMetrics::register(&mut metrics);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let server = FeedServer::bind(config, deps, authorities, fleet.clone(), counters, Vec::new());
        let server = runtime.spawn(server).await.unwrap().unwrap();
        let (handle, address, stop) = (server.handle(), server.local_addr(), CancellationToken::new());
        let stopped = stop.clone();
        let task = Some(runtime.spawn(async move { server.run(stopped).await.unwrap() }));
        Self { store, registry, fleet, handle, address, metrics, stop, task, runtime: Some(runtime) }
    }

    pub async fn stop(mut self) -> (Arc<Store>, Arc<Registered>, Authorities) {
        self.stop.cancel();
        self.task.take().unwrap().await.unwrap();
        (Arc::clone(&self.store), Arc::clone(&self.registry), self.handle.authorities())
    }

    /// Like a `kill -9`: nothing is said, every socket closes.
    pub fn kill(self) -> (Arc<Store>, Arc<Registered>, Authorities) {
        (Arc::clone(&self.store), Arc::clone(&self.registry), self.handle.authorities())
    }

    pub async fn enrolment(&self, node: &str, dir: &Path) -> Enrolment {
        let token = self.handle.mint(node, Duration::from_secs(900)).await.unwrap();
        self.enrolment_with(&token, dir)
    }

    pub fn enrolment_with(&self, token: &str, dir: &Path) -> Enrolment {
        std::fs::create_dir_all(dir).unwrap();
        let file = dir.join("token");
        std::fs::write(&file, token).unwrap();
        Enrolment {
            dir: dir.join("identity"),
            token: TokenSource::File(file),
            controllers: Vec::new(),
            patience: Duration::from_secs(2),
            role: String::new(),
        }
    }

    pub async fn enrol(&self, node: &str, dir: &Path) -> Result<Identity, IdentityError> {
        Identity::load_or_enroll(&self.enrolment(node, dir).await).await
    }

    pub fn metric(&self, name: &str) -> u64 {
        metric(&self.metrics, name)
    }

    pub async fn applied(&self, node: &str, audience: &str, revision: u64) {
        let mut changes = self.fleet.changes();
        let wait = async {
            loop {
                let list = self.fleet.subscribers(&audience_of(audience));
                if list.iter().any(|s| s.node_id == node && s.applied >= revision) {
                    return;
                }
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| {
            panic!("{node} has not applied {revision}: {:?}", self.fleet.subscribers(&audience_of(audience)))
        });
    }
}

/// The value of a metric; 0 if it was never set.
pub fn metric(registry: &Registry, name: &str) -> u64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0)
}

/// Keeps what it is told.
#[derive(Clone, Default)]
pub struct Memory {
    pub names: Arc<Mutex<BTreeSet<String>>>,
    pub revision: Arc<Mutex<u64>>,
    /// Blocks `publish` while held.
    pub stall: Arc<Mutex<()>>,
}

impl Replica for Memory {
    type Intent = Intent;

    fn check(&self, _: &Key, _: &Intent) -> Result<(), Rejection> {
        Ok(())
    }

    fn publish(&mut self, batch: Batch<Intent>) {
        drop(self.stall.lock().unwrap());
        let mut names = self.names.lock().unwrap();
        for removal in &batch.removals {
            names.remove(&removal.key.name);
        }
        names.extend(batch.upserts.iter().map(|(item, _)| item.key.name.clone()));
        *self.revision.lock().unwrap() = batch.revision;
    }
}

/// A running subscriber.
pub struct Node {
    pub memory: Memory,
    pub status: watch::Receiver<Option<Status>>,
    pub metrics: Registry,
    pub reporter: Reporter,
    pub lending: Lending,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

pub fn options() -> Options {
    Options { backoff: (Duration::from_millis(20), Duration::from_millis(300)), ..Options::default() }
}

impl Node {
    /// Starts a subscriber with its ledger in `dir`.
    pub fn start(identity: &Identity, audience: &str, dir: &Path) -> Self {
        let memory = Memory::default();
        let config = Config {
            audience: audience_of(audience),
            build: "test".into(),
            kinds: vec![Kind::TrustRoots, Kind::Route, Kind::Webroot],
            brake: Brake::default(),
        };
        let ledger =
            Ledger::open(dir.join(format!("{}.redb", audience.replace('/', "-"))), audience).unwrap();
        let replica = identity.watch_roots(memory.clone());
        let subscriber: Subscriber<_, _, Strict> = Subscriber::open(config, ledger, replica).unwrap();
        let mut metrics = Registry::default();
        let client = Client::new(identity.clone(), options(), ClientMetrics::register(&mut metrics))
            .with_edge_key(EdgeKeyStore::load(dir));
        let (status, lending) = (client.status(), client.lending());
        let (reporter, reports): (Reporter, ReporterTask) = client.reporter();
        let stop = CancellationToken::new();
        let (run, report) = (stop.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let (client, ()) = tokio::join!(client.run(subscriber, run), reports.run(report));
            client.unwrap();
        });
        Self { memory, status, metrics, reporter, lending, stop, task }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    pub fn metric(&self, name: &str) -> u64 {
        metric(&self.metrics, name)
    }

    pub async fn until(&self, what: &str, done: impl FnMut(&Option<Status>) -> bool) {
        let mut status = self.status.clone();
        let waited = tokio::time::timeout(Duration::from_secs(20), status.wait_for(done)).await;
        if !matches!(waited, Ok(Ok(_))) {
            panic!("{what}: {:?}", self.status.borrow().clone());
        }
    }

    pub fn names(&self) -> BTreeSet<String> {
        self.memory.names.lock().unwrap().clone()
    }
}
