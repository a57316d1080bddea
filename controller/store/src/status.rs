//! What the fleet says: watermarks, exceptions, reports. Gates read it; it is part of no revision.
//!
//! A node writes here only by way of the feed, which has checked who it is. How much it may write is bounded here.

use std::collections::{BTreeMap, BTreeSet};

use hosting_intent::{Audience, Key};
use hosting_proto::feed::key_report::Phase;
use hosting_proto::feed::{self, KeyReport, ReportRequest, ReportedKey};

use crate::error::{from_sql, to_bound, to_sql};
use crate::read_tx::audience;
use crate::sql::{self, QueryBuilder, Row};
use crate::{FleetOrder, ReadTx, Store, StoreError, WriteTx, batch};

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

    fn is_everything(&self) -> bool {
        self.after.is_none() && self.upto.is_none()
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

    /// Keeps a node's report. Written in chunks: other writes go in between.
    ///
    /// # Errors
    /// When the store fails; part of the report may be written then, and the node's next one heals it.
    pub async fn save_reports(&self, node: &str, report: NodeReport) -> Result<(), StoreError> {
        let NodeReport { revision, all_of, mut reports, gone } = report;
        reports.retain(|report| is_fit(&report.key));
        // Of a report that is all of a range, what it leaves out changes too.
        let keys = all_of.is_none().then(|| {
            let said = reports.iter().map(|one| Key { kind: one.kind, name: one.key.clone() });
            said.chain(gone.iter().cloned()).collect()
        });
        let mut chunks = reports.chunks(CHUNK).map(<[_]>::to_vec).peekable();
        let (name, first) = (node.to_owned(), chunks.next().unwrap_or_default());
        // Most reports are one chunk: they are one write.
        let at_once = all_of.clone().filter(|_| chunks.peek().is_none());
        let pass = self
            .status_write(move |tx| {
                Box::pin(async move {
                    let pass = begin_pass(tx, &name, revision).await?;
                    tx.fleet().report(name.clone(), keys);
                    delete_reports(tx, &name, &gone).await?;
                    write_reports(tx, &name, pass, &first).await?;
                    if let Some(range) = at_once {
                        sweep_reports(tx, &name, pass, &range).await?;
                    }
                    Ok(pass)
                })
            })
            .await?;
        while let Some(chunk) = chunks.next() {
            let name = node.to_owned();
            let range = all_of.clone().filter(|_| chunks.peek().is_none());
            self.status_write(move |tx| {
                Box::pin(async move {
                    write_reports(tx, &name, pass, &chunk).await?;
                    tx.fleet().report(name.clone(), None);
                    match range {
                        Some(range) => sweep_reports(tx, &name, pass, &range).await,
                        None => Ok(()),
                    }
                })
            })
            .await?;
        }
        Ok(())
    }
}

/// What becomes of a row that is there when its subscriber is claimed.
const WATERMARK_CLAIMED: &str = "ON CONFLICT (node, audience) DO UPDATE SET epoch = excluded.epoch, \
     applied = excluded.applied, durable = excluded.durable, seen_at = excluded.seen_at, controller = excluded.controller, \
     connected = excluded.connected, in_service = excluded.in_service, build = excluded.build";
