//! What a request, a gate or the fleet does to resources. Every function is one mutation: one draft, one revision.

mod check;
mod create;
mod delete;
mod fleet;
mod names;
mod update;

pub use create::create;
pub use delete::{Deleted, continue_delete, delete, finish_delete, has_children, wants_continuing};
pub use fleet::{
    Drained, Forgotten, drain, forget_node, open_gates, record_status, replan, retired, set_in_service,
};
pub use update::{converge_shard, retry, retry_failed, suspend, unsuspend, update};
