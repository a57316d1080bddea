//! The publisher's end of one session: which frames a subscriber gets, from a [`FeedSource`].
//!
//! A session is a cursor; it has no queue, no socket and no clock. The caller (`controller/feed`) asks for frames when the
//! subscriber has room for them ([`Session::poll`]), waits for the doorbell when there are none, and passes on what the
//! subscriber says ([`Session::on_up`]). A frame's witness is the caller's to fill in. While a session follows the log, the caller may send shared frames instead
//! ([`Session::follows`], [`Session::skip_to`]). It never decides who may subscribe to what.

use std::time::{Duration, Instant};

use hosting_intent::{Audience, Bytes, Item, Key};
use hosting_proto::feed as wire;
use prost::Message;
use wire::down::Frame;
use wire::{Down, Up};

use crate::convert::{down, go_away, item_to_wire, removal_to_wire};
use crate::{AudienceHead, FeedSource, LogEntry, SourceError};

/// Largest frame on the wire, in bytes.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// Room for what stands around the items in a frame.
const ENVELOPE: usize = 64;

/// How a session behaves.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest frame in bytes; one item that is larger by itself travels alone.
    pub frame_bytes: usize,
    /// Items per snapshot read.
    pub page_items: usize,
    /// Changes per read of the log.
    pub window_changes: usize,
    /// With nothing new, a bookmark is sent this often.
    pub bookmark_every: Duration,
    /// How often a subscriber must say something, in milliseconds.
    pub heartbeat_ms: u32,
    /// How long it counts as alive after it said something, in milliseconds.
    pub lease_ms: u32,
    /// Snapshots that one session may begin before it is sent away, so that no subscriber keeps the store busy for ever.
    pub snapshots: u32,
    /// How long a subscriber that is sent away waits, in milliseconds.
    pub retry_after_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: MAX_FRAME_BYTES,
            page_items: 1_000,
            window_changes: 1_000,
            bookmark_every: Duration::from_secs(30),
            heartbeat_ms: 3_000,
            lease_ms: 15_000,
            snapshots: 8,
            retry_after_ms: 5_000,
        }
    }
}

/// What a subscriber said.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// It stands in this session's epoch.
    Ack(wire::Ack),
    /// It is alive; its position is of another epoch, and says nothing about this one.
    Heartbeat,
    /// It cannot go on from what it has; the next poll begins a snapshot.
    WantSnapshot(String),
    /// What it found when it asked its own listeners.
    Served(wire::Served),
}

