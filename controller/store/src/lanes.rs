//! Whose turn it is to write: one lane for each caller, and the lane that has had the least of the writer's time goes first.
//!
//! Owns the order and nothing else: what waits is not looked into, and time is an argument, in microseconds. A caller whose
//! mutations are long rests after each while others are about, so that theirs find the writer free.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::Semaphore;

/// A mutation that takes longer makes its caller rest, in microseconds.
pub(crate) const LONG: u64 = 50_000;
/// For each microsecond of a long mutation its caller rests so many: it has at most a fifth of the writer.
const REST: u64 = 4;
/// A caller who wrote within this time is about, in microseconds.
const ABOUT: u64 = 1_000_000;
/// The controller's own writes count as this much less: the fleet's reports and gates are everybody's.
const OWN: u64 = 4;
/// Mutations of a caller that may wait; beyond it the caller waits for a place.
const PLACES: usize = 256;
/// From so many lanes on, those of callers who went are forgotten.
const KEPT: usize = 256;

/// Who writes: an API key's id; `None` for the controller itself.
pub(crate) type Caller = Option<String>;

#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<T>,
    places: Arc<Semaphore>,
    /// The writer's time that it has had, beyond what everybody has.
    used: u64,
    /// What its last mutation took.
    last: u64,
    rests_until: u64,
    seen: u64,
}

/// What is next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<T> {
    /// This one, of this caller.
    Now(Caller, T),
    /// Everybody who waits rests until then.
    At(u64),
    /// Nobody waits.
    Nothing,
}

/// Everything that waits for the writer.
#[derive(Debug)]
pub(crate) struct Lanes<T> {
    lanes: BTreeMap<Caller, Lane<T>>,
    /// What a lane has used at least that begins now: being away saves nothing up.
    floor: u64,
}

