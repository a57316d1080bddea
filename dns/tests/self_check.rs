//! The server asks its own listeners for what it applied.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

#[path = "../zone/tests/support/mod.rs"]
mod support;

use std::time::Duration;

use hosting_dns::metrics::Metrics;
use hosting_dns::replica::DnsReplica;
use hosting_dns::self_check::DnsSelfCheck;
use hosting_dns::server::Server;
use hosting_dns::settings::Settings;
use hosting_dns_zone::Writer;
use hosting_intent::{Cause, Item as Stored, Key, Kind, Removal};
use hosting_intent_sync::self_check::SelfCheck;
use hosting_intent_sync::{Batch, Replica};
use hosting_scaffold::admin::Metrics as Registry;
use support::*;

const Z: &str = "example.com";

struct Running {
    server: Option<Server>,
    replica: DnsReplica,
    check: DnsSelfCheck,
    revision: u64,
}

impl Running {
    fn start() -> Self {
        let writer = Writer::new();
        let zones = writer.zones();
        let registry = Registry::new();
        let metrics = Metrics::new(&registry, zones.clone());
        let replica = DnsReplica::new(writer, metrics.clone());
        let settings = Settings {
            listen: vec!["127.0.0.1:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap()],
            threads: 1,
            ..Settings::default()
        };
        let server = Server::start(&settings, zones, &metrics, &tokio::runtime::Handle::current()).unwrap();
        let check = replica.self_check().at(server.addresses(), 0);
        Self { server: Some(server), replica, check, revision: 0 }
    }

    fn publish(&mut self, items: &[Item], gone: &[Key]) {
        self.revision += 1;
        let upserts = items.iter().map(|(key, intent)| (stored(key), intent.clone())).collect();
        let removals = gone.iter().map(|key| Removal {
            key: key.clone(),
            cause: Cause::Person,
            traceparent: String::new(),
            rollout: 0,
        });
        let removals = removals.collect();
        self.replica.publish(Batch {
            epoch: "e".into(),
            revision: self.revision,
            upserts,
            removals,
            more: false,
        });
    }

    async fn says(&self, (key, intent): &Item) -> Result<(), String> {
        self.check.check(key, Some(intent)).await
    }

    async fn says_gone(&self, key: &Key) -> Result<(), String> {
        self.check.check(key, None).await
    }
}

fn stored(key: &Key) -> Stored {
    Stored {
        key: key.clone(),
        revision: 1,
        value: hosting_intent::Bytes::new(),
        cause: Cause::Person,
        traceparent: String::new(),
        rollout: 0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_is_what_every_listener_answers() {
    let mut dns = Running::start();
    let first = [
        offset(7),
        address_set("c1", &["192.0.2.1"], &["2001:db8::1"]),
        zone(Z, 10),
        rrset(Z, "example.com", "NS", &["ns9.elsewhere.example."]),
        rrset(Z, "example.com", "MX", &["10 mail.example.com."]),
        rrset(Z, "www.example.com", "A", &["192.0.2.80", "192.0.2.81"]),
        rrset(Z, "*.wild.example.com", "TXT", &["\"any\""]),
        rrset(Z, "alias.example.com", "CNAME", &["www.example.com."]),
        rrset(Z, "sub.example.com", "NS", &["ns1.elsewhere.example."]),
        rrset(Z, "_sip._tcp.example.com", "SRV", &["1 2 5060 www.example.com."]),
        auto(Z, "shop.example.com", "A", "c1"),
        auto(Z, "shop.example.com", "AAAA", "c1"),
    ];
    dns.publish(&first, &[]);
    for item in &first {
        assert_eq!(dns.says(item).await, Ok(()), "{}", item.0);
    }
    // Each of them changed: only the new version passes.
    let second = [
        zone(Z, 11),
        rrset(Z, "example.com", "NS", &["ns8.elsewhere.example."]),
        rrset(Z, "example.com", "MX", &["20 mail.example.com."]),
        rrset(Z, "www.example.com", "A", &["192.0.2.80"]),
        rrset(Z, "*.wild.example.com", "TXT", &["\"some\""]),
        rrset(Z, "alias.example.com", "CNAME", &["shop.example.com."]),
        rrset(Z, "sub.example.com", "NS", &["ns2.elsewhere.example."]),
        rrset(Z, "_sip._tcp.example.com", "SRV", &["1 2 5061 www.example.com."]),
    ];
    for item in &second {
        let wrong = dns.says(item).await.unwrap_err();
        assert!(wrong.starts_with("udp 127.0.0.1:") && wrong.contains(" answers "), "{wrong}");
        dns.publish(std::slice::from_ref(item), &[]);
        assert_eq!(dns.says(item).await, Ok(()), "{}", item.0);
    }
    let moved = address_set("c1", &["192.0.2.2"], &[]);
    dns.publish(&[moved.clone(), offset(8)], &[]);
    assert_eq!(dns.says(&moved).await, Ok(()));
    assert_eq!(dns.says(&second[0]).await, Ok(()), "the serial moved with the offset");

    let www = rr_key(Z, "www.example.com", "A");
    assert!(dns.says_gone(&www).await.unwrap_err().ends_with("still answers www.example.com A"));
    dns.publish(&[], std::slice::from_ref(&www));
    assert_eq!(dns.says_gone(&www).await, Ok(()));
    assert!(dns.says(&second[3]).await.unwrap_err().contains("no such record"));
    let zone_key = Key::new(Kind::Zone, Z);
    assert!(dns.says_gone(&zone_key).await.unwrap_err().ends_with("still has the zone example.com"));
    dns.publish(&[], std::slice::from_ref(&zone_key));
    assert_eq!(dns.says_gone(&zone_key).await, Ok(()));
    dns.server.take().unwrap().drain(Duration::from_secs(5)).await;
}

/// HTTPS records that come with addresses are asked for too: by the item that says that they do, and by the cluster's.
#[tokio::test(flavor = "multi_thread")]
async fn what_addresses_bring_along_is_asked_for() {
    let mut dns = Running::start();
    let shop = auto_https(Z, "shop.example.com", "A", "c1");
    let spoken = spoken_to("c1", &["192.0.2.1"], &[], &["1 . alpn=h3,h2"]);
    dns.publish(&[zone(Z, 1), spoken.clone(), shop.clone()], &[]);
    assert_eq!((dns.says(&shop).await, dns.says(&spoken).await), (Ok(()), Ok(())));
    // The server has an older item: the addresses are right, and their HTTPS records are missing.
    let older = auto(Z, "shop.example.com", "A", "c1");
    dns.publish(std::slice::from_ref(&older), &[]);
    let missing = dns.says(&shop).await.unwrap_err();
    assert!(
        missing.contains("answers shop.example.com HTTPS with") && missing.contains("no such"),
        "{missing}"
    );
    assert_eq!(dns.says(&older).await, Ok(()));
    // One of the zone's own in their place is right, and that they are back when it is gone.
    let own = rrset(Z, "shop.example.com", "HTTPS", &["1 cdn.example.net. alpn=h2"]);
    dns.publish(&[shop.clone(), own.clone()], &[]);
    assert_eq!((dns.says(&shop).await, dns.says(&own).await), (Ok(()), Ok(())));
    dns.publish(&[], std::slice::from_ref(&own.0));
    assert_eq!((dns.says(&shop).await, dns.says_gone(&own.0).await), (Ok(()), Ok(())));
    assert!(dns.says(&own).await.is_err());
    dns.server.take().unwrap().drain(Duration::from_secs(5)).await;
}

/// What the rules of DNS hide is served as the zone as a whole says.
#[tokio::test(flavor = "multi_thread")]
async fn what_other_data_hides_is_not_taken_for_missing() {
    let mut dns = Running::start();
    let hidden = [
        rrset(Z, "deep.sub.example.com", "A", &["192.0.2.5"]),
        rrset(Z, "both.example.com", "CNAME", &["www.example.com."]),
        rrset(Z, "in.child.example.com", "A", &["192.0.2.6"]),
    ];
    let others = [
        zone(Z, 1),
        rrset(Z, "sub.example.com", "NS", &["ns1.elsewhere.example."]),
        rrset(Z, "both.example.com", "A", &["192.0.2.7"]),
        zone("child.example.com", 1),
        rrset(Z, "*.example.com", "A", &["192.0.2.9"]),
    ];
    dns.publish(&hidden, &[]);
    dns.publish(&others, &[]);
    for item in hidden.iter().chain(&others) {
        assert_eq!(dns.says(item).await, Ok(()), "{}", item.0);
    }
    // A wildcard answers in the place of a name that is gone.
    let gone = rrset(Z, "gone.example.com", "A", &["192.0.2.8"]);
    dns.publish(std::slice::from_ref(&gone), &[]);
    assert!(dns.says_gone(&gone.0).await.is_err());
    dns.publish(&[], std::slice::from_ref(&gone.0));
    assert_eq!(dns.says_gone(&gone.0).await, Ok(()));
    dns.server.take().unwrap().drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_table_and_a_dead_listener_are_named() {
    let (mut dns, mut other) = (Running::start(), Running::start());
    let items = [zone(Z, 1), rrset(Z, "www.example.com", "A", &["192.0.2.80"])];
    other.publish(&items, &[]);
    assert_eq!(other.says(&items[1]).await, Ok(()));
    // The table that is written is not the one that these listeners read.
    let stale = dns.check.check(&items[1].0, Some(&items[1].1)).await.unwrap_err();
    assert!(stale.contains("Query Refused"), "{stale}");
    dns.publish(&items, &[]);
    assert_eq!(dns.says(&items[1]).await, Ok(()));
    let address = dns.server.as_ref().unwrap().addresses()[0];
    dns.server.take().unwrap().drain(Duration::from_secs(5)).await;
    let dead = dns.says(&items[1]).await.unwrap_err();
    assert!(dead.starts_with(&format!("udp {address}: ")), "{dead}");
}

#[test]
fn every_type_that_is_served_can_be_asked_for() {
    // Queries for zones and for everything are not RRsets.
    for number in (1..250u16).chain(256..300) {
        let Some(name) = hosting_dns_zone::record_type_name(number) else { continue };
        assert_eq!(type_number(name), number, "{name}");
    }
}
