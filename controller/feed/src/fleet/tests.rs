use super::*;

#[test]
fn one_that_catches_up_does_not_widen_what_others_applied() {
    let audience = edge("edge/c1");
    let mut news = News::default();
    for (before, after) in [(100, 101), (5, 6), (6, 8), (101, 102), (7, 7), (100, 101)] {
        news.moved(&audience, before, after);
    }
    assert_eq!(news.applied[&audience], [(5, 8), (100, 102)]);
    for n in 0..News::MAX_RANGES as u64 {
        news.moved(&audience, 1_000 + 10 * n, 1_001 + 10 * n);
    }
    assert!(news.everything, "more than is kept apart");
}

fn edge(audience: &str) -> Audience {
    audience.parse().unwrap()
}

const LEASE: Duration = Duration::from_secs(15);

fn who(node_id: &str) -> Who {
    Who { audience: edge("edge/c1"), node_id: node_id.into() }
}

fn joining(head: u64, cursor: Option<u64>) -> Joining {
    let cursor = cursor.map(|revision| ("e".to_owned(), revision));
    Joining { build: "1".into(), epoch: "e".into(), head, cursor }
}

fn at(applied: u64) -> Ack {
    Ack { epoch: "e".into(), applied, durable: applied, ..Ack::default() }
}

fn join(core: &mut Core, node_id: &str, joining: Joining, now: Instant) -> (u64, mpsc::Receiver<Order>) {
    let (sender, receiver) = mpsc::channel(ORDERS);
    (core.join(&who(node_id), joining, sender, now), receiver)
}

fn served(core: &Core, node_id: &str, now: Instant) -> bool {
    core.view(&who(node_id), &core.entries[&who(node_id)], now).in_service
}

#[test]
fn a_newcomer_is_in_service_once_it_has_the_head_it_saw() {
    let (mut core, now) = (Core::new(LEASE), Instant::now());
    let (session, _orders) = join(&mut core, "n1", joining(10, None), now);
    assert!(!served(&core, "n1", now));
    assert_eq!(core.ack(&who("n1"), session, at(9), now), Some(true));
    assert!(!served(&core, "n1", now));
    assert_eq!(core.ack(&who("n1"), session, at(10), now), Some(true));
    assert!(served(&core, "n1", now));
    assert_eq!(core.ack(&who("n1"), session, at(10), now), Some(false), "a heartbeat changes nothing");
    assert_eq!(core.dirty.len(), 1);
}

#[test]
fn silence_ends_the_service_and_heartbeats_keep_it() {
    let (mut core, start) = (Core::new(LEASE), Instant::now());
    let (session, _orders) = join(&mut core, "n1", joining(0, None), start);
    core.ack(&who("n1"), session, at(0), start);
    for beat in 1..10 {
        let now = start + Duration::from_secs(5 * beat);
        assert!(!core.expire(now).0, "beat {beat}");
        core.ack(&who("n1"), session, at(0), now);
        assert!(core.deadlines.len() <= 1);
    }
    let last = start + Duration::from_secs(45);
    let just_before = last + LEASE - Duration::from_millis(1);
    let (changed, next) = core.expire(just_before);
    assert_eq!((changed, next), (false, Some(last + LEASE)));
    assert!(served(&core, "n1", just_before));
    let (changed, next) = core.expire(last + LEASE);
    assert_eq!((changed, next), (true, None));
    assert!(!served(&core, "n1", last + LEASE));
    // It was only slow: its next word brings it back and arms the lease again.
    let back = last + LEASE * 2;
    assert_eq!(core.ack(&who("n1"), session, at(0), back), Some(true));
    assert!(served(&core, "n1", back));
    assert!(core.expire(back + LEASE).0);
}

