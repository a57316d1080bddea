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
use hosting_intent::{Audience, Item, Key};
use hosting_intent_sync::publisher::{MAX_FRAME_BYTES, delta_frames};
use hosting_intent_sync::{AudienceHead, FeedSource, LogEntry, SourceError, Window};
use prost::Message as _;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::metrics::FeedMetrics;
use crate::registry::{Doorbell, Touched};
use crate::witness::Witness;

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
    fn new(entry: &LogEntry, epoch: &str, witness: &Witness) -> Self {
        let mut frames = delta_frames(entry, MAX_FRAME_BYTES);
        witness.stamp(epoch, &mut frames);
        let frames: Vec<Bytes> = frames.iter().map(|frame| frame.encode_to_vec().into()).collect();
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
    fn absorb(&mut self, window: Window, rung: u64, limits: RingLimits, witness: &Witness) {
        let tip = self.tip();
        let same = self.head.as_ref().is_some_and(|head| head.epoch == window.head.epoch);
        let continues = window.entries.first().is_none_or(|first| Some(first.prev) == tip);
        if !same || !continues || tip.is_some_and(|tip| window.head.revision < tip) {
            self.entries.clear();
            self.bytes = 0;
        }
        for entry in &window.entries {
            let encoded = Encoded::new(entry, &window.head.epoch, witness);
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
    channels: BTreeMap<Audience, (Arc<Channel>, usize)>,
    /// To be read.
    pending: BTreeSet<Audience>,
    /// The cell's newest revision that the doorbell spoke of.
    covered: u64,
}

/// All audiences that somebody listens to.
pub(crate) struct Hub {
    source: Arc<dyn FeedSource>,
    limits: RingLimits,
    metrics: FeedMetrics,
    witness: Witness,
    registered: Mutex<Registered>,
    work: Notify,
}

impl Hub {
    pub(crate) fn new(
        source: Arc<dyn FeedSource>,
        limits: RingLimits,
        metrics: FeedMetrics,
        witness: Witness,
    ) -> Self {
        Self { source, limits, metrics, witness, registered: Mutex::default(), work: Notify::new() }
    }

    /// Listens to an audience until the answer is dropped.
    pub(crate) fn attach(self: &Arc<Self>, audience: &Audience) -> Attached {
        let mut registered = self.registered();
        let (channel, users) = registered.channels.entry(audience.clone()).or_insert_with(|| {
            (Arc::new(Channel { ring: Mutex::default(), version: watch::Sender::new(0) }), 0)
        });
        *users += 1;
        let channel = Arc::clone(channel);
        if channel.ring().head.is_none() {
            registered.pending.insert(audience.clone());
            self.work.notify_one();
        }
        drop(registered);
        let version = channel.version.subscribe();
        Attached { hub: Arc::clone(self), audience: audience.clone(), channel, version }
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

    fn next_pending(&self, busy: &BTreeSet<Audience>) -> Option<(Audience, Arc<Channel>)> {
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
    async fn read(&self, audience: Audience, channel: Arc<Channel>) -> (Audience, bool) {
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
                tracing::warn!(%audience, %error, "the log could not be read; trying again");
                tokio::time::sleep(RETRY).await;
                return (audience, true);
            }
        };
        let more = {
            let mut ring = channel.ring();
            ring.absorb(window, rung, self.limits, &self.witness);
            let behind = ring.tip() < ring.head.as_ref().map(|head| head.revision);
            // A gap in the log (compacted under us) leaves the ring empty at the head; sessions read by themselves.
            ring.rung != ring.read || (behind && !ring.entries.is_empty())
        };
        channel.version.send_modify(|version| *version += 1);
        (audience, more)
    }

    /// An epoch that the doorbell has yet to speak of makes what is remembered worthless: it is read again.
    fn compare(&self, audience: &Audience, channel: &Channel, head: &AudienceHead) {
        let mut registered = self.registered();
        let mut ring = channel.ring();
        if ring.is_fresh() && ring.head.as_ref().is_some_and(|known| known.epoch != head.epoch) {
            ring.rung += 1;
            registered.pending.insert(audience.clone());
            self.work.notify_one();
        }
    }

    fn registered(&self) -> MutexGuard<'_, Registered> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's ear at an audience. Also a [`FeedSource`] that answers from memory where nothing is new.
pub(crate) struct Attached {
    hub: Arc<Hub>,
    audience: Audience,
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
    fn fresh_head(&self, audience: &Audience) -> Option<AudienceHead> {
        if *audience != self.audience {
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
    async fn audience(&self, audience: &Audience) -> Result<AudienceHead, SourceError> {
        // Never from memory: a read of the log can be ahead of what the doorbell has said, and the store would seem to have
        // gone back.
        let head = self.hub.source.audience(audience).await?;
        if *audience == self.audience {
            self.hub.compare(audience, &self.channel, &head);
        }
        Ok(head)
    }

    async fn window(&self, audience: &Audience, after: u64, limit: usize) -> Result<Window, SourceError> {
        match self.fresh_head(audience).filter(|head| head.revision == after) {
            Some(head) => Ok(Window { head, entries: Vec::new() }),
            None => self.hub.source.window(audience, after, limit).await,
        }
    }

    async fn page(
        &self,
        audience: &Audience,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, SourceError> {
        self.hub.source.page(audience, after, limit).await
    }

    async fn begin_epoch(&self, seen: &str) -> Result<(), SourceError> {
        self.hub.source.begin_epoch(seen).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use hosting_intent::Digest;
    use tokio::sync::mpsc;

    fn head(epoch: &str, revision: u64) -> AudienceHead {
        AudienceHead {
            epoch: epoch.into(),
            head: revision,
            revision,
            floor: 0,
            count: 0,
            digest: Digest::EMPTY,
        }
    }

    fn witness() -> Witness {
        Witness::new(zeroize::Zeroizing::new([1; 32]))
    }

    fn entry(prev: u64, revision: u64) -> LogEntry {
        LogEntry { prev, revision, upserts: Vec::new(), removals: Vec::new() }
    }

    fn revisions(ring: &Ring) -> Vec<u64> {
        ring.entries.iter().map(|entry| entry.revision).collect()
    }

    #[test]
    fn the_oldest_make_room_and_the_newest_stays() {
        let mut ring = Ring::default();
        let limits = RingLimits { bytes: 1 << 20, revisions: 3 };
        ring.absorb(Window { head: head("e", 0), entries: vec![] }, 0, limits, &witness());
        let entries = (0..5).map(|n| entry(n, n + 1)).collect();
        ring.absorb(Window { head: head("e", 5), entries }, 0, limits, &witness());
        assert_eq!(revisions(&ring), [3, 4, 5]);
        let tiny = RingLimits { bytes: 1, revisions: 3 };
        ring.absorb(Window { head: head("e", 6), entries: vec![entry(5, 6)] }, 0, tiny, &witness());
        assert_eq!(revisions(&ring), [6]);
        assert_eq!(ring.bytes, ring.entries[0].size);
    }

    #[test]
    fn a_gap_another_epoch_and_a_step_back_empty_it() {
        let filled = || {
            let mut ring = Ring::default();
            ring.absorb(Window { head: head("e", 1), entries: vec![] }, 0, RingLimits::default(), &witness());
            let window = Window { head: head("e", 3), entries: vec![entry(1, 2), entry(2, 3)] };
            ring.absorb(window, 0, RingLimits::default(), &witness());
            assert_eq!(revisions(&ring), [2, 3]);
            ring
        };
        let mut ring = filled();
        let gap = Window { head: head("e", 9), entries: vec![entry(8, 9)] };
        ring.absorb(gap, 0, RingLimits::default(), &witness());
        assert_eq!(revisions(&ring), [9]);
        let mut ring = filled();
        ring.absorb(Window { head: head("f", 3), entries: vec![] }, 0, RingLimits::default(), &witness());
        assert_eq!((revisions(&ring), ring.tip()), (vec![], Some(3)));
        let mut ring = filled();
        ring.absorb(Window { head: head("e", 2), entries: vec![] }, 0, RingLimits::default(), &witness());
        assert_eq!((revisions(&ring), ring.tip(), ring.bytes), (vec![], Some(2), 0));
    }

    /// Every audience is at the revision that the test says; counts reads by audience.
    #[derive(Default)]
    struct Source {
        later_epoch: Mutex<bool>,
        revision: Mutex<u64>,
        reads: Mutex<BTreeMap<Audience, u64>>,
    }

    #[async_trait]
    impl FeedSource for Source {
        async fn audience(&self, audience: &Audience) -> Result<AudienceHead, SourceError> {
            *self.reads.lock().unwrap().entry(audience.clone()).or_default() += 1;
            let epoch = if *self.later_epoch.lock().unwrap() { "f" } else { "e" };
            Ok(head(epoch, *self.revision.lock().unwrap()))
        }

        async fn window(&self, audience: &Audience, after: u64, _: usize) -> Result<Window, SourceError> {
            let head = self.audience(audience).await?;
            let entries = (after..head.revision).map(|prev| entry(prev, prev + 1)).collect();
            Ok(Window { head, entries })
        }

        async fn page(&self, _: &Audience, _: Option<&Key>, _: usize) -> Result<Vec<Item>, SourceError> {
            Ok(Vec::new())
        }

        async fn begin_epoch(&self, _: &str) -> Result<(), SourceError> {
            Ok(())
        }
    }

    struct Bell(mpsc::Receiver<Touched>);

    #[async_trait]
    impl Doorbell for Bell {
        async fn ring(&mut self) -> Touched {
            match self.0.recv().await {
                Some(touched) => touched,
                None => std::future::pending().await,
            }
        }
    }

    #[tokio::test]
    async fn a_commit_costs_reads_of_the_audiences_it_touched() {
        let source = Arc::new(Source::default());
        let hub =
            Arc::new(Hub::new(source.clone(), RingLimits::default(), FeedMetrics::default(), witness()));
        let (ring, bell) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let (hub, stop) = (Arc::clone(&hub), stop.clone());
            async move { hub.run(Box::new(Bell(bell)), stop).await }
        });
        let [at_a, at_b, unheard] =
            ["dns/a", "dns/b", "dns/nobody-listens"].map(|at| at.parse::<Audience>().unwrap());
        let mut a = hub.attach(&at_a);
        let mut b = hub.attach(&at_b);
        a.changed().await;
        b.changed().await;
        assert!(matches!(a.next("e", 0), Next::AtHead));
        *source.revision.lock().unwrap() = 2;
        ring.send(Touched { head: 7, audiences: Some(vec![at_a.clone(), unheard.clone()]) }).await.unwrap();
        a.changed().await;
        assert!(matches!(a.next("e", 0), Next::Entry(entry) if entry.revision == 1));
        assert!(matches!(a.next("e", 1), Next::Entry(entry) if entry.revision == 2));
        assert!(matches!(a.next("e", 2), Next::AtHead));
        assert!(matches!(a.next("other", 2), Next::Elsewhere));
        let reads = source.reads.lock().unwrap().clone();
        assert_eq!((reads.get(&at_b), reads.contains_key(&unheard)), (Some(&1), false), "{reads:?}");
        // Where `b` stands is known as of revision 7 all the same, without a read.
        let head = b.window(&at_b, 0, 10).await.unwrap().head;
        assert_eq!((head.revision, head.head), (0, 7));
        assert_eq!(source.reads.lock().unwrap().get(&at_b), Some(&1));
        // A new epoch that nobody rang for: whoever asks the store once does not get the old one from memory afterwards.
        *source.later_epoch.lock().unwrap() = true;
        assert_eq!(b.audience(&at_b).await.unwrap().epoch, "f");
        assert_eq!(b.window(&at_b, 0, 10).await.unwrap().head.epoch, "f");
        b.changed().await;
        drop((a, b));
        assert!(hub.registered().channels.is_empty());
        stop.cancel();
        running.await.unwrap();
    }
}
