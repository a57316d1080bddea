//! Certificates that tenants bring. One is shown for those of its names that are hosts of the same tenant, and for nobody else's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use ahash::RandomState;
use hosting_edge_map::Routing;
use hosting_intent::{Key, Rejection, message as m};
use hosting_intent_sync::client::AudienceKeys;
use hosting_swap_map::SwapMap;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The intent's field that holds the private key.
const KEY: &str = "key";

/// A certificate under one of its names.
#[derive(Debug, Clone)]
struct Entry {
    id: Arc<str>,
    tenant: Arc<str>,
    /// Seconds since the Unix epoch.
    not_after: i64,
    key: Arc<CertifiedKey>,
}

/// A name to show a certificate for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Name {
    Host(Arc<str>),
    /// Every host one label below.
    Below(Arc<str>),
}

impl Name {
    fn of(name: &str) -> Self {
        name.strip_prefix("*.").map_or_else(|| Self::Host(name.into()), |above| Self::Below(above.into()))
    }
}

/// Of each name the certificates, the one that ends last first.
type ByName = SwapMap<Arc<str>, Arc<[Entry]>>;

/// Certificates at hand.
#[derive(Debug)]
pub(crate) struct TenantCerts {
    routing: Arc<Routing>,
    hosts: ByName,
    below: ByName,
    /// The names that each certificate is under, for the one writer.
    names: Mutex<HashMap<Arc<str>, Vec<Name>, RandomState>>,
}

/// Opens the private key of a certificate, and checks that it is the certificate's.
///
/// # Errors
/// Why it cannot be shown. Nothing of the key is in the message.
pub(crate) fn open(
    keys: &AudienceKeys,
    key: &Key,
    certificate: &m::Certificate,
) -> Result<CertifiedKey, Rejection> {
    let invalid = |field, problem: &str| Rejection::Invalid { field, problem: problem.to_owned() };
    let sealed = certificate.key.as_ref().ok_or_else(|| invalid(KEY, "missing"))?;
    let pem = keys.open(key, KEY, sealed)?;
    let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| invalid(KEY, "is no private key"))?;
    let chain = certificate.chain_der.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    CertifiedKey::from_der(chain, der, &default_provider()).map_err(|_| {
        invalid(
            "chain_der",
            "certificate and key do not belong together, or are of a kind that is not supported",
        )
    })
}

impl TenantCerts {
    pub(crate) fn new(routing: Arc<Routing>) -> Self {
        Self { routing, hosts: SwapMap::new(), below: SwapMap::new(), names: Mutex::default() }
    }

