//! Signed heads of the audit chain, and the key that signs them.

use axum::http::Method;
use hosting_resource::Tier;
use hosting_store::WriteTx;

use super::{Act, Ask, PLAIN};
use crate::bodies::records::{AuditHeadPage, AuditHeadView};
use crate::query;
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply, to_json};
use crate::write::Done;
use crate::{Api, ApiError};

static HEADS: Ask = Ask {
    name: "audit heads",
    params: || vec![query::limit(), query::cursor()],
    answer: |api, call| Box::pin(heads(api, call)),
    ..PLAIN
};
static REPLACE_KEY: Act =
    Act { name: "replace audit key", repeats: None, carry_out: |_, tx| Box::pin(replace_key(tx)) };

pub(super) fn routes() -> Vec<Route> {
    let path = "/audit/heads/replace-key";
    vec![
        Route::admin(Method::GET, "/audit/heads", Op::Ask(&HEADS))
            .gives(200, Shape::Named("AuditHeadPage"))
            .says("Signed heads of the audit chain, the oldest first"),
        Route::scoped(Method::POST, path, "platform", Tier::Admin, Op::Act(&REPLACE_KEY))
            .gives(200, Shape::Named("AuditHead"))
            .says("Put a new key in the place of the one that signs heads; the answer is the head in which the former one says so"),
    ]
}

async fn heads(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let after = match call.query.text("cursor").map(str::parse::<u64>) {
        None => 0,
        Some(Ok(after)) if i64::try_from(after).is_ok() => after,
        Some(_) => {
            let problem = "is none of ours; use next_cursor of the page before, or start over without it";
            return Err(ApiError::invalid("cursor", problem));
        }
    };
    let limit = call.query.limit();
    let mut found = api.store().read().await?.audit_heads(after, limit + 1).await?;
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next_cursor = found.last().filter(|_| has_more).map(|last| last.number.to_string());
    let items = found.into_iter().map(AuditHeadView::from).collect();
    Ok(Reply::json(200, to_json(&AuditHeadPage { items, next_cursor, has_more })?))
}

async fn replace_key(tx: &mut WriteTx) -> Result<Done, ApiError> {
    let head = tx.replace_audit_key().await?;
    Done::json(&head.number.to_string(), &AuditHeadView::from(head.clone()))
}
