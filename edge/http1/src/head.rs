//! What requests and responses have in common: where a head ends, and its field lines.

use std::ops::Range;

use memchr::memchr;

/// Most fields of a head.
pub const MAX_FIELDS: usize = 256;

/// A field line as two ranges of the head's bytes.
#[derive(Debug, Clone)]
pub struct Field {
    name: Range<usize>,
    value: Range<usize>,
}

impl Field {
    /// The name as it was sent.
    #[must_use]
    pub fn name<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        head.get(self.name.clone()).unwrap_or_default()
    }

    /// The value without white space around it.
    #[must_use]
    pub fn value<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        head.get(self.value.clone()).unwrap_or_default()
    }
}

/// A head is not valid HTTP/1 (RFC 9112 §2, §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The first line is neither a request line nor a status line.
    #[error("the first line is not valid HTTP")]
    StartLine,
    /// The major version is not 1.
    #[error("the version is not HTTP/1")]
    Version,
    /// A field name is empty, holds a character outside of `token`, or is followed by white space.
    #[error("a field name is not a token directly before a colon")]
    FieldName,
    /// A field value holds a control character.
    #[error("a field value holds a control character")]
    FieldValue,
    /// A line begins with white space (`obs-fold`).
    #[error("a field is folded over two lines")]
    Folded,
    /// More than [`MAX_FIELDS`] fields.
    #[error("there are more than {MAX_FIELDS} fields")]
    TooMany,
}

/// How far the search for a head's end came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadEnd {
    /// The head is the first `usize` bytes.
    At(usize),
    /// The end is not there; look on from `usize` when more bytes came.
    Not(usize),
}

/// Finds the empty line that ends a head. Lines end with CRLF; a single LF counts too (RFC 9112 §2.2). `from` is 0, or what
/// [`HeadEnd::Not`] returned for a shorter prefix of the same bytes.
#[must_use]
pub fn head_end(bytes: &[u8], from: usize) -> HeadEnd {
    let mut at = from;
    while let Some(found) = memchr(b'\n', bytes.get(at..).unwrap_or_default()) {
        let next = at + found + 1;
        match bytes.get(next..) {
            Some([b'\n', ..]) => return HeadEnd::At(next + 1),
            Some([b'\r', b'\n', ..]) => return HeadEnd::At(next + 2),
            // The line end is looked at again when what follows it is there.
            Some([] | [b'\r']) => return HeadEnd::Not(at + found),
            _ => at = next,
        }
    }
    HeadEnd::Not(bytes.len())
}

/// Splits a whole head into its first line and its fields.
pub(crate) fn lines(head: &[u8]) -> Result<(Range<usize>, Vec<Field>), HeadError> {
    let first = line(head, 0).ok_or(HeadError::StartLine)?;
    let mut fields = Vec::with_capacity(16);
    let mut at = first.next;
    loop {
        let next = line(head, at).ok_or(HeadError::FieldValue)?;
        if next.content.is_empty() {
            return Ok((first.content, fields));
        }
        if fields.len() == MAX_FIELDS {
            return Err(HeadError::TooMany);
        }
        fields.push(field(head, next.content)?);
        at = next.next;
    }
}

struct Line {
    content: Range<usize>,
    next: usize,
}

fn line(head: &[u8], at: usize) -> Option<Line> {
    let rest = head.get(at..)?;
    let end = memchr(b'\n', rest)?;
    let content = rest.get(..end)?;
    let length = content.strip_suffix(b"\r").unwrap_or(content).len();
    Some(Line { content: at..at + length, next: at + end + 1 })
}

/// Reads a line of fields, or of trailers, without its line end.
pub(crate) fn field(head: &[u8], range: Range<usize>) -> Result<Field, HeadError> {
    let text = head.get(range.clone()).unwrap_or_default();
    if matches!(text.first(), Some(b' ' | b'\t')) {
        return Err(HeadError::Folded);
    }
    let colon = memchr(b':', text).ok_or(HeadError::FieldName)?;
    let (name, value) = text.split_at_checked(colon).unwrap_or_default();
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(HeadError::FieldName);
    }
    let value = value.get(1..).unwrap_or_default();
    if value.iter().any(|byte| is_control(*byte)) {
        return Err(HeadError::FieldValue);
    }
    let begin = value.len() - value.trim_ascii_start().len();
    let length = value.trim_ascii().len();
    let value = range.start + colon + 1 + begin;
    Ok(Field { name: range.start..range.start + colon, value: value..value + length })
}

/// `tchar` (RFC 9110 §5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let (mut at, others) = (0, b"!#$%&'*+-.^_`|~");
        #[allow(clippy::indexing_slicing, reason = "constant: an index out of range does not compile")]
        while at < 256 {
            let byte = at as u8;
            table[at] = byte.is_ascii_alphanumeric();
            let mut other = 0;
            while other < others.len() {
                if others[other] == byte {
                    table[at] = true;
                }
                other += 1;
            }
            at += 1;
        }
        table
    };
    TOKEN.get(usize::from(byte)).copied().unwrap_or_default()
}

/// What no field value may hold (RFC 9110 §5.5): controls but the tab.
pub(crate) fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_wherever_the_pieces_break() {
        for whole in
            ["GET / HTTP/1.1\r\nhost: a\r\n\r\n", "GET / HTTP/1.1\nhost: a\n\n", "a\r\n\n", "a\n\r\n"]
        {
            let (mut from, mut ended) = (0, None);
            for at in 1..=whole.len() {
                match head_end(&whole.as_bytes()[..at], from) {
                    HeadEnd::At(end) => {
                        ended = Some((at, end));
                        break;
                    }
                    HeadEnd::Not(next) => from = next,
                }
            }
            assert_eq!(ended, Some((whole.len(), whole.len())), "{whole:?}");
        }
    }

    #[test]
    fn a_field_has_one_reading_or_none() {
        let parse = |text: &str| {
            let head = format!("x\r\n{text}\r\n\r\n");
            lines(head.as_bytes()).map(|(_, fields)| {
                let bytes = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
                let head = head.as_bytes();
                fields.iter().map(|f| (bytes(f.name(head)), bytes(f.value(head)))).collect::<Vec<_>>()
            })
        };
        assert_eq!(parse("a:b").unwrap(), [("a".into(), "b".into())]);
        assert_eq!(parse("A-b_c: \t x y \t").unwrap(), [("A-b_c".into(), "x y".into())]);
        assert_eq!(parse("a:").unwrap(), [("a".into(), String::new())]);
        assert_eq!(parse("a: b: c").unwrap(), [("a".into(), "b: c".into())]);
        for (text, error) in [
            (": b", HeadError::FieldName),
            ("a : b", HeadError::FieldName),
            ("a", HeadError::FieldName),
            ("a(b): c", HeadError::FieldName),
            ("a: b\r\n c", HeadError::Folded),
            (" a: b", HeadError::Folded),
            ("a: b\rc", HeadError::FieldValue),
            ("a: b\0", HeadError::FieldValue),
            ("a: b\x7f", HeadError::FieldValue),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
        assert_eq!(parse(&vec!["a: b"; MAX_FIELDS].join("\r\n")).unwrap().len(), MAX_FIELDS);
        assert_eq!(parse(&vec!["a: b"; MAX_FIELDS + 1].join("\r\n")), Err(HeadError::TooMany));
    }
}
