//! The edge asks its own listeners for what it applied, as a visitor would, and compares what they answer with what was wanted.
//!
//! Over every listener: a connection, over TLS the handshake for the host, and a request that the connection's own code takes, parses and
//! resolves like any other. In the place of the site's answer it gets what the table has of the host ([`hosting_edge_map::seen`]). The request
//! shows a secret that nobody outside of this process knows; without it the path is one of the site's.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hosting_edge_http1::Request;
use hosting_edge_map::{Routing, seen};
use hosting_intent::message::ShardPool;
use hosting_intent::{EdgeIntent, EdgeKind, Key};
use hosting_intent_sync::self_check::SelfCheck;
use hosting_scaffold::client_address::is_trusted;
use hosting_scaffold::networks::reachable;
use ipnet::IpNet;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::certs::CertStore;
use crate::proxy_header;

/// The path that checks ask for. Without the secret it is a path of the site like any other.
const PATH: &str = "/.well-known/hosting-self-check";
/// The field that carries the secret.
const FIELD: &str = "x-hosting-self-check";
/// Largest answer that is read: a pool of thousands of nodes.
const MAX_ANSWER: u64 = 4 << 20;
/// Items whose host is remembered; more than wait to be asked for.
pub(crate) const HOSTS: usize = 4_096;

/// What a check shows, so that only this process can ask. Made anew at each start.
#[derive(Clone)]
pub(crate) struct CheckSecret(Arc<str>);

impl std::fmt::Debug for CheckSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CheckSecret")
    }
}

impl CheckSecret {
    /// # Errors
    /// No random numbers to be had.
    pub(crate) fn new(provider: &CryptoProvider) -> Result<Self, rustls::Error> {
        let mut bytes = [0; 32];
        provider.secure_random.fill(&mut bytes).map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
        let mut text = String::with_capacity(64);
        for byte in bytes {
            // Writing into a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Ok(Self(text.into()))
    }

    /// Whether a request is a check of this process.
    pub(crate) fn is_shown_by(&self, request: &Request) -> bool {
        if request.head().target() != PATH.as_bytes() {
            return false;
        }
        let Some(shown) = request.head().field(FIELD.as_bytes()) else { return false };
        // In a time that does not tell how much of it is right.
        let differing = shown.iter().zip(self.0.as_bytes()).fold(0, |all, (one, other)| all | (one ^ other));
        shown.len() == self.0.len() && differing == 0
    }
}

/// By which host a tenant's state, or a shard's pool, shows. Noted when it is applied.
#[derive(Debug, Default)]
pub(crate) struct HostsOf(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    /// `None`: no route names it.
    hosts: HashMap<Key, Option<Arc<str>>>,
    order: VecDeque<Key>,
    /// Of each shard, the addresses of its nodes in service: before the last change, and since.
    pools: HashMap<String, [Vec<SocketAddr>; 2]>,
}

impl HostsOf {
    pub(crate) fn note(&self, key: Key, host: Option<Arc<str>>) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.hosts.insert(key.clone(), host).is_none() {
            noted.order.push_back(key);
        }
        if noted.order.len() > HOSTS
            && let Some(oldest) = noted.order.pop_front()
        {
            noted.hosts.remove(&oldest);
        }
    }

    /// Notes who serves a shard from now on; `None`: nobody knows of it any more.
    pub(crate) fn note_pool(&self, shard: &str, pool: Option<&ShardPool>) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pool) = pool else {
            noted.pools.remove(shard);
            return;
        };
        let nodes = pool.nodes.iter().filter(|node| node.in_service);
        let now = nodes.flat_map(|node| &node.addresses).filter_map(|address| address.parse().ok()).collect();
        let known = noted.pools.entry(shard.to_owned()).or_default();
        let before = std::mem::replace(&mut known[1], now);
        known[0] = before;
    }

    fn pool(&self, shard: &str) -> [Vec<SocketAddr>; 2] {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pools.get(shard).cloned().unwrap_or_default()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Option<Arc<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).hosts.get(key).cloned()
    }
}

/// What the edge needs to ask itself.
#[derive(Debug)]
pub struct EdgeSelfCheck {
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    secret: CheckSecret,
    hosts: Arc<HostsOf>,
    routing: Arc<Routing>,
    certs: Arc<CertStore>,
    tls: Arc<ClientConfig>,
    balancers: Vec<IpNet>,
}

/// An answer to a check.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// The table's lines of the host.
    Lines(Vec<String>),
    /// The host is not known.
    Unknown,
}

