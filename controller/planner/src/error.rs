//! Why a mutation is not carried out.

use hosting_intent::{Audience, AudienceError, Key, Rejection};
use hosting_resource::{Kind, ShapeError, SpecError};

use crate::{ApplyError, WorldError};

/// A mutation that is not carried out. Nothing of it is written: the caller rolls its savepoint back.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// No such resource. HTTP 404.
    #[error("there is no {kind} {id:?}")]
    NotFound {
        /// What was looked for.
        kind: Kind,
        /// Its id.
        id: String,
    },
    /// A value that cannot be, seen beside the others. HTTP 400.
    #[error("validation error: {field}: {problem}")]
    Invalid {
        /// The field.
        field: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// Not in this state of things. HTTP 409.
    #[error("{0}")]
    Conflict(String),
    /// Still used by something that would be left hanging. HTTP 400.
    #[error("{kind} {id} cannot be deleted: {by_kind} {by} still uses it")]
    InUse {
        /// What was to be deleted.
        kind: Kind,
        /// Its id.
        id: String,
        /// What uses it.
        by_kind: Kind,
        /// Which one.
        by: String,
    },
    /// More than a limit allows. HTTP 409.
    #[error(transparent)]
    OverLimit(#[from] crate::OverLimit),
    /// Not for anybody. HTTP 403.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The change is too large for one transaction. HTTP 400: sending it in parts helps.
    #[error("the change writes {0} rows, and at most 1000 fit in one transaction: send it in smaller parts")]
    TooLarge(usize),
    /// What planning made of the resources is no sound intent. HTTP 500; nothing of it reached the fleet.
    #[error("{owner} would give {audience} an unsound {key}: {rejection}")]
    Unsound {
        /// The planning unit.
        owner: String,
        /// Who would have got it.
        audience: Audience,
        /// What.
        key: Key,
        /// What is wrong with it.
        rejection: Rejection,
    },
    /// A stored document that this build cannot read, or nobody can. HTTP 500; its rows stay as they are.
    #[error(transparent)]
    Unreadable(#[from] ShapeError),
    /// The store refuses or fails.
    #[error(transparent)]
    Apply(ApplyError),
}

impl PlanError {
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }
}

impl From<ApplyError> for PlanError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::TooLarge(rows) => Self::TooLarge(rows),
            ApplyError::Taken { .. }
            | ApplyError::InUse { .. }
            | ApplyError::NoSuch { .. }
            | ApplyError::World(_) => Self::Apply(error),
        }
    }
}

/// What a document alone breaks, found where the other resources are known.
impl From<SpecError> for PlanError {
    fn from(error: SpecError) -> Self {
        match error {
            SpecError::Forbidden(reason) => Self::Forbidden(reason),
            SpecError::Malformed { problem } => Self::Conflict(problem),
            SpecError::Invalid { field, problem } => Self::invalid(field, problem),
            SpecError::NotServed { field, detail } => Self::invalid(field, detail),
            SpecError::Several(all) => {
                all.into_iter().next().map_or_else(|| Self::invalid("body", "is wrong"), Self::from)
            }
        }
    }
}

/// A stored id that no audience can hold.
impl From<AudienceError> for PlanError {
    fn from(error: AudienceError) -> Self {
        WorldError::from(error).into()
    }
}

impl From<WorldError> for PlanError {
    fn from(error: WorldError) -> Self {
        Self::Apply(ApplyError::World(error))
    }
}
