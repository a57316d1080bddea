//! The overlay against a store that every step is written to at once.

use hosting_intent::{Bytes, Cause};
use proptest::prelude::*;

use super::*;
use crate::fake::resource;
use crate::overlay::Overlay;
use crate::{Change, Draft, IntentChange};

#[derive(Debug, Clone)]
enum Step {
    Put { id: u8, zone: u8, record_type: u8 },
    Remove(u8),
    Set { key: u8, owner: u8, value: u8 },
    Withdraw { key: u8, owner: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let put = (0..12_u8, 0..2_u8, 0..2_u8);
    let put = put.prop_map(|(id, zone, record_type)| Step::Put { id, zone, record_type });
    let set = (0..4_u8, 0..3_u8, 0..3_u8).prop_map(|(key, owner, value)| Step::Set { key, owner, value });
    let withdraw = (0..4_u8, 0..3_u8).prop_map(|(key, owner)| Step::Withdraw { key, owner });
    let step = prop_oneof![4 => put, 2 => (0..12_u8).prop_map(Step::Remove), 3 => set, 2 => withdraw];
    prop::collection::vec(step, 0..24)
}

fn record(id: u8, zone: u8, record_type: u8) -> Resource {
    let record_type = ["A", "TXT"][usize::from(record_type)];
    let spec = json!({"type": record_type, "name": "a.example", "content": "x", "ttl": 60});
    let mut record = resource(Kind::ZoneRecord, &format!("r{id:02}"), spec);
    record.parent = Some(format!("z{zone}"));
    record
}

fn intent(key: u8, owner: u8, value: Option<u8>) -> IntentChange {
    IntentChange {
        audience: at("edge/c"),
        key: Key::new(IntentKind::Route, format!("k{key}")),
        owner: format!("o{owner}"),
        value: value.map(|value| Bytes::copy_from_slice(&[value])),
        cause: Cause::Planner,
        traceparent: None,
        rollout: 0,
    }
}

/// As one change of a store.
fn change(step: &Step) -> Change {
    match step {
        Step::Put { id, zone, record_type } => {
            Change { put: vec![record(*id, *zone, *record_type)], ..Change::default() }
        }
        Step::Remove(id) => Change { remove: vec![format!("r{id:02}")], ..Change::default() },
        Step::Set { key, owner, value } => {
            Change { intents: vec![intent(*key, *owner, Some(*value))], ..Change::default() }
        }
        Step::Withdraw { key, owner } => {
            Change { intents: vec![intent(*key, *owner, None)], ..Change::default() }
        }
    }
}

async fn store(before: &[Step]) -> Fake {
    let mut store = Fake::new();
    for zone in ["z0", "z1"] {
        let zone = resource(Kind::Zone, zone, json!({"name": zone, "region_id": ""}));
        store.apply(Change { put: vec![zone], ..Change::default() }).await.unwrap();
    }
    for step in before {
        store.apply(change(step)).await.unwrap();
    }
    store.commit();
    store
}

/// Everything that can be read, page by page.
async fn read(world: &mut dyn World, page: u32) -> Vec<String> {
    let mut seen = Vec::new();
    for list in 0..5 {
        let mut after = String::new();
        loop {
            let found = match list {
                0 => world.children(Kind::ZoneRecord, "z0", &after, page).await,
                1 => world.children(Kind::ZoneRecord, "z1", &after, page).await,
                2 => world.with_facet(Kind::ZoneRecord, "type", "A", &after, page).await,
                3 => world.with_facet(Kind::ZoneRecord, "owner", "z1/a.example", &after, page).await,
                _ => world.list(Kind::ZoneRecord, &after, page).await,
            };
            let found = found.unwrap();
            seen.push(format!(
                "{list}: {:?}",
                found.iter().map(|one| (&one.id, &one.spec["type"])).collect::<Vec<_>>()
            ));
            match found.last() {
                Some(last) if found.len() == page as usize => after.clone_from(&last.id),
                Some(_) | None => break,
            }
        }
    }
    for id in 0..12 {
        seen.push(format!("{:?}", world.resource(&format!("r{id:02}")).await.unwrap()));
    }
    for owner in 0..3 {
        let rows = world.owned(&format!("o{owner}")).await.unwrap();
        seen.push(format!("{:?}", rows.iter().map(|row| (&row.key, &row.value)).collect::<Vec<_>>()));
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Reads see what was put, whatever was read before; what is written at the end is what every step would have written.
    #[test]
    fn the_overlay_reads_and_writes_as_if_every_step_were_stored(
        before in steps(), during in steps(), page in 1..5_u32, look in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut base, mut direct) = (store(&before).await, store(&before).await);
            let mut overlay = Overlay::new(&mut base);
            for step in &during {
                if look {
                    assert_eq!(read(&mut overlay, page).await, read(&mut direct, page).await, "before {step:?}");
                }
                match step {
                    Step::Put { id, zone, record_type } => {
                        overlay.put(record(*id, *zone, *record_type)).await.unwrap();
                    }
                    Step::Remove(id) => overlay.remove(&record(*id, 0, 0)),
                    Step::Set { key, owner, value } => overlay.intend(intent(*key, *owner, Some(*value))),
                    Step::Withdraw { key, owner } => {
                        // Planning withdraws what it owns.
                        let key_of = Key::new(IntentKind::Route, format!("k{key}"));
                        let owned = overlay.owned(&format!("o{owner}")).await.unwrap();
                        if owned.iter().any(|row| row.key == key_of) {
                            overlay.intend(intent(*key, *owner, None));
                        }
                    }
                }
                direct.apply(change(step)).await.unwrap();
            }
            assert_eq!(read(&mut overlay, page).await, read(&mut direct, page).await);
            overlay.write(None).await.unwrap();
            assert_eq!(read(&mut base, 100).await, read(&mut direct, 100).await);
        });
    }
}
