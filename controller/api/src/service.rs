//! From an HTTP request to a checked call, and from its outcome to an answer.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use futures::FutureExt;
use hosting_jobs::Bell;
use hosting_jobs::kinds::callback::CallbackRules;
use hosting_planner::World;
use hosting_resource::{IdPolicy, Kind, Tier, in_brand};
use hosting_scaffold::http::ClientAddress;
use hosting_scaffold::telemetry::{current_traceparent, set_remote_parent};
use hosting_store::Store;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use prometheus_client::registry::Registry;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::audit::{Refusals, entry};
use crate::auth::{Principal, authenticate};
use crate::config::ApiConfig;
use crate::fallback::Looked;
use crate::metrics::HttpMetrics;
use crate::openapi::{self, Schemas};
use crate::query::Query;
use crate::request::{self, Preconditions, REPLAYED, entity_tag, param};
use crate::route::{BASE, Op, Route, Shape, table};
use crate::trace::{child_of, is_traceparent, request_id};
use crate::turns::{Turn, Turns};
use crate::unserved::unserved;
use crate::wait::{Waiting, WaitingPlace};
use crate::{ApiError, Platform};

/// Longest id or name in a path, in bytes: nothing stored is longer.
pub(crate) const MAX_PARAM: usize = 1024;
/// A body of more bytes, or one that describes more resources, is worked on in the key's turn.
const LARGE: (usize, usize) = (64 * 1024, 50);
/// Large requests of a key that may be in line.
const IN_LINE: usize = 64;

/// The API. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    store: Store,
    platform: Arc<dyn Platform>,
    config: ApiConfig,
    metrics: HttpMetrics,
    waiting: Arc<Waiting>,
    turns: Arc<Turns>,
    refusals: Refusals,
    ready: tokio::sync::Mutex<Option<Looked>>,
    routes: Vec<Arc<Route>>,
    /// Resolved schemas of bodies and views, for redaction.
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
    /// Its second one: what is meant of the resource.
    pub(crate) part: String,
    pub(crate) query: Query,
    /// Empty when the route takes none.
    pub(crate) body: Map<String, Value>,
    pub(crate) conditions: Preconditions,
    /// How long to wait for the fleet.
    pub(crate) wait: Option<Duration>,
    pub(crate) traceparent: String,
    /// Where to tell that the change is complete: a URL that the operator's rules allow.
    pub(crate) callback: Option<String>,
    /// Whoever asks with it again gets the same answer.
    pub(crate) idempotency_key: Option<String>,
    /// Held by a large request until it is written.
    turn: Mutex<Option<Turn>>,
}

/// A success.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Option<Value>,
    pub(crate) revision: Option<u64>,
    pub(crate) generation: Option<u64>,
    pub(crate) retry_after: Option<u32>,
    /// Where the resource is that the answer speaks of.
    pub(crate) location: Option<String>,
    /// It is the answer of an earlier request with the same idempotency key.
    pub(crate) replayed: bool,
}

