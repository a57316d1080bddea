//! Webhooks, and the audit log, as operators' scripts use them.

use std::fs;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use hosting_resource::audit_chain::{ChainedRow, link};
use hosting_resource::audit_head::AuditHead;
use serde_json::{Value, json};

use crate::{StandIn, UUID, hostctl, missing, page, words};

#[test]
fn webhooks_are_tested_delivered_to_again_and_given_a_new_secret() {
    let api = StandIn::new(|method, target, body| match (method, target) {
        ("GET", target) if target.starts_with("/api/v1/webhooks?") => {
            page(json!([{"id": UUID, "name": "billing"}]))
        }
        ("GET", target) if target.contains("/deliveries?") => page(json!([
            {"id": "evt_1", "type": "resource.updated", "status": "retrying", "attempts": 3, "response_status": 503},
        ])),
        ("POST", target) if target.ends_with("/rotate-secret") => {
            assert_eq!(serde_json::from_str::<Value>(body).unwrap(), json!({"overlap_seconds": 60}));
            (200, json!({"secret": "whsec_new", "former_secret_until": "2026-11-29T00:00:00Z"}))
        }
        ("POST", _) => (202, json!({"id": "test_1", "status": "pending"})),
        _ => missing(),
    });
    let shown = api.run(&["webhooks", "deliveries", "billing"]);
    let text = words(&shown.stdout);
    assert!(
        shown.status.success() && ["evt_1", "retrying", "503"].iter().all(|one| text.contains(one)),
        "{text}"
    );
    let tested = api.run(&["webhooks", "test", "billing"]);
    assert!(words(&tested.stdout).contains("test_1"), "{tested:?}");
    let again = api.run(&["webhooks", "redeliver", UUID, "evt_1"]);
    assert!(again.status.success(), "{again:?}");
    let rotated = api.run(&["webhooks", "rotate-secret", UUID, "--overlap-seconds", "60"]);
    assert_eq!(words(&rotated.stdout).trim(), "whsec_new");
    let seen = api.seen();
    for path in [
        format!("{UUID}/test"),
        format!("{UUID}/deliveries/evt_1/redeliver"),
        format!("{UUID}/rotate-secret"),
    ] {
        assert!(seen.contains(&format!("POST /api/v1/webhooks/{path}")), "{path}: {seen:?}");
    }
}

/// The rows of a log that was rewritten fit one another, and not the head that was signed before.
#[test]
fn a_rewritten_audit_log_is_found_by_a_head_from_elsewhere() {
    let log = |path: &str| {
        let (mut before, mut rows) = (Vec::new(), Vec::new());
        for n in 0..4 {
            let (id, at) = (format!("row-{n}"), format!("2026-11-29T10:00:0{n}.000Z"));
            let row = ChainedRow {
                id: &id,
                created_at: &at,
                api_key_id: None,
                method: "PUT",
                path: if n == 1 { path } else { "/same" },
                resource_type: "zones",
                resource_id: None,
                status_code: 200,
                request_body: None,
                revision: Some(n),
            };
            before = link(&before, &row).to_vec();
            rows.push(json!({
                "id": id, "created_at": at, "method": "PUT", "path": row.path, "resource_type": "zones", "status_code": 200,
                "revision": n, "link": hex::encode(&before),
            }));
        }
        rows
    };
    let key = Ed25519KeyPair::generate().unwrap();
    let honest = log("/what-was");
    let mut head = AuditHead {
        number: 1,
        at: "2026-11-29T10:00:03.500Z".into(),
        cell: "c".into(),
        revision: 2,
        row_id: "row-2".into(),
        link: honest[2]["link"].as_str().unwrap().into(),
        previous: String::new(),
        key: hex::encode(key.public_key().as_ref()),
        successor: None,
        signature: String::new(),
    };
    head.signature = hex::encode(key.sign(head.signed_text().as_bytes()));
    let noted = tempfile::NamedTempFile::new().unwrap();
    fs::write(noted.path(), format!("INFO a head of the audit log is signed head={}\n", json!(head)))
        .unwrap();
    let noted = noted.path().to_str().unwrap();
    // Whoever rewrote the database took the heads out of it.
    let serve = |rows: Vec<Value>, heads: Value| {
        StandIn::new(move |_, target, _| match target {
            target if target.starts_with("/api/v1/audit/heads") => page(heads.clone()),
            _ => page(Value::Array(rows.clone())),
        })
    };
    let api = serve(honest, json!([head]));
    for arguments in [&["audit", "verify"][..], &["audit", "verify", "--heads", noted, "--key", &head.key]] {
        let verified = api.run(arguments);
        assert!(
            verified.status.success() && words(&verified.stdout).contains("1 signed heads"),
            "{verified:?}"
        );
    }
    let strange = "0".repeat(64);
    assert_eq!(api.run(&["audit", "verify", "--key", &strange]).status.code(), Some(1));
    let exported = words(&api.run(&["audit", "export"]).stdout);
    assert!(exported.lines().count() == 5 && exported.contains("audit_head"), "{exported}");
    let rewritten = serve(log("/what-was-not"), json!([]));
    assert!(rewritten.run(&["audit", "verify"]).status.success(), "its links were made anew");
    let found = rewritten.run(&["audit", "verify", "--heads", noted]);
    assert_eq!(found.status.code(), Some(1));
    assert!(words(&found.stdout).contains("rewritten"), "{found:?}");
    // The same over the file that was exported before.
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &exported).unwrap();
    let path = file.path().to_str().unwrap();
    let offline = hostctl(&["audit", "verify", "--file", path, "--key", &head.key]).output().unwrap();
    assert!(offline.status.success() && words(&offline.stdout).contains("1 signed heads"), "{offline:?}");
}
