//! Bodies: framing, decoding, chunks.

use memchr::memchr;

use crate::head::field;

/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Longest line of a chunk's size with its extensions, in bytes.
const MAX_SIZE_LINE: usize = 1_024;
/// Most bytes of trailers.
const MAX_TRAILERS: usize = 16 * 1_024;

/// How the end of a body is known (RFC 9112 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Everything until the connection closes: responses only.
    UntilClose,
}

/// A body is not framed as it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A chunk's size is not a hexadecimal number of at most 16 digits on a line of its own.
    #[error("a chunk's size is not valid")]
    Size,
    /// A chunk is not followed by CRLF.
    #[error("a chunk is longer than its size")]
    ChunkEnd,
    /// The trailers are no fields, or too many.
    #[error("the trailers are not valid")]
    Trailers,
    /// The connection closed before the end.
    #[error("the connection closed before the body's end")]
    Truncated,
}

/// What the bytes at hand are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded {
    /// The first `usize` bytes, at least 1, are body. Tell [`Decoder::consumed`] how many of them were taken.
    Data(usize),
    /// The first `usize` bytes belong to the framing: drop them.
    Framing(usize),
    /// More bytes are needed.
    More,
    /// The body has ended; bytes that are left belong to the next message.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Length(u64),
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailers(usize),
    UntilClose,
    End,
}

/// Finds a body in the bytes of a connection.
#[derive(Debug, Clone)]
pub struct Decoder(State);

impl Decoder {
    /// For a body of this framing.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::None | Framing::Length(0) => State::End,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
            Framing::UntilClose => State::UntilClose,
        })
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0 == State::End
    }

    /// Whether the body certainly ends within `limit` more bytes. Of a body in chunks only those in `input`, which came and were
    /// not taken yet, can tell.
    #[must_use]
    pub fn ends_within(&self, limit: u64, mut input: &[u8]) -> bool {
        if let State::Length(left) = self.0 {
            return left <= limit;
        }
        let mut ahead = self.clone();
        loop {
            match ahead.decode(input) {
                Ok(Decoded::End) => return true,
                Ok(Decoded::More) | Err(_) => return false,
                Ok(Decoded::Framing(n)) => input = input.get(n..).unwrap_or_default(),
                Ok(Decoded::Data(n)) => {
                    ahead.consumed(n);
                    input = input.get(n..).unwrap_or_default();
                }
            }
        }
    }

    /// Looks at the bytes that came and were not taken yet.
    ///
    /// # Errors
    /// They are not what the framing promises.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, BodyError> {
        let at_hand = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        match self.0 {
            State::End => Ok(Decoded::End),
            State::UntilClose | State::Length(_) | State::Chunk(_) if input.is_empty() => Ok(Decoded::More),
            State::UntilClose => Ok(Decoded::Data(input.len())),
            State::Length(left) | State::Chunk(left) => Ok(Decoded::Data(at_hand(left))),
            State::Size => {
                let Some(line) = whole_line(input, MAX_SIZE_LINE).ok_or(BodyError::Size)? else {
                    return Ok(Decoded::More);
                };
                let size = chunk_size(line.strip_suffix(b"\r\n").ok_or(BodyError::Size)?)?;
                self.0 = if size == 0 { State::Trailers(0) } else { State::Chunk(size) };
                Ok(Decoded::Framing(line.len()))
            }
            State::ChunkEnd => match input {
                [b'\r', b'\n', ..] => {
                    self.0 = State::Size;
                    Ok(Decoded::Framing(2))
                }
                [] | [b'\r'] => Ok(Decoded::More),
                _ => Err(BodyError::ChunkEnd),
            },
            State::Trailers(seen) => {
                let Some(line) = whole_line(input, MAX_TRAILERS - seen).ok_or(BodyError::Trailers)? else {
                    return Ok(Decoded::More);
                };
                let content = line.strip_suffix(b"\r\n").ok_or(BodyError::Trailers)?;
                if content.is_empty() {
                    self.0 = State::End;
                } else if field(content, 0..content.len()).is_ok() {
                    // Trailers are dropped, which RFC 9110 §6.5.1 allows.
                    self.0 = State::Trailers(seen + line.len());
                } else {
                    return Err(BodyError::Trailers);
                }
                Ok(Decoded::Framing(line.len()))
            }
        }
    }

    /// `taken` bytes of [`Decoded::Data`] are dealt with.
    pub fn consumed(&mut self, taken: usize) {
        let taken = u64::try_from(taken).unwrap_or(u64::MAX);
        match self.0 {
            State::Length(left) => {
                self.0 = if left > taken { State::Length(left - taken) } else { State::End };
            }
            State::Chunk(left) => {
                self.0 = if left > taken { State::Chunk(left - taken) } else { State::ChunkEnd };
            }
            State::Size | State::ChunkEnd | State::Trailers(_) | State::UntilClose | State::End => {}
        }
    }

    /// The connection closed and everything before that was decoded.
    ///
    /// # Errors
    /// The body had not ended.
    pub fn closed(&mut self) -> Result<(), BodyError> {
        if matches!(self.0, State::UntilClose | State::End) {
            self.0 = State::End;
            Ok(())
        } else {
            Err(BodyError::Truncated)
        }
    }
}

