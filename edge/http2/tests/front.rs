//! Whole connections: what goes in as frames, and what the library that keeps the connection sees.

#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use hosting_edge_http2::{Failure, Front, HEAD, REFUSED, head};
use proptest::prelude::*;

/// With the settings that come first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const LIMIT: usize = 65_536;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, flags, s1, s2, s3, s4, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let stream = u32::from_be_bytes([*s1, *s2, *s3, *s4]);
        frames.push((*kind, *flags, stream, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty());
    frames
}

fn literal(out: &mut Vec<u8>, first: u8, name: &[u8], value: &[u8]) {
    out.push(first);
    for text in [name, value] {
        if text.len() < 127 {
            out.push(text.len() as u8);
        } else {
            out.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                out.push(rest as u8 | 128);
                rest >>= 7;
            }
            out.push(rest as u8);
        }
        out.extend_from_slice(text);
    }
}

fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    fields.iter().for_each(|(name, value)| literal(&mut out, 0, name, value));
    out
}

/// What comes out when the bytes go in as pieces of this size.
fn run(input: &[u8], piece: usize) -> (Vec<u8>, Option<Failure>) {
    let (mut front, mut out) = (Front::new(LIMIT), Vec::new());
    for piece in input.chunks(piece) {
        let passed = front.pass(piece);
        out.extend_from_slice(&piece[..passed]);
        front.feed(&piece[passed..], &mut out);
    }
    (out, front.failure())
}

/// What became of a list of fields.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Head(String),
    Length(String, String),
    Refused(String),
    Reset,
    Trailers,
}

/// Stream, END_STREAM and the block as far as it came.
type Open = (u32, bool, Vec<u8>);

/// The lists behind the preface, as the library sees them.
fn seen(out: &[u8]) -> Vec<(u32, bool, Seen)> {
    let mut decoder = loona_hpack::Decoder::new();
    let (mut lists, mut open): (Vec<_>, Option<Open>) = (Vec::new(), None);
    for (kind, flags, stream, payload) in frames(out.strip_prefix(PREFACE).unwrap()) {
        assert!(payload.len() <= 16_384);
        let (stream, ends, block) = match (kind, open.take()) {
            (1, None) => (stream, flags & END_STREAM != 0, payload),
            (9, Some((open, ends, block))) => {
                assert_eq!(open, stream);
                (stream, ends, [block, payload].concat())
            }
            (_, None) => continue,
            (_, Some(_)) => panic!("a frame within a block"),
        };
        if flags & END_HEADERS == 0 {
            open = Some((stream, ends, block));
            continue;
        }
        let fields = decoder.decode(&block).unwrap();
        let get = |name: &str| {
            let found = fields.iter().find(|(other, _)| other == name.as_bytes());
            found.map(|(_, value)| value.clone())
        };
        let text = |bytes: Vec<u8>| bytes.into_iter().map(char::from).collect::<String>();
        let list = if fields.is_empty() {
            Seen::Trailers
        } else if let Some(value) = get(HEAD) {
            let head = text(head(&value));
            get("content-length").map_or(Seen::Head(head.clone()), |length| Seen::Length(head, text(length)))
        } else {
            get(REFUSED).map_or(Seen::Reset, |code| Seen::Refused(text(code)))
        };
        lists.push((stream, ends, list));
    }
    lists
}

/// One request's fate.
fn one(flags: u8, fields: &[(&[u8], &[u8])]) -> Seen {
    let (out, failure) = run(&[PREFACE, &frame(1, END_HEADERS | flags, 1, &block(fields))].concat(), 7);
    assert_eq!(failure, None);
    seen(&out).pop().unwrap().2
}

type List<'a> = &'a [(&'a [u8], &'a [u8])];

