//! Session tickets that the edges of a cluster share.

use std::sync::Arc;
use std::time::Duration;

use hosting_intent::message::{State, TicketKey, TicketKeys};
use hosting_intent::{EdgeIntent, Item, Key, Kind};
use hosting_intent_sync::sealing::Place;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::{Edge, audience, one_site, pool, route, tenant, upsert};
use crate::tenant_certificates::{key, share};

/// The keys of a cluster's tickets, each with when it begins.
pub(crate) fn ticket_keys(keys: &[(u8, i64)]) -> (Item, EdgeIntent) {
    let at = Key::new(Kind::TicketKeys, "tickets");
    let one = |(number, begins): &(u8, i64)| {
        let name = [*number; 16];
        let field = format!("key/{}", hex::encode(name));
        let place = Place { audience: &audience(), key: &at, field: &field };
        let sealed = key(1).seal(place, hex::encode([*number; 32]).as_bytes()).unwrap();
        TicketKey { name: name.to_vec().into(), begins: *begins, key: Some(sealed) }
    };
    let message = TicketKeys { keys: keys.iter().map(one).collect() };
    upsert(Kind::TicketKeys, "tickets", EdgeIntent::TicketKeys(message))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_began_at_one_edge_goes_on_at_another() {
    let (mut edge, node) = one_site().await;
    let mut other = Edge::start().await;
    other.publish(
        vec![
            tenant("t_a", State::Active),
            pool("s1", &[("n1", node.address, true)]),
            route("www.example.com", "t_a", "web_ab12cd34ef", "s1"),
        ],
        Vec::new(),
    );
    // One client for both; each has an authority of its own for development.
    let mut roots = RootCertStore::empty();
    for ca in [&edge.ca, &other.ca] {
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    }
    let config = |version: &'static SupportedProtocolVersion| {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(&[version]).unwrap();
        builder.with_root_certificates(roots.clone()).with_no_client_auth()
    };
    let kinds = async |at: [&Edge; 2], config: ClientConfig| {
        let config = Arc::new(config);
        let mut kinds = Vec::new();
        for edge in at {
            let tcp = TcpStream::connect(edge.https).await.unwrap();
            let name = "www.example.com".try_into().unwrap();
            let mut stream = TlsConnector::from(Arc::clone(&config)).connect(name, tcp).await.unwrap();
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            // Tickets come after the handshake, with the first read.
            let _ = tokio::time::timeout(Duration::from_millis(200), stream.read_u8()).await;
        }
        kinds
    };
    let (full, resumed) = (HandshakeKind::Full, HandshakeKind::Resumed);
    assert_eq!(kinds([&edge, &other], config(&TLS13)).await, [full, full], "each has a key of its own");
    let begun = ticket_keys(&[(1, 0), (2, i64::MAX)]);
    // Before the key that opens it is there it is refused, without a word of what is in it.
    assert!(edge.refusal(&begun).unwrap().contains("version 1"));
    for edge in [&mut edge, &mut other] {
        edge.publish(vec![share(edge, 1), begun.clone()], Vec::new());
    }
    for version in [&TLS13, &TLS12] {
        assert_eq!(kinds([&edge, &other], config(version)).await, [full, resumed], "{version:?}");
    }
    // The next key is known to one of them before it seals with it.
    edge.publish(vec![ticket_keys(&[(1, 0), (2, 0), (3, i64::MAX)])], Vec::new());
    assert_eq!(kinds([&edge, &other], config(&TLS13)).await, [full, resumed]);
    // A key that was ended opens nothing.
    other.publish(vec![ticket_keys(&[(3, 0)])], Vec::new());
    assert_eq!(kinds([&edge, &other], config(&TLS13)).await, [full, full]);
}
