//! Connections counted by where they come from, so that nobody alone can keep the others out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

/// How many connections a wide network may have for each that a narrow one may.
const WIDE: usize = 4;

/// Connections by network: narrow ones (an IPv4 address, an IPv6 /64) and the wide ones around them (/24, /48).
#[derive(Debug, Default)]
pub struct Networks(Mutex<BTreeMap<(u8, IpAddr), usize>>);

impl Networks {
    /// A place for one more connection from `address`. `limit` is that of a narrow network; a wide one may have four times as
    /// many. `None`: there is none left.
    pub fn enter(self: &Arc<Self>, address: IpAddr, limit: usize) -> Option<NetworkPlace> {
        let nets = networks(address);
        let limits = [limit, limit.saturating_mul(WIDE)];
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if nets.iter().zip(limits).any(|(net, limit)| counts.get(net).copied().unwrap_or_default() >= limit) {
            return None;
        }
        for net in nets {
            *counts.entry(net).or_default() += 1;
        }
        drop(counts);
        Some(NetworkPlace { networks: Arc::clone(self), nets })
    }
}

/// A place among a network's connections, given back when dropped.
#[derive(Debug)]
pub struct NetworkPlace {
    networks: Arc<Networks>,
    nets: [(u8, IpAddr); 2],
}

impl Drop for NetworkPlace {
    fn drop(&mut self) {
        let mut counts = self.networks.0.lock().unwrap_or_else(PoisonError::into_inner);
        for net in self.nets {
            if let Some(count) = counts.get_mut(&net) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&net);
                }
            }
        }
    }
}

/// The network that an address counts as: the address itself (IPv4), its /64 (IPv6).
#[must_use]
pub fn narrow_network(address: IpAddr) -> IpAddr {
    let [(_, narrow), _] = networks(address);
    narrow
}

/// The narrow and the wide network of an address, each with the length of its prefix.
fn networks(address: IpAddr) -> [(u8, IpAddr); 2] {
    match address.to_canonical() {
        IpAddr::V4(v4) => [32, 24].map(|length| {
            let mask = u32::MAX << (32 - u32::from(length));
            (length, IpAddr::V4((v4.to_bits() & mask).into()))
        }),
        IpAddr::V6(v6) => [64, 48].map(|length| {
            let mask = u128::MAX << (128 - u32::from(length));
            (length, IpAddr::V6((v6.to_bits() & mask).into()))
        }),
    }
}

/// Where a listener of this machine is reached from it: on loopback when it listens on every address.
#[must_use]
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_and_wide_networks_have_their_share_and_give_it_back() {
        let networks = Arc::new(Networks::default());
        let enter = |address: &str| networks.enter(address.parse().unwrap(), 2);
        let held = [enter("192.0.2.1"), enter("::ffff:192.0.2.1")];
        assert!(held.iter().all(Option::is_some));
        assert!(enter("192.0.2.1").is_none());
        let others: Vec<_> =
            (2..5).flat_map(|n| [enter(&format!("192.0.2.{n}")), enter(&format!("192.0.2.{n}"))]).collect();
        assert!(others.iter().all(Option::is_some), "four times as many in the /24");
        assert!(enter("192.0.2.9").is_none() && enter("192.0.3.9").is_some());
        let v6 = [enter("2001:db8::1"), enter("2001:db8::2")];
        assert!(v6.iter().all(Option::is_some) && enter("2001:db8::3").is_none());
        assert!(enter("2001:db8:0:1::1").is_some());
        drop((held, others, v6));
        assert!(networks.0.lock().unwrap().is_empty());
    }
}
