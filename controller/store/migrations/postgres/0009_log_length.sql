-- How many revisions the log of an audience has above its floor. Kept, not counted: compaction reads what it deletes and no more.
ALTER TABLE audiences ADD COLUMN logged BIGINT NOT NULL DEFAULT 0;
UPDATE audiences SET logged =
    (SELECT count(DISTINCT revision) FROM intent_log l WHERE l.audience = audiences.audience AND l.revision > audiences.floor);
