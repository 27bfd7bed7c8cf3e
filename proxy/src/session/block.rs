//! Transaction blocks that Postgres knows nothing of: their statements are answered here, their writes wait for COMMIT, and the first that needs Postgres moves the
//! whole block there. Never decides about rows; the answerer does.

use super::answerer::{Answerer, Refusal};
use super::forward::{cancelled, error_frame, unless_cancelled};
use super::local::{self, Answer, answer_rows, put_row_description, put_tag};
use super::{End, Route, Segment, Session, Tx};
use crate::eval::{Formats, Params};
use crate::plan::{LocalPlan, PassPlan, Plan, ReadPlan, Reason, WritePlan};
use crate::relay::OwnAnswer;
use crate::relay::expect::Expect;
use bytes::{Bytes, BytesMut};
use ripen_cachestore::flush::redo::Redo;
use ripen_pg::sqlstate::{ErrorFields, SqlState};
use ripen_pg::wire::frontend::{self, Target};
use std::sync::{Arc, LazyLock};

/// The name under which statements of a block are prepared that moves to Postgres.
const REDO_NAME: &[u8] = b"ripen_redo";

/// The name of a statement that does nothing.
const NOTHING_NAME: &[u8] = b"ripen_nothing";

/// Goes behind the text that began a block which has read or written: in Postgres the isolation level cannot be set any more after that.
const TAKES_SNAPSHOT: &[u8] = b"\n;SELECT";

/// Why a block moves to Postgres that waits for its client.
static NUDGED: LazyLock<Reason> = LazyLock::new(|| {
    let text = "a statement in Postgres wants rows that the transaction has locked";
    Reason::new("nudged", text)
});

impl<A: Answerer> Session<A> {
    /// Whether the session is in a block that Postgres knows nothing of.
    pub(super) fn in_block(&self) -> bool {
        matches!(self.tx, Tx::Here(_))
    }

    /// As [`Session::answer_read`], in a block.
    pub(super) async fn answer_read_in(
        &mut self,
        plan: &ReadPlan,
        (params, formats): (&Params<'_>, Formats<'_>),
        describe: bool,
        limit: usize,
    ) -> Answer {
        self.route = Route::Read;
        let mut rows = BytesMut::new();
        let asker = super::asker(&self.me, &self.known, &self.route);
        let answerer = &self.front.answerer;
        let reading = answerer.read_in(asker, &mut self.block, plan, params, formats, &mut rows);
        let reading = unless_cancelled(&self.me, reading);
        match self.io.while_waiting(reading).await {
            Some(Ok(_)) => {
                self.spoken = true;
                let out = &mut self.io.client.output;
                if describe {
                    put_row_description(out, Some(&plan.fields), formats);
                }
                answer_rows(rows.freeze(), out, limit)
            }
            Some(Err(refusal)) => self.refused(refusal, &plan.fallback),
            None => Answer::Error(cancelled()),
        }
    }

    /// As [`Session::answer_write`], in a block: it may wait for rows, and be cancelled meanwhile.
    pub(super) async fn answer_write_in(
        &mut self,
        plan: &WritePlan,
        (params, formats): (&Params<'_>, Formats<'_>),
        describe: bool,
    ) -> Answer {
        self.route = Route::Write;
        let mut rows = BytesMut::new();
        let asker = super::asker(&self.me, &self.known, &self.route);
        let answerer = &self.front.answerer;
        let writing = answerer.write_in(asker, &mut self.block, plan, params, formats, &mut rows);
        let writing = unless_cancelled(&self.me, writing);
        match self.io.while_waiting(writing).await {
            Some(Ok(tag)) => {
                self.spoken = true;
                let out = &mut self.io.client.output;
                if describe && let Some(fields) = &plan.returning {
                    put_row_description(out, Some(fields), formats);
                }
                out.extend_from_slice(&rows);
                put_tag(out, tag);
                Answer::Done
            }
            Some(Err(refusal)) => self.refused(refusal, &plan.fallback),
            None => Answer::Error(cancelled()),
        }
    }

    /// SAVEPOINT and its kin. `None`: it is done.
    pub(super) async fn savepoint_here(&mut self, plan: &LocalPlan) -> Option<Answer> {
        let pointing = self.front.answerer.savepoint(&mut self.block, plan);
        let pointing = unless_cancelled(&self.me, pointing);
        match self.io.while_waiting(pointing).await {
            Some(Ok(true)) => None,
            Some(Ok(false)) => Some(Answer::Pass(local::passing(plan))),
            Some(Err(refusal)) => Some(self.refused(refusal, &local::passing(plan))),
            None => Some(Answer::Error(cancelled())),
        }
    }

