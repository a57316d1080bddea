//! The one writer: a fair queue, group commit, one revision for each mutation.
//!
//! All writes go through here, the fleet's status too: a database has one lock for the head, and a queue is fair where waiting for a
//! lock is not. Status jobs touch no revision. The writer has a thread and a runtime of its own: statements for SQLite run right there,
//! and a mutation's planning beside them.

mod queue;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use hosting_intent::Audience;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{Mutex, Notify as Bell, broadcast, oneshot, watch};
use tracing::Instrument;

pub(crate) use self::queue::Queue;
use self::queue::{Ending, State, Waiting};
use crate::commit_log::{CHANNEL, Commit, CommitLog, FleetChange};
use crate::error::{from_sql, to_sql};
use crate::event_log;
use crate::keyring::SharedKek;
use crate::lanes::{Caller, Lanes};
use crate::origin::{Origin, harmless_traceparent};
use crate::sql::{self, Connection, Dialect, SqliteConnection, SqliteOptions};
use crate::write_tx::{Fixed, IndexFn, Written, new_epoch};
use crate::{Store, StoreError, WriteTx};

/// How long one statement of a migration may take.
const MIGRATION_LIMIT: Duration = Duration::from_hours(24);
/// Most mutations in one commit.
const GROUP: usize = 128;
/// A group takes no new member when its changes are more rows than this.
const GROUP_ROWS: usize = 4_000;
/// A group takes no new member after this long: the first one waits for its commit.
const GROUP_TIME: Duration = Duration::from_millis(50);
/// How often to look at what other controllers committed, whatever PostgreSQL says.
const LOOK_AROUND: Duration = Duration::from_millis(500);

/// A mutation that is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed<T> {
    /// What the mutation answered.
    pub value: T,
    /// Its revision; the newest one before it if it changed nothing.
    pub revision: u64,
    /// Audiences whose intents it changed, in order.
    pub audiences: Vec<Audience>,
}

/// Why a mutation is not on disk.
#[derive(Debug, thiserror::Error)]
pub enum WriteError<E> {
    /// The mutation itself said no.
    #[error("{0}")]
    Refused(E),
    /// The store failed. If it was the commit, a crash right then may still have kept the mutation.
    #[error("{0}")]
    Store(StoreError),
    /// A change was refused and the mutation answered Ok all the same; nothing of it is kept.
    #[error("the mutation went on after a refused change; nothing of it is kept")]
    WentOn,
    /// The mutation panicked; nothing of it is kept.
    #[error("the mutation panicked: {0}")]
    Panicked(String),
    /// The mutation took too long; nothing of it is kept.
    #[error("the mutation took longer than {0:?}; nothing of it is kept")]
    TooSlow(Duration),
}

impl<E> WriteError<E> {
    /// The same error with another refusal.
    pub fn map<F>(self, refused: impl FnOnce(E) -> F) -> WriteError<F> {
        match self {
            Self::Refused(error) => WriteError::Refused(refused(error)),
            Self::Store(error) => WriteError::Store(error),
            Self::WentOn => WriteError::WentOn,
            Self::Panicked(message) => WriteError::Panicked(message),
            Self::TooSlow(limit) => WriteError::TooSlow(limit),
        }
    }
}

impl From<WriteError<Self>> for StoreError {
    fn from(error: WriteError<Self>) -> Self {
        match error {
            WriteError::Refused(error) | WriteError::Store(error) => error,
            WriteError::WentOn | WriteError::Panicked(_) | WriteError::TooSlow(_) => {
                Self::Sql(error.to_string().into())
            }
        }
    }
}

type Answer<T, E> = Result<Committed<T>, WriteError<E>>;

/// A mutation in line. Dropping it before the mutation has started withdraws that.
#[derive(Debug)]
#[must_use = "who does not wait for the answer withdraws the mutation"]
pub struct Submitted<T, E>(oneshot::Receiver<Answer<T, E>>);

