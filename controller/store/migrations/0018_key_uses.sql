-- When an API key was used last, to the minute: in a table of its own, so that no request writes a resource. Milliseconds since the Unix epoch.
CREATE TABLE key_uses (
    api_key TEXT NOT NULL PRIMARY KEY,
    used_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
