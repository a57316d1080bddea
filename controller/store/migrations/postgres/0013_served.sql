-- What a subscriber found when it asked its own listeners for what it applied: an encoded hosting.feed.v1.Served; empty: it does not ask.
ALTER TABLE subscribers ADD COLUMN served BYTEA NOT NULL DEFAULT ''::bytea;
