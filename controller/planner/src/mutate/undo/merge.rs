//! What a resource is to be once some of its changes are taken back. Pure.
//!
//! For each field, and for whether the resource is there at all, the changes of the undo are taken off from the newest on, until one is
//! reached that is none of them.

use hosting_resource::difference::{differences, overlap, put_back};
use hosting_resource::{Resource, Status};
use serde_json::{Map, Value};

use crate::gates::is_gated;
use crate::past::{Part, PastChange};

/// What is to be done to a resource.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Wanted {
    /// It stays as it is.
    Nothing,
    /// The undo was made it as it is to be, in an earlier part.
    Done,
    /// It was made by what is taken back.
    Gone,
    /// It was deleted by what is taken back.
    Back {
        /// As it was before its deletion began.
        as_it_was: Box<Resource>,
        /// The spec that it is to have.
        spec: Map<String, Value>,
    },
    /// Fields of it are to have an earlier value.
    Changed {
        /// The whole spec.
        spec: Map<String, Value>,
        /// A status that people set, when that is to be another.
        like: Option<Box<Resource>>,
    },
}

/// What stays as it is although it was to be taken back: others changed it since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stays {
    /// JSON pointer to the field; empty: the resource as a whole.
    pub(super) field: String,
    /// The change of others.
    pub(super) revision: u64,
    /// Whose that was.
    pub(super) actor: Option<String>,
}

/// Whether the resource is there for those who use it.
fn lives(resource: Option<&Resource>) -> bool {
    resource.is_some_and(|resource| !resource.status.is_gone() && !resource.kind.def().is_void(resource))
}

/// The status that people set; the others follow from the fleet.
fn set_by_people(resource: &Resource) -> Option<Status> {
    (!is_gated(resource.kind) || resource.status == Status::Suspended).then_some(resource.status)
}

/// `changes` are those of one resource, the oldest first; `current` is what the last one left.
pub(super) fn merge(changes: &[&PastChange], current: Option<&Resource>) -> (Wanted, Vec<Stays>) {
    if changes.iter().any(|change| change.part == Part::Own) {
        return (Wanted::Done, Vec::new());
    }
    let versions: Vec<Option<&Resource>> =
        changes.iter().map(|change| change.before.as_ref()).chain([current]).collect();
    let steps: Vec<(&PastChange, Option<&Resource>, Option<&Resource>)> = changes
        .iter()
        .zip(versions.windows(2))
        .filter_map(|(change, two)| Some((*change, *two.first()?, *two.last()?)))
        .collect();
    let mut stays = Vec::new();
    let stay = |field: &str, change: &PastChange| Stays {
        field: field.to_owned(),
        revision: change.revision,
        actor: change.actor.clone(),
    };

    let mut is_to_live = lives(current);
    for (n, (change, before, after)) in steps.iter().enumerate().rev() {
        if lives(*before) == lives(*after) {
            continue;
        }
        if change.part == Part::Chosen {
            is_to_live = lives(*before);
            continue;
        }
        if steps.iter().take(n).any(|(earlier, ..)| earlier.part == Part::Chosen) {
            stays.push(stay("", change));
        }
        break;
    }
    match (lives(current), is_to_live) {
        (false, false) => return (Wanted::Nothing, stays),
        (true, false) => {
            let others = steps.iter().rev().find(|(change, ..)| change.part == Part::Other);
            match others {
                // It stays, and what was done to it above their changes goes.
                Some((change, ..)) => stays.push(stay("", change)),
                None => return (Wanted::Gone, stays),
            }
        }
        (true | false, true) => {}
    }

    let Some(newest) = versions.iter().rev().copied().find(|version| lives(*version)).flatten() else {
        return (Wanted::Nothing, stays);
    };
    let mut spec = newest.spec.clone();
    // Fields that others changed after the step that is looked at, with the first such change.
    let mut others: Vec<(String, &PastChange)> = Vec::new();
    let mut status = set_by_people(newest);
    let mut like = None;
    let mut status_is_others: Option<&PastChange> = None;
    for (change, before, after) in steps.iter().rev() {
        let (Some(before), Some(after)) = (before, after) else { continue };
        let fields = differences(&before.spec, &after.spec);
        let is_switched = set_by_people(before) != set_by_people(after)
            && !before.status.is_gone()
            && !after.status.is_gone();
        if change.part == Part::Other {
            others.extend(fields.into_iter().map(|field| (field, *change)));
            if is_switched {
                status_is_others = Some(change);
            }
            continue;
        }
        for field in fields {
            match others.iter().find(|(other, _)| overlap(other, &field)) {
                Some((_, other)) => stays.push(stay(&field, other)),
                None => put_back(&mut spec, &field, &before.spec),
            }
        }
        if is_switched {
            match status_is_others {
                Some(other) => stays.push(stay("/status", other)),
                None => {
                    status = set_by_people(before);
                    like = Some(Box::new((*before).clone()));
                }
            }
        }
    }
    stays.sort_by(|one, other| one.field.cmp(&other.field));
    stays.dedup_by(|one, other| one.field == other.field);
    let wanted = match current.filter(|_| lives(current)) {
        None => Wanted::Back { as_it_was: Box::new(newest.clone()), spec },
        Some(current) => {
            let like = like.filter(|_| status != set_by_people(current));
            if spec == current.spec && like.is_none() {
                Wanted::Nothing
            } else {
                Wanted::Changed { spec, like }
            }
        }
    };
    (wanted, stays)
}

#[cfg(test)]
mod tests {
    use hosting_resource::Kind;
    use serde_json::json;

    use super::*;
    use crate::fake::resource;

