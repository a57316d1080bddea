//! What a failure is called (RFC 9457): one table of types, from which answers, OpenAPI and the reference page are made.

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};

use crate::ApiError;

/// Media type of a problem (RFC 9457 §6.1).
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// Longest path that an answer repeats, in bytes.
const MAX_PATH: usize = 1_024;

/// A type of problem: what a program tells failures apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The request breaks a rule, and no single field does.
    BadRequest,
    /// A field, parameter or header breaks a rule; `errors` names it.
    Validation,
    /// Something else still uses the resource.
    InUse,
    /// No key, or one that does not open.
    Unauthenticated,
    /// The key may not do this.
    Forbidden,
    /// The key lacks a scope.
    InsufficientScope,
    /// There is no such resource or path.
    NotFound,
    /// The path does not take the method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The state of things does not allow it.
    Conflict,
    /// Another resource has the name.
    Taken,
    /// The resource is not as `If-Match` or `If-None-Match` says.
    PreconditionFailed,
    /// The change is large; `confirm` is the number to send it with.
    Unconfirmed,
    /// Body, path, query or header fields are too large.
    TooLarge,
    /// The body is no JSON in UTF-8.
    UnsupportedMediaType,
    /// The `Idempotency-Key` was used for another request.
    KeyReused,
    /// More requests than the limit allows; `Retry-After` says when to come back.
    RateLimited,
    /// The platform's fault.
    Internal,
    /// Known, and not served yet.
    NotServed,
    /// Not now; `Retry-After` says when to come back.
    Unavailable,
    /// It is not settled within the time that was to be waited.
    NotSettled,
}

impl Problem {
    /// All of them, as the reference lists them.
    pub const ALL: [Self; 21] = [
        Self::BadRequest,
        Self::Validation,
        Self::InUse,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::InsufficientScope,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::Conflict,
        Self::Taken,
        Self::PreconditionFailed,
        Self::Unconfirmed,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::KeyReused,
        Self::RateLimited,
        Self::Internal,
        Self::NotServed,
        Self::Unavailable,
        Self::NotSettled,
    ];

    /// Its name and its title; both are promises to clients.
    #[must_use]
    pub const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::BadRequest => ("bad-request", "The request breaks a rule"),
            Self::Validation => ("validation", "A field or parameter breaks a rule"),
            Self::InUse => ("in-use", "Something else still uses it"),
            Self::Unauthenticated => ("unauthenticated", "No API key, or one that does not open"),
            Self::Forbidden => ("forbidden", "The API key may not do this"),
            Self::InsufficientScope => ("insufficient-scope", "The API key lacks a scope"),
            Self::NotFound => ("not-found", "There is no such thing"),
            Self::MethodNotAllowed => ("method-not-allowed", "The path does not take this method"),
            Self::RequestTimeout => ("request-timeout", "The request did not arrive in time"),
            Self::Conflict => ("conflict", "The state of things does not allow it"),
            Self::Taken => ("taken", "The name is taken"),
            Self::PreconditionFailed => ("precondition-failed", "The resource has changed"),
            Self::Unconfirmed => ("unconfirmed", "A large change has to be confirmed"),
            Self::TooLarge => ("too-large", "The request is too large"),
            Self::UnsupportedMediaType => ("unsupported-media-type", "Bodies are JSON in UTF-8"),
            Self::KeyReused => ("idempotency-key-reused", "The Idempotency-Key was used for another request"),
            Self::RateLimited => ("rate-limited", "Too many requests"),
            Self::Internal => ("internal", "The platform failed"),
            Self::NotServed => ("not-served", "Not served by this platform yet"),
            Self::Unavailable => ("unavailable", "Not now"),
            Self::NotSettled => ("not-settled", "Not settled in time"),
        }
    }

    /// The URI reference that `type` holds: its line on the reference page.
    #[must_use]
    pub fn uri(self) -> String {
        format!("/docs#problem-{}", self.words().0)
    }

    /// What a status says when nothing else is known.
    pub(crate) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            401 => Self::Unauthenticated,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            408 => Self::RequestTimeout,
            409 => Self::Conflict,
            412 => Self::PreconditionFailed,
            428 => Self::Unconfirmed,
            413 | 414 | 431 => Self::TooLarge,
            415 => Self::UnsupportedMediaType,
            422 => Self::KeyReused,
            429 => Self::RateLimited,
            501 => Self::NotServed,
            503 => Self::Unavailable,
            504 => Self::NotSettled,
            400..=499 => Self::BadRequest,
            _ => Self::Internal,
        }
    }
}

