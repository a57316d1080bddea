-- Keys that the store holds, each sealed by the key-encryption key `kek_id`: `tenant/<id>` and `platform` seal secrets of resources,
-- `audience/<audience>` seals what an audience's subscribers can open. The highest version of a scope seals; the others open.
CREATE TABLE wrapped_keys (
    scope      TEXT    NOT NULL,
    version    INTEGER NOT NULL CHECK (version > 0),
    kek_id     TEXT    NOT NULL,
    wrapped    BLOB    NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (scope, version)
);
-- What a rotation of the key-encryption key still has to seal anew.
CREATE INDEX wrapped_keys_of_kek ON wrapped_keys (kek_id, scope, version);
CREATE INDEX secrets_of_kek ON secrets (kek_id, name);

-- The public keys (X25519) that the subscribers of an audience last said were theirs.
CREATE TABLE readers (
    audience    TEXT NOT NULL,
    node        TEXT NOT NULL,
    sealing_key BLOB NOT NULL,
    PRIMARY KEY (audience, node)
);
CREATE INDEX readers_of_node ON readers (node, audience);

-- Versions of an audience's key, each sealed to one of its readers (an encoded hosting.intent.v1.AudienceKey): kept, because sealing
-- to a reader twice gives different bytes, and planning compares them.
CREATE TABLE key_shares (
    audience TEXT    NOT NULL,
    version  INTEGER NOT NULL,
    node     TEXT    NOT NULL,
    share    BLOB    NOT NULL,
    PRIMARY KEY (audience, node, version)
);
