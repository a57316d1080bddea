//! Sealed blobs by name (the CA key and the like), and the certificate authorities that the fleet is told to trust.

use aws_lc_rs::digest;
use hosting_intent::Bytes;

use crate::sql;
use crate::{KekError, ReadTx, Secret, Store, StoreError, UnsealError, WriteTx};

impl From<KekError> for StoreError {
    fn from(error: KekError) -> Self {
        Self::Sql(error.to_string().into())
    }
}

impl From<UnsealError> for StoreError {
    fn from(error: UnsealError) -> Self {
        match error {
            UnsealError::WrongKek { .. } => Self::Row(error.to_string().into()),
            UnsealError::Altered { .. } => Self::Corrupt(error.to_string().into()),
        }
    }
}

impl Store {
    /// Seals bytes and keeps them under a name, in place of what was there.
    ///
    /// # Errors
    /// When the store or the cryptographic library fails.
    pub async fn seal(&self, name: &str, plain: &[u8]) -> Result<(), StoreError> {
        let (name, plain) = (name.to_owned(), Secret::new(plain.to_vec()));
        self.status_write(move |tx| {
            Box::pin(async move { tx.put_sealed(&name, plain.expose(), false).await.map(|_| ()) })
        })
        .await
    }

    /// The same unless there is one: whoever was first wins, and its secret is the answer.
    ///
    /// # Errors
    /// When the store or the cryptographic library fails.
    pub async fn seal_once(&self, name: &str, plain: &[u8]) -> Result<Secret, StoreError> {
        let (key, plain) = (name.to_owned(), Secret::new(plain.to_vec()));
        self.status_write(move |tx| {
            Box::pin(async move { tx.put_sealed(&key, plain.expose(), true).await.map(|_| ()) })
        })
        .await?;
        self.unseal(name).await?.ok_or_else(|| StoreError::row(format!("secret {name:?} is gone")))
    }

    /// Forgets what is sealed under a name.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn forget_sealed(&self, name: &str) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.status_write(move |tx| {
            Box::pin(async move {
                tx.execute(sql::query("DELETE FROM secrets WHERE name = ?").bind(name)).await.map(drop)
            })
        })
        .await
    }

    /// Opens what is sealed under a name; `None` when there is nothing.
    ///
    /// # Errors
    /// When it cannot be opened or read.
    pub async fn unseal(&self, name: &str) -> Result<Option<Secret>, StoreError> {
        let Some((kek_id, sealed)) = self.read().await?.sealed(name).await? else { return Ok(None) };
        Ok(Some(self.kek().unseal(&kek_id, name, &sealed)?))
    }
}

impl WriteTx {
    pub(crate) async fn put_sealed(
        &mut self,
        name: &str,
        plain: &[u8],
        keep_first: bool,
    ) -> Result<u64, StoreError> {
        // Here, not by the caller: the key must be the one that is current when the row is written.
        let kek = self.kek();
        let sealed = kek.seal(name, plain)?;
        let query = sql::query(if keep_first {
            "INSERT INTO secrets (name, kek_id, sealed, updated_at) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO NOTHING"
        } else {
            "INSERT INTO secrets (name, kek_id, sealed, updated_at) VALUES (?, ?, ?, ?) \
             ON CONFLICT (name) DO UPDATE SET kek_id = excluded.kek_id, sealed = excluded.sealed, \
             updated_at = excluded.updated_at"
        })
        .bind(name)
        .bind(kek.id().to_owned())
        .bind(sealed)
        .bind(hosting_planner::Draft::now(self));
        self.execute(query).await
    }

    /// Keeps `after` sealed under a name in place of `before`. False, and nothing is changed, when something else is there.
    ///
    /// # Errors
    /// When what is there cannot be opened, or the store or the cryptographic library fails.
    pub async fn exchange_sealed(
        &mut self,
        name: &str,
        before: &[u8],
        after: &[u8],
    ) -> Result<bool, StoreError> {
        let Some((kek_id, sealed)) = self.beside().sealed(name).await? else { return Ok(false) };
        if self.kek().unseal(&kek_id, name, &sealed)?.expose() != before {
            return Ok(false);
        }
        self.put_sealed(name, after, false).await?;
        Ok(true)
    }

    /// Adds a certificate authority (DER) that the fleet is to trust. Planning the audience units tells the fleet.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn add_trust_root(&mut self, der: &[u8]) -> Result<(), StoreError> {
        let query = sql::query(
            "INSERT INTO trust_roots (fingerprint, der, added_at) VALUES (?, ?, ?) \
                 ON CONFLICT (fingerprint) DO NOTHING",
        )
        .bind(digest::digest(&digest::SHA256, der).as_ref())
        .bind(der)
        .bind(hosting_planner::Draft::now(self));
        self.execute(query).await?;
        Ok(())
    }

    /// Takes a certificate authority (DER) back; whether there was one.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn remove_trust_root(&mut self, der: &[u8]) -> Result<bool, StoreError> {
        let query = sql::query("DELETE FROM trust_roots WHERE fingerprint = ?")
            .bind(digest::digest(&digest::SHA256, der).as_ref());
        Ok(self.execute(query).await? > 0)
    }
}

impl ReadTx {
    pub(crate) async fn sealed(&mut self, name: &str) -> Result<Option<(String, Vec<u8>)>, StoreError> {
        let query = sql::query("SELECT kek_id, sealed FROM secrets WHERE name = ?").bind(name);
        let Some(row) = self.optional(query).await? else { return Ok(None) };
        Ok(Some((row.try_get(0)?, row.try_get(1)?)))
    }

    /// Oldest first; the fingerprint breaks ties, so that the same set always reads the same.
    pub(crate) async fn read_trust_roots(&mut self) -> Result<Vec<Bytes>, StoreError> {
        let query = sql::query("SELECT der FROM trust_roots ORDER BY added_at, fingerprint");
        self.all(query).await?.iter().map(|row| Ok(Bytes::from(row.try_get::<Vec<u8>>(0)?))).collect()
    }
}
