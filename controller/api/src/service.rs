//! From an HTTP request to a checked call, and from its outcome to an answer.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use futures::FutureExt;
use hosting_planner::World;
use hosting_resource::{Kind, Tier};
use hosting_scaffold::telemetry::{current_traceparent, set_remote_parent};
use hosting_store::{AuditEntry, Origin, Store};
use prometheus_client::registry::Registry;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::auth::{Principal, authenticate};
use crate::metrics::HttpMetrics;
use crate::openapi::{self, Schemas};
use crate::redact::redact;
use crate::route::{Op, Route, Shape, table};
use crate::wait::{Waiting, WaitingPlace};
use crate::{ApiError, Platform};

/// Longest id or name in a path, in bytes: nothing stored is longer.
const MAX_PARAM: usize = 1024;

/// How the API behaves.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Largest request body in bytes.
    pub body_limit: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// `?wait=ready` without `wait_timeout`.
    pub default_wait: Duration,
    /// The longest `wait_timeout`.
    pub max_wait: Duration,
    /// Requests that may wait at a time, an eighth of them with one key; more are told to come back.
    pub max_waiting: usize,
    /// Cancelled when the process drains: waiting requests are answered with what is known then.
    pub stop: CancellationToken,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            body_limit: 1024 * 1024,
            body_timeout: Duration::from_secs(30),
            default_wait: Duration::from_secs(30),
            max_wait: Duration::from_secs(300),
            max_waiting: 1024,
            stop: CancellationToken::new(),
        }
    }
}

/// The API. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    store: Store,
    platform: Arc<dyn Platform>,
    config: ApiConfig,
    metrics: HttpMetrics,
    waiting: Arc<Waiting>,
    routes: Vec<Arc<Route>>,
    /// Resolved request schemas, for redaction.
    schemas: Map<String, Value>,
    openapi: String,
    page: String,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("config", &self.0.config).finish_non_exhaustive()
    }
}

/// A request that may go on: known caller, sound path, query and body.
pub(crate) struct Call {
    pub(crate) route: Arc<Route>,
    pub(crate) principal: Principal,
    /// The path's parameter; empty when it has none.
    pub(crate) id: String,
    pub(crate) query: BTreeMap<String, String>,
    /// Empty when the route takes none.
    pub(crate) body: Map<String, Value>,
    /// Of `If-Match`.
    pub(crate) generation: Option<u64>,
    /// How long to wait for the fleet.
    pub(crate) wait: Option<Duration>,
    pub(crate) traceparent: String,
    pub(crate) callback: bool,
}

/// A success.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Option<Value>,
    pub(crate) revision: Option<u64>,
    pub(crate) generation: Option<u64>,
    pub(crate) retry_after: Option<u32>,
}

