//! A certificate and its private key as they are kept while no handshake asks for them: bytes, the key sealed.
//!
//! The key is sealed anew under a key of this process, which nobody else has and which is never written anywhere: which versions of the
//! audience's key come and go then does not matter to what was applied, and no private key lies open in memory but those in use.

use std::hash::{Hash, Hasher};
use std::iter;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{AlgorithmIdentifier, CertificateDer, PrivateKeyDer, alg_id};
use zeroize::Zeroizing;

const TAG_BYTES: usize = 16;

/// Seals private keys for as long as this process lives.
#[derive(Debug)]
pub(crate) struct Vault(RandomizedNonceKey);

impl Vault {
    /// # Errors
    /// No random numbers to be had.
    pub(crate) fn new() -> Result<Self, Unspecified> {
        let mut bytes = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut *bytes)?;
        RandomizedNonceKey::new(&AES_256_GCM, &*bytes).map(Self)
    }

    /// Seals a key beside its certificate: it opens beside no other.
    fn seal(&self, leaf: &[u8], key: &[u8]) -> Result<Box<[u8]>, Unspecified> {
        let mut sealed = Vec::with_capacity(key.len() + TAG_BYTES + NONCE_LEN);
        sealed.extend_from_slice(key);
        let nonce = self.0.seal_in_place_append_tag(Aad::from(leaf), &mut sealed)?;
        sealed.extend_from_slice(nonce.as_ref());
        Ok(sealed.into())
    }

    fn open(&self, leaf: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
        let (body, nonce) = sealed.split_last_chunk::<NONCE_LEN>().ok_or(Unspecified)?;
        let mut body = Zeroizing::new(body.to_vec());
        let opened = self.0.open_in_place(Nonce::from(nonce), Aad::from(leaf), &mut body)?.len();
        body.truncate(opened);
        Ok(body)
    }
}

/// What a key signs with, as far as clients differ in what they can verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    P256,
    P384,
    P521,
    Ed25519,
    Rsa,
    /// One that this build cannot tell.
    Other,
}

impl KeyKind {
    fn of(leaf: &CertificateDer<'_>) -> Self {
        let known: [(AlgorithmIdentifier, Self); 5] = [
            (alg_id::ECDSA_P256, Self::P256),
            (alg_id::ECDSA_P384, Self::P384),
            (alg_id::ECDSA_P521, Self::P521),
            (alg_id::ED25519, Self::Ed25519),
            (alg_id::RSA_ENCRYPTION, Self::Rsa),
        ];
        let Ok(parsed) = ParsedCertificate::try_from(leaf) else { return Self::Other };
        let public_key = parsed.subject_public_key_info();
        // Two headers of at most four bytes stand before the algorithm (RFC 5280 §4.1).
        let is = |id: &[u8]| (0..=8).any(|at| public_key.get(at..).is_some_and(|rest| rest.starts_with(id)));
        known.into_iter().find(|(id, _)| is(id.as_ref())).map_or(Self::Other, |(_, kind)| kind)
    }

    const fn can_sign(self, scheme: SignatureScheme) -> bool {
        use SignatureScheme as Scheme;
        matches!(
            (self, scheme),
            (Self::P256, Scheme::ECDSA_NISTP256_SHA256)
                | (Self::P384, Scheme::ECDSA_NISTP384_SHA384)
                | (Self::P521, Scheme::ECDSA_NISTP521_SHA512)
                | (Self::Ed25519, Scheme::ED25519)
                | (
                    Self::Rsa,
                    Scheme::RSA_PKCS1_SHA256
                        | Scheme::RSA_PKCS1_SHA384
                        | Scheme::RSA_PKCS1_SHA512
                        | Scheme::RSA_PSS_SHA256
                        | Scheme::RSA_PSS_SHA384
                        | Scheme::RSA_PSS_SHA512,
                )
        )
    }
}

/// Certificates above the leaf, as the leaf's owner brought them.
pub(crate) type Above = Arc<[CertificateDer<'static>]>;

/// A certificate with its key.
#[derive(Debug)]
pub(crate) struct Pair {
    leaf: Box<[u8]>,
    above: Above,
    key: Box<[u8]>,
    kind: KeyKind,
    /// Tells it from every other one of this process.
    pub(crate) number: u64,
}

/// Certificates that are alike have keys that are: each was shown to belong to its certificate.
impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.leaf == other.leaf && self.above == other.above
    }
}

