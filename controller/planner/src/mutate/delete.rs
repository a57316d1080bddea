//! DELETE: what goes at once, what goes when the fleet has let go, and what it takes along.

use std::collections::BTreeSet;

use hosting_intent::{Audience, Cause};
use hosting_resource::{Cascade, Kept, Kind, Progress, Resource, Status};

use crate::fields::{is_deleting, is_leaving};
use crate::kinds::{self, Deletion, Tie};
use crate::plan::Plan;
use crate::{Draft, IntentChange, PlanError, Unit, Walk, World, WorldError, read, trace};

/// Children that one read of a cascade takes.
const STEP: u32 = 50;
/// In milliseconds.
const DAY: i64 = 24 * 3_600_000;

/// What a DELETE did.
#[derive(Debug, Clone, PartialEq)]
pub enum Deleted {
    /// The row is gone.
    Gone,
    /// The row goes when the fleet has let go, or, for what is kept, when nobody has brought it back in time.
    Deleting(Box<Resource>),
}

/// Deletes a resource and all that lies in it, to be kept for as long as the brand's policy says. What is deleted already stays so.
///
/// # Errors
/// [`PlanError::NotFound`], [`PlanError::InUse`], [`PlanError::Forbidden`].
pub async fn delete(draft: &mut dyn Draft, kind: Kind, id: &str) -> Result<Deleted, PlanError> {
    deleted(draft, kind, id, true).await
}

/// Deletes a resource and all that lies in it, whatever the brand's policy, what is kept of an earlier deletion too.
///
/// # Errors
/// As [`delete`].
pub async fn delete_for_good(draft: &mut dyn Draft, kind: Kind, id: &str) -> Result<Deleted, PlanError> {
    deleted(draft, kind, id, false).await
}

async fn deleted(draft: &mut dyn Draft, kind: Kind, id: &str, may_keep: bool) -> Result<Deleted, PlanError> {
    let mut plan = Plan::new(draft, Cause::Person);
    let not_found = || PlanError::NotFound { kind, id: id.to_owned() };
    let found = plan.draft.resource(id).await?.filter(|found| found.kind == kind);
    let mut resource = found.ok_or_else(not_found)?;
    kind.def().deletable(&resource)?;
    let rules = kinds::of(kind);
    match rules.facts().deletion {
        Deletion::AtOnce => {
            take_away(&mut plan, &resource).await?;
            plan.finish().await?;
            Ok(Deleted::Gone)
        }
        Deletion::Revoked => {
            if !rules.revoke(&mut resource, plan.draft.now())? {
                return Err(not_found());
            }
            plan.put(resource).await?;
            plan.finish().await?;
            Ok(Deleted::Gone)
        }
        Deletion::Gradual if is_leaving(&resource) || (may_keep && is_deleting(&resource)) => {
            Ok(Deleted::Deleting(Box::new(resource)))
        }
        Deletion::Gradual => {
            let kept = if may_keep { kept(&mut plan, &resource).await? } else { None };
            begin(&mut plan, resource, kept).await?;
            let written = plan.finish().await?.written.take(id);
            Ok(written.map_or(Deleted::Gone, |resource| Deleted::Deleting(Box::new(resource))))
        }
    }
}

/// Takes a resource away whose row goes at once.
pub(super) async fn take_away(plan: &mut Plan<'_>, resource: &Resource) -> Result<(), PlanError> {
    let kind = kinds::of(resource.kind);
    kind.leave(resource, plan).await?;
    plan.remove(resource);
    plan.replan(kind.touched(Some(resource), None, Cause::Person)?).await
}

/// How a deletion is kept that a person asks for now: as the policy of the resource's brand says, for kinds that are kept.
pub(super) async fn kept(plan: &mut Plan<'_>, resource: &Resource) -> Result<Option<Kept>, PlanError> {
    if !kinds::of(resource.kind).facts().keeps {
        return Ok(None);
    }
    let brand = read::brand_of(&mut plan.draft, resource).await?;
    let days = brand.map_or(0, |brand| brand.spec.undelete_days);
    let Some(days) = i64::try_from(days).ok().filter(|days| *days > 0) else { return Ok(None) };
    let now = plan.draft.now();
    Ok(Some(Kept {
        cause: format!("{}@{}", resource.id, plan.draft.revision()),
        at: now,
        until: now.saturating_add(days.saturating_mul(DAY)),
        was_suspended: false,
        nodes: BTreeSet::new(),
        gave_way: false,
    }))
}

