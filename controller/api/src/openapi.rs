//! OpenAPI 3.1 and the reference page, both from the route table and the kinds' schemas.

use std::fmt::Write;

use hosting_resource::{Kind, Tier};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::bodies;
use crate::route::{BASE, Op, Route, Shape};

/// All schemas that routes refer to, by name, and the name of each shape.
pub(crate) struct Schemas {
    generator: SchemaGenerator,
    named: Map<String, Value>,
}

impl Schemas {
    pub(crate) fn new() -> Self {
        let settings = SchemaSettings::draft2020_12()
            .with(|settings| settings.definitions_path = "/components/schemas".into());
        Self { generator: settings.into_generator(), named: Map::new() }
    }

    /// A reference to the shape's schema, which is added if it is not there yet; `None` for no body.
    pub(crate) fn refer(&mut self, shape: Shape) -> Option<Value> {
        let name = name_of(shape)?;
        let reference = reference(&name);
        if self.named.contains_key(&name) {
            return Some(reference);
        }
        let schema = match shape {
            Shape::Empty => return None,
            Shape::Create(kind) => kind.def().create_schema(&mut self.generator).to_value(),
            Shape::Update(kind) => kind.def().update_schema(&mut self.generator).to_value(),
            Shape::View(kind) => kind.def().view_schema(&mut self.generator).to_value(),
            Shape::Page(kind) => {
                let items = self.refer(Shape::View(kind))?;
                json!({
                    "type": "object",
                    "required": ["items", "has_more"],
                    "properties": {
                        "items": {"type": "array", "items": items},
                        "next_cursor": {"type": "string", "description": "Opaque; absent on the last page."},
                        "has_more": {"type": "boolean"},
                    },
                })
            }
            Shape::Named(name) => bodies::named(name)?(&mut self.generator).to_value(),
        };
        self.named.insert(name, schema);
        Some(reference)
    }

    /// Every schema, named and referred to.
    pub(crate) fn finish(mut self) -> Map<String, Value> {
        let mut all = self.generator.take_definitions(true);
        all.extend(self.named);
        all
    }
}