impl<T, E> Submitted<T, E> {
    /// Waits until the mutation is on disk.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn answer(self) -> Result<Committed<T>, WriteError<E>> {
        self.0.await.unwrap_or(Err(WriteError::Store(StoreError::Closed)))
    }
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Group commits.
    pub commits: u64,
    /// Mutations that were committed.
    pub mutations: u64,
    /// Mutations that were rolled back, for whatever reason.
    pub refused: u64,
    /// Groups that failed as a whole.
    pub failed_commits: u64,
    /// Mutations waiting now.
    pub queued: u64,
    /// Statements that mutations and their groups sent to the database, without begin, head and commit.
    pub statements: u64,
}

#[derive(Debug, Default)]
struct Counts {
    commits: AtomicU64,
    mutations: AtomicU64,
    refused: AtomicU64,
    failed_commits: AtomicU64,
    statements: AtomicU64,
}

/// How a member of a group ended, told once the group has.
type Notify = Box<dyn FnOnce(Result<Landed, StoreError>) + Send>;

struct Landed {
    revision: u64,
    audiences: Vec<Audience>,
}

/// A mutation that has run.
struct Ran {
    keep: bool,
    notify: Notify,
}

type Run = Box<dyn for<'t> FnOnce(&'t mut WriteTx) -> BoxFuture<'t, Ran> + Send>;

pub(crate) struct Job {
    origin: Origin,
    span: tracing::Span,
    /// Nobody waits any more: not even started.
    abandoned: Box<dyn Fn() -> bool + Send>,
    run: Run,
    refuse: Arc<dyn Fn(StoreError) + Send + Sync>,
}

/// How the writer's connection is made, at the start and after a failure that leaves its state unknown.
#[derive(Debug, Clone)]
pub(crate) enum Connect {
    Sqlite(SqliteOptions),
    /// And how long a statement may take.
    Postgres(Box<PgConnectOptions>, Duration),
}

impl Connect {
    pub(crate) async fn open(&self) -> Result<Connection, StoreError> {
        Ok(match self {
            Self::Sqlite(options) => Connection::Sqlite(SqliteConnection::open(options)?),
            Self::Postgres(options, limit) => {
                Connection::Postgres(sql::connect_postgres(options, *limit).await?)
            }
        })
    }

    /// One whose statements may take hours: a new build goes over all rows of a large store.
    pub(crate) async fn open_patiently(&self) -> Result<Connection, StoreError> {
        Ok(match self {
            Self::Sqlite(_) => self.open().await?,
            Self::Postgres(options, _) => {
                let unlimited = [("statement_timeout", "0"), ("idle_in_transaction_session_timeout", "0")];
                let options = (**options).clone().options(unlimited);
                Connection::Postgres(sql::connect_postgres(&options, MIGRATION_LIMIT).await?)
            }
        })
    }
}

pub(crate) struct Setup {
    pub(crate) connection: Connection,
    pub(crate) connect: Connect,
    pub(crate) index: IndexFn,
    pub(crate) clock: fn() -> i64,
    pub(crate) mutation_timeout: Duration,
    pub(crate) cell: String,
    pub(crate) audit_bytes: u64,
    pub(crate) replies_per_key: u64,
    pub(crate) keys: SharedKek,
    pub(crate) rolls_out: Arc<AtomicBool>,
    pub(crate) ring: watch::Sender<u64>,
    pub(crate) commits: broadcast::Sender<Arc<Commit>>,
    /// Against a second controller on the same file.
    pub(crate) lock: Option<File>,
    /// What other controllers of the store commit, if there may be others.
    pub(crate) log: Option<CommitLog>,
    pub(crate) controller: String,
}

