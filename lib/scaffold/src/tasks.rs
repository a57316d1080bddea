//! Tasks with a stated meaning of their end, and the drain.

use std::{future::Future, time::Duration};

use futures::future::BoxFuture;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::notify;

/// What it means when a task ends before it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnEnd {
    /// The process cannot go on without it.
    Fatal,
    /// It is written to the log, and the process goes on.
    Log,
}

/// A task that ended and must not.
#[derive(Debug)]
struct FatalEnd {
    /// Which one, and why.
    message: String,
    /// It failed. One that ended without an error did so because of another one, most likely.
    is_failure: bool,
}

/// How long a failure is waited for after a task ended without one.
const CAUSE_LIMIT: Duration = Duration::from_millis(200);
/// Fatal ends that are kept to tell the cause.
const ENDS: usize = 16;

/// All tasks of a process.
#[derive(Debug)]
pub struct TaskGroup {
    stop: CancellationToken,
    tracker: TaskTracker,
    failed: mpsc::Sender<FatalEnd>,
    failures: mpsc::Receiver<FatalEnd>,
    endings: (mpsc::Sender<Duration>, mpsc::Receiver<Duration>),
    /// Caught from the start: without a handler SIGTERM would end the process at once. Errors wait for [`TaskGroup::run`].
    signals: std::io::Result<(Signal, Signal)>,
}

/// A handle that spawns into the group from anywhere.
#[derive(Debug, Clone)]
pub struct Spawner {
    stop: CancellationToken,
    tracker: TaskTracker,
    failed: mpsc::Sender<FatalEnd>,
}

/// Begins the drain of a process from within.
#[derive(Debug, Clone)]
pub struct Ending(mpsc::Sender<Duration>);

impl Ending {
    /// The process drains, for `longest` at most; a signal then ends it at once. Nothing if it drains already.
    pub fn begin(&self, longest: Duration) {
        // Full or closed: the process ends already.
        let _ = self.0.try_send(longest);
    }
}

impl Default for TaskGroup {
    fn default() -> Self {
        Self::new()
    }
}

impl TaskGroup {
    /// An empty group that catches SIGTERM and SIGINT from now on. Make it first, on the runtime that runs it.
    #[must_use]
    pub fn new() -> Self {
        let (failed, failures) = mpsc::channel(ENDS);
        let signals =
            signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
        let endings = mpsc::channel(1);
        Self {
            stop: CancellationToken::new(),
            tracker: TaskTracker::new(),
            failed,
            failures,
            endings,
            signals,
        }
    }

    /// Cancelled when the process drains.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// For code that spawns later.
    #[must_use]
    pub fn spawner(&self) -> Spawner {
        Spawner { stop: self.stop.clone(), tracker: self.tracker.clone(), failed: self.failed.clone() }
    }

