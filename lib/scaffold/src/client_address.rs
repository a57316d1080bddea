//! For whom a request is made: the peer, or for whom a trusted proxy asks.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;

/// Whose request it is: the peer, or for whom a trusted proxy asks. In the extensions of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// Whether an address is in one of these networks.
#[must_use]
pub fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// As [`client_of`], of the headers of a request.
pub(crate) fn client_of_headers(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let values =
        |name: HeaderName| headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default());
    client_of(values(HeaderName::from_static("x-forwarded-for")), values(header::FORWARDED), peer, trusted)
}

/// For whom a trusted proxy asks: of the addresses that the proxies noted, the last one that is none of theirs. What they did not
/// write themselves stands further to the front. Two fields that disagree are nobody's word: one of them is the client's own.
///
/// `x_forwarded_for` and `forwarded` are the values of all fields of these names, in order; what is no text counts as an empty one.
pub fn client_of<'v>(
    x_forwarded_for: impl Iterator<Item = &'v str>,
    forwarded: impl Iterator<Item = &'v str>,
    peer: IpAddr,
    trusted: &[IpNet],
) -> IpAddr {
    let last = |mut chain: Vec<Option<IpAddr>>| {
        let mut client = peer;
        while let Some(noted) = chain.pop() {
            let Some(address) = noted else { break };
            client = address;
            if !is_trusted(trusted, address) {
                break;
            }
        }
        client
    };
    let parts = |text: &'v str| text.split(',').map(str::trim);
    let plain: Vec<_> = x_forwarded_for.flat_map(parts).map(noted_address).collect();
    let standard: Vec<_> = forwarded.flat_map(parts).map(forwarded_for).collect();
    match (plain.is_empty(), standard.is_empty()) {
        (true, true) => peer,
        (false, true) => last(plain),
        (true, false) => last(standard),
        (false, false) => {
            let (one, other) = (last(plain), last(standard));
            if one == other { one } else { peer }
        }
    }
}

/// The `for` of an element of `Forwarded` (RFC 7239 §4).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    noted_address(node.trim().trim_matches('"'))
}

/// An address, with or without a port.
fn noted_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().ok();
    address
        .or_else(|| text.parse::<SocketAddr>().ok().map(|with_port| with_port.ip()))
        .map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_address_that_is_no_proxys_is_the_clients() {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "2001:db8:1::/48"].map(|net| net.parse().unwrap()).into();
        let of = |headers: &[(&'static str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(HeaderName::from_static(name), value.parse().unwrap());
            }
            client_of_headers(&map, "10.0.0.1".parse().unwrap(), &trusted).to_string()
        };
        let plain = "x-forwarded-for";
        assert_eq!(of(&[]), "10.0.0.1");
        assert_eq!(of(&[(plain, "192.0.2.1")]), "192.0.2.1");
        assert_eq!(of(&[(plain, "203.0.113.9, 192.0.2.1")]), "192.0.2.1", "the client made up the first one");
        assert_eq!(of(&[(plain, "203.0.113.9"), (plain, "192.0.2.1, 10.0.0.7")]), "192.0.2.1");
        assert_eq!(of(&[(plain, "192.0.2.1:4711, 10.9.9.9")]), "192.0.2.1");
        assert_eq!(of(&[(plain, "[2001:db8::5]:80, 2001:db8:1::2")]), "2001:db8::5");
        assert_eq!(of(&[(plain, "10.2.2.2")]), "10.2.2.2", "a proxy that asks for itself");
        assert_eq!(of(&[(plain, "192.0.2.1, unknown")]), "10.0.0.1");
        assert_eq!(
            of(&[("forwarded", "for=192.0.2.1;proto=https, For=\"[2001:db8::5]:99\"")]),
            "2001:db8::5"
        );
        assert_eq!(of(&[("forwarded", "for=192.0.2.1"), (plain, "192.0.2.1")]), "192.0.2.1");
        assert_eq!(of(&[("forwarded", "for=203.0.113.9"), (plain, "192.0.2.1")]), "10.0.0.1");
        assert_eq!(of(&[(plain, "::ffff:192.0.2.1")]), "192.0.2.1");
    }
}
