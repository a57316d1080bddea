//! Records of the platform's operators that are no resources: settings, OIDC clients, login sessions, what nodes say of their health and of
//! what they found changed.

use hosting_planner::Draft;

use crate::error::to_sql;
use crate::{ReadTx, StoreError, WriteTx, batch, sql};

/// Most settings of the platform: they are shown all at once.
pub const MAX_SETTINGS: u64 = 1_000;
/// Drift events that are kept of a node: the oldest go first.
const KEPT_DRIFT: u64 = 1_000;

/// A client of the platform's OpenID provider. Its secret is sealed, and shown to nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcClient {
    /// Chosen by whoever makes it.
    pub id: String,
    /// For people.
    pub name: String,
    /// Where users may be sent back to, exactly.
    pub redirect_uris: Vec<String>,
}

/// What a node said of its health last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHealth {
    /// A word.
    pub status: String,
    /// A JSON object.
    pub checks: String,
    /// A JSON object.
    pub reconciliation: String,
    /// By the node's clock, in milliseconds since the Unix epoch.
    pub reported_at: i64,
    /// By the store's clock, in milliseconds since the Unix epoch.
    pub received_at: i64,
}

/// Something that a node found otherwise than it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftEvent {
    /// Its id.
    pub id: String,
    /// What kind of thing.
    pub kind: String,
    /// Which one.
    pub resource: String,
    /// What the node did about it.
    pub action: String,
    /// In words.
    pub detail: String,
    /// By the store's clock, in milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// The name that a client's secret is sealed under.
fn client_secret(id: &str) -> String {
    format!("oidc-client/{id}")
}

impl ReadTx {
    /// The platform's settings by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn platform_config(&mut self) -> Result<Vec<(String, String)>, StoreError> {
        let query = sql::query("SELECT name, value FROM platform_config ORDER BY name LIMIT ?");
        let rows = self.all(query.bind(to_sql("limit", MAX_SETTINGS)?)).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// A client of the OpenID provider.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn oidc_client(&mut self, id: &str) -> Result<Option<OidcClient>, StoreError> {
        let query = sql::query("SELECT id, name, redirect_uris FROM oidc_clients WHERE id = ?");
        let Some(row) = self.optional(query.bind(id)).await? else { return Ok(None) };
        let uris: String = row.try_get(2)?;
        let redirect_uris = serde_json::from_str(&uris)
            .map_err(|error| StoreError::row(format!("redirect URIs of {id}: {error}")))?;
        Ok(Some(OidcClient { id: row.try_get(0)?, name: row.try_get(1)?, redirect_uris }))
    }

    /// What a node said of its health last.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn node_health(&mut self, node: &str) -> Result<Option<NodeHealth>, StoreError> {
        let query = sql::query(
            "SELECT status, checks, reconciliation, reported_at, received_at FROM node_health WHERE node = ?",
        );
        let Some(row) = self.optional(query.bind(node)).await? else { return Ok(None) };
        Ok(Some(NodeHealth {
            status: row.try_get(0)?,
            checks: row.try_get(1)?,
            reconciliation: row.try_get(2)?,
            reported_at: row.try_get(3)?,
            received_at: row.try_get(4)?,
        }))
    }

    /// What a node found otherwise than it should be, the newest first, `limit` at most.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn drift_events(&mut self, node: &str, limit: u32) -> Result<Vec<DriftEvent>, StoreError> {
        let query = sql::query(
            "SELECT id, kind, resource, action, detail, created_at FROM drift_events WHERE node = ? \
             ORDER BY seq DESC LIMIT ?",
        );
        let rows = self.all(query.bind(node).bind(i64::from(limit))).await?;
        let event = |row: &sql::Row| {
            Ok(DriftEvent {
                id: row.try_get(0)?,
                kind: row.try_get(1)?,
                resource: row.try_get(2)?,
                action: row.try_get(3)?,
                detail: row.try_get(4)?,
                created_at: row.try_get(5)?,
            })
        };
        rows.iter().map(event).collect()
    }
}

