//! Problems as gRPC statuses: the same reason, fields and remedies as in the answers of the REST API, in the details that gRPC has for them.

use std::collections::HashMap;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Map, Value};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::ApiError;
use crate::problem::Problem;

/// The domain of reasons.
const DOMAIN: &str = "hosting.intent_api";
/// Longest value of a further member in the details, in bytes: they are sent as header fields.
const MAX_MORE: usize = 512;
/// Members of a problem that have places of their own among the details.
const PLACED: &[&str] = &["error", "detail", "instance", "status", "errors"];

/// The code of a problem. `is_quota`: a limit is reached.
pub(super) fn code_of(problem: Problem, is_quota: bool) -> Code {
    match problem {
        Problem::BadRequest | Problem::Validation | Problem::TooLarge | Problem::UnsupportedMediaType => {
            Code::InvalidArgument
        }
        Problem::Conflict if is_quota => Code::ResourceExhausted,
        Problem::InUse | Problem::Conflict | Problem::KeyReused | Problem::Unconfirmed => {
            Code::FailedPrecondition
        }
        Problem::Unauthenticated => Code::Unauthenticated,
        Problem::Forbidden | Problem::InsufficientScope => Code::PermissionDenied,
        Problem::NotFound => Code::NotFound,
        Problem::MethodNotAllowed | Problem::NotServed => Code::Unimplemented,
        Problem::RequestTimeout | Problem::NotSettled => Code::DeadlineExceeded,
        Problem::Taken => Code::AlreadyExists,
        Problem::PreconditionFailed => Code::Aborted,
        Problem::RateLimited => Code::ResourceExhausted,
        Problem::Internal => Code::Internal,
        Problem::Unavailable => Code::Unavailable,
    }
}

/// Which problem a body's members name, by `type`; else by the HTTP status.
pub(super) fn problem_of(members: &Map<String, Value>, http_status: StatusCode) -> Problem {
    let named = members.get("type").and_then(Value::as_str);
    let known = Problem::ALL.into_iter().find(|known| named == Some(known.uri().as_str()));
    known.unwrap_or_else(|| Problem::of(http_status))
}

/// Its name as reasons are spelt: `INSUFFICIENT_SCOPE`.
pub(super) fn reason_of(problem: Problem) -> String {
    problem.words().0.to_ascii_uppercase().replace('-', "_")
}

fn text<'m>(members: &'m Map<String, Value>, name: &str) -> &'m str {
    members.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The fields that are wrong: field, reason, remedy.
pub(super) fn fields_of(members: &Map<String, Value>) -> Vec<(&str, &str, &str)> {
    let errors = members.get("errors").and_then(Value::as_array);
    let errors = errors.into_iter().flatten().filter_map(Value::as_object);
    errors.map(|error| (text(error, "field"), text(error, "reason"), text(error, "remedy"))).collect()
}

/// The status of a failed answer: its members, its HTTP status, when to come back, and the request's id.
pub(super) fn status_of_members(
    members: &Map<String, Value>,
    http_status: StatusCode,
    retry_after: Option<u32>,
    request_id: &str,
) -> Status {
    let problem = problem_of(members, http_status);
    let code = code_of(problem, members.contains_key("quota"));
    let mut more: HashMap<String, String> =
        HashMap::from([("http_status".to_owned(), http_status.as_u16().to_string())]);
    for (name, value) in members.iter().filter(|(name, _)| !PLACED.contains(&name.as_str())) {
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if shown.len() <= MAX_MORE {
            more.insert(name.clone(), shown);
        }
    }
    let mut details = ErrorDetails::new();
    details.set_error_info(reason_of(problem), DOMAIN, more).set_request_info(request_id, "");
    let violations: Vec<FieldViolation> = fields_of(members)
        .into_iter()
        .map(|(field, reason, remedy)| {
            let end = if remedy.is_empty() { String::new() } else { format!("; {remedy}") };
            FieldViolation::new(field, format!("{reason}{end}"))
        })
        .collect();
    if !violations.is_empty() {
        details.set_bad_request(violations);
    }
    if let (Some(of), Some(quota)) = (members.get("of"), members.get("quota").and_then(Value::as_str)) {
        let subject = format!("{}:{quota}", of.get("id").and_then(Value::as_str).unwrap_or_default());
        details.add_quota_failure_violation(subject, text(members, "detail"));
    }
    if let Some(seconds) = retry_after {
        details.set_retry_info(Some(Duration::from_secs(seconds.into())));
    }
    Status::with_error_details(code, text(members, "detail"), details)
}

/// The status of an error.
pub(super) fn status_of(error: &ApiError, request_id: &str) -> Status {
    status_of_members(&error.members(), error.status, error.retry_after, request_id)
}

/// How a call ends that is no answer of the REST API's.
pub(super) fn ended(code: Code, reason: &str, message: &str, request_id: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, HashMap::new()).set_request_info(request_id, "");
    Status::with_error_details(code, message, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_problem_has_its_code_and_keeps_what_it_says() {
        for problem in Problem::ALL {
            assert!(!matches!(code_of(problem, false), Code::Ok | Code::Unknown), "{problem:?}");
        }
        let error = ApiError::invalid("webroots[0].runtime", "is no runtime; take php");
        let status = status_of(&error, "r-1");
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, error.message.as_str()));
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("VALIDATION", DOMAIN));
        assert_eq!(
            (info.metadata["http_status"].as_str(), info.metadata["type"].as_str()),
            ("400", "/docs#problem-validation")
        );
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!(violation.field, "webroots[0].runtime");
        assert_eq!(violation.description, "is no runtime; take php");
        assert_eq!(details.request_info().unwrap().request_id, "r-1");
        let status = status_of(&ApiError::unavailable("busy"), "");
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(
            status.get_error_details().retry_info().unwrap().retry_delay,
            Some(Duration::from_secs(1))
        );
        let mut over = ApiError::conflict("one webroot is the limit");
        over.more.insert("long".to_owned(), "x".repeat(600).into());
        over.more.insert("quota".to_owned(), "webroots".into());
        over.more.insert("limit".to_owned(), 1.into());
        over.more.insert("of".to_owned(), serde_json::json!({"type": "tenant", "id": "t_1"}));
        let status = status_of(&over, "");
        assert_eq!(status.code(), Code::ResourceExhausted);
        let details = status.get_error_details();
        assert_eq!(details.quota_failure().unwrap().violations[0].subject, "t_1:webroots");
        let metadata = &details.error_info().unwrap().metadata;
        assert_eq!((metadata["limit"].as_str(), metadata.contains_key("long")), ("1", false));
    }
}
