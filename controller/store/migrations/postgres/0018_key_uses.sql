-- See the file of the same name for SQLite.
CREATE TABLE key_uses (
    api_key TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    used_at BIGINT NOT NULL
);
