//! The grid as one of several nodes: what is asked of whoever leads, and what this node does for the others where it leads. Does; `requests` decides what was asked
//! before, the cluster's leases what may be told.

use super::{Grid, GridError, Hold, Holder, Step as Decided, Writer};
use crate::blocks::{Step, Watch};
use crate::change::{CommitGroup, RowId};
use crate::cluster::Handle;
use crate::desk::{Answer, Asked, Request};
use crate::leader::{Leader, Taking};
use crate::limits;
use crate::loader::LoadError;
use crate::log::{Answered, Command, HeldScope, HoldEnd, LogIndex, RequestId};
use crate::mistake::Mistake;
use crate::requester::Requester;
use crate::scope::Scope;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use ripen_cachestore::catalog::Catalog;
use ripen_cachestore::failpoint::reach;
use ripen_pg::ids::TableOid;
use ripen_pg::tuple::Tuple;
use std::sync::Arc;
use std::time::Duration;

impl Grid {
    /// [`Grid::write`] for a request that may come again: it is carried out once, and answered the same each time.
    pub async fn write_once<E>(
        &self,
        asked: Asked,
        catalog: &Catalog,
        rows: &[RowId],
        mut decide: impl FnMut(&[Option<Tuple>]) -> Result<(Option<CommitGroup>, Bytes), E>,
    ) -> Result<Result<Bytes, E>, GridError> {
        let Asked { id, below, term } = asked;
        self.wait_for_room().await?;
        let command = |group: Command, answer: &Bytes| {
            let answer = answer.clone();
            Command::Once(Answered { id, below, answer }, Box::new(group))
        };
        for _ in 0..limits::LOAD_ATTEMPTS_MAX {
            self.still_leads(term)?;
            let answer = self.answered(id);
            let queue = self.queue_of(rows)?;
            if let Some(answer) = answer {
                self.everywhere(queue.log.touched()).await;
                return Ok(Ok(answer));
            }
            match self.step(queue, catalog, rows, &mut decide, Some(id), command)? {
                Ok(Decided::Load(unknown)) => self.load(&unknown).await?,
                Ok(Decided::Decided(answer, behind, None)) => {
                    queue.wait_applied(behind).await;
                    // Nothing in the log proves that this node still leads, and that all know what the answer rests on.
                    self.everywhere(queue.log.touched()).await;
                    return match self.is_sure() {
                        true => self.still_leads(term).map(|()| Ok(answer)),
                        false => Err(GridError::Elsewhere),
                    };
                }
                Ok(Decided::Decided(answer, _, Some(ticket))) => {
                    ticket.await?;
                    reach("write-applied");
                    return Ok(Ok(answer));
                }
                Err(refused) => return Ok(Err(refused)),
            }
        }
        Err(GridError::NotLoadable(LoadError::Contended))
    }

    /// What the request was answered, if it was carried out.
    fn answered(&self, id: RequestId) -> Option<Bytes> {
        let answer = self.requests.lock().answer(id).cloned();
        answer.filter(|_| !Mistake::TwiceDone.is_made())
    }

    /// Whether a copy of the request is on its way, or was answered.
    pub(super) fn is_known(&self, leader: &Leader, id: RequestId) -> bool {
        if Mistake::TwiceDone.is_made() {
            return false;
        }
        let requests = self.requests.lock();
        leader.is_asked(id) || requests.is_over(id) || requests.answer(id).is_some()
    }

    /// Every node that may answer from memory knows of the hold when this returns.
    pub(super) async fn hold_together(
        self: &Arc<Self>,
        requester: &Requester,
        scope: Scope,
        holder: Holder,
        flushed: bool,
    ) -> Result<Hold, GridError> {
        let open = requester.open();
        let mut hold = Hold {
            grid: self.clone(),
            scope: Some(scope.clone()),
            id: Some(open.id),
            touched: false,
        };
        let held = HeldScope {
            id: open.id,
            node: requester.member.node(),
            below: open.below(),
            scope,
            backend: holder.backend,
            rewires: holder.rewires,
            withdrawn: holder.withdrawn,
        };
        let patience = self.options.barrier_timeout + limits::LEADER_WAIT;
        requester
            .ask(self, &Request::Hold(held, flushed), patience)
            .await?;
        hold.touched = true;
        self.until_it_stands(open.id).await?;
        Ok(hold)
    }

    /// Whatever came before the hold in the log is known here then, changes of the catalog, too.
    pub(super) async fn until_it_stands(&self, hold: RequestId) -> Result<(), GridError> {
        let here = async {
            while !self.requests.lock().stands(hold) {
                tokio::time::sleep(limits::LOG_POLL).await;
            }
        };
        let waited = tokio::time::timeout(limits::LEADER_WAIT, here).await;
        waited.map_err(|_| GridError::NoLeader)
    }

