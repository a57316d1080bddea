//! One process takes over from another: nobody's request fails, and whatever becomes of the new one, somebody serves.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{Load, ask_http1, tls};
use crate::processes::{HOST, Running, Site};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn under_load_no_request_fails_and_the_old_process_ends() {
    let site = Site::new().await;
    let mut old = site.start(&[]).await;
    let load = Load::start(&site, 6);
    load.more(100).await;
    let before = load.so_far().connections;
    let mut last = None;
    // Once more from one that took over itself.
    for _ in 0..2 {
        let new = site.take_over(&[]).await;
        assert!(old.ends().await.success(), "{}", old.said());
        old.says("another process has taken over").await;
        load.more(100).await;
        new.says("the process before has no connections any more").await;
        old = new;
        last = Some(old.pid());
    }
    let tally = load.end().await;
    assert!(tally.failed.is_empty(), "{:?}", tally.failed);
    // They came over new connections, and only because the old process was about to end.
    for version in ["h1", "h3"] {
        assert_eq!((before[version], tally.connections[version]), (6, 18), "{version}");
    }
    assert!(last.is_some() && old.is_running());
    assert!(site.metric("hosting_edge_requests_total{code=\"2xx\"}") >= 300);
    assert_eq!(site.metric("hosting_edge_take_over_packets_lost_total"), 0);
    // Ended as ever.
    old.signal(Signal::SIGTERM);
    assert!(old.ends().await.success(), "{}", old.said());
    assert!(TcpStream::connect(site.http).await.is_err() && !site.ledger_is_held());
}

async fn echo(socket: &mut TcpStream, what: &str) -> std::io::Result<()> {
    socket.write_all(what.as_bytes()).await?;
    let mut back = vec![0; what.len()];
    tokio::time::timeout(10 * SECOND, socket.read_exact(&mut back)).await??;
    assert_eq!(back, what.to_ascii_uppercase().as_bytes());
    Ok(())
}

