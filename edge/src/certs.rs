//! Development certificates: an authority of this machine's own, and a leaf for each routed FQDN.
//!
//! Leaves of a small batch are signed when it is applied, off the handshakes' way. Those of a large one, or of a whole view, are signed
//! when they are asked for, by one background thread that a handshake waits for; never for a name that is in no route. A tenant's own
//! certificate ([`crate::tenant_certs`]) goes before them.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hosting_edge_map::Routing;
use hosting_scaffold::file::write_whole;
use hosting_swap_map::SwapMap;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use tokio::sync::{mpsc, oneshot};

use crate::challenges::Challenges;
use crate::metrics::{Metrics, gauge};
use crate::tenant_certs::TenantCerts;

const DAY: Duration = Duration::from_secs(86_400);
/// The limit that some systems set to certificates of an authority that a user added.
const LEAF_DAYS: u32 = 820;
const CA_DAYS: u32 = 3_650;

/// The name in the default certificate: no host can have it (RFC 2606 §2).
const DEFAULT_NAME: &str = "default.invalid";

/// Up to this many are signed before a batch counts as applied (about 50 µs each); more are left to the handshakes that ask for them.
const EAGER: usize = 512;

/// Handshakes that may wait for a signature at once.
const QUEUE: usize = 1_024;

/// The development authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in the files does not fit.
    #[error("{}: {what}; move it and its certificate away to have new ones made", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Making keys or signing.
    #[error("cannot make a certificate: {0}")]
    Crypto(String),
}

fn crypto(error: impl std::fmt::Display) -> CaError {
    CaError::Crypto(error.to_string())
}

/// The authority, and the one key that all leaves share: it never leaves this process.
pub struct DevCa {
    issuer: Issuer<'static, KeyPair>,
    leaf_key: KeyPair,
    leaf_signer: Arc<dyn rustls::sign::SigningKey>,
}

impl std::fmt::Debug for DevCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DevCa")
    }
}

impl DevCa {
    /// Reads the authority, or makes one: key with mode 0600, certificate readable by all.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn load_or_make(certificate: &Path, key: &Path) -> Result<Self, CaError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| CaError::File { path, source }
        };
        let key_pair = match fs::read_to_string(key) {
            Ok(text) => KeyPair::from_pem(&text).map_err(|error| CaError::Unusable {
                path: key.to_owned(),
                what: format!("not a private key: {error}"),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = KeyPair::generate().map_err(crypto)?;
                write(key, &made.serialize_pem(), 0o600).map_err(file(key))?;
                // A certificate without its key is of no use; the new key gets its own below.
                match fs::remove_file(certificate) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(file(certificate)(error));
                    }
                    Ok(()) | Err(_) => {}
                }
                made
            }
            Err(error) => return Err(file(key)(error)),
        };
        let text = match fs::read_to_string(certificate) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = ca_params(&key_pair)?.self_signed(&key_pair).map_err(crypto)?.pem();
                write(certificate, &text, 0o644).map_err(file(certificate))?;
                text
            }
            Err(error) => return Err(file(certificate)(error)),
        };
        let issuer = Issuer::from_ca_cert_pem(&text, key_pair).map_err(|error| CaError::Unusable {
            path: certificate.to_owned(),
            what: format!("not an authority's certificate: {error}"),
        })?;
        let leaf_key = KeyPair::generate().map_err(crypto)?;
        let der = PrivateKeyDer::try_from(leaf_key.serialize_der()).map_err(crypto)?;
        let leaf_signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).map_err(crypto)?;
        Ok(Self { issuer, leaf_key, leaf_signer })
    }

    fn sign(&self, name: &str) -> Result<Arc<CertifiedKey>, CaError> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(crypto)?;
        params.distinguished_name = DistinguishedName::new();
        // A common name holds 64 characters at most; the name that counts is the alternative one.
        if name.len() <= 64 {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        validity(&mut params, LEAF_DAYS);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&self.leaf_key, &self.issuer).map_err(crypto)?;
        Ok(Arc::new(CertifiedKey::new(vec![certificate.into()], Arc::clone(&self.leaf_signer))))
    }
}

fn ca_params(key: &KeyPair) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(crypto)?;
    // Two authorities of one name would be mistaken for each other by a client that trusts both.
    let tail: String = key.der_bytes().iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Hosting edge development authority {tail}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, CA_DAYS);
    Ok(params)
}

