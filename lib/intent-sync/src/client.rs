//! The subscriber's side of the connection: connects, feeds the core, says how far it is, renews the certificate.
//!
//! The core runs on a thread of its own, because it blocks on the disk and calls into the role; the reactor's threads never
//! do. The heartbeat goes through that thread, so that a subscriber that hangs falls silent and leaves service. When a
//! session ends the client comes back with full jitter, at the next controller; nothing that a controller does or says ends
//! [`Client::run`]. Called by every role.

use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, OptionFuture};
use hosting_ledger::Journal;
use hosting_proto::feed::down::Frame;
use hosting_proto::feed::intent_feed_client::IntentFeedClient;
use hosting_proto::feed::{Down, Up, up};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::Replica;
use crate::convert::up as frame_up;
use crate::dial::{chain_text, full_jitter};
use crate::identity::{Identity, IdentityError, unix_now, utc};
use crate::self_check::ServedWatch;
use crate::subscriber::{Policy, SessionEnd, Status, Subscriber};

use choose::choose;
use witness::Witness;

mod audience_keys;
mod choose;
mod edge_key;
mod lending;
mod metrics;
mod report;
mod requests;
mod subscription;
mod traffic;
mod witness;

pub use crate::dial::DialError;
pub use audience_keys::{AudienceKeys, KeysWatch};
pub use edge_key::{EdgeKey, EdgeKeyStore};
pub use lending::Lending;
pub use metrics::ClientMetrics;
pub use report::{ReportError, Reporter, ReporterTask};
pub use requests::{RequestCalls, RequestTeller, Telling};
pub use subscription::{Identified, Subscription, SubscriptionError, identity_dir, ledger_file};
pub use traffic::{TrafficError, TrafficLink};

/// Frames between the stream and the core's thread.
const FRAMES_AHEAD: usize = 16;
/// Frames that share one write to disk, at most.
const FRAMES_PER_FLUSH: usize = 64;
/// Words from the core's thread to the stream.
const WORDS_AHEAD: usize = 16;
/// A frame is 1 MiB, and one item that is larger by itself travels alone.
const MAX_DOWN_BYTES: usize = 4 << 20;
/// How often the wall clock is asked whether the certificate is to be renewed: it may jump.
const RENEWAL_CHECK: Duration = Duration::from_secs(30);
/// After a renewal that failed.
const RENEWAL_RETRY: Duration = Duration::from_secs(60);
/// Between two looks at the core for metrics.
const STATUS_EVERY: Duration = Duration::from_millis(100);
/// The core's thread looks after the disk this often, connected or not.
const IDLE: Duration = Duration::from_secs(1);

/// How the client behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Of HTTP/2, and after which a silent connection is given up.
    pub keepalive: Duration,
    /// First and longest wait between attempts; each is chosen evenly from zero to twice the one before.
    pub backoff: (Duration, Duration),
    /// From the connection to Welcome.
    pub welcome_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keepalive: Duration::from_secs(10),
            // A controller that is back is found several times within the lease (15 s) that a node in service has left.
            backoff: (Duration::from_millis(200), Duration::from_secs(5)),
            welcome_timeout: Duration::from_secs(10),
        }
    }
}

/// The client cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No thread could be started.
    #[error("cannot start the subscriber's thread: {0}")]
    Thread(io::Error),
    /// The core or the role's replica panicked; its state cannot be relied on.
    #[error("the subscriber's thread panicked; restart the process, it continues from its ledger")]
    Panicked,
}

/// A live connection, for what is said beside the subscription.
#[derive(Debug, Clone)]
struct Link {
    channel: Channel,
    identity: Identity,
    /// Tells one connection from the next.
    number: u64,
}

/// A role's connection to the feed.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    options: Options,
    metrics: ClientMetrics,
    link: watch::Sender<Option<Link>>,
    lending: Lending,
    edge_key: Option<EdgeKeyStore>,
    audience_keys: Option<AudienceKeys>,
    served: Option<ServedWatch>,
    /// Where small things are kept; `None`: nowhere.
    data_dir: Option<PathBuf>,
}

