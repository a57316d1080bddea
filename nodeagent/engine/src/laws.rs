//! The laws of drivers, checked on the fake host with faults at every operation.
//!
//! 1. *Converges*: from whatever a scenario leaves behind, a few rounds of look, plan and work reach a rest, and the same
//!    state whichever way led there.
//! 2. *Idempotent*: at rest nothing more is planned; observing and listing change nothing; a step done twice is as good as
//!    once.
//! 3. *Survives a crash after any step*, and a failure before or after any single operation: the next pass ends where an
//!    undisturbed one does.
//! 4. *Absent leaves nothing* of configuration, interrupted or not, and keeps data exactly as it was.
//! 5. *Lists* what it made for as long as its configuration is there.

use std::fmt;

use crate::{
    driver::{Driver, Plan, Rest},
    fake::{FakeHost, Fault, Snapshot},
    host::{HostError, Place},
};

/// What a driver is tried with.
pub struct Scenario<D: Driver> {
    /// The key's name.
    pub name: String,
    /// Specs to go through, each from each.
    pub specs: Vec<D::Spec>,
    /// What others would have put on the host before.
    pub before: Snapshot,
    /// Customers' data: kept by Absent.
    pub is_data: fn(&Place) -> bool,
}

impl<D: Driver> fmt::Debug for Scenario<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario")
            .field("name", &self.name)
            .field("specs", &self.specs)
            .finish_non_exhaustive()
    }
}

/// Which law a driver breaks, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LawBroken {
    /// No rest after many rounds.
    #[error("does not converge ({case}): {why}")]
    Converges {
        /// What was tried.
        case: String,
        /// What happened.
        why: String,
    },
    /// Something is done again although nothing changed.
    #[error("is not idempotent ({case}): {why}")]
    Idempotent {
        /// What was tried.
        case: String,
        /// What happened.
        why: String,
    },
    /// An interrupted run ends elsewhere.
    #[error("does not survive an interruption ({case}): {why}")]
    Survives {
        /// What was tried.
        case: String,
        /// What happened.
        why: String,
    },
    /// Configuration left, or data touched.
    #[error("absent leaves the wrong things ({case}): {why}")]
    Absent {
        /// What was tried.
        case: String,
        /// What happened.
        why: String,
    },
    /// Configuration is there and not listed.
    #[error("does not list what it made ({case})")]
    Lists {
        /// What was tried.
        case: String,
    },
}

const ROUNDS: usize = 8;

/// How far a run goes.
#[derive(Clone, Copy)]
enum Until {
    Rest,
    /// Stops as a crash would, after this many steps.
    Steps(usize),
}

struct Ran {
    rest: Option<Rest>,
    steps: usize,
    error: Option<HostError>,
}

async fn run<D: Driver>(
    driver: &D,
    name: &str,
    want: Option<&D::Spec>,
    host: &FakeHost,
    until: Until,
    twice: bool,
) -> Ran {
    let mut steps = 0;
    let stop = |rest, steps, error| Ran { rest, steps, error };
    for _ in 0..ROUNDS {
        let seen = match driver.observe(name, want, host).await {
            Ok(seen) => seen,
            Err(error) => return stop(None, steps, Some(error)),
        };
        match driver.plan(name, want, &seen) {
            Plan::Rest(rest) => return stop(Some(rest), steps, None),
            Plan::Do(todo) => {
                for step in todo {
                    if matches!(until, Until::Steps(limit) if steps == limit) {
                        return stop(None, steps, None);
                    }
                    for _ in 0..=usize::from(twice) {
                        if let Err(error) = driver.step(name, &step, host).await {
                            return stop(None, steps, Some(error));
                        }
                    }
                    steps += 1;
                }
            }
        }
    }
    stop(None, steps, None)
}

/// Runs to a rest without disturbance.
async fn settle<D: Driver>(
    driver: &D,
    name: &str,
    want: Option<&D::Spec>,
    host: &FakeHost,
    case: &str,
) -> Result<(Rest, usize), LawBroken> {
    let ran = run(driver, name, want, host, Until::Rest, false).await;
    match (ran.rest, ran.error) {
        (Some(rest), _) => Ok((rest, ran.steps)),
        (None, Some(error)) => {
            Err(LawBroken::Converges { case: case.to_owned(), why: format!("a step failed: {error}") })
        }
        (None, None) => Err(LawBroken::Converges {
            case: case.to_owned(),
            why: format!("no rest after {ROUNDS} rounds and {} steps", ran.steps),
        }),
    }
}

