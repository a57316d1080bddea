//! What certificate authorities find at a name, as they look for it.

use std::sync::Arc;

use hosting_intent::message::{AcmeChallenge, State};
use hosting_intent::{Cause, EdgeIntent, Item, Key, Kind, Removal};
use hosting_intent_sync::self_check::SelfCheck;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::{Edge, Node, pool, route, tenant, upsert};

const HOST: &str = "www.example.com";
const PROOF: &str = "dG9rZW4.ZGlnZXN0";

fn challenge(host: &str) -> (Item, EdgeIntent) {
    let challenge = AcmeChallenge { token: "dG9rZW4".into(), key_authorization: PROOF.into() };
    upsert(Kind::AcmeChallenge, host, EdgeIntent::AcmeChallenge(challenge))
}

fn withdrawn(host: &str) -> Removal {
    let key = Key::new(Kind::AcmeChallenge, host);
    Removal { key, cause: Cause::Person, traceparent: String::new(), rollout: 0 }
}

/// Authorities look at what is in the certificate, and trust nobody for it.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // Whoever checks the signature reads the certificate, and stumbles over an extension that he must know and does not.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The one certificate and the protocol of a handshake; `None` when it fails.
async fn handshake(edge: &Edge, host: &str, protocols: &[&[u8]]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().dangerous();
    let mut config = builder.with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let tcp = TcpStream::connect(edge.https).await.unwrap();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()?;
    let session = stream.get_ref().1;
    let [certificate] = session.peer_certificates()? else { return None };
    Some((certificate.to_vec(), session.alpn_protocol().map(<[u8]>::to_vec)))
}

/// What a request for a file in the folder of challenges gets.
async fn ask(edge: &Edge, method: &str, host: &str, file: &str) -> String {
    let target = format!("/.well-known/acme-challenge/{file}");
    edge.raw(format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_the_text_is_there_for_its_host_and_path_alone() {
    let node = Node::start("node-1").await;
    let mut edge = Edge::start().await;
    let site = "web_ab12cd34ef";
    edge.publish(
        vec![
            tenant("t_a", State::Active),
            tenant("t_b", State::Suspended),
            pool("s1", &[("n1", node.address, true)]),
            route(HOST, "t_a", site, "s1"),
            route("other.example.com", "t_a", site, "s1"),
            route("suspended.example.com", "t_b", site, "s1"),
            challenge(HOST),
            challenge("suspended.example.com"),
            challenge("unrouted.example.com"),
        ],
        Vec::new(),
    );
    for host in [HOST, "WWW.Example.com.", "suspended.example.com", "unrouted.example.com"] {
        let answer = ask(&edge, "GET", host, "dG9rZW4").await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&format!("\r\n\r\n{PROOF}")),
            "{answer}"
        );
    }
    assert_eq!(node.requests(), 0);
    let head = ask(&edge, "HEAD", HOST, "dG9rZW4").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains(&format!("content-length: {}\r\n", PROOF.len())), "{head}");

    // A site may have challenges of its own.
    for (method, host, path) in [
        ("GET", HOST, "another"),
        ("GET", HOST, "dG9rZW4/x"),
        ("POST", HOST, "dG9rZW4"),
        ("GET", "other.example.com", "dG9rZW4"),
    ] {
        let answer = ask(&edge, method, host, path).await;
        assert!(answer.contains("x-served-by: node-1"), "{method} {host} {path}: {answer}");
    }
    edge.publish(Vec::new(), vec![withdrawn(HOST)]);
    assert!(ask(&edge, "GET", HOST, "dG9rZW4").await.contains("x-served-by: node-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_digest_is_in_a_certificate_that_nobody_else_is_shown() {
    const ALPN: &[u8] = b"acme-tls/1";
    // 1.3.6.1.5.5.7.1.31, critical (RFC 8737 §3).
    const EXTENSION: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 1, 0x1f, 1, 1, 0xff];
    let node = Node::start("node-1").await;
    let mut edge = Edge::start().await;
    let routes = vec![
        tenant("t_a", State::Active),
        pool("s1", &[("n1", node.address, true)]),
        route(HOST, "t_a", "web_ab12cd34ef", "s1"),
        challenge(HOST),
    ];
    edge.publish(routes, Vec::new());
    let has = |certificate: &[u8], part: &[u8]| memchr::memmem::find(certificate, part).is_some();
    let (certificate, protocol) = handshake(&edge, HOST, &[ALPN]).await.unwrap();
    assert_eq!(protocol.as_deref(), Some(ALPN));
    assert!(has(&certificate, EXTENSION) && has(&certificate, &Sha256::digest(PROOF)));
    assert!(has(&certificate, HOST.as_bytes()));
    assert_eq!(handshake(&edge, HOST, &[ALPN]).await.unwrap().0, certificate, "made once");
    while edge.metric("hosting_edge_handshakes_total{outcome=\"acme_challenge\"}") < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }

    let (usual, protocol) = handshake(&edge, HOST, &[b"h2", b"http/1.1"]).await.unwrap();
    assert_eq!(protocol.as_deref(), Some(&b"h2"[..]));
    assert!(!has(&usual, EXTENSION));
    assert!(handshake(&edge, "other.example.com", &[ALPN]).await.is_none());
    edge.publish(Vec::new(), vec![withdrawn(HOST)]);
    assert!(handshake(&edge, HOST, &[ALPN]).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_sees_whether_it_answers() {
    let mut edge = Edge::start().await;
    let (item, intent) = challenge(HOST);
    edge.publish(vec![tenant("t_a", State::Active), route(HOST, "t_a", "", "")], Vec::new());
    let unanswered = edge.check.check(&item.key, Some(&intent)).await.unwrap_err();
    assert!(unanswered.contains("has another `acme_challenge"), "{unanswered}");
    edge.publish(vec![(item.clone(), intent.clone())], Vec::new());
    assert_eq!(edge.check.check(&item.key, Some(&intent)).await, Ok(()));
}
