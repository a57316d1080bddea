//! Lists for the API: filters, visibility, sort, and pages by keyset.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hosting_resource::search::SearchText;
use hosting_resource::{Kind, Resource, Status};
use serde::{Deserialize, Serialize};

use crate::batch;
use crate::read_tx::{RESOURCE, resource};
use crate::sql::{Dialect, QueryBuilder, Row};
use crate::{ReadTx, StoreError};

/// Longest cursor that is looked at, in bytes: a label and an id, encoded.
const MAX_CURSOR_BYTES: usize = 4096;

/// What a list is sorted by. The id breaks ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// The revision that created it. Never changes, so pages neither skip nor repeat.
    #[default]
    Created,
    /// When it was last changed.
    Updated,
    /// Its label.
    Label,
    /// Its status, by name.
    Status,
    /// Its id. Never changes.
    Id,
}

impl Sort {
    const fn column(self) -> &'static str {
        match self {
            Self::Created => "r.created_revision",
            Self::Updated => "r.updated_at",
            Self::Label => "r.label",
            Self::Status => "r.status",
            Self::Id => "r.id",
        }
    }

    fn value_of(self, resource: &Resource) -> Result<SortValue, StoreError> {
        Ok(match self {
            Self::Created => SortValue::Number(crate::error::to_sql("revision", resource.created_revision)?),
            Self::Updated => SortValue::Number(resource.updated_at),
            Self::Label => SortValue::Text(resource.label.clone()),
            Self::Status => SortValue::Text(resource.status.as_str().to_owned()),
            Self::Id => SortValue::Text(resource.id.clone()),
        })
    }

    /// A column of [`Sort::column`].
    pub(crate) fn value_in(self, row: &Row, column: usize) -> Result<SortValue, StoreError> {
        Ok(match self {
            Self::Created | Self::Updated => SortValue::Number(row.try_get(column)?),
            Self::Label | Self::Status | Self::Id => SortValue::Text(row.try_get(column)?),
        })
    }

    const fn fits(self, value: &SortValue) -> bool {
        match self {
            Self::Created | Self::Updated => matches!(value, SortValue::Number(_)),
            Self::Label | Self::Status | Self::Id => matches!(value, SortValue::Text(_)),
        }
    }
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Smallest, oldest first.
    Asc,
    /// Largest, newest first.
    #[default]
    Desc,
}

/// What a row has in the column that a list is sorted by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum SortValue {
    Number(i64),
    Text(String),
}

/// Where the next page begins: behind this row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    sort: Sort,
    order: Order,
    value: SortValue,
    id: String,
}

impl Cursor {
    /// Behind a row of a list.
    pub(crate) const fn behind(list: &ListQuery, value: SortValue, id: String) -> Self {
        Self { sort: list.sort, order: list.order, value, id }
    }

    /// The row's value and id: the keys of a list that is compared outside of the database.
    pub(crate) fn key(&self) -> (&SortValue, &str) {
        (&self.value, &self.id)
    }

    /// The text that a client gets and gives back. It holds nothing that the row itself did not show.
    #[must_use]
    pub fn encode(&self) -> String {
        let parts = (self.sort, self.order, &self.value, &self.id);
        // Strings and numbers only: this cannot fail.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&parts).unwrap_or_default())
    }

