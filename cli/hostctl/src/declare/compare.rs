//! Items of files beside the resources of the platform: which item means which resource, and in what they differ.

mod unnamed;

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use hosting_resource::{IdPolicy, KindInfo, Resource};
use serde_json::{Map, Value, json};

use super::{
    differ::{Comparison, compare},
    faults::{Fault, Faults},
    item::{Fields, FieldsByKind, Item, Named, refers_to},
    normal::{self, Actual, Normal},
    pairing::pair,
    world::World,
};
use crate::{
    address::host,
    kinds::{LABELS, filters, parent_of},
    output::{self, UsageError},
    resources::names,
};

pub(super) use self::unnamed::leading_to;

/// How the id of something that is still to be made begins, before the number of its item.
const NEW: &str = "new-item:";
/// Candidates that a message lists.
const LISTED: usize = 10;

/// What a name means: an item of the same files, or something on the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Item(usize),
    Id(String),
}

/// Where a resource is: what it lies in, or whose it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    field: &'static str,
    pub(super) id: String,
    /// Whether files name it in a way that lets what is in it be deleted: with `in`, or as an item of its own.
    is_named: bool,
}

#[cfg(test)]
impl Spot {
    /// A place that files name.
    pub(super) fn of(field: &'static str, id: &str) -> Self {
        Self { field, id: id.to_owned(), is_named: true }
    }
}

/// An item and what was found for it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) item: Item,
    pub(super) fields: Rc<Fields>,
    pub(super) spot: Option<Spot>,
    /// The spec, with ids in the place of names.
    pub(super) body: Map<String, Value>,
    pub(super) normal: Normal,
    pub(super) found: Option<Actual>,
    pub(super) compared: Comparison,
}

/// A resource that files do not name.
#[derive(Debug)]
pub(super) struct Doomed {
    pub(super) info: &'static KindInfo,
    pub(super) actual: Actual,
    pub(super) spot: Spot,
}

/// All items, kinds in their order, and what would go.
#[derive(Debug)]
pub(super) struct Compared {
    pub(super) entries: Vec<Entry>,
    pub(super) doomed: Vec<Doomed>,
}

/// The number of the item that is to be made and has this id until then.
pub(super) fn item_of(id: &str) -> Option<usize> {
    id.strip_prefix(NEW).and_then(|number| number.parse().ok())
}

pub(super) struct Comparer<'a> {
    world: World<'a>,
    items: Vec<Item>,
    named: Named,
    entries: Vec<Option<Entry>>,
    fields: FieldsByKind,
    doomed: Vec<Doomed>,
    faults: Faults,
    prune: bool,
}

impl<'a> Comparer<'a> {
    /// `prune`: what files do not name is looked for.
    pub(super) fn new(world: World<'a>, mut items: Vec<Item>, fields: FieldsByKind, prune: bool) -> Self {
        items.sort_by_key(|item| item.info.kind);
        let (named, entries) = (Named::of(&items), items.iter().map(|_| None).collect());
        Self { world, items, named, entries, fields, doomed: Vec::new(), faults: Faults::default(), prune }
    }

    /// # Errors
    /// Wrong usage with all that is wrong with items; what the API refuses.
    pub(super) async fn run(mut self) -> anyhow::Result<Compared> {
        let mut from = 0;
        while let Some(item) = self.items.get(from) {
            let info = item.info;
            let count = self.items[from..].iter().take_while(|one| one.info.kind == info.kind).count();
            for n in from..from + count {
                self.entries[n] = self.read(n).await?;
            }
            self.refuse_twice(from, from + count);
            if self.faults.is_empty() {
                self.find(info, from, from + count).await?;
            }
            from += count;
        }
        self.faults.end()?;
        let entries = self.entries.into_iter().flatten().collect();
        Ok(Compared { entries, doomed: self.doomed })
    }

