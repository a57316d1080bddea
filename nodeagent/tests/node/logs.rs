//! Logs: who reads them, when they are closed, and that they stop nobody.

use std::{
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use crate::support::{LOGS, Node, folder, layout, missing, php_webroot, static_webroot, upload};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn bytes(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|stat| stat.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn full_logs_are_closed_and_the_last_ones_kept() {
    if missing("full_logs_are_closed_and_the_last_ones_kept") {
        return;
    }
    let folder = folder();
    let sites = [("web_s", static_webroot("t_a")), ("web_p", php_webroot("t_a"))];
    let node = Node::with_sites(layout(folder.path(), "web-1"), folder.path(), &sites).await;
    let logs = &node.layout.roots.logs;
    let access = logs.join("nginx/access.log");
    let numbered = |number: u32| logs.join(format!("nginx/access.log.{number}"));
    assert_eq!((mode(&access), mode(&logs.join("nginx/error.log"))), (0o640, 0o640));
    assert_eq!(mode(&logs.join("nginx")), 0o750);

    // Nothing is full, so nothing moves.
    node.rotation.lock().await.look().await.unwrap();
    assert_eq!(bytes(&numbered(1)), None);
    for round in 0..4 {
        let began = format!("round-{round}-begins");
        node.get("web_s", &format!("/{began}")).await;
        while bytes(&access).unwrap() < LOGS.bytes {
            node.get("web_s", &format!("/{}", "long".repeat(200))).await;
        }
        node.rotation.lock().await.look().await.unwrap();
        assert_eq!((bytes(&access), mode(&access), mode(&numbered(1))), (Some(0), 0o640, 0o640));
        assert!(std::fs::read_to_string(numbered(1)).unwrap().contains(&began));
        // The new one is in use at once.
        node.get("web_s", "/after").await;
        assert!(std::fs::read_to_string(&access).unwrap().contains("/after"), "{round}");
    }
    assert!(bytes(&numbered(2)).is_some_and(|size| size >= LOGS.bytes));
    assert_eq!(bytes(&numbered(3)), None);

    // A tenant's log has a bound of its own, and its scripts write on.
    upload(
        &node.document_root("t_a", "web_p").join("index.php"),
        "<?php error_log(str_repeat('e', 900)); echo 'ok';",
    );
    let errors = logs.join("t_a/php-error.log");
    while bytes(&errors).unwrap_or_default() < LOGS.tenant_bytes {
        assert_eq!(node.get("web_p", "/").await.body, "ok");
    }
    let before = mode(&errors);
    node.rotation.lock().await.look().await.unwrap();
    assert_eq!((bytes(&errors), mode(&errors)), (Some(0), before));
    assert_eq!(node.get("web_p", "/").await.body, "ok");
    assert!(bytes(&errors).is_some_and(|size| size > 900));

    // A log that an older version of the agent, or somebody by hand, made readable is closed to others again.
    std::fs::set_permissions(&access, std::fs::Permissions::from_mode(0o644)).unwrap();
    while mode(&access) != 0o640 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(bytes(&access).unwrap() > 0, "its content stays");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_for_logs_stops_no_site() {
    if missing("a_full_disk_for_logs_stops_no_site") {
        return;
    }
    let folder = folder();
    let layout = layout(folder.path(), "web-1");
    // Every write to it fails for want of space (full(4)).
    std::fs::create_dir_all(layout.roots.logs.join("nginx")).unwrap();
    for log in ["access.log", "error.log"] {
        symlink("/dev/full", layout.roots.logs.join("nginx").join(log)).unwrap();
    }
    let sites = [("web_s", static_webroot("t_a")), ("web_p", php_webroot("t_a"))];
    let node = Node::with_sites(layout, folder.path(), &sites).await;
    upload(&node.document_root("t_a", "web_s").join("index.html"), "static");
    upload(&node.document_root("t_a", "web_p").join("index.php"), "<?php echo 'dynamic';");
    for _ in 0..20 {
        assert_eq!(node.get("web_s", "/").await.body, "static");
        assert_eq!(node.get("web_p", "/").await.body, "dynamic");
    }
    node.rotation.lock().await.look().await.unwrap();
    node.until_ready().await;
    assert!(node.layout.roots.logs.join("nginx/access.log").is_symlink());
    node.stop().await;
}
