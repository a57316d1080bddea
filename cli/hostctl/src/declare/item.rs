//! An item of a file, once what can be told of it without the platform is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use hosting_resource::{IdPolicy, Kind, KindInfo};
use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::{
    faults::{Fault, Faults},
    files::{Place, Written},
};
use crate::{
    address::host,
    kinds::{self, LABELS, parent_of},
    resources::body,
};

/// The fields of an item beside its spec.
const HEADER: [&str; 5] = ["kind", "in", "id", "name", "spec"];

/// An item.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) place: Place,
    pub(super) info: &'static KindInfo,
    /// What it lies in, by name or id.
    pub(super) lies_in: Option<String>,
    pub(super) id: Option<String>,
    /// What other items call it.
    pub(super) name: Option<String>,
    pub(super) spec: Map<String, Value>,
}

impl Item {
    /// As a person would call it.
    pub(super) fn what(&self) -> String {
        let label = self.label().or(self.name.as_deref()).or(self.id.as_deref()).unwrap_or_default();
        format!("{} {label}", self.info.dashed()).trim().to_owned()
    }

    /// What its spec says that it is called.
    fn label(&self) -> Option<&str> {
        LABELS.iter().find_map(|field| self.spec.get(*field)?.as_str())
    }

    /// What others mean it by, in the form in which names are compared.
    fn names(&self) -> BTreeSet<String> {
        [self.name.as_deref(), self.id.as_deref(), self.label()].into_iter().flatten().map(host).collect()
    }

    pub(super) fn fault(&self, field: &str, reason: impl Into<String>, remedy: impl Into<String>) -> Fault {
        Fault {
            place: self.place.clone(),
            what: self.what(),
            field: field.to_owned(),
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }
}

/// Items by what they are called and by what they refer to, so that a name is looked up and not searched for. Numbers are places in the
/// list that it was made of.
#[derive(Debug, Default)]
pub(super) struct Named {
    called: BTreeMap<(Kind, String), Vec<usize>>,
    leading: BTreeMap<(Kind, String, String), Vec<usize>>,
}

impl Named {
    pub(super) fn of(items: &[Item]) -> Self {
        let mut all = Self::default();
        for (n, item) in items.iter().enumerate() {
            let kind = item.info.kind;
            for name in item.names() {
                all.called.entry((kind, name)).or_default().push(n);
            }
            for (field, value) in &item.spec {
                if let Some(name) = value.as_str().filter(|_| refers_to(field).is_some()) {
                    all.leading.entry((kind, field.clone(), host(name))).or_default().push(n);
                }
            }
        }
        all
    }

    /// The items of a kind that a name means.
    pub(super) fn called(&self, kind: Kind, name: &str) -> &[usize] {
        self.called.get(&(kind, host(name))).map_or(&[], Vec::as_slice)
    }

    /// The items of a kind whose field `relation` means this item.
    pub(super) fn leading_to(&self, item: &Item, kind: Kind, relation: &str) -> BTreeSet<usize> {
        let names = item.names().into_iter();
        let found = names.filter_map(|name| self.leading.get(&(kind, relation.to_owned(), name)));
        found.flatten().copied().collect()
    }
}

/// The fields of each kind that was asked for, read from its schemas once.
#[derive(Debug, Default)]
pub(super) struct FieldsByKind(BTreeMap<Kind, Rc<Fields>>);

impl FieldsByKind {
    pub(super) fn of(&mut self, info: &KindInfo) -> Rc<Fields> {
        Rc::clone(self.0.entry(info.kind).or_insert_with(|| Rc::new(Fields::of(info))))
    }
}

/// What the bodies and the view of a kind have: read from its schemas.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) create: Value,
    pub(super) update: Value,
    pub(super) view: Value,
}

impl Fields {
    pub(super) fn of(info: &KindInfo) -> Self {
        let view = info.kind.def().view_schema(&mut SchemaGenerator::default()).to_value();
        Self { create: body::create_schema(info), update: body::update_schema(info), view }
    }

    pub(super) fn takes(&self, field: &str) -> bool {
        is_in(&self.create, field) || is_in(&self.update, field)
    }

    pub(super) fn is_created_with(&self, field: &str) -> bool {
        is_in(&self.create, field)
    }

    pub(super) fn is_changed_by(&self, field: &str) -> bool {
        is_in(&self.update, field)
    }

    pub(super) fn is_shown(&self, field: &str) -> bool {
        is_in(&self.view, field)
    }

    /// Whether messages must not repeat it: it is or may hold a secret.
    pub(super) fn is_secret(&self, field: &str) -> bool {
        let is_marked = |schema: &Value| schema["properties"][field]["x-secret"] == true;
        is_marked(&self.create) || is_marked(&self.update) || !self.is_shown(field)
    }

