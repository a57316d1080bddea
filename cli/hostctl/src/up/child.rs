//! One child process: started, watched, ended; found again after hostctl itself was killed.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use tokio::process::{Child as Process, Command};

/// A child's place on disk and how it is started.
#[derive(Debug)]
pub(crate) struct Child {
    pub role: String,
    pub command: Vec<String>,
    log: PathBuf,
    record: PathBuf,
    process: Option<Process>,
    /// Where the log of this run begins: what an earlier run wrote must not pass for its words.
    log_from: u64,
}

/// Tells a process from a later one with the same pid.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    pid: i32,
    /// Clock ticks since boot at which it started (proc(5), field 22 of stat).
    started: u64,
}

impl Child {
    pub(crate) fn new(data: &Path, role: &str, program: &Path, arguments: Vec<String>) -> Self {
        let mut command = vec![program.display().to_string()];
        command.extend(arguments);
        Self {
            role: role.to_owned(),
            command,
            log: data.join("log").join(format!("{role}.log")),
            record: data.join("run").join(format!("{role}.json")),
            process: None,
            log_from: 0,
        }
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::id)
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Starts it in a process group of its own, so that Ctrl-C reaches hostctl only, which ends children in order.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        self.log_from = log.metadata().map_or(0, |metadata| metadata.len());
        let (program, arguments) = self.command.split_first().context("no program")?;
        let process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {program}; is it built?"))?;
        if let Some(pid) = process.id() {
            let pid = pid as i32;
            if let Some(started) = start_time(pid) {
                fs::write(&self.record, serde_json::to_vec(&Record { pid, started })?)
                    .with_context(|| format!("cannot write {}", self.record.display()))?;
            }
        }
        self.process = Some(process);
        Ok(())
    }

    /// Whether it has ended, and how. An ended child has no pid any more.
    pub(crate) fn ended(&mut self) -> Option<String> {
        let status = self.process.as_mut()?.try_wait().ok()??;
        self.process = None;
        Some(status.to_string())
    }

    /// SIGTERM, then SIGKILL after `patience`. May be cancelled and called again.
    pub(crate) async fn end(&mut self, patience: Duration) {
        if let Some(process) = &mut self.process {
            if let Some(pid) = process.id() {
                ask_to_end(Pid::from_raw(pid as i32));
            }
            if tokio::time::timeout(patience, process.wait()).await.is_err() {
                let _ = process.kill().await;
            }
            self.process = None;
        }
        let _ = fs::remove_file(&self.record);
    }

    /// The last lines that this run wrote to its log, for an error message.
    pub(crate) fn last_lines(&self, count: usize) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(8192).max(self.log_from)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<String> = text.lines().map(readable).collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}

/// A line of a JSON log as people read it: level, message, then the fields.
fn readable(line: &str) -> String {
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(line) else { return line.to_owned() };
    let text = |name: &str| fields.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
    let mut words = vec![text("level").to_owned(), text("message").to_owned()];
    let rest = fields.iter().filter(|(name, _)| {
        !["timestamp", "level", "message", "target", "span", "spans"].contains(&name.as_str())
    });
    words.extend(rest.map(|(name, value)| match value.as_str() {
        Some(text) => format!("{name}={text}"),
        None => format!("{name}={value}"),
    }));
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// The children that run now, by role, whether or not the `up` that started them does.
pub(crate) fn running(data: &Path) -> BTreeMap<String, i32> {
    let Ok(entries) = fs::read_dir(data.join("run")) else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let record: Record = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            let role = path.file_stem()?.to_str()?.to_owned();
            (start_time(record.pid) == Some(record.started)).then_some((role, record.pid))
        })
        .collect()
}

