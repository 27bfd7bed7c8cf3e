//! The bounds of this crate, each with its reason and what happens when it is reached. Holds numbers only.

use std::time::Duration;

/// How long one address may take to accept a connection, TLS included. Then the next address is tried; after the last, `DialError`.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Silence after which the kernel probes a TCP connection, and the time between probes: a dead upstream is noticed within a minute.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// See [`KEEPALIVE_IDLE`].
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Connections of Ripen's own (flush, loads, catalog, administration). More callers wait, up to [`POOL_WAIT`].
pub const POOL_CONNECTIONS: usize = 12;

/// How long a caller waits for a connection of the pool. Then `StoreError::PoolTimeout`, which may be retried.
pub const POOL_WAIT: Duration = Duration::from_secs(30);

/// Prepared statements kept per connection. Past it the connection's cache is emptied: masks of assigned columns could grow without end.
pub const STATEMENTS_MAX: usize = 500;

/// How long a statement of a flush waits for somebody else's lock: as long as Postgres takes to find a deadlock (`deadlock_timeout`), since all of the flush waits with it.
/// Reached: what is locked is looked for and left out for a while.
pub const FLUSH_LOCK_WAIT: Duration = Duration::from_secs(1);

/// The same while that is looked for, many statements one after another.
pub const SHORT_LOCK_WAIT: Duration = Duration::from_millis(10);

/// How long a take-over waits for an earlier leader's transaction, which may be of a process that was stopped or cut off. A flush takes less as a rule, and one of a leader
/// that has been replaced is repeated by the new one. Reached: that transaction is ended, and looked again after the same time.
pub const PROGRESS_PATIENCE: Duration = Duration::from_millis(300);

/// Groups of a flush found one by one that something holds up, each in some fourteen steps. Reached: all groups that share a table with them count as held up.
pub const HELD_UP_FOUND_MAX: usize = 16;

/// Values in the arrays of one statement, counted in rows. More rows make a second statement: keeps the messages to some megabytes.
pub const STATEMENT_ROWS: usize = 10_000;

/// Bytes of row images in one statement. More make a second statement: Postgres takes at most 1 GB in a message, and holds it in memory.
pub const STATEMENT_BYTES: usize = 32 << 20;

/// Keys named by one load statement. More keys make another call's worth of work; the caller splits.
pub const LOAD_KEYS: usize = 10_000;

/// How often a catalog load starts over because the schema changed under it. Then `StoreError::CatalogUnsteady`.
pub const CATALOG_ATTEMPTS: usize = 5;

/// Dead letters returned by one listing. Older ones are reached by paging.
pub const DEAD_LETTER_PAGE: i64 = 1_000;

/// Bytes of one row that a load keeps. Values beyond are missing in it, so that reads which need them go to Postgres: rows may be larger than any message.
pub const LOADED_ROW_BYTES: usize = 256 << 20;
