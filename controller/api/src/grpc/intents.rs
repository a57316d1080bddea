//! The service: each call is the REST request that says the same, sent to the router in this process.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Extensions, HeaderMap, HeaderName, Request as HttpRequest, StatusCode, header};
use hosting_proto::intent_api::intents_server::Intents as Service;
use hosting_proto::intent_api::{
    ApplyRequest, ApplyResponse, BulkRequest, BulkResponse, DeleteRequest, DeleteResponse, GetRequest,
    GetResponse, ListRequest, ListResponse, Outcome, PlanRequest, PlanResponse, Resource, Settlement,
    WatchRequest, plan_request,
};
use hosting_resource::Kind;
use hosting_scaffold::http::ClientAddress;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tonic::{Request, Response, Status};
use tower::ServiceExt;

use super::asked::{self, Asked};
use super::bulk;
use super::gate::{Deadline, REQUEST_ID};
use super::status::{status_of, status_of_members};
use super::watch::{self, Events};
use crate::ApiError;
use crate::auth::Admitted;
use crate::bodies::bulk as rest;
use crate::turns::HeldTurn;
use crate::watcher::Handover;

/// Metadata that a call hands on to the request which it becomes.
const HANDED_ON: [&str; 6] =
    ["authorization", "x-api-key", "idempotency-key", "x-callback-url", REQUEST_ID, "traceparent"];
/// Fields of an answer that a call hands back.
const HANDED_BACK: [&str; 1] = ["traceparent"];

/// `hosting.intent_api.v1.Intents`.
pub(super) struct Intents {
    rest: Router,
}

/// Who calls: what of a call is not its message.
struct Calling {
    headers: HeaderMap,
    extensions: Extensions,
    request_id: String,
}

/// An answer of the REST API that is a success, or tells of a change that stands.
struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Calling {
    fn of<T>(request: Request<T>) -> (Self, T) {
        let (metadata, given, message) = request.into_parts();
        let given_headers = metadata.into_headers();
        let mut headers = HeaderMap::new();
        for name in HANDED_ON {
            for value in given_headers.get_all(name) {
                headers.append(HeaderName::from_static(name), value.clone());
            }
        }
        let mut extensions = Extensions::new();
        if let Some(client) = given.get::<ClientAddress>() {
            extensions.insert(*client);
        }
        if let Some(admitted) = given.get::<Admitted>() {
            extensions.insert(admitted.clone());
        }
        if let Some(turn) = given.get::<HeldTurn>() {
            extensions.insert(turn.clone());
        }
        let request_id =
            headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        (Self { headers, extensions, request_id }, message)
    }

    fn refusal(&self, error: &ApiError) -> Status {
        status_of(error, &self.request_id)
    }
}

