-- The size of the audit log is kept by the statements that write it, the same on every database.
DROP TRIGGER audit_grows;
DROP TRIGGER audit_shrinks;

-- What each group of mutations touched, for the other controllers of the same store; a store on SQLite has none. `origin` is the
-- controller that wrote it, `touched` a JSON object.
CREATE TABLE commits (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    origin  TEXT NOT NULL,
    touched TEXT NOT NULL
) STRICT;
