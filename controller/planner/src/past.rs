//! What a change was to those who ask about it later: which changes are history, and which of them an undo speaks of.

use hosting_resource::{Kind, Resource, Status};

use crate::gates::is_gated;

/// What happened to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It was made.
    Created,
    /// Its document, label or owner changed.
    Changed,
    /// It was switched off.
    Suspended,
    /// It was switched on again.
    Resumed,
    /// It is on its way out.
    Deleting,
    /// It was on its way out, and stays.
    Restored,
    /// It is gone, or void.
    Deleted,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Changed,
        Self::Suspended,
        Self::Resumed,
        Self::Deleting,
        Self::Restored,
        Self::Deleted,
    ];

    /// As the API and the store spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
            Self::Deleting => "deleting",
            Self::Restored => "restored",
            Self::Deleted => "deleted",
        }
    }

    /// What a change is to the history; `None`: what follows from other things, such as status, gates and automatic records.
    #[must_use]
    pub fn of(before: Option<&Resource>, after: Option<&Resource>) -> Option<Self> {
        let (before, after) = match (before, after) {
            (None, None) => return None,
            (None, Some(after)) => return (!is_derived(after)).then_some(Self::Created),
            (Some(before), None) => return (!is_derived(before)).then_some(Self::Deleted),
            (Some(before), Some(after)) => (before, after),
        };
        let changed = |status: Status| (before.status == status) != (after.status == status);
        let is_other = before.spec != after.spec
            || before.label != after.label
            || (&before.parent, &before.tenant, &before.brand)
                != (&after.parent, &after.tenant, &after.brand);
        let event = if before.status.is_gone() != after.status.is_gone() {
            if after.status.is_gone() { Self::Deleting } else { Self::Restored }
        } else if changed(Status::Suspended) {
            if after.status == Status::Suspended { Self::Suspended } else { Self::Resumed }
        } else if is_other {
            Self::Changed
        } else if is_gated(after.kind) {
            return None;
        } else if after.kind.def().is_void(after) && !after.kind.def().is_void(before) {
            Self::Deleted
        } else if before.status != after.status {
            // What no fleet decides is set by people.
            Self::Changed
        } else {
            return None;
        };
        (!is_derived(after)).then_some(event)
    }
}

fn is_derived(resource: &Resource) -> bool {
    resource.kind.def().is_derived(resource)
}

/// What a change of the past is to an undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It is to be taken back.
    Chosen,
    /// The undo itself made it, in an earlier part.
    Own,
    /// Of others, or of the same caller but not to be taken back.
    Other,
}

/// A change of one resource, as the history tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct PastChange {
    /// Which resource.
    pub resource: String,
    /// Of the resource.
    pub kind: Kind,
    /// The revision of the change.
    pub revision: u64,
    /// The API key; `None`: the controller itself.
    pub actor: Option<String>,
    /// The resource before it; `None`: there was none.
    pub before: Option<Resource>,
    /// What it is to the undo.
    pub part: Part,
}
