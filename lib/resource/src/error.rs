//! Why a document is not accepted.

/// What is wrong with a body. Always the caller's fault; sending the same again gives the same answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A value of the wrong JSON type. HTTP 400.
    #[error("invalid JSON: {problem}")]
    Malformed {
        /// What is wrong, and where.
        problem: String,
    },
    /// A value that breaks a rule. HTTP 400.
    #[error("validation error: {field}: {problem}")]
    Invalid {
        /// The field, e.g. `webroots[0].runtime_version`.
        field: String,
        /// The rule.
        problem: String,
    },
    /// The rules are kept, but the platform does not serve this yet. HTTP 501.
    #[error("{field}: {detail}")]
    NotServed {
        /// The field, e.g. `webroots[0].runtime`.
        field: String,
        /// What is not served.
        detail: String,
    },
    /// Values of several fields that break rules, each a [`SpecError::Invalid`], in the order of the fields. HTTP 400.
    #[error("{}", first(.0))]
    Several(Vec<Self>),
    /// Not allowed for anybody. HTTP 403.
    #[error("{0}")]
    Forbidden(&'static str),
}

impl SpecError {
    /// A field has a value that it cannot have.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }

    pub(crate) fn not_served(field: impl Into<String>) -> Self {
        Self::NotServed { field: field.into(), detail: "not served by this platform yet".to_owned() }
    }

    /// The same problem, seen from the document around it: `runtime` becomes `webroots[0].runtime`.
    #[must_use]
    pub(crate) fn within(self, outer: &str) -> Self {
        match self {
            Self::Invalid { field, problem } => Self::Invalid { field: format!("{outer}.{field}"), problem },
            Self::NotServed { field, detail } => {
                Self::NotServed { field: format!("{outer}.{field}"), detail }
            }
            Self::Several(all) => Self::Several(all.into_iter().map(|one| one.within(outer)).collect()),
            other @ (Self::Malformed { .. } | Self::Forbidden(_)) => other,
        }
    }
}

/// What a program that shows one problem shows of several.
fn first(all: &[SpecError]) -> String {
    all.first().map(ToString::to_string).unwrap_or_default()
}

/// A stored document that this build cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Written by a newer controller: it may be shown, never written back.
    #[error("{id} has shape {found}, newer than this controller's {known}: upgrade this controller")]
    Newer {
        /// The resource.
        id: String,
        /// Its shape number.
        found: u32,
        /// The newest one that this build knows.
        known: u32,
    },
    /// The document is no document of its kind.
    #[error("{id}: the stored spec is unreadable: {problem}")]
    Unreadable {
        /// The resource.
        id: String,
        /// What is wrong.
        problem: String,
    },
}
