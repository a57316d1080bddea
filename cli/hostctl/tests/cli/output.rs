//! Forms of results: names that other commands take, YAML with all fields, and flags that contradict each other.

use serde_json::{Value, json};

use crate::{StandIn, UUID, missing, page, words};

/// An API with two zones, one of them with a name that YAML would read as a truth value.
fn api() -> StandIn {
    let zone = |id: &str, name: &str| json!({"id": id, "name": name, "status": "failed", "ttl": 60, "limits": {"fqdns": 5}});
    StandIn::new(move |method, target, _| match (method, target.trim_start_matches("/api/v1")) {
        ("GET", target) if target.starts_with("/zones?") => {
            page(json!([zone(UUID, "a.example"), zone("5ac6050a-722b-433b-863a-289e5b40cfc1", "yes")]))
        }
        ("GET" | "PUT", target) if target.starts_with("/zones/4ac6") => (200, zone(UUID, "a.example")),
        ("GET", target) if target.starts_with("/zones/5ac6") => {
            (200, zone("5ac6050a-722b-433b-863a-289e5b40cfc1", "yes"))
        }
        ("POST", target) if target.starts_with("/zones") && target.ends_with("/retry") => {
            (202, json!({"id": UUID, "status": "pending"}))
        }
        ("POST", "/api-keys") => (201, json!({"id": UUID, "name": "ci", "key": "hst_once"})),
        ("GET", target) if target.starts_with("/jobs?") => page(json!([{"id": "job_1", "state": "failed"}])),
        ("POST", "/jobs/job_1/retry") => (202, json!({"id": "job_1", "state": "waiting"})),
        ("GET", target) if target.starts_with("/rollouts?") => {
            page(json!([{"id": "1042", "state": "paused"}]))
        }
        ("POST", "/rollouts/1042/abort") => (200, json!({"id": "1042", "state": "reverting"})),
        ("GET", "/subscribers") => {
            page(json!([{"node_id": "edge-1", "audience": "edge/c", "in_service": true}]))
        }
        ("POST", "/undo?dry_run=true") => (200, json!({"answer": {}})),
        ("POST", "/undo") => {
            (200, json!({"taken_back": [{"kind": "zone_record", "id": "r1"}, {"kind": "fqdn", "id": "f1"}]}))
        }
        _ => missing(),
    })
}

fn printed(api: &StandIn, line: &str) -> String {
    let output = api.run(&line.split(' ').collect::<Vec<_>>());
    assert!(output.status.success(), "{line}: {output:?}");
    words(&output.stdout)
}

#[test]
fn names_are_printed_one_a_line_and_taken_where_kind_and_id_are() {
    let api = api();
    let other = "5ac6050a-722b-433b-863a-289e5b40cfc1";
    let zones = format!("zone/{UUID}\nzone/{other}\n");
    assert_eq!(printed(&api, "get zones -o name"), zones);
    for (line, wanted) in [
        (format!("describe zone {UUID} -o name"), format!("zone/{UUID}\n")),
        (format!("update zone/{UUID} -s ttl=60 -o name"), format!("zone/{UUID}\n")),
        ("jobs list -o name".to_owned(), "job/job_1\n".to_owned()),
        ("rollouts list -o name".to_owned(), "rollout/1042\n".to_owned()),
        ("fleet -o name".to_owned(), "node/edge-1\n".to_owned()),
        ("undo --revision 7 -o name".to_owned(), "zone-record/r1\nfqdn/f1\n".to_owned()),
        // What was printed is what others take.
        (format!("get zone/{UUID} zone/{other} -o name"), zones.clone()),
        (format!("retry zone/{UUID} -o name"), format!("zone/{UUID}\n")),
        ("jobs retry job/job_1 -o name".to_owned(), "job/job_1\n".to_owned()),
        ("rollouts abort rollout/1042 -o name".to_owned(), "rollout/1042\n".to_owned()),
    ] {
        assert_eq!(printed(&api, &line), wanted, "{line}");
    }
    let seen = api.seen();
    assert!(seen.contains(&format!("POST /api/v1/zones/{UUID}/retry")), "{seen:?}");
    assert!(seen.iter().all(|line| !line.contains("%2F")), "a name went to the API as an id: {seen:?}");
}

#[test]
fn a_secret_that_is_shown_once_is_not_lost_with_names() {
    let output = api().run(&["create", "api-key", "-s", "name=ci", "-o", "name"]);
    assert_eq!(words(&output.stdout), format!("api-key/{UUID}\n"), "{output:?}");
    assert!(words(&output.stderr).contains("hst_once"), "{output:?}");
}

#[test]
fn yaml_has_all_fields_and_json_is_the_same_document() {
    let api = api();
    for line in ["get zones", "describe zone 4ac6050a-722b-433b-863a-289e5b40cfc1", "jobs list", "fleet"] {
        let flagged = printed(&api, &format!("{line} --json"));
        assert_eq!(printed(&api, &format!("{line} -o json")), flagged, "{line}");
        let yaml = printed(&api, &format!("{line} -o yaml"));
        let read: Value =
            serde_saphyr::from_str(&yaml).unwrap_or_else(|error| panic!("{line}: {error}\n{yaml}"));
        assert_eq!(read, serde_json::from_str::<Value>(&flagged).unwrap(), "{line}\n{yaml}");
        assert!(!yaml.trim_start().starts_with(['{', '[']), "{line}: this is JSON: {yaml}");
    }
    let empty = StandIn::new(|_, _, _| page(json!([])));
    assert_eq!(printed(&empty, "get zones -o yaml"), "[]\n");
    assert_eq!(printed(&empty, "get zones -o name"), "");
}

#[test]
fn wide_is_one_thing_by_either_flag() {
    let api = api();
    assert_eq!(printed(&api, "get zones -o wide"), printed(&api, "get zones --wide"));
    assert!(printed(&api, "jobs list -o wide").contains("job_1"));
}

#[test]
fn flags_that_contradict_each_other_are_refused_before_anything_is_asked() {
    let api = api();
    for line in [
        "get zones --json -o yaml",
        "get zones -o name --wide",
        "get zones --json --wide",
        "get zones -o xml",
        "ca add -o name",
        "kek rotate -o name",
        "explain a.example -o name",
        "delete zone a.example --dry-run -o name",
        "get zone/4ac6050a-722b-433b-863a-289e5b40cfc1 --status failed",
        "describe zone/a.example b.example",
    ] {
        let output = api.run(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(2), "{line}: {output:?}");
    }
    assert_eq!(api.seen(), Vec::<String>::new());
}

#[test]
fn an_error_is_on_standard_error_with_its_code_but_for_json() {
    let api = StandIn::new(|_, target, _| {
        if target.contains("/nodes/") { (403, json!({"error": "no"})) } else { page(json!([])) }
    });
    for form in ["yaml", "name", "wide"] {
        for (line, code) in [("get zone nowhere.example", 4), ("get zonks", 2), ("receipt node web-1", 5)] {
            let output = api.run(&format!("{line} -o {form}").split(' ').collect::<Vec<_>>());
            let code = if form == "name" && line.starts_with("receipt") { 2 } else { code };
            assert_eq!(output.status.code(), Some(code), "{line} -o {form}: {output:?}");
            assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{line} -o {form}: {output:?}");
        }
    }
    for line in ["get zone nowhere.example -o json", "get zonks --output=json", "get zonks -ojson"] {
        let output = api.run(&line.split(' ').collect::<Vec<_>>());
        let body: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{line}: {error}: {output:?}"));
        assert_eq!(Some(body["exit_code"].as_i64().unwrap() as i32), output.status.code(), "{line}");
    }
}
