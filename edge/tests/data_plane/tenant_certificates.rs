//! Tenants' own certificates by SNI, their keys opened with what the feed gives.

use std::sync::Arc;

use hosting_intent::message::{AudienceKey as Share, Certificate, State};
use hosting_intent::{Audience, Cause, EdgeIntent, Item, Key, Kind, Removal, audience_key_name};
use hosting_intent_sync::sealing::{AudienceKey, Place};
use hosting_intent_sync::self_check::SelfCheck;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::harness::{Edge, Node, audience, pool, route, tenant, upsert};

/// An authority that is not ours.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().into();
        Self { issuer: Issuer::new(params, key), root }
    }

    /// The intent of a certificate that is sealed under a version of an audience's key.
    fn certificate(
        &self,
        id: &str,
        names: &[&str],
        (sealer, reader): (&AudienceKey, &Audience),
    ) -> (Item, EdgeIntent) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let leaf = CertificateParams::new(names.clone()).unwrap().signed_by(&key, &self.issuer).unwrap();
        let subject = Key::new(Kind::Certificate, id);
        let place = Place { audience: reader, key: &subject, field: "key" };
        let message = Certificate {
            tenant_id: "t_a".into(),
            names,
            chain_der: vec![leaf.der().to_vec().into()],
            key: Some(sealer.seal(place, key.serialize_pem().as_bytes()).unwrap()),
            not_after: i64::MAX,
        };
        upsert(Kind::Certificate, id, EdgeIntent::Certificate(message))
    }

    /// Whether the edge shows a certificate of this authority for a name.
    async fn is_shown(&self, edge: &Edge, name: &str) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        let tcp = TcpStream::connect(edge.https).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.is_ok()
    }
}

fn key(version: u32) -> AudienceKey {
    AudienceKey::new(version, Zeroizing::new([u8::try_from(version).unwrap(); 32]))
}

fn share(edge: &Edge, version: u32) -> (Item, EdgeIntent) {
    let share: Share = key(version).share(&audience(), edge.pair.public()).unwrap();
    let name = audience_key_name(version, edge.pair.public());
    upsert(Kind::AudienceKey, &name, EdgeIntent::AudienceKey(share))
}

fn removal(kind: Kind, name: &str) -> Removal {
    Removal { key: Key::new(kind, name), cause: Cause::Person, traceparent: String::new(), rollout: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_certificate_is_shown_for_its_hosts_and_the_development_one_otherwise() {
    let node = Node::start("node-1").await;
    let mut edge = Edge::start().await;
    let own = Authority::new();
    let one = key(1);
    edge.publish(
        vec![
            tenant("t_a", State::Active),
            pool("s1", &[("n1", node.address, true)]),
            route("www.example.com", "t_a", "web_ab12cd34ef", "s1"),
            route("shop.example.com", "t_a", "web_ab12cd34ef", "s1"),
            route("theirs.example.com", "t_b", "web_other00001", "s1"),
        ],
        Vec::new(),
    );
    let wild = own.certificate("c-wild", &["*.example.com"], (&one, &audience()));
    // Before the key is there, and for somebody else, it does not open, and says so without a word of the key.
    let refusal = edge.refusal(&wild).unwrap();
    assert!(refusal.contains("version 1") && !refusal.contains("PRIVATE"), "{refusal}");
    edge.publish(vec![share(&edge, 1), wild], Vec::new());
    let elsewhere = own.certificate("c-other", &["www.example.com"], (&one, &"edge/c2".parse().unwrap()));
    assert!(edge.refusal(&elsewhere).unwrap().contains("not sealed for this reader"));

    for name in ["www.example.com", "shop.example.com"] {
        assert!(own.is_shown(&edge, name).await, "{name}");
    }
    assert!(!own.is_shown(&edge, "theirs.example.com").await, "another tenant's host");
    let client = edge.client(&["theirs.example.com"]);
    client.get(edge.tls_url("theirs.example.com", "/")).send().await.unwrap();

    // An exact name goes before the wildcard; both are there.
    let exact = Authority::new();
    let shown = exact.certificate("c-exact", &["www.example.com"], (&one, &audience()));
    let early = edge.check.check(&shown.0.key, Some(&shown.1)).await;
    assert_eq!(early, Err("the certificate is not among those of www.example.com".into()));
    edge.publish(vec![shown.clone()], Vec::new());
    assert_eq!(edge.check.check(&shown.0.key, Some(&shown.1)).await, Ok(()));
    assert!(exact.is_shown(&edge, "www.example.com").await && own.is_shown(&edge, "shop.example.com").await);
    assert_eq!(edge.metric("hosting_edge_tenant_certificates"), 2);

    // Sealed anew under the next version, with the former one withdrawn: nothing changes for visitors.
    let anew = exact.certificate("c-exact", &["www.example.com"], (&key(2), &audience()));
    let former = audience_key_name(1, edge.pair.public());
    edge.publish(vec![share(&edge, 2), anew], vec![removal(Kind::AudienceKey, &former)]);
    assert!(exact.is_shown(&edge, "www.example.com").await && own.is_shown(&edge, "shop.example.com").await);

    edge.publish(
        Vec::new(),
        vec![removal(Kind::Certificate, "c-exact"), removal(Kind::Certificate, "c-wild")],
    );
    let client = edge.client(&["www.example.com"]);
    client.get(edge.tls_url("www.example.com", "/")).send().await.unwrap();
    assert_eq!(edge.metric("hosting_edge_tenant_certificates"), 0);
}
