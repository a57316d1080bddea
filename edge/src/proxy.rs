//! What happens to a request: decide by host, pass on to a node, answer with a page when there is none.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use hosting_edge_http1::{AnswerHead, Request, RequestHead, ResponseHead, push_upstream_head};
use hosting_edge_map::{
    Candidate, Candidates, Host, Leads, MAX_TRIES, Policies, Routing, Tenant, parse_host,
};
use hosting_scaffold::client_address::is_trusted;
use http::StatusCode;
use ipnet::IpNet;
use jiff::Timestamp;
use pingora_core::protocols::http::date::get_cached_date;
use tokio::sync::Semaphore;

use crate::access_log::{AccessLog, Line, text};
use crate::certs::CertStore;
use crate::challenges::Challenges;
use crate::compress::{Coding, Encoder, Plan};
use crate::exchange::{Client, ClientError, Exchange, Failure, Moved, Times, finish, send_all};
use crate::metrics::{Counted, Metrics};
use crate::node_keys::{EDGE_KEY, NodeKeys};
use crate::nodes::Nodes;
use crate::pages::Page;
use crate::policy::{PolicyContext, Reply};
use crate::self_check::{CheckSecret, challenge_line};
use crate::settings::{Settings, ms};
use crate::traffic::{self, TrafficBook};
use crate::upstream::{Mark, Marks, Serves};
use crate::visitor::Visitor;

/// Tells a node which host the client asked for, with the port if there was one. Nodes believe it from edges only.
pub const ORIGINAL_HOST: &str = "x-hosting-host";
/// Shows a node the [`Mark`] of a request. A node that shows it back with the answer proves which request it answers.
pub(crate) const REQUEST: &str = "x-hosting-request";
/// Tells the client which shard answered.
pub const SHARD: &str = "x-shard";
/// Tells the client where HTTP/3 is to be had (RFC 7838).
const ALT_SVC: &str = "alt-svc";

/// Tells a client that may know where its request went, and why, when it asks by the same field.
const EDGE_MAP: &str = "x-edge-map";
const STRICT_TRANSPORT_SECURITY: &[u8] = b"strict-transport-security";

/// Idle connections to one node that a request may find closed, or with an answer that is not its own, before it makes one.
const MAX_STALE: u8 = 3;
/// Nodes that a request may be sent to when the first one closed without an answer.
const MAX_SENT: usize = 2;

/// The policy and what it needs.
#[derive(Debug)]
pub(crate) struct Edge {
    routing: Arc<Routing>,
    metrics: Metrics,
    limits: Limits,
    nodes: Nodes,
    marks: Marks,
    keys: Arc<NodeKeys>,
    checks: CheckSecret,
    challenges: Arc<Challenges>,
    policy: PolicyContext,
    /// Networks of clients that may know where their requests go.
    shown_to: Vec<IpNet>,
    /// Answers that may be compressed at once.
    compressions: Arc<Semaphore>,
    log: AccessLog,
    traffic: Arc<TrafficBook>,
}

/// What becomes of a request.
#[derive(Default)]
struct Course {
    tenant: Option<Arc<Tenant>>,
    /// Of its host.
    policies: Policies,
    /// Whether the client's connection is TLS.
    tls: bool,
    /// Whether the client is told where its request went.
    is_shown: bool,
    /// Why the edge answered by itself.
    reason: &'static str,
    serving: Option<Serving>,
    candidate: Option<Candidate>,
    upstream: Option<Duration>,
    passed: Moved,
}

impl Course {
    /// The value of `Strict-Transport-Security`, if the client is told.
    fn hsts(&self) -> Option<&[u8]> {
        self.policies.hsts().filter(|_| self.tls).map(str::as_bytes)
    }

