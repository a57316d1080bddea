//! What must hold of every stream, whatever its bytes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what failed by panicking")]

use hosting_edge_http1::{Framing, Request, RequestHead};
use hosting_edge_http3::{Failure, Next, RequestReader, SingleStream};
use hosting_fuzz::fuzz;

const LIMIT: usize = 500;

const STREAMS: &[&[u8]] = &[
    // A GET; a POST with a length, its body in two frames, and trailers; frames that nobody knows.
    b"\x01\x0d\0\0\xd1\xd7\xc1\x50\x07example",
    b"\x01\x10\0\0\xd4\xd7\xc1\x50\x01a\x54\x015\x21x\x01y\0\x02he\0\0\0\x03llo\x01\x06\0\0\x21x\x01y",
    b"\x21\x03abc\x01\x08\0\0\xd1\xd7\xc1\x50\x01a\x40\x40\x01z",
    b"\x01\x16\0\0\x27\x00:method\x03GET\xd7\xc1\x50\x01a\x2f\xf1\xe3\xc2",
];
const PIECES: &[&[u8]] = &[
    b"\0\x01x",
    b"\x01\x06\0\0\x21x\x01y",
    b"\x21\0",
    b"\x04\0",
    b"\x01\xc0\0\0\0\0\0\0\x08\0\0\xd1\xd7\xc1\x50\x01a",
    b"\x21x\x01\r",
    b"\xd1",
    b"\x50\0",
];

#[derive(Debug, Default, PartialEq)]
struct Seen {
    head: Option<Vec<u8>>,
    body: Vec<u8>,
    too_large: bool,
}

/// What a stream is read as that comes in pieces, and then ends.
fn read(stream: &[u8], piece: usize) -> Result<Seen, Failure> {
    let (mut reader, mut seen, mut input) = (RequestReader::new(LIMIT), Seen::default(), Vec::new());
    for piece in stream.chunks(piece).chain([&[][..]]) {
        input.extend_from_slice(piece);
        loop {
            match reader.next(&input)? {
                Next::More => break,
                Next::Skip(count) => drop(input.drain(..count)),
                Next::Fields(count) => {
                    let list: Vec<u8> = input.drain(..count).collect();
                    if let Some(fields) = reader.fields(&list)? {
                        assert!(seen.head.is_none(), "two requests");
                        seen.head = fields.into_head(false).ok();
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
        assert!(
            piece.len() > LIMIT || input.len() < LIMIT + piece.len() + 16,
            "{} bytes are held",
            input.len()
        );
    }
    reader.end(&input).map(|()| seen)
}

fuzz!(streams_are_read_the_same_however_they_are_cut, STREAMS, PIECES, |bytes| {
    let whole = read(bytes, usize::MAX);
    for piece in [1, 3, 50] {
        assert_eq!(read(bytes, piece), whole, "in pieces of {piece}");
    }
    let Ok(seen) = whole else { return };
    assert!(seen.body.len() <= bytes.len());
    let Some(head) = seen.head else { return };
    let lines = head.strip_suffix(b"\r\n\r\n").unwrap();
    assert!(
        !lines.iter().any(|byte| matches!(byte, 0..=8 | 11 | 12 | 14..=31 | 127)),
        "{}",
        head.escape_ascii()
    );
    assert!(!lines.windows(4).any(|window| window == b"\r\n\r\n"), "{}", head.escape_ascii());
    let bare = |byte: &u8| matches!(byte, b'\r' | b'\n');
    assert_eq!(
        lines.iter().filter(|byte| bare(byte)).count(),
        2 * lines.windows(2).filter(|two| two == b"\r\n").count()
    );
    if let Ok(request) = RequestHead::parse(head.into()).and_then(Request::new) {
        assert!(matches!(request.body(), Framing::Chunked | Framing::Length(_)));
    }
});

fuzz!(
    streams_of_one_direction_are_read_the_same_however_they_are_cut,
    &[
        b"\0\x04\x08\x06\x50\x00\x01\x00\x21\x40\x01\x0d\x01\x05\x07\x01\x04\x40\x99\x03abc",
        b"\x02\x20\x20",
        b"\x03\x44\x48\x7f\x80\x01\x44",
        b"\x40\x41anything",
    ],
    &[b"\x07\x01\x04", b"\x0d\x01\x05", b"\x04\0", b"\x21\x02ab", b"\x7f\x80\x01", b"\x20", b"\x01"],
    |bytes| {
        let feed = |piece: usize| {
            let mut stream = SingleStream::default();
            for piece in bytes.chunks(piece) {
                stream.feed(piece)?;
            }
            Ok::<_, Failure>((stream.kind(), stream.end()))
        };
        let whole = feed(usize::MAX);
        for piece in [1, 2, 9] {
            assert_eq!(feed(piece), whole, "in pieces of {piece}");
        }
    }
);