/// And when it is not: another controller's row stays.
const WATERMARK_KEPT: &str = "ON CONFLICT (node, audience) DO UPDATE SET epoch = excluded.epoch, \
     applied = excluded.applied, durable = excluded.durable, seen_at = excluded.seen_at, connected = excluded.connected, \
     in_service = excluded.in_service, build = excluded.build WHERE subscribers.controller = excluded.controller";

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
        tx,
        "INSERT INTO subscribers (node, audience, epoch, applied, durable, seen_at, controller, connected, in_service, build)",
        tail,
        &rows,
        |row, (mark, audience, applied, durable)| {
            row.push_bind(&mark.node).push_bind(audience).push_bind(&mark.epoch);
            row.push_bind(*applied).push_bind(*durable).push_bind(mark.seen_at);
            row.push_bind(&me).push_bind(mark.connected).push_bind(mark.in_service).push_bind(&mark.build);
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
        tx,
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

async fn write_reports(
    tx: &mut WriteTx,
    node: &str,
    pass: i64,
    reports: &[KeyReport],
) -> Result<(), StoreError> {
    let now = hosting_planner::Draft::now(tx);
    let last: BTreeMap<_, _> = reports.iter().map(|one| ((one.kind, &one.key), one)).collect();
    let rows: Vec<&KeyReport> = last.into_values().collect();
    // A pass that was overtaken by a later one has nothing to say any more.
    batch::insert(
        tx,
        "INSERT INTO reports (node, kind, key, phase, revision, message, updated_at, pass)",
        "ON CONFLICT (node, kind, key) DO UPDATE SET phase = excluded.phase, revision = excluded.revision, \
         message = excluded.message, updated_at = excluded.updated_at, pass = excluded.pass \
         WHERE reports.pass <= excluded.pass",
        &rows,
        |row, one| {
            row.push_bind(node).push_bind(one.kind).push_bind(&one.key).push_bind(one.phase);
            row.push_bind(to_bound(one.revision)).push_bind(shorten(&one.message));
            row.push_bind(now).push_bind(pass);
        },
    )
    .await?;
    Ok(())
}

async fn delete_reports(tx: &mut WriteTx, node: &str, gone: &[Key]) -> Result<(), StoreError> {
    for keys in gone.chunks(batch::CHUNK) {
        let mut sql = QueryBuilder::new("DELETE FROM reports");
        any_key(&mut sql, "node", node, keys);
        tx.execute(sql.build()).await?;
    }
    Ok(())
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

/// Deletes what lies in the range and was not written in this pass.
async fn sweep_reports(tx: &mut WriteTx, node: &str, pass: i64, range: &KeyRange) -> Result<(), StoreError> {
    let ((after_kind, after), (upto_kind, upto)) = range.bounds();
    let query = sql::query(
        "DELETE FROM reports WHERE node = ? AND pass < ? AND (kind, key) > (?, ?) AND (kind, key) <= (?, ?)",
    )
    .bind(node)
    .bind(pass)
    .bind(after_kind)
    .bind(after)
    .bind(upto_kind)
    .bind(upto);
    tx.execute(query).await?;
    Ok(())
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
        self.fleet().report(node.to_owned(), None);
        let forgotten = Forgotten {
            audiences: gone.len() as u64,
            exceptions: self.execute(delete("DELETE FROM exceptions WHERE node = ?")).await?,
            reports: self.execute(delete("DELETE FROM reports WHERE node = ?")).await?,
        };
        self.execute(delete("DELETE FROM report_passes WHERE node = ?")).await?;
        Ok(forgotten)
    }
}

impl ReadTx {
    /// The subscribers of an audience that were ever heard of, by node.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn watermarks(&mut self, audience: &Audience) -> Result<Vec<Watermark>, StoreError> {
        let query = sql::query(
            "SELECT node, audience, epoch, applied, durable, seen_at, controller, connected, in_service, build FROM subscribers WHERE audience = ? ORDER BY node",
        )
        .bind(audience.to_string());
        self.all(query).await?.iter().map(watermark).collect()
    }

    /// One subscriber.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn subscriber(
        &mut self,
        node: &str,
        audience: &Audience,
    ) -> Result<Option<Watermark>, StoreError> {
        let query = sql::query(
            "SELECT node, audience, epoch, applied, durable, seen_at, controller, connected, in_service, build \
             FROM subscribers WHERE node = ? AND audience = ?",
        );
        let row = self.optional(query.bind(node).bind(audience.to_string())).await?;
        row.as_ref().map(watermark).transpose()
    }

    /// Subscribers that were ever heard of, by node and audience behind `after`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn subscribers(
        &mut self,
        after: Option<&Watermark>,
        limit: u32,
    ) -> Result<Vec<Watermark>, StoreError> {
        let query = sql::query(
            "SELECT node, audience, epoch, applied, durable, seen_at, controller, connected, in_service, build FROM subscribers \
             WHERE (node, audience) > (?, ?) ORDER BY node, audience LIMIT ?",
        )
        .bind(after.map_or("", |mark| mark.node.as_str()))
        .bind(after.map(|mark| mark.audience.to_string()).unwrap_or_default())
        .bind(limit);
        self.all(query).await?.iter().map(watermark).collect()
    }

    /// What one subscriber does not apply of an audience.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn exceptions(
        &mut self,
        node: &str,
        audience: &Audience,
    ) -> Result<Vec<ExceptionRow>, StoreError> {
        let query = sql::query(
            "SELECT node, audience, type, kind, key, revision, reason FROM exceptions \
             WHERE node = ? AND audience = ? ORDER BY kind, key, type",
        )
        .bind(node)
        .bind(audience.to_string());
        self.all(query).await?.iter().map(exception).collect()
    }

    /// Who does not apply one item.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn exceptions_about(
        &mut self,
        audience: &Audience,
        key: &Key,
    ) -> Result<Vec<ExceptionRow>, StoreError> {
        let query = sql::query(
            "SELECT node, audience, type, kind, key, revision, reason FROM exceptions \
             WHERE audience = ? AND kind = ? AND key = ? ORDER BY node, type",
        )
        .bind(audience.to_string())
        .bind(key.kind)
        .bind(&key.name);
        self.all(query).await?.iter().map(exception).collect()
    }

    /// All that is not applied anywhere, by audience and node; at most `limit`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn all_exceptions(&mut self, limit: u32) -> Result<Vec<ExceptionRow>, StoreError> {
        let query = sql::query(
            "SELECT node, audience, type, kind, key, revision, reason FROM exceptions \
             ORDER BY audience, kind, key, node, type LIMIT ?",
        )
        .bind(limit);
        self.all(query).await?.iter().map(exception).collect()
    }

    /// What each node reports of one key.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn reports_about(&mut self, key: &Key) -> Result<Vec<ReportRow>, StoreError> {
        let query = sql::query(
            "SELECT node, kind, key, phase, revision, message, updated_at FROM reports \
             WHERE kind = ? AND key = ? ORDER BY node",
        )
        .bind(key.kind)
        .bind(&key.name);
        self.all(query).await?.iter().map(report).collect()
    }

    /// What a node reports of one key.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn report(&mut self, node: &str, key: &Key) -> Result<Option<ReportRow>, StoreError> {
        let query = sql::query(
            "SELECT node, kind, key, phase, revision, message, updated_at FROM reports \
             WHERE node = ? AND kind = ? AND key = ?",
        )
        .bind(node)
        .bind(key.kind)
        .bind(&key.name);
        self.optional(query).await?.as_ref().map(report).transpose()
    }

    /// What of a node's report is to be kept: what it was told of by the store as it is now, and a bounded number of other
    /// keys, which it found on its disks. Nothing of a report about another epoch, whose revisions cannot be compared.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn believable(
        &mut self,
        node: &str,
        report: &ReportRequest,
    ) -> Result<Option<NodeReport>, StoreError> {
        if report.epoch != self.epoch() {
            return Ok(None);
        }
        let Ok(audience) = Audience::node(node) else { return Ok(None) };
        let (audience, head) = (audience.to_string(), self.head());
        let all_of = KeyRange::of(report);
        let mut reports: Vec<KeyReport> =
            report.reports.iter().filter(|one| is_fit(&one.key) && one.revision <= head).cloned().collect();
        let key = |one: &KeyReport| Key { kind: one.kind, name: one.key.clone() };
        let told = self.told(&audience, &reports).await?;
        let strays: Vec<KeyReport> =
            reports.iter().filter(|one| !told.contains(&key(one))).cloned().collect();
        if !strays.is_empty() {
            let mut room = self.room_for_strays(node, &audience, all_of.as_ref()).await?;
            // What a report is all of, it replaces: what was there before has no place of its own.
            let known = match &all_of {
                Some(_) => BTreeSet::new(),
                None => self.reported_keys(node, &strays).await?,
            };
            let before = reports.len();
            reports.retain(|one| {
                let key = key(one);
                if told.contains(&key) || known.contains(&key) {
                    return true;
                }
                let fits = room > 0;
                room = room.saturating_sub(1);
                fits
            });
            let left_out = before - reports.len();
            if left_out > 0 {
                tracing::warn!(
                    node,
                    left_out,
                    "a node reports more keys that it was not told of than are kept"
                );
            }
        }
        let gone = report.gone.iter().filter(|one| is_fit(&one.key));
        let gone = gone.map(|one| Key { kind: one.kind, name: one.key.clone() }).collect();
        Ok(Some(NodeReport { revision: report.revision, all_of, reports, gone }))
    }

    /// Which of the keys a node is told of.
    async fn told(&mut self, audience: &str, keys: &[KeyReport]) -> Result<BTreeSet<Key>, StoreError> {
        self.keys_of("SELECT kind, key FROM intent_current", "audience", audience, keys).await
    }

    /// Which of the keys a node has reported before.
    async fn reported_keys(&mut self, node: &str, keys: &[KeyReport]) -> Result<BTreeSet<Key>, StoreError> {
        self.keys_of("SELECT kind, key FROM reports", "node", node, keys).await
    }

    async fn keys_of(
        &mut self,
        select: &'static str,
        column: &'static str,
        of: &str,
        keys: &[KeyReport],
    ) -> Result<BTreeSet<Key>, StoreError> {
        let keys: Vec<Key> = keys.iter().map(|one| Key { kind: one.kind, name: one.key.clone() }).collect();
        let mut found = BTreeSet::new();
        for keys in keys.chunks(batch::CHUNK) {
            let mut sql = QueryBuilder::new(select);
            any_key(&mut sql, column, of, keys);
            for row in self.all(sql.build()).await? {
                found.insert(Key { kind: row.try_get(0)?, name: row.try_get(1)? });
            }
        }
        Ok(found)
    }

    /// How many keys that it was not told of a node may report, beside those outside of what the report replaces.
    async fn room_for_strays(
        &mut self,
        node: &str,
        audience: &str,
        replaced: Option<&KeyRange>,
    ) -> Result<usize, StoreError> {
        if replaced.is_some_and(KeyRange::is_everything) {
            return Ok(MAX_STRAYS);
        }
        let nothing = KeyRange { after: None, upto: Some(Key { kind: 0, name: String::new() }) };
        let ((after_kind, after), (upto_kind, upto)) = replaced.unwrap_or(&nothing).bounds();
        let query = sql::query(
            "SELECT count(*) FROM reports WHERE node = ? AND NOT ((kind, key) > (?, ?) AND (kind, key) <= (?, ?)) \
             AND NOT EXISTS (SELECT 1 FROM intent_current AS wanted \
             WHERE wanted.audience = ? AND wanted.kind = reports.kind AND wanted.key = reports.key)",
        )
        .bind(node)
        .bind(after_kind)
        .bind(after)
        .bind(upto_kind)
        .bind(upto)
        .bind(audience);
        let row = self.optional(query).await?.ok_or_else(|| StoreError::row("reports"))?;
        let there: i64 = row.try_get(0)?;
        Ok(MAX_STRAYS.saturating_sub(usize::try_from(there).unwrap_or_default()))
    }

    /// All that a node reports, in key order after `after`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn reports_of(
        &mut self,
        node: &str,
        after: Option<&Key>,
        limit: u32,
    ) -> Result<Vec<ReportRow>, StoreError> {
        let query = sql::query(
            "SELECT node, kind, key, phase, revision, message, updated_at FROM reports \
             WHERE node = ? AND (kind, key) > (?, ?) ORDER BY kind, key LIMIT ?",
        )
        .bind(node)
        .bind(after.map_or(-1, |key| i64::from(key.kind)))
        .bind(after.map_or("", |key| key.name.as_str()))
        .bind(limit);
        self.all(query).await?.iter().map(report).collect()
    }

    /// What any node reports in a phase, e.g. all orphans; at most `limit`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn reports_in(&mut self, phase: Phase, limit: u32) -> Result<Vec<ReportRow>, StoreError> {
        let query = sql::query(
            "SELECT node, kind, key, phase, revision, message, updated_at FROM reports \
             WHERE phase = ? ORDER BY node, kind, key LIMIT ?",
        )
        .bind(i32::from(phase))
        .bind(limit);
        self.all(query).await?.iter().map(report).collect()
    }

    /// A node's last pass; `None` when it never reported.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn last_pass(&mut self, node: &str) -> Result<Option<NodePass>, StoreError> {
        let query = sql::query("SELECT revision, updated_at FROM report_passes WHERE node = ?").bind(node);
        let Some(row) = self.optional(query).await? else { return Ok(None) };
        Ok(Some(NodePass { revision: from_sql("revision", row.try_get(0)?)?, updated_at: row.try_get(1)? }))
    }
}

