//! Lists for the API: filters, visibility, sort, and pages by keyset.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hosting_resource::{Kind, Resource, Status};
use serde::{Deserialize, Serialize};

use crate::batch;
use crate::read_tx::{RESOURCE, resource};
use crate::sql::{Dialect, QueryBuilder, Row};
use crate::{ReadTx, StoreError};

/// Longest cursor that is looked at, in bytes: a label and an id, encoded.
const MAX_CURSOR_BYTES: usize = 4096;

/// Reads that a page takes at most where it has to leave out what is deleted and kept.
const READS: usize = 4;

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

/// What to list. A page looks at a bounded number of rows: where no index has all conditions together it may have fewer than `limit` items,
/// even none, and a next one.
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
    /// Standing here. What is deleted and kept is listed only where it is asked for.
    pub status: Option<Status>,
    /// Only what belongs to a suspended tenant, or only what does not. For kinds that a tenant's suspension covers.
    pub tenant_suspended: Option<bool>,
    /// Having this label.
    pub label: Option<String>,
    /// What this text finds ([`hosting_resource::search::SearchText::finds`]).
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
        if list.brands.as_deref().is_some_and(<[_]>::is_empty) {
            return Ok(Page { items: Vec::new(), next: None });
        }
        if !list.is_one_range() {
            return Ok(self.narrow_page(list, limit as usize).await?);
        }
        let mut list = list.clone();
        let mut items = Vec::new();
        for _ in 0..READS {
            let query = build(&list, Rows::Page(limit + 1), self.dialect());
            let rows = self.all(query.build()).await?;
            let mut more = rows.len() > limit as usize;
            let mut place = None;
            for row in rows.iter().take(limit as usize) {
                if items.len() == limit as usize {
                    more = true;
                    break;
                }
                let item = resource(row)?;
                place = Some(Cursor::behind(&list, list.sort.value_of(&item)?, item.id.clone()));
                if list.status.is_some() || item.status != Status::Deleted {
                    items.push(item);
                }
            }
            list.after = place.filter(|_| more);
            if list.after.is_none() || items.len() == limit as usize {
                break;
            }
        }
        Ok(Page { items, next: list.after })
    }
}

/// Which rows of a list a statement answers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// The next ones, at most so many.
    Page(u32),
    /// The next ones of the range that the list goes along, at most so many: id, label, the column of the sort, and whether it is in the
    /// list.
    Names(u32),
    /// The same of those in the list with these ids, in any order, whatever the cursor.
    NamesOf(&'a [String]),
}

/// One of the conditions of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition<'a> {
    Label(&'a str),
    Parent(&'a str),
    Tenant(&'a str),
    Brands(&'a [String]),
    Status(Status),
    NotDeleted,
    TenantSuspended(bool),
    Facet(&'a str, &'a str),
}

impl Condition<'_> {
    fn push(self, kind: Kind, sql: &mut QueryBuilder) {
        match self {
            Self::Label(label) => sql.push("r.label = ").push_bind(label),
            Self::Parent(parent) => sql.push("r.parent = ").push_bind(parent),
            Self::Tenant(tenant) => sql.push("r.tenant = ").push_bind(tenant),
            // The usual caller has one, and then an index gives the order too.
            Self::Brands([brand]) => sql.push("r.brand = ").push_bind(brand),
            Self::Brands(brands) => {
                sql.push("r.brand IN ");
                batch::list(sql, brands);
                sql
            }
            Self::Status(status) => sql.push("r.status = ").push_bind(status.as_str()),
            Self::NotDeleted => sql.push("r.status <> ").push_bind(Status::Deleted.as_str()),
            // Scalars: what EXISTS asks for, PostgreSQL may read as a whole.
            Self::TenantSuspended(is_suspended) => {
                sql.push("coalesce((SELECT t.status FROM resources t WHERE t.id = r.tenant AND t.kind = ");
                sql.push_bind(Kind::Tenant.name());
                sql.push(if is_suspended { "), '') = " } else { "), '') <> " });
                sql.push_bind(Status::Suspended.as_str())
            }
            Self::Facet(field, value) => {
                sql.push("(SELECT 1 FROM facets f WHERE f.kind = ").push_bind(kind.name());
                sql.push(" AND f.field = ").push_bind(field).push(" AND f.value = ").push_bind(value);
                sql.push(" AND f.id = r.id) IS NOT NULL")
            }
        };
    }
}

impl ListQuery {
    fn conditions(&self) -> Vec<Condition<'_>> {
        let texts = [
            self.label.as_deref().map(Condition::Label),
            self.parent.as_deref().map(Condition::Parent),
            self.tenant.as_deref().map(Condition::Tenant),
            self.brands.as_deref().map(Condition::Brands),
            Some(self.status.map_or(Condition::NotDeleted, Condition::Status)),
            self.tenant_suspended.map(Condition::TenantSuspended),
        ];
        let facets = self.facets.iter().map(|(field, value)| Condition::Facet(field, value));
        texts.into_iter().flatten().chain(facets).collect()
    }

    /// Whether the list goes along this: few have it, or an index gives its rows in the list's order. The first one that is, is.
    fn is_way(&self, condition: Condition<'_>) -> bool {
        match condition {
            Condition::Label(_) | Condition::Parent(_) | Condition::Tenant(_) => true,
            Condition::Brands(brands) => brands.len() == 1 && self.sort == Sort::Created,
            Condition::Status(_) => matches!(self.sort, Sort::Created | Sort::Status | Sort::Id),
            Condition::NotDeleted | Condition::TenantSuspended(_) | Condition::Facet(..) => false,
        }
    }

    /// Whether the database finds the list's rows in one range of an index, and none beside them: then a page costs what it shows.
    fn is_one_range(&self) -> bool {
        let conditions = self.conditions();
        let others = match conditions.iter().position(|condition| self.is_way(*condition)) {
            Some(_) => conditions.len() - 1,
            None => conditions.len(),
        };
        // What is kept is few among many: pages leave it out once they are read.
        let others = others - usize::from(conditions.contains(&Condition::NotDeleted));
        self.search().is_none() && (others == 0 || self.is_suspended())
    }

    /// Whether its length is kept: no conditions but brands and a status.
    pub(crate) fn is_counted(&self) -> bool {
        let is_kept = |condition: &Condition<'_>| {
            matches!(condition, Condition::Brands(_) | Condition::Status(_) | Condition::NotDeleted)
        };
        self.search().is_none() && self.conditions().iter().all(is_kept)
    }

    /// What is looked for, if anything is.
    pub(crate) fn search(&self) -> Option<&str> {
        self.search.as_deref().filter(|search| !search.is_empty())
    }

    /// What belongs to suspended tenants: these are few, and the list goes along them.
    fn is_suspended(&self) -> bool {
        self.tenant_suspended == Some(true) && self.facets.is_empty()
    }
}

