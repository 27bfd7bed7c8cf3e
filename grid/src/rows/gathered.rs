//! Keyed sets under the rows' locks: how they are read at one moment, loaded, and told of what happens to rows. Does no more than lock and ask [`super::sets`].
//!
//! Lock order: shards ascending, then what passed, then a table's sets. The list of tables is locked for itself.

use super::load::{LoadWait, Moment};
use super::place::Place;
use super::sets::{Begun, Gathered, Has, SetColumns, SetIds, SetStats, Untold, Value, Whole};
use super::shard::{Slots, Watch};
use super::slot::{After, Ahead, Base, Seen};
use super::{Found, Rows, apart, shards_of};
use crate::change::RowId;
use crate::limits;
use crate::log::LogIndex;
use parking_lot::RwLockReadGuard;
use ripen_pg::ids::{Lsn, TableOid};
use ripen_pg::key::Key;
use ripen_pg::tuple::Tuple;
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

/// What became of a wish to read sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetRead<R> {
    /// They were read.
    Done(R),
    /// Rows of their table belong to the database.
    Fenced,
    /// As [`super::Read::Apart`].
    Apart,
    /// Memory does not have these: load them.
    Missing(SetIds),
    /// Rows that may be in them are not in memory: load them.
    Unknown(Vec<RowId>),
    /// There are more of them, or they have more rows, than are read at once or kept.
    TooLarge,
    /// It cannot be told now which rows are in them.
    Obscure,
}

/// What became of a wish to load sets.
#[derive(Debug)]
pub enum SetLoad {
    /// Whoever asked is to load what the ticket says. The others are known, or being loaded.
    Mine(SetTicket),
    /// They are known by now.
    Known,
    /// Others load those that are not known.
    Others(LoadWait),
    /// They cannot be kept.
    Refused,
}

/// Sets that the holder must load, and then give to [`Rows::finish_set_load`]. Dropped, it fails the load.
#[derive(Debug)]
pub struct SetTicket {
    load: u64,
    sets: SetIds,
    rows_max: usize,
    watch: Watch,
    _ended: watch::Sender<()>,
}

impl SetTicket {
    /// What to load.
    pub fn sets(&self) -> &SetIds {
        &self.sets
    }

    /// How many rows they may have together. With more, only that is to be told.
    pub fn rows_max(&self) -> usize {
        match self.sets.values.len() {
            1 => self.rows_max,
            _ => limits::SETS_ROWS_MAX,
        }
    }
}

impl Drop for SetTicket {
    fn drop(&mut self) {
        let SetIds {
            columns, values, ..
        } = &self.sets;
        self.watch.lock().end_load(columns, values, self.load);
    }
}

impl Rows {
    /// Reads the rows of sets as of one moment, each once, in no order. `own`: rows of their table that only the reader sees so. `fenced` is asked while the rows are locked, and must say yes
    /// when any row of the table is behind a fence. `followed` as in [`Rows::read`]. `read` must be quick; it is called once at most.
    pub fn read_sets<R>(
        &self,
        sets: &SetIds,
        own: &BTreeMap<Key, Option<Tuple>>,
        fenced: impl Fn() -> bool,
        followed: impl Fn() -> Lsn,
        read: impl FnOnce(&[&Tuple]) -> R,
    ) -> SetRead<R> {
        let (columns, values) = (&sets.columns, &sets.values[..]);
        if values.len() > limits::SETS_AT_ONCE_MAX {
            return SetRead::TooLarge;
        }
        let Some(watch) = self.sets_of(sets.table) else {
            return SetRead::Missing(sets.clone());
        };
        for _ in 0..limits::SET_READ_ATTEMPTS_MAX {
            let has = watch.lock().gather(columns, values, (self.clock)());
            let gathered = match has {
                Has::Sets(gathered) => gathered,
                Has::Lacks(values) => {
                    return SetRead::Missing(SetIds {
                        values,
                        ..sets.clone()
                    });
                }
                Has::TooLarge => return SetRead::TooLarge,
                Has::Obscure => return SetRead::Obscure,
            };
            let rows = named(sets.table, &gathered.candidates);
            let places: Vec<Place<'_>> = rows.iter().map(|row| self.place(row)).collect();
            let locked = self.lock_to_read(&places);
            if !watch.lock().still(columns, values, &gathered) {
                continue;
            }
            if fenced() {
                return SetRead::Fenced;
            }
            let looked = Looked {
                rows: &rows,
                places: &places,
                locked: &locked,
                gathered: &gathered,
            };
            let answer = match looked.look(sets, own, followed()) {
                Look::Told { members, seen } => {
                    let answer = read(&members);
                    if gathered.overlap || seen.iter().any(|(_, value)| value.is_none()) {
                        watch.lock().prune(columns, values, &seen);
                    }
                    SetRead::Done(answer)
                }
                Look::Apart => SetRead::Apart,
                Look::Unknown(unknown) => SetRead::Unknown(unknown),
                Look::Obscure => SetRead::Obscure,
            };
            return answer;
        }
        SetRead::Obscure
    }

