//! What is answered, case by case.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

mod support;

use hosting_dns_zone::{Counts, Outcome, Transport, Writer, rcode};
use hosting_intent::{DnsIntent, Intent, Key, Kind};
use support::*;

const Z: &str = "example.com";

fn rich() -> Vec<Item> {
    vec![
        zone(Z, 41),
        rrset(Z, "ns1.example.com", "A", &["192.0.2.53"]),
        rrset(Z, "example.com", "MX", &["10 mail.example.com.", "20 mx.other.example."]),
        rrset(Z, "mail.example.com", "A", &["192.0.2.25"]),
        rrset(Z, "mail.example.com", "AAAA", &["2001:db8::25"]),
        rrset(Z, "www.example.com", "CNAME", &["web.example.com."]),
        rrset(Z, "web.example.com", "A", &["192.0.2.80", "192.0.2.81"]),
        rrset(Z, "out.example.com", "CNAME", &["elsewhere.example.net."]),
        rrset(Z, "gone.example.com", "CNAME", &["nothing.example.com."]),
        rrset(Z, "loop1.example.com", "CNAME", &["loop2.example.com."]),
        rrset(Z, "loop2.example.com", "CNAME", &["loop1.example.com."]),
        rrset(Z, "*.wild.example.com", "TXT", &["\"any\""]),
        rrset(Z, "deep.ent.example.com", "A", &["192.0.2.1"]),
        rrset(Z, "_sip._tcp.example.com", "SRV", &["1 2 5060 mail.example.com."]),
        rrset(Z, "sub.example.com", "NS", &["ns.sub.example.com.", "ns.far.example."]),
        rrset(Z, "ns.sub.example.com", "A", &["192.0.2.99"]),
        auto(Z, "app.example.com", "A", "c1"),
        auto(Z, "app.example.com", "AAAA", "c1"),
        address_set("c1", &["203.0.113.1", "203.0.113.2"], &[]),
        offset(1),
    ]
}

#[test]
fn positive_answers() {
    let (_writer, zones) = serving(&rich());
    let a = ask(&zones, "web.example.com", "A");
    assert!(a.aa && a.rcode == rcode::NOERROR && a.authority.is_empty());
    assert_eq!(
        Response::types(&a.answers),
        ["web.example.com. A 192.0.2.80", "web.example.com. A 192.0.2.81"]
    );
    let mx = ask(&zones, "example.com", "MX");
    assert_eq!(mx.answers.len(), 2);
    assert_eq!(
        Response::types(&mx.additional),
        ["mail.example.com. A 192.0.2.25", "mail.example.com. AAAA 2001:db8::25"]
    );
    let srv = ask(&zones, "_sip._tcp.example.com", "SRV");
    assert_eq!((srv.answers.len(), srv.additional.len()), (1, 2));
    let ns = ask(&zones, "example.com", "NS");
    assert_eq!(
        Response::types(&ns.answers),
        ["example.com. NS ns1.example.com.", "example.com. NS ns2.provider.example."]
    );
    assert_eq!(Response::types(&ns.additional), ["ns1.example.com. A 192.0.2.53"]);
    let soa = ask(&zones, "example.com", "SOA");
    let (.., ttl, data) = soa.answers.first().unwrap();
    assert_eq!(*ttl, 3600);
    assert_eq!(
        data, "ns1.example.com. host\\.master.provider.example. 42 7200 900 1209600 300",
        "serial is the zone's plus the offset"
    );
    let any = ask(&zones, "example.com", "ANY");
    assert_eq!(any.answers.len(), 1);
    assert_eq!(any.answers.first().unwrap().1, "HINFO");
}

#[test]
fn names_that_are_not_there() {
    let (_writer, zones) = serving(&rich());
    let nx = ask(&zones, "no.such.example.com", "A");
    assert_eq!((nx.rcode, nx.aa), (rcode::NXDOMAIN, true));
    let (owner, record_type, ttl, _) = nx.authority.first().unwrap();
    assert_eq!((owner.as_str(), record_type.as_str(), *ttl), ("example.com.", "SOA", 300));
    for (name, record_type) in [("web.example.com", "TXT"), ("ent.example.com", "A"), ("example.com", "A")] {
        let nodata = ask(&zones, name, record_type);
        assert_eq!((nodata.rcode, nodata.answers.len(), nodata.authority.len()), (0, 0, 1), "{name}");
    }
    let foreign = ask(&zones, "example.org", "A");
    assert_eq!((foreign.rcode, foreign.aa, foreign.authority.len()), (rcode::REFUSED, false, 0));
    assert_eq!(ask(&zones, "", "NS").rcode, rcode::REFUSED);
    assert_eq!(ask(&zones, "com", "NS").rcode, rcode::REFUSED);
}

