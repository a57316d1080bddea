//! The machine by itself: each rule, and any interleaving of two runners that crash, freeze and lose their leases.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const STEPS: [&str; 3] = ["one", "two", "three"];
const LEASE: i64 = 1_000;
const LIMIT: u32 = 3;

fn rules(now: i64) -> Rules<'static> {
    Rules {
        steps: &STEPS,
        undoes: true,
        backoff: Backoff { first: 100, most: 1_000 },
        lease: LEASE,
        now,
        random: 1.0,
    }
}

fn new_job() -> Job {
    Job {
        id: "job_1".into(),
        seq: 1,
        kind: "test".into(),
        subject: "s".into(),
        lane: "s".into(),
        brand: None,
        params: Value::Null,
        state: JobState::Waiting,
        due_at: 0,
        next_at: Some(0),
        set_at: 0,
        attempts: 0,
        attempt_limit: LIMIT,
        progress: None,
        error: None,
        cancelled_by: None,
        actor: None,
        traceparent: String::new(),
        lease_owner: None,
        fence: 0,
        created_at: 0,
        started_at: None,
        ended_at: None,
        steps: Vec::new(),
    }
}

fn states(job: &Job) -> Vec<StepState> {
    job.steps.iter().map(|step| step.state).collect()
}

fn done() -> Outcome {
    Outcome::Done(Value::Null)
}

fn failed(again: Again) -> Outcome {
    Outcome::Failed("no".into(), again)
}

/// Records what the job is at.
fn tell(job: &mut Job, fence: u64, outcome: Outcome, rules: &Rules<'_>) -> Result<Move, Lost> {
    let at = job.steps.iter().rposition(|step| has_effect(step.state)).unwrap_or_default();
    let moved = if job.state == JobState::Undoing { Move::Undo(at) } else { Move::Run(at) };
    record(job, fence, moved, outcome, rules)
}

#[test]
fn steps_follow_each_other_under_one_lease() {
    let mut job = new_job();
    assert_eq!(claim(&mut job, "a", &rules(-1)), None, "not due");
    assert_eq!(claim(&mut job, "a", &rules(0)), Some(Move::Run(0)));
    assert_eq!((job.fence, job.next_at, job.lease_owner.as_deref()), (1, Some(LEASE), Some("a")));
    assert_eq!(claim(&mut job, "b", &rules(LEASE - 1)), None, "leased");
    assert_eq!(tell(&mut job, 1, Outcome::Done(json!({"x": 1})), &rules(10)), Ok(Move::Run(1)));
    assert_eq!(job.next_at, Some(10 + LEASE));
    assert_eq!(tell(&mut job, 1, done(), &rules(20)), Ok(Move::Run(2)));
    assert_eq!(tell(&mut job, 1, done(), &rules(30)), Ok(Move::Ended));
    assert_eq!(
        (job.state, job.next_at, job.ended_at, job.lease_owner.as_deref()),
        (JobState::Done, None, Some(30), None)
    );
    assert_eq!(job.steps[0].result, json!({"x": 1}));
    assert_eq!(tell(&mut job, 1, done(), &rules(40)), Err(Lost));
    assert_eq!(claim(&mut job, "b", &rules(9_999)), None);
}

#[test]
fn a_runner_whose_lease_is_over_records_nothing() {
    let mut job = new_job();
    claim(&mut job, "a", &rules(0));
    assert_eq!(claim(&mut job, "b", &rules(LEASE)), Some(Move::Ask(0)), "it may have been done");
    let before = job.clone();
    assert_eq!(tell(&mut job, 1, done(), &rules(LEASE + 1)), Err(Lost));
    assert_eq!(hand_over(&mut job, 1, &rules(LEASE + 1)), Err(Lost));
    assert_eq!(job, before);
    assert_eq!(tell(&mut job, 2, done(), &rules(LEASE + 1)), Ok(Move::Run(1)));
}

