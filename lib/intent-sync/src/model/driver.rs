//! Steps, and what must hold after each.

mod commits;
mod rules;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hosting_intent::{Audience, AudienceError, Bytes, Digest, Key, Kind};
use hosting_proto::feed as wire;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use wire::down::Frame;
use wire::{Down, Up};

use super::parts::{Fault, ModelJournal, ModelReplica, Pipe};
use super::{Change, ModelStore};
use crate::publisher::{Limits, Session};
use crate::subscriber::{Brake, Config, Policy, SessionEnd, Subscriber};
use crate::{SourceError, release};

/// The audiences of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Which {
    EdgeA,
    EdgeB,
    NodeN,
}

impl Which {
    fn audience(self) -> Result<Audience, String> {
        match self {
            Self::EdgeA => Audience::edge("a"),
            Self::EdgeB => Audience::edge("b"),
            Self::NodeN => Audience::node("n"),
        }
        .map_err(said)
    }
}

fn said(error: AudienceError) -> String {
    error.to_string()
}

const AUDIENCES: [Which; 3] = [Which::EdgeA, Which::EdgeB, Which::NodeN];
/// The first audience has two subscribers.
const SUBSCRIBERS: [Which; 4] = [Which::EdgeA, Which::EdgeA, Which::EdgeB, Which::NodeN];
const BRAKE: Brake = Brake { percent: 20, items: 3, window: Duration::from_secs(60) };

/// An invariant was broken. Shows how to see it again.
#[derive(Debug)]
pub struct Failure {
    /// Of the run.
    pub seed: u64,
    /// Which rule, by whom.
    pub problem: String,
    /// Everything that was done.
    pub steps: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.problem)?;
        self.steps.iter().enumerate().try_for_each(|(n, step)| writeln!(f, "  {n:4} {step}"))
    }
}

impl std::error::Error for Failure {}

/// What a run really did, so that a test can tell that it did enough.
#[derive(Debug, Clone, Copy, Default)]
pub struct Summary {
    /// Snapshots put into effect.
    pub snapshots: u64,
    /// Revisions taken from the log.
    pub deltas: u64,
    /// Sessions resumed without a snapshot.
    pub resumed: u64,
    /// Items rejected.
    pub rejected: u64,
    /// Changes held by the brake.
    pub held: u64,
    /// Changes that waited for a rollout.
    pub waited: u64,
    /// Digest mismatches found.
    pub digest_mismatches: u64,
    /// Gaps found.
    pub gaps: u64,
    /// Crashes survived.
    pub crashes: u64,
    /// Epochs begun.
    pub epochs: u64,
    /// Ledger writes that failed.
    pub ledger_failures: u64,
    /// Snapshots cut off before their end.
    pub cut_snapshots: u64,
}

type View = BTreeMap<Key, Bytes>;
/// What the reference had at (audience, epoch, revision).
type History = HashMap<(Which, String, u64), Arc<View>>;

struct Connection {
    session: Session,
    down: Pipe,
    up: Pipe,
    in_snapshot: bool,
}

struct Node<P: Policy> {
    audience: Which,
    name: String,
    journal: ModelJournal,
    replica: ModelReplica,
    subscriber: Subscriber<ModelJournal, ModelReplica, P>,
    connection: Option<Connection>,
    /// What it has comes from a history that a restore undid; it cannot know before the digest tells it.
    undone: bool,
    /// The same of its disk.
    disk_undone: bool,
    disk_syncs: u64,
    /// What was in effect when the disk was last written.
    disk_view: BTreeMap<Key, (u64, Bytes)>,
    /// Epoch → highest (applied, durable) ever said.
    acked: BTreeMap<String, (u64, u64)>,
    /// The exceptions that the controller of this session was told of.
    told: Option<Vec<(u32, String, u64)>>,
    snapshots: u64,
}

struct Saved<B> {
    store: B,
    reference: BTreeMap<Which, View>,
    heads: BTreeMap<Which, (String, u64)>,
    history: History,
}

struct Driver<'s, S: ModelStore, P: Policy> {
    store: &'s S,
    rng: StdRng,
    now: Instant,
    steps: Vec<String>,
    reference: BTreeMap<Which, View>,
    history: History,
    /// Every value that a key ever had.
    ever: BTreeMap<(Which, Key), BTreeSet<Bytes>>,
    saved: Vec<Saved<S::Backup>>,
    nodes: Vec<Node<P>>,
    mark: u64,
    /// Rollouts that began.
    rollouts: Vec<u64>,
    summary: Summary,
    epochs: BTreeSet<String>,
}

