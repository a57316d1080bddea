//! Signed heads of the audit chain (ADR 28): made now and then of the newest row, by a key that is sealed as other keys of the controller are.

use aws_lc_rs::encoding::{AsDer, Pkcs8V2Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use hosting_planner::Draft;
use hosting_resource::audit_head::AuditHead;
use hosting_resource::timestamp;

use crate::error::{from_sql, to_sql};
use crate::sql::{self, QueryBuilder, Row};
use crate::{ReadTx, Store, StoreError, WriteTx};

/// Where the key that signs is sealed (PKCS#8).
const SEALED: &str = "audit signing key";
/// Heads that one transaction deletes.
const CHUNK: u32 = 1_000;
const COLUMNS: &str = "number, at, revision, row_id, link, previous, key, successor, signature";

impl Store {
    /// Signs the newest row of the audit log; `None` when the newest head has it already, or there is none.
    ///
    /// # Errors
    /// When the store or the cryptographic library fails.
    pub async fn sign_audit_head(&self) -> Result<Option<AuditHead>, StoreError> {
        self.status_write(|tx| Box::pin(async move { tx.sign_head(None).await })).await
    }

    /// Deletes heads from before a time (milliseconds since the Unix epoch), some at once; answers how many. The newest one stays.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn prune_audit_heads(&self, before: i64) -> Result<u64, StoreError> {
        self.status_write(move |tx| {
            Box::pin(async move {
                let query = sql::query(
                    "DELETE FROM audit_heads WHERE number IN (SELECT number FROM audit_heads WHERE at < ?1 \
                     AND number < (SELECT max(number) FROM audit_heads) ORDER BY at, number LIMIT ?2)",
                );
                tx.execute(query.bind(before).bind(CHUNK)).await
            })
        })
        .await
    }
}

impl WriteTx {
    /// Puts a new key in the place of the one that signs: a head that the former one signs says so.
    ///
    /// # Errors
    /// When the store or the cryptographic library fails.
    pub async fn replace_audit_key(&mut self) -> Result<AuditHead, StoreError> {
        let (new, pkcs8) = fresh()?;
        let head = self.sign_head(Some(public(&new))).await?;
        self.put_sealed(SEALED, &pkcs8, false).await?;
        head.ok_or_else(|| StoreError::row("no head was signed"))
    }

    /// With a successor there is a head in any case.
    async fn sign_head(&mut self, successor: Option<String>) -> Result<Option<AuditHead>, StoreError> {
        let newest =
            self.optional(sql::query("SELECT id, link FROM audit ORDER BY seq DESC LIMIT 1")).await?;
        let (row_id, link) = match newest {
            Some(row) => (row.try_get::<String>(0)?, hex::encode(row.try_get::<Vec<u8>>(1)?)),
            None => (String::new(), String::new()),
        };
        let last = self.beside().newest_head().await?;
        let is_known = link.is_empty() || last.as_ref().is_some_and(|last| last.link == link);
        if is_known && successor.is_none() {
            return Ok(None);
        }
        let key = self.audit_key().await?;
        let at = self.now();
        let mut head = AuditHead {
            number: last.as_ref().map_or(1, |last| last.number + 1),
            at: timestamp(at),
            cell: self.cell().to_owned(),
            revision: self.beside().head(),
            row_id,
            link,
            previous: last.as_ref().map(AuditHead::digest).unwrap_or_default(),
            key: public(&key),
            successor,
            signature: String::new(),
        };
        head.signature = hex::encode(key.sign(head.signed_text().as_bytes()));
        let query = sql::query(
            "INSERT INTO audit_heads (number, at, revision, row_id, link, previous, key, successor, signature) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(to_sql("number", head.number)?)
        .bind(at)
        .bind(to_sql("revision", head.revision)?)
        .bind(&head.row_id)
        .bind(&head.link)
        .bind(&head.previous)
        .bind(&head.key)
        .bind(head.successor.clone())
        .bind(&head.signature);
        self.execute(query).await?;
        Ok(Some(head))
    }

    /// The key that signs, made when it is first needed.
    async fn audit_key(&mut self) -> Result<Ed25519KeyPair, StoreError> {
        let Some((kek_id, sealed)) = self.beside().sealed(SEALED).await? else {
            let (key, pkcs8) = fresh()?;
            self.put_sealed(SEALED, &pkcs8, false).await?;
            return Ok(key);
        };
        let opened = self.kek().unseal(&kek_id, SEALED, &sealed)?;
        // The error must not quote what it could not read.
        Ed25519KeyPair::from_pkcs8(opened.expose())
            .map_err(|_| StoreError::row("the key that signs heads of the audit log cannot be read"))
    }
}

impl ReadTx {
    async fn newest_head(&mut self) -> Result<Option<AuditHead>, StoreError> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(COLUMNS).push(" FROM audit_heads ORDER BY number DESC LIMIT 1");
        self.audit_heads_of(sql.build()).await.map(|mut heads| heads.pop())
    }

    /// Signed heads behind a number, in order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn audit_heads(&mut self, after: u64, limit: u32) -> Result<Vec<AuditHead>, StoreError> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(COLUMNS).push(" FROM audit_heads WHERE number > ").push_bind(to_sql("number", after)?);
        sql.push(" ORDER BY number LIMIT ").push_bind(limit);
        self.audit_heads_of(sql.build()).await
    }

    async fn audit_heads_of(&mut self, query: sql::Query) -> Result<Vec<AuditHead>, StoreError> {
        let cell = self.cell_id().await?;
        self.all(query).await?.iter().map(|row| head(row, &cell)).collect()
    }

    async fn cell_id(&mut self) -> Result<String, StoreError> {
        let row = self.optional(sql::query("SELECT cell FROM head WHERE id = 1")).await?;
        row.ok_or_else(|| StoreError::row("there is no head row"))?.try_get(0)
    }
}

fn head(row: &Row, cell: &str) -> Result<AuditHead, StoreError> {
    Ok(AuditHead {
        number: from_sql("number", row.try_get(0)?)?,
        at: timestamp(row.try_get(1)?),
        cell: cell.to_owned(),
        revision: from_sql("revision", row.try_get(2)?)?,
        row_id: row.try_get(3)?,
        link: row.try_get(4)?,
        previous: row.try_get(5)?,
        key: row.try_get(6)?,
        successor: row.try_get(7)?,
        signature: row.try_get(8)?,
    })
}

fn fresh() -> Result<(Ed25519KeyPair, zeroize::Zeroizing<Vec<u8>>), StoreError> {
    let failed = |_| StoreError::Sql("the cryptographic library made no key".into());
    let key = Ed25519KeyPair::generate().map_err(failed)?;
    let pkcs8: Pkcs8V2Der<'static> = key.as_der().map_err(failed)?;
    let bytes = zeroize::Zeroizing::new(pkcs8.as_ref().to_vec());
    Ok((key, bytes))
}

fn public(key: &Ed25519KeyPair) -> String {
    hex::encode(key.public_key().as_ref())
}
