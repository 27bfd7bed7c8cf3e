//! Which rows of a table have a value in some of its columns: the *candidates* of each set that somebody asked for. Decides; holds no row, `gathered.rs` locks.
//!
//! A set is never taken for more than it is: whoever reads it looks at the image of each candidate and leaves out those that have another value. So it may hold too many keys, never too few:
//! - what the load found, and what was told or changed since the load began, is in it, whatever the load's snapshot saw;
//! - a row with a change on its way has its value in [`Family::layered`] for sets that are loaded later, since Postgres does not show it yet;
//! - a row that is not known any more, and may have any value, is a candidate of every set until it is known again: a *stray*, or *blind* if a change lies on it.
//!
//! Evicted rows stay candidates. What has become another row altogether (a table emptied, a stream lost) ends the table's sets and spoils their loads.
//!
//! In a cluster each node keeps sets of its own: it hears all of the log and of the stream. What a row that another node has lent was told of earlier than this node, a load may not see yet: the
//! set is not told before this node's stream has come as far ([`Whole::told`]).
//!
//! The set by no columns is the whole table.

use super::load::Moment;
use super::passed::MustSee;
use super::slot::{After, Slot, WalEvent};
use crate::hashing::Seeded;
use crate::limits;
use crate::log::LogIndex;
use indexmap::IndexMap;
use ripen_pg::ids::{Lsn, Snapshot, TableOid, TypeOid};
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};
use ripen_pg::value;
use smallvec::SmallVec;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::watch;

/// The columns by which rows are gathered: positions, ascending, and the types of their canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetColumns(Arc<[(usize, TypeOid)]>);

/// What a row has in such columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A value that may be asked for.
    Is(Key),
    /// NULL in one of them: equal to nothing.
    Null,
    /// Not known here.
    Missing,
}

impl SetColumns {
    /// Columns by position, ascending, with the types that [`value::key`] is to use.
    pub fn new(columns: impl IntoIterator<Item = (usize, TypeOid)>) -> SetColumns {
        SetColumns(columns.into_iter().collect())
    }

    /// None: all rows are in one set, whose value is the empty key.
    pub fn none() -> SetColumns {
        SetColumns::new([])
    }

    /// Whether a set by them is the whole table.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Their positions.
    pub fn positions(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|(position, _)| *position)
    }

    /// What the row has there.
    pub fn value_of(&self, row: &Tuple) -> Value {
        let (mut key, mut null) = (Key::new(), false);
        for (position, type_oid) in self.0.iter() {
            match row.get(*position) {
                Datum::Null => null = true,
                Datum::Missing => return Value::Missing,
                Datum::Value(bytes) => match value::key::append(*type_oid, bytes, &mut key) {
                    Ok(()) => {}
                    Err(value::key::NotKeyable) => return Value::Missing,
                },
            }
        }
        if null { Value::Null } else { Value::Is(key) }
    }
}

/// Names sets of one table by the same columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetIds {
    /// Of which table.
    pub table: TableOid,
    /// By which columns.
    pub columns: SetColumns,
    /// Their values, in canonical form, ascending, each once.
    pub values: Vec<Key>,
}

impl SetIds {
    /// Names the sets with these values.
    pub fn new(table: TableOid, columns: SetColumns, mut values: Vec<Key>) -> SetIds {
        values.sort_unstable();
        values.dedup();
        SetIds {
            table,
            columns,
            values,
        }
    }

    /// Names the whole table.
    pub fn whole(table: TableOid) -> SetIds {
        SetIds::new(table, SetColumns::none(), vec![Key::new()])
    }

    /// The value of the row, if one of these sets has it; `Err`: the row does not say.
    pub fn value_of(&self, row: &Tuple) -> Result<Option<&Key>, Untold> {
        match self.columns.value_of(row) {
            Value::Is(value) => Ok(self
                .values
                .binary_search(&value)
                .ok()
                .map(|at| &self.values[at])),
            Value::Null => Ok(None),
            Value::Missing => Err(Untold),
        }
    }
}

/// A row does not say which value it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untold;

/// What a slot says of its row, as far as sets go.
#[derive(Debug, Default)]
pub struct Standing {
    layered: bool,
    /// By family; `None`: the row's image is not known. Of an absent row all are NULL.
    values: Option<SmallVec<[Value; 2]>>,
}

