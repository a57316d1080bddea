//! The reference page: every route and every body on one page, without scripts.

use std::fmt::Write;

use hosting_resource::Tier;
use serde_json::{Map, Value};

use super::name_of;
use crate::problem::Problem;
use crate::route::{BASE, Route, Shape};

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>API reference</title>\
    <meta name=\"viewport\" content=\"width=device-width\"><style>\
    body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem;color:#222;background:#fff}\
    table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #ddd}\
    code{font:14px ui-monospace,monospace;overflow-wrap:anywhere}h2{margin-top:2rem}h3{margin:1.5rem 0 .3rem}\
    .what{color:#555}:target{background:#ffd}</style></head><body><h1>API reference</h1>\
    <p>Machine-readable: <a href=\"/docs/openapi.json\">openapi.json</a> (OpenAPI 3.1). \
    Send the key as <code>Authorization: Bearer hst_…</code> or <code>X-API-Key</code>. \
    With <code>?wait=ready</code> a change is answered when it is in effect everywhere in service.</p>";

/// The page of these routes, whose bodies are described by `schemas`. Writing to a string cannot fail.
pub(super) fn page(routes: &[Route], schemas: &Map<String, Value>) -> String {
    let mut html = String::from(HEAD);
    let mut groups: Vec<&str> = Vec::new();
    for route in routes {
        if !groups.contains(&route.group()) {
            groups.push(route.group());
        }
    }
    let places: Vec<String> =
        groups.iter().map(|group| format!("<a href=\"#{group}\">{group}</a>")).collect();
    let _ = write!(
        html,
        "<p>{} · <a href=\"#bodies\">bodies</a> · <a href=\"#failures\">failures</a></p>",
        places.join(" · ")
    );
    for group in groups {
        let _ = write!(
            html,
            "<h2 id=\"{group}\">{group}</h2><table><tr><th>Method</th><th>Path</th><th>What it does</th><th>Takes</th>\
             <th>Answers</th><th>Scope</th><th>Who</th></tr>"
        );
        for route in routes.iter().filter(|route| route.group() == group) {
            let scope = route.scope.map_or_else(|| "–".to_owned(), |scope| scope.to_string());
            let tier = if route.tier == Tier::Admin { "platform admin" } else { "brand" };
            let _ = write!(
                html,
                "<tr><td><code>{}</code></td><td><code>{BASE}{}</code></td><td>{}</td><td>{}</td><td>{} {}</td><td>{scope}</td>\
                 <td>{tier}</td></tr>",
                route.method,
                route.path,
                plain(&route.summary),
                takes(route),
                route.success,
                link(route.response)
            );
        }
        html.push_str("</table>");
    }
    html.push_str("<h2 id=\"bodies\">Bodies</h2>");
    for (name, schema) in schemas {
        let about = schema["description"].as_str().unwrap_or_default();
        let _ = write!(html, "<h3 id=\"body-{name}\">{name}</h3><p class=\"what\">{}</p>", plain(about));
        fields(&mut html, schema);
    }
    html.push_str(
        "<h2 id=\"failures\">Failures</h2><p>Every failure has <code>error</code>, and the members of RFC 9457; these are its types.</p><table>",
    );
    for problem in Problem::ALL {
        let (name, title) = problem.words();
        let _ = write!(html, "<tr id=\"problem-{name}\"><td><code>{name}</code></td><td>{title}</td></tr>");
    }
    html.push_str("</table></body></html>\n");
    html
}

/// The body and the parameters that a route takes.
fn takes(route: &Route) -> String {
    let mut parts = Vec::new();
    parts.extend(Some(link(route.request)).filter(|body| !body.is_empty()));
    for param in &route.params {
        parts.push(format!("<code title=\"{}\">{}</code>", plain(&param.about), param.name));
    }
    parts.join(" ")
}

/// Where the shape is described; empty for no body.
fn link(shape: Shape) -> String {
    name_of(shape).map(|name| to(&name)).unwrap_or_default()
}

fn to(name: &str) -> String {
    format!("<a href=\"#body-{name}\">{name}</a>")
}

/// The fields of an object, a row each; of anything else what it is.
fn fields(html: &mut String, schema: &Value) {
    let Some(properties) = schema["properties"].as_object() else {
        let _ = write!(html, "<p>{}</p>", kind_of(schema));
        return;
    };
    html.push_str("<table>");
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in properties {
        let mut notes = Vec::new();
        notes.extend(required.contains(&name.as_str()).then_some("required"));
        notes.extend((field["readOnly"] == true).then_some("only shown"));
        notes.extend((field["x-secret"] == true).then_some("secret: never shown"));
        let default = field.get("default").filter(|default| !default.is_null());
        let default = default.map(|default| format!("default <code>{}</code>", plain(&default.to_string())));
        let notes: Vec<String> = notes.into_iter().map(str::to_owned).chain(default).collect();
        let about = plain(field["description"].as_str().unwrap_or_default());
        let _ = write!(
            html,
            "<tr><td><code>{name}</code></td><td>{}</td><td>{}</td><td>{about}</td></tr>",
            kind_of(field),
            notes.join(", ")
        );
    }
    html.push_str("</table>");
}

