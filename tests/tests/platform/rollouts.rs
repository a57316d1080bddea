//! Changes that touch much go out in steps: what hurts is stopped in the first one and taken back by itself, and tenants notice nothing.

use std::fs::{self, File};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::harness::{Platform, binaries, eventually, free_port, machine_lacks_daemons};

const LIMIT: Duration = Duration::from_secs(40);
const SITE: &str = "bakery.test";

/// One machine beside those of `up`, in the role of one of them.
struct Machine {
    process: Child,
    /// Its addresses, in the order of the flags.
    addresses: Vec<SocketAddr>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Machine {
    /// Starts `name` in the role of `like`, with the same command line but for its folder and what it listens on.
    async fn start(platform: &Platform, name: &str, like: &str, listens: &[&str]) -> Self {
        let own = platform.folder().join(name);
        fs::create_dir_all(&own).unwrap();
        let node = platform.get(&format!("/nodes/{like}-1")).await;
        let cluster = node["cluster_id"].as_str().unwrap();
        let role = node["roles"][0].as_str().unwrap();
        let body = json!({"id": name, "hostname": name, "roles": [role], "ip_address": "127.0.0.1"});
        platform.post(&format!("/clusters/{cluster}/nodes"), body).await;
        // Edges of a cluster that sign for visitors have one authority.
        for file in ["dev-ca.pem", "dev-ca.key"] {
            let from = platform.data().join(like).join(file);
            if from.exists() {
                fs::copy(from, own.join(file)).unwrap();
            }
        }
        let token = platform.post(&format!("/nodes/{name}/join-tokens"), json!({})).await;
        let file = own.join("join-token");
        fs::write(&file, token["token"].as_str().unwrap()).unwrap();
        let command: Vec<String> =
            serde_json::from_value(platform.summary["commands"][like].clone()).unwrap();
        let addresses: Vec<SocketAddr> =
            listens.iter().map(|_| SocketAddr::from(([127, 0, 0, 1], free_port()))).collect();
        let mut arguments: Vec<String> = command[1..].to_vec();
        let is_own = |argument: &String| {
            ["--data-dir=", "--join-token-file=", "--admin-listen="]
                .iter()
                .any(|flag| argument.starts_with(flag))
                || listens.iter().any(|flag| argument.starts_with(&format!("{flag}=")))
        };
        arguments.retain(|argument| !is_own(argument));
        arguments.push(format!("--data-dir={}", own.display()));
        arguments.push(format!("--join-token-file={}", file.display()));
        arguments.push(format!("--admin-listen=127.0.0.1:{}", free_port()));
        arguments.extend(listens.iter().zip(&addresses).map(|(flag, address)| format!("{flag}={address}")));
        let log =
            File::options().create(true).append(true).open(platform.data().join(format!("log/{name}.log")));
        let log = log.unwrap();
        let process = Command::new(binaries().join(&command[0]))
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let machine = Self { process, addresses };
        eventually(&format!("{name} is in service"), LIMIT, async || {
            let node = platform.get(&format!("/nodes/{name}")).await;
            (node["in_service"] == true).then_some(())
        })
        .await;
        machine
    }
}

/// A client that asks an address again and again, and counts.
struct Client {
    stop: Arc<AtomicBool>,
    fine: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    _task: JoinHandle<()>,
}

impl Client {
    fn start<F>(asks: impl Fn() -> F + Send + 'static) -> Self
    where
        F: Future<Output = bool> + Send,
    {
        let [fine, failed] = [(); 2].map(|()| Arc::<AtomicU64>::default());
        let stop = Arc::<AtomicBool>::default();
        let (ends, well, badly) = (Arc::clone(&stop), Arc::clone(&fine), Arc::clone(&failed));
        let task = tokio::spawn(async move {
            while !ends.load(Ordering::Relaxed) {
                let count = if asks().await { &well } else { &badly };
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        });
        Self { stop, fine, failed, _task: task }
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn fine(&self) -> u64 {
        self.fine.load(Ordering::Relaxed)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Whether a plain request is answered with the site.
async fn asks_http(address: SocketAddr) -> bool {
    let ask = async {
        let mut tcp = TcpStream::connect(address).await?;
        tcp.write_all(format!("GET / HTTP/1.1\r\nhost: {SITE}\r\nconnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.starts_with(b"HTTP/1.1 200"))
    };
    tokio::time::timeout(Duration::from_secs(5), ask).await.is_ok_and(|done| done.unwrap_or(false))
}

/// A handshake of a client that speaks nothing newer than TLS 1.2.
fn old_client(platform: &Platform) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    let pem = fs::read(platform.summary["edge_ca_file"].as_str().unwrap()).unwrap();
    for certificate in rustls_pki_types::pem::PemObject::pem_slice_iter(&pem) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = rustls::ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS12])
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

async fn shakes_hands(connector: TlsConnector, address: SocketAddr) -> bool {
    let ask = async {
        let tcp = TcpStream::connect(address).await?;
        connector.connect(SITE.try_into().unwrap(), tcp).await.map(drop)
    };
    tokio::time::timeout(Duration::from_secs(5), ask).await.is_ok_and(|done| done.is_ok())
}

/// The A records that a name server gives.
fn dig(address: SocketAddr) -> Option<Vec<String>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(format!("{SITE}.")).unwrap(), RecordType::A));
    socket.send_to(&question.to_vec().unwrap(), address).unwrap();
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer).ok()?;
    let answer = Message::from_vec(&answer[..length]).ok()?;
    let data = answer.answers.iter().filter_map(|record| match &record.data {
        RData::A(a) => Some(a.to_string()),
        _ => None,
    });
    Some(data.collect())
}

impl Platform {
    /// The newest rollout, once it has ended.
    async fn ended_rollout(&self, after: u64) -> Value {
        eventually("the rollout has ended", LIMIT, async || {
            let newest = self.items("/rollouts").await.into_iter().next()?;
            let id: u64 = newest["id"].as_str().unwrap().parse().unwrap();
            let state = newest["state"].as_str().unwrap().to_owned();
            (id > after && ["done", "reverted", "replaced"].contains(&state.as_str())).then_some(newest)
        })
        .await
    }

