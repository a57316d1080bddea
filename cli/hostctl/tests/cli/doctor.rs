//! `hostctl doctor` against an API that is well, ill, silent, or not for this key.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{StandIn, hostctl, page, words};

/// Answers as a platform does that is well: one cluster, one shard with two nodes in two racks.
fn well(target: &str) -> (u16, Value) {
    let target = target.trim_start_matches("/api/v1");
    let path = target.split('?').next().unwrap_or_default();
    let node = |id: &str, rack: &str| json!({"id": id, "hostname": id, "status": "active", "failure_domain": rack, "shards": [{"shard_id": "s"}]});
    let serves = |id: &str| {
        json!({
            "node_id": id, "audience": format!("node/{id}"), "connected": true, "in_service": true, "silent_for": 0.5,
            "applied": 7, "durable": 7, "head": 7, "rejected": [], "held": [], "unsupported": [], "waiting": [], "orphans": [],
        })
    };
    match path {
        "/healthz" => (200, json!({"status": "ok"})),
        "/readyz" => (200, json!({"core_db": "ok"})),
        "/api-keys" => page(json!([{"id": "k", "name": "ops", "expires_at": null}])),
        "/subscribers" => page(json!([serves("web-1"), serves("web-2")])),
        "/regions" => page(json!([{"id": "r", "name": "eu"}])),
        "/regions/r/clusters" => page(json!([{"id": "c", "name": "eu-1", "status": "active"}])),
        "/clusters/c/shards" => {
            page(json!([{"id": "s", "name": "web-1", "role": "web", "status": "active", "max_tenants": 10}]))
        }
        "/clusters/c/nodes" => page(json!([node("web-1", "rack-1"), node("web-2", "rack-2")])),
        "/dashboard/stats" => (200, json!({"tenants_per_shard": [{"shard_id": "s", "count": 3}]})),
        "/platform/authorities" => {
            (200, json!({"items": [{"fingerprint": "ab12", "issues": true}], "untold": []}))
        }
        "/platform/keks" => (200, json!({"current": "k1", "former": [], "resealed": true})),
        _ => page(json!([])),
    }
}

fn report(api: &StandIn, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = api.run(&[&["doctor", "--json"], arguments].concat());
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), report)
}

fn check<'r>(report: &'r Value, name: &str) -> &'r Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|one| one["check"] == name).unwrap_or_else(|| panic!("{name}: {report}"))
}

#[test]
fn a_platform_that_is_well_has_no_findings() {
    let api = StandIn::new(|_, target, _| well(target));
    let (code, found) = report(&api, &[]);
    assert_eq!(code, Some(0), "{found}");
    assert_eq!((&found["counts"]["fail"], &found["counts"]["warn"]), (&json!(0), &json!(0)), "{found}");
    // The stand-in sends no Date: what cannot be looked at is skipped, not passed.
    assert_eq!(
        (check(&found, "clock")["state"].as_str(), &found["counts"]["skipped"]),
        (Some("skipped"), &json!(1))
    );
    assert_eq!(check(&found, "pools")["state"], "ok");
    assert!(check(&found, "failed jobs")["looked_at"].as_str().unwrap().contains("/jobs (1)"));
    let seen = api.seen();
    assert!(seen.iter().all(|line| line.starts_with("GET ")), "it changed something: {seen:?}");
    assert!(seen.len() < 60, "{} requests: {seen:?}", seen.len());
    let subscribers = seen.iter().filter(|line| line.contains("/subscribers")).count();
    assert_eq!(subscribers, 1, "what one check read is not read again");
    let table = words(&api.run(&["doctor"]).stdout);
    assert!(table.contains("STATE") && table.contains("0 failed"), "{table}");
}

