-- How many resources of a kind count against a tenant, a brand or a subscription. Kept, not counted, for limits.
CREATE TABLE quota_usage (
    owner TEXT NOT NULL,
    kind  TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (owner, kind)
) STRICT, WITHOUT ROWID;
INSERT INTO quota_usage (owner, kind, count)
SELECT owner, kind, count(*) FROM (
    SELECT tenant AS owner, kind, id FROM resources WHERE tenant IS NOT NULL AND tenant <> id
    UNION ALL SELECT brand AS owner, kind, id FROM resources WHERE brand IS NOT NULL AND brand <> id
    UNION ALL SELECT target AS owner, kind, source AS id FROM refs WHERE relation = 'subscription_id'
) AS charged
WHERE id NOT IN (SELECT id FROM facets WHERE kind = 'zone_record' AND field = 'managed_by' AND value = 'auto')
GROUP BY owner, kind;
