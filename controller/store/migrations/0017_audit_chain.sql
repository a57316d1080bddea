-- The chain over the audit log: the link of each row, and of the last row that was dropped. Empty: before there was a chain.
ALTER TABLE audit ADD COLUMN link BLOB NOT NULL DEFAULT x'';
ALTER TABLE audit_size ADD COLUMN last_link BLOB NOT NULL DEFAULT x'';
