-- What the edges passed on for each tenant, hour by hour (ADR 43).
CREATE TABLE tenant_traffic (
    tenant   TEXT    NOT NULL,
    -- When the hour begins, in milliseconds since the Unix epoch.
    hour     INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    -- Of these, by the first digit of the answer's status; the others got none.
    c1       INTEGER NOT NULL,
    c2       INTEGER NOT NULL,
    c3       INTEGER NOT NULL,
    c4       INTEGER NOT NULL,
    c5       INTEGER NOT NULL,
    -- Bytes of bodies from and to clients.
    received INTEGER NOT NULL,
    sent     INTEGER NOT NULL,
    -- Requests that no node was asked for, because the answer was at hand.
    cached   INTEGER NOT NULL,
    -- What nodes took to begin their answers, in microseconds.
    node_us  INTEGER NOT NULL,
    PRIMARY KEY (tenant, hour)
) STRICT, WITHOUT ROWID;
CREATE INDEX tenant_traffic_by_hour ON tenant_traffic (hour, tenant);
-- The processes that report it, each with its last report that is in the table: one that comes again is known.
CREATE TABLE traffic_sources (
    -- Hexadecimal.
    source   TEXT    NOT NULL PRIMARY KEY,
    number   INTEGER NOT NULL,
    -- When that was, in milliseconds since the Unix epoch.
    at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX traffic_sources_by_time ON traffic_sources (at, source);
