//! What was: the changes of a resource and of a host name, shown as the resource itself would be.
//!
//! Values come from views of the documents before and after, so that nothing is shown which reading the resource would not show; free-form
//! fields are redacted as in audit rows. The caller's right follows from the resource, or from the last document of one that is gone.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use hosting_planner::Event;
use hosting_planner::gates::is_gated;
use hosting_resource::difference::differences;
use hosting_resource::{IdPolicy, Kind, Resource, Tier, in_brand, public_id, timestamp};
use hosting_store::{HistoryOf, HistoryPlace, HistoryRow, ReadTx};
use serde_json::{Map, Value};

use crate::bodies::history::{FieldChange, HistoryEntry, HistoryPage};
use crate::explain::normal_name;
use crate::redact::{REDACTED, redact};
use crate::route::{Action, Scope, Shape};
use crate::service::{Call, Reply, not_found, to_json};
use crate::{Api, ApiError, openapi};

impl Api {
    /// The changes of a resource, which may be gone.
    pub(crate) async fn history_of(&self, call: &Call, kind: Kind) -> Result<Reply, ApiError> {
        let mut tx = self.store().read().await?;
        let id = match call.subject(&mut tx, kind).await {
            Ok(resource) => resource.id,
            Err(error) if error.status == StatusCode::NOT_FOUND => call.gone(&mut tx, kind).await?,
            Err(error) => return Err(error),
        };
        self.history_page(call, &mut tx, HistoryOf::Resource(id), |_| true).await
    }

    /// The changes of everything that was about a host name, of kinds that the caller may read.
    pub(crate) async fn history_of_name(&self, call: &Call) -> Result<Reply, ApiError> {
        let name = normal_name(&call.id)?;
        let mut tx = self.store().read().await?;
        let of = HistoryOf::Name(name);
        self.history_page(call, &mut tx, of, |row| {
            let scope = Scope { resource: row.kind.info().scope, action: Action::Read };
            let is_open = row.kind.info().tier == Tier::Brand || call.principal.is_admin();
            is_open && call.principal.require(scope).is_ok()
        })
        .await
    }

    /// A page of what the caller may see of a history.
    async fn history_page(
        &self,
        call: &Call,
        tx: &mut ReadTx,
        of: HistoryOf,
        is_shown: impl Fn(&HistoryRow) -> bool,
    ) -> Result<Reply, ApiError> {
        let after = match call.query.text("cursor") {
            None => None,
            Some(text) => Some(place(text).ok_or_else(|| {
                let problem = "is none of ours; use next_cursor of the page before, or start over without it";
                ApiError::invalid("cursor", problem)
            })?),
        };
        let limit = call.query.limit();
        let mut rows = tx.history(&of, after.as_ref(), limit.saturating_add(1)).await?;
        let has_more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next_cursor =
            rows.last().filter(|_| has_more).map(|last| format!("{}.{}", last.revision, last.resource));
        let mut items = Vec::new();
        // What each resource was before the change that is newer than the one looked at.
        let mut next: BTreeMap<String, HistoryRow> = BTreeMap::new();
        let mut refused = None;
        for row in rows {
            let newer = next.get(&row.resource).filter(|newer| {
                let before = newer.before.as_ref().map(|before| before.label.as_str());
                before.is_some_and(|label| label.split(' ').next() == Some(&row.name) || row.name.is_empty())
            });
            let after = match newer {
                Some(newer) => newer.before.clone(),
                None => tx.resource_at(&row.resource, row.revision).await?,
            };
            let allowed = match row.kind.info().tier {
                Tier::Admin => Ok(()),
                Tier::Brand => call.principal.may_use_brand(row.brand.as_deref()),
            };
            match allowed {
                Ok(()) if is_shown(&row) => items.push(self.history_entry(call, &row, after.as_ref())),
                Ok(()) => {}
                Err(error) => refused = Some(error),
            }
            next.insert(row.resource.clone(), row);
        }
        // All of it is somebody else's.
        if let Some(error) = refused.filter(|_| items.is_empty() && !has_more && after.is_none()) {
            return Err(error);
        }
        let complete_since_revision = tx.history_floor().await?;
        Ok(Reply::json(200, to_json(&HistoryPage { items, next_cursor, has_more, complete_since_revision })?))
    }

