//! Specs as JSON objects: what a spec is as one, and a changed spec written over the stored one.

use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::faults::Faults;
use crate::{Resource, SpecError};

/// A serialisable value as an object.
pub(crate) fn to_map<T: Serialize>(value: &T) -> Result<Map<String, Value>, SpecError> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(SpecError::Malformed { problem: "not an object".to_owned() }),
        Err(error) => Err(SpecError::Malformed { problem: error.to_string() }),
    }
}

/// The stored spec of a resource with a changed one written over it: fields that this build does not know stay, and those that the changed
/// one leaves out go.
pub(crate) fn written_over<S: Serialize + DeserializeOwned>(
    current: &Resource,
    spec: &S,
) -> Result<Map<String, Value>, SpecError> {
    let before: S = current.typed().map_err(|error| SpecError::Malformed { problem: error.to_string() })?;
    let (before, after) = (to_map(&before)?, to_map(spec)?);
    let mut whole = current.spec.clone();
    whole.retain(|field, _| after.contains_key(field) || !before.contains_key(field));
    whole.extend(after);
    Ok(whole)
}

/// That a field is missing, together with all others of the body that are: what is read from it says the first alone.
pub(crate) fn all_missing<T: JsonSchema>(error: SpecError, body: &Map<String, Value>) -> SpecError {
    let SpecError::Invalid { field, .. } = &error else { return error };
    if body.contains_key(field) || field.contains(['.', '[']) {
        return error;
    }
    let schema = T::json_schema(&mut SchemaGenerator::default());
    let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let missing = required.iter().filter_map(Value::as_str);
    let others = missing.filter(|other| !body.contains_key(*other) && other != field);
    let mut faults = Faults::default();
    faults.note::<()>(Err(error.clone()));
    for other in others {
        faults.note::<()>(Err(SpecError::invalid(other, "is required")));
    }
    faults.end().err().unwrap_or(error)
}
