//! Fed by a real subscriber with a real ledger.

use std::path::Path;
use std::time::{Duration, Instant};

use hosting_edge::EdgeReplica;
use hosting_intent::message::{PoolNode, Route, ShardPool};
use hosting_intent::{Bytes, Cause, Digest, EdgeIntent, Item, Key, Kind, RoleIntent};
use hosting_intent_sync::client::KeysWatch;
use hosting_intent_sync::item_to_wire;
use hosting_intent_sync::subscriber::{Brake, Config, Strict, Subscriber};
use hosting_ledger::Ledger;
use hosting_proto::feed::down::Frame;
use hosting_proto::feed::{self as wire, Down};
use prost::Message;

use crate::harness::{Edge, Node, settings};

/// The replica, as the client has it.
type Watched = KeysWatch<EdgeReplica>;

fn item(key: Key, value: Vec<u8>) -> Item {
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
    Item { key, revision: 7, value: Bytes::from(value), cause: Cause::Person, traceparent, rollout: 0 }
}

fn route(fqdn: &str, webroot: &str) -> Item {
    let route = Route {
        tenant_id: "t_a".into(),
        webroot_id: webroot.into(),
        shard_id: "s1".into(),
        may_upgrade: true,
        http: None,
    };
    item(Key::new(Kind::Route, fqdn), route.encode_to_vec())
}

fn pool(id: &str, address: String) -> Item {
    let nodes = vec![PoolNode { node_id: "n1".into(), addresses: vec![address], in_service: true }];
    item(Key::new(Kind::ShardPool, id), ShardPool { name: "shard-1".into(), nodes }.encode_to_vec())
}

fn subscriber(folder: &Path, replica: Watched) -> Subscriber<Ledger, Watched, Strict> {
    let ledger = Ledger::open(folder.join("ledger.redb"), "edge/c1").unwrap();
    let config = Config {
        audience: "edge/c1".parse().unwrap(),
        build: "test".into(),
        kinds: EdgeIntent::KINDS.to_vec(),
        brake: Brake::default(),
    };
    Subscriber::open(config, ledger, replica).unwrap()
}

fn snapshot(items: &[Item]) -> Vec<Down> {
    [
        Frame::Welcome(wire::Welcome {
            epoch: "e1".into(),
            head: 7,
            heartbeat_ms: 1_000,
            lease_ms: 15_000,
            ..wire::Welcome::default()
        }),
        Frame::SnapshotBegin(wire::SnapshotBegin { epoch: "e1".into(), base: 7 }),
        Frame::SnapshotItems(wire::SnapshotItems { items: items.iter().map(item_to_wire).collect() }),
        Frame::SnapshotEnd(wire::SnapshotEnd {
            revision: 7,
            count: items.len() as u64,
            digest: Bytes::copy_from_slice(&Digest::of(items).to_bytes()),
            ..wire::SnapshotEnd::default()
        }),
    ]
    .map(|frame| Down { frame: Some(frame) })
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_left_out_and_a_restart_without_a_controller_serves_from_the_ledger() {
    let node = Node::start("node-1").await;
    let items = [
        pool("s1", node.address.to_string()),
        route("www.example.com", "web_a"),
        // Everything below is refused one by one.
        route(&"a".repeat(300), "web_a"),
        route("UPPER.example.com", "web_a"),
        route("evil.example.com", "web/../.."),
        pool("s2", "127.0.0.1:0".into()),
        item(Key::new(Kind::Route, "garbage.example.com"), vec![0xff; 40]),
        item(Key::new(Kind::Zone, "example.com"), Vec::new()),
        item(Key { kind: 4_711, name: "later".into() }, vec![1, 2, 3]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let hosts = &["www.example.com", "evil.example.com"];

    let mut edge = Edge::unloaded(settings());
    let mut first = subscriber(folder.path(), edge.take_replica());
    first.hello();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(tokio::net::TcpStream::connect(edge.http).await.is_err(), "no ledger and no snapshot: closed");
    for frame in snapshot(&items) {
        first.on_frame(frame, Instant::now()).unwrap();
    }
    edge.open().await;
    assert_eq!((first.status().effective, first.exceptions().count()), (2, 7));
    let client = edge.client(hosts);
    assert_eq!(client.get(edge.url("www.example.com", "/")).send().await.unwrap().status(), 200);
    assert_eq!(client.get(edge.url("evil.example.com", "/")).send().await.unwrap().status(), 404);
    assert_eq!(edge.metric("hosting_edge_applied_revision"), 7);
    first.flush(Instant::now());
    drop((first, edge));

    let mut edge = Edge::unloaded(settings());
    let second = subscriber(folder.path(), edge.take_replica());
    edge.open().await;
    assert_eq!(second.exceptions().count(), 7);
    let client = edge.client(hosts);
    for url in [edge.url("www.example.com", "/"), edge.tls_url("www.example.com", "/")] {
        let response = client.get(url).send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["x-shard"]),
            (200, &"shard-1".parse().unwrap())
        );
    }
}
