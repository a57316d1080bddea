//! One subscription: a cursor between the ring and one stream.
//!
//! It keeps at most one read's frames and hands them on one by one as the transport takes them, so that a slow reader costs
//! itself only. It ends with GoAway wherever the subscriber should come back, with a status where it should not.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use hosting_intent::{Audience, EdgeKeyGrant, Item, Key};
use hosting_intent_sync::identity::{unix_now, utc};
use hosting_intent_sync::publisher::{Heard, Limits, Session};
use hosting_intent_sync::tls::NodeCertificate;
use hosting_intent_sync::{AudienceHead, FeedSource, SourceError, Window, go_away, release, rollouts};
use hosting_proto::feed::down::Frame;
use hosting_proto::feed::{self, Down, Hello, ReportRequest, ReportResponse, Up, up};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::fleet::{Joining, Membership, Order, Rollouts};
use crate::metrics::{FeedMetrics, Refusal, Resume};
use crate::registry::{NodeRecord, Reported};
use crate::ring::{Attached, Next};
use crate::shared::{Shared, caller, unavailable};
use crate::words;

/// Frames between the session and the transport: references into the ring, mostly.
const WINDOW: usize = 8;
/// Revisions taken from the ring at once, so that what the subscriber says is heard in between.
const BURST: usize = 64;
/// While a snapshot waits for its turn.
const SNAPSHOT_RETRY: Duration = Duration::from_millis(250);
/// Room for the last words of a session whose subscriber does not read.
const LAST_WORDS: Duration = Duration::from_secs(1);

type Sender = mpsc::Sender<Result<Bytes, Status>>;

