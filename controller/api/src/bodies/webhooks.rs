//! Bodies of webhooks beside their resource: deliveries, and how a webhook is getting on.

use hosting_resource::timestamp;
use hosting_store::{WebhookDelivery, WebhookPosition};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// What was posted to a webhook, and what came of it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DeliveryView {
    /// The header `webhook-id`: the same for each attempt.
    id: String,
    webhook_id: String,
    /// `resource.created`, `resource.updated`, `resource.deleted`, `reset` or `test`.
    #[serde(rename = "type")]
    event_type: String,
    /// `pending` (asked for, not yet tried), `delivered`, `retrying`, `dropped` (refused so often that the next event has its turn) or
    /// `failed`.
    status: &'static str,
    /// Attempts so far.
    attempts: u32,
    /// RFC 3339. When it was first tried, or asked for.
    created_at: String,
    /// RFC 3339. When the last attempt began.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempted_at: Option<String>,
    /// How long the last attempt took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    /// HTTP status of the answer; absent when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<u16>,
    /// The first 512 bytes of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    response_body: Option<String>,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What is posted.
    payload: Value,
}

/// A page of deliveries.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DeliveryPage {
    pub(crate) items: Vec<DeliveryView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_cursor: Option<String>,
    pub(crate) has_more: bool,
}

/// How a webhook is getting on: shown beside it once something was posted.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DeliveryState {
    /// Events that the receiver took.
    delivered: u64,
    /// Events that it refused and that were passed over.
    dropped: u64,
    /// RFC 3339. When it took the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered_at: Option<String>,
    /// RFC 3339. Since when it takes nothing; absent while it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    failing_since: Option<String>,
    /// RFC 3339. When the next attempt at the event that failed is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) fn delivery_view(delivery: WebhookDelivery) -> DeliveryView {
    DeliveryView {
        id: delivery.id,
        webhook_id: delivery.webhook,
        event_type: delivery.event_type,
        status: delivery.status,
        attempts: delivery.attempts,
        created_at: timestamp(delivery.created_at),
        attempted_at: delivery.attempted_at.map(timestamp),
        duration_ms: delivery.duration_ms,
        response_status: delivery.response_status,
        response_body: delivery.answer,
        error: delivery.error,
        payload: serde_json::from_str(&delivery.body).unwrap_or(Value::String(delivery.body)),
    }
}

impl From<&WebhookPosition> for DeliveryState {
    fn from(position: &WebhookPosition) -> Self {
        Self {
            delivered: position.delivered,
            dropped: position.dropped,
            delivered_at: position.delivered_at.map(timestamp),
            failing_since: position.failing_since.map(timestamp),
            next_attempt_at: (position.next_at > 0).then(|| timestamp(position.next_at)),
            error: position.error.clone(),
        }
    }
}
