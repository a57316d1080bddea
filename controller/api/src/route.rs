//! The one table of routes. The router, OpenAPI, the reference page and the authorization tests are made from it.

use std::fmt;

use axum::http::Method;
use hosting_planner::gates::is_gated;
use hosting_planner::is_restorable;
use hosting_resource::{Kind, ListBy, Tier};

use crate::actions::{self, Act, Ask, Order};
use crate::query::{Param, declared};

pub use crate::paths::BASE;

/// What a scope allows to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// GET.
    Read,
    /// POST, PUT, PATCH and all actions.
    Write,
    /// DELETE.
    Delete,
}

impl Action {
    /// As scopes spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
        }
    }
}

/// `resource:action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scope {
    /// e.g. `zone_records`.
    pub resource: &'static str,
    /// What it allows.
    pub action: Action,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.resource, self.action.as_str())
    }
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A page of a kind.
    List(Kind),
    /// A page of what refers to a resource.
    ListBy(Kind, ListBy),
    /// One resource.
    Get(Kind),
    /// Whether each machine serves a resource.
    Receipt(Kind),
    /// A new resource.
    Create(Kind),
    /// A new resource that refers to the one in the path, and lies where that lies.
    CreateBy(Kind, ListBy),
    /// A changed resource.
    Update(Kind),
    /// A resource on its way out, or made void.
    Delete(Kind),
    /// Another attempt at what failed.
    Retry(Kind),
    /// What was deleted is back, with everything that went with it.
    Undelete(Kind),
    /// A page of what a resource was, deleted ones too.
    History(Kind),
    /// A read of its own.
    Ask(&'static Ask),
    /// A change of its own.
    Act(&'static Act),
    /// What is no change of resources, and audited.
    Order(&'static Order),
    /// Many changes at once.
    Bulk,
}

impl Op {
    /// The read of its own that it is.
    pub(crate) fn ask(self) -> Option<&'static Ask> {
        if let Self::Ask(ask) = self { Some(ask) } else { None }
    }
}

/// The shape of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Nothing.
    Empty,
    /// Body of POST.
    Create(Kind),
    /// Body of PUT.
    Update(Kind),
    /// One resource.
    View(Kind),
    /// A page of resources.
    Page(Kind),
    /// A body of its own, by its name in [`crate::bodies`].
    Named(&'static str),
}

/// One route.
#[derive(Debug, Clone)]
pub struct Route {
    /// HTTP method.
    pub method: Method,
    /// Path below [`BASE`], with `{parameters}`.
    pub path: String,
    /// What the key must allow; `None`: platform admins only.
    pub scope: Option<Scope>,
    /// Who may call.
    pub tier: Tier,
    /// What it does.
    pub op: Op,
    /// Code of success, when the caller does not wait.
    pub success: u16,
    /// Request body.
    pub request: Shape,
    /// Body of success.
    pub response: Shape,
    /// One line for the reference.
    pub summary: String,
    /// The kind that the path's first parameter names, if it names a resource.
    pub subject: Option<Kind>,
    /// What its query may have.
    pub params: Vec<Param>,
    /// Whether the request body may be left out.
    pub body_optional: bool,
}

impl Route {
    /// Whether it changes something: such routes are audited and take `?wait=ready`.
    #[must_use]
    pub fn is_mutating(&self) -> bool {
        self.method != Method::GET
    }

    /// Whether it takes `X-Callback-URL`: it changes something of a resource.
    #[must_use]
    pub fn takes_callback(&self) -> bool {
        let is_order = matches!(self.op, Op::Act(_) | Op::Order(_) | Op::Bulk);
        self.is_mutating() && (self.subject.is_some() || !is_order)
    }

    /// The whole path.
    #[must_use]
    pub fn full_path(&self) -> String {
        format!("{BASE}{}", self.path)
    }

    /// The name of the path's first parameter.
    #[must_use]
    pub fn param(&self) -> Option<&str> {
        self.path.split_once('{')?.1.split_once('}').map(|(name, _)| name)
    }

    /// The first word of the path: the resource type of audit rows, the group in the reference.
    #[must_use]
    pub fn group(&self) -> &str {
        match self.op {
            Op::List(kind)
            | Op::ListBy(kind, _)
            | Op::Get(kind)
            | Op::Receipt(kind)
            | Op::Create(kind)
            | Op::CreateBy(kind, _)
            | Op::Update(kind)
            | Op::Delete(kind)
            | Op::Retry(kind)
            | Op::Undelete(kind)
            | Op::History(kind) => kind.info().plural(),
            Op::Ask(_) | Op::Act(_) | Op::Order(_) | Op::Bulk => {
                self.path.trim_start_matches('/').split('/').next().unwrap_or_default()
            }
        }
    }
}

/// All routes.
#[must_use]
pub fn table() -> Vec<Route> {
    let mut routes: Vec<Route> = Kind::ALL.iter().flat_map(|kind| generic(*kind)).collect();
    routes.extend(actions::routes());
    routes
}

impl Route {
    /// A route of a scope's resource; the method says which action it takes.
    pub(crate) fn scoped(method: Method, path: &str, resource: &'static str, tier: Tier, op: Op) -> Self {
        let action = action_of(&method);
        Self { scope: Some(Scope { resource, action }), tier, ..Self::admin(method, path, op) }
    }

    /// A route for platform admins, whatever their scopes.
    pub(crate) fn admin(method: Method, path: &str, op: Op) -> Self {
        Self {
            params: declared(&method, op),
            body_optional: false,
            method,
            path: path.to_owned(),
            scope: None,
            tier: Tier::Admin,
            op,
            success: 200,
            request: Shape::Empty,
            response: Shape::Empty,
            summary: String::new(),
            subject: None,
        }
    }

    pub(crate) fn says(self, summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), ..self }
    }

    pub(crate) fn takes(self, request: Shape) -> Self {
        Self { request, ..self }
    }

    pub(crate) fn may_take(self, request: Shape) -> Self {
        Self { request, body_optional: true, ..self }
    }

    pub(crate) fn gives(self, success: u16, response: Shape) -> Self {
        Self { success, response, ..self }
    }

    pub(crate) fn of(self, subject: Option<Kind>) -> Self {
        Self { subject, ..self }
    }
}

