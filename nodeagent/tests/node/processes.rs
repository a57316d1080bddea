//! Processes that end, are left behind or refuse their configuration.

use std::time::Duration;

use hosting_agent_engine::Phase;
use hosting_intent::Kind;
use hosting_nodeagent::host::supervisor::AtDeath;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

use crate::support::{
    Node, folder, key, layout, missing, php_webroot, static_webroot, tenant, try_ask, upload, webroot,
};

fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Processes of a node, by the folder that stands in their command lines or those of their parents.
fn group(pid: i32) -> Vec<i32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|member| {
            let stat = std::fs::read_to_string(format!("/proc/{member}/stat")).unwrap_or_default();
            let group = stat
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(2)?.parse().ok());
            group == Some(pid) && alive(*member)
        })
        .collect()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn serves(node: &Node, host: &str, body: &str) {
    let began = Instant::now();
    loop {
        let answer = try_ask(node.layout.listen[0], host, "/", "").await;
        if answer.as_ref().is_ok_and(|answer| answer.body == body) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{host}: {answer:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The configuration of a site's php-fpm.
fn php_config(node: &Node, webroot: &str) -> std::path::PathBuf {
    let folder = node.layout.roots.text(&hosting_nodeagent::web::layout::php_folder(webroot));
    std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
}

async fn node_with_sites(name: &str, folder: &std::path::Path, at_death: AtDeath) -> Node {
    let node = Node::start_with(layout(folder, name), folder, at_death);
    let revision = node.apply(
        vec![
            tenant("t_a", false),
            webroot("web_s", &static_webroot("t_a")),
            webroot("web_p", &php_webroot("t_a")),
        ],
        vec![],
    );
    for id in ["web_s", "web_p"] {
        node.until(&key(Kind::Webroot, id), Phase::Ready, revision).await;
    }
    upload(&node.document_root("t_a", "web_s").join("index.html"), "static");
    upload(&node.document_root("t_a", "web_p").join("index.php"), "<?php echo 'dynamic';");
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_master_is_started_again_and_its_workers_do_not_stay() {
    if missing("a_killed_master_is_started_again_and_its_workers_do_not_stay") {
        return;
    }
    let folder = folder();
    let node = node_with_sites("web-1", folder.path(), AtDeath::End).await;
    for service in ["nginx".to_owned(), node.php("web_p").remove(0)] {
        let service = service.as_str();
        let pid = node.host.supervisor().pids()[service];
        let members = group(pid);
        assert!(members.len() > 1, "{service}: {members:?}");
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        eventually("a new master", || {
            node.host.supervisor().pids().get(service).is_some_and(|now| *now != pid && alive(*now))
        })
        .await;
        eventually("the old workers are gone", || members.iter().all(|member| !alive(*member))).await;
        serves(&node, "web_s", "static").await;
        serves(&node, "web_p", "dynamic").await;
    }
    let pids = node.host.supervisor().pids();
    node.stop().await;
    for pid in pids.into_values() {
        assert!(group(pid).is_empty(), "{pid} was left behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn children_that_an_agent_left_behind_are_taken_over_without_a_gap() {
    if missing("children_that_an_agent_left_behind_are_taken_over_without_a_gap") {
        return;
    }
    let folder = folder();
    let first = node_with_sites("web-1", folder.path(), AtDeath::Keep).await;
    let before = first.host.supervisor().pids();
    let php = first.php("web_p").remove(0);
    let old_layout = (*first.layout).clone();
    first.abandon().await;

    // The new agent has another view of what is wanted: it takes the processes over and changes what they serve.
    let second = Node::start_with(old_layout, folder.path(), AtDeath::Keep);
    let revision = second.apply(
        vec![
            tenant("t_a", false),
            webroot("web_p", &php_webroot("t_a")),
            webroot("web_n", &static_webroot("t_a")),
        ],
        vec![],
    );
    second.until(&key(Kind::Webroot, "web_n"), Phase::Ready, revision).await;
    second.until(&key(Kind::Webroot, "web_p"), Phase::Ready, revision).await;
    serves(&second, "web_p", "dynamic").await;
    assert_eq!(second.host.supervisor().pids(), before);
    second.until(&key(Kind::Webroot, "web_s"), Phase::Orphan, 0).await;
    assert_eq!(second.get("web_s", "/").await.status, 421);

    // A master of ours that is killed while nobody looks leaves workers; they are ended, strangers are not.
    second.abandon().await;
    let nginx = before["nginx"];
    let workers = group(nginx);
    kill(Pid::from_raw(nginx), Signal::SIGKILL).unwrap();
    eventually("the master has ended", || !alive(nginx)).await;
    let record = folder.path().join(format!("web-1/services/{php}.process"));
    let mut stranger = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let stranger_pid = i32::try_from(stranger.id()).unwrap();
    // A record that names a process which is not the one that was started: an id used again.
    let text = std::fs::read_to_string(&record).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["pid"] = stranger_pid.into();
    std::fs::write(folder.path().join("web-1/services/other.process"), value.to_string()).unwrap();
    let third = Node::start_with(layout(folder.path(), "web-1"), folder.path(), AtDeath::End);
    eventually("the workers are gone", || workers.iter().all(|worker| !alive(*worker))).await;
    assert!(alive(stranger_pid));
    third.apply(vec![], vec![]);
    // Nobody wants PHP any more: what was left behind of it is ended too.
    eventually("php-fpm is gone", || !alive(before[&php])).await;
    assert!(alive(stranger_pid));
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_was_broken_by_hand_is_put_aside_and_made_anew() {
    if missing("a_piece_that_was_broken_by_hand_is_put_aside_and_made_anew") {
        return;
    }
    let folder = folder();
    let node = node_with_sites("web-1", folder.path(), AtDeath::End).await;
    let sites = node.layout.roots.config.join("nginx/sites");
    std::fs::write(sites.join("web_s.conf"), "server { this is; nonsense").unwrap();
    std::fs::write(sites.join("foreign.conf"), "}}}").unwrap();
    let php = php_config(&node, "web_p");
    std::fs::write(&php, "[web_p]\nnonsense = 1\n").unwrap();

    // A neighbour's change goes through all the same.
    let revision = node
        .apply(vec![webroot("web_n", &static_webroot("t_a")), webroot("web_q", &php_webroot("t_a"))], vec![]);
    node.until(&key(Kind::Webroot, "web_n"), Phase::Ready, revision).await;
    node.until(&key(Kind::Webroot, "web_q"), Phase::Ready, revision).await;
    eventually("all of it is as before", || {
        let text = std::fs::read_to_string(sites.join("web_s.conf")).unwrap_or_default();
        let pool = std::fs::read_to_string(&php).unwrap_or_default();
        text.contains("server_name web_s;")
            && pool.contains("pm = dynamic")
            && !sites.join("foreign.conf").exists()
    })
    .await;
    serves(&node, "web_s", "static").await;
    serves(&node, "web_p", "dynamic").await;

    // And a restart of everything from what is on disk works with broken pieces in it, too.
    std::fs::write(sites.join("web_s.conf"), "server { this is; nonsense").unwrap();
    kill(Pid::from_raw(node.host.supervisor().pids()["nginx"]), Signal::SIGKILL).unwrap();
    serves(&node, "web_p", "dynamic").await;
    serves(&node, "web_s", "static").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_tested_is_not_put_aside_and_serves_as_before() {
    if missing("what_cannot_be_tested_is_not_put_aside_and_serves_as_before") {
        return;
    }
    let folder = folder();
    let node = node_with_sites("web-1", folder.path(), AtDeath::End).await;
    let config = &node.layout.roots.config;
    let php = node.php("web_p").remove(0);
    let pieces = [
        config.join("nginx/sites/web_s.conf"),
        config.join("nginx/sites/web_p.conf"),
        php_config(&node, "web_p"),
    ];
    let all_there = || pieces.iter().all(|piece| piece.is_file());
    let kill_both = || {
        let pids = node.host.supervisor().pids();
        for service in ["nginx", php.as_str()] {
            kill(Pid::from_raw(pids[service]), Signal::SIGKILL).unwrap();
        }
        pids
    };
    let both_are_new = async |before: &std::collections::BTreeMap<String, i32>| {
        eventually("new masters", || {
            let now = node.host.supervisor().pids();
            before.iter().all(|(service, old)| now.get(service).is_some_and(|pid| pid != old && alive(*pid)))
        })
        .await;
    };
    // No draft can be written, as on a full disk.
    let drafts = config.join(".check");
    std::fs::remove_dir_all(&drafts).unwrap();
    std::fs::write(&drafts, "").unwrap();
    let before = kill_both();
    both_are_new(&before).await;
    serves(&node, "web_s", "static").await;
    serves(&node, "web_p", "dynamic").await;
    assert!(all_there());
    std::fs::remove_file(&drafts).unwrap();
    std::fs::create_dir(&drafts).unwrap();

    // Every test fails, whichever piece it is made with: what is wrong is not a piece.
    let logs = node.layout.roots.logs.join("nginx");
    let away = node.layout.roots.logs.join("nginx-away");
    std::fs::rename(&logs, &away).unwrap();
    std::fs::write(&logs, "").unwrap();
    let before = kill_both();
    eventually("it is down", || node.ready().is_err()).await;
    sleep(Duration::from_secs(1)).await;
    assert!(all_there());
    std::fs::remove_file(&logs).unwrap();
    std::fs::rename(&away, &logs).unwrap();
    both_are_new(&before).await;
    serves(&node, "web_s", "static").await;
    serves(&node, "web_p", "dynamic").await;
    assert!(all_there());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_the_service_refuses_is_never_in_place() {
    if missing("a_configuration_that_the_service_refuses_is_never_in_place") {
        return;
    }
    use hosting_agent_engine::Host as _;
    let folder = folder();
    let node = node_with_sites("web-1", folder.path(), AtDeath::End).await;
    let at = hosting_nodeagent::web::layout::site_file("web_s");
    let path = node.layout.roots.text(&at);
    let before = std::fs::read(&path).unwrap();
    let pids = node.host.supervisor().pids();
    let error = node.host.install("nginx", &at, Some(b"[broken { nonsense")).await.unwrap_err();
    assert!(error.to_string().contains("refuses the configuration"), "{error}");
    assert!(error.to_string().len() > 40, "it says why: {error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(node.host.supervisor().pids(), pids);
    serves(&node, "web_s", "static").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named() {
    if missing("a_port_that_is_taken_is_named") {
        return;
    }
    let folder = folder();
    let layout = layout(folder.path(), "web-1");
    let taken = std::net::TcpListener::bind(layout.listen[0]).unwrap();
    let node = Node::start(layout, folder.path());
    let revision = node.apply(vec![tenant("t_a", false), webroot("web_a", &static_webroot("t_a"))], vec![]);
    let report = node.until(&key(Kind::Webroot, "web_a"), Phase::Failed, revision).await;
    assert!(report.message.contains("Address already in use"), "{report:?}");
    assert!(node.ready().unwrap_err().contains("Address already in use"));
    drop(taken);
    node.until(&key(Kind::Webroot, "web_a"), Phase::Ready, revision).await;
    node.until_ready().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_found_and_put_right() {
    if missing("drift_is_found_and_put_right") {
        return;
    }
    let folder = folder();
    let node = node_with_sites("web-1", folder.path(), AtDeath::End).await;
    std::fs::remove_file(node.layout.roots.config.join("nginx/sites/web_s.conf")).unwrap();
    std::fs::remove_dir_all(node.layout.roots.logs.join("t_a")).unwrap();
    eventually("both are back", || {
        node.layout.roots.config.join("nginx/sites/web_s.conf").exists()
            && node.layout.roots.logs.join("t_a/php-error.log").exists()
    })
    .await;
    serves(&node, "web_s", "static").await;
    serves(&node, "web_p", "dynamic").await;
    node.stop().await;
}
