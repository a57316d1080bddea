//! A record of a zone. Its unit is the RRset of its name and type: the custom records, else the automatic ones whose route is there.

use std::collections::BTreeSet;

use async_trait::async_trait;
use hosting_intent::{Kind as IntentKind, message as m};
use hosting_resource::kinds::fqdn::Fqdn;
pub(crate) use hosting_resource::kinds::zone_record::ZoneRecord;
use hosting_resource::kinds::zone_record::{AUTO_TTL, ManagedBy, normalise, rdata};
use hosting_resource::ownership::is_servable;
use hosting_resource::{Doc, Id, Kind};

use super::{Changed, Deletion, Facts, GoesWith, Planned, Tie, zone};
use crate::fields::{dns_audience, is_deleting};
use crate::gates::Look;
use crate::overlay::Overlay;
use crate::plan::Plan;
use crate::read::{Data, data_of};
use crate::unit::{Aspect, By, Pages};
use crate::{DesiredIntent, PlanError, Unit, World, issuance, read};

/// The RRsets of a zone.
pub(crate) const ZONE_RECORDS: Pages = Pages {
    name: "zone_records",
    over: Kind::ZoneRecord,
    by: By::Parent,
    aspect: Aspect::Machines,
    is_wide: false,
};

/// The largest RRset that name servers take, in bytes of wire form: several fit into one message over TCP.
const MAX_RR_SET_BYTES: usize = 16 * 1024;
/// Most records of an RRset, and of one of name servers (a referral carries glue for all of them, RFC 9471).
const MAX_RECORDS: usize = 512;
const MAX_NS_RECORDS: usize = 32;
/// Seconds that a text for authorities may be kept for: another one follows soon.
const CHALLENGE_TTL: u32 = 60;
/// Owner, type, class, TTL and length of a record.
const RECORD_HEADER: usize = 12;

#[async_trait]
impl Planned for ZoneRecord {
    const FACTS: Facts = Facts {
        gated: true,
        deletion: Deletion::Gradual,
        goes_with: &[GoesWith { with: Kind::Zone, by: Tie::Part }],
        shares_units: true,
        walks: &[ZONE_RECORDS],
        ..Facts::PLAIN
    };

    fn units(record: &Doc<Self>) -> Vec<Unit> {
        let unit = |zone: &String| Unit::RrSet {
            zone: zone.clone(),
            name: record.spec.name.clone(),
            record_type: record.spec.record_type.clone(),
        };
        record.parent.iter().map(unit).collect()
    }

    fn touched(change: &Changed<'_, Self>, units: &mut BTreeSet<Unit>) {
        units.extend(change.both().flat_map(Self::units));
        let Some(record) = change.both().next() else { return };
        // What may take a name over from the automatic records, or give it back to them.
        if overrides_automatic(record)
            && let Some(zone) = &record.parent
        {
            units.extend(["A", "AAAA"].map(|record_type| Unit::RrSet {
                zone: zone.clone(),
                name: record.spec.name.clone(),
                record_type: record_type.to_owned(),
            }));
        }
    }

    /// Brings content that a PUT changed to its normal form: that takes the zone's name.
    async fn settle(
        record: &mut Doc<Self>,
        before: Option<&Doc<Self>>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        if before.is_some_and(|before| before.spec.content != record.spec.content) {
            let zone = zone_of(record, draft).await?;
            let name = zone.map(|zone| zone.label.clone()).unwrap_or_default();
            normalise(&mut record.spec, &name)?;
        }
        Ok(())
    }

