//! What happens to a request: decide by host, then pass it on, answer it from the cache, or with a page.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hosting_edge_http1::{Request, RequestHead};
use hosting_edge_map::{Host, Leads, Proof, Routing, parse_host};
use hosting_intent::message::LogAddresses;
use hosting_scaffold::client_address::is_trusted;
use ipnet::IpNet;
use jiff::Timestamp;

use crate::access_log::{AccessLog, Addresses, Line, text};
use crate::browser_check::COOKIES;
use crate::caching::Caching;
use crate::certs::CertStore;
use crate::challenges::Challenges;
use crate::countries::Countries;
use crate::course::{Course, EDGE_MAP, Serving};
use crate::crawlers::CrawlerList;
use crate::exchange::{Client, Moved};
use crate::metrics::Metrics;
use crate::node_keys::NodeKeys;
use crate::nodes::Nodes;
use crate::pages::Page;
use crate::passing::Passing;
use crate::policy::{AUTHORIZATION, PolicyContext, Reply};
use crate::self_check::{CheckSecret, challenge_line};
use crate::settings::Settings;
use crate::trace::{Trace, Tracing};
use crate::traffic::{self, TrafficBook};
use crate::upstream::Mark;
use crate::visitor::Visitor;
use crate::watching::Watchers;

/// The policy and what it needs.
#[derive(Debug)]
pub(crate) struct Edge {
    routing: Arc<Routing>,
    metrics: Metrics,
    passing: Arc<Passing>,
    /// `None`: nothing is stored.
    caching: Option<Arc<Caching>>,
    checks: CheckSecret,
    challenges: Arc<Challenges>,
    policy: PolicyContext,
    /// Networks of clients that may know where their requests go.
    shown_to: Vec<IpNet>,
    log: AccessLog,
    traffic: Arc<TrafficBook>,
    tracing: OnceLock<Tracing>,
    watchers: Watchers,
}

impl Edge {
    #[allow(clippy::too_many_arguments, reason = "the parts of the server")]
    pub(crate) fn new(
        routing: Arc<Routing>,
        keys: Arc<NodeKeys>,
        metrics: Metrics,
        settings: &Settings,
        checks: CheckSecret,
        certs: Arc<CertStore>,
        log: AccessLog,
        crawlers: Arc<CrawlerList>,
    ) -> Self {
        let passing = Arc::new(Passing::new(keys, metrics.clone(), settings));
        let caching = Caching::new(settings, &routing, &passing);
        let policy =
            PolicyContext::new(Arc::clone(&certs), Arc::clone(&routing), settings, &metrics, crawlers);
        Self {
            routing,
            metrics,
            passing,
            caching,
            checks,
            challenges: Arc::clone(certs.challenges()),
            policy,
            shown_to: settings.map_shown_to.clone(),
            log,
            traffic: Arc::default(),
            tracing: OnceLock::new(),
            watchers: Watchers::default(),
        }
    }

    pub(crate) fn traffic(&self) -> Arc<TrafficBook> {
        Arc::clone(&self.traffic)
    }

    /// Where addresses are.
    pub(crate) const fn countries(&self) -> &Arc<Countries> {
        self.policy.countries()
    }

    /// Who watches requests.
    pub(crate) fn watchers(&self) -> Watchers {
        self.watchers.clone()
    }

    /// From here on requests have traces.
    pub(crate) fn trace(&self, tracing: Tracing) {
        // The first one counts: there is one collector.
        let _ = self.tracing.set(tracing);
    }

    /// The nodes, as requests see them.
    pub(crate) fn nodes(&self) -> &Nodes {
        self.passing.nodes()
    }

