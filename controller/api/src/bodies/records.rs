//! Bodies of records that are no resources: settings, OIDC clients, login sessions, what nodes say of themselves; used beside limit.

use std::collections::BTreeMap;

use hosting_resource::audit_head::AuditHead;
use hosting_store::Traffic;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A setting. Values may hold tokens, as the URL of a webhook does.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) value: String,
}

/// All settings.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Settings(pub(crate) Vec<Setting>);

/// The value of a setting; null takes it away.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("x-secret" = true))]
pub(crate) struct NewValue(pub(crate) Option<String>);

/// Body of PUT /platform/config: settings to set; others stay.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct NewSettings(pub(crate) BTreeMap<String, NewValue>);

/// Body of POST /oidc/clients.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct NewOidcClient {
    pub(crate) id: String,
    /// Kept sealed, and shown to nobody.
    #[schemars(extend("x-secret" = true))]
    pub(crate) secret: String,
    pub(crate) name: String,
    /// Where users may be sent back to, exactly: https, or http on this machine; no fragment (RFC 6749 §3.1.2).
    pub(crate) redirect_uris: Vec<String>,
}

/// Answer of POST /oidc/clients.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct OidcClientId {
    pub(crate) id: String,
}

/// A login session: shown once.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct LoginSession {
    pub(crate) session_id: String,
    /// RFC 3339.
    pub(crate) expires_at: String,
}

/// Whose a session was.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct LoginOf {
    pub(crate) tenant_id: String,
}

/// Body of POST .../health.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct NewHealth {
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) checks: Map<String, Value>,
    #[serde(default)]
    pub(crate) reconciliation: Map<String, Value>,
    /// RFC 3339; absent: now.
    #[serde(default)]
    pub(crate) reported_at: Option<String>,
}

/// What a node said of its health last.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Health {
    pub(crate) node_id: String,
    pub(crate) status: String,
    #[schemars(with = "Map<String, Value>")]
    pub(crate) checks: Value,
    #[schemars(with = "Map<String, Value>")]
    pub(crate) reconciliation: Value,
    /// RFC 3339, by the node's clock.
    pub(crate) reported_at: String,
    /// RFC 3339, by the controller's clock.
    pub(crate) received_at: String,
}

/// Something that a node found otherwise than it should be.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct NewDrift {
    pub(crate) kind: String,
    pub(crate) resource: String,
    /// What the node did about it.
    pub(crate) action: String,
    #[serde(default)]
    pub(crate) detail: String,
}

/// Body of POST .../drift-events.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct NewDrifts {
    /// At most 500.
    pub(crate) events: Vec<NewDrift>,
}

/// Something that a node found otherwise than it should be.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Drift {
    pub(crate) id: String,
    pub(crate) node_id: String,
    pub(crate) kind: String,
    pub(crate) resource: String,
    pub(crate) action: String,
    pub(crate) detail: String,
    pub(crate) created_at: String,
}

/// The newest hundred.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Drifts {
    pub(crate) items: Vec<Drift>,
    pub(crate) has_more: bool,
}

/// What somebody has of a kind.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct UsageRow {
    /// As limits name it: `webroots`.
    pub(crate) kind: &'static str,
    /// What is on its way out counts until it is gone.
    pub(crate) used: u64,
    /// Absent: as many as one likes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<u64>,
    /// Where the limit is said: `own` or `package`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<&'static str>,
}

/// What somebody has of each kind that can be limited.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Usage {
    pub(crate) items: Vec<UsageRow>,
    pub(crate) has_more: bool,
}

/// What sites were asked for.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TrafficRow {
    /// When the hour or the day begins: RFC 3339, UTC. Absent in the total.
    #[serde(skip_serializing_if = "Option::is_none")]
    begins: Option<String>,
    /// Requests that ended in it, those that the platform answered in the sites' place too.
    requests: u64,
    /// Of these, by the answer's status; what is missing from `requests` ended without an answer.
    informational: u64,
    successful: u64,
    redirected: u64,
    client_errors: u64,
    server_errors: u64,
    /// Bytes of bodies from and to clients.
    received_bytes: u64,
    sent_bytes: u64,
    /// Requests that were answered from a cache.
    cached: u64,
    /// How long the sites took to begin their answers, all together, in milliseconds.
    site_ms: u64,
}

impl TrafficRow {
    pub(crate) fn of(begins: Option<String>, traffic: Traffic) -> Self {
        let [informational, successful, redirected, client_errors, server_errors] = traffic.classes;
        Self {
            begins,
            requests: traffic.requests,
            informational,
            successful,
            redirected,
            client_errors,
            server_errors,
            received_bytes: traffic.received,
            sent_bytes: traffic.sent,
            cached: traffic.cached,
            site_ms: traffic.node_us / 1_000,
        }
    }
}

/// What a tenant's sites were asked for. Hours and days without a request are left out.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TrafficView {
    pub(crate) items: Vec<TrafficRow>,
    /// Of all items.
    pub(crate) total: TrafficRow,
    pub(crate) has_more: bool,
}

/// A signed head of the audit chain. Bytes are hexadecimal.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AuditHeadView {
    /// Counts heads, from 1.
    number: u64,
    /// RFC 3339, UTC.
    at: String,
    /// The cell whose log it is.
    cell: String,
    /// The newest revision at that time.
    revision: u64,
    /// Id of the newest row.
    row_id: String,
    /// That row's link.
    link: String,
    /// SHA-256 over what the head before signed; empty for the first one.
    previous: String,
    /// The Ed25519 public key that verifies it.
    key: String,
    /// The public key that signs from the next head on; absent while that is the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    successor: Option<String>,
    /// Ed25519 over a JSON array of "hosting-audit-head-v1" and the fields before, without spaces, what is absent as null.
    signature: String,
}

impl From<AuditHead> for AuditHeadView {
    fn from(head: AuditHead) -> Self {
        let AuditHead { number, at, cell, revision, row_id, link, previous, key, successor, signature } =
            head;
        Self { number, at, cell, revision, row_id, link, previous, key, successor, signature }
    }
}

/// A page of heads.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AuditHeadPage {
    pub(crate) items: Vec<AuditHeadView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_cursor: Option<String>,
    pub(crate) has_more: bool,
}
