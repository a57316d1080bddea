//! A line of JSON for every request, written by a thread of its own.
//!
//! Requests put their lines into memory, and the thread writes what is there ten times a second. When the disk is slower than the
//! requests, lines are dropped and counted: a request never waits for its line.

use std::borrow::Cow;
use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize, Serializer};

use crate::metrics::Metrics;

/// Memories for lines, so that threads seldom meet at one.
const SLOTS: usize = 16;
/// Bytes of lines that one memory holds while the disk is slow.
const SLOT_BYTES: usize = 1024 * 1024;
/// Between two looks at the memories.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two looks whether the file was moved away, and between two warnings about the disk.
const LOOK: Duration = Duration::from_secs(1);
/// How long the end of the process waits for the last lines.
const LAST: Duration = Duration::from_secs(2);
/// Bytes of what a client sent that are written of each field: nobody can push the others out of the file with a few requests.
const FIELD_BYTES: usize = 2_048;
/// The owner writes, its group may read: visitors' addresses are nobody else's business.
const MODE: u32 = 0o640;

/// What is written of a client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Addresses {
    /// All of it.
    Full,
    /// Its network: the first 24 bits of an IPv4 address, the first 48 of an IPv6 address.
    Network,
}

impl Addresses {
    /// The address as it is written.
    #[must_use]
    pub fn of(self, address: IpAddr) -> IpAddr {
        match (self, address.to_canonical()) {
            (Self::Full, address) => address,
            (Self::Network, IpAddr::V4(address)) => IpAddr::V4((u32::from(address) & !0xff).into()),
            (Self::Network, IpAddr::V6(address)) => IpAddr::V6((u128::from(address) >> 80 << 80).into()),
        }
    }
}

/// How the log is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// Where it is written.
    pub file: PathBuf,
    /// A file that is larger becomes `FILE.1`, in place of the one before.
    pub bytes: u64,
    /// Of this many requests that went well one is written.
    pub every: u32,
}

/// What is written of a request. What is not known is left out.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Line<'a> {
    /// When the answer ended.
    #[serde(serialize_with = "milliseconds")]
    pub(crate) time: Timestamp,
    /// Empty where the brand wants no addresses written.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) client: &'a str,
    /// By which node and client know the request, where they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<&'a str>,
    pub(crate) tls: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) host: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) method: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) target: &'a str,
    /// Of the answer; 0: the client left first.
    pub(crate) status: u16,
    /// Why the edge answered by itself.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) reason: &'a str,
    /// What the cache did.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) cache: &'a str,
    /// The crawler that it is of, and whether it is; where the policy asks for crawlers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) crawler: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) crawler_is: &'static str,
    /// Bytes of the request's body that were passed on, and of the answer's that were taken by the client's connection.
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// From the whole head of the request to the end of the answer.
    pub(crate) seconds: f64,
    /// Until the node's head was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) webroot: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shard: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<&'a str>,
    /// Of the trace that it is recorded in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) referer: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) user_agent: &'a str,
}

fn milliseconds<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.3}"))
}

/// What a client sent, as it is written.
pub(crate) fn text(sent: &[u8]) -> Cow<'_, str> {
    match sent.get(..FIELD_BYTES) {
        Some(begin) if sent.len() > FIELD_BYTES => String::from_utf8_lossy(begin) + "…",
        _ => String::from_utf8_lossy(sent),
    }
}

#[derive(Debug, Default)]
struct Slot {
    lines: Vec<u8>,
    /// Requests that went well since the last one that was written.
    passed: u32,
}

#[derive(Debug)]
struct Shared {
    slots: [Mutex<Slot>; SLOTS],
    every: u32,
    dropped: Counter,
    stop: AtomicBool,
}

impl Shared {
    fn slot(&self, index: usize) -> Option<std::sync::MutexGuard<'_, Slot>> {
        Some(self.slots.get(index % SLOTS)?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where lines are put; by default nowhere. A clone puts them into the same log.
#[derive(Debug, Clone, Default)]
pub struct AccessLog(Option<Arc<Shared>>);

/// Ends the log with its last lines when it is dropped.
#[derive(Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
    writing: JoinHandle<()>,
}

thread_local! {
    /// Which memory this thread uses.
    static SLOT: Cell<usize> = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Cell::new(NEXT.fetch_add(1, Ordering::Relaxed))
    };
}

