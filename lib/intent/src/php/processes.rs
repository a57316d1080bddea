//! How many processes a site's pool has: numbers, defaults and what fits together.

use super::Problem;
use crate::message as m;

/// Most processes of a pool, and of each of its other numbers.
const PROCESSES_MOST: i64 = 200;
/// Most requests of a process.
const REQUESTS_MOST: i64 = 100_000;
/// Processes of a pool that says nothing.
const PROCESSES: u32 = 5;
/// Requests of a process in a pool that says nothing.
const REQUESTS: u32 = 500;

/// The numbers of a pool as they were given; `None` for what follows from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessNumbers {
    /// Most at a time, 1–200; default 5.
    pub max_children: Option<i64>,
    /// At the start, 1–200; default 2, held between the two below.
    pub start_servers: Option<i64>,
    /// Idle ones at least, 1–200; default 1.
    pub min_spare_servers: Option<i64>,
    /// Idle ones at most, 1–200; default 3, or `max_children` if that is less.
    pub max_spare_servers: Option<i64>,
    /// Requests after which a process is replaced, 0 (never) to 100 000; default 500.
    pub max_requests: Option<i64>,
}

/// How many processes a pool has, in numbers that php-fpm starts a pool with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processes {
    max_children: u32,
    waiting: Option<Waiting>,
    max_requests: u32,
}

/// Processes that wait for requests: `min_spare <= start <= max_spare <= max_children`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// 1–200.
    pub start: u32,
    /// 1–200.
    pub min_spare: u32,
    /// 1–200.
    pub max_spare: u32,
}

impl Default for Processes {
    fn default() -> Self {
        Self { max_children: PROCESSES, waiting: None, max_requests: REQUESTS }
    }
}

impl Processes {
    /// Fills in what was not given. A default never contradicts a number that was given: php-fpm refuses to start a pool that
    /// does not fit together.
    ///
    /// # Errors
    /// The first number that is out of range or does not fit the others; fields are named from `pm` on.
    pub fn new(given: &ProcessNumbers) -> Result<Self, Problem> {
        let max_children = number("max_children", given.max_children, PROCESSES, 1, PROCESSES_MOST)?;
        let max_requests = number("max_requests", given.max_requests, REQUESTS, 0, REQUESTS_MOST)?;
        let waits = [given.start_servers, given.min_spare_servers, given.max_spare_servers];
        if waits.iter().all(Option::is_none) {
            return Ok(Self { max_children, waiting: None, max_requests });
        }
        let count = |field, given, default| number(field, given, default, 1, PROCESSES_MOST);
        let max_spare = count("max_spare_servers", given.max_spare_servers, max_children.min(3))?;
        let min_spare = count("min_spare_servers", given.min_spare_servers, 1)?;
        let start = 2.clamp(min_spare, max_spare.max(min_spare));
        let start = count("start_servers", given.start_servers, start)?;
        if max_spare > max_children {
            let problem = format!("{max_spare} must not exceed max_children ({max_children})");
            return Err(wrong("max_spare_servers", problem));
        }
        if min_spare > max_spare {
            let problem = format!("{min_spare} must not exceed max_spare_servers ({max_spare})");
            return Err(wrong("min_spare_servers", problem));
        }
        if !(min_spare..=max_spare).contains(&start) {
            let problem = format!("{start} must lie between min_spare_servers and max_spare_servers");
            return Err(wrong("start_servers", problem));
        }
        let waiting = Some(Waiting { start, min_spare, max_spare });
        Ok(Self { max_children, waiting, max_requests })
    }

    /// What an intent says, in which 0 means that nothing was said (`max_requests` excepted).
    ///
    /// # Errors
    /// As [`Processes::new`].
    pub fn of(pool: Option<&m::PhpPool>) -> Result<Self, Problem> {
        let Some(pool) = pool else { return Ok(Self::default()) };
        let given = |value: u32| (value != 0).then_some(i64::from(value));
        Self::new(&ProcessNumbers {
            max_children: given(pool.max_children),
            start_servers: given(pool.start_servers),
            min_spare_servers: given(pool.min_spare_servers),
            max_spare_servers: given(pool.max_spare_servers),
            max_requests: Some(i64::from(pool.max_requests)),
        })
    }

