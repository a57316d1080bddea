-- See the file of the same name for SQLite.
CREATE TABLE event_log (
    revision BIGINT NOT NULL,
    place    BIGINT NOT NULL,
    at       BIGINT NOT NULL,
    event    TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (revision, place)
);
CREATE TABLE event_log_floor (
    id       BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    revision BIGINT NOT NULL
);
INSERT INTO event_log_floor (id, revision) VALUES (1, 0);

CREATE TABLE webhook_positions (
    webhook       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    epoch         TEXT COLLATE "C" NOT NULL,
    revision      BIGINT NOT NULL,
    place         BIGINT NOT NULL,
    attempts      BIGINT NOT NULL,
    next_at       BIGINT NOT NULL,
    failing_since BIGINT,
    delivered     BIGINT NOT NULL,
    dropped       BIGINT NOT NULL,
    delivered_at  BIGINT,
    error         TEXT COLLATE "C"
);

CREATE TABLE webhook_deliveries (
    webhook         TEXT COLLATE "C" NOT NULL,
    id              TEXT COLLATE "C" NOT NULL,
    event_type      TEXT COLLATE "C" NOT NULL,
    body            TEXT COLLATE "C" NOT NULL,
    status          TEXT COLLATE "C" NOT NULL,
    attempts        BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    attempted_at    BIGINT,
    duration_ms     BIGINT,
    response_status BIGINT,
    answer          TEXT COLLATE "C",
    error           TEXT COLLATE "C",
    PRIMARY KEY (webhook, id)
);
CREATE INDEX webhook_deliveries_by_time ON webhook_deliveries (webhook, created_at, id);
CREATE INDEX webhook_deliveries_pending ON webhook_deliveries (created_at, id) WHERE status = 'pending';