impl Standing {
    /// The values, if all of them are known.
    fn judged(&self) -> Option<&[Value]> {
        let values = self.values.as_deref();
        values.filter(|values| !values.contains(&Value::Missing))
    }
}

/// Sets that are being loaded by one statement.
#[derive(Debug)]
struct Loading {
    load: u64,
    columns: SetColumns,
    ended: watch::Receiver<()>,
    must_see: Arc<MustSee>,
    /// Up to where other nodes have told of rows before this one's stream did.
    told: Lsn,
    /// Rows that changed, or of which was told, since before the load's snapshot: what it found of them may be old.
    touched: HashSet<Key>,
    crowded: bool,
}

/// As of when a set is whole.
#[derive(Clone, Debug)]
pub struct Whole {
    /// When it was loaded.
    pub moment: Arc<Moment>,
    /// Up to where rows may have shown what the load did not see: until this node's stream has told it, the set lacks it.
    pub told: Lsn,
}

#[derive(Debug)]
enum State {
    /// By this load.
    Loading(u64),
    /// Since then.
    Ready(Whole),
    /// Seen to be above the bound, at this time of the clock.
    TooLarge(u64),
}

#[derive(Debug)]
struct Set {
    candidates: BTreeSet<Key>,
    state: State,
    /// Another one after each change of the candidates.
    version: u64,
    visited: bool,
}

/// The sets by the same columns.
#[derive(Debug)]
struct Family {
    columns: SetColumns,
    /// Most rows of one of its sets.
    rows_max: usize,
    /// Whether all shards have told which rows have changes on them.
    complete: bool,
    /// Value and key of each row whose image is known and has changes on it.
    layered: BTreeSet<(Key, Key)>,
    sets: IndexMap<Key, Set, Seeded>,
    /// What the sets weigh together.
    bytes: usize,
    /// How many candidates they have together.
    candidates: usize,
    hand: usize,
}

/// What a reader is given of sets.
#[derive(Debug)]
pub struct Gathered {
    /// All that may be in any of them, ascending, each once.
    pub candidates: Vec<Key>,
    /// As of when each of them is whole.
    pub moments: Vec<Whole>,
    /// Some row is a candidate of several of them.
    pub overlap: bool,
    versions: Vec<u64>,
    everywhere: u64,
}

/// What memory has of sets.
#[derive(Debug)]
pub enum Has {
    /// All of them.
    Sets(Gathered),
    /// Not these.
    Lacks(Vec<Key>),
    /// One is above the bound, or all together are.
    TooLarge,
    /// Too many rows of the table may have any value.
    Obscure,
}

/// What became of a wish to load sets.
#[derive(Debug)]
pub enum Begun {
    /// The asker loads these. The others are known, or being loaded.
    Mine(Vec<Key>),
    /// They are there, or known to be too large.
    Known,
    /// Others load those that are not known.
    Others(Vec<watch::Receiver<()>>),
    /// There are too many ways already by which the table's rows are gathered.
    Refused,
}

/// The sets of a table. See the module.
#[derive(Debug, Default)]
pub struct Sets {
    families: Vec<Family>,
    /// Those that are not over. One whose set is gone, or somebody else's, is spoilt.
    loads: Vec<Loading>,
    strays: BTreeSet<Key>,
    blind: BTreeSet<Key>,
    /// Counts changes: of sets, and of what is a candidate everywhere.
    changes: u64,
    everywhere: u64,
    evictions: u64,
    /// Where the log changed a row of the table last, or later.
    logged: LogIndex,
}

impl Sets {
    fn family(&mut self, columns: &SetColumns) -> Option<&mut Family> {
        let mut families = self.families.iter_mut();
        families.find(|family| family.columns == *columns)
    }

    /// Whether a family is to be made before such sets can be loaded.
    pub fn wants_family(&mut self, columns: &SetColumns) -> bool {
        self.family(columns).is_none_or(|family| !family.complete)
    }

    /// The log has changed a row of the table, or has taken such a change back.
    pub fn note_logged(&mut self, index: LogIndex) {
        self.logged = self.logged.max(index);
    }

    /// Where the log changed a row of the table last, or later, of all that rests on more than Postgres.
    pub fn logged(&self) -> LogIndex {
        self.logged
    }

