//! Fields of resources that planning reads and writes, by the names that the API and the store give them.

use std::collections::BTreeMap;

use hosting_intent::{Audience, AudienceError, group_or_default};
use hosting_resource::{Kind, Resource, Status};
use serde_json::{Map, Value};

use crate::{IntentRow, Unit};

/// Where nodes' web servers listen that name no port.
pub(crate) const DEFAULT_WEB_PORT: u16 = 80;
/// By which a node refers to its shards.
pub(crate) const SHARD_RELATION: &str = "shard_ids";
/// By which a zone's records are found by their absolute name: `{zone id}/{name}`.
pub(crate) const OWNER_FACET: &str = "owner";
/// By which the names at or below another are found.
pub(crate) const SUFFIX_FACET: &str = "suffix";
/// The counter behind SerialOffset.
pub(crate) const SERIAL_OFFSET: &str = "dns_serial_offset";
/// The counter of the latest serial that a deleted zone had.
pub(crate) const ZONE_SERIAL: &str = "dns_zone_serial";
/// The counter behind tenants' uids: the last one given.
pub(crate) const TENANT_UID: &str = "tenant_uid";
/// The first tenant's uid.
pub(crate) const FIRST_TENANT_UID: u64 = 5000;

/// Keys of `Resource::state`.
pub(crate) mod state {
    /// Webroot: one node has it ready, or had.
    pub(crate) const SITE_READY: &str = "site_ready";
    /// FQDN, and webroot for its service host name: every edge in service applied the route, or had.
    pub(crate) const ROUTED: &str = "routed";
    /// `{audience: revision}` of the withdrawals that a deletion waits for.
    pub(crate) const WITHDRAWN: &str = "withdrawn";
    /// Nodes that are told to destroy the data.
    pub(crate) const RETIRE_ON: &str = "retire_on";
    /// Zone: SOA serial.
    pub(crate) const SERIAL: &str = "serial";
    /// Zone: the revision that moved the serial last.
    pub(crate) const SERIAL_REVISION: &str = "serial_revision";
    /// Tenant: uid on its nodes.
    pub(crate) const UID: &str = "uid";
    /// Tenant: why it is suspended.
    pub(crate) const SUSPEND_REASON: &str = "suspend_reason";
    /// Node: its places in shards.
    pub(crate) const SHARDS: &str = "shards";
    /// Node: gets no requests.
    pub(crate) const OUT_OF_SERVICE: &str = "out_of_service";
    /// FQDN and webroot: its automatic records, `[{id, zone, name, type}]`.
    pub(crate) const AUTO_RECORDS: &str = "auto_records";
    /// Webroot: the service host names that its automatic records were made for.
    pub(crate) const SERVICE_NAMES: &str = "service_names";
    /// Automatic record: the FQDN or webroot that it is for.
    pub(crate) const SOURCE: &str = "source";
    /// A deletion's place in what lies in the resource: `{kind, after}`.
    pub(crate) const CASCADE: &str = "cascade";
    /// W3C traceparent of the user's last change, while that waits for anything.
    pub(crate) const TRACEPARENT: &str = "traceparent";
    /// API key: when it was revoked, in milliseconds since the Unix epoch.
    pub(crate) const REVOKED_AT: &str = "revoked_at";
}

/// The name servers that serve a brand's zones.
///
/// # Errors
/// When the stored group cannot stand in an audience.
pub(crate) fn dns_audience(brand: &Resource) -> Result<Audience, AudienceError> {
    Audience::dns(group_or_default(brand.text("dns_group")))
}

/// A text field that counts as absent when it is empty.
pub(crate) fn given<'a>(resource: &'a Resource, field: &str) -> Option<&'a str> {
    Some(resource.text(field)).filter(|value| !value.is_empty())
}

/// A number of the spec.
pub(crate) fn number(resource: &Resource, field: &str) -> Option<u64> {
    resource.spec.get(field).and_then(Value::as_u64)
}

/// A number of the state; 0 when it is absent.
pub(crate) fn state_number(resource: &Resource, field: &str) -> u64 {
    resource.state.get(field).and_then(Value::as_u64).unwrap_or_default()
}

/// The texts of a list.
pub(crate) fn texts(map: &Map<String, Value>, field: &str) -> Vec<String> {
    map.get(field)
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default()
}

/// Whether the resource is on its way out.
pub(crate) fn is_deleting(resource: &Resource) -> bool {
    resource.status == Status::Deleting
}

/// Whether it is a resource of that kind that is to be in effect.
pub(crate) fn is_live(resource: &Resource, kind: Kind) -> bool {
    resource.kind == kind && !is_deleting(resource)
}

/// `{audience: revision}` of a deletion.
pub(crate) fn withdrawn(resource: &Resource) -> BTreeMap<Audience, u64> {
    resource
        .state
        .get(state::WITHDRAWN)
        .and_then(Value::as_object)
        .map(|map| map.iter().filter_map(|(k, v)| Some((k.parse().ok()?, v.as_u64()?))).collect())
        .unwrap_or_default()
}

/// An automatic record, as its FQDN or webroot remembers it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AutoRecord {
    pub(crate) zone: String,
    pub(crate) name: String,
    pub(crate) record_type: String,
    pub(crate) id: String,
}