#[test]
fn aliases() {
    let (_writer, zones) = serving(&rich());
    let www = ask(&zones, "www.example.com", "A");
    assert_eq!((www.answers.len(), www.rcode), (3, 0));
    let own = ask(&zones, "www.example.com", "CNAME");
    assert_eq!(own.answers.len(), 1);
    let nodata = ask(&zones, "www.example.com", "MX");
    assert_eq!((nodata.answers.len(), nodata.authority.len(), nodata.rcode), (1, 1, 0));
    let out = ask(&zones, "out.example.com", "A");
    assert_eq!((out.answers.len(), out.authority.len(), out.rcode), (1, 0, 0));
    let gone = ask(&zones, "gone.example.com", "A");
    assert_eq!((gone.answers.len(), gone.authority.len(), gone.rcode), (1, 1, rcode::NXDOMAIN));
    let looped = ask(&zones, "loop1.example.com", "A");
    assert_eq!((looped.answer_count, looped.answers.len(), looped.rcode), (2, 2, 0));
    assert_eq!(ask(&zones, "loop1.example.com", "ANY").answers.first().unwrap().1, "CNAME");
}

#[test]
fn a_long_chain_ends_without_an_error() {
    let mut items = vec![zone(Z, 1), rrset(Z, "n40.example.com", "A", &["192.0.2.1"])];
    for n in 0..40 {
        let target = format!("n{}.example.com.", n + 1);
        items.push(rrset(Z, &format!("n{n}.example.com"), "CNAME", &[&target]));
    }
    let (_writer, zones) = serving(&items);
    let long = ask(&zones, "n0.example.com", "A");
    assert_eq!((long.rcode, long.answers.len(), long.authority.len()), (0, 16, 0));
    assert!(
        ask(&zones, "n30.example.com", "A").answers.iter().any(|(_, record_type, ..)| record_type == "A")
    );
}

#[test]
fn a_chain_stops_where_another_zone_begins() {
    let (_writer, zones) = serving(&[
        zone(Z, 1),
        zone("child.example.com", 1),
        rrset("child.example.com", "host.child.example.com", "A", &["192.0.2.7"]),
        rrset(Z, "www.example.com", "CNAME", &["host.child.example.com."]),
    ]);
    let www = ask(&zones, "www.example.com", "A");
    assert_eq!(
        (www.rcode, www.answers.len(), www.authority.len()),
        (0, 1, 0),
        "not NXDOMAIN from the parent"
    );
    assert_eq!(ask(&zones, "host.child.example.com", "A").answers.len(), 1);
}

#[test]
fn wildcards() {
    let (_writer, zones) = serving(&rich());
    let wild = ask(&zones, "a.b.wild.example.com", "TXT");
    assert_eq!(Response::types(&wild.answers), ["a.b.wild.example.com. TXT any"]);
    assert_eq!(ask(&zones, "x.wild.example.com", "A").rcode, 0);
    assert_eq!(ask(&zones, "wild.example.com", "TXT").answers.len(), 0);
    assert_eq!(ask(&zones, "*.wild.example.com", "TXT").answers.len(), 1);
    // The example of RFC 4592 §2.2.1.
    let e = "example";
    let (_writer, zones) = serving(&[
        zone(e, 1),
        rrset(e, "*.example", "TXT", &["\"this is a wildcard\""]),
        rrset(e, "*.example", "MX", &["10 host1.example."]),
        rrset(e, "host1.example", "A", &["192.0.2.1"]),
        rrset(e, "_ssh._tcp.host1.example", "SRV", &["0 0 22 host1.example."]),
        rrset(e, "_ssh._tcp.host2.example", "SRV", &["0 0 22 host1.example."]),
        rrset(e, "subdel.example", "NS", &["ns.example.com."]),
    ]);
    assert_eq!(ask(&zones, "host3.example", "MX").answers.len(), 1);
    let a = ask(&zones, "host3.example", "A");
    assert_eq!((a.rcode, a.answers.len()), (0, 0));
    assert_eq!(ask(&zones, "foo.bar.example", "TXT").answers.len(), 1);
    assert_eq!(ask(&zones, "host1.example", "MX").answers.len(), 0);
    assert_eq!(ask(&zones, "_telnet._tcp.host1.example", "SRV").rcode, rcode::NXDOMAIN);
    assert_eq!(ask(&zones, "host.subdel.example", "A").authority.len(), 1);
    assert_eq!(ask(&zones, "ghost.host2.example", "MX").rcode, rcode::NXDOMAIN);
}

