//! Puts a node's grid together from its log directory, and takes it apart again in order. The one place where the grid's tasks start.

use crate::clock::QueueClock;
use crate::feed::Feed;
use crate::fences::Fences;
use crate::flusher::{FlushStats, Flusher, FlusherError, PaceSource};
use crate::grid::{Grid, GridOptions};
use crate::leader::{Leader, Proposal};
use crate::loader::{CatalogSource, Loader};
use crate::log::{Log, LogError, LogOptions};
use crate::machine::GridMachine;
use crate::marks::Marks;
use crate::rows::{Clock, Rows};
use crate::schedule::Schedule;
use crate::thread::{RuntimeThread, Waits};
use parking_lot::Mutex;
use ripen_cachestore::Store;
use ripen_cachestore::progress::LogKey;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a node is made of beside its log.
pub struct NodeParts {
    /// The system of record.
    pub store: Store,
    /// The newest catalog.
    pub catalog: CatalogSource,
    /// How tables ripen.
    pub pace: PaceSource,
    /// Bounds of waiting.
    pub options: GridOptions,
    /// Most bytes of rows.
    pub memory_max_bytes: u64,
    /// The log's number in `ripen.progress`.
    pub log_number: i32,
    /// This process, in words: what others who want to write there are told.
    pub holder: String,
    /// True when the database may be written to.
    pub claimed: watch::Receiver<bool>,
    /// The unix clock in milliseconds.
    pub clock: fn() -> u64,
    /// What ages of rows are counted by.
    pub age_clock: Clock,
    /// Chance for backoffs, in 0..1.
    pub chance: fn() -> f64,
}

/// A running grid with the tasks that carry it.
pub struct Node {
    /// What sessions use.
    pub grid: Arc<Grid>,
    /// Ends by itself only when the node must not go on.
    pub flusher: JoinHandle<Result<(), FlusherError>>,
    /// Ends by itself only by a panic.
    pub loader: JoinHandle<()>,
    log: Log,
    log_number: i32,
    log_thread: RuntimeThread,
    stop: CancellationToken,
}

impl Node {
    /// Opens the log, applies all that was ever acknowledged, and starts the node's tasks. Postgres need not be there.
    pub async fn open(log: LogOptions, parts: NodeParts) -> Result<Node, LogError> {
        let (rows, feed, schedule) = (
            Arc::new(Rows::new(parts.memory_max_bytes, parts.age_clock)),
            Arc::new(Feed::default()),
            Arc::new(Schedule::default()),
        );
        let leader = Arc::new(Mutex::new(Leader::default()));
        let (applied, watch_applied) = watch::channel(Proposal::default());
        let live = Arc::new(AtomicBool::new(false));
        let follows = feed.clone();
        let machine = GridMachine {
            rows: rows.clone(),
            schedule: schedule.clone(),
            leader: leader.clone(),
            applied,
            live: live.clone(),
            follows: Arc::new(move |table| follows.follows(table)),
        };
        let log_thread = RuntimeThread::start("log", Waits::Time)
            .map_err(|error| LogError::io("start a thread for", &log.dir, error))?;
        let log = Log::open_on(log_thread.runtime(), log, machine).await?;
        live.store(true, Ordering::SeqCst);
        let stop = CancellationToken::new();
        let (settled, watch_settled) = watch::channel(false);
        let (loader, run_loader) = Loader::new(
            rows.clone(),
            parts.store.clone(),
            parts.catalog.clone(),
            watch_settled.clone(),
            stop.clone(),
        );
        let (flushes, requests) = mpsc::unbounded_channel();
        let flush_stats = Arc::new(FlushStats::default());
        let flusher = Flusher {
            log: log.clone(),
            log_number: parts.log_number,
            holder: parts.holder,
            claimed: parts.claimed,
            store: parts.store,
            catalog: parts.catalog,
            rows: rows.clone(),
            schedule: schedule.clone(),
            pace: parts.pace,
            requests,
            settled,
            clock: parts.clock,
            time: QueueClock::default(),
            chance: parts.chance,
            stats: flush_stats.clone(),
            held_up: Default::default(),
        };
        let grid = Grid {
            rows,
            fences: Arc::new(Fences::default()),
            aside: Arc::new(Fences::default()),
            feed,
            schedule,
            marks: Arc::new(Marks::new(((parts.chance)() * f64::from(u32::MAX)) as u32)),
            wait_stats: Default::default(),
            flush_stats,
            leader,
            applied: watch_applied,
            settled: watch_settled,
            log: log.clone(),
            loader,
            flushes,
            options: parts.options,
        };
        Ok(Node {
            grid: Arc::new(grid),
            flusher: tokio::spawn(flusher.run(stop.clone())),
            loader: tokio::spawn(run_loader),
            log,
            log_number: parts.log_number,
            log_thread,
            stop,
        })
    }

    /// The log as the system of record knows it.
    pub fn key(&self) -> LogKey {
        LogKey {
            number: self.log_number,
            identity: self.log.identity(),
        }
    }

    /// The log, to be watched for its failure: the process must stop acknowledging then.
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// Stops the tasks, then the log. What is pending stays on disk. Not cancel safe.
    pub async fn close(self) {
        self.stop.cancel();
        // A task that panicked has said so. One that has ended may have been asked already, and must not be asked twice.
        if !self.flusher.is_finished() {
            let _ = self.flusher.await;
        }
        if !self.loader.is_finished() {
            let _ = self.loader.await;
        }
        self.log.shutdown().await;
        self.log_thread.stop().await;
    }
}