/// Each thing that can be wrong is found by the check that is for it, with how bad it is and where to go on.
#[test]
fn what_is_wrong_is_found_by_the_check_that_is_for_it() {
    let subscriber = |field: &str, value: Value| {
        let (_, mut answer) = well("/api/v1/subscribers");
        answer["items"][0][field] = value;
        answer
    };
    let item = json!([{"key": "route/a.example", "revision": 5, "reason": "label too long"}]);
    let list = |items: Value| page(items).1;
    let now = jiff::Timestamp::now();
    let ago = |hours: i64| (now - jiff::SignedDuration::from_hours(hours)).to_string();
    let summary = json!({"fqdns": {"failed": 2}, "failed": 2});
    let cases: Vec<(&str, &str, &str, &str, &str, Value)> = vec![
        ("machines in service", "fail", "web-1", "node-lost.md", "/subscribers", {
            let mut answer = subscriber("in_service", json!(false));
            answer["items"][0]["connected"] = json!(false);
            answer
        }),
        (
            "machines behind",
            "warn",
            "revision 5 of 7",
            "node-lost.md",
            "/subscribers",
            subscriber("applied", json!(5)),
        ),
        (
            "disks of machines",
            "fail",
            "only 6 on its disk",
            "ledger-disk-alarm.md",
            "/subscribers",
            subscriber("durable", json!(6)),
        ),
        (
            "rejected items",
            "fail",
            "label too long",
            "items-rejected.md",
            "/subscribers",
            subscriber("rejected", item.clone()),
        ),
        (
            "unsupported items",
            "fail",
            "route/a.example",
            "items-rejected.md",
            "/subscribers",
            subscriber("unsupported", item.clone()),
        ),
        (
            "brakes",
            "fail",
            "brake of web-1 holds 1",
            "items-held.md",
            "/subscribers",
            subscriber("held", item.clone()),
        ),
        ("orphans", "warn", "route/a.example", "orphans.md", "/subscribers", subscriber("orphans", item)),
        ("registered machines", "warn", "web-2", "", "/subscribers", {
            let mut answer = well("/api/v1/subscribers").1;
            answer["items"].as_array_mut().unwrap().truncate(1);
            answer
        }),
        (
            "served receipts",
            "fail",
            "edge-1 does not serve zone",
            "not-served.md",
            "/zones/*/receipt",
            json!({"items": [{"subscribers": [{"node_id": "edge-1", "state": "not_served", "detail": "refused"}]}]}),
        ),
        ("failed in tenants", "warn", "2 fqdns", "items-rejected.md", "/tenants/*/resource-summary", summary),
        (
            "failed resources",
            "warn",
            "a.example",
            "items-rejected.md",
            "/zones?status=failed",
            list(json!([{"id": "z", "name": "a.example", "status": "failed"}])),
        ),
        (
            "failed jobs",
            "warn",
            "answered 410",
            "jobs-fail.md",
            "/jobs?state=failed",
            list(
                json!([{"id": "job_1", "kind": "callback", "error": "the receiver answered 410", "ended_at": ago(1)}]),
            ),
        ),
        (
            "jobs that stand still",
            "fail",
            "job_1",
            "jobs-fail.md",
            "/jobs?state=waiting",
            list(json!([{"id": "job_1", "kind": "callback", "next_at": ago(1), "steps": []}])),
        ),
        (
            "rollouts",
            "warn",
            "is paused: edge-1 refuses it",
            "rollout-reverted.md",
            "/rollouts",
            list(
                json!([{"id": "7", "state": "paused", "reason": "edge-1 refuses it", "updated_at": ago(1)}]),
            ),
        ),
        (
            "webhooks",
            "warn",
            "answered 410",
            "webhooks-disabled.md",
            "/webhooks",
            list(json!([{"id": "w", "name": "crm", "disabled_reason": "it answered 410"}])),
        ),
        (
            "incidents",
            "fail",
            "disk full",
            "",
            "/incidents?status=open",
            list(json!([{"id": "i", "severity": "critical", "status": "open", "title": "disk full"}])),
        ),
        (
            "names to be verified",
            "warn",
            "no record",
            "names-not-verified.md",
            "/zones?status=provisioning",
            list(
                json!([{"id": "z", "name": "a.example", "verification": {"state": "unverified", "message": "no record"}}]),
            ),
        ),
        (
            "certificate authorities",
            "warn",
            "An exchange of authorities is open",
            "certificate-expired.md",
            "/platform/authorities",
            json!({"items": [{"fingerprint": "ab12", "issues": true}, {"fingerprint": "cd34", "issues": false}], "untold": []}),
        ),
        (
            "sealing keys",
            "warn",
            "under way",
            "secrets-not-opened.md",
            "/platform/keks",
            json!({"current": "k2", "former": ["k1"], "resealed": false}),
        ),
        (
            "audit heads",
            "warn",
            "nobody signs it",
            "jobs-fail.md",
            "/audit/heads",
            list(json!([{"number": 1, "at": ago(30)}])),
        ),
        (
            "room in shards",
            "warn",
            "10 of 10",
            "",
            "/dashboard/stats",
            json!({"tenants_per_shard": [{"shard_id": "s", "count": 10}]}),
        ),
        ("pools", "warn", "one node", "", "/clusters/c/nodes", {
            let mut answer = well("/api/v1/clusters/c/nodes").1;
            answer["items"].as_array_mut().unwrap().truncate(1);
            answer
        }),
        ("drained", "warn", "is drained since", "", "/clusters/c/nodes", {
            let mut answer = well("/api/v1/clusters/c/nodes").1;
            answer["items"][0]["draining"] = json!({"since": ago(30)});
            answer
        }),
        (
            "own key",
            "warn",
            "ends in 5d",
            "",
            "/api-keys",
            list(json!([{"id": "k", "name": "ops", "expires_at": ago(-24 * 5 - 1)}])),
        ),
        (
            "keys that end",
            "warn",
            "ops",
            "",
            "/api-keys",
            list(json!([{"id": "k", "name": "ops", "expires_at": ago(-24 * 5 - 1)}])),
        ),
    ];
    for (name, severity, part, runbook, at, answer) in cases {
        let api = StandIn::new(move |_, target, _| {
            let target = target.trim_start_matches("/api/v1");
            let path = target.split('?').next().unwrap_or_default();
            let is_meant = match at.split_once("/*/") {
                Some((list, last)) => path.starts_with(&format!("{list}/")) && path.ends_with(last),
                None if at.contains('?') => target.starts_with(at),
                None => path == at,
            };
            match path {
                _ if is_meant => (200, answer.clone()),
                "/zones" if at.starts_with("/zones/*") && target.contains("status=active") => {
                    page(json!([{"id": "z", "name": "a.example"}]))
                }
                "/tenants" if at.starts_with("/tenants/*") => {
                    page(json!([{"id": "t_1", "customer_id": "1001"}]))
                }
                _ if path.starts_with("/tenants/") || path.ends_with("/receipt") => {
                    (200, json!({"items": []}))
                }
                _ => well(target),
            }
        });
        let (code, found) = report(&api, &[]);
        let check = check(&found, name);
        let finding = check["findings"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["finding"].as_str().unwrap().contains(part));
        let finding = finding.unwrap_or_else(|| panic!("{name}: {check}"));
        assert_eq!(finding["severity"], severity, "{name}: {check}");
        assert!(!finding["next"].as_str().unwrap().is_empty(), "{name}: {check}");
        let page = (!runbook.is_empty()).then(|| format!("docs/runbooks/{runbook}"));
        assert_eq!(finding["runbook"].as_str(), page.as_deref(), "{name}: {check}");
        let failed = found["counts"]["fail"] != 0;
        assert_eq!(code, Some(i32::from(failed)), "{name}: {found}");
        assert!(severity != "fail" || failed, "{name}: {found}");
    }
}

