//! A cluster: its load-balancer addresses, for every name server.

use std::collections::BTreeSet;

use async_trait::async_trait;
use hosting_intent::{Kind as IntentKind, message as m};
pub(crate) use hosting_resource::kinds::cluster::Cluster;
use hosting_resource::{Doc, Document, Kind};

use super::{Changed, Facts, Planned};
use crate::fields::{dns_audience, edge_audience};
use crate::unit::{Aspect, By, Pages};
use crate::{DesiredIntent, PlanError, Unit, World, read};

/// All clusters' address sets.
pub(crate) const CLUSTERS: Pages =
    Pages { name: "clusters", over: Kind::Cluster, by: By::All, aspect: Aspect::Machines };

#[async_trait]
impl Planned for Cluster {
    const FACTS: Facts = Facts { walks: &[CLUSTERS], ..Facts::PLAIN };

    fn touched(change: &Changed<'_, Self>, units: &mut BTreeSet<Unit>) {
        let Some(cluster) = change.both().next() else { return };
        if change.born_or_gone() {
            units.insert(Unit::Of(Self::KIND, cluster.id.clone()));
            units.insert(Unit::Audience(edge_audience(&cluster.id)));
        }
    }

    async fn derive(cluster: &Doc<Self>, world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError> {
        let families = read::families_of(world, &cluster.typed_id()).await?;
        let message = m::AddressSet { ipv4: families.ipv4, ipv6: families.ipv6 };
        let groups = read::dns_groups(world).await?;
        Ok(groups
            .iter()
            .map(|group| {
                DesiredIntent::new(dns_audience(group), IntentKind::AddressSet, &*cluster.id, &message)
            })
            .collect())
    }
}
