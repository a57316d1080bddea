//! Join tokens: single-use secrets by which a new node proves that somebody wanted it. Only their hashes come here.

use crate::sql;
use crate::{ReadTx, Store, StoreError, WriteTx};

/// Spent and expired tokens are kept this long, in seconds, to tell what became of them.
const KEEP: i64 = 7 * 24 * 3600;

/// What became of a join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenUse {
    /// It was good and is used up now.
    Granted,
    /// No such token, or one for another node.
    Unknown,
    /// Used before.
    Used,
    /// Its time is over, or that of the node that it was made for.
    Expired,
}

impl Store {
    /// Keeps a new token by the SHA-256 of its secret, good once and until `expires_at`. Times in seconds since the Unix
    /// epoch.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put_join_token(
        &self,
        hash: [u8; 32],
        node: &str,
        now: i64,
        expires_at: i64,
    ) -> Result<(), StoreError> {
        let node = node.to_owned();
        self.status_write(move |tx| {
            Box::pin(async move {
                let query = sql::query("DELETE FROM join_tokens WHERE expires_at < ?");
                tx.execute(query.bind(now.saturating_sub(KEEP))).await?;
                let query = sql::query(
                    "INSERT INTO join_tokens (hash, node, created_at, expires_at) VALUES (?, ?, ?, ?)",
                );
                let query = query.bind(hash.as_slice()).bind(node).bind(now).bind(expires_at);
                tx.execute(query).await?;
                Ok(())
            })
        })
        .await
    }

    /// Spends a token: of any number of callers with the right secret one gets [`TokenUse::Granted`]. The secret is looked
    /// up by its hash, so the time it takes tells nothing of it. A token that is older than the node, because a node of the
    /// same id was deleted meanwhile, counts as expired.
    ///
    /// # Errors
    /// When the store fails; the token may be spent then.
    pub async fn consume_join_token(
        &self,
        hash: [u8; 32],
        node: &str,
        now: i64,
    ) -> Result<TokenUse, StoreError> {
        let node = node.to_owned();
        self.status_write(move |tx| Box::pin(async move { consume(tx, hash, &node, now).await })).await
    }

    /// Remembers which key an enrolment was given for a spent token: the SHA-256 of the public key, the role and the time of the
    /// enrolment.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn grant(&self, hash: [u8; 32], key: [u8; 32], role: &str, at: i64) -> Result<(), StoreError> {
        let role = role.to_owned();
        self.status_write(move |tx| {
            Box::pin(async move {
                let query = sql::query(
                    "UPDATE join_tokens SET granted_key = ?, granted_role = ?, granted_at = ? WHERE hash = ?",
                );
                let query = query.bind(key.as_slice()).bind(role).bind(at).bind(hash.as_slice());
                tx.execute(query).await.map(drop)
            })
        })
        .await
    }

    /// Makes a node's unused tokens worthless; how many there were.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn revoke_join_tokens(&self, node: &str) -> Result<u64, StoreError> {
        let node = node.to_owned();
        self.status_write(move |tx| {
            Box::pin(async move {
                let query = sql::query("DELETE FROM join_tokens WHERE node = ? AND used_at IS NULL");
                tx.execute(query.bind(node)).await
            })
        })
        .await
    }
}

impl ReadTx {
    /// The enrolment, as role and time, that a key was given for a token that was spent at `since` or later (seconds since the Unix
    /// epoch).
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn granted(
        &mut self,
        hash: [u8; 32],
        key: [u8; 32],
        since: i64,
    ) -> Result<Option<(String, i64)>, StoreError> {
        let query = sql::query(
            "SELECT granted_role, granted_at FROM join_tokens WHERE hash = ? AND granted_key = ? AND used_at >= ?",
        );
        let query = query.bind(hash.as_slice()).bind(key.as_slice()).bind(since);
        self.optional(query).await?.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
    }

    /// Whether a token could be spent now.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn is_join_token_good(
        &mut self,
        hash: [u8; 32],
        node: &str,
        now: i64,
    ) -> Result<bool, StoreError> {
        let query = sql::query(
            "SELECT 1 FROM join_tokens WHERE hash = ? AND node = ? AND used_at IS NULL AND expires_at > ?",
        );
        let query = query.bind(hash.as_slice()).bind(node).bind(now);
        Ok(self.optional(query).await?.is_some())
    }
}

async fn consume(tx: &mut WriteTx, hash: [u8; 32], node: &str, now: i64) -> Result<TokenUse, StoreError> {
    let query = sql::query(
        "UPDATE join_tokens SET used_at = ?1 WHERE hash = ?2 AND node = ?3 AND used_at IS NULL AND expires_at > ?1 \
         AND created_at >= coalesce((SELECT created_at / 1000 FROM resources WHERE id = ?3), 0)",
    );
    if tx.execute(query.bind(now).bind(hash.as_slice()).bind(node)).await? == 1 {
        return Ok(TokenUse::Granted);
    }
    let query = sql::query("SELECT used_at IS NOT NULL FROM join_tokens WHERE hash = ? AND node = ?");
    Ok(match tx.optional(query.bind(hash.as_slice()).bind(node)).await? {
        None => TokenUse::Unknown,
        Some(row) if row.try_get(0)? => TokenUse::Used,
        Some(_) => TokenUse::Expired,
    })
}
