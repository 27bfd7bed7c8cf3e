//! The rows of a node in 64 shards. Holds the locks and the memory bound; what becomes of a row is decided in [`slot`]. Never awaits, never asks Postgres.
//!
//! Whoever touches several rows locks all shards concerned, ascending, so that a commit group is never seen half. Readers hold read locks.
//! Lock order: shards ascending, then what passed, then a table's sets ([`gathered`]).

mod age;
mod gathered;
mod joined;
pub mod layer;
mod lend;
mod load;
mod passed;
mod place;
pub mod sets;
mod shard;
pub mod slot;
mod stats;

#[cfg(test)]
mod tests;

pub use age::Clock;
pub use gathered::{SetLoad, SetRead, SetTicket};
pub use joined::{Along, First, Joined};
pub use load::{LoadTicket, LoadWait, Moment};
pub use stats::Counters;

use crate::change::{Change, CommitGroup, FlushSeq, RowId};
use crate::hashing::Seeded;
use crate::limits;
use crate::log::LogIndex;
use age::Tick;
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use passed::Recent;
use place::Place;
use ripen_pg::ids::{Lsn, TableOid, Xid, Xid32};
use ripen_pg::tuple::Tuple;
use shard::{Shard, Slots, Watch};
use slot::{After, Ahead, Busy, Confirms, Slot, WalEvent};
use smallvec::SmallVec;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;

/// What memory says of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Found<'a> {
    /// It exists.
    Row(&'a Tuple),
    /// It does not.
    Absent,
    /// Memory does not know.
    Unknown,
}

impl<'a> Found<'a> {
    /// The row, if it is known to exist.
    pub fn tuple(&self) -> Option<&'a Tuple> {
        match self {
            Found::Row(tuple) => Some(tuple),
            Found::Absent | Found::Unknown => None,
        }
    }
}

/// What became of a wish to read rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read<R> {
    /// They were read.
    Done(R),
    /// They belong to the database.
    Fenced,
    /// Memory has them from different moments that cannot be told as one yet. Until the stream has caught up, only Postgres can.
    Apart,
}

/// A row after an outside transaction.
#[derive(Clone, Debug)]
pub struct WalChange {
    /// Which row.
    pub row: RowId,
    /// The row; `None`: deleted. Columns that the WAL did not carry are missing.
    pub image: Option<Tuple>,
}

/// What a table is allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TableBounds {
    /// Largest part of the memory for rows that its rows may take.
    pub memory_share: f64,
    /// How long after their load its clean rows may be served.
    pub expiry: Option<Duration>,
    /// It is held whole, if it has no more rows than these.
    pub resident_rows_max: Option<usize>,
}

impl Default for TableBounds {
    fn default() -> TableBounds {
        TableBounds {
            memory_share: 1.0,
            expiry: None,
            resident_rows_max: None,
        }
    }
}

/// Counts and sizes of all rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowStats {
    /// Rows known to exist or not, pending ones included.
    pub rows: u64,
    /// Bytes of them, as the memory bound counts.
    pub bytes: u64,
    /// Those of rows that cannot be given up now: pending, flushing, being loaded.
    pub pinned_bytes: u64,
    /// What the bytes are bound to.
    pub bytes_max: u64,
    /// Rows given up for others or for their age.
    pub evictions: u64,
    /// Outside changes that met a pending change of the same row.
    pub merges: u64,
    /// Rows that were loaded and not kept, because something passed them.
    pub poisoned: u64,
    /// Reads that memory could answer, row by row.
    pub hits: u64,
    /// Reads that it could not.
    pub misses: u64,
    /// Bytes of rows that are other nodes'.
    pub near_bytes: u64,
}

