//! Every bound of this crate: the number, why that number, and what happens when it is reached.

use std::time::Duration;

/// Shards of the row map. Enough that two cores rarely meet, few enough that passing through all locks is cheap.
pub const SHARDS: usize = 64;

/// Bytes that a row takes beside its tuple: identity, slot, place in the map and its index (measured by `benches`).
pub const SLOT_OVERHEAD_BYTES: usize = 120;

/// Bytes that a row takes more while a load is under way or changes lie on it.
pub const BUSY_OVERHEAD_BYTES: usize = 160;

/// Bytes that a layer takes beside its image.
pub const LAYER_OVERHEAD_BYTES: usize = 176;

/// Bytes of a load's snapshot beside the running transactions, counted for each of its rows (most loads have one).
pub const SNAPSHOT_BYTES: usize = 80;

/// Bytes of a remembered WAL change beside its row.
pub const EVENT_OVERHEAD_BYTES: usize = 128;

/// WAL changes remembered until a load has seen their transaction. Reached: the oldest are forgotten, and loads that have not seen theirs are not kept.
pub const PASSED_EVENTS_MAX: usize = 16_384;

/// Bytes of them. Reached: as above.
pub const PASSED_BYTES_MAX: usize = 16 << 20;

/// Transactions whose changes were forgotten that way. Reached: loads are kept only when nothing as old was running when they began.
pub const PASSED_TRANSACTIONS_MAX: usize = 1024;

/// Rows looked at per change to find one to give up. Reached: the shard stays above its share until the next change.
pub const EVICTION_STEPS_MAX: usize = 64;

/// Rows looked at in a shard, under its lock, to give up what is above a lowered bound. Reached: the next shard has its turn, and then this one again.
pub const SHED_STEPS: usize = 512;

/// Part of `memory_max` that is kept free for what is not rows between two measurements.
pub const MEMORY_MARGIN_PART: u64 = 16;

/// Part of `memory_max` that clean rows may always take. Reached: the process may be above its bound, and says so.
pub const MEMORY_FLOOR_PART: u64 = 16;

/// Part of what rows have left and the allocator has not given back that counts as lost after one more round above the bound.
pub const MEMORY_LOST_PART: u64 = 16;

/// Rounds above the bound, with nothing left to give up, before it is complained of: the allocator gives back what is free after a while.
pub const MEMORY_PATIENCE_ROUNDS: u32 = 40;

/// WAL changes remembered for a row while it is being loaded. Reached: the load is not kept, and those who wait load again.
pub const LOAD_EVENTS_MAX: usize = 64;

/// Times a statement tries to find its rows loaded. Reached: it passes through to Postgres.
pub const LOAD_ATTEMPTS_MAX: usize = 8;

/// Load requests waiting for a connection. Reached: further readers wait to hand theirs in.
pub const LOAD_QUEUE_MAX: usize = 4096;

/// Loads under way at once: what a small pool of connections carries. Reached: misses gather into larger queries.
pub const LOADS_AT_ONCE_MAX: usize = 4;

/// Keys in one load. Reached: the rest goes into the next query.
pub const LOAD_KEYS_MAX: usize = 1000;

/// Samples of Postgres's WAL position that the stream has not passed yet. Reached: newer ones are dropped, the oldest prove the lag.
pub const LSN_SAMPLES_MAX: usize = 1024;

/// How often a writer looks whether there is room again.
pub const ROOM_POLL: Duration = Duration::from_millis(5);

/// Rows of flushes that the stream has not confirmed yet. Reached: their rows are forgotten and read anew.
pub const UNCONFIRMED_ROWS_MAX: usize = 1_000_000;

/// First wait before a refused flush is tried again; doubles up to [`FLUSH_BACKOFF_MAX`], with chance added.
pub const FLUSH_BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Longest wait before a refused flush is tried again: how late the queue may notice that Postgres is back.
pub const FLUSH_BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Longest sleep of the flusher between looks at the schedule, in milliseconds: how late it notices a clock that was set.
pub const FLUSHER_NAP_MS: u64 = 1000;

