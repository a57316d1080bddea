//! A web shard's pool on the edges of its cluster.

use std::collections::BTreeSet;

use hosting_intent::{Audience, Kind as IntentKind, Role, message as m};
use hosting_resource::{Kind, Resource};
use prost::Message;

use crate::desired::socket_address;
use crate::fields::{DEFAULT_WEB_PORT, given, is_deleting, number, places, state};
use crate::{DesiredIntent, Unit, World, WorldError, read};

pub(super) async fn derive(id: &str, world: &mut dyn World) -> Result<Vec<DesiredIntent>, WorldError> {
    let Some(shard) = read::of_kind(world, Kind::Shard, id).await? else { return Ok(Vec::new()) };
    let Some(cluster) = shard.parent.as_deref() else { return Ok(Vec::new()) };
    if is_deleting(&shard) || shard.text("role") != Role::Web.name() {
        return Ok(Vec::new());
    }
    let mut members = read::nodes_of_shard(world, id).await?;
    members.sort_by_cached_key(|node| (index_in(node, id), node.id.clone()));
    let mut nodes: Vec<m::PoolNode> = members.iter().filter_map(pool_node).collect();
    if !nodes.iter().any(|node| node.in_service) {
        let before = in_service_before(id, world).await?;
        for node in &mut nodes {
            node.in_service = before.contains(&node.node_id);
        }
    }
    let message = m::ShardPool { name: shard.text("name").to_owned(), nodes };
    Ok(vec![DesiredIntent::new(Audience::edge(cluster)?, IntentKind::ShardPool, id, &message)])
}

fn index_in(node: &Resource, shard: &str) -> u64 {
    places(node).into_iter().find(|place| place.shard_id == shard).map_or(u64::MAX, |place| place.shard_index)
}

/// `None` for a node without an address: it cannot be reached, so it gets no place on the ring.
fn pool_node(node: &Resource) -> Option<m::PoolNode> {
    let port = number(node, "web_port").and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    let port = port.unwrap_or(DEFAULT_WEB_PORT);
    let addresses: Vec<String> = ["ip_address", "ip6_address"]
        .into_iter()
        .filter_map(|field| socket_address(given(node, field)?, port))
        .collect();
    if addresses.is_empty() {
        return None;
    }
    Some(m::PoolNode { node_id: node.id.clone(), addresses, in_service: !node.flag(state::OUT_OF_SERVICE) })
}

/// When the last node goes silent the controller may be the one that is cut off: a pool never goes from some to none.
async fn in_service_before(id: &str, world: &mut dyn World) -> Result<BTreeSet<String>, WorldError> {
    let rows = world.owned(&Unit::Shard(id.to_owned()).owner()).await?;
    Ok(rows
        .iter()
        .filter_map(|row| m::ShardPool::decode(row.value.clone()).ok())
        .flat_map(|pool| pool.nodes)
        .filter(|node| node.in_service)
        .map(|node| node.node_id)
        .collect())
}