/// From yesterday, because clients' clocks are not ours.
fn validity(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * days).into();
}

fn write(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    write_whole(path, content.as_bytes(), mode)
}

/// A handshake waits for this name.
type Wish = (Arc<str>, oneshot::Sender<()>);

/// The certificates at hand.
#[derive(Debug)]
pub struct CertStore {
    certs: SwapMap<Arc<str>, Arc<CertifiedKey>>,
    tenants: TenantCerts,
    challenges: Arc<Challenges>,
    ca: DevCa,
    default_certificate: Arc<CertifiedKey>,
    routing: Arc<Routing>,
    capacity: usize,
    wishes: mpsc::Sender<Wish>,
    /// Oldest first; may name certificates that are gone.
    order: Mutex<VecDeque<Arc<str>>>,
    metrics: Metrics,
}

impl CertStore {
    /// An empty store with its thread, which ends with it. Holds at most `capacity` certificates (about 1 KiB each).
    ///
    /// # Errors
    /// No thread to be had.
    pub fn start(
        ca: DevCa,
        routing: Arc<Routing>,
        capacity: usize,
        metrics: Metrics,
    ) -> io::Result<Arc<Self>> {
        let (wishes, inbox) = mpsc::channel(QUEUE);
        let certs = SwapMap::with_buckets(capacity / 32);
        let default_certificate = ca.sign(DEFAULT_NAME).map_err(io::Error::other)?;
        let store = Arc::new(Self {
            certs,
            tenants: TenantCerts::new(Arc::clone(&routing)),
            challenges: Arc::default(),
            ca,
            default_certificate,
            routing,
            capacity: capacity.max(1),
            wishes,
            order: Mutex::default(),
            metrics,
        });
        let weak = Arc::downgrade(&store);
        std::thread::Builder::new().name("edge-certs".into()).spawn(move || run(&weak, inbox))?;
        Ok(store)
    }

    /// The certificate of a name, if it is at hand: the tenant's own before that of the development authority. Called in
    /// handshakes: never signs.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.tenants.get(name).or_else(|| self.certs.get(name))
    }

    /// The certificates that tenants brought.
    pub(crate) const fn tenants(&self) -> &TenantCerts {
        &self.tenants
    }

    /// What certificate authorities find.
    pub(crate) const fn challenges(&self) -> &Arc<Challenges> {
        &self.challenges
    }

    /// The certificate for clients that name no host, or none that is routed. It is valid for no host.
    pub(crate) fn default_certificate(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.default_certificate)
    }

    /// Waits until the background thread has signed the name. For a handshake whose certificate is not at hand.
    /// Answers whether it is now; false too when too many wait.
    pub async fn obtain(&self, name: &str) -> bool {
        let (done, wait) = oneshot::channel();
        self.wishes.try_send((Arc::from(name), done)).is_ok()
            && wait.await.is_ok()
            && self.certs.contains_key(name)
    }

    /// Makes ready for routes that come and go. Of a small batch every certificate is there when this returns.
    pub fn apply<'a>(&self, added: impl Iterator<Item = &'a str>, removed: impl Iterator<Item = &'a str>) {
        self.certs.update(removed.map(|name| (Arc::from(name), None)));
        let missing: Vec<Arc<str>> =
            added.filter(|name| !self.certs.contains_key(*name)).map(Arc::from).collect();
        if missing.len() <= EAGER {
            self.sign(&missing);
        }
        self.metrics.certificates.set(gauge(self.certs.len()));
    }

    fn sign(&self, names: &[Arc<str>]) {
        let mut signed: Vec<(Arc<str>, Option<Arc<CertifiedKey>>)> = Vec::with_capacity(names.len());
        for name in names {
            match self.ca.sign(name) {
                Ok(certificate) => signed.push((Arc::clone(name), Some(certificate))),
                // The name passed the check for host names; this is not the tenant's doing.
                Err(error) => tracing::error!(%error, "no development certificate for a routed name"),
            }
        }
        self.metrics.certificates_signed.inc_by(signed.len() as u64);
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.extend(signed.iter().map(|(name, _)| Arc::clone(name)));
        self.certs.update(signed);
        while self.certs.len() > self.capacity {
            let Some(oldest) = order.pop_front() else { break };
            self.certs.remove(oldest);
        }
        if order.len() > 2 * self.capacity + 1_024 {
            // Names that came and went several times; keep the last of each that is still there.
            let mut seen = HashSet::new();
            let kept: Vec<Arc<str>> = order
                .drain(..)
                .rev()
                .filter(|name| self.certs.contains_key(name) && seen.insert(Arc::clone(name)))
                .collect();
            order.extend(kept.into_iter().rev());
        }
        self.metrics.certificates.set(gauge(self.certs.len()));
    }
}

