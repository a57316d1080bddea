//! What was delivered to a webhook; delivering a test or something once more; a new secret.

use std::collections::BTreeMap;

use axum::http::Method;
use hosting_planner::Draft;
use hosting_resource::kinds::webhook::rotate;
use hosting_resource::{Kind, Tier, timestamp};
use hosting_store::{ReadTx, WebhookDelivery, WriteTx};
use serde_json::{Map, Value, json};

use super::{Act, Ask, Observed, PLAIN};
use crate::bodies::webhooks::{DeliveryPage, DeliveryState, delivery_view};
use crate::prepare::entropy;
use crate::query;
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply, to_json};
use crate::write::Done;
use crate::{Api, ApiError};

/// Deliveries of a webhook that people may have asked for at once.
const ASKED: u32 = 20;

static DELIVERIES: Ask = Ask {
    name: "webhook deliveries",
    params: || vec![query::limit(), query::cursor()],
    answer: |api, call| Box::pin(list(api, call)),
    ..PLAIN
};
static TEST: Act =
    Act { name: "test webhook", repeats: None, carry_out: |call, tx| Box::pin(test(call, tx)) };
static REDELIVER: Act =
    Act { name: "redeliver", repeats: None, carry_out: |call, tx| Box::pin(redeliver(call, tx)) };
static ROTATE: Act =
    Act { name: "rotate webhook secret", repeats: None, carry_out: |call, tx| Box::pin(replace(call, tx)) };

pub(super) static OBSERVED: Observed =
    Observed { kind: Kind::Webhook, add: |_, tx, _, views| Box::pin(add_state(tx, views)) };

pub(super) fn routes() -> Vec<Route> {
    let route = |method, path: &str, op| {
        let path = format!("{}{path}", Kind::Webhook.info().item);
        Route::scoped(method, &path, Kind::Webhook.info().scope, Tier::Brand, op).of(Some(Kind::Webhook))
    };
    vec![
        route(Method::GET, "/deliveries", Op::Ask(&DELIVERIES))
            .gives(200, Shape::Named("WebhookDeliveryPage"))
            .says("What was posted to a webhook lately, the newest first, and what came of it"),
        route(Method::POST, "/test", Op::Act(&TEST))
            .gives(202, Shape::Named("WebhookDelivery"))
            .says("Post a test to a webhook, once; its deliveries say what came of it"),
        route(Method::POST, "/deliveries/{deliveryID}/redeliver", Op::Act(&REDELIVER))
            .gives(202, Shape::Named("WebhookDelivery"))
            .says("Post something to a webhook once more, under the same id, whatever came of it before"),
        route(Method::POST, "/rotate-secret", Op::Act(&ROTATE))
            .may_take(Shape::Named("Rotate"))
            .gives(200, Shape::View(Kind::Webhook))
            .says("Put a new secret in the place of this one; both sign for a while"),
    ]
}

async fn list(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let webhook = call.subject(&mut tx, Kind::Webhook).await?;
    let after = call.query.text("cursor");
    if let Some(after) = after
        && tx.webhook_delivery(&webhook.id, after).await?.is_none()
    {
        let problem = "is none of ours, or too old; start over without it";
        return Err(ApiError::invalid("cursor", problem));
    }
    let (found, has_more) = tx.webhook_deliveries(&webhook.id, after, call.query.limit()).await?;
    let next_cursor = found.last().filter(|_| has_more).map(|last| last.id.clone());
    let items = found.into_iter().map(delivery_view).collect();
    Ok(Reply::json(200, to_json(&DeliveryPage { items, next_cursor, has_more })?))
}

async fn test(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let webhook = call.current(tx, Kind::Webhook).await?;
    let now = tx.now();
    let mut random = [0u8; 16];
    entropy(&mut random);
    let body = json!({"type": "test", "timestamp": timestamp(now), "data": {"webhook_id": webhook.id}});
    let delivery = WebhookDelivery {
        webhook: webhook.id,
        id: format!("test_{}", hex::encode(random)),
        event_type: "test".to_owned(),
        body: body.to_string(),
        status: "pending",
        attempts: 0,
        created_at: now,
        attempted_at: None,
        duration_ms: None,
        response_status: None,
        answer: None,
        error: None,
    };
    ask_for(tx, delivery).await
}

async fn redeliver(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let webhook = call.current(tx, Kind::Webhook).await?;
    let found = tx.beside().webhook_delivery(&webhook.id, &call.part).await?;
    let found = found.ok_or_else(|| ApiError::not_found("delivery not found; only the newest are kept"))?;
    ask_for(tx, WebhookDelivery { status: "pending", ..found }).await
}

/// The controller that delivers finds it within a second.
async fn ask_for(tx: &mut WriteTx, delivery: WebhookDelivery) -> Result<Done, ApiError> {
    let (newest, _) = tx.beside().webhook_deliveries(&delivery.webhook, None, ASKED).await?;
    if newest.iter().filter(|one| one.status == "pending").count() >= ASKED as usize {
        return Err(ApiError::conflict(
            "many deliveries of this webhook wait already; look at what became of them",
        ));
    }
    tx.put_deliveries(std::slice::from_ref(&delivery)).await?;
    let webhook = delivery.webhook.clone();
    Done::json(&webhook, &delivery_view(delivery))
}

async fn replace(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let current = call.current(tx, Kind::Webhook).await?;
    // Whoever gets the secret hears of what the webhook hears of.
    call.may_grant(tx, Kind::Webhook, &current.spec).await?;
    let (update, secret) = rotate(&current, &call.body, tx.now(), &mut entropy)?;
    let warnings = update.warnings.clone();
    let updated = hosting_planner::update(tx, current, update).await?;
    Ok(Done::of(updated).also("secret", secret.into()).warning(&warnings))
}

/// How webhooks are getting on.
async fn add_state(tx: &mut ReadTx, views: &mut [Map<String, Value>]) -> Result<(), ApiError> {
    let id = |view: &Map<String, Value>| view.get("id").and_then(Value::as_str).map(str::to_owned);
    let ids: Vec<String> = views.iter().filter_map(id).collect();
    let positions = tx.webhook_positions(&ids).await?;
    let states: BTreeMap<&str, DeliveryState> =
        positions.iter().map(|one| (one.webhook.as_str(), DeliveryState::from(one))).collect();
    for view in views {
        if let Some(state) = id(view).and_then(|id| states.get(id.as_str())) {
            view.insert("delivery".to_owned(), to_json(state)?);
        }
    }
    Ok(())
}
