//! The state machine: applies the log's commands to rows and schedule, the same on every replica. Never asks the clock, chance or Postgres.
//!
//! Replicated: the layers not yet in Postgres, their clocks and groups, the open flush, the last flush, what nodes have asked and hold. Not replicated: clean rows,
//! bases, and the fences of a node alone.

use crate::change::{Before, Change, CommitGroup, RowChange, RowId};
use crate::kept::KeptFlush;
use crate::leader::{Leader, Proposal};
use crate::log::{
    Command, Entry, FlushEnd, FlushScope, FlushStart, HeldScope, HoldEnd, LogIndex, Machine,
    RequestId,
};
use crate::ownership::Ownership;
use crate::requests::Requests;
use crate::rows::Rows;
use crate::rows::layer::{Flight, Layer, Stage};
use crate::rows::slot::Confirms;
use crate::schedule::{Inner, OpenFlush, Schedule};
use crate::scope::Scope;
use parking_lot::Mutex;
use ripen_cachestore::failpoint::reach;
use ripen_cachestore::home::{Home, Server};
use ripen_pg::ids::TableOid;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

mod stored;

/// Says who tells where flushes of a table were committed.
pub type ConfirmedBy = Arc<dyn Fn(TableOid) -> Confirms + Send + Sync>;

/// See the module.
pub struct GridMachine {
    /// Rows of the node.
    pub rows: Arc<Rows>,
    /// Whether the node has no other log: then all rows with changes are this one's.
    pub sole: bool,
    /// What is on its way to Postgres.
    pub schedule: Arc<Schedule>,
    /// The overlay, to be told what has been applied.
    pub leader: Arc<Mutex<Leader>>,
    /// Wakes those who wait for a proposal.
    pub applied: watch::Sender<Proposal>,
    /// False while the log is being replayed: what it holds then was not proposed by this process.
    pub live: Arc<AtomicBool>,
    /// See [`ConfirmedBy`].
    pub confirms: ConfirmedBy,
    /// What is held for transactions of all nodes.
    pub requests: Arc<Mutex<Requests>>,
    /// What that means for memory.
    pub ownership: Ownership,
    /// Which server is the system of record: told what the log says.
    pub home: Arc<Home>,
    /// Counts the changes of the catalog that nodes have told of.
    pub catalog_changes: Arc<watch::Sender<u64>>,
}

/// When an entry was proposed.
#[derive(Clone, Copy)]
struct Proposed {
    index: LogIndex,
    at_ms: u64,
    term: u64,
    /// Whether the process had begun by then.
    live: bool,
}

impl Machine for GridMachine {
    fn apply(&mut self, index: LogIndex, entry: Entry) {
        let live = self.live.load(Ordering::SeqCst);
        self.schedule.set_clock(entry.at_ms);
        let proposed = Proposed {
            index,
            at_ms: entry.at_ms,
            term: entry.term,
            live,
        };
        for command in entry.commands {
            self.command(command, proposed);
        }
        if live {
            reach("entry-applied");
        }
        let applied = self.leader.lock().applied();
        self.applied
            .send_if_modified(|known| std::mem::replace(known, applied) != applied);
    }

    fn snapshot(&self) -> Vec<u8> {
        let requests = self.requests.lock();
        stored::save(&self.rows, &self.schedule.inner.lock(), &requests)
    }

    fn restore(&mut self, index: LogIndex, bytes: &[u8]) -> Result<(), String> {
        let mut requests = self.requests.lock();
        let before: Vec<Scope> = requests.scopes().cloned().collect();
        let mut inner = self.schedule.inner.lock();
        match self.sole {
            true => self.rows.clear(index),
            // Only what was read before this snapshot can be in memory.
            false => self.rows.clear_rows(&inner.rows()),
        }
        let loaded = stored::load(bytes, &self.rows, &mut inner, &mut requests);
        loaded.map_err(|error| error.to_string())?;
        requests
            .scopes()
            .for_each(|scope| self.ownership.begin(scope));
        // Whatever ended meanwhile, nothing of it is in memory, and what is loaded from now on has seen it.
        before
            .iter()
            .for_each(|scope| self.ownership.fences.lower(scope));
        let withdrawn = requests.withdrawn();
        drop(requests);
        self.ownership.feed.withdraw(&withdrawn);
        if self.live.load(Ordering::SeqCst) {
            // What it stands for may contain changes of the catalog, and tables that left the publication and came back.
            self.ownership.feed.doubt();
            self.catalog_changes.send_modify(|changes| *changes += 1);
        }
        if self.sole {
            self.home.set(inner.home, true);
        }
        self.schedule.set_clock(inner.ripening.newest_ms());
        self.schedule.publish(&inner);
        Ok(())
    }
}