/// Whether two states are the same apart from data, or which place differs.
fn difference(left: &Snapshot, right: &Snapshot, is_data: fn(&Place) -> bool) -> Option<String> {
    let places: std::collections::BTreeSet<&Place> = left.nodes.keys().chain(right.nodes.keys()).collect();
    for place in places.into_iter().filter(|place| !is_data(place)) {
        if left.nodes.get(place) != right.nodes.get(place) {
            return Some(format!(
                "{place}: {:?} instead of {:?}",
                left.nodes.get(place),
                right.nodes.get(place)
            ));
        }
    }
    (left.services != right.services)
        .then(|| format!("services: {:?} instead of {:?}", left.services, right.services))
}

/// What Absent may not leave: configuration beyond `before`. What it may not touch: data.
fn absent_is_clean(
    before: &Snapshot,
    present: &Snapshot,
    after: &Snapshot,
    is_data: fn(&Place) -> bool,
) -> Result<(), String> {
    for (place, node) in &after.nodes {
        let is_dir = matches!(node, crate::fake::FakeNode::Dir(_));
        if !is_data(place) && !is_dir && !before.nodes.contains_key(place) {
            return Err(format!("{place} is left"));
        }
    }
    if let Some(name) = after.services.keys().find(|name| !before.services.contains_key(*name)) {
        return Err(format!("service {name} is left"));
    }
    for (name, service) in &after.services {
        let stale = service.loaded.keys().find(|place| !after.nodes.contains_key(place));
        if let Some(place) = stale {
            return Err(format!("{name} still serves {place}"));
        }
    }
    for (place, node) in present.nodes.iter().filter(|(place, _)| is_data(place)) {
        if after.nodes.get(place) != Some(node) {
            return Err(format!("the data at {place} was touched"));
        }
    }
    Ok(())
}

/// Checks every law; `make` gives a driver without memory, as after a crash.
///
/// # Errors
/// The first law that the driver breaks.
pub async fn check<D: Driver>(make: impl Fn() -> D, scenario: &Scenario<D>) -> Result<(), LawBroken> {
    let fresh = || FakeHost::from_snapshot(scenario.before.clone());
    // States to come from: nothing, and each spec.
    let mut starts = vec![("nothing".to_owned(), scenario.before.clone())];
    let mut targets = Vec::new();
    for (index, spec) in scenario.specs.iter().enumerate() {
        let host = fresh();
        let case = format!("spec {index} from nothing");
        let (rest, _) = settle(&make(), &scenario.name, Some(spec), &host, &case).await?;
        starts.push((format!("spec {index}"), host.snapshot()));
        targets.push((spec, rest, host.snapshot()));
    }

    for (from, start) in &starts {
        for (index, (spec, rest, target)) in targets.iter().enumerate() {
            let case = format!("spec {index} from {from}");
            let goal = Goal { want: Some(*spec), rest, target, is_data: scenario.is_data };
            transition(&make, scenario, start, &goal, &case).await?;
        }
    }
    let before = &scenario.before;
    for (from, start) in &starts {
        let case = format!("absent from {from}");
        let host = FakeHost::from_snapshot(start.clone());
        let (rest, _) = settle(&make(), &scenario.name, None, &host, &case).await?;
        let after = host.snapshot();
        absent_is_clean(before, start, &after, scenario.is_data)
            .map_err(|why| LawBroken::Absent { case: case.clone(), why })?;
        let goal = Goal { want: None, rest: &rest, target: &after, is_data: scenario.is_data };
        transition(&make, scenario, start, &goal, &case).await?;
    }
    Ok(())
}

struct Goal<'a, D: Driver> {
    want: Option<&'a D::Spec>,
    rest: &'a Rest,
    target: &'a Snapshot,
    is_data: fn(&Place) -> bool,
}

