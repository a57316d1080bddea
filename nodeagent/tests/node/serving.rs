//! What visitors get.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hosting_agent_engine::Phase;
use hosting_intent::Kind;
use tokio::time::sleep;

use crate::support::{
    Node, folder, is_root, key, layout, missing, php_webroot, skipped, static_webroot, tenant, try_ask,
    upload, webroot,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_static_site_from_nothing_to_its_content() {
    if missing("a_static_site_from_nothing_to_its_content") {
        return;
    }
    let folder = folder();
    let node = Node::start(layout(folder.path(), "web-1"), folder.path());
    let site = key(Kind::Webroot, "web_a");
    let revision = node.apply(vec![tenant("t_a", false), webroot("web_a", &static_webroot("t_a"))], vec![]);
    let report = node.until(&site, Phase::Ready, revision).await;
    assert_eq!((report.revision, report.message.as_str()), (revision, ""));
    node.until_ready().await;

    // Ready means that a request works, even if nothing is there yet; and nothing was put into the tenant's folder.
    let empty = node.get("web_a", "/").await;
    assert_eq!(empty.status, 404);
    assert!(empty.body.contains("Nothing has been uploaded yet"), "{}", empty.body);
    let root = node.document_root("t_a", "web_a");
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);

    upload(&root.join("index.html"), "hello");
    upload(&root.join("a.css"), "css");
    upload(&root.join(".env"), "SECRET");
    upload(&root.join(".git/config"), "SECRET");
    upload(&root.join(".well-known/security.txt"), "contact");
    upload(&root.join(".well-known/.htaccess"), "SECRET");
    upload(&root.join("old.php"), "<?php SECRET");
    upload(&root.join("empty/.keep"), "");
    let home = node.get("web_a", "/").await;
    assert_eq!((home.status, home.body.as_str()), (200, "hello"));
    assert!(
        home.head.contains("X-Served-By: web-1\r\n") && home.head.contains("X-Shard: shard-1"),
        "{}",
        home.head
    );
    assert!(!home.head.contains("nginx/"), "{}", home.head);
    assert!(node.get("web_a", "/a.css").await.head.contains("Content-Type: text/css"));
    assert_eq!(node.get("web_a", "/.well-known/security.txt").await.body, "contact");
    for hidden in
        ["/.env", "/.git/config", "/.well-known/.htaccess", "/old.php", "/.hosting/ready", "/nothing"]
    {
        let answer = node.get("web_a", hidden).await;
        assert_eq!(answer.status, 404, "{hidden}");
        assert!(
            !answer.body.contains("SECRET") && !answer.body.contains("uploaded"),
            "{hidden}: {}",
            answer.body
        );
    }
    assert_eq!(node.get("web_a", "/empty/").await.status, 403);
    // A redirect must not tell the visitor the name between edge and node.
    assert!(node.get("web_a", "/empty").await.head.contains("Location: /empty/"));

    for stranger in ["web_b", "example.com", "127.0.0.1"] {
        assert_eq!(node.get(stranger, "/").await.status, 421, "{stranger}");
    }
    let log = std::fs::read_to_string(node.layout.roots.logs.join("nginx/access.log")).unwrap();
    let line: serde_json::Value =
        serde_json::from_str(log.lines().find(|line| line.contains("a.css")).unwrap()).unwrap();
    for field in [
        "time",
        "remote_addr",
        "method",
        "uri",
        "status",
        "bytes_sent",
        "request_time",
        "upstream_time",
        "http_referer",
        "http_user_agent",
        "host",
        "server_name",
        "tenant",
    ] {
        assert!(line.get(field).is_some(), "{field} in {line}");
    }
    assert_eq!((line["server_name"].as_str(), line["tenant"].as_str()), (Some("web_a"), Some("t_a")));
    assert!(!log.contains("/.hosting/ready\",\"status\":200"), "probes are no visitors");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_out_of_the_site_is_not_served() {
    if missing("a_link_out_of_the_site_is_not_served") {
        return;
    }
    if !is_root() {
        return skipped("a_link_out_of_the_site_is_not_served", "root");
    }
    let folder = folder();
    let node = Node::start(layout(folder.path(), "web-1"), folder.path());
    let revision = node.apply(vec![tenant("t_a", false), webroot("web_a", &static_webroot("t_a"))], vec![]);
    node.until(&key(Kind::Webroot, "web_a"), Phase::Ready, revision).await;
    let root = node.document_root("t_a", "web_a");
    for (link, target) in [("passwd", "/etc/passwd"), ("etc", "/etc")] {
        std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        nix::unistd::fchownat(
            nix::fcntl::AT_FDCWD,
            &root.join(link),
            node.layout.site_user.as_ref().map(|user| user.uid.into()),
            None,
            nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .unwrap();
    }
    for path in ["/passwd", "/etc/passwd"] {
        let answer = node.get("web_a", path).await;
        assert!(answer.status == 403 || answer.status == 404, "{path}: {answer:?}");
        assert!(!answer.body.contains("root:"), "{path}");
    }
    node.stop().await;
}

const STATE: &str = r#"<?php
$file = __DIR__ . '/counter.txt';
$count = (int) @file_get_contents($file) + 1;
file_put_contents($file, $count);
header('Content-Type: application/json');
echo json_encode(['count' => $count, 'host' => $_SERVER['HTTP_HOST'], 'name' => $_SERVER['SERVER_NAME'],
  'port' => $_SERVER['SERVER_PORT'], 'https' => $_SERVER['HTTPS'] ?? '', 'addr' => $_SERVER['REMOTE_ADDR'],
  'internal' => $_SERVER['HTTP_X_HOSTING_HOST'] ?? null, 'path' => $_SERVER['PATH_INFO'] ?? '',
  'memory' => ini_get('memory_limit'), 'outside' => @file_get_contents('/etc/passwd') !== false,
  'neighbour' => @file_get_contents(__DIR__ . '/../../../t_ab/webroots/x') !== false,
  'session' => session_start(), 'tmp' => sys_get_temp_dir(), 'user' => posix_geteuid()]);
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_php_site_keeps_state_and_sees_the_visitor_s_name() {
    if missing("a_php_site_keeps_state_and_sees_the_visitor_s_name") {
        return;
    }
    let folder = folder();
    let node = Node::start(layout(folder.path(), "web-1"), folder.path());
    let mut php = php_webroot("t_a");
    php.public_folder = "public/html".into();
    php.php.as_mut().unwrap().values.insert("memory_limit".into(), "96M".into());
    let site = key(Kind::Webroot, "web_a");
    let revision = node.apply(vec![tenant("t_a", false), webroot("web_a", &php)], vec![]);
    node.until(&site, Phase::Ready, revision).await;
    assert!(node.get("web_a", "/").await.body.contains("Nothing has been uploaded yet"));

    let root = node.document_root("t_a", "web_a").join("public/html");
    upload(&root.join("index.php"), STATE);
    upload(&node.layout.roots.storage.join("t_ab/webroots/x"), "neighbour");
    let headers =
        "X-Hosting-Host: Shop.Example:8443\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.7\r\n";
    let first: serde_json::Value =
        serde_json::from_str(&node.ask("web_a", "/some/route?x=1", headers).await.body).unwrap();
    assert_eq!(first["count"], 1, "{first}");
    assert_eq!(first["host"], "Shop.Example:8443", "{first}");
    assert_eq!(first["name"], "Shop.Example");
    assert_eq!((&first["port"], &first["https"]), (&"8443".into(), &"on".into()));
    assert_eq!(first["addr"], "192.0.2.7");
    assert_eq!(first["internal"], serde_json::Value::Null);
    assert_eq!(first["memory"], "96M");
    assert_eq!(
        (&first["outside"], &first["neighbour"], &first["session"]),
        (&false.into(), &false.into(), &true.into())
    );
    assert!(first["tmp"].as_str().unwrap().ends_with("/t_a/tmp"), "{first}");
    assert_ne!(first["user"], 0, "{first}");
    let second: serde_json::Value =
        serde_json::from_str(&node.ask("web_a", "/index.php/deep/path", "").await.body).unwrap();
    assert_eq!((&second["count"], &second["host"]), (&2.into(), &"web_a".into()));
    assert_eq!((&second["path"], &second["https"]), (&"/deep/path".into(), &"".into()));
    assert_eq!(node.get("web_a", "/missing.php").await.status, 404);

    // A name that is no name is not passed on; a visitor who comes past the edge is not believed.
    for odd in ["a b", "a;b", "a\"b", "", "a/b"] {
        let answer = node.ask("web_a", "/", &format!("X-Hosting-Host: {odd}\r\n")).await;
        let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(answer["host"], "web_a", "{odd:?}");
    }

    // A new setting takes effect without a gap: READY at the new revision means that it is in force.
    php.php.as_mut().unwrap().values.insert("memory_limit".into(), "112M".into());
    let revision = node.apply(vec![webroot("web_a", &php)], vec![]);
    node.until(&site, Phase::Ready, revision).await;
    let third: serde_json::Value = serde_json::from_str(&node.get("web_a", "/").await.body).unwrap();
    assert_eq!(third["memory"], "112M");
    assert!(third["count"].as_u64().unwrap() > 2);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_the_edge_are_believed_from_edges_only() {
    if missing("headers_of_the_edge_are_believed_from_edges_only") {
        return;
    }
    let folder = folder();
    let mut layout = layout(folder.path(), "web-1");
    layout.edges = vec!["192.0.2.1".into(), "2001:db8::/32".into()];
    let node = Node::start(layout, folder.path());
    let revision = node.apply(vec![tenant("t_a", false), webroot("web_a", &php_webroot("t_a"))], vec![]);
    node.until(&key(Kind::Webroot, "web_a"), Phase::Ready, revision).await;
    upload(&node.document_root("t_a", "web_a").join("index.php"), STATE);
    let headers =
        "X-Hosting-Host: victim.example\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.7\r\n";
    let answer: serde_json::Value =
        serde_json::from_str(&node.ask("web_a", "/", headers).await.body).unwrap();
    assert_eq!((&answer["host"], &answer["https"]), (&"web_a".into(), &"".into()));
    assert_eq!(answer["addr"], "127.0.0.1");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_neighbours_do_not_cost_a_request() {
    if missing("changes_of_neighbours_do_not_cost_a_request") {
        return;
    }
    let folder = folder();
    let node = Node::start(layout(folder.path(), "web-1"), folder.path());
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
    upload(&node.document_root("t_a", "web_p").join("index.php"), "<?php usleep(3000); echo 'dynamic';");

    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let visitors: Vec<_> = [("web_s", "static"), ("web_p", "dynamic"), ("web_p", "dynamic")]
        .into_iter()
        .map(|(host, expect)| {
            let (stop, served, address) = (stop.clone(), served.clone(), node.layout.listen[0]);
            tokio::spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match try_ask(address, host, "/", "").await {
                        Ok(answer) if answer.status == 200 && answer.body == expect => {
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                        other => failed.push(format!("{host}: {other:?}")),
                    }
                }
                failed
            })
        })
        .collect();

    for round in 0..8 {
        let id = format!("web_n{round}");
        let neighbour = if round % 2 == 0 { static_webroot("t_a") } else { php_webroot("t_a") };
        let revision = node.apply(vec![webroot(&id, &neighbour)], vec![]);
        node.until(&key(Kind::Webroot, &id), Phase::Ready, revision).await;
        // Ready is no promise for later: the very next request works.
        let answer = node.get(&id, "/").await;
        assert!(answer.body.contains("Nothing has been uploaded yet"), "{answer:?}");
    }
    sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::Relaxed);
    let mut failed = Vec::new();
    for visitor in visitors {
        failed.extend(visitor.await.unwrap());
    }
    assert!(served.load(Ordering::Relaxed) > 200, "{served:?}");
    assert!(failed.is_empty(), "{} of {served:?} failed: {:?}", failed.len(), &failed[..failed.len().min(3)]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_s_sites_answer_503_and_come_back() {
    if missing("a_suspended_tenant_s_sites_answer_503_and_come_back") {
        return;
    }
    let folder = folder();
    let node = Node::start(layout(folder.path(), "web-1"), folder.path());
    let site = key(Kind::Webroot, "web_a");
    let revision = node.apply(vec![tenant("t_a", false), webroot("web_a", &php_webroot("t_a"))], vec![]);
    node.until(&site, Phase::Ready, revision).await;
    upload(&node.document_root("t_a", "web_a").join("index.php"), "<?php echo 'alive';");
    assert_eq!(node.get("web_a", "/").await.body, "alive");
    assert_eq!(node.php("web_a").len(), 1);

    let owner = key(Kind::Tenant, "t_a");
    let suspended = node.apply(vec![tenant("t_a", true)], vec![]);
    node.until(&owner, Phase::Ready, suspended).await;
    let report = node.report(&site).unwrap();
    assert_eq!((report.phase, report.message.as_str()), (Phase::Ready, "suspended"));
    // The webroot's own intent did not change.
    assert_eq!(report.revision, revision);
    let answer = node.get("web_a", "/index.php").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("suspended") && !answer.body.contains("alive"), "{}", answer.body);
    let config = node.layout.roots.config.join("php/web_a");
    while config.exists() || !node.php("web_a").is_empty() {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(node.document_root("t_a", "web_a").join("index.php").exists());

    let back = node.apply(vec![tenant("t_a", false)], vec![]);
    node.until(&owner, Phase::Ready, back).await;
    assert_eq!(node.get("web_a", "/").await.body, "alive");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_changes_its_runtime_and_back() {
    if missing("a_site_changes_its_runtime_and_back") {
        return;
    }
    let folder = folder();
    let node = Node::start(layout(folder.path(), "web-1"), folder.path());
    let site = key(Kind::Webroot, "web_a");
    let revision = node.apply(vec![tenant("t_a", false), webroot("web_a", &static_webroot("t_a"))], vec![]);
    node.until(&site, Phase::Ready, revision).await;
    upload(&node.document_root("t_a", "web_a").join("index.php"), "<?php echo 'dynamic';");
    assert_eq!(node.get("web_a", "/index.php").await.status, 404);
    let revision = node.apply(vec![webroot("web_a", &php_webroot("t_a"))], vec![]);
    node.until(&site, Phase::Ready, revision).await;
    assert_eq!(node.get("web_a", "/index.php").await.body, "dynamic");
    let revision = node.apply(vec![webroot("web_a", &static_webroot("t_a"))], vec![]);
    node.until(&site, Phase::Ready, revision).await;
    assert_eq!(node.get("web_a", "/index.php").await.status, 404);
    // Nobody needs php-fpm any more.
    while !node.php("web_a").is_empty() {
        sleep(Duration::from_millis(10)).await;
    }

    let missing = hosting_intent::message::Webroot { runtime_version: "8.9".into(), ..php_webroot("t_a") };
    let revision = node.apply(vec![webroot("web_a", &missing)], vec![]);
    let report = node.until(&site, Phase::Failed, revision).await;
    assert!(report.message.contains("php-fpm 8.9 is not installed"), "{report:?}");
    // What ran before goes on running.
    let revision = node.apply(vec![webroot("web_a", &php_webroot("t_a"))], vec![]);
    node.until(&site, Phase::Ready, revision).await;
    let revision = node.apply(vec![webroot("web_a", &missing)], vec![]);
    node.until(&site, Phase::Failed, revision).await;
    assert_eq!(node.get("web_a", "/index.php").await.body, "dynamic");
    node.stop().await;
}
