//! The newest changes of each audience that somebody listens to, read once and encoded once for all its sessions.
//!
//! One task ([`Hub::run`]) reads: it is told what each commit touched and looks at those audiences only. Sessions find the
//! entry after their position in the ring and copy its bytes; whoever is behind the ring reads the log by itself. The hub
//! also answers, without a read, where an audience stands, so that heartbeats cost the store nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hosting_intent::{Item, Key};
use hosting_intent_sync::publisher::{MAX_FRAME_BYTES, delta_frames};
use hosting_intent_sync::{AudienceHead, FeedSource, LogEntry, SourceError, Window};
use prost::Message as _;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::metrics::FeedMetrics;
use crate::registry::{Doorbell, Touched};

/// Audiences read at the same time.
const READS: usize = 4;
/// Changes per read.
const WINDOW: usize = 1_000;
/// After a failed read.
const RETRY: Duration = Duration::from_millis(500);
/// What was answered from memory is compared with the store this often, whatever the doorbell says.
const RECHECK: Duration = Duration::from_secs(60);

/// How much of an audience's newest changes is kept in memory.
#[derive(Debug, Clone, Copy)]
pub struct RingLimits {
    /// Bytes of frames; the newest revision is kept even if it alone is larger.
    pub bytes: usize,
    /// Revisions.
    pub revisions: usize,
}

impl Default for RingLimits {
    fn default() -> Self {
        Self { bytes: 4 << 20, revisions: 1_024 }
    }
}

/// One revision, ready to send.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) prev: u64,
    pub(crate) revision: u64,
    pub(crate) frames: Vec<Bytes>,
    size: usize,
}

impl Encoded {
    fn new(entry: &LogEntry) -> Self {
        let frames: Vec<Bytes> =
            delta_frames(entry, MAX_FRAME_BYTES).iter().map(|frame| frame.encode_to_vec().into()).collect();
        let size = frames.iter().map(Bytes::len).sum();
        Self { prev: entry.prev, revision: entry.revision, frames, size }
    }
}

#[derive(Debug, Default)]
struct Ring {
    /// As of the last read; `None` before the first.
    head: Option<AudienceHead>,
    entries: VecDeque<Arc<Encoded>>,
    bytes: usize,
    /// Counts what the doorbell said.
    rung: u64,
    /// What of it the last read covers.
    read: u64,
}

impl Ring {
    fn is_fresh(&self) -> bool {
        self.read == self.rung && self.head.is_some()
    }

    /// Takes in a read that began when `rung` was the count.
    fn absorb(&mut self, window: Window, rung: u64, limits: RingLimits) {
        let tip = self.tip();
        let same = self.head.as_ref().is_some_and(|head| head.epoch == window.head.epoch);
        let continues = window.entries.first().is_none_or(|first| Some(first.prev) == tip);
        if !same || !continues || tip.is_some_and(|tip| window.head.revision < tip) {
            self.entries.clear();
            self.bytes = 0;
        }
        for entry in &window.entries {
            let encoded = Encoded::new(entry);
            self.bytes += encoded.size;
            self.entries.push_back(Arc::new(encoded));
        }
        while self.entries.len() > 1 && (self.bytes > limits.bytes || self.entries.len() > limits.revisions) {
            if let Some(oldest) = self.entries.pop_front() {
                self.bytes -= oldest.size;
            }
        }
        self.head = Some(window.head);
        self.read = rung;
    }

    /// Up to where it has been read.
    fn tip(&self) -> Option<u64> {
        self.entries.back().map(|entry| entry.revision).or(self.head.as_ref().map(|head| head.revision))
    }
}

/// What a session finds after its position.
#[derive(Debug)]
pub(crate) enum Next {
    /// Send this.
    Entry(Arc<Encoded>),
    /// There is nothing newer.
    AtHead,
    /// Not in the ring: ask the log.
    Elsewhere,
}

#[derive(Debug)]
struct Channel {
    ring: Mutex<Ring>,
    /// Moves whenever there may be something new.
    version: watch::Sender<u64>,
}

impl Channel {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Registered {
    channels: BTreeMap<String, (Arc<Channel>, usize)>,
    /// To be read.
    pending: BTreeSet<String>,
    /// The cell's newest revision that the doorbell spoke of.
    covered: u64,
}

/// All audiences that somebody listens to.
pub(crate) struct Hub {
    source: Arc<dyn FeedSource>,
    limits: RingLimits,
    metrics: FeedMetrics,
    registered: Mutex<Registered>,
    work: Notify,
}

impl Hub {
    pub(crate) fn new(source: Arc<dyn FeedSource>, limits: RingLimits, metrics: FeedMetrics) -> Self {
        Self { source, limits, metrics, registered: Mutex::default(), work: Notify::new() }
    }

    /// Listens to an audience until the answer is dropped.
    pub(crate) fn attach(self: &Arc<Self>, audience: &str) -> Attached {
        let mut registered = self.registered();
        let (channel, users) = registered.channels.entry(audience.to_owned()).or_insert_with(|| {
            (Arc::new(Channel { ring: Mutex::default(), version: watch::Sender::new(0) }), 0)
        });
        *users += 1;
        let channel = Arc::clone(channel);
        if channel.ring().head.is_none() {
            registered.pending.insert(audience.to_owned());
            self.work.notify_one();
        }
        drop(registered);
        let version = channel.version.subscribe();
        Attached { hub: Arc::clone(self), audience: audience.to_owned(), channel, version }
    }

