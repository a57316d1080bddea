//! What became of a resource, in the words of the API: the data of an event of `GET /events`, and of a webhook.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What became of a resource. It says nothing of what the resource is: who is told may have lost the right to read that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventView {
    /// The revision that made it.
    pub revision: u64,
    /// `created`, `updated` or `deleted`.
    pub change: String,
    /// The resource's kind, e.g. `zone_record`.
    pub kind: String,
    /// The resource's id.
    pub id: String,
    /// Its tenant; a tenant's own id.
    pub tenant_id: Option<String>,
    /// Its brand; null for what is platform-wide.
    pub brand_id: Option<String>,
    /// Where it stands, or stood last.
    pub status: String,
    /// Its generation, or its last one.
    pub generation: u64,
}