/// What values a schema takes, in words.
fn kind_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|target| target.rsplit('/').next()) {
        return to(name);
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> =
            values.iter().map(|value| format!("<code>{}</code>", plain(&value.to_string()))).collect();
        return values.join(", ");
    }
    if let Some(value) = schema.get("const") {
        return format!("<code>{}</code>", plain(&value.to_string()));
    }
    for (choice, between) in [("anyOf", " or "), ("oneOf", " or "), ("allOf", " and ")] {
        if let Some(parts) = schema[choice].as_array() {
            let parts: Vec<String> = parts.iter().map(kind_of).collect();
            return parts.join(between);
        }
    }
    match &schema["type"] {
        Value::String(name) => one_kind(name, schema),
        Value::Array(names) => {
            let parts: Vec<String> =
                names.iter().filter_map(Value::as_str).map(|name| one_kind(name, schema)).collect();
            parts.join(" or ")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => "anything".to_owned(),
    }
}

fn one_kind(name: &str, schema: &Value) -> String {
    let bound = |field: &str, before: &str| schema.get(field).map(|bound| format!("{before}{bound}"));
    match name {
        "array" => format!("list of {}", kind_of(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("object with {} by name", kind_of(&schema["additionalProperties"]))
        }
        "string" => {
            let format = schema["format"].as_str().map(str::to_owned);
            let parts: Vec<String> = format
                .into_iter()
                .chain(bound("maxLength", "at most ").map(|most| most + " characters"))
                .collect();
            if parts.is_empty() { "text".to_owned() } else { format!("text ({})", parts.join(", ")) }
        }
        "integer" | "number" => {
            let parts: Vec<String> =
                bound("minimum", "from ").into_iter().chain(bound("maximum", "to ")).collect();
            if parts.is_empty() { name.to_owned() } else { format!("{name} {}", parts.join(" ")) }
        }
        other => other.to_owned(),
    }
}

/// Text for a page.
fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::openapi::{DOCUMENT, PAGE};

    #[test]
    fn every_route_and_every_field_is_on_the_page_and_links_lead_there() {
        let page = PAGE.as_str();
        for part in page.split("href=\"#").skip(1) {
            let (target, _) = part.split_once('"').unwrap();
            assert_eq!(page.matches(&format!("id=\"{target}\"")).count(), 1, "{target}");
        }
        let document: Value = serde_json::from_str(&DOCUMENT).unwrap();
        for path in document["paths"].as_object().unwrap().keys() {
            assert!(page.contains(&format!("<code>{path}</code>")), "{path}");
        }
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            let (_, section) = page.split_once(&format!("<h3 id=\"body-{name}\">")).unwrap();
            let section = section.split("<h3 ").next().unwrap();
            for field in schema["properties"].as_object().into_iter().flatten().map(|(field, _)| field) {
                assert!(section.contains(&format!("<code>{field}</code>")), "{name}.{field}");
            }
        }
    }

    #[test]
    fn types_of_failures_lead_to_the_page() {
        for problem in Problem::ALL {
            let uri = problem.uri();
            let (_, anchor) = uri.split_once('#').unwrap();
            assert!(PAGE.contains(&format!("id=\"{anchor}\"")), "{anchor}");
        }
    }

    #[test]
    fn what_a_field_takes_is_said_in_words() {
        for (schema, wanted) in [
            (json!({"type": ["integer", "null"], "minimum": 0, "maximum": 9}), "integer from 0 to 9 or null"),
            (
                json!({"type": "array", "items": {"$ref": "#/components/schemas/Zone"}}),
                "list of <a href=\"#body-Zone\">Zone</a>",
            ),
            (json!({"type": "string", "maxLength": 5}), "text (at most 5 characters)"),
            (json!({"enum": ["a", "<b>"]}), "<code>&quot;a&quot;</code>, <code>&quot;&lt;b&gt;&quot;</code>"),
            (json!({"anyOf": [{"type": "boolean"}, {"type": "null"}]}), "boolean or null"),
            (json!({}), "anything"),
        ] {
            assert_eq!(kind_of(&schema), wanted);
        }
    }
}
