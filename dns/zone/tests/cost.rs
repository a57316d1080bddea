//! What things cost, counted in allocations: a change costs the same in a small zone and a large one, an answer costs none.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

mod support;

use allocation_counter::measure;
use hosting_dns_zone::{Transport, Writer};
use support::*;

const Z: &str = "example.com";

fn zone_of(names: usize) -> Writer {
    let mut items = vec![zone(Z, 1), address_set("c1", &["192.0.2.1"], &["2001:db8::1"])];
    for n in 0..names {
        items.push(rrset(Z, &format!("host-{n}.example.com"), "A", &["192.0.2.1"]));
        items.push(auto(Z, &format!("app-{n}.example.com"), "A", "c1"));
    }
    serving(&items).0
}

#[test]
fn a_change_costs_its_own_record() {
    let cost = |names: usize| {
        let mut writer = zone_of(names);
        let items = [rrset(Z, "host-3.example.com", "A", &["192.0.2.77"]), zone(Z, 2)];
        let zones = writer.zones();
        // A reader's copy of the old state must not make the change dearer.
        let info = measure(|| apply(&mut writer, &items));
        assert_eq!(ask(&zones, "host-3.example.com", "A").answers.first().unwrap().3, "192.0.2.77");
        info
    };
    let (small, large) = (cost(5), cost(50_000));
    // Allocated bytes hold the copied tree nodes: a few per level of the tree, never the zone.
    assert!(large.count_total <= small.count_total + 12, "{small:?} {large:?}");
    assert!(large.bytes_total <= small.bytes_total + 8 * 1024, "{small:?} {large:?}");
}

#[test]
fn an_address_set_costs_nothing_per_record() {
    let cost = |names: usize| {
        let mut writer = zone_of(names);
        let items = [address_set("c1", &["192.0.2.8"], &[]), offset(9)];
        let info = measure(|| apply(&mut writer, &items));
        let name = format!("app-{}.example.com", names - 1);
        assert_eq!(ask(&writer.zones(), &name, "A").answers.first().unwrap().3, "192.0.2.8");
        info.count_total
    };
    assert_eq!(cost(5), cost(20_000));
}

#[test]
fn an_answer_allocates_nothing() {
    let mut writer = zone_of(1000);
    apply(
        &mut writer,
        &[
            rrset(Z, "www.example.com", "CNAME", &["host-1.example.com."]),
            rrset(Z, "*.w.example.com", "MX", &["1 host-2.example.com."]),
            rrset(Z, "sub.example.com", "NS", &["ns.sub.example.com."]),
            rrset(Z, "ns.sub.example.com", "A", &["192.0.2.1"]),
            spoken_to("c1", &["192.0.2.1"], &[], &["1 . alpn=h3,h2"]),
            auto_https(Z, "shop.example.com", "A", "c1"),
        ],
    );
    let zones = writer.zones();
    let names = ["host-9", "app-9", "www", "x.w", "a.sub", "nothing", "example", "shop"];
    let packets: Vec<Vec<u8>> = names
        .iter()
        .flat_map(|name| {
            [1, 15, 65, 255, 43].map(|number| packet(&format!("{name}.example.com"), number, Some(1232)))
        })
        .collect();
    let mut out = vec![0; 1232];
    let mut answer_all = || {
        for packet in &packets {
            assert!(zones.answer(packet, Transport::Udp { max: 1232 }, &mut out).len > 0);
        }
    };
    answer_all(); // the thread's first pointer load sets up its slot
    assert_eq!(measure(answer_all).count_total, 0);
}
