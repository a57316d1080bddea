//! HTTPS by SNI.

use std::sync::Arc;
use std::time::Duration;

use hosting_edge::Settings;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{Edge, Node, gone, one_site, pool, read_all, route, settings};

pub(crate) fn config(edge: &Edge, alpn: &[&[u8]]) -> ClientConfig {
    trusting(&edge.ca, alpn)
}

/// A client that trusts one authority (PEM).
pub(crate) fn trusting(ca: &str, alpn: &[&[u8]]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

pub(crate) async fn connect(
    edge: &Edge,
    name: &str,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    handshake(edge, name, config(edge, alpn)).await
}

async fn handshake(edge: &Edge, name: &str, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(edge.https).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), tcp).await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_with_a_trusted_certificate() {
    let (edge, _node) = one_site().await;
    for (client, version) in [
        (edge.client(&["www.example.com"]), reqwest::Version::HTTP_2),
        (
            edge.client_with(&["www.example.com"], reqwest::ClientBuilder::http1_only),
            reqwest::Version::HTTP_11,
        ),
    ] {
        for _ in 0..3 {
            let response = client.get(edge.tls_url("www.example.com", "/x?y=z")).send().await.unwrap();
            assert_eq!((response.status().as_u16(), response.version()), (200, version));
            assert_eq!(response.headers()["x-shard"], "s1-name");
            let seen = response.text().await.unwrap();
            assert!(seen.starts_with("GET /x?y=z\n"), "{seen}");
            for line in [
                "host: web_ab12cd34ef\n".to_owned(),
                "x-forwarded-proto: https\n".to_owned(),
                format!("x-hosting-host: www.example.com:{}\n", edge.https.port()),
            ] {
                assert!(seen.contains(&line), "{line} not in {seen}");
            }
        }
    }
    assert!(edge.metric("hosting_edge_handshakes_total{outcome=\"done\"}") >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_default_certificate_names_in_no_route_get_the_right_alert() {
    let node = Node::start("node-1").await;
    let mut edge = Edge::with(Settings { default_certificate: false, ..settings() }).await;
    edge.publish(
        vec![
            pool("s1", &[("n1", node.address, true)]),
            route("www.example.com", "t_a", "web_ab12cd34ef", "s1"),
        ],
        Vec::new(),
    );
    for name in ["other.example.com", "example.com", "xwww.example.com"] {
        let error = connect(&edge, name, &[b"h2"]).await.unwrap_err().to_string();
        assert!(error.contains("UnrecognisedName"), "{name}: {error}");
    }
    // No name at all.
    let error = connect(&edge, "127.0.0.1", &[b"h2"]).await.unwrap_err().to_string();
    assert!(error.contains("MissingExtension"), "{error}");
    assert_eq!(edge.metric("hosting_edge_handshakes_total{outcome=\"unknown_name\"}"), 3);
    assert_eq!(edge.metric("hosting_edge_certificates_signed_total"), 0);
    // Nothing in common to speak.
    let error = connect(&edge, "www.example.com", &[b"smtp"]).await.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");

    edge.publish(vec![route("other.example.com", "t_a", "", "")], vec![gone("www.example.com")]);
    assert!(connect(&edge, "OTHER.example.com", &[]).await.is_ok());
    assert!(connect(&edge, "www.example.com", &[]).await.is_err());
}

/// A client that takes any certificate, as old monitors do.
async fn connect_blindly(edge: &Edge, name: &str) -> TlsStream<TcpStream> {
    let mut config = config(edge, &[b"http/1.1"]);
    config.dangerous().set_certificate_verifier(Arc::new(Blind));
    handshake(edge, name, config).await.unwrap()
}

#[derive(Debug)]
struct Blind;

impl rustls::client::danger::ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_field_decides_when_the_handshake_names_no_site_and_only_then() {
    let (mut edge, _node) = one_site().await;
    edge.publish(vec![route("other.example.com", "t_b", "web_b", "s1")], Vec::new());
    // An address sends no name.
    for (name, host, code) in [
        ("127.0.0.1", "www.example.com", "200"),
        ("nobody.example.com", "www.example.com", "200"),
        ("127.0.0.1", "nobody.example.com", "404"),
        ("www.example.com", "www.example.com", "200"),
        ("WWW.example.com", "www.EXAMPLE.com:443", "200"),
        ("www.example.com", "other.example.com", "421"),
        ("www.example.com", "nobody.example.com", "421"),
    ] {
        let mut stream = connect_blindly(&edge, name).await;
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_all(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{name} {host}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_name_with_an_underscore_has_a_certificate_too() {
    let (mut edge, _node) = one_site().await;
    edge.publish(vec![route("web_ab12cd34ef.svc.example.net", "t_a", "web_ab12cd34ef", "s1")], Vec::new());
    let stream = connect(&edge, "web_ab12cd34ef.svc.example.net", &[b"http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acked_route_can_be_shaken_hands_with_even_when_the_cache_is_small() {
    let mut edge = Edge::with(Settings { certificate_cache: 8, ..settings() }).await;
    let names: Vec<String> = (0..600).map(|n| format!("h{n}.example.com")).collect();
    edge.publish(names.iter().map(|name| route(name, "t_a", "", "")).collect(), Vec::new());
    for name in names.iter().step_by(40).chain(&names[590..]) {
        connect(&edge, name, &[]).await.unwrap();
    }
    assert!(edge.metric("hosting_edge_certificates") <= 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_resume_by_ticket() {
    let (edge, _node) = one_site().await;
    let config = config(&edge, &[b"http/1.1"]);
    let mut first = handshake(&edge, "www.example.com", config.clone()).await.unwrap();
    assert_eq!(first.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    // Tickets come after the handshake, with the first read.
    let _ = tokio::time::timeout(Duration::from_millis(200), first.read_u8()).await;
    let second = handshake(&edge, "www.example.com", config).await.unwrap();
    assert_eq!(second.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_tls_port_harms_nobody() {
    use tokio::io::AsyncWriteExt;
    let (edge, _node) = one_site().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"[..],
        &[0x16, 3, 1, 0xff, 0xff, 1, 0, 0],
        &[0; 1000],
        &[0x16, 3, 1, 0, 4, 1, 0, 0, 0],
    ] {
        let mut stream = TcpStream::connect(edge.https).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        read_all(&mut stream).await;
    }
    assert!(connect(&edge, "www.example.com", &[b"h2"]).await.is_ok());
}
