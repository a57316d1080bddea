//! What is no kind's: who did what, counts, search, the way of a name.

use axum::http::Method;
use hosting_resource::Tier;

use super::{Ask, PLAIN};
use crate::query;
use crate::route::{Op, Route, Shape};
use crate::service::{Reply, to_json};

static AUDIT_LOGS: Ask = Ask {
    name: "audit-logs",
    params: query::of_audit_logs,
    answer: |api, call| Box::pin(api.audit_logs(call)),
    ..PLAIN
};

static STATS: Ask = Ask { name: "stats", answer: |api, _| Box::pin(api.stats()), ..PLAIN };

static SEARCH: Ask =
    Ask { name: "search", params: query::of_search, answer: |api, call| Box::pin(api.search(call)), ..PLAIN };

static AWAIT: Ask = Ask {
    name: "await",
    params: query::of_await,
    answer: |api, call| Box::pin(api.await_workflow(call)),
    ..PLAIN
};

static EXPLAIN: Ask = Ask {
    name: "explain",
    params: query::of_explain,
    answer: |api, call| {
        Box::pin(async move {
            let explanation = match call.query.text("at") {
                Some(at) => api.explain_at(&call.principal, &call.id, at).await?,
                None => api.explain(&call.principal, &call.id).await?,
            };
            Ok(Reply::json(200, to_json(&explanation)?))
        })
    },
    ..PLAIN
};

static NAME_HISTORY: Ask = Ask {
    name: "name-history",
    params: query::of_history,
    answer: |api, call| Box::pin(api.history_of_name(call)),
    ..PLAIN
};

pub(super) fn routes() -> Vec<Route> {
    let admin = |path, ask| Route::admin(Method::GET, path, Op::Ask(ask));
    vec![
        admin("/audit-logs", &AUDIT_LOGS).gives(200, Shape::Named("AuditPage")).says("Who did what"),
        admin("/dashboard/stats", &STATS).gives(200, Shape::Named("Stats")).says("Counts for the dashboard"),
        admin("/search", &SEARCH).gives(200, Shape::Named("SearchResults")).says("Resources by id or label"),
        admin("/workflows/{workflowID}/await", &AWAIT)
            .gives(200, Shape::Named("Completed"))
            .says("Block until the resource that a workflow id names is settled"),
        Route::scoped(Method::GET, "/explain/{fqdn}", "fqdns", Tier::Brand, Op::Ask(&EXPLAIN))
            .gives(200, Shape::Named("Explanation"))
            .says("The way of a name: API, intent, edges, name servers, nodes"),
        Route::scoped(Method::GET, "/names/{fqdn}/history", "fqdns", Tier::Brand, Op::Ask(&NAME_HISTORY))
            .gives(200, Shape::Named("HistoryPage"))
            .says("What was about a name: host names, zones, records, certificates, also deleted ones"),
    ]
}