pub(crate) fn start(setup: Setup) -> io::Result<Queue> {
    let waiting = Arc::new(Waiting {
        state: std::sync::Mutex::new(State { lanes: Lanes::new(), closed: false }),
        bell: Bell::new(),
        began: Instant::now(),
        heard: Bell::new(),
    });
    let counts = Arc::new(Counts::default());
    let dialect = setup.connection.dialect();
    let known = *setup.ring.borrow();
    let writer = Writer {
        tx: WriteTx::new(
            setup.connection,
            Fixed {
                index: setup.index,
                clock: setup.clock,
                cell: setup.cell,
                controller: setup.controller,
                audit_bytes: setup.audit_bytes,
                replies_per_key: setup.replies_per_key,
                keys: setup.keys,
                rolls_out: setup.rolls_out,
            },
        ),
        connect: setup.connect,
        // A connection over a socket belongs to the runtime that made it.
        broken: dialect == Dialect::Postgres,
        waiting: Arc::clone(&waiting),
        ring: setup.ring,
        commits: setup.commits,
        counts: Arc::clone(&counts),
        lock: setup.lock,
        log: setup.log,
        known,
        followed: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (end, ended) = oneshot::channel();
    thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
        runtime.block_on(writer.run());
        // Nobody may wait for it.
        let _ = end.send(());
    })?;
    Ok(Queue { waiting, ended: Mutex::new(Some(ended)), counts, mutation_timeout: setup.mutation_timeout })
}

impl Store {
    /// Runs a mutation under the head lock and waits until it is on disk.
    ///
    /// Several mutations share one commit, before which their changes are written together. A refused one leaves no trace and its
    /// neighbours stand. A mutation that changes no resource, intent or counter takes no revision. The closure must not wait for
    /// anything but the transaction: all other writes wait behind it. Dropping the returned future before the mutation has
    /// started withdraws it; afterwards it goes on unobserved.
    ///
    /// # Errors
    /// [`WriteError::Refused`] with the closure's own error, otherwise see [`WriteError`].
    pub async fn write<T, E, F>(&self, origin: Origin, mutation: F) -> Result<Committed<T>, WriteError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: for<'t> FnOnce(&'t mut WriteTx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
    {
        self.submit(origin, mutation).await?.answer().await
    }

    /// Puts a mutation in line, as [`Store::write`] does, and leaves the waiting for it to the caller. What one caller (`origin.actor`) submits,
    /// each after the one before was submitted, runs in that order.
    ///
    /// # Errors
    /// [`WriteError::Store`] when nothing is taken any more.
    pub async fn submit<T, E, F>(&self, origin: Origin, mutation: F) -> Result<Submitted<T, E>, WriteError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: for<'t> FnOnce(&'t mut WriteTx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
    {
        let limit = self.0.writer.mutation_timeout;
        let (reply, answer) = oneshot::channel::<Answer<T, E>>();
        // Shared by the three ways to answer; the first one wins.
        let reply = Arc::new(std::sync::Mutex::new(Some(reply)));
        let send = {
            let reply = Arc::clone(&reply);
            move |answer: Answer<T, E>| {
                let sender = reply.lock().ok().and_then(|mut reply| reply.take());
                if let Some(sender) = sender {
                    // The caller may be gone; the mutation stands all the same.
                    let _ = sender.send(answer);
                }
            }
        };
        let refuse = {
            let send = send.clone();
            Arc::new(move |error: StoreError| send(Err(WriteError::Store(error))))
        };
        let abandoned = Box::new(move || {
            reply.lock().map_or(true, |reply| reply.as_ref().is_none_or(oneshot::Sender::is_closed))
        });
        let run: Run = Box::new(move |tx: &mut WriteTx| {
            Box::pin(async move {
                let work = AssertUnwindSafe(async { mutation(&mut *tx).await }).catch_unwind();
                let ended = match tokio::time::timeout(limit, work).await {
                    Ok(Ok(Ok(value))) => Ok(value),
                    Ok(Ok(Err(refused))) => Err(WriteError::Refused(refused)),
                    Ok(Err(panic)) => Err(WriteError::Panicked(panic_message(panic.as_ref()))),
                    Err(_) => Err(WriteError::TooSlow(limit)),
                };
                let ended = match (tx.failure(), ended) {
                    (Some(failed), _) => Err(WriteError::Store(failed)),
                    (None, Ok(_)) if tx.must_roll_back() => Err(WriteError::WentOn),
                    (None, ended) => ended,
                };
                Ran {
                    keep: ended.is_ok(),
                    notify: Box::new(move |landed| {
                        send(match (landed, ended) {
                            (Err(error), _) => Err(WriteError::Store(error)),
                            (Ok(Landed { revision, audiences }), Ok(value)) => {
                                Ok(Committed { value, revision, audiences })
                            }
                            (Ok(_), Err(error)) => Err(error),
                        });
                    }),
                }
            })
        });
        let job = Job { origin, span: tracing::Span::current(), abandoned, run, refuse };
        self.enqueue(job).await.map_err(WriteError::Store)?;
        Ok(Submitted(answer))
    }

