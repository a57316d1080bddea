//! Statements for many rows: one for each chunk of [`CHUNK`] rows. Their texts differ by the number of rows only, so that they stay
//! prepared.

use crate::sql::{QueryBuilder, Separated, Value};
use crate::{ReadTx, StoreError};

/// Rows of one statement.
pub(crate) const CHUNK: usize = 32;

/// `{head} VALUES (..), (..) {tail}`; answers the number of rows that it changed.
pub(crate) async fn insert<T>(
    tx: &mut ReadTx,
    head: &'static str,
    tail: &'static str,
    rows: &[T],
    mut bind: impl FnMut(&mut Separated<'_>, &T),
) -> Result<u64, StoreError> {
    let mut changed = 0;
    for rows in rows.chunks(CHUNK) {
        let mut sql = QueryBuilder::new(head);
        sql.push(" ");
        sql.push_values(rows, &mut bind);
        sql.push(" ").push(tail);
        changed += tx.execute(sql.build()).await?;
    }
    Ok(changed)
}

/// `{head} WHERE (a = ? AND b = ?) OR (..)`: the databases look each of them up in an index, where SQLite would scan for a
/// list of rows.
pub(crate) async fn delete<T>(
    tx: &mut ReadTx,
    head: &'static str,
    columns: &[&'static str],
    rows: &[T],
    mut bind: impl FnMut(&T, usize) -> String,
) -> Result<u64, StoreError> {
    let mut changed = 0;
    for rows in rows.chunks(CHUNK) {
        let mut sql = QueryBuilder::new(head);
        any_of(&mut sql, columns, rows, |sql, row, column| {
            sql.push_bind(bind(row, column));
        });
        changed += tx.execute(sql.build()).await?;
    }
    Ok(changed)
}

/// ` WHERE (a = ? AND b = ?) OR (..)`.
pub(crate) fn any_of<T>(
    sql: &mut QueryBuilder,
    columns: &[&'static str],
    rows: &[T],
    mut bind: impl FnMut(&mut QueryBuilder, &T, usize),
) {
    for (n, row) in rows.iter().enumerate() {
        sql.push(if n == 0 { " WHERE " } else { " OR " });
        for (column, name) in columns.iter().enumerate() {
            sql.push(if column == 0 { "(" } else { " AND " }).push(name).push(" = ");
            bind(sql, row, column);
        }
        sql.push(")");
    }
}

/// `(?, ?, ..)`; nothing is in an empty list.
pub(crate) fn list<T>(sql: &mut QueryBuilder, values: &[T])
where
    T: Clone + Into<Value>,
{
    if values.is_empty() {
        // PostgreSQL knows no empty list.
        sql.push("(NULL)");
        return;
    }
    sql.push("(");
    let mut separated = sql.separated(", ");
    for value in values {
        separated.push_bind(value.clone());
    }
    sql.push(")");
}