/// The first line with its line feed; `Some(None)` while it is not whole, `None` when it is longer than `limit`.
fn whole_line(input: &[u8], limit: usize) -> Option<Option<&[u8]>> {
    match memchr(b'\n', input) {
        Some(end) if end < limit => Some(input.get(..=end)),
        None if input.len() < limit => Some(None),
        Some(_) | None => None,
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, BodyError> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at_checked(digits).unwrap_or_default();
    if !(1..=16).contains(&digits) || extension.iter().any(|byte| crate::head::is_control(*byte)) {
        return Err(BodyError::Size);
    }
    if !extension.is_empty() && extension.trim_ascii_start().first() != Some(&b';') {
        return Err(BodyError::Size);
    }
    let text = std::str::from_utf8(size).map_err(|_| BodyError::Size)?;
    u64::from_str_radix(text, 16).map_err(|_| BodyError::Size)
}

/// Appends one chunk. Nothing is appended for no data: that would be the end.
pub fn push_chunk(out: &mut bytes::BytesMut, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut left = data.len();
    while left > 0 {
        at -= 1;
        if let (Some(digit), Some(hex)) = (digits.get_mut(at), b"0123456789abcdef".get(left % 16)) {
            *digit = *hex;
        }
        left /= 16;
    }
    out.extend_from_slice(digits.get(at..).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;

    /// Body and what is left of the input, when the bytes come in pieces of `piece`.
    fn decode(framing: Framing, input: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>), BodyError> {
        let (mut decoder, mut body, mut buffer) = (Decoder::new(framing), Vec::new(), Vec::new());
        let mut pieces = input.chunks(piece);
        loop {
            match decoder.decode(&buffer)? {
                Decoded::Data(n) => {
                    body.extend(buffer.drain(..n));
                    decoder.consumed(n);
                }
                Decoded::Framing(n) => drop(buffer.drain(..n)),
                Decoded::More => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => {
                        decoder.closed()?;
                        return Ok((body, buffer));
                    }
                },
                Decoded::End => {
                    buffer.extend(pieces.flatten());
                    return Ok((body, buffer));
                }
            }
        }
    }

    #[test]
    fn the_end_of_a_body_in_chunks_is_known_once_it_came() {
        let ends = |framing, input: &[u8]| Decoder::new(framing).ends_within(10, input);
        assert!(
            ends(Framing::None, b"")
                && ends(Framing::Length(10), b"")
                && !ends(Framing::Length(11), b"12345678901")
        );
        assert!(ends(Framing::Chunked, b"3\r\nabc\r\n0\r\nA: b\r\n\r\nGET"));
        for input in ["", "3\r\nab", "3\r\nabc\r\n", "3\r\nabc\r\n0\r\n", "3\r\nabcd\r\n0\r\n\r\n"] {
            assert!(!ends(Framing::Chunked, input.as_bytes()), "{input:?}");
        }
    }

    #[test]
    fn a_body_ends_where_its_framing_says() {
        for piece in [1, 2, 3, 1_000] {
            let ends = |framing, input: &str| {
                let (body, rest) = decode(framing, input.as_bytes(), piece).unwrap();
                (String::from_utf8(body).unwrap(), String::from_utf8(rest).unwrap())
            };
            assert_eq!(ends(Framing::Length(3), "abcdef"), ("abc".into(), "def".into()));
            assert_eq!(ends(Framing::None, "abc"), (String::new(), "abc".into()));
            assert_eq!(ends(Framing::UntilClose, "abc"), ("abc".into(), String::new()));
            for chunked in [
                "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nnext",
                "03 ; x=\"y;z\"\r\nabc\r\n2;\r\nde\r\n000\r\nx-trailer: 1\r\n\r\nnext",
            ] {
                assert_eq!(ends(Framing::Chunked, chunked), ("abcde".into(), "next".into()));
            }
        }
    }

    #[test]
    fn chunks_have_one_reading_or_none() {
        for (input, error) in [
            ("\r\n", BodyError::Size),
            ("g\r\n", BodyError::Size),
            ("-1\r\n", BodyError::Size),
            ("+3\r\nabc\r\n", BodyError::Size),
            ("0x3\r\nabc\r\n", BodyError::Size),
            (" 3\r\nabc\r\n", BodyError::Size),
            ("3 abc\r\n", BodyError::Size),
            ("3\nabc\r\n", BodyError::Size),
            ("3\r\rabc\r\n", BodyError::Size),
            ("3;a\rb\r\nabc\r\n", BodyError::Size),
            ("11111111111111111\r\n", BodyError::Size),
            ("3\r\nabcd\r\n", BodyError::ChunkEnd),
            ("3\r\nabc\n", BodyError::ChunkEnd),
            ("3\r\nabc\r\n\r\n", BodyError::Size),
            ("0\r\nnot a field\r\n\r\n", BodyError::Trailers),
            ("0\r\na: b\n\r\n", BodyError::Trailers),
            ("0\r\na b: c\r\n\r\n", BodyError::Trailers),
            ("0\r\na: b\r\n c: d\r\n\r\n", BodyError::Trailers),
            ("0\r\na: b\rc\r\n\r\n", BodyError::Trailers),
            ("0\r\n\n", BodyError::Trailers),
            ("0\r\n", BodyError::Truncated),
            ("5\r\nabc", BodyError::Truncated),
        ] {
            for piece in [1, 1_000] {
                assert_eq!(decode(Framing::Chunked, input.as_bytes(), piece), Err(error), "{input:?}");
            }
        }
        let long = format!("3;{}\r\nabc\r\n", "x".repeat(2_000));
        assert_eq!(decode(Framing::Chunked, long.as_bytes(), 1_000), Err(BodyError::Size));
        let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(3_000));
        assert_eq!(decode(Framing::Chunked, trailers.as_bytes(), 1_000), Err(BodyError::Trailers));
        assert_eq!(decode(Framing::Length(4), b"abc", 1_000), Err(BodyError::Truncated));
    }

    proptest! {
        #[test]
        fn what_is_pushed_is_decoded(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 0..6), piece in 1usize..700) {
            let mut wire = BytesMut::new();
            pieces.iter().for_each(|data| push_chunk(&mut wire, data));
            wire.extend_from_slice(LAST_CHUNK);
            wire.extend_from_slice(b"next");
            prop_assert_eq!(decode(Framing::Chunked, &wire, piece), Ok((pieces.concat(), b"next".to_vec())));
        }

        #[test]
        fn no_bytes_bring_the_decoder_down(input in proptest::collection::vec(any::<u8>(), 0..300), piece in 1usize..50) {
            let _ = decode(Framing::Chunked, &input, piece);
        }
    }
}
