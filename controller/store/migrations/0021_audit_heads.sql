-- Signed heads of the chain over the audit log. Bytes are hexadecimal, as they are signed and shown.
CREATE TABLE audit_heads (
    number    INTEGER NOT NULL PRIMARY KEY,
    -- Milliseconds since the Unix epoch.
    at        INTEGER NOT NULL,
    revision  INTEGER NOT NULL,
    row_id    TEXT    NOT NULL,
    link      TEXT    NOT NULL,
    previous  TEXT    NOT NULL,
    key       TEXT    NOT NULL,
    -- The key that signs from the next head on; NULL while that is the same.
    successor TEXT,
    signature TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX audit_heads_by_time ON audit_heads (at, number);
