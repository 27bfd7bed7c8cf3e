//! Opening and closing a log: files, threads, Raft, leadership, in this order; and back. Never serves before everything acknowledged is applied.

use super::Machine;
use super::disk::LockGuard;
use super::error::LogError;
use super::health::Health;
use super::index::SharedIndex;
use super::jobs::Queue;
use super::network::NoNetwork;
use super::raft::{NODE, Types};
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

/// A log that runs and leads.
pub(crate) struct Running {
    pub raft: Raft<Types, State>,
    pub term: u64,
    pub identity: u64,
    pub index: Arc<SharedIndex>,
    threads: Threads,
}

struct Threads {
    queue: Arc<Queue>,
    writer: JoinHandle<()>,
}

struct Files {
    lock: LockGuard,
    identity: u64,
    recovered: Recovered,
    snapshot: Option<Snapshot>,
}

/// Opens a log and becomes its leader.
pub(crate) async fn open(
    directory: Directory,
    durable: bool,
    machine: Box<dyn Machine>,
    health: Arc<Health>,
) -> Result<Running, LogError> {
    let files = {
        let directory = directory.clone();
        let opening = tokio::task::spawn_blocking(move || open_files(&directory));
        opening.await.map_err(consensus)??
    };
    count_found(&files, &health);
    let identity = files.identity;
    let snapshots = Snapshots::new(directory.clone(), identity, files.snapshot.as_ref());
    let mut state = State::new(machine, durable, Arc::new(snapshots), health.clone());
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
    let threads = Threads::start(writer, files.lock)
        .map_err(|error| LogError::io("start a thread for", &directory.path, error))?;
    let store = Store::new(index.clone(), threads.queue.clone(), health.clone());
    match start_raft(store, state).await {
        Ok((raft, term)) => Ok(Running {
            raft,
            term,
            identity,
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

fn open_files(directory: &Directory) -> Result<Files, LogError> {
    let (disk, dir) = (&directory.disk, &directory.path);
    disk.create_dir(dir)
        .map_err(|error| LogError::io("create", dir, error))?;
    let lock = disk
        .lock(&dir.join("lock"))
        .map_err(|error| LogError::io("lock", dir, error))?
        .ok_or_else(|| LogError::Locked { dir: dir.clone() })?;
    let recovered = recover(directory)?;
    let (snapshot, damage) = newest(directory)?;
    check_agreement(directory, &recovered, snapshot.as_ref(), damage)?;
    // Any number that another log is unlikely to have will do, but 0, which `ripen.progress` had before logs had identities.
    let identity = recovered.identity;
    let identity = identity.unwrap_or_else(|| RandomState::new().hash_one(0u64).max(1));
    Ok(Files {
        lock,
        identity,
        recovered,
        snapshot,
    })
}

/// Segments and snapshot must be of one log and leave nothing out between them.
fn check_agreement(
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

async fn start_raft(store: Store, state: State) -> Result<(Raft<Types, State>, u64), LogError> {
    let raft = Raft::new(NODE, Arc::new(config()?), NoNetwork, store, state)
        .await
        .map_err(consensus)?;
    match lead(&raft).await {
        Ok(term) => Ok((raft, term)),
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
        heartbeat_interval: 100,
        election_timeout_min: 300,
        election_timeout_max: 600,
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

/// Becomes leader in a new term and waits until all there is has been applied. Returns the term.
async fn lead(raft: &Raft<Types, State>) -> Result<u64, LogError> {
    if raft.is_initialized().await.map_err(consensus)? {
        raft.trigger().elect(false).await.map_err(consensus)?;
    } else {
        let nodes = BTreeMap::from([(NODE, BasicNode::default())]);
        raft.initialize(nodes).await.map_err(consensus)?;
    }
    let leads = |metrics: &openraft::RaftMetrics<Types>| {
        let applied = metrics.last_applied.as_ref();
        let of_this_term = applied.is_some_and(|id| id.leader_id.term == metrics.current_term);
        let all = applied.map(|id| id.index) == metrics.last_log_index;
        metrics.state.is_leader() && of_this_term && all
    };
    let wait = raft.wait(None);
    let led = wait.metrics(leads, "leads, all applied").await;
    led.map(|metrics| metrics.current_term).map_err(consensus)
}

fn consensus(error: impl std::fmt::Display) -> LogError {
    LogError::Consensus {
        detail: error.to_string(),
    }
}

impl Threads {
    /// The lock lives as long as the thread.
    fn start(writer: Writer, lock: LockGuard) -> std::io::Result<Threads> {
        // There is one voter: while the disk syncs, nothing could be done but wait.
        let queue = Arc::new(Queue::new(writer, true));
        let jobs = queue.clone();
        let writer = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || {
                jobs.run();
                drop(lock);
            })?;
        Ok(Threads { queue, writer })
    }

    async fn stop(self) {
        self.queue.close();
        let joining = tokio::task::spawn_blocking(move || self.writer.join());
        // A panic there has been reported as a failure.
        let _ = joining.await;
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
