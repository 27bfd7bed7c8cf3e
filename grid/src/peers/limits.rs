//! Bounds of what nodes ask each other about clean rows: the number, why that number, what happens when it is reached. Holds nothing else.

use std::time::Duration;

/// How long a row's owner may take to answer, its load from Postgres included: many loads, and still a pause that a client hardly sees. Reached: the row is loaded from Postgres here.
pub const OWNER_PATIENCE: Duration = Duration::from_millis(250);

/// How long an owner waits until it has been told what the asking node knows: WAL and log reach all nodes within some milliseconds. Reached: it declines.
pub const CATCH_UP_PATIENCE: Duration = Duration::from_millis(40);

/// Rows of one question. Reached: the rest goes with the next one.
pub const ASKED_ROWS_MAX: usize = 256;

/// Bytes of rows in one answer, one row more at most. Reached: the others are asked for again.
pub const ANSWER_BYTES_MAX: usize = 4 << 20;

/// How often one batch of rows is asked for again because they did not fit an answer. Reached: the rest is loaded from Postgres.
pub const ANSWER_ROUNDS_MAX: usize = 16;

/// Questions on their way to one node. While so many are, misses gather into larger ones.
pub const QUESTIONS_AT_ONCE_MAX: usize = 4;

/// Times an owner looks for rows that it loads for others. Reached (they change all the time): it declines.
pub const LEND_ATTEMPTS_MAX: usize = 2;

/// How often nodes tell each other that they are there.
pub const PRESENCE_PERIOD: Duration = Duration::from_millis(200);

/// How long a node may take to say so.
pub const PRESENCE_PATIENCE: Duration = Duration::from_millis(300);

/// How long ago a node may have said so and still own rows, in milliseconds: some lost messages. One whose address refuses connections owns none at once.
pub const PRESENT_MS: u64 = 800;

/// For how long after its start a node asks those that are older for rows before Postgres, in milliseconds: it is warm by then, or they have lost the rows as well.
pub const YOUNG_MS: u64 = 10 * 60 * 1000;

/// Rows that a young node has asked older ones for in vain, one after the other, before it asks no more: they do not have what its clients read.
pub const VAIN_ROWS_MAX: u64 = 2_000;

/// How long owners must be the same before rows that are somebody else's by now count as near copies, in milliseconds: until then a newcomer finds them with those who had them.
pub const SETTLED_MS: u64 = 2 * 60 * 1000;

/// Rows of a shard, under its lock, that are looked at for whose they are. Reached: the next shard has its turn, and then this one again.
pub const OWNED_STEPS: usize = 1024;
