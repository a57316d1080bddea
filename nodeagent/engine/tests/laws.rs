//! The laws hold for a sound driver, and each of them fails for a driver that breaks it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use async_trait::async_trait;
use hosting_agent_engine::{
    Access, Claim, Driver, Host, HostError, Key, Place, Plan, Rest, Root, block_on, driver_laws,
    fake::{FakeHost, FakeNode},
    laws::{LawBroken, Scenario, check},
};

/// Two files that belong together, and data beside them.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    None,
    /// Never content.
    Restless,
    /// Appends instead of replacing.
    Appends,
    /// Takes the second file's presence as proof of the first.
    HalfBlind,
    /// Leaves a file behind.
    Untidy,
    /// Removes data.
    Destroys,
    /// Looks only where the first file is.
    Forgetful,
    /// Changes things while it looks.
    Meddles,
}

struct Pair(Flaw);

fn first() -> Place {
    Place::new(Root::Config, ["pair", "1"])
}

fn second() -> Place {
    Place::new(Root::Config, ["pair", "2"])
}

fn data() -> Place {
    Place::new(Root::Storage, ["precious"])
}

#[derive(Debug, Clone)]
enum Step {
    First(String),
    Second(String),
    Clear(Place),
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

type Seen = (Option<Vec<u8>>, Option<Vec<u8>>, bool);

#[async_trait]
impl Driver for Pair {
    type Spec = String;
    type Observed = Seen;
    type Step = Step;
    const KIND: &'static str = "pair";

    fn needs(&self, _: &str, _: &String) -> Vec<Key> {
        Vec::new()
    }

    fn holds(&self, _: &str, _: &String) -> Vec<Claim> {
        Vec::new()
    }

    fn held(&self, _: &str, _: &Seen) -> Vec<Claim> {
        Vec::new()
    }

    fn origin(&self, _: &str) -> Option<hosting_intent::Key> {
        None
    }

    async fn list(&self, host: &dyn Host) -> Result<Vec<String>, HostError> {
        let there = host.read(&first()).await?.is_some()
            || self.0 == Flaw::Destroys
            || (self.0 != Flaw::Forgetful && host.read(&second()).await?.is_some());
        Ok(there.then(|| "p".to_owned()).into_iter().collect())
    }

    async fn observe(&self, _: &str, _: Option<&String>, host: &dyn Host) -> Result<Seen, HostError> {
        if self.0 == Flaw::Meddles {
            host.make_dir(&Place::new(Root::Config, ["pair"]), Access::agent(0o755)).await?;
        }
        Ok((host.read(&first()).await?, host.read(&second()).await?, host.read(&data()).await?.is_some()))
    }

    fn plan(&self, _: &str, want: Option<&String>, (one, two, data_there): &Seen) -> Plan<Step> {
        let mut steps = Vec::new();
        match want {
            Some(text) => {
                let is = |seen: &Option<Vec<u8>>| seen.as_deref() == Some(text.as_bytes());
                if self.0 == Flaw::Restless {
                    steps.push(Step::First(text.clone()));
                }
                let trusts_second = self.0 == Flaw::HalfBlind && is(two);
                if !is(one) && !trusts_second {
                    // The second goes last: it is the flawed driver's proof.
                    if self.0 == Flaw::HalfBlind {
                        steps.push(Step::Second(text.clone()));
                    }
                    steps.push(Step::First(text.clone()));
                }
                if !is(two) && self.0 != Flaw::HalfBlind {
                    steps.push(Step::Second(text.clone()));
                }
            }
            None => {
                // The second first, so that the list names it as long as one is there.
                if two.is_some() && self.0 != Flaw::Untidy && self.0 != Flaw::Forgetful {
                    steps.push(Step::Clear(second()));
                }
                if one.is_some() {
                    steps.push(Step::Clear(first()));
                }
                if two.is_some() && self.0 == Flaw::Forgetful {
                    steps.push(Step::Clear(second()));
                }
                if *data_there && self.0 == Flaw::Destroys {
                    steps.push(Step::Clear(data()));
                }
            }
        }
        if steps.is_empty() {
            Plan::Rest(if want.is_some() { Rest::Ready(String::new()) } else { Rest::Gone })
        } else {
            Plan::Do(steps)
        }
    }

    async fn step(&self, _: &str, step: &Step, host: &dyn Host) -> Result<(), HostError> {
        match step {
            Step::First(text) if self.0 == Flaw::Appends => {
                let before = host.read(&first()).await?.unwrap_or_default();
                let joined = [before.as_slice(), text.as_bytes()].concat();
                host.write(&first(), &joined, Access::agent(0o600)).await
            }
            Step::First(text) => host.write(&first(), text.as_bytes(), Access::agent(0o600)).await,
            Step::Second(text) => host.write(&second(), text.as_bytes(), Access::agent(0o600)).await,
            Step::Clear(place) => host.remove(place).await,
        }
    }
}

fn scenario() -> Scenario<Pair> {
    let host = FakeHost::new();
    host.put(&data(), FakeNode::File(b"mine".to_vec(), Access::site(0o600)));
    Scenario {
        name: "p".into(),
        specs: vec!["one".into(), "two".into()],
        before: host.snapshot(),
        is_data: |place| place.root == Root::Storage,
    }
}

driver_laws!(a_sound_driver_keeps_every_law, || Pair(Flaw::None), scenario());

fn broken(flaw: Flaw) -> LawBroken {
    block_on(check(|| Pair(flaw), &scenario())).expect_err("the flaw was not found")
}

#[test]
fn each_flaw_is_found() {
    assert!(matches!(broken(Flaw::Restless), LawBroken::Converges { .. }));
    assert!(matches!(broken(Flaw::Appends), LawBroken::Converges { .. } | LawBroken::Idempotent { .. }));
    assert!(matches!(broken(Flaw::HalfBlind), LawBroken::Survives { .. }));
    assert!(matches!(broken(Flaw::Untidy), LawBroken::Absent { .. }));
    assert!(matches!(broken(Flaw::Destroys), LawBroken::Absent { .. }));
    assert!(matches!(broken(Flaw::Forgetful), LawBroken::Lists { .. }));
    assert!(matches!(broken(Flaw::Meddles), LawBroken::Idempotent { .. }));
}
