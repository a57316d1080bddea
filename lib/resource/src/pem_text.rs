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

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";

    hosting_fuzz::fuzz!(
        texts_hold_certificates_or_are_refused,
        &[CERTIFICATE, b"text\n-----BEGIN CERTIFICATE-----\r\nMAA=\r\n-----END CERTIFICATE-----", b"  \n"],
        &[CERTIFICATE, b"-----", b"\n", b"=", b"PRIVATE KEY", b"BEGIN ", b"END ", b"\xff"],
        |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let Ok(read) = certificates("chain", &text) else {
                // What is refused says nothing of what is in there.
                let said = certificates("chain", &text).unwrap_err().to_string();
                assert!(!said.contains("BEGIN") && !said.contains("MAA"), "{said}");
                return;
            };
            assert!(read.is_empty() || text.contains("BEGIN CERTIFICATE"), "{text:?}");
            // The text twice is each of them twice.
            let twice = certificates("chain", &format!("{text}\n{text}")).unwrap();
            assert_eq!(twice, [&read[..], &read].concat());
            let _ = check_certificates("chain", &text);
        }
    );
}
