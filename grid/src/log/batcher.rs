//! Packs proposals into Raft entries: the first one that waits takes along all that came meanwhile. Never reorders, and leaves none out: what is proposed later in a term
//! was decided upon what was proposed before. So an entry that a leader cannot take for the moment is handed in again until it can, or leads no more.

use super::acks::Acks;
use super::codec::{encode_command, encode_entry};
use super::command::{Command, Entry, LogIndex};
use super::error::LogError;
use super::health::{Health, add, get, raise};
use super::limits::{
    COMMAND_BYTES_MAX, ENTRIES_IN_FLIGHT, ENTRY_BYTES, ENTRY_COMMANDS, REFUSED_PAUSE, STOP_WAIT,
};
use super::raft::{Answer, Batch, Types};
use super::state::State;
use crate::mistake::Mistake;
use openraft::Raft;
use openraft::errors::{ClientWriteError, ForwardReason};
use openraft::raft::ClientWriteResult;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

/// Where a ticket's result goes.
pub(crate) type Waiter = oneshot::Sender<Result<LogIndex, LogError>>;

/// A command on its way.
pub(crate) struct Proposal {
    /// The term in which it was decided.
    pub term: u64,
    pub command: Command,
    pub waiter: Waiter,
}

/// The batcher's task.
pub(crate) struct Batcher {
    pub raft: Raft<Types, State>,
    pub health: Arc<Health>,
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    pub snapshot_after_bytes: u64,
    pub proposals: UnboundedReceiver<Proposal>,
    /// The clock of the last entry.
    pub at_ms: u64,
    /// Where waiters go when their entry has been applied.
    pub acks: Arc<Acks>,
    /// Decided in another term than the entry before it.
    pub left: Option<Proposal>,
}

/// An entry being packed.
#[derive(Default)]
struct Packed {
    term: u64,
    bytes: Vec<u8>,
    commands: Vec<Command>,
    waiters: Vec<Waiter>,
}

/// Those who wait for an entry. Dropped without an answer, they hear why.
struct Waiting {
    waiters: Vec<Waiter>,
    health: Arc<Health>,
    acks: Arc<Acks>,
    refused: UnboundedSender<(Batch, Waiting)>,
    _in_flight: OwnedSemaphorePermit,
}

/// Entries that were refused by a leader that has not heard of a majority for a while, and goes on leading: nobody else has been elected, as far as it knows.
type Refused = UnboundedReceiver<(Batch, Waiting)>;