    /// Reads what the doorbell speaks of, until `stop`.
    pub(crate) async fn run(&self, mut doorbell: Box<dyn Doorbell>, stop: CancellationToken) {
        let mut reads = FuturesUnordered::new();
        let mut busy = BTreeSet::new();
        let mut recheck = tokio::time::interval(RECHECK);
        recheck.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            while reads.len() < READS
                && let Some((audience, channel)) = self.next_pending(&busy)
            {
                busy.insert(audience.clone());
                reads.push(self.read(audience, channel));
            }
            tokio::select! {
                touched = doorbell.ring() => self.note(touched),
                Some((audience, more)) = reads.next() => {
                    busy.remove(&audience);
                    if more {
                        self.registered().pending.insert(audience);
                    }
                }
                () = self.work.notified() => {}
                _ = recheck.tick() => {
                    let head = self.registered().covered;
                    self.note(Touched { head, audiences: None });
                }
                () = stop.cancelled() => return,
            }
        }
    }

    fn next_pending(&self, busy: &BTreeSet<String>) -> Option<(String, Arc<Channel>)> {
        let mut registered = self.registered();
        loop {
            let audience = registered.pending.iter().find(|audience| !busy.contains(*audience))?.clone();
            registered.pending.remove(&audience);
            if let Some((channel, _)) = registered.channels.get(&audience) {
                let channel = Arc::clone(channel);
                return Some((audience, channel));
            }
        }
    }

    fn note(&self, touched: Touched) {
        let mut registered = self.registered();
        let Registered { channels, pending, covered } = &mut *registered;
        // First what is stale, then how far the rest is good.
        match touched.audiences {
            Some(audiences) => {
                for audience in audiences {
                    if let Some((channel, _)) = channels.get(&audience) {
                        channel.ring().rung += 1;
                        pending.insert(audience);
                    }
                }
                *covered = touched.head.max(*covered);
            }
            None => {
                for (audience, (channel, _)) in channels {
                    channel.ring().rung += 1;
                    pending.insert(audience.clone());
                }
                // Maybe lower: the store may have been put back.
                *covered = touched.head;
            }
        }
    }

    /// One read of one audience; true: there is more to read.
    async fn read(&self, audience: String, channel: Arc<Channel>) -> (String, bool) {
        let (tip, rung) = {
            let ring = channel.ring();
            (ring.tip(), ring.rung)
        };
        let answer = match tip {
            Some(tip) => self.source.window(&audience, tip, WINDOW).await,
            None => self.source.audience(&audience).await.map(|head| Window { head, entries: Vec::new() }),
        };
        let window = match answer {
            Ok(window) => window,
            Err(error) => {
                tracing::warn!(audience, %error, "the log could not be read; trying again");
                tokio::time::sleep(RETRY).await;
                return (audience, true);
            }
        };
        let more = {
            let mut ring = channel.ring();
            ring.absorb(window, rung, self.limits);
            let behind = ring.tip() < ring.head.as_ref().map(|head| head.revision);
            // A gap in the log (compacted under us) leaves the ring empty at the head; sessions read by themselves.
            ring.rung != ring.read || (behind && !ring.entries.is_empty())
        };
        channel.version.send_modify(|version| *version += 1);
        (audience, more)
    }

    fn registered(&self) -> MutexGuard<'_, Registered> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's ear at an audience. Also a [`FeedSource`] that answers from memory where it can.
pub(crate) struct Attached {
    hub: Arc<Hub>,
    audience: String,
    channel: Arc<Channel>,
    version: watch::Receiver<u64>,
}

impl Attached {
    /// What follows `at` in `epoch`.
    pub(crate) fn next(&self, epoch: &str, at: u64) -> Next {
        let ring = self.channel.ring();
        let Some(head) = ring.head.as_ref().filter(|head| head.epoch == epoch) else {
            return Next::Elsewhere;
        };
        if ring.tip() == Some(at) && head.revision == at {
            return Next::AtHead;
        }
        // Contiguous, so the one with our position as `prev` is found by bisection.
        let index = ring.entries.partition_point(|entry| entry.prev < at);
        match ring.entries.get(index).filter(|entry| entry.prev == at) {
            Some(entry) => {
                self.hub.metrics.ring_hits.inc();
                Next::Entry(Arc::clone(entry))
            }
            None => {
                self.hub.metrics.ring_misses.inc();
                Next::Elsewhere
            }
        }
    }

    /// Waits until there may be something new.
    pub(crate) async fn changed(&mut self) {
        // The sender lives as long as `channel`.
        let _ = self.version.changed().await;
    }

    /// Where the audience stands, if that is known without a read.
    fn fresh_head(&self, audience: &str) -> Option<AudienceHead> {
        if audience != self.audience {
            return None;
        }
        let covered = self.hub.registered().covered;
        let ring = self.channel.ring();
        let head = ring.head.as_ref().filter(|_| ring.is_fresh())?;
        Some(AudienceHead { head: head.head.max(covered), ..head.clone() })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut registered = self.hub.registered();
        if let Some((_, users)) = registered.channels.get_mut(&self.audience) {
            *users -= 1;
            if *users == 0 {
                registered.channels.remove(&self.audience);
            }
        }
    }
}

#[async_trait]
impl FeedSource for Attached {
    async fn audience(&self, audience: &str) -> Result<AudienceHead, SourceError> {
        match self.fresh_head(audience) {
            Some(head) => Ok(head),
            None => self.hub.source.audience(audience).await,
        }
    }

    async fn window(&self, audience: &str, after: u64, limit: usize) -> Result<Window, SourceError> {
        match self.fresh_head(audience).filter(|head| head.revision == after) {
            Some(head) => Ok(Window { head, entries: Vec::new() }),
            None => self.hub.source.window(audience, after, limit).await,
        }
    }

    async fn page(
        &self,
        audience: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, SourceError> {
        self.hub.source.page(audience, after, limit).await
    }

    async fn begin_epoch(&self, seen: &str) -> Result<(), SourceError> {
        self.hub.source.begin_epoch(seen).await
    }
}
