//! The fields that a create or update sends: from a file, from `-s`, with names in place of ids.

use std::path::Path;

use anyhow::Context;
use hosting_resource::{Kind, KindInfo};
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::names;
use crate::{
    api::Api,
    output::{UsageError, usage},
    yaml,
};

/// Schema of the body of POST, with what it refers to.
pub(crate) fn create_schema(info: &KindInfo) -> Value {
    with_definitions(|generator| info.kind.def().create_schema(generator))
}

/// Schema of the body of PUT, with what it refers to.
pub(crate) fn update_schema(info: &KindInfo) -> Value {
    with_definitions(|generator| info.kind.def().update_schema(generator))
}

fn with_definitions(schema: impl Fn(&mut SchemaGenerator) -> Schema) -> Value {
    let mut generator = SchemaGenerator::default();
    let mut schema = schema(&mut generator).to_value();
    schema["$defs"] = Value::Object(generator.take_definitions(true));
    schema
}

/// What `-f` and `-s` say, checked against the body's schema; `-s` wins.
///
/// # Errors
/// Nothing said at all; a value of another type than its field's.
pub(super) fn read(
    schema: &Value,
    file: Option<&Path>,
    set: &[String],
) -> anyhow::Result<Map<String, Value>> {
    let mut body: Map<String, Value> = match file {
        Some(file) => {
            let body = yaml::read_plain(file, "a list of fields")?;
            if let Some(problem) = misread(schema, schema, &Value::Object(Map::clone(&body)), "") {
                return Err(UsageError(format!("{}: {problem}", yaml::shown(file))).into());
            }
            body
        }
        None => Map::new(),
    };
    for pair in set {
        let (name, text) = pair
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| usage(format!("{pair:?}: write NAME=VALUE")))?;
        body.insert(name.to_owned(), value_of(schema, name, text)?);
    }
    if body.is_empty() {
        return Err(usage("give the fields with -s NAME=VALUE or -f FILE"));
    }
    Ok(body)
}

/// A field's value as typed: a text field takes it as it is (a customer id may be all digits), others as JSON if it reads as
/// JSON. A secret is what a file holds, because everybody on the machine sees the command line.
fn value_of(schema: &Value, field: &str, text: &str) -> anyhow::Result<Value> {
    let declared = &schema["properties"][field];
    if declared["x-secret"] == true && declared["type"] == "string" {
        let Some(file) = text.strip_prefix('@') else {
            return Err(usage(format!(
                "{field} is not taken from the command line, which others can see: write {field}=@FILE, or {field}=@- for \
                 standard input"
            )));
        };
        let read = if file == "-" {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(file)
        };
        return Ok(json!(read.with_context(|| format!("{field}: cannot read {file}"))?));
    }
    Ok(typed(&declared["type"], text))
}

