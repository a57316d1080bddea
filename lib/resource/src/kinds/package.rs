//! A named set of limits of a brand, which its tenants and subscriptions name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::definition::{Build, Definition, Nothing};
use crate::limits::Limits;
use crate::{Codes, Column, Doc, Document, Filter, Id, IdPolicy, Index, Kind, KindInfo, NoState, Owns, Parent, Resource, SpecError, Status, Tier, Unique, check, filter};

/// What is stored of a package.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PackageSpec {
    /// Unique in its brand.
    pub name: String,
    /// The most resources of some kinds. A change counts at once for everybody who has the package; what there is already stays.
    #[serde(default)]
    pub limits: Limits,
}

/// Body of POST /brands/{brandID}/packages.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct PackageCreate {
    /// Own id; a random UUID when absent.
    #[serde(default)]
    id: Option<String>,
    name: String,
    #[serde(default)]
    limits: Limits,
}

/// Body of PUT /packages/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct PackageUpdate {
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    name: Option<String>,
    /// All of them.
    #[serde(default)]
    limits: Option<Limits>,
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Package;

impl Document for Package {
    const KIND: Kind = Kind::Package;
    type Spec = PackageSpec;
    type State = NoState;
}

/// The package that a body names; none for an empty text.
pub(crate) fn named(id: Option<String>) -> Result<Option<Id<Package>>, SpecError> {
    let Some(id) = id.filter(|id| !id.is_empty()) else { return Ok(None) };
    check::reference("package_id", &id)?;
    Ok(Some(Id::from(id)))
}

fn sound(spec: &PackageSpec) -> Result<(), SpecError> {
    check::text("name", &spec.name, 255)?;
    spec.limits.check("limits")
}

impl Definition for Package {
    type Create = PackageCreate;
    type Update = PackageUpdate;
    type Extra = Nothing;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "Package",
        about: "A named set of limits of a brand, which its tenants and subscriptions name.",
        collection: "/brands/{brandID}/packages",
        item: "/packages/{id}",
        parent: Some(Parent { kind: Kind::Brand, param: "brandID", field: "brand_id" }),
        lists: &[],
        scope: "packages",
        tier: Tier::Brand,
        owns: Owns::Nothing,
        host_labels: false,
        suspends_with_tenant: false,
        codes: Codes { create: 201, update: Some(200), delete: 200 },
        retry: false,
        id: IdPolicy::CallerOrUuid,
        shape: 1,
        status: true,
        sort: &[("name", Column::Label), ("created_at", Column::Created)],
        filters: &[Filter::label("name", filter::text)],
        platform_only: &[],
        global_search: false,
        hidden: &[],
        nullable: &[],
        joins: &[],
    };
    const INITIAL: Status = Status::Active;

    fn create(input: PackageCreate, parent: Option<&Resource>, build: &mut Build<'_>) -> Result<(), SpecError> {
        let spec = PackageSpec { name: input.name, limits: input.limits };
        sound(&spec)?;
        let id = build.id(Self::INFO.id, input.id.as_deref())?;
        build.push::<Self>(id, parent.map(|parent| parent.id.as_str()), &spec)
    }

    fn update(spec: &mut PackageSpec, input: PackageUpdate, _: &Resource) -> Result<Option<Status>, SpecError> {
        if let Some(name) = input.name {
            spec.name = name;
        }
        if let Some(limits) = input.limits {
            spec.limits = limits;
        }
        sound(spec)?;
        Ok(None)
    }

    fn label(_: &str, spec: &PackageSpec) -> String {
        spec.name.clone()
    }

    fn index(resource: &Resource, spec: &PackageSpec, index: &mut Index) {
        let scope = resource.parent.clone().unwrap_or_default();
        index.uniques.push(Unique { scope, key: spec.name.clone(), field: "name" });
    }

    fn extra(_: &Doc<Self>) -> Nothing {
        Nothing {}
    }

    fn example() -> Value {
        json!({"id": "small", "name": "small", "limits": {"webroots": 10, "fqdns": 50, "zones": 10}})
    }
}
