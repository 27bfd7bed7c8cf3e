//! A simulated machine with one Ripen node on it: its own runtime with its own clock, its disk, and the process's tasks. It may be stopped, killed, lose its power, and come
//! back. What the process does beside the grid (follow the WAL, give back what the dead held) is done here as the proxy does it.

use crate::chance::Chance;
use crate::client;
use crate::data::{OURS, SHARED, all_rows, catalog};
use crate::follow;
use crate::mistake::Mistake;
use crate::net::{address, dial};
use crate::record::{STANDBY, Way};
use crate::relay::Relaying;
use crate::world::{Standbys, World, backoff_part, set_wall_ms, wall_ms};
use bytes::Bytes;
use parking_lot::Mutex;
use ripen_cachestore::catalog::Epoch;
use ripen_grid::cluster::membership::Wish;
use ripen_grid::cluster::tcp::Arrivals;
use ripen_grid::cluster::{Member, MemberOptions, Operator};
use ripen_grid::desk::{Answer, Asked, Request};
use ripen_grid::flusher::Pace;
use ripen_grid::grid::{Grid, GridOptions};
use ripen_grid::log::disk::{Disk, DiskFile, Faults, LockGuard, SimDisk, Waiting};
use ripen_grid::log::{LogOptions, RequestId};
use ripen_grid::node::{Node, NodeParts};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

/// How long rows ripen.
pub const WRITE_DELAY_MS: u64 = 150;

/// How long a node goes without a voice before another gets it.
const REPLACE_AFTER_MS: u64 = 4000;

/// How fast clocks go: they differ by a hundredth at most, which is what leases assume.
const SPEEDS_US: [u64; 5] = [995, 998, 1000, 1002, 1005];

/// How fast a clock goes that is broken.
const WILD_US: u64 = 250;

/// A machine. See the module.
pub struct Machine {
    pub node: u64,
    world: Arc<World>,
    disk: SimDisk,
    /// How long the disk takes for a batch, at most, in milliseconds.
    slow_ms: Arc<AtomicU64>,
    chance: Chance,
    process: Option<Process>,
    lives: u64,
    /// What its wall clock is ahead of the world's.
    pub wall_ahead_ms: u64,
    /// Until when nothing happens in it.
    pub stopped_until: Option<u64>,
    /// When it is to be started.
    pub starts_at: Option<u64>,
    founds: bool,
    /// What its clock goes on in a millisecond, in microseconds.
    speed_us: u64,
    /// What it has not gone on yet.
    owed_us: u64,
    /// Somebody wants it to leave the cluster for good, and asks until it has.
    pub leaves: bool,
}

/// Why a process has ended whose node has left the cluster.
pub const LEFT: &str = "it has left its cluster";

/// A life of the node.
struct Process {
    runtime: Runtime,
    grid: watch::Receiver<Option<Arc<Grid>>>,
    main: tokio::task::JoinHandle<String>,
    leave: watch::Sender<bool>,
}

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// kill -9: the machine lives on, and says that the connections are closed.
    Killed,
    /// What was not synced is gone, whole or in parts, and nobody says anything.
    PowerLoss,
}

impl Machine {
    pub fn new(node: u64, world: &Arc<World>, mut chance: Chance) -> Machine {
        let slow_ms = Arc::new(AtomicU64::new(0));
        let (slow, drawing) = (slow_ms.clone(), Mutex::new(chance.fork()));
        let disk = SimDisk::paced(Arc::new(move || {
            let slow = slow.load(Ordering::Relaxed);
            let ms = drawing.lock().below(slow + 2);
            Duration::from_millis(ms)
        }));
        let speed_us = match world.makes(Mistake::WildClocks) && node.is_multiple_of(2) {
            true => WILD_US,
            false => chance.pick(&SPEEDS_US),
        };
        Machine {
            node,
            world: world.clone(),
            disk,
            slow_ms,
            chance,
            process: None,
            lives: 0,
            wall_ahead_ms: 0,
            stopped_until: None,
            starts_at: Some(0),
            founds: node == 1,
            speed_us,
            owed_us: 0,
            leaves: false,
        }
    }

