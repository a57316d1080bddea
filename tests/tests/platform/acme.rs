//! Certificates of a public authority: a real one (Pebble) that looks at our name server and our edge.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::certificates::fqdn_id;
use crate::harness::{Platform, eventually, free_port, machine_lacks_daemons, skipped};

const LIMIT: Duration = Duration::from_secs(60);

/// A name server in front of the platform's own, for the authority and the controller: what a test says of a name goes first.
struct Resolver {
    address: SocketAddr,
    behind: Arc<Mutex<Option<SocketAddr>>>,
    said: Arc<Mutex<Vec<(String, Said)>>>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy)]
enum Said {
    Address(&'static str),
    Nothing,
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Resolver {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
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
                let answer = match word {
                    Some(said) => Some(answer(&question, said)),
                    None => {
                        let to = *to.lock().unwrap();
                        ask(to, &buffer[..length]).await
                    }
                };
                if let Some(answer) = answer {
                    socket.send_to(&answer, client).await.unwrap();
                }
            }
        });
        Self { address, behind, said, task }
    }

    fn says(&self, name: &str, said: Said) {
        self.said.lock().unwrap().push((name.to_owned(), said));
    }

    fn says_no_more(&self) {
        self.said.lock().unwrap().clear();
    }
}

fn answer(question: &Message, said: Said) -> Vec<u8> {
    let mut answer = question.clone();
    answer.metadata.message_type = hickory_proto::op::MessageType::Response;
    match said {
        Said::Nothing => answer.metadata.response_code = ResponseCode::NXDomain,
        Said::Address(address) => {
            if question.queries[0].query_type() == hickory_proto::rr::RecordType::A {
                let data = RData::A(A(address.parse().unwrap()));
                answer.answers.push(Record::from_rdata(question.queries[0].name().clone(), 1, data));
            }
        }
    }
    answer.to_vec().unwrap()
}

async fn ask(server: Option<SocketAddr>, question: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server?).await.ok()?;
    socket.send(question).await.ok()?;
    let mut buffer = vec![0; 4096];
    let length = tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut buffer)).await.ok()?.ok()?;
    buffer.truncate(length);
    Some(buffer)
}

/// A server's certificate, and the root that it is trusted by.
struct Localhost {
    root: String,
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

/// The authority; ends with its owner.
struct Pebble {
    folder: TempDir,
    child: Child,
    port: u16,
    management: u16,
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
    async fn start(platform: &Platform, resolver: &Resolver, seconds: u64) -> Self {
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
        let pebble = Self { folder, child, port: own_port, management };
        eventually("the authority answers", Duration::from_secs(10), async || pebble.fetch("roots/0").await)
            .await;
        pebble
    }

    fn own_root(&self) -> String {
        fs::read_to_string(self.folder.path().join("root.pem")).unwrap()
    }

    async fn fetch(&self, path: &str) -> Option<String> {
        let root = reqwest::Certificate::from_pem(self.own_root().as_bytes()).unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
        let url = format!("https://localhost:{}/{path}", self.management);
        client.get(url).send().await.ok()?.text().await.ok()
    }

    /// Who signs what it issues.
    async fn root(&self) -> String {
        self.fetch("roots/0").await.unwrap()
    }