    /// The inverse of [`Cursor::encode`]; `None` for anything else.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        if text.len() > MAX_CURSOR_BYTES {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (sort, order, value, id): (Sort, Order, SortValue, String) =
            serde_json::from_slice(&bytes).ok()?;
        sort.fits(&value).then_some(Self { sort, order, value, id })
    }
}

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Of which kind.
    pub kind: Kind,
    /// Lying in this resource.
    pub parent: Option<String>,
    /// Belonging to this tenant.
    pub tenant: Option<String>,
    /// What the caller may see: resources of these brands. `None` sees all, those without a brand too.
    pub brands: Option<Vec<String>>,
    /// Standing here.
    pub status: Option<Status>,
    /// Only what belongs to a suspended tenant, or only what does not. For kinds that a tenant's suspension covers.
    pub tenant_suspended: Option<bool>,
    /// Having this label.
    pub label: Option<String>,
    /// What this text finds ([`SearchText::finds`]). A page looks at a bounded number of rows: it may have fewer than `limit` items, even
    /// none, and a next one.
    pub search: Option<String>,
    /// Having all of these facet values: (field, value).
    pub facets: Vec<(String, String)>,
    /// Sorted by.
    pub sort: Sort,
    /// Which way.
    pub order: Order,
    /// Behind this row; from a page of the same sort and order.
    pub after: Option<Cursor>,
    /// At most this many, 1–1000.
    pub limit: u32,
}

impl ListQuery {
    /// All of a kind, newest first, 50 to a page.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            parent: None,
            tenant: None,
            brands: None,
            status: None,
            tenant_suspended: None,
            label: None,
            search: None,
            facets: Vec::new(),
            sort: Sort::default(),
            order: Order::default(),
            after: None,
            limit: 50,
        }
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// In the order asked for.
    pub items: Vec<Resource>,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<Cursor>,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The cursor comes from a list with another sort or order.
    #[error("cursor: it belongs to a list with another sort or order; start over without it")]
    Cursor,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ReadTx {
    /// One page of a list.
    ///
    /// # Errors
    /// When the cursor is another list's, or the store cannot be read.
    pub async fn page(&mut self, list: &ListQuery) -> Result<Page, PageError> {
        if list.after.as_ref().is_some_and(|after| after.sort != list.sort || after.order != list.order) {
            return Err(PageError::Cursor);
        }
        let limit = list.limit.clamp(1, 1_000);
        if let Some(search) = list.search.as_deref().filter(|search| !search.is_empty()) {
            return Ok(self.search_page(list, &SearchText::new(search), limit as usize).await?);
        }
        let query = build(list, Rows::Page(limit + 1), self.dialect());
        let rows = self.all(query.build()).await?;
        let mut items = rows.iter().map(resource).collect::<Result<Vec<_>, _>>()?;
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next = match items.last().filter(|_| more) {
            Some(last) => Some(Cursor::behind(list, list.sort.value_of(last)?, last.id.clone())),
            None => None,
        };
        Ok(Page { items, next })
    }
}

/// Which rows of a list a statement answers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// The next ones, at most so many.
    Page(u32),
    /// Id, label and the column of the sort of the next ones, at most so many.
    Names(u32),
    /// The same of those with these ids, in any order, whatever the cursor.
    NamesOf(&'a [String]),
}

