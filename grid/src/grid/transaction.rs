//! Transactions of the grid, where its log is led: statements lock their rows at the leader, wait for others, and are decided on the newest rows; what they decide stays in a
//! buffer of the transaction until COMMIT appends it to the log as one group. Does; `locks` decides who may have a row, `buffer` what was written.
//! A transaction is of one log: rows of another are Postgres's business. In a cluster the leader has those of all nodes' clients (`blocks`).
//!
//! Never proposes anything before COMMIT, so a statement may be broken off at any time. Row locks are the leader's memory only: they end with its term.

mod commit;
mod statement;

use super::{Grid, GridError};
use crate::buffer::Buffer;
use crate::change::RowId;
use crate::leader::Leader;
use crate::locks::TxId;
use crate::queue::Queue;
use crate::scope::Scope;
pub use commit::Deeds;
use ripen_cachestore::catalog::Catalog;
use ripen_pg::ids::TableOid;
use ripen_pg::key::Key;
use ripen_pg::tuple::Tuple;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// How long a statement may wait for rows; `None`: for ever, as in Postgres.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    /// `lock_timeout`: for each row.
    pub lock: Option<Duration>,
    /// `statement_timeout`: for all of it together, from when the statement came.
    pub statement: Option<Duration>,
}

/// What to do about a row that somebody else has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// Wait.
    Wait,
    /// NOWAIT: refuse the statement.
    Refuse,
    /// SKIP LOCKED: go on without the row.
    Skip,
}

/// What a statement names, and how it goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Statement<'a> {
    /// By which its plan was made.
    pub catalog: &'a Catalog,
    /// The rows that it names, then those that they refer to.
    pub rows: &'a [RowId],
    /// How many it names.
    pub named: usize,
    /// Whether it is an INSERT: rows that are not there may come to be, and rows that others have just put there count.
    pub inserts: bool,
    /// How long it may wait.
    pub patience: Patience,
}

/// One open transaction: what it has written, and the locks that it has at the leader. Dropping it gives both up.
pub struct Transaction {
    grid: Arc<Grid>,
    id: TxId,
    /// Where its locks are, once it has any.
    place: Option<Place>,
    buffer: Buffer,
    /// Rows that are locked only because others refer to them: Postgres locks them by itself when those are written there.
    referred: BTreeSet<RowId>,
    /// Told when somebody in Postgres wants its rows: see [`Transaction::nudged`].
    nudge: Arc<Nudge>,
    /// Bytes of the buffer, as [`Grid`] counts them for all transactions.
    counted: usize,
}

/// How a transaction is told that somebody in Postgres wants its rows.
#[derive(Debug, Default)]
pub struct Nudge {
    wake: Notify,
    given: AtomicBool,
}

impl Nudge {
    fn give(&self) {
        self.given.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Whether it was ever given.
    pub fn is_given(&self) -> bool {
        self.given.load(Ordering::SeqCst)
    }
}

/// A log and the term in which it is led here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    queue: usize,
    term: u64,
}

impl Grid {
    /// Begins a transaction. Costs nothing.
    pub fn begin(self: &Arc<Self>) -> Transaction {
        Transaction {
            id: TxId(self.transactions.fetch_add(1, Ordering::Relaxed)),
            grid: self.clone(),
            place: None,
            buffer: Buffer::default(),
            referred: BTreeSet::new(),
            nudge: Arc::default(),
            counted: 0,
        }
    }

    /// Waits until no open transaction has locks in the scope, whose fence stands already. Those who have are asked to go on in Postgres.
    pub(super) async fn until_unlocked(&self, scope: &Scope) -> Result<(), GridError> {
        let deadline = Instant::now() + self.options.barrier_timeout;
        loop {
            let mut ended = std::pin::pin!(self.unlocked.notified());
            // Before it is looked: an end in between counts.
            ended.as_mut().enable();
            if !self.nudge_holders(scope) {
                return Ok(());
            }
            let waited = tokio::time::timeout_at(deadline, ended).await;
            waited.map_err(|_| GridError::RowsLocked)?;
        }
    }

    /// Whether anybody has locks in the scope.
    fn nudge_holders(&self, scope: &Scope) -> bool {
        let held = self.queues.iter().map(|queue| {
            let leader = queue.leader.lock();
            if leader.locks.is_empty() {
                return false;
            }
            let holders = leader.locks.holders(scope);
            let nudges = holders.iter().filter_map(|id| leader.nudges.get(id));
            nudges.for_each(|nudge| nudge.give());
            self.nudging.notify_waiters();
            !holders.is_empty()
        });
        // All of them, whatever the first says.
        held.fold(false, |one, other| one | other)
    }

