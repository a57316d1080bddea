//! The streams of one direction: the control stream, QPACK's two, and what nobody knows (RFC 9114 §6.2, RFC 9204 §4.2).

use crate::code::{Code, Failure};
use crate::integer::{push, read};
use crate::request::{
    CANCEL_PUSH, DATA, GOAWAY, HEADERS, MAX_PUSH_ID, PUSH_PROMISE, SETTINGS, frame_head, is_http2_only,
};

const CONTROL: u64 = 0x0;
const PUSH: u64 = 0x1;
const ENCODER: u64 = 0x2;
const DECODER: u64 = 0x3;

/// RFC 9114 §7.2.4.1.
const MAX_FIELD_SECTION_SIZE: u64 = 0x6;
/// Settings of a client that are read; no client has so many.
const MOST_SETTINGS: usize = 4_096;

/// What the server's control stream begins with: its type, and the largest list of fields. Of QPACK's table, the default stands: none.
#[must_use]
pub fn settings(header_bytes: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    push(&mut payload, MAX_FIELD_SECTION_SIZE);
    push(&mut payload, header_bytes as u64);
    let mut out = Vec::new();
    push(&mut out, CONTROL);
    push(&mut out, SETTINGS);
    push(&mut out, payload.len() as u64);
    out.append(&mut payload);
    out
}

/// Says on the control stream that requests from the stream `next` on are not served (RFC 9114 §5.2).
#[must_use]
pub fn goaway(next: u64) -> Vec<u8> {
    let mut payload = Vec::new();
    push(&mut payload, next);
    let mut out = Vec::new();
    push(&mut out, GOAWAY);
    push(&mut out, payload.len() as u64);
    out.append(&mut payload);
    out
}

/// What a stream is for. Of each kind but the last a client has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Settings, and what concerns the connection.
    Control,
    /// QPACK's instructions for a table.
    Encoder,
    /// QPACK's acknowledgements.
    Decoder,
    /// Nothing that is known: it is not read.
    Unknown,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    FrameHead,
    /// So much of a frame of this type is missing; it is read as a whole.
    Whole(u64, usize),
    Skip(u64),
}

/// Reads a client's stream of one direction.
#[derive(Debug)]
pub struct SingleStream {
    kind: Option<Kind>,
    /// Bytes that have to be read with what follows.
    input: Vec<u8>,
    place: Place,
    has_settings: bool,
    goaway: Option<u64>,
    max_push: Option<u64>,
    /// Within an integer of QPACK's that goes on.
    goes_on: bool,
}

impl Default for SingleStream {
    fn default() -> Self {
        Self {
            kind: None,
            input: Vec::new(),
            place: Place::FrameHead,
            has_settings: false,
            goaway: None,
            max_push: None,
            goes_on: false,
        }
    }
}

