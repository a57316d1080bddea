use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hosting_intent::{Bytes, Cause, EdgeIntent, Item, Key, Kind, Rejection, Removal, message};
use tokio_util::sync::CancellationToken;

use hosting_proto::feed as wire;

use super::checks::*;
use super::*;
use crate::Batch;
use crate::Replica;

fn item(name: &str, revision: u64) -> (Item, EdgeIntent) {
    let item = Item {
        key: Key::new(Kind::Route, name),
        revision,
        value: Bytes::new(),
        cause: Cause::Person,
        traceparent: String::new(),
        rollout: 0,
    };
    (item, EdgeIntent::Route(message::Route::default()))
}

fn gone(name: &str) -> Removal {
    Removal { key: Key::new(Kind::Route, name), cause: Cause::Person, traceparent: String::new(), rollout: 0 }
}

fn batch(
    epoch: &str,
    revision: u64,
    upserts: Vec<(Item, EdgeIntent)>,
    removals: Vec<Removal>,
) -> Batch<EdgeIntent> {
    Batch { epoch: epoch.into(), revision, upserts, removals, more: false }
}

fn noted(batch: &Batch<EdgeIntent>) -> Noted<EdgeIntent> {
    Noted::of(batch, 0, |_| true)
}

/// A view at revision 10 of which everything was asked for.
fn settled() -> Checks<EdgeIntent> {
    let mut checks = Checks::default();
    checks.note(noted(&batch("e1", 10, vec![item("old", 4)], Vec::new())));
    answer_all(&mut checks, |_| Ok(()));
    checks
}

/// The names that were asked for, in order.
fn answer_all(checks: &mut Checks<EdgeIntent>, answer: impl Fn(&str) -> Result<(), String>) -> Vec<String> {
    let now = Instant::now();
    let mut asked = Vec::new();
    while let Some(ask) = checks.next(now) {
        checks.done(&ask.key, ask.revision, answer(&ask.key.name), now);
        asked.push(ask.key.name);
    }
    asked
}

fn ranges(list: &[wire::RevisionRange]) -> Vec<(u64, u64)> {
    list.iter().map(|range| (range.first, range.last)).collect()
}

#[test]
fn what_is_not_asked_for_yet_is_pending_and_the_newest_comes_first() {
    let mut checks = settled();
    checks.note(noted(&batch("e1", 11, vec![item("a", 11)], Vec::new())));
    checks.note(noted(&batch("e1", 14, vec![item("b", 14)], Vec::new())));
    // Nobody knows at which revision after 14 it went.
    checks.note(noted(&batch("e1", 20, Vec::new(), vec![gone("c")])));
    let said = checks.report();
    assert_eq!((said.epoch.as_str(), said.upto), ("e1", 20));
    assert_eq!(ranges(&said.pending), [(11, 11), (14, 20)]);
    assert_eq!(ranges(&said.sampled), [(0, 10)], "of a view that was loaded whole only some are asked for");
    let first = checks.next(Instant::now()).unwrap();
    assert_eq!((first.key.name.as_str(), first.wanted), ("c", None));
    assert_eq!(ranges(&checks.report().pending), [(11, 11), (14, 20)], "asked for is not answered");
    checks.done(&first.key, first.revision, Ok(()), Instant::now());
    assert_eq!(ranges(&checks.report().pending), [(11, 11), (14, 14)]);
    assert_eq!(answer_all(&mut checks, |_| Ok(())), ["b", "a"]);
    assert_eq!(checks.report().pending, []);
}

