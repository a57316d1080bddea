//! Keys that the store holds, sealed by the key-encryption key: one for each tenant, by which secrets of its resources are sealed, one
//! for the platform's own, one for each audience ([`crate::readers`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hosting_planner::Draft;
use hosting_resource::{Owns, PlainText, Resource, SealedText, SecretPlace};
use zeroize::Zeroizing;

use crate::kek::{GcmKey, random_key};
use crate::sql;
use crate::{Kek, Origin, ReadTx, Secret, Store, StoreError, WriteTx, batch};

/// What the scope of a tenant's key begins with.
const TENANT: &str = "tenant/";

/// A key of the store, opened.
#[derive(Clone)]
pub(crate) struct HeldKey {
    pub(crate) version: u32,
    pub(crate) bytes: Arc<Zeroizing<[u8; 32]>>,
}

/// The keys that a mutation opened or made. They go with it: a key of a mutation that is rolled back must seal nothing.
#[derive(Default)]
pub(crate) struct OpenedKeys {
    /// The version that seals, by scope.
    newest: BTreeMap<String, HeldKey>,
    others: BTreeMap<(String, u32), HeldKey>,
}

/// The name that binds a wrapped key to its place.
fn name_of(scope: &str, version: u32) -> String {
    format!("key {version} of {scope}")
}

/// Whose key seals what stands there.
fn scope_of(place: &SecretPlace) -> String {
    place.tenant.as_ref().map_or_else(|| "platform".to_owned(), |tenant| format!("{TENANT}{tenant}"))
}

impl ReadTx {
    /// A version of a scope's key, the newest one by default; `None` when there is none.
    async fn held_key(
        &mut self,
        kek: &Kek,
        scope: &str,
        version: Option<u32>,
    ) -> Result<Option<HeldKey>, StoreError> {
        let query = match version {
            Some(version) => {
                sql::query("SELECT version, kek_id, wrapped FROM wrapped_keys WHERE scope = ? AND version = ?")
                    .bind(scope.to_owned())
                    .bind(version)
            }
            None => sql::query(
                "SELECT version, kek_id, wrapped FROM wrapped_keys WHERE scope = ? ORDER BY version DESC LIMIT 1",
            )
            .bind(scope.to_owned()),
        };
        let Some(row) = self.optional(query).await? else { return Ok(None) };
        let (version, kek_id, wrapped): (u32, String, Vec<u8>) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let name = name_of(scope, version);
        let opened = kek.unseal(&kek_id, &name, &wrapped)?;
        let bytes =
            opened.expose().try_into().map_err(|_| StoreError::row(format!("{name}: wrong length")))?;
        Ok(Some(HeldKey { version, bytes: Arc::new(Zeroizing::new(bytes)) }))
    }
}

impl WriteTx {
    /// The key of a scope that seals; `None` when there is none yet.
    pub(crate) async fn newest_key(&mut self, scope: &str) -> Result<Option<HeldKey>, StoreError> {
        if let Some(known) = self.opened().newest.get(scope) {
            return Ok(Some(known.clone()));
        }
        let kek = self.kek();
        let held = self.beside().held_key(&kek, scope, None).await?;
        if let Some(held) = &held {
            self.opened().newest.insert(scope.to_owned(), held.clone());
        }
        Ok(held)
    }

