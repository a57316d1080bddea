//! Random zones: answers equal those of a slow and obvious implementation of RFC 1034 §4.3.2 that knows neither keys, nor
//! trees, nor wire forms; and packets of random bytes never do harm.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

mod support;

use std::collections::BTreeSet;

use hosting_dns_zone::{Outcome, Transport, Writer, Zones, rcode};
use hosting_intent::Key;
use proptest::prelude::*;
use support::*;

const APEXES: [&str; 3] = ["z.test", "a.z.test", "b.a.z.test"];

/// One RRset of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Set {
    zone: &'static str,
    owner: String,
    record_type: &'static str,
    data: Vec<String>,
}

#[derive(Debug, Clone)]
struct World {
    zones: Vec<&'static str>,
    sets: Vec<Set>,
}

#[derive(Debug, PartialEq, Eq)]
struct Expected {
    rcode: u16,
    aa: bool,
    answers: BTreeSet<Rec>,
    authority: BTreeSet<Rec>,
}

fn labels(name: &str) -> Vec<&str> {
    name.split('.').collect()
}

fn is_under(name: &str, above: &str) -> bool {
    labels(name).ends_with(&labels(above))
}

fn parent(name: &str) -> &str {
    name.split_once('.').map_or("", |(_, rest)| rest)
}

fn rec(owner: &str, record_type: &str, ttl: u32, data: &str) -> Rec {
    (format!("{owner}."), record_type.into(), ttl, data.to_lowercase())
}

impl World {
    fn zone_of(&self, name: &str) -> Option<&'static str> {
        self.zones.iter().copied().filter(|zone| is_under(name, zone)).max_by_key(|zone| zone.len())
    }

    /// The RRsets of a zone, CNAMEs beside other data left out.
    fn sets_of(&self, zone: &str) -> Vec<&Set> {
        let mine: Vec<&Set> = self.sets.iter().filter(|set| set.zone == zone).collect();
        mine.iter()
            .copied()
            .filter(|set| {
                set.record_type != "CNAME"
                    || !mine.iter().any(|other| other.owner == set.owner && other.record_type != "CNAME")
            })
            .collect()
    }

    fn soa(zone: &str) -> BTreeSet<Rec> {
        let data = format!("ns1.{zone}. host\\.master.provider.example. 7 7200 900 1209600 300");
        [rec(zone, "SOA", 300, &data)].into()
    }

    fn answer(&self, question: &str, record_type: &str) -> Expected {
        let refused = Expected {
            rcode: rcode::REFUSED,
            aa: false,
            answers: BTreeSet::new(),
            authority: BTreeSet::new(),
        };
        let Some(mut zone) = self.zone_of(question) else { return refused };
        if record_type == "DS"
            && zone == question
            && let Some(above) = self.zone_of(parent(question))
        {
            zone = above;
            if self.cut_above(above, question).is_none() {
                return Expected { rcode: 0, aa: true, authority: Self::soa(above), ..refused };
            }
        }
        let mut expected = Expected { rcode: 0, aa: true, ..refused };
        let mut name = question.to_owned();
        let mut visited = vec![name.clone()];
        loop {
            if !is_under(&name, zone) || (visited.len() > 1 && self.zone_of(&name) != Some(zone)) {
                return expected;
            }
            let sets = self.sets_of(zone);
            let cut = self.cut_above(zone, &name).filter(|cut| record_type != "DS" || *cut != name);
            if let Some(cut) = cut {
                let servers = sets.iter().find(|set| set.owner == cut && set.record_type == "NS").unwrap();
                expected.authority = servers.data.iter().map(|data| rec(&cut, "NS", 600, data)).collect();
                expected.aa = visited.len() > 1;
                return expected;
            }
            let exists = |name: &str| name == zone || sets.iter().any(|set| is_under(&set.owner, name));
            let mut here: &str = &name;
            let wildcard;
            if !exists(&name) {
                let mut encloser = parent(&name);
                while !exists(encloser) {
                    encloser = parent(encloser);
                }
                wildcard = format!("*.{encloser}");
                if !sets.iter().any(|set| set.owner == wildcard) {
                    expected.rcode = rcode::NXDOMAIN;
                    expected.authority = Self::soa(zone);
                    return expected;
                }
                here = &wildcard;
            }
            let find = |wanted: &str| sets.iter().find(|set| set.owner == here && set.record_type == wanted);
            if record_type == "ANY" && (here == zone || sets.iter().any(|set| set.owner == here)) {
                expected.answers.insert(match find("CNAME") {
                    Some(cname) => rec(&name, "CNAME", 600, cname.data.first().unwrap()),
                    None => rec(&name, "HINFO", 3600, "RFC8482 "),
                });
                return expected;
            }
            if here == zone && record_type == "SOA" {
                let data = Self::soa(zone).first().unwrap().3.clone();
                expected.answers.insert(rec(zone, "SOA", 3600, &data));
                return expected;
            }
            if here == zone && record_type == "NS" {
                let own = [format!("ns1.{zone}."), "ns2.provider.example.".to_owned()];
                let custom = find("NS").map(|set| set.data.clone()).unwrap_or_default();
                expected.answers.extend(own.iter().chain(&custom).map(|data| rec(zone, "NS", 3600, data)));
                return expected;
            }
            if let Some(set) = find(record_type) {
                expected.answers.extend(set.data.iter().map(|data| rec(&name, record_type, 600, data)));
                return expected;
            }
            let Some(cname) = find("CNAME") else {
                expected.authority = Self::soa(zone);
                return expected;
            };
            let target = cname.data.first().unwrap();
            expected.answers.insert(rec(&name, "CNAME", 600, target));
            name = target.trim_end_matches('.').to_owned();
            if visited.contains(&name) {
                return expected;
            }
            visited.push(name.clone());
        }
    }

    /// The cut nearest the apex at or above `name`.
    fn cut_above(&self, zone: &str, name: &str) -> Option<String> {
        let mut cut = None;
        let mut at = name;
        while is_under(at, zone) && at != zone {
            if self.sets.iter().any(|set| set.zone == zone && set.owner == at && set.record_type == "NS") {
                cut = Some(at.to_owned());
            }
            at = parent(at);
        }
        cut
    }

    fn items(&self) -> Vec<Item> {
        let zones = self.zones.iter().map(|name| zone(name, 7));
        zones.chain(self.sets.iter().map(item)).collect()
    }
}

