//! The binary: how it starts, and what it says when it cannot.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail like the test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn edge(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hosting-edge"));
    command.args(arguments).env("HOSTING_EDGE_LOG_FORMAT", "text");
    command
}

fn output(arguments: &[&str]) -> (bool, String) {
    let Output { status, stdout, stderr } = edge(arguments).output().unwrap();
    (status.success(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn the_configuration_can_be_seen_and_checked() {
    let (ok, text) = output(&["--dump-config", "--data-dir", "/tmp/nowhere", "--http-listen", "[::1]:8080"]);
    assert!(ok && text.contains("http_listen = [\"[::1]:8080\"]"), "{text}");
    assert!(text.contains("/tmp/nowhere/dev-ca.pem"), "{text}");
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("edge");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = ["--admin-listen", "127.0.0.1:0"];
    let check = |http: &str, more: &[&str]| {
        let base = ["--check-config", "--data-dir", data.to_str().unwrap(), "--http-listen", http];
        let rest = ["--https-listen", "127.0.0.1:0"];
        output(&[&base[..], &rest, more].concat())
    };
    let (ok, text) = check("127.0.0.1:0", &free);
    assert!(ok && text.contains("sound") && !data.exists(), "{text}");
    let (ok, text) = check(&taken.local_addr().unwrap().to_string(), &free);
    assert!(!ok && text.contains("--http-listen") && text.contains("another process"), "{text}");
    let (ok, text) = check("127.0.0.1:0", &["--admin-listen", &taken.local_addr().unwrap().to_string()]);
    assert!(!ok && text.contains("--admin-listen"), "{text}");
    std::fs::create_dir(&data).unwrap();
    for file in ["dev-ca.pem", "dev-ca.key"] {
        std::fs::write(data.join(file), "rubbish").unwrap();
    }
    let (ok, text) = check("127.0.0.1:0", &free);
    assert!(!ok && text.contains("dev-ca.key"), "{text}");
    let file = dir.path().join("edge.toml");
    std::fs::write(&file, "max_conections = 5\n").unwrap();
    let (ok, text) = output(&["--check-config", "--config", file.to_str().unwrap()]);
    assert!(!ok && text.contains("max_conections"), "{text}");
    let (ok, text) = output(&["--help"]);
    assert!(ok && text.contains("Examples:") && text.contains("--join-token-file"), "{text}");
}

#[test]
fn what_stands_in_the_way_is_said_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("edge");
    let data = data.to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_at = taken.local_addr().unwrap().to_string();
    let base = [
        "--data-dir",
        data,
        "--https-listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--controller",
        "127.0.0.1:1",
    ];
    let with = |more: &[&str]| output(&[&base[..], more].concat());
    let (ok, text) = with(&["--http-listen", &taken_at]);
    assert!(!ok && text.contains(&taken_at) && text.contains("another process"), "{text}");
    let (ok, text) = with(&["--http-listen", "127.0.0.1:0"]);
    assert!(!ok && text.contains("join token"), "{text}");
    let (ok, text) = with(&["--http-listen", "127.0.0.1:0", "--join-token-file", "/nonexistent/token"]);
    assert!(!ok && text.contains("/nonexistent/token"), "{text}");
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone when the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(unix)]
#[test]
fn before_anything_is_known_it_is_alive_but_not_ready_and_closed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("edge");
    // Reading the token blocks on this pipe, as a controller that does not answer would.
    let pipe = dir.path().join("token");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap();
    let (admin, http) = (free_port(), free_port());
    let mut child = Running(
        edge(&[
            "--data-dir",
            data.to_str().unwrap(),
            "--admin-listen",
            &admin.to_string(),
            "--http-listen",
            &http.to_string(),
            "--https-listen",
            "127.0.0.1:0",
            "--controller",
            "127.0.0.1:1",
            "--join-token-file",
            pipe.to_str().unwrap(),
        ])
        .stderr(Stdio::null())
        .spawn()
        .unwrap(),
    );
    let until = Instant::now() + Duration::from_secs(10);
    let ready = loop {
        match get(admin, "/readyz") {
            Ok(text) => break text,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("nothing is known yet"), "{ready}");
    assert!(get(admin, "/healthz").unwrap().starts_with("HTTP/1.1 200"));
    // The admin port is served from the beginning, and what is counted is there a little later.
    while !get(admin, "/metrics").unwrap().contains("hosting_edge_routes 0") {
        assert!(Instant::now() < until, "no number of routes");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(TcpStream::connect(http).is_err(), "closed until a view is loaded");

    // The admin port is served just before signals are.
    std::thread::sleep(Duration::from_millis(300));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.0.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < until, "did not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
}

fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
