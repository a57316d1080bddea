//! What is to be done, in an order in which each step finds what it needs.

use std::collections::BTreeSet;

use hosting_resource::KindInfo;
use serde_json::{Map, Value, json};

use super::{
    compare::{Compared, Doomed, Entry, item_of},
    differ::Difference,
    files::Place,
    item::refers_to,
};
use crate::output::cell;

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Create,
    Change,
    Delete,
}

impl Verb {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Delete => "delete",
        }
    }
}

/// A field as a message shows it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shown {
    pub(super) field: String,
    /// `None`: it is or may hold a secret.
    pub(super) values: Option<(Value, Value)>,
}

/// One change of one resource.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) verb: Verb,
    pub(super) info: &'static KindInfo,
    /// Of what is there already.
    pub(super) id: Option<String>,
    pub(super) label: String,
    /// What it lies in, as the file or the platform calls it.
    pub(super) lies_in: Option<String>,
    /// Where the files say so.
    pub(super) place: Option<Place>,
    pub(super) fields: Vec<Shown>,
    /// The items of `POST /bulk`.
    pub(super) ops: Vec<Value>,
}

impl Step {
    /// As a person would call it.
    pub(super) fn what(&self) -> String {
        format!("{} {}", self.info.dashed(), self.label).trim_end().to_owned()
    }
}

/// The steps that lead from what there is to what files say.
pub(super) fn steps(compared: &Compared) -> Vec<Step> {
    let entries = &compared.entries;
    let (mut kept, mut left_behind) = (BTreeSet::new(), BTreeSet::new());
    for entry in entries {
        kept.extend(entry.spot.as_ref().map(|spot| spot.id.clone()));
        kept.extend(ids_in(&entry.body));
        let Some(found) = &entry.found else { continue };
        let is_changed = |field: &str| entry.compared.changes.iter().any(|change| change.field == field);
        for (field, value) in &found.view {
            let ids = ids_of(field, value);
            if is_changed(field) { left_behind.extend(ids) } else { kept.extend(ids) }
        }
    }
    let goes = |doomed: &&Doomed| !kept.contains(&doomed.actual.id);
    // What something still refers to goes once that has been changed, everything else makes room first.
    let is_late = |doomed: &&Doomed| left_behind.contains(&doomed.actual.id);
    let mut doomed: Vec<&Doomed> = compared.doomed.iter().filter(goes).collect();
    doomed.sort_by_key(|one| std::cmp::Reverse(one.info.kind));
    let (late, early): (Vec<&Doomed>, Vec<&Doomed>) = doomed.into_iter().partition(is_late);
    let mut steps: Vec<Step> = early.into_iter().map(deletion).collect();
    steps.extend(entries.iter().enumerate().filter_map(|(n, entry)| match &entry.found {
        None => Some(creation(n, entry)),
        Some(_) if entry.compared.changes.is_empty() => None,
        Some(_) => Some(change(entry)),
    }));
    steps.extend(late.into_iter().map(deletion));
    steps
}

/// The ids in the fields of a body that refer to resources.
fn ids_in(body: &Map<String, Value>) -> Vec<String> {
    body.iter().flat_map(|(field, value)| ids_of(field, value)).collect()
}

fn ids_of(field: &str, value: &Value) -> Vec<String> {
    if refers_to(field).is_none() {
        return Vec::new();
    }
    let many = value.as_array().into_iter().flatten();
    many.chain([value]).filter_map(|id| id.as_str().map(str::to_owned)).collect()
}

/// What a later item calls one that is made in the same call.
pub(super) fn name_of(item: usize) -> String {
    format!("item-{item}")
}

/// An id, or the reference to an earlier item in its place.
fn sent_id(id: &str) -> Value {
    item_of(id).map_or_else(|| json!(id), |item| json!({"$id": name_of(item)}))
}

fn sent(field: &str, value: &Value) -> Value {
    match value {
        Value::Array(items) if refers_to(field).is_some() => {
            items.iter().map(|item| sent(field, item)).collect()
        }
        Value::String(id) if refers_to(field).is_some() => sent_id(id),
        other => other.clone(),
    }
}

fn creation(n: usize, entry: &Entry) -> Step {
    let (item, name) = (&entry.item, name_of(n));
    let is_given = |(_, value): &(&String, &Value)| !value.is_null();
    let (now, later): (Vec<_>, Vec<_>) =
        entry.body.iter().filter(is_given).partition(|(field, _)| entry.fields.is_created_with(field));
    let body = |fields: Vec<(&String, &Value)>| -> Map<String, Value> {
        fields.into_iter().map(|(field, value)| (field.clone(), sent(field, value))).collect()
    };
    let mut op = json!({"name": name, "op": "create", "kind": item.info.kind.name(), "body": body(now)});
    if let Some(spot) = entry.spot.as_ref().filter(|_| item.info.parent.is_some()) {
        op["parent"] = sent_id(&spot.id);
    }
    let mut ops = vec![op];
    if !later.is_empty() {
        let id = json!({"$id": name});
        ops.push(json!({"op": "patch", "kind": item.info.kind.name(), "id": id, "body": body(later)}));
    }
    Step {
        verb: Verb::Create,
        info: item.info,
        id: None,
        label: label_of(entry),
        lies_in: item.lies_in.clone(),
        place: Some(item.place.clone()),
        fields: Vec::new(),
        ops,
    }
}

