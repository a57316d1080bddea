//! One item of a bulk: from its text to the call that it would have been alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hosting_resource::Kind;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Bulk;
use crate::ApiError;
use crate::bodies::bulk::{BulkItem, BulkOp, IdOrItem};
use crate::paths::{collection_path, item_path, kind_of};
use crate::preconditions::Preconditions;
use crate::query::Query;
use crate::request;
use crate::route::{Op, Route, Shape};
use crate::service::{Call, check_id, described};
use crate::write::MAX_DESCRIBED;

/// The member of an object that stands for the id of an earlier item.
const REFERENCE: &str = "$id";
/// Between the caller's idempotency key and the number of an item: no key has it, as keys are printable.
const APART: char = '\u{1f}';
/// Longest name of an item, in characters.
const MAX_NAME: usize = 64;

/// What items have made or changed, by their names.
#[derive(Debug, Clone, Default)]
pub(super) struct Ids(Arc<Mutex<BTreeMap<String, Named>>>);

#[derive(Debug)]
struct Named {
    /// The item's place in the call.
    index: usize,
    /// `None`: it is not carried out yet, or was refused.
    id: Option<String>,
}

impl Ids {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Named>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name for an item, which counts as refused until its id is told.
    pub(super) fn claim(&self, index: usize, name: &str) -> Result<(), ApiError> {
        if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
            let problem = format!("must have 1 to {MAX_NAME} characters, and no control characters");
            return Err(ApiError::invalid("name", problem));
        }
        let mut known = self.known();
        if known.contains_key(name) {
            let problem = format!("{name:?} is an earlier item's name; give each item its own");
            return Err(ApiError::invalid("name", problem));
        }
        known.insert(name.to_owned(), Named { index, id: None });
        Ok(())
    }

    pub(super) fn tell(&self, name: &str, id: &str) {
        if let Some(named) = self.known().get_mut(name) {
            named.id = Some(id.to_owned());
        }
    }

    /// The id of an item that comes before the one at `index`.
    fn of(&self, index: usize, field: &str, name: &str) -> Result<String, ApiError> {
        match self.known().get(name).filter(|named| named.index < index) {
            Some(Named { id: Some(id), .. }) => Ok(id.clone()),
            Some(Named { id: None, .. }) => Err(ApiError::new(
                StatusCode::FAILED_DEPENDENCY,
                format!("{field}: the item {name:?} that it refers to was refused"),
            )
            .at(field)),
            None => Err(ApiError::invalid(field, format!("no earlier item has the name {name:?}"))),
        }
    }
}

/// Reads the text of an item.
pub(super) fn read(raw: &RawValue, most: usize) -> Result<BulkItem, ApiError> {
    let text = raw.get();
    if text.len() > most {
        let message = format!("the item is larger than {most} bytes");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    let fields = request::object(text.as_bytes())?;
    if let Some(body) = fields.get("body").and_then(Value::as_object) {
        let described = described(body);
        if described > MAX_DESCRIBED {
            let problem = format!("describes {described} resources; at most {MAX_DESCRIBED} fit in one");
            return Err(ApiError::invalid("body", problem));
        }
    }
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        let path: String = error.path().to_string().chars().take(200).collect();
        let problem = error.into_inner().to_string();
        match problem.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
            Some(field) => ApiError::invalid(field, "is required"),
            None => ApiError::invalid(if path == "." { "item" } else { &path }, problem),
        }
    })
}

/// Whether an item refers to others.
pub(super) fn refers(item: &BulkItem) -> bool {
    let is_reference = |id: &Option<IdOrItem>| matches!(id, Some(IdOrItem::Item { .. }));
    is_reference(&item.id)
        || is_reference(&item.parent)
        || item.body.as_ref().is_some_and(|body| body.values().any(has_reference))
}

