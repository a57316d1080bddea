//! Statements for many rows: one for each chunk of [`CHUNK`] rows. Their texts differ by the number of rows only, so that they stay
//! prepared.

use sqlx::query_builder::Separated;
use sqlx::{Encode, QueryBuilder, Sqlite, Type};

use crate::{ReadTx, StoreError};

/// Rows of one statement.
pub(crate) const CHUNK: usize = 32;

/// `{head} VALUES (..), (..) {tail}`; answers the number of rows that it changed.
pub(crate) async fn insert<T>(
    tx: &mut ReadTx,
    head: &'static str,
    tail: &'static str,
    rows: &[T],
    mut bind: impl FnMut(&mut Separated<'_, Sqlite, &'static str>, &T),
) -> Result<u64, StoreError> {
    let mut changed = 0;
    for rows in rows.chunks(CHUNK) {
        let mut sql = QueryBuilder::<Sqlite>::new(head);
        sql.push(" ");
        sql.push_values(rows, |mut values, row| bind(&mut values, row));
        sql.push(" ").push(tail);
        changed += tx.execute(sql.build()).await?;
    }
    Ok(changed)
}

/// `{head} WHERE (a = ? AND b = ?) OR (..)`: SQLite looks each of them up in an index, where it would scan for a list of rows.
pub(crate) async fn delete<T>(
    tx: &mut ReadTx,
    head: &'static str,
    columns: &[&'static str],
    rows: &[T],
    mut bind: impl FnMut(&T, usize) -> String,
) -> Result<u64, StoreError> {
    let mut changed = 0;
    for rows in rows.chunks(CHUNK) {
        let mut sql = QueryBuilder::<Sqlite>::new(head);
        any_of(&mut sql, columns, rows, |sql, row, column| {
            sql.push_bind(bind(row, column));
        });
        changed += tx.execute(sql.build()).await?;
    }
    Ok(changed)
}

/// ` WHERE (a = ? AND b = ?) OR (..)`.
pub(crate) fn any_of<T>(
    sql: &mut QueryBuilder<Sqlite>,
    columns: &[&'static str],
    rows: &[T],
    mut bind: impl FnMut(&mut QueryBuilder<Sqlite>, &T, usize),
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

/// `(?, ?, ..)`.
pub(crate) fn list<T>(sql: &mut QueryBuilder<Sqlite>, values: &[T])
where
    T: Clone + Send + 'static + for<'e> Encode<'e, Sqlite> + Type<Sqlite>,
{
    sql.push("(");
    let mut separated = sql.separated(", ");
    for value in values {
        separated.push_bind(value.clone());
    }
    sql.push(")");
}
