//! A success, and its answer: body, entity tag, place, revision.

use axum::body::Body;
use axum::http::{Extensions, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::preconditions::{Preconditions, entity_tag};

/// The answer's header when nothing was changed because it had been before.
const REPLAYED: &str = "idempotency-replayed";

/// A success.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Option<Value>,
    pub(crate) revision: Option<u64>,
    pub(crate) generation: Option<u64>,
    pub(crate) retry_after: Option<u32>,
    /// Where the resource is that the answer speaks of.
    pub(crate) location: Option<String>,
    /// What is sent in the place of `body`, as it comes: its media type, itself, and what goes with the answer in this process.
    pub(crate) stream: Option<(&'static str, Body, Extensions)>,
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
            stream: None,
            replayed: false,
        }
    }

    /// An answer that goes on as long as its body does.
    pub(crate) fn stream(media: &'static str, body: Body, beside: Extensions) -> Self {
        Self { stream: Some((media, body, beside)), body: None, ..Self::json(200, Value::Null) }
    }

    /// The entity tag of what is shown.
    fn tag(&self) -> Option<String> {
        Some(entity_tag(self.generation?, self.body.as_ref()?))
    }

    /// 304 in the place of what the caller has already (RFC 9110 §15.4.5).
    pub(crate) fn unless_known(self, conditions: &Preconditions) -> Self {
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
        if let Some((media, body, beside)) = self.stream {
            // Proxies must neither keep it nor hold it back.
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static(media)),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
                (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
            ];
            let mut response = (self.status, headers, body).into_response();
            response.extensions_mut().extend(beside);
            return response;
        }
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
