//! Which open transactions have locked which rows, as Postgres's row locks would: who gets a lock, who waits for whom, whose wait would never end.
//! Decides; never waits, never reads a clock. Who waits is woken by what it gave (`W`), which nobody looks at here.
//!
//! Invariants: no two owners hold modes that conflict on one row (but for one that is not there: whoever inserts it does not ask those who have locked what was there
//! before); an owner waits for at most one row; nobody waits who could have what it wants, but for whoever came
//! before it; there is no circle of waiting owners.

use crate::change::RowId;
use crate::hashing::Seeded;
use crate::scope::Scope;
use smallvec::SmallVec;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// A transaction of this process, or a statement of its own that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId(pub u64);

/// How strongly a row is locked: Postgres's four, the weakest first. Each conflicts with whatever the weaker ones conflict with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// FOR KEY SHARE.
    KeyShare,
    /// FOR SHARE.
    Share,
    /// FOR NO KEY UPDATE, and every UPDATE that leaves the key alone.
    NoKeyUpdate,
    /// FOR UPDATE, DELETE.
    Update,
}

impl Mode {
    /// Whether two transactions cannot have these on one row.
    pub fn conflicts(self, other: Mode) -> bool {
        match self.min(other) {
            Mode::KeyShare => self.max(other) == Mode::Update,
            Mode::Share => self.max(other) >= Mode::NoKeyUpdate,
            Mode::NoKeyUpdate | Mode::Update => true,
        }
    }
}

/// What is wanted of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Nothing is to be had, but whoever has written the row must have ended: an INSERT looks whether its key is free.
    Look,
    /// To put a row where there is none.
    Insert,
    /// To lock a row.
    Lock(Mode),
    /// To change a row.
    Write(Mode),
}

impl Want {
    fn mode(self) -> Option<Mode> {
        match self {
            Want::Look => None,
            Want::Insert => Some(Mode::Update),
            Want::Lock(mode) | Want::Write(mode) => Some(mode),
        }
    }

    fn writes(self) -> bool {
        matches!(self, Want::Insert | Want::Write(_))
    }

    /// A row that is not there cannot be locked, only written.
    fn is_barred_by(self, held: Held) -> bool {
        match self {
            Want::Look | Want::Insert => held.wrote,
            Want::Lock(mode) | Want::Write(mode) => mode.conflicts(held.mode),
        }
    }

    /// Whether somebody who waits gets it only after somebody who waits before him has got that.
    fn is_behind(self, earlier: Want) -> bool {
        match (self, earlier.mode()) {
            (Want::Look | Want::Insert, _) | (_, None) => false,
            (Want::Lock(mode) | Want::Write(mode), Some(earlier)) => mode.conflicts(earlier),
        }
    }
}

/// A lock that an owner has on a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// How strong.
    pub mode: Mode,
    /// Whether the owner has changed the row.
    pub wrote: bool,
}

impl Held {
    fn with(before: Option<Held>, mode: Mode, wrote: bool) -> Held {
        Held {
            mode: before.map_or(mode, |held| held.mode.max(mode)),
            wrote: wrote || before.is_some_and(|held| held.wrote),
        }
    }
}

/// What became of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The owner has it.
    Granted,
    /// The owner waits, and is woken when it has it.
    Waits,
    /// Somebody has what conflicts with it, and the owner would not wait.
    Busy,
    /// Those whom it would wait for wait for the owner.
    Deadlock,
    /// There are as many locks as there may be.
    Full,
}

#[derive(Debug)]
struct Waiter<W> {
    owner: TxId,
    want: Want,
    wake: W,
}

#[derive(Debug)]
struct Row<W> {
    holders: SmallVec<[(TxId, Held); 1]>,
    queue: VecDeque<Waiter<W>>,
}

#[derive(Debug, Default)]
struct Owner {
    /// What it got, in order, each with what it had on the row before.
    got: Vec<(RowId, Option<Held>)>,
    waits: Option<RowId>,
}

/// See the module.
#[derive(Debug)]
pub struct Locks<W> {
    rows: HashMap<RowId, Row<W>, Seeded>,
    owners: HashMap<TxId, Owner, Seeded>,
    held: usize,
    held_max: usize,
}

impl<W> Locks<W> {
    /// None yet; `held_max` of them at most.
    pub fn new(held_max: usize) -> Locks<W> {
        Locks {
            rows: HashMap::default(),
            owners: HashMap::default(),
            held: 0,
            held_max,
        }
    }

    /// Whether nobody has or wants anything.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether somebody has a lock on the row.
    pub fn is_held(&self, row: &RowId) -> bool {
        self.rows
            .get(row)
            .is_some_and(|row| !row.holders.is_empty())
    }

