//! Tenants' own certificates by SNI, their keys opened with what the feed gives.

use std::sync::Arc;

use hosting_edge::Settings;
use hosting_intent::message::{AudienceKey as Share, Certificate, State};
use hosting_intent::{Audience, Cause, EdgeIntent, Item, Key, Kind, Removal, audience_key_name};
use hosting_intent_sync::sealing::{AudienceKey, Place};
use hosting_intent_sync::self_check::SelfCheck;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::harness::{Edge, Node, audience, pool, route, settings, tenant, upsert};

/// An authority that is not ours.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().into();
        Self { issuer: Issuer::new(params, key), root }
    }

    /// The intent of a certificate that is sealed under a version of an audience's key.
    pub(crate) fn certificate(
        &self,
        id: &str,
        names: &[&str],
        sealed: (&AudienceKey, &Audience),
    ) -> (Item, EdgeIntent) {
        self.certificate_of(id, names, sealed, &KeyPair::generate().unwrap(), i64::MAX)
    }

    /// The same of a certain key, with an end.
    fn certificate_of(
        &self,
        id: &str,
        names: &[&str],
        (sealer, reader): (&AudienceKey, &Audience),
        key: &KeyPair,
        not_after: i64,
    ) -> (Item, EdgeIntent) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let leaf = CertificateParams::new(names.clone()).unwrap().signed_by(key, &self.issuer).unwrap();
        let subject = Key::new(Kind::Certificate, id);
        let place = Place { audience: reader, key: &subject, field: "key" };
        let message = Certificate {
            tenant_id: "t_a".into(),
            names,
            chain_der: vec![leaf.der().to_vec().into()],
            key: Some(sealer.seal(place, key.serialize_pem().as_bytes()).unwrap()),
            not_after,
        };
        upsert(Kind::Certificate, id, EdgeIntent::Certificate(message))
    }

    /// Whether the edge shows a certificate of this authority for a name.
    async fn is_shown(&self, edge: &Edge, name: &str) -> bool {
        self.shown(edge, name, default_provider(), &TLS13).await.is_some()
    }

    /// The leaf that the edge shows to a client which can do what `provider` can, if it is one of this authority.
    async fn shown(
        &self,
        edge: &Edge,
        name: &str,
        provider: CryptoProvider,
        version: &'static SupportedProtocolVersion,
    ) -> Option<CertificateDer<'static>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(&[version]).unwrap();
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        let tcp = TcpStream::connect(edge.https).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()?;
        stream.get_ref().1.peer_certificates()?.first().cloned()
    }
}

/// What can verify such signatures of servers alone; of authorities all.
fn verifying(is_such: impl Fn(SignatureScheme) -> bool) -> CryptoProvider {
    let mut provider = default_provider();
    let mapping = provider.signature_verification_algorithms.mapping.iter().copied();
    let such: Vec<_> = mapping.filter(|(scheme, _)| is_such(*scheme)).collect();
    provider.signature_verification_algorithms.mapping = such.leak();
    provider
}

fn is_rsa(scheme: SignatureScheme) -> bool {
    format!("{scheme:?}").starts_with("RSA")
}

pub(crate) fn key(version: u32) -> AudienceKey {
    AudienceKey::new(version, Zeroizing::new([u8::try_from(version).unwrap(); 32]))
}

pub(crate) fn share(edge: &Edge, version: u32) -> (Item, EdgeIntent) {
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

#[tokio::test(flavor = "multi_thread")]
async fn keys_open_after_the_key_that_they_came_sealed_under_is_gone() {
    let mut edge = Edge::with(Settings { certificate_cache: 0, ..settings() }).await;
    let own = Authority::new();
    let certificate = own.certificate("c-1", &["www.example.com"], (&key(1), &audience()));
    let early = share(&edge, 1);
    edge.publish(vec![route("www.example.com", "t_a", "", ""), early, certificate.clone()], Vec::new());
    let former = audience_key_name(1, edge.pair.public());
    edge.publish(vec![share(&edge, 2)], vec![removal(Kind::AudienceKey, &former)]);
    assert!(edge.refusal(&certificate).is_some_and(|why| why.contains("version 1")), "the key is gone");
    for n in 0..3 {
        assert_eq!(edge.metric("hosting_edge_certificates_opened_total"), n);
        assert!(own.is_shown(&edge, "www.example.com").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_rsa_and_an_ecdsa_certificate_each_client_gets_the_one_that_it_can_verify() {
    let mut edge = Edge::start().await;
    let own = Authority::new();
    let one = key(1);
    let sealed = (&one, &audience());
    let (curve, rsa) =
        (KeyPair::generate().unwrap(), KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap());
    let both = [
        own.certificate_of("c-ecdsa", &["www.example.com"], sealed, &curve, i64::MAX),
        // It ends earlier.
        own.certificate_of("c-rsa", &["www.example.com"], sealed, &rsa, i64::MAX - 1),
    ];
    let [ecdsa_leaf, rsa_leaf] = [&both[0].1, &both[1].1].map(|intent| match intent {
        EdgeIntent::Certificate(certificate) => CertificateDer::from(certificate.chain_der[0].to_vec()),
        other => panic!("{other:?}"),
    });
    let published = [route("www.example.com", "t_a", "", ""), share(&edge, 1)];
    edge.publish(published.into_iter().chain(both.clone()).collect(), Vec::new());
    for version in [&TLS13, &TLS12] {
        let shown = async |provider| own.shown(&edge, "www.example.com", provider, version).await;
        assert_eq!(shown(default_provider()).await.as_ref(), Some(&ecdsa_leaf), "{version:?}");
        assert_eq!(shown(verifying(is_rsa)).await.as_ref(), Some(&rsa_leaf), "{version:?}");
        assert_eq!(shown(verifying(|scheme| !is_rsa(scheme))).await.as_ref(), Some(&ecdsa_leaf));
    }
    // A client of TLS 1.2 says it by its cipher suites too.
    let mut suites = default_provider();
    suites.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains("_ECDHE_RSA_"));
    assert!(!suites.cipher_suites.is_empty());
    assert_eq!(own.shown(&edge, "www.example.com", suites, &TLS12).await, Some(rsa_leaf));
    for (item, intent) in &both {
        assert_eq!(edge.check.check(&item.key, Some(intent)).await, Ok(()));
    }
}
