//! The same zone, the same questions: our answers over the wire against those of other servers, where they are installed.
//!
//! Compared are response code, flags, the answer section, and the authority section of negative answers and referrals. What
//! a server is free to add (apex NS beside an answer, the additional section) and what RFC 8482 leaves open (`ANY`) is not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

#[path = "../zone/tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hosting_dns::metrics::Metrics;
use hosting_dns::server::Server;
use hosting_dns::settings::Settings;
use hosting_dns_zone::Writer;
use hosting_scaffold::admin::Metrics as Registry;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::prelude::*;
use rand::rngs::StdRng;
use support::*;

const Z: &str = "zone.test";
const SEED: u64 = 20_261_120;
const QUESTIONS: usize = 4000;
const TYPES: [&str; 11] = ["A", "AAAA", "TXT", "MX", "CNAME", "NS", "SOA", "DS", "SRV", "CAA", "PTR"];

type Sets = BTreeMap<(String, &'static str), BTreeSet<String>>;

/// A random zone in which every rule is needed, and that other servers load without complaint.
fn random_zone(random: &mut StdRng) -> Sets {
    let labels = ["a", "b", "c", "www", "_tcp", "x-1"];
    let mut sets = Sets::new();
    let name = |random: &mut StdRng, least: usize| {
        let mut parts: Vec<&str> =
            (0..random.random_range(least..4)).map(|_| *labels.choose(random).unwrap()).collect();
        parts.push(Z);
        parts.join(".")
    };
    let mut add = |owner: &str, kind: &'static str, data: String| {
        sets.entry((owner.to_owned(), kind)).or_default().insert(data);
    };
    for host in ["ns1.zone.test", "mail.zone.test"] {
        add(host, "A", "192.0.2.53".into());
        add(host, "AAAA", "2001:db8::53".into());
    }
    for _ in 0..150 {
        let mut owner = name(random, 1);
        if random.random_bool(0.15) {
            owner = format!("*.{owner}");
        }
        let target = name(random, 0);
        match random.random_range(0..10) {
            0..3 => add(&owner, "A", format!("192.0.2.{}", random.random_range(1..5))),
            3 => add(&owner, "AAAA", format!("2001:db8::{}", random.random_range(1..5))),
            4 => add(&owner, "TXT", format!("\"text {}\"", random.random_range(0..3))),
            5 => add(&owner, "MX", format!("{} {target}.", random.random_range(0..3))),
            6 => add(&owner, "SRV", format!("0 {} 443 {target}.", random.random_range(0..3))),
            7 => add(&owner, "CAA", "0 issue \"ca.test\"".into()),
            _ => {
                let outside = random.random_bool(0.1);
                add(
                    &owner,
                    "CNAME",
                    if outside { "host.elsewhere.test.".into() } else { format!("{target}.") },
                );
            }
        }
    }
    // Cuts at names of their own, so that they do not hide the rest; some have addresses below them.
    for n in 0..6 {
        let parents: Vec<String> = sets.keys().map(|(owner, _)| owner.clone()).collect();
        let above = parents.choose(random).unwrap();
        let above = if n < 3 || above.starts_with('*') { Z } else { above.as_str() };
        let cut = format!("cut{n}.{above}");
        let mut add = |owner: String, kind: &'static str, data: String| {
            sets.entry((owner, kind)).or_default().insert(data);
        };
        add(cut.clone(), "NS", "ns.far.test.".into());
        if n % 2 == 0 {
            add(cut.clone(), "NS", format!("ns.{cut}."));
            add(format!("ns.{cut}"), "A", "192.0.2.99".into());
        }
        if n % 3 == 0 {
            add(cut.clone(), "DS", format!("{n} 8 2 {}", "ab".repeat(32)));
        }
        add(format!("into{n}.{Z}"), "CNAME", format!("deep.{cut}."));
    }
    for n in 0..4 {
        let mut add = |owner: &str, target: &str| {
            sets.entry((format!("{owner}.{Z}"), "CNAME")).or_default().insert(format!("{target}.{Z}."));
        };
        add(&format!("lost{n}"), &format!("nowhere{n}"));
        add(&format!("loop{n}"), &format!("loop{}", (n + 1) % 4));
        add(&format!("*.spin{n}"), &format!("again.spin{n}"));
    }
    let crowded: BTreeSet<String> =
        sets.keys().filter(|key| key.1 != "CNAME").map(|key| key.0.clone()).collect();
    sets.retain(|(owner, kind), data| {
        if *kind == "CNAME" {
            while data.len() > 1 {
                data.pop_last();
            }
        }
        *kind != "CNAME" || !crowded.contains(owner)
    });
    sets
}

