//! `hostctl` as scripts use it, against a stand-in for the API that answers what a test wants.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

#[path = "cli/completion.rs"]
mod completion;
#[path = "cli/declare.rs"]
mod declare;
#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/operators.rs"]
mod operators;
#[path = "cli/output.rs"]
mod output;

const UUID: &str = "4ac6050a-722b-433b-863a-289e5b40cfc1";

/// Answers HTTP/1.1 requests, one per connection, and keeps their lines: `GET /api/v1/zones?limit=200`.
struct StandIn {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl StandIn {
    /// `answer` gets method, target and body; it gives the status and the body of the answer.
    fn new(answer: impl Fn(&str, &str, &str) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&seen), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, log, answer) = (stream.unwrap(), Arc::clone(&log), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &log, answer.as_ref()));
            }
        });
        Self { url, seen }
    }

    fn hostctl(&self, arguments: &[&str]) -> Command {
        let mut command = hostctl(arguments);
        command.env("HOSTING_API_URL", &self.url).env("HOSTING_API_KEY", "hst_0123");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.hostctl(arguments).output().unwrap()
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<String>>, answer: &dyn Fn(&str, &str, &str) -> (u16, Value)) {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let mut words = first.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    log.lock().unwrap().push(format!("{method} {target}"));
    let (status, body) = answer(method, target, &String::from_utf8_lossy(&body));
    let text = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    let _ = reader.into_inner().write_all(format!("{head}{text}").as_bytes());
}

/// With nothing of this machine's environment that could answer for the test.
fn hostctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostctl"));
    for name in ["HOSTING_API_URL", "HOSTING_API_KEY", "HOSTING_API_KEY_FILE"] {
        command.env_remove(name);
    }
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    command.env("HOSTING_DATA", "/nonexistent").args(arguments).stdin(Stdio::null());
    command
}

fn page(items: Value) -> (u16, Value) {
    (200, json!({"items": items, "has_more": false}))
}

