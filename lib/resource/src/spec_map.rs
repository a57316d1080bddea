//! Specs as JSON objects: what a spec is as one, and a changed spec written over the stored one.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

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
