//! Files that say what there is to be: YAML or JSON, several documents, each an item or with a list of them.

use std::{
    fmt, fs,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use crate::{output::usage, yaml};

/// Endings of the files that are read in a folder.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];
/// Folders in folders that are read.
const DEEPEST: usize = 16;

/// Where an item stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) file: String,
    pub(super) line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// An item as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Written {
    pub(super) place: Place,
    pub(super) fields: Map<String, Value>,
}

/// A document: an item, or a list of them.
#[derive(Debug, Default)]
struct Document {
    items: Option<Vec<Spanned<Map<String, Value>>>>,
    fields: Map<String, Value>,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an item with kind and spec, or a list of them under items")
            }

            fn visit_unit<E>(self) -> Result<Document, E> {
                Ok(Document::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut document = Document::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "items" {
                        document.items = Some(map.next_value()?);
                    } else {
                        document.fields.insert(name, map.next_value()?);
                    }
                }
                if document.items.is_some() && !document.fields.is_empty() {
                    return Err(A::Error::custom(
                        "items stands alone in its document: put the other fields into an item",
                    ));
                }
                Ok(document)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// Reads all items of files and folders; `-` is standard input.
///
/// # Errors
/// Wrong usage: a file that cannot be read, holds something else, or a folder without files.
pub(super) fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Written>> {
    let mut items = Vec::new();
    for path in paths {
        if path.as_os_str() != "-" && path.is_dir() {
            let mut found = Vec::new();
            in_folder(path, DEEPEST, &mut found)?;
            if found.is_empty() {
                return Err(usage(format!(
                    "{} holds no file that ends in .yaml, .yml or .json",
                    path.display()
                )));
            }
            found.sort();
            for file in found {
                items.extend(of_file(&file)?);
            }
        } else {
            items.extend(of_file(path)?);
        }
    }
    Ok(items)
}

/// Collects the files of a folder and of those in it. What begins with a dot is left alone, and so are links to folders.
fn in_folder(folder: &Path, deepest: usize, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_dir() && deepest > 0 {
            in_folder(&path, deepest - 1, found)?;
        } else if path.is_file() {
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            found.extend(ENDINGS.contains(&ending).then_some(path));
        }
    }
    Ok(())
}

fn of_file(file: &Path) -> anyhow::Result<Vec<Written>> {
    let shown = yaml::shown(file);
    let text = if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        text
    } else {
        fs::read_to_string(file).map_err(|error| usage(format!("cannot read {shown}: {error}")))?
    };
    of_text(&shown, &text).map_err(|problem| usage(format!("{shown}: {problem}")))
}

/// The items of a text. An error names the place and shows no line of the text: secrets stand in such files.
pub(super) fn of_text(file: &str, text: &str) -> anyhow::Result<Vec<Written>> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 100_000,
            max_nodes: 10_000_000,
            max_events: 40_000_000,
        },
    };
    let documents: Vec<Spanned<Document>> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| anyhow!("{}", error.without_snippet()))?;
    let at = |line: u64| Place { file: file.to_owned(), line };
    let mut items = Vec::new();
    for document in documents {
        let line = document.referenced.line();
        let Document { items: list, fields } = document.value;
        if !fields.is_empty() {
            items.push(Written { place: at(line), fields });
        }
        for item in list.into_iter().flatten() {
            items.push(Written { place: at(item.referenced.line()), fields: item.value });
        }
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn places(text: &str) -> Vec<(u64, Value)> {
        let items = of_text("x.yaml", text).unwrap();
        items.into_iter().map(|item| (item.place.line, Value::Object(item.fields))).collect()
    }

    #[test]
    fn documents_and_lists_are_read_with_their_lines() {
        let text = "# a comment\nkind: brand\nid: acme\n---\nitems:\n  - kind: zone\n    spec: {name: a.test}\n  - {kind: fqdn}\n---\n";
        let wanted = [
            (2, json!({"kind": "brand", "id": "acme"})),
            (6, json!({"kind": "zone", "spec": {"name": "a.test"}})),
            (8, json!({"kind": "fqdn"})),
        ];
        assert_eq!(places(text), wanted);
        assert_eq!(places("{\"items\": [{\"kind\": \"zone\"}]}"), [(1, json!({"kind": "zone"}))]);
        assert_eq!(places(""), []);
        let many = "kind: zone\n---\n".repeat(3_000);
        assert_eq!(of_text("x", &many).unwrap().len(), 3_000);
    }

    #[test]
    fn what_is_no_item_is_refused_with_its_place_and_without_its_text() {
        let error = |text: &str| of_text("x.yaml", text).unwrap_err().to_string();
        assert!(error("- kind: zone\n").contains("under items"), "{}", error("- kind: zone\n"));
        assert!(error("items: [{kind: zone}]\nkind: zone\n").contains("stands alone"));
        let twice = error("kind: zone\nspec: {key: hst_canary}\nspec: 1\n");
        assert!(twice.contains("line 3") && !twice.contains("hst_canary"), "{twice}");
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        for (name, kind) in
            [("b.yaml", "b"), ("a.json", "a"), ("sub/c.yml", "c"), (".hidden.yaml", "h"), ("d.txt", "d")]
        {
            fs::write(dir.path().join(name), format!("{{\"kind\": \"{kind}\"}}")).unwrap();
        }
        let items = read(&[dir.path().to_owned()]).unwrap();
        let kinds: Vec<&str> = items.iter().map(|item| item.fields["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["a", "b", "c"]);
        let empty = tempfile::tempdir().unwrap();
        assert!(read(&[empty.path().to_owned()]).unwrap_err().to_string().contains("holds no file"));
    }
}
