//! PUT and the actions on one resource.

use hosting_intent::Cause;
use hosting_resource::kinds::zone_record;
use hosting_resource::{Kind, Resource, SpecError, Status, Update};
use serde_json::Value;

use super::check::{check, give_places, live};
use crate::fields::{is_deleting, state};
use crate::gates::units_of;
use crate::plan::Plan;
use crate::touched::touched;
use crate::{Change, Draft, IntentChange, PlanError, Unit, Walk, auto_records, read, trace};

/// Writes a checked PUT. `current` was read from the same draft.
///
/// # Errors
/// What does not fit together; a taken name is [`crate::ApplyError::Taken`].
pub async fn update(draft: &mut dyn Draft, current: Resource, update: Update) -> Result<Resource, PlanError> {
    if is_deleting(&current) {
        return Err(PlanError::Conflict(format!("{} {} is being deleted", current.kind, current.id)));
    }
    if !update.changed {
        return Ok(current);
    }
    let mut after = current.clone();
    let owner = match &update.owner {
        Some(owner) => Some(live(draft, owner.field, owner.kind, &owner.id).await?),
        None => None,
    };
    update.apply(&mut after, owner.as_ref(), draft.now());
    if after.kind == Kind::ZoneRecord && after.spec.get("content") != current.spec.get("content") {
        let zone = read::of_kind(draft, Kind::Zone, after.parent.as_deref().unwrap_or_default()).await?;
        let zone = zone.map(|zone| zone.label).unwrap_or_default();
        zone_record::settle(&mut after, &zone).map_err(refused)?;
        // The same data in another spelling is no change.
        if after.spec == current.spec {
            return Ok(current);
        }
    }
    if after.kind == Kind::Zone && after.tenant != current.tenant {
        move_zone(draft, &current, &mut after).await?;
    }
    check(draft, &after, Some(&current)).await?;
    if trace::waits(after.status) {
        trace::note(draft, &mut after);
    }
    if after.kind == Kind::Node && after.spec.get("shard_ids") != current.spec.get("shard_ids") {
        give_places(draft, &mut after).await?;
    }
    let mut plan = Plan::new(draft, Cause::Person);
    plan.put(vec![after.clone()]).await?;
    if matches!(after.kind, Kind::Fqdn | Kind::Webroot) {
        auto_records::sync(&mut plan, &mut after).await?;
    }
    plan.replan(touched(Some(&current), Some(&after), Cause::Person)).await?;
    let reaches_machines = !plan.take_changed().is_empty();
    if reaches_machines && is_gated(after.kind) {
        after.status = match after.status {
            Status::Active | Status::Converging | Status::Degraded => Status::Converging,
            Status::Failed | Status::Provisioning => Status::Provisioning,
            other @ (Status::Pending | Status::Suspended | Status::Deleting | Status::AutoDisabled) => other,
        };
        if after.status != Status::Failed {
            after.status_message = None;
        }
        trace::note(plan.draft, &mut after);
        plan.put(vec![after.clone()]).await?;
    }
    plan.finish().await?;
    stored(draft, after).await
}

/// What a document alone breaks, found once the zone is known.
pub(super) fn refused(error: SpecError) -> PlanError {
    match error {
        SpecError::Forbidden(reason) => PlanError::Forbidden(reason),
        SpecError::Malformed { problem } => PlanError::Conflict(problem),
        SpecError::Invalid { field, problem } => PlanError::invalid(field, problem),
        SpecError::NotServed { field, detail } => PlanError::invalid(field, detail),
    }
}

/// Kinds whose status follows from what the fleet reports.
const fn is_gated(kind: Kind) -> bool {
    match kind {
        Kind::Tenant | Kind::Webroot | Kind::Fqdn | Kind::Zone | Kind::ZoneRecord => true,
        Kind::Brand
        | Kind::Region
        | Kind::Cluster
        | Kind::LbAddress
        | Kind::Shard
        | Kind::Node
        | Kind::Subscription
        | Kind::ApiKey => false,
    }
}

async fn stored(draft: &mut dyn Draft, resource: Resource) -> Result<Resource, PlanError> {
    Ok(draft.resource(&resource.id).await?.unwrap_or(resource))
}

/// A zone that changes hands stays in its brand and is billed with the new tenant's first subscription.
async fn move_zone(draft: &mut dyn Draft, before: &Resource, zone: &mut Resource) -> Result<(), PlanError> {
    if zone.tenant.is_none() {
        return Ok(());
    }
    if zone.brand != before.brand {
        let problem = "the tenant is another brand's; a zone stays with its brand";
        return Err(PlanError::invalid("tenant_id", problem));
    }
    let tenant = zone.tenant.clone().unwrap_or_default();
    let first = draft
        .children(Kind::Subscription, &tenant, "", read::PAGE)
        .await?
        .into_iter()
        .find(|subscription| !is_deleting(subscription));
    let Some(subscription) = first else {
        return Err(PlanError::Conflict(format!(
            "tenant {tenant} has no subscription to bill the zone with"
        )));
    };
    zone.spec.insert("subscription_id".to_owned(), Value::String(subscription.id));
    Ok(())
}

