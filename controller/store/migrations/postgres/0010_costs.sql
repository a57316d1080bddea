-- How many resources of a kind refer to each target, of relations that a kind has counted. Kept, not counted, for dashboards.
CREATE TABLE ref_counts (
    kind     TEXT COLLATE "C" NOT NULL,
    relation TEXT COLLATE "C" NOT NULL,
    target   TEXT COLLATE "C" NOT NULL,
    count    BIGINT NOT NULL,
    PRIMARY KEY (kind, relation, target)
);
INSERT INTO ref_counts (kind, relation, target, count)
SELECT kind, relation, target, count(*) FROM refs WHERE kind = 'tenant' AND relation = 'shard_id' GROUP BY kind, relation, target;

-- What a report changes is compared with what is there: rows need not say which report they come from.
ALTER TABLE reports DROP COLUMN pass;
-- Reports are looked up by node.
DROP INDEX reports_about;
