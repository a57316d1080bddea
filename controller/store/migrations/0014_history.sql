-- What resources were before each change that people ask about (ADR 20). The document after a change is the one before the next, or the resource
-- as it stands.
CREATE TABLE resource_history (
    resource TEXT    NOT NULL,
    revision INTEGER NOT NULL,
    kind     TEXT    NOT NULL,
    -- The host name that the resource is about; empty where its kind has none.
    name     TEXT    NOT NULL,
    -- Whose it was after the change; before it, for what is gone. NULL: the platform's.
    brand    TEXT,
    at       INTEGER NOT NULL,
    -- The API key; NULL: the controller itself.
    actor    TEXT,
    -- The trace id of the request behind the change; empty when there was none.
    trace    TEXT    NOT NULL,
    -- created, changed, suspended, resumed, deleting, restored, deleted
    event    TEXT    NOT NULL,
    -- The document before the change; NULL: there was none.
    before   TEXT,
    -- The bytes of all rows so far, this one included.
    upto     INTEGER NOT NULL,
    PRIMARY KEY (resource, revision)
) STRICT;
CREATE INDEX resource_history_by_revision ON resource_history (revision, resource);
CREATE INDEX resource_history_by_time     ON resource_history (at, revision);
CREATE INDEX resource_history_by_actor    ON resource_history (actor, at) WHERE actor IS NOT NULL;
CREATE INDEX resource_history_by_trace    ON resource_history (trace) WHERE trace <> '';
CREATE INDEX resource_history_by_name     ON resource_history (name, revision, resource) WHERE name <> '';
-- All changes after this revision are in the history.
CREATE TABLE history_floor (
    id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL
) STRICT;
INSERT INTO history_floor (id, revision) SELECT 1, coalesce(max(revision), 0) FROM head;
