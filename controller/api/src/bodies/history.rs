//! Bodies about what was: histories, and what is taken back of them.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// A field that a change gave another value.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct FieldChange {
    /// JSON pointer (RFC 6901) to it in the resource.
    pub(crate) field: String,
    /// Its value before; absent when it had none, or the change made the resource. What is secret is not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<Value>,
    /// Its value since; absent when it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<Value>,
}

/// A change of one resource.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct HistoryEntry {
    /// Kind of the resource.
    pub(crate) kind: &'static str,
    /// Its id.
    pub(crate) id: String,
    /// What a person calls it: since the change, or before it for what is gone.
    pub(crate) label: String,
    /// The revision of the change.
    pub(crate) revision: u64,
    /// When, RFC 3339.
    pub(crate) at: String,
    /// The key that asked; absent when the controller did it by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key_id: Option<String>,
    /// The trace id of the request behind it, as in the traceparent of the answer; absent when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trace_id: Option<String>,
    /// `created`, `changed`, `suspended`, `resumed`, `deleting`, `restored` or `deleted`.
    pub(crate) event: &'static str,
    /// What differs. All that it has for what was created, nothing for what went.
    pub(crate) fields: Vec<FieldChange>,
}

/// A page of a history, the newest change first.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct HistoryPage {
    pub(crate) items: Vec<HistoryEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_cursor: Option<String>,
    pub(crate) has_more: bool,
    /// All changes after this revision are in histories; those before are dropped by age and size.
    pub(crate) complete_since_revision: u64,
}
