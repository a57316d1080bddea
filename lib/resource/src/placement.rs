//! Where tenants are placed, and what takes no more of them: shared by the kinds that have to do with it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::is_false;
use crate::timestamp;

/// A node or a shard that is being emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// Since when, in milliseconds since the Unix epoch.
    pub since: i64,
    /// Even where nothing is left that could take its place.
    #[serde(default, skip_serializing_if = "is_false")]
    pub forced: bool,
}

/// A node or a shard that is being emptied, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DrainingView {
    /// Since when.
    pub since: String,
    /// Even where nothing is left that could take its place.
    pub forced: bool,
}

impl From<Draining> for DrainingView {
    fn from(draining: Draining) -> Self {
        Self { since: timestamp(draining.since), forced: draining.forced }
    }
}

/// How the platform chose a tenant's shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Placement {
    /// The shard.
    pub shard_id: String,
    /// Why it, in a sentence.
    pub reason: String,
    /// What was looked at, in the order in which it was; the first 16.
    pub candidates: Vec<Candidate>,
}

/// A shard that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Candidate {
    /// Which one.
    pub shard_id: String,
    /// Its name.
    pub name: String,
    /// The tenants that it had.
    pub tenants: u64,
    /// The most that it may have; 0: as many as one likes.
    pub max_tenants: u64,
    /// Its nodes that were in service and not being drained.
    pub nodes: u32,
    /// How many failure domains these are in.
    pub failure_domains: u32,
    /// Why it was not taken; absent of the one that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed_over: Option<String>,
}