impl Batcher {
    /// The task's loop. When it returns, all proposals have been answered and later ones are refused.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let in_flight = Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT));
        let (refuse, mut refused) = unbounded_channel();
        let mut snapshot_at = 0;
        loop {
            let permit = in_flight.clone().acquire_owned();
            let permit = tokio::select! {
                biased;
                // Among several, an entry may wait for others for ever.
                () = stop.cancelled(), if !self.acks.at_once() => break,
                again = self.again(&mut refused, &stop) => match again {
                    true => continue,
                    false => break,
                },
                permit = permit => permit,
            };
            let permit = permit.expect("the semaphore is never closed");
            let Some(first) = self.next(&stop).await else {
                break;
            };
            let packed = self.pack(first);
            if !packed.commands.is_empty() && !self.submit(packed, permit, &refuse).await {
                break;
            }
            self.trigger_snapshot(&mut snapshot_at).await;
        }
        refused.close();
        drop(refused);
        self.refuse_rest();
        // Comes when every entry has been answered; those that wait for others are answered when Raft ends.
        let answered = in_flight.acquire_many(ENTRIES_IN_FLIGHT as u32);
        match self.acks.at_once() {
            true => drop(answered.await),
            false => drop(tokio::time::timeout(STOP_WAIT, answered).await),
        }
    }

    /// Hands in again what was refused, if it was. False if Raft has ended. Cancel safe: who waits for it hears so.
    async fn again(&self, refused: &mut Refused, stop: &CancellationToken) -> bool {
        let Some((batch, waiting)) = refused.recv().await else {
            return false;
        };
        match stop
            .run_until_cancelled(tokio::time::sleep(REFUSED_PAUSE))
            .await
        {
            Some(()) => self.hand_in(batch, waiting).await,
            None => true,
        }
    }

    async fn next(&mut self, stop: &CancellationToken) -> Option<Proposal> {
        if let Some(left) = self.left.take() {
            return Some(left);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                // What is in the channel was proposed before; `recv` gives it out, then ends.
                self.proposals.close();
                self.proposals.recv().await
            }
            first = self.proposals.recv() => first,
        }
    }

    fn pack(&mut self, first: Proposal) -> Packed {
        let mut packed = Packed {
            term: first.term,
            ..Packed::default()
        };
        let mut next = Some(first);
        while let Some(proposal) = next {
            if proposal.term != packed.term {
                self.left = Some(proposal);
                break;
            }
            self.health.counters.queued.fetch_sub(1, Relaxed);
            packed.push(proposal);
            let full = packed.bytes.len() >= ENTRY_BYTES || packed.commands.len() >= ENTRY_COMMANDS;
            next = if full {
                None
            } else {
                self.proposals.try_recv().ok()
            };
        }
        packed
    }

    /// Hands an entry to Raft. False if Raft has ended.
    async fn submit(
        &mut self,
        packed: Packed,
        permit: OwnedSemaphorePermit,
        refused: &UnboundedSender<(Batch, Waiting)>,
    ) -> bool {
        let applied_ms = get(&self.health.counters.applied_at_ms);
        self.at_ms = self.at_ms.max(applied_ms).max((self.clock)());
        let count = packed.commands.len();
        let bytes = encode_entry(self.at_ms, packed.term, count, &packed.bytes);
        let entry = Entry {
            at_ms: self.at_ms,
            term: packed.term,
            commands: packed.commands,
        };
        add(&self.health.counters.commands, count as u64);
        raise(&self.health.counters.entry_commands_max, count as u64);
        let waiting = Waiting {
            waiters: packed.waiters,
            health: self.health.clone(),
            acks: self.acks.clone(),
            refused: refused.clone(),
            _in_flight: permit,
        };
        self.hand_in(Batch::proposed(bytes, entry), waiting).await
    }

    async fn hand_in(&self, batch: Batch, waiting: Waiting) -> bool {
        let kept = batch.clone();
        let answer = Answer::new(move |result| waiting.answer(kept, result));
        match self.raft.client_write_ff(batch, Some(answer)).await {
            Ok(()) => true,
            Err(fatal) => {
                self.health.fail(LogError::Consensus {
                    detail: fatal.to_string(),
                });
                false
            }
        }
    }

    async fn trigger_snapshot(&self, snapshot_at: &mut u64) {
        let counters = &self.health.counters;
        let written = get(&counters.written_bytes);
        let since = written - get(&counters.covered_bytes).max(*snapshot_at).min(written);
        if since >= self.snapshot_after_bytes {
            *snapshot_at = written;
            // Fails only when Raft has ended, which the next proposal reports.
            let _ = self.raft.trigger().snapshot().await;
        }
    }

    fn refuse_rest(&mut self) {
        self.proposals.close();
        while let Ok(proposal) = self.proposals.try_recv() {
            self.health.counters.queued.fetch_sub(1, Relaxed);
            // Nobody may be waiting any more.
            let _ = proposal.waiter.send(Err(self.health.why_stopped()));
        }
    }
}

impl Packed {
    fn push(&mut self, proposal: Proposal) {
        let before = self.bytes.len();
        encode_command(&mut self.bytes, &proposal.command);
        let bytes = self.bytes.len() - before;
        if bytes > COMMAND_BYTES_MAX {
            self.bytes.truncate(before);
            let _ = proposal.waiter.send(Err(LogError::TooLarge { bytes }));
            return;
        }
        self.commands.push(proposal.command);
        self.waiters.push(proposal.waiter);
    }
}

impl Waiting {
    fn answer(mut self, batch: Batch, result: ClientWriteResult<Types>) {
        match result {
            Err(ClientWriteError::ForwardToLeader(error))
                if error.reason == ForwardReason::LeaseExpired
                    && !Mistake::ForgottenProposal.is_made() =>
            {
                let refused = self.refused.clone();
                // A batcher that has ended hands in nothing more.
                let _ = refused.send((batch, self));
            }
            Ok(response) if !response.data => self.fail(&LogError::NotLeader),
            Ok(response) => {
                let index = LogIndex(response.log_id.index);
                self.acks.applied(index, std::mem::take(&mut self.waiters));
            }
            Err(ClientWriteError::LogEntryDiscarded(_)) => self.fail(&LogError::Unknown),
            Err(_) => self.fail(&LogError::NotLeader),
        }
    }

    fn fail(&mut self, error: &LogError) {
        for waiter in self.waiters.drain(..) {
            // Nobody may be waiting any more.
            let _ = waiter.send(Err(error.clone()));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.waiters.is_empty() {
            let error = self.health.why_stopped();
            self.fail(&error);
        }
    }
}
