-- Keys that the store holds, each sealed by the key-encryption key `kek_id`: `tenant/<id>` and `platform` seal secrets of resources,
-- `audience/<audience>` seals what an audience's subscribers can open. The highest version of a scope seals; the others open.
CREATE TABLE wrapped_keys (
    scope TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL CHECK (version > 0),
    kek_id TEXT COLLATE "C" NOT NULL,
    wrapped BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (scope, version)
);
-- What a rotation of the key-encryption key still has to seal anew.
CREATE INDEX wrapped_keys_of_kek ON wrapped_keys (kek_id, scope, version);
CREATE INDEX secrets_of_kek ON secrets (kek_id, name);

-- The public keys (X25519) that the subscribers of an audience last said were theirs.
CREATE TABLE readers (
    audience TEXT COLLATE "C" NOT NULL,
    node TEXT COLLATE "C" NOT NULL,
    sealing_key BYTEA NOT NULL,
    PRIMARY KEY (audience, node)
);
CREATE INDEX readers_of_node ON readers (node, audience);

-- Versions of an audience's key, each sealed to one of its readers (an encoded hosting.intent.v1.AudienceKey): kept, because sealing
-- to a reader twice gives different bytes, and planning compares them.
CREATE TABLE key_shares (
    audience TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    node TEXT COLLATE "C" NOT NULL,
    share BYTEA NOT NULL,
    PRIMARY KEY (audience, node, version)
);
