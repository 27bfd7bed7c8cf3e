//! Rows read together with those that they refer to, in other tables or in their own, all at one moment. Does no more than lock and look; what refers to what, the caller says.
//!
//! Which rows are referred to is known only when those before are seen. So whoever meets a row in a shard that is not locked lets go of all, and locks that one, too: shards are always locked
//! ascending, and everything is looked at anew under the locks that stand. Each round locks one more, so it ends.

use super::age::Tick;
use super::gathered::{Look, Looked, ReadLocks, named};
use super::place::Place;
use super::sets::{Has, SetIds};
use super::shard::Slots;
use super::slot::Ahead;
use super::{Found, Rows, SetRead, apart, shards_of};
use crate::change::RowId;
use crate::limits;
use ripen_pg::ids::Lsn;
use ripen_pg::key::Key;
use ripen_pg::tuple::Tuple;
use smallvec::SmallVec;
use std::cell::OnceCell;
use std::collections::BTreeMap;

/// The rows that the others are joined to.
pub enum First<'a> {
    /// These; those that do not exist are left out.
    Rows(&'a [RowId]),
    /// Those of sets.
    Sets {
        /// Which.
        sets: &'a SetIds,
        /// Rows of their table that only the reader sees so.
        own: &'a BTreeMap<Key, Option<Tuple>>,
        /// As in [`Rows::read_sets`]: whether any row of the table is behind a fence.
        fenced: &'a dyn Fn() -> bool,
    },
}

/// What stands beside a row.
pub struct Along<'a, R, O> {
    /// Step by step: whether a row that refers to none there is left out. Else nothing stands there.
    pub needed: &'a [bool],
    /// To which row one refers at a step, given what stands beside it so far. `None`: to none.
    pub referred: R,
    /// What only the reader sees of a row.
    pub own: O,
}

/// Rows that were read, and which rows that rests on.
pub type Joined<R> = (R, Vec<RowId>);

type Shards = SmallVec<[usize; 8]>;

