//! What must hold between a resource and the others. What a document alone can show was checked before.

use hosting_intent::{Role, group_or_default};
use hosting_resource::{Kind, Resource};

use super::names;
use crate::fields::{Place, given, is_auto, is_deleting, places, set_places, texts};
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
            // What decides where a brand's zones and sites may lie is the platform's to say.
            let group = group_or_default(resource.text("dns_group"));
            let group_before = group_or_default(before.map_or("", |before| before.text("dns_group")));
            let clusters_moved = before.is_some() && moved("cluster_ids");
            if !draft.by_admin() && (group != group_before || clusters_moved) {
                return Err(PlanError::Forbidden(
                    "a brand's dns_group and clusters are set with a platform admin's key",
                ));
            }
            if moved("base_hostname") {
                names::base_hostname(draft, resource).await?;
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
                names::fqdn(draft, resource).await?;
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
                names::zone(draft, resource).await?;
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
        if shard.text("role") != Role::Web.name() {
            let problem =
                format!("shard {:?} has the role {:?}; a web shard is needed", shard.id, shard.text("role"));
            return Err(PlanError::invalid("shard_id", problem));
        }
    }
    Ok(())
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

/// An alias stands alone (RFC 1034 §3.6.2), so does a null MX (RFC 7505 §3), and there is one of each record, however it was
/// written (RFC 2181 §5).
async fn record(
    draft: &mut dyn Draft,
    record: &Resource,
    before: Option<&Resource>,
) -> Result<(), PlanError> {
    let same = |field: &str| before.is_some_and(|before| before.spec.get(field) == record.spec.get(field));
    if is_auto(record) || (same("content") && same("priority")) {
        return Ok(());
    }
    let zone = record.parent.as_deref().unwrap_or_default();
    let zone_name = read::of_kind(draft, Kind::Zone, zone).await?.map(|zone| zone.label).unwrap_or_default();
    let mut others = read::records_at(draft, zone, record.text("name")).await?;
    others.retain(|other| !is_auto(other) && other.id != record.id);
    let (name, record_type) = (record.text("name"), record.text("type"));
    let is_alias = |record: &Resource| record.text("type") == "CNAME";
    if before.is_none()
        && let Some(other) = others.iter().find(|other| is_alias(record) || is_alias(other))
    {
        return Err(PlanError::Conflict(format!(
            "{name} has a {} record already; a CNAME cannot stand beside other records",
            other.text("type")
        )));
    }
    others.retain(|other| other.text("type") == record_type);
    let set: Vec<_> = others.iter().chain([record]).map(|record| read::data_of(record, &zone_name)).collect();
    let Some((own, rest)) = set.split_last() else { return Ok(()) };
    there_is_room(name, record_type, &set)?;
    if rest.contains(own) {
        return Err(PlanError::Conflict(format!("{name} has this {record_type} record already")));
    }
    let takes_no_mail = |data: &read::Data| record_type == "MX" && data.target() == Some("");
    if !rest.is_empty() && set.iter().any(takes_no_mail) {
        return Err(PlanError::Conflict(format!(
            "{name}: the MX record \".\" says that no mail is taken, and stands alone (RFC 7505 §3): delete it, or the others"
        )));
    }
    Ok(())
}

/// The largest RRset that name servers take, in bytes of wire form: several fit into one message over TCP.
const MAX_RR_SET_BYTES: usize = 16 * 1024;
/// Most records of an RRset, and of one of name servers (a referral carries glue for all of them, RFC 9471).
const MAX_RECORDS: usize = 512;
const MAX_NS_RECORDS: usize = 32;
/// Owner, type, class, TTL and length of a record.
const RECORD_HEADER: usize = 12;

/// What name servers would refuse is refused here, where somebody reads the reason.
fn there_is_room(name: &str, record_type: &str, set: &[read::Data]) -> Result<(), PlanError> {
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
