//! What goes over all kinds of resources names none of them.

use std::collections::BTreeSet;
use std::fs;

use super::{root, sources};

/// Folders whose files are rooms of single kinds, or declare what single kinds have.
const ROOMS: &[&str] = &[
    "controller/api/src/actions",
    "controller/jobs/src/kinds",
    "controller/jobs/src/webhooks",
    "controller/planner/src/kinds",
    "controller/planner/src/lint",
    "lib/resource/src/kinds",
];

/// Files beside the rooms that are about some kinds, and why. Every other file of the controller and of what it shares is generic.
const ABOUT_SOME: &[(&str, &str)] = &[
    ("controller/api/src/bodies.rs", "the bodies of actions of single kinds"),
    ("controller/api/src/confirm.rs", "tenants of shards that change as a whole"),
    ("controller/api/src/explain.rs", "the way of a host name"),
    ("controller/api/src/explain_past.rs", "the way of a host name"),
    ("controller/api/src/fleet.rs", "nodes as operators see them"),
    ("controller/api/src/read.rs", "health of nodes, counts of the dashboard"),
    ("controller/planner/src/auto_records.rs", "automatic records: host names, zones and their records"),
    ("controller/planner/src/concerns.rs", "which records and host names a row concerns"),
    ("controller/planner/src/derive/audience.rs", "who subscribes: clusters and nodes"),
    ("controller/planner/src/derive/retire.rs", "nodes that hold data"),
    ("controller/planner/src/derive.rs", "RRsets, which are units of several records"),
    ("controller/planner/src/fields.rs", "a brand's DNS group"),
    ("controller/planner/src/issuance.rs", "certificates of host names"),
    ("controller/planner/src/mutate/draining.rs", "nodes and shards that are emptied"),
    ("controller/planner/src/mutate/fleet.rs", "nodes in and out of service"),
    ("controller/planner/src/mutate/update.rs", "suspending tenants, bringing shards in line"),
    ("controller/planner/src/names.rs", "who may have a name: zones and host names"),
    ("controller/planner/src/node.rs", "what a node subscribes to"),
    ("controller/planner/src/ownership.rs", "whose name it is: zones and host names"),
    ("controller/planner/src/placement.rs", "on which shard a tenant lives"),
    ("controller/planner/src/plan.rs", "a zone's serial moves once in a mutation"),
    ("controller/planner/src/quota.rs", "packages, in which limits are"),
    ("controller/planner/src/read.rs", "reads that several kinds share"),
    ("controller/planner/src/reissue.rs", "certificates of an authority that are replaced at once"),
    ("controller/planner/src/without.rs", "what hangs on nodes"),
    ("controller/src/fleet.rs", "the registry of nodes"),
    ("controller/src/gatekeeper/look.rs", "nodes in and out of service"),
    ("controller/src/gatekeeper/service.rs", "nodes in and out of service"),
    ("controller/src/node_record.rs", "a node as the feed knows it"),
    ("controller/src/run.rs", "bounds of PHP, which are a setting"),
    ("controller/store/src/page.rs", "what a tenant's suspension shows in lists"),
    ("lib/resource/src/lib.rs", "what keys hold, for those who check them"),
];

/// The names of the kinds: of the variant, and of the module.
fn kinds(table: &str) -> Vec<(String, String)> {
    let list = table.split_once("\nkinds! {").unwrap().1.split_once("\n}").unwrap().0;
    let lines = list.lines().filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "));
    lines.map(|(variant, module)| (variant.to_owned(), module.to_owned())).collect()
}

/// The kinds that a source names before its tests and outside of comments.
fn named(source: &str, kinds: &[(String, String)]) -> BTreeSet<String> {
    let code = source.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let holds = |name: &str| {
        code.match_indices(name).any(|(at, _)| {
            !is_word(code[..at].chars().next_back()) && !is_word(code[at + name.len()..].chars().next())
        })
    };
    kinds
        .iter()
        .filter(|(variant, module)| holds(&format!("Kind::{variant}")) || holds(&format!("kinds::{module}")))
        .map(|(variant, _)| variant.clone())
        .collect()
}

#[test]
fn generic_files_name_no_kind() {
    let root = root();
    let kinds = kinds(&fs::read_to_string(root.join("lib/resource/src/kinds/mod.rs")).unwrap());
    assert!(kinds.len() > 10, "{kinds:?}");
    let (mut all, mut about) = (Vec::new(), Vec::new());
    for folder in ["controller", "lib/resource", "lib/scaffold"] {
        sources(&root.join(folder), &mut all);
    }
    assert!(all.len() > 100, "{all:?}");
    for path in all {
        let place = path.strip_prefix(&root).unwrap();
        if ROOMS.iter().any(|room| place.starts_with(room)) {
            continue;
        }
        let named = named(&fs::read_to_string(&path).unwrap(), &kinds);
        if !named.is_empty() {
            about.push((place.display().to_string(), named));
        }
    }
    let listed = |place: &str| ABOUT_SOME.iter().any(|(file, _)| *file == place);
    let unlisted: Vec<_> = about.iter().filter(|(place, _)| !listed(place)).collect();
    assert!(
        unlisted.is_empty(),
        "generic files that name kinds; declare it in the kinds' rooms: {unlisted:#?}"
    );
    let generic: Vec<_> =
        ABOUT_SOME.iter().filter(|(file, _)| !about.iter().any(|(place, _)| place == file)).collect();
    assert!(generic.is_empty(), "these name no kind any more, strike them out: {generic:#?}");
}

#[test]
fn a_named_kind_is_found() {
    let table = "macro_rules! kinds {\n}\n\nkinds! {\n    /// A site.\n    Webroot = webroot,\n    /// A key.\n    ApiKey = api_key,\n}\n";
    let kinds = kinds(table);
    let named = |source: &str| named(source, &kinds).into_iter().collect::<Vec<_>>();
    assert_eq!(named("if kind == Kind::ApiKey {}"), ["ApiKey"]);
    assert_eq!(named("use hosting_resource::kinds::webroot::Webroot;"), ["Webroot"]);
    assert_eq!(named("IntentKind::Webroot; Kind::WebrootX; kinds::api_keys; kinds::callback"), [""; 0]);
    assert_eq!(named("// Kind::ApiKey\nfn a() {}\n#[cfg(test)]\nmod tests { Kind::ApiKey }"), [""; 0]);
}