    /// A new family, unless there is one, whose sets have so many rows at most. False: it is complete, or cannot be made. Then [`Sets::add_layered`] is to be called for all rows, and
    /// [`Sets::complete`].
    pub fn begin_family(&mut self, columns: &SetColumns, rows_max: usize) -> bool {
        if let Some(family) = self.family(columns) {
            return !family.complete;
        }
        let room = self.families.len() < limits::SET_FAMILIES_MAX;
        if room {
            self.families.push(Family {
                columns: columns.clone(),
                rows_max,
                complete: false,
                layered: BTreeSet::new(),
                sets: IndexMap::default(),
                bytes: 0,
                candidates: 0,
                hand: 0,
            });
        }
        room
    }

    /// Takes note of a row that is in memory while the family is made. Also what changed since may be told so.
    pub fn add_layered(&mut self, key: &Key, slot: &Slot) {
        self.note_logged(slot.changed());
        if slot.layers().is_empty() {
            return;
        }
        let standing = self.standing(slot);
        self.enter(key, &standing);
    }

    /// All shards have told.
    pub fn complete(&mut self, columns: &SetColumns) {
        if let Some(family) = self.family(columns) {
            family.complete = true;
        }
    }

    /// What is to be told to [`Sets::changed`] after the slot has changed.
    pub fn standing(&self, slot: &Slot) -> Standing {
        let value = |row: Option<&Tuple>, family: &Family| match row {
            Some(row) => family.columns.value_of(row),
            None => Value::Null,
        };
        let values = slot.image().map(|row| {
            let families = self.families.iter();
            families.map(|family| value(row, family)).collect()
        });
        Standing {
            layered: !slot.layers().is_empty(),
            values,
        }
    }

    /// A slot has changed, or was made. To be called under its shard's lock.
    pub fn changed(&mut self, key: &Key, before: &Standing, slot: &Slot) {
        self.touch(key);
        self.note_logged(slot.changed());
        self.leave(key, before);
        let after = self.standing(slot);
        self.enter(key, &after);
        let known_before = before.values.is_some() || before.layered;
        match &after.values {
            Some(values) => {
                self.strays.remove(key);
                self.add(key, values);
            }
            None if known_before && !after.layered => self.stray(key),
            None => {}
        }
    }

    /// The row may be any now, and nothing of it is in memory.
    pub fn stray(&mut self, key: &Key) {
        self.touch(key);
        // Loads that begin from now on see what it is.
        let asked = self.families.iter().any(|family| !family.sets.is_empty());
        if !asked || !self.strays.insert(key.clone()) {
            return;
        }
        self.everywhere += 1;
        if self.strays.len() > limits::SET_STRAYS_MAX {
            self.clear();
        }
    }

    /// The stream has told of a row whose image is not known here.
    pub fn told(&mut self, key: &Key, after: &After) {
        self.touch(key);
        match after {
            After::Absent => {}
            After::Unknown => self.stray(key),
            After::Row(row) => {
                let families = self.families.iter();
                let mut values: SmallVec<[Value; 2]> = families
                    .map(|family| family.columns.value_of(row))
                    .collect();
                // Not repeated in the WAL: it is what it was.
                let missing = values.iter_mut().filter(|value| **value == Value::Missing);
                if missing.fold(false, |_, value| {
                    *value = Value::Null;
                    true
                }) {
                    self.stray(key);
                }
                self.add(key, &values);
            }
        }
    }

    /// Every row of the table may be another one: what is in memory of sets tells nothing, nor do loads under way.
    pub fn clear(&mut self) {
        self.families.iter_mut().for_each(Family::clear);
        self.strays.clear();
        self.everywhere += 1;
    }

    /// The table is another one, and its columns may be. To be called under the locks of all shards: who changes a slot counts families before and after.
    pub fn forget(&mut self) {
        self.clear();
        self.families.clear();
    }

    fn touch(&mut self, key: &Key) {
        self.loads.iter_mut().for_each(|loading| loading.touch(key));
    }

    fn leave(&mut self, key: &Key, standing: &Standing) {
        match standing.judged() {
            _ if !standing.layered => {}
            None => {
                self.blind.remove(key);
            }
            Some(values) => {
                for (family, value) in self.families.iter_mut().zip(values) {
                    if let Value::Is(value) = value {
                        family.layered.remove(&(value.clone(), key.clone()));
                    }
                }
            }
        }
    }

