//! The reads that several units share.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hosting_intent::{Audience, Role};
use hosting_resource::kinds::brand::Brand;
use hosting_resource::kinds::cluster::Cluster;
use hosting_resource::kinds::lb_address::LbAddress;
use hosting_resource::kinds::node::Node;
use hosting_resource::kinds::shard::Shard;
use hosting_resource::kinds::tenant::Tenant;
use hosting_resource::kinds::zone::Zone;
use hosting_resource::kinds::zone_record::{self, ZoneRecord};
use hosting_resource::{Doc, Document, Id, IdPolicy, Kind, RecordData, Resource, in_brand};

use crate::fields::{OWNER_FACET, SHARD_RELATION, dns_audience, is_deleting, why_gone};
use crate::{PlanError, World, WorldError};

/// Rows per read.
pub(crate) const PAGE: u32 = 500;

/// Collects all pages of a list that is known to be short (a shard's nodes, a name's records).
macro_rules! all_pages {
    ($after:ident => $read:expr) => {{
        let mut all: Vec<Resource> = Vec::new();
        let mut cursor = String::new();
        loop {
            let $after = cursor.as_str();
            let page: Vec<Resource> = $read.await?;
            let short = page.len() < PAGE as usize;
            match page.last() {
                Some(last) => cursor = last.id.clone(),
                None => break,
            }
            all.extend(page);
            if short {
                break;
            }
        }
        all
    }};
}

/// A resource, read as its kind.
pub(crate) async fn get<K: Document>(world: &mut dyn World, id: &Id<K>) -> Result<Option<Doc<K>>, PlanError> {
    if id.is_empty() {
        return Ok(None);
    }
    let found = world.resource(id).await?.filter(|resource| resource.kind == K::KIND);
    Ok(found.map(Doc::read).transpose()?)
}

/// A resource that a field refers to, which must exist and stay.
pub(crate) async fn live<K: Document>(
    world: &mut dyn World,
    field: &str,
    id: &Id<K>,
) -> Result<Doc<K>, PlanError> {
    let kind = K::KIND;
    match get(world, id).await? {
        None => Err(PlanError::invalid(field, format!("there is no {kind} {id:?}"))),
        Some(doc) if is_deleting(&doc) => {
            Err(PlanError::invalid(field, format!("{kind} {id:?} {}", why_gone(&doc))))
        }
        Some(doc) => Ok(doc),
    }
}

/// What a field refers to must be the same tenant's.
pub(crate) fn same_tenant(field: &str, other: &Resource, resource: &Resource) -> Result<(), PlanError> {
    if other.tenant.is_some() && other.tenant == resource.tenant {
        Ok(())
    } else {
        Err(PlanError::invalid(field, format!("{} {:?} belongs to another tenant", other.kind, other.id)))
    }
}

/// The tenant that a resource lies in.
pub(crate) async fn tenant_of(
    world: &mut dyn World,
    resource: &Resource,
) -> Result<Option<Doc<Tenant>>, PlanError> {
    get(world, &Id::from(resource.parent.as_deref().unwrap_or_default())).await
}

/// The brand that a resource belongs to.
pub(crate) async fn brand_of(
    world: &mut dyn World,
    resource: &Resource,
) -> Result<Option<Doc<Brand>>, PlanError> {
    get(world, &Id::from(resource.brand.as_deref().unwrap_or_default())).await
}

/// The shard that a tenant's sites live in.
pub(crate) async fn shard_of(
    world: &mut dyn World,
    tenant: &Doc<Tenant>,
) -> Result<Option<Doc<Shard>>, PlanError> {
    match &tenant.spec.shard_id {
        Some(shard) => get(world, shard).await,
        None => Ok(None),
    }
}

/// Reads what is not being deleted.
fn living<K: Document>(resources: Vec<Resource>) -> Result<Vec<Doc<K>>, PlanError> {
    let living = resources.into_iter().filter(|resource| !is_deleting(resource));
    Ok(living.map(Doc::read).collect::<Result<_, _>>()?)
}

/// The nodes of a shard, by id.
pub(crate) async fn nodes_of_shard(
    world: &mut dyn World,
    shard: &Id<Shard>,
) -> Result<Vec<Doc<Node>>, PlanError> {
    if shard.is_empty() {
        return Ok(Vec::new());
    }
    living(all_pages!(after => world.referrers(Kind::Node, SHARD_RELATION, shard, after, PAGE)))
}

/// The nodes of the shard that a tenant's sites live in.
pub(crate) async fn nodes_of_tenant(
    world: &mut dyn World,
    tenant: &Doc<Tenant>,
) -> Result<Vec<Doc<Node>>, PlanError> {
    match &tenant.spec.shard_id {
        Some(shard) => nodes_of_shard(world, shard).await,
        None => Ok(Vec::new()),
    }
}

/// A cluster's load-balancer addresses by family, in ascending order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Families {
    pub(crate) ipv4: Vec<String>,
    pub(crate) ipv6: Vec<String>,
}

pub(crate) async fn families_of(world: &mut dyn World, cluster: &Id<Cluster>) -> Result<Families, PlanError> {
    let addresses: Vec<Doc<LbAddress>> =
        living(all_pages!(after => world.children(Kind::LbAddress, cluster, after, PAGE)))?;
    let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
    for address in addresses {
        match address.spec.address.parse() {
            Ok(IpAddr::V4(ip)) => ipv4.push(ip),
            Ok(IpAddr::V6(ip)) => ipv6.push(ip),
            Err(_) => {}
        }
    }
    ipv4.sort_unstable();
    ipv6.sort_unstable();
    Ok(Families {
        ipv4: ipv4.iter().map(ToString::to_string).collect(),
        ipv6: ipv6.iter().map(ToString::to_string).collect(),
    })
}

