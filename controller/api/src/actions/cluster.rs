//! What a cluster can run.

use axum::http::Method;
use hosting_planner::{Change, Draft};
use hosting_resource::kinds::cluster::{Cluster, Runtime};
use hosting_resource::{Doc, Kind, Tier};
use hosting_store::WriteTx;

use super::{Act, Ask, PLAIN};
use crate::bodies::{RuntimeView, Runtimes};
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply, to_json};
use crate::write::Done;
use crate::{Api, ApiError};

static RUNTIMES: Ask =
    Ask { name: "runtimes", tagged: true, answer: |api, call| Box::pin(runtimes(api, call)), ..PLAIN };

static ADD: Act =
    Act { name: "add runtime", repeats: None, carry_out: |call, tx| Box::pin(set_runtime(call, tx, true)) };

static REMOVE: Act = Act {
    name: "remove runtime",
    repeats: None,
    carry_out: |call, tx| Box::pin(set_runtime(call, tx, false)),
};

pub(super) fn routes() -> Vec<Route> {
    let route = |method, op| {
        Route::scoped(method, "/clusters/{id}/runtimes", "clusters", Tier::Admin, op).of(Some(Kind::Cluster))
    };
    vec![
        route(Method::GET, Op::Ask(&RUNTIMES))
            .gives(200, Shape::Named("Runtimes"))
            .says("What a cluster can run"),
        route(Method::POST, Op::Act(&ADD))
            .takes(Shape::Named("Runtime"))
            .gives(201, Shape::Named("RuntimeView"))
            .says("Add a runtime to a cluster"),
        route(Method::DELETE, Op::Act(&REMOVE))
            .takes(Shape::Named("Runtime"))
            .gives(204, Shape::Empty)
            .says("Take a runtime from a cluster"),
    ]
}

async fn runtimes(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let cluster = call.subject(&mut tx, Kind::Cluster).await?;
    let cluster = Doc::<Cluster>::read(cluster).map_err(|error| ApiError::internal(&error))?;
    let items = cluster
        .state
        .runtimes
        .iter()
        .cloned()
        .map(|runtime| RuntimeView {
            cluster_id: cluster.id.clone(),
            runtime: runtime.runtime,
            version: runtime.version,
            available: true,
        })
        .collect();
    let mut reply = Reply::json(200, to_json(&Runtimes { items, has_more: false })?);
    reply.generation = Some(cluster.generation);
    Ok(reply)
}

/// Runtimes are for information: they stand in the cluster's state, beside its spec.
async fn set_runtime(call: &Call, tx: &mut WriteTx, adds: bool) -> Result<Done, ApiError> {
    let runtime: Runtime = call.typed()?;
    for (field, text) in [("runtime", &runtime.runtime), ("version", &runtime.version)] {
        let sound = (1..=32).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !sound {
            return Err(ApiError::invalid(field, "must be 1 to 32 of A-Z a-z 0-9 . _ -"));
        }
    }
    let cluster = call.current(tx, Kind::Cluster).await?;
    let mut cluster = Doc::<Cluster>::read(cluster).map_err(|error| ApiError::internal(&error))?;
    if adds {
        cluster.state.runtimes.insert(runtime.clone());
    } else if !cluster.state.runtimes.remove(&runtime) {
        return Err(ApiError::not_found(format!(
            "the cluster has no runtime {} {}",
            runtime.runtime, runtime.version
        )));
    }
    cluster.updated_at = tx.now();
    let id = cluster.id.clone();
    tx.apply(Change { put: vec![cluster.into_resource()], ..Change::default() }).await?;
    let done = Done::json(
        &id,
        &RuntimeView {
            cluster_id: id.clone(),
            runtime: runtime.runtime,
            version: runtime.version,
            available: true,
        },
    )?;
    Ok(if adds { done } else { done.silent() })
}
