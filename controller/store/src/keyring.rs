//! The key-encryption key in use, its rotation while the store is written to, and what is derived and outlives rotations.

use std::sync::{Arc, PoisonError, RwLock};

use hosting_intent::edge_key::ClusterEdgeKey;
use zeroize::Zeroizing;

use crate::kek::random_key;
use crate::sql::{self, Connection};
use crate::{Kek, ReadTx, Store, StoreError, WriteTx, data_keys};

/// Where the bytes are sealed that keys are derived from which stay the same when the key-encryption key changes.
const ROOT: &str = "derivation root";
/// Rows that one step of a rotation seals anew: mutations wait that long.
const STEP: u32 = 100;

/// The key-encryption key as it is now; all clones see a rotation at once.
#[derive(Debug, Clone)]
pub(crate) struct SharedKek(Arc<RwLock<Kek>>);

impl SharedKek {
    pub(crate) fn new(kek: Kek) -> Self {
        Self(Arc::new(RwLock::new(kek)))
    }

    pub(crate) fn get(&self) -> Kek {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, kek: Kek) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = kek;
    }
}

/// The derivation root, made where there is none: at random for a new store. In a store of an older build it is the key-encryption key
/// itself, from which that build derived, so that nothing derived changes.
pub(crate) async fn derivation_root(
    connection: &mut Connection,
    kek: &Kek,
    sealed_by: &str,
    is_new: bool,
) -> Result<Zeroizing<[u8; 32]>, StoreError> {
    let root = match kek.bytes_of(sealed_by) {
        Some(bytes) if !is_new => Zeroizing::new(*bytes),
        Some(_) | None => random_key()?,
    };
    let query = sql::query(
        "INSERT INTO secrets (name, kek_id, sealed, updated_at) VALUES (?, ?, ?, 0) ON CONFLICT (name) DO NOTHING",
    )
    .bind(ROOT)
    .bind(kek.id())
    .bind(kek.seal(ROOT, root.as_slice())?);
    connection.execute(query).await?;
    let rows =
        connection.rows(sql::query("SELECT kek_id, sealed FROM secrets WHERE name = ?").bind(ROOT)).await?;
    let row = rows.first().ok_or_else(|| StoreError::row("there is no derivation root"))?;
    let (kek_id, sealed): (String, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
    let root = kek.unseal(&kek_id, ROOT, &sealed)?;
    let wrong = |_| StoreError::row("the derivation root has a wrong length".to_owned());
    Ok(Zeroizing::new(root.expose().try_into().map_err(wrong)?))
}

/// The first key-encryption key that something in the store needs and the file does not hold. Costs a look for each key there is, not for
/// each row.
pub(crate) async fn missing_key(
    connection: &mut Connection,
    kek: &Kek,
) -> Result<Option<String>, StoreError> {
    let next = [
        "SELECT min(kek_id) FROM wrapped_keys WHERE kek_id > ?",
        "SELECT min(kek_id) FROM secrets WHERE kek_id > ?",
        "SELECT min(kek_id) FROM head WHERE kek_id > ?",
    ];
    for next in next {
        let mut after = String::new();
        loop {
            let rows = connection.rows(sql::query(next).bind(after)).await?;
            let id = rows.first().map_or(Ok(None), |row| row.try_get::<Option<String>>(0))?;
            let Some(id) = id else { break };
            if !kek.holds(&id) {
                return Ok(Some(id));
            }
            after = id;
        }
    }
    Ok(None)
}

/// How far a rotation of the key-encryption key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resealed {
    /// Rows that this step sealed anew.
    pub rows: u64,
    /// Everything is sealed by the current key: the former ones open nothing that is in the store.
    pub done: bool,
}

impl Store {
    /// The key that seals this store's secrets, and those before it.
    #[must_use]
    pub fn kek(&self) -> Kek {
        self.0.keys.get()
    }