/// Ends the children that a hostctl before this one left behind; returns their roles.
///
/// A pid that another program has by now is left alone.
pub(crate) async fn end_leftovers(data: &Path, patience: Duration) -> anyhow::Result<Vec<String>> {
    let mut ended = Vec::new();
    let Ok(entries) = fs::read_dir(data.join("run")) else { return Ok(ended) };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let record: Option<Record> =
            fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(record) = record
            && start_time(record.pid) == Some(record.started)
        {
            let pid = Pid::from_raw(record.pid);
            ask_to_end(pid);
            let until = Instant::now() + patience;
            while start_time(record.pid) == Some(record.started) {
                if Instant::now() > until {
                    let _ = kill(pid, Signal::SIGKILL);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            ended.push(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        }
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(ended)
}

fn ask_to_end(pid: Pid) {
    // Both fail only if it is gone already. A stopped process does not hear the first without the second.
    let _ = kill(pid, Signal::SIGTERM);
    let _ = kill(pid, Signal::SIGCONT);
}

/// Whether it was stopped by a signal or a debugger: it runs, but does nothing.
pub(crate) fn is_stopped(pid: i32) -> bool {
    state(pid).is_some_and(|(state, _)| state.eq_ignore_ascii_case("t"))
}

/// `None` for a process that does not run; a zombie does not.
fn start_time(pid: i32) -> Option<u64> {
    state(pid).filter(|(state, _)| state != "Z").map(|(_, started)| started)
}

/// State and start of a process: proc(5), fields 3 and 22 of stat.
fn state(pid: i32) -> Option<(String, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything, so count from the last one.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    Some((fields.next()?.to_owned(), fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> tempfile::TempDir {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("run")).unwrap();
        fs::create_dir(data.path().join("log")).unwrap();
        data
    }

    #[tokio::test]
    async fn a_leftover_is_ended_and_a_stranger_with_its_pid_is_not() {
        let data = data();
        let mut child = Child::new(data.path(), "sleeper", Path::new("/bin/sleep"), vec!["60".into()]);
        child.start().unwrap();
        let mut process = child.process.take().unwrap();
        let pid = process.id().unwrap() as i32;

        assert_eq!(running(data.path()).get("sleeper"), Some(&pid));
        assert!(!is_stopped(pid));
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        while !is_stopped(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let record = data.path().join("run/stranger.json");
        fs::write(&record, serde_json::to_vec(&Record { pid: 1, started: 1 }).unwrap()).unwrap();
        let reaper = tokio::spawn(async move { process.wait().await });
        let ended = end_leftovers(data.path(), Duration::from_secs(5)).await.unwrap();
        assert_eq!(ended, ["sleeper"]);
        assert!(running(data.path()).is_empty());
        assert_eq!(start_time(pid), None);
        assert!(start_time(1).is_some());
        assert!(!record.exists());
        reaper.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_end_is_seen_with_its_last_words() {
        let data = data();
        let arguments = vec!["-c".into(), "echo one; echo two; exit 3".into()];
        let mut child = Child::new(data.path(), "short", Path::new("/bin/sh"), arguments);
        child.start().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        let how = loop {
            if let Some(how) = child.ended() {
                break how;
            }
            assert!(Instant::now() < until);
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert!(how.contains('3'), "{how}");
        assert_eq!(child.last_lines(1), "two");
        child.command = vec!["/bin/sh".into(), "-c".into(), "sleep 60".into()];
        child.start().unwrap();
        assert_eq!(child.last_lines(5), "", "the run before it wrote these");
        child.end(Duration::from_secs(5)).await;
    }

    #[test]
    fn a_log_line_is_readable() {
        let line = r#"{"timestamp":"t","level":"ERROR","message":"no","path":"/x","n":3,"target":"a"}"#;
        assert_eq!(readable(line), "ERROR no n=3 path=/x");
        assert_eq!(readable("thread panicked"), "thread panicked");
    }

    #[tokio::test]
    async fn who_ignores_sigterm_is_killed() {
        let data = data();
        let arguments = vec!["-c".into(), "trap '' TERM; echo armed; while :; do sleep 1; done".into()];
        let mut child = Child::new(data.path(), "deaf", Path::new("/bin/sh"), arguments);
        child.start().unwrap();
        let pid = child.pid().unwrap() as i32;
        while child.last_lines(1) != "armed" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Cut short and called again: it is not lost on the way.
        let cut = tokio::time::timeout(Duration::from_millis(50), child.end(Duration::from_secs(60))).await;
        assert!(cut.is_err() && start_time(pid).is_some());
        child.end(Duration::from_millis(200)).await;
        assert_eq!(start_time(pid), None);
    }
}
