//! How far each webhook is in the log of events, and what was posted to it lately (ADR 27). Written by the controller that delivers, under
//! its lease.

use crate::error::{from_sql, to_sql};
use crate::event_log::EventPlace;
use crate::sql::{self, QueryBuilder, Row};
use crate::{Lease, Origin, ReadTx, Store, StoreError, WriteTx, batch};

const POSITION: &str = "webhook, epoch, revision, place, attempts, next_at, failing_since, delivered, dropped, delivered_at, error";
const DELIVERY: &str = "webhook, id, event_type, body, status, attempts, created_at, attempted_at, duration_ms, response_status, answer, error";
/// Deliveries that one statement deletes.
const TRIMMED_AT_ONCE: u32 = 1_000;

/// How far a webhook is. All times are in milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookPosition {
    /// Id of the webhook.
    pub webhook: String,
    /// The store's life in which the place counts.
    pub epoch: String,
    /// All up to this event is delivered, or dropped, or not for it.
    pub at: EventPlace,
    /// Attempts at the next event that failed.
    pub attempts: u32,
    /// When the next attempt is due.
    pub next_at: i64,
    /// Since when the receiver took nothing.
    pub failing_since: Option<i64>,
    /// Events that the receiver took.
    pub delivered: u64,
    /// Events that it did not take and that are passed over.
    pub dropped: u64,
    /// When it took the last one.
    pub delivered_at: Option<i64>,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

impl WebhookPosition {
    /// A webhook that has not been posted anything: it is told what comes after `at`.
    #[must_use]
    pub fn new(webhook: impl Into<String>, epoch: impl Into<String>, at: EventPlace) -> Self {
        Self {
            webhook: webhook.into(),
            epoch: epoch.into(),
            at,
            attempts: 0,
            next_at: 0,
            failing_since: None,
            delivered: 0,
            dropped: 0,
            delivered_at: None,
            error: None,
        }
    }
}

/// What was posted to a webhook, and what came of it. All times are in milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookDelivery {
    /// Id of the webhook.
    pub webhook: String,
    /// The header `webhook-id`: the same for each attempt.
    pub id: String,
    /// E.g. `resource.updated`.
    pub event_type: String,
    /// What is posted.
    pub body: String,
    /// `pending` (somebody asked for it), `delivered`, `retrying`, `dropped` or `failed`.
    pub status: &'static str,
    /// Attempts so far.
    pub attempts: u32,
    /// When it was written first.
    pub created_at: i64,
    /// When the last attempt began.
    pub attempted_at: Option<i64>,
    /// How long the last attempt took, in milliseconds.
    pub duration_ms: Option<u64>,
    /// HTTP status of the answer.
    pub response_status: Option<u16>,
    /// The first bytes of the answer.
    pub answer: Option<String>,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// The words of [`WebhookDelivery::status`].
pub const DELIVERY_STATUSES: &[&str] = &["pending", "delivered", "retrying", "dropped", "failed"];

impl Store {
    /// Keeps how far webhooks are and what was posted to them, in one transaction, if the lease is still held.
    ///
    /// # Errors
    /// [`StoreError::LostLease`], or when the store fails.
    pub async fn record_webhooks(
        &self,
        lease: &Lease,
        positions: Vec<WebhookPosition>,
        deliveries: Vec<WebhookDelivery>,
    ) -> Result<(), StoreError> {
        let origin = Origin { lease: Some(lease.clone()), ..Origin::default() };
        let written = self.write(origin, move |tx| {
            Box::pin(async move {
                tx.put_positions(&positions).await?;
                tx.put_deliveries(&deliveries).await
            })
        });
        Ok(written.await.map(drop)?)
    }

