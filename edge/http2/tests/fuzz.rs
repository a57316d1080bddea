//! What must hold of every connection and every list of fields, whatever its bytes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what failed by panicking")]

use hosting_edge_http1::{Framing, Request, RequestHead};
use hosting_edge_http2::{Failure, Fault, Fields, Front, HEAD, decode_huffman, head};
use hosting_fuzz::fuzz;

const LIMIT: usize = 2_000;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frames behind the client's settings.
const CONNECTIONS: &[&[u8]] = &[
    // A GET, a PING, a body in two frames, trailers.
    b"\0\0\x10\x01\x05\0\0\0\x01\x82\x87\x84\x01\x09a.example\0\x01x\x01y\0\0\x08\x06\0\0\0\0\x0012345678",
    b"\0\0\x0e\x01\x04\0\0\0\x03\x83\x87\x84\x41\x09a.example\0\0\x02\0\0\0\0\0\x03hi\0\0\x05\x01\x05\0\0\0\x03\0\x01x\x01y",
    // A block in three pieces, padded, with a priority; an entry of the table.
    b"\0\0\x0b\x01\x29\0\0\0\x05\x02\0\0\0\0\x10\x82\x87\x84\0\0\0\0\x05\x09\0\0\0\0\x05\x41\x03a.b\0\0\0\x09\x04\0\0\0\x05",
    b"\0\0\x08\x01\x05\0\0\0\x07\x82\x87\x84\xbe\x20\x3f\xe1\x1f\0\0\x04\x03\0\0\0\0\x07\0\0\0\x08\0\0\x04\x08\0\0\0\0\0\0\0\0\x09",
];
const FRAMES: &[&[u8]] = &[
    b"\0\0\x04\x01\x05\0\0\0\x09\x82\x87\x84\xbe",
    b"\0\0\0\x09\x04\0\0\0\x05",
    b"\0\0\0\0\x01\0\0\0\x03",
    b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x01",
    b"\x82",
    b"\x84",
    b"\xbe",
    b"\x40\x01x\x01\r",
    b"\0\x81\xf3\x81\x0f",
    b"\x3f\xe1\x1f",
];

type Seen = (Vec<u8>, Option<Failure>);

fn run(input: &[u8], piece: usize) -> Seen {
    let (mut front, mut out) = (Front::new(LIMIT), Vec::new());
    for piece in input.chunks(piece) {
        let passed = front.pass(piece);
        out.extend_from_slice(&piece[..passed]);
        front.feed(&piece[passed..], &mut out);
    }
    (out, front.failure())
}

/// A head is lines without a control character but the tab, and one empty line at its end. What the strict parser takes of it
/// reaches a node; that one is held to its own rules.
fn assert_head(bytes: &[u8]) -> Option<Request> {
    let lines = bytes.strip_suffix(b"\r\n\r\n").unwrap();
    assert!(!lines.windows(4).any(|window| window == b"\r\n\r\n"), "{}", bytes.escape_ascii());
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(!line.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)), "{}", bytes.escape_ascii());
    }
    RequestHead::parse(bytes.to_vec().into()).and_then(Request::new).ok()
}

fuzz!(connections_are_seen_the_same_however_they_are_cut, CONNECTIONS, FRAMES, |bytes| {
    let input = [PREFACE, b"\0\0\0\x04\0\0\0\0\0", bytes].concat();
    let whole = run(&input, usize::MAX);
    for piece in [1, 7, 40] {
        assert_eq!(run(&input, piece), whole, "in pieces of {piece}");
    }
    // What the library sees is frames, the last one maybe not whole, and its blocks are those of small requests.
    let (mut rest, mut decoder) = (&whole.0[PREFACE.len()..], loona_hpack::Decoder::new());
    let mut block = Vec::new();
    while let [a, b, c, kind, flags, _, _, _, _, behind @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some(payload) = behind.get(..length) else { break };
        rest = &behind[length..];
        if !matches!(kind, 1 | 9) {
            continue;
        }
        block.extend_from_slice(payload);
        if flags & 4 != 0 {
            for (name, value) in decoder.decode(&std::mem::take(&mut block)).unwrap() {
                assert!(!value.iter().any(|byte| matches!(byte, b'\0' | b'\r' | b'\n')));
                if *name == *HEAD.as_bytes() {
                    assert_head(&head(&value));
                }
            }
        }
    }
});

