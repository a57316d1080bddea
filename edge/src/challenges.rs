//! What certificate authorities find at a name while an order for it is under way: over HTTP a text (RFC 8555 §8.3), over TLS a certificate
//! with its digest (RFC 8737). Whatever else is said of the name, a route or not, does not matter to them.

use std::sync::{Arc, OnceLock};

use hosting_edge_http1::Request;
use hosting_intent::message as m;
use hosting_swap_map::SwapMap;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use sha2::{Digest, Sha256};

use crate::client_hello::with_name;

/// What an authority negotiates that looks over TLS (RFC 8737 §6.2).
pub(crate) const ALPN: &[u8] = b"acme-tls/1";
/// The folder that an authority asks for a file of over HTTP.
const FOLDER: &[u8] = b"/.well-known/acme-challenge/";

#[derive(Debug)]
struct Challenge {
    token: Box<str>,
    key_authorization: Arc<str>,
    /// Made when it is asked for first.
    certificate: OnceLock<Option<Arc<CertifiedKey>>>,
}

/// Challenges by host.
#[derive(Debug, Default)]
pub(crate) struct Challenges(SwapMap<Arc<str>, Arc<Challenge>>);

impl Challenges {
    /// Answers from now on.
    pub(crate) fn put(&self, host: &str, challenge: &m::AcmeChallenge) {
        let challenge = Challenge {
            token: challenge.token.as_str().into(),
            key_authorization: challenge.key_authorization.as_str().into(),
            certificate: OnceLock::new(),
        };
        self.0.insert(host.into(), Arc::new(challenge));
    }

    /// Answers no more.
    pub(crate) fn remove(&self, host: &str) {
        self.0.remove(host.into());
    }

    /// Whether a request is for a file in the folder of challenges. What is none of ours there is the site's.
    pub(crate) fn may_be_asked(request: &Request) -> bool {
        request.head().target().starts_with(FOLDER)
    }

    /// The text that a request for a host asks for.
    pub(crate) fn answer(&self, host: &str, request: &Request) -> Option<Arc<str>> {
        let head = request.head();
        let token = head.target().strip_prefix(FOLDER)?;
        let challenge = self.0.get(host)?;
        let is_asked = matches!(head.method(), b"GET" | b"HEAD") && *token == *challenge.token.as_bytes();
        is_asked.then(|| Arc::clone(&challenge.key_authorization))
    }

    /// What is answered for a host, for the edge's own checks.
    pub(crate) fn key_authorization(&self, host: &str) -> Option<Arc<str>> {
        self.0.read(host, |challenge| Arc::clone(&challenge.key_authorization))
    }

    fn certificate(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let challenge = self.0.get(host)?;
        challenge.certificate.get_or_init(|| certificate(host, &challenge.key_authorization)).clone()
    }
}

/// Signed by its own key, for this host alone, with the digest in the extension that the authority looks for (RFC 8737 §3).
fn certificate(host: &str, key_authorization: &str) -> Option<Arc<CertifiedKey>> {
    let made = || {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params.custom_extensions =
            vec![CustomExtension::new_acme_identifier(&Sha256::digest(key_authorization))];
        Ok::<_, rcgen::Error>((params.self_signed(&key)?, key))
    };
    let (certificate, key) =
        made().inspect_err(|error| tracing::error!(%error, host, "no certificate for a challenge")).ok()?;
    let der = PrivateKeyDer::try_from(key.serialize_der()).ok()?;
    // Unchecked: whoever checks that key and certificate belong together stumbles over an extension that he must know and does not.
    Some(Arc::new(CertifiedKey::new(vec![certificate.into()], any_supported_type(&der).ok()?)))
}

/// Shows the certificates of challenges, and no others.
impl ResolvesServerCert for Challenges {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        with_name(&hello, |name| self.certificate(name)).flatten()
    }
}
