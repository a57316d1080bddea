//! What the feed asks of the store: who is a node, which tokens are good, where positions go, what a commit touched.

use std::sync::Arc;

use async_trait::async_trait;
use hosting_feed::registry::{
    Doorbell, EdgeKeys, JoinTokens, NodeRecord, Nodes, RegistryError, StatusSink, TokenUse, Touched,
    Watermark,
};
use hosting_intent::edge_key::ClusterEdgeKey;
use hosting_planner::World;
use hosting_proto::feed::ReportRequest;
use hosting_resource::{Kind, Resource, Status};
use hosting_store::{Commit, Store};
use serde_json::Value;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::fleet::FleetView;

/// The store, as the feed sees it.
#[derive(Clone)]
pub(crate) struct Registry {
    store: Store,
    view: Arc<FleetView>,
}

impl Registry {
    pub(crate) const fn new(store: Store, view: Arc<FleetView>) -> Self {
        Self { store, view }
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> RegistryError {
    RegistryError::from(Box::<dyn std::error::Error + Send + Sync>::from(error))
}

/// What the feed needs of a node resource; `None` for one that is on its way out.
pub(crate) fn record(node: &Resource) -> Option<NodeRecord> {
    if node.kind != Kind::Node || node.status == Status::Deleting {
        return None;
    }
    let roles = node.spec.get("roles").and_then(Value::as_array);
    Some(NodeRecord {
        roles: roles.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        cluster_id: node.parent.clone().unwrap_or_default(),
        dns_group: Some(node.text("dns_group").to_owned()).filter(|group| !group.is_empty()),
    })
}

#[async_trait]
impl Nodes for Registry {
    async fn node(&self, node_id: &str) -> Result<Option<NodeRecord>, RegistryError> {
        let node = self.store.read().await.map_err(failed)?.resource(node_id).await.map_err(failed)?;
        Ok(node.as_ref().and_then(record))
    }
}

impl EdgeKeys for Registry {
    fn cluster_edge_key(&self, cluster_id: &str) -> ClusterEdgeKey {
        self.store.kek().cluster_edge_key(cluster_id)
    }
}

#[async_trait]
impl JoinTokens for Registry {
    async fn put(&self, hash: [u8; 32], node_id: &str, expires_at: i64) -> Result<(), RegistryError> {
        let now = self.store.now() / 1000;
        self.store.put_join_token(hash, node_id, now, expires_at).await.map_err(failed)
    }

    async fn consume(&self, hash: [u8; 32], node_id: &str, now: i64) -> Result<TokenUse, RegistryError> {
        let used = self.store.consume_join_token(hash, node_id, now).await.map_err(failed)?;
        Ok(match used {
            hosting_store::TokenUse::Granted => TokenUse::Granted,
            hosting_store::TokenUse::Unknown => TokenUse::Unknown,
            hosting_store::TokenUse::Used => TokenUse::Used,
            hosting_store::TokenUse::Expired => TokenUse::Expired,
        })
    }
}

#[async_trait]
impl StatusSink for Registry {
    async fn watermarks(&self, watermarks: &[Watermark]) -> Result<(), RegistryError> {
        let seen_at = self.store.now();
        let rows: Vec<hosting_store::Watermark> = watermarks
            .iter()
            .map(|one| hosting_store::Watermark {
                node: one.node_id.clone(),
                audience: one.audience.clone(),
                epoch: one.epoch.clone(),
                applied: one.applied,
                durable: one.durable,
                seen_at,
            })
            .collect();
        self.store.save_watermarks(&rows).await.map_err(failed)?;
        for one in watermarks {
            if let Some(exceptions) = &one.exceptions {
                self.store.set_exceptions(&one.node_id, &one.audience, exceptions).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn report(&self, node_id: &str, report: &ReportRequest) -> Result<(), RegistryError> {
        let mut tx = self.store.read().await.map_err(failed)?;
        if report.epoch != tx.epoch() {
            // Of before the store was put back, or begun anew. The node reports everything again once it is in this epoch.
            tracing::debug!(node = node_id, epoch = report.epoch, "a report of another epoch");
            return Ok(());
        }
        let reports =
            tx.believable(node_id, &report.epoch, report.full, &report.reports).await.map_err(failed)?;
        drop(tx);
        self.store.save_reports(node_id, report.revision, report.full, &reports).await.map_err(failed)?;
        // After the store: what a gate was opened by must outlast this process.
        self.view.reported(node_id, report.full, &reports);
        Ok(())
    }
}

/// Rings at each commit with what it touched.
pub(crate) struct Commits(pub(crate) broadcast::Receiver<Arc<Commit>>);

#[async_trait]
impl Doorbell for Commits {
    async fn ring(&mut self) -> Touched {
        match self.0.recv().await {
            Ok(commit) => {
                let audiences = (!commit.new_epoch).then(|| commit.audiences.clone());
                Touched { head: commit.revision, audiences }
            }
            Err(RecvError::Lagged(_)) => Touched { head: 0, audiences: None },
            // Nothing will ever be written again; sessions live on heartbeats until the process ends.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
