//! Where a resource stands: its conditions, from the intents its units own and what the fleet says of them.
//!
//! Pure and level-triggered: asked at any time, with the same inputs, it gives the same answer; nothing is remembered
//! but what stands in the resource itself.

mod gather;
mod look;

use std::collections::BTreeMap;

use async_trait::async_trait;
use hosting_intent::{Audience, Key, Kind as IntentKind};
use hosting_resource::{Kind, Resource, Standing, Status};

pub use self::gather::{Evidence, gather};
pub(crate) use self::look::Look;
use crate::fields::{is_deleting, is_leaving};
use crate::{IntentRow, Unit, WorldError, kinds, trace};

/// One subscriber of an audience, registered there, connected or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriber {
    /// Which node.
    pub node_id: String,
    /// Highest revision in effect, of the epoch that the store is in; 0 when it is not known.
    pub applied: u64,
    /// Its lease runs, and it has applied the head it saw when it joined.
    pub in_service: bool,
}

/// What a subscriber does not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExceptionKind {
    /// Not valid: the last good one stays in effect.
    Rejected,
    /// The brake holds it until an operator speaks.
    Held,
    /// The build does not know the kind.
    Unsupported,
    /// It is part of a rollout that has not come there.
    Waiting,
}

/// One item that a subscriber does not apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// How.
    pub kind: ExceptionKind,
    /// The revision of the item.
    pub revision: u64,
    /// Why, in the subscriber's words.
    pub reason: String,
}

/// What a node agent sees of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Being worked on, or waiting for another key.
    Working,
    /// As wanted.
    Ready,
    /// Tried and failed; it will be tried again.
    Failed,
    /// The data is destroyed.
    Retired,
    /// Present, wanted by nobody, kept.
    Orphan,
}

/// A node agent's report about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What it sees.
    pub phase: Phase,
    /// Revision of the intent it speaks of.
    pub revision: u64,
    /// Why, when it failed.
    pub message: String,
}

/// What node agents say: by node and key.
pub type Reports = BTreeMap<(String, Key), Report>;

/// What is known of the fleet. What is no future is answered from memory: one evaluation asks for each row of a resource.
#[async_trait]
pub trait Fleet: Send + Sync {
    /// Everybody registered for the audience, by node id.
    fn subscribers(&self, audience: &Audience) -> Vec<Subscriber>;

    /// What `node` says about one key that it does not apply.
    fn exception(&self, audience: &Audience, node: &str, key: &Key) -> Option<Exception>;

    /// Whether items of a rollout wait at `node` until it comes there.
    fn waits(&self, audience: &Audience, node: &str, rollout: u64) -> bool {
        let key = Key { kind: 0, name: format!("rollout/{rollout}") };
        rollout != 0 && self.exception(audience, node, &key).is_some()
    }

    /// What agents say about keys, by node. They are many and few are asked for, so they are read of the world.
    async fn reports(
        &self,
        world: &mut dyn Evidence,
        about: &[(String, Key)],
    ) -> Result<Reports, WorldError> {
        world.reports(about).await
    }
}

/// A condition's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// Met.
    True,
    /// On its way.
    Waiting,
    /// Not met, and somebody says why it will not be.
    Failed,
}

impl Truth {
    /// As the API and the store spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "true",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
        }
    }
}

/// One thing that must be so before a resource is in effect (or gone).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `site`, `route`, `dns`, `children`, `withdrawn`, `retired`; `document` when the stored one is unreadable.
    pub name: &'static str,
    /// Whether it is so.
    pub status: Truth,
    /// What it waits for or why it failed; empty when it is met.
    pub message: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub since: i64,
}

/// A gate that is to be opened: a flag of the resource's state that other units wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// `webroot.state.site_ready`.
    SiteReady,
    /// `state.routed` of an FQDN, or of a webroot for its service host name.
    Routed,
    /// `certificate.state.shown`.
    Shown,
}

/// What an evaluation finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Where the resource stands.
    pub status: Status,
    /// Why it failed.
    pub message: Option<String>,
    /// In the order in which they are met.
    pub conditions: Vec<Condition>,
    /// Who the unmet conditions wait for, and everybody registered that is not in service: node ids, sorted.
    pub lagging: Vec<String>,
    /// Gates to open, in a mutation.
    pub open: Vec<Gate>,
    /// The fleet has let go: the row is to be removed, in a mutation.
    pub remove: bool,
    /// With `remove`: nodes whose Retire is done.
    pub retired: Vec<String>,
    /// All conditions are met: what the user wrote last is in effect everywhere in service.
    pub settled: bool,
}