    pub fn grid(&self) -> Option<Arc<Grid>> {
        let process = self.process.as_ref()?;
        process.grid.borrow().clone()
    }

    /// Looks at the process by its own clock.
    pub fn look<T>(&self, look: impl FnOnce(&Arc<Grid>) -> T) -> Option<T> {
        let grid = self.grid()?;
        let _inside = self.process.as_ref()?.runtime.enter();
        Some(look(&grid))
    }

    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    pub fn set_slow(&self, ms: u64) {
        self.slow_ms.store(ms, Ordering::Relaxed);
    }

    pub fn set_faults(&self, faults: Faults) {
        self.disk.set_faults(faults);
    }

    /// Flips a bit of some file of the log.
    pub fn flip(&mut self) {
        let dir = Path::new("/log");
        let Ok(mut names) = self.disk.list(dir) else {
            return;
        };
        names.retain(|name| name != "lock");
        if names.is_empty() {
            return;
        }
        let name = &names[self.chance.below(names.len() as u64) as usize];
        let path = dir.join(name);
        let length = self.disk.contents(&path).map_or(0, |bytes| bytes.len());
        if length > 0 {
            let at = self.chance.below(length as u64) as usize;
            let bit = 1 << self.chance.below(8);
            self.disk.flip(&path, at, bit);
        }
    }

    /// Everything on the disk is gone.
    pub fn wipe(&mut self) {
        let slow = self.slow_ms.clone();
        let drawing = Mutex::new(self.chance.fork());
        self.disk = SimDisk::paced(Arc::new(move || {
            let slow = slow.load(Ordering::Relaxed);
            Duration::from_millis(drawing.lock().below(slow + 2))
        }));
        self.founds = false;
    }

    pub fn end(&mut self, how: End) {
        let Some(process) = self.process.take() else {
            return;
        };
        self.world
            .trace(format_args!("node {} ends: {how:?}", self.node));
        match how {
            End::Killed => self.disk.kill(),
            End::PowerLoss => {
                self.world.net.lock().silence(self.node);
                let chance = &mut self.chance;
                self.disk.crash(|bound| chance.below(bound));
            }
        }
        self.world.net.lock().leave(self.node);
        drop(process);
        self.forget_clients();
        self.stopped_until = None;
    }

    /// They are gone with the process.
    fn forget_clients(&self) {
        let names = format!("{}.", self.node);
        let mut at_work = self.world.at_work.lock();
        at_work.retain(|name, _| !name.starts_with(&names));
    }

    pub fn start(&mut self, members: &[u64]) {
        self.starts_at = None;
        self.lives += 1;
        let (node, world) = (self.node, self.world.clone());
        world.trace(format_args!("node {node} starts, life {}", self.lives));
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime of one thread");
        let (arriving, arrivals) = mpsc::unbounded_channel();
        {
            let mut net = world.net.lock();
            net.begin(node);
            net.listen(node, arriving);
        }
        let (told, grid) = watch::channel(None);
        let disk: Arc<dyn Disk> = match world.makes(Mistake::LyingDisk) {
            true => Arc::new(Lying(self.disk.clone())),
            false => Arc::new(self.disk.clone()),
        };
        let log = LogOptions {
            segment_bytes: 16 << 10,
            snapshot_after_bytes: 24 << 10,
            clock: Arc::new(wall_ms),
            disk,
            node,
            address: address(node),
            ..LogOptions::new("/log")
        };
        let seeds = members.iter().filter(|other| **other != node);
        let member = MemberOptions {
            listener: Arrivals::Other(dial(world.net.clone(), node), arrivals),
            keys: None,
            seeds: seeds.map(|other| address(*other)).collect(),
            founds: self.founds && self.lives == 1,
            wish: Wish {
                voters: 3,
                replace_after_ms: REPLACE_AFTER_MS,
            },
            process: node * 1000 + self.lives,
            search: Duration::from_secs(5),
        };
        let (leave, asked) = watch::channel(self.leaves);
        let process = run(world, node, log, member, told, asked, self.chance.fork());
        self.process = Some(Process {
            main: runtime.spawn(process),
            runtime,
            grid,
            leave,
        });
    }