#[test]
fn failures_are_tried_again_later_each_time_and_given_up_at_the_limit() {
    let mut job = new_job();
    assert_eq!(claim(&mut job, "a", &rules(0)), Some(Move::Run(0)));
    assert_eq!(tell(&mut job, 1, failed(Again::Later), &rules(0)), Ok(Move::Rest));
    assert_eq!((job.state, job.next_at, job.error.as_deref()), (JobState::Retrying, Some(100), Some("no")));
    assert_eq!(claim(&mut job, "a", &rules(100)), Some(Move::Run(0)), "it had no effect: nothing to ask");
    assert_eq!(tell(&mut job, 2, failed(Again::Unsure), &rules(100)), Ok(Move::Rest));
    assert_eq!(job.next_at, Some(300));
    assert_eq!(claim(&mut job, "a", &rules(300)), Some(Move::Ask(0)));
    assert_eq!(tell(&mut job, 3, failed(Again::Later), &rules(300)), Ok(Move::Ended));
    assert_eq!((job.state, job.error.as_deref(), job.steps[0].attempts), (JobState::Failed, Some("no"), 3));

    // What cannot succeed is not tried again.
    let mut job = new_job();
    claim(&mut job, "a", &rules(0));
    assert_eq!(tell(&mut job, 1, failed(Again::Never), &rules(0)), Ok(Move::Ended));
    assert_eq!((job.state, job.steps[0].attempts), (JobState::Failed, 1));
}

/// A step that takes its process down with it must not do so for ever.
#[test]
fn a_step_that_loses_its_runner_each_time_is_given_up() {
    let mut job = new_job();
    let mut moves = Vec::new();
    for round in 0..10 {
        moves.extend(claim(&mut job, "a", &rules(round * LEASE)));
    }
    // The last runner undoes what may have happened, and is lost as well.
    assert_eq!(moves[..3], [Move::Run(0), Move::Ask(0), Move::Ask(0)]);
    assert_eq!(moves[3..6], [Move::Undo(0); 3]);
    assert_eq!((moves[6], job.state), (Move::Ended, JobState::Failed));
    let error = job.error.unwrap();
    assert!(error.starts_with("step one was begun 3 times without success"), "{error}");
    assert!(error.contains("not all of it could be undone"), "{error}");
}

#[test]
fn parts_of_a_step_are_no_attempts() {
    let mut job = new_job();
    claim(&mut job, "a", &rules(0));
    for part in 0..100 {
        assert_eq!(tell(&mut job, 1, Outcome::More(format!("{part}")), &rules(part)), Ok(Move::Run(0)));
    }
    assert_eq!((job.progress.as_deref(), job.attempts, job.next_at), (Some("99"), 1, Some(99 + LEASE)));
    assert_eq!(tell(&mut job, 1, Outcome::Postponed(50), &rules(100)), Ok(Move::Rest));
    assert_eq!((job.attempts, job.next_at, job.steps.len()), (0, Some(150), 0));
    assert_eq!(claim(&mut job, "a", &rules(150)), Some(Move::Run(0)));
}

#[test]
fn what_was_done_is_undone_backwards_when_a_job_is_given_up() {
    let mut job = new_job();
    claim(&mut job, "a", &rules(0));
    tell(&mut job, 1, done(), &rules(0)).unwrap();
    tell(&mut job, 1, done(), &rules(0)).unwrap();
    // The third failed for certain: there is nothing of it to undo.
    assert_eq!(tell(&mut job, 1, failed(Again::Never), &rules(5)), Ok(Move::Undo(1)));
    assert_eq!(states(&job), [StepState::Done, StepState::Undoing, StepState::Failed]);
    assert_eq!(tell(&mut job, 1, failed(Again::Later), &rules(6)), Ok(Move::Rest));
    assert_eq!((job.state, job.next_at), (JobState::Undoing, Some(106)));
    assert_eq!(claim(&mut job, "b", &rules(106)), Some(Move::Undo(1)));
    assert_eq!(tell(&mut job, 2, done(), &rules(107)), Ok(Move::Undo(0)));
    assert_eq!(tell(&mut job, 2, done(), &rules(108)), Ok(Move::Ended));
    assert_eq!((job.state, job.error.as_deref()), (JobState::Undone, Some("no")));
    assert_eq!(states(&job), [StepState::Undone, StepState::Undone, StepState::Failed]);
}

