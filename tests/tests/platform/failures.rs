//! What goes on when parts are gone, and what an operator is told.

use std::{
    fs,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Platform, eventually, machine_lacks_daemons};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn sites_and_dns_go_on_without_the_controller() {
    if machine_lacks_daemons("sites_and_dns_go_on_without_the_controller") {
        return;
    }
    let mut platform = Platform::start(&["--no-restart"]).await;
    platform.kill("controller").await;
    assert!(platform.is_live("bakery.test").await);

    // Restarted meanwhile, they serve from their ledgers.
    for role in ["edge", "dns", "nodeagent"] {
        platform.kill(role).await;
        platform.restart(role).await;
    }
    assert!(platform.is_live("bakery.test").await);
    assert!(platform.is_live("guestbook.acme-hosting.test").await);

    platform.restart("controller").await;
    let fqdn = "after.acme-hosting.test";
    let (code, answer) = platform.add_fqdn("acme-1001", fqdn, "?wait=ready&wait_timeout=60").await;
    assert_eq!(code, 200, "{answer}");
    assert!(platform.is_live(fqdn).await);
    for role in ["edge", "dns"] {
        let resumed = async |kind: &str| platform.metric(role, "intent_resumes_total", &[kind]).await;
        // Metrics follow what they count after a moment.
        let by_delta = async || (resumed("Delta").await >= 1.0).then_some(());
        eventually(&format!("{role} resumed by delta"), LIMIT, by_delta).await;
        assert_eq!(resumed("Snapshot").await, 0.0, "{role} needed no snapshot");
    }
}