/// Rows of one flush transaction where no table says less. Larger ones hold Postgres's row locks too long.
pub const FLUSH_ROWS_MAX: usize = 10_000;

/// Rows that one `FlushStart` names one by one. Reached: the rest goes with the next flush.
pub const FLUSH_ROWS_NAMED_MAX: usize = 10_000;

/// How often the flusher asks whether the catalog has been read. Reached only while Postgres comes up; each round is a pointer read.
pub const CATALOG_POLL: Duration = Duration::from_millis(20);

/// Bytes of one transaction's rows, as they are and as they were. A larger one is passed through: one command of the log is half as large again at most.
pub const GROUP_BYTES_MAX: usize = 512 << 20;

/// How long rows that cannot be written for now are left out of flushes at first; doubles up to [`HELD_UP_PAUSE_MAX`].
pub const HELD_UP_PAUSE_MIN: Duration = Duration::from_secs(1);

/// Longest such pause: how late a GRANT or the end of a lock is noticed. Each try for a lock costs everybody `FLUSH_LOCK_WAIT`.
pub const HELD_UP_PAUSE_MAX: Duration = Duration::from_secs(8);

/// How often the leader looks what the standbys have while flushes are kept for them: so long they are kept at least.
pub const STANDBYS_PERIOD: Duration = Duration::from_millis(200);

/// The same while nothing is kept: how late a failover is noticed at the latest, when nobody has work for Postgres.
pub const STANDBYS_IDLE_PERIOD: Duration = Duration::from_secs(1);

/// Times of kept flushes whose place in the WAL is remembered. Reached: those of the newest are taken together, so they are let go later.
pub const STANDBY_MARKS_MAX: usize = 64;

/// How old a kept flush is when people are told whom it is kept for.
pub const STANDBY_PATIENCE: Duration = Duration::from_secs(10);

/// Shortest time between two tellings of the leader that another server was met.
pub const DOUBT_PAUSE: Duration = Duration::from_millis(200);

/// How long a node asks for the leader before it refuses what it was asked: some elections.
pub const LEADER_WAIT: Duration = Duration::from_secs(10);

/// How soon it asks again.
pub const LEADER_RETRY: Duration = Duration::from_millis(20);

/// How often the stream looks whether the log has told what it must know.
pub const LOG_POLL: Duration = Duration::from_millis(2);

/// How long a leader of the log that was told that another leads waits before it takes over again, if it still leads.
pub const FENCED_WAIT: Duration = Duration::from_millis(500);

/// How long a read waits until all know what it has seen: longer than leases last. Then it passes through.
pub const SETTLE_WAIT: Duration = Duration::from_secs(1);

/// How long a read waits until a node that had lost its lease has heard what it missed: many times what an answer of the leader takes. Then it passes through.
pub const CATCH_UP_WAIT: Duration = Duration::from_millis(500);

/// Row locks of all open transactions together: some 200 bytes each. Reached: a transaction that wants more goes on in Postgres, a statement of its own passes through.
pub const ROW_LOCKS_MAX: usize = 1_000_000;

/// Rows that a transaction may have written, counted once for each savepoint. Reached: it goes on in Postgres.
pub const TRANSACTION_ROWS_MAX: usize = 10_000;

/// Bytes of those rows, as they are and as they were. Reached: the transaction goes on in Postgres.
pub const TRANSACTION_BYTES_MAX: usize = 64 << 20;

/// Bytes of such rows of all transactions that are open where the log is led. Reached: whoever writes more goes on in Postgres.
pub const TRANSACTIONS_BYTES_MAX: usize = 1 << 30;

/// Transaction blocks that a leader keeps for clients of all nodes: one per connection of a large cluster. Reached: further ones are Postgres's.
pub const BLOCKS_MAX: usize = 10_000;

