//! A shard: the pool of its web nodes on the edges of its cluster.

use std::collections::BTreeSet;

use async_trait::async_trait;
use hosting_intent::{Audience, Kind as IntentKind, Role, message as m};
use hosting_resource::kinds::node::NodeSpec;
pub(crate) use hosting_resource::kinds::shard::Shard;
use hosting_resource::{Doc, Document};
use prost::Message;

use super::{Changed, Planned, node, tenant};
use crate::desired::socket_address;
use crate::{DesiredIntent, PlanError, Unit, World, placement, read};

#[async_trait]
impl Planned for Shard {
    fn touched(change: &Changed<'_, Self>, units: &mut BTreeSet<Unit>) {
        let Some(shard) = change.both().next() else { return };
        units.insert(Unit::Of(Self::KIND, shard.id.clone()));
        if !change.born_or_gone() && change.differs(|shard| shard.spec.name.clone()) {
            units.insert(tenant::SHARD_TENANTS.of(&shard.id, change.cause));
        }
    }

    async fn derive(shard: &Doc<Self>, world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError> {
        let Some(cluster) = shard.parent.as_deref() else { return Ok(Vec::new()) };
        if shard.spec.role != Role::Web.name() {
            return Ok(Vec::new());
        }
        let mut members = read::nodes_of_shard(world, &shard.typed_id()).await?;
        members.sort_by_cached_key(|node| (node::index_in(node, &shard.id), node.id.clone()));
        let mut nodes: Vec<m::PoolNode> = members.iter().filter_map(pool_node).collect();
        if !nodes.iter().any(|node| node.in_service) {
            // Those that are drained serve until others do, but where their drain is forced.
            let waits = |node: &&Doc<node::Node>| {
                !node.state.out_of_service && node.state.draining.is_some_and(|draining| !draining.forced)
            };
            let waiting: BTreeSet<&str> = members.iter().filter(waits).map(|node| node.id.as_str()).collect();
            for node in &mut nodes {
                node.in_service = waiting.contains(node.node_id.as_str());
            }
        }
        if !nodes.iter().any(|node| node.in_service) {
            let forced =
                |node: &&Doc<node::Node>| node.state.draining.is_some_and(|draining| draining.forced);
            let forced: BTreeSet<&str> = members.iter().filter(forced).map(|node| node.id.as_str()).collect();
            let before = in_service_before(&shard.id, world).await?;
            for node in &mut nodes {
                node.in_service = before.contains(&node.node_id) && !forced.contains(node.node_id.as_str());
            }
        }
        let message = m::ShardPool { name: shard.spec.name.clone(), nodes };
        Ok(vec![DesiredIntent::new(Audience::edge(cluster)?, IntentKind::ShardPool, &*shard.id, &message)])
    }
}

/// `None` for a node without an address: it cannot be reached, so it gets no place on the ring.
fn pool_node(node: &Doc<node::Node>) -> Option<m::PoolNode> {
    let NodeSpec { ip_address, ip6_address, web_port, .. } = &node.spec;
    let addresses: Vec<String> = [ip_address, ip6_address]
        .into_iter()
        .filter_map(|address| socket_address(address.as_deref()?, web_port.get()))
        .collect();
    if addresses.is_empty() {
        return None;
    }
    Some(m::PoolNode { node_id: node.id.clone(), addresses, in_service: placement::serves(node) })
}

/// The nodes that the edges know as in service. When the last one goes silent the controller may be the one that is cut off: a pool
/// never goes from some to none.
async fn in_service_before(shard: &str, world: &mut dyn World) -> Result<BTreeSet<String>, PlanError> {
    let rows = world.owned(&Unit::Of(Shard::KIND, shard.to_owned()).owner()).await?;
    Ok(rows
        .iter()
        .filter_map(|row| m::ShardPool::decode(row.value.clone()).ok())
        .flat_map(|pool| pool.nodes)
        .filter(|node| node.in_service)
        .map(|node| node.node_id)
        .collect())
}
