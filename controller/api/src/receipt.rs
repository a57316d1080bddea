//! Served receipts: whether what is applied is what the machines' own listeners answer, machine by machine.

use hosting_intent::{Audience, Key, SEEN_KINDS};
use hosting_planner::IntentRow;
use hosting_planner::gates::{ExceptionKind, Fleet, Inputs, Phase, Subscriber};
use hosting_resource::{Resource, public_id, timestamp};
use schemars::JsonSchema;
use serde::Serialize;

use crate::platform::{Platform, ServedView};

/// What one machine does with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ServedState {
    /// Its listeners answer with it.
    Served,
    /// It is in effect, and of many that came at once only some were asked for: this one may not have been.
    Sampled,
    /// A node reports it ready.
    Ready,
    /// It is in effect, and was not asked for yet.
    Unchecked,
    /// It is in effect, as the machine says, and its listeners answer something else, or nothing.
    NotServed,
    /// It is in effect, as the machine says, which does not ask its listeners: an older build.
    DoesNotCheck,
    /// It is not in effect yet.
    NotApplied,
    /// It is not taken as it is.
    Refused,
    /// The machine is not in service: nobody waits for it.
    OutOfService,
}

/// What one machine does with an item.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct ReceiptSubscriber {
    pub(crate) node_id: String,
    pub(crate) state: ServedState,
    /// Why; empty when all is well.
    pub(crate) detail: String,
    /// By when it was known to be served; null when that is not known any more, or it is not served.
    pub(crate) at: Option<String>,
}

/// One item of a resource.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct ReceiptItem {
    /// For whom it is.
    pub(crate) audience: String,
    /// e.g. `route/www.example.com`.
    pub(crate) key: String,
    /// At which it last changed.
    pub(crate) revision: u64,
    pub(crate) subscribers: Vec<ReceiptSubscriber>,
}

/// Answer of GET /{kind}/{id}/receipt.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Receipt {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) generation: u64,
    /// Of its newest item; 0 when it has none.
    pub(crate) revision: u64,
    /// Every machine in service answers with every item, and each item has one.
    pub(crate) served: bool,
    /// Of some items that is concluded from others, because too many came at once to ask for each.
    pub(crate) sampled: bool,
    /// Node ids that stand between this and `served`.
    pub(crate) missing: Vec<String>,
    pub(crate) items: Vec<ReceiptItem>,
}

impl ServedState {
    const fn is_proof(self) -> bool {
        match self {
            Self::Served | Self::Sampled | Self::Ready => true,
            Self::Unchecked
            | Self::NotServed
            | Self::DoesNotCheck
            | Self::NotApplied
            | Self::Refused
            | Self::OutOfService => false,
        }
    }
}

impl ServedView {
    /// What its word is on an item at a revision. `key` unset: on everything of that revision.
    fn state(&self, key: Option<&Key>, revision: u64) -> (ServedState, String) {
        let failed = self.failed.iter().find(|one| match key {
            Some(key) => one.key == *key && one.revision >= revision,
            None => one.revision == revision,
        });
        let within =
            |ranges: &[(u64, u64)]| ranges.iter().any(|(first, last)| (*first..=*last).contains(&revision));
        if let Some(failed) = failed {
            (ServedState::NotServed, failed.reason.clone())
        } else if revision > self.upto || within(&self.pending) {
            (ServedState::Unchecked, "was not asked for yet".to_owned())
        } else if within(&self.sampled) {
            (ServedState::Sampled, String::new())
        } else {
            (ServedState::Served, String::new())
        }
    }

    /// By when everything up to a revision was served.
    fn since(&self, revision: u64) -> Option<i64> {
        let at = self.marks.partition_point(|(upto, _)| *upto < revision);
        match at {
            // Of what came before the first mark the moment is not known: earlier marks were given up.
            0 => self.marks.first().filter(|(upto, _)| *upto == revision).map(|(_, at)| *at),
            at => self.marks.get(at).or(self.marks.last()).map(|(_, at)| *at),
        }
    }
}