/// Whether resources of a kind can be deleted so that they can be brought back: for themselves, or with what they lie in.
#[must_use]
pub fn is_restorable(kind: Kind) -> bool {
    let facts = kinds::of(kind).facts();
    let is_part = facts.goes_with.iter().any(|goes| goes.by == Tie::Part);
    let goes_with_kept = facts.goes_with.iter().any(|goes| goes.with != kind && is_restorable(goes.with));
    facts.deletion == Deletion::Gradual && !is_part && (facts.keeps || goes_with_kept)
}

/// Marks a resource, withdraws what it has on machines, and starts on what lies in it. `kept`: it can be brought back, and nothing of it
/// is destroyed. What is kept of an earlier deletion stays so then, and goes for good otherwise.
pub(super) async fn begin(
    plan: &mut Plan<'_>,
    before: Resource,
    kept: Option<Kept>,
) -> Result<(), PlanError> {
    if is_leaving(&before) {
        return Ok(());
    }
    if let (Some(kept), Some(earlier)) = (&kept, before.kept()) {
        return adopt(plan, before, kept, earlier).await;
    }
    let kind = kinds::of(before.kind);
    let mut after = before.clone();
    after.status = if kept.is_some() { Status::Deleted } else { Status::Deleting };
    after.status_message = None;
    after.generation += 1;
    after.set_progress(&Progress { conditions: None, cascade: None, ..after.progress() });
    trace::note(&plan.draft, &mut after);
    let has_own_data = kind.facts().retires.is_some_and(|retires| !retires.after_children);
    match kept {
        Some(kept) => {
            let nodes = if has_own_data { holders_of(plan, &after).await? } else { BTreeSet::new() };
            let was_suspended = before.status == Status::Suspended;
            let kept = Some(Kept { was_suspended, nodes, ..kept });
            after.set_progress(&Progress { kept, ..after.progress() });
        }
        None => {
            if has_own_data {
                note_retirement(plan, &mut after).await?;
            }
            kind.leave(&before, plan).await?;
        }
    }
    plan.put(after.clone()).await?;
    let outer = plan.take_changed();
    kind.sync(&mut after, plan).await?;
    let mut units = kind.touched(Some(&before), Some(&after), Cause::Person)?;
    if after.progress().retire_on.is_some() {
        units.insert(Unit::Retire(after.id.clone()));
    }
    plan.replan(units).await?;
    note_withdrawn(plan, &mut after);
    plan.restore_changed(outer);
    plan.put(after.clone()).await?;
    Box::pin(cascade(plan, after)).await
}

/// What is kept already stays as it is. Was it left behind by an undelete of the same thing that is not through yet, it is part of this
/// deletion.
async fn adopt(plan: &mut Plan<'_>, mut left: Resource, kept: &Kept, earlier: Kept) -> Result<(), PlanError> {
    if !kept.is_of_the_same(&earlier) {
        return Ok(());
    }
    let Kept { cause, at, until, .. } = kept.clone();
    let kept = Some(Kept { cause, at, until, ..earlier });
    left.set_progress(&Progress { kept, ..left.progress() });
    plan.put(left).await
}

/// Notes who has to let go, and up to which revision.
fn note_withdrawn(plan: &mut Plan<'_>, resource: &mut Resource) {
    let revision = plan.draft.revision();
    let mut progress = resource.progress();
    let withdrawn = progress.withdrawn.get_or_insert_default();
    withdrawn.extend(plan.take_changed().iter().map(|audience| (audience.to_string(), revision)));
    resource.set_progress(&progress);
}

/// Notes the nodes that have to destroy its data.
async fn note_retirement(plan: &mut Plan<'_>, resource: &mut Resource) -> Result<(), PlanError> {
    let nodes = holders_of(plan, resource).await?;
    resource.set_progress(&Progress { retire_on: Some(nodes), ..resource.progress() });
    Ok(())
}

