//! Which units a changed resource touches. Pure.

use std::collections::BTreeSet;

use hosting_intent::{Audience, Cause};
use hosting_resource::{Kind, Resource, Status};

use crate::fields::{auto_records, dns_audience, given, is_auto, places, state};
use crate::gates::record_unit;
use crate::{Unit, Walk, node_audiences};

/// The units to plan after `before` became `after`; `None` for what is not there. Walks among them stand for more units
/// than can be told without reading.
#[must_use]
pub fn touched(before: Option<&Resource>, after: Option<&Resource>, cause: Cause) -> BTreeSet<Unit> {
    let mut units = BTreeSet::new();
    let Some(one) = after.or(before) else { return units };
    let id = one.id.as_str();
    let walk = |over: Walk, of: &str| Unit::Walk { over, of: of.to_owned(), after: String::new(), cause };
    let born_or_gone = before.is_some() != after.is_some();
    let differs = |field: &str| match (before, after) {
        (Some(before), Some(after)) => before.spec.get(field) != after.spec.get(field),
        (None, _) | (_, None) => true,
    };
    let state_differs = |field: &str| match (before, after) {
        (Some(before), Some(after)) => before.state.get(field) != after.state.get(field),
        (None, _) | (_, None) => true,
    };
    let going = |resource: Option<&Resource>| resource.is_none_or(|r| r.status == Status::Deleting);
    let lives_or_dies = going(before) != going(after);
    match one.kind {
        Kind::Region | Kind::Subscription | Kind::ApiKey => {}
        Kind::Brand => {
            if born_or_gone || differs("dns_group") {
                let brands = [before, after].into_iter().flatten();
                units.extend(brands.filter_map(|brand| dns_audience(brand).ok()).map(Unit::Audience));
                units.insert(walk(Walk::Clusters, ""));
            }
            if !born_or_gone {
                if ["dns_group", "primary_ns", "secondary_ns", "hostmaster_email"].into_iter().any(differs) {
                    units.insert(walk(Walk::BrandZones, id));
                }
                if differs("base_hostname") {
                    units.insert(walk(Walk::BrandTenants, id));
                }
            }
        }
        Kind::Cluster => {
            if born_or_gone {
                units.insert(Unit::Cluster(id.to_owned()));
                units.extend(Audience::edge(id).ok().map(Unit::Audience));
            }
        }
        Kind::LbAddress => {
            if born_or_gone || differs("address") {
                units.extend(one.parent.iter().cloned().map(Unit::Cluster));
                units.insert(walk(Walk::DnsGroups, ""));
            }
        }
        Kind::Shard => {
            units.insert(Unit::Shard(id.to_owned()));
            if !born_or_gone && differs("name") {
                units.insert(walk(Walk::ShardTenants, id));
            }
        }
        Kind::Node => {
            let shards = |node: Option<&Resource>| -> BTreeSet<String> {
                node.map(places).unwrap_or_default().into_iter().map(|place| place.shard_id).collect()
            };
            let (left, joined) = (shards(before), shards(after));
            units.extend(left.union(&joined).cloned().map(Unit::Shard));
            let audiences = |node: Option<&Resource>| node.map(node_audiences).unwrap_or_default();
            units.extend(
                audiences(before).symmetric_difference(&audiences(after)).cloned().map(Unit::Audience),
            );
            if after.is_none() {
                // Everything that this node was told, whichever shard it came from.
                units.insert(walk(Walk::NodeRows, id));
            } else {
                units.extend(left.symmetric_difference(&joined).map(|shard| walk(Walk::ShardTenants, shard)));
            }
        }
        Kind::Tenant => {
            units.insert(Unit::Tenant(id.to_owned()));
            units.insert(Unit::Retire(id.to_owned()));
            if !born_or_gone && (differs("shard_id") || differs("cluster_id")) {
                units.insert(walk(Walk::TenantSites, id));
                units.insert(walk(Walk::TenantNames, id));
            }
        }
        Kind::Webroot => {
            units.insert(Unit::Webroot(id.to_owned()));
            if lives_or_dies {
                units.insert(Unit::Retire(id.to_owned()));
            }
            if !born_or_gone && state_differs(state::SITE_READY) {
                units.insert(walk(Walk::WebrootFqdns, id));
            }
            if state_differs(state::ROUTED) || lives_or_dies {
                units.extend(
                    [before, after].into_iter().flatten().flat_map(auto_records).map(|record| record.unit()),
                );
            }
        }
        Kind::Fqdn => {
            units.insert(Unit::Fqdn(id.to_owned()));
            if state_differs(state::ROUTED) || lives_or_dies {
                units.extend(
                    [before, after].into_iter().flatten().flat_map(auto_records).map(|record| record.unit()),
                );
            }
        }
        Kind::Zone => {
            units.insert(Unit::Zone(id.to_owned()));
            if lives_or_dies || differs("tenant_id") {
                units.insert(walk(Walk::NamesUnder, one.text("name")));
            }
        }
        Kind::ZoneRecord => {
            units.extend([before, after].into_iter().flatten().filter_map(record_unit));
            // What may take a name over from the automatic records, or give it back to them.
            if !is_auto(one)
                && matches!(given(one, "type"), Some("A" | "AAAA" | "CNAME"))
                && let Some(zone) = &one.parent
            {
                units.extend(["A", "AAAA"].map(|record_type| Unit::RrSet {
                    zone: zone.clone(),
                    name: one.text("name").to_owned(),
                    record_type: record_type.to_owned(),
                }));
            }
        }
    }
    units
}
