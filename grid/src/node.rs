//! Puts a node's grid together from its logs' directories, and takes it apart again in order. The one place where the grid's tasks start.

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
use crate::queue::{LogNumber, Queue};
use crate::record::Record;
use crate::requester::{self, Requester};
use crate::requests::Requests;
use crate::rows::{Clock, Rows};
use crate::schedule::Schedule;
use crate::thread::{RuntimeThread, Waits};
use futures_util::future::join_all;
use parking_lot::Mutex;
use ripen_cachestore::home::Home;
use ripen_cachestore::progress::LogKey;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
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
    /// The first log's number in `ripen.progress`; the others follow.
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
    logs: Vec<Log>,
    log_number: i32,
    log_threads: Vec<RuntimeThread>,
    stop: CancellationToken,
}

impl Node {
    /// Opens the log, applies all that was ever acknowledged (of a cluster: all that this node knows of), and starts the node's tasks. Postgres need not be there.
    ///
    /// # Errors
    /// When the log cannot be opened, or no node of the cluster to be joined says which it is.
    pub async fn open(log: LogOptions, parts: NodeParts) -> Result<Node, NodeError> {
        Node::open_several(vec![log], parts).await
    }

    /// [`Node::open`] with several logs, of a node alone. Each has the same place in `logs` for ever.
    ///
    /// # Errors
    /// The same.
    pub async fn open_several(
        logs: Vec<LogOptions>,
        mut parts: NodeParts,
    ) -> Result<Node, NodeError> {
        let shared = Shared::new(&parts, logs.len());
        let mut cluster = parts.cluster.take();
        assert!(
            cluster.is_none() || logs.len() == 1,
            "a cluster has one log"
        );
        let stop = CancellationToken::new();
        let (mut member, mut opened) = (None, Vec::with_capacity(logs.len()));
        for (number, options) in (0..).map(LogNumber).zip(logs) {
            let (one, joined) = OpenLog::open(number, &shared, options, cluster.take()).await?;
            member = member.or(joined);
            opened.push(one);
        }
        let has_peers = member.is_some();
        let standbys = Standbys::new(std::mem::take(&mut parts.standbys));
        let (flush_stats, turn) = (
            Arc::new(FlushStats::default()),
            Arc::<tokio::sync::Mutex<()>>::default(),
        );
        let (mut queues, mut flushers, mut log_threads) = (Vec::new(), Vec::new(), Vec::new());
        for one in opened {
            let (flushes, requests) = mpsc::unbounded_channel();
            let (settled, watch_settled) = watch::channel(false);
            let leads = one.leading.leads();
            flushers.push(Flusher {
                standbys: standbys.clone(),
                unsettled: false,
                log: one.log.clone(),
                log_number: parts.log_number + i32::from(one.number.0),
                holder: parts.holder.clone(),
                claimed: parts.claimed.clone(),
                store: parts.store.clone(),
                catalog: parts.catalog.clone(),
                rows: shared.ownership.rows.clone(),
                schedule: one.schedule.clone(),
                pace: parts.pace.clone(),
                requests,
                settled,
                clock: parts.clock,
                time: QueueClock::default(),
                chance: parts.chance,
                stats: flush_stats.clone(),
                held_up: Default::default(),
                leads,
                has_peers,
                turn: turn.clone(),
            });
            queues.push(Queue {
                number: one.number,
                schedule: one.schedule,
                settled: watch_settled,
                leader: one.leading.leader.clone(),
                applied: one.leading.applied.subscribe(),
                log: one.log.clone(),
                flushes,
            });
            if has_peers {
                tokio::spawn(one.leading.run(one.log, stop.clone()));
            }
            log_threads.push(one.thread);
        }
        let handle = member.as_ref().map(Member::handle);
        let sure = handle.clone();
        let (loader, run_loader) = Loader::new(
            shared.ownership.rows.clone(),
            parts.store.clone(),
            parts.catalog.clone(),
            match has_peers {
                // Among several, the log names a flush's transaction to all before it commits, so there is nothing to be settled first.
                true => watch::Sender::new(true).subscribe(),
                false => all(queues.iter().map(|queue| queue.settled.clone()).collect()),
            },
            Arc::new(move || sure.as_ref().is_none_or(|member| member.may_read())),
            stop.clone(),
        );
        let peers = handle.clone().map(|member| {
            let parts = PeerParts {
                rows: shared.ownership.rows.clone(),
                feed: shared.ownership.feed.clone(),
                fences: shared.ownership.fences.clone(),
                log: queues[0].log.clone(),
                member,
                catalog: parts.catalog,
                loader: loader.clone(),
            };
            let (peers, run) = Peers::new(parts, stop.clone());
            loader.share(&peers);
            tokio::spawn(run);
            peers
        });
        let logs = queues.iter().map(|queue| queue.log.clone()).collect();
        let (requester, releases) = handle.map(Requester::new).unzip();
        let ownership = shared.ownership;
        let grid = Grid {
            rows: ownership.rows.clone(),
            peers,
            fences: ownership.fences.clone(),
            aside: Arc::new(Fences::default()),
            feed: ownership.feed.clone(),
            queues,
            tables: Default::default(),
            marks: ownership.marks.clone(),
            requests: shared.requests,
            catalog_changes: shared.catalog_changes.subscribe(),
            requester,
            writer: Default::default(),
            host: Default::default(),
            home: shared.home,
            standbys,
            ownership,
            wait_stats: Default::default(),
            flush_stats,
            loader,
            options: parts.options,
            transactions: Default::default(),
            unlocked: Default::default(),
            nudging: Default::default(),
            buffered: Default::default(),
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
            flusher: tokio::spawn(flush(flushers, stop.clone())),
            loader: tokio::spawn(run_loader),
            logs,
            log_number: parts.log_number,
            log_threads,
            stop,
        })
    }

    /// The logs as the system of record knows them.
    pub fn keys(&self) -> Vec<LogKey> {
        let numbered = (self.log_number..).zip(&self.logs);
        let key = |(number, log): (i32, &Log)| LogKey {
            number,
            identity: log.identity(),
        };
        numbered.map(key).collect()
    }

    /// The first log.
    pub fn log(&self) -> Log {
        self.logs[0].clone()
    }

    /// The logs, to be watched for their failure: the process must stop acknowledging then.
    pub fn logs(&self) -> &[Log] {
        &self.logs
    }

    /// Stops the tasks, then the logs. What is pending stays on disk. Not cancel safe.
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
            None => drop(join_all(self.logs.into_iter().map(Log::shutdown)).await),
        }
        for thread in self.log_threads {
            thread.stop().await;
        }
    }
}

