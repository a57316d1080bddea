//! `hostctl export`: what there is, as a file that `apply` takes and finds nothing to change in.
//!
//! Resources are read page by page, what lies in one right behind it, and written at once: no more than a page of each kind on the way
//! down is held, beside names that were looked up and one number for each resource whose kind has no unique names.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Write as _,
    hash::{DefaultHasher, Hash, Hasher},
    process::ExitCode,
};

use hosting_resource::{IdPolicy, Kind, KindInfo, Resource};
use serde_json::{Map, Value, json};

use super::{
    compare::leading_to,
    differ::is_nothing,
    item::{Fields, FieldsByKind, refers_to},
    normal::{Actual, body_of, resource_of},
};
use crate::{
    api::{Api, ApiError, encode},
    args::ExportTreeArgs,
    format::Format,
    kinds::{collection, filters, item, label_of, parent_of},
    output::{self, usage},
    resources::names,
};

/// Resources of a page.
const PAGE: usize = 200;
/// Names that are remembered; beyond it they are looked up anew.
const MOST_NAMES: usize = 50_000;

/// Where the export begins.
enum Root {
    /// Everything of these kinds.
    Everything,
    /// What lies in one.
    In(String),
    /// One resource, what lies in it and what is its own.
    One(&'static KindInfo, String),
}

struct Exporter<'a> {
    api: &'a Api,
    as_json: bool,
    /// Empty: all.
    kinds: Vec<Kind>,
    fields: FieldsByKind,
    /// By kind, id and where the name is read, what a file calls it.
    called: BTreeMap<(Kind, String, Option<String>), String>,
    /// What was exported last lies in it.
    parent: Option<(Kind, String, Resource)>,
    /// Digests of what was written without a name that is its alone.
    written: HashSet<u64>,
    /// Of each kind that cannot be made again from what is shown, how many were left out.
    left_out: BTreeMap<Kind, u64>,
    /// Fields that are never shown, by kind.
    unshown: BTreeSet<(Kind, String)>,
    count: u64,
}

pub(super) async fn run(api: &Api, args: &ExportTreeArgs, format: Format) -> anyhow::Result<ExitCode> {
    let root = root_of(api, args).await?;
    // A file is what is asked for: YAML but for who wants JSON.
    let as_json = format == Format::Json;
    let mut exporter = Exporter {
        api,
        as_json,
        kinds: args.kinds.iter().map(|info| info.kind).collect(),
        fields: FieldsByKind::default(),
        called: BTreeMap::new(),
        parent: None,
        written: HashSet::new(),
        left_out: BTreeMap::new(),
        unshown: BTreeSet::new(),
        count: 0,
    };
    output::text(if as_json { "{\"items\": [" } else { "items:\n" });
    exporter.all(&root, &args.kinds).await?;
    if as_json {
        output::text("\n]}\n");
    } else if exporter.count == 0 {
        output::text("  []\n");
    }
    exporter.tell();
    Ok(ExitCode::SUCCESS)
}

async fn root_of(api: &Api, args: &ExportTreeArgs) -> anyhow::Result<Root> {
    if let Some(given) = &args.parent {
        let owners: Vec<&'static KindInfo> = args.kinds.iter().filter_map(|info| parent_of(info)).collect();
        let (Some(owner), true) = (owners.first(), owners.len() == args.kinds.len()) else {
            return Err(usage(
                "--in is for kinds that lie in something; name the tenant or brand with --tenant or --brand",
            ));
        };
        if owners.iter().any(|other| other.kind != owner.kind) {
            return Err(usage("the kinds lie in different things: export one after another"));
        }
        return Ok(Root::In(names::id_of(api, owner, given, None).await?));
    }
    for (given, kind) in [(&args.tenant, Kind::Tenant), (&args.brand, Kind::Brand)] {
        if let Some(given) = given {
            return Ok(Root::One(kind.info(), names::id_of(api, kind.info(), given, None).await?));
        }
    }
    Ok(Root::Everything)
}

