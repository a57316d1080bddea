//! Lists whose conditions no index has together: what contains a text, has facets, or fits several columns.
//!
//! A text that is long enough is looked up by the terms that the index of its kind holds, a few ranges of an index (ADR 17), and facets are
//! one. Where these find too much, and for shorter texts, the list is gone along in its order, a bounded number of rows a page.

use std::collections::{BTreeMap, BTreeSet};

use hosting_resource::search::{self, SUFFIX, SearchText, TERM};
use hosting_resource::{Kind, KindInfo, Resource};

use crate::error::to_bound;
use crate::page::{Rows, SortValue, build};
use crate::sql::{Connection, QueryBuilder, Row};
use crate::{Cursor, ListQuery, Order, Page, PageError, ReadTx, StoreError, batch};

/// Rows of the index that are looked at. What more resources have is found soon by going along the list.
const MOST_FOUND: usize = 2_000;
/// Rows of a list that one page looks at.
pub(crate) const MOST_ROWS: u32 = 10_000;

/// A row, as far as it tells whether it is found and where it stands.
pub(crate) struct Name {
    id: String,
    label: String,
    value: SortValue,
}

impl Name {
    fn of(row: &Row, list: &ListQuery) -> Result<Self, StoreError> {
        Ok(Self { id: row.try_get(0)?, label: row.try_get(1)?, value: list.sort.value_in(row, 2)? })
    }

    fn key(&self) -> (&SortValue, &str) {
        (&self.value, &self.id)
    }

    fn into_cursor(self, list: &ListQuery) -> Cursor {
        Cursor::behind(list, self.value, self.id)
    }
}

impl ReadTx {
    /// The page of a list that is not one range of an index.
    pub(crate) async fn narrow_page(&mut self, list: &ListQuery, limit: usize) -> Result<Page, StoreError> {
        let (mut found, mut next) = match self.candidates(list).await? {
            Some(ids) => (self.among(list, ids).await?, None),
            None => self.along(list, limit).await?,
        };
        if found.len() > limit {
            found.truncate(limit);
            let last = found.last().map(|last| (last.value.clone(), last.id.clone()));
            next = last.map(|(value, id)| Cursor::behind(list, value, id));
        }
        let items = self.in_order(found.into_iter().map(|name| name.id).collect()).await?;
        Ok(Page { items, next })
    }

    /// Ids among which all of the list are, if an index finds few.
    pub(crate) async fn candidates(&mut self, list: &ListQuery) -> Result<Option<Vec<String>>, StoreError> {
        let info = list.kind.info();
        let text = list.search().map(SearchText::new).filter(|_| info.has_terms());
        if let Some(text) = &text
            && let Some(beginnings) = text.beginnings()
            && let Some(ids) = self.begin_with(info, &beginnings, text.id_beginning(info)).await?
        {
            return Ok(Some(ids));
        }
        for (field, value) in &list.facets {
            let query = crate::sql::query(
                "SELECT id FROM facets WHERE kind = ? AND field = ? AND value = ? ORDER BY id LIMIT ?",
            );
            let query = query.bind(info.kind.name()).bind(field).bind(value);
            let rows = self.all(query.bind(to_bound(MOST_FOUND as u64 + 1))).await?;
            if rows.len() <= MOST_FOUND {
                return Ok(Some(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?));
            }
        }
        Ok(None)
    }