/// See the module.
pub struct Rows {
    hasher: Seeded,
    shards: Vec<Shard>,
    /// Of tables that sets were asked of.
    sets: RwLock<BTreeMap<TableOid, Watch>>,
    /// Tables that are held whole, up to so many rows.
    residents: RwLock<BTreeMap<TableOid, usize>>,
    /// Held by whoever begins to gather rows by other columns.
    gathering: Mutex<()>,
    bytes_max: AtomicU64,
    recent: Mutex<Recent>,
    /// A transaction id near all that are of interest, to give the WAL's 32-bit ids their epoch. 0: none known.
    newest_xid: AtomicU64,
    /// Up to where the stream has begun to hand over.
    told: AtomicU64,
    /// Up to where rows from other nodes were told of there.
    lent: AtomicU64,
    /// Up to where it has handed over, see [`Rows::measure_by`].
    followed: OnceLock<Arc<AtomicU64>>,
    loads: AtomicU64,
    merges: AtomicU64,
    poisoned: AtomicU64,
    clock: Clock,
}

impl Rows {
    /// No rows yet, and so many bytes at most. `clock` is asked at each load and, where rows expire, once per reading statement.
    pub fn new(memory_max_bytes: u64, clock: Clock) -> Rows {
        let each = memory_max_bytes / limits::SHARDS as u64;
        let shards = (0..limits::SHARDS).map(|_| Shard::new(Slots::new(each)));
        Rows {
            hasher: Seeded::default(),
            shards: shards.collect(),
            sets: RwLock::default(),
            residents: RwLock::default(),
            gathering: Mutex::default(),
            bytes_max: AtomicU64::new(memory_max_bytes),
            recent: Mutex::default(),
            newest_xid: AtomicU64::new(0),
            told: AtomicU64::new(0),
            lent: AtomicU64::new(0),
            followed: OnceLock::new(),
            loads: AtomicU64::new(0),
            merges: AtomicU64::new(0),
            poisoned: AtomicU64::new(0),
            clock,
        }
    }

    /// Rows may take so many bytes from now on. Gives up some of those above it, a few in each shard so that nobody waits long for a lock, and answers how many;
    /// to be called again while there are any.
    pub fn shed(&self, bytes_max: u64) -> usize {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
        let each = bytes_max.saturating_sub(self.shed_sets()) / limits::SHARDS as u64;
        let shards = self.shards.iter();
        shards.map(|shard| shard.write().shed(each)).sum()
    }

    /// From now on these tables have bounds, and no others. Holds for rows in memory, too.
    pub fn bound_tables(&self, bounds: &BTreeMap<TableOid, TableBounds>) {
        let residents = bounds.iter();
        let residents = residents.filter_map(|(table, of)| Some((*table, of.resident_rows_max?)));
        *self.residents.write() = residents.collect();
        for shard in &self.shards {
            shard.write().bound_tables(bounds);
        }
    }

    fn now(&self) -> Tick {
        Tick::at((self.clock)())
    }

