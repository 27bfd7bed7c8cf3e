-- A log whose majority was lost goes on as another one, made of its last copy ("ripen recover"). Its row goes over to the new log, and what stands in its place keeps
-- former nodes from writing.

ALTER TABLE ripen.progress ADD COLUMN succeeded_by bigint;

COMMENT ON COLUMN ripen.progress.succeeded_by IS 'The identity of the log that was made of this one by "ripen recover"; nobody flushes in the name of this one any more';
