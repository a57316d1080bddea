//! The pass: look, plan, work, report.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use futures::{
    StreamExt,
    stream::{self, FuturesUnordered},
};

use crate::{
    desired::{Desired, Wanted},
    driver::{Driver, Erased, Key, Look, Outcome, Rest},
    host::Host,
    keys::Keys,
    order::{Claimants, Order},
    report::{Changed, Phase, Report, Reports, said},
    schedule::Schedule,
};

/// What a pass looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything wanted and everything on the host: at the start, by the clock, and after a process ended.
    Everything,
    /// What changed since the last pass and what is not at rest: a change costs its own keys only, as long as what is wanted
    /// was made of what was wanted before (a clone of it that was changed).
    Changes,
}

/// What a pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassSummary {
    /// Keys looked at.
    pub looked: usize,
    /// Keys, needs, claims and reports that the pass went over, each as often as it did: what its bookkeeping costs.
    pub visited: usize,
    /// Keys that are wanted and ready.
    pub ready: usize,
    /// Keys that failed, now or before.
    pub failed: usize,
    /// Keys that wait for others.
    pub blocked: usize,
    /// Data that nobody wants.
    pub orphans: usize,
    /// When to come back for a key that failed, in the caller's milliseconds; `None` when none did.
    pub retry_at: Option<u64>,
}

/// Brings a host to what is wanted. One pass at a time.
pub struct Engine {
    drivers: Vec<Box<dyn Erased>>,
    pub(crate) keys: Keys,
    /// As of the last pass.
    desired: Desired,
    /// Of what was wanted in the last pass.
    pub(crate) claimants: Claimants,
    reports: Reports,
    concurrency: usize,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

/// First wait after a failure, doubled at each further one.
const BACKOFF_FIRST_MS: u64 = 500;
/// Longest wait after a failure.
const BACKOFF_LAST_MS: u64 = 60_000;
/// Keys that wait in a circle, named in what is said of each of them.
const NAMED_IN_A_CIRCLE: usize = 10;

impl Engine {
    /// An engine without drivers that works on at most `concurrency` keys at a time (at least 1).
    #[must_use]
    pub fn new(concurrency: usize) -> Self {
        Self {
            drivers: Vec::new(),
            keys: Keys::default(),
            desired: Desired::default(),
            claimants: Claimants::default(),
            reports: Reports::default(),
            concurrency: concurrency.max(1),
        }
    }

    /// Adds a driver. What nobody wants is swept in the reverse of the order in which drivers were added.
    #[must_use]
    pub fn with<D: Driver>(mut self, driver: D) -> Self {
        self.drivers.push(Box::new(driver));
        self
    }

    fn rank(&self, kind: &str) -> Option<usize> {
        self.drivers.iter().position(|driver| driver.kind() == kind)
    }

    pub(crate) fn driver(&self, kind: &str) -> Option<&dyn Erased> {
        self.drivers.iter().find(|driver| driver.kind() == kind).map(AsRef::as_ref)
    }

    /// How a key stands after the last pass; `None` for one that was not looked at yet.
    #[must_use]
    pub fn status(&self, key: &Key) -> Option<(Phase, &str)> {
        self.keys.get(key)?.outcome.as_ref().map(|outcome| said(Some(outcome)))
    }

    /// One pass. `now` is any clock in milliseconds that does not go back. `sink` hears of each report that changes, while
    /// the pass goes on.
    pub async fn pass(
        &mut self,
        desired: &Desired,
        scope: Scope,
        now: u64,
        host: &dyn Host,
        sink: &(dyn Fn(&hosting_intent::Key, Option<&Report>) + Sync),
    ) -> PassSummary {
        let mut visited = self.follow(desired);
        visited += self.reports.publish_touched(sink);
        let candidates = self.candidates(scope, now, host).await;
        let mut pass = Pass {
            desired,
            host,
            sink,
            now,
            reports: std::mem::take(&mut self.reports),
            looks: BTreeMap::new(),
            visited: visited + candidates.len(),
        };
        pass.look(self, &candidates).await;
        pass.run(self, &candidates).await;
        let visited = pass.visited;
        self.reports = pass.reports;

        for key in candidates.iter().filter(|key| !desired.wants.contains_key(*key)) {
            if self.keys.get(key).is_some_and(|state| state.outcome == Some(Outcome::Rest(Rest::Gone))) {
                self.keys.take(key);
            }
        }
        let counts = self.keys.counts();
        PassSummary {
            looked: candidates.len(),
            visited,
            ready: counts.ready,
            failed: counts.failed,
            blocked: counts.blocked,
            orphans: counts.orphans,
            retry_at: self.keys.retry_at(),
        }
    }

