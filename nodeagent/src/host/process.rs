//! Processes of ours: how they are started, recognised again and told apart from strangers.
//!
//! A process is ours when boot, process id and start time are those that were written down when it was started; its
//! workers are the members of its process group that run the same program and began no earlier. Nothing else is ever
//! sent a signal.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use hosting_scaffold::file::write_private;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

/// What is written down of a process that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) pid: i32,
    /// Clock ticks since the boot.
    pub(super) started: u64,
    pub(super) boot: String,
    /// The program's path without links.
    pub(super) program: PathBuf,
    /// Number of the signal that ends it gracefully.
    #[serde(default = "terminate")]
    pub(super) stop_signal: i32,
}

fn terminate() -> i32 {
    Signal::TERM.as_raw()
}

/// A line of `/proc/{pid}/stat`, as far as it is needed (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: u8,
    parent: i32,
    group: i32,
    started: u64,
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name in parentheses may itself hold parentheses and blanks.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let started = fields.nth(16)?.parse().ok()?;
    Some(Stat { state, parent, group, started })
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn program(pid: i32) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // A package upgrade replaces the file under the process.
    let text = path.to_string_lossy();
    Some(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

fn processes() -> impl Iterator<Item = (i32, Stat)> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .filter(|(_, stat)| stat.state != b'Z')
}

/// Children of `pid` that are alive.
pub(super) fn children(pid: i32) -> Vec<i32> {
    processes().filter(|(_, stat)| stat.parent == pid).map(|(child, _)| child).collect()
}

/// What a process calls itself in the process list; empty when it is gone.
pub(super) fn title(pid: i32) -> String {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&text).replace('\0', " ")
}

/// Whether a process has a handler for a signal: one that is still starting would be ended by it (proc(5), SigCgt).
pub(super) fn handles(pid: i32, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = u32::try_from(signal - 1).ok().and_then(|shift| 1_u64.checked_shl(shift));
    caught.zip(bit).is_some_and(|(caught, bit)| caught & bit != 0)
}

/// Whether a process of this id is alive.
pub(super) fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != b'Z')
}

impl Record {
    /// Of a process that was just started.
    pub(super) fn of(pid: i32, program: &Path, stop_signal: i32) -> Option<Self> {
        let program = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
        Some(Self { pid, started: stat(pid)?.started, boot: boot(), program, stop_signal })
    }

    /// Reads one; `None` when there is none or it is damaged.
    pub(super) fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Writes it down in one go.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        write_private(path, &serde_json::to_vec(self)?)
    }

    /// The process, if it is still the one that was written down.
    pub(super) fn alive(&self) -> Option<Running> {
        let running = Running::open(self.pid)?;
        // Looked at after it was opened: what the descriptor names cannot change any more.
        let now = stat(self.pid)?;
        let same = self.boot == boot() && now.started == self.started && now.state != b'Z';
        same.then_some(running)
    }

    /// Whether the process runs this program.
    pub(super) fn runs(&self, wanted: &Path) -> bool {
        let wanted = fs::canonicalize(wanted).unwrap_or_else(|_| wanted.to_owned());
        program(self.pid).is_some_and(|program| program == wanted)
    }

    /// Kills workers that outlived their master.
    pub(super) fn end_leftovers(&self) {
        let group = Pid::from_raw(self.pid);
        let is_empty = group.is_none_or(|group| rustix::process::test_kill_process_group(group).is_err());
        if is_empty || self.boot != boot() || is_alive(self.pid) {
            return;
        }
        for (pid, found) in processes() {
            let ours = |stat: Stat| stat.group == self.pid && stat.started >= self.started;
            if ours(found)
                && let Some(running) = Running::open(pid)
                && stat(pid).is_some_and(ours)
                && program(pid).is_some_and(|program| program == self.program)
            {
                tracing::warn!(pid, program = %self.program.display(), "killing a worker that outlived its master");
                running.signal(Signal::KILL);
            }
        }
    }
}

/// A live process that cannot be mistaken for another.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pid: i32,
    fd: OwnedFd,
}

impl Running {
    pub(super) fn open(pid: i32) -> Option<Self> {
        let fd = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::NONBLOCK).ok()?;
        Some(Self { pid, fd })
    }

    /// Sends a signal; a process that has ended is no error.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = rustix::process::pidfd_send_signal(&self.fd, signal);
    }

    /// Waits until it has ended. Asks now and then: only what is a child of ours could tell by itself.
    pub(super) async fn ended(&self) {
        while !self.has_ended() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// A descriptor of a process becomes readable when it ends (pidfd_open(2)).
    fn has_ended(&self) -> bool {
        let mut watched = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, PollTimeout::ZERO) {
            Ok(ready) => ready > 0,
            Err(_) => !is_alive(self.pid),
        }
    }
}

struct Job {
    command: Box<Command>,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts children from one thread that lives as long as the agent: the signal at a parent's death is that of the thread
/// that started them (prctl(2), PR_SET_PDEATHSIG), and threads of a pool come and go.
#[derive(Debug)]
pub(super) struct Spawner {
    jobs: mpsc::SyncSender<Job>,
}

impl Spawner {
    pub(super) fn new() -> io::Result<Self> {
        let (jobs, todo) = mpsc::sync_channel::<Job>(16);
        let runtime = Handle::current();
        thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            let _runtime = runtime.enter();
            while let Ok(mut job) = todo.recv() {
                let _ = job.reply.send(job.command.spawn());
            }
        })?;
        Ok(Self { jobs })
    }

    pub(super) async fn spawn(&self, command: Command) -> io::Result<Child> {
        let gone = || io::Error::other("the spawner thread has ended");
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send(Job { command: Box::new(command), reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// A signal by its number.
pub(super) fn signal(number: i32) -> Option<Signal> {
    Signal::from_named_raw(number)
}

#[cfg(test)]
mod tests {
    use std::process::{Command as StdCommand, Stdio};

    use super::*;

    #[test]
    fn stat_lines_with_odd_names() {
        let line = "42 (a) b) c) S 7 41 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 2 x";
        assert_eq!(parse_stat(line), Some(Stat { state: b'S', parent: 7, group: 41, started: 98765 }));
        assert_eq!(parse_stat("42 (x"), None);
        assert_eq!(parse_stat("42 (x) S 1"), None);
    }

    #[test]
    fn a_process_is_recognised_and_a_stranger_with_its_id_is_not() {
        let mut child = StdCommand::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let record = Record::of(pid, Path::new("/bin/sleep"), 15).unwrap();
        assert!(record.alive().is_some());
        assert!(Record { started: record.started + 1, ..record.clone() }.alive().is_none());
        assert!(Record { boot: "another boot".into(), ..record.clone() }.alive().is_none());
        // Not the leader of a group of ours: left alone.
        record.end_leftovers();
        assert!(record.alive().is_some());
        child.kill().unwrap();
        // A zombie is not alive.
        while is_alive(pid) {
            thread::yield_now();
        }
        assert!(record.alive().is_none());
        child.wait().unwrap();
    }
}