impl Reply {
    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::OK),
            body: Some(body),
            revision: None,
            generation: None,
            retry_after: None,
        }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = match self.body {
            Some(body) => (self.status, axum::Json(body)).into_response(),
            None => self.status.into_response(),
        };
        let headers = response.headers_mut();
        if let Some(revision) = self.revision {
            headers.insert("x-revision", HeaderValue::from(revision));
        }
        if let Some(generation) = self.generation
            && let Ok(tag) = HeaderValue::from_str(&format!("\"{generation}\""))
        {
            headers.insert(header::ETAG, tag);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl Api {
    /// An API over a store and the running controller; its metrics go into `registry`.
    #[must_use]
    pub fn new(
        store: Store,
        platform: Arc<dyn Platform>,
        config: ApiConfig,
        registry: &mut Registry,
    ) -> Self {
        let routes = table();
        let mut schemas = Schemas::new();
        for route in &routes {
            schemas.refer(route.request);
        }
        let openapi = openapi::document(&routes).to_string();
        let page = openapi::page(&routes);
        Self(Arc::new(Inner {
            store,
            platform,
            metrics: HttpMetrics::register(registry),
            waiting: Arc::new(Waiting::new(config.max_waiting)),
            routes: routes.into_iter().map(Arc::new).collect(),
            schemas: schemas.finish(),
            openapi,
            page,
            config,
        }))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn platform(&self) -> &dyn Platform {
        self.0.platform.as_ref()
    }

    pub(crate) fn stopping(&self) -> CancellationToken {
        self.0.config.stop.clone()
    }

    pub(crate) fn max_wait(&self) -> Duration {
        self.0.config.max_wait
    }

    /// A place among those that wait.
    pub(crate) fn waiting_place(&self, principal: &Principal) -> Result<WaitingPlace, ApiError> {
        self.0.waiting.enter(&principal.key_id).ok_or_else(|| {
            ApiError::unavailable(
                "too many requests are waiting, with this key or in all; retry, or ask without ?wait=ready and poll",
            )
        })
    }

    /// How many requests wait.
    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting.count()
    }

    /// All routes: those of the table, `/docs`, `/healthz` and `/readyz`. Anything else is 404, another method 405.
    pub fn router(&self) -> Router {
        let mut router = Router::new();
        for route in &self.0.routes {
            let Ok(filter) = MethodFilter::try_from(route.method.clone()) else { continue };
            let (api, this) = (self.clone(), Arc::clone(route));
            let handler = move |params: Result<RawPathParams, RawPathParamsRejection>, request: Request| {
                let (api, route) = (api.clone(), Arc::clone(&this));
                async move { api.answer(Some(route), params.ok(), request).await }
            };
            router = router.route(&route.full_path(), on(filter, handler));
        }
        let document = self.0.openapi.clone();
        let page = self.0.page.clone();
        let api = self.clone();
        router = router
            .route(
                "/docs/openapi.json",
                axum::routing::get(move || async move {
                    ([(header::CONTENT_TYPE, "application/json")], document)
                }),
            )
            .route("/docs", axum::routing::get(move || async move { Html(page) }))
            .route("/healthz", axum::routing::get(|| async { axum::Json(json!({"status": "ok"})) }))
            .route("/readyz", axum::routing::get(move || async move { api.readiness().await }));
        let (missing, wrong) = (self.clone(), self.clone());
        router
            .fallback(move |request: Request| async move { missing.answer(None, None, request).await })
            .method_not_allowed_fallback(move |request: Request| async move { wrong.wrong_method(&request) })
    }

    /// `{"core_db": "ok"}`, 503 when the store cannot be read within 3 s.
    async fn readiness(&self) -> Response {
        let read = tokio::time::timeout(Duration::from_secs(3), self.store().read()).await;
        let (status, text) = match read {
            Ok(Ok(_)) => (StatusCode::OK, "ok".to_owned()),
            Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the store did not answer within 3 s".to_owned()),
        };
        (status, axum::Json(json!({"core_db": text}))).into_response()
    }

    fn wrong_method(&self, request: &Request) -> Response {
        let response = ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{} is not allowed here; see /docs for the methods of this path", request.method()),
        )
        .into_response();
        self.0.metrics.answered(request.method().as_str(), "unmatched", 405, Duration::ZERO);
        response
    }

    /// One request, with everything around it: request id, trace, metrics, one log line.
    async fn answer(
        &self,
        route: Option<Arc<Route>>,
        params: Option<RawPathParams>,
        request: Request,
    ) -> Response {
        let begun = Instant::now();
        let method = request.method().clone();
        let path = route.as_ref().map_or_else(|| "unmatched".to_owned(), |route| route.full_path());
        let request_id = request_id(request.headers());
        let given =
            request.headers().get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let given = if is_traceparent(given) { given.to_owned() } else { String::new() };
        let span = tracing::info_span!("request", %method, path = %path, %request_id);
        set_remote_parent(&span, &given);
        let mut response = async {
            let traceparent = Some(current_traceparent()).filter(|own| !own.is_empty());
            let traceparent = traceparent.unwrap_or_else(|| child_of(&given));
            let response = match route {
                Some(route) => {
                    let served = AssertUnwindSafe(self.serve(route, params, request, &traceparent));
                    served.catch_unwind().await.unwrap_or_else(|panic| {
                        let cause = panic.downcast_ref::<&str>().copied().unwrap_or("a panic");
                        ApiError::internal(&cause).into_response()
                    })
                }
                None => ApiError::not_found("there is no such path; see /docs").into_response(),
            };
            let took = begun.elapsed();
            tracing::info!(
                status = response.status().as_u16(),
                took_ms = took.as_secs_f64() * 1000.0,
                "answered"
            );
            self.0.metrics.answered(method.as_str(), &path, response.status().as_u16(), took);
            (response, traceparent)
        }
        .instrument(span)
        .await;
        for (name, value) in [("x-request-id", request_id), ("traceparent", response.1)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.0.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        response.0
    }

    async fn serve(
        &self,
        route: Arc<Route>,
        params: Option<RawPathParams>,
        request: Request,
        traceparent: &str,
    ) -> Response {
        let (parts, body) = request.into_parts();
        let principal = match self.admit(&route, &parts.headers).await {
            Ok(principal) => principal,
            Err((principal, error)) => {
                // Strangers write no rows: they could fill the disk.
                if let Some(principal) = principal {
                    let id = params.as_ref().map(first).unwrap_or_default();
                    self.audit_refusal(
                        &route,
                        &principal,
                        parts.uri.path(),
                        &id,
                        None,
                        traceparent,
                        error.status,
                    )
                    .await;
                }
                return error.into_response();
            }
        };
        let id = params.as_ref().map(first).unwrap_or_default();
        let read = self.read_call(&route, &parts.headers, parts.uri.query(), id.clone(), body).await;
        let path = parts.uri.path().to_owned();
        let (outcome, body) = match read {
            Err(error) => (Err(error), None),
            Ok(sound) => {
                let kept = Value::Object(sound.body.clone());
                let call = Call {
                    route: Arc::clone(&route),
                    principal: principal.clone(),
                    id: id.clone(),
                    query: sound.query,
                    body: sound.body,
                    generation: sound.generation,
                    wait: sound.wait,
                    traceparent: traceparent.to_owned(),
                    callback: parts.headers.contains_key("x-callback-url"),
                };
                let kept = (route.request != Shape::Empty).then(|| self.redacted(&route, &kept));
                (self.dispatch(call, &path, kept.clone()).await, kept)
            }
        };
        match outcome {
            Ok(reply) => reply.into_response(),
            Err(Failure { error, audited }) => {
                if !audited {
                    self.audit_refusal(&route, &principal, &path, &id, body, traceparent, error.status).await;
                }
                error.into_response()
            }
        }
    }

    /// Who calls, and whether the route is theirs. The caller is told apart from a stranger even when refused.
    async fn admit(
        &self,
        route: &Route,
        headers: &HeaderMap,
    ) -> Result<Principal, (Option<Principal>, ApiError)> {
        let principal = async {
            let mut tx = self.store().read().await?;
            authenticate(headers, &mut tx).await
        }
        .await
        .map_err(|error| (None, error))?;
        let allowed = match route.scope {
            Some(scope) => principal.require(scope),
            None => Ok(()),
        };
        let allowed = allowed.and_then(|()| match route.tier {
            Tier::Admin => principal.require_admin(),
            Tier::Brand => Ok(()),
        });
        match allowed {
            Ok(()) => Ok(principal),
            Err(error) => Err((Some(principal), error)),
        }
    }

    async fn read_call(
        &self,
        route: &Route,
        headers: &HeaderMap,
        query: Option<&str>,
        id: String,
        body: Body,
    ) -> Result<Sound, Failure> {
        if id.len() > MAX_PARAM || id.chars().any(char::is_control) {
            return Err(ApiError::not_found("there is no resource with such an id").into());
        }
        let query = parse_query(query.unwrap_or_default())?;
        let wait = if route.is_mutating() { self.wait_of(&query)? } else { None };
        let generation = match headers.get(header::IF_MATCH) {
            Some(value) if route.is_mutating() => generation_of(value)?,
            Some(_) | None => None,
        };
        let body = match route.request {
            Shape::Empty => Map::new(),
            Shape::Create(_) | Shape::Update(_) | Shape::View(_) | Shape::Page(_) | Shape::Named(_) => {
                self.read_body(body).await?
            }
        };
        Ok(Sound { query, body, generation, wait })
    }

    fn wait_of(&self, query: &BTreeMap<String, String>) -> Result<Option<Duration>, ApiError> {
        match query.get("wait").map(String::as_str) {
            None | Some("") => Ok(None),
            Some("ready") => self.wait_timeout(query, self.0.config.default_wait).map(Some),
            Some(_) => Err(ApiError::invalid("wait", "must be ready")),
        }
    }

    /// `?wait_timeout=` in seconds.
    pub(crate) fn wait_timeout(
        &self,
        query: &BTreeMap<String, String>,
        default: Duration,
    ) -> Result<Duration, ApiError> {
        let Some(text) = query.get("wait_timeout") else { return Ok(default) };
        let max = self.0.config.max_wait.as_secs();
        text.trim_end_matches('s')
            .parse::<u64>()
            .ok()
            .filter(|seconds| (1..=max).contains(seconds))
            .map(Duration::from_secs)
            .ok_or_else(|| ApiError::invalid("wait_timeout", format!("must be 1 to {max} seconds")))
    }

    async fn read_body(&self, body: Body) -> Result<Map<String, Value>, ApiError> {
        let limit = self.0.config.body_limit;
        let whole = tokio::time::timeout(self.0.config.body_timeout, axum::body::to_bytes(body, limit));
        let whole = whole.await.map_err(|_| {
            let seconds = self.0.config.body_timeout.as_secs();
            ApiError::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive within {seconds} s"))
        })?;
        let bytes = whole.map_err(|error| {
            let over = std::error::Error::source(&error)
                .is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>());
            if over {
                ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes"))
            } else {
                ApiError::new(StatusCode::BAD_REQUEST, "the body could not be read to its end")
            }
        })?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => Ok(fields),
            Ok(_) => Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid JSON: the body must be an object")),
            Err(error) => Err(ApiError::new(StatusCode::BAD_REQUEST, format!("invalid JSON: {error}"))),
        }
    }

    async fn dispatch(&self, call: Call, path: &str, kept: Option<Value>) -> Result<Reply, Failure> {
        match call.route.op {
            Op::List(kind) => Ok(self.list(&call, kind, None).await?),
            Op::ListBy(kind, by) => Ok(self.list(&call, kind, Some(by)).await?),
            Op::Get(kind) => Ok(self.get(&call, kind).await?),
            Op::Summary => Ok(self.summary(&call).await?),
            Op::BrandClusters => Ok(self.brand_clusters(&call).await?),
            Op::Runtimes => Ok(self.runtimes(&call).await?),
            Op::AuditLogs => Ok(self.audit_logs(&call).await?),
            Op::Stats => Ok(self.stats().await?),
            Op::Search => Ok(self.search(&call).await?),
            Op::Await => Ok(self.await_workflow(&call).await?),
            Op::Subscribers => Ok(self.subscribers().await?),
            Op::Explain => {
                let explanation = self.explain(&call.principal, &call.id).await?;
                Ok(Reply::json(200, to_json(&explanation)?))
            }
            Op::Create(_)
            | Op::Update(_)
            | Op::Delete(_)
            | Op::Retry(_)
            | Op::Suspend
            | Op::Unsuspend
            | Op::RetryFailed
            | Op::Converge
            | Op::SetBrandClusters
            | Op::AddRuntime
            | Op::RemoveRuntime
            | Op::JoinToken
            | Op::Forget
            | Op::Release => self.change(call, path, kept).await,
        }
    }

    /// A request body as audit rows keep it.
    fn redacted(&self, route: &Route, body: &Value) -> Value {
        let name = openapi::name_of(route.request).unwrap_or_default();
        within_bounds(redact(body, self.0.schemas.get(&name).unwrap_or(&Value::Null), &self.0.schemas))
    }

    /// The audit row of a request that changed nothing. A store that cannot write it is in the log.
    #[expect(clippy::too_many_arguments, reason = "the parts of one row")]
    async fn audit_refusal(
        &self,
        route: &Route,
        principal: &Principal,
        path: &str,
        id: &str,
        body: Option<Value>,
        traceparent: &str,
        status: StatusCode,
    ) {
        if !route.is_mutating() {
            return;
        }
        let entry = audit_entry(route, path, Some(id), body, status.as_u16());
        let origin = Origin {
            traceparent: traceparent.to_owned(),
            actor: Some(principal.key_id.clone()),
            admin: principal.is_admin(),
        };
        if let Err(error) = self.store().audit(origin, entry).await {
            tracing::error!(%error, %path, "an audit row could not be written");
        }
    }
}

