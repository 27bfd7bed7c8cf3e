//! Clean rows among the nodes of a cluster: each has an owner that loads it from Postgres for all, and others keep near copies. Does: asks owners, lends to those who ask. Who
//! owns a row decides `owners`, who is there `presence`, whose memory may stand for Postgres `floor`; how a lent row meets what passed meanwhile, `rows`.
//!
//! Whatever goes wrong here (nobody answers, is behind, of another shape or version) ends in a load from Postgres, as on a node alone.

mod asker;
pub mod floor;
mod lender;
pub mod limits;
pub mod owners;
pub mod presence;
mod shape;
pub mod wire;

use crate::change::RowId;
use crate::cluster::Handle;
use crate::feed::Feed;
use crate::fences::Fences;
use crate::loader::{CatalogSource, Loader, Request};
use crate::log::Log;
use crate::rows::Rows;
use crate::rows::slot::Base;
use arc_swap::ArcSwap;
use asker::Asker;
use floor::Told;
use limits::{
    ANSWER_ROUNDS_MAX, OWNER_PATIENCE, PRESENCE_PATIENCE, PRESENCE_PERIOD, SETTLED_MS,
    VAIN_ROWS_MAX,
};
use owners::Owners;
use parking_lot::Mutex;
use presence::Presence;
use ripen_cachestore::catalog::Epoch;
use ripen_pg::ids::TableOid;
use ripen_pg::key::Key;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::{Ask, AskedTable, Kind, Lending, Lendings, Question};

/// Where a row is to be loaded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Whom to ask first; `None`: Postgres.
    pub(crate) node: Option<(u64, Kind)>,
    /// Whether the row is another node's.
    pub(crate) near: bool,
}

impl Route {
    /// To Postgres, for a row that nobody else cares for.
    pub(crate) const POSTGRES: Route = Route {
        node: None,
        near: false,
    };
}

/// Loads whose rows another node may have.
pub(crate) struct Asked {
    pub node: u64,
    pub kind: Kind,
    pub request: Request,
}

/// What nodes did for each other, for status and metrics. Counted in rows.
#[derive(Debug, Default)]
pub struct PeerStats {
    /// Asked of others.
    pub asked: AtomicU64,
    /// Of these, those that came from another's memory or its load.
    pub borrowed: AtomicU64,
    /// Of these, those that came from a former owner.
    pub warmed: AtomicU64,
    /// Asked of others, and loaded from Postgres here all the same.
    pub fallbacks: AtomicU64,
    /// Lent to others.
    pub lent: AtomicU64,
    /// Loaded because others asked.
    pub loaded: AtomicU64,
}

/// The parts of a node that this concerns.
pub struct PeerParts {
    /// Its rows.
    pub rows: Arc<Rows>,
    /// What its stream follows.
    pub feed: Arc<Feed>,
    /// What belongs to the database.
    pub fences: Arc<Fences>,
    /// Its log.
    pub log: Log,
    /// The way to the others.
    pub member: Handle,
    /// The newest catalog.
    pub catalog: CatalogSource,
    /// Loads from Postgres.
    pub loader: Loader,
}

/// See the module.
pub struct Peers {
    parts: PeerParts,
    begun: Instant,
    owners: ArcSwap<Owners>,
    presence: Mutex<Presence>,
    asks: mpsc::Sender<Asked>,
    /// Rows that former owners were asked for in vain, one after the other.
    vain: AtomicU64,
    /// Which catalog came last, and how often rows have been dropped for it. `None`: that of the start.
    dropped_for: Mutex<Option<(Epoch, u8)>>,
    /// What nodes did for each other.
    pub stats: PeerStats,
}

impl Peers {
    /// Sees no other node yet. The future must be spawned; it ends with `stop`.
    pub fn new(
        parts: PeerParts,
        stop: CancellationToken,
    ) -> (Arc<Peers>, impl Future<Output = ()> + Send) {
        let (asks, asked) = mpsc::channel(crate::limits::LOAD_QUEUE_MAX);
        let peers = Arc::new(Peers {
            begun: Instant::now(),
            owners: ArcSwap::from_pointee(Owners::alone(parts.member.node())),
            presence: Mutex::default(),
            asks,
            vain: AtomicU64::new(0),
            dropped_for: Mutex::default(),
            stats: PeerStats::default(),
            parts,
        });
        let running = peers.clone();
        let run = async move {
            let asker = Asker::new(running.clone());
            tokio::select! {
                () = stop.cancelled() => {}
                () = asker.run(asked) => {}
                () = running.attend() => {}
            }
        };
        (peers, run)
    }

    /// Who owns rows, as this node sees it.
    pub fn owners(&self) -> Arc<Owners> {
        self.owners.load_full()
    }

