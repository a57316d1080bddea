//! PUT and the actions on one resource.

use hosting_intent::Cause;
use hosting_resource::kinds::shard::Shard;
use hosting_resource::kinds::tenant::Tenant;
use hosting_resource::purge::Purged;
use hosting_resource::{Doc, Document, Id, Kind, Progress, Resource, Status, Update};

use crate::fields::{is_deleting, why_gone};
use crate::gates::units_of;
use crate::kinds::tenant::SHARD_TENANTS;
use crate::overlay::Overlay;
use crate::plan::Plan;
use crate::quota::Asked;
use crate::{Draft, IntentChange, PlanError, Unit, World, kinds, read, trace};

/// Writes a checked PUT. `current` was read from the same draft.
///
/// # Errors
/// What does not fit together; a taken name is [`crate::ApplyError::Taken`].
pub async fn update(draft: &mut dyn Draft, current: Resource, update: Update) -> Result<Resource, PlanError> {
    if is_deleting(&current) {
        return Err(PlanError::Conflict(format!("{} {} {}", current.kind, current.id, why_gone(&current))));
    }
    if !update.changed {
        return Ok(current);
    }
    let mut plan = Plan::new(draft, Cause::Person);
    match amend(&mut plan, &current, update).await? {
        Some(after) => finish(plan, after).await,
        None => Ok(current),
    }
}

/// Makes a change part of a plan; `None` when nothing differs. What it refuses it refuses before it puts anything.
pub(super) async fn amend(
    plan: &mut Plan<'_>,
    current: &Resource,
    mut update: Update,
) -> Result<Option<Resource>, PlanError> {
    let kind = kinds::of(current.kind);
    let mut after = current.clone();
    let owner = match &update.owner {
        Some(owner) => Some(super::owner(&mut plan.draft, owner).await?),
        None => None,
    };
    let plain = std::mem::take(&mut update.plain);
    update.apply(&mut after, owner.as_ref(), plan.draft.now());
    if after.tenant != current.tenant && after.has_secret() {
        // What is sealed is bound to the tenant.
        return Err(PlanError::Conflict(format!(
            "{} {} holds secrets and stays with its tenant",
            after.kind, after.id
        )));
    }
    plan.draft.seal(&mut after, &plain).await?;
    kind.settle(&mut after, Some(current), &mut plan.draft).await?;
    // The same in another spelling is no change.
    if after.spec == current.spec && after.status == current.status {
        return Ok(None);
    }
    kind.check(&after, Some(current), &mut plan.draft).await?;
    let mut asked = Asked::default();
    asked.note(Some(current), &after);
    asked.admit(&mut plan.draft).await?;
    if trace::waits(after.status) {
        trace::note(&plan.draft, &mut after);
    }
    kind.allocate(&mut after, Some(current), plan).await?;
    super::room::make_room(plan, Some(current), &after).await?;
    plan.put(after.clone()).await?;
    let outer = plan.take_changed();
    kind.sync(&mut after, plan).await?;
    plan.replan(kind.touched(Some(current), Some(&after), Cause::Person)?).await?;
    let reaches_machines = !plan.take_changed().is_empty();
    plan.restore_changed(outer);
    if reaches_machines && kind.facts().gated {
        after.status = on_its_way(after.status);
        if after.status != Status::Failed {
            after.status_message = None;
        }
        trace::note(&plan.draft, &mut after);
        plan.put(after.clone()).await?;
    }
    Ok(Some(after))
}

/// Writes the plan, and answers the resource as it is then stored.
async fn finish(plan: Plan<'_>, resource: Resource) -> Result<Resource, PlanError> {
    let mut written = plan.finish().await?.written;
    Ok(written.take(&resource.id).unwrap_or(resource))
}

pub(super) async fn existing<K: Document>(draft: &mut Overlay<'_>, id: &str) -> Result<Doc<K>, PlanError> {
    let found = read::get(draft, &Id::<K>::from(id)).await?;
    found.ok_or_else(|| PlanError::NotFound { kind: K::KIND, id: id.to_owned() })
}

/// Switches a tenant off: one intent for each audience that knows it.
///
/// # Errors
/// [`PlanError::NotFound`]; [`PlanError::Conflict`] when it is being deleted.
pub async fn suspend(draft: &mut dyn Draft, tenant: &str, reason: &str) -> Result<Resource, PlanError> {
    let mut plan = Plan::new(draft, Cause::Person);
    let mut tenant = staying(&mut plan, tenant).await?;
    tenant.status = Status::Suspended;
    tenant.status_message = None;
    tenant.generation += 1;
    tenant.state.suspend_reason = Some(reason.to_owned());
    put_and_plan(plan, tenant.into_resource()).await
}

/// Switches a suspended tenant on again; one that is not suspended stays as it is.
///
/// # Errors
/// [`PlanError::NotFound`]; [`PlanError::Conflict`] when it is being deleted.
pub async fn unsuspend(draft: &mut dyn Draft, tenant: &str) -> Result<Resource, PlanError> {
    let mut plan = Plan::new(draft, Cause::Person);
    let mut tenant = staying(&mut plan, tenant).await?;
    if tenant.status != Status::Suspended {
        return Ok(tenant.into_resource());
    }
    tenant.status = Status::Pending;
    tenant.generation += 1;
    tenant.state.suspend_reason = None;
    put_and_plan(plan, tenant.into_resource()).await
}