const GET: List<'_> =
    &[(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a.example"), (b":path", b"/")];

fn with(field: (&'static [u8], &'static [u8])) -> Seen {
    one(END_STREAM, &[GET, &[field]].concat())
}

fn head_of(lines: &str) -> Seen {
    Seen::Head(format!("GET / HTTP/1.1\r\nhost: a.example\r\n{lines}\r\n"))
}

#[test]
fn every_target_that_is_a_path_keeps_its_bytes() {
    for path in [
        &b"/r?j={\"a\":1}<y>"[..],
        b"/caf\xe9",
        b"/caf\xc3\xa9?\xff\xfe",
        b"/a#frag",
        b"/r/\\x",
        b"/a\tb\t",
        b"/a b",
        b"*",
        b"/?",
    ] {
        let fields = [
            (&b":method"[..], &b"GET"[..]),
            (b":scheme", b"https"),
            (b":authority", b"a.example"),
            (b":path", path),
        ];
        let text: String = path.iter().copied().map(char::from).collect();
        assert_eq!(
            one(END_STREAM, &fields),
            Seen::Head(format!("GET {text} HTTP/1.1\r\nhost: a.example\r\n\r\n"))
        );
    }
}

#[test]
fn fields_keep_their_bytes() {
    assert_eq!(with((b"x", b"caf\xe9 \xff\tb")), head_of("x: caf\u{e9} \u{ff}\tb\r\n"));
    assert_eq!(with((b"x", b" \tb \t")), head_of("x: b\r\n"));
    assert_eq!(with((b"x", b"")), head_of("x: \r\n"));
    assert_eq!(with((b"x", b"a\t\t\tb")), head_of("x: a\t\t\tb\r\n"));
    assert_eq!(with((b"te", b"trailers")), head_of("te: trailers\r\n"));
    // A client's own fields of these names are fields as all others.
    assert_eq!(with((b"head", b"GET / HTTP/1.1\t")), head_of("head: GET / HTTP/1.1\r\n"));
    assert_eq!(with((b"refused", b"400")), head_of("refused: 400\r\n"));
    // The same host twice is one; two hosts are for the parser to refuse.
    assert_eq!(with((b"host", b"A.example")), head_of(""));
    assert_eq!(with((b"host", b"b.example")), head_of("host: b.example\r\n"));
}

#[test]
fn bodies_are_framed_for_the_parser_and_their_length_is_held_to() {
    let fields = |method: &'static [u8], length: Option<&'static [u8]>| {
        let mut fields = vec![(&b":method"[..], method)];
        fields.extend(&GET[1..]);
        fields.extend(length.map(|length| (&b"content-length"[..], length)));
        fields
    };
    let head = |method: &str, line: &str| format!("{method} / HTTP/1.1\r\nhost: a.example\r\n{line}\r\n");
    assert_eq!(one(0, &fields(b"GET", None)), Seen::Head(head("GET", "transfer-encoding: chunked\r\n")));
    assert_eq!(one(END_STREAM, &fields(b"POST", None)), Seen::Head(head("POST", "content-length: 0\r\n")));
    assert_eq!(
        one(0, &fields(b"POST", Some(b"5"))),
        Seen::Length(head("POST", "content-length: 5\r\n"), "5".into())
    );
    for length in [&b"+5"[..], b"", b"5, 5", b"5 5", b"10000000000000000000", b"0x5"] {
        assert_eq!(one(0, &fields(b"POST", Some(length))), Seen::Refused("400".into()));
    }
    let twice = [fields(b"POST", Some(b"5")), vec![(&b"content-length"[..], &b"5"[..])]].concat();
    assert_eq!(one(0, &twice), Seen::Refused("400".into()));
}

#[test]
fn what_is_malformed_is_reset() {
    let path = |path: &'static [u8]| one(END_STREAM, &[&GET[..3], &[(b":path", path)]].concat());
    for field in [
        (&b"X"[..], &b"y"[..]),
        (b"", b"y"),
        (b"x y", b"z"),
        (b"x:", b"z"),
        (b"x\n", b"z"),
        (b"caf\xe9", b"z"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\0"),
        (b"connection", b"close"),
        (b"keep-alive", b"1"),
        (b"proxy-connection", b"x"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b":path", b"/"),
        (b":scheme", b"https"),
    ] {
        assert_eq!(with(field), Seen::Reset, "{field:?}");
    }
    for (left_out, _) in [(0, "method"), (1, "scheme"), (3, "path")] {
        let mut fields = GET.to_vec();
        fields.remove(left_out);
        assert_eq!(one(END_STREAM, &fields), Seen::Reset);
    }
    for extra in [
        (&b":status"[..], &b"200"[..]),
        (b":protocol", b"websocket"),
        (b":x", b"y"),
        (b":", b""),
        (b":method", b"GET"),
    ] {
        assert_eq!(one(END_STREAM, &[GET, &[extra]].concat()), Seen::Reset, "{extra:?}");
    }
    assert_eq!((path(b""), path(b"/a\r\nx: y"), path(b"/\0")), (Seen::Reset, Seen::Reset, Seen::Reset));
    assert_eq!(one(END_STREAM, &[]), Seen::Reset);
    let mut spaced = GET.to_vec();
    spaced[0].1 = b"GET /evil HTTP/1.1";
    assert_eq!(one(END_STREAM, &spaced), Seen::Reset);
    // A stream cannot depend on itself.
    let payload = [&[0, 0, 0, 1, 16][..], &block(GET)].concat();
    let (out, _) = run(&[PREFACE, &frame(1, END_HEADERS | PRIORITY, 1, &payload)].concat(), 100);
    assert_eq!(seen(&out), [(1, false, Seen::Reset)]);
}

#[test]
fn what_http1_cannot_say_is_refused() {
    let path = |path: &'static [u8]| one(END_STREAM, &[&GET[..3], &[(b":path", path)]].concat());
    for bad in [
        path(b"http://a.example/x"),
        path(b"x"),
        path(b"?x"),
        path(b"/\x01"),
        path(b"/\x7f"),
        with((b"x", b"\x1b[0m")),
    ] {
        assert_eq!(bad, Seen::Refused("400".into()));
    }
    let connect: List<'_> = &[(b":method", b"CONNECT"), (b":authority", b"a.example:443")];
    assert_eq!(
        one(END_STREAM, connect),
        Seen::Head("CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n\r\n".into())
    );
    assert_eq!(one(END_STREAM, &[connect, &[(b":path", b"/")]].concat()), Seen::Reset);
}

#[test]
fn trailers_are_dropped_and_held_to_the_rules() {
    let trailers = |fields: List<'_>| {
        let input = [
            PREFACE,
            &frame(1, END_HEADERS, 1, &block(GET)),
            &frame(0, 0, 1, b"body"),
            &frame(1, END_HEADERS | END_STREAM, 1, &block(fields)),
        ];
        seen(&run(&input.concat(), 11).0).pop().unwrap()
    };
    assert_eq!(trailers(&[(b"x", b"y")]), (1, true, Seen::Trailers));
    for bad in [(&b"X"[..], &b"y"[..]), (b":path", b"/"), (b"connection", b"x")] {
        assert_eq!(trailers(&[bad]), (1, true, Seen::Reset));
    }
}

#[test]
fn a_list_that_is_too_large_is_refused_and_ends_nothing() {
    let huge = vec![b'v'; 200_000];
    let mut many = block(GET);
    (0..5_000).for_each(|_| literal(&mut many, 0, b"x", b"0123456789"));
    let mut single = block(GET);
    literal(&mut single, 0x40, b"kept", b"value");
    literal(&mut single, 0, b"cookie", &huge);
    // 4 000 bytes that are said again and again.
    let mut bomb = block(GET);
    literal(&mut bomb, 0x40, b"x", &huge[..4_000]);
    bomb.resize(bomb.len() + 100_000, 0xbe);
    let tabs = vec![b'\t'; 40_000];
    let mut tabbed = block(GET);
    literal(&mut tabbed, 0, b"x", &[b"a", &tabs[..], b"b"].concat());
    for block_ in [many, single.clone(), bomb, tabbed] {
        let mut input = PREFACE.to_vec();
        let mut pieces = block_.chunks(16_384).peekable();
        let mut kind = 1;
        while let Some(piece) = pieces.next() {
            let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            input.extend(frame(kind, end | if kind == 1 { END_STREAM } else { 0 }, 1, piece));
            kind = 9;
        }
        let mut next = block(GET);
        if block_ == single {
            next.push(0xbe);
        }
        input.extend(frame(1, END_HEADERS | END_STREAM, 3, &next));
        for piece in [100, 16_384, 1_000_000] {
            let (out, failure) = run(&input, piece);
            let lists = seen(&out);
            assert_eq!((failure, lists[0].2.clone()), (None, Seen::Refused("431".into())));
            let kept = if block_ == single { "kept: value\r\n" } else { "" };
            assert_eq!(lists[1].2, head_of(kept));
        }
    }
    // What fits is passed on, in frames of the usual size.
    let fits = vec![b'v'; 60_000];
    let mut large = block(GET);
    literal(&mut large, 0, b"cookie", &fits);
    let mut input = PREFACE.to_vec();
    for (index, piece) in large.chunks(10_000).enumerate() {
        let end = if index == large.len() / 10_000 { END_HEADERS } else { 0 };
        input.extend(frame(if index == 0 { 1 } else { 9 }, end, 1, piece));
    }
    let (out, failure) = run(&input, 5_000);
    let Seen::Head(head) = &seen(&out)[0].2 else { panic!("no head") };
    assert_eq!((failure, head.matches('v').count()), (None, 60_000));
}

#[test]
fn settings_come_first() {
    let preface = PREFACE.strip_suffix(&frame(4, 0, 0, &[])[..]).unwrap();
    let get = frame(1, END_HEADERS | END_STREAM, 1, &block(GET));
    for first in [get, frame(6, 0, 0, &[0; 8]), frame(4, 1, 0, &[]), frame(77, 0, 0, &[])] {
        for piece in [1, 24, 1_000] {
            let input = [preface, &first, &frame(4, 0, 0, &[])].concat();
            assert_eq!(run(&input, piece), (preface.to_vec(), Some(Failure::Protocol)), "{first:?}");
        }
    }
}

#[test]
fn what_breaks_the_connection_is_said_and_nothing_follows() {
    let get = block(GET);
    let open = frame(1, 0, 1, &get);
    for (what, input, failure) in [
        ("another frame within a block", [&open[..], &frame(6, 0, 0, &[0; 8])].concat(), Failure::Protocol),
        ("another stream's continuation", [&open[..], &frame(9, 4, 3, b"")].concat(), Failure::Protocol),
        ("another request within a block", [&open[..], &open].concat(), Failure::Protocol),
        ("a continuation of nothing", frame(9, 4, 1, &get), Failure::Protocol),
        ("a promise", frame(5, 4, 1, &[0, 0, 0, 2]), Failure::Protocol),
        ("no stream", frame(1, 4, 0, &get), Failure::Protocol),
        ("more padding than frame", frame(1, END_HEADERS | PADDED, 1, &[9, 0x82]), Failure::Protocol),
        ("no room for the priority", frame(1, END_HEADERS | PRIORITY, 1, &[0; 4]), Failure::FrameSize),
        ("too large a frame", frame(1, END_HEADERS, 1, &[0; 16_385]), Failure::FrameSize),
        ("too large a frame that nobody knows", frame(77, 0, 1, &[0; 16_385]), Failure::FrameSize),
        ("a priority of another size", frame(2, 0, 1, &[0; 6]), Failure::FrameSize),
        ("a reset of another size", frame(3, 0, 1, &[0; 3]), Failure::FrameSize),
        ("settings of another size", frame(4, 0, 0, &[0; 7]), Failure::FrameSize),
        ("an acknowledgement with something", frame(4, 1, 0, &[0; 6]), Failure::FrameSize),
        ("a ping of another size", frame(6, 0, 0, &[0; 7]), Failure::FrameSize),
        ("a goaway of another size", frame(7, 0, 0, &[0; 7]), Failure::FrameSize),
        ("a window of another size", frame(8, 0, 0, &[0; 5]), Failure::FrameSize),
        ("no such index", frame(1, END_HEADERS, 1, &[0xff, 0x7f]), Failure::Compression),
        ("a block that breaks off", frame(1, END_HEADERS, 1, &[0, 5]), Failure::Compression),
        ("too large a table", frame(1, END_HEADERS, 1, &[0x3f, 0xe2, 0x1f]), Failure::Compression),
        (
            "endless pieces of nothing",
            [open.clone(), frame(9, 0, 1, b"").repeat(2_000)].concat(),
            Failure::TooMuch,
        ),
        (
            "an endless block",
            [open.clone(), frame(9, 0, 1, &[0xbe - 0x3d; 16_000]).repeat(70)].concat(),
            Failure::TooMuch,
        ),
    ] {
        for piece in [1, 9, 1_000, 1_000_000] {
            let before = [PREFACE, &frame(6, 0, 0, &[0; 8])].concat();
            let (out, got) = run(&[&before[..], &input, &frame(1, END_HEADERS, 5, &get)].concat(), piece);
            assert_eq!(got, Some(failure), "{what}");
            assert_eq!(out, before, "{what}");
        }
    }
}

/// A frame that a client may send.
#[derive(Debug, Clone)]
enum Sent {
    Other {
        kind: u8,
        stream: u32,
        payload: Vec<u8>,
    },
    Request {
        fields: Vec<(String, Vec<u8>)>,
        cuts: Vec<usize>,
        padding: Option<u8>,
        priority: bool,
        ends: bool,
    },
}

fn sent() -> impl Strategy<Value = Sent> {
    let name = proptest::sample::select(vec![
        "accept",
        "x-a",
        "x-b",
        "user-agent",
        "cookie",
        "x-long-name-of-a-field",
    ]);
    let value = proptest::collection::vec(prop_oneof![0x20u8..=0x7e, 0x80u8..=0xff, Just(b'\t')], 0..60);
    prop_oneof![
        (
            prop_oneof![Just(0u8), Just(2), Just(3), Just(4), Just(6), Just(8), 10u8..],
            0u32..9,
            proptest::collection::vec(any::<u8>(), 0..60)
        )
            .prop_map(|(kind, stream, mut payload)| {
                let size = match kind {
                    2 => 5,
                    3 | 8 => 4,
                    4 => payload.len() / 6 * 6,
                    6 => 8,
                    _ => payload.len(),
                };
                payload.resize(size, 0);
                Sent::Other { kind, stream, payload }
            }),
        (
            proptest::collection::vec((name.prop_map(str::to_owned), value), 0..6),
            proptest::collection::vec(0usize..200, 0..4),
            proptest::option::of(any::<u8>()),
            any::<bool>(),
            any::<bool>(),
        )
            .prop_map(|(fields, cuts, padding, priority, ends)| Sent::Request {
                fields,
                cuts,
                padding,
                priority,
                ends
            }),
    ]
}

proptest! {
    #[test]
    fn every_connection_is_seen_the_same_however_it_is_cut(sent in proptest::collection::vec(sent(), 0..12), piece in 1usize..300) {
        let mut encoder = loona_hpack::Encoder::new();
        let (mut input, mut expected, mut others, mut stream) = (PREFACE.to_vec(), Vec::new(), Vec::new(), 1);
        for sent in sent {
            match sent {
                Sent::Other { kind, stream, payload } => {
                    input.extend(frame(kind, 0, stream, &payload));
                    others.push((kind, 0, stream, payload));
                }
                Sent::Request { fields, cuts, padding, priority, ends } => {
                    let mut list: Vec<(&[u8], &[u8])> = GET.to_vec();
                    list.extend(fields.iter().map(|(name, value)| (name.as_bytes(), &value[..])));
                    // This encoder puts what it sends into its table.
                    let block = encoder.encode(list);
                    let mut head = "GET / HTTP/1.1\r\nhost: a.example\r\n".to_owned();
                    for (name, value) in &fields {
                        let value: String = value.trim_ascii().iter().copied().map(char::from).collect();
                        head += &format!("{name}: {value}\r\n");
                    }
                    head += if ends { "\r\n" } else { "transfer-encoding: chunked\r\n\r\n" };
                    expected.push((stream, ends, Seen::Head(head)));
                    let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= block.len()).collect();
                    cuts.sort_unstable();
                    cuts.push(block.len());
                    let mut from = 0;
                    for (index, cut) in cuts.iter().enumerate() {
                        let end = if index + 1 == cuts.len() { END_HEADERS } else { 0 };
                        let piece = &block[from..*cut];
                        from = *cut;
                        if index > 0 {
                            input.extend(frame(9, end, stream, piece));
                            continue;
                        }
                        let mut flags = end | if ends { END_STREAM } else { 0 };
                        let mut payload = Vec::new();
                        if let Some(padding) = padding {
                            flags |= PADDED;
                            payload.push(padding);
                        }
                        if priority {
                            flags |= PRIORITY;
                            payload.extend([0, 0, 0, 0, 16]);
                        }
                        payload.extend_from_slice(piece);
                        payload.resize(payload.len() + usize::from(padding.unwrap_or_default()), 0);
                        input.extend(frame(1, flags, stream, &payload));
                    }
                    stream += 2;
                }
            }
        }
        let (out, failure) = run(&input, piece);
        prop_assert_eq!(failure, None);
        prop_assert_eq!(seen(&out), expected);
        let passed: Vec<_> = frames(&out[PREFACE.len()..]).into_iter().filter(|frame| !matches!(frame.0, 1 | 9)).collect();
        prop_assert_eq!(passed, others);
    }

    #[test]
    fn no_bytes_bring_it_down_and_pieces_do_not_matter(kinds in proptest::collection::vec((prop_oneof![Just(0u8), Just(1), Just(9)], any::<u8>(), 0u32..4, proptest::collection::vec(any::<u8>(), 0..40)), 0..8), tail in proptest::collection::vec(any::<u8>(), 0..40), piece in 1usize..50) {
        let mut input = PREFACE.to_vec();
        for (kind, flags, stream, payload) in kinds {
            input.extend(frame(kind, flags, stream, &payload));
        }
        input.extend(tail);
        prop_assert_eq!(run(&input, piece), run(&input, 1_000_000));
    }
}
