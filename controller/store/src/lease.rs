//! What one controller at a time does, and which controllers there are. Times are by the database's clock, so that clocks of controllers
//! that differ decide nothing.

use std::time::Duration;

use crate::sql::{self, Dialect, Row};
use crate::{ReadTx, Store, StoreError, WriteTx};

/// Controllers that were not seen for so long are forgotten, in milliseconds.
const FORGOTTEN: i64 = 24 * 3600 * 1000;

/// That a controller holds a lease: what it writes under it names this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it is for.
    pub name: &'static str,
    /// Grows with each change of the holder.
    pub fence: u64,
}

/// Another controller of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherController {
    /// Its name, another one at each start.
    pub id: String,
    /// Since it said that it runs.
    pub silent_for: Duration,
    /// Where nodes reach it, `host:port`.
    pub feed: Vec<String>,
}

impl Store {
    /// This controller's name among those of the store: another one at each start.
    #[must_use]
    pub fn controller(&self) -> &str {
        &self.0.controller
    }

    /// Takes a lease for `term`, or holds it on; `None` while another controller has it. In a store that is not shared every other holder
    /// is a process that ended: its lease is taken over at once, whatever the clock says.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn hold(&self, name: &'static str, term: Duration) -> Result<Option<Lease>, StoreError> {
        let me = self.controller().to_owned();
        let term = i64::try_from(term.as_millis()).unwrap_or(i64::MAX);
        let is_shared = self.is_shared();
        self.status_write(move |tx| {
            Box::pin(async move {
                let now = tx.beside().database_now().await?;
                let query = sql::query(
                    "INSERT INTO leases (name, holder, fence, expires_at) VALUES (?1, ?2, 1, ?4) \
                     ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at, \
                     fence = CASE WHEN leases.holder = excluded.holder THEN leases.fence ELSE leases.fence + 1 END \
                     WHERE leases.holder = ?2 OR leases.expires_at <= ?3 RETURNING fence",
                );
                let ended_by = if is_shared { now } else { i64::MAX };
                let query = query.bind(name).bind(me).bind(ended_by).bind(now.saturating_add(term));
                let Some(row) = tx.optional(query).await? else { return Ok(None) };
                Ok(Some(Lease { name, fence: crate::error::from_sql("fence", row.try_get(0)?)? }))
            })
        })
        .await
    }

    /// Gives a lease back, so that another controller need not wait for its end.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn let_go(&self, lease: Lease) -> Result<(), StoreError> {
        let me = self.controller().to_owned();
        self.status_write(move |tx| {
            Box::pin(async move {
                let query = sql::query(
                    "UPDATE leases SET expires_at = 0 WHERE name = ? AND holder = ? AND fence = ?",
                );
                let fence = crate::error::to_sql("fence", lease.fence)?;
                tx.execute(query.bind(lease.name).bind(me).bind(fence)).await.map(drop)
            })
        })
        .await
    }

    /// Says that this controller runs and where nodes reach it, and answers the others.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn beat(&self, feed: &[String]) -> Result<Vec<OtherController>, StoreError> {
        let (me, feed) = (self.controller().to_owned(), feed.join("\n"));
        self.status_write(move |tx| {
            Box::pin(async move {
                let now = tx.beside().database_now().await?;
                let query = sql::query(
                    "INSERT INTO controllers (id, seen_at, feed) VALUES (?, ?, ?) \
                     ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, feed = excluded.feed",
                );
                tx.execute(query.bind(&me).bind(now).bind(feed)).await?;
                let old = sql::query("DELETE FROM controllers WHERE seen_at < ?");
                tx.execute(old.bind(now.saturating_sub(FORGOTTEN))).await?;
                let query = sql::query("SELECT id, seen_at, feed FROM controllers WHERE id <> ? ORDER BY id")
                    .bind(&me);
                let since = |seen: i64| {
                    Duration::from_millis(u64::try_from(now.saturating_sub(seen)).unwrap_or_default())
                };
                let other = |row: &Row| {
                    Ok(OtherController {
                        id: row.try_get(0)?,
                        silent_for: since(row.try_get(1)?),
                        feed: row.try_get::<&str>(2)?.lines().map(str::to_owned).collect(),
                    })
                };
                tx.all(query).await?.iter().map(other).collect()
            })
        })
        .await
    }
}

impl WriteTx {
    /// Whether a lease is still this controller's: what it writes otherwise would come from one that was replaced.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn holds(&mut self, lease: &Lease) -> Result<bool, StoreError> {
        let me = self.controller().to_owned();
        let query = sql::query("SELECT 1 FROM leases WHERE name = ? AND holder = ? AND fence = ?");
        let fence = crate::error::to_sql("fence", lease.fence)?;
        Ok(self.optional(query.bind(lease.name).bind(me).bind(fence)).await?.is_some())
    }
}

impl ReadTx {
    /// Milliseconds since the Unix epoch by the database's clock.
    pub(crate) async fn database_now(&mut self) -> Result<i64, StoreError> {
        let query = match self.dialect() {
            Dialect::Sqlite => return Ok(jiff::Timestamp::now().as_millisecond()),
            Dialect::Postgres => "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
        };
        let row = self.optional(sql::query(query)).await?.ok_or_else(|| StoreError::row("no time"))?;
        row.try_get(0)
    }
}
