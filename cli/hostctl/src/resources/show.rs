//! `get` and `describe`.

use std::collections::BTreeMap;

use hosting_resource::{IdPolicy, Kind, KindInfo, Status};
use serde_json::Value;

use super::{collections, names, parent_id};
use crate::{
    api::{Api, ApiError, encode},
    args::{DescribeArgs, GetArgs},
    format::Format,
    kinds::{self, filters, item, label_of, parent_of, plurals},
    output::{self, usage},
};

/// Columns that say most, in this order, where a kind has them. `created_at` is shown as an age, owners by name.
const COLUMNS: &[&str] = &[
    "name",
    "hostname",
    "fqdn",
    "address",
    "customer_id",
    "type",
    "ttl",
    "priority",
    "content",
    "role",
    "roles",
    "runtime",
    "runtime_version",
    "fqdns",
    "brand",
    "tenant",
    "zone",
    "shard",
    "cluster",
    "region",
    "webroot_id",
    "ip_address",
    "ip6_address",
    "in_service",
    "managed_by",
    "status",
    "created_at",
];

/// Owners whose names are shown in place of their ids.
const OWNERS: &[Kind] = &[Kind::Brand, Kind::Tenant, Kind::Zone, Kind::Shard, Kind::Cluster, Kind::Region];

/// Columns that are never shortened: people copy from them.
const WHOLE: &[&str] = &["id", "webroot_id", "type", "ttl", "priority", "status", "created_at"];

/// Names that are looked up for one table; beyond it ids are shown.
const MOST_LOOKUPS: usize = 50;

pub(crate) async fn get(api: &Api, args: &GetArgs, format: Format) -> anyhow::Result<()> {
    let info = args.kind.info;
    let parent = parent_id(api, info, args.parent.as_deref()).await?;
    let mut items = Vec::new();
    // Further words may be names as the first one is: that is how xargs puts them together.
    let further = args.ids.iter().map(|id| match kinds::split_name(id) {
        Some((of, id)) if of.kind == info.kind => id,
        Some(_) | None => id.as_str(),
    });
    let ids: Vec<&str> = args.kind.id.as_deref().into_iter().chain(further).collect();
    let is_selecting =
        args.status.is_some() || args.search.is_some() || !args.filter.is_empty() || args.limit.is_some();
    if !ids.is_empty() && is_selecting {
        return Err(usage("--status, --search, --filter and --limit are for lists, not for what is named"));
    }
    if ids.is_empty() {
        let query = query(api, args, parent.as_deref()).await?;
        let most = args.limit.unwrap_or(usize::MAX);
        for path in collections(api, info, parent.as_deref()).await? {
            let page = api.list_up_to(&format!("{path}{query}"), most.saturating_sub(items.len())).await;
            items.extend(page.map_err(|error| with_status_words(error, args.status.as_deref()))?);
        }
    } else {
        for given in ids {
            let id = names::id_of(api, info, given, parent.as_deref()).await?;
            items.push(api.get(&item(info, &id)).await?);
        }
    }
    if format.is_for_programs() {
        output::named(format, &info.dashed(), "id", &Value::Array(items));
        return Ok(());
    }
    if items.is_empty() {
        output::note(format!("no {}", info.plural()));
        return Ok(());
    }
    let mut known = Names { api, known: BTreeMap::new() };
    for one in &mut items {
        known.add_owners(info, one, args.parent.is_some()).await;
        known.add_fqdns(info, one).await;
    }
    print(info, &items, format);
    Ok(())
}

/// What `--status`, `--search` and `--filter` ask for; a kind that cannot be filtered so must not look as if it were.
async fn query(api: &Api, args: &GetArgs, parent: Option<&str>) -> anyhow::Result<String> {
    let (info, plural) = (args.kind.info, args.kind.info.plural());
    let mut query = Vec::new();
    if let Some(status) = &args.status {
        if !info.status {
            let others = plurals(|info| info.status);
            return Err(usage(format!("{plural} have no status to filter by; --status is for {others}")));
        }
        query.push(format!("status={}", encode(status)));
    }
    if let Some(search) = &args.search {
        query.push(format!("search={}", encode(search)));
    }
    for pair in &args.filter {
        let (field, value) =
            pair.split_once('=').ok_or_else(|| usage(format!("{pair:?}: write FIELD=VALUE")))?;
        if !filters(info).contains(&field) {
            let fields = match filters(info).as_slice() {
                [] => "by nothing".to_owned(),
                fields => format!("by {}", fields.join(", ")),
            };
            return Err(usage(format!("{plural} cannot be filtered by {field:?}, but {fields}")));
        }
        let kind = Kind::from_name(field.trim_end_matches("_id"));
        let value = match kind.filter(|_| !value.is_empty()) {
            Some(kind) if kind != info.kind => {
                let owner = names::owner_of(kind.info()).map(|(owner, _)| owner);
                let within = parent.filter(|_| owner.is_some() && owner == parent_of(info).map(|of| of.kind));
                names::id_of(api, kind.info(), value, within).await?
            }
            Some(_) | None => value.to_owned(),
        };
        query.push(format!("{field}={}", encode(&value)));
    }
    Ok(if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) })
}

/// The API's refusal of a status that is none, with those that there are.
fn with_status_words(error: ApiError, given: Option<&str>) -> ApiError {
    let is_one = given.is_none_or(|given| Status::from_name(given).is_some());
    match error {
        ApiError::Answer { status: 400, message } if !is_one && !message.contains("provisioning") => {
            let words: Vec<&str> = Status::ALL.iter().map(|status| status.as_str()).collect();
            ApiError::Answer { status: 400, message: format!("{message}; there are {}", words.join(", ")) }
        }
        other => other,
    }
}

