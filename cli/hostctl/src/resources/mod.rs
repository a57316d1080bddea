//! Verbs that work on every kind: what differs comes from the kind's own description.

mod body;
mod change;
mod names;
mod show;
mod wait;

use std::ffi::OsStr;

use anyhow::Context;
use clap::builder::{PossibleValue, TypedValueParser};
use hosting_resource::{Kind, KindInfo};
use serde_json::{Value, json};

pub(crate) use self::{
    change::{create, delete, retry, suspend, unsuspend, update, wait},
    show::{describe, get},
};
use crate::{
    api::{Api, encode},
    args::NodeCommand,
    output,
};

/// Fields that a person would call a resource by, where its kind has them.
const LABELS: [&str; 5] = ["name", "hostname", "fqdn", "address", "customer_id"];

/// By name as people write it: `zone-records`, `zone_record`, `zonerecord`.
pub(crate) fn kind(name: &str) -> Result<&'static KindInfo, String> {
    let plain = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
    let wanted = plain(name);
    Kind::ALL
        .iter()
        .map(|kind| kind.info())
        .find(|info| plain(info.plural()) == wanted || plain(&info.dashed()) == wanted)
        .ok_or_else(|| format!("there is no kind {name:?}; there are {}", plurals(|_| true)))
}

/// The kinds for which it is so, as a list for a message.
fn plurals(is_so: impl Fn(&KindInfo) -> bool) -> String {
    let all: Vec<&str> = Kind::ALL
        .iter()
        .map(|kind| kind.info())
        .filter(|info| is_so(info))
        .map(|info| info.plural())
        .collect();
    all.join(", ")
}

/// A kind on the command line. Completion and help list the kinds.
#[derive(Clone)]
pub(crate) struct KindParser;

impl TypedValueParser for KindParser {
    type Value = &'static KindInfo;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        kind(&value.to_string_lossy()).map_err(|problem| {
            clap::Error::raw(clap::error::ErrorKind::InvalidValue, format!("{problem}\n")).with_cmd(command)
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Kind::ALL.iter().map(|kind| PossibleValue::new(kind.info().plural()))))
    }
}

fn usage(text: impl Into<String>) -> anyhow::Error {
    output::UsageError(text.into()).into()
}

/// The kind that `info`'s resources lie in, when their list is below one of it.
fn parent_of(info: &KindInfo) -> Option<&'static KindInfo> {
    info.parent.filter(|owner| info.collection.contains(owner.param)).map(|owner| owner.kind.info())
}

/// The collection's path, with the parent's id in it.
fn collection(info: &KindInfo, parent: Option<&str>) -> anyhow::Result<String> {
    let Some(owner) = info.parent.filter(|owner| info.collection.contains(owner.param)) else {
        return Ok(info.collection.to_owned());
    };
    let id = parent.ok_or_else(|| {
        let (plural, owner) = (info.plural(), owner.kind.info());
        usage(format!(
            "{plural} lie in a {}: name it with --in (`hostctl get {}` lists them)",
            owner.dashed(),
            owner.plural()
        ))
    })?;
    Ok(info.collection.replace(&format!("{{{}}}", owner.param), &encode(id)))
}

fn item(info: &KindInfo, id: &str) -> String {
    info.item.replace("{id}", &encode(id))
}

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

/// What a person would call it.
fn label_of(item: &Value) -> Option<&str> {
    LABELS.iter().find_map(|field| item[*field].as_str())
}

/// The query parameters that lists of the kind can be filtered by, beside status and search.
fn filters(info: &KindInfo) -> Vec<&'static str> {
    info.filters.iter().map(|filter| filter.name).collect()
}

/// The id of a node, by id or host name.
pub(crate) async fn node_id(api: &Api, given: &str) -> anyhow::Result<String> {
    names::id_of(api, Kind::Node.info(), given, None).await
}

pub(crate) async fn converge_shard(api: &Api, shard: &str, as_json: bool) -> anyhow::Result<()> {
    let id = names::id_of(api, Kind::Shard.info(), shard, None).await?;
    let answer = api.post(&format!("/shards/{}/converge", encode(&id)), &json!({})).await?;
    if as_json {
        output::json(&answer)
    } else {
        output::line(output::cell(&answer["status"]))
    }
    Ok(())
}

pub(crate) async fn node(api: &Api, command: &NodeCommand, as_json: bool) -> anyhow::Result<()> {
    match command {
        NodeCommand::Token(args) => {
            let id = node_id(api, &args.id).await?;
            let mut answer = api.post(&format!("/nodes/{}/join-tokens", encode(&id)), &json!({})).await?;
            let token = answer["token"].as_str().context("no token in the answer")?.to_owned();
            let Some(file) = &args.output else {
                if as_json {
                    output::json(&answer);
                } else {
                    output::line(token);
                }
                return Ok(());
            };
            crate::up::write_private(file, &token)?;
            if as_json {
                answer["token"] = Value::Null;
                answer["file"] = json!(file.display().to_string());
                output::json(&answer);
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
            if as_json {
                output::json(&answer);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_every_spelling() {
        for name in ["zone-records", "zone_record", "zonerecord", "Zone-Record"] {
            assert_eq!(kind(name).unwrap().kind, Kind::ZoneRecord);
        }
        assert!(kind("zonk").unwrap_err().contains("fqdns"));
    }

    #[test]
    fn a_nested_collection_needs_its_parent() {
        let info = kind("fqdn").unwrap();
        assert_eq!(collection(info, Some("t_a/b")).unwrap(), "/tenants/t_a%2Fb/fqdns");
        assert!(collection(info, None).unwrap_err().to_string().contains("--in"));
        assert_eq!(collection(kind("brands").unwrap(), None).unwrap(), "/brands");
        assert_eq!(item(info, "x"), "/fqdns/x");
    }
}