/// A subscriber broke the protocol; the session must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A frame that cannot come now.
    #[error("{0} is not allowed here")]
    Unexpected(&'static str),
    /// It says that it has what it was never sent.
    #[error("applied {applied} and durable {durable} cannot be: only {sent} was sent")]
    Impossible {
        /// What it says is in effect.
        applied: u64,
        /// What it says is on disk.
        durable: u64,
        /// The newest revision that it can have.
        sent: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// A snapshot is to begin.
    Begin,
    /// Its items are read, in key order.
    Paging { base: u64, after: Option<Key> },
    /// What changed since it began follows, up to the head.
    Closing { at: u64 },
    /// The log is followed.
    Following { at: u64 },
    /// Nothing more is sent.
    Ended,
}

/// One subscriber's session. Frames must be sent in the order in which they are given.
#[derive(Debug)]
pub struct Session {
    audience: Audience,
    limits: Limits,
    epoch: String,
    state: State,
    /// The newest revision of `epoch` that the subscriber can have.
    sent: u64,
    snapshots: u32,
    /// The revision and time of the last bookmark.
    bookmarked: Option<(u64, Instant)>,
}

impl Session {
    /// Answers a Hello for `audience`, which the caller has authorized, from `cursor`. Gives the session with its first frame, Welcome. A cursor beyond the
    /// head begins a new epoch for all: the caller has made sure that the store went back.
    ///
    /// # Errors
    /// When the source cannot be read.
    pub async fn open(
        source: &(impl FeedSource + ?Sized),
        audience: Audience,
        cursor: Option<&wire::Cursor>,
        limits: Limits,
    ) -> Result<(Self, Vec<Down>), SourceError> {
        let mut head = source.audience(&audience).await?;
        if let Some(cursor) = cursor
            && cursor.epoch == head.epoch
            && cursor.revision > head.revision
        {
            // An audience's log only grows, so this store is older than the subscriber.
            head = later_epoch(source, &audience, head).await?;
        }
        let (state, sent) = match cursor {
            Some(cursor) if cursor.epoch == head.epoch => {
                let continues =
                    cursor.revision >= head.floor && continues(source, &audience, cursor.revision).await?;
                let state = if continues { State::Following { at: cursor.revision } } else { State::Begin };
                (state, cursor.revision)
            }
            _ => (State::Begin, 0),
        };
        let welcome = wire::Welcome {
            epoch: head.epoch.clone(),
            head: head.revision,
            heartbeat_ms: limits.heartbeat_ms,
            lease_ms: limits.lease_ms,
            // The caller knows who is at the other end.
            edge_key: Bytes::new(),
            controllers: Vec::new(),
        };
        let session =
            Self { audience, limits, epoch: head.epoch, state, sent, snapshots: 0, bookmarked: None };
        Ok((session, vec![down(Frame::Welcome(welcome))]))
    }

    /// The epoch that the session speaks of.
    #[must_use]
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Whether it began by continuing the log, and no snapshot was needed since.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.snapshots == 0 && self.state != State::Begin
    }

    /// Whether a GoAway was sent.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.state == State::Ended
    }

    /// The revision up to which the subscriber was sent everything, while the session follows the log: the `prev` of the
    /// entry that it needs next.
    #[must_use]
    pub fn follows(&self) -> Option<u64> {
        match self.state {
            State::Following { at } => Some(at),
            State::Begin | State::Paging { .. } | State::Closing { .. } | State::Ended => None,
        }
    }

    /// The caller sent the entry of `epoch` from `prev` to `revision` by itself. `false`, and nothing changes, if that is not
    /// what the subscriber needs next: the entry must then not be sent.
    #[must_use]
    pub fn skip_to(&mut self, epoch: &str, prev: u64, revision: u64) -> bool {
        let fits = self.epoch == epoch && self.follows() == Some(prev) && revision > prev;
        if fits {
            self.state = State::Following { at: revision };
            self.sent = revision;
        }
        fits
    }

    /// The next frames, from one read of the source. Empty: there is nothing to say until the audience changes or a bookmark
    /// is due.
    ///
    /// # Errors
    /// When the source cannot be read. The session is as before and may be polled again.
    pub async fn poll(
        &mut self,
        source: &(impl FeedSource + ?Sized),
        now: Instant,
    ) -> Result<Vec<Down>, SourceError> {
        match &self.state {
            State::Ended => Ok(Vec::new()),
            State::Begin => self.begin(source).await,
            State::Paging { base, after } => {
                let (base, after) = (*base, after.clone());
                self.page(source, base, after).await
            }
            State::Closing { at } => {
                let at = *at;
                self.close(source, at).await
            }
            State::Following { at } => {
                let at = *at;
                self.follow(source, at, now).await
            }
        }
    }

    /// Takes in what the subscriber said after its Hello.
    ///
    /// # Errors
    /// The session must end: send [`go_away`] with the reason.
    pub fn on_up(&mut self, up: Up) -> Result<Heard, ProtocolError> {
        match up.frame {
            Some(wire::up::Frame::Hello(_)) => Err(ProtocolError::Unexpected("a second Hello")),
            Some(wire::up::Frame::Ack(ack)) => {
                let (applied, durable) = (ack.applied, ack.durable);
                if durable > applied || (ack.epoch == self.epoch && applied > self.sent) {
                    return Err(ProtocolError::Impossible { applied, durable, sent: self.sent });
                }
                Ok(if ack.epoch == self.epoch { Heard::Ack(ack) } else { Heard::Heartbeat })
            }
            Some(wire::up::Frame::WantSnapshot(want)) => {
                if self.state != State::Ended {
                    self.state = State::Begin;
                }
                Ok(Heard::WantSnapshot(want.reason))
            }
            Some(wire::up::Frame::Served(served)) => {
                Ok(if served.epoch == self.epoch { Heard::Served(served) } else { Heard::Heartbeat })
            }
            // From a newer subscriber.
            None => Ok(Heard::Heartbeat),
        }
    }

    async fn begin(&mut self, source: &(impl FeedSource + ?Sized)) -> Result<Vec<Down>, SourceError> {
        if self.snapshots >= self.limits.snapshots {
            self.state = State::Ended;
            let reason = format!("{} snapshots in one session did not help", self.snapshots);
            return Ok(vec![go_away(reason, self.limits.retry_after_ms)]);
        }
        let mut head = source.audience(&self.audience).await?;
        if head.epoch == self.epoch && head.revision < self.sent {
            head = later_epoch(source, &self.audience, head).await?;
        }
        if head.epoch != self.epoch {
            self.epoch.clone_from(&head.epoch);
            self.sent = 0;
        }
        self.snapshots += 1;
        self.bookmarked = None;
        self.state = State::Paging { base: head.revision, after: None };
        Ok(vec![down(Frame::SnapshotBegin(wire::SnapshotBegin { epoch: head.epoch, base: head.revision }))])
    }

    async fn page(
        &mut self,
        source: &(impl FeedSource + ?Sized),
        base: u64,
        after: Option<Key>,
    ) -> Result<Vec<Down>, SourceError> {
        let items = source.page(&self.audience, after.as_ref(), self.limits.page_items).await?;
        self.state = match items.last() {
            Some(last) => State::Paging { base, after: Some(last.key.clone()) },
            None => State::Closing { at: base },
        };
        Ok(snapshot_frames(&items, self.limits.frame_bytes))
    }

    async fn close(
        &mut self,
        source: &(impl FeedSource + ?Sized),
        at: u64,
    ) -> Result<Vec<Down>, SourceError> {
        let window = source.window(&self.audience, at, self.limits.window_changes).await?;
        let head = window.head;
        // Compacted past us, or the store was exchanged under us: what was read so far proves nothing.
        if head.epoch != self.epoch || at < head.floor || !contiguous(at, &window.entries, &head) {
            self.state = State::Begin;
            return self.begin(source).await;
        }
        let mut frames = frames_of(&window.entries, self.limits.frame_bytes);
        let at = window.entries.last().map_or(at, |entry| entry.revision);
        if at == head.revision {
            frames.push(down(Frame::SnapshotEnd(wire::SnapshotEnd {
                revision: head.revision,
                count: head.count,
                digest: digest_bytes(&head),
                witness: Bytes::new(),
            })));
            self.sent = at;
            self.state = State::Following { at };
        } else {
            self.state = State::Closing { at };
        }
        Ok(frames)
    }

    async fn follow(
        &mut self,
        source: &(impl FeedSource + ?Sized),
        at: u64,
        now: Instant,
    ) -> Result<Vec<Down>, SourceError> {
        let window = source.window(&self.audience, at, self.limits.window_changes).await?;
        let head = window.head;
        if head.epoch != self.epoch || at < head.floor || !contiguous(at, &window.entries, &head) {
            self.state = State::Begin;
            return self.begin(source).await;
        }
        let mut frames = frames_of(&window.entries, self.limits.frame_bytes);
        let at = window.entries.last().map_or(at, |entry| entry.revision);
        self.state = State::Following { at };
        self.sent = at;
        // The digest of the head proves the view only where the subscriber is at the head.
        let due = self.bookmarked.is_none_or(|(revision, when)| {
            revision != at || now.saturating_duration_since(when) >= self.limits.bookmark_every
        });
        if at == head.revision && due {
            frames.push(down(Frame::Bookmark(wire::Bookmark {
                controllers: Vec::new(),
                revision: at,
                head: head.head,
                count: head.count,
                digest: digest_bytes(&head),
                witness: Bytes::new(),
            })));
            self.bookmarked = Some((at, now));
        }
        Ok(frames)
    }
}

