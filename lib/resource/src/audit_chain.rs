//! The chain over the audit log: each row carries a digest of itself and of the row before, so that a row that was changed, taken out or put in
//! between shows to whoever has a later link.

use serde_json::json;
use sha2::{Digest, Sha256};

/// What of a row the chain covers: all of it, as the API shows it.
#[derive(Debug, Clone, Copy)]
pub struct ChainedRow<'r> {
    /// UUID.
    pub id: &'r str,
    /// RFC 3339, UTC, as [`crate::timestamp`] writes it.
    pub created_at: &'r str,
    /// Who; `None`: the controller itself.
    pub api_key_id: Option<&'r str>,
    /// HTTP method, or the name of an action of the controller itself.
    pub method: &'r str,
    /// Request path.
    pub path: &'r str,
    /// Kind of the resource.
    pub resource_type: &'r str,
    /// Its id.
    pub resource_id: Option<&'r str>,
    /// HTTP status of the answer.
    pub status_code: u16,
    /// Request body without secrets, as JSON without spaces and with the names within objects sorted: what [`serde_json::Value`] writes.
    pub request_body: Option<&'r str>,
    /// The revision that it made.
    pub revision: Option<u64>,
}

/// The link of a row behind another one, whose link is `before` (empty for the first row of all): SHA-256 over `before` and a JSON array of the
/// row's fields in the order of [`ChainedRow`], without spaces, names within objects sorted, what is absent as null.
#[must_use]
pub fn link(before: &[u8], row: &ChainedRow<'_>) -> [u8; 32] {
    let before_body = json!([
        row.id,
        row.created_at,
        row.api_key_id,
        row.method,
        row.path,
        row.resource_type,
        row.resource_id,
        row.status_code,
    ])
    .to_string();
    // The body is not parsed to be written once more: it takes its place in the array as it is.
    let open = before_body.strip_suffix(']').unwrap_or(&before_body);
    let body = row.request_body.unwrap_or("null");
    let revision = json!(row.revision);
    Sha256::new().chain_update(before).chain_update(format!("{open},{body},{revision}]")).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What others compute must not change: a promise, so it stands here as numbers.
    #[test]
    fn a_link_is_what_the_documentation_says() {
        let body = json!({"b": 1, "a": ["x", null]}).to_string();
        let row = ChainedRow {
            id: "7f0c6f0e-0000-4000-8000-000000000001",
            created_at: "2026-11-29T10:00:00.123Z",
            api_key_id: Some("key_1"),
            method: "POST",
            path: "/api/v1/zones",
            resource_type: "zones",
            resource_id: None,
            status_code: 202,
            request_body: Some(&body),
            revision: Some(7),
        };
        let text = r#"["7f0c6f0e-0000-4000-8000-000000000001","2026-11-29T10:00:00.123Z","key_1","POST","/api/v1/zones","zones",null,202,{"a":["x",null],"b":1},7]"#;
        let first = link(&[], &row);
        assert_eq!(first, <[u8; 32]>::from(Sha256::digest(text)));
        let second = link(&first, &row);
        assert_ne!(first, second);
        // Each field counts.
        let others = [
            ChainedRow { id: "x", ..row },
            ChainedRow { created_at: "x", ..row },
            ChainedRow { api_key_id: None, ..row },
            ChainedRow { method: "x", ..row },
            ChainedRow { path: "x", ..row },
            ChainedRow { resource_type: "x", ..row },
            ChainedRow { resource_id: Some("x"), ..row },
            ChainedRow { status_code: 1, ..row },
            ChainedRow { request_body: None, ..row },
            ChainedRow { revision: None, ..row },
        ];
        for other in others {
            assert_ne!(link(&[], &other), first, "{other:?}");
        }
    }
}