    /// Takes in what is wanted now. Gives back over how much it went.
    fn follow(&mut self, desired: &Desired) -> usize {
        let earlier = std::mem::replace(&mut self.desired, desired.clone());
        let mut visited = 0;
        for (key, old, new) in earlier.differences(desired) {
            visited += 1;
            let (old, new) = (old.map(Arc::as_ref), new.map(Arc::as_ref));
            let same = old.zip(new).is_some_and(|(old, new)| old.same_spec(new));
            let driver = self.drivers.iter().find(|driver| driver.kind() == key.kind);
            if !same {
                let holds = |wanted: Option<&Wanted>| {
                    let claims =
                        driver.zip(wanted).map(|(driver, w)| driver.holds(&key.name, w.spec.as_ref()));
                    claims.unwrap_or_default()
                };
                for claim in holds(old) {
                    visited += 1;
                    self.claimants.remove(&claim, key);
                }
                for claim in holds(new) {
                    visited += 1;
                    self.claimants.insert(claim, key);
                }
                self.keys.update(key, |state| {
                    state.stale = true;
                    state.failures = 0;
                    state.not_before = 0;
                });
            }
            let state = self.keys.get(key);
            self.reports.change(Changed {
                key,
                old,
                new,
                settled: state.and_then(|state| state.settled()),
                left: state.filter(|state| state.is_left()).and_then(|state| state.outcome.as_ref()),
                unwanted: driver.and_then(|driver| driver.origin(&key.name)),
            });
        }
        visited
    }

    /// Everything that this pass works on, in ascending order.
    async fn candidates(&mut self, scope: Scope, now: u64, host: &dyn Host) -> BTreeSet<Key> {
        if scope == Scope::Changes {
            return self.keys.due(now).cloned().collect();
        }
        let mut all: BTreeSet<Key> = self.keys.all_due(now).cloned().collect();
        for driver in &self.drivers {
            match driver.list(host).await {
                Ok(names) => {
                    for name in names {
                        let key = Key::new(driver.kind(), name);
                        if self.keys.get(&key).is_none() {
                            self.keys.update(&key, |_| {});
                        }
                        if !self.keys.waits_for_time(&key, now) {
                            all.insert(key);
                        }
                    }
                }
                // Nothing of the kind is swept unseen; what is wanted of it is still tried.
                Err(error) => tracing::warn!(kind = driver.kind(), %error, "cannot list what is there"),
            }
        }
        all
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Release,
    Sweep,
}

struct Pass<'a> {
    desired: &'a Desired,
    host: &'a dyn Host,
    sink: &'a (dyn Fn(&hosting_intent::Key, Option<&Report>) + Sync),
    now: u64,
    reports: Reports,
    looks: BTreeMap<Key, Look>,
    visited: usize,
}

impl Pass<'_> {
    /// Observes every candidate; those that cannot be observed are unknown and not worked on.
    async fn look(&mut self, engine: &mut Engine, candidates: &BTreeSet<Key>) {
        let host = self.host;
        let mut looked = Vec::new();
        {
            let shared: &Engine = engine;
            let desired = self.desired;
            let mut looks = stream::iter(candidates.iter().cloned().map(|key| async move {
                let want = desired.wants.get(&key).map(|wanted| wanted.spec.as_ref());
                let look = match shared.driver(key.kind) {
                    Some(driver) => driver.look(&key.name, want, host).await.map_err(|e| e.to_string()),
                    None => Err(format!("this agent has no driver for {}", key.kind)),
                };
                (key, look)
            }))
            .buffer_unordered(shared.concurrency);
            while let Some(ended) = looks.next().await {
                looked.push(ended);
            }
        }
        self.visited += looked.len();
        for (key, look) in looked {
            match look {
                Ok(look) => {
                    engine.keys.update(&key, |state| state.held.clone_from(&look.held));
                    self.looks.insert(key, look);
                }
                Err(error) => self.finish(engine, &key, Outcome::Unknown(error)),
            }
        }
    }

