//! The live log of a name, from the visitor to `hostctl logs`.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::harness::{Platform, eventually, machine_lacks_daemons};

const LIMIT: Duration = Duration::from_secs(30);

/// A `hostctl logs` that runs.
struct Logs {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Logs {
    fn start(platform: &Platform, args: &[&str]) -> Self {
        let mut process = Command::from(platform.hostctl())
            .arg("logs")
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    /// The next request's target, asked for again until it is seen: from when on an edge tells is not known to a visitor.
    async fn sees(&mut self, platform: &Platform, host: &str, page: &str) -> Value {
        eventually(&format!("{host}/{page} is seen"), LIMIT, async || {
            platform.page(host, page).await?;
            self.next(Duration::from_millis(500)).await
        })
        .await
    }

    async fn next(&mut self, limit: Duration) -> Option<Value> {
        let line = tokio::time::timeout(limit, self.lines.next_line()).await.ok()?.unwrap()?;
        Some(serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}")))
    }
}

#[tokio::test]
async fn who_watches_a_name_sees_its_requests_and_no_others_and_goes_on_after_a_restart() {
    if machine_lacks_daemons("who_watches_a_name_sees_its_requests_and_no_others_and_goes_on_after_a_restart")
    {
        return;
    }
    let mut platform = Platform::start(&["--no-restart"]).await;
    let (code, answer) = platform.add_fqdn("acme-1001", "*.bakery.test", "?wait=served").await;
    assert!(code < 300, "{code} {answer}");
    let mut own = Logs::start(&platform, &["bakery.test", "--json"]);
    let mut below = Logs::start(&platform, &["*.bakery.test", "--json", "--count", "2"]);
    let seen = own.sees(&platform, "bakery.test", "no-such-page?a=b").await;
    assert_eq!((&seen["status"], &seen["target"]), (&json!(404), &json!("/no-such-page?a=b")), "{seen}");
    assert_eq!((&seen["method"], &seen["tls"]), (&json!("GET"), &json!(false)));
    assert!(seen["ms"].as_f64().unwrap() > 0.0 && seen["webroot_id"].is_string(), "{seen}");
    assert!(
        seen["client"] == "127.0.0.1" && seen.get("node").is_none() && seen.get("tenant").is_none(),
        "{seen}"
    );
    below.sees(&platform, "a.bakery.test", "below").await;
    // What was asked twice until it was seen comes twice.
    while own.next(Duration::from_secs(1)).await.is_some_and(|seen| seen["target"] == "/no-such-page?a=b") {}
    platform.page("bakery.test", "own").await.unwrap();
    platform.page("b.bakery.test", "below").await.unwrap();
    let seen = own.next(LIMIT).await.unwrap();
    assert_eq!(seen["target"], "/own", "of the name itself, and not of those below it: {seen}");
    let seen = below.next(LIMIT).await.unwrap();
    assert_eq!(seen["target"], "/below", "of those below, and not of the name itself: {seen}");
    assert!(below.process.wait().await.unwrap().success(), "it has had two");

    platform.kill("controller").await;
    platform.restart("controller").await;
    let seen = own.sees(&platform, "bakery.test", "after").await;
    assert_eq!(seen["target"], "/after");
    // The name goes, and so does whoever watches it.
    let (tenant, _) = platform.site("acme-1001").await;
    let fqdns = platform.items(&format!("/tenants/{tenant}/fqdns?search=bakery.test")).await;
    let id = fqdns.iter().find(|one| one["fqdn"] == "bakery.test").unwrap()["id"].as_str().unwrap();
    let (code, answer) = platform.call("DELETE", &format!("/fqdns/{id}"), None).await;
    assert!(code < 300, "{code} {answer}");
    let mut rest = String::new();
    while let Some(line) = tokio::time::timeout(LIMIT, own.lines.next_line()).await.unwrap().unwrap() {
        rest.push_str(&line);
    }
    let ended = own.process.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && rest.contains("the name is not there any more"), "{rest} {said}");
    assert!(said.contains("watching bakery.test on 1 edge"), "{said}");
    let unknown = Logs::start(&platform, &["nobody.test"]).process.wait_with_output().await.unwrap();
    assert_eq!(unknown.status.code(), Some(4), "{}", String::from_utf8_lossy(&unknown.stderr));
}
