//! Automatic records: which an FQDN or a site with a service host name is to have, and keeping them so.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use hosting_resource::kinds::fqdn::Fqdn;
use hosting_resource::kinds::tenant::Tenant;
use hosting_resource::kinds::zone::Zone;
use hosting_resource::kinds::zone_record::{AutoRecord, ZoneRecord, ZoneRecordState, automatic};
use hosting_resource::{Doc, Id, Resource};

use crate::fields::is_deleting;
use crate::kinds::Planned;
use crate::overlay::Overlay;
use crate::plan::Plan;
use crate::{PlanError, Unit, World, read};

/// A kind that has automatic records.
#[async_trait]
pub(crate) trait NameSource: Planned {
    /// What its records say they are made for.
    const SOURCE_TYPE: &'static str;

    /// The records that it remembers.
    fn records(state: &mut Self::State) -> &mut Vec<AutoRecord>;

    /// The FQDN that its records name as their source.
    fn record_of(_source: &Doc<Self>) -> Option<Id<Fqdn>> {
        None
    }

    /// The names that are to have automatic records.
    async fn names(
        source: &Doc<Self>,
        tenant: &Doc<Tenant>,
        world: &mut dyn World,
    ) -> Result<Vec<String>, PlanError>;

    /// Takes note of the names. True when that changed the source.
    fn follow(_source: &mut Doc<Self>, _names: &[String]) -> bool {
        false
    }
}

/// The units that automatic records stand in.
pub(crate) fn units(records: &[AutoRecord]) -> impl Iterator<Item = Unit> {
    records.iter().map(unit)
}

fn unit(record: &AutoRecord) -> Unit {
    Unit::RrSet {
        zone: record.zone.to_string(),
        name: record.name.clone(),
        record_type: record.record_type.clone(),
    }
}

/// Brings the automatic records of `source` up to date and plans what depends on them. True when `source` changed; it is put
/// then.
pub(crate) async fn sync<K: NameSource>(source: &mut Doc<K>, plan: &mut Plan<'_>) -> Result<bool, PlanError> {
    let tenant = read::tenant_of(&mut plan.draft, source).await?;
    let names = match &tenant {
        Some(tenant) if !is_deleting(source) => K::names(source, tenant, &mut plan.draft).await?,
        Some(_) | None => Vec::new(),
    };
    let mut changed = K::follow(source, &names);
    let mut wanted = match &tenant {
        Some(tenant) => wanted_records(names, tenant, &mut plan.draft).await?,
        None => BTreeMap::new(),
    };
    let before = K::records(&mut source.state).clone();
    let ids: Vec<String> = before.iter().map(|record| record.id.to_string()).collect();
    plan.draft.prefetch(&ids).await?;
    let mut units = BTreeSet::new();
    let mut after = Vec::new();
    for record in &before {
        let key = (record.zone.to_string(), record.name.clone(), record.record_type.clone());
        match read::get(&mut plan.draft, &record.id).await? {
            None => {
                units.insert(unit(record));
            }
            Some(mut doc) => match wanted.remove(&key) {
                Some((_, content)) => {
                    // For people only: the name servers go by the cluster.
                    if doc.spec.content != content {
                        doc.spec.content = content;
                        plan.put(doc.into_resource()).await?;
                    }
                    after.push(record.clone());
                }
                None => {
                    units.insert(unit(record));
                    plan.remove(&doc);
                }
            },
        }
    }
    let mut new = Vec::new();
    for ((zone_id, name, record_type), (zone, content)) in wanted {
        let mut entry = AutoRecord { zone: Id::from(zone_id), name, record_type, id: Id::default() };
        let record = new_record(&entry, &content, &zone, source, &plan.draft)?;
        entry.id = Id::from(record.id.as_str());
        units.insert(unit(&entry));
        after.push(entry);
        new.push(record);
    }
    let ids: Vec<String> = new.iter().map(|record| record.id.clone()).collect();
    plan.draft.prefetch(&ids).await?;
    for record in new {
        plan.put(record).await?;
    }
    after.sort();
    if after != before {
        *K::records(&mut source.state) = after;
        changed = true;
    }
    // The records' data hangs on the source's gates: it has to be there before they are planned.
    if changed {
        plan.put(source.to_resource()).await?;
    }
    plan.replan(units).await?;
    Ok(changed)
}

/// The records that names are to have: zone id, name and type, with the zone and the content.
async fn wanted_records(
    names: Vec<String>,
    tenant: &Doc<Tenant>,
    draft: &mut Overlay<'_>,
) -> Result<BTreeMap<(String, String, String), (Doc<Zone>, String)>, PlanError> {
    let mut wanted = BTreeMap::new();
    let cluster = &tenant.spec.cluster_id;
    if cluster.is_empty() || names.is_empty() {
        return Ok(wanted);
    }
    let families = read::families_of(draft, cluster).await?;
    for name in names {
        let Some(zone) = read::zone_over(draft, &name).await? else { continue };
        if !read::zone_is_open_to(&zone, tenant) {
            continue;
        }
        for (record_type, addresses) in [("A", &families.ipv4), ("AAAA", &families.ipv6)] {
            if !addresses.is_empty() {
                let key = (zone.id.clone(), name.clone(), record_type.to_owned());
                wanted.insert(key, (zone.clone(), addresses.join(", ")));
            }
        }
    }
    Ok(wanted)
}

/// The id is made from what the record is for and the revision that makes it: never given twice, and no randomness is
/// needed.
fn new_record<K: NameSource>(
    entry: &AutoRecord,
    content: &str,
    zone: &Doc<Zone>,
    source: &Doc<K>,
    draft: &Overlay<'_>,
) -> Result<Resource, PlanError> {
    let revision = draft.revision();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&revision.to_le_bytes());
    for part in [source.id.as_str(), &entry.zone, &entry.name, &entry.record_type] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut stream = hasher.finalize_xof();
    let fqdn = K::record_of(source);
    let record = automatic(
        zone,
        &entry.record_type,
        &entry.name,
        content,
        K::SOURCE_TYPE,
        fqdn.as_deref(),
        &mut |bytes| stream.fill(bytes),
    )
    .map_err(|error| PlanError::invalid("type", error.to_string()))?;
    let mut record = Doc::<ZoneRecord>::read(record.into_resource(Some(zone), revision, draft.now()))?;
    record.state = ZoneRecordState { source: Some(source.id.clone()) };
    Ok(record.into_resource())
}