    /// The id of what a name means; one that is made up for what is still to be made.
    fn id_of(&self, target: &Target) -> String {
        match target {
            Target::Id(id) => id.clone(),
            Target::Item(n) => {
                let found =
                    self.entries.get(*n).and_then(Option::as_ref).and_then(|entry| entry.found.as_ref());
                found.map_or_else(|| format!("{NEW}{n}"), |found| found.id.clone())
            }
        }
    }

    /// Reads an item: names become ids, and its kind's rules are applied. `None`: something is wrong with it.
    async fn read(&mut self, n: usize) -> anyhow::Result<Option<Entry>> {
        let Some(item) = self.items.get(n).cloned() else { return Ok(None) };
        let (info, fields) = (item.info, self.fields.of(item.info));
        let parent = match (parent_of(info), &item.lies_in) {
            (Some(owner), Some(name)) => match self.meant(&item, "in", owner, name, None).await? {
                Some(target) => Some((owner, target)),
                None => return Ok(None),
            },
            (Some(_) | None, _) => None,
        };
        let mut body = item.spec.clone();
        if let Some(id) = item.id.as_ref().filter(|_| fields.is_created_with("id")) {
            body.insert("id".to_owned(), json!(id));
        }
        let Some(owners) = self.references(&item, parent.as_ref(), &mut body).await? else { return Ok(None) };
        let lies_in = match &parent {
            Some((owner, target)) => match self.resource(owner, target).await? {
                Some(resource) => Some(resource),
                None => {
                    let name = item.lies_in.as_deref().unwrap_or_default();
                    let reason = format!("there is no {} {name:?}", owner.dashed());
                    self.faults.add(item.fault(
                        "in",
                        reason,
                        format!("`hostctl get {}` lists them", owner.plural()),
                    ));
                    return Ok(None);
                }
            },
            None => None,
        };
        let mut created = body.clone();
        created.retain(|field, _| fields.is_created_with(field));
        let normal = match normal::read(info, &fields, lies_in.as_ref(), &created) {
            Ok(normal) => normal,
            Err(error) => {
                self.faults.add_error(&item.place, &item.what(), error);
                return Ok(None);
            }
        };
        for field in &normal.unknown {
            let remedy = "the API reference lists the fields; leave it out";
            self.faults.add(item.fault(&format!("spec.{field}"), "nobody knows this field", remedy));
        }
        let spot = match (&parent, &normal.owner) {
            (Some((_, target)), _) => {
                let field = info.parent.map(|parent| parent.field).unwrap_or_default();
                Some(Spot { field, id: self.id_of(target), is_named: true })
            }
            (None, Some(owner)) => {
                let is_named = matches!(owners.get(owner.field), Some(Target::Item(_)));
                Some(Spot { field: owner.field, id: owner.id.clone(), is_named })
            }
            (None, None) => None,
        };
        Ok(Some(Entry { item, fields, spot, body, normal, found: None, compared: Comparison::default() }))
    }

