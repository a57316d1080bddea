//! From an HTTP request to a checked call, and from its outcome to an answer.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use hosting_jobs::Bell;
use hosting_jobs::kinds::callback::CallbackRules;
use hosting_planner::World;
use hosting_resource::Kind;
use hosting_scaffold::http::ClientAddress;
use hosting_store::Store;
use prometheus_client::registry::Registry;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::audit::{Refusals, entry};
use crate::auth::{Admitted, Principal, authenticate, presented};
use crate::browsers::open_to;
use crate::compression::compressed;
use crate::config::ApiConfig;
use crate::confirm::ConfirmRules;
use crate::events::Events;
use crate::fallback::Looked;
use crate::key_uses::KeyUses;
use crate::metrics::HttpMetrics;
use crate::openapi::{self, Schemas};
use crate::preconditions::Preconditions;
use crate::query::{Query, SINCE};
use crate::rate_limit::{RateLimiters, StandingCell};
pub(crate) use crate::reply::Reply;
use crate::request::{self, param};
use crate::route::{BASE, Op, Route, Shape, table};
use crate::turns::{HeldTurn, Turn, Turns};
use crate::unserved::unserved;
use crate::wait::{Waiting, WaitingPlace};
use crate::{ApiError, Platform};

/// Longest id or name in a path, in bytes: nothing stored is longer.
pub(crate) const MAX_PARAM: usize = 1024;
/// A body of more bytes, or one that describes more resources, is worked on in the key's turn.
pub(crate) const LARGE: (usize, usize) = (64 * 1024, 50);
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
    watching: Arc<Waiting>,
    events: Arc<Events>,
    key_uses: KeyUses,
    turns: Arc<Turns>,
    refusals: Refusals,
    limiters: RateLimiters,
    ready: tokio::sync::Mutex<Option<Looked>>,
    routes: Vec<Arc<Route>>,
    /// Resolved schemas of bodies and views, for redaction.
    schemas: Map<String, Value>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("config", &self.0.config).finish_non_exhaustive()
    }
}

/// With which key is asked, and from where.
#[derive(Clone)]
pub(crate) struct Caller {
    key: Zeroizing<String>,
    from: Option<IpAddr>,
}

