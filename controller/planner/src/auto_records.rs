//! Automatic records: which an FQDN or a site with a service host name is to have, and keeping them so.

use std::collections::{BTreeMap, BTreeSet};

use hosting_resource::kinds::zone_record::automatic;
use hosting_resource::{Kind, Resource, Status};
use serde_json::{Value, json};

use crate::derive::service_names_of;
use crate::fields::{AutoRecord, auto_records, given, is_deleting, set_auto_records, state};
use crate::plan::Plan;
use crate::{PlanError, read};

/// Brings the automatic records of an FQDN or webroot up to date and plans what depends on them. `source` is changed, not
/// yet put: true when it has to be.
pub(crate) async fn sync(plan: &mut Plan<'_>, source: &mut Resource) -> Result<bool, PlanError> {
    let tenant =
        read::of_kind(plan.draft, Kind::Tenant, source.parent.as_deref().unwrap_or_default()).await?;
    let names = match &tenant {
        Some(tenant) => names_of(plan, source, tenant).await?,
        None => Vec::new(),
    };
    let mut changed = follow_service_names(source, &names);
    let mut wanted: BTreeMap<(String, String, String), (Resource, String)> = BTreeMap::new();
    if let Some(tenant) = &tenant
        && let Some(cluster) = given(tenant, "cluster_id")
        && !names.is_empty()
    {
        let families = read::families_of(plan.draft, cluster).await?;
        for name in names {
            let Some(zone) = read::zone_over(plan.draft, &name).await? else { continue };
            if is_deleting(&zone) || !read::zone_is_open_to(&zone, tenant) {
                continue;
            }
            for (record_type, addresses) in [("A", &families.ipv4), ("AAAA", &families.ipv6)] {
                if !addresses.is_empty() {
                    let key = (zone.id.clone(), name.clone(), record_type.to_owned());
                    wanted.insert(key, (zone.clone(), addresses.join(", ")));
                }
            }
        }
    }
    let before = auto_records(source);
    let mut units = BTreeSet::new();
    let mut after = Vec::new();
    let mut gone = Vec::new();
    let mut put = Vec::new();
    for record in before.iter().cloned() {
        let there = read::of_kind(plan.draft, Kind::ZoneRecord, &record.id).await?;
        let key = (record.zone.clone(), record.name.clone(), record.record_type.clone());
        match there {
            None => {
                units.insert(record.unit());
            }
            Some(mut resource) => match wanted.remove(&key) {
                Some((_, content)) => {
                    // For people only: the name servers go by the cluster.
                    if resource.text("content") != content {
                        resource.spec.insert("content".to_owned(), content.into());
                        put.push(resource);
                    }
                    after.push(record);
                }
                None => {
                    units.insert(record.unit());
                    gone.push(resource);
                }
            },
        }
    }
    for ((zone_id, name, record_type), (zone, content)) in wanted {
        let mut entry = AutoRecord { zone: zone_id, name, record_type, id: String::new() };
        put.push(new_record(&mut entry, &content, &zone, source, plan.draft.revision(), plan.draft.now())?);
        units.insert(entry.unit());
        after.push(entry);
    }
    after.sort();
    if after != before {
        set_auto_records(source, &after);
        changed = true;
    }
    for record in &gone {
        plan.remove(record).await?;
    }
    plan.put(put).await?;
    // The records' data hangs on the source's gates: it has to be there before they are planned.
    if changed {
        plan.put(vec![source.clone()]).await?;
    }
    plan.replan(units).await?;
    Ok(changed)
}

/// The names that are to have automatic records.
async fn names_of(
    plan: &mut Plan<'_>,
    source: &Resource,
    tenant: &Resource,
) -> Result<Vec<String>, PlanError> {
    if is_deleting(source) {
        return Ok(Vec::new());
    }
    Ok(match source.kind {
        Kind::Fqdn if given(source, "webroot_id").is_some() => vec![source.text("fqdn").to_owned()],
        Kind::Webroot => service_names_of(source, tenant, plan.draft).await?,
        Kind::Fqdn
        | Kind::Brand
        | Kind::Region
        | Kind::Cluster
        | Kind::LbAddress
        | Kind::Shard
        | Kind::Node
        | Kind::Tenant
        | Kind::Subscription
        | Kind::Zone
        | Kind::ZoneRecord
        | Kind::ApiKey => Vec::new(),
    })
}

/// Other service host names have other routes: none of them is known to be there yet.
fn follow_service_names(source: &mut Resource, names: &[String]) -> bool {
    if source.kind != Kind::Webroot {
        return false;
    }
    let wanted = json!(names);
    if source.state.get(state::SERVICE_NAMES).unwrap_or(&json!([])) == &wanted {
        return false;
    }
    source.state.insert(state::SERVICE_NAMES.to_owned(), wanted);
    source.state.remove(state::ROUTED);
    if source.status == Status::Active {
        source.status = Status::Converging;
    }
    true
}

/// The id is made from what the record is for and the revision that makes it: never given twice, and no randomness is
/// needed.
fn new_record(
    entry: &mut AutoRecord,
    content: &str,
    zone: &Resource,
    source: &Resource,
    revision: u64,
    now: i64,
) -> Result<Resource, PlanError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&revision.to_le_bytes());
    for part in [&source.id, &entry.zone, &entry.name, &entry.record_type] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut stream = hasher.finalize_xof();
    let (source_type, fqdn) = if source.kind == Kind::Fqdn {
        ("fqdn", Some(source.id.as_str()))
    } else {
        ("service-hostname", None)
    };
    let record = automatic(zone, &entry.record_type, &entry.name, content, source_type, fqdn, &mut |bytes| {
        stream.fill(bytes);
    })
    .map_err(|error| PlanError::invalid("type", error.to_string()))?;
    let mut record = record.into_resource(Some(zone), revision, now);
    record.state.insert(state::SOURCE.to_owned(), Value::String(source.id.clone()));
    entry.id.clone_from(&record.id);
    Ok(record)
}
