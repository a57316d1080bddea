//! What a client sends, on its way to the HTTP/2 library: every frame as it is, but for the blocks of fields.

use crate::hpack::{Decoder, Item};
use crate::request::Fields;

const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
/// The largest frame when nothing else is announced (RFC 9113 §6.5.2).
const MAX_FRAME: usize = 16_384;
/// Most CONTINUATION frames of a block.
const MAX_CONTINUATIONS: usize = 1_024;
/// Most bytes of a block, for each byte of the limit on lists of fields: the list is thrown away long before.
const MAX_BLOCK_FACTOR: usize = 16;

const HEADERS: u8 = 1;
const PRIORITY_FRAME: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Why the connection ends. The values are the error codes of RFC 9113 §7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u32)]
pub enum Failure {
    /// Frames that cannot follow each other, or contradict themselves.
    #[error("frames are out of order or malformed")]
    Protocol = 1,
    /// A frame that is larger or smaller than it may be.
    #[error("a frame's size is not valid")]
    FrameSize = 6,
    /// A block is not HPACK, so the following ones cannot be read either.
    #[error("a block of fields is not HPACK")]
    Compression = 9,
    /// A block that goes on and on.
    #[error("a block of fields does not end")]
    TooMuch = 11,
}

#[derive(Debug, Clone, Copy)]
struct FrameHead {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl FrameHead {
    fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, s @ ..] = bytes.first_chunk::<FRAME_HEAD>()?;
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        Some(Self { length, kind: *kind, flags: *flags, stream: u32::from_be_bytes(*s) & 0x7fff_ffff })
    }

    fn push(self, out: &mut Vec<u8>) {
        let [_, length @ ..] = (self.length as u32).to_be_bytes();
        out.extend_from_slice(&length);
        out.extend_from_slice(&[self.kind, self.flags]);
        out.extend_from_slice(&self.stream.to_be_bytes());
    }
}

/// A block whose end is not there yet.
#[derive(Debug)]
struct Block {
    stream: u32,
    ends_stream: bool,
    fields: Fields,
    /// The beginning of a field whose rest is missing.
    rest: Vec<u8>,
    size: usize,
    continuations: usize,
}

/// One client's side of a connection.
#[derive(Debug)]
pub struct Front {
    limit: usize,
    decoder: Decoder,
    /// Bytes that pass before the next frame begins.
    passing: usize,
    /// The beginning of a frame that has to be whole before it is looked at.
    frame: Vec<u8>,
    block: Option<Box<Block>>,
    last_stream: u32,
    /// The client's settings came.
    begun: bool,
    failure: Option<Failure>,
}

