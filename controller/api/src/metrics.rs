//! What is counted of requests.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: String,
    path: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    method: String,
    path: String,
}

/// Seconds.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// `http_requests_total` and `http_request_duration_seconds`. The path is the route's pattern, so that the number of
/// series is bounded whatever is asked for.
#[derive(Debug, Clone)]
pub(crate) struct HttpMetrics {
    requests: Family<Answered, Counter>,
    durations: Family<Asked, Histogram, fn() -> Histogram>,
}

impl HttpMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram as fn() -> Histogram),
        };
        registry.register("http_requests", "Requests to the API", metrics.requests.clone());
        registry.register(
            "http_request_duration_seconds",
            "How long the API took to answer, waiting included",
            metrics.durations.clone(),
        );
        metrics
    }

    pub(crate) fn answered(&self, method: &str, path: &str, status: u16, took: Duration) {
        let method = known_method(method).to_owned();
        let asked = Asked { method: method.clone(), path: path.to_owned() };
        self.durations.get_or_create(&asked).observe(took.as_secs_f64());
        self.requests.get_or_create(&Answered { method, path: path.to_owned(), status }).inc();
    }
}

/// Methods are the caller's to make up.
fn known_method(method: &str) -> &str {
    match method {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => method,
        _ => "other",
    }
}
