//! A stream's list of fields as an HTTP/1.1 head, and how that head travels inside of HTTP/2.

use std::ops::Range;

use memchr::memchr;

/// The field that a head travels in. Its value has the head's lines with a tab behind each; a tab of a line is doubled. A line
/// neither begins nor ends with one.
pub const HEAD: &str = "head";
/// The field that stands in for a request that is refused; its value is the status code.
pub const REFUSED: &str = "refused";

/// What each field counts beside its bytes (RFC 9113 §6.5.2).
const FIELD: usize = 32;

/// Nothing that HTTP/2 accepts: `te` says other than `trailers` (RFC 9113 §8.2.2).
const MALFORMED: &[u8] = b"\x00\x02te\x01x";

/// What a list of fields turned out to be, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Malformed (RFC 9113 §8.1.1): the stream is reset.
    Malformed,
    /// Larger than the limit; 431.
    TooLarge,
    /// Nothing that HTTP/1.1 could say; 400.
    Bad,
}

/// Gathers the fields of one list, and holds them to RFC 9113 §8, whose rules are those of RFC 9114 §4 too.
#[derive(Debug)]
pub struct Fields {
    /// Pseudo-header fields, one behind the other.
    pseudo: Vec<u8>,
    method: Option<Range<usize>>,
    path: Option<Range<usize>>,
    authority: Option<Range<usize>>,
    scheme: bool,
    /// The head as it travels.
    head: Vec<u8>,
    length: Option<Range<usize>>,
    lengths: usize,
    begun: bool,
    fault: Option<Fault>,
    size: usize,
    limit: usize,
    trailers: bool,
}

impl Fields {
    /// For lists of at most `limit` bytes, in the sizes of RFC 9113 §6.5.2.
    #[must_use]
    pub fn new(limit: usize, trailers: bool) -> Self {
        Self {
            pseudo: Vec::new(),
            method: None,
            path: None,
            authority: None,
            scheme: false,
            head: Vec::new(),
            length: None,
            lengths: 0,
            begun: trailers,
            fault: None,
            size: 0,
            limit,
            trailers,
        }
    }

    /// Bytes that it keeps.
    pub(crate) fn held(&self) -> usize {
        self.pseudo.capacity() + self.head.capacity()
    }

    fn fail(&mut self, fault: Fault) {
        self.fault = Some(self.fault.map_or(fault, |before| before.min(fault)));
    }

    /// The stream's request is malformed for a reason outside of its fields.
    pub(crate) fn malformed(&mut self) {
        self.fail(Fault::Malformed);
    }

    /// A field was too long to be kept.
    pub(crate) fn too_large(&mut self) {
        self.fail(Fault::TooLarge);
        self.head = Vec::new();
    }