/// The action that a method stands for.
fn action_of(method: &Method) -> Action {
    match method.as_str() {
        "GET" => Action::Read,
        "DELETE" => Action::Delete,
        _ => Action::Write,
    }
}

fn generic(kind: Kind) -> Vec<Route> {
    let info = kind.info();
    let name = info.title;
    let parent = info.parent.map(|parent| parent.kind);
    let route = |method, path: &str, op| Route::scoped(method, path, info.scope, info.tier, op);
    let mut routes = vec![
        route(Method::GET, info.collection, Op::List(kind))
            .gives(200, Shape::Page(kind))
            .of(parent)
            .says(format!("List: {name}")),
        route(Method::POST, info.collection, Op::Create(kind))
            .takes(Shape::Create(kind))
            .gives(info.codes.create, Shape::View(kind))
            .of(parent)
            .says(format!("Create: {name}")),
        route(Method::GET, info.item, Op::Get(kind))
            .gives(200, Shape::View(kind))
            .of(Some(kind))
            .says(format!("Get: {name}")),
        route(Method::GET, &format!("{}/history", info.item), Op::History(kind))
            .gives(200, Shape::Named("HistoryPage"))
            .of(Some(kind))
            .says(format!("What it was, also once it is deleted: {name}")),
        route(Method::DELETE, info.item, Op::Delete(kind))
            .gives(info.codes.delete, Shape::Empty)
            .of(Some(kind))
            .says(format!("{}: {name}", kind.def().deletes())),
    ];
    for list in info.lists {
        routes.push(
            route(Method::GET, list.path, Op::ListBy(kind, *list))
                .gives(200, Shape::Page(kind))
                .of(Some(list.kind))
                .says(format!("List: {name} by {}", list.kind.info().title)),
        );
        routes.push(
            route(Method::POST, list.path, Op::CreateBy(kind, *list))
                .takes(Shape::Create(kind))
                .gives(info.codes.create, Shape::View(kind))
                .of(Some(list.kind))
                .says(format!("Create: {name} with this {}", list.kind.info().title)),
        );
    }
    if let Some(code) = info.codes.update {
        for (method, says) in [(Method::PUT, "Change"), (Method::PATCH, "Change by a merge patch")] {
            routes.push(
                route(method, info.item, Op::Update(kind))
                    .takes(Shape::Update(kind))
                    .gives(code, Shape::View(kind))
                    .of(Some(kind))
                    .says(format!("{says}: {name}")),
            );
        }
    }
    if is_gated(kind) {
        routes.push(
            route(Method::GET, &format!("{}/receipt", info.item), Op::Receipt(kind))
                .gives(200, Shape::Named("Receipt"))
                .of(Some(kind))
                .says(format!("Whether each machine serves it: {name}")),
        );
    }
    if is_restorable(kind) {
        routes.push(
            route(Method::POST, &format!("{}/undelete", info.item), Op::Undelete(kind))
                .gives(202, Shape::Named("Undone"))
                .of(Some(kind))
                .says(format!("Bring back what was deleted, with everything that went with it: {name}")),
        );
    }
    if info.retry {
        routes.push(
            route(Method::POST, &format!("{}/retry", info.item), Op::Retry(kind))
                .gives(202, Shape::Empty)
                .of(Some(kind))
                .says(format!("Try again what failed: {name}")),
        );
    }
    routes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::unserved;

    #[test]
    fn no_route_stands_twice_and_admin_routes_say_so() {
        let table = table();
        let distinct: BTreeSet<_> =
            table.iter().map(|route| (route.method.to_string(), route.path.clone())).collect();
        assert_eq!(distinct.len(), table.len());
        for route in &table {
            assert!(route.scope.is_some() || route.tier == Tier::Admin, "{} {}", route.method, route.path);
            if let Some(scope) = route.scope {
                assert_eq!(scope.action, action_of(&route.method), "{} {}", route.method, route.path);
            }
            assert_eq!(route.path.contains('{'), route.param().is_some());
        }
    }

    /// Each promised route is served, or said not to be served yet, and nothing is both.
    #[test]
    fn what_is_not_served_yet_is_known() {
        let anonymous = |path: &str| {
            path.split('/')
                .map(|part| if part.starts_with('{') { "{}" } else { part })
                .collect::<Vec<_>>()
                .join("/")
        };
        let served: BTreeSet<_> =
            table().iter().map(|route| (route.method.to_string(), anonymous(&route.path))).collect();
        let unserved: Vec<_> =
            unserved().map(|(method, path)| (method.to_string(), anonymous(path))).collect();
        let distinct: BTreeSet<_> = unserved.iter().cloned().collect();
        assert_eq!(distinct.len(), unserved.len());
        assert_eq!(served.intersection(&distinct).count(), 0);
        let mut count = 0;
        for line in include_str!("../tests/api/clients.txt").lines().filter(|line| !line.is_empty()) {
            let (method, path) = line.split_once(' ').unwrap();
            let route = (method.to_owned(), anonymous(path.trim()));
            assert!(served.contains(&route) || distinct.contains(&route), "{line}");
            count += 1;
        }
        assert!(count > 210, "{count}");
    }

    /// Paths, scopes, tiers and codes that clients rely on: a promise, so it stands here a second time.
    #[test]
    fn the_promised_routes_are_there() {
        let table = table();
        let wanted = include_str!("../tests/api/routes.txt");
        let mut count = 0;
        for line in wanted.lines().filter(|line| !line.trim().is_empty()) {
            let mut words = line.split_whitespace();
            let (Some(method), Some(path), Some(scope), Some(tier), Some(code)) =
                (words.next(), words.next(), words.next(), words.next(), words.next())
            else {
                panic!("{line}");
            };
            let anonymous = |path: &str| {
                path.split('/')
                    .map(|part| if part.starts_with('{') { "{}" } else { part })
                    .collect::<Vec<_>>()
                    .join("/")
            };
            let route = table
                .iter()
                .find(|route| route.method.as_str() == method && anonymous(&route.path) == anonymous(path))
                .unwrap_or_else(|| panic!("no route {method} {path}"));
            assert_eq!(route.scope.map_or("-".to_owned(), |scope| scope.to_string()), scope, "{line}");
            assert_eq!(if route.tier == Tier::Admin { "admin" } else { "brand" }, tier, "{line}");
            assert_eq!(route.success.to_string(), code, "{line}");
            count += 1;
        }
        assert!(count > 70, "{count}");
    }
}
