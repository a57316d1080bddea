//! Asks the policy of a host about a request, and says what the client is told.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use hosting_edge_http1::{Framing, Request};
use hosting_edge_map::{
    Asked, Circumstances, Country, Crawler, Credentials, Found, Nanos, Policies, Rates, Routing, Ruling,
};

use crate::basic_auth::{PasswordChecks, Verdict};
use crate::browser_check::{BrowserCheck, CheckAnswer, is_navigation};
use crate::certs::CertStore;
use crate::countries::Countries;
use crate::course::Course;
use crate::crawlers::CrawlerList;
use crate::metrics::{CrawlerOutcome, Metrics, Rulings};
use crate::pages::Page;
use crate::settings::Settings;
use crate::visitor::Visitor;

/// Shows who asks.
pub(crate) const AUTHORIZATION: &[u8] = b"authorization";

/// What the edge answers without a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Page(Page),
    Redirect { code: u16, location: String },
    BrowserCheck(Box<CheckAnswer>),
}

impl From<Page> for Reply {
    fn from(page: Page) -> Self {
        Self::Page(page)
    }
}

/// What policies need to know of the edge.
#[derive(Debug)]
pub(crate) struct PolicyContext {
    certs: Arc<CertStore>,
    /// A colon and a port, or nothing.
    https_port: Box<str>,
    rates: Rates,
    start: Instant,
    rulings: Rulings,
    routing: Arc<Routing>,
    crawlers: Arc<CrawlerList>,
    check: BrowserCheck,
    countries: Arc<Countries>,
    passwords: PasswordChecks,
}

impl Circumstances for PolicyContext {
    fn has_certificate(&self, host: &str) -> bool {
        self.certs.tenants().serves(host)
    }

    fn https_port(&self) -> &str {
        &self.https_port
    }

    fn country(&self, address: IpAddr) -> Country {
        self.countries.of(address)
    }

    fn rates(&self) -> &Rates {
        &self.rates
    }

    fn now(&self) -> Nanos {
        Nanos::try_from(self.start.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }

    fn edges(&self) -> u32 {
        self.routing.edges()
    }
}

impl PolicyContext {
    pub(crate) fn new(
        certs: Arc<CertStore>,
        routing: Arc<Routing>,
        settings: &Settings,
        metrics: &Metrics,
        crawlers: Arc<CrawlerList>,
    ) -> Self {
        let https_port =
            settings.public_https_port().map(|port| format!(":{port}").into()).unwrap_or_default();
        Self {
            check: BrowserCheck::new(Arc::clone(&certs)),
            certs,
            https_port,
            rates: Rates::default(),
            start: Instant::now(),
            rulings: metrics.rulings.clone(),
            routing,
            crawlers,
            countries: Countries::load(settings.countries_file(), metrics.clone()),
            passwords: PasswordChecks::new(settings.threads(), metrics.passwords.clone()),
        }
    }

    /// The crawler that a request is of, where its host's policies ask for that.
    pub(crate) fn crawler(
        &self,
        policies: &Policies,
        request: &Request,
        visitor: &Visitor,
    ) -> Option<Crawler> {
        if !policies.asks_for_crawlers() {
            return None;
        }
        self.crawlers.of(request.head().field(b"user-agent")?, visitor.ip)
    }

    pub(crate) const fn countries(&self) -> &Arc<Countries> {
        &self.countries
    }

    /// What the client is told that must show who it is, and did not. Notes in the course whether the site sees what was shown.
    pub(crate) async fn authenticate(
        &self,
        request: &Request,
        visitor: &Visitor,
        host: &str,
        course: &mut Course,
    ) -> Result<(), Page> {
        let policies = course.policies.clone();
        let Some(auth) = policies.basic_auth() else { return Ok(()) };
        let mut fields = request.head().fields().filter(|(name, _)| name.eq_ignore_ascii_case(AUTHORIZATION));
        let shown = match (fields.next(), fields.next()) {
            (Some((_, value)), None) => Credentials::read(value),
            (None, _) | (Some(_), Some(_)) => None,
        };
        if !auth.asks(request.path()) {
            // Browsers show on open paths too what they were asked for on others.
            let is_ours = shown.is_some_and(|shown| auth.hash_of(shown.name()).is_some());
            course.hides_authorization = is_ours && !auth.passes_on();
            return Ok(());
        }
        let verdict = match &shown {
            Some(shown) => {
                let tenant = course.tenant.as_ref().map(|tenant| tenant.id()).unwrap_or_default();
                let now = || self.now();
                self.passwords.check(auth, shown, tenant, visitor.ip, &self.rates, now).await
            }
            None => Verdict::Wrong,
        };
        let (counter, page) = match verdict {
            Verdict::Right => {
                course.hides_authorization = !auth.passes_on();
                return Ok(());
            }
            Verdict::Wrong => {
                course.challenge = Some(auth.challenge(host));
                (&self.rulings.unauthorized, Page::Unauthorized)
            }
            Verdict::TooMany(seconds) => (&self.rulings.too_many, Page::TooMany(seconds)),
            Verdict::Busy => (&self.rulings.too_many, Page::Busy),
        };
        counter.inc();
        Err(page)
    }

