-- How many tenants a shard has stands beside what else is counted, so that it can be checked with the change that adds one.
INSERT INTO quota_usage (owner, kind, count)
SELECT target, kind, count(*) FROM refs WHERE kind = 'tenant' AND relation = 'shard_id' GROUP BY target, kind;
DROP TABLE ref_counts;