/// Statements of blocks that a node has asked for and that are not answered yet: each may wait for rows, and fewer than one connection between nodes works on at a time, so that those who give the rows free come through. Reached: the block goes on in Postgres.
pub const BLOCK_STEPS_MAX: usize = 800;

/// How long an answer to a step of a block may take: as long as rows are locked. Whether the leader lives is found out by [`BLOCKS_WATCH`].
pub const BLOCK_STEP_WAIT: Duration = Duration::from_secs(24 * 3600);

/// How long the leader lets a node wait for news of its blocks. Then it asks again, which says that it lives.
pub const BLOCKS_WATCH: Duration = Duration::from_millis(500);

/// How long a node of which nothing is heard keeps its blocks, and how long a node keeps those of which nothing is heard: some of [`BLOCKS_WATCH`], on a busy machine, too.
pub const BLOCKS_SILENCE: Duration = Duration::from_secs(3);

/// How long a node waits for the leader's word that a block is over there. Then ROLLBACK is answered all the same, and a block that moves to Postgres has failed.
pub const BLOCK_END_WAIT: Duration = Duration::from_secs(3);

/// Rows of a keyed set. More are Postgres's business: a statement locks the shards of all of them. Reached: the set passes through for [`SET_TOO_LARGE_PAUSE_MS`].
pub const SET_ROWS_MAX: usize = 1000;

/// Sets that one statement may read. More pass through: each of them is looked up while the table's sets are locked.
pub const SETS_AT_ONCE_MAX: usize = 1000;

/// Rows of all sets that one statement reads or loads; as many as it may name by key. More are Postgres's business. Reached by a load: which of the sets have how many is not known, so all
/// of them pass through for [`SET_TOO_LARGE_PAUSE_MS`].
pub const SETS_ROWS_MAX: usize = 10_000;

/// Rows that one statement joins to others; each is looked up while the shards of all are locked. More are Postgres's business.
pub const JOINED_ROWS_MAX: usize = 20_000;

/// Times as many candidates as a set may have rows, those that have left it since it was read last included. Reached: the set is given up.
pub const SET_CANDIDATES_FACTOR: usize = 2;

/// How long a set that was too large is not looked at again, in milliseconds.
pub const SET_TOO_LARGE_PAUSE_MS: u64 = 10_000;

/// Ways (lists of columns) by which the rows of one table are gathered into sets: each costs something at every change of a row. Reached: further ones pass through.
pub const SET_FAMILIES_MAX: usize = 8;

/// Rows of a table that are not known any more while sets of it are. Reached: the table's sets are given up.
pub const SET_STRAYS_MAX: usize = 256;

/// Rows of a table with changes on an unknown base, any of which may be in any set. Reached: sets of the table pass through until they are loaded.
pub const SET_BLIND_MAX: usize = 64;

/// Rows that change while a set is loaded. Reached: the rows that the load has found are not kept, only which they are.
pub const SET_TOUCHED_MAX: usize = 4096;

/// Bytes that a set takes beside its candidates.
pub const SET_OVERHEAD_BYTES: usize = 200;

/// Bytes that a candidate of a set takes.
pub const SET_MEMBER_BYTES: usize = 48;

/// Part of the memory for rows that sets may take beside their rows. Reached: those that were not read lately are given up.
pub const SET_MEMORY_PART: u64 = 8;

/// Loads of sets under way at once. Reached: further ones wait.
pub const SET_LOADS_AT_ONCE_MAX: usize = 2;

/// Times that a reader looks at a set which changes under its hands. Reached: the statement passes through.
pub const SET_READ_ATTEMPTS_MAX: usize = 8;

/// Stack of a thread that carries tasks: a session waits at depths that in a debug build take more than the usual 2 MiB. Only what is used takes memory. Exceeded, the process ends.
pub const THREAD_STACK_BYTES: usize = 16 << 20;