impl EdgeSelfCheck {
    /// Of listeners at these addresses.
    pub(crate) fn new(
        (http, https): (Vec<SocketAddr>, Vec<SocketAddr>),
        secret: CheckSecret,
        hosts: Arc<HostsOf>,
        routing: Arc<Routing>,
        certs: Arc<CertStore>,
        balancers: Vec<IpNet>,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ForTheName(provider)))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Each check is a whole handshake: one that is resumed shows no certificate.
        config.resumption = rustls::client::Resumption::disabled();
        let near = |all: Vec<SocketAddr>| all.into_iter().map(reachable).collect();
        let tls = Arc::new(config);
        Ok(Self { http: near(http), https: near(https), secret, hosts, routing, certs, tls, balancers })
    }

    /// What each listener answers for the host of a route, and the certificate that it shows.
    async fn ask(&self, host: &str) -> Result<Vec<(String, Seen, Option<CertificateDer<'static>>)>, String> {
        let host = &*host_below(host);
        let mut answers = Vec::new();
        for address in &self.http {
            let name = format!("http {address}");
            let tcp = connect(&name, *address, &self.balancers).await?;
            answers.push((name.clone(), self.exchange(&name, tcp, host).await?, None));
        }
        for address in &self.https {
            let name = format!("https {address}");
            // Without a route there is no certificate for it either.
            if !self.routing.knows(host) {
                answers.push((name, Seen::Unknown, None));
                continue;
            }
            let tcp = connect(&name, *address, &self.balancers).await?;
            let server = ServerName::try_from(host.to_owned()).map_err(|error| format!("{host}: {error}"))?;
            let tls = TlsConnector::from(Arc::clone(&self.tls))
                .connect(server, tcp)
                .await
                .map_err(|error| format!("{name}: {error}"))?;
            let leaf = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
            answers.push((
                name.clone(),
                self.exchange(&name, tls, host).await?,
                leaf.map(CertificateDer::into_owned),
            ));
        }
        Ok(answers)
    }

    async fn exchange(
        &self,
        name: &str,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        host: &str,
    ) -> Result<Seen, String> {
        let failed = |error| format!("{name}: {error}");
        let secret = &self.secret.0;
        let request =
            format!("GET {PATH} HTTP/1.1\r\nhost: {host}\r\n{FIELD}: {secret}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await.map_err(failed)?;
        let answer = String::from_utf8_lossy(&answer);
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => {
                let lines = body.lines().map(str::to_owned).collect::<Vec<_>>();
                Ok(if lines.is_empty() { Seen::Unknown } else { Seen::Lines(lines) })
            }
            Some((head, _)) => Err(format!("{name} answers {}", head.lines().next().unwrap_or_default())),
            None => Err(format!("{name} closes without an answer")),
        }
    }

    /// All listeners show these lines for a host; with `unless_gone` it may have no route any more.
    async fn all_show(&self, host: &str, lines: &[String], unless_gone: bool) -> Result<(), String> {
        for (name, answer, _) in self.ask(host).await? {
            match answer {
                Seen::Unknown if unless_gone => {}
                Seen::Unknown => return Err(format!("{name} does not know the host")),
                Seen::Lines(table) => {
                    if let Some(missing) = lines.iter().find(|line| !table.contains(line)) {
                        return Err(format!("{name} has another `{missing}` for {host}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// A node of the shard takes connections, unless none did before its nodes changed either. That some do not is nothing: they are passed
    /// over, and may be about to be set up.
    async fn somebody_serves(&self, shard: &str) -> Result<(), String> {
        let [before, now] = self.hosts.pool(shard);
        if before == now || any_answers(&now).await || !any_answers(&before).await {
            return Ok(());
        }
        let now: Vec<String> = now.iter().map(ToString::to_string).collect();
        Err(format!(
            "no node of the shard answers at {}, and where they were before one does",
            now.join(", ")
        ))
    }

    /// The host by which an item shows; `None`: nobody sees it.
    fn host_of(&self, key: &Key) -> Result<Option<Arc<str>>, String> {
        self.hosts.get(key).ok_or_else(|| format!("it is not known any more by which host {key} shows"))
    }

    /// Every listener shows the certificate that the store has for its hosts, and the store has it.
    async fn certificate(
        &self,
        id: &str,
        wanted: &hosting_intent::message::Certificate,
    ) -> Result<(), String> {
        let leaf = wanted.chain_der.first().map(|der| &**der);
        let schemes = self.tls.crypto_provider().signature_verification_algorithms.supported_schemes();
        let hosts = wanted.names.iter().filter(|name| self.routing.is_of_tenant(name, &wanted.tenant_id));
        for host in hosts.take(HOSTS_OF_A_CERTIFICATE) {
            if !self.certs.tenants().has(host, id, leaf) {
                return Err(format!("the certificate is not among those of {host}"));
            }
            let best = self.certs.tenants().leaf(&host_below(host), &schemes);
            for (name, _, shown) in self.ask(host).await? {
                if shown.is_some() && shown != best {
                    return Err(format!("{name} shows another certificate for {host}"));
                }
            }
        }
        Ok(())
    }
}

/// The line that shows what a certificate authority is answered for a host.
pub(crate) fn challenge_line(key_authorization: &str) -> String {
    format!("acme_challenge {key_authorization}")
}

/// Addresses of nodes that are asked whether anybody is there.
const ASKED_NODES: usize = 64;
/// How long a node may take to take a connection.
const NODE_WAIT: Duration = Duration::from_secs(1);
/// The label of the host that is asked for in the place of a wildcard.
const WILDCARD_PROBE: &str = "hosting-self-check";
/// Names of one certificate that are asked for.
const HOSTS_OF_A_CERTIFICATE: usize = 3;

#[async_trait]
impl SelfCheck<EdgeIntent> for EdgeSelfCheck {
    async fn check(&self, key: &Key, wanted: Option<&EdgeIntent>) -> Result<(), String> {
        match (wanted, EdgeKind::of(key)) {
            (Some(EdgeIntent::Certificate(certificate)), _) => self.certificate(&key.name, certificate).await,
            (Some(intent @ EdgeIntent::Route(_)), _) => {
                let mut lines = seen::wanted(intent);
                lines.push(seen::route(&key.name));
                self.all_show(&key.name, &lines, false).await
            }
            (Some(intent @ (EdgeIntent::TenantState(_) | EdgeIntent::ShardPool(_))), _) => {
                if let Some(host) = self.host_of(key)? {
                    self.all_show(&host, &seen::wanted(intent), true).await?;
                }
                match intent {
                    EdgeIntent::ShardPool(_) => self.somebody_serves(&key.name).await,
                    _ => Ok(()),
                }
            }
            (Some(EdgeIntent::AcmeChallenge(challenge)), _) => {
                let line = challenge_line(&challenge.key_authorization);
                self.all_show(&key.name, &[line], true).await
            }
            (None, Some(EdgeKind::Route)) => {
                let own = seen::route(&key.name);
                for (name, answer, _) in self.ask(&key.name).await? {
                    // A wildcard may take the host over.
                    if matches!(answer, Seen::Lines(lines) if lines.contains(&own)) {
                        return Err(format!("{name} still knows the host"));
                    }
                }
                Ok(())
            }
            // A tenant's last state stays as long as routes name it, and a pool that is gone leaves routes that lead nowhere; both show by the
            // routes. A certificate that is withdrawn gives way to another one, and nobody asks for a challenge that is over.
            (
                None,
                Some(
                    EdgeKind::TenantState
                    | EdgeKind::ShardPool
                    | EdgeKind::Certificate
                    | EdgeKind::AcmeChallenge,
                ),
            )
            | (
                Some(
                    EdgeIntent::TrustRoots(_)
                    | EdgeIntent::Brand(_)
                    | EdgeIntent::EdgeCount(_)
                    | EdgeIntent::AudienceKey(_)
                    | EdgeIntent::TicketKeys(_)
                    | EdgeIntent::EdgeSettings(_),
                ),
                _,
            )
            | (
                None,
                Some(
                    EdgeKind::TrustRoots
                    | EdgeKind::Brand
                    | EdgeKind::EdgeCount
                    | EdgeKind::AudienceKey
                    | EdgeKind::TicketKeys
                    | EdgeKind::EdgeSettings,
                )
                | None,
            ) => Ok(()),
        }
    }
}

/// Whether anybody takes a connection at some of these addresses.
async fn any_answers(addresses: &[SocketAddr]) -> bool {
    let mut asked: FuturesUnordered<_> = addresses
        .iter()
        .take(ASKED_NODES)
        .map(|address| tokio::time::timeout(NODE_WAIT, TcpStream::connect(*address)))
        .collect();
    while let Some(connected) = asked.next().await {
        if matches!(connected, Ok(Ok(_))) {
            return true;
        }
    }
    false
}

/// A connection to a listener, which takes this machine for a balancer if it is in one of their networks.
async fn connect(name: &str, address: SocketAddr, balancers: &[IpNet]) -> Result<TcpStream, String> {
    let connecting = async {
        let mut tcp = TcpStream::connect(address).await?;
        if is_trusted(balancers, tcp.local_addr()?.ip()) {
            tcp.write_all(&proxy_header::LOCAL).await?;
        }
        Ok::<_, std::io::Error>(tcp)
    };
    connecting.await.map_err(|error| format!("{name}: {error}"))
}

/// Takes a certificate that is for the name, whoever issued it: what visitors think of the issuer is not known here. The handshake proves that
/// the listener has its key.
#[derive(Debug)]
struct ForTheName(Arc<CryptoProvider>);

impl ServerCertVerifier for ForTheName {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A host that a route is for: of a wildcard, one that nobody else has.
fn host_below(route: &str) -> Cow<'_, str> {
    route
        .strip_prefix("*.")
        .map_or(Cow::Borrowed(route), |above| Cow::Owned(format!("{WILDCARD_PROBE}.{above}")))
}
