//! Requests: from a client's bytes to the bytes that a node gets.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::memchr;

use crate::body::Framing;
use crate::field::{FieldKind, is_spoofable, lists_token};
use crate::head::{Field, HeadError, is_control, is_token, lines};

/// A request's place in a trace (W3C Trace Context).
pub const TRACEPARENT: &[u8] = b"traceparent";
/// What is said of the trace besides.
pub const TRACESTATE: &[u8] = b"tracestate";

/// The version of a request, as far as it changes the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunks, no interim responses, one request per connection unless the client asks for more.
    Http10,
    /// HTTP/1.1, and every later minor version (RFC 9110 §2.5).
    Http11,
}

/// A request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The head is not valid; 400, and 505 for [`HeadError::Version`].
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The target is none of the forms of RFC 9112 §3.2, or holds a control character or a `#`; 400.
    #[error("the request target is not valid")]
    Target,
    /// `Host` is missing, doubled, or says another host than the target; 400.
    #[error("the host is missing or not said once")]
    Host,
    /// The body's length is said twice, in two ways, or not as a number; 400.
    #[error("the body's length is not said once")]
    Length,
    /// A transfer coding other than `chunked`; 501 (RFC 9112 §6.1).
    #[error("the transfer coding is not known")]
    Coding,
    /// `CONNECT` and `TRACE`, which a reverse proxy has no use for; 405.
    #[error("the method is not served")]
    Method,
    /// An expectation other than `100-continue`; 417.
    #[error("the expectation is not known")]
    Expectation,
    /// `Connection` names a field that belongs to the message; 400.
    #[error("Connection names a field that is not of the connection")]
    Connection,
}

/// A request's head as it came.
#[derive(Debug, Clone)]
pub struct RequestHead {
    bytes: Bytes,
    method: Range<usize>,
    target: Range<usize>,
    version: Version,
    fields: Vec<Field>,
}

impl RequestHead {
    /// Reads a whole head, up to and with its empty line. The target's bytes are kept as they are.
    ///
    /// # Errors
    /// The first thing that has not exactly one reading.
    pub fn parse(bytes: Bytes) -> Result<Self, RequestError> {
        let (line, fields) = lines(&bytes)?;
        let text = bytes.get(line.clone()).unwrap_or_default();
        let method = memchr(b' ', text).ok_or(HeadError::StartLine)?;
        let last = memchr::memrchr(b' ', text).filter(|last| *last > method).ok_or(HeadError::StartLine)?;
        let name = text.get(..method).unwrap_or_default();
        if name.is_empty() || name.len() > 32 || !name.iter().all(|byte| is_token(*byte)) {
            return Err(HeadError::StartLine.into());
        }
        let version = match text.get(last + 1..).unwrap_or_default() {
            b"HTTP/1.0" => Version::Http10,
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Version::Http11,
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
                return Err(HeadError::Version.into());
            }
            _ => return Err(HeadError::StartLine.into()),
        };
        let target = text.get(method + 1..last).unwrap_or_default();
        if target.is_empty()
            || target.iter().any(|byte| *byte == b' ' || *byte == b'\t' || *byte == b'#' || is_control(*byte))
        {
            return Err(RequestError::Target);
        }
        let (method, target) = (line.start..line.start + method, line.start + method + 1..line.start + last);
        Ok(Self { bytes, method, target, version, fields })
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &[u8] {
        self.bytes.get(self.method.clone()).unwrap_or_default()
    }

    /// The target, as it came.
    #[must_use]
    pub fn target(&self) -> &[u8] {
        self.bytes.get(self.target.clone()).unwrap_or_default()
    }