    /// Where the request went, if the client is told. `serving`: the site whose node answered.
    fn map(&self, serving: Option<&Serving>) -> Option<String> {
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

#[derive(Debug, Clone, Copy)]
struct Limits {
    times: Times,
    upgrade_idle: Duration,
}

/// A request that has a site.
struct Serving {
    webroot: Arc<str>,
    candidates: Candidates,
    /// The most requests of the tenant that may be under way.
    tenant_requests: usize,
    /// The site may change the protocol of its connections.
    may_upgrade: bool,
    forwarded: Forwarded,
    alt_svc: Option<Arc<str>>,
}

/// By whom a request was answered, and what the client is told besides.
struct Served<'a> {
    candidate: Candidate,
    /// The value of `Strict-Transport-Security`.
    hsts: Option<&'a [u8]>,
    /// Where the request went.
    map: Option<&'a str>,
    /// The answer may be compressed.
    compresses: bool,
    /// The answer showed the request's mark.
    is_marked: bool,
}

impl Edge {
    pub(crate) fn new(
        routing: Arc<Routing>,
        keys: Arc<NodeKeys>,
        metrics: Metrics,
        settings: &Settings,
        checks: CheckSecret,
        certs: Arc<CertStore>,
        log: AccessLog,
    ) -> Self {
        let limits = Limits {
            times: Times {
                body: ms(settings.body_timeout_ms),
                node: ms(settings.upstream_timeout_ms),
                client: ms(settings.write_timeout_ms),
            },
            upgrade_idle: ms(settings.upgrade_idle_timeout_ms),
        };
        let nodes = Nodes::new(settings, metrics.clone());
        let policy = PolicyContext::new(Arc::clone(&certs), settings, metrics.rulings.clone());
        Self {
            routing,
            metrics,
            limits,
            nodes,
            marks: Marks::default(),
            keys,
            checks,
            challenges: Arc::clone(certs.challenges()),
            policy,
            shown_to: settings.map_shown_to.clone(),
            compressions: Arc::new(Semaphore::new(settings.max_compressions.min(Semaphore::MAX_PERMITS))),
            log,
            traffic: Arc::default(),
        }
    }

    pub(crate) fn traffic(&self) -> Arc<TrafficBook> {
        Arc::clone(&self.traffic)
    }

    /// The nodes, as requests see them.
    pub(crate) const fn nodes(&self) -> &Nodes {
        &self.nodes
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
        let challenge = Challenges::may_be_asked(request).then(|| self.challenge(request, visitor)).flatten();
        let code = match challenge {
            Some(text) => {
                course.reason = "acme_challenge";
                self.text(client, request, b"application/octet-stream", &text, &mut course.passed).await
            }
            None => match self.route(request, visitor, &mut course) {
                Ok(mut serving) => {
                    let code = self.pass_on(client, request, visitor, &mut serving, &mut course).await;
                    course.serving = Some(serving);
                    code
                }
                Err(Reply::Page(page)) => self.page(client, page, Some(request), &mut course).await,
                Err(Reply::Redirect { code, location }) => {
                    self.redirect(client, code, &location, &mut course).await
                }
            },
        };
        self.metrics.request(code);
        self.write_down(visitor, Some(request), &course, begun, code);
    }

