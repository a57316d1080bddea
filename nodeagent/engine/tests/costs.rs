//! What a pass costs, in operations and not in time: a full pass grows with the keys, a change does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use hosting_agent_engine::{
    Claim, Desired, Driver, Engine, Host, HostError, Key, PassSummary, Plan, Report, Rest, Scope, block_on,
    fake::FakeHost,
};
use hosting_intent::{Key as IntentKey, Kind};

/// Everything that the engine asks of a driver or of a spec.
type Asked = Arc<AtomicUsize>;

#[derive(Debug, Clone)]
struct Spec {
    text: &'static str,
    needs: Vec<Key>,
    asked: Asked,
}

impl PartialEq for Spec {
    fn eq(&self, other: &Self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.text == other.text && self.needs == other.needs
    }
}

/// A thing that is as wanted once it was touched.
struct Thing {
    asked: Asked,
    there: std::sync::Mutex<std::collections::BTreeMap<String, &'static str>>,
}

impl Thing {
    fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Driver for Thing {
    type Spec = Spec;
    type Observed = Option<&'static str>;
    type Step = &'static str;
    const KIND: &'static str = "thing";

    fn needs(&self, _: &str, spec: &Spec) -> Vec<Key> {
        self.ask();
        spec.needs.clone()
    }

    fn holds(&self, name: &str, _: &Spec) -> Vec<Claim> {
        self.ask();
        vec![Claim(name.to_owned())]
    }

    fn held(&self, name: &str, seen: &Self::Observed) -> Vec<Claim> {
        self.ask();
        seen.iter().map(|_| Claim(name.to_owned())).collect()
    }

    fn origin(&self, name: &str) -> Option<IntentKey> {
        self.ask();
        Some(IntentKey::new(Kind::Webroot, name))
    }

    async fn list(&self, _: &dyn Host) -> Result<Vec<String>, HostError> {
        let there = self.there.lock().unwrap();
        self.asked.fetch_add(there.len(), Ordering::Relaxed);
        Ok(there.keys().cloned().collect())
    }

    async fn observe(&self, name: &str, _: Option<&Spec>, _: &dyn Host) -> Result<Self::Observed, HostError> {
        self.ask();
        Ok(self.there.lock().unwrap().get(name).copied())
    }

    fn plan(&self, _: &str, want: Option<&Spec>, seen: &Self::Observed) -> Plan<&'static str> {
        self.ask();
        match want {
            Some(spec) if *seen == Some(spec.text) => Plan::Rest(Rest::Ready(String::new())),
            Some(spec) => Plan::Do(vec![spec.text]),
            None if seen.is_some() => Plan::Do(vec!["remove"]),
            None => Plan::Rest(Rest::Gone),
        }
    }

    async fn step(&self, name: &str, step: &&'static str, _: &dyn Host) -> Result<(), HostError> {
        self.ask();
        let mut there = self.there.lock().unwrap();
        match *step {
            "remove" => there.remove(name),
            text => there.insert(name.to_owned(), text),
        };
        Ok(())
    }
}

struct World {
    engine: Engine,
    desired: Desired,
    asked: Asked,
    /// Reports that changed.
    said: AtomicUsize,
}

/// As on a node: a base that all need, owners, and things of which each needs the base and its owner, who waits for them.
const PER_OWNER: usize = 50;

impl World {
    fn new(things: usize) -> Self {
        let asked = Asked::default();
        let thing = Thing { asked: asked.clone(), there: std::sync::Mutex::default() };
        let mut world = Self {
            engine: Engine::new(64).with(thing),
            desired: Desired::new(),
            asked,
            said: AtomicUsize::new(0),
        };
        world.want("base", "base", &[], None);
        for number in 0..things {
            if number % PER_OWNER == 0 {
                world.want(&owner(number), "owner", &[], Some(1));
            }
            world.thing(number, "open", 1);
        }
        world
    }

    fn want(&mut self, name: &str, text: &'static str, needs: &[&str], revision: Option<u64>) {
        let needs = needs.iter().map(|need| Key::new("thing", *need)).collect();
        let origin = revision.map(|revision| (IntentKey::new(Kind::Webroot, name), revision));
        self.desired.want::<Thing>(name, Spec { text, needs, asked: self.asked.clone() }, origin);
    }

    fn thing(&mut self, number: usize, text: &'static str, revision: u64) {
        let name = format!("site{number:06}");
        self.want(&name, text, &["base", &owner(number)], Some(revision));
        self.desired.settles::<Thing>(&name, IntentKey::new(Kind::Webroot, owner(number)));
    }

    /// A pass, and its operations: what the engine went over, what it asked, and what it said.
    fn pass(&mut self, scope: Scope) -> (PassSummary, usize) {
        self.asked.store(0, Ordering::Relaxed);
        self.said.store(0, Ordering::Relaxed);
        let said = &self.said;
        let sink = |_: &IntentKey, _: Option<&Report>| {
            said.fetch_add(1, Ordering::Relaxed);
        };
        let summary = block_on(self.engine.pass(&self.desired, scope, 0, &FakeHost::new(), &sink));
        let asked = self.asked.load(Ordering::Relaxed);
        let operations = summary.visited + asked + self.said.load(Ordering::Relaxed);
        (summary, operations)
    }
}

fn owner(number: usize) -> String {
    format!("owner{:06}", number / PER_OWNER)
}

const FEW: usize = 100;
const MANY: usize = 10_000;

#[test]
fn a_full_pass_grows_with_its_keys_and_not_faster() {
    let cost = |things| {
        let mut world = World::new(things);
        let (summary, first) = world.pass(Scope::Everything);
        assert_eq!(summary.ready, 1 + things + things / PER_OWNER);
        let (_, again) = world.pass(Scope::Everything);
        world.desired = Desired::new();
        let (summary, end) = world.pass(Scope::Everything);
        assert_eq!((summary.ready, summary.orphans), (0, 0));
        [first, again, end]
    };
    let (few, many) = (cost(FEW), cost(MANY));
    for (few, many) in few.into_iter().zip(many) {
        let growth = MANY / FEW;
        assert!(many <= few * growth * 11 / 10, "{few} operations for {FEW} keys, {many} for {MANY}");
    }
}

#[test]
fn a_change_costs_the_same_whatever_else_is_there() {
    let cost = |things| {
        let mut world = World::new(things);
        world.pass(Scope::Everything);
        let nothing = world.pass(Scope::Changes).1;
        world.thing(things / 2, "closed", 2);
        let (summary, changed) = world.pass(Scope::Changes);
        assert_eq!(summary.looked, 1);
        world.thing(things, "open", 3);
        let (summary, added) = world.pass(Scope::Changes);
        // The owner of the new one is not wanted: it waits.
        assert_eq!((summary.looked, summary.blocked), (1, 1));
        world.desired.unwant(&Key::new("thing", format!("site{:06}", things / 2)));
        let (_, removed) = world.pass(Scope::Changes);
        [nothing, changed, added, removed]
    };
    let (few, many) = (cost(FEW), cost(MANY));
    for (at, (few, many)) in few.into_iter().zip(many).enumerate() {
        // What differs between two wants is found in shared trees, whose nodes hold a few dozen keys.
        assert!(many <= few + 100, "change {at}: {few} operations beside {FEW} keys, {many} beside {MANY}");
    }
}
