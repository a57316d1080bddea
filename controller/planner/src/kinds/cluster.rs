//! A cluster: its load-balancer addresses, for every name server, and what all of its edges do alike.

mod ticket_keys;

use std::collections::BTreeSet;

use async_trait::async_trait;
use hosting_intent::{Audience, Key, Kind as IntentKind, message as m};
pub(crate) use hosting_resource::kinds::cluster::Cluster;
use hosting_resource::kinds::cluster::{ClusterTicketKey, TlsMinimum};
use hosting_resource::{Doc, Document};
use prost::Message;

pub use self::ticket_keys::{FreshTicketKey, rotate_ticket_keys};
use super::wide_walks::{CLUSTERS, DNS_GROUPS};
use super::{Changed, Facts, Planned};
use crate::fields::SERIAL_OFFSET;
use crate::plan::Plan;
use crate::{DesiredIntent, PlanError, SealFor, Unit, World, placement, read};

#[async_trait]
impl Planned for Cluster {
    const FACTS: Facts = Facts { walks: &[CLUSTERS], ..Facts::PLAIN };

    fn touched(change: &Changed<'_, Self>, units: &mut BTreeSet<Unit>) {
        let Some(cluster) = change.both().next() else { return };
        if change.differs(|cluster| {
            (cluster.spec.tls_minimum_version, cluster.spec.http3, cluster.spec.http3_port)
        }) {
            units.insert(Unit::Of(Self::KIND, cluster.id.clone()));
        }
        if change.differs(|cluster| cluster.spec.https_records()) {
            units.insert(DNS_GROUPS.of("", change.cause));
        }
        if change.born_or_gone() {
            units.insert(Unit::Of(Self::KIND, cluster.id.clone()));
            units.extend(Audience::edge(&cluster.id).ok().map(Unit::Audience));
            units.insert(DNS_GROUPS.of("", change.cause));
        }
    }

    async fn derive(cluster: &Doc<Self>, world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError> {
        let families = read::families_of(world, &cluster.typed_id()).await?;
        let is_reached = !families.ipv4.is_empty() || !families.ipv6.is_empty();
        let https = if is_reached { cluster.spec.https_records() } else { Vec::new() };
        let message = m::AddressSet { ipv4: families.ipv4, ipv6: families.ipv6, https };
        let audiences = read::dns_audiences(world).await?;
        let edges = m::EdgeSettings {
            tls_minimum_version: match cluster.spec.tls_minimum_version {
                TlsMinimum::Tls12 => m::TlsVersion::TlsVersion12 as i32,
                TlsMinimum::Tls13 => m::TlsVersion::TlsVersion13 as i32,
            },
            http3_off: !cluster.spec.http3,
            http3_port: cluster.spec.http3_port.into(),
        };
        let audience = Audience::edge(&cluster.id)?;
        let tickets = ticket_keys(cluster, &audience, world).await?;
        let in_service = edges_in_service(cluster, world).await?;
        let count = (in_service > 0).then(|| {
            let message = m::EdgeCount { in_service };
            DesiredIntent::new(audience.clone(), IntentKind::EdgeCount, "edges", &message)
        });
        let settings = DesiredIntent::new(audience, IntentKind::EdgeSettings, "settings", &edges);
        Ok(audiences
            .into_iter()
            .map(|audience| DesiredIntent::new(audience, IntentKind::AddressSet, &*cluster.id, &message))
            .chain([settings])
            .chain(tickets)
            .chain(count)
            .collect())
    }

    async fn allocate(
        cluster: &mut Doc<Self>,
        before: Option<&Doc<Self>>,
        plan: &mut Plan<'_>,
    ) -> Result<(), PlanError> {
        if before.is_some_and(|before| before.spec.https_records() != cluster.spec.https_records()) {
            move_serials(plan).await?;
        }
        Ok(())
    }
}

/// Moves every zone's served serial, by one intent for each group of name servers: an address set says something else.
pub(crate) async fn move_serials(plan: &mut Plan<'_>) -> Result<(), PlanError> {
    let offset = plan.draft.counter(SERIAL_OFFSET).await?;
    plan.draft.set_counter(SERIAL_OFFSET, offset + 1);
    Ok(())
}

/// Over how many edges a budget of the cluster is shared out. When the last one goes silent the controller may be the one that is cut off: the
/// number stays what it was. 0: there never was one.
async fn edges_in_service(cluster: &Doc<Cluster>, world: &mut dyn World) -> Result<u32, PlanError> {
    let edges = read::edges_of(world, &cluster.id).await?;
    let count = edges.iter().filter(|edge| placement::serves(edge)).count();
    if count > 0 {
        return Ok(u32::try_from(count).unwrap_or(u32::MAX));
    }
    let rows = world.owned(&Unit::Of(Cluster::KIND, cluster.id.clone()).owner()).await?;
    let count = rows.iter().find(|row| row.key.known_kind() == Some(IntentKind::EdgeCount));
    let before = count.and_then(|row| m::EdgeCount::decode(row.value.clone()).ok());
    Ok(before.map_or(0, |count| count.in_service))
}

/// What the edges seal session tickets with, sealed for them.
async fn ticket_keys(
    cluster: &Doc<Cluster>,
    audience: &Audience,
    world: &mut dyn World,
) -> Result<Option<DesiredIntent>, PlanError> {
    let at = Key::new(IntentKind::TicketKeys, "tickets");
    let mut keys = Vec::with_capacity(cluster.state.ticket_keys.len());
    for one in &cluster.state.ticket_keys {
        let (place, field) = (ClusterTicketKey::place(cluster, &one.name), format!("key/{}", one.name));
        let wanted = SealFor { audience, key: &at, field: &field, place: &place, secret: &one.key };
        // One that does not open, of a store that was put back elsewhere, costs sessions, and must not cost the cluster its addresses.
        let Some(sealed) = world.seal_for(wanted).await? else { continue };
        let name = hex::decode(&one.name).unwrap_or_default();
        keys.push(m::TicketKey { name: name.into(), begins: one.begins, key: Some(sealed.sealed) });
    }
    let is_any = !keys.is_empty();
    Ok(is_any.then(|| {
        DesiredIntent::new(audience.clone(), IntentKind::TicketKeys, at.name, &m::TicketKeys { keys })
    }))
}