    async fn run(&mut self, engine: &mut Engine, candidates: &BTreeSet<Key>) {
        let order =
            Order::new(|kind| engine.driver(kind), &engine.keys, &engine.claimants, self.desired, candidates);
        self.visited += order.visited;
        for (key, why) in &order.refused {
            self.looks.remove(key);
            self.finish(engine, key, Outcome::Rest(Rest::Refused(why.clone())));
        }
        let releases: Vec<Key> =
            order.releases.iter().filter(|key| self.looks.contains_key(*key)).cloned().collect();
        let kept = self.all(engine, releases, Stage::Release).await;
        self.wanted(engine, &order).await;
        // What was wanted may have been to destroy it: only now is it known whether it stays.
        self.look(engine, &kept).await;

        // What is left is wanted by nobody: swept last, users before what they used.
        let mut ranked: BTreeMap<usize, Vec<Key>> = BTreeMap::new();
        self.visited += self.looks.len();
        for key in self.looks.keys().filter(|key| !self.desired.wants.contains_key(*key)) {
            ranked.entry(engine.rank(key.kind).unwrap_or_default()).or_default().push(key.clone());
        }
        for (_, keys) in ranked.into_iter().rev() {
            self.all(engine, keys, Stage::Sweep).await;
        }
    }

    /// Works on keys that do not depend on each other. Gives back what a release kept: its last word comes with the sweep.
    async fn all(&mut self, engine: &mut Engine, keys: Vec<Key>, stage: Stage) -> BTreeSet<Key> {
        let mut done = Vec::new();
        {
            let shared: &Engine = engine;
            let looks: Vec<(Key, Look)> =
                keys.into_iter().filter_map(|key| self.looks.remove_entry(&key)).collect();
            let (desired, host) = (self.desired, self.host);
            let mut work = stream::iter(looks.into_iter().map(|(key, look)| async move {
                let outcome = work(shared, desired, host, &key, look).await;
                (key, outcome)
            }))
            .buffer_unordered(shared.concurrency);
            while let Some(ended) = work.next().await {
                done.push(ended);
            }
        }
        let mut kept = BTreeSet::new();
        for (key, outcome) in done {
            if stage == Stage::Release && matches!(outcome, Outcome::Rest(Rest::Kept(_))) {
                kept.insert(key);
            } else {
                self.finish(engine, &key, outcome);
            }
        }
        kept
    }

    /// Works on what is wanted, each key as soon as what it needs is ready.
    async fn wanted(&mut self, engine: &mut Engine, order: &Order) {
        let wanted = self.looks.keys().filter(|key| self.desired.wants.contains_key(*key));
        let mut schedule = Schedule::new(wanted.map(|key| (key, order.before.get(key))));
        // The running work borrows the engine; outcomes are written down when all of it has ended.
        let mut ended: BTreeMap<Key, Outcome> = BTreeMap::new();
        {
            let shared: &Engine = engine;
            let mut running = FuturesUnordered::new();
            loop {
                while running.len() < shared.concurrency {
                    let Some(key) = schedule.next() else { break };
                    let Some(look) = self.looks.remove(&key) else { continue };
                    let needs = order.needs.get(&key).map(Vec::as_slice).unwrap_or_default();
                    let blocked = needs.iter().find_map(|need| {
                        let outcome = ended
                            .get(need)
                            .or_else(|| shared.keys.get(need).and_then(|state| state.outcome.as_ref()));
                        unmet(self.desired, need, outcome)
                    });
                    let (desired, host) = (self.desired, self.host);
                    running.push(async move {
                        let outcome = match blocked {
                            Some(waits) => waits,
                            None => work(shared, desired, host, &key, look).await,
                        };
                        (key, outcome)
                    });
                }
                let Some((key, outcome)) = running.next().await else { break };
                schedule.ended(&key);
                // Told at once: a slow neighbour must not hold back the news.
                self.tell(shared, &key, &outcome);
                ended.insert(key, outcome);
            }
        }
        self.visited += schedule.visited();
        for (key, outcome) in ended {
            self.finish(engine, &key, outcome);
        }
        let stuck = schedule.stuck();
        if !stuck.is_empty() {
            let mut why: Vec<String> =
                stuck.iter().take(NAMED_IN_A_CIRCLE).map(ToString::to_string).collect();
            if let Some(more) = stuck.len().checked_sub(why.len()).filter(|more| *more > 0) {
                why.push(format!("and {more} more"));
            }
            let why = format!("waits in a circle: {}", why.join(", "));
            for key in stuck {
                self.looks.remove(&key);
                self.finish(engine, &key, Outcome::Rest(Rest::Refused(why.clone())));
            }
        }
    }

