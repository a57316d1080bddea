//! The TLS handshake with clients: by SNI, never for a name in no route.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hosting_edge_map::Routing;
use rustls::ServerConfig;
use rustls::server::{Acceptor, ResolvesServerCert};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

use crate::certs::{CertStore, Resolver};
use crate::challenges;
use crate::client_hello::with_name;
use crate::conn::Conn;
use crate::metrics::Metrics;
use crate::settings::{Settings, ms};

/// Alerts that rustls does not send for us (RFC 8446 §6.2).
const MISSING_EXTENSION: u8 = 109;
const UNRECOGNIZED_NAME: u8 = 112;

/// Takes TLS connections.
#[derive(Debug)]
pub(crate) struct Front {
    config: Arc<ServerConfig>,
    /// The same without TLS 1.2.
    tls13: Arc<ServerConfig>,
    /// The same for HTTP/3.
    http3: Arc<ServerConfig>,
    /// For certificate authorities that look whether a name is ours.
    challenges: Arc<ServerConfig>,
    routing: Arc<Routing>,
    limit: Duration,
    h2_limit: Duration,
    default_certificate: bool,
    metrics: Metrics,
}

impl Front {
    /// # Errors
    /// The cryptographic library has not what is asked of it.
    pub(crate) fn new(
        certs: Arc<CertStore>,
        routing: Arc<Routing>,
        settings: &Settings,
        metrics: Metrics,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let of = |versions: &[&'static rustls::SupportedProtocolVersion]| {
            let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(versions)?
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(Resolver {
                    certs: Arc::clone(&certs),
                    default_certificate: settings.default_certificate,
                }));
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            // Resumption without state, where the default cache holds 256 sessions of this process.
            config.ticketer = Arc::clone(certs.tickets()) as _;
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            // One for each connection, as a client that goes on uses it once (RFC 8446 §C.4); each costs a seal.
            config.send_tls13_tickets = 1;
            Ok::<_, rustls::Error>(Arc::new(config))
        };
        let config = of(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let tls13 = of(&[&rustls::version::TLS13])?;
        let mut http3 = ServerConfig::clone(&tls13);
        http3.alpn_protocols = vec![b"h3".to_vec()];
        // What is sent with the first flight can be sent again by anybody (RFC 8446 §8).
        http3.max_early_data_size = 0;
        let answers: Arc<dyn ResolvesServerCert> = Arc::clone(certs.challenges()) as _;
        let mut challenges = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(answers);
        challenges.alpn_protocols = vec![challenges::ALPN.to_vec()];
        challenges.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        challenges.send_tls13_tickets = 0;
        Ok(Self {
            config,
            tls13,
            http3: Arc::new(http3),
            challenges: Arc::new(challenges),
            routing,
            limit: ms(settings.handshake_timeout_ms),
            h2_limit: ms(settings.header_timeout_ms),
            default_certificate: settings.default_certificate,
            metrics,
        })
    }

    /// What QUIC's handshakes are made with.
    pub(crate) fn http3(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.http3)
    }

    /// The whole handshake, within the limit. With the connection comes the name that it was made for, unless the default
    /// certificate was served. `None`: the client got its alert, or was not worth one.
    pub(crate) async fn accept(&self, tcp: TcpStream, peer: SocketAddr) -> Option<(Conn, Option<Arc<str>>)> {
        match tokio::time::timeout(self.limit, self.handshake(tcp, peer)).await {
            Ok(Ok(conn)) => {
                self.metrics.handshakes.inc();
                Some(conn)
            }
            Ok(Err(End::Challenge)) => {
                self.metrics.challenges.inc();
                None
            }
            Ok(Err(End::UnknownName)) => {
                self.metrics.handshakes_unknown.inc();
                None
            }
            Ok(Err(End::Failed(error))) => {
                tracing::debug!(%peer, %error, "handshake failed");
                self.metrics.handshakes_failed.inc();
                None
            }
            Err(_) => {
                tracing::debug!(%peer, "handshake took too long");
                self.metrics.handshakes_failed.inc();
                None
            }
        }
    }

    async fn handshake(&self, tcp: TcpStream, peer: SocketAddr) -> Result<(Conn, Option<Arc<str>>), End> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await.map_err(End::Failed)?;
        let hello = start.client_hello();
        // Nobody else negotiates this, and there is nothing to be had behind it (RFC 8737 §3).
        if hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == challenges::ALPN)) {
            let mut stream = start.into_stream(Arc::clone(&self.challenges)).await.map_err(End::Failed)?;
            return Err(stream.shutdown().await.map_or_else(End::Failed, |()| End::Challenge));
        }
        let sent = hello.server_name().is_some();
        let name =
            with_name(&hello, |name| self.routing.knows(name).then(|| Arc::<str>::from(name))).flatten();
        match &name {
            Some(_) => {}
            None if self.default_certificate => {}
            None if sent => return Err(refuse(start.io, UNRECOGNIZED_NAME).await),
            None => return Err(refuse(start.io, MISSING_EXTENSION).await),
        }
        let config = if self.routing.tls13_only() { &self.tls13 } else { &self.config };
        let stream = start.into_stream(Arc::clone(config)).await.map_err(End::Failed)?;
        Ok((Conn::tls(stream, peer, self.h2_limit), name))
    }
}

enum End {
    /// A certificate authority has seen what it looked for.
    Challenge,
    UnknownName,
    Failed(io::Error),
}

/// Ends a handshake that has seen nothing but the ClientHello with a fatal alert, which is still in clear then.
async fn refuse(mut tcp: TcpStream, alert: u8) -> End {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    let record = [ALERT, 3, 3, 0, 2, FATAL, alert];
    match tcp.write_all(&record).await {
        Ok(()) => {
            // The client may have closed already.
            let _ = tcp.shutdown().await;
            if alert == UNRECOGNIZED_NAME {
                End::UnknownName
            } else {
                End::Failed(io::Error::other(format!("alert {alert}")))
            }
        }
        Err(error) => End::Failed(error),
    }
}
