-- See the file of the same name for SQLite.
CREATE TABLE tenant_traffic (
    tenant   TEXT COLLATE "C" NOT NULL,
    hour     BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    c1       BIGINT NOT NULL,
    c2       BIGINT NOT NULL,
    c3       BIGINT NOT NULL,
    c4       BIGINT NOT NULL,
    c5       BIGINT NOT NULL,
    received BIGINT NOT NULL,
    sent     BIGINT NOT NULL,
    cached   BIGINT NOT NULL,
    node_us  BIGINT NOT NULL,
    PRIMARY KEY (tenant, hour)
);
CREATE INDEX tenant_traffic_by_hour ON tenant_traffic (hour, tenant);
CREATE TABLE traffic_sources (
    source   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    number   BIGINT NOT NULL,
    at       BIGINT NOT NULL
);
CREATE INDEX traffic_sources_by_time ON traffic_sources (at, source);
