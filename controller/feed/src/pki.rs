//! The cell's certificate authorities: what they certify, how they are kept and how one follows another.
//!
//! A cell trusts a set of authorities and issues from one of them. Rotation has three steps, each an operator's: add a root
//! (it is trusted, and spread in the feed and in credentials), promote it (it issues), retire the old one (it is no longer
//! trusted). A promoted root is also certified by the one before, so that a node that slept through the rotation still
//! trusts the controller. Private keys exist sealed, or inside this module. Called by the controller at its start and by
//! [`crate::server`].

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hosting_intent_sync::tls::{self, BACKDATED_SECONDS, Enrolled, Fingerprint, NameError, NodeName};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Shortest life of a node's certificate.
pub const MIN_NODE_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Longest life of a node's certificate.
pub const MAX_NODE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long after its end a certificate may still renew.
pub const RENEW_GRACE: Duration =
    Duration::from_secs(hosting_intent_sync::identity::RENEW_GRACE_SECONDS.unsigned_abs());
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const SERVER_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
const SKEW: Duration = Duration::from_secs(BACKDATED_SECONDS.unsigned_abs());
/// More than two are a rotation on top of a rotation; more than this is a mistake.
const MAX_AUTHORITIES: usize = 4;

/// Protects private keys at rest. The controller's key-encryption key is behind it.
pub trait Seal: Send + Sync {
    /// Encrypts and authenticates.
    ///
    /// # Errors
    /// What the key's keeper says.
    fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, SealError>;

    /// The inverse of [`Seal::seal`].
    ///
    /// # Errors
    /// Another key, or changed bytes.
    fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError>;
}

/// Sealing or opening failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SealError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// For secrets that are sealed as a whole elsewhere.
struct Unsealed;

impl Seal for Unsealed {
    fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        Ok(plain.to_vec())
    }

    fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        Ok(Zeroizing::new(sealed.to_vec()))
    }
}

/// Why the authorities cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A cell or node id that cannot stand in a certificate.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The stored form cannot be read.
    #[error("the stored certificate authorities cannot be read: {0}")]
    Stored(String),
    /// Sealing or opening a private key failed.
    #[error("the key of certificate authority {fingerprint}: {source}; is it the right key-encryption key?")]
    Seal {
        /// Which.
        fingerprint: Fingerprint,
        /// Why.
        source: SealError,
    },
    /// The certificate request is not acceptable.
    #[error("certificate request: {0}")]
    Request(String),
    /// No authority has this fingerprint.
    #[error("no certificate authority has the SHA-256 {0}")]
    Unknown(Fingerprint),
    /// The authority that issues cannot be retired.
    #[error("certificate authority {0} issues now; promote another one first")]
    Issues(Fingerprint),
    /// Too many roots at once.
    #[error("{MAX_AUTHORITIES} certificate authorities are trusted already; retire one first")]
    TooMany,
    /// A life outside the allowed range.
    #[error("certificate life {0:?}: 24 hours to 30 days are allowed")]
    Life(Duration),
    /// The crypto library failed.
    #[error("certificate: {0}")]
    Crypto(#[from] rcgen::Error),
}

#[derive(Clone)]
struct Authority {
    der: CertificateDer<'static>,
    /// This authority's key, certified by the one before it.
    cross: Option<CertificateDer<'static>>,
    key: Zeroizing<Vec<u8>>,
}

impl Authority {
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, PkiError> {
        let key = KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(self.key.as_slice()),
            &rcgen::PKCS_ECDSA_P256_SHA256,
        )?;
        Ok(Issuer::from_ca_cert_der(&self.der, key)?)
    }
}

/// The authorities of a cell, with their keys. Debug output shows none of them.
#[derive(Clone)]
pub struct Authorities {
    cell: String,
    members: Vec<Authority>,
    issuing: usize,
    /// Seconds since the Unix epoch; 0 in a store of a build that did not note it.
    issuing_since: i64,
}

impl std::fmt::Debug for Authorities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorities")
            .field("cell", &self.cell)
            .field("roots", &self.fingerprints())
            .field("issuing", &self.issuing)
            .finish()
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    cell: String,
    issuing: usize,
    #[serde(default)]
    issuing_since: i64,
    authorities: Vec<StoredAuthority>,
}