/// The inputs of an evaluation that come from the store.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// The intents that the resource's units own.
    pub rows: Vec<IntentRow>,
    /// What agents say about those of these that they report on.
    pub reports: Reports,
    /// Whether resources lie in it that are not gone yet. Asked only of what is being deleted.
    pub has_children: bool,
}

impl Inputs {
    /// What the agent of `node` says about a key.
    #[must_use]
    pub fn report(&self, node: &str, key: &Key) -> Option<&Report> {
        self.reports.get(&(node.to_owned(), key.clone()))
    }
}

/// The units whose intents decide where a resource stands. Pure; walks are not among them. None for a resource whose document
/// is unreadable.
#[must_use]
pub fn units_of(resource: &Resource) -> Vec<Unit> {
    kinds::of(resource.kind).units(resource).unwrap_or_default()
}

/// Whether every edge or name server in service applied the rows of a kind, and what is waited for otherwise.
pub(crate) fn all_applied(
    fleet: &dyn Fleet,
    resource: &Resource,
    rows: Vec<IntentRow>,
    kind: IntentKind,
) -> (Truth, String) {
    let inputs = Inputs { rows, ..Inputs::default() };
    let mut look = Look::new(resource, &inputs, fleet, 0);
    if kind == IntentKind::RrSet {
        look.name_servers("applied", kind);
    } else {
        look.edges("applied", kind);
    }
    look.only()
}

/// Whether the status of resources of a kind follows from what the fleet reports.
#[must_use]
pub fn is_gated(kind: Kind) -> bool {
    kinds::of(kind).facts().gated
}

/// Looks at a resource. `now` is in milliseconds since the Unix epoch and only dates what changed.
#[must_use]
pub fn evaluate(resource: &Resource, inputs: &Inputs, fleet: &dyn Fleet, now: i64) -> Verdict {
    let mut look = Look::new(resource, inputs, fleet, now);
    if is_leaving(resource) {
        return look.deletion();
    }
    if is_deleting(resource) {
        return look.keeping();
    }
    if let Err(error) = kinds::of(resource.kind).conditions(&mut look) {
        look.fail("document", error.to_string());
    }
    look.verdict()
}

/// How a change came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// In effect everywhere in service, and the stored status says so too.
    Ready,
    /// It will not come into effect as it is.
    Rejected,
}

/// Whether what the user wrote last has come to an end, by what an evaluation found; `None` while it is on its way. A resource that is
/// being deleted settles when its row goes, one that is kept when it is out of service.
#[must_use]
pub fn settled(resource: &Resource, verdict: &Verdict) -> Option<Settled> {
    if verdict.status == Status::Failed {
        return Some(Settled::Rejected);
    }
    let in_effect = verdict.conditions.is_empty()
        || (verdict.settled && verdict.open.is_empty() && resource.status == verdict.status);
    (in_effect && !is_leaving(resource)).then_some(Settled::Ready)
}

/// Whether [`record`] would change anything. What a condition waits for is no change: answers look afresh.
#[must_use]
pub fn differs(resource: &Resource, verdict: &Verdict) -> bool {
    resource.status != verdict.status
        || resource.status_message != verdict.message
        || resource.progress().conditions.unwrap_or_default() != standings(verdict)
}

/// Writes a verdict's status, message and the dates of its conditions into the resource.
pub fn record(resource: &mut Resource, verdict: &Verdict) {
    resource.status = verdict.status;
    resource.status_message.clone_from(&verdict.message);
    let mut progress = resource.progress();
    progress.conditions = Some(standings(verdict));
    resource.set_progress(&progress);
    trace::end(resource);
}

fn standings(verdict: &Verdict) -> BTreeMap<String, Standing> {
    let standing = |condition: &Condition| Standing {
        status: condition.status.as_str().to_owned(),
        since: condition.since,
    };
    let conditions = verdict.conditions.iter();
    conditions.map(|condition| (condition.name.to_owned(), standing(condition))).collect()
}
