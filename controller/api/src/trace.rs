//! Ids of requests, and W3C Trace Context.

use std::fmt::Write;

use axum::http::HeaderMap;

/// The caller's, when it is harmless in a log; else a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> String {
    headers
        .get("x-request-id")
        .and_then(|value| value.to_str().ok())
        .filter(|id| {
            (1..=64).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        })
        .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

/// W3C Trace Context, version 00.
pub(crate) fn is_traceparent(text: &str) -> bool {
    let lower_hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next(), parts.next(), parts.next(), parts.next());
    parts.next().is_none()
        && version == Some("00")
        && trace.is_some_and(|trace| lower_hex(trace, 32) && trace.bytes().any(|b| b != b'0'))
        && span.is_some_and(|span| lower_hex(span, 16) && span.bytes().any(|b| b != b'0'))
        && flags.is_some_and(|flags| lower_hex(flags, 2))
}

/// A traceparent of our own: in the given trace, or in a new one. For when nothing exports spans.
pub(crate) fn child_of(given: &str) -> String {
    let mut random = [0u8; 24];
    rand::fill(&mut random);
    let (new_trace, span) = random.split_at(16);
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    let mut parts = given.split('-').skip(1);
    let trace = parts.next().map_or_else(|| hex(new_trace), str::to_owned);
    let flags = parts.nth(1).unwrap_or("01");
    format!("00-{trace}-{}-{flags}", hex(span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_go_on() {
        let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        assert!(is_traceparent(given));
        let child = child_of(given);
        assert!(is_traceparent(&child), "{child}");
        assert_eq!((&child[..36], &child[52..]), (&given[..36], "-00"));
        assert_ne!(child, given);
        assert!(is_traceparent(&child_of("")));
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