fn item(set: &Set) -> Item {
    let data: Vec<&str> = set.data.iter().map(String::as_str).collect();
    rrset(set.zone, &set.owner, set.record_type, &data)
}

/// Names over few labels, so that they meet.
fn name_below(zone: &'static str) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "ns"]), 0..4).prop_map(move |mut labels| {
        labels.push(zone);
        labels.join(".")
    })
}

fn a_set() -> impl Strategy<Value = Set> {
    let zone = prop::sample::select(APEXES.to_vec());
    let kind = prop::sample::select(vec!["A", "A", "TXT", "MX", "CNAME", "CNAME", "NS", "DS"]);
    zone.prop_flat_map(move |zone| {
        (name_below(zone), any::<bool>(), kind.clone(), name_below("z.test"), any::<u8>()).prop_map(
            move |(name, wild, record_type, target, n)| {
                let wild = wild && record_type != "NS";
                let owner = if wild { format!("*.{name}") } else { name };
                let data = match record_type {
                    "A" => vec![format!("192.0.2.{n}"), "192.0.2.200".into()],
                    "TXT" => vec![format!("v{n}")],
                    "MX" => vec![format!("{n} {target}.")],
                    "NS" if n > 128 => vec![format!("{target}."), "ns.outside.example.".into()],
                    "DS" => vec![format!("{n} 8 2 {}", "AB".repeat(32))],
                    _ => vec![format!("{target}.")],
                };
                Set { zone, owner, record_type, data }
            },
        )
    })
    .prop_filter("rejected by themselves", |set| {
        let apex = set.owner == set.zone;
        !(apex && (set.record_type == "CNAME" || set.record_type == "DS"))
    })
}

fn a_world() -> impl Strategy<Value = World> {
    (prop::sample::subsequence(APEXES.to_vec(), 1..=3), prop::collection::vec(a_set(), 0..24)).prop_map(
        |(zones, mut sets)| {
            let mut seen = BTreeSet::new();
            sets.retain(|set| seen.insert((set.zone, set.owner.clone(), set.record_type)));
            World { zones, sets }
        },
    )
}

fn questions(world: &World) -> Vec<String> {
    let mut names = BTreeSet::new();
    for name in world.sets.iter().map(|set| set.owner.as_str()).chain(APEXES) {
        names.insert(name.to_owned());
        names.insert(format!("x.{name}"));
        names.insert(format!("a.y.{name}"));
        names.insert(parent(name).to_owned());
        names.insert(name.replace("*.", "q."));
        names.insert(name.replace("a.", "c."));
    }
    names.remove("");
    names.into_iter().collect()
}

/// The codec, built without DNSSEC, prints DS data as bytes: whose they are is what the model compares.
fn without_ds_data(records: BTreeSet<Rec>) -> BTreeSet<Rec> {
    let plain = |rec: Rec| if rec.1 == "DS" { (rec.0, rec.1, rec.2, String::new()) } else { rec };
    records.into_iter().map(plain).collect()
}