    /// Bytes of the whole head.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Names and values, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|field| (field.name(&self.bytes), field.value(&self.bytes)))
    }

    /// The value of the first field of this name.
    #[must_use]
    pub fn field(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A request with everything decided that does not depend on what is served.
#[derive(Debug, Clone)]
pub struct Request {
    head: RequestHead,
    authority: Range<usize>,
    /// Origin form; empty for a target in absolute form without a path.
    path: Range<usize>,
    body: Framing,
    keeps_connection: bool,
    expects_continue: bool,
    upgrade: Option<Range<usize>>,
    nominates: bool,
}

impl Request {
    /// Decides what a head means.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn new(head: RequestHead) -> Result<Self, RequestError> {
        let method = head.method();
        if method == b"CONNECT" || method == b"TRACE" {
            return Err(RequestError::Method);
        }
        let (mut host, mut length, mut coding) = (None, None, None);
        let (mut close, mut keep, mut expects, mut nominates, mut asks_upgrade) =
            (false, false, false, false, false);
        let mut upgrade = None;
        for field in &head.fields {
            let value = field.value(&head.bytes);
            match FieldKind::of(field.name(&head.bytes)) {
                FieldKind::Host => {
                    if host.replace(field).is_some() {
                        return Err(RequestError::Host);
                    }
                }
                FieldKind::ContentLength => {
                    if length.replace(number(value).ok_or(RequestError::Length)?).is_some() {
                        return Err(RequestError::Length);
                    }
                }
                FieldKind::TransferEncoding => {
                    if coding.replace(value).is_some() {
                        return Err(RequestError::Length);
                    }
                }
                FieldKind::Connection => {
                    for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                        match FieldKind::of(option) {
                            FieldKind::Host | FieldKind::ContentLength | FieldKind::TransferEncoding => {
                                return Err(RequestError::Connection);
                            }
                            FieldKind::Upgrade => asks_upgrade = true,
                            FieldKind::HopByHop | FieldKind::Connection => {
                                keep |= option.eq_ignore_ascii_case(b"keep-alive")
                            }
                            FieldKind::Expect | FieldKind::Cookie => nominates = true,
                            FieldKind::Other if option.eq_ignore_ascii_case(b"close") => close = true,
                            FieldKind::Other => nominates |= !option.is_empty(),
                        }
                    }
                }
                FieldKind::Expect => {
                    // An HTTP/1.0 client knows no interim responses (RFC 9110 §10.1.1).
                    if head.version == Version::Http11 {
                        if !value.eq_ignore_ascii_case(b"100-continue") {
                            return Err(RequestError::Expectation);
                        }
                        expects = true;
                    }
                }
                FieldKind::Upgrade => {
                    let value = value_range(&head.bytes, value);
                    upgrade = upgrade.or(value);
                }
                FieldKind::Cookie | FieldKind::HopByHop | FieldKind::Other => {}
            }
        }
        let body = match (coding, length) {
            (Some(_), Some(_)) => return Err(RequestError::Length),
            (Some(_), None) if head.version == Version::Http10 => return Err(RequestError::Length),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
            (Some(_), None) => return Err(RequestError::Coding),
            (None, Some(length)) => Framing::Length(length),
            (None, None) => Framing::None,
        };
        let (authority, path) = target(&head, host)?;
        // Only what changes the protocol of an HTTP/1.1 connection without a body; every other offer is ignored (RFC 9110 §7.8).
        let upgrade = upgrade.filter(|_| {
            asks_upgrade
                && head.version == Version::Http11
                && matches!(body, Framing::None | Framing::Length(0))
        });
        let keeps_connection = !close && (head.version == Version::Http11 || keep);
        Ok(Self {
            authority,
            path,
            body,
            keeps_connection,
            expects_continue: expects && !matches!(body, Framing::None | Framing::Length(0)),
            upgrade,
            nominates,
            head,
        })
    }

    /// The same request without the cookies of these names; `None`: it has none of them.
    #[must_use]
    pub fn without_cookies(&self, names: &[&[u8]]) -> Option<Self> {
        let is_named = |cookie: &&[u8]| {
            let name = cookie.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
            names.contains(&name)
        };
        let is_cookie = |name: &[u8]| FieldKind::of(name) == FieldKind::Cookie;
        let mut fields = self.head.fields();
        if !fields.any(|(name, value)| {
            is_cookie(name) && value.split(|byte| *byte == b';').any(|cookie| is_named(&cookie))
        }) {
            return None;
        }
        let mut out = BytesMut::with_capacity(self.head.size());
        let version: &[u8] =
            if self.head.version == Version::Http10 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" };
        for part in [self.head.method(), b" ", self.head.target(), version] {
            out.extend_from_slice(part);
        }
        for (name, value) in self.head.fields() {
            if !is_cookie(name) {
                push_field(&mut out, name, value);
                continue;
            }
            let rest: Vec<&[u8]> =
                value.split(|byte| *byte == b';').filter(|cookie| !is_named(cookie)).collect();
            let rest = rest.join(&b';');
            if !rest.trim_ascii().is_empty() {
                push_field(&mut out, name, rest.trim_ascii());
            }
        }
        out.extend_from_slice(b"\r\n");
        // What was read is read again; it cannot be refused now.
        Self::new(RequestHead::parse(out.freeze()).ok()?).ok()
    }

    /// The head as it came.
    #[must_use]
    pub fn head(&self) -> &RequestHead {
        &self.head
    }

    /// The host and port that the client asked for, as it wrote them.
    #[must_use]
    pub fn authority(&self) -> &[u8] {
        self.head.bytes.get(self.authority.clone()).unwrap_or_default()
    }

    /// The target from its path on: with a `/` in front, or empty, or a query alone (RFC 9112 §3.2.2), or `*`.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        self.head.bytes.get(self.path.clone()).unwrap_or_default()
    }

    /// The request without the fields of this name, which must not be one that says where it goes, or how it is framed.
    #[must_use]
    pub fn without(&self, name: &[u8]) -> Self {
        let mut request = self.clone();
        let RequestHead { bytes, fields, .. } = &mut request.head;
        fields.retain(|field| !field.name(bytes).eq_ignore_ascii_case(name));
        request
    }

    /// How the body is framed.
    #[must_use]
    pub fn body(&self) -> Framing {
        self.body
    }

    /// Whether the request has no body.
    #[must_use]
    pub fn is_bodyless(&self) -> bool {
        matches!(self.body, Framing::None | Framing::Length(0))
    }

    /// Whether the client wants to use the connection again.
    #[must_use]
    pub fn keeps_connection(&self) -> bool {
        self.keeps_connection
    }

    /// Whether the client waits for `100 Continue` before it sends its body.
    #[must_use]
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// The protocol that the client wants to change to.
    #[must_use]
    pub fn upgrade(&self) -> Option<&[u8]> {
        self.head.bytes.get(self.upgrade.clone()?)
    }

    /// Whether the answer has no body whatever its head says.
    #[must_use]
    pub fn is_head(&self) -> bool {
        self.head.method() == b"HEAD"
    }

    /// Whether the target is `*`: the server as a whole is meant.
    #[must_use]
    pub fn is_asterisk(&self) -> bool {
        self.path() == b"*"
    }

    /// Whether sending the request twice has the effect of sending it once (RFC 9110 §9.2.2).
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        matches!(self.head.method(), b"GET" | b"HEAD" | b"OPTIONS" | b"PUT" | b"DELETE")
    }
}

