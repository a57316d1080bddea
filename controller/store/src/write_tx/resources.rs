//! Resources of a change: their documents, and the rows that are kept beside them.

use std::collections::{BTreeMap, BTreeSet};

use hosting_planner::ApplyError;
use hosting_resource::{Index, Kind, Ref, Resource, Status};
use serde_json::{Map, Value};

use super::{Pending, WriteTx};
use crate::batch;
use crate::error::{to_bound, to_sql};
use crate::sql::QueryBuilder;
use crate::{ReadTx, StoreError};

/// Most references of one resource to another one, with its place in it.
const REFS_TO_ONE: usize = 8;

/// How many resources of each kind, brand (empty for none) and status there are more or fewer.
pub(super) type Counts = BTreeMap<(Kind, String, Status), i64>;

/// A resource that a change puts.
struct Put {
    resource: Resource,
    old: Option<Resource>,
    index: Index,
    old_index: Index,
}

/// Index rows without their id: (kind, scope, key), (kind, relation, target), (kind, field, value).
#[derive(Debug, Default)]
struct StoredIndex {
    uniques: BTreeSet<[String; 3]>,
    refs: BTreeSet<[String; 3]>,
    facets: BTreeSet<[String; 3]>,
}

impl StoredIndex {
    fn of(kind: Kind, index: &Index) -> Self {
        let row = |one: &str, two: &str| [kind.name().to_owned(), one.to_owned(), two.to_owned()];
        Self {
            uniques: index.uniques.iter().map(|unique| row(&unique.scope, &unique.key)).collect(),
            refs: index.refs.iter().map(|to| row(to.relation, &to.to)).collect(),
            facets: index.facets.iter().map(|facet| row(facet.field, &facet.value)).collect(),
        }
    }

    /// The rows that are not in `other`, each with the resource's id before it.
    fn without(&self, other: &Self, id: &str) -> IndexRows {
        let rows = |these: &BTreeSet<[String; 3]>, others: &BTreeSet<[String; 3]>| {
            let rows = these.difference(others);
            rows.map(|[kind, one, two]| [id.to_owned(), kind.clone(), one.clone(), two.clone()]).collect()
        };
        IndexRows {
            uniques: rows(&self.uniques, &other.uniques),
            refs: rows(&self.refs, &other.refs),
            facets: rows(&self.facets, &other.facets),
        }
    }
}

/// Rows of the three index tables: id, kind, and what is indexed.
#[derive(Debug, Default)]
struct IndexRows {
    uniques: Vec<[String; 4]>,
    refs: Vec<[String; 4]>,
    facets: Vec<[String; 4]>,
}

impl IndexRows {
    fn extend(&mut self, more: Self) {
        self.uniques.extend(more.uniques);
        self.refs.extend(more.refs);
        self.facets.extend(more.facets);
    }

    async fn delete(&self, tx: &mut ReadTx) -> Result<(), StoreError> {
        let columns = ["id", "kind", "scope", "key"];
        batch::delete(tx, "DELETE FROM uniques", &columns, &self.uniques, |row, n| row[n].clone()).await?;
        let columns = ["source", "kind", "relation", "target"];
        batch::delete(tx, "DELETE FROM refs", &columns, &self.refs, |row, n| row[n].clone()).await?;
        let columns = ["id", "kind", "field", "value"];
        batch::delete(tx, "DELETE FROM facets", &columns, &self.facets, |row, n| row[n].clone()).await?;
        Ok(())
    }

    /// Who holds a name was read under this lock: a second holder is a defect, and fails the group.
    async fn insert(&self, tx: &mut ReadTx) -> Result<(), StoreError> {
        let tables = [
            ("INSERT INTO uniques (id, kind, scope, key)", &self.uniques),
            ("INSERT INTO refs (source, kind, relation, target)", &self.refs),
            ("INSERT INTO facets (id, kind, field, value)", &self.facets),
        ];
        for (head, rows) in tables {
            batch::insert(tx, head, "", rows, |values, row| {
                for value in row {
                    values.push_bind(value.clone());
                }
            })
            .await?;
        }
        Ok(())
    }
}

/// Longest text that is indexed, in bytes: PostgreSQL has no room for a row of 2 700 in an index.
const MAX_INDEXED: usize = 1_024;

