//! Every table of a store, and copying one store's rows into another: from SQLite to PostgreSQL, and into a file and back.

use crate::StoreError;
use crate::batch::CHUNK;
use crate::sql::{self, Connection, Dialect, QueryBuilder, Row};

/// A table, as far as both databases have it alike.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// The primary key: rows are read in its order.
    pub(crate) key: &'static [&'static str],
    /// The other columns.
    pub(crate) rest: &'static [&'static str],
    /// Whether PostgreSQL numbers its rows by a sequence, which has to go on after a copy.
    pub(crate) numbered: bool,
}

const fn table(name: &'static str, key: &'static [&'static str], rest: &'static [&'static str]) -> Table {
    Table { name, key, rest, numbered: false }
}

/// Those that others refer to come first. A test compares the list with the schema.
pub(crate) const TABLES: &[Table] = &[
    table("head", &["id"], &["cell", "epoch", "revision", "kek_id"]),
    table(
        "resources",
        &["id"],
        &[
            "kind",
            "parent",
            "tenant",
            "brand",
            "label",
            "status",
            "status_message",
            "shape",
            "generation",
            "created_revision",
            "created_at",
            "updated_at",
            "spec",
            "state",
        ],
    ),
    table("resource_counts", &["kind", "brand", "status"], &["count"]),
    table("quota_usage", &["owner", "kind"], &["count"]),
    table("uniques", &["kind", "scope", "key"], &["id"]),
    table("refs", &["source", "relation", "target"], &["kind"]),
    table("facets", &["kind", "field", "value", "id"], &[]),
    table(
        "intent_current",
        &["audience", "kind", "key"],
        &["revision", "owner", "value", "cause", "traceparent", "rollout"],
    ),
    table(
        "intent_log",
        &["audience", "revision", "kind", "key"],
        &["op", "value", "cause", "owner", "traceparent", "rollout"],
    ),
    table("rollouts", &["id"], &["is_open", "document"]),
    table("audiences", &["audience"], &["revision", "floor", "count", "digest", "logged"]),
    table("counters", &["name"], &["value"]),
    Table { numbered: true, ..table("replan", &["seq"], &["owner"]) },
    Table {
        numbered: true,
        ..table(
            "audit",
            &["seq"],
            &[
                "id",
                "at",
                "actor",
                "method",
                "path",
                "resource_type",
                "resource_id",
                "status_code",
                "body",
                "revision",
                "traceparent",
                "link",
            ],
        )
    },
    table("audit_size", &["id"], &["bytes", "last_link"]),
    table(
        "subscribers",
        &["node", "audience"],
        &[
            "epoch",
            "applied",
            "durable",
            "seen_at",
            "controller",
            "connected",
            "in_service",
            "build",
            "served",
        ],
    ),
    table("exceptions", &["node", "audience", "kind", "key", "type"], &["revision", "reason"]),
    table("reports", &["node", "kind", "key"], &["phase", "revision", "message", "updated_at"]),
    table("report_passes", &["node"], &["revision", "pass", "updated_at"]),
    table("trust_roots", &["fingerprint"], &["der", "added_at"]),
    table(
        "join_tokens",
        &["hash"],
        &["node", "created_at", "expires_at", "used_at", "granted_key", "granted_role", "granted_at"],
    ),
    table("secrets", &["name"], &["kek_id", "sealed", "updated_at"]),
    table("enrolments", &["node", "role"], &["at", "incarnation"]),
    table(
        "jobs",
        &["id"],
        &[
            "seq",
            "kind",
            "subject",
            "lane",
            "brand",
            "params",
            "state",
            "due_at",
            "next_at",
            "set_at",
            "attempts",
            "attempt_limit",
            "progress",
            "error",
            "cancelled_by",
            "actor",
            "traceparent",
            "lease_owner",
            "fence",
            "created_at",
            "started_at",
            "ended_at",
        ],
    ),
    table(
        "job_steps",
        &["job", "place"],
        &["name", "state", "attempts", "started_at", "ended_at", "error", "result"],
    ),
    table("wrapped_keys", &["scope", "version"], &["kek_id", "wrapped", "created_at"]),
    table("readers", &["audience", "node"], &["sealing_key"]),
    table("key_shares", &["audience", "node", "version"], &["share"]),
    table("job_waits", &["job", "resource"], &["status", "message"]),
    table("replies", &["api_key", "key"], &["number", "revision", "kek_id", "sealed", "at"]),
    table(
        "incidents",
        &["id"],
        &[
            "seq",
            "brand",
            "open_key",
            "dedupe_key",
            "type",
            "severity",
            "status",
            "title",
            "detail",
            "resource_type",
            "resource_id",
            "source",
            "assigned_to",
            "resolution",
            "detected_at",
            "resolved_at",
            "escalated_at",
            "created_at",
            "updated_at",
        ],
    ),
    table(
        "incident_events",
        &["incident", "seq"],
        &["id", "actor", "action", "detail", "metadata", "created_at"],
    ),
    table(
        "capability_gaps",
        &["id"],
        &[
            "brand",
            "tool_name",
            "description",
            "category",
            "occurrences",
            "status",
            "implemented_at",
            "created_at",
            "updated_at",
        ],
    ),
    table("gap_incidents", &["gap", "incident"], &[]),
    table("platform_config", &["name"], &["value", "updated_at"]),
    table("oidc_clients", &["id"], &["name", "redirect_uris", "created_at", "updated_at"]),
    table("login_sessions", &["hash"], &["tenant", "created_at", "expires_at"]),
    table("node_health", &["node"], &["status", "checks", "reconciliation", "reported_at", "received_at"]),
    table("drift_events", &["node", "seq"], &["id", "kind", "resource", "action", "detail", "created_at"]),
    table("key_uses", &["api_key"], &["used_at"]),
    table("job_pace", &["kind"], &["arrival", "rest_until", "set_at"]),
    table(
        "resource_history",
        &["resource", "revision"],
        &["kind", "name", "brand", "at", "actor", "trace", "event", "before", "upto"],
    ),
    table("history_floor", &["id"], &["revision"]),
    table(
        "audit_heads",
        &["number"],
        &["at", "revision", "row_id", "link", "previous", "key", "successor", "signature"],
    ),
    table(
        "tenant_traffic",
        &["tenant", "hour"],
        &["requests", "c1", "c2", "c3", "c4", "c5", "received", "sent", "cached", "node_us"],
    ),
    table("traffic_sources", &["source"], &["number", "at"]),
    table("event_log", &["revision", "place"], &["at", "event"]),
    table("event_log_floor", &["id"], &["revision"]),
    table(
        "webhook_positions",
        &["webhook"],
        &[
            "epoch",
            "revision",
            "place",
            "attempts",
            "next_at",
            "failing_since",
            "delivered",
            "dropped",
            "delivered_at",
            "error",
        ],
    ),
    table(
        "webhook_deliveries",
        &["webhook", "id"],
        &[
            "event_type",
            "body",
            "status",
            "attempts",
            "created_at",
            "attempted_at",
            "duration_ms",
            "response_status",
            "answer",
            "error",
        ],
    ),
];

impl Table {
    fn columns(&self) -> String {
        [self.key, self.rest].concat().join(", ")
    }

    /// The next rows behind a key.
    fn select(&self, behind: Option<&Row>) -> sql::Query {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(self.columns()).push(" FROM ").push(self.name);
        let key = self.key.join(", ");
        if let Some(row) = behind {
            sql.push(" WHERE (").push(&key).push(") > (");
            let mut values = sql.separated(", ");
            for value in row.columns().iter().take(self.key.len()) {
                values.push_bind(value.clone());
            }
            sql.push(")");
        }
        sql.push(" ORDER BY ").push(key).push(" LIMIT ").push_bind(i64::try_from(CHUNK).unwrap_or(i64::MAX));
        sql.build()
    }

    fn insert(&self, rows: &[Row]) -> sql::Query {
        let mut sql = QueryBuilder::new("INSERT INTO ");
        sql.push(self.name).push(" (").push(self.columns()).push(") ");
        sql.push_values(rows, |values, row| {
            for value in row.columns() {
                values.push_bind(value.clone());
            }
        });
        sql.build()
    }
}

/// Copies all rows into a store whose tables are as the migrations made them, in one transaction; `seen` hears of each table and how
/// many of its rows are copied. What was in the target before goes.
pub(crate) async fn copy(
    from: &mut Connection,
    to: &mut Connection,
    mut seen: impl FnMut(&'static str, u64),
) -> Result<(), StoreError> {
    to.command(match to.dialect() {
        Dialect::Sqlite => "BEGIN IMMEDIATE",
        Dialect::Postgres => "BEGIN",
    })
    .await?;
    for table in TABLES.iter().rev() {
        to.batch(&format!("DELETE FROM {}", table.name)).await?;
    }
    for table in TABLES {
        let mut copied = 0;
        let mut last: Option<Row> = None;
        loop {
            let mut rows = from.rows(table.select(last.as_ref())).await?;
            if rows.is_empty() {
                break;
            }
            to.execute(table.insert(&rows)).await?;
            copied += rows.len() as u64;
            last = rows.pop();
            seen(table.name, copied);
        }
        if table.numbered && to.dialect() == Dialect::Postgres {
            // The sequence goes on behind the highest number.
            let column = table.key.concat();
            to.batch(&format!(
                "SELECT setval(pg_get_serial_sequence('{0}', '{column}'), coalesce(max({column}), 0) + 1, false) FROM {0}",
                table.name
            ))
            .await?;
        }
    }
    to.command("COMMIT").await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::sql::{SqliteConnection, SqliteOptions, query};

    /// Tables whose rows are about the controllers that run now: a copy begins without them.
    const NOT_COPIED: &[&str] = &["commits", "controllers", "leases"];

    #[tokio::test]
    async fn the_list_has_every_table_and_column() {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions {
            path: folder.path().join("store.db"),
            busy_timeout: std::time::Duration::from_secs(1),
            read_only: false,
        };
        let mut connection = Connection::Sqlite(SqliteConnection::open(&options).unwrap());
        crate::schema::migrate(&mut connection).await.unwrap();
        let columns = query(
            "SELECT m.name, c.name, c.pk FROM sqlite_schema m JOIN pragma_table_info(m.name) c \
             WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'",
        );
        let mut schema: BTreeMap<String, BTreeMap<String, bool>> = BTreeMap::new();
        for row in connection.rows(columns).await.unwrap() {
            let is_key = row.try_get::<i64>(2).unwrap() > 0;
            schema.entry(row.try_get(0).unwrap()).or_default().insert(row.try_get(1).unwrap(), is_key);
        }
        schema.retain(|name, _| !NOT_COPIED.contains(&name.as_str()));
        let listed: BTreeMap<String, BTreeMap<String, bool>> = TABLES
            .iter()
            .map(|table| {
                let key = table.key.iter().map(|column| ((*column).to_owned(), true));
                let rest = table.rest.iter().map(|column| ((*column).to_owned(), false));
                (table.name.to_owned(), key.chain(rest).collect())
            })
            .collect();
        assert_eq!(listed, schema);
    }
}