#[test]
fn a_cancelled_job_is_undone_between_two_steps() {
    // Not begun: nothing to undo.
    let mut job = new_job();
    assert_eq!(cancel(&mut job, "k", true, 5), Ok(Cancelled::Written));
    assert_eq!((job.state, job.ended_at, job.next_at), (JobState::Cancelled, Some(5), None));
    assert!(matches!(cancel(&mut job, "k", true, 6), Err(Refused::NotToCancel(..))));

    // Under way: the runner sees it when it records.
    let mut job = new_job();
    claim(&mut job, "a", &rules(0));
    assert_eq!(cancel(&mut job, "k", true, 1), Ok(Cancelled::Noted));
    job.cancelled_by = Some("k".into());
    assert_eq!(tell(&mut job, 1, done(), &rules(2)), Ok(Move::Undo(0)));
    assert_eq!(tell(&mut job, 1, done(), &rules(3)), Ok(Move::Ended));
    assert_eq!((job.state, job.error.as_deref()), (JobState::Undone, Some("cancelled by k")));

    // Its runner is lost: whoever takes it undoes it, the step that may have been done too.
    let mut job = new_job();
    claim(&mut job, "a", &rules(0));
    tell(&mut job, 1, done(), &rules(0)).unwrap();
    job.cancelled_by = Some("k".into());
    assert_eq!(claim(&mut job, "b", &rules(LEASE)), Some(Move::Undo(1)));
    assert_eq!(tell(&mut job, 2, done(), &rules(LEASE)), Ok(Move::Undo(0)));

    // Waiting for its next attempt, with a step done.
    let mut job = new_job();
    claim(&mut job, "a", &rules(0));
    tell(&mut job, 1, done(), &rules(0)).unwrap();
    tell(&mut job, 1, failed(Again::Later), &rules(0)).unwrap();
    assert_eq!(cancel(&mut job, "k", true, 7), Ok(Cancelled::Written));
    assert_eq!((job.state, job.next_at), (JobState::Undoing, Some(7)));
    assert_eq!(claim(&mut job, "a", &rules(7)), Some(Move::Undo(0)));

    // The last step is recorded: it is too late.
    let mut job = new_job();
    claim(&mut job, "a", &rules(0));
    tell(&mut job, 1, done(), &rules(0)).unwrap();
    tell(&mut job, 1, done(), &rules(0)).unwrap();
    job.cancelled_by = Some("k".into());
    assert_eq!(tell(&mut job, 1, done(), &rules(0)), Ok(Move::Ended));
    assert_eq!(job.state, JobState::Done);
}

/// A kind that cannot take back what it did leaves it as it is.
#[test]
fn a_kind_that_undoes_nothing_ends_at_once() {
    let rules = |now| Rules { undoes: false, ..rules(now) };
    let begun = || {
        let mut job = new_job();
        claim(&mut job, "a", &rules(0));
        tell(&mut job, 1, done(), &rules(0)).unwrap();
        job
    };
    let mut job = begun();
    for attempt in 1..=2 {
        assert_eq!(tell(&mut job, attempt, failed(Again::Unsure), &rules(9_999)), Ok(Move::Rest));
        claim(&mut job, "a", &rules(99_999));
    }
    assert_eq!(tell(&mut job, 3, failed(Again::Unsure), &rules(99_999)), Ok(Move::Ended));
    assert_eq!((job.state, job.error.as_deref()), (JobState::Failed, Some("no")));
    assert_eq!(states(&job), [StepState::Done, StepState::Running]);

    let mut job = begun();
    tell(&mut job, 1, failed(Again::Unsure), &rules(0)).unwrap();
    assert_eq!(cancel(&mut job, "k", false, 1), Ok(Cancelled::Written));
    assert_eq!(job.state, JobState::Cancelled);
    let mut job = begun();
    job.cancelled_by = Some("k".into());
    assert_eq!(tell(&mut job, 1, done(), &rules(1)), Ok(Move::Ended));
    assert_eq!(job.state, JobState::Cancelled);
}

#[test]
fn what_ended_without_success_can_be_tried_again_from_where_it_is() {
    let mut job = new_job();
    assert!(retry(&mut job, 0).is_err(), "it waits anyway");
    claim(&mut job, "a", &rules(0));
    assert!(retry(&mut job, 0).is_err(), "it is under way");
    tell(&mut job, 1, done(), &rules(0)).unwrap();
    tell(&mut job, 1, failed(Again::Later), &rules(0)).unwrap();
    assert_eq!(retry(&mut job, 1), Ok(Retried::Sooner));
    assert_eq!(job.next_at, Some(1));
    assert_eq!(claim(&mut job, "a", &rules(1)), Some(Move::Run(1)));
    // Given up, and the undoing of the first step does not succeed either: it is done still.
    assert_eq!(tell(&mut job, 2, failed(Again::Never), &rules(1)), Ok(Move::Undo(0)));
    assert_eq!(tell(&mut job, 2, failed(Again::Never), &rules(1)), Ok(Move::Ended));
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(retry(&mut job, 9), Ok(Retried::Anew));
    assert_eq!((job.state, job.due_at, job.steps.len()), (JobState::Waiting, 9, 0), "its undoing was begun");
    job.next_at = Some(9);
    assert_eq!(claim(&mut job, "a", &rules(9)), Some(Move::Run(0)));
}

