//! Resources of a change: their documents, and the rows that are kept beside them.

use std::collections::{BTreeMap, BTreeSet};

use hosting_planner::ApplyError;
use hosting_resource::{Index, Kind, Resource, Status};
use serde_json::{Map, Value};

use super::WriteTx;
use crate::batch::{self, CHUNK};
use crate::error::to_sql;
use crate::sql::{self, QueryBuilder};
use crate::{ReadTx, StoreError};

/// A resource that is written, beside what is stored of it.
struct Written {
    resource: Resource,
    old: Option<Resource>,
    index: Index,
    stored: StoredIndex,
}

/// Index rows without their kind and id: (scope, key), (relation, target), (field, value).
#[derive(Debug, Default)]
struct StoredIndex {
    uniques: BTreeSet<(String, String)>,
    refs: BTreeSet<(String, String)>,
    facets: BTreeSet<(String, String)>,
}

impl From<&Index> for StoredIndex {
    fn from(index: &Index) -> Self {
        Self {
            uniques: index.uniques.iter().map(|unique| (unique.scope.clone(), unique.key.clone())).collect(),
            refs: index.refs.iter().map(|to| (to.relation.to_owned(), to.to.clone())).collect(),
            facets: index.facets.iter().map(|facet| (facet.field.to_owned(), facet.value.clone())).collect(),
        }
    }
}

/// Rows of the three index tables that go: each with the resource's kind and id.
#[derive(Default)]
struct Dropped {
    uniques: Vec<[String; 4]>,
    refs: Vec<[String; 3]>,
    facets: Vec<[String; 4]>,
}

impl Dropped {
    fn note(&mut self, kind: Kind, id: &str, stored: &StoredIndex, wanted: &StoredIndex) {
        let (kind, id) = (kind.name().to_owned(), id.to_owned());
        self.uniques.extend(
            stored
                .uniques
                .difference(&wanted.uniques)
                .map(|(scope, key)| [kind.clone(), scope.clone(), key.clone(), id.clone()]),
        );
        self.refs.extend(
            stored
                .refs
                .difference(&wanted.refs)
                .map(|(relation, target)| [id.clone(), relation.clone(), target.clone()]),
        );
        self.facets.extend(
            stored
                .facets
                .difference(&wanted.facets)
                .map(|(field, value)| [kind.clone(), field.clone(), value.clone(), id.clone()]),
        );
    }
}

impl WriteTx {
    /// All index rows that fall away go first and all that are new come last, so that two resources of one change may
    /// swap a name, and both ends of a reference may go together.
    pub(super) async fn write_resources(
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
        let old = self.read.resources(&ids).await?;
        let mut old: BTreeMap<String, Resource> =
            old.into_iter().map(|resource| (resource.id.clone(), resource)).collect();
        let there: Vec<String> = old.keys().cloned().collect();
        let mut indexes = stored_indexes(&mut self.read, &there).await?;

        let mut dropped = Dropped::default();
        let mut written = Vec::new();
        for resource in last.into_values() {
            let old = old.remove(&resource.id);
            if old.as_ref() == Some(&resource) {
                continue;
            }
            if let Some(old) = old.as_ref().filter(|old| old.kind != resource.kind) {
                let problem = format!("{} is a {}, not a {}", resource.id, old.kind, resource.kind);
                return Err(StoreError::value("kind", problem).into());
            }
            let stored = indexes.remove(&resource.id).unwrap_or_default();
            let index = (self.fixed.index)(&resource);
            dropped.note(resource.kind, &resource.id, &stored, &StoredIndex::from(&index));
            written.push(Written { resource, old, index, stored });
        }
        let removed: Vec<Resource> = remove.iter().filter_map(|id| old.remove(id)).collect();
        for gone in &removed {
            let stored = indexes.remove(&gone.id).unwrap_or_default();
            dropped.note(gone.kind, &gone.id, &stored, &StoredIndex::default());
        }
        self.rows(removed.len() + written.len())?;
        self.mutation.kinds.extend(removed.iter().map(|gone| gone.kind));
        self.mutation.kinds.extend(written.iter().map(|row| row.resource.kind));
        self.mutation.concerns.extend(removed.iter().flat_map(hosting_planner::waited_for));
        let open = written.iter().filter(|row| row.resource.status.is_open());
        self.mutation.concerns.extend(open.map(|row| row.resource.id.clone()));

        drop_index(&mut self.read, &dropped).await?;
        batch::delete(&mut self.read, "DELETE FROM resources", &["id"], &removed, |gone, _| gone.id.clone())
            .await?;
        write_rows(&mut self.read, &written).await?;
        self.count(&removed, &written);
        add_index(&mut self.read, &written).await?;
        check_parents(&mut self.read, &written).await?;
        check_unused(&mut self.read, &removed).await?;
        Ok(self.drop_keys_of(&removed).await?)
    }

