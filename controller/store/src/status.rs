//! What the fleet says: watermarks, exceptions, reports. Gates read it; it is part of no revision.
//!
//! A node writes here only by way of the feed, which has checked who it is. How much it may write is bounded here.

mod read;

use std::collections::{BTreeMap, BTreeSet};

use hosting_intent::{Audience, Key};
use hosting_proto::feed::key_report::Phase;
use hosting_proto::feed::{self, KeyReport, ReportRequest, ReportedKey};

use crate::error::{to_bound, to_sql};
use crate::read_tx::audience;
use crate::sql::{self, QueryBuilder};
use crate::{FleetOrder, ReportChange, Store, StoreError, WriteTx, batch};

/// Rows written in one go: mutations wait that long.
const CHUNK: usize = 500;
/// Most exceptions of one subscriber in one audience; a view with more is broken in a way that the first ones tell.
const MAX_EXCEPTIONS: usize = 10_000;
/// Longest reason or message that is kept, in bytes.
const MAX_TEXT: usize = 1_024;
/// Longest key that a node may report, in bytes.
const MAX_KEY: usize = 1_024;
/// Most keys of one node that it reports without having been told of them: data that lies there and nobody wants.
const MAX_STRAYS: usize = 10_000;

/// How far a subscriber is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watermark {
    /// Node id.
    pub node: String,
    /// Audience.
    pub audience: Audience,
    /// The epoch that the revisions are of.
    pub epoch: String,
    /// Highest revision in effect.
    pub applied: u64,
    /// Highest revision on its disk.
    pub durable: u64,
    /// When it was last heard of before the flush, milliseconds since the Unix epoch.
    pub seen_at: i64,
    /// The controller that it was connected to last; empty for rows of older builds. What is saved names the store's own.
    pub controller: String,
    /// Whether it is connected to that one.
    pub connected: bool,
    /// Whether it is in service, as far as that one knows.
    pub in_service: bool,
    /// Build that said Hello.
    pub build: String,
    /// What it found when it asked its own listeners, an encoded `hosting.feed.v1.Served`; empty: it does not ask.
    pub served: Vec<u8>,
}

/// An item that a subscriber does not apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExceptionRow {
    /// Node id.
    pub node: String,
    /// Audience.
    pub audience: Audience,
    /// Rejected, held or unsupported; unspecified for a type of a newer build.
    pub kind: feed::exception::Type,
    /// The item.
    pub key: Key,
    /// The item's revision.
    pub revision: u64,
    /// Why, in the subscriber's words.
    pub reason: String,
}

/// What a node sees of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportRow {
    /// Node id.
    pub node: String,
    /// The item.
    pub key: Key,
    /// Where it stands; unspecified for a phase of a newer build.
    pub phase: Phase,
    /// Revision of the intent item it speaks of; 0 for an orphan.
    pub revision: u64,
    /// In the node's words.
    pub message: String,
    /// Milliseconds since the Unix epoch.
    pub updated_at: i64,
}

/// A node's last pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePass {
    /// The intent revision it worked from.
    pub revision: u64,
    /// When its report came, milliseconds since the Unix epoch.
    pub updated_at: i64,
}

/// What was known of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forgotten {
    /// Audiences it subscribed to.
    pub audiences: u64,
    /// Items it did not apply.
    pub exceptions: u64,
    /// Keys it reported: data that may still lie there.
    pub reports: u64,
}

/// A range of keys, by kind and then by the bytes of their name. It holds at least one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRange {
    after: Option<Key>,
    upto: Option<Key>,
}

impl KeyRange {
    /// What a report is all of: keys of that range that it leaves out are gone.
    #[must_use]
    pub fn of(report: &ReportRequest) -> Option<Self> {
        if report.full {
            return Some(Self::default());
        }
        let range = report.all_of.as_ref()?;
        let key = |key: &ReportedKey| Key { kind: key.kind, name: key.key.clone() };
        let range = Self { after: range.after.as_ref().map(key), upto: range.upto.as_ref().map(key) };
        // One that ends before it begins holds nothing.
        range
            .after
            .as_ref()
            .zip(range.upto.as_ref())
            .is_none_or(|(after, upto)| after < upto)
            .then_some(range)
    }

