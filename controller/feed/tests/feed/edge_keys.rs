//! Who is given which edge key, and whose sealing keys are noted.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use hosting_intent::edge_key::ClusterEdgeKey;
use hosting_intent_sync::client::EdgeKeyStore;
use hosting_intent_sync::identity::unix_now;
use hosting_proto::feed::down::Frame;

use crate::raw::{Raw, channel};
use crate::support::{EDGE, Feed, KEK, Node, audience_of};

async fn given(feed: &Feed, node: &str, audience: &str) -> Vec<u8> {
    let now = unix_now();
    let certificate = Some((node, now - 60, now + 600));
    let channel = channel(feed.address, &feed.handle.authorities(), certificate).await.unwrap();
    match Raw::open(channel, audience, None).await.unwrap().next().await.unwrap().unwrap() {
        Frame::Welcome(welcome) => welcome.edge_key.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_subscriber_is_given_the_key_of_its_own_and_no_other() {
    let feed = Feed::start().await;
    feed.registry.add("edge-1", &["lb"]);
    feed.registry.add("edge-2", &["lb"]);
    feed.registry.add("web-1", &["web", "dns"]);
    feed.registry.add("web-2", &["web"]);
    for elsewhere in ["edge-2", "web-2"] {
        feed.registry.nodes.lock().unwrap().get_mut(elsewhere).unwrap().cluster_id = "c2".into();
    }
    let (one, two) = (ClusterEdgeKey::derive(&KEK, "c1"), ClusterEdgeKey::derive(&KEK, "c2"));
    assert_eq!(given(&feed, "edge-1", EDGE).await, one.as_bytes());
    assert_eq!(given(&feed, "edge-2", "edge/c2").await, two.as_bytes());
    assert_eq!(given(&feed, "web-1", "node/web-1").await, one.for_node("web-1").as_bytes());
    assert_eq!(given(&feed, "web-2", "node/web-2").await, two.for_node("web-2").as_bytes());
    assert_eq!(given(&feed, "web-1", "dns/default").await, [0_u8; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_on_disk_for_a_start_without_the_controller_and_not_in_the_ledger() {
    let feed = Feed::start().await;
    feed.registry.add("web-1", &["web"]);
    let dir = tempfile::tempdir().unwrap();
    let identity = feed.enrol("web-1", dir.path()).await.unwrap();
    let node = Node::start(&identity, "node/web-1", dir.path());
    node.until("connected", |status| status.as_ref().is_some_and(|s| s.position.is_some())).await;
    node.stop().await;
    feed.stop().await;
    let key = ClusterEdgeKey::derive(&KEK, "c1").for_node("web-1");
    let path = dir.path().join("edge.key");
    assert_eq!(fs::read(&path).unwrap(), key.as_bytes());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(EdgeKeyStore::load(dir.path()).get().unwrap().as_bytes(), key.as_bytes());
    let ledger = fs::read(dir.path().join("node-web-1.redb")).unwrap();
    assert!(!ledger.windows(32).any(|window| window == key.as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealing_key_is_noted_for_who_may_subscribe_before_anything_is_sent() {
    let feed = Feed::start().await;
    feed.registry.add("edge-1", &["lb"]);
    feed.registry.add("web-1", &["web"]);
    let now = unix_now();
    let say = async |node: &str, audience: &str, key: &[u8]| {
        let certificate = Some((node, now - 60, now + 600));
        let channel = channel(feed.address, &feed.handle.authorities(), certificate).await.unwrap();
        let key = bytes::Bytes::copy_from_slice(key);
        match Raw::open_reading(channel, audience, key).await {
            Ok(mut session) => session.next().await.map(drop),
            Err(status) => Err(status),
        }
    };
    let noted = || feed.registry.readers.lock().unwrap().clone();
    say("edge-1", EDGE, &[7; 32]).await.unwrap();
    let known = std::collections::BTreeMap::from([((audience_of(EDGE), "edge-1".to_owned()), [7; 32])]);
    assert_eq!(noted(), known);
    // Without one, of a wrong length, for an audience of others.
    say("edge-1", EDGE, &[]).await.unwrap();
    for wrong in [&[7; 31][..], &[7; 33]] {
        let refused = say("edge-1", EDGE, wrong).await.unwrap_err();
        assert!(refused.message().contains("sealing_key"), "{refused:?}");
    }
    say("web-1", EDGE, &[8; 32]).await.unwrap_err();
    assert_eq!(noted(), known);
}
