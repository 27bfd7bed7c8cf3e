//! The log's bounds: the number, why that number, what happens when it is reached. Holds nothing else.

/// Bytes of commands packed into one Raft entry before the next begins. Large enough that consensus costs nothing per command, small enough to keep
/// several entries in flight. A single larger command makes a larger entry.
pub(crate) const ENTRY_BYTES: usize = 512 << 10;

/// Commands packed into one Raft entry before the next begins: bounds the time one apply takes.
pub(crate) const ENTRY_COMMANDS: usize = 4096;

/// Entries handed to consensus and not yet applied. While one is under way the next one fills up; more in flight means smaller entries and more syncs, not more throughput.
pub(crate) const ENTRIES_IN_FLIGHT: usize = 1;

/// Bytes of one encoded command. A larger one is refused with an error: a record's length and a segment's offsets are 32 bits wide.
pub(crate) const COMMAND_BYTES_MAX: usize = 1 << 30;

/// Bytes of recent entries kept in memory, to apply and replicate them without reading files. Older ones are read back from the segments.
pub(crate) const CACHE_BYTES: usize = 4 << 20;

/// Smallest and largest segment size in bytes; settings outside are moved to the nearer one. Offsets are 32 bits wide.
pub(crate) const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = (16 << 10)..=(1 << 30);

/// Bytes zeroed per write when a segment is prepared.
pub(crate) const ZERO_BYTES: usize = 1 << 20;

/// Bytes of the writer's buffer kept between batches. A larger batch borrows memory once.
pub(crate) const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// Bytes of a snapshot sent to another node at once: what one message may take from the others' turn.
pub(crate) const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;

/// How long to wait for a snapshot that was asked for before it is asked for again: another one may have been under way.
pub(crate) const SNAPSHOT_WAIT: std::time::Duration = std::time::Duration::from_millis(200);

/// How long a node that could not be reached is left alone by the log. Shorter than an election, so that a node which is back is not suspected.
pub(crate) const PEER_BACKOFF: std::time::Duration = std::time::Duration::from_millis(100);

/// How long an entry waits that a leader could not take because it had not heard of a majority for a while: several times between two heartbeats, so that a stopped
/// process that goes on loses no time.
pub(crate) const REFUSED_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// How long a stopping node of several waits for what it has proposed to be decided. Then that is left to the others.
pub(crate) const STOP_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

/// How often a leader says that it is there. What it was confirmed by is at most so old when it grants a lease.
pub(crate) const HEARTBEAT_MS: u64 = 60;

/// After how long without a word from the leader others want to lead: its own lease (the end of the range) and a random part of the range on top, so 550 to 700 ms. Short, since nothing
/// can be written meanwhile; long enough that a busy machine does not change leaders, which loses nothing but costs the same time.
pub(crate) const ELECTION_MS: std::ops::Range<u64> = 200..350;

/// How long a voter that has confirmed a leader gives no other its voice: openraft's own bound. Longer than leases last by any clock, so that whoever is elected need not wait
/// for these.
pub(crate) const PROMISE_MS: u64 = ELECTION_MS.end;
