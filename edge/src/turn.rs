//! What the cache makes of the response to one request.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hosting_edge_cache::{
    Asked, Came, Key, Landed, Lead, Millis, Stamp, Store, Stored, Verdict, check, is_tag_field,
};
use hosting_edge_http1::{AnswerHead, Framing, Request};
use hosting_intent::message::CachePolicy;

use crate::filling::Filling;

/// Tells a client what the cache did (RFC 9211).
pub(crate) const CACHE_STATUS: &[u8] = b"cache-status";

/// The time.
pub(crate) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What becomes of a response.
#[derive(Debug)]
pub(crate) enum Received {
    /// The client gets it.
    Passed,
    /// The client gets it, and it is stored.
    Kept(Filling),
    /// What was stored still holds; this is it.
    Confirmed(Arc<Stored>),
    /// It is about another one than what was stored. The node has to be asked for all of it.
    Again,
    /// The site fails, and this may be used meanwhile.
    InNeed(Arc<Stored>),
}

/// The cache's part in a request to a node.
pub(crate) struct Turn<'t> {
    /// The request as the client sent it.
    client: &'t Request,
    kind: Kind<'t>,
    status: &'static str,
}

enum Kind<'t> {
    /// None of the cache's business.
    Bypass,
    Change(Change<'t>),
    Fetch(Fetch<'t>),
}

/// A request that may change a page.
pub(crate) struct Change<'t> {
    pub(crate) store: &'t Arc<Store>,
    pub(crate) tenant: &'t str,
    pub(crate) key: Key,
}

/// A request whose response may be stored.
pub(crate) struct Fetch<'t> {
    pub(crate) store: &'t Arc<Store>,
    pub(crate) tenant: &'t str,
    pub(crate) key: &'t Key,
    pub(crate) asked: &'t Asked<'t>,
    pub(crate) policy: &'t CachePolicy,
    /// What the node is asked about.
    pub(crate) stale: Option<Arc<Stored>>,
    /// Others wait for it.
    pub(crate) lead: Option<Lead>,
    /// The purges, and the time, of when the node was asked.
    pub(crate) stamp: Stamp,
    pub(crate) at: Millis,
}

impl<'t> Turn<'t> {
    /// `status`: what is said of it in `Cache-Status`.
    pub(crate) const fn bypass(client: &'t Request, status: &'static str) -> Self {
        Self { client, kind: Kind::Bypass, status }
    }

    pub(crate) const fn change(client: &'t Request, change: Change<'t>) -> Self {
        Self { client, kind: Kind::Change(change), status: "edge; fwd=method" }
    }

    pub(crate) fn fetch(client: &'t Request, fetch: Fetch<'t>) -> Self {
        let status = if fetch.stale.is_some() { "edge; fwd=stale" } else { "edge; fwd=miss" };
        Self { client, kind: Kind::Fetch(fetch), status }
    }

    /// The request as the client sent it.
    pub(crate) const fn client(&self) -> &'t Request {
        self.client
    }

    /// What is said of it in `Cache-Status`.
    pub(crate) const fn status(&self) -> &'static str {
        self.status
    }

    /// What others wait with, if nobody told them yet.
    pub(crate) fn take_lead(&mut self) -> Option<Lead> {
        if let Kind::Fetch(fetch) = &mut self.kind { fetch.lead.take() } else { None }
    }

    /// Decides on a response. Tags are taken out of its head: they are nobody's business.
    /// `body`: how it is framed.
    pub(crate) fn received(&mut self, head: &mut AnswerHead<'_>, body: Framing) -> Received {
        let received = match &mut self.kind {
            Kind::Bypass => Received::Passed,
            Kind::Change(change) => {
                change.received(head);
                Received::Passed
            }
            Kind::Fetch(fetch) => fetch.received(head, body),
        };
        if matches!(received, Received::Kept(_)) {
            self.status = if self.status == "edge; fwd=stale" {
                "edge; fwd=stale; stored"
            } else {
                "edge; fwd=miss; stored"
            };
        }
        head.fields.retain(|(name, _)| !is_tag_field(name));
        received
    }
}

