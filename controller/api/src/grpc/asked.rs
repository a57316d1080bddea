//! The REST request that a message means.

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use hosting_proto::intent_api::{
    ApplyMode, ApplyRequest, DeleteRequest, GetRequest, ListRequest, Order, Wait, WaitFor, WatchRequest,
};
use hosting_resource::Kind;
use url::form_urlencoded::Serializer;

use crate::ApiError;
use crate::paths::{collection_path, item_path, kind_of, list_path};
use crate::query::{COUNT, DRY_RUN, FIELDS, SERVED, SINCE};
use crate::route::BASE;

/// A request to be.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Asked {
    fn new(method: Method, path: String) -> Self {
        Self { method, path, query: Vec::new(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(super) fn with_body(method: Method, path: String, body: String) -> Self {
        let mut asked = Self::new(method, path);
        asked.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        asked.headers.insert(header::CONTENT_LENGTH, body.len().into());
        asked.body = body.into();
        asked
    }

    pub(super) fn param(&mut self, name: &str, value: impl Into<String>) {
        self.query.push((name.to_owned(), value.into()));
    }

    /// With a text that may be empty: then without.
    fn text(&mut self, name: &str, value: String) {
        if !value.is_empty() {
            self.param(name, value);
        }
    }

    fn names(&mut self, name: &str, values: &[String]) {
        if !values.is_empty() {
            self.param(name, values.join(","));
        }
    }

    /// With some fields of a kind's bodies: those that stand beside the body are among them.
    fn fields(&mut self, kind: Kind, mut fields: Vec<String>) {
        if fields.is_empty() {
            return;
        }
        let beside = [Some("generation"), kind.info().status.then_some("status")];
        for name in beside.into_iter().flatten() {
            if fields.iter().all(|field| field != name) {
                fields.push(name.to_owned());
            }
        }
        self.names(FIELDS, &fields);
    }

    fn meant_for(&mut self, if_match: &str) -> Result<(), ApiError> {
        if !if_match.is_empty() {
            let value = HeaderValue::from_str(if_match)
                .map_err(|_| ApiError::invalid("if_match", "must be printable ASCII"))?;
            self.headers.insert(header::IF_MATCH, value);
        }
        Ok(())
    }

    pub(super) fn waits(&mut self, wait: Option<&Wait>) -> Result<(), ApiError> {
        let Some(wait) = wait else { return Ok(()) };
        let until = match WaitFor::try_from(wait.until) {
            Ok(WaitFor::Ready) => "ready",
            Ok(WaitFor::Served) => SERVED,
            Ok(WaitFor::Unspecified) if wait.timeout_seconds == 0 => return Ok(()),
            Ok(WaitFor::Unspecified) | Err(_) => {
                return Err(ApiError::invalid("wait.until", "must be WAIT_FOR_READY or WAIT_FOR_SERVED"));
            }
        };
        self.param("wait", until);
        if wait.timeout_seconds > 0 {
            self.param("wait_timeout", wait.timeout_seconds.to_string());
        }
        Ok(())
    }

    /// Whether the answer waits for the fleet.
    pub(super) fn is_waiting(&self) -> bool {
        self.query.iter().any(|(name, _)| name == "wait")
    }

    /// Only its plan.
    pub(super) fn planned(mut self) -> Self {
        self.param(DRY_RUN, "true");
        self
    }

    /// Path and query.
    pub(super) fn target(&self) -> String {
        if self.query.is_empty() {
            return self.path.clone();
        }
        let query = Serializer::new(String::new()).extend_pairs(&self.query).finish();
        format!("{}?{query}", self.path)
    }
}

/// The path of one, which is named.
fn item(kind: &str, id: &str) -> Result<(Kind, String), ApiError> {
    let kind = kind_of(kind)?;
    if id.is_empty() {
        return Err(ApiError::invalid("id", "is required"));
    }
    Ok((kind, item_path(kind, id)))
}

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

pub(super) fn apply(request: ApplyRequest) -> Result<(Kind, Asked), ApiError> {
    let ApplyRequest { mode, kind, id, parent_id, body_json, if_match, wait } = request;
    let (method, kind, path) = match ApplyMode::try_from(mode) {
        Ok(ApplyMode::Create) => {
            let kind = kind_of(&kind)?;
            if !id.is_empty() {
                return Err(ApiError::invalid(
                    "id",
                    "is given in body_json, where a new one's is chosen; leave it out",
                ));
            }
            let path = collection_path(kind, given(parent_id).as_deref(), "parent_id")?;
            (Method::POST, kind, path)
        }
        Ok(mode @ (ApplyMode::Replace | ApplyMode::Patch)) => {
            if !parent_id.is_empty() {
                return Err(ApiError::invalid("parent_id", "is for new ones; leave it out"));
            }
            let (kind, path) = item(&kind, &id)?;
            (if mode == ApplyMode::Patch { Method::PATCH } else { Method::PUT }, kind, path)
        }
        Ok(ApplyMode::Unspecified) | Err(_) => {
            let problem = "must be APPLY_MODE_CREATE, APPLY_MODE_REPLACE or APPLY_MODE_PATCH";
            return Err(ApiError::invalid("mode", problem));
        }
    };
    let mut asked = Asked::with_body(method, path, body_json);
    asked.meant_for(&if_match)?;
    asked.waits(wait.as_ref())?;
    Ok((kind, asked))
}

pub(super) fn get(request: GetRequest) -> Result<(Kind, Asked), ApiError> {
    let (kind, path) = item(&request.kind, &request.id)?;
    let mut asked = Asked::new(Method::GET, path);
    asked.fields(kind, request.fields);
    Ok((kind, asked))
}

pub(super) fn list(request: ListRequest) -> Result<(Kind, Asked), ApiError> {
    let ListRequest {
        kind,
        parent_id,
        parent_kind,
        page_size,
        page_token,
        search,
        status,
        filters,
        sort,
        order,
        fields,
        count,
    } = request;
    let kind = kind_of(&kind)?;
    let mut asked = Asked::new(Method::GET, list_path(kind, &parent_kind, given(parent_id).as_deref())?);
    if page_size > 0 {
        asked.param("limit", page_size.to_string());
    }
    asked.text("cursor", page_token);
    asked.text("search", search);
    asked.text("status", status);
    asked.text("sort", sort);
    match Order::try_from(order) {
        Ok(Order::Unspecified) => {}
        Ok(Order::Ascending) => asked.param("order", "asc"),
        Ok(Order::Descending) => asked.param("order", "desc"),
        Err(_) => return Err(ApiError::invalid("order", "must be ORDER_ASCENDING or ORDER_DESCENDING")),
    }
    asked.fields(kind, fields);
    if count {
        asked.param(COUNT, "true");
    }
    for (name, value) in filters {
        asked.param(&name, value);
    }
    Ok((kind, asked))
}

pub(super) fn delete(request: &DeleteRequest) -> Result<Asked, ApiError> {
    let (_, path) = item(&request.kind, &request.id)?;
    let mut asked = Asked::new(Method::DELETE, path);
    asked.meant_for(&request.if_match)?;
    asked.waits(request.wait.as_ref())?;
    Ok(asked)
}

pub(super) fn watch(request: WatchRequest) -> Asked {
    let WatchRequest { since_revision, kinds, tenant_id, brand_id } = request;
    let mut asked = Asked::new(Method::GET, format!("{BASE}/events"));
    if let Some(since) = since_revision {
        asked.param(SINCE, since.to_string());
    }
    asked.names("kind", &kinds);
    asked.text("tenant_id", tenant_id);
    asked.text("brand_id", brand_id);
    asked
}