    /// Does what a node wants done by whoever leads. Cancel safe: it may be asked again.
    pub fn serve(&self, request: Request) -> BoxFuture<'_, Answer> {
        Box::pin(async move {
            let served = match request {
                Request::Hold(held, flushed) => self.serve_hold(held, flushed).await,
                Request::Release(ids, end) => self.tell(Command::Release(ids, end)).await,
                Request::Barrier(scope) => self.serve_barrier(&scope).await,
                Request::CatalogChanged => self.tell(Command::CatalogChanged).await,
                Request::Look => self.leads().map(|_| self.home.doubt()),
                Request::Write(asked, write) => {
                    let Some(writer) = self.writer.get() else {
                        return Answer::Elsewhere;
                    };
                    return self.serve_once(asked, || writer(asked, write)).await;
                }
                Request::Commit(asked, ..) => {
                    return self.serve_once(asked, || self.host(request)).await;
                }
                Request::Step(Step { term, .. }, _) | Request::Watch(Watch { term, .. }) => {
                    return self.serve_blocks(term, request).await;
                }
            };
            served.map_or_else(Answer::failed, |()| Answer::Done(Bytes::new()))
        })
    }

    /// A copy of the request may have been carried out by an earlier leader, or be on its way. So nobody may refuse it, for whatever reason, who does not lead, and thereby
    /// know all that was carried out before: its session would have Postgres carry it out once more.
    ///
    /// What was refused stays refused: see [`crate::leader::Taken`].
    async fn serve_once(
        &self,
        asked: Asked,
        carry_out: impl FnOnce() -> BoxFuture<'static, Answer>,
    ) -> Answer {
        if Mistake::EagerRefusal.is_made() {
            return carry_out().await;
        }
        if self.still_leads(asked.term).is_err() {
            return Answer::Elsewhere;
        }
        if let Some(answer) = self.answered(asked.id) {
            self.everywhere(self.first().log.touched()).await;
            return Answer::Done(answer);
        }
        let work = match self.take(asked) {
            Ok(work) => work,
            Err(answer) => return answer,
        };
        let answer = carry_out().await;
        work.end(&answer);
        answer
    }

    /// Answers what is to be said instead if the request is not to be taken up.
    fn take(&self, asked: Asked) -> Result<Work<'_>, Answer> {
        let (id, below) = (asked.id, asked.below);
        let mut leader = self.first().leader.lock();
        if leader.term() != Some(asked.term) || self.is_known(&leader, id) {
            return Err(Answer::Elsewhere);
        }
        if !Mistake::LateCopy.is_made() && !Mistake::TwiceDone.is_made() {
            match leader.taken.take(id, below) {
                Taking::New => {}
                Taking::Known => return Err(Answer::Elsewhere),
                Taking::Answered(answer) => {
                    return Err(Answer::decode(&answer).unwrap_or(Answer::Elsewhere));
                }
            }
        }
        Ok(Work { grid: self, asked })
    }

    async fn tell(&self, command: Command) -> Result<(), GridError> {
        let term = self.leads()?;
        self.first().log.propose_in(term, command).await?;
        Ok(())
    }

    pub(super) fn leads(&self) -> Result<u64, GridError> {
        self.first()
            .leader
            .lock()
            .term()
            .ok_or(GridError::Elsewhere)
    }

    async fn serve_hold(&self, held: HeldScope, flushed: bool) -> Result<(), GridError> {
        let (term, id, scope) = (self.leads()?, held.id, held.scope.clone());
        if self.requests.lock().stands(id) {
            self.everywhere(self.first().log.touched()).await;
        } else {
            self.first()
                .log
                .propose_in(term, Command::Hold(held))
                .await?;
        }
        if flushed {
            let unlocked = self.until_unlocked(&scope).await;
            // Locks are of a term: who does not lead any more knows nothing of those that count.
            self.still_leads(term)?;
            unlocked?;
        }
        if flushed && !Mistake::UndrainedHold.is_made() {
            // Whatever was decided before the fence stood.
            self.drain(&scope).await?;
        }
        self.still_leads(term)
    }

    /// What was waited for in a term counts only in that term: when it is over, nobody waits for anything any more.
    pub(super) fn still_leads(&self, term: u64) -> Result<(), GridError> {
        match self.leads()? == term {
            true => Ok(()),
            false => Err(GridError::Elsewhere),
        }
    }

    async fn serve_barrier(&self, scope: &Scope) -> Result<(), GridError> {
        let term = self.leads()?;
        self.drain(scope).await?;
        match self.is_sure() {
            true => self.still_leads(term),
            false => Err(GridError::Elsewhere),
        }
    }

    /// Asks the leader, be it this node or another.
    pub(crate) async fn ask(
        &self,
        request: &Request,
        patience: Duration,
    ) -> Result<Bytes, GridError> {
        match &self.requester {
            Some(requester) => requester.ask(self, request, patience).await,
            None => Err(GridError::NoLeader),
        }
    }

    /// Has a write carried out by the leader, once. `words`: for [`Grid::set_writer`] there.
    pub async fn ask_write(&self, words: Bytes) -> Result<Bytes, GridError> {
        let Some(requester) = &self.requester else {
            return Err(GridError::NoLeader);
        };
        let open = requester.open();
        let asked = Asked::new(open.id, open.below());
        let request = Request::Write(asked, words);
        let patience = self.options.pending_wait + limits::LEADER_WAIT;
        requester.ask(self, &request, patience).await
    }

    /// Who carries out writes that other nodes ask for. Set once.
    pub fn set_writer(&self, writer: Writer) {
        // A second one would be our own mistake, and harmless.
        let _ = self.writer.set(writer);
    }

    /// Whether this node is one of a cluster.
    pub fn has_peers(&self) -> bool {
        self.requester.is_some()
    }

    /// This node as a member of its cluster.
    pub fn member(&self) -> Option<&Handle> {
        self.requester.as_ref().map(|requester| &requester.member)
    }

    /// Whether this node knows of everything that was acknowledged, by any node, before this call.
    pub fn is_sure(&self) -> bool {
        self.member().is_none_or(Handle::may_read)
    }

    /// Waits until that is so, if that is to be expected: nobody leads for a moment after a leader's end. Answers whether it is. Cancel safe.
    pub async fn until_sure(&self) -> bool {
        match self.member() {
            Some(member) => member.until_may_read().await,
            None => true,
        }
    }

    /// What was read of these rows just now may be told when this returns well: nobody else tells anything older from now on. Cancel safe.
    ///
    /// # Errors
    /// When that could not be found out in time.
    pub async fn settle_read(&self, rows: &[RowId]) -> Result<(), GridError> {
        self.settle(|| self.rows.changed(rows)).await
    }

    /// The same of what was read of a table as a whole, or of sets of it: also the rows that are not there. Cancel safe.
    ///
    /// # Errors
    /// As [`Grid::settle_read`].
    pub async fn settle_table(&self, table: TableOid) -> Result<(), GridError> {
        self.settle(|| self.rows.changed_in(table)).await
    }

    async fn settle(&self, changed: impl FnOnce() -> LogIndex) -> Result<(), GridError> {
        let Some(member) = self.member() else {
            return Ok(());
        };
        if self.first().log.acknowledged() >= self.first().log.touched() {
            return Ok(());
        }
        let settled = member.everywhere(changed());
        let settled = tokio::time::timeout(limits::SETTLE_WAIT, settled).await;
        settled.map_err(|_| GridError::NoLeader)
    }

    pub(super) async fn everywhere(&self, index: LogIndex) {
        if let Some(member) = self.member() {
            member.everywhere(index).await;
        }
    }

    /// Waits until all nodes know that nothing is held for transactions of this process. Cancel safe.
    pub async fn until_given_back(&self) {
        let Some(here) = self.member().map(Handle::process) else {
            return;
        };
        while self.requests.lock().holds_for(here) {
            tokio::time::sleep(limits::LOG_POLL).await;
        }
    }

    /// What processes held that have ended is free. Where this node does not lead any more, the next leader does it.
    pub async fn end_orphans(&self, ids: Vec<RequestId>) {
        let told = self.tell(Command::Release(ids, HoldEnd::Changed)).await;
        told.unwrap_or_else(|error| tracing::debug!(%error, "not given back yet"));
    }

    /// A process has ended that holds nothing.
    pub async fn forget_process(&self, process: u64) {
        let told = self.tell(Command::Forget(process)).await;
        told.unwrap_or_else(|error| tracing::debug!(%error, "not forgotten yet"));
    }

    /// Whether a transaction of another node may make statements touch more than they name.
    pub fn is_rewired_elsewhere(&self) -> bool {
        let here = self.member().map(Handle::process);
        here.is_some_and(|here| self.requests.lock().is_rewired_by_others(here))
    }

    /// Tells all nodes that the catalog in Postgres is another one. When this returns, none plans by an older one that answers from memory.
    pub async fn tell_catalog_changed(&self) -> Result<(), GridError> {
        if self.requester.is_none() {
            return Ok(());
        }
        let told = self
            .ask(&Request::CatalogChanged, limits::LEADER_WAIT)
            .await;
        told.map(drop)
    }
}

/// A write that is being carried out for whoever asked. Dropped, it may be taken up again: if it was proposed, the log knows it.
struct Work<'a> {
    grid: &'a Grid,
    asked: Asked,
}

impl Work<'_> {
    fn end(self, answer: &Answer) {
        let id = self.asked.id;
        let final_here = !matches!(answer, Answer::Elsewhere) && self.grid.answered(id).is_none();
        self.note(final_here.then(|| answer.encode()));
    }

    fn note(&self, answer: Option<Bytes>) {
        let mut leader = self.grid.first().leader.lock();
        if leader.term() == Some(self.asked.term) {
            leader.taken.end(self.asked.id, answer);
        }
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.note(None);
    }
}
