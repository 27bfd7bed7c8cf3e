//! Starts and stops everything, in one visible order. Never serves a client itself.
//!
//! Start: listeners → log (all that was acknowledged is applied) → claim on the database → tasks that keep up with Postgres → clients. Postgres need not be there.
//! Stop: no new clients → sessions end their transactions → what is pending is flushed (bounded) → the log closes → the slot is given back, if nobody else needs it.

mod claim;
mod cluster;
mod follow;
mod logs;
mod memo;
mod memory;
mod orphans;
mod relay;
mod residents;
mod upkeep;

use crate::accept::{self, Front, Listener};
use crate::admin::{self, StatusSource};
use crate::carriers::Carriers;
use crate::config::{ClusterError, Config, Durability};
use crate::engine::keeper::{self, Keeper};
use crate::engine::outliving::end_outliving;
use crate::engine::publisher;
use crate::engine::{Engine, Sequences, Sources};
use crate::limits::HAND_OVER_WAIT;
use crate::logins::Logins;
use crate::metrics::{ClientStatus, Status};
use crate::nodes::control::{Alone, Clustered, GivenBack, NodeControl};
use crate::nodes::identity::IdentityError;
use crate::registry::Entry;
use crate::tls;
use arc_swap::ArcSwap;
use claim::{ClaimError, Claiming, Holder};
use follow::{FollowStats, Follower};
use futures_util::FutureExt;
use futures_util::future::select_all;
use logs::{Assigner, FoldersError};
use memo::Memo;
use relay::{Post, Relaying};
use ripen_cachestore::catalog::Catalog;
use ripen_cachestore::progress::LogKey;
use ripen_cachestore::upstream::UpstreamError;
use ripen_cachestore::{Store, Upstream, failpoint};
use ripen_grid::cluster::MemberError;
use ripen_grid::flusher::{FlusherError, Pace};
use ripen_grid::grid::{Grid, GridOptions};
use ripen_grid::log::{self, Log, LogError, LogOptions};
use ripen_grid::node::{Node, NodeError, NodeParts};
use ripen_grid::scope::Scope;
use ripen_hotcache::{HotCache, Prober};
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use upkeep::{Readiness, Upkeep};

/// The first log's number in `ripen.progress`; the others follow.
const LOG_NUMBER: i32 = 0;