    /// Some of what the text finds, at most `list.limit`: all of it if few contain it, and what a word of begins with it comes before what
    /// would take long to look for. There is no next page.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn find(&mut self, list: &ListQuery) -> Result<Vec<Resource>, PageError> {
        let Page { mut items, next } = self.page(list).await?;
        let text = SearchText::new(list.search.as_deref().unwrap_or_default());
        let room = (list.limit as usize).saturating_sub(items.len());
        if next.is_none() || room == 0 || !list.kind.info().has_terms() {
            return Ok(items);
        }
        let Some(word) = text.word() else { return Ok(items) };
        if let Some(ids) = self.begin_with(list.kind.info(), &[word], None).await? {
            let known: BTreeSet<&str> = items.iter().map(|item| item.id.as_str()).collect();
            let found = self.among(list, ids).await?.into_iter().map(|name| name.id);
            let more = found.filter(|id| !known.contains(id.as_str())).take(room).collect();
            items.extend(self.in_order(more).await?);
        }
        Ok(items)
    }

    /// Ids of resources of a kind of which a term begins with one of the texts, or that begin with `id` themselves; `None` when these are
    /// more than are looked at.
    async fn begin_with(
        &mut self,
        info: &KindInfo,
        texts: &[String],
        id: Option<&str>,
    ) -> Result<Option<Vec<String>>, StoreError> {
        let fields: &[&str] = if info.host_labels { &[TERM, SUFFIX] } else { &[TERM] };
        let mut sql = QueryBuilder::new("");
        for (field, text) in fields.iter().flat_map(|field| texts.iter().map(move |text| (field, text))) {
            sql.push("SELECT f.id FROM facets f WHERE f.kind = ").push_bind(info.kind.name());
            sql.push(" AND f.field = ").push_bind(*field).push(" AND f.value >= ").push_bind(text);
            sql.push(" AND f.value < ").push_bind(beyond(text)).push(" UNION ALL ");
        }
        // An id that is none closes the union, where ids are found by terms.
        let id = id.unwrap_or("~");
        sql.push("SELECT r.id FROM resources r WHERE r.kind = ").push_bind(info.kind.name());
        sql.push(" AND r.id >= ").push_bind(id).push(" AND r.id < ").push_bind(beyond(id));
        sql.push(" LIMIT ").push_bind(to_bound(MOST_FOUND as u64 + 1));
        let rows = self.all(sql.build()).await?;
        if rows.len() > MOST_FOUND {
            return Ok(None);
        }
        let ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<BTreeSet<String>, _>>()?;
        Ok(Some(ids.into_iter().collect()))
    }

    /// What of these is in the list behind its cursor and is found, in its order.
    pub(crate) async fn among(
        &mut self,
        list: &ListQuery,
        ids: Vec<String>,
    ) -> Result<Vec<Name>, StoreError> {
        let text = SearchText::new(list.search().unwrap_or_default());
        let mut found = Vec::new();
        for some in batch::chunks(&ids) {
            let query = build(list, Rows::NamesOf(some), self.dialect());
            for row in self.all(query.build()).await? {
                found.push(Name::of(&row, list)?);
            }
        }
        let is_behind = |name: &Name| match (&list.after, list.order) {
            (None, _) => true,
            (Some(after), Order::Asc) => name.key() > after.key(),
            (Some(after), Order::Desc) => name.key() < after.key(),
        };
        found.retain(|name| is_behind(name) && text.finds(list.kind.info(), &name.id, &name.label));
        found.sort_by(|a, b| match list.order {
            Order::Asc => a.key().cmp(&b.key()),
            Order::Desc => b.key().cmp(&a.key()),
        });
        Ok(found)
    }

    /// Goes along the list: what is found, one more than `limit` at most, and where to go on if the page ended before the list.
    pub(crate) async fn along(
        &mut self,
        list: &ListQuery,
        limit: usize,
    ) -> Result<(Vec<Name>, Option<Cursor>), StoreError> {
        let text = SearchText::new(list.search().unwrap_or_default());
        let mut list = list.clone();
        let first = u32::try_from(limit).unwrap_or(MOST_ROWS).saturating_add(1).saturating_mul(2);
        let mut found = Vec::new();
        let mut looked = 0;
        while looked < MOST_ROWS {
            // Where half of the rows are in the list the first ones are enough; each time as many as all before together.
            let wanted = looked.max(first).min(MOST_ROWS - looked);
            let rows = self.all(build(&list, Rows::Names(wanted), self.dialect()).build()).await?;
            looked += wanted;
            let is_end = rows.len() < wanted as usize;
            if let Some(last) = rows.last() {
                list.after = Some(Name::of(last, &list)?.into_cursor(&list));
            }
            for row in &rows {
                let name = Name::of(row, &list)?;
                if row.try_get(3)? && text.finds(list.kind.info(), &name.id, &name.label) {
                    found.push(name);
                    if found.len() > limit {
                        return Ok((found, None));
                    }
                }
            }
            if is_end {
                return Ok((found, None));
            }
        }
        Ok((found, list.after))
    }

    /// The resources with these ids, in their order.
    async fn in_order(&mut self, ids: Vec<String>) -> Result<Vec<Resource>, StoreError> {
        let all = self.resources(&ids).await?;
        let mut by_id: BTreeMap<String, Resource> =
            all.into_iter().map(|resource| (resource.id.clone(), resource)).collect();
        Ok(ids.iter().filter_map(|id| by_id.remove(id)).collect())
    }
}

/// Behind every text that begins with this one, byte by byte.
fn beyond(text: &str) -> String {
    format!("{text}{}", char::MAX)
}

/// Makes the facets of all resources that search finds them by, in a migration.
pub(crate) async fn index_all(connection: &mut Connection) -> Result<(), StoreError> {
    for info in Kind::ALL.iter().map(|kind| kind.info()).filter(|info| info.has_terms()) {
        let mut after = String::new();
        loop {
            let query = crate::sql::query(
                "SELECT r.id, r.label FROM resources r WHERE r.kind = ? AND r.id > ? ORDER BY r.id LIMIT 1000",
            );
            let rows = connection.rows(query.bind(info.kind.name()).bind(&after)).await?;
            let mut facets = Vec::new();
            for row in &rows {
                after = row.try_get(0)?;
                let all = search::facets(info, &after, row.try_get(1)?);
                facets.extend(all.into_iter().map(|facet| (facet, after.clone())));
            }
            for facets in batch::chunks(&facets) {
                let mut sql = QueryBuilder::new("INSERT INTO facets (kind, field, value, id) ");
                sql.push_values(facets, |values, (facet, id)| {
                    values.push_bind(info.kind.name()).push_bind(facet.field);
                    values.push_bind(&facet.value).push_bind(id);
                });
                sql.push(" ON CONFLICT (kind, field, value, id) DO NOTHING");
                connection.execute(sql.build()).await?;
            }
            if rows.len() < 1_000 {
                break;
            }
        }
    }
    Ok(())
}
