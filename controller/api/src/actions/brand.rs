//! The clusters that a brand may use.

use axum::http::Method;
use hosting_resource::kinds::brand::{Brand, set_clusters};
use hosting_resource::{Doc, Kind, Tier};
use hosting_store::WriteTx;
use serde_json::json;

use super::{Act, Ask, PLAIN};
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply};
use crate::write::Done;
use crate::{Api, ApiError};

static CLUSTERS: Ask =
    Ask { name: "brand clusters", tagged: true, answer: |api, call| Box::pin(clusters(api, call)), ..PLAIN };

static SET_CLUSTERS: Act =
    Act { name: "set brand clusters", repeats: None, carry_out: |call, tx| Box::pin(set(call, tx)) };

pub(super) fn routes() -> Vec<Route> {
    let route = |method, op| {
        Route::scoped(method, "/brands/{id}/clusters", "brands", Tier::Brand, op)
            .gives(200, Shape::Named("BrandClusters"))
            .of(Some(Kind::Brand))
    };
    vec![
        route(Method::GET, Op::Ask(&CLUSTERS)).says("The clusters that a brand may use; none: all"),
        route(Method::PUT, Op::Act(&SET_CLUSTERS))
            .takes(Shape::Named("BrandClusters"))
            .says("Set the clusters that a brand may use"),
    ]
}

async fn clusters(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let brand = call.subject(&mut tx, Kind::Brand).await?;
    let brand = Doc::<Brand>::read(brand).map_err(|error| ApiError::internal(&error))?;
    let mut reply = Reply::json(200, json!({"cluster_ids": brand.spec.cluster_ids}));
    reply.generation = Some(brand.generation);
    Ok(reply)
}

async fn set(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let current = call.current(tx, Kind::Brand).await?;
    let update = set_clusters(&current, &call.body)?;
    call.may_set(&current, &update.spec)?;
    let cluster_ids = update.spec.get("cluster_ids").cloned().unwrap_or_default();
    let warnings = update.warnings.clone();
    let updated = hosting_planner::update(tx, current, update).await?;
    Ok(Done::of(updated).also("cluster_ids", cluster_ids).warning(&warnings))
}
