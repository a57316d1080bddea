//! A machine. Node resources are the registry: what a certificate may do is read from here.

use std::num::NonZeroU16;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cluster::settable_status;
use super::shard::Shard;
use crate::definition::{Build, Definition};
use crate::document::is_false;
use crate::faults::Faults;
use crate::{Codes, Column, Doc, Document, Draining, DrainingView, Facet, Filter, Id, IdPolicy, Index, Kind, KindInfo, Owns, Parent, Ref, Resource, SpecError, Status, Tier, check, filter, timestamp};

/// What is stored of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeSpec {
    /// Host name.
    pub hostname: String,
    /// IPv4, where other nodes reach it.
    #[serde(default)]
    pub ip_address: Option<String>,
    /// IPv6, where other nodes reach it.
    #[serde(default)]
    pub ip6_address: Option<String>,
    /// Of [`super::ROLES`], at least one.
    pub roles: Vec<String>,
    /// The shards that it is in, in the order of assignment.
    #[serde(default)]
    pub shard_ids: Vec<Id<Shard>>,
    /// Where the edge reaches the node's sites.
    #[serde(default = "default_web_port")]
    pub web_port: NonZeroU16,
    /// For the role dns: the group of DNS servers that it belongs to.
    #[serde(default = "super::default_group")]
    pub dns_group: String,
    /// What fails together with it, e.g. a rack or a power feed; empty: not known. Tenants are placed where it is not all there is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failure_domain: String,
}

/// 80.
fn default_web_port() -> NonZeroU16 {
    NonZeroU16::MIN.saturating_add(79)
}

/// Body of POST /clusters/{clusterID}/nodes.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct NodeCreate {
    /// Own id; a random UUID when absent.
    #[serde(default)]
    id: Option<String>,
    hostname: String,
    #[serde(default)]
    ip_address: Option<String>,
    #[serde(default)]
    ip6_address: Option<String>,
    /// One shard; the older spelling of `shard_ids`.
    #[serde(default)]
    shard_id: Option<String>,
    #[serde(default)]
    shard_ids: Vec<String>,
    #[schemars(length(min = 1))]
    roles: Vec<String>,
    #[serde(default)]
    #[schemars(range(min = 1, max = 65535))]
    web_port: Option<u32>,
    #[serde(default)]
    dns_group: Option<String>,
    #[serde(default)]
    failure_domain: String,
}

/// Body of PUT /nodes/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct NodeUpdate {
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    hostname: Option<String>,
    #[serde(default, deserialize_with = "crate::input::patch")]
    #[schemars(with = "Option<String>")]
    ip_address: Option<Option<String>>,
    #[serde(default, deserialize_with = "crate::input::patch")]
    #[schemars(with = "Option<String>")]
    ip6_address: Option<Option<String>>,
    #[serde(default)]
    shard_id: Option<String>,
    /// Replaces all assignments.
    #[serde(default)]
    shard_ids: Option<Vec<String>>,
    #[serde(default)]
    roles: Option<Vec<String>>,
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    status: Option<String>,
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    web_port: Option<u32>,
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    dns_group: Option<String>,
    #[serde(default)]
    failure_domain: Option<String>,
}

/// One of a node's shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeShard {
    /// The shard.
    pub shard_id: Id<Shard>,
    /// Its role.
    pub shard_role: String,
    /// From 1, unique in the shard.
    pub shard_index: u32,
}

/// What is shown beside the spec.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NodeExtra {
    shards: Vec<NodeShard>,
    /// When the node was last heard of.
    last_health_at: Option<String>,
    /// It is being emptied; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    draining: Option<DrainingView>,
}

fn normalise(spec: &mut NodeSpec) -> Result<(), SpecError> {
    let mut faults = Faults::default();
    let host = check::host("hostname", &spec.hostname);
    faults.put(&mut spec.hostname, host);
    let given = |address: &mut Option<String>| address.take().filter(|address| !address.is_empty());
    let address = given(&mut spec.ip_address).map(|given| check::ipv4("ip_address", &given)).transpose();
    faults.put(&mut spec.ip_address, address);
    let address = given(&mut spec.ip6_address).map(|given| check::ipv6("ip6_address", &given)).transpose();
    faults.put(&mut spec.ip6_address, address);
    if spec.roles.is_empty() {
        faults.note::<()>(Err(SpecError::invalid("roles", "at least one is required")));
    }
    for (n, role) in spec.roles.iter().enumerate() {
        faults.note(check::one_of(&format!("roles[{n}]"), role, super::ROLES));
    }
    check::distinct(&mut spec.roles);
    check::distinct(&mut spec.shard_ids);
    for (n, id) in spec.shard_ids.iter().enumerate() {
        faults.note(check::reference(&format!("shard_ids[{n}]"), id));
    }
    faults.note(check::optional_text("failure_domain", &spec.failure_domain, 63));
    faults.note(check::slug("dns_group", &spec.dns_group));
    faults.end()
}

fn port(given: u32) -> Result<NonZeroU16, SpecError> {
    check::between("web_port", given, 1, 65535)?;
    u16::try_from(given)
        .ok()
        .and_then(NonZeroU16::new)
        .ok_or_else(|| SpecError::invalid("web_port", "must be between 1 and 65535"))
}

