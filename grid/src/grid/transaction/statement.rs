//! One statement of a transaction: tried inside the leader's lock, on the rows as the transaction sees them; what it has to wait for it waits for outside, and is tried anew.
//! Never proposes anything.

use super::super::GridError;
use super::{Meeting, Patience, Place, Statement, Transaction};
use crate::change::{Change, CommitGroup, RowChange, RowId};
use crate::leader::{Leader, Proposal};
use crate::limits;
use crate::loader::LoadError;
use crate::locks::{Mode, Outcome, Want};
use ripen_pg::tuple::Tuple;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Why a statement has not been carried out yet.
enum Pause {
    Load(Vec<RowId>),
    Wait(oneshot::Receiver<()>),
}

/// What a statement came to, inside the leader's lock.
type Tried<T, E> = Result<Result<Done<T>, E>, GridError>;

enum Done<T> {
    /// Answered; what it rests on must be applied first.
    Yes(T, Proposal),
    No(Pause),
}

/// The rows of a statement as it sees them.
struct Seen {
    images: Vec<Option<Tuple>>,
    overlaid: bool,
}

impl Transaction {
    /// Decides a write on the newest rows, its own writes first, and keeps what it decides. `decide` is as in [`Grid::write`], and refuses when the tables are not what the
    /// statement's catalog says. Waits for whoever has locked a row that it changes; then it is decided anew.
    ///
    /// # Errors
    /// The statement has done nothing then, but locks that it got stay. [`GridError::Owned`] and the like: it is Postgres's business.
    ///
    /// Cancel safe: nothing has happened then but locks.
    pub async fn write<T, E>(
        &mut self,
        statement: &Statement<'_>,
        mut decide: impl FnMut(&[Option<Tuple>]) -> Result<(Option<CommitGroup>, T), E>,
    ) -> Result<Result<T, E>, GridError> {
        // An UPDATE or DELETE is about the rows that satisfied it when it began.
        let mut about: Option<BTreeSet<RowId>> = None;
        self.until_done(statement.patience, |tx| {
            tx.try_write(statement, &mut about, &mut decide)
        })
        .await
    }

    /// Locks those of the rows that `decide` picks from the newest ones, and then answers what it makes of them. It gets `None` for rows that are not there or were skipped, and
    /// answers which it wants.
    ///
    /// # Errors
    /// As [`Transaction::write`]; [`GridError::Locked`] for a row that somebody else has locked, with [`Meeting::Refuse`].
    ///
    /// Cancel safe: nothing has happened then but locks.
    pub async fn lock<T, E>(
        &mut self,
        statement: &Statement<'_>,
        (mode, meeting): (Mode, Meeting),
        mut decide: impl FnMut(&[Option<Tuple>]) -> Result<(Vec<bool>, T), E>,
    ) -> Result<Result<T, E>, GridError> {
        let mut about: Option<BTreeSet<RowId>> = None;
        self.until_done(statement.patience, |tx| {
            tx.try_lock(statement, (mode, meeting), &mut about, &mut decide)
        })
        .await
    }

    async fn until_done<T, E>(
        &mut self,
        patience: Patience,
        mut step: impl FnMut(&mut Transaction) -> Tried<T, E>,
    ) -> Result<Result<T, E>, GridError> {
        let until = patience.statement.map(|timeout| Instant::now() + timeout);
        let mut loads = 0;
        loop {
            match step(self)? {
                Err(refused) => return Ok(Err(refused)),
                Ok(Done::Yes(answer, behind)) => {
                    if let Some(queue) = self.queue() {
                        queue.wait_applied(behind).await;
                    }
                    return Ok(Ok(answer));
                }
                Ok(Done::No(Pause::Load(rows))) if loads < limits::LOAD_ATTEMPTS_MAX => {
                    loads += 1;
                    self.grid.load(&rows).await?;
                }
                Ok(Done::No(Pause::Load(_))) => {
                    return Err(GridError::NotLoadable(LoadError::Contended));
                }
                Ok(Done::No(Pause::Wait(granted))) => {
                    self.wait(granted, patience.lock, until).await?;
                }
            }
        }
    }

