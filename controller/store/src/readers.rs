//! The keys of audiences: what seals secrets for the subscribers of one, and who of them can open it.
//!
//! An audience has no key before something is sealed for it. A subscriber that is gone, or comes with another key pair, makes a new
//! version: what is sealed from then on, the former one does not open.

use hosting_intent::{Audience, message as m};
use hosting_intent_sync::sealing::{AudienceKey, Place, SealError};
use hosting_planner::{Admitted, KeyShare, SealFor, SealedFor};
use prost::Message;

use crate::data_keys::HeldKey;
use crate::sql;
use crate::{ReadTx, Store, StoreError, WriteTx, batch};

impl From<SealError> for StoreError {
    fn from(error: SealError) -> Self {
        Self::Sql(error.to_string().into())
    }
}

fn scope_of(audience: &Audience) -> String {
    format!("audience/{audience}")
}

fn key_of(held: &HeldKey) -> AudienceKey {
    AudienceKey::new(held.version, (*held.bytes).clone())
}

fn reader(bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    bytes.try_into().map_err(|_| StoreError::row("a sealing key has not 32 bytes".to_owned()))
}

/// A version of an audience's key, sealed to one node.
struct Share {
    node: String,
    version: u32,
    share: m::AudienceKey,
}

impl ReadTx {
    /// The sealing key that a node last had in an audience.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn sealing_key(
        &mut self,
        audience: &Audience,
        node: &str,
    ) -> Result<Option<[u8; 32]>, StoreError> {
        let query = sql::query("SELECT sealing_key FROM readers WHERE audience = ? AND node = ?")
            .bind(audience.to_string())
            .bind(node.to_owned());
        let Some(row) = self.optional(query).await? else { return Ok(None) };
        reader(&row.try_get::<Vec<u8>>(0)?).map(Some)
    }

    pub(crate) async fn read_key_shares(&mut self, audience: &Audience) -> Result<Vec<KeyShare>, StoreError> {
        let query = sql::query(
            "SELECT s.version, r.sealing_key, s.share FROM key_shares s \
             JOIN readers r ON r.audience = s.audience AND r.node = s.node \
             WHERE s.audience = ? ORDER BY s.node, s.version",
        )
        .bind(audience.to_string());
        let mut shares = Vec::new();
        for row in self.all(query).await? {
            let share: Vec<u8> = row.try_get(2)?;
            shares.push(KeyShare {
                version: row.try_get(0)?,
                reader: reader(&row.try_get::<Vec<u8>>(1)?)?,
                share: m::AudienceKey::decode(share.as_slice())
                    .map_err(|error| StoreError::row(format!("share of {audience}: {error}")))?,
            });
        }
        Ok(shares)
    }

    async fn readers(&mut self, audience: &Audience) -> Result<Vec<(String, [u8; 32])>, StoreError> {
        let query = sql::query("SELECT node, sealing_key FROM readers WHERE audience = ? ORDER BY node")
            .bind(audience.to_string());
        let mut readers = Vec::new();
        for row in self.all(query).await? {
            readers.push((row.try_get(0)?, reader(&row.try_get::<Vec<u8>>(1)?)?));
        }
        Ok(readers)
    }
}

impl WriteTx {
    /// Makes the next version of an audience's key, for everybody who reads it.
    async fn renew_audience_key(&mut self, audience: &Audience) -> Result<HeldKey, StoreError> {
        let held = self.next_key(&scope_of(audience)).await?;
        let key = key_of(&held);
        let mut shares = Vec::new();
        for (node, reader) in self.beside().readers(audience).await? {
            // One subscriber's unusable key is no matter of the others.
            match key.share(audience, &reader) {
                Ok(share) => shares.push(Share { node, version: held.version, share }),
                Err(error) => {
                    tracing::error!(%audience, node, %error, "a subscriber gets no key: its own cannot be used")
                }
            }
        }
        self.put_shares(audience, &shares).await?;
        Ok(held)
    }

