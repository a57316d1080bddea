//! Request bodies without secrets, for audit rows: a field is kept only if the route's schema knows it and does not call it
//! secret. Inside free-form objects, where there is no schema, names that speak of secrets decide.

use serde_json::{Map, Value};

/// What stands for a secret.
const REDACTED: &str = "[REDACTED]";
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
        return free_fields(body, depth);
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
    if depth == 0 || schema.get("x-secret") == Some(&Value::Bool(true)) {
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
