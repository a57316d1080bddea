-- See the file of the same name for SQLite.
CREATE TABLE resource_history (
    resource TEXT COLLATE "C" NOT NULL,
    revision BIGINT NOT NULL,
    kind     TEXT COLLATE "C" NOT NULL,
    name     TEXT COLLATE "C" NOT NULL,
    brand    TEXT COLLATE "C",
    at       BIGINT NOT NULL,
    actor    TEXT COLLATE "C",
    trace    TEXT COLLATE "C" NOT NULL,
    event    TEXT COLLATE "C" NOT NULL,
    before   TEXT COLLATE "C",
    upto     BIGINT NOT NULL,
    PRIMARY KEY (resource, revision)
);
CREATE INDEX resource_history_by_revision ON resource_history (revision, resource);
CREATE INDEX resource_history_by_time     ON resource_history (at, revision);
CREATE INDEX resource_history_by_actor    ON resource_history (actor, at) WHERE actor IS NOT NULL;
CREATE INDEX resource_history_by_trace    ON resource_history (trace) WHERE trace <> '';
CREATE INDEX resource_history_by_name     ON resource_history (name, revision, resource) WHERE name <> '';
CREATE TABLE history_floor (
    id       BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    revision BIGINT NOT NULL
);
INSERT INTO history_floor (id, revision) SELECT 1, coalesce(max(revision), 0) FROM head;
