//! What becomes of customers' data.

use hosting_agent_engine::Phase;
use hosting_intent::Kind;

use crate::support::{
    Node, folder, key, layout, missing, php_webroot, retire, static_webroot, tenant, upload, webroot,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_merely_missing_is_detached_kept_and_an_orphan() {
    if missing("a_site_that_is_merely_missing_is_detached_kept_and_an_orphan") {
        return;
    }
    let folder = folder();
    let node = Node::start(layout(folder.path(), "web-1"), folder.path());
    let (site, owner) = (key(Kind::Webroot, "web_a"), key(Kind::Tenant, "t_a"));
    let revision = node.apply(vec![tenant("t_a", false), webroot("web_a", &php_webroot("t_a"))], vec![]);
    node.until(&site, Phase::Ready, revision).await;
    let index = node.document_root("t_a", "web_a").join("index.php");
    upload(&index, "<?php echo 'precious';");

    // A store that was put back no longer knows either.
    node.apply(vec![], vec![site.clone(), owner.clone()]);
    let report = node.until(&site, Phase::Orphan, 0).await;
    assert!(report.revision == 0 && report.message.contains("incarnation 12"), "{report:?}");
    node.until(&owner, Phase::Orphan, 0).await;
    assert_eq!(node.get("web_a", "/").await.status, 421);
    assert!(index.exists());
    node.stop().await;

    // The next agent finds it as well, and gives it back when it is wanted again.
    let node = Node::start(layout(folder.path(), "web-1"), folder.path());
    node.apply(vec![], vec![]);
    node.until(&site, Phase::Orphan, 0).await;
    let revision = node.apply(vec![tenant("t_a", false), webroot("web_a", &php_webroot("t_a"))], vec![]);
    node.until(&site, Phase::Ready, revision).await;
    assert_eq!(node.get("web_a", "/").await.body, "precious");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retire_destroys_its_own_incarnation_once_with_two_nodes_on_one_storage() {
    if missing("a_retire_destroys_its_own_incarnation_once_with_two_nodes_on_one_storage") {
        return;
    }
    let folder = folder();
    let nodes = ["web-1", "web-2"].map(|name| Node::start(layout(folder.path(), name), folder.path()));
    let site = key(Kind::Webroot, "web_a");
    let neighbour = key(Kind::Webroot, "web_b");
    for node in &nodes {
        let revision = node.apply(
            vec![
                tenant("t_a", false),
                webroot("web_a", &php_webroot("t_a")),
                webroot("web_b", &static_webroot("t_a")),
            ],
            vec![],
        );
        node.until(&site, Phase::Ready, revision).await;
        node.until(&neighbour, Phase::Ready, revision).await;
    }
    let root = nodes[0].document_root("t_a", "web_a");
    upload(&root.join("index.php"), "<?php echo 'one';");
    upload(&root.join("a/b/c/d.txt"), "deep");
    upload(&nodes[0].document_root("t_a", "web_b").join("index.html"), "neighbour");
    for node in &nodes {
        assert_eq!(node.get("web_a", "/").await.body, "one");
    }

    // Another incarnation is not touched, whoever is asked to destroy it.
    let order = retire(Kind::Webroot, "web_a", "t_a", 10);
    let order_key = order.0.clone();
    let revision = nodes[0].apply(vec![order], vec![]);
    nodes[0].until(&order_key, Phase::Retired, revision).await;
    assert_eq!(nodes[0].get("web_a", "/").await.body, "one");

    // The right one, at both nodes at once, while it is still wanted: nothing happens.
    let revision = nodes[0].apply(vec![retire(Kind::Webroot, "web_a", "t_a", 12)], vec![]);
    let report = nodes[0].until(&order_key, Phase::Blocked, revision).await;
    assert!(report.message.contains("still wanted"), "{report:?}");
    assert_eq!(nodes[0].get("web_a", "/").await.body, "one");

    for node in &nodes {
        node.apply(vec![retire(Kind::Webroot, "web_a", "t_a", 12)], vec![site.clone()]);
    }
    for node in &nodes {
        node.until(&order_key, Phase::Retired, 0).await;
        node.until_gone(&site).await;
        assert_eq!(node.get("web_a", "/").await.status, 421);
        assert_eq!(node.get("web_b", "/").await.body, "neighbour");
        // Nobody was told that the data is an orphan on its way out.
        assert!(!node.history.lock().unwrap().contains(&(site.to_string(), Phase::Orphan)));
    }
    assert!(!root.exists());
    let trash = nodes[0].layout.roots.storage.join(".hosting/trash");
    assert_eq!(std::fs::read_dir(trash).unwrap().count(), 0);

    // The name anew, in its next life, while the old order still stands.
    let again = hosting_intent::message::Webroot { incarnation: 77, ..static_webroot("t_a") };
    for node in &nodes {
        let revision = node.apply(vec![webroot("web_a", &again)], vec![]);
        node.until(&site, Phase::Ready, revision).await;
    }
    upload(&root.join("index.html"), "two");
    for node in &nodes {
        let revision = node.apply(vec![retire(Kind::Webroot, "web_a", "t_a", 12)], vec![]);
        node.until(&order_key, Phase::Retired, revision).await;
        assert_eq!(node.get("web_a", "/").await.body, "two");
    }

    // The whole tenant: not before its sites are withdrawn.
    let order = retire(Kind::Tenant, "t_a", "t_a", 11);
    let order_key = order.0.clone();
    let revision = nodes[0].apply(vec![order.clone()], vec![key(Kind::Tenant, "t_a")]);
    let report = nodes[0].until(&order_key, Phase::Blocked, revision).await;
    assert!(report.message.contains("webroot/web_"), "{report:?}");
    for node in &nodes {
        node.apply(vec![order.clone()], vec![site.clone(), neighbour.clone(), key(Kind::Tenant, "t_a")]);
    }
    for node in &nodes {
        node.until(&order_key, Phase::Retired, 0).await;
        for gone in [&site, &neighbour, &key(Kind::Tenant, "t_a")] {
            node.until_gone(gone).await;
        }
        assert!(!node.layout.roots.logs.join("t_a").exists());
    }
    let storage = &nodes[0].layout.roots.storage;
    assert!(!storage.join("t_a").exists());
    assert_eq!(std::fs::read_dir(storage.join(".hosting/incarnations")).unwrap().count(), 0);
    for node in nodes {
        node.stop().await;
    }
}
