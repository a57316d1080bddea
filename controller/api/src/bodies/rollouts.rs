//! Changes that go out in steps.

use schemars::JsonSchema;
use serde::Serialize;

/// A page of them, the newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RolloutPage {
    pub(crate) items: Vec<RolloutView>,
    pub(crate) has_more: bool,
    pub(crate) next_cursor: Option<String>,
}

/// A change that goes out in steps.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RolloutView {
    /// The revision at which it began.
    pub(crate) id: String,
    /// `waiting`, `running`, `paused`, `reverting`; ended: `done`, `reverted`, `replaced`.
    pub(crate) state: &'static str,
    /// Why it is paused, taken back or replaced; empty as long as all is well.
    pub(crate) reason: String,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
    /// The key that asked for it; null: the controller itself.
    pub(crate) api_key_id: Option<String>,
    /// What was changed, at most 20 of it.
    pub(crate) of: Vec<RolledOutView>,
    /// The revisions that are taken back when it hurts.
    pub(crate) revisions: Vec<u64>,
    /// Earlier rollouts that it took the place of.
    pub(crate) replaces: Vec<String>,
    /// Whom it reaches in the end.
    pub(crate) audiences: Vec<String>,
    /// How many items are part of it as they are now; null in lists.
    pub(crate) items: Option<u64>,
    /// The step that is under way, from 1; 0: none has begun.
    pub(crate) step: u32,
    /// To whom it has come, in that order.
    pub(crate) reached: Vec<RolloutMember>,
    /// What could not be taken back, because somebody changed it since.
    pub(crate) conflicts: Vec<String>,
}

/// A resource whose change began a rollout.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RolledOutView {
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) name: String,
}

/// A subscriber.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RolloutMember {
    pub(crate) audience: String,
    pub(crate) node_id: String,
}