impl Caller {
    fn of(request: &Parts) -> Result<Self, ApiError> {
        let from = request.extensions.get::<ClientAddress>().map(|client| client.0);
        Ok(Self { key: presented(&request.headers)?.to_owned().into(), from })
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
    /// The body with hashes in the place of passwords, once it was looked at; `None`: it has none.
    pub(crate) hashed: OnceLock<Option<Map<String, Value>>>,
    /// The body of a bulk as it came; empty for all others.
    pub(crate) raw: Bytes,
    pub(crate) conditions: Preconditions,
    /// How long to wait for the fleet.
    pub(crate) wait: Option<Duration>,
    pub(crate) traceparent: String,
    /// Where to tell that the change is complete: a URL that the operator's rules allow.
    pub(crate) callback: Option<String>,
    /// Whoever asks with it again gets the same answer.
    pub(crate) idempotency_key: Option<String>,
    /// Who asked, as far as it can be looked at again.
    pub(crate) caller: Caller,
    /// Held by a large request until it is written.
    pub(crate) turn: Mutex<Option<Turn>>,
    /// It is an item of a bulk: what a body names and the caller may not touch is as if it were not there.
    pub(crate) is_item: bool,
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
        Self(Arc::new(Inner {
            platform,
            metrics: HttpMetrics::register(registry),
            waiting: Arc::new(Waiting::new(config.max_waiting)),
            watching: Arc::new(Waiting::new(config.max_watching)),
            events: Arc::new(Events::new(&store)),
            key_uses: KeyUses::default(),
            turns: Arc::new(Turns::new(IN_LINE)),
            refusals: Refusals::new(config.refusal_rows, config.refusal_window),
            limiters: RateLimiters::new(config.rate_limits),
            ready: tokio::sync::Mutex::default(),
            routes: routes.into_iter().map(Arc::new).collect(),
            schemas: schemas.finish(),
            config,
            store,
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

    pub(crate) fn confirm_rules(&self) -> ConfirmRules {
        self.0.config.confirm
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

    pub(crate) fn events(&self) -> &Arc<Events> {
        &self.0.events
    }

    /// What goes on beside requests, until `stop`: what is committed is followed for those who watch, and when keys were used is written.
    pub async fn attend(self, stop: CancellationToken) {
        let (store, every) = (&self.0.store, self.0.config.key_uses_every);
        let follow = self.0.events.follow(store, stop.clone());
        tokio::join!(follow, self.0.key_uses.keep(store, every, stop));
    }

    /// How often a stream shows that it stands, and looks at its key.
    pub(crate) fn heartbeat(&self) -> Duration {
        self.0.config.heartbeat
    }

    /// A place among those that watch.
    pub(crate) fn watching_place(&self, principal: &Principal) -> Result<WaitingPlace, ApiError> {
        self.0.watching.enter(&principal.key_id).ok_or_else(|| {
            ApiError::unavailable(
                "too many watch already, with this key or in all; filter in one stream for several",
            )
        })
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

    /// All routes: those of the table, the gRPC services, those that are not served yet, `/docs`, `/healthz` and `/readyz`. Anything else is 404,
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
        let api = self.clone();
        router = router
            .route(
                "/docs/openapi.json",
                axum::routing::get(|| async {
                    ([(header::CONTENT_TYPE, "application/json")], openapi::DOCUMENT.as_str())
                }),
            )
            .route("/docs", axum::routing::get(|| async { Html(openapi::PAGE.as_str()) }))
            .route("/healthz", axum::routing::get(|| async { axum::Json(json!({"status": "ok"})) }))
            .route("/readyz", axum::routing::get(move || async move { api.readiness().await }));
        let (missing, wrong) = (self.clone(), self.clone());
        let router = router
            .fallback(
                move |request: Request| async move { missing.answer(Target::Nothing, None, request).await },
            )
            .method_not_allowed_fallback(move |request: Request| async move {
                wrong.answer(Target::WrongMethod, None, request).await
            });
        let grpc = self.grpc_routes(&router);
        open_to(compressed(router.merge(grpc)), &self.0.config.origins)
    }

    pub(crate) async fn serve(
        &self,
        route: Arc<Route>,
        params: Option<RawPathParams>,
        request: Request,
        traceparent: &str,
    ) -> Result<Response, ApiError> {
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
                return Err(error);
            }
        };
        let id = param(params.as_ref(), 0);
        let sound = self.read_call(&route, &principal, &parts, id.clone(), body).await;
        let path = parts.uri.path().to_owned();
        let (outcome, body) = match sound {
            Err(error) => (Err(error.into()), None),
            Ok(sound) => {
                let is_kept = !matches!(route.request, Shape::Empty) && route.op != Op::Bulk;
                let kept = is_kept.then(|| self.redacted(&route, &sound.body));
                let conditions = sound.conditions.clone();
                let call = Call {
                    route: Arc::clone(&route),
                    principal: principal.clone(),
                    id: id.clone(),
                    part: param(params.as_ref(), 1),
                    query: sound.query,
                    body: sound.body,
                    hashed: OnceLock::new(),
                    raw: sound.raw,
                    conditions: sound.conditions,
                    wait: sound.wait,
                    traceparent: traceparent.to_owned(),
                    callback: sound.callback,
                    idempotency_key: sound.idempotency_key,
                    caller: sound.caller,
                    turn: Mutex::new(sound.turn),
                    is_item: false,
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
            Ok(reply) => Ok(reply.into_response()),
            Err(Failure { error, audited }) => {
                if !audited && route.is_mutating() {
                    let row = entry(&route, &path, Some(&id), body, error.status.as_u16());
                    self.audit_refusal(&principal, traceparent, row).await;
                }
                Err(error)
            }
        }
    }

    /// Who calls, within the key's rate.
    pub(crate) async fn caller(&self, request: &Parts) -> Result<Principal, ApiError> {
        if let Some(Admitted(principal)) = request.extensions.get() {
            return Ok(principal.clone());
        }
        let caller = Caller::of(request)?;
        if let Some(from) = caller.from {
            self.0.limiters.present(&caller.key, from)?;
        }
        let principal = self.still(&caller).await?;
        self.0.limiters.remember(&caller.key);
        self.0.key_uses.note(&principal.key_id, self.store().now());
        let is_read = matches!(request.method, Method::GET | Method::HEAD);
        self.0.limiters.take(&principal.key_id, is_read, request.extensions.get::<StandingCell>())?;
        Ok(principal)
    }

    /// Whom a caller's key stands for now.
    pub(crate) async fn still(&self, caller: &Caller) -> Result<Principal, ApiError> {
        let mut tx = self.store().read().await?;
        authenticate(&caller.key, caller.from, self.store().now(), &mut tx).await
    }

    /// Who calls, and whether the route is theirs. The caller is told apart from a stranger even when refused.
    async fn admit(
        &self,
        route: &Route,
        request: &Parts,
    ) -> Result<Principal, (Option<Principal>, ApiError)> {
        let principal = self.caller(request).await.map_err(|error| (None, error))?;
        match principal.may_call(route) {
            Ok(()) => Ok(principal),
            Err(error) => Err((Some(principal), error)),
        }
    }

    async fn read_call(
        &self,
        route: &Route,
        principal: &Principal,
        request: &Parts,
        id: String,
        body: Body,
    ) -> Result<Sound, ApiError> {
        let headers = &request.headers;
        check_id(&id)?;
        let mut query = Query::read(request.uri.query().unwrap_or_default(), &route.params)?;
        if let Some(last) = headers.get("last-event-id")
            && route.params.iter().any(|param| param.name == SINCE)
        {
            query.go_on_from(last.to_str().unwrap_or_default())?;
        }
        let wait = match query.text("wait") {
            Some(_) => Some(self.wait_timeout(&query, self.0.config.default_wait)?),
            None => None,
        };
        let conditions = Preconditions::read(headers)?;
        let callback = request::callback_url(route, headers, &self.0.config.callbacks)?;
        let idempotency_key = request::idempotency_key(route, headers)?;
        let (body, raw, turn) = match route.request {
            Shape::Empty => (Map::new(), Bytes::new(), None),
            Shape::Create(_) | Shape::Update(_) | Shape::View(_) | Shape::Page(_) | Shape::Named(_) => {
                self.read_body(route, principal, request, body).await?
            }
        };
        let caller = Caller::of(request)?;
        Ok(Sound { query, body, raw, conditions, wait, callback, idempotency_key, caller, turn })
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
        request: &Parts,
        body: Body,
    ) -> Result<(Map<String, Value>, Bytes, Option<Turn>), ApiError> {
        let headers = &request.headers;
        let is_bulk = route.op == Op::Bulk;
        let limit = if is_bulk { self.bulk_body_limit() } else { self.body_limit() };
        let mut turn = HeldTurn::of(&request.extensions);
        if is_bulk && turn.is_none() && request::declared_length(headers).is_none_or(|bytes| bytes > LARGE.0)
        {
            // Those in line do not hold what they carry.
            turn = Some(self.turn(principal).await?);
        }
        let bytes = self.within_body_timeout(request::read_all(body, limit)).await?;
        if bytes.is_empty() && route.body_optional {
            return Ok((Map::new(), Bytes::new(), None));
        }
        if !bytes.is_empty() {
            request::check_media_type(headers)?;
        }
        if turn.is_none() && bytes.len() > LARGE.0 {
            turn = Some(self.turn(principal).await?);
        }
        if is_bulk {
            return Ok((request::digest_of(&bytes), bytes, turn));
        }
        let fields = request::parse(bytes).await?;
        if turn.is_none() && described(&fields) > LARGE.1 {
            turn = Some(self.turn(principal).await?);
        }
        Ok((fields, Bytes::new(), turn))
    }

    /// The key's turn for a call that turned out to be large.
    pub(crate) async fn take_turn(&self, call: &Call) -> Result<(), ApiError> {
        let has_one = call.turn.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if !has_one {
            let turn = self.turn(&call.principal).await?;
            *call.turn.lock().unwrap_or_else(PoisonError::into_inner) = Some(turn);
        }
        Ok(())
    }

    /// Reads a body in the time that it may take to arrive.
    pub(crate) async fn within_body_timeout(
        &self,
        whole: impl Future<Output = Result<Bytes, ApiError>>,
    ) -> Result<Bytes, ApiError> {
        let limit = self.0.config.body_timeout;
        tokio::time::timeout(limit, whole).await.unwrap_or_else(|_| {
            let message = format!("the body did not arrive within {} s", limit.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
        })
    }

    /// Largest body of a bulk, in bytes.
    pub(crate) fn bulk_body_limit(&self) -> usize {
        self.0.config.bulk_body_limit
    }

    /// Largest body of a single change, in bytes.
    pub(crate) fn body_limit(&self) -> usize {
        self.0.config.body_limit
    }

    pub(crate) async fn turn(&self, principal: &Principal) -> Result<Turn, ApiError> {
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
            Op::Receipt(kind) => Ok(self.receipt(&call, kind).await?),
            Op::Ask(ask) => Ok((ask.answer)(self, &call).await?),
            Op::History(kind) => Ok(self.history_of(&call, kind).await?),
            Op::Bulk => self.bulk(call, path).await,
            Op::Create(_)
            | Op::CreateBy(..)
            | Op::Update(_)
            | Op::Delete(_)
            | Op::Retry(_)
            | Op::Undelete(_)
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
    raw: Bytes,
    conditions: Preconditions,
    wait: Option<Duration>,
    callback: Option<String>,
    idempotency_key: Option<String>,
    caller: Caller,
    turn: Option<Turn>,
}

/// What a request is for.
pub(crate) enum Target {
    Served(Arc<Route>),
    /// The path of a route that is not served yet.
    Unserved(&'static str),
    /// A path that does not take the method.
    WrongMethod,
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

/// Refuses what no id is.
pub(crate) fn check_id(id: &str) -> Result<(), ApiError> {
    if id.len() > MAX_PARAM || id.chars().any(char::is_control) {
        return Err(ApiError::not_found("there is no resource with such an id"));
    }
    Ok(())
}

/// A resource in messages.
pub(crate) fn named(resource: &hosting_resource::Resource) -> String {
    format!("{} {}", resource.kind, resource.id)
}

/// A serialisable answer.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> Result<Value, ApiError> {
    serde_json::to_value(value).map_err(|error| ApiError::internal(&error))
}
