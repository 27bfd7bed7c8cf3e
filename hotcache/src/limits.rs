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

/// Longest name of anything in Postgres (`NAMEDATALEN`). A longer one of a slot is refused before Postgres does.
pub const NAME_BYTES_MAX: usize = 63;

/// What a node of a cluster adds to the name of its slot: "_" and sixteen digits.
pub const NODE_SUFFIX_BYTES: usize = 17;
