//! A request's stream: which frames may follow each other, and where its fields and its body lie (RFC 9114 §4.1, §7).

use hosting_edge_http2::{Fault, Fields};

use crate::code::{Code, Failure};
use crate::integer::read;
use crate::qpack::decode;

pub(crate) const DATA: u64 = 0x0;
pub(crate) const HEADERS: u64 = 0x1;
pub(crate) const CANCEL_PUSH: u64 = 0x3;
pub(crate) const SETTINGS: u64 = 0x4;
pub(crate) const PUSH_PROMISE: u64 = 0x5;
pub(crate) const GOAWAY: u64 = 0x7;
pub(crate) const MAX_PUSH_ID: u64 = 0xd;

/// Whether a type is one of HTTP/2's that HTTP/3 has no use for (RFC 9114 §7.2.8).
pub(crate) fn is_http2_only(kind: u64) -> bool {
    matches!(kind, 0x2 | 0x6 | 0x8 | 0x9)
}

/// A frame's type and length, and how many bytes these are. `None`: their rest is missing.
pub(crate) fn frame_head(bytes: &[u8]) -> Option<(u64, u64, usize)> {
    let (kind, first) = read(bytes)?;
    let (length, second) = read(bytes.get(first..)?)?;
    Some((kind, length, first + second))
}

/// What comes next on the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// More bytes are needed.
    More,
    /// So many bytes are to be read over.
    Skip(usize),
    /// So many bytes are fields: those of the request, or of trailers.
    Fields(usize),
    /// The fields of the request are larger than the limit. The rest of the stream is of no use.
    TooLarge,
    /// So many bytes are of the body.
    Data(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    FrameHead,
    Fields(usize),
    Data(u64),
    Skip(u64),
}

/// Reads a request's stream. It holds none of its bytes.
#[derive(Debug)]
pub struct RequestReader {
    limit: usize,
    state: State,
    /// The request's fields were there.
    begun: bool,
    /// Trailers were there.
    ended: bool,
}

impl RequestReader {
    /// For lists of fields of at most `limit` bytes, as they are sent and as they are counted (RFC 9114 §4.2.2).
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, state: State::FrameHead, begun: false, ended: false }
    }

    /// What the bytes that were not taken yet begin with. Of [`Next::Skip`] and [`Next::Fields`] all bytes have to be taken, of
    /// [`Next::Data`] as many as [`Self::took`] is told.
    ///
    /// # Errors
    /// A frame that may not come here.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Next, Failure> {
        loop {
            match self.state {
                State::Data(0) | State::Skip(0) => self.state = State::FrameHead,
                _ if bytes.is_empty() => return Ok(Next::More),
                State::Data(left) => return Ok(Next::Data(at_most(left, bytes.len()))),
                State::Skip(left) => {
                    let now = at_most(left, bytes.len());
                    self.state = State::Skip(left - now as u64);
                    return Ok(Next::Skip(now));
                }
                State::Fields(length) if bytes.len() < length => return Ok(Next::More),
                State::Fields(length) => {
                    self.state = State::FrameHead;
                    return Ok(Next::Fields(length));
                }
                State::FrameHead => {
                    let Some((kind, length, size)) = frame_head(bytes) else { return Ok(Next::More) };
                    match self.open(kind, length)? {
                        Some(state) => self.state = state,
                        None => return Ok(Next::TooLarge),
                    }
                    return Ok(Next::Skip(size));
                }
            }
        }
    }

    /// A frame begins. `None`: the request's fields are too large.
    fn open(&mut self, kind: u64, length: u64) -> Result<Option<State>, Failure> {
        Ok(Some(match kind {
            DATA if self.begun && !self.ended => State::Data(length),
            HEADERS if !self.ended => match usize::try_from(length) {
                // Without bytes it is no list, which its reader says.
                Ok(0) => return Err(Failure::Connection(Code::Decompression)),
                Ok(length) if length <= self.limit => State::Fields(length),
                // Trailers are dropped, so nobody misses them.
                _ if self.begun => {
                    self.ended = true;
                    State::Skip(length)
                }
                _ => return Ok(None),
            },
            DATA | HEADERS | CANCEL_PUSH | SETTINGS | PUSH_PROMISE | GOAWAY | MAX_PUSH_ID => {
                return Err(Failure::Connection(Code::FrameUnexpected));
            }
            _ if is_http2_only(kind) => return Err(Failure::Connection(Code::FrameUnexpected)),
            _ => State::Skip(length),
        }))
    }

    /// So many bytes of the body were taken.
    pub fn took(&mut self, count: usize) {
        if let State::Data(left) = self.state {
            self.state = State::Data(left.saturating_sub(count as u64));
        }
    }

    /// Reads the fields that [`Next::Fields`] said. `None`: they are trailers, which are dropped (RFC 9110 §6.5.1).
    ///
    /// # Errors
    /// They are not QPACK, or trailers that are malformed.
    pub fn fields(&mut self, list: &[u8]) -> Result<Option<Fields>, Failure> {
        let trailers = std::mem::replace(&mut self.begun, true);
        let mut fields = Fields::new(self.limit, trailers);
        decode(list, |name, value| fields.push(name, value))
            .map_err(|_| Failure::Connection(Code::Decompression))?;
        if !trailers {
            return Ok(Some(fields));
        }
        self.ended = true;
        match fields.into_head(true) {
            Err(Fault::Malformed) => Err(Failure::Stream(Code::Message)),
            Ok(_) | Err(Fault::TooLarge | Fault::Bad) => Ok(None),
        }
    }

    /// Whether the stream may end here. `rest`: bytes that were not taken.
    ///
    /// # Errors
    /// A frame breaks off (RFC 9114 §7.1), or there is no request.
    pub fn end(&self, rest: &[u8]) -> Result<(), Failure> {
        let whole = matches!(self.state, State::FrameHead | State::Data(0) | State::Skip(0));
        if !whole || !rest.is_empty() {
            return Err(Failure::Connection(Code::Frame));
        }
        if self.begun { Ok(()) } else { Err(Failure::Stream(Code::RequestIncomplete)) }
    }
}

