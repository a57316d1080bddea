//! What the tests of certificates have outside of the platform: a name server for lies, the authority, and one that says when to renew.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::harness::{Platform, eventually, free_port};

/// A name server in front of the platform's own, for the authority and the controller: what a test says of a name goes first.
pub(super) struct Resolver {
    pub(super) address: SocketAddr,
    pub(super) behind: Arc<Mutex<Option<SocketAddr>>>,
    said: Arc<Mutex<Vec<(String, Said)>>>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy)]
pub(super) enum Said {
    Address(&'static str),
    Nothing,
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Resolver {
    pub(super) async fn start() -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = socket.local_addr().unwrap();
        let behind: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let said: Arc<Mutex<Vec<(String, Said)>>> = Arc::default();
        let (to, words) = (Arc::clone(&behind), Arc::clone(&said));
        let task = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
                let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
                let name = question.queries[0].name().to_ascii().trim_end_matches('.').to_lowercase();
                let word =
                    words.lock().unwrap().iter().rev().find(|(one, _)| *one == name).map(|(_, said)| *said);
                let (to, asked) = (*to.lock().unwrap(), buffer[..length].to_vec());
                let socket = Arc::clone(&socket);
                // Nobody waits for what another one asked.
                tokio::spawn(async move {
                    let answer = match word {
                        Some(said) => Some(answer(&question, said)),
                        None => ask(to, &asked).await,
                    };
                    if let Some(answer) = answer {
                        socket.send_to(&answer, client).await.unwrap();
                    }
                });
            }
        });
        Self { address, behind, said, task }
    }

    pub(super) fn says(&self, name: &str, said: Said) {
        self.said.lock().unwrap().push((name.to_owned(), said));
    }

    /// What the TXT records of a name say.
    pub(super) async fn texts(&self, name: &str) -> Vec<String> {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::TXT));
        let answer = ask(Some(self.address), &question.to_vec().unwrap()).await.unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        let texts = answer.answers.iter().filter_map(|record| match &record.data {
            RData::TXT(text) => Some(String::from_utf8(text.txt_data.concat()).unwrap()),
            _ => None,
        });
        texts.collect()
    }

    pub(super) fn says_no_more(&self) {
        self.said.lock().unwrap().clear();
    }
}

fn answer(question: &Message, said: Said) -> Vec<u8> {
    let mut answer = question.clone();
    answer.metadata.message_type = hickory_proto::op::MessageType::Response;
    match said {
        Said::Nothing => answer.metadata.response_code = ResponseCode::NXDomain,
        Said::Address(address) => {
            if question.queries[0].query_type() == RecordType::A {
                let data = RData::A(A(address.parse().unwrap()));
                answer.answers.push(Record::from_rdata(question.queries[0].name().clone(), 1, data));
            }
        }
    }
    answer.to_vec().unwrap()
}

/// Asks as resolvers do: what is lost is asked again.
async fn ask(server: Option<SocketAddr>, question: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server?).await.ok()?;
    let mut buffer = vec![0; 4096];
    for patience in [400, 800, 1_600].map(Duration::from_millis) {
        socket.send(question).await.ok()?;
        if let Ok(length) = tokio::time::timeout(patience, socket.recv(&mut buffer)).await {
            buffer.truncate(length.ok()?);
            return Some(buffer);
        }
    }
    None
}

/// A server's certificate, and the root that it is trusted by.
struct Localhost {
    pub(super) root: String,
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Localhost {
    fn new() -> Self {
        let above = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&above).unwrap().pem();
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        Self { root, certificate: own.signed_by(&key, &Issuer::new(params, above)).unwrap(), key }
    }
}

/// How long the authority goes on with an order after it said that it completes it, and much more.
const COMPLETES: Duration = Duration::from_millis(25);

