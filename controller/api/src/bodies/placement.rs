//! Bodies of drains, and of what would fail without some nodes.

use hosting_planner::{FailingName, Left, Of};
use hosting_resource::DrainingView;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Body of POST .../drain.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Drain {
    /// Even where nothing is left that could take its place.
    pub(crate) force: bool,
}

/// How far a node is emptied.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NodeDrain {
    /// Absent: it is not drained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) draining: Option<DrainingView>,
    /// It gets no more requests: no pool has it, and every edge in service knows.
    pub(crate) is_out: bool,
    /// The pools of its shards.
    pub(crate) pools: Vec<PoolOfNode>,
}

/// A node in the pool of one of its shards.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PoolOfNode {
    pub(crate) shard_id: String,
    pub(crate) shard_name: String,
    /// Edges are told to send it requests.
    pub(crate) serves: bool,
    /// Other nodes that they are told to.
    pub(crate) others_serving: u64,
    /// Edges in service that do not have the pool as it is now.
    pub(crate) waits_for: Vec<String>,
}

/// How far a shard is emptied.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ShardDrain {
    /// Absent: it takes tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) draining: Option<DrainingView>,
    /// Tenants that have their place there, those too that are deleted and kept.
    pub(crate) tenants: u64,
    /// It has none.
    pub(crate) is_empty: bool,
}

/// What would fail without some nodes.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct WithoutView {
    /// What they are part of.
    pub(crate) parts: Vec<LeftView>,
    /// A page of the host names and zones that would fail, by what they hang on; one that hangs on several lost parts stands under each.
    pub(crate) names: Vec<FailingNameView>,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_cursor: Option<String>,
    pub(crate) has_more: bool,
}

/// Something that nodes serve together, and what is left of it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct LeftView {
    /// `shard` (sites), `cluster` (edges) or `dns_group` (name servers).
    pub(crate) part: &'static str,
    /// Id of the shard or cluster, or the group.
    pub(crate) id: String,
    pub(crate) name: String,
    /// Nodes that would serve on: in service, not drained and not among those named.
    pub(crate) serving: u64,
    /// Nothing would be left.
    pub(crate) lost: bool,
    /// Tenants of a shard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tenants: Option<u64>,
}

fn words(of: &Of) -> (&'static str, String) {
    match of {
        Of::Shard(id) => ("shard", id.clone()),
        Of::Cluster(id) => ("cluster", id.clone()),
        Of::Group(group) => ("dns_group", group.clone()),
    }
}

impl LeftView {
    pub(crate) fn of(left: &Left) -> Self {
        let (part, id) = words(&left.of);
        let serving = left.serving as u64;
        Self { part, id, name: left.name.clone(), serving, lost: serving == 0, tenants: left.tenants }
    }
}

/// A name that would fail.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct FailingNameView {
    /// Host name or zone.
    pub(crate) name: String,
    /// Whose it is; absent for a brand's own zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tenant_id: Option<String>,
    /// `shard`, `cluster` or `dns_group`.
    pub(crate) part: &'static str,
    /// Which one it hangs on.
    pub(crate) id: String,
}

impl FailingNameView {
    pub(crate) fn of(name: &FailingName) -> Self {
        let (part, id) = words(&name.of);
        Self { name: name.name.clone(), tenant_id: name.tenant.clone(), part, id }
    }
}