#[test]
fn a_runner_that_ends_hands_its_job_over_between_two_steps() {
    let mut job = new_job();
    claim(&mut job, "a", &rules(0));
    tell(&mut job, 1, done(), &rules(0)).unwrap();
    assert_eq!(hand_over(&mut job, 1, &rules(3)), Ok(Move::Rest));
    assert_eq!((job.next_at, job.lease_owner.as_deref(), job.steps.len()), (Some(3), None, 1));
    assert_eq!(claim(&mut job, "b", &rules(3)), Some(Move::Run(1)), "nothing is begun: nothing to ask");
    assert_eq!((job.attempts, job.steps[1].attempts), (1, 1));
}

#[test]
fn delays_double_up_to_a_bound_and_are_spread() {
    let backoff = Backoff { first: 100, most: 1_000 };
    let all: Vec<i64> = (1..7).map(|attempts| backoff.delay(attempts, 1.0)).collect();
    assert_eq!(all, [100, 200, 400, 800, 1_000, 1_000]);
    assert_eq!(backoff.delay(3, 0.0), 200);
    assert_eq!(backoff.delay(u32::MAX, 2.0), 1_000);
    assert_eq!(Backoff { first: i64::MAX, most: i64::MAX }.delay(9, 0.5), i64::MAX / 2 + i64::MAX / 4 + 1);
}

#[test]
fn errors_are_short_and_on_one_line() {
    assert_eq!(short("a\nb\u{1b}[31m"), "a b [31m");
    assert!(short(&"ä".repeat(5_000)).len() <= MAX_TEXT + 3);
}

/// A runner in the model: what it holds, and whether the effect of its move has happened.
#[derive(Debug, Clone, Copy)]
struct Held {
    fence: u64,
    next: Move,
    effect: bool,
}

/// One event of an interleaving.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// A runner goes one small step further: claims, has an effect, or records.
    Go(usize),
    /// A runner's process ends; what it knew is gone.
    Crash(usize),
    /// Time passes.
    Pass(i64),
    /// A runner's next attempt fails; it knows whether it had no effect.
    Fail(usize, bool),
    /// A runner records once more what it recorded last: it did not learn that the first record was kept.
    Repeat(usize),
    /// Somebody cancels the job.
    Cancel,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (0_usize..3).prop_map(Event::Go),
        2 => (0_usize..3).prop_map(Event::Crash),
        3 => prop_oneof![Just(50_i64), Just(400), Just(LEASE)].prop_map(Event::Pass),
        2 => (0_usize..3, any::<bool>()).prop_map(|(runner, sure)| Event::Fail(runner, sure)),
        2 => (0_usize..3).prop_map(Event::Repeat),
        1 => Just(Event::Cancel),
    ]
}

/// The job, its runners, and the world outside in which steps have their effects.
#[derive(Debug)]
struct Model {
    job: Job,
    now: i64,
    runners: [Option<Held>; 3],
    /// What each runner recorded last.
    last: [Option<Held>; 3],
    /// Whether the effect of each step is there.
    effects: [bool; 3],
    /// How often each step's effect was brought about.
    brought: [u32; 3],
    /// A runner had an effect after its lease was over: the one thing that fences cannot prevent.
    zombie: bool,
    recorded: Vec<usize>,
    undone: Vec<usize>,
}

impl Model {
    fn new() -> Self {
        let (runners, last) = ([None; 3], [None; 3]);
        let (recorded, undone) = (Vec::new(), Vec::new());
        Self {
            job: new_job(),
            now: 0,
            runners,
            last,
            effects: [false; 3],
            brought: [0; 3],
            zombie: false,
            recorded,
            undone,
        }
    }