    /// ROLLBACK of a block.
    pub(super) async fn roll_back_here(&mut self) {
        let rolling = self.front.answerer.roll_back(&mut self.block);
        self.io.while_waiting(rolling).await;
        self.end_here();
    }

    /// COMMIT of a block. Waits until it is durable; a cancel request does not interrupt that. `None`: it is done.
    pub(super) async fn commit_here(&mut self, plan: &LocalPlan) -> Option<Answer> {
        let asker = super::asker(&self.me, &self.known, &self.route);
        let committing = self.front.answerer.commit(asker, &mut self.block);
        match self.io.while_waiting(committing).await {
            Ok(()) => {
                self.end_here();
                None
            }
            Err(Refusal::PassThrough(reason)) => {
                let pass = PassPlan::clone(&local::passing(plan));
                Some(Answer::Pass(Arc::new(PassPlan { reason, ..pass })))
            }
            Err(Refusal::Error(error)) => {
                self.end_here();
                Some(Answer::Error(error))
            }
        }
    }

    /// The block is over.
    pub(super) fn end_here(&mut self) {
        self.tx = Tx::Idle;
        self.implicit = false;
        self.block = A::Block::default();
        self.names.clear_portals();
    }

    /// A block that began here goes on in Postgres, if there is one: it is begun there, and what it has done is done again. Err: it cannot be; Postgres has a transaction all the
    /// same, which must fail with this ErrorResponse. There must be a connection.
    pub(super) async fn move_upstream(&mut self, why: &Reason) -> Result<Result<(), Bytes>, End> {
        self.forget_idle_implicit();
        let Tx::Here(begin) = &self.tx else {
            return Ok(Ok(()));
        };
        let begin = begin.clone();
        let promoted = self.promote(why).await;
        match self.spoken {
            true => frontend::query(self.upstream(), &[&begin[..], TAKES_SNAPSHOT].concat()),
            false => frontend::query(self.upstream(), &begin),
        }
        self.relay.awaited.push(Expect::Own);
        self.tx = Tx::Upstream(b'T');
        self.snapshots.begun();
        let mut redone = match promoted {
            Ok(redo) if redo.is_empty() => Ok(()),
            Ok(redo) => self.redo(&redo).await?,
            Err(error) => Err(error_frame(&error)),
        };
        if redone.is_ok() && self.front.answerer.has_done(&self.block) {
            let moved = self.front.answerer.moved(&mut self.block);
            let moved = self.io.while_waiting(moved).await;
            redone = moved.map_err(|error| error_frame(&error));
        }
        if redone.is_ok() {
            self.anchor();
        }
        // Postgres has its own locks on the rows now, or does not need them.
        self.block = A::Block::default();
        Ok(redone)
    }

    /// Prepares an empty statement, once for each connection. Anything that is analysed would take a snapshot, after which the isolation level cannot be set any more.
    fn anchor(&mut self) {
        if std::mem::replace(&mut self.anchored, true) {
            return;
        }
        let out = self.upstream();
        // What ran since may have ended it, or not.
        frontend::close(out, Target::Statement(NOTHING_NAME));
        frontend::parse(out, NOTHING_NAME, b"", std::iter::empty());
        // On its own: the client's pipeline has not begun.
        frontend::sync(out);
        self.relay.awaited.push(Expect::Redo);
    }

    /// Whether a statement that lives only here is bound in a failed transaction: there Postgres cannot be told of it any more, and would complain of that.
    pub(super) fn may_bind_in_vain(&self, plan: &Plan) -> bool {
        self.tx == Tx::Upstream(b'E') && self.anchored && !matches!(plan, Plan::Local(_))
    }

    /// Has Postgres say of a Bind, in its own words, that the transaction has failed.
    pub(super) fn bind_in_vain(&mut self, portal: Bytes) {
        let before = self.names.remove_portal(&portal).map(Box::new);
        let nothing = std::iter::empty;
        frontend::bind(
            self.upstream(),
            b"",
            NOTHING_NAME,
            nothing(),
            std::iter::empty(),
            nothing(),
        );
        self.relay.awaited.push(Expect::Bind {
            name: portal,
            before,
            quiet: false,
        });
    }

