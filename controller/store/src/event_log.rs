//! What became of resources, in order and on disk, for receivers that must miss nothing (ADR 27). Rows are written by the writer with the
//! changes that they tell of, while there is a resource of a kind that follows events; without one nothing is written and nothing asked.

use hosting_resource::Kind;

use crate::error::{from_sql, to_sql};
use crate::sql::{self, Connection, QueryBuilder};
use crate::{ReadTx, ResourceEvent, Store, StoreError, WriteTx, batch};

/// Rows that one transaction deletes.
const TRIMMED_AT_ONCE: u32 = 2_000;

/// An event's place in the order of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventPlace {
    /// The revision that made it.
    pub revision: u64,
    /// Its number among those of the revision, from 0.
    pub place: u64,
}

impl EventPlace {
    /// Behind every event of a revision.
    #[must_use]
    pub const fn end_of(revision: u64) -> Self {
        // The largest number that both databases hold.
        Self { revision, place: i64::MAX.unsigned_abs() }
    }
}

/// An event of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEvent {
    /// Its place.
    pub at: EventPlace,
    /// When it was written, in milliseconds since the Unix epoch.
    pub time: i64,
    /// What it tells.
    pub event: ResourceEvent,
}

/// The kinds whose resources follow events.
fn followers() -> impl Iterator<Item = Kind> {
    Kind::ALL.iter().copied().filter(|kind| kind.def().follows_events())
}

/// Whether any of these kinds follows events.
pub(crate) fn has_followers<'k>(kinds: impl IntoIterator<Item = &'k Kind>) -> bool {
    kinds.into_iter().any(|kind| kind.def().follows_events())
}

/// Whether there is a resource that follows events.
pub(crate) async fn is_followed(connection: &mut Connection) -> Result<bool, StoreError> {
    let kinds: Vec<String> = followers().map(|kind| kind.name().to_owned()).collect();
    let mut sql = QueryBuilder::new("SELECT 1 FROM resources WHERE kind IN ");
    batch::list(&mut sql, &kinds);
    sql.push(" LIMIT 1");
    Ok(!connection.rows(sql.build()).await?.is_empty())
}

/// Writes the events of a group, in the order of their revisions.
pub(crate) async fn insert(tx: &mut ReadTx, events: &[ResourceEvent], now: i64) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(events.len());
    let mut last = EventPlace { revision: 0, place: 0 };
    for event in events {
        let place = if event.revision == last.revision { last.place + 1 } else { 0 };
        last = EventPlace { revision: event.revision, place };
        let text =
            serde_json::to_string(event).map_err(|error| StoreError::value("event", error.to_string()))?;
        rows.push((to_sql("revision", last.revision)?, to_sql("place", place)?, text));
    }
    batch::insert(tx, "INSERT INTO event_log (revision, place, at, event)", "", &rows, |values, row| {
        values.push_bind(row.0).push_bind(row.1).push_bind(now).push_bind(row.2.clone());
    })
    .await?;
    Ok(())
}

impl ReadTx {
    /// The next events behind a place, in order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn events_after(
        &mut self,
        after: EventPlace,
        limit: u32,
    ) -> Result<Vec<LoggedEvent>, StoreError> {
        let query = sql::query(
            "SELECT revision, place, at, event FROM event_log WHERE (revision, place) > (?, ?) \
             ORDER BY revision, place LIMIT ?",
        );
        let query = query.bind(to_sql("revision", after.revision)?).bind(to_sql("place", after.place)?);
        let mut events = Vec::new();
        for row in self.all(query.bind(limit)).await? {
            let event = serde_json::from_str(row.try_get(3)?)
                .map_err(|error| StoreError::row(format!("event_log.event: {error}")))?;
            let at = EventPlace {
                revision: from_sql("revision", row.try_get(0)?)?,
                place: from_sql("place", row.try_get(1)?)?,
            };
            events.push(LoggedEvent { at, time: row.try_get(2)?, event });
        }
        Ok(events)
    }

    /// The revision up to which events are gone.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn event_floor(&mut self) -> Result<u64, StoreError> {
        self.number(sql::query("SELECT revision FROM event_log_floor WHERE id = 1")).await
    }

    /// The revision of the event that so many others are newer than; `None` when there are not so many.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn event_before(&mut self, newer: u32) -> Result<Option<u64>, StoreError> {
        let query =
            sql::query("SELECT revision FROM event_log ORDER BY revision DESC, place DESC LIMIT 1 OFFSET ?");
        let row = self.optional(query.bind(newer)).await?;
        row.map(|row| from_sql("revision", row.try_get(0)?)).transpose()
    }

    /// The revision of the newest event that was written before a time; `None` when the oldest one is younger.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn event_older_than(&mut self, time: i64) -> Result<Option<u64>, StoreError> {
        // The oldest rows are looked at, in order: as many as one transaction deletes.
        let query = sql::query(
            "SELECT max(revision) FROM (SELECT revision, at FROM event_log ORDER BY revision, place LIMIT ?) oldest \
             WHERE at < ?",
        );
        let row = self.optional(query.bind(TRIMMED_AT_ONCE).bind(time)).await?;
        let revision: Option<i64> = row.map(|row| row.try_get(0)).transpose()?.flatten();
        revision.map(|revision| from_sql("revision", revision)).transpose()
    }
}

impl Store {
    /// Deletes events up to a revision, whole revisions, some at once; whether there may be more.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn trim_events(&self, upto: u64) -> Result<bool, StoreError> {
        self.status_write(move |tx| Box::pin(async move { tx.trim_events(upto).await })).await
    }
}

impl WriteTx {
    async fn trim_events(&mut self, upto: u64) -> Result<bool, StoreError> {
        let query = sql::query(
            "SELECT max(revision), count(*) FROM (SELECT revision FROM event_log WHERE revision <= ? \
             ORDER BY revision, place LIMIT ?) oldest",
        );
        let query = query.bind(to_sql("revision", upto)?).bind(TRIMMED_AT_ONCE);
        let Some(row) = self.optional(query).await? else { return Ok(false) };
        let (Some(last), count): (Option<i64>, i64) = (row.try_get(0)?, row.try_get(1)?) else {
            return Ok(false);
        };
        self.execute(sql::query("DELETE FROM event_log WHERE revision <= ?").bind(last)).await?;
        let floor = sql::query("UPDATE event_log_floor SET revision = ? WHERE id = 1 AND revision < ?");
        self.execute(floor.bind(last).bind(last)).await?;
        Ok(count == i64::from(TRIMMED_AT_ONCE))
    }
}
