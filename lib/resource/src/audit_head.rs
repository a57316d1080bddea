//! Signed heads of the audit chain (ADR 28): what is signed, and how heads follow one another. Signing and verifying are somebody else's.
//!
//! A head says which link the log ended with at a time. Whoever has an earlier one finds out a log that was rewritten since, though all
//! of its links were made anew.

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

/// What stands first in what is signed, so that a signature is good for nothing else.
const PURPOSE: &str = "hosting-audit-head-v1";

/// A signed head. Bytes are hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// Counts heads, from 1.
    pub number: u64,
    /// When it was signed, RFC 3339, UTC.
    pub at: String,
    /// The cell whose log it is.
    pub cell: String,
    /// The newest revision at that time.
    pub revision: u64,
    /// Id of the newest row.
    pub row_id: String,
    /// That row's link.
    pub link: String,
    /// SHA-256 over what the head before signed; empty for the first one.
    pub previous: String,
    /// The Ed25519 public key that verifies it (RFC 8032).
    pub key: String,
    /// The public key that signs from the next head on; absent while that is the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
    /// Ed25519 over [`AuditHead::signed_text`].
    pub signature: String,
}

impl AuditHead {
    /// What is signed: a JSON array of the purpose and the fields in the order of [`AuditHead`], without the signature and without spaces,
    /// what is absent as null.
    #[must_use]
    pub fn signed_text(&self) -> String {
        json!([
            PURPOSE,
            self.number,
            self.at,
            self.cell,
            self.revision,
            self.row_id,
            self.link,
            self.previous,
            self.key,
            self.successor,
        ])
        .to_string()
    }

    /// What the next head has as `previous`.
    #[must_use]
    pub fn digest(&self) -> String {
        Sha256::digest(self.signed_text()).iter().fold(String::with_capacity(64), |mut text, byte| {
            use std::fmt::Write;
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// The key that verifies the next head.
    #[must_use]
    pub fn next_key(&self) -> &str {
        self.successor.as_deref().unwrap_or(&self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> AuditHead {
        AuditHead {
            number: 7,
            at: "2026-11-29T10:00:00.000Z".into(),
            cell: "c".into(),
            revision: 4712,
            row_id: "r".into(),
            link: "aa".into(),
            previous: "bb".into(),
            key: "cc".into(),
            successor: None,
            signature: "dd".into(),
        }
    }

    /// What others compute must not change: a promise, so it stands here as text.
    #[test]
    fn what_is_signed_is_what_the_documentation_says() {
        let text =
            r#"["hosting-audit-head-v1",7,"2026-11-29T10:00:00.000Z","c",4712,"r","aa","bb","cc",null]"#;
        assert_eq!(head().signed_text(), text);
        let with = AuditHead { successor: Some("ee".into()), ..head() };
        assert!(with.signed_text().ends_with(r#""cc","ee"]"#));
        assert_eq!((with.next_key(), head().next_key()), ("ee", "cc"));
        assert_ne!(with.digest(), head().digest());
        assert_eq!(head().digest(), AuditHead { signature: "xx".into(), ..head() }.digest());
    }
}
