//! What becomes of a request: what is known of it, and what is done with its answer besides.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use hosting_edge_map::{BrandWord, Candidate, Candidates, Crawler, Policies, Target, Tenant};

use crate::exchange::Moved;
use crate::trace::Trace;
use crate::upstream::Mark;
use crate::visitor::Visitor;

/// Tells a node which host the client asked for, with the port if there was one. Nodes believe it from edges only.
pub const ORIGINAL_HOST: &str = "x-hosting-host";
/// Shows a node the [`Mark`] of a request. A node that shows it back with the answer proves which request it answers.
pub(crate) const REQUEST: &str = "x-hosting-request";
/// Tells the client which shard answered.
pub const SHARD: &str = "x-shard";
/// Tells the client where HTTP/3 is to be had (RFC 7838).
pub(crate) const ALT_SVC: &str = "alt-svc";

/// Tells a client that may know where its request went, and why, when it asks by the same field.
pub(crate) const EDGE_MAP: &str = "x-edge-map";
pub(crate) const STRICT_TRANSPORT_SECURITY: &[u8] = b"strict-transport-security";

/// What becomes of a request.
#[derive(Default)]
pub(crate) struct Course {
    pub(crate) tenant: Option<Arc<Tenant>>,
    /// What the tenant's brand says.
    pub(crate) brand: Option<Arc<BrandWord>>,
    /// Of its host.
    pub(crate) policies: Policies,
    /// Of which crawler it is, where that matters.
    pub(crate) crawler: Option<Crawler>,
    /// Whether the client's connection is TLS.
    pub(crate) tls: bool,
    /// Whether the client is told where its request went.
    pub(crate) is_shown: bool,
    /// Why the edge answered by itself.
    pub(crate) reason: &'static str,
    /// By which the request is known: to the client that gets a page, and to the node that was asked last.
    pub(crate) mark: Option<Mark>,
    pub(crate) serving: Option<Serving>,
    pub(crate) candidate: Option<Candidate>,
    pub(crate) upstream: Option<Duration>,
    pub(crate) passed: Moved,
    /// The value of `WWW-Authenticate`, where the client is asked who it is.
    pub(crate) challenge: Option<String>,
    /// The site is not told what the client showed the edge.
    pub(crate) hides_authorization: bool,
    /// What the cache did; empty: it was not asked.
    pub(crate) cache: &'static str,
    /// Its part in a trace, where there is tracing.
    pub(crate) trace: Option<Trace>,
}

impl Course {
    /// The value of `Strict-Transport-Security`, if the client is told.
    pub(crate) fn hsts(&self) -> Option<&[u8]> {
        self.policies.hsts().filter(|_| self.tls).map(str::as_bytes)
    }

    /// Where the request went, if the client is told. `serving`: the site whose node answered.
    pub(crate) fn map(&self, serving: Option<&Serving>) -> Option<String> {
        if !self.is_shown {
            return None;
        }
        let node = serving.zip(self.candidate).and_then(|(serving, at)| serving.candidates.node(at));
        let parts = [
            ("tenant", self.tenant.as_ref().map(|tenant| tenant.id())),
            ("webroot", serving.map(|serving| &*serving.webroot)),
            ("shard", serving.map(|serving| serving.candidates.pool().name())),
            ("node", node.map(|node| &*node.id)),
            ("reason", Some(self.reason).filter(|reason| !reason.is_empty())),
        ];
        let parts = parts.iter().filter_map(|(name, value)| Some(format!("{name}={}", (*value)?)));
        Some(parts.collect::<Vec<_>>().join(" "))
    }
}

/// A request that has a site.
pub(crate) struct Serving {
    pub(crate) webroot: Arc<str>,
    pub(crate) candidates: Candidates,
    /// The most requests of the tenant that may be under way.
    pub(crate) tenant_requests: usize,
    /// The site may change the protocol of its connections.
    pub(crate) may_upgrade: bool,
    pub(crate) forwarded: Forwarded,
    pub(crate) alt_svc: Option<Arc<str>>,
}

impl Serving {
    /// `name`: the host in its one spelling; `authority`: as the client wrote it.
    pub(crate) fn new(target: Target, visitor: &Visitor, name: &str, authority: &[u8]) -> Self {
        Self {
            webroot: target.webroot,
            candidates: target.candidates,
            tenant_requests: target.tenant_requests,
            may_upgrade: target.may_upgrade,
            forwarded: Forwarded::new(visitor, name, authority),
            alt_svc: visitor.alt_svc.as_ref().and_then(|alt_svc| alt_svc.value()),
        }
    }
}

/// For whom and for which host a request is made: the value of `Forwarded` (RFC 7239 §4), which holds the host as other fields have it.
pub(crate) struct Forwarded {
    pub(crate) value: Vec<u8>,
    host: Range<usize>,
}

impl Forwarded {
    /// The host is the name in its one spelling, with the port of `authority` as the client gave it.
    pub(crate) fn new(visitor: &Visitor, name: &str, authority: &[u8]) -> Self {
        let address = visitor.address.as_bytes();
        let (before, after): (&[u8], &[u8]) =
            if address.contains(&b':') { (b"for=\"[", b"]\"") } else { (b"for=", b"") };
        let mut value = Vec::with_capacity(64 + address.len() + authority.len());
        for part in [before, address, after, b";host=\""] {
            value.extend_from_slice(part);
        }
        let begin = value.len();
        value.extend_from_slice(name.as_bytes());
        if let Some(colon) = memchr::memchr(b':', authority).filter(|colon| colon + 1 < authority.len()) {
            value.extend_from_slice(authority.get(colon..).unwrap_or_default());
        }
        let host = begin..value.len();
        value.extend_from_slice(if visitor.tls { b"\";proto=https" } else { b"\";proto=http" });
        Self { value, host }
    }

    pub(crate) fn host(&self) -> &[u8] {
        self.value.get(self.host.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::Addresses;

    #[test]
    fn the_host_keeps_its_port_and_an_address_is_quoted_where_it_must_be() {
        let forwarded = |address: &str, tls: bool, name: &str, raw: &str| {
            let visitor = Visitor::at(address.parse().unwrap(), Addresses::Full, tls, None);
            let forwarded = Forwarded::new(&visitor, name, raw.as_bytes());
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (text(forwarded.host()), text(&forwarded.value))
        };
        let of = |host: &str, value: &str| (host.to_owned(), value.to_owned());
        assert_eq!(
            forwarded("192.0.2.1", false, "a.example", "A.example."),
            of("a.example", "for=192.0.2.1;host=\"a.example\";proto=http")
        );
        assert_eq!(
            forwarded("2001:db8::1", true, "a.example", "a.example:8443"),
            of("a.example:8443", "for=\"[2001:db8::1]\";host=\"a.example:8443\";proto=https")
        );
        assert_eq!(forwarded("192.0.2.1", false, "a.example", "a.example:").0, "a.example");
    }
}
