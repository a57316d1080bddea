//! Room, and what would be gone with one machine or one rack.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::check::{Check, Finding, Look, Places, Seen, View, items, text};
use super::fleet::serving;

pub(super) const CHECKS: &[&dyn Check] = &[&Room, &Pools, &Drained];

/// A shard that is so full, in percent, is nearly full.
const NEARLY_FULL: u64 = 90;
/// What is drained longer than this, in seconds, was perhaps forgotten.
const DRAINED_LONG: i64 = 86_400;

struct Room;

impl Check for Room {
    fn name(&self) -> &'static str {
        "room in shards"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let places = view.places().await?;
            let stats = view.get("/dashboard/stats", "/dashboard/stats").await?;
            Ok(room(&places.shards, &stats))
        })
    }
}

fn room(shards: &[Value], stats: &Value) -> Seen {
    let tenants = |id: &str| {
        let mut all = items(stats, "tenants_per_shard").iter();
        all.find(|one| one["shard_id"] == id).and_then(|one| one["count"].as_u64()).unwrap_or_default()
    };
    let limited = shards.iter().filter(|shard| shard["max_tenants"].as_u64() > Some(0));
    let (mut findings, mut count) = (Vec::new(), 0);
    for shard in limited {
        count += 1;
        let (name, id) = (text(shard, "name"), text(shard, "id"));
        let (used, most) = (tenants(id), shard["max_tenants"].as_u64().unwrap_or_default());
        if used * 100 >= most * NEARLY_FULL {
            let words = if used >= most { "full" } else { "nearly full" };
            let what = format!("Shard {name} is {words}: {used} of {most} tenants.");
            findings.push(Finding::warn(
                what,
                format!("hostctl update shard {id} -s max_tenants=NUMBER, or make another shard"),
            ));
        }
    }
    Seen::new(format!("{count} shards have a limit, none is nearly full"), findings)
}

struct Pools;

impl Check for Pools {
    fn name(&self) -> &'static str {
        "pools"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let places = view.places().await?;
            Ok(pools(&places, &view.subscribers().await?))
        })
    }
}

fn pools(places: &Places, subscribers: &[Value]) -> Seen {
    let mut findings = Vec::new();
    let serving = serving(subscribers);
    let mut nodes_of: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for node in &places.nodes {
        for one in items(node, "shards") {
            nodes_of.entry(text(one, "shard_id")).or_default().push(node);
        }
    }
    for shard in &places.shards {
        let (name, id) = (text(shard, "name"), text(shard, "id"));
        let nodes = nodes_of.get(id).map_or(&[][..], Vec::as_slice);
        let in_service = nodes.iter().filter(|node| serving.contains(text(node, "id"))).count();
        let domains: BTreeSet<&str> = nodes.iter().map(|node| text(node, "failure_domain")).collect();
        let role = text(shard, "role");
        let next = format!("hostctl get nodes --filter shard={id}");
        findings.extend(match (nodes.len(), in_service) {
            (0, _) => Some(Finding::warn(format!("Shard {name} ({role}) has no node."), next)),
            (_, 0) => Some(
                Finding::fail(format!("Shard {name} ({role}) has no node in service."), "hostctl fleet")
                    .with("node-lost.md"),
            ),
            (1, _) => Some(Finding::warn(
                format!("Shard {name} ({role}) has one node: all of it is gone when that one fails."),
                format!("hostctl plan --without {}, then add a node", text(nodes[0], "id")),
            )),
            (count, 1) => Some(Finding::warn(
                format!("Shard {name} ({role}) has one of {count} nodes in service."),
                "hostctl fleet",
            )),
            (count, _) if domains.len() == 1 => {
                let domain = domains.first().copied().unwrap_or_default();
                let where_to = if domain.is_empty() {
                    "whose failure domains are not known".to_owned()
                } else {
                    format!("all in the failure domain {domain}")
                };
                Some(Finding::warn(
                    format!("Shard {name} ({role}) has {count} nodes, {where_to}."),
                    "hostctl update node NODE -s failure_domain=NAME",
                ))
            }
            _ => None,
        });
    }
    Seen::new(format!("{} shards, each has nodes in two failure domains", places.shards.len()), findings)
}

struct Drained;

impl Check for Drained {
    fn name(&self) -> &'static str {
        "drained"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let places = view.places().await?;
            let all = places
                .nodes
                .iter()
                .map(|one| ("node", one))
                .chain(places.shards.iter().map(|one| ("shard", one)));
            let long = all.filter(|(_, one)| {
                view.seconds_since(&one["draining"]["since"]).is_some_and(|since| since > DRAINED_LONG)
            });
            let findings = long.map(|(noun, one)| {
                let id = text(one, "id");
                let what = format!(
                    "{noun} {} is drained since {}.",
                    super::check::called(one),
                    text(&one["draining"], "since")
                );
                Finding::warn(what, format!("hostctl undrain {noun} {id}, or hostctl delete {noun} {id}"))
            });
            Ok(Seen::new("nothing for longer than a day", findings.collect()))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::check::Severity;

    #[test]
    fn a_shard_is_nearly_full_from_nine_tenths_on() {
        let shards =
            [json!({"id": "s", "name": "web-1", "max_tenants": 10}), json!({"id": "u", "name": "web-2"})];
        let found = |count: u64| {
            room(&shards, &json!({"tenants_per_shard": [{"shard_id": "s", "count": count}, {"shard_id": "u", "count": 99}]})).findings
        };
        assert_eq!(found(8), []);
        assert_eq!(found(9)[0].what, "Shard web-1 is nearly full: 9 of 10 tenants.");
        assert_eq!(found(10)[0].what, "Shard web-1 is full: 10 of 10 tenants.");
    }

    #[test]
    fn a_pool_is_sound_with_two_nodes_that_serve_in_two_domains() {
        let node = |id: &str, domain: &str| json!({"id": id, "failure_domain": domain, "shards": [{"shard_id": "s"}]});
        let serves = |id: &str| json!({"node_id": id, "in_service": true});
        let found = |nodes: Vec<Value>, serving: &[Value]| {
            let shards = vec![json!({"id": "s", "name": "web-1", "role": "web"})];
            pools(&Places { clusters: Vec::new(), shards, nodes }, serving).findings
        };
        let both = [serves("a"), serves("b")];
        assert_eq!(found(vec![node("a", "r1"), node("b", "r2")], &both), []);
        assert!(
            found(vec![node("a", "r1"), node("b", "r1")], &both)[0]
                .what
                .contains("all in the failure domain r1")
        );
        assert!(found(vec![node("a", ""), node("b", "")], &both)[0].what.contains("not known"));
        assert!(found(vec![node("a", "r1")], &both)[0].what.contains("has one node"));
        assert!(
            found(vec![node("a", "r1"), node("b", "r2")], &both[..1])[0]
                .what
                .contains("one of 2 nodes in service")
        );
        let none = found(vec![node("a", "r1"), node("b", "r2")], &[]);
        assert_eq!(none[0].severity, Severity::Fail);
        assert!(found(Vec::new(), &both)[0].what.contains("has no node."));
    }
}
