//! What is deleted and kept, so that it can be brought back: what is known of its deletion, and how that is found and shown.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::document::is_false;
use crate::{Facet, Index, Resource, Status, timestamp};

/// By which everything is found that one deletion took along and keeps.
pub const DELETED_WITH: &str = "deleted_with";

/// By which what is deleted and kept is found in the order of the times until when it is ([`in_order`]).
pub const RESTORABLE_UNTIL: &str = "restorable_until";

/// A time in milliseconds since the Unix epoch as a text whose order is that of the times.
#[must_use]
pub fn in_order(time: i64) -> String {
    format!("{:020}", time.max(0))
}

/// What is known of a deletion that can be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Which deletion it went with: the same for everything that one request deleted. The id of what that named, and the revision.
    pub cause: String,
    /// When it was deleted, in milliseconds since the Unix epoch.
    pub at: i64,
    /// Until when it can be brought back, in milliseconds since the Unix epoch.
    pub until: i64,
    /// It was suspended before.
    #[serde(default, skip_serializing_if = "is_false")]
    pub was_suspended: bool,
    /// The nodes that held its data when it was deleted.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub nodes: BTreeSet<String>,
    /// Its names are free: its tenant gave them to something else.
    #[serde(default, skip_serializing_if = "is_false")]
    pub gave_way: bool,
}

impl Kept {
    /// Whether both are deletions of the same thing, one after the other.
    #[must_use]
    pub fn is_of_the_same(&self, other: &Self) -> bool {
        let named = |cause: &str| cause.rsplit_once('@').map(|(id, _)| id.to_owned());
        self.cause != other.cause && named(&self.cause) == named(&other.cause)
    }

    /// Index rows beside those of the kind.
    pub(crate) fn index(self, index: &mut Index) {
        if self.gave_way {
            index.uniques.clear();
        }
        index.facets.push(Facet { field: RESTORABLE_UNTIL, value: in_order(self.until) });
        index.facets.push(Facet { field: DELETED_WITH, value: self.cause });
    }

    /// What is shown beside the fields of the kind.
    pub(crate) fn show(&self, view: &mut Map<String, Value>) {
        view.insert("deleted_at".to_owned(), timestamp(self.at).into());
        view.insert("restorable_until".to_owned(), timestamp(self.until).into());
    }
}

/// The schemas of what [`Kept::show`] adds. `time`: that of a time.
pub(crate) fn describe(time: &Value, properties: &mut Map<String, Value>) {
    for (field, about) in [
        ("deleted_at", "Only of what is deleted and kept: when it was deleted."),
        ("restorable_until", "Only of what is deleted and kept: until when it can be brought back."),
    ] {
        let mut shown = time.clone();
        shown["description"] = about.into();
        properties.insert(field.to_owned(), shown);
    }
}

impl Resource {
    /// The deletion that can be taken back, while it can.
    #[must_use]
    pub fn kept(&self) -> Option<Kept> {
        if self.status == Status::Deleted { self.progress().kept } else { None }
    }
}
