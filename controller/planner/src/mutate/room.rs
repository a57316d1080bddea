//! Names that what is deleted and kept holds.

use hosting_resource::{Kept, Resource, timestamp};

use crate::kinds;
use crate::plan::Plan;
use crate::{PlanError, World};

/// Makes room for the names of a resource that is about to be put. Names of what is kept are held, for its tenant: what cannot be brought
/// back for itself gives its name up when the same tenant wants it elsewhere, everything else has to be brought back or deleted for
/// good first.
pub(super) async fn make_room(
    plan: &mut Plan<'_>,
    before: Option<&Resource>,
    resource: &Resource,
) -> Result<(), PlanError> {
    let had = before.map(|before| before.index().uniques).unwrap_or_default();
    for unique in resource.index().uniques.into_iter().filter(|unique| !had.contains(unique)) {
        let holder = plan.draft.holder(resource.kind, &unique.scope, &unique.key).await?;
        let Some(mut holder) = holder.filter(|holder| holder.id != resource.id) else { continue };
        let Some(kept) = holder.kept() else { continue };
        if holder.tenant.is_some()
            && holder.tenant == resource.tenant
            && !kinds::of(holder.kind).facts().keeps
        {
            let mut progress = holder.progress();
            progress.kept = Some(Kept { gave_way: true, ..kept });
            holder.set_progress(&progress);
            plan.put(holder).await?;
        } else if holder.brand.is_some() && holder.brand == resource.brand {
            let (kind, id, until) =
                (holder.kind, hosting_resource::public_id(&holder.id), timestamp(kept.until));
            return Err(PlanError::Conflict(format!(
                "{} {:?} is held until {until} by the deleted {kind} {id}: bring that back (undelete), or delete it for good \
                 (DELETE with now=true)",
                unique.field, unique.key
            )));
        }
    }
    Ok(())
}
