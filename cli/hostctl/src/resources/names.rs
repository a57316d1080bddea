//! Names that a person knows in place of ids: zone and host names, customer ids, names of regions, clusters and shards.

use hosting_resource::{IdPolicy, Kind, KindInfo};
use serde_json::Value;

use super::collections;
use crate::{
    address::host,
    api::{Api, ApiError, encode},
    kinds::{LABELS, collection, filters, item, label_of, parent_of},
    output::usage,
};

/// The id of the resource that `given` names: its id, its name, or `OWNER/NAME`. `within` is the id of what it lies in (for a
/// tenant: of its brand), when that is known.
///
/// # Errors
/// [`ApiError::NoSuch`] when nothing bears the name; wrong usage when several do, with a list of them.
pub(crate) async fn id_of(
    api: &Api,
    info: &'static KindInfo,
    given: &str,
    within: Option<&str>,
) -> anyhow::Result<String> {
    match looks_like_an_id(info, given) {
        Some(true) => return Ok(given.to_owned()),
        Some(false) => {}
        // Ids that callers choose may stand in several places: the one that is meant lies here.
        None if within.is_some() && parent_of(info).is_some() => {
            match api.list(&collection(info, within)?).await {
                Ok(list) if list.iter().any(|one| one["id"] == given) => return Ok(given.to_owned()),
                Ok(_) => {}
                Err(error) => {
                    let error = error.into();
                    return if cannot_look(&error) { Ok(given.to_owned()) } else { Err(error) };
                }
            }
        }
        None => match api.get(&item(info, given)).await {
            Ok(found) => return Ok(text(&found, "id")),
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                let error = error.into();
                return if cannot_look(&error) { Ok(given.to_owned()) } else { Err(error) };
            }
        },
    }
    let mut found = match looked_up(api, info, given, within).await {
        Ok(found) => found,
        // A key may be good for the request itself and not for looking around: then it is an id until the API says otherwise.
        Err(error) if cannot_look(&error) => return Ok(given.to_owned()),
        Err(error) => return Err(error),
    };
    // A name that is being deleted is free again: who uses it means the new one.
    if found.iter().any(|one| one["status"] != "deleting") {
        found.retain(|one| one["status"] != "deleting");
    }
    match found.as_slice() {
        [] => Err(nobody(info, given, within).into()),
        [one] => Ok(text(one, "id")),
        several => Err(ambiguous(info, given, several)),
    }
}

async fn looked_up(
    api: &Api,
    info: &'static KindInfo,
    given: &str,
    within: Option<&str>,
) -> anyhow::Result<Vec<Value>> {
    let found = bearers(api, info, given, within).await?;
    let parts = owner_of(info).zip(given.split_once('/')).filter(|_| found.is_empty() && within.is_none());
    let Some(((owner, _), (outer, inner))) = parts else { return Ok(found) };
    let outer = Box::pin(id_of(api, owner.info(), outer, None)).await?;
    bearers(api, info, inner, Some(&outer)).await
}

/// Whether the error is that a name names nothing.
pub(crate) fn names_nothing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ApiError>().is_some_and(ApiError::is_not_found)
}

fn cannot_look(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<ApiError>(),
        Some(ApiError::Answer { status: 403, .. } | ApiError::Stranger { .. })
    )
}

/// What decides which resource of the kind a name means, with the field that holds it: the parent, or a tenant's brand.
pub(crate) fn owner_of(info: &KindInfo) -> Option<(Kind, &'static str)> {
    match info.kind {
        Kind::Tenant => Some((Kind::Brand, "brand_id")),
        _ => info.parent.map(|parent| (parent.kind, parent.field)),
    }
}

