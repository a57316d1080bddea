//! Changes of the past taken back, as one mutation like any other: by the rules of each kind, in the history, to be undone itself.

mod merge;

use std::collections::BTreeMap;

use hosting_intent::Cause;
use hosting_resource::{Kind, Resource};

use self::merge::{Stays, Wanted, merge};
use super::delete::{begin, kept, take_away};
use super::restore::{Blocked, How, LeftAlone, TakenBack, Tried, Undone, in_the_way, restore};
use super::undelete;
use super::update::{amend, switch};
use crate::fields::is_deleting;
use crate::kinds::{self, Tie, Undo};
use crate::past::{Part, PastChange};
use crate::plan::Plan;
use crate::quota::Asked;
use crate::{Draft, PlanError, World};

/// Children that are read at once in search of what is not deleted.
const STEP: u32 = 50;

/// Times that what is in the way of one another is tried: what others lie in comes first, so that few are needed.
const PASSES: usize = 8;

/// Takes chosen changes back. `changes` has, of each resource with a chosen one, all changes from that one on, the oldest first.
///
/// # Errors
/// When the store fails, or what is deleted is still used by something that is not deleted with it ([`PlanError::InUse`]).
pub async fn undo(draft: &mut dyn Draft, changes: &[PastChange]) -> Result<Undone, PlanError> {
    all(Plan::new(draft, Cause::Person), changes).await
}

/// [`undo`] of what went out in steps and hurts: it is for everybody at once.
///
/// # Errors
/// As [`undo`].
pub async fn revert(draft: &mut dyn Draft, changes: &[PastChange]) -> Result<Undone, PlanError> {
    all(Plan::instant(draft, Cause::Person), changes).await
}

async fn all(mut plan: Plan<'_>, changes: &[PastChange]) -> Result<Undone, PlanError> {
    let mut by_resource: BTreeMap<&str, Vec<&PastChange>> = BTreeMap::new();
    for change in changes {
        by_resource.entry(&change.resource).or_default().push(change);
    }
    let ids: Vec<String> = by_resource.keys().map(|id| (*id).to_owned()).collect();
    plan.draft.prefetch(&ids).await?;
    let mut undone = Undone::default();
    let mut pending = Vec::new();
    for (id, changes) in by_resource {
        let Some(kind) = changes.last().map(|change| change.kind) else { continue };
        if changes.iter().all(|change| change.part != Part::Chosen) {
            continue;
        }
        if kinds::of(kind).facts().undo == Undo::Never {
            let reason = format!("{kind}: what gives access is not brought back; change it by hand");
            undone.not_restorable.push(left(kind, id, reason));
            continue;
        }
        let current = plan.draft.resource(id).await?;
        let (wanted, stays) = merge(&changes, current.as_ref());
        undone.conflicts.extend(stays.into_iter().map(|stays| conflict(kind, id, stays)));
        if !matches!(wanted, Wanted::Nothing | Wanted::Done) {
            pending.push((kind, id.to_owned(), wanted));
        }
    }
    // What others lie in comes back first and goes last.
    pending.sort_by_key(|(kind, _, wanted)| match wanted {
        Wanted::Back { .. } => (0, *kind as i64),
        Wanted::Changed { .. } | Wanted::Nothing | Wanted::Done => (1, *kind as i64),
        Wanted::Gone => (2, -(*kind as i64)),
    });
    let mut blocked: BTreeMap<String, String> = BTreeMap::new();
    let mut asked = Asked::default();
    let mut causes: Vec<String> = Vec::new();
    for _ in 0..PASSES {
        let before = pending.len();
        let mut waiting = Vec::new();
        for (kind, id, wanted) in pending {
            if plan.is_full() {
                undone.more = true;
                waiting.push((kind, id, wanted));
                continue;
            }
            let cause = plan.draft.resource(&id).await?.and_then(|found| undelete::cause_of(&found));
            match take_back(&mut plan, kind, &id, &wanted, &mut asked).await? {
                Ok(taken_back) => {
                    undone.taken_back.push(taken_back);
                    causes.extend(cause);
                }
                Err(Blocked::Ever(reason)) => undone.not_restorable.push(left(kind, &id, reason)),
                Err(now @ (Blocked::Now(_) | Blocked::ByRules(_))) => {
                    blocked.insert(id.clone(), now.into_reason());
                    waiting.push((kind, id, wanted));
                }
            }
        }
        pending = waiting;
        if undone.more || pending.is_empty() || pending.len() == before {
            break;
        }
    }
    if !undone.more {
        let mut go_on = Vec::new();
        for cause in causes {
            // What a kept deletion took along in transactions of its own is among nobody's changes.
            if undelete::members(&mut plan, &cause, "", &mut asked, &mut undone).await? {
                go_on.push(cause);
            }
        }
        for (kind, id, _) in pending {
            let is_told = undone.taken_back.iter().any(|one| one.resource.id == id)
                || undone.conflicts.iter().any(|one| one.id == id && one.field.is_empty());
            let kept = plan.draft.resource(&id).await?.and_then(|found| found.kept());
            if is_told || kept.is_some_and(|kept| go_on.contains(&kept.cause)) {
                continue;
            }
            let reason = blocked.remove(&id).unwrap_or_default();
            undone.conflicts.push(left(kind, &id, reason));
        }
    }
    plan.finish().await?;
    Ok(undone)
}