/// Drives `store`, which must be new, through `steps` random steps from `seed`, then lets everything settle.
///
/// # Errors
/// The first invariant that does not hold.
pub async fn run<S: ModelStore, P: Policy>(
    store: &S,
    seed: u64,
    steps: usize,
) -> Result<Summary, Box<Failure>> {
    let mut driver = match Driver::<S, P>::new(store, seed) {
        Ok(driver) => driver,
        Err(problem) => return Err(Box::new(Failure { seed, problem, steps: Vec::new() })),
    };
    match driver.drive(steps).await {
        Ok(()) => Ok(driver.summary),
        Err(problem) => Err(Box::new(Failure { seed, problem, steps: driver.steps })),
    }
}

fn config(audience: Audience) -> Config {
    Config { audience, build: "model".to_owned(), kinds: vec![Kind::Route, Kind::TenantState], brake: BRAKE }
}

/// Two controllers, which cut the same things into different pieces.
fn limits(controller: usize) -> Limits {
    let (frame_bytes, page_items, window_changes) =
        if controller == 0 { (150, 2, 2) } else { (4_096, 5, 100) };
    Limits {
        frame_bytes,
        page_items,
        window_changes,
        bookmark_every: Duration::from_secs(20),
        snapshots: 4,
        ..Limits::default()
    }
}

fn failed(error: SourceError) -> String {
    format!("the store failed: {error}")
}

impl<'s, S: ModelStore, P: Policy> Driver<'s, S, P> {
    fn new(store: &'s S, seed: u64) -> Result<Self, String> {
        let mut nodes = Vec::new();
        for (n, audience) in SUBSCRIBERS.into_iter().enumerate() {
            let (journal, replica) = (ModelJournal::default(), ModelReplica::default());
            let subscriber = Subscriber::open(config(audience.audience()?), journal.clone(), replica.clone())
                .map_err(|error| error.to_string())?;
            nodes.push(Node {
                audience,
                name: format!("subscriber {n} ({audience:?})"),
                journal,
                replica,
                subscriber,
                connection: None,
                undone: false,
                disk_undone: false,
                disk_syncs: 0,
                disk_view: BTreeMap::new(),
                acked: BTreeMap::new(),
                told: None,
                snapshots: 0,
            });
        }
        Ok(Self {
            store,
            rng: StdRng::seed_from_u64(seed),
            now: Instant::now(),
            steps: Vec::new(),
            reference: AUDIENCES.into_iter().map(|audience| (audience, View::new())).collect(),
            history: History::new(),
            ever: BTreeMap::new(),
            saved: Vec::new(),
            nodes,
            mark: 0,
            rollouts: Vec::new(),
            summary: Summary::default(),
            epochs: BTreeSet::new(),
        })
    }

    async fn drive(&mut self, steps: usize) -> Result<(), String> {
        self.note_heads().await?;
        for _ in 0..steps {
            self.now += Duration::from_millis(self.rng.random_range(0..5_000));
            self.step().await?;
            self.check_all()?;
        }
        self.settle().await
    }

    fn log(&mut self, step: impl Into<String>) {
        self.steps.push(step.into());
    }

    async fn step(&mut self) -> Result<(), String> {
        let node = self.rng.random_range(0..self.nodes.len());
        match self.rng.random_range(0..106) {
            0..18 => self.commit().await,
            18..21 => self.move_item().await,
            21..24 => self.recreate().await,
            24..26 => self.clear().await,
            26..28 => self.compact().await,
            28..30 => self.back_up().await,
            30..32 => self.put_back().await,
            32..40 => {
                // Mostly the first; else the subscriber goes to the other controller.
                if self.node(node)?.connection.is_none() || self.rng.random_bool(0.2) {
                    self.connect(node).await?;
                }
                Ok(())
            }
            40..48 => self.poll(node, true).await,
            48..54 => self.deliver(node, false),
            54..84 => {
                for _ in 0..self.rng.random_range(1..6) {
                    self.poll(node, true).await?;
                }
                self.deliver(node, true)
            }
            84..88 => self.hear(node),
            88..93 => {
                self.flush(node);
                Ok(())
            }
            93..95 => self.cut(node),
            95..97 => self.crash(node),
            97..99 => {
                self.fill_disk(node);
                Ok(())
            }
            99..100 => {
                self.release(node);
                Ok(())
            }
            _ => {
                self.say_rollouts(node);
                Ok(())
            }
        }
    }

