//! Documents of older builds, brought to the shape of this one.

use serde_json::{Map, Value};

use crate::{Resource, ShapeError};

/// Brings a spec from one shape to the next. Pure; never fails: what it cannot read it leaves alone.
pub(crate) type Upcaster = fn(&mut Map<String, Value>);

/// Runs the upcasters that a document of an older shape still needs.
pub(crate) fn upcast_with(
    resource: &mut Resource,
    newest: u32,
    steps: &[Upcaster],
) -> Result<(), ShapeError> {
    if resource.shape > newest {
        return Err(ShapeError::Newer { id: resource.id.clone(), found: resource.shape, known: newest });
    }
    let done = usize::try_from(resource.shape.saturating_sub(1)).unwrap_or(usize::MAX);
    for step in steps.iter().skip(done) {
        step(&mut resource.spec);
    }
    resource.shape = newest;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn upcasters_run_from_the_stored_shape_on() {
        fn one_to_two(spec: &mut Map<String, Value>) {
            if let Some(name) = spec.remove("title") {
                spec.insert("name".to_owned(), name);
            }
        }
        fn two_to_three(spec: &mut Map<String, Value>) {
            spec.insert("step".to_owned(), 3.into());
        }
        let steps: &[Upcaster] = &[one_to_two, two_to_three];
        let old = |shape| {
            let mut resource = crate::kinds::tests::stored(Kind::Region, serde_json::json!({"name": "r"}));
            resource.shape = shape;
            resource.spec = serde_json::from_value(serde_json::json!({"title": "x", "kept": 1})).unwrap();
            resource
        };
        let mut resource = old(1);
        upcast_with(&mut resource, 3, steps).unwrap();
        assert_eq!(Value::Object(resource.spec), serde_json::json!({"name": "x", "kept": 1, "step": 3}));
        assert_eq!(resource.shape, 3);

        let mut resource = old(2);
        upcast_with(&mut resource, 3, steps).unwrap();
        assert_eq!(resource.text("title"), "x");

        let mut resource = old(4);
        let before = resource.clone();
        assert!(matches!(
            upcast_with(&mut resource, 3, steps),
            Err(ShapeError::Newer { found: 4, known: 3, .. })
        ));
        assert_eq!(resource, before);
    }
}