    /// The key before the range; `None`: it begins with the first key.
    #[must_use]
    pub fn after(&self) -> Option<&Key> {
        self.after.as_ref()
    }

    /// The last key of the range; `None`: it ends with the last key.
    #[must_use]
    pub fn upto(&self) -> Option<&Key> {
        self.upto.as_ref()
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.after.is_none() && self.upto.is_none()
    }

    /// Whether a key lies in it.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        self.after.as_ref().is_none_or(|after| after < key)
            && self.upto.as_ref().is_none_or(|upto| key <= upto)
    }

    pub(crate) const fn between(after: Option<Key>, upto: Option<Key>) -> Self {
        Self { after, upto }
    }

    /// The bounds as SQL compares them: `(kind, key) > (?, ?) AND (kind, key) <= (?, ?)`. No kind is beyond `u32`.
    fn bounds(&self) -> ((i64, &str), (i64, &str)) {
        let bound = |key: &'_ Key| i64::from(key.kind);
        (
            self.after.as_ref().map_or((-1, ""), |key| (bound(key), key.name.as_str())),
            self.upto.as_ref().map_or((i64::MAX, ""), |key| (bound(key), key.name.as_str())),
        )
    }
}

/// What of a node's report is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeReport {
    /// The intent revision that the pass worked from.
    pub revision: u64,
    /// Keys of this range that `reports` leaves out are gone; `None`: those that are left out stay as they were.
    pub all_of: Option<KeyRange>,
    /// What the node sees.
    pub reports: Vec<KeyReport>,
    /// Keys of which there is nothing to say any more, unless they are in `reports`.
    pub gone: Vec<Key>,
}

impl Store {
    /// Writes subscribers' positions, all of them in one go; of several for one subscriber the last counts. One that is connected to
    /// another controller by now stays as that one says, unless it is claimed because it has just come here.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn save_watermarks(&self, watermarks: &[Watermark], claim: bool) -> Result<(), StoreError> {
        for chunk in watermarks.chunks(CHUNK) {
            let chunk = chunk.to_vec();
            self.status_write(move |tx| Box::pin(async move { write_watermarks(tx, &chunk, claim).await }))
                .await?;
        }
        Ok(())
    }

    /// Tells the sessions of other controllers something. This one's are told by its own fleet.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn order(&self, order: FleetOrder) -> Result<(), StoreError> {
        self.status_write(move |tx| {
            Box::pin(async move {
                tx.fleet().orders.push(order);
                Ok(())
            })
        })
        .await
    }

    /// Replaces what a subscriber does not apply of an audience. Beyond 10 000 the rest is dropped.
    ///
    /// # Errors
    /// When the store fails; the former set stays.
    pub async fn set_exceptions(
        &self,
        node: &str,
        audience: &Audience,
        all: &[feed::Exception],
    ) -> Result<(), StoreError> {
        if all.len() > MAX_EXCEPTIONS {
            tracing::warn!(node, %audience, count = all.len(), "more exceptions than are kept");
        }
        let (node, audience) = (node.to_owned(), audience.clone());
        let all: Vec<_> = all.iter().filter(|one| is_fit(&one.key)).take(MAX_EXCEPTIONS).cloned().collect();
        self.status_write(move |tx| {
            Box::pin(async move { write_exceptions(tx, &node, &audience, &all).await })
        })
        .await
    }

    /// Keeps a node's report, and answers the keys of which it says something else than before. Written in chunks: other writes go in
    /// between.
    ///
    /// # Errors
    /// When the store fails; part of the report may be written then, and the node's next one heals it.
    pub async fn save_reports(&self, node: &str, report: NodeReport) -> Result<ReportChange, StoreError> {
        let mut changed = BTreeSet::new();
        let mut begun = None;
        for part in Part::of(&report) {
            let (name, revision) = (node.to_owned(), report.revision);
            let written = self
                .status_write(move |tx| {
                    Box::pin(async move {
                        let pass = match begun {
                            None => begin_pass(tx, &name, revision).await?,
                            Some(pass) if is_last_pass(tx, &name, pass).await? => pass,
                            // The node says everything anew, by way of another controller.
                            Some(_) => return Ok(None),
                        };
                        let changed = write_part(tx, &name, &part).await?;
                        tx.fleet().report(name, ReportChange::of(changed.iter().cloned()));
                        Ok(Some((pass, changed)))
                    })
                })
                .await?;
            let Some((pass, keys)) = written else { break };
            begun = Some(pass);
            changed.extend(keys);
        }
        Ok(ReportChange::of(changed.into_iter()))
    }
}