    /// Its clock goes as it should.
    pub fn mend_clock(&mut self) {
        self.speed_us = self.speed_us.max(SPEEDS_US[0]);
    }

    /// It is asked to leave, and again in its next life if this one does not last.
    pub fn leave(&mut self) {
        self.leaves = true;
        if let Some(process) = &self.process {
            process.leave.send_replace(true);
        }
    }

    /// Asks the node for a write as another one does. The answer comes there.
    pub fn ask(&self, id: RequestId, words: Bytes) -> Arc<Mutex<Option<Answer>>> {
        let told = Arc::<Mutex<Option<Answer>>>::default();
        if let (Some(grid), Some(process)) = (self.grid(), &self.process) {
            let told = told.clone();
            process.runtime.spawn(async move {
                let mut request = Request::Write(Asked::new(id, 0), words);
                let member = grid.member().expect("one of a cluster");
                request.ask_in(member.leadership().borrow().term);
                let answer = grid.serve(request).await;
                *told.lock() = Some(answer);
            });
        }
        told
    }

    /// Loads in the background what is not known.
    pub fn load_all(&self, grid: &Arc<Grid>) {
        let grid = grid.clone();
        if let Some(process) = &self.process {
            // It is looked at again.
            process
                .runtime
                .spawn(async move { drop(grid.load(&all_rows()).await) });
        }
    }

    /// A millisecond. Answers why the process has ended by itself, if it has.
    pub fn step(&mut self, now_ms: u64) -> Option<String> {
        self.owed_us += self.speed_us;
        if self.stopped_until.is_some_and(|until| now_ms < until) {
            return None;
        }
        self.stopped_until = None;
        let gone_on_ms = self.owed_us / 1000;
        self.owed_us %= 1000;
        let process = self.process.as_ref()?;
        if gone_on_ms == 0 {
            // Slower than the others: what comes for it waits.
            return None;
        }
        set_wall_ms(1_700_000_000_000 + now_ms + self.wall_ahead_ms);
        process.runtime.block_on(async {
            if gone_on_ms > 1 {
                tokio::time::advance(Duration::from_millis(gone_on_ms - 1)).await;
            }
            sleep(Duration::from_millis(1)).await;
        });
        if !process.main.is_finished() {
            return None;
        }
        let mut process = self.process.take()?;
        let ended = process.runtime.block_on(&mut process.main);
        let why = ended.unwrap_or_else(|error| error.to_string());
        drop(process);
        self.forget_clients();
        self.disk.kill();
        self.world.net.lock().leave(self.node);
        self.world
            .trace(format_args!("node {} has ended: {why}", self.node));
        Some(why)
    }
}