impl Answered {
    fn read<T: DeserializeOwned>(&self, calling: &Calling) -> Result<T, Status> {
        serde_json::from_slice(&self.body).map_err(|error| calling.refusal(&ApiError::internal(&error)))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn revision(&self) -> u64 {
        self.header("x-revision").and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    fn is_replayed(&self) -> bool {
        self.headers.contains_key("idempotency-replayed")
    }

    /// How waiting ended, if there was any.
    fn settlement(&self, waits: bool, calling: &Calling) -> Result<Option<Settlement>, Status> {
        if !waits {
            return Ok(None);
        }
        let Waited { lagging, not_serving, reasons } = self.read(calling)?;
        let outcome = match self.status {
            StatusCode::CONFLICT => Outcome::Rejected,
            StatusCode::ACCEPTED => Outcome::Late,
            _ => Outcome::Ready,
        };
        Ok(Some(Settlement { outcome: outcome.into(), lagging, not_serving, reasons }))
    }

    fn resource(&self, kind: Kind, calling: &Calling) -> Result<Resource, Status> {
        let text = std::str::from_utf8(&self.body);
        let text = text.map_err(|error| calling.refusal(&ApiError::internal(&error)))?;
        let etag = self.header(header::ETAG.as_str()).unwrap_or_default().to_owned();
        resource_of(kind, text, etag).map_err(|error| calling.refusal(&error))
    }

    fn reply<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        let mut headers = HeaderMap::new();
        for name in HANDED_BACK {
            if let Some(value) = self.headers.get(name) {
                headers.insert(HeaderName::from_static(name), value.clone());
            }
        }
        *response.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
        response
    }
}

/// What of a view stands beside its body.
#[derive(Deserialize)]
struct Beside {
    #[serde(default)]
    id: String,
    #[serde(default)]
    generation: u64,
    #[serde(default)]
    status: Value,
}

fn resource_of(kind: Kind, text: &str, etag: String) -> Result<Resource, ApiError> {
    let beside: Beside = serde_json::from_str(text).map_err(|error| ApiError::internal(&error))?;
    let Beside { id, generation, status } = beside;
    Ok(Resource {
        kind: kind.name().to_owned(),
        id,
        generation,
        etag,
        status: status.as_str().unwrap_or_default().to_owned(),
        body_json: text.to_owned(),
    })
}

#[derive(Deserialize)]
struct Waited {
    #[serde(default)]
    lagging: Vec<String>,
    #[serde(default)]
    not_serving: Vec<String>,
    #[serde(default)]
    reasons: Vec<String>,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Box<RawValue>>,
    #[serde(default)]
    next_cursor: String,
    total: Option<u64>,
    #[serde(default)]
    total_is_lower_bound: bool,
}

#[derive(Deserialize)]
struct Planned {
    resources_total: u64,
    names_total: u64,
    tenants_total: u64,
    destroyed: Vec<Value>,
    later_steps: u64,
}

#[derive(Deserialize)]
struct Many {
    results: Vec<rest::BulkResult>,
    done: u32,
    refused: u32,
}

impl Intents {
    pub(super) const fn new(rest: Router) -> Self {
        Self { rest }
    }

