//! What the model test does not reach: exact words, large views, the brake at its real limits.

use std::sync::{Arc, Mutex};

use hosting_intent::{Bytes, Cause, Intent, Rejection, message as m};
use prost::Message;

use super::*;
use crate::Batch;

#[derive(Default)]
struct Disk {
    stored: Option<(Meta, BTreeMap<Key, Record>)>,
    /// Cannot be read beyond so many records.
    damaged_after: Option<usize>,
    full: bool,
    writes: Vec<(usize, bool)>,
}

#[derive(Clone, Default)]
struct TestJournal(Arc<Mutex<Disk>>);

impl Journal for TestJournal {
    fn load(&mut self, each: &mut dyn FnMut(&Key, Record)) -> Result<Option<Meta>, LedgerError> {
        let disk = self.0.lock().unwrap();
        let Some((meta, view)) = &disk.stored else { return Ok(None) };
        for (key, record) in view.iter().take(disk.damaged_after.unwrap_or(usize::MAX)) {
            each(key, record.clone());
        }
        if disk.damaged_after.is_some() {
            let (path, aside, problem) = ("ledger".into(), "aside".into(), "torn".into());
            return Err(LedgerError::Corrupt { path, aside, problem });
        }
        Ok(Some(meta.clone()))
    }

    fn write(&mut self, batch: LedgerBatch<'_>) -> Result<(), LedgerError> {
        let mut disk = self.0.lock().unwrap();
        if disk.full {
            return Err(LedgerError::Full { path: "ledger".into(), problem: "none left".into() });
        }
        let mut view = match disk.stored.take() {
            Some((_, view)) if !batch.replace_all => view,
            _ => BTreeMap::new(),
        };
        let mut written = 0;
        for (key, record) in batch.records {
            written += 1;
            match record {
                Some(record) => view.insert(key, record),
                None => view.remove(&key),
            };
        }
        disk.stored = Some((batch.meta.clone(), view));
        disk.writes.push((written, batch.replace_all));
        Ok(())
    }
}

/// Keeps what is in effect; refuses routes of tenant `refused`.
#[derive(Default)]
struct TestReplica {
    view: BTreeMap<Key, (u64, Intent)>,
    batches: Vec<(u64, usize, usize)>,
}

impl Replica for TestReplica {
    type Intent = Intent;

    fn check(&self, _: &Key, intent: &Intent) -> Result<(), Rejection> {
        match intent {
            Intent::Route(route) if route.tenant_id == "refused" => {
                Err(Rejection::Invalid { field: "tenant_id", problem: "refused".into() })
            }
            _ => Ok(()),
        }
    }

    fn publish(&mut self, batch: Batch<Intent>) {
        self.batches.push((batch.revision, batch.upserts.len(), batch.removals.len()));
        for (item, intent) in batch.upserts {
            self.view.insert(item.key, (item.revision, intent));
        }
        for removal in batch.removals {
            assert!(self.view.remove(&removal.key).is_some(), "removed twice: {}", removal.key);
        }
    }
}

/// The same, and its view may come in pieces at a start.
#[derive(Default)]
struct InPieces {
    told: Arc<Mutex<TestReplica>>,
    more: Vec<bool>,
}

impl Replica for InPieces {
    type Intent = Intent;
    const PIECES: Option<usize> = Some(10);

    fn check(&self, key: &Key, intent: &Intent) -> Result<(), Rejection> {
        TestReplica::default().check(key, intent)
    }

    fn publish(&mut self, batch: Batch<Intent>) {
        self.more.push(batch.more);
        self.told.lock().unwrap().publish(batch);
    }
}

type Tested = Subscriber<TestJournal, TestReplica>;

fn config() -> Config {
    Config {
        audience: "edge/c".parse().unwrap(),
        build: "test".into(),
        kinds: vec![Kind::Route, Kind::TenantState, Kind::ShardPool],
        brake: Brake::default(),
    }
}

fn opened(journal: &TestJournal) -> Tested {
    Subscriber::open(config(), journal.clone(), TestReplica::default()).unwrap()
}

fn route_key(n: usize) -> Key {
    Key::new(Kind::Route, format!("host-{n}.example"))
}