/// A field value as a range of the bytes that it lies in.
fn value_range(bytes: &[u8], value: &[u8]) -> Option<Range<usize>> {
    let begin = (value.as_ptr() as usize).checked_sub(bytes.as_ptr() as usize)?;
    (begin + value.len() <= bytes.len()).then(|| begin..begin + value.len())
}

/// Digits only: `parse` alone would take a sign.
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The authority and the path of a target (RFC 9112 §3.2).
fn target(head: &RequestHead, host: Option<&Field>) -> Result<(Range<usize>, Range<usize>), RequestError> {
    let said = match host {
        Some(field) => value_range(&head.bytes, field.value(&head.bytes)).ok_or(RequestError::Host)?,
        None => 0..0,
    };
    if host.is_none() && head.version == Version::Http11 {
        return Err(RequestError::Host);
    }
    let text = head.bytes.get(head.target.clone()).unwrap_or_default();
    match text {
        [b'/', ..] => return Ok((said, head.target.clone())),
        b"*" if head.method() == b"OPTIONS" => return Ok((said, head.target.clone())),
        _ => {}
    }
    let scheme = |scheme: &[u8]| {
        text.get(..scheme.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
            .then_some(scheme.len())
    };
    let skip = scheme(b"http://").or_else(|| scheme(b"https://")).ok_or(RequestError::Target)?;
    let begin = head.target.start + skip;
    let rest = text.get(skip..).unwrap_or_default();
    let length = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let authority = begin..begin + length;
    let named = head.bytes.get(authority.clone()).unwrap_or_default();
    let said = head.bytes.get(said).unwrap_or_default();
    // RFC 9112 §3.2.2 lets a proxy ignore Host here; a request that says two hosts is refused instead.
    if host.is_some() && !said.eq_ignore_ascii_case(named) {
        return Err(RequestError::Host);
    }
    Ok((authority, begin + length..head.target.end))
}

/// Appends the head that a node gets: origin form, `host`, the client's end-to-end fields, the edge's own fields, and the
/// framing of the body. If the edge's own say where the request stands in a trace, the client's do not. With `upgrade` the client's `Upgrade` goes along, on a connection that carries this request only.
pub fn push_upstream_head(
    out: &mut BytesMut,
    request: &Request,
    host: &[u8],
    ours: &[(&[u8], &[u8])],
    upgrade: bool,
) {
    let head = &request.head;
    out.extend_from_slice(head.method());
    out.extend_from_slice(b" ");
    let path = request.path();
    if !matches!(path.first(), Some(b'/' | b'*')) {
        out.extend_from_slice(b"/");
    }
    out.extend_from_slice(path);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    push_field(out, b"host", host);
    let mut has_cookie = false;
    let is_traced = ours.iter().any(|(name, _)| *name == TRACEPARENT);
    for (name, value) in head.fields() {
        match FieldKind::of(name) {
            FieldKind::Other if is_spoofable(name) || (request.nominates && is_nominated(head, name)) => {}
            FieldKind::Other
                if is_traced
                    && [TRACEPARENT, TRACESTATE].iter().any(|ours| name.eq_ignore_ascii_case(ours)) => {}
            FieldKind::Other => push_field(out, name, value),
            FieldKind::Cookie => has_cookie = true,
            FieldKind::Host
            | FieldKind::ContentLength
            | FieldKind::TransferEncoding
            | FieldKind::Connection
            | FieldKind::Expect
            | FieldKind::Upgrade
            | FieldKind::HopByHop => {}
        }
    }
    if has_cookie && !(request.nominates && is_nominated(head, b"cookie")) {
        out.extend_from_slice(b"cookie: ");
        let mut first = true;
        for (_, value) in head.fields().filter(|(name, _)| FieldKind::of(name) == FieldKind::Cookie) {
            // An empty one would leave a separator behind with nothing to separate.
            if value.is_empty() {
                continue;
            }
            if !std::mem::replace(&mut first, false) {
                out.extend_from_slice(b"; ");
            }
            out.extend_from_slice(value);
        }
        out.extend_from_slice(b"\r\n");
    }
    for (name, value) in ours {
        push_field(out, name, value);
    }
    match request.body {
        Framing::Length(length) => push_field(out, b"content-length", length.to_string().as_bytes()),
        Framing::Chunked => push_field(out, b"transfer-encoding", b"chunked"),
        Framing::None | Framing::UntilClose => {}
    }
    if let Some(protocol) = request.upgrade().filter(|_| upgrade) {
        push_field(out, b"upgrade", protocol);
        // Whatever becomes of the upgrade, the node takes no second request from this connection (RFC 9112 §9.6).
        push_field(out, b"connection", b"upgrade, close");
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a `Connection` field names this one.
fn is_nominated(head: &RequestHead, name: &[u8]) -> bool {
    head.fields()
        .filter(|(other, _)| FieldKind::of(other) == FieldKind::Connection)
        .any(|(_, value)| lists_token(value, name))
}

pub(crate) fn push_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