impl<T> Lanes<T> {
    pub(crate) const fn new() -> Self {
        Self { lanes: BTreeMap::new(), floor: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.lanes.values().map(|lane| lane.waiting.len()).sum()
    }

    fn lane(&mut self, caller: &Caller, now: u64) -> &mut Lane<T> {
        let floor = self.floor;
        self.lanes.entry(caller.clone()).or_insert_with(|| Lane {
            waiting: VecDeque::new(),
            places: Arc::new(Semaphore::new(PLACES)),
            used: floor,
            last: 0,
            rests_until: 0,
            seen: now,
        })
    }

    /// The places of a caller's lane: one has to be held for what is pushed.
    pub(crate) fn places(&mut self, caller: &Caller, now: u64) -> Arc<Semaphore> {
        Arc::clone(&self.lane(caller, now).places)
    }

    pub(crate) fn push(&mut self, caller: &Caller, job: T, now: u64) {
        let floor = self.floor;
        let lane = self.lane(caller, now);
        if lane.waiting.is_empty() {
            lane.used = lane.used.max(floor);
        }
        lane.seen = now;
        lane.waiting.push_back(job);
    }

    /// The lane whose turn it is.
    fn first(&self, now: u64) -> Option<&Caller> {
        self.lanes
            .iter()
            .filter(|(_, lane)| !lane.waiting.is_empty() && lane.rests_until <= now)
            .min_by_key(|(_, lane)| lane.used)
            .map(|(caller, _)| caller)
    }

    /// What the next mutation will take if it is like its caller's last one; `None` when there is none now.
    pub(crate) fn outlook(&self, now: u64) -> Option<u64> {
        self.first(now).and_then(|caller| self.lanes.get(caller)).map(|lane| lane.last)
    }

    pub(crate) fn next(&mut self, now: u64) -> Next<T> {
        let Some(caller) = self.first(now).cloned() else {
            let waking = self.lanes.values().filter(|lane| !lane.waiting.is_empty());
            return waking.map(|lane| lane.rests_until).min().map_or(Next::Nothing, Next::At);
        };
        let Some(lane) = self.lanes.get_mut(&caller) else { return Next::Nothing };
        self.floor = self.floor.max(lane.used);
        match lane.waiting.pop_front() {
            Some(job) => Next::Now(caller, job),
            None => Next::Nothing,
        }
    }

    /// Nothing is taken any more: what waits is dropped, and whoever waits for a place is told.
    pub(crate) fn end(&mut self) {
        for lane in std::mem::take(&mut self.lanes).into_values() {
            lane.places.close();
        }
    }

    /// A caller's mutation took `took`.
    pub(crate) fn charge(&mut self, caller: &Caller, took: u64, now: u64) {
        let others = self
            .lanes
            .iter()
            .any(|(other, lane)| other.is_some() && other != caller && lane.seen + ABOUT >= now);
        let lane = self.lane(caller, now);
        lane.seen = now;
        lane.last = took;
        lane.used += if caller.is_none() { took / OWN } else { took }.max(1);
        if took > LONG && others && caller.is_some() {
            lane.rests_until = now + took * REST;
        }
        if self.lanes.len() > KEPT {
            self.lanes.retain(|_, lane| {
                !lane.waiting.is_empty() || Arc::strong_count(&lane.places) > 1 || lane.seen + ABOUT >= now
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(name: &str) -> Caller {
        Some(name.to_owned())
    }

    /// Takes everything that waits; each mutation takes what it says. Answers the order.
    fn drain(lanes: &mut Lanes<(&'static str, u64)>, mut now: u64) -> Vec<&'static str> {
        let mut order = Vec::new();
        loop {
            match lanes.next(now) {
                Next::Now(caller, (name, took)) => {
                    now += took;
                    lanes.charge(&caller, took, now);
                    order.push(name);
                }
                Next::At(at) => now = at,
                Next::Nothing => return order,
            }
        }
    }

    #[test]
    fn the_one_who_had_least_goes_first() {
        let mut lanes = Lanes::new();
        for _ in 0..4 {
            lanes.push(&who("a"), ("A", 300), 0);
        }
        for _ in 0..6 {
            lanes.push(&who("b"), ("b", 100), 0);
        }
        assert_eq!(lanes.len(), 10);
        assert_eq!(drain(&mut lanes, 0), ["A", "b", "b", "b", "A", "b", "b", "b", "A", "A"]);
    }

    #[test]
    fn whoever_comes_later_does_not_wait_for_a_crowd_and_has_saved_nothing_up() {
        let mut lanes = Lanes::new();
        for _ in 0..100 {
            lanes.push(&who("crowd"), ("c", 1_000), 0);
        }
        let mut now = 0;
        for _ in 0..50 {
            let Next::Now(caller, (_, took)) = lanes.next(now) else { panic!("nothing") };
            now += took;
            lanes.charge(&caller, took, now);
        }
        for _ in 0..3 {
            lanes.push(&who("late"), ("l", 1_000), now);
        }
        assert_eq!(drain(&mut lanes, now)[..6], ["l", "c", "l", "c", "l", "c"]);
    }

    #[test]
    fn long_mutations_make_their_caller_rest_while_others_are_about() {
        let mut lanes = Lanes::new();
        lanes.push(&who("small"), ("s", 1_000), 0);
        assert_eq!(drain(&mut lanes, 0), ["s"]);
        lanes.push(&who("large"), ("L", 300_000), 1_000);
        lanes.push(&who("large"), ("L", 300_000), 1_000);
        let Next::Now(caller, (_, took)) = lanes.next(1_000) else { panic!("nothing") };
        lanes.charge(&caller, took, 301_000);
        assert_eq!(lanes.next(301_000), Next::At(1_501_000));
        lanes.push(&who("small"), ("s", 1_000), 302_000);
        assert_eq!(lanes.next(302_000), Next::Now(who("small"), ("s", 1_000)));
        assert_eq!(lanes.outlook(302_000), None);
        assert_eq!(lanes.outlook(1_501_000), Some(300_000));
        // Alone, it goes on at once.
        let later = 10_000_000;
        let Next::Now(caller, (_, took)) = lanes.next(later) else { panic!("nothing") };
        lanes.charge(&caller, took, later + took);
        lanes.push(&caller, ("L", 300_000), later + took);
        assert!(matches!(lanes.next(later + took), Next::Now(..)));
    }

    #[test]
    fn the_controllers_own_writes_count_less_and_never_rest() {
        let mut lanes = Lanes::new();
        lanes.push(&who("a"), ("a", 100_000), 0);
        for _ in 0..8 {
            lanes.push(&None, ("own", 100_000), 0);
        }
        lanes.push(&who("a"), ("a", 100_000), 0);
        let order = drain(&mut lanes, 0);
        assert_eq!(order[..6], ["own", "a", "own", "own", "own", "own"], "{order:?}");
    }

    #[test]
    fn those_who_went_are_forgotten() {
        let mut lanes = Lanes::new();
        for n in 0..1_000_u64 {
            let caller = who(&n.to_string());
            let now = n * 10_000_000;
            lanes.push(&caller, (), now);
            assert!(matches!(lanes.next(now), Next::Now(..)));
            lanes.charge(&caller, 1, now);
        }
        assert!(lanes.lanes.len() <= KEPT + 1, "{}", lanes.lanes.len());
    }
}
