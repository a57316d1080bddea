//! Where a resource stands: its conditions, from the intents its units own and what the fleet says of them.
//!
//! Pure and level-triggered: asked at any time, with the same inputs, it gives the same answer; nothing is remembered
//! but what stands in the resource itself.

use hosting_intent::{Audience, Key, Kind as IntentKind};
use hosting_resource::{Kind, Resource, Status};
use serde_json::{Map, Value, json};

use crate::fields::{auto_records, given, is_auto, is_deleting, state, texts, withdrawn};
use crate::{IntentRow, Unit, trace};

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

/// What is known of the fleet. Answers must come from memory: one evaluation asks for each row of a resource.
pub trait Fleet {
    /// Everybody registered for the audience, by node id.
    fn subscribers(&self, audience: &Audience) -> Vec<Subscriber>;

    /// What `node` says about one key that it does not apply.
    fn exception(&self, audience: &Audience, node: &str, key: &Key) -> Option<Exception>;

    /// What the agent of `node` says about one key.
    fn report(&self, node: &str, key: &Key) -> Option<Report>;
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
    /// `site`, `route`, `dns`, `children`, `withdrawn`, `retired`.
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
}

impl Gate {
    pub(crate) const fn field(self) -> &'static str {
        match self {
            Self::SiteReady => state::SITE_READY,
            Self::Routed => state::ROUTED,
        }
    }
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
    /// Whether resources lie in it that are not gone yet. Asked only of what is being deleted.
    pub has_children: bool,
}

/// The units whose intents decide where a resource stands. Pure; walks are not among them.
#[must_use]
pub fn units_of(resource: &Resource) -> Vec<Unit> {
    let id = || resource.id.clone();
    let mut units = match resource.kind {
        Kind::Cluster => vec![Unit::Cluster(id())],
        Kind::LbAddress => resource.parent.iter().cloned().map(Unit::Cluster).collect(),
        Kind::Shard => vec![Unit::Shard(id())],
        Kind::Tenant => vec![Unit::Tenant(id()), Unit::Retire(id())],
        Kind::Webroot => vec![Unit::Webroot(id()), Unit::Retire(id())],
        Kind::Fqdn => vec![Unit::Fqdn(id())],
        Kind::Zone => vec![Unit::Zone(id())],
        Kind::ZoneRecord => record_unit(resource).into_iter().collect(),
        Kind::Brand | Kind::Region | Kind::Node | Kind::Subscription | Kind::ApiKey => Vec::new(),
    };
    if matches!(resource.kind, Kind::Fqdn | Kind::Webroot) {
        units.extend(auto_records(resource).into_iter().map(|record| record.unit()));
    }
    units
}

/// The RRset that a record stands in.
pub(crate) fn record_unit(record: &Resource) -> Option<Unit> {
    Some(Unit::RrSet {
        zone: record.parent.clone()?,
        name: given(record, "name")?.to_owned(),
        record_type: record.text("type").to_owned(),
    })
}

/// Looks at a resource. `now` is in milliseconds since the Unix epoch and only dates what changed.
#[must_use]
pub fn evaluate(resource: &Resource, inputs: &Inputs, fleet: &dyn Fleet, now: i64) -> Verdict {
    let mut look =
        Look { resource, inputs, fleet, now, conditions: Vec::new(), lagging: Vec::new(), open: Vec::new() };
    if is_deleting(resource) {
        return look.deletion();
    }
    match resource.kind {
        Kind::Webroot => look.webroot(),
        Kind::Fqdn => look.fqdn(),
        Kind::Tenant => look.tenant(),
        Kind::Zone => look.rows("dns", IntentKind::Zone),
        Kind::ZoneRecord if !is_auto(resource) => look.rows("dns", IntentKind::RrSet),
        // In effect as soon as they are written; what they change shows in what uses them.
        Kind::Brand
        | Kind::Region
        | Kind::Cluster
        | Kind::LbAddress
        | Kind::Shard
        | Kind::Node
        | Kind::Subscription
        | Kind::ZoneRecord
        | Kind::ApiKey => {}
    }
    look.verdict()
}

/// How one row stands with everybody it is for.
#[derive(Default)]
struct RowState {
    registered: usize,
    in_service: usize,
    done: usize,
    waiting: Vec<String>,
    failed: Vec<String>,
}

struct Look<'a> {
    resource: &'a Resource,
    inputs: &'a Inputs,
    fleet: &'a dyn Fleet,
    now: i64,
    conditions: Vec<Condition>,
    lagging: Vec<String>,
    open: Vec<Gate>,
}

