//! The write-ahead log: a Raft group of one or several nodes on an own segment log. Orders and keeps commands, and applies them to the state machine. Never looks into them.

mod acks;
mod answers;
mod ballots;
mod batcher;
pub(crate) mod codec;
mod command;
pub mod disk;
mod error;
mod health;
mod index;
mod jobs;
mod leadership;
mod limits;
mod members;
mod messages;
mod network;
mod open;
mod raft;
mod recovery;
mod remains;
mod segments;
mod snapshots;
mod state;
mod store;
mod wal;
mod writer;

#[cfg(test)]
mod tests;

pub use command::{
    Answered, Command, Entry, FlushEnd, FlushScope, FlushStart, HeldScope, HoldEnd, LogIndex,
    RequestId,
};
pub use error::LogError;
pub use leadership::{Leadership, Role};
pub(crate) use limits::PROMISE_MS;
pub use members::{Members, Reach};
pub use network::Peers;
pub use remains::Remains;

use acks::Acks;
use answers::Answers;
use ballots::Ballots;
use batcher::{Batcher, Proposal};
use bytes::Bytes;
use disk::{Disk, OsDisk};
use health::{Health, add, get};
use index::SharedIndex;
use limits::{SEGMENT_BYTES, SNAPSHOT_WAIT};
use open::Member;
use openraft::Raft;
use openraft::async_runtime::WatchReceiver;
use raft::Types;
use ripen_cachestore::progress::LogIdentity;
use segments::Directory;
use state::State;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the log's entries act on. All replicas apply the same entries in the same order, so it must decide from them alone.
pub trait Machine: Send + 'static {
    /// Applies one entry. `index` grows from call to call, with gaps (Raft's own entries).
    fn apply(&mut self, index: LogIndex, entry: Entry);
    /// The state after the last applied entry, as bytes that [`Machine::restore`] reads. Must be quick: nothing is applied meanwhile.
    fn snapshot(&self) -> Vec<u8>;
    /// Replaces the state with that after the entry at `index`.
    fn restore(&mut self, index: LogIndex, bytes: &[u8]) -> Result<(), String>;
}

/// When a command counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On disk and synced.
    Fsync,
    /// Handed to the operating system. A power loss may take the last commands, a crash of the process does not. What a flush has taken is on disk all the
    /// same before it is in Postgres.
    Memory,
}

/// How to open a log.
#[derive(Clone)]
pub struct LogOptions {
    /// Its directory, created if missing. Nothing else may be in it.
    pub dir: PathBuf,
    /// When a command counts as durable.
    pub durability: Durability,
    /// Size of a segment file in bytes.
    pub segment_bytes: u64,
    /// A snapshot is taken after so many bytes of log, and what it covers is removed.
    pub snapshot_after_bytes: u64,
    /// The unix clock in milliseconds.
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// The file system.
    pub disk: Arc<dyn Disk>,
    /// This node's number in the log's group: the same for ever, and never another node's.
    pub node: u64,
    /// Where the other nodes reach this one.
    pub address: String,
    /// The way to the other nodes. `None`: there are none, and never will be while this log is open.
    pub peers: Option<Arc<dyn Peers>>,
    /// Whether tickets wait, beyond being applied, until the cluster's leases let commits be acknowledged.
    pub leases: bool,
    /// A log without members waits until the leader of the log with this identity adds it; an empty directory takes that identity. `None`: it becomes a log of its own.
    pub joins: Option<u64>,
}

impl LogOptions {
    /// The defaults, for a log in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> LogOptions {
        LogOptions {
            dir: dir.into(),
            durability: Durability::Fsync,
            segment_bytes: 32 << 20,
            snapshot_after_bytes: 256 << 20,
            clock: Arc::new(unix_clock_ms),
            disk: Arc::new(OsDisk),
            node: 1,
            address: String::new(),
            peers: None,
            leases: false,
            joins: None,
        }
    }
}

