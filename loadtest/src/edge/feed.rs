//! A controller's feed in this process, for edges whose map changes while they are measured: one audience, in memory.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
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
use hosting_intent::{Audience, Bytes, Cause, Digest, Item, Key, Role};
use hosting_intent_sync::identity::unix_now;
use hosting_intent_sync::tls::Enrolled;
use hosting_intent_sync::{AudienceHead, FeedSource, LogEntry, SourceError, Window};
use hosting_proto::feed::{ReportRequest, TrafficReport};
use prometheus_client::registry::Registry;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// Of the edges that are measured.
pub(super) const CLUSTER: &str = "loadtest";
/// Changes that are kept for edges that are behind.
const KEPT: usize = 20_000;
/// How long an edge may take until it has applied what was changed.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Rows {
    items: BTreeMap<Key, Item>,
    digest: Digest,
    log: VecDeque<LogEntry>,
    revision: u64,
    floor: u64,
}

struct Store {
    rows: Mutex<Rows>,
    head: watch::Sender<u64>,
    nodes: Mutex<BTreeMap<String, NodeRecord>>,
    /// Of tokens, whose they are.
    tokens: Mutex<BTreeMap<[u8; 32], String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rows {
    fn commit(&mut self, upserts: Vec<(Key, Bytes)>) -> u64 {
        let (prev, revision) = (self.revision, self.revision + 1);
        let item = |(key, value)| Item {
            key,
            revision,
            value,
            cause: Cause::Person,
            traceparent: String::new(),
            rollout: 0,
        };
        let upserts: Vec<Item> = upserts.into_iter().map(item).collect();
        for item in &upserts {
            self.digest.add(&item.key, &item.value);
            if let Some(before) = self.items.insert(item.key.clone(), item.clone()) {
                self.digest.remove(&before.key, &before.value);
            }
        }
        self.log.push_back(LogEntry { prev, revision, upserts, removals: Vec::new() });
        if self.log.len() > KEPT
            && let Some(oldest) = self.log.pop_front()
        {
            self.floor = oldest.revision;
        }
        self.revision = revision;
        revision
    }

    fn head(&self) -> AudienceHead {
        AudienceHead {
            epoch: "loadtest".into(),
            head: self.revision,
            revision: self.revision,
            floor: self.floor,
            count: self.items.len() as u64,
            digest: self.digest,
        }
    }
}

#[async_trait]
impl FeedSource for Store {
    async fn audience(&self, _: &Audience) -> Result<AudienceHead, SourceError> {
        Ok(locked(&self.rows).head())
    }

    async fn window(&self, _: &Audience, after: u64, limit: usize) -> Result<Window, SourceError> {
        let rows = locked(&self.rows);
        let from = rows.log.partition_point(|entry| entry.revision <= after);
        Ok(Window { head: rows.head(), entries: rows.log.range(from..).take(limit).cloned().collect() })
    }

    async fn page(&self, _: &Audience, after: Option<&Key>, limit: usize) -> Result<Vec<Item>, SourceError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let rows = locked(&self.rows);
        let from = after.map_or(Unbounded, |after| Excluded(after.clone()));
        Ok(rows.items.range((from, Unbounded)).take(limit).map(|(_, item)| item.clone()).collect())
    }

    async fn begin_epoch(&self, _: &str) -> Result<(), SourceError> {
        Err(SourceError("there is no other epoch".into()))
    }
}

#[async_trait]
impl Nodes for Store {
    async fn node(&self, node_id: &str) -> Result<Option<NodeRecord>, RegistryError> {
        Ok(locked(&self.nodes).get(node_id).cloned())
    }

    async fn enrol(&self, node_id: &str, role: &str) -> Result<i64, RegistryError> {
        let at = unix_now() * 1_000;
        if let Some(node) = locked(&self.nodes).get_mut(node_id) {
            node.good_since.insert(role.to_owned(), at);
        }
        Ok(at)
    }

    async fn learn(&self, _: &str, _: &Enrolled) -> Result<(), RegistryError> {
        Ok(())
    }

    async fn reads_with(&self, _: &str, _: &Audience, _: &[u8; 32]) -> Result<(), RegistryError> {
        Ok(())
    }
}

impl Keys for Store {
    fn cluster_edge_key(&self, cluster_id: &str) -> ClusterEdgeKey {
        ClusterEdgeKey::derive(&[9; 32], cluster_id)
    }

    fn witness_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new([9; 32])
    }
}

