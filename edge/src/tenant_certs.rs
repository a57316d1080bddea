//! Certificates that tenants bring. One is shown for those of its names that are hosts of the same tenant, and for nobody else's.
//!
//! All are kept as bytes ([`Pair`]), what several have alike once; those that handshakes ask for most are kept ready besides. A change
//! costs the names of its certificate, whatever else there is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use ahash::RandomState;
use aws_lc_rs::error::Unspecified;
use hosting_edge_map::Routing;
use hosting_intent::{Key, Rejection, message as m};
use hosting_intent_sync::client::AudienceKeys;
use hosting_swap_map::SwapMap;
use prometheus_client::metrics::counter::Counter;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroize;

use crate::interned::Interned;
use crate::pair::{Pair, Vault};
use crate::ready::Ready;

/// The intent's field that holds the private key.
const KEY: &str = "key";

/// A certificate, under each of its names.
#[derive(Debug)]
struct Certificate {
    id: Arc<str>,
    tenant: Arc<str>,
    /// Seconds since the Unix epoch.
    not_after: i64,
    names: Box<[Name]>,
    pair: Arc<Pair>,
}

/// A name to show a certificate for.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// Of each name the certificates, in any order.
type ByName = SwapMap<Arc<str>, Arc<[Arc<Certificate>]>>;

/// Certificates at hand.
#[derive(Debug)]
pub(crate) struct TenantCerts {
    routing: Arc<Routing>,
    hosts: ByName,
    below: ByName,
    kept: Mutex<Kept>,
    vault: Vault,
    ready: Ready<u64>,
    /// Counts what was opened for a handshake.
    opened: Counter,
}

/// What the one writer knows.
#[derive(Debug, Default)]
struct Kept {
    certificates: HashMap<Arc<str>, Arc<Certificate>, RandomState>,
    pairs: Interned<Pair>,
    /// What stands above leaves.
    above: Interned<[CertificateDer<'static>]>,
    tenants: Interned<str>,
    /// Pairs so far.
    numbers: u64,
}

fn invalid(field: &'static str, problem: &str) -> Rejection {
    Rejection::Invalid { field, problem: problem.to_owned() }
}

/// Opens the private key of a certificate.
///
/// # Errors
/// Why it cannot be opened. Nothing of the key is in the message.
pub(crate) fn private_key(
    keys: &AudienceKeys,
    key: &Key,
    certificate: &m::Certificate,
) -> Result<PrivateKeyDer<'static>, Rejection> {
    let sealed = certificate.key.as_ref().ok_or_else(|| invalid(KEY, "missing"))?;
    let pem = keys.open(key, KEY, sealed)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| invalid(KEY, "is no private key"))
}

fn chain(certificate: &m::Certificate) -> impl Iterator<Item = CertificateDer<'static>> {
    certificate.chain_der.iter().map(|der| CertificateDer::from(der.to_vec()))
}

/// Checks that a certificate's private key opens, and that it is the certificate's.
///
/// # Errors
/// Why it cannot be shown. Nothing of the key is in the message.
pub(crate) fn check(keys: &AudienceKeys, key: &Key, certificate: &m::Certificate) -> Result<(), Rejection> {
    let der = private_key(keys, key, certificate)?;
    match CertifiedKey::from_der(chain(certificate).collect(), der, &default_provider()) {
        Ok(_) => Ok(()),
        Err(_) => Err(invalid(
            "chain_der",
            "certificate and key do not belong together, or are of a kind that is not supported",
        )),
    }
}

impl TenantCerts {
    /// Keeps at most `ready` certificates in the form that handshakes use.
    ///
    /// # Errors
    /// No random numbers to be had.
    pub(crate) fn new(routing: Arc<Routing>, ready: usize, opened: Counter) -> Result<Self, Unspecified> {
        Ok(Self {
            routing,
            hosts: SwapMap::new(),
            below: SwapMap::new(),
            kept: Mutex::default(),
            vault: Vault::new()?,
            ready: Ready::new(ready),
            opened,
        })
    }

    /// The certificate that a client gets for a host, of those that it can verify if there is one: before all others one that has not
    /// ended, then one for exactly this name, then one that is quick to sign with, then the one that ends last. One that has ended is
    /// shown when there is no other of its tenant, so that clients say what is the matter.
    pub(crate) fn get(&self, host: &str, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let pair = &self.choose(host, schemes, now())?.pair;
        self.ready.get_or_make(&pair.number, || {
            self.opened.inc();
            let opened = pair.open(&self.vault);
            if opened.is_none() {
                tracing::error!(host, "the key of a certificate does not open any more");
            }
            Some((pair.number, opened?))
        })
    }