/// Purges what edges cached of a tenant's sites; nothing named: everything. The tenant is in effect again when its edges have it.
///
/// # Errors
/// [`PlanError::NotFound`]; [`PlanError::Conflict`] when it is being deleted.
pub async fn purge_cache(
    draft: &mut dyn Draft,
    tenant: &str,
    purged: Vec<Purged>,
) -> Result<Resource, PlanError> {
    let mut plan = Plan::new(draft, Cause::Person);
    let mut tenant = staying(&mut plan, tenant).await?;
    tenant.state.purges.get_or_insert_default().add(purged);
    tenant.status = on_its_way(tenant.status);
    tenant.generation += 1;
    put_and_plan(plan, tenant.into_resource()).await
}

/// The status of what was told to machines anew.
const fn on_its_way(status: Status) -> Status {
    match status {
        Status::Active | Status::Converging | Status::Degraded => Status::Converging,
        Status::Failed | Status::Provisioning => Status::Provisioning,
        other @ (Status::Pending
        | Status::Suspended
        | Status::Deleted
        | Status::Deleting
        | Status::AutoDisabled) => other,
    }
}

async fn staying(plan: &mut Plan<'_>, tenant: &str) -> Result<Doc<Tenant>, PlanError> {
    let found = existing::<Tenant>(&mut plan.draft, tenant).await?;
    if is_deleting(&found) {
        return Err(PlanError::Conflict(format!("tenant {tenant} {}", why_gone(&found))));
    }
    Ok(found)
}

async fn put_and_plan(mut plan: Plan<'_>, mut resource: Resource) -> Result<Resource, PlanError> {
    trace::note(&plan.draft, &mut resource);
    plan.put(resource.clone()).await?;
    plan.replan(units_of(&resource)).await?;
    finish(plan, resource).await
}

/// Makes it part of a plan that a resource gets the status that people gave it before.
pub(super) async fn switch(
    plan: &mut Plan<'_>,
    mut resource: Resource,
    like: &Resource,
) -> Result<(), PlanError> {
    let kind = kinds::of(resource.kind);
    let before = resource.clone();
    let is_set = !kind.facts().gated || like.status == Status::Suspended;
    resource.status = if is_set { like.status } else { Status::Pending };
    resource.status_message = None;
    resource.generation += 1;
    kind.switch(&mut resource, like)?;
    trace::note(&plan.draft, &mut resource);
    plan.put(resource.clone()).await?;
    let mut units = kind.touched(Some(&before), Some(&resource), Cause::Person)?;
    units.extend(units_of(&resource));
    plan.replan(units).await
}

/// Tries a failed resource again: whoever applies it gets it anew.
///
/// # Errors
/// [`PlanError::NotFound`]; [`PlanError::Conflict`] when it has not failed.
pub async fn retry(draft: &mut dyn Draft, kind: Kind, id: &str) -> Result<Resource, PlanError> {
    let mut plan = Plan::new(draft, Cause::Person);
    let found = plan.draft.resource(id).await?.filter(|found| found.kind == kind);
    let resource = found.ok_or_else(|| PlanError::NotFound { kind, id: id.to_owned() })?;
    if resource.status != Status::Failed {
        let problem = format!("{kind} {id} is not in failed state (current: {})", resource.status);
        return Err(PlanError::Conflict(problem));
    }
    let resource = try_again(&mut plan, resource).await?;
    finish(plan, resource).await
}

async fn try_again(plan: &mut Plan<'_>, mut resource: Resource) -> Result<Resource, PlanError> {
    let gated = kinds::of(resource.kind).facts().gated;
    resource.status = if gated { Status::Provisioning } else { Status::Active };
    resource.status_message = None;
    resource.set_progress(&Progress { conditions: None, ..resource.progress() });
    trace::note(&plan.draft, &mut resource);
    plan.put(resource.clone()).await?;
    let units = units_of(&resource);
    plan.replan(units.clone()).await?;
    // What did not change is withdrawn and wanted again in one revision: subscribers see one change, whose revision makes
    // an agent try again, and is what its next report has to speak of.
    let revision = plan.draft.revision();
    for unit in units {
        let rows = plan.draft.owned(&unit.owner()).await?;
        for row in rows.into_iter().filter(|row| row.revision < revision) {
            for value in [None, Some(row.value.clone())] {
                plan.draft.intend(IntentChange {
                    audience: row.audience.clone(),
                    key: row.key.clone(),
                    owner: row.owner.clone(),
                    value,
                    cause: Cause::Person,
                    traceparent: None,
                    rollout: row.rollout,
                });
            }
        }
    }
    Ok(resource)
}

/// Tries what has failed below a tenant again, and the tenant itself. `ids` are the candidates that a read found, at most a
/// hundred at a time; what is of another tenant or has not failed is left alone. Answers how many are tried.
///
/// # Errors
/// [`PlanError::NotFound`] when there is no such tenant.
pub async fn retry_failed(draft: &mut dyn Draft, tenant: &str, ids: &[String]) -> Result<u64, PlanError> {
    let mut plan = Plan::new(draft, Cause::Person);
    existing::<Tenant>(&mut plan.draft, tenant).await?;
    let mut count = 0;
    for id in ids {
        let Some(resource) = plan.draft.resource(id).await? else { continue };
        if resource.status == Status::Failed && resource.tenant.as_deref() == Some(tenant) {
            try_again(&mut plan, resource).await?;
            count += 1;
        }
    }
    plan.finish().await?;
    Ok(count)
}

/// Plans a shard, its tenants and their sites again.
///
/// # Errors
/// [`PlanError::NotFound`] when there is no such shard.
pub async fn converge_shard(draft: &mut dyn Draft, shard: &str) -> Result<Resource, PlanError> {
    let mut plan = Plan::new(draft, Cause::Person);
    let found = existing::<Shard>(&mut plan.draft, shard).await?;
    plan.replan([Unit::Of(Kind::Shard, shard.to_owned()), SHARD_TENANTS.of(shard, Cause::Person)]).await?;
    plan.finish().await?;
    Ok(found.into_resource())
}
