//! `hostctl cluster apply`: region, cluster, addresses, shards and nodes from a file. Finds before it creates.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    api::{Api, encode},
    args::{ClusterApplyArgs, ClusterCommand, Connection},
    format::Format,
    output, yaml,
};

/// The file. Unknown fields are an error: a misspelt one must not be lost.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Manifest {
    pub api_url: Option<String>,
    pub api_key: Option<String>,
    pub region: Option<Region>,
    pub cluster: Option<Cluster>,
    pub cluster_runtimes: Vec<Runtime>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Region {
    pub name: String,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Cluster {
    pub name: String,
    pub lb_addresses: Vec<LbAddress>,
    pub config: Map<String, Value>,
    pub spec: Spec,
    pub nodes: Vec<Node>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LbAddress {
    pub address: String,
    #[serde(default)]
    pub label: String,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Spec {
    pub shards: Vec<Shard>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub infrastructure: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Shard {
    pub name: String,
    pub role: String,
    pub lb_backend: String,
    pub node_count: u32,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Node {
    pub id: String,
    pub hostname: String,
    pub shard_name: Option<String>,
    pub shard_names: Vec<String>,
    pub ip_address: Option<String>,
    pub ip6_address: Option<String>,
    pub web_port: Option<u16>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Runtime {
    pub runtime: String,
    pub version: String,
}

/// What was found or made.
#[derive(Debug, Serialize)]
pub(crate) struct Applied {
    pub region_id: String,
    pub cluster_id: String,
    pub shard_ids: BTreeMap<String, String>,
    /// What was not there before, as `kind name`.
    pub created: Vec<String>,
}

pub(crate) async fn run(
    command: ClusterCommand,
    connection: &Connection,
    format: Format,
) -> anyhow::Result<()> {
    let ClusterCommand::Apply(args) = command;
    let manifest = read(&args)?;
    let api = Api::connect_with(connection, manifest.api_url.as_deref(), manifest.api_key.as_deref())?;
    wait_for_api(&api, args.timeout).await?;
    let applied = apply(&api, &manifest).await?;
    for (name, id) in &applied.shard_ids {
        api.post(&format!("/shards/{}/converge", encode(id)), &json!({}))
            .await
            .with_context(|| format!("shard {name}"))?;
    }
    if format.is_for_programs() {
        output::data(format, &serde_json::to_value(&applied)?);
    } else if applied.created.is_empty() {
        output::line("nothing to create: everything is there");
    } else {
        applied.created.iter().for_each(|what| output::line(format!("created {what}")));
    }
    Ok(())
}

fn read(args: &ClusterApplyArgs) -> anyhow::Result<Manifest> {
    let mut merged = Manifest::default();
    for file in &args.files {
        let one: Manifest = yaml::read(file, "a cluster file", &BTreeMap::new())?;
        merged.api_url = one.api_url.or(merged.api_url);
        merged.api_key = one.api_key.or(merged.api_key);
        merged.region = one.region.or(merged.region);
        merged.cluster = one.cluster.or(merged.cluster);
        merged.cluster_runtimes.extend(one.cluster_runtimes);
    }
    Ok(merged)
}

async fn wait_for_api(api: &Api, timeout: Duration) -> anyhow::Result<()> {
    let until = tokio::time::Instant::now() + timeout;
    loop {
        match api.get("/regions?limit=1").await {
            Err(crate::api::ApiError::Unreachable { .. }) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            other => return other.map(|_| ()).map_err(Into::into),
        }
    }
}

/// Finds or creates everything that the manifest names. Running it twice changes nothing.
pub(crate) async fn apply(api: &Api, manifest: &Manifest) -> anyhow::Result<Applied> {
    let (Some(region), Some(cluster)) = (&manifest.region, &manifest.cluster) else {
        bail!("the file must have `region` and `cluster`");
    };
    let mut created = Vec::new();
    let mut make = Maker { api, created: &mut created };

    let region_id =
        make.find_or_create("region", "/regions", "name", &region.name, json!({"name": region.name})).await?;
    let clusters = format!("/regions/{}/clusters", encode(&region_id));
    let body = json!({"name": cluster.name, "config": cluster.config, "spec": cluster.spec});
    let cluster_id = make.find_or_create("cluster", &clusters, "name", &cluster.name, body).await?;

    let addresses = format!("/clusters/{}/lb-addresses", encode(&cluster_id));
    for one in &cluster.lb_addresses {
        let body = json!({"address": one.address, "label": one.label});
        make.find_or_create("lb-address", &addresses, "address", &one.address, body).await?;
    }
    let mut shard_ids = BTreeMap::new();
    let mut roles = BTreeMap::new();
    let shards = format!("/clusters/{}/shards", encode(&cluster_id));
    for shard in &cluster.spec.shards {
        let mut body = json!({"name": shard.name, "role": shard.role});
        if !shard.lb_backend.is_empty() {
            body["lb_backend"] = json!(shard.lb_backend);
        }
        let id = make.find_or_create("shard", &shards, "name", &shard.name, body).await?;
        shard_ids.insert(shard.name.clone(), id);
        roles.insert(shard.name.clone(), shard.role.clone());
    }
    let nodes = format!("/clusters/{}/nodes", encode(&cluster_id));
    for node in &cluster.nodes {
        let names: Vec<&String> = node.shard_names.iter().chain(&node.shard_name).collect();
        let (mut ids, mut node_roles) = (Vec::new(), Vec::new());
        for name in names {
            let id = shard_ids
                .get(name)
                .with_context(|| format!("node {}: there is no shard {name:?} in the file", node.id))?;
            ids.push(id.clone());
            node_roles.extend(roles.get(name).cloned());
        }
        node_roles.sort();
        node_roles.dedup();
        let mut body =
            json!({"id": node.id, "hostname": node.hostname, "shard_ids": ids, "roles": node_roles});
        for (field, value) in [("ip_address", &node.ip_address), ("ip6_address", &node.ip6_address)] {
            if let Some(value) = value {
                body[field] = json!(value);
            }
        }
        if let Some(port) = node.web_port {
            body["web_port"] = json!(port);
        }
        make.find_or_create("node", &nodes, "id", &node.id, body).await?;
    }
    let cluster_path = format!("/clusters/{}", encode(&cluster_id));
    if api.get(&cluster_path).await?["status"] != "active" {
        api.put(&cluster_path, &json!({"status": "active"})).await.context("cluster status")?;
    }
    let runtimes = format!("{cluster_path}/runtimes");
    let present = api.get(&runtimes).await?;
    let is_there = |wanted: &Runtime| {
        let is_it = |one: &Value| one["runtime"] == *wanted.runtime && one["version"] == *wanted.version;
        present["items"].as_array().is_some_and(|items| items.iter().any(is_it))
    };
    for runtime in manifest.cluster_runtimes.iter().filter(|runtime| !is_there(runtime)) {
        api.post(&runtimes, &json!({"runtime": runtime.runtime, "version": runtime.version}))
            .await
            .with_context(|| format!("runtime {} {}", runtime.runtime, runtime.version))?;
        created.push(format!("runtime {} {}", runtime.runtime, runtime.version));
    }
    Ok(Applied { region_id, cluster_id, shard_ids, created })
}

/// Finds by a field's value, or creates; keeps a list of what it created.
pub(crate) struct Maker<'a> {
    pub api: &'a Api,
    pub created: &'a mut Vec<String>,
}

impl Maker<'_> {
    /// The id of the resource in the list at `path` whose `field` is `value`.
    pub(crate) async fn find_or_create(
        &mut self,
        kind: &str,
        path: &str,
        field: &str,
        value: &str,
        body: Value,
    ) -> anyhow::Result<String> {
        let what = || format!("{kind} {value}");
        let found = self.api.list(path).await.with_context(what)?;
        if let Some(one) = found.iter().find(|one| one[field] == value && one["status"] != "deleting") {
            return Ok(one["id"].as_str().unwrap_or_default().to_owned());
        }
        let made = self.api.post(path, &body).await.with_context(what)?;
        output::warnings(&made);
        self.created.push(what());
        Ok(made["id"].as_str().with_context(|| format!("{kind} {value}: no id in the answer"))?.to_owned())
    }
}
