//! The grid of one node, as the proxy sees it: read, write, hold, barrier. Does; what is right is decided in `rows`, `leader`, `fences`, `ripening`.
//!
//! Rows, fences and the stream belong to all logs together; what each log has for itself is its `Queue`.
//! Lock order: leaders (ascending by log), then fences, then shards (ascending), then the machine's schedule. None is held across an await.

mod abroad;
mod assigning;
mod blocks;
mod queues;
mod together;
pub mod transaction;

use crate::change::{Before, CommitGroup, RowId};
use crate::desk::{Answer, Asked, Request};
use crate::feed::Feed;
use crate::fences::Fences;
use crate::flusher::Standbys;
use crate::leader::Proposal;
use crate::limits;
use crate::loader::{LoadError, Loader};
use crate::log::{Command, HoldEnd, LogError, RequestId};
use crate::marks::Marks;
use crate::ownership::Ownership;
use crate::peers::Peers;
use crate::queue::Queue;
use crate::requester::Requester;
use crate::requests::Requests;
use crate::rows::sets::SetIds;
use crate::rows::{Found, Rows};
use crate::scope::Scope;
pub(crate) use abroad::carry_doubts;
pub(crate) use assigning::Tables;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
pub use queues::QueueStats;
use ripen_cachestore::catalog::Catalog;
use ripen_cachestore::failpoint::reach;
use ripen_cachestore::home::Home;
use ripen_pg::ids::TableOid;
use ripen_pg::tuple::Tuple;
use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Bounds of waiting, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct GridOptions {
    /// Most bytes of pending rows before writers wait.
    pub pending_bytes_max: u64,
    /// How long a writer waits for room before it is refused.
    pub pending_wait: Duration,
    /// How long a passed-through statement waits for the flush of what it could see.
    pub barrier_timeout: Duration,
}

