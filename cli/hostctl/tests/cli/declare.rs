//! Wanted states: what is refused before anything is sent, what is sent, and how it ends.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::{StandIn, UUID, missing, page, words};

/// A zone with two records, one of them the platform's; `bulk` answers what is sent to it.
fn a_zone(bulk: impl Fn(&str, &Value) -> (u16, Value) + Send + Sync + 'static) -> StandIn {
    StandIn::new(move |method, target, body| match (method, target.split('?').next().unwrap_or_default()) {
        ("GET", "/api/v1/zones") if !target.contains("name=bakery.test") => page(json!([])),
        ("GET", "/api/v1/zones") => page(json!([zone()])),
        ("GET", path) if path == format!("/api/v1/zones/{UUID}") => (200, zone()),
        ("GET", path) if path == format!("/api/v1/zones/{UUID}/records") => {
            let all = [
                record("r-1", "www", "A", "192.0.2.1", "custom"),
                record("r-2", "shop", "A", "192.0.2.9", "auto"),
            ];
            let extra = [record("r-3", "old", "TXT", "left", "custom")];
            // The API reads a filter by the rules of its field.
            let asked =
                target.split("name=").nth(1).map(|rest| rest.split('&').next().unwrap().to_lowercase());
            let asked =
                asked.map(|name| name.trim_end_matches('.').trim_end_matches(".bakery.test").to_owned());
            let wanted = |one: &&Value| asked.as_ref().is_none_or(|name| one["name"] == name.as_str());
            page(all.iter().chain(&extra).filter(wanted).cloned().collect())
        }
        ("POST", "/api/v1/bulk") => bulk(target, &serde_json::from_str(body).unwrap()),
        _ => missing(),
    })
}

fn zone() -> Value {
    json!({"id": UUID, "name": "bakery.test", "brand_id": "acme", "region_id": "r", "tenant_id": null, "status": "active", "generation": 1})
}

fn record(id: &str, name: &str, kind: &str, content: &str, managed_by: &str) -> Value {
    json!({
        "id": id, "zone_id": UUID, "name": name, "type": kind, "content": content, "ttl": 300, "managed_by": managed_by,
        "status": "active", "generation": 4,
    })
}