fn print(info: &KindInfo, items: &[Value], format: Format) {
    let is_there = |column: &str| items.iter().any(|item| !item[column].is_null());
    let mut columns: Vec<&str> = COLUMNS.iter().copied().filter(|column| is_there(column)).collect();
    // An id that a person chose or may have to type stands first, a random one last: there are names for it.
    let by_name = info.id == IdPolicy::Uuid;
    columns.insert(if by_name { columns.len() } else { 0 }, "id");
    let now = jiff::Timestamp::now();
    let show = |item: &Value, column: &str| match column {
        "created_at" => output::age(&item[column], now),
        _ => output::cell(&item[column]),
    };
    let rows = items.iter().map(|item| columns.iter().map(|column| show(item, column)).collect()).collect();
    let heads: Vec<&str> =
        columns.iter().map(|column| if *column == "created_at" { "age" } else { column }).collect();
    output::list(format, &heads, rows, WHOLE, if by_name { &["id"] } else { &[] });
}

/// Names of owners, each looked up once.
struct Names<'a> {
    api: &'a Api,
    known: BTreeMap<String, String>,
}

impl Names<'_> {
    /// Puts owners' names beside their ids: brand, tenant and shard for whatever has one, else the parent, unless it was
    /// named already.
    async fn add_owners(&mut self, info: &KindInfo, one: &mut Value, parent_is_known: bool) {
        let parent = parent_of(info).map(|owner| owner.kind);
        for owner in OWNERS {
            let (field, name) = (format!("{}_id", owner.name()), owner.name());
            let is_parent = parent == Some(*owner);
            let is_shown = matches!(owner, Kind::Brand | Kind::Tenant | Kind::Shard) || is_parent;
            let Some(id) = one[&field].as_str().filter(|_| is_shown && !(is_parent && parent_is_known))
            else {
                continue;
            };
            let label = match one[format!("{name}_name")].as_str() {
                Some(label) => label.to_owned(),
                None => self.of(*owner, id).await,
            };
            one[name] = label.into();
        }
    }

    /// Puts the names beside the id of what is known by the names that lead to it: a webroot's host names.
    async fn add_fqdns(&mut self, info: &KindInfo, one: &mut Value) {
        let lists = Kind::ALL.iter().flat_map(|kind| kind.info().lists.iter().map(move |list| (kind, list)));
        for (kind, list) in lists.filter(|(_, list)| list.kind == info.kind) {
            let Some(id) = one["id"].as_str().filter(|_| self.known.len() < MOST_LOOKUPS) else { return };
            let path = list.path.replace(&format!("{{{}}}", list.param), &encode(id));
            self.known.insert(path.clone(), String::new());
            if let Ok(found) = self.api.list_up_to(&path, 3).await {
                let labels: Vec<&str> = found.iter().filter_map(label_of).collect();
                one[kind.info().plural()] = labels.into();
            }
        }
    }

    /// The name of the resource with that id; the id itself when it cannot be had.
    async fn of(&mut self, kind: Kind, id: &str) -> String {
        if let Some(known) = self.known.get(id) {
            return known.clone();
        }
        if self.known.len() >= MOST_LOOKUPS {
            return id.to_owned();
        }
        let found = self.api.get(&item(kind.info(), id)).await;
        let name = found.as_ref().ok().and_then(label_of).unwrap_or(id).to_owned();
        self.known.insert(id.to_owned(), name.clone());
        name
    }
}

pub(crate) async fn describe(api: &Api, args: &DescribeArgs, format: Format) -> anyhow::Result<()> {
    let info = args.one.kind;
    let (id, _) = args.one.resolve(api).await?;
    let one = api.get(&item(info, &id)).await?;
    if format.is_for_programs() {
        output::named(format, &info.dashed(), "id", &one);
        return Ok(());
    }
    let fields = one.as_object().cloned().unwrap_or_default();
    let width = fields.keys().map(String::len).max().unwrap_or_default();
    let mut known = Names { api, known: BTreeMap::new() };
    for (name, value) in
        fields.iter().filter(|(name, _)| !["conditions", "warnings"].contains(&name.as_str()))
    {
        let owner =
            OWNERS.iter().find(|owner| **owner != info.kind && format!("{}_id", owner.name()) == *name);
        let label = match (owner, value.as_str().filter(|id| !id.is_empty())) {
            (Some(owner), Some(id)) => Some(known.of(*owner, id).await).filter(|label| label != id),
            (Some(_) | None, _) => None,
        };
        let label = label.map(|label| format!(" ({label})")).unwrap_or_default();
        output::line(format!("{name:width$}  {}{label}", output::cell(value)));
    }
    if let Some(conditions) =
        fields.get("conditions").and_then(Value::as_array).filter(|list| !list.is_empty())
    {
        output::line("");
        print_conditions(conditions);
    }
    output::warnings(&one);
    Ok(())
}

pub(super) fn print_conditions(conditions: &[Value]) {
    let columns = ["name", "status", "message", "since"];
    let rows =
        conditions.iter().map(|one| columns.iter().map(|column| output::cell(&one[*column])).collect());
    output::table(&["condition", "status", "message", "since"], rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_status_is_answered_with_the_words() {
        let refusal = |message: &str| ApiError::Answer { status: 400, message: message.to_owned() };
        let text = with_status_words(refusal("status: \"bogus\" is no status"), Some("bogus")).to_string();
        assert!(text.contains("pending, provisioning") && text.contains("auto_disabled"), "{text}");
        let text = with_status_words(refusal("limit: must be a number"), Some("active")).to_string();
        assert!(!text.contains("provisioning"), "{text}");
    }
}