/// A part of a report that is written in one go.
#[derive(Debug, Default)]
struct Part {
    reports: BTreeMap<Key, KeyReport>,
    /// What lies here and is not among the reports is gone.
    range: Option<KeyRange>,
    /// So are these.
    gone: Vec<Key>,
}

impl Part {
    /// At least one.
    fn of(report: &NodeReport) -> Vec<Self> {
        let fit = report.reports.iter().filter(|one| is_fit(&one.key));
        let all: BTreeMap<Key, KeyReport> =
            fit.map(|one| (Key { kind: one.kind, name: one.key.clone() }, one.clone())).collect();
        let (inside, outside): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|(key, _)| report.all_of.as_ref().is_some_and(|range| range.holds(key)));
        let mut parts = Vec::new();
        if let Some(range) = &report.all_of {
            let mut after = range.after().cloned();
            let mut chunks = inside.chunks(CHUNK).peekable();
            loop {
                let chunk = chunks.next().unwrap_or_default();
                let last = chunks.peek().is_none();
                let upto = if last { range.upto() } else { chunk.last().map(|(key, _)| key) };
                let range = Some(KeyRange::between(after, upto.cloned()));
                after = upto.cloned();
                parts.push(Self { reports: chunk.iter().cloned().collect(), range, gone: Vec::new() });
                if last {
                    break;
                }
            }
        }
        let others = outside.chunks(CHUNK);
        parts
            .extend(others.map(|chunk| Self { reports: chunk.iter().cloned().collect(), ..Self::default() }));
        if parts.is_empty() {
            parts.push(Self::default());
        }
        if let Some(first) = parts.first_mut() {
            let gone = report.gone.iter().filter(|key| is_fit(&key.name));
            let said = |key: &&Key| inside.iter().chain(&outside).all(|(said, _)| said != *key);
            first.gone = gone.filter(said).cloned().collect();
        }
        parts
    }
}

/// What becomes of a row that is there when its subscriber is claimed.
const WATERMARK_CLAIMED: &str = "ON CONFLICT (node, audience) DO UPDATE SET epoch = excluded.epoch, \
     applied = excluded.applied, durable = excluded.durable, seen_at = excluded.seen_at, controller = excluded.controller, \
     connected = excluded.connected, in_service = excluded.in_service, build = excluded.build, served = excluded.served";
/// And when it is not: another controller's row stays.
const WATERMARK_KEPT: &str = "ON CONFLICT (node, audience) DO UPDATE SET epoch = excluded.epoch, \
     applied = excluded.applied, durable = excluded.durable, seen_at = excluded.seen_at, connected = excluded.connected, \
     in_service = excluded.in_service, build = excluded.build, served = excluded.served WHERE subscribers.controller = excluded.controller";

