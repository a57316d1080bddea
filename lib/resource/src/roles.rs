//! The roles of API keys that nobody makes.

/// Roles that there are without anybody making them: their id, for whom, and scopes.
pub const BUILT_IN: &[(&str, &str, &[&str])] = &[
    ("read-only", "sees everything, changes nothing", &["*:read"]),
    (
        "operator",
        "runs machines and looks after what fails",
        &["*:read", "regions:*", "clusters:*", "shards:*", "nodes:*", "incidents:*", "jobs:*", "undo:write"],
    ),
    (
        "support",
        "helps customers: changes what they have, deletes nothing",
        &[
            "*:read",
            "tenants:write",
            "webroots:write",
            "fqdns:write",
            "certificates:write",
            "zones:write",
            "zone_records:write",
            "incidents:write",
            "jobs:write",
            "undo:write",
        ],
    ),
    (
        "billing",
        "makes, suspends and ends customers, and assigns packages",
        &[
            "brands:read",
            "packages:read",
            "tenants:*",
            "subscriptions:*",
            "webroots:read",
            "fqdns:read",
            "zones:read",
            "events:read",
            "callbacks:*",
        ],
    ),
    (
        "brand-admin",
        "everything that a brand's key may do, but for API keys",
        &[
            "brands:*",
            "packages:*",
            "tenants:*",
            "subscriptions:*",
            "webroots:*",
            "fqdns:*",
            "certificates:*",
            "zones:*",
            "zone_records:*",
            "incidents:*",
            "jobs:*",
            "events:*",
            "webhooks:*",
            "callbacks:*",
            "undo:*",
            "*:read",
        ],
    ),
];

/// The scopes of a built-in role; `None`: there is no such one.
#[must_use]
pub fn built_in(id: &str) -> Option<&'static [&'static str]> {
    BUILT_IN.iter().find(|(known, ..)| *known == id).map(|(.., scopes)| *scopes)
}