/// The authority; ends with its owner.
pub(super) struct Pebble {
    folder: TempDir,
    child: Child,
    pub(super) port: u16,
    management: u16,
    /// Held by whoever makes an order, or has one completed: Pebble 2.4 stands still for good when it looks for an authorization to use again
    /// (`FindValidAuthorization`, which locks its store and then an order) while it makes, or completes, an order (which locks that and then the store).
    ordering: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- pebble\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

impl Pebble {
    /// One that looks at the platform's edge; its certificates are good for so many seconds.
    pub(super) async fn start(platform: &Platform, resolver: &Resolver, seconds: u64) -> Self {
        let port = |what: &str| -> u16 {
            platform.summary[what].as_str().unwrap().parse::<SocketAddr>().unwrap().port()
        };
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let Localhost { root, certificate, key } = Localhost::new();
        fs::write(at("root.pem"), root).unwrap();
        fs::write(at("own.pem"), certificate.pem()).unwrap();
        fs::write(at("own.key"), key.serialize_pem()).unwrap();
        let (own_port, management) = (free_port(), free_port());
        let config = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{own_port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": at("own.pem"), "privateKey": at("own.key"),
            "httpPort": port("edge_http"), "tlsPort": port("edge_https"),
            "ocspResponderURL": "", "externalAccountBindingRequired": false,
            "domainBlocklist": ["blocked.acme-hosting.test"],
            "certificateValidityPeriod": seconds,
        }});
        fs::write(at("config.json"), config.to_string()).unwrap();
        let log = File::create(at("log")).unwrap();
        let child = Command::new("/usr/bin/pebble")
            .arg("-config")
            .arg(at("config.json"))
            .arg("-dnsserver")
            .arg(resolver.address.to_string())
            // It refuses one good nonce in twenty, and does not wait before it looks.
            .envs([("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_AUTHZREUSE", "0"), ("PEBBLE_WFE_NONCEREJECT", "5")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let pebble = Self { folder, child, port: own_port, management, ordering: Arc::default() };
        eventually("the authority answers", Duration::from_secs(10), async || pebble.fetch("roots/0").await)
            .await;
        pebble
    }

    pub(super) fn own_root(&self) -> String {
        fs::read_to_string(self.folder.path().join("root.pem")).unwrap()
    }

    async fn fetch(&self, path: &str) -> Option<String> {
        let root = reqwest::Certificate::from_pem(self.own_root().as_bytes()).unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
        let url = format!("https://localhost:{}/{path}", self.management);
        client.get(url).send().await.ok()?.text().await.ok()
    }

    /// Who signs what it issues.
    pub(super) async fn root(&self) -> String {
        self.fetch("roots/0").await.unwrap()
    }

    /// The body that makes it known to the platform.
    pub(super) fn body(&self, name: &str, more: Value) -> Value {
        authority(name, self.port, &self.own_root(), more)
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

pub(super) fn authority(name: &str, port: u16, root: &str, more: Value) -> Value {
    let mut body = json!({
        "name": name,
        "directory_url": format!("https://localhost:{port}/dir"),
        "contacts": ["certificates@acme-hosting.test"],
        "terms_agreed": true,
        "root_pem": root,
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Stands in front of the authority, which does not say when to renew (ARI, RFC 9773), and does: the first certificate that it is asked about
/// at once, the others in many years. It answers wrongly as often as a test wants.
pub(super) struct Between {
    pub(super) port: u16,
    pub(super) root: String,
    pub(super) seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
pub(super) struct Seen {
    /// The certificates that it was asked about.
    pub(super) asked: Vec<String>,
    /// Those that orders said they replace.
    pub(super) replaced: Vec<String>,
    /// Orders that it was asked for.
    pub(super) orders: usize,
    /// The wrong answers that are to come, each when its time is.
    pub(super) faults: Vec<Fault>,
    /// The key of the last order, as its request for a certificate has it.
    csr: Vec<u8>,
}

/// A wrong answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// No order: too many were asked for.
    RateLimited,
    /// No order: the nonce is refused.
    Nonce,
    /// No JSON in the place of an order.
    Garbage,
    /// A certificate with another key.
    Stranger,
    /// A certificate that is good from this second since the Unix epoch on.
    Early(u64),
}

impl Seen {
    /// Whether it is the turn of such a fault, which is used up by that.
    fn takes(&mut self, is_such: impl Fn(Fault) -> bool) -> Option<Fault> {
        let at = self.faults.iter().position(|fault| is_such(*fault))?;
        Some(self.faults.remove(at))
    }

    /// The wrong answer to a request that the authority took.
    fn fault_at(&mut self, path: &str) -> Option<Fault> {
        if path == "/order-plz" {
            self.orders += 1;
            return self.takes(|fault| matches!(fault, Fault::RateLimited | Fault::Nonce));
        }
        if path.starts_with("/my-order/") {
            return self.takes(|fault| fault == Fault::Garbage);
        }
        if !path.starts_with("/certZ/") {
            return None;
        }
        let fault = self.takes(|fault| matches!(fault, Fault::Stranger | Fault::Early(_)));
        // Whoever comes too early comes again.
        self.faults.extend(fault.filter(|fault| matches!(fault, Fault::Early(_))));
        fault
    }
}

/// What is wanted in the place of the certificate that was issued.
fn other_certificate(fault: Fault, csr: &[u8]) -> String {
    use rcgen::{CertificateSigningRequestParams, date_time_ymd};
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
    let mut request = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
    let Fault::Early(seconds) = fault else {
        return request.params.signed_by(&key, &issuer).unwrap().pem();
    };
    request.params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    request.params.not_after = date_time_ymd(2099, 1, 1);
    request.signed_by(&issuer).unwrap().pem()
}

impl Drop for Between {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Between {
    pub(super) async fn before(pebble: &Pebble) -> Self {
        let Localhost { root, certificate, key } = Localhost::new();
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.into()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let behind = reqwest::Certificate::from_pem(pebble.own_root().as_bytes()).unwrap();
        // Over HTTP/2 it would be told another host than the one that is asked for, and write that into its URLs.
        let client =
            reqwest::Client::builder().no_proxy().http1_only().tls_certs_only([behind]).build().unwrap();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (shared, to, ordering) = (Arc::clone(&seen), pebble.port, Arc::clone(&pebble.ordering));
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, client) = (acceptor.clone(), client.clone());
                let (seen, ordering) = (Arc::clone(&shared), Arc::clone(&ordering));
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = hyper::service::service_fn(|request| {
                        let (client, seen, ordering) =
                            (client.clone(), Arc::clone(&seen), Arc::clone(&ordering));
                        async move {
                            let path = request.uri().path();
                            let completes = path.starts_with("/finalize-order/");
                            let alone = completes || path == "/order-plz";
                            let _one = if alone { Some(ordering.lock().await) } else { None };
                            let passed = pass_on(request, client, seen, (port, to)).await;
                            if completes {
                                tokio::time::sleep(COMPLETES).await;
                            }
                            passed
                        }
                    });
                    let server =
                        hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                    // The client goes when it likes.
                    let _ = server.serve_connection(hyper_util::rt::TokioIo::new(tls), service).await;
                });
            }
        });
        Self { port, root, seen, task }
    }
}

type Passed = hyper::Response<http_body_util::Full<hyper::body::Bytes>>;

async fn pass_on(
    request: hyper::Request<hyper::body::Incoming>,
    client: reqwest::Client,
    seen: Arc<Mutex<Seen>>,
    (port, to): (u16, u16),
) -> Result<Passed, std::convert::Infallible> {
    let path = request.uri().path().to_owned();
    if let Some(id) = path.strip_prefix("/ari/") {
        let mut seen = seen.lock().unwrap();
        seen.asked.push(id.to_owned());
        let year = if seen.asked[0] == id { "2020" } else { "2099" };
        let window = json!({"suggestedWindow": {"start": format!("{year}-01-01T00:00:00Z"), "end": format!("{year}-01-02T00:00:00Z")}});
        let answer = hyper::Response::builder().header("retry-after", "21600");
        return Ok(answer.body(window.to_string().into()).unwrap());
    }
    let (parts, body) = request.into_parts();
    let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    if let Some(csr) =
        payload(&body).and_then(|payload| URL_SAFE_NO_PAD.decode(payload["csr"].as_str()?).ok())
    {
        seen.lock().unwrap().csr = csr;
    }
    let csr = seen.lock().unwrap().csr.clone();
    let mut asked = client
        .request(parts.method, format!("https://localhost:{to}{path}"))
        .header("host", format!("localhost:{port}"))
        .body(body.clone());
    if let Some(kind) = parts.headers.get("content-type") {
        asked = asked.header("content-type", kind);
    }
    let answer = asked.send().await.unwrap();
    let mut passed = hyper::Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if !["content-length", "connection", "transfer-encoding"].contains(&name.as_str()) {
            passed = passed.header(name, value);
        }
    }
    // What the authority itself refused, for its nonce or otherwise, is asked again: the wrong answer is for what it takes.
    let fault = if answer.status().is_success() { seen.lock().unwrap().fault_at(&path) } else { None };
    let mut text = answer.bytes().await.unwrap();
    match fault {
        None => {}
        Some(Fault::RateLimited) => {
            let problem = json!({"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many orders", "status": 429});
            let limited = passed.status(429).header("retry-after", "2");
            return Ok(limited.body(problem.to_string().into()).unwrap());
        }
        Some(Fault::Nonce) => {
            let problem = json!({"type": "urn:ietf:params:acme:error:badNonce", "detail": "another machine's", "status": 400});
            return Ok(passed.status(400).body(problem.to_string().into()).unwrap());
        }
        Some(Fault::Garbage) => return Ok(passed.body("<html>".into()).unwrap()),
        Some(fault) => return Ok(passed.body(other_certificate(fault, &csr).into()).unwrap()),
    }
    if let Ok(mut document) = serde_json::from_slice::<Value>(&text) {
        if path == "/dir" {
            document["renewalInfo"] = json!(format!("https://localhost:{port}/ari"));
        }
        if let Some(replaces) = replaces(&body).filter(|_| document.get("finalize").is_some()) {
            seen.lock().unwrap().replaced.push(replaces.clone());
            document["replaces"] = json!(replaces);
        }
        text = document.to_string().into();
    }
    Ok(passed.body(text.into()).unwrap())
}

/// What a signed request says.
fn payload(body: &[u8]) -> Option<Value> {
    let signed: Value = serde_json::from_slice(body).ok()?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(signed["payload"].as_str()?).ok()?).ok()
}

/// The certificate that a signed request for an order names.
fn replaces(body: &[u8]) -> Option<String> {
    payload(body)?["replaces"].as_str().map(str::to_owned)
}
