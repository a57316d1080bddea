-- What became of resources, in order, for receivers that have to hear of all of it: written with the change while somebody follows.
CREATE TABLE event_log (
    revision INTEGER NOT NULL,
    -- The event's number within its revision, from 0.
    place    INTEGER NOT NULL,
    -- Milliseconds since the Unix epoch, as all times here.
    at       INTEGER NOT NULL,
    event    TEXT    NOT NULL,
    PRIMARY KEY (revision, place)
) STRICT, WITHOUT ROWID;
-- Events up to this revision are gone.
CREATE TABLE event_log_floor (
    id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL
) STRICT;
INSERT INTO event_log_floor (id, revision) VALUES (1, 0);

-- How far each webhook is: all up to this event is delivered, or dropped, or not for it.
CREATE TABLE webhook_positions (
    webhook       TEXT    NOT NULL PRIMARY KEY,
    -- The store's life in which the revision counts.
    epoch         TEXT    NOT NULL,
    revision      INTEGER NOT NULL,
    place         INTEGER NOT NULL,
    -- Attempts at the next event that failed.
    attempts      INTEGER NOT NULL,
    next_at       INTEGER NOT NULL,
    -- Since when nothing was taken; NULL while the receiver takes events.
    failing_since INTEGER,
    delivered     INTEGER NOT NULL,
    dropped       INTEGER NOT NULL,
    delivered_at  INTEGER,
    error         TEXT
) STRICT, WITHOUT ROWID;

-- The newest deliveries of each webhook.
CREATE TABLE webhook_deliveries (
    webhook         TEXT    NOT NULL,
    -- The header `webhook-id`.
    id              TEXT    NOT NULL,
    event_type      TEXT    NOT NULL,
    body            TEXT    NOT NULL,
    -- `pending` (somebody asked for it), `delivered`, `retrying`, `dropped` or `failed`.
    status          TEXT    NOT NULL,
    attempts        INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    attempted_at    INTEGER,
    duration_ms     INTEGER,
    response_status INTEGER,
    answer          TEXT,
    error           TEXT,
    PRIMARY KEY (webhook, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX webhook_deliveries_by_time ON webhook_deliveries (webhook, created_at, id);
CREATE INDEX webhook_deliveries_pending ON webhook_deliveries (created_at, id) WHERE status = 'pending';