    async fn promote(&mut self, why: &Reason) -> Result<Vec<Redo>, ErrorFields> {
        if !self.front.answerer.has_done(&self.block) {
            return Ok(Vec::new());
        }
        self.holding = true;
        let asker = super::asker(&self.me, &self.known, &self.route);
        let answerer = &self.front.answerer;
        let promoting = answerer.promote(asker, &mut self.block, &mut self.holds, why);
        let promoting = unless_cancelled(&self.me, promoting);
        let promoted = self.io.while_waiting(promoting).await;
        promoted.unwrap_or_else(|| Err(cancelled()))
    }

    /// Has Postgres do again what the block has done, and compares how many rows it finds. Err: an ErrorResponse.
    async fn redo(&mut self, redo: &[Redo]) -> Result<Result<(), Bytes>, End> {
        // The answer to BEGIN comes first, and is the session's own, too.
        let begun = self.own_answer().await?;
        if let Some(error) = begun.error {
            return Ok(Err(error));
        }
        for statement in redo {
            put_redo(self.upstream(), statement);
        }
        frontend::sync(self.upstream());
        self.relay.awaited.push(Expect::Redo);
        let answer = self.own_answer().await?;
        Ok(compare(redo, answer))
    }

    /// Whether the block could move to Postgres now, if somebody there wants its rows.
    pub(super) fn may_step_aside(&self) -> bool {
        self.in_block()
            && self.segment == Segment::Here
            && !self.skipping
            && self.front.answerer.has_done(&self.block)
    }

    /// Moves the block to Postgres although its client has not asked for anything that needs it.
    pub(super) async fn step_aside(&mut self) -> Result<(), End> {
        if !self.may_step_aside() {
            return Ok(());
        }
        if self.io.upstream.is_none() {
            // Without Postgres there is nobody who could want the rows there.
            if !self.attach_quietly().await {
                return Ok(());
            }
            self.ask_server().await?;
            self.compare().await?;
        }
        self.doomed = self.move_upstream(&NUDGED).await?.err();
        Ok(())
    }

    /// Whoever rolls back need not be told that the transaction had failed.
    pub(super) fn forgive(&mut self, plan: &Plan) {
        if matches!(plan, Plan::Local(LocalPlan::Rollback { .. })) {
            self.doomed = None;
        }
    }
}

fn put_redo(out: &mut BytesMut, redo: &Redo) {
    frontend::parse(out, REDO_NAME, redo.sql.as_bytes(), std::iter::empty());
    for call in &redo.calls {
        let values = call.iter().map(Option::as_deref);
        frontend::bind(out, b"", REDO_NAME, [1], values, std::iter::empty());
        frontend::execute(out, b"", 0);
    }
    frontend::close(out, Target::Statement(REDO_NAME));
}

/// Whether every statement was about as many rows as it must be.
fn compare(redo: &[Redo], answer: OwnAnswer) -> Result<(), Bytes> {
    if let Some(error) = answer.error {
        return Err(error);
    }
    let mut counts = answer.counts.into_iter();
    for statement in redo {
        let found: u64 = counts.by_ref().take(statement.calls.len()).sum();
        if statement.rows.is_some_and(|rows| rows != found) {
            return Err(error_frame(&overtaken()));
        }
    }
    Ok(())
}

/// Rows that the block had locked are not what they were: only a writer whom Ripen does not see can have changed them.
fn overtaken() -> ErrorFields {
    let message = "could not serialize access due to concurrent update";
    ErrorFields::error(SqlState::SERIALIZATION_FAILURE, message)
        .detail("Rows that the transaction has written were changed in Postgres by somebody who does not go through Ripen.")
        .hint("Retry the transaction.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redo(rows: Option<u64>, calls: usize) -> Redo {
        Redo {
            sql: String::new(),
            calls: vec![Vec::new(); calls],
            rows,
        }
    }

    #[test]
    fn every_statement_must_find_its_rows() {
        let statements = [redo(Some(3), 2), redo(None, 1), redo(Some(1), 1)];
        let answer = |counts: &[u64]| OwnAnswer {
            counts: counts.to_vec(),
            ..OwnAnswer::default()
        };
        assert!(compare(&statements, answer(&[1, 2, 9, 1])).is_ok());
        assert!(compare(&statements, answer(&[1, 1, 9, 1])).is_err());
        assert!(compare(&statements, answer(&[1, 2, 9])).is_err());
        let failed = OwnAnswer {
            error: Some(Bytes::from_static(b"E")),
            ..answer(&[1, 2, 9, 1])
        };
        assert_eq!(compare(&statements, failed), Err(Bytes::from_static(b"E")));
    }
}