/// Why Ripen did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// `host:port`.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The upstream URL.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The certificate or key.
    #[error("cannot use the TLS certificate: {0}")]
    Tls(String),
    /// The log cannot be opened, or broke.
    #[error("the write-ahead log failed: {0}")]
    Log(#[from] LogError),
    /// The cluster cannot be joined.
    #[error("cannot take part in the cluster: {0}")]
    Member(#[from] MemberError),
    /// What was said about other nodes.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The folders of several logs.
    #[error(transparent)]
    Folders(#[from] FoldersError),
    /// This node's number.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log is not in its place.
    #[error("\"ripen recover\" was cut short on this data folder; run it again, which finishes it")]
    Unfinished,
    /// Another Ripen writes to this database.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// Flushing must not go on.
    #[error(transparent)]
    Flusher(#[from] FlusherError),
    /// The admin server or the listener broke.
    #[error("serving ended: {0}")]
    Serve(#[from] io::Error),
}

impl From<NodeError> for StartError {
    fn from(error: NodeError) -> StartError {
        match error {
            NodeError::Log(error) => StartError::Log(error),
            NodeError::Member(error) => StartError::Member(error),
        }
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// Milliseconds of a clock that never goes back, for what is only compared with itself.
pub(crate) fn steady_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_millis() as u64
}

/// Serves until `stop` is cancelled, or until it must not go on; returns when everything has ended.
///
/// # Errors
/// See [`StartError`].
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), StartError> {
    let config = Arc::new(config);
    let clients = listen(&config.listen).await?;
    let admin = listen(&config.admin_listen).await?;
    let upstream: Upstream = config.upstream.as_str().parse()?;
    let tls = match (&config.tls_cert, &config.tls_key) {
        (Some(cert), Some(key)) => {
            Some(tls::acceptor(cert, key).map_err(|error| StartError::Tls(error.to_string()))?)
        }
        _ => None,
    };
    let store = Store::new(upstream.clone()).guarded(!config.standbys.is_empty());
    let current: Arc<ArcSwap<Catalog>> = Arc::default();
    let holder = Holder::of(&config.data_dir);
    let (claim, claimed) = watch::channel(false);
    let mut log = log_options(&config);
    let member = cluster::member(&config, &mut log).await?;
    let folders = logs::Folders::of(&config.data_dir, config.logs)?;
    if member.is_some() {
        folders.check_one()?;
    }
    let mut parts = node_parts(&config, &store, &current, &holder, &claimed);
    parts.cluster = member;
    let opening = Node::open_several(folders.logs(&log), parts);
    let Some(node) = stop.run_until_cancelled(opening).await else {
        return Ok(());
    };
    let node = node?;
    folders.remember()?;
    let server = Server::assemble(config, store, current, &node)?;
    let claiming = Claiming {
        store: server.store.clone(),
        log_number: LOG_NUMBER,
        cluster: node.member.as_ref().map(|_| node.log().identity()),
        holder,
        grid: server.grid.clone(),
        claimed: claim,
    };
    let claim = server.tasks.spawn(claiming.run(server.stop.clone()));
    server.start(&node, claimed);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let front = Arc::new(Front {
        tls,
        logins: server.logins.clone(),
        carriers: Carriers::start(threads)?,
        clients_max: server.config.max_clients,
        dial_timeout: server.config.upstream_wait,
        member: server.grid.member().cloned(),
        stop,
        ..Front::new(upstream.target, server.engine.clone())
    });
    front.serve_cancels();
    let control: Arc<dyn NodeControl> = match &node.member {
        Some(member) => {
            let (grid, clients) = (node.grid.clone(), front.registry.clone());
            let given_back: GivenBack = Box::new(move || {
                let grid = grid.clone();
                Box::pin(async move { grid.until_given_back().await })
            });
            let (operator, stop) = (member.operator(), front.stop.clone());
            Arc::new(Clustered::new(operator, clients, given_back, stop))
        }
        None => Arc::new(Alone { log: node.log() }),
    };
    let source = server.status_source(front.clone(), control.clone());
    let admin = admin::serve(admin, source, control.clone(), server.stop.clone());
    server.tasks.spawn(admin);
    tracing::info!(listen = %server.config.listen, admin = %server.config.admin_listen, upstream = %server.config.upstream, "serving");
    let ended = server.serve(clients, front, node, claim, &*control).await;
    // Whoever has taken over has taken the slot over too.
    let superseded = matches!(
        ended,
        Err(StartError::Claim(_) | StartError::Flusher(FlusherError::Fenced(_)))
    );
    if superseded {
        server.owns_slot.store(false, Ordering::SeqCst);
    }
    server.stop.cancel();
    server.tasks.close();
    server.tasks.wait().await;
    ended
}

fn log_options(config: &Config) -> LogOptions {
    let mut options = LogOptions::new(config.data_dir.join("log"));
    if failpoint::armed("small-log") {
        // Snapshots come after seconds, not after hours.
        (options.segment_bytes, options.snapshot_after_bytes) = (32 << 10, 64 << 10);
    }
    options.durability = match config.durability {
        Durability::Fsync => log::Durability::Fsync,
        Durability::Memory => log::Durability::Memory,
    };
    options
}

fn node_parts(
    config: &Arc<Config>,
    store: &Store,
    current: &Arc<ArcSwap<Catalog>>,
    holder: &Holder,
    claimed: &watch::Receiver<bool>,
) -> NodeParts {
    let (catalog, paced, settings) = (current.clone(), current.clone(), config.clone());
    NodeParts {
        store: Arc::new(store.clone()),
        catalog: Arc::new(move || catalog.load_full()),
        pace: Arc::new(move |table| {
            let relation = paced.load().relations.get(&table).cloned();
            let table = match relation {
                Some(relation) => keeper::settings(&settings, &relation),
                None => settings.table_defaults.clone(),
            };
            Pace {
                write_delay_ms: table.write_delay.as_millis() as u64,
                batch_factor: table.batch_factor,
                write_max_batch: table.write_max_batch,
            }
        }),
        options: GridOptions {
            pending_bytes_max: config.max_pending_bytes,
            pending_wait: config.pending_wait,
            barrier_timeout: config.barrier_timeout,
        },
        memory_max_bytes: config.memory_max,
        near_share: config.near_share,
        log_number: LOG_NUMBER,
        holder: holder.words(),
        standbys: config.standbys.clone(),
        claimed: claimed.clone(),
        clock: unix_ms,
        age_clock: Arc::new(steady_ms),
        chance: rand::random::<f64>,
        cluster: None,
    }
}

/// The parts that run beside the sessions.
struct Server {
    config: Arc<Config>,
    store: Store,
    grid: Arc<Grid>,
    keeper: Arc<Keeper>,
    engine: Arc<Engine>,
    followed: Arc<FollowStats>,
    readiness: Arc<Readiness>,
    logins: Arc<Logins>,
    /// Where the other nodes hear of the stream.
    post: Arc<Post>,
    /// Whether the slot goes when the stream is stopped.
    owns_slot: Arc<AtomicBool>,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Cancelled when a task has panicked without which Ripen must not go on.
    broken: CancellationToken,
    started: Instant,
}

impl Server {
    fn assemble(
        config: Arc<Config>,
        store: Store,
        current: Arc<ArcSwap<Catalog>>,
        node: &Node,
    ) -> Result<Server, StartError> {
        let grid = node.grid.clone();
        let (changing, assigner) = (grid.clone(), Assigner::new(config.clone()));
        let on_change = Box::new(move |old: &Catalog, new: &Catalog| {
            let changed = keeper::changed_tables(old, new);
            if let Some(bring_back) = changing.set_aside(old, new, &changed) {
                tokio::spawn(bring_back);
            }
            if let Some(moving) = assigner.assign(new, &changing) {
                tokio::spawn(moving);
            }
            let rows = &changing.rows;
            changed.iter().for_each(|table| rows.drop_table(*table));
            if let Some(peers) = &changing.peers {
                peers.dropped_for(new.epoch);
            }
        });
        let keeper = Keeper::new(
            store.clone(),
            config.clone(),
            current,
            on_change,
            grid.clone(),
        );
        let keeper = Arc::new(keeper);
        let stop = CancellationToken::new();
        let (tasks, broken) = (TaskTracker::new(), CancellationToken::new());
        let (outlive, outliving) = mpsc::unbounded_channel();
        let (sequences, refills) = Sequences::new();
        let engine = Engine::new(
            grid.clone(),
            keeper.clone(),
            config.clone(),
            outlive,
            sequences,
        );
        let engine = Arc::new(engine);
        let refilling = (engine.clone(), store.clone(), stop.clone());
        let refilling = async move {
            let (engine, store, stop) = refilling;
            engine.sequences.run(store, refills, stop).await;
        };
        tasks.spawn(essential("sequences", refilling, broken.clone()));
        engine.serve_writes();
        engine.host_blocks();
        if let Some(member) = grid.member().cloned() {
            let leads = move || member.leadership().borrow().here;
            engine.publisher.share(Arc::new(leads));
        }
        let end = end_outliving(engine.clone(), store.clone(), outliving, stop.clone());
        tasks.spawn(essential("outliving transactions", end, broken.clone()));
        Ok(Server {
            config,
            post: Arc::default(),
            store,
            grid,
            keeper,
            engine,
            followed: Arc::default(),
            readiness: Arc::default(),
            logins: Arc::default(),
            // The other nodes of a cluster need it.
            owns_slot: Arc::new(AtomicBool::new(node.member.is_none())),
            stop,
            tasks,
            broken,
            started: Instant::now(),
        })
    }

    fn start(&self, node: &Node, claimed: watch::Receiver<bool>) {
        let (attention, migrated) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let upkeep = Upkeep {
            store: self.store.clone(),
            grid: self.grid.clone(),
            keeper: self.keeper.clone(),
            publisher: self.engine.publisher.clone(),
            engine: self.engine.clone(),
            adopted: false,
            config: self.config.clone(),
            attention: attention.clone(),
            readiness: self.readiness.clone(),
            claimed,
            migrated: migrated.clone(),
            memo: Memo::new(&self.config.data_dir),
            young: Default::default(),
        };
        let follower = Follower {
            grid: self.grid.clone(),
            keeper: self.keeper.clone(),
            publisher: self.engine.publisher.clone(),
            attention,
            stats: self.followed.clone(),
            clock: unix_ms,
            steady: steady_ms,
            stop: self.stop.clone(),
        };
        let stop = || self.stop.clone();
        let broken = || self.broken.clone();
        let marks = emit_marks(self.store.clone(), self.grid.clone(), stop());
        let keeper = self.keeper.clone().run(stop());
        let hot_cache = self.hot_cache(follower, migrated, node.keys());
        if self.grid.has_peers() {
            let (engine, store) = (self.engine.clone(), self.store.clone());
            let orphans = orphans::look_after(engine, store, self.grid.clone(), stop());
            self.tasks.spawn(essential("orphans", orphans, broken()));
            let (remotes, grid) = (&self.engine.remotes, &self.grid);
            let listening = remotes.clone().listen(grid.clone(), stop());
            self.tasks.spawn(essential("blocks", listening, broken()));
            let telling = remotes.clone().tell(grid.clone(), stop());
            self.tasks
                .spawn(essential("ended blocks", telling, broken()));
            let ending = self.engine.clone().end_abandoned(stop());
            self.tasks
                .spawn(essential("abandoned blocks", ending, broken()));
        }
        let residents = residents::keep_whole(self.engine.clone(), stop());
        let memory = memory::keep_within(self.config.memory_max, self.grid.clone(), stop());
        let folder = self.config.data_dir.clone();
        memo::recall_logins(&folder, &self.logins);
        let logins = memo::keep_logins(folder, self.logins.clone(), stop());
        let tasks = &self.tasks;
        tasks.spawn(logins);
        tasks.spawn(essential("upkeep", upkeep.run(stop()), broken()));
        tasks.spawn(essential("catalog", keeper, broken()));
        tasks.spawn(essential("marks", marks, broken()));
        tasks.spawn(essential("memory", memory, broken()));
        tasks.spawn(essential("resident tables", residents, broken()));
        tasks.spawn(essential("hot cache", hot_cache, broken()));
    }

    /// The stream starts when the schema `ripen` stands, for its publication is made of it.
    fn hot_cache(
        &self,
        follower: Follower,
        migrated: Arc<Notify>,
        logs: Vec<LogKey>,
    ) -> impl Future<Output = ()> + use<> {
        let (store, grid, keeper) = (self.store.clone(), self.grid.clone(), self.keeper.clone());
        let (max_staleness, stop) = (self.config.max_staleness, self.stop.clone());
        let options = ripen_hotcache::Options {
            upstream: store.upstream().clone(),
            slot: self.config.slot.clone(),
            publication: publisher::PUBLICATION.to_owned(),
            logs,
            drop_slot_on_stop: self.owns_slot.clone(),
        };
        let post = self.post.clone();
        async move {
            tokio::select! {
                () = stop.cancelled() => return,
                () = migrated.notified() => {}
            }
            let prober = Prober::default();
            let freshness = watch_freshness(
                store.clone(),
                grid.clone(),
                prober.clone(),
                max_staleness,
                stop.clone(),
            );
            if let Some(member) = grid.member().cloned() {
                let relaying =
                    Relaying::new(member, options, follower, post, prober, max_staleness);
                tokio::join!(relaying.run(store.home(), stop), freshness);
                return;
            }
            let follow = async {
                let mut moves = store.home().moves();
                while !stop.is_cancelled() {
                    let hot_cache = HotCache::new(options.clone()).probed_by(&prober);
                    let (catalog, follower) = (keeper.clone(), follower.clone());
                    tokio::select! {
                        () = hot_cache.run(move || catalog.catalog(), follower, stop.clone()) => {}
                        // The stream may lead to the server that was the system of record before.
                        Ok(()) = moves.changed(), if store.home().guarded() => {
                            grid.feed.set_live(false, steady_ms());
                            keeper.look_soon();
                        }
                    }
                }
            };
            tokio::join!(follow, freshness);
        }
    }

    async fn serve(
        &self,
        clients: TcpListener,
        front: Arc<Front<Engine>>,
        mut node: Node,
        claim: JoinHandle<Result<(), ClaimError>>,
        control: &dyn NodeControl,
    ) -> Result<(), StartError> {
        let logs = node.logs().to_vec();
        let ended = tokio::select! {
            () = accept::serve(Listener::Tcp(clients), front.clone()) => Ok(()),
            error = failed(&logs) => Err(StartError::Log(error)),
            claim = claim => match claim {
                Ok(ended) => ended.map_err(StartError::Claim),
                Err(panic) => Err(StartError::Serve(io::Error::other(panic))),
            },
            () = self.broken.cancelled() => Err(panicked()),
            loader = &mut node.loader => Err(loader.map_or_else(|panic| StartError::Serve(io::Error::other(panic)), |()| panicked())),
            flusher = &mut node.flusher => match flusher {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(StartError::Flusher(error)),
                Err(panic) => Err(StartError::Serve(io::Error::other(panic))),
            },
        };
        front.stop.cancel();
        front.end_now();
        // Who has left the cluster has nothing to hand over, and nobody to ask.
        if ended.is_ok() && !control.has_left() {
            self.drain(&node).await;
        }
        node.close().await;
        ended
    }

    async fn drain(&self, node: &Node) {
        if let Some(member) = &node.member {
            // The others go on with what is pending, best without an election.
            let operator = member.operator();
            let drained = tokio::time::timeout(HAND_OVER_WAIT, operator.drain());
            drop(drained.await);
            let last = !relay::anybody_else(&member.handle()).await;
            self.owns_slot.store(last, Ordering::SeqCst);
            return;
        }
        let pending = self.grid.queue_stats().pending_rows;
        tracing::info!(pending, "stopping: writing what is pending to Postgres");
        let barrier = self.grid.barrier(&Scope::Everything);
        let drained = tokio::time::timeout(self.config.stop_timeout, barrier).await;
        let left = self.grid.queue_stats();
        match drained {
            Ok(Ok(())) => tracing::info!("nothing is pending"),
            _ => tracing::warn!(
                rows = left.pending_rows + left.flushing_rows,
                "pending rows are left in the log; the next start writes them"
            ),
        }
    }

    fn status_source(&self, front: Arc<Front<Engine>>, node: Arc<dyn NodeControl>) -> StatusSource {
        let (engine, followed) = (Arc::downgrade(&self.engine), self.followed.clone());
        let (readiness, started) = (self.readiness.clone(), self.started);
        let (store, post) = (self.store.clone(), self.post.clone());
        let front = Arc::downgrade(&front);
        let (shown, control) = (front.clone(), node.clone());
        let alone = !self.grid.has_peers();
        let source: StatusSource = Arc::new(move || {
            let mut status = engine
                .upgrade()
                .map_or_else(Status::default, |engine| engine.status());
            if let Some(front) = shown.upgrade() {
                fill(&mut status, &front, &followed, started);
                status.totals.upstream_available = u64::from(store.available());
            }
            let readers = post.readers();
            status.totals.hotcache_reads_slot = u64::from(alone || readers.is_some());
            status.totals.hotcache_relay_nodes = readers.unwrap_or(0) as u64;
            status.not_ready = readiness
                .missing()
                .or(control.not_ready())
                .map(str::to_owned);
            status.see_node(control.status());
            status
        });
        let clients = move || {
            front
                .upgrade()
                .map_or_else(Vec::new, |front| clients(&front))
        };
        self.engine.set_sources(Sources {
            status: source.clone(),
            clients: Arc::new(clients),
            node,
        });
        source
    }
}

fn fill(status: &mut Status, front: &Front<Engine>, followed: &FollowStats, started: Instant) {
    let totals = &mut status.totals;
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    status.hotcache_obstacle = followed.obstacle.lock().clone();
    totals.hotcache_transactions = read(&followed.transactions);
    totals.hotcache_echoes = read(&followed.echoes);
    totals.hotcache_changes = read(&followed.changes);
    totals.hotcache_invalidations = read(&followed.invalidations);
    totals.hotcache_restarts = read(&followed.connects).saturating_sub(1);
    totals.hotcache_resyncs = read(&followed.resyncs).saturating_sub(1);
    let recent = followed.staleness_us.lock();
    totals.outside_staleness_p50_seconds = recent.percentile(0.50) as f64 / 1e6;
    totals.outside_staleness_p99_seconds = recent.percentile(0.99) as f64 / 1e6;
    totals.clients = front.registry.connections() as u64;
    totals.clients_max = front.clients_max as u64;
    (totals.client_connections, totals.client_refusals) = front.registry.admissions();
    totals.upstream_connections = front.registry.upstream_connections() as u64;
    totals.upstream_dials = read(&front.dials);
    totals.process_bytes = memory::process_bytes().unwrap_or(0);
    totals.uptime_seconds = started.elapsed().as_secs_f64();
}

fn clients(front: &Front<Engine>) -> Vec<ClientStatus> {
    front.registry.list().iter().map(client).collect()
}

fn client(entry: &Arc<Entry>) -> ClientStatus {
    let state = entry.state();
    ClientStatus {
        pid: state.pid,
        user: state.user,
        database: state.database,
        application: state.application,
        address: entry.peer.clone(),
        upstream: state.upstream_key.is_some(),
        connected_seconds: entry.since.elapsed().as_secs_f64(),
    }
}

async fn listen(address: &str) -> Result<TcpListener, StartError> {
    let wrap = |source| StartError::Listen {
        address: address.to_owned(),
        source,
    };
    TcpListener::bind(address).await.map_err(wrap)
}

/// Carries a task without which memory would grow old unseen, or fences stay: its panic ends Ripen, and the next start begins from the log.
async fn essential(name: &'static str, task: impl Future<Output = ()>, broken: CancellationToken) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        tracing::error!(task = name, "a task has panicked, Ripen ends");
        broken.cancel();
    }
}

/// Waits until a log fails for good.
async fn failed(logs: &[Log]) -> LogError {
    let failing = logs.iter().map(|log| Box::pin(log.failed()));
    select_all(failing).await.0
}

fn panicked() -> StartError {
    StartError::Serve(io::Error::other("a task panicked, see the log"))
}

/// Writes the marks that end fences.
async fn emit_marks(store: Store, grid: Arc<Grid>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = grid.marks.wanted() => {}
        }
        let Some(id) = grid.marks.next() else {
            continue;
        };
        if let Err(error) = store.emit_mark(id).await {
            tracing::debug!(%error, "a mark could not be written yet");
            tokio::time::sleep(crate::limits::MARK_RETRY).await;
            grid.marks.failed(id);
        }
    }
}

/// Compares the stream's position with Postgres's own, and sends cached reads to Postgres when the stream is too far behind.
async fn watch_freshness(
    store: Store,
    grid: Arc<Grid>,
    prober: ripen_hotcache::Prober,
    max_staleness: Duration,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(crate::limits::FRESHNESS_PERIOD) => {}
        }
        let asked_ms = steady_ms();
        if grid.feed.wants_samples()
            && let Ok(lsn) = store.current_lsn().await
        {
            grid.feed.sample(asked_ms, lsn);
            prober.probe();
        }
        match grid
            .feed
            .judge(steady_ms(), max_staleness.as_millis() as u64)
        {
            Some(true) => {
                tracing::warn!("the hot cache is too far behind: cached reads go to Postgres")
            }
            Some(false) => {
                tracing::info!("the hot cache has caught up: reads are served from memory again")
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_an_essential_task_ends_ripen_and_its_end_does_not() {
        let broken = CancellationToken::new();
        essential("test", async {}, broken.clone()).await;
        assert!(!broken.is_cancelled());
        essential("test", async { panic!("as it must not") }, broken.clone()).await;
        assert!(broken.is_cancelled());
    }
}