impl LogOptions {
    /// The identity of the log that is in the directory already. Blocks for as long as reading it takes.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn identity_on_disk(&self) -> Result<Option<u64>, LogError> {
        open::identity(&Directory {
            disk: self.disk.clone(),
            path: self.dir.clone(),
            segment_bytes: self.segment_bytes,
        })
    }
}

fn unix_clock_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// What the log has done since it was opened, and its size.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogStats {
    /// Bytes on disk: segments (preallocated ones too) and snapshots.
    pub disk_bytes: u64,
    /// Bytes of log since the last snapshot.
    pub log_bytes: u64,
    /// Last index applied.
    pub applied: LogIndex,
    /// Commands packed into entries.
    pub commands: u64,
    /// Raft entries written.
    pub entries: u64,
    /// Batches written, each with one sync (none with [`Durability::Memory`]).
    pub batches: u64,
    /// Times that a batch was forced to disk.
    pub syncs: u64,
    /// How long that took, in microseconds.
    pub sync_us: u64,
    /// Entries in the largest batch.
    pub batch_entries_max: u64,
    /// Commands in the largest entry.
    pub entry_commands_max: u64,
    /// Snapshots written.
    pub snapshots: u64,
    /// Proposals not yet packed into an entry.
    pub queued: u64,
}

impl LogStats {
    /// The numbers of two logs together. How far they are applied cannot be told as one number: that of the further one.
    pub fn and(self, other: LogStats) -> LogStats {
        LogStats {
            disk_bytes: self.disk_bytes + other.disk_bytes,
            log_bytes: self.log_bytes + other.log_bytes,
            applied: self.applied.max(other.applied),
            commands: self.commands + other.commands,
            entries: self.entries + other.entries,
            batches: self.batches + other.batches,
            syncs: self.syncs + other.syncs,
            sync_us: self.sync_us + other.sync_us,
            batch_entries_max: self.batch_entries_max.max(other.batch_entries_max),
            entry_commands_max: self.entry_commands_max.max(other.entry_commands_max),
            snapshots: self.snapshots + other.snapshots,
            queued: self.queued + other.queued,
        }
    }
}

