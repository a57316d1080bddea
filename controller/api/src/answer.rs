//! What surrounds every answer: request id, trace, metrics, one log line, and how a failure is shown.

use std::panic::AssertUnwindSafe;

use axum::extract::{RawPathParams, Request};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use futures::FutureExt;
use hosting_scaffold::http::ClientAddress;
use hosting_scaffold::telemetry::{current_traceparent, set_remote_parent};
use tokio::time::Instant;
use tracing::Instrument;

use crate::problem::Shown;
use crate::rate_limit::StandingCell;
use crate::route::BASE;
use crate::service::Target;
use crate::trace::{child_of, is_traceparent, request_id};
use crate::{Api, ApiError};

impl Api {
    /// One request, with everything around it: request id, trace, metrics, one log line.
    pub(crate) async fn answer(
        &self,
        target: Target,
        params: Option<RawPathParams>,
        mut request: Request,
    ) -> Response {
        let begun = Instant::now();
        let method = request.method().clone();
        let path = match &target {
            Target::Served(route) => route.full_path(),
            Target::Unserved(path) => format!("{BASE}{path}"),
            Target::WrongMethod | Target::Nothing => "unmatched".to_owned(),
        };
        let request_id = request_id(request.headers());
        let shown = Shown::of(&request, &request_id);
        let standing = StandingCell::default();
        request.extensions_mut().insert(standing.clone());
        let given =
            request.headers().get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let given = if is_traceparent(given) { given.to_owned() } else { String::new() };
        let client = request.extensions().get::<ClientAddress>().map(|client| client.0.to_string());
        let span = tracing::info_span!("request", %method, path = %path, %request_id, client);
        set_remote_parent(&span, &given);
        let (mut response, traceparent) = async {
            let traceparent = Some(current_traceparent()).filter(|own| !own.is_empty());
            let traceparent = traceparent.unwrap_or_else(|| child_of(&given));
            let outcome = match target {
                Target::Served(route) => {
                    let served = AssertUnwindSafe(self.serve(route, params, request, &traceparent));
                    served.catch_unwind().await.unwrap_or_else(|panic| {
                        let cause = panic.downcast_ref::<&str>().copied().unwrap_or("a panic");
                        Err(ApiError::internal(&cause))
                    })
                }
                Target::Unserved(_) => {
                    let (parts, _) = request.into_parts();
                    Err(self.not_served(&parts, &path).await)
                }
                Target::WrongMethod => Ok(self.wrong_method(&request, &shown)),
                Target::Nothing => Err(ApiError::not_found("there is no such path; see /docs")),
            };
            let response = outcome.unwrap_or_else(|error| shown.failure(&error));
            let took = begun.elapsed();
            tracing::info!(
                status = response.status().as_u16(),
                took_ms = took.as_secs_f64() * 1000.0,
                "answered"
            );
            self.metrics().answered(method.as_str(), &path, response.status().as_u16(), took);
            (response, traceparent)
        }
        .instrument(span)
        .await;
        for (name, value) in [("x-request-id", request_id), ("traceparent", traceparent)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        standing.show(response.headers_mut());
        response
    }
}
