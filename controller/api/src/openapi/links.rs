//! Links of the document: where a client can go on from an answer, with the values that it has then. They follow from paths, subjects and
//! shapes of the route table; no link is written down by hand.

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::operation_id;
use crate::route::{Op, Route, Shape};
use crate::view_fields;

/// The id of what an answer shows.
const ID: &str = "$response.body#/id";

/// The links of the route's successful answer, by the operation that they lead to; `None` where nothing follows from it.
pub(super) fn links(route: &Route, routes: &[Route]) -> Option<Value> {
    let mut links = Map::new();
    for other in routes {
        if let Some(link) = follow(route, other) {
            let mut link = json!(link);
            link["operationId"] = operation_id(other).into();
            links.insert(operation_id(other), link);
        }
    }
    (!links.is_empty()).then_some(Value::Object(links))
}

/// What the other route takes of this one's answer, if it can come next.
fn follow(route: &Route, other: &Route) -> Option<Map<String, Value>> {
    match route.op {
        Op::Create(_) | Op::CreateBy(..) => after_making(route, other),
        Op::List(kind) | Op::ListBy(kind, _) if other.op == Op::Get(kind) => {
            Some(with(json!({other.param()?: "$response.body#/items/0/id"})))
        }
        // Who has read it changes what was read.
        Op::Get(kind) if matches!(other.op, Op::Update(of) | Op::Delete(of) if of == kind) => {
            let header = "$response.header.ETag";
            Some(with(json!({other.param()?: in_path(route.param()?), "If-Match": header})))
        }
        Op::Ask(_) | Op::Act(_) | Op::Order(_) => beside(route, other),
        Op::List(_)
        | Op::ListBy(..)
        | Op::Get(_)
        | Op::Receipt(_)
        | Op::Update(_)
        | Op::Delete(_)
        | Op::Retry(_)
        | Op::Undelete(_)
        | Op::History(_)
        | Op::Bulk => None,
    }
}

/// Every route of the new resource, those of what lies in it, and those that ask for something by one of its fields. What made it can be
/// undone; of other changes that is not said here, as one that changed nothing names the revision of another one.
fn after_making(route: &Route, other: &Route) -> Option<Map<String, Value>> {
    let Shape::View(kind) = route.response else { return None };
    if is_undo(other) {
        return Some(undone());
    }
    let param = other.param()?;
    if other.subject == Some(kind) {
        return Some(with(json!({param: ID})));
    }
    if matches!(other.op, Op::Ask(ask) if ask.name == "await") {
        let workflow = format!("create-{}-{{{ID}}}", kind.info().dashed());
        return Some(with(json!({param: workflow})));
    }
    let may_be_shown = param != "id" && other.subject.is_none();
    let is_shown = may_be_shown && view_fields::names(kind).iter().any(|field| field == param);
    is_shown.then(|| with(json!({param: format!("$response.body#/{param}")})))
}

/// Routes below this one's path, which has one more parameter there: the id of what was made, or the first one of what is listed. Routes
/// of the same things that take exactly what this one gives.
fn beside(route: &Route, other: &Route) -> Option<Map<String, Value>> {
    let mut parameters: Map<String, Value> = route
        .path
        .split('{')
        .skip(1)
        .filter_map(|part| part.split_once('}'))
        .map(|(param, _)| (param.to_owned(), in_path(param).into()))
        .collect();
    if let Some(below) = other.path.strip_prefix(&route.path).and_then(|rest| rest.strip_prefix("/{")) {
        let (param, _) = below.split_once('}')?;
        let field = if param == "name" { param } else { "id" };
        let place = match (&route.method, route.response) {
            (_, Shape::Empty) => return None,
            (method, _) if method == Method::GET => format!("$response.body#/items/0/{field}"),
            (method, _) if method == Method::POST => format!("$response.body#/{field}"),
            _ => return None,
        };
        parameters.insert(param.to_owned(), place.into());
        return Some(with(Value::Object(parameters)));
    }
    let is_given = matches!(route.response, Shape::Named(_)) && route.response == other.request;
    if !is_given || route.subject != other.subject || other.path.matches('{').count() != parameters.len() {
        return None;
    }
    let mut link = with(Value::Object(parameters));
    link.insert("requestBody".to_owned(), "$response.body".into());
    Some(link)
}