    /// Answers a request, whatever becomes of it.
    pub(crate) async fn serve<C: Client>(&self, client: &mut C, request: &Request, visitor: &Visitor) {
        if self.checks.is_shown_by(request) {
            return self.self_check(client, request, visitor).await;
        }
        let begun = Instant::now();
        let visitor = &*visitor.of(request);
        let is_shown =
            is_trusted(&self.shown_to, visitor.ip) && request.head().field(EDGE_MAP.as_bytes()).is_some();
        let mut course = Course { tls: visitor.tls, is_shown, ..Course::default() };
        course.trace = self.tracing.get().map(|tracing| tracing.begin(request, visitor));
        course.passed.present = visitor.watch.begin(request.authority(), begun);
        let challenge = Challenges::may_be_asked(request).then(|| self.challenge(request, visitor)).flatten();
        let code = match challenge {
            Some(text) => {
                course.reason = "acme_challenge";
                self.passing
                    .answering()
                    .text(client, request, b"application/octet-stream", &text, &mut course.passed)
                    .await
            }
            None => match self.route(request, visitor, &mut course).await {
                Ok(mut serving) => {
                    // What shows the edge that a client is a browser is nobody else's business, and makes no other page.
                    let bare = course.policies.knows_passes().then(|| request.without_cookies(&COOKIES));
                    let bare = bare.flatten();
                    let request = bare.as_ref().unwrap_or(request);
                    // The cache, too, sees what the site sees: what was shown to the edge makes no answer another one.
                    let hidden = course.hides_authorization.then(|| request.without(AUTHORIZATION));
                    let request = hidden.as_ref().unwrap_or(request);
                    let cached = self.caching.as_ref().filter(|_| course.policies.cache().is_some());
                    let (serving_now, course_now) = (&mut serving, &mut course);
                    let code = match cached {
                        Some(caching) => {
                            // On the heap, so that requests of other names have no room for it in their tasks.
                            Box::pin(caching.serve(client, request, visitor, serving_now, course_now)).await
                        }
                        None => {
                            self.passing
                                .pass_on(client, request, visitor, serving_now, course_now, None)
                                .await
                        }
                    };
                    course.serving = Some(serving);
                    code
                }
                Err(Reply::Page(page)) => {
                    self.passing.answering().page(client, page, Some(request), &mut course).await
                }
                Err(Reply::Redirect { code, location }) => {
                    self.passing.answering().redirect(client, code, &location, &mut course).await
                }
                Err(Reply::BrowserCheck(answer)) => {
                    self.passing.answering().browser_check(client, &answer, &mut course).await
                }
            },
        };
        self.metrics.request(code);
        self.write_down(visitor, Some(request), &course, begun, code);
        if let Some(trace) = course.trace.take() {
            let client = written(visitor, &course);
            let said = [
                ("client.address", Some(&*client)),
                ("hosting.tenant", course.tenant.as_ref().map(|tenant| tenant.id())),
                ("hosting.webroot", course.serving.as_ref().map(|serving| &*serving.webroot)),
                ("hosting.cache", Some(course.cache)),
            ];
            trace.end(code, course.reason, &said);
        }
    }

    /// Answers what is no request.
    pub(crate) async fn refuse<C: Client>(&self, client: &mut C, page: Page, visitor: &Visitor) {
        let begun = Instant::now();
        let mut course = Course::default();
        let code = self.passing.answering().page(client, page, None, &mut course).await;
        self.metrics.request(code);
        self.write_down(visitor, None, &course, begun, code);
    }

    fn write_down(
        &self,
        visitor: &Visitor,
        request: Option<&Request>,
        course: &Course,
        begun: Instant,
        code: u16,
    ) {
        if let Some(tenant) = &course.tenant {
            let Moved { received, sent, .. } = course.passed;
            let passed = traffic::Passed {
                status: code,
                received,
                sent,
                is_cached: course.upstream.is_none() && matches!(course.cache, "hit" | "stale"),
                node: course.upstream,
            };
            self.traffic.count(tenant, passed);
        }
        let is_watched = self.watchers.is_watched();
        if !self.log.is_on() && !is_watched {
            return;
        }
        let field = |name: &[u8]| request.and_then(|request| request.head().field(name)).unwrap_or_default();
        let head = request.map(Request::head);
        let serving = course.serving.as_ref();
        let node = serving.zip(course.candidate).and_then(|(serving, at)| serving.candidates.node(at));
        let trace = course.trace.as_ref().and_then(Trace::recorded_id);
        let line = Line {
            time: Timestamp::now(),
            client: &written(visitor, course),
            request: course.mark.as_ref().map(Mark::as_str),
            tls: visitor.tls,
            host: &text(request.map(Request::authority).unwrap_or_default()),
            method: &text(head.map(RequestHead::method).unwrap_or_default()),
            target: &text(head.map(RequestHead::target).unwrap_or_default()),
            status: code,
            reason: course.reason,
            cache: course.cache,
            crawler: course.crawler.as_ref().map(|crawler| &*crawler.agent),
            crawler_is: match course.crawler.as_ref().map(|crawler| crawler.proof) {
                Some(Proof::Verified) => "verified",
                Some(Proof::Impostor) => "impostor",
                Some(Proof::Unknown) => "unknown",
                None => "",
            },
            received: course.passed.received,
            sent: course.passed.sent,
            seconds: seconds(begun.elapsed()),
            upstream_seconds: course.upstream.map(seconds),
            tenant: course.tenant.as_ref().map(|tenant| tenant.id()),
            webroot: serving.map(|serving| &*serving.webroot),
            shard: serving.map(|serving| serving.candidates.pool().name()),
            node: node.map(|node| &*node.id),
            trace_id: trace.as_deref(),
            referer: &text(field(b"referer")),
            user_agent: &text(field(b"user-agent")),
        };
        self.log.write(&line);
        if let Some(request) = request.filter(|_| is_watched) {
            self.watchers.tell(&self.routing, request.authority(), &line);
        }
    }