impl Rows {
    /// Reads rows, and beside each those that it refers to, as of one moment. `fenced` and `followed` as in [`Rows::read`], the first for each row. `read` gets the rows, and for each of them as many
    /// beside it as there are steps; it must be quick, and is called once at most.
    ///
    /// # Errors
    /// What `referred` or `read` says.
    pub fn read_joined<'o, R, E>(
        &self,
        first: &First<'_>,
        along: &Along<
            '_,
            impl Fn(usize, &Tuple, &[Option<&Tuple>]) -> Result<Option<RowId>, E>,
            impl Fn(&RowId) -> Option<Option<&'o Tuple>>,
        >,
        fenced: impl Fn(&RowId) -> bool,
        followed: impl Fn() -> Lsn,
        read: impl FnOnce(&[&Tuple], &[Option<&Tuple>]) -> Result<R, E>,
    ) -> Result<SetRead<Joined<R>>, E> {
        match first {
            First::Rows(rows) => self.join_rows(rows, along, &fenced, &followed, read),
            First::Sets {
                sets,
                own,
                fenced: any_fenced,
            } => {
                let fences = (*any_fenced, &fenced);
                self.join_sets((sets, own), along, fences, &followed, read)
            }
        }
    }

    fn join_rows<'o, R, E>(
        &self,
        rows: &[RowId],
        along: &Along<
            '_,
            impl Fn(usize, &Tuple, &[Option<&Tuple>]) -> Result<Option<RowId>, E>,
            impl Fn(&RowId) -> Option<Option<&'o Tuple>>,
        >,
        fenced: &impl Fn(&RowId) -> bool,
        followed: &impl Fn() -> Lsn,
        read: impl FnOnce(&[&Tuple], &[Option<&Tuple>]) -> Result<R, E>,
    ) -> Result<SetRead<Joined<R>>, E> {
        let places: SmallVec<[Place<'_>; 8]> = rows.iter().map(|row| self.place(row)).collect();
        let mut shards = shards_of(&places);
        loop {
            let locked = self.lock_shards(&shards);
            let mut walk = Walk::new(self, &locked);
            let mut firsts = Vec::with_capacity(rows.len());
            for row in rows {
                if let Met::Row(tuple) = walk.meet(row.clone(), (along.own)(row)) {
                    firsts.push(tuple);
                }
            }
            let paths = walk.follow(firsts, along)?;
            if walk.wants_locks(&mut shards) {
                continue;
            }
            return match walk.judge([].into_iter(), fenced, followed) {
                None => Ok(SetRead::Done(walk.tell(&paths, read)?)),
                Some(otherwise) => Ok(otherwise),
            };
        }
    }

    fn join_sets<'o, R, E>(
        &self,
        (sets, own): (&SetIds, &BTreeMap<Key, Option<Tuple>>),
        along: &Along<
            '_,
            impl Fn(usize, &Tuple, &[Option<&Tuple>]) -> Result<Option<RowId>, E>,
            impl Fn(&RowId) -> Option<Option<&'o Tuple>>,
        >,
        (any_fenced, fenced): (&dyn Fn() -> bool, &impl Fn(&RowId) -> bool),
        followed: &impl Fn() -> Lsn,
        read: impl FnOnce(&[&Tuple], &[Option<&Tuple>]) -> Result<R, E>,
    ) -> Result<SetRead<Joined<R>>, E> {
        let (columns, values) = (&sets.columns, &sets.values[..]);
        if values.len() > limits::SETS_AT_ONCE_MAX {
            return Ok(SetRead::TooLarge);
        }
        let Some(watch) = self.sets_of(sets.table) else {
            return Ok(SetRead::Missing(sets.clone()));
        };
        let (mut changed, mut beyond) = (0, Shards::new());
        while changed < limits::SET_READ_ATTEMPTS_MAX {
            let has = watch.lock().gather(columns, values, (self.clock)());
            let gathered = match has {
                Has::Sets(gathered) => gathered,
                Has::Lacks(values) => {
                    return Ok(SetRead::Missing(SetIds {
                        values,
                        ..sets.clone()
                    }));
                }
                Has::TooLarge => return Ok(SetRead::TooLarge),
                Has::Obscure => return Ok(SetRead::Obscure),
            };
            let rows = named(sets.table, &gathered.candidates);
            let places: Vec<Place<'_>> = rows.iter().map(|row| self.place(row)).collect();
            let mut shards = shards_of(&places);
            shards.extend(beyond.iter().copied());
            ascend(&mut shards);
            let locked = self.lock_shards(&shards);
            if !watch.lock().still(columns, values, &gathered) {
                changed += 1;
                continue;
            }
            if any_fenced() {
                return Ok(SetRead::Fenced);
            }
            let looked = Looked {
                rows: &rows,
                places: &places,
                locked: &locked,
                gathered: &gathered,
            };
            let (members, seen) = match looked.look(sets, own, followed()) {
                Look::Told { members, seen } => (members, seen),
                Look::Apart => return Ok(SetRead::Apart),
                Look::Unknown(unknown) => return Ok(SetRead::Unknown(unknown)),
                Look::Obscure => return Ok(SetRead::Obscure),
            };
            let mut walk = Walk::new(self, &locked);
            let paths = walk.follow(members, along)?;
            if walk.wants_locks(&mut beyond) {
                continue;
            }
            if let Some(otherwise) = walk.judge(looked.ahead(followed()), fenced, followed) {
                return Ok(otherwise);
            }
            if gathered.overlap || seen.iter().any(|(_, value)| value.is_none()) {
                watch.lock().prune(columns, values, &seen);
            }
            let (answer, mut all) = walk.tell(&paths, read)?;
            all.extend(rows.iter().cloned());
            return Ok(SetRead::Done((answer, all)));
        }
        Ok(SetRead::Obscure)
    }

    fn lock_shards(&self, shards: &[usize]) -> ReadLocks<'_> {
        let shards = shards.iter();
        shards.map(|at| (*at, self.shards[*at].read())).collect()
    }
}

fn ascend(shards: &mut Shards) {
    shards.sort_unstable();
    shards.dedup();
}

/// Rows, each with those beside it.
#[derive(Default)]
struct Paths<'a> {
    firsts: Vec<&'a Tuple>,
    beside: Vec<Option<&'a Tuple>>,
}

/// What is met at a place.
enum Met<'a> {
    Row(&'a Tuple),
    Absent,
    /// It is not known, or not locked.
    Open,
}

/// What was met under locks that stand.
struct Walk<'a, 'l> {
    rows: &'a Rows,
    locked: &'a ReadLocks<'l>,
    now: OnceCell<Tick>,
    /// All that was looked at, not always once.
    met: Vec<RowId>,
    ahead: Vec<Option<Ahead<'a>>>,
    unknown: Vec<RowId>,
    /// Shards that would have to be locked, too.
    beyond: Shards,
    /// There are more than one statement may join.
    too_many: bool,
}