fn watermark(row: &Row) -> Result<Watermark, StoreError> {
    Ok(Watermark {
        node: row.try_get(0)?,
        audience: audience(row.try_get(1)?)?,
        epoch: row.try_get(2)?,
        applied: from_sql("applied", row.try_get(3)?)?,
        durable: from_sql("durable", row.try_get(4)?)?,
        seen_at: row.try_get(5)?,
        controller: row.try_get(6)?,
        connected: row.try_get(7)?,
        in_service: row.try_get(8)?,
        build: row.try_get(9)?,
    })
}

fn exception(row: &Row) -> Result<ExceptionRow, StoreError> {
    Ok(ExceptionRow {
        node: row.try_get(0)?,
        audience: audience(row.try_get(1)?)?,
        kind: feed::exception::Type::try_from(row.try_get::<i32>(2)?).unwrap_or_default(),
        key: Key { kind: row.try_get(3)?, name: row.try_get(4)? },
        revision: from_sql("revision", row.try_get(5)?)?,
        reason: row.try_get(6)?,
    })
}

fn report(row: &Row) -> Result<ReportRow, StoreError> {
    Ok(ReportRow {
        node: row.try_get(0)?,
        key: Key { kind: row.try_get(1)?, name: row.try_get(2)? },
        phase: Phase::try_from(row.try_get::<i32>(3)?).unwrap_or_default(),
        revision: from_sql("revision", row.try_get(4)?)?,
        message: row.try_get(5)?,
        updated_at: row.try_get(6)?,
    })
}
