//! What a body means, by the rules of its kind: the same ones that the platform applies, so that two spellings of one thing do not differ.

use hosting_resource::{KindInfo, OwnerRef, Resource, SpecError, Status, Unique};
use serde_json::{Map, Value};

use super::item::Fields;
use crate::kinds::label_of;

/// A body as its kind reads it.
#[derive(Debug, Clone)]
pub(super) struct Normal {
    pub(super) label: String,
    /// Whether the label is a name that somebody gave, and not the id.
    pub(super) is_named: bool,
    pub(super) spec: Map<String, Value>,
    /// Whose it is, where that is not what it lies in.
    pub(super) owner: Option<OwnerRef>,
    /// Names that no other one of the kind can have there.
    pub(super) uniques: Vec<Unique>,
    /// As it would be stored.
    pub(super) resource: Resource,
    /// Fields that nobody knows.
    pub(super) unknown: Vec<String>,
    /// A field whose bounds only the platform knows, and which is therefore not in the spec.
    pub(super) unread: Option<String>,
}

/// Reads a body of POST. `parent` is what the resource lies in.
///
/// # Errors
/// What the kind refuses. Values of fields whose bounds the platform's operators choose are left to the platform.
pub(super) fn read(
    info: &KindInfo,
    fields: &Fields,
    parent: Option<&Resource>,
    body: &Map<String, Value>,
) -> Result<Normal, SpecError> {
    match read_whole(info, fields, parent, body) {
        Err(SpecError::Invalid { field, problem }) => {
            let outer = field.split(['.', '[']).next().unwrap_or_default();
            if !body.get(outer).is_some_and(Value::is_object) {
                return Err(SpecError::Invalid { field, problem });
            }
            let mut rest = body.clone();
            rest.remove(outer);
            let unread = Some(outer.to_owned());
            read_whole(info, fields, parent, &rest).map(|normal| Normal { unread, ..normal })
        }
        other => other,
    }
}

fn read_whole(
    info: &KindInfo,
    fields: &Fields,
    parent: Option<&Resource>,
    body: &Map<String, Value>,
) -> Result<Normal, SpecError> {
    let def = info.kind.def();
    // What is random in a new one (ids, keys) says nothing about the body: the same bytes each time.
    let mut entropy = |bytes: &mut [u8]| bytes.fill(0);
    let creation = def.create(parent, body, &mut entropy)?;
    let unknown = creation.warnings.iter().filter(|one| one.code == "unknown_field");
    let unknown = unknown.map(|one| one.field.clone()).collect();
    let first = creation.resources.into_iter().next();
    let new = first.ok_or_else(|| SpecError::Malformed { problem: "it describes nothing".to_owned() })?;
    let (label, owner) = (new.label.clone(), new.owner.clone());
    let mut resource = new.into_resource(parent, 0, 0);
    if let Some(parent) = parent {
        resource.tenant.clone_from(&parent.tenant);
    }
    let mut uniques = def.index(&resource).uniques;
    uniques.retain(|unique| fields.is_created_with(unique.field));
    let is_lying_in = |owner: &OwnerRef| info.parent.is_some_and(|parent| parent.field == owner.field);
    Ok(Normal {
        is_named: label != resource.id,
        label,
        owner: owner.filter(|owner| !is_lying_in(owner)),
        uniques,
        spec: resource.spec.clone(),
        resource,
        unknown,
        unread: None,
    })
}

/// The resource that a view shows, as far as it shows it.
pub(super) fn resource_of(info: &KindInfo, view: &Map<String, Value>) -> Resource {
    let text = |field: &str| view.get(field).and_then(Value::as_str).map(str::to_owned);
    let label = label_of(&Value::Object(view.clone())).unwrap_or_default().to_owned();
    Resource {
        id: text("id").unwrap_or_default(),
        kind: info.kind,
        parent: info.parent.and_then(|parent| text(parent.field)),
        tenant: text("tenant_id"),
        brand: text("brand_id"),
        label,
        status: text("status").and_then(|status| Status::from_name(&status)).unwrap_or(Status::Active),
        status_message: None,
        shape: info.shape,
        generation: view.get("generation").and_then(Value::as_u64).unwrap_or_default(),
        created_revision: 0,
        created_at: 0,
        updated_at: 0,
        spec: view.clone(),
        state: Map::new(),
    }
}

/// A body of POST that would make what a view shows.
pub(super) fn body_of(fields: &Fields, view: &Map<String, Value>) -> Map<String, Value> {
    let shown = |name: &str| view.get(name).filter(|value| !value.is_null()).cloned();
    fields.of_creation().into_iter().filter_map(|name| Some((name.to_owned(), shown(name)?))).collect()
}

