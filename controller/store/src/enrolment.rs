//! Which enrolment of a node is the newest: what came before it belongs to a machine that was replaced.

use crate::error::{from_sql, to_sql};
use crate::sql::{self, Row};
use crate::{ReadTx, Store, StoreError, WriteTx};

/// The newest enrolment of a node's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// The role that the process plays; `""`: the whole node.
    pub role: String,
    /// Milliseconds since the Unix epoch; orders the enrolments of a node.
    pub at: i64,
    /// The revision that created the node resource that was enrolled.
    pub incarnation: u64,
}

impl Store {
    /// Records an enrolment; it comes after every other one of the node. Answers its place in that order: `at`, or later.
    ///
    /// # Errors
    /// When the store fails; the enrolment may be recorded then.
    pub async fn enrol(&self, node: &str, enrolled: Enrolled) -> Result<i64, StoreError> {
        let node = node.to_owned();
        self.status_write(move |tx| {
            Box::pin(async move {
                let query =
                    sql::query("SELECT coalesce(max(at), 0) FROM enrolments WHERE node = ?").bind(&node);
                let last = to_sql("at", tx.number(query).await?)?;
                let at = enrolled.at.max(last.saturating_add(1));
                put(tx, &node, &Enrolled { at, ..enrolled }).await?;
                Ok(at)
            })
        })
        .await
    }

    /// Records an enrolment that this store does not know, because it was put back to an older copy meanwhile. Nothing
    /// happens if a newer one is known.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn learn_enrolment(&self, node: &str, enrolled: Enrolled) -> Result<(), StoreError> {
        let node = node.to_owned();
        self.status_write(move |tx| Box::pin(async move { put(tx, &node, &enrolled).await })).await
    }
}

async fn put(tx: &mut WriteTx, node: &str, enrolled: &Enrolled) -> Result<(), StoreError> {
    let query = sql::query(
        "INSERT INTO enrolments (node, role, at, incarnation) VALUES (?, ?, ?, ?) ON CONFLICT (node, role) DO UPDATE \
         SET at = excluded.at, incarnation = excluded.incarnation WHERE excluded.at > enrolments.at",
    )
    .bind(node)
    .bind(&enrolled.role)
    .bind(enrolled.at)
    .bind(to_sql("incarnation", enrolled.incarnation)?);
    tx.execute(query).await?;
    Ok(())
}

impl ReadTx {
    /// The newest enrolment of each of a node's roles.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn enrolments(&mut self, node: &str) -> Result<Vec<Enrolled>, StoreError> {
        let query = sql::query("SELECT role, at, incarnation FROM enrolments WHERE node = ? ORDER BY role")
            .bind(node);
        let enrolled = |row: &Row| {
            Ok(Enrolled {
                role: row.try_get(0)?,
                at: row.try_get(1)?,
                incarnation: from_sql("incarnation", row.try_get(2)?)?,
            })
        };
        self.all(query).await?.iter().map(enrolled).collect()
    }
}
