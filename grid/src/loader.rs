//! Loads rows that memory misses, each once for all who wait, the misses of concurrent sessions in one query. Does; what a loaded row means beside the changes
//! that passed meanwhile is decided in `rows`.

use crate::change::RowId;
use crate::limits;
use crate::rows::{LoadTicket, Moment, Rows};
use ripen_cachestore::catalog::Catalog;
use ripen_cachestore::{Store, StoreError};
use ripen_pg::ids::TableOid;
use ripen_pg::key::Key;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

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
}

struct Request {
    table: TableOid,
    ticket: LoadTicket,
    done: oneshot::Sender<Result<(), LoadError>>,
}

impl Loader {
    /// A loader and the future that must be spawned to run it. Nothing is loaded before `settled` is true: until the flush that an earlier process left
    /// open is settled, nobody knows whether a loaded row contains it. Nothing is kept that was loaded while this node was not `sure`: a flush names its transaction
    /// to all that are before it commits.
    pub fn new(
        rows: Arc<Rows>,
        store: Store,
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
            queries: queries.clone(),
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

    /// Loads rows (of any tables) that are not known, or waits for whoever loads them already. Cancel safe: a load under way goes on for the others.
    pub async fn load(&self, rows: &[RowId]) -> Result<(), LoadError> {
        let mut tables: HashMap<TableOid, Vec<RowId>> = HashMap::new();
        for row in rows {
            tables.entry(row.table).or_default().push(row.clone());
        }
        let mut answers = Vec::with_capacity(tables.len());
        let mut waits = Vec::new();
        for (table, rows) in tables {
            let (ticket, wait) = self.rows.begin_load(&rows);
            waits.push(wait);
            if ticket.is_empty() {
                continue;
            }
            let (done, answer) = oneshot::channel();
            // A request that is not taken drops its ticket, which fails the load for all who wait.
            self.requests
                .send(Request {
                    table,
                    ticket,
                    done,
                })
                .await
                .map_err(|_| LoadError::Stopped)?;
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
}

struct Runner {
    rows: Arc<Rows>,
    store: Store,
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
                load(&rows, &store, &catalog, &sure, table, batch).await;
                table
            });
        }
    }
}

async fn load(
    rows: &Rows,
    store: &Store,
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
        Ok(_) if !sure() => Err(LoadError::CutOff),
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