    /// Waits for a row. Whoever is nudged meanwhile leaves it to Postgres.
    async fn wait(
        &mut self,
        granted: oneshot::Receiver<()>,
        lock: Option<Duration>,
        until: Option<Instant>,
    ) -> Result<(), GridError> {
        let waiting = Waiting(self);
        let lock_until = lock.map(|timeout| Instant::now() + timeout);
        tokio::select! {
            biased;
            granted = granted => granted.map_err(|_| GridError::LocksLost),
            () = waiting.0.nudge.wake.notified() => Err(GridError::Owned),
            () = at(until) => Err(GridError::StatementTimeout),
            () = at(lock_until) => Err(GridError::LockTimeout),
        }
    }

    fn try_write<T, E>(
        &mut self,
        statement: &Statement<'_>,
        about: &mut Option<BTreeSet<RowId>>,
        decide: &mut impl FnMut(&[Option<Tuple>]) -> Result<(Option<CommitGroup>, T), E>,
    ) -> Tried<T, E> {
        let grid = self.grid.clone();
        let place = self.place_for(statement.rows)?;
        let mut leader = grid.queues[place].leader.lock();
        self.may_lock(&mut leader, place, statement.rows)?;
        let mut seen = match self.see(&leader, statement) {
            Ok(seen) => seen,
            Err(unknown) => return Ok(Ok(Done::No(Pause::Load(unknown)))),
        };
        let (named, referred) = statement.rows.split_at(statement.named);
        if statement.inserts {
            for row in named {
                if let Some(pause) = self.ask(&mut leader, row, Want::Look)? {
                    return Ok(Ok(Done::No(pause)));
                }
            }
        }
        self.forget_gone(&mut leader, about);
        seen.only(named, about.as_ref());
        let (group, answer) = match decide(&seen.images) {
            Ok(decided) => decided,
            Err(refused) => return Ok(Err(refused)),
        };
        let changes = group.map_or_else(Vec::new, |group| group.rows);
        if !statement.inserts && about.is_none() {
            *about = Some(changes.iter().map(|change| change.row.clone()).collect());
        }
        let images: BTreeMap<&RowId, &Option<Tuple>> =
            statement.rows.iter().zip(&seen.images).collect();
        let image = |row: &RowId| images.get(row).is_some_and(|image| image.is_some());
        for change in &changes {
            let want = self.want(change, image(&change.row));
            if let Some(pause) = self.ask(&mut leader, &change.row, want)? {
                return Ok(Ok(Done::No(pause)));
            }
        }
        if !changes.is_empty()
            && let Some(pause) = self.refer(&mut leader, referred)?
        {
            return Ok(Ok(Done::No(pause)));
        }
        let behind = seen.behind(&leader);
        drop(leader);
        self.keep(changes, &images)?;
        Ok(Ok(Done::Yes(answer, behind)))
    }

