//! A customer's account: whether it is served, and its directories on the nodes of its shard.

use std::collections::{BTreeSet, HashSet};

use async_trait::async_trait;
use hosting_intent::{Audience, Kind as IntentKind, Role, message as m};
pub(crate) use hosting_resource::kinds::tenant::Tenant;
use hosting_resource::{Doc, Document, Kind, Status};

use super::{Changed, Deletion, Facts, Planned, Retires, walks_in_tenant};
use crate::fields::{FIRST_TENANT_UID, TENANT_UID, is_deleting};
use crate::gates::Look;
use crate::overlay::Overlay;
use crate::plan::Plan;
use crate::unit::{Aspect, By, Pages};
use crate::{DesiredIntent, PlanError, Unit, World, http_policy, placement, quota, read};

/// The tenants of a shard, and from each what machines get of it.
pub(crate) const SHARD_TENANTS: Pages = Pages {
    name: "shard_tenants",
    over: Kind::Tenant,
    by: By::Facet("shard_id"),
    aspect: Aspect::Machines,
    is_wide: true,
};

/// The tenants of a cluster, and from each its names.
pub(crate) const CLUSTER_TENANTS: Pages = Pages {
    name: "cluster_tenants",
    over: Kind::Tenant,
    by: By::Facet("cluster_id"),
    aspect: Aspect::Names,
    is_wide: true,
};

/// The tenants of a brand, and from each its service host names.
pub(crate) const BRAND_TENANTS: Pages = Pages {
    name: "brand_tenants",
    over: Kind::Tenant,
    by: By::Facet("brand_id"),
    aspect: Aspect::ServiceNames,
    is_wide: true,
};

/// The tenants of a brand, and from each all its names.
pub(crate) const BRAND_NAMES: Pages = Pages {
    name: "brand_names",
    over: Kind::Tenant,
    by: By::Facet("brand_id"),
    aspect: Aspect::Names,
    is_wide: true,
};

/// So many resources of one tenant are planned along with it, without a walk of their own.
const FEW: u32 = 10;

#[async_trait]
impl Planned for Tenant {
    const FACTS: Facts = Facts {
        gated: true,
        deletion: Deletion::Gradual,
        retires: Some(Retires { intent: IntentKind::Tenant, after_children: true }),
        keeps: true,
        wants_to_the_end: true,
        walks: &[SHARD_TENANTS, CLUSTER_TENANTS, BRAND_TENANTS, BRAND_NAMES],
        ..Facts::PLAIN
    };

    fn touched(change: &Changed<'_, Self>, units: &mut BTreeSet<Unit>) {
        let Some(tenant) = change.both().next() else { return };
        units.extend(Self::units(tenant));
        let lies = |tenant: &Doc<Self>| (tenant.spec.shard_id.clone(), tenant.spec.cluster_id.clone());
        if !change.born_or_gone() && change.differs(lies) {
            let walks = walks_in_tenant(&[Aspect::Machines, Aspect::Names]);
            units.extend(walks.map(|pages| pages.of(&tenant.id, change.cause)));
        }
    }

