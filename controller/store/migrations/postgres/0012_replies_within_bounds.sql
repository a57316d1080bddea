-- See the file of the same name for SQLite.
DROP TABLE replies;
CREATE TABLE replies (
    api_key  TEXT COLLATE "C" NOT NULL,
    key      TEXT COLLATE "C" NOT NULL,
    number   BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    kek_id   TEXT COLLATE "C" NOT NULL,
    sealed   BYTEA NOT NULL,
    at       BIGINT NOT NULL,
    PRIMARY KEY (api_key, key)
);
CREATE UNIQUE INDEX replies_by_number ON replies (api_key, number);
CREATE INDEX replies_by_time ON replies (at);
