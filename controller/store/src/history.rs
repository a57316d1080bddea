//! What resources were: a row for each change that people ask about, written with the change (ADR 20).
//!
//! A row holds the document before the change. The document after it is that of the next row, or the resource as it stands.

use hosting_planner::Event;
use hosting_resource::{Kind, Resource};
use serde::{Deserialize, Serialize};

use crate::error::{from_sql, to_bound, to_sql};
use crate::sql::{self, QueryBuilder, Row};
use crate::{Origin, ReadTx, Store, StoreError, batch};

/// What a row takes beside its document, with its places in the indexes, in bytes.
const ROW_BYTES: u64 = 400;
/// Rows that [`Store::prune_history`] deletes at once.
const CHUNK: u64 = 1_000;
/// The columns of [`history_row`], in its order.
const COLUMNS: &str =
    "h.resource, h.revision, h.kind, h.name, h.brand, h.at, h.actor, h.trace, h.event, h.before";

/// A change of one resource.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryRow {
    /// Which resource.
    pub resource: String,
    /// The revision of the change.
    pub revision: u64,
    /// Of the resource.
    pub kind: Kind,
    /// The host name that the resource is about; empty where its kind has none.
    pub name: String,
    /// Whose it was after the change; before it, for what is gone. `None`: the platform's.
    pub brand: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub at: i64,
    /// The API key; `None`: the controller itself.
    pub actor: Option<String>,
    /// The trace id of the request behind it (W3C Trace Context), 32 hexadecimal digits; empty when there was none.
    pub trace: String,
    /// What happened.
    pub event: Event,
    /// The resource before it; `None`: there was none.
    pub before: Option<Resource>,
}

/// Which changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryOf {
    /// Of a resource.
    Resource(String),
    /// Of all that was about a host name.
    Name(String),
    /// Of a revision.
    Revision(u64),
    /// By an API key, from a time on and before another, in milliseconds since the Unix epoch.
    Key {
        /// Id of the key.
        key: String,
        /// From here on.
        from: i64,
        /// Before this.
        until: i64,
    },
    /// Of a trace id.
    Trace(String),
}

impl HistoryOf {
    /// Whether it speaks of a change.
    pub(crate) fn holds(&self, row: &HistoryRow) -> bool {
        match self {
            Self::Resource(id) => row.resource == *id,
            Self::Name(name) => row.name == *name && !name.is_empty(),
            Self::Revision(revision) => row.revision == *revision,
            Self::Key { key, from, until } => {
                row.actor.as_ref() == Some(key) && (*from..*until).contains(&row.at)
            }
            Self::Trace(trace) => row.trace == *trace && !trace.is_empty(),
        }
    }

    fn push(&self, sql: &mut QueryBuilder) -> Result<(), StoreError> {
        match self {
            Self::Resource(id) => sql.push("h.resource = ").push_bind(id),
            Self::Name(name) => sql.push("h.name <> '' AND h.name = ").push_bind(name),
            Self::Revision(revision) => sql.push("h.revision = ").push_bind(to_sql("revision", *revision)?),
            Self::Key { key, from, until } => {
                sql.push("h.actor IS NOT NULL AND h.actor = ").push_bind(key);
                sql.push(" AND h.at >= ").push_bind(*from).push(" AND h.at < ").push_bind(*until)
            }
            Self::Trace(trace) => sql.push("h.trace <> '' AND h.trace = ").push_bind(trace),
        };
        Ok(())
    }
}

/// The trace id in a traceparent; empty when there is none.
pub(crate) fn trace_id(traceparent: &str) -> &str {
    traceparent.split('-').nth(1).filter(|id| id.len() == 32).unwrap_or_default()
}

/// The row of a change, if people ask about it.
pub(crate) fn row_of(
    before: Option<&Resource>,
    after: Option<&Resource>,
    origin: &Origin,
    (revision, at): (u64, i64),
) -> Option<HistoryRow> {
    let event = Event::of(before, after)?;
    let shown = after.or(before)?;
    let is_host = shown.kind.info().host_labels;
    let name = shown.label.split(' ').next().filter(|_| is_host).unwrap_or_default();
    Some(HistoryRow {
        resource: shown.id.clone(),
        revision,
        kind: shown.kind,
        name: name.to_owned(),
        brand: shown.brand.clone(),
        at,
        actor: origin.actor.clone(),
        trace: trace_id(&origin.traceparent).to_owned(),
        event,
        before: before.cloned(),
    })
}

