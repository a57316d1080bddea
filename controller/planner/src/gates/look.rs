//! The conditions of one resource, one after the other.

use hosting_intent::{Audience, Kind as IntentKind};
use hosting_resource::{Progress, Resource, Status};

use super::{Condition, Exception, ExceptionKind, Fleet, Gate, Inputs, Phase, Report, Truth, Verdict};
use crate::{IntentRow, Unit, kinds};

/// How one row stands with everybody it is for.
#[derive(Default)]
struct RowState {
    registered: usize,
    in_service: usize,
    done: usize,
    waiting: Vec<String>,
    failed: Vec<String>,
}

/// One evaluation in the making.
pub(crate) struct Look<'a> {
    resource: &'a Resource,
    inputs: &'a Inputs,
    fleet: &'a dyn Fleet,
    now: i64,
    progress: Progress,
    conditions: Vec<Condition>,
    lagging: Vec<String>,
    open: Vec<Gate>,
}

impl<'a> Look<'a> {
    pub(super) fn new(resource: &'a Resource, inputs: &'a Inputs, fleet: &'a dyn Fleet, now: i64) -> Self {
        let progress = resource.progress();
        Self {
            resource,
            inputs,
            fleet,
            now,
            progress,
            conditions: Vec::new(),
            lagging: Vec::new(),
            open: Vec::new(),
        }
    }

