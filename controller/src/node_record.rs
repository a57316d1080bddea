//! A node resource as the feed knows it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hosting_feed::registry::NodeRecord;
use hosting_intent::{NodeFacts, Role};
use hosting_resource::kinds::node::Node;
use hosting_resource::{Doc, Resource, Status};

/// What the feed needs of a node resource; `None` for one that is on its way out, or unreadable: who is not known gets nothing.
pub(crate) fn record(node: &Resource) -> Option<NodeRecord> {
    let node = Doc::<Node>::of(node).ok().filter(|node| node.status != Status::Deleting)?;
    let NodeFacts { cluster_id, dns_group, .. } = hosting_planner::node_facts(&node);
    Some(NodeRecord {
        roles: hosting_planner::roles(&node).collect(),
        cluster_id: cluster_id.to_owned(),
        dns_group: dns_group.to_owned(),
        good_since: BTreeMap::from([(String::new(), node.created_at)]),
    })
}

/// The address of a machine that nobody outside has business with: any but an edge, behind which customers' sites are.
pub(crate) fn own_address(node: &Resource) -> Option<IpAddr> {
    let node = Doc::<Node>::of(node).ok()?;
    let is_edge = hosting_planner::roles(&node).any(|role| role == Role::Lb);
    node.spec.ip_address.as_ref().filter(|_| !is_edge)?.parse().ok()
}
