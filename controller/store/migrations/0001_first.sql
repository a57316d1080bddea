-- One row: which cell this is, and where its intent stands. Read first and written last by every group commit.
CREATE TABLE head (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    cell     TEXT    NOT NULL,
    epoch    TEXT    NOT NULL,
    revision INTEGER NOT NULL CHECK (revision >= 0),
    -- The key that seals `secrets`; another key file is refused at the start, not at the first use.
    kek_id   TEXT    NOT NULL
) STRICT;

-- Resources as documents, and what is indexed of each.

CREATE TABLE resources (
    id               TEXT    NOT NULL PRIMARY KEY,
    kind             TEXT    NOT NULL,
    parent           TEXT,
    tenant           TEXT,
    brand            TEXT,
    label            TEXT    NOT NULL,
    status           TEXT    NOT NULL,
    status_message   TEXT,
    shape            INTEGER NOT NULL,
    generation       INTEGER NOT NULL,
    created_revision INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    spec             TEXT    NOT NULL,
    state            TEXT    NOT NULL
) STRICT;

CREATE INDEX resources_by_id      ON resources (kind, id);
CREATE INDEX resources_by_age     ON resources (kind, created_revision, id);
CREATE INDEX resources_by_label   ON resources (kind, label, id);
CREATE INDEX resources_by_status  ON resources (kind, status, id);
CREATE INDEX resources_in_status  ON resources (kind, status, created_revision, id);
CREATE INDEX resources_by_update  ON resources (kind, updated_at, id);
CREATE INDEX resources_children   ON resources (parent, kind, id) WHERE parent IS NOT NULL;
CREATE INDEX resources_siblings   ON resources (parent, kind, created_revision, id) WHERE parent IS NOT NULL;
CREATE INDEX resources_of_tenant  ON resources (tenant, kind, created_revision, id) WHERE tenant IS NOT NULL;
CREATE INDEX resources_of_brand   ON resources (brand, kind, created_revision, id) WHERE brand IS NOT NULL;
-- What the gates still look at; small however many resources there are.
CREATE INDEX resources_open       ON resources (id)
    WHERE status IN ('pending', 'provisioning', 'converging', 'deleting');

-- Kept, not counted, for dashboards. brand '' = none.
CREATE TABLE resource_counts (
    kind   TEXT    NOT NULL,
    brand  TEXT    NOT NULL,
    status TEXT    NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (kind, brand, status)
) STRICT, WITHOUT ROWID;