    /// As a store does it: a change of the job is written if its fence is as it was read.
    fn write(&mut self, change: impl FnOnce(&mut Job, &Rules<'_>) -> Option<Move>) -> Option<Move> {
        let mut job = self.job.clone();
        let next = change(&mut job, &rules(self.now));
        if next.is_some() {
            self.job = job;
        }
        next
    }

    fn go(&mut self, runner: usize) {
        match self.runners[runner] {
            None => {
                let name = format!("runner-{runner}");
                let next = self.write(|job, rules| claim(job, &name, rules));
                let fence = self.job.fence;
                self.runners[runner] = next
                    .filter(|next| !matches!(next, Move::Ended | Move::Rest))
                    .map(|next| Held { fence, next, effect: false });
            }
            Some(held) if !held.effect => {
                self.have_effect(held);
                self.runners[runner] = Some(Held { effect: true, ..held });
            }
            Some(held) => self.record(runner, held, done()),
        }
    }

    fn have_effect(&mut self, held: Held) {
        self.zombie |= held.fence != self.job.fence;
        match held.next {
            Move::Run(place) => {
                self.brought[place] += 1;
                self.effects[place] = true;
            }
            // What happened already is not brought about again.
            Move::Ask(place) if self.effects[place] => {}
            Move::Ask(place) => {
                self.brought[place] += 1;
                self.effects[place] = true;
            }
            Move::Undo(place) => self.effects[place] = false,
            Move::Ended | Move::Rest => panic!("nothing to do"),
        }
    }

    fn record(&mut self, runner: usize, held: Held, outcome: Outcome) {
        let succeeded = matches!(outcome, Outcome::Done(_));
        let recorded = self.write(|job, rules| record(job, held.fence, held.next, outcome, rules).ok());
        self.last[runner] = Some(held);
        if recorded.is_some() && succeeded {
            match held.next {
                Move::Run(place) | Move::Ask(place) => self.recorded.push(place),
                Move::Undo(place) => self.undone.push(place),
                Move::Ended | Move::Rest => {}
            }
        }
        self.runners[runner] = recorded
            .filter(|next| !matches!(next, Move::Ended | Move::Rest))
            .map(|next| Held { next, effect: false, ..held });
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Go(runner) => self.go(runner),
            Event::Crash(runner) => self.runners[runner] = None,
            Event::Pass(time) => self.now += time,
            Event::Fail(runner, sure) => {
                if let Some(held) = self.runners[runner] {
                    // A failure that is known to have had no effect is one before the effect; asking that fails tells nothing.
                    let certain = sure && !held.effect && matches!(held.next, Move::Run(_));
                    let again = if certain { Again::Later } else { Again::Unsure };
                    self.record(runner, held, failed(again));
                }
            }
            Event::Repeat(runner) => {
                if let Some(held) = self.last[runner] {
                    let again =
                        self.write(|job, rules| record(job, held.fence, held.next, done(), rules).ok());
                    assert_eq!(again, None, "recorded twice: {self:?}");
                }
            }
            Event::Cancel => {
                let mut job = self.job.clone();
                match cancel(&mut job, "k", true, self.now) {
                    Ok(Cancelled::Written) => self.job = job,
                    Ok(Cancelled::Noted) => self.job.cancelled_by = Some("k".into()),
                    Err(_) => {}
                }
            }
        }
        self.check();
    }

    /// What holds after every event.
    fn check(&self) {
        let in_order: Vec<usize> = (0..self.recorded.len()).collect();
        assert_eq!(self.recorded, in_order, "each step is recorded once, and in order: {self:?}");
        assert!(
            self.undone.windows(2).all(|pair| pair[0] > pair[1]),
            "undone backwards, each once: {self:?}"
        );
        if self.job.state.is_final() {
            assert!(
                self.job.next_at.is_none() && self.job.ended_at.is_some() && self.job.lease_owner.is_none()
            );
        } else {
            assert!(self.job.next_at.is_some(), "somebody has to look at it some time: {self:?}");
        }
    }

    /// Nobody crashes any more.
    fn settle(&mut self) {
        self.runners = [None; 3];
        for _ in 0..200 {
            self.event(Event::Go(0));
            if self.runners[0].is_none() {
                self.event(Event::Pass(LEASE));
            }
        }
        assert!(self.job.state.is_final(), "{self:?}");
        match self.job.state {
            JobState::Done => {
                assert_eq!(self.recorded, [0, 1, 2]);
                assert_eq!(self.effects, [true; 3], "{self:?}");
                if !self.zombie {
                    assert_eq!(self.brought, [1; 3], "each effect is brought about once: {self:?}");
                }
            }
            JobState::Undone | JobState::Cancelled => {
                if !self.zombie {
                    assert_eq!(self.effects, [false; 3], "{self:?}");
                }
            }
            // Too many attempts: what is left stands in the steps.
            JobState::Failed => {}
            JobState::Waiting | JobState::Running | JobState::Retrying | JobState::Undoing => unreachable!(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_records_each_step_once_and_ends(events in proptest::collection::vec(event(), 0..60)) {
        let mut model = Model::new();
        for event in events {
            model.event(event);
        }
        model.settle();
    }
}
