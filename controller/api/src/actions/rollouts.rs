//! Changes that go out in steps, as operators see them, and their word on them: pause, resume, abort.

use axum::http::Method;
use hosting_planner::Draft as _;
use hosting_resource::{Tier, timestamp};
use hosting_store::{Member, Rollout, RolloutState, WriteTx};

use super::{Act, Ask, PLAIN};
use crate::bodies::rollouts::{RolledOutView, RolloutMember, RolloutPage, RolloutView};
use crate::query;
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply, to_json};
use crate::write::Done;
use crate::{Api, ApiError};

static LIST: Ask = Ask {
    name: "rollouts",
    params: query::of_rollouts,
    answer: |api, call| Box::pin(list(api, call)),
    ..PLAIN
};
static GET: Ask = Ask { name: "rollout", answer: |api, call| Box::pin(get(api, call)), ..PLAIN };
static PAUSE: Act = Act {
    name: "rollout-pause",
    repeats: None,
    carry_out: |call, tx| {
        Box::pin(turn(call, tx, |rollout, by| match rollout.state {
            RolloutState::Waiting | RolloutState::Running => {
                Some(Rollout { state: RolloutState::Paused, reason: format!("paused by {by}"), ..rollout })
            }
            RolloutState::Paused
            | RolloutState::Reverting
            | RolloutState::Done
            | RolloutState::Reverted
            | RolloutState::Replaced => None,
        }))
    },
};
static RESUME: Act = Act {
    name: "rollout-resume",
    repeats: None,
    carry_out: |call, tx| {
        Box::pin(turn(call, tx, |rollout, _| {
            let is_paused = rollout.state == RolloutState::Paused;
            // One that had not begun takes its place among the others again.
            let state = if rollout.step == 0 { RolloutState::Waiting } else { RolloutState::Running };
            is_paused.then_some(Rollout { state, reason: String::new(), revert: None, ..rollout })
        }))
    },
};
static ABORT: Act = Act {
    name: "rollout-abort",
    repeats: None,
    carry_out: |call, tx| {
        Box::pin(turn(call, tx, |rollout, by| {
            let is_open = rollout.state.is_open() && rollout.state != RolloutState::Reverting;
            let reason = format!("aborted by {by}");
            is_open.then_some(Rollout { state: RolloutState::Reverting, reason, revert: None, ..rollout })
        }))
    },
};

pub(super) fn routes() -> Vec<Route> {
    let route = |method, path, op| Route::scoped(method, path, "rollouts", Tier::Admin, op);
    vec![
        route(Method::GET, "/rollouts", Op::Ask(&LIST))
            .gives(200, Shape::Named("RolloutPage"))
            .says("List: changes that go out in steps, the newest first"),
        route(Method::GET, "/rollouts/{id}", Op::Ask(&GET))
            .gives(200, Shape::Named("Rollout"))
            .says("A change that goes out in steps: to whom it has come, and why it was stopped"),
        route(Method::POST, "/rollouts/{id}/pause", Op::Act(&PAUSE))
            .gives(200, Shape::Named("Rollout"))
            .says("Leave a rollout where it is; it stays watched"),
        route(Method::POST, "/rollouts/{id}/resume", Op::Act(&RESUME))
            .gives(200, Shape::Named("Rollout"))
            .says("Let a paused rollout go on"),
        route(Method::POST, "/rollouts/{id}/abort", Op::Act(&ABORT))
            .gives(200, Shape::Named("Rollout"))
            .says("Take a rollout's change back, for everybody at once"),
    ]
}

async fn list(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let before = match call.query.text("cursor").map(str::parse) {
        None => u64::MAX,
        Some(Ok(id)) => id,
        Some(Err(_)) => {
            let problem = "is none of ours; use next_cursor of the page before, or start over without it";
            return Err(ApiError::invalid("cursor", problem));
        }
    };
    let limit = call.query.limit();
    let mut rollouts = api.store().read().await?.rollouts(before, limit.saturating_add(1)).await?;
    let has_more = rollouts.len() > limit as usize;
    rollouts.truncate(limit as usize);
    let next_cursor = has_more.then(|| rollouts.last().map(|one| one.id.to_string())).flatten();
    let items = rollouts.iter().map(|rollout| view(rollout, None)).collect();
    Ok(Reply::json(200, to_json(&RolloutPage { items, has_more, next_cursor })?))
}

async fn get(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let rollout = tx.rollout(id(call)?).await?.ok_or_else(unknown)?;
    let items = tx.rollout_items(rollout.id).await?;
    Ok(Reply::json(200, to_json(&view(&rollout, Some(items)))?))
}

fn id(call: &Call) -> Result<u64, ApiError> {
    call.id.parse().ok().filter(|id| i64::try_from(*id).is_ok()).ok_or_else(unknown)
}

fn unknown() -> ApiError {
    ApiError::not_found("rollout not found")
}

/// A person's word on a rollout that is under way.
async fn turn(
    call: &Call,
    tx: &mut WriteTx,
    change: fn(Rollout, &str) -> Option<Rollout>,
) -> Result<Done, ApiError> {
    let rollout = tx.beside().rollout(id(call)?).await?.ok_or_else(unknown)?;
    let state = rollout.state.name();
    let by = format!("api key {}", call.principal.key_id);
    let mut rollout = change(rollout, &by).ok_or_else(|| {
        ApiError::conflict(format!("the rollout is {state}; that cannot be asked of it now"))
    })?;
    rollout.changed_at = tx.now();
    tx.put_rollout(&rollout).await?;
    Done::json(&call.id, &view(&rollout, None))
}

fn view(rollout: &Rollout, items: Option<u64>) -> RolloutView {
    let member =
        |(audience, node): &Member| RolloutMember { audience: audience.to_string(), node_id: node.clone() };
    RolloutView {
        id: rollout.id.to_string(),
        state: rollout.state.name(),
        reason: rollout.reason.clone(),
        created_at: timestamp(rollout.began_at),
        updated_at: timestamp(rollout.changed_at),
        api_key_id: rollout.by.clone(),
        of: rollout
            .of
            .iter()
            .map(|one| RolledOutView { kind: one.kind.clone(), id: one.id.clone(), name: one.name.clone() })
            .collect(),
        revisions: rollout.revisions.clone(),
        replaces: rollout.replaces.iter().map(u64::to_string).collect(),
        audiences: rollout.audiences.iter().map(ToString::to_string).collect(),
        items,
        step: rollout.step,
        reached: rollout.opened.iter().map(member).collect(),
        conflicts: rollout.conflicts.clone(),
    }
}