    /// Deletes of a webhook all deliveries but the newest `keep`, and those from before `since`, some of them at once; answers how many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn trim_deliveries(&self, webhook: &str, keep: u32, since: i64) -> Result<u64, StoreError> {
        let webhook = webhook.to_owned();
        self.status_write(move |tx| {
            Box::pin(async move {
                // Behind the newest ones, or older than is kept: by the index of times.
                let query = sql::query(
                    "DELETE FROM webhook_deliveries WHERE webhook = ?1 AND id IN \
                     (SELECT id FROM webhook_deliveries WHERE webhook = ?1 AND (created_at < ?3 OR (created_at, id) <= \
                     (SELECT created_at, id FROM webhook_deliveries WHERE webhook = ?1 \
                     ORDER BY created_at DESC, id DESC LIMIT 1 OFFSET ?2)) \
                     ORDER BY created_at, id LIMIT ?4)",
                );
                tx.execute(query.bind(webhook).bind(keep).bind(since).bind(TRIMMED_AT_ONCE)).await
            })
        })
        .await
    }

    /// Forgets webhooks that are no more.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn forget_webhooks(&self, gone: Vec<String>) -> Result<(), StoreError> {
        self.status_write(move |tx| {
            Box::pin(async move {
                let id = |id: &String, _: usize| id.clone();
                for table in ["DELETE FROM webhook_positions", "DELETE FROM webhook_deliveries"] {
                    batch::delete(tx.beside(), table, &["webhook"], &gone, id).await?;
                }
                Ok(())
            })
        })
        .await
    }
}

impl WriteTx {
    async fn put_positions(&mut self, positions: &[WebhookPosition]) -> Result<(), StoreError> {
        let tail = " ON CONFLICT (webhook) DO UPDATE SET epoch = excluded.epoch, revision = excluded.revision, \
                    place = excluded.place, attempts = excluded.attempts, next_at = excluded.next_at, \
                    failing_since = excluded.failing_since, delivered = excluded.delivered, dropped = excluded.dropped, \
                    delivered_at = excluded.delivered_at, error = excluded.error";
        let mut rows = Vec::new();
        for position in positions {
            let numbers = [position.at.revision, position.at.place, position.delivered, position.dropped];
            let [revision, place, delivered, dropped] = numbers.map(|number| to_sql("position", number));
            rows.push((position, revision?, place?, delivered?, dropped?));
        }
        let head = "INSERT INTO webhook_positions (webhook, epoch, revision, place, attempts, next_at, failing_since, delivered, \
                    dropped, delivered_at, error)";
        batch::insert(
            self.beside(),
            head,
            tail,
            &rows,
            |values, (row, revision, place, delivered, dropped)| {
                values.push_bind(&row.webhook).push_bind(&row.epoch).push_bind(*revision).push_bind(*place);
                values.push_bind(row.attempts).push_bind(row.next_at).push_bind(row.failing_since);
                values.push_bind(*delivered).push_bind(*dropped).push_bind(row.delivered_at);
                values.push_bind(row.error.clone());
            },
        )
        .await?;
        Ok(())
    }

    /// Writes deliveries, each in the place of the one with its id.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put_deliveries(&mut self, deliveries: &[WebhookDelivery]) -> Result<(), StoreError> {
        let tail = " ON CONFLICT (webhook, id) DO UPDATE SET status = excluded.status, attempts = excluded.attempts, \
                    attempted_at = excluded.attempted_at, duration_ms = excluded.duration_ms, \
                    response_status = excluded.response_status, answer = excluded.answer, error = excluded.error";
        let head = "INSERT INTO webhook_deliveries (webhook, id, event_type, body, status, attempts, created_at, attempted_at, \
                    duration_ms, response_status, answer, error)";
        batch::insert(self.beside(), head, tail, deliveries, |values, row| {
            values.push_bind(&row.webhook).push_bind(&row.id).push_bind(&row.event_type).push_bind(&row.body);
            values.push_bind(row.status).push_bind(row.attempts).push_bind(row.created_at);
            values
                .push_bind(row.attempted_at)
                .push_bind(row.duration_ms.and_then(|ms| i64::try_from(ms).ok()));
            values.push_bind(row.response_status).push_bind(row.answer.clone()).push_bind(row.error.clone());
        })
        .await?;
        Ok(())
    }
}