    /// What is still to be loaded before a table is whole in memory. Its rows count as used.
    pub fn lacks_of_whole(&self, table: TableOid) -> SetRead<()> {
        let whole = SetIds::whole(table);
        let Some(watch) = self.sets_of(table) else {
            return SetRead::Missing(whole);
        };
        let has = watch
            .lock()
            .gather(&whole.columns, &whole.values, (self.clock)());
        let gathered = match has {
            Has::Sets(gathered) => gathered,
            Has::Lacks(_) => return SetRead::Missing(whole),
            Has::TooLarge => return SetRead::TooLarge,
            Has::Obscure => return SetRead::Obscure,
        };
        let mut unknown = named(table, &gathered.candidates);
        unknown.retain(|row| {
            let place = self.place(row);
            !self.shards[place.shard()].read().keeps(&place)
        });
        match unknown.is_empty() {
            true => SetRead::Done(()),
            false => SetRead::Unknown(unknown),
        }
    }

    /// Whether there is no such row: its table is whole in memory, and does not have it. `followed` as in [`Rows::read`]. Fences are to be asked afterwards.
    pub fn is_absent(&self, row: &RowId, followed: Lsn) -> bool {
        let watch = self.sets_of(row.table);
        watch.is_some_and(|watch| watch.lock().lacks_in_whole(&row.key, followed))
    }

    /// Whether the table is held whole, if it is not too large.
    pub fn is_resident(&self, table: TableOid) -> bool {
        self.residents.read().contains_key(&table)
    }

    /// Most rows of a set by such columns.
    fn set_rows_max(&self, table: TableOid, columns: &SetColumns) -> usize {
        let whole = columns.is_none().then(|| self.residents.read());
        let whole = whole.and_then(|residents| residents.get(&table).copied());
        whole.unwrap_or(limits::SET_ROWS_MAX)
    }

    /// Where the log changed any row of the table last, or later, since sets of it were asked for; 0 if all are as they are in Postgres.
    pub fn changed_in(&self, table: TableOid) -> LogIndex {
        let watch = self.sets_of(table);
        watch.map_or(LogIndex(0), |watch| watch.lock().logged())
    }