impl Front {
    /// For lists of fields of at most `limit` bytes, in the sizes of RFC 9113 §6.5.2; larger ones are answered 431.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            decoder: Decoder::new(limit),
            passing: PREFACE,
            frame: Vec::new(),
            block: None,
            last_stream: 0,
            begun: false,
            failure: None,
        }
    }

    /// Why the connection has to end. Whatever comes after that is thrown away.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// Bytes that it keeps of what the client did not send the end of.
    #[must_use]
    pub fn held(&self) -> usize {
        let of_block = self.block.as_ref().map_or(0, |block| block.rest.capacity() + block.fields.held());
        self.frame.capacity() + of_block
    }

    /// How many of the first bytes pass as they are. What follows them has to be given to [`Self::feed`].
    pub fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while self.failure.is_none() && self.frame.is_empty() {
            let over = self.passing.min(bytes.len() - at);
            at += over;
            self.passing -= over;
            if self.passing > 0 {
                break;
            }
            let Some(head) = bytes.get(at..).and_then(FrameHead::read) else { break };
            if self.block.is_some() || matches!(head.kind, HEADERS | CONTINUATION | PUSH_PROMISE) {
                break;
            }
            if let Err(failure) = self.check(head) {
                self.failure = Some(failure);
                break;
            }
            self.begun = true;
            self.passing = FRAME_HEAD + head.length;
        }
        at
    }

    /// Takes bytes and appends to `out` what stands for them.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while self.failure.is_none() {
            if self.frame.is_empty() {
                let (passing, rest) = bytes.split_at_checked(self.pass(bytes)).unwrap_or_default();
                out.extend_from_slice(passing);
                bytes = rest;
            }
            if bytes.is_empty() {
                return;
            }
            if let Err(failure) = self.feed_frame(&mut bytes, out) {
                self.failure = Some(failure);
                (self.block, self.frame) = (None, Vec::new());
            }
        }
    }

    /// Takes the bytes of one frame, or of its beginning.
    fn feed_frame(&mut self, bytes: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        let missing = FRAME_HEAD.saturating_sub(self.frame.len());
        let (begin, rest) = bytes.split_at_checked(missing).unwrap_or((*bytes, &[]));
        self.frame.extend_from_slice(begin);
        *bytes = rest;
        let Some(head) = FrameHead::read(&self.frame) else { return Ok(()) };
        self.check(head)?;
        if !matches!(head.kind, HEADERS | CONTINUATION) {
            self.begun = true;
            out.append(&mut self.frame);
            self.passing = head.length;
            return Ok(());
        }
        let missing = FRAME_HEAD + head.length - self.frame.len();
        if self.frame.len() == FRAME_HEAD && bytes.len() >= missing {
            let (payload, rest) = bytes.split_at_checked(missing).unwrap_or_default();
            *bytes = rest;
            self.frame = Vec::new();
            return self.fragment(head, payload, out);
        }
        let (begin, rest) = bytes.split_at_checked(missing).unwrap_or((*bytes, &[]));
        self.frame.extend_from_slice(begin);
        *bytes = rest;
        if begin.len() < missing {
            return Ok(());
        }
        let frame = std::mem::take(&mut self.frame);
        self.fragment(head, frame.get(FRAME_HEAD..).unwrap_or_default(), out)
    }

    /// Whether a frame may come now, and be of its size (RFC 9113 §3.4, §4.2, §6).
    fn check(&self, head: FrameHead) -> Result<(), Failure> {
        let expected = match &self.block {
            Some(block) => head.kind == CONTINUATION && head.stream == block.stream,
            None if !self.begun => head.kind == SETTINGS && head.flags & ACK == 0,
            None => match head.kind {
                HEADERS => head.stream != 0,
                CONTINUATION | PUSH_PROMISE => false,
                _ => true,
            },
        };
        if !expected {
            return Err(Failure::Protocol);
        }
        let fits = match head.kind {
            PRIORITY_FRAME => head.length == 5,
            RST_STREAM | WINDOW_UPDATE => head.length == 4,
            SETTINGS if head.flags & ACK != 0 => head.length == 0,
            SETTINGS => head.length.is_multiple_of(6),
            PING => head.length == 8,
            GOAWAY => head.length >= 8,
            _ => true,
        };
        if fits && head.length <= MAX_FRAME { Ok(()) } else { Err(Failure::FrameSize) }
    }

    /// Takes a piece of a block.
    fn fragment(&mut self, head: FrameHead, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        let (mut block, fragment) = match self.block.take() {
            Some(mut block) => {
                block.continuations += 1;
                (block, payload)
            }
            None => self.open(head, payload)?,
        };
        block.size += fragment.len();
        if block.continuations > MAX_CONTINUATIONS || block.size > self.limit.saturating_mul(MAX_BLOCK_FACTOR)
        {
            return Err(Failure::TooMuch);
        }
        let last = head.flags & END_HEADERS != 0;
        let Block { fields, rest, .. } = &mut *block;
        let mut sink = |item: Item<'_>| match item {
            Item::Field(name, value) => fields.push(name, value),
            Item::TooLong => fields.too_large(),
        };
        if rest.is_empty() {
            let whole = self.decoder.decode(fragment, last, &mut sink).map_err(|_| Failure::Compression)?;
            rest.extend_from_slice(fragment.get(whole..).unwrap_or_default());
        } else {
            rest.extend_from_slice(fragment);
            let whole = self.decoder.decode(rest, last, &mut sink).map_err(|_| Failure::Compression)?;
            rest.drain(..whole);
        }
        if last {
            push_block(out, block.stream, block.ends_stream, &block.fields.block(block.ends_stream));
        } else {
            self.block = Some(block);
        }
        Ok(())
    }

    /// The block that a HEADERS frame begins, and the frame's piece of it.
    fn open<'a>(&mut self, head: FrameHead, payload: &'a [u8]) -> Result<(Box<Block>, &'a [u8]), Failure> {
        let mut fragment = payload;
        let mut take = |count: usize| {
            let (taken, rest) = fragment.split_at_checked(count).ok_or(Failure::FrameSize)?;
            fragment = rest;
            Ok(taken)
        };
        let padding =
            if head.flags & PADDED != 0 { take(1)?.first().copied().unwrap_or_default() } else { 0 };
        let depends = if head.flags & PRIORITY != 0 { take(5)?.first_chunk::<4>() } else { None };
        let length = fragment.len().checked_sub(usize::from(padding)).ok_or(Failure::Protocol)?;
        // A stream that is known has its request, so these are trailers.
        let trailers = head.stream <= self.last_stream;
        self.last_stream = self.last_stream.max(head.stream);
        let mut fields = Fields::new(self.limit, trailers);
        // RFC 7540 §5.3.1; RFC 9113 has no other use for priorities.
        if depends.is_some_and(|depends| u32::from_be_bytes(*depends) & 0x7fff_ffff == head.stream) {
            fields.malformed();
        }
        let ends_stream = head.flags & END_STREAM != 0;
        let block =
            Block { stream: head.stream, ends_stream, fields, rest: Vec::new(), size: 0, continuations: 0 };
        Ok((Box::new(block), fragment.get(..length).unwrap_or_default()))
    }
}

/// Appends a block in as many frames as it needs.
fn push_block(out: &mut Vec<u8>, stream: u32, ends_stream: bool, block: &[u8]) {
    let mut flags = if ends_stream { END_STREAM } else { 0 };
    let (mut kind, mut rest) = (HEADERS, block);
    out.reserve(block.len() + FRAME_HEAD);
    loop {
        let (piece, behind) = rest.split_at_checked(MAX_FRAME).unwrap_or((rest, &[]));
        if behind.is_empty() {
            flags |= END_HEADERS;
        }
        FrameHead { length: piece.len(), kind, flags, stream }.push(out);
        out.extend_from_slice(piece);
        if behind.is_empty() {
            return;
        }
        (kind, flags, rest) = (CONTINUATION, 0, behind);
    }
}