    /// Who waits to lock or change the row as it is.
    pub fn waiting_for(&self, row: &RowId) -> impl Iterator<Item = TxId> {
        let queue = self.rows.get(row).into_iter().flat_map(|row| &row.queue);
        let wants = queue.filter(|waiter| !matches!(waiter.want, Want::Look | Want::Insert));
        wants.map(|waiter| waiter.owner)
    }

    /// How many locks are held.
    pub fn held(&self) -> usize {
        self.held
    }

    /// How many owners wait.
    pub fn waiting(&self) -> usize {
        self.rows.values().map(|row| row.queue.len()).sum()
    }

    /// What the owner has on the row.
    pub fn of(&self, owner: TxId, row: &RowId) -> Option<Held> {
        held_by(&self.rows.get(row)?.holders, owner)
    }

    /// Who has locks on rows of the scope.
    pub fn holders(&self, scope: &Scope) -> BTreeSet<TxId> {
        let of = |row: &Row<W>| row.holders.iter().map(|(owner, _)| *owner).collect();
        let all = |sets: Vec<Vec<TxId>>| sets.into_iter().flatten().collect();
        match scope {
            Scope::Rows(rows) => all(rows
                .iter()
                .filter_map(|row| self.rows.get(row))
                .map(of)
                .collect()),
            wide => all(self
                .rows
                .iter()
                .filter(|(row, _)| wide.has(row))
                .map(|(_, row)| of(row))
                .collect()),
        }
    }

    /// Gives the owner what it wants, or lets it wait for that. `wake`: asked only if it would have to wait; `None`: it does not want to.
    pub fn ask(
        &mut self,
        owner: TxId,
        row: &RowId,
        want: Want,
        wake: impl FnOnce() -> Option<W>,
    ) -> Outcome {
        let (holders, queue) = match self.rows.get(row) {
            None => (&[][..], None),
            Some(known) => (&known.holders[..], Some(&known.queue)),
        };
        if holders
            .iter()
            .all(|(other, held)| *other == owner || !want.is_barred_by(*held))
        {
            return self.give(owner, row, want);
        }
        let Some(wake) = wake() else {
            return Outcome::Busy;
        };
        let queue = queue.expect("a row that is held is known");
        // Who has something already does not stand behind those who wait for him.
        let ahead = match held_by(holders, owner) {
            Some(_) => queue
                .iter()
                .take_while(|waiter| held_by(holders, waiter.owner).is_some())
                .count(),
            None => queue.len(),
        };
        if self.would_close(owner, row, want, ahead) {
            return Outcome::Deadlock;
        }
        let waiter = Waiter { owner, want, wake };
        let known = self.rows.get_mut(row).expect("it was found above");
        known.queue.insert(ahead, waiter);
        self.owners.entry(owner).or_default().waits = Some(row.clone());
        Outcome::Waits
    }

    fn give(&mut self, owner: TxId, row: &RowId, want: Want) -> Outcome {
        let Some(mode) = want.mode() else {
            return Outcome::Granted;
        };
        let before = self.of(owner, row);
        let after = Held::with(before, mode, want.writes());
        if before == Some(after) {
            return Outcome::Granted;
        }
        if before.is_none() && self.held >= self.held_max {
            return Outcome::Full;
        }
        self.set(owner, row, Some(after));
        let got = &mut self.owners.entry(owner).or_default().got;
        got.push((row.clone(), before));
        Outcome::Granted
    }

    /// What the owner has on the row from now on.
    fn set(&mut self, owner: TxId, row: &RowId, held: Option<Held>) {
        let known = self.rows.entry(row.clone()).or_insert_with(|| Row {
            holders: SmallVec::new(),
            queue: VecDeque::new(),
        });
        let at = known.holders.iter().position(|(other, _)| *other == owner);
        match (at, held) {
            (Some(at), Some(held)) => known.holders[at].1 = held,
            (Some(at), None) => {
                known.holders.remove(at);
                self.held -= 1;
            }
            (None, Some(held)) => {
                known.holders.push((owner, held));
                self.held += 1;
            }
            (None, None) => {}
        }
        if known.holders.is_empty() && known.queue.is_empty() {
            self.rows.remove(row);
        }
    }

    /// Whom the owner would wait for in that place of the row's queue.
    fn barring(&self, owner: TxId, row: &RowId, want: Want, place: usize) -> Vec<TxId> {
        let Some(known) = self.rows.get(row) else {
            return Vec::new();
        };
        let holders = known.holders.iter();
        let holders = holders.filter(|(_, held)| want.is_barred_by(*held));
        let earlier = known.queue.iter().take(place);
        let earlier = earlier.filter(|waiter| want.is_behind(waiter.want));
        holders
            .map(|(other, _)| *other)
            .chain(earlier.map(|waiter| waiter.owner))
            .filter(|other| *other != owner)
            .collect()
    }

