//! What is before each call: strangers are refused before their message is read, a message has its largest size and its time, and a call its
//! deadline.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use bytes::BytesMut;
use http_body_util::BodyExt;
use tokio::time::Instant;
use tonic::Code;
use tower::{Service, ServiceExt};

use super::status::{ended, status_of};
use crate::auth::{Admitted, Principal};
use crate::problem::Shown;
use crate::rate_limit::StandingCell;
use crate::request::{read_all, too_large};
use crate::service::LARGE;
use crate::trace::request_id;
use crate::turns::{HeldTurn, Turn};
use crate::{Api, ApiError};

/// The header with the deadline (gRPC over HTTP/2, "Request-Headers").
const TIMEOUT: &str = "grpc-timeout";
/// Bytes before each message: a flag, and its length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;
/// The header with the request's id, of requests and answers.
pub(super) const REQUEST_ID: &str = "x-request-id";
/// The longest time that a call without a deadline of its own may take, but for streams of events: reading its message, waiting for the
/// fleet, and a bulk of thousands.
const LONGEST: Duration = Duration::from_secs(900);

/// When a call must be over. In the extensions of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(pub(super) Instant);

/// Largest messages of a service, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Of calls about one thing.
    pub(super) single: usize,
    /// Of those about many.
    pub(super) bulk: usize,
}

/// What a call is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Nature {
    /// Everybody may ask.
    is_open: bool,
    /// It counts as a read.
    is_read: bool,
    /// It may carry many things.
    is_bulk: bool,
    /// The caller goes on sending while it is answered: its messages are read as they come.
    is_dialogue: bool,
    /// It goes on as long as both sides want.
    is_stream: bool,
}

impl Nature {
    fn of(path: &str) -> Self {
        let (service, rpc) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        let is_health = service == super::HEALTH;
        let is_dialogue = service.starts_with("grpc.reflection.");
        Self {
            is_open: is_health && rpc == "Check",
            is_read: is_health || is_dialogue || matches!(rpc, "Get" | "List" | "Watch"),
            is_bulk: matches!(rpc, "Bulk" | "Plan"),
            is_dialogue,
            is_stream: is_dialogue || rpc == "Watch",
        }
    }
}

/// Lets a request through to its service, or answers in the service's place.
pub(super) async fn pass<S>(api: Api, service: S, bounds: Bounds, mut request: Request) -> Response
where
    S: Service<Request, Response = Response<tonic::body::Body>, Error = Infallible>,
    S::Future: Send,
{
    let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    if !request.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc) {
        let id = request_id(request.headers());
        let error = ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "this path speaks gRPC: call it with a gRPC library, or use the REST API under /api/v1",
        );
        return Shown::of(&request, &id).failure(&error);
    }
    let begun = Instant::now();
    let id = request_id(request.headers());
    let standing = StandingCell::default();
    let path = request.uri().path().to_owned();
    let nature = Nature::of(&path);
    if let Ok(value) = HeaderValue::from_str(&id) {
        request.headers_mut().insert(REQUEST_ID, value);
    }
    request.extensions_mut().insert(standing.clone());
    let given = match timeout_of(request.headers()) {
        Ok(given) => given,
        Err(error) => return refuse(&api, &path, &id, &standing, begun, &error),
    };
    let longest = if nature.is_stream { given } else { Some(given.unwrap_or(LONGEST)) };
    let deadline = longest.map(|longest| begun + longest);
    let let_through = async {
        let request = admit(&api, nature, bounds, request).await?;
        Ok::<_, ApiError>(answer(service, deadline, request).await)
    };
    let outcome = match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, let_through).await,
        None => Ok(let_through.await),
    };
    match outcome {
        Ok(Ok(mut response)) => {
            surround(response.headers_mut(), &id, &standing);
            response
        }
        Ok(Err(error)) => refuse(&api, &path, &id, &standing, begun, &error),
        Err(_) => {
            let status = ended(
                Code::DeadlineExceeded,
                "DEADLINE_EXCEEDED",
                "the call's deadline is over; a change \
                 may have been made: ask again with the same idempotency-key",
                &id,
            );
            let mut response = status.into_http();
            surround(response.headers_mut(), &id, &standing);
            response
        }
    }
}

/// Authenticates, and reads the message.
async fn admit(api: &Api, nature: Nature, bounds: Bounds, request: Request) -> Result<Request, ApiError> {
    let (mut parts, body) = request.into_parts();
    let mut principal = None;
    if !nature.is_open {
        // Its bucket of the rate limit follows from the method.
        let method =
            std::mem::replace(&mut parts.method, if nature.is_read { Method::GET } else { Method::POST });
        let caller = api.caller(&parts).await?;
        parts.method = method;
        parts.extensions.insert(Admitted(caller.clone()));
        principal = Some(caller);
    }
    let body = if nature.is_dialogue {
        body
    } else {
        let most = if nature.is_bulk { bounds.bulk } else { bounds.single };
        let (message, turn) = read_message(api, principal.as_ref(), body, most).await?;
        if let Some(turn) = turn {
            parts.extensions.insert(HeldTurn::new(turn));
        }
        Body::from(message)
    };
    Ok(Request::from_parts(parts, body))
}

