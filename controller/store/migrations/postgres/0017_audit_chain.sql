-- The chain over the audit log: the link of each row, and of the last row that was dropped. Empty: before there was a chain.
ALTER TABLE audit ADD COLUMN link BYTEA NOT NULL DEFAULT ''::bytea;
ALTER TABLE audit_size ADD COLUMN last_link BYTEA NOT NULL DEFAULT ''::bytea;