/// To the core's thread.
enum Input {
    /// A session begins: answer with Hello, then talk to `words`.
    Begin {
        hello: oneshot::Sender<Up>,
        words: mpsc::Sender<Word>,
    },
    Frame(Down),
    Heartbeat,
    /// The session is over.
    End,
    /// Write what is not on disk, and leave the ledger to another process; answer whether that is done.
    Lend(oneshot::Sender<Result<(), String>>),
    TakenBack,
}

/// From the core's thread.
enum Word {
    Say(Up),
    Over(SessionEnd),
}

/// How a session ended.
#[derive(Debug)]
enum Ended {
    /// The process stops.
    Stopped,
    /// Another process is to have the subscription.
    Lent,
    /// Wait as told, then come back.
    GoAway { reason: String, retry_after: Duration },
    /// Something is wrong; come back with backoff.
    Failed(String),
    /// The registry does not know us, or will not have us; only an operator can change that.
    Refused(String),
    /// A new certificate is needed, and was got or not.
    Certificate(Result<(), IdentityError>),
}

impl Client {
    /// A client for `identity`. Nothing is connected yet.
    #[must_use]
    pub fn new(identity: Identity, options: Options, metrics: ClientMetrics) -> Self {
        Self {
            identity,
            options,
            metrics,
            link: watch::Sender::new(None),
            lending: Lending::default(),
            edge_key: None,
            audience_keys: None,
            served: None,
            data_dir: None,
        }
    }

    /// Says to the controller which keys are to be sealed to: the public one of `keys`.
    #[must_use]
    pub fn with_audience_keys(self, keys: AudienceKeys) -> Self {
        Self { audience_keys: Some(keys), ..self }
    }

    /// Keeps the edge key that the controller gives in `store`. Without one it is not looked at.
    #[must_use]
    pub fn with_edge_key(self, store: EdgeKeyStore) -> Self {
        Self { edge_key: Some(store), ..self }
    }

