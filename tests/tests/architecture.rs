//! The floors of ARCHITECTURE.md, checked against `cargo metadata`, and rules that the sources themselves must keep.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says what failed by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, MetadataCommand};

#[path = "architecture/circles.rs"]
mod circles;
#[path = "architecture/kinds.rs"]
mod kinds;

/// The workspace's folder.
fn root() -> PathBuf {
    MetadataCommand::new().no_deps().exec().unwrap().workspace_root.into_std_path_buf()
}

/// Lowest first.
const FLOORS: &[&str] = &["words", "meaning", "mechanism", "core", "shell", "binary", "tests"];

/// Crates of one floor that may depend on each other: the higher one first.
const SAME_FLOOR: &[(&str, &str)] = &[
    // What is written is checked by the rules of what is applied.
    ("hosting-resource", "hosting-intent"),
    ("hosting-intent-sync", "hosting-ledger"),
    ("hosting-intent-sync", "hosting-scaffold"),
    // Both are held to the same rules for fields, with the same Huffman code.
    ("hosting-edge-http3", "hosting-edge-http2"),
    ("hosting-jobs", "hosting-store"),
    ("hosting-jobs", "hosting-acme"),
    ("hosting-api", "hosting-store"),
    ("hosting-api", "hosting-jobs"),
    ("hosting-api", "hosting-feed"),
    // The peers of the edge are asked what the edge is.
    ("loadtest", "hosting-edge-conformance"),
];

/// Roles, by top-level folder. A role never depends on another.
const ROLES: &[&str] = &["controller", "edge", "dns", "gateway", "nodeagent", "cli"];

struct Crate {
    floor: usize,
    folder: String,
    dependencies: Vec<String>,
}

fn workspace() -> BTreeMap<String, Crate> {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    metadata
        .packages
        .iter()
        .map(|package| {
            let floor = package.metadata["hosting"]["floor"]
                .as_str()
                .unwrap_or_else(|| panic!("{} states no floor in [package.metadata.hosting]", package.name));
            let folder = package.manifest_path.strip_prefix(&metadata.workspace_root).unwrap();
            let found = Crate {
                floor: FLOORS
                    .iter()
                    .position(|known| *known == floor)
                    .unwrap_or_else(|| panic!("{}: there is no floor {floor:?}", package.name)),
                folder: folder.components().next().unwrap().to_string(),
                dependencies: package
                    .dependencies
                    .iter()
                    .filter(|dependency| {
                        dependency.kind == DependencyKind::Normal && dependency.path.is_some()
                    })
                    .map(|dependency| dependency.name.clone())
                    .collect(),
            };
            (package.name.to_string(), found)
        })
        .collect()
}

/// What is wrong with the dependency of `from` on `to`, if anything.
fn problem(crates: &BTreeMap<String, Crate>, from: &str, to: &str) -> Option<String> {
    let (upper, lower) = (&crates[from], &crates[to]);
    if lower.floor > upper.floor {
        return Some(format!(
            "{from} ({}) depends upwards on {to} ({})",
            FLOORS[upper.floor], FLOORS[lower.floor]
        ));
    }
    if lower.floor == upper.floor && !SAME_FLOOR.contains(&(from, to)) {
        return Some(format!("{from} depends on {to} of the same floor"));
    }
    let (is_role, other) = (ROLES.contains(&upper.folder.as_str()), ROLES.contains(&lower.folder.as_str()));
    if is_role && other && upper.folder != lower.folder {
        return Some(format!("{from}, a part of {}, depends on another role: {to}", upper.folder));
    }
    let planner = "hosting-planner";
    let meanings = ["hosting-resource", "hosting-intent"];
    if FLOORS[upper.floor] == "core" && from != planner && meanings[0] == to {
        return Some(format!("{from} sees resources; only {planner} knows both"));
    }
    None
}