/// Writes rows; answers the bytes of all rows so far, of which `so_far` is known when nobody else has written meanwhile.
pub(crate) async fn insert(
    tx: &mut ReadTx,
    rows: &[HistoryRow],
    so_far: Option<u64>,
) -> Result<Option<u64>, StoreError> {
    if rows.is_empty() {
        return Ok(so_far);
    }
    let mut upto = match so_far {
        Some(upto) => upto,
        None => tx.number(sql::query(NEWEST)).await?,
    };
    let mut written = Vec::with_capacity(rows.len());
    for row in rows {
        let before = row.before.as_ref().map(serde_json::to_string).transpose();
        let before = before.map_err(|error| StoreError::value("before", error.to_string()))?;
        upto += ROW_BYTES + before.as_ref().map_or(0, |before| before.len() as u64);
        written.push((row, before, to_sql("revision", row.revision)?, to_sql("upto", upto)?));
    }
    batch::insert(
        tx,
        "INSERT INTO resource_history (resource, revision, kind, name, brand, at, actor, trace, event, before, upto)",
        "",
        &written,
        |values, (row, before, revision, upto)| {
            values.push_bind(row.resource.clone()).push_bind(*revision).push_bind(row.kind.name());
            values.push_bind(row.name.clone()).push_bind(row.brand.clone()).push_bind(row.at);
            values.push_bind(row.actor.clone()).push_bind(row.trace.clone()).push_bind(row.event.as_str());
            values.push_bind(before.clone()).push_bind(*upto);
        },
    )
    .await?;
    Ok(Some(upto))
}

/// The bytes of all rows so far. Rows are written in this order.
const NEWEST: &str = "SELECT upto FROM resource_history ORDER BY revision DESC, resource DESC LIMIT 1";

fn history_row(row: &Row) -> Result<HistoryRow, StoreError> {
    let (kind, event): (&str, &str) = (row.try_get(2)?, row.try_get(8)?);
    let before: Option<&str> = row.try_get(9)?;
    let resource: String = row.try_get(0)?;
    let unreadable = |problem: String| StoreError::row(format!("history of {resource}: {problem}"));
    Ok(HistoryRow {
        revision: from_sql("revision", row.try_get(1)?)?,
        kind: Kind::from_name(kind).ok_or_else(|| unreadable(format!("kind {kind:?}")))?,
        name: row.try_get(3)?,
        brand: row.try_get(4)?,
        at: row.try_get(5)?,
        actor: row.try_get(6)?,
        trace: row.try_get(7)?,
        event: Event::ALL
            .into_iter()
            .find(|known| known.as_str() == event)
            .ok_or_else(|| unreadable(format!("event {event:?}")))?,
        before: before
            .map(serde_json::from_str)
            .transpose()
            .map_err(|error| unreadable(error.to_string()))?,
        resource,
    })
}

/// A place in a history, newest first: revision and resource.
pub type HistoryPlace = (u64, String);