    async fn route(
        &self,
        request: &Request,
        visitor: &Visitor,
        course: &mut Course,
    ) -> Result<Serving, Reply> {
        if request.is_asterisk() {
            return Err(Page::Options.into());
        }
        let name = self.host(request, visitor)?;
        let found = self.routing.resolve(&name).ok_or(Page::Unknown)?;
        course.crawler = self.policy.crawler(&found.policies, request, visitor);
        let ruled = self.policy.rule(&found, request, visitor, &name, course.crawler.as_ref());
        course.tenant = Some(found.tenant);
        course.brand = found.brand;
        course.policies = found.policies;
        if let Some(reply) = ruled {
            return Err(reply);
        }
        if course.policies.basic_auth().is_some() {
            // On the heap, so that requests of other names carry nothing of it.
            Box::pin(self.policy.authenticate(request, visitor, &name, course)).await?;
        }
        match found.leads {
            Leads::Site(target) => Ok(Serving::new(target, visitor, &name, request.authority())),
            Leads::Suspended => Err(Page::Suspended.into()),
            Leads::Unbound => Err(Page::Unbound.into()),
            Leads::NoNode => Err(Page::NoNode.into()),
        }
    }

    /// The host that a request is for.
    fn host<'r>(&self, request: &'r Request, visitor: &Visitor) -> Result<Cow<'r, str>, Page> {
        let name = match parse_host(request.authority()) {
            Ok(Host::Name(name)) => name,
            Ok(Host::Address(_)) => return Err(Page::Unknown),
            Err(_) => return Err(Page::BadHost),
        };
        // A connection that proved one name is not used for another (RFC 9110 §7.4).
        if visitor.name.as_deref().is_some_and(|proved| *proved != *name) {
            return Err(Page::Misdirected);
        }
        Ok(name)
    }

    /// What a certificate authority asks for.
    fn challenge(&self, request: &Request, visitor: &Visitor) -> Option<Arc<str>> {
        self.challenges.answer(&self.host(request, visitor).ok()?, request)
    }

    /// Answers the edge's own question with what the table has of the host. It counts as no request.
    async fn self_check<C: Client>(&self, client: &mut C, request: &Request, visitor: &Visitor) {
        let name = match self.host(request, visitor) {
            Ok(name) => name,
            Err(page) => {
                self.passing.answering().page(client, page, Some(request), &mut Course::default()).await;
                return;
            }
        };
        let mut lines = self.routing.seen(&name);
        if !lines.is_empty() {
            lines.extend(self.challenges.key_authorization(&name).map(|text| challenge_line(&text)));
        }
        let body: String = lines.into_iter().flat_map(|line| [line, "\n".to_owned()]).collect();
        self.passing.answering().text(client, request, b"text/plain", &body, &mut Moved::default()).await;
    }
}

/// The client's address, as the log and traces have it.
fn written<'v>(visitor: &'v Visitor, course: &Course) -> Cow<'v, str> {
    match course.brand.as_ref().map(|brand| brand.log_addresses) {
        None | Some(LogAddresses::Unspecified) => Cow::Borrowed(&visitor.written),
        Some(LogAddresses::Network) => Cow::Owned(Addresses::Network.of(visitor.ip).to_string()),
        Some(LogAddresses::None) => Cow::Borrowed(""),
    }
}

/// To the microsecond.
fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}
