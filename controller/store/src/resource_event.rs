//! What happened to a resource, for those who watch: which one, whose, and where it stands. What it is they read by themselves.

use hosting_resource::{EventView, Kind, Resource, Status, public_id};
use serde::{Deserialize, Serialize};

/// What became of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceChange {
    /// It is new.
    Created,
    /// Its spec, its status or its message is another.
    Updated,
    /// Its row is gone.
    Deleted,
}

/// One change of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceEvent {
    /// The revision that made it.
    pub revision: u64,
    /// The resource's kind.
    pub kind: Kind,
    /// Its id as the API shows it.
    pub id: String,
    /// Its tenant; a tenant's own id.
    pub tenant: Option<String>,
    /// Its brand; `None`: platform-wide.
    pub brand: Option<String>,
    /// What became of it.
    pub change: ResourceChange,
    /// Where it stands, or stood last.
    pub status: Status,
    /// Its generation, or its last one.
    pub generation: u64,
}

impl ResourceEvent {
    /// What a mutation made of a resource; `None` when nothing of it is shown: what the controller keeps for itself moved on.
    pub(crate) fn of(revision: u64, before: Option<&Resource>, after: Option<&Resource>) -> Option<Self> {
        let (change, resource) = match (before, after) {
            (None, Some(new)) => (ResourceChange::Created, new),
            (Some(old), None) => (ResourceChange::Deleted, old),
            (Some(old), Some(new)) if is_shown_otherwise(old, new) => (ResourceChange::Updated, new),
            (Some(_), Some(_)) | (None, None) => return None,
        };
        Some(Self {
            revision,
            kind: resource.kind,
            id: public_id(&resource.id).to_owned(),
            tenant: resource.tenant.clone(),
            brand: resource.brand.clone(),
            change,
            status: resource.status,
            generation: resource.generation,
        })
    }
}

impl ResourceEvent {
    /// The event in the words of the API.
    #[must_use]
    pub fn view(&self) -> EventView {
        let change = match self.change {
            ResourceChange::Created => "created",
            ResourceChange::Updated => "updated",
            ResourceChange::Deleted => "deleted",
        };
        EventView {
            revision: self.revision,
            change: change.to_owned(),
            kind: self.kind.name().to_owned(),
            id: self.id.clone(),
            tenant_id: self.tenant.clone(),
            brand_id: self.brand.clone(),
            status: self.status.as_str().to_owned(),
            generation: self.generation,
        }
    }
}

fn is_shown_otherwise(old: &Resource, new: &Resource) -> bool {
    (old.generation, old.status, &old.status_message) != (new.generation, new.status, &new.status_message)
        || (&old.spec, &old.label, &old.tenant, &old.brand)
            != (&new.spec, &new.label, &new.tenant, &new.brand)
}
