-- See the file of the same name for SQLite.
ALTER TABLE intent_current ADD COLUMN rollout BIGINT NOT NULL DEFAULT 0;
ALTER TABLE intent_log ADD COLUMN rollout BIGINT NOT NULL DEFAULT 0;
CREATE INDEX intent_log_rollout ON intent_log (rollout, audience) WHERE rollout <> 0;
CREATE INDEX intent_current_rollout ON intent_current (rollout, audience) WHERE rollout <> 0;

CREATE TABLE rollouts (
    id BIGINT NOT NULL PRIMARY KEY,
    is_open BIGINT NOT NULL,
    document TEXT COLLATE "C" NOT NULL
);
CREATE INDEX rollouts_open ON rollouts (id) WHERE is_open = 1;

-- Edges are told how clients may speak TLS: a walk over all clusters plans it.
INSERT INTO replan (owner) SELECT 'walk:planner/clusters//' WHERE EXISTS (SELECT 1 FROM resources WHERE kind = 'cluster')
    ON CONFLICT (owner) DO NOTHING;