    /// Takes over the key file as it is now: what is written from now on is sealed by its current key. Call [`Store::reseal`] until it
    /// is done.
    ///
    /// # Errors
    /// [`StoreError`] when rows are sealed by a key that `kek` does not hold; the one before stays in use.
    pub async fn use_kek(&self, kek: Kek) -> Result<(), StoreError> {
        let before = self.kek();
        let mut tx = self.read().await?;
        for id in before.former_ids().chain([before.id()]).filter(|id| !kek.holds(id)) {
            if tx.seals(id).await? {
                return Err(StoreError::row(format!(
                    "the key file no longer holds key {id}, which still seals something in the store; put it back"
                )));
            }
        }
        self.0.keys.set(kek);
        Ok(())
    }

    /// Whether the current key alone opens everything.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn is_resealed(&self) -> Result<bool, StoreError> {
        let kek = self.kek();
        let mut tx = self.read().await?;
        for id in kek.former_ids() {
            if tx.seals(id).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Seals some of what a former key sealed with the current one. Other writes go in between; a crash between two steps costs
    /// nothing, because each row says which key it needs.
    ///
    /// # Errors
    /// When the store fails, or a row does not open: it is left as it is, and so is the rotation.
    pub async fn reseal(&self) -> Result<Resealed, StoreError> {
        self.status_write(|tx| Box::pin(tx.reseal())).await
    }

    /// What the edges of a cluster share, derived from this store's root.
    #[must_use]
    pub fn cluster_edge_key(&self, cluster_id: &str) -> ClusterEdgeKey {
        ClusterEdgeKey::derive(self.0.root.as_slice(), cluster_id)
    }

    /// A key of its own for one purpose, which `context` names (BLAKE3's key derivation mode): hard-coded, and never used for
    /// anything else. The same whenever it is asked for, whatever key-encryption key is in use.
    #[must_use]
    pub fn derive(&self, context: &'static str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(context, self.0.root.as_slice()))
    }
}

impl ReadTx {
    /// Whether anything in the store is sealed by a key-encryption key.
    async fn seals(&mut self, kek_id: &str) -> Result<bool, StoreError> {
        let query = sql::query(
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM wrapped_keys WHERE kek_id = ?1) \
             OR EXISTS (SELECT 1 FROM secrets WHERE kek_id = ?1) \
             OR EXISTS (SELECT 1 FROM head WHERE kek_id = ?1)",
        )
        .bind(kek_id.to_owned());
        Ok(self.optional(query).await?.is_some())
    }
}

impl WriteTx {
    async fn reseal(&mut self) -> Result<Resealed, StoreError> {
        let kek = self.kek();
        let mut rows = 0;
        for former in kek.former_ids() {
            let query = sql::query("SELECT name, sealed FROM secrets WHERE kek_id = ? ORDER BY name LIMIT ?")
                .bind(former.to_owned())
                .bind(STEP);
            for row in self.all(query).await? {
                let (name, sealed): (String, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
                let plain = kek.unseal(former, &name, &sealed)?;
                let query =
                    sql::query("UPDATE secrets SET kek_id = ?, sealed = ? WHERE name = ? AND kek_id = ?")
                        .bind(kek.id().to_owned())
                        .bind(kek.seal(&name, plain.expose())?)
                        .bind(name)
                        .bind(former.to_owned());
                rows += self.execute(query).await?;
            }
            rows += data_keys::rewrap(self, &kek, former, STEP).await?;
            if rows > 0 {
                return Ok(Resealed { rows, done: false });
            }
        }
        // The head names the key that is needed whatever else there is: last, so that a store is never said to need only a key that
        // does not open all of it.
        let query = sql::query("UPDATE head SET kek_id = ? WHERE id = 1 AND kek_id <> ?")
            .bind(kek.id().to_owned())
            .bind(kek.id().to_owned());
        self.execute(query).await?;
        Ok(Resealed { rows: 0, done: true })
    }
}
