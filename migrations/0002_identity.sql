-- Whose flushes a row counts. Each log (each data folder, or the folders of one cluster) has a row of its own, so no flush of another passes for its own.

ALTER TABLE ripen.progress
    -- Rows and letters of before have none (0): the log that they are of adopts them when it begins.
    ADD COLUMN identity bigint NOT NULL DEFAULT 0,
    ADD COLUMN holder   text,
    DROP CONSTRAINT progress_pkey,
    ADD PRIMARY KEY (log, identity);

ALTER TABLE ripen.progress ALTER COLUMN identity DROP DEFAULT;

COMMENT ON COLUMN ripen.progress.epoch IS 'The leader that may flush; older ones are refused. A take-over raises it in all rows of the log''s number';
COMMENT ON COLUMN ripen.progress.identity IS 'Which log: a number drawn when its data folder was made';
COMMENT ON COLUMN ripen.progress.holder IS 'Who took over last; null in the rows of others';

ALTER TABLE ripen.dead_letter ADD COLUMN identity bigint NOT NULL DEFAULT 0;

ALTER TABLE ripen.dead_letter ALTER COLUMN identity DROP DEFAULT;

COMMENT ON COLUMN ripen.dead_letter.identity IS 'Which log it came from, as in ripen.progress';
