//! One file per kind of job, and the table of them. Adding a kind: its file, and one line in [`TABLE`].

use std::sync::Arc;

use hosting_store::Store;
use serde_json::Value;

use crate::kind::{AnyKind, JobKind, KindFacts};

pub mod audit_head;
pub mod audit_retention;
pub mod callback;
pub mod certificate;
pub mod history_retention;
pub mod incident_notice;
pub mod kept_deletions;
pub mod ownership;
pub mod reissue;
pub mod reply_retention;
pub mod ticket_keys;
pub mod traffic_retention;
pub mod undo;

/// What kinds need of the running controller.
#[derive(Debug, Clone)]
pub struct JobDeps {
    /// The store that the jobs are in.
    pub store: Store,
    /// What the operator set for callbacks.
    pub callbacks: callback::CallbackRules,
    /// The audit log's newest link is signed each so many minutes.
    pub audit_head_minutes: u32,
    /// Audit rows are kept for so many days.
    pub audit_days: u32,
    /// The history of resources is kept for so many days.
    pub history_days: u32,
    /// And no more of it than so many bytes.
    pub history_bytes: u64,
    /// Who applies what is planned, and how far they are.
    pub fleet: certificate::SharedFleet,
    /// What the operator set for looks at names.
    pub ownership: ownership::OwnershipRules,
}

/// A kind without an instance of it.
#[derive(Debug, Clone, Copy)]
pub struct KindEntry {
    /// What is the same for all of its jobs.
    pub facts: KindFacts,
    /// What people may see of a job's parameters; `None` for parameters that this build cannot read.
    pub show: fn(&Value) -> Option<Value>,
    make: fn(&JobDeps) -> Arc<dyn AnyKind>,
}

/// All kinds.
pub const TABLE: &[KindEntry] = &[
    entry::<callback::Callback>(callback::make),
    entry::<audit_head::SignAuditHead>(audit_head::make),
    entry::<audit_retention::AuditRetention>(audit_retention::make),
    entry::<incident_notice::IncidentNotice>(incident_notice::make),
    entry::<history_retention::HistoryRetention>(history_retention::make),
    entry::<kept_deletions::KeptDeletions>(kept_deletions::make),
    entry::<reply_retention::ReplyRetention>(reply_retention::make),
    entry::<ticket_keys::RotateTicketKeys>(ticket_keys::make),
    entry::<traffic_retention::TrafficRetention>(traffic_retention::make),
    entry::<undo::Undo>(undo::make),
    entry::<ownership::CheckOwnership>(ownership::make),
    entry::<certificate::IssueCertificate>(certificate::make),
    entry::<reissue::ReissueCertificates>(reissue::make),
];

const fn entry<K: JobKind>(make: fn(&JobDeps) -> Arc<dyn AnyKind>) -> KindEntry {
    KindEntry { facts: K::FACTS, show: show::<K>, make }
}

fn show<K: JobKind>(params: &Value) -> Option<Value> {
    serde_json::from_value(params.clone()).ok().map(|params| K::show(&params))
}

/// An instance of each kind, for the runner.
#[must_use]
pub fn all(deps: &JobDeps) -> Vec<Arc<dyn AnyKind>> {
    TABLE.iter().map(|entry| (entry.make)(deps)).collect()
}

/// The entry of a kind; `None` for one that this build does not know.
#[must_use]
pub fn of(name: &str) -> Option<&'static KindEntry> {
    TABLE.iter().find(|entry| entry.facts.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_distinct_and_every_kind_has_steps() {
        let names: BTreeSet<&str> = TABLE.iter().map(|entry| entry.facts.name).collect();
        assert_eq!(names.len(), TABLE.len());
        for KindEntry { facts, show, .. } in TABLE {
            assert!(!facts.steps.is_empty() && !facts.about.is_empty(), "{}", facts.name);
            assert!(of(facts.name).is_some());
            assert_eq!(show(&Value::from(7)), None, "{}: parameters that cannot be read", facts.name);
        }
    }
}