    /// An alias stands alone (RFC 1034 §3.6.2), so does a null MX (RFC 7505 §3), and there is one of each record, however it was
    /// written (RFC 2181 §5).
    async fn check(
        record: &Doc<Self>,
        before: Option<&Doc<Self>>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        let stays = before.is_some_and(|before| {
            before.spec.content == record.spec.content && before.spec.priority == record.spec.priority
        });
        if is_auto(record) || stays {
            return Ok(());
        }
        let zone = record.parent.as_deref().unwrap_or_default();
        let zone_name = zone_of(record, draft).await?.map(|zone| zone.label.clone()).unwrap_or_default();
        let (name, record_type) = (record.spec.name.as_str(), record.spec.record_type.as_str());
        let mut others = read::records_at(draft, zone, name).await?;
        others.retain(|other| !is_auto(other) && other.id != record.id);
        let is_alias = |record: &Doc<Self>| record.spec.record_type == "CNAME";
        if before.is_none()
            && let Some(other) = others.iter().find(|other| is_alias(record) || is_alias(other))
        {
            return Err(PlanError::Conflict(format!(
                "{name} has a {} record already; a CNAME cannot stand beside other records",
                other.spec.record_type
            )));
        }
        others.retain(|other| other.spec.record_type == record_type);
        let set: Vec<_> = others.iter().chain([record]).map(|record| data_of(record, &zone_name)).collect();
        let Some((own, rest)) = set.split_last() else { return Ok(()) };
        there_is_room(name, record_type, &set)?;
        if rest.contains(own) {
            return Err(PlanError::Conflict(format!("{name} has this {record_type} record already")));
        }
        let takes_no_mail = |data: &Data| record_type == "MX" && data.target() == Some("");
        if !rest.is_empty() && set.iter().any(takes_no_mail) {
            return Err(PlanError::Conflict(format!(
                "{name}: the MX record \".\" says that no mail is taken, and stands alone (RFC 7505 §3): delete it, or the others"
            )));
        }
        Ok(())
    }

    async fn revisit(record: Doc<Self>, _: Aspect, _: &str, plan: &mut Plan<'_>) -> Result<(), PlanError> {
        plan.replan(Self::units(&record)).await
    }

    fn conditions(record: &Doc<Self>, look: &mut Look<'_>) {
        if !is_auto(record) {
            look.name_servers("dns", IntentKind::RrSet);
        }
    }
}

/// Whether the platform keeps the record.
pub(crate) fn is_auto(record: &Doc<ZoneRecord>) -> bool {
    record.spec.managed_by == ManagedBy::Auto
}

async fn zone_of(
    record: &Doc<ZoneRecord>,
    draft: &mut Overlay<'_>,
) -> Result<Option<Doc<zone::Zone>>, PlanError> {
    read::get(draft, &Id::from(record.parent.as_deref().unwrap_or_default())).await
}

/// What name servers would refuse is refused here, where somebody reads the reason.
fn there_is_room(name: &str, record_type: &str, set: &[Data]) -> Result<(), PlanError> {
    let most = if record_type == "NS" { MAX_NS_RECORDS } else { MAX_RECORDS };
    let bytes: usize = set.iter().map(|data| RECORD_HEADER + data.wire_bytes()).sum();
    if set.len() <= most && bytes <= MAX_RR_SET_BYTES {
        return Ok(());
    }
    Err(PlanError::Conflict(format!(
        "{name} would have {} {record_type} records of {bytes} bytes; at most {most} records and {MAX_RR_SET_BYTES} bytes fit \
         into one answer",
        set.len()
    )))
}