/// It is there, takes connections and says nothing: a stuck disk, a debugger, a machine out of memory.
#[tokio::test]
async fn a_controller_that_hangs_holds_nobody_up_and_goes_on_where_it_was() {
    if machine_lacks_daemons("a_controller_that_hangs_holds_nobody_up_and_goes_on_where_it_was") {
        return;
    }
    let platform = Platform::start(&["--no-restart"]).await;
    let before = platform.get("/subscribers").await;
    let snapshots = async |role| platform.metric(role, "intent_resumes_total", &["Snapshot"]).await;
    let had = [snapshots("edge").await, snapshots("dns").await, snapshots("nodeagent").await];
    platform.signal("controller", Signal::SIGSTOP);
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert!(platform.is_live("bakery.test").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    platform.signal("controller", Signal::SIGCONT);
    let fqdn = "after.acme-hosting.test";
    let (code, answer) = platform.add_fqdn("acme-1001", fqdn, "?wait=ready&wait_timeout=30").await;
    assert_eq!(code, 200, "{answer}");
    assert!(platform.is_live(fqdn).await);
    let after = platform.get("/subscribers").await;
    assert_eq!(after["epoch"], before["epoch"]);
    let has = [snapshots("edge").await, snapshots("dns").await, snapshots("nodeagent").await];
    assert_eq!(has, had, "nobody needed a snapshot");
}

#[tokio::test]
async fn one_node_of_two_is_enough() {
    if machine_lacks_daemons("one_node_of_two_is_enough") {
        return;
    }
    let platform = Platform::start(&["--no-restart", "--web-nodes=2"]).await;
    platform.signal("nodeagent-2", Signal::SIGSTOP);
    let (tenant, _) = platform.site("acme-1001").await;
    let subscription = platform.items(&format!("/tenants/{tenant}/subscriptions")).await[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let body = json!({"subscription_id": subscription, "runtime": "static", "runtime_version": ""});
    let path = format!("/tenants/{tenant}/webroots?wait=ready&wait_timeout=60");
    let (code, webroot) = platform.call("POST", &path, Some(body)).await;
    assert_eq!(code, 200, "{webroot}");
    let webroot = webroot["id"].as_str().unwrap();
    let page = platform.data().join(format!("storage/{tenant}/webroots/{webroot}/index.html"));
    fs::write(page, "one is enough").unwrap();

    // Several names, so that some of them hash to the stopped node.
    for index in 0..8 {
        let fqdn = format!("half-{index}.acme-hosting.test");
        let body = json!({"fqdn": fqdn, "webroot_id": webroot});
        let path = format!("/tenants/{tenant}/fqdns?wait=ready&wait_timeout=60");
        let (code, answer) = platform.call("POST", &path, Some(body)).await;
        assert_eq!(code, 200, "{answer}");
        eventually("the name is live", LIMIT, async || platform.is_live(&fqdn).await.then_some(())).await;
    }
    platform.signal("nodeagent-2", Signal::SIGCONT);
}

#[tokio::test]
async fn an_older_store_destroys_nothing() {
    if machine_lacks_daemons("an_older_store_destroys_nothing") {
        return;
    }
    let mut platform = Platform::start(&["--no-restart"]).await;
    let epoch = platform.get("/subscribers").await["epoch"].as_str().unwrap().to_owned();
    let copy = platform.folder().join("older");
    let copy = copy.to_str().unwrap();
    // While the controller runs.
    store(&platform, &["backup", copy]);

    let (tenant, _) = platform.site("acme-1002").await;
    let subscription = platform.items(&format!("/tenants/{tenant}/subscriptions")).await[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let body = json!({"subscription_id": subscription, "runtime": "static", "runtime_version": ""});
    let path = format!("/tenants/{tenant}/webroots?wait=ready&wait_timeout=60");
    let (code, made) = platform.call("POST", &path, Some(body)).await;
    assert_eq!(code, 200, "{made}");
    let webroot = made["id"].as_str().unwrap().to_owned();
    let folder = platform.data().join(format!("storage/{tenant}/webroots/{webroot}"));
    fs::write(folder.join("index.html"), "written after the copy").unwrap();

    platform.kill("controller").await;
    store(&platform, &["restore", copy]);
    platform.restart("controller").await;

    eventually("the node reports the orphan", LIMIT, async || {
        let subscribers = platform.get("/subscribers").await;
        (subscribers["epoch"] != epoch.as_str() && subscribers.to_string().contains(&webroot)).then_some(())
    })
    .await;
    assert_eq!(fs::read_to_string(folder.join("index.html")).unwrap(), "written after the copy");
    assert!(platform.is_live("bakery.test").await);
    let (code, answer) = platform.add_fqdn("acme-1001", "later.acme-hosting.test", "?wait=ready").await;
    assert_eq!(code, 200, "{answer}");
    assert!(platform.is_live("later.acme-hosting.test").await);
}

/// `hostctl store`.
fn store(platform: &Platform, arguments: &[&str]) {
    let output = platform.hostctl().arg("store").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

#[tokio::test]
async fn a_platform_moves_to_postgres() {
    if machine_lacks_daemons("a_platform_moves_to_postgres") {
        return;
    }
    let mut platform = Platform::start(&[]).await;
    let tenants = platform.get("/tenants").await;
    platform.interrupt();
    platform.options.push("--database=postgres".to_owned());
    platform.up(&[]).await;
    assert_eq!(platform.get("/tenants").await, tenants);
    assert!(platform.is_live("bakery.test").await);
    let fqdn = "moved.acme-hosting.test";
    let (code, answer) = platform.add_fqdn("acme-1001", fqdn, "?wait=ready&wait_timeout=60").await;
    assert_eq!(code, 200, "{answer}");
    assert!(platform.is_live(fqdn).await);
    assert!(!platform.data().join("controller/store.db").exists());
    assert!(platform.data().join("controller/store.db.moved").is_file(), "it is put away, not deleted");
    // From now on the folder says where its store is.
    platform.interrupt();
    platform.options.pop();
    platform.up(&[]).await;
    assert!(platform.is_live(fqdn).await);
}

#[tokio::test]
async fn a_put_back_name_server_answers_as_before() {
    if machine_lacks_daemons("a_put_back_name_server_answers_as_before") {
        return;
    }
    let mut platform = Platform::start(&["--no-restart"]).await;
    let (_, before) = platform.dig("bakery.test").await.unwrap();
    assert_eq!(before, [Ipv4Addr::LOCALHOST]);
    platform.kill("dns").await;
    // Missed while it was away: a name that waits for no DNS server in service is not ready.
    let (code, answer) = platform.add_fqdn("acme-1001", "missed.acme-hosting.test", "").await;
    assert_eq!(code, 202, "{answer}");
    platform.restart("dns").await;
    let live = async || platform.is_live("missed.acme-hosting.test").await.then_some(());
    eventually("the missed name is there", LIMIT, live).await;
}
