//! Networks, each with a word: of those that an address lies in the narrowest has it.

use std::net::IpAddr;

use ipnet::IpNet;
use prefix_trie::PrefixMap;

/// Networks and whether each is let in.
#[derive(Debug)]
pub(super) struct Networks {
    v4: PrefixMap<ipnet::Ipv4Net, bool>,
    v6: PrefixMap<ipnet::Ipv6Net, bool>,
}

impl Networks {
    pub(super) fn new(allow: &[String], deny: &[String]) -> Self {
        let mut networks = Self { v4: PrefixMap::new(), v6: PrefixMap::new() };
        let allow = allow.iter().map(|text| (text, true));
        for (text, word) in allow.chain(deny.iter().map(|text| (text, false))) {
            match text.parse() {
                Ok(IpNet::V4(network)) => drop(networks.v4.insert(network, word)),
                Ok(IpNet::V6(network)) => drop(networks.v6.insert(network, word)),
                // Checked before it came here.
                Err(_) => {}
            }
        }
        networks
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// The word on an address; `None`: it lies in none. An IPv4 address that is written as one of IPv6 is the IPv4 address.
    pub(super) fn word_on(&self, address: IpAddr) -> Option<bool> {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.get_lpm(&address.into()).map(|(_, word)| *word),
            IpAddr::V6(address) => self.v6.get_lpm(&address.into()).map(|(_, word)| *word),
        }
    }
}

/// A country: two upper case letters.
pub type Country = [u8; 2];

/// An address whose country is not known.
pub const UNKNOWN_COUNTRY: Country = *b"XX";

/// Countries, each with a word.
#[derive(Debug)]
pub(super) struct Countries {
    allow: Box<[Country]>,
    deny: Box<[Country]>,
}

impl Countries {
    /// `None`: there are none, and nobody has to know where an address is.
    pub(super) fn new(allow: &[String], deny: &[String]) -> Option<Self> {
        let list = |list: &[String]| -> Box<[Country]> {
            list.iter().filter_map(|country| country.as_bytes().try_into().ok()).collect()
        };
        (!allow.is_empty() || !deny.is_empty()).then(|| Self { allow: list(allow), deny: list(deny) })
    }

    pub(super) fn len(&self) -> usize {
        self.allow.len() + self.deny.len()
    }

    /// The word on a country; `None`: it is in no list, and there is none of those that are let in.
    pub(super) fn word_on(&self, country: Country) -> Option<bool> {
        if self.deny.contains(&country) {
            return Some(false);
        }
        (!self.allow.is_empty()).then(|| self.allow.contains(&country))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn the_narrowest_network_decides() {
        let allow = texts(&["10.1.0.0/16", "10.1.2.3/32", "2001:db8:1::/48"]);
        let deny = texts(&["10.0.0.0/8", "10.1.2.0/24", "::/0"]);
        let networks = Networks::new(&allow, &deny);
        let word = |address: &str| networks.word_on(address.parse().unwrap());
        assert_eq!(word("10.9.9.9"), Some(false));
        assert_eq!(word("10.1.9.9"), Some(true));
        assert_eq!(word("10.1.2.9"), Some(false));
        assert_eq!(word("10.1.2.3"), Some(true));
        assert_eq!(word("192.0.2.1"), None);
        assert_eq!(word("2001:db8:1::1"), Some(true));
        assert_eq!(word("2001:db8:2::1"), Some(false));
        assert_eq!(word("::ffff:10.1.2.3"), Some(true), "an IPv4 client of an IPv6 listener");
        assert_eq!(word("::ffff:192.0.2.1"), None);
    }
}
