//! Verbs that work on every kind: what differs comes from the kind's own description.

use std::{io::Read, process::ExitCode};

use anyhow::Context;
use hosting_resource::{Kind, KindInfo};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::{
    api::{Api, encode},
    args::{CreateArgs, DeleteArgs, GetArgs, NodeCommand, OneArgs, WaitArgs},
    output,
};

/// Columns that say most, in this order, where a kind has them. `created_at` is shown as an age.
const COLUMNS: &[&str] = &[
    "id",
    "name",
    "hostname",
    "fqdn",
    "address",
    "type",
    "content",
    "customer_id",
    "role",
    "roles",
    "runtime",
    "runtime_version",
    "brand_id",
    "webroot_id",
    "managed_by",
    "status",
    "created_at",
];

/// Columns that are never shortened: people copy from them.
const WHOLE: &[&str] = &["id", "webroot_id", "brand_id", "status"];

/// By name as people write it: `zone-records`, `zone_record`, `zonerecord`.
pub(crate) fn kind(name: &str) -> anyhow::Result<&'static KindInfo> {
    let plain = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
    let wanted = plain(name);
    Kind::ALL
        .iter()
        .map(|kind| kind.info())
        .find(|info| plain(info.plural()) == wanted || plain(&info.dashed()) == wanted)
        .ok_or_else(|| {
            let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.info().plural()).collect();
            usage(format!("there is no kind {name:?}; there are {}", known.join(", ")))
        })
}

fn usage(text: impl Into<String>) -> anyhow::Error {
    output::UsageError(text.into()).into()
}

/// The collection's path, with the parent's id in it.
fn collection(info: &KindInfo, parent: Option<&str>) -> anyhow::Result<String> {
    let Some(owner) = info.parent.filter(|owner| info.collection.contains(owner.param)) else {
        return Ok(info.collection.to_owned());
    };
    let id = parent.ok_or_else(|| {
        let (plural, owner) = (info.plural(), owner.kind.info());
        usage(format!(
            "{plural} lie in a {}: name it with --in ID (`hostctl get {}` lists them)",
            owner.dashed(),
            owner.plural()
        ))
    })?;
    Ok(info.collection.replace(&format!("{{{}}}", owner.param), &encode(id)))
}

fn item(info: &KindInfo, id: &str) -> String {
    info.item.replace("{id}", &encode(id))
}

pub(crate) async fn get(api: &Api, args: &GetArgs, as_json: bool) -> anyhow::Result<()> {
    let info = kind(&args.kind)?;
    let mut items = Vec::new();
    if args.ids.is_empty() {
        let most = args.limit.unwrap_or(usize::MAX);
        for mut path in collections(api, info, args.parent.as_deref()).await? {
            let mut join = '?';
            for (name, value) in [("status", &args.status), ("search", &args.search)] {
                if let Some(value) = value {
                    path.push_str(&format!("{join}{name}={}", encode(value)));
                    join = '&';
                }
            }
            items.extend(api.list_up_to(&path, most - items.len()).await?);
        }
    } else {
        for id in &args.ids {
            items.push(api.get(&item(info, id)).await?);
        }
    }
    if as_json {
        output::json(&Value::Array(items));
        return Ok(());
    }
    if items.is_empty() {
        output::note(format!("no {}", info.plural()));
        return Ok(());
    }
    let columns: Vec<&str> = COLUMNS
        .iter()
        .copied()
        .filter(|column| items.iter().any(|item| item.get(column).is_some()))
        .collect();
    let now = jiff::Timestamp::now();
    let show = |item: &Value, column: &str| match column {
        "created_at" => output::age(&item[column], now),
        _ => output::cell(&item[column]),
    };
    let rows = items.iter().map(|item| columns.iter().map(|column| show(item, column)).collect()).collect();
    let heads: Vec<&str> =
        columns.iter().map(|column| if *column == "created_at" { "age" } else { column }).collect();
    output::list(&heads, rows, WHOLE);
    Ok(())
}

/// The collections to list: the one below `parent`, or without one those below every region or cluster. A platform has few of
/// these, but a million tenants, so what lies in a tenant or a zone is listed below one only.
async fn collections(api: &Api, info: &KindInfo, parent: Option<&str>) -> anyhow::Result<Vec<String>> {
    let owner = info.parent.filter(|owner| info.collection.contains(owner.param)).map(|owner| owner.kind);
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

pub(crate) async fn describe(api: &Api, args: &OneArgs, as_json: bool) -> anyhow::Result<()> {
    let one = api.get(&item(kind(&args.kind)?, &args.id)).await?;
    if as_json {
        output::json(&one);
        return Ok(());
    }
    let fields = one.as_object().cloned().unwrap_or_default();
    let width = fields.keys().map(String::len).max().unwrap_or_default();
    for (name, value) in
        fields.iter().filter(|(name, _)| !["conditions", "warnings"].contains(&name.as_str()))
    {
        output::line(format!("{name:width$}  {}", output::cell(value)));
    }
    if let Some(conditions) =
        fields.get("conditions").and_then(Value::as_array).filter(|list| !list.is_empty())
    {
        output::line("");
        print_conditions(conditions);
    }
    print_warnings(&one);
    Ok(())
}

fn print_warnings(answer: &Value) {
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        let [message, remedy] = ["message", "remedy"].map(|field| output::cell(&warning[field]));
        output::note(format!("warning: {message}; {remedy}"));
    }
}

fn print_conditions(conditions: &[Value]) {
    let columns = ["name", "status", "message", "since"];
    let rows =
        conditions.iter().map(|one| columns.iter().map(|column| output::cell(&one[*column])).collect());
    output::table(&["condition", "status", "message", "since"], rows);
}