    /// What is looked at.
    pub(crate) const fn resource(&self) -> &'a Resource {
        self.resource
    }

    fn condition(&mut self, name: &'static str, status: Truth, message: impl Into<String>) {
        let stored = self.progress.conditions.as_ref().and_then(|stored| stored.get(name));
        let same = stored.filter(|standing| standing.status == status.as_str());
        let since = same.map_or(self.now, |standing| standing.since);
        self.conditions.push(Condition { name, status, message: message.into(), since });
    }

    /// Whether a condition is met.
    pub(crate) fn is_met(&self, name: &str) -> bool {
        self.conditions.iter().any(|condition| condition.name == name && condition.status == Truth::True)
    }

    /// Opens a gate, in a mutation.
    pub(crate) fn gate(&mut self, gate: Gate) {
        self.open.push(gate);
    }

    /// Whether one of the rows is like that.
    pub(crate) fn has_row(&self, like: impl Fn(&IntentRow) -> bool) -> bool {
        self.inputs.rows.iter().any(like)
    }

    /// Met when `so`, else waits for what `message` says.
    pub(crate) fn wait_for(&mut self, name: &'static str, so: bool, message: &str) {
        let (status, message) = if so { (Truth::True, "") } else { (Truth::Waiting, message) };
        self.condition(name, status, message);
    }

    /// Not met, and will not be by itself.
    pub(crate) fn fail(&mut self, name: &'static str, message: String) {
        self.condition(name, Truth::Failed, message);
    }

    /// The route, once it is `planned`, then the automatic records, once it is `routed`.
    pub(crate) fn route_then_dns(&mut self, planned: bool, routed: bool, has_records: bool) {
        if planned {
            self.edges("route", IntentKind::Route);
            if self.is_met("route") && !routed {
                self.gate(Gate::Routed);
            }
        } else {
            self.condition("route", Truth::Waiting, "waits for the site");
        }
        if !has_records {
            return;
        }
        if !routed {
            self.condition("dns", Truth::Waiting, "waits for the route");
        } else if self.has_row(|row| row.key.known_kind() == Some(IntentKind::RrSet)) {
            self.name_servers("dns", IntentKind::RrSet);
        } else {
            // Custom records have the name.
            self.condition("dns", Truth::True, "");
        }
    }

    /// Met when every edge in service applied every row of the kind.
    pub(crate) fn edges(&mut self, name: &'static str, kind: IntentKind) {
        self.rows(name, kind, "edge");
    }

    /// What the one condition of an evaluation says.
    pub(super) fn only(self) -> (Truth, String) {
        self.conditions
            .into_iter()
            .next()
            .map_or((Truth::True, String::new()), |one| (one.status, one.message))
    }

    /// Met when every name server in service applied every row of the kind.
    pub(crate) fn name_servers(&mut self, name: &'static str, kind: IntentKind) {
        self.rows(name, kind, "name server");
    }

    /// Met when one node in service reports the key ready as it is wanted now.
    pub(crate) fn site(&mut self, kind: IntentKind) {
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
                if self.fleet.waits(&row.audience, &node.node_id, row.rollout) {
                    waiting.push(node.node_id);
                    continue;
                }
                let exception = self.fleet.exception(&row.audience, &node.node_id, &row.key);
                if let Some(exception) = exception.filter(|exception| exception.revision >= row.revision) {
                    match exception.kind {
                        ExceptionKind::Held | ExceptionKind::Waiting => waiting.push(node.node_id),
                        ExceptionKind::Rejected | ExceptionKind::Unsupported => {
                            failed.push(format!("{}: {}", node.node_id, exception.reason));
                        }
                    }
                    continue;
                }
                match self
                    .inputs
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

    fn rows(&mut self, name: &'static str, kind: IntentKind, subscribers: &str) {
        let mut all = RowState::default();
        let mut rows = 0;
        for row in self.inputs.rows.iter().filter(|row| row.key.known_kind() == Some(kind)) {
            rows += 1;
            self.row(row, &mut all);
        }
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
            if self.fleet.waits(&row.audience, &subscriber.node_id, row.rollout) {
                all.waiting.push(subscriber.node_id);
                continue;
            }
            let exception = self.fleet.exception(&row.audience, &subscriber.node_id, &row.key);
            match exception.filter(|exception| exception.revision >= row.revision) {
                Some(Exception { kind: ExceptionKind::Held | ExceptionKind::Waiting, .. }) => {
                    all.waiting.push(subscriber.node_id);
                }
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

    /// Met when whoever had something of what is deleted has let go, whatever `waiting` says beside that.
    fn withdrawal(&mut self, mut waiting: Vec<String>) {
        for (audience, revision) in self.progress.withdrawn.clone().unwrap_or_default() {
            // Nobody subscribes to what is no audience of this build.
            let Ok(audience) = audience.parse::<Audience>() else { continue };
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
    }

    /// What is deleted and kept: out of service on every machine that is in service.
    pub(super) fn keeping(mut self) -> Verdict {
        let facts = kinds::of(self.resource.kind).facts();
        let mut waiting = Vec::new();
        if facts.wants_to_the_end {
            // What is wanted of it now is that it does not serve.
            let mut all = RowState::default();
            for row in &self.inputs.rows {
                self.row(row, &mut all);
            }
            waiting = all.waiting;
        } else if let Some(row) = self.inputs.rows.iter().find(|_| !facts.shares_units) {
            waiting.push(format!("the withdrawal of {} from {}", row.key, row.audience));
        }
        self.withdrawal(waiting);
        Verdict { message: self.resource.status_message.clone(), ..self.verdict() }
    }

    pub(super) fn deletion(mut self) -> Verdict {
        if self.inputs.has_children {
            self.condition("children", Truth::Waiting, "what lies in it is being deleted first");
        } else if kinds::goes_with(self.resource.kind).next().is_some() {
            self.condition("children", Truth::True, "");
        }
        let mut waiting = Vec::new();
        // Planned in parts: what is still wanted of it has not even been withdrawn. An RRset may be wanted by other records.
        let retire = Unit::Retire(self.resource.id.clone()).owner();
        let shares = kinds::of(self.resource.kind).facts().shares_units;
        let own = |row: &&IntentRow| row.owner != retire && !shares;
        if let Some(row) = self.inputs.rows.iter().find(own) {
            waiting.push(format!("the withdrawal of {} from {}", row.key, row.audience));
        }
        self.withdrawal(waiting);
        let retired = self.retirement();
        let mut verdict = self.verdict();
        verdict.remove = verdict.settled;
        verdict.retired = if verdict.remove { retired } else { Vec::new() };
        verdict
    }

    /// Which nodes have destroyed the data; adds the condition when there is data.
    fn retirement(&mut self) -> Vec<String> {
        if kinds::of(self.resource.kind).facts().retires.is_none() {
            return Vec::new();
        }
        let Some(retire_on) = self.progress.retire_on.clone() else {
            self.condition("retired", Truth::Waiting, "waits for what lies in it");
            return Vec::new();
        };
        let (mut retired, mut waiting, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        let (mut registered, mut in_service) = (0, 0);
        for row in self.inputs.rows.iter().filter(|row| row.key.known_kind() == Some(IntentKind::Retire)) {
            for node in self.fleet.subscribers(&row.audience) {
                registered += 1;
                let report = self.inputs.report(&node.node_id, &row.key);
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
        if !failed.is_empty() {
            self.condition("retired", Truth::Waiting, failed.join("; "));
        } else if !waiting.is_empty() {
            self.condition("retired", Truth::Waiting, format!("waits for {}", waiting.join(", ")));
        } else if registered > 0 && in_service == 0 && retired.is_empty() && !retire_on.is_empty() {
            self.condition("retired", Truth::Waiting, "no node that holds the data is in service");
        } else {
            self.condition("retired", Truth::True, "");
        }
        self.lagging.append(&mut waiting);
        retired
    }

    pub(super) fn verdict(mut self) -> Verdict {
        self.lagging.sort();
        self.lagging.dedup();
        let failed: Vec<String> = self
            .conditions
            .iter()
            .filter(|condition| condition.status == Truth::Failed)
            .map(|condition| format!("{}: {}", condition.name, condition.message))
            .collect();
        let settled = self.conditions.iter().all(|condition| condition.status == Truth::True);
        // A kind without conditions is active when it is first looked at; after that the status that people set stays.
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
        Status::Deleted | Status::Deleting | Status::Suspended | Status::AutoDisabled | Status::Degraded => {
            current
        }
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
                    | Status::Deleted
                    | Status::Deleting
                    | Status::Degraded
                    | Status::AutoDisabled => current,
                }
            }
        }
    }
}
