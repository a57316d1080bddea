//! DELETE: what goes at once, what goes when the fleet has let go, and what it takes along.

use std::collections::BTreeSet;

use hosting_intent::{Audience, Cause};
use hosting_resource::{Kind, Resource, Status};
use serde_json::{Map, Value, json};

use super::create::addresses_changed;
use super::update::refused;
use crate::fields::{ZONE_SERIAL, is_deleting, state, state_number, withdrawn};
use crate::gates::{CONDITIONS, record_unit};
use crate::plan::{Plan, is_later};
use crate::touched::touched;
use crate::{Change, Draft, IntentChange, PlanError, Unit, World, WorldError, auto_records, read, trace};

/// Children that one read of a cascade takes.
const STEP: u32 = 50;

/// What a DELETE did.
#[derive(Debug, Clone, PartialEq)]
pub enum Deleted {
    /// The row is gone.
    Gone,
    /// The row goes when the fleet has let go.
    Deleting(Box<Resource>),
}

/// Deletes a resource and all that lies in it. What is being deleted already stays so.
///
/// # Errors
/// [`PlanError::NotFound`], [`PlanError::InUse`], [`PlanError::Forbidden`].
pub async fn delete(draft: &mut dyn Draft, kind: Kind, id: &str) -> Result<Deleted, PlanError> {
    let Some(resource) = read::of_kind(draft, kind, id).await? else {
        return Err(PlanError::NotFound { kind, id: id.to_owned() });
    };
    kind.def().deletable(&resource).map_err(refused)?;
    let mut plan = Plan::new(draft, Cause::Person);
    match kind {
        Kind::Brand | Kind::Region | Kind::Cluster | Kind::LbAddress | Kind::Shard | Kind::Node => {
            if kind == Kind::LbAddress {
                addresses_changed(&mut plan, &resource).await?;
            }
            plan.remove(&resource).await?;
            plan.replan(touched(Some(&resource), None, Cause::Person)).await?;
            plan.finish().await?;
            Ok(Deleted::Gone)
        }
        Kind::ApiKey => {
            if resource.state.contains_key(state::REVOKED_AT) {
                return Err(PlanError::NotFound { kind, id: id.to_owned() });
            }
            let mut revoked = resource;
            let now = plan.draft.now();
            revoked.state.insert(state::REVOKED_AT.to_owned(), now.into());
            plan.put(vec![revoked]).await?;
            Ok(Deleted::Gone)
        }
        Kind::Tenant | Kind::Subscription | Kind::Webroot | Kind::Fqdn | Kind::Zone | Kind::ZoneRecord => {
            begin(&mut plan, resource).await?;
            plan.finish().await?;
            Ok(match draft.resource(id).await? {
                Some(resource) => Deleted::Deleting(Box::new(resource)),
                None => Deleted::Gone,
            })
        }
    }
}

/// Marks a resource, withdraws what it has on machines, and starts on what lies in it.
async fn begin(plan: &mut Plan<'_>, resource: Resource) -> Result<(), PlanError> {
    if is_deleting(&resource) {
        return Ok(());
    }
    let before = resource;
    let mut after = before.clone();
    after.status = Status::Deleting;
    after.status_message = None;
    after.generation += 1;
    after.state.remove(CONDITIONS);
    trace::note(plan.draft, &mut after);
    if after.kind == Kind::Webroot {
        note_retirement(plan, &mut after, Unit::Webroot(before.id.clone())).await?;
    }
    if after.kind == Kind::Zone {
        note_serial(plan, &after).await?;
    }
    plan.put(vec![after.clone()]).await?;
    let outer = plan.take_changed();
    if matches!(after.kind, Kind::Fqdn | Kind::Webroot) {
        auto_records::sync(plan, &mut after).await?;
    }
    plan.replan(touched(Some(&before), Some(&after), Cause::Person)).await?;
    note_withdrawn(plan, &mut after);
    plan.restore_changed(outer);
    plan.put(vec![after.clone()]).await?;
    Box::pin(cascade(plan, after)).await
}

/// Keeps the latest serial of any deleted zone (RFC 1982 §3.2): one made anew under the same name begins after it.
async fn note_serial(plan: &mut Plan<'_>, zone: &Resource) -> Result<(), PlanError> {
    let latest = plan.draft.counter(ZONE_SERIAL).await?;
    let serial = state_number(zone, state::SERIAL);
    if is_later(serial, latest) { plan.set_counter(ZONE_SERIAL, serial).await } else { Ok(()) }
}

/// Who has to let go, and up to which revision.
fn note_withdrawn(plan: &mut Plan<'_>, resource: &mut Resource) {
    let revision = plan.draft.revision();
    let mut noted = withdrawn(resource);
    noted.extend(plan.take_changed().into_iter().map(|audience| (audience, revision)));
    let noted: Map<String, Value> =
        noted.into_iter().map(|(audience, at)| (audience.to_string(), at.into())).collect();
    resource.state.insert(state::WITHDRAWN.to_owned(), Value::Object(noted));
}

