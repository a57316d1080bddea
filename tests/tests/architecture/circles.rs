//! Files of a crate name one another downwards only: who would read one of a circle has to read them all.
//!
//! A file names another one by a path that begins with `crate`, `super` or `self`. That a module names what it is part of, and a
//! crate's root what it hands on, makes no circle; what is built for tests does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};

use super::{root, sources};

/// A module's path in its crate; the root's is empty.
type Module = Vec<String>;

/// Crates, with the files of each circle that is left in them. None may be added; one that is opened is struck out.
const LEFT: &[(&str, &[&str])] = &[
    // Kinds hold ids of one another: a host name of its webroot, a zone of its tenant.
    (
        "hosting-resource",
        &["kinds::fqdn", "kinds::tenant", "kinds::webroot", "kinds::zone", "kinds::zone_record"],
    ),
    // Rooms of kinds, and the engines that go over their table and hand themselves to them.
    ("hosting-planner", &["derive", "gates", "gates::look", "kinds", "plan", "unit", "walk"]),
    ("hosting-planner", &["kinds::brand", "kinds::zone", "kinds::zone_record"]),
    ("hosting-planner", &["kinds::fqdn", "kinds::webroot"]),
    // The settings hold those of each role, and a role is opened with the settings.
    ("hosting-nodeagent", &["role", "settings"]),
    // A route holds its handler, and handlers are given the route.
    (
        "hosting-api",
        &[
            "actions", "audit", "auth", "fallback", "openapi", "prepare", "query", "request", "route",
            "service", "write",
        ],
    ),
    // To be opened: what opens a store and what writes to it stand in one of their files.
    ("hosting-store", &["feed_source", "read_tx"]),
];

/// The paths that a file names.
struct Named<'h> {
    here: &'h Module,
    paths: BTreeSet<Module>,
}

impl Named<'_> {
    /// Takes a path as it stands in the file, if it begins in this crate.
    fn take(&mut self, path: &[String]) {
        let (mut base, mut rest) = match path.first().map(String::as_str) {
            Some("crate") => (Module::new(), path.get(1..)),
            Some("self") => (self.here.clone(), path.get(1..)),
            Some("super") => (self.here.clone(), Some(path)),
            _ => return,
        };
        while let Some([first, after @ ..]) = rest
            && first == "super"
        {
            base.pop();
            rest = Some(after);
        }
        base.extend(rest.unwrap_or_default().iter().cloned());
        self.paths.insert(base);
    }

    fn take_tree(&mut self, before: &Module, tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before.as_slice(), &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.take_tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.take(&with(&name.ident)),
            syn::UseTree::Rename(name) => self.take(&with(&name.ident)),
            syn::UseTree::Glob(_) => self.take(before),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.take_tree(before, tree)),
        }
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|one| {
        one.path().is_ident("cfg") && one.parse_args::<syn::Ident>().is_ok_and(|argument| argument == "test")
    })
}

impl<'ast> Visit<'ast> for Named<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_for_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.take_tree(&Module::new(), &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.take(&names);
        visit::visit_path(self, path);
    }
}

/// Which modules each module of a crate names, those that it is part of aside.
fn graph(files: &BTreeMap<Module, String>) -> BTreeMap<&Module, BTreeSet<&Module>> {
    let modules = files.iter().map(|(here, text)| {
        let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{here:?}: {error}"));
        let mut named = Named { here, paths: BTreeSet::new() };
        named.visit_file(&parsed);
        // What a path ends with is something in the module, or handed on by it.
        let file_of = |path: &Module| {
            (0..=path.len()).rev().find_map(|n| files.get_key_value(&path[..n])).map(|(module, _)| module)
        };
        let named = named.paths.iter().filter_map(file_of).filter(|other| !here.starts_with(other));
        (here, named.collect())
    });
    modules.collect()
}