/// Largest body that an audit row keeps, in bytes of JSON: callers could fill the disk with refused requests.
const MAX_AUDITED: usize = 16 * 1024;

/// The body, or how large it was.
fn within_bounds(body: Value) -> Value {
    let bytes = body.to_string().len();
    if bytes <= MAX_AUDITED { body } else { json!({"not_kept": format!("{bytes} bytes of JSON")}) }
}

/// An audit row.
pub(crate) fn audit_entry(
    route: &Route,
    path: &str,
    id: Option<&str>,
    body: Option<Value>,
    status: u16,
) -> AuditEntry {
    AuditEntry {
        method: route.method.to_string(),
        path: path.chars().take(MAX_PARAM).collect(),
        resource_type: route.group().to_owned(),
        resource_id: id.filter(|id| !id.is_empty()).map(str::to_owned),
        status_code: status,
        body,
    }
}

/// A failed call, and whether its audit row is written already.
pub(crate) struct Failure {
    pub(crate) error: ApiError,
    pub(crate) audited: bool,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self { error, audited: false }
    }
}

struct Sound {
    query: BTreeMap<String, String>,
    body: Map<String, Value>,
    generation: Option<u64>,
    wait: Option<Duration>,
}

impl Call {
    /// A resource named in the path that the caller may touch.
    pub(crate) async fn subject(
        &self,
        world: &mut dyn World,
        kind: Kind,
    ) -> Result<hosting_resource::Resource, ApiError> {
        let resource = find(world, kind, &self.id).await?;
        if kind.info().tier == Tier::Brand {
            self.principal.may_touch(&resource)?;
        }
        Ok(resource)
    }
}

