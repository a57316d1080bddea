//! What a request asks of the cache.

use std::borrow::Cow;

use hosting_intent::message::CachePolicy;

use crate::control::Control;
use crate::key::{is_listed, page};
use crate::values;

/// Cookies that scripts of analytics set and sites do not read: with these alone a request counts as one without cookies.
const SCRIPTS_COOKIES: [&str; 12] =
    ["_ga*", "_gid", "_gat*", "_gcl_*", "_fbp", "_fbc", "_pk_*", "_hj*", "__utm*", "_clck", "_clsk", "_uet*"];

/// Fields that a site could answer by and that are in no key: what may be stored is asked for without them. `X-Forwarded-*` of clients never
/// reaches a site.
const UNKEYED: [&[u8]; 9] = [
    b"x-original-url",
    b"x-rewrite-url",
    b"x-host",
    b"x-http-method",
    b"x-http-method-override",
    b"x-method-override",
    b"x-original-uri",
    b"x-original-path",
    b"x-wap-profile",
];

/// What a client made of what it has, which is a question to the cache and not to the node.
const CONDITIONS: [&[u8]; 4] = [b"if-none-match", b"if-modified-since", b"if-range", b"range"];

/// A request that the cache may answer.
#[derive(Debug)]
pub struct Asked<'r> {
    fields: Vec<(&'r [u8], &'r [u8])>,
    path: Cow<'r, [u8]>,
    pub(crate) control: Control,
    is_head: bool,
    is_authorized: bool,
    has_cookies: bool,
    /// The node is asked for gzip.
    takes_gzip: bool,
}

impl<'r> Asked<'r> {
    /// `None`: the request is none of the cache's business. `compresses`: the edge compresses what the site says, so the node is asked for
    /// the text as it is.
    #[must_use]
    pub fn new(
        method: &[u8],
        path: &'r [u8],
        fields: impl Iterator<Item = (&'r [u8], &'r [u8])>,
        policy: &CachePolicy,
        compresses: bool,
    ) -> Option<Self> {
        let is_head = method == b"HEAD";
        if !policy.enabled || !(is_head || method == b"GET") {
            return None;
        }
        let fields: Vec<_> = fields.collect();
        // Preconditions are the site's to decide.
        let has = |name: &[u8]| values(&fields, name).next().is_some();
        if has(b"if-match") || has(b"if-unmodified-since") {
            return None;
        }
        let mut has_cookies = false;
        for cookie in values(&fields, b"cookie").flat_map(|value| value.split(|byte| *byte == b';')) {
            let name = cookie.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
            if is_listed(&policy.bypass_cookies, name) {
                return None;
            }
            has_cookies |= !name.is_empty() && !is_listed(&SCRIPTS_COOKIES, name);
        }
        let mut control = Control::read(values(&fields, b"cache-control"));
        if !has(b"cache-control") {
            let mut pragma = values(&fields, b"pragma");
            control.no_cache = pragma.any(|value| value.eq_ignore_ascii_case(b"no-cache"));
        }
        if control.no_store {
            return None;
        }
        let path = page(path, policy);
        let takes_gzip = !compresses && takes_gzip(values(&fields, b"accept-encoding"));
        let is_authorized = has(b"authorization");
        Some(Self { fields, path, control, is_head, is_authorized, has_cookies, takes_gzip })
    }

    /// The path and query that make the page.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// The method is HEAD.
    #[must_use]
    pub fn is_head(&self) -> bool {
        self.is_head
    }

    /// A part is wanted (RFC 9110 §14).
    #[must_use]
    pub fn is_for_a_part(&self) -> bool {
        self.value(b"range").is_some()
    }

    /// The client wants no answer but a stored one.
    #[must_use]
    pub fn only_if_stored(&self) -> bool {
        self.control.only_if_cached
    }

    /// It shows who asks.
    pub(crate) fn is_authorized(&self) -> bool {
        self.is_authorized
    }

    /// It has cookies that a site may read.
    pub(crate) fn has_cookies(&self) -> bool {
        self.has_cookies
    }

    pub(crate) fn value(&self, name: &[u8]) -> Option<&'r [u8]> {
        values(&self.fields, name).next()
    }

    pub(crate) fn values<'s>(&'s self, name: &'s [u8]) -> impl Iterator<Item = &'r [u8]> + 's {
        values(&self.fields, name)
    }

    /// The fields that the node is asked with: what is not in the key is left out.
    pub fn forwarded(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let gzip = self.takes_gzip.then_some((&b"accept-encoding"[..], &b"gzip"[..]));
        let kept = self.fields.iter().filter(|(name, _)| !is_left_out(name)).copied();
        kept.chain(gzip)
    }

    /// What a response depends on that varies by a field, as the node is asked (RFC 9111 §4.1).
    pub(crate) fn varied(&self, name: &[u8]) -> Box<[u8]> {
        if name.eq_ignore_ascii_case(b"accept-encoding") {
            return if self.takes_gzip { b"gzip"[..].into() } else { Box::default() };
        }
        if is_left_out(name) {
            return Box::default();
        }
        let mut joined = Vec::new();
        for value in self.values(name) {
            if !joined.is_empty() {
                joined.extend_from_slice(b",");
            }
            joined.extend_from_slice(value);
        }
        joined.into()
    }
}