/// The modules of each circle.
fn circles(graph: &BTreeMap<&Module, BTreeSet<&Module>>) -> Vec<Vec<String>> {
    let reached = |from: &Module| {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&Module> = graph.get(from).into_iter().flatten().copied().collect();
        while let Some(module) = next.pop() {
            if reached.insert(module) {
                next.extend(graph.get(module).into_iter().flatten());
            }
        }
        reached
    };
    let all: BTreeMap<&Module, BTreeSet<&Module>> =
        graph.keys().map(|module| (*module, reached(module))).collect();
    let in_circles = all.iter().filter(|(module, reached)| reached.contains(*module));
    let circles: BTreeSet<Vec<String>> = in_circles
        .map(|(module, reached)| {
            let back = reached.iter().filter(|other| all[*other].contains(module));
            back.map(|module| module.join("::")).collect()
        })
        .collect();
    circles.into_iter().collect()
}

/// The sources of a crate by module.
fn files_of(folder: &Path) -> BTreeMap<Module, String> {
    let mut found = Vec::new();
    sources(folder, &mut found);
    let module = |path: &Path| -> Module {
        let place = path.strip_prefix(folder).unwrap().with_extension("");
        let mut module: Module = place.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.last().is_some_and(|last| ["lib", "main", "mod"].contains(&last.as_str())) {
            module.pop();
        }
        module
    };
    found.iter().map(|path| (module(path), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn files_name_one_another_in_no_circle() {
    let root = root();
    let metadata = cargo_metadata::MetadataCommand::new().no_deps().exec().unwrap();
    let mut left: Vec<(&str, &[&str])> = LEFT.to_vec();
    let mut circles_found = Vec::new();
    for package in &metadata.packages {
        let folder = package.manifest_path.with_file_name("src").into_std_path_buf();
        if !folder.starts_with(&root) || !folder.is_dir() {
            continue;
        }
        for circle in circles(&graph(&files_of(&folder))) {
            let known =
                left.iter().position(|(name, files)| *name == package.name.as_str() && *files == circle);
            match known {
                Some(known) => drop(left.remove(known)),
                None => circles_found.push(format!("{}: {}", package.name, circle.join(", "))),
            }
        }
    }
    assert!(circles_found.is_empty(), "circles of files:\n{}", circles_found.join("\n"));
    assert!(left.is_empty(), "these circles are open now, strike them out: {left:?}");
}

#[test]
fn a_circle_is_found_however_it_is_spelt() {
    let circle = |files: &[(&str, &str)]| {
        let files = files.iter().map(|(module, text)| {
            let parts = module.split("::").filter(|part| !part.is_empty());
            (parts.map(str::to_owned).collect(), (*text).to_owned())
        });
        circles(&graph(&files.collect()))
    };
    let two = [vec!["a".to_owned(), "b".to_owned()]];
    assert_eq!(circle(&[("a", "use crate::b::B;"), ("b", "fn f() { crate::a::g() }")]), two);
    assert_eq!(
        circle(&[("a", "use super::{b::{B, C}, d};"), ("b", "type T = super::a::A;"), ("d", "")]),
        two
    );
    assert_eq!(circle(&[("a", "use crate::b::*;"), ("b", "mod c { use crate::a; }")]), two);
    let through = circle(&[("a", "use crate::b;"), ("b", "use crate::c;"), ("c", "use crate::a;")]);
    assert_eq!(through, [["a", "b", "c"].map(str::to_owned)]);
    // A part and its whole, what the root hands on, and tests.
    assert_eq!(circle(&[("a", "use self::b::B;"), ("a::b", "use super::A; use crate::a::C;")]), [[""; 0]; 0]);
    assert_eq!(circle(&[("", "pub use a::A;"), ("a", "use crate::A;")]), [[""; 0]; 0]);
    let tests = "#[cfg(test)] mod tests { use crate::a::A; }\n#[cfg(test)] use crate::a;";
    assert_eq!(circle(&[("a", "use crate::b;"), ("b", tests)]), [[""; 0]; 0]);
}