#[test]
fn within_the_lease_a_reconnect_stays_in_service_and_afterwards_it_must_catch_up() {
    let (mut core, start) = (Core::new(LEASE), Instant::now());
    let (session, _orders) = join(&mut core, "n1", joining(5, Some(5)), start);
    core.ack(&who("n1"), session, at(5), start);
    let soon = start + Duration::from_secs(10);
    let (session, _orders) = join(&mut core, "n1", joining(8, Some(5)), soon);
    assert!(served(&core, "n1", soon), "it may be serving all along");
    assert_eq!(core.entries[&who("n1")].applied, 5);
    core.ack(&who("n1"), session, at(8), soon);
    let late = soon + LEASE;
    core.expire(late);
    let (session, _orders) = join(&mut core, "n1", joining(9, Some(8)), late);
    assert!(!served(&core, "n1", late));
    core.ack(&who("n1"), session, at(8), late);
    assert!(!served(&core, "n1", late));
    core.ack(&who("n1"), session, at(9), late);
    assert!(served(&core, "n1", late));
}

#[test]
fn a_wiped_node_does_not_keep_its_old_position() {
    let (mut core, now) = (Core::new(LEASE), Instant::now());
    let (session, _orders) = join(&mut core, "n1", joining(5, Some(5)), now);
    core.ack(&who("n1"), session, at(5), now);
    join(&mut core, "n1", joining(5, None), now).1.close();
    assert_eq!(core.entries[&who("n1")].applied, 0);
    let other = Joining { epoch: "f".into(), ..joining(5, Some(5)) };
    join(&mut core, "n1", other, now).1.close();
    assert_eq!((core.entries[&who("n1")].epoch.as_str(), core.entries[&who("n1")].applied), ("f", 0));
}

#[test]
fn the_newer_session_speaks_and_the_older_is_sent_away() {
    let (mut core, now) = (Core::new(LEASE), Instant::now());
    let (old, mut old_orders) = join(&mut core, "n1", joining(0, None), now);
    let (new, _new_orders) = join(&mut core, "n1", joining(0, None), now);
    assert!(matches!(old_orders.try_recv(), Ok(Order::Leave { .. })));
    assert_eq!(core.ack(&who("n1"), old, at(7), now), None);
    assert_eq!(core.entries[&who("n1")].applied, 0);
    assert!(core.ack(&who("n1"), new, at(7), now).is_some());
}

#[test]
fn lagging_names_the_silent_and_the_slow() {
    let fleet = Fleet::new(LEASE);
    let members: Vec<_> = ["a", "b", "c"]
        .map(|node| fleet.join(&edge("edge/c1"), node, joining(0, None)))
        .into_iter()
        .collect();
    members[0].ack(at(4));
    members[1].ack(at(3));
    assert_eq!(fleet.lagging(&edge("edge/c1"), "e", 4), ["b", "c"]);
    assert_eq!(fleet.lagging(&edge("edge/c1"), "other", 4), ["a", "b", "c"]);
    assert_eq!(fleet.lagging(&edge("edge/c"), "e", 4), [""; 0]);
    assert_eq!(fleet.in_service(&edge("edge/c1")).len(), 2);
    let standings = fleet.standings(&edge("edge/c1"));
    let short: Vec<_> = standings.iter().map(|s| (s.node_id.as_str(), s.applied, s.in_service)).collect();
    assert_eq!(short, [("a", 4, true), ("b", 3, true), ("c", 0, false)]);
    let exceptions = vec![Exception { kind: 3, key: "k".into(), ..Exception::default() }];
    members[1].ack(Ack { exceptions: exceptions.clone(), has_exceptions: true, ..at(3) });
    assert_eq!(fleet.exception(&edge("edge/c1"), "b", 3, "k").as_ref(), exceptions.first());
    assert_eq!(fleet.exception(&edge("edge/c1"), "a", 3, "k"), None);
    assert!(fleet.release(&edge("edge/c1"), "a", "ops"));
    assert!(!fleet.release(&edge("edge/c1"), "x", "ops"));
    drop(members);
    assert!(!fleet.release(&edge("edge/c1"), "a", "ops"));
    assert_eq!(fleet.in_service(&edge("edge/c1")).len(), 2, "a broken connection alone proves nothing");
    fleet.forget("a");
    assert_eq!(fleet.subscribers(&edge("edge/c1")).len(), 2);
}

