//! Where a request stands in a trace (W3C Trace Context), and the spans of those that are recorded.
//!
//! Which requests are recorded is decided here by chance, or by clients that are trusted with it: never by strangers, who could have
//! everything recorded. A request that is not costs its ids; without tracing, nothing.

use std::borrow::Cow;
use std::net::SocketAddr;

use hosting_edge_http1::{Request, RequestHead, TRACEPARENT, TRACESTATE, Version};
use hosting_scaffold::client_address::is_trusted;
use hosting_scaffold::request_spans::{RequestSpan, RequestTracer, Side};
use hosting_scaffold::trace_context::{TraceContext, trace_state};
use ipnet::IpNet;

use crate::exchange::Failure;
use crate::live::Protocol;
use crate::settings::Settings;
use crate::visitor::Visitor;

/// Bytes of a path that a span has.
const PATH: usize = 512;
/// Methods that a span names (those of the semantic conventions); others are `_OTHER`.
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// What begins traces.
#[derive(Debug)]
pub(crate) struct Tracing {
    tracer: RequestTracer,
    ratio: f64,
    trusted: Vec<IpNet>,
}

impl Tracing {
    /// `None`: the settings ask for none.
    pub(crate) fn new(tracer: RequestTracer, settings: &Settings) -> Option<Self> {
        let is_wanted = settings.trace_ratio > 0.0 || !settings.trace_context_from.is_empty();
        is_wanted.then(|| Self {
            tracer,
            ratio: settings.trace_ratio,
            trusted: settings.trace_context_from.clone(),
        })
    }

    /// The request's part in its trace, which a trusted client may have begun.
    pub(crate) fn begin(&self, request: &Request, visitor: &Visitor) -> Trace {
        let values = |wanted: &'static [u8]| {
            let fields = request.head().fields().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted));
            fields.map(|(_, value)| value)
        };
        let is_trusted = is_trusted(&self.trusted, visitor.ip);
        let parent = is_trusted.then(|| TraceContext::parse(values(TRACEPARENT))).flatten();
        let state = parent.and_then(|_| trace_state(values(TRACESTATE)));
        let is_sampled = match parent {
            Some(parent) => parent.is_sampled(),
            None => rand::random::<f64>() < self.ratio,
        };
        if !is_sampled {
            let span = rand::random::<u64>().max(1);
            let own = TraceContext::new(rand::random::<u128>().max(1), span, false);
            let context = parent.map_or(own, |parent| parent.with_span(span));
            return Trace { context, state, recorded: None };
        }
        let method = method(request);
        let name = if method == "_OTHER" { "HTTP" } else { method };
        let mut span = self.tracer.begin(Side::Server, Cow::Borrowed(name), parent);
        span.set("http.request.method", method);
        let path = request.path();
        let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
        let path = path.get(..PATH).unwrap_or(path);
        span.set("url.path", String::from_utf8_lossy(path).into_owned());
        span.set("url.scheme", if visitor.tls { "https" } else { "http" });
        let host = String::from_utf8_lossy(request.authority()).into_owned();
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() => (host.to_owned(), port.parse::<u16>().ok()),
            _ => (host, None),
        };
        span.set("server.address", host);
        if let Some(port) = port {
            span.set("server.port", i64::from(port));
        }
        let version = match (visitor.watch.protocol(), request.head().version()) {
            (Some(Protocol::Http3), _) => "3",
            (Some(Protocol::Http2), _) => "2",
            (_, Version::Http10) => "1.0",
            (_, Version::Http11) => "1.1",
        };
        span.set("network.protocol.version", version);
        let context = match parent {
            Some(parent) => parent.with_span(span.context().span),
            None => span.context(),
        };
        let recorded = Recorded { span, tracer: self.tracer.clone(), asked: 0 };
        Trace { context, state, recorded: Some(Box::new(recorded)) }
    }
}

/// A request's part in its trace.
#[derive(Debug)]
pub(crate) struct Trace {
    context: TraceContext,
    /// What the trusted client said of the trace besides.
    state: Option<String>,
    recorded: Option<Box<Recorded>>,
}

#[derive(Debug)]
struct Recorded {
    span: RequestSpan,
    tracer: RequestTracer,
    /// Nodes that were asked.
    asked: i64,
}

impl Trace {
    /// The trace, if it is recorded.
    pub(crate) fn recorded_id(&self) -> Option<String> {
        self.recorded.as_ref().map(|_| format!("{:032x}", self.context.trace))
    }

    /// A node is asked: the span of that, and what the node is told.
    pub(crate) fn ask(&mut self, request: &Request, address: SocketAddr) -> Asking {
        let mut context = self.context;
        let span = self.recorded.as_mut().map(|recorded| {
            let method = method(request);
            let mut span = recorded.tracer.begin(Side::Client, Cow::Borrowed(method), Some(context));
            span.set("http.request.method", method);
            span.set("server.address", address.ip().to_string());
            span.set("server.port", i64::from(address.port()));
            span.set("network.protocol.version", "1.1");
            if recorded.asked > 0 {
                span.set("http.request.resend_count", recorded.asked);
            }
            recorded.asked += 1;
            context = context.with_span(span.context().span);
            span
        });
        Asking { parent: context.to_string(), state: self.state.clone().unwrap_or_default(), span }
    }

    /// The request has ended.
    /// `reason`: why the edge answered by itself. `said`: what else is known of it.
    pub(crate) fn end(mut self, code: u16, reason: &'static str, said: &[(&'static str, Option<&str>)]) {
        let Some(recorded) = &mut self.recorded else { return };
        let span = &mut recorded.span;
        if code > 0 {
            span.set("http.response.status_code", i64::from(code));
        }
        for (name, value) in said.iter().chain(&[("hosting.reason", Some(reason))]) {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                span.set(name, value.to_owned());
            }
        }
        match code {
            0 => span.fail("client_gone"),
            500.. if reason.is_empty() => span.fail(code.to_string()),
            500.. => span.fail(reason),
            _ => {}
        }
    }
}

/// A node that is asked.
#[derive(Debug)]
pub(crate) struct Asking {
    parent: String,
    state: String,
    /// Ends when the answer does.
    span: Option<RequestSpan>,
}

impl Asking {
    /// The fields that the node gets.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let fields: [(&[u8], &[u8]); 2] =
            [(TRACEPARENT, self.parent.as_bytes()), (TRACESTATE, self.state.as_bytes())];
        fields.into_iter().filter(|(_, value)| !value.is_empty())
    }

    /// The node's answer has begun.
    pub(crate) fn answered(&mut self, code: u16) {
        if let Some(span) = &mut self.span {
            span.set("http.response.status_code", i64::from(code));
            if code >= 400 {
                span.fail(code.to_string());
            }
        }
    }

    /// There is no answer, or not all of it.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        if let Some(span) = &mut self.span {
            span.fail(match failure {
                Failure::Client(_) => "client_gone",
                Failure::Closed => "closed",
                Failure::Busy => "busy",
                Failure::Timeout => "timeout",
                Failure::Answer(_) => "malformed_answer",
                Failure::Truncated => "truncated",
            });
        }
    }
}

fn method(request: &Request) -> &'static str {
    let method = RequestHead::method(request.head());
    METHODS.into_iter().find(|known| known.as_bytes() == method).unwrap_or("_OTHER")
}
