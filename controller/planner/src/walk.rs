//! Walks: units too many to name, planned a bounded number at a time.
//!
//! A step is level-triggered: it plans what is there when it comes by. What changes behind it was planned by whoever
//! changed it.

use hosting_intent::{Audience, Cause, Key, name};
use hosting_resource::{Kind, Resource};

use crate::fields::{SUFFIX_FACET, is_deleting};
use crate::plan::Plan;
use crate::{PlanError, Unit, Walk, auto_records, read};

/// Resources per step. What a step leaves when the transaction is full, the next one takes.
const STEP: u32 = 100;

/// So many sites or names of one tenant are planned along with it, without a walk of their own.
const FEW: u32 = 10;

/// Takes one step and answers where the next one starts; `None` at the end.
pub(crate) async fn step(
    plan: &mut Plan<'_>,
    over: Walk,
    of: &str,
    after: &str,
    cause: Cause,
) -> Result<Option<Unit>, PlanError> {
    // By facets, not references: what is being deleted refers to nothing any more, and is planned all the same.
    let page = match over {
        Walk::DnsGroups => {
            let audiences = read::dns_audiences(plan.draft).await?;
            plan.replan(audiences.into_iter().map(Unit::Audience)).await?;
            return Ok(None);
        }
        Walk::NodeRows => return node_rows(plan, of, after, cause).await,
        Walk::Unit => {
            if let Some(unit) = Unit::from_owner(after).filter(|unit| !matches!(unit, Unit::Walk { .. })) {
                plan.replan([unit]).await?;
            }
            return Ok(None);
        }
        Walk::BrandZones => plan.draft.with_facet(Kind::Zone, "brand_id", of, after, STEP).await?,
        Walk::ZoneRecords => plan.draft.children(Kind::ZoneRecord, of, after, STEP).await?,
        Walk::ShardTenants => plan.draft.with_facet(Kind::Tenant, "shard_id", of, after, STEP).await?,
        Walk::TenantSites | Walk::TenantServices => {
            plan.draft.children(Kind::Webroot, of, after, STEP).await?
        }
        Walk::ClusterTenants => plan.draft.with_facet(Kind::Tenant, "cluster_id", of, after, STEP).await?,
        Walk::BrandTenants => plan.draft.with_facet(Kind::Tenant, "brand_id", of, after, STEP).await?,
        Walk::TenantNames => plan.draft.children(Kind::Fqdn, of, after, STEP).await?,
        Walk::NamesUnder => plan.draft.with_facet(Kind::Fqdn, SUFFIX_FACET, of, after, STEP).await?,
        Walk::WebrootFqdns => plan.draft.with_facet(Kind::Fqdn, "webroot_id", of, after, STEP).await?,
        Walk::Clusters => plan.draft.list(Kind::Cluster, after, STEP).await?,
    };
    let last_page = page.len() < STEP as usize;
    let mut done = after.to_owned();
    for resource in page {
        if plan.is_full() {
            return Ok(Some(Unit::Walk { over, of: of.to_owned(), after: done, cause }));
        }
        done.clone_from(&resource.id);
        visit(plan, over, resource, cause).await?;
    }
    if !last_page {
        return Ok(Some(Unit::Walk { over, of: of.to_owned(), after: done, cause }));
    }
    if over == Walk::NamesUnder {
        services_under(plan, of, cause).await?;
    }
    Ok(None)
}

