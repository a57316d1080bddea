//! Nodes of one role that hold the same tenants.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::cluster::settable_status;
use crate::definition::{Build, Definition, Nothing};
use crate::faults::Faults;
use crate::{Codes, Doc, Document, Facet, Filter, IdPolicy, Index, Kind, KindInfo, NoState, Owns, Parent, Resource, SpecError, Status, Tier, Unique, check, filter};

/// What is stored of a shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShardSpec {
    /// Slug, unique in its cluster.
    pub name: String,
    /// One of [`super::ROLES`].
    pub role: String,
    /// Name of the edge's pool for it; `shard-{name}` by default.
    #[serde(default)]
    pub lb_backend: String,
    /// By role: database `primary_node_id`; storage `s3_enabled`, `filestore_enabled`; gateway `listen_port`,
    /// `public_key`, `external_host`.
    #[serde(default)]
    pub config: Map<String, Value>,
}

/// Body of POST /clusters/{clusterID}/shards.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ShardCreate {
    name: String,
    role: String,
    #[serde(default)]
    lb_backend: String,
    #[serde(default)]
    config: Map<String, Value>,
}

/// Body of PUT /shards/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ShardUpdate {
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    lb_backend: Option<String>,
    #[serde(default)]
    config: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    status: Option<String>,
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Shard;

impl Document for Shard {
    const KIND: Kind = Kind::Shard;
    type Spec = ShardSpec;
    type State = NoState;
}

impl Definition for Shard {
    type Create = ShardCreate;
    type Update = ShardUpdate;
    type Extra = Nothing;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "Shard",
        about: "Nodes of one role that hold the same tenants.",
        collection: "/clusters/{clusterID}/shards",
        item: "/shards/{id}",
        parent: Some(Parent { kind: Kind::Cluster, param: "clusterID", field: "cluster_id" }),
        lists: &[],
        scope: "shards",
        tier: Tier::Admin,
        owns: Owns::Nothing,
        host_labels: false,
        suspends_with_tenant: false,
        codes: Codes { create: 201, update: Some(200), delete: 204 },
        retry: true,
        id: IdPolicy::Uuid,
        shape: 1,
        status: true,
        sort: &[],
        filters: &[Filter::label("name", filter::slug), Filter::facet("role", super::role_filter)],
        platform_only: &[],
        global_search: false,
        hidden: &[],
        nullable: &[],
        joins: &[],
    };
    const INITIAL: Status = Status::Active;

    fn create(input: ShardCreate, parent: Option<&Resource>, build: &mut Build<'_>) -> Result<(), SpecError> {
        let mut faults = Faults::default();
        faults.note(check::slug("name", &input.name));
        faults.note(check::one_of("role", &input.role, super::ROLES));
        faults.note(check::optional_text("lb_backend", &input.lb_backend, 255));
        faults.end()?;
        let lb_backend =
            if input.lb_backend.is_empty() { format!("shard-{}", input.name) } else { input.lb_backend };
        let id = build.id(Self::INFO.id, None)?;
        let spec = ShardSpec { name: input.name, role: input.role, lb_backend, config: input.config };
        build.push::<Self>(id, parent.map(|parent| parent.id.as_str()), &spec)
    }

    fn update(spec: &mut ShardSpec, input: ShardUpdate, _: &Resource) -> Result<Option<Status>, SpecError> {
        if let Some(backend) = input.lb_backend {
            check::optional_text("lb_backend", &backend, 255)?;
            spec.lb_backend = backend;
        }
        if let Some(config) = input.config {
            spec.config = config;
        }
        settable_status(input.status.as_deref())
    }

    fn label(_: &str, spec: &ShardSpec) -> String {
        spec.name.clone()
    }

    fn index(resource: &Resource, spec: &ShardSpec, index: &mut Index) {
        let scope = resource.parent.clone().unwrap_or_default();
        index.uniques.push(Unique { scope, key: spec.name.clone(), field: "name" });
        index.facets.push(Facet { field: "role", value: spec.role.clone() });
    }

    fn extra(_: &Doc<Self>) -> Nothing {
        Nothing {}
    }

    fn example() -> Value {
        json!({"name": "web-1", "role": "web", "config": {}})
    }
}