/// Whether both databases take the texts that are indexed. One that does not fit would fail the whole group.
fn check_texts(resource: &Resource, index: &Index) -> Result<(), StoreError> {
    let uniques = index.uniques.iter().flat_map(|one| [(one.field, &one.scope), (one.field, &one.key)]);
    let refs = index.refs.iter().map(|one| (one.relation, &one.to));
    let facets = index.facets.iter().map(|one| (one.field, &one.value));
    let own = [("id", Some(&resource.id)), ("label", Some(&resource.label))].into_iter().chain([
        ("parent", resource.parent.as_ref()),
        ("tenant", resource.tenant.as_ref()),
        ("brand", resource.brand.as_ref()),
    ]);
    let own = own.filter_map(|(field, text)| Some((field, text?)));
    for (field, text) in own.chain(uniques).chain(refs).chain(facets) {
        if text.len() > MAX_INDEXED {
            let problem = format!("{} bytes; at most {MAX_INDEXED}", text.len());
            return Err(StoreError::value(field, problem));
        }
        if text.contains('\0') {
            return Err(StoreError::value(field, "has a NUL character"));
        }
    }
    if resource.status_message.as_ref().is_some_and(|text| text.contains('\0')) {
        return Err(StoreError::value("status_message", "has a NUL character"));
    }
    Ok(())
}

impl WriteTx {
    /// Two resources of one change may swap a name, and both ends of a reference may go together.
    pub(super) async fn take_resources(
        &mut self,
        put: Vec<Resource>,
        remove: Vec<String>,
    ) -> Result<(), ApplyError> {
        if put.is_empty() && remove.is_empty() {
            return Ok(());
        }
        let mut last: BTreeMap<String, Resource> = BTreeMap::new();
        for resource in put {
            last.insert(resource.id.clone(), resource);
        }
        if let Some(both) = remove.iter().find(|id| last.contains_key(*id)) {
            return Err(
                StoreError::value("remove", format!("{both} is to be written and removed at once")).into()
            );
        }
        let ids: Vec<String> = last.keys().chain(&remove).cloned().collect();
        self.pending.layer.fetch(&mut self.read, &ids).await?;
        let mut puts = Vec::new();
        for resource in last.into_values() {
            let old = self.pending.layer.known(&resource.id).flatten();
            if old == Some(&resource) {
                continue;
            }
            if let Some(old) = old.filter(|old| old.kind != resource.kind) {
                let problem = format!("{} is a {}, not a {}", resource.id, old.kind, resource.kind);
                return Err(StoreError::value("kind", problem).into());
            }
            let old_index = match self.pending.layer.index_of(&resource.id) {
                Some(index) => index.clone(),
                None => old.map(self.fixed.index).unwrap_or_default(),
            };
            let (old, index) = (old.cloned(), (self.fixed.index)(&resource));
            check_texts(&resource, &index)?;
            puts.push(Put { resource, old, index, old_index });
        }
        let removed: Vec<Resource> =
            remove.iter().filter_map(|id| self.pending.layer.known(id).flatten().cloned()).collect();
        self.rows(removed.len() + puts.len())?;
        self.mutation.kinds.extend(removed.iter().map(|gone| gone.kind));
        self.mutation.kinds.extend(puts.iter().map(|put| put.resource.kind));
        self.mutation.concerns.extend(removed.iter().flat_map(hosting_planner::waited_for));
        let open = puts.iter().filter(|put| put.resource.status.is_open());
        self.mutation.concerns.extend(open.map(|put| put.resource.id.clone()));
        self.count(&removed, &puts);
        for gone in &removed {
            let index = self.index_of(gone);
            self.charge(gone, &index, -1);
        }
        for put in &puts {
            if let Some(old) = &put.old {
                self.charge(old, &put.old_index, -1);
            }
            self.charge(&put.resource, &put.index, 1);
        }

        for gone in &removed {
            self.pending.layer.remove(&gone.id, gone.kind);
        }
        for put in &puts {
            self.pending.layer.put(put.resource.clone(), put.index.clone());
        }
        for put in &puts {
            self.name(put).await?;
        }
        self.check_targets(&puts).await?;
        self.check_unused(&removed).await?;
        Ok(self.drop_keys_of(&removed).await?)
    }

    fn index_of(&self, resource: &Resource) -> Index {
        let known = self.pending.layer.index_of(&resource.id).cloned();
        known.unwrap_or_else(|| (self.fixed.index)(resource))
    }

    /// Gives a resource its unique names.
    async fn name(&mut self, put: &Put) -> Result<(), ApplyError> {
        let Put { resource: Resource { kind, id, .. }, index, old_index, .. } = put;
        for unique in &index.uniques {
            // What it had it has still, unless another one of the change took it.
            let had = old_index.uniques.contains(unique) && !self.pending.layer.is_named(*kind, unique);
            if !had {
                let keys = [unique.key.clone()];
                let holders = self.pending.layer.holders(&mut self.read, *kind, &unique.scope, &keys).await?;
                if holders.iter().any(|(_, holder)| holder.id != *id) {
                    let (kind, field, key) = (*kind, unique.field, unique.key.clone());
                    return Err(ApplyError::Taken { kind, field, key });
                }
            }
            self.pending.layer.name(*kind, unique, id);
        }
        Ok(())
    }