/// Whether the caller asks for [`PROBLEM_JSON`] by name. `*/*` does not: clients of this API that know `application/json` alone send it.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = values.flat_map(|value| value.split(','));
    kinds.any(|kind| {
        let mut parts = kind.split(';').map(str::trim);
        let named = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case(PROBLEM_JSON));
        named
            && !parts.any(|part| {
                matches!(part.to_ascii_lowercase().as_str(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
            })
    })
}

/// How failures of one request are shown.
pub(crate) struct Shown {
    instance: String,
    is_problem_json: bool,
}

impl Shown {
    pub(crate) fn of(request: &Request, request_id: &str) -> Self {
        let path = request.uri().path();
        let path = if path.len() > MAX_PATH { "" } else { path };
        Self { instance: format!("{path}#{request_id}"), is_problem_json: is_wanted(request.headers()) }
    }

    pub(crate) fn failure(&self, error: &ApiError) -> Response {
        error.answer(&self.instance, self.is_problem_json)
    }
}

/// A field that is wrong. The sentences of this API say what was wrong, then after a semicolon what to do.
pub(crate) fn field_error(field: &str, message: &str) -> Value {
    let own = message.strip_prefix("validation error: ").unwrap_or(message);
    let own = own.strip_prefix(field).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(own);
    match remedy(own) {
        Some((reason, remedy)) => json!({"field": field, "reason": reason, "remedy": remedy}),
        None => json!({"field": field, "reason": own}),
    }
}

/// What stands before and after the first semicolon that is in no quoted text.
fn remedy(text: &str) -> Option<(&str, &str)> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ';' if !quoted => return Some((&text[..at], text[at + 1..].strip_prefix(' ')?)),
            _ => {}
        }
    }
    None
}

/// The schema of an error's body.
pub(crate) fn schema() -> Value {
    let names = Problem::ALL.map(Problem::uri);
    json!({
        "type": "object",
        "description": "A failure: the members of RFC 9457, and `error`, which says the same as `detail`. Some have more members.",
        "required": ["error", "type", "title", "detail"],
        "properties": {
            "error": {"type": "string", "description": "What is wrong and what to do."},
            "type": {"type": "string", "format": "uri-reference", "enum": names, "description": "Tells failures apart."},
            "title": {"type": "string", "description": "The type in words."},
            "status": {
                "anyOf": [{"type": "integer"}, {"type": "string"}],
                "description": "The HTTP status. Where the body is a resource that the fleet rejected: the resource's own status.",
            },
            "detail": {"type": "string", "description": "What is wrong and what to do."},
            "instance": {"type": "string", "format": "uri-reference", "description": "The path, and after # the request's x-request-id."},
            "field": {"type": "string", "description": "The first field, parameter or header that is wrong."},
            "errors": {
                "type": "array",
                "description": "Each field, parameter or header that is wrong.",
                "items": {
                    "type": "object",
                    "required": ["field", "reason"],
                    "properties": {
                        "field": {"type": "string", "description": "e.g. webroots[0].runtime"},
                        "reason": {"type": "string"},
                        "remedy": {"type": "string", "description": "What to do."},
                    },
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_statuses_have_one() {
        let names: std::collections::BTreeSet<_> = Problem::ALL.iter().map(|one| one.words().0).collect();
        assert_eq!(names.len(), Problem::ALL.len());
        for (status, wanted) in
            [(400, "bad-request"), (418, "bad-request"), (502, "internal"), (504, "not-settled")]
        {
            assert_eq!(Problem::of(StatusCode::from_u16(status).unwrap()).words().0, wanted);
        }
    }

    #[test]
    fn what_to_do_is_told_apart_from_what_is_wrong() {
        let of = |field: &str, message: &str| field_error(field, message);
        assert_eq!(
            of("limit", "validation error: limit: is given twice; give it once"),
            json!({"field": "limit", "reason": "is given twice", "remedy": "give it once"})
        );
        let quoted = "validation error: content: \"v=spf1; \\\"; x\" is no text; quote it";
        assert_eq!(of("content", quoted)["reason"], "\"v=spf1; \\\"; x\" is no text");
        assert_eq!(of("type", "type: not served"), json!({"field": "type", "reason": "not served"}));
        assert_eq!(
            of("fqdn", "fqdn \"a.example\" is already taken")["reason"],
            "fqdn \"a.example\" is already taken"
        );
    }

    #[test]
    fn who_names_the_media_type_gets_it() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, value.parse().unwrap());
            is_wanted(&headers)
        };
        for yes in ["application/problem+json", "application/json, Application/Problem+JSON;q=0.9"] {
            assert!(with(yes), "{yes}");
        }
        for no in ["*/*", "application/json", "application/*", "application/problem+json;q=0", ""] {
            assert!(!with(no), "{no}");
        }
        assert!(!is_wanted(&HeaderMap::new()));
    }
}
