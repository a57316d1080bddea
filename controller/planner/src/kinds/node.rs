//! A machine: its places in shards, and whether it is among the edges in service.

use std::collections::BTreeSet;

use async_trait::async_trait;
use hosting_intent::Role;
pub(crate) use hosting_resource::kinds::node::Node;
use hosting_resource::kinds::node::NodeShard;
use hosting_resource::{Doc, Kind};

use super::{Changed, Facts, Planned, Undo, tenant};
use crate::plan::Plan;
use crate::{PlanError, Unit, Walk, node_audiences, placement, read, readers, roles};

#[async_trait]
impl Planned for Node {
    const FACTS: Facts = Facts { undo: Undo::NotBroughtBack, ..Facts::PLAIN };

    fn units(_: &Doc<Self>) -> Vec<Unit> {
        Vec::new()
    }

    fn touched(change: &Changed<'_, Self>, units: &mut BTreeSet<Unit>) {
        let Some(node) = change.both().next() else { return };
        let shards = |node: Option<&Doc<Self>>| -> BTreeSet<String> {
            let places = node.map(|node| node.state.shards.as_slice()).unwrap_or_default();
            places.iter().map(|place| place.shard_id.to_string()).collect()
        };
        let (left, joined) = (shards(change.before), shards(change.after));
        units.extend(left.union(&joined).map(|shard| Unit::Of(Kind::Shard, shard.clone())));
        let audiences = |node: Option<&Doc<Self>>| node.map(node_audiences).unwrap_or_default();
        let (before, after) = (audiences(change.before), audiences(change.after));
        units.extend(before.symmetric_difference(&after).cloned().map(Unit::Audience));
        // The cluster whose edges in service it is among.
        let edge_of = |node: Option<&Doc<Self>>| -> Option<String> {
            let node = node.filter(|node| placement::serves(node))?;
            node.parent.clone().filter(|_| roles(node).any(|role| role == Role::Lb))
        };
        let (before, after) = (edge_of(change.before), edge_of(change.after));
        if before != after {
            units.extend([before, after].into_iter().flatten().map(|id| Unit::Of(Kind::Cluster, id)));
        }
        if change.after.is_none() {
            // Everything that this node was told, whichever shard it came from.
            let (of, after, cause) = (node.id.clone(), String::new(), change.cause);
            units.insert(Unit::Walk { over: Walk::NodeRows, of, after, cause, rollout: 0 });
        } else {
            let moved = left.symmetric_difference(&joined);
            units.extend(moved.map(|shard| tenant::SHARD_TENANTS.of(shard, change.cause)));
        }
    }

    /// What is sealed from now on is not for it.
    async fn leave(node: &Doc<Self>, plan: &mut Plan<'_>) -> Result<(), PlanError> {
        readers::expel(plan, &node.id, node_audiences(node)).await
    }

    /// Gives it its places: in each of its shards one above the highest index there. Takes from it the keys of what it no longer subscribes
    /// to.
    async fn allocate(
        node: &mut Doc<Self>,
        before: Option<&Doc<Self>>,
        plan: &mut Plan<'_>,
    ) -> Result<(), PlanError> {
        if let Some(before) = before {
            let (left, stays) = (node_audiences(before), node_audiences(node));
            readers::expel(plan, &node.id, left.difference(&stays).cloned()).await?;
        }
        if before.is_some_and(|before| before.spec.shard_ids == node.spec.shard_ids) {
            return Ok(());
        }
        let mut places = Vec::new();
        for id in &node.spec.shard_ids {
            let shard = read::live(&mut plan.draft, "shard_ids", id).await?;
            if shard.parent != node.parent {
                let problem = format!(
                    "shard {id:?} is not in cluster {:?}",
                    node.parent.as_deref().unwrap_or_default()
                );
                return Err(PlanError::invalid("shard_ids", problem));
            }
            let members = read::nodes_of_shard(&mut plan.draft, id).await?;
            let others = members.iter().filter(|other| other.id != node.id);
            let highest = others
                .flat_map(|other| &other.state.shards)
                .filter(|place| place.shard_id == *id)
                .map(|place| place.shard_index)
                .max();
            places.push(NodeShard {
                shard_id: id.clone(),
                shard_role: shard.spec.role.clone(),
                shard_index: highest.unwrap_or_default() + 1,
            });
        }
        node.state.shards = places;
        Ok(())
    }
}

/// A node's place in a shard.
pub(crate) fn index_in(node: &Doc<Node>, shard: &str) -> u32 {
    let place = node.state.shards.iter().find(|place| place.shard_id == shard);
    place.map_or(u32::MAX, |place| place.shard_index)
}