    fn lock_to_read(&self, places: &[Place<'_>]) -> ReadLocks<'_> {
        let shards = shards_of(places).into_iter();
        shards.map(|at| (at, self.shards[at].read())).collect()
    }

    /// Begins to load sets, unless they are known or being loaded. The statement that loads must take its snapshot after this call.
    pub fn begin_set_load(&self, sets: &SetIds) -> SetLoad {
        let watch = self.gathering(sets.table, &sets.columns);
        let load = self.loads.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, ended) = watch::channel(());
        let begun = {
            let recent = self.recent.lock();
            let passed = recent.of_table(sets.table);
            let (named, loading) = ((&sets.columns, &sets.values[..]), (load, &ended));
            let must_see = recent.must_see();
            let mut sets = watch.lock();
            // A row that is taken in later finds the load under way.
            let told = Lsn(self.lent.load(Ordering::SeqCst));
            let must_see = (must_see, told);
            sets.begin_load(named, loading, passed, must_see, (self.clock)())
        };
        match begun {
            Begun::Mine(values) => SetLoad::Mine(SetTicket {
                load,
                sets: SetIds {
                    values,
                    ..sets.clone()
                },
                rows_max: self.set_rows_max(sets.table, &sets.columns),
                watch,
                _ended: sender,
            }),
            Begun::Known => SetLoad::Known,
            Begun::Others(ended) => SetLoad::Others(LoadWait::new(ended)),
            Begun::Refused => SetLoad::Refused,
        }
    }

    /// The table's sets, with the family of these columns. The first time, all rows of the table that are in memory are looked at.
    fn gathering(&self, table: TableOid, columns: &SetColumns) -> Watch {
        let watch = self.sets.write().entry(table).or_default().clone();
        if watch.lock().wants_family(columns) {
            let _one_at_a_time = self.gathering.lock();
            let rows_max = self.set_rows_max(table, columns);
            if watch.lock().begin_family(columns, rows_max) {
                for shard in &self.shards {
                    shard.write().begin_watch(table, &watch);
                }
                watch.lock().complete(columns);
            }
        }
        watch
    }

    /// Takes in what a load found; `None`: more rows than [`SetTicket::rows_max`]. The rows are kept as if they had been loaded by their keys, unless something has happened to them since.
    /// What changed meanwhile in the sets is in them; if that cannot be told, they are not kept. `is_near`: which rows are other nodes'.
    pub fn finish_set_load(
        &self,
        ticket: SetTicket,
        moment: &Arc<Moment>,
        found: Option<Vec<(Key, Tuple)>>,
        is_near: impl Fn(&RowId) -> bool,
    ) {
        if !self.recent.lock().seen_by(ticket.load, &moment.snapshot) {
            return;
        }
        self.newest_xid
            .fetch_max(moment.snapshot.xmax.0, Ordering::Relaxed);
        let mut found = found.map(|found| self.keep_found(&ticket, moment, found, is_near));
        let (columns, mut poisoned) = (&ticket.sets.columns, 0);
        let mut sets = ticket.watch.lock();
        for value in &ticket.sets.values {
            let keys = found.as_mut();
            let keys = keys.map(|found| found.remove(value).unwrap_or_default());
            let named = (ticket.load, columns, value);
            let kept = sets.finish_load(named, moment, keys, (self.clock)());
            poisoned += u64::from(!kept);
        }
        drop(sets);
        self.poisoned.fetch_add(poisoned, Ordering::Relaxed);
        self.shed_sets();
    }

    /// Puts the rows that a load found into memory. Answers which of them are in which set.
    fn keep_found(
        &self,
        ticket: &SetTicket,
        moment: &Arc<Moment>,
        found: Vec<(Key, Tuple)>,
        is_near: impl Fn(&RowId) -> bool,
    ) -> HashMap<Key, Vec<Key>> {
        let (sets, now, followed) = (&ticket.sets, self.now(), self.followed());
        let mut keys: HashMap<Key, Vec<Key>> = HashMap::new();
        for (key, tuple) in found {
            let value = match (sets.columns.value_of(&tuple), &sets.values[..]) {
                (_, [only]) => only.clone(),
                (Value::Is(value), _) => value,
                // A row that does not say in which it is may be in any, and no reader can tell them.
                (Value::Null | Value::Missing, several) => {
                    for value in several {
                        keys.entry(value.clone()).or_default().push(key.clone());
                    }
                    continue;
                }
            };
            let (table, id) = (sets.table, key.clone());
            let row_id = RowId { table, key: id };
            let near = is_near(&row_id);
            let place = self.place(&row_id);
            let mut shard = self.shards[place.shard()].write();
            let untouched = {
                let known = ticket.watch.lock();
                let load = (ticket.load, &value);
                known.is_untouched(load, &moment.snapshot, followed, &key)
            };
            if untouched {
                let seen = Seen::Loaded(moment.clone());
                let row = Some(tuple);
                shard.put(&place, Base { row, seen }, now, near);
                ticket.watch.lock().taken(ticket.load, &key);
            }
            drop(shard);
            keys.entry(value).or_default().push(key);
        }
        keys
    }

    pub(super) fn sets_of(&self, table: TableOid) -> Option<Watch> {
        self.sets.read().get(&table).cloned()
    }

    /// Nothing that is known of any set counts any more. Before the rows themselves are changed, so that no load of before puts any back.
    pub(super) fn clear_sets(&self) {
        let sets = self.sets.read();
        sets.values().for_each(|watch| watch.lock().clear());
    }

    /// The table, or what its columns mean, is another one.
    pub(super) fn forget_sets(&self, table: TableOid) {
        if let Some(watch) = self.sets_of(table) {
            let _all: Vec<_> = self.shards.iter().map(|shard| shard.write()).collect();
            watch.lock().forget();
        }
    }

    /// Counts and sizes of all sets.
    pub fn set_stats(&self) -> SetStats {
        let mut all = SetStats::default();
        for watch in self.sets.read().values() {
            let stats = watch.lock().weigh();
            all.sets += stats.sets;
            all.candidates += stats.candidates;
            all.bytes += stats.bytes;
            all.evictions += stats.evictions;
        }
        all
    }

    /// Keeps sets to their part of the memory. Answers what they take.
    pub(super) fn shed_sets(&self) -> u64 {
        let bytes = self.set_stats().bytes;
        let most = self.bytes_max.load(Ordering::Relaxed) / limits::SET_MEMORY_PART;
        if bytes <= most {
            return bytes;
        }
        for watch in self.sets.read().values() {
            let mut sets = watch.lock();
            let part = (bytes - most) as f64 / bytes as f64;
            let own = sets.weigh().bytes;
            sets.shed((own as f64 * part).ceil() as u64);
        }
        most
    }
}

/// Nothing is known any more of a row that may be another one by now, and nothing lies on it.
pub(super) fn stray(shard: &Slots, place: &Place<'_>, row: &RowId) {
    let Some(watch) = shard.watch(row.table) else {
        return;
    };
    let slot = shard.slot(place);
    if slot.is_none_or(|slot| slot.image().is_none() && slot.layers().is_empty()) {
        watch.lock().stray(&row.key);
    }
}

/// The stream has told of a row. Where memory knows it, its slot has told the sets already.
pub(super) fn told(shard: &Slots, place: &Place<'_>, row: &RowId, after: &After) {
    let slot = shard.slot(place);
    if let Some(watch) = shard.watch(row.table)
        && slot.is_none_or(|slot| slot.image().is_none())
    {
        watch.lock().told(&row.key, after);
    }
}

pub(super) type ReadLocks<'a> = SmallVec<[(usize, RwLockReadGuard<'a, Slots>); 8]>;

