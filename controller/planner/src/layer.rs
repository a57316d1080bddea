//! Changes in memory over a base: what reads see of both, and how changes are taken back.
//!
//! Two layers lie over a store: that of a plan ([`crate::overlay`]), over the transaction, and that of the transaction's changes that are
//! not written yet, over the database. What was read of the base once is not read again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;

use hosting_intent::{Audience, Key};
use hosting_resource::{Index, Kind, Resource, Unique};
use serde_json::Value;

use crate::undoable::Undoable;
use crate::{IntentRow, World, WorldError};

/// A unique name: kind, scope, key.
type Name = (Kind, String, String);

/// Where an intent stands.
type At = (Audience, Key);

/// A list of resources in ascending id order.
#[derive(Debug, Clone, Copy, Hash)]
pub enum List<'q> {
    /// What lies in a resource.
    Children {
        /// Of the list.
        kind: Kind,
        /// Its id.
        parent: &'q str,
    },
    /// What refers to a resource.
    Referrers {
        /// Of the list.
        kind: Kind,
        /// The field that refers.
        relation: &'q str,
        /// Its id.
        to: &'q str,
    },
    /// What has a value.
    Facet {
        /// Of the list.
        kind: Kind,
        /// The facet.
        field: &'q str,
        /// Its value.
        value: &'q str,
    },
    /// All of a kind.
    All {
        /// Of the list.
        kind: Kind,
    },
}

impl List<'_> {
    fn holds(self, resource: &Resource, index: &Index) -> bool {
        match self {
            Self::Children { kind, parent } => {
                resource.kind == kind && resource.parent.as_deref() == Some(parent)
            }
            Self::Referrers { kind, relation, to } => {
                resource.kind == kind && index.refs.iter().any(|one| one.relation == relation && one.to == to)
            }
            Self::Facet { kind, field, value } => {
                resource.kind == kind
                    && index.facets.iter().any(|one| one.field == field && one.value == value)
            }
            Self::All { kind } => resource.kind == kind,
        }
    }

    async fn page(self, base: &mut dyn World, after: &str, limit: u32) -> Result<Vec<Resource>, WorldError> {
        match self {
            Self::Children { kind, parent } => base.children(kind, parent, after, limit).await,
            Self::Referrers { kind, relation, to } => base.referrers(kind, relation, to, after, limit).await,
            Self::Facet { kind, field, value } => base.with_facet(kind, field, value, after, limit).await,
            Self::All { kind } => base.list(kind, after, limit).await,
        }
    }
}

/// About how many bytes a resource takes in memory.
fn weight(resource: &Resource) -> usize {
    fn of(value: &Value) -> usize {
        const NODE: usize = 64;
        NODE + match value {
            Value::String(text) => text.len(),
            Value::Array(values) => values.iter().map(of).sum(),
            Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + of(value)).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
    }
    let documents = resource.spec.iter().chain(&resource.state);
    size_of::<Resource>() + documents.map(|(name, value)| name.len() + of(value)).sum::<usize>()
}

/// What [`Layer::put`] notes a resource under, so that a list need not go over everything that was put.
fn place(place: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    place.hash(&mut hasher);
    hasher.finish()
}

/// Where a resource is noted that uses another one: lies in it or refers to it.
#[derive(Hash)]
struct Uses<'i>(&'i str);

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    /// Resources as they are now, by id: read or put; `None` for what is known not to be there.
    resources: Undoable<String, Option<Resource>>,
    /// Of those, what was put, with the index rows that it has now.
    put: Undoable<String, Index>,
    /// Resources that were removed, with their kinds.
    removed: Undoable<String, Kind>,
    /// Who holds the names that were put.
    names: Undoable<Name, String>,
    /// Changed rows: as they are now, `None` for withdrawn.
    rows: Undoable<At, Option<IntentRow>>,
    /// Counters that were set.
    counters: Undoable<String, u64>,
    /// About how many bytes of resources were put or read.
    weight: usize,
    /// Ids that the base has nothing under.
    absent: BTreeSet<String>,
    /// Counters of the base.
    base_counters: BTreeMap<String, u64>,
    /// Who holds names in the base; empty for nobody.
    holders: BTreeMap<Name, String>,
    /// Rows of the base; `None` where it has none.
    base_rows: BTreeMap<At, Option<IntentRow>>,
    /// Owners all of whose rows of the base were read.
    owners: BTreeSet<String>,
    /// Ids of resources that were put, by the hash of each list that they were in then.
    listed: HashMap<u64, Vec<String>>,
    /// Rows by whoever owned them at any time.
    owned: BTreeMap<String, BTreeSet<At>>,
}

