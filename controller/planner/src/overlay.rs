//! A mutation in memory: reads see what it has put so far, and one [`Change`] comes of it at the end.
//!
//! What was read once is not read again. Nothing is written before [`Overlay::write`], but for keys: they are of no revision, and go
//! with the mutation when that is given up.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use hosting_intent::{Audience, Bytes, Key};
use hosting_resource::{Index, Kind, PlainSecrets, Resource, SecretPlace, ShapeError};

use crate::{
    Admitted, ApplyError, Change, Draft, IntentChange, IntentRow, KeyShare, PlanError, SealFor, SealedFor,
    Unit, World, WorldError,
};

/// A unique name: kind, scope, key.
type Name = (Kind, String, String);

pub(crate) struct Overlay<'d> {
    base: &'d mut dyn Draft,
    revision: u64,
    now: i64,
    traceparent: String,
    by_admin: bool,
    /// Resources as they are now, by id: read or put; `None` for what is known not to be there.
    resources: BTreeMap<String, Option<Resource>>,
    /// Of those, what was put, with the index rows that it has now.
    put: BTreeMap<String, Index>,
    /// Rows to remove, with their kinds.
    removed: BTreeMap<String, Kind>,
    /// Who holds the names that were put.
    names: BTreeMap<Name, String>,
    /// Who holds the names that were read; empty for nobody.
    holders: BTreeMap<Name, String>,
    /// Rows of the store by their owner.
    owned: BTreeMap<String, Vec<IntentRow>>,
    /// Changed rows by audience and key: as they are now, `None` for withdrawn.
    rows: BTreeMap<(Audience, Key), Option<IntentRow>>,
    counters: BTreeMap<String, u64>,
    intents: Vec<IntentChange>,
    replan: Vec<Unit>,
    replanned: Vec<Unit>,
    /// Audiences that got their first key in this mutation.
    keyed: BTreeSet<Audience>,
}

/// A list of resources in ascending id order.
#[derive(Debug, Clone, Copy)]
enum List<'q> {
    Children { kind: Kind, parent: &'q str },
    Referrers { kind: Kind, relation: &'q str, to: &'q str },
    Facet { kind: Kind, field: &'q str, value: &'q str },
    All { kind: Kind },
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
}

impl<'d> Overlay<'d> {
    pub(crate) fn new(base: &'d mut dyn Draft) -> Self {
        Self {
            revision: base.revision(),
            now: base.now(),
            traceparent: base.traceparent().to_owned(),
            by_admin: base.by_admin(),
            base,
            resources: BTreeMap::new(),
            put: BTreeMap::new(),
            removed: BTreeMap::new(),
            names: BTreeMap::new(),
            holders: BTreeMap::new(),
            owned: BTreeMap::new(),
            rows: BTreeMap::new(),
            counters: BTreeMap::new(),
            intents: Vec::new(),
            replan: Vec::new(),
            replanned: Vec::new(),
            keyed: BTreeSet::new(),
        }
    }

    /// The revision that the mutation commits at.
    pub(crate) const fn revision(&self) -> u64 {
        self.revision
    }

    /// Milliseconds since the Unix epoch, the same for the whole mutation.
    pub(crate) const fn now(&self) -> i64 {
        self.now
    }

    /// W3C traceparent of the request behind the mutation; empty when there is none.
    pub(crate) fn traceparent(&self) -> &str {
        &self.traceparent
    }

    /// Whether a platform admin's key asked for it.
    pub(crate) const fn by_admin(&self) -> bool {
        self.by_admin
    }

    /// Puts a resource.
    pub(crate) async fn put(&mut self, resource: Resource) -> Result<(), PlanError> {
        if resource.has_unsealed_secret() {
            let problem = "a secret of it is not sealed".to_owned();
            return Err(ShapeError::Unreadable { id: resource.id, problem }.into());
        }
        let index = resource.index();
        let before = match self.put.get(&resource.id) {
            Some(before) => Some(before.clone()),
            None => self.resource(&resource.id).await?.map(|before| before.index()),
        };
        let before = before.unwrap_or_default();
        for unique in &index.uniques {
            if before.uniques.contains(unique) {
                continue;
            }
            let holder = self.holder(resource.kind, &unique.scope, &unique.key).await?;
            if holder.is_some_and(|holder| holder.id != resource.id) {
                let taken =
                    ApplyError::Taken { kind: resource.kind, field: unique.field, key: unique.key.clone() };
                return Err(taken.into());
            }
        }
        let name =
            |unique: &hosting_resource::Unique| (resource.kind, unique.scope.clone(), unique.key.clone());
        for unique in &before.uniques {
            self.names.remove(&name(unique));
        }
        self.names.extend(index.uniques.iter().map(|unique| (name(unique), resource.id.clone())));
        self.removed.remove(&resource.id);
        self.put.insert(resource.id.clone(), index);
        self.resources.insert(resource.id.clone(), Some(resource));
        Ok(())
    }

