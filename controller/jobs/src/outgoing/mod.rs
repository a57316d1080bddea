//! What posting to receivers outside takes, whoever asks for it: where it may go, one client that goes nowhere else, signatures, and a
//! share for each host. A receiver is taken for hostile.

mod signature;
mod target;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Certificate;

pub(crate) use self::signature::Signer;
use self::target::Resolver;
pub use self::target::{CallbackRules, OwnAddresses};
pub(crate) use self::target::{Forbidden, is_public};

/// Connecting, name resolution included.
const CONNECT: Duration = Duration::from_secs(10);
/// Exchanges with one host at once: a slow receiver must not take the places of the others.
const PER_HOST: u32 = 8;
/// How we call ourselves.
const AGENT: &str = concat!("hosting-platform/", env!("CARGO_PKG_VERSION"));

/// No proxies of the environment, no redirects, no connection kept: each exchange goes where its URL says, checked each time, and takes
/// `limit` at most.
pub(crate) fn client(rules: &CallbackRules, limit: Duration) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .user_agent(AGENT)
        .connect_timeout(CONNECT)
        .timeout(limit)
        .pool_max_idle_per_host(0)
        .dns_resolver(Arc::new(Resolver(rules.clone())));
    if let Some(pem) = &rules.authorities {
        let authorities = Certificate::from_pem_bundle(pem).map_err(|error| error.to_string())?;
        builder = builder.tls_certs_merge(authorities);
    }
    builder.build().map_err(|error| chain(&error))
}

/// Exchanges under way, by host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hosts(Arc<Mutex<BTreeMap<String, u32>>>);

impl Hosts {
    /// A place among the exchanges with a host; `None`: all are taken.
    pub(crate) fn take(&self, host: &str) -> Option<HostPlace> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(host.to_owned()).or_default();
        if *count >= PER_HOST {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(HostPlace { hosts: self.clone(), host: host.to_owned() })
    }
}

/// A place among the exchanges with a host; given back when dropped.
#[derive(Debug)]
pub(crate) struct HostPlace {
    hosts: Hosts,
    host: String,
}

impl Drop for HostPlace {
    fn drop(&mut self) {
        let mut counts = self.hosts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.host);
            }
        }
    }
}

/// Whether the rules did not let an exchange go where its name led.
pub(crate) fn is_forbidden(error: &reqwest::Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<Forbidden>() {
            return true;
        }
        source = cause.source();
    }
    false
}

/// An error with its causes. reqwest's own text alone does not say what went wrong.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_its_share() {
        let hosts = Hosts::default();
        let held: Vec<_> = (0..PER_HOST).map(|_| hosts.take("a").unwrap()).collect();
        assert!(hosts.take("a").is_none() && hosts.take("b").is_some());
        drop(held);
        assert!(hosts.take("a").is_some());
        assert!(hosts.0.lock().unwrap().is_empty());
    }
}