/// All brands. A cell has few.
pub(crate) async fn brands(world: &mut dyn World) -> Result<Vec<Doc<Brand>>, PlanError> {
    living(all_pages!(after => world.list(Kind::Brand, after, PAGE)))
}

/// All clusters but those on their way out.
pub(crate) async fn clusters(world: &mut dyn World) -> Result<Vec<Doc<Cluster>>, PlanError> {
    living(all_pages!(after => world.list(Kind::Cluster, after, PAGE)))
}

/// The audiences of the groups that brands name, which hear of every cluster's addresses.
pub(crate) async fn dns_audiences(world: &mut dyn World) -> Result<BTreeSet<Audience>, PlanError> {
    let brands = brands(world).await?;
    Ok(brands.iter().map(|brand| dns_audience(&brand.spec)).collect::<Result<_, _>>()?)
}

/// The nodes that serve DNS in a group.
pub(crate) async fn name_servers(world: &mut dyn World, group: &str) -> Result<Vec<Doc<Node>>, PlanError> {
    living(all_pages!(after => world.with_facet(Kind::Node, "dns_group", group, after, PAGE)))
}

/// The edges of a cluster.
pub(crate) async fn edges_of(world: &mut dyn World, cluster: &str) -> Result<Vec<Doc<Node>>, PlanError> {
    let all = all_pages!(after => world.with_facet(Kind::Node, "role", Role::Lb.name(), after, PAGE));
    living(all.into_iter().filter(|node| node.parent.as_deref() == Some(cluster)).collect())
}

/// The records of a zone at one name, by id, those on their way out left out.
pub(crate) async fn records_at(
    world: &mut dyn World,
    zone: &str,
    name: &str,
) -> Result<Vec<Doc<ZoneRecord>>, PlanError> {
    let owner = format!("{zone}/{name}");
    living(all_pages!(after => world.with_facet(Kind::ZoneRecord, OWNER_FACET, &owner, after, PAGE)))
}

/// What a record says, to be compared: whatever the spelling, the same data is equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    /// With its priority, for MX and SRV.
    Read(Option<u16>, RecordData),
    /// Stored by another build, and unreadable to this one.
    Text(String),
}

impl Data {
    /// The name that it points at, the root empty; `None` for data that points at none.
    pub(crate) fn target(&self) -> Option<&str> {
        match self {
            Self::Read(_, RecordData::Name(target) | RecordData::Service { target, .. }) => Some(target),
            Self::Read(..) | Self::Text(_) => None,
        }
    }

    /// Size of its RDATA.
    pub(crate) fn wire_bytes(&self) -> usize {
        match self {
            Self::Read(_, data) => data.wire_bytes(),
            Self::Text(text) => text.len(),
        }
    }
}

/// The data of a custom record of the zone `zone`.
pub(crate) fn data_of(record: &Doc<ZoneRecord>, zone: &str) -> Data {
    match zone_record::data(&record.spec, zone) {
        Ok(data) => Data::Read(record.spec.priority, data),
        Err(_) => Data::Text(record.spec.content.clone()),
    }
}

/// The closest zone at or above a name that is to be served.
pub(crate) async fn zone_over(world: &mut dyn World, name: &str) -> Result<Option<Doc<Zone>>, PlanError> {
    let zones = zones_over(world, name).await?.into_iter().filter(|zone| !is_deleting(zone));
    Ok(zones.max_by_key(|zone| zone.spec.name.len()))
}

/// The closest zone at or above a name that somebody has: one that is deleted and kept holds its name.
pub(crate) async fn held_zone_over(
    world: &mut dyn World,
    name: &str,
) -> Result<Option<Doc<Zone>>, PlanError> {
    Ok(zones_over(world, name).await?.into_iter().max_by_key(|zone| zone.spec.name.len()))
}

/// The zones at or above a name, in no order, those too that are deleted and kept.
pub(crate) async fn zones_over(world: &mut dyn World, name: &str) -> Result<Vec<Doc<Zone>>, PlanError> {
    let mut names = vec![name.to_owned()];
    let mut rest = name;
    while let Some((_, above)) = rest.split_once('.') {
        names.push(above.to_owned());
        rest = above;
    }
    let above = world.holders(Kind::Zone, "", &names).await?;
    Ok(above.into_iter().map(|(_, zone)| Doc::read(zone)).collect::<Result<_, _>>()?)
}

/// Whether names of this tenant may stand in the zone: its own zone, or one that its brand keeps for all its tenants.
pub(crate) fn zone_is_open_to(zone: &Doc<Zone>, tenant: &Doc<Tenant>) -> bool {
    match zone.tenant.as_deref() {
        Some(owner) => owner == tenant.id,
        None => zone.brand.is_some() && zone.brand == tenant.brand,
    }
}

/// The resource that `brand` calls `id`: ids that callers choose are unique in a brand. Older builds kept those under that id alone.
///
/// # Errors
/// When the store cannot be read.
pub async fn called(
    world: &mut dyn World,
    kind: Kind,
    brand: &str,
    id: &str,
) -> Result<Option<Resource>, WorldError> {
    if kind.info().id == IdPolicy::Caller {
        let found = world.resource(&in_brand(brand, id)).await?.filter(|found| found.kind == kind);
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(world.resource(id).await?.filter(|found| found.kind == kind))
}