/// A resource of a kind.
pub(crate) async fn find(
    world: &mut dyn World,
    kind: Kind,
    id: &str,
) -> Result<hosting_resource::Resource, ApiError> {
    match world.resource(id).await?.filter(|resource| resource.kind == kind) {
        Some(resource) => Ok(resource),
        None => Err(ApiError::not_found(format!("{} not found", kind.name().replace('_', " ")))),
    }
}

/// A serialisable answer.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> Result<Value, ApiError> {
    serde_json::to_value(value).map_err(|error| ApiError::internal(&error))
}

fn first(params: &RawPathParams) -> String {
    params.iter().next().map(|(_, value)| value.to_owned()).unwrap_or_default()
}

fn parse_query(query: &str) -> Result<BTreeMap<String, String>, ApiError> {
    let uri: http::Uri = format!("/?{query}")
        .parse()
        .map_err(|_| ApiError::new(StatusCode::BAD_REQUEST, "the query is malformed"))?;
    axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri)
        .map(|pairs| pairs.0.into_iter().collect())
        .map_err(|_| ApiError::new(StatusCode::BAD_REQUEST, "the query is malformed"))
}

/// `"7"`, `7` or `W/"7"`; `*` asks for nothing.
fn generation_of(value: &HeaderValue) -> Result<Option<u64>, ApiError> {
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    text.trim_start_matches("W/")
        .trim_matches('"')
        .parse()
        .map(Some)
        .map_err(|_| ApiError::invalid("If-Match", "must be a generation, e.g. \"3\""))
}