#[derive(Serialize, Deserialize)]
struct StoredAuthority {
    certificate: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cross: Option<String>,
    sealed_key: String,
}

/// What a controller shows to nodes.
pub struct ServerCertificate {
    /// Leaf, then certificates that lead to each root, then the roots, for those that know only a fingerprint.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
}

impl Authorities {
    /// A new cell's first authority. `now` in seconds since the Unix epoch.
    ///
    /// # Errors
    /// [`PkiError::Name`] for a cell id that cannot stand in a certificate.
    pub fn create(cell: &str, now: i64) -> Result<Self, PkiError> {
        tls::check_cell(cell)?;
        let first = new_authority(cell, now, None)?;
        Ok(Self { cell: cell.to_owned(), members: vec![first], issuing: 0, issuing_since: now })
    }

    /// Reads what [`Authorities::to_sealed`] wrote.
    ///
    /// # Errors
    /// [`PkiError::Stored`]; [`PkiError::Seal`] with another key-encryption key.
    pub fn from_sealed(bytes: &[u8], seal: &dyn Seal) -> Result<Self, PkiError> {
        let wrong = |what: &str| PkiError::Stored(what.to_owned());
        let mut stored: Stored =
            serde_json::from_slice(bytes).map_err(|e| PkiError::Stored(e.to_string()))?;
        tls::check_cell(&stored.cell)?;
        let mut members = Vec::new();
        for authority in std::mem::take(&mut stored.authorities) {
            let der = |text: String| STANDARD.decode(text).map_err(|_| wrong("a field is not base64"));
            let certificate = CertificateDer::from(der(authority.certificate)?);
            let fingerprint = Fingerprint::of(&certificate);
            let key = seal
                .open(&der(authority.sealed_key)?)
                .map_err(|source| PkiError::Seal { fingerprint, source })?;
            let cross = authority.cross.map(der).transpose()?.map(CertificateDer::from);
            let member = Authority { der: certificate, cross, key };
            member.issuer()?;
            members.push(member);
        }
        if stored.issuing >= members.len() {
            return Err(wrong("no authority issues"));
        }
        let Stored { cell, issuing, issuing_since, .. } = stored;
        Ok(Self { cell, members, issuing, issuing_since })
    }

    /// The form to store: certificates in clear, keys sealed.
    ///
    /// # Errors
    /// [`PkiError::Seal`].
    pub fn to_sealed(&self, seal: &dyn Seal) -> Result<Vec<u8>, PkiError> {
        let mut authorities = Vec::new();
        for member in &self.members {
            let fingerprint = member.fingerprint();
            let sealed = seal.seal(&member.key).map_err(|source| PkiError::Seal { fingerprint, source })?;
            authorities.push(StoredAuthority {
                certificate: STANDARD.encode(&member.der),
                cross: member.cross.as_ref().map(|der| STANDARD.encode(der)),
                sealed_key: STANDARD.encode(sealed),
            });
        }
        let stored = Stored {
            cell: self.cell.clone(),
            issuing: self.issuing,
            issuing_since: self.issuing_since,
            authorities,
        };
        serde_json::to_vec(&stored).map_err(|e| PkiError::Stored(e.to_string()))
    }

    /// The form to hand to a store that seals whole secrets itself: the keys are in it in clear.
    ///
    /// # Errors
    /// [`PkiError::Stored`].
    pub fn to_secret(&self) -> Result<Zeroizing<Vec<u8>>, PkiError> {
        self.to_sealed(&Unsealed).map(Zeroizing::new)
    }

    /// The inverse of [`Authorities::to_secret`].
    ///
    /// # Errors
    /// [`PkiError::Stored`].
    pub fn from_secret(bytes: &[u8]) -> Result<Self, PkiError> {
        Self::from_sealed(bytes, &Unsealed)
    }

    /// The cell's id.
    #[must_use]
    pub fn cell(&self) -> &str {
        &self.cell
    }

