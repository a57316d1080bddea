-- Zones are found by the names that they lie under, as host names are: by one facet for each suffix of their own.
WITH RECURSIVE suffixes (id, value) AS (
    SELECT id, label FROM resources WHERE kind = 'zone'
    UNION ALL
    SELECT id, substr(value, instr(value, '.') + 1) FROM suffixes WHERE instr(value, '.') > 0
)
INSERT OR IGNORE INTO facets (kind, field, value, id) SELECT 'zone', 'suffix', value, id FROM suffixes;
