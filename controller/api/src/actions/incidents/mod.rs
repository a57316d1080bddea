//! Incidents with their events, and gaps in what programs can do about them: records of operators and their programs.
//!
//! Who may see an incident follows from the resource that it is about; one about none, or about a machine, is the platform's.

pub(crate) mod checks;
mod gaps;

use axum::http::{Method, StatusCode};
use hosting_jobs::kinds::incident_notice::{self, Trigger};
use hosting_planner::{Draft, World};
use hosting_resource::{Tier, prefixed, uuid};
use hosting_store::{Incident, IncidentEvent, IncidentQuery, ReadTx, WriteTx};
use serde_json::{Value, json};

use self::checks::{NAME, TEXT, number_of, one_of, some, text};
use super::{Act, Ask, PLAIN};
use crate::bodies::incidents::{
    Cancellation, Escalation, EventPage, IncidentPatch, NewEvent, NewIncident, Resolution, event_view, page,
    view,
};
use crate::prepare::entropy;
use crate::query::{self, Param, Takes, param};
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply, to_json};
use crate::write::Done;
use crate::{Api, ApiError};

const SEVERITIES: &[&str] = &["critical", "warning", "info"];
const STATUSES: &[&str] = &["open", "investigating", "remediating", "resolved", "escalated", "cancelled"];
/// What a PATCH sets: the others have routes of their own.
const WORKING: &[&str] = &["open", "investigating", "remediating"];
const ACTIONS: &[&str] = &[
    "investigated",
    "attempted_fix",
    "fix_succeeded",
    "fix_failed",
    "escalated",
    "resolved",
    "cancelled",
    "capability_gap",
    "commented",
    "admin_message",
];
/// Longest title, in characters.
const TITLE: usize = 256;

static LIST: Ask =
    Ask { name: "incidents", params: of_incidents, answer: |api, call| Box::pin(list(api, call)), ..PLAIN };
static GET: Ask = Ask { name: "incident", answer: |api, call| Box::pin(get(api, call)), ..PLAIN };
static EVENTS: Ask = Ask {
    name: "incident events",
    params: || vec![query::limit(), query::cursor()],
    answer: |api, call| Box::pin(events(api, call)),
    ..PLAIN
};
static CREATE: Act =
    Act { name: "incident-create", repeats: None, carry_out: |call, tx| Box::pin(create(call, tx)) };
static PATCH: Act =
    Act { name: "incident-patch", repeats: None, carry_out: |call, tx| Box::pin(patch(call, tx)) };
static RESOLVE: Act = Act {
    name: "incident-resolve",
    repeats: None,
    carry_out: |call, tx| {
        Box::pin(async move {
            let resolution = text("resolution", call.typed::<Resolution>()?.resolution, 1, TEXT)?;
            end(call, tx, "resolved", resolution).await
        })
    },
};
static ESCALATE: Act =
    Act { name: "incident-escalate", repeats: None, carry_out: |call, tx| Box::pin(escalate(call, tx)) };
static CANCEL: Act = Act {
    name: "incident-cancel",
    repeats: None,
    carry_out: |call, tx| {
        Box::pin(async move {
            let reason = text("reason", call.typed::<Cancellation>()?.reason, 0, TEXT)?;
            end(call, tx, "cancelled", reason).await
        })
    },
};
static ADD_EVENT: Act =
    Act { name: "incident-event", repeats: None, carry_out: |call, tx| Box::pin(add_event(call, tx)) };

pub(super) fn routes() -> Vec<Route> {
    [own_routes(), gaps::routes()].concat()
}