    /// Takes the next field.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.size = self.size.saturating_add(name.len() + value.len() + FIELD);
        if self.size > self.limit {
            self.too_large();
        }
        if self.fault.is_some_and(|fault| fault <= Fault::TooLarge) {
            return;
        }
        match name {
            [b':', pseudo @ ..] => self.push_pseudo(pseudo, value),
            _ => self.push_field(name, value),
        }
        if self.head.len() > self.limit {
            self.too_large();
        }
    }

    fn push_pseudo(&mut self, name: &[u8], value: &[u8]) {
        let range = self.pseudo.len()..self.pseudo.len() + value.len();
        let before = match name {
            _ if self.begun => return self.fail(Fault::Malformed),
            b"method" if is_token(value) => self.method.replace(range),
            b"path" if !value.is_empty() => self.path.replace(range),
            b"authority" => self.authority.replace(range),
            b"scheme" if is_scheme(value) => std::mem::replace(&mut self.scheme, true).then_some(range),
            _ => return self.fail(Fault::Malformed),
        };
        self.pseudo.extend_from_slice(value);
        if before.is_some() {
            self.fail(Fault::Malformed);
        }
        self.check(value);
    }

    fn push_field(&mut self, name: &[u8], value: &[u8]) {
        self.begin();
        if name.is_empty() || !name.iter().all(|byte| is_token_byte(*byte) && !byte.is_ascii_uppercase()) {
            return self.fail(Fault::Malformed);
        }
        self.check(value);
        let value = value.trim_ascii();
        match name {
            // RFC 9113 §8.2.2.
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
                return self.fail(Fault::Malformed);
            }
            b"te" if !value.eq_ignore_ascii_case(b"trailers") => return self.fail(Fault::Malformed),
            b"host" if self.said(&self.authority).is_some_and(|said| said.eq_ignore_ascii_case(value)) => {
                return;
            }
            _ => {}
        }
        if self.trailers || self.fault.is_some() {
            return;
        }
        let begin = self.head.len() + name.len() + 2;
        self.line(&[name, b": ", value]);
        if name == b"content-length" {
            self.length = Some(begin..begin + value.len());
            self.lengths += 1;
        }
    }

    /// Controls: RFC 9113 §8.2.1 names three of them, RFC 9110 §5.5 the others.
    fn check(&mut self, value: &[u8]) {
        // Without a way out early, the compiler looks at many bytes at once.
        if !value.iter().fold(false, |found, byte| found | is_control(*byte)) {
            return;
        }
        let malformed = value.iter().any(|byte| matches!(byte, b'\0' | b'\r' | b'\n'));
        self.fail(if malformed { Fault::Malformed } else { Fault::Bad });
    }

    fn said(&self, range: &Option<Range<usize>>) -> Option<&[u8]> {
        self.pseudo.get(range.clone()?)
    }

    /// The pseudo-header fields are at their end: the head's first line, and its host.
    fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let pseudo = std::mem::take(&mut self.pseudo);
        let said = |range: &Option<Range<usize>>| pseudo.get(range.clone()?);
        let (method, authority) = (said(&self.method), said(&self.authority));
        let path = match (method, said(&self.path)) {
            // RFC 9113 §8.5: only where to connect to.
            (Some(b"CONNECT"), None) if !self.scheme => authority,
            (Some(b"CONNECT"), _) => None,
            (_, path) => path.filter(|_| self.scheme),
        };
        match (method, path) {
            (Some(method), Some(path)) => {
                // RFC 9113 §8.3.1: absolute form is no path.
                if !matches!(path, [b'/', ..] | b"*") && method != b"CONNECT" {
                    self.fail(Fault::Bad);
                }
                self.head.reserve(512);
                self.line(&[method, b" ", path, b" HTTP/1.1"]);
                if let Some(authority) = authority {
                    self.line(&[b"host: ", authority.trim_ascii()]);
                }
            }
            _ => self.fail(Fault::Malformed),
        }
        self.pseudo = pseudo;
    }

    fn line(&mut self, parts: &[&[u8]]) {
        for mut part in parts.iter().copied() {
            while let Some(tab) = memchr(b'\t', part) {
                let (before, after) = part.split_at_checked(tab + 1).unwrap_or_default();
                self.head.extend_from_slice(before);
                self.head.push(b'\t');
                part = after;
            }
            self.head.extend_from_slice(part);
        }
        self.head.push(b'\t');
    }

    /// The block that stands for the list. `ends`: nothing follows on the stream.
    pub(crate) fn block(mut self, ends: bool) -> Vec<u8> {
        match self.finish(ends) {
            Err(Fault::Malformed) => MALFORMED.to_vec(),
            // Trailers are dropped, which RFC 9110 §6.5.1 allows.
            _ if self.trailers => Vec::new(),
            Err(Fault::TooLarge) => stand_in(None, REFUSED, b"431"),
            Err(Fault::Bad) => stand_in(None, REFUSED, b"400"),
            Ok(length) => stand_in(length.as_deref(), HEAD, &self.head),
        }
    }

    /// The head with its empty line; of trailers, which are dropped, an empty one. `ends`: nothing follows on the stream.
    ///
    /// # Errors
    /// Why there is none.
    pub fn into_head(mut self, ends: bool) -> Result<Vec<u8>, Fault> {
        self.finish(ends)?;
        Ok(head(&self.head))
    }

    /// Completes the head, and says the length of the body if the client did.
    fn finish(&mut self, ends: bool) -> Result<Option<Vec<u8>>, Fault> {
        self.begin();
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.trailers {
            return Ok(None);
        }
        let length = self.length.clone().and_then(|range| self.head.get(range)).map(<[u8]>::to_vec);
        if let Some(length) = &length {
            // What HTTP/2 does not read it does not hold the body to.
            if self.lengths > 1 || !is_number(length) {
                return Err(Fault::Bad);
            }
        } else {
            let method = self.said(&self.method).unwrap_or_default();
            if !ends {
                self.line(&[b"transfer-encoding: chunked"]);
            } else if matches!(method, b"POST" | b"PUT" | b"PATCH") {
                self.line(&[b"content-length: 0"]);
            }
        }
        Ok(length)
    }
}

/// A request that HTTP/2 accepts. `content-length` is there too, because HTTP/2 holds the body to it.
fn stand_in(length: Option<&[u8]>, name: &str, value: &[u8]) -> Vec<u8> {
    // GET, https, /; by their indexes in RFC 7541 Appendix A, as the names of :authority (1) and content-length (28).
    let mut block = Vec::with_capacity(value.len() + 64);
    block.extend_from_slice(b"\x82\x87\x84\x01\x01-");
    if let Some(length) = length {
        push_integer(&mut block, 4, 0, 28);
        push_string(&mut block, length);
    }
    block.push(0);
    push_string(&mut block, name.as_bytes());
    push_string(&mut block, value);
    block
}

fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    push_integer(out, 7, 0, text.len());
    out.extend_from_slice(text);
}

/// Appends an integer behind the bits of `first`, as HPACK and QPACK have it (RFC 7541 §5.1).
pub fn push_integer(out: &mut Vec<u8>, prefix: u8, first: u8, value: usize) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        out.push(first | value as u8);
        return;
    }
    out.push(first | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// The head that travelled as the value of [`HEAD`], with its empty line.
#[must_use]
pub fn head(value: &[u8]) -> Vec<u8> {
    let mut head = Vec::with_capacity(value.len() + 64);
    let mut rest = value;
    while let Some(tab) = memchr(b'\t', rest) {
        head.extend_from_slice(rest.get(..tab).unwrap_or_default());
        rest = rest.get(tab + 1..).unwrap_or_default();
        match rest.strip_prefix(b"\t") {
            Some(behind) => {
                head.push(b'\t');
                rest = behind;
            }
            None => head.extend_from_slice(b"\r\n"),
        }
    }
    head.extend_from_slice(rest);
    head.extend_from_slice(b"\r\n");
    head
}

fn is_number(text: &[u8]) -> bool {
    (1..=19).contains(&text.len()) && text.iter().all(u8::is_ascii_digit)
}

fn is_scheme(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_alphabetic)
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

/// `tchar` (RFC 9110 §5.6.2).
fn is_token_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'-' | b'0'..=b'9' | b'A'..=b'Z' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

/// Controls but the tab.
fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}