impl SingleStream {
    /// What the stream is for, once it said so.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        self.kind
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// What ends the connection.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let mut at = 0;
        if self.kind.is_none() {
            let Some((kind, length)) = read(&input) else {
                self.input = input;
                return Ok(());
            };
            self.kind = Some(match kind {
                CONTROL => Kind::Control,
                ENCODER => Kind::Encoder,
                DECODER => Kind::Decoder,
                // Only servers push (RFC 9114 §6.2.2).
                PUSH => return Err(Failure::Connection(Code::StreamCreation)),
                _ => Kind::Unknown,
            });
            at = length;
        }
        let rest = input.get(at..).unwrap_or_default();
        match self.kind {
            Some(Kind::Control) => {
                let taken = self.control(rest)?;
                self.input = rest.get(taken..).unwrap_or_default().to_vec();
                Ok(())
            }
            // The table holds nothing, which is all that can be said of it (RFC 9204 §3.2.3).
            Some(Kind::Encoder) if rest.iter().any(|byte| *byte != 0x20) => {
                Err(Failure::Connection(Code::EncoderStream))
            }
            Some(Kind::Decoder) => self.decoder(rest),
            Some(Kind::Encoder | Kind::Unknown) | None => Ok(()),
        }
    }

    /// Whether the stream may end.
    ///
    /// # Errors
    /// It has to stay (RFC 9114 §6.2.1, RFC 9204 §4.2).
    pub fn end(&self) -> Result<(), Failure> {
        match self.kind {
            Some(Kind::Control | Kind::Encoder | Kind::Decoder) => {
                Err(Failure::Connection(Code::ClosedCriticalStream))
            }
            Some(Kind::Unknown) | None => Ok(()),
        }
    }

    /// Reads frames, and returns how many bytes are done with.
    fn control(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            match self.place {
                Place::FrameHead => {
                    let Some((kind, length, size)) = frame_head(rest) else { return Ok(at) };
                    self.place = self.open(kind, length)?;
                    at += size;
                }
                Place::Whole(kind, length) => {
                    let Some(payload) = rest.get(..length) else { return Ok(at) };
                    self.whole(kind, payload)?;
                    self.place = Place::FrameHead;
                    at += length;
                }
                Place::Skip(left) => {
                    let now = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    at += now;
                    let left = left - now as u64;
                    if left > 0 {
                        self.place = Place::Skip(left);
                        return Ok(at);
                    }
                    self.place = Place::FrameHead;
                }
            }
        }
    }

    fn open(&mut self, kind: u64, length: u64) -> Result<Place, Failure> {
        let refuse = |code| Err(Failure::Connection(code));
        if !self.has_settings && kind != SETTINGS {
            return refuse(Code::MissingSettings);
        }
        let length_within = |most: usize| usize::try_from(length).ok().filter(|length| *length <= most);
        match kind {
            SETTINGS if std::mem::replace(&mut self.has_settings, true) => refuse(Code::FrameUnexpected),
            SETTINGS => match length_within(MOST_SETTINGS) {
                Some(length) => Ok(Place::Whole(kind, length)),
                None => refuse(Code::ExcessiveLoad),
            },
            CANCEL_PUSH | GOAWAY | MAX_PUSH_ID => match length_within(8) {
                Some(length) => Ok(Place::Whole(kind, length)),
                None => refuse(Code::Frame),
            },
            DATA | HEADERS | PUSH_PROMISE => refuse(Code::FrameUnexpected),
            _ if is_http2_only(kind) => refuse(Code::FrameUnexpected),
            _ => Ok(Place::Skip(length)),
        }
    }

    fn whole(&mut self, kind: u64, payload: &[u8]) -> Result<(), Failure> {
        if kind == SETTINGS {
            return check_settings(payload);
        }
        let Some((value, _)) = read(payload).filter(|(_, size)| *size == payload.len()) else {
            return Err(Failure::Connection(Code::Frame));
        };
        let before = match kind {
            GOAWAY => self.goaway.replace(value).is_none_or(|before| value <= before),
            MAX_PUSH_ID => self.max_push.replace(value).is_none_or(|before| value >= before),
            // Nothing was ever promised that could be cancelled (RFC 9114 §7.2.3).
            _ => false,
        };
        if before { Ok(()) } else { Err(Failure::Connection(Code::Id)) }
    }

    /// Nothing was sent with a table, so nothing of it can be acknowledged; what was cancelled may be said (RFC 9204 §4.4).
    fn decoder(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        for byte in bytes {
            match (self.goes_on, byte) {
                (true, _) => self.goes_on = byte & 0x80 != 0,
                (false, 0b0100_0000..=0b0111_1111) => self.goes_on = byte & 0x3f == 0x3f,
                (false, _) => return Err(Failure::Connection(Code::DecoderStream)),
            }
        }
        Ok(())
    }
}

