-- Ripen's own schema in the system of record. Nothing here is ever written by applications.

CREATE SCHEMA IF NOT EXISTS ripen;

COMMENT ON SCHEMA ripen IS 'Write-behind cache Ripen: progress of its logs and the changes that were refused';

-- One row per log: which flush is in this database, and whose turn it is.
-- A flush transaction updates it first, so it fences old leaders off and says what became of a COMMIT without an answer.
CREATE TABLE ripen.progress (
    log     integer     PRIMARY KEY,
    epoch   bigint      NOT NULL CHECK (epoch >= 0),
    applied bigint      NOT NULL CHECK (applied >= 0),
    at      timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- The hot cache compares old and new: a flush moves "applied", the take-over by a new leader does not.
ALTER TABLE ripen.progress REPLICA IDENTITY FULL;

COMMENT ON COLUMN ripen.progress.epoch IS 'The leader that may flush; older ones are refused';
COMMENT ON COLUMN ripen.progress.applied IS 'The last flush that is in this database';

-- Acknowledged transactions that this database refused, each whole, until someone replays or discards it.
CREATE TABLE ripen.dead_letter (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    log         integer     NOT NULL,
    flush       bigint      NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    sqlstate    text        NOT NULL,
    message     text        NOT NULL,
    changes     jsonb       NOT NULL,
    payload     bytea       NOT NULL,
    resolution  text        CHECK (resolution IN ('replayed', 'discarded')),
    resolved_at timestamptz,
    CHECK ((resolution IS NULL) = (resolved_at IS NULL))
);

CREATE INDEX dead_letter_open ON ripen.dead_letter (id) WHERE resolution IS NULL;

COMMENT ON COLUMN ripen.dead_letter.changes IS 'For people: one object per row with table, key, operation and column values as text';
COMMENT ON COLUMN ripen.dead_letter.payload IS 'For "ripen dead-letters replay": the same changes, exactly';
