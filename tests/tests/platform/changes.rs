//! Changes through REST take effect everywhere, and `?wait=ready` tells the truth.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Platform, eventually, machine_lacks_daemons};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_name_comes_and_goes_without_a_restart() {
    if machine_lacks_daemons("a_name_comes_and_goes_without_a_restart") {
        return;
    }
    let platform = Platform::start(&["--no-restart"]).await;
    let roles = ["controller", "edge", "dns", "nodeagent"];
    let pids = roles.map(|role| platform.pid(role));
    // Who applies changes stands back where others answer requests, and nowhere else: on nodes, daemons get its priority.
    for (pid, is_behind) in pids.iter().zip([false, true, true, false]) {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let stats = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok());
        let nice: Vec<i32> = stats
            .filter(|stat| stat.contains("(subscriber)"))
            .map(|stat| stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse().unwrap())
            .collect();
        assert!(nice.iter().all(|nice| (*nice > 0) == is_behind), "{pid}: {nice:?}");
        assert!(!is_behind || !nice.is_empty(), "{pid}");
    }
    let fqdn = "new.acme-hosting.test";
    assert!(platform.is_gone(fqdn).await);

    let (code, made) = platform.add_fqdn("acme-1001", fqdn, "").await;
    assert_eq!(code, 202, "{made}");
    eventually("the name is live", LIMIT, async || platform.is_live(fqdn).await.then_some(())).await;
    let (_, body) = platform.secure_web(fqdn).await.unwrap();
    assert!(body.contains("The Bakery"), "{body}");

    let (code, _) = platform.call("DELETE", &format!("/fqdns/{}", made["id"].as_str().unwrap()), None).await;
    assert_eq!(code, 202);
    eventually("the name is gone", LIMIT, async || platform.is_gone(fqdn).await.then_some(())).await;
    assert_eq!(platform.secure_web(fqdn).await, None, "no certificate for a name that is not in the map");
    let path = format!("/fqdns/{}", made["id"].as_str().unwrap());
    eventually("the row is gone", LIMIT, async || {
        let (code, _) = platform.call("GET", &path, None).await;
        (code == 404).then_some(())
    })
    .await;
    assert_eq!(pids, roles.map(|role| platform.pid(role)), "no process was started again");
}

/// Edge and name server asked their own listeners, and the node reports the site.
#[tokio::test]
async fn served_means_that_each_machine_found_it_so() {
    if machine_lacks_daemons("served_means_that_each_machine_found_it_so") {
        return;
    }
    let platform = Platform::start(&[]).await;
    let (tenant, webroot) = platform.site("acme-1001").await;
    let fqdn = "served.acme-hosting.test";
    let body = json!({"fqdn": fqdn, "webroot_id": webroot});
    let path = format!("/tenants/{tenant}/fqdns?wait=served");
    let (code, answer) = platform.call("POST", &path, Some(body)).await;
    assert_eq!((code, &answer["not_serving"]), (200, &json!([])), "{answer}");
    let items = answer["receipts"][0]["items"].as_array().unwrap().clone();
    let states: Vec<&str> = items
        .iter()
        .flat_map(|item| item["subscribers"].as_array().unwrap())
        .map(|one| one["state"].as_str().unwrap())
        .collect();
    assert!(states.len() >= 2 && states.iter().all(|state| *state == "served"), "{answer}");

    let told = platform.hostctl().args(["receipt", "fqdn", fqdn]).output().unwrap();
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.status.success() && text.contains(&format!("route/{fqdn}")), "{told:?}");
    let webroot = platform.call("GET", &format!("/webroots/{webroot}/receipt"), None).await.1;
    assert_eq!(webroot["served"], json!(true), "{webroot}");

    let id = answer["id"].as_str().unwrap();
    let (code, gone) = platform.call("DELETE", &format!("/fqdns/{id}?wait=served"), None).await;
    assert_eq!((code, &gone["not_serving"]), (200, &json!([])), "{gone}");
    assert!(platform.is_gone(fqdn).await);
}