    async fn derive(tenant: &Doc<Self>, world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError> {
        // Once its data is being destroyed nothing of it is wanted; before that, a tenant on its way out is one that all
        // edges and nodes treat as suspended, so that it stops at once however many children are still to go.
        if tenant.progress().retire_on.is_some() {
            return Ok(Vec::new());
        }
        let (state, reason) = if is_deleting(tenant) {
            (m::State::Suspended, "being deleted")
        } else if tenant.status == Status::Suspended {
            (m::State::Suspended, tenant.state.suspend_reason.as_deref().unwrap_or_default())
        } else {
            (m::State::Active, "")
        };
        let mut wanted = Vec::new();
        let id = tenant.id.as_str();
        if !tenant.spec.cluster_id.is_empty() {
            let http = tenant.spec.http.as_deref().map(|http| Box::new(http_policy::message(http)));
            let purges = tenant.state.purges.as_ref().map(http_policy::purges);
            let (reason, brand_id) = (reason.to_owned(), tenant.spec.brand_id.to_string());
            let message = m::TenantState { state: state as i32, reason, http, purges, brand_id };
            let audience = Audience::edge(&tenant.spec.cluster_id)?;
            wanted.push(DesiredIntent::new(audience, IntentKind::TenantState, id, &message));
        }
        let message =
            m::Tenant { uid: tenant.state.uid, state: state as i32, incarnation: tenant.created_revision };
        for node in read::nodes_of_tenant(world, tenant).await? {
            wanted.push(DesiredIntent::new(Audience::node(&node.id)?, IntentKind::Tenant, id, &message));
        }
        Ok(wanted)
    }

    async fn settle(
        tenant: &mut Doc<Self>,
        before: Option<&Doc<Self>>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        let has_shard = tenant.spec.shard_id.as_deref().is_some_and(|shard| !shard.is_empty());
        if before.is_none() && !has_shard {
            placement::place(tenant, draft).await?;
        }
        Ok(())
    }

    async fn check(
        tenant: &Doc<Self>,
        before: Option<&Doc<Self>>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        let spec = &tenant.spec;
        if before.is_none_or(|before| before.spec.package_id != spec.package_id) {
            quota::is_of_brand(draft, spec.package_id.as_ref(), tenant.brand.as_deref()).await?;
        }
        let stays = before.is_some_and(|before| {
            let before = &before.spec;
            before.brand_id == spec.brand_id
                && before.region_id == spec.region_id
                && before.cluster_id == spec.cluster_id
                && before.shard_id == spec.shard_id
        });
        if stays {
            return Ok(());
        }
        let brand = read::live(draft, "brand_id", &spec.brand_id).await?;
        let region = read::live(draft, "region_id", &spec.region_id).await?;
        let cluster = read::live(draft, "cluster_id", &spec.cluster_id).await?;
        if cluster.parent.as_deref() != Some(region.id.as_str()) {
            let problem = format!("cluster {:?} is not in region {:?}", cluster.id, region.id);
            return Err(PlanError::invalid("cluster_id", problem));
        }
        let allowed = &brand.spec.cluster_ids;
        if !allowed.is_empty() && !allowed.contains(&spec.cluster_id) {
            let problem = format!("cluster {} is not allowed for brand {}", cluster.id, brand.id);
            return Err(PlanError::invalid("cluster_id", problem));
        }
        if let Some(id) = spec.shard_id.as_ref().filter(|id| !id.is_empty()) {
            let shard = read::live(draft, "shard_id", id).await?;
            if shard.parent.as_deref() != Some(cluster.id.as_str()) {
                let problem = format!("shard {:?} is not in cluster {:?}", shard.id, cluster.id);
                return Err(PlanError::invalid("shard_id", problem));
            }
            if shard.spec.role != Role::Web.name() {
                let problem =
                    format!("shard {:?} has the role {:?}; a web shard is needed", shard.id, shard.spec.role);
                return Err(PlanError::invalid("shard_id", problem));
            }
            placement::admit(tenant, &shard, draft).await?;
        }
        Ok(())
    }

    async fn allocate(
        tenant: &mut Doc<Self>,
        before: Option<&Doc<Self>>,
        plan: &mut Plan<'_>,
    ) -> Result<(), PlanError> {
        // One that comes back keeps the user that its files belong to.
        if before.is_none() && tenant.state.uid == 0 {
            let uid = (plan.draft.counter(TENANT_UID).await? + 1).max(FIRST_TENANT_UID);
            plan.draft.set_counter(TENANT_UID, uid);
            tenant.state.uid = u32::try_from(uid)
                .map_err(|_| PlanError::Conflict("all numbers for tenants' users are used up".to_owned()))?;
        }
        Ok(())
    }

    fn kept_state(state: &Self::State) -> Self::State {
        state.clone()
    }

    fn switch(state: &mut Self::State, like: &Self::State) {
        state.suspend_reason.clone_from(&like.suspend_reason);
    }

    async fn data_nodes(tenant: &Doc<Self>, world: &mut dyn World) -> Result<BTreeSet<String>, PlanError> {
        let nodes = read::nodes_of_tenant(world, tenant).await?;
        Ok(nodes.iter().map(|node| node.id.clone()).collect())
    }

    async fn revisit(
        tenant: Doc<Self>,
        aspect: Aspect,
        _: &str,
        plan: &mut Plan<'_>,
    ) -> Result<(), PlanError> {
        let below: &'static [Aspect] = match aspect {
            Aspect::Machines => {
                plan.replan([Unit::Of(Self::KIND, tenant.id.clone())]).await?;
                &[Aspect::Machines]
            }
            Aspect::Names => &[Aspect::Names, Aspect::ServiceNames],
            Aspect::ServiceNames => &[Aspect::ServiceNames],
        };
        for pages in walks_in_tenant(below) {
            lying_in(&tenant.id, pages, plan).await?;
        }
        Ok(())
    }

    fn conditions(tenant: &Doc<Self>, look: &mut Look<'_>) {
        if tenant.spec.shard_id.as_deref().is_some_and(|shard| !shard.is_empty()) {
            look.site(IntentKind::Tenant);
        }
        look.edges("route", IntentKind::TenantState);
    }
}

/// What lies in a tenant: at once when it is little, else by a walk of its own.
async fn lying_in(tenant: &str, pages: Pages, plan: &mut Plan<'_>) -> Result<(), PlanError> {
    let few = plan.draft.children(pages.over, tenant, "", FEW + 1).await?;
    if few.len() > FEW as usize || plan.is_full() {
        plan.enqueue([pages.of(tenant, plan.cause)]);
        return Ok(());
    }
    for resource in few {
        super::of(pages.over).revisit(resource, pages.aspect, tenant, plan).await?;
    }
    Ok(())
}

/// Those of some tenants, by id, that lie in a cluster.
///
/// # Errors
/// When the store cannot be read.
pub async fn of_cluster(
    world: &mut dyn World,
    cluster: &str,
    ids: &[String],
) -> Result<HashSet<String>, PlanError> {
    let mut own = HashSet::new();
    for tenant in world.resources(ids).await?.into_iter().filter(|found| found.kind == Tenant::KIND) {
        // One that this build cannot read holds up nobody else.
        let Ok(tenant) = Doc::<Tenant>::read(tenant) else { continue };
        if tenant.spec.cluster_id == *cluster {
            own.insert(tenant.id.clone());
        }
    }
    Ok(own)
}
