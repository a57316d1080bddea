//! In what a resource differs from what its item says.

use hosting_resource::KindInfo;
use hosting_resource::basic_auth::without_passwords;
use serde_json::{Map, Value};

use super::{
    item::Fields,
    normal::{Actual, Normal},
};

/// A field that differs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Difference {
    pub(super) field: String,
    /// As it is.
    pub(super) before: Value,
    /// As it is to be.
    pub(super) after: Value,
    /// The member of a merge patch (RFC 7396) that makes it so.
    pub(super) patch: Value,
}

/// How an item and a resource compare. Only fields that the item says are looked at.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Comparison {
    /// What a change would make as it is to be.
    pub(super) changes: Vec<Difference>,
    /// What differs and cannot be changed.
    pub(super) fixed: Vec<Difference>,
    /// What the platform does not show, so that nobody knows whether it differs.
    pub(super) unread: Vec<String>,
}

impl Comparison {
    pub(super) fn count(&self) -> usize {
        self.changes.len() + self.fixed.len()
    }
}

/// Compares an item's body with a resource. Both are read by the rules of the kind first.
pub(super) fn compare(
    info: &KindInfo,
    fields: &Fields,
    body: &Map<String, Value>,
    wanted: &Normal,
    actual: &Actual,
) -> Comparison {
    let mut compared = Comparison::default();
    for (field, given) in body.iter().filter(|(field, _)| *field != "id") {
        if !fields.is_shown(field) {
            compared.unread.push(field.clone());
            continue;
        }
        let is_unread = |normal: &Normal| normal.unread.as_ref() == Some(field);
        let is_read = fields.is_created_with(field) && !is_unread(wanted);
        let shown = || actual.view.get(field).cloned().unwrap_or_default();
        let (before, after) = match &actual.normal {
            Some(normal) if is_read && !is_unread(normal) => (
                normal.spec.get(field).cloned().unwrap_or_default(),
                wanted.spec.get(field).cloned().unwrap_or_default(),
            ),
            None if is_read => (shown(), wanted.spec.get(field).cloned().unwrap_or_default()),
            Some(_) | None => (shown(), given.clone()),
        };
        // Passwords inside are sent with what else differs, and neither compared nor repeated.
        let (before, after, sent) = match without_passwords(given) {
            Some(told) => {
                compared.unread.push(field.clone());
                let read = wanted.spec.get(field).filter(|_| is_read);
                let told = read.map_or(told, |read| without_passwords(read).unwrap_or_else(|| read.clone()));
                (shown(), told, given.clone())
            }
            None => (before, after.clone(), after),
        };
        if before == after || (is_nothing(&before) && is_nothing(&after)) {
            continue;
        }
        let patch = match (&before, &sent) {
            (Value::Object(before), Value::Object(after)) => Value::Object(merge_patch(before, after)),
            (_, after) if given.is_null() || given.is_object() => after.clone(),
            _ => given.clone(),
        };
        let is_changeable = info.codes.update.is_some() && fields.is_changed_by(field);
        let list = if is_changeable { &mut compared.changes } else { &mut compared.fixed };
        list.push(Difference { field: field.clone(), before, after, patch });
    }
    compared
}

