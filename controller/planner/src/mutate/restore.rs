//! What was deleted, brought back under its id by the rules of its kind; and in which words that is told.

use hosting_intent::Cause;
use hosting_resource::{Kind, Progress, Resource, Status};
use serde_json::{Map, Value};

use crate::fields::is_deleting;
use crate::kinds::{self, Undo};
use crate::plan::Plan;
use crate::quota::Asked;
use crate::{ApplyError, PlanError, World, trace};

/// What an undo did to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Fields have the values of before.
    Changed,
    /// It was made, and goes.
    Deleted,
    /// It was deleted, and is back.
    Restored,
}

/// A resource that an undo brought back to what it was.
#[derive(Debug, Clone, PartialEq)]
pub struct TakenBack {
    /// What was done.
    pub how: How,
    /// As it was before the undo, or, restored, as it is.
    pub resource: Resource,
}

/// What stays as it is although it was to be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftAlone {
    /// Of the resource.
    pub kind: Kind,
    /// Which one.
    pub id: String,
    /// JSON pointer to the field; empty: the resource as a whole.
    pub field: String,
    /// Why.
    pub reason: String,
    /// The later change of others that stays, and the key that made it; `None` where none is in the way.
    pub by: Option<(u64, Option<String>)>,
}

/// What came of an undo.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Undone {
    /// What is as it was.
    pub taken_back: Vec<TakenBack>,
    /// What others changed since, and what is in the way of others.
    pub conflicts: Vec<LeftAlone>,
    /// What cannot come back: its data was destroyed, or it gave access.
    pub not_restorable: Vec<LeftAlone>,
    /// There is more than fits into one transaction: to be asked again with the same changes, those of this undo among them.
    pub more: bool,
}

/// Why something is not done, now or at all.
pub(super) enum Blocked {
    /// Another part of the undo may make room.
    Now(String),
    /// Rules are in the way, as long as another part of the undo makes no room.
    ByRules(PlanError),
    /// Nothing will.
    Ever(String),
}

impl Blocked {
    pub(super) fn into_reason(self) -> String {
        match self {
            Self::Now(reason) | Self::Ever(reason) => reason,
            Self::ByRules(error) => error.to_string(),
        }
    }

    pub(super) fn into_error(self) -> PlanError {
        match self {
            Self::Now(reason) | Self::Ever(reason) => PlanError::Conflict(reason),
            Self::ByRules(error) => error,
        }
    }
}

pub(super) type Tried = Result<TakenBack, Blocked>;

/// Refusals that say what is in the way. Everything else fails the undo as a whole.
pub(super) fn in_the_way(error: PlanError) -> Result<Tried, PlanError> {
    match error {
        PlanError::NotFound { .. }
        | PlanError::Invalid { .. }
        | PlanError::Conflict(_)
        | PlanError::OverLimit(_)
        | PlanError::Forbidden(_)
        | PlanError::Apply(ApplyError::Taken { .. }) => Ok(Err(Blocked::ByRules(error))),
        PlanError::InUse { .. }
        | PlanError::TooLarge(_)
        | PlanError::Unsound { .. }
        | PlanError::Unreadable(_)
        | PlanError::Apply(_) => Err(error),
    }
}

/// Brings a deleted resource back under its id. `current`: its row, while the fleet has not let go, or while it is kept.
pub(super) async fn restore(
    plan: &mut Plan<'_>,
    as_it_was: &Resource,
    spec: &Map<String, Value>,
    current: Option<Resource>,
    asked: &mut Asked,
) -> Result<Tried, PlanError> {
    let kind_of = as_it_was.kind;
    let kind = kinds::of(kind_of);
    if kind.facts().undo != Undo::Whole {
        let reason = format!("{}: what gives access does not come back; make it anew", as_it_was.kind);
        return Ok(Err(Blocked::Ever(reason)));
    }
    let is_destroyed = match &current {
        None => kind.facts().retires.is_some(),
        Some(current) => current.progress().retire_on.is_some(),
    };
    if is_destroyed {
        let reason = format!("the data of {} {} was destroyed on its nodes", as_it_was.kind, as_it_was.id);
        return Ok(Err(Blocked::Ever(reason)));
    }
    if let (Some(parent), Some(lies_in)) = (&as_it_was.parent, as_it_was.kind.info().parent)
        && !is_there(plan, lies_in.kind, parent).await?
    {
        return Ok(Err(Blocked::Now(format!("the {} {parent} that it lies in is not there", lies_in.kind))));
    }
    let gated = kind.facts().gated;
    let mut after = as_it_was.clone();
    let update = match kind_of.def().rewritten(as_it_was, spec.clone()) {
        Ok(update) => update,
        Err(error) => return Ok(Err(Blocked::Now(error.to_string()))),
    };
    let owner = match &update.owner {
        Some(owner) => match super::owner(&mut plan.draft, owner).await {
            Ok(owner) => Some(owner),
            Err(error) => return in_the_way(error),
        },
        None => None,
    };
    update.apply(&mut after, owner.as_ref(), plan.draft.now());
    after.status = match as_it_was.status {
        stays if !gated || stays == Status::Suspended => stays,
        _ => Status::Pending,
    };
    after.status_message = None;
    let newest = current.as_ref().map_or(0, |current| current.generation);
    after.generation = as_it_was.generation.max(newest) + 1;
    kind.keep_state(&mut after)?;
    after.set_progress(&Progress::default());
    for one in after.index().refs {
        if !is_there(plan, one.kind, &one.to).await? {
            return Ok(Err(Blocked::Now(format!(
                "{}: the {} {} is not there",
                one.relation, one.kind, one.to
            ))));
        }
    }
    trace::note(&plan.draft, &mut after);
    let checked = async {
        kind.settle(&mut after, None, &mut plan.draft).await?;
        kind.check(&after, None, &mut plan.draft).await?;
        // Together with what came back before it in this undo.
        let mut with_it = asked.clone();
        with_it.note(current.as_ref(), &after);
        with_it.clone().admit(&mut plan.draft).await?;
        Ok::<_, PlanError>(with_it)
    };
    match checked.await {
        Ok(with_it) => *asked = with_it,
        Err(error) => return in_the_way(error),
    }
    kind.allocate(&mut after, None, plan).await?;
    if let Err(error) = plan.put(after.clone()).await {
        return in_the_way(error);
    }
    kind.sync(&mut after, plan).await?;
    plan.replan(kind.touched(current.as_ref(), Some(&after), Cause::Person)?).await?;
    Ok(Ok(TakenBack { how: How::Restored, resource: after }))
}

async fn is_there(plan: &mut Plan<'_>, kind: Kind, id: &str) -> Result<bool, PlanError> {
    let found = plan.draft.resource(id).await?;
    Ok(found.is_some_and(|found| found.kind == kind && !is_deleting(&found)))
}
