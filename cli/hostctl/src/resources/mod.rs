//! Verbs that work on every kind: what differs comes from the kind's own description.

mod ask;
pub(crate) mod body;
mod change;
pub(crate) mod names;
pub(crate) mod plan;
mod show;
mod wait;

use anyhow::Context;
use hosting_resource::{Kind, KindInfo};
use serde_json::{Value, json};

pub(crate) use self::{
    ask::{receipt, traffic, usage_of, verify},
    body::{create_schema, update_schema},
    change::{create, delete, outcome, purge_cache, retry, suspend, unsuspend, update, wait},
    show::{describe, get},
};
use crate::{
    api::{Api, encode},
    args::NodeCommand,
    folder::write_private,
    format::{Format, Output},
    kinds::{self, collection, parent_of, plurals},
    output::{self, usage},
};

/// The id of what `--in` names.
async fn parent_id(api: &Api, info: &KindInfo, given: Option<&str>) -> anyhow::Result<Option<String>> {
    let Some(given) = given else { return Ok(None) };
    let Some(owner) = parent_of(info) else {
        return Err(usage(format!(
            "{} lie in nothing that --in could name; it is for {}",
            info.plural(),
            plurals(|info| parent_of(info).is_some())
        )));
    };
    names::id_of(api, owner, given, None).await.map(Some)
}

/// The collections to list: the one below `parent`, or without one those below every region or cluster. A platform has few of
/// these, but a million tenants, so what lies in a tenant or a zone is listed below one only.
async fn collections(api: &Api, info: &KindInfo, parent: Option<&str>) -> anyhow::Result<Vec<String>> {
    let owner = parent_of(info).map(|owner| owner.kind);
    let (None, Some(owner @ (Kind::Region | Kind::Cluster))) = (parent, owner) else {
        return Ok(vec![collection(info, parent)?]);
    };
    let mut ids = ids_of(api, Kind::Region.info().collection).await?;
    if owner == Kind::Cluster {
        let mut clusters = Vec::new();
        for region in &ids {
            clusters.extend(ids_of(api, &collection(Kind::Cluster.info(), Some(region))?).await?);
        }
        ids = clusters;
    }
    ids.iter().map(|id| collection(info, Some(id))).collect()
}

async fn ids_of(api: &Api, path: &str) -> anyhow::Result<Vec<String>> {
    let items = api.list(path).await?;
    Ok(items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)).collect())
}

/// The id of a resource, by id or name.
pub(crate) async fn id_of(api: &Api, info: &'static KindInfo, given: &str) -> anyhow::Result<String> {
    names::id_of(api, info, given, None).await
}

/// The id of a node, by id or host name.
pub(crate) async fn node_id(api: &Api, given: &str) -> anyhow::Result<String> {
    names::id_of(api, Kind::Node.info(), kinds::id_in("node", given), None).await
}

/// The id of a tenant, by id or customer id.
pub(crate) async fn tenant_id(api: &Api, given: &str) -> anyhow::Result<String> {
    names::id_of(api, Kind::Tenant.info(), kinds::id_in("tenant", given), None).await
}

pub(crate) async fn converge_shard(api: &Api, shard: &str, format: Format) -> anyhow::Result<()> {
    let id = names::id_of(api, Kind::Shard.info(), kinds::id_in("shard", shard), None).await?;
    let answer = api.post(&format!("/shards/{}/converge", encode(&id)), &json!({})).await?;
    if format == Format::Name {
        output::line(kinds::name("shard", &id));
    } else if format.is_for_programs() {
        output::data(format, &answer)
    } else {
        output::line(output::cell(&answer["status"]))
    }
    Ok(())
}

pub(crate) async fn node(api: &Api, command: &NodeCommand, format: Format) -> anyhow::Result<()> {
    match command {
        NodeCommand::Token(args) => {
            let id = node_id(api, &args.id).await?;
            let mut answer = api.post(&format!("/nodes/{}/join-tokens", encode(&id)), &json!({})).await?;
            let token = answer["token"].as_str().context("no token in the answer")?.to_owned();
            let Some(Output::File(file)) = &args.output else {
                if format.is_for_programs() {
                    output::data(format, &answer);
                } else {
                    output::line(token);
                }
                return Ok(());
            };
            write_private(file, &token)?;
            if format.is_for_programs() {
                answer["token"] = Value::Null;
                answer["file"] = json!(file.display().to_string());
                output::data(format, &answer);
            } else {
                output::line(format!(
                    "{} holds the token of {id}, valid once until {}",
                    file.display(),
                    output::cell(&answer["expires_at"])
                ));
            }
        }
        NodeCommand::Forget(args) => {
            let id = node_id(api, &args.id).await?;
            let answer = api.post(&format!("/nodes/{}/forget", encode(&id)), &json!({})).await?;
            if format.is_for_programs() {
                output::data(format, &answer);
            } else {
                output::line(format!("forgot {id}"));
                for left in answer["data_left"].as_array().into_iter().flatten() {
                    output::line(format!("  data stays on it: {}", output::cell(left)));
                }
            }
        }
    }
    Ok(())
}
