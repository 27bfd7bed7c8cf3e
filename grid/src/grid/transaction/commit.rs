//! How a transaction ends: as one group of the log, or by going on in Postgres.

use super::super::{Grid, GridError, Hold, bytes};
use super::{Place, Transaction};
use crate::buffer::{Based, Stretch};
use crate::change::{Change, CommitGroup, RowId};
use crate::leader::Leader;
use crate::limits;
use crate::loader::LoadError;
use crate::locks::{Held, Mode};
use crate::log::{Answered, Command, HeldScope, Ticket};
use crate::queue::Queue;
use crate::scope::Scope;
use ripen_cachestore::catalog::Catalog;
use ripen_cachestore::failpoint::reach;
use ripen_pg::tuple::Tuple;

/// What a transaction has done, for whoever does it again in Postgres.
#[derive(Debug)]
pub struct Deeds {
    /// What it has written, savepoint by savepoint.
    pub stretches: Vec<Stretch>,
    /// Rows that it has locked beside those that it has written.
    pub locked: Vec<(RowId, Mode)>,
}

impl Transaction {
    /// COMMIT: everything that was written is one group of the log, and durable and applied when this returns. `once`: the request for it, if it may come again, and what it is
    /// answered; then it is carried out once.
    ///
    /// # Errors
    /// Nothing was written, but for [`GridError::Log`]. [`GridError::Owned`] and [`GridError::TooLarge`]: Postgres is to do it. The transaction is still open, with its locks.
    /// [`GridError::Elsewhere`]: a copy of the request is on its way, or was answered.
    ///
    /// Cancel safe as [`Grid::write`] is.
    pub async fn commit(
        &mut self,
        catalog: &Catalog,
        once: Option<Answered>,
    ) -> Result<(), GridError> {
        if let (Some(once), Some(queue)) = (&once, self.queue())
            && self.grid.is_known(&queue.leader.lock(), once.id)
        {
            return Err(GridError::Elsewhere);
        }
        if self.buffer.is_empty() {
            let led = match self.queue() {
                Some(queue) => self.is_place_of(&queue.leader.lock()),
                None => true,
            };
            self.end();
            return match led {
                true => Ok(()),
                false => Err(GridError::LocksLost),
            };
        }
        self.grid.wait_for_room().await?;
        for _ in 0..limits::LOAD_ATTEMPTS_MAX {
            match self.try_commit(catalog, once.as_ref())? {
                Ok(None) => return Ok(()),
                Ok(Some(ticket)) => {
                    ticket.await?;
                    reach("write-applied");
                    return Ok(());
                }
                Err(unknown) => self.grid.load(&unknown).await?,
            }
        }
        Err(GridError::NotLoadable(LoadError::Contended))
    }

    /// Proposes the group; `None`: it came to nothing. Err: rows that memory must know first.
    fn try_commit(
        &mut self,
        catalog: &Catalog,
        once: Option<&Answered>,
    ) -> Result<Result<Option<Ticket>, Vec<RowId>>, GridError> {
        let grid = self.grid.clone();
        let Place { queue, term } = self.place.ok_or(GridError::LocksLost)?;
        let queue = &grid.queues[queue];
        let mut leader = queue.leader.lock();
        if !self.is_place_of(&leader) {
            return Err(GridError::LocksLost);
        }
        if once.is_some_and(|once| grid.is_known(&leader, once.id)) {
            return Err(GridError::Elsewhere);
        }
        let merged = self.buffer.merged();
        let images = match self.compare(&leader, catalog, &merged)? {
            Ok(images) => images,
            Err(unknown) => return Ok(Err(unknown)),
        };
        let rows: Vec<RowId> = merged
            .iter()
            .map(|based| based.change.row.clone())
            .collect();
        if !grid.belong(queue, &rows) || rows.iter().any(|row| grid.aside.has(row)) {
            return Err(GridError::Owned);
        }
        let group = CommitGroup {
            rows: merged.into_iter().map(|based| based.change).collect(),
        };
        if group.rows.is_empty() {
            drop(leader);
            self.end();
            return Ok(Ok(None));
        }
        if bytes(&group, &images) > limits::GROUP_BYTES_MAX {
            return Err(GridError::TooLarge);
        }
        reach("write-decided");
        queue.tell_shapes(&mut leader, term, catalog, &group)?;
        leader.part(&group);
        leader.propose(&group);
        let mut command: Command = grid.guarded(catalog, group, &rows, &images);
        if let Some(once) = once {
            leader.ask(once.id);
            command = Command::Once(once.clone(), Box::new(command));
        }
        let ticket = queue.log.propose_in(term, command);
        // Whoever gets the rows now decides on what was proposed.
        let woken = self.take_end(&mut leader);
        drop(leader);
        self.wake(woken);
        Ok(Ok(Some(ticket)))
    }