fn compare(world: &World, zones: &Zones) -> Result<(), TestCaseError> {
    for question in questions(world) {
        for record_type in ["A", "TXT", "MX", "CNAME", "NS", "SOA", "DS", "ANY", "AAAA"] {
            let mut expected = world.answer(&question, record_type);
            expected.answers = without_ds_data(expected.answers);
            let mut got = ask(zones, &question, record_type);
            got.answers = without_ds_data(got.answers);
            let seen =
                Expected { rcode: got.rcode, aa: got.aa, answers: got.answers, authority: got.authority };
            prop_assert_eq!(&seen, &expected, "{} {} in {:#?}", question, record_type, world);
            for (owner, record_type, _, data) in &got.additional {
                let known = world.sets.iter().any(|set| {
                    format!("{}.", set.owner) == *owner
                        && set.record_type == record_type
                        && set.data.contains(data)
                });
                prop_assert!(known, "additional {} {} {}", owner, record_type, data);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn answers_equal_the_reference(world in a_world(), chunk in 1usize..8) {
        let mut writer = Writer::new();
        for items in world.items().chunks(chunk) {
            apply(&mut writer, items);
        }
        compare(&world, &writer.zones())?;
    }

    #[test]
    fn changes_leave_what_a_fresh_start_would(before in a_world(), after in a_world()) {
        let (mut writer, zones) = serving(&before.items());
        let keys = |world: &World| world.items().into_iter().map(|(key, _)| key).collect::<BTreeSet<Key>>();
        let gone: Vec<Key> = keys(&before).difference(&keys(&after)).cloned().collect();
        let items = after.items();
        let applied = writer.apply(items.iter().map(|(key, intent)| (key, intent)), &gone);
        prop_assert!(applied.rejected.is_empty());
        prop_assert_eq!(zones.counts().zones, after.zones.len());
        prop_assert_eq!(zones.counts().rrsets, after.sets.len());
        compare(&after, &zones)?;
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), room in 0usize..1400) {
        harmless(&bytes, room)?;
    }

    #[test]
    fn mangled_queries_do_no_harm(
        name in "[a-z*.]{0,60}",
        number in prop::sample::select(vec![1u16, 2, 5, 6, 15, 16, 33, 43, 255, 252, 41]),
        edns in prop::option::of(any::<u16>()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        cut in prop::option::of(any::<prop::sample::Index>()),
        room in prop::sample::select(vec![0usize, 5, 12, 20, 100, 512, 1232, 4096]),
    ) {
        let name = format!("{}.z.test", name.split('.').filter(|label| !label.is_empty()).collect::<Vec<_>>().join("."));
        let mut bytes = packet(&name, number, edns);
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        harmless(&bytes, room)?;
    }
}

/// No panic, nothing beyond the limits, no answer to an answer, errors no larger than their query.
fn harmless(bytes: &[u8], room: usize) -> Result<(), TestCaseError> {
    thread_local! {
        static ZONES: (Writer, Zones) = serving(&[
            zone("z.test", 1),
            rrset("z.test", "a.z.test", "A", &["192.0.2.1"; 1]),
            rrset("z.test", "*.z.test", "MX", &["10 a.z.test."]),
            rrset("z.test", "b.z.test", "CNAME", &["c.w.z.test."]),
            rrset("z.test", "*.w.z.test", "CNAME", &["b.z.test."]),
            rrset("z.test", "n.z.test", "NS", &["ns.n.z.test."]),
        ]);
    }
    ZONES.with(|(_, zones)| {
        for transport in [Transport::Udp { max: 1232 }, Transport::Tcp] {
            let mut out = vec![0; room];
            let answered = zones.answer(bytes, transport, &mut out);
            prop_assert!(answered.len <= room);
            if let Transport::Udp { .. } = transport {
                prop_assert!(answered.len <= 1232);
            }
            if bytes.len() < 12 || bytes[2] & 0x80 != 0 {
                prop_assert_eq!(answered.outcome, Outcome::Dropped);
            }
            prop_assert_eq!(answered.outcome == Outcome::Dropped, answered.len == 0);
            if answered.outcome == Outcome::Error {
                prop_assert!(answered.len <= bytes.len() + 6, "{} from {}", answered.len, bytes.len());
            }
            if answered.len > 0 {
                prop_assert_eq!(&out[..2], &bytes[..2]);
                prop_assert!(out[2] & 0x80 != 0);
                // The independent codec reads every answer.
                decode(&out[..answered.len]);
            }
            let mut slip = vec![0; room];
            let len = hosting_dns_zone::truncated(bytes, &mut slip);
            prop_assert!(len <= room && len <= bytes.len());
        }
        Ok(())
    })
}
