//! What a request carries beside its path and query: preconditions, media type, body.

use std::fmt;

use axum::body::{Body, Bytes};
use axum::extract::RawPathParams;
use axum::http::{HeaderMap, StatusCode, header};
use hosting_jobs::kinds::callback::CallbackRules;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::ApiError;
use crate::route::{Op, Route};

/// Bodies from this size on are read on a thread that may block: others' requests go on meanwhile.
const LARGE: usize = 16 * 1024;

/// The header that says where to tell that a change is complete.
pub(crate) const CALLBACK_URL: &str = "x-callback-url";

/// Where to tell that the change is complete, checked by the operator's rules. Reads take the header and ignore it.
pub(crate) fn callback_url(
    route: &Route,
    headers: &HeaderMap,
    rules: &CallbackRules,
) -> Result<Option<String>, ApiError> {
    let mut given = headers.get_all(CALLBACK_URL).iter();
    let Some(value) = given.next().filter(|_| route.is_mutating()) else { return Ok(None) };
    let wrong = |problem: &str| ApiError::invalid("X-Callback-URL", problem);
    if given.next().is_some() {
        return Err(wrong("is given twice; give it once"));
    }
    if !route.takes_callback() {
        return Err(wrong("has nothing to tell of: the request is complete with its answer; leave it out"));
    }
    let text = value.to_str().map_err(|_| wrong("must be printable ASCII"))?;
    let url = rules.check(text).map_err(|problem| wrong(&problem))?;
    Ok(Some(url.into()))
}

/// The request header.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longest key, in characters.
const MAX_KEY: usize = 255;

/// Reads the header of a change; reads of resources take it and ignore it.
pub(crate) fn idempotency_key(route: &Route, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = given.next().filter(|_| route.is_mutating()) else { return Ok(None) };
    let wrong = |problem: &str| ApiError::invalid("Idempotency-Key", problem);
    if given.next().is_some() {
        return Err(wrong("is given twice; give it once"));
    }
    if !takes_idempotency_key(route) {
        return Err(wrong(
            "is not taken here: the request does the same each time, or shows what is kept nowhere; leave it out",
        ));
    }
    let text = value.to_str().map_err(|_| wrong("must be printable ASCII"))?.trim();
    let key = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(wrong(&format!("must have 1 to {MAX_KEY} characters, e.g. a random UUID")));
    }
    Ok(Some(key.to_owned()))
}

/// Whether a route takes the header: all that change resources do.
pub(crate) fn takes_idempotency_key(route: &Route) -> bool {
    route.is_mutating() && !matches!(route.op, Op::Order(_))
}

/// What stands for a bulk's body where requests are told apart.
pub(crate) fn digest_of(bytes: &Bytes) -> Map<String, Value> {
    use sha2::{Digest, Sha256};
    Map::from_iter([("sha256".to_owned(), hex::encode(Sha256::digest(bytes)).into())])
}

/// How long a body is said to be, in bytes.
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What a body of more than `limit` bytes is answered with.
pub(crate) fn too_large(limit: usize) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes"))
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read_all(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    axum::body::to_bytes(body, limit).await.map_err(|error| {
        let over = std::error::Error::source(&error)
            .is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>());
        if over {
            too_large(limit)
        } else {
            ApiError::new(StatusCode::BAD_REQUEST, "the body could not be read to its end")
        }
    })
}

/// Refuses a body that says that it is no JSON in UTF-8. A body that says nothing is taken for it.
pub(crate) fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let wrong = |found: &str| {
        Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("{found}: bodies are JSON; send them with Content-Type: application/json"),
        ))
    };
    if let Some(coding) = headers.get(header::CONTENT_ENCODING)
        && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return wrong("a content coding");
    }
    let mut given = headers.get_all(header::CONTENT_TYPE).iter();
    let Some(value) = given.next() else { return Ok(()) };
    let text = value.to_str().unwrap_or("an unreadable media type");
    let shown: String = text.chars().take(100).collect();
    if given.next().is_some() {
        return wrong("two media types");
    }
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let json = essence == "application/json"
        || essence.strip_prefix("application/").is_some_and(|subtype| subtype.ends_with("+json"));
    let utf8 = parts.filter_map(|part| part.split_once('=')).all(|(name, value)| {
        !name.trim().eq_ignore_ascii_case("charset")
            || ["utf-8", "utf8", "us-ascii"]
                .iter()
                .any(|charset| value.trim().trim_matches('"').eq_ignore_ascii_case(charset))
    });
    if json && utf8 { Ok(()) } else { wrong(&shown) }
}