    fn up_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Whether rows of the table may come from other nodes: the stream tells all nodes of its changes, and its rows do not age.
    fn shares(&self, table: TableOid) -> bool {
        let feed = &self.parts.feed;
        feed.history() != 0
            && feed.follows(table)
            && !feed.is_exclusive(table)
            && !self.parts.rows.expires(table)
    }

    /// Where to load a row from. `asker`: the node that has asked this one for it, as its owner.
    pub(crate) fn route(&self, row: &RowId, asker: Option<u64>) -> Route {
        let owners = self.owners.load();
        if owners.nodes().len() == 1 || !self.shares(row.table) {
            return Route::POSTGRES;
        }
        let owner = owners.owner(row);
        let others = owner != self.parts.member.node();
        let node = match asker {
            None if others => Some((owner, Kind::Own)),
            _ => self.former(&owners, row, asker),
        };
        // Each node holds all rows of a resident table.
        let near = others && !self.parts.rows.is_resident(row.table);
        Route { node, near }
    }

    /// Whether what this node has of a row is a near copy.
    pub(crate) fn is_near(&self, row: &RowId) -> bool {
        let owners = self.owners.load();
        owners.nodes().len() > 1
            && self.shares(row.table)
            && !owners.is_mine(row)
            && !self.parts.rows.is_resident(row.table)
    }

    fn former(&self, owners: &Owners, row: &RowId, asker: Option<u64>) -> Option<(u64, Kind)> {
        if self.vain.load(Ordering::Relaxed) >= VAIN_ROWS_MAX {
            return None;
        }
        let former = owners.former(row).filter(|former| Some(*former) != asker);
        former.map(|former| (former, Kind::Former))
    }

    /// Has another node asked; whatever it does not answer is loaded from Postgres. An error: this node is stopping.
    pub(crate) async fn ask(&self, asked: Asked) -> Result<(), ()> {
        self.asks.send(asked).await.map_err(drop)
    }

    /// Anything of which something may be seen in memory, in loads that have begun before this call.
    fn told_at_most(&self, batch: &[Request]) -> Told {
        let PeerParts {
            rows, feed, log, ..
        } = &self.parts;
        let loading = batch.iter().flat_map(|request| request.ticket.rows());
        Told {
            log: log.touched(),
            wal: rows.may_have_shown(loading).max(feed.position()),
            history: feed.history(),
            live: feed.live(),
        }
    }

    /// What is wholly in memory, in rows that are looked at after this call.
    fn told_at_least(&self) -> Told {
        let PeerParts { feed, log, .. } = &self.parts;
        Told {
            log: log.applied(),
            wal: feed.position(),
            history: feed.history(),
            live: feed.live(),
        }
    }

    /// The columns of a table whose rows may be shared, as one number.
    fn shape(&self, table: TableOid) -> Option<u64> {
        let catalog = (self.parts.catalog)();
        let relation = catalog.relations.get(&table)?;
        // Until then, rows may be in memory that were loaded by an older one.
        let dropped = self
            .dropped_for
            .lock()
            .is_none_or(|(epoch, times)| epoch == catalog.epoch && times > 1);
        (dropped && self.shares(table)).then(|| shape::shape(&catalog, relation))
    }

    /// Another catalog: rows of tables that have changed were dropped for it. Called before it is in use, and again when it is; nothing is lent or borrowed in between.
    pub fn dropped_for(&self, catalog: Epoch) {
        let mut last = self.dropped_for.lock();
        *last = match *last {
            Some((epoch, times)) if epoch == catalog => Some((epoch, times.saturating_add(1))),
            _ => Some((catalog, 1)),
        };
    }

    async fn ask_node(&self, node: u64, question: &Question) -> io::Result<bytes::Bytes> {
        let patience = match question {
            Question::Presence => PRESENCE_PATIENCE,
            Question::Rows(_) => OWNER_PATIENCE,
        };
        let member = &self.parts.member;
        let answer = member.ask_peer(node, question.encode(), patience).await;
        if let Err(error) = &answer
            && error.kind() != io::ErrorKind::TimedOut
        {
            // Nobody is there, or nobody who knows what this is.
            self.presence.lock().gone(node);
            self.look();
        }
        answer
    }

    /// Says that it is here and hears who else is, and later looks again whose rows are whose. Never ends.
    async fn attend(&self) {
        let (mut marked, mut same_since) = (self.owners(), 0);
        loop {
            self.call_the_roll().await;
            let (owners, now_ms) = (self.owners(), self.up_ms());
            if owners.nodes() != marked.nodes() {
                same_since = now_ms;
                marked = owners.clone();
            }
            if same_since != u64::MAX && now_ms >= same_since + SETTLED_MS {
                same_since = u64::MAX;
                self.mark_near(owners).await;
            }
            tokio::time::sleep(PRESENCE_PERIOD).await;
        }
    }