    /// Takes a resource's row away.
    pub(crate) fn remove(&mut self, resource: &Resource) {
        if let Some(index) = self.put.remove(&resource.id) {
            for unique in index.uniques {
                self.names.remove(&(resource.kind, unique.scope, unique.key));
            }
        }
        // A row that this mutation made may be on neither list: removing what is not there changes nothing.
        self.removed.insert(resource.id.clone(), resource.kind);
        self.resources.insert(resource.id.clone(), None);
    }

    pub(crate) fn set_counter(&mut self, name: &str, value: u64) {
        self.counters.insert(name.to_owned(), value);
    }

    /// Seals the new secrets of a resource, which is about to be put, for where they stand in it.
    pub(crate) async fn seal(
        &mut self,
        resource: &mut Resource,
        plain: &PlainSecrets,
    ) -> Result<(), PlanError> {
        for (path, text) in plain.iter() {
            let sealed = self.base.seal(&SecretPlace::of(resource, path), text).await?;
            if !resource.put_sealed(path, &sealed) {
                let problem = format!("there is no secret at {path}");
                return Err(ShapeError::Unreadable { id: resource.id.clone(), problem }.into());
            }
        }
        Ok(())
    }

    /// See [`Draft::admit_reader`].
    pub(crate) async fn admit_reader(
        &mut self,
        audience: &Audience,
        node: &str,
        sealing_key: &[u8; 32],
    ) -> Result<Admitted, PlanError> {
        Ok(self.base.admit_reader(audience, node, sealing_key).await?)
    }

    /// See [`Draft::expel_reader`].
    pub(crate) async fn expel_reader(&mut self, audience: &Audience, node: &str) -> Result<bool, PlanError> {
        Ok(self.base.expel_reader(audience, node).await?)
    }

    /// Audiences that got their first key since the last call.
    pub(crate) fn take_keyed(&mut self) -> BTreeSet<Audience> {
        std::mem::take(&mut self.keyed)
    }

    /// Puts a unit on the replan queue.
    pub(crate) fn enqueue(&mut self, unit: Unit) {
        self.replan.push(unit);
    }

    /// Takes a unit off the replan queue.
    pub(crate) fn dequeue(&mut self, unit: Unit) {
        self.replanned.push(unit);
    }

    /// Sets or withdraws an intent. A withdrawal counts only while its owner still owns the row.
    pub(crate) fn intend(&mut self, change: IntentChange) {
        let at = (change.audience.clone(), change.key.clone());
        let row = match &change.value {
            None => {
                let taken_over =
                    self.rows.get(&at).and_then(Option::as_ref).is_some_and(|row| row.owner != change.owner);
                if taken_over {
                    return;
                }
                None
            }
            Some(value) => Some(IntentRow {
                audience: change.audience.clone(),
                key: change.key.clone(),
                revision: self.revision,
                owner: change.owner.clone(),
                value: value.clone(),
            }),
        };
        self.rows.insert(at, row);
        self.intents.push(change);
    }

    /// Reads the rows of units that are about to be planned, all at once.
    pub(crate) async fn prefetch_owned(&mut self, owners: &[String]) -> Result<(), PlanError> {
        let wanted: Vec<String> =
            owners.iter().filter(|owner| !self.owned.contains_key(*owner)).cloned().collect();
        if wanted.len() < 2 {
            return Ok(());
        }
        let rows = self.base.owned_by(&wanted).await?;
        self.owned.extend(wanted.into_iter().map(|owner| (owner, Vec::new())));
        for row in rows {
            self.owned.entry(row.owner.clone()).or_default().push(row);
        }
        Ok(())
    }