CREATE TABLE uniques (
    kind  TEXT NOT NULL,
    scope TEXT NOT NULL,
    key   TEXT NOT NULL,
    id    TEXT NOT NULL REFERENCES resources (id),
    PRIMARY KEY (kind, scope, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX uniques_of ON uniques (id);

-- `target` has no foreign key: a change may remove both ends in any order, so both ends are checked once it is written.
CREATE TABLE refs (
    source   TEXT NOT NULL REFERENCES resources (id),
    kind     TEXT NOT NULL,
    relation TEXT NOT NULL,
    target   TEXT NOT NULL,
    PRIMARY KEY (source, relation, target)
) STRICT, WITHOUT ROWID;
CREATE INDEX refs_to ON refs (target, kind, relation, source);

CREATE TABLE facets (
    kind  TEXT NOT NULL,
    field TEXT NOT NULL,
    value TEXT NOT NULL,
    id    TEXT NOT NULL REFERENCES resources (id),
    PRIMARY KEY (kind, field, value, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX facets_of ON facets (id);

-- What machines apply.

CREATE TABLE intent_current (
    audience    TEXT    NOT NULL,
    kind        INTEGER NOT NULL,
    key         TEXT    NOT NULL,
    revision    INTEGER NOT NULL,
    owner       TEXT    NOT NULL,
    value       BLOB    NOT NULL,
    cause       INTEGER NOT NULL,
    traceparent TEXT    NOT NULL,
    PRIMARY KEY (audience, kind, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX intent_current_owner ON intent_current (owner, audience, kind, key);

-- value NULL = withdrawn.
CREATE TABLE intent_log (
    audience    TEXT    NOT NULL,
    revision    INTEGER NOT NULL,
    kind        INTEGER NOT NULL,
    key         TEXT    NOT NULL,
    op          TEXT    NOT NULL CHECK (op IN ('set', 'withdraw')),
    value       BLOB CHECK ((value IS NULL) = (op = 'withdraw')),
    cause       INTEGER NOT NULL,
    owner       TEXT    NOT NULL,
    traceparent TEXT    NOT NULL,
    PRIMARY KEY (audience, revision, kind, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE audiences (
    audience TEXT    NOT NULL PRIMARY KEY,
    revision INTEGER NOT NULL,
    floor    INTEGER NOT NULL,
    count    INTEGER NOT NULL CHECK (count >= 0),
    digest   BLOB    NOT NULL CHECK (length(digest) = 32)
) STRICT, WITHOUT ROWID;

CREATE TABLE counters (
    name  TEXT    NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE replan (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT    NOT NULL UNIQUE
) STRICT;

-- Who did what.

CREATE TABLE audit (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    id            TEXT    NOT NULL UNIQUE,
    at            INTEGER NOT NULL,
    actor         TEXT,
    method        TEXT    NOT NULL,
    path          TEXT    NOT NULL,
    resource_type TEXT    NOT NULL,
    resource_id   TEXT,
    status_code   INTEGER NOT NULL,
    body          TEXT,
    -- NULL: the request changed nothing.
    revision      INTEGER,
    traceparent   TEXT    NOT NULL
) STRICT;
CREATE INDEX audit_by_time     ON audit (at, seq);
CREATE INDEX audit_by_method   ON audit (method, seq);
CREATE INDEX audit_by_type     ON audit (resource_type, seq);
CREATE INDEX audit_by_resource ON audit (resource_id, seq);

-- What the fleet says. Never part of a revision.

CREATE TABLE subscribers (
    node     TEXT    NOT NULL,
    audience TEXT    NOT NULL,
    epoch    TEXT    NOT NULL,
    applied  INTEGER NOT NULL,
    durable  INTEGER NOT NULL,
    seen_at  INTEGER NOT NULL,
    PRIMARY KEY (node, audience)
) STRICT, WITHOUT ROWID;
CREATE INDEX subscribers_of ON subscribers (audience, node);

CREATE TABLE exceptions (
    node     TEXT    NOT NULL,
    audience TEXT    NOT NULL,
    type     INTEGER NOT NULL,
    kind     INTEGER NOT NULL,
    key      TEXT    NOT NULL,
    revision INTEGER NOT NULL,
    reason   TEXT    NOT NULL,
    PRIMARY KEY (node, audience, kind, key, type)
) STRICT, WITHOUT ROWID;
CREATE INDEX exceptions_about ON exceptions (audience, kind, key, node);

CREATE TABLE reports (
    node       TEXT    NOT NULL,
    kind       INTEGER NOT NULL,
    key        TEXT    NOT NULL,
    phase      INTEGER NOT NULL,
    revision   INTEGER NOT NULL,
    message    TEXT    NOT NULL,
    updated_at INTEGER NOT NULL,
    -- The full report that last named the key; an older one is swept when a newer one is complete.
    pass       INTEGER NOT NULL,
    PRIMARY KEY (node, kind, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX reports_about ON reports (kind, key, node);
CREATE INDEX reports_in_phase ON reports (phase, node, kind, key);

CREATE TABLE report_passes (
    node       TEXT    NOT NULL PRIMARY KEY,
    -- Of the intent that the node's last pass worked from.
    revision   INTEGER NOT NULL,
    pass       INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Trust.

CREATE TABLE trust_roots (
    fingerprint BLOB    NOT NULL PRIMARY KEY,
    der         BLOB    NOT NULL,
    added_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE join_tokens (
    -- SHA-256 of the secret: the secret itself is shown once and never stored.
    hash       BLOB    NOT NULL PRIMARY KEY,
    node       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at    INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX join_tokens_of ON join_tokens (node);

CREATE TABLE secrets (
    name       TEXT    NOT NULL PRIMARY KEY,
    kek_id     TEXT    NOT NULL,
    sealed     BLOB    NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