/// One way from a state to a goal: straight, with doubled steps, cut after each step, with a fault at each operation.
async fn transition<D: Driver>(
    make: &impl Fn() -> D,
    scenario: &Scenario<D>,
    start: &Snapshot,
    goal: &Goal<'_, D>,
    case: &str,
) -> Result<(), LawBroken> {
    let name = scenario.name.as_str();
    let host = FakeHost::from_snapshot(start.clone());
    let (rest, steps) = settle(&make(), name, goal.want, &host, case).await?;
    if rest != *goal.rest {
        let why = format!("rests as {rest:?} instead of {:?}", goal.rest);
        return Err(LawBroken::Converges { case: case.to_owned(), why });
    }
    if let Some(why) = difference(&host.snapshot(), goal.target, goal.is_data) {
        return Err(LawBroken::Converges { case: case.to_owned(), why });
    }
    let operations = host.changes();

    let ran = run(&make(), name, goal.want, &host, Until::Rest, false).await;
    if ran.rest.as_ref() != Some(goal.rest) || ran.steps > 0 || host.changes() != operations {
        let why =
            format!("at rest, {} more steps and {} more changes", ran.steps, host.changes() - operations);
        return Err(LawBroken::Idempotent { case: case.to_owned(), why });
    }
    let listed = make()
        .list(&host)
        .await
        .map_err(|error| LawBroken::Converges { case: case.to_owned(), why: format!("list: {error}") })?;
    if host.changes() != operations {
        return Err(LawBroken::Idempotent { case: case.to_owned(), why: "list changes things".to_owned() });
    }
    is_listed(make, name, &host, &listed, case).await?;

    let host = FakeHost::from_snapshot(start.clone());
    let doubled = run(&make(), name, goal.want, &host, Until::Rest, true).await;
    if let Some(error) = doubled.error {
        let why = format!("a step done twice fails: {error}");
        return Err(LawBroken::Idempotent { case: case.to_owned(), why });
    }
    if let Some(why) = difference(&host.snapshot(), goal.target, goal.is_data) {
        return Err(LawBroken::Idempotent { case: case.to_owned(), why: format!("steps done twice: {why}") });
    }

    for cut in 0..steps {
        let host = FakeHost::from_snapshot(start.clone());
        run(&make(), name, goal.want, &host, Until::Steps(cut), false).await;
        recovers(make, scenario, &host, goal, &format!("{case}, crash after step {cut}")).await?;
    }
    for at in 0..operations {
        for fault in [Fault::Before, Fault::After] {
            let host = FakeHost::from_snapshot(start.clone());
            host.fail_at(at, fault);
            run(&make(), name, goal.want, &host, Until::Rest, false).await;
            recovers(make, scenario, &host, goal, &format!("{case}, failure {fault:?} operation {at}"))
                .await?;
        }
    }
    Ok(())
}

/// What Absent would remove must be found without the spec, and that after a crash too.
async fn is_listed<D: Driver>(
    make: &impl Fn() -> D,
    name: &str,
    host: &FakeHost,
    listed: &[String],
    case: &str,
) -> Result<(), LawBroken> {
    let probe = FakeHost::from_snapshot(host.snapshot());
    let unwanted = run(&make(), name, None, &probe, Until::Rest, false).await;
    if unwanted.steps > 0 && !listed.iter().any(|listed| listed == name) {
        return Err(LawBroken::Lists { case: case.to_owned() });
    }
    Ok(())
}

async fn recovers<D: Driver>(
    make: &impl Fn() -> D,
    scenario: &Scenario<D>,
    host: &FakeHost,
    goal: &Goal<'_, D>,
    case: &str,
) -> Result<(), LawBroken> {
    let broken = |why: String| LawBroken::Survives { case: case.to_owned(), why };
    let listed = make().list(host).await.map_err(|error| broken(format!("list: {error}")))?;
    is_listed(make, &scenario.name, host, &listed, case).await?;
    let (rest, _) = settle(&make(), &scenario.name, goal.want, host, case)
        .await
        .map_err(|error| broken(error.to_string()))?;
    if rest != *goal.rest {
        return Err(broken(format!("rests as {rest:?} instead of {:?}", goal.rest)));
    }
    match difference(&host.snapshot(), goal.target, goal.is_data) {
        Some(why) => Err(broken(why)),
        None => Ok(()),
    }
}

/// A test named `$test` that checks the laws for the driver that `$make` makes, in `$scenario`.
#[macro_export]
macro_rules! driver_laws {
    ($test:ident, $make:expr, $scenario:expr) => {
        #[test]
        fn $test() {
            let scenario = $scenario;
            if let Err(broken) = $crate::block_on($crate::laws::check($make, &scenario)) {
                panic!("{broken}");
            }
        }
    };
}