/// `None` where callers choose ids, so that only the API can tell.
fn looks_like_an_id(info: &KindInfo, given: &str) -> Option<bool> {
    let random =
        |text: &str| text.len() == 10 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    // Zones, hosts and sites are called by names with a dot in them.
    if matches!(info.kind, Kind::Zone | Kind::Fqdn | Kind::Webroot) && !given.contains('.') {
        return Some(true);
    }
    match info.id {
        IdPolicy::Uuid => Some(is_uuid(given)),
        IdPolicy::Prefixed(prefix) => Some(given.strip_prefix(prefix).is_some_and(random)),
        IdPolicy::Caller | IdPolicy::CallerOrUuid => (is_uuid(given)).then_some(true),
    }
}

pub(crate) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(n, b)| match n {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

/// Every resource that bears the name.
pub(super) async fn bearers(
    api: &Api,
    info: &'static KindInfo,
    name: &str,
    within: Option<&str>,
) -> anyhow::Result<Vec<Value>> {
    let wanted = match info.kind {
        Kind::ZoneRecord => record_names(api, name, within).await?,
        _ => vec![host(name)],
    };
    let is_there =
        |one: &Value| owner_of(info).zip(within).is_none_or(|((_, field), owner)| one[field] == owner);
    // The names of kinds that are no hosts may not differ in case alone either.
    let is_meant = |one: &Value| {
        let label = label_of(one).map(host).unwrap_or_default();
        let with_type = format!("{label}/{}", text(one, "type").to_ascii_lowercase());
        is_there(one) && wanted.iter().any(|wanted| *wanted == label || *wanted == with_type)
    };
    let mut found = Vec::new();
    let paths = match parent_of(info).map(|owner| owner.kind) {
        None | Some(Kind::Region | Kind::Cluster) => {
            collections(api, info, within.filter(|_| info.parent.is_some())).await?
        }
        Some(_) if within.is_some() => vec![collection(info, within)?],
        Some(_) => Vec::new(),
    };
    // A webroot has no name of its own: it is called by its host names.
    for path in paths.iter().filter(|_| info.kind != Kind::Webroot) {
        let field = LABELS.iter().find(|label| filters(info).contains(label));
        // A record's name may stand relative to its zone here, and with its type.
        let query = match field.filter(|_| info.kind != Kind::ZoneRecord) {
            Some(field) => format!("?{field}={}", encode(&asked(info, name))),
            None => String::new(),
        };
        match api.list(&format!("{path}{query}")).await {
            Ok(list) => found.extend(list.into_iter().filter(is_meant)),
            // What breaks the rules for such names is nobody's.
            Err(ApiError::Answer { status: 400, .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if found.is_empty()
        && matches!(info.kind, Kind::Tenant | Kind::Webroot | Kind::Fqdn)
        && name.contains('.')
    {
        let known = api.get(&format!("/explain/{}", encode(&host(name)))).await;
        let field = format!("{}_id", info.kind.name());
        let id = known.as_ref().ok().and_then(|known| known[&field].as_str());
        if let Some(id) = id {
            found.extend(Some(api.get(&item(info, id)).await?).filter(is_there));
        }
    }
    Ok(found)
}

/// The spellings of a record's name: absolute, or below its zone; perhaps with its type behind a slash.
async fn record_names(api: &Api, name: &str, zone: Option<&str>) -> anyhow::Result<Vec<String>> {
    let Some(zone) = zone else { return Ok(Vec::new()) };
    let zone = text(&api.get(&item(Kind::Zone.info(), zone)).await?, "name");
    let (name, rtype) = match name.split_once('/') {
        Some((name, rtype)) => (host(name), format!("/{}", rtype.to_ascii_lowercase())),
        None => (host(name), String::new()),
    };
    let absolute = if name == "@" { zone } else { format!("{name}.{zone}") };
    Ok(vec![format!("{name}{rtype}"), format!("{absolute}{rtype}")])
}

/// A name as the API is asked for it.
fn asked(info: &KindInfo, name: &str) -> String {
    match info.kind {
        Kind::Zone | Kind::Fqdn | Kind::Node => host(name),
        _ => name.to_owned(),
    }
}

fn nobody(info: &KindInfo, given: &str, within: Option<&str>) -> ApiError {
    let (kind, plural) = (info.dashed(), info.plural());
    let place = within.map(|owner| format!(" in {owner}")).unwrap_or_default();
    let how = match parent_of(info) {
        None => format!("; `hostctl get {plural}` lists them"),
        Some(owner) if matches!(owner.kind, Kind::Region | Kind::Cluster) => {
            format!("; `hostctl get {plural}` lists them")
        }
        Some(owner) => match (within, info.kind) {
            (Some(owner), _) => format!("; `hostctl get {plural} --in {owner}` lists them"),
            // Host names are looked up everywhere.
            (None, Kind::Fqdn | Kind::Webroot) => String::new(),
            (None, _) => {
                let owner = owner.dashed();
                let outer = owner.to_uppercase();
                format!("; a name alone is looked up in its {owner}: write {outer}/{given} or give --in")
            }
        },
    };
    ApiError::NoSuch(format!("there is no {kind} {given:?}{place}, neither by id nor by name{how}"))
}

fn ambiguous(info: &KindInfo, given: &str, several: &[Value]) -> anyhow::Error {
    let lines: Vec<String> = several
        .iter()
        .map(|one| {
            let place = ["brand_id", "tenant_id", "cluster_id", "region_id"].iter().find_map(|field| {
                let owner = one[*field].as_str()?;
                Some(format!("{} {owner}", field.trim_end_matches("_id")))
            });
            let words = [text(one, "id"), text(one, "type"), text(one, "content"), place.unwrap_or_default()];
            format!("  {}", words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join("  "))
        })
        .collect();
    let how = match owner_of(info) {
        _ if info.kind == Kind::ZoneRecord => ", or with its type as in NAME/TYPE".to_owned(),
        Some((owner, _)) => format!(", or as {}/{given}", owner.info().dashed().to_uppercase()),
        None => String::new(),
    };
    usage(format!(
        "{given:?} names {} {}; say which one by its id{how}:\n{}",
        several.len(),
        info.plural(),
        lines.join("\n")
    ))
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_id_is_told_from_a_name() {
        let looks = |kind: Kind, given: &str| looks_like_an_id(kind.info(), given);
        assert_eq!(looks(Kind::Zone, "4ac6050a-722b-433b-863a-289e5b40cfc1"), Some(true));
        assert_eq!(looks(Kind::Zone, "bakery.test"), Some(false));
        assert_eq!(looks(Kind::Tenant, "t_ab12cd34ef"), Some(true));
        assert_eq!(looks(Kind::Tenant, "t_ab"), Some(false));
        assert_eq!(looks(Kind::Brand, "acme"), None);
        assert_eq!(looks(Kind::Node, "4ac6050a-722b-433b-863a-289e5b40cfc1"), Some(true));
    }

    #[test]
    fn an_ambiguous_name_lists_who_bears_it() {
        let several = [
            json!({"id": "t_1", "customer_id": "1001", "brand_id": "acme"}),
            json!({"id": "t_2", "customer_id": "1001", "brand_id": "nordic"}),
        ];
        let error = ambiguous(Kind::Tenant.info(), "1001", &several).to_string();
        for part in ["2 tenants", "t_1  brand acme", "t_2  brand nordic", "BRAND/1001"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_name_that_nothing_bears_says_where_to_look() {
        let error = |kind: Kind, within: Option<&str>| nobody(kind.info(), "x", within).to_string();
        assert!(error(Kind::Zone, None).contains("`hostctl get zones`"));
        assert!(error(Kind::Subscription, None).contains("TENANT/x"));
        assert!(error(Kind::Subscription, Some("t_1")).contains("--in t_1"));
        assert!(error(Kind::Shard, None).contains("`hostctl get shards`"));
    }
}
