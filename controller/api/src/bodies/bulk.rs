//! Bodies of `POST /bulk`: many changes in one call, and what became of each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Items of one call.
pub(crate) const MAX_ITEMS: usize = 10_000;

/// Body of POST /bulk, as the reference shows it. It is read item by item, see [`crate::bulk`].
#[derive(Debug, JsonSchema)]
#[allow(dead_code, reason = "the schema is made from it; it is read as texts")]
pub(crate) struct BulkBody {
    /// Carried out in this order, at most 10 000.
    #[schemars(length(max = 10_000))]
    items: Vec<BulkItem>,
}

/// One change of many.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BulkItem {
    /// What later items call it: unlike any other in the call, 1 to 64 characters.
    #[serde(default)]
    pub(crate) name: Option<String>,
    pub(crate) op: BulkOp,
    /// The kind of what is made or changed, e.g. `zone_record`.
    pub(crate) kind: String,
    /// Which one is changed or deleted; absent in what creates.
    #[serde(default)]
    pub(crate) id: Option<IdOrItem>,
    /// What a new one lies in, e.g. the tenant of a webroot; absent for kinds that lie in nothing, and in what changes or deletes.
    #[serde(default)]
    pub(crate) parent: Option<IdOrItem>,
    /// As the header `If-Match`: entity tags or a generation that the change is meant for.
    #[serde(default)]
    pub(crate) if_match: Option<String>,
    /// As the body of POST, PUT or PATCH of the kind; `{"$id": "name"}` in the place of a text is the id of an earlier item. Absent in what deletes.
    #[serde(default)]
    pub(crate) body: Option<Map<String, Value>>,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BulkOp {
    /// As POST.
    Create,
    /// As PUT.
    Replace,
    /// As PATCH: a JSON merge patch (RFC 7396).
    Patch,
    /// As DELETE.
    Delete,
}

/// An id, or that of an earlier item of the same call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "must be an id, or {\"$id\": \"the name of an earlier item\"}")]
pub(crate) enum IdOrItem {
    /// An id.
    Id(String),
    /// The id of what an earlier item made or changed.
    Item {
        /// The item's name.
        #[serde(rename = "$id")]
        item: String,
    },
}

/// What became of an item.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct BulkResult {
    /// Its place in the call, from 0.
    pub(crate) index: u64,
    /// Its name, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// The HTTP status that it would have had alone.
    pub(crate) status: u16,
    /// The id of what was made or changed; absent when it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// Its generation now, good for `If-Match`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) generation: Option<u64>,
    /// The revision of the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<u64>,
    /// The call was made before with this Idempotency-Key, and this item was done then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) replayed: bool,
    /// What is shown this once, e.g. the key of a new API key.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(crate) once: Map<String, Value>,
    /// What was accepted and will not work as it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Map<String, Value>>")]
    pub(crate) warnings: Vec<Value>,
    /// Why it was refused: the members of RFC 9457, as alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<Map<String, Value>>,
}

/// Answer of POST /bulk.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BulkDone {
    /// One for each item, in order.
    pub(crate) results: Vec<BulkResult>,
    /// Items that were carried out.
    pub(crate) done: u64,
    /// Items that were refused or not attempted.
    pub(crate) refused: u64,
    /// The revision of the last change; absent when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<u64>,
    /// With `wait`: nodes that what was changed waits for or does without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lagging: Option<Vec<String>>,
    /// With `wait=served`: nodes that do not serve all of it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not_serving: Option<Vec<String>>,
    /// With `wait`: why the fleet rejected some of it. The changes stand all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasons: Option<Vec<String>>,
}
