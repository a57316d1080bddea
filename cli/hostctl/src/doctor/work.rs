//! What the platform works on, and what it could not do.

use hosting_resource::Kind;
use serde_json::Value;

use super::check::{Check, Finding, Look, Seen, Trouble, View, called, items, text};
use crate::{api::encode, kinds};

pub(super) const CHECKS: &[&dyn Check] =
    &[&FailedResources, &FailedInTenants, &FailedJobs, &StuckJobs, &Rollouts, &Webhooks, &Incidents, &Names];

/// A job that failed longer ago is history; in seconds, as all here.
const RECENT: i64 = 3 * 86_400;
/// A job that could have been begun so long ago is begun by nobody.
const OVERDUE: i64 = 300;
/// A step or a rollout that takes longer stands still.
const LONG: i64 = 3_600;
/// A rollout that was taken back longer ago is history.
const LATELY: i64 = 86_400;
/// The newest rollouts that are looked at; those under way are among them.
const NEWEST_ROLLOUTS: usize = 50;
/// Tenants whose host names are looked at for proofs.
const MOST_TENANTS: usize = 5;

/// The platform-wide lists of kinds with a status.
struct FailedResources;

impl Check for FailedResources {
    fn name(&self) -> &'static str {
        "failed resources"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let infos = Kind::ALL.iter().map(|kind| kind.info());
            let (mut findings, mut looked, mut refused) = (Vec::new(), Vec::new(), None);
            for info in infos.filter(|info| info.status && !info.collection.contains('{')) {
                let page = match view.page(info.collection, "status=failed&count=true&limit=1").await {
                    Ok(page) => page,
                    Err(trouble @ Trouble::NotAllowed(_)) => {
                        refused = Some(trouble);
                        continue;
                    }
                    Err(trouble) => return Err(trouble),
                };
                looked.push(info.plural());
                findings.extend(page.items.first().map(|first| {
                    let what = format!(
                        "{} {} failed, {} first: {}.",
                        page.count(),
                        info.plural(),
                        called(first),
                        text(first, "status_message")
                    );
                    let next = format!("hostctl get {} --status failed", info.plural());
                    Finding::warn(what, next).with("items-rejected.md")
                }));
            }
            if let Ok(places) = view.places().await {
                for (info, all) in [
                    (Kind::Cluster.info(), &places.clusters),
                    (Kind::Shard.info(), &places.shards),
                    (Kind::Node.info(), &places.nodes),
                ] {
                    looked.push(info.plural());
                    findings.extend(all.iter().filter(|one| one["status"] == "failed").map(|one| {
                        let what = format!(
                            "{} {} failed: {}.",
                            info.dashed(),
                            called(one),
                            text(one, "status_message")
                        );
                        Finding::fail(what, format!("hostctl describe {} {}", info.dashed(), text(one, "id")))
                            .with("items-rejected.md")
                    }));
                }
            }
            match refused {
                Some(trouble) if looked.is_empty() => Err(trouble),
                Some(_) | None => Ok(Seen::new(format!("none of {}", looked.join(", ")), findings)),
            }
        })
    }
}

struct FailedInTenants;

impl Check for FailedInTenants {
    fn name(&self) -> &'static str {
        "failed in tenants"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let tenants = view.newest_tenants().await?;
            let findings = tenants.iter().filter_map(|(tenant, summary)| failed_in(tenant, summary));
            Ok(Seen::new(
                format!("nothing failed in the newest {} tenants", tenants.len()),
                findings.collect(),
            ))
        })
    }
}

fn failed_in(tenant: &Value, summary: &Value) -> Option<Finding> {
    if summary["failed"].as_u64().unwrap_or_default() == 0 {
        return None;
    }
    let kinds = summary.as_object()?.iter().filter_map(|(kind, counts)| {
        let count = counts["failed"].as_u64().filter(|count| *count > 0)?;
        Some(format!("{count} {}", kind.replace('_', "-")))
    });
    let (name, id) = (called(tenant), text(tenant, "id"));
    let what = format!("Tenant {name} has failed resources: {}.", kinds.collect::<Vec<_>>().join(", "));
    Some(Finding::warn(what, format!("hostctl retry tenant {id} --all")).with("items-rejected.md"))
}

struct FailedJobs;