async fn write_watermarks(tx: &mut WriteTx, watermarks: &[Watermark], claim: bool) -> Result<(), StoreError> {
    // One statement may not write a row twice.
    let last: BTreeMap<(&str, String), &Watermark> =
        watermarks.iter().map(|mark| ((mark.node.as_str(), mark.audience.to_string()), mark)).collect();
    let mut rows = Vec::new();
    for ((_, audience), mark) in last {
        tx.fleet().subscribers.insert((mark.audience.clone(), mark.node.clone()));
        rows.push((mark, audience, to_sql("applied", mark.applied)?, to_sql("durable", mark.durable)?));
    }
    let me = tx.controller().to_owned();
    let tail = if claim { WATERMARK_CLAIMED } else { WATERMARK_KEPT };
    batch::insert(
        tx.beside(),
        "INSERT INTO subscribers (node, audience, epoch, applied, durable, seen_at, controller, connected, in_service, build, served)",
        tail,
        &rows,
        |row, (mark, audience, applied, durable)| {
            row.push_bind(&mark.node).push_bind(audience).push_bind(&mark.epoch);
            row.push_bind(*applied).push_bind(*durable).push_bind(mark.seen_at);
            row.push_bind(&me).push_bind(mark.connected).push_bind(mark.in_service).push_bind(&mark.build);
            row.push_bind(mark.served.as_slice());
        },
    )
    .await?;
    Ok(())
}