    // ---- the connection ----

    fn node(&mut self, node: usize) -> Result<&mut Node<P>, String> {
        self.nodes.get_mut(node).ok_or_else(|| "no such subscriber".to_owned())
    }

    async fn connect(&mut self, node: usize) -> Result<(), String> {
        let controller = self.rng.random_range(0..2);
        self.log(format!("connect {node} to controller {controller}"));
        self.disconnect(node);
        self.node(node)?.told = None;
        self.node(node)?.replica.live().told = None;
        let hello = match self.node(node)?.subscriber.hello().frame {
            Some(wire::up::Frame::Hello(hello)) => hello,
            other => return Err(format!("not a Hello: {other:?}")),
        };
        let (session, frames) = Session::open(
            self.store,
            hello.audience.parse().map_err(said)?,
            hello.cursor.as_ref(),
            limits(controller),
        )
        .await
        .map_err(failed)?;
        self.note_heads().await?;
        let mut connection =
            Connection { session, down: Pipe::default(), up: Pipe::default(), in_snapshot: false };
        frames.iter().for_each(|frame| connection.down.send(frame));
        self.node(node)?.connection = Some(connection);
        Ok(())
    }

    fn disconnect(&mut self, node: usize) {
        if let Some(node) = self.nodes.get_mut(node) {
            if node.connection.take().is_some_and(|connection| connection.in_snapshot) {
                self.summary.cut_snapshots += 1;
            }
            node.subscriber.disconnected();
        }
    }

    /// The connection breaks after any byte.
    fn cut(&mut self, node: usize) -> Result<(), String> {
        self.log(format!("cut {node}"));
        self.deliver(node, false)?;
        self.disconnect(node);
        Ok(())
    }

    async fn poll(&mut self, node: usize, faults: bool) -> Result<(), String> {
        let (store, now) = (self.store, self.now);
        let Some(connection) = &mut self.node(node)?.connection else { return Ok(()) };
        let frames = connection.session.poll(store, now).await.map_err(failed)?;
        let frames = if faults { self.disturb(frames) } else { frames };
        self.log(format!("poll {node}: {}", frames.iter().map(name_of).collect::<Vec<_>>().join(", ")));
        if let Some(connection) = &mut self.node(node)?.connection {
            frames.iter().for_each(|frame| connection.down.send(frame));
        }
        self.note_heads().await
    }

    /// A ring of shared frames that loses, doubles or exchanges whole revisions.
    fn disturb(&mut self, frames: Vec<Down>) -> Vec<Down> {
        let mut revisions: Vec<Vec<Down>> = Vec::new();
        let mut last = None;
        for frame in frames {
            let revision = match &frame.frame {
                Some(Frame::Delta(delta)) => Some(delta.revision),
                _ => None,
            };
            match revisions.last_mut() {
                Some(group) if revision.is_some() && revision == last => group.push(frame),
                _ => revisions.push(vec![frame]),
            }
            last = revision;
        }
        let is_delta =
            |group: &Vec<Down>| matches!(group.first(), Some(Down { frame: Some(Frame::Delta(_)) }));
        let deltas: Vec<usize> =
            revisions.iter().enumerate().filter(|(_, group)| is_delta(group)).map(|(n, _)| n).collect();
        if let Some(at) = deltas.choose(&mut self.rng).copied()
            && self.rng.random_bool(0.15)
        {
            match self.rng.random_range(0..3) {
                0 => {
                    self.log("  a revision is lost");
                    revisions.remove(at);
                }
                1 => {
                    self.log("  a revision comes twice");
                    if let Some(again) = revisions.get(at).cloned() {
                        revisions.insert(at, again);
                    }
                }
                _ => {
                    self.log("  two change places");
                    revisions.swap(at, at.saturating_sub(1));
                }
            }
        }
        revisions.into_iter().flatten().collect()
    }

