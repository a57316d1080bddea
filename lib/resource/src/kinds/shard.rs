//! Nodes of one role that hold the same tenants.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::cluster::settable_status;
use crate::definition::{Build, Definition};
use crate::document::is_zero;
use crate::faults::Faults;
use crate::{Codes, Doc, Document, Draining, DrainingView, Facet, Filter, IdPolicy, Index, Kind, KindInfo, Owns, Parent, Resource, SpecError, Status, Tier, Unique, check, filter};

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
    /// The most tenants that it takes; 0: as many as one likes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub max_tenants: u64,
    /// How much it takes beside the others, 1 to 10000: one of weight 200 gets twice the tenants of one of weight 100.
    #[serde(default = "default_weight", skip_serializing_if = "is_default_weight")]
    pub weight: u32,
}

const DEFAULT_WEIGHT: u32 = 100;

const fn default_weight() -> u32 {
    DEFAULT_WEIGHT
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
const fn is_default_weight(weight: &u32) -> bool {
    *weight == DEFAULT_WEIGHT
}

/// What the controller keeps about a shard.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ShardState {
    /// It takes no more tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining: Option<Draining>,
}

/// What is shown beside the spec.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ShardExtra {
    /// It takes no more tenants; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    draining: Option<DrainingView>,
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
    #[serde(default)]
    max_tenants: u64,
    #[serde(default = "default_weight")]
    #[schemars(range(min = 1, max = 10000))]
    weight: u32,
}

/// Body of PUT /shards/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ShardUpdate {
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    lb_backend: Option<String>,
    #[serde(default)]
    config: Option<Map<String, Value>>,
    #[serde(default)]
    max_tenants: Option<u64>,
    #[serde(default)]
    #[schemars(range(min = 1, max = 10000))]
    weight: Option<u32>,
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    status: Option<String>,
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Shard;

impl Document for Shard {
    const KIND: Kind = Kind::Shard;
    type Spec = ShardSpec;
    type State = ShardState;
}

impl Definition for Shard {
    type Create = ShardCreate;
    type Update = ShardUpdate;
    type Extra = ShardExtra;

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
        faults.note(check::between("weight", input.weight, 1, 10_000));
        faults.end()?;
        let lb_backend = if input.lb_backend.is_empty() {
            format!("shard-{}", input.name)
        } else {
            input.lb_backend.clone()
        };
        let id = build.id(Self::INFO.id, None)?;
        let (max_tenants, weight) = (input.max_tenants, input.weight);
        let ShardCreate { name, role, config, .. } = input;
        let spec = ShardSpec { name, role, lb_backend, config, max_tenants, weight };
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
        if let Some(most) = input.max_tenants {
            spec.max_tenants = most;
        }
        if let Some(weight) = input.weight {
            check::between("weight", weight, 1, 10_000)?;
            spec.weight = weight;
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

    fn extra(shard: &Doc<Self>) -> ShardExtra {
        ShardExtra { draining: shard.state.draining.map(DrainingView::from) }
    }

    fn example() -> Value {
        json!({"name": "web-1", "role": "web", "config": {}})
    }
}
