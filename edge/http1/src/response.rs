//! Responses: from a node's bytes to the head that a client gets.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::body::Framing;
use crate::field::{FieldKind, lists_token};
use crate::head::{Field, HeadError, lines};
use crate::request::{Version, push_field};

/// A node's response cannot be passed on; the client gets 502 and the connection to the node is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The head is not valid.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// An interim response. The edge asks for none, and what a tenant's code says as one has no framing of its own.
    #[error("the node sent an interim response")]
    Interim,
    /// `101` without a request for it, or to another protocol.
    #[error("the node changes to a protocol that nobody asked for")]
    Upgrade,
    /// The body's length is said twice, in two ways, or not as a number, or the transfer coding is not `chunked`.
    #[error("the body's length is not said once")]
    Length,
}

/// A response's head as it came.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    bytes: Bytes,
    status: u16,
    reason: Range<usize>,
    minor: u8,
    fields: Vec<Field>,
}

/// What a response means for the connection to the node, and for the client.
#[derive(Debug)]
pub struct Answered<'a> {
    /// How the node frames the body.
    pub body: Framing,
    /// Whether the node lets the connection be used again.
    pub keeps_connection: bool,
    /// The connection carries another protocol from here on.
    pub upgraded: bool,
    /// For the client.
    pub head: AnswerHead<'a>,
}

/// The head of an answer, without what belongs to a connection.
#[derive(Debug)]
pub struct AnswerHead<'a> {
    /// 200 to 599, or 101 for an upgrade.
    pub status: u16,
    /// The reason phrase; HTTP/2 has none.
    pub reason: &'a [u8],
    /// End-to-end fields, `Content-Length` not among them.
    pub fields: Vec<(&'a [u8], &'a [u8])>,
    /// The length that the client is told.
    pub length: Option<u64>,
    /// Whether a body follows.
    pub has_body: bool,
}

impl ResponseHead {
    /// Reads a whole head, up to and with its empty line.
    ///
    /// # Errors
    /// The first thing that has not exactly one reading.
    pub fn parse(bytes: Bytes) -> Result<Self, HeadError> {
        let (line, fields) = lines(&bytes)?;
        let text = bytes.get(line.clone()).unwrap_or_default();
        let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'9', b' ', rest @ ..] = text else {
            return Err(HeadError::StartLine);
        };
        let [a @ b'1'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] = rest else {
            return Err(HeadError::StartLine);
        };
        let reason = match rest {
            [] => rest,
            [b' ', reason @ ..] => reason,
            _ => return Err(HeadError::StartLine),
        };
        if reason.iter().any(|byte| crate::head::is_control(*byte)) {
            return Err(HeadError::StartLine);
        }
        let digit = |byte: u8| u16::from(byte - b'0');
        Ok(Self {
            status: digit(*a) * 100 + digit(*b) * 10 + digit(*c),
            reason: line.end - reason.len()..line.end,
            minor: minor - b'0',
            bytes,
            fields,
        })
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The value of the first field of this name.
    #[must_use]
    pub fn field(&self, name: &[u8]) -> Option<&[u8]> {
        let mut named = self.fields.iter().filter(|field| field.name(&self.bytes).eq_ignore_ascii_case(name));
        named.next().map(|field| field.value(&self.bytes))
    }