    fn version(spec: Value) -> Resource {
        Resource { status: Status::Active, ..resource(Kind::Tenant, "t", spec) }
    }

    /// Versions with what led from each to the next.
    fn history(first: Option<Value>, steps: &[(Part, Option<Value>)]) -> (Vec<PastChange>, Option<Resource>) {
        let mut before = first.map(version);
        let mut changes = Vec::new();
        for (n, (part, after)) in (10..).zip(steps) {
            let after = after.clone().map(version);
            let actor = Some(format!("{part:?}"));
            let (resource, kind) = ("t".to_owned(), Kind::Tenant);
            changes.push(PastChange { resource, kind, revision: n, actor, before, part: *part });
            before = after;
        }
        (changes, before)
    }

    fn outcome(first: Option<Value>, steps: &[(Part, Option<Value>)]) -> (Wanted, Vec<(String, u64)>) {
        let (changes, current) = history(first, steps);
        let (wanted, stays) = merge(&changes.iter().collect::<Vec<_>>(), current.as_ref());
        (wanted, stays.into_iter().map(|one| (one.field, one.revision)).collect())
    }

    fn spec_of(wanted: &Wanted) -> Value {
        match wanted {
            Wanted::Changed { spec, .. } | Wanted::Back { spec, .. } => Value::from(spec.clone()),
            other @ (Wanted::Nothing | Wanted::Done | Wanted::Gone) => panic!("{other:?}"),
        }
    }

    use Part::{Chosen as C, Other as O, Own};

    #[test]
    fn fields_go_back_and_those_of_others_stay() {
        let (wanted, stays) = outcome(
            Some(json!({"a": 1, "b": 1, "c": 1})),
            &[
                (C, Some(json!({"a": 2, "b": 2, "c": 1}))),
                (O, Some(json!({"a": 2, "b": 3, "c": 4}))),
                (C, Some(json!({"a": 5, "b": 3, "c": 4, "d": 1}))),
            ],
        );
        assert_eq!(spec_of(&wanted), json!({"a": 1, "b": 3, "c": 4}));
        assert_eq!(stays, [("/b".to_owned(), 11)]);
    }

    #[test]
    fn what_is_above_anothers_change_goes_and_what_is_below_stays() {
        let steps = [(C, Some(json!({"a": 2}))), (O, Some(json!({"a": 3}))), (C, Some(json!({"a": 4})))];
        let (wanted, stays) = outcome(Some(json!({"a": 1})), &steps);
        assert_eq!((spec_of(&wanted), stays), (json!({"a": 3}), vec![("/a".to_owned(), 11)]));
    }

    #[test]
    fn a_change_inside_of_an_object_keeps_the_object() {
        let steps =
            [(C, Some(json!({"php": {"m": 1, "n": 1}}))), (O, Some(json!({"php": {"m": 2, "n": 1}})))];
        let (wanted, stays) = outcome(Some(json!({})), &steps);
        assert_eq!((wanted, stays), (Wanted::Nothing, vec![("/php".to_owned(), 11)]));
    }

    #[test]
    fn what_was_made_goes_unless_others_changed_it() {
        let made = (C, Some(json!({"a": 1})));
        assert_eq!(outcome(None, &[made.clone(), (C, Some(json!({"a": 2})))]).0, Wanted::Gone);
        let (wanted, stays) = outcome(None, &[made, (O, Some(json!({"a": 2}))), (C, Some(json!({"a": 3})))]);
        assert_eq!((spec_of(&wanted), stays), (json!({"a": 2}), vec![(String::new(), 11)]));
    }

    #[test]
    fn what_was_deleted_comes_back_as_it_is_to_be() {
        let (wanted, stays) = outcome(
            Some(json!({"a": 1, "b": 1})),
            &[(C, Some(json!({"a": 2, "b": 1}))), (O, Some(json!({"a": 2, "b": 2}))), (C, None)],
        );
        assert_eq!((spec_of(&wanted), stays), (json!({"a": 1, "b": 2}), vec![]));
        let (wanted, stays) = outcome(Some(json!({"a": 1})), &[(C, Some(json!({"a": 2}))), (O, None)]);
        assert_eq!((wanted, stays), (Wanted::Nothing, vec![(String::new(), 11)]));
        let made_and_deleted = outcome(None, &[(C, Some(json!({}))), (C, None)]);
        assert_eq!(made_and_deleted, (Wanted::Nothing, vec![]));
    }

    #[test]
    fn a_suspension_is_a_field() {
        let (mut changes, current) = history(Some(json!({})), &[(C, Some(json!({})))]);
        let mut current = current.unwrap();
        current.status = Status::Suspended;
        let chosen: Vec<_> = changes.iter().collect();
        let (wanted, _) = merge(&chosen, Some(&current));
        assert!(
            matches!(&wanted, Wanted::Changed { like: Some(like), .. } if like.status == Status::Active),
            "{wanted:?}"
        );
        // Somebody else has suspended it since.
        let between = changes[0].before.clone();
        changes[0].before = Some(Resource { status: Status::Suspended, ..between.clone().unwrap() });
        let other = PastChange { part: O, revision: 20, before: between, ..changes[0].clone() };
        let (wanted, stays) = merge(&[&changes[0], &other], Some(&current));
        assert_eq!((wanted, stays[0].revision), (Wanted::Nothing, 20));
    }

    #[test]
    fn what_an_earlier_part_of_the_undo_did_is_done() {
        let steps = [(C, Some(json!({"a": 2}))), (Own, Some(json!({"a": 1})))];
        assert_eq!(outcome(Some(json!({"a": 1})), &steps).0, Wanted::Done);
    }
}
