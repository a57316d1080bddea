//! `hostctl up`: the whole platform on one machine, with the production binaries as children.
//!
//! Isolation: none. Children and sites run as the user that started `up`; for development and first looks.

mod child;
mod needs;
mod plan;
mod ports;
mod postgres;
mod status;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) use self::status::{down, status};
use self::{child::Child, plan::Plan};
use crate::format::Format;
use crate::{args::UpArgs, folder::DataFolder, output, probe, progress::Progress, summary::Summary};

/// How long a process may take until it is ready, and a child until it has drained.
const START_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(15);
/// Pauses before a child is started again: the first, and the longest after repeated ends.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A child that ran this long was sound: its next pause is the first again.
const SOUND_AFTER: Duration = Duration::from_secs(60);
/// Lines of its log that are shown of a child that ended.
const LAST_WORDS: usize = 8;
/// Where data goes unless it is said.
const DEFAULT_DATA: &str = "var";

/// What asks `up` to end.
struct Ends {
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl Ends {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
            // The terminal is gone: without this, children would outlive it.
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.int.recv() => "Ctrl-C",
            _ = self.term.recv() => "SIGTERM",
            _ = self.hup.recv() => "SIGHUP",
        }
    }
}

/// `hostctl up`.
pub(crate) async fn run(args: UpArgs, data: &Path, format: Format) -> anyhow::Result<ExitCode> {
    let mut ends = Ends::new()?;
    let mut progress = Progress::new();
    let data = DataFolder::open(data)?;
    Summary::remove(data.path())?;
    output::note(format!("Starting the platform in {}", data.path().display()));
    output::note("  isolation: none (every site runs as this user; do not host strangers with `up`)");

    let plan = tokio::select! {
        plan = Plan::prepare(data, args, &mut progress) => plan.inspect_err(|_| progress.failed())?,
        why = ends.next() => {
            progress.clear();
            output::note(format!("{why}: nothing was started"));
            return Ok(ExitCode::from(output::INTERRUPTED));
        }
    };
    let mut platform = Platform { plan, children: Vec::new(), is_up: false, format };
    let outcome = tokio::select! {
        outcome = platform.start_and_watch(&mut progress) => outcome,
        why = ends.next() => {
            progress.clear();
            output::note(format!("\n{why}: ending everything (once more: at once)"));
            Ok(())
        }
    };
    if outcome.is_err() {
        progress.failed();
    }
    let is_up = platform.is_up;
    platform.end(&mut ends).await;
    outcome?;
    Ok(if is_up { ExitCode::SUCCESS } else { ExitCode::from(output::INTERRUPTED) })
}

/// The platform's processes.
struct Platform {
    plan: Plan,
    children: Vec<Child>,
    /// Everything was started and seeded.
    is_up: bool,
    format: Format,
}

impl Platform {
    /// Returns only when something went wrong.
    async fn start_and_watch(&mut self, progress: &mut Progress) -> anyhow::Result<()> {
        let Self { plan, children, is_up, format } = self;
        let api = plan.start_controller(children, progress).await?;
        progress.step("region, cluster, shards and nodes");
        let manifest = plan.manifest();
        let applied = while_all_live(children, async {
            let applied = crate::cluster::apply(&api, &manifest).await?;
            plan.align(&api, &manifest, &applied).await?;
            Ok(applied)
        })
        .await?;
        plan.start_roles(&api, children, progress).await?;

        let (mut sites, mut silent) = (Vec::new(), Vec::new());
        if let Some(file) = plan.seeds() {
            progress.step(format!("seeding {file}"));
            sites = while_all_live(children, plan.seed(&api, &applied)).await?;
            progress.step("waiting for every site to answer");
            let targets = plan.targets();
            let waiting = |what: &str| progress.waits_for(what);
            silent = while_all_live(children, async {
                Ok(probe::until_all_answer(&sites, &targets, START_LIMIT, waiting).await)
            })
            .await?;
        }
        if silent.is_empty() {
            progress.done();
        } else {
            progress.failed();
        }
        let summary = plan.summary(&sites, children);
        summary.write(plan.data.path()).context("cannot write up.json")?;
        if format.is_for_programs() {
            silent.iter().for_each(|site| output::note(format!("broken {}: {}", site.fqdn, site.why)));
            output::data(*format, &serde_json::to_value(&summary)?);
        } else {
            plan.print(&sites, &silent);
        }
        *is_up = true;
        watch(plan, children).await
    }

    /// Ends children in the reverse order of their start; at once when asked again.
    async fn end(mut self, ends: &mut Ends) {
        let _ = Summary::remove(self.plan.data.path());
        let children = &mut self.children;
        tokio::select! {
            () = async { for child in children.iter_mut().rev() { child.end(END_LIMIT).await; } } => {}
            why = ends.next() => {
                output::note(format!("{why} again: killing what has not ended"));
                for child in self.children.iter_mut().rev() {
                    child.end(Duration::ZERO).await;
                }
            }
        }
        self.plan.data.leave();
        output::note("Ended. Everything stored is kept; `up` goes on from it.");
    }
}

/// Does `work` unless a child ends: then that is the error, with the child's last words.
async fn while_all_live<T>(
    children: &mut [Child],
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let death = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if let Some(error) = dead(children) {
                return error;
            }
        }
    };
    let error = tokio::select! {
        done = work => match done {
            Ok(done) => return Ok(done),
            Err(error) => error,
        },
        error = death => return Err(error),
    };
    // What failed may have failed because of a child that is just ending.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Err(dead(children).unwrap_or(error))
}

