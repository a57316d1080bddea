//! The machines: who is there, who applies what it is told, and who serves it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;

use super::check::{Check, Finding, Look, Seen, Trouble, View, called, items, text};
use crate::{api::encode, fleet::Service, output::span};

pub(super) const CHECKS: &[&dyn Check] = &[
    &InService,
    &NeverHeardOf,
    &Lagging,
    &OnDisk,
    &Exceptions { name: "rejected items", field: "rejected", runbook: "items-rejected.md", is_failure: true },
    &Exceptions {
        name: "unsupported items",
        field: "unsupported",
        runbook: "items-rejected.md",
        is_failure: true,
    },
    &Exceptions { name: "brakes", field: "held", runbook: "items-held.md", is_failure: true },
    &Exceptions { name: "orphans", field: "orphans", runbook: "orphans.md", is_failure: false },
    &NotServed,
];

/// Between two looks at who is behind: being behind for a moment is how it works.
const PAUSE: Duration = Duration::from_millis(1500);
/// The newest tenants, and zones, whose receipts are read.
const NEWEST: usize = 10;

const SUBSCRIBERS: &str = "/subscribers";

fn node(one: &Value) -> &str {
    text(one, "node_id")
}

struct InService;

impl Check for InService {
    fn name(&self) -> &'static str {
        "machines in service"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move { Ok(in_service(&view.subscribers().await?)) })
    }
}

fn in_service(all: &[Value]) -> Seen {
    let mut findings = Vec::new();
    if all.is_empty() {
        findings.push(Finding::warn("No machine has joined yet.", "hostctl node join-token NODE"));
    }
    for one in all {
        let seconds = one["silent_for"].as_f64().unwrap_or_default() as i64;
        let (node, silent) = (node(one), span(jiff::SignedDuration::from_secs(seconds)));
        let audience = text(one, "audience");
        findings.extend(match Service::of(one) {
            Service::In => None,
            Service::CatchingUp => Some(Finding::warn(
                format!("{node} ({audience}) is connected and catches up, so it is not in service yet."),
                "hostctl fleet",
            )),
            Service::Silent => Some(
                Finding::fail(
                    format!(
                        "{node} ({audience}) is out of service, silent for {silent} on an open connection."
                    ),
                    "hostctl fleet, then look at its process: it hangs or is stopped",
                )
                .with("node-lost.md"),
            ),
            Service::Away => Some(
                Finding::fail(
                    format!("{node} ({audience}) is out of service and was last heard of {silent} ago."),
                    format!("hostctl plan --without {node}, then look at the machine"),
                )
                .with("node-lost.md"),
            ),
        });
    }
    Seen::new(format!("{} sessions, all in service", all.len()), findings)
}

struct NeverHeardOf;

impl Check for NeverHeardOf {
    fn name(&self) -> &'static str {
        "registered machines"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let nodes = view.places().await?.nodes;
            let known: Vec<Value> = view.subscribers().await?;
            let known: BTreeSet<&str> = known.iter().map(node).collect();
            let findings = nodes.iter().filter(|one| !known.contains(text(one, "id"))).map(|one| {
                let (id, host) = (text(one, "id"), text(one, "hostname"));
                Finding::warn(
                    format!("Node {id} ({host}) is registered and has never been heard of."),
                    format!("hostctl node join-token {id}, or hostctl delete node {id}"),
                )
            });
            Ok(Seen::new(format!("{} nodes, each has joined", nodes.len()), findings.collect()))
        })
    }
}

/// The subscribers that a condition holds for now and a moment later, without having moved in `field`.
async fn still(view: &View, is_so: fn(&Value) -> bool, field: &str) -> Result<Vec<Value>, Trouble> {
    let before: Vec<Value> = view.subscribers().await?.into_iter().filter(is_so).collect();
    if before.is_empty() {
        return Ok(before);
    }
    tokio::time::sleep(PAUSE).await;
    let answer = view.again(SUBSCRIBERS, SUBSCRIBERS).await?;
    let who = |one: &Value| (node(one).to_owned(), text(one, "audience").to_owned());
    let was: BTreeMap<(String, String), &Value> = before.iter().map(|one| (who(one), &one[field])).collect();
    let stands = |one: &&Value| is_so(one) && was.get(&who(one)).is_some_and(|was| **was == one[field]);
    Ok(items(&answer, "items").iter().filter(stands).cloned().collect())
}

struct Lagging;

impl Check for Lagging {
    fn name(&self) -> &'static str {
        "machines behind"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let is_behind =
                |one: &Value| one["connected"] == true && one["applied"].as_u64() < one["head"].as_u64();
            let findings = still(view, is_behind, "applied").await?.into_iter().map(|one| {
                let what = format!(
                    "{} ({}) stands at revision {} of {} and does not come on.",
                    node(&one),
                    text(&one, "audience"),
                    one["applied"],
                    one["head"]
                );
                Finding::warn(what, "hostctl fleet, then the log of that machine").with("node-lost.md")
            });
            Ok(Seen::new(
                "whoever is connected has the newest revision, or moves towards it",
                findings.collect(),
            ))
        })
    }
}

struct OnDisk;

impl Check for OnDisk {
    fn name(&self) -> &'static str {
        "disks of machines"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let is_behind = |one: &Value| one["durable"].as_u64() < one["applied"].as_u64();
            let findings = still(view, is_behind, "durable").await?.into_iter().map(|one| {
                let what = format!(
                    "{} has revision {} in effect and only {} on its disk.",
                    node(&one),
                    one["applied"],
                    one["durable"]
                );
                Finding::fail(what, "df -h and df -i on that machine; do not restart its process")
                    .with("ledger-disk-alarm.md")
            });
            Ok(Seen::new("what is in effect is on the machines' disks too", findings.collect()))
        })
    }
}

