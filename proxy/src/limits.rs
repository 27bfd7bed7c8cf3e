//! Every bound of this crate: the number, why that number, and what happens when it is reached.

use std::time::Duration;

/// How often a session looks whether the standby that its connection leads to has been promoted.
pub const STANDBY_POLL: Duration = Duration::from_millis(100);

/// How often a statement that waits for a server to become the system of record says so to whoever leads.
pub const HOME_NUDGE: Duration = Duration::from_millis(500);

/// Bytes waiting to be written to one side before the other side is read no further. Two socket buffers' worth: enough to keep both ends busy, small
/// enough for thousands of sessions. Reached: the kernel's buffers fill up and TCP slows the sender down.
pub const BUFFER_HIGH_BYTES: usize = 128 * 1024;

/// Bytes read at once. One scratch buffer of this size per worker thread.
pub const READ_CHUNK_BYTES: usize = 64 * 1024;

/// Capacity that a session's buffer may keep while it is empty. Reached: the buffer is given back.
pub const BUFFER_KEEP_BYTES: usize = 4 * 1024;

/// Largest message that is held whole to be understood (Parse, Bind, Query). Reached: it streams through and counts as touching everything.
pub const FRAME_HELD_BYTES_MAX: usize = 1024 * 1024;

/// Largest message between login and the first ReadyForQuery, either way. Reached: the login is refused. Postgres itself takes 64 KiB.
pub const LOGIN_FRAME_BYTES_MAX: usize = 64 * 1024;

/// Postgres's own bound of a startup packet (`MAX_STARTUP_PACKET_LENGTH`). Reached: the connection is closed.
pub const STARTUP_BYTES_MAX: usize = 10_000;

/// Postgres's bound for messages that carry no data (`PQ_SMALL_MESSAGE_LIMIT`). Reached: Postgres is left to refuse it.
pub const SMALL_FRAME_BYTES_MAX: usize = 10_000;

/// Postgres's bound for messages that carry data (`PQ_LARGE_MESSAGE_LIMIT`). Reached: Postgres is left to refuse it.
pub const LARGE_FRAME_BYTES_MAX: usize = 0x3fff_ffff - 1;

/// Savepoints of a transaction block that Postgres knows nothing of. Reached: the block goes on in Postgres.
pub const SAVEPOINTS_MAX: usize = 1000;

/// Tables that such a block may have written to. Reached: as above.
pub const TABLES_OF_BLOCK_MAX: usize = 1000;

/// Client connections when the configuration names no number. Reached: 53300, as Postgres says it.
pub const CLIENTS_MAX: usize = 20_000;

/// Replies awaited from Postgres within one pipeline. Reached: a Flush is sent and the client waits until some have come.
pub const REPLIES_AWAITED_MAX: usize = 4096;

/// Prepared statements remembered per session. Reached: further ones are prepared in Postgres only, and their executions count as touching everything.
pub const STATEMENTS_MAX: usize = 10_000;

/// Bytes of prepared statements remembered per session. Reached: as for their number.
pub const STATEMENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Portals remembered per session. Reached: as for statements.
pub const PORTALS_MAX: usize = 1000;

/// Time for a client to say what it wants (TLS and startup packet). Postgres's default `authentication_timeout`. Reached: closed without a word.
pub const STARTUP_TIMEOUT: Duration = Duration::from_secs(60);

/// Time to reach Postgres for a new session. Reached: FATAL 08006. Short, because clients have time-outs of their own.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Idle time after which a session's connection to Postgres is closed, if the configuration names no other. Long enough for the pauses of a busy session,
/// short enough for pools that keep hundreds of idle ones. Reached: the session opens a new one when it needs it.
pub const PARK_AFTER: Duration = Duration::from_secs(60);

/// The same for a connection that was used for nothing but the login: a client that has not needed Postgres at once may never do.
pub const PARK_UNUSED_AFTER: Duration = Duration::from_secs(1);

/// Time for a cancel request to be handed over. Reached: it is dropped, as Postgres drops those it cannot match.
pub const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for "ripen recover" to find out whether somebody answers at another node's address. Reached: nobody does.
pub const RECOVER_LOOK_WAIT: Duration = Duration::from_secs(1);

/// Bytes of a cancel key: a process number and the longest secret of protocol 3.2. A longer one is nobody's, and no other node is asked about it.
pub const CANCEL_KEY_BYTES_MAX: usize = 4 + 256;

