//! One shard: a lock, a map, a memory bound kept by CLOCK. Pinned rows (pending, loading) are never given up, even above the bound; what is pending is bounded
//! by back-pressure instead.
//!
//! Keys are found by the hash that `Rows` computed once (`Place`); the map never hashes. What a slot weighs is noted beside it, so that the sum
//! cannot drift.

use super::age::{Expiry, Tick};
use super::passed::Passed;
use super::place::{KeepsHash, Place};
use super::sets::Sets;
use super::slot::{Ahead, Base, Busy, Lend, Slot};
use super::stats::{Counters, Tables};
use super::{Found, TableBounds};
use crate::change::RowId;
use crate::limits;
use crate::log::LogIndex;
use crate::peers::limits::OWNED_STEPS;
use indexmap::IndexMap;
use indexmap::map::raw_entry_v1::{RawEntryApiV1, RawEntryMut};
use parking_lot::{Mutex, RwLock};
use ripen_pg::ids::{Lsn, TableOid};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// A lock around [`Slots`].
pub type Shard = RwLock<Slots>;

/// The sets of a table, which are told of every change of its rows. Locked after the shard.
pub type Watch = Arc<Mutex<Sets>>;

/// What became of a wish to load a row.
pub enum Begun {
    /// The asker loads it.
    Mine,
    /// It is known.
    Known,
    /// Somebody else loads it.
    Others(watch::Receiver<()>),
}

/// The rows of a shard.
pub struct Slots {
    map: IndexMap<RowId, Entry, KeepsHash>,
    loads: Vec<(u64, watch::Receiver<()>)>,
    /// Tables of which sets were asked for; mostly none.
    watches: Vec<(TableOid, Watch)>,
    tables: Tables,
    bytes: u64,
    bytes_max: u64,
    pinned_bytes: u64,
    /// Bytes of near copies, and which part of the shard they may take.
    near_bytes: u64,
    near_share: f64,
    hand: usize,
    evictions: u64,
    /// What rows have contained that are not known any more: nothing older may be taken for them.
    gone: Gone,
    /// Where the log last changed a row back to what Postgres has.
    cancelled: LogIndex,
}

/// Up to where rows may have been shown that are not known any more.
#[derive(Clone, Copy, Default)]
struct Gone {
    /// By loads, and by what other nodes were told.
    wal: Lsn,
    /// The latter alone: Postgres itself may show less.
    told: Lsn,
}

impl Gone {
    fn of(slot: &Slot) -> Gone {
        slot.ahead().map_or_else(Gone::default, |ahead| Gone {
            wal: ahead.wal(),
            told: ahead.told(),
        })
    }

    /// A slot has become another one.
    fn lose(&mut self, before: Gone, now: &Slot) {
        if now.ahead().is_none() {
            self.wal = self.wal.max(before.wal);
            self.told = self.told.max(before.told);
        }
    }
}

struct Entry {
    slot: Slot,
    weight: u32,
    /// Whether the weight is counted as pinned.
    pinned: bool,
    /// Whether the row is another node's.
    near: bool,
    /// When the base was loaded; means nothing without one.
    loaded: Tick,
    visited: AtomicBool,
}

impl Entry {
    /// Whether the row must not be served any more. Rows with changes on them are: Postgres does not have those yet.
    fn expired(&self, expiry: Option<Expiry>, now: impl Fn() -> Tick) -> bool {
        expiry.is_some_and(|expiry| !self.slot.pinned() && expiry.is_over(self.loaded, now()))
    }
}

/// Changes a slot, and tells the sets of its table, if there are any.
fn watched<R>(
    watches: &[(TableOid, Watch)],
    row: &RowId,
    slot: &mut Slot,
    change: impl FnOnce(&mut Slot) -> R,
) -> R {
    let Some((_, watch)) = watches.iter().find(|(table, _)| *table == row.table) else {
        return change(slot);
    };
    // Not locked in between: the change may look at what passed.
    let before = watch.lock().standing(slot);
    let answer = change(slot);
    watch.lock().changed(&row.key, &before, slot);
    answer
}

impl Slots {
    pub fn new(bytes_max: u64) -> Slots {
        Slots {
            map: IndexMap::default(),
            loads: Vec::new(),
            watches: Vec::new(),
            tables: Tables::default(),
            bytes: 0,
            bytes_max,
            pinned_bytes: 0,
            near_bytes: 0,
            near_share: 1.0,
            hand: 0,
            evictions: 0,
            gone: Gone::default(),
            cancelled: LogIndex(0),
        }
    }

