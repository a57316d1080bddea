//! What a node is to serve, as the reference's agents read it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// What a node is to serve, a page of tenants at a time.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct DesiredState {
    pub(crate) node_id: String,
    /// The shards that it is in, from the one that the page begins in.
    pub(crate) shards: Vec<DesiredShard>,
    pub(crate) has_more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_cursor: Option<String>,
}

/// What the machines of a shard are to serve.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DesiredShard {
    shard_id: String,
    shard_role: String,
    /// Role web: its tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tenants: Option<Vec<DesiredTenant>>,
    /// Role lb: names of its cluster that are in effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fqdn_mappings: Option<Vec<FqdnMapping>>,
}

impl DesiredShard {
    pub(crate) fn of(id: &str, role: &str) -> Self {
        Self {
            shard_id: id.to_owned(),
            shard_role: role.to_owned(),
            tenants: (role == "web").then(Vec::new),
            fqdn_mappings: (role == "lb").then(Vec::new),
        }
    }
}

/// A tenant as a machine needs it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DesiredTenant {
    pub(crate) id: String,
    /// The number of its system user.
    pub(crate) uid: u32,
    pub(crate) sftp_enabled: bool,
    pub(crate) ssh_enabled: bool,
    /// `active` or `suspended`.
    pub(crate) status: &'static str,
    pub(crate) webroots: Vec<DesiredWebroot>,
    /// None: the platform serves none yet.
    #[schemars(with = "Vec<serde_json::Map<String, Value>>")]
    pub(crate) ssh_keys: Vec<Value>,
}

/// A site as a machine needs it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DesiredWebroot {
    pub(crate) id: String,
    pub(crate) runtime: String,
    pub(crate) runtime_version: String,
    /// JSON as a text.
    pub(crate) runtime_config: String,
    pub(crate) public_folder: String,
    /// By name; secrets as `***` unless they are asked for.
    pub(crate) env_vars: BTreeMap<String, String>,
    pub(crate) env_file_name: String,
    pub(crate) status: &'static str,
    pub(crate) fqdns: Vec<DesiredFqdn>,
    /// None: the platform serves none yet.
    #[schemars(with = "Vec<serde_json::Map<String, Value>>")]
    pub(crate) cron_jobs: Vec<Value>,
    /// None: the platform serves none yet.
    #[schemars(with = "Vec<serde_json::Map<String, Value>>")]
    pub(crate) daemons: Vec<Value>,
}

/// A host name of a site.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DesiredFqdn {
    pub(crate) fqdn: String,
    pub(crate) ssl_enabled: bool,
    pub(crate) status: &'static str,
}

/// Where an edge sends a host name.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct FqdnMapping {
    pub(crate) fqdn: String,
    /// The pool of its shard.
    pub(crate) lb_backend: String,
}