    /// The certificate for a host: one for exactly this name before a wildcard, of several the one that ends last. One that has
    /// ended is shown when there is no other of its tenant, so that clients say what is the matter.
    pub(crate) fn get(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.get_at(host, i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }

    fn get_at(&self, host: &str, now: i64) -> Option<Arc<CertifiedKey>> {
        let exact = self.hosts.get(host);
        let wildcard = host.split_once('.').and_then(|(_, above)| self.below.get(above));
        let entries = || exact.iter().chain(&wildcard).flat_map(|entries| entries.iter());
        let mut own = entries().filter(|entry| self.routing.is_of_tenant(host, &entry.tenant)).peekable();
        let first = own.peek().copied();
        own.find(|entry| entry.not_after > now).or(first).map(|entry| Arc::clone(&entry.key))
    }

    /// Whether a certificate with this leaf is among those of an exact name.
    pub(crate) fn has(&self, host: &str, id: &str, leaf: Option<&CertificateDer<'_>>) -> bool {
        let entries = self.hosts.get(host);
        let mut entries = entries.iter().flat_map(|entries| entries.iter());
        entries.any(|entry| *entry.id == *id && entry.key.cert.first() == leaf)
    }

    /// Shows a certificate from now on.
    pub(crate) fn put(&self, id: &str, certificate: &m::Certificate, key: CertifiedKey) {
        self.remove(id);
        let entry = Entry {
            id: id.into(),
            tenant: certificate.tenant_id.as_str().into(),
            not_after: certificate.not_after,
            key: Arc::new(key),
        };
        let names: Vec<Name> = certificate.names.iter().map(|name| Name::of(name)).collect();
        for name in &names {
            self.change(name, |entries| {
                let before = entries
                    .partition_point(|other| (other.not_after, &other.id) > (entry.not_after, &entry.id));
                entries.insert(before, entry.clone());
            });
        }
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(id.into(), names);
    }

    /// Shows a certificate no more.
    pub(crate) fn remove(&self, id: &str) {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        for name in names.iter().flatten() {
            self.change(name, |entries| entries.retain(|entry| *entry.id != *id));
        }
    }

    fn change(&self, name: &Name, change: impl FnOnce(&mut Vec<Entry>)) {
        let (map, name) = match name {
            Name::Host(name) => (&self.hosts, name),
            Name::Below(name) => (&self.below, name),
        };
        let mut entries = map.get(&**name).map_or_else(Vec::new, |entries| entries.to_vec());
        change(&mut entries);
        let entries = (!entries.is_empty()).then(|| Arc::from(entries));
        map.update([(Arc::clone(name), entries)]);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use hosting_intent::message::Route;
    use hosting_intent::{Bytes, Cause, EdgeIntent, Item, Kind};
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn routed(hosts: &[(&str, &str)]) -> Arc<Routing> {
        let (routing, mut writer) = Routing::new(16);
        let upserts: Vec<(Item, EdgeIntent)> = hosts
            .iter()
            .map(|(host, tenant)| {
                let item = Item {
                    key: Key::new(Kind::Route, *host),
                    revision: 1,
                    value: Bytes::new(),
                    cause: Cause::Person,
                    traceparent: String::new(),
                    rollout: 0,
                };
                (item, EdgeIntent::Route(Route { tenant_id: (*tenant).into(), ..Route::default() }))
            })
            .collect();
        writer.apply(&upserts, &[]);
        routing
    }

    fn put(
        certs: &TenantCerts,
        id: &str,
        tenant: &str,
        names: &[&str],
        not_after: i64,
    ) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![format!("{id}.example")]).unwrap();
        let der: CertificateDer<'static> = params.self_signed(&key).unwrap().into();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let certified = CertifiedKey::from_der(vec![der.clone()], private, &default_provider()).unwrap();
        let message = m::Certificate {
            tenant_id: tenant.into(),
            names: names.iter().map(ToString::to_string).collect(),
            not_after,
            ..m::Certificate::default()
        };
        certs.put(id, &message, certified);
        der
    }

    #[test]
    fn the_most_specific_and_then_the_longest_lived_one_of_the_hosts_own_tenant_is_shown() {
        let hosts = [
            ("a.example", "t_a"),
            ("www.a.example", "t_a"),
            ("shop.a.example", "t_b"),
            ("x.www.a.example", "t_a"),
        ];
        let certs = TenantCerts::new(routed(&hosts));
        let shown = |host: &str| certs.get_at(host, 100).map(|key| key.cert[0].clone());
        assert_eq!(shown("a.example"), None);
        let wild = put(&certs, "wild", "t_a", &["*.a.example", "a.example"], 500);
        let exact = put(&certs, "exact", "t_a", &["www.a.example"], 200);
        assert_eq!(shown("a.example"), Some(wild.clone()));
        assert_eq!(shown("www.a.example"), Some(exact.clone()), "though the wildcard lives longer");
        assert_eq!(shown("x.www.a.example"), None, "a wildcard stands for one label");
        assert_eq!(shown("shop.a.example"), None, "another tenant's host");
        assert_eq!(shown("other.a.example"), None, "no host of ours");

        let longer = put(&certs, "longer", "t_a", &["www.a.example"], 300);
        assert_eq!(shown("www.a.example"), Some(longer.clone()));
        put(&certs, "ended", "t_a", &["www.a.example"], 100);
        assert_eq!(shown("www.a.example"), Some(longer));
        certs.remove("longer");
        assert_eq!(shown("www.a.example"), Some(exact));
        certs.remove("exact");
        assert_eq!(shown("www.a.example"), Some(wild.clone()), "one that ended gives way to a wildcard");
        certs.remove("wild");
        assert!(shown("www.a.example").is_some_and(|ended| ended != wild), "until there is nothing else");
        // The same certificate anew, with other names.
        let again = put(&certs, "ended", "t_a", &["a.example"], 400);
        assert_eq!((shown("www.a.example"), shown("a.example")), (None, Some(again)));
        certs.remove("ended");
        assert_eq!((certs.len(), certs.hosts.len(), certs.below.len()), (0, 0, 0));
    }
}