#[test]
fn cuts() {
    let (_writer, zones) = serving(&rich());
    for (name, record_type) in [
        ("sub.example.com", "A"),
        ("sub.example.com", "NS"),
        ("x.y.sub.example.com", "A"),
        ("ns.sub.example.com", "A"),
    ] {
        let referral = ask(&zones, name, record_type);
        assert_eq!((referral.rcode, referral.aa, referral.answers.len()), (0, false, 0), "{name}");
        assert_eq!(
            Response::types(&referral.authority),
            ["sub.example.com. NS ns.far.example.", "sub.example.com. NS ns.sub.example.com."]
        );
        assert_eq!(Response::types(&referral.additional), ["ns.sub.example.com. A 192.0.2.99"]);
    }
    let ds = ask(&zones, "sub.example.com", "DS");
    assert_eq!((ds.aa, ds.answers.len(), Response::types(&ds.authority).len()), (true, 0, 1));
    assert_eq!(ds.authority.first().unwrap().1, "SOA");
    let below = ask(&zones, "x.sub.example.com", "DS");
    assert_eq!(below.authority.first().unwrap().1, "NS");
}

#[test]
fn ds_is_answered_by_the_zone_above() {
    let digest = format!("1 8 2 {}", "ab".repeat(32));
    let (_writer, zones) = serving(&[
        zone(Z, 1),
        zone("sub.example.com", 1),
        zone("free.example.com", 1),
        rrset(Z, "sub.example.com", "NS", &["ns.far.example."]),
        rrset(Z, "sub.example.com", "DS", &[&digest]),
    ]);
    assert_eq!(ask(&zones, "sub.example.com", "DS").answers.len(), 1);
    assert_eq!(ask(&zones, "sub.example.com", "SOA").answers.len(), 1);
    // No cut there: the zone above says that there is no DS set (RFC 4035 §3.1.4.1), and not that there is no such name.
    let free = ask(&zones, "free.example.com", "DS");
    assert_eq!((free.rcode, free.aa), (0, true));
    assert_eq!(free.authority.first().unwrap().0, "example.com.");
    // The zone above is not here: nobody else can say it.
    assert_eq!(ask(&zones, Z, "DS").authority.first().unwrap().0, "example.com.");
}

#[test]
fn other_data_wins_over_a_cname_whatever_came_first() {
    let cname = rrset(Z, "x.example.com", "CNAME", &["web.example.com."]);
    let a = rrset(Z, "x.example.com", "A", &["192.0.2.9"]);
    for items in [[cname.clone(), a.clone()], [a.clone(), cname.clone()]] {
        let (mut writer, zones) = serving(&[&[zone(Z, 1)], items.as_slice()].concat());
        assert_eq!(
            Response::types(&ask(&zones, "x.example.com", "A").answers),
            ["x.example.com. A 192.0.2.9"]
        );
        assert_eq!(ask(&zones, "x.example.com", "CNAME").answers.len(), 0);
        assert_eq!(ask(&zones, "x.example.com", "TXT").answers.len(), 0);
        remove(&mut writer, std::slice::from_ref(&a.0));
        assert_eq!(ask(&zones, "x.example.com", "A").answers.first().unwrap().1, "CNAME");
    }
}

