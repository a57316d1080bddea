//! Nodes that join, are given up, or hold something back.

use axum::http::Method;
use hosting_planner::node_audiences;
use hosting_resource::kinds::node::Node;
use hosting_resource::{Doc, Kind, Resource, Tier, timestamp};
use serde_json::{Map, Value};

use super::{Ask, Observed, Order, PLAIN};
use crate::route::{Op, Route, Shape};
use crate::{Api, SubscriberView};

pub(super) static OBSERVED: Observed = Observed {
    kind: Kind::Node,
    add: |api, _, nodes, views| {
        Box::pin(async move {
            views.iter_mut().zip(nodes).for_each(|(view, node)| api.add_health(view, node));
            Ok(())
        })
    },
};

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

impl Api {
    /// When the node was last heard of, and whether it is in service.
    fn add_health(&self, view: &mut Map<String, Value>, node: &Resource) {
        let audiences = Doc::<Node>::of(node).map(|node| node_audiences(&node)).unwrap_or_default();
        let sessions: Vec<SubscriberView> =
            audiences.iter().filter_map(|audience| self.platform().subscriber(audience, &node.id)).collect();
        let heard = sessions
            .iter()
            .filter(|session| !session.build.is_empty())
            .map(|session| session.silent_for)
            .min();
        if let Some(silent) = heard {
            let millis = i64::try_from(silent.as_millis()).unwrap_or(i64::MAX);
            let at = self.store().now().saturating_sub(millis);
            view.insert("last_health_at".to_owned(), timestamp(at).into());
        }
        if !sessions.is_empty() {
            view.insert("in_service".to_owned(), sessions.iter().all(|session| session.in_service).into());
        }
    }
}
