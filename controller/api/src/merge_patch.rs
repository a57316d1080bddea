//! PATCH: a JSON merge patch (RFC 7396) on what a PUT may change.
//!
//! A PUT leaves alone what it does not name, and takes an empty value where there can be none for "not given": its clients send whole
//! objects. A patch means what it says: `null` takes a value away, objects are merged, and what cannot be is refused.

use hosting_resource::{KindDef, Resource, SpecError, Update};
use serde_json::{Map, Value};

/// What a patch changes of a resource.
pub(crate) fn update(
    def: &dyn KindDef,
    current: &Resource,
    patch: &Map<String, Value>,
) -> Result<Update, SpecError> {
    let shown = def.view(current);
    // A kind may want some fields in each PUT.
    let mut body: Map<String, Value> =
        shown.into_iter().filter(|(field, _)| current.spec.contains_key(field)).collect();
    for (field, value) in patch {
        match (body.get_mut(field), value) {
            (Some(Value::Object(target)), Value::Object(patch)) => merge(target, patch),
            (_, value) => {
                body.insert(field.clone(), without_nulls(value.clone()));
            }
        }
    }
    let update = def.update(current, &body)?;
    for (field, value) in patch {
        let stays = update.spec.get(field) == current.spec.get(field);
        let has_one = current.spec.get(field).is_some_and(|now| !is_nothing(now));
        if is_nothing(value) && has_one && stays {
            return Err(SpecError::invalid(
                field,
                "cannot be without a value; leave it out to keep the one that it has",
            ));
        }
    }
    Ok(update)
}

/// The values that a PUT may take for "not given".
fn is_nothing(value: &Value) -> bool {
    value.is_null() || value == "" || value.as_u64() == Some(0)
}

/// RFC 7396 §2.
fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (field, value) in patch {
        match (target.get_mut(field), value) {
            (_, Value::Null) => {
                target.remove(field);
            }
            (Some(Value::Object(target)), Value::Object(patch)) => merge(target, patch),
            (_, value) => {
                target.insert(field.clone(), without_nulls(value.clone()));
            }
        }
    }
}

/// What a patch leaves where there was no object.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The examples of RFC 7396, Appendix A, that patch an object with an object.
    #[test]
    fn objects_are_merged_as_the_standard_has_it() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut merged = target.as_object().unwrap().clone();
            merge(&mut merged, patch.as_object().unwrap());
            assert_eq!(Value::Object(merged), result, "{target} {patch}");
        }
    }
}
