//! A named set of scopes that API keys name beside scopes of their own. A change of it counts at once for all of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api_key;
use crate::definition::{Build, Definition, Grants, Nothing};
use crate::faults::Faults;
use crate::roles::built_in;
use crate::{Codes, Column, Doc, Document, Filter, IdPolicy, Index, Kind, KindInfo, NoState, Owns, Resource, SpecError, Status, Tier, check, filter};

/// What is stored of a role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RoleSpec {
    /// For people.
    pub name: String,
    /// `resource:action`; `*` in either place stands for all.
    pub scopes: Vec<String>,
}

/// Body of POST /roles.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RoleCreate {
    /// Own id, by which keys name it; a random UUID when absent. Those of the built-in roles are taken.
    #[serde(default)]
    id: Option<String>,
    #[schemars(length(min = 1, max = 255))]
    name: String,
    #[schemars(length(min = 1))]
    scopes: Vec<String>,
}

/// Body of PUT /roles/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RoleUpdate {
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    name: Option<String>,
    /// All of them.
    #[serde(default)]
    scopes: Option<Vec<String>>,
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Role;

impl Document for Role {
    const KIND: Kind = Kind::Role;
    type Spec = RoleSpec;
    type State = NoState;
}

fn sound(spec: &mut RoleSpec) -> Result<(), SpecError> {
    let mut faults = Faults::default();
    faults.note(check::text("name", &spec.name, 255));
    if spec.scopes.is_empty() {
        faults.note::<()>(Err(SpecError::invalid("scopes", "at least one is required")));
    }
    faults.note(api_key::check_scopes(&mut spec.scopes));
    faults.end()
}

impl Definition for Role {
    type Create = RoleCreate;
    type Update = RoleUpdate;
    type Extra = Nothing;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "Role",
        about: "A named set of scopes that API keys name beside scopes of their own. A change counts at once for all of them.",
        collection: "/roles",
        item: "/roles/{id}",
        parent: None,
        lists: &[],
        // Whoever changes a role changes keys.
        scope: "api_keys",
        tier: Tier::Admin,
        owns: Owns::Nothing,
        host_labels: false,
        suspends_with_tenant: false,
        codes: Codes { create: 201, update: Some(200), delete: 204 },
        retry: false,
        id: IdPolicy::CallerOrUuid,
        shape: 1,
        status: false,
        sort: &[("name", Column::Label), ("created_at", Column::Created)],
        filters: &[Filter::label("name", filter::text)],
        platform_only: &[],
        global_search: false,
        hidden: &[],
        nullable: &[],
        joins: &[],
    };
    const INITIAL: Status = Status::Active;

    fn create(input: RoleCreate, _: Option<&Resource>, build: &mut Build<'_>) -> Result<(), SpecError> {
        let mut spec = RoleSpec { name: input.name, scopes: input.scopes };
        sound(&mut spec)?;
        let id = build.id(Self::INFO.id, input.id.as_deref())?;
        if built_in(&id).is_some() {
            return Err(SpecError::invalid("id", format!("{id:?} is a role that there is already, and stays as it is")));
        }
        build.push::<Self>(id, None, &spec)
    }

    fn update(spec: &mut RoleSpec, input: RoleUpdate, _: &Resource) -> Result<Option<Status>, SpecError> {
        if let Some(name) = input.name {
            spec.name = name;
        }
        if let Some(scopes) = input.scopes {
            spec.scopes = scopes;
        }
        sound(spec)?;
        Ok(None)
    }

    fn label(_: &str, spec: &RoleSpec) -> String {
        spec.name.clone()
    }

    fn index(_: &Resource, _: &RoleSpec, _: &mut Index) {}

    fn extra(_: &Doc<Self>) -> Nothing {
        Nothing {}
    }

    fn grants(spec: &RoleSpec) -> Option<Grants> {
        Some(Grants { scopes: spec.scopes.clone(), ..Grants::default() })
    }

    fn example() -> Value {
        json!({"id": "dns-editor", "name": "DNS editor", "scopes": ["zones:read", "zone_records:*"]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::BUILT_IN;

    #[test]
    fn built_in_roles_have_scopes_that_there_are() {
        for (id, about, scopes) in BUILT_IN {
            let mut all: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
            api_key::check_scopes(&mut all).unwrap();
            assert_eq!((all.len(), about.is_empty()), (scopes.len(), false), "{id}: one stands twice");
            // None of them makes keys, or everything.
            let gives = |wanted: &str| scopes.iter().any(|scope| crate::scope_holds(scope, wanted));
            assert!(!gives("api_keys:write") && !gives("platform:write") && !gives("*:*"), "{id}");
            let taken = json!({"id": id, "name": "x", "scopes": ["zones:read"]});
            let refused = Kind::Role.def().create(None, taken.as_object().unwrap(), &mut |_: &mut [u8]| {});
            assert!(refused.unwrap_err().to_string().contains("there is already"), "{id}");
        }
    }
}
