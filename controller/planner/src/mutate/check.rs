//! What must hold between a resource and the others. What a document alone can show was checked before.

use hosting_intent::name;
use hosting_resource::{Kind, Resource};

use crate::fields::Place;
use crate::fields::{SUFFIX_FACET, given, is_auto, is_deleting, is_service_name, places, set_places, texts};
use crate::{Draft, PlanError, World, read};

/// Checks `resource` as it is to be written; `before` is what is stored.
pub(super) async fn check(
    draft: &mut dyn Draft,
    resource: &Resource,
    before: Option<&Resource>,
) -> Result<(), PlanError> {
    let moved = |field: &str| before.is_none_or(|before| before.spec.get(field) != resource.spec.get(field));
    match resource.kind {
        Kind::Region | Kind::Cluster | Kind::LbAddress | Kind::Shard | Kind::Node | Kind::ApiKey => Ok(()),
        Kind::Brand => {
            if moved("base_hostname") {
                base_hostname(draft, resource).await?;
            }
            for cluster in texts(&resource.spec, "cluster_ids") {
                live(draft, "cluster_ids", Kind::Cluster, &cluster).await?;
            }
            Ok(())
        }
        Kind::Subscription => Ok(()),
        Kind::Tenant => {
            if ["region_id", "cluster_id", "shard_id", "brand_id"].into_iter().any(moved) {
                tenant(draft, resource).await?;
            }
            Ok(())
        }
        Kind::Webroot => {
            if moved("subscription_id") {
                let subscription =
                    live(draft, "subscription_id", Kind::Subscription, resource.text("subscription_id"))
                        .await?;
                same_tenant("subscription_id", &subscription, resource)?;
            }
            Ok(())
        }
        Kind::Fqdn => {
            if let Some(webroot) = given(resource, "webroot_id").filter(|_| moved("webroot_id")) {
                let webroot = live(draft, "webroot_id", Kind::Webroot, webroot).await?;
                same_tenant("webroot_id", &webroot, resource)?;
            }
            if moved("fqdn") {
                fqdn_name(draft, resource).await?;
            }
            Ok(())
        }
        Kind::Zone => {
            if moved("region_id") {
                live(draft, "region_id", Kind::Region, resource.text("region_id")).await?;
            }
            if moved("subscription_id") || moved("tenant_id") {
                zone_subscription(draft, resource).await?;
            }
            if moved("name") || moved("tenant_id") {
                zone_name(draft, resource).await?;
            }
            Ok(())
        }
        Kind::ZoneRecord => record(draft, resource, before).await,
    }
}

/// A resource that a field refers to, which must exist and stay.
pub(super) async fn live(
    draft: &mut dyn Draft,
    field: &str,
    kind: Kind,
    id: &str,
) -> Result<Resource, PlanError> {
    match read::of_kind(draft, kind, id).await? {
        None => Err(PlanError::invalid(field, format!("there is no {kind} {id:?}"))),
        Some(resource) if is_deleting(&resource) => {
            Err(PlanError::invalid(field, format!("{kind} {id:?} is being deleted")))
        }
        Some(resource) => Ok(resource),
    }
}

fn same_tenant(field: &str, other: &Resource, resource: &Resource) -> Result<(), PlanError> {
    if other.tenant.is_some() && other.tenant == resource.tenant {
        Ok(())
    } else {
        Err(PlanError::invalid(field, format!("{} {:?} belongs to another tenant", other.kind, other.id)))
    }
}

async fn tenant(draft: &mut dyn Draft, tenant: &Resource) -> Result<(), PlanError> {
    let brand = live(draft, "brand_id", Kind::Brand, tenant.text("brand_id")).await?;
    let region = live(draft, "region_id", Kind::Region, tenant.text("region_id")).await?;
    let cluster = live(draft, "cluster_id", Kind::Cluster, tenant.text("cluster_id")).await?;
    if cluster.parent.as_deref() != Some(region.id.as_str()) {
        let problem = format!("cluster {:?} is not in region {:?}", cluster.id, region.id);
        return Err(PlanError::invalid("cluster_id", problem));
    }
    let allowed = texts(&brand.spec, "cluster_ids");
    if !allowed.is_empty() && !allowed.contains(&cluster.id) {
        let problem = format!("cluster {} is not allowed for brand {}", cluster.id, brand.id);
        return Err(PlanError::invalid("cluster_id", problem));
    }
    if let Some(shard) = given(tenant, "shard_id") {
        let shard = live(draft, "shard_id", Kind::Shard, shard).await?;
        if shard.parent.as_deref() != Some(cluster.id.as_str()) {
            let problem = format!("shard {:?} is not in cluster {:?}", shard.id, cluster.id);
            return Err(PlanError::invalid("shard_id", problem));
        }
        if shard.text("role") != "web" {
            let problem =
                format!("shard {:?} has the role {:?}; a web shard is needed", shard.id, shard.text("role"));
            return Err(PlanError::invalid("shard_id", problem));
        }
    }
    Ok(())
}

