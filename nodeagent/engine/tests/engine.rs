//! Order, failure, backoff, orphans and reports of a pass, on the fake host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::{collections::BTreeMap, sync::Mutex};

use async_trait::async_trait;
use hosting_agent_engine::{
    Access, Claim, Desired, Driver, Engine, Host, HostError, Key, Phase, Place, Plan, Report, Rest, Root,
    Scope, block_on,
    fake::{FakeHost, FakeNode, Fault},
};
use hosting_intent::{Key as IntentKey, Kind};

/// A file that holds its spec's text; with data beside it that stays.
struct Thing {
    log: &'static Mutex<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Spec {
    text: String,
    needs: Vec<&'static str>,
    claims: Vec<&'static str>,
    after: Vec<&'static str>,
    keeps_data: bool,
    refuse: bool,
    /// A step that fails whatever happens.
    fails: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    text: Option<String>,
    data: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Write(String),
    Data,
    Remove,
    Fail,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Write(_) => "write",
            Self::Data => "make data",
            Self::Remove => "remove",
            Self::Fail => "fail",
        })
    }
}

fn file(name: &str) -> Place {
    Place::new(Root::Config, ["things", name])
}

fn data(name: &str) -> Place {
    Place::new(Root::Storage, ["data", name])
}

/// The file's text ends with the claims that it has.
fn text(spec: &Spec) -> String {
    format!("{}|{}", spec.text, spec.claims.join(","))
}

#[async_trait]
impl Driver for Thing {
    type Spec = Spec;
    type Observed = Seen;
    type Step = Step;
    const KIND: &'static str = "thing";

    fn needs(&self, _: &str, spec: &Spec) -> Vec<Key> {
        spec.needs.iter().map(|name| Key::new("thing", *name)).collect()
    }

    fn after(&self, _: &str, spec: &Spec) -> Vec<Key> {
        spec.after.iter().map(|name| Key::new("thing", *name)).collect()
    }

    fn holds(&self, _: &str, spec: &Spec) -> Vec<Claim> {
        spec.claims.iter().map(|claim| Claim((*claim).to_owned())).collect()
    }

    fn held(&self, _: &str, seen: &Seen) -> Vec<Claim> {
        let claims = seen.text.as_deref().and_then(|text| text.split_once('|')).map(|(_, claims)| claims);
        claims
            .into_iter()
            .flat_map(|c| c.split(','))
            .filter(|c| !c.is_empty())
            .map(|c| Claim(c.into()))
            .collect()
    }

    fn origin(&self, name: &str) -> Option<IntentKey> {
        Some(intent(name))
    }

    async fn list(&self, host: &dyn Host) -> Result<Vec<String>, HostError> {
        let mut names = host.names(&Place::new(Root::Config, ["things"])).await?;
        names.extend(host.names(&Place::new(Root::Storage, ["data"])).await?);
        Ok(names)
    }

    async fn observe(&self, name: &str, _: Option<&Spec>, host: &dyn Host) -> Result<Seen, HostError> {
        let text = host.read(&file(name)).await?.map(|bytes| String::from_utf8(bytes).unwrap());
        Ok(Seen { text, data: host.read(&data(name)).await?.is_some() })
    }

    fn plan(&self, _: &str, want: Option<&Spec>, seen: &Seen) -> Plan<Step> {
        match want {
            Some(spec) if spec.refuse => Plan::Rest(Rest::Refused("no such thing".into())),
            Some(spec) if spec.fails => Plan::Do(vec![Step::Fail]),
            Some(spec) if spec.keeps_data && !seen.data => Plan::Do(vec![Step::Data]),
            Some(spec) if seen.text.as_deref() != Some(&text(spec)) => {
                Plan::Do(vec![Step::Write(text(spec))])
            }
            Some(_) => Plan::Rest(Rest::Ready(String::new())),
            None if seen.text.is_some() => Plan::Do(vec![Step::Remove]),
            None if seen.data => Plan::Rest(Rest::Kept("kept".into())),
            None => Plan::Rest(Rest::Gone),
        }
    }

