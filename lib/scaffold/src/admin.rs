//! The admin port: `/metrics`, `/healthz`, `/readyz`, and what a role tells of its things ([`Looks`]). Plain HTTP; bind it to loopback or a management network.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{
        HeaderMap, StatusCode,
        header::{ACCEPT, CONTENT_TYPE, VARY},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::exposition;
use crate::http::{self, HttpLimits};

/// The process's metrics. Cheap to clone.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// An empty registry; names are given in full (`hosting_edge_requests`), without a prefix added here.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers metrics.
    pub fn register<T>(&self, with: impl FnOnce(&mut Registry) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// In the OpenMetrics text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// What the process waits for before it is ready. Each part begins as not ready. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>);

impl Readiness {
    /// Nothing to wait for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A part is ready.
    pub fn ready(&self, part: &'static str) {
        self.set(part, Ok(()));
    }

    /// A part is not ready; `why` is what an operator reads.
    pub fn not_ready(&self, part: &'static str, why: impl Into<String>) {
        self.set(part, Err(why.into()));
    }

    /// Whether every part is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.parts().values().all(Result::is_ok)
    }

    fn set(&self, part: &'static str, state: Result<(), String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(part, state);
    }

    fn parts(&self) -> BTreeMap<&'static str, Result<(), String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a role tells of one of its things by name, e.g. of a host; `None`: there is no such thing.
type Look = Arc<dyn Fn(&str) -> Option<serde_json::Value> + Send + Sync>;

/// What the admin port tells beside metrics and readiness: `GET /hosts/www.example.com`, say.
#[derive(Clone, Default)]
pub struct Looks(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    by_name: BTreeMap<&'static str, Look>,
    routes: Router,
}

impl std::fmt::Debug for Looks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Looks").finish()
    }
}

impl Looks {
    /// Tells from now on what `look` finds, below the path `things`.
    pub fn add(
        &self,
        things: &'static str,
        look: impl Fn(&str) -> Option<serde_json::Value> + Send + Sync + 'static,
    ) {
        self.told().by_name.insert(things, Arc::new(look));
    }

    /// Serves these routes too from now on. Those of the admin port itself, and `/{things}/{name}`, come first.
    pub fn add_routes(&self, routes: Router) {
        let mut told = self.told();
        told.routes = std::mem::take(&mut told.routes).merge(routes);
    }

    fn get(&self, things: &str) -> Option<Look> {
        self.told().by_name.get(things).map(Arc::clone)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `/metrics` alone, for a process that has a router of its own.
pub fn metrics_router(metrics: Metrics) -> Router {
    Router::new().route("/metrics", get(metrics_text)).with_state(metrics)
}

fn router(metrics: Metrics, readiness: Readiness, looks: Looks) -> Router {
    let looks = Router::new().route("/{things}/{name}", get(look)).fallback(added).with_state(looks);
    Router::new()
        .route("/healthz", get(|| async { Json(serde_json::json!({"status": "ok"})) }))
        .route("/readyz", get(readyz))
        .with_state(readiness)
        .merge(metrics_router(metrics))
        .merge(looks)
}

/// Binds the admin port, so that a port taken is an error at start and not later.
///
/// # Errors
/// The address cannot be bound; the message names it.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, anyhow::Error> {
    TcpListener::bind(address).await.map_err(|error| {
        anyhow::anyhow!("admin address {address}: {error}; choose another with --admin-listen")
    })
}

/// Serves the admin port until `stop`.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    readiness: Readiness,
    looks: Looks,
    stop: CancellationToken,
) -> Result<(), std::io::Error> {
    // A scraper, an operator and a load balancer's probe: few, on a network of one's own.
    let limits = HttpLimits { connections: 256, per_network: 192, ..HttpLimits::default() };
    http::serve(listener, router(metrics, readiness, looks), limits, None, stop).await
}

async fn metrics_text(State(metrics): State<Metrics>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let (kind, text) = exposition::negotiate(accept, &metrics.encode());
    ([(CONTENT_TYPE, kind), (VARY, "accept")], text)
}

async fn look(
    State(looks): State<Looks>,
    Path((things, name)): Path<(String, String)>,
) -> Result<Json<serde_json::Value>, StatusCode> {
    let look = looks.get(&things).ok_or(StatusCode::NOT_FOUND)?;
    look(&name).map(Json).ok_or(StatusCode::NOT_FOUND)
}

/// What the role's own routes answer.
async fn added(State(looks): State<Looks>, request: Request) -> Response {
    let routes = looks.told().routes.clone();
    match routes.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

async fn readyz(State(readiness): State<Readiness>) -> impl IntoResponse {
    let parts = readiness.parts();
    let code =
        if parts.values().all(Result::is_ok) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body: BTreeMap<_, _> = parts
        .into_iter()
        .map(|(part, state)| (part, state.err().unwrap_or_else(|| "ok".to_owned())))
        .collect();
    (code, Json(body))
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get_text(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn ready_only_when_every_part_is() {
        let (metrics, readiness, stop) = (Metrics::new(), Readiness::new(), CancellationToken::new());
        let counter: Counter = Counter::default();
        metrics.register(|registry| registry.register("tests", "Counts", counter.clone()));
        counter.inc();
        readiness.not_ready("view", "waiting for the first snapshot");
        readiness.ready("listener");
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let looks = Looks::default();
        let server = tokio::spawn(serve(listener, metrics, readiness.clone(), looks.clone(), stop.clone()));

        let answer = get_text(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains(r#""view":"waiting for the first snapshot""#), "{answer}");
        readiness.ready("view");
        assert!(get_text(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get_text(address, "/metrics").await.contains("tests_total 1"));
        assert!(get_text(address, "/healthz").await.contains(r#"{"status":"ok"}"#));

        assert!(get_text(address, "/hosts/a.example").await.starts_with("HTTP/1.1 404"));
        looks.add("hosts", |name| (name == "a.example").then(|| serde_json::json!({"host": name})));
        assert!(get_text(address, "/hosts/a.example").await.contains(r#"{"host":"a.example"}"#));
        for path in ["/hosts/b.example", "/hosts", "/hosts/a.example/x", "/others/a.example"] {
            assert!(get_text(address, path).await.starts_with("HTTP/1.1 404"), "{path}");
        }

        looks.add_routes(Router::new().route("/things", get(|| async { "all things" })));
        assert!(get_text(address, "/things").await.ends_with("all things"), "also when it is served already");
        assert!(get_text(address, "/hosts").await.starts_with("HTTP/1.1 404"));

        stop.cancel();
        server.await.unwrap().unwrap();
        let error = bind("192.0.2.1:1".parse().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("--admin-listen"), "{error}");
    }
}
