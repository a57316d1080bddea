//! Clients: they ask until they are told to stop, count answers, and take none but the right one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, ensure};
use bytes::Buf as _;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What a browser sends with every request.
const FIELDS: &[(&str, &str)] = &[
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("cookie", "session=2f1d8c5a9b7e4f6081d3c2b5a4968778; theme=dark; consent=1"),
    ("upgrade-insecure-requests", "1"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-site", "none"),
    ("priority", "u=0, i"),
];

/// Takes every certificate: what is measured signs its own.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// How handshakes are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tls {
    pub(super) http2: bool,
    pub(super) http3: bool,
    pub(super) resumes: bool,
    /// X25519MLKEM768; otherwise X25519.
    pub(super) hybrid: bool,
}

impl Tls {
    pub(super) fn connector(self) -> anyhow::Result<TlsConnector> {
        Ok(TlsConnector::from(Arc::new(self.config()?)))
    }

    pub(super) fn config(self) -> anyhow::Result<ClientConfig> {
        let mut provider = aws_lc_rs::default_provider();
        let group =
            if self.hybrid { aws_lc_rs::kx_group::X25519MLKEM768 } else { aws_lc_rs::kx_group::X25519 };
        provider.kx_groups = vec![group];
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        let protocol = if self.http3 {
            "h3"
        } else if self.http2 {
            "h2"
        } else {
            "http/1.1"
        };
        config.alpn_protocols = vec![protocol.into()];
        if !self.resumes {
            config.resumption = Resumption::disabled();
        }
        Ok(config)
    }
}

/// A certificate and its key for a peer, of the kind that ours has.
pub(super) fn certificate() -> anyhow::Result<String> {
    let own = rcgen::generate_simple_self_signed(vec!["loadtest.example.net".to_owned()])?;
    Ok(own.cert.pem() + &own.signing_key.serialize_pem())
}

/// What all clients of a measurement share.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) stop: AtomicBool,
    pub(super) done: AtomicU64,
}

impl Tally {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// A request over HTTP/1.1 for `size` bytes.
pub(super) fn http1_request(host: &str, size: usize) -> Vec<u8> {
    format!("GET /{size} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: loadtest\r\nAccept: */*\r\n\r\n")
        .into_bytes()
}

/// Sends one request and reads its answer to the end.
pub(super) async fn http1_ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &[u8],
    buffer: &mut Vec<u8>,
) -> anyhow::Result<()> {
    stream.write_all(request).await?;
    buffer.resize(128 * 1_024, 0);
    let (mut filled, mut wanted) = (0, usize::MAX);
    while filled < wanted {
        let read = stream.read(&mut buffer[filled..]).await?;
        ensure!(read > 0, "the connection was closed after {filled} bytes");
        filled += read;
        if wanted == usize::MAX
            && let Some(end) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n")
        {
            let head = std::str::from_utf8(&buffer[..end])?.to_ascii_lowercase();
            ensure!(head.starts_with("http/1.1 200"), "the answer is {head}");
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            wanted = end + 4 + length.context("no length")?.trim().parse::<usize>()?;
        }
    }
    Ok(())
}

/// Asks over one connection, by chance, for one of the requests.
pub(super) async fn http1<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    requests: Arc<Vec<Vec<u8>>>,
    tally: Arc<Tally>,
    seed: u64,
) -> anyhow::Result<()> {
    let mut buffer = Vec::new();
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    while tally.goes_on() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let request = &requests[usize::try_from(random % requests.len() as u64)?];
        http1_ask(&mut stream, request, &mut buffer).await?;
        tally.count();
    }
    Ok(())
}

/// Asks over one connection, `streams` at once.
pub(super) async fn http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    host: String,
    size: usize,
    streams: usize,
    tally: Arc<Tally>,
) -> anyhow::Result<()> {
    let (client, connection) = h2::client::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let asking = (0..streams).map(|_| http2_stream(client.clone(), &host, size, &tally));
    let outcome = futures::future::try_join_all(asking).await;
    connection.abort();
    outcome.map(drop)
}

async fn http2_stream(
    client: h2::client::SendRequest<bytes::Bytes>,
    host: &str,
    size: usize,
    tally: &Tally,
) -> anyhow::Result<()> {
    while tally.goes_on() {
        http2_once(client.clone(), host, size).await?;
        tally.count();
    }
    Ok(())
}

/// Asks once.
pub(super) async fn http2_once(
    client: h2::client::SendRequest<bytes::Bytes>,
    host: &str,
    size: usize,
) -> anyhow::Result<()> {
    let mut client = client.ready().await?;
    let mut request = http::Request::get(format!("https://{host}/{size}"));
    for (field, value) in FIELDS {
        request = request.header(*field, *value);
    }
    let (response, _) = client.send_request(request.body(())?, true)?;
    let response = response.await?;
    ensure!(response.status() == 200, "the answer is {}", response.status());
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        length += data.len();
        body.flow_control().release_capacity(data.len())?;
    }
    ensure!(length == size, "{length} bytes instead of {size}");
    Ok(())
}

/// A socket for connections over QUIC.
pub(super) fn quic(tls: Tls) -> anyhow::Result<quinn::Endpoint> {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls.config()?)?;
    let mut endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    Ok(endpoint)
}

/// Asks over one connection of HTTP/3, `streams` at once.
pub(super) async fn http3(
    endpoint: quinn::Endpoint,
    address: SocketAddr,
    host: String,
    size: usize,
    streams: usize,
    tally: Arc<Tally>,
) -> anyhow::Result<()> {
    let connection = endpoint.connect(address, &host)?.await?;
    let (mut driver, client) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
    let driving = tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
    let asking = (0..streams).map(|_| http3_stream(client.clone(), &host, size, &tally));
    let outcome = futures::future::try_join_all(asking).await;
    driving.abort();
    outcome.map(drop)
}

async fn http3_stream(
    mut client: h3::client::SendRequest<h3_quinn::OpenStreams, bytes::Bytes>,
    host: &str,
    size: usize,
    tally: &Tally,
) -> anyhow::Result<()> {
    while tally.goes_on() {
        let mut request = http::Request::get(format!("https://{host}/{size}"));
        for (field, value) in FIELDS {
            request = request.header(*field, *value);
        }
        let mut stream = client.send_request(request.body(())?).await?;
        stream.finish().await?;
        let response = stream.recv_response().await?;
        ensure!(response.status() == 200, "the answer is {}", response.status());
        let mut length = 0;
        while let Some(data) = stream.recv_data().await? {
            length += data.remaining();
        }
        ensure!(length == size, "{length} bytes instead of {size}");
        tally.count();
    }
    Ok(())
}

/// Connects, shakes hands, asks once, closes, and begins anew.
pub(super) async fn handshakes(
    address: SocketAddr,
    tls: Tls,
    host: String,
    size: usize,
    tally: Arc<Tally>,
) -> anyhow::Result<()> {
    let connector = tls.connector()?;
    let request = http1_request(&host, size);
    let name = ServerName::try_from(host)?;
    let mut buffer = Vec::new();
    let mut first = true;
    while tally.goes_on() {
        let mut stream = connector.connect(name.clone(), connect(address).await?).await?;
        http1_ask(&mut stream, &request, &mut buffer).await?;
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        ensure!(first || resumed == tls.resumes, "resumed: {resumed}");
        if !(first && tls.resumes) {
            tally.count();
        }
        first = false;
    }
    Ok(())
}