async fn websocket(site: &Site) -> TcpStream {
    let mut socket = TcpStream::connect(site.http).await.unwrap();
    let request =
        format!("GET /upgrade HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert_ne!(socket.read_buf(&mut head).await.unwrap(), 0);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_websockets_go_on_until_the_deadline() {
    let site = Site::new().await;
    let mut old = site.start(&[("HOSTING_EDGE_TAKE_OVER_DRAIN_MS", "6000")]).await;
    let mut sockets = Vec::new();
    for _ in 0..1_000 {
        sockets.push(websocket(&site).await);
    }
    assert_eq!(site.metric("hosting_edge_upgraded_connections"), 1_000);
    let _new = site.take_over(&[]).await;
    let began = Instant::now();
    assert_eq!(site.metric("hosting_edge_upgraded_connections"), 0);
    for socket in &mut sockets {
        echo(socket, "after").await.unwrap();
    }
    // Those that end by themselves do so as ever.
    for mut socket in sockets.split_off(900) {
        socket.shutdown().await.unwrap();
        assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0);
    }
    let mut fresh = websocket(&site).await;
    for socket in &mut sockets {
        echo(socket, "still").await.unwrap();
    }
    assert!(old.is_running() && began.elapsed() < 6 * SECOND, "this machine is too slow for the deadline");
    assert!(old.ends().await.success(), "{}", old.said());
    assert!(began.elapsed() >= 5 * SECOND, "{:?}", began.elapsed());
    old.says("upgraded=900").await;
    for socket in &mut sockets {
        assert!(echo(socket, "late").await.is_err());
    }
    echo(&mut fresh, "fresh").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_may_bring_a_last_request() {
    let site = Site::new().await;
    let mut old = site.start(&[]).await;
    let mut idle = TcpStream::connect(site.http).await.unwrap();
    assert!(ask_http1(&mut idle, "/x").await.unwrap());
    let _new = site.take_over(&[]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(old.is_running());
    assert!(!ask_http1(&mut idle, "/x").await.unwrap(), "its answer says that it is the last one");
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(old.ends().await.success(), "{}", old.said());
}

/// What a client of HTTP/3 is told that asks for nothing.
async fn told_over_http3(site: &Site) -> impl Future<Output = Vec<u8>> + use<> {
    let config = crate::http3_client::config(tls(site, &[b"h3"]));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let conn = endpoint.connect_with(config, site.https, HOST).unwrap().await.unwrap();
    let mut control = conn.accept_uni().await.unwrap();
    async move {
        let mut said = Vec::new();
        while let Ok(Some(chunk)) = control.read_chunk(usize::MAX, true).await {
            said.extend_from_slice(&chunk.bytes);
        }
        drop((conn, endpoint));
        said
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_on_their_way_over_http3_are_waited_for() {
    let site = Site::new().await;
    let mut old = site.start(&[]).await;
    let told = told_over_http3(&site).await;
    let _new = site.take_over(&[]).await;
    let told = tokio::time::timeout(10 * SECOND, told).await.unwrap();
    // Two times GOAWAY: first for streams that nobody can open, then for all.
    let expected = b"\x07\x08\xff\xff\xff\xff\xff\xff\xff\xfc\x07\x01\x00";
    assert!(told.ends_with(expected), "{told:x?}");
    assert!(old.ends().await.success(), "{}", old.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_cuts_the_drain_and_until_then_no_further_process_may_take_over() {
    let site = Site::new().await;
    let mut old = site.start(&[]).await;
    let mut socket = websocket(&site).await;
    let mut new = site.take_over(&[]).await;
    let mut third = Running::start(&mut site.command(&["--take-over"]));
    assert!(!third.ends().await.success());
    third.says(&format!("`kill {}`", old.pid())).await;
    echo(&mut socket, "still").await.unwrap();
    old.signal(Signal::SIGTERM);
    assert!(old.ends().await.success(), "{}", old.said());
    assert!(echo(&mut socket, "late").await.is_err());
    new.says("the process before has no connections any more").await;
    let _third = site.take_over(&[]).await;
    assert!(new.ends().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_ends_before_it_is_ready_changes_nothing() {
    let site = Site::new().await;
    let mut old = site.start(&[]).await;
    let load = Load::start(&site, 3);
    load.more(20).await;
    // Waits for a controller that never comes.
    let mut new =
        Running::start(site.command(&["--take-over"]).env("HOSTING_EDGE_TAKE_OVER_WAIT_MS", "600000"));
    new.says("no identity; serving what the ledger knows").await;
    load.more(20).await;
    new.signal(Signal::SIGKILL);
    new.ends().await;
    old.says("a take-over came to nothing; serving as before").await;
    load.more(20).await;
    let until = Instant::now() + 10 * SECOND;
    while !site.ledger_is_held() {
        assert!(Instant::now() < until, "the ledger is taken back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // One whose settings are wrong does not get as far as that.
    let mut wrong = Running::start(&mut site.command(&["--take-over", "--http-listen", "192.0.2.1:80"]));
    assert!(!wrong.ends().await.success());
    wrong.says("no such address").await;
    // And now a sound one.
    let _new = site.take_over(&[]).await;
    assert!(old.ends().await.success(), "{}", old.said());
    load.more(20).await;
    let tally = load.end().await;
    assert!(tally.failed.is_empty(), "{:?}", tally.failed);
}

/// A new process as far as words go.
struct Words(UnixStream);

impl Words {
    fn to(site: &Site) -> Self {
        let stream = UnixStream::connect(site.data_dir().join("take-over.sock")).unwrap();
        stream.set_read_timeout(Some(10 * SECOND)).unwrap();
        Self(stream)
    }

    fn say(&mut self, word: &serde_json::Value) -> serde_json::Value {
        self.0.write_all(format!("{word}\n").as_bytes()).unwrap();
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            assert_eq!(self.0.read(&mut byte).unwrap(), 1, "it hangs up after {word}");
            line.push(byte[0]);
        }
        serde_json::from_slice(&line).unwrap()
    }

    /// Up to the sockets.
    fn take(&mut self) {
        let running = self.say(&serde_json::json!({"hello": {"version": 1, "build": "test"}}));
        let places = running["running"]["places"].clone();
        assert_eq!(places.as_array().unwrap().len(), 4, "{running}");
        assert_eq!(self.say(&"lend_feed".into()), "feed_lent");
        let sockets = self.say(&serde_json::json!({"give_sockets": {"places": places}}));
        assert_eq!(sockets["sockets"]["given"].as_array().unwrap().len(), 4, "{sockets}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_ends_with_the_sockets_in_its_hands_changes_nothing() {
    let site = Site::new().await;
    let mut old = site.start(&[]).await;
    let load = Load::start(&site, 3);
    load.more(20).await;
    let mut words = Words::to(&site);
    words.take();
    load.more(20).await;
    assert!(!site.ledger_is_held());
    drop(words);
    old.says("the new process ended before it served").await;
    load.more(20).await;
    let until = Instant::now() + 10 * SECOND;
    while !site.ledger_is_held() {
        assert!(Instant::now() < until, "the ledger is taken back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let tally = load.end().await;
    assert!(tally.failed.is_empty(), "{:?}", tally.failed);
    assert!(old.is_running());
    // Version 2, two at once, and what is no word.
    let refused = Words::to(&site).say(&serde_json::json!({"hello": {"version": 2, "build": "later"}}));
    assert!(refused["refused"]["why"].as_str().unwrap().contains("version 1"), "{refused}");
    let mut first = Words::to(&site);
    first.take();
    let mut second = Words::to(&site);
    second.say(&serde_json::json!({"hello": {"version": 1, "build": "test"}}));
    let refused = second.say(&"lend_feed".into());
    assert!(refused["refused"]["why"].as_str().unwrap().contains("just now"), "{refused}");
    let mut nonsense = UnixStream::connect(site.data_dir().join("take-over.sock")).unwrap();
    nonsense.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert_eq!(nonsense.read(&mut [0; 10]).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_nothing() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become a stranger");
        return;
    }
    let site = Site::new().await;
    let old = site.start(&[]).await;
    let socket = site.data_dir().join("take-over.sock");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o600);
    // Whatever somebody makes of the modes.
    for (path, open) in [(site.data_dir(), 0o755), (socket.as_path(), 0o777)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(open)).unwrap();
    }
    // Any program of the stranger's: it is refused before it is heard, and without a word.
    let stranger = Command::new("curl")
        .args(["--silent", "--http0.9", "--max-time", "5", "http://localhost/", "--unix-socket"])
        .arg(&socket)
        .current_dir("/")
        .uid(65_534)
        .gid(65_534)
        .output()
        .unwrap();
    assert!(!stranger.status.success() && stranger.stdout.is_empty(), "{stranger:?}");
    old.says("user 65534 may not take over").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_is_an_error_that_says_what_to_do() {
    let site = Site::new().await;
    let mut none = Running::start(&mut site.command(&["--take-over"]));
    assert!(!none.ends().await.success());
    none.says("start this one without the flag").await;
    let mut old = site.start(&[]).await;
    let mut second = Running::start(&mut site.command(&[]));
    assert!(!second.ends().await.success());
    second.says(&format!("process {}, build", old.pid())).await;
    second.says("--take-over").await;
    // A check sees that the ports are those of the edge that will be replaced.
    let mut check = Running::start(&mut site.command(&["--check-config"]));
    assert!(check.ends().await.success(), "{}", check.said());
    assert!(old.is_running());
    // The socket of an edge that died is nobody's.
    old.signal(Signal::SIGKILL);
    old.ends().await;
    let _again = site.start(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_is_told_and_a_launcher_waits() {
    let site = Site::new().await;
    let told = site.data_dir().join("notify");
    let manager = UnixDatagram::bind(&told).unwrap();
    manager.set_read_timeout(Some(10 * SECOND)).unwrap();
    let hears = || {
        let mut heard = [0; 200];
        let length = manager.recv(&mut heard).unwrap();
        String::from_utf8(heard[..length].to_vec()).unwrap()
    };
    let mut old = Running::start(site.command(&[]).env("NOTIFY_SOCKET", &told));
    site.serves().await;
    assert_eq!(hears(), format!("READY=1\nMAINPID={}", old.pid()));
    let mut launcher = Running::start(site.command(&["--take-over", "--detach"]).env("NOTIFY_SOCKET", &told));
    assert!(launcher.ends().await.success(), "{}", launcher.said());
    // First the old main process says which one is the new one; from then on that one is believed.
    let main = hears();
    let new: i32 = main.strip_prefix("MAINPID=").unwrap_or_else(|| panic!("{main}")).parse().unwrap();
    assert!(new != i32::try_from(old.pid()).unwrap() && new != i32::try_from(launcher.pid()).unwrap());
    assert_eq!(hears(), format!("READY=1\nMAINPID={new}"));
    assert!(old.ends().await.success(), "{}", old.said());
    // That the old one stops is nothing that concerns the service.
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 1]).is_err());
    manager.set_nonblocking(false).unwrap();
    let mut failing = Running::start(&mut site.command(&["--take-over", "--detach", "--threads", "x"]));
    assert!(!failing.ends().await.success());
    let mut wrong =
        Running::start(&mut site.command(&["--take-over", "--detach", "--http-listen", "192.0.2.1:80"]));
    assert!(!wrong.ends().await.success());
    wrong.says("the edge that runs goes on").await;
    let mut stream = TcpStream::connect(site.http).await.unwrap();
    assert!(ask_http1(&mut stream, "/x").await.unwrap());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(new), Signal::SIGTERM).unwrap();
    assert_eq!(hears(), "STOPPING=1");
    let until = Instant::now() + 10 * SECOND;
    while TcpStream::connect(site.http).await.is_ok() {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http3_connection_ends_when_the_process_that_reads_for_it_dies() {
    let site = Site::new().await;
    let mut old = site.start(&[]).await;
    let config = crate::http3_client::config(tls(&site, &[b"h3"]));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let conn = endpoint.connect_with(config, site.https, HOST).unwrap().await.unwrap();
    let (_driver, mut requests) = h3::client::new(h3_quinn::Connection::new(conn)).await.unwrap();
    let url = format!("https://{HOST}:{}/slow/8000", site.https.port());
    let mut stream = requests.send_request(http::Request::get(url).body(()).unwrap()).await.unwrap();
    stream.finish().await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let new = site.take_over(&[]).await;
    assert!(old.is_running());
    new.signal(Signal::SIGKILL);
    old.says("nobody reads the UDP socket").await;
    old.ends().await;
    // The port is free for the one that is started instead.
    let _again = site.start(&[]).await;
}
