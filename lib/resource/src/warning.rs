//! What is told to a caller beside a success.

use schemars::JsonSchema;
use serde::Serialize;

/// What is not wrong enough to be refused, and will not work as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Warning {
    /// For programs: one word for each kind of trouble, e.g. `unknown_field`.
    pub code: &'static str,
    /// The field of the body or the header that it is about; empty when it is about none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// The record that it is about, by name and type; empty when it is about none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub record: String,
    /// What is the matter.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Warning {
    /// A warning about a field of a request.
    #[must_use]
    pub fn of_field(code: &'static str, field: &str, message: &str, remedy: &str) -> Self {
        Self {
            code,
            field: field.to_owned(),
            record: String::new(),
            message: format!("{field}: {message}"),
            remedy: remedy.to_owned(),
        }
    }

    pub(crate) fn unknown_field(path: &str) -> Self {
        Self::of_field(
            "unknown_field",
            path,
            "unknown field, ignored",
            "the API reference lists the fields; leave it out if it is not meant for this platform",
        )
    }
}
