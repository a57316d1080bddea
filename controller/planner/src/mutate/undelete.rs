//! What is deleted and kept: brought back with everything that went with it, or let go when its time is over.
//!
//! One deletion is one cause, which stands in everything that it took along: an undelete brings back what this cause deleted, and not what
//! had been deleted for itself before. Bringing back is what an undo does ([`super::restore`]), by the rules of each kind.

use hosting_intent::Cause;
use hosting_resource::{DELETED_WITH, Kept, Kind, Resource, Status, timestamp};

use super::delete::{begin, is_restorable};
use super::restore::{Blocked, LeftAlone, Tried, Undone, restore};
use crate::fields::is_leaving;
use crate::kinds::{self, Undo};
use crate::plan::Plan;
use crate::quota::Asked;
use crate::{Draft, PlanError, Unit, Walk, World};

/// Members of a deletion that one read takes.
const STEP: u32 = 50;

/// Brings a deleted resource back with everything that its deletion took along: under the same ids, checked by today's rules and limits.
/// What is in the way of single members is told, and these stay deleted; what is in the way of the resource itself is an error.
/// `more` says that the replan queue goes on with it.
///
/// # Errors
/// [`PlanError::NotFound`]; [`PlanError::Conflict`] when it is not deleted, cannot be brought back any more, or something took its place;
/// [`PlanError::OverLimit`].
pub async fn undelete(draft: &mut dyn Draft, kind: Kind, id: &str) -> Result<Undone, PlanError> {
    let mut plan = Plan::new(draft, Cause::Person);
    let found = plan.draft.resource(id).await?.filter(|found| found.kind == kind);
    let resource = found.ok_or_else(|| PlanError::NotFound { kind, id: id.to_owned() })?;
    let Some(kept) = resource.kept() else {
        let why = if is_leaving(&resource) {
            "is being deleted for good and cannot be brought back"
        } else {
            "is not deleted"
        };
        return Err(PlanError::Conflict(format!("{kind} {id} {why}")));
    };
    if plan.draft.now() >= kept.until {
        let until = timestamp(kept.until);
        return Err(PlanError::Conflict(format!("{kind} {id} could be brought back until {until}")));
    }
    let mut undone = Undone::default();
    let mut asked = Asked::default();
    match bring_back(&mut plan, resource, &kept, &mut asked).await? {
        Ok(taken_back) => undone.taken_back.push(taken_back),
        Err(blocked) => return Err(blocked.into_error()),
    }
    undone.more = members(&mut plan, &kept.cause, "", &mut asked, &mut undone).await?;
    plan.finish().await?;
    Ok(undone)
}

/// Everything that one deletion took along and that is still deleted, from a place on. True when the queue goes on with it.
pub(super) async fn members(
    plan: &mut Plan<'_>,
    cause: &str,
    from: &str,
    asked: &mut Asked,
    undone: &mut Undone,
) -> Result<bool, PlanError> {
    let (first, mut after) = match from.split_once('/') {
        Some((kind, after)) => (Kind::from_name(kind), after.to_owned()),
        None => (None, String::new()),
    };
    // What others lie in comes before them in the table of kinds.
    let kinds =
        Kind::ALL.iter().copied().filter(|kind| first.is_none_or(|first| *kind as usize >= first as usize));
    for kind in kinds.filter(|kind| is_restorable(*kind)) {
        loop {
            let page = plan.draft.with_facet(kind, DELETED_WITH, cause, &after, STEP).await?;
            let last_page = page.len() < STEP as usize;
            for member in page {
                if plan.is_full() {
                    // The revision tells this place from the one that the step itself came from.
                    let of = format!("{cause}@{}", plan.draft.revision());
                    let after = format!("{kind}/{after}");
                    plan.enqueue([Unit::Walk {
                        over: Walk::Restoring,
                        of,
                        after,
                        cause: Cause::Person,
                        rollout: 0,
                    }]);
                    return Ok(true);
                }
                after.clone_from(&member.id);
                let Some(kept) = member.kept() else { continue };
                match bring_back(plan, member.clone(), &kept, asked).await? {
                    Ok(taken_back) => undone.taken_back.push(taken_back),
                    Err(blocked) => stays(plan, member, blocked.into_reason(), undone).await?,
                }
            }
            if last_page {
                break;
            }
        }
        after.clear();
    }
    Ok(false)
}

/// Says in a member itself, too, why it stays deleted: it can be brought back for itself later.
async fn stays(
    plan: &mut Plan<'_>,
    mut member: Resource,
    reason: String,
    undone: &mut Undone,
) -> Result<(), PlanError> {
    if undone.conflicts.iter().all(|other| other.id != member.id) {
        let (kind, id) = (member.kind, member.id.clone());
        undone.conflicts.push(LeftAlone { kind, id, field: String::new(), reason: reason.clone(), by: None });
    }
    member.status_message = Some(format!("stays deleted: {reason}"));
    plan.put(member).await
}

async fn bring_back(
    plan: &mut Plan<'_>,
    resource: Resource,
    kept: &Kept,
    asked: &mut Asked,
) -> Result<Tried, PlanError> {
    if kinds::of(resource.kind).facts().undo != Undo::Whole {
        return Ok(Err(Blocked::Ever(format!("a {} gives access and stays deleted", resource.kind))));
    }
    let mut as_it_was = resource.clone();
    as_it_was.status = if kept.was_suspended { Status::Suspended } else { Status::Active };
    let spec = as_it_was.spec.clone();
    restore(plan, &as_it_was, &spec, Some(resource), asked).await
}

/// The deletion that a resource was named in, if it is kept.
pub(super) fn cause_of(resource: &Resource) -> Option<String> {
    let cause = resource.kept()?.cause;
    cause.rsplit_once('@').is_some_and(|(id, _)| id == resource.id).then_some(cause)
}

/// Goes on with an undelete that did not fit one transaction, as a step of the replan queue. `of`: the cause, and the revision of the
/// step before.
pub(crate) async fn go_on_restoring(plan: &mut Plan<'_>, of: &str, after: &str) -> Result<(), PlanError> {
    let cause = of.rsplit_once('@').map_or(of, |(cause, _)| cause);
    let mut undone = Undone::default();
    members(plan, cause, after, &mut Asked::default(), &mut undone).await.map(drop)
}

/// Lets a resource go whose time is over: its deletion begins as one that was never kept does. `upto`, in milliseconds since the Unix
/// epoch: what could be brought back until then goes. False when that is not so of it any more.
///
/// # Errors
/// When the store fails.
pub async fn end_keeping(draft: &mut dyn Draft, id: &str, upto: i64) -> Result<bool, PlanError> {
    let mut plan = Plan::later(draft, Cause::Person);
    let Some(resource) = plan.draft.resource(id).await? else { return Ok(false) };
    if resource.kept().is_none_or(|kept| kept.until > upto) {
        return Ok(false);
    }
    begin(&mut plan, resource, None).await?;
    plan.finish().await?;
    Ok(true)
}