/// Plans one resource of a walk.
async fn visit(
    plan: &mut Plan<'_>,
    over: Walk,
    mut resource: Resource,
    cause: Cause,
) -> Result<(), PlanError> {
    match over {
        Walk::BrandZones => plan.replan([Unit::Zone(resource.id)]).await,
        Walk::ZoneRecords => plan.replan(crate::gates::record_unit(&resource)).await,
        Walk::TenantSites => plan.replan([Unit::Webroot(resource.id)]).await,
        Walk::WebrootFqdns => plan.replan([Unit::Fqdn(resource.id)]).await,
        Walk::Clusters => plan.replan([Unit::Cluster(resource.id)]).await,
        Walk::TenantServices => {
            auto_records::sync(plan, &mut resource).await?;
            plan.replan([Unit::Webroot(resource.id)]).await
        }
        Walk::TenantNames | Walk::NamesUnder => {
            auto_records::sync(plan, &mut resource).await?;
            plan.replan([Unit::Fqdn(resource.id)]).await
        }
        Walk::ShardTenants => {
            plan.replan([Unit::Tenant(resource.id.clone())]).await?;
            lying_in(plan, &resource.id, Kind::Webroot, Walk::TenantSites, cause).await
        }
        Walk::BrandTenants => lying_in(plan, &resource.id, Kind::Webroot, Walk::TenantServices, cause).await,
        Walk::ClusterTenants => {
            lying_in(plan, &resource.id, Kind::Fqdn, Walk::TenantNames, cause).await?;
            lying_in(plan, &resource.id, Kind::Webroot, Walk::TenantServices, cause).await
        }
        // None of them goes over resources.
        Walk::DnsGroups | Walk::NodeRows | Walk::Unit => Ok(()),
    }
}

/// What lies in a tenant: at once when it is little, else by a walk of its own.
async fn lying_in(
    plan: &mut Plan<'_>,
    tenant: &str,
    kind: Kind,
    over: Walk,
    cause: Cause,
) -> Result<(), PlanError> {
    let few = plan.draft.children(kind, tenant, "", FEW + 1).await?;
    if few.len() > FEW as usize || plan.is_full() {
        let walk = Unit::Walk { over, of: tenant.to_owned(), after: String::new(), cause };
        return plan.enqueue(vec![walk]).await;
    }
    for resource in few {
        Box::pin(visit(plan, over, resource, cause)).await?;
    }
    Ok(())
}

/// Plans the owners of a node's rows.
async fn node_rows(
    plan: &mut Plan<'_>,
    node: &str,
    after: &str,
    cause: Cause,
) -> Result<Option<Unit>, PlanError> {
    let place = |after: String| Unit::Walk { over: Walk::NodeRows, of: node.to_owned(), after, cause };
    let Ok(audience) = Audience::node(node) else { return Ok(None) };
    let start = after
        .split_once('/')
        .and_then(|(kind, name)| Some(Key { kind: kind.parse().ok()?, name: name.to_owned() }));
    let rows = plan.draft.audience_rows(&audience, start.as_ref(), STEP).await?;
    let last_page = rows.len() < STEP as usize;
    let mut done = after.to_owned();
    for row in rows {
        if plan.is_full() {
            return Ok(Some(place(done)));
        }
        done = format!("{}/{}", row.key.kind, row.key.name);
        if let Some(unit) = Unit::from_owner(&row.owner) {
            plan.replan([unit]).await?;
        }
    }
    Ok((!last_page).then(|| place(done)))
}

/// Sites whose service host names lie under a zone name, or whose tenant's service host names the zone name lies under.
async fn services_under(plan: &mut Plan<'_>, zone: &str, cause: Cause) -> Result<(), PlanError> {
    let brands = {
        let world = &mut *plan.draft;
        read::all_pages!(after => world.list(Kind::Brand, after, read::PAGE))
    };
    for brand in brands.iter().filter(|brand| !is_deleting(brand)) {
        let base = brand.text("base_hostname");
        if base.is_empty() {
            continue;
        }
        if name::is_in_zone(base, zone) {
            let of = brand.id.clone();
            plan.enqueue(vec![Unit::Walk { over: Walk::BrandTenants, of, after: String::new(), cause }])
                .await?;
        } else if name::is_in_zone(zone, base)
            && let Some(label) =
                zone.strip_suffix(base).and_then(|rest| rest.trim_end_matches('.').rsplit('.').next())
        {
            for tenant in [label.to_owned(), label.replacen('-', "_", 1)] {
                if read::of_kind(plan.draft, Kind::Tenant, &tenant).await?.is_some() {
                    let walk =
                        Unit::Walk { over: Walk::TenantServices, of: tenant, after: String::new(), cause };
                    plan.enqueue(vec![walk]).await?;
                    break;
                }
            }
        }
    }
    Ok(())
}