    fn enter(&mut self, key: &Key, standing: &Standing) {
        match standing.judged() {
            _ if !standing.layered => {}
            None => {
                self.everywhere += u64::from(self.blind.insert(key.clone()));
            }
            Some(values) => {
                for (family, value) in self.families.iter_mut().zip(values) {
                    if let Value::Is(value) = value {
                        family.layered.insert((value.clone(), key.clone()));
                    }
                }
            }
        }
    }

    fn add(&mut self, key: &Key, values: &[Value]) {
        for (family, value) in self.families.iter_mut().zip(values) {
            self.changes += 1;
            match value {
                Value::Is(value) => family.add(value, key, self.changes),
                Value::Null => {}
                // A row that no reader can judge: none of these sets can be told.
                Value::Missing => family.clear(),
            }
        }
    }

    /// What memory has of these sets at that time of the clock.
    pub fn gather(&mut self, columns: &SetColumns, values: &[Key], now_ms: u64) -> Has {
        if self.blind.len() > limits::SET_BLIND_MAX {
            return Has::Obscure;
        }
        let (mut candidates, mut lacks) = (Vec::new(), Vec::new());
        let (mut moments, mut versions) = (Vec::new(), Vec::new());
        for value in values {
            let Some(set) = self.set(columns, value, now_ms) else {
                lacks.push(value.clone());
                continue;
            };
            set.visited = true;
            match &set.state {
                State::Loading(_) => lacks.push(value.clone()),
                State::TooLarge(_) => return Has::TooLarge,
                State::Ready(whole) => {
                    moments.push(whole.clone());
                    versions.push(set.version);
                    candidates.extend(set.candidates.iter().cloned());
                }
            }
            if !columns.is_none() && candidates.len() > limits::SETS_ROWS_MAX {
                return Has::TooLarge;
            }
        }
        if !lacks.is_empty() {
            return Has::Lacks(lacks);
        }
        let listed = candidates.len();
        if values.len() > 1 {
            candidates.sort_unstable();
            candidates.dedup();
        }
        let overlap = candidates.len() < listed;
        if !self.strays.is_empty() || !self.blind.is_empty() {
            candidates.extend(self.strays.iter().chain(&self.blind).cloned());
            candidates.sort_unstable();
            candidates.dedup();
        }
        Has::Sets(Gathered {
            candidates,
            moments,
            overlap,
            versions,
            everywhere: self.everywhere,
        })
    }

    fn set(&mut self, columns: &SetColumns, value: &Key, now_ms: u64) -> Option<&mut Set> {
        let family = self.family(columns)?;
        if let Some(set) = family.sets.get(value)
            && let State::TooLarge(since_ms) = set.state
            && now_ms.saturating_sub(since_ms) >= limits::SET_TOO_LARGE_PAUSE_MS
        {
            family.remove(value);
        }
        family.sets.get_mut(value)
    }

    /// Whether nothing has been added since, and the sets still stand. To be asked when the candidates are locked.
    pub fn still(&mut self, columns: &SetColumns, values: &[Key], gathered: &Gathered) -> bool {
        if self.everywhere != gathered.everywhere {
            return false;
        }
        let Some(family) = self.family(columns) else {
            return false;
        };
        let versions = values.iter().map(|value| family.sets.get(value));
        let versions = versions.map(|set| set.map(|set| set.version));
        versions.eq(gathered.versions.iter().copied().map(Some))
    }

    /// Whether the whole table is known, and has no row with that key. `followed`: up to where the stream has told everything.
    pub fn lacks_in_whole(&mut self, key: &Key, followed: Lsn) -> bool {
        if self.strays.contains(key) || self.blind.contains(key) {
            return false;
        }
        let set = self.family(&SetColumns::none());
        let set = set.and_then(|family| family.sets.get(&Key::new()));
        set.is_some_and(|set| {
            let whole = matches!(&set.state, State::Ready(whole) if whole.told <= followed);
            whole && !set.candidates.contains(key)
        })
    }

    /// Takes out of each of these sets the candidates that were seen to have another value (`None`: none of these), by a reader that still has them locked and has told what it read.
    pub fn prune(&mut self, columns: &SetColumns, values: &[Key], seen: &[(&Key, Option<&Key>)]) {
        let Some(family) = self.family(columns) else {
            return;
        };
        let seen: HashMap<&Key, Option<&Key>> = seen.iter().copied().collect();
        for value in values {
            family.weighing(value, |set| {
                set.candidates
                    .retain(|key| seen.get(key).is_none_or(|has| *has == Some(value)));
            });
        }
    }

