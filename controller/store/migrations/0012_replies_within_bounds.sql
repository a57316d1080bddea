-- A hash of a request lets its secrets be guessed: what tells requests apart is sealed with the answer. `number` counts the answers of an
-- API key, so that the oldest can be found when there are too many. Answers kept so far, of a day at most, are not taken over.
DROP TABLE replies;
CREATE TABLE replies (
    api_key  TEXT NOT NULL,
    key      TEXT NOT NULL,
    number   INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    kek_id   TEXT NOT NULL,
    sealed   BLOB NOT NULL,
    at       INTEGER NOT NULL,
    PRIMARY KEY (api_key, key)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX replies_by_number ON replies (api_key, number);
CREATE INDEX replies_by_time ON replies (at);
