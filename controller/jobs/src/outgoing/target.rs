//! Where callbacks and webhooks may go: URLs that the operator's rules allow, and addresses that are nobody's private network. A name is checked when
//! it is resolved for the connection itself, so that one that changes between check and connection gains nothing.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Longest URL in bytes.
const MAX_URL: usize = 2_048;

/// Addresses of the platform's own machines, as they are registered now: nobody is to reach these by a callback. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct OwnAddresses(Arc<RwLock<BTreeSet<IpAddr>>>);

impl OwnAddresses {
    /// Puts these in the place of those that were known.
    pub fn set(&self, addresses: BTreeSet<IpAddr>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    fn has(&self, address: IpAddr) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&address)
    }
}

/// What the operator set for callbacks and webhooks.
#[derive(Debug, Clone)]
pub struct CallbackRules {
    /// Whether URLs may begin with `http://` too.
    pub plain_http: bool,
    /// Networks that callbacks may go to although they are private, loopback, link-local or otherwise not the public Internet.
    pub networks: Vec<IpNet>,
    /// A delivery is given up after so many attempts; 1 to 100.
    pub attempts: u32,
    /// Certificate authorities (PEM) that are trusted beside the system's.
    pub authorities: Option<Vec<u8>>,
    /// The platform's own machines, where nothing may go to that is not in `networks`.
    pub own: OwnAddresses,
}

impl Default for CallbackRules {
    fn default() -> Self {
        Self {
            plain_http: false,
            networks: Vec::new(),
            attempts: 12,
            authorities: None,
            own: OwnAddresses::default(),
        }
    }
}

impl CallbackRules {
    /// Checks what a client gives as `X-Callback-URL`, or as the URL of a webhook.
    ///
    /// # Errors
    /// What is wrong with it, for the client; the URL is not quoted.
    pub fn check(&self, text: &str) -> Result<Url, String> {
        if text.len() > MAX_URL {
            return Err(format!("has {} bytes; at most {MAX_URL} are allowed", text.len()));
        }
        let mut url = Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
        match url.scheme() {
            "https" => {}
            "http" if self.plain_http => {}
            "http" => {
                return Err(
                    "must begin with https://; this platform sends no callbacks over plain HTTP".into()
                );
            }
            _ => return Err("must begin with https://".into()),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must have no user name and no password".into());
        }
        let address = match url.host() {
            None => return Err("names no host".into()),
            Some(host) => literal(&host.to_string()),
        };
        if address.is_some_and(|address| !self.allows(address)) {
            return Err("goes to an address that callbacks may not go to".into());
        }
        url.set_fragment(None);
        Ok(url)
    }

    /// Whether a connection to an address is allowed.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        // `::ffff:127.0.0.1` is 127.0.0.1.
        let address = address.to_canonical();
        is_public(address) && !self.own.has(address)
            || self.networks.iter().any(|network| network.contains(&address))
    }
}

/// The address that a URL's host spells, `None` for a name. IPv6 addresses stand in brackets there.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether an address is one of the public Internet: none of the IANA special-purpose registries (RFC 6890), no multicast, and, where
/// it carries an IPv4 address (RFC 6052, RFC 3056), none that carries one of these.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = a == 0
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        // Shared address space, RFC 6598.
        || (a == 100 && (64..128).contains(&b))
        // IETF protocol assignments, RFC 6890.
        || (a, b, c) == (192, 0, 0)
        // 6to4 relays, RFC 7526.
        || (a, b, c) == (192, 88, 99)
        // Benchmarking, RFC 2544.
        || (a == 198 && (b == 18 || b == 19))
        // Multicast, reserved, broadcast.
        || a >= 224;
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let [first, second, .., seventh, eighth] = segments;
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match (first, second) {
        // The well-known prefix of IPv4/IPv6 translators, RFC 6052.
        (0x64, 0xff9b) if segments[2..6] == [0; 4] => v4(seventh, eighth),
        // 6to4, RFC 3056.
        (0x2002, high) => v4(high, segments[2]),
        // IETF protocol assignments (Teredo, ORCHID, benchmarking), documentation (RFC 3849, RFC 9637).
        (0x2001, 0..0x200 | 0xdb8) | (0x3fff, 0..0x1000) => false,
        // Global unicast, RFC 4291; everything else is not assigned, local or special.
        (0x2000..0x4000, _) => true,
        _ => false,
    }
}