    async fn newest_rollout(&self) -> u64 {
        let newest = self.items("/rollouts").await.into_iter().next();
        newest.map_or(0, |one| one["id"].as_str().unwrap().parse().unwrap())
    }

    /// What steps are like in these tests: one subscriber, then all.
    pub(crate) async fn watches_for(&self, seconds: u32) {
        let policy = json!({"rollouts.steps": "1", "rollouts.watch_seconds": seconds.to_string()});
        let (code, answer) = self.call("PUT", "/platform/config", Some(policy)).await;
        assert_eq!(code, 200, "{answer}");
    }
}

/// A TLS default that old clients cannot speak, a pool that leads nowhere and an address where nobody is: each comes to one machine of its
/// kind and is taken back, and the other one's clients notice nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_hurts_is_stopped_in_the_first_step_and_taken_back() {
    if machine_lacks_daemons("what_hurts_is_stopped_in_the_first_step_and_taken_back") {
        return;
    }
    let platform = Platform::start(&[]).await;
    let edge = Machine::start(&platform, "edge-2", "edge", &["--http-listen", "--https-listen"]).await;
    let dns = Machine::start(&platform, "dns-2", "dns", &["--listen"]).await;
    platform.watches_for(4).await;
    let (http, https) = (platform.address("edge_http"), platform.address("edge_https"));
    let cluster = platform.get("/nodes/edge-1").await["cluster_id"].as_str().unwrap().to_owned();

    // TLS: clients that speak 1.2 come to both edges.
    let connector = old_client(&platform);
    let client = |address: SocketAddr| {
        let connector = connector.clone();
        Client::start(move || shakes_hands(connector.clone(), address))
    };
    let (first, second) = (client(https), client(edge.addresses[1]));
    eventually("old clients are served", LIMIT, async || {
        (first.fine() > 20 && second.fine() > 20).then_some(())
    })
    .await;
    assert_eq!((first.failed(), second.failed()), (0, 0));
    let before = platform.newest_rollout().await;
    let path = format!("/clusters/{cluster}");
    let (code, answer) = platform.call("PUT", &path, Some(json!({"tls_minimum_version": "1.3"}))).await;
    assert_eq!((code, &answer["tls_minimum_version"]), (200, &json!("1.3")), "{answer}");
    let rollout = platform.ended_rollout(before).await;
    assert_eq!((&rollout["state"], &rollout["step"]), (&json!("reverted"), &json!(1)), "{rollout}");
    assert!(rollout["reason"].as_str().unwrap().contains("TLS handshakes failed"), "{rollout}");
    assert_eq!(rollout["reached"].as_array().unwrap().len(), 1, "{rollout}");
    assert_eq!(platform.get(&path).await["tls_minimum_version"], "1.2", "the cluster is as it was");
    eventually("old clients are served again", LIMIT, async || {
        shakes_hands(connector.clone(), https).await.then_some(())
    })
    .await;
    assert!(first.failed() > 0, "the first edge refused them");
    assert_eq!(second.failed(), 0, "the second one never did");
    drop((first, second));

    // A pool: the only node is said to be where nobody listens.
    let client = |address: SocketAddr| Client::start(move || asks_http(address));
    let (first, second) = (client(http), client(edge.addresses[0]));
    eventually("the site is served", LIMIT, async || (first.fine() > 20 && second.fine() > 20).then_some(()))
        .await;
    let before = platform.newest_rollout().await;
    let address = platform.get("/nodes/web-1").await["ip_address"].clone();
    let (code, answer) =
        platform.call("PUT", "/nodes/web-1", Some(json!({"ip_address": "127.0.0.250"}))).await;
    assert_eq!(code, 200, "{answer}");
    let rollout = platform.ended_rollout(before).await;
    assert_eq!((&rollout["state"], &rollout["step"]), (&json!("reverted"), &json!(1)), "{rollout}");
    assert_eq!(platform.get("/nodes/web-1").await["ip_address"], address);
    eventually("the site is served by both", LIMIT, async || asks_http(http).await.then_some(())).await;
    assert_eq!(second.failed(), 0, "the second edge always had the node: {rollout}");
    drop((first, second));