/// What the controller keeps about a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeState {
    /// Its places in shards, in the order in which they were given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<NodeShard>,
    /// It gets no requests.
    #[serde(skip_serializing_if = "is_false")]
    pub out_of_service: bool,
    /// When it was last heard of, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_health_at: Option<i64>,
    /// It gets no requests as soon as others serve, and counts for nothing that is placed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining: Option<Draining>,
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Node;

impl Document for Node {
    const KIND: Kind = Kind::Node;
    type Spec = NodeSpec;
    type State = NodeState;
}

impl Definition for Node {
    type Create = NodeCreate;
    type Update = NodeUpdate;
    type Extra = NodeExtra;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "Node",
        about: "A machine.",
        collection: "/clusters/{clusterID}/nodes",
        item: "/nodes/{id}",
        parent: Some(Parent { kind: Kind::Cluster, param: "clusterID", field: "cluster_id" }),
        lists: &[],
        scope: "nodes",
        tier: Tier::Admin,
        owns: Owns::Nothing,
        host_labels: true,
        suspends_with_tenant: false,
        codes: Codes { create: 201, update: Some(200), delete: 204 },
        retry: false,
        id: IdPolicy::CallerOrUuid,
        shape: 1,
        status: true,
        sort: &[("created_at", Column::Created), ("hostname", Column::Label), ("status", Column::Status)],
        filters: &[
            Filter::label("hostname", filter::host),
            Filter::facet("role", super::role_filter),
            Filter::id("shard"),
        ],
        platform_only: &[],
        global_search: false,
        hidden: &[],
        nullable: &[],
        joins: &[],
    };
    const INITIAL: Status = Status::Active;

    fn create(input: NodeCreate, parent: Option<&Resource>, build: &mut Build<'_>) -> Result<(), SpecError> {
        let mut shard_ids = input.shard_ids;
        if let Some(shard) = input.shard_id.filter(|id| !id.is_empty())
            && !shard_ids.contains(&shard)
        {
            shard_ids.insert(0, shard);
        }
        let mut spec = NodeSpec {
            hostname: input.hostname,
            ip_address: input.ip_address,
            ip6_address: input.ip6_address,
            roles: input.roles,
            shard_ids: shard_ids.into_iter().map(Id::from).collect(),
            web_port: input.web_port.map_or(Ok(default_web_port()), port)?,
            dns_group: input.dns_group.unwrap_or_else(super::default_group),
            failure_domain: input.failure_domain,
        };
        normalise(&mut spec)?;
        let id = build.id(Self::INFO.id, input.id.as_deref())?;
        build.push::<Self>(id, parent.map(|parent| parent.id.as_str()), &spec)
    }

    fn update(spec: &mut NodeSpec, input: NodeUpdate, _: &Resource) -> Result<Option<Status>, SpecError> {
        if let Some(hostname) = input.hostname {
            spec.hostname = hostname;
        }
        if let Some(address) = input.ip_address {
            spec.ip_address = address;
        }
        if let Some(address) = input.ip6_address {
            spec.ip6_address = address;
        }
        if let Some(roles) = input.roles {
            spec.roles = roles;
        }
        match (input.shard_ids, input.shard_id) {
            (Some(shards), _) => spec.shard_ids = shards.into_iter().map(Id::from).collect(),
            (None, Some(shard)) if !shard.is_empty() => spec.shard_ids = vec![Id::from(shard)],
            (None, Some(_) | None) => {}
        }
        if let Some(given) = input.web_port {
            spec.web_port = port(given)?;
        }
        if let Some(group) = input.dns_group {
            spec.dns_group = group;
        }
        if let Some(domain) = input.failure_domain {
            spec.failure_domain = domain;
        }
        normalise(spec)?;
        settable_status(input.status.as_deref())
    }

    fn label(_: &str, spec: &NodeSpec) -> String {
        spec.hostname.clone()
    }

    fn index(_: &Resource, spec: &NodeSpec, index: &mut Index) {
        for shard in &spec.shard_ids {
            index.refs.push(Ref { relation: "shard_ids", kind: Kind::Shard, to: shard.to_string() });
            index.facets.push(Facet { field: "shard", value: shard.to_string() });
        }
        index.facets.extend(spec.roles.iter().map(|role| Facet { field: "role", value: role.clone() }));
        if spec.roles.iter().any(|role| role == hosting_intent::Role::Dns.name()) {
            index.facets.push(Facet { field: "dns_group", value: spec.dns_group.clone() });
        }
    }

    fn extra(node: &Doc<Self>) -> NodeExtra {
        NodeExtra {
            shards: node.state.shards.clone(),
            last_health_at: node.state.last_health_at.map(timestamp),
            draining: node.state.draining.map(DrainingView::from),
        }
    }

    fn example() -> Value {
        json!({
            "id": "web-1-node-1",
            "hostname": "web-1-node-1",
            "ip_address": "192.0.2.21",
            "ip6_address": "2001:db8::21",
            "shard_ids": ["6f1d9a52-7d0c-4b5e-9a3f-0d6f5a1c2b3d"],
            "roles": ["web"],
            "web_port": 80,
        })
    }
}