/// A brand's sites get names under its base name: that must not lie in what is another brand's.
async fn base_hostname(draft: &mut dyn Draft, brand: &Resource) -> Result<(), PlanError> {
    let base = brand.text("base_hostname");
    match read::zone_over(draft, base).await? {
        Some(zone) if zone.brand.as_deref() != Some(brand.id.as_str()) => Err(PlanError::Conflict(format!(
            "{base} lies in the zone {}, which belongs to another brand",
            zone.text("name")
        ))),
        Some(_) | None => Ok(()),
    }
}

/// A host name inside somebody else's zone is somebody else's (defect 14, as far as it can be told without asking DNS).
async fn fqdn_name(draft: &mut dyn Draft, fqdn: &Resource) -> Result<(), PlanError> {
    let host = fqdn.text("fqdn");
    if is_service_name(host) {
        let problem = format!("{host}: names of this form are kept for sites' service host names");
        return Err(PlanError::Conflict(problem));
    }
    let Some(zone) = read::zone_over(draft, host).await? else { return Ok(()) };
    let tenant = live(draft, "tenant_id", Kind::Tenant, fqdn.parent.as_deref().unwrap_or_default()).await?;
    if read::zone_is_open_to(&zone, &tenant) {
        return Ok(());
    }
    Err(PlanError::Conflict(format!(
        "{host} lies in the zone {}, which belongs to somebody else",
        zone.text("name")
    )))
}

async fn zone_subscription(draft: &mut dyn Draft, zone: &Resource) -> Result<(), PlanError> {
    // A brand's own zone is billed to nobody.
    if zone.tenant.is_none() && given(zone, "subscription_id").is_none() {
        return Ok(());
    }
    let subscription =
        live(draft, "subscription_id", Kind::Subscription, zone.text("subscription_id")).await?;
    if zone.tenant.is_some() {
        return same_tenant("subscription_id", &subscription, zone);
    }
    if subscription.brand == zone.brand {
        return Ok(());
    }
    let problem = format!("subscription {:?} belongs to another brand", subscription.id);
    Err(PlanError::invalid("subscription_id", problem))
}

/// A zone under somebody else's zone would take names away from it.
async fn zone_name(draft: &mut dyn Draft, zone: &Resource) -> Result<(), PlanError> {
    let own = zone.text("name");
    let refuse = |above: &str| {
        Err(PlanError::Conflict(format!("{own} lies under the zone {above}, which belongs to somebody else")))
    };
    if let Some((_, parent)) = own.split_once('.')
        && let Some(above) = read::zone_over(draft, parent).await?
    {
        let allowed = match &above.tenant {
            Some(tenant) => zone.tenant.as_ref() == Some(tenant),
            None => zone.brand == above.brand,
        };
        if !allowed {
            return refuse(above.text("name"));
        }
    }
    if let Some(name) = name_that_would_be_lost(draft, zone).await? {
        let problem =
            format!("{own} would take the host name {name}, which is another tenant's, out of its zone");
        return Err(PlanError::Conflict(problem));
    }
    // Under a brand's base name each tenant's label holds the service host names of that tenant's sites.
    let brand = read::of_kind(draft, Kind::Brand, zone.brand.as_deref().unwrap_or_default()).await?;
    if let (Some(brand), Some(tenant)) = (brand, &zone.tenant) {
        let base = brand.text("base_hostname");
        if own == base {
            return refuse(base);
        }
        if !base.is_empty() && name::is_in_zone(own, base) {
            let label = own.strip_suffix(base).unwrap_or_default().trim_end_matches('.').rsplit('.').next();
            let holder = label.unwrap_or_default();
            for id in [holder.to_owned(), holder.replacen('-', "_", 1)] {
                if id != *tenant && read::of_kind(draft, Kind::Tenant, &id).await?.is_some() {
                    return refuse(base);
                }
            }
        }
    }
    Ok(())
}