#[test]
fn exceptions_are_bounded_and_long_lists_saved_now_and_then() {
    let fleet = Fleet::new(LEASE);
    let member = fleet.join(&edge("edge/c1"), "a", joining(0, None));
    let list = |count: usize, revision| {
        (0..count)
            .map(|n| Exception {
                key: n.to_string(),
                revision,
                reason: "x".repeat(9_000),
                ..Exception::default()
            })
            .collect()
    };
    let say = |count, revision| {
        member.ack(Ack { exceptions: list(count, revision), has_exceptions: true, ..at(0) });
    };
    let saved =
        |marks: Vec<Watermark>| marks.into_iter().find_map(|mark| mark.exceptions).map(|list| list.len());
    let start = Instant::now();
    say(MAX_EXCEPTIONS + 10, 1);
    assert_eq!(saved(fleet.take_dirty(start)), Some(MAX_EXCEPTIONS));
    assert_eq!(fleet.subscribers(&edge("edge/c1"))[0].exceptions[0].reason.len(), crate::words::MAX_TEXT);
    for beat in 1..20 {
        say(MAX_EXCEPTIONS, 1 + beat);
        assert_eq!(saved(fleet.take_dirty(start + Duration::from_millis(200 * beat))), None);
    }
    assert_eq!(saved(fleet.take_dirty(start + LIST_EVERY)), Some(MAX_EXCEPTIONS), "without another word");
    assert_eq!(saved(fleet.take_dirty(start + LIST_EVERY * 2)), None);
    // What is short is saved at once.
    say(1, 50);
    assert_eq!(saved(fleet.take_dirty(start + LIST_EVERY * 2)), Some(1));
    say(0, 51);
    assert_eq!(saved(fleet.take_dirty(start + LIST_EVERY * 2)), Some(0));
}

#[derive(Default)]
struct Sink {
    saved: Mutex<Vec<Watermark>>,
    fail: Mutex<u32>,
}

#[async_trait::async_trait]
impl StatusSink for Sink {
    async fn watermarks(&self, marks: &[Watermark]) -> Result<(), crate::registry::RegistryError> {
        let mut fail = self.fail.lock().unwrap();
        if *fail > 0 {
            *fail -= 1;
            return Err(crate::registry::RegistryError("disk full".into()));
        }
        self.saved.lock().unwrap().extend_from_slice(marks);
        Ok(())
    }

    async fn report(
        &self,
        _: &str,
        _: &feed::ReportRequest,
    ) -> Result<crate::registry::Reported, crate::registry::RegistryError> {
        Ok(crate::registry::Reported::Taken)
    }

    async fn traffic(&self, _: &str, _: &feed::TrafficReport) -> Result<(), crate::registry::RegistryError> {
        Ok(())
    }
}

#[tokio::test]
async fn positions_are_merged_saved_and_saved_again_after_a_failure() {
    let (fleet, sink, stop) = (Fleet::new(LEASE), Sink::default(), CancellationToken::new());
    *sink.fail.lock().unwrap() = 1;
    let member = fleet.join(&edge("edge/c1"), "a", joining(0, None));
    let exceptions = vec![Exception { key: "k".into(), ..Exception::default() }];
    member.ack(Ack { exceptions: exceptions.clone(), has_exceptions: true, ..at(1) });
    for revision in 2..=500 {
        member.ack(at(revision));
    }
    let run = fleet.run(&sink, Duration::from_millis(5), stop.clone());
    let talk = async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        stop.cancel();
    };
    tokio::join!(run, talk);
    let saved = sink.saved.lock().unwrap();
    assert_eq!(saved.len(), 1);
    assert_eq!((saved[0].applied, &saved[0].exceptions), (500, &Some(exceptions)));
}

#[tokio::test]
async fn the_end_of_a_lease_is_announced_without_anybody_asking() {
    let (fleet, sink, stop) =
        (Fleet::new(Duration::from_millis(100)), Sink::default(), CancellationToken::new());
    let member = fleet.join(&edge("edge/c1"), "a", joining(0, None));
    member.ack(at(0));
    assert!(fleet.is_in_service(&edge("edge/c1"), "a"));
    let mut changes = fleet.changes();
    changes.mark_unchanged();
    let run = fleet.run(&sink, Duration::from_millis(1), stop.clone());
    let wait = async {
        changes.changed().await.unwrap();
        assert!(!fleet.is_in_service(&edge("edge/c1"), "a"));
        stop.cancel();
    };
    tokio::join!(run, wait);
    fleet.restore([(edge("edge/c1"), "b".into(), remote("former", 3))]);
    assert!(fleet.is_in_service(&edge("edge/c1"), "b"), "until a lease has passed");
}