    /// What is committed of a row, durable or about to be. `None`: memory does not know it.
    fn committed(
        &self,
        leader: &Leader,
        catalog: &Catalog,
        row: &RowId,
    ) -> Option<(Option<Tuple>, bool)> {
        match leader.image(row) {
            Some(image) => Some((image, true)),
            None => self.image(catalog, row).map(|image| (image, false)),
        }
    }
}

impl Transaction {
    /// The row as the transaction sees it, if it has written to it. `Some(None)`: it is gone.
    pub fn image(&self, row: &RowId) -> Option<Option<&Tuple>> {
        self.buffer.image(row)
    }

    /// The rows of a table as the transaction sees them, of those that it has written to. `None`: it is gone.
    pub fn images_of(&self, table: TableOid) -> BTreeMap<Key, Option<Tuple>> {
        self.buffer.images_of(table)
    }

    /// Whether COMMIT would have something to write.
    pub fn has_written(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// How many savepoints stand.
    pub fn savepoints(&self) -> usize {
        self.buffer.savepoints()
    }

    /// Resolves when somebody whose statement is Postgres's business wants rows that this transaction has locked: it should go on in Postgres, too, where
    /// the two are told apart. Cancel safe.
    pub async fn nudged(&self) {
        self.nudge.wake.notified().await;
    }

    /// What tells so, for whoever keeps it for somebody else.
    pub fn nudge(&self) -> Arc<Nudge> {
        self.nudge.clone()
    }

    /// SAVEPOINT.
    pub fn savepoint(&mut self, name: &[u8]) {
        let locks = match self.queue() {
            Some(queue) => queue.leader.lock().locks.mark(self.id),
            None => 0,
        };
        self.buffer.savepoint(name, locks);
    }

    /// RELEASE. False: there is no savepoint of that name, and nothing has happened.
    pub fn release(&mut self, name: &[u8]) -> bool {
        let released = self.buffer.release(name);
        self.count();
        released
    }

    /// ROLLBACK TO, which gives back what was locked since. False: there is no savepoint of that name, and nothing has happened.
    pub fn back_to(&mut self, name: &[u8]) -> bool {
        let Some(mark) = self.buffer.back_to(name) else {
            return false;
        };
        self.count();
        let Some(queue) = self.queue() else {
            return true;
        };
        let woken = {
            let mut leader = queue.leader.lock();
            match self.is_place_of(&leader) {
                true => leader.locks.back_to(self.id, mark),
                false => Vec::new(),
            }
        };
        self.wake(woken);
        true
    }

    /// The transaction is over, or goes on in Postgres: its locks and its buffer are gone.
    pub fn end(&mut self) {
        let grid = self.grid.clone();
        let Some(place) = self.place else {
            self.buffer = Buffer::default();
            self.count();
            return;
        };
        let woken = self.take_end(&mut grid.queues[place.queue].leader.lock());
        self.wake(woken);
    }

    /// Tells the grid how many bytes the buffer has by now.
    fn count(&mut self) {
        let (before, now) = (self.counted, self.buffer.bytes());
        self.counted = now;
        let buffered = &self.grid.buffered;
        match now >= before {
            true => buffered.fetch_add(now - before, Ordering::Relaxed),
            false => buffered.fetch_sub(before - now, Ordering::Relaxed),
        };
    }

    /// The log that it is of, once it has locks.
    fn queue(&self) -> Option<&Queue> {
        self.place.map(|place| &self.grid.queues[place.queue])
    }

    /// Whether the leader still leads in the term in which the transaction has got its locks there.
    fn is_place_of(&self, leader: &Leader) -> bool {
        self.place.map(|place| place.term) == leader.term()
    }

    fn take_end(&mut self, leader: &mut Leader) -> Vec<oneshot::Sender<()>> {
        self.buffer = Buffer::default();
        self.count();
        leader.nudges.remove(&self.id);
        leader.gone.remove(&self.id);
        let woken = leader.locks.end(self.id);
        self.referred.clear();
        self.place = None;
        woken
    }

    fn wake(&self, woken: Vec<oneshot::Sender<()>>) {
        for waiter in woken {
            // Who has given up meanwhile has given back what it got.
            let _ = waiter.send(());
        }
        self.grid.unlocked.notify_waiters();
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.place.is_some() || self.counted > 0 {
            self.end();
        }
    }
}