    /// Notes how many resources of each kind, brand and status there are more or fewer.
    fn count(&mut self, removed: &[Resource], written: &[Written]) {
        let mut note = |resource: &Resource, by: i64| {
            let brand = resource.brand.clone().unwrap_or_default();
            *self.mutation.counts.entry((resource.kind, brand, resource.status)).or_default() += by;
        };
        for gone in removed {
            note(gone, -1);
        }
        for Written { resource, old, .. } in written {
            if let Some(old) = old {
                note(old, -1);
            }
            note(resource, 1);
        }
    }

    /// Writes what [`WriteTx::count`] noted.
    pub(super) async fn write_counts(&mut self) -> Result<(), StoreError> {
        let mut counts: Vec<_> = std::mem::take(&mut self.mutation.counts).into_iter().collect();
        counts.retain(|(_, by)| *by != 0);
        batch::insert(
            &mut self.read,
            "INSERT INTO resource_counts (kind, brand, status, count)",
            "ON CONFLICT (kind, brand, status) DO UPDATE SET count = resource_counts.count + excluded.count",
            &counts,
            |row, ((kind, brand, status), by)| {
                row.push_bind(kind.name()).push_bind(brand.clone()).push_bind(status.as_str()).push_bind(*by);
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
    for ids in ids.chunks(CHUNK) {
        let mut sql = QueryBuilder::new("SELECT 'u', id, scope, key FROM uniques WHERE id IN ");
        batch::list(&mut sql, ids);
        sql.push(" UNION ALL SELECT 'r', source, relation, target FROM refs WHERE source IN ");
        batch::list(&mut sql, ids);
        sql.push(" UNION ALL SELECT 'f', id, field, value FROM facets WHERE id IN ");
        batch::list(&mut sql, ids);
        for row in tx.all(sql.build()).await? {
            let index = stored.entry(row.try_get(1)?).or_default();
            let pair = (row.try_get(2)?, row.try_get(3)?);
            match row.try_get::<&str>(0)? {
                "u" => index.uniques.insert(pair),
                "r" => index.refs.insert(pair),
                _ => index.facets.insert(pair),
            };
        }
    }
    Ok(stored)
}

async fn drop_index(tx: &mut ReadTx, dropped: &Dropped) -> Result<(), StoreError> {
    let Dropped { uniques, refs, facets } = dropped;
    let columns = ["kind", "scope", "key", "id"];
    batch::delete(tx, "DELETE FROM uniques", &columns, uniques, |row, n| row[n].clone()).await?;
    let columns = ["source", "relation", "target"];
    batch::delete(tx, "DELETE FROM refs", &columns, refs, |row, n| row[n].clone()).await?;
    let columns = ["kind", "field", "value", "id"];
    batch::delete(tx, "DELETE FROM facets", &columns, facets, |row, n| row[n].clone()).await?;
    Ok(())
}

async fn write_rows(tx: &mut ReadTx, written: &[Written]) -> Result<(), StoreError> {
    let json = |field: &'static str, value: &Map<String, Value>| {
        serde_json::to_string(value).map_err(|error| StoreError::value(field, error.to_string()))
    };
    let mut rows = Vec::new();
    for Written { resource, .. } in written {
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
        "ON CONFLICT (id) DO UPDATE SET parent = excluded.parent, tenant = excluded.tenant, brand = excluded.brand, \
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

async fn add_index(tx: &mut ReadTx, written: &[Written]) -> Result<(), ApplyError> {
    let (mut uniques, mut refs, mut facets) = (Vec::new(), Vec::new(), Vec::new());
    for Written { resource, index, stored, .. } in written {
        let (kind, id) = (resource.kind, resource.id.as_str());
        let new = |pairs: &BTreeSet<(String, String)>, name: &str, value: &str| {
            !pairs.contains(&(name.to_owned(), value.to_owned()))
        };
        uniques.extend(
            index
                .uniques
                .iter()
                .filter(|one| new(&stored.uniques, &one.scope, &one.key))
                .map(|one| (kind, id, one)),
        );
        refs.extend(
            index
                .refs
                .iter()
                .filter(|one| new(&stored.refs, one.relation, &one.to))
                .map(|one| (kind, id, one)),
        );
        facets.extend(
            index
                .facets
                .iter()
                .filter(|one| new(&stored.facets, one.field, &one.value))
                .map(|one| (kind, id, one)),
        );
    }
    let added = batch::insert(
        tx,
        "INSERT INTO uniques (kind, scope, key, id)",
        "ON CONFLICT (kind, scope, key) DO NOTHING",
        &uniques,
        |row, (kind, id, one)| {
            row.push_bind(kind.name()).push_bind(one.scope.clone()).push_bind(one.key.clone());
            row.push_bind((*id).to_owned());
        },
    )
    .await?;
    if added != uniques.len() as u64 {
        for (kind, id, one) in &uniques {
            let query =
                sql::query("SELECT 1 FROM uniques WHERE kind = ? AND scope = ? AND key = ? AND id = ?");
            let query = query.bind(kind.name()).bind(&one.scope).bind(&one.key).bind(*id);
            if tx.optional(query).await?.is_none() {
                return Err(ApplyError::Taken { kind: *kind, field: one.field, key: one.key.clone() });
            }
        }
    }
    // What is on its way out takes no new references, or it could never go.
    let targets: Vec<String> = refs.iter().map(|(.., one)| one.to.clone()).collect();
    let there = kinds_of(tx, &targets).await?;
    for (.., one) in &refs {
        let found = there
            .get(&one.to)
            .filter(|(kind, status)| kind == one.kind.name() && status != Status::Deleting.as_str());
        if found.is_none() {
            return Err(ApplyError::NoSuch { field: one.relation, kind: one.kind, id: one.to.clone() });
        }
    }
    batch::insert(
        tx,
        "INSERT INTO refs (source, kind, relation, target)",
        "ON CONFLICT (source, relation, target) DO NOTHING",
        &refs,
        |row, (kind, id, one)| {
            row.push_bind((*id).to_owned()).push_bind(kind.name());
            row.push_bind(one.relation).push_bind(one.to.clone());
        },
    )
    .await?;
    batch::insert(
        tx,
        "INSERT INTO facets (kind, field, value, id)",
        "ON CONFLICT (kind, field, value, id) DO NOTHING",
        &facets,
        |row, (kind, id, one)| {
            row.push_bind(kind.name()).push_bind(one.field).push_bind(one.value.clone());
            row.push_bind((*id).to_owned());
        },
    )
    .await?;
    Ok(())
}

/// Kind and status of resources, by their names.
async fn kinds_of(tx: &mut ReadTx, ids: &[String]) -> Result<BTreeMap<String, (String, String)>, StoreError> {
    let ids: Vec<String> = ids.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    let mut there = BTreeMap::new();
    for ids in ids.chunks(CHUNK) {
        let mut sql = QueryBuilder::new("SELECT id, kind, status FROM resources WHERE id IN ");
        batch::list(&mut sql, ids);
        for row in tx.all(sql.build()).await? {
            there.insert(row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?));
        }
    }
    Ok(there)
}

/// A parent's kind is not the store's to know, so a missing one is no `NoSuch`: whoever creates has read it under this lock.
async fn check_parents(tx: &mut ReadTx, written: &[Written]) -> Result<(), StoreError> {
    let own: BTreeSet<&str> = written.iter().map(|row| row.resource.id.as_str()).collect();
    let new: Vec<(&Resource, &String)> = written
        .iter()
        .filter(|row| row.old.is_none())
        .filter_map(|row| Some((&row.resource, row.resource.parent.as_ref()?)))
        .filter(|(_, parent)| !own.contains(parent.as_str()))
        .collect();
    let parents: Vec<String> = new.iter().map(|(_, parent)| (*parent).clone()).collect();
    let there = kinds_of(tx, &parents).await?;
    match new.iter().find(|(_, parent)| !there.contains_key(*parent)) {
        None => Ok(()),
        Some((resource, parent)) => {
            let problem =
                format!("{} {} lies in {parent:?}, which does not exist", resource.kind, resource.id);
            Err(StoreError::value("parent", problem))
        }
    }
}

async fn check_unused(tx: &mut ReadTx, removed: &[Resource]) -> Result<(), ApplyError> {
    let ids: Vec<String> = removed.iter().map(|gone| gone.id.clone()).collect();
    for ids in ids.chunks(CHUNK) {
        let mut sql = QueryBuilder::new("SELECT target, kind, source FROM refs WHERE target IN ");
        batch::list(&mut sql, ids);
        sql.push(" UNION ALL SELECT parent, kind, id FROM resources WHERE parent IN ");
        batch::list(&mut sql, ids);
        sql.push(" LIMIT 1");
        if let Some(row) = tx.optional(sql.build()).await? {
            let text = |column: usize| row.try_get::<String>(column);
            let name = text(1)?;
            let kind = Kind::from_name(&name).ok_or_else(|| StoreError::row(format!("kind {name:?}")))?;
            return Err(ApplyError::InUse { id: text(0)?, kind, by: text(2)? });
        }
    }
    Ok(())
}