fn plan_or(answer: (u16, Value)) -> impl Fn(&str, &Value) -> (u16, Value) {
    move |target, _| {
        if target.contains("dry_run=true") {
            let plan = json!({"resources": [], "resources_total": 1, "destroyed": [], "warnings": []});
            return (200, plan);
        }
        answer.clone()
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn what_is_wrong_is_told_at_once_and_nothing_is_sent() {
    let api = a_zone(|_, _| panic!("nothing is to be sent"));
    let wrong = file(
        "items:\n- kind: zone-record\n  in: bakery.test\n  spec: {type: A, name: a, content: 192.0.2.1, tll: 60}\n\
         - {kind: frob}\n- {kind: fqdn, spec: {fqdn: a.test}}\n",
    );
    let path = wrong.path().to_str().unwrap();
    let ended = api.run(&["apply", "-f", path]);
    let said = words(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{said}");
    for part in [
        ":2: zone-record a: spec.tll: a zone-record has no such field; there are type, name, content"
            .replace("type, name, content", ""),
        ":5: kind: there is no kind \"frob\"".to_owned(),
        ":6: fqdn a.test: in: is required".to_owned(),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
    assert!(api.seen().is_empty(), "{:?}", api.seen());
    let record = "{kind: zone-record, in: bakery.test, spec: {type: A, name: a, content: 192.0.2.1}}";
    let twice = file(&format!("items:\n- {record}\n- {record}\n"));
    let ended = api.run(&["diff", "-f", twice.path().to_str().unwrap()]);
    let said = words(&ended.stderr);
    assert!(
        ended.status.code() == Some(2) && said.contains("is the same as") && said.contains(":2"),
        "{said}"
    );
    let nowhere = file("{kind: zone-record, in: nowhere.test, spec: {type: A, name: a, content: 192.0.2.1}}");
    let ended = api.run(&["diff", "-f", nowhere.path().to_str().unwrap()]);
    let said = words(&ended.stderr);
    assert!(
        ended.status.code() == Some(2) && said.contains("in: there is no zone \"nowhere.test\""),
        "{said}"
    );
    let moved = file(&format!(
        "{{kind: zone-record, in: bakery.test, id: {UUID}, spec: {{type: A, name: a, content: 192.0.2.1}}}}"
    ));
    let ended = api.run(&["diff", "-f", moved.path().to_str().unwrap()]);
    assert!(words(&ended.stderr).contains("leave it out to make one"), "{ended:?}");
}

#[test]
fn a_difference_has_an_exit_code_of_its_own_and_spelling_makes_none() {
    let api = a_zone(|_, _| panic!("nothing is to be sent"));
    let same = file(
        "{kind: zone_record, in: bakery.test, spec: {type: a, name: WWW.bakery.test., content: 192.0.2.1}}",
    );
    let ended = api.run(&["diff", "-f", same.path().to_str().unwrap()]);
    assert!(ended.status.success() && words(&ended.stdout).contains("no differences"), "{ended:?}");
    let other =
        file("{kind: zone-record, in: bakery.test, spec: {type: A, name: www, content: 192.0.2.1, ttl: 60}}");
    let path = other.path().to_str().unwrap();
    let ended = api.run(&["diff", "-f", path]);
    assert_eq!(ended.status.code(), Some(8), "{ended:?}");
    assert_eq!(words(&ended.stdout), "~ zone-record www.bakery.test A  in bakery.test  ttl: 300 -> 60\n");
    let ended = api.run(&["diff", "-f", path, "--json"]);
    let told: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(ended.status.code(), Some(8));
    let change = &told["changes"][0];
    assert_eq!(
        (&change["change"], &change["id"], &change["line"]),
        (&json!("change"), &json!("r-1"), &json!(1))
    );
    assert_eq!(change["fields"], json!([{"field": "ttl", "before": 300, "after": 60}]));
}

#[test]
fn what_is_pruned_is_never_the_platforms_and_needs_a_yes() {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&sent);
    let api = a_zone(move |target, body| {
        log.lock().unwrap().push((target.to_owned(), body.clone()));
        let done = json!({"done": 1, "refused": 0, "revision": 7, "results": [{"index": 0, "status": 202, "id": "r-3"}]});
        plan_or((200, done))(target, body)
    });
    let wanted = file("{kind: zone-record, in: bakery.test, spec: {type: A, name: www, content: 192.0.2.1}}");
    let path = wanted.path().to_str().unwrap();
    let ended = api.run(&["apply", "-f", path, "--prune"]);
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(words(&ended.stderr).contains("add --yes"), "{ended:?}");
    let ended = api.run(&["apply", "-f", path, "--prune", "--yes", "--json"]);
    assert!(ended.status.success(), "{ended:?}");
    let sent = sent.lock().unwrap();
    let (target, body) = sent.last().unwrap();
    assert!(target.contains("atomic=true"), "{target}");
    let delete = json!({"op": "delete", "kind": "zone_record", "id": "r-3", "if_match": "4"});
    assert_eq!(body["items"], json!([delete]));
}

#[test]
fn a_change_of_somebody_else_in_between_is_told_and_nothing_is_made() {
    let refused = json!({"error": "zone_record r-1 has generation 5, which is not what the request was meant for: read it again", "item": 0});
    let api = a_zone(plan_or((412, refused)));
    let wanted = file("{kind: zone-record, in: bakery.test, spec: {type: A, name: www, content: 192.0.2.7}}");
    let ended = api.run(&["apply", "-f", wanted.path().to_str().unwrap()]);
    let said = words(&ended.stderr);
    assert_eq!(ended.status.code(), Some(6), "{said}");
    assert!(
        said.contains(":1: change zone-record www.bakery.test A") && said.contains("run it again"),
        "{said}"
    );
}

#[test]
fn what_is_more_than_a_transaction_goes_in_calls_and_says_how_far_it_came() {
    let calls = Arc::new(Mutex::new(0));
    let count = Arc::clone(&calls);
    let api = a_zone(move |target, body| {
        assert!(!target.contains("dry_run") && !target.contains("atomic"), "{target}");
        let items = body["items"].as_array().unwrap().clone();
        let mut calls = count.lock().unwrap();
        *calls += 1;
        let is_bad = |n: usize| *calls == 2 && n == 3;
        let results: Vec<Value> = (0..items.len())
            .map(|n| match is_bad(n) {
                true => json!({"index": n, "status": 409, "problem": {"error": "that is too much"}}),
                false => json!({"index": n, "status": 202, "id": format!("n-{n}"), "name": items[n]["name"]}),
            })
            .collect();
        (200, json!({"results": results, "done": items.len(), "refused": 0, "revision": 9}))
    });
    let items: String = (0..1_200)
        .map(|n| {
            format!("- {{kind: zone-record, in: bakery.test, spec: {{type: TXT, name: n{n}, content: x}}}}\n")
        })
        .collect();
    let wanted = file(&format!("items:\n{items}"));
    let ended = api.run(&["apply", "-f", wanted.path().to_str().unwrap(), "--json"]);
    let told: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!((ended.status.code(), *calls.lock().unwrap()), (Some(6), 2), "{told:#}");
    assert_eq!(told["results"].as_array().unwrap().len(), 999);
    let refused = &told["refused"][0]["change"]["label"];
    assert_eq!((refused, &told["applied"]), (&json!("n503.bakery.test TXT"), &json!(false)));
}

#[test]
fn an_editor_that_saves_a_refused_text_again_gives_up_and_leaves_no_file() {
    let api = StandIn::new(|method, target, body| match method {
        "GET" if target.starts_with("/api/v1/zone-records/") => {
            (200, record(UUID, "www", "A", "192.0.2.1", "custom"))
        }
        "PATCH" => {
            assert_eq!(serde_json::from_str::<Value>(body).unwrap(), json!({"ttl": 5}));
            (
                400,
                json!({"error": "validation error: ttl: must be between 60 and 86400",
                         "errors": [{"field": "ttl", "reason": "must be between 60 and 86400"}]}),
            )
        }
        _ => missing(),
    });
    let dir = tempfile::tempdir().unwrap();
    let seen = dir.path().join("seen");
    let editor = format!(
        "sh -c 'stat -c %a \"$1\" >> {0}; cat \"$1\" >> {0}; sed -i \"s/^ttl: .*/ttl: 5/\" \"$1\"' sh",
        seen.display()
    );
    let edit = |editor: &str| {
        let mut command = api.hostctl(&["edit", "zone-record", UUID]);
        command.env_remove("VISUAL").env("EDITOR", editor).env("TMPDIR", dir.path());
        command.output().unwrap()
    };
    let ended = edit(&editor);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let seen = fs::read_to_string(&seen).unwrap();
    assert!(seen.starts_with("600\n") && seen.contains("#   ttl: must be between 60 and 86400"), "{seen}");
    assert_eq!(api.seen().iter().filter(|line| line.starts_with("PATCH")).count(), 1);
    let before = api.seen().len();
    let ended = edit("true");
    assert!(ended.status.success() && words(&ended.stdout).contains("nothing was changed"), "{ended:?}");
    assert!(api.seen()[before..].iter().all(|line| line.starts_with("GET")), "{:?}", api.seen());
    let ended = edit("false");
    assert!(ended.status.code() == Some(1) && words(&ended.stderr).contains("EDITOR"), "{ended:?}");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "only what the editor wrote: {left:?}");
    assert!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o700 != 0);
}
