//! Puts a node's grid together from its log directory, and takes it apart again in order. The one place where the grid's tasks start.

use crate::clock::QueueClock;
use crate::cluster::{Desk, Member, MemberError, MemberOptions};
use crate::desk::{Answer, Request};
use crate::feed::Feed;
use crate::fences::Fences;
use crate::flusher::{FlushStats, Flusher, FlusherError, PaceSource, Standbys};
use crate::grid::{Grid, GridOptions, carry_doubts};
use crate::leader::{Leader, Proposal};
use crate::loader::{CatalogSource, Loader};
use crate::log::disk::Waiting;
use crate::log::{Log, LogError, LogOptions};
use crate::machine::GridMachine;
use crate::marks::Marks;
use crate::ownership::Ownership;
use crate::peers::{PeerParts, Peers};
use crate::record::Record;
use crate::requester::{self, Requester};
use crate::rows::{Clock, Rows};
use crate::schedule::Schedule;
use crate::thread::{RuntimeThread, Waits};
use parking_lot::Mutex;
use ripen_cachestore::progress::LogKey;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a node is made of beside its log.
pub struct NodeParts {
    /// The system of record.
    pub store: Arc<dyn Record>,
    /// The newest catalog.
    pub catalog: CatalogSource,
    /// How tables ripen.
    pub pace: PaceSource,
    /// Bounds of waiting.
    pub options: GridOptions,
    /// Most bytes of rows.
    pub memory_max_bytes: u64,
    /// Part of it for near copies of rows that other nodes own.
    pub near_share: f64,
    /// The log's number in `ripen.progress`.
    pub log_number: i32,
    /// This process, in words: what others who want to write there are told.
    pub holder: String,
    /// True when the database may be written to.
    pub claimed: watch::Receiver<bool>,
    /// Standbys of the system of record that are to have each flush before it is forgotten here, by their `application_name`.
    pub standbys: Vec<String>,
    /// The unix clock in milliseconds.
    pub clock: fn() -> u64,
    /// What ages of rows are counted by.
    pub age_clock: Clock,
    /// Chance for backoffs, in 0..1.
    pub chance: fn() -> f64,
    /// How it takes part in a cluster. `None`: it is alone.
    pub cluster: Option<MemberOptions>,
}

/// Why a node does not open.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The cluster.
    #[error(transparent)]
    Member(#[from] MemberError),
}

/// A running grid with the tasks that carry it.
pub struct Node {
    /// What sessions use.
    pub grid: Arc<Grid>,
    /// Ends by itself only when the node must not go on.
    pub flusher: JoinHandle<Result<(), FlusherError>>,
    /// Ends by itself only by a panic.
    pub loader: JoinHandle<()>,
    /// This node in its cluster.
    pub member: Option<Member>,
    log: Log,
    log_number: i32,
    log_thread: RuntimeThread,
    stop: CancellationToken,
}