fn zone_file(sets: &Sets) -> String {
    let mut text = format!(
        "{Z}. 3600 IN SOA ns1.{Z}. host\\.master.provider.example. 7 7200 900 1209600 300\n\
         {Z}. 3600 IN NS ns1.{Z}.\n{Z}. 3600 IN NS ns2.provider.example.\n"
    );
    for ((owner, kind), data) in sets {
        for data in data {
            writeln!(text, "{owner}. 600 IN {kind} {data}").unwrap();
        }
    }
    text
}

fn items(sets: &Sets) -> Vec<Item> {
    let set = |((owner, kind), data): (&(String, &'static str), &BTreeSet<String>)| {
        rrset(Z, owner, kind, &data.iter().map(String::as_str).collect::<Vec<_>>())
    };
    [zone(Z, 7)].into_iter().chain(sets.iter().map(set)).collect()
}

/// Another server, ended with its folder when it is dropped.
struct Peer {
    name: &'static str,
    child: Child,
    socket: UdpSocket,
    _folder: tempfile::TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have children of its own, which it ends itself when it is asked to.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn socket_to(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    socket
}

/// Between our finding a free port and the server's taking it somebody else may have been quicker.
fn start_peer(name: &'static str, program: &Path, zone: &str) -> Peer {
    let mut last = String::new();
    for _ in 0..10 {
        match try_start(name, program, zone) {
            Ok(peer) => return peer,
            Err(log) => last = log,
        }
    }
    panic!("{name} does not start: {last}");
}

/// Free for UDP and TCP.
fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address.port();
        }
    }
}