/// Values that stand for none: a view leaves such fields out.
pub(super) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What makes one object the other by a merge patch (RFC 7396).
pub(super) fn merge_patch(before: &Map<String, Value>, after: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    for field in before.keys().filter(|field| !after.contains_key(*field)) {
        patch.insert(field.clone(), Value::Null);
    }
    for (field, value) in after {
        match (before.get(field), value) {
            (Some(before), value) if before == value => {}
            (Some(Value::Object(before)), Value::Object(after)) => {
                patch.insert(field.clone(), Value::Object(merge_patch(before, after)));
            }
            (_, value) => {
                patch.insert(field.clone(), value.clone());
            }
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::declare::normal::{read, resource_of};
    use crate::kinds::kind;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn compared(name: &str, parent: Option<(&str, Value)>, body: Value, view: Value) -> Comparison {
        let info = kind(name).unwrap();
        let (fields, body) = (Fields::of(info), object(body));
        let parent = parent.map(|(name, view)| resource_of(kind(name).unwrap(), &object(view)));
        let wanted = read(info, &fields, parent.as_ref(), &body).unwrap();
        let actual = Actual::of(info, &fields, parent.as_ref(), view).unwrap();
        compare(info, &fields, &body, &wanted, &actual)
    }

    fn names(differences: &[Difference]) -> Vec<&str> {
        differences.iter().map(|one| one.field.as_str()).collect()
    }

    #[test]
    fn only_what_the_item_says_is_compared_and_spelling_does_not_matter() {
        let zone = || Some(("zone", json!({"id": "z", "name": "bakery.test"})));
        let view = json!({"id": "r", "zone_id": "z", "type": "CNAME", "name": "www", "content": "shop.bakery.test", "ttl": 300,
                          "managed_by": "custom", "generation": 2});
        let same = json!({"type": "cname", "name": "WWW.bakery.test.", "content": "SHOP"});
        assert_eq!(compared("zone-record", zone(), same, view.clone()), Comparison::default());
        let other = json!({"type": "CNAME", "name": "www", "content": "shop2", "ttl": 60});
        let found = compared("zone-record", zone(), other, view.clone());
        assert_eq!((names(&found.changes), found.fixed.len()), (vec!["content", "ttl"], 0));
        assert_eq!((&found.changes[1].before, &found.changes[1].patch), (&json!(300), &json!(60)));
        let renamed =
            compared("zone-record", zone(), json!({"type": "CNAME", "name": "web", "content": "shop"}), view);
        assert_eq!(names(&renamed.fixed), ["name"]);
    }

    #[test]
    fn what_is_never_shown_does_not_differ() {
        let view = json!({"id": "web_1", "tenant_id": "t", "runtime": "static", "runtime_version": "1", "service_hostname_enabled": true,
                          "subscription_id": "s", "generation": 1});
        let body = json!({"runtime": "static", "env_vars": [{"name": "KEY", "value": "x", "secret": true}]});
        let found = compared("webroot", Some(("tenant", json!({"id": "t"}))), body, view);
        assert_eq!((found.count(), found.unread), (0, vec!["env_vars".to_owned()]));
    }

    #[test]
    fn passwords_inside_a_policy_are_neither_compared_nor_repeated() {
        let view = json!({"id": "f", "tenant_id": "t", "fqdn": "a.test", "generation": 1, "http": {
            "basic_auth": {"enabled": true, "users": [{"name": "anna"}], "paths": ["/a"], "pass_authorization": false}}});
        let body = |paths: &str, user: Value| json!({"fqdn": "a.test", "http": {"basic_auth": {"enabled": true, "users": [user], "paths": [paths]}}});
        let tenant = || Some(("tenant", json!({"id": "t"})));
        let anna = json!({"name": "anna", "password": "hunter2hunter2"});
        let same = compared("fqdn", tenant(), body("/a/", anna.clone()), view.clone());
        assert_eq!((same.count(), same.unread), (0, vec!["http".to_owned()]));
        let found = compared("fqdn", tenant(), body("/b", anna.clone()), view.clone());
        let change = &found.changes[0];
        assert!(!format!("{} {}", change.before, change.after).contains("hunter2"), "{change:?}");
        assert_eq!(change.patch["basic_auth"]["users"], json!([anna]));
        // What was exported is the same.
        let exported = json!({"fqdn": "a.test", "http": view["http"]});
        assert_eq!(compared("fqdn", tenant(), exported, view).count(), 0);
    }

    #[test]
    fn an_object_is_the_whole_of_its_field() {
        let view = json!({"id": "small", "brand_id": "acme", "name": "small", "limits": {"webroots": 10, "zones": 5}, "generation": 1});
        let brand = || Some(("brand", json!({"id": "acme"})));
        let body = json!({"name": "small", "limits": {"webroots": 20}});
        let found = compared("package", brand(), body, view.clone());
        assert_eq!(found.changes[0].patch, json!({"webroots": 20, "zones": null}));
        let none = compared("package", brand(), json!({"name": "small", "limits": {}}), view);
        assert_eq!(none.changes[0].patch, json!({"webroots": null, "zones": null}), "{none:?}");
    }

    #[test]
    fn a_reference_that_is_taken_away_is_null() {
        let view = json!({"id": "f", "tenant_id": "t", "fqdn": "a.test", "webroot_id": "web_1", "ssl_enabled": false, "generation": 1});
        let tenant = || Some(("tenant", json!({"id": "t"})));
        let body = json!({"fqdn": "A.test", "webroot_id": null});
        let found = compared("fqdn", tenant(), body.clone(), view);
        assert_eq!(found.changes[0].patch, Value::Null);
        let unbound =
            json!({"id": "f", "tenant_id": "t", "fqdn": "a.test", "webroot_id": null, "generation": 1});
        assert_eq!(compared("fqdn", tenant(), body, unbound).count(), 0);
    }
}