/// Every node that was ever told about it, had it when it was deleted, or would have it: each may hold its data.
async fn holders_of(plan: &mut Plan<'_>, resource: &Resource) -> Result<BTreeSet<String>, PlanError> {
    let unit = Unit::Of(resource.kind, resource.id.clone());
    let told = plan.draft.owned(&unit.owner()).await?;
    let told = told.iter().filter(|row| matches!(row.audience, Audience::Node(_)));
    let mut nodes: BTreeSet<String> = told.map(|row| row.audience.id().to_owned()).collect();
    nodes.extend(kinds::of(resource.kind).data_nodes(resource, &mut plan.draft).await?);
    nodes.extend(resource.progress().kept.map(|kept| kept.nodes).unwrap_or_default());
    Ok(nodes)
}

/// Takes the next part of what lies in a resource along, as much as the transaction holds.
async fn cascade(plan: &mut Plan<'_>, mut resource: Resource) -> Result<(), PlanError> {
    let ties: Vec<(Kind, Tie)> = kinds::goes_with(resource.kind).collect();
    let mut progress = resource.progress();
    if ties.is_empty() || progress.retire_on.is_some() && retires_last(resource.kind) {
        return Ok(());
    }
    let kept = resource.kept();
    let before = resource.clone();
    let place = progress.cascade.take().unwrap_or_default();
    if !place.begun {
        let first = ties.iter().position(|(kind, _)| Some(*kind) == place.kind).unwrap_or_default();
        let mut after = place.after;
        for (kind, tie) in ties.into_iter().skip(first) {
            let done = match tie {
                Tie::Referrer(_) | Tie::Follower(_) | Tie::Child => {
                    begin_tied(plan, (kind, tie), &resource.id, &mut after, kept.as_ref()).await?
                }
                Tie::Part if kept.is_some() => true,
                Tie::Part => remove_parts(plan, kind, &mut resource).await?,
            };
            if !done {
                let cascade = Some(Cascade { kind: Some(kind), after, begun: false });
                resource.set_progress(&Progress { cascade, ..resource.progress() });
                if kept.is_some() {
                    // Nothing of it is open to be looked at: the queue goes on with it.
                    let after = plan.draft.revision().to_string();
                    let (of, cause) = (resource.id.clone(), Cause::Person);
                    plan.enqueue([Unit::Walk { over: Walk::Keeping, of, after, cause, rollout: 0 }]);
                }
                return plan.put(resource).await;
            }
            after.clear();
        }
        let cascade = Some(Cascade { begun: true, ..Cascade::default() });
        resource.set_progress(&Progress { cascade, ..resource.progress() });
    }
    if kept.is_none() && retires_last(resource.kind) && !has_children(&mut plan.draft, &resource).await? {
        note_retirement(plan, &mut resource).await?;
        plan.put(resource.clone()).await?;
        plan.take_changed();
        let id = resource.id.clone();
        plan.replan([Unit::Of(resource.kind, id.clone()), Unit::Retire(id)]).await?;
        note_withdrawn(plan, &mut resource);
    }
    if resource == before { Ok(()) } else { plan.put(resource).await }
}

fn retires_last(kind: Kind) -> bool {
    kinds::of(kind).facts().retires.is_some_and(|retires| retires.after_children)
}

/// Begins the deletion of what hangs on `on` by a tie, from `after` on. Nothing new can come to hang on what is deleted, so the place only
/// moves forward. True when nothing is left to begin.
async fn begin_tied(
    plan: &mut Plan<'_>,
    (kind, tie): (Kind, Tie),
    on: &str,
    after: &mut String,
    kept: Option<&Kept>,
) -> Result<bool, PlanError> {
    loop {
        let page = match tie {
            Tie::Child | Tie::Part => plan.draft.children(kind, on, after, STEP).await?,
            Tie::Referrer(relation) | Tie::Follower(relation) => {
                plan.draft.referrers(kind, relation, on, after, STEP).await?
            }
        };
        let last_page = page.len() < STEP as usize;
        for child in page {
            if plan.is_full() {
                return Ok(false);
            }
            after.clone_from(&child.id);
            begin(plan, child, kept.cloned()).await?;
        }
        if last_page {
            return Ok(true);
        }
    }
}

