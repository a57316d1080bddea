//! Many changes: the body of `POST /bulk` that a message means, and what its answer says.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use hosting_proto::intent_api::{
    BulkItem, BulkOperation, BulkRequest, BulkResult, FieldProblem, IdOrItem, Problem, id_or_item,
};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::asked::Asked;
use super::status::{code_of, fields_of, problem_of, reason_of};
use crate::ApiError;
use crate::bodies::bulk as rest;
use crate::query::ATOMIC;
use crate::route::BASE;

/// An item as the REST API takes it. What was not said is not there.
#[derive(Serialize)]
struct Item {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    op: &'static str,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Reference>,
    #[serde(skip_serializing_if = "String::is_empty")]
    if_match: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Reference {
    Id(String),
    Item {
        #[serde(rename = "$id")]
        item: String,
    },
}

#[derive(Serialize)]
struct Items {
    items: Vec<Item>,
}

impl Reference {
    fn of(given: Option<IdOrItem>) -> Option<Self> {
        given.and_then(|given| given.of).map(|of| match of {
            id_or_item::Of::Id(id) => Self::Id(id),
            id_or_item::Of::Item(item) => Self::Item { item },
        })
    }
}

fn item_of(index: usize, item: BulkItem) -> Result<Item, ApiError> {
    let BulkItem { name, operation, kind, id, parent, body_json, if_match } = item;
    let op = match BulkOperation::try_from(operation) {
        Ok(BulkOperation::Create) => "create",
        Ok(BulkOperation::Replace) => "replace",
        Ok(BulkOperation::Patch) => "patch",
        Ok(BulkOperation::Delete) => "delete",
        Ok(BulkOperation::Unspecified) | Err(_) => {
            let problem = "must be BULK_OPERATION_CREATE, _REPLACE, _PATCH or _DELETE";
            return Err(ApiError::invalid(&format!("items[{index}].operation"), problem));
        }
    };
    let body = match body_json.is_empty() {
        true => None,
        false => Some(RawValue::from_string(body_json).map_err(|error| {
            ApiError::invalid(&format!("items[{index}].body_json"), format!("is no JSON: {error}"))
        })?),
    };
    Ok(Item { name, op, kind, id: Reference::of(id), parent: Reference::of(parent), if_match, body })
}

pub(super) fn asked(request: BulkRequest) -> Result<Asked, ApiError> {
    let BulkRequest { items, atomic, wait } = request;
    let items = items.into_iter().enumerate().map(|(index, item)| item_of(index, item));
    let items = Items { items: items.collect::<Result<_, _>>()? };
    let body = serde_json::to_string(&items).map_err(|error| ApiError::internal(&error))?;
    let mut asked = Asked::with_body(Method::POST, format!("{BASE}/bulk"), body);
    if atomic {
        asked.param(ATOMIC, "true");
    }
    asked.waits(wait.as_ref())?;
    Ok(asked)
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn problem(members: &Map<String, Value>, status: u16) -> Problem {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let problem = problem_of(members, status);
    let fields = fields_of(members).into_iter().map(|(field, reason, remedy)| FieldProblem {
        field: field.to_owned(),
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
    });
    Problem {
        code: code_of(problem, members.contains_key("quota")) as i32,
        reason: reason_of(problem),
        message: members.get("detail").map(shown).unwrap_or_default(),
        fields: fields.collect(),
        retriable: matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS),
    }
}

pub(super) fn result_of(result: rest::BulkResult) -> BulkResult {
    let rest::BulkResult {
        name,
        status,
        id,
        generation,
        revision,
        replayed,
        once,
        warnings,
        problem: why,
        ..
    } = result;
    let warnings = warnings.iter().filter_map(Value::as_object).map(|warning| {
        let text = |name: &str| warning.get(name).map(shown).unwrap_or_default();
        FieldProblem { field: text("field"), reason: text("message"), remedy: String::new() }
    });
    BulkResult {
        name: name.unwrap_or_default(),
        id: id.unwrap_or_default(),
        generation: generation.unwrap_or_default(),
        revision: revision.unwrap_or_default(),
        replayed,
        once: once.iter().map(|(name, value)| (name.clone(), shown(value))).collect::<BTreeMap<_, _>>(),
        warnings: warnings.collect(),
        problem: why.map(|members| problem(&members, status)),
    }
}