fn at_most(left: u64, bytes: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::integer::push;

    const GET: &[u8] = b"\0\0\xd1\xd7\xc1\x50\x01a";

    fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        push(&mut out, kind);
        push(&mut out, payload.len() as u64);
        out.extend_from_slice(payload);
        out
    }

    #[derive(Debug, Default, PartialEq)]
    struct Seen {
        head: Vec<u8>,
        body: Vec<u8>,
        too_large: bool,
    }

    /// What a stream that comes in pieces of so many bytes, and ends, is read as.
    fn read_in(stream: &[u8], piece: usize, limit: usize) -> Result<Seen, Failure> {
        let (mut reader, mut seen, mut input) = (RequestReader::new(limit), Seen::default(), Vec::new());
        for piece in stream.chunks(piece).chain([&[][..]]) {
            input.extend_from_slice(piece);
            loop {
                match reader.next(&input)? {
                    Next::More => break,
                    Next::Skip(count) => drop(input.drain(..count)),
                    Next::Fields(count) => {
                        let list: Vec<u8> = input.drain(..count).collect();
                        if let Some(fields) = reader.fields(&list)? {
                            seen.head =
                                fields.into_head(false).map_err(|_| Failure::Stream(Code::Message))?;
                        }
                    }
                    Next::TooLarge => return Ok(Seen { too_large: true, ..seen }),
                    Next::Data(count) => {
                        let taken = count.div_ceil(2);
                        seen.body.extend(input.drain(..taken));
                        reader.took(taken);
                    }
                }
            }
            assert!(input.len() < limit + 16, "{} bytes are held", input.len());
        }
        reader.end(&input).map(|()| seen)
    }

    fn read(stream: &[u8]) -> Result<Seen, Failure> {
        let whole = read_in(stream, usize::MAX, 1_000);
        assert_eq!(read_in(stream, 1, 1_000), whole);
        assert_eq!(read_in(stream, 3, 1_000), whole);
        whole
    }

    #[test]
    fn frames_are_read_in_pieces_of_every_size() {
        let grease = frame(0x21 + 0x1f * 7, &[7; 5_000]);
        let stream = [
            &grease[..],
            &frame(HEADERS, GET),
            &frame(DATA, b"hello"),
            // An empty frame ends nothing.
            &frame(DATA, b""),
            &grease,
            &frame(DATA, b" world"),
            &frame(HEADERS, b"\0\0\x21x\x01y"),
            &grease,
        ]
        .concat();
        let seen = read(&stream).unwrap();
        assert_eq!(seen.body, b"hello world");
        assert_eq!(seen.head, b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        assert!(!seen.too_large);
    }

    #[test]
    fn what_may_not_be_there_is_refused_with_its_code() {
        let head = frame(HEADERS, GET);
        let after = |bytes: &[u8]| [&head[..], bytes].concat();
        let unexpected = Failure::Connection(Code::FrameUnexpected);
        for (what, stream, failure) in [
            ("nothing", Vec::new(), Failure::Stream(Code::RequestIncomplete)),
            ("only what nobody knows", frame(0x21, b"x"), Failure::Stream(Code::RequestIncomplete)),
            ("a body without a head", frame(DATA, b"x"), unexpected),
            ("settings", after(&frame(SETTINGS, b"")), unexpected),
            ("goaway", after(&frame(GOAWAY, b"\0")), unexpected),
            ("a promise", after(&frame(PUSH_PROMISE, b"\0")), unexpected),
            ("max push id", after(&frame(MAX_PUSH_ID, b"\0")), unexpected),
            ("cancel push", after(&frame(CANCEL_PUSH, b"\0")), unexpected),
            ("priority of HTTP/2", after(&frame(2, b"\0")), unexpected),
            ("ping of HTTP/2", after(&frame(6, b"\0")), unexpected),
            (
                "a body behind trailers",
                after(&[frame(HEADERS, b"\0\0"), frame(DATA, b"x")].concat()),
                unexpected,
            ),
            ("trailers twice", after(&frame(HEADERS, b"\0\0").repeat(2)), unexpected),
            ("a body that breaks off", after(b"\0\x05abc"), Failure::Connection(Code::Frame)),
            ("a body that never begins", after(b"\0\x05"), Failure::Connection(Code::Frame)),
            ("fields that break off", b"\x01\x05\0\0".to_vec(), Failure::Connection(Code::Frame)),
            ("a frame head that breaks off", after(b"\0"), Failure::Connection(Code::Frame)),
            ("what nobody knows breaks off", after(b"\x21\x05a"), Failure::Connection(Code::Frame)),
            ("no list", frame(HEADERS, b""), Failure::Connection(Code::Decompression)),
            ("a list that is none", frame(HEADERS, b"\0\0\x80"), Failure::Connection(Code::Decompression)),
            (
                "trailers that are none",
                after(&frame(HEADERS, b"\x05\0")),
                Failure::Connection(Code::Decompression),
            ),
            (
                "trailers with a pseudo-header field",
                after(&frame(HEADERS, b"\0\0\xd1")),
                Failure::Stream(Code::Message),
            ),
        ] {
            assert_eq!(read(&stream), Err(failure), "{what}");
        }
    }

    #[test]
    fn what_is_too_large_is_said_before_it_is_read() {
        assert!(read(&[&frame(HEADERS, &[0; 1_001])[..4]].concat()).unwrap().too_large);
        assert!(read(b"\x01\xff\xff\xff\xff\xff\xff\xff\xff").unwrap().too_large);
        // Trailers of that size are read over.
        let large = [frame(HEADERS, GET), frame(HEADERS, &[0; 5_000])].concat();
        assert!(!read(&large).unwrap().too_large);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            frames in proptest::collection::vec((0u64..40, proptest::collection::vec(any::<u8>(), 0..20)), 0..6),
            cut in 0usize..200,
            piece in 1usize..50,
        ) {
            let mut stream = frame(HEADERS, GET);
            stream.extend(frames.iter().flat_map(|(kind, payload)| frame(*kind, payload)));
            stream.truncate(cut);
            prop_assert_eq!(read_in(&stream, piece, 1_000), read_in(&stream, usize::MAX, 1_000));
        }
    }
}
