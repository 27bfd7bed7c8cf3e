//! Bounds of the connections between nodes: the number, why that number, what happens when it is reached. Holds nothing else.

use std::time::Duration;

/// Bytes of a frame. A commit group of the largest size must fit ([`crate::log`] refuses larger ones first); a larger frame ends the connection.
pub(crate) const FRAME_BYTES_MAX: usize = (1 << 30) + (16 << 20);

/// Frames on their way to the socket of one connection. Who wants to send more waits.
pub(crate) const FRAMES_QUEUED: usize = 256;

/// Questions of one connection that are worked on at a time. More wait in the socket.
pub(crate) const QUESTIONS_AT_A_TIME: usize = 1024;

/// How long a connection may take until both sides have said who they are. Then it is closed, and tried again when somebody asks.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// Rounds of PBKDF2 that make keys of a secret: a second at most at each start, for ever for whoever tries secrets.
pub(crate) const SECRET_ROUNDS: u32 = 600_000;

/// Bytes of a secret. A shorter one could be found by trying, and is refused.
pub(crate) const SECRET_BYTES_MIN: usize = 16;

/// How often a lease is renewed when nothing else makes a node ask: several times before it ends.
pub(crate) const RENEW_PERIOD: Duration = Duration::from_millis(60);

/// How long a node that has applied more waits before it asks for a lease beside a question that is on its way: on a quick network that is answered first.
pub(crate) const LEASES_APART: Duration = Duration::from_millis(1);

/// Questions for a lease that are on their way at a time. What is applied then is told when the first is answered.
pub(crate) const LEASES_ASKED_MAX: usize = 32;

/// How long after its last lease a node's reads wait for the next one: longer than an election takes. Then they pass through, as they do where no majority is.
pub(crate) const LEASE_HOPE: Duration = Duration::from_secs(3);

/// How often a read that waits for a lease looks for it.
pub(crate) const LEASE_POLL: Duration = Duration::from_millis(5);

/// How long a node waits for another's answer about the membership.
pub(crate) const ASK_PATIENCE: Duration = Duration::from_secs(2);

/// How often a node says again that it wants to join or leave.
pub(crate) const JOIN_PERIOD: Duration = Duration::from_millis(200);

/// How long a leader that wants another to lead waits for that, before it asks again: several elections.
pub(crate) const HAND_OVER_PERIOD: Duration = Duration::from_secs(2);

/// How often the leader looks whether the membership is as it should be.
pub(crate) const KEEP_PERIOD: Duration = Duration::from_millis(250);

/// How long the leader lets a reader wait for others before it answers how far they are: longer than a lease, so that it nearly always says what is hoped for.
pub(crate) const EVERYWHERE_WAIT: Duration = Duration::from_millis(500);

/// How soon a reader asks again who did not reach the leader.
pub(crate) const EVERYWHERE_RETRY: Duration = Duration::from_millis(20);

/// For how long the leader remembers that a node wants to leave. The node repeats it, so a change of mind is heard in time.
pub(crate) const LEAVE_MEMORY: Duration = Duration::from_secs(5);

/// Log entries that a member may lack and still be given a voice: those of a moment.
pub(crate) const CAUGHT_UP_ENTRIES: u64 = 256;