    fn place<'a>(&self, row: &'a RowId) -> Place<'a> {
        Place::new(&self.hasher, row.table, row.key.as_bytes())
    }

    /// Reads rows as of one moment. `fenced` is asked while the rows are locked; if it says yes, nothing is read. `followed` says how far the stream has
    /// come that tells of the rows: several rows are only read together when no outside transaction can be seen in one and not yet in another.
    /// `read` must be quick.
    pub fn read<R>(
        &self,
        rows: &[RowId],
        fenced: impl FnOnce() -> bool,
        followed: impl FnOnce() -> Lsn,
        read: impl FnOnce(&[Found<'_>]) -> R,
    ) -> Read<R> {
        if let [row] = rows {
            let read = self.read_one(row, fenced, |found| read(&[found]));
            return read.map_or(Read::Fenced, Read::Done);
        }
        let places: SmallVec<[Place<'_>; 8]> = rows.iter().map(|row| self.place(row)).collect();
        let locked: SmallVec<[(usize, RwLockReadGuard<'_, Slots>); 8]> = shards_of(&places)
            .into_iter()
            .map(|at| (at, self.shards[at].read()))
            .collect();
        if fenced() {
            return Read::Fenced;
        }
        let shard = |place: &Place<'_>| {
            let at = locked
                .binary_search_by_key(&place.shard(), |(at, _)| *at)
                .expect("all shards concerned are locked");
            &*locked[at].1
        };
        let moment = OnceCell::new();
        let now = || *moment.get_or_init(|| self.now());
        let ahead = places.iter().map(|place| shard(place).ahead(place, now));
        if apart(ahead, followed()) {
            return Read::Apart;
        }
        let found = places.iter().map(|place| shard(place).find(place, now));
        let found: SmallVec<[Found<'_>; 8]> = found.collect();
        Read::Done(read(&found))
    }

    /// [`Rows::read`] for one row.
    pub fn read_one<R>(
        &self,
        row: &RowId,
        fenced: impl FnOnce() -> bool,
        read: impl FnOnce(Found<'_>) -> R,
    ) -> Option<R> {
        self.read_key(row.table, row.key.as_bytes(), fenced, read)
    }

    /// [`Rows::read`] for one row, by its canonical key.
    pub fn read_key<R>(
        &self,
        table: TableOid,
        key: &[u8],
        fenced: impl FnOnce() -> bool,
        read: impl FnOnce(Found<'_>) -> R,
    ) -> Option<R> {
        let place = Place::new(&self.hasher, table, key);
        let shard = self.shards[place.shard()].read();
        (!fenced()).then(|| read(shard.find(&place, || self.now())))
    }

    /// Passes through every lock once: no reader that began before is still at it.
    pub fn pass_through_shards(&self) {
        self.shards.iter().for_each(|shard| drop(shard.write()));
    }

    /// Begins to load rows that are not known. Each row is loaded by one ticket at a time; the others' ends can be waited for.
    /// The statement that loads must take its snapshot after this call.
    pub fn begin_load(&self, rows: &[RowId]) -> (LoadTicket, LoadWait) {
        let load = self.loads.fetch_add(1, Ordering::Relaxed) + 1;
        let (ended, wait) = watch::channel(());
        let (mut mine, mut others) = (Vec::new(), Vec::new());
        for row in rows {
            let place = self.place(row);
            let mut shard = self.shards[place.shard()].write();
            let passed = || self.recent.lock().of(row);
            match shard.begin_load(&place, load, &wait, || self.now(), passed) {
                shard::Begun::Mine => mine.push(row.clone()),
                shard::Begun::Known => {}
                shard::Begun::Others(wait) => others.push(wait),
            }
        }
        (LoadTicket::new(load, mine, ended), LoadWait::new(others))
    }

    /// Takes in what a load found. `found` answers the row or `None` when it does not exist. Rows are not kept that changed under the load in a way
    /// that cannot be told; those who wait find them unknown and load again.
    pub fn finish_load(
        &self,
        ticket: LoadTicket,
        moment: &Arc<Moment>,
        mut found: impl FnMut(&RowId) -> Option<Tuple>,
    ) {
        let snapshot = &moment.snapshot;
        if !self.recent.lock().seen_by(ticket.load(), snapshot) {
            return self.fail_load(ticket);
        }
        self.newest_xid
            .fetch_max(snapshot.xmax.0, Ordering::Relaxed);
        let (now, followed) = (self.now(), self.followed());
        for row in ticket.rows() {
            let tuple = found(row);
            let place = self.place(row);
            let mut shard = self.shards[place.shard()].write();
            let (kept, ()) = shard.finish_load(&place, now, ticket.is_near(), |busy| {
                busy.finish_load(ticket.load(), moment, followed, tuple);
            });
            self.poisoned.fetch_add(u64::from(!kept), Ordering::Relaxed);
        }
    }

    /// The load did not succeed. The rows stay unknown.
    pub fn fail_load(&self, ticket: LoadTicket) {
        for row in ticket.rows() {
            self.change_busy(row, |busy| busy.fail_load(ticket.load()));
        }
    }

    /// An outside transaction in the WAL, each row once; all of it at one moment. Rows that nobody knows are left unknown.
    /// Answers the rows where it met a change of the grid that is not known to be in Postgres: both count (the grid's columns win) unless
    /// the caller has that change's transaction put into the dead letters.
    pub fn wal_transaction(&self, xid: Xid32, commit: Lsn, changes: &[WalChange]) -> Vec<RowId> {
        let after = |change: &WalChange| change.image.clone().map_or(After::Absent, After::Row);
        let events = changes.iter().map(|change| (&change.row, after(change)));
        self.wal(xid, commit, events.collect())
    }

    /// As [`Rows::wal_transaction`], for rows of which the WAL does not say what they are now.
    pub fn wal_unknown(&self, xid: Xid32, commit: Lsn, rows: &[RowId]) -> Vec<RowId> {
        let events = rows.iter().map(|row| (row, After::Unknown));
        self.wal(xid, commit, events.collect())
    }

    fn wal(&self, xid: Xid32, commit: Lsn, changes: Vec<(&RowId, After)>) -> Vec<RowId> {
        self.begin_told(commit);
        let xid = self.full(xid);
        let places: Vec<Place<'_>> = changes.iter().map(|(row, _)| self.place(row)).collect();
        let mut locked = self.lock(&places);
        let mut recent = self.recent.lock();
        let mut met = Vec::new();
        for (place, (row, after)) in places.iter().zip(changes) {
            let event = WalEvent { xid, commit, after };
            recent.push(row, &event);
            let watched = locked.shard(place).watch(row.table).is_some();
            let after = watched.then(|| event.after.clone());
            let slot = locked.change(place, |slot| slot.wal(event));
            if let Some(after) = after {
                gathered::told(locked.shard(place), place, row, &after);
            }
            if slot == Some(true) {
                met.push(row.clone());
            }
        }
        self.merges.fetch_add(met.len() as u64, Ordering::Relaxed);
        met
    }

    /// Tables were emptied by an outside transaction.
    pub fn wal_truncate(&self, xid: Xid32, commit: Lsn, tables: &[TableOid]) {
        self.wal_tables(xid, commit, tables, || After::Absent);
    }

    /// Any row of these tables may have been changed by an outside transaction.
    pub fn wal_invalidate(&self, xid: Xid32, commit: Lsn, tables: &[TableOid]) {
        self.wal_tables(xid, commit, tables, || After::Unknown);
    }

    fn wal_tables(&self, xid: Xid32, commit: Lsn, tables: &[TableOid], after: fn() -> After) {
        self.begin_told(commit);
        let xid = self.full(xid);
        let mut locked: Vec<_> = self.shards.iter().map(|shard| shard.write()).collect();
        self.recent.lock().push_unlisted(xid);
        let sets = tables.iter().filter_map(|table| self.sets_of(*table));
        sets.for_each(|watch| watch.lock().clear());
        for shard in &mut locked {
            shard.change_all(|row, slot| {
                if tables.contains(&row.table) {
                    let after = after();
                    slot.wal(WalEvent { xid, commit, after });
                }
            });
        }
    }

    /// A transaction id of now, to compare the WAL's with before anything was loaded.
    pub fn note_xid(&self, xid: Xid) {
        self.newest_xid.fetch_max(xid.0, Ordering::Relaxed);
    }

    /// The epoch of a transaction id from the WAL. Ids of one time lie within 2^31 of each other, so the newest one known is near enough.
    fn full(&self, xid: Xid32) -> Xid {
        let newest = self.newest_xid.load(Ordering::Relaxed);
        let full = xid.near(Xid(newest));
        if newest == 0 || full.0.abs_diff(newest) > u64::from(u32::MAX) {
            // Nothing was loaded yet that it could be compared with (or the first epoch has just begun).
            return Xid(u64::from(xid.0));
        }
        self.newest_xid.fetch_max(full.0, Ordering::Relaxed);
        full
    }

    /// The stream has passed our flush: its changes are in Postgres. What the stream tells later of these rows comes on top.
    pub fn confirm(&self, seq: FlushSeq, xid: Xid32, commit: Lsn, rows: &[RowId]) {
        self.begin_told(commit);
        self.full(xid);
        self.change_each(rows, |busy| busy.confirm(seq, commit));
    }

    /// The stream is about to confirm a flush of which Postgres has made something else than it carried: its rows are unknown.
    pub fn overrule(&self, seq: FlushSeq, xid: Xid32, commit: Lsn, rows: &[RowId]) {
        self.change_each(rows, |busy| busy.overrule(seq));
        self.wal_unknown(xid, commit, rows);
    }

    /// Applies a commit group, all of it at one moment. Answers the rows that became pending by it.
    pub fn apply_group(&self, group: &CommitGroup, index: LogIndex) -> Vec<RowId> {
        let places: SmallVec<[Place<'_>; 8]> = group
            .rows
            .iter()
            .map(|change| self.place(&change.row))
            .collect();
        let mut locked = self.lock(&places);
        let mut pending = Vec::with_capacity(group.rows.len());
        for (place, change) in places.iter().zip(&group.rows) {
            let shard = locked.shard(place);
            let (became, settled) = shard.change_or_insert(place, |busy| {
                let became = busy.commit(change.change.clone(), index);
                (became, busy.is_settled())
            });
            if settled {
                shard.cancel(Some(change.row.table), index);
            }
            if became {
                pending.push(change.row.clone());
            }
        }
        pending
    }

    /// Where the log changed any of these rows last, or later; 0 if they are as they are in Postgres.
    pub fn changed(&self, rows: &[RowId]) -> LogIndex {
        let changed = rows.iter().map(|row| {
            let place = self.place(row);
            self.shards[place.shard()].read().changed(&place)
        });
        changed.max().unwrap_or_default()
    }

    /// The pending layers of these rows go into a flush: what is to be written, in the order of `rows`. A row without pending layer is left out.
    /// `known` is false for a flush that is found in the log at a start: whether it is in Postgres must be asked there before its rows can be loaded.
    pub fn begin_flush(&self, seq: FlushSeq, rows: &[RowId], known: bool) -> Vec<(RowId, Change)> {
        let change = |row: &RowId| {
            let change = self.change_busy(row, |busy| busy.begin_flush(seq, known));
            change.map(|change| (row.clone(), change))
        };
        rows.iter().filter_map(change).collect()
    }

    /// The flush's transaction has its id. Call it before COMMIT is sent, for each attempt.
    pub fn flush_xid(&self, seq: FlushSeq, xid: Xid, rows: &[RowId]) {
        self.newest_xid.fetch_max(xid.0, Ordering::Relaxed);
        self.change_each(rows, |busy| busy.flush_xid(seq, Some(xid)));
    }

    /// The attempt to flush has failed for certain, and there may be another. Until this is said, rows of the flush that were not known cannot be loaded.
    pub fn flush_retry(&self, seq: FlushSeq, rows: &[RowId]) {
        self.change_each(rows, |busy| busy.flush_xid(seq, None));
    }

    /// The flush committed, and Postgres has said so. `confirms` is asked of each table. Answers the rows that wait for the stream.
    pub fn flushed(
        &self,
        seq: FlushSeq,
        rows: &[RowId],
        confirms: impl Fn(TableOid) -> Confirms,
    ) -> Vec<RowId> {
        let waits = |row: &&RowId| {
            let confirms = confirms(row.table);
            self.change_busy(row, |busy| busy.flushed(seq, confirms))
        };
        rows.iter().filter(waits).cloned().collect()
    }

    /// The flush did not commit. Answers the rows that are pending again.
    pub fn unflushed(&self, seq: FlushSeq, rows: &[RowId]) -> Vec<RowId> {
        let pending = |row: &&RowId| self.change_busy(row, |busy| busy.unflushed(seq));
        rows.iter().filter(pending).cloned().collect()
    }

    /// These rows' changes went to the dead letters; all at one moment.
    pub fn dead(&self, seq: FlushSeq, rows: &[RowId], index: LogIndex) {
        let places: Vec<Place<'_>> = rows.iter().map(|row| self.place(row)).collect();
        let mut locked = self.lock(&places);
        for (place, row) in places.iter().zip(rows) {
            locked.change(place, |slot| slot.dead(seq));
            locked.shard(place).cancel(Some(row.table), index);
        }
    }

    /// What is known of these rows in Postgres is no longer sure; loads of them under way are not kept. Changes on top stay.
    pub fn drop_rows(&self, rows: &[RowId]) {
        for row in rows {
            let place = self.place(row);
            let mut shard = self.shards[place.shard()].write();
            shard.change(&place, Slot::forget);
            gathered::stray(&shard, &place, row);
        }
    }

    /// As [`Rows::drop_rows`], for all rows of a table.
    pub fn drop_table(&self, table: TableOid) {
        self.forget_sets(table);
        self.change_where(|row| row.table == table, Slot::forget);
    }

    /// As [`Rows::drop_rows`], for all rows that are chosen. Shard by shard: readers meanwhile see rows dropped and rows that will be.
    pub fn drop_where(&self, chosen: impl Fn(&RowId) -> bool) {
        self.clear_sets();
        self.change_where(chosen, Slot::forget);
    }

    /// As [`Rows::drop_where`], for the rows of a stream that could not resume: what it has not confirmed it never will.
    pub fn stream_lost(&self, chosen: impl Fn(&RowId) -> bool) {
        self.clear_sets();
        self.change_where(chosen, Slot::stream_lost);
        self.forget_told();
    }

    /// Gives back the memory of clean rows that are older than their table allows. They are not served any more before that.
    pub fn sweep(&self) {
        let now = self.now();
        for shard in &self.shards {
            shard.write().sweep(now);
        }
    }

    /// Postgres goes on from another past (a failover, a backup): what the stream has told and no load has seen may never have happened there, and other
    /// transactions get those ids. Call it before [`Rows::stream_lost`], which sees to the loads under way.
    pub fn history_lost(&self) {
        let mut recent = self.recent.lock();
        *recent = Recent::from_load(self.loads.load(Ordering::Relaxed) + 1);
    }

    /// The stream has handed over everything up to `followed`, of the tables that it follows: loads of before need not be remembered, which saves their memory.
    /// Asked for shard by shard, under its lock: a stream that begins anew may go back.
    pub fn settle_loads(&self, followed: impl Fn() -> Lsn, follows: impl Fn(TableOid) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.write();
            shard.settle_loads(followed(), &follows);
        }
    }

    /// Rows with changes whose row in Postgres is unknown (after a restart, or dropped meanwhile): to be loaded when that is possible.
    /// `loadable`: of which rows Postgres can say anything.
    pub fn without_base(&self, most: usize, loadable: impl Fn(&RowId) -> bool) -> Vec<RowId> {
        let mut rows = Vec::new();
        for shard in &self.shards {
            let shard = shard.read();
            let wanting = shard.wanting_load().filter(|row| loadable(row));
            rows.extend(wanting.take(most - rows.len()).cloned());
        }
        // In which shard a row is, differs from process to process.
        rows.sort_unstable();
        rows
    }

    /// Runs over the layers of all rows, in no order, for a snapshot of the state machine.
    pub fn for_each_layered(&self, mut visit: impl FnMut(&RowId, &Slot)) {
        for shard in &self.shards {
            shard.read().for_each(|row, slot| {
                if !slot.layers().is_empty() {
                    visit(row, slot);
                }
            });
        }
    }

    /// Forgets everything, changes too.
    /// `index`: up to where the log has changed rows of which memory will know again.
    pub fn clear(&self, index: LogIndex) {
        self.clear_sets();
        for shard in &self.shards {
            let mut shard = shard.write();
            shard.change_all(|_, slot| *slot = Slot::Gone);
            shard.cancel(None, index);
        }
    }

    /// The same for these rows.
    pub fn clear_rows(&self, rows: &[RowId]) {
        for row in rows {
            let place = self.place(row);
            let mut shard = self.shards[place.shard()].write();
            shard.change(&place, |slot| *slot = Slot::Gone);
            gathered::stray(&shard, &place, row);
        }
    }

    /// Puts a layer back, as it was in a snapshot.
    pub fn restore(&self, row: &RowId, layer: layer::Layer) {
        let place = self.place(row);
        let mut shard = self.shards[place.shard()].write();
        shard.change_or_insert(&place, |busy| busy.restore(layer));
    }

    /// Counts and sizes now.
    pub fn stats(&self) -> RowStats {
        let mut all = Counters::default();
        for shard in &self.shards {
            shard.read().add_to(&mut all, |_, _| {});
        }
        RowStats {
            rows: all.rows,
            bytes: all.bytes + self.set_stats().bytes,
            pinned_bytes: all.pinned_bytes,
            bytes_max: self.bytes_max.load(Ordering::Relaxed),
            evictions: all.evictions,
            merges: self.merges.load(Ordering::Relaxed),
            poisoned: self.poisoned.load(Ordering::Relaxed),
            hits: all.hits,
            misses: all.misses,
            near_bytes: all.near_bytes,
        }
    }

    /// Counts and sizes by table (without evictions).
    pub fn table_stats(&self) -> BTreeMap<TableOid, Counters> {
        let mut tables: BTreeMap<TableOid, Counters> = BTreeMap::new();
        for shard in &self.shards {
            shard
                .read()
                .add_to(&mut Counters::default(), |table, counters| {
                    tables.entry(table).or_default().add(counters);
                });
        }
        tables
    }

    /// See [`Slot::show_as_decided`]; for all rows.
    pub fn show_as_decided(&self, show: bool) {
        self.change_where(|_| true, |slot| slot.show_as_decided(show));
    }

    fn change_where(&self, chosen: impl Fn(&RowId) -> bool, change: impl Fn(&mut Slot)) {
        for shard in &self.shards {
            shard.write().change_all(|row, slot| {
                if chosen(row) {
                    change(slot);
                }
            });
        }
    }

    fn change_each(&self, rows: &[RowId], mut change: impl FnMut(&mut Busy)) {
        for row in rows {
            self.change_busy(row, &mut change);
        }
    }

    fn change_busy<R: Default>(&self, row: &RowId, change: impl FnOnce(&mut Busy) -> R) -> R {
        let place = self.place(row);
        let mut shard = self.shards[place.shard()].write();
        let answer = shard.change(&place, |slot| slot.change_busy(change));
        answer.unwrap_or_default()
    }

    fn lock(&self, places: &[Place<'_>]) -> Locked<'_> {
        let shards = shards_of(places).into_iter();
        Locked(shards.map(|at| (at, self.shards[at].write())).collect())
    }
}

/// Whether rows that may contain this (`None`: only what the stream has told, or they are unknown) may show an outside transaction half: a load that the stream has
/// not caught up with can have seen what other rows have not been told yet. Rows of one and the same load agree.
fn apart<'a>(rows: impl Iterator<Item = Option<Ahead<'a>>>, followed: Lsn) -> bool {
    let mut first: Option<Option<Ahead<'_>>> = None;
    for ahead in rows {
        let ahead = ahead.filter(|ahead| ahead.wal() > followed);
        match (first, ahead) {
            (None, _) => first = Some(ahead),
            (Some(None), None) => {}
            (Some(Some(first)), Some(ahead)) if first.same(&ahead) => {}
            _ => return true,
        }
    }
    false
}

/// The numbers of the shards concerned, ascending, each once.
fn shards_of(places: &[Place<'_>]) -> SmallVec<[usize; 8]> {
    let mut shards: SmallVec<[usize; 8]> = places.iter().map(Place::shard).collect();
    shards.sort_unstable();
    shards.dedup();
    shards
}

/// Shards locked for writing, ascending.
struct Locked<'a>(SmallVec<[(usize, RwLockWriteGuard<'a, Slots>); 8]>);

impl Locked<'_> {
    fn shard(&mut self, place: &Place<'_>) -> &mut Slots {
        let at = self.0.binary_search_by_key(&place.shard(), |(at, _)| *at);
        &mut self.0[at.expect("all shards concerned are locked")].1
    }

    fn change<R>(&mut self, place: &Place<'_>, change: impl FnOnce(&mut Slot) -> R) -> Option<R> {
        self.shard(place).change(place, change)
    }
}