impl<'a, 'l> Walk<'a, 'l> {
    fn new(rows: &'a Rows, locked: &'a ReadLocks<'l>) -> Walk<'a, 'l> {
        Walk {
            rows,
            locked,
            now: OnceCell::new(),
            met: Vec::new(),
            ahead: Vec::new(),
            unknown: Vec::new(),
            beyond: Shards::new(),
            too_many: false,
        }
    }

    fn shard(&self, at: usize) -> Option<&'a Slots> {
        let place = self.locked.binary_search_by_key(&at, |(at, _)| *at).ok()?;
        Some(&self.locked[place].1)
    }

    fn meet(&mut self, row: RowId, own: Option<Option<&'a Tuple>>) -> Met<'a> {
        let place = self.rows.place(&row);
        let Some(shard) = self.shard(place.shard()) else {
            self.beyond.push(place.shard());
            return Met::Open;
        };
        let now = || *self.now.get_or_init(|| self.rows.now());
        self.ahead.push(shard.ahead(&place, now));
        let met = match own {
            Some(Some(tuple)) => Met::Row(tuple),
            Some(None) => Met::Absent,
            None => match shard.find(&place, now) {
                Found::Row(tuple) => Met::Row(tuple),
                Found::Absent => Met::Absent,
                Found::Unknown => Met::Open,
            },
        };
        match met {
            Met::Open => self.unknown.push(row),
            Met::Row(_) | Met::Absent => self.met.push(row),
        }
        met
    }

    /// Goes from each row to those that it refers to.
    fn follow<'o: 'a, E>(
        &mut self,
        rows: Vec<&'a Tuple>,
        along: &Along<
            '_,
            impl Fn(usize, &Tuple, &[Option<&Tuple>]) -> Result<Option<RowId>, E>,
            impl Fn(&RowId) -> Option<Option<&'o Tuple>>,
        >,
    ) -> Result<Paths<'a>, E> {
        let mut paths = Paths::default();
        if rows.len() * along.needed.len() > limits::JOINED_ROWS_MAX {
            self.too_many = true;
            return Ok(paths);
        }
        'rows: for row in rows {
            let start = paths.beside.len();
            for (step, needed) in along.needed.iter().enumerate() {
                let referred = (along.referred)(step, row, &paths.beside[start..])?;
                let met = match referred {
                    None => Met::Absent,
                    Some(referred) => {
                        let own = (along.own)(&referred);
                        self.meet(referred, own)
                    }
                };
                match met {
                    Met::Row(tuple) => paths.beside.push(Some(tuple)),
                    Met::Absent if !needed => paths.beside.push(None),
                    Met::Absent | Met::Open => {
                        paths.beside.truncate(start);
                        continue 'rows;
                    }
                }
            }
            paths.firsts.push(row);
        }
        Ok(paths)
    }

    /// Whether more has to be locked; then that is added.
    fn wants_locks(&mut self, shards: &mut Shards) -> bool {
        let wants = !self.beyond.is_empty();
        shards.extend(self.beyond.drain(..));
        ascend(shards);
        wants
    }

    /// Why what was met cannot be told, if so. `others`: what is told with it.
    fn judge<R>(
        &mut self,
        others: impl Iterator<Item = Option<Ahead<'a>>>,
        fenced: impl Fn(&RowId) -> bool,
        followed: impl Fn() -> Lsn,
    ) -> Option<SetRead<R>> {
        if self.too_many {
            return Some(SetRead::TooLarge);
        }
        if self.met.iter().chain(&self.unknown).any(fenced) {
            return Some(SetRead::Fenced);
        }
        if !self.unknown.is_empty() {
            self.unknown.sort_unstable();
            self.unknown.dedup();
            return Some(SetRead::Unknown(std::mem::take(&mut self.unknown)));
        }
        let all = others.chain(self.ahead.drain(..));
        apart(all, followed()).then_some(SetRead::Apart)
    }

    fn tell<R, E>(
        &mut self,
        paths: &Paths<'_>,
        read: impl FnOnce(&[&Tuple], &[Option<&Tuple>]) -> Result<R, E>,
    ) -> Result<Joined<R>, E> {
        let answer = read(&paths.firsts, &paths.beside)?;
        Ok((answer, std::mem::take(&mut self.met)))
    }
}

#[cfg(test)]
mod tests;
