-- What operators and their programs record beside resources. All times are milliseconds since the Unix epoch by the store's clock.
CREATE TABLE incidents (
    id            TEXT NOT NULL PRIMARY KEY,
    -- The order in which they came.
    seq           INTEGER NOT NULL UNIQUE,
    -- Who may see it, beside platform admins: the brand of the resource that it is about.
    brand         TEXT,
    -- Brand and dedupe_key while it is open: there is one of these.
    open_key      TEXT UNIQUE,
    dedupe_key    TEXT NOT NULL,
    type          TEXT NOT NULL,
    severity      TEXT NOT NULL,
    status        TEXT NOT NULL,
    title         TEXT NOT NULL,
    detail        TEXT NOT NULL,
    resource_type TEXT,
    resource_id   TEXT,
    source        TEXT NOT NULL,
    assigned_to   TEXT,
    resolution    TEXT,
    detected_at   INTEGER NOT NULL,
    resolved_at   INTEGER,
    escalated_at  INTEGER,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX incidents_by_brand    ON incidents (brand, seq);
CREATE INDEX incidents_by_status   ON incidents (status, seq);
CREATE INDEX incidents_by_type     ON incidents (type, seq);
CREATE INDEX incidents_by_resource ON incidents (resource_id, seq);
CREATE INDEX incidents_resolved    ON incidents (resolved_at) WHERE resolved_at IS NOT NULL;

CREATE TABLE incident_events (
    incident   TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    id         TEXT NOT NULL,
    actor      TEXT NOT NULL,
    action     TEXT NOT NULL,
    detail     TEXT NOT NULL,
    -- JSON.
    metadata   TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (incident, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE capability_gaps (
    id             TEXT NOT NULL PRIMARY KEY,
    -- Whose programs missed it; empty for the platform's.
    brand          TEXT NOT NULL,
    tool_name      TEXT NOT NULL,
    description    TEXT NOT NULL,
    category       TEXT NOT NULL,
    occurrences    INTEGER NOT NULL,
    status         TEXT NOT NULL,
    implemented_at INTEGER,
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    UNIQUE (brand, tool_name)
) STRICT, WITHOUT ROWID;
CREATE INDEX capability_gaps_by_occurrences ON capability_gaps (occurrences, id);

CREATE TABLE gap_incidents (
    gap      TEXT NOT NULL,
    incident TEXT NOT NULL,
    PRIMARY KEY (gap, incident)
) STRICT, WITHOUT ROWID;
CREATE INDEX gap_incidents_by_incident ON gap_incidents (incident, gap);

CREATE TABLE platform_config (
    name       TEXT NOT NULL PRIMARY KEY,
    value      TEXT NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The secret of a client is among the sealed blobs.
CREATE TABLE oidc_clients (
    id            TEXT NOT NULL PRIMARY KEY,
    name          TEXT NOT NULL,
    -- JSON.
    redirect_uris TEXT NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE login_sessions (
    -- SHA-256 of the session's id, hex: the id itself opens, so it is stored nowhere.
    hash       TEXT NOT NULL PRIMARY KEY,
    tenant     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX login_sessions_by_end ON login_sessions (expires_at);

CREATE TABLE node_health (
    node           TEXT NOT NULL PRIMARY KEY,
    status         TEXT NOT NULL,
    -- JSON.
    checks         TEXT NOT NULL,
    -- JSON.
    reconciliation TEXT NOT NULL,
    reported_at    INTEGER NOT NULL,
    received_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE drift_events (
    node       TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    id         TEXT NOT NULL,
    kind       TEXT NOT NULL,
    resource   TEXT NOT NULL,
    action     TEXT NOT NULL,
    detail     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (node, seq)
) STRICT, WITHOUT ROWID;
