//! What nodes say of themselves over the API: their health, and what they found otherwise than it should be.

use axum::http::Method;
use hosting_planner::Draft;
use hosting_resource::{Kind, Tier, timestamp, uuid};
use hosting_store::{DriftEvent, NodeHealth, WriteTx};
use serde_json::{Map, Value};

use super::incidents::checks::text;
use super::{Act, Ask, PLAIN};
use crate::bodies::records::{Drift, Drifts, Health, NewDrifts, NewHealth};
use crate::prepare::entropy;
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply, to_json};
use crate::write::Done;
use crate::{Api, ApiError};

/// Events of one body.
const MAX_EVENTS: usize = 500;
/// Events that are shown.
const SHOWN: u32 = 100;
/// Longest word, in characters.
const WORD: usize = 255;
/// See above.
const TEXT: usize = 16 * 1024;

static HEALTH: Ask = Ask { name: "node health", answer: |api, call| Box::pin(health(api, call)), ..PLAIN };
static DRIFT: Ask = Ask { name: "node drift", answer: |api, call| Box::pin(drift(api, call)), ..PLAIN };
static SAY_HEALTH: Act =
    Act { name: "say node health", repeats: None, carry_out: |call, tx| Box::pin(say_health(call, tx)) };
static SAY_DRIFT: Act =
    Act { name: "say node drift", repeats: None, carry_out: |call, tx| Box::pin(say_drift(call, tx)) };

pub(super) fn routes() -> Vec<Route> {
    let route = |method, path, op| Route::scoped(method, path, "nodes", Tier::Admin, op).of(Some(Kind::Node));
    let (health, drift) = ("/internal/v1/nodes/{nodeID}/health", "/internal/v1/nodes/{nodeID}/drift-events");
    vec![
        route(Method::GET, health, Op::Ask(&HEALTH))
            .gives(200, Shape::Named("NodeHealth"))
            .says("What a node said of its health last"),
        route(Method::POST, health, Op::Act(&SAY_HEALTH))
            .takes(Shape::Named("NewNodeHealth"))
            .gives(204, Shape::Empty)
            .says("Say how a node is"),
        route(Method::GET, drift, Op::Ask(&DRIFT))
            .gives(200, Shape::Named("DriftEvents"))
            .says("What a node found otherwise than it should be, the newest hundred"),
        route(Method::POST, drift, Op::Act(&SAY_DRIFT))
            .takes(Shape::Named("NewDriftEvents"))
            .gives(204, Shape::Empty)
            .says("Say what a node found otherwise than it should be"),
    ]
}

fn object(field: &str, given: Map<String, Value>) -> Result<String, ApiError> {
    let json = Value::Object(given).to_string();
    if json.chars().count() > TEXT || json.contains("\\u0000") {
        return Err(ApiError::invalid(
            field,
            format!("must have at most {TEXT} characters as JSON, none of them NUL"),
        ));
    }
    Ok(json)
}

async fn say_health(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let node = call.current(tx, Kind::Node).await?;
    let new = call.typed::<NewHealth>()?;
    let now = Draft::now(tx);
    let reported_at = match new.reported_at {
        None => now,
        Some(text) => text
            .parse::<jiff::Timestamp>()
            .map_err(|_| ApiError::invalid("reported_at", "must be a time as in RFC 3339"))?
            .as_millisecond(),
    };
    let health = NodeHealth {
        status: text("status", new.status, 1, WORD)?,
        checks: object("checks", new.checks)?,
        reconciliation: object("reconciliation", new.reconciliation)?,
        reported_at,
        received_at: now,
    };
    tx.put_node_health(&node.id, &health).await?;
    Ok(Done::json(&node.id, &())?.silent())
}

async fn say_drift(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let node = call.current(tx, Kind::Node).await?;
    let new = call.typed::<NewDrifts>()?.events;
    if new.len() > MAX_EVENTS {
        return Err(ApiError::invalid("events", format!("must be at most {MAX_EVENTS}")));
    }
    let now = Draft::now(tx);
    let mut events = Vec::new();
    for (n, event) in new.into_iter().enumerate() {
        let field = |name: &str| format!("events[{n}].{name}");
        events.push(DriftEvent {
            id: uuid(&mut entropy),
            kind: text(&field("kind"), event.kind, 1, WORD)?,
            resource: text(&field("resource"), event.resource, 1, WORD)?,
            action: text(&field("action"), event.action, 1, WORD)?,
            detail: text(&field("detail"), event.detail, 0, TEXT)?,
            created_at: now,
        });
    }
    tx.add_drift_events(&node.id, &events).await?;
    Ok(Done::json(&node.id, &())?.silent())
}

async fn health(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let node = call.subject(&mut tx, Kind::Node).await?;
    let health = tx.node_health(&node.id).await?;
    let health = health.ok_or_else(|| ApiError::not_found("the node has not said anything of its health"))?;
    let json = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| ApiError::internal(&error));
    let shown = Health {
        node_id: node.id,
        checks: json(&health.checks)?,
        reconciliation: json(&health.reconciliation)?,
        status: health.status,
        reported_at: timestamp(health.reported_at),
        received_at: timestamp(health.received_at),
    };
    Ok(Reply::json(200, to_json(&shown)?))
}

async fn drift(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let node = call.subject(&mut tx, Kind::Node).await?;
    let mut events = tx.drift_events(&node.id, SHOWN + 1).await?;
    let has_more = events.len() > SHOWN as usize;
    events.truncate(SHOWN as usize);
    let items = events.into_iter().map(|event| Drift {
        id: event.id,
        node_id: node.id.clone(),
        kind: event.kind,
        resource: event.resource,
        action: event.action,
        detail: event.detail,
        created_at: timestamp(event.created_at),
    });
    Ok(Reply::json(200, to_json(&Drifts { items: items.collect(), has_more })?))
}
