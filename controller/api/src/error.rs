//! What a request is answered with when it fails: a code, one sentence, sometimes more.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hosting_jobs::OrderError;
use hosting_planner::{ApplyError, PlanError, WorldError};
use hosting_resource::SpecError;
use hosting_store::{PageError, StoreError, WriteError};
use serde_json::{Map, Value, json};

use crate::problem::{PROBLEM_JSON, Problem, field_error};

/// Longest message in bytes: what is quoted in it is the caller's, who knows it.
const MAX_MESSAGE: usize = 1_500;

/// A failed request. The body has `error` and the members of RFC 9457, sometimes more.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// What programs tell it apart by.
    pub problem: Problem,
    /// HTTP status.
    pub status: StatusCode,
    /// What the caller reads: what is wrong and what to do.
    pub message: String,
    /// Further fields of the body.
    pub more: Map<String, Value>,
    /// Seconds after which a retry makes sense.
    pub retry_after: Option<u32>,
}

impl ApiError {
    /// An error with a body of one sentence.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MAX_MESSAGE {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE));
            message.push('…');
        }
        Self { problem: Problem::of(status), status, message, more: Map::new(), retry_after: None }
    }

    pub(crate) fn is(self, problem: Problem) -> Self {
        Self { problem, ..self }
    }

    /// The field that is wrong; `errors` of the body says how.
    pub(crate) fn at(mut self, field: &str) -> Self {
        self.more.insert("field".to_owned(), field.into());
        self
    }

    /// 400 in the words of every validation error.
    pub(crate) fn invalid(field: &str, problem: impl std::fmt::Display) -> Self {
        let message = format!("validation error: {field}: {problem}");
        Self::new(StatusCode::BAD_REQUEST, message).is(Problem::Validation).at(field)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// The fault is ours: the cause goes to the log, the caller gets a sentence without it.
    pub(crate) fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(error = %cause, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal error; the controller's log says more under this request's x-request-id",
        )
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// The members that every error's body has, but `status` and `instance`.
    pub(crate) fn members(&self) -> Map<String, Value> {
        let mut body = self.more.clone();
        let one = body.get("field").and_then(Value::as_str).map(|field| field_error(field, &self.message));
        if let Some(one) = one {
            body.entry("errors").or_insert_with(|| vec![one].into());
        }
        for (member, value) in [
            ("type", self.problem.uri()),
            ("title", self.problem.words().1.to_owned()),
            ("detail", self.message.clone()),
            ("error", self.message.clone()),
        ] {
            body.insert(member.to_owned(), value.into());
        }
        body
    }

    /// The JSON body.
    fn body(&self) -> Value {
        let mut body = self.members();
        body.insert("status".to_owned(), self.status.as_u16().into());
        Value::Object(body)
    }

    /// The answer to a request for `instance`, as [`PROBLEM_JSON`] when the caller knows that.
    pub(crate) fn answer(&self, instance: &str, is_problem_json: bool) -> Response {
        let mut body = self.body();
        body["instance"] = instance.into();
        let mut response = self.clone().with_body(body);
        if is_problem_json {
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        }
        response
    }

    fn with_body(self, body: Value) -> Response {
        let mut response = (self.status, axum::Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.status, self.message)
    }
}

impl std::error::Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = self.body();
        self.with_body(body)
    }
}

impl From<SpecError> for ApiError {
    fn from(error: SpecError) -> Self {
        let status = match &error {
            SpecError::Malformed { .. } | SpecError::Invalid { .. } | SpecError::Several(_) => {
                StatusCode::BAD_REQUEST
            }
            SpecError::NotServed { .. } => StatusCode::NOT_IMPLEMENTED,
            SpecError::Forbidden(_) => StatusCode::FORBIDDEN,
        };
        let answer = Self::new(status, error.to_string());
        match error {
            SpecError::Invalid { field, .. } => answer.is(Problem::Validation).at(&field),
            SpecError::NotServed { field, .. } => answer.at(&field),
            SpecError::Several(all) => all_of(all),
            SpecError::Malformed { .. } | SpecError::Forbidden(_) => answer,
        }
    }
}

