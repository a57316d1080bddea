//! OpenAPI 3.1 and the reference page, both from the route table and the kinds' schemas.

mod links;
mod page;

use std::sync::LazyLock;

use axum::http::Method;
use hosting_resource::{Kind, Tier};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::bodies;
use crate::problem::{self, PROBLEM_JSON};
use crate::query::{DRY_RUN, Takes};
use crate::request::takes_idempotency_key;
use crate::route::{Op, Route, Shape, table};
use crate::view_fields;

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
            Shape::View(kind) => view_fields::schema(kind, &mut self.generator),
            Shape::Page(kind) => {
                let items = self.refer(Shape::View(kind))?;
                json!({
                    "type": "object",
                    "required": ["items", "has_more"],
                    "properties": {
                        "items": {"type": "array", "items": items},
                        "next_cursor": {"type": "string", "description": "Opaque; absent on the last page."},
                        "has_more": {"type": "boolean"},
                        "total": {
                            "type": "integer", "minimum": 0,
                            "description": "With count=true: how many the whole list has.",
                        },
                        "total_is_lower_bound": {
                            "type": "boolean",
                            "description": "With count=true: the list has this many or more; it is too long to be looked at whole.",
                        },
                    },
                })
            }
            Shape::Named(name) => bodies::named(name)?(&mut self.generator).to_value(),
        };
        self.named.insert(name, schema);
        Some(reference)
    }

    /// An example of a request body, and what it is called. Of what a new one has, a change shows what it may change.
    fn example(&mut self, shape: Shape) -> Option<(&'static str, Value)> {
        match shape {
            Shape::Create(kind) => Some((kind.name(), kind.def().example())),
            Shape::Update(kind) => {
                let mut example = kind.def().example();
                let schema = kind.def().update_schema(&mut self.generator).to_value();
                let changed = example.as_object_mut()?;
                changed.retain(|field, _| schema["properties"].get(field).is_some());
                Some((kind.name(), example))
            }
            Shape::Named(name) => bodies::examples::example(name).map(|example| (name, example)),
            Shape::Empty | Shape::View(_) | Shape::Page(_) => None,
        }
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

/// The schema of a parameter's values.
fn takes(takes: &Takes) -> Value {
    match takes {
        Takes::Text => json!({"type": "string", "minLength": 1}),
        Takes::AnyText => json!({"type": "string"}),
        Takes::Names(names) => {
            json!({"type": "array", "minItems": 1, "items": {"type": "string", "enum": names}})
        }
        Takes::Word(words) => json!({"type": "string", "enum": words}),
        Takes::Caseless(words) => json!({"type": "string", "enum": words}),
        Takes::Count { default, .. } => json!({"type": "integer", "minimum": 1, "default": default}),
        Takes::Revision | Takes::Whole => json!({"type": "integer", "minimum": 0}),
        Takes::Seconds => json!({"type": "integer", "minimum": 1, "maximum": 300}),
        Takes::Time => {
            json!({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "string", "format": "date"}]})
        }
    }
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut parameters: Vec<Value> = route
        .path
        .split('{')
        .skip(1)
        .filter_map(|part| part.split_once('}'))
        .map(|(name, _)| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    parameters.extend(route.params.iter().map(|param| {
        let mut shown = json!({
            "name": param.name, "in": "query", "required": false, "description": param.about,
            "schema": takes(&param.takes),
        });
        if matches!(param.takes, Takes::Names(_)) {
            // a,b and not a=&a=.
            shown["explode"] = false.into();
        }
        shown
    }));
    let headers = [
        (
            "If-Match",
            "Entity tags or generations that the change is meant for; another one is answered with 412.",
        ),
        ("If-None-Match", "Entity tags that the caller has: 304 when one of them is what would be shown."),
    ];
    let header = headers.into_iter().find_map(|(name, about)| match (route.is_mutating(), route.op) {
        // Each item has its own.
        (true, Op::Bulk) => None,
        (true, _) if name == "If-Match" => Some((name, about)),
        (false, Op::Get(_)) if name == "If-None-Match" => Some((name, about)),
        (false, Op::Ask(ask)) if ask.tagged && name == "If-None-Match" => Some((name, about)),
        _ => None,
    });
    let callback = (
        "X-Callback-URL",
        "Where to tell that the change is complete: a signed POST of resource_type, resource_id, status and status_message.",
    );
    let key = (
        "Idempotency-Key",
        "A text of 1 to 255 characters, new for each change, e.g. a UUID. Asked again with it within a day, the answer is that of the \
         first time, with Idempotency-Replayed: true, and nothing is changed again.",
    );
    let key = takes_idempotency_key(route).then_some(key);
    for (name, about) in header.into_iter().chain(route.takes_callback().then_some(callback)).chain(key) {
        parameters
            .push(json!({"name": name, "in": "header", "schema": {"type": "string"}, "description": about}));
    }
    parameters
}