    /// Most at a time, 1–200.
    #[must_use]
    pub const fn max_children(&self) -> u32 {
        self.max_children
    }

    /// Those that wait for requests; `None`: one is started when a request comes.
    #[must_use]
    pub const fn waiting(&self) -> Option<Waiting> {
        self.waiting
    }

    /// Requests after which a process is replaced: 0 (never) to 100 000.
    #[must_use]
    pub const fn max_requests(&self) -> u32 {
        self.max_requests
    }
}

fn wrong(field: &str, problem: String) -> Problem {
    Problem { field: format!("pm.{field}"), problem }
}

fn number(field: &str, given: Option<i64>, default: u32, low: i64, high: i64) -> Result<u32, Problem> {
    let Some(given) = given else { return Ok(default) };
    u32::try_from(given)
        .ok()
        .filter(|_| (low..=high).contains(&given))
        .ok_or_else(|| wrong(field, format!("{given} must be between {low} and {high}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_given_follows_from_what_was() {
        let numbers = |given: ProcessNumbers| {
            let made = Processes::new(&given).unwrap();
            (made.max_children, made.waiting.map(|w| (w.start, w.min_spare, w.max_spare)), made.max_requests)
        };
        let none = ProcessNumbers::default();
        assert_eq!(numbers(none), (5, None, 500));
        assert_eq!(numbers(ProcessNumbers { max_children: Some(1), ..none }), (1, None, 500));
        assert_eq!(numbers(ProcessNumbers { start_servers: Some(2), ..none }), (5, Some((2, 1, 3)), 500));
        let tight = ProcessNumbers { max_children: Some(1), min_spare_servers: Some(1), ..none };
        assert_eq!(numbers(tight), (1, Some((1, 1, 1)), 500));
        let never = ProcessNumbers { max_spare_servers: Some(2), max_requests: Some(0), ..none };
        assert_eq!(numbers(never), (5, Some((2, 1, 2)), 0));
    }

    #[test]
    fn what_php_fpm_would_not_start_with_is_refused() {
        let none = ProcessNumbers::default();
        let problem = |given: ProcessNumbers| Processes::new(&given).unwrap_err().to_string();
        for (given, word) in [
            (
                ProcessNumbers { max_children: Some(201), ..none },
                "pm.max_children: 201 must be between 1 and 200",
            ),
            (ProcessNumbers { max_children: Some(0), ..none }, "pm.max_children: 0"),
            (
                ProcessNumbers { max_requests: Some(-1), ..none },
                "pm.max_requests: -1 must be between 0 and 100000",
            ),
            (ProcessNumbers { max_requests: Some(i64::MAX), ..none }, "pm.max_requests: "),
            (
                ProcessNumbers { max_spare_servers: Some(6), ..none },
                "pm.max_spare_servers: 6 must not exceed",
            ),
            (
                ProcessNumbers { min_spare_servers: Some(4), ..none },
                "pm.min_spare_servers: 4 must not exceed",
            ),
            (ProcessNumbers { start_servers: Some(4), ..none }, "pm.start_servers: 4 must lie between"),
        ] {
            assert!(problem(given).starts_with(word), "{} should begin with {word:?}", problem(given));
        }
    }

    #[test]
    fn an_intent_says_nothing_by_zero() {
        assert_eq!(Processes::of(None), Ok(Processes::default()));
        let pool = m::PhpPool { max_requests: 500, ..m::PhpPool::default() };
        assert_eq!(Processes::of(Some(&pool)), Ok(Processes::default()));
        let bad = m::PhpPool { max_children: 1, start_servers: 7, ..m::PhpPool::default() };
        assert!(Processes::of(Some(&bad)).is_err());
    }
}
