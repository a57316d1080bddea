//! What a proxy does with each field.

/// The fields that mean something to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// `Host`.
    Host,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Connection`.
    Connection,
    /// `Expect`.
    Expect,
    /// `Upgrade`.
    Upgrade,
    /// `Cookie`, which HTTP/2 clients may send in several fields (RFC 9113 §8.2.3).
    Cookie,
    /// Belongs to one connection and passes no proxy (RFC 9110 §7.6.1).
    HopByHop,
    /// Passes unless `Connection` names it.
    Other,
}

impl FieldKind {
    /// Of a name in any case.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        // By length first: most names are none of these and end here.
        match name.len() {
            2 if is(b"te") => Self::HopByHop,
            4 if is(b"host") => Self::Host,
            6 if is(b"cookie") => Self::Cookie,
            6 if is(b"expect") => Self::Expect,
            7 if is(b"upgrade") => Self::Upgrade,
            7 if is(b"trailer") => Self::HopByHop,
            10 if is(b"connection") => Self::Connection,
            10 if is(b"keep-alive") => Self::HopByHop,
            14 if is(b"content-length") => Self::ContentLength,
            14 if is(b"http2-settings") => Self::HopByHop,
            16 if is(b"proxy-connection") => Self::HopByHop,
            17 if is(b"transfer-encoding") => Self::TransferEncoding,
            _ => Self::Other,
        }
    }
}

/// Whether a comma-separated list of tokens holds `token`, in any case (RFC 9110 §5.6.1).
#[must_use]
pub fn lists_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

/// Whether a request field from outside could be taken for one that only the edge may set, or speaks of a proxy that the edge
/// does not trust. `_` counts as `-`, because CGI makes one variable of both spellings. Case does not count.
#[must_use]
pub fn is_spoofable(name: &[u8]) -> bool {
    let is = |pattern: &[u8]| {
        name.len() >= pattern.len()
            && name
                .iter()
                .zip(pattern)
                .all(|(a, b)| a.to_ascii_lowercase() == *b || (*a == b'_' && *b == b'-'))
    };
    let exactly = |pattern: &[u8]| name.len() == pattern.len() && is(pattern);
    match name.first().map(u8::to_ascii_lowercase) {
        Some(b'x') => {
            is(b"x-hosting-")
                || is(b"x-forwarded-")
                || exactly(b"x-real-ip")
                || exactly(b"x-client-ip")
                || exactly(b"x-original-host")
        }
        Some(b'f') => exactly(b"forwarded"),
        // A CGI program would take `Proxy` for its own proxy setting.
        Some(b'p') => exactly(b"proxy"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_edge_may_say_is_known_in_every_spelling() {
        for name in [
            "x-hosting-host",
            "X_Hosting_Host",
            "x-hosting_key",
            "x-hosting-anything",
            "X-Forwarded-For",
            "x_forwarded_proto",
            "x-forwarded-port",
            "Forwarded",
            "x-real-ip",
            "proxy",
        ] {
            assert!(is_spoofable(name.as_bytes()), "{name}");
        }
        for name in
            ["host", "x-host", "proxy-authorization", "x-forward", "accept", "forwarded-x", "x-hosting", ""]
        {
            assert!(!is_spoofable(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn lists_are_read_item_by_item() {
        assert!(lists_token(b"keep-alive, Upgrade", b"upgrade"));
        assert!(lists_token(b",,close ,", b"close"));
        assert!(!lists_token(b"closed", b"close") && !lists_token(b"", b"close"));
    }
}
