//! The subscriber's end: from frames to a role's [`Replica`] and its ledger.
//!
//! A state machine without sockets and clock: the shell ([`crate::client`]) passes frames and the time in and sends what comes
//! out. It owns the view (what the feed wants, what of it is in effect, what waits in quarantine), its digest and the position.
//! It never lets an item take its neighbours down, never publishes half a revision or an unverified snapshot, and never says
//! that something is on disk before it is.
//!
//! ```text
//! open → (connect) hello → on_frame … take_ack → flush → take_ack …   (disconnected: hello again)
//! ```

mod brake;
mod frames;
mod packed;
mod rollouts;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use hosting_intent::{Audience, Bytes, Digest, Item, Key, Kind, Removal};
use hosting_ledger::{Journal, LedgerBatch, LedgerError, Meta, Quarantined, Record, Stored, Why};
use hosting_proto::feed as wire;
use wire::down::Frame;
use wire::{Down, Up};

use brake::Attempts;
pub use brake::Brake;
use packed::{Loading, View};
use rollouts::Rollouts;

use crate::Replica;
use crate::convert::up;

/// Exceptions listed in one Ack; the rest is one line with their number. An Ack must fit a message.
const LISTED_EXCEPTIONS: usize = 1_000;
/// Bytes of a reason in an Ack.
const REASON_BYTES: usize = 300;
/// Snapshots asked for without a matching bookmark in between, before the session is given up.
const REPAIRS: u32 = 3;
/// Between two tries to write the ledger after a failure: doubling from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Keys that wait for the ledger beyond the size of the view, before remembering them costs more than writing everything.
const SPARE_DIRTY: usize = 10_000;

/// What a subscriber is.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whose intents it applies, e.g. `edge/<cluster id>`.
    pub audience: Audience,
    /// The build, for operators.
    pub build: String,
    /// The kinds that this role applies. Others are kept and reported as unsupported.
    pub kinds: Vec<Kind>,
    /// When removals that nobody asked for are held.
    pub brake: Brake,
}

/// A point in an audience's history. Revisions compare only within one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Of the store.
    pub epoch: String,
    /// Of the audience.
    pub revision: u64,
}

/// What a subscriber must do. [`Strict`] does all of it; the model test builds others to prove that it would notice.
pub trait Policy: Send + 'static {
    /// Refuse a delta that does not start where the view stands.
    const CHECK_PREV: bool = true;
    /// Keep what a snapshot lacks until the snapshot is complete and verified.
    const SWEEP_AT_END: bool = true;
    /// Call durable only what is on disk.
    const DURABLE_IS_ON_DISK: bool = true;
    /// Tell the replica of every removal.
    const PUBLISH_REMOVALS: bool = true;
    /// Say of a piece of the view that it is one.
    const MARK_PIECES: bool = true;
    /// Keep what is part of a rollout until that comes here.
    const ROLLOUTS_WAIT: bool = true;
}

/// The only policy outside the model test.
#[derive(Debug, Clone, Copy)]
pub struct Strict;

impl Policy for Strict {}

/// Why a session is over. The subscriber keeps its view and may connect again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionEnd {
    /// The controller sends us away.
    #[error("the controller ended the session: {reason}")]
    GoAway {
        /// Its reason.
        reason: String,
        /// How long to wait, in milliseconds; 0: at once, after jitter.
        retry_after_ms: u32,
    },
    /// What it sends makes no sense, or does not become right by asking again.
    #[error("the session makes no sense: {0}")]
    Unsound(String),
}

/// What happened since the start. Only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Sessions that began with Welcome.
    pub sessions: u64,
    /// Sessions that continued from the position, without a snapshot.
    pub resumed: u64,
    /// Snapshots that were verified and put into effect.
    pub snapshots: u64,
    /// Snapshots that did not add up to their own count and digest.
    pub bad_snapshots: u64,
    /// Revisions put into effect from the log.
    pub deltas: u64,
    /// Bookmarks that matched.
    pub bookmarks: u64,
    /// Bookmarks whose count or digest differed from the view.
    pub digest_mismatches: u64,
    /// Deltas or bookmarks that did not start where the view stands.
    pub gaps: u64,
    /// Items rejected.
    pub rejected: u64,
    /// Changes held by the brake.
    pub held: u64,
    /// Batches given to the replica.
    pub published: u64,
    /// Writes of the ledger that failed.
    pub ledger_failures: u64,
}