impl Exporter<'_> {
    fn is_wanted(&self, kind: Kind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    /// Whether something of a kind may lie, at any depth, in one of another.
    fn leads_to_wanted(&self, kind: Kind) -> bool {
        let below =
            Kind::ALL.iter().filter(|below| parent_of(below.info()).is_some_and(|of| of.kind == kind));
        self.is_wanted(kind) || below.into_iter().any(|below| self.leads_to_wanted(*below))
    }

    async fn all(&mut self, root: &Root, kinds: &[&'static KindInfo]) -> anyhow::Result<()> {
        match root {
            Root::In(parent) => {
                for info in kinds {
                    let path = collection(info, Some(parent))?;
                    Box::pin(self.pages(info, &path)).await?;
                }
            }
            Root::Everything => {
                for info in Kind::ALL.iter().map(|kind| kind.info()) {
                    if parent_of(info).is_none() && self.leads_to_wanted(info.kind) {
                        Box::pin(self.pages(info, info.collection)).await?;
                    }
                }
            }
            Root::One(info, id) => {
                let view = self.api.get(&item(info, id)).await?;
                Box::pin(self.one(info, view)).await?;
                self.own(info.kind, id).await?;
            }
        }
        Ok(())
    }

    /// What lies in nothing and belongs to the brand or tenant: found by the field that says so.
    async fn own(&mut self, owner: Kind, id: &str) -> anyhow::Result<()> {
        let field = format!("{}_id", owner.name());
        for info in Kind::ALL.iter().map(|kind| kind.info()) {
            let is_own = parent_of(info).is_none() && filters(info).contains(&field.as_str());
            if is_own && self.leads_to_wanted(info.kind) {
                let path = format!("{}?{field}={}", info.collection, encode(id));
                Box::pin(self.pages(info, &path)).await?;
            }
        }
        Ok(())
    }

    /// Writes all of a list, each with what lies in it.
    async fn pages(&mut self, info: &'static KindInfo, path: &str) -> anyhow::Result<()> {
        let join = if path.contains('?') { '&' } else { '?' };
        let mut cursor = String::new();
        loop {
            let page = match self.api.get(&format!("{path}{join}limit={PAGE}{cursor}")).await {
                Ok(page) => page,
                // A key that may not see a kind exports what it may see.
                Err(ApiError::Answer { status: 403, message }) if self.kinds.is_empty() => {
                    output::warning(format!("{} are left out: {message}", info.plural()));
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            for view in page["items"].as_array().cloned().unwrap_or_default() {
                Box::pin(self.one(info, view)).await?;
            }
            match page["next_cursor"].as_str() {
                Some(next) if page["has_more"] == true => cursor = format!("&cursor={}", encode(next)),
                _ => return Ok(()),
            }
        }
    }

    /// Writes a resource and what lies in it.
    async fn one(&mut self, info: &'static KindInfo, view: Value) -> anyhow::Result<()> {
        if Actual::is_gone(&view) {
            return Ok(());
        }
        let Some(id) = view["id"].as_str().map(str::to_owned) else { return Ok(()) };
        let fields = self.fields.of(info);
        let actual =
            Actual { id: id.clone(), view: view.as_object().cloned().unwrap_or_default(), normal: None };
        if actual.is_the_platforms(info) {
            return Ok(());
        }
        if self.is_wanted(info.kind) {
            self.write(info, &fields, actual).await?;
        }
        for below in Kind::ALL.iter().map(|kind| kind.info()) {
            let lies_in_it = parent_of(below).is_some_and(|of| of.kind == info.kind);
            if lies_in_it && self.leads_to_wanted(below.kind) {
                let path = collection(below, Some(&id))?;
                Box::pin(self.pages(below, &path)).await?;
            }
        }
        Ok(())
    }

    async fn write(
        &mut self,
        info: &'static KindInfo,
        fields: &Fields,
        actual: Actual,
    ) -> anyhow::Result<()> {
        let shown = body_of(fields, &actual.view);
        if fields
            .of_creation()
            .into_iter()
            .any(|field| fields.is_required(field) && !shown.contains_key(field))
        {
            // What is needed to make it is never shown.
            *self.left_out.entry(info.kind).or_default() += 1;
            return Ok(());
        }
        for field in fields.of_creation().into_iter().filter(|field| !fields.is_shown(field)) {
            // An older spelling of a field that takes several says nothing more.
            let is_older = fields.is_created_with(&format!("{field}s"));
            if field != "id" && !is_older && fields.describes(field).is_none() {
                self.unshown.insert((info.kind, field.to_owned()));
            }
        }
        let parent = self.parent_of(info, &actual).await?;
        let Some(actual) = Actual::of(info, fields, parent.as_ref(), Value::Object(actual.view)) else {
            return Ok(());
        };
        let mut spec = Map::new();
        for (field, value) in shown.into_iter().filter(|(field, value)| field != "id" && !is_nothing(value)) {
            let within = refers_to(&field)
                .and_then(names::owner_of)
                .and_then(|(_, owner)| actual.view.get(owner).and_then(Value::as_str).map(str::to_owned));
            let value = match (refers_to(&field), value) {
                (Some(kind), Value::String(id)) => json!(self.name_of(kind, &id, within).await?),
                (Some(kind), Value::Array(ids)) => {
                    let mut names = Vec::new();
                    for id in ids.iter().filter_map(Value::as_str) {
                        names.push(json!(self.name_of(kind, id, within.clone()).await?));
                    }
                    Value::Array(names)
                }
                (_, value) => value,
            };
            spec.insert(field, value);
        }
        let mut written = vec![("kind", json!(info.dashed()))];
        if let (Some(owner), Some(of)) = (parent_of(info), info.parent)
            && let Some(id) = actual.view.get(of.field).and_then(Value::as_str).map(str::to_owned)
        {
            written.push(("in", json!(self.name_of(owner, &id, None).await?)));
        }
        let is_named = actual.normal.as_ref().is_some_and(|normal| normal.is_named);
        let is_chosen = match info.id {
            IdPolicy::Caller => true,
            IdPolicy::CallerOrUuid => !names::is_uuid(&actual.id),
            IdPolicy::Prefixed(_) | IdPolicy::Uuid => false,
        };
        let is_unique = actual.normal.as_ref().is_some_and(|normal| !normal.uniques.is_empty());
        if is_chosen || (is_named && !is_unique && self.is_written(&written, &spec)) {
            written.push(("id", json!(actual.id)));
        }
        if !is_named && !leading_to(info).is_empty() {
            let name = self.name_of(info, &actual.id, None).await?;
            if name != actual.id {
                written.push(("name", json!(name)));
            }
        }
        self.print(written, spec)
    }

    /// Whether the same was written before: then only its id tells it from the other one.
    fn is_written(&mut self, written: &[(&str, Value)], spec: &Map<String, Value>) -> bool {
        let mut hasher = DefaultHasher::new();
        format!("{written:?}{}", Value::Object(spec.clone())).hash(&mut hasher);
        !self.written.insert(hasher.finish())
    }

    fn print(&mut self, written: Vec<(&str, Value)>, spec: Map<String, Value>) -> anyhow::Result<()> {
        self.count += 1;
        if self.as_json {
            let mut item: Map<String, Value> =
                written.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            item.insert("spec".to_owned(), Value::Object(spec));
            let comma = if self.count > 1 { "," } else { "" };
            output::text(&format!("{comma}\n{}", Value::Object(item)));
            return Ok(());
        }
        let mut text = String::new();
        for (n, (name, value)) in written.iter().enumerate() {
            let lead = if n == 0 { "  - " } else { "    " };
            let _ = writeln!(text, "{lead}{name}: {}", scalar(value)?);
        }
        if !spec.is_empty() {
            text.push_str("    spec:\n");
            for line in serde_saphyr::to_string(&Value::Object(spec))?.lines() {
                let _ = writeln!(text, "      {line}");
            }
        }
        output::text(&text);
        Ok(())
    }

    /// What a resource lies in, as its kind's rules see it.
    async fn parent_of(&mut self, info: &KindInfo, actual: &Actual) -> Result<Option<Resource>, ApiError> {
        let owner = parent_of(info).zip(info.parent);
        let Some((owner, id)) =
            owner.and_then(|(owner, of)| Some((owner, actual.view.get(of.field)?.as_str()?)))
        else {
            return Ok(None);
        };
        if let Some((kind, known, resource)) = &self.parent
            && (*kind, known.as_str()) == (owner.kind, id)
        {
            return Ok(Some(resource.clone()));
        }
        let view = self.api.get(&item(owner, id)).await?;
        let Some(resource) = view.as_object().map(|view| resource_of(owner, view)) else { return Ok(None) };
        self.parent = Some((owner.kind, id.to_owned(), resource.clone()));
        Ok(Some(resource))
    }

    /// What a file calls a resource: its name where that means it alone, else its id.
    /// `within` is the id of what decides which one is meant, where the place of the name says that.
    async fn name_of(
        &mut self,
        info: &'static KindInfo,
        id: &str,
        within: Option<String>,
    ) -> anyhow::Result<String> {
        let key = (info.kind, id.to_owned(), within);
        if id.is_empty() {
            return Ok(String::new());
        }
        if let Some(known) = self.called.get(&key) {
            return Ok(known.clone());
        }
        let is_chosen = matches!(info.id, IdPolicy::Caller | IdPolicy::CallerOrUuid) && !names::is_uuid(id);
        let name = if is_chosen {
            id.to_owned()
        } else {
            self.looked_up(info, id, key.2.as_deref()).await?.unwrap_or_else(|| id.to_owned())
        };
        if self.called.len() >= MOST_NAMES {
            self.called.clear();
        }
        self.called.insert(key, name.clone());
        Ok(name)
    }

    async fn looked_up(
        &mut self,
        info: &'static KindInfo,
        id: &str,
        within: Option<&str>,
    ) -> anyhow::Result<Option<String>> {
        // One without a name of its own is called by the first that leads to it.
        for (kind, _) in leading_to(info) {
            for list in kind.info().lists.iter().filter(|list| list.kind == info.kind) {
                let path = list.path.replace(&format!("{{{}}}", list.param), &encode(id));
                let found = self.api.list_up_to(&path, PAGE).await?;
                let first = found.iter().find(|view| !Actual::is_gone(view)).and_then(label_of);
                if let Some(first) = first {
                    return Ok(Some(first.to_owned()));
                }
            }
        }
        let view = match self.api.get(&item(info, id)).await {
            Ok(view) => view,
            Err(ApiError::Answer { status: 403 | 404, .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(label) = label_of(&view) else { return Ok(None) };
        let candidates = match names::owner_of(info).and_then(|(_, field)| view[field].as_str()) {
            Some(owner) => vec![label.to_owned(), format!("{owner}/{label}")],
            None => vec![label.to_owned()],
        };
        for name in candidates {
            if names::id_of(self.api, info, &name, within).await.is_ok_and(|found| found == id) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Says what is not in the file.
    fn tell(&self) {
        for (kind, count) in &self.left_out {
            output::warning(format!(
                "{count} {} are left out: what is needed to make them is a secret",
                kind.info().plural()
            ));
        }
        for (kind, field) in &self.unshown {
            output::warning(format!("{field} of {} is left out: it is never shown", kind.info().plural()));
        }
        output::note(format!("{} resources written", self.count));
    }
}

/// A value on one line.
fn scalar(value: &Value) -> anyhow::Result<String> {
    Ok(serde_saphyr::to_string(value)?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::declare::files::of_text;

    /// Texts that YAML reads as something else, and such that break lines.
    #[test]
    fn what_is_written_is_read_as_it_was() {
        let values = json!({
            "a": "no", "b": "8.10", "c": "1001", "d": "x: y # z", "e": "two\nlines\n", "f": "", "g": ["*", "- a"], "h": {"i": {"j": null}},
            "k": " \"quoted\" ", "l": "@", "m": true, "n": 7, "o": "\u{1b}", "p": "~", "q": "null", "r": "2026-11-29", "s": "0x10", "t": "1e3",
            "u": "a".repeat(300), "v": "v=DKIM1; k=rsa; p=MIIB \\\"x\\\"", "w": "{a}", "x": "tab\there", "y": "é日本", "z": "on",
        });
        let mut text = "items:\n".to_owned();
        for line in serde_saphyr::to_string(&values).unwrap().lines() {
            let _ = writeln!(
                text,
                "{}{line}",
                if text.len() < 10 { "  - kind: zone\n    spec:\n      " } else { "      " }
            );
        }
        let read = of_text("x", &text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
        assert_eq!(read[0].fields["spec"], values, "{text}");
        assert_eq!(scalar(&json!("1001")).unwrap(), "\"1001\"");
    }
}
