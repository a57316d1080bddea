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
    pub(crate) dedupe_key: String,
    pub(crate) r#type: String,
    /// `critical`, `warning` or `info`.
    pub(crate) severity: String,
    pub(crate) title: String,
    #[serde(default)]
    pub(crate) detail: String,
    #[serde(default)]
    pub(crate) resource_type: Option<String>,
    #[serde(default)]
    pub(crate) resource_id: Option<String>,
    /// Who noticed.
    pub(crate) source: String,
}

/// Body of PATCH /incidents/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct IncidentPatch {
    /// `open`, `investigating` or `remediating`.
    #[serde(default)]
    pub(crate) status: Option<String>,
    #[serde(default)]
    pub(crate) severity: Option<String>,
    /// Empty: nobody.
    #[serde(default)]
    pub(crate) assigned_to: Option<String>,
}

/// Body of POST /incidents/{id}/resolve.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Resolution {
    pub(crate) resolution: String,
}

/// Body of POST /incidents/{id}/escalate.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Escalation {
    pub(crate) reason: String,
}

/// Body of POST /incidents/{id}/cancel.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Cancellation {
    #[serde(default)]
    pub(crate) reason: String,
}

/// Body of POST /incidents/{id}/events.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct NewEvent {
    /// Ignored: who adds an event is known by the key.
    #[serde(default)]
    #[allow(dead_code, reason = "clients of the reference send it")]
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) detail: String,
    #[serde(default)]
    pub(crate) metadata: Map<String, Value>,
}

/// Body of POST /capability-gaps.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct NewGap {
    /// What is missing; one of the name is counted again.
    pub(crate) tool_name: String,
    pub(crate) description: String,
    /// `investigation`, `remediation` or `notification`.
    pub(crate) category: String,
    /// The incident that showed it.
    #[serde(default)]
    pub(crate) incident_id: Option<String>,
}

/// Body of PATCH /capability-gaps/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct GapPatch {
    /// `open`, `implemented` or `wont_fix`.
    #[serde(default)]
    pub(crate) status: Option<String>,
}

/// An incident.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct IncidentView {
    pub(crate) id: String,
    pub(crate) dedupe_key: String,
    pub(crate) r#type: String,
    pub(crate) severity: String,
    /// `open`, `investigating`, `remediating`, `resolved`, `escalated` or `cancelled`.
    pub(crate) status: String,
    pub(crate) title: String,
    pub(crate) detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resource_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resource_id: Option<String>,
    /// The brand whose keys may see it; absent: platform admins alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) brand_id: Option<String>,
    pub(crate) source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) assigned_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resolution: Option<String>,
    pub(crate) detected_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resolved_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) escalated_at: Option<String>,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
}

/// A page of incidents.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct IncidentPage {
    pub(crate) items: Vec<IncidentView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_cursor: Option<String>,
    pub(crate) has_more: bool,
}

/// What happened about an incident.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct IncidentEventView {
    pub(crate) id: String,
    pub(crate) incident_id: String,
    /// `api-key:` and the key's id.
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) detail: String,
    #[schemars(with = "Map<String, Value>")]
    pub(crate) metadata: Value,
    pub(crate) created_at: String,
}

/// A page of events, the oldest first.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct EventPage {
    pub(crate) items: Vec<IncidentEventView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_cursor: Option<String>,
    pub(crate) has_more: bool,
}

/// Something that a program needed and could not do.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GapView {
    pub(crate) id: String,
    pub(crate) tool_name: String,
    pub(crate) description: String,
    pub(crate) category: String,
    pub(crate) occurrences: u64,
    pub(crate) status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) implemented_at: Option<String>,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
}

/// A page of gaps, those missed most first.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GapPage {
    pub(crate) items: Vec<GapView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_cursor: Option<String>,
    pub(crate) has_more: bool,
}

pub(crate) fn page(found: &[Incident], next_cursor: Option<String>) -> IncidentPage {
    IncidentPage { items: found.iter().map(view).collect(), has_more: next_cursor.is_some(), next_cursor }
}

pub(crate) fn gap_page(found: &[Gap], next_cursor: Option<String>) -> GapPage {
    GapPage { items: found.iter().map(gap_view).collect(), has_more: next_cursor.is_some(), next_cursor }
}

pub(crate) fn view(incident: &Incident) -> IncidentView {
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

pub(crate) fn event_view(event: IncidentEvent) -> IncidentEventView {
    IncidentEventView {
        id: event.id,
        incident_id: event.incident,
        actor: event.actor,
        action: event.action,
        detail: event.detail,
        metadata: event.metadata,
        created_at: timestamp(event.created_at),
    }
}

pub(crate) fn gap_view(gap: &Gap) -> GapView {
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