impl Eq for Pair {}

impl Hash for Pair {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.leaf.hash(state);
    }
}

impl Pair {
    /// Of a key that was shown to belong to the leaf.
    ///
    /// # Errors
    /// No random numbers to be had.
    pub(crate) fn new(
        vault: &Vault,
        leaf: &CertificateDer<'_>,
        above: Above,
        key: &PrivateKeyDer<'_>,
        number: u64,
    ) -> Result<Self, Unspecified> {
        let sealed = vault.seal(leaf, key.secret_der())?;
        Ok(Self { leaf: leaf.as_ref().into(), above, key: sealed, kind: KeyKind::of(leaf), number })
    }

    pub(crate) fn leaf(&self) -> &[u8] {
        &self.leaf
    }

    pub(crate) const fn above(&self) -> &Above {
        &self.above
    }

    /// Whether a client that takes these signatures can verify this one's.
    pub(crate) fn is_for(&self, schemes: &[SignatureScheme]) -> bool {
        schemes.iter().any(|scheme| self.kind.can_sign(*scheme))
    }

    /// Whether it takes much longer to sign than with a key on a curve.
    pub(crate) fn is_slow(&self) -> bool {
        self.kind == KeyKind::Rsa
    }

    /// As handshakes use it. `None`: not sealed by this process for this leaf.
    pub(crate) fn open(&self, vault: &Vault) -> Option<CertifiedKey> {
        let key = vault.open(&self.leaf, &self.key).ok()?;
        let key = any_supported_type(&PrivateKeyDer::try_from(key.as_slice()).ok()?).ok()?;
        let chain = iter::once(CertificateDer::from(self.leaf.to_vec())).chain(self.above.iter().cloned());
        Some(CertifiedKey::new(chain.collect(), key))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pair(vault: &Vault, algorithm: &'static rcgen::SignatureAlgorithm) -> (Pair, Vec<u8>) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate =
            CertificateParams::new(vec!["a.example".into()]).unwrap().self_signed(&key).unwrap();
        let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (Pair::new(vault, certificate.der(), Arc::default(), &der, 1).unwrap(), key.serialize_der())
    }

    #[test]
    fn a_key_is_kept_sealed_and_opens_beside_its_certificate_only() {
        let vault = Vault::new().unwrap();
        let (mut one, plain) = pair(&vault, &rcgen::PKCS_ECDSA_P256_SHA256);
        let opened = one.open(&vault).unwrap();
        assert_eq!(opened.cert, [CertificateDer::from(one.leaf().to_vec())]);
        assert_eq!(opened.keys_match(), Ok(()));
        assert!(!one.key.windows(16).any(|part| plain.windows(16).any(|secret| secret == part)));
        assert!(one.open(&Vault::new().unwrap()).is_none(), "another process");
        let (other, _) = pair(&vault, &rcgen::PKCS_ECDSA_P256_SHA256);
        one.key = other.key;
        assert!(one.open(&vault).is_none(), "another certificate's key");
        one.key = Box::default();
        assert!(one.open(&vault).is_none());
    }

    #[test]
    fn each_kind_of_key_is_told_and_is_for_whom_its_signatures_are() {
        let vault = Vault::new().unwrap();
        let all = rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes();
        for (algorithm, kind) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, KeyKind::P256),
            (&rcgen::PKCS_ECDSA_P384_SHA384, KeyKind::P384),
            (&rcgen::PKCS_ECDSA_P521_SHA512, KeyKind::P521),
            (&rcgen::PKCS_ED25519, KeyKind::Ed25519),
            (&rcgen::PKCS_RSA_SHA256, KeyKind::Rsa),
        ] {
            let (pair, _) = pair(&vault, algorithm);
            assert_eq!((pair.kind, pair.is_slow()), (kind, kind == KeyKind::Rsa));
            // As the key itself says.
            let key = pair.open(&vault).unwrap().key;
            for scheme in &all {
                let offered = [*scheme];
                assert_eq!(
                    pair.is_for(&offered),
                    key.choose_scheme(&offered).is_some(),
                    "{kind:?} {scheme:?}"
                );
            }
            assert!(pair.is_for(&all) && !pair.is_for(&[]));
        }
        assert_eq!(KeyKind::of(&CertificateDer::from(vec![1, 2, 3])), KeyKind::Other);
    }
}