impl GridMachine {
    fn command(&self, command: Command, proposed: Proposed) {
        match command {
            Command::Group(group) => self.group(proposed, &group, Vec::new()),
            Command::Guarded(group, before) => self.group(proposed, &group, before),
            Command::Shape(table, shape) => {
                let mut inner = self.schedule.inner.lock();
                inner.shapes.insert(table, Arc::new(shape));
            }
            Command::FlushStart(start) => self.flush_start(start, proposed.live),
            Command::FlushXid(seq, xid) => {
                let open = self.schedule.open().filter(|open| open.seq == seq);
                if let Some(open) = open {
                    self.rows.flush_xid(seq, xid, &open.rows());
                    self.schedule.carried(seq, xid);
                }
            }
            Command::FlushEnd(end) => self.flush_end(end, proposed, false),
            Command::FlushKept(end) => self.flush_end(end, proposed, true),
            Command::Safe(seq) => {
                let mut inner = self.schedule.inner.lock();
                inner.kept.release(seq);
                self.schedule.publish(&inner);
            }
            Command::Home(server, anew) => self.go_home(server, anew),
            Command::Nothing => {}
            Command::Hold(held) => self.hold(held),
            Command::Release(ids, end) => self.release(&ids, end),
            Command::CatalogChanged => self.catalog_changes.send_modify(|changes| *changes += 1),
            Command::Once(answered, command) => {
                let id = answered.id;
                if self.requests.lock().answered(answered) {
                    self.command(*command, proposed);
                } else {
                    self.ignore(id, &command, proposed.term);
                }
                self.leader.lock().asked(id);
            }
            Command::Forget(process) => self.requests.lock().forget(process),
            Command::TakenOver => self.schedule.inner.lock().taken_over = true,
            Command::Left(tables) => self.left(&tables),
        }
    }

    /// The leader sees to it that this does not happen.
    fn ignore(&self, id: RequestId, command: &Command, term: u64) {
        tracing::error!(?id, "a request was proposed twice; the second is ignored");
        if let Command::Group(group) | Command::Guarded(group, _) = command {
            self.leader.lock().apply(term, group);
        }
    }

    fn hold(&self, held: HeldScope) {
        let scope = held.scope.clone();
        let withdrawn = held.withdrawn.iter().copied().collect();
        if !self.requests.lock().hold(held) {
            return;
        }
        self.ownership.begin(&scope);
        self.ownership.feed.withdraw(&withdrawn);
    }

    fn release(&self, ids: &[RequestId], end: HoldEnd) {
        let free = self.requests.lock().release(ids, end);
        for ended in free {
            self.ownership.end(ended.scope, ended.changed);
        }
    }

    /// `before`: what the rows were, in their order; shorter where that does not count.
    fn group(&self, proposed: Proposed, group: &CommitGroup, before: Vec<Before>) {
        let became = self.rows.apply_group(group, proposed.index);
        let mut inner = self.schedule.inner.lock();
        inner.written += group.rows.len() as u64;
        inner.coalesced += (group.rows.len() - became.len()) as u64;
        let before = before.into_iter().chain(std::iter::repeat(Before::Any));
        let noted = group.rows.iter().zip(before).map(|(change, before)| {
            let bytes = weight(&change.change) + before.weight() as u64;
            (change.row.clone(), bytes, before)
        });
        inner.ripening.note(proposed.at_ms, noted);
        self.schedule.publish(&inner);
        drop(inner);
        self.leader.lock().apply(proposed.term, group);
    }

    /// Nothing of these tables is on its way. What has yet to be confirmed is forgotten: the numbers of flushes mean others where the tables go.
    fn left(&self, tables: &[TableOid]) {
        let mut inner = self.schedule.inner.lock();
        let mut forgotten = Vec::new();
        for rows in inner.unconfirmed.values_mut() {
            let of_others = |row: &RowId| !tables.contains(&row.table);
            forgotten.extend(rows.iter().filter(|row| !of_others(row)).cloned());
            rows.retain(of_others);
        }
        inner.unconfirmed.retain(|_, rows| !rows.is_empty());
        tables
            .iter()
            .for_each(|table| drop(inner.shapes.remove(table)));
        self.rows.drop_rows(&forgotten);
    }