/// A body as an object; the fields of all its objects are given once.
pub(crate) async fn parse(bytes: Bytes) -> Result<Map<String, Value>, ApiError> {
    if bytes.len() < LARGE {
        return object(&bytes);
    }
    match tokio::task::spawn_blocking(move || object(&bytes)).await {
        Ok(parsed) => parsed,
        Err(error) => Err(ApiError::internal(&error)),
    }
}

pub(crate) fn object(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let wrong = |problem: String| ApiError::new(StatusCode::BAD_REQUEST, format!("invalid JSON: {problem}"));
    let mut track = serde_path_to_error::Track::new();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    match Distinct.deserialize(tracked).and_then(|value| json.end().map(|()| value)) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(wrong("the body must be an object".to_owned())),
        Err(error) => {
            let path: String = track.path().to_string().chars().take(200).collect();
            Err(wrong(if path == "." { error.to_string() } else { format!("{path}: {error}") }))
        }
    }
}

/// Any JSON value in whose objects no field stands twice: what the second one means is anybody's guess (RFC 8259 §4).
struct Distinct;

impl<'de> DeserializeSeed<'de> for Distinct {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Distinct {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Distinct)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if object.contains_key(&name) {
                let shown: String = name.chars().take(64).collect();
                return Err(A::Error::custom(format!("the field {shown:?} is given twice; give it once")));
            }
            let value = fields.next_value_seed(Distinct)?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

/// A parameter of the path by its place; empty when there is none.
pub(crate) fn param(params: Option<&RawPathParams>, place: usize) -> String {
    let found = params.and_then(|params| params.iter().nth(place));
    found.map(|(_, value)| value.to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preconditions::tests::with;

    #[test]
    fn media_types() {
        let of = |value: &str| check_media_type(&with(header::CONTENT_TYPE, &[value])).is_ok();
        for good in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
            "application/merge-patch+json",
            "application/json; profile=x",
        ] {
            assert!(of(good), "{good}");
        }
        for bad in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/json; charset=latin1",
            "json",
            "",
        ] {
            assert!(!of(bad), "{bad}");
        }
        assert!(check_media_type(&HeaderMap::new()).is_ok());
        assert!(check_media_type(&with(header::CONTENT_ENCODING, &["gzip"])).is_err());
        assert!(check_media_type(&with(header::CONTENT_TYPE, &["application/json"; 2])).is_err());
    }

    #[test]
    fn fields_are_given_once_at_every_depth() {
        let problem = |text: &str| object(text.as_bytes()).unwrap_err().message;
        assert_eq!(object(br#"{"a": [1, -2, 0.5, null, {"b": "c"}]}"#).unwrap()["a"][4]["b"], "c");
        let text = problem(r#"{"content": "1", "content": "2"}"#);
        assert!(text.starts_with("invalid JSON: the field \"content\" is given twice"), "{text}");
        let text = problem(r#"{"webroots": [{}, {"runtime": "php", "runtime": "php"}]}"#);
        assert!(
            text.starts_with("invalid JSON: webroots[1]: the field \"runtime\" is given twice"),
            "{text}"
        );
        let text = problem(r#"{"a": {"x": 1, "\u0078": 2}}"#);
        assert!(text.contains("\"x\" is given twice"), "{text}");
        for bad in ["", "{", "[]", "null", "{} {}", "{\"a\": 1e999}", "{\"a\": \"\\ud800\"}", "{\"a\":NaN}"] {
            assert!(problem(bad).starts_with("invalid JSON: "), "{bad}");
        }
        assert!(problem(&"[".repeat(100_000)).contains("recursion limit"));
        assert!(problem(&format!("{{\"a\":{}", "{\"a\":".repeat(100_000))).contains("recursion limit"));
    }
}
