//! A server's certificate and key in files, read anew when they change. Connections that stand go on as they began.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(5);

/// The files give no certificate that can be served.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct ServerTlsError {
    /// Which one.
    pub file: PathBuf,
    /// What is wrong with it and what to do.
    pub problem: String,
}

/// What the files hold.
type Contents = (Vec<u8>, Vec<u8>);

/// A server's certificate chain and key, for HTTP/2 and HTTP/1.1 over TLS 1.2 and 1.3.
#[derive(Debug)]
pub struct ServerTls {
    certificate: PathBuf,
    key: PathBuf,
    current: Mutex<Arc<ServerConfig>>,
    /// What was looked at last, taken over or not.
    seen: Mutex<Contents>,
}

impl ServerTls {
    /// Reads the certificate chain, its own certificate first, and the key, both PEM.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else, a key that others may read, or one of another certificate.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, ServerTlsError> {
        let contents = read(certificate, key)?;
        let config = config(certificate, key, &contents)?;
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current: Mutex::new(config),
            seen: Mutex::new(contents),
        })
    }

    /// What the next connection is served with.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over what the files hold if that has changed; whether it did.
    ///
    /// # Errors
    /// As for [`ServerTls::load`]; then everything stays as it was, and the same is not complained about again.
    pub fn refresh(&self) -> Result<bool, ServerTlsError> {
        let contents = read(&self.certificate, &self.key)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == contents {
            return Ok(false);
        }
        let config = config(&self.certificate, &self.key, &contents);
        *seen = contents;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = config?;
        Ok(true)
    }

    /// Looks at the files every few seconds until `stop`.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut complained = String::new();
        while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            let this = Arc::clone(&self);
            let Ok(outcome) = tokio::task::spawn_blocking(move || this.refresh()).await else { continue };
            match outcome {
                Ok(true) => {
                    complained.clear();
                    tracing::info!(file = %self.certificate.display(), "new certificate taken over");
                }
                Ok(false) => {}
                Err(error) if error.to_string() == complained => {}
                Err(error) => {
                    tracing::warn!(%error, "the changed certificate is not taken over; the one before is served on");
                    complained = error.to_string();
                }
            }
        }
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Contents, ServerTlsError> {
    let wrong = |file: &Path, problem: String| ServerTlsError { file: file.to_owned(), problem };
    let bytes = |file: &Path| std::fs::read(file).map_err(|error| wrong(file, error.to_string()));
    let mode = std::fs::metadata(key).map_err(|error| wrong(key, error.to_string()))?.mode();
    if mode & 0o007 != 0 {
        return Err(wrong(key, "is open to everybody on this machine; chmod o-rwx it".to_owned()));
    }
    Ok((bytes(certificate)?, bytes(key)?))
}

fn config(certificate: &Path, key: &Path, contents: &Contents) -> Result<Arc<ServerConfig>, ServerTlsError> {
    let wrong = |file: &Path, problem: String| ServerTlsError { file: file.to_owned(), problem };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&contents.0).collect();
    let chain = chain.map_err(|error| wrong(certificate, format!("is no PEM: {error}")))?;
    if chain.is_empty() {
        return Err(wrong(certificate, "holds no certificate; it must be PEM".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_slice(&contents.1)
        .map_err(|error| wrong(key, format!("holds no private key in PEM: {error}")))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(certificate, error.to_string()))?;
    let mut config = builder
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| wrong(certificate, format!("and its key in {}: {error}", key.display())))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::write_private;

    #[test]
    fn files_are_taken_over_when_both_fit() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let make = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (old, new) = (make(), make());
        std::fs::write(&certificate, old.cert.pem()).unwrap();
        write_private(&key, old.signing_key.serialize_pem().as_bytes()).unwrap();
        let tls = ServerTls::load(&certificate, &key).unwrap();
        let first = tls.config();
        assert!(!tls.refresh().unwrap());

        // One file after the other: in between they do not fit.
        std::fs::write(&certificate, new.cert.pem()).unwrap();
        let error = tls.refresh().unwrap_err().to_string();
        assert!(error.contains("cert.pem") && error.contains("key.pem"), "{error}");
        assert!(Arc::ptr_eq(&tls.config(), &first));
        assert!(!tls.refresh().unwrap(), "the same is complained about once");
        write_private(&key, new.signing_key.serialize_pem().as_bytes()).unwrap();
        assert!(tls.refresh().unwrap());
        assert!(!Arc::ptr_eq(&tls.config(), &first));

        std::fs::write(&certificate, "nothing").unwrap();
        assert!(tls.refresh().unwrap_err().to_string().contains("holds no certificate"));
        std::fs::remove_file(&key).unwrap();
        assert!(tls.refresh().unwrap_err().to_string().contains("key.pem"));
        std::fs::write(&key, new.signing_key.serialize_pem()).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(tls.refresh().unwrap_err().to_string().contains("open to everybody"));
    }
}