    /// Answers what is no request.
    pub(crate) async fn refuse<C: Client>(&self, client: &mut C, page: Page, visitor: &Visitor) {
        let begun = Instant::now();
        let mut course = Course::default();
        let code = self.page(client, page, None, &mut course).await;
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
            let passed =
                traffic::Passed { status: code, received, sent, is_cached: false, node: course.upstream };
            self.traffic.count(tenant, passed);
        }
        if !self.log.is_on() {
            return;
        }
        let field = |name: &[u8]| request.and_then(|request| request.head().field(name)).unwrap_or_default();
        let head = request.map(Request::head);
        let serving = course.serving.as_ref();
        let node = serving.zip(course.candidate).and_then(|(serving, at)| serving.candidates.node(at));
        self.log.write(&Line {
            time: Timestamp::now(),
            client: &visitor.written,
            tls: visitor.tls,
            host: &text(request.map(Request::authority).unwrap_or_default()),
            method: &text(head.map(RequestHead::method).unwrap_or_default()),
            target: &text(head.map(RequestHead::target).unwrap_or_default()),
            status: code,
            reason: course.reason,
            received: course.passed.received,
            sent: course.passed.sent,
            seconds: seconds(begun.elapsed()),
            upstream_seconds: course.upstream.map(seconds),
            tenant: course.tenant.as_ref().map(|tenant| tenant.id()),
            webroot: serving.map(|serving| &*serving.webroot),
            shard: serving.map(|serving| serving.candidates.pool().name()),
            node: node.map(|node| &*node.id),
            referer: &text(field(b"referer")),
            user_agent: &text(field(b"user-agent")),
        });
    }

