//! Names in certificates, and how each end of the feed checks the other's.
//!
//! A node's certificate proves one thing, its node id, by the URI SAN `spiffe://<cell>.hosting.internal/node/<id>`; the
//! controller's carries the DNS name `controller.<cell>.hosting.internal`, whatever address it is reached at. What a node
//! may do is never in a certificate. Its subject says which enrolment it goes back to, so that those of a machine that was
//! replaced can be told apart. Both ends use it; nothing here does I/O.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_X509_SERIALNUMBER;

const DOMAIN: &str = "hosting.internal";

/// ALPN of the feed: gRPC is HTTP/2 only.
pub const ALPN_H2: &[u8] = b"h2";

/// SHA-256 over a certificate's DER: how a join token names the authority to trust.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of a certificate.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is wrong with a certificate or a name meant for one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not an X.509 certificate.
    #[error("not an X.509 certificate in DER")]
    NotACertificate,
    /// The certificate has no such SAN, or more than one.
    #[error(
        "the certificate names no single node: exactly one URI SAN spiffe://<cell>.{DOMAIN}/node/<id> is needed"
    )]
    NoNode,
    /// A cell id has characters that cannot stand in a DNS label.
    #[error("cell id {0:?}: 1-40 characters of a-z, 0-9 and '-' are allowed, no '-' at an end")]
    Cell(String),
    /// A node id has characters that cannot stand in a URI path.
    #[error("node id {0:?}: 1-128 characters of a-z, A-Z, 0-9, '.', '_' and '-' are allowed")]
    Node(String),
}

/// A node of a cell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName {
    /// The cell's id.
    pub cell: String,
    /// The node's id in the registry.
    pub node_id: String,
}

impl NodeName {
    /// Checks both parts.
    ///
    /// # Errors
    /// The part that cannot stand in a certificate.
    pub fn new(cell: impl Into<String>, node_id: impl Into<String>) -> Result<Self, NameError> {
        let (cell, node_id) = (cell.into(), node_id.into());
        check_cell(&cell)?;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        // "." and ".." are path segments with a meaning of their own.
        if node_id.is_empty()
            || node_id.len() > 128
            || !node_id.chars().all(good)
            || node_id.chars().all(|c| c == '.')
        {
            return Err(NameError::Node(node_id));
        }
        Ok(Self { cell, node_id })
    }

    /// As the certificate spells it.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("spiffe://{}.{DOMAIN}/node/{}", self.cell, self.node_id)
    }

    /// The inverse of [`NodeName::uri`]; `None` for anything else.
    #[must_use]
    pub fn parse(uri: &str) -> Option<Self> {
        let (authority, node_id) = uri.strip_prefix("spiffe://")?.split_once("/node/")?;
        let cell = authority.strip_suffix(DOMAIN)?.strip_suffix('.')?;
        Self::new(cell, node_id).ok()
    }
}

/// Checks a cell id.
///
/// # Errors
/// If it cannot be a DNS label with room to spare.
pub fn check_cell(cell: &str) -> Result<(), NameError> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if cell.is_empty()
        || cell.len() > 40
        || !cell.chars().all(good)
        || cell.starts_with('-')
        || cell.ends_with('-')
    {
        return Err(NameError::Cell(cell.to_owned()));
    }
    Ok(())
}

/// The DNS name in the certificate of a cell's controllers.
#[must_use]
pub fn controller_name(cell: &str) -> String {
    format!("controller.{cell}.{DOMAIN}")
}

fn cell_of_controller(name: &str) -> Option<&str> {
    let cell = name.strip_prefix("controller.")?.strip_suffix(DOMAIN)?.strip_suffix('.')?;
    check_cell(cell).ok().map(|()| cell)
}

/// Certificates begin this many seconds before they are made, for clocks that are behind.
pub const BACKDATED_SECONDS: i64 = 5 * 60;

/// The longest role that an enrolment can be for, in bytes.
pub const MAX_ROLE: usize = 32;