async fn existing(draft: &mut dyn Draft, kind: Kind, id: &str) -> Result<Resource, PlanError> {
    read::of_kind(draft, kind, id).await?.ok_or_else(|| PlanError::NotFound { kind, id: id.to_owned() })
}

/// Switches a tenant off: one intent for each audience that knows it.
///
/// # Errors
/// [`PlanError::NotFound`]; [`PlanError::Conflict`] when it is being deleted.
pub async fn suspend(draft: &mut dyn Draft, tenant: &str, reason: &str) -> Result<Resource, PlanError> {
    let mut resource = existing(draft, Kind::Tenant, tenant).await?;
    if is_deleting(&resource) {
        return Err(PlanError::Conflict(format!("tenant {tenant} is being deleted")));
    }
    resource.status = Status::Suspended;
    resource.status_message = None;
    resource.generation += 1;
    resource.state.insert(state::SUSPEND_REASON.to_owned(), reason.into());
    put_and_plan(draft, resource).await
}

/// Switches a suspended tenant on again; one that is not suspended stays as it is.
///
/// # Errors
/// [`PlanError::NotFound`]; [`PlanError::Conflict`] when it is being deleted.
pub async fn unsuspend(draft: &mut dyn Draft, tenant: &str) -> Result<Resource, PlanError> {
    let mut resource = existing(draft, Kind::Tenant, tenant).await?;
    if is_deleting(&resource) {
        return Err(PlanError::Conflict(format!("tenant {tenant} is being deleted")));
    }
    if resource.status != Status::Suspended {
        return Ok(resource);
    }
    resource.status = Status::Pending;
    resource.generation += 1;
    resource.state.remove(state::SUSPEND_REASON);
    put_and_plan(draft, resource).await
}

async fn put_and_plan(draft: &mut dyn Draft, mut resource: Resource) -> Result<Resource, PlanError> {
    trace::note(draft, &mut resource);
    let mut plan = Plan::new(draft, Cause::Person);
    plan.put(vec![resource.clone()]).await?;
    plan.replan(units_of(&resource)).await?;
    plan.finish().await?;
    stored(draft, resource).await
}

/// Tries a failed resource again: whoever applies it gets it anew.
///
/// # Errors
/// [`PlanError::NotFound`]; [`PlanError::Conflict`] when it has not failed.
pub async fn retry(draft: &mut dyn Draft, kind: Kind, id: &str) -> Result<Resource, PlanError> {
    let mut resource = existing(draft, kind, id).await?;
    if resource.status != Status::Failed {
        let problem = format!("{kind} {id} is not in failed state (current: {})", resource.status);
        return Err(PlanError::Conflict(problem));
    }
    resource.status = if is_gated(kind) { Status::Provisioning } else { Status::Active };
    resource.status_message = None;
    resource.state.remove(crate::gates::CONDITIONS);
    trace::note(draft, &mut resource);
    let mut plan = Plan::new(draft, Cause::Person);
    plan.put(vec![resource.clone()]).await?;
    let units = units_of(&resource);
    plan.replan(units.clone()).await?;
    plan.finish().await?;
    // What did not change is withdrawn and wanted again in one revision: subscribers see one change, whose revision makes
    // an agent try again, and is what its next report has to speak of.
    let revision = draft.revision();
    let mut again = Vec::new();
    for unit in units {
        let rows = draft.owned(&unit.owner()).await?;
        for row in rows.into_iter().filter(|row| row.revision < revision) {
            let change = |value| IntentChange {
                audience: row.audience.clone(),
                key: row.key.clone(),
                owner: row.owner.clone(),
                value,
                cause: Cause::Person,
            };
            again.extend([change(None), change(Some(row.value.clone()))]);
        }
    }
    if !again.is_empty() {
        draft.apply(Change { intents: again, ..Change::default() }).await?;
    }
    stored(draft, resource).await
}

/// Tries what has failed below a tenant again, and the tenant itself. `ids` are the candidates that a read found, at most a
/// hundred at a time; what is of another tenant or has not failed is left alone. Answers how many are tried.
///
/// # Errors
/// [`PlanError::NotFound`] when there is no such tenant.
pub async fn retry_failed(draft: &mut dyn Draft, tenant: &str, ids: &[String]) -> Result<u64, PlanError> {
    existing(draft, Kind::Tenant, tenant).await?;
    let mut count = 0;
    for id in ids {
        let Some(resource) = draft.resource(id).await? else { continue };
        if resource.status == Status::Failed && resource.tenant.as_deref() == Some(tenant) {
            retry(draft, resource.kind, id).await?;
            count += 1;
        }
    }
    Ok(count)
}

/// Plans a shard, its tenants and their sites again.
///
/// # Errors
/// [`PlanError::NotFound`] when there is no such shard.
pub async fn converge_shard(draft: &mut dyn Draft, shard: &str) -> Result<Resource, PlanError> {
    let resource = existing(draft, Kind::Shard, shard).await?;
    let mut plan = Plan::new(draft, Cause::Person);
    let walk = Unit::Walk {
        over: Walk::ShardTenants,
        of: shard.to_owned(),
        after: String::new(),
        cause: Cause::Person,
    };
    plan.replan([Unit::Shard(shard.to_owned()), walk]).await?;
    plan.finish().await?;
    Ok(resource)
}