#[test]
fn what_refers_to_the_absent_waits_for_it() {
    let mut items = rich();
    let whole = serving(&items).1;
    let questions =
        [("app.example.com", "A"), ("www.example.com", "A"), ("example.com", "SOA"), ("x.example.com", "A")];
    for round in 0..items.len() {
        items.rotate_left(1);
        let mut writer = Writer::new();
        let zones = writer.zones();
        for chunk in items.chunks(1 + round % 4) {
            apply(&mut writer, chunk);
        }
        for (name, record_type) in questions {
            assert_eq!(
                ask(&zones, name, record_type),
                ask(&whole, name, record_type),
                "{name} {record_type}"
            );
        }
        assert_eq!(zones.counts(), Counts { zones: 1, rrsets: 17 });
    }
}

#[test]
fn an_unknown_address_set_is_no_empty_one() {
    let (mut writer, zones) = serving(&[zone(Z, 1), auto(Z, "app.example.com", "A", "c1")]);
    let unknown = ask(&zones, "app.example.com", "A");
    assert_eq!((unknown.rcode, unknown.aa), (rcode::SERVFAIL, false));
    assert_eq!(ask(&zones, "app.example.com", "TXT").rcode, 0);
    apply(&mut writer, &[address_set("c1", &["203.0.113.1"], &[])]);
    assert_eq!(ask(&zones, "app.example.com", "A").answers.len(), 1);
    apply(&mut writer, &[address_set("c1", &["203.0.113.2", "203.0.113.3"], &["2001:db8::1"])]);
    assert_eq!(ask(&zones, "app.example.com", "A").answers.len(), 2);
    apply(&mut writer, &[address_set("c1", &[], &[])]);
    let empty = ask(&zones, "app.example.com", "A");
    assert_eq!((empty.rcode, empty.answers.len(), empty.authority.len()), (0, 0, 1));
    remove(&mut writer, &[Key::new(Kind::AddressSet, "c1")]);
    assert_eq!(ask(&zones, "app.example.com", "A").rcode, rcode::SERVFAIL);
    apply(&mut writer, &[address_set("c1", &["203.0.113.4"], &[])]);
    assert_eq!(ask(&zones, "app.example.com", "A").answers.len(), 1);
}

