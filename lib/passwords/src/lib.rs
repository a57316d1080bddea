//! Passwords of basic authentication: made into hashes by the controller, checked against them by edges and the controller.
//!
//! Both take tens of milliseconds and tens of megabytes on purpose: callers keep them off the threads that serve requests, and bound how
//! many run at once. What may stand in a hash is said by [`hosting_intent::basic_auth`].

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hosting_intent::basic_auth::PasswordHash;
use subtle::ConstantTimeEq as _;

/// What new hashes cost (OWASP's first choice for Argon2id): memory in KiB, passes, lanes.
const NEW: (u32, u32, u32) = (19_456, 2, 1);
/// Bytes of a new salt.
pub const SALT_BYTES: usize = 16;
/// Bytes of a new hash.
const HASH_BYTES: usize = 32;

/// Base64 without padding. Writers of hashes differ in the bits that are left over at its end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// There was not enough memory for a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory;

/// Makes the hash of a password (Argon2id). `salt` is random.
///
/// # Errors
/// [`OutOfMemory`].
pub fn hash(password: &[u8], salt: &[u8; SALT_BYTES]) -> Result<String, OutOfMemory> {
    let (memory, passes, lanes) = NEW;
    let mut out = [0; HASH_BYTES];
    argon2id(NEW, password, salt, &mut out).ok_or(OutOfMemory)?;
    let (salt, hash) = (BASE64.encode(salt), BASE64.encode(out));
    Ok(format!("$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${hash}"))
}

/// Whether a password is the one that a hash was made of. Compares in the same time wherever the two differ. What is no hash has no password.
#[must_use]
pub fn verify(password: &[u8], hash: &str) -> bool {
    match PasswordHash::parse(hash) {
        Ok(PasswordHash::Argon2id { memory, passes, lanes, salt, hash }) => {
            let (Ok(salt), Ok(hash)) = (BASE64.decode(salt), BASE64.decode(hash)) else { return false };
            let mut out = vec![0; hash.len()];
            argon2id((memory, passes, lanes), password, &salt, &mut out)
                .is_some_and(|()| out.ct_eq(&hash).into())
        }
        // bcrypt looks at the first 72 bytes; whoever made the hash did so too.
        Ok(PasswordHash::Bcrypt(hash)) => bcrypt::verify(password, hash).unwrap_or_default(),
        Err(_) => false,
    }
}

fn argon2id(
    (memory, passes, lanes): (u32, u32, u32),
    password: &[u8],
    salt: &[u8],
    out: &mut [u8],
) -> Option<()> {
    let parameters = Params::new(memory, passes, lanes, Some(out.len())).ok()?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters).hash_password_into(password, salt, out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_one_password_and_can_be_applied() {
        let made = hash("pässword".as_bytes(), &[7; SALT_BYTES]).unwrap();
        assert!(matches!(PasswordHash::parse(&made), Ok(PasswordHash::Argon2id { .. })), "{made}");
        assert!(verify("pässword".as_bytes(), &made));
        assert!(!verify(b"password", &made) && !verify(b"", &made));
        assert_ne!(made, hash("pässword".as_bytes(), &[8; SALT_BYTES]).unwrap());
    }

    /// Made by the reference implementation (`argon2 somesalt -id -t 2 -m 16 -p 1`, RFC 9106) and by `htpasswd -nbB`.
    #[test]
    fn hashes_of_others_are_understood() {
        let argon2 = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(verify(b"password", argon2) && !verify(b"passwort", argon2));
        let bcrypt = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";
        assert!(verify(b"myPassword", bcrypt) && !verify(b"mypassword", bcrypt));
        assert!(!verify(b"secret", "secret") && !verify(b"", ""));
    }
}