/// Names and values, each behind the other, with a byte that neither may hold between them.
const LISTS: &[&[u8]] = &[
    b":method\x1eGET\x1e:scheme\x1ehttps\x1e:authority\x1ea.example\x1e:path\x1e/a?b\x1ex\x1ey\x1ecookie\x1ea=1\x1ecookie\x1eb=2\x1ete\x1etrailers",
    b":method\x1ePOST\x1e:scheme\x1ehttp\x1e:path\x1e/\x1ehost\x1ea.example:80\x1econtent-length\x1e5\x1ex\x1ea\tb",
    b":method\x1eCONNECT\x1e:authority\x1ea.example:443\x1ex\x1e",
    b":method\x1eOPTIONS\x1e:scheme\x1ehttps\x1e:authority\x1ea\x1e:path\x1e*\x1ex\x1e\xe9\xff",
];
const PARTS: &[&[u8]] = &[
    b"\x1e",
    b":path\x1e/x\x1e",
    b"content-length\x1e5\x1e",
    b"transfer-encoding\x1echunked\x1e",
    b"\r\n",
    b"\t",
    b" HTTP/1.1",
    b"host\x1ea.example\x1e",
    b"A",
    b"\x1ex\x1e1",
];

fuzz!(a_list_of_fields_says_one_request, LISTS, PARTS, |bytes| {
    let parts: Vec<&[u8]> = bytes.split(|byte| *byte == 0x1e).collect();
    for ends in [false, true] {
        let mut fields = Fields::new(LIMIT, false);
        let pairs = || parts.chunks_exact(2).map(|pair| (pair[0], pair[1]));
        pairs().for_each(|(name, value)| fields.push(name, value));
        let head = match fields.into_head(ends) {
            Ok(head) => head,
            Err(Fault::TooLarge) => {
                assert!(
                    pairs().map(|(name, value)| name.len() + 2 * value.len() + 40).sum::<usize>() > LIMIT / 2
                );
                continue;
            }
            Err(Fault::Malformed | Fault::Bad) => continue,
        };
        // A value that another line could be made of is none that came through.
        let plain = pairs().filter(|(name, _)| !name.starts_with(b":")).count();
        let lines = head.split(|byte| *byte == b'\n').count() - 3;
        assert!(lines <= plain + 2, "{lines} fields of {plain}: {}", head.escape_ascii());
        let Some(request) = assert_head(&head) else { continue };
        let said = |wanted: &[u8]| pairs().find(|(name, _)| *name == wanted).map(|(_, value)| value);
        assert_eq!(Some(request.head().method()), said(b":method"));
        assert_eq!(Some(request.head().target()), said(b":path"));
        match said(b"content-length") {
            Some(_) => assert!(matches!(request.body(), Framing::Length(_))),
            None if !ends => assert_eq!(request.body(), Framing::Chunked),
            None => assert!(request.is_bodyless()),
        }
    }
});

fuzz!(
    huffman_has_one_reading,
    &[b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff", b"\x1c\x64\xff\xff\xff"],
    &[b"\xff", b"\x00"],
    |bytes| {
        let mut ours = Vec::new();
        let read = decode_huffman(bytes, &mut ours);
        let theirs = loona_hpack::huffman::HuffmanDecoder::new().decode(bytes);
        match (read, theirs) {
            (Ok(()), Ok(theirs)) => assert_eq!(ours, theirs),
            (Err(_), Err(_)) => {}
            (ours, theirs) => panic!("ours {ours:?}, theirs {theirs:?}"),
        }
    }
);