    async fn step(&self, name: &str, step: &Step, host: &dyn Host) -> Result<(), HostError> {
        self.log.lock().unwrap().push(format!("{step} {name}"));
        match step {
            Step::Write(text) => host.write(&file(name), text.as_bytes(), Access::agent(0o600)).await,
            Step::Data => host.write(&data(name), b"precious", Access::site(0o600)).await,
            Step::Remove => host.remove(&file(name)).await,
            Step::Fail => Err(HostError::service("thing", "broken for good")),
        }
    }
}

fn intent(name: &str) -> IntentKey {
    IntentKey::new(Kind::Webroot, name)
}

struct World {
    host: FakeHost,
    engine: Engine,
    log: &'static Mutex<Vec<String>>,
    reports: Mutex<BTreeMap<String, Report>>,
    history: Mutex<Vec<(String, Phase)>>,
    now: u64,
}

impl World {
    fn new() -> Self {
        let log: &'static Mutex<Vec<String>> = Box::leak(Box::default());
        Self {
            host: FakeHost::new(),
            engine: Engine::new(4).with(Thing { log }),
            log,
            reports: Mutex::default(),
            history: Mutex::default(),
            now: 0,
        }
    }

    fn pass(&mut self, wants: &[(&str, Spec)], scope: Scope) -> hosting_agent_engine::PassSummary {
        let mut desired = Desired::new();
        for (name, spec) in wants {
            desired.want::<Thing>(*name, spec.clone(), Some((intent(name), 7)));
        }
        let sink = |key: &IntentKey, report: Option<&Report>| {
            let mut reports = self.reports.lock().unwrap();
            match report {
                Some(report) => {
                    self.history.lock().unwrap().push((key.name.clone(), report.phase));
                    reports.insert(key.name.clone(), report.clone());
                }
                None => {
                    reports.remove(&key.name);
                }
            }
        };
        block_on(self.engine.pass(&desired, scope, self.now, &self.host, &sink))
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    fn phase(&self, name: &str) -> Phase {
        self.reports.lock().unwrap()[name].phase
    }

    fn message(&self, name: &str) -> String {
        self.reports.lock().unwrap()[name].message.clone()
    }
}

fn spec(text: &str) -> Spec {
    Spec { text: text.into(), ..Spec::default() }
}

#[test]
fn needs_go_first_and_a_failure_blocks_what_depends_on_it_only() {
    let mut world = World::new();
    let base = Spec { needs: vec!["c"], ..spec("a") };
    let middle = Spec { needs: vec!["b"], ..spec("c") };
    world.pass(&[("a", base.clone()), ("c", middle.clone()), ("b", spec("b"))], Scope::Everything);
    assert_eq!(world.log(), ["write b", "write c", "write a"]);
    assert_eq!(world.phase("a"), Phase::Ready);
    assert_eq!(world.reports.lock().unwrap()["a"].revision, 7);

    let mut world = World::new();
    let broken = Spec { fails: true, ..spec("b") };
    let summary =
        world.pass(&[("a", base), ("c", middle), ("b", broken), ("other", spec("x"))], Scope::Everything);
    assert_eq!(world.phase("b"), Phase::Failed);
    assert!(world.message("b").contains("fail: thing: broken for good"), "{}", world.message("b"));
    assert_eq!(world.phase("c"), Phase::Blocked);
    assert_eq!(world.phase("a"), Phase::Blocked);
    assert!(world.message("a").contains("thing/b"), "{}", world.message("a"));
    assert_eq!(world.phase("other"), Phase::Ready);
    assert_eq!((summary.ready, summary.failed, summary.blocked), (1, 1, 2));
    assert!(summary.retry_at.is_some());
}

#[test]
fn a_need_that_nobody_wants_and_a_circle_are_named() {
    let mut world = World::new();
    let lonely = Spec { needs: vec!["absent"], ..spec("a") };
    let left = Spec { needs: vec!["right"], ..spec("l") };
    let right = Spec { needs: vec!["left"], ..spec("r") };
    world.pass(&[("lonely", lonely), ("left", left), ("right", right)], Scope::Everything);
    assert_eq!(world.phase("lonely"), Phase::Blocked);
    assert!(world.message("lonely").contains("thing/absent, which is not wanted"));
    assert_eq!(world.phase("left"), Phase::Failed);
    assert!(world.message("right").contains("circle: thing/left, thing/right"), "{}", world.message("right"));
    assert!(world.log().is_empty());
}

#[test]
fn releases_before_acquires_and_user_work_before_sweeps() {
    let mut world = World::new();
    let port = |text: &str, claim: &'static str| Spec { claims: vec![claim], ..spec(text) };
    world.pass(
        &[("old", port("old", "port 1")), ("junk", spec("junk")), ("zed", port("z", "port 2"))],
        Scope::Everything,
    );
    world.log();
    // `old` goes and `new` takes its port; `zed` gives port 2 to `add` and takes port 3; `junk` is only swept.
    let wants =
        [("add", port("add", "port 2")), ("new", port("new", "port 1")), ("zed", port("z", "port 3"))];
    world.pass(&wants, Scope::Changes);
    assert_eq!(world.log(), ["remove old", "write new", "write zed", "write add", "remove junk"]);
    // The same claim twice: whoever has it keeps it, the other one is told who that is.
    let wants =
        [("add", port("add", "port 3")), ("new", port("new", "port 1")), ("zed", port("z", "port 3"))];
    world.pass(&wants, Scope::Changes);
    assert_eq!(world.phase("add"), Phase::Failed);
    assert_eq!(world.message("add"), "port 3 belongs to thing/zed");
    assert_eq!(world.phase("zed"), Phase::Ready);
}

#[test]
fn what_must_go_first_goes_first() {
    let mut world = World::new();
    world.pass(&[("user", spec("u")), ("zzz", spec("z"))], Scope::Everything);
    world.log();
    world.pass(&[("cleaner", Spec { after: vec!["user"], ..spec("c") })], Scope::Changes);
    assert_eq!(world.log(), ["remove user", "write cleaner", "remove zzz"]);
}

#[test]
fn data_that_nobody_wants_is_detached_kept_and_reported() {
    let mut world = World::new();
    let keeper = Spec { keeps_data: true, ..spec("k") };
    world.pass(&[("k", keeper.clone())], Scope::Everything);
    let summary = world.pass(&[], Scope::Changes);
    assert_eq!(world.phase("k"), Phase::Orphan);
    assert_eq!(world.reports.lock().unwrap()["k"].revision, 0);
    assert_eq!(summary.orphans, 1);
    let left: Vec<_> =
        world.host.snapshot().nodes.into_keys().filter(|place| place.parts.len() == 2).collect();
    assert_eq!(left, [data("k")]);

    // An agent that never saw it wanted finds it by listing; wanted again, it is an orphan no more.
    world.engine = Engine::new(4).with(Thing { log: world.log });
    world.reports.lock().unwrap().clear();
    world.pass(&[], Scope::Everything);
    assert_eq!(world.phase("k"), Phase::Orphan);
    world.pass(&[("k", keeper)], Scope::Changes);
    assert_eq!(world.phase("k"), Phase::Ready);
}

#[test]
fn configuration_that_nobody_wants_goes_and_its_report_with_it() {
    let mut world = World::new();
    world.pass(&[("a", spec("a"))], Scope::Everything);
    world.pass(&[], Scope::Changes);
    assert!(world.reports.lock().unwrap().is_empty());
    assert!(!world.host.snapshot().nodes.contains_key(&file("a")));
    world.host.put(&file("foreign"), FakeNode::File(b"x|".to_vec(), Access::agent(0o600)));
    world.pass(&[], Scope::Everything);
    assert!(!world.host.snapshot().nodes.contains_key(&file("foreign")));
}

#[test]
fn a_failed_key_waits_longer_each_time_and_a_new_spec_does_not_wait() {
    let mut world = World::new();
    let broken = Spec { fails: true, ..spec("a") };
    let mut waits = Vec::new();
    for _ in 0..12 {
        let summary = world.pass(&[("a", broken.clone())], Scope::Everything);
        let at = summary.retry_at.unwrap();
        waits.push(at - world.now);
        world.log();
        // Not due yet: nothing is tried, the report stays.
        world.now = at - 1;
        world.pass(&[("a", broken.clone())], Scope::Everything);
        assert!(world.log().is_empty());
        assert_eq!(world.phase("a"), Phase::Failed);
        world.now = at;
    }
    assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
    assert!(waits[0] < 1_000 && waits[11] >= 60_000 && waits[11] <= 75_000, "{waits:?}");
    world.pass(&[("a", broken)], Scope::Everything);
    world.log();
    world.pass(&[("a", spec("good"))], Scope::Changes);
    assert_eq!(world.log(), ["write a"]);
    assert_eq!(world.phase("a"), Phase::Ready);
}

#[test]
fn a_failed_step_is_looked_at_anew_and_not_believed() {
    let mut world = World::new();
    // The write happens, but its success is not heard of.
    world.host.fail_at(0, Fault::After);
    let summary = world.pass(&[("a", spec("a"))], Scope::Everything);
    assert_eq!(world.phase("a"), Phase::Failed);
    world.now = summary.retry_at.unwrap();
    world.log();
    world.pass(&[("a", spec("a"))], Scope::Changes);
    assert_eq!(world.phase("a"), Phase::Ready);
    assert!(world.log().is_empty(), "it was there already");
}

#[test]
fn a_change_costs_its_own_keys_only_and_the_clock_finds_drift() {
    let mut world = World::new();
    let mut wants: Vec<(String, Spec)> = (0..50).map(|n| (format!("k{n:02}"), spec("x"))).collect();
    let pass = |world: &mut World, wants: &[(String, Spec)], scope| {
        let wants: Vec<(&str, Spec)> =
            wants.iter().map(|(name, spec)| (name.as_str(), spec.clone())).collect();
        world.pass(&wants, scope)
    };
    assert_eq!(pass(&mut world, &wants, Scope::Everything).looked, 50);
    wants[7].1 = spec("y");
    assert_eq!(pass(&mut world, &wants, Scope::Changes).looked, 1);
    world.host.take(&file("k03"));
    assert_eq!(pass(&mut world, &wants, Scope::Changes).looked, 0);
    world.log();
    assert_eq!(pass(&mut world, &wants, Scope::Everything).looked, 50);
    assert_eq!(world.log(), ["write k03"]);
}

#[test]
fn the_first_word_is_converging_and_the_last_ready_once() {
    let mut world = World::new();
    world.pass(&[("a", spec("a"))], Scope::Everything);
    world.pass(&[("a", spec("a"))], Scope::Everything);
    let history = world.history.lock().unwrap().clone();
    assert_eq!(history, [("a".to_owned(), Phase::Converging), ("a".to_owned(), Phase::Ready)]);
}

#[test]
fn a_refusal_is_said_and_not_retried_until_something_changes() {
    let mut world = World::new();
    let no = Spec { refuse: true, ..spec("a") };
    let summary = world.pass(&[("a", no.clone())], Scope::Everything);
    assert_eq!((world.phase("a"), summary.retry_at), (Phase::Failed, None));
    assert_eq!(world.pass(&[("a", no)], Scope::Changes).looked, 0);
}

#[test]
fn many_intents_in_one_circle_of_work_end_in_the_same_state_whatever_the_concurrency() {
    let states: Vec<_> = [1, 3, 64]
        .into_iter()
        .map(|concurrency| {
            let mut world = World::new();
            world.engine = Engine::new(concurrency).with(Thing { log: world.log });
            let names: Vec<String> = (0..40).map(|n| format!("k{n:02}")).collect();
            let wants: Vec<(&str, Spec)> = names
                .iter()
                .enumerate()
                .map(|(n, name)| {
                    let needs = if n % 4 == 0 { vec![] } else { vec!["k00"] };
                    (name.as_str(), Spec { needs, ..spec("x") })
                })
                .collect();
            let summary = world.pass(&wants, Scope::Everything);
            assert_eq!(summary.ready, 40);
            world.host.snapshot()
        })
        .collect();
    assert_eq!(states[0], states[1]);
    assert_eq!(states[0], states[2]);
}

#[test]
fn what_goes_first_and_is_kept_is_looked_at_again_at_the_end() {
    let mut world = World::new();
    world.pass(&[("k", Spec { keeps_data: true, ..spec("k") })], Scope::Everything);
    world.history.lock().unwrap().clear();
    world.pass(&[("cleaner", Spec { after: vec!["k"], ..spec("c") })], Scope::Changes);
    assert_eq!(world.phase("k"), Phase::Orphan);
    let last = world.history.lock().unwrap().last().cloned();
    assert_eq!(last, Some(("k".to_owned(), Phase::Orphan)));
}

#[test]
fn a_failure_of_what_no_intent_asked_for_is_reported_by_those_who_need_it() {
    let mut world = World::new();
    let mut desired = Desired::new();
    desired.want::<Thing>("base", Spec { fails: true, ..spec("b") }, None);
    let user = Spec { needs: vec!["base"], ..spec("u") };
    desired.want::<Thing>("user", user, Some((intent("user"), 3)));
    let second = Spec { needs: vec!["user"], ..spec("s") };
    desired.want::<Thing>("second", second, Some((intent("second"), 3)));
    let reports: Mutex<BTreeMap<String, Report>> = Mutex::default();
    let sink = |key: &IntentKey, report: Option<&Report>| {
        reports.lock().unwrap().insert(key.name.clone(), report.unwrap().clone());
    };
    block_on(world.engine.pass(&desired, Scope::Everything, 0, &world.host, &sink));
    for name in ["user", "second"] {
        let report = reports.lock().unwrap()[name].clone();
        assert_eq!(report.phase, Phase::Failed, "{report:?}");
        assert!(report.message.contains("broken for good"), "{report:?}");
    }
    let (phase, why) = world.engine.status(&Key::new("thing", "base")).unwrap();
    assert!(phase == Phase::Failed && why.contains("broken for good"));
}

#[test]
fn an_intent_waits_for_what_it_shapes_and_does_not_share_its_failure() {
    let mut world = World::new();
    let history: Mutex<Vec<(String, Phase)>> = Mutex::default();
    let sink = |key: &IntentKey, report: Option<&Report>| {
        history.lock().unwrap().push((key.name.clone(), report.unwrap().phase));
    };
    for (round, site) in
        [spec("open"), spec("closed"), Spec { fails: true, ..spec("open") }].into_iter().enumerate()
    {
        let mut desired = Desired::new();
        let revision = round as u64 + 1;
        desired.want::<Thing>("owner", spec("o"), Some((intent("owner"), revision)));
        desired.want::<Thing>("site", Spec { needs: vec!["owner"], ..site }, Some((intent("site"), 1)));
        desired.settles::<Thing>("site", intent("owner"));
        history.lock().unwrap().clear();
        block_on(world.engine.pass(&desired, Scope::Changes, 0, &world.host, &sink));
        let history: Vec<(String, Phase)> = history.lock().unwrap().clone();
        let at = |name: &str, phase| history.iter().position(|seen| *seen == (name.to_owned(), phase));
        let ready = at("owner", Phase::Ready).expect("the owner is ready in the end");
        let ended = if round == 2 { Phase::Failed } else { Phase::Ready };
        assert!(at("site", ended).unwrap() < ready, "{history:?}");
        assert!(at("owner", Phase::Converging).unwrap() < ready, "{history:?}");
        assert_eq!(at("owner", Phase::Failed), None);
    }

    // A change of the thing alone is no news of the intent.
    let mut desired = Desired::new();
    desired.want::<Thing>("owner", spec("o"), Some((intent("owner"), 3)));
    desired.want::<Thing>("site", Spec { needs: vec!["owner"], ..spec("later") }, Some((intent("site"), 4)));
    desired.settles::<Thing>("site", intent("owner"));
    history.lock().unwrap().clear();
    block_on(world.engine.pass(&desired, Scope::Changes, 0, &world.host, &sink));
    assert!(history.lock().unwrap().iter().all(|(name, _)| name == "site"), "{history:?}");
}