fn remote(controller: &str, applied: u64) -> Remote {
    Remote {
        controller: controller.into(),
        connected: true,
        in_service: true,
        build: "1".into(),
        epoch: "e".into(),
        applied,
        durable: applied,
        exceptions: Vec::new(),
        served: None,
    }
}

#[test]
fn what_another_controller_serves_is_alive_while_that_one_is() {
    let (mut core, start) = (Core::new(LEASE), Instant::now());
    core.learn(who("n1"), Some(remote("b", 7)), start);
    assert!(served(&core, "n1", start));
    assert_eq!(core.news.applied[&edge("edge/c1")], [(0, 7)]);
    let after = |seconds| start + Duration::from_secs(seconds);
    let running = BTreeSet::from(["b".to_owned()]);
    for beat in 1..20 {
        core.alive(&running, after(2 * beat));
        assert!(!core.expire(after(2 * beat)).0 && served(&core, "n1", after(2 * beat)));
    }
    // The other controller is gone: its subscribers have one lease to come here.
    core.alive(&BTreeSet::from(["c".to_owned()]), after(50));
    assert!(served(&core, "n1", after(52)) && !served(&core, "n1", after(53)));
    assert!(core.expire(after(53)).0);
    assert!(core.dirty.is_empty(), "what this controller does not serve is not its to save");
    // One that was not connected any more had its lease from then on.
    core.learn(who("n2"), Some(Remote { connected: false, ..remote("b", 7) }), after(60));
    core.alive(&running, after(70));
    assert!(served(&core, "n2", after(74)) && !served(&core, "n2", after(75)));
}

#[test]
fn one_that_goes_to_another_controller_and_comes_back_never_left() {
    let (mut core, start) = (Core::new(LEASE), Instant::now());
    let (session, mut orders) = join(&mut core, "n1", joining(0, None), start);
    core.ack(&who("n1"), session, at(7), start);
    core.dirty.clear();
    core.learn(who("n1"), Some(remote("b", 8)), start);
    assert!(matches!(orders.try_recv(), Ok(Order::Leave { .. })), "the session here ends");
    assert_eq!(core.ack(&who("n1"), session, at(9), start), None);
    assert_eq!((core.entries[&who("n1")].applied, core.dirty.len()), (8, 0));
    let (_, _orders) = join(&mut core, "n1", joining(20, Some(8)), start + Duration::from_secs(3));
    assert!(served(&core, "n1", start + Duration::from_secs(3)));
    assert!(core.entries[&who("n1")].claims && core.dirty.len() == 1, "this one speaks for it again");
    core.learn(who("n1"), None, start);
    assert!(core.entries.is_empty());
}

#[test]
fn a_controller_that_was_away_ends_its_sessions_and_says_nothing_of_them() {
    let fleet = Fleet::new(LEASE);
    let mut member = fleet.join(&edge("edge/c1"), "a", joining(0, None));
    member.ack(at(1));
    fleet.abandon("away");
    assert!(matches!(member.orders.try_recv(), Ok(Order::Leave { .. })));
    assert!(!member.ack(at(2)));
    assert!(fleet.take_dirty(Instant::now()).is_empty());
    drop(member);
    assert!(fleet.take_dirty(Instant::now()).is_empty());
}

#[test]
fn what_was_saved_replaces_what_is_stale_and_no_session() {
    let fleet = Fleet::new(LEASE);
    let audience = edge("edge/c1");
    let member = fleet.join(&audience, "here", joining(0, None));
    member.ack(at(5));
    fleet.learn(audience.clone(), "stale".into(), Some(remote("b", 1)));
    let behind = Remote { in_service: false, ..remote("b", 2) };
    fleet.restore([
        (audience.clone(), "here".into(), remote("b", 3)),
        (audience.clone(), "stale".into(), remote("c", 9)),
        (audience.clone(), "behind".into(), behind),
    ]);
    let standings = fleet.standings(&audience);
    let seen: Vec<_> = standings.iter().map(|s| (s.node_id.as_str(), s.applied, s.in_service)).collect();
    assert_eq!(seen, [("behind", 2, false), ("here", 5, true), ("stale", 9, true)]);
}

