//! What must hold of whatever clients and balancers send before, and beside, HTTP.

use std::io::Cursor;
use std::net::SocketAddr;

use hosting_edge_map::{Host, parse_host};
use hosting_fuzz::fuzz;
use rustls::server::Acceptor;

use crate::{client_hello, compress, proxy_header};

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

const HEADERS: &[&[u8]] = &[
    b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\nGET / HTTP/1.1\r\n",
    b"PROXY TCP6 2001:db8::5 ::1 4711 80\r\n",
    b"PROXY UNKNOWN whatever\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\0\x50\x01\xbb",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x27\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x50\x01\xbb\x04\0\0",
];

fuzz!(
    a_header_says_the_same_however_it_comes,
    HEADERS,
    &[b"\r\n", b"\r", b"PROXY ", b"TCP4 ", b" 1", b"\0", b"\xff", b"\r\n\r\n\0\r\nQUIT\n"],
    |bytes| {
        let whole = proxy_header::look(bytes, PEER);
        // Where the header ends says nothing of what is behind it, and nothing is said before its end is there.
        if let Ok(Some((length, client))) = whole {
            assert!((8..=bytes.len()).contains(&length));
            assert_eq!(proxy_header::look(&bytes[..length], PEER).ok(), Some(Some((length, client))));
            for end in 0..length {
                let before = proxy_header::look(&bytes[..end], PEER);
                assert!(
                    matches!(before, Ok(None)),
                    "{before:?} at {end} of {}",
                    bytes[..length].escape_ascii()
                );
            }
        }
    }
);

/// A client's first message for `www.example.com` (TLS 1.2, one suite, one extension).
const HELLO: &[u8] = b"\x16\x03\x01\0\x64\x01\0\0\x60\x03\x03\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\
\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\0\0\x02\xc0\x2b\x01\0\0\x35\0\0\0\x14\0\x12\0\0\x0fwww.example.com\
\0\x0a\0\x04\0\x02\0\x1d\0\x0d\0\x04\0\x02\x04\x03\0\x17\0\0\0\x10\0\x05\0\x03\x02h2";

fn name_of(bytes: &[u8], piece: usize) -> Result<Option<String>, ()> {
    let mut acceptor = Acceptor::default();
    for piece in bytes.chunks(piece) {
        let mut rest = Cursor::new(piece);
        while rest.position() < piece.len() as u64 {
            if acceptor.read_tls(&mut rest).map_err(drop)? == 0 {
                return Err(());
            }
            if let Some(accepted) = acceptor.accept().map_err(drop)? {
                return Ok(client_hello::with_name(&accepted.client_hello(), str::to_owned));
            }
        }
    }
    Ok(None)
}

fuzz!(
    a_hello_asks_for_one_name,
    &[HELLO],
    &[b"\0", b".", b"www", b"\xff", b"\0\x0fwww.example.com"],
    |bytes| {
        let whole = name_of(bytes, usize::MAX);
        for piece in [1, 10] {
            assert_eq!(name_of(bytes, piece), whole, "in pieces of {piece}");
        }
        if let Ok(Some(name)) = whole {
            assert_eq!(parse_host(name.as_bytes()), Ok(Host::Name(name.clone().into())));
        }
    }
);

#[test]
fn the_hello_of_the_target_is_one() {
    assert_eq!(name_of(HELLO, usize::MAX), Ok(Some("www.example.com".to_owned())));
}

fuzz!(
    a_coding_is_one_that_was_named,
    &[b"gzip, deflate, br;q=0.9, zstd", b"*;q=0.5, gzip;q=0", b"x-gzip", b"identity", b"br ; q=1.000 , GZIP"],
    &[b";q=", b"q=0", b"*", b",", b"br", b"gzip", b"zstd", b"nan", b"-1", b" "],
    |bytes| {
        let lists: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        let chosen = compress::choose(lists.iter().copied()).map(compress::Coding::name);
        // Fields of one name are one list (RFC 9110 §5.3).
        let joined = lists.join(&b", "[..]);
        assert_eq!(compress::choose([&joined[..]].into_iter()).map(compress::Coding::name), chosen);
        // The last word on a coding counts, and a weight of nothing is a no.
        let none = [&joined[..], b", gzip;q=0, x-gzip;q=0, br;q=0, zstd;q=0"].concat();
        assert!(compress::choose([&none[..]].into_iter()).is_none(), "{}", bytes.escape_ascii());
        if let Some(name) = chosen {
            let lower = joined.to_ascii_lowercase();
            let holds = |part: &[u8]| lower.windows(part.len()).any(|window| window == part);
            assert!(holds(name) || holds(b"*"), "{}", bytes.escape_ascii());
        }
    }
);