    fn route(&self, request: &Request, visitor: &Visitor, course: &mut Course) -> Result<Serving, Reply> {
        if request.is_asterisk() {
            return Err(Page::Options.into());
        }
        let name = self.host(request, visitor)?;
        let found = self.routing.resolve(&name).ok_or(Page::Unknown)?;
        let ruled = self.policy.rule(&found, request, visitor, &name);
        course.tenant = Some(found.tenant);
        course.policies = found.policies;
        if let Some(reply) = ruled {
            return Err(reply);
        }
        match found.leads {
            Leads::Site(target) => Ok(Serving {
                webroot: target.webroot,
                candidates: target.candidates,
                tenant_requests: target.tenant_requests,
                may_upgrade: target.may_upgrade,
                forwarded: Forwarded::new(visitor, &name, request.authority()),
                alt_svc: visitor.alt_svc.clone(),
            }),
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
                self.page(client, page, Some(request), &mut Course::default()).await;
                return;
            }
        };
        let mut lines = self.routing.seen(&name);
        if !lines.is_empty() {
            lines.extend(self.challenges.key_authorization(&name).map(|text| challenge_line(&text)));
        }
        let body: String = lines.into_iter().flat_map(|line| [line, "\n".to_owned()]).collect();
        self.text(client, request, b"text/plain", &body, &mut Moved::default()).await;
    }

    /// Sends a text, not to be kept, and returns its code.
    async fn text<C: Client>(
        &self,
        client: &mut C,
        request: &Request,
        kind: &'static [u8],
        body: &str,
        passed: &mut Moved,
    ) -> u16 {
        let status = StatusCode::OK;
        let head = AnswerHead {
            status: status.as_u16(),
            reason: b"OK",
            fields: vec![(b"content-type", kind), (b"cache-control", b"no-store")],
            length: Some(body.len() as u64),
            has_body: !body.is_empty() && !request.is_head(),
        };
        self.send(client, &head, body.as_bytes(), passed).await;
        status.as_u16()
    }

    /// Sends an answer of the edge's own.
    async fn send<C: Client>(&self, client: &mut C, head: &AnswerHead<'_>, body: &[u8], passed: &mut Moved) {
        let limit = self.limits.times.client;
        let body = if head.has_body { body } else { &[] };
        if client.start(head).is_ok()
            && send_all(client, body, limit).await.is_ok()
            && client.end(true).is_ok()
        {
            finish(client, limit).await;
            passed.sent = body.len() as u64;
        }
    }

    /// Sends a page and returns its code.
    async fn page<C: Client>(
        &self,
        client: &mut C,
        page: Page,
        request: Option<&Request>,
        course: &mut Course,
    ) -> u16 {
        course.reason = page.word();
        let accept = request.and_then(|request| request.head().field(b"accept"));
        let answer = page.answer(accept);
        let mut head = answer.head(request.is_some_and(Request::is_head));
        head.fields.extend(course.hsts().map(|hsts| (STRICT_TRANSPORT_SECURITY, hsts)));
        let map = course.map(None);
        head.fields.extend(map.as_deref().map(|map| (EDGE_MAP.as_bytes(), map.as_bytes())));
        let mut passed = Moved::default();
        self.send(client, &head, answer.body.as_bytes(), &mut passed).await;
        course.passed.sent = passed.sent;
        page.code()
    }

    /// Leads a client elsewhere and returns the code.
    async fn redirect<C: Client>(
        &self,
        client: &mut C,
        code: u16,
        location: &str,
        course: &mut Course,
    ) -> u16 {
        course.reason = "redirect";
        let date = get_cached_date();
        let mut fields = vec![(&b"date"[..], date.as_bytes()), (b"location", location.as_bytes())];
        fields.extend(course.hsts().map(|hsts| (STRICT_TRANSPORT_SECURITY, hsts)));
        let map = course.map(None);
        fields.extend(map.as_deref().map(|map| (EDGE_MAP.as_bytes(), map.as_bytes())));
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::FOUND);
        let head = AnswerHead {
            status: code,
            reason: status.canonical_reason().unwrap_or_default().as_bytes(),
            fields,
            length: Some(0),
            has_body: false,
        };
        self.send(client, &head, &[], &mut Moved::default()).await;
        code
    }

    async fn pass_on<C: Client>(
        &self,
        client: &mut C,
        request: &Request,
        visitor: &Visitor,
        serving: &mut Serving,
        course: &mut Course,
    ) -> u16 {
        let mut begun = None;
        let failure = match self.exchange(client, request, visitor, serving, course, &mut begun).await {
            Ok(code) => return code,
            Err(failure) => failure,
        };
        tracing::debug!(%failure, webroot = %serving.webroot, "request failed");
        if let Some(code) = begun {
            return code;
        }
        let page = match failure {
            Failure::Client(ClientError::Gone) => return 0,
            Failure::Client(ClientError::Slow) => Page::RequestTimeout,
            Failure::Client(ClientError::Malformed) => Page::BadRequest,
            Failure::Client(ClientError::TooLarge) => Page::BodyTooLarge,
            Failure::Timeout => Page::GatewayTimeout,
            Failure::Busy => {
                self.metrics.busy.inc();
                Page::Busy
            }
            Failure::Closed | Failure::Answer(_) | Failure::Truncated => Page::BadGateway,
        };
        self.page(client, page, Some(request), course).await
    }

    /// Passes the request to a node. `begun` is the code of an answer that the client has seen the beginning of.
    async fn exchange<C: Client>(
        &self,
        client: &mut C,
        request: &Request,
        visitor: &Visitor,
        serving: &mut Serving,
        course: &mut Course,
        begun: &mut Option<u16>,
    ) -> Result<u16, Failure> {
        let upgrade = request.upgrade().filter(|protocol| {
            serving.may_upgrade && client.can_upgrade() && protocol.eq_ignore_ascii_case(b"websocket")
        });
        // Only what can be repeated without harm takes a connection that the node may be closing just now, and goes out again.
        let repeatable = request.is_idempotent() && request.is_bodyless() && upgrade.is_none();
        let (mut stale, mut sent, mut again) = (0, 0, None);
        let tenant = course.tenant.as_ref();
        let _of_tenant = match tenant {
            Some(tenant) => Some(tenant.begin(serving.tenant_requests).ok_or(Failure::Busy)?),
            None => None,
        };
        serving.candidates.pool().earn();
        loop {
            let Some(candidate) = again.take().or_else(|| serving.candidates.next(self.nodes.now())) else {
                return Err(Failure::Closed);
            };
            let _at_node = self.nodes.place(&serving.candidates, candidate).await?;
            let asked = Instant::now();
            let idle = if repeatable && stale < MAX_STALE {
                self.nodes.idle().take(&serving.webroot, candidate.address)
            } else {
                None
            };
            let reused = idle.is_some();
            let (tcp, must_show) = match idle {
                Some(idle) => idle,
                None => match self.nodes.connect(&serving.candidates, candidate).await {
                    Ok(tcp) => (tcp, false),
                    Err(_)
                        if serving.candidates.tries() < MAX_TRIES
                            && serving.candidates.pool().may_retry() =>
                    {
                        self.metrics.retries.inc();
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(Failure::Timeout),
                    Err(_) => return Err(Failure::Closed),
                },
            };
            sent += usize::from(!reused);
            let mark = self.marks.next();
            let head = self.upstream_head(request, visitor, serving, candidate, upgrade.is_some(), mark);
            course.candidate = Some(candidate);
            let map = course.map(Some(serving));
            let most = course.policies.max_body();
            let passed = &mut course.passed;
            let mut exchange = Exchange::new(client, request, passed, tcp, head, self.limits.times, most);
            let mut answer = exchange.ask().await.map(|response| (shows(&response, mark), response));
            if must_show && matches!(answer, Ok((false, _))) {
                self.metrics.foreign_answers.inc();
                tracing::warn!(address = %candidate.address, "a node's answer is not that of the request; its connection is closed");
                answer = Err(Failure::Closed);
            }
            let (is_marked, response) = match answer {
                Ok(answer) => answer,
                // The node had closed an idle connection, or somebody spoiled it: it is well, take another one to it.
                Err(Failure::Closed) if reused => {
                    stale += 1;
                    again = Some(candidate);
                    self.metrics.retries.inc();
                    continue;
                }
                Err(failure @ (Failure::Closed | Failure::Timeout)) => {
                    self.nodes.left_unanswered(&serving.candidates, candidate, tenant);
                    let is_closed = matches!(failure, Failure::Closed);
                    let may_go_on = repeatable && sent < MAX_SENT && serving.candidates.tries() < MAX_TRIES;
                    if is_closed && may_go_on && serving.candidates.pool().may_retry() {
                        self.metrics.retries.inc();
                        continue;
                    }
                    return Err(failure);
                }
                Err(failure) => return Err(failure),
            };
            let took = asked.elapsed();
            self.nodes.answered(&serving.candidates, candidate, asked + took);
            course.upstream = Some(took);
            self.metrics.upstream.observe(took);
            let hsts = course.policies.hsts().filter(|_| visitor.tls).map(str::as_bytes);
            let served = Served {
                candidate,
                is_marked,
                hsts,
                map: map.as_deref(),
                compresses: course.policies.compresses(),
            };
            return self.answer(exchange, request, &response, upgrade, serving, served, begun).await;
        }
    }

    fn upstream_head(
        &self,
        request: &Request,
        visitor: &Visitor,
        serving: &Serving,
        candidate: Candidate,
        upgrade: bool,
        mark: Mark,
    ) -> BytesMut {
        let key = serving.candidates.node(candidate).and_then(|node| self.keys.value(&node.id));
        let forwarded = &serving.forwarded;
        let ours: [(&[u8], &[u8]); 8] = [
            (EDGE_KEY.as_bytes(), key.as_deref().unwrap_or_default().as_bytes()),
            (REQUEST.as_bytes(), mark.as_bytes()),
            (ORIGINAL_HOST.as_bytes(), forwarded.host()),
            (b"x-forwarded-host", forwarded.host()),
            (b"x-forwarded-proto", if visitor.tls { b"https" } else { b"http" }),
            (b"x-forwarded-for", visitor.address.as_bytes()),
            (b"x-real-ip", visitor.address.as_bytes()),
            (b"forwarded", &forwarded.value),
        ];
        let known = if key.is_some() { &ours[..] } else { ours.get(1..).unwrap_or_default() };
        let mut head = BytesMut::with_capacity(2 * 1_024);
        push_upstream_head(&mut head, request, serving.webroot.as_bytes(), known, upgrade);
        head
    }

    /// What compresses an answer, if there is room for one more.
    fn encoder(&self, coding: Coding) -> Option<Encoder> {
        let place = Arc::clone(&self.compressions).try_acquire_owned().ok();
        let encoder = place.and_then(|place| Encoder::new(coding, place));
        let counter = if encoder.is_some() { &self.metrics.compressed } else { &self.metrics.not_compressed };
        counter.inc();
        encoder
    }

    #[allow(clippy::too_many_arguments, reason = "the state of one request, used once")]
    async fn answer<C: Client>(
        &self,
        mut exchange: Exchange<'_, C>,
        request: &Request,
        response: &ResponseHead,
        upgrade: Option<&[u8]>,
        serving: &Serving,
        served: Served<'_>,
        begun: &mut Option<u16>,
    ) -> Result<u16, Failure> {
        let mut answered = response
            .answer(request.is_head(), upgrade)
            .map_err(|error| Failure::Answer(error.to_string()))?;
        let shard = serving.candidates.pool().name().as_bytes();
        // Where else the host is to be had is not the site's to say: it would send visitors past the edge.
        let ours = [SHARD, REQUEST, ALT_SVC, EDGE_MAP].map(str::as_bytes);
        answered.head.fields.retain(|(name, _)| !ours.iter().any(|ours| name.eq_ignore_ascii_case(ours)));
        answered.head.fields.push((SHARD.as_bytes(), shard));
        if let Some(hsts) = served.hsts {
            // Of two, browsers would go by the first (RFC 6797 §8.1).
            answered.head.fields.retain(|(name, _)| !name.eq_ignore_ascii_case(STRICT_TRANSPORT_SECURITY));
            answered.head.fields.push((STRICT_TRANSPORT_SECURITY, hsts));
        }
        if let Some(alt_svc) = &serving.alt_svc {
            answered.head.fields.push((ALT_SVC.as_bytes(), alt_svc.as_bytes()));
        }
        let may_compress = served.compresses && !answered.upgraded;
        let mut plan = if may_compress { Plan::of(&answered.head, request) } else { None };
        if let Some(plan) = &mut plan {
            let encoder = plan.coding.and_then(|coding| self.encoder(coding));
            plan.coding = plan.coding.filter(|_| encoder.is_some());
            encoder.into_iter().for_each(|encoder| exchange.compress(encoder));
        }
        if let Some(plan) = &plan {
            plan.apply(&mut answered.head);
        }
        answered.head.fields.extend(served.map.map(|map| (EDGE_MAP.as_bytes(), map.as_bytes())));
        let code = answered.head.status;
        exchange.client().start(&answered.head)?;
        *begun = Some(code);
        if answered.upgraded {
            let _counted = Counted::new(&self.metrics.upgraded);
            exchange.tunnel(self.limits.upgrade_idle).await?;
        } else if let Some(clean) = exchange.answer(answered.body, answered.keeps_connection).await? {
            let serves =
                if served.is_marked { Serves::All } else { Serves::Webroot(Arc::clone(&serving.webroot)) };
            self.nodes.idle().put(serves, served.candidate.address, clean);
        }
        Ok(code)
    }
}

/// To the microsecond.
fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}

/// Whether a response is proven to be that of the request with this mark.
fn shows(response: &ResponseHead, mark: Mark) -> bool {
    response.field(REQUEST.as_bytes()).is_some_and(|shown| shown == mark.as_bytes())
}

/// For whom and for which host a request is made: the value of `Forwarded` (RFC 7239 §4), which holds the host as other fields have it.
struct Forwarded {
    value: Vec<u8>,
    host: Range<usize>,
}

impl Forwarded {
    /// The host is the name in its one spelling, with the port of `authority` as the client gave it.
    fn new(visitor: &Visitor, name: &str, authority: &[u8]) -> Self {
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

    fn host(&self) -> &[u8] {
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