fn run(store: &std::sync::Weak<CertStore>, mut inbox: mpsc::Receiver<Wish>) {
    while let Some((name, done)) = inbox.blocking_recv() {
        let Some(store) = store.upgrade() else { return };
        // Looked at here again: the route may be gone since the handshake asked, or another one was quicker.
        if store.routing.knows(&name) && !store.certs.contains_key(&name) {
            store.sign(&[name]);
        }
        // A handshake that gave up needs no answer.
        let _ = done.send(());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use hosting_intent::message::Route;
    use hosting_intent::{Bytes, Cause, EdgeIntent, Item, Key, Kind};
    use hosting_scaffold::admin;

    use super::*;

    fn ca(dir: &Path) -> Result<DevCa, CaError> {
        DevCa::load_or_make(&dir.join("dev-ca.pem"), &dir.join("dev-ca.key"))
    }

    fn store(capacity: usize, routes: usize) -> (Arc<CertStore>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let (routing, mut writer) = Routing::new(16);
        let upserts: Vec<(Item, EdgeIntent)> = (0..routes)
            .map(|n| {
                let key = Key::new(Kind::Route, format!("h{n}.example"));
                let item = Item {
                    key,
                    revision: 1,
                    value: Bytes::new(),
                    cause: Cause::Person,
                    traceparent: String::new(),
                    rollout: 0,
                };
                (item, EdgeIntent::Route(Route { tenant_id: "t".into(), ..Route::default() }))
            })
            .collect();
        writer.apply(&upserts, &[]);
        let metrics = Metrics::new(&admin::Metrics::new());
        (CertStore::start(ca(dir.path()).unwrap(), routing, capacity, metrics).unwrap(), dir)
    }

    #[test]
    fn the_authority_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        ca(dir.path()).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("dev-ca.key"), mode("dev-ca.pem")), (0o600, 0o644));
        let (certificate, key) = (read("dev-ca.pem"), read("dev-ca.key"));
        ca(dir.path()).unwrap();
        assert_eq!((read("dev-ca.pem"), read("dev-ca.key")), (certificate.clone(), key));
        // A lost key makes a new authority, a broken one stops with the remedy.
        fs::remove_file(dir.path().join("dev-ca.key")).unwrap();
        ca(dir.path()).unwrap();
        assert_ne!(read("dev-ca.pem"), certificate);
        fs::write(dir.path().join("dev-ca.key"), "nonsense").unwrap();
        assert!(ca(dir.path()).unwrap_err().to_string().contains("move it"));
    }

    #[tokio::test]
    async fn a_small_batch_is_ready_at_once_and_the_oldest_makes_room() {
        let (store, _dir) = store(3, 10);
        let names: Vec<String> = (0..5).map(|n| format!("h{n}.example")).collect();
        store.apply(names.iter().take(3).map(String::as_str), [].into_iter());
        assert!(names.iter().take(3).all(|name| store.get(name).is_some()));
        store.apply(names.iter().skip(3).map(String::as_str), [].into_iter());
        let there: Vec<bool> = names.iter().map(|name| store.get(name).is_some()).collect();
        assert_eq!(there, [false, false, true, true, true]);
        // What was evicted is signed again for a handshake, what is in no route is not.
        assert!(store.obtain("h0.example").await);
        assert!(!store.obtain("other.example").await);
        store.apply([].into_iter(), ["h0.example"].into_iter());
        assert!(store.get("h0.example").is_none());
    }

    #[tokio::test]
    async fn of_a_large_batch_each_is_signed_for_the_handshake_that_asks() {
        let (store, _dir) = store(600, 700);
        let names: Vec<String> = (0..700).map(|n| format!("h{n}.example")).collect();
        store.apply(names.iter().map(String::as_str), [].into_iter());
        assert_eq!(store.certs.len(), 0);
        for name in &names {
            assert!(store.get(name).is_none() && store.obtain(name).await && store.get(name).is_some());
        }
        assert_eq!(store.certs.len(), 600);
    }
}
