//! Nodes and shards that are emptied, and what would fail without some nodes.

use std::collections::BTreeSet;

use axum::http::Method;
use hosting_intent::{Audience, Intent, Key, Kind as IntentKind};
use hosting_planner::{
    Of, Place, World, drain_node, drain_shard, failing_names, undrain_node, undrain_shard, without,
};
use hosting_resource::kinds::node::Node;
use hosting_resource::kinds::shard::Shard;
use hosting_resource::{Doc, DrainingView, Kind, Tier};
use hosting_store::{ReadTx, WriteTx};

use super::{Act, Ask, PLAIN};
use crate::bodies::placement::{
    Drain, FailingNameView, LeftView, NodeDrain, PoolOfNode, ShardDrain, WithoutView,
};
use crate::query::{Param, Takes, cursor, limit, param};
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply, to_json};
use crate::write::Done;
use crate::{Api, ApiError};

/// Nodes that one question may name.
const MAX_NODES: usize = 200;

static DRAIN_NODE: Act = Act {
    name: "drain-node",
    repeats: None,
    carry_out: |call, tx| {
        Box::pin(async move {
            let node = call.current(tx, Kind::Node).await?;
            Ok(Done::of(drain_node(tx, &node.id, call.is_forced()?).await?))
        })
    },
};

static UNDRAIN_NODE: Act = Act {
    name: "undrain-node",
    repeats: None,
    carry_out: |call, tx| {
        Box::pin(async move {
            let node = call.current(tx, Kind::Node).await?;
            Ok(Done::of(undrain_node(tx, &node.id).await?))
        })
    },
};

static DRAIN_SHARD: Act = Act {
    name: "drain-shard",
    repeats: None,
    carry_out: |call, tx| {
        Box::pin(async move {
            let shard = call.current(tx, Kind::Shard).await?;
            Ok(Done::of(drain_shard(tx, &shard.id, call.is_forced()?).await?))
        })
    },
};

static UNDRAIN_SHARD: Act = Act {
    name: "undrain-shard",
    repeats: None,
    carry_out: |call, tx: &mut WriteTx| {
        Box::pin(async move {
            let shard = call.current(tx, Kind::Shard).await?;
            Ok(Done::of(undrain_shard(tx, &shard.id).await?))
        })
    },
};

static NODE_DRAIN: Ask =
    Ask { name: "node-drain", answer: |api, call| Box::pin(node_drain(api, call)), ..PLAIN };
static SHARD_DRAIN: Ask =
    Ask { name: "shard-drain", answer: |api, call| Box::pin(shard_drain(api, call)), ..PLAIN };
static WITHOUT: Ask = Ask {
    name: "without",
    params: of_without,
    answer: |api, call| Box::pin(what_fails_without(api, call)),
    ..PLAIN
};

pub(super) fn routes() -> Vec<Route> {
    let mut routes = vec![
        Route::scoped(Method::GET, "/plan/without", "nodes", Tier::Admin, Op::Ask(&WITHOUT))
            .gives(200, Shape::Named("Without"))
            .says("What would fail without some nodes"),
    ];
    for (kind, drain, undrain, status, shape) in [
        (Kind::Node, &DRAIN_NODE, &UNDRAIN_NODE, &NODE_DRAIN, "NodeDrain"),
        (Kind::Shard, &DRAIN_SHARD, &UNDRAIN_SHARD, &SHARD_DRAIN, "ShardDrain"),
    ] {
        let info = kind.info();
        let route = |method, path: &str, op| {
            Route::scoped(method, &format!("{}{path}", info.item), info.scope, Tier::Admin, op).of(Some(kind))
        };
        routes.extend([
            route(Method::POST, "/drain", Op::Act(drain))
                .may_take(Shape::Named("Drain"))
                .gives(200, Shape::View(kind))
                .says(format!("Empty it: {}", info.title)),
            route(Method::POST, "/undrain", Op::Act(undrain))
                .gives(200, Shape::View(kind))
                .says(format!("Take back that it is emptied: {}", info.title)),
            route(Method::GET, "/drain", Op::Ask(status))
                .gives(200, Shape::Named(shape))
                .says(format!("How far it is emptied: {}", info.title)),
        ]);
    }
    routes
}

fn of_without() -> Vec<Param> {
    vec![param("nodes", Takes::Text, "Ids of nodes, with commas between; at most 200."), limit(), cursor()]
}

impl Call {
    fn is_forced(&self) -> Result<bool, ApiError> {
        Ok(self.typed::<Drain>()?.force)
    }
}