fn try_start(name: &'static str, program: &Path, zone: &str) -> Result<Peer, String> {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    fs::write(folder.path().join("zone.test.zone"), zone).unwrap();
    let port = free_port();
    let (config, arguments) = match name {
        "knot" => (
            format!(
                "server:\n  rundir: \"{dir}\"\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 2\n  \
                 background-workers: 1\ndatabase:\n  storage: \"{dir}\"\nlog:\n  - target: stderr\n    any: warning\n\
                 template:\n  - id: default\n    storage: \"{dir}\"\n    semantic-checks: off\n\
                 zone:\n  - domain: {Z}\n    file: \"zone.test.zone\"\n"
            ),
            vec!["-c"],
        ),
        _ => (
            format!(
                "server:\n  ip-address: 127.0.0.1@{port}\n  port: {port}\n  username: \"\"\n  chroot: \"\"\n  \
                 zonesdir: \"{dir}\"\n  pidfile: \"{dir}/nsd.pid\"\n  xfrdfile: \"{dir}/xfrd\"\n  \
                 xfrdir: \"{dir}\"\n  zonelistfile: \"{dir}/zones\"\n  logfile: \"{dir}/log\"\n  database: \"\"\n  \
                 server-count: 1\n  rrl-ratelimit: 0\n  rrl-whitelist-ratelimit: 0\n\
                 remote-control:\n  control-enable: no\nzone:\n  name: {Z}\n  zonefile: \"zone.test.zone\"\n"
            ),
            vec!["-d", "-c"],
        ),
    };
    let file = folder.path().join("config");
    fs::write(&file, config).unwrap();
    let log = File::create(folder.path().join("stderr")).unwrap();
    let child = Command::new(program)
        .args(arguments)
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut peer =
        Peer { name, child, socket: socket_to(SocketAddr::from(([127, 0, 0, 1], port))), _folder: folder };
    let soa = packet(Z, 6, None);
    peer.socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut buffer = [0; 1500];
        let answered = peer.socket.send(&soa).and_then(|_| peer.socket.recv(&mut buffer));
        if answered.is_ok_and(|length| length > 40 && buffer[3] & 15 == 0) {
            break;
        }
        if peer.child.try_wait().unwrap().is_some() || Instant::now() > deadline {
            let read = |name| fs::read_to_string(Path::new(&dir).join(name)).unwrap_or_default();
            return Err(read("stderr") + &read("log"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // Late answers to the questions before.
    std::thread::sleep(Duration::from_millis(150));
    while peer.socket.recv(&mut [0; 1500]).is_ok() {}
    peer.socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    Ok(peer)
}

fn exchange(socket: &UdpSocket, packet: &[u8]) -> (Vec<u8>, Response) {
    socket.send(packet).unwrap();
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    buffer.truncate(length);
    let response = decode(&buffer);
    (buffer, response)
}

fn odd_case(name: &str, random: &mut StdRng) -> String {
    name.chars().map(|c| if random.random_bool(0.5) { c.to_ascii_uppercase() } else { c }).collect()
}

fn questions(sets: &Sets, random: &mut StdRng) -> Vec<(String, &'static str)> {
    let owners: Vec<&str> = sets.keys().map(|(owner, _)| owner.as_str()).chain([Z]).collect();
    (0..QUESTIONS)
        .map(|_| {
            let owner = *owners.choose(random).unwrap();
            let mut name = match random.random_range(0..8) {
                0..3 => owner.to_owned(),
                3 => format!("q.{owner}"),
                4 => format!("deep.q.{owner}"),
                5 => owner.split_once('.').map_or(owner, |(_, parent)| parent).to_owned(),
                6 => owner.replacen('*', "some-thing", 1),
                _ => owner.replacen('a', "z", 1),
            };
            if !name.ends_with(Z) {
                name = Z.to_owned();
            }
            if random.random_bool(0.3) {
                name = odd_case(&name, random);
            }
            (name, *TYPES.choose(random).unwrap())
        })
        .collect()
}

/// What must be equal.
fn essence(mut response: Response) -> Response {
    response.additional.clear();
    response.answer_count = 0;
    let referral = !response.authority.is_empty() && response.authority.iter().all(|rec| rec.1 == "NS");
    let apex = response.authority.iter().all(|rec| rec.0 == format!("{Z}."));
    if referral && apex {
        response.authority.clear();
    }
    response
}

/// The servers that are installed, with the same zone.
fn start_peers(zone: &str) -> Vec<Peer> {
    let mut peers = Vec::new();
    for (name, program) in [("knot", "knotd"), ("nsd", "nsd")] {
        match find(program) {
            Some(program) => peers.push(start_peer(name, &program, zone)),
            None => skipped(&format!(
                "dns differential against {name}: no `{program}` in PATH (apt-get install {name})"
            )),
        }
    }
    peers
}

fn start_ours(sets: &Sets) -> (Writer, tokio::runtime::Runtime, Server) {
    let (writer, zones) = serving(&items(sets));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let settings =
        Settings { listen: vec!["127.0.0.1:0".parse().unwrap()], threads: 1, ..Settings::default() };
    let metrics = Metrics::new(&Registry::new(), zones.clone());
    let server = Server::start(&settings, zones, &metrics, runtime.handle()).unwrap();
    (writer, runtime, server)
}

/// Texts that can be understood in more than one way, or only in part; what older versions of those servers refuse is not
/// among them.
const TEXTS: &[(&str, &str)] = &[
    ("TXT", r#""a b" c"#),
    ("TXT", r#""\"quoted\" \\ \195\169""#),
    ("CAA", r#"0 IssueMail "ca.test; a=b""#),
    ("CERT", "1 12345 5 AAAA dGVz dA=="),
    ("CERT", "PKIX 1 RSASHA256 AQID"),
    ("SSHFP", "4 2 abababababababababababababababab abababababababababababababababAB"),
    ("TLSA", "3 1 1 abababababababababababababababab abababababababababababababababAB"),
    ("SMIMEA", "3 0 0 ab cd"),
    ("OPENPGPKEY", "AQID"),
    ("HINFO", r#"pc "un ix""#),
    ("NAPTR", r#"100 50 "s" "http+I2L" "" _http._tcp.zone.test."#),
    ("NAPTR", r#"1 2 "u" "E2U+sip" "!^(.*)$!sip:\\1@x.test!" ."#),
    ("SRV", r"0 5 443 a\.b\032c.x/y.zone.test."),
    ("SVCB", "0 foo.example.org."),
    ("SVCB", "16 foo.example.org. port=53"),
    ("SVCB", r#"1 foo.example.org. key667="hello\210qoo""#),
    ("SVCB", r#"1 foo.example.org. ipv6hint="2001:db8::1,2001:db8::53:1""#),
    ("SVCB", "16 foo.example.org. alpn=h2,h3-19 mandatory=ipv4hint,alpn ipv4hint=192.0.2.1"),
    ("SVCB", r#"16 foo.example.org. alpn="f\\\\oo\\,bar,h2""#),
    ("SVCB", r"16 foo.example.org. alpn=f\\\092oo\092,bar,h2"),
    ("HTTPS", r#"1 . no-default-alpn port="8443" alpn="h2""#),
    ("HTTPS", "1 . ech=AQID ipv4hint=192.0.2.1,192.0.2.2 alpn=h3"),
];

/// The data of the first answer; its owner is the question's name, compressed.
fn first_data(answer: &[u8], question: usize) -> &[u8] {
    let record = &answer[question..];
    assert_eq!(record[..2], [0xc0, 12], "{answer:?}");
    let length = usize::from(u16::from_be_bytes([record[10], record[11]]));
    &record[12..12 + length]
}

#[test]
fn other_servers_understand_texts_alike() {
    let mut sets = Sets::new();
    for (n, (kind, text)) in TEXTS.iter().enumerate() {
        sets.insert((format!("r{n}.{Z}"), *kind), BTreeSet::from([(*text).to_owned()]));
    }
    let peers = start_peers(&zone_file(&sets));
    if peers.is_empty() {
        return;
    }
    let (_writer, runtime, server) = start_ours(&sets);
    let ours = socket_to(server.addresses()[0]);
    for (n, (kind, text)) in TEXTS.iter().enumerate() {
        let query = packet(&format!("r{n}.{Z}"), type_number(kind), None);
        let mine = exchange(&ours, &query).0;
        for peer in &peers {
            let theirs = exchange(&peer.socket, &query).0;
            let (mine, theirs) = (first_data(&mine, query.len()), first_data(&theirs, query.len()));
            // Case is kept there, and means nothing in names.
            let same = mine.eq_ignore_ascii_case(theirs);
            assert!(same, "{kind} {text}\n ours {mine:?}\n {} {theirs:?}", peer.name);
        }
    }
    runtime.block_on(server.drain(Duration::from_secs(1)));
}

#[test]
fn other_servers_give_the_same_answers() {
    let mut random = StdRng::seed_from_u64(SEED);
    let sets = random_zone(&mut random);
    let text = zone_file(&sets);
    let peers = start_peers(&text);
    if peers.is_empty() {
        return;
    }
    let (_writer, runtime, server) = start_ours(&sets);
    let ours = socket_to(server.addresses()[0]);

    let (mut wrong, mut kinds) = (Vec::new(), BTreeMap::new());
    for (name, kind) in questions(&sets, &mut random) {
        let query = packet(&name, type_number(kind), Some(1232));
        let (bytes, mine) = exchange(&ours, &query);
        assert_eq!(bytes[12..query.len() - 11], query[12..query.len() - 11], "the question keeps its case");
        *kinds.entry((mine.rcode, mine.aa, mine.answers.is_empty())).or_insert(0usize) += 1;
        for peer in &peers {
            let (_, theirs) = exchange(&peer.socket, &query);
            if !theirs.tc && !mine.tc && essence(mine.clone()) != essence(theirs.clone()) {
                wrong.push(format!("{name} {kind}\n  ours {mine:?}\n  {} {theirs:?}", peer.name));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differences with seed {SEED}:\n{}\n{text}",
        wrong.len(),
        wrong[..wrong.len().min(12)].join("\n")
    );
    // Every sort of answer must have occurred, or the comparison says little.
    for sort in [(0, true, false), (0, true, true), (0, false, true), (3, true, true), (3, true, false)] {
        assert!(kinds.get(&sort).is_some_and(|count| *count > 20), "{sort:?} of {kinds:?}");
    }
    runtime.block_on(server.drain(Duration::from_secs(1)));
}
