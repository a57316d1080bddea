//! What must hold of what proxies say of their clients.
#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::net::IpAddr;

use hosting_fuzz::fuzz;
use hosting_scaffold::client_address::{client_of, is_trusted};

fuzz!(
    the_client_is_somebody_who_was_named,
    &[
        b"192.0.2.1, 10.0.0.7\x1efor=192.0.2.1;proto=https, For=\"[2001:db8::5]:99\"",
        b"203.0.113.9\n192.0.2.1:4711, 10.9.9.9\x1e",
        b"[2001:db8::5]:80, ::ffff:192.0.2.1\x1e",
        b"\x1efor=unknown, for=_hidden;by=x",
    ],
    &[b", ", b"10.1.1.1", b"for=", b"\"", b"unknown", b"\x1e", b"\n", b"::1", b";", b"\xff"],
    |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let (plain, standard) = text.split_once('\x1e').unwrap_or((&text, ""));
        let fields = |text: &'_ str| -> Vec<String> {
            text.split('\n').filter(|value| !value.is_empty()).map(str::to_owned).collect()
        };
        let (plain, standard) = (fields(plain), fields(standard));
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        let of = |plain: &[String], standard: &[String]| {
            client_of(plain.iter().map(|v| &**v), standard.iter().map(|v| &**v), peer, &trusted)
        };
        let client = of(&plain, &standard);
        // Fields of one name are one list (RFC 9110 §5.3).
        let joined = |values: &[String]| {
            if values.is_empty() { Vec::new() } else { vec![values.join(", ")] }
        };
        assert_eq!(of(&joined(&plain), &joined(&standard)), client);
        // What clients put in front changes nothing once a proxy noted one of them.
        if !is_trusted(&trusted, client) && standard.is_empty() {
            let mut longer = vec!["6.6.6.6, unknown".to_owned()];
            longer.extend(plain.iter().cloned());
            assert_eq!(of(&longer, &[]), client);
        }
        // Nobody asks for somebody whom no field names.
        let text = text.to_ascii_lowercase();
        let named = |part: &str| part.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == client);
        let word = |c: char| !(c.is_ascii_hexdigit() || matches!(c, '.' | ':'));
        let port = |part: &'_ str| part.rsplit_once(':').map(|(address, _)| address.to_owned());
        let mut words = text.split(word).chain(text.split(|c: char| word(c) || c == '['));
        assert!(
            client == peer || words.any(|part| named(part) || port(part).is_some_and(|part| named(&part))),
            "{client} in {text:?}"
        );
    }
);