/// Tables whose rows grow too old have no sets.
const NO_AGE: fn() -> super::age::Tick = super::age::Tick::default;

/// Candidates under their locks.
pub(super) struct Looked<'a, 'l> {
    pub rows: &'a [RowId],
    pub places: &'a [Place<'a>],
    pub locked: &'a ReadLocks<'l>,
    pub gathered: &'a Gathered,
}

pub(super) enum Look<'a> {
    Told {
        members: Vec<&'a Tuple>,
        /// Which of the values everybody sees in each candidate, if any.
        seen: Vec<(&'a Key, Option<&'a Key>)>,
    },
    Apart,
    Unknown(Vec<RowId>),
    /// A row does not say which value it has.
    Obscure,
}

impl<'a> Looked<'a, '_> {
    fn shard(&self, place: &Place<'_>) -> &'a Slots {
        let at = self
            .locked
            .binary_search_by_key(&place.shard(), |(at, _)| *at)
            .expect("all shards concerned are locked");
        &self.locked[at].1
    }

    /// What the sets and their candidates may contain, see [`apart`].
    pub fn ahead(&self, followed: Lsn) -> impl Iterator<Item = Option<Ahead<'a>>> {
        let ahead = self.places.iter();
        let ahead = ahead.map(|place| self.shard(place).ahead(place, NO_AGE));
        let moments = self.gathered.moments.iter();
        let lacks = move |whole: &&Whole| whole.told > followed;
        let untold = moments
            .clone()
            .filter(lacks)
            .map(|whole| Ahead::Told(whole.told));
        let of_sets = moments.map(|whole| Ahead::Loaded(&whole.moment));
        of_sets.chain(untold).map(Some).chain(ahead)
    }

    pub fn look(
        &self,
        sets: &'a SetIds,
        own: &'a BTreeMap<Key, Option<Tuple>>,
        followed: Lsn,
    ) -> Look<'a> {
        if apart(self.ahead(followed), followed) {
            return Look::Apart;
        }
        let (mut members, mut unknown) = (Vec::new(), Vec::new());
        let mut seen = Vec::with_capacity(self.rows.len());
        for (row, place) in self.rows.iter().zip(self.places) {
            if own.contains_key(&row.key) {
                continue;
            }
            let value = match self.shard(place).find(place, NO_AGE) {
                Found::Unknown => {
                    unknown.push(row.clone());
                    continue;
                }
                Found::Absent => None,
                Found::Row(tuple) => {
                    let Ok(value) = sets.value_of(tuple) else {
                        return Look::Obscure;
                    };
                    members.extend(value.map(|_| tuple));
                    value
                }
            };
            seen.push((&row.key, value));
        }
        for tuple in own.values().flatten() {
            match sets.value_of(tuple) {
                Ok(value) => members.extend(value.map(|_| tuple)),
                Err(Untold) => return Look::Obscure,
            }
        }
        match unknown.is_empty() {
            true => Look::Told { members, seen },
            false => Look::Unknown(unknown),
        }
    }
}

pub(super) fn named(table: TableOid, keys: &[Key]) -> Vec<RowId> {
    let row = |key: &Key| RowId {
        table,
        key: key.clone(),
    };
    keys.iter().map(row).collect()
}