    /// The fields that POST takes and the platform serves.
    pub(super) fn of_creation(&self) -> Vec<&str> {
        let fields = self.create["properties"].as_object().into_iter().flatten();
        fields.filter(|(_, schema)| schema["x-not-served"] != true).map(|(name, _)| name.as_str()).collect()
    }

    /// The kind whose resources a field of a creation describes: `fqdns` of a webroot. `roles` of a node are words.
    pub(super) fn describes(&self, field: &str) -> Option<&'static KindInfo> {
        if self.create["properties"][field]["items"]["type"] == "string" {
            return None;
        }
        let infos = Kind::ALL.iter().map(|kind| kind.info());
        infos.into_iter().find(|info| info.plural().replace('-', "_") == field)
    }

    pub(super) fn is_required(&self, field: &str) -> bool {
        self.create["required"].as_array().is_some_and(|all| all.iter().any(|one| one == field))
    }
}

fn is_in(schema: &Value, field: &str) -> bool {
    schema["properties"].get(field).is_some()
}

/// The kind that a field refers to, and whether it takes several: `webroot_id`, `shard_ids`.
pub(super) fn refers_to(field: &str) -> Option<&'static KindInfo> {
    let name = field.strip_suffix("_ids").or_else(|| field.strip_suffix("_id"))?;
    Kind::from_name(name).map(Kind::info)
}

/// Checks what was written.
pub(super) fn checked(written: Written, known: &mut FieldsByKind, faults: &mut Faults) -> Option<Item> {
    let Written { place, mut fields } = written;
    let fault = |field: &str, reason: String, remedy: &str| Fault {
        place: place.clone(),
        what: String::new(),
        field: field.to_owned(),
        reason,
        remedy: remedy.to_owned(),
    };
    let mut found = Vec::new();
    for field in fields.keys().filter(|field| !HEADER.contains(&field.as_str())) {
        found.push(fault(
            field,
            "is no field of an item".to_owned(),
            "an item has kind, in, id, name and spec; the resource's own fields stand in spec",
        ));
    }
    let mut text = |field: &str| match fields.remove(field) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if !text.trim().is_empty() => Some(text),
        Some(Value::String(_)) => {
            found.push(fault(field, "is empty".to_owned(), "leave it out"));
            None
        }
        Some(_) => {
            found.push(fault(field, "must be a text".to_owned(), "quote it, as in \"1001\""));
            None
        }
    };
    let (kind, lies_in, id, name) = (text("kind"), text("in"), text("id"), text("name"));
    let spec = match fields.remove("spec") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(spec)) => spec,
        Some(_) => {
            found.push(fault("spec", "must be a list of fields".to_owned(), "write NAME: VALUE below it"));
            Map::new()
        }
    };
    let info = match kind.as_deref().map(kinds::kind) {
        Some(Ok(info)) => Some(info),
        Some(Err(problem)) => {
            found.push(fault("kind", problem, ""));
            None
        }
        None if found.iter().any(|fault| fault.field == "kind") => None,
        None => {
            found.push(fault("kind", "is required".to_owned(), "e.g. kind: zone-record"));
            None
        }
    };
    let is_sound = found.is_empty();
    found.into_iter().for_each(|fault| faults.add(fault));
    let item = Item { place, info: info?, lies_in, id, name, spec };
    let before = is_sound && check_fields(&item, &known.of(item.info), faults);
    before.then_some(item)
}

