-- See the file of the same name for SQLite.
CREATE TABLE replies (
    api_key  TEXT COLLATE "C" NOT NULL,
    key      TEXT COLLATE "C" NOT NULL,
    digest   BYTEA NOT NULL,
    revision BIGINT NOT NULL,
    kek_id   TEXT COLLATE "C" NOT NULL,
    sealed   BYTEA NOT NULL,
    at       BIGINT NOT NULL,
    PRIMARY KEY (api_key, key)
);
CREATE INDEX replies_by_time ON replies (at);
