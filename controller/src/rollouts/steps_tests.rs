use std::time::Duration;

use super::*;

const SECOND: i64 = 1_000;

fn member(audience: &str, node: &str) -> Member {
    (audience.parse().unwrap(), node.to_owned())
}

fn seen(audience: &str, node: &str) -> Seen {
    Seen {
        member: member(audience, node),
        in_service: true,
        waits: false,
        trouble: None,
        checks: true,
        health: Some(ClientHealth {
            start: 1,
            requests: 1_000,
            handshakes: 1_000,
            busy_us: 5_000_000,
            ..ClientHealth::default()
        }),
    }
}

fn edges(count: usize) -> Vec<Seen> {
    (0..count).map(|n| seen("edge/a", &format!("lb-{n:02}"))).collect()
}

fn rollout() -> Rollout {
    serde_json::from_value(serde_json::json!({
        "id": 7, "state": "waiting", "began_at": 0, "changed_at": 0, "by": null, "traceparent": "", "of": [],
        "revisions": [7], "replaces": [], "audiences": ["edge/a"], "step": 0, "step_at": 0, "opened": [], "first": [],
        "before": [], "reason": "", "revert": null, "conflicts": []
    }))
    .unwrap()
}

fn policy() -> RolloutPolicy {
    RolloutPolicy { watch: Duration::from_secs(10), ..RolloutPolicy::default() }
}

/// As nobody is disturbed: all is planned, nothing earlier is under way.
const CALM: (bool, bool) = (true, true);

fn further(rollout: &Rollout, seen: &[Seen], now: i64) -> Rollout {
    match look(rollout, &policy(), seen, now, CALM) {
        Next::Write(next) => *next,
        other => panic!("{other:?} at {now} of {rollout:?}"),
    }
}

/// At its first step.
fn begun(seen: &[Seen], now: i64) -> Rollout {
    let running = further(&rollout(), seen, now);
    assert_eq!((running.state, running.opened.len()), (RolloutState::Running, 0));
    further(&running, seen, now)
}

#[test]
fn it_goes_to_one_then_a_few_then_all_and_each_step_is_watched() {
    let seen = edges(30);
    let mut rollout = begun(&seen, 0);
    let mut reached = vec![rollout.opened.len()];
    for step in 1..3 {
        assert_eq!(look(&rollout, &policy(), &seen, step * 10 * SECOND - 1, CALM), Next::Stay);
        rollout = further(&rollout, &seen, step * 10 * SECOND);
        reached.push(rollout.opened.len());
    }
    assert_eq!(reached, [1, 3, 30]);
    assert_eq!(
        look(&rollout, &policy(), &seen, 29 * SECOND, CALM),
        Next::Stay,
        "the last step is watched too"
    );
    assert_eq!(further(&rollout, &seen, 30 * SECOND).state, RolloutState::Done);
}

#[test]
fn it_waits_for_who_has_not_applied_it_for_what_is_not_planned_and_for_earlier_ones() {
    let mut seen = edges(3);
    assert_eq!(look(&rollout(), &policy(), &seen, 0, (true, false)), Next::Stay);
    let rollout = begun(&seen, 0);
    assert_eq!(look(&rollout, &policy(), &seen, 60 * SECOND, (false, true)), Next::Stay);
    seen[0].waits = true;
    assert_eq!(look(&rollout, &policy(), &seen, 60 * SECOND, CALM), Next::Stay);
    seen[0].waits = false;
    seen[1].waits = true;
    assert_eq!(
        further(&rollout, &seen, 60 * SECOND).opened.len(),
        2,
        "that it waits where it has not come is as it should be"
    );
}

#[test]
fn who_is_away_stops_nothing_and_gets_it_with_all() {
    let mut seen = edges(3);
    seen[0].in_service = false;
    let mut rollout = begun(&seen, 0);
    assert_eq!(rollout.opened, [member("edge/a", "lb-01")]);
    rollout = further(&rollout, &seen, 10 * SECOND);
    assert_eq!(rollout.opened.len(), 2);
    assert_eq!(further(&rollout, &seen, 20 * SECOND).state, RolloutState::Done);
    // One that comes back meanwhile is among all.
    seen[0].in_service = true;
    assert_eq!(further(&rollout, &seen, 20 * SECOND).opened.len(), 3);
    for one in &mut seen {
        one.in_service = false;
    }
    let waiting = Rollout { id: 8, ..rollout.clone() };
    let waiting = Rollout { state: RolloutState::Waiting, step: 0, opened: Vec::new(), ..waiting };
    let running = further(&waiting, &seen, 0);
    assert_eq!(
        look(&running, &policy(), &seen, 60 * SECOND, CALM),
        Next::Stay,
        "all are away: not yet known is not empty"
    );
    assert_eq!(further(&running, &[], 0).state, RolloutState::Done, "nobody is registered");
}

