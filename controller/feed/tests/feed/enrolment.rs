//! Join tokens, credentials, renewal, revocation, rotation.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use hosting_feed::MintError;
use hosting_feed::pki::Authorities;
use hosting_intent::{Kind, message};
use hosting_intent_sync::identity::{Enrolment, Identity, IdentityError, JoinToken, TokenSource, unix_now};
use hosting_intent_sync::tls::{Fingerprint, NodeCertificate};
use hosting_proto::feed::enrollment_client::EnrollmentClient;
use hosting_proto::feed::intent_feed_client::IntentFeedClient;
use hosting_proto::feed::{EnrollRequest, RenewRequest, ReportRequest};
use prost::Message as _;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tonic::Code;

use crate::raw::{Raw, channel, channel_of, csr};
use crate::support::{EDGE, Feed, Node, audience_of};

const DAY: i64 = 24 * 3600;

async fn feed() -> Feed {
    let feed = Feed::start().await;
    feed.registry.add("edge-1", &["lb"]);
    feed
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_enrols_once_and_its_credential_outlives_the_process() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let enrolment = feed.enrolment("edge-1", dir.path()).await;
    let identity = Identity::load_or_enroll(&enrolment).await.unwrap();
    assert_eq!((identity.node_id(), identity.cell()), ("edge-1", "cell-1"));
    assert_eq!(identity.audiences(), [EDGE]);
    assert_eq!(identity.controllers(), [feed.address.to_string()]);
    assert_eq!(identity.roots(), feed.handle.authorities().roots_der());
    let week = 7 * DAY;
    assert!((week - 60..=week).contains(&(identity.not_after() - unix_now())));
    assert_eq!(mode(&enrolment.dir), 0o700);
    let files: Vec<_> = fs::read_dir(&enrolment.dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.iter().all(|path| mode(path) == 0o600), "{files:?}");
    assert!(!enrolment.dir.join("pending-key.pem").exists());
    assert!(matches!(Identity::load_or_enroll(&enrolment).await, Err(IdentityError::InUse { .. })));
    let (from, to) = (identity.not_after(), identity.renew_at());
    drop(identity);
    // No controller, no token: the credential is enough.
    drop(feed.stop().await);
    let alone = Enrolment { token: TokenSource::None, ..enrolment };
    let again = Identity::load_or_enroll(&alone).await.unwrap();
    assert_eq!((again.not_after(), again.renew_at(), again.node_id()), (from, to, "edge-1"));
    assert_eq!(again.audiences(), [EDGE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_credential_is_reported_with_the_next_step() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let enrolment = feed.enrolment("edge-1", dir.path()).await;
    drop(Identity::load_or_enroll(&enrolment).await.unwrap());
    let path = enrolment.dir.join("credential.pem");
    let pem = fs::read_to_string(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    drop(Identity::load_or_enroll(&enrolment).await.unwrap());
    assert_eq!(mode(&path), 0o600);
    for cut in [0, 40, pem.len() / 2, pem.len() - 40] {
        fs::write(&path, &pem[..cut]).unwrap();
        let error = Identity::load_or_enroll(&enrolment).await.unwrap_err();
        assert!(matches!(error, IdentityError::Corrupt { .. }), "{cut}: {error}");
        assert!(error.to_string().contains("new join token"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_of_another_authority_gets_nothing() {
    let (ours, dir) = (feed().await, tempfile::tempdir().unwrap());
    let other = feed().await;
    let mut enrolment = ours.enrolment("edge-1", dir.path()).await;
    enrolment.controllers = vec![other.address.to_string()];
    let error = Identity::load_or_enroll(&enrolment).await.unwrap_err();
    let IdentityError::FingerprintMismatch { expected, found, .. } = error else { panic!("{error}") };
    assert_eq!(expected, ours.handle.authorities().issuing());
    assert_eq!(found, other.handle.authorities().issuing());
    // The token was not shown to it: at the right controller it still works.
    enrolment.controllers = vec![ours.address.to_string()];
    assert!(Identity::load_or_enroll(&enrolment).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_certificate_does_not_pass_for_a_controllers() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let authorities = feed.handle.authorities();
    let key = KeyPair::generate().unwrap();
    let leaf =
        authorities.issue_node_between("edge-1", None, &csr(&key), unix_now(), unix_now() + 86_400).unwrap();
    let mut chain = vec![leaf];
    chain.extend(authorities.roots_der().into_iter().map(Into::into));
    let mut tls = rustls::ServerConfig::builder_with_provider(hosting_intent_sync::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(tls));
    let impostor = tokio::spawn(async move {
        let mut shaken = 0;
        while let Ok((tcp, _)) = listener.accept().await {
            shaken += u32::from(acceptor.accept(tcp).await.is_ok());
            if shaken > 0 {
                break;
            }
        }
    });
    let mut enrolment = feed.enrolment("edge-1", dir.path()).await;
    enrolment.controllers = vec![address.to_string()];
    enrolment.patience = Duration::from_millis(500);
    let error = Identity::load_or_enroll(&enrolment).await.unwrap_err();
    assert!(error.to_string().contains("not a controller"), "{error}");
    assert!(!impostor.is_finished());
    impostor.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_once_but_a_lost_answer_can_be_asked_for_again() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let token = feed.handle.mint("edge-1", Duration::from_secs(900)).await.unwrap();
    let first = feed.enrolment_with(&token, &dir.path().join("1"));
    drop(Identity::load_or_enroll(&first).await.unwrap());
    let second = feed.enrolment_with(&token, &dir.path().join("2"));
    let error = Identity::load_or_enroll(&second).await.unwrap_err();
    assert!(matches!(error, IdentityError::TokenUsed { .. }), "{error}");
    assert!(error.to_string().contains("hostctl node join-token edge-1"), "{error}");
    // As if the first process had died before the answer came: its key was on disk already.
    let lost = feed.enrolment_with(&token, &dir.path().join("3"));
    fs::create_dir_all(&lost.dir).unwrap();
    let pem = fs::read_to_string(first.dir.join("credential.pem")).unwrap();
    let end = pem.find("-----BEGIN CERTIFICATE").unwrap();
    fs::write(lost.dir.join("pending-key.pem"), &pem[..end]).unwrap();
    let identity = Identity::load_or_enroll(&lost).await.unwrap();
    assert_eq!(identity.node_id(), "edge-1");
    assert_eq!(feed.metric("feed_certificates_total{kind=\"Enrolled\"}"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_with_one_token_one_gets_in() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let token = feed.handle.mint("edge-1", Duration::from_secs(900)).await.unwrap();
    let tries = (0..8).map(|n| {
        let enrolment = feed.enrolment_with(&token, &dir.path().join(n.to_string()));
        async move { Identity::load_or_enroll(&enrolment).await }
    });
    let outcomes = futures::future::join_all(tries).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let used =
        |outcome: &&Result<Identity, IdentityError>| matches!(outcome, Err(IdentityError::TokenUsed { .. }));
    assert_eq!(outcomes.iter().filter(used).count(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_and_unknown_tokens_and_nodes_are_told_apart() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let enrol = async |token: &str, name: &str| {
        Identity::load_or_enroll(&feed.enrolment_with(token, &dir.path().join(name))).await.unwrap_err()
    };
    let expired = feed.handle.mint("edge-1", Duration::ZERO).await.unwrap();
    let error = enrol(&expired, "here").await;
    assert!(matches!(error, IdentityError::TokenExpired { .. }), "{error}");
    // A machine whose clock is behind asks, and the controller says so.
    let mut token = JoinToken::parse(&expired).unwrap();
    token.expires_at = unix_now() + 900;
    let error = enrol(&token.encode(), "there").await;
    assert!(matches!(error, IdentityError::TokenExpired { .. }), "{error}");
    let good = feed.handle.mint("edge-1", Duration::from_secs(900)).await.unwrap();
    let mut other = JoinToken::parse(&good).unwrap();
    other.node_id = "edge-2".into();
    let error = enrol(&other.encode(), "other").await;
    assert!(matches!(error, IdentityError::TokenUnknown { .. }), "{error}");
    feed.registry.remove("edge-1");
    let error = enrol(&good, "removed").await;
    assert!(matches!(error, IdentityError::NodeUnknown { .. }), "{error}");
    assert!(matches!(feed.handle.mint("edge-1", Duration::ZERO).await, Err(MintError::NoNode(_))));
    assert!(matches!(feed.handle.mint("a/b", Duration::ZERO).await, Err(MintError::Name(_))));
    let error = enrol("hjt1.AAAA", "rubbish").await;
    assert!(matches!(error, IdentityError::Token(_)), "{error}");
    assert!(feed.metric("feed_refused_total{reason=\"Token\"}") >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_down_and_a_bad_request_costs_no_token() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let enrolment = feed.enrolment("edge-1", dir.path()).await;
    let token = JoinToken::parse(&fs::read_to_string(dir.path().join("token")).unwrap()).unwrap();
    let channel = channel(feed.address, &feed.handle.authorities(), None).await.unwrap();
    let mut client = EnrollmentClient::new(channel);
    let mut codes = Vec::new();
    for n in 0..12_u8 {
        let guess = JoinToken::new([n; 32], token.ca, "edge-1".into(), vec![], vec![], 0).encode();
        let secret = format!("{}{n:02}", &guess[5..46]);
        let csr_der = if n == 0 { b"rubbish".to_vec() } else { csr(&KeyPair::generate().unwrap()) };
        let request =
            EnrollRequest { node_id: "edge-1".into(), secret, csr_der: csr_der.into(), role: String::new() };
        codes.push(client.enroll(request).await.unwrap_err().code());
    }
    assert!(
        codes[..10].iter().all(|code| *code == Code::Unauthenticated || *code == Code::InvalidArgument),
        "{codes:?}"
    );
    assert_eq!(codes[10..], [Code::ResourceExhausted; 2]);
    // Whoever comes from the same network and has a token is let in all the same.
    let hurried = Enrolment { patience: Duration::ZERO, ..enrolment };
    assert!(Identity::load_or_enroll(&hurried).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_may_renew_and_nothing_else() {
    let feed = feed().await;
    let (authorities, now) = (feed.handle.authorities(), unix_now());
    let expired =
        channel(feed.address, &authorities, Some(("edge-1", now - 9 * DAY, now - 2 * DAY))).await.unwrap();
    let status = Raw::open(expired.clone(), EDGE, None).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("renew it"), "{status}");
    let status = IntentFeedClient::new(expired.clone()).report(ReportRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let request = || RenewRequest { csr_der: csr(&KeyPair::generate().unwrap()).into() };
    let credential = EnrollmentClient::new(expired).renew(request()).await.unwrap().into_inner();
    assert_eq!((credential.chain_der.len(), credential.roots_der.len()), (1, 1));
    // Too long ago: not even a handshake.
    let old = channel(feed.address, &authorities, Some(("edge-1", now - 60 * DAY, now - 31 * DAY))).await;
    if let Ok(channel) = old {
        assert!(EnrollmentClient::new(channel).renew(request()).await.is_err());
    }
    // Without a certificate: neither.
    let nobody = channel(feed.address, &authorities, None).await.unwrap();
    let status = EnrollmentClient::new(nobody.clone()).renew(request()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let status = Raw::open(nobody.clone(), EDGE, None).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
    let status = IntentFeedClient::new(nobody).report(ReportRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    // Of another authority with the same names: not even a handshake.
    let forged = Authorities::create("cell-1", now).unwrap();
    let node = Some(("edge-1", now - DAY, now + DAY));
    let foreign = channel_of(feed.address, &authorities, &forged, node).await;
    if let Ok(channel) = foreign {
        assert!(EnrollmentClient::new(channel).renew(request()).await.is_err());
    }
    assert!(feed.metric("feed_refused_total{reason=\"Handshake\"}") >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_off_for_weeks_renews_and_goes_on() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let enrolment = feed.enrolment("edge-1", dir.path()).await;
    drop(Identity::load_or_enroll(&enrolment).await.unwrap());
    age(&feed.handle.authorities(), &enrolment.dir, unix_now() - 20 * DAY, unix_now() - 13 * DAY);
    let identity = Identity::load_or_enroll(&enrolment).await.unwrap();
    assert!(identity.not_after() < unix_now());
    let revision = feed.store.route("a.example");
    let node = Node::start(&identity, EDGE, dir.path());
    feed.applied("edge-1", EDGE, revision).await;
    assert!(identity.not_after() > unix_now() + 6 * DAY);
    node.stop().await;
    drop(identity);
    let kept = Identity::load_or_enroll(&enrolment).await.unwrap();
    assert!(kept.not_after() > unix_now() + 6 * DAY, "on disk as well");
}

/// Clocks were ahead when the certificate was made, and are right again.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_future_may_renew_and_nothing_else() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let (authorities, now) = (feed.handle.authorities(), unix_now());
    let early =
        channel(feed.address, &authorities, Some(("edge-1", now + 10 * DAY, now + 17 * DAY))).await.unwrap();
    let status = Raw::open(early.clone(), EDGE, None).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
    let status = IntentFeedClient::new(early).report(ReportRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let request = || RenewRequest { csr_der: csr(&KeyPair::generate().unwrap()).into() };
    let far = channel(feed.address, &authorities, Some(("edge-1", now + 31 * DAY, now + 38 * DAY))).await;
    if let Ok(channel) = far {
        assert!(EnrollmentClient::new(channel).renew(request()).await.is_err());
    }

    let enrolment = feed.enrolment("edge-1", dir.path()).await;
    drop(Identity::load_or_enroll(&enrolment).await.unwrap());
    age(&authorities, &enrolment.dir, now + 10 * DAY, now + 17 * DAY);
    let identity = Identity::load_or_enroll(&enrolment).await.unwrap();
    let revision = feed.store.route("a.example");
    let node = Node::start(&identity, EDGE, dir.path());
    feed.applied("edge-1", EDGE, revision).await;
    assert!(identity.not_before() < unix_now());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_two_thirds_of_its_life_a_certificate_is_renewed_in_passing() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let enrolment = feed.enrolment("edge-1", dir.path()).await;
    drop(Identity::load_or_enroll(&enrolment).await.unwrap());
    age(&feed.handle.authorities(), &enrolment.dir, unix_now() - 5 * DAY, unix_now() + 2 * DAY);
    let identity = Identity::load_or_enroll(&enrolment).await.unwrap();
    assert!(identity.renew_at() < unix_now());
    feed.store.route("a.example");
    let node = Node::start(&identity, EDGE, dir.path());
    let renewed = async {
        while identity.not_after() < unix_now() + 6 * DAY {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), renewed).await.unwrap();
    node.until("still in its first session", |s| s.as_ref().is_some_and(|s| s.counters.sessions == 1)).await;
    node.stop().await;
}

/// Puts a certificate of another life in the place of an enrolled one.
fn age(authorities: &Authorities, dir: &Path, from: i64, to: i64) {
    let path = dir.join("credential.pem");
    let pem = fs::read_to_string(&path).unwrap();
    let key_pem = &pem[..pem.find("-----BEGIN CERTIFICATE").unwrap()];
    let key = KeyPair::from_pem(key_pem).unwrap();
    let before = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let enrolled = NodeCertificate::parse(&before).unwrap().enrolled;
    let der = authorities.issue_node_between("edge-1", Some(&enrolled), &csr(&key), from, to).unwrap();
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    fs::write(&path, format!("{key_pem}-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_node_from_the_registry_revokes_it() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let identity = feed.enrol("edge-1", dir.path()).await.unwrap();
    let first = feed.store.route("a.example");
    let node = Node::start(&identity, EDGE, dir.path());
    feed.applied("edge-1", EDGE, first).await;
    feed.registry.remove("edge-1");
    feed.fleet.forget("edge-1");
    feed.store.route("b.example");
    let refused = async {
        while feed.metric("feed_refused_total{reason=\"Revoked\"}") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // It was told to stay away for a minute; a new process comes at once.
    node.stop().await;
    let node = Node::start(&identity, EDGE, dir.path());
    tokio::time::timeout(Duration::from_secs(5), refused).await.unwrap();
    assert_eq!(node.names().len(), 1, "it serves what it has, and gets nothing new");
    assert!(feed.fleet.subscribers(&audience_of(EDGE)).is_empty());
    let channel =
        channel(feed.address, &feed.handle.authorities(), Some(("edge-1", unix_now() - 60, unix_now() + 60)))
            .await;
    let request = RenewRequest { csr_der: csr(&KeyPair::generate().unwrap()).into() };
    let status = EnrollmentClient::new(channel.unwrap()).renew(request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_root_follows_another_without_anybody_losing_touch() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    feed.registry.add("edge-2", &["lb"]);
    let enrolment = feed.enrolment("edge-1", dir.path()).await;
    let identity = Identity::load_or_enroll(&enrolment).await.unwrap();
    let asleep_dir = tempfile::tempdir().unwrap();
    let asleep = feed.enrol("edge-2", asleep_dir.path()).await.unwrap();
    let publish = |authorities: &Authorities| {
        let ca_der = authorities.roots_der().into_iter().map(Into::into).collect();
        let value = message::TrustRoots { ca_der }.encode_to_vec();
        feed.store.commit(
            EDGE,
            vec![(hosting_intent::Key::new(Kind::TrustRoots, "roots"), value.into())],
            vec![],
        )
    };
    let mut authorities = feed.handle.authorities();
    let old = authorities.issuing();
    publish(&authorities);
    let node = Node::start(&identity, EDGE, dir.path());

    // 1. A new root: trusted, spread, not issuing.
    let new = authorities.add(unix_now()).unwrap();
    feed.handle.replace_authorities(authorities.clone()).unwrap();
    let revision = publish(&authorities);
    feed.applied("edge-1", EDGE, revision).await;
    assert_eq!(feed.fleet.lagging(&audience_of(EDGE), "epoch-1", revision), [""; 0]);
    assert_eq!(roots(&identity), [old, new]);

    // 2. It issues. Sessions are made anew; one that slept through it all knows the old root only.
    authorities.promote(new, unix_now()).unwrap();
    feed.handle.replace_authorities(authorities.clone()).unwrap();
    node.stop().await;
    let node = Node::start(&identity, EDGE, dir.path());
    let revision = feed.store.route("a.example");
    feed.applied("edge-1", EDGE, revision).await;
    assert_eq!(roots(&asleep), [old]);
    let sleeper = Node::start(&asleep, EDGE, asleep_dir.path());
    feed.applied("edge-2", EDGE, revision).await;
    assert_eq!(roots(&asleep), [old, new]);
    sleeper.stop().await;
    let token =
        JoinToken::parse(&feed.handle.mint("edge-1", Duration::from_secs(60)).await.unwrap()).unwrap();
    assert_eq!(token.ca, new);

    // 3. The old one is retired, once this node has a certificate of the new one.
    node.stop().await;
    drop(identity);
    age(&authorities, &enrolment.dir, unix_now() - 60, unix_now() + DAY);
    let identity = Identity::load_or_enroll(&enrolment).await.unwrap();
    authorities.retire(old).unwrap();
    feed.handle.replace_authorities(authorities.clone()).unwrap();
    let revision = publish(&authorities);
    let node = Node::start(&identity, EDGE, dir.path());
    feed.applied("edge-1", EDGE, revision).await;
    assert_eq!(roots(&identity), [new]);
    node.stop().await;
    let node = Node::start(&identity, EDGE, dir.path());
    let revision = feed.store.route("b.example");
    feed.applied("edge-1", EDGE, revision).await;

    // Roots that would cut the node off from this controller are refused like any bad item.
    let revision = publish(&Authorities::create("cell-1", unix_now()).unwrap());
    feed.applied("edge-1", EDGE, revision).await;
    node.until("the bad roots are rejected", |s| s.as_ref().is_some_and(|s| s.rejected == 1)).await;
    assert_eq!(roots(&identity), [new]);
    node.stop().await;
    // What is left of the old root opens nothing.
    let last = channel(feed.address, &authorities, None).await.unwrap();
    let status = Raw::open(last, EDGE, None).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
}

fn roots(identity: &Identity) -> Vec<Fingerprint> {
    identity.roots().iter().map(|der| Fingerprint::of(der)).collect()
}