    async fn put_shares(&mut self, audience: &Audience, shares: &[Share]) -> Result<(), StoreError> {
        let audience = audience.to_string();
        batch::insert(
            self.beside(),
            "INSERT INTO key_shares (audience, version, node, share)",
            "ON CONFLICT (audience, node, version) DO UPDATE SET share = excluded.share",
            shares,
            |row, share| {
                row.push_bind(audience.clone()).push_bind(share.version);
                row.push_bind(share.node.clone()).push_bind(share.share.encode_to_vec());
            },
        )
        .await?;
        Ok(())
    }

    pub(super) async fn seal_for(&mut self, wanted: SealFor<'_>) -> Result<Option<SealedFor>, StoreError> {
        let SealFor { audience, key, field, place, secret } = wanted;
        let Some(plain) = self.open_secret(place, secret).await? else { return Ok(None) };
        let (held, is_first) = match self.newest_key(&scope_of(audience)).await? {
            Some(held) => (held, false),
            None => (self.renew_audience_key(audience).await?, true),
        };
        let sealed = key_of(&held).seal(Place { audience, key, field }, plain.expose())?;
        Ok(Some(SealedFor { sealed, is_first }))
    }

    pub(super) async fn admit_reader(
        &mut self,
        audience: &Audience,
        node: &str,
        sealing_key: &[u8; 32],
    ) -> Result<Admitted, StoreError> {
        let before = self.beside().sealing_key(audience, node).await?;
        if before.as_ref() == Some(sealing_key) {
            return Ok(Admitted::Known);
        }
        let keys = self.all_keys(&scope_of(audience)).await?;
        // Before anything is written: a key that nothing can be sealed to is refused.
        let mut shares = Vec::new();
        for held in &keys {
            let share = key_of(held)
                .share(audience, sealing_key)
                .map_err(|_| StoreError::value("sealing_key", "is no X25519 public key".to_owned()))?;
            shares.push(Share { node: node.to_owned(), version: held.version, share });
        }
        self.remove_reader(audience, node).await?;
        let query = sql::query("INSERT INTO readers (audience, node, sealing_key) VALUES (?, ?, ?)")
            .bind(audience.to_string())
            .bind(node.to_owned())
            .bind(sealing_key.to_vec());
        self.execute(query).await?;
        self.put_shares(audience, &shares).await?;
        match (keys.is_empty(), before) {
            (true, _) => Ok(Admitted::NothingSealed),
            (false, None) => Ok(Admitted::Added),
            (false, Some(_)) => {
                self.renew_audience_key(audience).await?;
                Ok(Admitted::Replaced)
            }
        }
    }

    pub(super) async fn expel_reader(&mut self, audience: &Audience, node: &str) -> Result<bool, StoreError> {
        if !self.remove_reader(audience, node).await? || self.newest_key(&scope_of(audience)).await?.is_none()
        {
            return Ok(false);
        }
        self.renew_audience_key(audience).await?;
        Ok(true)
    }

    /// Whether it was one.
    async fn remove_reader(&mut self, audience: &Audience, node: &str) -> Result<bool, StoreError> {
        let query = sql::query("DELETE FROM readers WHERE audience = ? AND node = ?")
            .bind(audience.to_string())
            .bind(node.to_owned());
        let was_one = self.execute(query).await? > 0;
        if was_one {
            let query = sql::query("DELETE FROM key_shares WHERE audience = ? AND node = ?")
                .bind(audience.to_string())
                .bind(node.to_owned());
            self.execute(query).await?;
        }
        Ok(was_one)
    }
}

impl Store {
    /// The sealing key that a node last had in an audience.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn sealing_key(&self, audience: &Audience, node: &str) -> Result<Option<[u8; 32]>, StoreError> {
        self.read().await?.sealing_key(audience, node).await
    }
}
