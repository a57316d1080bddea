//! PHP sites beside each other, and what one of them may do.

use std::{path::Path, time::Duration};

use hosting_agent_engine::Phase;
use hosting_intent::{Kind, message as m};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
    time::sleep,
};

use crate::support::{
    Answer, Node, folder, key, layout, missing, php_webroot, send, tenant, try_ask, upload, webroot,
};

/// Answers when a file `go` is beside it: as long as a test wants, and no longer.
const WAITS: &str = "<?php while (!file_exists(__DIR__ . '/go')) { usleep(20000); clearstatcache(); }
  echo 'finished under ', ini_get('memory_limit');";

fn ask(node: &Node, host: &str, path: &str) -> JoinHandle<std::io::Result<Answer>> {
    let (address, host, path) = (node.layout.listen[0], host.to_owned(), path.to_owned());
    tokio::spawn(async move { try_ask(address, &host, &path, "").await })
}

fn with(settings: &[(&str, &str)]) -> m::Webroot {
    let mut php = php_webroot("t_a");
    let values = settings.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    php.php.as_mut().unwrap().values.extend(values);
    php
}

async fn sites(folder: &Path, all: &[(&str, m::Webroot)]) -> Node {
    let node = Node::start(layout(folder, "web-1"), folder);
    let mut wanted = vec![tenant("t_a", false)];
    wanted.extend(all.iter().map(|(id, site)| webroot(id, site)));
    let revision = node.apply(wanted, vec![]);
    for (id, _) in all {
        node.until(&key(Kind::Webroot, id), Phase::Ready, revision).await;
    }
    node
}

async fn change(node: &Node, id: &str, site: &m::Webroot) {
    let revision = node.apply(vec![webroot(id, site)], vec![]);
    node.until(&key(Kind::Webroot, id), Phase::Ready, revision).await;
}

/// Until a request is in a script's hands.
async fn under_way(node: &Node, id: &str) {
    let mark = node.document_root("t_a", id).join("begun");
    while !mark.exists() {
        sleep(Duration::from_millis(10)).await;
    }
    std::fs::remove_file(mark).unwrap();
}

fn waiting_script() -> String {
    WAITS.replacen("<?php ", "<?php touch(__DIR__ . '/begun'); ", 1)
}