fn answers(route: &Route, schemas: &mut Schemas) -> Value {
    let content = |schema: Value| json!({"application/json": {"schema": schema}});
    let error = json!({"$ref": "#/components/schemas/Error"});
    let mut answers = Map::new();
    let mut success = json!({"description": "Success"});
    if let Some(schema) = schemas.refer(route.response) {
        success["content"] = match route.op.ask().map(|ask| ask.media) {
            None | Some("application/json") => content(schema),
            // Any event fits: a stream has several kinds of them. What the data of its main one is stands beside it.
            Some(media) => json!({media: {"schema": {}, "x-event-schema": schema}}),
        };
    }
    answers.insert(route.success.to_string(), success);
    if route.params.iter().any(|param| param.name == DRY_RUN)
        && let Some(plan) = schemas.refer(Shape::Named("Plan"))
    {
        let settled = schemas.refer(route.response).unwrap_or_else(settled);
        let mut planned =
            json!({"description": "Success, in effect with wait=ready, or with dry_run=true the plan"});
        // Without a body where there is nothing to show and nothing was waited for.
        if route.success != 200 || route.response != Shape::Empty {
            planned["content"] = content(json!({"anyOf": [settled, plan]}));
        }
        answers.insert("200".to_owned(), planned);
        if route.success != 202 {
            let late = schemas.refer(route.response).unwrap_or_else(self::settled);
            let about = "Made, and not in effect everywhere within the time that was to be waited";
            answers.insert("202".to_owned(), json!({"description": about, "content": content(late)}));
        }
    }
    let is_tagged = matches!(route.op, Op::Get(_)) || route.op.ask().is_some_and(|ask| ask.tagged);
    if is_tagged {
        answers.insert("304".to_owned(), json!({"description": "The caller has it already: If-None-Match"}));
    }
    let mut codes =
        vec![(401, "No key, or one that is not valid"), (403, "Scope, brand or tier do not allow it")];
    if route.path.contains('{') || matches!(route.op, Op::Act(_) | Op::Bulk) {
        codes.push((404, "There is no such resource"));
    }
    if !route.is_mutating() {
        codes.push((400, "A parameter that the path does not take, or a value that it cannot have"));
    }
    if route.is_mutating() {
        codes.extend([
            (400, "The body or a parameter breaks a rule"),
            (409, "The state of things does not allow it, or the fleet rejected it"),
            (412, "If-Match names another generation"),
            (428, "The change is large, and the operator requires the number of its plan"),
            (501, "A field or value that is not served yet"),
        ]);
        if takes_idempotency_key(route) {
            codes.push((422, "The Idempotency-Key was used for another request"));
        }
    }
    if matches!(route.op, Op::Ask(ask) if ask.name == "await") {
        codes.extend([
            (500, "It was made, and failed"),
            (504, "It is not settled within the time: ask again"),
        ]);
    }
    codes.push((429, "Too many requests with this key, or from this network with keys that do not open"));
    let failure = json!({"application/json": {"schema": error}, PROBLEM_JSON: {"schema": error}});
    for (code, about) in codes {
        answers.insert(code.to_string(), json!({"description": about, "content": failure}));
    }
    answers.insert("default".to_owned(), json!({"description": "Any other failure", "content": failure}));
    Value::Object(answers)
}

/// What is answered with wait=ready where there is no body else.
fn settled() -> Value {
    json!({
        "type": "object",
        "required": ["conditions", "lagging", "revision"],
        "properties": {
            "id": {"type": "string"},
            "status": {"type": "string", "description": "`deleted` for what is gone."},
            "conditions": {"type": "array", "items": {"type": "object"}},
            "lagging": {"type": "array", "items": {"type": "string"}},
            "revision": {"type": "integer"},
        },
    })
}