impl Check for FailedJobs {
    fn name(&self) -> &'static str {
        "failed jobs"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let page = view.page("/jobs", "state=failed").await?;
            let is_recent =
                |job: &&Value| view.seconds_since(&job["ended_at"]).is_none_or(|since| since < RECENT);
            let recent: Vec<&Value> = page.items.iter().filter(is_recent).collect();
            let findings = recent.first().map(|first| {
                let what = format!(
                    "{} jobs failed within three days, a {} last: {}.",
                    recent.len(),
                    text(first, "kind"),
                    text(first, "error")
                );
                Finding::warn(what, "hostctl jobs list --state failed").with("jobs-fail.md")
            });
            Ok(Seen::new(
                format!("none within three days, {} before", page.count()),
                findings.into_iter().collect(),
            ))
        })
    }
}

struct StuckJobs;

impl Check for StuckJobs {
    fn name(&self) -> &'static str {
        "jobs that stand still"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let mut findings = Vec::new();
            for state in ["waiting", "retrying", "running", "undoing"] {
                let page = view.page("/jobs", &format!("state={state}")).await?;
                findings.extend(page.items.iter().filter_map(|job| stuck(view, job)));
            }
            Ok(Seen::new("each is under way or waits for its time", findings))
        })
    }
}

fn stuck(view: &View, job: &Value) -> Option<Finding> {
    let (id, kind) = (text(job, "id"), text(job, "kind"));
    let next = format!("hostctl jobs get {id}");
    let overdue = view.seconds_since(&job["next_at"]).filter(|since| *since > OVERDUE);
    let step_since = items(job, "steps").iter().rfind(|step| step["ended_at"].is_null());
    let long =
        step_since.and_then(|step| view.seconds_since(&step["started_at"])).filter(|since| *since > LONG);
    let words = |seconds| crate::output::span(jiff::SignedDuration::from_secs(seconds));
    match (overdue, long) {
        (Some(since), _) => Some(
            Finding::fail(
                format!("Job {id} ({kind}) is due since {} and nobody begins it.", words(since)),
                next,
            )
            .with("jobs-fail.md"),
        ),
        (None, Some(since)) if job["next_at"].is_null() => Some(
            Finding::warn(format!("A step of job {id} ({kind}) is under way since {}.", words(since)), next)
                .with("jobs-fail.md"),
        ),
        (None, Some(_) | None) => None,
    }
}

struct Rollouts;

impl Check for Rollouts {
    fn name(&self) -> &'static str {
        "rollouts"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let page = view.page("/rollouts", &format!("limit={NEWEST_ROLLOUTS}")).await?;
            let findings = page.items.iter().filter_map(|one| {
                let since = view.seconds_since(&one["updated_at"]).unwrap_or_default();
                rollout(one, since)
            });
            Ok(Seen::new(
                format!("{} looked at, none stands still or was taken back today", page.items.len()),
                findings.collect(),
            ))
        })
    }
}

/// What is to be said of a rollout that changed so many seconds ago.
fn rollout(one: &Value, since: i64) -> Option<Finding> {
    let (id, reason) = (text(one, "id"), text(one, "reason"));
    let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let next = format!("hostctl rollouts show {id}");
    let say = |words: &str| {
        Some(Finding::warn(format!("Rollout {id} {words}{because}."), &next).with("rollout-reverted.md"))
    };
    match text(one, "state") {
        "paused" => say("is paused"),
        "reverting" => say("is being taken back"),
        "reverted" if since < LATELY => say("was taken back"),
        "waiting" | "running" if since > LONG => say("has not moved for more than an hour"),
        _ => None,
    }
}

struct Webhooks;

impl Check for Webhooks {
    fn name(&self) -> &'static str {
        "webhooks"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let page = view.page("/webhooks", "").await?;
            Ok(Seen::new(
                format!("{}, each delivers", page.count()),
                page.items.iter().filter_map(webhook).collect(),
            ))
        })
    }
}

fn webhook(one: &Value) -> Option<Finding> {
    let (name, id) = (text(one, "name"), text(one, "id"));
    let next = format!("hostctl webhooks deliveries {id}");
    let what = if let Some(reason) = one["disabled_reason"].as_str() {
        format!("Webhook {name} is disabled: {reason}.")
    } else if let Some(since) = one["delivery"]["failing_since"].as_str() {
        format!("Webhook {name} fails since {since}.")
    } else {
        return None;
    };
    Some(Finding::warn(what, next).with("webhooks-disabled.md"))
}

struct Incidents;

