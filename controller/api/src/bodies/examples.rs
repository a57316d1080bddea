//! Examples of the request bodies that belong to no kind, as they stand in the document. Ids and names are those of the kinds' own examples.

use serde_json::{Value, json};

/// An example of a named request body that its route accepts where the ids in it are there; `None` for shapes of answers.
pub(crate) fn example(name: &str) -> Option<Value> {
    let example = match name {
        "Suspend" => json!({"reason": "unpaid"}),
        "PurgeCache" => json!({"urls": ["https://www.customer-1.example/blog/*"], "tags": ["post-1"]}),
        "Rotate" => json!({"overlap_seconds": 3600}),
        "BrandClusters" => json!({"cluster_ids": ["1c1f2b57-2a4e-4f0c-8f7a-0d7d2f1f3c12"]}),
        "Runtime" => json!({"runtime": "php", "version": "8.2"}),
        "SetEnvVars" => json!({"vars": [
            {"name": "APP_ENV", "value": "production"}, {"name": "APP_KEY", "value": "kept sealed", "secret": true},
        ]}),
        "VaultPlain" => json!({"plaintext": "a text that only the tenant's sites open"}),
        "VaultToken" => json!({"token": "vault:v1:c2VhbGVk"}),
        "AuthorityRef" => json!({"fingerprint": "ab".repeat(32)}),
        "RetireAuthority" => json!({"fingerprint": "ab".repeat(32), "force": false}),
        "Reissue" => json!({"names": 500}),
        "Undo" => json!({"revision": 4711}),
        "Drain" => json!({"force": false}),
        "NewSettings" => json!({"rollouts.watch_seconds": "60"}),
        "NewOidcClient" => json!({
            "id": "panel", "secret": "a-long-client-secret", "name": "Panel", "redirect_uris": ["https://panel.example/callback"],
        }),
        "NewNodeHealth" => json!({"status": "healthy", "checks": {"disk": "ok"}}),
        "NewDriftEvents" => json!({"events": [
            {"kind": "vhost", "resource": "webroot-1", "action": "rewritten", "detail": "the file was changed by hand"},
        ]}),
        "NewIncident" => json!({
            "dedupe_key": "disk-full:web-1", "type": "disk_full", "severity": "warning", "title": "The disk of web-1 is full",
            "source": "monitoring",
        }),
        "IncidentPatch" => json!({"status": "investigating", "assigned_to": "alex"}),
        "Resolution" => json!({"resolution": "more disk"}),
        "Escalation" => json!({"reason": "needs a person in the data centre"}),
        "Cancellation" => json!({"reason": "a false alarm"}),
        "NewIncidentEvent" => json!({"action": "commented", "detail": "the disk is replaced at noon"}),
        "NewGap" => {
            json!({"tool_name": "resize_disk", "description": "makes a disk larger", "category": "remediation"})
        }
        "GapPatch" => json!({"status": "implemented"}),
        "Bulk" => json!({"items": [
            {"name": "site", "op": "create", "kind": "webroot", "parent": "t_ab12cd34ef", "body": {"runtime": "static"}},
            {
                "op": "create", "kind": "fqdn", "parent": "t_ab12cd34ef",
                "body": {"fqdn": "www.customer-1.example", "webroot_id": {"$id": "site"}},
            },
        ]}),
        _ => return None,
    };
    Some(example)
}