/// The process. Answers why it has ended.
async fn run(
    world: Arc<World>,
    node: u64,
    log: LogOptions,
    member: MemberOptions,
    told: watch::Sender<Option<Arc<Grid>>>,
    leave: watch::Receiver<bool>,
    mut chance: Chance,
) -> String {
    let way = Way::new(&world, node);
    let known = Arc::new(catalog(Epoch(1)));
    let parts = NodeParts {
        standbys: match world.standbys {
            Standbys::Named => vec![STANDBY.to_owned()],
            Standbys::None | Standbys::Unnamed => Vec::new(),
        },
        near_share: 0.25,
        store: Arc::new(way.clone()),
        catalog: Arc::new(move || known.clone()),
        pace: Arc::new(|_| Pace {
            write_delay_ms: WRITE_DELAY_MS,
            batch_factor: 1.0,
            write_max_batch: 1000,
        }),
        options: GridOptions {
            pending_bytes_max: 1 << 20,
            pending_wait: Duration::from_secs(1),
            barrier_timeout: Duration::from_secs(5),
        },
        memory_max_bytes: 16 << 20,
        log_number: 1,
        holder: format!("node {node}"),
        claimed: watch::channel(true).1,
        clock: wall_ms,
        age_clock: Arc::new(|| 0),
        chance: backoff_part,
        cluster: Some(member),
    };
    let opened = match Node::open(log, parts).await {
        Ok(opened) => opened,
        Err(error) => return format!("it does not open: {error}"),
    };
    let grid = opened.grid.clone();
    let (weak, tracing) = (Arc::downgrade(&grid), world.clone());
    grid.set_writer(Arc::new(move |asked, words| {
        let (grid, world) = (weak.upgrade(), tracing.clone());
        Box::pin(async move {
            let Some(grid) = grid else {
                return Answer::Elsewhere;
            };
            let answer = client::carry_out(&grid, asked, &words).await;
            let id = asked.id;
            world.trace(format_args!(
                "node {node} answers request {}.{}: {answer:?}",
                id.process, id.number
            ));
            answer
        })
    }));
    tokio::spawn(Relaying::new(way.clone(), grid.clone(), chance.fork()).run());
    tokio::spawn(follow::serve(way.clone(), grid.clone()));
    tokio::spawn(follow::mark(way.clone(), grid.clone()));
    tokio::spawn(follow::sample(way.clone(), grid.clone()));
    tokio::spawn(follow::keep_up(way.clone(), grid.clone(), chance.fork()));
    tokio::spawn(follow::free_orphans(way.clone(), grid.clone()));
    let mut client = |number| client::Client {
        name: format!("{node}.{number}"),
        way: way.clone(),
        grid: grid.clone(),
        chance: chance.fork(),
    };
    tokio::spawn(client(0).run());
    tokio::spawn(client(1).run());
    tokio::spawn(client(2).run_as_reader());
    told.send_replace(Some(grid.clone()));
    tokio::spawn(watch_leaders(world, node, grid));
    let log = opened.log();
    let operator = opened.member.as_ref().map(Member::operator);
    let operator = operator.expect("all are members");
    tokio::select! {
        biased;
        () = left(leave, operator) => LEFT.to_owned(),
        error = log.failed() => format!("its log has failed: {error}"),
        ended = opened.flusher => match ended {
            Ok(Err(error)) => format!("its flusher has ended: {error}"),
            Ok(Ok(())) => "its flusher has stopped".to_owned(),
            Err(error) => format!("its flusher: {error}"),
        },
        ended = opened.loader => format!("its loader has ended: {ended:?}"),
    }
}

/// Until it was asked to leave and has.
async fn left(mut asked: watch::Receiver<bool>, operator: Operator) {
    if asked.wait_for(|asked| *asked).await.is_err() {
        return std::future::pending().await;
    }
    // A node alone is not let go, nor one that has not been let in yet.
    while operator.status().members.len() <= 1 {
        sleep(Duration::from_millis(100)).await;
    }
    operator.leave().await;
}

/// For the trace.
async fn watch_leaders(world: Arc<World>, node: u64, grid: Arc<Grid>) {
    let Some(member) = grid.member() else { return };
    let mut leadership = member.leadership();
    loop {
        let now = *leadership.borrow_and_update();
        world.trace(format_args!(
            "node {node} sees leader {:?} in term {}, here {}",
            now.leader, now.term, now.here
        ));
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// Tables of the simulation.
pub const TABLES: [ripen_pg::ids::TableOid; 2] = [OURS, SHARED];

/// A disk that says it has synced what it has not.
struct Lying(SimDisk);

struct LyingFile(Arc<dyn DiskFile>);

impl Disk for Lying {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<LockGuard>> {
        self.0.lock(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(LyingFile(self.0.create(path)?)))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(LyingFile(self.0.open(path)?)))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn waiting(&self) -> Waiting {
        self.0.waiting()
    }
}

impl DiskFile for LyingFile {
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(bytes, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
