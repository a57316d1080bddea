//! What happens to a request: decide by host, pass on to a node, answer with a page when there is none.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hosting_edge_map::{Candidate, Candidates, Decision, Host, MAX_TRIES, Millis, Node, Routing, parse_host};
use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};
use pingora_core::modules::http::HttpModules;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::authority::{RawTargetAuthority, raw_target_authority};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use crate::metrics::Metrics;
use crate::pages::Page;
use crate::settings::{Settings, ms};
use crate::upgrade;

/// Tells a node which host the client asked for, with the port if there was one. Nodes believe it from edges only.
pub const ORIGINAL_HOST: &str = "x-hosting-host";
/// Tells the client which shard answered.
pub const SHARD: &str = "x-shard";

/// Stale connections to one node that a request may meet before it goes elsewhere.
const MAX_STALE: u8 = 3;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const ORIGINAL_HOST_NAME: HeaderName = HeaderName::from_static(ORIGINAL_HOST);
const SHARD_NAME: HeaderName = HeaderName::from_static(SHARD);

/// The application in Pingora's sense.
#[derive(Debug)]
pub(crate) struct Edge {
    routing: Arc<Routing>,
    metrics: Metrics,
    /// Where [`Millis`] count from.
    start: Instant,
    limits: Limits,
    /// Numbers the connections of upgrade requests; 0 is the key of all others.
    upgrades: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    connect: Duration,
    upstream: Duration,
    upstream_idle: Duration,
    write: Duration,
    upgrade_idle: Duration,
    body: Duration,
    eject: Millis,
}

/// One request.
#[derive(Debug, Default)]
pub(crate) struct Ctx {
    target: Option<Serving>,
    upgrade: bool,
    /// The page that was sent instead of a site's answer.
    page: Option<Page>,
}

#[derive(Debug)]
struct Serving {
    webroot: Arc<str>,
    candidates: Candidates,
    current: Option<Candidate>,
    /// Try `current` again: a pooled connection to it was stale.
    again: bool,
    /// How often that happened.
    stale: u8,
    sent: Instant,
    original_host: HeaderValue,
}

impl Serving {
    fn node(&self) -> Option<&Node> {
        self.candidates.node(self.current?)
    }
}

impl Edge {
    pub(crate) fn new(routing: Arc<Routing>, metrics: Metrics, settings: &Settings) -> Self {
        let limits = Limits {
            connect: ms(settings.connect_timeout_ms),
            upstream: ms(settings.upstream_timeout_ms),
            upstream_idle: ms(settings.upstream_idle_timeout_ms),
            write: ms(settings.write_timeout_ms),
            upgrade_idle: ms(settings.upgrade_idle_timeout_ms),
            body: ms(settings.body_timeout_ms),
            eject: settings.eject_ms,
        };
        Self { routing, metrics, start: Instant::now(), limits, upgrades: AtomicU64::new(1) }
    }