/// Cancel requests about which other nodes are asked at a time: anybody may send such requests, and each costs one question per member. Reached: more wait for a turn.
pub const CANCELS_ELSEWHERE_MAX: usize = 32;

/// Time for other nodes to say whether a cancel request is for them. Reached: it goes to Postgres as it is.
pub const CANCEL_ELSEWHERE_TIMEOUT: Duration = Duration::from_secs(3);

/// Time that a session whose client is gone waits for Postgres to end its transaction. Reached: the outcome counts as unknown.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Time at shutdown for transactions to end. Reached: their sessions are terminated as Postgres does at a fast shutdown.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// Shards of the plan cache. Planning is rare; the lock is held for a look-up only.
pub const PLAN_CACHE_SHARDS: usize = 16;

/// Plans in one shard. Reached: the shard is emptied.
pub const PLAN_CACHE_SHARD_MAX: usize = 1024;

/// Longest text whose plan is remembered, in bytes. Longer ones are planned each time.
pub const PLAN_CACHE_TEXT_MAX: usize = 64 * 1024;

/// Times from outside commit to memory kept for percentiles.
pub const STALENESS_SAMPLES: usize = 1024;

/// How often everything about Postgres is looked over although nothing hints at a change.
pub const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

/// How often the process is measured against `memory_max`. What is not rows may take its margin in one of these.
pub const MEMORY_PERIOD: Duration = Duration::from_millis(250);

/// Rounds through all shards in which rows are given up after one measurement. Reached: the next measurement goes on with it.
pub const SHED_ROUNDS_MAX: usize = 64;

/// Shortest `expiry` of a table: rows must live until those who loaded them have read them. Reached: the configuration is refused.
pub const EXPIRY_MIN: Duration = Duration::from_millis(100);

/// Largest `resident_rows_max`: who reads such a table locks all of its rows, for some nanoseconds each. Reached: the configuration is refused.
pub const RESIDENT_ROWS_MAX: usize = 100_000;

/// How often tables that are held whole are looked at for what memory has lost of them. Their rows count as used by that.
pub const RESIDENT_PERIOD: Duration = Duration::from_secs(1);

/// How long a resident table that has too many rows is left alone: each try loads as many as it might have. Who reads it tries sooner.
pub const RESIDENT_PAUSE: Duration = Duration::from_secs(60);

/// Shortest `replace_after`: a node is not known to be silent sooner. Reached: the configuration is refused.
pub const REPLACE_AFTER_MIN: Duration = Duration::from_secs(1);

/// How long a node that is asked to drain waits for another to lead: several elections. Reached: it goes on as before, and says so.
pub const NODE_DRAIN_WAIT: Duration = Duration::from_secs(10);

/// How long a node that is asked to leave waits until the others go on without it. Reached: it stays, and says so.
pub const NODE_LEAVE_WAIT: Duration = Duration::from_secs(60);

/// Time between looks whether anybody leads the cluster that this node is to leave. Bounded by [`NODE_LEAVE_WAIT`].
pub const NODE_LEAVE_PERIOD: Duration = Duration::from_millis(200);

/// How long a node that leaves waits until nothing is held for transactions of its clients, who are gone. Reached: the leader gives it back when their backends are gone from Postgres.
pub const GIVE_BACK_WAIT: Duration = Duration::from_secs(2);

/// Bytes of an answer of the admin server that `ripen node` reads: thousands of members. Reached: it is refused.
pub const NODE_ANSWER_BYTES_MAX: usize = 1 << 20;

/// How long `ripen node` waits for a connection to the admin server. Reached: it says that nobody is there.
pub const NODE_CONNECT_WAIT: Duration = Duration::from_secs(5);

/// How long `/ready` waits for the hot cache once Postgres was reached. A slot waits for all transactions that run, which may be hours; reached, Ripen
/// counts as ready without its cache, for it is a correct proxy all the same.
pub const READY_WAIT: Duration = Duration::from_secs(10);

/// How often Postgres is asked whether transactions without a session have ended: how long their rows are Postgres's after that.
pub const OUTLIVING_POLL: Duration = Duration::from_millis(200);

/// Wait before a mark that could not be written is tried again.
pub const MARK_RETRY: Duration = Duration::from_millis(200);

/// How often the stream's position is compared with Postgres's.
pub const FRESHNESS_PERIOD: Duration = Duration::from_millis(250);

/// How long one look waits for old transactions to end before a newly published table is served. Reached: looked again in the next round.
pub const YOUNG_WAIT: Duration = Duration::from_secs(1);

