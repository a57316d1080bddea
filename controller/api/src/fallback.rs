//! What is answered beside the table: readiness, methods that a path does not take, routes that are not built yet.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::time::Instant;

use crate::problem::Shown;
use crate::route::BASE;
use crate::unserved::unserved;
use crate::{Api, ApiError};

/// How long an answer of `/readyz` stands: strangers may ask, and each look writes.
const READY_FOR: Duration = Duration::from_secs(2);

/// When the store was last looked at, and how it stood.
pub(crate) type Looked = (Instant, Result<(), String>);

impl Api {
    /// `{"core_db": "ok"}`, 503 when the store cannot be written and read within 3 s.
    pub(crate) async fn readiness(&self) -> Response {
        let looked = self.looked_at().await;
        let (status, text) = match &looked {
            Ok(()) => (StatusCode::OK, "ok"),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.as_str()),
        };
        (status, axum::Json(json!({"core_db": text}))).into_response()
    }

    /// Whether the store can be written and read, as it was found within the last two seconds; why not.
    pub(crate) async fn looked_at(&self) -> Result<(), String> {
        let read = tokio::time::timeout(Duration::from_secs(3), self.store().read()).await;
        if let Ok(Err(error)) = read {
            return Err(error.to_string());
        }
        let mut last = self.ready().lock().await;
        let standing = match last.take().filter(|(at, _)| at.elapsed() < READY_FOR) {
            Some(standing) => standing,
            None => {
                let looked = tokio::time::timeout(Duration::from_secs(3), self.store().probe()).await;
                let found = match looked {
                    Ok(found) => found.map_err(|error| error.to_string()),
                    Err(_) => Err("the store did not answer within 3 s".to_owned()),
                };
                (Instant::now(), found)
            }
        };
        let found = standing.1.clone();
        *last = Some(standing);
        found
    }

    /// 405, and the methods of the path (RFC 9110 §15.5.6); the same without the refusal for OPTIONS.
    pub(crate) fn wrong_method(&self, request: &Request, shown: &Shown) -> Response {
        let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str).unwrap_or_default();
        let served = self.routes().iter().map(|route| (route.method.clone(), route.full_path()));
        let known = served.chain(unserved().map(|(method, path)| (method, format!("{BASE}{path}"))));
        let mut methods: BTreeSet<String> =
            known.filter(|(_, known)| known == path).map(|(method, _)| method.to_string()).collect();
        if methods.is_empty() {
            // What is beside the table is a document.
            methods.insert(Method::GET.to_string());
        }
        if methods.contains(Method::GET.as_str()) {
            methods.insert(Method::HEAD.to_string());
        }
        methods.insert(Method::OPTIONS.to_string());
        let allow = methods.into_iter().collect::<Vec<_>>().join(", ");
        let mut response = if request.method() == Method::OPTIONS {
            StatusCode::NO_CONTENT.into_response()
        } else {
            shown.failure(&ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("{} is not allowed here; this path takes {allow}", request.method()),
            ))
        };
        if let Ok(allow) = HeaderValue::from_str(&allow) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }

    /// Why a route that is known and not built does not answer: strangers are told nothing of it.
    pub(crate) async fn not_served(&self, request: &Parts, path: &str) -> ApiError {
        let method = &request.method;
        match self.caller(request).await {
            Err(error) => error,
            Ok(_) => ApiError::new(
                StatusCode::NOT_IMPLEMENTED,
                format!("{method} {path}: not served by this platform yet"),
            ),
        }
    }
}