    /// A write that is no mutation: it takes no revision.
    pub(crate) async fn status_write<T, F>(&self, write: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut WriteTx) -> BoxFuture<'t, Result<T, StoreError>> + Send + 'static,
    {
        Ok(self.write(Origin::default(), write).await?.value)
    }

    async fn enqueue(&self, job: Job) -> Result<(), StoreError> {
        self.0.writer.waiting.push(job).await
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

struct Writer {
    tx: WriteTx,
    connect: Connect,
    /// The connection's state is unknown: make a new one before the next group.
    broken: bool,
    waiting: Arc<Waiting>,
    ring: watch::Sender<u64>,
    commits: broadcast::Sender<Arc<Commit>>,
    counts: Arc<Counts>,
    lock: Option<File>,
    log: Option<CommitLog>,
    /// The newest revision that was told of.
    known: u64,
    /// Whether somebody follows events; `None`: to be asked, as that may have changed.
    followed: Option<bool>,
}

/// A member that has run: what it wrote if it is kept.
struct Member {
    written: Option<Written>,
    notify: Notify,
}

impl Writer {
    async fn run(mut self) {
        let _ending = Ending(Arc::clone(&self.waiting));
        let listener = match (&self.log, &self.connect) {
            (Some(_), Connect::Postgres(options, _)) => {
                let waiting = Arc::clone(&self.waiting);
                let heard = move || waiting.heard.notify_one();
                Some(tokio::spawn(sql::listen((**options).clone(), CHANNEL, heard)))
            }
            (_, Connect::Sqlite(_) | Connect::Postgres(..)) => None,
        };
        loop {
            let waiting = Arc::clone(&self.waiting);
            tokio::select! {
                biased;
                next = waiting.next() => match next {
                    Some((caller, first)) => self.group(caller, first).await,
                    None => break,
                },
                () = waiting.heard.notified(), if self.log.is_some() => self.look_around().await,
                () = tokio::time::sleep(LOOK_AROUND), if self.log.is_some() => self.look_around().await,
            }
        }
        if let Some(listener) = listener {
            listener.abort();
        }
        if let Err(error) = self.tx.into_reader().into_connection().close().await {
            tracing::warn!(%error, "cannot close the store in order; the next start recovers it");
        }
        drop(self.lock);
    }

    async fn group(&mut self, caller: Caller, first: Job) {
        let mut members = Vec::new();
        let outcome = match self.begin().await {
            Ok(()) => self.fill(caller, first, &mut members).await,
            Err(error) => {
                (first.refuse)(error.clone());
                Err(error)
            }
        };
        let outcome = match outcome {
            Ok(()) => self.commit(&members).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(commit) => self.tell(members, commit),
            Err(error) => {
                self.roll_back().await;
                self.counts.failed_commits.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, members = members.len(), "a group commit failed; all of it is rolled back");
                for member in members {
                    (member.notify)(Err(error.clone()));
                }
            }
        }
    }

    /// Tells of what the other controllers committed.
    async fn look_around(&mut self) {
        let looked = async {
            self.mend().await?;
            self.read_log().await
        };
        if let Err(error) = looked.await {
            tracing::warn!(%error, "what other controllers changed cannot be read; trying again");
            self.broken = true;
        }
    }

    /// Before it tells of a commit of its own, so that revisions are told of in order.
    async fn read_log(&mut self) -> Result<(), StoreError> {
        let Some(log) = &mut self.log else { return Ok(()) };
        for commit in log.read(self.tx.raw()).await? {
            // What is remembered was read before: the next group begins at a known revision, and would take it for true.
            self.tx.forget();
            self.known = self.known.max(commit.revision);
            if commit.lost || event_log::has_followers(&commit.kinds) {
                self.followed = None;
            }
            self.announce(commit);
        }
        Ok(())
    }

    fn announce(&self, commit: Commit) {
        let (revision, rings) = (commit.revision, commit.new_epoch || commit.lost);
        // No receiver: nobody is interested yet.
        let _ = self.commits.send(Arc::new(commit));
        self.ring.send_if_modified(|head| {
            let rings = rings || revision > *head;
            *head = revision.max(*head);
            rings
        });
    }

    async fn begin(&mut self) -> Result<(), StoreError> {
        self.mend().await?;
        self.begin_group().await
    }

    async fn mend(&mut self) -> Result<(), StoreError> {
        if self.broken {
            let connection = self.connect.open().await?;
            self.tx.replace_connection(connection);
            self.broken = false;
        }
        Ok(())
    }

    async fn begin_group(&mut self) -> Result<(), StoreError> {
        let connection = self.tx.raw();
        // The head is locked first, so that revisions follow the order of commits whoever writes.
        let (begin, head) = match connection.dialect() {
            Dialect::Sqlite => ("BEGIN IMMEDIATE", "SELECT epoch, revision FROM head WHERE id = 1"),
            Dialect::Postgres => ("BEGIN", "SELECT epoch, revision FROM head WHERE id = 1 FOR UPDATE"),
        };
        connection.command(begin).await?;
        let head = connection.rows(sql::query(head)).await?;
        let head = head.first().ok_or_else(|| StoreError::row("there is no head row"))?;
        let revision = from_sql("head.revision", head.try_get(1)?)?;
        self.tx.start_group(head.try_get(0)?, revision);
        if revision != self.known {
            self.tx.forget();
            self.read_log().await?;
        }
        if self.followed.is_none() {
            self.followed = Some(event_log::is_followed(self.tx.raw()).await?);
        }
        Ok(())
    }

    /// Runs what waits, until nothing does or the group has had its time. An error here is the whole group's.
    async fn fill(
        &mut self,
        caller: Caller,
        first: Job,
        members: &mut Vec<Member>,
    ) -> Result<(), StoreError> {
        let started = Instant::now();
        let mut next = Some((caller, first));
        while let Some((caller, job)) = next.take() {
            if !(job.abandoned)() {
                let refuse = Arc::clone(&job.refuse);
                let begun = Instant::now();
                let ran = self.member(job).await;
                self.waiting.charge(&caller, begun.elapsed());
                match ran {
                    Ok(member) => members.push(member),
                    Err(error) => {
                        refuse(error.clone());
                        return Err(error);
                    }
                }
            }
            if members.len() < GROUP
                && self.tx.pending_rows() < GROUP_ROWS
                && let Some(left) = GROUP_TIME.checked_sub(started.elapsed())
            {
                next = self.waiting.another(left);
            }
        }
        Ok(())
    }

    async fn member(&mut self, job: Job) -> Result<Member, StoreError> {
        let Job { origin, span, run, refuse, .. } = job;
        let traceparent = harmless_traceparent(origin.traceparent);
        let lease = origin.lease.clone().filter(|_| self.log.is_some());
        self.tx.start_mutation(Origin { traceparent, ..origin });
        if let Some(lease) = lease
            && !self.tx.holds(&lease).await?
        {
            self.undo_mutation().await?;
            refuse(StoreError::LostLease);
            return Ok(Member { written: None, notify: Box::new(|_| {}) });
        }
        let ran = run(&mut self.tx).instrument(span).await;
        if ran.keep {
            let written = self.tx.keep_mutation().await?;
            return Ok(Member { written: Some(written), notify: ran.notify });
        }
        self.undo_mutation().await?;
        Ok(Member { written: None, notify: ran.notify })
    }

    /// The first failure of a mutation says more than that of taking it back.
    async fn undo_mutation(&mut self) -> Result<(), StoreError> {
        let cause = self.tx.failure();
        self.tx.undo_mutation().await.map_err(|error| cause.unwrap_or(error))
    }

    async fn commit(&mut self, members: &[Member]) -> Result<Commit, StoreError> {
        let commit = self.touched(members);
        if members.iter().all(|member| member.written.is_none()) {
            self.roll_back().await;
            return Ok(commit);
        }
        self.tx.write_group().await?;
        let follows_from_now = event_log::has_followers(&commit.kinds);
        if follows_from_now || self.followed == Some(true) {
            self.tx.write_events(&commit.events).await?;
        }
        if follows_from_now {
            self.followed = None;
        }
        let (revision, epoch, moved) = self.tx.group_head();
        let (revision, epoch) = (to_sql("head.revision", revision)?, epoch.to_owned());
        let connection = self.tx.raw();
        if moved {
            let query = sql::query("UPDATE head SET epoch = ?, revision = ? WHERE id = 1");
            connection.execute(query.bind(epoch).bind(revision)).await?;
        }
        if let Some(log) = &self.log
            && (moved || commit.rollouts || !commit.fleet.is_empty())
        {
            log.write(connection, &commit).await?;
        }
        connection.command("COMMIT").await?;
        self.counts.commits.fetch_add(1, Ordering::Relaxed);
        let statements = self.tx.statements();
        self.counts.statements.store(statements, Ordering::Relaxed);
        Ok(commit)
    }

    /// What the members of a group touched together.
    fn touched(&self, members: &[Member]) -> Commit {
        let mut commit = Commit { revision: self.tx.group_head().0, ..Commit::default() };
        let mut audiences = BTreeSet::new();
        for written in members.iter().filter_map(|member| member.written.as_ref()) {
            commit.new_epoch |= written.new_epoch;
            audiences.extend(written.audiences.iter().cloned());
            commit.kinds.extend(written.kinds.iter().copied());
            commit.concerns.extend(written.concerns.iter().cloned());
            commit.events.extend(written.events.iter().cloned());
            commit.fleet.merge(written.fleet.clone());
            commit.rollouts |= written.rollouts;
        }
        commit.audiences = audiences.into_iter().collect();
        commit
    }

    /// After the commit only: a subscriber must never see what a crash can still take back.
    fn tell(&mut self, members: Vec<Member>, commit: Commit) {
        let head = commit.revision;
        if self.tx.group_head().2 || commit.rollouts {
            self.known = head;
            // The fleet's own changes are known here.
            self.announce(Commit { fleet: FleetChange::default(), ..commit });
        }
        for member in members {
            let counter =
                if member.written.is_some() { &self.counts.mutations } else { &self.counts.refused };
            counter.fetch_add(1, Ordering::Relaxed);
            let landed = member.written.map_or_else(
                || Landed { revision: head, audiences: Vec::new() },
                |written| Landed { revision: written.revision, audiences: written.audiences },
            );
            (member.notify)(Ok(landed));
        }
    }

    async fn roll_back(&mut self) {
        self.tx.forget();
        // The database may have rolled back already. Then this fails, and a new connection is the sure way to a known state.
        self.broken = self.tx.raw().command("ROLLBACK").await.is_err();
    }
}

impl Store {
    /// Begins a new epoch if it is still `seen`: the store went back behind a subscriber.
    pub(crate) async fn new_epoch(&self, seen: &str) -> Result<(), StoreError> {
        let seen = seen.to_owned();
        self.status_write(move |tx| {
            Box::pin(async move {
                if tx.epoch() == seen {
                    let next = new_epoch(tx.cell());
                    tracing::warn!(%seen, %next, "the store went back: a new epoch begins");
                    tx.begin_epoch(next);
                }
                Ok(())
            })
        })
        .await
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("broken", &self.broken).finish_non_exhaustive()
    }
}
