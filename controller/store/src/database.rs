//! Which database a store is in: a file of SQLite, or PostgreSQL.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::{StoreError, sql};

/// Where a store's rows are. As text: a path, or a connection string that begins with `postgres://` or `postgresql://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// A file; beside it lie `-wal` and `-shm`. For one controller.
    Sqlite(PathBuf),
    /// A database of a PostgreSQL server, in the schema that its user finds first. For any number of controllers.
    Postgres(PostgresUrl),
}

/// A connection string for PostgreSQL, e.g. `postgres://hosting@db.example:5432/hosting?sslmode=verify-full`. It may hold a password,
/// so it is not shown: Debug and Display say where the server is.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(Arc<Zeroizing<String>>);

impl PostgresUrl {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PostgresUrl {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        sql::postgres_place(text)?;
        Ok(Self(Arc::new(Zeroizing::new(text.to_owned()))))
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It was read once: that cannot fail here.
        f.write_str(&sql::postgres_place(&self.0).unwrap_or_default())
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Database {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return text.parse().map(Self::Postgres);
        }
        if text.is_empty() || text.contains("://") {
            return Err(StoreError::value(
                "database",
                "this is neither a path nor a postgres:// connection string",
            ));
        }
        Ok(Self::Sqlite(PathBuf::from(text)))
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_in_no_text() {
        let database: Database =
            "postgres://hosting:hunter2@db.example:6432/cell?sslmode=require".parse().unwrap();
        for text in [database.to_string(), format!("{database:?}")] {
            assert!(text.contains("postgres://db.example:6432/cell"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        for odd in ["postgres://hosting:hunter2@db.example:port/", "mysql://hunter2", ""] {
            let error = odd.parse::<Database>().unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert_eq!(
            "/var/lib/x/store.db".parse::<Database>().unwrap(),
            Database::Sqlite("/var/lib/x/store.db".into())
        );
    }
}
