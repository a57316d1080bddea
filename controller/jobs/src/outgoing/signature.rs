//! Signatures after the Standard Webhooks specification 1.0 (<https://www.standardwebhooks.com>): HMAC-SHA256 over `<id>.<timestamp>.<body>`.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// What secrets are written with in front.
const PREFIX: &str = "whsec_";

/// The secrets that sign now, the newest first. Never printed.
pub(crate) struct Signer(Vec<hmac::Key>);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({} secrets, redacted)", self.0.len())
    }
}

impl Signer {
    /// Of secrets in base64, with `whsec_` in front or without; `None` when one of them is none.
    pub(crate) fn of<'t>(secrets: impl Iterator<Item = &'t str>) -> Option<Self> {
        let key = |text: &str| {
            let bytes = STANDARD.decode(text.strip_prefix(PREFIX).unwrap_or(text)).ok()?;
            Some(hmac::Key::new(hmac::HMAC_SHA256, &Zeroizing::new(bytes)))
        };
        secrets.map(key).collect::<Option<_>>().map(Self)
    }

    /// The value of `webhook-signature`: `v1,<base64>` for each secret. `timestamp` is in seconds since the Unix epoch.
    pub(crate) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
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
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let signer = Signer::of(std::iter::once(secret)).unwrap();
        let signature =
            signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(format!("{signer:?}"), "Signer(1 secrets, redacted)");
        assert!(Signer::of(std::iter::once("no base64 at all!")).is_none());
    }
}