    fn choose(&self, host: &str, schemes: &[SignatureScheme], now: i64) -> Option<Arc<Certificate>> {
        let exact = self.hosts.get(host);
        let wildcard = host.split_once('.').and_then(|(_, above)| self.below.get(above));
        let exact = exact.iter().flat_map(|list| list.iter()).map(|certificate| (certificate, true));
        let wildcard = wildcard.iter().flat_map(|list| list.iter()).map(|certificate| (certificate, false));
        let own = exact.chain(wildcard).filter(|(one, _)| self.routing.is_of_tenant(host, &one.tenant));
        let best = own.max_by_key(|&(one, is_exact)| {
            let (pair, not_after) = (&one.pair, one.not_after);
            (pair.is_for(schemes), not_after > now, is_exact, !pair.is_slow(), not_after, &one.id)
        });
        best.map(|(certificate, _)| Arc::clone(certificate))
    }

    /// Whether clients get a certificate for a host that has not ended.
    pub(crate) fn serves(&self, host: &str) -> bool {
        let now = now();
        let schemes = default_provider().signature_verification_algorithms.supported_schemes();
        self.choose(host, &schemes, now).is_some_and(|certificate| certificate.not_after > now)
    }

    /// The leaf of the certificate that a client gets for a host.
    pub(crate) fn leaf(&self, host: &str, schemes: &[SignatureScheme]) -> Option<CertificateDer<'static>> {
        Some(self.choose(host, schemes, now())?.pair.leaf().to_vec().into())
    }

    /// Whether a certificate with this leaf is among those of a name, which may be a wildcard.
    pub(crate) fn has(&self, name: &str, id: &str, leaf: Option<&[u8]>) -> bool {
        let is_it = |one: &Arc<Certificate>| *one.id == *id && Some(one.pair.leaf()) == leaf;
        let (map, name) = match name.strip_prefix("*.") {
            Some(above) => (&self.below, above),
            None => (&self.hosts, name),
        };
        map.read(name, |list| list.iter().any(is_it)).unwrap_or_default()
    }

    /// Shows a certificate that passed [`check`] from now on, in place of the one with its id. `key` is its [`private_key`].
    ///
    /// # Errors
    /// Why it cannot be shown; the one with its id stays.
    pub(crate) fn put(
        &self,
        id: &str,
        certificate: &m::Certificate,
        mut key: PrivateKeyDer<'static>,
    ) -> Result<(), Rejection> {
        let mut chain = chain(certificate);
        let leaf = chain.next().ok_or_else(|| invalid("chain_der", "missing"))?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.numbers += 1;
        let above = kept.above.take(chain.collect());
        let pair = Pair::new(&self.vault, &leaf, Arc::clone(&above), &key, kept.numbers);
        key.zeroize();
        let Ok(pair) = pair else {
            kept.above.give_back(&above);
            return Err(invalid(KEY, "cannot be kept: no random numbers to be had"));
        };
        let certificate = Arc::new(Certificate {
            id: id.into(),
            tenant: kept.tenants.take(certificate.tenant_id.as_str().into()),
            not_after: certificate.not_after,
            names: certificate.names.iter().map(|name| Name::of(name)).collect(),
            pair: kept.pairs.take(Arc::new(pair)),
        });
        let before = kept.certificates.insert(Arc::clone(&certificate.id), Arc::clone(&certificate));
        for name in &certificate.names {
            self.change(name, |list| {
                list.retain(|other| other.id != certificate.id);
                list.push(Arc::clone(&certificate));
            });
        }
        if let Some(before) = before {
            self.forget(&mut kept, &before, &certificate.names);
        }
        Ok(())
    }

    /// Shows a certificate no more.
    pub(crate) fn remove(&self, id: &str) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(certificate) = kept.certificates.remove(id) {
            self.forget(&mut kept, &certificate, &[]);
        }
    }

    /// Gives back what a certificate has, and takes its id from its names but for those that have another one with it.
    fn forget(&self, kept: &mut Kept, certificate: &Certificate, but: &[Name]) {
        for name in certificate.names.iter().filter(|name| !but.contains(name)) {
            self.change(name, |list| list.retain(|other| other.id != certificate.id));
        }
        kept.tenants.give_back(&certificate.tenant);
        let pair = &certificate.pair;
        if kept.pairs.give_back(pair) {
            self.ready.remove(&pair.number);
        }
        kept.above.give_back(pair.above());
    }

    fn change(&self, name: &Name, change: impl FnOnce(&mut Vec<Arc<Certificate>>)) {
        let (map, name) = match name {
            Name::Host(name) => (&self.hosts, name),
            Name::Below(name) => (&self.below, name),
        };
        let mut list = map.get(&**name).map_or_else(Vec::new, |list| list.to_vec());
        change(&mut list);
        let list = (!list.is_empty()).then(|| Arc::from(list));
        map.update([(Arc::clone(name), list)]);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).certificates.len()
    }

    /// Of all that it has the number.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> Vec<usize> {
        let kept = self.kept.lock().unwrap();
        let named = [kept.certificates.len(), self.hosts.len(), self.below.len()];
        let shared = [kept.pairs.len(), kept.above.len(), kept.tenants.len(), self.ready.len()];
        [&named[..], &shared[..]].concat()
    }
}

