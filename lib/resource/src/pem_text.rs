//! Certificates as texts (PEM, RFC 7468).

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::SpecError;

/// Largest text of a field, in bytes.
pub(crate) const MAX_PEM: usize = 64 * 1024;

/// The certificates of a PEM text, in their order.
pub(crate) fn certificates(field: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, SpecError> {
    if pem.len() > MAX_PEM {
        return Err(SpecError::invalid(field, format!("must have at most {MAX_PEM} bytes")));
    }
    // What is wrong in there is not repeated: it may be a key.
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() || pem.trim().is_empty() => Ok(certificates),
        Ok(_) | Err(_) => Err(SpecError::invalid(field, "must be certificates in PEM (RFC 7468)")),
    }
}

/// A PEM text that holds certificates, or nothing.
pub(crate) fn check_certificates(field: &str, pem: &str) -> Result<(), SpecError> {
    certificates(field, pem)?.iter().try_for_each(|der| parse(field, der).map(drop))
}

/// Reads a certificate.
pub(crate) fn parse<'c>(field: &str, der: &'c CertificateDer<'_>) -> Result<X509Certificate<'c>, SpecError> {
    match X509Certificate::from_der(der.as_ref()) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(SpecError::invalid(field, "is no X.509 certificate")),
    }
}