/// For metrics and operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What is in effect; `None`: nothing is known yet, which is not the same as empty.
    pub position: Option<Position>,
    /// What is on disk.
    pub durable: Option<Position>,
    /// The cell's newest revision that the last bookmark covered.
    pub head: u64,
    /// Whether the view was the audience's newest when the controller last said so in this session.
    pub caught_up: bool,
    /// Items that the feed wants.
    pub count: u64,
    /// Items in effect.
    pub effective: u64,
    /// Keys whose newest word is rejected.
    pub rejected: u64,
    /// Keys held by the brake.
    pub held: u64,
    /// Keys of kinds that this role does not apply.
    pub unsupported: u64,
    /// Keys that wait for a rollout to come here.
    pub waiting: u64,
    /// Why the ledger cannot be written; the view goes on in memory, and `durable` stays where it is.
    pub disk_alarm: Option<String>,
    /// What happened since the start.
    pub counters: Counters,
}

/// The newest word on a key, on its way to a verdict.
enum Change {
    Set(Item),
    Gone(Removal),
}

/// The same with its verdict.
enum Judged<I> {
    Good(Item, I),
    Bad(Item, Why, String),
    Gone(Removal),
}

/// A revision of which frames are still to come.
struct Partial {
    prev: u64,
    revision: u64,
    changes: BTreeMap<Key, Change>,
}

/// A snapshot on its way. Nothing of it is in effect.
struct Staging {
    at: u64,
    items: BTreeMap<Key, Item>,
}

enum Mode {
    /// Deltas go to the view.
    Following,
    /// A snapshot was asked for; what is still under way of the old stream is ignored.
    Awaiting,
    /// Everything goes to the staged snapshot.
    Staging(Staging),
}

struct Session {
    epoch: String,
    mode: Mode,
    partial: Option<Partial>,
    repairs: u32,
    /// Neither a snapshot nor a step of the log came yet.
    fresh: bool,
    caught_up: bool,
}

struct Alarm {
    problem: String,
    retry_at: Instant,
    delay: Duration,
}

/// One audience's subscriber.
pub struct Subscriber<J, R, P = Strict> {
    config: Config,
    journal: J,
    replica: R,
    view: View,
    position: Option<Position>,
    count: u64,
    digest: Digest,
    effective: u64,
    quarantine: BTreeSet<Key>,
    attempts: Attempts,
    rollouts: Rollouts,
    session: Option<Session>,
    head: u64,
    durable: Option<Position>,
    /// Keys whose record on disk may differ from the view.
    dirty: BTreeSet<Key>,
    /// What is on disk is not known: everything must be written.
    rewrite: bool,
    unwritten: bool,
    alarm: Option<Alarm>,
    counters: Counters,
    exceptions_changed: bool,
    acked: Option<(String, u64, u64)>,
    policy: PhantomData<P>,
}

impl<J: Journal, R: Replica, P: Policy> Subscriber<J, R, P> {
    /// Reads the ledger and gives its whole view to the replica, before anything else. A ledger that was never written
    /// publishes nothing: not yet known is not empty.
    ///
    /// Every item is judged again, because this build may know more, or less, than the one that wrote it.
    ///
    /// # Errors
    /// When the ledger cannot be read; nothing is published then.
    pub fn open(config: Config, mut journal: J, replica: R) -> Result<Self, LedgerError> {
        let mut loading = Loading::default();
        let meta = journal.load(&mut |key, record| loading.add(key, record))?;
        let mut subscriber = Self {
            attempts: Attempts::new(config.brake),
            config,
            journal,
            replica,
            view: loading.done(),
            position: None,
            count: 0,
            digest: Digest::EMPTY,
            effective: 0,
            quarantine: BTreeSet::new(),
            rollouts: Rollouts::default(),
            session: None,
            head: 0,
            durable: None,
            dirty: BTreeSet::new(),
            rewrite: false,
            unwritten: false,
            alarm: None,
            counters: Counters::default(),
            exceptions_changed: true,
            acked: None,
            policy: PhantomData,
        };
        if let Some(meta) = meta {
            subscriber.restore(meta);
        }
        Ok(subscriber)
    }