/// The enrolment that a certificate goes back to; renewals keep it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Enrolled {
    /// The role of the process that enrolled (RFC 5280 §4.1.2.6: `OU` of the subject); `""`: it may play any of the node's.
    pub role: String,
    /// Orders a node's enrolments: milliseconds since the Unix epoch (`serialNumber` of the subject). A certificate that does
    /// not say it is its own enrolment, as old as itself.
    pub at: i64,
}

impl Enrolled {
    /// Whether `role` can stand in a certificate: at most [`MAX_ROLE`] of a-z, 0-9 and `-`.
    #[must_use]
    pub fn is_role(role: &str) -> bool {
        role.len() <= MAX_ROLE
            && role.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    }
}

/// What a node's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCertificate {
    /// Whose it is.
    pub name: NodeName,
    /// How its holder came by it.
    pub enrolled: Enrolled,
    /// Seconds since the Unix epoch.
    pub not_before: i64,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
}

impl NodeCertificate {
    /// Reads a node's certificate. Says nothing about who signed it.
    ///
    /// # Errors
    /// Not a certificate, or not one that names a node.
    pub fn parse(der: &[u8]) -> Result<Self, NameError> {
        let (_, certificate) =
            x509_parser::parse_x509_certificate(der).map_err(|_| NameError::NotACertificate)?;
        let san = certificate.subject_alternative_name().ok().flatten().ok_or(NameError::NoNode)?;
        let mut names = san.value.general_names.iter();
        let (Some(GeneralName::URI(uri)), None) = (names.next(), names.next()) else {
            return Err(NameError::NoNode);
        };
        let name = NodeName::parse(uri).ok_or(NameError::NoNode)?;
        let validity = certificate.validity();
        let not_before = validity.not_before.timestamp();
        let made_at = not_before.saturating_add(BACKDATED_SECONDS).saturating_mul(1000);
        let text = |attribute: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
            attribute.and_then(|one| one.as_str().ok()).map(str::to_owned)
        };
        let subject = certificate.subject();
        let number = text(subject.iter_by_oid(&OID_X509_SERIALNUMBER).next());
        let enrolled = Enrolled {
            role: text(subject.iter_organizational_unit().next()).unwrap_or_default(),
            at: number.and_then(|number| number.parse().ok()).unwrap_or(made_at),
        };
        Ok(Self { name, enrolled, not_before, not_after: validity.not_after.timestamp() })
    }

    /// Whether it is in its life at `now` (seconds since the Unix epoch).
    #[must_use]
    pub const fn is_valid_at(&self, now: i64) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// When two thirds of its life are over (seconds since the Unix epoch).
    #[must_use]
    pub const fn renew_at(&self) -> i64 {
        let life = self.not_after.saturating_sub(self.not_before);
        self.not_after.saturating_sub(life / 3)
    }
}

/// When a certificate ends, seconds since the Unix epoch.
///
/// # Errors
/// If it is not an X.509 certificate.
pub fn not_after(der: &[u8]) -> Result<i64, NameError> {
    let (_, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|_| NameError::NotACertificate)?;
    Ok(certificate.validity().not_after.timestamp())
}

/// The crypto that both ends use, whatever the process default is.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A set of trust anchors.
///
/// # Errors
/// The first certificate that cannot be one; an empty set.
pub fn root_store<'a>(roots: impl IntoIterator<Item = &'a [u8]>) -> Result<RootCertStore, rustls::Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(CertificateDer::from(root.to_vec()))?;
    }
    if store.is_empty() {
        return Err(rustls::Error::General("the set of trusted authorities is empty".into()));
    }
    Ok(store)
}