fn route(n: usize, tenant: &str, revision: u64) -> Item {
    let value = m::Route { tenant_id: tenant.into(), ..m::Route::default() }.encode_to_vec();
    item(route_key(n), value, revision, Cause::Planner)
}

fn state(n: usize, state: m::State, cause: Cause, revision: u64) -> Item {
    let value = m::TenantState { state: state as i32, ..m::TenantState::default() }.encode_to_vec();
    item(Key::new(Kind::TenantState, format!("t_{n}")), value, revision, cause)
}

fn item(key: Key, value: Vec<u8>, revision: u64, cause: Cause) -> Item {
    Item { key, revision, value: Bytes::from(value), cause, traceparent: String::new(), rollout: 0 }
}

fn frame(frame: Frame) -> Down {
    Down { frame: Some(frame) }
}

fn welcome(epoch: &str) -> Down {
    frame(Frame::Welcome(wire::Welcome { epoch: epoch.into(), ..wire::Welcome::default() }))
}

fn delta(prev: u64, revision: u64, upserts: &[Item], removals: &[(Key, Cause)]) -> Down {
    frame(Frame::Delta(wire::Delta {
        prev,
        revision,
        upserts: upserts.iter().map(crate::item_to_wire).collect(),
        removals: removals
            .iter()
            .map(|(key, cause)| {
                crate::removal_to_wire(&Removal {
                    key: key.clone(),
                    cause: *cause,
                    traceparent: String::new(),
                    rollout: 0,
                })
            })
            .collect(),
        more: false,
        ..wire::Delta::default()
    }))
}

fn snapshot(epoch: &str, revision: u64, items: &[Item]) -> Vec<Down> {
    vec![
        frame(Frame::SnapshotBegin(wire::SnapshotBegin { epoch: epoch.into(), base: revision })),
        frame(Frame::SnapshotItems(wire::SnapshotItems {
            items: items.iter().map(crate::item_to_wire).collect(),
        })),
        frame(Frame::SnapshotEnd(wire::SnapshotEnd {
            revision,
            count: items.len() as u64,
            digest: Bytes::copy_from_slice(&Digest::of(items).to_bytes()),
            ..wire::SnapshotEnd::default()
        })),
    ]
}

fn send(subscriber: &mut Tested, frames: impl IntoIterator<Item = Down>, now: Instant) -> Vec<Up> {
    frames.into_iter().flat_map(|frame| subscriber.on_frame(frame, now).unwrap()).collect()
}

/// A subscriber with `items` in effect at (e1, 10) and on disk.
fn started(journal: &TestJournal, items: &[Item], now: Instant) -> Tested {
    let mut subscriber = opened(journal);
    subscriber.hello();
    send(&mut subscriber, [welcome("e1")], now);
    assert!(send(&mut subscriber, snapshot("e1", 10, items), now).is_empty());
    subscriber.flush(now);
    subscriber
}

fn acked(up: Up) -> wire::Ack {
    match up.frame {
        Some(wire::up::Frame::Ack(ack)) => ack,
        other => panic!("no ack: {other:?}"),
    }
}

fn is_want_snapshot(ups: &[Up]) -> bool {
    matches!(ups, [Up { frame: Some(wire::up::Frame::WantSnapshot(_)) }])
}

#[test]
fn unknown_is_not_empty() {
    let (journal, now) = (TestJournal::default(), Instant::now());
    let mut subscriber = opened(&journal);
    assert_eq!(subscriber.status().position, None);
    assert!(subscriber.replica().batches.is_empty());
    subscriber.hello();
    send(&mut subscriber, [welcome("e1")], now);
    send(&mut subscriber, snapshot("e1", 0, &[]), now);
    assert_eq!(subscriber.replica().batches, [(0, 0, 0)]);
    subscriber.flush(now);
    drop(subscriber);
    assert_eq!(opened(&journal).replica().batches, [(0, 0, 0)], "known to be empty, from disk");
}