    /// Puts the view that was read into effect, piece by piece where the replica takes it so.
    fn restore(&mut self, meta: Meta) {
        let position = Position { epoch: meta.epoch, revision: meta.revision };
        self.durable = Some(position.clone());
        self.position = Some(position);
        // The journal added them up when it read them.
        (self.count, self.digest) = (meta.count, meta.digest);
        let piece = || Vec::with_capacity(R::PIECES.unwrap_or_default());
        let mut upserts = piece();
        let mut others = Vec::new();
        let view = std::mem::take(&mut self.view);
        for (key, record) in view.iter() {
            self.effective += u64::from(record.effective().is_some());
            let publish = match record {
                Record::Accepted(stored) => match self.judge(&key, &stored.value) {
                    Ok(intent) => Some((stored, intent)),
                    Err((why, reason)) => {
                        let wanted = Some(stored.clone());
                        let revision = stored.revision;
                        let quarantined = Quarantined { why, reason, revision, wanted, good: None };
                        others.push((key.clone(), Record::Quarantined(Box::new(quarantined)), true));
                        None
                    }
                },
                Record::Quarantined(kept) => {
                    let before = Record::Quarantined(kept.clone());
                    let (judged, publish) = self.judge_again(&key, *kept);
                    let changed = judged != before;
                    others.push((key.clone(), judged, changed));
                    publish
                }
            };
            let Some((stored, intent)) = publish else { continue };
            upserts.push((stored.into_item(key), intent));
            if Some(upserts.len()) == R::PIECES {
                self.publish_piece(std::mem::replace(&mut upserts, piece()));
            }
        }
        self.view = view;
        for (key, judged, changed) in others {
            self.put(&key, Some(judged));
            if !changed {
                self.dirty.remove(&key);
            }
        }
        self.unwritten = !self.dirty.is_empty();
        self.publish(upserts, Vec::new());
    }

    /// What a quarantined record from disk is to this build, and what of it goes into effect.
    fn judge_again(&self, key: &Key, kept: Quarantined) -> (Record, Option<(Stored, R::Intent)>) {
        let Quarantined { why, reason, revision, wanted, good } = kept;
        let wanted_again = match why {
            Why::Rejected | Why::Unsupported => wanted.as_ref(),
            Why::Held | Why::Waiting(_) => None,
        };
        let verdict = wanted_again.map(|wanted| Ok((wanted.clone(), self.judge(key, &wanted.value)?)));
        let (why, reason) = match verdict {
            Some(Ok((wanted, intent))) => return (Record::Accepted(wanted.clone()), Some((wanted, intent))),
            Some(Err(verdict)) => verdict,
            None => (why, reason),
        };
        let good = good.and_then(|stored| self.judge(key, &stored.value).ok().map(|intent| (stored, intent)));
        let quarantined = Quarantined {
            why,
            reason,
            revision,
            wanted,
            good: good.as_ref().map(|(stored, _)| stored.clone()),
        };
        (Record::Quarantined(Box::new(quarantined)), good)
    }

    /// Begins a session: the first frame to send. What was staged of the last session is forgotten.
    pub fn hello(&mut self) -> Up {
        self.disconnected();
        self.rollouts.forget();
        // A controller may have forgotten, or be another one.
        self.acked = None;
        self.exceptions_changed = true;
        up(wire::up::Frame::Hello(wire::Hello {
            build: self.config.build.clone(),
            kinds: self.config.kinds.iter().map(|kind| *kind as i32 as u32).collect(),
            audience: self.config.audience.to_string(),
            cursor: self
                .position
                .as_ref()
                .map(|position| wire::Cursor { epoch: position.epoch.clone(), revision: position.revision }),
            // The shell keeps both.
            witness: Bytes::new(),
            sealing_key: Bytes::new(),
        }))
    }

    /// The connection is gone. The view stays in effect.
    pub fn disconnected(&mut self) {
        self.session = None;
    }