/// Whether a controller's `chain` (leaf first) would be trusted under `roots` at `now`.
#[must_use]
pub fn trusts_controller(
    roots: RootCertStore,
    cell: &str,
    chain: &[CertificateDer<'static>],
    now: UnixTime,
) -> bool {
    let Some((leaf, rest)) = chain.split_first() else { return false };
    let Ok(name) = ServerName::try_from(controller_name(cell)) else { return false };
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .is_ok_and(|verifier| verifier.verify_server_cert(leaf, rest, &name, &[], now).is_ok())
}

/// Trusts the authority with one fingerprint, shown by the server itself, and only controllers that it certified.
///
/// For enrolment, when a fingerprint from the join token is all that a node knows.
#[derive(Debug)]
pub struct PinnedVerifier {
    pin: Fingerprint,
    provider: Arc<CryptoProvider>,
    seen: OnceLock<Pinned>,
}

/// What a [`PinnedVerifier`] found in the server's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pinned {
    /// The authority was there and had certified a controller of this cell.
    Cell(String),
    /// No certificate of the chain has the fingerprint; the last one of the chain has this one.
    Other(Fingerprint),
}

impl PinnedVerifier {
    /// Pins `pin`.
    #[must_use]
    pub fn new(pin: Fingerprint) -> Self {
        Self { pin, provider: provider(), seen: OnceLock::new() }
    }

    /// What the handshake showed; `None` before one.
    #[must_use]
    pub fn seen(&self) -> Option<&Pinned> {
        self.seen.get()
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = rest.iter().find(|der| Fingerprint::of(der) == self.pin) else {
            let last = Fingerprint::of(rest.last().unwrap_or(leaf));
            let _ = self.seen.set(Pinned::Other(last));
            return Err(rustls::Error::General(format!(
                "no certificate of the server has the pinned SHA-256 {}; its authority has {last}",
                self.pin
            )));
        };
        let cell = controller_cell(leaf).ok_or_else(|| {
            rustls::Error::General(format!(
                "the server is not a controller: its certificate has no DNS name controller.<cell>.{DOMAIN}"
            ))
        })?;
        let name = ServerName::try_from(controller_name(&cell))
            .map_err(|e| rustls::Error::General(format!("controller name: {e}")))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(root_store([authority.as_ref()])?),
            Arc::clone(&self.provider),
        )
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
        let verified = verifier.verify_server_cert(leaf, rest, &name, ocsp, now)?;
        let _ = self.seen.set(Pinned::Cell(cell));
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn controller_cell(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let san = certificate.subject_alternative_name().ok().flatten()?;
    san.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(dns) => cell_of_controller(dns).map(str::to_owned),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_survive_the_round_trip_and_nothing_else_parses() {
        let name = NodeName::new("cell-7", "4d7c5c0e-5a0e-4b6e-9d57-2f6f5c0f9a11").unwrap();
        assert_eq!(NodeName::parse(&name.uri()), Some(name));
        for bad in [
            "",
            "spiffe://cell-7.hosting.internal/node/",
            "spiffe://cell-7.hosting.internal/node/a/b",
            "spiffe://cell-7.hosting.internal/node/..",
            "spiffe://cell-7.hosting.internal/node/a%2fb",
            "spiffe://cell-7.hosting.internal.evil.example/node/a",
            "spiffe://a.b.hosting.internal/node/a",
            "spiffe://.hosting.internal/node/a",
            "spiffe://cell-7hosting.internal/node/a",
            "spiffe://cell-7.hosting.internal/controller",
            "https://cell-7.hosting.internal/node/a",
        ] {
            assert_eq!(NodeName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn renewal_is_due_at_two_thirds_of_the_life() {
        let name = NodeName::new("c", "n").unwrap();
        let enrolled = Enrolled { role: String::new(), at: 0 };
        let certificate = NodeCertificate { name, enrolled, not_before: 1_000, not_after: 4_000 };
        assert_eq!(certificate.renew_at(), 3_000);
        assert!(certificate.is_valid_at(4_000));
        assert!(!certificate.is_valid_at(4_001));
        assert!(!certificate.is_valid_at(999));
    }

    #[test]
    fn rubbish_is_not_a_certificate() {
        assert_eq!(NodeCertificate::parse(b""), Err(NameError::NotACertificate));
        assert_eq!(NodeCertificate::parse(&[0x30, 0x82, 0xff, 0xff, 0]), Err(NameError::NotACertificate));
        assert!(root_store([]).is_err());
        assert!(root_store([b"x".as_slice()]).is_err());
    }
}
