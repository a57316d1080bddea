//! What must hold of every host that a client names, of every path, and of what it shows.
#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use hosting_edge_map::{BasicAuth, Credentials, Host, parse_host};
use hosting_fuzz::fuzz;
use hosting_intent::message as m;

const HOSTS: &[&[u8]] = &[
    b"www.Example.com.:8443",
    b"web_ab12.svc.example.net",
    b"192.0.2.1:80",
    b"[2001:db8::1]:443",
    b"xn--bcher-kva.example",
];

fuzz!(
    a_host_has_one_spelling,
    HOSTS,
    &[b":", b".", b"]", b"[", b"0", b"@", b"\"", b"\xc3\xa4", b"-"],
    |bytes| {
        match parse_host(bytes) {
            Ok(Host::Name(name)) => {
                let sound = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
                assert!(name.bytes().all(sound) && name.len() <= 253 && !name.ends_with('.'), "{name}");
                // Its own spelling is the same name, with a port or without.
                for again in
                    [name.to_string(), format!("{name}:443"), format!("{name}."), name.to_ascii_uppercase()]
                {
                    assert_eq!(parse_host(again.as_bytes()), Ok(Host::Name(name.clone())), "{again}");
                }
            }
            Ok(Host::Address(address)) => {
                let text = if address.is_ipv6() { format!("[{address}]:1") } else { format!("{address}:1") };
                assert_eq!(parse_host(text.as_bytes()), Ok(Host::Address(address)));
            }
            Err(_) => {}
        }
    }
);

/// A target as a web server reads it: escapes undone once, slashes merged, dots resolved.
fn as_served(target: &[u8]) -> Vec<Vec<u8>> {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let (mut decoded, mut at) = (Vec::new(), 0);
    while let Some(byte) = path.get(at) {
        let digits = path.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match digits.filter(|_| *byte == b'%').map(|digits| u8::from_str_radix(digits, 16).unwrap()) {
            Some(escaped) => {
                decoded.push(escaped);
                at += 3;
            }
            None => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    let mut segments = Vec::new();
    for segment in decoded.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            segment => segments.push(segment.to_vec()),
        }
    }
    segments
}

const TARGETS: &[&[u8]] = &[
    b"/admin/x?a=b",
    b"/admin/open/x",
    b"/x/../admin/",
    b"/x/%2e%2e/admin%2fy",
    b"//admin/./open/../z",
    b"/%61dmin;a=b",
];

fuzz!(
    no_spelling_of_a_path_gets_around_a_password,
    TARGETS,
    &[b"/", b"..", b"%2f", b"%2e", b"%25", b"/admin", b"/open", b"%61", b";", b"?", b"\\"],
    |bytes| {
        let (paths, exempt) = (vec!["/admin".to_owned()], vec!["/admin/open".to_owned()]);
        let auth = BasicAuth::new(&m::BasicAuth { enabled: true, paths, exempt, ..m::BasicAuth::default() });
        let served = as_served(bytes);
        let is_first = |n: usize, name: &[u8]| served.get(n).is_some_and(|segment| segment == name);
        if is_first(0, b"admin") && !is_first(1, b"open") {
            assert!(auth.asks(bytes));
        }
    }
);

const SHOWN: &[&[u8]] = &[b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", b"bASIC   dGVzdDoxMjPCow ", b"Basic Og=="];

fuzz!(
    what_is_shown_is_a_name_and_a_password,
    SHOWN,
    &[b" ", b"=", b"Basic ", b"Og==", b"/", b"+"],
    |bytes| {
        if let Some(shown) = Credentials::read(bytes) {
            assert!(!shown.name().contains(&b':'));
            assert!(![shown.name(), shown.password()].concat().iter().any(u8::is_ascii_control));
        }
    }
);