/// Items that a machine does not have in effect as they are wanted.
struct Exceptions {
    name: &'static str,
    field: &'static str,
    runbook: &'static str,
    is_failure: bool,
}

impl Check for Exceptions {
    fn name(&self) -> &'static str {
        self.name
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move { Ok(self.of(&view.subscribers().await?)) })
    }
}

impl Exceptions {
    fn of(&self, all: &[Value]) -> Seen {
        let findings = all.iter().filter_map(|one| {
            let found = items(one, self.field);
            let first = found.first()?;
            let why = first.get("reason").or_else(|| first.get("message")).and_then(Value::as_str);
            let (node, key) = (node(one), text(first, "key"));
            let what = match self.field {
                "held" => format!("The brake of {node} holds {} items, {key} first.", found.len()),
                "orphans" => format!("{node} has {} things that nobody wants, {key} first.", found.len()),
                field => format!(
                    "{node} has {} items {field}, {key} first: {}.",
                    found.len(),
                    why.unwrap_or("no reason")
                ),
            };
            let finding = if self.is_failure {
                Finding::fail(what, "hostctl fleet")
            } else {
                Finding::warn(what, "hostctl fleet")
            };
            Some(finding.with(self.runbook))
        });
        Seen::new(format!("none at {} sessions", all.len()), findings.collect())
    }
}

/// Receipts of the newest tenants and zones: whether every answer of every machine is right is more than can be asked here.
struct NotServed;

impl Check for NotServed {
    fn name(&self) -> &'static str {
        "served receipts"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let query = format!("status=active&limit={NEWEST}");
            let (mut findings, mut looked) = (Vec::new(), 0);
            for (kind, list, receipts) in
                [("tenant", "/tenants", "/tenants/*/receipt"), ("zone", "/zones", "/zones/*/receipt")]
            {
                for one in view.page(list, &query).await?.items {
                    let id = text(&one, "id");
                    match view.get(receipts, &format!("{list}/{}/receipt", encode(id))).await {
                        Ok(receipt) => {
                            looked += 1;
                            findings.extend(not_served(kind, id, called(&one), &receipt));
                        }
                        // It was deleted since the list was read.
                        Err(Trouble::NotServed(_)) => {}
                        Err(trouble) => return Err(trouble),
                    }
                }
            }
            Ok(Seen::new(
                format!("{looked} receipts of the newest tenants and zones, none says not_served"),
                findings,
            ))
        })
    }
}

fn not_served(kind: &str, id: &str, name: &str, receipt: &Value) -> Option<Finding> {
    let machines = items(receipt, "items").iter().flat_map(|item| items(item, "subscribers"));
    let mut wrong = machines.filter(|machine| machine["state"] == "not_served");
    let first = wrong.next()?;
    let what = format!("{} does not serve {kind} {name}: {}.", node(first), text(first, "detail"));
    Some(Finding::fail(what, format!("hostctl receipt {kind} {id}")).with("not-served.md"))
}

/// The ids of nodes that are in service.
pub(super) fn serving(all: &[Value]) -> BTreeSet<&str> {
    all.iter().filter(|one| one["in_service"] == true).map(node).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::check::Severity;

    #[test]
    fn who_is_away_is_a_failure_and_who_comes_a_warning() {
        let one = |in_service: bool, connected: bool, silent: f64| json!({"node_id": "web-1", "audience": "node/web-1", "in_service": in_service, "connected": connected, "silent_for": silent});
        let found = |all: &[Value]| in_service(all).findings;
        assert_eq!(found(&[one(true, true, 1.0)]), []);
        assert_eq!(found(&[one(false, true, 1.0)])[0].severity, Severity::Warn);
        let away = &found(&[one(false, false, 7_200.0)])[0];
        assert_eq!((away.severity, away.runbook), (Severity::Fail, "node-lost.md"));
        assert!(away.what.contains("last heard of 2h ago"), "{}", away.what);
        assert!(found(&[one(false, true, 60.0)])[0].what.contains("on an open connection"));
        assert_eq!(found(&[])[0].severity, Severity::Warn);
    }

    #[test]
    fn what_a_machine_refuses_is_told_with_the_first_item_and_its_reason() {
        let check =
            Exceptions { name: "", field: "rejected", runbook: "items-rejected.md", is_failure: true };
        let all = [
            json!({"node_id": "edge-1", "rejected": [{"key": "route/bad.test", "reason": "label too long"}, {"key": "b"}]}),
        ];
        let found = check.of(&all).findings;
        assert_eq!(found[0].what, "edge-1 has 2 items rejected, route/bad.test first: label too long.");
        let held = Exceptions { field: "held", ..check };
        assert_eq!(held.of(&all).findings, []);
    }

    #[test]
    fn a_receipt_that_is_merely_unchecked_is_no_finding() {
        let receipt = |state: &str| json!({"items": [{"subscribers": [{"node_id": "edge-1", "state": state, "detail": "refused"}]}]});
        assert!(not_served("zone", "z", "a.example", &receipt("unchecked")).is_none());
        let found = not_served("zone", "z", "a.example", &receipt("not_served")).unwrap();
        assert_eq!(found.what, "edge-1 does not serve zone a.example: refused.");
        assert_eq!(found.next, "hostctl receipt zone z");
    }
}