pub(crate) async fn create(api: &Api, args: &CreateArgs, as_json: bool) -> anyhow::Result<ExitCode> {
    let info = kind(&args.kind)?;
    let mut body = match &args.file {
        Some(file) => {
            let text = if file.as_os_str() == "-" {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
                text
            } else {
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
            };
            serde_saphyr::from_str::<Map<String, Value>>(&text)
                .with_context(|| format!("{} holds no fields", file.display()))?
        }
        None => Map::new(),
    };
    let schema = info.kind.def().create_schema(&mut schemars::SchemaGenerator::default());
    for pair in &args.set {
        let (name, text) =
            pair.split_once('=').ok_or_else(|| usage(format!("{pair:?}: write NAME=VALUE")))?;
        body.insert(name.to_owned(), value_of(schema.as_value(), name, text));
    }
    if body.is_empty() {
        return Err(usage("give the fields with -s NAME=VALUE or -f FILE"));
    }
    let path = collection(info, args.parent.as_deref())? + &wait_query(&args.wait);
    let answer = api.send_within(Method::POST, &path, Some(&Value::Object(body)), args.wait.limit()).await;
    let (status, answer) = answer?;
    Ok(outcome(info, status, &answer, args.wait.wait, as_json))
}

pub(crate) async fn delete(api: &Api, args: &DeleteArgs, as_json: bool) -> anyhow::Result<ExitCode> {
    let info = kind(&args.kind)?;
    let path = item(info, &args.id) + &wait_query(&args.wait);
    let (status, mut answer) = api.send(Method::DELETE, &path, None).await?;
    if !answer.is_object() {
        // The API says it with its code alone.
        let word = if status == StatusCode::ACCEPTED { "deleting" } else { "deleted" };
        answer = json!({"id": args.id, "status": word});
    }
    Ok(outcome(info, status, &answer, args.wait.wait, as_json))
}

/// A field's value as typed: a text field takes it as it is (a customer id may be all digits), others as JSON if it reads as
/// JSON.
fn value_of(schema: &Value, field: &str, text: &str) -> Value {
    let allowed = &schema["properties"][field]["type"];
    let allows =
        |name: &str| allowed == name || allowed.as_array().is_some_and(|list| list.contains(&json!(name)));
    if allows("string") && !(allows("null") && text == "null") {
        return json!(text);
    }
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

fn wait_query(wait: &WaitArgs) -> String {
    if wait.wait { format!("?wait=ready&wait_timeout={}", wait.wait_timeout) } else { String::new() }
}

/// Prints the answer of a change. Waited for and not ready is a code of its own.
fn outcome(info: &KindInfo, status: StatusCode, answer: &Value, waited: bool, as_json: bool) -> ExitCode {
    let late = waited && status == StatusCode::ACCEPTED;
    if as_json {
        output::json(answer);
    } else {
        print_warnings(answer);
        match answer["id"].as_str() {
            Some(id) => output::line(format!("{} {id} {}", info.dashed(), output::cell(&answer["status"]))),
            None => output::line("done"),
        }
        for secret in ["key", "password"] {
            if let Some(value) = answer[secret].as_str() {
                output::line(format!("{secret} (shown this once): {value}"));
            }
        }
        if late {
            output::note("not ready within the time limit:");
            print_conditions(answer["conditions"].as_array().map_or(&[], Vec::as_slice));
            for lagging in answer["lagging"].as_array().into_iter().flatten() {
                output::note(format!("lagging: {}", output::cell(lagging)));
            }
        }
    }
    if late { ExitCode::from(output::NOT_READY) } else { ExitCode::SUCCESS }
}

pub(crate) async fn converge_shard(api: &Api, id: &str, as_json: bool) -> anyhow::Result<()> {
    let answer = api.post(&format!("/shards/{}/converge", encode(id)), &json!({})).await?;
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
            let answer = api.post(&format!("/nodes/{}/join-tokens", encode(&args.id)), &json!({})).await?;
            let token = answer["token"].as_str().context("no token in the answer")?;
            match &args.output {
                Some(file) => {
                    crate::up::write_private(file, token)?;
                    output::line(format!(
                        "{} holds the token of {}, valid once until {}",
                        file.display(),
                        args.id,
                        output::cell(&answer["expires_at"])
                    ));
                }
                None if as_json => output::json(&answer),
                None => output::line(token),
            }
        }
        NodeCommand::Forget(args) => {
            let answer = api.post(&format!("/nodes/{}/forget", encode(&args.id)), &json!({})).await?;
            if as_json {
                output::json(&answer);
            } else {
                output::line(format!("forgot {}", args.id));
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
        assert!(kind("zonk").unwrap_err().to_string().contains("fqdns"));
    }

    #[test]
    fn typed_values_follow_the_kind() {
        let value = |name: &str, field: &str, text: &str| {
            let def = kind(name).unwrap().kind.def();
            value_of(def.create_schema(&mut schemars::SchemaGenerator::default()).as_value(), field, text)
        };
        assert_eq!(value("tenant", "customer_id", "1001"), json!("1001"));
        assert_eq!(value("zone-record", "ttl", "300"), json!(300));
        assert_eq!(value("zone-record", "content", "true"), json!("true"));
        assert_eq!(value("fqdn", "ssl_enabled", "true"), json!(true));
        assert_eq!(value("node", "roles", "[\"web\"]"), json!(["web"]));
        assert_eq!(value("tenant", "no_such_field", "x"), json!("x"));
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