    /// Takes in a frame; gives what must be sent because of it. Ask [`Subscriber::take_ack`] afterwards.
    ///
    /// # Errors
    /// The session is over; close it and connect again later.
    pub fn on_frame(&mut self, frame: Down, now: Instant) -> Result<Vec<Up>, SessionEnd> {
        let problem = match frame.frame {
            // From a newer controller.
            None => None,
            Some(Frame::GoAway(away)) => {
                self.session = None;
                return Err(SessionEnd::GoAway { reason: away.reason, retry_after_ms: away.retry_after_ms });
            }
            Some(Frame::Welcome(welcome)) => {
                if self.session.is_some() {
                    return Err(self.unsound("a second Welcome"));
                }
                self.counters.sessions += 1;
                self.session = Some(Session {
                    epoch: welcome.epoch,
                    mode: Mode::Following,
                    partial: None,
                    repairs: 0,
                    fresh: true,
                    caught_up: false,
                });
                None
            }
            Some(_) if self.session.is_none() => return Err(self.unsound("the first frame is not Welcome")),
            Some(Frame::SnapshotBegin(begin)) => self.on_snapshot_begin(begin)?,
            Some(Frame::SnapshotItems(items)) => self.on_snapshot_items(items),
            Some(Frame::SnapshotEnd(end)) => self.on_snapshot_end(&end, now)?,
            Some(Frame::Delta(delta)) => self.on_delta(delta, now),
            Some(Frame::Bookmark(bookmark)) => self.on_bookmark(&bookmark),
            Some(Frame::Release(release)) => {
                self.on_release(&release);
                None
            }
            Some(Frame::Rollouts(said)) => {
                self.on_rollouts(said);
                None
            }
        };
        match problem {
            None => Ok(Vec::new()),
            Some(reason) => self.want_snapshot(reason).map(|up| vec![up]),
        }
    }

    /// The state to tell the controller; also the heartbeat.
    pub fn ack(&mut self) -> Up {
        let (epoch, applied, durable) = self.claim();
        let has_exceptions = std::mem::take(&mut self.exceptions_changed);
        let exceptions = if has_exceptions { self.exceptions_to_wire() } else { Vec::new() };
        self.acked = Some((epoch.clone(), applied, durable));
        up(wire::up::Frame::Ack(wire::Ack { epoch, applied, durable, exceptions, has_exceptions }))
    }

    /// The same, if anything changed since the controller was last told.
    pub fn take_ack(&mut self) -> Option<Up> {
        let changed = self.exceptions_changed || self.acked.as_ref() != Some(&self.claim());
        changed.then(|| self.ack())
    }

    fn claim(&self) -> (String, u64, u64) {
        let Some(position) = &self.position else { return (String::new(), 0, 0) };
        let durable = match &self.durable {
            _ if !P::DURABLE_IS_ON_DISK => position.revision,
            Some(durable) if durable.epoch == position.epoch => durable.revision.min(position.revision),
            _ => 0,
        };
        (position.epoch.clone(), position.revision, durable)
    }

    /// Whether [`Subscriber::flush`] would write now.
    #[must_use]
    pub fn wants_flush(&self, now: Instant) -> bool {
        self.unwritten && self.alarm.as_ref().is_none_or(|alarm| now >= alarm.retry_at)
    }

    /// Writes what is not on disk yet. Blocks for as long as the disk takes. Many frames may share one flush; the view is in
    /// effect all along. After a failure it does nothing until it is time to try again.
    pub fn flush(&mut self, now: Instant) {
        if !self.wants_flush(now) {
            return;
        }
        let Some(position) = self.position.clone() else { return };
        let meta = Meta {
            epoch: position.epoch.clone(),
            revision: position.revision,
            count: self.count,
            digest: self.digest,
        };
        let view = &self.view;
        let written = self.journal.write(LedgerBatch {
            meta: &meta,
            replace_all: self.rewrite,
            records: if self.rewrite {
                Box::new(view.iter().map(|(key, record)| (key, Some(record))))
            } else {
                Box::new(self.dirty.iter().map(|key| (key.clone(), view.get(key))))
            },
        });
        match written {
            Ok(()) => {
                if self.alarm.take().is_some() {
                    tracing::info!(audience = %self.config.audience, "the ledger can be written again");
                }
                self.dirty.clear();
                self.rewrite = false;
                self.unwritten = false;
                self.durable = Some(position);
            }
            Err(error) => self.on_ledger_failure(&error, now),
        }
    }

    /// Ends the session, writes what is not on disk yet, and leaves the ledger to another process until [`Subscriber::taken_back`].
    ///
    /// # Errors
    /// Why the ledger cannot be written; it is kept then.
    pub fn lend(&mut self, now: Instant) -> Result<(), String> {
        self.disconnected();
        if let Some(alarm) = &mut self.alarm {
            alarm.retry_at = now;
        }
        self.flush(now);
        match &self.alarm {
            Some(alarm) => Err(alarm.problem.clone()),
            None => {
                self.journal.release();
                Ok(())
            }
        }
    }

