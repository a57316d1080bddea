//! Routes beyond creating, reading, changing and deleting: one file for each kind or part of the platform that has some, which declares
//! verb, path, scope, tier, bodies and codes, and does the work. Router, OpenAPI and the authorization tests follow.

mod api_key;
mod audit;
mod authorities;
mod brand;
mod cluster;
mod config;
mod desired_state;
mod events;
mod incidents;
mod issuance;
pub(crate) mod jobs;
mod keks;
mod node;
mod node_reports;
mod ownership;
mod placement;
mod platform;
mod requests;
mod rollouts;
mod sessions;
mod shard;
mod tenant;
mod traffic;
pub(crate) mod undo;
mod usage;
mod webhook;
mod webroot;

use std::fmt;

use axum::http::Method;
use futures::future::BoxFuture;
use hosting_resource::{Kind, Resource, Tier};
use hosting_store::{Origin, ReadTx, WriteTx};
use serde_json::{Map, Value};

use crate::query::Param;
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply};
use crate::write::Done;
use crate::{Api, ApiError};

/// What a read of its own does.
pub struct Ask {
    /// Its name, for the tables of tests.
    pub name: &'static str,
    /// What its query may have.
    pub(crate) params: fn() -> Vec<Param>,
    /// Whether its answer has an entity tag.
    pub(crate) tagged: bool,
    /// The media type of its answer.
    pub(crate) media: &'static str,
    pub(crate) answer: for<'c> fn(&'c Api, &'c Call) -> BoxFuture<'c, Result<Reply, ApiError>>,
}

/// What a change of its own does, inside the write transaction.
pub struct Act {
    /// Its name, for the tables of tests.
    pub name: &'static str,
    pub(crate) carry_out: for<'c> fn(&'c Call, &'c mut WriteTx) -> BoxFuture<'c, Result<Done, ApiError>>,
    /// Its answer counts what it did; it is carried out again while it did as much as one transaction holds.
    pub(crate) repeats: Option<u32>,
}

/// What a request does that is no change of resources. Its audit row is written for itself.
pub struct Order {
    /// Its name, for the tables of tests.
    pub name: &'static str,
    pub(crate) give: for<'c> fn(&'c Api, &'c Call, Origin) -> BoxFuture<'c, Result<Value, ApiError>>,
}

/// A read without parameters and without an entity tag.
const PLAIN: Ask = Ask {
    name: "",
    params: Vec::new,
    tagged: false,
    media: "application/json",
    answer: |_, _| Box::pin(async { Err(ApiError::internal(&"a read without an answer")) }),
};

/// Adds it to the views of resources, which are in the same order.
type AddObserved = for<'c> fn(
    &'c Api,
    &'c mut ReadTx,
    &'c [Resource],
    &'c mut [Map<String, Value>],
) -> BoxFuture<'c, Result<(), ApiError>>;

/// What was seen of resources of a kind beside what is stored of them.
pub(crate) struct Observed {
    kind: Kind,
    pub(crate) add: AddObserved,
}

/// How it is added for a kind; `None`: nothing is seen of it.
pub(crate) fn observed(kind: Kind) -> Option<&'static Observed> {
    [&node::OBSERVED, &api_key::OBSERVED, &webhook::OBSERVED]
        .into_iter()
        .find(|observed| observed.kind == kind)
}

macro_rules! by_name {
    ($($kind:ty),*) => {$(
        impl PartialEq for $kind {
            fn eq(&self, other: &Self) -> bool {
                self.name == other.name
            }
        }

        impl Eq for $kind {}

        impl fmt::Debug for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name)
            }
        }
    )*};
}

by_name!(Ask, Act, Order);

/// All of them.
pub(crate) fn routes() -> Vec<Route> {
    [
        tenant::routes(),
        webroot::routes(),
        shard::routes(),
        api_key::routes(),
        brand::routes(),
        cluster::routes(),
        node::routes(),
        keks::routes(),
        authorities::routes(),
        platform::routes(),
        jobs::routes(),
        events::routes(),
        requests::routes(),
        undo::routes(),
        rollouts::routes(),
        issuance::routes(),
        ownership::routes(),
        traffic::routes(),
        usage::routes(),
        incidents::routes(),
        config::routes(),
        sessions::routes(),
        node_reports::routes(),
        placement::routes(),
        webhook::routes(),
        audit::routes(),
        desired_state::routes(),
        vec![
            Route::scoped(Method::POST, "/bulk", "bulk", Tier::Brand, Op::Bulk)
                .takes(Shape::Named("Bulk"))
                .gives(200, Shape::Named("BulkDone"))
                .says("Many changes in one call, with what became of each"),
        ],
    ]
    .concat()
}
