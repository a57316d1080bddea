//! TLS of the feed's listener: who is let in, and with which certificate we show ourselves.

use std::sync::Arc;

use hosting_intent_sync::tls::{self, NodeCertificate};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};

use crate::pki::{Authorities, PkiError, RENEW_GRACE};

/// The listener's configuration for a set of authorities, and when its certificate ends.
pub(crate) fn server_config(authorities: &Authorities, now: i64) -> Result<(ServerConfig, i64), TrustError> {
    let certificate = authorities.issue_server(now)?;
    let roots = authorities.roots_der();
    let roots = Arc::new(tls::root_store(roots.iter().map(Vec::as_slice))?);
    let inner = WebPkiClientVerifier::builder_with_provider(roots, tls::provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
    let verifier = NodeVerifier { cell: authorities.cell().to_owned(), inner };
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(certificate.chain, certificate.key)?;
    config.alpn_protocols = vec![tls::ALPN_H2.to_vec()];
    // A resumed session would bring a certificate back that was checked against the roots of then.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((config, certificate.not_after))
}

/// The listener cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// No certificate.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// rustls will not have it.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Lets a node's certificate in for a while after its end. What it may then do, the calls decide: renew, nothing else.
#[derive(Debug)]
struct NodeVerifier {
    cell: String,
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for NodeVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        // Whoever enrols has none; every other call asks for it.
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let certificate = NodeCertificate::parse(leaf).map_err(|e| rustls::Error::General(e.to_string()))?;
        if certificate.name.cell != self.cell {
            return Err(rustls::Error::General(format!("a node of cell {}", certificate.name.cell)));
        }
        let seconds = |at: i64| u64::try_from(at).unwrap_or_default();
        let (begin, end) = (seconds(certificate.not_before), seconds(certificate.not_after));
        let (late, early) = (now.as_secs().saturating_sub(end), begin.saturating_sub(now.as_secs()));
        let grace = 1..=RENEW_GRACE.as_secs();
        // Early: it was issued while a clock was wrong. Both may renew and nothing else.
        let at = if grace.contains(&late) {
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(end))
        } else if grace.contains(&early) {
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(begin))
        } else {
            now
        };
        self.inner.verify_client_cert(leaf, rest, at)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