    /// New references lead to what is there and stays: what is on its way out takes none, or it could never go. A parent's kind is
    /// not the store's to know, so a missing one is no `NoSuch`: whoever creates has read it under this lock.
    async fn check_targets(&mut self, puts: &[Put]) -> Result<(), ApplyError> {
        let new: Vec<&Ref> = puts
            .iter()
            .flat_map(|put| put.index.refs.iter().filter(|one| !put.old_index.refs.contains(one)))
            .collect();
        let created = || puts.iter().filter(|put| put.old.is_none()).map(|put| &put.resource);
        let parents = created().filter_map(|resource| resource.parent.clone());
        let ids: Vec<String> = new.iter().map(|one| one.to.clone()).chain(parents).collect();
        self.pending.layer.fetch(&mut self.read, &ids).await?;
        for one in new {
            let target = self.pending.layer.known(&one.to).flatten();
            if !target.is_some_and(|target| target.kind == one.kind && target.status != Status::Deleting) {
                return Err(ApplyError::NoSuch { field: one.relation, kind: one.kind, id: one.to.clone() });
            }
        }
        for resource in created() {
            if let Some(parent) = &resource.parent
                && self.pending.layer.known(parent).flatten().is_none()
            {
                let problem =
                    format!("{} {} lies in {parent:?}, which does not exist", resource.kind, resource.id);
                return Err(StoreError::value("parent", problem).into());
            }
        }
        Ok(())
    }

