//! What an entry is found by.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use hosting_intent::message::CachePolicy;

/// Whose page it is, and which: tenant, site, scheme, host with its port, and the path with its query as the node is asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    bytes: Arc<[u8]>,
    host: Range<usize>,
}

/// Stands between the parts; in none of them can it stand.
const BETWEEN: u8 = 0;

impl Key {
    /// The key of a page. `host`: with the port that the client gave, if any.
    #[must_use]
    pub fn new(tenant: &str, site: &str, tls: bool, host: &[u8], path: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(tenant.len() + site.len() + host.len() + path.len() + 5);
        bytes.push(if tls { b's' } else { b'h' });
        for part in [tenant.as_bytes(), site.as_bytes()] {
            bytes.extend_from_slice(part);
            bytes.push(BETWEEN);
        }
        let begin = bytes.len();
        bytes.extend_from_slice(host);
        let host = begin..bytes.len();
        bytes.push(BETWEEN);
        bytes.extend_from_slice(path);
        Self { bytes: bytes.into(), host }
    }

    /// The same page over the other scheme, or another path of the same host.
    #[must_use]
    pub fn sibling(&self, tls: bool, path: &[u8]) -> Self {
        let mut bytes = self.bytes.get(..=self.host.end).unwrap_or_default().to_vec();
        if let Some(scheme) = bytes.first_mut() {
            *scheme = if tls { b's' } else { b'h' };
        }
        bytes.extend_from_slice(path);
        Self { bytes: bytes.into(), host: self.host.clone() }
    }

    pub(crate) fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// The host with its port.
    #[must_use]
    pub fn host(&self) -> &[u8] {
        self.bytes.get(self.host.clone()).unwrap_or_default()
    }

    /// The host without its port.
    pub(crate) fn name(&self) -> &[u8] {
        let host = self.host();
        host.split(|byte| *byte == b':').next().unwrap_or_default()
    }

    /// The path with its query.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        self.bytes.get(self.host.end + 1..).unwrap_or_default()
    }

    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }
}

/// Whether a name is one of those that a list has; one that ends with `*` stands for all that begin like it.
pub(crate) fn is_listed<S: AsRef<str>>(list: &[S], name: &[u8]) -> bool {
    list.iter().any(|pattern| {
        let pattern = pattern.as_ref().as_bytes();
        match pattern.strip_suffix(b"*") {
            Some(begin) => name.starts_with(begin),
            None => name == pattern,
        }
    })
}

/// What makes a page of a target from its path on: that, without the query parameters that make no other page.
#[must_use]
pub fn page<'p>(path: &'p [u8], policy: &CachePolicy) -> Cow<'p, [u8]> {
    let path = if path.first() == Some(&b'/') { Cow::Borrowed(path) } else { [b"/", path].concat().into() };
    match without(&path, &policy.ignored_query) {
        Some(without) => without.into(),
        None => path,
    }
}

/// A target from its path on without the query parameters that a list has; `None`: it has none of them.
fn without(path: &[u8], ignored: &[String]) -> Option<Vec<u8>> {
    let mark = path.iter().position(|byte| *byte == b'?')?;
    let (before, query) = (path.get(..mark)?, path.get(mark + 1..)?);
    let is_ignored = |parameter: &[u8]| {
        let name = parameter.split(|byte| *byte == b'=').next().unwrap_or_default();
        is_listed(ignored, name)
    };
    let parameters = || query.split(|byte| *byte == b'&');
    if !parameters().any(is_ignored) {
        return None;
    }
    let kept: Vec<&[u8]> = parameters().filter(|parameter| !is_ignored(parameter)).collect();
    let mut out = before.to_vec();
    if !kept.is_empty() {
        out.push(b'?');
        out.extend_from_slice(&kept.join(&b'&'));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_parameters_are_taken_out_and_nothing_else_changes() {
        let ignored = ["utm_*".to_owned(), "fbclid".to_owned()];
        let without =
            |path: &str| without(path.as_bytes(), &ignored).map(|path| String::from_utf8(path).unwrap());
        for (path, left) in [
            ("/a?utm_source=x", "/a"),
            ("/a?b=1&utm_source=x&c", "/a?b=1&c"),
            ("/a?fbclid=1&b=2&b=1", "/a?b=2&b=1"),
            ("?utm_=", ""),
        ] {
            assert_eq!(without(path).as_deref(), Some(left), "{path}");
        }
        for same in ["/a", "/a?", "/a?b=utm_x", "/utm_x?a", "/a?fbclid2=1", "/a?UTM_source=1", "/a?b&&c"] {
            assert_eq!(without(same), None, "{same}");
        }
    }

    #[test]
    fn no_two_pages_have_one_key() {
        let key = |tenant: &str, site: &str, tls, host: &str, path: &str| {
            Key::new(tenant, site, tls, host.as_bytes(), path.as_bytes())
        };
        let one = key("t", "w", true, "a.example:8443", "/x?y");
        assert_eq!(
            (one.host(), one.name(), one.path()),
            (&b"a.example:8443"[..], &b"a.example"[..], &b"/x?y"[..])
        );
        for other in [
            key("t2", "w", true, "a.example:8443", "/x?y"),
            key("t", "w2", true, "a.example:8443", "/x?y"),
            key("t", "w", false, "a.example:8443", "/x?y"),
            key("t", "w", true, "a.example", "/x?y"),
            key("t", "w", true, "a.example:8443", "/x?Y"),
            key("t", "w", true, "a.example:8443", "/x"),
        ] {
            assert_ne!(one.bytes(), other.bytes());
        }
        assert_eq!(one.sibling(false, b"/z"), key("t", "w", false, "a.example:8443", "/z"));
    }
}