    /// Makes the next version of a scope's key, which seals from now on.
    pub(crate) async fn next_key(&mut self, scope: &str) -> Result<HeldKey, StoreError> {
        let version = self.newest_key(scope).await?.map_or(0, |held| held.version);
        let version =
            version.checked_add(1).ok_or_else(|| StoreError::row(format!("{scope} has no versions left")))?;
        let bytes = random_key()?;
        let kek = self.kek();
        let query = sql::query(
            "INSERT INTO wrapped_keys (scope, version, kek_id, wrapped, created_at) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(scope.to_owned())
        .bind(version)
        .bind(kek.id().to_owned())
        .bind(kek.seal(&name_of(scope, version), bytes.as_slice())?)
        .bind(self.now());
        self.execute(query).await?;
        let held = HeldKey { version, bytes: Arc::new(bytes) };
        self.opened().newest.insert(scope.to_owned(), held.clone());
        Ok(held)
    }

    /// Every version of a scope's key.
    pub(crate) async fn all_keys(&mut self, scope: &str) -> Result<Vec<HeldKey>, StoreError> {
        let query = sql::query("SELECT version FROM wrapped_keys WHERE scope = ? ORDER BY version")
            .bind(scope.to_owned());
        let mut keys = Vec::new();
        for row in self.all(query).await? {
            let version: u32 = row.try_get(0)?;
            keys.extend(self.key_version(scope, version).await?);
        }
        Ok(keys)
    }

    async fn key_version(&mut self, scope: &str, version: u32) -> Result<Option<HeldKey>, StoreError> {
        let at = (scope.to_owned(), version);
        if let Some(known) = self.opened().others.get(&at) {
            return Ok(Some(known.clone()));
        }
        let kek = self.kek();
        let held = self.beside().held_key(&kek, scope, Some(version)).await?;
        if let Some(held) = &held {
            self.opened().others.insert(at, held.clone());
        }
        Ok(held)
    }

    /// Seals a secret for its place, under the key of its tenant, which is made when it is first needed.
    pub(crate) async fn seal_secret(
        &mut self,
        place: &SecretPlace,
        text: &PlainText,
    ) -> Result<SealedText, StoreError> {
        let scope = scope_of(place);
        let held = match self.newest_key(&scope).await? {
            Some(held) => held,
            None => self.next_key(&scope).await?,
        };
        let sealed = GcmKey::new(&held.bytes)?.seal(&place.to_bytes(), text.expose().as_bytes())?;
        Ok(SealedText { key: held.version, sealed: STANDARD_NO_PAD.encode(sealed), set_at: self.now() })
    }

    /// Opens what [`WriteTx::seal_secret`] sealed for the same place; `None` when it does not open.
    pub(crate) async fn open_secret(
        &mut self,
        place: &SecretPlace,
        sealed: &SealedText,
    ) -> Result<Option<Secret>, StoreError> {
        let held = self.key_version(&scope_of(place), sealed.key).await?;
        Ok(held.and_then(|held| open(&held, place, sealed)))
    }
}

fn open(held: &HeldKey, place: &SecretPlace, sealed: &SealedText) -> Option<Secret> {
    let bytes = STANDARD_NO_PAD.decode(&sealed.sealed).ok()?;
    GcmKey::new(&held.bytes).ok()?.open(&place.to_bytes(), &bytes)
}

impl WriteTx {
    /// Whether something opens that was sealed for a place.
    ///
    /// # Errors
    /// When the store cannot be read, or the key file does not hold the key that is needed.
    pub async fn opens(&mut self, place: &SecretPlace, sealed: &SealedText) -> Result<bool, StoreError> {
        Ok(self.open_secret(place, sealed).await?.is_some())
    }
}

impl Store {
    /// Seals a text for a place outside of all resources: nothing of it is kept.
    ///
    /// # Errors
    /// When the store fails: the tenant's key is made when it is first needed.
    pub async fn seal_apart(
        &self,
        origin: Origin,
        place: SecretPlace,
        text: PlainText,
    ) -> Result<SealedText, StoreError> {
        let sealed =
            self.write(origin, move |tx| Box::pin(async move { tx.seal_secret(&place, &text).await }));
        Ok(sealed.await?.value)
    }

    /// Opens a secret of a resource; `None` when it does not open: it was sealed for another place, or altered.
    ///
    /// # Errors
    /// When the store cannot be read, or the key file does not hold the key that is needed.
    pub async fn open_secret(
        &self,
        place: &SecretPlace,
        sealed: &SealedText,
    ) -> Result<Option<Secret>, StoreError> {
        let kek = self.kek();
        let held = self.read().await?.held_key(&kek, &scope_of(place), Some(sealed.key)).await?;
        Ok(held.and_then(|held| open(&held, place, sealed)))
    }
}

impl WriteTx {
    /// Drops the keys of tenants that are removed, with them: what they sealed opens no more.
    pub(crate) async fn drop_keys_of(&mut self, removed: &[Resource]) -> Result<(), StoreError> {
        let tenants = removed.iter().filter(|gone| gone.kind.info().owns == Owns::Tenant);
        let scopes: Vec<String> = tenants.map(|gone| format!("{TENANT}{}", gone.id)).collect();
        batch::delete(self.beside(), "DELETE FROM wrapped_keys", &["scope"], &scopes, |scope, _| {
            scope.clone()
        })
        .await?;
        Ok(())
    }
}

/// Wraps some of the keys anew that a former key-encryption key wrapped; answers how many.
pub(crate) async fn rewrap(tx: &mut WriteTx, kek: &Kek, former: &str, limit: u32) -> Result<u64, StoreError> {
    let query = sql::query(
        "SELECT scope, version, wrapped FROM wrapped_keys WHERE kek_id = ? ORDER BY scope, version LIMIT ?",
    )
    .bind(former.to_owned())
    .bind(limit);
    let mut rows = 0;
    for row in tx.all(query).await? {
        let (scope, version, wrapped): (String, u32, Vec<u8>) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let name = name_of(&scope, version);
        let plain = kek.unseal(former, &name, &wrapped)?;
        let query = sql::query(
            "UPDATE wrapped_keys SET kek_id = ?, wrapped = ? WHERE scope = ? AND version = ? AND kek_id = ?",
        )
        .bind(kek.id().to_owned())
        .bind(kek.seal(&name, plain.expose())?)
        .bind(scope)
        .bind(version)
        .bind(former.to_owned());
        rows += tx.execute(query).await?;
    }
    Ok(rows)
}
