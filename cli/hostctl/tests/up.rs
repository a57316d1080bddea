//! `hostctl up` as a person at a terminal meets it when something goes wrong, with stand-ins for the platform's binaries.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are not recognised as tests")]

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const LIMIT: Duration = Duration::from_secs(30);
const BINARIES: [&str; 4] = ["hosting-controller", "hosting-edge", "hosting-dns", "hosting-nodeagent"];

/// `up` looks for nginx and PHP-FPM before anything else. Says so in the list of what was skipped.
fn lacks_daemons(test: &str) -> bool {
    let has = |prefix: &str| {
        fs::read_dir("/usr/sbin").is_ok_and(|files| {
            files.flatten().any(|file| file.file_name().to_string_lossy().starts_with(prefix))
        })
    };
    if has("nginx") && has("php-fpm8.") {
        return false;
    }
    let line = format!("{test}: needs nginx and PHP-FPM (./test installs them)");
    eprintln!("SKIPPED {line}");
    if let Some(list) = std::env::var_os("HOSTING_SKIPPED")
        && let Ok(mut list) = File::options().append(true).create(true).open(list)
    {
        let _ = writeln!(list, "{line}");
    }
    true
}

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    /// Every binary is this shell script.
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in BINARIES {
            let file = folder.path().join(name);
            let sound = "case \" $* \" in *\" --check-config \"*) exit 0;; esac";
            fs::write(&file, format!("#!/bin/sh\n{sound}\n{script}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { folder }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("var")
    }

    fn hostctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostctl"));
        command.arg("--data").arg(self.data()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn up(&self) -> Command {
        let mut command = self.hostctl(&["up", "--auto-ports", "--no-seed", "--bin-dir"]);
        command.arg(self.folder.path());
        command
    }

    /// The controller's pid, once it has written that it is armed.
    fn armed(&self) -> i32 {
        eventually(|| {
            let log = fs::read_to_string(self.data().join("log/controller.log")).unwrap_or_default();
            log.lines().find_map(|line| line.strip_prefix("armed ")?.parse().ok())
        })
    }
}

fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited {LIMIT:?} in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
}

fn send(up: &Child, signal: Signal) {
    kill(Pid::from_raw(up.id() as i32), signal).unwrap();
}

fn end(mut up: Child) -> ExitStatus {
    eventually(|| up.try_wait().unwrap())
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_child_that_dies_is_named_with_its_last_words_and_the_remedy() {
    if lacks_daemons("a_child_that_dies_is_named_with_its_last_words_and_the_remedy") {
        return;
    }
    let line = r#"{"timestamp":"t","level":"ERROR","message":"cannot open the store","path":"/x/store.db","target":"t"}"#;
    let bench = Bench::new(&format!("echo '{line}'; exit 3"));
    let output = bench.up().output().unwrap();
    let text = words(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in [
        "failed controller",
        "controller ended (exit status: 3)",
        "ERROR cannot open the store path=/x/store.db",
        "log/controller.log",
        "start again",
    ] {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    assert!(!text.contains('\u{1b}'), "no colours where there is no terminal: {text:?}");
}

#[test]
fn an_interrupt_while_starting_ends_the_child_and_has_its_own_code() {
    if lacks_daemons("an_interrupt_while_starting_ends_the_child_and_has_its_own_code") {
        return;
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let bench = Bench::new("echo armed $$; exec sleep 600");
        let up = bench.up().spawn().unwrap();
        let pid = bench.armed();
        send(&up, signal);
        assert_eq!(end(up).code(), Some(130), "{signal}");
        assert!(!runs(pid), "{signal}");
        assert!(!bench.data().join("up.json").exists());
    }
}

#[test]
fn who_asks_twice_does_not_wait() {
    if lacks_daemons("who_asks_twice_does_not_wait") {
        return;
    }
    let bench = Bench::new("trap '' TERM; echo armed $$; while :; do sleep 1; done");
    let mut up = bench.up().spawn().unwrap();
    let pid = bench.armed();
    send(&up, Signal::SIGINT);
    std::thread::sleep(Duration::from_millis(300));
    assert!(up.try_wait().unwrap().is_none() && runs(pid), "it is given time to end by itself");
    send(&up, Signal::SIGINT);
    let output = up.wait_with_output().unwrap();
    assert!(!runs(pid));
    assert_eq!(output.status.code(), Some(130));
    assert!(words(&output).contains("killing what has not ended"), "{output:?}");
}

#[test]
fn what_a_killed_up_left_behind_is_told_and_ended() {
    if lacks_daemons("what_a_killed_up_left_behind_is_told_and_ended") {
        return;
    }
    let bench = Bench::new("echo armed $$; exec sleep 600");
    let mut up = bench.up().spawn().unwrap();
    let pid = bench.armed();
    let record = bench.data().join("run/controller.json");
    eventually(|| record.exists().then_some(()));
    let starting = bench.hostctl(&["status"]).output().unwrap();
    assert!(words(&starting).contains("is starting or ending"), "{starting:?}");
    up.kill().unwrap();
    up.wait().unwrap();
    assert!(runs(pid));

    let left = bench.hostctl(&["status"]).output().unwrap();
    let text = words(&left);
    assert!(!left.status.success() && text.contains("controller") && text.contains("hostctl down"), "{text}");
    let down = bench.hostctl(&["down"]).output().unwrap();
    assert!(
        down.status.success() && String::from_utf8_lossy(&down.stdout).contains("controller"),
        "{down:?}"
    );
    assert!(!runs(pid));
    let json = bench.hostctl(&["down", "--json"]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&json.stdout).split_whitespace().collect::<String>(),
        "{\"ended\":[]}"
    );
    let nothing = bench.hostctl(&["down"]).output().unwrap();
    assert!(String::from_utf8_lossy(&nothing.stdout).contains("nothing is running"), "{nothing:?}");
}

#[test]
fn what_cannot_work_is_said_before_anything_is_started() {
    if lacks_daemons("what_cannot_work_is_said_before_anything_is_started") {
        return;
    }
    let bench = Bench::new("echo armed $$; exec sleep 600");
    let refused = |arguments: &[&str]| {
        let mut command = bench.hostctl(&["up", "--auto-ports", "--bin-dir"]);
        let output = command.arg(bench.folder.path()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(!bench.data().join("log/controller.log").exists(), "it was started: {output:?}");
        words(&output)
    };
    let text = refused(&["--seed", "/nonexistent/seed.yaml"]);
    assert!(text.contains("/nonexistent/seed.yaml") && text.contains("--no-seed"), "{text}");
    for address in ["0.0.0.0", "::", "224.0.0.1", "fe80::1", "192.0.2.1", "2001:db8::1"] {
        let text = refused(&["--no-seed", "--address", address]);
        assert!(text.contains(&format!("--address {address}")), "{text}");
    }
    // What a process says of its configuration counts before the first one is started.
    let agent = bench.folder.path().join("hosting-nodeagent");
    fs::write(&agent, "#!/bin/sh\necho \"hosting-nodeagent: data_dir: holds '$'\" >&2\nexit 1\n").unwrap();
    let text = refused(&["--no-seed"]);
    assert!(text.contains("nodeagent cannot run like this: data_dir: holds '$'"), "{text}");
    assert!(text.contains("Nothing was started") && text.contains("--data DIR"), "{text}");
    fs::remove_file(Path::new(bench.folder.path()).join("hosting-dns")).unwrap();
    let text = refused(&["--no-seed"]);
    assert!(text.contains("hosting-dns") && text.contains("--bin-dir"), "{text}");
}
