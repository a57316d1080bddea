//! Nodes that join, are given up, or hold something back.

use axum::http::Method;
use hosting_resource::{Kind, Tier};

use super::{Ask, Order, PLAIN};
use crate::route::{Op, Route, Shape};

static JOIN_TOKEN: Order = Order { name: "join-token", give: |api, call, _| Box::pin(api.join_token(call)) };
static FORGET: Order = Order { name: "forget", give: |api, call, origin| Box::pin(api.forget(call, origin)) };
static RELEASE: Order = Order { name: "release", give: |api, call, _| Box::pin(api.release(call)) };
static SUBSCRIBERS: Ask = Ask { name: "subscribers", answer: |api, _| Box::pin(api.subscribers()), ..PLAIN };

pub(super) fn routes() -> Vec<Route> {
    let route = |method, path, op| Route::scoped(method, path, "nodes", Tier::Admin, op);
    let node = Some(Kind::Node);
    vec![
        route(Method::POST, "/nodes/{id}/join-tokens", Op::Order(&JOIN_TOKEN))
            .gives(201, Shape::Named("JoinToken"))
            .of(node)
            .says("Make a single-use token with which the node enrols"),
        route(Method::POST, "/nodes/{id}/forget", Op::Order(&FORGET))
            .gives(200, Shape::Named("Forgotten"))
            .of(node)
            .says("Close what a dead node left open"),
        route(Method::GET, "/subscribers", Op::Ask(&SUBSCRIBERS))
            .gives(200, Shape::Named("Subscribers"))
            .says("Who applied what, and what is not applied"),
        route(Method::POST, "/subscribers/{id}/release", Op::Order(&RELEASE))
            .gives(200, Shape::Named("Released"))
            .of(node)
            .says("Let a node apply what its brake holds"),
    ]
}
