//! From a JSON body to a typed input: errors name the field, fields nobody knows are listed.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::SpecError;

/// A typed body and the paths of what it does not know.
#[derive(Debug)]
pub(crate) struct Parsed<T> {
    pub(crate) value: T,
    pub(crate) unknown: Vec<String>,
}

/// Fields whose objects are the user's own: nothing inside them is ours to drop.
pub(crate) const FREE_FORM: &[&str] = &["config", "spec", "runtime_config"];

/// Most unknown fields that are listed; a body full of them must not become an answer full of them.
const MAX_UNKNOWN: usize = 50;

pub(crate) fn parse<T: DeserializeOwned>(body: &Map<String, Value>) -> Result<Parsed<T>, SpecError> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let body = Value::Object(body.clone());
    let tracked = serde_path_to_error::Deserializer::new(&body, &mut track);
    let parsed = serde_ignored::deserialize(tracked, |path| {
        if unknown.len() < MAX_UNKNOWN {
            unknown.push(brackets(&path.to_string()));
        }
    });
    match parsed {
        Ok(value) => Ok(Parsed { value, unknown }),
        Err(error) => {
            let path = track.path().to_string();
            let problem = error.to_string();
            // serde has no other way to tell a missing field from a wrong one.
            if let Some(field) =
                problem.strip_prefix("missing field `").and_then(|rest| rest.split('`').next())
            {
                let field = if path == "." { field.to_owned() } else { format!("{path}.{field}") };
                return Err(SpecError::invalid(field, "is required"));
            }
            Err(SpecError::Malformed { problem: format!("{path}: {problem}") })
        }
    }
}

/// `webroots.0.x` as `webroots[0].x`, and without the `?` that stands for an optional value.
fn brackets(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for part in path.split('.').filter(|part| *part != "?") {
        if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
            out.push('[');
            out.push_str(part);
            out.push(']');
        } else {
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(part);
        }
    }
    out
}

/// The body without fields that are null: in a creation they mean the default.
pub(crate) fn without_nulls(body: &Map<String, Value>) -> Map<String, Value> {
    body.iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(field, value)| {
            let value = if FREE_FORM.contains(&field.as_str()) { value.clone() } else { inner(value) };
            (field.clone(), value)
        })
        .collect()
}

fn inner(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(inner).collect()),
        Value::Object(fields) => Value::Object(without_nulls(fields)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// A field of the API that the platform does not serve yet. Its empty value is accepted, anything else is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Unserved {
    wanted: bool,
}

impl Unserved {
    pub(crate) fn check(self, field: &str) -> Result<(), SpecError> {
        if self.wanted { Err(SpecError::not_served(field)) } else { Ok(()) }
    }
}

impl<'de> Deserialize<'de> for Unserved {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wanted = match Value::deserialize(deserializer)? {
            Value::Null => false,
            Value::Bool(on) => on,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
        };
        Ok(Self { wanted })
    }
}

impl JsonSchema for Unserved {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Unserved".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // `x-secret`: passwords stand in some of these, so audit rows must not show them.
        json_schema!({
            "description": "Not served yet: anything but an empty value is answered with 501.",
            "x-not-served": true,
            "x-secret": true,
        })
    }
}

/// What has an empty value.
pub(crate) trait Blank {
    fn is_blank(&self) -> bool;
}

impl Blank for String {
    fn is_blank(&self) -> bool {
        self.is_empty()
    }
}

impl Blank for i64 {
    fn is_blank(&self) -> bool {
        *self == 0
    }
}

impl Blank for u32 {
    fn is_blank(&self) -> bool {
        *self == 0
    }
}

/// A field for which an empty text or 0 is no value: clients that send whole objects mean that they did not set it.
pub(crate) fn unless_empty<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de> + Blank,
    D: Deserializer<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.filter(|value| !value.is_blank()))
}

/// `Option<Option<T>>`: absent, null or a value.
pub(crate) fn patch<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Inner {
        name: String,
    }

    #[derive(Debug, Deserialize)]
    struct Body {
        name: String,
        #[serde(default)]
        items: Vec<Inner>,
        #[serde(default)]
        later: Unserved,
    }

    fn read(body: Value) -> Result<Parsed<Body>, String> {
        parse(&without_nulls(body.as_object().unwrap())).map_err(|error| error.to_string())
    }

    #[test]
    fn unknown_fields_are_listed_with_their_paths() {
        let parsed =
            read(serde_json::json!({"name": "a", "x": 1, "items": [{"name": "b", "y": {}}]})).unwrap();
        assert_eq!(parsed.unknown, ["items[0].y", "x"]);
        assert_eq!((parsed.value.name.as_str(), parsed.value.items[0].name.as_str()), ("a", "b"));
        let many: Map<_, _> = (0..500).map(|n| (format!("x{n}"), Value::Bool(true))).collect();
        let mut many = many;
        many.insert("name".into(), "a".into());
        assert_eq!(read(Value::Object(many)).unwrap().unknown.len(), MAX_UNKNOWN);
    }

    #[test]
    fn errors_name_the_field() {
        assert_eq!(read(serde_json::json!({})).unwrap_err(), "validation error: name: is required");
        assert_eq!(
            read(serde_json::json!({"name": null})).unwrap_err(),
            "validation error: name: is required"
        );
        assert_eq!(
            read(serde_json::json!({"name": "a", "items": [{}]})).unwrap_err(),
            "validation error: items[0].name: is required"
        );
        let wrong = read(serde_json::json!({"name": "a", "items": [{"name": 5}]})).unwrap_err();
        assert!(wrong.starts_with("invalid JSON: items[0].name: invalid type"), "{wrong}");
    }

    #[test]
    fn only_what_is_wanted_is_not_served() {
        for empty in
            [Value::Null, false.into(), 0.into(), "".into(), serde_json::json!([]), serde_json::json!({})]
        {
            let parsed = read(serde_json::json!({"name": "a", "later": empty})).unwrap();
            assert_eq!(parsed.value.later.check("later"), Ok(()));
        }
        for wanted in [true.into(), 1.into(), "x".into(), serde_json::json!([1]), serde_json::json!({"a": 1})]
        {
            let parsed = read(serde_json::json!({"name": "a", "later": wanted})).unwrap();
            assert!(matches!(parsed.value.later.check("later"), Err(SpecError::NotServed { .. })));
        }
    }
}