#[test]
fn what_the_key_may_not_see_is_skipped_and_not_passed() {
    let api = StandIn::new(|_, target, _| match target {
        _ if target.contains("/jobs") || target.contains("/platform/") => {
            (403, json!({"error": "insufficient scope: jobs:read"}))
        }
        _ => well(target),
    });
    let (code, found) = report(&api, &[]);
    assert_eq!(code, Some(0), "{found}");
    for name in ["failed jobs", "jobs that stand still", "certificate authorities", "sealing keys"] {
        let check = check(&found, name);
        assert_eq!(check["state"], "skipped", "{check}");
        assert!(check["said"].as_str().unwrap().contains("insufficient scope"), "{check}");
    }
    let shut = StandIn::new(|_, target, _| match target {
        "/healthz" | "/readyz" => well(target),
        _ => (401, json!({"error": "invalid API key"})),
    });
    let (code, found) = report(&shut, &[]);
    assert_eq!(code, Some(5), "{found}");
    assert_eq!(check(&found, "own key")["state"], "fail");
    assert!(found["checks"].as_array().unwrap().iter().all(|one| one["said"] != "hst_0123"));
    assert!(!found.to_string().contains("hst_0123"), "the key itself is never shown");
}

#[test]
fn an_api_that_cannot_be_reached_or_is_not_ready_is_the_first_finding() {
    let output = hostctl(&["doctor", "--json", "--api", "http://127.0.0.1:9"])
        .env("HOSTING_API_KEY", "k")
        .output()
        .unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(7), "{found}");
    assert_eq!((&found["counts"]["fail"], &found["counts"]["ok"]), (&json!(1), &json!(0)), "{found}");
    assert!(check(&found, "API")["findings"][0]["runbook"].as_str().unwrap().contains("controller-down"));
    let full = StandIn::new(|_, target, _| match target {
        "/readyz" => (503, json!({"core_db": "database or disk is full"})),
        _ => well(target),
    });
    let (code, found) = report(&full, &[]);
    assert_eq!(code, Some(1));
    assert!(
        check(&found, "controller and store")["findings"][0]["finding"]
            .as_str()
            .unwrap()
            .contains("disk is full")
    );
}

/// One list that does not come costs its time limit once, and the other checks nothing.
#[test]
fn a_check_that_hangs_holds_up_no_other() {
    let api = StandIn::new(|_, target, _| {
        if target.contains("/webhooks") {
            std::thread::sleep(Duration::from_secs(60));
        }
        well(target)
    });
    let begun = Instant::now();
    let (code, found) = report(&api, &["--timeout", "2s"]);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!((code, check(&found, "webhooks")["state"].as_str()), (Some(0), Some("warn")), "{found}");
    assert_eq!(check(&found, "rollouts")["state"], "ok", "{found}");
}