    /// What the client is told instead of being passed on to the site. `host`: the request's, as [`hosting_edge_map::parse_host`] spells it.
    pub(crate) fn rule(
        &self,
        found: &Found,
        request: &Request,
        visitor: &Visitor,
        host: &str,
        crawler: Option<&Crawler>,
    ) -> Option<Reply> {
        if found.policies.is_empty() {
            return None;
        }
        let work = found.policies.challenge();
        let authority = std::str::from_utf8(request.authority()).unwrap_or_default();
        let port = authority.find(':').and_then(|colon| authority.get(colon..)).filter(|port| port.len() > 1);
        let asked = Asked {
            host,
            is_below: found.is_below,
            port: port.unwrap_or_default(),
            path: &path(request.path()),
            is_read: matches!(request.head().method(), b"GET" | b"HEAD"),
            is_post: request.head().method() == b"POST",
            tls: visitor.tls,
            address: visitor.ip,
            head: request.head().size(),
            body: if let Framing::Length(length) = request.body() { Some(length) } else { None },
            crawler,
            is_shown: work.is_some() && self.check.is_shown_by(request, visitor, host),
        };
        let ruling = found.policies.rule(&asked, found.tenant.id(), self);
        if let Some(crawler) = crawler {
            let outcome = match &ruling {
                Some(Ruling::Crawler) => CrawlerOutcome::Denied,
                Some(Ruling::CrawlerBudget(_)) => CrawlerOutcome::Limited,
                Some(Ruling::Challenge(_)) => CrawlerOutcome::Challenged,
                Some(_) | None => CrawlerOutcome::Passed,
            };
            self.crawlers.metrics().count(crawler.class, outcome);
        }
        let (counter, reply) = match ruling? {
            Ruling::Forbidden => (&self.rulings.forbidden, Page::Forbidden.into()),
            Ruling::Maintenance(seconds) => (&self.rulings.maintenance, Page::Maintenance(seconds).into()),
            Ruling::TooMany(seconds) => (&self.rulings.too_many, Page::TooMany(seconds).into()),
            Ruling::HeadTooLarge => (&self.rulings.too_large, Page::HeaderTooLarge.into()),
            Ruling::BodyTooLarge => (&self.rulings.too_large, Page::BodyTooLarge.into()),
            Ruling::Redirect { code, location } => {
                (&self.rulings.redirected, Reply::Redirect { code, location })
            }
            Ruling::Crawler => (&self.rulings.crawler, Page::Crawler.into()),
            Ruling::CrawlerBudget(seconds) => (&self.rulings.crawler_budget, Page::TooMany(seconds).into()),
            Ruling::Challenge(after) => match (work.filter(|_| is_navigation(request)), after) {
                (Some(work), after) => {
                    let page = self.check.ask(work, after, visitor, host);
                    (&self.rulings.browser_check, Reply::BrowserCheck(Box::new(page)))
                }
                (None, Some(seconds)) => (&self.rulings.too_many, Page::TooMany(seconds).into()),
                (None, None) => (&self.rulings.browsers_only, Page::BrowsersOnly.into()),
            },
            Ruling::Proof => {
                let query = request.path().split(|byte| *byte == b'?').nth(1).unwrap_or_default();
                match work.and_then(|work| self.check.take(work, query, visitor, host)) {
                    Some(pass) => (&self.rulings.browser_shown, Reply::BrowserCheck(Box::new(pass))),
                    None => (&self.rulings.browser_not_shown, Page::BrowsersOnly.into()),
                }
            }
        };
        counter.inc();
        Some(reply)
    }
}

/// A path as it can stand in a URL (RFC 3986 §3.3): one that begins with a slash, bytes that are no ASCII as `%` and two digits.
fn path(path: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(path) {
        Ok(text) if text.is_ascii() && text.starts_with('/') => Cow::Borrowed(text),
        _ => {
            let mut out = String::with_capacity(path.len() + 1);
            if path.first() != Some(&b'/') {
                out.push('/');
            }
            for byte in path {
                if byte.is_ascii() {
                    out.push(char::from(*byte));
                } else {
                    // Writing to a String does not fail.
                    let _ = write!(out, "%{byte:02X}");
                }
            }
            Cow::Owned(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_as_a_url_has_it() {
        assert!(matches!(path(b"/a?b=%20"), Cow::Borrowed("/a?b=%20")));
        assert_eq!(path(b""), "/");
        assert_eq!(path(b"?a"), "/?a");
        assert_eq!(path("/ä".as_bytes()), "/%C3%A4");
        assert_eq!(path(b"/\xff"), "/%FF");
    }
}
