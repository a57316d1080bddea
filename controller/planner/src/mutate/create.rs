//! POST: a resource and what is nested in it, in one revision.

use std::collections::BTreeSet;

use hosting_intent::Cause;
use hosting_resource::{Creation, NewResource, Resource};

use crate::fields::{is_deleting, why_gone};
use crate::plan::Plan;
use crate::quota::Asked;
use crate::{Draft, PlanError, World, kinds, trace};

/// Writes what one POST body means: the resource and what is nested in it, as they are then stored, in the order of
/// `creation`.
///
/// # Errors
/// What does not fit together; a taken name is [`crate::ApplyError::Taken`].
pub async fn create(draft: &mut dyn Draft, creation: Creation) -> Result<Vec<Resource>, PlanError> {
    let mut plan = Plan::new(draft, Cause::Person);
    let new = &creation.resources;
    let owners = new.iter().filter_map(|new| new.owner.as_ref()).map(|owner| owner.id.clone());
    let about = new.iter().flat_map(|new| [Some(new.id.clone()), new.parent.clone()]).flatten().chain(owners);
    plan.draft.prefetch(&about.collect::<Vec<_>>()).await?;
    let mut ids = Vec::new();
    let mut units = BTreeSet::new();
    let mut asked = Asked::default();
    for new in creation.resources {
        let resource = write(&mut plan, new).await?;
        asked.note(None, &resource);
        units.extend(kinds::of(resource.kind).touched(None, Some(&resource), Cause::Person)?);
        ids.push(resource.id);
    }
    asked.admit(&mut plan.draft).await?;
    for id in &ids {
        if let Some(mut resource) = plan.draft.resource(id).await? {
            kinds::of(resource.kind).sync(&mut resource, &mut plan).await?;
        }
    }
    plan.replan(units).await?;
    let mut written = plan.finish().await?.written;
    Ok(ids.iter().filter_map(|id| written.take(id)).collect())
}

/// Checks one resource, gives it what the platform allocates, and puts it.
async fn write(plan: &mut Plan<'_>, mut new: NewResource) -> Result<Resource, PlanError> {
    if let (Some(parent), Some(lies_in)) = (&new.parent, new.kind.info().parent) {
        let found = plan.draft.resource(parent).await?.filter(|found| found.kind == lies_in.kind);
        match found {
            None => return Err(PlanError::NotFound { kind: lies_in.kind, id: parent.clone() }),
            Some(parent) if is_deleting(&parent) => {
                return Err(PlanError::Conflict(format!(
                    "{} {} {}",
                    parent.kind,
                    parent.id,
                    why_gone(&parent)
                )));
            }
            Some(_) => {}
        }
    }
    let owner = match &new.owner {
        Some(owner) => Some(super::owner(&mut plan.draft, owner).await?),
        None => None,
    };
    let kind = kinds::of(new.kind);
    kind.rename(&mut new, owner.as_ref(), &mut plan.draft).await?;
    if let Some(found) = plan.draft.resource(&new.id).await? {
        let gone = if is_deleting(&found) { format!(" and {}", why_gone(&found)) } else { String::new() };
        return Err(PlanError::Conflict(format!("{} {:?} exists already{gone}", new.kind, new.id)));
    }
    let plain = std::mem::take(&mut new.plain);
    let mut resource = new.into_resource(owner.as_ref(), plan.draft.revision(), plan.draft.now());
    plan.draft.seal(&mut resource, &plain).await?;
    trace::note(&plan.draft, &mut resource);
    kind.settle(&mut resource, None, &mut plan.draft).await?;
    kind.check(&resource, None, &mut plan.draft).await?;
    kind.allocate(&mut resource, None, plan).await?;
    super::room::make_room(plan, None, &resource).await?;
    plan.put(resource.clone()).await?;
    Ok(resource)
}