    async fn call_the_roll(&self) {
        let me = self.parts.member.node();
        let others = self.parts.member.members().into_iter();
        let calls = others.filter(|node| *node != me).map(|node| async move {
            let Ok(answer) = self.ask_node(node, &Question::Presence).await else {
                return;
            };
            match wire::decode_presence(&answer) {
                Ok(up_ms) => {
                    let now_ms = self.up_ms();
                    self.presence.lock().heard(node, up_ms, now_ms);
                }
                Err(_) => self.presence.lock().gone(node),
            }
        });
        futures_util::future::join_all(calls).await;
        self.look();
    }

    fn look(&self) {
        let members = self.parts.member.members();
        let me = self.parts.member.node();
        let owners = self.presence.lock().owners(me, &members, self.up_ms());
        if **self.owners.load() != owners {
            if self.owners.load().nodes() != owners.nodes() {
                tracing::debug!(nodes = ?owners.nodes(), "other nodes own rows now");
            }
            self.owners.store(Arc::new(owners));
        }
    }

    async fn mark_near(&self, owners: Arc<Owners>) {
        let (rows, served) = (self.parts.rows.clone(), self.parts.feed.served());
        let marking = tokio::task::spawn_blocking(move || {
            let shared = |table| served.followed.contains(&table) && !rows.is_resident(table);
            rows.mark_near(|row, _| shared(row.table) && !owners.is_mine(row));
        });
        // Cancelled only when the process ends.
        let _ = marking.await;
    }

    /// Asks a node for the rows of these loads, and takes in what it lends. What is left in the tickets is to be loaded from Postgres. Cancel safe.
    async fn borrow(&self, node: u64, kind: Kind, batch: &mut [Request]) {
        for _ in 0..ANSWER_ROUNDS_MAX {
            let beginnings = self.parts.feed.beginnings();
            let Some(ask) = self.question(kind, batch) else {
                return;
            };
            let question = Question::Rows(ask);
            let answer = self.ask_node(node, &question).await;
            let Question::Rows(ask) = question else {
                return;
            };
            let Some(lendings) = answer.ok().and_then(|bytes| Lendings::decode(&bytes).ok()) else {
                return;
            };
            let more = lendings.iter().any(|one| matches!(one, Lending::Later));
            let taken = self.take(&ask, beginnings, lendings, batch);
            if !more || taken == 0 {
                return;
            }
        }
    }

    fn question(&self, kind: Kind, batch: &[Request]) -> Option<Ask> {
        let mut tables: BTreeMap<TableOid, Vec<Key>> = BTreeMap::new();
        for row in batch.iter().flat_map(|request| request.ticket.rows()) {
            tables.entry(row.table).or_default().push(row.key.clone());
        }
        let tables = tables.into_iter().filter_map(|(table, keys)| {
            let shape = self.shape(table)?;
            Some(AskedTable { table, shape, keys })
        });
        let ask = Ask {
            node: self.parts.member.node(),
            kind,
            told: self.told_at_most(batch),
            tables: tables.collect(),
        };
        (!ask.tables.is_empty() && ask.told.history != 0).then_some(ask)
    }

    /// Answers how many rows need not be loaded any more.
    fn take(
        &self,
        ask: &Ask,
        beginnings: u64,
        lendings: Vec<Lending>,
        batch: &mut [Request],
    ) -> usize {
        let feed = &self.parts.feed;
        let unchanged: HashMap<TableOid, bool> = ask
            .tables
            .iter()
            .map(|asked| (asked.table, self.shape(asked.table) == Some(asked.shape)))
            .collect();
        let mut lent: HashMap<RowId, Base> = ask
            .rows()
            .zip(lendings)
            .filter_map(|(row, lending)| match lending {
                Lending::Lent(base) if unchanged[&row.table] => Some((row, base)),
                _ => None,
            })
            .collect();
        // A node that is cut off does not know what has been flushed, and a stream that began anew not what it was told.
        if !self.parts.member.may_read()
            || feed.history() != ask.told.history
            || feed.beginnings() != beginnings
        {
            return 0;
        }
        let before = left(batch);
        for request in batch.iter_mut() {
            let rows = &self.parts.rows;
            rows.take_lent(&mut request.ticket, |row| lent.remove(row));
        }
        before - left(batch)
    }
}

fn left(batch: &[Request]) -> usize {
    batch
        .iter()
        .map(|request| request.ticket.rows().len())
        .sum()
}

fn count(counter: &AtomicU64, rows: usize) {
    counter.fetch_add(rows as u64, Ordering::Relaxed);
}