impl Check for Incidents {
    fn name(&self) -> &'static str {
        "incidents"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let mut findings = Vec::new();
            for status in ["escalated", "open", "investigating", "remediating"] {
                let page = view.page("/incidents", &format!("status={status}&limit=20")).await?;
                findings.extend(page.items.iter().map(incident));
            }
            Ok(Seen::new("none is open", findings))
        })
    }
}

fn incident(one: &Value) -> Finding {
    let (severity, status) = (text(one, "severity"), text(one, "status"));
    let what = format!("A {severity} incident is {status}: {}.", text(one, "title").trim_end_matches('.'));
    let next = format!("GET /api/v1/incidents/{}/events", text(one, "id"));
    if severity == "critical" { Finding::fail(what, next) } else { Finding::warn(what, next) }
}

/// Zones, and host names of some tenants, that their brand asks a proof for and that nobody has shown.
struct Names;

impl Check for Names {
    fn name(&self) -> &'static str {
        "names to be verified"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let mut findings = Vec::new();
            for status in ["provisioning", "failed"] {
                let page = view.page("/zones", &format!("status={status}&limit=50")).await?;
                findings.extend(page.items.iter().filter_map(|one| unverified("zone", one)));
            }
            let open = |summary: &Value| {
                ["provisioning", "failed"].iter().any(|status| summary["fqdns"][*status].as_u64() > Some(0))
            };
            let tenants = view.newest_tenants().await?;
            for (tenant, _) in tenants.iter().filter(|(_, summary)| open(summary)).take(MOST_TENANTS) {
                let path = format!("/tenants/{}/fqdns?limit=50", encode(text(tenant, "id")));
                let answer = view.get("/tenants/*/fqdns", &path).await?;
                findings.extend(items(&answer, "items").iter().filter_map(|one| unverified("fqdn", one)));
            }
            Ok(Seen::new("zones, and the host names of the newest tenants, wait for no proof", findings))
        })
    }
}

fn unverified(noun: &str, one: &Value) -> Option<Finding> {
    let verification = one.get("verification").filter(|shown| shown["state"] != "verified")?;
    let message = text(verification, "message");
    let because = if message.is_empty() { String::new() } else { format!(": {message}") };
    let what = format!("{noun} {} is {}{because}.", called(one), text(verification, "state"));
    Some(
        Finding::warn(what, format!("hostctl verify {}", kinds::name(noun, text(one, "id"))))
            .with("names-not-verified.md"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::check::Severity;

    #[test]
    fn what_failed_in_a_tenant_is_told_by_kind() {
        let tenant = json!({"id": "t_1", "customer_id": "1001"});
        let summary =
            json!({"fqdns": {"failed": 2, "active": 1}, "webroots": {"active": 1}, "total": 4, "failed": 2});
        let found = failed_in(&tenant, &summary).unwrap();
        assert_eq!(found.what, "Tenant 1001 has failed resources: 2 fqdns.");
        assert!(failed_in(&tenant, &json!({"failed": 0})).is_none());
    }

    #[test]
    fn a_rollout_that_waits_or_hurt_is_told_with_its_reason() {
        let one = |state: &str| json!({"id": "7", "state": state, "reason": "edge-1 refuses it"});
        assert_eq!(rollout(&one("paused"), 5).unwrap().what, "Rollout 7 is paused: edge-1 refuses it.");
        assert!(rollout(&one("reverted"), 60).is_some() && rollout(&one("reverted"), 2 * LATELY).is_none());
        assert!(rollout(&one("running"), 60).is_none() && rollout(&one("waiting"), LONG + 1).is_some());
        assert!(rollout(&one("done"), 2 * LONG).is_none());
    }

    #[test]
    fn webhooks_incidents_and_names_say_what_is_wrong() {
        assert!(webhook(&json!({"name": "crm", "disabled_reason": null})).is_none());
        assert!(
            webhook(&json!({"name": "crm", "disabled_reason": "it answered 410"}))
                .unwrap()
                .what
                .contains("410")
        );
        let severity = |severity: &str| {
            incident(&json!({"severity": severity, "status": "open", "title": "x"})).severity
        };
        assert_eq!((severity("critical"), severity("warning")), (Severity::Fail, Severity::Warn));
        assert!(unverified("zone", &json!({"name": "a.example", "status": "provisioning"})).is_none());
        let found = unverified(
            "zone",
            &json!({"id": "z", "name": "a.example", "verification": {"state": "pending", "message": "no record"}}),
        );
        assert_eq!(found.unwrap().what, "zone a.example is pending: no record.");
    }
}
