//! Planning a shard anew.

use axum::http::Method;
use hosting_resource::{Kind, Tier};

use super::Act;
use crate::bodies::Converging;
use crate::route::{Op, Route, Shape};
use crate::write::Done;

static CONVERGE: Act = Act {
    name: "converge",
    repeats: None,
    carry_out: |call, tx| {
        Box::pin(async move {
            let shard = call.current(tx, Kind::Shard).await?;
            hosting_planner::converge_shard(tx, &shard.id).await?;
            Done::json(&shard.id, &Converging { status: "converging" })
        })
    },
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::scoped(Method::POST, "/shards/{id}/converge", "shards", Tier::Admin, Op::Act(&CONVERGE))
            .gives(202, Shape::Named("Converging"))
            .of(Some(Kind::Shard))
            .says("Plan a shard and its tenants anew"),
    ]
}