pub(crate) fn build(list: &ListQuery, rows: Rows<'_>, dialect: Dialect) -> QueryBuilder {
    let conditions = list.conditions();
    let way = conditions.iter().copied().find(|condition| list.is_way(*condition));
    let (ahead, behind): (Vec<_>, Vec<_>) = match rows {
        Rows::Page(_) => {
            (conditions.into_iter().filter(|one| *one != Condition::NotDeleted).collect(), Vec::new())
        }
        Rows::NamesOf(_) => (conditions, Vec::new()),
        Rows::Names(_) => conditions.into_iter().partition(|condition| Some(*condition) == way),
    };
    let mut sql = QueryBuilder::new("SELECT ");
    match rows {
        Rows::Page(_) => {
            sql.push(RESOURCE);
        }
        Rows::Names(_) | Rows::NamesOf(_) => {
            sql.push("r.id, r.label, ").push(list.sort.column()).push(", CAST(CASE WHEN 1 = 1");
            for condition in behind {
                sql.push(" AND ");
                condition.push(list.kind, &mut sql);
            }
            sql.push(" THEN 1 ELSE 0 END AS BIGINT)");
        }
    };
    sql.push(" FROM ");
    let by_suspended = matches!(rows, Rows::Page(_)) && list.is_suspended();
    if by_suspended {
        // CROSS JOIN is how SQLite is told to begin there.
        sql.push("resources t CROSS JOIN ");
    }
    sql.push("resources r");
    if list.label.is_some() && dialect == Dialect::Sqlite && !matches!(rows, Rows::NamesOf(_)) {
        // Few have one label; left alone, SQLite takes the index that gives the order.
        sql.push(" INDEXED BY resources_by_label");
    }
    sql.push(" WHERE r.kind = ").push_bind(list.kind.name());
    if let Rows::NamesOf(ids) = rows {
        sql.push(" AND r.id IN ");
        batch::list(&mut sql, ids);
    }
    for condition in ahead {
        sql.push(" AND ");
        if by_suspended && condition == Condition::TenantSuspended(true) {
            sql.push("r.tenant = t.id AND t.kind = ").push_bind(Kind::Tenant.name());
            sql.push(" AND t.status = ").push_bind(Status::Suspended.as_str());
        } else {
            condition.push(list.kind, &mut sql);
        }
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
        ] {
            let rows = if list.is_one_range() { Rows::Page(51) } else { Rows::Names(51) };
            let sql = build(&list, rows, Dialect::Sqlite);
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

    /// Conditions that no index has together are looked at row by row, of a bounded number of rows.
    #[test]
    fn what_is_no_range_goes_along_one() {
        let base = ListQuery::new(Kind::Zone);
        let brands = Some(vec!["x".to_owned()]);
        let facets = vec![("region_id".to_owned(), "r".to_owned())];
        for (list, along) in [
            (ListQuery { facets: facets.clone(), ..base.clone() }, "WHERE r.kind = ? ORDER"),
            (
                ListQuery { facets, brands: brands.clone(), ..base.clone() },
                "WHERE r.kind = ? AND r.brand = ? ORDER",
            ),
            (
                ListQuery { status: Some(Status::Failed), brands: brands.clone(), ..base.clone() },
                "WHERE r.kind = ? AND r.brand = ? ORDER",
            ),
            (ListQuery { brands, sort: Sort::Label, ..base.clone() }, "WHERE r.kind = ? ORDER"),
            (
                ListQuery { parent: Some("x".into()), status: Some(Status::Failed), ..base },
                "WHERE r.kind = ? AND r.parent = ? ORDER",
            ),
        ] {
            assert!(!list.is_one_range(), "{list:?}");
            let sql = build(&list, Rows::Names(9), Dialect::Sqlite);
            assert!(sql.text().contains(along), "{list:?}: {}", sql.text());
        }
    }

    #[test]
    fn wildcards_are_escaped() {
        assert_eq!(like_pattern("50%_a\\"), "%50\\%\\_a\\\\%");
    }
}
