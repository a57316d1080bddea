//! What a request, a gate or the fleet does to resources. Every function is one mutation: one draft, one revision.

mod create;
mod delete;
mod draining;
mod fleet;
mod readers;
mod restore;
mod room;
mod undelete;
mod undo;
mod update;

pub use create::create;
pub(crate) use delete::go_on_keeping;
pub use delete::{
    Deleted, continue_delete, delete, delete_for_good, finish_delete, has_children, is_restorable,
    wants_continuing,
};
pub use draining::{drain_node, drain_shard, undrain_node, undrain_shard};
pub use fleet::{
    Drained, Forgotten, drain, forget_node, open_gates, record_status, replan, retired, set_in_service,
};
use hosting_resource::{OwnerRef, Resource};
pub use readers::{admit_reader, expel_reader};
pub use restore::{How, LeftAlone, TakenBack, Undone};
pub(crate) use undelete::go_on_restoring;
pub use undelete::{end_keeping, undelete};
pub use undo::{revert, undo};
pub use update::{converge_shard, purge_cache, retry, retry_failed, suspend, unsuspend, update};

use crate::fields::{is_deleting, why_gone};
use crate::overlay::Overlay;
use crate::{PlanError, World};

/// The resource that decides tenant and brand, which must exist and stay.
async fn owner(draft: &mut Overlay<'_>, owner: &OwnerRef) -> Result<Resource, PlanError> {
    let OwnerRef { field, kind, id } = owner;
    match draft.resource(id).await?.filter(|found| found.kind == *kind) {
        None => Err(PlanError::invalid(*field, format!("there is no {kind} {id:?}"))),
        Some(found) if is_deleting(&found) => {
            Err(PlanError::invalid(*field, format!("{kind} {id:?} {}", why_gone(&found))))
        }
        Some(found) => Ok(found),
    }
}