fn with(parameters: Value) -> Map<String, Value> {
    [("parameters".to_owned(), parameters)].into_iter().collect()
}

fn in_path(param: &str) -> String {
    format!("$request.path.{param}")
}

fn is_undo(route: &Route) -> bool {
    matches!(route.op, Op::Act(act) if act.name == "undo")
}

fn undone() -> Map<String, Value> {
    let body = json!({"revision": "$response.body#/revision"});
    [("requestBody".to_owned(), body)].into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::route::table;

    fn links_of(method: &str, path: &str) -> Value {
        let routes = table();
        let route = routes.iter().find(|route| route.method == *method && route.path == path);
        links(route.unwrap(), &routes).unwrap_or_default()
    }

    #[test]
    fn a_new_resource_leads_to_all_that_can_be_done_with_it() {
        let site = links_of("POST", "/tenants/{tenantID}/webroots");
        for id in [
            "get_webroots_by_id",
            "put_webroots_by_id",
            "patch_webroots_by_id",
            "delete_webroots_by_id",
            "get_webroots_by_id_receipt",
            "post_webroots_by_id_undelete",
        ] {
            assert_eq!(site[id]["parameters"]["id"], ID, "{id}");
        }
        assert_eq!(site["post_webroots_by_webrootID_fqdns"]["parameters"]["webrootID"], ID);
        assert_eq!(site["delete_webroots_by_webrootID_env_vars_by_name"]["parameters"]["webrootID"], ID);
        let workflow = &site["get_workflows_by_workflowID_await"]["parameters"]["workflowID"];
        assert_eq!(workflow, "create-webroot-{$response.body#/id}");
        assert_eq!(site["post_undo"]["requestBody"]["revision"], "$response.body#/revision");
        let name = links_of("POST", "/tenants/{tenantID}/fqdns");
        assert_eq!(name["get_explain_by_fqdn"]["parameters"]["fqdn"], "$response.body#/fqdn");
    }

    #[test]
    fn what_is_no_resource_is_linked_by_its_path() {
        let incident = links_of("POST", "/incidents");
        assert_eq!(incident["post_incidents_by_id_resolve"]["parameters"]["id"], ID);
        let jobs = links_of("GET", "/jobs");
        assert_eq!(jobs["post_jobs_by_id_cancel"]["parameters"]["id"], "$response.body#/items/0/id");
        let deliveries = links_of("GET", "/webhooks/{id}/deliveries");
        let again = &deliveries["post_webhooks_by_id_deliveries_by_deliveryID_redeliver"]["parameters"];
        assert_eq!(*again, json!({"id": "$request.path.id", "deliveryID": "$response.body#/items/0/id"}));
        let sealed = links_of("POST", "/webroots/{webrootID}/vault/encrypt");
        let opened = &sealed["post_webroots_by_webrootID_vault_decrypt"];
        assert_eq!(opened["requestBody"], "$response.body");
    }

    #[test]
    fn who_has_read_it_changes_what_was_read() {
        let read = links_of("GET", "/zones/{id}");
        let parameters = &read["patch_zones_by_id"]["parameters"];
        assert_eq!(*parameters, json!({"id": "$request.path.id", "If-Match": "$response.header.ETag"}));
    }

    /// Of every route with a parameter something leads to it, or the reason stands here why not.
    #[test]
    fn every_place_can_be_come_to() {
        let routes = table();
        let mut reached = BTreeSet::new();
        for route in &routes {
            if let Some(Value::Object(links)) = links(route, &routes) {
                reached.extend(links.keys().cloned());
            }
        }
        let lost: Vec<_> = routes
            .iter()
            .filter(|route| route.path.contains('{') && !reached.contains(&operation_id(route)))
            .map(|route| format!("{} {}", route.method, route.path))
            .collect();
        assert_eq!(lost, [""; 0], "no link leads to these");
    }
}
