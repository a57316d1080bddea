//! What the edges passed on for each tenant, hour by hour (ADR 43). A report adds to its hour, and is known again by the number that its source gave it.

use std::collections::HashSet;

use hosting_planner::Draft as _;

use crate::error::{from_sql, to_sql};
use crate::sql::{self, Row};
use crate::{ReadTx, Store, StoreError, WriteTx, batch};

/// An hour, in milliseconds.
pub const TRAFFIC_HOUR: i64 = 3_600_000;
/// Rows that one transaction deletes.
const CHUNK: u32 = 1_000;

/// What was passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Requests that ended.
    pub requests: u64,
    /// Of these, by the first digit of the answer's status (1 to 5). The others ended without an answer.
    pub classes: [u64; 5],
    /// Bytes of bodies from clients.
    pub received: u64,
    /// Bytes of bodies to clients.
    pub sent: u64,
    /// Requests that no node was asked for, because the answer was at hand.
    pub cached: u64,
    /// What nodes took to begin their answers, in microseconds.
    pub node_us: u64,
}

impl Traffic {
    fn columns(&self) -> [u64; 10] {
        let [c1, c2, c3, c4, c5] = self.classes;
        [self.requests, c1, c2, c3, c4, c5, self.received, self.sent, self.cached, self.node_us]
    }

    fn of([requests, c1, c2, c3, c4, c5, received, sent, cached, node_us]: [u64; 10]) -> Self {
        Self { requests, classes: [c1, c2, c3, c4, c5], received, sent, cached, node_us }
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        let (mut sum, more) = (self.columns(), other.columns());
        for (sum, more) in sum.iter_mut().zip(more) {
            *sum = sum.saturating_add(more);
        }
        *self = Self::of(sum);
    }
}

/// What a source adds to an hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficReport {
    /// Of the process that counted, by chance, in hexadecimal digits.
    pub source: String,
    /// One more than that of the source's report before.
    pub number: u64,
    /// When the hour begins, in milliseconds since the Unix epoch.
    pub hour: i64,
    /// Of each tenant, by id.
    pub tenants: Vec<(String, Traffic)>,
}

impl Store {
    /// Adds a report of an edge of a cluster, unless it is in already. What it says of tenants that are not the cluster's counts for nobody; how
    /// many those are.
    ///
    /// # Errors
    /// When the store fails: nothing of it is in then.
    pub async fn add_traffic(&self, cluster: &str, report: TrafficReport) -> Result<usize, StoreError> {
        let ids: Vec<String> = report.tenants.iter().map(|(tenant, _)| tenant.clone()).collect();
        // Not by the writer: a tenant seldom comes or goes, and what it said a moment ago is as good.
        let mut tx = self.read().await?;
        let own = hosting_planner::of_cluster(&mut tx, cluster, &ids)
            .await
            .map_err(|error| StoreError::row(error.to_string()))?;
        drop(tx);
        let strangers = ids.len() - own.len();
        self.status_write(move |tx| {
            Box::pin(async move {
                let is_new = tx.add_traffic(&report, &own).await?;
                Ok(if is_new { strangers } else { 0 })
            })
        })
        .await
    }

    /// Deletes what is from before a time (milliseconds since the Unix epoch), some rows at once; answers how many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn prune_traffic(&self, before: i64) -> Result<u64, StoreError> {
        self.status_write(move |tx| {
            Box::pin(async move {
                let query = sql::query(
                    "SELECT tenant, hour FROM tenant_traffic WHERE hour < ? ORDER BY hour, tenant LIMIT ?",
                );
                let rows = tx.all(query.bind(before).bind(CHUNK)).await?;
                for row in &rows {
                    let (tenant, hour): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
                    let delete = sql::query("DELETE FROM tenant_traffic WHERE tenant = ? AND hour = ?");
                    tx.execute(delete.bind(tenant).bind(hour)).await?;
                }
                if rows.is_empty() {
                    let delete = sql::query(
                        "DELETE FROM traffic_sources WHERE source IN \
                         (SELECT source FROM traffic_sources WHERE at < ? ORDER BY at, source LIMIT ?)",
                    );
                    return tx.execute(delete.bind(before).bind(CHUNK)).await;
                }
                Ok(rows.len() as u64)
            })
        })
        .await
    }
}

impl WriteTx {
    /// Adds what a report says of the cluster's own tenants. False: it is in already.
    async fn add_traffic(
        &mut self,
        report: &TrafficReport,
        own: &HashSet<String>,
    ) -> Result<bool, StoreError> {
        let known =
            sql::query("SELECT number FROM traffic_sources WHERE source = ?").bind(report.source.clone());
        if let Some(row) = self.optional(known).await?
            && from_sql("number", row.try_get(0)?)? >= report.number
        {
            return Ok(false);
        }
        let source = sql::query(
            "INSERT INTO traffic_sources (source, number, at) VALUES (?, ?, ?) \
             ON CONFLICT (source) DO UPDATE SET number = excluded.number, at = excluded.at",
        );
        let source =
            source.bind(report.source.clone()).bind(to_sql("number", report.number)?).bind(self.now());
        self.execute(source).await?;
        let mut rows = Vec::with_capacity(own.len());
        for (tenant, traffic) in report.tenants.iter().filter(|(tenant, _)| own.contains(tenant)) {
            let mut columns = Vec::with_capacity(10);
            for column in traffic.columns() {
                columns.push(to_sql("traffic", column)?);
            }
            rows.push((tenant, columns));
        }
        batch::insert(
            self.beside(),
            "INSERT INTO tenant_traffic (tenant, hour, requests, c1, c2, c3, c4, c5, received, sent, cached, node_us)",
            "ON CONFLICT (tenant, hour) DO UPDATE SET requests = tenant_traffic.requests + excluded.requests, \
             c1 = tenant_traffic.c1 + excluded.c1, c2 = tenant_traffic.c2 + excluded.c2, \
             c3 = tenant_traffic.c3 + excluded.c3, c4 = tenant_traffic.c4 + excluded.c4, \
             c5 = tenant_traffic.c5 + excluded.c5, received = tenant_traffic.received + excluded.received, \
             sent = tenant_traffic.sent + excluded.sent, cached = tenant_traffic.cached + excluded.cached, \
             node_us = tenant_traffic.node_us + excluded.node_us",
            &rows,
            |row, (tenant, columns)| {
                row.push_bind((*tenant).clone()).push_bind(report.hour);
                for column in columns {
                    row.push_bind(*column);
                }
            },
        )
        .await?;
        Ok(true)
    }
}

impl ReadTx {
    /// What was passed on for a tenant in the hours that begin from `from` on and before `until` (milliseconds since the Unix epoch), the oldest
    /// first. Hours without a request are left out.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn traffic(
        &mut self,
        tenant: &str,
        from: i64,
        until: i64,
    ) -> Result<Vec<(i64, Traffic)>, StoreError> {
        let query = sql::query(
            "SELECT hour, requests, c1, c2, c3, c4, c5, received, sent, cached, node_us FROM tenant_traffic \
             WHERE tenant = ? AND hour >= ? AND hour < ? ORDER BY hour",
        );
        let rows = self.all(query.bind(tenant.to_owned()).bind(from).bind(until)).await?;
        rows.iter().map(traffic_row).collect()
    }
}

fn traffic_row(row: &Row) -> Result<(i64, Traffic), StoreError> {
    let mut columns = [0_u64; 10];
    for (place, column) in (1..).zip(&mut columns) {
        *column = from_sql("traffic", row.try_get(place)?)?;
    }
    Ok((row.try_get(0)?, Traffic::of(columns)))
}