pub(crate) fn build(list: &ListQuery, rows: Rows<'_>, dialect: Dialect) -> QueryBuilder {
    let mut sql = QueryBuilder::new("SELECT ");
    match rows {
        Rows::Page(_) => sql.push(RESOURCE),
        Rows::Names(_) | Rows::NamesOf(_) => sql.push("r.id, r.label, ").push(list.sort.column()),
    };
    sql.push(" FROM ");
    let is_by_id = matches!(rows, Rows::NamesOf(_));
    // What a facet finds is few of many. CROSS JOIN is how SQLite is told to begin there.
    let by_facet = !list.facets.is_empty() && !is_by_id;
    let by_tenant = list.tenant_suspended == Some(true) && !by_facet && !is_by_id;
    if by_facet {
        sql.push("facets f0 CROSS JOIN ");
    } else if by_tenant {
        // So are the suspended tenants.
        sql.push("resources t CROSS JOIN ");
    }
    sql.push("resources r");
    if list.label.is_some() && dialect == Dialect::Sqlite && !is_by_id {
        // Few have one label; left alone, SQLite takes the index that gives the order.
        sql.push(" INDEXED BY resources_by_label");
    }
    sql.push(" WHERE r.kind = ").push_bind(list.kind.name());
    if let Rows::NamesOf(ids) = rows {
        sql.push(" AND r.id IN ");
        batch::list(&mut sql, ids);
    }
    for (place, (field, value)) in list.facets.iter().enumerate() {
        let is_first = place == 0 && by_facet;
        if is_first {
            sql.push(" AND f0.id = r.id AND f0.kind = ").push_bind(list.kind.name());
        } else {
            sql.push(" AND EXISTS (SELECT 1 FROM facets f WHERE f.id = r.id AND f.kind = ")
                .push_bind(list.kind.name());
        }
        let (table, end) = if is_first { ("f0", "") } else { ("f", ")") };
        sql.push(" AND ").push(table).push(".field = ").push_bind(field);
        sql.push(" AND ").push(table).push(".value = ").push_bind(value).push(end);
    }
    if let Some(parent) = &list.parent {
        sql.push(" AND r.parent = ").push_bind(parent);
    }
    if let Some(tenant) = &list.tenant {
        sql.push(" AND r.tenant = ").push_bind(tenant);
    }
    match list.brands.as_deref() {
        None => {}
        // The usual caller has one, and then an index gives the order too.
        Some([brand]) => {
            sql.push(" AND r.brand = ").push_bind(brand);
        }
        Some(brands) => {
            sql.push(" AND r.brand IN ");
            batch::list(&mut sql, brands);
        }
    }
    if let Some(status) = list.status {
        sql.push(" AND r.status = ").push_bind(status.as_str());
    }
    if let Some(suspended) = list.tenant_suspended {
        let (before, after) = match (suspended, by_tenant) {
            (true, true) => (" AND r.tenant = t.id AND ", ""),
            (true, false) => (" AND EXISTS (SELECT 1 FROM resources t WHERE t.id = r.tenant AND ", ")"),
            (false, _) => (" AND NOT EXISTS (SELECT 1 FROM resources t WHERE t.id = r.tenant AND ", ")"),
        };
        sql.push(before).push("t.kind = ").push_bind(Kind::Tenant.name());
        sql.push(" AND t.status = ").push_bind(Status::Suspended.as_str()).push(after);
    }
    if let Some(label) = &list.label {
        sql.push(" AND r.label = ").push_bind(label);
    }
    let limit = match rows {
        Rows::Page(limit) | Rows::Names(limit) => limit,
        Rows::NamesOf(_) => return sql,
    };
    let (column, direction, beyond) = match list.order {
        Order::Asc => (list.sort.column(), "ASC", ">"),
        Order::Desc => (list.sort.column(), "DESC", "<"),
    };
    // The id breaks ties; where it is the sort itself, naming it twice would cost the index.
    let tie = match list.sort {
        Sort::Created | Sort::Updated | Sort::Label | Sort::Status => true,
        Sort::Id => false,
    };
    if let Some(after) = &list.after {
        sql.push(" AND (").push(column).push(if tie { ", r.id) " } else { ") " }).push(beyond).push(" (");
        match &after.value {
            SortValue::Number(number) => sql.push_bind(*number),
            SortValue::Text(text) => sql.push_bind(text),
        };
        if tie {
            sql.push(", ").push_bind(&after.id);
        }
        sql.push(")");
    }
    sql.push(" ORDER BY ").push(column).push(" ").push(direction);
    if tie {
        sql.push(", r.id ").push(direction);
    }
    sql.push(" LIMIT ").push_bind(limit);
    sql
}

