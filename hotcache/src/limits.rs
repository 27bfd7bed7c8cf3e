//! The bounds of this crate, each with its reason and what happens when it is reached. Holds numbers only.

use std::time::Duration;

/// How often Postgres is told what was handed over, and asked for its position when it was silent. Bounds the WAL that Postgres keeps for nothing, and the
/// age of the position that an idle stream reports. Well below `wal_sender_timeout`.
pub const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of changed rows kept of one transaction until its commit. A larger one is told as "these tables changed".
pub const TRANSACTION_BYTES_MAX: usize = 64 << 20;

/// What a changed row costs beside its values, as far as [`TRANSACTION_BYTES_MAX`] is concerned.
pub const ROW_OVERHEAD: usize = 120;

/// Longest message that is read whole. Of a longer one (a huge row) only the table is learnt, and told as changed.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Bytes read of a message above [`MESSAGE_BYTES_MAX`]: envelope, tag and table OID fit.
pub const OVERSIZED_HEAD: usize = 64;

/// Bytes asked of the socket at once.
pub const READ_BYTES: usize = 64 << 10;

/// How many messages are handled before timers and the stop signal get their turn.
pub const MESSAGES_IN_A_ROW: usize = 1_000;

/// How long connecting and logging in may take. Then the attempt fails and is repeated.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// First and longest pause between two attempts to connect; doubled each time, with jitter.
pub const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// See [`BACKOFF_MIN`].
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Pause when Postgres's settings or rights forbid replication: only a human can change that.
pub const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(30);

/// How long a stop waits for the sink, which may wait for what never comes: then what it was told counts as not told, and comes again.
pub const SINK_WAIT: Duration = Duration::from_secs(1);

/// How long Postgres may take to hear the last acknowledgement and to end a stream that is stopped. It may be in the middle of a large transaction.
pub const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// How long dropping the slot may take on a graceful stop. Then it stays, and Postgres keeps WAL for it.
pub const DROP_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two looks whether old transactions have ended.
pub const HORIZON_POLL: Duration = Duration::from_millis(100);

/// How long changing the publication may wait for a lock on a table (VACUUM, index builds, open transactions with DDL). Then it fails, to be repeated.
/// Less than Postgres's `deadlock_timeout` of one second: where it and a client wait for each other, the client must not be the one that fails.
pub const PUBLICATION_LOCK_TIMEOUT: &str = "500ms";

/// How long whoever wants to change the publication waits for others who do. Each of them waits for locks no longer than [`PUBLICATION_LOCK_TIMEOUT`], one that was stopped in
/// between is ended by Postgres after [`PUBLICATION_IDLE_TIMEOUT`]. Then it fails, to be repeated.
pub const PUBLICATION_TURN_TIMEOUT: &str = "5s";

/// How long a transaction that changes the publication may do nothing: its process was stopped or cut off, and keeps others away. Then Postgres ends it.
pub const PUBLICATION_IDLE_TIMEOUT: &str = "2s";

/// How often the publication is looked at anew because somebody else changed it at the same time. Then the change fails, to be repeated.
pub const PUBLICATION_ATTEMPTS: usize = 5;

/// Times that a new leader finds the slot read by an earlier one before it ends that one's connection: who stops in order gives the slot up in less time.
pub const SLOT_IN_USE_PATIENCE: u32 = 1;

/// How long the new leader then waits for the slot. Reached: it tries again.
pub const SLOT_FREE_WAIT: Duration = Duration::from_secs(1);

/// Pause between two looks whether the slot is free.
pub const SLOT_FREE_POLL: Duration = Duration::from_millis(10);

/// Bytes of events that the leader keeps for nodes that were away for a moment or are slow. Reached: the oldest go, and who has not heard them begins anew with an empty memory.
pub const RELAY_TAIL_BYTES_MAX: usize = 16 << 20;

/// Events that it keeps. Reached: as above.
pub const RELAY_TAIL_EVENTS_MAX: usize = 1 << 16;

/// Bytes of rows in one relayed transaction. A larger one is told to the others as "these tables changed", so that one transaction cannot push all others out of what is kept.
pub const RELAY_EVENT_BYTES_MAX: usize = 4 << 20;

/// Bytes of events in one answer, but for a single event. More go into the next one.
pub const RELAY_ANSWER_BYTES: usize = 1 << 20;

/// For how long after it last asked a node is waited for with what Postgres may forget. Longer than a question waits for its answer and than an election takes. Then the slot goes on;
/// what is kept here may do for that node all the same, and if not, it begins anew. Postgres waits for this at a shutdown at most.
pub const RELAY_HOLD: Duration = Duration::from_secs(5);