    fn now(&self) -> Millis {
        // Not 0, which is before everything.
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn decide(&self, request: &RequestHeader) -> Result<Serving, Page> {
        let authority = authority(request);
        let name = match parse_host(authority) {
            Ok(Host::Name(name)) => name,
            Ok(Host::Address(_)) => return Err(Page::Unknown),
            Err(_) => return Err(Page::BadHost),
        };
        match self.routing.resolve(&name) {
            Decision::Serve(target) => Ok(Serving {
                webroot: target.webroot,
                candidates: target.candidates,
                current: None,
                again: false,
                stale: 0,
                sent: Instant::now(),
                original_host: original_host(&name, authority).ok_or(Page::BadHost)?,
            }),
            Decision::Unknown => Err(Page::Unknown),
            Decision::Suspended => Err(Page::Suspended),
            Decision::Unbound => Err(Page::Unbound),
            Decision::NoNode => Err(Page::NoNode),
        }
    }

    async fn page(&self, session: &mut Session, ctx: &mut Ctx, page: Page) {
        ctx.page = Some(page);
        if let Err(error) = page.send(session).await {
            tracing::debug!(%error, "the client took no page");
            session.set_keepalive(None);
        }
    }
}

/// Whether a body's length is said more than once. RFC 9112 §6.3 would let equal ones pass as one; nodes must not be given the
/// choice which of them to believe.
fn has_several_lengths(request: &RequestHeader) -> bool {
    let mut lengths = request.headers.get_all(header::CONTENT_LENGTH).iter();
    let first = lengths.next();
    lengths.next().is_some() || first.is_some_and(|length| memchr::memchr(b',', length.as_bytes()).is_some())
}

/// What the client calls the host: `:authority`, an absolute target's, or the Host field. Pingora has made sure before that
/// they agree and that there is no user information in them.
fn authority(request: &RequestHeader) -> &[u8] {
    if let Some(authority) = request.uri.authority() {
        return authority.as_str().as_bytes();
    }
    if let Some(authority) = raw_target_authority(request.raw_path()).authority() {
        return authority;
    }
    request.headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default()
}

/// The name in its one spelling, and the port as the client gave it.
fn original_host(name: &str, authority: &[u8]) -> Option<HeaderValue> {
    match memchr::memchr(b':', authority)
        .and_then(|colon| authority.get(colon + 1..))
        .filter(|port| !port.is_empty())
    {
        None => HeaderValue::from_str(name).ok(),
        Some(port) => {
            let mut value = Vec::with_capacity(name.len() + 1 + port.len());
            value.extend_from_slice(name.as_bytes());
            value.push(b':');
            value.extend_from_slice(port);
            HeaderValue::from_bytes(&value).ok()
        }
    }
}

/// Whether a field from outside could be taken for one of ours, or speaks of a proxy that we do not trust. `_` counts as `-`:
/// CGI makes one variable of both spellings.
fn is_spoofable(name: &str) -> bool {
    let is = |pattern: &str| {
        name.len() >= pattern.len()
            && name.bytes().zip(pattern.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
    };
    let exactly = |pattern: &str| name.len() == pattern.len() && is(pattern);
    is("x-hosting-")
        || is("x-forwarded-")
        || exactly("forwarded")
        || exactly("x-real-ip")
        || exactly("x-client-ip")
        || exactly("x-original-host")
        // A CGI program would take it for its own proxy setting.
        || exactly("proxy")
}

#[async_trait]
impl ProxyHttp for Edge {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::default()
    }

    /// None: the default one costs something at each request and does nothing.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        if has_several_lengths(session.req_header()) {
            session.set_keepalive(None);
            self.page(session, ctx, Page::BadRequest).await;
            return Ok(true);
        }
        match self.decide(session.req_header()) {
            Ok(serving) => ctx.target = Some(serving),
            Err(page) => {
                self.page(session, ctx, page).await;
                return Ok(true);
            }
        }
        ctx.upgrade = session.is_upgrade_req();
        let read = if ctx.upgrade { self.limits.upgrade_idle } else { self.limits.body };
        session.set_read_timeout(Some(read));
        session.set_write_timeout(Some(self.limits.write));
        session.set_total_drain_timeout(Some(self.limits.body));
        Ok(false)
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        let serving =
            ctx.target.as_mut().ok_or_else(|| Error::explain(ErrorType::InternalError, "no target"))?;
        if !std::mem::take(&mut serving.again) {
            serving.current = serving.candidates.next(self.now());
        }
        let Some(candidate) = serving.current else {
            return Err(Error::explain(ErrorType::ConnectError, "no node is left to try").into_up());
        };
        serving.sent = Instant::now();
        let mut peer = Box::new(HttpPeer::new(candidate.address, false, String::new()));
        let idle = if ctx.upgrade { self.limits.upgrade_idle } else { self.limits.upstream };
        peer.options.connection_timeout = Some(self.limits.connect);
        peer.options.total_connection_timeout = Some(self.limits.connect);
        peer.options.read_timeout = Some(idle);
        peer.options.write_timeout = Some(self.limits.write);
        peer.options.idle_timeout = Some(self.limits.upstream_idle);
        if ctx.upgrade {
            // A connection of its own, which nobody takes over if the node declines.
            peer.group_key = self.upgrades.fetch_add(1, Ordering::Relaxed);
            peer.options.idle_timeout = Some(Duration::from_millis(1));
            peer.options.custom_l4 = Some(Arc::new(upgrade::Connector));
        }
        Ok(peer)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let serving =
            ctx.target.as_ref().ok_or_else(|| Error::explain(ErrorType::InternalError, "no target"))?;
        let spoofed: Vec<HeaderName> =
            request.headers.keys().filter(|name| is_spoofable(name.as_str())).cloned().collect();
        for name in &spoofed {
            request.remove_header(name);
        }
        // Nodes get origin form only: the host stands in one place.
        if request.uri.authority().is_some() {
            let target = request.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
            request.set_raw_path(if target.is_empty() { b"/" } else { target.as_bytes() })?;
        } else if let RawTargetAuthority::Absolute { path_and_query, .. } =
            raw_target_authority(request.raw_path())
        {
            let mut target = path_and_query.to_vec();
            if target.first() != Some(&b'/') {
                target.insert(0, b'/');
            }
            request.set_raw_path(&target)?;
        }
        request.insert_header(header::HOST, HeaderValue::from_str(&serving.webroot).map_err(internal)?)?;
        request.insert_header(ORIGINAL_HOST_NAME, serving.original_host.clone())?;
        request.insert_header(FORWARDED_HOST, serving.original_host.clone())?;
        let tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
        request.insert_header(FORWARDED_PROTO, if tls { "https" } else { "http" })?;
        if let Some(client) = session.client_addr().and_then(|address| address.as_inet()) {
            let address = HeaderValue::try_from(plain(client.ip()).to_string()).map_err(internal)?;
            request.insert_header(FORWARDED_FOR, address.clone())?;
            request.insert_header(REAL_IP, address)?;
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        if let Some(serving) = &ctx.target {
            if let Some(node) = serving.node() {
                node.answered();
            }
            if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS {
                return Ok(());
            }
            self.metrics.upstream.observe(serving.sent.elapsed());
            let shard = HeaderValue::from_str(serving.candidates.pool().name()).map_err(internal)?;
            response.insert_header(SHARD_NAME, shard)?;
        }
        Ok(())
    }

