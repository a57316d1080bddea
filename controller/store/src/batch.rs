//! Statements for many rows: one for each of some [`chunks`]. Their texts differ by the number of rows only, and those are few, so that
//! they stay prepared.

use crate::sql::{QueryBuilder, Separated, Value};
use crate::{ReadTx, StoreError};

/// Most rows of one statement.
pub(crate) const CHUNK: usize = 128;
/// Up to this many rows are one statement whatever their number is.
const FEW: usize = 8;

/// Rows by statement: up to eight together, of more a power of two.
pub(crate) fn chunks<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let some = match rows.len() {
            0 => return None,
            few @ ..=FEW => few,
            many => (1 << many.ilog2()).min(CHUNK),
        };
        let (chunk, rest) = rows.split_at_checked(some)?;
        rows = rest;
        Some(chunk)
    })
}

/// `{head} VALUES (..), (..) {tail}`; answers the number of rows that it changed.
pub(crate) async fn insert<T>(
    tx: &mut ReadTx,
    head: &'static str,
    tail: &'static str,
    rows: &[T],
    mut bind: impl FnMut(&mut Separated<'_>, &T),
) -> Result<u64, StoreError> {
    let mut changed = 0;
    for rows in chunks(rows) {
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
    for rows in chunks(rows) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_of_few_sizes_and_hold_every_row_once() {
        let rows: Vec<usize> = (0..1_000).collect();
        let sizes = |count: usize| -> Vec<usize> { chunks(&rows[..count]).map(<[usize]>::len).collect() };
        assert_eq!(sizes(0), Vec::<usize>::new());
        assert_eq!(sizes(7), [7]);
        assert_eq!(sizes(29), [16, 8, 5]);
        assert_eq!(sizes(300), [128, 128, 32, 8, 4]);
        for count in [1, 8, 9, 127, 1_000] {
            let all: Vec<usize> = chunks(&rows[..count]).flatten().copied().collect();
            assert_eq!(all, rows[..count]);
        }
    }
}