/// Reads a message. A large one is read in the key's turn: those in line do not hold what they carry.
async fn read_message(
    api: &Api,
    principal: Option<&Principal>,
    mut body: Body,
    most: usize,
) -> Result<(Bytes, Option<Turn>), ApiError> {
    let mut read = BytesMut::new();
    let begin = api.within_body_timeout(async {
        while read.len() < PREFIX
            && let Some(frame) = body.frame().await
        {
            let frame = frame.map_err(|_| {
                ApiError::new(StatusCode::BAD_REQUEST, "the message could not be read to its end")
            })?;
            if let Ok(data) = frame.into_data() {
                read.extend_from_slice(&data);
            }
        }
        Ok(Bytes::new())
    });
    begin.await?;
    let length = match read.first_chunk::<PREFIX>() {
        Some([_, length @ ..]) => usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX),
        None => 0,
    };
    if length > most || read.len() > most {
        return Err(too_large(most));
    }
    let turn = match principal {
        Some(principal) if length > LARGE.0 => Some(api.turn(principal).await?),
        Some(_) | None => None,
    };
    let rest = api.within_body_timeout(read_all(body, most + PREFIX - read.len())).await?;
    read.extend_from_slice(&rest);
    Ok((read.freeze(), turn))
}

async fn answer<S>(service: S, deadline: Option<Instant>, mut request: Request) -> Response
where
    S: Service<Request, Response = Response<tonic::body::Body>, Error = Infallible>,
    S::Future: Send,
{
    if let Some(deadline) = deadline {
        request.extensions_mut().insert(Deadline(deadline));
    }
    match service.oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(never) => match never {},
    }
}

fn surround(headers: &mut HeaderMap, id: &str, standing: &StandingCell) {
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(HeaderName::from_static(REQUEST_ID), value);
    }
    standing.show(headers);
}

/// The answer to a call that does not reach its service.
fn refuse(
    api: &Api,
    path: &str,
    id: &str,
    standing: &StandingCell,
    begun: Instant,
    error: &ApiError,
) -> Response {
    let took = begun.elapsed();
    tracing::info!(%path, request_id = %id, status = error.status.as_u16(), "a call was refused");
    api.metrics().answered("POST", "grpc", error.status.as_u16(), took);
    let mut response = status_of(error, id).into_http();
    surround(response.headers_mut(), id, standing);
    response
}

/// `grpc-timeout`: up to eight digits and a unit.
fn timeout_of(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let wrong = || ApiError::invalid(TIMEOUT, "must be up to 8 digits and one of H, M, S, m, u, n");
    let text = value.to_str().map_err(|_| wrong())?;
    let unit = text.bytes().last().ok_or_else(wrong)?;
    let digits = text.get(..text.len() - 1).ok_or_else(wrong)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    Ok(Some(match unit {
        b'H' => Duration::from_secs(count * 3_600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return Err(wrong()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, text.parse().unwrap());
            timeout_of(&headers).map_err(|error| error.message)
        };
        for (text, wanted) in [
            ("1H", Duration::from_secs(3_600)),
            ("99999999M", Duration::from_secs(99_999_999 * 60)),
            ("10S", Duration::from_secs(10)),
            ("250m", Duration::from_millis(250)),
            ("7u", Duration::from_micros(7)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(of(text), Ok(Some(wanted)), "{text}");
        }
        for text in ["", "S", "1", "1s", "-1S", "123456789S", "1.5S", "1 S"] {
            assert!(of(text).unwrap_err().starts_with("validation error: grpc-timeout: "), "{text}");
        }
        assert_eq!(timeout_of(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn what_a_call_is() {
        let intents = |rpc: &str| Nature::of(&format!("/{}/{rpc}", super::super::SERVICE_NAME));
        for read in ["Get", "List", "Watch"] {
            assert!(intents(read).is_read && !intents(read).is_bulk, "{read}");
        }
        for write in ["Apply", "Delete", "Plan", "Bulk", "Frob", "Check"] {
            assert!(!intents(write).is_read && !intents(write).is_open, "{write}");
        }
        assert!(intents("Bulk").is_bulk && intents("Plan").is_bulk && !intents("Apply").is_bulk);
        let health = |rpc: &str| Nature::of(&format!("/grpc.health.v1.Health/{rpc}"));
        assert!(health("Check").is_open && !health("Watch").is_open);
        let reflection = Nature::of("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
        assert!(reflection.is_dialogue && !reflection.is_open);
        assert!(!Nature::of("").is_open);
    }
}