impl Look<'_> {
    fn condition(&mut self, name: &'static str, status: Truth, message: impl Into<String>) {
        let since = stored_since(self.resource, name, status).unwrap_or(self.now);
        self.conditions.push(Condition { name, status, message: message.into(), since });
    }

    fn is_met(&self, name: &str) -> bool {
        self.conditions.iter().any(|condition| condition.name == name && condition.status == Truth::True)
    }

    fn webroot(&mut self) {
        self.site(IntentKind::Webroot);
        if self.is_met("site") && !self.resource.flag(state::SITE_READY) {
            self.open.push(Gate::SiteReady);
        }
        let service = self.resource.spec.get("service_hostname_enabled").and_then(Value::as_bool);
        if service == Some(true) {
            let ready = self.resource.flag(state::SITE_READY);
            self.route_then_dns(ready, "waits for the site");
        }
    }

    fn fqdn(&mut self) {
        // An unbound name is routed at once; a bound one when its site is there.
        let bound = given(self.resource, "webroot_id").is_some();
        let routed_to = |row: &IntentRow| crate::fields::route_of(row).map(|route| route.webroot_id);
        let wanted = self.resource.text("webroot_id").to_owned();
        let planned = self.inputs.rows.iter().any(|row| {
            row.key.known_kind() == Some(IntentKind::Route) && routed_to(row).as_ref() == Some(&wanted)
        });
        if bound {
            let (status, message) =
                if planned { (Truth::True, "") } else { (Truth::Waiting, "no node has the site ready yet") };
            self.condition("site", status, message);
        }
        self.route_then_dns(planned, "waits for the site");
    }

    fn route_then_dns(&mut self, planned: bool, blocked: &str) {
        if planned {
            self.rows("route", IntentKind::Route);
            if self.is_met("route") && !self.resource.flag(state::ROUTED) {
                self.open.push(Gate::Routed);
            }
        } else {
            self.condition("route", Truth::Waiting, blocked);
        }
        if auto_records(self.resource).is_empty() {
            return;
        }
        if !self.resource.flag(state::ROUTED) {
            self.condition("dns", Truth::Waiting, "waits for the route");
        } else if self.inputs.rows.iter().any(|row| row.key.known_kind() == Some(IntentKind::RrSet)) {
            self.rows("dns", IntentKind::RrSet);
        } else {
            // Custom records have the name.
            self.condition("dns", Truth::True, "");
        }
    }

    fn tenant(&mut self) {
        if given(self.resource, "shard_id").is_some() {
            self.site(IntentKind::Tenant);
        }
        self.rows("route", IntentKind::TenantState);
    }

    /// Met when one node in service reports the key ready as it is wanted now.
    fn site(&mut self, kind: IntentKind) {
        let (mut ready, mut in_service, mut rows) = (0, 0, 0);
        let (mut waiting, mut failed) = (Vec::new(), Vec::new());
        for row in self.inputs.rows.iter().filter(|row| row.key.known_kind() == Some(kind)) {
            rows += 1;
            for node in self.fleet.subscribers(&row.audience) {
                if !node.in_service {
                    self.lagging.push(node.node_id);
                    continue;
                }
                in_service += 1;
                let exception = self.fleet.exception(&row.audience, &node.node_id, &row.key);
                if let Some(exception) = exception.filter(|exception| exception.revision >= row.revision) {
                    match exception.kind {
                        ExceptionKind::Held => waiting.push(node.node_id),
                        ExceptionKind::Rejected | ExceptionKind::Unsupported => {
                            failed.push(format!("{}: {}", node.node_id, exception.reason));
                        }
                    }
                    continue;
                }
                match self
                    .fleet
                    .report(&node.node_id, &row.key)
                    .filter(|report| report.revision >= row.revision)
                {
                    Some(Report { phase: Phase::Ready, .. }) => ready += 1,
                    Some(Report { phase: Phase::Failed, message, .. }) => {
                        failed.push(format!("{}: {message}", node.node_id));
                    }
                    Some(Report { phase: Phase::Working | Phase::Retired | Phase::Orphan, .. }) | None => {
                        waiting.push(node.node_id);
                    }
                }
            }
        }
        if ready > 0 {
            self.lagging.append(&mut waiting);
            self.condition("site", Truth::True, "");
        } else if rows == 0 {
            self.condition("site", Truth::Waiting, "its shard has no node");
        } else if in_service == 0 {
            self.condition("site", Truth::Waiting, "no node of its shard is in service");
        } else if waiting.is_empty() {
            self.condition("site", Truth::Failed, failed.join("; "));
        } else {
            let message = format!("waits for {}", waiting.join(", "));
            self.lagging.append(&mut waiting);
            self.condition("site", Truth::Waiting, message);
        }
    }

    /// Met when every subscriber in service applied every row of the kind.
    fn rows(&mut self, name: &'static str, kind: IntentKind) {
        let mut all = RowState::default();
        let mut rows = 0;
        for row in self.inputs.rows.iter().filter(|row| row.key.known_kind() == Some(kind)) {
            rows += 1;
            self.row(row, &mut all);
        }
        let subscribers = if name == "dns" { "name server" } else { "edge" };
        if !all.failed.is_empty() {
            self.condition(name, Truth::Failed, all.failed.join("; "));
        } else if rows == 0 {
            self.condition(name, Truth::Waiting, "not planned yet");
        } else if all.registered == 0 {
            self.condition(name, Truth::Waiting, format!("there is no {subscribers}"));
        } else if all.in_service == 0 {
            self.condition(name, Truth::Waiting, format!("no {subscribers} is in service"));
        } else if all.waiting.is_empty() {
            self.condition(name, Truth::True, "");
        } else {
            all.waiting.sort();
            all.waiting.dedup();
            self.condition(name, Truth::Waiting, format!("waits for {}", all.waiting.join(", ")));
            self.lagging.append(&mut all.waiting);
        }
    }

    fn row(&mut self, row: &IntentRow, all: &mut RowState) {
        for subscriber in self.fleet.subscribers(&row.audience) {
            all.registered += 1;
            if !subscriber.in_service {
                self.lagging.push(subscriber.node_id);
                continue;
            }
            all.in_service += 1;
            let exception = self.fleet.exception(&row.audience, &subscriber.node_id, &row.key);
            match exception.filter(|exception| exception.revision >= row.revision) {
                Some(Exception { kind: ExceptionKind::Held, .. }) => all.waiting.push(subscriber.node_id),
                Some(Exception {
                    kind: ExceptionKind::Rejected | ExceptionKind::Unsupported,
                    reason,
                    ..
                }) => {
                    all.failed.push(format!("{} does not take {}: {reason}", subscriber.node_id, row.key));
                }
                None if subscriber.applied >= row.revision => all.done += 1,
                None => all.waiting.push(subscriber.node_id),
            }
        }
    }

    fn deletion(mut self) -> Verdict {
        if self.inputs.has_children {
            self.condition("children", Truth::Waiting, "what lies in it is being deleted first");
        } else if matches!(self.resource.kind, Kind::Tenant | Kind::Subscription | Kind::Webroot | Kind::Zone)
        {
            self.condition("children", Truth::True, "");
        }
        let mut waiting = Vec::new();
        // Planned in parts: what is still wanted of it has not even been withdrawn. An RRset may be wanted by other records.
        let retire = Unit::Retire(self.resource.id.clone()).owner();
        let own = |row: &&IntentRow| row.owner != retire && self.resource.kind != Kind::ZoneRecord;
        if let Some(row) = self.inputs.rows.iter().find(own) {
            waiting.push(format!("the withdrawal of {} from {}", row.key, row.audience));
        }
        for (audience, revision) in withdrawn(self.resource) {
            let subscribers = self.fleet.subscribers(&audience);
            if subscribers.is_empty() {
                // Nobody is registered any more: there is nobody to let go.
                continue;
            }
            let mut in_service = 0;
            for subscriber in subscribers {
                if !subscriber.in_service {
                    self.lagging.push(subscriber.node_id);
                } else if subscriber.applied < revision {
                    in_service += 1;
                    self.lagging.push(subscriber.node_id.clone());
                    waiting.push(subscriber.node_id);
                } else {
                    in_service += 1;
                }
            }
            // Nodes that report are waited for by the Retire that destroys their data.
            if in_service == 0 && !audience.reports() {
                waiting.push(format!("{audience} (none in service)"));
            }
        }
        waiting.sort();
        waiting.dedup();
        if waiting.is_empty() {
            self.condition("withdrawn", Truth::True, "");
        } else {
            let message = format!("waits for {}", waiting.join(", "));
            self.condition("withdrawn", Truth::Waiting, message);
        }
        let retired = self.retirement();
        let mut verdict = self.verdict();
        verdict.remove = verdict.settled;
        verdict.retired = if verdict.remove { retired } else { Vec::new() };
        verdict
    }

    /// Which nodes have destroyed the data; adds the condition when there is data.
    fn retirement(&mut self) -> Vec<String> {
        if !matches!(self.resource.kind, Kind::Tenant | Kind::Webroot) {
            return Vec::new();
        }
        if !self.resource.state.contains_key(state::RETIRE_ON) {
            self.condition("retired", Truth::Waiting, "waits for what lies in it");
            return Vec::new();
        }
        let (mut retired, mut waiting, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        let (mut registered, mut in_service) = (0, 0);
        for row in self.inputs.rows.iter().filter(|row| row.key.known_kind() == Some(IntentKind::Retire)) {
            for node in self.fleet.subscribers(&row.audience) {
                registered += 1;
                let report = self.fleet.report(&node.node_id, &row.key);
                let report = report.filter(|report| report.revision >= row.revision);
                if matches!(report, Some(Report { phase: Phase::Retired, .. })) {
                    retired.push(node.node_id.clone());
                    in_service += usize::from(node.in_service);
                } else if !node.in_service {
                    self.lagging.push(node.node_id);
                } else {
                    in_service += 1;
                    if let Some(Report { phase: Phase::Failed, message, .. }) = report {
                        failed.push(format!("{}: {message}", node.node_id));
                    }
                    waiting.push(node.node_id);
                }
            }
        }
        retired.sort();
        retired.dedup();
        let nodes_known = !texts(&self.resource.state, state::RETIRE_ON).is_empty();
        if !failed.is_empty() {
            self.condition("retired", Truth::Waiting, failed.join("; "));
        } else if !waiting.is_empty() {
            self.condition("retired", Truth::Waiting, format!("waits for {}", waiting.join(", ")));
        } else if registered > 0 && in_service == 0 && retired.is_empty() && nodes_known {
            self.condition("retired", Truth::Waiting, "no node that holds the data is in service");
        } else {
            self.condition("retired", Truth::True, "");
        }
        self.lagging.append(&mut waiting);
        retired
    }

    fn verdict(mut self) -> Verdict {
        self.lagging.sort();
        self.lagging.dedup();
        let failed: Vec<String> = self
            .conditions
            .iter()
            .filter(|condition| condition.status == Truth::Failed)
            .map(|condition| format!("{}: {}", condition.name, condition.message))
            .collect();
        let settled = self.conditions.iter().all(|condition| condition.status == Truth::True);
        // What waits for nothing is in effect at once; after that it stands where it is put by hand.
        let status = if self.conditions.is_empty() && self.resource.status != Status::Pending {
            self.resource.status
        } else {
            next_status(self.resource.status, settled, !failed.is_empty())
        };
        let message = if status == Status::Failed {
            // Still failed for a reason that nobody repeats: keep what was said.
            if failed.is_empty() { self.resource.status_message.clone() } else { Some(failed.join("; ")) }
        } else {
            None
        };
        Verdict {
            status,
            message,
            conditions: self.conditions,
            lagging: self.lagging,
            open: self.open,
            remove: false,
            retired: Vec::new(),
            settled,
        }
    }
}

