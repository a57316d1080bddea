//! What a request is answered with when it fails: a code, one sentence, sometimes more.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hosting_jobs::OrderError;
use hosting_planner::{ApplyError, PlanError, WorldError};
use hosting_resource::SpecError;
use hosting_store::{PageError, StoreError, WriteError};
use serde_json::{Map, Value, json};

/// Longest message in bytes: what is quoted in it is the caller's, who knows it.
const MAX_MESSAGE: usize = 1_500;

/// A failed request. The body is always `{"error": message}`, sometimes with more fields.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
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
        Self { status, message, more: Map::new(), retry_after: None }
    }

    /// 400 in the words of every validation error.
    pub(crate) fn invalid(field: &str, problem: impl std::fmt::Display) -> Self {
        let mut error = Self::new(StatusCode::BAD_REQUEST, format!("validation error: {field}: {problem}"));
        error.more.insert("field".to_owned(), field.into());
        error
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

    /// The JSON body.
    pub(crate) fn body(&self) -> Value {
        let mut body = self.more.clone();
        body.insert("error".to_owned(), self.message.clone().into());
        Value::Object(body)
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
        let mut response = (self.status, axum::Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<SpecError> for ApiError {
    fn from(error: SpecError) -> Self {
        let status = match &error {
            SpecError::Malformed { .. } | SpecError::Invalid { .. } => StatusCode::BAD_REQUEST,
            SpecError::NotServed { .. } => StatusCode::NOT_IMPLEMENTED,
            SpecError::Forbidden(_) => StatusCode::FORBIDDEN,
        };
        let mut answer = Self::new(status, error.to_string());
        if let SpecError::NotServed { field, .. } | SpecError::Invalid { field, .. } = error {
            answer.more.insert("field".to_owned(), field.into());
        }
        answer
    }
}

impl From<PlanError> for ApiError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::NotFound { .. } => Self::not_found(error.to_string()),
            PlanError::Invalid { .. } | PlanError::InUse { .. } | PlanError::TooLarge(_) => {
                Self::new(StatusCode::BAD_REQUEST, error.to_string())
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
            ApplyError::Taken { .. } => Self::conflict(error.to_string()),
            ApplyError::InUse { .. } | ApplyError::TooLarge(_) => {
                Self::new(StatusCode::BAD_REQUEST, error.to_string())
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