/// Removes what lies in `whole` and goes with it: nobody has to wait for each of them. True when nothing is left.
async fn remove_parts(plan: &mut Plan<'_>, kind: Kind, whole: &mut Resource) -> Result<bool, PlanError> {
    let outer = plan.take_changed();
    let mut done = false;
    while !done && !plan.is_full() {
        let page = plan.draft.children(kind, &whole.id, "", STEP).await?;
        done = page.len() < STEP as usize;
        let mut units = BTreeSet::new();
        for part in &page {
            units.extend(kinds::of(kind).units(part)?);
            plan.remove(part);
        }
        plan.replan(units).await?;
    }
    note_withdrawn(plan, whole);
    plan.restore_changed(outer);
    Ok(done)
}

/// Whether [`continue_delete`] has anything to do: with `has_children` as [`has_children`] answers.
#[must_use]
pub fn wants_continuing(resource: &Resource, has_children: bool) -> bool {
    if !is_leaving(resource) || kinds::goes_with(resource.kind).next().is_none() {
        return false;
    }
    // Children that are on their way out are there for a while: only what is not begun yet is to be done.
    let progress = resource.progress();
    let begun = progress.cascade.is_some_and(|cascade| cascade.begun);
    if retires_last(resource.kind) {
        progress.retire_on.is_none() && (!begun || !has_children)
    } else {
        !begun
    }
}

/// Goes on with a deletion that did not fit one transaction. True while there is more to begin.
///
/// # Errors
/// When the store fails.
pub async fn continue_delete(draft: &mut dyn Draft, id: &str) -> Result<bool, PlanError> {
    let mut plan = Plan::new(draft, Cause::Person);
    let Some(resource) = plan.draft.resource(id).await?.filter(is_leaving) else { return Ok(false) };
    cascade(&mut plan, resource).await?;
    let full = plan.is_full();
    plan.finish().await?;
    Ok(full)
}

/// Goes on with a deletion that is kept and did not fit one transaction, as a step of the replan queue.
pub(crate) async fn go_on_keeping(plan: &mut Plan<'_>, id: &str) -> Result<(), PlanError> {
    match plan.draft.resource(id).await?.filter(|found| found.kept().is_some()) {
        Some(resource) => cascade(plan, resource).await,
        None => Ok(()),
    }
}

/// Whether anything lies in a resource that has to go before it.
///
/// # Errors
/// When a read fails.
pub async fn has_children(world: &mut dyn World, resource: &Resource) -> Result<bool, WorldError> {
    let id = resource.id.as_str();
    for (kind, tie) in kinds::goes_with(resource.kind) {
        let first = match tie {
            Tie::Child | Tie::Part => world.children(kind, id, "", 1).await?,
            // By facet: what is being deleted refers to nothing any more, and is still there.
            Tie::Referrer(relation) => world.with_facet(kind, relation, id, "", 1).await?,
            Tie::Follower(relation) => world.referrers(kind, relation, id, "", 1).await?,
        };
        if !first.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the row of a deletion that the fleet has let go of, and the Retire intents that are done. Those of nodes that
/// are away stay. False when it is not time yet.
///
/// # Errors
/// When the store fails.
pub async fn finish_delete(draft: &mut dyn Draft, id: &str, retired: &[String]) -> Result<bool, PlanError> {
    let mut plan = Plan::new(draft, Cause::Person);
    let Some(resource) = plan.draft.resource(id).await?.filter(is_leaving) else { return Ok(false) };
    if has_children(&mut plan.draft, &resource).await? {
        return Ok(false);
    }
    plan.remove(&resource);
    let done: BTreeSet<Audience> = retired.iter().filter_map(|node| Audience::node(node).ok()).collect();
    let rows = plan.draft.owned(&Unit::Retire(id.to_owned()).owner()).await?;
    for change in withdraw(rows, |row| done.contains(&row.audience)) {
        plan.draft.intend(change);
    }
    // Nothing is to be planned: its deletion began with the withdrawal of everything that its units had.
    plan.finish().await?;
    Ok(true)
}

pub(super) fn withdraw(
    rows: Vec<crate::IntentRow>,
    which: impl Fn(&crate::IntentRow) -> bool,
) -> Vec<IntentChange> {
    rows.into_iter()
        .filter(|row| which(row))
        .map(|row| IntentChange {
            audience: row.audience,
            key: row.key,
            owner: row.owner,
            value: None,
            cause: Cause::Person,
            traceparent: None,
            rollout: 0,
        })
        .collect()
}
