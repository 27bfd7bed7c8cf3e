//! Opening and closing a log: files, threads, Raft, leadership, in this order; and back. Never serves before everything acknowledged is applied.

use super::Machine;
use super::ballots::Ballots;
use super::disk::{LockGuard, Waiting, blocking};
use super::error::LogError;
use super::health::Health;
use super::index::SharedIndex;
use super::jobs::Queue;
use super::leadership::Leadership;
use super::limits::{ELECTION_MS, HEARTBEAT_MS};
use super::network::{Addresses, Network, Nobody, Peers};
use super::raft::Types;
use super::recovery::{ADVICE, Recovered, recover};
use super::segments::{Directory, Janitor};
use super::snapshots::{Snapshot, Snapshots, newest};
use super::state::State;
use super::store::Store;
use super::writer::Writer;
use openraft::impls::BasicNode;
use openraft::{Config, Raft, SnapshotPolicy};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;

/// A log that runs, and leads if there is nobody else to do it.
pub(crate) struct Running {
    pub raft: Raft<Types, State>,
    pub identity: u64,
    pub directory: Directory,
    pub index: Arc<SharedIndex>,
    threads: Threads,
}

struct Threads {
    queue: Arc<Queue>,
    writer: Hand,
}

/// Who writes.
enum Hand {
    Thread(JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

struct Files {
    lock: LockGuard,
    identity: u64,
    recovered: Recovered,
    snapshot: Option<Snapshot>,
}

/// Who this node is among others.
pub(crate) struct Member {
    pub node: u64,
    pub address: String,
    pub peers: Option<Arc<dyn Peers>>,
    /// The identity of the log that an empty directory shall be a copy of; it waits to be added to it.
    pub joins: Option<u64>,
    /// What its voice promises, where leases rest on that.
    pub ballots: Option<Arc<Ballots>>,
}

/// Opens a log, and becomes its leader if it has no other member.
pub(crate) async fn open(
    directory: Directory,
    durable: bool,
    member: Member,
    machine: Box<dyn Machine>,
    health: Arc<Health>,
) -> Result<Running, LogError> {
    let files = {
        let (directory, joins) = (directory.clone(), member.joins);
        let disk = directory.disk.clone();
        let opening = blocking(&*disk, move || open_files(&directory, joins));
        opening.await.map_err(consensus)??
    };
    count_found(&files, &health);
    let identity = files.identity;
    let snapshots = Snapshots::new(directory.clone(), identity, files.snapshot.as_ref());
    let addresses = Addresses::default();
    let mut state = State::new(
        machine,
        durable,
        Arc::new(snapshots),
        health.clone(),
        addresses.clone(),
    );
    if let Some(snapshot) = &files.snapshot {
        state.restore(snapshot)?;
    }
    let index = Arc::new(SharedIndex::new(files.recovered.index));
    let janitor = Janitor::start(directory.clone())?;
    let writer = Writer::new(
        identity,
        durable,
        index.clone(),
        files.recovered.end,
        janitor,
        health.clone(),
    );
    let alone = member.peers.is_none();
    let waiting = directory.disk.waiting();
    let threads = Threads::start(writer, alone, files.lock, waiting)
        .map_err(|error| LogError::io("start a thread for", &directory.path, error))?;
    let store = Store::new(index.clone(), threads.queue.clone(), health.clone());
    match start_raft(&directory, member, addresses, store, state).await {
        Ok(raft) => Ok(Running {
            raft,
            identity,
            directory,
            index,
            threads,
        }),
        Err(error) => {
            threads.stop().await;
            Err(health.failure().unwrap_or(error))
        }
    }
}

fn count_found(files: &Files, health: &Health) {
    let covered = files.snapshot.as_ref();
    let covered = covered.and_then(|snapshot| snapshot.meta.last_log_id.as_ref());
    let bytes = files
        .recovered
        .index
        .bytes_after(covered.map(|id| id.index));
    health.counters.written_bytes.store(bytes, Relaxed);
    let snapshot_bytes = files.snapshot.as_ref();
    let snapshot_bytes = snapshot_bytes.map_or(0, |snapshot| snapshot.state.len() as u64);
    health
        .counters
        .snapshot_bytes
        .store(snapshot_bytes, Relaxed);
}

/// The identity of the log in a directory. Fails if another process uses it.
pub(crate) fn identity(directory: &Directory) -> Result<Option<u64>, LogError> {
    let _lock = lock(directory)?;
    recover(directory).map(|recovered| recovered.identity)
}

pub(super) fn lock(directory: &Directory) -> Result<LockGuard, LogError> {
    let (disk, dir) = (&directory.disk, &directory.path);
    disk.create_dir(dir)
        .map_err(|error| LogError::io("create", dir, error))?;
    disk.lock(&dir.join("lock"))
        .map_err(|error| LogError::io("lock", dir, error))?
        .ok_or_else(|| LogError::Locked { dir: dir.clone() })
}

fn open_files(directory: &Directory, joins: Option<u64>) -> Result<Files, LogError> {
    let lock = lock(directory)?;
    let recovered = recover(directory)?;
    let (snapshot, damage) = newest(directory)?;
    check_agreement(directory, &recovered, snapshot.as_ref(), damage)?;
    let identity = recovered.identity.or(joins);
    let identity = identity.unwrap_or_else(draw_identity);
    Ok(Files {
        lock,
        identity,
        recovered,
        snapshot,
    })
}

/// Any number that another log is unlikely to have will do, but 0, which `ripen.progress` had before logs had identities.
pub(super) fn draw_identity() -> u64 {
    RandomState::new().hash_one(0u64).max(1)
}

/// Segments and snapshot must be of one log and leave nothing out between them.
pub(super) fn check_agreement(
    directory: &Directory,
    recovered: &Recovered,
    snapshot: Option<&Snapshot>,
    damage: Option<LogError>,
) -> Result<(), LogError> {
    let damaged = |detail: String| LogError::Damaged {
        path: directory.path.clone(),
        offset: 0,
        detail: format!("{detail}; {ADVICE}"),
    };
    if let (Some(snapshot), Some(identity)) = (snapshot, recovered.identity)
        && snapshot.identity != identity
    {
        let detail = "the snapshot belongs to another log than the segments";
        return Err(damaged(detail.to_owned()));
    }
    let last = snapshot.and_then(|snapshot| snapshot.meta.last_log_id.as_ref());
    let covered = last.map(|id| id.index);
    let purged = recovered.index.purged.map(|purged| purged.index);
    if purged > covered {
        return Err(damage.unwrap_or_else(|| {
            damaged("the snapshot is missing that covers the removed part of the log".to_owned())
        }));
    }
    let found = snapshot.is_some() || damage.is_some();
    if found && recovered.identity.is_none() {
        let detail = "there is a snapshot, but no segment of the log";
        return Err(damaged(detail.to_owned()));
    }
    if let Some(error) = damage {
        tracing::warn!(%error, "a damaged snapshot is left out, the log still has all it covers");
    }
    let Some(snapshot) = snapshot else {
        return Ok(());
    };
    let end = recovered.index.last().map(|last| last.index);
    if snapshot.from_synced_log && end < covered {
        return Err(damaged(format!(
            "the log ends at entry {}, the snapshot covers {} that had been synced in it",
            end.unwrap_or_default(),
            covered.unwrap_or_default()
        )));
    }
    Ok(())
}

async fn start_raft(
    directory: &Directory,
    member: Member,
    addresses: Addresses,
    store: Store,
    state: State,
) -> Result<Raft<Types, State>, LogError> {
    let network = Network {
        peers: member.peers.unwrap_or_else(|| Arc::new(Nobody)),
        disk: directory.disk.clone(),
        addresses,
        ballots: member.ballots,
    };
    let config = Arc::new(config()?);
    let raft = Raft::new(member.node, config, network, store, state)
        .await
        .map_err(consensus)?;
    let begun = match member.joins {
        Some(_) => lead_if_alone(&raft).await,
        None => found(&raft, member.node, member.address).await,
    };
    match begun {
        Ok(()) => Ok(raft),
        Err(error) => {
            // Fails if Raft has ended already.
            let _ = raft.shutdown().await;
            Err(error)
        }
    }
}

fn config() -> Result<Config, LogError> {
    let config = Config {
        cluster_name: "ripen".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS.start,
        election_timeout_max: ELECTION_MS.end,
        enable_pre_vote: Some(true),
        // Each opening shall have a term of its own: it fences what an earlier life of this process left behind in Postgres.
        enable_leader_restore: Some(false),
        // By bytes, see the batcher.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        // Entries are up to ENTRY_BYTES large.
        max_payload_entries: 16,
        ..Config::default()
    };
    config.validate().map_err(consensus)
}

/// Makes this node the only member of a log that has none yet.
async fn found(raft: &Raft<Types, State>, node: u64, address: String) -> Result<(), LogError> {
    if raft.is_initialized().await.map_err(consensus)? {
        return lead_if_alone(raft).await;
    }
    let nodes = BTreeMap::from([(node, BasicNode { addr: address })]);
    raft.initialize(nodes).await.map_err(consensus)?;
    until_leading(raft).await
}

/// Where no other node has a voice, leads in a new term.
async fn lead_if_alone(raft: &Raft<Types, State>) -> Result<(), LogError> {
    let node = *raft.node_id();
    let alone = move |state: &openraft::RaftState<Types>| {
        state.membership_state.effective().voter_ids().eq([node])
    };
    if !raft.with_raft_state(alone).await.map_err(consensus)? {
        return Ok(());
    }
    raft.trigger().elect(false).await.map_err(consensus)?;
    until_leading(raft).await
}

/// All that was ever acknowledged is applied when it returns.
async fn until_leading(raft: &Raft<Types, State>) -> Result<(), LogError> {
    let leads = |metrics: &openraft::RaftMetrics<Types>| Leadership::of(metrics).here;
    let wait = raft.wait(None);
    let led = wait.metrics(leads, "leads, all applied").await;
    led.map(drop).map_err(consensus)
}

pub(crate) fn consensus(error: impl std::fmt::Display) -> LogError {
    LogError::Consensus {
        detail: error.to_string(),
    }
}

impl Threads {
    /// The lock lives as long as the thread.
    fn start(
        writer: Writer,
        alone: bool,
        lock: LockGuard,
        waiting: Waiting,
    ) -> std::io::Result<Threads> {
        // Where nobody else is asked, nothing could be done but wait while the disk syncs.
        let queue = Queue::new(writer, alone);
        if let Waiting::Pauses(pace) = waiting {
            let queue = Arc::new(queue.paced(pace.clone()));
            let jobs = queue.clone();
            let writer = tokio::spawn(async move {
                jobs.run_as_task(&pace).await;
                drop(lock);
            });
            let writer = Hand::Task(writer);
            return Ok(Threads { queue, writer });
        }
        let queue = Arc::new(queue);
        let jobs = queue.clone();
        let writer = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || {
                jobs.run();
                drop(lock);
            })?;
        let writer = Hand::Thread(writer);
        Ok(Threads { queue, writer })
    }

    async fn stop(self) {
        self.queue.close();
        // A panic there has been reported as a failure.
        match self.writer {
            Hand::Thread(writer) => {
                drop(tokio::task::spawn_blocking(move || writer.join()).await);
            }
            Hand::Task(writer) => drop(writer.await),
        }
    }
}

impl Running {
    /// Ends Raft, then the threads; the directory is free afterwards.
    pub(crate) async fn stop(self) {
        // Fails if Raft has ended already.
        let _ = self.raft.shutdown().await;
        drop(self.raft);
        self.threads.stop().await;
    }
}