    /// Writes what came of it, if anything did.
    pub(crate) async fn write(self) -> Result<Written, PlanError> {
        let Self { base, mut resources, put, removed, counters, intents, replan, replanned, .. } = self;
        let change = Change {
            put: put.keys().filter_map(|id| resources.get(id).cloned().flatten()).collect(),
            remove: removed.keys().cloned().collect(),
            intents,
            counters: counters.into_iter().collect(),
            replan,
            replanned,
        };
        if change != Change::default() {
            base.apply(change).await.map_err(|error| match error {
                ApplyError::InUse { id, kind: by_kind, by } => match removed.get(&id) {
                    Some(kind) => PlanError::InUse { kind: *kind, id, by_kind, by },
                    None => ApplyError::InUse { id, kind: by_kind, by }.into(),
                },
                ApplyError::Taken { .. }
                | ApplyError::NoSuch { .. }
                | ApplyError::TooLarge(_)
                | ApplyError::World(_) => error.into(),
            })?;
        }
        resources.retain(|id, _| put.contains_key(id));
        Ok(Written { resources })
    }

    /// The resource, as far as it is known without reading.
    fn known(&self, id: &str) -> Option<Option<&Resource>> {
        self.resources.get(id).map(Option::as_ref)
    }

    async fn list(&mut self, list: List<'_>, after: &str, limit: u32) -> Result<Vec<Resource>, WorldError> {
        let wanted = limit as usize;
        let mut found = Vec::new();
        let mut after = after.to_owned();
        loop {
            let page = match list {
                List::Children { kind, parent } => self.base.children(kind, parent, &after, limit).await?,
                List::Referrers { kind, relation, to } => {
                    self.base.referrers(kind, relation, to, &after, limit).await?
                }
                List::Facet { kind, field, value } => {
                    self.base.with_facet(kind, field, value, &after, limit).await?
                }
                List::All { kind } => self.base.list(kind, &after, limit).await?,
            };
            let end = if page.len() < wanted { None } else { page.last().map(|last| last.id.clone()) };
            let in_page = |id: &str| id > after.as_str() && end.as_deref().is_none_or(|end| id <= end);
            let mut merged: BTreeMap<&str, &Resource> = page
                .iter()
                .filter(|row| !self.put.contains_key(&row.id) && !self.removed.contains_key(&row.id))
                .map(|row| (row.id.as_str(), row))
                .collect();
            for (id, index) in self.put.iter().filter(|(id, _)| in_page(id)) {
                if let Some(Some(resource)) = self.known(id)
                    && list.holds(resource, index)
                {
                    merged.insert(id, resource);
                }
            }
            found.extend(merged.into_values().cloned());
            for row in page {
                self.resources.entry(row.id.clone()).or_insert(Some(row));
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
}

/// What a mutation put, as it is stored.
#[derive(Debug)]
pub(crate) struct Written {
    resources: BTreeMap<String, Option<Resource>>,
}

impl Written {
    /// The resource, if it was put.
    pub(crate) fn take(&mut self, id: &str) -> Option<Resource> {
        self.resources.remove(id).flatten()
    }
}

#[async_trait]
impl World for Overlay<'_> {
    async fn resource(&mut self, id: &str) -> Result<Option<Resource>, WorldError> {
        if let Some(known) = self.known(id) {
            return Ok(known.cloned());
        }
        let read = self.base.resource(id).await?;
        self.resources.insert(id.to_owned(), read.clone());
        Ok(read)
    }

    async fn children(
        &mut self,
        kind: Kind,
        parent: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        Overlay::list(self, List::Children { kind, parent }, after, limit).await
    }

    async fn holder(&mut self, kind: Kind, scope: &str, key: &str) -> Result<Option<Resource>, WorldError> {
        Ok(self.holders(kind, scope, &[key.to_owned()]).await?.pop())
    }

    async fn holders(
        &mut self,
        kind: Kind,
        scope: &str,
        keys: &[String],
    ) -> Result<Vec<Resource>, WorldError> {
        let name = |key: &str| (kind, scope.to_owned(), key.to_owned());
        let unknown: BTreeSet<String> = keys
            .iter()
            .filter(|key| {
                let name = name(key);
                !self.names.contains_key(&name) && !self.holders.contains_key(&name)
            })
            .cloned()
            .collect();
        if !unknown.is_empty() {
            let unknown: Vec<String> = unknown.into_iter().collect();
            let read = match unknown.as_slice() {
                [one] => self.base.holder(kind, scope, one).await?.into_iter().collect(),
                several => self.base.holders(kind, scope, several).await?,
            };
            self.holders.extend(unknown.iter().map(|key| (name(key), String::new())));
            for holder in read {
                for unique in holder.index().uniques {
                    if unique.scope == scope {
                        self.holders.insert(name(&unique.key), holder.id.clone());
                    }
                }
                self.resources.entry(holder.id.clone()).or_insert(Some(holder));
            }
        }
        let mut found = Vec::new();
        for key in keys {
            let name = name(key);
            let id = match self.names.get(&name) {
                Some(id) => id,
                // What was put since has its names in `names`, and holds no others.
                None => match self.holders.get(&name) {
                    Some(id) if !self.put.contains_key(id) && !self.removed.contains_key(id) => id,
                    Some(_) | None => continue,
                },
            };
            found.extend(self.known(id).flatten().cloned());
        }
        Ok(found)
    }

    async fn referrers(
        &mut self,
        kind: Kind,
        relation: &str,
        to: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        Overlay::list(self, List::Referrers { kind, relation, to }, after, limit).await
    }

    async fn with_facet(
        &mut self,
        kind: Kind,
        field: &str,
        value: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        Overlay::list(self, List::Facet { kind, field, value }, after, limit).await
    }

    async fn owned(&mut self, owner: &str) -> Result<Vec<IntentRow>, WorldError> {
        if !self.owned.contains_key(owner) {
            let rows = self.base.owned(owner).await?;
            self.owned.insert(owner.to_owned(), rows);
        }
        let stored = self.owned.get(owner).map(Vec::as_slice).unwrap_or_default();
        let at = |row: &IntentRow| (row.audience.clone(), row.key.clone());
        let mut rows: Vec<IntentRow> =
            stored.iter().filter(|row| !self.rows.contains_key(&at(row))).cloned().collect();
        rows.extend(self.rows.values().flatten().filter(|row| row.owner == owner).cloned());
        rows.sort_by(|a, b| (&a.audience, &a.key).cmp(&(&b.audience, &b.key)));
        Ok(rows)
    }

    async fn intent(&mut self, audience: &Audience, key: &Key) -> Result<Option<IntentRow>, WorldError> {
        match self.rows.get(&(audience.clone(), key.clone())) {
            Some(row) => Ok(row.clone()),
            None => self.base.intent(audience, key).await,
        }
    }

    /// Rows that the mutation added are not among them: whoever goes over an audience plans what is stored there.
    async fn audience_rows(
        &mut self,
        audience: &Audience,
        after: Option<&Key>,
        limit: u32,
    ) -> Result<Vec<IntentRow>, WorldError> {
        self.base.audience_rows(audience, after, limit).await
    }

    async fn counter(&mut self, name: &str) -> Result<u64, WorldError> {
        match self.counters.get(name) {
            Some(value) => Ok(*value),
            None => self.base.counter(name).await,
        }
    }

    async fn list(&mut self, kind: Kind, after: &str, limit: u32) -> Result<Vec<Resource>, WorldError> {
        Overlay::list(self, List::All { kind }, after, limit).await
    }

    /// As it is stored: what the mutation queues is for the next one.
    async fn queued(&mut self, limit: u32) -> Result<Vec<Unit>, WorldError> {
        self.base.queued(limit).await
    }

    async fn trust_roots(&mut self) -> Result<Vec<Bytes>, WorldError> {
        self.base.trust_roots().await
    }

    async fn seal_for(&mut self, wanted: SealFor<'_>) -> Result<Option<SealedFor>, WorldError> {
        let sealed = self.base.seal_for(wanted).await?;
        if sealed.as_ref().is_some_and(|sealed| sealed.is_first) {
            self.keyed.insert(wanted.audience.clone());
        }
        Ok(sealed)
    }

    async fn key_shares(&mut self, audience: &Audience) -> Result<Vec<KeyShare>, WorldError> {
        self.base.key_shares(audience).await
    }
}