    /// Sends the request that a call means.
    async fn send(&self, calling: &Calling, asked: Asked) -> Result<axum::response::Response, Status> {
        let target = asked.target();
        let Asked { method, mut headers, body, .. } = asked;
        for (name, value) in &calling.headers {
            headers.append(name, value.clone());
        }
        let mut request = HttpRequest::new(Body::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = target.parse().map_err(|_| {
            // Ids are encoded, so that this is a text that no URI can be: too long.
            calling.refusal(&ApiError::new(StatusCode::URI_TOO_LONG, "the ids or filters are too long"))
        })?;
        *request.headers_mut() = headers;
        *request.extensions_mut() = calling.extensions.clone();
        match self.rest.clone().oneshot(request).await {
            Ok(response) => Ok(response),
            Err(never) => match never {},
        }
    }

    async fn ask(&self, calling: &Calling, asked: Result<Asked, ApiError>) -> Result<Answered, Status> {
        let asked = asked.map_err(|error| calling.refusal(&error))?;
        let response = self.send(calling, asked).await?;
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await;
        let body = body.map_err(|error| calling.refusal(&ApiError::internal(&error)))?;
        let answered = Answered { status: parts.status, headers: parts.headers, body };
        // A change that the fleet rejected stands all the same.
        if answered.status.is_success() || answered.headers.contains_key("x-revision") {
            return Ok(answered);
        }
        let members: serde_json::Map<String, Value> = answered.read(calling)?;
        let retry_after = answered.header(header::RETRY_AFTER.as_str()).and_then(|text| text.parse().ok());
        Err(status_of_members(&members, answered.status, retry_after, &calling.request_id))
    }
}

#[tonic::async_trait]
impl Service for Intents {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let (calling, message) = Calling::of(request);
        let (kind, asked) = asked::apply(message).map_err(|error| calling.refusal(&error))?;
        let waits = asked.is_waiting();
        let answered = self.ask(&calling, Ok(asked)).await?;
        Ok(answered.reply(ApplyResponse {
            resource: Some(answered.resource(kind, &calling)?),
            revision: answered.revision(),
            settlement: answered.settlement(waits, &calling)?,
            replayed: answered.is_replayed(),
        }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let (calling, message) = Calling::of(request);
        let (kind, asked) = asked::get(message).map_err(|error| calling.refusal(&error))?;
        let answered = self.ask(&calling, Ok(asked)).await?;
        Ok(answered.reply(GetResponse { resource: Some(answered.resource(kind, &calling)?) }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let (calling, message) = Calling::of(request);
        let (kind, asked) = asked::list(message).map_err(|error| calling.refusal(&error))?;
        let answered = self.ask(&calling, Ok(asked)).await?;
        let Page { items, next_cursor, total, total_is_lower_bound } = answered.read(&calling)?;
        let resources = items.iter().map(|item| resource_of(kind, item.get(), String::new()));
        let resources = resources.collect::<Result<_, _>>().map_err(|error| calling.refusal(&error))?;
        let page = ListResponse { resources, next_page_token: next_cursor, total, total_is_lower_bound };
        Ok(answered.reply(page))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let (calling, message) = Calling::of(request);
        let asked = asked::delete(&message);
        let waits = asked.as_ref().is_ok_and(Asked::is_waiting);
        let answered = self.ask(&calling, asked).await?;
        Ok(answered.reply(DeleteResponse {
            revision: answered.revision(),
            settlement: answered.settlement(waits, &calling)?,
            replayed: answered.is_replayed(),
        }))
    }

    async fn plan(&self, request: Request<PlanRequest>) -> Result<Response<PlanResponse>, Status> {
        let (calling, message) = Calling::of(request);
        let asked = match message.change {
            Some(plan_request::Change::Apply(apply)) => asked::apply(apply).map(|(_, asked)| asked),
            Some(plan_request::Change::Delete(delete)) => asked::delete(&delete),
            Some(plan_request::Change::Bulk(many)) => bulk::asked(many),
            None => Err(ApiError::invalid("change", "is required: apply, delete or bulk")),
        };
        let answered = self.ask(&calling, asked.map(Asked::planned)).await?;
        let Planned { resources_total, names_total, tenants_total, destroyed, later_steps } =
            answered.read(&calling)?;
        Ok(answered.reply(PlanResponse {
            resources_total,
            names_total,
            tenants_total,
            destroyed_total: destroyed.len() as u64,
            later_steps,
            plan_json: String::from_utf8_lossy(&answered.body).into_owned(),
        }))
    }

    async fn bulk(&self, request: Request<BulkRequest>) -> Result<Response<BulkResponse>, Status> {
        let (calling, message) = Calling::of(request);
        let asked = bulk::asked(message);
        let waits = asked.as_ref().is_ok_and(Asked::is_waiting);
        let answered = self.ask(&calling, asked).await?;
        let Many { results, done, refused } = answered.read(&calling)?;
        Ok(answered.reply(BulkResponse {
            results: results.into_iter().map(bulk::result_of).collect(),
            done,
            refused,
            revision: answered.revision(),
            settlement: answered.settlement(waits, &calling)?,
            replayed: answered.is_replayed(),
        }))
    }

    type WatchStream = Events;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Events>, Status> {
        let until = request.extensions().get::<Deadline>().map(|deadline| deadline.0);
        let (calling, message) = Calling::of(request);
        let response = self.send(&calling, asked::watch(message)).await?;
        let (parts, body) = response.into_parts();
        let taken = parts.extensions.get::<Handover>().and_then(Handover::take);
        if let Some(watcher) = taken {
            return Ok(Response::new(watch::events(watcher, until, calling.request_id)));
        }
        let body = axum::body::to_bytes(body, usize::MAX).await;
        let body = body.map_err(|error| calling.refusal(&ApiError::internal(&error)))?;
        let answered = Answered { status: parts.status, headers: parts.headers, body };
        let members: serde_json::Map<String, Value> = answered.read(&calling)?;
        let retry_after = answered.header(header::RETRY_AFTER.as_str()).and_then(|text| text.parse().ok());
        Err(status_of_members(&members, answered.status, retry_after, &calling.request_id))
    }
}
