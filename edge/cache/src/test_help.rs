//! What tests of this crate share.

use hosting_intent::message::CachePolicy;

/// A time of which no test depends.
pub(crate) const NOW: crate::Millis = 1_700_000_000_000;

pub(crate) fn policy() -> CachePolicy {
    CachePolicy {
        enabled: true,
        default_ttl_seconds: 0,
        max_ttl_seconds: 86_400,
        stale_while_revalidate_seconds: 0,
        stale_if_error_seconds: 0,
        bypass_cookies: vec!["wordpress_logged_in_*".into(), "session".into()],
        ignored_query: vec!["utm_*".into()],
        max_object_bytes: 1_000_000,
    }
}

pub(crate) fn pairs<'a>(fields: &[(&'a str, &'a str)]) -> Vec<(&'a [u8], &'a [u8])> {
    fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
}

/// A date so many seconds from now.
pub(crate) fn at(seconds: i64) -> String {
    let now = std::time::UNIX_EPOCH + std::time::Duration::from_millis(NOW);
    let by = std::time::Duration::from_secs(seconds.unsigned_abs());
    httpdate::fmt_http_date(if seconds < 0 { now - by } else { now + by })
}
