-- What was answered to changes that came with an Idempotency-Key, for those who ask again. `digest` tells the request from another one
-- under the same key; `sealed` is the answer, sealed by the key of `kek_id`: it may hold what is shown once.
CREATE TABLE replies (
    api_key  TEXT NOT NULL,
    key      TEXT NOT NULL,
    digest   BLOB NOT NULL,
    revision INTEGER NOT NULL,
    kek_id   TEXT NOT NULL,
    sealed   BLOB NOT NULL,
    at       INTEGER NOT NULL,
    PRIMARY KEY (api_key, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX replies_by_time ON replies (at);