/// Checks an item against what its kind takes.
fn check_fields(item: &Item, fields: &Fields, faults: &mut Faults) -> bool {
    let (info, mut found) = (item.info, Vec::new());
    match (parent_of(info), &item.lies_in) {
        (Some(owner), None) => {
            let remedy = format!("name the {} that it lies in", owner.dashed());
            found.push(item.fault("in", "is required", remedy));
        }
        (None, Some(_)) => found.push(item.fault(
            "in",
            format!("{} lie in nothing", info.plural()),
            "leave it out; whose it is stands in spec",
        )),
        (Some(_), Some(_)) | (None, None) => {}
    }
    if info.id == IdPolicy::Caller && item.id.is_none() {
        found.push(item.fault("id", "is required", "choose one"));
    }
    for (field, value) in &item.spec {
        let at = format!("spec.{field}");
        if field == "id" {
            found.push(item.fault(&at, "is no field of a spec", "write id beside kind"));
        } else if !fields.takes(field) {
            let known = fields.of_creation();
            let known: Vec<&str> =
                known.into_iter().filter(|one| *one != "id" && fields.describes(one).is_none()).collect();
            found.push(item.fault(
                &at,
                format!("a {} has no such field", info.dashed()),
                format!("there are {}", known.join(", ")),
            ));
        } else if let Some(other) =
            fields.describes(field).filter(|_| value.as_array().is_some_and(|all| !all.is_empty()))
        {
            let remedy = format!("write each {} as an item of its own", other.dashed());
            found.push(item.fault(&at, "describes other resources", remedy));
        } else if let Some(kind) = refers_to(field) {
            let is_text = |value: &Value| value.is_string() || value.is_null();
            let is_one = if field.ends_with("_ids") {
                value.as_array().is_some_and(|all| all.iter().all(is_text))
            } else {
                is_text(value)
            };
            if !is_one {
                found.push(item.fault(
                    &at,
                    format!("must name a {}", kind.dashed()),
                    "write its name or id as a text",
                ));
            }
        }
    }
    let schema = if item.spec.keys().all(|field| fields.is_created_with(field)) {
        &fields.create
    } else {
        &fields.update
    };
    if let Some(problem) = body::misread(schema, schema, &Value::Object(item.spec.clone()), "") {
        found.push(item.fault("spec", problem, ""));
    }
    let is_sound = found.is_empty();
    found.into_iter().for_each(|fault| faults.add(fault));
    is_sound
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(fields: Value) -> String {
        let place = Place { file: "x.yaml".to_owned(), line: 7 };
        let mut faults = Faults::default();
        let item = checked(
            Written { place, fields: fields.as_object().unwrap().clone() },
            &mut FieldsByKind::default(),
            &mut faults,
        );
        match faults.end() {
            Ok(()) => {
                assert!(item.is_some());
                String::new()
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_wrong_with_an_item_is_told_with_place_field_reason_and_remedy() {
        for (fields, parts) in [
            (json!({"kind": "frob"}), vec!["x.yaml:7: kind: there is no kind", "zone"]),
            (json!({"spec": {}}), vec!["kind: is required"]),
            (json!({"kind": "zone", "ttl": 1}), vec!["ttl: is no field of an item", "stand in spec"]),
            (
                json!({"kind": "fqdn", "spec": {"fqdn": "a.test"}}),
                vec!["fqdn a.test: in: is required", "tenant"],
            ),
            (json!({"kind": "zone", "in": "x", "spec": {}}), vec!["in: zones lie in nothing"]),
            (json!({"kind": "fqdn", "in": 1001}), vec!["in: must be a text", "quote it"]),
            (
                json!({"kind": "fqdn", "in": "t", "spec": {"ttl": 1}}),
                vec!["spec.ttl: a fqdn has no such field", "webroot_id"],
            ),
            (json!({"kind": "subscription", "in": "t", "spec": {"name": "a"}}), vec!["id: is required"]),
            (json!({"kind": "brand", "spec": {"id": "a"}}), vec!["spec.id", "write id beside kind"]),
            (
                json!({"kind": "webroot", "in": "t", "spec": {"fqdns": [{"fqdn": "a.test"}]}}),
                vec!["spec.fqdns: describes other resources", "fqdn as an item of its own"],
            ),
            (
                json!({"kind": "fqdn", "in": "t", "spec": {"webroot_id": 7}}),
                vec!["spec.webroot_id: must name a webroot"],
            ),
            (
                json!({"kind": "tenant", "spec": {"customer_id": 1001}}),
                vec!["customer_id takes text", "Quote it"],
            ),
        ] {
            let text = problems(fields.clone());
            assert!(parts.iter().all(|part| text.contains(part)), "{fields}: {text}");
        }
        assert_eq!(
            problems(json!({"kind": "zone_records", "in": "z", "name": "a", "spec": {"ttl": 60}})),
            ""
        );
    }

    /// Adding a kind needs nothing here as long as it stands behind what it refers to in the table of kinds.
    #[test]
    fn kinds_refer_to_kinds_that_come_before_them() {
        for (place, kind) in Kind::ALL.iter().enumerate() {
            let fields = Fields::of(kind.info());
            for field in fields.of_creation() {
                let Some(other) = refers_to(field) else { continue };
                let before = Kind::ALL.iter().position(|one| *one == other.kind).unwrap();
                assert!(before < place, "{kind}.{field} refers to a {}, which comes later", other.kind);
            }
            let parent = kind
                .info()
                .parent
                .map(|parent| Kind::ALL.iter().position(|one| *one == parent.kind).unwrap());
            assert!(parent.is_none_or(|parent| parent < place), "{kind}");
        }
    }
}