#[test]
fn a_bad_item_does_not_take_its_neighbours_down() {
    let (journal, now) = (TestJournal::default(), Instant::now());
    let mut subscriber = started(&journal, &[route(1, "a", 1), route(2, "a", 2)], now);
    let unknown = item(Key { kind: 4711, name: "x".into() }, vec![1, 2, 3], 11, Cause::Planner);
    let zone = item(Key::new(Kind::Zone, "example.com"), vec![], 11, Cause::Planner);
    let garbage = item(route_key(3), vec![0xff; 9], 11, Cause::Planner);
    let changes = [route(1, "refused", 11), route(2, "b", 11), unknown, zone, garbage];
    assert!(send(&mut subscriber, [delta(10, 11, &changes, &[])], now).is_empty());
    let ack = acked(subscriber.take_ack().unwrap());
    assert_eq!((ack.applied, ack.durable, ack.has_exceptions), (11, 10, true));
    let listed: Vec<_> =
        ack.exceptions.iter().map(|e| (e.r#type(), e.kind, e.key.as_str(), e.revision)).collect();
    use wire::exception::Type;
    assert_eq!(
        listed,
        [
            (Type::Rejected, 3, "host-1.example", 11),
            (Type::Rejected, 3, "host-3.example", 11),
            (Type::Unsupported, 10, "example.com", 11),
            (Type::Unsupported, 4711, "x", 11),
        ]
    );
    assert!(ack.exceptions[0].reason.contains("tenant_id"), "{}", ack.exceptions[0].reason);
    let view = |subscriber: &Tested| {
        subscriber
            .replica()
            .view
            .iter()
            .map(|(key, (revision, _))| (key.name.clone(), *revision))
            .collect::<Vec<_>>()
    };
    assert_eq!(view(&subscriber), [("host-1.example".into(), 1), ("host-2.example".into(), 11)]);
    subscriber.flush(now);
    assert!(!acked(subscriber.take_ack().unwrap()).has_exceptions, "the set did not change");
    assert!(subscriber.take_ack().is_none());

    // The last good one and the quarantine survive a restart.
    let digest = subscriber.digest();
    drop(subscriber);
    let mut subscriber = opened(&journal);
    assert_eq!(view(&subscriber), [("host-1.example".into(), 1), ("host-2.example".into(), 11)]);
    assert_eq!(subscriber.digest(), digest);
    let status = subscriber.status();
    assert_eq!((status.rejected, status.unsupported, status.count, status.effective), (2, 2, 5, 2));
    subscriber.hello();
    assert!(acked(subscriber.ack()).has_exceptions, "told anew in every session");

    // Corrected: out of the quarantine.
    send(&mut subscriber, [welcome("e1"), delta(11, 12, &[route(1, "c", 12)], &[])], now);
    assert_eq!(view(&subscriber), [("host-1.example".into(), 12), ("host-2.example".into(), 11)]);
    assert_eq!(subscriber.status().rejected, 1);
}

#[test]
fn a_build_that_knows_more_applies_what_was_kept() {
    let (journal, now) = (TestJournal::default(), Instant::now());
    let mut old = Config { kinds: vec![Kind::Route], ..config() };
    old.build = "old".into();
    let mut subscriber =
        Subscriber::<_, _, Strict>::open(old, journal.clone(), TestReplica::default()).unwrap();
    subscriber.hello();
    let items = [route(1, "a", 1), state(1, m::State::Active, Cause::Person, 2)];
    for down in [welcome("e1")].into_iter().chain(snapshot("e1", 10, &items)) {
        subscriber.on_frame(down, now).unwrap();
    }
    assert_eq!(subscriber.status().unsupported, 1);
    subscriber.flush(now);
    let digest = subscriber.digest();
    drop(subscriber);
    let mut subscriber = opened(&journal);
    assert_eq!(subscriber.replica().view.len(), 2);
    assert_eq!((subscriber.status().unsupported, subscriber.digest()), (0, digest));
    assert!(subscriber.wants_flush(now), "the verdict is new to the disk");
    subscriber.flush(now);
    assert_eq!(journal.0.lock().unwrap().writes.last(), Some(&(1, false)));
}

#[test]
fn a_gap_a_lie_and_another_epoch_each_ask_for_a_snapshot() {
    let (journal, now) = (TestJournal::default(), Instant::now());
    let items = [route(1, "a", 1)];
    let bookmark = |revision, digest: Digest| {
        frame(Frame::Bookmark(wire::Bookmark {
            revision,
            head: 99,
            count: 1,
            digest: Bytes::copy_from_slice(&digest.to_bytes()),
            ..wire::Bookmark::default()
        }))
    };
    for (what, wrong) in [
        ("gap", delta(11, 12, &[route(2, "b", 12)], &[])),
        ("old", delta(9, 10, &[route(2, "b", 10)], &[])),
        ("missed the last", bookmark(12, Digest::of(&items))),
        ("another view", bookmark(10, Digest::EMPTY)),
    ] {
        let mut subscriber = started(&TestJournal::default(), &items, now);
        assert!(is_want_snapshot(&send(&mut subscriber, [wrong], now)), "{what}");
        // What is still under way is ignored, even if it would fit.
        assert!(send(&mut subscriber, [delta(10, 11, &[route(3, "c", 11)], &[])], now).is_empty());
        assert_eq!(subscriber.status().position.unwrap().revision, 10, "{what}");
        assert!(send(&mut subscriber, snapshot("e1", 12, &items), now).is_empty());
        assert!(send(&mut subscriber, [bookmark(12, Digest::of(&items))], now).is_empty());
        let status = subscriber.status();
        assert_eq!(
            (status.position.unwrap().revision, status.caught_up, status.head),
            (12, true, 99),
            "{what}"
        );
    }
    let mut subscriber = started(&journal, &items, now);
    subscriber.hello();
    let ups = send(&mut subscriber, [welcome("e2"), delta(10, 11, &[route(2, "b", 11)], &[])], now);
    assert!(is_want_snapshot(&ups), "10 of e1 is not 10 of e2");
    let back = snapshot("e1", 9, &items).remove(0);
    assert!(matches!(subscriber.on_frame(back, now), Err(SessionEnd::Unsound(_))), "back within an epoch");
    assert_eq!(subscriber.replica().view.len(), 1);
}

#[test]
fn a_repair_that_does_not_help_ends_the_session() {
    let (journal, now) = (TestJournal::default(), Instant::now());
    let mut subscriber = started(&journal, &[route(1, "a", 1)], now);
    let mut wrong = snapshot("e1", 12, &[route(1, "a", 1), route(2, "a", 2)]);
    wrong.remove(1);
    for _ in 0..REPAIRS {
        assert!(is_want_snapshot(&send(&mut subscriber, wrong.clone(), now)));
    }
    send(&mut subscriber, wrong.drain(..1), now);
    assert!(matches!(subscriber.on_frame(wrong.remove(0), now), Err(SessionEnd::Unsound(_))));
    assert_eq!(subscriber.replica().view.len(), 1, "an unverified snapshot changes nothing");
}

#[test]
fn a_revision_of_many_frames_is_published_at_its_end() {
    let (journal, now) = (TestJournal::default(), Instant::now());
    let mut subscriber = started(&journal, &[route(1, "a", 1)], now);
    let part =
        |upserts: &[Item], removals: &[(Key, Cause)], more| match delta(10, 11, upserts, removals).frame {
            Some(Frame::Delta(delta)) => frame(Frame::Delta(wire::Delta { more, ..delta })),
            _ => unreachable!(),
        };
    send(&mut subscriber, [part(&[], &[(route_key(1), Cause::Person)], true)], now);
    send(&mut subscriber, [part(&[route(2, "b", 11)], &[], true)], now);
    assert_eq!(subscriber.replica().batches.len(), 1);
    send(&mut subscriber, [part(&[route(1, "c", 11)], &[], false)], now);
    assert_eq!(
        subscriber.replica().batches.last(),
        Some(&(11, 2, 0)),
        "withdrawn and created anew: it stays"
    );
}

#[test]
fn a_full_disk_holds_durable_back_and_is_written_later() {
    let (journal, now) = (TestJournal::default(), Instant::now());
    let mut subscriber = started(&journal, &[route(1, "a", 1)], now);
    journal.0.lock().unwrap().full = true;
    send(&mut subscriber, [delta(10, 11, &[route(2, "b", 11)], &[])], now);
    subscriber.flush(now);
    let ack = acked(subscriber.take_ack().unwrap());
    assert_eq!((ack.applied, ack.durable), (11, 10));
    assert!(subscriber.status().disk_alarm.unwrap().contains("no space"));
    assert!(!subscriber.wants_flush(now), "not at once");
    send(&mut subscriber, [delta(11, 12, &[], &[(route_key(1), Cause::Person)])], now);
    let later = now + Duration::from_secs(1);
    subscriber.flush(later);
    assert!(!subscriber.wants_flush(later + Duration::from_secs(1)), "the wait doubles");
    journal.0.lock().unwrap().full = false;
    subscriber.flush(later + Duration::from_secs(2));
    assert_eq!(subscriber.status().disk_alarm, None);
    let ack = acked(subscriber.take_ack().unwrap());
    assert_eq!((ack.applied, ack.durable), (12, 12));
    let names: Vec<_> = opened(&journal).replica().view.keys().map(|key| key.name.clone()).collect();
    assert_eq!(names, ["host-2.example"]);
}

#[test]
fn a_view_that_is_lent_is_on_disk_and_one_that_is_taken_back_is_written_anew() {
    let (journal, now) = (TestJournal::default(), Instant::now());
    let mut subscriber = started(&journal, &[route(1, "a", 1)], now);
    journal.0.lock().unwrap().full = true;
    send(&mut subscriber, [delta(10, 11, &[route(2, "b", 11)], &[])], now);
    assert!(subscriber.lend(now).unwrap_err().contains("no space"));
    journal.0.lock().unwrap().full = false;
    // At once, whenever the next try was due.
    assert_eq!(subscriber.lend(now), Ok(()));
    assert_eq!(opened(&journal).replica().view.len(), 2);
    journal.0.lock().unwrap().stored = None;
    subscriber.taken_back();
    let ack = acked(subscriber.take_ack().unwrap());
    assert_eq!((ack.applied, ack.durable), (11, 0));
    subscriber.flush(now);
    assert_eq!(acked(subscriber.take_ack().unwrap()).durable, 11);
    assert_eq!(opened(&journal).replica().view.len(), 2);
}

#[test]
fn the_brake_holds_a_mass_removal_that_nobody_asked_for() {
    let (journal, now) = (TestJournal::default(), Instant::now());
    let items: Vec<Item> = (0..200).map(|n| route(n, "a", 1)).collect();
    let gone =
        |range: std::ops::Range<usize>, cause| -> Vec<_> { range.map(|n| (route_key(n), cause)).collect() };
    let mut subscriber = started(&journal, &items, now);
    // A person's word passes, however large.
    send(&mut subscriber, [delta(10, 11, &[], &gone(0..100, Cause::Person))], now);
    assert_eq!(subscriber.replica().view.len(), 100);
    // The first 50 of the planner's pass, the others do not; their neighbours do.
    send(&mut subscriber, [delta(11, 12, &[], &gone(100..150, Cause::Planner))], now);
    assert_eq!(subscriber.replica().view.len(), 50);
    let ups = send(
        &mut subscriber,
        [delta(12, 13, &[route(500, "new", 13)], &gone(150..180, Cause::Planner))],
        now,
    );
    assert!(ups.is_empty(), "the stream goes on");
    assert_eq!((subscriber.replica().view.len(), subscriber.status().held), (51, 30));
    assert_eq!(subscriber.status().count, 21, "the digest is over what the feed wants");
    let ack = acked(subscriber.take_ack().unwrap());
    assert!(ack.exceptions.iter().all(|e| e.r#type() == wire::exception::Type::Held && e.revision == 13));

    // Held survives a restart; a name created anew is served again; an operator's word lets the rest go.
    subscriber.flush(now);
    drop(subscriber);
    let mut subscriber = opened(&journal);
    assert_eq!((subscriber.replica().view.len(), subscriber.status().held), (51, 30));
    subscriber.hello();
    send(&mut subscriber, [welcome("e1"), delta(13, 14, &[route(150, "again", 14)], &[])], now);
    assert_eq!((subscriber.replica().view.len(), subscriber.status().held), (51, 29));
    send(&mut subscriber, [crate::release("operator")], now);
    assert_eq!((subscriber.replica().view.len(), subscriber.status().held), (22, 0));
    assert!(acked(subscriber.take_ack().unwrap()).has_exceptions, "an empty set is told too");
    subscriber.flush(now);
    assert_eq!(opened(&journal).replica().view.len(), 22);
}

#[test]
fn the_brake_counts_sweeps_and_suspensions() {
    let (journal, now) = (TestJournal::default(), Instant::now());
    let items: Vec<Item> = (0..100).map(|n| state(n, m::State::Active, Cause::Person, 1)).collect();
    let mut subscriber = started(&journal, &items, now);
    let suspended: Vec<Item> = (0..60).map(|n| state(n, m::State::Suspended, Cause::Planner, 11)).collect();
    send(&mut subscriber, [delta(10, 11, &suspended, &[])], now);
    assert_eq!(subscriber.status().held, 60);
    let in_effect = |subscriber: &Tested| {
        subscriber.replica().view.values().filter(|(_, intent)| intent.takes_away()).count()
    };
    assert_eq!(in_effect(&subscriber), 0, "the last good ones stay in effect");
    send(&mut subscriber, [delta(11, 12, &[state(7, m::State::Suspended, Cause::Person, 12)], &[])], now);
    assert_eq!((in_effect(&subscriber), subscriber.status().held), (1, 59), "a person asked for this one");
    send(&mut subscriber, [crate::release("operator")], now);
    assert_eq!((in_effect(&subscriber), subscriber.status().held), (60, 0));

    // A store put back to almost nothing: the sweep of its snapshot is held.
    let mut subscriber = started(&TestJournal::default(), &items, now);
    send(&mut subscriber, snapshot("e2", 3, &items[..5]), now);
    let status = subscriber.status();
    assert_eq!((status.held, status.effective, status.count), (95, 100, 5));
    assert_eq!(status.position, Some(Position { epoch: "e2".into(), revision: 3 }));
    // And comes back: nothing was ever gone.
    send(&mut subscriber, snapshot("e2", 4, &items), now);
    let status = subscriber.status();
    assert_eq!((status.held, status.effective, status.count), (0, 100, 100));
    assert_eq!(subscriber.replica().batches.last(), Some(&(4, 0, 0)));
}

#[test]
fn a_repeated_snapshot_publishes_only_what_differs() {
    let (journal, now) = (TestJournal::default(), Instant::now());
    let mut items: Vec<Item> = (0..30).map(|n| route(n, "a", 1)).collect();
    let mut subscriber = started(&journal, &items, now);
    items[3] = route(3, "b", 12);
    items.remove(9);
    send(&mut subscriber, snapshot("e1", 12, &items), now);
    assert_eq!(subscriber.replica().batches.last(), Some(&(12, 1, 1)));
    subscriber.flush(now);
    assert_eq!(journal.0.lock().unwrap().writes.last(), Some(&(2, false)), "the disk too");
}

#[test]
fn an_ack_fits_a_message_whatever_is_wrong() {
    let (journal, now) = (TestJournal::default(), Instant::now());
    let long = "é".repeat(70_000);
    let items: Vec<Item> = (0..1_500)
        .map(|n| {
            let value = m::ShardPool { name: long.clone(), nodes: vec![] }.encode_to_vec();
            item(Key::new(Kind::ShardPool, format!("s{n}")), value, 1, Cause::Planner)
        })
        .collect();
    let mut subscriber = started(&journal, &items, now);
    let up = subscriber.take_ack().unwrap();
    assert!(up.encoded_len() < 1 << 20);
    let ack = acked(up);
    assert_eq!(ack.exceptions.len(), 1_001);
    assert_eq!(ack.exceptions.last().unwrap().reason, "500 more are not listed");
    assert_eq!(shortened(&"é".repeat(400)).len(), 303);
}

#[test]
fn a_real_ledger_carries_the_view_over_a_restart() {
    let now = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.ledger");
    let open = || {
        let ledger = hosting_ledger::Ledger::open(&path, "edge/c").unwrap();
        Subscriber::<_, _, Strict>::open(config(), ledger, TestReplica::default()).unwrap()
    };
    let mut subscriber = open();
    subscriber.hello();
    let items: Vec<Item> = (0..500).map(|n| route(n, "a", 1)).collect();
    for down in [welcome("e1")].into_iter().chain(snapshot("e1", 10, &items)) {
        subscriber.on_frame(down, now).unwrap();
    }
    subscriber.flush(now);
    let gone = [(route_key(3), Cause::Person)];
    subscriber.on_frame(delta(10, 11, &[route(4, "refused", 11)], &gone), now).unwrap();
    subscriber.flush(now);
    let (digest, view) = (subscriber.digest(), subscriber.replica().view.clone());
    drop(subscriber);
    let subscriber = open();
    assert_eq!(subscriber.replica().view, view);
    assert_eq!(subscriber.digest(), digest);
    let status = subscriber.status();
    assert_eq!((status.count, status.effective, status.rejected), (499, 499, 1));
    assert_eq!(status.durable, Some(Position { epoch: "e1".into(), revision: 11 }));
}

fn rollouts(upto: u64, held: &[u64]) -> Down {
    crate::rollouts(wire::Rollouts { upto, held: held.to_vec(), watched: true })
}

fn part_of(rollout: u64, item: Item) -> Item {
    Item { rollout, ..item }
}

#[test]
fn a_rollout_waits_and_narrow_changes_pass_it() {
    let (journal, now) = (TestJournal::default(), Instant::now());
    let mut subscriber = started(&journal, &[route(1, "a", 1), route(2, "a", 2), route(3, "a", 3)], now);
    let tenants = |subscriber: &Tested| {
        let view = &subscriber.replica().view;
        view.values()
            .map(|(_, intent)| match intent {
                Intent::Route(route) => route.tenant_id.clone(),
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    // Nothing was said of the rollout, and then that it has not come: what is new is served, what is served stays.
    let wide = |n, tenant, revision| part_of(11, route(n, tenant, revision));
    send(&mut subscriber, [delta(10, 11, &[wide(1, "b", 11), wide(2, "b", 11), wide(4, "b", 11)], &[])], now);
    assert_eq!(tenants(&subscriber), ["a", "a", "a", "b"]);
    send(&mut subscriber, [rollouts(11, &[11])], now);
    assert_eq!(
        (tenants(&subscriber), subscriber.status().waiting),
        (vec!["a".into(), "a".into(), "a".into(), "b".to_owned()], 2)
    );
    let ack = acked(subscriber.take_ack().unwrap());
    let listed: Vec<_> =
        ack.exceptions.iter().map(|e| (e.r#type(), e.kind, e.key.as_str(), e.revision)).collect();
    assert_eq!(listed, [(wire::exception::Type::Waiting, 0, "rollout/11", 11)]);
    assert_eq!(ack.applied, 11, "the log goes on");

    // Others' changes pass, and so does a change of what waits.
    send(&mut subscriber, [delta(11, 12, &[route(2, "c", 12), route(3, "c", 12)], &[])], now);
    assert_eq!(
        (tenants(&subscriber), subscriber.status().waiting),
        (vec!["a".into(), "c".into(), "c".into(), "b".to_owned()], 1)
    );

    // It outlives a restart, after which nothing is open before the controller says so.
    subscriber.flush(now);
    drop(subscriber);
    let mut subscriber = opened(&journal);
    assert_eq!(
        (tenants(&subscriber), subscriber.status().waiting),
        (vec!["a".into(), "c".into(), "c".into(), "b".to_owned()], 1)
    );
    subscriber.hello();
    send(&mut subscriber, [welcome("e1"), rollouts(12, &[])], now);
    assert_eq!(
        (tenants(&subscriber), subscriber.status().waiting),
        (vec!["b".into(), "c".into(), "c".into(), "b".to_owned()], 0)
    );
    assert!(acked(subscriber.take_ack().unwrap()).exceptions.is_empty());
}

#[test]
fn what_a_rollout_removes_stays_until_it_comes_and_taken_back_it_never_goes() {
    let (journal, now) = (TestJournal::default(), Instant::now());
    let mut subscriber = started(&journal, &[route(1, "a", 1), route(2, "a", 2)], now);
    send(&mut subscriber, [rollouts(10, &[])], now);
    let gone = |n| wire::Removal {
        rollout: 11,
        ..crate::removal_to_wire(&Removal {
            key: route_key(n),
            cause: Cause::Planner,
            traceparent: String::new(),
            rollout: 0,
        })
    };
    let removals = vec![gone(1), gone(2)];
    let step = wire::Delta { prev: 10, revision: 11, removals, ..wire::Delta::default() };
    send(&mut subscriber, [frame(Frame::Delta(step))], now);
    assert_eq!((subscriber.replica().view.len(), subscriber.status().waiting), (2, 2));
    assert_eq!(subscriber.status().count, 0, "the digest is over what the feed wants");
    // Taken back for the first one: it was never gone.
    send(&mut subscriber, [delta(11, 12, &[route(1, "a", 12)], &[])], now);
    assert_eq!((subscriber.replica().view.len(), subscriber.status().waiting), (2, 1));
    send(&mut subscriber, [rollouts(12, &[])], now);
    assert_eq!((subscriber.replica().view.len(), subscriber.status().waiting), (1, 0));
    assert_eq!(subscriber.replica().view.keys().next(), Some(&route_key(1)));
}

#[test]
fn a_view_comes_in_pieces_to_whom_takes_them_and_the_last_one_says_so() {
    let (journal, now) = (TestJournal::default(), Instant::now());
    let items: Vec<Item> = (0..25).map(|n| route(n, "a", 1)).collect();
    let mut whole = started(&journal, &items, now);
    // One is not in effect, and is judged again at each start.
    send(&mut whole, [delta(10, 11, &[route(7, "refused", 11)], &[])], now);
    whole.flush(now);
    drop(whole);
    let mut subscriber =
        Subscriber::<_, _, Strict>::open(config(), journal.clone(), InPieces::default()).unwrap();
    assert_eq!(subscriber.replica().more, [true, true, false]);
    assert_eq!(subscriber.replica().told.lock().unwrap().batches, [(11, 10, 0), (11, 10, 0), (11, 5, 0)]);
    let again = opened(&journal);
    assert_eq!(again.replica().batches, [(11, 25, 0)], "others get it as a whole");
    assert_eq!(subscriber.replica().told.lock().unwrap().view, again.replica().view);
    assert_eq!((subscriber.status(), subscriber.digest()), (again.status(), again.digest()));
    // What comes later is whole, however large.
    subscriber.hello();
    subscriber.on_frame(welcome("e1"), now).unwrap();
    let more: Vec<Item> = (100..150).map(|n| route(n, "a", 12)).collect();
    subscriber.on_frame(delta(11, 12, &more, &[]), now).unwrap();
    assert_eq!(subscriber.replica().more, [true, true, false, false]);
}

#[test]
fn an_empty_view_that_is_known_is_said_and_one_that_is_not_known_is_not() {
    let open = |journal: &TestJournal| {
        Subscriber::<_, _, Strict>::open(config(), journal.clone(), InPieces::default()).unwrap()
    };
    let (journal, now) = (TestJournal::default(), Instant::now());
    assert!(open(&journal).replica().more.is_empty());
    let full: Vec<Item> = (0..10).map(|n| route(n, "a", 1)).collect();
    for (items, pieces) in [(&full[..0], vec![false]), (&full[..], vec![true, false])] {
        let journal = TestJournal::default();
        drop(started(&journal, items, now));
        assert_eq!(open(&journal).replica().more, pieces);
    }
}

#[test]
fn of_a_ledger_that_is_damaged_half_way_nothing_is_published() {
    let (journal, now) = (TestJournal::default(), Instant::now());
    let items: Vec<Item> = (0..25).map(|n| route(n, "a", 1)).collect();
    drop(started(&journal, &items, now));
    journal.0.lock().unwrap().damaged_after = Some(22);
    let replica = InPieces::default();
    let told = Arc::clone(&replica.told);
    let opened = Subscriber::<_, _, Strict>::open(config(), journal, replica);
    assert!(matches!(opened.map(|_| ()), Err(LedgerError::Corrupt { .. })));
    assert!(told.lock().unwrap().batches.is_empty());
}