    fn deliver(&mut self, node: usize, all: bool) -> Result<(), String> {
        let now = self.now;
        let Some(connection) = &mut self.nodes.get_mut(node).and_then(|node| node.connection.as_mut()) else {
            return Ok(());
        };
        let under_way = connection.down.under_way();
        let count = if all { under_way } else { self.rng.random_range(0..=under_way) };
        let frames: Vec<Down> = connection.down.arrive(count).map_err(|error| error.to_string())?;
        self.log(format!("deliver {count} of {under_way} bytes to {node}"));
        for frame in frames {
            let name = name_of(&frame);
            self.log(format!("  {node} gets {name}"));
            let in_snapshot = match &frame.frame {
                Some(Frame::SnapshotBegin(_)) => Some(true),
                Some(Frame::SnapshotEnd(_)) => Some(false),
                _ => None,
            };
            let target = self.node(node)?;
            if let Some(Frame::Rollouts(said)) = &frame.frame {
                target.replica.live().told = Some(said.clone());
            }
            let waited = target.subscriber.status().waiting;
            let before = target.subscriber.status().counters;
            let outcome = target.subscriber.on_frame(frame, now);
            if let (Some(connection), Some(in_snapshot)) = (&mut target.connection, in_snapshot) {
                connection.in_snapshot = in_snapshot;
            }
            let after = target.subscriber.status().counters;
            let waits = target.subscriber.status().waiting.saturating_sub(waited);
            if after.snapshots > target.snapshots {
                target.snapshots = after.snapshots;
                target.undone = false;
            }
            self.summary.snapshots += after.snapshots - before.snapshots;
            self.summary.deltas += after.deltas - before.deltas;
            self.summary.resumed += after.resumed - before.resumed;
            self.summary.rejected += after.rejected - before.rejected;
            self.summary.held += after.held - before.held;
            self.summary.digest_mismatches += after.digest_mismatches - before.digest_mismatches;
            self.summary.gaps += after.gaps - before.gaps;
            self.summary.waited += waits;
            self.check(node)?;
            match outcome {
                Ok(ups) => {
                    for up in ups {
                        self.say(node, up)?;
                    }
                    if self.rng.random_bool(0.5)
                        && let Some(ack) = self.node(node)?.subscriber.take_ack()
                    {
                        self.say(node, ack)?;
                    }
                }
                Err(end) => {
                    self.log(format!("  {node}: {end}"));
                    match end {
                        SessionEnd::GoAway { .. } | SessionEnd::Unsound(_) => self.disconnect(node),
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    /// What a subscriber says must be true when it says it.
    fn say(&mut self, node: usize, up: Up) -> Result<(), String> {
        let node = self.node(node)?;
        if let Some(wire::up::Frame::Ack(ack)) = &up.frame {
            let status = node.subscriber.status();
            let position =
                status.position.map(|position| (position.epoch, position.revision)).unwrap_or_default();
            if position != (ack.epoch.clone(), ack.applied) {
                return Err(format!("{} says applied {} and is at {position:?}", node.name, ack.applied));
            }
            let disk = node.journal.disk();
            let on_disk = disk
                .stored
                .as_ref()
                .filter(|(meta, _)| meta.epoch == ack.epoch)
                .map_or(0, |(m, _)| m.revision);
            if ack.durable > on_disk {
                return Err(format!("{} says durable {}, the disk has {on_disk}", node.name, ack.durable));
            }
            drop(disk);
            let (applied, durable) = node.acked.entry(ack.epoch.clone()).or_default();
            if ack.applied < *applied || ack.durable < *durable {
                return Err(format!(
                    "{} goes back in {}: applied {} after {applied}, durable {} after {durable}",
                    node.name, ack.epoch, ack.applied, ack.durable
                ));
            }
            (*applied, *durable) = (ack.applied, ack.durable);
            if ack.has_exceptions {
                // What waits for a rollout is one line for all of it.
                let told = ack.exceptions.iter().filter(|e| e.r#type() != wire::exception::Type::Waiting);
                node.told = Some(told.map(|e| (e.kind, e.key.clone(), e.revision)).collect());
            }
            let real: Vec<_> = node
                .subscriber
                .exceptions()
                .map(|(key, q)| (key.kind, key.name.clone(), q.revision))
                .collect();
            if node.told.as_ref() != Some(&real) {
                return Err(format!("{} has told {:?} and has {real:?}", node.name, node.told));
            }
        }
        if let Some(connection) = &mut node.connection {
            connection.up.send(&up);
        }
        Ok(())
    }

    /// The controller hears what was said.
    fn hear(&mut self, node: usize) -> Result<(), String> {
        let node = self.node(node)?;
        let Some(connection) = &mut node.connection else { return Ok(()) };
        let ups: Vec<Up> = connection.up.arrive(usize::MAX).map_err(|error| error.to_string())?;
        for up in ups {
            connection.session.on_up(up).map_err(|error| format!("{}: {error}", node.name))?;
        }
        Ok(())
    }

    fn release(&mut self, node: usize) {
        self.log(format!("release {node}"));
        if let Some(connection) = self.nodes.get_mut(node).and_then(|node| node.connection.as_mut()) {
            connection.down.send(&release("model"));
        }
    }

    /// The controller says which rollouts have come to a subscriber; one may be taken back.
    fn say_rollouts(&mut self, node: usize) {
        let upto = if self.rng.random_bool(0.7) { self.mark } else { self.rng.random_range(0..=self.mark) };
        let mut held = self.rollouts.clone();
        held.retain(|rollout| *rollout <= upto && self.rng.random_bool(0.5));
        self.send_rollouts(node, wire::Rollouts { upto, held, watched: false });
    }

    fn send_rollouts(&mut self, node: usize, said: wire::Rollouts) {
        if let Some(connection) = self.nodes.get_mut(node).and_then(|node| node.connection.as_mut()) {
            connection.down.send(&crate::rollouts(said));
        }
    }

    // ---- the machine ----

    fn flush(&mut self, node: usize) {
        let now = self.now;
        self.log(format!("flush {node}"));
        let Some(node) = self.nodes.get_mut(node) else { return };
        let failures = node.subscriber.status().counters.ledger_failures;
        node.subscriber.flush(now);
        self.summary.ledger_failures += node.subscriber.status().counters.ledger_failures - failures;
        node.look_at_disk();
    }

    fn fill_disk(&mut self, node: usize) {
        let Some(target) = self.nodes.get_mut(node) else { return };
        let mut disk = target.journal.disk();
        disk.fault = if disk.fault == Fault::Full { Fault::None } else { Fault::Full };
        let text = format!("disk of {node}: {:?}", disk.fault);
        drop(disk);
        self.log(text);
    }

    fn crash(&mut self, node: usize) -> Result<(), String> {
        let fault = [Fault::None, Fault::BeforeSync, Fault::AfterSync]
            .choose(&mut self.rng)
            .copied()
            .unwrap_or_default();
        let now = self.now + Duration::from_secs(60);
        self.log(format!("crash {node}, {fault:?}"));
        self.summary.crashes += 1;
        self.disconnect(node);
        let node = self.node(node)?;
        if fault != Fault::None {
            node.journal.disk().fault = fault;
            node.subscriber.flush(now);
            node.look_at_disk();
        }
        node.journal.disk().fault = Fault::None;
        node.replica = ModelReplica::default();
        node.subscriber =
            Subscriber::open(config(node.audience.audience()?), node.journal.clone(), node.replica.clone())
                .map_err(|error| error.to_string())?;
        node.snapshots = 0;
        node.undone = node.disk_undone;
        // What was only in memory is lost; what was called durable is not.
        node.acked.values_mut().for_each(|(applied, durable)| *applied = *durable);
        if node.replica.live().view != node.disk_view {
            return Err(format!("{} started with something else than it had on disk", node.name));
        }
        if node.replica.live().published > 1 {
            return Err(format!("{} took a piece of what it had on disk for all of it", node.name));
        }
        Ok(())
    }
}

impl<P: Policy> Node<P> {
    /// After a write: what a start from this disk must show.
    fn look_at_disk(&mut self) {
        let syncs = self.journal.disk().syncs;
        if syncs != self.disk_syncs {
            self.disk_syncs = syncs;
            self.disk_view = self.replica.live().view.clone();
            self.disk_undone = self.undone;
        }
    }
}

fn sums(view: &View) -> (u64, Digest) {
    let mut digest = Digest::EMPTY;
    for (key, value) in view {
        digest.add(key, value);
    }
    (view.len() as u64, digest)
}

fn name_of(frame: &Down) -> String {
    match &frame.frame {
        None => "nothing".to_owned(),
        Some(Frame::Welcome(f)) => format!("welcome {} {}", f.epoch, f.head),
        Some(Frame::SnapshotBegin(f)) => format!("begin {} {}", f.epoch, f.base),
        Some(Frame::SnapshotItems(f)) => format!("items {}", f.items.len()),
        Some(Frame::SnapshotEnd(f)) => format!("end {}", f.revision),
        Some(Frame::Delta(f)) => {
            let more = if f.more { " …" } else { "" };
            format!("delta {}→{} +{} -{}{more}", f.prev, f.revision, f.upserts.len(), f.removals.len())
        }
        Some(Frame::Bookmark(f)) => format!("bookmark {}", f.revision),
        Some(Frame::GoAway(f)) => format!("go away: {}", f.reason),
        Some(Frame::Release(_)) => "release".to_owned(),
        Some(Frame::Rollouts(f)) => format!("rollouts upto {} but {:?}", f.upto, f.held),
    }
}