/// Every node that was ever told about it and every node of its shard: each may hold its data.
async fn note_retirement(plan: &mut Plan<'_>, resource: &mut Resource, unit: Unit) -> Result<(), PlanError> {
    let mut nodes: BTreeSet<String> = plan
        .draft
        .owned(&unit.owner())
        .await?
        .iter()
        .filter(|row| matches!(row.audience, Audience::Node(_)))
        .map(|row| row.audience.id().to_owned())
        .collect();
    let tenant = if resource.kind == Kind::Tenant {
        Some(resource.clone())
    } else {
        read::of_kind(plan.draft, Kind::Tenant, resource.parent.as_deref().unwrap_or_default()).await?
    };
    if let Some(tenant) = tenant {
        let members = read::nodes_of_shard(plan.draft, read::shard_of(&tenant)).await?;
        nodes.extend(members.into_iter().map(|node| node.id));
    }
    resource.state.insert(state::RETIRE_ON.to_owned(), json!(nodes));
    Ok(())
}

/// Takes the next part of what lies in a resource along, as much as the transaction holds.
async fn cascade(plan: &mut Plan<'_>, resource: Resource) -> Result<(), PlanError> {
    match resource.kind {
        Kind::Webroot => begin_referrers(plan, Kind::Fqdn, "webroot_id", &resource.id).await.map(|_| ()),
        Kind::Subscription => subscription_cascade(plan, resource).await,
        Kind::Tenant => tenant_cascade(plan, resource).await,
        Kind::Zone => zone_cascade(plan, resource).await,
        Kind::Brand
        | Kind::Region
        | Kind::Cluster
        | Kind::LbAddress
        | Kind::Shard
        | Kind::Node
        | Kind::Fqdn
        | Kind::ZoneRecord
        | Kind::ApiKey => Ok(()),
    }
}

/// What is being deleted refers to nothing any more, so the first page is always what is left. True when nothing is.
async fn begin_referrers(
    plan: &mut Plan<'_>,
    kind: Kind,
    relation: &str,
    to: &str,
) -> Result<bool, PlanError> {
    loop {
        let page = plan.draft.referrers(kind, relation, to, "", STEP).await?;
        if page.is_empty() {
            return Ok(true);
        }
        for resource in page {
            if plan.is_full() {
                return Ok(false);
            }
            begin(plan, resource).await?;
        }
    }
}

/// What is billed with it. It goes last, so that whoever waits for it has waited for all of it.
async fn subscription_cascade(plan: &mut Plan<'_>, mut subscription: Resource) -> Result<(), PlanError> {
    if is_all_begun(&subscription) {
        return Ok(());
    }
    for kind in BILLED {
        if !begin_referrers(plan, kind, "subscription_id", &subscription.id).await? {
            return Ok(());
        }
    }
    subscription.state.insert(state::CASCADE.to_owned(), json!({"after": ALL}));
    plan.put(vec![subscription]).await
}

/// The kinds that refer to a subscription.
const BILLED: [Kind; 2] = [Kind::Webroot, Kind::Zone];

/// Whether everything that lies in it is gone or on its way out.
fn is_all_begun(resource: &Resource) -> bool {
    let place = resource.state.get(state::CASCADE).and_then(|place| place.get("after"));
    place.and_then(Value::as_str) == Some(ALL)
}

/// Behind every id.
const ALL: &str = "~";

/// The kinds that lie in a tenant, in the order in which they go.
const IN_TENANT: [Kind; 3] = [Kind::Webroot, Kind::Fqdn, Kind::Subscription];

async fn tenant_cascade(plan: &mut Plan<'_>, mut tenant: Resource) -> Result<(), PlanError> {
    if tenant.state.contains_key(state::RETIRE_ON) {
        return Ok(());
    }
    let before = tenant.clone();
    if !begin_referrers(plan, Kind::Zone, "tenant_id", &tenant.id).await? {
        return Ok(());
    }
    // Nothing new can come into what is being deleted, so the place only moves forward.
    let place = tenant.state.get(state::CASCADE).cloned().unwrap_or_default();
    let at = |field: &str| place.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let first = IN_TENANT.iter().position(|kind| kind.name() == at("kind")).unwrap_or_default();
    let mut after = at("after");
    for kind in IN_TENANT.into_iter().skip(first) {
        loop {
            let page = plan.draft.children(kind, &tenant.id, &after, STEP).await?;
            let last_page = page.len() < STEP as usize;
            for child in page {
                if plan.is_full() {
                    tenant
                        .state
                        .insert(state::CASCADE.to_owned(), json!({"kind": kind.name(), "after": after}));
                    return plan.put(vec![tenant]).await;
                }
                after.clone_from(&child.id);
                begin(plan, child).await?;
            }
            if last_page {
                break;
            }
        }
        after.clear();
    }
    tenant.state.insert(state::CASCADE.to_owned(), json!({"kind": Kind::Subscription.name(), "after": ALL}));
    if !has_children(plan.draft, &tenant).await? {
        let unit = Unit::Tenant(tenant.id.clone());
        note_retirement(plan, &mut tenant, unit).await?;
        plan.put(vec![tenant.clone()]).await?;
        plan.take_changed();
        plan.replan([Unit::Tenant(tenant.id.clone()), Unit::Retire(tenant.id.clone())]).await?;
        note_withdrawn(plan, &mut tenant);
    }
    if tenant != before { plan.put(vec![tenant]).await } else { Ok(()) }
}

