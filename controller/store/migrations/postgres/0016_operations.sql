-- What operators and their programs record beside resources. All times are milliseconds since the Unix epoch by the store's clock.
CREATE TABLE incidents (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    -- The order in which they came.
    seq           BIGINT NOT NULL UNIQUE,
    -- Who may see it, beside platform admins: the brand of the resource that it is about.
    brand         TEXT COLLATE "C",
    -- Brand and dedupe_key while it is open: there is one of these.
    open_key      TEXT COLLATE "C" UNIQUE,
    dedupe_key    TEXT COLLATE "C" NOT NULL,
    type          TEXT COLLATE "C" NOT NULL,
    severity      TEXT COLLATE "C" NOT NULL,
    status        TEXT COLLATE "C" NOT NULL,
    title         TEXT COLLATE "C" NOT NULL,
    detail        TEXT COLLATE "C" NOT NULL,
    resource_type TEXT COLLATE "C",
    resource_id   TEXT COLLATE "C",
    source        TEXT COLLATE "C" NOT NULL,
    assigned_to   TEXT COLLATE "C",
    resolution    TEXT COLLATE "C",
    detected_at   BIGINT NOT NULL,
    resolved_at   BIGINT,
    escalated_at  BIGINT,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL
);
CREATE INDEX incidents_by_brand    ON incidents (brand, seq);
CREATE INDEX incidents_by_status   ON incidents (status, seq);
CREATE INDEX incidents_by_type     ON incidents (type, seq);
CREATE INDEX incidents_by_resource ON incidents (resource_id, seq);
CREATE INDEX incidents_resolved    ON incidents (resolved_at) WHERE resolved_at IS NOT NULL;

CREATE TABLE incident_events (
    incident   TEXT COLLATE "C" NOT NULL,
    seq        BIGINT NOT NULL,
    id         TEXT COLLATE "C" NOT NULL,
    actor      TEXT COLLATE "C" NOT NULL,
    action     TEXT COLLATE "C" NOT NULL,
    detail     TEXT COLLATE "C" NOT NULL,
    -- JSON.
    metadata   TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (incident, seq)
);

CREATE TABLE capability_gaps (
    id             TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    -- Whose programs missed it; empty for the platform's.
    brand          TEXT COLLATE "C" NOT NULL,
    tool_name      TEXT COLLATE "C" NOT NULL,
    description    TEXT COLLATE "C" NOT NULL,
    category       TEXT COLLATE "C" NOT NULL,
    occurrences    BIGINT NOT NULL,
    status         TEXT COLLATE "C" NOT NULL,
    implemented_at BIGINT,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    UNIQUE (brand, tool_name)
);
CREATE INDEX capability_gaps_by_occurrences ON capability_gaps (occurrences, id);

CREATE TABLE gap_incidents (
    gap      TEXT COLLATE "C" NOT NULL,
    incident TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (gap, incident)
);
CREATE INDEX gap_incidents_by_incident ON gap_incidents (incident, gap);

CREATE TABLE platform_config (
    name       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value      TEXT COLLATE "C" NOT NULL,
    updated_at BIGINT NOT NULL
);

-- The secret of a client is among the sealed blobs.
CREATE TABLE oidc_clients (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name          TEXT COLLATE "C" NOT NULL,
    -- JSON.
    redirect_uris TEXT COLLATE "C" NOT NULL,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL
);

CREATE TABLE login_sessions (
    -- SHA-256 of the session's id, hex: the id itself opens, so it is stored nowhere.
    hash       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant     TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX login_sessions_by_end ON login_sessions (expires_at);

CREATE TABLE node_health (
    node           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    status         TEXT COLLATE "C" NOT NULL,
    -- JSON.
    checks         TEXT COLLATE "C" NOT NULL,
    -- JSON.
    reconciliation TEXT COLLATE "C" NOT NULL,
    reported_at    BIGINT NOT NULL,
    received_at    BIGINT NOT NULL
);

CREATE TABLE drift_events (
    node       TEXT COLLATE "C" NOT NULL,
    seq        BIGINT NOT NULL,
    id         TEXT COLLATE "C" NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL,
    resource   TEXT COLLATE "C" NOT NULL,
    action     TEXT COLLATE "C" NOT NULL,
    detail     TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (node, seq)
);
