//! What fields of these bodies may hold.

use crate::ApiError;
use crate::service::Call;

/// Longest name, key or id, in characters.
pub(super) const NAME: usize = 255;
/// Longest text, and largest metadata as JSON, in characters.
pub(super) const TEXT: usize = 16 * 1024;

/// A text of `least` to `most` characters; line breaks and tabs are the only control characters.
pub(in crate::actions) fn text(
    field: &str,
    given: String,
    least: usize,
    most: usize,
) -> Result<String, ApiError> {
    let length = given.chars().count();
    if length < least {
        return Err(ApiError::invalid(field, "is required"));
    }
    if length > most {
        return Err(ApiError::invalid(field, format!("must have at most {most} characters")));
    }
    if given.chars().any(|c| c.is_control() && c != '\n' && c != '\t' && c != '\r') {
        return Err(ApiError::invalid(field, "must not contain control characters"));
    }
    Ok(given)
}

pub(super) fn one_of(field: &str, given: String, words: &[&str]) -> Result<String, ApiError> {
    if words.contains(&given.as_str()) {
        return Ok(given);
    }
    Err(ApiError::invalid(field, format!("{given:?} must be one of {}", words.join(", "))))
}

pub(super) fn some(given: Option<String>) -> Option<String> {
    given.filter(|given| !given.is_empty())
}

pub(super) fn bad_cursor() -> ApiError {
    ApiError::invalid(
        "cursor",
        "is none of ours; use next_cursor of the page before, or start over without it",
    )
}

pub(super) fn number_of(call: &Call) -> Result<Option<u64>, ApiError> {
    call.query.text("cursor").map(|given| given.parse().map_err(|_| bad_cursor())).transpose()
}