/// The name of a shape's schema; `None` for no body.
pub(crate) fn name_of(shape: Shape) -> Option<String> {
    match shape {
        Shape::Empty => None,
        Shape::Create(kind) => Some(format!("{}Create", pascal(kind))),
        Shape::Update(kind) => Some(format!("{}Update", pascal(kind))),
        Shape::View(kind) => Some(pascal(kind)),
        Shape::Page(kind) => Some(format!("{}Page", pascal(kind))),
        Shape::Named(name) => Some(name.to_owned()),
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// `ZoneRecord`
fn pascal(kind: Kind) -> String {
    kind.name()
        .split('_')
        .map(|word| {
            let mut letters = word.chars();
            letters
                .next()
                .map(|first| first.to_ascii_uppercase())
                .into_iter()
                .chain(letters)
                .collect::<String>()
        })
        .collect()
}

fn query(name: &str, kind: &str, about: &str) -> Value {
    json!({"name": name, "in": "query", "required": false, "description": about, "schema": {"type": kind}})
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut parameters: Vec<Value> = route
        .path
        .split('{')
        .skip(1)
        .filter_map(|part| part.split_once('}'))
        .map(|(name, _)| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    match route.op {
        Op::List(kind) | Op::ListBy(kind, _) => {
            let info = kind.info();
            parameters.push(query("limit", "integer", "1 to 200, default 50."));
            parameters.push(query("cursor", "string", "next_cursor of the page before."));
            parameters.push(query("status", "string", "Only those in this status."));
            if info.search.is_some() {
                parameters.push(query("search", "string", "Only those whose id or name contains this."));
            }
            if !info.sort.is_empty() {
                let keys: Vec<_> = info.sort.iter().map(|(key, _)| *key).collect();
                parameters
                    .push(json!({"name": "sort", "in": "query", "schema": {"type": "string", "enum": keys}}));
                parameters.push(
                    json!({"name": "order", "in": "query", "schema": {"type": "string", "enum": ["asc", "desc"], "default": "desc"}}),
                );
            }
            for filter in info.filters {
                parameters.push(query(filter, "string", "Only those with this value."));
            }
        }
        Op::AuditLogs => {
            for (name, about) in [
                ("search", "In resource type or method."),
                ("resource_type", "e.g. webroots"),
                ("resource_id", "An id."),
                ("action", "HTTP method."),
                ("date_from", "RFC 3339, included."),
                ("date_to", "RFC 3339, excluded."),
                ("sort", "created_at, method or resource_type."),
                ("order", "asc or desc."),
                ("cursor", "next_cursor of the page before."),
            ] {
                parameters.push(query(name, "string", about));
            }
            parameters.push(query("limit", "integer", "1 to 200, default 50."));
        }
        Op::Search => {
            parameters.push(query("q", "string", "Part of an id or name."));
            parameters.push(query("limit", "integer", "Per type: 1 to 20, default 5."));
        }
        Op::Await => parameters.push(query("wait_timeout", "integer", "Seconds, 1 to 300, default 300.")),
        Op::Get(_)
        | Op::Create(_)
        | Op::Update(_)
        | Op::Delete(_)
        | Op::Retry(_)
        | Op::Suspend
        | Op::Unsuspend
        | Op::RetryFailed
        | Op::Summary
        | Op::Converge
        | Op::BrandClusters
        | Op::SetBrandClusters
        | Op::Runtimes
        | Op::AddRuntime
        | Op::RemoveRuntime
        | Op::Stats
        | Op::JoinToken
        | Op::Forget
        | Op::Subscribers
        | Op::Release
        | Op::Explain => {}
    }
    if route.is_mutating() {
        parameters.push(json!({
            "name": "wait", "in": "query", "schema": {"type": "string", "enum": ["ready"]},
            "description": "Answer only when the whole fleet in service has it: 200 ready, 202 at the time limit, 409 rejected.",
        }));
        parameters.push(query("wait_timeout", "integer", "Seconds, 1 to 300, default 30."));
        parameters.push(json!({
            "name": "If-Match", "in": "header", "schema": {"type": "string"},
            "description": "The generation that the change is meant for; another one is answered with 412.",
        }));
    }
    parameters
}

fn answers(route: &Route, schemas: &mut Schemas) -> Value {
    let content = |schema: Value| json!({"application/json": {"schema": schema}});
    let error = json!({"$ref": "#/components/schemas/Error"});
    let mut answers = Map::new();
    let mut success = json!({"description": "Success"});
    if let Some(schema) = schemas.refer(route.response) {
        success["content"] = content(schema);
    }
    answers.insert(route.success.to_string(), success);
    let mut codes =
        vec![(401, "No key, or one that is not valid"), (403, "Scope, brand or tier do not allow it")];
    if route.path.contains('{') {
        codes.push((404, "There is no such resource"));
    }
    if route.is_mutating() {
        codes.extend([
            (400, "The body breaks a rule"),
            (409, "The state of things does not allow it, or the fleet rejected it"),
            (412, "If-Match names another generation"),
            (501, "A field or value that is not served yet"),
        ]);
    }
    for (code, about) in codes {
        answers.insert(code.to_string(), json!({"description": about, "content": content(error.clone())}));
    }
    Value::Object(answers)
}

/// The OpenAPI document.
pub(crate) fn document(routes: &[Route]) -> Value {
    let mut schemas = Schemas::new();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let mut operation = json!({
            "operationId": operation_id(route),
            "summary": route.summary,
            "tags": [route.group()],
            "parameters": parameters(route),
            "responses": answers(route, &mut schemas),
            "security": [{"bearer": []}, {"key": []}],
            "x-tier": if route.tier == Tier::Admin { "admin" } else { "brand" },
        });
        if let Some(scope) = route.scope {
            operation["x-scope"] = scope.to_string().into();
        }
        if let Some(schema) = schemas.refer(route.request) {
            operation["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": schema}}});
        }
        let methods = paths.entry(route.full_path()).or_insert_with(|| json!({}));
        methods[route.method.as_str().to_ascii_lowercase()] = operation;
    }
    let mut all = schemas.finish();
    all.insert(
        "Error".to_owned(),
        json!({
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {"type": "string", "description": "What is wrong and what to do."},
                "field": {"type": "string", "description": "The field that is wrong."},
            },
        }),
    );
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hosting platform",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Changes are answered with a generation (of the resource) and a revision (of the whole platform).",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": all,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    })
}