/// Polled at once after each answer, 200 times: never a 404, never an NXDOMAIN.
#[tokio::test]
async fn ready_means_that_it_answers() {
    if machine_lacks_daemons("ready_means_that_it_answers") {
        return;
    }
    let platform = Platform::start(&[]).await;
    let (tenant, webroot) = platform.site("acme-1001").await;
    for round in 0..200 {
        let fqdn = format!("ready-{round}.acme-hosting.test");
        let body = json!({"fqdn": fqdn, "webroot_id": webroot});
        let path = format!("/tenants/{tenant}/fqdns?wait=ready");
        let (code, answer) = platform.call("POST", &path, Some(body)).await;
        assert_eq!(code, 200, "{answer}");
        let web = platform.web(&fqdn).await.unwrap();
        assert!(web.0 == 200 && web.1.contains("The Bakery"), "round {round}: {web:?}");
        let (code, addresses) = platform.dig(&fqdn).await.unwrap();
        assert_eq!(addresses.len(), 1, "round {round}: {code}");
    }
}

#[tokio::test]
async fn a_stopped_edge_is_waited_for_then_named() {
    if machine_lacks_daemons("a_stopped_edge_is_waited_for_then_named") {
        return;
    }
    let platform = Platform::start(&[]).await;
    platform.signal("edge", Signal::SIGSTOP);
    let begun = Instant::now();
    let query = "?wait=ready&wait_timeout=25";
    let (code, answer) = platform.add_fqdn("acme-1001", "late.acme-hosting.test", query).await;
    // A lease is 15 s from the last sign of life, and those come every 5 s.
    assert!(begun.elapsed() > Duration::from_secs(9), "returned inside the lease: {code} {answer}");
    assert_eq!(code, 202, "nobody serves it: {answer}");
    assert!(answer["lagging"].to_string().contains("edge-1"), "{answer}");

    platform.signal("edge", Signal::SIGCONT);
    let live = async || platform.is_live("late.acme-hosting.test").await.then_some(());
    eventually("the name is live once the edge is back", Duration::from_secs(20), live).await;
    let path = format!("/fqdns/{}", answer["id"].as_str().unwrap());
    let active = async || (platform.get(&path).await["status"] == "active").then_some(());
    eventually("the name is active", Duration::from_secs(20), active).await;
}

#[tokio::test]
async fn a_name_made_anew_while_it_goes_belongs_to_its_new_owner() {
    if machine_lacks_daemons("a_name_made_anew_while_it_goes_belongs_to_its_new_owner") {
        return;
    }
    let platform = Platform::start(&[]).await;
    let fqdn = "moving.acme-hosting.test";
    let (code, old) = platform.add_fqdn("acme-1001", fqdn, "?wait=ready").await;
    assert_eq!(code, 200, "{old}");

    // The edge cannot acknowledge, so the deletion stays in flight.
    platform.signal("edge", Signal::SIGSTOP);
    let old_path = format!("/fqdns/{}", old["id"].as_str().unwrap());
    assert_eq!(platform.call("DELETE", &old_path, None).await.0, 202);
    assert_eq!(platform.get(&old_path).await["status"], "deleting");
    let (code, new) = platform.add_fqdn("acme-1002", fqdn, "").await;
    assert_eq!(code, 202, "the name is free at once: {new}");
    platform.signal("edge", Signal::SIGCONT);

    let path = format!("/fqdns/{}", new["id"].as_str().unwrap());
    eventually("the new one is active", Duration::from_secs(20), async || {
        (platform.get(&path).await["status"] == "active").then_some(())
    })
    .await;
    eventually("the old one is gone", Duration::from_secs(20), async || {
        (platform.call("GET", &old_path, None).await.0 == 404).then_some(())
    })
    .await;
    assert!(platform.is_live(fqdn).await);
    let (_, body) = platform.web(fqdn).await.unwrap();
    assert!(body.contains("Guestbook"), "it leads to the new owner's site: {body}");
}
