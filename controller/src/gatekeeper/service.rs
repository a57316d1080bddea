//! Which nodes are in service: silence takes one out, and catching up brings it back.

use std::collections::BTreeMap;

use hosting_intent::Audience;
use hosting_planner::World;
use hosting_resource::{Doc, Kind, Resource, kinds};
use hosting_store::StoreError;
use tokio::time::Instant;

use super::{Gatekeeper, PAGE, TOGETHER, world_failed};
use crate::metrics::Turn;

/// A registered node that can be in and out of service.
#[derive(Debug)]
pub(super) struct Node {
    id: String,
    /// The audience whose lease decides whether it is in service.
    audience: Audience,
    out: bool,
    created_at: i64,
}

impl Gatekeeper {
    pub(super) async fn read_registry(&mut self) -> Result<(), StoreError> {
        let mut tx = self.store.read().await?;
        let mut nodes = Vec::new();
        let mut after = String::new();
        loop {
            let page = tx.list(Kind::Node, &after, PAGE).await.map_err(world_failed)?;
            let short = page.len() < PAGE as usize;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.id);
            nodes.extend(page.iter().filter_map(node));
            if short {
                break;
            }
        }
        self.nodes = nodes;
        Ok(())
    }

    /// Takes out of service who is silent or behind, and back who has caught up: of all nodes when somebody may have turned (`all`) or the
    /// time in which known nodes are spared is over, else of a page of them now and then.
    pub(super) async fn turn_service(&mut self, all: bool) -> Result<(), StoreError> {
        let in_grace = self.started.elapsed() < self.paces.grace;
        let no_longer = std::mem::replace(&mut self.spares, in_grace) && !in_grace;
        let looked_at = if all || no_longer {
            0..self.nodes.len()
        } else if Instant::now() >= self.next_service {
            self.next_service = Instant::now() + self.paces.slow;
            let from = if self.slow_node < self.nodes.len() { self.slow_node } else { 0 };
            self.slow_node = from + PAGE as usize;
            from..self.slow_node.min(self.nodes.len())
        } else {
            return Ok(());
        };
        let mut seen: BTreeMap<&Audience, BTreeMap<String, bool>> = BTreeMap::new();
        let mut turns = Vec::new();
        for node in self.nodes.get(looked_at).unwrap_or_default() {
            let audience = seen.entry(&node.audience).or_insert_with(|| {
                let all = self.fleet.subscribers(&node.audience).into_iter();
                all.map(|one| (one.node_id, one.in_service)).collect()
            });
            // The registry and the fleet's view of it may be a moment apart.
            let Some(in_service) = audience.get(&node.id).copied() else { continue };
            let spared = in_grace && node.created_at < self.born;
            if in_service == node.out && (in_service || !spared) {
                turns.push((node.id.clone(), in_service));
            }
        }
        for some in turns.chunks(TOGETHER) {
            let some = some.to_vec();
            let turned = some.clone();
            let span = tracing::info_span!("service.turn", nodes = some.len());
            let done = self
                .mutate("nodes", span, "", move |tx| {
                    Box::pin(async move {
                        for (node, in_service) in &some {
                            hosting_planner::set_in_service(tx, node, *in_service).await?;
                        }
                        Ok(())
                    })
                })
                .await?;
            for (node, in_service) in turned {
                if done {
                    tracing::info!(node, in_service, "a node's service turned");
                    self.metrics.turned(if in_service { Turn::In } else { Turn::Out });
                }
                if let Some(known) = self.nodes.iter_mut().find(|known| known.id == node) {
                    known.out = !in_service;
                }
            }
        }
        Ok(())
    }
}

/// `None` for a node that applies no intents.
fn node(resource: &Resource) -> Option<Node> {
    let node = Doc::<kinds::node::Node>::of(resource).ok()?;
    Some(Node {
        id: node.id.clone(),
        audience: hosting_planner::node_service_audience(&node)?,
        out: node.state.out_of_service,
        created_at: node.created_at,
    })
}