/// Why a session ends.
enum End {
    /// The subscriber went away.
    Gone,
    /// It should come back after so many milliseconds.
    Away(String, u32),
    /// It should not, as it is.
    Refused(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

/// Begins a subscription; everything after the call's headers happens in a task of its own.
pub(crate) fn subscribe(
    shared: Arc<Shared>,
    request: Request<Streaming<Up>>,
) -> Result<Response<ReceiverStream<Result<Bytes, Status>>>, Status> {
    let certificate = caller(&request, &shared, false)?;
    let (sender, receiver) = mpsc::channel(WINDOW);
    let mut ups = request.into_inner();
    let tracker = shared.sessions.clone();
    tracker.spawn(async move {
        let end = Box::pin(serve(&shared, &certificate, &mut ups, &sender)).await;
        let node = certificate.name.node_id;
        let last = match end {
            End::Gone => return tracing::debug!(node, "subscription ended"),
            End::Away(reason, retry_after) => {
                tracing::info!(node, reason, retry_after, "subscription ended by us");
                Ok(go_away(reason, retry_after).encode_to_vec().into())
            }
            End::Refused(status) => {
                tracing::warn!(node, code = ?status.code(), reason = status.message(), "subscription refused");
                Err(status)
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS, sender.send(last)).await;
    });
    Ok(Response::new(ReceiverStream::new(receiver)))
}

async fn serve(
    shared: &Arc<Shared>,
    certificate: &NodeCertificate,
    ups: &mut Streaming<Up>,
    sender: &Sender,
) -> End {
    match open(shared, certificate, ups).await {
        Ok(mut running) => {
            shared.metrics.sessions.inc();
            let end = running.run(shared, certificate, ups, sender).await;
            shared.metrics.sessions.dec();
            end
        }
        Err(end) => end,
    }
}

struct Running {
    session: Session,
    attached: Attached,
    /// Until the first snapshot is sent.
    apart: Option<Apart>,
    membership: Membership,
    outbox: VecDeque<Bytes>,
    snapshot: Option<OwnedSemaphorePermit>,
    /// The session's first snapshot may be turned away, later ones wait for their turn.
    had_snapshot: bool,
    waits_for_snapshot: bool,
    /// The log must be asked, the ring will not do.
    must_poll: bool,
    last_heard: Instant,
    /// The controllers that the subscriber was told of.
    told: Vec<String>,
    rollouts: watch::Receiver<Arc<dyn Rollouts>>,
    /// What the subscriber was told of rollouts.
    told_rollouts: feed::Rollouts,
}

async fn open(
    shared: &Arc<Shared>,
    certificate: &NodeCertificate,
    ups: &mut Streaming<Up>,
) -> Result<Running, End> {
    let node_id = &certificate.name.node_id;
    let first = tokio::time::timeout(shared.hello_timeout, ups.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no Hello came"))??;
    let hello = match first.and_then(|first| first.frame) {
        Some(up::Frame::Hello(hello)) => hello,
        Some(up::Frame::Ack(_) | up::Frame::WantSnapshot(_) | up::Frame::Served(_)) => {
            shared.metrics.refuse(Refusal::Protocol);
            return Err(Status::invalid_argument("the first frame must be Hello").into());
        }
        None => return Err(End::Gone),
    };
    let (audience, record) = shared.admit_to(certificate, &hello.audience).await?;
    match <&[u8; 32]>::try_from(hello.sealing_key.as_ref()) {
        // Before the session begins, so that it begins with what opens the rest.
        Ok(key) => shared.nodes.reads_with(node_id, &audience, key).await.map_err(unavailable)?,
        Err(_) if hello.sealing_key.is_empty() => {}
        Err(_) => {
            shared.metrics.refuse(Refusal::Protocol);
            return Err(Status::invalid_argument("sealing_key: must have 32 bytes").into());
        }
    }
    let attached = shared.hub.attach(&audience);
    let apart = place(shared, node_id, &audience, &hello, &attached).await?;
    let limits = Limits {
        heartbeat_ms: millis(shared.heartbeat),
        lease_ms: millis(shared.lease),
        // A tick that comes a little early must not miss its bookmark.
        bookmark_every: shared.heartbeat.mul_f64(0.9),
        ..Limits::default()
    };
    let opened = match &apart {
        Some(apart) => {
            Session::open(&apart.of(&attached), audience.clone(), hello.cursor.as_ref(), limits).await
        }
        None => Session::open(&attached, audience.clone(), hello.cursor.as_ref(), limits).await,
    };
    let (session, mut frames) = opened.map_err(unavailable)?;
    let kind = match (&hello.cursor, session.resumed()) {
        _ if apart.is_some() => Resume::Apart,
        (_, true) => Resume::Delta,
        (Some(_), false) => Resume::Snapshot,
        (None, false) => Resume::New,
    };
    shared.metrics.resume(kind);
    let mut head = 0;
    let told = shared.controllers();
    for frame in &mut frames {
        if let Some(Frame::Welcome(welcome)) = &mut frame.frame {
            welcome.edge_key = edge_key(shared, &record, node_id, &audience);
            welcome.controllers.clone_from(&told);
            head = welcome.head;
        }
    }
    let joining = match &apart {
        // Where it says it is counts for nothing.
        Some(apart) => joining(&Hello { cursor: None, ..hello.clone() }, &apart.instead_of, head),
        None => joining(&hello, session.epoch(), head),
    };
    let membership = shared.fleet.join(&audience, node_id, joining);
    let mut known = shared.fleet.rollouts();
    // Before the first item: nothing of what it brings is to come too early, or to wait for no reason.
    let told_rollouts = known.borrow_and_update().told_to(&audience, node_id);
    frames.insert(1.min(frames.len()), rollouts(told_rollouts.clone()));
    // Whoever changes the registry sends the sessions away that are in the fleet by then. This one may not have been.
    shared.admit(certificate, &audience).await?;
    tracing::info!(node = %node_id, %audience, build = %words::name(&hello.build), resume = ?kind, "subscribed");
    Ok(Running {
        session,
        attached,
        apart,
        membership,
        outbox: encode(&frames).collect(),
        snapshot: None,
        had_snapshot: false,
        waits_for_snapshot: false,
        must_poll: true,
        last_heard: Instant::now(),
        told,
        rollouts: known,
        told_rollouts,
    })
}

/// An epoch of one session's own, for a subscriber that says it is ahead of the store and cannot prove it: its positions and
/// the store's cannot be compared. It is given a snapshot in this epoch, which it takes because the epoch is another one, and
/// then one in the store's, like anybody who comes from elsewhere. Nobody else notices.
struct Apart {
    epoch: String,
    instead_of: String,
}

impl Apart {
    const fn of<'a>(&'a self, source: &'a Attached) -> ApartSource<'a> {
        ApartSource { source, apart: self }
    }
}

/// The log under another epoch's name.
struct ApartSource<'a> {
    source: &'a Attached,
    apart: &'a Apart,
}

impl ApartSource<'_> {
    fn rename(&self, head: AudienceHead) -> AudienceHead {
        // A store that went back meanwhile is not what was read so far.
        let is_same = head.epoch == self.apart.instead_of;
        AudienceHead { epoch: if is_same { self.apart.epoch.clone() } else { head.epoch }, ..head }
    }
}

#[async_trait]
impl FeedSource for ApartSource<'_> {
    async fn audience(&self, audience: &Audience) -> Result<AudienceHead, SourceError> {
        Ok(self.rename(self.source.audience(audience).await?))
    }

    async fn window(&self, audience: &Audience, after: u64, limit: usize) -> Result<Window, SourceError> {
        let window = self.source.window(audience, after, limit).await?;
        Ok(Window { head: self.rename(window.head), ..window })
    }

    async fn page(
        &self,
        audience: &Audience,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, SourceError> {
        self.source.page(audience, after, limit).await
    }

    async fn begin_epoch(&self, _: &str) -> Result<(), SourceError> {
        Ok(())
    }
}

/// Where a subscriber stands that says it is ahead of the store. If it proves that the store went back, a new epoch begins for
/// all; if it does not, it is served apart.
async fn place(
    shared: &Shared,
    node_id: &str,
    audience: &Audience,
    hello: &Hello,
    attached: &Attached,
) -> Result<Option<Apart>, End> {
    let head = attached.audience(audience).await.map_err(unavailable)?;
    if let Some(witnessed) = shared.witness.head(&hello.witness, &head.epoch)
        && witnessed > head.head
    {
        tracing::warn!(
            node = %node_id, witnessed, head = head.head,
            "the store went back: a subscriber has the controller's word of a newer one"
        );
        attached.begin_epoch(&head.epoch).await.map_err(unavailable)?;
        return Ok(None);
    }
    let ahead = hello.cursor.as_ref().filter(|at| at.epoch == head.epoch && at.revision > head.revision);
    let Some(cursor) = ahead else { return Ok(None) };
    tracing::warn!(
        node = %node_id, %audience, at = cursor.revision, head = head.revision,
        "a subscriber says that it is ahead of the store and cannot prove it: its ledger is damaged or it lies; \
         it gets a snapshot of its own"
    );
    let epoch = format!("apart {:032x}", rand::random::<u128>());
    Ok(Some(Apart { epoch, instead_of: head.epoch }))
}

/// What Welcome tells a subscriber of `audience`, which the record gives it.
fn edge_key(shared: &Shared, record: &NodeRecord, node_id: &str, audience: &Audience) -> Bytes {
    let cluster = || shared.keys.cluster_edge_key(&record.cluster_id);
    match audience.role().rules().map(|rules| rules.edge_key) {
        Some(EdgeKeyGrant::Cluster) => Bytes::copy_from_slice(cluster().as_bytes()),
        Some(EdgeKeyGrant::Node) => Bytes::copy_from_slice(cluster().for_node(node_id).as_bytes()),
        Some(EdgeKeyGrant::Nothing) | None => Bytes::new(),
    }
}

fn joining(hello: &Hello, epoch: &str, head: u64) -> Joining {
    Joining {
        build: words::name(&hello.build),
        epoch: epoch.to_owned(),
        head,
        cursor: hello.cursor.as_ref().map(|cursor| (cursor.epoch.clone(), cursor.revision)),
    }
}

fn encode(frames: &[Down]) -> impl Iterator<Item = Bytes> {
    frames.iter().map(|frame| Bytes::from(frame.encode_to_vec()))
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl Running {
    async fn run(
        &mut self,
        shared: &Shared,
        certificate: &NodeCertificate,
        ups: &mut Streaming<Up>,
        sender: &Sender,
    ) -> End {
        let mut heartbeat = tokio::time::interval(shared.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.reset();
        loop {
            if self.outbox.is_empty()
                && !self.session.ended()
                && let Err(end) = self.fill(shared).await
            {
                return end;
            }
            if self.outbox.is_empty() && self.session.ended() {
                return End::Gone;
            }
            let sending = !self.outbox.is_empty();
            tokio::select! {
                order = self.membership.orders.recv() => match order {
                    Some(Order::Release { by }) => self.outbox.push_back(release(by).encode_to_vec().into()),
                    Some(Order::Leave { reason, retry_after }) => return End::Away(reason, millis(retry_after)),
                    // The fleet forgot us.
                    None => return End::Away("another session took over".into(), millis(shared.heartbeat)),
                },
                // The fleet lives as long as this.
                Ok(()) = self.rollouts.changed() => {
                    let membership = &self.membership;
                    let said = self.rollouts.borrow_and_update().told_to(membership.audience(), membership.node_id());
                    if said != self.told_rollouts {
                        self.told_rollouts.clone_from(&said);
                        self.outbox.push_back(rollouts(said).encode_to_vec().into());
                    }
                }
                heard = ups.message() => match heard {
                    Ok(Some(up)) => if let Err(end) = self.hear(up, shared) { return end },
                    Ok(None) => return End::Gone,
                    Err(status) => {
                        tracing::debug!(%status, "stream");
                        return End::Gone;
                    }
                },
                permit = sender.reserve(), if sending => {
                    let Ok(mut permit) = permit else { return End::Gone };
                    while let Some(frame) = self.outbox.pop_front() {
                        count(&shared.metrics, &frame);
                        permit.send(Ok(frame));
                        match sender.try_reserve() {
                            Ok(next) => permit = next,
                            Err(_) => break,
                        }
                    }
                }
                () = self.attached.changed(), if !sending => {}
                () = tokio::time::sleep(SNAPSHOT_RETRY), if self.waits_for_snapshot && !sending => {}
                _ = heartbeat.tick() => {
                    self.must_poll = true;
                    if self.last_heard.elapsed() > shared.lease * 2 {
                        return End::Away("nothing was heard for two leases".into(), 0);
                    }
                    if !certificate.is_valid_at(unix_now()) {
                        let at = utc(certificate.not_after);
                        return End::Away(format!("the certificate ended at {at}; renew it and come back"), 0);
                    }
                }
            }
        }
    }

    /// Puts what comes next into the outbox: from the ring, else from one read.
    async fn fill(&mut self, shared: &Shared) -> Result<(), End> {
        if self.session.follows().is_some() {
            self.snapshot = None;
            // What follows the snapshot is of the store's epoch, and so begins with another one.
            self.must_poll |= self.apart.take().is_some();
        }
        let epoch = self.session.epoch().to_owned();
        for _ in 0..BURST {
            let Some(at) = self.session.follows() else { break };
            match self.attached.next(&epoch, at) {
                Next::Entry(entry) => {
                    if !self.session.skip_to(&epoch, entry.prev, entry.revision) {
                        break;
                    }
                    self.outbox.extend(entry.frames.iter().cloned());
                }
                Next::AtHead => {
                    if !self.outbox.is_empty() || !std::mem::take(&mut self.must_poll) {
                        return Ok(());
                    }
                    // A bookmark is due.
                    break;
                }
                Next::Elsewhere => break,
            }
        }
        if !self.outbox.is_empty() || !self.may_snapshot(shared)? {
            return Ok(());
        }
        let polled = match &self.apart {
            Some(apart) => self.session.poll(&apart.of(&self.attached), Instant::now()).await,
            None => self.session.poll(&self.attached, Instant::now()).await,
        };
        let mut frames = polled.map_err(unavailable)?;
        self.name_controllers(shared, &mut frames);
        if self.apart.is_none() {
            shared.witness.stamp(self.session.epoch(), &mut frames);
        }
        self.outbox.extend(encode(&frames));
        // With nothing to say the doorbell or the next heartbeat makes us look again.
        Ok(())
    }

    /// Tells the subscriber when there are other controllers than it was told of.
    fn name_controllers(&mut self, shared: &Shared, frames: &mut [Down]) {
        let bookmark = frames.iter_mut().find_map(|frame| match &mut frame.frame {
            Some(Frame::Bookmark(bookmark)) => Some(bookmark),
            _ => None,
        });
        let Some(bookmark) = bookmark else { return };
        let controllers = shared.controllers();
        if self.told != controllers {
            bookmark.controllers.clone_from(&controllers);
            self.told = controllers;
        }
    }

    /// Whether the log may be asked now: following it always, a snapshot when there is room for one.
    fn may_snapshot(&mut self, shared: &Shared) -> Result<bool, End> {
        self.waits_for_snapshot = false;
        if self.session.follows().is_some() || self.snapshot.is_some() {
            return Ok(true);
        }
        match Arc::clone(&shared.snapshots).try_acquire_owned() {
            Ok(permit) => {
                self.snapshot = Some(permit);
                self.had_snapshot = true;
                Ok(true)
            }
            Err(_) if self.had_snapshot => {
                self.waits_for_snapshot = true;
                Ok(false)
            }
            Err(_) => {
                shared.metrics.refuse(Refusal::Busy);
                let retry_after = rand::random_range(1_000..=4_000);
                Err(End::Away("too many snapshots at once; come back later".into(), retry_after))
            }
        }
    }

    fn hear(&mut self, up: Up, shared: &Shared) -> Result<(), End> {
        self.last_heard = Instant::now();
        let ours = match self.session.on_up(up) {
            Ok(Heard::Ack(ack)) => self.membership.ack(ack),
            Ok(Heard::Served(served)) => self.membership.served(served),
            Ok(Heard::Heartbeat) => self.membership.touch(),
            Ok(Heard::WantSnapshot(reason)) => {
                let node = self.membership.node_id();
                tracing::warn!(node, reason = words::text(reason), "a subscriber wants a snapshot");
                // What is under way is of no use to it.
                self.outbox.clear();
                self.membership.touch()
            }
            Err(error) => {
                shared.metrics.refuse(Refusal::Protocol);
                return Err(End::Away(error.to_string(), millis(shared.lease)));
            }
        };
        if ours {
            Ok(())
        } else {
            Err(End::Away("a newer session took over".into(), millis(shared.heartbeat)))
        }
    }
}

fn count(metrics: &FeedMetrics, frame: &Bytes) {
    metrics.frames.inc();
    metrics.bytes.inc_by(frame.len() as u64);
}

/// Takes in what a node sees. Only of itself, and only if it applies intents of its own.
pub(crate) async fn report(
    shared: &Shared,
    request: Request<ReportRequest>,
) -> Result<Response<ReportResponse>, Status> {
    let certificate = caller(&request, shared, false)?;
    let node_id = &certificate.name.node_id;
    let audience = Audience::node(node_id).map_err(|error| Status::invalid_argument(error.to_string()))?;
    shared.admit(&certificate, &audience).await?;
    let Some(_turn) = Turn::take(shared, node_id.clone()) else {
        shared.metrics.refuse(Refusal::Busy);
        return Err(Status::resource_exhausted("another report of this node is being taken in; try again"));
    };
    let mut report = request.into_inner();
    words::report(&mut report);
    let reported = shared.status.report(node_id, &report).await.map_err(unavailable)?;
    shared.metrics.reports.inc();
    Ok(Response::new(ReportResponse { want_all: reported == Reported::WantAll }))
}

/// A node's turn to report: one call at a time, so that a node that never stops reporting does not fill the writer's queue.
pub(crate) struct Turn<'a> {
    shared: &'a Shared,
    whose: String,
}

impl<'a> Turn<'a> {
    pub(crate) fn take(shared: &'a Shared, whose: String) -> Option<Self> {
        let is_free = shared.reporting.lock().unwrap_or_else(PoisonError::into_inner).insert(whose.clone());
        // Lazily: a turn that is dropped gives the place back.
        is_free.then(|| Self { shared, whose })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.shared.reporting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.whose);
    }
}
