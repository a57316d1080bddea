//! A load-balancer address of a cluster.

use std::collections::BTreeSet;

use async_trait::async_trait;
pub(crate) use hosting_resource::kinds::lb_address::LbAddress;
use hosting_resource::{Doc, Kind};

use super::wide_walks::DNS_GROUPS;
use super::{Changed, Planned, cluster, tenant};
use crate::plan::Plan;
use crate::{PlanError, Unit};

#[async_trait]
impl Planned for LbAddress {
    fn units(address: &Doc<Self>) -> Vec<Unit> {
        address.parent.iter().map(|cluster| Unit::Of(Kind::Cluster, cluster.clone())).collect()
    }

    fn touched(change: &Changed<'_, Self>, units: &mut BTreeSet<Unit>) {
        if change.differs(|address| address.spec.address.clone()) {
            units.extend(change.both().flat_map(Self::units));
            units.insert(DNS_GROUPS.of("", change.cause));
        }
    }

    async fn allocate(
        address: &mut Doc<Self>,
        _: Option<&Doc<Self>>,
        plan: &mut Plan<'_>,
    ) -> Result<(), PlanError> {
        addresses_changed(address, plan).await
    }

    async fn leave(address: &Doc<Self>, plan: &mut Plan<'_>) -> Result<(), PlanError> {
        addresses_changed(address, plan).await
    }
}

/// Moves every zone's served serial. What people see in automatic records follows later, as do records of a family that comes or goes.
async fn addresses_changed(address: &Doc<LbAddress>, plan: &mut Plan<'_>) -> Result<(), PlanError> {
    cluster::move_serials(plan).await?;
    let cluster = address.parent.clone().unwrap_or_default();
    plan.enqueue([tenant::CLUSTER_TENANTS.of(cluster, hosting_intent::Cause::Person)]);
    Ok(())
}