/// Seconds since the Unix epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
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

    fn store(hosts: &[(&str, &str)], ready: usize) -> TenantCerts {
        TenantCerts::new(routed(hosts), ready, Counter::default()).unwrap()
    }

    fn every_scheme() -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }

    /// A certificate as it is brought; `above` stands above the leaf.
    struct Brought {
        message: m::Certificate,
        key: KeyPair,
    }

    impl Brought {
        fn new(tenant: &str, names: &[&str], not_after: i64) -> Self {
            Self::with(tenant, names, not_after, &rcgen::PKCS_ECDSA_P256_SHA256)
        }

        fn with(
            tenant: &str,
            names: &[&str],
            not_after: i64,
            algorithm: &'static rcgen::SignatureAlgorithm,
        ) -> Self {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            let message = m::Certificate {
                tenant_id: tenant.into(),
                names: names.iter().map(ToString::to_string).collect(),
                chain_der: vec![params.self_signed(&key).unwrap().der().to_vec().into()],
                not_after,
                key: None,
            };
            Self { message, key }
        }

        fn above(mut self, above: &[u8]) -> Self {
            self.message.chain_der.push(above.to_vec().into());
            self
        }

        /// Puts it into a store, and returns its leaf.
        fn put(&self, certs: &TenantCerts, id: &str) -> CertificateDer<'static> {
            let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
            certs.put(id, &self.message, key).unwrap();
            self.message.chain_der[0].to_vec().into()
        }
    }

    #[test]
    fn the_most_specific_and_then_the_longest_lived_one_of_the_hosts_own_tenant_is_shown() {
        let hosts = [
            ("a.example", "t_a"),
            ("www.a.example", "t_a"),
            ("shop.a.example", "t_b"),
            ("x.www.a.example", "t_a"),
        ];
        let certs = store(&hosts, 10);
        let schemes = every_scheme();
        let shown = |host: &str| {
            certs.choose(host, &schemes, 100).map(|one| CertificateDer::from(one.pair.leaf().to_vec()))
        };
        let put = |id: &str, names: &[&str], not_after| Brought::new("t_a", names, not_after).put(&certs, id);
        assert_eq!(shown("a.example"), None);
        let wild = put("wild", &["*.a.example", "a.example"], 500);
        let exact = put("exact", &["www.a.example"], 200);
        assert_eq!(shown("a.example"), Some(wild.clone()));
        assert_eq!(shown("www.a.example"), Some(exact.clone()), "though the wildcard lives longer");
        assert_eq!(shown("x.www.a.example"), None, "a wildcard stands for one label");
        assert_eq!(shown("shop.a.example"), None, "another tenant's host");
        assert_eq!(shown("other.a.example"), None, "no host of ours");

        let longer = put("longer", &["www.a.example"], 300);
        assert_eq!(shown("www.a.example"), Some(longer.clone()));
        put("ended", &["www.a.example"], 100);
        assert_eq!(shown("www.a.example"), Some(longer));
        certs.remove("longer");
        assert_eq!(shown("www.a.example"), Some(exact));
        certs.remove("exact");
        assert_eq!(shown("www.a.example"), Some(wild.clone()), "one that ended gives way to a wildcard");
        certs.remove("wild");
        assert!(shown("www.a.example").is_some_and(|ended| ended != wild), "until there is nothing else");
        // The same certificate anew, with other names.
        let again = put("ended", &["a.example"], 400);
        assert_eq!((shown("www.a.example"), shown("a.example")), (None, Some(again)));
        certs.remove("ended");
        assert_eq!(certs.sizes(), [0; 7]);
    }

    #[test]
    fn a_client_gets_what_it_can_verify_and_rather_a_key_on_a_curve() {
        let certs = store(&[("www.a.example", "t_a")], 10);
        let put = |id: &str, names: &[&str], not_after, algorithm| {
            Brought::with("t_a", names, not_after, algorithm).put(&certs, id);
        };
        let every = every_scheme();
        let rsa = [SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];
        let p256 = [SignatureScheme::ECDSA_NISTP256_SHA256];
        let shown = |schemes: &[SignatureScheme]| {
            certs.choose("www.a.example", schemes, 100).map(|one| one.id.to_string()).unwrap_or_default()
        };
        put("rsa", &["www.a.example"], 900, &rcgen::PKCS_RSA_SHA256);
        assert_eq!([shown(&every), shown(&rsa), shown(&p256)], ["rsa"; 3], "of one there is no choice");
        put("ecdsa", &["www.a.example"], 500, &rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!([shown(&every), shown(&rsa), shown(&p256)], ["ecdsa", "rsa", "ecdsa"]);
        put("wild", &["*.a.example"], 999, &rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!([shown(&every), shown(&rsa), shown(&p256)], ["ecdsa", "rsa", "ecdsa"]);
        assert_eq!(
            shown(&[SignatureScheme::ECDSA_NISTP384_SHA384]),
            "wild",
            "the only one that it can verify"
        );
        // Ended: the slow one, and then one that is not for the very name, go before it.
        put("ecdsa", &["www.a.example"], 100, &rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!([shown(&every), shown(&rsa), shown(&p256)], ["rsa", "rsa", "ecdsa"]);
        certs.remove("rsa");
        assert_eq!([shown(&every), shown(&p256)], ["wild", "ecdsa"]);
    }

    #[test]
    fn what_certificates_have_alike_is_kept_once_and_as_long_as_one_has_it() {
        let certs = store(&[], 10);
        let one = Brought::new("t_a", &["a.example"], 1).above(b"issuer");
        one.put(&certs, "one");
        one.put(&certs, "the same under another id");
        Brought::new("t_a", &["b.example", "*.b.example"], 1).above(b"issuer").put(&certs, "two");
        Brought::new("t_b", &["b.example"], 1).above(b"other").put(&certs, "three");
        let [certificates, hosts, below, pairs, above, tenants, _] = certs.sizes()[..] else { panic!() };
        assert_eq!((certificates, hosts, below, pairs, above, tenants), (4, 2, 1, 3, 2, 2));
        {
            let issuers: Vec<_> = ["a.example", "b.example"]
                .into_iter()
                .flat_map(|host| certs.hosts.get(host).unwrap().to_vec())
                .map(|one| Arc::clone(one.pair.above()))
                .collect();
            assert!(Arc::ptr_eq(&issuers[0], &issuers[1]) && Arc::ptr_eq(&issuers[0], &issuers[2]));
            assert!(!Arc::ptr_eq(&issuers[0], &issuers[3]));
        }
        certs.remove("three");
        assert_eq!(certs.sizes(), [3, 2, 1, 2, 1, 1, 0]);
        certs.remove("one");
        assert_eq!(certs.sizes(), [2, 2, 1, 2, 1, 1, 0], "the other one still has it all");
        // Again what is there, and then another one under the id.
        one.put(&certs, "the same under another id");
        assert_eq!(certs.sizes(), [2, 2, 1, 2, 1, 1, 0]);
        Brought::new("t_c", &["c.example"], 1).put(&certs, "the same under another id");
        assert_eq!(certs.sizes(), [2, 2, 1, 2, 2, 2, 0]);
        certs.remove("the same under another id");
        certs.remove("two");
        certs.remove("two");
        assert_eq!(certs.sizes(), [0; 7]);
    }

    #[test]
    fn a_key_is_opened_when_it_is_asked_for_and_again_when_it_made_room() {
        let names: Vec<String> = (0..200).map(|n| format!("h{n}.example")).collect();
        let hosts: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "t_a")).collect();
        let certs = store(&hosts, 40);
        let schemes = every_scheme();
        let leaves: Vec<_> =
            names.iter().map(|name| Brought::new("t_a", &[name], i64::MAX).put(&certs, name)).collect();
        assert_eq!((certs.opened.get(), certs.ready.len()), (0, 0), "until it is asked for");
        for _ in 0..2 {
            for (name, leaf) in names.iter().zip(&leaves) {
                let shown = certs.get(name, &schemes).unwrap();
                assert_eq!((&shown.cert[0], shown.keys_match()), (leaf, Ok(())), "{name}");
                assert!(Arc::ptr_eq(&shown, &certs.get(name, &schemes).unwrap()), "{name}");
                assert!(certs.ready.len() <= 40);
            }
        }
        let opened = certs.opened.get();
        assert!((360..=400).contains(&opened), "{opened} opened, where each was asked for twice");
        // What is gone is not ready any more either.
        let ready = certs.ready.len();
        certs.get("h0.example", &schemes).unwrap();
        certs.remove("h0.example");
        assert!(certs.get("h0.example", &schemes).is_none() && certs.ready.len() < ready.max(2));
    }

    #[test]
    fn a_certificate_that_is_replaced_is_never_missing() {
        let certs = store(&[("a.example", "t_a")], 10);
        let schemes = every_scheme();
        let brought = [1, 2].map(|not_after| Brought::new("t_a", &["a.example"], not_after));
        brought[0].put(&certs, "one");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    assert!(certs.get("a.example", &schemes).is_some());
                }
            });
            for n in 0..5_000 {
                brought[n % 2].put(&certs, "one");
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            asking.join().unwrap();
        });
        assert_eq!(certs.sizes()[..6], [1, 1, 0, 1, 1, 1]);
    }
}