impl Node {
    /// Opens the log, applies all that was ever acknowledged (of a cluster: all that this node knows of), and starts the node's tasks. Postgres need not be there.
    ///
    /// # Errors
    /// When the log cannot be opened, or no node of the cluster to be joined says which it is.
    pub async fn open(log: LogOptions, parts: NodeParts) -> Result<Node, NodeError> {
        let (rows, feed, schedule) = (
            Arc::new(Rows::new(parts.memory_max_bytes, parts.age_clock)),
            Arc::new(Feed::default()),
            Arc::new(Schedule::default()),
        );
        rows.share_near(parts.near_share);
        rows.measure_by(feed.position_cell());
        let leader = Arc::new(Mutex::new(Leader::default()));
        let (applied, watch_applied) = watch::channel(Proposal::default());
        let ownership = Ownership {
            rows: rows.clone(),
            fences: Arc::new(Fences::default()),
            feed: feed.clone(),
            marks: Arc::new(Marks::new(((parts.chance)() * f64::from(u32::MAX)) as u32)),
        };
        let (asked, catalog_changes) = (Arc::default(), Arc::new(watch::Sender::new(0)));
        let watch_catalog = catalog_changes.subscribe();
        let live = Arc::new(AtomicBool::new(false));
        let follows = feed.clone();
        let machine = GridMachine {
            rows: rows.clone(),
            schedule: schedule.clone(),
            leader: leader.clone(),
            applied: applied.clone(),
            live: live.clone(),
            follows: Arc::new(move |table| follows.follows(table)),
            requests: Arc::clone(&asked),
            ownership: ownership.clone(),
            catalog_changes,
            home: parts.store.home().clone(),
        };
        let waits = match parts.cluster {
            Some(_) => Waits::TimeAndSockets,
            None => Waits::Time,
        };
        let log_thread = match log.disk.waiting() {
            Waiting::Blocks => RuntimeThread::start("log", waits)
                .map_err(|error| LogError::io("start a thread for", &log.dir, error))?,
            Waiting::Pauses(_) => RuntimeThread::here(),
        };
        let (log, member) = match parts.cluster {
            Some(options) => {
                let opened = Member::open(log_thread.runtime(), options, log, machine);
                let member = opened.await?;
                (member.log.clone(), Some(member))
            }
            None => {
                let opened = Log::open_on(log_thread.runtime(), log, machine);
                (opened.await?, None)
            }
        };
        live.store(true, Ordering::SeqCst);
        let stop = CancellationToken::new();
        let (lead, leads) = watch::channel(None);
        let leading = Leading {
            leader: leader.clone(),
            applied,
            lead,
        };
        leading.follow(&log);
        if member.is_some() {
            tokio::spawn(leading.run(log.clone(), stop.clone()));
        }
        let (settled, watch_settled) = watch::channel(false);
        let handle = member.as_ref().map(Member::handle);
        let sure = handle.clone();
        // Among several, the log names a flush's transaction to all before it commits, so there is nothing to be settled first.
        let loads_at_once = watch::Sender::new(true).subscribe();
        let (loader, run_loader) = Loader::new(
            rows.clone(),
            parts.store.clone(),
            parts.catalog.clone(),
            match &handle {
                Some(_) => loads_at_once,
                None => watch_settled.clone(),
            },
            Arc::new(move || sure.as_ref().is_none_or(|member| member.may_read())),
            stop.clone(),
        );
        let peers_catalog = parts.catalog.clone();
        let (flushes, requests) = mpsc::unbounded_channel();
        let flush_stats = Arc::new(FlushStats::default());
        let (home, standbys) = (parts.store.home().clone(), Standbys::new(parts.standbys));
        let flusher = Flusher {
            standbys: standbys.clone(),
            unsettled: false,
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
            leads,
            has_peers: member.is_some(),
        };
        let peers = handle.clone().map(|member| {
            let parts = PeerParts {
                rows: rows.clone(),
                feed: feed.clone(),
                fences: ownership.fences.clone(),
                log: log.clone(),
                member,
                catalog: peers_catalog,
                loader: loader.clone(),
            };
            let (peers, run) = Peers::new(parts, stop.clone());
            loader.share(&peers);
            tokio::spawn(run);
            peers
        });
        let (requester, releases) = handle.map(Requester::new).unzip();
        let grid = Grid {
            rows,
            peers,
            fences: ownership.fences.clone(),
            aside: Arc::new(Fences::default()),
            feed,
            schedule,
            marks: ownership.marks.clone(),
            requests: asked,
            catalog_changes: watch_catalog,
            requester,
            writer: Default::default(),
            home: home.clone(),
            standbys: standbys.clone(),
            ownership,
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
        let grid = Arc::new(grid);
        if let Some(member) = grid.member() {
            member.serve(desk(&grid));
        }
        if let (Some(member), Some(peers)) = (grid.member(), &grid.peers) {
            member.lend(lender(peers));
        }
        if let Some(releases) = releases {
            let carried = requester::carry_releases(Arc::downgrade(&grid), releases);
            let stop = stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled(carried).await });
        }
        if grid.home.guarded() && grid.has_peers() {
            let (carried, stop) = (carry_doubts(Arc::downgrade(&grid)), stop.clone());
            tokio::spawn(async move { stop.run_until_cancelled(carried).await });
        }
        Ok(Node {
            grid,
            member,
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
        match self.member {
            Some(member) => member.close().await,
            None => self.log.shutdown().await,
        }
        self.log_thread.stop().await;
    }
}

/// Tells the parts of a node whether it leads.
struct Leading {
    leader: Arc<Mutex<Leader>>,
    applied: watch::Sender<Proposal>,
    lead: watch::Sender<Option<u64>>,
}

impl Leading {
    fn follow(&self, log: &Log) {
        let now = *log.leadership().borrow();
        let term = now.here.then_some(now.term);
        if *self.lead.borrow() == term {
            return;
        }
        let mut leader = self.leader.lock();
        leader.lead(term);
        self.applied.send_replace(leader.applied());
        self.lead.send_replace(term);
    }

    async fn run(self, log: Log, stop: CancellationToken) {
        let mut leadership = log.leadership();
        loop {
            self.follow(&log);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = leadership.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Does what other nodes ask, on the runtime of the sessions.
fn desk(grid: &Arc<Grid>) -> Desk {
    let (grid, runtime) = (Arc::downgrade(grid), Handle::current());
    Arc::new(move |question| {
        let Some(grid) = grid.upgrade() else {
            return Box::pin(async { Err("this node is stopping".to_owned()) });
        };
        let serving = runtime.spawn(async move {
            match Request::decode(&question) {
                Ok(request) => Ok(grid.serve(request).await.encode()),
                Err(malformed) => Err(malformed.to_string()),
            }
        });
        Box::pin(async move {
            serving
                .await
                .unwrap_or_else(|_| Ok(Answer::Elsewhere.encode()))
        })
    })
}

/// Tells other nodes of rows, on the runtime of the sessions.
fn lender(peers: &Arc<Peers>) -> Desk {
    let (peers, runtime) = (Arc::downgrade(peers), Handle::current());
    Arc::new(move |question| {
        let Some(peers) = peers.upgrade() else {
            return Box::pin(async { Err("this node is stopping".to_owned()) });
        };
        let answering = runtime.spawn(async move { peers.answer(&question).await });
        Box::pin(async move {
            let stopped = |_| Err("this node is stopping".to_owned());
            answering.await.unwrap_or_else(stopped)
        })
    })
}