    /// The body that makes it known to the platform.
    fn body(&self, name: &str, more: Value) -> Value {
        authority(name, self.port, &self.own_root(), more)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

fn authority(name: &str, port: u16, root: &str, more: Value) -> Value {
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
/// at once, the others in many years.
struct Suggesting {
    port: u16,
    root: String,
    seen: Arc<Mutex<Suggested>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Suggested {
    /// The certificates that it was asked about.
    asked: Vec<String>,
    /// Those that orders said they replace.
    replaced: Vec<String>,
}

impl Drop for Suggesting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Suggesting {
    async fn before(pebble: &Pebble) -> Self {
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
        let seen: Arc<Mutex<Suggested>> = Arc::default();
        let (shared, to) = (Arc::clone(&seen), pebble.port);
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, client, seen) = (acceptor.clone(), client.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = hyper::service::service_fn(|request| {
                        pass_on(request, client.clone(), Arc::clone(&seen), (port, to))
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
    seen: Arc<Mutex<Suggested>>,
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
    let mut text = answer.bytes().await.unwrap();
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

/// The certificate that a signed request for an order names.
fn replaces(body: &[u8]) -> Option<String> {
    use base64::Engine;
    let signed: Value = serde_json::from_slice(body).ok()?;
    let payload =
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(signed["payload"].as_str()?).ok()?;
    let payload: Value = serde_json::from_slice(&payload).ok()?;
    payload["replaces"].as_str().map(str::to_owned)
}

/// A platform whose controller asks the resolver, which asks the platform's name server.
async fn start() -> (Platform, Resolver) {
    let resolver = Resolver::start().await;
    let env = [
        ("HOSTING_CONTROLLER_VERIFICATION_RESOLVERS", format!("[\"{}\"]", resolver.address)),
        ("HOSTING_CONTROLLER_VERIFICATION_NETWORKS", "[127.0.0.0/8]".to_owned()),
    ];
    let platform = Platform::start_with(&["--no-restart"], &env).await;
    *resolver.behind.lock().unwrap() = Some(platform.summary["dns"].as_str().unwrap().parse().unwrap());
    (platform, resolver)
}

fn lacks(test: &str) -> bool {
    if machine_lacks_daemons(test) {
        return true;
    }
    let lacks = !std::path::Path::new("/usr/bin/pebble").is_file();
    if lacks {
        skipped(test, "pebble");
    }
    lacks
}

async fn want(platform: &Platform, fqdn: &str) {
    let (code, answer) =
        platform.call("PUT", &format!("/fqdns/{fqdn}"), Some(json!({"ssl_enabled": true}))).await;
    assert_eq!(code, 200, "{answer}");
}

async fn until(platform: &Platform, fqdn: &str, state: &str) -> Value {
    let mut last = Value::Null;
    let what = format!("{fqdn} is {state}");
    let found = eventually(&what, LIMIT, async || {
        let view = platform.get(&format!("/fqdns/{fqdn}")).await;
        last = view["issuance"].clone();
        (last["state"] == state).then_some(())
    });
    found.await;
    last
}

/// The certificates of a name that authorities issued.
async fn issued(platform: &Platform, fqdn: &str) -> Vec<Value> {
    let all = platform.items(&format!("/fqdns/{fqdn}/certificates")).await;
    all.into_iter().filter(|one| one["type"] == "lets_encrypt").collect()
}

#[tokio::test]
async fn names_get_their_certificates_and_are_served_with_them() {
    let test = "names_get_their_certificates_and_are_served_with_them";
    if lacks(test) {
        return;
    }
    let (platform, resolver) = start().await;
    let fqdn = fqdn_id(&platform, "acme-1001", "bakery.test").await;
    want(&platform, &fqdn).await;
    // Nobody can be asked yet, and the name says so.
    let waiting = until(&platform, &fqdn, "waiting").await;
    eventually("the name says what is missing", LIMIT, async || {
        let view = platform.get(&format!("/fqdns/{fqdn}")).await;
        (view["issuance"]["problem"]["code"] == "no_authority").then_some(())
    })
    .await;
    assert_eq!(waiting["failures"], 0);

    let pebble = Pebble::start(&platform, &resolver, 90 * 86_400).await;
    let root = pebble.root().await;
    let authority = platform.post("/certificate-authorities", pebble.body("pebble", json!({}))).await;
    let done = until(&platform, &fqdn, "issued").await;
    assert!(done["problem"].is_null() && done["renews_at"].is_string(), "{done}");
    let is_served =
        async || platform.web_trusting("bakery.test", root.as_bytes()).await.filter(|(code, _)| *code == 200);
    eventually("the name is served with it", LIMIT, is_served).await;
    let certificates = issued(&platform, &fqdn).await;
    assert_eq!(certificates.len(), 1);
    let shown = &certificates[0];
    assert_eq!((&shown["authority_id"], &shown["is_active"]), (&authority["id"], &json!(true)), "{shown}");
    assert!(shown["names"].as_array().unwrap().contains(&json!("bakery.test")), "{shown}");
    let (code, _) = platform.page("bakery.test", ".well-known/acme-challenge/x").await.unwrap();
    assert_eq!(code, 404, "what was to be found is gone");

    // Names of one site come together, by the other way of looking.
    let path = format!("/certificate-authorities/{}", authority["id"].as_str().unwrap());
    let (code, answer) = platform.call("PUT", &path, Some(json!({"challenges": ["tls-alpn-01"]}))).await;
    assert_eq!(code, 200, "{answer}");
    let mut ids = Vec::new();
    let (tenant, webroot) = platform.site("acme-1001").await;
    for name in ["one", "two", "three"] {
        let body = json!({"fqdn": format!("{name}.acme-hosting.test"), "webroot_id": webroot});
        let made = platform.post(&format!("/tenants/{tenant}/fqdns?wait=ready"), body).await;
        ids.push(made["id"].as_str().unwrap().to_owned());
    }
    for id in &ids {
        want(&platform, id).await;
    }
    for id in &ids {
        until(&platform, id, "issued").await;
    }
    let name = "three.acme-hosting.test";
    let is_served =
        async || platform.web_trusting(name, root.as_bytes()).await.filter(|(code, _)| *code == 200);
    eventually("a name of several is served", LIMIT, is_served).await;
    let looked = platform.metric("edge", "hosting_edge_handshakes_total", &["acme_challenge"]).await;
    assert!(looked >= 3.0, "{looked}");
    let mut fingerprints = Vec::new();
    for id in &ids {
        fingerprints.push(issued(&platform, id).await[0]["fingerprint"].clone());
    }
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 1, "one order for names of one site");
    assert!(!pebble.log().contains("There are now 2 accounts"), "one account, whatever is ordered");

    // A certificate is no longer wanted: nothing is asked any more, and the name says nothing of it.
    let (code, _) =
        platform.call("PUT", &format!("/fqdns/{fqdn}"), Some(json!({"ssl_enabled": false}))).await;
    assert_eq!(code, 200);
    assert!(platform.get(&format!("/fqdns/{fqdn}")).await.get("issuance").is_none());
}

#[tokio::test]
async fn short_lived_certificates_are_renewed_and_the_former_ones_go() {
    let test = "short_lived_certificates_are_renewed_and_the_former_ones_go";
    if lacks(test) {
        return;
    }
    let (mut platform, resolver) = start().await;
    let pebble = Pebble::start(&platform, &resolver, 20).await;
    let root = pebble.root().await;
    platform.post("/certificate-authorities", pebble.body("pebble", json!({}))).await;
    let fqdn = fqdn_id(&platform, "acme-1001", "bakery.test").await;
    want(&platform, &fqdn).await;
    until(&platform, &fqdn, "issued").await;
    let first = issued(&platform, &fqdn).await[0]["id"].clone();
    // A controller that dies goes on where it was.
    platform.kill("controller").await;
    platform.restart("controller").await;
    eventually("there is another one, alone", LIMIT, async || {
        let all = issued(&platform, &fqdn).await;
        (all.len() == 1 && all[0]["id"] != first && all[0]["status"] == "active").then_some(())
    })
    .await;
    let is_served =
        async || platform.web_trusting("bakery.test", root.as_bytes()).await.filter(|(code, _)| *code == 200);
    eventually("it is served with the new one", LIMIT, is_served).await;
}

#[tokio::test]
async fn what_stands_in_the_way_is_named_and_mended_names_go_on_at_once() {
    let test = "what_stands_in_the_way_is_named_and_mended_names_go_on_at_once";
    if lacks(test) {
        return;
    }
    let (platform, resolver) = start().await;
    let pebble = Pebble::start(&platform, &resolver, 90 * 86_400).await;
    // The first one is down: the second one has its turn.
    let down = json!({
        "name": "down", "directory_url": format!("https://localhost:{}/dir", free_port()), "terms_agreed": true, "priority": 0,
    });
    let down = platform.post("/certificate-authorities", down).await;
    let up = platform.post("/certificate-authorities", pebble.body("pebble", json!({"priority": 1}))).await;
    let fqdn = fqdn_id(&platform, "acme-1001", "bakery.test").await;
    resolver.says("bakery.test", Said::Address("192.0.2.1"));
    want(&platform, &fqdn).await;
    let failed = until(&platform, &fqdn, "failed").await;
    let problem = failed["problem"].clone();
    assert_eq!(problem["code"], "dns", "{problem}");
    assert!(problem["message"].as_str().unwrap().contains("192.0.2.1"), "{problem}");
    assert!(problem["remedy"].as_str().unwrap().contains("bakery.test A 127.0.0.1"), "{problem}");
    assert!(failed["next_attempt_at"].is_string() && failed["failures"] == 1, "{failed}");
    let path = format!("/certificate-authorities/{}", down["id"].as_str().unwrap());
    let paused = platform.get(&path).await;
    assert!(paused["paused_until"].is_string() && paused["problem"].is_string(), "{paused}");

    resolver.says_no_more();
    resolver.says("bakery.test", Said::Nothing);
    let (code, answer) = platform.call("POST", &format!("/fqdns/{fqdn}/issue"), None).await;
    assert_eq!(code, 202, "{answer}");
    eventually("it is tried again", LIMIT, async || {
        let view = platform.get(&format!("/fqdns/{fqdn}")).await;
        (view["issuance"]["failures"] == 2).then_some(())
    })
    .await;
    let problem = platform.get(&format!("/fqdns/{fqdn}")).await["issuance"]["problem"].clone();
    assert!(problem["message"].as_str().unwrap().contains("has no address"), "{problem}");

    resolver.says_no_more();
    let (code, _) = platform.call("POST", &format!("/fqdns/{fqdn}/issue"), None).await;
    assert_eq!(code, 202);
    let done = until(&platform, &fqdn, "issued").await;
    assert_eq!((&done["failures"], &done["problem"]), (&json!(0), &Value::Null), "{done}");
    assert_eq!(issued(&platform, &fqdn).await[0]["authority_id"], up["id"]);

    // What the authority refuses is said in its words.
    let (tenant, webroot) = platform.site("acme-1001").await;
    let body = json!({"fqdn": "blocked.acme-hosting.test", "webroot_id": webroot, "ssl_enabled": true});
    let blocked = platform.post(&format!("/tenants/{tenant}/fqdns?wait=ready"), body).await;
    let failed = until(&platform, blocked["id"].as_str().unwrap(), "failed").await;
    assert_eq!(failed["problem"]["code"], "rejected_identifier", "{failed}");
}

#[tokio::test]
async fn the_authority_says_when_to_renew() {
    let test = "the_authority_says_when_to_renew";
    if lacks(test) {
        return;
    }
    let (platform, resolver) = start().await;
    let pebble = Pebble::start(&platform, &resolver, 90 * 86_400).await;
    let suggesting = Suggesting::before(&pebble).await;
    let body = authority("suggesting", suggesting.port, &suggesting.root, json!({}));
    platform.post("/certificate-authorities", body).await;
    let fqdn = fqdn_id(&platform, "acme-1001", "bakery.test").await;
    want(&platform, &fqdn).await;
    let seen = || {
        let seen = suggesting.seen.lock().unwrap();
        (seen.asked.clone(), seen.replaced.clone())
    };
    eventually("the new one was asked about too", LIMIT, async || {
        let (asked, _) = seen();
        asked.iter().any(|id| *id != asked[0]).then_some(())
    })
    .await;
    let (asked, replaced) = seen();
    assert_eq!(replaced, [asked[0].clone()], "the order names the certificate that it replaces");
    eventually("the former one is gone", LIMIT, async || {
        (issued(&platform, &fqdn).await.len() == 1).then_some(())
    })
    .await;
    let done = until(&platform, &fqdn, "issued").await;
    // Never after its end, whatever the authority suggests.
    let ends = issued(&platform, &fqdn).await[0]["expires_at"].clone();
    assert_eq!(done["renews_at"], ends, "{done}");
    assert_eq!(seen().1.len(), 1);
}