impl Change<'_> {
    /// A change that went well makes what is stored of the page, and of those that the response names, out of date (RFC 9111 §4.4).
    fn received(&self, head: &AnswerHead<'_>) {
        if !(200..400).contains(&head.status) {
            return;
        }
        let at = now();
        let mut changed = |path: &[u8]| {
            for tls in [false, true] {
                self.store.invalidate(self.tenant, &self.key.sibling(tls, path), at);
            }
        };
        changed(self.key.path());
        for (name, value) in &head.fields {
            if name.eq_ignore_ascii_case(b"location") || name.eq_ignore_ascii_case(b"content-location") {
                path_on(value, self.key.host()).into_iter().for_each(&mut changed);
            }
        }
    }
}

/// The path of a URL, if it is one of this host.
fn path_on<'v>(url: &'v [u8], host: &[u8]) -> Option<&'v [u8]> {
    let url = url.split(|byte| *byte == b'#').next().unwrap_or_default();
    if url.starts_with(b"/") && !url.starts_with(b"//") {
        return Some(url);
    }
    let rest = url.strip_prefix(b"https://").or_else(|| url.strip_prefix(b"http://"))?;
    let slash = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let (named, path) = rest.split_at_checked(slash)?;
    named.eq_ignore_ascii_case(host).then_some(if path.is_empty() { b"/" } else { path })
}

impl Fetch<'_> {
    fn received(&mut self, head: &AnswerHead<'_>, body: Framing) -> Received {
        let at = now();
        let came = Came {
            status: head.status,
            reason: head.reason,
            fields: &head.fields,
            length: head.length,
            asked_at: self.at,
            at,
        };
        if head.status == 304
            && let Some(stale) = self.stale.take()
        {
            return match self.store.confirm(&stale, self.asked, &came, self.stamp, self.policy) {
                Some((stored, is_stored)) => {
                    self.land(if is_stored { Landed::Stored(Arc::clone(&stored)) } else { Landed::Unshared });
                    Received::Confirmed(stored)
                }
                None => {
                    self.store.remove(&stale);
                    Received::Again
                }
            };
        }
        let is_failure = matches!(head.status, 500 | 502..=504);
        if is_failure && let Some(stale) = self.stale.as_ref().filter(|stale| stale.usable_in_need(at)) {
            let stale = Arc::clone(stale);
            self.land(Landed::InNeed(Arc::clone(&stale)));
            return Received::InNeed(stale);
        }
        match check(self.asked, &came, self.policy) {
            // Nobody can tell whether a body is whole that ends with its connection.
            Verdict::Store(_) if body == Framing::UntilClose => {
                self.store.note_unshared(self.tenant, self.key, at);
            }
            Verdict::Store(terms) => {
                let key = self.key.clone();
                let draft =
                    self.store.draft(self.tenant, key, self.asked, &came, terms, self.stamp, self.policy);
                if let Some(draft) = draft {
                    return Received::Kept(Filling::new(draft, self.lead.take()));
                }
            }
            Verdict::Pass if head.status < 500 => {
                self.stale.take().inspect(|stale| self.store.remove(stale));
                self.store.note_unshared(self.tenant, self.key, at);
            }
            Verdict::Pass => {}
        }
        self.land(Landed::Unshared);
        Received::Passed
    }

    fn land(&mut self, landed: Landed) {
        if let Some(lead) = self.lead.take() {
            lead.land(landed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_speaks_of_pages_of_its_own_host_alone() {
        let path = |url: &str| {
            path_on(url.as_bytes(), b"a.example:8443").map(|path| String::from_utf8(path.to_vec()).unwrap())
        };
        for (url, wanted) in [
            ("/a?b#c", Some("/a?b")),
            ("https://A.example:8443/a", Some("/a")),
            ("http://a.example:8443", Some("/")),
            ("https://a.example/a", None),
            ("https://b.example/a", None),
            ("//a.example:8443/a", None),
            ("a", None),
            ("", None),
        ] {
            assert_eq!(path(url).as_deref(), wanted, "{url}");
        }
    }
}
