//! One connection to a controller, and how long to wait before the next.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rand::RngExt as _;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The configuration cannot work.
    #[error("{0}")]
    Setup(String),
    /// Resolving or TCP.
    #[error("cannot connect: {0}")]
    Tcp(io::Error),
    /// The TLS handshake.
    #[error("TLS: {0}")]
    Tls(io::Error),
    /// HTTP/2.
    #[error("HTTP/2: {0}")]
    Http(String),
    /// It took too long.
    #[error("no answer within {} s", DIAL_TIMEOUT.as_secs())]
    Timeout,
}

/// One connection, not a pool: when it breaks, the channel is dead and the caller dials again. Also answers the chain that
/// the server showed, leaf first.
pub(crate) async fn dial(
    address: &str,
    tls: Arc<ClientConfig>,
    name: ServerName<'static>,
    keepalive: Duration,
) -> Result<(Channel, Vec<CertificateDer<'static>>), DialError> {
    let authority = name.to_str().into_owned();
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|e| DialError::Setup(e.to_string()))?
        .http2_keep_alive_interval(keepalive)
        .keep_alive_timeout(keepalive)
        .keep_alive_while_idle(true);
    let connect = async {
        let tcp = TcpStream::connect(address).await.map_err(DialError::Tcp)?;
        tcp.set_nodelay(true).map_err(DialError::Tcp)?;
        let stream = TlsConnector::from(tls).connect(name, tcp).await.map_err(DialError::Tls)?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        let chain = chain.into_iter().map(CertificateDer::into_owned).collect();
        let mut once = Some(stream);
        let connector = tower::service_fn(move |_| {
            let stream = once.take().map(TokioIo::new);
            std::future::ready(stream.ok_or_else(|| io::Error::other("the connection is over")))
        });
        let channel =
            endpoint.connect_with_connector(connector).await.map_err(|e| DialError::Http(chain_text(&e)))?;
        Ok((channel, chain))
    };
    tokio::time::timeout(DIAL_TIMEOUT, connect).await.map_err(|_| DialError::Timeout)?
}

/// An error with its causes, because the outermost rarely says it.
pub(crate) fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

/// A wait chosen evenly from 0 to `base · 2^(failures - 1)`, at most `cap`: so that a thousand nodes that lost the same
/// controller do not come back at once.
pub(crate) fn full_jitter(failures: u32, base: Duration, cap: Duration) -> Duration {
    let ceiling = base.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(16))).min(cap);
    ceiling.mul_f64(rand::rng().random_range(0.0..1.0))
}