impl AutoRecord {
    pub(crate) fn unit(&self) -> Unit {
        Unit::RrSet {
            zone: self.zone.clone(),
            name: self.name.clone(),
            record_type: self.record_type.clone(),
        }
    }
}

/// The automatic records of an FQDN or webroot.
pub(crate) fn auto_records(source: &Resource) -> Vec<AutoRecord> {
    let text = |entry: &Value, field: &str| entry.get(field)?.as_str().map(str::to_owned);
    source
        .state
        .get(state::AUTO_RECORDS)
        .and_then(Value::as_array)
        .map(|list| {
            list.iter()
                .filter_map(|entry| {
                    Some(AutoRecord {
                        zone: text(entry, "zone")?,
                        name: text(entry, "name")?,
                        record_type: text(entry, "type")?,
                        id: text(entry, "id")?,
                    })
                })
                .collect()
        })
        .unwrap_or_default()
}

pub(crate) fn set_auto_records(source: &mut Resource, records: &[AutoRecord]) {
    let list: Vec<Value> = records
        .iter()
        .map(|r| serde_json::json!({"zone": r.zone, "name": r.name, "type": r.record_type, "id": r.id}))
        .collect();
    if list.is_empty() {
        source.state.remove(state::AUTO_RECORDS);
    } else {
        source.state.insert(state::AUTO_RECORDS.to_owned(), Value::Array(list));
    }
}

/// Whether the platform keeps the record.
pub(crate) fn is_auto(record: &Resource) -> bool {
    record.text("managed_by") == "auto"
}

/// The FQDN or webroot that an automatic record is for.
pub(crate) fn auto_source(record: &Resource) -> Option<&str> {
    record.state.get(state::SOURCE).and_then(Value::as_str)
}

/// What a route row says.
pub(crate) fn route_of(row: &IntentRow) -> Option<hosting_intent::message::Route> {
    prost::Message::decode(row.value.clone()).ok()
}

/// A node's place in a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which shard.
    pub shard_id: String,
    /// The shard's role.
    pub shard_role: String,
    /// From 1, unique in the shard, never moved while the node stays.
    pub shard_index: u64,
}

/// A node's places, in the order they were given.
#[must_use]
pub fn places(node: &Resource) -> Vec<Place> {
    node.state
        .get(state::SHARDS)
        .and_then(Value::as_array)
        .map(|list| {
            list.iter()
                .filter_map(|entry| {
                    Some(Place {
                        shard_id: entry.get("shard_id")?.as_str()?.to_owned(),
                        shard_role: entry.get("shard_role")?.as_str()?.to_owned(),
                        shard_index: entry.get("shard_index")?.as_u64()?,
                    })
                })
                .collect()
        })
        .unwrap_or_default()
}

pub(crate) fn set_places(node: &mut Resource, places: &[Place]) {
    let list = places
        .iter()
        .map(|place| {
            serde_json::json!({
                "shard_id": place.shard_id,
                "shard_role": place.shard_role,
                "shard_index": place.shard_index,
            })
        })
        .collect();
    node.state.insert(state::SHARDS.to_owned(), Value::Array(list));
}

/// The names at which a site answers without a host name of its own: `{webroot}.{tenant}.{base}`, with `-` for `_`
/// (what a public CA certifies) first and as the ids are written second. One name when the ids have no `_`.
pub(crate) fn service_names(webroot: &str, tenant: &str, base_hostname: &str) -> Vec<String> {
    let base = base_hostname.trim_end_matches('.').to_ascii_lowercase();
    if base.is_empty() {
        return Vec::new();
    }
    let written = format!("{webroot}.{tenant}.{base}").to_ascii_lowercase();
    let certifiable =
        format!("{}.{}.{base}", webroot.replace('_', "-"), tenant.replace('_', "-")).to_ascii_lowercase();
    let mut names = vec![certifiable, written];
    names.dedup();
    names
}

/// Whether a name has the form of a service host name, whatever brand's. Nobody may claim such a name as an FQDN.
pub(crate) fn is_service_name(name: &str) -> bool {
    let mut labels = name.split('.');
    let (Some(site), Some(tenant), Some(_)) = (labels.next(), labels.next(), labels.next()) else {
        return false;
    };
    let has_form = |label: &str, prefixes: [&str; 2]| {
        prefixes.into_iter().any(|prefix| {
            label
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.len() == 10 && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
        })
    };
    has_form(site, ["web_", "web-"]) && has_form(tenant, ["t_", "t-"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names_in_both_spellings() {
        assert_eq!(
            service_names("web_0123456789", "t_abcdefghij", "Sites.example."),
            ["web-0123456789.t-abcdefghij.sites.example", "web_0123456789.t_abcdefghij.sites.example"]
        );
        assert_eq!(service_names("w", "t", "sites.example"), ["w.t.sites.example"]);
        assert!(service_names("w", "t", "").is_empty());
        assert!(is_service_name("web-0123456789.t_abcdefghij.sites.example"));
        assert!(!is_service_name("web-0123456789.t_abcdefghij"));
        assert!(!is_service_name("web-shop.t-abcdefghij.example"));
        assert!(!is_service_name("www.t-abcdefghij.example"));
    }
}
