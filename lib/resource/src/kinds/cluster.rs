//! Shards and nodes that work together.

mod ticket_keys;

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use self::ticket_keys::{ClusterTicketKey, TICKET_KEY_SEALS, TicketRotation, rotation};
use crate::definition::{Build, Definition, Nothing};
use crate::{Codes, Doc, Document, Filter, IdPolicy, Index, Kind, KindInfo, Owns, Parent, Resource, SpecError, Status, Tier, Unique, check, filter};

/// What is stored of a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterSpec {
    /// Slug, unique in its region.
    pub name: String,
    /// Free-form settings, e.g. `mail_hostname`.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// The wanted make-up: `{shards: [{name, role, node_count, lb_backend?}], infrastructure: {..}}`. Kept for tools.
    #[serde(default)]
    pub spec: Map<String, Value>,
    /// The oldest version of TLS that the cluster's edges let clients speak.
    #[serde(default)]
    pub tls_minimum_version: TlsMinimum,
    /// Whether clients reach its edges over HTTP/3. False where UDP does not come through.
    #[serde(default = "reached")]
    pub http3: bool,
    /// The UDP port at which they do. 0: 443, and the one of its own settings for what an edge says by itself.
    #[serde(default)]
    pub http3_port: u16,
}

impl ClusterSpec {
    /// The data of the HTTPS records (RFC 9460) of names that lead to its edges. The target is the name itself, whose addresses are asked for beside
    /// it, so there are no hints of them.
    #[must_use]
    pub fn https_records(&self) -> Vec<String> {
        match self.http3_port {
            _ if !self.http3 => vec!["1 . alpn=h2".to_owned()],
            0 | 443 => vec!["1 . alpn=h3,h2".to_owned()],
            // A record's port is that of all its protocols, and HTTPS over TCP stays where it is.
            port => vec![format!("1 . alpn=h3 no-default-alpn port={port}"), "2 . alpn=h2".to_owned()],
        }
    }
}

const fn reached() -> bool {
    true
}

fn port(given: u32) -> Result<u16, SpecError> {
    u16::try_from(given).map_err(|_| {
        SpecError::invalid("http3_port", format!("{given} must be between 0 and 65535; 0 says that it is 443"))
    })
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMinimum {
    /// TLS 1.2 (RFC 5246).
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    Tls13,
}

/// Body of POST /regions/{regionID}/clusters.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ClusterCreate {
    name: String,
    #[serde(default)]
    config: Map<String, Value>,
    #[serde(default)]
    spec: Map<String, Value>,
    #[serde(default)]
    tls_minimum_version: TlsMinimum,
    /// Whether clients reach its edges over HTTP/3; true when left out. Edges say it in `Alt-Svc`, name servers in HTTPS records.
    #[serde(default = "reached")]
    http3: bool,
    /// The UDP port at which they do; 0: 443, and what each edge's own settings say.
    #[serde(default)]
    #[schemars(range(min = 0, max = 65535))]
    http3_port: u32,
}

/// Body of PUT /clusters/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ClusterUpdate {
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    name: Option<String>,
    /// Where tools say that it stands: `active` once it is built.
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    status: Option<String>,
    #[serde(default)]
    config: Option<Map<String, Value>>,
    #[serde(default)]
    spec: Option<Map<String, Value>>,
    #[serde(default)]
    tls_minimum_version: Option<TlsMinimum>,
    /// Whether clients reach its edges over HTTP/3. Edges say it in `Alt-Svc`, name servers in HTTPS records.
    #[serde(default)]
    http3: Option<bool>,
    /// The UDP port at which they do; 0: 443, and what each edge's own settings say.
    #[serde(default)]
    #[schemars(range(min = 0, max = 65535))]
    http3_port: Option<u32>,
}

/// A status that a caller may set by hand.
pub(crate) fn settable_status(given: Option<&str>) -> Result<Option<Status>, SpecError> {
    const WORDS: &[&str] =
        &["pending", "provisioning", "converging", "active", "failed", "degraded", "suspended"];
    let Some(given) = given else { return Ok(None) };
    check::one_of("status", given, WORDS)?;
    Ok(Status::from_name(given))
}

/// A runtime that a cluster can run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Runtime {
    /// e.g. `php`.
    pub runtime: String,
    /// e.g. `8.2`.
    pub version: String,
}

/// What the controller keeps about a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterState {
    /// What it can run. For information: sites are not checked against it.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub runtimes: BTreeSet<Runtime>,
    /// What its edges seal session tickets with, by `begins`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ticket_keys: Vec<ClusterTicketKey>,
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Cluster;

impl Document for Cluster {
    const KIND: Kind = Kind::Cluster;
    type Spec = ClusterSpec;
    type State = ClusterState;
}

impl Definition for Cluster {
    type Create = ClusterCreate;
    type Update = ClusterUpdate;
    type Extra = Nothing;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "Cluster",
        about: "Shards and nodes that work together.",
        collection: "/regions/{regionID}/clusters",
        item: "/clusters/{id}",
        parent: Some(Parent { kind: Kind::Region, param: "regionID", field: "region_id" }),
        lists: &[],
        scope: "clusters",
        tier: Tier::Admin,
        owns: Owns::Nothing,
        host_labels: false,
        suspends_with_tenant: false,
        codes: Codes { create: 201, update: Some(200), delete: 204 },
        retry: false,
        id: IdPolicy::Uuid,
        shape: 1,
        status: true,
        sort: &[],
        filters: &[Filter::label("name", filter::slug)],
        platform_only: &[],
        global_search: false,
        hidden: &[],
        nullable: &[],
        joins: &[],
    };
    const INITIAL: Status = Status::Pending;

    fn create(
        input: ClusterCreate,
        parent: Option<&Resource>,
        build: &mut Build<'_>,
    ) -> Result<(), SpecError> {
        check::slug("name", &input.name)?;
        let id = build.id(Self::INFO.id, None)?;
        let spec = ClusterSpec {
            name: input.name,
            config: input.config,
            spec: input.spec,
            tls_minimum_version: input.tls_minimum_version,
            http3: input.http3,
            http3_port: port(input.http3_port)?,
        };
        build.push::<Self>(id, parent.map(|parent| parent.id.as_str()), &spec)
    }

    fn update(
        spec: &mut ClusterSpec,
        input: ClusterUpdate,
        _: &Resource,
    ) -> Result<Option<Status>, SpecError> {
        if let Some(name) = input.name {
            check::slug("name", &name)?;
            spec.name = name;
        }
        if let Some(config) = input.config {
            spec.config = config;
        }
        if let Some(wanted) = input.spec {
            spec.spec = wanted;
        }
        if let Some(version) = input.tls_minimum_version {
            spec.tls_minimum_version = version;
        }
        if let Some(http3) = input.http3 {
            spec.http3 = http3;
        }
        if let Some(given) = input.http3_port {
            spec.http3_port = port(given)?;
        }
        settable_status(input.status.as_deref())
    }

    fn label(_: &str, spec: &ClusterSpec) -> String {
        spec.name.clone()
    }

    fn index(resource: &Resource, spec: &ClusterSpec, index: &mut Index) {
        let scope = resource.parent.clone().unwrap_or_default();
        index.uniques.push(Unique { scope, key: spec.name.clone(), field: "name" });
    }

    fn extra(_: &Doc<Self>) -> Nothing {
        Nothing {}
    }

    fn example() -> Value {
        json!({"name": "cluster-1", "config": {"mail_hostname": "mail.acme.example"}, "spec": {}})
    }
}
