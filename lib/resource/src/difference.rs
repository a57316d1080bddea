//! In which fields two documents differ, and putting single fields back.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::pointer;

/// JSON pointers (RFC 6901) to the fields of two objects that differ, objects within them looked into. Lists and sealed secrets are one
/// value each.
#[must_use]
pub fn differences(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    collect(before, after, "", &mut found);
    found
}

fn collect(before: &Map<String, Value>, after: &Map<String, Value>, path: &str, found: &mut Vec<String>) {
    let fields: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for field in fields {
        match (before.get(field), after.get(field)) {
            (one, other) if one == other => {}
            (Some(Value::Object(one)), Some(Value::Object(other))) if !field.starts_with('$') => {
                // A sealed secret is one value, whatever it consists of.
                if one.keys().chain(other.keys()).any(|inner| inner.starts_with('$')) {
                    found.push(pointer(path, field));
                } else {
                    collect(one, other, &pointer(path, field), found);
                }
            }
            _ => found.push(pointer(path, field)),
        }
    }
}

/// Whether one of two pointers leads to the other's place or into it.
#[must_use]
pub fn overlap(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Gives the field at `pointer` the value that `from` has there, or takes it away when `from` has none. Objects on the way are made as
/// needed.
pub fn put_back(document: &mut Map<String, Value>, pointer: &str, from: &Map<String, Value>) {
    let names: Vec<String> =
        pointer.split('/').skip(1).map(|name| name.replace("~1", "/").replace("~0", "~")).collect();
    let Some((last, way)) = names.split_last() else { return };
    let mut source = Some(from);
    for name in way {
        source = source.and_then(|source| source.get(name)?.as_object());
    }
    let value = source.and_then(|source| source.get(last));
    let mut place = document;
    for name in way {
        if value.is_none() && !place.get(name).is_some_and(Value::is_object) {
            return;
        }
        let inner = place.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
        if !inner.is_object() {
            *inner = Value::Object(Map::new());
        }
        let Value::Object(inner) = inner else { return };
        place = inner;
    }
    match value {
        Some(value) => {
            place.insert(last.clone(), value.clone());
        }
        None => {
            place.remove(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn fields_that_differ_are_named_and_a_secret_is_one() {
        let before = object(json!({
            "php": {"memory_mb": 128, "version": "8.4"}, "name": "a", "list": [1], "key": {"$secret": {"sealed": "x"}}, "gone": 1,
        }));
        let after = object(json!({
            "php": {"memory_mb": 256, "version": "8.4"}, "name": "a", "list": [2], "key": {"$secret": {"sealed": "y"}}, "a/b": 1,
        }));
        let found = differences(&before, &after);
        assert_eq!(found, ["/a~1b", "/gone", "/key", "/list", "/php/memory_mb"]);
        let mut back = after.clone();
        for pointer in &found {
            put_back(&mut back, pointer, &before);
        }
        assert_eq!(back, before);
    }

    #[test]
    fn objects_on_the_way_are_made_and_nothing_is_made_for_what_is_gone() {
        let mut document = object(json!({"a": 1}));
        put_back(&mut document, "/b/c/d", &object(json!({"b": {"c": {"d": 7}}})));
        put_back(&mut document, "/x/y", &object(json!({})));
        put_back(&mut document, "/a", &object(json!({})));
        assert_eq!(Value::from(document), json!({"b": {"c": {"d": 7}}}));
    }

    #[test]
    fn places_overlap_that_lie_in_each_other() {
        assert!(overlap("/a", "/a") && overlap("/a", "/a/b") && overlap("/a/b", "/a"));
        assert!(!overlap("/a", "/ab") && !overlap("/a/b", "/a/c"));
    }
}