#[test]
fn the_first_step_waits_a_little_for_how_clients_fare() {
    let mut seen = edges(2);
    seen[1].health = None;
    let running = further(&rollout(), &seen, 0);
    assert_eq!(look(&running, &policy(), &seen, 2_999, CALM), Next::Stay);
    assert_eq!(further(&running, &seen, 3_000).opened.len(), 1);
    seen[1].checks = false;
    assert_eq!(further(&running, &seen, 0).opened.len(), 1);
}

#[test]
fn early_steps_take_of_each_audience_one_after_the_other() {
    let mut seen = edges(2);
    seen.push(seen[0].clone());
    seen[2].member = member("edge/b", "lb-09");
    let rollout = begun(&seen, 0);
    let rollout = further(&rollout, &seen, 10 * SECOND);
    assert_eq!(rollout.opened, [member("edge/a", "lb-00"), member("edge/b", "lb-09")]);
}

#[test]
fn whoever_has_what_it_replaces_is_the_first() {
    let seen = edges(40);
    let first: Vec<Member> = [3, 5].into_iter().map(|n| seen[n].member.clone()).collect();
    let replacing = Rollout { first: first.clone(), ..rollout() };
    let running = further(&replacing, &seen, 0);
    let rollout = further(&running, &seen, 0);
    assert_eq!(rollout.opened, first);
    assert_eq!(further(&rollout, &seen, 10 * SECOND).opened.len(), 4);
}

#[test]
fn it_is_taken_back_when_it_hurts_and_nobody_is_blamed_for_what_others_meet_too() {
    let calm = edges(4);
    let rollout = begun(&calm, 0);
    let hurt = |change: fn(&mut Vec<Seen>)| {
        let mut seen = calm.clone();
        change(&mut seen);
        match look(&rollout, &policy(), &seen, SECOND, CALM) {
            Next::Revert(reason) => reason,
            Next::Stay => String::new(),
            other => panic!("{other:?}"),
        }
    };
    type Meets = fn(&mut ClientHealth);
    fn meet(one: &mut Seen, meets: Meets) {
        meets(one.health.as_mut().unwrap());
    }
    const FAILS: Meets =
        |health| (health.requests, health.failed) = (health.requests + 100, health.failed + 9);
    const FINE: Meets = |health| health.requests += 100;
    assert_eq!(
        hurt(|seen| {
            meet(&mut seen[0], FAILS);
            meet(&mut seen[1], FINE);
        }),
        "9 of 100 requests failed where it had come, 9.00 %; elsewhere 0.00 %"
    );
    assert_eq!(hurt(|seen| seen.iter_mut().for_each(|one| meet(one, FAILS))), "", "all fail alike");
    assert_eq!(
        hurt(|seen| meet(&mut seen[0], FAILS)),
        "9 of 100 requests failed where it had come, 9.00 %; before 0.00 %",
        "nobody else is asked anything"
    );
    assert_eq!(hurt(|seen| meet(&mut seen[1], FAILS)), "", "it has not come there");
    assert_eq!(
        hurt(|seen| meet(&mut seen[0], |health| (health.requests, health.failed) = (1_004, 4))),
        "",
        "too few"
    );
    assert_eq!(
        hurt(|seen| {
            meet(&mut seen[0], FAILS);
            seen[0].health.as_mut().unwrap().start = 2;
        }),
        "",
        "another start"
    );
    let text =
        hurt(|seen| meet(&mut seen[0], |health| (health.handshakes, health.failed_handshakes) = (1_010, 10)));
    assert!(text.contains("10 of 10 TLS handshakes failed"), "{text}");
    let text = hurt(|seen| {
        meet(&mut seen[0], |health| (health.requests, health.busy_us) = (1_100, 5_000_000 + 100 * 80_000))
    });
    assert!(text.contains("took 80 ms on average where it had come, before 5 ms"), "{text}");
    assert_eq!(hurt(|seen| seen[0].trouble = Some("refuses it".into())), "lb-00 (edge/a): refuses it");
    assert!(hurt(|seen| seen[0].in_service = false).contains("left service"));
    assert_eq!(hurt(|seen| seen[1].in_service = false), "");
    // One that is paused is watched all the same, and goes no further.
    let paused = Rollout { state: RolloutState::Paused, ..rollout.clone() };
    assert_eq!(look(&paused, &policy(), &calm, 60 * SECOND, CALM), Next::Stay);
    let mut seen = calm.clone();
    seen[0].trouble = Some("refuses it".into());
    assert!(matches!(look(&paused, &policy(), &seen, SECOND, CALM), Next::Revert(_)));
}
