//! What operators have at a prompt, against a real controller: names that bash completes, forms of results, the look over the platform.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::alone::Controller;
use crate::harness::{binaries, eventually};

fn hostctl(controller: &Controller, line: &str) -> Output {
    let mut hostctl = Command::new(binaries().join("hostctl"));
    hostctl.args(line.split(' ')).env("HOSTING_API_URL", format!("http://{}", controller.api));
    hostctl
        .env("HOSTING_API_KEY_FILE", controller.key_file())
        .current_dir(controller.path())
        .output()
        .unwrap()
}

fn done(controller: &Controller, line: &str) -> String {
    let output = hostctl(controller, line);
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A controller with a shard of one node, a brand and two zones.
async fn controller() -> Controller {
    let controller = Controller::start(tempfile::tempdir().unwrap(), &[]);
    eventually("the controller answers", Duration::from_secs(20), async || {
        hostctl(&controller, "get regions").status.success().then_some(())
    })
    .await;
    for line in [
        "create region -s name=eu",
        "create cluster --in eu -s name=eu-1",
        "create shard --in eu-1 -s name=web-1 -s role=web",
        "create node --in eu-1 -s id=web-7 -s hostname=web-7.example.net -s roles=[\"web\"] -s shard_ids=[\"web-1\"]",
        "create brand -s id=acme -s name=Acme -s base_hostname=acme.example -s primary_ns=ns1.acme.example -s secondary_ns=ns2.acme.example \
         -s hostmaster_email=h@acme.example",
        "create zone -s name=bakery.test -s brand_id=acme -s region_id=eu",
        "create zone -s name=bank.test -s brand_id=acme -s region_id=eu",
        "create tenant -s brand_id=acme -s customer_id=acme-1001 -s region_id=eu -s cluster_id=eu-1 -s shard_id=web-1",
        "create fqdn --in acme-1001 -s fqdn=www.bakery.test",
    ] {
        done(&controller, line);
    }
    controller
}

#[tokio::test(flavor = "multi_thread")]
async fn bash_completes_what_the_controller_knows() {
    let controller = controller().await;
    let script = controller.path().join("completion");
    std::fs::write(&script, done(&controller, "completion bash")).unwrap();
    let offered = |line: &str| -> Vec<String> {
        let driver = r#"
            . "$1"
            COMP_LINE=$2 COMP_POINT=${#2} COMPREPLY=()
            read -ra COMP_WORDS <<<"${2//=/ = }"
            case "$2" in *" ") COMP_WORDS+=("") ;; esac
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _hostctl hostctl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\n' "${COMPREPLY[@]}"
        "#;
        let output = Command::new("bash")
            .args(["--norc", "--noprofile", "-c", driver, "bash"])
            .arg(&script)
            .arg(line)
            .env("PATH", format!("{}:{}", binaries().display(), std::env::var("PATH").unwrap()))
            .env("HOSTING_API_URL", format!("http://{}", controller.api))
            .env("HOSTING_API_KEY_FILE", controller.key_file())
            .output()
            .unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{line}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    for (line, wanted) in [
        ("hostctl get zone ba", &["bakery.test", "bank.test"][..]),
        ("hostctl describe zone/bak", &["zone/bakery.test"]),
        ("hostctl get fqdns --in ac", &["acme-1001"]),
        ("hostctl describe fqdn ww", &["www.bakery.test"]),
        ("hostctl explain ww", &["www.bakery.test"]),
        ("hostctl drain shard we", &["web-1"]),
        ("hostctl release web-7", &["web-7.example.net"]),
        ("hostctl create tenant -s shard_id=we", &["web-1"]),
        ("hostctl create zone -s brand_id=ac", &["acme"]),
        ("hostctl get zone nowhere", &[]),
        ("hostctl fle", &["fleet"]),
    ] {
        assert_eq!(offered(line), wanted, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_have_one_content_in_each_form_and_names_are_taken_back() {
    let controller = controller().await;
    let names = done(&controller, "get zones -o name");
    assert_eq!(names.lines().filter(|line| line.starts_with("zone/")).count(), 2, "{names}");
    for name in names.lines() {
        let yaml = done(&controller, &format!("describe {name} -o yaml"));
        let as_json = done(&controller, &format!("describe {name} --json"));
        let of_yaml: Value =
            serde_json::from_str(&done(&controller, &format!("describe {name} -o json"))).unwrap();
        assert_eq!(of_yaml, serde_json::from_str::<Value>(&as_json).unwrap());
        for field in of_yaml.as_object().unwrap().keys() {
            assert!(yaml.lines().any(|line| line.starts_with(&format!("{field}:"))), "{field}: {yaml}");
        }
    }
    let created =
        done(&controller, "create zone -s name=third.test -s brand_id=acme -s region_id=eu -o name");
    assert!(done(&controller, &format!("get {} -o wide", created.trim())).contains("third.test"));
    assert_eq!(
        hostctl(&controller, "get zone/4ac6050a-722b-433b-863a-289e5b40cfc1 -o yaml").status.code(),
        Some(4)
    );
}

/// The routes that the checks read are there, and what stands in them is understood.
#[tokio::test(flavor = "multi_thread")]
async fn the_look_over_a_platform_finds_what_is_wrong_with_it() {
    let controller = controller().await;
    let report = |line: &str| -> (Option<i32>, Value) {
        let output = hostctl(&controller, line);
        (
            output.status.code(),
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}")),
        )
    };
    let (code, found) = report("doctor -o json");
    assert_eq!((code, &found["counts"]["skipped"]), (Some(1), &Value::from(0)), "{found}");
    let checks = found["checks"].as_array().unwrap();
    let check = |name: &str| {
        checks.iter().find(|one| one["check"] == name).unwrap_or_else(|| panic!("{name}: {found}"))
    };
    let could_not = checks.iter().filter(|one| one.to_string().contains("could not be looked at"));
    assert_eq!(could_not.count(), 0, "{found}");
    assert_eq!(
        (check("API")["state"].as_str(), check("clock")["state"].as_str()),
        (Some("ok"), Some("ok")),
        "{found}"
    );
    let first = |name: &str| check(name)["findings"][0]["finding"].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        first("registered machines"),
        "Node web-7 (web-7.example.net) is registered and has never been heard of."
    );
    assert_eq!(first("pools"), "Shard web-1 (web) has no node in service.");
    assert!(check("own key")["said"].as_str().unwrap().contains("bootstrap"), "{found}");

    // A key of one brand sees less, and that is told.
    let made: Value = serde_json::from_str(&done(
        &controller,
        "create api-key -s name=acme -s scopes=[\"*:read\"] -s brands=[\"acme\"] --json",
    ))
    .unwrap();
    std::fs::write(controller.path().join("brand.key"), made["key"].as_str().unwrap()).unwrap();
    let (_, found) = report("doctor -o json --key-file brand.key");
    let state = |name: &str| {
        let checks = found["checks"].as_array().unwrap();
        checks.iter().find(|one| one["check"] == name).map(|one| one["state"].as_str().unwrap().to_owned())
    };
    for name in ["pools", "machines in service", "sealing keys", "own key"] {
        assert_eq!(state(name).as_deref(), Some("skipped"), "{name}: {found}");
    }
    for name in ["failed jobs", "webhooks", "incidents"] {
        assert_eq!(state(name).as_deref(), Some("ok"), "{name}: {found}");
    }
    std::fs::write(controller.path().join("wrong.key"), "hst_wrong").unwrap();
    assert_eq!(report("doctor -o json --key-file wrong.key").0, Some(5));
}
