//! What must hold of every request, response and body, whatever its bytes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what failed by panicking")]

use bytes::{Bytes, BytesMut};
use hosting_edge_http1::{
    Decoded, Decoder, FieldKind, Framing, HeadEnd, LAST_CHUNK, Request, RequestHead, ResponseHead, Version,
    head_end, is_spoofable, push_chunk, push_upstream_head,
};
use hosting_fuzz::fuzz;

const WORDS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\n",
    b"POST /x?y HTTP/1.1\r\n",
    b"GET http://a.example/x HTTP/1.1\r\n",
    b"OPTIONS * HTTP/1.0\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 204 \r\n",
    b"HTTP/1.1 304\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n",
    b"Host: a.example\r\n",
    b"Content-Length: ",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: ",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: ",
    b"Connection: Upgrade, x\r\nUpgrade: websocket\r\n",
    b"keep-alive",
    b"close",
    b"Cookie: a=1\r\n",
    b"Expect: 100-continue\r\n",
    b"X-Forwarded-For: 1\r\n",
    b"x_hosting-host: 1\r\n",
    b"X: y\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"0\r\n",
    b"chunked",
    b": ",
];

const REQUESTS: &[&[u8]] = &[
    b"GET /a?b HTTP/1.1\r\nHost: a.example\r\nX: y\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a.example:80\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    b"PUT http://a.example?q HTTP/1.1\r\nhost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade, x-hop\r\nUpgrade: websocket\r\nX-Hop: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nCookie:\r\nCookie: a=1\r\nCookie: \r\n\r\n",
    b"OPTIONS * HTTP/1.0\nHost: a\nConnection: Keep-Alive\nX-Forwarded-For: 1\n\n",
];

const RESPONSES: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nSet-Cookie: a=1\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\nVary: x\r\n\r\n",
    b"HTTP/1.0 200\r\nConnection: keep-alive\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: \"x\"\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.1 204 No Content\nContent-Length: 0\nKeep-Alive: x\n\n",
];

const BODIES: &[&[u8]] = &[
    b"5\r\nhello\r\n0\r\n\r\nnext",
    b"00a ; x=\"y\"\r\n0123456789\r\n1;\r\nx\r\n000\r\nX: y\r\nZ: \r\n\r\n",
    b"L\x05hello",
    b"Ehello",
];

/// The first head of the bytes; the same wherever they are cut.
fn first_head(bytes: &[u8]) -> Option<&[u8]> {
    let HeadEnd::At(end) = head_end(bytes, 0) else { return None };
    for piece in [1, 3, 7] {
        let mut from = 0;
        let found = (0..=bytes.len().div_ceil(piece)).find_map(|count| {
            match head_end(&bytes[..(count * piece).min(bytes.len())], from) {
                HeadEnd::At(end) => Some(end),
                HeadEnd::Not(next) => {
                    from = next;
                    None
                }
            }
        });
        assert_eq!(found, Some(end), "in pieces of {piece}");
    }
    Some(&bytes[..end])
}

/// A head that this crate wrote: lines of CRLF without a control character, and one empty line at its end.
fn assert_clean(head: &[u8]) {
    let lines = head.strip_suffix(b"\r\n\r\n").unwrap();
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(!line.is_empty(), "an empty line in {}", head.escape_ascii());
        assert!(!line.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)), "{}", head.escape_ascii());
    }
    assert_eq!(
        lines.iter().filter(|byte| **byte == b'\n').count(),
        lines.windows(2).filter(|two| two == b"\r\n").count()
    );
}

fn count(head: &RequestHead, kind: FieldKind) -> usize {
    head.fields().filter(|(name, _)| FieldKind::of(name) == kind).count()
}

fn upstream(request: &Request, upgrade: bool) -> BytesMut {
    let mut out = BytesMut::new();
    push_upstream_head(&mut out, request, b"web", &[], upgrade);
    out
}

fuzz!(requests_have_one_reading, REQUESTS, WORDS, |bytes| {
    let Some(head) = first_head(bytes) else { return };
    let Ok(request) = RequestHead::parse(Bytes::copy_from_slice(head)).and_then(Request::new) else { return };
    for upgrade in [false, true] {
        let out = upstream(&request, upgrade);
        assert_clean(&out);
        // What a node reads is what was decided.
        let again = RequestHead::parse(out.clone().freeze()).and_then(Request::new).unwrap();
        assert_eq!(again.head().method(), request.head().method());
        assert_eq!(again.body(), request.body());
        assert_eq!(again.authority(), b"web");
        assert_eq!(again.upgrade().is_some(), upgrade && request.upgrade().is_some());
        let slash = if matches!(request.path().first(), Some(b'/' | b'*')) { &b""[..] } else { b"/" };
        assert_eq!(again.path(), [slash, request.path()].concat());
        let framing = [FieldKind::ContentLength, FieldKind::TransferEncoding];
        let lengths: usize = framing.into_iter().map(|kind| count(again.head(), kind)).sum();
        assert_eq!(lengths, usize::from(request.body() != Framing::None));
        assert_eq!(count(again.head(), FieldKind::HopByHop) + count(again.head(), FieldKind::Expect), 0);
        assert_eq!(count(again.head(), FieldKind::Host), 1);
        assert!(count(again.head(), FieldKind::Cookie) <= 1);
        assert!(again.head().fields().all(|(name, _)| !is_spoofable(name)));
        // Written again, it says the same.
        assert_eq!(upstream(&again, upgrade), out);
    }
    // Without a cookie all else stays.
    let has = |request: &Request| {
        let fields = request.head().fields().filter(|(name, _)| FieldKind::of(name) == FieldKind::Cookie);
        let mut cookies = fields.flat_map(|(_, value)| value.split(|byte| *byte == b';'));
        cookies.any(|cookie| {
            cookie.trim_ascii().split(|byte| *byte == b'=').next().unwrap().trim_ascii() == b"a"
        })
    };
    let without = request.without_cookies(&[b"a"]);
    assert_eq!(without.is_some(), has(&request));
    if let Some(without) = without {
        assert!(!has(&without));
        let said = |request: &Request| {
            (
                request.path().to_vec(),
                request.authority().to_vec(),
                request.body(),
                request.upgrade().map(<[u8]>::to_vec),
            )
        };
        assert_eq!(said(&without), said(&request));
        let others = |request: &Request| count(request.head(), FieldKind::Other);
        assert_eq!(others(&without), others(&request));
        assert_eq!(without.keeps_connection(), request.keeps_connection());
    }
});