    fn try_lock<T, E>(
        &mut self,
        statement: &Statement<'_>,
        (mode, meeting): (Mode, Meeting),
        about: &mut Option<BTreeSet<RowId>>,
        decide: &mut impl FnMut(&[Option<Tuple>]) -> Result<(Vec<bool>, T), E>,
    ) -> Tried<T, E> {
        let grid = self.grid.clone();
        let place = self.place_for(statement.rows)?;
        let mut leader = grid.queues[place].leader.lock();
        self.may_lock(&mut leader, place, statement.rows)?;
        let mut seen = match self.see(&leader, statement) {
            Ok(seen) => seen,
            Err(unknown) => return Ok(Ok(Done::No(Pause::Load(unknown)))),
        };
        self.forget_gone(&mut leader, about);
        seen.only(statement.rows, about.as_ref());
        let (picked, mut answer) = match decide(&seen.images) {
            Ok(decided) => decided,
            Err(refused) => return Ok(Err(refused)),
        };
        let rows = statement.rows.iter().zip(&picked);
        let rows = rows.filter(|(_, picked)| **picked).map(|(row, _)| row);
        let rows: BTreeSet<RowId> = rows.cloned().collect();
        let mut skipped = BTreeSet::new();
        // From now on they are locked because the client says so.
        self.referred.retain(|row| !rows.contains(row));
        for row in statement.rows.iter().filter(|row| rows.contains(*row)) {
            // What the transaction has inserted is its own.
            if self.buffer.base(row).is_some_and(|base| base.is_none()) {
                continue;
            }
            match meeting {
                Meeting::Wait => {
                    if let Some(pause) = self.ask(&mut leader, row, Want::Lock(mode))? {
                        about.get_or_insert(rows);
                        return Ok(Ok(Done::No(pause)));
                    }
                }
                Meeting::Refuse | Meeting::Skip => {
                    match leader.locks.ask(self.id, row, Want::Lock(mode), || None) {
                        Outcome::Granted => {}
                        Outcome::Full => return Err(GridError::Crowded),
                        _ if meeting == Meeting::Refuse => return Err(GridError::Locked),
                        _ => drop(skipped.insert(row.clone())),
                    }
                }
            }
        }
        if !skipped.is_empty() {
            let left = rows.difference(&skipped).cloned().collect();
            seen.only(statement.rows, Some(&left));
            answer = match decide(&seen.images) {
                Ok((_, answer)) => answer,
                Err(refused) => return Ok(Err(refused)),
            };
        }
        Ok(Ok(Done::Yes(answer, seen.behind(&leader))))
    }

    /// The log that a statement's rows are in.
    fn place_for(&self, rows: &[RowId]) -> Result<usize, GridError> {
        if rows.is_empty() {
            return Ok(self.place.map_or(0, |place| place.queue));
        }
        let queue = self.grid.queue_of(rows)?;
        Ok(usize::from(queue.number.0))
    }

    /// Whether rows may be locked here at all, and by this transaction.
    fn may_lock(
        &mut self,
        leader: &mut Leader,
        queue: usize,
        rows: &[RowId],
    ) -> Result<(), GridError> {
        let term = leader.term().ok_or(GridError::Elsewhere)?;
        if rows.is_empty() {
            return Ok(());
        }
        let place = Place { queue, term };
        let known = *self.place.get_or_insert(place);
        if known.queue != queue || !self.grid.belong(&self.grid.queues[queue], rows) {
            return Err(GridError::Owned);
        }
        if known.term != term {
            return Err(GridError::LocksLost);
        }
        if rows.iter().any(|row| self.grid.fences.has(row)) {
            return Err(GridError::Owned);
        }
        let nudge = || self.nudge.clone();
        leader.nudges.entry(self.id).or_insert_with(nudge);
        Ok(())
    }

    /// A statement is not about rows any more that were deleted while it waited for them.
    fn forget_gone(&self, leader: &mut Leader, about: &mut Option<BTreeSet<RowId>>) {
        if let (Some(gone), Some(about)) = (leader.gone.remove(&self.id), about) {
            about.retain(|row| !gone.contains(row));
        }
    }

    /// The rows as they are for the transaction now, or those that memory does not know.
    fn see(&self, leader: &Leader, statement: &Statement<'_>) -> Result<Seen, Vec<RowId>> {
        let mut seen = Seen {
            images: Vec::with_capacity(statement.rows.len()),
            overlaid: false,
        };
        let mut unknown = Vec::new();
        for row in statement.rows {
            if let Some(own) = self.buffer.image(row) {
                seen.images.push(own.cloned());
                continue;
            }
            match self.grid.committed(leader, statement.catalog, row) {
                Some((image, overlaid)) => {
                    seen.overlaid |= overlaid;
                    seen.images.push(image);
                }
                None => unknown.push(row.clone()),
            }
        }
        match unknown.is_empty() {
            true => Ok(seen),
            false => Err(unknown),
        }
    }

