-- How large the audit log is: the bytes of its texts, and 400 for the rest of each row and its places in the indexes. Kept, not
-- counted: every row that is written looks whether the oldest have to go.
CREATE TABLE audit_size (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    bytes INTEGER NOT NULL
) STRICT;

INSERT INTO audit_size (id, bytes)
SELECT 1, coalesce(sum(400 + length(CAST(path AS BLOB)) + coalesce(length(CAST(body AS BLOB)), 0)), 0) FROM audit;

CREATE TRIGGER audit_grows AFTER INSERT ON audit BEGIN
    UPDATE audit_size
    SET bytes = bytes + 400 + length(CAST(NEW.path AS BLOB)) + coalesce(length(CAST(NEW.body AS BLOB)), 0);
END;

CREATE TRIGGER audit_shrinks AFTER DELETE ON audit BEGIN
    UPDATE audit_size
    SET bytes = bytes - 400 - length(CAST(OLD.path AS BLOB)) - coalesce(length(CAST(OLD.body AS BLOB)), 0);
END;