    fn at(&self, place: &Place<'_>) -> Option<usize> {
        let raw = self.map.raw_entry_v1();
        raw.index_from_hash(place.hash, |row| place.is(row))
    }

    /// What is known of a row; `now` is only asked where rows expire.
    pub fn find(&self, place: &Place<'_>, now: impl Fn() -> Tick) -> Found<'_> {
        let table = self.tables.get(place.table);
        let found = match self.at(place) {
            None => Found::Unknown,
            Some(at) => self.look(at, table.and_then(|table| table.expiry), now),
        };
        self.tables.read(table, found != Found::Unknown);
        found
    }

    /// Where the log changed the row last, or later.
    pub fn changed(&self, place: &Place<'_>) -> LogIndex {
        let at = self.at(place);
        let changed = at.map_or(LogIndex(0), |at| self.map[at].slot.changed());
        changed.max(self.cancelled)
    }

    /// The log has changed a row back to what Postgres has, of that table, or of any.
    pub fn cancel(&mut self, table: Option<TableOid>, index: LogIndex) {
        self.cancelled = index;
        for (watched, watch) in &self.watches {
            if table.is_none_or(|table| table == *watched) {
                watch.lock().note_logged(index);
            }
        }
    }

    /// See [`Slot::ahead`]; an expired row is unknown.
    pub fn ahead(&self, place: &Place<'_>, now: impl Fn() -> Tick) -> Option<Ahead<'_>> {
        let entry = &self.map[self.at(place)?];
        let expired = entry.expired(self.expiry(place.table), now);
        (!expired).then(|| entry.slot.ahead())?
    }

    /// See [`Slot::lend`]. A row that others ask for is one that is used.
    pub fn lend(&self, place: &Place<'_>) -> Lend {
        let Some(at) = self.at(place) else {
            return Lend::Unknown;
        };
        let entry = &self.map[at];
        entry.visited.store(true, Ordering::Relaxed);
        entry.slot.lend()
    }

    /// What a row of this shard that is not known may have contained.
    pub fn gone(&self) -> Lsn {
        self.gone.wal
    }

    /// Positions in the WAL mean something else from now on.
    pub fn forget_gone(&mut self) {
        self.gone = Gone::default();
    }

    /// Whether clean rows of the table grow too old.
    pub fn expires(&self, table: TableOid) -> bool {
        self.expiry(table).is_some()
    }

    fn expiry(&self, table: TableOid) -> Option<Expiry> {
        self.tables.get(table)?.expiry
    }

    fn look(&self, at: usize, expiry: Option<Expiry>, now: impl Fn() -> Tick) -> Found<'_> {
        let (_, entry) = self.map.get_index(at).expect("the index was just found");
        if entry.expired(expiry, now) {
            return Found::Unknown;
        }
        if !entry.visited.load(Ordering::Relaxed) {
            entry.visited.store(true, Ordering::Relaxed);
        }
        match entry.slot.image() {
            Some(Some(tuple)) => Found::Row(tuple),
            Some(None) => Found::Absent,
            None => Found::Unknown,
        }
    }

    /// Begins a load unless the row is known or loading. A row with changes on an unknown base is loaded although readers may see it.
    pub fn begin_load(
        &mut self,
        place: &Place<'_>,
        load: u64,
        wait: &watch::Receiver<()>,
        now: impl Fn() -> Tick,
        passed: impl FnOnce() -> Passed,
    ) -> Begun {
        self.give_up_expired(place, now);
        // A load whose ticket is gone has ended.
        self.loads.retain(|(_, wait)| wait.has_changed().is_ok());
        match self.at(place) {
            None => {
                self.insert(place, Slot::loading(load, passed(), self.gone.told));
            }
            Some(at) => {
                let slot = &self.map[at].slot;
                if let Some(loading) = slot.load() {
                    let ended = self.loads.iter().find(|(known, _)| *known == loading);
                    if let Some((_, wait)) = ended {
                        return Begun::Others(wait.clone());
                    }
                    // Its ticket was dropped without a word: take over.
                } else if !slot.wants_load() {
                    return Begun::Known;
                }
                let ahead = self.gone.told;
                self.change_at(at, |slot| {
                    slot.change(|busy| busy.begin_load(load, passed(), ahead))
                });
            }
        }
        if self.loads.last().is_none_or(|(known, _)| *known != load) {
            self.loads.push((load, wait.clone()));
        }
        Begun::Mine
    }

    fn give_up_expired(&mut self, place: &Place<'_>, now: impl Fn() -> Tick) {
        if let Some(at) = self.at(place)
            && self.map[at].expired(self.expiry(place.table), now)
        {
            self.evictions += 1;
            self.remove(at);
        }
    }

    /// Takes in what a load found. Answers whether it was kept, and what `finish` said.
    pub fn finish_load<R: Default>(
        &mut self,
        place: &Place<'_>,
        now: Tick,
        near: bool,
        finish: impl FnOnce(&mut Busy) -> R,
    ) -> (bool, R) {
        let Some(at) = self.at(place) else {
            return Default::default();
        };
        self.map[at].loaded = now;
        self.set_near(at, near);
        let kept = |busy: &mut Busy| {
            let finished = finish(busy);
            (busy.knows_base(), finished)
        };
        let answer = self.change(place, |slot| slot.change_busy(kept));
        answer.unwrap_or_default()
    }

    fn set_near(&mut self, at: usize, near: bool) {
        let entry = &mut self.map[at];
        let weight = u64::from(entry.weight);
        match (std::mem::replace(&mut entry.near, near), near) {
            (false, true) => self.near_bytes += weight,
            (true, false) => self.near_bytes -= weight,
            _ => {}
        }
    }

    /// Near copies may take so much of the shard.
    pub fn share_near(&mut self, share: f64) {
        self.near_share = share;
    }

    /// Looks again whose rows these are, some at a time from `from` on. `is_near` is given what the row counts as. Answers where to go on; `None`: that was all.
    pub fn mark_near(
        &mut self,
        from: usize,
        is_near: impl Fn(&RowId, bool) -> bool,
    ) -> Option<usize> {
        let until = from.saturating_add(OWNED_STEPS).min(self.map.len());
        for at in from..until {
            let (row, entry) = self.map.get_index(at).expect("indices below stay");
            let near = is_near(row, entry.near);
            self.set_near(at, near);
        }
        (until < self.map.len()).then_some(until)
    }

    /// Changes a slot that exists.
    pub fn change<R>(
        &mut self,
        place: &Place<'_>,
        change: impl FnOnce(&mut Slot) -> R,
    ) -> Option<R> {
        let at = self.at(place)?;
        let answer = self.change_at(at, change);
        self.evict(place);
        Some(answer)
    }

    /// Changes a slot, made if need be, and answers what the change answered.
    pub fn change_or_insert<R>(
        &mut self,
        place: &Place<'_>,
        change: impl FnOnce(&mut Busy) -> R,
    ) -> R {
        let at = match self.at(place) {
            Some(at) => at,
            None => self.insert(place, Slot::Gone),
        };
        let answer = self.change_at(at, |slot| slot.change(change));
        self.evict(place);
        answer
    }

    /// Changes all slots.
    pub fn change_all(&mut self, mut change: impl FnMut(&RowId, &mut Slot)) {
        // From the end: a slot that goes is replaced by the last one, which has had its turn.
        for at in (0..self.map.len()).rev() {
            let (row, entry) = self.map.get_index_mut(at).expect("indices below stay");
            let before = Gone::of(&entry.slot);
            watched(&self.watches, row, &mut entry.slot, |slot| {
                change(row, slot)
            });
            self.gone.lose(before, &entry.slot);
            self.weigh(at);
        }
    }

    /// The table's sets, if somebody has asked for some.
    pub fn watch(&self, table: TableOid) -> Option<&Watch> {
        let mut watches = self.watches.iter();
        let watch = watches.find(|(watched, _)| *watched == table);
        watch.map(|(_, watch)| watch)
    }

    /// From now on these sets are told of all changes of the table, and now of all rows with changes on them.
    pub fn begin_watch(&mut self, table: TableOid, watch: &Watch) {
        if self.watch(table).is_none() {
            self.watches.push((table, watch.clone()));
        }
        let mut sets = watch.lock();
        sets.note_logged(self.cancelled);
        for (row, entry) in &self.map {
            if row.table == table {
                sets.add_layered(&row.key, &entry.slot);
            }
        }
    }

    /// Whether readers would find the row, which counts as having been used, but not as a read.
    pub fn keeps(&self, place: &Place<'_>) -> bool {
        let Some(at) = self.at(place) else {
            return false;
        };
        self.map[at].visited.store(true, Ordering::Relaxed);
        self.map[at].slot.image().is_some()
    }

    /// What is known of a row and its slot; whether it ages is not asked.
    pub fn slot(&self, place: &Place<'_>) -> Option<&Slot> {
        let at = self.at(place)?;
        Some(&self.map[at].slot)
    }

    /// Takes in a row as a load of others has found it, which nothing has touched since before that: nothing newer is known. Changes on top stay as they are.
    pub fn put(&mut self, place: &Place<'_>, base: Base, now: Tick, near: bool) {
        let at = match self.at(place) {
            None => self.insert(place, Slot::Gone),
            Some(at) if matches!(self.map[at].slot, Slot::Clean(_)) => at,
            Some(_) => return,
        };
        self.map[at].loaded = now;
        self.set_near(at, near);
        self.change_at(at, |slot| *slot = Slot::Clean(base));
        self.evict(place);
    }

    /// [`Slot::settle_load`] for all rows of tables that are followed.
    pub fn settle_loads(&mut self, followed: Lsn, follows: &impl Fn(TableOid) -> bool) {
        for at in (0..self.map.len()).rev() {
            let (row, entry) = self.map.get_index_mut(at).expect("indices below stay");
            if follows(row.table) {
                entry.slot.settle_load(followed);
                self.weigh(at);
            }
        }
    }

    /// Drops clean rows that were loaded longer ago than their table allows. Nobody is served them any more: this gives back their memory.
    pub fn sweep(&mut self, now: Tick) {
        if !self.tables.any_expires() {
            return;
        }
        for at in (0..self.map.len()).rev() {
            let (row, entry) = self.map.get_index(at).expect("indices below stay");
            if entry.expired(self.expiry(row.table), || now) {
                self.evictions += 1;
                self.remove(at);
            }
        }
    }

    /// Rows without a base that nobody loads; also those whose load was given up without a word.
    pub fn wanting_load(&self) -> impl Iterator<Item = &RowId> {
        let loaded = |load: u64| {
            let mut loads = self.loads.iter();
            loads.any(|(known, wait)| *known == load && wait.has_changed().is_ok())
        };
        self.map
            .iter()
            .filter(move |(_, entry)| match entry.slot.load() {
                Some(load) => !loaded(load),
                None => entry.slot.wants_load(),
            })
            .map(|(row, _)| row)
    }

    pub fn for_each(&self, mut visit: impl FnMut(&RowId, &Slot)) {
        self.map
            .iter()
            .for_each(|(row, entry)| visit(row, &entry.slot));
    }

    /// See [`super::Rows::bound_tables`].
    pub fn bound_tables(&mut self, bounds: &BTreeMap<TableOid, TableBounds>) {
        self.tables.bound(bounds);
    }

    pub fn add_to(&self, all: &mut Counters, mut each: impl FnMut(TableOid, &Counters)) {
        all.evictions += self.evictions;
        all.misses += self.tables.misses_elsewhere();
        all.pinned_bytes += self.pinned_bytes;
        all.near_bytes += self.near_bytes;
        self.tables.for_each(|table, counters| {
            all.add(&counters);
            each(table, &counters);
        });
    }

    fn insert(&mut self, place: &Place<'_>, slot: Slot) -> usize {
        let entry = Entry {
            slot,
            weight: 0,
            pinned: false,
            near: false,
            loaded: Tick::default(),
            visited: AtomicBool::new(false),
        };
        let raw = self.map.raw_entry_mut_v1();
        match raw.from_hash(place.hash, |row| place.is(row)) {
            RawEntryMut::Occupied(_) => unreachable!("only rows that were not found are inserted"),
            RawEntryMut::Vacant(vacant) => {
                vacant.insert_hashed_nocheck(place.hash, place.row(), entry);
            }
        }
        self.tables.entry(place.table).rows += 1;
        let at = self.map.len() - 1;
        if !matches!(self.map[at].slot, Slot::Gone) {
            self.weigh(at);
        }
        at
    }

    fn change_at<R>(&mut self, at: usize, change: impl FnOnce(&mut Slot) -> R) -> R {
        let (row, entry) = self.map.get_index_mut(at).expect("the caller found it");
        let slot = &mut entry.slot;
        let before = Gone::of(slot);
        let answer = watched(&self.watches, row, slot, change);
        self.gone.lose(before, slot);
        self.weigh(at);
        answer
    }

    /// Takes note of a slot's new weight, and removes a slot that holds nothing.
    fn weigh(&mut self, at: usize) {
        let (row, entry) = self.map.get_index(at).expect("the caller found it");
        if matches!(entry.slot, Slot::Gone) {
            return self.remove(at);
        }
        let (table, pinned) = (row.table, entry.slot.pinned());
        let bytes = entry.slot.weight() + row.key.heap_weight();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let entry = &mut self.map[at];
        let before = std::mem::replace(&mut entry.weight, bytes);
        let pinned_before = std::mem::replace(&mut entry.pinned, pinned);
        let near = entry.near;
        if before != bytes {
            self.tables.entry(table).weigh(before, bytes);
            self.bytes = self.bytes - u64::from(before) + u64::from(bytes);
            if near {
                self.near_bytes = self.near_bytes - u64::from(before) + u64::from(bytes);
            }
        }
        self.pinned_bytes -= if pinned_before { u64::from(before) } else { 0 };
        self.pinned_bytes += if pinned { u64::from(bytes) } else { 0 };
    }

    fn remove(&mut self, at: usize) {
        let (row, entry) = self.map.swap_remove_index(at).expect("the caller found it");
        let counters = self.tables.entry(row.table);
        counters.rows -= 1;
        counters.weigh(entry.weight, 0);
        self.bytes -= u64::from(entry.weight);
        if entry.pinned {
            self.pinned_bytes -= u64::from(entry.weight);
        }
        if entry.near {
            self.near_bytes -= u64::from(entry.weight);
        }
        self.gone.lose(Gone::of(&entry.slot), &Slot::Gone);
    }

    /// Bounds all rows of the shard, and gives up some that are above the bound. Answers how many; more are left to the next call.
    pub fn shed(&mut self, bytes_max: u64) -> usize {
        self.bytes_max = bytes_max;
        let rows = self.map.len();
        for step in 0..limits::SHED_STEPS {
            if self.map.is_empty() || self.bytes <= self.bytes_max {
                break;
            }
            let near_first = self.near_bytes > 0 && step < limits::SHED_STEPS / 2;
            self.step(|_, near| near_first && !near);
        }
        rows - self.map.len()
    }

    /// CLOCK: the hand spares a row that was read since it last came by, and takes the next one that was not. Near copies have their turn before the node's own rows.
    /// Never the row at `changed`: what has just been loaded is about to be read.
    fn evict(&mut self, changed: &Place<'_>) {
        let table = changed.table;
        let over = |slots: &Slots| slots.bytes > slots.bytes_max;
        let table_over = |slots: &Slots| slots.tables.over(table, slots.bytes_max);
        let near_over =
            |slots: &Slots| slots.near_bytes as f64 > slots.bytes_max as f64 * slots.near_share;
        if !over(self) && !table_over(self) && !near_over(self) {
            return;
        }
        for step in 0..limits::EVICTION_STEPS_MAX {
            let any = over(self);
            let of_table = table_over(self);
            if self.map.is_empty() || !(any || of_table || near_over(self)) {
                return;
            }
            let near_first = self.near_bytes > 0 && step < limits::EVICTION_STEPS_MAX / 2;
            self.step(|row, near| match (any, of_table) {
                (true, _) => changed.is(row) || (near_first && !near),
                (false, true) => row.table != table,
                (false, false) => changed.is(row) || !near,
            });
        }
    }

    /// One step of the hand; the map must not be empty.
    fn step(&mut self, spares: impl Fn(&RowId, bool) -> bool) {
        self.hand %= self.map.len();
        let (row, entry) = self
            .map
            .get_index(self.hand)
            .expect("the hand is inside the map");
        let spared = entry.slot.pinned() || spares(row, entry.near);
        if spared || entry.visited.swap(false, Ordering::Relaxed) {
            self.hand += 1;
        } else {
            self.evictions += 1;
            self.remove(self.hand);
        }
    }
}
