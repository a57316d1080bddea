//! What a node says of its roles, and what follows from them ([`hosting_intent::Role`]).

use std::collections::BTreeSet;

use hosting_intent::{Audience, NodeFacts, Role, audiences, service_audience};
use hosting_resource::Doc;
use hosting_resource::kinds::node::Node;

use crate::fields::is_deleting;

/// A node's roles, in the order they were given. Those that this build does not know are left out.
pub fn roles(node: &Doc<Node>) -> impl Iterator<Item = Role> {
    node.spec.roles.iter().filter_map(|role| Role::from_name(role))
}

/// What audiences follow from.
#[must_use]
pub fn node_facts(node: &Doc<Node>) -> NodeFacts<'_> {
    NodeFacts {
        id: &node.id,
        cluster_id: node.parent.as_deref().unwrap_or_default(),
        dns_group: &node.spec.dns_group,
    }
}

/// What a node subscribes to; nothing when it is on its way out.
#[must_use]
pub fn node_audiences(node: &Doc<Node>) -> BTreeSet<Audience> {
    if is_deleting(node) { BTreeSet::new() } else { audiences(roles(node), &node_facts(node)) }
}

/// The audience whose lease decides whether a node is in service; `None` for one that applies no intents.
#[must_use]
pub fn node_service_audience(node: &Doc<Node>) -> Option<Audience> {
    service_audience(roles(node), &node_facts(node))
}
