//! Request bodies without secrets, for audit rows: a field is kept only if the route's schema knows it, takes what is in it, and does not
//! call it secret. Inside free-form objects, where there is no schema, names that speak of secrets decide.

use serde_json::{Map, Value};

/// What stands for a secret.
pub(crate) const REDACTED: &str = "[REDACTED]";
/// Levels that are looked into; a deeper value is redacted whole.
const DEPTH: usize = 32;
/// A field of a free-form object is taken for a secret when its name contains one of these.
const TELLING: &[&str] =
    &["password", "passwd", "secret", "token", "key", "credential", "private", "auth", "pem", "cert", "dsn"];

/// The body with secrets replaced. `definitions` are the schemas that `schema` refers to.
pub(crate) fn redact(body: &Map<String, Value>, schema: &Value, definitions: &Map<String, Value>) -> Value {
    fields(body, schema, definitions, DEPTH)
}

fn fields(
    body: &Map<String, Value>,
    schema: &Value,
    definitions: &Map<String, Value>,
    depth: usize,
) -> Value {
    let schema = resolve(schema, definitions);
    if depth == 0 || schema.get("x-secret") == Some(&Value::Bool(true)) {
        return REDACTED.into();
    }
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return match schema.get("additionalProperties").filter(|each| each.is_object()) {
            Some(each) => {
                let kept = body
                    .iter()
                    .map(|(name, value)| (name.clone(), known(value, each, definitions, depth - 1)));
                Value::Object(kept.collect())
            }
            None => free_fields(body, depth),
        };
    };
    let kept = body.iter().map(|(name, value)| {
        let value = match properties.get(name) {
            Some(schema) => known(value, schema, definitions, depth - 1),
            // Nobody knows what it is: it may be a secret in the wrong place.
            None => REDACTED.into(),
        };
        (name.clone(), value)
    });
    Value::Object(kept.collect())
}

fn known(value: &Value, schema: &Value, definitions: &Map<String, Value>, depth: usize) -> Value {
    let schema = resolve(schema, definitions);
    // What is of another type may be a secret that the schema has further inside.
    if depth == 0 || schema.get("x-secret") == Some(&Value::Bool(true)) || !takes(schema, value) {
        return REDACTED.into();
    }
    match value {
        Value::Object(nested) => fields(nested, schema, definitions, depth),
        Value::Array(items) => {
            let schema = schema.get("items").unwrap_or(&Value::Null);
            Value::Array(items.iter().map(|item| known(item, schema, definitions, depth - 1)).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// Whether a schema that says a type takes a value of this one.
fn takes(schema: &Value, value: &Value) -> bool {
    let own = match value {
        Value::Null => return true,
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = |name: &Value| name == own || (own == "number" && name == "integer");
    match schema.get("type") {
        Some(Value::Array(names)) => names.iter().any(fits),
        Some(name) => fits(name),
        None => true,
    }
}

fn free(value: &Value, depth: usize) -> Value {
    if depth == 0 {
        return REDACTED.into();
    }
    match value {
        Value::Object(fields) => free_fields(fields, depth),
        Value::Array(items) => Value::Array(items.iter().map(|item| free(item, depth - 1)).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

fn free_fields(fields: &Map<String, Value>, depth: usize) -> Value {
    let kept = fields.iter().map(|(name, value)| {
        let lower = name.to_ascii_lowercase();
        let secret = TELLING.iter().any(|word| lower.contains(word));
        (name.clone(), if secret { REDACTED.into() } else { free(value, depth - 1) })
    });
    Value::Object(kept.collect())
}

/// Follows `$ref`s and picks the part of an optional value that is not null.
fn resolve<'a>(schema: &'a Value, definitions: &'a Map<String, Value>) -> &'a Value {
    let mut schema = schema;
    for _ in 0..DEPTH {
        if let Some(name) =
            schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next())
        {
            match definitions.get(name) {
                Some(target) => schema = target,
                None => return schema,
            }
        } else if let Some(parts) = schema.get("anyOf").and_then(Value::as_array) {
            match parts.iter().find(|part| part.get("type").is_none_or(|kind| kind != "null")) {
                Some(part) => schema = part,
                None => return schema,
            }
        } else {
            return schema;
        }
    }
    schema
}

#[cfg(test)]
mod tests {
    use hosting_resource::Kind;
    use serde_json::json;

    use super::*;

    fn of(kind: Kind, body: &Value) -> Value {
        let mut generator = schemars::SchemaGenerator::default();
        let schema = kind.def().create_schema(&mut generator).to_value();
        redact(body.as_object().unwrap(), &schema, &generator.take_definitions(true))
    }

    #[test]
    fn known_fields_are_kept_and_everything_else_is_not() {
        let body = json!({
            "brand_id": "acme",
            "webroots": [{"runtime": "php", "frob": "hunter2", "env_vars": [{"name": "A", "value": "hunter2"}]}],
            "databases": [{"users": [{"username": "u", "password": "hunter2"}]}],
            "password": "hunter2",
        });
        let kept = of(Kind::Tenant, &body);
        assert!(!kept.to_string().contains("hunter2"), "{kept}");
        assert_eq!((&kept["brand_id"], &kept["webroots"][0]["runtime"]), (&json!("acme"), &json!("php")));
        assert_eq!(kept["databases"], json!(REDACTED));
    }

    #[test]
    fn what_is_of_another_type_than_its_field_is_not_kept() {
        for body in [
            json!({"webroots": {"a": "hunter2"}}),
            json!({"webroots": "hunter2"}),
            json!({"webroots": ["hunter2"]}),
            json!({"brand_id": ["hunter2"]}),
            json!({"brand_id": {"a": "hunter2"}}),
        ] {
            let kept = of(Kind::Tenant, &body);
            assert!(!kept.to_string().contains("hunter2"), "{kept}");
        }
        let body = json!({"name": null, "ttl": 300, "content": "text"});
        assert_eq!(of(Kind::ZoneRecord, &body), body);
    }

    #[test]
    fn free_form_objects_are_judged_by_their_names() {
        let body = json!({"name": "c", "config": {"stalwart_token": "hunter2", "mail_hostname": "m", "a": [{"Api_Key": "hunter2"}]}});
        let kept = of(Kind::Cluster, &body);
        assert!(!kept.to_string().contains("hunter2"), "{kept}");
        assert_eq!(kept["config"]["mail_hostname"], json!("m"));
    }

    #[test]
    fn deep_bodies_end() {
        let mut body = json!("hunter2");
        for _ in 0..100 {
            body = json!({"a": body});
        }
        let kept = of(Kind::Region, &json!({"name": "r", "config": body}));
        assert!(!kept.to_string().contains("hunter2"));
    }
}