    /// What is committed of the rows by now, or those that memory does not know. Nobody else can have changed them but a writer whom Ripen does not see; where his change and
    /// the transaction's do not go together, the transaction fails, since it was decided on what is not there any more.
    fn compare(
        &self,
        leader: &Leader,
        catalog: &Catalog,
        merged: &[Based],
    ) -> Result<Result<Vec<Option<Tuple>>, Vec<RowId>>, GridError> {
        let (mut images, mut unknown) = (Vec::with_capacity(merged.len()), Vec::new());
        for based in merged {
            match self.grid.committed(leader, catalog, &based.change.row) {
                Some((image, _)) if goes_with(based, image.as_ref()) => images.push(image),
                Some(_) => return Err(GridError::Overtaken),
                None => unknown.push(based.change.row.clone()),
            }
        }
        Ok(match unknown.is_empty() {
            true => Ok(images),
            false => Err(unknown),
        })
    }

    /// Gives what the transaction has locked to the database, and says what is to be done again there. When this returns, everything before is in Postgres and nobody else here
    /// touches the rows. The transaction still has its locks: [`Transaction::end`] it when Postgres has done it all and has its own locks on the rows.
    ///
    /// # Errors
    /// Nothing is held then.
    pub async fn promote(&mut self, catalog: &Catalog) -> Result<(Option<Hold>, Deeds), GridError> {
        let grid = self.grid.clone();
        let Some(queue) = self.queue() else {
            return Ok((None, self.deeds(Vec::new())));
        };
        let (scope, locked) = self.fence_locked(queue, catalog)?;
        let deeds = self.deeds(locked);
        if scope.is_nothing() {
            grid.fences.lower(&scope);
            return Ok((None, deeds));
        }
        let mut hold = Hold::here(&grid, scope);
        hold.touched = false;
        grid.rows.pass_through_shards();
        let scope = hold.scope.as_ref().expect("a new hold has its scope");
        grid.drain(scope).await?;
        hold.touched = true;
        Ok((Some(hold), deeds))
    }

    /// The same where others than this node's clients are concerned: what the transaction has locked is held for whoever asks in `held`, whose scope is found here, and all nodes know of it
    /// when this returns. Answers the scope.
    ///
    /// # Errors
    /// It may be held all the same: whoever asked gives it back.
    pub async fn promote_for(
        &mut self,
        catalog: &Catalog,
        mut held: HeldScope,
    ) -> Result<(Scope, Deeds), GridError> {
        let grid = self.grid.clone();
        let Some(Place { queue, term }) = self.place else {
            return Ok((Scope::Nothing, self.deeds(Vec::new())));
        };
        let queue = &grid.queues[queue];
        // Until the log has the hold, no other gets a lock on these rows.
        let (scope, locked) = self.fence_locked(queue, catalog)?;
        let _fence = Fence(&grid, &scope);
        let deeds = self.deeds(locked);
        if scope.is_nothing() {
            return Ok((Scope::Nothing, deeds));
        }
        grid.rows.pass_through_shards();
        held.scope = scope.clone();
        let ticket = queue.log.propose_in(term, Command::Hold(held));
        ticket.await?;
        grid.drain(&scope).await?;
        match self.is_place_of(&queue.leader.lock()) {
            true => Ok((scope.clone(), deeds)),
            false => Err(GridError::LocksLost),
        }
    }

    /// A fence around all rows that the transaction has locked, raised while the locks stand.
    fn fence_locked(
        &self,
        queue: &Queue,
        catalog: &Catalog,
    ) -> Result<(Scope, Vec<(RowId, Held)>), GridError> {
        let leader = queue.leader.lock();
        if !self.is_place_of(&leader) {
            return Err(GridError::LocksLost);
        }
        // Rows that memory does not know any more are as they were, or the WAL has told of it.
        drop(self.compare(&leader, catalog, &self.buffer.merged())?);
        let locked = leader.locks.all_of(self.id);
        let scope = Scope::rows(locked.iter().map(|(row, _)| row.clone()).collect());
        self.grid.fences.raise(&scope);
        Ok((scope, locked))
    }

    fn deeds(&self, locked: Vec<(RowId, Held)>) -> Deeds {
        let only_locked = |(row, held): (RowId, Held)| {
            let referred = held.mode == Mode::KeyShare && self.referred.contains(&row);
            (!held.wrote && !referred).then_some((row, held.mode))
        };
        Deeds {
            stretches: self.buffer.stretches(),
            locked: locked.into_iter().filter_map(only_locked).collect(),
        }
    }
}

/// A fence of the leader alone. Dropped, it is down.
struct Fence<'a>(&'a Grid, &'a Scope);

impl Drop for Fence<'_> {
    fn drop(&mut self) {
        self.0.fences.lower(self.1);
    }
}

/// Whether a change means the same on the row as it is now as on the one that it was decided on.
fn goes_with(based: &Based, now: Option<&Tuple>) -> bool {
    if based.base.as_ref() == now {
        return true;
    }
    let adds_only = matches!(&based.change.change, Change::Update { set, .. } if set.is_empty());
    adds_only && now.is_some()
}