fn change(entry: &Entry) -> Step {
    let (item, found) = (&entry.item, entry.found.as_ref());
    let patch: Map<String, Value> = entry
        .compared
        .changes
        .iter()
        .map(|change| (change.field.clone(), sent(&change.field, &change.patch)))
        .collect();
    let id = found.map(|found| found.id.clone());
    let mut op = json!({"op": "patch", "kind": item.info.kind.name(), "id": id, "body": patch});
    if let Some(generation) = found.and_then(|found| found.generation()) {
        op["if_match"] = generation.into();
    }
    Step {
        verb: Verb::Change,
        info: item.info,
        id,
        label: label_of(entry),
        lies_in: item.lies_in.clone(),
        place: Some(item.place.clone()),
        fields: entry.compared.changes.iter().map(|change| shown(entry, change)).collect(),
        ops: vec![op],
    }
}

/// A change as it is shown: what refers to others by the names that the file has for them.
fn shown(entry: &Entry, change: &Difference) -> Shown {
    let field = change.field.clone();
    if entry.fields.is_secret(&field) {
        return Shown { field, values: None };
    }
    let named = entry.item.spec.get(&field).filter(|_| refers_to(&field).is_some());
    let after = named.unwrap_or(&change.after).clone();
    Shown { field, values: Some((change.before.clone(), after)) }
}

fn label_of(entry: &Entry) -> String {
    let name = entry.item.name.clone().or_else(|| entry.found.as_ref().map(|found| found.id.clone()));
    if entry.normal.is_named { entry.normal.label.clone() } else { name.unwrap_or_default() }
}

fn deletion(doomed: &Doomed) -> Step {
    let actual = &doomed.actual;
    let mut op = json!({"op": "delete", "kind": doomed.info.kind.name(), "id": actual.id});
    if let Some(generation) = actual.generation() {
        op["if_match"] = generation.into();
    }
    let content = ["content", "runtime"].iter().find_map(|field| actual.view.get(*field));
    let content = content.map(|content| format!(" ({})", cell(content))).unwrap_or_default();
    Step {
        verb: Verb::Delete,
        info: doomed.info,
        id: Some(actual.id.clone()),
        label: format!("{}{content}", actual.label()),
        lies_in: Some(doomed.spot.id.clone()),
        place: None,
        fields: Vec::new(),
        ops: vec![op],
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::declare::compare::Spot;
    use crate::declare::differ::compare;
    use crate::declare::item::{Fields, Item};
    use crate::declare::normal::{Actual, read, resource_of};
    use crate::kinds::kind;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn actual(info: &KindInfo, view: Value) -> Actual {
        let tenant = resource_of(kind("tenant").unwrap(), &object(json!({"id": "t"})));
        Actual::of(info, &Fields::of(info), Some(&tenant), view).unwrap()
    }

    /// Something in the tenant `t`.
    fn entry(name: &str, body: Value, found: Option<Value>) -> Entry {
        let info = kind(name).unwrap();
        let fields = Rc::new(Fields::of(info));
        let tenant = resource_of(kind("tenant").unwrap(), &object(json!({"id": "t"})));
        let body = object(body);
        let normal = read(info, &fields, Some(&tenant), &body).unwrap();
        let found = found.map(|view| actual(info, view));
        let compared =
            found.as_ref().map(|found| compare(info, &fields, &body, &normal, found)).unwrap_or_default();
        let place = Place { file: "x".to_owned(), line: 1 };
        let (lies_in, spec) = (Some("acme-1001".to_owned()), body.clone());
        let item = Item { place, info, lies_in, id: None, name: Some("it".to_owned()), spec };
        Entry { item, fields, spot: Some(Spot::of("tenant_id", "t")), body, normal, found, compared }
    }

    fn doomed(name: &str, view: Value) -> Doomed {
        let info = kind(name).unwrap();
        Doomed { info, actual: actual(info, view), spot: Spot::of("tenant_id", "t") }
    }

    fn site(id: &str) -> Value {
        json!({"id": id, "tenant_id": "t", "runtime": "static", "generation": 2})
    }

    fn fqdn(id: &str, name: &str, webroot: &str) -> Value {
        json!({"id": id, "tenant_id": "t", "fqdn": name, "webroot_id": webroot, "ssl_enabled": false, "generation": 3})
    }

    #[test]
    fn each_step_finds_what_it_needs() {
        let compared = Compared {
            entries: vec![
                entry("webroot", json!({"runtime": "static"}), None),
                entry("webroot", json!({"runtime": "static"}), Some(site("web_same"))),
                entry(
                    "fqdn",
                    json!({"fqdn": "a.test", "webroot_id": "new-item:0"}),
                    Some(fqdn("f-a", "a.test", "web_old")),
                ),
                entry("fqdn", json!({"fqdn": "b.test", "webroot_id": "web_kept"}), None),
            ],
            doomed: vec![
                doomed("webroot", site("web_old")),
                doomed("webroot", site("web_free")),
                doomed("webroot", site("web_kept")),
                doomed("fqdn", fqdn("f-c", "c.test", "web_free")),
            ],
        };
        let steps = steps(&compared);
        let told: Vec<String> =
            steps.iter().map(|step| format!("{} {}", step.verb.as_str(), step.what())).collect();
        let wanted = [
            "delete fqdn c.test",
            "delete webroot web_free (static)",
            "create webroot it",
            "change fqdn a.test",
            "create fqdn b.test",
            "delete webroot web_old (static)",
        ];
        assert_eq!(told, wanted, "what is referred to is kept, and goes once nothing refers to it any more");
        let change = json!({"op": "patch", "kind": "fqdn", "id": "f-a", "if_match": "3", "body": {"webroot_id": {"$id": "item-0"}}});
        assert_eq!(steps[3].ops, [change]);
        let created = json!({"name": "item-0", "op": "create", "kind": "webroot", "parent": "t", "body": {"runtime": "static"}});
        assert_eq!(steps[2].ops, [created]);
    }
}
