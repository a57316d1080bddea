//! What a node resource says of its roles, and what follows from them ([`hosting_intent::Role`]).

use std::collections::BTreeSet;

use hosting_intent::{Audience, NodeFacts, Role, audiences, service_audience};
use hosting_resource::{Kind, Resource};
use serde_json::Value;

use crate::fields::is_live;

/// A node's roles, in the order they were given. Those that this build does not know are left out.
pub fn roles(node: &Resource) -> impl Iterator<Item = Role> {
    let list = node.spec.get("roles").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|role| Role::from_name(role.as_str()?))
}

/// What audiences follow from.
#[must_use]
pub fn node_facts(node: &Resource) -> NodeFacts<'_> {
    NodeFacts {
        id: &node.id,
        cluster_id: node.parent.as_deref().unwrap_or_default(),
        dns_group: node.text("dns_group"),
    }
}

/// What a node subscribes to; nothing when it is on its way out.
#[must_use]
pub fn node_audiences(node: &Resource) -> BTreeSet<Audience> {
    if is_live(node, Kind::Node) { audiences(roles(node), &node_facts(node)) } else { BTreeSet::new() }
}

/// The audience whose lease decides whether a node is in service; `None` for one that applies no intents.
#[must_use]
pub fn node_service_audience(node: &Resource) -> Option<Audience> {
    service_audience(roles(node), &node_facts(node))
}