fn next_status(current: Status, settled: bool, failed: bool) -> Status {
    match current {
        Status::Deleting | Status::Suspended | Status::AutoDisabled | Status::Degraded => current,
        Status::Pending | Status::Provisioning | Status::Converging | Status::Active | Status::Failed => {
            if failed {
                Status::Failed
            } else if settled {
                Status::Active
            } else {
                match current {
                    Status::Pending | Status::Provisioning => Status::Provisioning,
                    Status::Converging
                    | Status::Active
                    | Status::Failed
                    | Status::Suspended
                    | Status::Deleting
                    | Status::Degraded
                    | Status::AutoDisabled => current,
                }
            }
        }
    }
}

/// `state.conditions`, by which a condition keeps its date.
pub(crate) const CONDITIONS: &str = "conditions";

fn stored_since(resource: &Resource, name: &str, status: Truth) -> Option<i64> {
    let stored = resource.state.get(CONDITIONS)?.get(name)?;
    (stored.get("status")?.as_str()? == status.as_str()).then(|| stored.get("since")?.as_i64()).flatten()
}

/// Whether [`record`] would change anything. What a condition waits for is no change: answers look afresh.
#[must_use]
pub fn differs(resource: &Resource, verdict: &Verdict) -> bool {
    resource.status != verdict.status
        || resource.status_message != verdict.message
        || resource.state.get(CONDITIONS).unwrap_or(&Value::Object(Map::new())) != &dates(verdict)
}

/// Writes a verdict's status, message and the dates of its conditions into the resource.
pub fn record(resource: &mut Resource, verdict: &Verdict) {
    resource.status = verdict.status;
    resource.status_message.clone_from(&verdict.message);
    resource.state.insert(CONDITIONS.to_owned(), dates(verdict));
    trace::end(resource);
}

fn dates(verdict: &Verdict) -> Value {
    verdict
        .conditions
        .iter()
        .map(|condition| {
            let value = json!({"status": condition.status.as_str(), "since": condition.since});
            (condition.name.to_owned(), value)
        })
        .collect::<Map<String, Value>>()
        .into()
}