/// A host name of another tenant that lies in a zone of the brand's now and would lie in this tenant's then: its records
/// would be withdrawn.
async fn name_that_would_be_lost(
    draft: &mut dyn Draft,
    zone: &Resource,
) -> Result<Option<String>, PlanError> {
    let own = zone.text("name");
    let Some(shared) = read::zone_over(draft, own).await? else { return Ok(None) };
    if zone.tenant.is_none() || shared.tenant.is_some() {
        return Ok(None);
    }
    let mut after = String::new();
    loop {
        let page = draft.with_facet(Kind::Fqdn, SUFFIX_FACET, own, &after, read::PAGE).await?;
        let Some(last) = page.last() else { return Ok(None) };
        after = last.id.clone();
        for fqdn in page {
            let is_anothers = fqdn.tenant != zone.tenant && fqdn.brand == shared.brand && !is_deleting(&fqdn);
            let name = fqdn.text("fqdn");
            if is_anothers && read::zone_over(draft, name).await?.is_some_and(|over| over.id == shared.id) {
                return Ok(Some(name.to_owned()));
            }
        }
    }
}

/// An alias stands alone (RFC 1034 §3.6.2), and there is one of it.
async fn record(
    draft: &mut dyn Draft,
    record: &Resource,
    before: Option<&Resource>,
) -> Result<(), PlanError> {
    if is_auto(record) {
        return Ok(());
    }
    let zone = record.parent.as_deref().unwrap_or_default();
    let is_alias = |record: &Resource| record.text("type") == "CNAME";
    let mut others = read::records_at(draft, zone, record.text("name")).await?;
    others.retain(|other| !is_auto(other) && other.id != record.id);
    there_is_room(record, &others)?;
    if before.is_some() {
        return Ok(());
    }
    for other in others {
        if is_alias(record) || is_alias(&other) {
            return Err(PlanError::Conflict(format!(
                "{} has a {} record already; a CNAME cannot stand beside other records",
                record.text("name"),
                other.text("type")
            )));
        }
        if other.text("type") == record.text("type")
            && other.text("content") == record.text("content")
            && other.spec.get("priority") == record.spec.get("priority")
        {
            return Err(PlanError::Conflict(format!(
                "{} has this {} record already",
                record.text("name"),
                record.text("type")
            )));
        }
    }
    Ok(())
}

/// The largest RRset that name servers take, in bytes of wire form: several fit into one message over TCP.
const MAX_RR_SET_BYTES: usize = 16 * 1024;
/// Most records of an RRset, and of one of name servers (a referral carries glue for all of them, RFC 9471).
const MAX_RECORDS: usize = 512;
const MAX_NS_RECORDS: usize = 32;

/// What name servers would refuse is refused here, where somebody reads the reason.
fn there_is_room(record: &Resource, others: &[Resource]) -> Result<(), PlanError> {
    let record_type = record.text("type");
    let set: Vec<_> =
        others.iter().filter(|other| other.text("type") == record_type).chain([record]).collect();
    let most = if record_type == "NS" { MAX_NS_RECORDS } else { MAX_RECORDS };
    let bytes: usize = set.iter().map(|record| wire_bytes(record)).sum();
    if set.len() <= most && bytes <= MAX_RR_SET_BYTES {
        return Ok(());
    }
    let name = record.text("name");
    Err(PlanError::Conflict(format!(
        "{name} would have {} {record_type} records of {bytes} bytes; at most {most} records and {MAX_RR_SET_BYTES} bytes fit \
         into one answer",
        set.len()
    )))
}

/// A record's size in wire form, or a little more.
fn wire_bytes(record: &Resource) -> usize {
    let content = record.text("content").len();
    // Owner, type, class, TTL and length.
    12 + match record.text("type") {
        "A" => 4,
        "AAAA" => 16,
        // Each string has a length.
        "TXT" => content + content / 255 + 1,
        // Numbers, and a name that may be relative to the zone.
        _ => 8 + content + record.text("name").len(),
    }
}

/// Gives a node its places: in each of its shards one above the highest index there.
pub(super) async fn give_places(draft: &mut dyn Draft, node: &mut Resource) -> Result<(), PlanError> {
    let mut list = Vec::new();
    for id in texts(&node.spec, "shard_ids") {
        let shard = live(draft, "shard_ids", Kind::Shard, &id).await?;
        if shard.parent != node.parent {
            let problem =
                format!("shard {id:?} is not in cluster {:?}", node.parent.as_deref().unwrap_or_default());
            return Err(PlanError::invalid("shard_ids", problem));
        }
        let world: &mut dyn World = draft;
        let highest = read::nodes_of_shard(world, &id)
            .await?
            .iter()
            .filter(|other| other.id != node.id)
            .flat_map(places)
            .filter(|place| place.shard_id == id)
            .map(|place| place.shard_index)
            .max();
        list.push(Place {
            shard_id: id,
            shard_role: shard.text("role").to_owned(),
            shard_index: highest.unwrap_or_default() + 1,
        });
    }
    set_places(node, &list);
    Ok(())
}