impl ReadTx {
    /// How far these webhooks are; those that were never delivered to are left out.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn webhook_positions(
        &mut self,
        webhooks: &[String],
    ) -> Result<Vec<WebhookPosition>, StoreError> {
        let mut positions = Vec::new();
        for webhooks in batch::chunks(webhooks) {
            let mut sql = QueryBuilder::new("SELECT ");
            sql.push(POSITION).push(" FROM webhook_positions WHERE webhook IN ");
            batch::list(&mut sql, webhooks);
            for row in self.all(sql.build()).await? {
                positions.push(position(&row)?);
            }
        }
        Ok(positions)
    }

    /// Webhooks that something is kept of, behind `after`, in ascending order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn positioned_webhooks(&mut self, after: &str, limit: u32) -> Result<Vec<String>, StoreError> {
        let query =
            sql::query("SELECT webhook FROM webhook_positions WHERE webhook > ? ORDER BY webhook LIMIT ?");
        self.all(query.bind(after).bind(limit)).await?.iter().map(|row| row.try_get(0)).collect()
    }

    /// A delivery of a webhook.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn webhook_delivery(
        &mut self,
        webhook: &str,
        id: &str,
    ) -> Result<Option<WebhookDelivery>, StoreError> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(DELIVERY).push(" FROM webhook_deliveries WHERE webhook = ").push_bind(webhook);
        sql.push(" AND id = ").push_bind(id);
        self.optional(sql.build()).await?.as_ref().map(delivery).transpose()
    }

    /// One page of a webhook's deliveries, the newest first, after the one with the id `after`; and whether there are more.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn webhook_deliveries(
        &mut self,
        webhook: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<(Vec<WebhookDelivery>, bool), StoreError> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(DELIVERY).push(" FROM webhook_deliveries WHERE webhook = ").push_bind(webhook);
        if let Some(after) = after {
            sql.push(
                " AND (created_at, id) < (SELECT created_at, id FROM webhook_deliveries WHERE webhook = ",
            );
            sql.push_bind(webhook).push(" AND id = ").push_bind(after).push(")");
        }
        sql.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(i64::from(limit) + 1);
        let mut found = self.all(sql.build()).await?.iter().map(delivery).collect::<Result<Vec<_>, _>>()?;
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        Ok((found, more))
    }

    /// Deliveries that somebody asked for, the oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn pending_deliveries(&mut self, limit: u32) -> Result<Vec<WebhookDelivery>, StoreError> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(DELIVERY)
            .push(" FROM webhook_deliveries WHERE status = 'pending' ORDER BY created_at, id LIMIT ");
        sql.push_bind(limit);
        self.all(sql.build()).await?.iter().map(delivery).collect()
    }
}

fn position(row: &Row) -> Result<WebhookPosition, StoreError> {
    Ok(WebhookPosition {
        webhook: row.try_get(0)?,
        epoch: row.try_get(1)?,
        at: EventPlace {
            revision: from_sql("revision", row.try_get(2)?)?,
            place: from_sql("place", row.try_get(3)?)?,
        },
        attempts: row.try_get(4)?,
        next_at: row.try_get(5)?,
        failing_since: row.try_get(6)?,
        delivered: from_sql("delivered", row.try_get(7)?)?,
        dropped: from_sql("dropped", row.try_get(8)?)?,
        delivered_at: row.try_get(9)?,
        error: row.try_get(10)?,
    })
}

fn delivery(row: &Row) -> Result<WebhookDelivery, StoreError> {
    let status: &str = row.try_get(4)?;
    let known = DELIVERY_STATUSES.iter().copied().find(|known| *known == status);
    let duration: Option<i64> = row.try_get(8)?;
    Ok(WebhookDelivery {
        webhook: row.try_get(0)?,
        id: row.try_get(1)?,
        event_type: row.try_get(2)?,
        body: row.try_get(3)?,
        status: known.ok_or_else(|| StoreError::row(format!("status of a delivery: {status:?}")))?,
        attempts: row.try_get(5)?,
        created_at: row.try_get(6)?,
        attempted_at: row.try_get(7)?,
        duration_ms: duration.map(|ms| from_sql("duration_ms", ms)).transpose()?,
        response_status: row.try_get(9)?,
        answer: row.try_get(10)?,
        error: row.try_get(11)?,
    })
}