/// The first of several faults in the words of one alone, and all of them in `errors`.
fn all_of(faults: Vec<SpecError>) -> ApiError {
    let mut first: Option<ApiError> = None;
    let mut errors = Vec::new();
    for fault in faults {
        let one = ApiError::from(fault);
        if let Some(field) = one.more.get("field").and_then(Value::as_str) {
            errors.push(field_error(field, &one.message));
        }
        first.get_or_insert(one);
    }
    let mut first = first.unwrap_or_else(|| ApiError::invalid("body", "is wrong"));
    first.more.insert("errors".to_owned(), errors.into());
    first
}

impl From<PlanError> for ApiError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::NotFound { .. } => Self::not_found(error.to_string()),
            PlanError::Invalid { field, problem } => Self::invalid(&field, problem),
            PlanError::InUse { .. } => {
                Self::new(StatusCode::BAD_REQUEST, error.to_string()).is(Problem::InUse)
            }
            PlanError::TooLarge(_) => {
                Self::new(StatusCode::BAD_REQUEST, error.to_string()).is(Problem::TooLarge)
            }
            PlanError::Conflict(message) => Self::conflict(message),
            PlanError::OverLimit(over) => {
                let mut error = Self::conflict(over.to_string());
                error.more.insert("quota".to_owned(), over.kind.info().scope.into());
                error.more.insert("limit".to_owned(), over.limit.into());
                error.more.insert("used".to_owned(), over.used.into());
                error.more.insert("of".to_owned(), json!({"type": over.owner_kind, "id": over.owner}));
                error
            }
            PlanError::Forbidden(message) => Self::forbidden(message),
            PlanError::Unsound { .. } | PlanError::Unreadable(_) => Self::internal(&error),
            PlanError::Apply(error) => error.into(),
        }
    }
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Taken { field, .. } => Self::conflict(error.to_string()).is(Problem::Taken).at(field),
            ApplyError::InUse { .. } => {
                Self::new(StatusCode::BAD_REQUEST, error.to_string()).is(Problem::InUse)
            }
            ApplyError::TooLarge(_) => {
                Self::new(StatusCode::BAD_REQUEST, error.to_string()).is(Problem::TooLarge)
            }
            ApplyError::NoSuch { field, .. } => {
                let message = error.to_string();
                let problem = message
                    .strip_prefix(field)
                    .map_or(message.as_str(), |rest| rest.trim_start_matches(": "));
                Self::invalid(field, problem)
            }
            ApplyError::World(error) => error.into(),
        }
    }
}

impl From<WorldError> for ApiError {
    fn from(error: WorldError) -> Self {
        match error.0.downcast::<StoreError>() {
            Ok(error) => (*error).into(),
            Err(error) => Self::internal(&error),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::DiskFull => Self::unavailable(error.to_string()),
            StoreError::Busy(_) | StoreError::LostLease => Self::unavailable("the store is busy; retry"),
            StoreError::Io(_) => {
                tracing::error!(%error, "the store cannot be reached");
                Self::unavailable("the store cannot be reached; retry, and look at the controller's log")
            }
            StoreError::Closed => Self::unavailable("the controller is shutting down; retry"),
            StoreError::Value { .. } => {
                Self::new(StatusCode::BAD_REQUEST, format!("validation error: {error}"))
            }
            StoreError::Corrupt(_) | StoreError::Row(_) | StoreError::Sql(_) => Self::internal(&error),
        }
    }
}

impl From<OrderError> for ApiError {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::NotFound => Self::not_found(error.to_string()),
            OrderError::Refused(_) | OrderError::Begun(_) => Self::conflict(error.to_string()),
        }
    }
}

impl From<PageError> for ApiError {
    fn from(error: PageError) -> Self {
        match error {
            PageError::Cursor => Self::new(StatusCode::BAD_REQUEST, format!("validation error: {error}")),
            PageError::Store(error) => error.into(),
        }
    }
}

impl From<WriteError<Self>> for ApiError {
    fn from(error: WriteError<Self>) -> Self {
        match error {
            WriteError::Refused(error) => error,
            WriteError::Store(error) => error.into(),
            WriteError::TooSlow(_) => Self::unavailable("the change took too long and was not made; retry"),
            WriteError::WentOn => Self::internal(&"a change went on after it was refused"),
            WriteError::Panicked(message) => Self::internal(&format!("a change panicked: {message}")),
        }
    }
}