/// Why the grid did not do what it was asked for. In no case has anything been acknowledged or changed, except where said.
#[derive(Debug, thiserror::Error)]
pub enum GridError {
    /// The rows belong to the database now: pass the statement through.
    #[error("the rows are owned by the database")]
    Owned,
    /// The rows cannot be loaded here: pass the statement through.
    #[error("the rows cannot be loaded")]
    NotLoadable(#[from] LoadError),
    /// The rows are too large for the log: pass the statement through.
    #[error("the rows are too large for the log")]
    TooLarge,
    /// Too much is pending and it did not shrink in time.
    #[error("too many pending changes")]
    Full,
    /// The flush before a statement did not end in time.
    #[error("the flush before the statement did not end in time")]
    BarrierTimeout,
    /// Another node leads: ask there.
    #[error("another node leads the log")]
    Elsewhere,
    /// Open transactions have locked rows that a statement for Postgres is about, and neither ended nor went on in Postgres in time.
    #[error("rows are locked by open transactions")]
    RowsLocked,
    /// An open transaction has locked a row, and the statement is not to wait for it, or waits by [`transaction::Transaction::write`].
    #[error("a row is locked by an open transaction")]
    Locked,
    /// Whoever has locked the row waits for this transaction.
    #[error("deadlock detected")]
    Deadlock,
    /// `lock_timeout`.
    #[error("a row was locked for too long")]
    LockTimeout,
    /// `statement_timeout`.
    #[error("the statement waited for too long")]
    StatementTimeout,
    /// There are as many row locks as there may be: pass the statement through.
    #[error("too many rows are locked")]
    Crowded,
    /// The leader that had the transaction's locks leads no more.
    #[error("the transaction's locks are lost")]
    LocksLost,
    /// Somebody whom Ripen does not see has changed a row that the transaction has written.
    #[error("a row was changed outside of Ripen")]
    Overtaken,
    /// No leader has answered in time. What was asked for may still be carried out.
    #[error("no leader of the cluster has answered")]
    NoLeader,
    /// The log is broken or stopped. The write may still be found after a restart.
    #[error("the log cannot take the write")]
    Log(#[from] LogError),
}

/// Who waited for what, for status and metrics.
#[derive(Debug, Default)]
pub struct WaitStats {
    /// Statements that waited for a flush.
    pub barriers: AtomicU64,
    /// How long they did, in microseconds.
    pub barrier_us: AtomicU64,
    /// Writes that waited for room.
    pub full: AtomicU64,
    /// Of these, those that were refused in the end.
    pub refused: AtomicU64,
}

/// The parts of a node that share rows. Clones of the `Arc` go to sessions, the hot cache and the admin pages.
pub struct Grid {
    /// Rows of this node.
    pub rows: Arc<Rows>,
    /// Other nodes, as far as clean rows go. `None`: this node is alone.
    pub peers: Option<Arc<Peers>>,
    /// What belongs to the database.
    pub fences: Arc<Fences>,
    /// Of these, tables of which rows may be pending under keys and types that they do not have any more: see [`Grid::set_aside`].
    pub aside: Arc<Fences>,
    /// Which tables are served.
    pub feed: Arc<Feed>,
    /// What each log has for itself, by its place in the order of logs.
    pub queues: Vec<Queue>,
    /// Which table's changes go into which of them.
    pub(crate) tables: Tables,
    /// Marks in Postgres's WAL that end fences.
    pub marks: Arc<Marks>,
    /// Who waited for what.
    pub wait_stats: WaitStats,
    /// What the flusher has done.
    pub flush_stats: Arc<crate::flusher::FlushStats>,
    /// What is held for transactions of all nodes.
    pub requests: Arc<Mutex<Requests>>,
    /// Counts the changes of the catalog that nodes have told of.
    pub catalog_changes: watch::Receiver<u64>,
    /// The way to the leader; `None`: this node is alone.
    pub(crate) requester: Option<Requester>,
    pub(crate) writer: OnceLock<Writer>,
    pub(crate) host: OnceLock<Host>,
    /// Which server is the system of record.
    pub home: Arc<Home>,
    /// What its standbys have, as whoever leads here has seen it.
    pub standbys: Arc<Standbys>,
    pub(crate) ownership: Ownership,
    pub(crate) loader: Loader,
    pub(crate) options: GridOptions,
    /// Counts transactions.
    pub(crate) transactions: AtomicU64,
    /// Told whenever a transaction has given back locks.
    pub(crate) unlocked: Notify,
    /// Told whenever somebody in Postgres wants rows that transactions have locked.
    pub(crate) nudging: Notify,
    /// Bytes that all open transactions have written.
    pub(crate) buffered: AtomicUsize,
}

/// Carries out a write that some node has asked for, in the words of the asking side, where the log is led.
pub type Writer = Arc<dyn Fn(Asked, Bytes) -> BoxFuture<'static, Answer> + Send + Sync>;

/// Does what some node asks of transaction blocks ([`Request::Step`], [`Request::Watch`], [`Request::Commit`]), where the log is led.
pub type Host = Arc<dyn Fn(Request) -> BoxFuture<'static, Answer> + Send + Sync>;

/// How a transaction in Postgres holds a scope.
#[derive(Clone, Debug, Default)]
pub struct Holder {
    /// Its backend, if it is known.
    pub backend: Option<i32>,
    /// See [`HeldScope::rewires`].
    pub rewires: bool,
    /// See [`HeldScope::withdrawn`].
    pub withdrawn: Vec<TableOid>,
}

/// What a decision about rows came to, inside the leader's lock.
enum Step<T> {
    Decided(T, Proposal, Option<crate::log::Ticket>),
    Load(Vec<RowId>),
}

impl Grid {
    /// Decides a write and makes it durable. `decide` gets the newest images (also those not yet durable), in the order of `rows`, and answers what to queue; it may be called again
    /// when rows had to be loaded, and must not have side effects before its last call. When this returns, the outcome is durable and applied.
    /// It must refuse when its tables are not any more what `catalog` says. Where an open transaction has locked a row, nothing is decided ([`GridError::Locked`]).
    ///
    /// Cancel safe in this sense: a write whose future is dropped is either made whole or not at all.
    pub async fn write<T, E>(
        &self,
        catalog: &Catalog,
        rows: &[RowId],
        mut decide: impl FnMut(&[Option<Tuple>]) -> Result<(Option<CommitGroup>, T), E>,
    ) -> Result<Result<T, E>, GridError> {
        self.wait_for_room().await?;
        for _ in 0..limits::LOAD_ATTEMPTS_MAX {
            let queue = self.queue_of(rows)?;
            match self.step(queue, catalog, rows, &mut decide, None, |group, _| group)? {
                Ok(Step::Load(unknown)) => self.load(&unknown).await?,
                Ok(Step::Decided(answer, behind, None)) => {
                    queue.wait_applied(behind).await;
                    return Ok(Ok(answer));
                }
                Ok(Step::Decided(answer, _, Some(ticket))) => {
                    ticket.await?;
                    reach("write-applied");
                    return Ok(Ok(answer));
                }
                Err(refused) => return Ok(Err(refused)),
            }
        }
        Err(GridError::NotLoadable(LoadError::Contended))
    }

    fn step<T, E>(
        &self,
        queue: &Queue,
        catalog: &Catalog,
        rows: &[RowId],
        decide: &mut impl FnMut(&[Option<Tuple>]) -> Result<(Option<CommitGroup>, T), E>,
        once: Option<RequestId>,
        command: impl FnOnce(Command, &T) -> Command,
    ) -> Result<Result<Step<T>, E>, GridError> {
        let mut leader = queue.leader.lock();
        let term = leader.term().ok_or(GridError::Elsewhere)?;
        if once.is_some_and(|id| self.is_known(&leader, id)) {
            return Err(GridError::Elsewhere);
        }
        if rows.iter().any(|row| self.fences.has(row)) || !self.belong(queue, rows) {
            return Err(GridError::Owned);
        }
        if !leader.locks.is_empty() && rows.iter().any(|row| leader.locks.is_held(row)) {
            return Err(GridError::Locked);
        }
        let mut overlaid = false;
        let mut images = Vec::with_capacity(rows.len());
        let mut unknown = Vec::new();
        for row in rows {
            if let Some(image) = leader.image(row) {
                overlaid = true;
                images.push(image);
                continue;
            }
            match self.image(catalog, row) {
                Some(image) => images.push(image),
                None => unknown.push(row.clone()),
            }
        }
        if !unknown.is_empty() {
            return Ok(Ok(Step::Load(unknown)));
        }
        let (group, answer) = match decide(&images) {
            Ok(decided) => decided,
            Err(refused) => return Ok(Err(refused)),
        };
        Ok(Ok(match group {
            // An answer that rests on proposals which are not durable yet must wait for them.
            None => Step::Decided(
                answer,
                if overlaid { leader.last() } else { Proposal(0) },
                None,
            ),
            Some(group) if bytes(&group, &images) > limits::GROUP_BYTES_MAX => {
                return Err(GridError::TooLarge);
            }
            Some(group) => {
                reach("write-decided");
                queue.tell_shapes(&mut leader, term, catalog, &group)?;
                let proposal = leader.propose(&group);
                once.into_iter().for_each(|id| leader.ask(id));
                let command = command(self.guarded(catalog, group, rows, &images), &answer);
                let ticket = queue.log.propose_in(term, command);
                Step::Decided(answer, proposal, Some(ticket))
            }
        }))
    }

    /// Rows of some tables mean something else under a new catalog (`changed`: those that are not what they were under the old one): before it is used,
    /// they are given to the database. The answer brings them back when nothing is left that has the old meaning. Cancel safe: it gives them back then.
    pub fn set_aside(
        self: &Arc<Self>,
        old: &Catalog,
        new: &Catalog,
        changed: &HashSet<TableOid>,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let leaders = self.leaders();
        let retyped = leaders
            .iter()
            .zip(&self.queues)
            .flat_map(|(leader, queue)| {
                let logged = queue.schedule.shapes();
                leader.told().retyped(logged, old, new, changed)
            });
        let tables: BTreeSet<TableOid> = retyped.collect();
        if tables.is_empty() {
            return None;
        }
        let scope = Scope::Tables(tables);
        self.aside.raise(&scope);
        self.fences.raise(&scope);
        drop(leaders);
        self.rows.pass_through_shards();
        let hold = Hold::here(self, scope);
        Some(self.clone().bring_back(hold))
    }

    async fn bring_back(self: Arc<Self>, mut hold: Hold) {
        let scope = hold.scope.as_ref().expect("a new hold has its scope");
        while let Err(error) = self.barrier(scope).await {
            if matches!(error, GridError::Log(_)) {
                return;
            }
        }
        let Some(Scope::Tables(tables)) = hold.scope.take() else {
            return;
        };
        let followed = tables.iter().any(|table| self.feed.follows(*table));
        let then = move || {
            tables.iter().for_each(|table| self.rows.drop_table(*table));
            let scope = Scope::Tables(tables);
            self.fences.lower(&scope);
            self.aside.lower(&scope);
        };
        if followed {
            // Until the stream has passed the last flush of old bytes, they lie above what is loaded.
            hold.grid.marks.after_next(Box::new(then));
        } else {
            then();
        }
    }

    /// Where changes of others win, the log remembers what each row was. Nobody else can change a row that nothing names.
    fn guarded(
        &self,
        catalog: &Catalog,
        group: CommitGroup,
        rows: &[RowId],
        images: &[Option<Tuple>],
    ) -> Command {
        let guards = |row: &RowId| self.feed.guards(row.table) && !catalog.appends(row.table);
        if !group.rows.iter().any(|change| guards(&change.row)) {
            return Command::Group(group);
        }
        let before = |row: &RowId| match rows.iter().position(|known| known == row) {
            Some(at) if guards(row) => images[at].clone().map_or(Before::Absent, Before::Row),
            _ => Before::Any,
        };
        let before = group.rows.iter().map(|change| before(&change.row));
        let before = before.collect();
        Command::Guarded(group, before)
    }

    /// The newest image that has been applied; `None`: memory does not know it. Of a table without primary key nobody has the row whose key its writer has just drawn.
    fn image(&self, catalog: &Catalog, row: &RowId) -> Option<Option<Tuple>> {
        if catalog.appends(row.table) {
            return Some(None);
        }
        self.rows.read_one(
            row,
            || false,
            |found| match found {
                Found::Row(tuple) => Some(Some(tuple.clone())),
                Found::Absent => Some(None),
                Found::Unknown => None,
            },
        )?
    }

    /// Postgres has (or has not) been reached by this process. Until it is, what is pending is all that can be known: it is served as it was decided,
    /// and nothing is loaded.
    pub fn set_stranded(&self, stranded: bool) {
        if stranded {
            self.rows.show_as_decided(true);
        }
        self.feed.set_stranded(stranded);
        if !stranded {
            self.rows.show_as_decided(false);
        }
    }

    /// Load queries sent to Postgres.
    pub fn load_queries(&self) -> u64 {
        self.loader.queries()
    }

    /// Postgres goes on from another past than the stream told of. Call it before [`Grid::stream_lost`].
    pub fn history_lost(&self) {
        self.rows.history_lost();
    }

    /// The stream cannot resume: nothing in memory is known to be fresh any more. Rows of exclusive tables stay.
    pub fn stream_lost(&self) {
        let served = self.feed.served();
        self.rows
            .stream_lost(|row| !served.exclusive.contains(&row.table));
        let queues = self.queues.iter();
        queues.for_each(|queue| queue.schedule.forget_unconfirmed());
        self.marks.reset();
    }

    /// Loads the rows in Postgres below pending changes, so that outside changes since then are seen. Answers how many were asked for.
    pub async fn load_bases(&self, catalog: &Catalog) -> Result<usize, GridError> {
        let named = |row: &RowId| !catalog.appends(row.table);
        let rows = self.rows.without_base(limits::LOAD_KEYS_MAX, named);
        self.loader.load_here(&rows).await?;
        Ok(rows.len())
    }

    /// Loads rows that memory does not know, once for all who wait. Afterwards they are known, unless something passed by: ask again.
    pub async fn load(&self, rows: &[RowId]) -> Result<(), GridError> {
        if self.feed.stranded() {
            return Err(LoadError::Stranded.into());
        }
        Ok(self.loader.load(rows).await?)
    }

    /// Loads sets that memory does not have, once for all who wait, and their rows. Afterwards they are known, or known to be too large, unless something passed by or others were loading some
    /// of them: ask again. Cancel safe.
    pub async fn load_sets(&self, sets: &SetIds) -> Result<(), GridError> {
        if self.feed.stranded() {
            return Err(LoadError::Stranded.into());
        }
        Ok(self.loader.load_sets(sets).await?)
    }

    /// Waits until everything acknowledged or proposed before in the scope is in Postgres. Cancel safe.
    pub async fn barrier(&self, scope: &Scope) -> Result<(), GridError> {
        if scope.is_nothing() {
            return Ok(());
        }
        if let Some(requester) = &self.requester {
            // Under a lease, this node knows of everything that was acknowledged.
            if self.is_sure() && !self.has_pending(scope) {
                return Ok(());
            }
            let request = Request::Barrier(scope.clone());
            let patience = self.options.barrier_timeout + limits::LEADER_WAIT;
            return requester.ask(self, &request, patience).await.map(drop);
        }
        self.drain(scope).await
    }

    /// Gives the scope to the database: from now on reads and writes of it pass through, on all nodes; returns when everything before is in Postgres.
    /// On an error nothing is held. Dropping the hold without [`Grid::release`] counts as a release after a commit.
    pub async fn hold(self: &Arc<Self>, scope: Scope, holder: Holder) -> Result<Hold, GridError> {
        if let Some(requester) = &self.requester {
            return self.hold_together(requester, scope, holder, true).await;
        }
        self.ownership.begin(&scope);
        let mut hold = Hold::here(self, scope);
        hold.touched = false;
        // Whatever is decided or locked from now on has seen the fence.
        let scope = hold.scope.as_ref().expect("a new hold has its scope");
        self.until_unlocked(scope).await?;
        self.drain(scope).await?;
        hold.touched = true;
        Ok(hold)
    }

    /// The same without waiting for what is pending, for a statement that ends what the flush may be waiting for. What it commits is, to pending rows, an outside
    /// change.
    pub async fn seize(self: &Arc<Self>, scope: Scope, holder: Holder) -> Result<Hold, GridError> {
        if let Some(requester) = &self.requester {
            return self.hold_together(requester, scope, holder, false).await;
        }
        self.ownership.begin(&scope);
        Ok(Hold::here(self, scope))
    }

    async fn wait_for_room(&self) -> Result<(), GridError> {
        if self.pending_bytes() < self.options.pending_bytes_max {
            return Ok(());
        }
        self.wait_stats.full.fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + self.options.pending_wait;
        while Instant::now() < deadline {
            tokio::time::sleep(limits::ROOM_POLL).await;
            if self.pending_bytes() < self.options.pending_bytes_max {
                return Ok(());
            }
        }
        self.wait_stats.refused.fetch_add(1, Ordering::Relaxed);
        Err(GridError::Full)
    }

    /// Ends a hold. Returns when no cached read can miss what was committed under it: call it before the client sees the acknowledgement.
    pub fn release(&self, mut hold: Hold, changed: bool) {
        if let Some(scope) = hold.scope.take() {
            self.end_hold(scope, hold.id, changed);
        }
    }

    fn end_hold(&self, scope: Scope, id: Option<RequestId>, changed: bool) {
        match (&self.requester, id) {
            // The fences stand until all have heard of it.
            (Some(requester), Some(id)) => requester.release(id, HoldEnd::of(changed)),
            _ => self.ownership.end(scope, changed),
        }
    }
}

/// Bytes of a transaction's rows, as they are and as they were.
fn bytes(group: &CommitGroup, before: &[Option<Tuple>]) -> usize {
    let images = group.rows.iter().filter_map(|change| change.change.image());
    images
        .chain(before.iter().flatten())
        .map(Tuple::weight)
        .sum()
}

/// A scope that belongs to the database until it is released.
pub struct Hold {
    grid: Arc<Grid>,
    scope: Option<Scope>,
    /// By which all nodes know it.
    id: Option<RequestId>,
    touched: bool,
}

impl Hold {
    /// One that only this node knows.
    fn here(grid: &Arc<Grid>, scope: Scope) -> Hold {
        Hold {
            grid: grid.clone(),
            scope: Some(scope),
            id: None,
            touched: true,
        }
    }

    /// Whether everything in `other` is held.
    pub fn covers(&self, other: &Scope) -> bool {
        self.scope.as_ref().is_some_and(|scope| scope.covers(other))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(scope) = self.scope.take() {
            let grid = self.grid.clone();
            grid.end_hold(scope, self.id, self.touched);
        }
    }
}
