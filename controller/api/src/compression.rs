//! Answers that are sent compressed, to those who take it: documents and what GET answers, nothing else.
//!
//! What is shown once, such as a new API key, is in the answer to a change. A compressed answer tells by its length how much of what the
//! caller wrote stands in it a second time (BREACH), so those stay as they are.

use axum::Router;
use axum::http::{Method, Request, Response, header};
use axum::middleware::{self, Next};
use tower_http::compression::predicate::{Predicate, SizeAbove};
use tower_http::compression::{CompressionLayer, CompressionLevel};

/// Smaller answers fit into a packet as they are.
const AT_LEAST: u64 = 1_024;

/// The answer of a GET. In the extensions of a response.
#[derive(Debug, Clone, Copy)]
struct OfGet;

#[derive(Debug, Clone, Copy)]
struct Compressible;

impl Predicate for Compressible {
    fn should_compress<B: axum::body::HttpBody>(&self, response: &Response<B>) -> bool {
        let kind = response.headers().get(header::CONTENT_TYPE);
        let is_stream = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        response.extensions().get::<OfGet>().is_some() && !is_stream
    }
}

/// The router with its documents and reads compressed by gzip, br or zstd, as the caller prefers.
pub(crate) fn compressed(router: Router) -> Router {
    let layer = CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(AT_LEAST).and(Compressible));
    router.layer(middleware::from_fn(mark)).layer(layer)
}

async fn mark(request: Request<axum::body::Body>, next: Next) -> axum::response::Response {
    let is_get = request.method() == Method::GET;
    let mut response = next.run(request).await;
    if is_get {
        response.extensions_mut().insert(OfGet);
    }
    response
}