async fn node_drain(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let node = call.subject(&mut tx, Kind::Node).await?;
    let node = Doc::<Node>::read(node).map_err(|error| ApiError::internal(&error))?;
    let mut pools = Vec::new();
    for place in &node.state.shards {
        pools.extend(pool_of(api, &mut tx, &node, place.shard_id.as_str()).await?);
    }
    let is_out =
        node.state.draining.is_some() && pools.iter().all(|pool| !pool.serves && pool.waits_for.is_empty());
    let draining = node.state.draining.map(DrainingView::from);
    Ok(Reply::json(200, to_json(&NodeDrain { draining, is_out, pools })?))
}

/// Where a node stands in the pool of one of its shards.
async fn pool_of(
    api: &Api,
    tx: &mut ReadTx,
    node: &Doc<Node>,
    shard: &str,
) -> Result<Option<PoolOfNode>, ApiError> {
    let Some(found) = tx.resource(shard).await? else { return Ok(None) };
    let Ok(audience) = Audience::edge(found.parent.as_deref().unwrap_or_default()) else { return Ok(None) };
    let Some(row) = tx.intent(&audience, &Key::new(IntentKind::ShardPool, shard)).await? else {
        return Ok(None);
    };
    let Ok(Intent::ShardPool(pool)) = Intent::parse(&row.key, &row.value) else { return Ok(None) };
    let serving = pool.nodes.iter().filter(|one| one.in_service);
    let others = serving.clone().filter(|one| one.node_id != node.id).count() as u64;
    let behind = api.platform().fleet().subscribers(&audience).into_iter();
    let waits_for = behind.filter(|edge| edge.in_service && edge.applied < row.revision);
    Ok(Some(PoolOfNode {
        shard_id: shard.to_owned(),
        shard_name: found.label,
        serves: serving.clone().any(|one| one.node_id == node.id),
        others_serving: others,
        waits_for: waits_for.map(|edge| edge.node_id).collect(),
    }))
}

async fn shard_drain(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let shard = call.subject(&mut tx, Kind::Shard).await?;
    let shard = Doc::<Shard>::read(shard).map_err(|error| ApiError::internal(&error))?;
    let tenants = tx.usage(&[(shard.id.clone(), Kind::Tenant)]).await?.first().copied().unwrap_or_default();
    let draining = shard.state.draining.map(DrainingView::from);
    let is_empty = tenants == 0;
    Ok(Reply::json(200, to_json(&ShardDrain { draining, tenants, is_empty })?))
}

async fn what_fails_without(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let given = call.query.text("nodes").ok_or_else(|| ApiError::invalid("nodes", "is required"))?;
    let nodes: BTreeSet<String> =
        given.split(',').map(str::trim).filter(|node| !node.is_empty()).map(str::to_owned).collect();
    if nodes.is_empty() || nodes.len() > MAX_NODES {
        return Err(ApiError::invalid("nodes", format!("must be 1 to {MAX_NODES} ids of nodes")));
    }
    let from = match call.query.text("cursor") {
        Some(text) => place(text).ok_or_else(|| {
            let problem = "is none of ours; use next_cursor of the page before, or start over without it";
            ApiError::invalid("cursor", problem)
        })?,
        None => Place::default(),
    };
    let mut tx = api.store().read().await?;
    let found = without(&mut tx, &nodes).await?;
    if let Some(unknown) = found.unknown.first() {
        return Err(ApiError::invalid("nodes", format!("there is no node {unknown:?}")));
    }
    let lost: Vec<Of> =
        found.left.iter().filter(|left| left.serving == 0).map(|left| left.of.clone()).collect();
    let (names, next) = failing_names(&mut tx, &lost, &from, call.query.limit() as usize).await?;
    let view = WithoutView {
        parts: found.left.iter().map(LeftView::of).collect(),
        names: names.iter().map(FailingNameView::of).collect(),
        has_more: next.is_some(),
        next_cursor: next.as_ref().map(text),
    };
    Ok(Reply::json(200, to_json(&view)?))
}

/// A place as a client gets it.
fn text(place: &Place) -> String {
    let Place { part, owner, name, is_within } = place;
    // Numbers and texts only: this cannot fail.
    hex::encode(serde_json::to_vec(&(part, owner, name, is_within)).unwrap_or_default())
}

/// The inverse of [`text`].
fn place(text: &str) -> Option<Place> {
    let (part, owner, name, is_within) = serde_json::from_slice(&hex::decode(text).ok()?).ok()?;
    Some(Place { part, owner, name, is_within })
}