async fn write_exceptions(
    tx: &mut WriteTx,
    node: &str,
    audience: &Audience,
    all: &[feed::Exception],
) -> Result<(), StoreError> {
    tx.fleet().subscribers.insert((audience.clone(), node.to_owned()));
    let query = sql::query("DELETE FROM exceptions WHERE node = ? AND audience = ?");
    tx.execute(query.bind(node).bind(audience.to_string())).await?;
    let last: BTreeMap<_, _> = all.iter().map(|one| ((one.kind, &one.key, one.r#type), one)).collect();
    let rows: Vec<&feed::Exception> = last.into_values().collect();
    batch::insert(
        tx.beside(),
        "INSERT INTO exceptions (node, audience, type, kind, key, revision, reason)",
        "",
        &rows,
        |row, one| {
            row.push_bind(node).push_bind(audience.to_string()).push_bind(one.r#type).push_bind(one.kind);
            row.push_bind(&one.key).push_bind(to_bound(one.revision)).push_bind(shorten(&one.reason));
        },
    )
    .await?;
    Ok(())
}

async fn begin_pass(tx: &mut WriteTx, node: &str, revision: u64) -> Result<i64, StoreError> {
    let query = sql::query(
        "INSERT INTO report_passes (node, revision, pass, updated_at) VALUES (?, ?, 1, ?) \
         ON CONFLICT (node) DO UPDATE SET revision = excluded.revision, pass = report_passes.pass + 1, \
         updated_at = excluded.updated_at RETURNING pass",
    )
    .bind(node)
    .bind(to_bound(revision))
    .bind(hosting_planner::Draft::now(tx));
    let row = tx.optional(query).await?.ok_or_else(|| StoreError::row("report_passes"))?;
    row.try_get(0)
}

async fn is_last_pass(tx: &mut WriteTx, node: &str, pass: i64) -> Result<bool, StoreError> {
    let query = sql::query("SELECT pass FROM report_passes WHERE node = ?").bind(node);
    let row = tx.optional(query).await?;
    Ok(row.map(|row| row.try_get::<i64>(0)).transpose()? == Some(pass))
}

/// Writes what differs from what is there, and answers the keys.
async fn write_part(tx: &mut WriteTx, node: &str, part: &Part) -> Result<BTreeSet<Key>, StoreError> {
    let mut there = reported(tx, node, part).await?;
    let mut rows = Vec::new();
    for (key, one) in &part.reports {
        let said = (one.phase, to_bound(one.revision), shorten(&one.message));
        if there.remove(key).as_ref() != Some(&said) {
            rows.push((key, said));
        }
    }
    let gone: Vec<Key> = there.into_keys().collect();
    for keys in batch::chunks(&gone) {
        let mut sql = QueryBuilder::new("DELETE FROM reports");
        any_key(&mut sql, "node", node, keys);
        tx.execute(sql.build()).await?;
    }
    let now = hosting_planner::Draft::now(tx);
    batch::insert(
        tx.beside(),
        "INSERT INTO reports (node, kind, key, phase, revision, message, updated_at)",
        "ON CONFLICT (node, kind, key) DO UPDATE SET phase = excluded.phase, revision = excluded.revision, \
         message = excluded.message, updated_at = excluded.updated_at",
        &rows,
        |row, (key, (phase, revision, message))| {
            row.push_bind(node).push_bind(key.kind).push_bind(&key.name);
            row.push_bind(*phase).push_bind(*revision).push_bind(message).push_bind(now);
        },
    )
    .await?;
    Ok(gone.into_iter().chain(rows.into_iter().map(|(key, _)| key.clone())).collect())
}

/// What a node has said so far of what a part may change: phase, revision and message.
async fn reported(
    tx: &mut WriteTx,
    node: &str,
    part: &Part,
) -> Result<BTreeMap<Key, (i32, i64, String)>, StoreError> {
    let mut queries = Vec::new();
    let mut keys: Vec<Key> = part.gone.clone();
    match &part.range {
        Some(range) => {
            let ((after_kind, after), (upto_kind, upto)) = range.bounds();
            let query = sql::query(
                "SELECT kind, key, phase, revision, message FROM reports \
                 WHERE node = ? AND (kind, key) > (?, ?) AND (kind, key) <= (?, ?)",
            );
            queries.push(query.bind(node).bind(after_kind).bind(after).bind(upto_kind).bind(upto));
        }
        None => keys.extend(part.reports.keys().cloned()),
    }
    for keys in batch::chunks(&keys) {
        let mut sql = QueryBuilder::new("SELECT kind, key, phase, revision, message FROM reports");
        any_key(&mut sql, "node", node, keys);
        queries.push(sql.build());
    }
    let mut there = BTreeMap::new();
    for query in queries {
        for row in tx.all(query).await? {
            let key = Key { kind: row.try_get(0)?, name: row.try_get(1)? };
            there.insert(key, (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?));
        }
    }
    Ok(there)
}

/// ` WHERE (<column> = ? AND kind = ? AND key = ?) OR (..)`.
fn any_key(sql: &mut QueryBuilder, column: &'static str, of: &str, keys: &[Key]) {
    batch::any_of(sql, &[column, "kind", "key"], keys, |sql, key, column| {
        match column {
            0 => sql.push_bind(of),
            1 => sql.push_bind(key.kind),
            _ => sql.push_bind(&key.name),
        };
    });
}

/// What is kept of a node's words. PostgreSQL keeps no NUL in a text.
fn shorten(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default().replace('\0', "\u{fffd}")
}

/// Whether a key that a node names is kept.
fn is_fit(key: &str) -> bool {
    key.len() <= MAX_KEY && !key.contains('\0')
}

impl WriteTx {
    /// Deletes all that was known of a node: subscriptions, exceptions, reports.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn forget_node(&mut self, node: &str) -> Result<Forgotten, StoreError> {
        let delete = |sql: &'static str| sql::query(sql).bind(node.to_owned());
        let gone = self.all(delete("DELETE FROM subscribers WHERE node = ? RETURNING audience")).await?;
        for row in &gone {
            let subscriber = (audience(row.try_get(0)?)?, node.to_owned());
            self.fleet().subscribers.insert(subscriber);
        }
        self.fleet().report(node.to_owned(), ReportChange::everything());
        let forgotten = Forgotten {
            audiences: gone.len() as u64,
            exceptions: self.execute(delete("DELETE FROM exceptions WHERE node = ?")).await?,
            reports: self.execute(delete("DELETE FROM reports WHERE node = ?")).await?,
        };
        self.execute(delete("DELETE FROM report_passes WHERE node = ?")).await?;
        Ok(forgotten)
    }
}
