//! The pass: look, plan, work, report.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use futures::{
    StreamExt,
    stream::{self, FuturesUnordered},
};

use crate::{
    desired::Desired,
    driver::{AnySpec, Claim, Driver, Erased, Key, Look, Outcome, Rest},
    host::Host,
    report::{Phase, Report, Reports, said},
};

/// What a pass looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything wanted and everything on the host: at the start, by the clock, and after a process ended.
    Everything,
    /// What changed since the last pass and what is not at rest: a change costs its own keys only.
    Changes,
}

/// What a pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassSummary {
    /// Keys looked at.
    pub looked: usize,
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

#[derive(Default)]
struct KeyState {
    spec: Option<AnySpec>,
    outcome: Option<Outcome>,
    held: Vec<Claim>,
    failures: u32,
    not_before: u64,
}

/// Brings a host to what is wanted. One pass at a time.
pub struct Engine {
    drivers: Vec<Box<dyn Erased>>,
    keys: BTreeMap<Key, KeyState>,
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

impl Engine {
    /// An engine without drivers that works on at most `concurrency` keys at a time (at least 1).
    #[must_use]
    pub fn new(concurrency: usize) -> Self {
        Self {
            drivers: Vec::new(),
            keys: BTreeMap::new(),
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

    fn driver(&self, kind: &str) -> Option<&dyn Erased> {
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
        let mut reports = std::mem::take(&mut self.reports);
        {
            let keys = &self.keys;
            reports.begin(
                desired,
                |key| {
                    let state = keys.get(key)?;
                    let same = same_spec(desired, key, state);
                    state.outcome.clone().filter(|_| same)
                },
                |key| {
                    keys.get(key).is_some_and(|state| {
                        matches!(state.outcome, Some(Outcome::Rest(Rest::Kept(_)) | Outcome::Unknown(_)))
                    })
                },
                sink,
            );
        }

        let candidates = self.candidates(desired, scope, now, host).await;
        let mut pass = Pass {
            desired,
            host,
            sink,
            now,
            reports,
            looks: BTreeMap::new(),
            summary: PassSummary { looked: candidates.len(), ..PassSummary::default() },
        };
        pass.look(self, &candidates).await;
        pass.run(self, &candidates).await;

        self.keys.retain(|key, state| {
            desired.wants.contains_key(key) || state.outcome != Some(Outcome::Rest(Rest::Gone))
        });
        let mut summary = pass.summary;
        self.reports = pass.reports;
        for state in self.keys.values() {
            match &state.outcome {
                Some(Outcome::Rest(Rest::Ready(_) | Rest::Retired)) => summary.ready += 1,
                Some(Outcome::Unknown(_)) => {
                    summary.failed += 1;
                    summary.retry_at =
                        Some(summary.retry_at.map_or(state.not_before, |at| at.min(state.not_before)));
                }
                Some(Outcome::Rest(Rest::Refused(_))) => summary.failed += 1,
                Some(Outcome::Rest(Rest::Blocked(_)) | Outcome::Waits { .. }) => summary.blocked += 1,
                Some(Outcome::Rest(Rest::Kept(_))) => summary.orphans += 1,
                Some(Outcome::Rest(Rest::Gone)) | None => {}
            }
        }
        summary
    }

    /// Everything that this pass works on, in ascending order.
    async fn candidates(
        &mut self,
        desired: &Desired,
        scope: Scope,
        now: u64,
        host: &dyn Host,
    ) -> BTreeSet<Key> {
        let mut all: BTreeSet<Key> = desired.wants.keys().chain(self.keys.keys()).cloned().collect();
        if scope == Scope::Everything {
            for driver in &self.drivers {
                match driver.list(host).await {
                    Ok(names) => all.extend(names.into_iter().map(|name| Key::new(driver.kind(), name))),
                    // Nothing of the kind is swept unseen; what is wanted of it is still tried.
                    Err(error) => tracing::warn!(kind = driver.kind(), %error, "cannot list what is there"),
                }
            }
        }
        all.retain(|key| {
            let Some(state) = self.keys.get(key) else { return true };
            let same = same_spec(desired, key, state);
            if same && matches!(state.outcome, Some(Outcome::Unknown(_))) && now < state.not_before {
                return false;
            }
            let at_rest = matches!(
                state.outcome,
                Some(Outcome::Rest(Rest::Ready(_) | Rest::Kept(_) | Rest::Retired | Rest::Refused(_)))
            );
            scope == Scope::Everything || !same || !at_rest
        });
        for key in &all {
            let state = self.keys.entry(key.clone()).or_default();
            if !same_spec(desired, key, state) {
                state.failures = 0;
                state.not_before = 0;
            }
            state.spec = desired.wants.get(key).map(|wanted| wanted.spec.clone());
        }
        all
    }
}

fn same_spec(desired: &Desired, key: &Key, state: &KeyState) -> bool {
    match (desired.wants.get(key), &state.spec) {
        (Some(wanted), Some(spec)) => wanted.spec.same(spec.as_ref()),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
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
    summary: PassSummary,
}

impl Pass<'_> {
    /// Observes every candidate; those that cannot be observed are unknown and not worked on.
    async fn look(&mut self, engine: &mut Engine, candidates: &BTreeSet<Key>) {
        let host = self.host;
        let mut failed = Vec::new();
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
            while let Some((key, look)) = looks.next().await {
                match look {
                    Ok(look) => {
                        self.looks.insert(key, look);
                    }
                    Err(error) => failed.push((key, error)),
                }
            }
        }
        for (key, look) in &self.looks {
            if let Some(state) = engine.keys.get_mut(key) {
                state.held.clone_from(&look.held);
            }
        }
        for (key, error) in failed {
            self.finish(engine, &key, Outcome::Unknown(error));
        }
    }

    async fn run(&mut self, engine: &mut Engine, candidates: &BTreeSet<Key>) {
        let order = Order::new(engine, self.desired, candidates);
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
        let mut waiting: BTreeMap<Key, BTreeSet<Key>> = self
            .looks
            .keys()
            .filter(|key| self.desired.wants.contains_key(*key))
            .map(|key| (key.clone(), order.before.get(key).cloned().unwrap_or_default()))
            .collect();
        let present: BTreeSet<Key> = waiting.keys().cloned().collect();
        for before in waiting.values_mut() {
            before.retain(|key| present.contains(key));
        }
        let mut ended: Vec<(Key, Outcome)> = Vec::new();
        loop {
            // The running work borrows the engine; outcomes are written down in the gaps when new keys become free.
            let mut started = false;
            {
                let shared: &Engine = engine;
                let mut running = FuturesUnordered::new();
                let mut done_now: BTreeMap<Key, Outcome> = BTreeMap::new();
                loop {
                    while running.len() < shared.concurrency {
                        let Some(key) =
                            waiting.iter().find(|(_, before)| before.is_empty()).map(|(key, _)| key.clone())
                        else {
                            break;
                        };
                        waiting.remove(&key);
                        started = true;
                        let Some(look) = self.looks.remove(&key) else { continue };
                        let needs = order.needs.get(&key).map(Vec::as_slice).unwrap_or_default();
                        let blocked = needs.iter().find_map(|need| {
                            let outcome = done_now
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
                    for before in waiting.values_mut() {
                        before.remove(&key);
                    }
                    // Told at once: a slow neighbour must not hold back the news.
                    self.tell(shared, &key, &outcome);
                    done_now.insert(key, outcome);
                }
                ended.extend(done_now);
            }
            for (key, outcome) in std::mem::take(&mut ended) {
                self.finish(engine, &key, outcome);
            }
            if waiting.is_empty() || !started {
                break;
            }
        }
        if !waiting.is_empty() {
            let names: Vec<String> = waiting.keys().map(ToString::to_string).collect();
            let why = format!("waits in a circle: {}", names.join(", "));
            for key in waiting.into_keys() {
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
        self.tell(engine, key, &outcome);
        let holds = self
            .desired
            .wants
            .get(key)
            .zip(engine.driver(key.kind))
            .map(|(wanted, driver)| driver.holds(&key.name, wanted.spec.as_ref()));
        let Some(state) = engine.keys.get_mut(key) else { return };
        match &outcome {
            Outcome::Unknown(message) => {
                state.failures = state.failures.saturating_add(1);
                let wait = backoff(key, state.failures);
                state.not_before = self.now.saturating_add(wait);
                tracing::warn!(%key, message, failures = state.failures, retry_in_ms = wait, "failed");
            }
            Outcome::Waits { .. } => {
                state.failures = 0;
                state.not_before = 0;
            }
            Outcome::Rest(rest) => {
                state.failures = 0;
                state.not_before = 0;
                if let Rest::Refused(message) = rest
                    && state.outcome.as_ref() != Some(&outcome)
                {
                    tracing::warn!(%key, message, "refused");
                }
                match rest {
                    Rest::Ready(_) => state.held = holds.unwrap_or_default(),
                    Rest::Gone | Rest::Kept(_) | Rest::Retired => state.held.clear(),
                    Rest::Blocked(_) | Rest::Refused(_) => {}
                }
            }
        }
        state.outcome = Some(outcome);
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

/// What goes before what in one pass.
struct Order {
    needs: BTreeMap<Key, Vec<Key>>,
    before: BTreeMap<Key, BTreeSet<Key>>,
    releases: BTreeSet<Key>,
    refused: BTreeMap<Key, String>,
}

impl Order {
    fn new(engine: &Engine, desired: &Desired, candidates: &BTreeSet<Key>) -> Self {
        // Who has each claim now, and who wants it.
        let mut held: BTreeMap<&Claim, &Key> = BTreeMap::new();
        for (key, state) in &engine.keys {
            for claim in &state.held {
                held.entry(claim).or_insert(key);
            }
        }
        let mut wanted_by: BTreeMap<Claim, BTreeSet<&Key>> = BTreeMap::new();
        let mut order = Self {
            needs: BTreeMap::new(),
            before: BTreeMap::new(),
            releases: BTreeSet::new(),
            refused: BTreeMap::new(),
        };
        for (key, wanted) in &desired.wants {
            let Some(driver) = engine.driver(key.kind) else { continue };
            for claim in driver.holds(&key.name, wanted.spec.as_ref()) {
                wanted_by.entry(claim).or_default().insert(key);
            }
        }
        for (key, wanted) in desired.wants.iter().filter(|(key, _)| candidates.contains(*key)) {
            let Some(driver) = engine.driver(key.kind) else { continue };
            let needs = driver.needs(&key.name, wanted.spec.as_ref());
            let mut before: BTreeSet<Key> = needs.iter().cloned().collect();
            for first in driver.after(&key.name, wanted.spec.as_ref()) {
                if desired.wants.contains_key(&first) {
                    before.insert(first);
                } else {
                    order.releases.insert(first);
                }
            }
            for claim in driver.holds(&key.name, wanted.spec.as_ref()) {
                let holder = held.get(&claim).copied().filter(|holder| *holder != key);
                let rivals = wanted_by.get(&claim);
                let winner = rivals.and_then(|rivals| {
                    held.get(&claim)
                        .copied()
                        .filter(|holder| rivals.contains(*holder))
                        .or_else(|| rivals.iter().next().copied())
                });
                if let Some(winner) = winner.filter(|winner| *winner != key) {
                    order.refused.insert(key.clone(), format!("{claim} belongs to {winner}"));
                } else if let Some(holder) = holder {
                    if desired.wants.contains_key(holder) {
                        before.insert(holder.clone());
                    } else {
                        order.releases.insert(holder.clone());
                    }
                }
            }
            order.needs.insert(key.clone(), needs);
            order.before.insert(key.clone(), before);
        }
        order
    }
}