/// The frames of one revision, none above `frame_bytes` unless an item alone is.
#[must_use]
pub fn delta_frames(entry: &LogEntry, frame_bytes: usize) -> Vec<Down> {
    let new = || wire::Delta {
        prev: entry.prev,
        revision: entry.revision,
        upserts: Vec::new(),
        removals: Vec::new(),
        more: true,
        witness: Bytes::new(),
    };
    let room = frame_bytes.saturating_sub(ENVELOPE);
    let mut deltas = Vec::new();
    let (mut delta, mut used) = (new(), 0);
    let mut make_room = |delta: &mut wire::Delta, size: usize| {
        if used > 0 && used + size > room {
            deltas.push(std::mem::replace(delta, new()));
            used = 0;
        }
        used += size;
    };
    for removal in &entry.removals {
        let removal = removal_to_wire(removal);
        make_room(&mut delta, field_size(removal.encoded_len()));
        delta.removals.push(removal);
    }
    for item in &entry.upserts {
        let item = item_to_wire(item);
        make_room(&mut delta, field_size(item.encoded_len()));
        delta.upserts.push(item);
    }
    delta.more = false;
    deltas.push(delta);
    deltas.into_iter().map(|delta| down(Frame::Delta(delta))).collect()
}

fn frames_of(entries: &[LogEntry], frame_bytes: usize) -> Vec<Down> {
    entries.iter().flat_map(|entry| delta_frames(entry, frame_bytes)).collect()
}