/// A zone's records go with its apex: nobody has to wait for each of them.
async fn zone_cascade(plan: &mut Plan<'_>, mut zone: Resource) -> Result<(), PlanError> {
    let outer = plan.take_changed();
    while !plan.is_full() {
        let page = plan.draft.children(Kind::ZoneRecord, &zone.id, "", STEP).await?;
        let last_page = page.len() < STEP as usize;
        let units: BTreeSet<Unit> = page.iter().filter_map(record_unit).collect();
        for record in &page {
            plan.remove(record).await?;
        }
        plan.replan(units).await?;
        if last_page {
            break;
        }
    }
    note_withdrawn(plan, &mut zone);
    plan.restore_changed(outer);
    plan.put(vec![zone]).await
}

/// Whether [`continue_delete`] has anything to do: with `has_children` as [`has_children`] answers.
#[must_use]
pub fn wants_continuing(resource: &Resource, has_children: bool) -> bool {
    if !is_deleting(resource) {
        return false;
    }
    // Children that are on their way out are there for a while: only what is not begun yet is to be done.
    match resource.kind {
        Kind::Tenant => {
            !resource.state.contains_key(state::RETIRE_ON) && (!is_all_begun(resource) || !has_children)
        }
        Kind::Subscription => !is_all_begun(resource),
        Kind::Brand
        | Kind::Region
        | Kind::Cluster
        | Kind::LbAddress
        | Kind::Shard
        | Kind::Node
        | Kind::Webroot
        | Kind::Fqdn
        | Kind::Zone
        | Kind::ZoneRecord
        | Kind::ApiKey => has_children,
    }
}

/// Goes on with a deletion that did not fit one transaction. True while there is more to begin.
///
/// # Errors
/// When the store fails.
pub async fn continue_delete(draft: &mut dyn Draft, id: &str) -> Result<bool, PlanError> {
    let Some(resource) = draft.resource(id).await?.filter(is_deleting) else { return Ok(false) };
    let mut plan = Plan::new(draft, Cause::Person);
    cascade(&mut plan, resource).await?;
    let full = plan.is_full();
    plan.finish().await?;
    Ok(full)
}

/// Whether anything lies in a resource that has to go before it.
///
/// # Errors
/// When a read fails.
pub async fn has_children(world: &mut dyn World, resource: &Resource) -> Result<bool, WorldError> {
    let id = resource.id.as_str();
    Ok(match resource.kind {
        Kind::Webroot => !world.referrers(Kind::Fqdn, "webroot_id", id, "", 1).await?.is_empty(),
        // By facet: what is being deleted refers to nothing any more, and is still there.
        Kind::Subscription => {
            for kind in BILLED {
                if !world.with_facet(kind, "subscription_id", id, "", 1).await?.is_empty() {
                    return Ok(true);
                }
            }
            false
        }
        Kind::Zone => !world.children(Kind::ZoneRecord, id, "", 1).await?.is_empty(),
        Kind::Tenant => {
            for kind in IN_TENANT {
                if !world.children(kind, id, "", 1).await?.is_empty() {
                    return Ok(true);
                }
            }
            !world.with_facet(Kind::Zone, "tenant_id", id, "", 1).await?.is_empty()
        }
        Kind::Brand
        | Kind::Region
        | Kind::Cluster
        | Kind::LbAddress
        | Kind::Shard
        | Kind::Node
        | Kind::Fqdn
        | Kind::ZoneRecord
        | Kind::ApiKey => false,
    })
}

/// Removes the row of a deletion that the fleet has let go of, and the Retire intents that are done. Those of nodes that
/// are away stay. False when it is not time yet.
///
/// # Errors
/// When the store fails.
pub async fn finish_delete(draft: &mut dyn Draft, id: &str, retired: &[String]) -> Result<bool, PlanError> {
    let Some(resource) = draft.resource(id).await?.filter(is_deleting) else { return Ok(false) };
    if has_children(draft, &resource).await? {
        return Ok(false);
    }
    let mut plan = Plan::new(draft, Cause::Person);
    plan.remove(&resource).await?;
    let done: BTreeSet<Audience> = retired.iter().filter_map(|node| Audience::node(node).ok()).collect();
    let intents = withdraw(plan.draft.owned(&Unit::Retire(id.to_owned()).owner()).await?, |row| {
        done.contains(&row.audience)
    });
    plan.draft.apply(Change { intents, ..Change::default() }).await?;
    // A bound name was never to be lost with its site, and what a row is gone for has no records left.
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
        })
        .collect()
}