    /// Begins a load, whose statement must take its snapshot afterwards. `passed`: what went by in the WAL and may not be visible to it. `told`: up to where other nodes have told of rows.
    pub fn begin_load<'a>(
        &mut self,
        (columns, values): (&SetColumns, &[Key]),
        (load, ended): (u64, &watch::Receiver<()>),
        passed: impl Iterator<Item = (&'a Key, &'a WalEvent)>,
        (must_see, told): (Arc<MustSee>, Lsn),
        now_ms: u64,
    ) -> Begun {
        let (mut mine, mut others) = (Vec::new(), BTreeSet::new());
        for value in values {
            match self.set(columns, value, now_ms).map(|set| &set.state) {
                None => mine.push(value.clone()),
                Some(State::Ready(_) | State::TooLarge(_)) => {}
                Some(State::Loading(load)) => {
                    others.insert(*load);
                }
            }
        }
        if mine.is_empty() && others.is_empty() {
            return Begun::Known;
        }
        if mine.is_empty() {
            let loads = self.loads.iter();
            let loads = loads.filter(|loading| others.contains(&loading.load));
            return Begun::Others(loads.map(|loading| loading.ended.clone()).collect());
        }
        self.changes += 1;
        let version = self.changes;
        let Some(family) = self.family(columns).filter(|family| family.complete) else {
            return Begun::Refused;
        };
        for value in &mine {
            let set = Set {
                candidates: family.layered_with(value),
                state: State::Loading(load),
                version,
                visited: true,
            };
            family.insert(value, set);
        }
        self.loads.push(Loading {
            load,
            columns: columns.clone(),
            ended: ended.clone(),
            must_see,
            told,
            touched: HashSet::new(),
            crowded: false,
        });
        passed.for_each(|(key, event)| self.told(key, &event.after));
        Begun::Mine(mine)
    }

    /// Whether what the load found of a row with that value is what memory would have, had it loaded the row: nothing is known of it that may be newer. `followed`: up to where the stream has
    /// told everything.
    pub fn is_untouched(
        &self,
        (load, value): (u64, &Key),
        snapshot: &Snapshot,
        followed: Lsn,
        key: &Key,
    ) -> bool {
        let loading = self.loading(load, value);
        loading.is_some_and(|loading| {
            !loading.crowded
                && !loading.touched.contains(key)
                && loading.told <= followed
                && loading.must_see.seen_by(snapshot)
        })
    }

    /// Memory has taken the row from the load: it was that which has changed it.
    pub fn taken(&mut self, load: u64, key: &Key) {
        let mut loads = self.loads.iter_mut();
        if let Some(loading) = loads.find(|loading| loading.load == load) {
            loading.touched.remove(key);
        }
    }

    /// The load of that set, unless it is over or spoilt.
    fn loading(&self, load: u64, value: &Key) -> Option<&Loading> {
        let loading = self.loads.iter().find(|loading| loading.load == load)?;
        let mut families = self.families.iter();
        let family = families.find(|family| family.columns == loading.columns)?;
        let set = family.sets.get(value)?;
        matches!(set.state, State::Loading(by) if by == load).then_some(loading)
    }

    /// The load has found these of one of its sets (`None`: too many). Answers whether that is kept.
    pub fn finish_load(
        &mut self,
        (load, columns, value): (u64, &SetColumns, &Key),
        moment: &Arc<Moment>,
        found: Option<Vec<Key>>,
        now_ms: u64,
    ) -> bool {
        let Some(loading) = self.loading(load, value) else {
            return false;
        };
        let whole = loading.must_see.seen_by(&moment.snapshot);
        let state = State::Ready(Whole {
            moment: moment.clone(),
            told: loading.told,
        });
        self.changes += 1;
        let version = self.changes;
        let family = self.family(columns).expect("it was just found");
        let found = found.filter(|found| found.len() <= family.rows_max);
        family.weighing(value, |set| {
            set.version = version;
            match found {
                None => {
                    set.candidates.clear();
                    set.state = State::TooLarge(now_ms);
                }
                Some(found) => {
                    set.candidates.extend(found);
                    set.state = state;
                }
            }
        });
        if !whole {
            family.remove(value);
        }
        whole
    }

    /// The load is over; those of its sets that were not finished have failed.
    pub fn end_load(&mut self, columns: &SetColumns, values: &[Key], load: u64) {
        let unfinished = values.iter();
        let unfinished: Vec<&Key> = unfinished
            .filter(|value| self.loading(load, value).is_some())
            .collect();
        if let Some(family) = self.family(columns) {
            unfinished
                .into_iter()
                .for_each(|value| family.remove(value));
        }
        self.loads.retain(|loading| loading.load != load);
    }

    /// Sets in memory, bytes of them, and how many were given up for others.
    pub fn weigh(&self) -> SetStats {
        let mut stats = SetStats {
            evictions: self.evictions,
            ..SetStats::default()
        };
        for family in &self.families {
            let layered = family.layered.len() * 2 * limits::SET_MEMBER_BYTES;
            stats.sets += family.sets.len() as u64;
            stats.candidates += family.candidates as u64;
            stats.bytes += (family.bytes + layered) as u64;
        }
        stats
    }

    /// Gives up sets until so many bytes are free, those that were not read lately first. Loads under way stay.
    pub fn shed(&mut self, mut bytes: u64) {
        for family in &mut self.families {
            let mut steps = 2 * family.sets.len();
            while bytes > 0 && steps > 0 && !family.sets.is_empty() {
                steps -= 1;
                if let Some(freed) = family.step() {
                    bytes = bytes.saturating_sub(freed);
                    self.evictions += 1;
                }
            }
        }
    }
}