fn own_routes() -> Vec<Route> {
    let route = |method, path, op| Route::scoped(method, path, "incidents", Tier::Brand, op);
    let one = "/incidents/{id}";
    vec![
        route(Method::GET, "/incidents", Op::Ask(&LIST))
            .gives(200, Shape::Named("IncidentPage"))
            .says("List: incidents, the newest first"),
        route(Method::POST, "/incidents", Op::Act(&CREATE))
            .takes(Shape::Named("NewIncident"))
            .gives(201, Shape::Named("Incident"))
            .says("Open an incident; 200 with the open one that has the same dedupe_key"),
        route(Method::GET, one, Op::Ask(&GET)).gives(200, Shape::Named("Incident")).says("Get: incident"),
        route(Method::PATCH, one, Op::Act(&PATCH))
            .takes(Shape::Named("IncidentPatch"))
            .gives(204, Shape::Empty)
            .says("Say how serious an incident is, who works on it and how far"),
        route(Method::POST, "/incidents/{id}/resolve", Op::Act(&RESOLVE))
            .takes(Shape::Named("Resolution"))
            .gives(204, Shape::Empty)
            .says("An incident is over"),
        route(Method::POST, "/incidents/{id}/escalate", Op::Act(&ESCALATE))
            .takes(Shape::Named("Escalation"))
            .gives(204, Shape::Empty)
            .says("An incident needs a person"),
        route(Method::POST, "/incidents/{id}/cancel", Op::Act(&CANCEL))
            .may_take(Shape::Named("Cancellation"))
            .gives(204, Shape::Empty)
            .says("An incident was none"),
        route(Method::GET, "/incidents/{id}/events", Op::Ask(&EVENTS))
            .gives(200, Shape::Named("IncidentEventPage"))
            .says("What happened about an incident, the oldest first"),
        route(Method::POST, "/incidents/{id}/events", Op::Act(&ADD_EVENT))
            .takes(Shape::Named("NewIncidentEvent"))
            .gives(201, Shape::Named("IncidentEvent"))
            .says("Add what happened about an incident"),
    ]
}

fn of_incidents() -> Vec<Param> {
    let equal = |name: &'static str| param(name, Takes::Text, format!("Only those whose {name} is this."));
    vec![
        query::limit(),
        query::cursor(),
        param("status", Takes::Word(STATUSES.to_vec()), "Only those in this status."),
        param("severity", Takes::Word(SEVERITIES.to_vec()), "Only those of this severity."),
        equal("type"),
        equal("resource_type"),
        equal("resource_id"),
        equal("source"),
    ]
}

impl Call {
    /// An incident that the caller may see.
    async fn incident(&self, tx: &mut ReadTx, id: &str) -> Result<Incident, ApiError> {
        let incident = tx.incident(id).await?.ok_or_else(|| ApiError::not_found("incident not found"))?;
        self.principal.may_use_brand(incident.brand.as_deref())?;
        Ok(incident)
    }

    fn actor(&self) -> String {
        format!("api-key:{}", self.principal.key_id)
    }

    /// An event of an incident, by the caller.
    fn event(&self, incident: &str, action: &str, detail: String, now: i64) -> IncidentEvent {
        IncidentEvent {
            id: uuid(&mut entropy),
            seq: 0,
            incident: incident.to_owned(),
            actor: self.actor(),
            action: action.to_owned(),
            detail,
            metadata: json!({}),
            created_at: now,
        }
    }
}