/// The first child that has ended, as an error.
fn dead(children: &mut [Child]) -> Option<anyhow::Error> {
    children.iter_mut().find_map(|child| {
        let how = child.ended()?;
        Some(anyhow::anyhow!("{} ended ({how}). {}", child.role, last_words(child)))
    })
}

fn last_words(child: &Child) -> String {
    let lines = child.last_lines(LAST_WORDS);
    let log = child.log().display();
    if lines.is_empty() {
        return format!("It wrote nothing to {log}");
    }
    let lines = lines.replace('\n', "\n    ");
    format!(
        "Its last words, in {log}:\n    {lines}\nMend what they name, then start again: everything stored is kept"
    )
}

/// Starts a child and waits until it says that it is ready.
async fn start_child(
    children: &mut Vec<Child>,
    mut child: Child,
    admin: SocketAddr,
    progress: &Progress,
) -> anyhow::Result<()> {
    child.start()?;
    children.push(child);
    let until = Instant::now() + START_LIMIT;
    loop {
        if let Some(error) = dead(children) {
            return Err(error);
        }
        match (probe::readiness(admin).await, children.last()) {
            (Err(why), Some(child)) if Instant::now() > until => bail!(
                "{} is not ready after {} s: {}. {}",
                child.role,
                START_LIMIT.as_secs(),
                why.trim(),
                last_words(child)
            ),
            (Err(why), Some(_)) => {
                progress.waits_for(why.trim());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            (Ok(()), _) | (Err(_), None) => return Ok(()),
        }
    }
}

/// Starts again what ends, after pauses that grow. Never returns without an error.
async fn watch(plan: &Plan, children: &mut [Child]) -> anyhow::Result<()> {
    let mut lives: Vec<Life> = children.iter().map(|_| Life::new()).collect();
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut changed = false;
        for (child, life) in children.iter_mut().zip(&mut lives) {
            if let Some(how) = child.ended() {
                changed = true;
                let words = child.last_lines(1);
                let log = child.log().display();
                if plan.args.no_restart {
                    output::note(format!("{} ended ({how}): {words}; log {log}", child.role));
                } else {
                    let pause = life.ended();
                    output::note(format!(
                        "{} ended ({how}): {words}; starting it again in {:.1} s, log {log}",
                        child.role,
                        pause.as_secs_f64(),
                    ));
                }
            }
            if life.is_due() {
                changed = true;
                match child.start() {
                    Ok(()) => life.started(),
                    Err(error) => {
                        let pause = life.ended();
                        output::note(format!("{error:#}; trying again in {:.1} s", pause.as_secs_f64()));
                    }
                }
            }
        }
        if changed && let Some(mut summary) = Summary::read(plan.data.path()) {
            summary.pids = pids(children);
            if let Err(error) = summary.write(plan.data.path()) {
                output::note(format!("cannot write up.json: {error}; is the disk full?"));
            }
        }
    }
}

/// When a child is started again.
struct Life {
    started: Instant,
    pause: Duration,
    due: Option<Instant>,
}

impl Life {
    fn new() -> Self {
        Self { started: Instant::now(), pause: FIRST_PAUSE, due: None }
    }

    /// Returns how long the pause is.
    fn ended(&mut self) -> Duration {
        if self.started.elapsed() > SOUND_AFTER {
            self.pause = FIRST_PAUSE;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        self.due = Some(Instant::now() + pause);
        pause
    }

    fn is_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now())
    }

    fn started(&mut self) {
        self.due = None;
        self.started = Instant::now();
    }
}

fn pids(children: &[Child]) -> BTreeMap<String, u32> {
    let mut pids: BTreeMap<String, u32> =
        children.iter().filter_map(|child| Some((child.role.clone(), child.pid()?))).collect();
    pids.insert("up".to_owned(), std::process::id());
    pids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_that_dies_is_the_error_whatever_failed_because_of_it() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("run")).unwrap();
        std::fs::create_dir(data.path().join("log")).unwrap();
        let script = vec!["-c".into(), "echo disk is full; exit 3".into()];
        for work_fails in [true, false] {
            let mut children = vec![Child::new(data.path(), "edge", Path::new("/bin/sh"), script.clone())];
            children[0].start().unwrap();
            let work = async {
                if !work_fails {
                    std::future::pending::<()>().await;
                }
                anyhow::Result::<()>::Err(anyhow::anyhow!("cannot connect"))
            };
            let error = while_all_live(&mut children, work).await.unwrap_err().to_string();
            assert!(error.contains("edge ended") && error.contains("disk is full"), "{error}");
        }
        let error = while_all_live(&mut [], async { anyhow::Result::<()>::Err(anyhow::anyhow!("other")) });
        assert_eq!(error.await.unwrap_err().to_string(), "other");
    }

    #[test]
    fn pauses_grow() {
        let mut life = Life::new();
        assert!(!life.is_due());
        let pauses: Vec<Duration> = (0..9).map(|_| life.ended()).collect();
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(pauses[8], LONGEST_PAUSE);
        life.due = Some(Instant::now());
        assert!(life.is_due());
        life.started();
        assert!(!life.is_due());
    }
}