    fn flush_start(&self, start: FlushStart, live: bool) {
        let mut inner = self.schedule.inner.lock();
        if inner.open.is_some() || start.seq.0 != inner.last_seq.0 + 1 {
            tracing::error!(
                seq = start.seq.0,
                last = inner.last_seq.0,
                "a flush was started out of order and is ignored"
            );
            return;
        }
        inner.carried = None;
        let scope = scope(start.scope);
        let taken = inner
            .ripening
            .take(&scope, start.cutoff_ms, start.rows_max as usize);
        let all: Vec<RowId> = taken
            .iter()
            .flatten()
            .map(|taken| taken.row.clone())
            .collect();
        let mut changes: HashMap<RowId, Change> = self
            .rows
            .begin_flush(start.seq, &all, live)
            .into_iter()
            .collect();
        let mut groups = Vec::with_capacity(taken.len());
        for group in &taken {
            // A row whose changes cancelled out has a turn but nothing to write.
            let rows = group.iter().filter_map(|taken| {
                Some(RowChange {
                    row: taken.row.clone(),
                    change: changes.remove(&taken.row)?,
                })
            });
            groups.push(CommitGroup {
                rows: rows.collect(),
            });
        }
        groups.retain(|group: &CommitGroup| !group.rows.is_empty());
        if !groups.is_empty() {
            inner.open = Some(Arc::new(OpenFlush::new(start.seq, groups, taken)));
        }
        self.schedule.publish(&inner);
    }

    /// Loads under way, if any are kept, were of the server before: they are poisoned with the rows. So first the name of the new one.
    fn go_home(&self, server: Server, anew: bool) {
        let mut inner = self.schedule.inner.lock();
        inner.home = Some(server);
        if anew {
            inner.unconfirmed.clear();
            inner.confirmed_early = None;
        }
        drop(inner);
        self.home.set(Some(server), anew);
        if anew {
            self.rows.history_lost();
            self.rows.stream_lost(|_| true);
        }
    }

    fn flush_end(&self, end: FlushEnd, proposed: Proposed, keep: bool) {
        let mut inner = self.schedule.inner.lock();
        inner.carried = None;
        if inner.open.is_none() && end.applied {
            // Count on from what Postgres has (see the flusher's `settle` and `recount`): numbers may come again.
            let last = inner.last_seq;
            inner.last_seq = inner.kept.count_on(end.seq, last);
            inner.confirmed_early = None;
            let unconfirmed = std::mem::take(&mut inner.unconfirmed);
            let rows: Vec<RowId> = unconfirmed.into_values().flatten().collect();
            self.rows.drop_rows(&rows);
            self.schedule.publish(&inner);
            return;
        }
        let Some(open) = inner.open.take_if(|open| open.seq == end.seq) else {
            tracing::error!(
                seq = end.seq.0,
                "the end of a flush that is not open is ignored"
            );
            return;
        };
        if end.applied {
            self.flush_applied(&mut inner, &open, &end.dead, proposed.index);
            if keep {
                let kept = KeptFlush::of(&open, &end.dead, &inner.shapes, proposed.at_ms);
                inner.kept.keep(kept);
            } else {
                inner.kept.clear();
            }
        } else {
            self.flush_failed(&mut inner, &open);
        }
        self.schedule.publish(&inner);
    }

    fn flush_applied(&self, inner: &mut Inner, open: &OpenFlush, dead: &[RowId], index: LogIndex) {
        inner.last_seq = open.seq;
        self.rows.dead(open.seq, dead, index);
        let dead: HashSet<&RowId> = dead.iter().collect();
        let mut rows = open.rows();
        rows.retain(|row| !dead.contains(row));
        let waiting = self
            .rows
            .flushed(open.seq, &rows, |table| (self.confirms)(table));
        let forget = Schedule::await_confirmation(inner, open.seq, waiting);
        self.rows.drop_rows(&forget);
    }

    fn flush_failed(&self, inner: &mut Inner, open: &OpenFlush) {
        let pending: HashSet<RowId> = self
            .rows
            .unflushed(open.seq, &open.rows())
            .into_iter()
            .collect();
        for group in &open.taken {
            let left: Vec<_> = group
                .iter()
                .filter(|taken| pending.contains(&taken.row))
                .cloned()
                .collect();
            inner.ripening.put_back(&left);
        }
    }
}

/// What a flush is about, as a scope.
pub(crate) fn scope(scope: FlushScope) -> Scope {
    match scope {
        FlushScope::All => Scope::Everything,
        FlushScope::Tables(tables) => Scope::Tables(tables.into_iter().collect()),
        FlushScope::Rows(rows) => Scope::rows(rows),
    }
}

/// Bytes that a pending change keeps in memory and log.
fn weight(change: &Change) -> u64 {
    (change.image().map_or(0, |image| image.weight())
        + crate::limits::SLOT_OVERHEAD_BYTES
        + crate::limits::LAYER_OVERHEAD_BYTES) as u64
}

/// Rebuilds a layer stack entry by entry; used by `stored` only.
pub(crate) fn layer(change: Change, flushing: Option<crate::change::FlushSeq>) -> Layer {
    let flight = flushing.map(|seq| Flight::new(seq, false));
    let stage = flight.map_or(Stage::Pending, Stage::Flushing);
    Layer { change, stage }
}

#[cfg(test)]
mod tests;
