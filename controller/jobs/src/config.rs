//! What can be set about a runner.

use std::time::Duration;

use crate::kind::KindFacts;
use crate::machine::{Backoff, Rules};

/// How a runner behaves.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// Its name in leases; no two runners of a store may have the same.
    pub owner: String,
    /// A runner that is silent for so long has lost its jobs.
    pub lease: Duration,
    /// It looks for due jobs at least this often.
    pub poll: Duration,
    /// Jobs that it works on at once.
    pub at_once: u32,
    /// At the end, steps under way have so long to come to theirs.
    pub grace: Duration,
    /// Jobs that succeeded are removed so long after they ended: they are many, and tell little.
    pub keep_done: Duration,
    /// All others are removed so long after they ended.
    pub keep: Duration,
}

impl RunnerConfig {
    /// The defaults, with a name of its own.
    #[must_use]
    pub fn new() -> Self {
        Self {
            owner: format!("{}-{:016x}", std::process::id(), rand::random::<u64>()),
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            at_once: 64,
            grace: Duration::from_secs(5),
            keep_done: Duration::from_secs(24 * 3600),
            keep: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

impl Default for RunnerConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// What the machine has to know, with fresh jitter. `lease` and `now` in milliseconds.
pub(crate) fn rules(facts: KindFacts, backoff: Backoff, lease: i64, now: i64) -> Rules<'static> {
    Rules { steps: facts.steps, undoes: facts.undoes, backoff, lease, now, random: rand::random() }
}
