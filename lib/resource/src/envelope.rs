//! The document that every resource is stored as, and the rows the store keeps beside it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Kind, ShapeError};

/// Where a resource stands, in the API's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Accepted; nothing has happened yet.
    Pending,
    /// On its way for the first time.
    Provisioning,
    /// In effect before, a change is on its way.
    Converging,
    /// In effect.
    Active,
    /// Cannot come into effect; `status_message` says why.
    Failed,
    /// Switched off by an operator.
    Suspended,
    /// Deleted, out of service, and kept for a while so that it can be brought back.
    Deleted,
    /// On its way out; the row goes when the fleet has let go.
    Deleting,
    /// In effect with less redundancy than wanted.
    Degraded,
    /// Switched off after repeated failures.
    AutoDisabled,
}

impl Status {
    /// All statuses.
    pub const ALL: &'static [Self] = &[
        Self::Pending,
        Self::Provisioning,
        Self::Converging,
        Self::Active,
        Self::Failed,
        Self::Suspended,
        Self::Deleted,
        Self::Deleting,
        Self::Degraded,
        Self::AutoDisabled,
    ];

    /// As the API and the store spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Provisioning => "provisioning",
            Self::Converging => "converging",
            Self::Active => "active",
            Self::Failed => "failed",
            Self::Suspended => "suspended",
            Self::Deleted => "deleted",
            Self::Deleting => "deleting",
            Self::Degraded => "degraded",
            Self::AutoDisabled => "auto_disabled",
        }
    }

    /// The inverse of [`Status::as_str`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|status| status.as_str() == name)
    }

    /// Whether a gate still has to open: the controller keeps looking at such resources.
    #[must_use]
    pub const fn is_open(self) -> bool {
        match self {
            Self::Pending | Self::Provisioning | Self::Converging | Self::Deleting => true,
            Self::Active
            | Self::Failed
            | Self::Suspended
            | Self::Deleted
            | Self::Degraded
            | Self::AutoDisabled => false,
        }
    }

    /// Whether somebody deleted it: it is out of service, and on its way out or kept for a while.
    #[must_use]
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::Deleted | Self::Deleting)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One stored resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// Never reused, whatever the kind.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// The id of the resource it lies in, if its kind has a parent.
    pub parent: Option<String>,
    /// The tenant whose ownership decides access; a tenant's own id for a tenant.
    pub tenant: Option<String>,
    /// The brand whose ownership decides access; a brand's own id for a brand. `None`: platform-wide.
    pub brand: Option<String>,
    /// What a person would call it: host name, zone name, customer id.
    pub label: String,
    /// Where it stands.
    pub status: Status,
    /// Why it failed.
    pub status_message: Option<String>,
    /// Shape number of `spec`; the kind's upcasters bring an older one up to date.
    pub shape: u32,
    /// Counts the user's changes, from 1.
    pub generation: u64,
    /// The revision that created it. Also its incarnation.
    pub created_revision: u64,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Milliseconds since the Unix epoch.
    pub updated_at: i64,
    /// What the user wrote, defaults filled in. Unknown fields of newer shapes are kept.
    pub spec: Map<String, Value>,
    /// What the controller keeps about it: opened gates, withdrawn revisions, allocated numbers. Never set by a user.
    pub state: Map<String, Value>,
}

impl Resource {
    /// A text field of the spec; `""` when it is absent or no text.
    #[must_use]
    pub fn text(&self, field: &str) -> &str {
        self.spec.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// The spec as its kind's type, e.g. `resource.typed::<kinds::webroot::WebrootSpec>()`.
    ///
    /// # Errors
    /// [`ShapeError::Unreadable`] when the stored document is none of its kind.
    pub fn typed<S: serde::de::DeserializeOwned>(&self) -> Result<S, ShapeError> {
        S::deserialize(&self.spec)
            .map_err(|error| ShapeError::Unreadable { id: self.id.clone(), problem: error.to_string() })
    }

    /// The rows that the store keeps beside the document. Names and references are empty while it is on its way out.
    #[must_use]
    pub fn index(&self) -> Index {
        self.kind.def().index(self)
    }

    /// The resource as the API shows it, without joined names.
    #[must_use]
    pub fn view(&self) -> Map<String, Value> {
        self.kind.def().view(self)
    }

    /// A boolean of the controller's state; false when it is absent.
    #[must_use]
    pub fn flag(&self, field: &str) -> bool {
        self.state.get(field).and_then(Value::as_bool).unwrap_or_default()
    }
}

/// A name that only one resource of the kind may hold in the scope.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unique {
    /// `""` for the whole cell, else a parent's id; may carry a prefix to tell several names of a kind apart.
    pub scope: String,
    /// The name, normalised.
    pub key: String,
    /// The field to name in the error.
    pub field: &'static str,
}

/// A reference to another resource, which can then not be deleted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ref {
    /// The field that holds the reference, e.g. `webroot_id`.
    pub relation: &'static str,
    /// The kind referred to.
    pub kind: Kind,
    /// Its id.
    pub to: String,
}

/// A value that lists can be filtered by, and planning can find resources by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Facet {
    /// e.g. `customer_id`, `owner_name`.
    pub field: &'static str,
    /// Its value.
    pub value: String,
}

/// Everything that the store indexes of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    /// Names it holds. Empty while it is being deleted: the names are free at once. What is deleted and kept holds its names.
    pub uniques: Vec<Unique>,
    /// What it refers to. Empty while it is being deleted.
    pub refs: Vec<Ref>,
    /// What it can be found by.
    pub facets: Vec<Facet>,
}