fn snapshot_frames(items: &[Item], frame_bytes: usize) -> Vec<Down> {
    let room = frame_bytes.saturating_sub(ENVELOPE);
    let mut frames = Vec::new();
    let (mut frame, mut used) = (wire::SnapshotItems::default(), 0);
    for item in items {
        let item = item_to_wire(item);
        let size = field_size(item.encoded_len());
        if used > 0 && used + size > room {
            frames.push(down(Frame::SnapshotItems(std::mem::take(&mut frame))));
            used = 0;
        }
        used += size;
        frame.items.push(item);
    }
    if !frame.items.is_empty() {
        frames.push(down(Frame::SnapshotItems(frame)));
    }
    frames
}

/// Bytes of a nested message of `length` bytes with its tag and length.
fn field_size(length: usize) -> usize {
    1 + prost::length_delimiter_len(length) + length
}

fn digest_bytes(head: &AudienceHead) -> Bytes {
    Bytes::copy_from_slice(&head.digest.to_bytes())
}

/// Whether `entries` lead from `at` on without a gap, and to nothing else than the head if there are none.
fn contiguous(at: u64, entries: &[LogEntry], head: &AudienceHead) -> bool {
    let mut position = at;
    for entry in entries {
        if entry.prev != position || entry.revision <= position {
            return false;
        }
        position = entry.revision;
    }
    position <= head.revision && (!entries.is_empty() || position == head.revision)
}

/// Whether the log really continues from `cursor`: after a restore, another history may have grown past it.
async fn continues(
    source: &(impl FeedSource + ?Sized),
    audience: &Audience,
    cursor: u64,
) -> Result<bool, SourceError> {
    let window = source.window(audience, cursor, 1).await?;
    Ok(cursor >= window.head.floor && contiguous(cursor, &window.entries, &window.head))
}

/// The store went back behind what it once sent; positions of its epoch cannot be compared any more.
async fn later_epoch(
    source: &(impl FeedSource + ?Sized),
    audience: &Audience,
    head: AudienceHead,
) -> Result<AudienceHead, SourceError> {
    tracing::warn!(%audience, epoch = %head.epoch, revision = head.revision, "the store went back; a new epoch begins");
    source.begin_epoch(&head.epoch).await?;
    source.audience(audience).await
}

#[cfg(test)]
mod tests;