/// What one machine does with an item, or with everything of an audience's revision.
fn of_subscriber(
    platform: &dyn Platform,
    fleet: &dyn Fleet,
    audience: &Audience,
    node: &Subscriber,
    key: Option<&Key>,
    (revision, rollout): (u64, u64),
) -> (ServedState, String, Option<i64>) {
    let bare = |state, detail: &str| (state, detail.to_owned(), None);
    if !node.in_service {
        return bare(ServedState::OutOfService, "");
    }
    if fleet.waits(audience, &node.node_id, rollout) {
        return bare(ServedState::NotApplied, &format!("waits for rollout {rollout}"));
    }
    let exception = key.and_then(|key| fleet.exception(audience, &node.node_id, key));
    if let Some(exception) = exception.filter(|exception| exception.revision >= revision) {
        let how = match exception.kind {
            ExceptionKind::Rejected => "rejected",
            ExceptionKind::Held => "held by the brake",
            ExceptionKind::Unsupported => "not supported",
            ExceptionKind::Waiting => "waiting",
        };
        return bare(ServedState::Refused, &format!("{how}: {}", exception.reason));
    }
    if node.applied < revision {
        return bare(ServedState::NotApplied, &format!("is at {}", node.applied));
    }
    let Some(served) = platform.served(audience, &node.node_id) else {
        return bare(ServedState::DoesNotCheck, "does not ask its listeners");
    };
    let (state, detail) = served.state(key, revision);
    let at = if state == ServedState::Served { served.since(revision) } else { None };
    (state, detail, at)
}

/// The receipt of a resource. `settled`: all that has to be so is so.
pub(crate) fn receipt(
    resource: &Resource,
    inputs: &Inputs,
    settled: bool,
    platform: &dyn Platform,
) -> Receipt {
    let fleet = platform.fleet();
    let mut receipt = Receipt {
        id: public_id(&resource.id).to_owned(),
        kind: resource.kind.name().to_owned(),
        generation: resource.generation,
        revision: 0,
        served: true,
        sampled: false,
        missing: Vec::new(),
        items: Vec::new(),
    };
    let seen = |row: &&IntentRow| {
        row.audience.reports() || row.key.known_kind().is_some_and(|kind| SEEN_KINDS.contains(&kind))
    };
    for row in inputs.rows.iter().filter(seen) {
        receipt.revision = receipt.revision.max(row.revision);
        let mut subscribers = Vec::new();
        let mut proven = false;
        for node in fleet.subscribers(&row.audience) {
            let (state, detail, at) = if row.audience.reports() {
                let (state, detail) = reported(inputs, &node, row);
                (state, detail, None)
            } else {
                of_subscriber(
                    platform,
                    fleet.as_ref(),
                    &row.audience,
                    &node,
                    Some(&row.key),
                    (row.revision, row.rollout),
                )
            };
            proven |= state.is_proof();
            receipt.sampled |= state == ServedState::Sampled;
            if !state.is_proof() && state != ServedState::OutOfService {
                receipt.served = false;
                receipt.missing.push(node.node_id.clone());
            }
            let at = at.map(timestamp);
            subscribers.push(ReceiptSubscriber { node_id: node.node_id, state, detail, at });
        }
        receipt.served &= proven;
        receipt.items.push(ReceiptItem {
            audience: row.audience.to_string(),
            key: row.key.to_string(),
            revision: row.revision,
            subscribers,
        });
    }
    receipt.missing.sort();
    receipt.missing.dedup();
    receipt.served &= settled;
    receipt
}

/// What a node says of an item that its agent reports on.
fn reported(inputs: &Inputs, node: &Subscriber, row: &IntentRow) -> (ServedState, String) {
    if !node.in_service {
        return (ServedState::OutOfService, String::new());
    }
    let report = inputs.report(&node.node_id, &row.key).filter(|report| report.revision >= row.revision);
    match report.map(|report| (report.phase, &report.message)) {
        Some((Phase::Ready | Phase::Retired, _)) => (ServedState::Ready, String::new()),
        Some((Phase::Failed, message)) => (ServedState::Refused, message.clone()),
        Some((Phase::Working | Phase::Orphan, _)) | None => {
            (ServedState::NotApplied, "is at work".to_owned())
        }
    }
}

/// The node ids that do not serve yet what was changed at a revision of those audiences: what a withdrawal waits for, of which nothing is
/// left to look at.
pub(crate) fn not_serving(platform: &dyn Platform, changed: &[(Audience, u64)]) -> Vec<String> {
    let fleet = platform.fleet();
    let mut missing = Vec::new();
    for (audience, revision) in changed.iter().filter(|(audience, _)| !audience.reports()) {
        for node in fleet.subscribers(audience) {
            let (state, ..) = of_subscriber(platform, fleet.as_ref(), audience, &node, None, (*revision, 0));
            if !state.is_proof() && state != ServedState::OutOfService {
                missing.push(node.node_id);
            }
        }
    }
    missing.sort();
    missing.dedup();
    missing
}