    /// The core's state, several times a second. A position means that a view is loaded: the role is ready.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Option<Status>> {
        self.lending.status()
    }

    /// By which the subscription is lent.
    #[must_use]
    pub fn lending(&self) -> Lending {
        self.lending.clone()
    }

    /// A reporter over this client's connections, and the task that a node agent must run beside it.
    #[must_use]
    pub fn reporter(&self) -> (Reporter, ReporterTask) {
        report::new(self.link.subscribe(), self.options.backoff)
    }

    /// Stays subscribed until `stop`; then the core writes what it has and ends.
    ///
    /// # Errors
    /// [`ClientError`]: the core could not be started or panicked. The network never ends it.
    pub async fn run<J, R, P>(
        self,
        subscriber: Subscriber<J, R, P>,
        stop: CancellationToken,
    ) -> Result<(), ClientError>
    where
        J: Journal,
        R: Replica,
        P: Policy,
    {
        let (inputs, mut core) = self.start_core(subscriber)?;
        let mut failures: u32 = 0;
        let mut number = 0;
        let mut last = String::new();
        let mut elsewhere = false;
        loop {
            let address = choose(&self.identity.controllers(), &last, std::mem::take(&mut elsewhere));
            last.clone_from(&address);
            number += 1;
            let began = Instant::now();
            let session = self.session(&address, number, &inputs, &stop);
            let ended = tokio::select! {
                ended = session => ended,
                () = self.lending.wanted() => Ended::Lent,
                panicked = &mut core => return finish(panicked),
            };
            self.link.send_replace(None);
            self.metrics.connected.set(0);
            if inputs.send(Input::End).await.is_err() {
                break;
            }
            if began.elapsed() > self.options.keepalive {
                failures = 0;
            }
            let (base, cap) = self.options.backoff;
            let wait = match ended {
                Ended::Stopped => break,
                Ended::Lent => {
                    self.lend(&inputs, &stop).await;
                    Duration::ZERO
                }
                Ended::GoAway { reason, retry_after } => {
                    elsewhere = true;
                    let spread = full_jitter(1, (retry_after / 2).max(base), cap);
                    tracing::info!(address, reason, wait = ?(retry_after + spread), "the controller sends us away");
                    retry_after + spread
                }
                Ended::Failed(reason) => {
                    failures += 1;
                    elsewhere = true;
                    let wait = full_jitter(failures, base, cap);
                    tracing::warn!(
                        address,
                        reason,
                        ?wait,
                        failures,
                        "no session with the controller; serving what is known"
                    );
                    wait
                }
                Ended::Refused(reason) => {
                    failures += 1;
                    tracing::error!(
                        address,
                        reason,
                        "the controller refuses this node; serving what is known"
                    );
                    full_jitter(failures, cap, cap * 2)
                }
                Ended::Certificate(Ok(())) => Duration::ZERO,
                Ended::Certificate(Err(error)) => {
                    failures += 1;
                    elsewhere = true;
                    tracing::error!(address, %error, "the certificate could not be renewed; serving what is known");
                    full_jitter(failures, base, if error.is_transient() { cap } else { cap * 2 })
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.lending.wanted() => {}
                () = stop.cancelled() => break,
            }
        }
        drop(inputs);
        finish(core.await)
    }

    /// Boxed, so that it is compiled with this crate and not again with each role.
    fn session<'s>(
        &'s self,
        address: &'s str,
        number: u64,
        inputs: &'s mpsc::Sender<Input>,
        stop: &'s CancellationToken,
    ) -> BoxFuture<'s, Ended> {
        Box::pin(self.one_session(address, number, inputs, stop))
    }

    async fn one_session(
        &self,
        address: &str,
        number: u64,
        inputs: &mpsc::Sender<Input>,
        stop: &CancellationToken,
    ) -> Ended {
        let connect = async {
            if unix_now() > self.identity.not_after().saturating_add(crate::identity::RENEW_GRACE_SECONDS) {
                return Err(Ended::Certificate(Err(self.identity.too_old())));
            }
            let channel = self
                .identity
                .connect(address, self.options.keepalive)
                .await
                .map_err(|error| Ended::Failed(chain_text(&error)))?;
            if !(self.identity.not_before()..=self.identity.not_after()).contains(&unix_now()) {
                let (from, to) = (utc(self.identity.not_before()), utc(self.identity.not_after()));
                tracing::warn!(%from, %to, "the certificate is not valid now; renewing it first");
                return Err(Ended::Certificate(self.identity.renew(channel).await));
            }
            self.begin(channel, inputs).await
        };
        let begun = tokio::select! {
            begun = connect => begun,
            () = stop.cancelled() => return Ended::Stopped,
        };
        match begun {
            Ok((channel, frames, words, says)) => {
                Box::pin(self.talk(
                    Link { channel, identity: self.identity.clone(), number },
                    frames,
                    words,
                    says,
                    inputs,
                    stop,
                ))
                .await
            }
            Err(ended) => ended,
        }
    }

    async fn begin(
        &self,
        channel: Channel,
        inputs: &mpsc::Sender<Input>,
    ) -> Result<(Channel, Streaming<Down>, mpsc::Receiver<Word>, mpsc::Sender<Up>), Ended> {
        let (words_in, words) = mpsc::channel(WORDS_AHEAD);
        let (hello_in, hello) = oneshot::channel();
        let gone = |_| Ended::Failed("the subscriber's thread ended".into());
        inputs.send(Input::Begin { hello: hello_in, words: words_in }).await.map_err(|_| gone(()))?;
        let hello = hello.await.map_err(|_| gone(()))?;
        let (says, up) = mpsc::channel(WORDS_AHEAD);
        says.send(hello).await.map_err(|_| gone(()))?;
        let mut client = IntentFeedClient::new(channel.clone()).max_decoding_message_size(MAX_DOWN_BYTES);
        let answer =
            tokio::time::timeout(self.options.welcome_timeout, client.subscribe(ReceiverStream::new(up)))
                .await
                .map_err(|_| Ended::Failed("the controller does not answer".into()))?;
        let frames = answer.map_err(|status| self.refused(&status))?.into_inner();
        Ok((channel, frames, words, says))
    }

    fn refused(&self, status: &tonic::Status) -> Ended {
        let text = format!("{} ({:?})", chain_text(status), status.code());
        match status.code() {
            Code::PermissionDenied | Code::NotFound | Code::FailedPrecondition => Ended::Refused(text),
            Code::Unauthenticated if unix_now() > self.identity.renew_at() => Ended::Failed(text),
            Code::Unauthenticated => Ended::Refused(text),
            _ => Ended::Failed(text),
        }
    }

    /// The session itself: frames in, words out, until one end is lost.
    async fn talk(
        &self,
        link: Link,
        mut frames: Streaming<Down>,
        mut words: mpsc::Receiver<Word>,
        says: mpsc::Sender<Up>,
        inputs: &mpsc::Sender<Input>,
        stop: &CancellationToken,
    ) -> Ended {
        let mut heartbeat = tokio::time::interval(self.options.welcome_timeout);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.reset();
        let mut patience = self.options.welcome_timeout;
        let mut last_frame = tokio::time::Instant::now();
        let mut renewal = tokio::time::interval(RENEWAL_CHECK);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewing = OptionFuture::from(None);
        let mut renew_not_before = Instant::now();
        // Held back while the core is busy, so that what it says is heard meanwhile.
        let mut waiting: Option<Input> = None;
        let mut beat = false;
        // Told once there is somebody to tell.
        let mut served = None;
        loop {
            tokio::select! {
                frame = frames.message(), if waiting.is_none() => {
                    let frame = match frame {
                        Ok(Some(frame)) => frame,
                        Ok(None) => return Ended::Failed("the controller closed the stream".into()),
                        Err(status) => return self.refused(&status),
                    };
                    self.metrics.frames.inc();
                    if let Some(Frame::GoAway(away)) = frame.frame {
                        let retry_after = Duration::from_millis(away.retry_after_ms.into()).min(MAX_RETRY_AFTER);
                        return Ended::GoAway { reason: away.reason, retry_after };
                    }
                    if let Some(Frame::Welcome(welcome)) = &frame.frame {
                        // Whatever it says, we neither flood it nor fall asleep.
                        let every = Duration::from_millis(welcome.heartbeat_ms.into())
                            .clamp(Duration::from_millis(10), Duration::from_secs(60));
                        heartbeat = tokio::time::interval(every);
                        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
                        heartbeat.reset();
                        patience = Duration::from_millis(welcome.lease_ms.into()).max(every * 2);
                        self.metrics.connected.set(1);
                        served = self.served.clone().map(ServedWatch::anew);
                        self.link.send_replace(Some(link.clone()));
                    }
                    if let (Some(Frame::Rollouts(rollouts)), Some(served)) = (&frame.frame, &mut served) {
                        served.watch(rollouts.watched);
                    }
                    waiting = Some(Input::Frame(frame));
                }
                // If the core has no room it is busy: it gets the heartbeat in its turn, and is not said to be alive before.
                permit = inputs.reserve(), if beat || waiting.is_some() => {
                    let Ok(permit) = permit else { return Ended::Failed("the subscriber's thread ended".into()) };
                    if std::mem::take(&mut beat) {
                        permit.send(Input::Heartbeat);
                    } else if let Some(input) = waiting.take() {
                        permit.send(input);
                        last_frame = tokio::time::Instant::now();
                    }
                }
                word = words.recv() => match word {
                    Some(Word::Say(up)) => {
                        let said = says.send(up);
                        if tokio::time::timeout(patience, said).await.is_err() {
                            return Ended::Failed("the controller does not read".into());
                        }
                    }
                    Some(Word::Over(SessionEnd::GoAway { reason, retry_after_ms })) => {
                        let retry_after = Duration::from_millis(retry_after_ms.into()).min(MAX_RETRY_AFTER);
                        return Ended::GoAway { reason, retry_after };
                    }
                    Some(Word::Over(SessionEnd::Unsound(reason))) => return Ended::Failed(reason),
                    None => return Ended::Failed("the subscriber's thread ended".into()),
                },
                Some(found) = ServedWatch::next(served.as_mut()) => {
                    let said = says.send(frame_up(up::Frame::Served(found)));
                    if tokio::time::timeout(patience, said).await.is_err() {
                        return Ended::Failed("the controller does not read".into());
                    }
                }
                _ = heartbeat.tick() => beat = true,
                () = tokio::time::sleep_until(last_frame + patience), if waiting.is_none() => {
                    return Ended::Failed(format!("nothing was heard from the controller for {patience:?}"));
                }
                _ = renewal.tick() => {
                    if unix_now() >= self.identity.renew_at() && Instant::now() >= renew_not_before {
                        renew_not_before = Instant::now() + RENEWAL_RETRY;
                        let (identity, channel) = (self.identity.clone(), link.channel.clone());
                        renewing = OptionFuture::from(Some(Box::pin(async move { identity.renew(channel).await })));
                    }
                    self.metrics.certificate_end.set(self.identity.not_after());
                }
                Some(renewed) = &mut renewing => {
                    renewing = OptionFuture::from(None);
                    match renewed {
                        // This connection goes on; the next one uses the new certificate.
                        Ok(()) => { self.metrics.renewals.inc(); }
                        Err(error) => tracing::warn!(%error, "the certificate could not be renewed; trying again"),
                    }
                }
                () = stop.cancelled() => return Ended::Stopped,
            }
        }
    }

    /// Starts the core's thread. The receiver is answered when it has ended; it fails if the thread panicked.
    fn start_core<J, R, P>(
        &self,
        subscriber: Subscriber<J, R, P>,
    ) -> Result<(mpsc::Sender<Input>, oneshot::Receiver<()>), ClientError>
    where
        J: Journal,
        R: Replica,
        P: Policy,
    {
        let (inputs, receiver) = mpsc::channel(FRAMES_AHEAD);
        let (done, ended) = oneshot::channel();
        // Of its own, so that waiting with a time limit works on this thread. The core is called outside of it: a role may
        // block.
        let timer = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(ClientError::Thread)?;
        let mut core = Core {
            subscriber,
            status: self.lending.shows(),
            metrics: self.metrics.clone(),
            edge_key: self.edge_key.clone(),
            identity: self.identity.clone(),
            sealing_key: self.audience_keys.as_ref().map(AudienceKeys::public),
            witness: Witness::load(self.data_dir.as_deref()),
            words: None,
            shown: None,
        };
        thread::Builder::new()
            .name("subscriber".into())
            .spawn(move || {
                core.run(&timer, receiver);
                // The ledger's lock goes with it, before anybody is told that it is over.
                drop(core);
                let _ = done.send(());
            })
            .map_err(ClientError::Thread)?;
        Ok((inputs, ended))
    }
}

