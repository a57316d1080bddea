//! Completion of names: by `hostctl __complete`, and in bash by the script of `hostctl completion bash`.

use std::{
    fs,
    net::TcpListener,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{StandIn, hostctl, page, words};

/// A platform with a few things that begin alike, and names that no shell should get as words.
fn api() -> StandIn {
    StandIn::new(|_, target, _| {
        let target = target.trim_start_matches("/api/v1");
        match target.split('?').next().unwrap_or_default() {
            "/zones" => page(json!([
                {"id": "4ac6050a-722b-433b-863a-289e5b40cfc1", "name": "bakery.test", "status": "active"},
                {"id": "5ac6050a-722b-433b-863a-289e5b40cfc1", "name": "bank.test", "status": "active"},
                {"id": "6ac6050a-722b-433b-863a-289e5b40cfc1", "name": "old-bakery.test", "status": "active"},
                {"id": "7ac6050a-722b-433b-863a-289e5b40cfc1", "name": "barred.test", "status": "deleting"},
                {"id": "$(touch /tmp/x)", "name": "ba$(reboot).test", "status": "active"},
            ])),
            "/regions" => page(json!([{"id": "r", "name": "eu"}])),
            "/regions/r/clusters" => page(json!([{"id": "c", "name": "eu-1"}])),
            "/clusters/c/shards" => page(json!([{"id": "s", "name": "web-1", "role": "web"}])),
            "/clusters/c/nodes" => page(json!([{"id": "web-7", "hostname": "web-7.example.net"}])),
            "/tenants" => page(json!([{"id": "t_ab12cd34ef", "customer_id": "acme-1001"}])),
            "/api-keys" => {
                page(json!([{"id": "k1", "name": "ci", "key": "hst_canary", "key_prefix": "hst_canary"}]))
            }
            "/roles" => page(json!([{"id": "operator", "name": "operator"}])),
            "/search" => (200, json!({"results": [{"type": "fqdn", "id": "f", "label": "www.bakery.test"}]})),
            "/jobs" => page(json!([{"id": "job_1", "state": "failed"}])),
            "/rollouts" => page(json!([{"id": "1042", "state": "paused"}, {"id": "1041", "state": "done"}])),
            "/platform/authorities" => (
                200,
                json!({"items": [{"fingerprint": "ab12", "issues": true}, {"fingerprint": "cd34", "issues": false}]}),
            ),
            _ => (404, json!({"error": "not found"})),
        }
    })
}

fn asked(line: &str, url: &str) -> Output {
    let mut command = hostctl(&["__complete"]);
    command.env("HOSTING_API_URL", url).env("HOSTING_API_KEY", "hst_0123").env("HOSTCTL_COMPLETE_LINE", line);
    command.output().unwrap()
}

fn offered(line: &str, url: &str) -> Vec<String> {
    let output = asked(line, url);
    assert_eq!((output.status.code(), words(&output.stderr).as_str()), (Some(0), ""), "{line}: {output:?}");
    words(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn names_ids_and_fields_are_offered_where_they_belong() {
    let api = api();
    for (line, wanted) in [
        ("hostctl get zone ba", &["bakery.test", "bank.test"][..]),
        ("hostctl get zone old", &["old-bakery.test"]),
        ("hostctl get zone 5ac6", &["5ac6050a-722b-433b-863a-289e5b40cfc1"]),
        ("hostctl describe zone/ba", &["zone/bakery.test", "zone/bank.test"]),
        ("hostctl delete zone --wait ban", &["bank.test"]),
        ("hostctl get fqdns --in ac", &["acme-1001"]),
        ("hostctl get zone-records --in=ba", &["--in=bakery.test", "--in=bank.test"]),
        ("hostctl drain shard w", &["web-1"]),
        ("hostctl release web-7", &["web-7.example.net"]),
        ("hostctl plan --without edge-1,we", &["edge-1,web-7.example.net"]),
        ("hostctl suspend ", &["acme-1001"]),
        ("hostctl explain ww", &["www.bakery.test"]),
        ("hostctl history ww", &["www.bakery.test"]),
        ("hostctl jobs retry ", &["job_1"]),
        ("hostctl rollouts show ", &["1041", "1042"]),
        ("hostctl rollouts abort ", &["1042"]),
        ("hostctl ca promote ", &["cd34"]),
        ("hostctl get api-key ", &["ci"]),
        ("hostctl create tenant -s shard_id=w", &["shard_id=web-1"]),
        ("hostctl create zone-record -s name=www -s n", &[]),
        ("hostctl create zone-record -s ty", &["type="]),
        ("hostctl update fqdn x -s ssl_enabled=t", &["ssl_enabled=true"]),
        ("hostctl get zones --filter bra", &["brand_id="]),
        ("hostctl get zones --status fa", &["failed"]),
        ("hostctl get zo", &["zone-records", "zones"]),
        ("hostctl describe zone-", &["zone-record"]),
    ] {
        assert_eq!(offered(line, &api.url), wanted, "{line}");
    }
    for line in ["hostctl fle", "hostctl get zones --sta", "hostctl get zones -o ", "hostctl seed -f infra/"]
    {
        let output = asked(line, &api.url);
        assert_eq!(output.status.code(), Some(3), "{line} is for the script alone: {output:?}");
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{line}: {output:?}");
    }
}

#[test]
fn one_page_by_what_is_typed_is_looked_at_and_no_secret_leaves() {
    let api = api();
    offered("hostctl get zone ba", &api.url);
    assert_eq!(api.seen(), ["GET /api/v1/zones?limit=100&search=ba"]);
    let all: Vec<String> =
        ["hostctl get api-key ", "hostctl undo --key "].map(|line| offered(line, &api.url).join(" ")).into();
    assert!(!all.concat().contains("canary"), "{all:?}");
    let before = api.seen().len();
    assert_eq!(offered("hostctl create certificate --in x -s key_pem=", &api.url), [""; 0]);
    assert_eq!(api.seen().len(), before, "a secret is not looked up");
}

#[test]
fn the_connection_is_that_of_the_line() {
    let (api, other) = (api(), StandIn::new(|_, _, _| page(json!([]))));
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("a key");
    fs::write(&key, "hst_0123\n").unwrap();
    let line = format!("hostctl --api {} --key-file '{}' get zone bak", api.url, key.display());
    assert_eq!(offered(&line, &other.url), ["bakery.test"]);
    assert_eq!((api.seen().len(), other.seen().len()), (1, 0));
    // A data folder says where the platform of `up` is.
    let up = json!({
        "api": api.url, "edge_http": "", "edge_https": "", "dns": "", "admin_key_file": key, "edge_ca_file": "", "storage": "",
        "demo_fqdns": [], "pids": {}, "admin": {}, "commands": {},
    });
    fs::write(folder.path().join("up.json"), up.to_string()).unwrap();
    let mut command = hostctl(&["__complete"]);
    let line = format!("hostctl --data {} get zone bak", folder.path().display());
    let output = command.env("HOSTCTL_COMPLETE_LINE", line).output().unwrap();
    assert_eq!(words(&output.stdout), "bakery.test\n", "{output:?}");
}

#[test]
fn an_api_that_is_dead_slow_or_shut_gives_nothing_in_time() {
    let refusing = StandIn::new(|_, _, _| (403, json!({"error": "no"})));
    // It takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let slow = StandIn::new(|_, _, _| {
        std::thread::sleep(Duration::from_secs(60));
        page(json!([]))
    });
    for url in [
        refusing.url.as_str(),
        &silent,
        &slow.url,
        "http://127.0.0.1:9",
        "http://api.hosting.invalid",
        "nonsense",
        "",
    ] {
        let begun = Instant::now();
        assert_eq!(offered("hostctl get zone ba", url), [""; 0], "{url}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{url}: {:?}", begun.elapsed());
    }
}

/// What bash offers, with the script as it is installed.
fn in_bash(script: &str, line: &str, url: &str) -> Vec<String> {
    let driver = r#"
        . "$1"
        complete -p hostctl >/dev/null || exit 9
        COMP_LINE=$2 COMP_POINT=${#2} COMPREPLY=()
        # As readline breaks words: at blanks, and at = and :
        words=${2//=/ = }
        read -ra COMP_WORDS <<<"$words"
        case "$2" in *" ") COMP_WORDS+=("") ;; esac
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _hostctl hostctl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_hostctl")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["--norc", "--noprofile", "-c", driver, "bash", script, line])
        .env("PATH", path)
        .env("HOSTING_API_URL", url)
        .env("HOSTING_API_KEY", "hst_0123")
        .env("HOSTING_DATA", "/nonexistent")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{line}: {output:?}");
    words(&output.stdout).lines().filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_names_and_all_that_it_knew_before() {
    let api = api();
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("hostctl");
    fs::write(&script, hostctl(&["completion", "bash"]).output().unwrap().stdout).unwrap();
    let script = script.to_str().unwrap();
    for (line, wanted) in [
        ("hostctl get zone ba", &["bakery.test", "bank.test"][..]),
        ("hostctl describe zone/bak", &["zone/bakery.test"]),
        // Only what follows the = is replaced.
        ("hostctl create tenant -s shard_id=we", &["web-1"]),
        ("hostctl fle", &["fleet"]),
        ("hostctl get zones --stat", &["--status"]),
        ("hostctl get zones -o y", &["yaml"]),
        ("hostctl uns", &["unsuspend"]),
    ] {
        assert_eq!(in_bash(script, line, &api.url), wanted, "{line}");
    }
    assert_eq!(
        in_bash(script, "hostctl get zone ba", "http://127.0.0.1:9"),
        [""; 0],
        "a dead API offers nothing"
    );
    assert_eq!(in_bash(script, "hostctl fle", "http://127.0.0.1:9"), ["fleet"], "and takes nothing away");
}

#[test]
fn the_scripts_of_zsh_and_fish_ask_too_and_keep_their_own() {
    let script = |shell: &str| words(&hostctl(&["completion", shell]).output().unwrap().stdout);
    let zsh = script("zsh");
    assert!(zsh.starts_with("#compdef hostctl"), "an autoloaded file begins so");
    assert_eq!(zsh.matches("\n_hostctl() {").count(), 1, "the function that zsh loads is the one that asks");
    let (asks, calls) = (zsh.find("__complete").unwrap(), zsh.rfind("\"$funcstack[1]\"").unwrap());
    assert!(zsh.contains("\n_hostctl_static() {") && asks < calls, "it is there before it is called");
    let fish = script("fish");
    assert!(
        fish.contains("hostctl __complete") && fish.contains("__fish_hostctl_using_subcommand"),
        "{fish}"
    );
    for (shell, text) in [("zsh", zsh), ("fish", fish)] {
        assert!(text.contains("2>/dev/null </dev/null"), "{shell}: errors go nowhere");
        // Where the shell is installed, it reads the script.
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        match Command::new(shell).arg("-n").arg(file.path()).output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {output:?}"),
            Err(_) => eprintln!("SKIPPED completion scripts: {shell} is not installed"),
        }
    }
}