fn is_left_out(name: &[u8]) -> bool {
    let is = |known: &&[u8]| name.eq_ignore_ascii_case(known);
    // CGI makes one variable of both spellings.
    let spelt: Cow<'_, [u8]> = if name.contains(&b'_') {
        name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect::<Vec<u8>>().into()
    } else {
        name.into()
    };
    UNKEYED.iter().any(|known| spelt.eq_ignore_ascii_case(known))
        || CONDITIONS.iter().any(is)
        || is(&&b"accept-encoding"[..])
}

/// Whether a client takes gzip (RFC 9110 §12.5.3).
fn takes_gzip<'a>(accepted: impl Iterator<Item = &'a [u8]>) -> bool {
    let (mut named, mut others) = (None, None);
    for item in accepted.flat_map(|value| value.split(|byte| *byte == b',')) {
        let mut parts = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")));
        // `0`, `0.`, `0.000` say no.
        let takes = weight.is_none_or(|weight| weight.iter().any(|byte| matches!(byte, b'1'..=b'9')));
        if name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip") {
            named = Some(takes);
        } else if name == b"*" {
            others = Some(takes);
        }
    }
    named.or(others).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_help::{pairs, policy};

    type Text<'a> = &'a [(&'a str, &'a str)];

    fn asked<'a>(method: &str, path: &'a str, fields: Text<'a>) -> Option<Asked<'a>> {
        Asked::new(method.as_bytes(), path.as_bytes(), pairs(fields).into_iter(), &policy(), false)
    }

    #[test]
    fn what_is_the_caches_business() {
        let yes: [Text<'_>; 5] = [
            &[],
            &[("cookie", "_ga=1; _gid=2; theme=dark")],
            &[("cookie", "xwordpress_logged_in_1=a")],
            &[("cache-control", "no-cache")],
            &[("authorization", "Basic eA==")],
        ];
        for fields in yes {
            assert!(
                asked("GET", "/", fields).is_some() && asked("HEAD", "/", fields).is_some(),
                "{fields:?}"
            );
        }
        let no: [Text<'_>; 5] = [
            &[("cookie", "a=b; wordpress_logged_in_0123=x")],
            &[("cookie", "a=b"), ("Cookie", "session=1")],
            &[("cache-control", "no-store")],
            &[("if-match", "\"a\"")],
            &[("if-unmodified-since", "x")],
        ];
        for fields in no {
            assert!(asked("GET", "/", fields).is_none(), "{fields:?}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "QUERY"] {
            assert!(asked(method, "/", &[]).is_none(), "{method}");
        }
        let off = CachePolicy { enabled: false, ..policy() };
        assert!(Asked::new(b"GET", b"/", std::iter::empty(), &off, false).is_none());
    }

    #[test]
    fn a_node_is_asked_with_what_is_in_the_key() {
        let fields: Text<'_> = &[
            ("accept", "text/html"),
            ("X-Original-URL", "/admin"),
            ("x_rewrite_url", "/admin"),
            ("x-http-method-override", "DELETE"),
            ("X-Host", "evil.example"),
            ("if-none-match", "\"a\""),
            ("range", "bytes=0-1"),
            ("Accept-Encoding", "br, gzip"),
        ];
        let asked = asked("GET", "/a?utm_x=1&b=2", fields).unwrap();
        assert_eq!(asked.path(), b"/a?b=2");
        let kept: Vec<_> = asked.forwarded().collect();
        assert_eq!(kept, [(&b"accept"[..], &b"text/html"[..]), (b"accept-encoding", b"gzip")]);
        assert_eq!(&*asked.varied(b"X-Original-Url"), b"");
        assert_eq!(&*asked.varied(b"Accept"), b"text/html");
        let plain = Asked::new(b"GET", b"", pairs(fields).into_iter(), &policy(), true).unwrap();
        assert_eq!(
            (plain.path(), plain.forwarded().count(), &*plain.varied(b"accept-encoding")),
            (&b"/"[..], 1, &b""[..])
        );
    }

    #[test]
    fn gzip_or_nothing() {
        for (accepted, takes) in [
            ("gzip", true),
            ("br, X-GZIP;q=0.1", true),
            ("*", true),
            ("*;q=0, gzip", true),
            ("gzip;q=0", false),
            ("gzip;q=0.000, *", false),
            ("br", false),
            ("", false),
        ] {
            assert_eq!(takes_gzip(std::iter::once(accepted.as_bytes())), takes, "{accepted}");
        }
    }
}