/// A resource of the platform, as its view shows it.
#[derive(Debug, Clone)]
pub(super) struct Actual {
    pub(super) id: String,
    pub(super) view: Map<String, Value>,
    /// What its own body means; `None` where the view does not show enough of it.
    pub(super) normal: Option<Normal>,
}

impl Actual {
    pub(super) fn of(
        info: &KindInfo,
        fields: &Fields,
        parent: Option<&Resource>,
        view: Value,
    ) -> Option<Self> {
        let Value::Object(view) = view else { return None };
        let id = view.get("id")?.as_str()?.to_owned();
        let normal = read(info, fields, parent, &body_of(fields, &view)).ok();
        Some(Self { id, view, normal })
    }

    /// What a person would call it.
    pub(super) fn label(&self) -> String {
        match &self.normal {
            Some(normal) if normal.is_named => normal.label.clone(),
            Some(_) | None => {
                label_of(&Value::Object(self.view.clone())).unwrap_or(self.id.as_str()).to_owned()
            }
        }
    }

    /// The precondition of a change: the generation that was read.
    pub(super) fn generation(&self) -> Option<String> {
        self.view.get("generation").and_then(Value::as_u64).map(|generation| generation.to_string())
    }

    /// Whether it is on its way out, or opens nothing any more.
    pub(super) fn is_gone(view: &Value) -> bool {
        let status = view["status"].as_str().and_then(Status::from_name);
        status.is_some_and(Status::is_gone) || view["revoked_at"].is_string()
    }

    /// Whether the platform made it and keeps it, or nobody may delete it.
    pub(super) fn is_the_platforms(&self, info: &KindInfo) -> bool {
        let resource = resource_of(info, &self.view);
        let def = info.kind.def();
        def.is_derived(&resource) || def.deletable(&resource).is_err()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::kind;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn normal(name: &str, parent: Option<(&str, Value)>, body: Value) -> Normal {
        let info = kind(name).unwrap();
        let parent = parent.map(|(name, view)| resource_of(kind(name).unwrap(), &object(view)));
        read(info, &Fields::of(info), parent.as_ref(), &object(body)).unwrap()
    }

    #[test]
    fn spellings_of_one_thing_are_one() {
        let zone = || Some(("zone", json!({"id": "z", "name": "bakery.test"})));
        let short = normal("zone-record", zone(), json!({"type": "cname", "name": "WWW", "content": "Shop"}));
        let long = json!({"type": "CNAME", "name": "www.bakery.test.", "content": "shop.bakery.test."});
        let long = normal("zone-record", zone(), long);
        assert_eq!((&short.label, short.is_named), (&"www.bakery.test CNAME".to_owned(), true));
        assert_eq!(short.label, long.label);
        for field in ["type", "name", "content", "ttl"] {
            assert_eq!(short.spec[field], long.spec[field], "{field}");
        }
        let tenant = || Some(("tenant", json!({"id": "t_1"})));
        let fqdn = normal("fqdn", tenant(), json!({"fqdn": "WWW.Bakery.TEST."}));
        assert_eq!(fqdn.label, "www.bakery.test");
        assert_eq!(fqdn.uniques.len(), 1);
        assert!(!normal("webroot", tenant(), json!({"runtime": "static"})).is_named);
    }

    #[test]
    fn a_name_that_is_made_up_is_no_name() {
        let keys = normal("api-key", None, json!({"name": "crm", "scopes": ["*:read"], "brands": ["acme"]}));
        assert_eq!((keys.label.as_str(), keys.uniques.len()), ("crm", 0));
        let tenant = json!({"brand_id": "acme", "customer_id": "1", "region_id": "r", "cluster_id": "c"});
        let owner = normal("tenant", None, tenant).owner.unwrap();
        assert_eq!((owner.field, owner.id.as_str()), ("brand_id", "acme"));
    }

    #[test]
    fn what_the_platform_made_is_told_from_the_rest() {
        let info = kind("zone-record").unwrap();
        let is_the_platforms = |managed_by: &str| {
            let view = object(
                json!({"id": "r", "type": "A", "name": "www", "content": "192.0.2.1", "managed_by": managed_by}),
            );
            Actual { id: "r".to_owned(), view, normal: None }.is_the_platforms(info)
        };
        assert!(is_the_platforms("auto") && !is_the_platforms("custom"));
    }
}