impl ReadTx {
    /// Changes, the newest first: at most `limit`, behind `after`. Those of a key are in the order of their times.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn history(
        &mut self,
        of: &HistoryOf,
        after: Option<&HistoryPlace>,
        limit: u32,
    ) -> Result<Vec<HistoryRow>, StoreError> {
        let mut sql = QueryBuilder::new(&format!("SELECT {COLUMNS} FROM resource_history h WHERE "));
        of.push(&mut sql)?;
        if let Some((revision, resource)) = after {
            sql.push(" AND (h.revision, h.resource) < (").push_bind(to_sql("revision", *revision)?);
            sql.push(", ").push_bind(resource).push(")");
        }
        sql.push(match of {
            HistoryOf::Key { .. } => " ORDER BY h.at DESC, h.revision DESC, h.resource DESC",
            HistoryOf::Resource(_) | HistoryOf::Name(_) | HistoryOf::Revision(_) | HistoryOf::Trace(_) => {
                " ORDER BY h.revision DESC, h.resource DESC"
            }
        });
        sql.push(" LIMIT ").push_bind(to_bound(limit.into()));
        self.all(sql.build()).await?.iter().map(history_row).collect()
    }

    /// All changes of some resources from a revision on, the oldest first: at most `limit` of them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn history_since(
        &mut self,
        resources: &[String],
        from: u64,
        limit: usize,
    ) -> Result<Vec<HistoryRow>, StoreError> {
        let mut rows = Vec::new();
        for ids in batch::chunks(resources) {
            let mut sql =
                QueryBuilder::new(&format!("SELECT {COLUMNS} FROM resource_history h WHERE h.resource IN "));
            batch::list(&mut sql, ids);
            sql.push(" AND h.revision >= ").push_bind(to_sql("revision", from)?);
            sql.push(" LIMIT ").push_bind(to_bound(limit.saturating_sub(rows.len()) as u64));
            for row in self.all(sql.build()).await? {
                rows.push(history_row(&row)?);
            }
        }
        rows.sort_by(|one, other| (one.revision, &one.resource).cmp(&(other.revision, &other.resource)));
        Ok(rows)
    }

    /// What the controller changed by itself in the traces of requests: at most `limit` changes.
    pub(crate) async fn history_of_controller(
        &mut self,
        traces: &[String],
        limit: usize,
    ) -> Result<Vec<HistoryRow>, StoreError> {
        let mut rows = Vec::new();
        for some in batch::chunks(traces) {
            let mut sql = QueryBuilder::new(&format!(
                "SELECT {COLUMNS} FROM resource_history h WHERE h.trace <> '' AND h.actor IS NULL AND h.trace IN "
            ));
            batch::list(&mut sql, some);
            sql.push(" LIMIT ").push_bind(to_bound(limit.saturating_sub(rows.len()) as u64));
            for row in self.all(sql.build()).await? {
                rows.push(history_row(&row)?);
            }
        }
        Ok(rows)
    }

    /// A resource as it was right after a revision, which must not be below [`ReadTx::history_floor`].
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn resource_at(&mut self, id: &str, revision: u64) -> Result<Option<Resource>, StoreError> {
        let mut sql =
            QueryBuilder::new(&format!("SELECT {COLUMNS} FROM resource_history h WHERE h.resource = "));
        sql.push_bind(id).push(" AND h.revision > ").push_bind(to_sql("revision", revision)?);
        sql.push(" ORDER BY h.revision LIMIT 1");
        match self.optional(sql.build()).await? {
            Some(next) => Ok(history_row(&next)?.before),
            None => self.get(id).await,
        }
    }

    /// The newest revision of the history that is not later than a time, in milliseconds since the Unix epoch; `None` when the history does
    /// not reach back to it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn revision_at(&mut self, at: i64) -> Result<Option<u64>, StoreError> {
        let query = sql::query(
            "SELECT revision FROM resource_history WHERE at <= ? ORDER BY at DESC, revision DESC LIMIT 1",
        );
        let found = self.number(query.bind(at)).await?;
        let floor = self.history_floor().await?;
        Ok(if found == 0 && floor > 0 { None } else { Some(found.max(floor)) })
    }

    /// All changes after this revision are in the history.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn history_floor(&mut self) -> Result<u64, StoreError> {
        self.number(sql::query("SELECT revision FROM history_floor WHERE id = 1")).await
    }
}

impl Store {
    /// Deletes from the oldest row on what is from before `before` (milliseconds since the Unix epoch), or beyond `most` bytes of all rows; at
    /// most 1000 rows. How many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn prune_history(&self, before: i64, most: u64) -> Result<u64, StoreError> {
        self.status_write(move |tx| {
            Box::pin(async move {
                let upto = tx.number(sql::query(NEWEST)).await?;
                let oldest = sql::query(
                    "SELECT revision, resource, at, upto FROM resource_history ORDER BY revision, resource LIMIT ?",
                );
                let mut last = None;
                let mut count = 0;
                for row in tx.all(oldest.bind(to_bound(CHUNK))).await? {
                    let (at, so_far) = (row.try_get::<i64>(2)?, from_sql("upto", row.try_get(3)?)?);
                    if at >= before && upto.saturating_sub(so_far) <= most {
                        break;
                    }
                    count += 1;
                    last = Some((row.try_get::<i64>(0)?, row.try_get::<String>(1)?));
                }
                let Some((revision, resource)) = last else { return Ok(0) };
                let delete = sql::query("DELETE FROM resource_history WHERE (revision, resource) <= (?, ?)");
                tx.execute(delete.bind(revision).bind(resource)).await?;
                let floor = sql::query("UPDATE history_floor SET revision = ? WHERE id = 1 AND revision < ?");
                tx.execute(floor.bind(revision).bind(revision)).await?;
                Ok(count)
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_id_is_that_of_the_traceparent() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(&format!("00-{id}-00f067aa0ba902b7-01")), id);
        for none in ["", "00", "00-short-x-01", "no trace"] {
            assert_eq!(trace_id(none), "", "{none}");
        }
    }
}