    // An address set: what is given out beside the right one is nobody's.
    let right = dig(platform.address("dns")).unwrap();
    assert_eq!((right.len(), dig(dns.addresses[0])), (1, Some(right.clone())));
    let before = platform.newest_rollout().await;
    let gives_wrong = Arc::new(AtomicU64::new(0));
    let (asked, wrong) = (dns.addresses[0], Arc::clone(&gives_wrong));
    let watcher = Client::start(move || {
        let answer = dig(asked);
        wrong.fetch_add(u64::from(answer.is_some_and(|given| given != right)), Ordering::Relaxed);
        async { true }
    });
    let path = format!("/clusters/{cluster}/lb-addresses");
    platform.post(&path, json!({"address": "127.0.0.251", "label": "new"})).await;
    let rollout = platform.ended_rollout(before).await;
    assert_eq!((&rollout["state"], &rollout["step"]), (&json!("reverted"), &json!(1)), "{rollout}");
    assert!(rollout["reason"].as_str().unwrap().contains("127.0.0.251"), "{rollout}");
    drop(watcher);
    assert_eq!(platform.items(&path).await.len(), 1, "the address is gone again");
    assert_eq!(gives_wrong.load(Ordering::Relaxed), 0, "the second name server never gave it out");
    eventually("the first one gives out what is right", LIMIT, async || {
        (dig(platform.address("dns")) == dig(dns.addresses[0])).then_some(())
    })
    .await;

    // People see it, and why.
    let told = platform.hostctl().args(["rollouts", "list"]).output().unwrap();
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.status.success() && text.matches("reverted").count() == 3, "{told:?}");
}

/// What is sound comes to all, a step after the other; what tenants change meanwhile is there at once, and passes what waits.
#[tokio::test(flavor = "multi_thread")]
async fn tenants_change_their_own_while_a_rollout_is_under_way() {
    if machine_lacks_daemons("tenants_change_their_own_while_a_rollout_is_under_way") {
        return;
    }
    let platform = Platform::start(&[]).await;
    let edge = Machine::start(&platform, "edge-2", "edge", &["--http-listen", "--https-listen"]).await;
    platform.watches_for(600).await;
    let cluster = platform.get("/nodes/edge-1").await["cluster_id"].as_str().unwrap().to_owned();
    let path = format!("/clusters/{cluster}");
    platform.call("PUT", &path, Some(json!({"tls_minimum_version": "1.3"}))).await;
    let id = eventually("the first edge has it", LIMIT, async || {
        let newest = platform.items("/rollouts").await.into_iter().next()?;
        (newest["step"] == 1).then(|| newest["id"].as_str().unwrap().to_owned())
    })
    .await;
    let connector = old_client(&platform);
    eventually("the first edge refuses old clients", LIMIT, async || {
        (!shakes_hands(connector.clone(), platform.address("edge_https")).await).then_some(())
    })
    .await;
    assert!(shakes_hands(connector.clone(), edge.addresses[1]).await, "the second one does not have it");

    let mut took = Vec::new();
    for n in 0..100 {
        let began = Instant::now();
        let (code, answer) =
            platform.add_fqdn("acme-1001", &format!("during-{n}.acme-hosting.test"), "?wait=ready").await;
        took.push(began.elapsed());
        assert_eq!((code, &answer["status"]), (200, &json!("active")), "{answer}");
    }
    took.sort();
    println!("a tenant's change during a rollout: median {:?}, p99 {:?}", took[50], took[98]);
    assert!(took[98] < Duration::from_secs(1), "{took:?}");

    // Paused it stays where it is; aborted it is taken back; and what comes after goes to all.
    let (code, paused) = platform.call("POST", &format!("/rollouts/{id}/pause"), None).await;
    assert_eq!((code, &paused["state"]), (200, &json!("paused")), "{paused}");
    let (code, _) = platform.call("POST", &format!("/rollouts/{id}/resume"), None).await;
    assert_eq!(code, 200);
    let (code, aborted) = platform.call("POST", &format!("/rollouts/{id}/abort"), None).await;
    assert_eq!((code, &aborted["state"]), (200, &json!("reverting")), "{aborted}");
    let ended = platform.ended_rollout(id.parse::<u64>().unwrap() - 1).await;
    assert_eq!(ended["state"], "reverted", "{ended}");
    assert_eq!(platform.get(&path).await["tls_minimum_version"], "1.2");
    let (code, answer) = platform.call("POST", &format!("/rollouts/{id}/abort"), None).await;
    assert_eq!(code, 409, "{answer}");
    platform.watches_for(1).await;
    platform.call("PUT", &path, Some(json!({"tls_minimum_version": "1.3"}))).await;
    let ended = platform.ended_rollout(id.parse().unwrap()).await;
    assert_eq!((&ended["state"], &ended["step"]), (&json!("done"), &json!(2)), "{ended}");
    assert!(!shakes_hands(connector.clone(), edge.addresses[1]).await);
}