/// What a cluster says of HTTP/3, and what name servers answer for its names.
#[test]
fn an_address_record_brings_the_https_records_of_its_cluster() {
    let both = ["1 . alpn=h3,h2"];
    let (mut writer, zones) = serving(&[
        zone(Z, 1),
        auto_https(Z, "www.example.com", "A", "c1"),
        auto_https(Z, "www.example.com", "AAAA", "c1"),
        auto_https(Z, "six.example.com", "AAAA", "c1"),
        auto_https(Z, "*.wild.example.com", "A", "c1"),
        auto(Z, "plain.example.com", "A", "c1"),
        rrset(Z, "alias.example.com", "CNAME", &["www.example.com."]),
        rrset(Z, "other.example.com", "A", &["192.0.2.7"]),
    ]);
    let said = |name: &str| {
        let response = ask(&zones, name, "HTTPS");
        assert!(response.answer_count == response.answers.len(), "{response:?}");
        let answers = response.answers.iter().filter(|(_, kind, ..)| kind == "HTTPS");
        answers.map(|(owner, _, ttl, data)| format!("{owner} {ttl} {data}")).collect::<Vec<_>>()
    };
    let waiting = ask(&zones, "www.example.com", "HTTPS");
    assert_eq!((waiting.rcode, waiting.aa), (rcode::SERVFAIL, false), "nothing is known of the cluster yet");
    apply(&mut writer, &[spoken_to("c1", &["203.0.113.1"], &["2001:db8::1"], &both)]);
    assert_eq!(said("www.example.com"), ["www.example.com. 60 1 . alpn=h3,h2,"]);
    assert_eq!(said("six.example.com"), ["six.example.com. 60 1 . alpn=h3,h2,"]);
    assert_eq!(said("any.wild.example.com"), ["any.wild.example.com. 60 1 . alpn=h3,h2,"]);
    let alias = ask(&zones, "alias.example.com", "HTTPS");
    assert_eq!(Response::types(&alias.answers).len(), 2, "{alias:?}");
    assert_eq!(said("alias.example.com"), ["www.example.com. 60 1 . alpn=h3,h2,"]);
    // Without a certificate, and where the addresses are not the cluster's: the name is there, and the type is not.
    for name in ["plain.example.com", "other.example.com"] {
        let none = ask(&zones, name, "HTTPS");
        assert_eq!((none.rcode, none.answers.len(), none.authority.len()), (0, 0, 1), "{name}");
    }
    assert_eq!(ask(&zones, "www.example.com", "SVCB").answers.len(), 0, "of that type alone");
    assert_eq!(ask(&zones, "www.example.com", "A").answers.len(), 1);

    // One change of the cluster is one of all its names.
    let apart = ["1 . alpn=h3 no-default-alpn port=8443", "2 . alpn=h2"];
    apply(&mut writer, &[spoken_to("c1", &["203.0.113.1"], &[], &apart)]);
    assert_eq!(
        said("www.example.com"),
        ["www.example.com. 60 1 . alpn=h3, no-default-alpn= port=8443", "www.example.com. 60 2 . alpn=h2,"]
    );
    // One of the zone's own goes before, for as long as it is there.
    let own = rrset(Z, "www.example.com", "HTTPS", &["1 cdn.example.net. alpn=h2"]);
    apply(&mut writer, std::slice::from_ref(&own));
    assert_eq!(said("www.example.com"), ["www.example.com. 600 1 cdn.example.net. alpn=h2,"]);
    remove(&mut writer, std::slice::from_ref(&own.0));
    assert_eq!(said("www.example.com").len(), 2);
    // It goes with the last of its address records, and where a person's takes over.
    apply(&mut writer, &[rrset(Z, "six.example.com", "AAAA", &["2001:db8::7"])]);
    assert_eq!(said("six.example.com").len(), 0);
    remove(&mut writer, &[rr_key(Z, "www.example.com", "A")]);
    assert_eq!(said("www.example.com").len(), 2, "the other family has it still");
    remove(&mut writer, &[rr_key(Z, "www.example.com", "AAAA")]);
    assert_eq!(ask(&zones, "www.example.com", "HTTPS").rcode, rcode::NXDOMAIN);
    apply(&mut writer, &[spoken_to("c1", &["203.0.113.1"], &[], &[])]);
    assert_eq!(said("any.wild.example.com").len(), 0, "a cluster that says nothing");

    let (key, wrong) = spoken_to("c1", &["203.0.113.1"], &[], &["1 . alpn=h3 port=70000"]);
    let refused = writer.check(&key, &wrong).unwrap_err().to_string();
    assert!(refused.starts_with("https: ") && refused.contains("70000"), "{refused}");
}

#[test]
fn zones_come_and_go() {
    let (mut writer, zones) = serving(&rich());
    remove(&mut writer, &[Key::new(Kind::Zone, Z)]);
    assert_eq!(ask(&zones, "www.example.com", "A").rcode, rcode::REFUSED);
    assert_eq!(zones.counts().zones, 0);
    apply(&mut writer, &[zone(Z, 50)]);
    assert_eq!(ask(&zones, "www.example.com", "A").answers.len(), 3, "its RRsets were kept");
    let keys: Vec<Key> = rich().into_iter().map(|(key, _)| key).filter(|key| key.kind == 11).collect();
    remove(&mut writer, &keys);
    assert_eq!(zones.counts(), Counts { zones: 1, rrsets: 0 });
    assert_eq!(ask(&zones, "ent.example.com", "A").rcode, rcode::NXDOMAIN, "empty non-terminals go too");
    assert_eq!(ask(&zones, "x.sub.example.com", "A").rcode, rcode::NXDOMAIN, "cuts go too");
    remove(&mut writer, &keys);
}

#[test]
fn custom_name_servers_join_the_zones_own() {
    let custom = rrset(Z, Z, "NS", &["ns2.provider.example.", "ns.mine.example."]);
    for items in [[zone(Z, 1), custom.clone()], [custom.clone(), zone(Z, 1)]] {
        let (mut writer, zones) = serving(&items);
        let ns = ask(&zones, Z, "NS");
        assert_eq!((ns.answers.len(), ns.aa), (3, true));
        assert!(ns.answers.iter().all(|(.., ttl, _)| *ttl == 3600), "one TTL for the whole set");
        remove(&mut writer, std::slice::from_ref(&custom.0));
        assert_eq!(ask(&zones, Z, "NS").answers.len(), 2);
    }
}