/// What the unit of one name and type wants.
pub(crate) async fn derive_rr_set(
    zone: &str,
    name: &str,
    record_type: &str,
    world: &mut dyn World,
) -> Result<Vec<DesiredIntent>, PlanError> {
    let zone = read::get(world, &Id::<zone::Zone>::from(zone)).await?;
    let serves = |zone: &Doc<zone::Zone>| !is_deleting(zone) && is_servable(zone.state.ownership.as_ref());
    let Some(zone) = zone.filter(serves) else { return Ok(Vec::new()) };
    let Some(brand) = read::brand_of(world, &zone).await? else { return Ok(Vec::new()) };
    let records = read::records_at(world, &zone.id, name).await?;
    let mut set = rr_set(&records, record_type, &zone.spec.name, world).await?;
    if record_type == "TXT" && !records.iter().any(|record| record.spec.record_type == "CNAME") {
        let texts = issuance::record_texts(&zone.typed_id(), name, world).await?;
        if !texts.is_empty() {
            set = Some(with_texts(set, texts));
        }
    }
    let Some(set) = set else {
        return Ok(Vec::new());
    };
    let key = format!("{}/{name}/{record_type}", zone.spec.name);
    Ok(vec![DesiredIntent::new(dns_audience(&brand.spec)?, IntentKind::RrSet, key, &set)])
}

/// The texts for authorities beside those that a person made.
fn with_texts(set: Option<m::RrSet>, texts: Vec<String>) -> m::RrSet {
    let (ttl, mut rdata) = match set {
        Some(m::RrSet { ttl, data: Some(m::rr_set::Data::Records(records)), .. }) => (ttl, records.rdata),
        Some(_) | None => (CHALLENGE_TTL, Vec::new()),
    };
    rdata.extend(texts);
    rdata.sort();
    rdata.dedup();
    let data = Some(m::rr_set::Data::Records(m::Records { rdata }));
    m::RrSet { ttl: ttl.min(CHALLENGE_TTL), data, https: false }
}

async fn rr_set(
    records: &[Doc<ZoneRecord>],
    record_type: &str,
    zone: &str,
    world: &mut dyn World,
) -> Result<Option<m::RrSet>, PlanError> {
    let of_type = || records.iter().filter(|record| record.spec.record_type == record_type);
    let custom: Vec<_> = of_type().filter(|record| !is_auto(record)).collect();
    // One RRset has one TTL (RFC 2181 §5.2): the shortest that anybody asked for. Whoever asks for another is told.
    if let Some(ttl) = custom.iter().map(|record| record.spec.ttl).min() {
        let mut lines: Vec<String> = custom.iter().map(|record| line_of(record, zone)).collect();
        lines.sort();
        lines.dedup();
        let data = m::rr_set::Data::Records(m::Records { rdata: lines });
        return Ok(Some(m::RrSet { ttl, data: Some(data), https: false }));
    }
    if records.iter().any(overrides_automatic) {
        return Ok(None);
    }
    for record in of_type().filter(|record| is_auto(record)) {
        let Some(source) = &record.state.source else { continue };
        let Some(source) = world.resource(source).await? else { continue };
        if is_deleting(&source) || !super::of(source.kind).is_routed(&source)? {
            continue;
        }
        let tenant = read::tenant_of(world, &source).await?;
        if let Some(tenant) = tenant.filter(|tenant| !tenant.spec.cluster_id.is_empty()) {
            let data = m::rr_set::Data::AddressSet(tenant.spec.cluster_id.to_string());
            // Whoever finds an HTTPS record asks by HTTPS (RFC 9460 §9.5): not before there is a certificate.
            let https = source.kind == Kind::Fqdn && Doc::<Fqdn>::read(source)?.state.certified;
            return Ok(Some(m::RrSet { ttl: AUTO_TTL, data: Some(data), https }));
        }
    }
    Ok(None)
}

/// A custom address of either family takes the name over whole, and an alias cannot stand beside other data (RFC 1034
/// §3.6.2).
fn overrides_automatic(record: &Doc<ZoneRecord>) -> bool {
    !is_auto(record) && matches!(record.spec.record_type.as_str(), "A" | "AAAA" | "CNAME")
}

/// Content was checked when it was written. Should it be unreadable all the same, it goes out as it is: the name servers
/// reject the set, keep the last good one and say why, and the record shows it.
fn line_of(record: &Doc<ZoneRecord>, zone: &str) -> String {
    rdata(&record.spec, zone).unwrap_or_else(|_| record.spec.content.clone())
}
