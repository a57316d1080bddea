//! What requests about incidents and gaps say, and what they are answered with.

use hosting_resource::timestamp;
use hosting_store::{Gap, Incident, IncidentEvent};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Body of POST /incidents.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct NewIncident {
    /// While an incident with it is open, another one is that one.
    pub(super) dedupe_key: String,
    pub(super) r#type: String,
    /// `critical`, `warning` or `info`.
    pub(super) severity: String,
    pub(super) title: String,
    #[serde(default)]
    pub(super) detail: String,
    #[serde(default)]
    pub(super) resource_type: Option<String>,
    #[serde(default)]
    pub(super) resource_id: Option<String>,
    /// Who noticed.
    pub(super) source: String,
}

/// Body of PATCH /incidents/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct IncidentPatch {
    /// `open`, `investigating` or `remediating`.
    #[serde(default)]
    pub(super) status: Option<String>,
    #[serde(default)]
    pub(super) severity: Option<String>,
    /// Empty: nobody.
    #[serde(default)]
    pub(super) assigned_to: Option<String>,
}

/// Body of POST /incidents/{id}/resolve.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Resolution {
    pub(super) resolution: String,
}

/// Body of POST /incidents/{id}/escalate.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Escalation {
    pub(super) reason: String,
}

/// Body of POST /incidents/{id}/cancel.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Cancellation {
    #[serde(default)]
    pub(super) reason: String,
}

/// Body of POST /incidents/{id}/events.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct NewEvent {
    /// Ignored: who adds an event is known by the key.
    #[serde(default)]
    #[allow(dead_code, reason = "clients of the reference send it")]
    pub(super) actor: String,
    pub(super) action: String,
    pub(super) detail: String,
    #[serde(default)]
    pub(super) metadata: Map<String, Value>,
}

/// Body of POST /capability-gaps.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct NewGap {
    /// What is missing; one of the name is counted again.
    pub(super) tool_name: String,
    pub(super) description: String,
    /// `investigation`, `remediation` or `notification`.
    pub(super) category: String,
    /// The incident that showed it.
    #[serde(default)]
    pub(super) incident_id: Option<String>,
}

/// Body of PATCH /capability-gaps/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct GapPatch {
    /// `open`, `implemented` or `wont_fix`.
    #[serde(default)]
    pub(super) status: Option<String>,
}

/// An incident.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct IncidentView {
    pub(super) id: String,
    pub(super) dedupe_key: String,
    pub(super) r#type: String,
    pub(super) severity: String,
    /// `open`, `investigating`, `remediating`, `resolved`, `escalated` or `cancelled`.
    pub(super) status: String,
    pub(super) title: String,
    pub(super) detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resource_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resource_id: Option<String>,
    /// The brand whose keys may see it; absent: platform admins alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) brand_id: Option<String>,
    pub(super) source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) assigned_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resolution: Option<String>,
    pub(super) detected_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resolved_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) escalated_at: Option<String>,
    pub(super) created_at: String,
    pub(super) updated_at: String,
}

/// A page of incidents.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct IncidentPage {
    pub(super) items: Vec<IncidentView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_cursor: Option<String>,
    pub(super) has_more: bool,
}

/// What happened about an incident.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct EventView {
    pub(super) id: String,
    pub(super) incident_id: String,
    /// `api-key:` and the key's id.
    pub(super) actor: String,
    pub(super) action: String,
    pub(super) detail: String,
    pub(super) metadata: Value,
    pub(super) created_at: String,
}

/// A page of events, the oldest first.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct EventPage {
    pub(super) items: Vec<EventView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_cursor: Option<String>,
    pub(super) has_more: bool,
}

/// Something that a program needed and could not do.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GapView {
    pub(super) id: String,
    pub(super) tool_name: String,
    pub(super) description: String,
    pub(super) category: String,
    pub(super) occurrences: u64,
    pub(super) status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) implemented_at: Option<String>,
    pub(super) created_at: String,
    pub(super) updated_at: String,
}

/// A page of gaps, those missed most first.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GapPage {
    pub(super) items: Vec<GapView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_cursor: Option<String>,
    pub(super) has_more: bool,
}

pub(super) fn page(found: &[Incident], next_cursor: Option<String>) -> IncidentPage {
    IncidentPage { items: found.iter().map(view).collect(), has_more: next_cursor.is_some(), next_cursor }
}

pub(super) fn gap_page(found: &[Gap], next_cursor: Option<String>) -> GapPage {
    GapPage { items: found.iter().map(gap_view).collect(), has_more: next_cursor.is_some(), next_cursor }
}

pub(super) fn view(incident: &Incident) -> IncidentView {
    let of = incident.clone();
    IncidentView {
        id: of.id,
        dedupe_key: of.dedupe_key,
        r#type: of.incident_type,
        severity: of.severity,
        status: of.status,
        title: of.title,
        detail: of.detail,
        resource_type: of.resource_type,
        resource_id: of.resource_id,
        brand_id: of.brand,
        source: of.source,
        assigned_to: of.assigned_to,
        resolution: of.resolution,
        detected_at: timestamp(of.detected_at),
        resolved_at: of.resolved_at.map(timestamp),
        escalated_at: of.escalated_at.map(timestamp),
        created_at: timestamp(of.created_at),
        updated_at: timestamp(of.updated_at),
    }
}

pub(super) fn event_view(event: IncidentEvent) -> EventView {
    EventView {
        id: event.id,
        incident_id: event.incident,
        actor: event.actor,
        action: event.action,
        detail: event.detail,
        metadata: event.metadata,
        created_at: timestamp(event.created_at),
    }
}

pub(super) fn gap_view(gap: &Gap) -> GapView {
    GapView {
        id: gap.id.clone(),
        tool_name: gap.tool_name.clone(),
        description: gap.description.clone(),
        category: gap.category.clone(),
        occurrences: gap.occurrences,
        status: gap.status.clone(),
        implemented_at: gap.implemented_at.map(timestamp),
        created_at: timestamp(gap.created_at),
        updated_at: timestamp(gap.updated_at),
    }
}