/// An open log. Clones share it; when the last is dropped, the log shuts down in the background.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    proposals: mpsc::UnboundedSender<Proposal>,
    health: Arc<Health>,
    index: Arc<SharedIndex>,
    identity: LogIdentity,
    raft: Raft<Types, State>,
    answers: Answers,
    ballots: Option<Arc<Ballots>>,
    leadership: watch::Receiver<Leadership>,
    acks: Arc<Acks>,
    segment_bytes: u64,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Log {
    /// Opens or creates the log: restores the newest snapshot and applies the rest. Without other members it becomes leader, and all that was ever
    /// acknowledged is applied when it returns; else [`Log::leadership`] tells when. Needs a tokio runtime that lives as long as the log. Cancelled, it may leave the directory locked until its thread notices.
    pub async fn open(options: LogOptions, machine: impl Machine) -> Result<Log, LogError> {
        let health = Arc::new(Health::new());
        let segment_bytes = options
            .segment_bytes
            .clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        let directory = Directory {
            disk: options.disk,
            path: options.dir,
            segment_bytes,
        };
        let durable = options.durability == Durability::Fsync;
        let machine = Box::new(machine);
        let acks = Arc::new(Acks::new(!options.leases));
        let ballots = options
            .leases
            .then(|| Arc::new(Ballots::new(Instant::now())));
        let member = Member {
            node: options.node,
            address: options.address,
            peers: options.peers,
            joins: options.joins,
            ballots: ballots.clone(),
        };
        let running = open::open(directory, durable, member, machine, health.clone()).await?;
        let (proposals, receiver) = mpsc::unbounded_channel();
        let batcher = Batcher {
            raft: running.raft.clone(),
            health: health.clone(),
            clock: options.clock,
            snapshot_after_bytes: options.snapshot_after_bytes,
            proposals: receiver,
            at_ms: 0,
            acks: acks.clone(),
            left: None,
        };
        let (told, leadership) = watch::channel(Leadership::now(&running.raft));
        let inner = Inner {
            proposals,
            health,
            index: running.index.clone(),
            identity: LogIdentity(running.identity),
            answers: Answers::new(
                running.raft.clone(),
                running.directory.clone(),
                ballots.clone(),
            ),
            ballots,
            raft: running.raft.clone(),
            leadership,
            acks,
            segment_bytes,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        inner
            .tasks
            .spawn(leadership::watch(running.raft.clone(), told));
        let stop = inner.stop.clone();
        inner.tasks.spawn(async move {
            batcher.run(stop).await;
            running.stop().await;
        });
        inner.tasks.close();
        Ok(Log {
            inner: Arc::new(inner),
        })
    }

    /// [`Log::open`] on another runtime: batching, consensus and applying take turns there, so that a batch of commands wakes two other threads (the
    /// writer, and those who wait), not one for each step. Cancel safe like that one.
    pub async fn open_on(
        runtime: &Handle,
        options: LogOptions,
        machine: impl Machine,
    ) -> Result<Log, LogError> {
        let opening = runtime.spawn(Log::open(options, machine));
        opening.await.map_err(|error| LogError::Consensus {
            detail: error.to_string(),
        })?
    }

    /// Proposes a command. Never blocks; the order of calls is the order in the log. The queue has no bound of its own:
    /// the caller must limit the bytes of commands whose tickets have not resolved.
    pub fn propose(&self, command: Command) -> Ticket {
        self.propose_in(self.term(), command)
    }

    /// [`Log::propose`] of what was decided in a term: in another one it counts for nothing, and the ticket says [`LogError::NotLeader`].
    pub fn propose_in(&self, term: u64, command: Command) -> Ticket {
        let (waiter, result) = oneshot::channel();
        add(&self.inner.health.counters.queued, 1);
        let sent = self.inner.proposals.send(Proposal {
            term,
            command,
            waiter,
        });
        if let Err(mpsc::error::SendError(refused)) = sent {
            self.inner.health.counters.queued.fetch_sub(1, Relaxed);
            // The receiver lives on this stack.
            let _ = refused.waiter.send(Err(self.inner.health.why_stopped()));
        }
        Ticket { result }
    }

    /// Writes a snapshot of everything that was applied before this call, unless there is one: it is on disk when this returns, and a start reads nothing before it. Cancel safe.
    ///
    /// # Errors
    /// When the log has ended.
    pub(crate) async fn save(&self) -> Result<(), LogError> {
        let upto = self.applied().0;
        let mut metrics = self.inner.raft.metrics();
        loop {
            let saved = metrics
                .borrow_and_update()
                .snapshot
                .as_ref()
                .map(|id| id.index);
            if saved.is_some_and(|saved| saved >= upto) {
                return Ok(());
            }
            // One that is being written already may not contain it: then there is another after it.
            let triggered = self.inner.raft.trigger().snapshot().await;
            triggered.map_err(|_| self.inner.health.why_stopped())?;
            let changed = metrics.changed();
            if let Ok(Err(_)) = tokio::time::timeout(SNAPSHOT_WAIT, changed).await {
                return Err(self.inner.health.why_stopped());
            }
        }
    }

    /// The term this node leads in; grows with every opening and every change of leader.
    pub fn term(&self) -> u64 {
        self.inner.leadership.borrow().term
    }

    /// Who leads, and every change of that.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Answers what another member's log asked by [`Peers::ask`]. Cancel safe.
    ///
    /// # Errors
    /// When the question cannot be read, or this log has failed or stopped.
    pub async fn answer(&self, question: &[u8]) -> Result<Bytes, LogError> {
        self.inner.answers.answer(question).await
    }

    /// Which log this is, for ever: a copy of its directory is the same log.
    pub fn identity(&self) -> LogIdentity {
        self.inner.identity
    }

    /// How far the log has been applied here.
    pub fn applied(&self) -> LogIndex {
        *self.inner.health.applied.borrow()
    }

    /// Up to where something of the log may be seen in the machine: what was seen before this call is not newer. Ahead of [`Log::applied`] while an entry is being applied.
    pub fn touched(&self) -> LogIndex {
        LogIndex(
            self.inner
                .health
                .touched
                .load(std::sync::atomic::Ordering::SeqCst),
        )
    }

    /// [`Log::applied`], and every change of it.
    pub fn watch_applied(&self) -> watch::Receiver<LogIndex> {
        self.inner.health.applied.subscribe()
    }

    /// Lets tickets up to here resolve once they are applied, see [`LogOptions::leases`].
    pub(crate) fn acknowledge(&self, upto: LogIndex) {
        self.inner.acks.advance(upto);
    }

    /// Until when an earlier leader may have been confirmed by a majority, where this node was elected just now, in that term.
    pub(crate) fn others_confirmed_until(&self, term: u64, now: Instant) -> Instant {
        let ballots = self.inner.ballots.as_ref();
        ballots.map_or(now, |ballots| ballots.confirmed_until(term, now))
    }

    /// Waits until tickets up to here may resolve. Cancel safe.
    pub(crate) async fn until_acknowledged(&self, index: LogIndex) {
        // An error means that the log has ended, which ends the process.
        let _ = self
            .inner
            .acks
            .watch()
            .wait_for(|upto| *upto >= index)
            .await;
    }

    /// Up to where tickets may resolve.
    pub(crate) fn acknowledged(&self) -> LogIndex {
        self.inner.acks.upto()
    }

    /// Counters and sizes, for metrics.
    pub fn stats(&self) -> LogStats {
        let counters = &self.inner.health.counters;
        let segments: u64 = {
            let index = self.inner.index.lock();
            index.segments.values().map(|segment| segment.bytes).sum()
        };
        let snapshot = get(&counters.snapshot_bytes);
        let covered = get(&counters.covered_bytes);
        LogStats {
            disk_bytes: segments + self.inner.segment_bytes + snapshot,
            log_bytes: get(&counters.written_bytes).saturating_sub(covered),
            applied: self.applied(),
            commands: get(&counters.commands),
            entries: get(&counters.entries),
            batches: get(&counters.batches),
            syncs: get(&counters.syncs),
            sync_us: get(&counters.sync_us),
            batch_entries_max: get(&counters.batch_entries_max),
            entry_commands_max: get(&counters.entry_commands_max),
            snapshots: get(&counters.snapshots),
            queued: get(&counters.queued),
        }
    }

    /// The error that ended the log's work, if one did.
    pub fn failure(&self) -> Option<LogError> {
        self.inner.health.failure()
    }

    /// Waits until the log fails for good (a failed sync, a full disk). The process must stop acknowledging then. Cancel safe.
    pub async fn failed(&self) -> LogError {
        self.inner.health.failed().await
    }

    /// Ends the log after the proposals made so far are durable and applied. Later proposals get [`LogError::Stopped`]. The directory may be opened again
    /// when it returns. Cancelled, it goes on in the background.
    pub async fn shutdown(self) {
        self.inner.stop.cancel();
        self.inner.tasks.wait().await;
        self.inner.acks.end();
    }
}

/// Resolves when a proposal is durable *and* applied, by all nodes that may answer from memory, with the index of its entry. Dropping it does not withdraw the proposal.
///
/// [`LogError::NotLeader`] means that nothing was proposed; after any other error but [`LogError::TooLarge`] the proposal may still be found in the log after a restart.
#[derive(Debug)]
pub struct Ticket {
    result: oneshot::Receiver<Result<LogIndex, LogError>>,
}

impl Future for Ticket {
    type Output = Result<LogIndex, LogError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result)
            .poll(cx)
            .map(|received| received.unwrap_or(Err(LogError::Stopped)))
    }
}
