//! The secret of each API key that signs callbacks. It is sealed in the store, and shown once, when it is made anew.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hosting_store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::outgoing::Signer;

/// A replaced secret signs beside the new one for so long, in milliseconds: receivers have a day to take the new one.
pub const OVERLAP: i64 = 24 * 3_600_000;
/// As long as the digest (RFC 2104 §3).
const SECRET_BYTES: usize = 32;

/// As it is sealed.
#[derive(Serialize, Deserialize)]
struct Secrets {
    /// Base64.
    current: Zeroizing<String>,
    /// Base64; it signs too until `replaced_at` and [`OVERLAP`] are over.
    previous: Option<Zeroizing<String>>,
    /// Milliseconds since the Unix epoch.
    replaced_at: i64,
}

/// Under which the store keeps the sealed secrets of an API key.
fn name_of(key: &str) -> String {
    format!("callback/{key}")
}

fn fresh() -> Zeroizing<String> {
    let random = Zeroizing::new(rand::random::<[u8; SECRET_BYTES]>());
    Zeroizing::new(STANDARD.encode(random.as_slice()))
}

fn sealed(secrets: &Secrets) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let bytes = serde_json::to_vec(secrets).map_err(|error| StoreError::Row(error.to_string().into()))?;
    Ok(Zeroizing::new(bytes))
}

fn opened(bytes: &[u8]) -> Result<Secrets, StoreError> {
    // The error must not quote what it could not read.
    serde_json::from_slice(bytes).map_err(|_| StoreError::Row("a callback secret cannot be read".into()))
}

/// Makes the secret of an API key anew; as receivers' libraries take it, `whsec_` and base64. The one before signs along for a day.
///
/// # Errors
/// When the store fails.
pub async fn rotate(store: &Store, key: &str) -> Result<Zeroizing<String>, StoreError> {
    let before = match store.unseal(&name_of(key)).await? {
        Some(secret) => Some(opened(secret.expose())?.current),
        None => None,
    };
    let secrets = Secrets { current: fresh(), previous: before, replaced_at: store.now() };
    store.seal(&name_of(key), &sealed(&secrets)?).await?;
    Ok(Zeroizing::new(format!("whsec_{}", secrets.current.as_str())))
}

/// What signs the callbacks of an API key; one that never had a secret gets one, which nobody has seen yet.
///
/// # Errors
/// When the store fails.
pub(super) async fn signer(store: &Store, key: &str) -> Result<Signer, StoreError> {
    let secret = match store.unseal(&name_of(key)).await? {
        Some(secret) => secret,
        None => {
            let secrets = Secrets { current: fresh(), previous: None, replaced_at: 0 };
            store.seal_once(&name_of(key), &sealed(&secrets)?).await?
        }
    };
    let Secrets { current, previous, replaced_at } = opened(secret.expose())?;
    let overlaps = store.now() < replaced_at.saturating_add(OVERLAP);
    let live = std::iter::once(&current).chain(previous.as_ref().filter(|_| overlaps));
    Signer::of(live.map(|text| text.as_str()))
        .ok_or_else(|| StoreError::Row("a callback secret cannot be read".into()))
}
