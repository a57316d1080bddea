//! What a driver is: one kind of thing on a node, observed, planned and changed in small steps.

use std::{
    any::Any,
    fmt::{self, Debug, Display},
    sync::Arc,
};

use async_trait::async_trait;

use crate::host::{Host, HostError};

/// Names one thing on the node. Several of them may come from one intent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// A driver's [`Driver::KIND`].
    pub kind: &'static str,
    /// Unique within the kind.
    pub name: Arc<str>,
}

impl Key {
    /// A key.
    #[must_use]
    pub fn new(kind: &'static str, name: impl Into<Arc<str>>) -> Self {
        Self { kind, name: name.into() }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// Something that one key at a time can have: a port, a path, a user id, a server name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim(pub String);

impl Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What to do about what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan<S> {
    /// These steps in this order, then look again. Never empty.
    Do(Vec<S>),
    /// Nothing to do.
    Rest(Rest),
}

/// How a key stands when there is nothing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    /// As wanted and working; the message is often empty.
    Ready(String),
    /// Waits for something that is not this key's own work.
    Blocked(String),
    /// Cannot be as wanted, and trying again will not help until something changes.
    Refused(String),
    /// Not wanted; the configuration is gone, the data is kept.
    Kept(String),
    /// The data that a retire named is gone.
    Retired,
    /// Not wanted, and nothing is left.
    Gone,
}

/// One kind of thing on a node.
///
/// The laws that every driver keeps are in [`crate::laws`].
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// How one should be.
    type Spec: Clone + PartialEq + Debug + Send + Sync + 'static;
    /// How one is.
    type Observed: Debug + Send + Sync + 'static;
    /// One small change; its `Display` is what an operator reads when it fails.
    type Step: Clone + Debug + Display + Send + Sync + 'static;

    /// Name of the kind, unique among an engine's drivers.
    const KIND: &'static str;

    /// Keys that must be ready before this one is worked on.
    fn needs(&self, name: &str, spec: &Self::Spec) -> Vec<Key>;

    /// Keys that must be worked on first if nobody wants them any more.
    fn after(&self, name: &str, spec: &Self::Spec) -> Vec<Key> {
        let _ = (name, spec);
        Vec::new()
    }

    /// What it has for itself alone once it is ready.
    fn holds(&self, name: &str, spec: &Self::Spec) -> Vec<Claim>;

    /// What it has for itself alone as it is now.
    fn held(&self, name: &str, observed: &Self::Observed) -> Vec<Claim>;

    /// The intent that an unwanted one is reported under; `None`: not reported.
    fn origin(&self, name: &str) -> Option<hosting_intent::Key>;

    /// Everything of this kind on the host, wanted or not.
    async fn list(&self, host: &dyn Host) -> Result<Vec<String>, HostError>;

    /// How it is now. Must change nothing. An error means: unknown.
    async fn observe(
        &self,
        name: &str,
        want: Option<&Self::Spec>,
        host: &dyn Host,
    ) -> Result<Self::Observed, HostError>;

    /// What to do. Pure. `want` is `None` when nobody wants it: configuration goes, data stays.
    fn plan(&self, name: &str, want: Option<&Self::Spec>, seen: &Self::Observed) -> Plan<Self::Step>;

    /// Does one step. Doing it twice is as good as once.
    async fn step(&self, name: &str, step: &Self::Step, host: &dyn Host) -> Result<(), HostError>;
}

/// A spec whose type the engine need not know.
pub(crate) type AnySpec = Arc<dyn ErasedSpec>;

pub(crate) trait ErasedSpec: Any + Debug + Send + Sync {
    fn same(&self, other: &dyn ErasedSpec) -> bool;
    fn any(&self) -> &dyn Any;
}

impl<T: PartialEq + Debug + Send + Sync + 'static> ErasedSpec for T {
    fn same(&self, other: &dyn ErasedSpec) -> bool {
        other.any().downcast_ref::<T>().is_some_and(|other| self == other)
    }

    fn any(&self) -> &dyn Any {
        self
    }
}

