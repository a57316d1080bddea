//! One command to live websites, twice.

use std::{fs, process::Command, time::Duration};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Platform, binaries, eventually, machine_lacks_daemons, runs};

const SITES: [(&str, &str); 3] = [
    ("bakery.test", "<h1>The Bakery</h1>"),
    ("guestbook.acme-hosting.test", "<h1>Guestbook</h1>"),
    ("fjord.nordic-web.test", "<h1>Fjord Tours</h1>"),
];

async fn every_site_answers(platform: &Platform) {
    for (fqdn, content) in SITES {
        let (code, body) = platform.web(fqdn).await.unwrap();
        assert!(code == 200 && body.contains(content), "http {fqdn}: {code} {body}");
        let (code, body) = platform.secure_web(fqdn).await.unwrap();
        assert!(code == 200 && body.contains(content), "https {fqdn}: {code} {body}");
        assert!(platform.is_live(fqdn).await, "dns {fqdn}");
    }
}

#[tokio::test]
async fn three_sites_answer_and_a_second_up_goes_on() {
    if machine_lacks_daemons("three_sites_answer_and_a_second_up_goes_on") {
        return;
    }
    let mut platform = Platform::start(&[]).await;
    every_site_answers(&platform).await;
    let printed = fs::read_to_string(platform.folder().join("up.log")).unwrap();
    assert!(printed.contains("isolation: none"), "{printed}");

    // The printed curl and dig lines work as they are.
    for line in
        printed.lines().map(str::trim).filter(|line| line.starts_with("curl ") || line.starts_with("dig "))
    {
        let output = Command::new("sh").arg("-c").arg(line).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !text.trim().is_empty(), "{line}: {output:?}");
    }

    // Seeding again changes nothing.
    let before = platform.get("/tenants").await;
    let seed = concat!(env!("CARGO_MANIFEST_DIR"), "/../infra/demo.yaml");
    let php = before["items"].as_array().unwrap().len();
    assert_eq!(php, 3);
    let version = fs::read_dir("/usr/sbin")
        .unwrap()
        .flatten()
        .filter_map(|file| Some(file.file_name().to_str()?.strip_prefix("php-fpm")?.to_owned()))
        .max()
        .unwrap();
    let output = platform.hostctl().args(["seed", "-f", seed]).env("PHP_VERSION", version).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("nothing to create"), "{output:?}");
    assert_eq!(platform.get("/tenants").await, before);

    // State on disk, written by the application.
    let guestbook = format!("http://{}", platform.summary["edge_http"].as_str().unwrap());
    let client =
        reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let answer = client
        .post(guestbook)
        .header("host", "guestbook.acme-hosting.test")
        .header("content-type", "application/x-www-form-urlencoded")
        .body("name=Ada&text=first+light")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 303);

    // A second `up` on the same folder refuses, and says what to do.
    let output = platform.hostctl().args(["up", "--auto-ports", "--no-seed"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("in use") && text.contains("hostctl down"), "{text}");

    // Ctrl-C ends every child; a second `up` goes on from what is stored.
    let roles = ["controller", "edge", "dns", "nodeagent"];
    let pids = roles.map(|role| platform.pid(role));
    platform.interrupt();
    for (role, pid) in roles.iter().zip(pids) {
        assert!(!runs(pid), "{role} outlived Ctrl-C");
    }
    assert!(!platform.data().join("up.json").exists());
    platform.up(&[]).await;
    every_site_answers(&platform).await;
    assert_eq!(platform.get("/tenants").await, before);
    let (_, body) = platform.web("guestbook.acme-hosting.test").await.unwrap();
    assert!(body.contains("first light"), "{body}");

    // Children that a killed `up` left behind are ended by the next one.
    let pids = roles.map(|role| platform.pid(role));
    platform.kill_up();
    assert!(pids.iter().all(|pid| runs(*pid)));
    platform.up(&[]).await;
    for (role, pid) in roles.iter().zip(pids) {
        assert!(!runs(pid), "the old {role} still runs");
    }
    every_site_answers(&platform).await;

    // `down` ends it from outside.
    let output = platform.hostctl().arg("down").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn what_is_in_the_way_is_named_with_its_remedy() {
    if machine_lacks_daemons("what_is_in_the_way_is_named_with_its_remedy") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let up = |arguments: &[&str]| {
        let output = Command::new(binaries().join("hostctl"))
            .arg("--data")
            .arg(dir.path().join("var"))
            .arg("up")
            .args(arguments)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port().to_string();
    let text = up(&["--api-port", &port, "--no-seed"]);
    assert!(text.contains("--api-port") && text.contains(&port), "{text}");

    let output = Command::new(binaries().join("hostctl"))
        .arg("--data")
        .arg("/proc/nowhere")
        .args(["up", "--no-seed"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("--data"), "{text}");

    // Without nginx anywhere.
    let output = Command::new(binaries().join("hostctl"))
        .arg("--data")
        .arg(dir.path().join("var"))
        .args(["up", "--no-seed", "--bin-dir", "/nonexistent"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("hosting-controller"), "{text}");
}

#[tokio::test]
async fn explain_names_the_broken_link() {
    if machine_lacks_daemons("explain_names_the_broken_link") {
        return;
    }
    let platform = Platform::start(&[]).await;
    let explain = |fqdn: &str| {
        let output = platform.hostctl().args(["explain", fqdn, "--json"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), serde_json::from_str::<serde_json::Value>(&text).unwrap_or(json!(text)))
    };
    let (sound, links) = explain("https://bakery.test/");
    assert!(sound && links["broken"].is_null(), "{links}");

    let (tenant, _) = platform.site("acme-1001").await;
    platform.post(&format!("/tenants/{tenant}/suspend"), json!({"reason": "unpaid"})).await;
    let answers = async || platform.web("bakery.test").await.filter(|(code, _)| *code == 503);
    let (_, page) = eventually("the suspended page", Duration::from_secs(10), answers).await;
    assert!(!page.contains("unpaid"), "the reason is the operators' business: {page}");
    let (sound, links) = explain("bakery.test");
    assert!(!sound && links.to_string().contains("suspended"), "{links}");
    platform.post(&format!("/tenants/{tenant}/unsuspend"), json!({})).await;
    let answers = async || platform.web("bakery.test").await.filter(|(code, _)| *code == 200);
    eventually("the site is back", Duration::from_secs(10), answers).await;

    platform.signal("nodeagent", Signal::SIGCONT);
    let (sound, links) = explain("nowhere.acme-hosting.test");
    assert!(!sound, "{links}");
}