    /// What a change wants of its row. `is_there`: as the transaction sees it.
    fn want(&self, change: &RowChange, is_there: bool) -> Want {
        let was_there = match self.buffer.base(&change.row) {
            Some(base) => base.is_some(),
            None => is_there,
        };
        match &change.change {
            _ if !was_there => Want::Insert,
            Change::Update { .. } => Want::Write(Mode::NoKeyUpdate),
            Change::Insert { .. } | Change::Put { .. } | Change::Delete => {
                Want::Write(Mode::Update)
            }
        }
    }

    /// Keeps rows that others refer to from going away, as Postgres's foreign keys do. `None`: they are locked.
    fn refer(&mut self, leader: &mut Leader, rows: &[RowId]) -> Result<Option<Pause>, GridError> {
        for row in rows {
            let mine = leader.locks.of(self.id, row).is_some();
            if let Some(pause) = self.ask(leader, row, Want::Lock(Mode::KeyShare))? {
                return Ok(Some(pause));
            }
            if !mine {
                self.referred.insert(row.clone());
            }
        }
        Ok(None)
    }

    /// `None`: it is granted.
    fn ask(
        &self,
        leader: &mut Leader,
        row: &RowId,
        want: Want,
    ) -> Result<Option<Pause>, GridError> {
        let mut granted = None;
        let wake = || {
            let (wake, woken) = oneshot::channel();
            granted = Some(woken);
            Some(wake)
        };
        match leader.locks.ask(self.id, row, want, wake) {
            Outcome::Granted => Ok(None),
            Outcome::Waits => Ok(granted.map(Pause::Wait)),
            Outcome::Busy => Err(GridError::Locked),
            Outcome::Deadlock => Err(GridError::Deadlock),
            Outcome::Full => Err(GridError::Crowded),
        }
    }

    /// Puts a statement's changes into the buffer, if there is room.
    fn keep(
        &mut self,
        changes: Vec<RowChange>,
        images: &BTreeMap<&RowId, &Option<Tuple>>,
    ) -> Result<(), GridError> {
        let image = |change: &RowChange| change.change.image().map_or(0, Tuple::weight);
        let bytes: usize = changes.iter().map(image).sum();
        if self.buffer.rows() + changes.len() > limits::TRANSACTION_ROWS_MAX
            || self.buffer.bytes() + bytes > limits::TRANSACTION_BYTES_MAX
            || self.grid.buffered.load(Ordering::Relaxed) + bytes > limits::TRANSACTIONS_BYTES_MAX
        {
            return Err(GridError::TooLarge);
        }
        for change in changes {
            let base = images.get(&change.row).and_then(|image| (*image).clone());
            self.buffer.note(change, base);
        }
        self.count();
        Ok(())
    }
}

/// Whoever waits no longer must not be given what it waited for: it would be a lock that nobody knows of.
struct Waiting<'a>(&'a Transaction);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(queue) = self.0.queue() else {
            return;
        };
        let woken = queue.leader.lock().locks.give_up(self.0.id);
        self.0.wake(woken);
    }
}

impl Seen {
    /// Leaves only those rows.
    fn only(&mut self, rows: &[RowId], about: Option<&BTreeSet<RowId>>) {
        let Some(about) = about else {
            return;
        };
        for (row, image) in rows.iter().zip(&mut self.images) {
            if !about.contains(row) {
                *image = None;
            }
        }
    }

    /// What must be applied before an answer that rests on these is given.
    fn behind(&self, leader: &Leader) -> Proposal {
        match self.overlaid {
            true => leader.last(),
            false => Proposal(0),
        }
    }
}

/// Resolves then; never, if there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
