//! Readers under a stream of changes: every answer is one of those that were ever right.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hosting_dns_zone::{Transport, rcode};
use hosting_intent::{Key, Kind};
use support::*;

const Z: &str = "example.com";

#[test]
fn answers_stay_right_while_zones_are_swapped() {
    let child = "child.example.com";
    let (mut writer, zones) = serving(&[
        zone(Z, 1),
        address_set("c1", &["192.0.2.1"], &[]),
        auto(Z, "app.example.com", "A", "c1"),
        rrset(Z, "www.example.com", "CNAME", &["app.example.com."]),
        rrset(Z, "host.child.example.com", "A", &["192.0.2.5"]),
    ]);
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (zones, stop, asked) = (zones.clone(), Arc::clone(&stop), Arc::clone(&asked));
            std::thread::spawn(move || {
                let packets = ["www.example.com", "app.example.com", "host.child.example.com"]
                    .map(|name| packet(name, 1, Some(1232)));
                let mut out = vec![0; 1232];
                while !stop.load(Ordering::Relaxed) {
                    for packet in &packets {
                        let answered = zones.answer(packet, Transport::Udp { max: 1232 }, &mut out);
                        assert_eq!(answered.rcode, rcode::NOERROR);
                        let response = decode(&out[..answered.len]);
                        assert!(
                            response.aa && response.answers.iter().any(|rec| rec.1 == "A"),
                            "{response:?}"
                        );
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let moved = [rrset(child, "host.child.example.com", "A", &["192.0.2.5"]), zone(child, 1)];
    let stays = rrset(Z, "host.child.example.com", "A", &["192.0.2.5"]);
    let (moved_keys, stays_key): (Vec<Key>, Key) =
        (moved.iter().map(|(key, _)| key.clone()).collect(), stays.0.clone());
    let mut round = 0u32;
    while round < 2000 || asked.load(Ordering::Relaxed) < 5000 {
        round += 1;
        let address = format!("192.0.2.{}", round % 250);
        apply(
            &mut writer,
            &[
                zone(Z, round),
                address_set("c1", &[&address], &[]),
                rrset(Z, &format!("n{}.example.com", round % 100), "A", &[&address]),
                offset(round),
            ],
        );
        // A name moves into a zone of its own and back, within one batch each.
        let applied = if round % 2 == 1 {
            writer.apply(moved.iter().map(|(key, intent)| (key, intent)), [&stays_key])
        } else {
            writer.apply([(&stays.0, &stays.1)], &moved_keys)
        };
        assert!(applied.rejected.is_empty());
        if readers.iter().any(std::thread::JoinHandle::is_finished) {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    apply(&mut writer, &[zone(Z, 1)]);
    remove(&mut writer, &[Key::new(Kind::Zone, Z)]);
    assert_eq!(ask(&zones, "www.example.com", "A").rcode, rcode::REFUSED);
}