fn operation_id(route: &Route) -> String {
    let mut id = route.method.as_str().to_ascii_lowercase();
    for part in route.path.split('/').filter(|part| !part.is_empty()) {
        let word = part.trim_matches(|c| c == '{' || c == '}');
        id.push('_');
        if part.starts_with('{') {
            id.push_str("by_");
        }
        id.push_str(&word.replace('-', "_"));
    }
    id
}

/// The reference page: every route on one page, without scripts.
pub(crate) fn page(routes: &[Route]) -> String {
    let mut html = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>API reference</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>\
         body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222;background:#fff}\
         table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd}\
         code{font:14px ui-monospace,monospace}h2{margin-top:2rem}</style></head><body><h1>API reference</h1>\
         <p>Machine-readable: <a href=\"/docs/openapi.json\">openapi.json</a> (OpenAPI 3.1). \
         Send the key as <code>Authorization: Bearer hst_…</code> or <code>X-API-Key</code>. \
         With <code>?wait=ready</code> a change is answered when it is in effect everywhere in service.</p>",
    );
    let mut groups: Vec<&str> = Vec::new();
    for route in routes {
        if !groups.contains(&route.group()) {
            groups.push(route.group());
        }
    }
    for group in groups {
        // Writing to a String does not fail. All values are our own constants: nothing to escape.
        let _ = write!(
            html,
            "<h2>{group}</h2><table><tr><th>Method</th><th>Path</th><th>What it does</th><th>Scope</th><th>Who</th><th>Code</th></tr>"
        );
        for route in routes.iter().filter(|route| route.group() == group) {
            let scope = route.scope.map_or_else(|| "–".to_owned(), |scope| scope.to_string());
            let tier = if route.tier == Tier::Admin { "platform admin" } else { "brand" };
            let _ = write!(
                html,
                "<tr><td><code>{}</code></td><td><code>{BASE}{}</code></td><td>{}</td><td>{scope}</td><td>{tier}</td><td>{}</td></tr>",
                route.method, route.path, route.summary, route.success
            );
        }
        html.push_str("</table>");
    }
    html.push_str("</body></html>\n");
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::table;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value.as_str().filter(|_| name == "$ref") {
                        Some(target) => found.push(target.to_owned()),
                        None => references(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn the_document_is_whole() {
        let routes = table();
        let document = document(&routes);
        assert_eq!(document["openapi"], "3.1.0");
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 200, "{}", found.len());
        for target in found {
            let pointer = target.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{target} leads nowhere");
        }
        let mut ids = std::collections::BTreeSet::new();
        for route in &routes {
            let method = route.method.as_str().to_ascii_lowercase();
            let operation = &document["paths"][route.full_path()][method];
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation}");
            assert_eq!(operation["requestBody"].is_null(), route.request == Shape::Empty, "{operation}");
        }
        assert_eq!(
            document["components"]["schemas"]["ZoneRecordCreate"]["required"],
            json!(["type", "name", "content"])
        );
    }

    #[test]
    fn the_page_names_every_route() {
        let routes = table();
        let page = page(&routes);
        for route in &routes {
            assert!(page.contains(&route.full_path()), "{}", route.path);
        }
    }
}