/// An observation on its way from the look to the work.
pub(crate) struct Look {
    pub(crate) held: Vec<Claim>,
    seen: Box<dyn Any + Send + Sync>,
}

/// How the work on a key ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Rest(Rest),
    /// Something that it needs is not ready.
    Waits {
        why: String,
        /// The need failed, and no intent of its own says so: this is where it is reported.
        hidden_failure: bool,
    },
    /// A step or an observation failed: what is on the host is not known for sure.
    Unknown(String),
}

/// Rounds of look, plan, work in one pass; a driver that needs more does not converge.
const ROUNDS: usize = 8;

#[async_trait]
pub(crate) trait Erased: Send + Sync {
    fn kind(&self) -> &'static str;
    fn needs(&self, name: &str, spec: &dyn ErasedSpec) -> Vec<Key>;
    fn after(&self, name: &str, spec: &dyn ErasedSpec) -> Vec<Key>;
    fn holds(&self, name: &str, spec: &dyn ErasedSpec) -> Vec<Claim>;
    fn origin(&self, name: &str) -> Option<hosting_intent::Key>;
    async fn list(&self, host: &dyn Host) -> Result<Vec<String>, HostError>;
    async fn look(
        &self,
        name: &str,
        want: Option<&dyn ErasedSpec>,
        host: &dyn Host,
    ) -> Result<Look, HostError>;
    async fn work(&self, name: &str, want: Option<&dyn ErasedSpec>, look: Look, host: &dyn Host) -> Outcome;
}

fn cast<D: Driver>(spec: &dyn ErasedSpec) -> Option<&D::Spec> {
    spec.any().downcast_ref::<D::Spec>()
}

#[async_trait]
impl<D: Driver> Erased for D {
    fn kind(&self) -> &'static str {
        D::KIND
    }

    fn needs(&self, name: &str, spec: &dyn ErasedSpec) -> Vec<Key> {
        cast::<D>(spec).map(|spec| Driver::needs(self, name, spec)).unwrap_or_default()
    }

    fn after(&self, name: &str, spec: &dyn ErasedSpec) -> Vec<Key> {
        cast::<D>(spec).map(|spec| Driver::after(self, name, spec)).unwrap_or_default()
    }

    fn holds(&self, name: &str, spec: &dyn ErasedSpec) -> Vec<Claim> {
        cast::<D>(spec).map(|spec| Driver::holds(self, name, spec)).unwrap_or_default()
    }

    fn origin(&self, name: &str) -> Option<hosting_intent::Key> {
        Driver::origin(self, name)
    }

    async fn list(&self, host: &dyn Host) -> Result<Vec<String>, HostError> {
        Driver::list(self, host).await
    }

    async fn look(
        &self,
        name: &str,
        want: Option<&dyn ErasedSpec>,
        host: &dyn Host,
    ) -> Result<Look, HostError> {
        let seen = self.observe(name, want.and_then(cast::<D>), host).await?;
        Ok(Look { held: self.held(name, &seen), seen: Box::new(seen) })
    }

    async fn work(&self, name: &str, want: Option<&dyn ErasedSpec>, look: Look, host: &dyn Host) -> Outcome {
        let want = want.and_then(cast::<D>);
        let Ok(mut seen) = look.seen.downcast::<D::Observed>() else {
            return Outcome::Unknown("an observation of another driver".to_owned());
        };
        let mut last = String::new();
        for _ in 0..ROUNDS {
            match self.plan(name, want, &seen) {
                Plan::Rest(rest) => return Outcome::Rest(rest),
                Plan::Do(steps) => {
                    for step in &steps {
                        tracing::debug!(kind = D::KIND, name, %step, "step");
                        if let Err(error) = self.step(name, step, host).await {
                            return Outcome::Unknown(format!("{step}: {error}"));
                        }
                        last = step.to_string();
                    }
                }
            }
            match self.observe(name, want, host).await {
                Ok(now) => *seen = now,
                Err(error) => return Outcome::Unknown(error.to_string()),
            }
        }
        Outcome::Unknown(format!("does not settle; the last step was: {last}"))
    }
}
