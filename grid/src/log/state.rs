//! openraft's state machine around the caller's [`Machine`]: applies entries, wakes those who wait, takes and restores snapshots. Never looks into commands.

use super::Machine;
use super::command::LogIndex;
use super::disk::blocking;
use super::error::LogError;
use super::health::{Health, add, get};
use super::network::Addresses;
use super::raft::{Batch, LogId, Membership, Payload, SnapshotMeta, StoredMembership, Types};
use super::snapshots::{Snapshot, SnapshotFile, Snapshots};
use crate::mistake::Mistake;
use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use parking_lot::Mutex;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

type OpenraftSnapshot = openraft::Snapshot<
    super::raft::CommittedLeaderId,
    u64,
    openraft::impls::BasicNode,
    SnapshotFile,
>;

/// The machine and what Raft must know of it.
pub(crate) struct State {
    // Only ever reached through `&mut self`; the lock makes a `Send` machine `Sync`.
    machine: Mutex<Box<dyn Machine>>,
    applied: Option<LogId>,
    membership: StoredMembership,
    at_ms: u64,
    durable: bool,
    snapshots: Arc<Snapshots>,
    health: Arc<Health>,
    addresses: Addresses,
}

impl State {
    pub(crate) fn new(
        machine: Box<dyn Machine>,
        durable: bool,
        snapshots: Arc<Snapshots>,
        health: Arc<Health>,
        addresses: Addresses,
    ) -> State {
        State {
            machine: Mutex::new(machine),
            applied: None,
            membership: StoredMembership::default(),
            at_ms: 0,
            durable,
            snapshots,
            health,
            addresses,
        }
    }

    /// Replaces the state with a snapshot's.
    pub(crate) fn restore(&mut self, snapshot: &Snapshot) -> Result<(), LogError> {
        let index = snapshot.meta.last_log_id.as_ref().map_or(0, |id| id.index);
        self.health.touched.fetch_max(index, Ordering::SeqCst);
        let machine = self.machine.get_mut();
        let restored = machine.restore(LogIndex(index), &snapshot.state);
        restored.map_err(|detail| LogError::Restore { index, detail })?;
        self.applied = snapshot.meta.last_log_id;
        self.membership = snapshot.meta.last_membership.clone();
        self.addresses.learn(self.membership.membership());
        self.at_ms = self.at_ms.max(snapshot.at_ms);
        self.note_applied(index);
        Ok(())
    }

    fn note_applied(&self, index: u64) {
        let counters = &self.health.counters;
        counters
            .applied_at_ms
            .fetch_max(self.at_ms, Ordering::Relaxed);
        self.health.applied.send_replace(LogIndex(index));
    }

    pub(super) fn apply_entry(
        &mut self,
        (entry, responder): EntryResponder<Types>,
    ) -> Result<(), LogError> {
        let index = entry.log_id.index;
        let mut counts = true;
        match &entry.payload {
            Payload::Blank => {}
            Payload::Normal(batch) => {
                counts = self.apply_batch(index, entry.log_id.leader_id.term, batch)?;
            }
            Payload::Membership(membership) => {
                self.addresses.learn(membership);
                let id = Some(entry.log_id);
                self.membership = StoredMembership::new(id, membership.clone());
            }
        }
        self.applied = Some(entry.log_id);
        self.note_applied(index);
        if let Some(responder) = responder {
            responder.send(counts);
        }
        Ok(())
    }

    /// Answers whether its commands count.
    fn apply_batch(&mut self, index: u64, term: u64, batch: &Batch) -> Result<bool, LogError> {
        let health = self.health.clone();
        // Recorded before the waiters are dropped, so that they hear it.
        let broken = |detail: String| {
            health.fail(LogError::Consensus {
                detail: format!("log entry {index} could not be applied: {detail}"),
            })
        };
        let entry = batch.take().map_err(|error| broken(error.to_string()))?;
        if entry.term != 0 && entry.term != term && !Mistake::StaleDecision.is_made() {
            return Ok(false);
        }
        self.at_ms = self.at_ms.max(entry.at_ms);
        self.health.touched.fetch_max(index, Ordering::SeqCst);
        let machine = self.machine.get_mut();
        // A panic would leave everybody waiting for ever; as an error it reaches all.
        catch_unwind(AssertUnwindSafe(|| machine.apply(LogIndex(index), entry)))
            .map_err(|_| broken("the state machine panicked".to_owned()))?;
        Ok(true)
    }

    pub(super) fn membership(&self) -> &Membership {
        self.membership.membership()
    }

    pub(super) fn at_ms(&self) -> u64 {
        self.at_ms
    }

    /// All of it, now.
    pub(super) fn snapshot(&mut self) -> Snapshot {
        Snapshot {
            identity: self.snapshots.identity(),
            meta: self.meta(),
            at_ms: self.at_ms,
            from_synced_log: self.durable,
            state: self.machine.get_mut().snapshot(),
        }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        }
    }

    fn installed(&mut self, meta: &SnapshotMeta, file: &SnapshotFile) -> Result<(), LogError> {
        let mut snapshot = self.snapshots.load(file)?;
        snapshot.meta = meta.clone();
        snapshot.identity = self.snapshots.identity();
        snapshot.from_synced_log = false;
        self.restore(&snapshot)?;
        self.snapshots.save(&snapshot).map(drop)
    }
}

impl RaftStateMachine<Types> for State {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        while let Some(entry) = entries.try_next().await? {
            self.apply_entry(entry)
                .map_err(|error| io::Error::other(self.health.fail(error)))?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let written = get(&self.health.counters.written_bytes);
        Builder {
            covered_bytes: written,
            snapshot: Some(self.snapshot()),
            snapshots: self.snapshots.clone(),
            health: self.health.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        file: SnapshotFile,
    ) -> io::Result<()> {
        self.installed(meta, &file)
            .map_err(|error| io::Error::other(self.health.fail(error)))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<OpenraftSnapshot>> {
        let current = self.snapshots.current();
        Ok(current.map(|(meta, snapshot)| OpenraftSnapshot { meta, snapshot }))
    }
}

/// Writes a snapshot that was taken already, while entries go on being applied.
pub(crate) struct Builder {
    snapshot: Option<Snapshot>,
    covered_bytes: u64,
    snapshots: Arc<Snapshots>,
    health: Arc<Health>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<OpenraftSnapshot> {
        let snapshot = self.snapshot.take().ok_or(io::ErrorKind::Unsupported)?;
        let snapshots = self.snapshots.clone();
        let disk = snapshots.disk();
        let saving = blocking(&*disk, move || {
            snapshots
                .save(&snapshot)
                .map(|bytes| (bytes, snapshot.meta))
        });
        let saved = saving.await?;
        let (bytes, meta) = saved.map_err(|error| io::Error::other(self.health.fail(error)))?;
        let counters = &self.health.counters;
        counters.snapshot_bytes.store(bytes, Ordering::Relaxed);
        counters
            .covered_bytes
            .fetch_max(self.covered_bytes, Ordering::Relaxed);
        add(&counters.snapshots, 1);
        let current = self.snapshots.current();
        let file = current
            .map(|(_, file)| file)
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(OpenraftSnapshot {
            meta,
            snapshot: file,
        })
    }
}
