-- See the file of the same name for SQLite.
ALTER TABLE subscribers ADD COLUMN controller TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE subscribers ADD COLUMN connected BIGINT NOT NULL DEFAULT 0;
ALTER TABLE subscribers ADD COLUMN in_service BIGINT NOT NULL DEFAULT 1;
ALTER TABLE subscribers ADD COLUMN build TEXT COLLATE "C" NOT NULL DEFAULT '';

CREATE TABLE controllers (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    seen_at BIGINT NOT NULL,
    feed TEXT COLLATE "C" NOT NULL
);

CREATE TABLE leases (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    holder TEXT COLLATE "C" NOT NULL,
    fence BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

ALTER TABLE join_tokens ADD COLUMN granted_key BYTEA;
ALTER TABLE join_tokens ADD COLUMN granted_role TEXT COLLATE "C";
ALTER TABLE join_tokens ADD COLUMN granted_at BIGINT;
