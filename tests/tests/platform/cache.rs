//! Pages that edges keep, from the site that allows it to a purge that is in effect everywhere.

use std::fs;

use serde_json::json;

use crate::certificates::fqdn_id;
use crate::harness::{Platform, machine_lacks_daemons};

/// Says another number each time, and that it may be kept.
const PAGE: &str = r#"<?php
header('Cache-Control: public, max-age=600');
header('Cache-Tag: page, number');
echo hrtime(true);
"#;

#[tokio::test]
async fn a_page_is_kept_until_its_tag_is_purged_at_every_edge() {
    if machine_lacks_daemons("a_page_is_kept_until_its_tag_is_purged_at_every_edge") {
        return;
    }
    let platform = Platform::start(&["--no-restart"]).await;
    let (tenant, webroot) = platform.site("acme-1002").await;
    let id = fqdn_id(&platform, "acme-1002", "guestbook.acme-hosting.test").await;
    let site = platform.data().join("storage").join(format!("{tenant}/webroots/{webroot}"));
    let folder = [site.join("public"), site].into_iter().find(|folder| folder.is_dir()).unwrap();
    fs::write(folder.join("number.php"), PAGE).unwrap();
    let number = async || {
        let (code, page) = platform.page("guestbook.acme-hosting.test", "number.php").await.unwrap();
        assert_eq!(code, 200, "{page}");
        page
    };
    assert_ne!(number().await, number().await, "without the policy nothing is kept");
    let path = format!("/fqdns/{id}?wait=served");
    let (code, answer) =
        platform.call("PUT", &path, Some(json!({"http": {"cache": {"enabled": true}}}))).await;
    assert_eq!(code, 200, "{answer}");
    let kept = number().await;
    assert_eq!(number().await, kept);

    let purge = |what: &[&str]| {
        let mut hostctl = platform.hostctl();
        hostctl.args(["purge-cache", "acme-1002", "--wait=served"]).args(what);
        let output = hostctl.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    purge(&["--tag", "something-else"]);
    assert_eq!(number().await, kept);
    purge(&["--tag", "number"]);
    let second = number().await;
    assert_ne!(second, kept, "when the command has ended no edge gives the former page");
    assert_eq!(number().await, second);
    purge(&["--host", "guestbook.acme-hosting.test"]);
    assert_ne!(number().await, second);
}
