//! The transaction of a pipeline: statements of the extended protocol up to Sync are one, without a BEGIN. Where more than one of them is kept here, it is a block like any
//! other that ends with Sync; once it is in Postgres, it is begun and committed there in the client's place.

use super::answerer::Answerer;
use super::local::{self, Answer, put_tag};
use super::{End, Segment, Session, Tx};
use crate::plan::LocalPlan;
use crate::relay::expect::Expect;
use ripen_pg::sqlstate::{ErrorFields, Field, SqlState};
use ripen_pg::wire::{backend, frontend};

const COMMIT: LocalPlan = LocalPlan::Commit { chain: false };

impl<A: Answerer> Session<A> {
    /// Begins a block for a write that is not the last of its pipeline. False: that is Postgres's.
    pub(super) fn begin_implicitly(&mut self) -> bool {
        let may =
            self.tx == Tx::Idle && self.front.answerer.keeps_blocks() && self.begin_here(b"BEGIN");
        self.implicit |= may;
        may
    }

    /// Whether the block that Postgres knows nothing of was begun by a pipeline.
    pub(super) fn implicit_here(&self) -> bool {
        self.implicit && self.in_block()
    }

    /// The pipeline goes to Postgres, and its block has done nothing yet: Postgres's own transaction will do.
    pub(super) fn forget_idle_implicit(&mut self) {
        if self.implicit_here() && !self.front.answerer.has_done(&self.block) {
            self.tx = Tx::Idle;
            self.block = A::Block::default();
            self.implicit = false;
        }
    }

    /// A Sync whose block began here: commits it. False: Postgres is to hear of the Sync.
    pub(super) async fn sync_implicit(&mut self) -> Result<bool, End> {
        if self.in_block() {
            match self.commit_here(&COMMIT).await {
                None => return Ok(true),
                Some(Answer::Error(error)) => {
                    backend::error_response(&mut self.io.client.output, &error);
                    return Ok(true);
                }
                Some(Answer::Pass(plan)) => {
                    // What cannot be done is said in Postgres's place, and Sync comes behind it.
                    self.go_upstream(&plan.reason).await?;
                }
                Some(Answer::Done | Answer::More(_)) => unreachable!("a COMMIT has no rows"),
            }
        } else if let Some(error) = self.doomed.take() {
            self.refuse_upstream(error);
        }
        Ok(false)
    }

    /// Postgres has done all of a pipeline: its block is committed there, in which a failed one is rolled back. False: it is none of these.
    pub(super) fn commit_upstream(&mut self, status: u8) -> bool {
        if !std::mem::take(&mut self.implicit) || status == b'I' {
            return false;
        }
        self.tx = Tx::Upstream(status);
        self.executed(&local::passing(&COMMIT));
        frontend::query(self.upstream(), b"COMMIT");
        self.relay.awaited.push(Expect::End);
        self.segment = Segment::Sent;
        true
    }

    /// A statement that begins or ends a transaction or a part of one, in the block of a pipeline. `None`: as in any other.
    pub(super) fn control_implicit(&mut self, plan: &LocalPlan) -> Option<Answer> {
        if !self.implicit_here() {
            return None;
        }
        match plan {
            LocalPlan::Begin { modes, start } => {
                // From now on it ends with COMMIT.
                self.implicit = false;
                if !modes.is_read_committed() {
                    return Some(Answer::Pass(local::passing(plan)));
                }
                put_tag(&mut self.io.client.output, local::begin_tag(*start));
                Some(Answer::Done)
            }
            LocalPlan::Commit { chain: false } | LocalPlan::Rollback { chain: false } => {
                let what = "there is no transaction in progress";
                let routine = match plan {
                    LocalPlan::Commit { .. } => "EndTransactionBlock",
                    _ => "UserAbortTransactionBlock",
                };
                let notice = ErrorFields::warning(SqlState::NO_ACTIVE_SQL_TRANSACTION, what)
                    .with(Field::Routine, routine);
                backend::notice_response(&mut self.io.client.output, &notice);
                None
            }
            LocalPlan::Savepoint(_) => Some(only_in_blocks("SAVEPOINT")),
            LocalPlan::Release(_) => Some(only_in_blocks("RELEASE SAVEPOINT")),
            LocalPlan::RollbackTo(_) => Some(only_in_blocks("ROLLBACK TO SAVEPOINT")),
            LocalPlan::Commit { .. } => Some(only_in_blocks("COMMIT AND CHAIN")),
            LocalPlan::Rollback { .. } => Some(only_in_blocks("ROLLBACK AND CHAIN")),
            _ => None,
        }
    }
}

fn only_in_blocks(what: &str) -> Answer {
    let message = format!("{what} can only be used in transaction blocks");
    let error = ErrorFields::error(SqlState::NO_ACTIVE_SQL_TRANSACTION, message);
    Answer::Error(error.with(Field::Routine, "CheckTransactionBlock"))
}