    /// The ledger is this subscriber's again. The view is as it was, and what the other process wrote is written over.
    pub fn taken_back(&mut self) {
        self.dirty.clear();
        self.rewrite = true;
        self.unwritten = self.position.is_some();
        self.durable = None;
    }

    fn on_ledger_failure(&mut self, error: &LedgerError, now: Instant) {
        self.counters.ledger_failures += 1;
        // On a full disk the old file is sound, and the few changed keys need the least room. After anything else nothing
        // that was written before is relied on.
        let remembered = self.dirty.len() <= self.view.len().saturating_add(SPARE_DIRTY);
        if !error.is_full() || !remembered {
            self.rewrite = true;
            self.dirty.clear();
        }
        if matches!(error, LedgerError::Corrupt { .. }) {
            // The file was set aside; nothing is on disk any more.
            self.durable = None;
        }
        if self.alarm.is_none() {
            tracing::error!(
                audience = %self.config.audience, %error,
                "the ledger cannot be written; going on in memory, a restart would lose what came since"
            );
        }
        let delay = self.alarm.as_ref().map_or(RETRY.0, |alarm| (alarm.delay * 2).min(RETRY.1));
        self.alarm = Some(Alarm { problem: error.to_string(), retry_at: now + delay, delay });
    }

    /// For metrics and operators. Costs a walk over the quarantine.
    #[must_use]
    pub fn status(&self) -> Status {
        let (mut rejected, mut held, mut unsupported) = (0, 0, 0);
        for (_, quarantined) in self.exceptions() {
            match quarantined.why {
                Why::Rejected => rejected += 1,
                Why::Held => held += 1,
                Why::Unsupported => unsupported += 1,
                // Counted apart: they are no exceptions.
                Why::Waiting(_) => {}
            }
        }
        Status {
            position: self.position.clone(),
            durable: self.durable.clone(),
            head: self.head,
            caught_up: self.session.as_ref().is_some_and(|session| session.caught_up),
            count: self.count,
            effective: self.effective,
            rejected,
            held,
            unsupported,
            waiting: self.rollouts.waiting(),
            disk_alarm: self.alarm.as_ref().map(|alarm| alarm.problem.clone()),
            counters: self.counters,
        }
    }

    /// Keys whose newest word is not in effect and does not wait for a rollout, in key order.
    pub fn exceptions(&self) -> impl Iterator<Item = (&Key, &Quarantined)> {
        self.quarantine.iter().filter_map(|key| Some((key, self.view.quarantined(key)?)))
    }

    /// Over what the feed wants.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The role's own state.
    #[must_use]
    pub fn replica(&self) -> &R {
        &self.replica
    }

    fn exceptions_to_wire(&self) -> Vec<wire::Exception> {
        let mut listed: Vec<wire::Exception> = self
            .exceptions()
            .take(LISTED_EXCEPTIONS)
            .map(|(key, quarantined)| wire::Exception {
                r#type: exception_type(quarantined.why) as i32,
                kind: key.kind,
                key: key.name.clone(),
                revision: quarantined.revision,
                reason: shortened(&quarantined.reason),
            })
            .collect();
        let rest = self.quarantine.len().saturating_sub(listed.len());
        listed.extend(self.rollouts.to_wire());
        if rest > 0 {
            listed.push(wire::Exception {
                r#type: wire::exception::Type::Unspecified as i32,
                kind: 0,
                key: String::new(),
                revision: 0,
                reason: format!("{rest} more are not listed"),
            });
        }
        listed
    }
}

fn stored(item: &Item) -> Stored {
    Stored { revision: item.revision, value: item.value.clone(), cause: item.cause }
}

fn exception_type(why: Why) -> wire::exception::Type {
    match why {
        Why::Rejected => wire::exception::Type::Rejected,
        Why::Held => wire::exception::Type::Held,
        Why::Unsupported => wire::exception::Type::Unsupported,
        Why::Waiting(_) => wire::exception::Type::Waiting,
    }
}

/// A reason may quote what was sent; it must not make an Ack grow without bound.
fn shortened(reason: &str) -> String {
    if reason.len() <= REASON_BYTES {
        return reason.to_owned();
    }
    let end = (0..=REASON_BYTES).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", reason.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests;
