//! The secret of each API key that signs callbacks, after the Standard Webhooks specification 1.0 (<https://www.standardwebhooks.com>):
//! HMAC-SHA256 over `<id>.<timestamp>.<body>`. It is sealed in the store, and shown once, when it is made anew.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hosting_store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

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

/// What signs an API key's callbacks now. Never printed.
pub(super) struct Signer(Vec<hmac::Key>);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({} secrets, redacted)", self.0.len())
    }
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
    let mut keys = Vec::new();
    for text in std::iter::once(current).chain(previous.filter(|_| overlaps)) {
        let bytes = STANDARD.decode(text.as_bytes());
        let bytes = bytes.map_err(|_| StoreError::Row("a callback secret cannot be read".into()))?;
        keys.push(hmac::Key::new(hmac::HMAC_SHA256, &Zeroizing::new(bytes)));
    }
    Ok(Signer(keys))
}

impl Signer {
    /// The value of `webhook-signature`: `v1,<base64>` for each secret. `timestamp` is in seconds since the Unix epoch.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut message = format!("{id}.{timestamp}.").into_bytes();
        message.extend_from_slice(body);
        let signatures =
            self.0.iter().map(|key| format!("v1,{}", STANDARD.encode(hmac::sign(key, &message))));
        signatures.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that the specification's libraries are tested with.
    #[test]
    fn the_specifications_own_example() {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signer = Signer(vec![hmac::Key::new(hmac::HMAC_SHA256, &secret)]);
        let signature =
            signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(format!("{signer:?}"), "Signer(1 secrets, redacted)");
    }
}