fn has_reference(value: &Value) -> bool {
    match value {
        Value::Object(fields) => reference(fields).is_some() || fields.values().any(has_reference),
        Value::Array(items) => items.iter().any(has_reference),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// The name in `{"$id": "name"}`.
fn reference(fields: &Map<String, Value>) -> Option<&str> {
    if fields.len() == 1 { fields.get(REFERENCE).and_then(Value::as_str) } else { None }
}

/// Puts ids in the place of references.
fn resolve(index: usize, path: &str, value: &mut Value, ids: &Ids) -> Result<(), ApiError> {
    match value {
        Value::Object(fields) => match reference(fields).map(|name| ids.of(index, path, name)) {
            Some(id) => *value = id?.into(),
            None => {
                for (name, value) in fields {
                    let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    resolve(index, &inner, value, ids)?;
                }
            }
        },
        Value::Array(items) => {
            for (place, value) in items.iter_mut().enumerate() {
                resolve(index, &format!("{path}[{place}]"), value, ids)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    Ok(())
}

fn id_of(index: usize, field: &str, id: Option<&IdOrItem>, ids: &Ids) -> Result<Option<String>, ApiError> {
    match id {
        None => Ok(None),
        Some(IdOrItem::Id(id)) => Ok(Some(id.clone())),
        Some(IdOrItem::Item { item }) => ids.of(index, field, item).map(Some),
    }
}

impl BulkOp {
    fn method(self) -> Method {
        match self {
            Self::Create => Method::POST,
            Self::Replace => Method::PUT,
            Self::Patch => Method::PATCH,
            Self::Delete => Method::DELETE,
        }
    }

    fn route(self, routes: &[Arc<Route>], kind: Kind) -> Result<Arc<Route>, ApiError> {
        let op = match self {
            Self::Create => Op::Create(kind),
            Self::Replace | Self::Patch => Op::Update(kind),
            Self::Delete => Op::Delete(kind),
        };
        let method = self.method();
        let found = routes.iter().find(|route| route.op == op && route.method == method);
        found.cloned().ok_or_else(|| {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("a {kind} is made and deleted, not changed"),
            )
        })
    }
}

impl Bulk {
    /// The call that an item would have been alone, and its path. The caller's right to it is looked at here; whose the resources are that it
    /// names, when it is carried out.
    pub(super) fn call_of(
        &self,
        index: usize,
        item: &BulkItem,
        ids: &Ids,
    ) -> Result<(Call, String), ApiError> {
        let kind = kind_of(&item.kind)?;
        let route = item.op.route(&self.routes, kind)?;
        self.principal.may_call(&route)?;
        let id = id_of(index, "id", item.id.as_ref(), ids)?;
        let parent = id_of(index, "parent", item.parent.as_ref(), ids)?;
        let absent = |field: &str, is_there: bool, why: &str| {
            if is_there { Err(ApiError::invalid(field, why)) } else { Ok(()) }
        };
        let (id, path) = if item.op == BulkOp::Create {
            absent("id", id.is_some(), "is given in body, where a new one's is chosen; leave it out")?;
            let path = collection_path(kind, parent.as_deref(), "parent")?;
            (parent.unwrap_or_default(), path)
        } else {
            absent("parent", parent.is_some(), "is for new ones; leave it out")?;
            let id = id.ok_or_else(|| ApiError::invalid("id", "is required"))?;
            let path = item_path(kind, &id);
            (id, path)
        };
        check_id(&id)?;
        let takes_body = route.request != Shape::Empty;
        absent("body", !takes_body && item.body.is_some(), "is not taken; leave it out")?;
        let mut body = Value::Object(item.body.clone().unwrap_or_default());
        resolve(index, "", &mut body, ids)?;
        let Value::Object(body) = body else {
            return Err(ApiError::invalid("body", "must be an object with fields"));
        };
        let conditions = match &item.if_match {
            None => Preconditions::default(),
            Some(text) => {
                let value = HeaderValue::from_str(text)
                    .map_err(|_| ApiError::invalid("if_match", "must be printable ASCII"))?;
                Preconditions::read(&HeaderMap::from_iter([(header::IF_MATCH, value)]))?
            }
        };
        // Each item's answer is kept under a key of its own, so that a call that was cut off goes on where it was.
        let idempotency_key = self.idempotency_key.as_ref().filter(|_| !self.is_atomic);
        let call = Call {
            route,
            principal: self.principal.clone(),
            id,
            part: String::new(),
            query: Query::default(),
            body,
            hashed: OnceLock::new(),
            raw: axum::body::Bytes::new(),
            conditions,
            wait: None,
            traceparent: self.traceparent.clone(),
            callback: None,
            idempotency_key: idempotency_key.map(|key| format!("{key}{APART}{index}")),
            caller: self.caller.clone(),
            turn: Mutex::new(None),
            is_item: true,
        };
        Ok((call, path))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problem(text: &str) -> String {
        read(&RawValue::from_string(text.to_owned()).unwrap(), 1_000).unwrap_err().message
    }

    #[test]
    fn what_is_wrong_with_an_item_is_named() {
        for (text, start) in [
            ("[]", "invalid JSON: the body must be an object"),
            (r#"{"kind": "zone"}"#, "validation error: op: is required"),
            (r#"{"op": "create"}"#, "validation error: kind: is required"),
            (r#"{"op": "frob", "kind": "zone"}"#, "validation error: op: unknown variant `frob`"),
            (r#"{"op": "create", "kind": "zone", "frob": 1}"#, "validation error: frob: unknown field"),
            (r#"{"op": "delete", "kind": "zone", "id": 7}"#, "validation error: id: must be an id, or {"),
            (
                r#"{"op": "create", "kind": "zone", "body": {"a": 1, "a": 2}}"#,
                "invalid JSON: body: the field \"a\"",
            ),
        ] {
            assert!(problem(text).starts_with(start), "{text}: {}", problem(text));
        }
        let long = json!({"op": "create", "kind": "zone", "body": {"a": "x".repeat(2_000)}}).to_string();
        assert_eq!(problem(&long), "the item is larger than 1000 bytes");
    }

    #[test]
    fn references_are_found_and_resolved_at_every_depth() {
        let item = json!({"op": "create", "kind": "fqdn", "body": {"a": [{"b": {"$id": "one"}}], "c": {"$id": "x", "d": 1}}});
        let item = read(&RawValue::from_string(item.to_string()).unwrap(), 1_000).unwrap();
        assert!(refers(&item));
        let ids = Ids::default();
        let mut body = Value::Object(item.body.unwrap());
        assert_eq!(resolve(7, "", &mut body, &ids).unwrap_err().status, 400);
        ids.claim(3, "one").unwrap();
        assert_eq!(resolve(3, "", &mut body, &ids).unwrap_err().status, 400, "itself is no earlier item");
        let refused = resolve(7, "", &mut body, &ids).unwrap_err();
        assert_eq!((refused.status.as_u16(), &refused.more["field"]), (424, &json!("a[0].b")));
        ids.tell("one", "id-1");
        resolve(7, "", &mut body, &ids).unwrap();
        assert_eq!(body, json!({"a": [{"b": "id-1"}], "c": {"$id": "x", "d": 1}}));
        assert!(ids.claim(5, "one").is_err(), "a name is one item's");
        assert_eq!(ids.of(4, "id", "one").as_deref(), Ok("id-1"));
        assert!(ids.claim(8, "").is_err() && ids.claim(8, &"x".repeat(65)).is_err());
    }
}
