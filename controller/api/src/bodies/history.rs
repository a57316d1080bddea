//! Bodies about what was: histories, and what is taken back of them.

use hosting_planner::{How, TakenBack};
use hosting_resource::public_id;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
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

/// Body of POST /undo: one of `revision`, `key` with `from`, and `trace`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct UndoBody {
    /// All that this revision changed.
    #[serde(default)]
    pub(crate) revision: Option<u64>,
    /// All that this API key (its id) changed from a time on.
    #[serde(default)]
    pub(crate) key: Option<String>,
    /// With `key`: from here on, as in RFC 3339, or a date.
    #[serde(default)]
    pub(crate) from: Option<String>,
    /// With `key`: before this; absent: until now.
    #[serde(default)]
    pub(crate) to: Option<String>,
    /// All that was changed in this trace: the traceparent of an answer, or its trace id.
    #[serde(default)]
    pub(crate) trace: Option<String>,
}

/// A resource that is as it was.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TakenBackView {
    pub(crate) kind: &'static str,
    pub(crate) id: String,
    pub(crate) label: String,
    /// `changed` back, `deleted` because it had been made, or `restored` because it had been deleted.
    pub(crate) how: &'static str,
}

impl TakenBackView {
    pub(crate) fn of(taken_back: &TakenBack) -> Self {
        let TakenBack { how, resource } = taken_back;
        Self {
            kind: resource.kind.name(),
            id: public_id(&resource.id).to_owned(),
            label: resource.label.clone(),
            how: match how {
                How::Changed => "changed",
                How::Deleted => "deleted",
                How::Restored => "restored",
            },
        }
    }
}

/// What stays as it is although it was to be taken back.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct LeftAloneView {
    pub(crate) kind: &'static str,
    pub(crate) id: String,
    /// JSON pointer (RFC 6901) to the field; empty: the resource as a whole.
    pub(crate) field: String,
    pub(crate) reason: String,
    /// The later change of others that stays; absent where none is in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<u64>,
    /// The key that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key_id: Option<String>,
}

/// Answer of POST /undo, and of undelete. Of each list the first 200.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct UndoneView {
    pub(crate) taken_back: Vec<TakenBackView>,
    pub(crate) taken_back_total: u64,
    /// What others changed since, and what is in the way of it.
    pub(crate) conflicts: Vec<LeftAloneView>,
    pub(crate) conflicts_total: u64,
    /// What cannot come back: its data was destroyed, or it gave access.
    pub(crate) not_restorable: Vec<LeftAloneView>,
    pub(crate) not_restorable_total: u64,
    /// The job that goes on with what did not fit into one transaction; absent when all did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job_id: Option<String>,
    /// There is more than fits into one transaction, and the controller goes on with it; absent when all did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) goes_on: Option<bool>,
}