#[test]
fn serials_wrap() {
    let (mut writer, zones) = serving(&[zone(Z, u32::MAX), offset(3)]);
    let serial = || ask(&zones, Z, "SOA").answers.first().unwrap().3.split(' ').nth(2).unwrap().to_owned();
    assert_eq!(serial(), "2");
    apply(&mut writer, &[offset(4)]);
    assert_eq!(serial(), "3");
}

#[test]
fn absurd_items_are_rejected_one_by_one() {
    let writer = Writer::new();
    let long = format!("{}.example.com", ["abcdefg"; 35].join("."));
    for (item, word) in [
        (rrset(Z, Z, "CNAME", &["a.example.net."]), "apex"),
        (rrset(Z, Z, "SOA", &["a. b. 1 2 3 4 5"]), "SOA"),
        (rrset(Z, Z, "DS", &["1 8 2 00"]), "zone above"),
        (rrset(Z, "a.example.com", "BOGUS", &["x"]), "not served"),
        (rrset(Z, "a.example.com", "A", &["999.0.0.1"]), "999.0.0.1"),
        (rrset(Z, "*.example.com", "NS", &["a.example.net."]), "wildcard"),
        (rrset(Z, &long, "A", &["192.0.2.1"]), "253"),
        (rrset(Z, "a.example.org", "A", &["192.0.2.1"]), "does not lie"),
        (auto(Z, "a.example.com", "MX", "c1"), "A and AAAA"),
        (rrset(Z, "a.example.com", "TXT", &[&"a ".repeat(9000)]), "16384"),
    ] {
        let error = writer.check(&item.0, &item.1).expect_err(word).to_string();
        assert!(error.contains(word), "{error:?} should mention {word:?}");
    }
    let (key, mut intent) = zone(Z, 1);
    if let DnsIntent::Zone(settings) = &mut intent {
        settings.hostmaster = format!("{}@{}", "a".repeat(63), ["abcdefgh"; 25].join("."));
    }
    assert!(writer.check(&key, &intent).is_err());
    let foreign = hosting_intent::message::Route::default();
    assert!(DnsIntent::try_from(Intent::Route(foreign)).is_err());
}

#[test]
fn the_question_comes_back_as_it_was() {
    let (_writer, zones) = serving(&rich());
    let packet = packet("wWw.ExAmPlE.cOm", 1, None);
    let (_, bytes) = ask_raw(&zones, &packet, Transport::Udp { max: 1232 });
    assert_eq!(bytes[12..packet.len()], packet[12..]);
    assert_eq!((bytes[0], bytes[1], bytes[2], bytes[3]), (0x12, 0x34, 0x85, 0));
    assert_eq!(decode(&bytes).answers.len(), 3);
    // Owner and target are compressed: two pointers for the CNAME, one for each address.
    assert_eq!(bytes.len(), packet.len() + (12 + 6) + 2 * (12 + 4));
}

#[test]
fn odd_packets() {
    let (_writer, zones) = serving(&rich());
    let udp = Transport::Udp { max: 1232 };
    let good = packet("web.example.com", 1, None);
    let with = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        edit(&mut packet);
        let (answered, bytes) = ask_raw(&zones, &packet, udp);
        assert!(answered.outcome != Outcome::Error || bytes.len() <= packet.len());
        (answered.outcome, answered.rcode, bytes)
    };
    assert_eq!(with(&|p| p.truncate(11)).0, Outcome::Dropped);
    assert_eq!(with(&|p| p[2] |= 0x80).0, Outcome::Dropped);
    for opcode in 1..16u8 {
        let (outcome, code, bytes) = with(&|p| p[2] |= opcode << 3);
        assert_eq!((outcome, code, bytes.len()), (Outcome::Error, rcode::NOTIMP, 12));
        assert_eq!(bytes[2], 0x81 | opcode << 3);
    }
    for (what, edit) in [
        ("no question", (&|p: &mut Vec<u8>| p[5] = 0) as &dyn Fn(&mut Vec<u8>)),
        ("two questions", &|p| p[5] = 2),
        ("cut name", &|p| p.truncate(20)),
        ("cut type", &|p| p.truncate(p.len() - 1)),
        ("trailing bytes", &|p| p.push(0)),
        ("answers", &|p| p[7] = 1),
        ("pointer", &|p| p[12] = 0xc0),
        ("missing record", &|p| p[11] = 1),
    ] {
        assert_eq!(with(edit).1, rcode::FORMERR, "{what}");
    }
    assert_eq!(with(&|p| *p.last_mut().unwrap() = 3).1, rcode::REFUSED, "class CHAOS");
    for (number, code) in [(251, 5), (252, 5), (253, 4), (254, 4), (41, 1), (249, 1), (250, 1)] {
        assert_eq!(ask_raw(&zones, &packet("example.com", number, None), udp).0.rcode, code, "type {number}");
    }
}

