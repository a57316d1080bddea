//! Statements and their parameters.

use std::borrow::Cow;
use std::fmt::{Display, Write};

use super::Value;

/// A statement with its parameters.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(super) text: Cow<'static, str>,
    pub(super) values: Vec<Value>,
}

/// A statement; [`Query::bind`] gives it its parameters, in the order of their `?`.
pub(crate) fn query(text: &'static str) -> Query {
    Query { text: Cow::Borrowed(text), values: Vec::new() }
}

impl Query {
    /// The next parameter.
    #[must_use]
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Whether it surely changes nothing.
    pub(crate) fn only_reads(&self) -> bool {
        self.text.starts_with("SELECT ")
    }

    /// The statement as PostgreSQL numbers parameters: `$1` for the first `?`, `$2` for `?2`. No statement of ours has a question mark
    /// of another meaning.
    pub(super) fn numbered(&self) -> String {
        let mut numbered = String::with_capacity(self.text.len() + self.values.len());
        let mut parts = self.text.split('?');
        numbered.push_str(parts.next().unwrap_or_default());
        for (place, part) in (1_usize..).zip(parts) {
            numbered.push('$');
            if !part.starts_with(|first: char| first.is_ascii_digit()) {
                // Writing to a string cannot fail.
                let _ = write!(numbered, "{place}");
            }
            numbered.push_str(part);
        }
        numbered
    }
}

/// Puts a statement together from texts of ours and parameters.
#[derive(Debug, Clone)]
pub(crate) struct QueryBuilder {
    text: String,
    values: Vec<Value>,
}

impl QueryBuilder {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), values: Vec::new() }
    }

    /// Text of ours: never anything that came from outside.
    pub(crate) fn push(&mut self, text: impl Display) -> &mut Self {
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{text}");
        self
    }

    pub(crate) fn push_bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.text.push('?');
        self.values.push(value.into());
        self
    }

    pub(crate) fn separated(&mut self, separator: &'static str) -> Separated<'_> {
        Separated { builder: self, separator, first: true }
    }

    /// `VALUES (?, ?), (?, ?)`.
    pub(crate) fn push_values<T>(&mut self, rows: &[T], mut bind: impl FnMut(&mut Separated<'_>, &T)) {
        self.push("VALUES ");
        for (n, row) in rows.iter().enumerate() {
            self.push(if n == 0 { "(" } else { ", (" });
            bind(&mut self.separated(", "), row);
            self.push(")");
        }
    }

    /// The statement so far.
    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn build(self) -> Query {
        Query { text: Cow::Owned(self.text), values: self.values }
    }
}

/// Parameters with something between them.
#[derive(Debug)]
pub(crate) struct Separated<'b> {
    builder: &'b mut QueryBuilder,
    separator: &'static str,
    first: bool,
}

impl Separated<'_> {
    pub(crate) fn push_bind(&mut self, value: impl Into<Value>) -> &mut Self {
        if !std::mem::take(&mut self.first) {
            self.builder.push(self.separator);
        }
        self.builder.push_bind(value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_in_order_or_as_they_say() {
        assert_eq!(query("SELECT ? WHERE a = ? AND b = ?").numbered(), "SELECT $1 WHERE a = $2 AND b = $3");
        assert_eq!(query("SELECT ?2, ?1, ?2").numbered(), "SELECT $2, $1, $2");
        assert_eq!(query("SELECT 1").numbered(), "SELECT 1");
        let mut builder = QueryBuilder::new("INSERT INTO t (a, b) ");
        builder.push_values(&[1_i64, 2], |row, number| {
            row.push_bind(*number).push_bind("x");
        });
        let query = builder.build();
        assert_eq!(query.numbered(), "INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4)");
        assert_eq!(query.values.len(), 4);
    }
}