fn upload_page(node: &Node, id: &str, name: &str, text: &str) {
    upload(&node.document_root("t_a", id).join(name), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_request_survives_what_happens_to_others() {
    if missing("a_long_request_survives_what_happens_to_others") {
        return;
    }
    let folder = folder();
    let node = sites(folder.path(), &[("web_a", with(&[])), ("web_c", with(&[]))]).await;
    upload_page(&node, "web_a", "wait.php", &waiting_script());
    let masters = (node.php("web_a"), node.php("web_c"), node.host.supervisor().pids());
    let long = ask(&node, "web_a", "/wait.php");
    under_way(&node, "web_a").await;

    change(&node, "web_b", &with(&[])).await;
    change(&node, "web_b", &with(&[("memory_limit", "77M")])).await;
    change(&node, "web_c", &with(&[("memory_limit", "78M")])).await;
    node.apply(vec![], vec![key(Kind::Webroot, "web_b"), key(Kind::Webroot, "web_c")]);
    while !node.php("web_b").is_empty() || !node.php("web_c").is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(!long.is_finished());
    assert_eq!(node.php("web_a"), masters.0);
    let service = &masters.0[0];
    assert_eq!(node.host.supervisor().pids()[service], masters.2[service]);
    upload_page(&node, "web_a", "go", "");
    let answer = long.await.unwrap().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "finished under 128M"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_its_own_settings_cuts_and_stalls_nothing() {
    if missing("a_change_of_its_own_settings_cuts_and_stalls_nothing") {
        return;
    }
    let folder = folder();
    let node = sites(folder.path(), &[("web_a", with(&[]))]).await;
    upload_page(&node, "web_a", "wait.php", &waiting_script());
    upload_page(&node, "web_a", "now.php", "<?php echo ini_get('memory_limit');");
    let first = node.php("web_a").remove(0);
    let long = ask(&node, "web_a", "/wait.php");
    under_way(&node, "web_a").await;

    change(&node, "web_a", &with(&[("memory_limit", "96M")])).await;
    assert_eq!(node.get("web_a", "/now.php").await.body, "96M");
    assert!(!long.is_finished() && node.php("web_a").contains(&first));

    // Back to what the request still runs under: that waits, and what is in force serves.
    let site = key(Kind::Webroot, "web_a");
    let revision = node.apply(vec![webroot("web_a", &with(&[]))], vec![]);
    while node.report(&site).unwrap().revision < revision {
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(node.get("web_a", "/now.php").await.body, "96M");
    assert!(!long.is_finished());

    upload_page(&node, "web_a", "go", "");
    let answer = long.await.unwrap().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "finished under 128M"));
    node.until(&site, Phase::Ready, revision).await;
    assert_eq!(node.get("web_a", "/now.php").await.body, "128M");
    while node.php("web_a") != [first.clone()] {
        sleep(Duration::from_millis(10)).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sites_of_one_tenant_at_once_never_fail() {
    if missing("many_sites_of_one_tenant_at_once_never_fail") {
        return;
    }
    let folder = folder();
    let all: Vec<(String, m::Webroot)> = (0..12).map(|n| (format!("web_{n}"), with(&[]))).collect();
    let all: Vec<(&str, m::Webroot)> = all.iter().map(|(id, site)| (id.as_str(), site.clone())).collect();
    let node = sites(folder.path(), &all).await;
    let failed: Vec<_> =
        node.history.lock().unwrap().iter().filter(|(_, phase)| *phase == Phase::Failed).cloned().collect();
    assert!(failed.is_empty(), "{failed:?}");
    for (id, _) in &all {
        upload_page(&node, id, "index.php", "<?php echo basename(__DIR__);");
        assert_eq!(node.get(id, "/").await.body, *id);
    }
    node.stop().await;
}

fn form(host: &str, megabytes: usize) -> Vec<u8> {
    let mut body = b"--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\n".to_vec();
    body.resize(body.len() + (megabytes << 20), b'x');
    body.extend(b"\r\n--b--\r\n");
    let length = body.len();
    let mut request = format!(
        "POST /up.php HTTP/1.0\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    request.extend(body);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_have_one_limit_on_the_whole_way() {
    if missing("uploads_have_one_limit_on_the_whole_way") {
        return;
    }
    let folder = folder();
    let small = with(&[("upload_max_filesize", "1M"), ("post_max_size", "2M")]);
    let node = sites(folder.path(), &[("web_a", with(&[])), ("web_b", small)]).await;
    upload_page(
        &node,
        "web_a",
        "limits.php",
        "<?php echo ini_get('upload_max_filesize'), ' ', ini_get('post_max_size');",
    );
    assert_eq!(node.get("web_a", "/limits.php").await.body, "64M 72M");
    let page = "<?php echo $_FILES['f']['error'] ?? 'none', ' ', $_FILES['f']['size'] ?? 0;";
    for id in ["web_a", "web_b"] {
        upload_page(&node, id, "up.php", page);
    }
    let address = node.layout.listen[0];
    let sent = send(address, &form("web_a", 40)).await.unwrap();
    assert_eq!((sent.status, sent.body), (200, format!("0 {}", 40 << 20)));
    // Above PHP's limit for a file, below that for a form; then above both.
    let sent = send(address, &form("web_b", 1)).await.unwrap();
    assert_eq!((sent.status, sent.body), (200, format!("0 {}", 1 << 20)));
    assert_eq!(send(address, &form("web_b", 3)).await.unwrap().status, 413);
    change(&node, "web_b", &with(&[("upload_max_filesize", "3M")])).await;
    let sent = send(address, &form("web_b", 3)).await.unwrap();
    assert_eq!((sent.status, sent.body), (200, format!("0 {}", 3 << 20)));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_moves_a_link_is_seen_at_once() {
    if missing("a_deployment_that_moves_a_link_is_seen_at_once") {
        return;
    }
    let folder = folder();
    let site = m::Webroot { public_folder: "current/public".into(), ..with(&[]) };
    let node = sites(folder.path(), &[("web_a", site)]).await;
    let root = node.document_root("t_a", "web_a");
    for n in 1..=3 {
        let release = root.join(format!("releases/{n}"));
        let page =
            format!("<?php echo '{n} ', require __DIR__ . '/../lib.php', ' ', $_SERVER['DOCUMENT_ROOT'];");
        upload(&release.join("public/index.php"), &page);
        upload(&release.join("lib.php"), &format!("<?php return 'lib {n}';"));
    }
    std::fs::remove_dir_all(root.join("current")).unwrap();
    for n in 1..=3 {
        point(&root.join("current"), &format!("releases/{n}"));
        let document_root = root.join(format!("releases/{n}/public"));
        for path in ["/", "/some/route"] {
            let body = node.get("web_a", path).await.body;
            assert_eq!(body, format!("{n} lib {n} {}", document_root.display()));
        }
    }
    node.stop().await;
}

/// Makes a link, or moves it in one go, as deployments do.
fn point(link: &Path, target: &str) {
    let next = link.with_extension("next");
    std::os::unix::fs::symlink(target, &next).unwrap();
    std::fs::rename(next, link).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_below_the_document_root_is_seen_at_once_too() {
    if missing("a_link_below_the_document_root_is_seen_at_once_too") {
        return;
    }
    let folder = folder();
    let node = sites(folder.path(), &[("web_a", with(&[]))]).await;
    let root = node.document_root("t_a", "web_a");
    let at = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for n in 1..=2 {
        for (name, page) in [
            ("index.php", format!("<?php echo 'page {n}';")),
            ("lib.php", format!("<?php return 'lib {n}';")),
        ] {
            let file = root.join(format!("releases/{n}/{name}"));
            upload(&file, &page);
            // Neither time nor size tells one release from the other.
            std::fs::File::options().write(true).open(&file).unwrap().set_modified(at).unwrap();
        }
    }
    upload(&root.join("main.php"), "<?php echo require __DIR__ . '/app/lib.php';");
    for n in [1, 2, 1] {
        point(&root.join("app"), &format!("releases/{n}"));
        assert_eq!(node.get("web_a", "/app/index.php").await.body, format!("page {n}"));
        assert_eq!(node.get("web_a", "/main.php").await.body, format!("lib {n}"));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_php_did_not_end_is_cut() {
    if missing("an_answer_that_php_did_not_end_is_cut") {
        return;
    }
    let folder = folder();
    let mut quick = with(&[]);
    quick.php.as_mut().unwrap().request_seconds = 1;
    let node = sites(folder.path(), &[("web_a", quick)]).await;
    let begun = "header('X-Accel-Buffering: no'); echo str_repeat('x', 20000); while (ob_get_level()) ob_end_flush(); flush();";
    for (name, text) in [
        ("whole.php", format!("<?php {begun} echo 'end';")),
        ("dies.php", format!("<?php {begun} posix_kill(getmypid(), 9); sleep(9);")),
        ("late.php", format!("<?php {begun} while (true) usleep(100000);")),
        ("silent.php", "<?php while (true) usleep(100000);".to_owned()),
    ] {
        upload_page(&node, "web_a", name, &text);
    }
    let get = async |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: web_a\r\nConnection: close\r\n\r\n");
        send(node.layout.listen[0], request.as_bytes()).await.unwrap()
    };
    let answer = get("/whole.php").await;
    assert!(answer.status == 200 && answer.body.ends_with("0\r\n\r\n"), "{}", answer.head);
    for path in ["/dies.php", "/late.php"] {
        let answer = get(path).await;
        assert!(answer.head.contains("chunked") && answer.body.len() > 20_000, "{path}: {}", answer.head);
        assert!(!answer.body.ends_with("0\r\n\r\n"), "{path} passes for complete");
    }
    assert_eq!(get("/silent.php").await.status, 502);

    // What is flushed arrives, whatever comes later.
    let mut slow = tokio::net::TcpStream::connect(node.layout.listen[0]).await.unwrap();
    let script = format!(
        "<?php {} echo 'one'; flush(); {}",
        "header('X-Accel-Buffering: no'); while (ob_get_level()) ob_end_flush();",
        &WAITS[6..]
    );
    change(&node, "web_a", &with(&[])).await;
    upload_page(&node, "web_a", "slow.php", &script);
    slow.write_all(b"GET /slow.php HTTP/1.0\r\nHost: web_a\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\none") {
        assert_ne!(slow.read_buf(&mut seen).await.unwrap(), 0, "{:?}", String::from_utf8_lossy(&seen));
    }
    upload_page(&node, "web_a", "go", "");
    slow.read_to_end(&mut seen).await.unwrap();
    assert!(seen.ends_with(b"onefinished under 128M"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_code_of_the_sites_own() {
    if missing("sessions_and_code_of_the_sites_own") {
        return;
    }
    let folder = folder();
    let settings = [("session.save_path", "var/sessions"), ("auto_prepend_file", "first.php")];
    let node = sites(folder.path(), &[("web_a", with(&settings))]).await;
    upload_page(&node, "web_a", "first.php", "<?php echo 'first ';");
    upload_page(&node, "web_a", "index.php", "<?php session_start(); $_SESSION['a'] = 1; echo session_id();");
    let answer = node.get("web_a", "/").await.body;
    let id = answer.strip_prefix("first ").unwrap();
    let file = node.document_root("t_a", "web_a").join("var/sessions").join(format!("sess_{id}"));
    assert!(file.exists(), "{}", file.display());
    node.stop().await;
}

/// Looks for the neighbour's session by every spelling of its folder that a script can give.
const ATTACK: &str = r#"<?php ob_start();
$neighbour = dirname(__DIR__, 3) . '/t_b/tmp';
@symlink($neighbour, __DIR__ . '/link');
@symlink('../../../t_b/tmp', __DIR__ . '/relative');
$found = [];
foreach ([null, $neighbour, "0;$neighbour", "0;0600;$neighbour", "tcp://x;$neighbour", ";$neighbour", ";;$neighbour",
    "x;y;$neighbour", __DIR__ . '/../../../t_b/tmp', __DIR__ . '/link', __DIR__ . '/relative'] as $path) {
  if ($path !== null && @ini_set('session.save_path', $path) === false) continue;
  session_id('neighbourssession');
  if (@session_start() && isset($_SESSION['card'])) $found[] = ini_get('session.save_path');
  session_abort();
}
echo json_encode(['found' => $found, 'read' => @file_get_contents("$neighbour/sess_neighbourssession")]);
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbours_sessions_are_out_of_reach() {
    if missing("a_neighbours_sessions_are_out_of_reach") {
        return;
    }
    let folder = folder();
    let node = sites(folder.path(), &[("web_a", with(&[]))]).await;
    let revision = node.apply(vec![tenant("t_b", false), webroot("web_b", &php_webroot("t_b"))], vec![]);
    node.until(&key(Kind::Webroot, "web_b"), Phase::Ready, revision).await;
    let page =
        "<?php session_id('neighbourssession'); session_start(); $_SESSION['card'] = '4111'; echo 'set';";
    upload(&node.document_root("t_b", "web_b").join("index.php"), page);
    assert_eq!(node.get("web_b", "/").await.body, "set");
    let tmp = node.layout.roots.storage.join("t_b/tmp");
    assert!(tmp.join("sess_neighbourssession").exists());

    upload_page(&node, "web_a", "attack.php", ATTACK);
    for (n, path) in [tmp.display().to_string(), format!("0;{}", tmp.display())].into_iter().enumerate() {
        upload_page(
            &node,
            "web_a",
            &format!("own{n}/.user.ini"),
            &format!("session.save_path = \"{path}\"\n"),
        );
        upload_page(&node, "web_a", &format!("own{n}/attack.php"), ATTACK);
    }
    for path in ["/attack.php", "/own0/attack.php", "/own1/attack.php"] {
        assert_eq!(node.get("web_a", path).await.body, r#"{"found":[],"read":false}"#, "{path}");
    }
    node.stop().await;
}