/// The caller's, when it is harmless in a log; else a new one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get("x-request-id")
        .and_then(|value| value.to_str().ok())
        .filter(|id| {
            (1..=64).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        })
        .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

/// W3C Trace Context, version 00.
fn is_traceparent(text: &str) -> bool {
    let lower_hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next(), parts.next(), parts.next(), parts.next());
    parts.next().is_none()
        && version == Some("00")
        && trace.is_some_and(|trace| lower_hex(trace, 32) && trace.bytes().any(|b| b != b'0'))
        && span.is_some_and(|span| lower_hex(span, 16) && span.bytes().any(|b| b != b'0'))
        && flags.is_some_and(|flags| lower_hex(flags, 2))
}

/// A traceparent of our own: in the given trace, or in a new one. For when nothing exports spans.
fn child_of(given: &str) -> String {
    let mut random = [0u8; 24];
    rand::fill(&mut random);
    let (new_trace, span) = random.split_at(16);
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    let mut parts = given.split('-').skip(1);
    let trace = parts.next().map_or_else(|| hex(new_trace), str::to_owned);
    let flags = parts.nth(1).unwrap_or("01");
    format!("00-{trace}-{}-{flags}", hex(span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_go_on() {
        let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        assert!(is_traceparent(given));
        let child = child_of(given);
        assert!(is_traceparent(&child), "{child}");
        assert_eq!((&child[..36], &child[52..]), (&given[..36], "-00"));
        assert_ne!(child, given);
        assert!(is_traceparent(&child_of("")));
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }

    #[test]
    fn generations() {
        let of = |text: &str| generation_of(&HeaderValue::from_str(text).unwrap());
        assert_eq!((of("\"3\"").unwrap(), of("3").unwrap(), of("*").unwrap()), (Some(3), Some(3), None));
        assert!(of("three").is_err());
    }

    #[test]
    fn queries() {
        let parsed = parse_query("q=a%20b&limit=5").unwrap();
        assert_eq!((parsed["q"].as_str(), parsed["limit"].as_str()), ("a b", "5"));
        assert!(parse_query("").unwrap().is_empty());
    }
}