/// ` AND (one of the columns contains the text)`, letter case of ASCII aside.
pub(crate) fn push_contains(sql: &mut QueryBuilder, columns: &[&'static str], text: &str) {
    let pattern = like_pattern(&text.to_ascii_lowercase());
    for (n, column) in columns.iter().enumerate() {
        sql.push(if n == 0 { " AND (lower(" } else { " OR lower(" }).push(column).push(") LIKE ");
        sql.push_bind(pattern.clone()).push(" ESCAPE '\\'");
    }
    sql.push(")");
}

/// Contains, with what the user wrote taken literally.
fn like_pattern(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for character in text.chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text_and_nothing_else_is_one() {
        let cursor = Cursor {
            sort: Sort::Label,
            order: Order::Asc,
            value: SortValue::Text("a \"b\" ü".into()),
            id: "web_a".into(),
        };
        assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
        let number =
            Cursor { sort: Sort::Created, order: Order::Desc, value: SortValue::Number(7), id: "x".into() };
        assert_eq!(Cursor::decode(&number.encode()), Some(number.clone()));
        assert_eq!(Cursor::decode(&Cursor { sort: Sort::Label, ..number }.encode()), None);
        assert_eq!(Cursor::decode(""), None);
        assert_eq!(Cursor::decode("t_abc"), None);
        assert_eq!(Cursor::decode(&"A".repeat(5_000)), None);
    }

    /// A page must cost the same among a thousand or ten million.
    #[tokio::test(flavor = "multi_thread")]
    async fn pages_come_from_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let kek = crate::Kek::load_or_create(&folder.path().join("kek")).unwrap();
        let config = crate::StoreConfig::new(folder.path().join("store.db"));
        let store = crate::Store::open(&config, kek).await.unwrap();
        let base = ListQuery::new(Kind::Tenant);
        let after =
            Cursor { sort: Sort::Created, order: Order::Desc, value: SortValue::Number(7), id: "x".into() };
        let one = || Some("x".to_owned());
        for (list, index, sorts) in [
            (base.clone(), "resources_by_age", false),
            (ListQuery { after: Some(after.clone()), ..base.clone() }, "resources_by_age", false),
            (ListQuery { sort: Sort::Label, ..base.clone() }, "resources_by_label", false),
            (ListQuery { label: one(), ..base.clone() }, "resources_by_label (kind=? AND label=?)", true),
            (ListQuery { sort: Sort::Status, ..base.clone() }, "resources_by_status", false),
            (ListQuery { sort: Sort::Updated, ..base.clone() }, "resources_by_update", false),
            (ListQuery { sort: Sort::Id, ..base.clone() }, "resources_by_id", false),
            (
                ListQuery { parent: one(), after: Some(after.clone()), ..base.clone() },
                "resources_siblings",
                false,
            ),
            (ListQuery { tenant: one(), ..base.clone() }, "resources_of_tenant", false),
            (ListQuery { brands: Some(vec!["x".into()]), ..base.clone() }, "resources_of_brand", false),
            (ListQuery { status: Some(Status::Failed), ..base.clone() }, "resources_in_status", false),
            (
                ListQuery {
                    status: Some(Status::Active),
                    tenant_suspended: Some(false),
                    ..ListQuery::new(Kind::Zone)
                },
                "resources_in_status",
                false,
            ),
            (
                ListQuery {
                    status: Some(Status::Active),
                    tenant_suspended: Some(true),
                    ..ListQuery::new(Kind::Zone)
                },
                "resources_of_tenant",
                true,
            ),
            (
                ListQuery {
                    facets: vec![("customer_id".into(), "c".into())],
                    after: Some(after),
                    ..base.clone()
                },
                "SEARCH f0 USING PRIMARY KEY (kind=? AND field=? AND value=?)",
                true,
            ),
        ] {
            let sql = build(&list, Rows::Page(51), Dialect::Sqlite);
            let mut explain = QueryBuilder::new("EXPLAIN QUERY PLAN ");
            explain.push(sql.text());
            let rows = store.read().await.unwrap().all(explain.build()).await.unwrap();
            let plan: Vec<String> = rows.iter().map(|row| row.try_get(3).unwrap()).collect();
            let plan = plan.join("; ");
            assert!(plan.contains(index), "{list:?}: {plan}");
            assert!(!plan.contains("SCAN r"), "{list:?}: {plan}");
            assert_eq!(plan.contains("TEMP B-TREE"), sorts, "{list:?}: {plan}");
        }
    }

    #[test]
    fn wildcards_are_escaped() {
        assert_eq!(like_pattern("50%_a\\"), "%50\\%\\_a\\\\%");
    }
}