#[test]
fn edns() {
    let (_writer, zones) = serving(&rich());
    let udp = Transport::Udp { max: 1232 };
    let mut query = packet("web.example.com", 1, Some(4096));
    let (_, bytes) = ask_raw(&zones, &query, udp);
    assert_eq!(bytes[bytes.len() - 11..], [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    let len = query.len();
    query[len - 4] = 0x80;
    let (_, bytes) = ask_raw(&zones, &query, udp);
    assert_eq!(bytes[bytes.len() - 4], 0x80, "the DO bit comes back (RFC 3225)");
    query[len - 5] = 1;
    let (answered, bytes) = ask_raw(&zones, &query, udp);
    assert_eq!((answered.rcode, bytes[3] & 15, bytes[bytes.len() - 6]), (rcode::BADVERS, 0, 1));
    assert!(bytes.len() <= query.len());
    query[len - 5] = 0;
    query.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
    query[11] = 2;
    assert_eq!(ask_raw(&zones, &query, udp).0.rcode, rcode::FORMERR, "two OPT records");
    query.truncate(len);
    query[11] = 1;
    query.extend([0, 10, 0, 9, 1]);
    query[len - 1] = 5;
    assert_eq!(ask_raw(&zones, &query, udp).0.rcode, rcode::FORMERR, "an option longer than its record");
    query[len + 3] = 1;
    assert_eq!(ask_raw(&zones, &query, udp).0.rcode, 0);
}

#[test]
fn signed_requests_are_told_that_the_key_is_not_known() {
    let (_writer, zones) = serving(&rich());
    let mut query = packet("web.example.com", 1, None);
    query[11] = 1;
    let unsigned = query.clone();
    // Algorithm, time, fudge, MAC, original id, error, other data.
    let signature =
        [&[1, b'a', 0][..], &[0; 6], &[1, 44], &[0, 2, 7, 7], &[0x12, 0x34], &[0, 0], &[0, 0]].concat();
    let signed = |class: u8, data: &[u8]| {
        let mut query = unsigned.clone();
        query.extend([1, b'k', 0, 0, 250, 0, class, 0, 0, 0, 0, 0, data.len() as u8]);
        query.extend(data);
        ask_raw(&zones, &query, Transport::Tcp).0.rcode
    };
    assert_eq!(signed(255, &signature), rcode::NOTAUTH);
    // RFC 8945 §5.2: malformed ones are a malformed message.
    for cut in 0..signature.len() {
        assert_eq!(signed(255, &signature[..cut]), rcode::FORMERR, "{cut}");
    }
    assert_eq!(signed(1, &signature), rcode::FORMERR);
    assert_eq!(signed(255, &[signature.as_slice(), &[0]].concat()), rcode::FORMERR);
}

#[test]
fn whoever_speaks_edns_is_answered_in_it() {
    let (_writer, zones) = serving(&rich());
    let udp = Transport::Udp { max: 1232 };
    let with_opt = packet("web.example.com", 1, Some(1232));
    let mut no_question = with_opt[..12].to_vec();
    no_question.extend(&with_opt[with_opt.len() - 11..]);
    no_question[5] = 0;
    let mut notify = with_opt.clone();
    notify[2] |= 4 << 3;
    for (query, code) in [(no_question, rcode::FORMERR), (notify.clone(), rcode::NOTIMP)] {
        let (answered, bytes) = ask_raw(&zones, &query, udp);
        assert_eq!((answered.rcode, bytes.len()), (code, 12 + 11));
        assert_eq!((bytes[11], &bytes[12..15]), (1, [0, 0, 41].as_slice()));
        assert_eq!(u16::from(bytes[3] & 0x0f), code);
    }
    // None asked for, or no telling: none.
    for query in [packet("web.example.com", 1, None), notify[..notify.len() - 1].to_vec()] {
        let mut query = query;
        query[2] |= 4 << 3;
        assert_eq!(ask_raw(&zones, &query, udp).1.len(), 12);
    }
}

#[test]
fn an_answer_that_fits_exactly_is_whole() {
    // Header, question, 73 addresses and OPT: 1 232 bytes less 5.
    let addresses: Vec<String> = (0..73).map(|n| format!("192.0.2.{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let name = "m2345678901234567890.example.com";
    let (_writer, zones) = serving(&[zone(Z, 1), rrset(Z, name, "A", &addresses)]);
    let (answered, bytes) = ask_raw(&zones, &packet(name, 1, Some(1232)), Transport::Udp { max: 1232 });
    assert_eq!((answered.truncated, bytes.len()), (false, 12 + 34 + 4 + 73 * 16 + 11));
}

#[test]
fn what_does_not_fit_is_truncated() {
    let addresses: Vec<String> = (0..100).map(|n| format!("192.0.2.{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let servers: Vec<String> = (0..30).map(|n| format!("ns{n}.sub.example.com.")).collect();
    let mut items = vec![
        zone(Z, 1),
        rrset(Z, "many.example.com", "A", &addresses),
        rrset(Z, "some.example.com", "A", &addresses[..30]),
        rrset(Z, "sub.example.com", "NS", &servers.iter().map(String::as_str).collect::<Vec<_>>()),
        rrset(Z, "mx.example.com", "MX", &["1 some.example.com.", "2 many.example.com."]),
    ];
    for server in &servers {
        items.push(rrset(Z, server.trim_end_matches('.'), "A", &["192.0.2.1"]));
    }
    let (_writer, zones) = serving(&items);
    let udp = Transport::Udp { max: 1232 };
    for (name, number, edns, limit, cut) in [
        ("many.example.com", 1, None, 512, true),
        ("some.example.com", 1, None, 512, true),
        ("some.example.com", 1, Some(1232), 1232, false),
        ("some.example.com", 1, Some(200), 512, true),
        ("many.example.com", 1, Some(4096), 1232, true),
        ("x.sub.example.com", 1, None, 512, true),
        ("mx.example.com", 15, None, 512, false),
    ] {
        let (answered, bytes) = ask_raw(&zones, &packet(name, number, edns), udp);
        let response = decode(&bytes);
        assert!(bytes.len() <= limit, "{name}: {}", bytes.len());
        assert_eq!((response.tc, answered.truncated), (cut, cut), "{name} {edns:?}");
        assert!(!cut || response.answers.is_empty());
    }
    let whole = ask(&zones, "x.sub.example.com", "A");
    assert_eq!((whole.authority.len(), whole.additional.len()), (30, 30));
    assert_eq!(ask(&zones, "many.example.com", "A").answers.len(), 100);
}

#[test]
fn the_slip_answer_is_empty_and_small() {
    let query = packet("many.example.com", 1, Some(4096));
    let mut out = [0; 512];
    let len = hosting_dns_zone::truncated(&query, &mut out);
    let response = decode(&out[..len]);
    assert!(response.tc && response.answers.is_empty() && len <= query.len());
    assert_eq!(hosting_dns_zone::truncated(&[0; 5], &mut out), 0);
}

#[test]
fn a_flood_through_a_wildcard_has_one_subject() {
    let (_writer, zones) = serving(&rich());
    let subject = |name: &str, number| ask_raw(&zones, &packet(name, number, None), Transport::Tcp).0.subject;
    assert_eq!(subject("a.wild.example.com", 16), subject("b.wild.example.com", 16));
    assert_eq!(subject("nx1.example.com", 1), subject("nx2.example.com", 1));
    assert_ne!(subject("web.example.com", 1), subject("mail.example.com", 1));
}