    /// Puts ids in the place of names in the fields of a body that refer to resources; what the fields with one mean.
    async fn references(
        &mut self,
        item: &Item,
        parent: Option<&(&'static KindInfo, Target)>,
        body: &mut Map<String, Value>,
    ) -> anyhow::Result<Option<BTreeMap<String, Target>>> {
        let mut known: BTreeMap<String, Target> = BTreeMap::new();
        let mut is_sound = true;
        // Owners come before what they own, so that a cluster's name is looked up in its region.
        let mut named: Vec<(&String, &'static KindInfo)> =
            item.spec.keys().filter_map(|field| Some((field, refers_to(field)?))).collect();
        named.sort_by_key(|(_, info)| info.kind);
        for (field, info) in named {
            let within = names::owner_of(info).and_then(|(of, owner_field)| {
                let lies_in = parent.filter(|(owner, _)| owner.kind == of).map(|(_, target)| target);
                known.get(owner_field).or(lies_in).cloned()
            });
            let Some(value) = body.get_mut(field) else { continue };
            let texts: Vec<&mut Value> = match value {
                Value::Array(items) => items.iter_mut().collect(),
                one => vec![one],
            };
            for text in texts {
                let Some(name) = text.as_str().filter(|name| !name.is_empty()).map(str::to_owned) else {
                    continue;
                };
                match self.meant(item, &format!("spec.{field}"), info, &name, within.as_ref()).await? {
                    Some(target) => {
                        *text = json!(self.id_of(&target));
                        known.insert(field.clone(), target);
                    }
                    None => is_sound = false,
                }
            }
        }
        Ok(is_sound.then_some(known))
    }

    /// What a name in a field means. `None`: nothing that can be told, and a fault says so.
    async fn meant(
        &mut self,
        item: &Item,
        field: &str,
        info: &'static KindInfo,
        name: &str,
        within: Option<&Target>,
    ) -> anyhow::Result<Option<Target>> {
        let within = within.map(|target| self.id_of(target));
        let found = self.in_files(info, name, within.as_deref());
        match found.as_slice() {
            [one] => {
                // What is wrong with the other item is told already.
                let is_read = self.entries.get(*one).is_some_and(Option::is_some);
                return Ok(is_read.then_some(Target::Item(*one)));
            }
            [] => {}
            several => {
                let places: Vec<String> = several.iter().map(|n| self.items[*n].place.to_string()).collect();
                let reason =
                    format!("{name:?} means several {} of the files ({})", info.plural(), places.join(", "));
                self.faults.add(item.fault(
                    field,
                    reason,
                    "give the one that is meant a name of its own, with name",
                ));
                return Ok(None);
            }
        }
        let within = within.filter(|id| item_of(id).is_none());
        match self.world.id_of(info, name, within.as_deref()).await {
            Ok(id) => Ok(Some(Target::Id(id))),
            Err(error) if names::names_nothing(&error) || error.is::<UsageError>() => {
                let remedy = if names::names_nothing(&error) {
                    "make it an item of the files, or mend the name"
                } else {
                    ""
                };
                self.faults.add(item.fault(field, error.to_string(), remedy));
                Ok(None)
            }
            Err(error) => Err(error.context(format!("{}: {field}", item.place))),
        }
    }

    /// The items that a name means: by name, id or label, or as OWNER/NAME.
    fn in_files(&self, info: &KindInfo, name: &str, within: Option<&str>) -> Vec<usize> {
        let owner = names::owner_of(info);
        let spot_of = |n: usize| {
            let entry = self.entries.get(n).and_then(Option::as_ref);
            entry
                .and_then(|entry| entry.spot.as_ref())
                .filter(|spot| owner.is_some_and(|(_, field)| field == spot.field))
        };
        let lies_there =
            |n: usize| within.is_none_or(|within| spot_of(n).is_none_or(|spot| spot.id == within));
        let called = |name: &str| -> Vec<usize> {
            self.named.called(info.kind, name).iter().copied().filter(|n| lies_there(*n)).collect()
        };
        let found = called(name);
        let parts = owner.zip(name.split_once('/')).filter(|_| found.is_empty());
        let Some(((of, field), (outer, inner))) = parts else { return found };
        let is_of = |n: &usize| {
            let one = &self.items[*n];
            let text = one.lies_in.as_deref().or_else(|| one.spec.get(field).and_then(Value::as_str));
            let is_same = text.is_some_and(|text| host(text) == host(outer));
            let owners = self.named.called(of, outer).iter();
            let mut ids = owners.map(|owner| self.id_of(&Target::Item(*owner)));
            is_same || ids.any(|id| spot_of(*n).is_some_and(|spot| spot.id == id))
        };
        called(inner).into_iter().filter(is_of).collect()
    }

    /// What a name means, as its kind's rules see it.
    async fn resource(&mut self, info: &KindInfo, target: &Target) -> anyhow::Result<Option<Resource>> {
        match target {
            Target::Id(id) => Ok(self.world.resource(info, id).await?),
            Target::Item(n) => {
                let id = self.id_of(target);
                let entry = self.entries.get(*n).and_then(Option::as_ref);
                Ok(entry.map(|entry| Resource { id, ..entry.normal.resource.clone() }))
            }
        }
    }

    /// Refuses what stands in the files more than once.
    fn refuse_twice(&mut self, from: usize, to: usize) {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut found = Vec::new();
        for n in from..to {
            let Some(entry) = &self.entries[n] else { continue };
            let spot = entry.spot.as_ref().map(|spot| spot.id.as_str()).unwrap_or_default();
            let mut keys = Vec::new();
            keys.extend(entry.item.id.as_ref().map(|id| format!("id {id}")));
            keys.extend(entry.item.name.as_ref().map(|name| format!("name {spot} {}", host(name))));
            keys.extend(
                entry.normal.uniques.iter().map(|one| format!("{} {} {}", one.field, one.scope, one.key)),
            );
            if entry.normal.is_named && entry.item.id.is_none() {
                keys.push(format!("whole {spot} {}", Value::Object(entry.body.clone())));
            }
            let first = keys.iter().find_map(|key| seen.get(key)).copied();
            if let Some(first) = first {
                let reason = format!("is the same as {}", self.items[first].place);
                found.push(entry.item.fault("", reason, "leave one of them out"));
            }
            for key in keys {
                seen.entry(key).or_insert(n);
            }
        }
        found.into_iter().for_each(|fault| self.faults.add(fault));
    }

    /// Finds the resources of the items of a kind.
    async fn find(&mut self, info: &'static KindInfo, from: usize, to: usize) -> anyhow::Result<()> {
        let mut spots: BTreeMap<Option<(&'static str, String)>, Vec<usize>> = BTreeMap::new();
        for n in from..to {
            let Some(entry) = &self.entries[n] else { continue };
            let key = entry.spot.as_ref().map(|spot| (spot.field, spot.id.clone()));
            spots.entry(key).or_default().push(n);
        }
        for (_, members) in spots {
            self.find_in(info, &members).await?;
        }
        Ok(())
    }

    /// Finds the resources of the items of a kind in one place.
    async fn find_in(&mut self, info: &'static KindInfo, members: &[usize]) -> anyhow::Result<()> {
        let entry = |this: &Self, n: usize| {
            this.entries[n].as_ref().map(|entry| (entry.item.clone(), entry.normal.clone()))
        };
        let spot = members.iter().find_map(|n| self.entries[*n].as_ref()?.spot.clone());
        let is_new = spot.as_ref().is_some_and(|spot| item_of(&spot.id).is_some());
        let fields = self.fields.of(info);
        let parent = match (&spot, parent_of(info)) {
            (Some(spot), Some(owner)) if !is_new => self.world.resource(owner, &spot.id).await?,
            _ => None,
        };
        let mut open = Vec::new();
        for n in members {
            let Some((item, _)) = entry(self, *n) else { continue };
            match &item.id {
                Some(id) => self.find_by_id(*n, &item, id, spot.as_ref(), parent.as_ref()).await?,
                None => open.push(*n),
            }
        }
        // What is still to be made has nothing in it.
        if is_new {
            return Ok(());
        }
        let label_field = LABELS.iter().find(|label| filters(info).contains(label));
        let is_named = open.iter().all(|n| entry(self, *n).is_some_and(|(_, normal)| normal.is_named));
        let prunes = self.prune
            && members.iter().any(|n| {
                let spot = self.entries[*n].as_ref().and_then(|entry| entry.spot.as_ref());
                spot.is_some_and(|spot| spot.is_named)
            });
        let texts: Option<Vec<String>> = label_field.filter(|_| is_named && !prunes).map(|field| {
            let text = |n: &usize| Some(entry(self, *n)?.0.spec.get(*field)?.as_str()?.to_owned());
            let mut texts: Vec<String> = open.iter().filter_map(text).collect();
            texts.sort();
            texts.dedup();
            texts
        });
        if open.is_empty() && !prunes {
            return Ok(());
        }
        let place = spot.as_ref().map(|spot| (spot.field, spot.id.as_str()));
        let views = self.world.candidates(info, place, texts.as_deref()).await?;
        let taken: BTreeSet<String> = members
            .iter()
            .filter_map(|n| Some(self.entries[*n].as_ref()?.found.as_ref()?.id.clone()))
            .collect();
        let candidates: Vec<Actual> = views
            .into_iter()
            .filter(|view| !Actual::is_gone(view))
            .filter_map(|view| Actual::of(info, &fields, parent.as_ref(), view))
            .filter(|actual| !taken.contains(&actual.id) && is_there(info, actual, spot.as_ref()))
            .collect();
        let mut left: Vec<Option<Actual>> = candidates.into_iter().map(Some).collect();
        let (named, unnamed): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|n| entry(self, **n).is_some_and(|(_, normal)| normal.is_named));
        self.find_named(info, &named, &mut left);
        self.find_unnamed(info, &unnamed, spot.as_ref(), &mut left).await?;
        if let Some(spot) = spot.filter(|_| prunes) {
            let rest = left.into_iter().flatten().filter(|actual| !actual.is_the_platforms(info));
            self.doomed.extend(rest.map(|actual| Doomed { info, actual, spot: spot.clone() }));
        }
        Ok(())
    }

    async fn find_by_id(
        &mut self,
        n: usize,
        item: &Item,
        id: &str,
        spot: Option<&Spot>,
        parent: Option<&Resource>,
    ) -> anyhow::Result<()> {
        let info = item.info;
        let view = self.world.one(info, id).await?;
        let view = view.filter(|view| !Actual::is_gone(view));
        let Some(view) = view else {
            if matches!(info.id, IdPolicy::Prefixed(_) | IdPolicy::Uuid) {
                let reason = format!(
                    "there is no {} with the id {id:?}, and the platform chooses the ids of new ones",
                    info.dashed()
                );
                self.faults.add(item.fault("id", reason, "leave it out to make one"));
            }
            return Ok(());
        };
        let fields = self.fields.of(info);
        let Some(actual) = Actual::of(info, &fields, parent, (*view).clone()) else { return Ok(()) };
        let lies_in = spot.filter(|_| info.parent.is_some());
        let elsewhere = lies_in.zip(info.parent).and_then(|(spot, of)| {
            let is = actual.view.get(of.field)?.as_str()?;
            (is != spot.id).then(|| is.to_owned())
        });
        if let Some(elsewhere) = elsewhere {
            let reason = format!("{} lies in {elsewhere}, and cannot be moved", actual.label());
            self.faults.add(item.fault("in", reason, "name that, or leave out the id to make a new one"));
            return Ok(());
        }
        self.take(n, actual);
        Ok(())
    }

    /// Notes that an item means a resource.
    fn take(&mut self, n: usize, actual: Actual) {
        let Some(entry) = self.entries[n].as_mut() else { return };
        let compared = compare(entry.item.info, &entry.fields, &entry.body, &entry.normal, &actual);
        for fixed in &compared.fixed {
            let is = if entry.fields.is_secret(&fixed.field) {
                "it differs".to_owned()
            } else {
                let value =
                    |value: &Value| if value.is_null() { "none".to_owned() } else { output::cell(value) };
                format!("it is {:?} and the file says {:?}", value(&fixed.before), value(&fixed.after))
            };
            let remedy = format!("put it back, or delete the {} first", entry.item.info.dashed());
            self.faults.add(entry.item.fault(
                &format!("spec.{}", fixed.field),
                format!("cannot be changed: {is}"),
                remedy,
            ));
        }
        entry.compared = compared;
        entry.found = Some(actual);
    }

    /// Items with names: by these, and where several have one by what differs the least.
    fn find_named(&mut self, info: &KindInfo, members: &[usize], left: &mut [Option<Actual>]) {
        let mut names: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for n in members {
            let Some(entry) = &self.entries[*n] else { continue };
            names.entry(entry.normal.label.clone()).or_default().push(*n);
        }
        let mut bearers: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (place, actual) in left.iter().enumerate() {
            let Some(actual) = actual.as_ref().filter(|actual| !actual.is_the_platforms(info)) else {
                continue;
            };
            if actual.normal.is_none() && info.codes.update.is_none() {
                // Its view does not show what it is called by; nor can it have become different from what it was made as.
                names.keys().for_each(|name| bearers.entry(name.clone()).or_default().push(place));
            } else if names.contains_key(&actual.label()) {
                bearers.entry(actual.label()).or_default().push(place);
            }
        }
        for (name, items) in names {
            let Some(there) = bearers.get(&name) else { continue };
            let counts: Vec<Vec<Option<usize>>> = items
                .iter()
                .map(|n| there.iter().map(|place| self.count(info, *n, left[*place].as_ref())).collect())
                .collect();
            let found = pair(items.len(), there.len(), |item, one| counts[item][one]);
            let (open, candidates) = found.open;
            for item in open {
                let candidates: Vec<&Actual> =
                    candidates.iter().filter_map(|one| left[there[*one]].as_ref()).collect();
                self.refuse_ambiguous(items[item], "several have this name", &candidates);
            }
            for (item, one) in found.pairs {
                if let Some(actual) = left[there[one]].take() {
                    self.take(items[item], actual);
                }
            }
        }
    }

    /// In how many fields an item and a resource of its name differ; `None`: they cannot be one.
    fn count(&self, info: &KindInfo, n: usize, actual: Option<&Actual>) -> Option<usize> {
        let (entry, actual) = (self.entries[n].as_ref()?, actual?);
        let count = compare(info, &entry.fields, &entry.body, &entry.normal, actual).count();
        let shares_a_name = || {
            let own = actual.normal.as_ref().map(|normal| normal.uniques.as_slice()).unwrap_or_default();
            own.iter().any(|one| entry.normal.uniques.contains(one))
        };
        (count == 0 || info.codes.update.is_some() || shares_a_name()).then_some(count)
    }

    fn refuse_ambiguous(&mut self, n: usize, why: &str, candidates: &[&Actual]) {
        let Some(entry) = &self.entries[n] else { return };
        let lines: Vec<String> = candidates
            .iter()
            .take(LISTED)
            .map(|one| {
                let shown = |(field, value): (&String, &Value)| {
                    let is_told = entry.fields.is_created_with(field)
                        && !entry.fields.is_secret(field)
                        && !value.is_object();
                    is_told.then(|| format!("{field}={}", output::cell(value)))
                };
                let fields: Vec<String> = one.view.iter().filter_map(shown).collect();
                format!("\n    id: {}  ({})", one.id, fields.join(", "))
            })
            .collect();
        let more = if candidates.len() > LISTED { "\n    ..." } else { "" };
        let reason = format!("it cannot be told which one is meant: {why}");
        let remedy = format!(
            "give the id of the one that is meant, or make the others items too:{}{more}",
            lines.concat()
        );
        let fault: Fault = entry.item.fault("", reason, remedy);
        self.faults.add(fault);
    }
}

/// Whether a resource is in the place that items are in.
fn is_there(info: &KindInfo, actual: &Actual, spot: Option<&Spot>) -> bool {
    let owner = actual.normal.as_ref().and_then(|normal| normal.owner.as_ref());
    match (spot, info.parent) {
        (Some(spot), Some(of)) => actual.view.get(of.field).is_none_or(|id| id == spot.id.as_str()),
        (Some(spot), None) => match owner {
            Some(owner) => owner.field == spot.field && owner.id == spot.id,
            None => actual.view.get(spot.field).is_some_and(|id| id == spot.id.as_str()),
        },
        (None, _) => owner.is_none(),
    }
}