async fn create(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let new = call.typed::<NewIncident>()?;
    let resource_type = some(new.resource_type);
    let resource_id = some(new.resource_id);
    for (field, given) in [("resource_type", &resource_type), ("resource_id", &resource_id)] {
        if let Some(given) = given {
            text(field, given.clone(), 1, NAME)?;
        }
    }
    let brand = match &resource_id {
        Some(id) => tx.resource(id).await?.and_then(|found| found.brand),
        None => None,
    };
    call.principal.may_use_brand(brand.as_deref())?;
    let now = Draft::now(tx);
    let incident = Incident {
        id: prefixed("inc_", &mut entropy),
        brand,
        dedupe_key: text("dedupe_key", new.dedupe_key, 1, NAME)?,
        incident_type: text("type", new.r#type, 1, NAME)?,
        severity: one_of("severity", new.severity, SEVERITIES)?,
        status: "open".to_owned(),
        title: text("title", new.title, 1, TITLE)?,
        detail: text("detail", new.detail, 0, TEXT)?,
        resource_type,
        resource_id,
        source: text("source", new.source, 1, NAME)?,
        detected_at: now,
        created_at: now,
        ..Incident::default()
    };
    if let Some(open) = tx.beside().open_incident(incident.brand.as_deref(), &incident.dedupe_key).await? {
        return Ok(Done::json(&open.id, &view(&open))?.answering(StatusCode::OK));
    }
    let made = tx.put_incident(incident, None).await?;
    let done = Done::json(&made.id, &view(&made))?;
    let tells = made.severity == "critical" && incident_notice::enqueue(tx, &made, Trigger::Critical).await?;
    Ok(if tells { done.ringing() } else { done })
}

async fn patch(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let patch = call.typed::<IncidentPatch>()?;
    let before = call.incident(tx.beside(), &call.id).await?;
    still_open(&before)?;
    let mut after = before.clone();
    if let Some(status) = some(patch.status) {
        after.status = one_of("status", status, WORKING)?;
    }
    if let Some(severity) = some(patch.severity) {
        after.severity = one_of("severity", severity, SEVERITIES)?;
    }
    if let Some(assigned) = patch.assigned_to {
        after.assigned_to = some(Some(text("assigned_to", assigned, 0, NAME)?));
    }
    if after != before {
        tx.put_incident(after, Some(&before)).await?;
    }
    Ok(Done::json(&before.id, &())?.silent())
}

fn still_open(incident: &Incident) -> Result<(), ApiError> {
    if incident.is_open() {
        return Ok(());
    }
    let problem = format!("incident {} is {} already; open a new one", incident.id, incident.status);
    Err(ApiError::conflict(problem))
}

/// Resolves or cancels.
async fn end(call: &Call, tx: &mut WriteTx, status: &'static str, why: String) -> Result<Done, ApiError> {
    let before = call.incident(tx.beside(), &call.id).await?;
    still_open(&before)?;
    let now = Draft::now(tx);
    let mut after = before.clone();
    status.clone_into(&mut after.status);
    after.resolution = some(Some(why.clone()));
    after.resolved_at = Some(now);
    tx.put_incident(after, Some(&before)).await?;
    tx.add_incident_event(call.event(&before.id, status, why, now)).await?;
    Ok(Done::json(&before.id, &())?.silent())
}

async fn escalate(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let reason = text("reason", call.typed::<Escalation>()?.reason, 1, TEXT)?;
    let before = call.incident(tx.beside(), &call.id).await?;
    still_open(&before)?;
    let now = Draft::now(tx);
    let mut after = before.clone();
    "escalated".clone_into(&mut after.status);
    after.escalated_at = Some(now);
    let after = tx.put_incident(after, Some(&before)).await?;
    tx.add_incident_event(call.event(&before.id, "escalated", reason, now)).await?;
    let done = Done::json(&before.id, &())?.silent();
    let tells = incident_notice::enqueue(tx, &after, Trigger::Escalated).await?;
    Ok(if tells { done.ringing() } else { done })
}

async fn add_event(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let new = call.typed::<NewEvent>()?;
    let incident = call.incident(tx.beside(), &call.id).await?;
    let action = one_of("action", new.action, ACTIONS)?;
    let detail = text("detail", new.detail, 1, TEXT)?;
    let metadata = Value::Object(new.metadata);
    if metadata.to_string().chars().count() > TEXT {
        return Err(ApiError::invalid("metadata", format!("must have at most {TEXT} characters as JSON")));
    }
    let event = call.event(&incident.id, &action, detail, Draft::now(tx));
    let event = tx.add_incident_event(IncidentEvent { metadata, ..event }).await?;
    Done::json(&incident.id, &event_view(event))
}

async fn list(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let columns = ["status", "severity", "type", "resource_type", "resource_id", "source"];
    let equal = columns.into_iter().filter_map(|name| Some((name, call.query.text(name)?.to_owned())));
    let list = IncidentQuery {
        equal: equal.collect(),
        brands: call.principal.visible(),
        before: number_of(call)?,
        limit: call.query.limit(),
    };
    let (found, next) = api.store().read().await?.incident_page(&list).await?;
    Ok(Reply::json(200, to_json(&page(&found, next.map(|seq| seq.to_string())))?))
}

async fn get(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let incident = call.incident(&mut tx, &call.id).await?;
    Ok(Reply::json(200, to_json(&view(&incident))?))
}

async fn events(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let incident = call.incident(&mut tx, &call.id).await?;
    let after = number_of(call)?.unwrap_or_default();
    let (found, next) = tx.incident_events(&incident.id, after, call.query.limit()).await?;
    let items = found.into_iter().map(event_view).collect();
    let next_cursor = next.map(|seq| seq.to_string());
    Ok(Reply::json(200, to_json(&EventPage { items, has_more: next_cursor.is_some(), next_cursor })?))
}
