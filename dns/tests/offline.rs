//! From the feed's frames through the ledger to answers, and again from the ledger alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

#[path = "../zone/tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use hosting_dns::metrics::Metrics;
use hosting_dns::replica::DnsReplica;
use hosting_dns_zone::{Writer, Zones, rcode};
use hosting_intent::{Cause, Digest, DnsIntent, Item as FeedItem, Key, Kind, Rejection, RoleIntent};
use hosting_intent_sync::item_to_wire;
use hosting_intent_sync::subscriber::{Brake, Config, Strict, Subscriber};
use hosting_ledger::Ledger;
use hosting_proto::feed as wire;
use hosting_scaffold::admin::Metrics as Registry;
use prost::Message;
use support::*;
use wire::down::Frame;

const Z: &str = "example.com";

type Feed = Subscriber<Ledger, DnsReplica, Strict>;

fn open(folder: &Path) -> (Feed, Zones, Registry) {
    let registry = Registry::new();
    let writer = Writer::new();
    let zones = writer.zones();
    let replica = DnsReplica::new(writer, Metrics::new(&registry, zones.clone()));
    let config = Config {
        audience: "dns/default".parse().unwrap(),
        build: "test".into(),
        kinds: DnsIntent::KINDS.to_vec(),
        brake: Brake::default(),
    };
    let ledger = Ledger::open(folder.join("ledger.redb"), "dns/default").unwrap();
    (Subscriber::open(config, ledger, replica).unwrap(), zones, registry)
}

fn feed_item((key, intent): &Item, revision: u64) -> FeedItem {
    let value = match intent {
        DnsIntent::Zone(zone) => zone.encode_to_vec(),
        DnsIntent::RrSet(set) => set.encode_to_vec(),
        DnsIntent::AddressSet(set) => set.encode_to_vec(),
        other => panic!("{other:?}"),
    };
    FeedItem {
        key: key.clone(),
        revision,
        value: Bytes::from(value),
        cause: Cause::Person,
        traceparent: String::new(),
        rollout: 0,
    }
}

fn send(feed: &mut Feed, frame: Frame) {
    feed.on_frame(wire::Down { frame: Some(frame) }, Instant::now()).unwrap();
}

#[test]
fn a_restart_serves_what_the_ledger_holds() {
    let folder = tempfile::tempdir().unwrap();
    let items = [
        zone(Z, 7),
        rrset(Z, "www.example.com", "A", &["192.0.2.1"]),
        rrset(Z, "bad.example.com", "A", &["no address"]),
        rrset(Z, "example.com", "CNAME", &["elsewhere.example."]),
        auto(Z, "app.example.com", "A", "c1"),
        address_set("c1", &["203.0.113.1"], &[]),
    ];
    let items: Vec<FeedItem> = items.iter().map(|item| feed_item(item, 5)).collect();
    {
        let (mut feed, zones, registry) = open(folder.path());
        assert!(feed.replica().applied().borrow().is_none(), "nothing is known yet");
        feed.hello();
        send(&mut feed, Frame::Welcome(wire::Welcome { epoch: "e1".into(), head: 5, ..Default::default() }));
        send(&mut feed, Frame::SnapshotBegin(wire::SnapshotBegin { epoch: "e1".into(), base: 5 }));
        let wired = items.iter().map(item_to_wire).collect();
        send(&mut feed, Frame::SnapshotItems(wire::SnapshotItems { items: wired }));
        assert_eq!(ask(&zones, "www.example.com", "A").rcode, rcode::REFUSED, "half a snapshot is nothing");
        let (count, digest) = (items.len() as u64, Bytes::copy_from_slice(&Digest::of(&items).to_bytes()));
        send(
            &mut feed,
            Frame::SnapshotEnd(wire::SnapshotEnd { revision: 5, count, digest, ..Default::default() }),
        );
        assert_eq!(ask(&zones, "www.example.com", "A").answers.len(), 1);
        assert_eq!(ask(&zones, "app.example.com", "A").answers.len(), 1);
        assert_eq!(ask(&zones, "bad.example.com", "A").rcode, rcode::NXDOMAIN);
        let rejected: Vec<String> =
            feed.exceptions().map(|(key, why)| format!("{key}: {}", why.reason)).collect();
        assert_eq!(rejected.len(), 2, "{rejected:?}");
        assert!(rejected.iter().any(|line| line.contains("bad.example.com") && line.contains("no address")));
        assert!(rejected.iter().any(|line| line.contains("apex")));
        // A change whose new data is absurd leaves the old in effect; its neighbour goes on.
        let changes = [
            rrset(Z, "www.example.com", "A", &["192.0.2.300"]),
            rrset(Z, "new.example.com", "A", &["192.0.2.9"]),
        ];
        let upserts = changes.iter().map(|item| item_to_wire(&feed_item(item, 6))).collect();
        send(&mut feed, Frame::Delta(wire::Delta { prev: 5, revision: 6, upserts, ..Default::default() }));
        feed.flush(Instant::now());
        assert_eq!(ask(&zones, "www.example.com", "A").answers.first().unwrap().3, "192.0.2.1");
        assert_eq!(ask(&zones, "new.example.com", "A").answers.len(), 1);
        assert!(registry.encode().contains("hosting_dns_applied_revision 6"));
    }
    let (feed, zones, registry) = open(folder.path());
    assert_eq!(*feed.replica().applied().borrow(), Some(("e1".into(), 6)));
    for name in ["www.example.com", "app.example.com", "new.example.com"] {
        assert_eq!(ask(&zones, name, "A").answers.len(), 1, "{name}");
    }
    assert_eq!(ask(&zones, "bad.example.com", "A").rcode, rcode::NXDOMAIN);
    assert!(registry.encode().contains("hosting_dns_zones 1"));
}

#[test]
fn kinds_of_other_roles_are_not_applied() {
    let route = hosting_intent::message::Route { tenant_id: "t_a".into(), ..Default::default() };
    let (key, value) = (Key::new(Kind::Route, "www.example.com"), route.encode_to_vec());
    assert!(hosting_intent::Intent::parse(&key, &value).is_ok());
    assert_eq!(DnsIntent::parse(&key, &value), Err(Rejection::UnknownKind("route".into())));
}