#[test]
fn of_a_view_that_comes_in_pieces_the_newest_of_all_pieces_are_asked_for() {
    let mut checks = Checks::default();
    // The revisions go up and down over the pieces.
    let revision = |n: u64| 1 + n * 7 % 1_000;
    for piece in 0..5 {
        let items = (0..200).map(|n| piece * 200 + n).map(|n| item(&format!("h{n}"), revision(n)));
        let mut piece_of = batch("e1", 1_000, items.collect(), Vec::new());
        piece_of.more = piece < 4;
        checks.note(Noted::of(&piece_of, checks.floor(), |_| true));
    }
    assert_eq!(ranges(&checks.report().sampled), [(0, 1_000)]);
    let asked: BTreeSet<String> = answer_all(&mut checks, |_| Ok(())).into_iter().collect();
    let newest = (0..1_000).filter(|n| revision(*n) > 900).map(|n| format!("h{n}"));
    assert_eq!(asked, newest.collect());
    // What comes after the view is asked for whole.
    let items = (0..300).map(|n| item(&format!("h{n}"), 1_001 + n)).collect();
    checks.note(Noted::of(&batch("e1", 1_300, items, Vec::new()), checks.floor(), |_| true));
    assert_eq!(answer_all(&mut checks, |_| Ok(())).len(), 300);
}

#[test]
fn what_fails_is_named_and_asked_for_again_until_it_is_served_or_replaced() {
    let mut checks = settled();
    let begun = Instant::now();
    checks.note(noted(&batch("e1", 11, vec![item("a", 11), item("b", 11)], Vec::new())));
    answer_all(&mut checks, |name| if name == "a" { Err("answers 404".into()) } else { Ok(()) });
    let said = checks.report();
    assert_eq!((said.pending.len(), said.failed.len(), checks.failing()), (0, 1, 1));
    assert_eq!((said.failed[0].key.as_str(), said.failed[0].revision), ("a", 11));
    assert_eq!(said.failed[0].reason, "answers 404");
    // Tried again, the longer the more seldom.
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let due = checks.due().unwrap();
        assert_eq!(checks.next(due - Duration::from_millis(1)), None);
        let ask = checks.next(due).unwrap();
        assert_eq!(checks.report().failed.len(), 1, "still not served while it is asked again");
        checks.done(&ask.key, 11, Err("answers 404".into()), due);
        pauses.push(checks.due().unwrap() - due);
    }
    assert!(pauses.is_sorted() && *pauses.last().unwrap() == AGAIN.1, "{pauses:?}");
    let ask = checks.next(begun + Duration::from_secs(3_600)).unwrap();
    // Replaced while it is asked for: the answer to the old one says nothing of the new one.
    checks.note(noted(&batch("e1", 12, vec![item("a", 12)], Vec::new())));
    checks.done(&ask.key, ask.revision, Ok(()), begun);
    let said = checks.report();
    assert_eq!((ranges(&said.pending), said.failed.len()), (vec![(12, 12)], 0));
    assert_eq!(answer_all(&mut checks, |_| Ok(())), ["a"]);
    assert_eq!((checks.report().pending.len(), checks.due()), (0, None));
}

#[test]
fn what_there_is_no_room_for_is_said_to_be_sampled() {
    let mut checks = settled();
    for n in 0..MAX_WANTED + 50 {
        let at = 11 + n as u64;
        checks.note(noted(&batch("e1", at, vec![item(&format!("n{n}"), at)], Vec::new())));
    }
    let said = checks.report();
    assert_eq!(ranges(&said.sampled), [(0, 60)]);
    assert_eq!(ranges(&said.pending), [(61, 1060)]);
    assert_eq!(answer_all(&mut checks, |_| Ok(())).len(), MAX_WANTED);
    // One batch that alone is too large.
    let many: Vec<_> = (0..MAX_WANTED + 7).map(|n| item(&format!("m{n}"), 2_000 + n as u64)).collect();
    checks.note(noted(&batch("e1", 5_000, many, Vec::new())));
    assert_eq!(ranges(&checks.report().sampled), [(0, 60), (2_000, 2_006)]);
    assert_eq!(ranges(&checks.report().pending), [(2_007, 3_006)]);
    // All of them fail: a hundred are named, and of the others nobody may think that they are served.
    answer_all(&mut checks, |_| Err("no answer".into()));
    let said = checks.report();
    assert_eq!((said.failed.len(), said.failed[0].revision), (LISTED_FAILURES, 3_006));
    assert_eq!(ranges(&said.pending), [(2_007, 2_906)]);
    assert!(prost::Message::encoded_len(&said) < 100_000);
}