#[test]
fn a_client_that_waits_as_long_as_it_ever_does_is_back_within_its_lease() {
    let (_, longest) = hosting_intent_sync::client::Options::default().backoff;
    // It chooses up to that; two attempts fail.
    assert!(longest * 3 <= LEASE, "{longest:?}");
}

#[test]
fn what_a_subscriber_serves_is_dated_bounded_and_forgotten_with_its_session() {
    use hosting_proto::feed::{FailedCheck, RevisionRange, Served};
    let (mut core, now) = (Core::new(LEASE), Instant::now());
    let (session, _orders) = join(&mut core, "n1", joining(0, None), now);
    let word = |upto, pending: &[u64]| Served {
        epoch: "e".into(),
        upto,
        pending: pending.iter().map(|at| RevisionRange { first: *at, last: *at }).collect(),
        ..Served::default()
    };
    let marks = |core: &Core| {
        let served = core.entries[&who("n1")].served.clone().unwrap();
        served.marks.iter().map(|mark| (mark.upto, mark.at_ms)).collect::<Vec<_>>()
    };
    assert!(core.served(&who("n1"), session, word(5, &[]), 100, now));
    assert!(
        core.served(&who("n1"), session, word(9, &[7]), 200, now),
        "up to the one that is not asked for yet"
    );
    assert!(core.served(&who("n1"), session, word(9, &[]), 300, now));
    assert!(core.served(&who("n1"), session, word(9, &[]), 400, now), "known since 300");
    assert_eq!(marks(&core), [(5, 100), (6, 200), (9, 300)]);
    assert!(core.dirty.contains(&who("n1")), "it is saved");
    // What failed is not served either, and what it says in words is made fit to be shown.
    let failed = FailedCheck { kind: 3, key: "a.example".into(), revision: 8, reason: "\u{1b}[2J".into() };
    core.served(&who("n1"), session, Served { failed: vec![failed], ..word(20, &[]) }, 500, now);
    assert_eq!(marks(&core).last(), Some(&(9, 300)));
    assert_eq!(core.entries[&who("n1")].served.as_ref().unwrap().failed[0].reason, "\u{fffd}[2J");
    for n in 0..100 {
        core.served(&who("n1"), session, word(30 + n, &[]), 600, now);
    }
    assert_eq!((marks(&core).len(), marks(&core)[0].0), (32, 98));
    // Lists without an end are no word at all.
    core.served(&who("n1"), session, word(200, &(0..100).collect::<Vec<_>>()), 700, now);
    let said = core.entries[&who("n1")].served.clone().unwrap();
    assert_eq!(said.pending, [RevisionRange { first: 0, last: 200 }]);

    let (newer, _orders) = join(&mut core, "n1", joining(0, None), now);
    assert_eq!(core.entries[&who("n1")].served, None, "the process may be another one");
    assert!(!core.served(&who("n1"), session, word(300, &[]), 800, now), "of a session that is over");
    assert!(core.served(&who("n1"), newer, word(300, &[]), 900, now));
    assert_eq!(marks(&core), [(300, 900)]);
}

#[tokio::test]
async fn what_was_served_in_another_epoch_says_nothing() {
    use hosting_proto::feed::Served;
    let (fleet, audience) = (Fleet::new(LEASE), edge("edge/c1"));
    let member = fleet.join(&audience, "n1", joining(0, None));
    assert_eq!(fleet.served(&audience, "n1"), None);
    let word = |epoch: &str| Served { epoch: epoch.into(), upto: 7, ..Served::default() };
    assert!(member.served(word("e")));
    assert_eq!(fleet.served(&audience, "n1").map(|served| served.upto), Some(7));
    assert!(member.served(word("before")));
    assert_eq!(fleet.served(&audience, "n1"), None);
}
