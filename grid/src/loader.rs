//! Loads rows that memory misses, each once for all who wait, the misses of concurrent sessions in one query. Does; what a loaded row means beside the changes
//! that passed meanwhile is decided in `rows`.

mod sets;

use crate::change::RowId;
use crate::limits;
use crate::mistake::Mistake;
use crate::peers::{Asked, Peers, Route};
use crate::record::Record;
use crate::rows::sets::SetIds;
use crate::rows::{LoadTicket, Moment, Rows};
use ripen_cachestore::StoreError;
use ripen_cachestore::catalog::Catalog;
use ripen_pg::ids::TableOid;
use ripen_pg::key::Key;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use sets::SetLoader;

/// Gives the newest catalog. The loader must not keep an old one.
pub type CatalogSource = Arc<dyn Fn() -> Arc<Catalog> + Send + Sync>;

/// Says whether this node knows of everything that was acknowledged before the call.
pub type Sure = Arc<dyn Fn() -> bool + Send + Sync>;

/// Why rows could not be loaded. The statement may still pass through.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// Postgres refused or is away.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// Postgres has not been reached yet.
    #[error("Postgres has not been reached yet")]
    Stranded,
    /// The table is gone from the catalog.
    #[error("the table is no longer known")]
    NoTable,
    /// Other nodes may have flushed what this one does not know of: its row could not be told from what lies on top.
    #[error("this node is cut off from the others")]
    CutOff,
    /// There are too many ways already by which rows of the table are gathered.
    #[error("the table's rows are gathered in too many ways")]
    Crowded,
    /// Changes kept passing by.
    #[error("the rows change faster than they can be loaded")]
    Contended,
    /// Ripen is stopping.
    #[error("the loader has stopped")]
    Stopped,
}

/// Hands loads to the loader's task. Cheap to clone.
#[derive(Clone)]
pub struct Loader {
    rows: Arc<Rows>,
    requests: mpsc::Sender<Request>,
    queries: Arc<AtomicU64>,
    sets: Arc<SetLoader>,
    /// Other nodes, which may be asked first. Not held: they load by this loader, too.
    peers: Arc<OnceLock<Weak<Peers>>>,
}

/// Rows of a table that are to be loaded for somebody.
pub(crate) struct Request {
    pub table: TableOid,
    pub ticket: LoadTicket,
    done: oneshot::Sender<Result<(), LoadError>>,
}

impl Request {
    /// It has ended, one way or another.
    pub fn answer(self, answer: Result<(), LoadError>) {
        // Nobody may be left to hear it. The ticket goes first: it wakes those who wait beside.
        drop(self.ticket);
        let _ = self.done.send(answer);
    }
}

impl Loader {
    /// A loader and the future that must be spawned to run it. Nothing is loaded before `settled` is true: until the flush that an earlier process left
    /// open is settled, nobody knows whether a loaded row contains it. Nothing is kept that was loaded while this node was not `sure`: a flush names its transaction
    /// to all that are before it commits.
    pub fn new(
        rows: Arc<Rows>,
        store: Arc<dyn Record>,
        catalog: CatalogSource,
        settled: watch::Receiver<bool>,
        sure: Sure,
        stop: CancellationToken,
    ) -> (Loader, impl Future<Output = ()>) {
        let (requests, receiver) = mpsc::channel(limits::LOAD_QUEUE_MAX);
        let queries = Arc::<AtomicU64>::default();
        let loader = Loader {
            rows: rows.clone(),
            requests,
            sets: Arc::new(SetLoader::new(
                rows.clone(),
                store.clone(),
                catalog.clone(),
                settled.clone(),
                sure.clone(),
            )),
            queries: queries.clone(),
            peers: Arc::default(),
        };
        let runner = Runner {
            rows,
            store,
            catalog,
            sure,
            waiting: HashMap::new(),
            ready: VecDeque::new(),
            running: JoinSet::new(),
            queries,
        };
        (loader, runner.run(receiver, settled, stop))
    }

    /// Queries sent so far.
    pub fn queries(&self) -> u64 {
        self.queries.load(Ordering::Relaxed)
    }

    /// From now on rows that other nodes own are asked of them. Set once.
    pub(crate) fn share(&self, peers: &Arc<Peers>) {
        // A second time would be our own mistake, and harmless.
        let _ = self.peers.set(Arc::downgrade(peers));
    }

    /// Loads rows (of any tables) that are not known, or waits for whoever loads them already. Cancel safe: a load under way goes on for the others.
    pub async fn load(&self, rows: &[RowId]) -> Result<(), LoadError> {
        self.load_by(rows, |peers, row| peers.route(row, None))
            .await
    }

    /// The same because that node has asked for them.
    pub(crate) async fn load_for(&self, asker: u64, rows: &[RowId]) -> Result<(), LoadError> {
        self.load_by(rows, |peers, row| peers.route(row, Some(asker)))
            .await
    }

    /// The same from Postgres itself.
    pub async fn load_here(&self, rows: &[RowId]) -> Result<(), LoadError> {
        self.load_by(rows, |_, _| Route::POSTGRES).await
    }