/// Pairs of integers, none of HTTP/2's, none twice (RFC 9114 §7.2.4).
fn check_settings(mut payload: &[u8]) -> Result<(), Failure> {
    let mut seen = Vec::new();
    while !payload.is_empty() {
        // An identifier and a value lie in it like a frame's type and length.
        let Some((name, _, size)) = frame_head(payload) else { return Err(Failure::Connection(Code::Frame)) };
        if matches!(name, 0x2..=0x5) || seen.contains(&name) {
            return Err(Failure::Connection(Code::Settings));
        }
        seen.push(name);
        if seen.len() > 64 {
            return Err(Failure::Connection(Code::ExcessiveLoad));
        }
        payload = payload.get(size..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same in pieces of every size.
    fn feed(stream: &[u8]) -> Result<Option<Kind>, Failure> {
        let of = |piece: usize| {
            let mut reader = SingleStream::default();
            for bytes in stream.chunks(piece) {
                reader.feed(bytes)?;
                assert!(reader.input.len() <= MOST_SETTINGS);
            }
            Ok(reader.kind())
        };
        let whole = of(usize::MAX);
        assert_eq!(of(1), whole);
        assert_eq!(of(2), whole);
        whole
    }

    #[test]
    fn what_clients_say_is_taken() {
        // Settings, one of them grease; a frame for the future of 300 bytes; the push that is allowed; the end.
        let mut control = b"\0\x04\x08\x06\x50\x00\x01\x00\x21\x40\x01".to_vec();
        control.extend_from_slice(b"\x40\x99\x41\x2c");
        control.extend_from_slice(&[0xff; 300]);
        control.extend_from_slice(b"\x0d\x01\x05\x0d\x01\x06\x07\x01\x04\x07\x01\x04\x07\x01\x00");
        assert_eq!(feed(&control), Ok(Some(Kind::Control)));
        assert_eq!(feed(b"\x02\x20\x20"), Ok(Some(Kind::Encoder)));
        // Streams 4 and 8, and one whose number needs more bytes.
        assert_eq!(feed(b"\x03\x44\x48\x7f\x80\x01\x44"), Ok(Some(Kind::Decoder)));
        assert_eq!(feed(b"\x40\x41anything"), Ok(Some(Kind::Unknown)));
        assert_eq!(feed(b"\x40"), Ok(None));
        assert_eq!(feed(&settings(65_536)), Ok(Some(Kind::Control)));
        assert_eq!(feed(&[&settings(1)[..], &goaway(4_000)].concat()), Ok(Some(Kind::Control)));
    }

    #[test]
    fn what_they_may_not_say_is_refused_with_its_code() {
        for (what, stream, code) in [
            ("a push", &b"\x01\x00"[..], Code::StreamCreation),
            ("no settings first", b"\0\x07\x01\0", Code::MissingSettings),
            ("settings twice", b"\0\x04\0\x04\0", Code::FrameUnexpected),
            ("a setting of HTTP/2", b"\0\x04\x02\x04\0", Code::Settings),
            ("a setting twice", b"\0\x04\x04\x06\0\x06\0", Code::Settings),
            ("half a setting", b"\0\x04\x01\x06", Code::Frame),
            ("endless settings", b"\0\x04\xbf\xff\xff\xff", Code::ExcessiveLoad),
            ("data", b"\0\x04\0\0\x01x", Code::FrameUnexpected),
            ("fields", b"\0\x04\0\x01\x01x", Code::FrameUnexpected),
            ("a promise", b"\0\x04\0\x05\x01\0", Code::FrameUnexpected),
            ("a ping of HTTP/2", b"\0\x04\0\x06\x01\0", Code::FrameUnexpected),
            ("an end with more than a number", b"\0\x04\0\x07\x02\0\0", Code::Frame),
            ("an end without a number", b"\0\x04\0\x07\0", Code::Frame),
            ("an end that is taken back", b"\0\x04\0\x07\x01\0\x07\x01\x04", Code::Id),
            ("fewer pushes than allowed before", b"\0\x04\0\x0d\x01\x05\x0d\x01\x04", Code::Id),
            ("a push that never was", b"\0\x04\0\x03\x01\0", Code::Id),
            ("a table", b"\x02\x3f\xe1\x1f", Code::EncoderStream),
            ("an entry", b"\x02\xc0\x01a", Code::EncoderStream),
            ("an acknowledgement", b"\x03\x80", Code::DecoderStream),
            ("an increment", b"\x03\x01", Code::DecoderStream),
        ] {
            assert_eq!(feed(stream), Err(Failure::Connection(code)), "{what}");
        }
    }

    #[test]
    fn only_what_nobody_knows_may_end() {
        for (begin, may_end) in
            [(&b"\0\x04\0"[..], false), (b"\x02", false), (b"\x03", false), (b"\x21", true), (b"", true)]
        {
            let mut reader = SingleStream::default();
            reader.feed(begin).unwrap();
            assert_eq!(reader.end().is_ok(), may_end, "{begin:?}");
        }
    }
}