#[async_trait]
impl JoinTokens for Store {
    async fn put(&self, hash: [u8; 32], node_id: &str, _: i64) -> Result<(), RegistryError> {
        locked(&self.tokens).insert(hash, node_id.to_owned());
        Ok(())
    }

    async fn is_good(&self, hash: [u8; 32], node_id: &str, _: i64) -> Result<bool, RegistryError> {
        Ok(locked(&self.tokens).get(&hash).is_some_and(|node| node == node_id))
    }

    async fn consume(&self, hash: [u8; 32], node_id: &str, _: i64) -> Result<TokenUse, RegistryError> {
        let is_good = locked(&self.tokens).remove(&hash).is_some_and(|node| node == node_id);
        Ok(if is_good { TokenUse::Granted } else { TokenUse::Unknown })
    }

    async fn grant(&self, _: [u8; 32], _: [u8; 32], _: &Enrolled) -> Result<(), RegistryError> {
        Ok(())
    }

    async fn granted(&self, _: [u8; 32], _: [u8; 32], _: i64) -> Result<Option<Enrolled>, RegistryError> {
        Ok(None)
    }
}

#[async_trait]
impl StatusSink for Store {
    async fn watermarks(&self, _: &[Watermark]) -> Result<(), RegistryError> {
        Ok(())
    }

    async fn report(&self, _: &str, _: &ReportRequest) -> Result<Reported, RegistryError> {
        Ok(Reported::Taken)
    }

    async fn traffic(&self, _: &str, _: &TrafficReport) -> Result<(), RegistryError> {
        Ok(())
    }
}

/// The feed. It ends with this.
pub(super) struct Feed {
    store: Arc<Store>,
    fleet: Fleet,
    handle: FeedHandle,
    pub(super) address: SocketAddr,
    /// Of its own, so that it answers while this thread waits for an edge to start.
    runtime: Option<Runtime>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Feed {
    /// Gives edges these intents.
    pub(super) async fn start(intents: Vec<(Key, Bytes)>) -> anyhow::Result<Self> {
        let store = Arc::new(Store {
            rows: Mutex::default(),
            head: watch::Sender::new(0),
            nodes: Mutex::default(),
            tokens: Mutex::default(),
        });
        let config = FeedConfig::new(([127, 0, 0, 1], 0).into());
        let fleet = Fleet::new(config.lease);
        let deps = FeedDeps {
            source: Arc::clone(&store) as _,
            doorbell: Box::new(HeadDoorbell(store.head.subscribe())),
            nodes: Arc::clone(&store) as _,
            tokens: Arc::clone(&store) as _,
            status: Arc::clone(&store) as _,
            keys: Arc::clone(&store) as _,
        };
        let counters = FeedMetrics::register(&mut Registry::default());
        let authorities = Authorities::create("loadtest", unix_now())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let server = FeedServer::bind(config, deps, authorities, fleet.clone(), counters, Vec::new());
        let server = runtime.spawn(server).await??;
        let (handle, address) = (server.handle(), server.local_addr());
        runtime.spawn(server.run(CancellationToken::new()));
        let feed = Self { store, fleet, handle, address, runtime: Some(runtime) };
        feed.change(intents);
        Ok(feed)
    }

    /// A token by which an edge of this name joins.
    pub(super) async fn token(&self, node: &str) -> anyhow::Result<Zeroizing<String>> {
        let record = NodeRecord {
            roles: vec![Role::Lb],
            cluster_id: CLUSTER.into(),
            good_since: BTreeMap::from([(String::new(), 0)]),
            ..NodeRecord::default()
        };
        locked(&self.store.nodes).insert(node.to_owned(), record);
        Ok(self.handle.mint(node, Duration::from_secs(900)).await?)
    }

    /// One change of the map.
    pub(super) fn change(&self, upserts: Vec<(Key, Bytes)>) {
        let revision = locked(&self.store.rows).commit(upserts);
        self.store.head.send_replace(revision);
    }

    /// Waits until every edge has applied all that was changed.
    pub(super) async fn applied(&self) -> anyhow::Result<()> {
        let audience = Audience::edge(CLUSTER)?;
        let wanted = locked(&self.store.rows).revision;
        let mut changes = self.fleet.changes();
        let wait = async {
            loop {
                let edges = self.fleet.subscribers(&audience);
                if !edges.is_empty() && edges.iter().all(|edge| edge.applied >= wanted) {
                    return anyhow::Ok(());
                }
                changes.changed().await?;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.context("an edge does not apply what was changed")?
    }
}
