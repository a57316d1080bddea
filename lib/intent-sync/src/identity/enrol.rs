//! From a token to a credential.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hosting_proto::feed::enrollment_client::EnrollmentClient;
use hosting_proto::feed::{Credential, EnrollRequest};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tonic::Code;
use zeroize::Zeroizing;

use super::files::{State, Trust, is_for_key};
use super::{CALL_TIMEOUT, Enrolment, IdentityError, JoinToken, crypto, unix_now, utc};
use crate::dial::{dial, full_jitter};
use crate::tls::{self, NodeCertificate, NodeName, Pinned, PinnedVerifier};

pub(super) fn server_name(cell: &str) -> Result<ServerName<'static>, IdentityError> {
    ServerName::try_from(tls::controller_name(cell)).map_err(crypto)
}

pub(super) fn csr(key: &rcgen::KeyPair) -> Result<Vec<u8>, IdentityError> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params.serialize_request(key).map_err(crypto)?.der().to_vec())
}

pub(super) async fn enroll(
    token: &JoinToken,
    key: &rcgen::KeyPair,
    controllers: &[String],
    enrolment: &Enrolment,
) -> Result<State, IdentityError> {
    let csr = csr(key)?;
    let deadline = tokio::time::Instant::now() + enrolment.patience;
    let mut failures = 0;
    loop {
        let mut last = None;
        for address in controllers {
            match enroll_at(token, key, &csr, &enrolment.role, address, controllers).await {
                Ok(state) => return Ok(state),
                Err(error) if error.is_transient() => {
                    tracing::debug!(address, %error, "enrolment");
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        failures += 1;
        let wait = full_jitter(failures, Duration::from_millis(100), Duration::from_secs(5));
        if tokio::time::Instant::now() + wait >= deadline {
            return Err(last.unwrap_or_else(|| IdentityError::Unreachable("no address given".into())));
        }
        tokio::time::sleep(wait).await;
    }
}

pub(super) async fn enroll_at(
    token: &JoinToken,
    key: &rcgen::KeyPair,
    csr: &[u8],
    role: &str,
    address: &str,
    controllers: &[String],
) -> Result<State, IdentityError> {
    let verifier = Arc::new(PinnedVerifier::new(token.ca));
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(crypto)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
        .with_no_client_auth();
    config.alpn_protocols = vec![tls::ALPN_H2.to_vec()];
    // The cell is not known yet, and the server does not look at the name.
    let name = server_name("cell")?;
    let dialled = dial(address, Arc::new(config), name, Duration::from_secs(10)).await;
    let cell = match (verifier.seen(), &dialled) {
        (Some(Pinned::Other(found)), _) => {
            return Err(IdentityError::FingerprintMismatch {
                address: address.to_owned(),
                expected: token.ca,
                found: *found,
            });
        }
        (Some(Pinned::Cell(cell)), _) => cell.clone(),
        (None, Ok(_)) => return Err(IdentityError::Answer("the server showed no certificate".into())),
        (None, Err(error)) => return Err(IdentityError::Unreachable(format!("{address}: {error}"))),
    };
    let (channel, _) = dialled.map_err(|error| IdentityError::Unreachable(format!("{address}: {error}")))?;
    let mut request = tonic::Request::new(EnrollRequest {
        node_id: token.node_id.clone(),
        secret: token.secret_text().to_string(),
        csr_der: csr.to_vec().into(),
        role: role.to_owned(),
    });
    request.set_timeout(CALL_TIMEOUT);
    let answer = EnrollmentClient::new(channel).enroll(request).await.map_err(|status| {
        let node_id = token.node_id.clone();
        match status.code() {
            Code::Unauthenticated => IdentityError::TokenUnknown { node_id },
            Code::AlreadyExists => IdentityError::TokenUsed { node_id },
            Code::FailedPrecondition => {
                IdentityError::TokenExpired { node_id, at: utc(token.expires_at), now: utc(unix_now()) }
            }
            Code::NotFound => IdentityError::NodeUnknown { node_id },
            code => IdentityError::Refused { code, message: status.message().to_owned() },
        }
    })?;
    let name =
        NodeName::new(cell, token.node_id.as_str()).map_err(|e| IdentityError::Answer(e.to_string()))?;
    accept(answer.into_inner(), key, &name, controllers.to_vec())
}

/// Checks that a credential is the one that was asked for, before anything of it is kept.
pub(super) fn accept(
    answer: Credential,
    key: &rcgen::KeyPair,
    name: &NodeName,
    controllers: Vec<String>,
) -> Result<State, IdentityError> {
    let wrong = |what: String| IdentityError::Answer(what);
    let chain: Vec<CertificateDer<'static>> =
        answer.chain_der.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let leaf = chain.first().ok_or_else(|| wrong("it has no certificate".into()))?;
    let certificate = NodeCertificate::parse(leaf).map_err(|e| wrong(e.to_string()))?;
    if certificate.name != *name {
        return Err(wrong(format!(
            "the certificate is for {}, not for {}",
            certificate.name.uri(),
            name.uri()
        )));
    }
    if !is_for_key(leaf, key) {
        return Err(wrong("the certificate is for another key".into()));
    }
    tls::root_store(answer.roots_der.iter().map(AsRef::as_ref)).map_err(|e| wrong(e.to_string()))?;
    let trust = Trust {
        roots: answer.roots_der.iter().map(|root| URL_SAFE_NO_PAD.encode(root)).collect(),
        epoch: String::new(),
        revision: 0,
        audiences: answer.audiences,
        controllers,
    };
    Ok(State { key: Zeroizing::new(key.serialize_der()), chain, certificate, trust })
}