impl Layer {
    /// Changes so far stay; those from now on can be taken back.
    pub fn keep(&mut self) {
        self.resources.before.clear();
        self.put.before.clear();
        self.removed.before.clear();
        self.names.before.clear();
        self.rows.before.clear();
        self.counters.before.clear();
    }

    /// Takes back what was changed since [`Layer::keep`].
    pub fn undo(&mut self) {
        self.resources.undo();
        self.put.undo();
        self.removed.undo();
        self.names.undo();
        self.rows.undo();
        self.counters.undo();
    }

    /// Whether anything was changed since [`Layer::keep`].
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        // Every change of a resource is one of `resources`.
        !(self.resources.before.is_empty() && self.rows.before.is_empty() && self.counters.before.is_empty())
    }

    /// The base has the changes now. Resources stay known as long as all that ever became known since the last time that they were
    /// forgotten has at most about `most` bytes.
    pub fn rebase(&mut self, most: usize) {
        let mut resources = std::mem::take(&mut self.resources.map);
        let weight = self.weight;
        *self = Self::default();
        if weight <= most {
            resources.retain(|_, resource| resource.is_some());
            self.resources.map = resources;
            self.weight = weight;
        }
    }

    fn learn(&mut self, resource: Resource) {
        if !self.resources.map.contains_key(&resource.id) {
            self.weight += weight(&resource);
            self.resources.learn(resource.id.clone(), Some(resource));
        }
    }

    /// Resources that were put, with their index rows.
    pub fn put_resources(&self) -> impl Iterator<Item = (&Resource, &Index)> {
        self.put.map.iter().filter_map(|(id, index)| Some((self.known(id)??, index)))
    }

    /// Resources that were put or removed since [`Layer::keep`]: as they were then, and as they are now. A resource that was put
    /// without having been read counts as one that was not there.
    pub fn changed_resources(&self) -> impl Iterator<Item = (Option<&Resource>, Option<&Resource>)> {
        self.resources
            .changes()
            .map(|(_, before, now)| (before.and_then(Option::as_ref), now.and_then(Option::as_ref)))
    }

    /// Rows that were set or withdrawn since [`Layer::keep`]: where, as they were then, and as they are now.
    pub fn newly_changed_rows(
        &self,
    ) -> impl Iterator<Item = (&Audience, &Key, Option<&IntentRow>, Option<&IntentRow>)> {
        self.rows.changes().map(|(at, before, now)| {
            let before = before.or_else(|| self.base_rows.get(at));
            (&at.0, &at.1, before.and_then(Option::as_ref), now.and_then(Option::as_ref))
        })
    }

    /// Ids and kinds of resources that were removed.
    pub fn removed(&self) -> impl Iterator<Item = (&str, Kind)> {
        self.removed.map.iter().map(|(id, kind)| (id.as_str(), *kind))
    }

    /// The kind of a resource that was removed.
    #[must_use]
    pub fn removed_kind(&self, id: &str) -> Option<Kind> {
        self.removed.map.get(id).copied()
    }

    /// Rows that were changed, as they are now; `None` for withdrawn.
    pub fn changed_rows(&self) -> impl Iterator<Item = (&Audience, &Key, Option<&IntentRow>)> {
        self.rows.map.iter().map(|((audience, key), row)| (audience, key, row.as_ref()))
    }

    /// Counters that were set.
    pub fn counters(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counters.map.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// Whether a resource was put or removed: the base's word of it does not count.
    #[must_use]
    pub fn touches(&self, id: &str) -> bool {
        self.put.map.contains_key(id) || self.removed.map.contains_key(id)
    }

    /// How many resources were put or removed.
    #[must_use]
    pub fn touched(&self) -> usize {
        self.put.map.len() + self.removed.map.len()
    }

    /// How many resources, rows and counters were changed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.touched() + self.rows.map.len() + self.counters.map.len()
    }

    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the base may have a row for a resource.
    #[must_use]
    pub fn base_may_have(&self, id: &str) -> bool {
        !self.absent.contains(id)
    }

    /// The resource, as far as it is known without reading.
    #[must_use]
    pub fn known(&self, id: &str) -> Option<Option<&Resource>> {
        self.resources.map.get(id).map(Option::as_ref)
    }

    /// The index rows of a resource, if it was put.
    #[must_use]
    pub fn index_of(&self, id: &str) -> Option<&Index> {
        self.put.map.get(id)
    }

    /// A resource that was put and lies in this one or refers to it.
    #[must_use]
    pub fn user_of(&self, id: &str) -> Option<&Resource> {
        let uses = |resource: &&Resource| {
            resource.parent.as_deref() == Some(id)
                || self.index_of(&resource.id).is_some_and(|index| index.refs.iter().any(|one| one.to == id))
        };
        let candidates = self.listed.get(&place(Uses(id)))?;
        candidates
            .iter()
            .filter(|user| self.put.map.contains_key(*user))
            .find_map(|user| self.known(user).flatten().filter(uses))
    }

    /// Puts a resource. It holds only those names that [`Layer::name`] gives it from then on.
    pub fn put(&mut self, resource: Resource, index: Index) {
        self.unname(&resource.id, resource.kind);
        self.removed.remove(&resource.id);
        let kind = resource.kind;
        let mut places = Vec::with_capacity(2 + 2 * index.refs.len() + index.facets.len());
        if let Some(parent) = &resource.parent {
            places.extend([place(List::Children { kind, parent }), place(Uses(parent))]);
        }
        for one in &index.refs {
            let to = one.to.as_str();
            places.extend([place(List::Referrers { kind, relation: one.relation, to }), place(Uses(to))]);
        }
        for one in &index.facets {
            places.push(place(List::Facet { kind, field: one.field, value: &one.value }));
        }
        for place in places {
            self.listed.entry(place).or_default().push(resource.id.clone());
        }
        self.put.insert(resource.id.clone(), index);
        self.weight += weight(&resource);
        self.resources.insert(resource.id.clone(), Some(resource));
    }

    /// Whether a resource that was put holds a name.
    #[must_use]
    pub fn is_named(&self, kind: Kind, unique: &Unique) -> bool {
        self.names.map.contains_key(&(kind, unique.scope.clone(), unique.key.clone()))
    }

    /// Gives a resource that was put a name that nobody holds.
    pub fn name(&mut self, kind: Kind, unique: &Unique, id: &str) {
        self.names.insert((kind, unique.scope.clone(), unique.key.clone()), id.to_owned());
    }

    /// Takes a resource away.
    pub fn remove(&mut self, id: &str, kind: Kind) {
        self.unname(id, kind);
        self.put.remove(&id.to_owned());
        // A row that a change here made may be on neither list: removing what is not there changes nothing.
        self.removed.insert(id.to_owned(), kind);
        self.resources.insert(id.to_owned(), None);
    }

    fn unname(&mut self, id: &str, kind: Kind) {
        let Some(index) = self.put.map.get(id) else { return };
        let names: Vec<Name> = index
            .uniques
            .iter()
            .map(|unique| (kind, unique.scope.clone(), unique.key.clone()))
            .filter(|name| self.names.map.get(name).is_some_and(|holder| holder == id))
            .collect();
        for name in names {
            self.names.remove(&name);
        }
    }

    /// Sets a row, or withdraws it.
    pub fn set_row(&mut self, audience: Audience, key: Key, row: Option<IntentRow>) {
        let at = (audience, key);
        if let Some(row) = &row {
            self.note_owner(&row.owner, &at);
        }
        self.rows.insert(at, row);
    }

    /// A changed row, `None` within for withdrawn.
    #[must_use]
    pub fn changed_row(&self, audience: &Audience, key: &Key) -> Option<Option<&IntentRow>> {
        self.rows.map.get(&(audience.clone(), key.clone())).map(Option::as_ref)
    }

    /// The row, as far as it is known without reading; `None` within where there is none.
    #[must_use]
    pub fn known_row(&self, audience: &Audience, key: &Key) -> Option<Option<&IntentRow>> {
        let at = (audience.clone(), key.clone());
        self.rows.map.get(&at).or_else(|| self.base_rows.get(&at)).map(Option::as_ref)
    }

    /// Notes what the base has under a key.
    pub fn learn_row(&mut self, audience: &Audience, key: &Key, row: Option<IntentRow>) {
        let at = (audience.clone(), key.clone());
        if let Some(row) = &row {
            self.note_owner(&row.owner, &at);
        }
        self.base_rows.entry(at).or_insert(row);
    }

    fn note_owner(&mut self, owner: &str, at: &At) {
        match self.owned.get_mut(owner) {
            Some(rows) => {
                rows.insert(at.clone());
            }
            None => {
                self.owned.insert(owner.to_owned(), BTreeSet::from([at.clone()]));
            }
        }
    }

    /// Sets a counter.
    pub fn set_counter(&mut self, name: &str, value: u64) {
        self.counters.insert(name.to_owned(), value);
    }

    /// Reads the resources that are not known yet, all at once.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub async fn fetch(&mut self, base: &mut dyn World, ids: &[String]) -> Result<(), WorldError> {
        let unknown: BTreeSet<&String> = ids.iter().filter(|id| self.known(id).is_none()).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let unknown: Vec<String> = unknown.into_iter().cloned().collect();
        let found = base.resources(&unknown).await?;
        for resource in found {
            self.learn(resource);
        }
        for id in unknown {
            if self.known(&id).is_none() {
                self.absent.insert(id.clone());
                self.resources.learn(id, None);
            }
        }
        Ok(())
    }

    /// [`World::resource`].
    ///
    /// # Errors
    /// When the base cannot be read.
    pub async fn resource(&mut self, base: &mut dyn World, id: &str) -> Result<Option<Resource>, WorldError> {
        if let Some(known) = self.known(id) {
            return Ok(known.cloned());
        }
        let read = base.resource(id).await?;
        match &read {
            Some(resource) => self.learn(resource.clone()),
            None => {
                self.absent.insert(id.to_owned());
                self.resources.learn(id.to_owned(), None);
            }
        }
        Ok(read)
    }

    /// [`World::resources`].
    ///
    /// # Errors
    /// When the base cannot be read.
    pub async fn resources(
        &mut self,
        base: &mut dyn World,
        ids: &[String],
    ) -> Result<Vec<Resource>, WorldError> {
        self.fetch(base, ids).await?;
        Ok(ids.iter().filter_map(|id| self.known(id).flatten().cloned()).collect())
    }

    /// One of the lists of [`World`].
    ///
    /// # Errors
    /// When the base cannot be read.
    pub async fn list(
        &mut self,
        base: &mut dyn World,
        list: List<'_>,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        let wanted = limit as usize;
        let mut found = Vec::new();
        let mut after = after.to_owned();
        loop {
            let page = list.page(base, &after, limit).await?;
            let end = if page.len() < wanted { None } else { page.last().map(|last| last.id.clone()) };
            let in_page = |id: &str| id > after.as_str() && end.as_deref().is_none_or(|end| id <= end);
            let mut merged: BTreeMap<&str, &Resource> =
                page.iter().filter(|row| !self.touches(&row.id)).map(|row| (row.id.as_str(), row)).collect();
            let candidates: Box<dyn Iterator<Item = &String> + Send> = match list {
                List::All { .. } => Box::new(self.put.map.keys()),
                List::Children { .. } | List::Referrers { .. } | List::Facet { .. } => {
                    Box::new(self.listed.get(&place(list)).into_iter().flatten())
                }
            };
            for id in candidates.filter(|id| in_page(id)) {
                if let (Some(index), Some(Some(resource))) = (self.put.map.get(id), self.known(id))
                    && list.holds(resource, index)
                {
                    merged.insert(id, resource);
                }
            }
            found.extend(merged.into_values().cloned());
            for row in page {
                self.learn(row);
            }
            if found.len() >= wanted {
                found.truncate(wanted);
                return Ok(found);
            }
            match end {
                Some(end) => after = end,
                None => return Ok(found),
            }
        }
    }

    /// [`World::holders`].
    ///
    /// # Errors
    /// When the base cannot be read.
    pub async fn holders(
        &mut self,
        base: &mut dyn World,
        kind: Kind,
        scope: &str,
        keys: &[String],
    ) -> Result<Vec<(String, Resource)>, WorldError> {
        let name = |key: &str| (kind, scope.to_owned(), key.to_owned());
        let unknown: BTreeSet<&String> = keys
            .iter()
            .filter(|key| {
                let name = name(key);
                !self.names.map.contains_key(&name) && !self.holders.contains_key(&name)
            })
            .collect();
        let unknown: Vec<String> = unknown.into_iter().cloned().collect();
        let read = match unknown.as_slice() {
            [] => Vec::new(),
            [one] => {
                let holder = base.holder(kind, scope, one).await?;
                holder.map(|holder| (one.clone(), holder)).into_iter().collect()
            }
            several => base.holders(kind, scope, several).await?,
        };
        self.holders.extend(unknown.iter().map(|key| (name(key), String::new())));
        for (key, holder) in read {
            self.holders.insert(name(&key), holder.id.clone());
            self.learn(holder);
        }
        let holders = keys.iter().filter_map(|key| {
            let name = name(key);
            let id = match self.names.map.get(&name) {
                Some(id) => id,
                // What was put since has its names in `names`, and holds no others.
                None => self.holders.get(&name).filter(|id| !self.touches(id))?,
            };
            Some((key.clone(), self.known(id)??.clone()))
        });
        Ok(holders.collect())
    }

    /// Reads the rows of owners, all at once.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub async fn fetch_owned(&mut self, base: &mut dyn World, owners: &[String]) -> Result<(), WorldError> {
        let unknown: Vec<String> =
            owners.iter().filter(|owner| !self.owners.contains(*owner)).cloned().collect();
        let rows = match unknown.as_slice() {
            [] => return Ok(()),
            [one] => base.owned(one).await?,
            several => base.owned_by(several).await?,
        };
        self.owners.extend(unknown);
        for row in rows {
            let (audience, key) = (row.audience.clone(), row.key.clone());
            self.learn_row(&audience, &key, Some(row));
        }
        Ok(())
    }

    /// [`World::owned_by`].
    ///
    /// # Errors
    /// When the base cannot be read.
    pub async fn owned_by(
        &mut self,
        base: &mut dyn World,
        owners: &[String],
    ) -> Result<Vec<IntentRow>, WorldError> {
        self.fetch_owned(base, owners).await?;
        let mut rows: Vec<IntentRow> = owners.iter().flat_map(|owner| self.rows_of(owner)).cloned().collect();
        rows.sort_by(|a, b| (&a.audience, &a.key).cmp(&(&b.audience, &b.key)));
        Ok(rows)
    }

    /// [`World::owned`].
    ///
    /// # Errors
    /// When the base cannot be read.
    pub async fn owned(&mut self, base: &mut dyn World, owner: &str) -> Result<Vec<IntentRow>, WorldError> {
        self.fetch_owned(base, &[owner.to_owned()]).await?;
        Ok(self.rows_of(owner).cloned().collect())
    }

    fn rows_of(&self, owner: &str) -> impl Iterator<Item = &IntentRow> {
        let places = self.owned.get(owner).into_iter().flatten();
        places
            .filter_map(|at| self.rows.map.get(at).or_else(|| self.base_rows.get(at))?.as_ref())
            .filter(move |row| row.owner == owner)
    }

    /// [`World::intent`].
    ///
    /// # Errors
    /// When the base cannot be read.
    pub async fn intent(
        &mut self,
        base: &mut dyn World,
        audience: &Audience,
        key: &Key,
    ) -> Result<Option<IntentRow>, WorldError> {
        if let Some(known) = self.known_row(audience, key) {
            return Ok(known.cloned());
        }
        let row = base.intent(audience, key).await?;
        self.learn_row(audience, key, row.clone());
        Ok(row)
    }

    /// [`World::counter`].
    ///
    /// # Errors
    /// When the base cannot be read.
    pub async fn counter(&mut self, base: &mut dyn World, name: &str) -> Result<u64, WorldError> {
        if let Some(value) = self.counters.map.get(name).or_else(|| self.base_counters.get(name)) {
            return Ok(*value);
        }
        let value = base.counter(name).await?;
        self.base_counters.insert(name.to_owned(), value);
        Ok(value)
    }

    /// [`World::audience_rows`].
    ///
    /// # Errors
    /// When the base cannot be read.
    pub async fn audience_rows(
        &mut self,
        base: &mut dyn World,
        audience: &Audience,
        after: Option<&Key>,
        limit: u32,
    ) -> Result<Vec<IntentRow>, WorldError> {
        let wanted = limit as usize;
        let mut found = Vec::new();
        let mut after = after.cloned();
        loop {
            let page = base.audience_rows(audience, after.as_ref(), limit).await?;
            let end = if page.len() < wanted { None } else { page.last().map(|last| last.key.clone()) };
            let mut merged: BTreeMap<Key, Option<IntentRow>> =
                page.into_iter().map(|row| (row.key.clone(), Some(row))).collect();
            let first = match &after {
                Some(after) => Bound::Excluded((audience.clone(), after.clone())),
                None => Bound::Included((audience.clone(), Key { kind: 0, name: String::new() })),
            };
            let changed = self
                .rows
                .map
                .range((first, Bound::Unbounded))
                .take_while(|((of, key), _)| of == audience && end.as_ref().is_none_or(|end| key <= end));
            merged.extend(changed.map(|((_, key), row)| (key.clone(), row.clone())));
            found.extend(merged.into_values().flatten());
            if found.len() >= wanted {
                found.truncate(wanted);
                return Ok(found);
            }
            match end {
                Some(end) => after = Some(end),
                None => return Ok(found),
            }
        }
    }
}