/// What all logs of a node share.
struct Shared {
    /// How many there are.
    logs: usize,
    ownership: Ownership,
    requests: Arc<Mutex<Requests>>,
    catalog_changes: Arc<watch::Sender<u64>>,
    home: Arc<Home>,
}

impl Shared {
    fn new(parts: &NodeParts, logs: usize) -> Shared {
        let rows = Rows::new(parts.memory_max_bytes, parts.age_clock.clone());
        let feed = Arc::new(Feed::default());
        rows.share_near(parts.near_share);
        rows.measure_by(feed.position_cell());
        Shared {
            logs,
            ownership: Ownership {
                rows: Arc::new(rows),
                fences: Arc::new(Fences::default()),
                feed,
                marks: Arc::new(Marks::new(((parts.chance)() * f64::from(u32::MAX)) as u32)),
            },
            requests: Arc::default(),
            catalog_changes: Arc::new(watch::Sender::new(0)),
            home: parts.store.home().clone(),
        }
    }
}

/// A log that is open, with what it acts on.
struct OpenLog {
    number: LogNumber,
    log: Log,
    thread: RuntimeThread,
    schedule: Arc<Schedule>,
    leading: Leading,
}

impl OpenLog {
    async fn open(
        number: LogNumber,
        shared: &Shared,
        options: LogOptions,
        cluster: Option<MemberOptions>,
    ) -> Result<(OpenLog, Option<Member>), NodeError> {
        let (schedule, leading) = (Arc::new(Schedule::default()), Leading::default());
        let live = Arc::new(AtomicBool::new(false));
        let feed = shared.ownership.feed.clone();
        let machine = GridMachine {
            rows: shared.ownership.rows.clone(),
            sole: shared.logs == 1,
            schedule: schedule.clone(),
            leader: leading.leader.clone(),
            applied: leading.applied.clone(),
            live: live.clone(),
            confirms: Arc::new(move |table| feed.confirms(table)),
            // What nodes ask of each other is asked of the first: only a cluster asks, and it has one log.
            requests: match number {
                LogNumber(0) => shared.requests.clone(),
                _ => Arc::default(),
            },
            ownership: shared.ownership.clone(),
            catalog_changes: shared.catalog_changes.clone(),
            home: shared.home.clone(),
        };
        let waits = match cluster {
            Some(_) => Waits::TimeAndSockets,
            None => Waits::Time,
        };
        let thread = match options.disk.waiting() {
            Waiting::Blocks => RuntimeThread::start("log", waits)
                .map_err(|error| LogError::io("start a thread for", &options.dir, error))?,
            Waiting::Pauses(_) => RuntimeThread::here(),
        };
        let (log, member) = match cluster {
            Some(cluster) => {
                let opened = Member::open(thread.runtime(), cluster, options, machine);
                let member = opened.await?;
                (member.log.clone(), Some(member))
            }
            None => {
                let opened = Log::open_on(thread.runtime(), options, machine);
                (opened.await?, None)
            }
        };
        live.store(true, Ordering::SeqCst);
        leading.follow(&log);
        let opened = OpenLog {
            number,
            log,
            thread,
            schedule,
            leading,
        };
        Ok((opened, member))
    }
}

/// Each flusher carries its own log's changes. Ends with the first that must not go on, or when all have been stopped.
async fn flush(flushers: Vec<Flusher>, stop: CancellationToken) -> Result<(), FlusherError> {
    let mut running = JoinSet::new();
    for flusher in flushers {
        running.spawn(flusher.run(stop.clone()));
    }
    while let Some(ended) = running.join_next().await {
        // A panic of one is a panic of all.
        ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    }
    Ok(())
}

/// True from when all of them have been.
fn all(mut of: Vec<watch::Receiver<bool>>) -> watch::Receiver<bool> {
    if of.len() == 1 {
        return of.remove(0);
    }
    let (all, watch_all) = watch::channel(false);
    tokio::spawn(async move {
        for one in &mut of {
            if one.wait_for(|is| *is).await.is_err() {
                return;
            }
        }
        all.send_replace(true);
        all.closed().await;
    });
    watch_all
}

/// Tells the parts of a node whether it leads.
#[derive(Default)]
struct Leading {
    leader: Arc<Mutex<Leader>>,
    applied: watch::Sender<Proposal>,
    lead: watch::Sender<Option<u64>>,
}

impl Leading {
    fn leads(&self) -> watch::Receiver<Option<u64>> {
        self.lead.subscribe()
    }

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
