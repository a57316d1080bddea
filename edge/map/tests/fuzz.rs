//! What must hold of every host that a client names.
#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use hosting_edge_map::{Host, parse_host};
use hosting_fuzz::fuzz;

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