/// No address of a name may be connected to.
#[derive(Debug, thiserror::Error)]
#[error("its name leads to addresses that callbacks may not go to")]
pub(crate) struct Forbidden;

/// Resolves names as the system does, and leaves out what the rules do not allow.
#[derive(Debug, Clone)]
pub(crate) struct Resolver(pub(crate) CallbackRules);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if found.is_empty() {
                return Err("its name has no address".into());
            }
            let allowed: Vec<SocketAddr> =
                found.into_iter().filter(|address| rules.allows(address.ip())).collect();
            if allowed.is_empty() {
                return Err(Box::new(Forbidden) as Box<dyn std::error::Error + Send + Sync>);
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let rules = CallbackRules::default();
        for good in [
            "https://crm.example/done",
            "https://crm.example:8443/a?token=x",
            "https://8.8.8.8/",
            "HTTPS://CRM.example",
        ] {
            assert!(rules.check(good).is_ok(), "{good}");
        }
        assert_eq!(rules.check("https://crm.example/a#b").unwrap().as_str(), "https://crm.example/a");
        for (bad, why) in [
            ("http://crm.example/", "plain HTTP"),
            ("ftp://crm.example/", "https://"),
            ("file:///etc/passwd", "https://"),
            ("crm.example", "no URL"),
            ("", "no URL"),
            ("https://", "no URL"),
            ("https://u@crm.example/", "no user name"),
            ("https://u:p@crm.example/", "no user name"),
            ("https://:p@crm.example/", "no user name"),
            ("https://127.0.0.1/", "address"),
            ("https://2130706433/", "address"),
            ("https://0x7f.1/", "address"),
            ("https://0177.0.0.1/", "address"),
            ("https://[::1]/", "address"),
            ("https://[::ffff:10.0.0.1]/", "address"),
            ("https://169.254.169.254/latest/meta-data", "address"),
            ("https://10.1.2.3/", "address"),
            ("https://[fd00::1]/", "address"),
        ] {
            let error = rules.check(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert!(rules.check(&format!("https://crm.example/{}", "a".repeat(2_048))).is_err());
        let open = CallbackRules {
            plain_http: true,
            networks: vec!["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            ..CallbackRules::default()
        };
        for good in ["http://127.0.0.1:80/", "https://[fd00::1]/", "http://[::ffff:127.0.0.1]/"] {
            assert!(open.check(good).is_ok(), "{good}");
        }
        assert!(open.check("http://10.0.0.1/").is_err(), "another network");
    }

    #[test]
    fn only_the_public_internet() {
        let rules = CallbackRules::default();
        let allows = |text: &str| rules.allows(text.parse().unwrap());
        for public in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "192.0.1.1",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860::8888",
            "2002:101:101::1",
            "64:ff9b::1.1.1.1",
            "2001:200::1",
        ] {
            assert!(allows(public), "{public}");
        }
        for special in [
            "0.0.0.0",
            "0.1.2.3",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:a00:1::1",
            "3fff::1",
            "4000::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!allows(special), "{special}");
        }
    }

    #[test]
    fn the_platforms_own_machines_are_no_receivers() {
        let rules = CallbackRules::default();
        let own: IpAddr = "8.8.4.4".parse().unwrap();
        assert!(rules.allows(own));
        rules.own.set([own].into());
        assert!(!rules.allows(own) && !rules.allows("::ffff:8.8.4.4".parse().unwrap()));
        assert!(rules.check("https://8.8.4.4/").is_err());
        let open = CallbackRules { networks: vec!["8.8.4.0/24".parse().unwrap()], ..rules };
        assert!(open.allows(own), "the operator's word goes before");
    }

    /// The name is public to look at, and leads to this machine.
    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_refused_when_it_is_resolved() {
        let resolve = |rules: CallbackRules| Resolver(rules).resolve("localhost".parse().unwrap());
        let refused = resolve(CallbackRules::default()).await.err().unwrap();
        assert!(refused.is::<Forbidden>(), "{refused}");
        let networks = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let found = resolve(CallbackRules { networks, ..CallbackRules::default() }).await.unwrap();
        assert!(found.count() > 0);
    }
}