fn missing() -> (u16, Value) {
    (404, json!({"error": "not found"}))
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn keys_are_shown_rotated_waited_for_and_dropped() {
    let looks = Arc::new(Mutex::new(0));
    let count = Arc::clone(&looks);
    let api = StandIn::new(move |method, target, _| match (method, target) {
        ("GET", "/api/v1/platform/keks") => {
            let mut looks = count.lock().unwrap();
            *looks += 1;
            (200, json!({"current": "k2", "former": ["k1"], "resealed": *looks > 1}))
        }
        ("POST", "/api/v1/platform/keks/rotate") => {
            (200, json!({"current": "k2", "former": ["k1"], "resealed": false}))
        }
        ("POST", "/api/v1/platform/keks/forget") => (409, json!({"error": "still needed"})),
        _ => missing(),
    });
    let asked = api.run(&["kek", "rotate"]);
    let shown = words(&asked.stdout);
    assert!(asked.status.success() && shown.contains("k2") && shown.contains("not yet"), "{asked:?}");
    assert_eq!(api.seen(), ["POST /api/v1/platform/keks/rotate"], "nothing is waited for");

    let late = api.run(&["kek", "rotate", "--wait", "--timeout", "1s"]);
    assert_eq!(late.status.code(), Some(3), "{late:?}");
    let waited = api.run(&["kek", "rotate", "--wait", "--json"]);
    let answer: Value = serde_json::from_slice(&waited.stdout).unwrap();
    assert_eq!((waited.status.code(), &answer["resealed"]), (Some(0), &json!(true)), "{waited:?}");
    let shown = api.run(&["kek", "show"]);
    assert!(shown.status.success() && words(&shown.stdout).contains("yes"), "{shown:?}");
    assert!(words(&shown.stderr).contains("kek forget"), "{shown:?}");
    let refused = api.run(&["kek", "forget"]);
    assert_eq!(refused.status.code(), Some(6), "{refused:?}");
    assert!(words(&refused.stderr).contains("still needed"), "{refused:?}");
}

/// Every command that prints something, without an API or with one that has a zone.
fn printing() -> (StandIn, Vec<Vec<&'static str>>) {
    let api = StandIn::new(|_, target, _| match target {
        _ if target.starts_with("/api/v1/subscribers") => {
            page(json!([{"node_id": "edge-1", "audience": "edge/c", "applied": 1, "head": 2}]))
        }
        _ if target.starts_with("/api/v1/zones?") => {
            page(json!([{"id": UUID, "name": "a.example", "status": "active"}]))
        }
        _ if target.starts_with("/api/v1/jobs?") => page(json!([{"id": "job_1", "state": "done"}])),
        _ => (200, json!({"id": UUID, "name": "a.example", "status": "active"})),
    });
    let commands = [
        "--help",
        "get --help",
        "--version",
        "completion bash",
        "completion zsh",
        "completion fish",
        "get zones",
        "get zones --json",
        "describe zone a.example",
        "fleet",
        "jobs list",
        "jobs list --json",
        "jobs get job_1",
        "jobs --help",
    ];
    (api, commands.map(|line| line.split(' ').collect()).to_vec())
}

#[test]
fn a_reader_that_leaves_ends_it_quietly_with_the_usual_code() {
    let (api, commands) = printing();
    for arguments in commands {
        // Nobody reads from the beginning, so that it does not hang on how much a pipe holds, or on who is faster.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = api.hostctl(&arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(141), "{arguments:?}: {output:?}");
        assert_eq!(words(&output.stderr), "", "{arguments:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure_and_said() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let (api, commands) = printing();
    for arguments in commands {
        let output = api.hostctl(&arguments).stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let text = words(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(
            text.contains("cannot write the output") && !text.contains("panicked"),
            "{arguments:?}: {text}"
        );
    }
    // Remarks that are lost fail what went well; an error keeps its code.
    let empty = StandIn::new(|_, _, _| page(json!([])));
    let code = |arguments: &[&str]| empty.hostctl(arguments).stderr(full()).output().unwrap().status.code();
    assert_eq!(code(&["get", "zones"]), Some(1));
    assert_eq!(code(&["get", "zonks"]), Some(2));
    assert_eq!(code(&["--frobnicate"]), Some(2));
    assert_eq!(code(&["describe", "zone", "nowhere.example"]), Some(4));
}

#[test]
fn every_error_is_one_json_document_where_json_is_asked_for() {
    let api = StandIn::new(|_, target, _| match target {
        _ if target.starts_with("/api/v1/zones?") => page(json!([])),
        _ => missing(),
    });
    for (line, code) in [
        ("--json get", 2),
        ("get --json", 2),
        ("--json get zones --frob", 2),
        ("get zonks --json", 2),
        ("--json frobnicate", 2),
        ("--json", 2),
        ("--json delete zone x --wait --timeout soon", 2),
        ("--json get zone nope", 4),
        ("--json get zones --api ftp://x", 2),
        ("--json explain a.example --edge localhost", 2),
        ("--json explain https:// --edge 127.0.0.1:80", 2),
    ] {
        let output = api.run(&line.split(' ').collect::<Vec<_>>());
        let body: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{line}: {error}: {output:?}"));
        assert_eq!(output.status.code(), Some(code), "{line}: {output:?}");
        assert_eq!(body["exit_code"], code, "{line}: {body}");
        let message = body["error"].as_str().unwrap();
        assert!(
            !message.is_empty() && !message.contains("Usage:") && !message.starts_with("error"),
            "{line}: {message}"
        );
    }
    for line in ["--json --version", "--json get --help"] {
        let output = api.run(&line.split(' ').collect::<Vec<_>>());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap();
    }
    // After `--` it is no flag any more.
    let output = api.run(&["get", "zonks", "--", "--json"]);
    assert!(output.stdout.is_empty() && output.status.code() == Some(2), "{output:?}");
}

#[test]
fn an_address_of_the_api_is_understood_or_explained() {
    let api = StandIn::new(|_, _, _| page(json!([])));
    for address in [format!("{}/api/v1", api.url), format!("{}/api/v1/", api.url), format!("{}/", api.url)] {
        let output =
            hostctl(&["get", "zones", "--api", &address]).env("HOSTING_API_KEY", "k").output().unwrap();
        assert!(output.status.success(), "{address}: {output:?}");
    }
    assert!(api.seen().iter().all(|line| line == "GET /api/v1/zones?limit=200"), "{:?}", api.seen());
    let refused = |address: &str| {
        let output =
            hostctl(&["get", "zones", "--api", address]).env("HOSTING_API_KEY", "k").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{address}: {output:?}");
        words(&output.stderr)
    };
    assert!(refused("127.0.0.1:8090").contains("http://127.0.0.1:8090"));
    assert!(refused("http://[::1").contains("brackets"));
    assert!(!refused("http://me:s3cret@host").contains("s3cret"));
    let none =
        hostctl(&["get", "zones"]).env("HOSTING_API_URL", "").env("HOSTING_API_KEY", "k").output().unwrap();
    assert!(words(&none.stderr).contains("no API address"), "{none:?}");
}

#[test]
fn what_is_no_hosting_api_is_told() {
    let (redirecting, other) =
        (StandIn::new(|_, _, _| (301, json!({}))), StandIn::new(|_, _, _| (200, json!({"hello": "world"}))));
    for api in [&redirecting, &other] {
        let output = api.run(&["get", "zones"]);
        let text = words(&output.stderr);
        assert!(output.status.code() == Some(7) && text.contains("is not the hosting API"), "{output:?}");
    }
    assert_eq!(redirecting.seen().len(), 1, "a redirect is not followed");
}

#[test]
fn a_proxy_is_for_other_machines_alone() {
    let proxy = StandIn::new(|_, _, _| page(json!([])));
    let through = |api: &str, except: &str| {
        let mut command = hostctl(&["get", "zones", "--api", api]);
        command.env("HOSTING_API_KEY", "k").env("http_proxy", &proxy.url).env("NO_PROXY", except);
        command.output().unwrap()
    };
    let far = through("http://api.hosting.invalid:8090", "");
    assert!(far.status.success(), "{far:?}");
    assert_eq!(proxy.seen(), ["GET http://api.hosting.invalid:8090/api/v1/zones?limit=200"]);
    let api = StandIn::new(|_, _, _| page(json!([])));
    assert!(through(&api.url, "").status.success());
    assert!(through(&api.url.replace("127.0.0.1", "localhost"), "").status.success());
    assert_eq!(api.seen().len(), 2);
    let excepted = through("http://api.hosting.invalid:8090", "hosting.invalid");
    assert_eq!(excepted.status.code(), Some(7), "{excepted:?}");
    assert_eq!(proxy.seen().len(), 1, "{:?}", proxy.seen());
}

#[test]
fn every_wait_takes_as_long_as_it_says() {
    // Longer than an answer may take that waits for nothing.
    const LONG: Duration = Duration::from_secs(32);
    let api = Arc::new(StandIn::new(|_, target, _| {
        if target.contains("wait=ready") {
            std::thread::sleep(LONG);
        }
        (200, json!({"id": UUID, "status": "active"}))
    }));
    let verbs: Vec<Vec<&str>> = vec![
        vec!["create", "zone", "-s", "name=a.example"],
        vec!["update", "zone-record", UUID, "-s", "ttl=60"],
        vec!["delete", "zone", UUID],
        vec!["suspend", "t_ab12cd34ef"],
        vec!["retry", "webroot", "web_ab12cd34ef"],
    ];
    let threads: Vec<_> = verbs
        .into_iter()
        .map(|verb| {
            let api = Arc::clone(&api);
            std::thread::spawn(move || {
                let output = api.run(&[&verb[..], &["--wait", "--timeout", "60s"]].concat());
                assert_eq!(output.status.code(), Some(0), "{verb:?}: {output:?}");
                assert!(words(&output.stderr).contains("still waiting for"), "{verb:?}: {output:?}");
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let asked = api.seen();
    assert!(asked.iter().all(|line| line.ends_with("wait=ready&wait_timeout=60")), "{asked:?}");
}

#[test]
fn what_the_api_does_not_wait_for_any_more_is_waited_for_here() {
    let looks = Arc::new(Mutex::new(0));
    let count = Arc::clone(&looks);
    let api = StandIn::new(move |method, _, _| {
        if method == "PUT" {
            return (202, json!({"id": UUID, "status": "converging", "conditions": []}));
        }
        let mut count = count.lock().unwrap();
        *count += 1;
        let status = if *count > 2 { "active" } else { "converging" };
        (200, json!({"id": UUID, "status": status, "conditions": [{"name": "dns", "status": "true"}]}))
    });
    let output =
        api.run(&["update", "zone", UUID, "-s", "tenant_id=t_ab12cd34ef", "--wait", "--timeout", "9m"]);
    assert!(output.status.success() && words(&output.stdout).contains("active"), "{output:?}");
    assert!(*looks.lock().unwrap() > 2);
    assert!(api.seen()[0].ends_with("wait_timeout=300"), "the API's own limit: {:?}", api.seen());
}

#[test]
fn who_stops_waiting_is_told_what_was_made_and_how_to_go_on() {
    for (json_too, arguments) in [
        (false, vec!["create", "zone", "-s", "name=a.example", "--wait"]),
        (true, vec!["create", "zone", "-s", "name=a.example", "--wait", "--json"]),
    ] {
        let api = StandIn::new(|method, _, _| {
            if method == "POST" {
                std::thread::sleep(Duration::from_secs(60));
            }
            page(
                json!([{"id": UUID, "name": "a.example", "status": "provisioning", "created_at": "2026-01-01T00:00:00Z"}]),
            )
        });
        let child = api.hostctl(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while !api.seen().iter().any(|line| line.starts_with("POST")) {
            assert!(Instant::now() < until, "no request came");
            std::thread::sleep(Duration::from_millis(10));
        }
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        if json_too {
            let body: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!((&body["id"], &body["name"]), (&json!(UUID), &json!("a.example")));
        } else {
            let text = words(&output.stderr);
            assert!(
                text.contains(&format!("hostctl wait zone {UUID}")) && text.contains("a.example"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_filter_that_the_kind_does_not_have_is_refused() {
    let api = StandIn::new(|_, target, _| {
        if target.contains("status=bogus") {
            return (400, json!({"error": "validation error: status: \"bogus\" is no status"}));
        }
        page(json!([]))
    });
    let tenant = "t_ab12cd34ef";
    for (line, part) in [
        ("get regions --status active".to_owned(), "have no status"),
        ("get tenants --in acme".to_owned(), "--in"),
        ("get zones --filter colour=red".to_owned(), "name, tenant_id"),
        ("get zones --filter tenant_id".to_owned(), "FIELD=VALUE"),
        (format!("get zone {UUID} --status active"), "cannot be used with"),
    ] {
        let output = api.run(&line.split(' ').collect::<Vec<_>>());
        let text = words(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains(part), "{line}: {text}");
    }
    assert!(api.seen().is_empty(), "{:?}", api.seen());
    let output = api.run(&["get", "zones", "--search", "a b", "--filter", &format!("tenant_id={tenant}")]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(api.seen(), [format!("GET /api/v1/zones?search=a%20b&tenant_id={tenant}&limit=200")]);
    let output = api.run(&["get", "zones", "--status", "bogus"]);
    let text = words(&output.stderr);
    assert!(output.status.code() == Some(1) && text.contains("pending, provisioning"), "{text}");
}

#[test]
fn deleting_what_is_gone_is_fine_when_asked_so() {
    let api = StandIn::new(|_, target, _| if target.contains('?') { page(json!([])) } else { missing() });
    for name in [UUID, "gone.example"] {
        assert_eq!(api.run(&["delete", "zone", name]).status.code(), Some(4));
        let output = api.run(&["delete", "zone", name, "--ignore-not-found", "--json"]);
        assert!(output.status.success(), "{output:?}");
        let body: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(body, json!({"id": name, "status": "deleted"}));
    }
    // A wrong address is not a zone that is gone.
    let wrong = StandIn::new(|_, _, _| (404, json!({"error": "there is no such path; see /docs"})));
    assert_eq!(wrong.run(&["delete", "zone", UUID, "--ignore-not-found"]).status.code(), Some(4));
}

#[test]
fn a_name_that_two_bear_is_answered_with_both() {
    let api = StandIn::new(|_, target, _| match target {
        _ if target.starts_with("/api/v1/tenants?customer_id=1001") => page(json!([
            {"id": "t_aaaaaaaaaa", "customer_id": "1001", "brand_id": "acme", "status": "active"},
            {"id": "t_bbbbbbbbbb", "customer_id": "1001", "brand_id": "nordic", "status": "active"},
            {"id": "t_cccccccccc", "customer_id": "1001", "brand_id": "acme", "status": "deleting"},
        ])),
        _ if target.starts_with("/api/v1/tenants?") => page(json!([])),
        "/api/v1/brands/nordic" => (200, json!({"id": "nordic", "name": "Nordic"})),
        "/api/v1/tenants/t_bbbbbbbbbb" => (200, json!({"id": "t_bbbbbbbbbb", "customer_id": "1001"})),
        _ => missing(),
    });
    let output = api.run(&["get", "tenant", "1001"]);
    let text = words(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("t_aaaaaaaaaa  brand acme") && text.contains("t_bbbbbbbbbb  brand nordic"),
        "{text}"
    );
    assert!(!text.contains("t_cccccccccc"), "what is being deleted gave its name up: {text}");
    let output = api.run(&["get", "tenant", "nordic/1001", "--json"]);
    let body: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(body[0]["id"], "t_bbbbbbbbbb");
}

#[test]
fn a_subscription_is_looked_up_in_its_tenant() {
    let api = StandIn::new(|method, target, body| match (method, target) {
        ("POST", _) => (202, json!({"id": "web_ab12cd34ef", "sent": body})),
        _ if target.starts_with("/api/v1/tenants/t_ab12cd34ef/subscriptions?") => {
            page(json!([{"id": "crm-1", "name": "web", "tenant_id": "t_ab12cd34ef"}]))
        }
        _ => (409, json!({"error": "several brands have a subscription"})),
    });
    for given in ["web", "crm-1"] {
        let field = format!("subscription_id={given}");
        let line =
            ["create", "webroot", "--in", "t_ab12cd34ef", "-s", &field, "-s", "runtime=static", "--json"];
        let output = api.run(&line);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let sent: Value = serde_json::from_str(answer["sent"].as_str().unwrap()).unwrap();
        assert_eq!(sent, json!({"subscription_id": "crm-1", "runtime": "static"}));
    }
}

#[test]
fn a_host_name_is_found_in_every_spelling() {
    let api = StandIn::new(|_, target, _| match target {
        _ if target.contains("name=bakery.test&") => page(json!([
            {"id": UUID, "name": "bakery.test", "status": "active"},
            {"id": "another", "name": "old-bakery.test", "status": "active"},
        ])),
        _ if target.ends_with(UUID) => (200, json!({"id": UUID, "name": "bakery.test"})),
        _ => page(json!([])),
    });
    for name in ["bakery.test", "Bakery.TEST", "bakery.test."] {
        let output = api.run(&["get", "zone", name, "--json"]);
        assert!(output.status.success() && words(&output.stdout).contains(UUID), "{name}: {output:?}");
    }
    assert_eq!(api.run(&["get", "zone", "ery.test"]).status.code(), Some(4), "a part of a name is no name");
    api.run(&["get", "zone", "b\u{fc}cher.example"]);
    assert!(api.seen().iter().any(|line| line.contains("name=xn--bcher-kva.example")), "{:?}", api.seen());
}

#[test]
fn a_key_from_a_file_beside_is_told_of_and_not_shown() {
    let api = StandIn::new(|_, _, _| page(json!([])));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(".env"), "HOSTING_API_KEY=hst_canary\n").unwrap();
    let run = |key: Option<&str>| {
        let mut command = hostctl(&["get", "zones", "--api", &api.url]);
        command.current_dir(&folder);
        if let Some(key) = key {
            command.env("HOSTING_API_KEY", key);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        words(&output.stderr)
    };
    let text = run(None);
    assert_eq!(text.matches(".env").count(), 1, "{text}");
    assert!(!text.contains("hst_canary"), "{text}");
    assert!(!run(Some("hst_own")).contains(".env"));
}

#[test]
fn completion_offers_the_kinds() {
    for shell in ["bash", "zsh", "fish"] {
        let output = hostctl(&["completion", shell]).output().unwrap();
        let text = words(&output.stdout);
        assert!(
            output.status.success() && text.contains("zone-records") && text.contains("unsuspend"),
            "{shell}"
        );
    }
}

#[test]
fn jobs_are_listed_shown_cancelled_and_tried_again() {
    let job = |state: &str| {
        json!({
            "id": "job_1", "kind": "callback", "subject": "t_1", "state": state, "attempts": 3, "attempt_limit": 3,
            "created_at": "2026-01-01T00:00:00Z", "due_at": "2026-01-01T00:00:00Z", "error": "the receiver answered 410 Gone",
            "params": {"to": "https://crm.example"}, "waits_for": [{"resource_id": "t_1", "status": "active"}],
            "steps": [{"name": "deliver", "state": "failed", "attempts": 3, "started_at": "2026-01-01T00:00:01Z"}],
        })
    };
    let api = StandIn::new(move |method, target, _| match (method, target.trim_start_matches("/api/v1")) {
        ("GET", "/jobs?kind=callback&state=failed&subject=t%201&limit=1") => page(json!([job("failed")])),
        ("GET", "/jobs/job_1") => (200, job("failed")),
        ("POST", "/jobs/job_1/retry") => (202, job("waiting")),
        ("POST", "/jobs/job_1/cancel") => (202, job("running")),
        _ => (409, json!({"error": "job job_2 is done and cannot be cancelled"})),
    });
    let said = |line: &[&str]| {
        let output = api.run(line);
        assert!(output.status.success(), "{line:?}: {}", words(&output.stderr));
        words(&output.stdout)
    };
    let list = said(&[
        "jobs",
        "list",
        "--kind",
        "callback",
        "--state",
        "failed",
        "--subject",
        "t 1",
        "--limit",
        "1",
    ]);
    for part in ["ID", "STATE", "job_1", "3/3", "the receiver answered 410 Gone"] {
        assert!(list.contains(part), "{part}: {list}");
    }
    let shown = said(&["jobs", "get", "job_1"]);
    for part in ["3 of 3", "https://crm.example", "deliver", "WAITS FOR", "active"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(said(&["jobs", "retry", "job_1"]), "job_1 is tried again; see `hostctl jobs get job_1`\n");
    assert!(
        said(&["jobs", "cancel", "job_1"])
            .starts_with("job_1 is to be cancelled when its step has come to an end")
    );
    let as_json: Value = serde_json::from_str(&said(&["jobs", "get", "job_1", "--json"])).unwrap();
    assert_eq!(as_json["state"], "failed");
    let refused = api.run(&["jobs", "cancel", "job_2"]);
    assert_eq!(refused.status.code(), Some(6));
    assert!(words(&refused.stderr).contains("job job_2 is done"));
}