#[test]
fn another_epoch_begins_anew() {
    let mut checks = settled();
    checks.note(noted(&batch("e1", 11, vec![item("a", 11)], Vec::new())));
    answer_all(&mut checks, |_| Err("answers 404".into()));
    let view: Vec<_> = (0..500).map(|n| item(&format!("v{n}"), n)).collect();
    checks.note(noted(&batch("e2", 700, view, Vec::new())));
    let said = checks.report();
    assert_eq!((said.epoch.as_str(), said.upto, said.failed.len()), ("e2", 700, 0));
    assert_eq!((ranges(&said.sampled), ranges(&said.pending)), (vec![(0, 700)], vec![(400, 499)]));
    assert_eq!(answer_all(&mut checks, |_| Ok(())).len(), OF_A_VIEW);
}

struct Table(Arc<Mutex<BTreeSet<String>>>);

impl Replica for Table {
    type Intent = EdgeIntent;

    fn check(&self, _: &Key, _: &EdgeIntent) -> Result<(), Rejection> {
        Ok(())
    }

    fn publish(&mut self, batch: Batch<EdgeIntent>) {
        let mut table = self.0.lock().unwrap();
        table.extend(batch.upserts.into_iter().map(|(item, _)| item.key.name));
        table.retain(|name| batch.removals.iter().all(|removal| removal.key.name != *name));
    }
}

/// Looks into a table, which may not be the one that the replica writes.
struct Look(Arc<Mutex<BTreeSet<String>>>);

#[async_trait::async_trait]
impl SelfCheck<EdgeIntent> for Look {
    async fn check(&self, key: &Key, wanted: Option<&EdgeIntent>) -> Result<(), String> {
        let there = self.0.lock().unwrap().contains(&key.name);
        if there == wanted.is_some() { Ok(()) } else { Err(format!("there: {there}")) }
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_under_checks_says_what_is_served() {
    for stale in [false, true] {
        let (written, read) = (Arc::<Mutex<BTreeSet<String>>>::default(), Arc::default());
        let read = if stale { read } else { Arc::clone(&written) };
        let (mut replica, checks) = SelfChecks::of(Table(written), CheckMetrics::default());
        let mut said = checks.served();
        let stop = CancellationToken::new();
        let running = tokio::spawn(checks.run(Arc::new(Look(read)), stop.clone()));
        replica.publish(batch("e1", 10, vec![item("old", 4)], Vec::new()));
        for n in 0..300 {
            let at = 11 + n;
            replica.publish(batch(
                "e1",
                at,
                vec![item(&format!("n{n}"), at)],
                vec![gone(&format!("n{}", n / 2))],
            ));
        }
        let begun = tokio::time::Instant::now();
        let last = loop {
            let served = ServedWatch::next(Some(&mut said)).await.unwrap();
            let all = if stale { served.failed.len() == LISTED_FAILURES } else { served.pending.is_empty() };
            if served.upto == 310 && all {
                break served;
            }
        };
        if stale {
            assert!(last.failed.iter().any(|one| one.key == "n299" && one.reason == "there: false"));
            assert!(last.failed.iter().all(|one| one.key != "n3"), "gone in both");
        } else {
            assert_eq!((last.failed.len(), ranges(&last.sampled)), (0, vec![(0, 10)]));
            // A hundred at once, then ten a second: hundreds of items were never asked for in a moment.
            assert!(begun.elapsed() > Duration::from_secs(15), "{:?}", begun.elapsed());
        }
        stop.cancel();
        running.await.unwrap();
    }
}