impl AccessLog {
    /// The log that these settings ask for, and what has to live as long as there is something to write.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(settings: Option<&LogSettings>, metrics: &Metrics) -> io::Result<(Self, Option<LogWriter>)> {
        let Some(settings) = settings else { return Ok((Self::default(), None)) };
        let (log, writer) = Self::start(settings, metrics.log_lines_dropped.clone())?;
        Ok((log, Some(writer)))
    }

    /// Opens the file. `dropped` counts lines that could not be written.
    ///
    /// # Errors
    /// The file cannot be opened.
    fn start(settings: &LogSettings, dropped: Counter) -> io::Result<(Self, LogWriter)> {
        let output = Output::open(settings.file.clone(), settings.bytes)?;
        let shared = Arc::new(Shared {
            slots: Default::default(),
            every: settings.every.max(1),
            dropped,
            stop: AtomicBool::new(false),
        });
        let lines = Arc::clone(&shared);
        let writing = thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_until_stopped(&lines, output))?;
        Ok((Self(Some(Arc::clone(&shared))), LogWriter { shared, writing }))
    }

    /// Whether lines are of use.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Writes a line, unless it is one of many that went well, or there is no room.
    pub(crate) fn write(&self, line: &Line<'_>) {
        let Some(shared) = &self.0 else { return };
        let Some(mut slot) = shared.slot(SLOT.get()) else { return };
        if (200..500).contains(&line.status) {
            slot.passed += 1;
            if slot.passed < shared.every {
                return;
            }
            slot.passed = 0;
        }
        if slot.lines.len() > SLOT_BYTES {
            shared.dropped.inc();
            return;
        }
        let before = slot.lines.len();
        // Strings and numbers have their form in JSON, and memory takes every byte.
        if serde_json::to_writer(&mut slot.lines, line).is_err() {
            slot.lines.truncate(before);
            return;
        }
        slot.lines.push(b'\n');
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.writing.thread().unpark();
        // A disk that hangs does not keep the process.
        let begun = Instant::now();
        while !self.writing.is_finished() && begun.elapsed() < LAST {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn write_until_stopped(shared: &Shared, mut output: Output) {
    let mut spare = Vec::new();
    loop {
        let stops = shared.stop.load(Ordering::Relaxed);
        for index in 0..SLOTS {
            if let Some(mut slot) = shared.slot(index) {
                std::mem::swap(&mut slot.lines, &mut spare);
            }
            if !spare.is_empty() {
                output.write(&spare, &shared.dropped);
                spare.clear();
                // A burst's memory is given back.
                spare.shrink_to(SLOT_BYTES / 16);
            }
        }
        if stops {
            return;
        }
        thread::park_timeout(PAUSE);
    }
}

/// The file, and what is known of it.
struct Output {
    path: PathBuf,
    limit: u64,
    file: File,
    looked: Instant,
    warned: Option<Instant>,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(MODE).open(path)
}

impl Output {
    fn open(path: PathBuf, limit: u64) -> io::Result<Self> {
        let file = open(&path)?;
        Ok(Self { path, limit, file, looked: Instant::now(), warned: None })
    }

    fn write(&mut self, lines: &[u8], dropped: &Counter) {
        let outcome = self.turn().and_then(|size| {
            // Half of it would make the next line unreadable.
            self.file.write_all(lines).inspect_err(|_| drop(self.file.set_len(size)))
        });
        if let Err(error) = outcome {
            dropped.inc_by(memchr::memchr_iter(b'\n', lines).count() as u64);
            if self.warned.is_none_or(|warned| warned.elapsed() >= LOOK) {
                self.warned = Some(Instant::now());
                tracing::warn!(%error, file = %self.path.display(), "the access log cannot be written; its lines are dropped");
            }
        }
    }

    /// Takes another file when this one is full, or was moved away by somebody else; how many bytes the file has. While a process is
    /// replaced (ADR 41) two write to it, so each looks at the file and not at what it wrote itself.
    fn turn(&mut self) -> io::Result<u64> {
        let ours = self.file.metadata()?;
        let is_full = ours.len() >= self.limit;
        if !is_full && self.looked.elapsed() < LOOK {
            return Ok(ours.len());
        }
        self.looked = Instant::now();
        let there = fs::metadata(&self.path);
        let is_there = there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
        if is_there && !is_full {
            return Ok(ours.len());
        }
        if is_there {
            let mut before = self.path.clone().into_os_string();
            before.push(".1");
            fs::rename(&self.path, before)?;
        }
        self.file = open(&self.path)?;
        Ok(self.file.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(folder: &Path) -> LogSettings {
        LogSettings { file: folder.join("access.log"), bytes: u64::MAX, every: 1 }
    }

    fn line(status: u16) -> Line<'static> {
        let time = Timestamp::now();
        Line { time, client: "192.0.2.1", target: "/\"\u{1}\n", status, seconds: 0.25, ..Line::default() }
    }

    #[test]
    fn a_line_is_one_object_whatever_a_client_sends() {
        let folder = tempfile::tempdir().unwrap();
        let (log, writer) = AccessLog::start(&settings(folder.path()), Counter::default()).unwrap();
        log.write(&line(200));
        log.write(&line(0));
        drop(writer);
        let text = fs::read_to_string(folder.path().join("access.log")).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines.len(), &lines[0]["target"]), (2, &"/\"\u{1}\n".into()));
        assert_eq!((&lines[0]["seconds"], lines[1].get("tenant")), (&0.25.into(), None));
        let time: Timestamp = lines[0]["time"].as_str().unwrap().parse().unwrap();
        assert!(time.duration_until(Timestamp::now()).abs() < jiff::SignedDuration::from_secs(60));
        let mode = fs::metadata(folder.path().join("access.log")).unwrap().mode();
        assert_eq!(mode & 0o777, MODE);
    }

    #[test]
    fn of_what_goes_well_one_in_so_many_is_written_and_all_of_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let settings = LogSettings { every: 10, ..settings(folder.path()) };
        let (log, writer) = AccessLog::start(&settings, Counter::default()).unwrap();
        for status in [200, 404, 500, 0].repeat(50) {
            log.write(&line(status));
        }
        drop(writer);
        let text = fs::read_to_string(&settings.file).unwrap();
        let count = |status: &str| text.matches(&format!("\"status\":{status},")).count();
        assert_eq!((count("200") + count("404"), count("500"), count("0")), (10, 50, 50));
    }

    #[test]
    fn a_full_file_makes_room_and_one_that_was_moved_away_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let mut output = Output::open(path.clone(), 10).unwrap();
        let dropped = Counter::default();
        for lines in ["first 4567\n", "second 567\n", "third\n"] {
            output.write(lines.as_bytes(), &dropped);
        }
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((read("access.log.1"), read("access.log")), ("second 567\n".into(), "third\n".into()));
        fs::rename(&path, folder.path().join("moved")).unwrap();
        output.looked = Instant::now().checked_sub(LOOK).unwrap();
        output.write(b"x\n", &dropped);
        assert_eq!((read("moved"), read("access.log"), dropped.get()), ("third\n".into(), "x\n".into(), 0));
    }

    #[test]
    fn two_processes_write_to_one_file_and_one_of_them_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let [mut old, mut new] = [0, 1].map(|_| Output::open(path.clone(), 10).unwrap());
        let dropped = Counter::default();
        old.write(b"first 4567\n", &dropped);
        new.write(b"second 567\n", &dropped);
        old.write(b"third\n", &dropped);
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(
            (read("access.log.1"), read("access.log")),
            ("first 4567\n".into(), "second 567\nthird\n".into())
        );
    }

    #[test]
    fn what_the_disk_does_not_take_is_counted_and_memory_is_bounded() {
        let mut output = Output::open(PathBuf::from("/dev/full"), u64::MAX).unwrap();
        let dropped = Counter::default();
        output.write(b"a\nb\n", &dropped);
        assert_eq!(dropped.get(), 2);

        let shared = Arc::new(Shared {
            slots: Default::default(),
            every: 1,
            dropped: dropped.clone(),
            stop: AtomicBool::new(false),
        });
        let log = AccessLog(Some(Arc::clone(&shared)));
        for _ in 0..20_000 {
            log.write(&line(200));
        }
        let kept: usize = (0..SLOTS).map(|index| shared.slot(index).unwrap().lines.len()).sum();
        assert!(kept < SLOT_BYTES + 1_000 && dropped.get() > 2, "{kept} {}", dropped.get());
    }

    #[test]
    fn a_disk_that_is_full_amid_a_line_leaves_none_of_it() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        use nix::sys::signal::{SigSet, Signal};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let mut output = Output::open(path.clone(), u64::MAX).unwrap();
        let dropped = Counter::default();
        output.write(b"first\n", &dropped);
        // A file that may not grow is like a disk that is full, once the signal that comes with it is kept away.
        SigSet::from(Signal::SIGXFSZ).thread_block().unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
        setrlimit(Resource::RLIMIT_FSIZE, 10, hard).unwrap();
        output.write(b"second\nthird\n", &dropped);
        setrlimit(Resource::RLIMIT_FSIZE, soft, hard).unwrap();
        output.write(b"fourth\n", &dropped);
        assert_eq!((fs::read_to_string(path).unwrap(), dropped.get()), ("first\nfourth\n".into(), 2));
    }

    #[test]
    fn what_a_client_sends_is_cut() {
        let long = "x".repeat(FIELD_BYTES);
        assert_eq!(text(long.as_bytes()), long);
        assert_eq!(text(format!("{long}y").as_bytes()), format!("{long}…"));
        assert_eq!(text(b"\xff"), "\u{fffd}");
    }

    #[test]
    fn a_network_stands_for_its_addresses() {
        let network = |address: &str| Addresses::Network.of(address.parse().unwrap()).to_string();
        assert_eq!(network("192.0.2.77"), "192.0.2.0");
        assert_eq!(network("::ffff:192.0.2.77"), "192.0.2.0");
        assert_eq!(network("2001:db8:1:2:3::4"), "2001:db8:1::");
        assert_eq!(Addresses::Full.of("::ffff:192.0.2.77".parse().unwrap()).to_string(), "192.0.2.77");
    }
}