    /// Nothing that is removed is referred to or has children.
    async fn check_unused(&mut self, removed: &[Resource]) -> Result<(), ApplyError> {
        let layer = &self.pending.layer;
        if let Some((gone, user)) = removed.iter().find_map(|gone| Some((gone, layer.user_of(&gone.id)?))) {
            let (id, kind, by) = (gone.id.clone(), user.kind, user.id.clone());
            return Err(ApplyError::InUse { id, kind, by });
        }
        let ids: Vec<String> =
            removed.iter().map(|gone| gone.id.clone()).filter(|id| layer.base_may_have(id)).collect();
        for ids in batch::chunks(&ids) {
            let mut sql = QueryBuilder::new("SELECT target, kind, source FROM refs WHERE target IN ");
            batch::list(&mut sql, ids);
            sql.push(" UNION ALL SELECT parent, kind, id FROM resources WHERE parent IN ");
            batch::list(&mut sql, ids);
            // A resource has few references to another one: that many rows show one that was not changed here, if there is one.
            let most = (layer.touched() + 1).saturating_mul(REFS_TO_ONE);
            sql.push(" LIMIT ").push_bind(to_bound(most as u64));
            for row in self.read.all(sql.build()).await? {
                let by: String = row.try_get(2)?;
                if !layer.touches(&by) {
                    let name: &str = row.try_get(1)?;
                    let kind =
                        Kind::from_name(name).ok_or_else(|| StoreError::row(format!("kind {name:?}")))?;
                    return Err(ApplyError::InUse { id: row.try_get(0)?, kind, by });
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, removed: &[Resource], puts: &[Put]) {
        let mut note = |resource: &Resource, by: i64| {
            let brand = resource.brand.clone().unwrap_or_default();
            *self.mutation.counts.entry((resource.kind, brand, resource.status)).or_default() += by;
        };
        for gone in removed {
            note(gone, -1);
        }
        for Put { resource, old, .. } in puts {
            if let Some(old) = old {
                note(old, -1);
            }
            note(resource, 1);
        }
    }
}

impl Pending {
    /// All index rows that fall away go first and all that are new come last.
    pub(super) async fn write_resources(&self, tx: &mut ReadTx) -> Result<(), StoreError> {
        let layer = &self.layer;
        let touched = layer.put_resources().map(|(resource, _)| resource.id.as_str());
        let touched = touched.chain(layer.removed().map(|(id, _)| id));
        let there: Vec<String> =
            touched.filter(|id| layer.base_may_have(id)).map(ToOwned::to_owned).collect();
        let stored = stored_indexes(tx, &there).await?;
        let none = StoredIndex::default();
        let (mut dropped, mut added, mut written) = (IndexRows::default(), IndexRows::default(), Vec::new());
        for (resource, index) in layer.put_resources() {
            let stored = stored.get(&resource.id).unwrap_or(&none);
            let wanted = StoredIndex::of(resource.kind, index);
            dropped.extend(stored.without(&wanted, &resource.id));
            added.extend(wanted.without(stored, &resource.id));
            written.push(resource);
        }
        let mut removed = Vec::new();
        for (id, _) in layer.removed().filter(|(id, _)| layer.base_may_have(id)) {
            dropped.extend(stored.get(id).unwrap_or(&none).without(&none, id));
            removed.push(id);
        }
        dropped.delete(tx).await?;
        batch::delete(tx, "DELETE FROM resources", &["id"], &removed, |id, _| (*id).to_owned()).await?;
        write_rows(tx, &written).await?;
        added.insert(tx).await?;
        self.write_counts(tx).await?;
        self.write_usage(tx).await
    }

    async fn write_counts(&self, tx: &mut ReadTx) -> Result<(), StoreError> {
        let counts: Vec<_> = self.counts.iter().filter(|(_, by)| **by != 0).collect();
        batch::insert(
            tx,
            "INSERT INTO resource_counts (kind, brand, status, count)",
            "ON CONFLICT (kind, brand, status) DO UPDATE SET count = resource_counts.count + excluded.count",
            &counts,
            |row, ((kind, brand, status), by)| {
                row.push_bind(kind.name())
                    .push_bind(brand.clone())
                    .push_bind(status.as_str())
                    .push_bind(**by);
            },
        )
        .await?;
        Ok(())
    }
}

/// Reads the rows rather than asking the old documents: an older build may have indexed them otherwise.
async fn stored_indexes(
    tx: &mut ReadTx,
    ids: &[String],
) -> Result<BTreeMap<String, StoredIndex>, StoreError> {
    let mut stored: BTreeMap<String, StoredIndex> = BTreeMap::new();
    for ids in batch::chunks(ids) {
        let mut sql = QueryBuilder::new("SELECT 'u', id, kind, scope, key FROM uniques WHERE id IN ");
        batch::list(&mut sql, ids);
        sql.push(" UNION ALL SELECT 'r', source, kind, relation, target FROM refs WHERE source IN ");
        batch::list(&mut sql, ids);
        sql.push(" UNION ALL SELECT 'f', id, kind, field, value FROM facets WHERE id IN ");
        batch::list(&mut sql, ids);
        for row in tx.all(sql.build()).await? {
            let index = stored.entry(row.try_get(1)?).or_default();
            let values = [row.try_get(2)?, row.try_get(3)?, row.try_get(4)?];
            match row.try_get::<&str>(0)? {
                "u" => index.uniques.insert(values),
                "r" => index.refs.insert(values),
                _ => index.facets.insert(values),
            };
        }
    }
    Ok(stored)
}

async fn write_rows(tx: &mut ReadTx, written: &[&Resource]) -> Result<(), StoreError> {
    let json = |field: &'static str, value: &Map<String, Value>| {
        serde_json::to_string(value).map_err(|error| StoreError::value(field, error.to_string()))
    };
    let mut rows = Vec::new();
    for resource in written {
        let numbers = [
            to_sql("generation", resource.generation)?,
            to_sql("created_revision", resource.created_revision)?,
        ];
        rows.push((resource, numbers, json("spec", &resource.spec)?, json("state", &resource.state)?));
    }
    batch::insert(
        tx,
        "INSERT INTO resources (id, kind, parent, tenant, brand, label, status, status_message, shape, generation, \
         created_revision, created_at, updated_at, spec, state)",
        "ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, parent = excluded.parent, tenant = excluded.tenant, brand = excluded.brand, \
         label = excluded.label, status = excluded.status, status_message = excluded.status_message, \
         shape = excluded.shape, generation = excluded.generation, created_revision = excluded.created_revision, \
         created_at = excluded.created_at, updated_at = excluded.updated_at, spec = excluded.spec, \
         state = excluded.state",
        &rows,
        |values, (resource, [generation, created_revision], spec, state)| {
            values.push_bind(resource.id.clone()).push_bind(resource.kind.name());
            values.push_bind(resource.parent.clone()).push_bind(resource.tenant.clone());
            values.push_bind(resource.brand.clone()).push_bind(resource.label.clone());
            values.push_bind(resource.status.as_str()).push_bind(resource.status_message.clone());
            values.push_bind(resource.shape).push_bind(*generation).push_bind(*created_revision);
            values.push_bind(resource.created_at).push_bind(resource.updated_at);
            values.push_bind(spec.clone()).push_bind(state.clone());
        },
    )
    .await?;
    Ok(())
}