fuzz!(responses_have_one_reading, RESPONSES, WORDS, |bytes| {
    let Some(head) = first_head(bytes) else { return };
    let Ok(response) = ResponseHead::parse(Bytes::copy_from_slice(head)) else { return };
    for (is_head, upgrade) in [(false, None), (true, None), (false, Some(&b"websocket"[..]))] {
        let Ok(answered) = response.answer(is_head, upgrade) else { continue };
        assert!(
            answered.upgraded == (answered.head.status == 101)
                && !(answered.upgraded && answered.keeps_connection)
        );
        assert!(!answered.keeps_connection || answered.body != Framing::UntilClose);
        for version in [Version::Http10, Version::Http11] {
            let framing = answered.head.framing(version);
            let keeps = framing != Framing::UntilClose;
            let mut out = BytesMut::new();
            answered.head.push(&mut out, version, keeps);
            assert_clean(&out);
            let again = ResponseHead::parse(out.freeze()).unwrap();
            let read = again.answer(is_head, upgrade).unwrap();
            assert_eq!((read.head.status, read.head.reason), (answered.head.status, answered.head.reason));
            assert_eq!((read.body, read.head.length), (framing, answered.head.length), "{version:?}");
            assert_eq!(read.head.fields, answered.head.fields);
            // What a client makes of the body is what the node sent of it.
            match (answered.body, framing) {
                (Framing::Length(a), Framing::Length(b)) => assert_eq!(a, b),
                (Framing::Length(_) | Framing::None, other) => assert_eq!(other, answered.body),
                (Framing::Chunked | Framing::UntilClose, Framing::Chunked) => {
                    assert_eq!(version, Version::Http11)
                }
                (Framing::Chunked | Framing::UntilClose, other) => assert_eq!(other, Framing::UntilClose),
            }
        }
    }
});

/// The body, and how many bytes of the input it took with its framing; in pieces.
fn decode(framing: Framing, input: &[u8], piece: usize) -> Result<(Vec<u8>, usize), String> {
    let (mut decoder, mut body, mut taken, mut there) = (Decoder::new(framing), Vec::new(), 0, 0);
    loop {
        match decoder.decode(&input[taken..there]).map_err(|error| error.to_string())? {
            Decoded::Data(n) => {
                assert!((1..=there - taken).contains(&n));
                // A client may take less than there is.
                let now = n.div_ceil(2);
                body.extend_from_slice(&input[taken..taken + now]);
                decoder.consumed(now);
                taken += now;
            }
            Decoded::Framing(n) => {
                assert!((1..=there - taken).contains(&n));
                taken += n;
            }
            Decoded::More if there < input.len() => there = (there + piece).min(input.len()),
            Decoded::More => {
                decoder.closed().map_err(|error| error.to_string())?;
                return Ok((body, taken));
            }
            Decoded::End => return Ok((body, taken)),
        }
    }
}

fuzz!(bodies_have_one_reading, BODIES, WORDS, |bytes| {
    let (framing, bytes) = match bytes.split_first() {
        Some((b'L', rest)) => (Framing::Length(rest.first().copied().unwrap_or_default().into()), rest),
        Some((b'E', rest)) => (Framing::UntilClose, rest),
        _ => (Framing::Chunked, bytes),
    };
    let whole = decode(framing, bytes, usize::MAX);
    for piece in [1, 2, 5, 64] {
        assert_eq!(decode(framing, bytes, piece), whole, "in pieces of {piece}");
    }
    let Ok((body, taken)) = whole else { return };
    match framing {
        Framing::Length(length) => assert_eq!((body.len() as u64, taken as u64), (length, length)),
        Framing::UntilClose => assert_eq!((&body[..], taken), (bytes, bytes.len())),
        Framing::Chunked => {
            // Its end was there: whatever follows belongs to the next message.
            assert!(bytes[..taken].ends_with(b"\r\n"));
            let again = decode(framing, &bytes[..taken], usize::MAX);
            assert_eq!(again, Ok((body.clone(), taken)));
            let mut wire = BytesMut::new();
            push_chunk(&mut wire, &body);
            wire.extend_from_slice(LAST_CHUNK);
            assert_eq!(decode(framing, &wire, usize::MAX), Ok((body, wire.len())));
        }
        Framing::None => {}
    }
});
