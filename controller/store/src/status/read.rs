//! What the fleet said, as it is read.

use std::collections::BTreeSet;

use async_trait::async_trait;
use hosting_intent::{Audience, Key};
use hosting_planner::WorldError;
use hosting_planner::gates::{self, Evidence, Report, Reports};
use hosting_proto::feed::key_report::Phase;
use hosting_proto::feed::{self, KeyReport, ReportRequest};

use super::{
    ExceptionRow, KeyRange, MAX_STRAYS, NodePass, NodeReport, ReportRow, Watermark, any_key, is_fit,
};
use crate::error::from_sql;
use crate::read_tx::audience;
use crate::sql::{self, QueryBuilder, Row};
use crate::{ReadTx, StoreError, batch};

impl ReadTx {
    /// The subscribers of an audience that were ever heard of, by node.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn watermarks(&mut self, audience: &Audience) -> Result<Vec<Watermark>, StoreError> {
        let query = sql::query(
            "SELECT node, audience, epoch, applied, durable, seen_at, controller, connected, in_service, build, served FROM subscribers WHERE audience = ? ORDER BY node",
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
            "SELECT node, audience, epoch, applied, durable, seen_at, controller, connected, in_service, build, served \
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
            "SELECT node, audience, epoch, applied, durable, seen_at, controller, connected, in_service, build, served FROM subscribers \
             WHERE (node, audience) > (?, ?) ORDER BY node, audience LIMIT ?",
        )
        .bind(after.map_or("", |mark| mark.node.as_str()))
        .bind(after.map(|mark| mark.audience.to_string()).unwrap_or_default())
        .bind(limit);
        self.all(query).await?.iter().map(watermark).collect()
    }

    /// What subscribers do not apply, of all of them from one to another in the order of [`ReadTx::subscribers`].
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn exceptions_between(
        &mut self,
        first: &Watermark,
        last: &Watermark,
    ) -> Result<Vec<ExceptionRow>, StoreError> {
        let query = sql::query(
            "SELECT node, audience, type, kind, key, revision, reason FROM exceptions \
             WHERE (node, audience) >= (?, ?) AND (node, audience) <= (?, ?) ORDER BY node, audience, kind, key, type",
        )
        .bind(&first.node)
        .bind(first.audience.to_string())
        .bind(&last.node)
        .bind(last.audience.to_string());
        self.all(query).await?.iter().map(exception).collect()
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
        for keys in batch::chunks(&keys) {
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

#[async_trait]
impl Evidence for ReadTx {
    async fn reports(&mut self, about: &[(String, Key)]) -> Result<Reports, WorldError> {
        let mut reports = Reports::new();
        for some in batch::chunks(about) {
            let mut sql = QueryBuilder::new(
                "SELECT node, kind, key, phase, revision, message, updated_at FROM reports",
            );
            batch::any_of(&mut sql, &["node", "kind", "key"], some, |sql, (node, key), column| {
                match column {
                    0 => sql.push_bind(node),
                    1 => sql.push_bind(key.kind),
                    _ => sql.push_bind(&key.name),
                };
            });
            for row in self.all(sql.build()).await? {
                let row = report(&row)?;
                let phase = match row.phase {
                    Phase::Unspecified | Phase::Converging | Phase::Blocked => gates::Phase::Working,
                    Phase::Ready => gates::Phase::Ready,
                    Phase::Failed => gates::Phase::Failed,
                    Phase::Retired => gates::Phase::Retired,
                    Phase::Orphan => gates::Phase::Orphan,
                };
                let said = Report { phase, revision: row.revision, message: row.message };
                reports.insert((row.node, row.key), said);
            }
        }
        Ok(reports)
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
        served: row.try_get(10)?,
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
