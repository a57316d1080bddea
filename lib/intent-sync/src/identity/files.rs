//! The files of an identity: credential, trust, the key of an enrolment under way, and the lock.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hosting_scaffold::file::{read_private, write_private};
use pem::{EncodeConfig, LineEnding, Pem, encode_config};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{IdentityError, crypto, io_error};
use crate::tls::{self, NodeCertificate};

/// Of PEM files: as every other file of ours.
const LINES: EncodeConfig = EncodeConfig::new().set_line_ending(LineEnding::LF);
pub(super) const CREDENTIAL: &str = "credential.pem";
pub(super) const TRUST: &str = "trust.json";
pub(super) const PENDING_KEY: &str = "pending-key.pem";
pub(super) const LOCK: &str = "identity.lock";
/// A credential or trust file beyond this is not ours.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What is trusted, and where to connect. No secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trust {
    /// DER, base64url.
    pub(super) roots: Vec<String>,
    /// Which feed position the roots were taken from; empty and 0 if they came with a credential.
    #[serde(default)]
    pub(super) epoch: String,
    #[serde(default)]
    pub(super) revision: u64,
    pub(super) audiences: Vec<String>,
    pub(super) controllers: Vec<String>,
}

impl Trust {
    pub(super) fn roots_der(&self) -> Vec<Vec<u8>> {
        self.roots.iter().filter_map(|root| URL_SAFE_NO_PAD.decode(root).ok()).collect()
    }
}

pub(super) struct State {
    pub(super) key: Zeroizing<Vec<u8>>,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) certificate: NodeCertificate,
    pub(super) trust: Trust,
}

pub(super) fn is_for_key(leaf: &CertificateDer<'_>, key: &rcgen::KeyPair) -> bool {
    use rcgen::PublicKeyData as _;
    x509_parser::parse_x509_certificate(leaf)
        .is_ok_and(|(_, certificate)| certificate.public_key().subject_public_key.data == key.der_bytes())
}

pub(super) fn prepare_dir(dir: &Path) -> Result<File, IdentityError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| io_error(dir, source))?;
    let path = dir.join(LOCK);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| io_error(&path, source))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(IdentityError::InUse { dir: dir.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(io_error(&path, source)),
    }
}

pub(super) fn load(dir: &Path) -> Result<Option<State>, IdentityError> {
    let path = dir.join(CREDENTIAL);
    let Some(pem) = read(&path)? else { return Ok(None) };
    let corrupt = |what: String| IdentityError::Corrupt { path: path.clone(), what };
    let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|e| corrupt(format!("private key: {e}")))?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| corrupt(format!("certificate: {e}")))?;
    let leaf = chain.first().ok_or_else(|| corrupt("no certificate in it".into()))?;
    let certificate = NodeCertificate::parse(leaf).map_err(|e| corrupt(e.to_string()))?;
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|e| corrupt(format!("private key: {e}")))?;
    if !is_for_key(leaf, &pair) {
        return Err(corrupt("key and certificate do not belong together".into()));
    }
    let path = dir.join(TRUST);
    let corrupt = |what: String| IdentityError::Corrupt { path: path.clone(), what };
    let json = read(&path)?.ok_or_else(|| corrupt("the file is missing".into()))?;
    let trust: Trust = serde_json::from_slice(&json).map_err(|e| corrupt(e.to_string()))?;
    tls::root_store(trust.roots_der().iter().map(Vec::as_slice)).map_err(|e| corrupt(e.to_string()))?;
    Ok(Some(State { key: Zeroizing::new(key.secret_pkcs8_der().to_vec()), chain, certificate, trust }))
}

/// The key of this enrolment: the one of an attempt whose answer was lost, or a new one.
pub(super) fn pending_key(dir: &Path) -> Result<rcgen::KeyPair, IdentityError> {
    let path = dir.join(PENDING_KEY);
    if let Some(pem) = read(&path)? {
        let found = PrivatePkcs8KeyDer::from_pem_slice(&pem).ok().and_then(|der| {
            rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).ok()
        });
        if let Some(key) = found {
            return Ok(key);
        }
    }
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(crypto)?;
    write(&path, Zeroizing::new(key.serialize_pem()).as_bytes())?;
    Ok(key)
}

pub(super) fn save_trust(dir: &Path, trust: &Trust) -> Result<(), IdentityError> {
    let json = serde_json::to_vec_pretty(trust).map_err(crypto)?;
    write(&dir.join(TRUST), &json)
}

pub(super) fn save_credential(dir: &Path, state: &State) -> Result<(), IdentityError> {
    let key = Pem::new("PRIVATE KEY", state.key.as_slice());
    let mut text = Zeroizing::new(encode_config(&key, LINES));
    // The copy of the key goes as the key does.
    drop(Zeroizing::new(key.into_contents()));
    for certificate in &state.chain {
        text.push_str(&encode_config(&Pem::new("CERTIFICATE", certificate.as_ref()), LINES));
    }
    write(&dir.join(CREDENTIAL), text.as_bytes())
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    write_private(path, bytes).map_err(|source| io_error(path, source))
}

pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
    let bytes = read_private(path, MAX_FILE_BYTES).map_err(|source| io_error(path, source))?;
    Ok(bytes.map(Zeroizing::new))
}