fn typed(allowed: &Value, text: &str) -> Value {
    if allows(allowed, "string") && !(allows(allowed, "null") && text == "null") {
        return json!(text);
    }
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

fn allows(types: &Value, name: &str) -> bool {
    types == name || types.as_array().is_some_and(|list| list.contains(&json!(name)))
}

/// What YAML read as something else than the field takes: `no` is false, `8.10` is 8.1, and only quotes make them text.
pub(crate) fn misread(root: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    let schema = match schema["$ref"].as_str().and_then(|place| place.strip_prefix('#')) {
        Some(place) => root.pointer(place)?,
        None => schema,
    };
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            misread(root, schema["properties"].get(name)?, value, &at)
        }),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(n, value)| misread(root, schema.get("items")?, value, &format!("{at}[{n}]"))),
        Value::Bool(_) | Value::Number(_) if is_text_alone(&schema["type"]) => {
            let (read_as, example) = match value {
                Value::Bool(true) => ("the truth value true", "\"yes\""),
                Value::Bool(_) => ("the truth value false", "\"no\""),
                _ => ("a number", "\"8.10\""),
            };
            Some(format!(
                "{at} takes text, but YAML reads {read_as} there: y, yes, no, on, off, true, false and bare numbers are no text. \
                 Quote it, as in {at}: {example}"
            ))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn is_text_alone(types: &Value) -> bool {
    allows(types, "string") && !["boolean", "number", "integer"].iter().any(|other| allows(types, other))
}

/// Puts ids in the place of names in fields such as `region_id` and `shard_ids`. What names nothing is sent as it is: the API
/// says what it lacks.
pub(crate) async fn resolve(
    api: &Api,
    info: &KindInfo,
    schema: &Value,
    body: &mut Map<String, Value>,
    parent: Option<&str>,
) -> anyhow::Result<()> {
    // Owners come before what they own, so that a cluster's name is looked up in the region that is an id by then.
    for kind in Kind::ALL {
        let owner = names::owner_of(kind.info());
        let within = owner.and_then(|(of, field)| {
            let named = body.get(field).and_then(Value::as_str).filter(|id| !id.is_empty());
            let lies_in = info.parent.filter(|parent| parent.kind == of).and(parent);
            named.or(lies_in).map(str::to_owned)
        });
        for field in [format!("{}_id", kind.name()), format!("{}_ids", kind.name())] {
            if schema["properties"].get(&field).is_none() {
                continue;
            }
            let texts: Vec<&mut Value> = match body.get_mut(&field) {
                Some(Value::Array(items)) => items.iter_mut().collect(),
                Some(value) => vec![value],
                None => continue,
            };
            for text in texts {
                let Some(given) = text.as_str().filter(|given| !given.is_empty()).map(str::to_owned) else {
                    continue;
                };
                match names::id_of(api, kind.info(), &given, within.as_deref()).await {
                    Ok(id) => *text = json!(id),
                    Err(error) if names::names_nothing(&error) => {}
                    Err(error) => return Err(error.context(field)),
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::kind;

    fn schema(name: &str) -> Value {
        create_schema(kind(name).unwrap())
    }

    #[test]
    fn typed_values_follow_the_kind() {
        let value = |name: &str, field: &str, text: &str| value_of(&schema(name), field, text).unwrap();
        assert_eq!(value("tenant", "customer_id", "1001"), json!("1001"));
        assert_eq!(value("zone-record", "ttl", "300"), json!(300));
        assert_eq!(value("zone-record", "content", "true"), json!("true"));
        assert_eq!(value("fqdn", "ssl_enabled", "true"), json!(true));
        assert_eq!(value("node", "roles", "[\"web\"]"), json!(["web"]));
        assert_eq!(value("tenant", "no_such_field", "x"), json!("x"));
    }

    #[test]
    fn a_secret_comes_from_a_file_and_never_from_the_command_line() {
        let schema =
            json!({"properties": {"key": {"type": "string", "x-secret": true}, "name": {"type": "string"}}});
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let at_file = format!("@{}", file.path().display());
        assert_eq!(value_of(&schema, "key", &at_file).unwrap(), json!("hunter2\n"));
        assert_eq!(value_of(&schema, "name", "@").unwrap(), json!("@"));
        let refused = value_of(&schema, "key", "hunter2").unwrap_err().to_string();
        assert!(refused.contains("key=@FILE") && !refused.contains("hunter2"), "{refused}");
        let missing = value_of(&schema, "key", "@/no/such/file").unwrap_err().to_string();
        assert_eq!(missing, "key: cannot read /no/such/file");
    }

    #[test]
    fn what_yaml_does_not_read_as_text_is_told_to_be_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("body.yaml");
        let problem = |kind: &str, text: &str| {
            std::fs::write(&file, text).unwrap();
            read(&schema(kind), Some(&file), &[]).err().map(|error| error.to_string())
        };
        for (kind, text, at) in [
            ("brand", "name: yes\n", "name: \"yes\""),
            ("brand", "name: y\n", "name: \"yes\""),
            ("brand", "base_hostname: no\n", "base_hostname: \"no\""),
            ("brand", "name: on\n", "name"),
            ("webroot", "runtime_version: 8.2\n", "runtime_version: \"8.10\""),
            ("tenant", "customer_id: 1001\n", "customer_id: \"8.10\""),
            (
                "tenant",
                "webroots: [{runtime: php, runtime_version: 8.2}]\n",
                "webroots[0].runtime_version: \"8.10\"",
            ),
        ] {
            let error = problem(kind, text).unwrap_or_else(|| panic!("{text} was taken"));
            assert!(error.contains("Quote it") && error.contains(at), "{text}: {error}");
        }
        for (kind, text) in [
            ("brand", "name: \"yes\"\n"),
            ("fqdn", "fqdn: a.example\nssl_enabled: yes\nwebroot_id: null\n"),
            ("zone-record", "type: A\nttl: 300\n"),
            ("node", "web_port: 80\nroles: [web]\n"),
        ] {
            assert_eq!(problem(kind, text), None, "{text}");
        }
    }
}