    fn origin(&self, engine: &Engine, key: &Key) -> Option<hosting_intent::Key> {
        match self.desired.wants.get(key) {
            Some(wanted) => wanted.origin.as_ref().map(|(origin, _)| origin.clone()),
            None => engine.driver(key.kind).and_then(|driver| driver.origin(&key.name)),
        }
    }

    fn tell(&mut self, engine: &Engine, key: &Key, outcome: &Outcome) {
        if let Some(origin) = self.origin(engine, key) {
            self.reports.set(&origin, key, outcome, self.sink);
        }
        for intent in self.desired.wants.get(key).map(|wanted| wanted.also.as_slice()).unwrap_or_default() {
            self.reports.ended(intent, key, self.sink);
        }
    }

    fn finish(&mut self, engine: &mut Engine, key: &Key, outcome: Outcome) {
        self.visited += 1;
        self.tell(engine, key, &outcome);
        let holds = self
            .desired
            .wants
            .get(key)
            .zip(engine.driver(key.kind))
            .map(|(wanted, driver)| driver.holds(&key.name, wanted.spec.as_ref()));
        let now = self.now;
        engine.keys.update(key, |state| {
            match &outcome {
                Outcome::Unknown(message) => {
                    state.failures = state.failures.saturating_add(1);
                    let wait = backoff(key, state.failures);
                    state.not_before = now.saturating_add(wait);
                    tracing::warn!(%key, message, failures = state.failures, retry_in_ms = wait, "failed");
                }
                Outcome::Waits { .. } | Outcome::Rest(_) => {
                    state.failures = 0;
                    state.not_before = 0;
                }
            }
            match &outcome {
                Outcome::Rest(Rest::Refused(message)) if state.outcome.as_ref() != Some(&outcome) => {
                    tracing::warn!(%key, message, "refused");
                }
                Outcome::Rest(Rest::Ready(_)) => state.held = holds.unwrap_or_default(),
                Outcome::Rest(Rest::Gone | Rest::Kept(_) | Rest::Retired) => state.held.clear(),
                Outcome::Rest(Rest::Blocked(_) | Rest::Refused(_))
                | Outcome::Unknown(_)
                | Outcome::Waits { .. } => {}
            }
            state.stale = false;
            state.outcome = Some(outcome);
        });
    }
}

async fn work(engine: &Engine, desired: &Desired, host: &dyn Host, key: &Key, look: Look) -> Outcome {
    let want = desired.wants.get(key).map(|wanted| wanted.spec.as_ref());
    match engine.driver(key.kind) {
        Some(driver) => driver.work(&key.name, want, look, host).await,
        None => Outcome::Unknown(format!("this agent has no driver for {}", key.kind)),
    }
}

/// What a key does whose need is not met; `None` when it is.
fn unmet(desired: &Desired, need: &Key, outcome: Option<&Outcome>) -> Option<Outcome> {
    let Some(wanted) = desired.wants.get(need) else {
        let why = format!("needs {need}, which is not wanted here");
        return Some(Outcome::Waits { why, hidden_failure: false });
    };
    let waits = |why: &str, failed: bool| {
        let hidden_failure = failed && wanted.origin.is_none();
        Some(Outcome::Waits { why: format!("waits for {need}: {why}"), hidden_failure })
    };
    match outcome {
        Some(Outcome::Rest(Rest::Ready(_))) => None,
        Some(Outcome::Rest(Rest::Refused(why)) | Outcome::Unknown(why)) => waits(why, true),
        Some(Outcome::Rest(Rest::Blocked(why))) => waits(why, false),
        Some(Outcome::Waits { why, hidden_failure }) => {
            Some(Outcome::Waits { why: why.clone(), hidden_failure: *hidden_failure })
        }
        Some(Outcome::Rest(Rest::Kept(_) | Rest::Retired | Rest::Gone)) | None => {
            waits("it is not there yet", false)
        }
    }
}

/// Doubles, and spreads keys that fail together by up to a quarter. No randomness: the key decides.
fn backoff(key: &Key, failures: u32) -> u64 {
    let wait = BACKOFF_FIRST_MS
        .saturating_mul(1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX))
        .min(BACKOFF_LAST_MS);
    let spread = key.name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    wait + spread % (wait / 4 + 1)
}