    /// Decides what the response to a request means. `is_head`: the request's method was HEAD. `upgrade`: the protocol that the
    /// node was asked to change to.
    ///
    /// # Errors
    /// Why it cannot be passed on.
    pub fn answer(&self, is_head: bool, upgrade: Option<&[u8]>) -> Result<Answered<'_>, ResponseError> {
        let (mut length, mut coding, mut protocol) = (None, None, None);
        let (mut close, mut keep) = (false, false);
        let mut nominated: Vec<&[u8]> = Vec::new();
        let mut fields = Vec::with_capacity(self.fields.len() + 2);
        for field in &self.fields {
            let (name, value) = (field.name(&self.bytes), field.value(&self.bytes));
            match FieldKind::of(name) {
                FieldKind::ContentLength => {
                    let text = std::str::from_utf8(value).map_err(|_| ResponseError::Length)?;
                    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                    let number: u64 = text.parse().ok().filter(|_| digits).ok_or(ResponseError::Length)?;
                    // The same length twice is one length (RFC 9112 §6.3).
                    if length.replace(number).is_some_and(|before| before != number) {
                        return Err(ResponseError::Length);
                    }
                }
                FieldKind::TransferEncoding => {
                    if coding.replace(value).is_some() {
                        return Err(ResponseError::Length);
                    }
                }
                FieldKind::Connection => {
                    for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                        close |= option.eq_ignore_ascii_case(b"close");
                        keep |= option.eq_ignore_ascii_case(b"keep-alive");
                        if FieldKind::of(option) == FieldKind::Other && !option.is_empty() {
                            nominated.push(option);
                        }
                    }
                }
                FieldKind::Upgrade => protocol = protocol.or(Some(value)),
                FieldKind::HopByHop => {}
                FieldKind::Host | FieldKind::Expect | FieldKind::Cookie | FieldKind::Other => {
                    fields.push((name, value));
                }
            }
        }
        if !nominated.is_empty() {
            fields.retain(|(name, _)| !nominated.iter().any(|option| option.eq_ignore_ascii_case(name)));
        }
        let reason = self.bytes.get(self.reason.clone()).unwrap_or_default();
        if self.status == 101 {
            let wanted = upgrade.zip(protocol).is_some_and(|(asked, got)| lists_token(asked, got));
            if !wanted || coding.is_some() || length.is_some_and(|length| length > 0) {
                return Err(ResponseError::Upgrade);
            }
            fields.extend(protocol.map(|protocol| (&b"upgrade"[..], protocol)));
            let head = AnswerHead { status: 101, reason, fields, length: None, has_body: false };
            return Ok(Answered { body: Framing::None, keeps_connection: false, upgraded: true, head });
        }
        if self.status < 200 {
            return Err(ResponseError::Interim);
        }
        let body = match (coding, length) {
            (Some(_), Some(_)) => return Err(ResponseError::Length),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") && self.minor > 0 => {
                Framing::Chunked
            }
            (Some(_), None) => return Err(ResponseError::Length),
            (None, Some(length)) => Framing::Length(length),
            (None, None) => Framing::UntilClose,
        };
        // RFC 9112 §6.3: these end with their head.
        let has_body = !is_head && self.status != 204 && self.status != 304;
        let body = if has_body { body } else { Framing::None };
        Ok(Answered {
            keeps_connection: !close && (self.minor > 0 || keep) && body != Framing::UntilClose,
            upgraded: false,
            body,
            // RFC 9110 §8.6: 204 has no length.
            head: AnswerHead {
                status: self.status,
                reason,
                fields,
                length: length.filter(|_| self.status != 204),
                has_body,
            },
        })
    }
}

impl AnswerHead<'_> {
    /// How a client of this version is told where the body ends.
    #[must_use]
    pub fn framing(&self, version: Version) -> Framing {
        match self.length {
            _ if !self.has_body => Framing::None,
            Some(length) => Framing::Length(length),
            None if version == Version::Http10 => Framing::UntilClose,
            None => Framing::Chunked,
        }
    }

    /// Appends the head for an HTTP/1 client. `keeps_connection`: another request may follow on the connection.
    pub fn push(&self, out: &mut BytesMut, version: Version, keeps_connection: bool) {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status.to_string().as_bytes());
        out.extend_from_slice(b" ");
        out.extend_from_slice(self.reason);
        out.extend_from_slice(b"\r\n");
        for (name, value) in &self.fields {
            push_field(out, name, value);
        }
        if let Some(length) = self.length {
            push_field(out, b"content-length", length.to_string().as_bytes());
        } else if self.framing(version) == Framing::Chunked {
            push_field(out, b"transfer-encoding", b"chunked");
        }
        if self.status == 101 {
            push_field(out, b"connection", b"upgrade");
        } else if !keeps_connection {
            push_field(out, b"connection", b"close");
        } else if version == Version::Http10 {
            push_field(out, b"connection", b"keep-alive");
        }
        out.extend_from_slice(b"\r\n");
    }
}
