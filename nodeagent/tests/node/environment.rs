//! What a site's scripts find in their environment, secrets among it.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use hosting_agent_engine::Phase;
use hosting_intent::{Key, Kind, audience_key_name, message as m, message::env_value::Value};
use hosting_intent_sync::sealing::{AudienceKey, Place};
use prost::Message;
use zeroize::Zeroizing;

use crate::support::{Node, audience, folder, key, layout, missing, php_webroot, tenant, upload, webroot};

const PAGE: &str = "<?php foreach (['A', 'B', 'EMPTY', 'PATH'] as $name) { echo $name, '=', json_encode(getenv($name)), \"\\n\"; }";

fn version() -> AudienceKey {
    AudienceKey::new(1, Zeroizing::new([7; 32]))
}

fn share(node: &Node) -> (Key, Vec<u8>) {
    let share = version().share(&audience(), node.pair.public()).unwrap();
    (Key::new(Kind::AudienceKey, audience_key_name(1, node.pair.public())), share.encode_to_vec())
}

/// A site with a text and a secret in its environment.
fn with(id: &str, a: &str, secret: &str) -> m::Webroot {
    let subject = key(Kind::Webroot, id);
    let place = Place { audience: &audience(), key: &subject, field: "env/B" };
    let sealed = version().seal(place, secret.as_bytes()).unwrap();
    let value = |value| m::EnvValue { value: Some(value) };
    let env = [
        ("A".to_owned(), value(Value::Plain(a.to_owned()))),
        ("B".to_owned(), value(Value::Sealed(sealed))),
        ("EMPTY".to_owned(), value(Value::Plain(String::new()))),
    ];
    m::Webroot { env: env.into(), ..php_webroot("t_a") }
}

async fn change(node: &Node, id: &str, site: &m::Webroot) {
    let revision = node.apply(vec![webroot(id, site)], vec![]);
    node.until(&key(Kind::Webroot, id), Phase::Ready, revision).await;
}

/// The files below a folder that hold a text.
fn holding(folder: &Path, text: &str, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            holding(&entry.path(), text, found);
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(entry.path());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_find_texts_and_secrets_and_a_change_disturbs_no_other_site() {
    if missing("scripts_find_texts_and_secrets_and_a_change_disturbs_no_other_site") {
        return;
    }
    let folder = folder();
    let node = Node::start(layout(folder.path(), "web-1"), folder.path());
    // Whatever a value holds: php-fpm's own words, quotes of either kind, the end of its line.
    let (odd, canary) = ("a'b\"c\\d ${HOME} $x ; # = [x] %äö\t\\", "canary-3f9c'\"\\ $1");
    let wanted = vec![
        share(&node),
        tenant("t_a", false),
        webroot("web_a", &with("web_a", odd, canary)),
        webroot("web_b", &with("web_b", "1", "2")),
    ];
    let revision = node.apply(wanted, vec![]);
    for id in ["web_a", "web_b"] {
        node.until(&key(Kind::Webroot, id), Phase::Ready, revision).await;
        upload(&node.document_root("t_a", id).join("env.php"), PAGE);
    }
    let found = |a: &str, b: &str| {
        let json = |text: &str| serde_json::to_string(text).unwrap().replace('/', "\\/");
        // PHP writes what is not ASCII as escapes; so it is compared as JSON.
        format!("A={}\nB={}\nEMPTY=false\nPATH=false\n", json(a), json(b))
    };
    let read = async |id: &str| node.get(id, "/env.php").await.body.replace("\\u00e4\\u00f6", "äö");
    assert_eq!(read("web_a").await, found(odd, canary));
    assert_eq!(read("web_b").await, found("1", "2"));

    let others = node.php("web_b");
    change(&node, "web_a", &with("web_a", "2", canary)).await;
    assert_eq!(read("web_a").await, found("2", canary));
    change(&node, "web_a", &with("web_a", "2", "canary-anew-77aa")).await;
    assert_eq!(read("web_a").await, found("2", "canary-anew-77aa"));
    assert_eq!(node.php("web_b"), others, "the other site's master is the same");

    // In files that only the agent reads, and in no argument.
    let mut files = Vec::new();
    holding(folder.path(), "canary-anew-77aa", &mut files);
    assert!(!files.is_empty());
    for file in files {
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!(metadata.mode() & 0o077, 0, "{} is open to others", file.display());
        assert_eq!(metadata.uid(), nix::unistd::geteuid().as_raw(), "{}", file.display());
    }
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&line).contains("canary-anew-77aa"), "{line:?}");
    }
    let report = node.report(&key(Kind::Webroot, "web_a")).unwrap();
    assert!(!format!("{report:?}").contains("canary"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_does_not_open_is_refused_and_the_site_stays_as_it_is() {
    if missing("a_secret_that_does_not_open_is_refused_and_the_site_stays_as_it_is") {
        return;
    }
    let folder = folder();
    let node = Node::start(layout(folder.path(), "web-1"), folder.path());
    let site = with("web_a", "1", "2");
    let refusal = node.refusal(&webroot("web_a", &site)).unwrap();
    assert!(refusal.contains("version 1 of the audience's key was not given"), "{refusal}");
    let revision = node.apply(vec![share(&node), tenant("t_a", false), webroot("web_a", &site)], vec![]);
    node.until(&key(Kind::Webroot, "web_a"), Phase::Ready, revision).await;
    // Another site's secret, moved here.
    let moved = m::Webroot { env: with("web_b", "1", "2").env, ..site };
    let refusal = node.refusal(&webroot("web_a", &moved)).unwrap();
    assert!(refusal.contains("env/B: it was not sealed for this reader in this place"), "{refusal}");
    node.stop().await;
}
