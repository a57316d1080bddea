-- Durable jobs: what is to be done outside the store, in small steps. Written in the transaction of the change that asks for it.
-- All times are milliseconds since the Unix epoch by the store's clock.
CREATE TABLE jobs (
    id            TEXT    NOT NULL PRIMARY KEY,
    -- The order of enqueueing; the order within a lane.
    seq           INTEGER NOT NULL UNIQUE,
    kind          TEXT    NOT NULL,
    -- What the job is about, for people and filters: a resource id, or the kind's own word.
    subject       TEXT    NOT NULL,
    -- Jobs of one lane run one at a time, in order.
    lane          TEXT    NOT NULL,
    -- Who may see the job; NULL: platform admins alone.
    brand         TEXT,
    params        TEXT    NOT NULL,
    state         TEXT    NOT NULL,
    -- Not before this time, once the job is at the head of its lane.
    due_at        INTEGER NOT NULL,
    -- When a runner has to look at the job: its due time, the time of its next attempt, or the end of its lease. NULL: never,
    -- because it has ended, or because another job of its lane is before it.
    next_at       INTEGER,
    -- What the clock said when `next_at` was set: a time in the future shows that the clock was put back since.
    set_at        INTEGER NOT NULL,
    -- Begun attempts of the step that the job is at.
    attempts      INTEGER NOT NULL,
    attempt_limit INTEGER NOT NULL,
    progress      TEXT,
    error         TEXT,
    cancelled_by  TEXT,
    actor         TEXT,
    traceparent   TEXT    NOT NULL,
    -- The runner that works on the job until `next_at`.
    lease_owner   TEXT,
    -- Grows with each lease: what a runner with an older one writes is refused.
    fence         INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    started_at    INTEGER,
    ended_at      INTEGER
);
CREATE INDEX jobs_due        ON jobs (kind, next_at, seq) WHERE next_at IS NOT NULL;
CREATE INDEX jobs_set        ON jobs (set_at, id) WHERE next_at IS NOT NULL;
CREATE INDEX jobs_lane       ON jobs (lane, seq) WHERE ended_at IS NULL;
CREATE INDEX jobs_ended      ON jobs (state, ended_at, id) WHERE ended_at IS NOT NULL;
CREATE INDEX jobs_by_kind    ON jobs (kind, seq);
CREATE INDEX jobs_by_state   ON jobs (state, seq);
CREATE INDEX jobs_by_subject ON jobs (subject, seq);
CREATE INDEX jobs_by_brand   ON jobs (brand, seq);

-- The steps that a job has begun.
CREATE TABLE job_steps (
    job        TEXT    NOT NULL,
    -- From 0, in the order in which they are done.
    place      INTEGER NOT NULL,
    name       TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    attempts   INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    error      TEXT,
    -- What the step leaves for later steps, JSON.
    result     TEXT,
    PRIMARY KEY (job, place)
);

-- Resources that a job waits for: it is due when all of them have settled, or one has failed.
CREATE TABLE job_waits (
    job      TEXT NOT NULL,
    resource TEXT NOT NULL,
    -- How it settled: a status, or `deleted`; NULL while it has not.
    status   TEXT,
    message  TEXT,
    PRIMARY KEY (job, resource)
);
CREATE INDEX job_waits_open ON job_waits (resource, job) WHERE status IS NULL;

-- How fast jobs of a kind may begin, over all controllers.
CREATE TABLE job_pace (
    kind       TEXT    NOT NULL PRIMARY KEY,
    -- The time that the last begun job uses up (GCRA's theoretical arrival time).
    arrival    INTEGER NOT NULL,
    -- No job of the kind begins before.
    rest_until INTEGER NOT NULL,
    set_at     INTEGER NOT NULL
);
