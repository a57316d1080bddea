//! The binary: what it says, that it knows nothing before its first view, how it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use hosting_intent::Digest;
use hosting_intent_sync::identity::{JoinToken, unix_now};
use hosting_intent_sync::tls::Fingerprint;
use hosting_ledger::{Journal, Ledger, LedgerBatch, Meta};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hosting-dns"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (Output, String) {
    let output = command().args(arguments).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, text)
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn help_dump_and_check() {
    let (output, help) = run(&["--help"]);
    assert!(
        output.status.success() && help.contains("dig @127.0.0.1") && help.contains("--join-token-file"),
        "{help}"
    );
    let (output, dump) = run(&["--dump-config", "--listen", "127.0.0.1:5353", "--rate-limit", "5"]);
    assert!(
        output.status.success() && dump.contains("rate_limit = 5") && dump.contains("127.0.0.1:5353"),
        "{dump}"
    );
    assert!(run(&["--check-config"]).0.status.success());
    let (output, text) = run(&["--check-config", "--rate-limit", "9999999"]);
    assert!(!output.status.success() && text.contains("rate_limit"), "{text}");
    let (output, text) = run(&["--config", "/nowhere/dns.toml"]);
    assert!(!output.status.success() && text.contains("/nowhere/dns.toml"), "{text}");
}

#[test]
fn an_address_taken_is_said_at_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let (output, text) = run(&[
        "--data-dir",
        folder.path().to_str().unwrap(),
        "--listen",
        &address,
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    assert!(
        !output.status.success() && text.contains(&address) && text.contains("another process"),
        "{text}"
    );
}

#[test]
fn nothing_is_served_before_anything_is_known() {
    let folder = tempfile::tempdir().unwrap();
    // A controller that takes connections and says nothing.
    let controller = TcpListener::bind("127.0.0.1:0").unwrap();
    let token = JoinToken::new(
        [7; 32],
        Fingerprint([1; 32]),
        "dns-1".into(),
        vec!["dns".into()],
        vec![controller.local_addr().unwrap().to_string()],
        unix_now() + 600,
    );
    let file = folder.path().join("join-token");
    fs::write(&file, token.encode().as_bytes()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (address, admin) = (free(), free());
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let mut process = Process(
        command()
            .args(["--data-dir", folder.path().join("data").to_str().unwrap()])
            .args(["--listen", &address.to_string(), "--admin-listen", &admin.to_string()])
            .args(["--join-token-file", file.to_str().unwrap()])
            .stderr(log)
            .spawn()
            .unwrap(),
    );
    let deadline = Instant::now() + Duration::from_secs(20);
    let ready = loop {
        if let Some(answer) = get(admin, "/readyz") {
            break answer;
        }
        assert!(Instant::now() < deadline, "{}", fs::read_to_string(folder.path().join("log")).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("nothing is known yet"), "{ready}");
    assert!(get(admin, "/healthz").unwrap().starts_with("HTTP/1.1 200"));
    assert!(get(admin, "/metrics").unwrap().contains("hosting_dns_zones 0"));
    assert!(TcpStream::connect(address).is_err(), "nobody listens");
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    client.send(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01").unwrap();
    let error = client.recv(&mut [0; 512]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "the port is closed, not silent");

    let begun = Instant::now();
    kill(Pid::from_raw(process.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    let status = process.0.wait().unwrap();
    assert!(status.success() && begun.elapsed() < Duration::from_secs(10), "{status}");
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains("draining") && !log.contains(token.encode().as_str()), "{log}");
}

#[test]
fn who_answers_goes_before_who_applies_changes() {
    let folder = tempfile::tempdir().unwrap();
    let meta = Meta { epoch: "e1".into(), revision: 7, count: 0, digest: Digest::EMPTY };
    let mut ledger = Ledger::open(folder.path().join("ledger.redb"), "dns/default").unwrap();
    let records = Box::new(std::iter::empty());
    ledger.write(LedgerBatch { meta: &meta, replace_all: true, records }).unwrap();
    drop(ledger);
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (address, admin) = (free(), free());
    let process = Process(
        command()
            .args(["--data-dir", folder.path().to_str().unwrap(), "--controller", "127.0.0.1:1"])
            .args(["--listen", &address.to_string(), "--admin-listen", &admin.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let deadline = Instant::now() + Duration::from_secs(20);
    while get(admin, "/readyz").is_none_or(|answer| !answer.starts_with("HTTP/1.1 200")) {
        assert!(Instant::now() < deadline, "it is not ready");
        std::thread::sleep(Duration::from_millis(20));
    }
    let threads: Vec<(String, i32)> = fs::read_dir(format!("/proc/{}/task", process.0.id()))
        .unwrap()
        .map(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            let (name, rest) = stat.split_once('(').unwrap().1.rsplit_once(") ").unwrap();
            // The 19th field, of which the first two are gone (proc_pid_stat(5)).
            (name.to_owned(), rest.split(' ').nth(16).unwrap().parse().unwrap())
        })
        .collect();
    let of = |name: &str| -> Vec<i32> {
        threads.iter().filter(|(one, _)| one.starts_with(name)).map(|(_, nice)| *nice).collect()
    };
    let usual = of("hosting-dns")[0];
    for name in ["dns-udp", "dns-tcp"] {
        assert!(!of(name).is_empty() && of(name).iter().all(|nice| *nice == usual), "{name}: {threads:?}");
    }
    let control = of("dns-control");
    assert!(!control.is_empty() && control.iter().all(|nice| *nice > usual), "{threads:?}");
}