/// Counts and sizes of sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetStats {
    /// Sets in memory.
    pub sets: u64,
    /// Rows that may be in them, a row counted once for each set.
    pub candidates: u64,
    /// Bytes that they take beside their rows.
    pub bytes: u64,
    /// Sets given up for others.
    pub evictions: u64,
}

impl Family {
    fn add(&mut self, value: &Key, key: &Key, version: u64) {
        let Some(set) = self.sets.get_mut(value) else {
            return;
        };
        if matches!(set.state, State::TooLarge(_)) || !set.candidates.insert(key.clone()) {
            return;
        }
        set.version = version;
        self.bytes += weight(key);
        self.candidates += 1;
        if set.candidates.len() > limits::SET_CANDIDATES_FACTOR * self.rows_max {
            self.remove(value);
        }
    }

    fn insert(&mut self, value: &Key, set: Set) {
        self.bytes += set.weight(value);
        self.candidates += set.candidates.len();
        self.sets.insert(value.clone(), set);
    }

    fn clear(&mut self) {
        self.sets.clear();
        self.bytes = 0;
        self.candidates = 0;
    }

    fn remove(&mut self, value: &Key) {
        if let Some(set) = self.sets.swap_remove(value) {
            self.bytes -= set.weight(value);
            self.candidates -= set.candidates.len();
        }
    }

    fn weighing(&mut self, value: &Key, change: impl FnOnce(&mut Set)) {
        if let Some(set) = self.sets.get_mut(value) {
            self.bytes -= set.weight(value);
            self.candidates -= set.candidates.len();
            change(set);
            self.bytes += set.weight(value);
            self.candidates += set.candidates.len();
        }
    }

    fn layered_with(&self, value: &Key) -> BTreeSet<Key> {
        let from = (value.clone(), Key::new());
        let of_value = self.layered.range(from..);
        let of_value = of_value.take_while(|(known, _)| known == value);
        of_value.map(|(_, key)| key.clone()).collect()
    }

    /// One step of CLOCK; there must be a set. Answers how many bytes are free by it.
    fn step(&mut self) -> Option<u64> {
        self.hand %= self.sets.len();
        let (value, set) = self.sets.get_index_mut(self.hand)?;
        let loading = matches!(set.state, State::Loading(_));
        if loading || std::mem::take(&mut set.visited) {
            self.hand += 1;
            return None;
        }
        let (value, bytes) = (value.clone(), set.weight(value));
        self.remove(&value);
        Some(bytes as u64)
    }
}

impl Set {
    fn weight(&self, value: &Key) -> usize {
        let own = limits::SET_OVERHEAD_BYTES + value.heap_weight();
        own + self.candidates.iter().map(weight).sum::<usize>()
    }
}

fn weight(candidate: &Key) -> usize {
    limits::SET_MEMBER_BYTES + candidate.heap_weight()
}

impl Loading {
    fn touch(&mut self, key: &Key) {
        if self.touched.len() >= limits::SET_TOUCHED_MAX {
            self.crowded = true;
        } else {
            self.touched.insert(key.clone());
        }
    }
}

#[cfg(test)]
mod tests;