    /// Nothing was sent yet, so any request may go to the next node.
    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Ctx,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let Some(serving) = &ctx.target else { return error };
        if let Some(node) = serving.node() {
            let now = self.now();
            if !node.is_ejected(now) {
                tracing::warn!(node = %node.id, address = %peer, reason = error.etype().as_str(), "node takes no connections; out of rotation for a while");
                self.metrics.ejections.inc();
            }
            node.failed(now, self.limits.eject);
        }
        let retry = serving.candidates.tries() < MAX_TRIES;
        if retry {
            self.metrics.retries.inc();
        }
        error.set_retry(retry);
        error
    }

    /// Something was sent, so only what can be repeated without harm goes out again, and only while the client has seen
    /// nothing. A node is not ejected by this: one request that makes an application fall over would take them all out.
    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Ctx,
        reused: bool,
    ) -> Box<Error> {
        let repeatable = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && session.response_written().is_none()
            && *error.esource() == ErrorSource::Upstream
            && matches!(
                error.etype(),
                ErrorType::ConnectionClosed
                    | ErrorType::ReadError
                    | ErrorType::WriteError
                    | ErrorType::H1Error
            );
        let retry = match &mut ctx.target {
            // A pooled connection that the node had closed: the node is well, take another connection to it.
            Some(serving) if repeatable && reused && serving.stale < MAX_STALE => {
                serving.stale += 1;
                serving.again = true;
                true
            }
            Some(serving) => repeatable && serving.candidates.tries() < 2,
            None => false,
        };
        if retry {
            self.metrics.retries.inc();
        }
        error.set_retry(retry);
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
        let page = failure_page(error);
        let begun = session.response_written().is_some_and(|written| !written.status.is_informational());
        let answer = page.filter(|_| !begun);
        session.set_keepalive(None);
        if let Some(page) = answer {
            self.page(session, ctx, page).await;
        }
        tracing::debug!(%error, "request failed");
        FailToProxy { error_code: answer.map_or(0, Page::code), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Ctx) {
        let code = session.response_written().map(|written| written.status.as_u16());
        self.metrics.request(code.or(ctx.page.map(Page::code)).unwrap_or(0));
    }

    // What a client did wrong, or a tenant's host and path, has no place in the log above DEBUG.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Ctx, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Ctx, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}

fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Box<Error> {
    Error::because(ErrorType::InternalError, "a field that cannot be sent", error)
}

/// The page for a failure; `None` when the client is gone.
fn failure_page(error: &Error) -> Option<Page> {
    match error.esource() {
        ErrorSource::Upstream => Some(match error.etype() {
            ErrorType::ConnectTimedout | ErrorType::ReadTimedout | ErrorType::WriteTimedout => {
                Page::GatewayTimeout
            }
            _ => Page::BadGateway,
        }),
        ErrorSource::Downstream => match error.etype() {
            ErrorType::WriteError
            | ErrorType::ReadError
            | ErrorType::ConnectionClosed
            | ErrorType::WriteTimedout => None,
            ErrorType::ReadTimedout => Some(Page::RequestTimeout),
            _ => Some(Page::BadRequest),
        },
        ErrorSource::Internal | ErrorSource::Unset => Some(Page::Internal),
    }
}

/// `::ffff:192.0.2.1` as `192.0.2.1`.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_we_may_say_is_taken_out_in_every_spelling() {
        for name in [
            "x-hosting-host",
            "x_hosting_host",
            "x-hosting_host",
            "x-hosting-anything",
            "x-forwarded-for",
            "x_forwarded_proto",
            "x-forwarded-port",
            "forwarded",
            "x-real-ip",
            "proxy",
        ] {
            assert!(is_spoofable(name), "{name}");
        }
        for name in
            ["host", "x-host", "proxy-authorization", "x-forward", "accept", "forwarded-x", "x-hosting"]
        {
            assert!(!is_spoofable(name), "{name}");
        }
    }

    #[test]
    fn the_original_host_keeps_its_port() {
        let original = |name: &str, raw: &str| original_host(name, raw.as_bytes()).unwrap();
        assert_eq!(original("a.example", "A.example."), "a.example");
        assert_eq!(original("a.example", "a.example:8443"), "a.example:8443");
        assert_eq!(original("a.example", "a.example:"), "a.example");
    }

    #[test]
    fn the_host_is_found_wherever_the_client_put_it() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        assert_eq!(authority(&request), b"");
        request.insert_header(header::HOST, "a.example").unwrap();
        assert_eq!(authority(&request), b"a.example");
        let absolute = RequestHeader::build("GET", b"http://b.example:8080/path", None).unwrap();
        assert_eq!(authority(&absolute), b"b.example:8080");
    }
}
