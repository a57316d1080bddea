//! The reads that several units share.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hosting_intent::Audience;
use hosting_resource::kinds::zone_record::{self, ZoneRecordSpec};
use hosting_resource::{Kind, RecordData, Resource, in_brand};

use crate::fields::{dns_audience, given, is_deleting};
use crate::{World, WorldError};

/// Rows per read.
pub(crate) const PAGE: u32 = 500;

/// Collects all pages of a list that is known to be short (a shard's nodes, a name's records).
macro_rules! all_pages {
    ($after:ident => $read:expr) => {{
        let mut all: Vec<hosting_resource::Resource> = Vec::new();
        let mut cursor = String::new();
        loop {
            let $after = cursor.as_str();
            let page: Vec<hosting_resource::Resource> = $read.await?;
            let short = page.len() < crate::read::PAGE as usize;
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

/// The resource, if it is of that kind.
pub(crate) async fn of_kind(
    world: &mut dyn World,
    kind: Kind,
    id: &str,
) -> Result<Option<Resource>, WorldError> {
    if id.is_empty() {
        return Ok(None);
    }
    Ok(world.resource(id).await?.filter(|resource| resource.kind == kind))
}

/// The nodes of a shard, by id.
pub(crate) async fn nodes_of_shard(world: &mut dyn World, shard: &str) -> Result<Vec<Resource>, WorldError> {
    if shard.is_empty() {
        return Ok(Vec::new());
    }
    let nodes =
        all_pages!(after => world.referrers(Kind::Node, crate::fields::SHARD_RELATION, shard, after, PAGE));
    Ok(nodes.into_iter().filter(|node| !is_deleting(node)).collect())
}

/// The load-balancer addresses of a cluster, by id.
pub(crate) async fn addresses_of(world: &mut dyn World, cluster: &str) -> Result<Vec<Resource>, WorldError> {
    let addresses = all_pages!(after => world.children(Kind::LbAddress, cluster, after, PAGE));
    Ok(addresses.into_iter().filter(|address| !is_deleting(address)).collect())
}

/// A cluster's load-balancer addresses by family, in ascending order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Families {
    pub(crate) ipv4: Vec<String>,
    pub(crate) ipv6: Vec<String>,
}

pub(crate) async fn families_of(world: &mut dyn World, cluster: &str) -> Result<Families, WorldError> {
    let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
    for address in addresses_of(world, cluster).await? {
        match address.text("address").parse() {
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

/// The groups that brands name: the audiences that hear of every cluster's addresses. A cell has few brands.
pub(crate) async fn dns_audiences(world: &mut dyn World) -> Result<BTreeSet<Audience>, WorldError> {
    let brands = all_pages!(after => world.list(Kind::Brand, after, PAGE));
    Ok(brands.iter().filter(|brand| !is_deleting(brand)).map(dns_audience).collect::<Result<_, _>>()?)
}

/// The records of a zone at one name, by id, those on their way out left out.
pub(crate) async fn records_at(
    world: &mut dyn World,
    zone: &str,
    name: &str,
) -> Result<Vec<Resource>, WorldError> {
    let owner = format!("{zone}/{name}");
    let records = all_pages!(after => world.with_facet(Kind::ZoneRecord, crate::fields::OWNER_FACET, &owner, after, PAGE));
    Ok(records.into_iter().filter(|record| !is_deleting(record)).collect())
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
pub(crate) fn data_of(record: &Resource, zone: &str) -> Data {
    let read = record.typed::<ZoneRecordSpec>().ok().and_then(|spec| {
        let data = zone_record::data(&spec, zone).ok()?;
        Some(Data::Read(spec.priority, data))
    });
    read.unwrap_or_else(|| Data::Text(record.text("content").to_owned()))
}

/// The closest zone at or above a name.
pub(crate) async fn zone_over(world: &mut dyn World, name: &str) -> Result<Option<Resource>, WorldError> {
    let mut rest = name;
    loop {
        if let Some(zone) = world.holder(Kind::Zone, "", rest).await? {
            return Ok(Some(zone));
        }
        match rest.split_once('.') {
            Some((_, parent)) => rest = parent,
            None => return Ok(None),
        }
    }
}

/// Whether names of this tenant may stand in the zone: its own zone, or one that its brand keeps for all its tenants.
pub(crate) fn zone_is_open_to(zone: &Resource, tenant: &Resource) -> bool {
    match zone.tenant.as_deref() {
        Some(owner) => owner == tenant.id,
        None => zone.brand.is_some() && zone.brand == tenant.brand,
    }
}

/// The subscription that `brand` calls `id`. Older builds kept it under that id alone.
///
/// # Errors
/// When the store cannot be read.
pub async fn subscription(
    world: &mut dyn World,
    brand: &str,
    id: &str,
) -> Result<Option<Resource>, WorldError> {
    match of_kind(world, Kind::Subscription, &in_brand(brand, id)).await? {
        Some(subscription) => Ok(Some(subscription)),
        None => of_kind(world, Kind::Subscription, id).await,
    }
}

/// The shard a tenant's sites live in.
pub(crate) fn shard_of(tenant: &Resource) -> &str {
    given(tenant, "shard_id").unwrap_or_default()
}

pub(crate) use all_pages;