    async fn load_by(
        &self,
        rows: &[RowId],
        route: impl Fn(&Peers, &RowId) -> Route,
    ) -> Result<(), LoadError> {
        let peers = self.peers.get().and_then(Weak::upgrade);
        let route = |row: &RowId| {
            let peers = peers.as_ref();
            peers.map_or(Route::POSTGRES, |peers| route(peers, row))
        };
        let mut groups: HashMap<(TableOid, Route), Vec<RowId>> = HashMap::new();
        for row in rows {
            let group = groups.entry((row.table, route(row))).or_default();
            group.push(row.clone());
        }
        let mut answers = Vec::with_capacity(groups.len());
        let mut waits = Vec::new();
        for ((table, route), rows) in groups {
            let (ticket, wait) = self.rows.begin_load(&rows);
            waits.push(wait);
            if ticket.is_empty() {
                continue;
            }
            let (done, answer) = oneshot::channel();
            let request = Request {
                table,
                ticket: ticket.near(route.near),
                done,
            };
            // A request that is not taken drops its ticket, which fails the load for all who wait.
            match (route.node, &peers) {
                (Some((node, kind)), Some(peers)) => {
                    let asked = Asked {
                        node,
                        kind,
                        request,
                    };
                    peers.ask(asked).await.map_err(|()| LoadError::Stopped)?;
                }
                _ => self.hand_in(request).await?,
            }
            answers.push(answer);
        }
        for answer in answers {
            answer.await.map_err(|_| LoadError::Stopped)??;
        }
        for wait in waits {
            wait.ended().await;
        }
        Ok(())
    }

    /// Loads sets and their rows, those that are not known, by one statement, or waits for whoever loads them already. Cancel safe: who waits beside loads them then.
    pub async fn load_sets(&self, sets: &SetIds) -> Result<(), LoadError> {
        let sets = self.sets.load(sets, &self.queries, self.peers.get());
        sets.await
    }

    async fn hand_in(&self, request: Request) -> Result<(), LoadError> {
        let handed = self.requests.send(request).await;
        handed.map_err(|_| LoadError::Stopped)
    }

    /// What other nodes did not answer. Those who wait are answered when it has ended.
    pub(crate) async fn load_from_postgres(&self, request: Request) {
        // A loader that has stopped drops the request: who waits for it hears that.
        let _ = self.hand_in(request).await;
    }
}

struct Runner {
    rows: Arc<Rows>,
    store: Arc<dyn Record>,
    catalog: CatalogSource,
    sure: Sure,
    waiting: HashMap<TableOid, Vec<Request>>,
    ready: VecDeque<TableOid>,
    running: JoinSet<TableOid>,
    queries: Arc<AtomicU64>,
}

impl Runner {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut settled: watch::Receiver<bool>,
        stop: CancellationToken,
    ) {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = settled.wait_for(|settled| *settled) => {}
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                request = requests.recv() => match request {
                    Some(request) => self.take(request),
                    None => return,
                },
                // What a panic left half changed must not be served: it ends the process.
                Some(ended) = self.running.join_next() => if let Err(error) = ended
                    && let Ok(panic) = error.try_into_panic()
                {
                    std::panic::resume_unwind(panic);
                },
            }
            while let Ok(request) = requests.try_recv() {
                self.take(request);
            }
            self.start();
        }
    }

    fn take(&mut self, request: Request) {
        let table = request.table;
        let waiting = self.waiting.entry(table).or_default();
        if waiting.is_empty() {
            self.ready.push_back(table);
        }
        waiting.push(request);
    }

    /// While all connections are busy, requests gather: the next query takes all that wait for its table.
    fn start(&mut self) {
        while self.running.len() < limits::LOADS_AT_ONCE_MAX {
            let Some(table) = self.ready.pop_front() else {
                return;
            };
            let mut batch = self.waiting.remove(&table).unwrap_or_default();
            let mut keys = 0;
            let fits = batch.iter().take_while(|request| {
                keys += request.ticket.rows().len();
                keys <= limits::LOAD_KEYS_MAX
            });
            let rest = batch.split_off(fits.count().max(1));
            if !rest.is_empty() {
                self.waiting.insert(table, rest);
                self.ready.push_back(table);
            }
            let (rows, store, catalog) = (self.rows.clone(), self.store.clone(), (self.catalog)());
            let sure = self.sure.clone();
            self.queries.fetch_add(1, Ordering::Relaxed);
            self.running.spawn(async move {
                load(&rows, &*store, &catalog, &sure, table, batch).await;
                table
            });
        }
    }
}

async fn load(
    rows: &Rows,
    store: &dyn Record,
    catalog: &Catalog,
    sure: &Sure,
    table: TableOid,
    batch: Vec<Request>,
) {
    let outcome = match catalog.relations.get(&table) {
        None => Err(LoadError::NoTable),
        Some(relation) => {
            let mut keys: Vec<Key> = batch
                .iter()
                .flat_map(|request| request.ticket.rows())
                .map(|row| row.key.clone())
                .collect();
            keys.sort();
            keys.dedup();
            store
                .load_rows(catalog, relation, &keys)
                .await
                .map_err(|error| LoadError::Store(Arc::new(error)))
        }
    };
    let answer = match outcome {
        Err(error) => Err(error),
        Ok(_) if !sure() && !Mistake::LooseLoad.is_made() => Err(LoadError::CutOff),
        Ok(loaded) => {
            let moment = Arc::new(Moment {
                snapshot: loaded.snapshot,
                wal: loaded.wal,
            });
            let found: HashMap<_, _> = loaded.rows.into_iter().collect();
            return batch.into_iter().for_each(|request| {
                rows.finish_load(request.ticket, &moment, |row| found.get(&row.key).cloned());
                // Nobody may be left to hear it.
                let _ = request.done.send(Ok(()));
            });
        }
    };
    for request in batch {
        rows.fail_load(request.ticket);
        let _ = request.done.send(answer.clone());
    }
}
