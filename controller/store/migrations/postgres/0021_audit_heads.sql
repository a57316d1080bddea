-- See the file of the same name for SQLite.
CREATE TABLE audit_heads (
    number    BIGINT NOT NULL PRIMARY KEY,
    at        BIGINT NOT NULL,
    revision  BIGINT NOT NULL,
    row_id    TEXT COLLATE "C" NOT NULL,
    link      TEXT COLLATE "C" NOT NULL,
    previous  TEXT COLLATE "C" NOT NULL,
    key       TEXT COLLATE "C" NOT NULL,
    successor TEXT COLLATE "C",
    signature TEXT COLLATE "C" NOT NULL
);
CREATE INDEX audit_heads_by_time ON audit_heads (at, number);