    /// Spawns a task on the current runtime. See [`Spawner::spawn`].
    pub fn spawn<F, E>(&self, name: &'static str, on_end: OnEnd, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display,
    {
        self.spawner().spawn(name, on_end, task);
    }

    /// For a process whose work another one took over.
    #[must_use]
    pub fn ending(&self) -> Ending {
        Ending(self.endings.0.clone())
    }

    /// Runs until SIGTERM, SIGINT, [`Ending::begin`] or a fatal end, then drains: cancels [`TaskGroup::stop`] and waits at most
    /// `deadline`, or as long as [`Ending::begin`] says, unless a signal comes meanwhile.
    ///
    /// # Errors
    /// The fatal end's message. A deadline that passes is logged, not an error.
    pub async fn run(mut self, mut deadline: Duration) -> Result<(), anyhow::Error> {
        let (mut term, mut int) = self.signals?;
        let mut replaced = false;
        let outcome = tokio::select! {
            _ = term.recv() => { tracing::info!("SIGTERM: draining"); Ok(()) }
            _ = int.recv() => { tracing::info!("SIGINT: draining"); Ok(()) }
            Some(longest) = self.endings.1.recv() => {
                (deadline, replaced) = (longest, true);
                Ok(())
            }
            Some(end) = self.failures.recv() => Err(anyhow::anyhow!(cause(end, &mut self.failures).await.message)),
        };
        if !replaced {
            // What a manager hears of a process that was replaced would be taken for the word of the one that replaced it.
            notify::tell("STOPPING=1");
        }
        self.stop.cancel();
        self.tracker.close();
        tokio::select! {
            ended = tokio::time::timeout(deadline, self.tracker.wait()) => if ended.is_err() {
                tracing::warn!(tasks = self.tracker.len(), ?deadline, "drain deadline passed, ending anyway");
            },
            _ = term.recv(), if replaced => tracing::warn!(tasks = self.tracker.len(), "SIGTERM: the drain is cut short"),
            _ = int.recv(), if replaced => tracing::warn!(tasks = self.tracker.len(), "SIGINT: the drain is cut short"),
        }
        outcome
    }
}

/// The first end that is a failure, if there is one soon.
async fn cause(first: FatalEnd, ends: &mut mpsc::Receiver<FatalEnd>) -> FatalEnd {
    let failure = async {
        loop {
            match ends.recv().await {
                Some(end) if end.is_failure => return Some(end),
                Some(_) => {}
                None => return None,
            }
        }
    };
    if first.is_failure {
        return first;
    }
    tokio::time::timeout(CAUSE_LIMIT, failure).await.ok().flatten().unwrap_or(first)
}

impl Spawner {
    /// Cancelled when the process drains.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Spawns a task on the current runtime. `name` says what it does; a panic counts as an end.
    pub fn spawn<F, E>(&self, name: &'static str, on_end: OnEnd, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display,
    {
        self.spawn_boxed(
            name,
            on_end,
            Box::pin(async move { task.await.map_err(|error| error.to_string()) }),
        );
    }

    /// Of one type for all tasks: the runtime's part is compiled once, and not again for each.
    fn spawn_boxed(&self, name: &'static str, on_end: OnEnd, task: BoxFuture<'static, Result<(), String>>) {
        let (stop, failed) = (self.stop.clone(), self.failed.clone());
        self.tracker.spawn(async move {
            // In a set of its own, so that a panic arrives as a value.
            let mut set = JoinSet::new();
            set.spawn(task);
            let ended = set.join_next().await;
            if stop.is_cancelled() {
                return;
            }
            let (why, is_failure) = match ended {
                Some(Ok(Ok(()))) | None => ("ended".to_owned(), false),
                Some(Ok(Err(error))) => (error, true),
                Some(Err(error)) => (error.to_string(), true),
            };
            tracing::error!(task = name, why, "task ended");
            if on_end == OnEnd::Fatal {
                // Full: others are already on their way.
                let _ = failed.try_send(FatalEnd { message: format!("{name}: {why}"), is_failure });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fatal_end_ends_the_process_and_drains_the_rest() {
        let group = TaskGroup::new();
        let stop = group.stop();
        let (drained, was_drained) = tokio::sync::oneshot::channel();
        group.spawn("keeper", OnEnd::Log, async move {
            stop.cancelled().await;
            let _ = drained.send(());
            Ok::<(), String>(())
        });
        group.spawn("breaks", OnEnd::Fatal, async { Err("disk on fire".to_owned()) });
        let error = group.run(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.to_string(), "breaks: disk on fire");
        was_drained.await.unwrap();
    }

    #[tokio::test]
    async fn the_one_that_failed_is_named_and_not_the_one_that_ended_with_it() {
        let group = TaskGroup::new();
        group.spawn("follows", OnEnd::Fatal, async { Ok::<(), String>(()) });
        group.spawn("breaks", OnEnd::Fatal, async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Err("disk on fire".to_owned())
        });
        let error = group.run(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.to_string(), "breaks: disk on fire");
    }

    #[tokio::test]
    async fn a_process_that_was_replaced_drains_for_as_long_as_it_is_told() {
        let group = TaskGroup::new();
        let stop = group.stop();
        let (ending, drained) =
            (group.ending(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
        let done = std::sync::Arc::clone(&drained);
        group.spawn("connections", OnEnd::Log, async move {
            stop.cancelled().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            done.store(true, std::sync::atomic::Ordering::SeqCst);
            Ok::<(), String>(())
        });
        ending.begin(Duration::from_secs(20));
        ending.begin(Duration::ZERO);
        group.run(Duration::ZERO).await.unwrap();
        assert!(drained.load(std::sync::atomic::Ordering::SeqCst), "the longer deadline holds");
    }

    #[tokio::test]
    async fn a_panic_is_an_end() {
        let group = TaskGroup::new();
        group.spawn("panics", OnEnd::Fatal, async {
            if std::hint::black_box(true) {
                panic!("boom");
            }
            Ok::<(), String>(())
        });
        assert!(group.run(Duration::from_secs(5)).await.is_err());
    }
}