    /// Whether whoever the owner would wait for waits for the owner, at once or through others.
    fn would_close(&self, owner: TxId, row: &RowId, want: Want, place: usize) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = self.barring(owner, row, want, place);
        // Those who would stand behind it there wait for it if they want what conflicts.
        let behind = self.rows.get(row).into_iter().flat_map(|known| {
            let later = known.queue.iter().skip(place);
            later.filter(|waiter| waiter.want.is_behind(want))
        });
        let behind: BTreeSet<TxId> = behind.map(|waiter| waiter.owner).collect();
        while let Some(other) = open.pop() {
            if other == owner || behind.contains(&other) {
                return true;
            }
            if seen.insert(other) {
                open.extend(self.waits_for(other));
            }
        }
        false
    }

    /// Whom the owner waits for.
    fn waits_for(&self, owner: TxId) -> Vec<TxId> {
        let waits = self.owners.get(&owner).and_then(|known| {
            let row = known.waits.as_ref()?;
            let queue = &self.rows.get(row)?.queue;
            let place = queue.iter().position(|waiter| waiter.owner == owner)?;
            Some(self.barring(owner, row, queue[place].want, place))
        });
        waits.unwrap_or_default()
    }

    /// The owner does not wait any more. Answers who need not wait any more, either.
    #[must_use = "whoever is answered is to be woken"]
    pub fn give_up(&mut self, owner: TxId) -> Vec<W> {
        let Some(row) = self.owners.get_mut(&owner).and_then(|it| it.waits.take()) else {
            return Vec::new();
        };
        if let Some(known) = self.rows.get_mut(&row) {
            known.queue.retain(|waiter| waiter.owner != owner);
        }
        let mut woken = Vec::new();
        self.grant(&row, &mut woken);
        woken
    }

    /// How much the owner has got so far: see [`Locks::back_to`].
    pub fn mark(&self, owner: TxId) -> usize {
        self.owners.get(&owner).map_or(0, |known| known.got.len())
    }

    /// The owner gives back what it got after `mark`, as ROLLBACK TO does. Answers who need not wait any more.
    #[must_use = "whoever is answered is to be woken"]
    pub fn back_to(&mut self, owner: TxId, mark: usize) -> Vec<W> {
        let Some(known) = self.owners.get_mut(&owner) else {
            return Vec::new();
        };
        let given_back = known.got.split_off(mark.min(known.got.len()));
        let mut woken = Vec::new();
        for (row, before) in given_back.into_iter().rev() {
            self.set(owner, &row, before);
            self.grant(&row, &mut woken);
        }
        woken
    }

    /// The owner has ended. Answers who need not wait any more.
    #[must_use = "whoever is answered is to be woken"]
    pub fn end(&mut self, owner: TxId) -> Vec<W> {
        let mut woken = self.give_up(owner);
        woken.extend(self.back_to(owner, 0));
        self.owners.remove(&owner);
        woken
    }

    /// The rows that the owner has locked, each once, with the strongest mode.
    pub fn all_of(&self, owner: TxId) -> Vec<(RowId, Held)> {
        let got = self.owners.get(&owner).into_iter().flat_map(|it| &it.got);
        let rows: BTreeSet<&RowId> = got.map(|(row, _)| row).collect();
        let held = rows.into_iter().filter_map(|row| {
            let held = self.of(owner, row)?;
            Some((row.clone(), held))
        });
        held.collect()
    }

    /// Gives those who wait for the row what can be given now, in the order in which they came.
    fn grant(&mut self, row: &RowId, woken: &mut Vec<W>) {
        let mut place = 0;
        while let Some(waiter) = self.rows.get(row).and_then(|it| it.queue.get(place)) {
            let (owner, want) = (waiter.owner, waiter.want);
            if !self.barring(owner, row, want, place).is_empty() {
                place += 1;
                continue;
            }
            let known = self.rows.get_mut(row).expect("it was found above");
            let waiter = known.queue.remove(place).expect("it was found above");
            self.owners.entry(owner).or_default().waits = None;
            // Full or not: it asks once more when it is awake.
            let _ = self.give(owner, row, want);
            woken.push(waiter.wake);
        }
        let unused = |known: &Row<W>| known.holders.is_empty() && known.queue.is_empty();
        if self.rows.get(row).is_some_and(unused) {
            self.rows.remove(row);
        }
    }
}

fn held_by(holders: &[(TxId, Held)], owner: TxId) -> Option<Held> {
    let found = holders.iter().find(|(other, _)| *other == owner);
    found.map(|(_, held)| *held)
}

#[cfg(test)]
mod tests;
