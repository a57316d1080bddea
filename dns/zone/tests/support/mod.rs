//! Intents in, packets out, answers read back with an independent codec.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::collections::BTreeSet;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hosting_dns_zone::{Answered, Transport, Writer, Zones};
use hosting_intent::message as m;
use hosting_intent::{DnsIntent, Key, Kind};

pub(crate) type Item = (Key, DnsIntent);

/// Says loudly that something was not tested because the machine lacks what it needs.
#[allow(clippy::print_stderr, reason = "a skipped test must never look like a passed one")]
pub(crate) fn skipped(what: &str) {
    use std::io::Write;
    eprintln!("SKIPPED {what}");
    if let Some(file) = std::env::var_os("HOSTING_SKIPPED") {
        let mut file = std::fs::File::options().append(true).create(true).open(file).unwrap();
        file.write_all(format!("{what}\n").as_bytes()).unwrap();
    }
}

pub(crate) fn zone(name: &str, serial: u32) -> Item {
    let settings = m::Zone {
        zone_id: "zone_a".into(),
        primary_ns: format!("ns1.{name}"),
        nameservers: vec![format!("ns1.{name}"), "ns2.provider.example".into()],
        hostmaster: "host.master@provider.example".into(),
        serial,
        refresh: 7200,
        retry: 900,
        expire: 1_209_600,
        minimum: 300,
        ttl: 3600,
    };
    (Key::new(Kind::Zone, name), DnsIntent::Zone(settings))
}

pub(crate) fn rr_key(zone: &str, owner: &str, record_type: &str) -> Key {
    Key::new(Kind::RrSet, format!("{zone}/{owner}/{record_type}"))
}

pub(crate) fn rrset(zone: &str, owner: &str, record_type: &str, rdata: &[&str]) -> Item {
    let records = m::Records { rdata: rdata.iter().map(ToString::to_string).collect() };
    let set = m::RrSet { ttl: 600, data: Some(m::rr_set::Data::Records(records)), https: false };
    (rr_key(zone, owner, record_type), DnsIntent::RrSet(set))
}

pub(crate) fn auto(zone: &str, owner: &str, record_type: &str, cluster: &str) -> Item {
    let data = Some(m::rr_set::Data::AddressSet(cluster.into()));
    (rr_key(zone, owner, record_type), DnsIntent::RrSet(m::RrSet { ttl: 60, data, https: false }))
}

/// As [`auto`], of a name that the cluster's edges have a certificate for.
pub(crate) fn auto_https(zone: &str, owner: &str, record_type: &str, cluster: &str) -> Item {
    let data = Some(m::rr_set::Data::AddressSet(cluster.into()));
    (rr_key(zone, owner, record_type), DnsIntent::RrSet(m::RrSet { ttl: 60, data, https: true }))
}

pub(crate) fn address_set(cluster: &str, v4: &[&str], v6: &[&str]) -> Item {
    spoken_to(cluster, v4, v6, &[])
}

/// Addresses, and the data of HTTPS records that says how they are spoken to.
pub(crate) fn spoken_to(cluster: &str, v4: &[&str], v6: &[&str], https: &[&str]) -> Item {
    let texts = |all: &[&str]| all.iter().map(ToString::to_string).collect();
    let set = m::AddressSet { ipv4: texts(v4), ipv6: texts(v6), https: texts(https) };
    (Key::new(Kind::AddressSet, cluster), DnsIntent::AddressSet(set))
}

pub(crate) fn offset(value: u32) -> Item {
    (Key::new(Kind::SerialOffset, "serial"), DnsIntent::SerialOffset(m::SerialOffset { value }))
}

/// Applies items that must all be sound.
pub(crate) fn apply(writer: &mut Writer, items: &[Item]) {
    for (key, intent) in items {
        writer.check(key, intent).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
    let applied = writer.apply(items.iter().map(|(key, intent)| (key, intent)), []);
    assert!(applied.rejected.is_empty(), "{:?}", applied.rejected);
}

pub(crate) fn remove(writer: &mut Writer, keys: &[Key]) {
    assert!(writer.apply([], keys).rejected.is_empty());
}

pub(crate) fn serving(items: &[Item]) -> (Writer, Zones) {
    let mut writer = Writer::new();
    apply(&mut writer, items);
    let zones = writer.zones();
    (writer, zones)
}

/// A query packet: id 0x1234, RD set, the name's case kept.
pub(crate) fn packet(name: &str, number: u16, edns: Option<u16>) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    packet.extend(number.to_be_bytes());
    packet.extend([0, 1]);
    if let Some(payload) = edns {
        packet.extend([0, 0, 41]);
        packet.extend(payload.to_be_bytes());
        packet.extend([0, 0, 0, 0, 0, 0]);
    }
    packet
}

pub(crate) fn type_number(name: &str) -> u16 {
    if name == "ANY" {
        return 255;
    }
    u16::from(name.parse::<RecordType>().unwrap())
}

/// Owner, type, TTL, data.
pub(crate) type Rec = (String, String, u32, String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) rcode: u16,
    pub(crate) aa: bool,
    pub(crate) tc: bool,
    pub(crate) answers: BTreeSet<Rec>,
    pub(crate) authority: BTreeSet<Rec>,
    pub(crate) additional: BTreeSet<Rec>,
    pub(crate) answer_count: usize,
}

impl Response {
    pub(crate) fn types(set: &BTreeSet<Rec>) -> Vec<String> {
        set.iter().map(|(owner, record_type, _, data)| format!("{owner} {record_type} {data}")).collect()
    }
}

pub(crate) fn decode(bytes: &[u8]) -> Response {
    let message = Message::from_vec(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
    let section = |records: &[hickory_proto::rr::Record]| {
        records
            .iter()
            .map(|record| {
                (
                    record.name.to_string().to_lowercase(),
                    record.record_type().to_string(),
                    record.ttl,
                    record.data.to_string().to_lowercase(),
                )
            })
            .collect::<BTreeSet<Rec>>()
    };
    Response {
        rcode: u16::from(message.metadata.response_code),
        aa: message.metadata.authoritative,
        tc: message.metadata.truncation,
        answers: section(&message.answers),
        authority: section(&message.authorities),
        additional: section(&message.additionals),
        answer_count: message.answers.len(),
    }
}

pub(crate) fn ask_raw(zones: &Zones, packet: &[u8], transport: Transport) -> (Answered, Vec<u8>) {
    let mut out = vec![0; 65535];
    let answered = zones.answer(packet, transport, &mut out);
    out.truncate(answered.len);
    (answered, out)
}

/// Asks over TCP, so that nothing is cut short.
pub(crate) fn ask(zones: &Zones, name: &str, record_type: &str) -> Response {
    let packet = packet(name, type_number(record_type), Some(1232));
    let (answered, bytes) = ask_raw(zones, &packet, Transport::Tcp);
    assert_eq!(
        bytes.get(12..packet.len() - 11),
        packet.get(12..packet.len() - 11),
        "the question comes back"
    );
    let response = decode(&bytes);
    assert_eq!(response.rcode, answered.rcode);
    response
}
