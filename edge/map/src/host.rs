//! The host of a request: what clients send, brought to the one spelling that routes have.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hosting_intent::name::{NameError, check_host};

/// A host as a route spells it, or an address, which no route has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host<'a> {
    /// Lower case, no port, no trailing dot. Borrowed unless it had to be changed.
    Name(Cow<'a, str>),
    /// The client asked for an address.
    Address(IpAddr),
}

/// The host cannot be one: the answer is 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing there.
    #[error("the request names no host")]
    Missing,
    /// The port is no number from 0 to 65535.
    #[error("the port is not a number from 0 to 65535")]
    Port,
    /// `[` without a sound IPv6 address after it.
    #[error("the address in brackets is not an IPv6 address")]
    Ipv6,
    /// Not a host name.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// Reads a `Host` field value or URI authority without user information: `name`, `name.`, `NAME:8443`, `192.0.2.1`,
/// `[2001:db8::1]:443` (RFC 9110 §7.2, RFC 3986 §3.2.2).
///
/// # Errors
/// What is wrong with it. Never panics, whatever the bytes; allocates only to change upper case to lower.
pub fn parse_host(raw: &[u8]) -> Result<Host<'_>, HostError> {
    if raw.is_empty() {
        return Err(HostError::Missing);
    }
    // Also keeps everything below linear in something small.
    if raw.len() > 300 {
        return Err(HostError::Name(NameError::TooLong(raw.len())));
    }
    let text = std::str::from_utf8(raw).map_err(|_| NameError::Character(char::REPLACEMENT_CHARACTER))?;
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(HostError::Ipv6)?;
        let address: Ipv6Addr = address.parse().map_err(|_| HostError::Ipv6)?;
        if !port.is_empty() {
            check_port(port.strip_prefix(':').ok_or(HostError::Port)?)?;
        }
        return Ok(Host::Address(IpAddr::V6(address)));
    }
    let name = match text.split_once(':') {
        Some((name, port)) => {
            check_port(port)?;
            name
        }
        None => text,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Err(HostError::Missing);
    }
    if name.ends_with(|last: char| last.is_ascii_digit())
        && let Ok(address) = name.parse::<Ipv4Addr>()
    {
        return Ok(Host::Address(IpAddr::V4(address)));
    }
    let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    };
    check_host(&name)?;
    Ok(Host::Name(name))
}

fn check_port(port: &str) -> Result<(), HostError> {
    // An empty port after the colon is allowed (RFC 3986 §3.2.3); `parse` alone would take "+80".
    if port.bytes().all(|byte| byte.is_ascii_digit()) && (port.is_empty() || port.parse::<u16>().is_ok()) {
        Ok(())
    } else {
        Err(HostError::Port)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(raw: &str) -> String {
        match parse_host(raw.as_bytes()) {
            Ok(Host::Name(name)) => name.into_owned(),
            other => panic!("{raw}: {other:?}"),
        }
    }

    #[test]
    fn names_come_to_one_spelling() {
        for raw in [
            "www.example.com",
            "www.example.com.",
            "WWW.Example.COM",
            "www.example.com:8443",
            "www.example.com.:",
        ] {
            assert_eq!(name(raw), "www.example.com", "{raw}");
        }
        assert_eq!(name("web_ab12cd34ef.svc.example.net"), "web_ab12cd34ef.svc.example.net");
        assert!(matches!(parse_host(b"www.example.com:80"), Ok(Host::Name(Cow::Borrowed(_)))));
    }

    #[test]
    fn addresses_are_told_from_names() {
        assert_eq!(parse_host(b"192.0.2.1:80"), Ok(Host::Address("192.0.2.1".parse().unwrap())));
        assert_eq!(parse_host(b"[2001:db8::1]:443"), Ok(Host::Address("2001:db8::1".parse().unwrap())));
        assert_eq!(parse_host(b"[::1]"), Ok(Host::Address("::1".parse().unwrap())));
        assert_eq!(name("192.0.2.256"), "192.0.2.256");
    }

    #[test]
    fn absurd_hosts_are_refused() {
        let long = "a".repeat(64);
        let many = "abcdefg.".repeat(40);
        for raw in [
            "",
            ":80",
            ".",
            "..",
            "a..b",
            "-a.example",
            "a b",
            "a/b",
            "a\\b",
            "a%2eb",
            "*.example.com",
            "user@a.example",
            "a.example:99999",
            "a.example:+80",
            "a.example:80:80",
            "[::1",
            "[::1]80",
            "[nonsense]",
            "::1",
            "a\r\nb",
            "a\0b",
            "bücher.example",
            "${jndi:ldap://x}",
            long.as_str(),
            many.as_str(),
        ] {
            assert!(parse_host(raw.as_bytes()).is_err(), "{raw}");
        }
        assert!(parse_host(&[0xff, 0xfe]).is_err());
        assert!(parse_host(&[b'a'; 100_000]).is_err());
    }

    proptest! {
        #[test]
        fn whatever_comes_the_answer_is_a_sound_name_or_an_error(raw in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(Host::Name(name)) = parse_host(&raw) {
                prop_assert!(check_host(&name).is_ok());
            }
        }
    }
}