    /// All trusted authorities, DER, oldest first: the value of the `TrustRoots` intent and of credentials.
    #[must_use]
    pub fn roots_der(&self) -> Vec<Vec<u8>> {
        self.members.iter().map(|member| member.der.to_vec()).collect()
    }

    /// All trusted authorities, oldest first.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.members.iter().map(Authority::fingerprint).collect()
    }

    /// The authority that issues; join tokens name it.
    #[must_use]
    pub fn issuing(&self) -> Fingerprint {
        self.issuer_member().map_or(Fingerprint([0; 32]), Authority::fingerprint)
    }

    /// Since when it does, in seconds since the Unix epoch; 0 when that is not known.
    #[must_use]
    pub const fn issuing_since(&self) -> i64 {
        self.issuing_since
    }

    /// First step of a rotation: a new authority that is trusted and does not issue yet.
    ///
    /// # Errors
    /// [`PkiError::TooMany`].
    pub fn add(&mut self, now: i64) -> Result<Fingerprint, PkiError> {
        if self.members.len() >= MAX_AUTHORITIES {
            return Err(PkiError::TooMany);
        }
        let before = self.issuer_member()?.issuer()?;
        let new = new_authority(&self.cell, now, Some(&before))?;
        let fingerprint = new.fingerprint();
        self.members.push(new);
        Ok(fingerprint)
    }

    /// Second step: `fingerprint` issues from `now` on, in seconds since the Unix epoch. The caller makes sure that the fleet has applied the `TrustRoots` with
    /// it before ([`crate::fleet::Fleet::lagging`] is empty for its revision).
    ///
    /// # Errors
    /// [`PkiError::Unknown`].
    pub fn promote(&mut self, fingerprint: Fingerprint, now: i64) -> Result<(), PkiError> {
        let position = self.position(fingerprint)?;
        if position != self.issuing {
            (self.issuing, self.issuing_since) = (position, now);
        }
        Ok(())
    }

    /// Last step: `fingerprint` is no longer trusted. Nodes that have not renewed since the promotion must enrol again.
    ///
    /// # Errors
    /// [`PkiError::Unknown`], [`PkiError::Issues`].
    pub fn retire(&mut self, fingerprint: Fingerprint) -> Result<(), PkiError> {
        let position = self.position(fingerprint)?;
        if position == self.issuing {
            return Err(PkiError::Issues(fingerprint));
        }
        self.members.remove(position);
        if position < self.issuing {
            self.issuing -= 1;
        }
        // What the retired one certified leads nowhere now.
        if let Some(first) = self.members.first_mut() {
            first.cross = None;
        }
        Ok(())
    }

    /// Certifies that whoever holds the key of `csr_der` is `node_id`, by that enrolment. Nothing else of the request counts.
    ///
    /// # Errors
    /// [`PkiError::Request`] if the request is no proof of possession or its key is too weak, [`PkiError::Life`],
    /// [`PkiError::Name`].
    pub fn issue_node(
        &self,
        node_id: &str,
        enrolled: &Enrolled,
        csr_der: &[u8],
        life: Duration,
        now: i64,
    ) -> Result<CertificateDer<'static>, PkiError> {
        if !(MIN_NODE_LIFE..=MAX_NODE_LIFE).contains(&life) {
            return Err(PkiError::Life(life));
        }
        let not_before = now.saturating_sub(seconds(SKEW));
        let not_after = now.saturating_add(seconds(life));
        self.issue_node_between(node_id, Some(enrolled), csr_der, not_before, not_after)
    }

    /// [`Authorities::issue_node`] with a life of the caller's choice, and perhaps without a word of the enrolment, as older
    /// builds made them: for tests.
    ///
    /// # Errors
    /// As [`Authorities::issue_node`].
    pub fn issue_node_between(
        &self,
        node_id: &str,
        enrolled: Option<&Enrolled>,
        csr_der: &[u8],
        not_before: i64,
        not_after: i64,
    ) -> Result<CertificateDer<'static>, PkiError> {
        let name = NodeName::new(self.cell.as_str(), node_id)?;
        let request = parse_csr(csr_der)?;
        let mut params = leaf_params(node_id, not_before, not_after);
        if let Some(Enrolled { role, at }) = enrolled {
            if !role.is_empty() {
                params.distinguished_name.push(DnType::OrganizationalUnitName, role.as_str());
            }
            // `serialNumber` (X.520 §6.2.9).
            params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), at.to_string());
        }
        params.subject_alt_names = vec![SanType::URI(name.uri().try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let issuer = self.issuer_member()?.issuer()?;
        Ok(params.signed_by(&request.public_key, &issuer)?.der().clone())
    }

    /// A fresh certificate and key for a controller.
    ///
    /// # Errors
    /// [`PkiError::Crypto`].
    pub fn issue_server(&self, now: i64) -> Result<ServerCertificate, PkiError> {
        let not_after = now.saturating_add(seconds(SERVER_LIFE));
        let mut params = leaf_params("controller", now.saturating_sub(seconds(SKEW)), not_after);
        params.subject_alt_names = vec![SanType::DnsName(tls::controller_name(&self.cell).try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let leaf = params.signed_by(&key, &self.issuer_member()?.issuer()?)?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.members.iter().filter_map(|member| member.cross.clone()));
        chain.extend(self.members.iter().map(|member| member.der.clone()));
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(ServerCertificate { chain, key, not_after })
    }

    fn position(&self, fingerprint: Fingerprint) -> Result<usize, PkiError> {
        self.members
            .iter()
            .position(|member| member.fingerprint() == fingerprint)
            .ok_or(PkiError::Unknown(fingerprint))
    }

    fn issuer_member(&self) -> Result<&Authority, PkiError> {
        self.members.get(self.issuing).ok_or_else(|| PkiError::Stored("no authority issues".into()))
    }
}

/// SHA-256 of the public key in a certificate request that proves possession of it.
///
/// # Errors
/// [`PkiError::Request`].
pub fn request_key(csr_der: &[u8]) -> Result<[u8; 32], PkiError> {
    use rcgen::PublicKeyData as _;
    let request = parse_csr(csr_der)?;
    Ok(Fingerprint::of(&request.public_key.subject_public_key_info()).0)
}

fn parse_csr(der: &[u8]) -> Result<CertificateSigningRequestParams, PkiError> {
    let der = CertificateSigningRequestDer::from(der);
    // Checks the signature: whoever asks has the key.
    let request =
        CertificateSigningRequestParams::from_der(&der).map_err(|e| PkiError::Request(e.to_string()))?;
    let algorithm = request.public_key.algorithm();
    if [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
        .contains(&algorithm)
    {
        Ok(request)
    } else {
        Err(PkiError::Request(format!("{algorithm:?} keys are not taken; use ECDSA P-256")))
    }
}

fn new_authority(
    cell: &str,
    now: i64,
    before: Option<&Issuer<'static, KeyPair>>,
) -> Result<Authority, PkiError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let serial = rand::random::<[u8; 16]>();
    let mut params =
        leaf_params("", now.saturating_sub(seconds(SKEW)), now.saturating_add(seconds(ROOT_LIFE)));
    params.distinguished_name = DistinguishedName::new();
    // The suffix keeps the names of successive roots apart, which path building goes by.
    params.distinguished_name.push(
        DnType::CommonName,
        format!("{cell} root {}", hex::encode(serial.first_chunk::<4>().unwrap_or(&[0; 4]))),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(positive(serial));
    let der = params.self_signed(&key)?.der().clone();
    params.serial_number = Some(positive(rand::random()));
    params.use_authority_key_identifier_extension = true;
    let cross = before.map(|before| params.signed_by(&key, before)).transpose()?;
    Ok(Authority {
        der,
        cross: cross.map(|certificate| certificate.der().clone()),
        key: Zeroizing::new(key.serialize_der()),
    })
}

fn leaf_params(common_name: &str, not_before: i64, not_after: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // A common name is limited to 64 characters (RFC 5280 appendix A); nobody reads it but people.
    params.distinguished_name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(not_before);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(not_after);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(positive(rand::random()));
    params
}

/// RFC 5280 §4.1.2.2: positive, at most 20 octets.
fn positive(mut serial: [u8; 16]) -> SerialNumber {
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    SerialNumber::from(serial.to_vec())
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn since_epoch(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hosting_intent_sync::tls::NodeCertificate;

    struct Xor(u8);

    impl Seal for Xor {
        fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, SealError> {
            Ok(plain.iter().map(|byte| byte ^ self.0).collect())
        }

        fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
            let plain: Vec<u8> = sealed.iter().map(|byte| byte ^ self.0).collect();
            if plain.first() == Some(&0x30) {
                Ok(Zeroizing::new(plain))
            } else {
                Err(SealError("wrong key".into()))
            }
        }
    }

    const NOW: i64 = 1_800_000_000;

    fn enrolled(role: &str) -> Enrolled {
        Enrolled { role: role.to_owned(), at: NOW * 1000 + 7 }
    }

    fn csr(key: &KeyPair) -> Vec<u8> {
        CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn a_node_certificate_says_the_node_and_nothing_of_the_request() {
        let authorities = Authorities::create("cell-1", NOW).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["controller.cell-1.hosting.internal".into()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let greedy = params.serialize_request(&key).unwrap().der().to_vec();
        let der = authorities.issue_node("node-1", &enrolled("web"), &greedy, MIN_NODE_LIFE, NOW).unwrap();
        let certificate = NodeCertificate::parse(&der).unwrap();
        assert_eq!(certificate.name, NodeName::new("cell-1", "node-1").unwrap());
        assert_eq!(certificate.enrolled, enrolled("web"));
        assert_eq!(certificate.not_after - NOW, 24 * 3600);
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert!(!parsed.is_ca());
        let eku = parsed.extended_key_usage().unwrap().unwrap();
        assert!(eku.value.client_auth && !eku.value.server_auth);
    }

    #[test]
    fn a_certificate_without_an_enrolment_is_as_old_as_itself_and_of_the_whole_node() {
        let authorities = Authorities::create("cell-1", NOW).unwrap();
        let request = csr(&KeyPair::generate().unwrap());
        let (from, to) = (NOW - seconds(SKEW), NOW + 86_400);
        let old = authorities.issue_node_between("n", None, &request, from, to).unwrap();
        let enrolled = Enrolled { role: String::new(), at: NOW * 1000 };
        assert_eq!(NodeCertificate::parse(&old).unwrap().enrolled, enrolled);
        let whole = Enrolled { at: 5, ..enrolled };
        let der = authorities.issue_node("n", &whole, &request, MIN_NODE_LIFE, NOW).unwrap();
        assert_eq!(NodeCertificate::parse(&der).unwrap().enrolled, whole);
    }

    #[test]
    fn requests_without_proof_of_possession_are_refused() {
        let authorities = Authorities::create("cell-1", NOW).unwrap();
        let good = csr(&KeyPair::generate().unwrap());
        let other = KeyPair::generate().unwrap();
        // Another key put in the place of the signed one.
        let own = KeyPair::generate().unwrap();
        let mut forged = csr(&own);
        let at = forged.windows(65).position(|w| w == own.public_key_raw()).unwrap();
        forged[at..at + 65].copy_from_slice(other.public_key_raw());
        let issue = |csr: &[u8]| authorities.issue_node("n", &enrolled(""), csr, MIN_NODE_LIFE, NOW);
        assert!(issue(&good).is_ok());
        assert!(matches!(issue(&forged), Err(PkiError::Request(_))));
        assert!(matches!(issue(b""), Err(PkiError::Request(_))));
        assert!(matches!(issue(&good[..good.len() - 1]), Err(PkiError::Request(_))));
        assert!(matches!(
            authorities.issue_node("../n", &enrolled(""), &good, MIN_NODE_LIFE, NOW),
            Err(PkiError::Name(_))
        ));
        let short = Duration::from_secs(60);
        assert!(matches!(
            authorities.issue_node("n", &enrolled(""), &good, short, NOW),
            Err(PkiError::Life(_))
        ));
        assert_ne!(request_key(&good).unwrap(), request_key(&csr(&other)).unwrap());
    }

    #[test]
    fn keys_are_stored_sealed_and_come_back_with_the_right_key_only() {
        let authorities = Authorities::create("cell-1", NOW).unwrap();
        let sealed = authorities.to_sealed(&Xor(0x55)).unwrap();
        let text = String::from_utf8(sealed.clone()).unwrap();
        assert!(!text.contains(&STANDARD.encode(&*authorities.members[0].key)));
        let back = Authorities::from_sealed(&sealed, &Xor(0x55)).unwrap();
        assert_eq!(back.roots_der(), authorities.roots_der());
        assert_eq!(back.issuing(), authorities.issuing());
        assert!(matches!(Authorities::from_sealed(&sealed, &Xor(0x56)), Err(PkiError::Seal { .. })));
        assert!(matches!(Authorities::from_sealed(b"{}", &Xor(0x55)), Err(PkiError::Stored(_))));
        assert!(!format!("{authorities:?}").contains("key"));
        let back = Authorities::from_secret(&authorities.to_secret().unwrap()).unwrap();
        assert_eq!((back.cell(), back.roots_der()), ("cell-1", authorities.roots_der()));
    }

    #[test]
    fn rotation_keeps_both_roots_until_the_old_one_is_retired() {
        let mut authorities = Authorities::create("cell-1", NOW).unwrap();
        let old = authorities.issuing();
        let new = authorities.add(NOW + 10).unwrap();
        assert_eq!(authorities.issuing(), old);
        assert_eq!(authorities.fingerprints(), [old, new]);
        assert!(matches!(authorities.retire(old), Err(PkiError::Issues(_))));
        authorities.promote(new, NOW + 15).unwrap();
        authorities.promote(new, NOW + 16).unwrap();
        assert_eq!((authorities.issuing(), authorities.issuing_since()), (new, NOW + 15));
        // Whoever knows one root only, whichever, still trusts a controller certified by the new one.
        let server = authorities.issue_server(NOW + 20).unwrap();
        let now = rustls::pki_types::UnixTime::since_unix_epoch(since_epoch(NOW + 30));
        for root in authorities.roots_der() {
            let store = tls::root_store([root.as_slice()]).unwrap();
            assert!(tls::trusts_controller(store, "cell-1", &server.chain, now));
        }
        let back = Authorities::from_sealed(&authorities.to_sealed(&Xor(1)).unwrap(), &Xor(1)).unwrap();
        assert_eq!((back.issue_server(NOW).unwrap().chain.len(), back.issuing_since()), (4, NOW + 15));
        authorities.retire(old).unwrap();
        assert_eq!(authorities.fingerprints(), [new]);
        assert_eq!(authorities.issuing(), new);
        assert_eq!(authorities.issue_server(NOW).unwrap().chain.len(), 2);
        assert!(matches!(authorities.retire(old), Err(PkiError::Unknown(_))));
        for _ in 0..3 {
            authorities.add(NOW).unwrap();
        }
        assert!(matches!(authorities.add(NOW), Err(PkiError::TooMany)));
    }

    #[test]
    fn another_cells_controller_is_not_trusted() {
        let authorities = Authorities::create("cell-1", NOW).unwrap();
        let server = authorities.issue_server(NOW).unwrap();
        let now = rustls::pki_types::UnixTime::since_unix_epoch(since_epoch(NOW));
        let store = || tls::root_store([authorities.roots_der()[0].as_slice()]).unwrap();
        assert!(tls::trusts_controller(store(), "cell-1", &server.chain, now));
        assert!(!tls::trusts_controller(store(), "cell-2", &server.chain, now));
        // A node's certificate does not make a controller.
        let request = csr(&KeyPair::generate().unwrap());
        let node = authorities.issue_node("n", &enrolled(""), &request, MIN_NODE_LIFE, NOW).unwrap();
        assert!(!tls::trusts_controller(store(), "cell-1", &[node], now));
        let other = Authorities::create("cell-1", NOW).unwrap();
        let foreign = tls::root_store([other.roots_der()[0].as_slice()]).unwrap();
        assert!(!tls::trusts_controller(foreign, "cell-1", &server.chain, now));
    }
}