/// Logins without a secret that are remembered for times when Postgres is away.
pub const LOGINS_REMEMBERED_MAX: usize = 1000;

/// How often the claim on the database is looked after: how late a Ripen that writes nothing notices that another has taken over. One query each time.
pub const CLAIM_PERIOD: Duration = Duration::from_secs(1);

/// How often a node that starts looks whether its database is the cluster's.
pub const HOME_POLL: Duration = Duration::from_millis(50);

/// How long a start waits for another Ripen's claim to end: a process that was killed leaves it for a moment. Then it refuses to start.
pub const CLAIM_WAIT: Duration = Duration::from_secs(5);

/// Bytes of a row that a queued write leaves. A larger one passes through: it would weigh on memory, log and flush, and Postgres has limits of its own from 1 GB on.
pub const WRITTEN_ROW_BYTES_MAX: usize = 64 << 20;

/// How often Postgres is asked what became of a dead letter's replay whose COMMIT was not answered.
pub const REPLAY_POLL: Duration = Duration::from_millis(500);

/// How long a statement waits for the catalog to be read anew after another node of the cluster has changed it. Then it passes through as touching everything.
pub const CATALOG_WAIT: Duration = Duration::from_secs(2);

/// How soon the catalog is read again when that has failed after another node had changed it.
pub const CATALOG_RETRY: Duration = Duration::from_millis(200);

/// How often the leader looks whether processes have ended that hold something.
pub const ORPHANS_PERIOD: Duration = Duration::from_millis(500);

/// How long a node that stops waits for another to lead instead. Then there is an election.
pub const HAND_OVER_WAIT: Duration = Duration::from_secs(3);

/// How long a node that asks for more of the stream is let wait until there is some: less than [`RELAY_PATIENCE`]. Then it asks again, which says that it lives.
pub const RELAY_WAIT: Duration = Duration::from_secs(1);

/// How long a node waits for the leader's answer about the stream. Then its own stream counts as away, and it asks over a new connection.
pub const RELAY_PATIENCE: Duration = Duration::from_secs(3);

/// How soon it asks again who did not get an answer.
pub const RELAY_RETRY: Duration = Duration::from_millis(50);

/// How long a node that stops waits for any other to say that it is there. If none does, the last one has gone, and the slot is dropped.
pub const LAST_NODE_WAIT: Duration = Duration::from_secs(5);

/// How often it asks for that.
pub const LAST_NODE_ASKS: usize = 2;

/// Most logs of a node. Each has threads, files and a sync of its own; more of them than disks or cores only make batches smaller. Reached: the configuration is refused.
pub const LOGS_MAX: u8 = 16;

/// Rows that an INSERT may make of arrays (`unnest`). Reached: it passes through.
pub const UNNEST_ROWS_MAX: usize = 1_000;

/// Values of sequences and random ones that one statement may draw: one batch of an ORM. Reached: it passes through.
pub const DRAWS_MAX: usize = 1_000;

/// Values that are first drawn in advance from a sequence: lost at a stop, as those of Postgres's CACHE.
pub const SEQUENCE_BLOCK_MIN: usize = 32;

/// Values drawn at once from a sequence that is in heavy use. More are not: what is lost at a stop stays small. Not below [`DRAWS_MAX`].
pub const SEQUENCE_BLOCK_MAX: usize = 1_024;

/// A sequence that has fewer values left than this many of the largest blocks is not drawn from in advance: those who draw from it one by one must get the last ones, and the error.
pub const SEQUENCE_BLOCKS_LEFT_MIN: i64 = 4;

/// How long a statement waits for values of a sequence: longer than for one block, so that only a sequence that others have locked leaves gaps. Reached: it passes through.
pub const SEQUENCE_WAIT: Duration = Duration::from_secs(3);

/// How long a lock on a sequence is waited for to make its last value known to a session's backend; others that draw from it wait as long. Reached: the question is refused.
pub const RECALL_LOCK_WAIT: Duration = Duration::from_secs(1);

/// How long one block is waited for. Reached: its values are lost, and other sequences have their turn.
pub const SEQUENCE_FETCH_MAX: Duration = Duration::from_secs(2);

/// How long nothing is drawn in advance from a sequence that gave nothing: its statements pass through, at no cost of a question each.
pub const SEQUENCE_PAUSE: Duration = Duration::from_secs(1);

/// Sequences of which values are kept. Dropped ones are among them. Reached: all values are given up, as at a stop.
pub const SEQUENCES_MAX: usize = 10_000;