/// The OpenAPI document as it is served. It follows from the build alone, and is made when somebody asks for it first.
pub(crate) static DOCUMENT: LazyLock<String> = LazyLock::new(|| document(&table()).to_string());
/// The reference page, likewise.
pub(crate) static PAGE: LazyLock<String> = LazyLock::new(|| {
    let routes = table();
    let described = document(&routes);
    page::page(&routes, described["components"]["schemas"].as_object().unwrap_or(&Map::new()))
});

/// The OpenAPI document.
fn document(routes: &[Route]) -> Value {
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
            // RFC 7396 §4.
            let media_type = if route.method == Method::PATCH {
                "application/merge-patch+json"
            } else {
                "application/json"
            };
            operation["requestBody"] =
                json!({"required": !route.body_optional, "content": {media_type: {"schema": schema}}});
            if let Some((name, example)) = schemas.example(route.request) {
                operation["requestBody"]["content"][media_type]["examples"] =
                    json!({name: {"value": example}});
            }
        }
        if let Some(links) = links::links(route, routes) {
            operation["responses"][route.success.to_string()]["links"] = links;
        }
        let methods = paths.entry(route.full_path()).or_insert_with(|| json!({}));
        methods[route.method.as_str().to_ascii_lowercase()] = operation;
    }
    let mut all = schemas.finish();
    all.insert("Error".to_owned(), problem::schema());
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
            let media = operation["requestBody"]["content"].as_object().into_iter().flatten();
            assert!(media.clone().all(|(_, body)| body["examples"].is_object()), "{operation}");
            let mut names = operation["parameters"].as_array().unwrap().iter().map(|one| &one["name"]);
            assert_eq!(names.any(|name| name == "X-Callback-URL"), route.takes_callback(), "{operation}");
        }
        assert_eq!(
            document["components"]["schemas"]["ZoneRecordCreate"]["required"],
            json!(["type", "name", "content"])
        );
    }

    /// A value of a schema, each secret in it being the canary.
    fn filled(schema: &Value, all: &Map<String, Value>, depth: u8) -> Value {
        if schema["x-secret"] == true {
            return "canary".into();
        }
        if let Some(target) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
            return filled(&all[target], all, depth);
        }
        if let Some(parts) = schema["anyOf"].as_array() {
            let part = parts.iter().find(|part| part["type"] != "null");
            return part.map_or(Value::Null, |part| filled(part, all, depth));
        }
        let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
        match kind {
            _ if depth == 0 => Value::Null,
            Some("object") => {
                let own = schema["properties"].as_object().into_iter().flatten();
                let mut fields: Map<_, _> =
                    own.map(|(name, field)| (name.clone(), filled(field, all, depth - 1))).collect();
                if schema["additionalProperties"].is_object() {
                    fields.insert("any".to_owned(), filled(&schema["additionalProperties"], all, depth - 1));
                }
                Value::Object(fields)
            }
            Some("array") => json!([filled(&schema["items"], all, depth - 1)]),
            Some("integer" | "number") => json!(1),
            Some("boolean") => json!(true),
            _ => json!("text"),
        }
    }

    /// Defect 4 of the reference: of every body that there is, nothing that its schema calls secret is kept.
    #[test]
    fn no_secret_of_any_body_comes_into_the_audit_log() {
        let mut schemas = Schemas::new();
        let bodies: Vec<_> = table()
            .iter()
            .filter_map(|route| Some((route.path.clone(), schemas.refer(route.request)?)))
            .collect();
        let all = schemas.finish();
        let mut with_secrets = std::collections::BTreeSet::new();
        for (path, schema) in bodies {
            let Value::Object(body) = filled(&schema, &all, 12) else { panic!("{path}") };
            if Value::Object(body.clone()).to_string().contains("canary") {
                with_secrets.insert(schema["$ref"].to_string());
            }
            let kept = crate::redact::redact(&body, &schema, &all).to_string();
            assert!(!kept.contains("canary"), "{path}: {kept}");
        }
        assert!(with_secrets.len() >= 7, "{with_secrets:?}");
    }
}
