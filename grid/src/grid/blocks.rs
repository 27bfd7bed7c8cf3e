//! Transaction blocks of all nodes' clients, which live where the log is led: the way to them, what must be sure before something of them is told, and the hold of one that moves to
//! Postgres. Does; `crate::blocks` decides which there are, and the proxy what is done in one.
//!
//! Nobody asks for a step twice: who gets no answer gives the block up, and nothing of it stays.

use super::{Grid, GridError, Hold, Host};
use crate::blocks::BlockId;
use crate::change::RowId;
use crate::desk::{Answer, Asked, Request};
use crate::limits;
use crate::log::{HeldScope, Role};
use crate::requester::{Once, Open};
use crate::scope::Scope;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::futures::Notified;

/// A hold that the leader is to take in this process's name. Dropped before it is known to be taken, it is given back.
pub struct Promise {
    /// What the leader is told; it finds the scope by itself.
    pub held: HeldScope,
    open: Open,
    hold: Hold,
}

impl Promise {
    /// The leader has taken it, around this scope. Returns when this node knows of it, too.
    ///
    /// # Errors
    /// When that does not come to be known here; it is given back then.
    pub async fn taken(mut self, scope: Scope) -> Result<Option<Hold>, GridError> {
        if scope.is_nothing() {
            // Nobody has taken anything.
            self.hold.scope = None;
            return Ok(None);
        }
        self.hold.scope = Some(scope);
        let grid = self.hold.grid.clone();
        grid.until_it_stands(self.open.id).await?;
        self.hold.touched = true;
        Ok(Some(self.hold))
    }
}

impl Grid {
    /// Who does what nodes ask of blocks. Set once.
    pub fn set_host(&self, host: Host) {
        // A second one would be our own mistake, and harmless.
        let _ = self.host.set(host);
    }

    pub(super) fn host(&self, request: Request) -> BoxFuture<'static, Answer> {
        match self.host.get() {
            Some(host) => host(request),
            None => Box::pin(std::future::ready(Answer::Elsewhere)),
        }
    }

    pub(super) async fn serve_blocks(&self, term: u64, request: Request) -> Answer {
        if self.still_leads(term).is_err() {
            return Answer::Elsewhere;
        }
        let answer = self.host(request).await;
        // It rests on locks of that term.
        match self.still_leads(term) {
            Ok(()) => answer,
            Err(_) => Answer::Elsewhere,
        }
    }

    /// The term in which somebody leads, as far as this node knows.
    pub fn led_in(&self) -> Option<u64> {
        let member = self.member()?;
        let leadership = *member.leadership().borrow();
        (leadership.role(member.node()) != Role::Waits).then_some(leadership.term)
    }

    /// Waits until somebody leads in another term than that, so long at most. Cancel safe.
    pub async fn until_led_anew(&self, term: Option<u64>, patience: Duration) {
        let Some(member) = self.member() else { return };
        let mut leadership = member.leadership();
        let anew = async {
            while self.led_in().is_none_or(|now| Some(now) == term) {
                if leadership.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whoever asks looks by itself what came of it.
        let _ = tokio::time::timeout(patience, anew).await;
    }

    /// Asks the leader of that term about blocks, once. Dropped, it may be carried out all the same.
    pub async fn ask_of_blocks(&self, request: &Request, term: u64, patience: Duration) -> Once {
        match &self.requester {
            Some(requester) => requester.ask_once(self, request, term, patience).await,
            None => Once::Unanswered,
        }
    }

    /// Asks whoever leads for the COMMIT of a block until it is answered, as for a write.
    ///
    /// # Errors
    /// What the leader says; [`GridError::NoLeader`] when nobody has answered in time, in which case it may have been carried out.
    pub async fn ask_commit(
        &self,
        step: crate::blocks::Step,
        words: Bytes,
    ) -> Result<Bytes, GridError> {
        let Some(requester) = &self.requester else {
            return Err(GridError::NoLeader);
        };
        let open = requester.open();
        let asked = Asked::new(open.id, open.below());
        let request = Request::Commit(asked, step, words);
        let patience = self.options.pending_wait + limits::LEADER_WAIT;
        requester.ask(self, &request, patience).await
    }

    /// The block of this process with that number.
    pub fn block(&self, number: u64) -> Option<BlockId> {
        let process = self.member()?.process();
        Some(BlockId { process, number })
    }

    /// Begins to ask for a hold that a block's leader takes. `backend`: in which the transaction goes on.
    pub fn promise_hold(self: &Arc<Self>, backend: Option<i32>) -> Option<Promise> {
        let requester = self.requester.as_ref()?;
        let open = requester.open();
        let mut hold = Hold::here(self, Scope::Nothing);
        (hold.id, hold.touched) = (Some(open.id), false);
        let held = HeldScope {
            id: open.id,
            node: requester.member.node(),
            below: open.below(),
            scope: Scope::Nothing,
            backend,
            rewires: false,
            withdrawn: Vec::new(),
        };
        Some(Promise { held, open, hold })
    }

    /// Resolves when somebody in Postgres wants rows that a transaction has locked. Begins to count when it is made, or first polled.
    pub fn nudging(&self) -> Notified<'_> {
        self.nudging.notified()
    }

    /// What was read of these rows just now where the log is led may be told when this returns well: this node still leads, and nobody tells anything older from now on. Cancel safe.
    ///
    /// # Errors
    /// When that cannot be proved in time: another may lead.
    pub async fn prove(&self, rows: &[RowId]) -> Result<(), GridError> {
        let settled = self.settle_read(rows).await;
        settled.map_err(|_| GridError::LocksLost)?;
        match self.until_sure().await {
            true => Ok(()),
            false => Err(GridError::LocksLost),
        }
    }
}