#[test]
fn crates_depend_on_lower_floors_only() {
    let crates = workspace();
    let problems: Vec<String> = crates
        .iter()
        .flat_map(|(name, one)| one.dependencies.iter().map(move |dependency| (name, dependency)))
        .filter_map(|(from, to)| problem(&crates, from, to))
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn data_planes_never_see_resources() {
    for (name, one) in workspace() {
        if ["edge", "dns", "gateway", "nodeagent"].contains(&one.folder.as_str()) {
            assert!(!one.dependencies.iter().any(|d| d == "hosting-resource"), "{name} sees resources");
        }
    }
}

#[test]
fn the_check_itself_finds_what_it_looks_for() {
    let mut crates = workspace();
    assert!(problem(&crates, "hosting-intent", "hosting-store").is_some(), "upwards");
    assert!(problem(&crates, "hosting-edge-map", "hosting-dns-zone").is_some(), "same floor");
    assert!(problem(&crates, "hosting-edge", "hosting-dns-zone").is_some(), "other role");
    assert!(problem(&crates, "hosting-dns-zone", "hosting-resource").is_some(), "resource in a core");
    crates.get_mut("hosting-intent").unwrap().floor = 0;
    assert!(problem(&crates, "hosting-intent", "hosting-proto").is_some(), "same floor after a move");
}

#[test]
fn main_files_stay_small() {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    for package in &metadata.packages {
        let main = package.manifest_path.with_file_name("src").join("main.rs");
        if let Ok(text) = fs::read_to_string(&main) {
            assert!(text.lines().count() < 100, "{main} has {} lines", text.lines().count());
        }
    }
}

/// A longer file has a seam along which it can be cut.
const MOST_LINES: usize = 700;

#[test]
fn no_file_is_longer_than_can_be_read_at_once() {
    fn longer(folder: &Path, found: &mut Vec<(PathBuf, usize)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && name != "var" && !name.starts_with('.') {
                longer(&path, found);
            } else if name.ends_with(".rs") {
                let lines = fs::read_to_string(&path).unwrap().lines().count();
                found.extend((lines > MOST_LINES).then_some((path, lines)));
            }
        }
    }
    let mut found = Vec::new();
    longer(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")), &mut found);
    assert_eq!(found, []);
}

/// The one folder whose sources spell audiences.
const SPELLS_AUDIENCES: &str = "lib/intent/src";

/// What an audience begins with, as a string in a source.
const AUDIENCES: &[&str] = &["\"dns/", "\"edge/", "\"gateway/", "\"node/"];

/// Sources that are built into the product: no `tests` folders, no `tests.rs`, no benchmarks of the compiler's.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["tests", "target"].contains(&name.as_str()) && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// The lines (from 1) before a source's tests that spell an audience outside of a comment.
fn spelt_audiences(source: &str) -> Vec<usize> {
    let code = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let spells = |line: &str| {
        !line.trim_start().starts_with("//") && AUDIENCES.iter().any(|audience| line.contains(audience))
    };
    code.lines().enumerate().filter(|(_, line)| spells(line)).map(|(n, _)| n + 1).collect()
}

#[test]
fn only_lib_intent_spells_audiences() {
    let root = root();
    let mut all = Vec::new();
    sources(&root, &mut all);
    assert!(all.len() > 100, "{all:?}");
    let mut spelt = Vec::new();
    for path in all {
        let place = path.strip_prefix(&root).unwrap();
        if !place.starts_with(SPELLS_AUDIENCES) {
            let lines = spelt_audiences(&fs::read_to_string(&path).unwrap());
            spelt.extend(lines.iter().map(|line| format!("{}:{line}", place.display())));
        }
    }
    assert!(spelt.is_empty(), "use hosting_intent::Audience in\n{}", spelt.join("\n"));
}

#[test]
fn a_spelt_audience_is_found() {
    let source = "fn a() {\n    let prefix = \"node/\";\n    // \"edge/c\"\n    format!(\"dns/{group}\");\n    \
                  \"/fqdns/x\"\n}\n\n#[cfg(test)]\nmod tests {\n    const A: &str = \"edge/c\";\n}\n";
    assert_eq!(spelt_audiences(source), [2, 4]);
}

/// A resource kind, and the files that name it: its own two and the tables, a read that several kinds share, and the manifest of a
/// cluster, which has it as a part. A place that goes over kinds does not name them.
const SAMPLE_KIND: [&str; 2] = ["LbAddress", "\"lb_address\""];
const NAME_THE_SAMPLE: &[&str] = &[
    "cli/hostctl/src/cluster.rs",
    "cli/hostctl/src/up/plan.rs",
    "controller/planner/src/kinds/lb_address.rs",
    "controller/planner/src/kinds/mod.rs",
    "controller/planner/src/read.rs",
    "lib/resource/src/kinds/lb_address.rs",
    "lib/resource/src/kinds/mod.rs",
];

#[test]
fn a_kind_is_named_in_its_own_files() {
    let root = root();
    let mut all = Vec::new();
    sources(&root, &mut all);
    let naming = all.iter().filter(|path| {
        let source = fs::read_to_string(path).unwrap();
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        SAMPLE_KIND.iter().any(|name| code.contains(name))
    });
    let mut naming: Vec<String> =
        naming.map(|path| path.strip_prefix(&root).unwrap().display().to_string()).collect();
    naming.sort();
    assert_eq!(naming, NAME_THE_SAMPLE);
}