impl Reply {
    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::OK),
            body: Some(body),
            revision: None,
            generation: None,
            retry_after: None,
            location: None,
            replayed: false,
        }
    }

    /// The entity tag of what is shown.
    fn tag(&self) -> Option<String> {
        Some(entity_tag(self.generation?, self.body.as_ref()?))
    }

    /// 304 in the place of what the caller has already (RFC 9110 §15.4.5).
    fn unless_known(self, conditions: &Preconditions) -> Self {
        match self.tag() {
            Some(tag) if self.status == StatusCode::OK && conditions.is_known(&tag) => {
                Self { status: StatusCode::NOT_MODIFIED, ..self }
            }
            Some(_) | None => self,
        }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let tag = self.tag();
        let mut response = match self.body {
            Some(body) if self.status != StatusCode::NOT_MODIFIED => {
                (self.status, axum::Json(body)).into_response()
            }
            Some(_) | None => self.status.into_response(),
        };
        let headers = response.headers_mut();
        if let Some(revision) = self.revision {
            headers.insert("x-revision", HeaderValue::from(revision));
        }
        for (name, value) in [(header::ETAG, tag), (header::LOCATION, self.location)] {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
                headers.insert(name, value);
            }
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.replayed {
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
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
            schemas.refer(route.response);
        }
        let openapi = openapi::document(&routes).to_string();
        let page = openapi::page(&routes);
        Self(Arc::new(Inner {
            store,
            platform,
            metrics: HttpMetrics::register(registry),
            waiting: Arc::new(Waiting::new(config.max_waiting)),
            turns: Arc::new(Turns::new(IN_LINE)),
            refusals: Refusals::new(config.refusal_rows, config.refusal_window),
            ready: tokio::sync::Mutex::default(),
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

    /// Schemas of bodies and views, for redaction.
    pub(crate) fn schemas(&self) -> &Map<String, Value> {
        &self.0.schemas
    }

    pub(crate) fn callback_rules(&self) -> &CallbackRules {
        &self.0.config.callbacks
    }

    pub(crate) fn job_bell(&self) -> &Bell {
        &self.0.config.bell
    }

    pub(crate) fn platform(&self) -> &dyn Platform {
        self.0.platform.as_ref()
    }

    pub(crate) fn stopping(&self) -> CancellationToken {
        self.0.config.stop.clone()
    }

    pub(crate) fn ready(&self) -> &tokio::sync::Mutex<Option<Looked>> {
        &self.0.ready
    }

    pub(crate) fn routes(&self) -> &[Arc<Route>] {
        &self.0.routes
    }

    pub(crate) fn metrics(&self) -> &HttpMetrics {
        &self.0.metrics
    }

    pub(crate) fn refusals(&self) -> &Refusals {
        &self.0.refusals
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

    /// All routes: those of the table, those that are not served yet, `/docs`, `/healthz` and `/readyz`. Anything else is 404,
    /// another method 405.
    pub fn router(&self) -> Router {
        let mut router = Router::new();
        for route in &self.0.routes {
            let Ok(filter) = MethodFilter::try_from(route.method.clone()) else { continue };
            let (api, this) = (self.clone(), Arc::clone(route));
            let handler = move |params: Result<RawPathParams, RawPathParamsRejection>, request: Request| {
                let (api, route) = (api.clone(), Arc::clone(&this));
                async move { api.answer(Target::Served(route), params.ok(), request).await }
            };
            router = router.route(&route.full_path(), on(filter, handler));
        }
        for (method, path) in unserved() {
            let Ok(filter) = MethodFilter::try_from(method) else { continue };
            let api = self.clone();
            let handler = move |request: Request| {
                let api = api.clone();
                async move { api.answer(Target::Unserved(path), None, request).await }
            };
            router = router.route(&format!("{BASE}{path}"), on(filter, handler));
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
            .fallback(
                move |request: Request| async move { missing.answer(Target::Nothing, None, request).await },
            )
            .method_not_allowed_fallback(move |request: Request| async move { wrong.wrong_method(&request) })
    }

    /// One request, with everything around it: request id, trace, metrics, one log line.
    async fn answer(&self, target: Target, params: Option<RawPathParams>, request: Request) -> Response {
        let begun = Instant::now();
        let method = request.method().clone();
        let path = match &target {
            Target::Served(route) => route.full_path(),
            Target::Unserved(path) => format!("{BASE}{path}"),
            Target::Nothing => "unmatched".to_owned(),
        };
        let request_id = request_id(request.headers());
        let given =
            request.headers().get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let given = if is_traceparent(given) { given.to_owned() } else { String::new() };
        let client = request.extensions().get::<ClientAddress>().map(|client| client.0.to_string());
        let span = tracing::info_span!("request", %method, path = %path, %request_id, client);
        set_remote_parent(&span, &given);
        let mut response = async {
            let traceparent = Some(current_traceparent()).filter(|own| !own.is_empty());
            let traceparent = traceparent.unwrap_or_else(|| child_of(&given));
            let response = match target {
                Target::Served(route) => {
                    let served = AssertUnwindSafe(self.serve(route, params, request, &traceparent));
                    served.catch_unwind().await.unwrap_or_else(|panic| {
                        let cause = panic.downcast_ref::<&str>().copied().unwrap_or("a panic");
                        ApiError::internal(&cause).into_response()
                    })
                }
                Target::Unserved(_) => {
                    let (parts, _) = request.into_parts();
                    self.not_served(&parts, &path).await.into_response()
                }
                Target::Nothing => ApiError::not_found("there is no such path; see /docs").into_response(),
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
        let principal = match self.admit(&route, &parts).await {
            Ok(principal) => principal,
            Err((principal, error)) => {
                // Strangers write no rows: they could fill the disk.
                if let Some(principal) = principal.filter(|_| route.is_mutating()) {
                    let id = param(params.as_ref(), 0);
                    let row = entry(&route, parts.uri.path(), Some(&id), None, error.status.as_u16());
                    self.audit_refusal(&principal, traceparent, row).await;
                }
                return error.into_response();
            }
        };
        let id = param(params.as_ref(), 0);
        let sound =
            self.read_call(&route, &principal, &parts.headers, parts.uri.query(), id.clone(), body).await;
        let path = parts.uri.path().to_owned();
        let (outcome, body) = match sound {
            Err(error) => (Err(error.into()), None),
            Ok(sound) => {
                let kept = (route.request != Shape::Empty).then(|| self.redacted(&route, &sound.body));
                let conditions = sound.conditions.clone();
                let call = Call {
                    route: Arc::clone(&route),
                    principal: principal.clone(),
                    id: id.clone(),
                    part: param(params.as_ref(), 1),
                    query: sound.query,
                    body: sound.body,
                    conditions: sound.conditions,
                    wait: sound.wait,
                    traceparent: traceparent.to_owned(),
                    callback: sound.callback,
                    idempotency_key: sound.idempotency_key,
                    turn: Mutex::new(sound.turn),
                };
                let outcome = self.dispatch(call, &path, kept.clone()).await;
                (
                    outcome.map(
                        |reply| if route.is_mutating() { reply } else { reply.unless_known(&conditions) },
                    ),
                    kept,
                )
            }
        };
        match outcome {
            Ok(reply) => reply.into_response(),
            Err(Failure { error, audited }) => {
                if !audited && route.is_mutating() {
                    let row = entry(&route, &path, Some(&id), body, error.status.as_u16());
                    self.audit_refusal(&principal, traceparent, row).await;
                }
                error.into_response()
            }
        }
    }

    /// Who calls.
    pub(crate) async fn caller(&self, request: &Parts) -> Result<Principal, ApiError> {
        let from = request.extensions.get::<ClientAddress>().map(|client| client.0);
        let mut tx = self.store().read().await?;
        authenticate(&request.headers, from, self.store().now(), &mut tx).await
    }

    /// Who calls, and whether the route is theirs. The caller is told apart from a stranger even when refused.
    async fn admit(
        &self,
        route: &Route,
        request: &Parts,
    ) -> Result<Principal, (Option<Principal>, ApiError)> {
        let principal = self.caller(request).await.map_err(|error| (None, error))?;
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
        principal: &Principal,
        headers: &HeaderMap,
        query: Option<&str>,
        id: String,
        body: Body,
    ) -> Result<Sound, ApiError> {
        if id.len() > MAX_PARAM || id.chars().any(char::is_control) {
            return Err(ApiError::not_found("there is no resource with such an id"));
        }
        let query = Query::read(query.unwrap_or_default(), &route.params)?;
        let wait = match query.text("wait") {
            Some(_) => Some(self.wait_timeout(&query, self.0.config.default_wait)?),
            None => None,
        };
        let conditions = Preconditions::read(headers)?;
        let callback = request::callback_url(route, headers, &self.0.config.callbacks)?;
        let idempotency_key = request::idempotency_key(route, headers)?;
        let (body, turn) = match route.request {
            Shape::Empty => (Map::new(), None),
            Shape::Create(_) | Shape::Update(_) | Shape::View(_) | Shape::Page(_) | Shape::Named(_) => {
                self.read_body(route, principal, headers, body).await?
            }
        };
        Ok(Sound { query, body, conditions, wait, callback, idempotency_key, turn })
    }

    /// `?wait_timeout=` in seconds.
    pub(crate) fn wait_timeout(&self, query: &Query, default: Duration) -> Result<Duration, ApiError> {
        let Some(seconds) = query.seconds("wait_timeout") else { return Ok(default) };
        let max = self.0.config.max_wait.as_secs();
        if seconds > max {
            return Err(ApiError::invalid("wait_timeout", format!("must be 1 to {max} seconds")));
        }
        Ok(Duration::from_secs(seconds))
    }

    /// The body, and the key's turn when it is large.
    async fn read_body(
        &self,
        route: &Route,
        principal: &Principal,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<(Map<String, Value>, Option<Turn>), ApiError> {
        let limit = self.0.config.body_limit;
        let whole = tokio::time::timeout(self.0.config.body_timeout, request::read_all(body, limit));
        let bytes = whole.await.map_err(|_| {
            let seconds = self.0.config.body_timeout.as_secs();
            ApiError::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive within {seconds} s"))
        })??;
        if bytes.is_empty() && route.body_optional {
            return Ok((Map::new(), None));
        }
        if !bytes.is_empty() {
            request::check_media_type(headers)?;
        }
        let mut turn = None;
        if bytes.len() > LARGE.0 {
            turn = Some(self.turn(principal).await?);
        }
        let fields = request::parse(bytes).await?;
        if turn.is_none() && described(&fields) > LARGE.1 {
            turn = Some(self.turn(principal).await?);
        }
        Ok((fields, turn))
    }

    async fn turn(&self, principal: &Principal) -> Result<Turn, ApiError> {
        self.0.turns.take(&principal.key_id).await.ok_or_else(|| {
            ApiError::unavailable(
                "too many large requests of this key are in line; send them one after another",
            )
        })
    }

    async fn dispatch(&self, call: Call, path: &str, kept: Option<Value>) -> Result<Reply, Failure> {
        match call.route.op {
            Op::List(kind) => Ok(self.list(&call, kind, None).await?),
            Op::ListBy(kind, by) => Ok(self.list(&call, kind, Some(by)).await?),
            Op::Get(kind) => Ok(self.get(&call, kind).await?),
            Op::Ask(ask) => Ok((ask.answer)(self, &call).await?),
            Op::History(kind) => Ok(self.history_of(&call, kind).await?),
            Op::Create(_)
            | Op::CreateBy(..)
            | Op::Update(_)
            | Op::Delete(_)
            | Op::Retry(_)
            | Op::Act(_)
            | Op::Order(_) => self.change(call, path, kept).await,
        }
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
    query: Query,
    body: Map<String, Value>,
    conditions: Preconditions,
    wait: Option<Duration>,
    callback: Option<String>,
    idempotency_key: Option<String>,
    turn: Option<Turn>,
}

/// What a request is for.
enum Target {
    Served(Arc<Route>),
    /// The path of a route that is not served yet.
    Unserved(&'static str),
    Nothing,
}

/// Objects in the lists of a body, at every depth: what may be resources.
pub(crate) fn described(fields: &Map<String, Value>) -> usize {
    fields
        .values()
        .filter_map(Value::as_array)
        .flatten()
        .filter_map(Value::as_object)
        .map(|nested| 1 + described(nested))
        .sum()
}

impl Call {
    /// The key's next large request may go on.
    pub(crate) fn end_turn(&self) {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// A resource named in the path that the caller may touch.
    pub(crate) async fn subject(
        &self,
        world: &mut dyn World,
        kind: Kind,
    ) -> Result<hosting_resource::Resource, ApiError> {
        let resource = self.named(world, kind, &self.id).await?;
        if kind.info().tier == Tier::Brand {
            self.principal.may_touch(&resource)?;
        }
        Ok(resource)
    }
}

impl Call {
    /// What the caller means by an id.
    pub(crate) async fn named(
        &self,
        world: &mut dyn World,
        kind: Kind,
        id: &str,
    ) -> Result<hosting_resource::Resource, ApiError> {
        if kind.info().id == IdPolicy::Caller {
            self.called(world, kind, id).await
        } else {
            find(world, kind, id).await
        }
    }

    /// What the caller's brand calls `id`, of a kind whose ids are a brand's; a caller of several brands may write `brand~id`.
    async fn called(
        &self,
        world: &mut dyn World,
        kind: Kind,
        id: &str,
    ) -> Result<hosting_resource::Resource, ApiError> {
        let mut found = Vec::new();
        for brand in &self.principal.brands {
            found.extend(world.resource(&in_brand(brand, id)).await?);
        }
        if found.is_empty() {
            found = world.with_facet(kind, "id", id, "", 2).await?;
        }
        // Written with its brand, though an older build kept it under its id alone.
        if let Some((brand, own)) = id.split_once('~')
            && let Some(plain) = world.resource(own).await?
            && plain.brand.as_deref() == Some(brand)
        {
            found.push(plain);
        }
        // Written with its brand, or kept by an older build under this id alone.
        if let Some(whole) = world.resource(id).await?
            && found.iter().all(|other| other.id != whole.id && other.brand != whole.brand)
        {
            found.push(whole);
        }
        found.retain(|found| found.kind == kind);
        if found.len() > 1 && found.iter().any(|one| self.principal.may_touch(one).is_ok()) {
            found.retain(|one| self.principal.may_touch(one).is_ok());
        }
        if let [one, _, ..] = &found[..] {
            return Err(ApiError::conflict(format!(
                "several brands have a {kind} {id:?}: write the brand in front, e.g. {}",
                in_brand(one.brand.as_deref().unwrap_or_default(), id)
            )));
        }
        found.pop().ok_or_else(|| not_found(kind))
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
        None => Err(not_found(kind)),
    }
}

/// There is no such resource of a kind.
pub(crate) fn not_found(kind: Kind) -> ApiError {
    ApiError::not_found(format!("{} not found", kind.name().replace('_', " ")))
}

/// The path of a resource.
pub(crate) fn item_path(kind: Kind, id: &str) -> String {
    const PLAIN: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
    format!("{BASE}{}", kind.info().item.replace("{id}", &utf8_percent_encode(id, PLAIN).to_string()))
}

/// A resource in messages.
pub(crate) fn named(resource: &hosting_resource::Resource) -> String {
    format!("{} {}", resource.kind, resource.id)
}

/// A serialisable answer.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> Result<Value, ApiError> {
    serde_json::to_value(value).map_err(|error| ApiError::internal(&error))
}
