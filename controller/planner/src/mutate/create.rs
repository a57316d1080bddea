//! POST: a resource and what is nested in it, in one revision.

use std::collections::BTreeSet;

use hosting_intent::Cause;
use hosting_resource::{Creation, Kind, NewResource, Resource, in_brand};

use super::check::{check, give_places, live};
use crate::fields::{FIRST_TENANT_UID, SERIAL_OFFSET, TENANT_UID, ZONE_SERIAL, given, is_deleting, state};
use crate::plan::{Plan, bump_serial};
use crate::touched::touched;
use crate::{Draft, PlanError, Unit, Walk, auto_records, read, trace};

/// Writes what one POST body means: the resource and what is nested in it, as they are then stored, in the order of
/// `creation`.
///
/// # Errors
/// What does not fit together; a taken name is [`crate::ApplyError::Taken`].
pub async fn create(draft: &mut dyn Draft, creation: Creation) -> Result<Vec<Resource>, PlanError> {
    let mut plan = Plan::new(draft, Cause::Person);
    let mut ids = Vec::new();
    let mut units = BTreeSet::new();
    for new in creation.resources {
        let resource = write(&mut plan, new).await?;
        units.extend(touched(None, Some(&resource), Cause::Person));
        ids.push(resource.id);
    }
    let mut created = Vec::new();
    for id in ids {
        let Some(mut resource) = plan.draft.resource(&id).await? else { continue };
        if matches!(resource.kind, Kind::Fqdn | Kind::Webroot) {
            auto_records::sync(&mut plan, &mut resource).await?;
        }
        created.push(resource);
    }
    plan.replan(units).await?;
    plan.finish().await?;
    for resource in &mut created {
        if let Some(stored) = draft.resource(&resource.id).await? {
            *resource = stored;
        }
    }
    Ok(created)
}

/// Checks one resource, gives it what the platform allocates, and puts it.
async fn write(plan: &mut Plan<'_>, mut new: NewResource) -> Result<Resource, PlanError> {
    if let (Some(parent), Some(lies_in)) = (&new.parent, new.kind.info().parent) {
        match read::of_kind(plan.draft, lies_in.kind, parent).await? {
            None => return Err(PlanError::NotFound { kind: lies_in.kind, id: parent.clone() }),
            Some(parent) if is_deleting(&parent) => {
                return Err(PlanError::Conflict(format!("{} {} is being deleted", parent.kind, parent.id)));
            }
            Some(_) => {}
        }
    }
    let owner = match &new.owner {
        Some(owner) => Some(live(plan.draft, owner.field, owner.kind, &owner.id).await?),
        None => None,
    };
    if new.kind == Kind::Subscription {
        let brand = owner.as_ref().and_then(|owner| owner.brand.as_deref()).unwrap_or_default();
        let taken = read::subscription(plan.draft, brand, &new.id).await?;
        if taken.is_some_and(|taken| taken.brand.as_deref() == Some(brand)) {
            return Err(PlanError::Conflict(format!("subscription {:?} exists already", new.id)));
        }
        new.id = in_brand(brand, &new.id);
    }
    if plan.draft.resource(&new.id).await?.is_some() {
        return Err(PlanError::Conflict(format!("{} {:?} exists already", new.kind, new.id)));
    }
    let revision = plan.draft.revision();
    let mut resource = new.into_resource(owner.as_ref(), revision, plan.draft.now());
    trace::note(plan.draft, &mut resource);
    name_subscription(plan.draft, &mut resource).await?;
    check(plan.draft, &resource, None).await?;
    match resource.kind {
        Kind::Tenant => {
            let uid = (plan.draft.counter(TENANT_UID).await? + 1).max(FIRST_TENANT_UID);
            plan.set_counter(TENANT_UID, uid).await?;
            resource.state.insert(state::UID.to_owned(), uid.into());
        }
        Kind::Node => give_places(plan.draft, &mut resource).await?,
        Kind::Zone => {
            let latest = plan.draft.counter(ZONE_SERIAL).await?;
            resource.state.insert(state::SERIAL.to_owned(), latest.into());
            bump_serial(&mut resource, revision);
        }
        Kind::LbAddress => addresses_changed(plan, &resource).await?,
        Kind::Brand
        | Kind::Region
        | Kind::Cluster
        | Kind::Shard
        | Kind::Subscription
        | Kind::Webroot
        | Kind::Fqdn
        | Kind::ZoneRecord
        | Kind::ApiKey => {}
    }
    plan.put(vec![resource.clone()]).await?;
    Ok(resource)
}

/// Refers to a subscription by the id that the store keeps it under.
async fn name_subscription(draft: &mut dyn Draft, resource: &mut Resource) -> Result<(), PlanError> {
    let Some(id) = given(resource, "subscription_id") else { return Ok(()) };
    let brand = resource.brand.as_deref().unwrap_or_default();
    if let Some(subscription) = read::subscription(draft, brand, id).await? {
        resource.spec.insert("subscription_id".to_owned(), subscription.id.into());
    }
    Ok(())
}

/// Every zone's served serial moves with an address, by one intent. What people see in automatic records follows later, as
/// do records of a family that comes or goes.
pub(super) async fn addresses_changed(plan: &mut Plan<'_>, address: &Resource) -> Result<(), PlanError> {
    let offset = plan.draft.counter(SERIAL_OFFSET).await?;
    plan.set_counter(SERIAL_OFFSET, offset + 1).await?;
    let cluster = address.parent.clone().unwrap_or_default();
    plan.enqueue(vec![Unit::Walk {
        over: Walk::ClusterTenants,
        of: cluster,
        after: String::new(),
        cause: Cause::Person,
    }])
    .await
}