    fn history_entry(&self, call: &Call, row: &HistoryRow, after: Option<&Resource>) -> HistoryEntry {
        // What it was while it was another brand's is not the new owner's business.
        let before = row
            .before
            .as_ref()
            .filter(|before| row.kind.info().tier == Tier::Admin || call.principal.may_touch(before).is_ok());
        let fields = match (row.event, after) {
            (Event::Deleting | Event::Deleted, _) | (_, None) => Vec::new(),
            (_, Some(after)) => self.changed_fields(row.event, before, after),
        };
        HistoryEntry {
            kind: row.kind.name(),
            id: public_id(&row.resource).to_owned(),
            label: after.or(before).map(|shown| shown.label.clone()).unwrap_or_default(),
            revision: row.revision,
            at: timestamp(row.at),
            api_key_id: row.actor.clone(),
            trace_id: Some(row.trace.clone()).filter(|trace| !trace.is_empty()),
            event: row.event.as_str(),
            fields,
        }
    }

    /// What differs between two documents, as far as views show it.
    fn changed_fields(&self, event: Event, before: Option<&Resource>, after: &Resource) -> Vec<FieldChange> {
        let info = after.kind.info();
        let is_switched = matches!(event, Event::Suspended | Event::Resumed);
        let is_told = |field: &str, resource: &Resource| match field {
            "created_at" | "updated_at" | "generation" | "status_message" => false,
            "status" => is_switched || !is_gated(resource.kind),
            _ => is_switched || resource.spec.contains_key(field),
        };
        let told = |resource: &Resource| -> Map<String, Value> {
            let view = resource.view().into_iter();
            view.filter(|(field, _)| is_told(field, resource)).collect()
        };
        let (old, new) = (before.map(told).unwrap_or_default(), told(after));
        let pointers = match before {
            Some(_) => differences(&old, &new),
            None => new.keys().map(|field| hosting_resource::pointer("", field)).collect(),
        };
        let (shown_old, shown_new) =
            (self.redacted_view(after.kind, old), self.redacted_view(after.kind, new));
        // A place inside of what is redacted as a whole is redacted too.
        let at = |(raw, shown): &(Value, Value), pointer: &str| {
            raw.pointer(pointer)?;
            Some(shown.pointer(pointer).cloned().unwrap_or_else(|| REDACTED.into()))
        };
        let mut fields: Vec<FieldChange> = pointers
            .into_iter()
            .map(|field| FieldChange { before: at(&shown_old, &field), after: at(&shown_new, &field), field })
            .collect();
        for hidden in info.hidden {
            let (old, new) = (before.map(|before| before.spec.get(*hidden)), after.spec.get(*hidden));
            if old.is_some_and(|old| old != new) {
                let redacted = |value: Option<&Value>| value.map(|_| Value::from(REDACTED));
                fields.push(FieldChange {
                    field: hosting_resource::pointer("", hidden),
                    before: redacted(old.flatten()),
                    after: redacted(new),
                });
            }
        }
        fields
    }

    /// A view as it is, and with what may be secret in it replaced.
    fn redacted_view(&self, kind: Kind, view: Map<String, Value>) -> (Value, Value) {
        let name = openapi::name_of(Shape::View(kind)).unwrap_or_default();
        let schemas = self.schemas();
        let shown = redact(&view, schemas.get(&name).unwrap_or(&Value::Null), schemas);
        (Value::Object(view), shown)
    }
}

/// A place in a history, as cursors spell it: `revision.resource`.
fn place(text: &str) -> Option<HistoryPlace> {
    let (revision, resource) = text.split_once('.')?;
    Some((revision.parse().ok().filter(|revision| i64::try_from(*revision).is_ok())?, resource.to_owned()))
}

impl Call {
    /// The id of a resource of the caller that the path names and that is gone.
    async fn gone(&self, tx: &mut ReadTx, kind: Kind) -> Result<String, ApiError> {
        let mut ids = vec![self.id.clone()];
        if kind.info().id == IdPolicy::Caller {
            ids.extend(self.principal.brands.iter().map(|brand| in_brand(brand, &self.id)));
        }
        let mut refused = None;
        for id in ids {
            let newest = tx.history(&HistoryOf::Resource(id.clone()), None, 1).await?.pop();
            let Some(newest) = newest.filter(|newest| newest.kind == kind) else { continue };
            let allowed = match kind.info().tier {
                Tier::Admin => Ok(()),
                Tier::Brand => self.principal.may_use_brand(newest.brand.as_deref()),
            };
            match allowed {
                Ok(()) => return Ok(id),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| not_found(kind)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_back_and_others_refused() {
        assert_eq!(place("12.a.b"), Some((12, "a.b".to_owned())));
        for none in ["", "12", "x.a", "-1.a", "18446744073709551615.a"] {
            assert_eq!(place(none), None, "{none}");
        }
    }
}
