//! The records of one name and type: the custom ones, else the automatic ones whose route is there.

use hosting_intent::{Kind as IntentKind, message as m};
use hosting_resource::kinds::zone_record::{AUTO_TTL, DEFAULT_TTL, ZoneRecordSpec, rdata};
use hosting_resource::{Kind, Resource};

use crate::fields::{auto_source, dns_audience, given, is_auto, is_deleting, number, state};
use crate::{DesiredIntent, World, WorldError, read};

pub(super) async fn derive(
    zone: &str,
    name: &str,
    record_type: &str,
    world: &mut dyn World,
) -> Result<Vec<DesiredIntent>, WorldError> {
    let Some(zone) = read::of_kind(world, Kind::Zone, zone).await? else { return Ok(Vec::new()) };
    if is_deleting(&zone) {
        return Ok(Vec::new());
    }
    let Some(brand) = read::of_kind(world, Kind::Brand, zone.brand.as_deref().unwrap_or_default()).await?
    else {
        return Ok(Vec::new());
    };
    let records = read::records_at(world, &zone.id, name).await?;
    let Some(set) = rr_set(&records, record_type, zone.text("name"), world).await? else {
        return Ok(Vec::new());
    };
    let key = format!("{}/{name}/{record_type}", zone.text("name"));
    Ok(vec![DesiredIntent::new(dns_audience(&brand)?, IntentKind::RrSet, key, &set)])
}

async fn rr_set(
    records: &[Resource],
    record_type: &str,
    zone: &str,
    world: &mut dyn World,
) -> Result<Option<m::RrSet>, WorldError> {
    let custom: Vec<&Resource> =
        records.iter().filter(|record| !is_auto(record) && record.text("type") == record_type).collect();
    if !custom.is_empty() {
        let mut lines: Vec<String> = custom.iter().map(|record| data_of(record, zone)).collect();
        lines.sort();
        lines.dedup();
        // One RRset has one TTL (RFC 2181 §5.2): the shortest that anybody asked for. Whoever asks for another is told.
        let ttl = custom.iter().filter_map(|record| number(record, "ttl")).min();
        let ttl = ttl.and_then(|ttl| u32::try_from(ttl).ok()).unwrap_or(DEFAULT_TTL);
        return Ok(Some(m::RrSet { ttl, data: Some(m::rr_set::Data::Records(m::Records { rdata: lines })) }));
    }
    if records.iter().any(overrides_automatic) {
        return Ok(None);
    }
    for record in records.iter().filter(|record| is_auto(record) && record.text("type") == record_type) {
        let Some(source) = auto_source(record) else { continue };
        let Some(source) = world.resource(source).await? else { continue };
        if !source.flag(state::ROUTED) || is_deleting(&source) {
            continue;
        }
        let tenant = read::of_kind(world, Kind::Tenant, source.parent.as_deref().unwrap_or_default()).await?;
        if let Some(cluster) = tenant.as_ref().and_then(|tenant| given(tenant, "cluster_id")) {
            let data = m::rr_set::Data::AddressSet(cluster.to_owned());
            return Ok(Some(m::RrSet { ttl: AUTO_TTL, data: Some(data) }));
        }
    }
    Ok(None)
}

/// A custom address of either family takes the name over whole, and an alias cannot stand beside other data (RFC 1034
/// §3.6.2).
fn overrides_automatic(record: &Resource) -> bool {
    !is_auto(record) && matches!(record.text("type"), "A" | "AAAA" | "CNAME")
}

/// Content was checked when it was written. Should it be unreadable all the same, it goes out as it is: the name servers
/// reject the set, keep the last good one and say why, and the record shows it.
fn data_of(record: &Resource, zone: &str) -> String {
    record
        .typed::<ZoneRecordSpec>()
        .ok()
        .and_then(|spec| rdata(&spec, zone).ok())
        .unwrap_or_else(|| record.text("content").to_owned())
}