fn left(kind: Kind, id: &str, reason: String) -> LeftAlone {
    LeftAlone { kind, id: id.to_owned(), field: String::new(), reason, by: None }
}

fn conflict(kind: Kind, id: &str, stays: Stays) -> LeftAlone {
    let Stays { field, revision, actor } = stays;
    let who = actor.as_deref().map_or_else(|| "the controller".to_owned(), |key| format!("key {key}"));
    let what = if field.is_empty() { kind.name() } else { field.as_str() };
    let reason = format!("{what}: changed since by {who} in revision {revision}, which stays");
    LeftAlone { kind, id: id.to_owned(), field, reason, by: Some((revision, actor)) }
}

async fn take_back(
    plan: &mut Plan<'_>,
    kind: Kind,
    id: &str,
    wanted: &Wanted,
    asked: &mut Asked,
) -> Result<Tried, PlanError> {
    let current = plan.draft.resource(id).await?;
    match (wanted, current) {
        (Wanted::Gone, Some(current)) if !is_deleting(&current) => delete(plan, current).await,
        (Wanted::Changed { spec, like }, Some(current)) if !is_deleting(&current) => {
            let as_it_is = TakenBack { how: How::Changed, resource: current.clone() };
            let mut now = current.clone();
            if *spec != current.spec {
                let update = match kind.def().rewritten(&current, spec.clone()) {
                    Ok(update) => update,
                    Err(error) => return Ok(Err(Blocked::Now(error.to_string()))),
                };
                match amend(plan, &current, update).await {
                    Ok(changed) => now = changed.unwrap_or(current),
                    Err(error) => return in_the_way(error),
                }
            }
            if let Some(like) = like {
                switch(plan, now, like).await?;
            }
            Ok(Ok(as_it_is))
        }
        (Wanted::Back { as_it_was, spec }, current) if current.as_ref().is_none_or(is_deleting) => {
            restore(plan, as_it_was, spec, current, asked).await
        }
        // What lies in something went with it, in this very undo.
        (Wanted::Gone, gone) => match gone {
            Some(resource) => Ok(Ok(TakenBack { how: How::Deleted, resource })),
            None => Ok(Err(Blocked::Now("is gone".to_owned()))),
        },
        (Wanted::Nothing | Wanted::Done | Wanted::Changed { .. } | Wanted::Back { .. }, _) => {
            Ok(Err(Blocked::Now(format!("{kind} {id} has changed meanwhile"))))
        }
    }
}

async fn delete(plan: &mut Plan<'_>, resource: Resource) -> Result<Tried, PlanError> {
    if let Err(error) = resource.kind.def().deletable(&resource) {
        return Ok(Err(Blocked::Now(error.to_string())));
    }
    if let Some(user) = user_of(plan, &resource).await? {
        let (kind, id) = (user.kind, &user.id);
        return Ok(Err(Blocked::Now(format!(
            "{kind} {id} ({}) uses it or lies in it, and stays",
            user.label
        ))));
    }
    let taken_back = TakenBack { how: How::Deleted, resource: resource.clone() };
    match kinds::of(resource.kind).facts().deletion {
        kinds::Deletion::Gradual => {
            let kept = kept(plan, &resource).await?;
            begin(plan, resource, kept).await?;
        }
        kinds::Deletion::AtOnce => take_away(plan, &resource).await?,
        kinds::Deletion::Revoked => return Ok(Err(Blocked::Ever("is revoked by hand".to_owned()))),
    }
    Ok(Ok(taken_back))
}

/// What would be deleted along with a resource, or left hanging in it, and is not on its way out.
async fn user_of(plan: &mut Plan<'_>, resource: &Resource) -> Result<Option<Resource>, PlanError> {
    let lies_in =
        Kind::ALL.iter().filter(|kind| kind.info().parent.is_some_and(|parent| parent.kind == resource.kind));
    let ties = kinds::goes_with(resource.kind).chain(lies_in.map(|kind| (*kind, Tie::Child)));
    for (kind, tie) in ties {
        let mut after = String::new();
        loop {
            let page = match tie {
                Tie::Child | Tie::Part => plan.draft.children(kind, &resource.id, &after, STEP).await?,
                Tie::Referrer(relation) | Tie::Follower(relation) => {
                    plan.draft.referrers(kind, relation, &resource.id, &after, STEP).await?
                }
            };
            let stays = |one: &&Resource| !is_deleting(one) && !one.kind.def().is_derived(one);
            if let Some(user) = page.iter().find(stays) {
                return Ok(Some(user.clone()));
            }
            match page.last() {
                Some(last) if page.len() == STEP as usize => after.clone_from(&last.id),
                Some(_) | None => break,
            }
        }
    }
    Ok(None)
}