impl WriteTx {
    /// Sets the platform's settings, `None` takes one away. False, and nothing is kept, when there would be more than [`MAX_SETTINGS`].
    ///
    /// # Errors
    /// When the store fails.
    pub async fn set_platform_config(
        &mut self,
        changes: &[(String, Option<String>)],
    ) -> Result<bool, StoreError> {
        let now = Draft::now(self);
        let set: Vec<(&String, &String)> =
            changes.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))).collect();
        let gone: Vec<String> =
            changes.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.clone()).collect();
        batch::delete(self.beside(), "DELETE FROM platform_config", &["name"], &gone, |name, _| name.clone())
            .await?;
        batch::insert(
            self.beside(),
            "INSERT INTO platform_config (name, value, updated_at)",
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
            &set,
            |row, (name, value)| {
                row.push_bind((*name).clone()).push_bind((*value).clone()).push_bind(now);
            },
        )
        .await?;
        let count = self.number(sql::query("SELECT count(*) FROM platform_config")).await?;
        Ok(count <= MAX_SETTINGS)
    }

    /// Writes a client of the OpenID provider in place of the one with its id. The secret is sealed.
    ///
    /// # Errors
    /// When the store or the cryptographic library fails.
    pub async fn put_oidc_client(&mut self, client: &OidcClient, secret: &str) -> Result<(), StoreError> {
        let now = Draft::now(self);
        let uris = serde_json::to_string(&client.redirect_uris)
            .map_err(|error| StoreError::value("redirect_uris", error.to_string()))?;
        let query = sql::query(
            "INSERT INTO oidc_clients (id, name, redirect_uris, created_at, updated_at) VALUES (?, ?, ?, ?, ?) \
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, redirect_uris = excluded.redirect_uris, \
             updated_at = excluded.updated_at",
        );
        let query = query.bind(&client.id).bind(&client.name).bind(uris).bind(now).bind(now);
        self.execute(query).await?;
        self.put_sealed(&client_secret(&client.id), secret.as_bytes(), false).await.map(drop)
    }

    /// Keeps a login session of a tenant by the digest of its id, and forgets those that are over.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn add_login_session(
        &mut self,
        hash: &str,
        tenant: &str,
        expires_at: i64,
    ) -> Result<(), StoreError> {
        let now = Draft::now(self);
        let over = sql::query("DELETE FROM login_sessions WHERE expires_at < ?");
        self.execute(over.bind(now)).await?;
        let query = sql::query(
            "INSERT INTO login_sessions (hash, tenant, created_at, expires_at) VALUES (?, ?, ?, ?)",
        );
        self.execute(query.bind(hash).bind(tenant).bind(now).bind(expires_at)).await?;
        Ok(())
    }

    /// Uses a login session up: its tenant, if it was not used before and is not over. One that was made after now, by a clock that was
    /// put back since, is over too.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn use_login_session(&mut self, hash: &str) -> Result<Option<String>, StoreError> {
        let now = Draft::now(self);
        let query =
            sql::query("DELETE FROM login_sessions WHERE hash = ? RETURNING tenant, created_at, expires_at");
        let Some(row) = self.optional(query.bind(hash)).await? else { return Ok(None) };
        let (created_at, expires_at): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
        Ok(if (created_at..=expires_at).contains(&now) { Some(row.try_get(0)?) } else { None })
    }

    /// Keeps what a node says of its health in place of what it said before.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put_node_health(&mut self, node: &str, health: &NodeHealth) -> Result<(), StoreError> {
        let query = sql::query(
            "INSERT INTO node_health (node, status, checks, reconciliation, reported_at, received_at) \
             VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (node) DO UPDATE SET status = excluded.status, checks = excluded.checks, \
             reconciliation = excluded.reconciliation, reported_at = excluded.reported_at, received_at = excluded.received_at",
        );
        let query = query.bind(node).bind(&health.status).bind(&health.checks).bind(&health.reconciliation);
        self.execute(query.bind(health.reported_at).bind(health.received_at)).await?;
        Ok(())
    }

    /// Keeps what a node found otherwise than it should be. Of one node the newest thousand stay.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn add_drift_events(&mut self, node: &str, events: &[DriftEvent]) -> Result<(), StoreError> {
        let mut rows = Vec::new();
        for event in events {
            rows.push((self.next_number("drift_seq").await?, event));
        }
        let mut numbered = Vec::new();
        for (seq, event) in &rows {
            numbered.push((to_sql("seq", *seq)?, *event));
        }
        batch::insert(
            self.beside(),
            "INSERT INTO drift_events (node, seq, id, kind, resource, action, detail, created_at)",
            "",
            &numbered,
            |row, (seq, event)| {
                row.push_bind(node.to_owned()).push_bind(*seq).push_bind(event.id.clone());
                row.push_bind(event.kind.clone()).push_bind(event.resource.clone());
                row.push_bind(event.action.clone()).push_bind(event.detail.clone());
                row.push_bind(event.created_at);
            },
        )
        .await?;
        let query = sql::query(
            "DELETE FROM drift_events WHERE node = ? AND seq <= (SELECT seq FROM drift_events WHERE node = ? \
             ORDER BY seq DESC LIMIT 1 OFFSET ?)",
        );
        self.execute(query.bind(node).bind(node).bind(to_sql("kept", KEPT_DRIFT)?)).await?;
        Ok(())
    }
}
