//! Times as the API spells them.

/// RFC 3339, UTC. `at` is in milliseconds since the Unix epoch; times out of range show as the epoch.
#[must_use]
pub fn timestamp(at: i64) -> String {
    jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(timestamp(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(timestamp(i64::MAX), "1970-01-01T00:00:00Z");
    }
}
