//! A place with clusters in it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::definition::{Build, Definition, Nothing};
use crate::{Codes, Doc, Document, Filter, IdPolicy, Index, Kind, KindInfo, NoState, Owns, Resource, SpecError, Status, Tier, Unique, check, filter};

/// What is stored of a region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RegionSpec {
    /// Slug, unique.
    pub name: String,
    /// Free-form.
    #[serde(default)]
    pub config: Map<String, Value>,
}

/// Body of POST /regions.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RegionCreate {
    name: String,
    #[serde(default)]
    config: Map<String, Value>,
}

/// Body of PUT /regions/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RegionUpdate {
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    name: Option<String>,
    #[serde(default)]
    config: Option<Map<String, Value>>,
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Region;

impl Document for Region {
    const KIND: Kind = Kind::Region;
    type Spec = RegionSpec;
    type State = NoState;
}

impl Definition for Region {
    type Create = RegionCreate;
    type Update = RegionUpdate;
    type Extra = Nothing;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "Region",
        about: "A place with clusters in it.",
        collection: "/regions",
        item: "/regions/{id}",
        parent: None,
        lists: &[],
        scope: "regions",
        tier: Tier::Admin,
        owns: Owns::Nothing,
        host_labels: false,
        suspends_with_tenant: false,
        codes: Codes { create: 201, update: Some(200), delete: 204 },
        retry: false,
        id: IdPolicy::Uuid,
        shape: 1,
        status: false,
        sort: &[],
        filters: &[Filter::label("name", filter::slug)],
        platform_only: &[],
        global_search: false,
        hidden: &[],
        nullable: &[],
        joins: &[],
    };
    const INITIAL: Status = Status::Active;

    fn create(input: RegionCreate, _: Option<&Resource>, build: &mut Build<'_>) -> Result<(), SpecError> {
        check::slug("name", &input.name)?;
        let id = build.id(Self::INFO.id, None)?;
        build.push::<Self>(id, None, &RegionSpec { name: input.name, config: input.config })
    }

    fn update(spec: &mut RegionSpec, input: RegionUpdate, _: &Resource) -> Result<Option<Status>, SpecError> {
        if let Some(name) = input.name {
            check::slug("name", &name)?;
            spec.name = name;
        }
        if let Some(config) = input.config {
            spec.config = config;
        }
        Ok(None)
    }

    fn label(_: &str, spec: &RegionSpec) -> String {
        spec.name.clone()
    }

    fn index(_: &Resource, spec: &RegionSpec, index: &mut Index) {
        index.uniques.push(Unique { scope: String::new(), key: spec.name.clone(), field: "name" });
    }

    fn extra(_: &Doc<Self>) -> Nothing {
        Nothing {}
    }

    fn example() -> Value {
        json!({"name": "eu-north-1", "config": {}})
    }
}
