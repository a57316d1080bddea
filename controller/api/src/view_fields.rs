//! The fields of a resource as the API shows it: those of its kind, and those that say where it stands.

use hosting_resource::Kind;
use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

/// The schema of a resource as the API shows it. All but the id may be absent: `fields` leaves out what was not asked for.
pub(crate) fn schema(kind: Kind, generator: &mut SchemaGenerator) -> Value {
    let mut schema = kind.def().view_schema(generator).to_value();
    schema["required"] = json!(["id"]);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (field, standing) in standing() {
            properties.entry(field).or_insert(standing);
        }
    }
    schema
}

/// The names of these fields, in the order of the alphabet.
pub(crate) fn names(kind: Kind) -> Vec<String> {
    let schema = schema(kind, &mut SchemaGenerator::default());
    let mut names: Vec<String> =
        schema["properties"].as_object().into_iter().flat_map(Map::keys).cloned().collect();
    names.sort_unstable();
    names
}

/// Keeps the fields that were asked for, and the id, by which a resource is told from others.
pub(crate) fn keep(view: &mut Map<String, Value>, wanted: &[&str]) {
    view.retain(|field, _| field == "id" || wanted.contains(&field.as_str()));
}

/// Where a resource stands: read-only, and absent where there is nothing to say.
fn standing() -> [(String, Value); 7] {
    let text = |about: &str| json!({"type": "string", "readOnly": true, "description": about});
    [
        (
            "conditions",
            json!({
                "type": "array", "items": {"type": "object"}, "readOnly": true,
                "description": "What has to be so before it is in effect, or gone, and whether it is.",
            }),
        ),
        (
            "lagging",
            json!({
                "type": "array", "items": {"type": "string"}, "readOnly": true,
                "description": "Subscribers that are not in service, and get it when they are.",
            }),
        ),
        (
            "revision",
            json!({
                "type": "integer", "minimum": 1, "readOnly": true,
                "description": "In answers to a change: the revision of the whole platform that it made.",
            }),
        ),
        ("suspend_reason", text("Why it is suspended; with its tenant where it belongs to one.")),
        (
            "in_service",
            json!({"type": "boolean", "readOnly": true, "description": "Of a node: whether all of its sessions are in service."}),
        ),
        (
            "last_used_at",
            json!({
                "type": "string", "format": "date-time", "readOnly": true,
                "description": "Of an API key: when it opened something last, to the minute; absent when it never did.",
            }),
        ),
        ("last_health_at", json!({"type": "string", "format": "date-time", "readOnly": true})),
    ]
    .map(|(field, schema)| (field.to_owned(), schema))
}
