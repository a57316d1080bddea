//! Development certificates: an authority of this machine's own, and a leaf for each routed FQDN.
//!
//! A leaf is signed for the handshake that asks for it, and never for a name that is in no route. A tenant's own certificate
//! ([`crate::tenant_certs`]) goes before it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hosting_edge_map::Routing;
use hosting_scaffold::file::write_whole;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;

use crate::challenges::Challenges;
use crate::client_hello::with_name;
use crate::metrics::{Metrics, gauge};
use crate::ready::Ready;
use crate::tenant_certs::TenantCerts;
use crate::tickets::Tickets;

const DAY: Duration = Duration::from_secs(86_400);
/// The limit that some systems set to certificates of an authority that a user added.
const LEAF_DAYS: u32 = 820;
const CA_DAYS: u32 = 3_650;

/// The name in the default certificate: no host can have it (RFC 2606 §2).
const DEFAULT_NAME: &str = "default.invalid";

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

    fn sign(&self, name: &str) -> Result<CertifiedKey, CaError> {
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
        Ok(CertifiedKey::new(vec![certificate.into()], Arc::clone(&self.leaf_signer)))
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

/// The certificates at hand.
#[derive(Debug)]
pub struct CertStore {
    signed: Ready<Arc<str>>,
    tenants: TenantCerts,
    challenges: Arc<Challenges>,
    tickets: Arc<Tickets>,
    ca: DevCa,
    default_certificate: Arc<CertifiedKey>,
    routing: Arc<Routing>,
    metrics: Metrics,
}

impl CertStore {
    /// An empty store. Of what handshakes use it keeps at most `ready` certificates that it signed (about 1 KiB each), and as many that
    /// tenants brought (about 5 KiB each).
    ///
    /// # Errors
    /// The cryptographic library fails.
    pub fn new(
        ca: DevCa,
        routing: Arc<Routing>,
        ready: usize,
        metrics: Metrics,
    ) -> Result<Arc<Self>, CaError> {
        let opened = metrics.certificates_opened.clone();
        Ok(Arc::new(Self {
            signed: Ready::new(ready),
            tenants: TenantCerts::new(Arc::clone(&routing), ready, opened).map_err(crypto)?,
            challenges: Arc::default(),
            tickets: Arc::new(Tickets::new().map_err(crypto)?),
            default_certificate: Arc::new(ca.sign(DEFAULT_NAME)?),
            ca,
            routing,
            metrics,
        }))
    }

    /// The certificate of a name for a client that takes these signatures: the tenant's own before that of the development authority.
    /// Opens or signs one that is not ready. `None`: the name is in no route.
    #[must_use]
    pub fn get(&self, name: &str, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.tenants.get(name, schemes).or_else(|| self.signed(name))
    }

    fn signed(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        if !self.routing.knows(name) {
            return None;
        }
        let mut is_new = false;
        let certificate = self.signed.get_or_make(name, || {
            match self.ca.sign(name) {
                Ok(signed) => {
                    is_new = true;
                    Some((Arc::from(name), signed))
                }
                // The name passed the check for host names; this is not the tenant's doing.
                Err(error) => {
                    tracing::error!(%error, "no development certificate for a routed name");
                    None
                }
            }
        });
        if is_new {
            self.metrics.certificates_signed.inc();
            self.metrics.certificates.set(gauge(self.signed.len()));
        }
        certificate
    }

    /// The certificates that tenants brought.
    pub(crate) const fn tenants(&self) -> &TenantCerts {
        &self.tenants
    }

    /// What sessions go on with.
    pub(crate) const fn tickets(&self) -> &Arc<Tickets> {
        &self.tickets
    }

    /// What certificate authorities find.
    pub(crate) const fn challenges(&self) -> &Arc<Challenges> {
        &self.challenges
    }

    /// The certificate for clients that name no host, or none that is routed. It is valid for no host.
    pub(crate) fn default_certificate(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.default_certificate)
    }

    /// A route is gone.
    pub(crate) fn forget(&self, name: &str) {
        self.signed.remove(name);
        self.metrics.certificates.set(gauge(self.signed.len()));
    }
}

/// Shows the certificate of the name that a client asks for.
#[derive(Debug)]
pub(crate) struct Resolver {
    pub(crate) certs: Arc<CertStore>,
    /// Whether clients that name no host, or none that is routed, get the default certificate.
    pub(crate) default_certificate: bool,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Of what the client can verify, rustls has taken out what its cipher suites rule out (TLS 1.2).
        let schemes = hello.signature_schemes();
        let named = with_name(&hello, |name| self.certs.get(name, schemes)).flatten();
        named.or_else(|| self.default_certificate.then(|| self.certs.default_certificate()))
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

    fn store(ready: usize, routes: usize) -> (Arc<CertStore>, tempfile::TempDir) {
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
        (CertStore::new(ca(dir.path()).unwrap(), routing, ready, metrics).unwrap(), dir)
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

    #[test]
    fn each_is_signed_when_it_is_asked_for_and_no_more_are_kept_than_the_limit() {
        let (store, _dir) = store(60, 700);
        for n in 0..700 {
            let name = format!("h{n}.example");
            let shown = store.get(&name, &[]).unwrap();
            assert!(Arc::ptr_eq(&shown, &store.get(&name, &[]).unwrap()), "kept for the next handshake");
            assert!(store.signed.len() <= 64);
        }
        assert_eq!(store.metrics.certificates_signed.get(), 700);
        assert!(store.get("h0.example", &[]).is_some(), "signed again");
        assert_eq!(store.metrics.certificates_signed.get(), 701);
        let kept = store.signed.len();
        store.forget("h0.example");
        assert_eq!(store.signed.len(), kept - 1);
    }

    /// Bytes of a first message, in which the name can be exchanged for another one of its length.
    fn hello(name: &str) -> (Vec<u8>, usize) {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name_of = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name_of).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        let at = bytes.windows(name.len()).position(|part| part == name.as_bytes()).unwrap();
        (bytes, at)
    }

    #[test]
    fn a_flood_of_names_in_no_route_leaves_nothing_behind() {
        let (store, _dir) = store(100, 10);
        let (mut bytes, at) = hello("f000000.example");
        let sizes = || (store.signed.len(), store.tenants.sizes(), store.metrics.certificates_signed.get());
        let before = sizes();
        for default_certificate in [true, false] {
            let resolver = Resolver { certs: Arc::clone(&store), default_certificate };
            for n in 0..10_000 {
                bytes[at + 1..at + 7].copy_from_slice(format!("{n:06}").as_bytes());
                let mut acceptor = rustls::server::Acceptor::default();
                acceptor.read_tls(&mut bytes.as_slice()).unwrap();
                let accepted = acceptor.accept().unwrap().unwrap();
                let shown = resolver.resolve(accepted.client_hello());
                assert_eq!(shown.is_some(), default_certificate);
                assert!(shown.is_none_or(|shown| Arc::ptr_eq(&shown, &store.default_certificate)));
            }
        }
        assert_eq!(sizes(), before);
    }
}
