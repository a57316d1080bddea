//! Names and ids for completion: of each kind one bounded page, by what is typed.
//!
//! Owns what may be asked for while somebody waits at a prompt. Only ids and names leave it, never another field.

use hosting_resource::{Kind, KindInfo};
use serde_json::Value;

use crate::{
    api::{Api, encode},
    kinds::{collection, label_of, parent_of},
    resources::plan::with,
};

/// Items of the page that is looked at.
const PAGE: usize = 100;
/// Results of a search over all kinds, as many as the API gives.
const FOUND: usize = 20;
/// Regions, and clusters, whose lists are asked for one after another.
const MOST_PARENTS: usize = 5;

/// A list's first page. Any failure is an empty one: nobody wants to read about it at a prompt.
pub(super) async fn page(api: &Api, path: &str) -> Vec<Value> {
    let answer = api.get(path).await.unwrap_or_default();
    answer["items"].as_array().cloned().unwrap_or_default()
}

/// Names of resources of a kind that begin with `typed`; `within` is the id or name of what they lie in.
pub(super) async fn names(
    api: &Api,
    info: &'static KindInfo,
    typed: &str,
    within: Option<&str>,
) -> Vec<String> {
    let mut found = Vec::new();
    for path in lists(api, info, within).await {
        let path = with(&path, &format!("limit={PAGE}"));
        let path = if typed.is_empty() {
            path
        } else {
            with(&path, &format!("search={}", encode(searched(info, typed))))
        };
        found.extend(
            page(api, &path)
                .await
                .iter()
                .filter(|one| one["status"] != "deleting")
                .filter_map(|one| name_of(info, one, typed)),
        );
    }
    if found.is_empty() && within.is_none() && matches!(info.kind, Kind::Fqdn | Kind::Webroot) {
        found = searched_everywhere(api, info.kind.name(), typed).await;
    }
    found
}

/// What is looked for of a name that is typed: of a record the part before its type.
fn searched<'t>(info: &KindInfo, typed: &'t str) -> &'t str {
    match info.kind {
        Kind::ZoneRecord => typed.split('/').next().unwrap_or_default(),
        _ => typed,
    }
}

/// What a person would type for it, if that begins so.
fn name_of(info: &KindInfo, one: &Value, typed: &str) -> Option<String> {
    let label =
        label_of(one).map(|label| match one["type"].as_str().filter(|_| info.kind == Kind::ZoneRecord) {
            Some(rtype) => format!("{label}/{rtype}"),
            None => label.to_owned(),
        });
    let id = one["id"].as_str().map(str::to_owned);
    [label, id].into_iter().flatten().find(|name| name.starts_with(typed))
}

/// The lists that resources of the kind are in, as far as they are few.
async fn lists(api: &Api, info: &'static KindInfo, within: Option<&str>) -> Vec<String> {
    let Some(owner) = parent_of(info) else { return vec![info.collection.to_owned()] };
    let of = |ids: &[String]| ids.iter().filter_map(|id| collection(info, Some(id)).ok()).collect();
    match within {
        Some(given) => match crate::resources::id_of(api, owner, given).await {
            Ok(id) => of(&[id]),
            Err(_) => Vec::new(),
        },
        None if matches!(owner.kind, Kind::Region | Kind::Cluster) => {
            let mut ids = Vec::new();
            for path in Box::pin(lists(api, owner, None)).await {
                let path = with(&path, &format!("limit={MOST_PARENTS}"));
                ids.extend(
                    page(api, &path).await.iter().filter_map(|one| one["id"].as_str().map(str::to_owned)),
                );
            }
            ids.truncate(MOST_PARENTS);
            of(&ids)
        }
        // Tenants and zones are too many for that.
        None => Vec::new(),
    }
}

/// Names of a kind by the search over all of the platform; of a few letters it finds what begins with them.
pub(super) async fn searched_everywhere(api: &Api, kind: &str, typed: &str) -> Vec<String> {
    if typed.is_empty() {
        return Vec::new();
    }
    let answer = api.get(&format!("/search?q={}&limit={FOUND}", encode(typed))).await.unwrap_or_default();
    let results = answer["results"].as_array().map_or(&[][..], Vec::as_slice);
    let of_kind = results.iter().filter(|one| one["type"] == kind);
    let names = of_kind.filter_map(|one| {
        let words = [one["label"].as_str(), one["id"].as_str()];
        words.into_iter().flatten().find(|word| word.starts_with(typed)).map(str::to_owned)
    });
    names.collect()
}

/// The ids of a list that is no kind's, newest first, for which it is so.
pub(super) async fn ids(api: &Api, path: &str, field: &str, is_so: impl Fn(&Value) -> bool) -> Vec<String> {
    let items = page(api, path).await;
    items.iter().filter(|one| is_so(one)).filter_map(|one| one[field].as_str().map(str::to_owned)).collect()
}
