-- Which controller a subscriber is connected to, and how it stands there. `controller` '' = none since the last start.
ALTER TABLE subscribers ADD COLUMN controller TEXT NOT NULL DEFAULT '';
ALTER TABLE subscribers ADD COLUMN connected INTEGER NOT NULL DEFAULT 0;
ALTER TABLE subscribers ADD COLUMN in_service INTEGER NOT NULL DEFAULT 1;
ALTER TABLE subscribers ADD COLUMN build TEXT NOT NULL DEFAULT '';

-- The controllers that run on this store. Times are milliseconds since the Unix epoch by the database's clock.
CREATE TABLE controllers (
    id      TEXT    NOT NULL PRIMARY KEY,
    seen_at INTEGER NOT NULL,
    -- Where nodes reach it, `host:port`, one to a line.
    feed    TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- What one controller at a time does. `fence` grows with each change of the holder: what is written under an older one is refused.
CREATE TABLE leases (
    name       TEXT    NOT NULL PRIMARY KEY,
    holder     TEXT    NOT NULL,
    fence      INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which key an enrolment was given for a token, so that an answer that was lost can be given again by any controller.
ALTER TABLE join_tokens ADD COLUMN granted_key BLOB;
ALTER TABLE join_tokens ADD COLUMN granted_role TEXT;
ALTER TABLE join_tokens ADD COLUMN granted_at INTEGER;