/// A controller cannot send a node away for longer.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(10 * 60);

fn finish(joined: Result<(), oneshot::error::RecvError>) -> Result<(), ClientError> {
    joined.map_err(|_| ClientError::Panicked)
}

/// What lives on the core's thread.
struct Core<J, R, P> {
    subscriber: Subscriber<J, R, P>,
    status: watch::Sender<Option<Status>>,
    metrics: ClientMetrics,
    edge_key: Option<EdgeKeyStore>,
    identity: Identity,
    /// The public key that the controller is to seal to.
    sealing_key: Option<[u8; 32]>,
    witness: Witness,
    /// To the session, while there is one.
    words: Option<mpsc::Sender<Word>>,
    /// When the status was last shown.
    shown: Option<Instant>,
}

impl<J: Journal, R: Replica, P: Policy> Core<J, R, P> {
    fn run(&mut self, timer: &tokio::runtime::Runtime, mut inputs: mpsc::Receiver<Input>) {
        self.show();
        let mut stale = false;
        loop {
            let wait = if stale { STATUS_EVERY } else { IDLE };
            match timer.block_on(async { tokio::time::timeout(wait, inputs.recv()).await }) {
                Ok(Some(input)) => {
                    self.take(input);
                    for _ in 1..FRAMES_PER_FLUSH {
                        let Ok(input) = inputs.try_recv() else { break };
                        self.take(input);
                    }
                }
                Ok(None) => break,
                Err(_) => {}
            }
            // What is in effect is said before what is on disk: the disk takes its time.
            self.say_changes();
            if self.subscriber.wants_flush(Instant::now()) {
                self.subscriber.flush(Instant::now());
                self.say_changes();
            }
            self.witness.save(Instant::now(), false);
            stale = self.shown.is_some_and(|shown| shown.elapsed() < STATUS_EVERY);
            if !stale {
                self.show();
            }
        }
        self.subscriber.disconnected();
        self.subscriber.flush(Instant::now());
        self.witness.save(Instant::now(), true);
        self.show();
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Begin { hello, words } => {
                self.words = Some(words);
                let mut up = self.subscriber.hello();
                if let Some(up::Frame::Hello(hello)) = &mut up.frame {
                    hello.witness = self.witness.newest();
                    hello.sealing_key = self.sealing_key.map(|key| key.to_vec().into()).unwrap_or_default();
                }
                let _ = hello.send(up);
            }
            Input::End => {
                self.words = None;
                self.subscriber.disconnected();
            }
            Input::Lend(told) => {
                self.words = None;
                self.witness.save(Instant::now(), true);
                let _ = told.send(self.subscriber.lend(Instant::now()));
            }
            Input::TakenBack => self.subscriber.taken_back(),
            Input::Heartbeat => {
                if self.words.is_some() {
                    let ack = self.subscriber.ack();
                    self.say(Word::Say(ack));
                }
            }
            Input::Frame(frame) => {
                if self.words.is_none() {
                    return;
                }
                match &frame.frame {
                    // Before what it opens the door to.
                    Some(Frame::Welcome(welcome)) => {
                        if let Some(store) = &self.edge_key {
                            store.take(&welcome.edge_key);
                        }
                        self.learn_controllers(&welcome.controllers);
                    }
                    Some(Frame::Delta(delta)) => self.witness.take(&delta.witness),
                    Some(Frame::SnapshotEnd(end)) => self.witness.take(&end.witness),
                    Some(Frame::Bookmark(bookmark)) => {
                        self.witness.take(&bookmark.witness);
                        self.learn_controllers(&bookmark.controllers);
                    }
                    _ => {}
                }
                match self.subscriber.on_frame(frame, Instant::now()) {
                    Ok(ups) => ups.into_iter().for_each(|up| self.say(Word::Say(up))),
                    Err(end) => {
                        self.say(Word::Over(end));
                        self.words = None;
                    }
                }
            }
        }
    }

    fn learn_controllers(&self, said: &[String]) {
        if let Err(error) = self.identity.learn_controllers(said) {
            tracing::warn!(%error, "where the controllers are is not kept; it is known until the process ends");
        }
    }

    fn say_changes(&mut self) {
        if self.words.is_some()
            && let Some(ack) = self.subscriber.take_ack()
        {
            self.say(Word::Say(ack));
        }
    }

    /// Waits while the stream has no room; ends at once when the session does.
    fn say(&mut self, word: Word) {
        if let Some(words) = &self.words
            && words.blocking_send(word).is_err()
        {
            self.words = None;
        }
    }

    fn show(&mut self) {
        let status = self.subscriber.status();
        self.metrics.show(&status);
        self.status.send_replace(Some(status));
        self.shown = Some(Instant::now());
    }
}
