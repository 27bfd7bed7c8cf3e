//! Answers from here: rows from memory, queued writes, our own statements, the beginning and end of transactions that Postgres knows nothing of.
//! Writes into the client's buffer only; never to Postgres. What is refused leaves no trace in the buffer.

use super::answerer::{Answerer, Refusal};
use super::forward::{cancelled, unless_cancelled};
use super::{Route, Session, Tx};
use crate::eval::{Field, Formats, Params};
use crate::plan::{
    Effects, LocalPlan, PassPlan, Plan, ReadPlan, Reason, ScopeTemplate, SequenceAsk, SequencePlan,
    StatementKind, TxControl, WritePlan,
};
use bytes::{BufMut, Bytes, BytesMut};
use ripen_cachestore::catalog::Epoch;
use ripen_pg::ids::TableOid;
use ripen_pg::sqlstate::{self, ErrorFields, SqlState};
use ripen_pg::wire::backend::{self, DataRow, FieldDescription};
use std::fmt::Write;
use std::sync::Arc;

/// What became of a statement that was to be answered here.
pub(super) enum Answer {
    /// It is answered.
    Done,
    /// It is answered, and there are more rows than were asked for.
    More(Bytes),
    /// Postgres is to answer.
    Pass(Arc<PassPlan>),
    /// The client is to be told this.
    Error(ErrorFields),
}

/// The parameter types of a plan that is carried out here.
pub(super) fn params(plan: &Plan) -> &[ripen_pg::ids::TypeOid] {
    match plan {
        Plan::Read(read) => &read.params,
        Plan::Write(write) => &write.params,
        Plan::Local(_) | Plan::PassThrough(_) => &[],
    }
}

/// The output columns of a plan that is carried out here; `None`: no rows.
pub(super) fn fields(plan: &Plan) -> Option<&[Field]> {
    match plan {
        Plan::Read(read) => Some(&read.fields),
        Plan::Write(write) => write.returning.as_deref(),
        Plan::Local(LocalPlan::Sequence(sequence)) => Some(std::slice::from_ref(&sequence.field)),
        Plan::Local(_) | Plan::PassThrough(_) => None,
    }
}

/// Whether a client that was told about the columns of one plan may be answered by another, as Postgres sees it.
pub(super) fn same_columns(one: &Plan, other: &Plan) -> bool {
    let same = |one: &Field, other: &Field| {
        let shape = |field: &Field| (field.type_oid, field.length, field.type_modifier);
        one.name == other.name && shape(one) == shape(other)
    };
    match (fields(one), fields(other)) {
        (Some(one), Some(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// What Postgres answers when a prepared statement's columns are not what they were.
pub(super) fn reshaped() -> ErrorFields {
    let message = "cached plan must not change result type";
    ErrorFields::error(SqlState::FEATURE_NOT_SUPPORTED, message)
        .with(sqlstate::Field::Routine, "RevalidateCachedQuery")
}

/// What Postgres answers when something is asked of a portal in a failed transaction.
pub(super) fn aborted(routine: &'static str) -> ErrorFields {
    let message = "current transaction is aborted, commands ignored until end of transaction block";
    ErrorFields::error(SqlState::IN_FAILED_SQL_TRANSACTION, message)
        .with(sqlstate::Field::Routine, routine)
}

/// What Postgres is told when one of our plans is relayed all the same.
pub(super) fn passing(local: &LocalPlan) -> Arc<PassPlan> {
    if let LocalPlan::Sequence(sequence) = local {
        return asking(sequence);
    }
    let transaction = match local {
        LocalPlan::Begin { modes, .. } => vec![TxControl::Begin(*modes)],
        LocalPlan::Commit { chain } => vec![TxControl::Commit { chain: *chain }],
        LocalPlan::Rollback { chain } => vec![TxControl::Rollback { chain: *chain }],
        LocalPlan::Savepoint(_) | LocalPlan::Release(_) => vec![TxControl::Savepoint],
        LocalPlan::RollbackTo(_) => vec![TxControl::RollbackTo],
        LocalPlan::Empty | LocalPlan::Show(_) | LocalPlan::Call(_) | LocalPlan::Sequence(_) => {
            Vec::new()
        }
    };
    Arc::new(PassPlan {
        reads: ScopeTemplate::Nothing,
        writes: ScopeTemplate::Nothing,
        effects: Effects {
            transaction,
            ..Effects::default()
        },
        reason: Reason::new("transaction", "the transaction is in Postgres"),
        kind: StatementKind::Transaction,
        widened: None,
        epoch: Epoch::default(),
    })
}

/// The same of a question for a value of a sequence.
fn asking(sequence: &SequencePlan) -> Arc<PassPlan> {
    Arc::new(PassPlan {
        reads: ScopeTemplate::Nothing,
        writes: ScopeTemplate::Nothing,
        effects: Effects {
            session_locks: true,
            sequences: sequence.ask.sequence_use(),
            ..Effects::default()
        },
        reason: Reason::new("sequence", "the session's values of it are Postgres's"),
        kind: StatementKind::Select,
        widened: None,
        epoch: Epoch::default(),
    })
}

/// Writes RowDescription, or NoData for a plan without rows.
pub(super) fn put_row_description(
    out: &mut BytesMut,
    fields: Option<&[Field]>,
    formats: Formats<'_>,
) {
    let Some(fields) = fields else {
        return backend::no_data(out);
    };
    let described = fields
        .iter()
        .enumerate()
        .map(|(index, field)| FieldDescription {
            name: field.name.as_bytes(),
            table: TableOid(field.table),
            attnum: field.attnum,
            type_oid: field.type_oid,
            type_len: field.length,
            type_modifier: field.type_modifier,
            format: formats.get(index),
        });
    backend::row_description(out, described);
}

pub(super) fn put_tag(out: &mut BytesMut, tag: impl std::fmt::Display) {
    let start = out.len();
    out.put_slice(b"C\0\0\0\0");
    write!(out, "{tag}").expect("writing to memory does not fail");
    out.put_u8(0);
    let length = u32::try_from(out.len() - start - 1).expect("a tag is short");
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
}

pub(super) fn begin_tag(start: bool) -> &'static str {
    if start { "START TRANSACTION" } else { "BEGIN" }
}

/// Moves the first `limit` DataRows from `rows` to `out`; gives their number.
fn move_rows(rows: &mut Bytes, out: &mut BytesMut, limit: usize) -> usize {
    let (mut count, mut end) = (0, 0);
    while count < limit
        && let Some((_, length)) = crate::relay::head(&rows[end..])
    {
        (count, end) = (count + 1, end + length + 1);
    }
    out.extend_from_slice(&rows.split_to(end));
    count
}

impl<A: Answerer> Session<A> {
    /// Answers a read: its RowDescription if `describe`, its rows (at most `limit`, if that is not 0), its tag.
    pub(super) async fn answer_read(
        &mut self,
        plan: &ReadPlan,
        params: &Params<'_>,
        formats: Formats<'_>,
        describe: bool,
        limit: usize,
    ) -> Answer {
        if self.in_block() {
            let params = (params, formats);
            return self.answer_read_in(plan, params, describe, limit).await;
        }
        if plan.lock.is_some() {
            return Answer::Pass(Arc::clone(&plan.fallback));
        }
        self.route = Route::Read;
        let asker = super::asker(&self.me, &self.known, &self.route);
        let out = &mut self.io.client.output;
        let before = out.len();
        if describe {
            put_row_description(out, Some(&plan.fields), formats);
        }
        let mut rows = BytesMut::new();
        let target = if limit == 0 { &mut *out } else { &mut rows };
        let reading = self
            .front
            .answerer
            .read(asker, plan, params, formats, target);
        let refusal = match unless_cancelled(&self.me, reading).await {
            Some(Ok(count)) if limit == 0 => {
                put_tag(out, format_args!("SELECT {count}"));
                return Answer::Done;
            }
            Some(Ok(_)) => return answer_rows(rows.freeze(), out, limit),
            Some(Err(refusal)) => refusal,
            None => Refusal::Error(cancelled()),
        };
        out.truncate(before);
        self.refused(refusal, &plan.fallback)
    }

    /// Queues a write and answers it. Waits until it is durable; a cancel request does not interrupt that.
    pub(super) async fn answer_write(
        &mut self,
        plan: &WritePlan,
        params: &Params<'_>,
        formats: Formats<'_>,
        describe: bool,
    ) -> Answer {
        if self.in_block() {
            let params = (params, formats);
            return self.answer_write_in(plan, params, describe).await;
        }
        self.route = Route::Write;
        let asker = super::asker(&self.me, &self.known, &self.route);
        let out = &mut self.io.client.output;
        let before = out.len();
        if describe && let Some(fields) = &plan.returning {
            put_row_description(out, Some(fields), formats);
        }
        match self
            .front
            .answerer
            .write(asker, plan, params, formats, out)
            .await
        {
            Ok(tag) => {
                put_tag(out, tag);
                Answer::Done
            }
            Err(refusal) => {
                out.truncate(before);
                self.refused(refusal, &plan.fallback)
            }
        }
    }

    /// Answers a lone question for a value of a sequence.
    pub(super) async fn answer_sequence(
        &mut self,
        plan: &SequencePlan,
        formats: Formats<'_>,
        describe: bool,
        limit: usize,
    ) -> Answer {
        let asker = super::asker(&self.me, &self.known, &self.route);
        let value = match &plan.ask {
            SequenceAsk::Current(sequence) => self.known.given.value(Some(*sequence)),
            SequenceAsk::Last => self.known.given.value(None),
            SequenceAsk::Next(sequence) if self.known.writes_allowed => {
                self.front.answerer.next_value(asker, sequence).await
            }
            SequenceAsk::Next(_) => None,
        };
        let Some(value) = value else {
            return Answer::Pass(asking(plan));
        };
        let out = &mut self.io.client.output;
        if describe {
            put_row_description(out, Some(std::slice::from_ref(&plan.field)), formats);
        }
        let mut row = BytesMut::new();
        let mut data = DataRow::begin(&mut row, 1);
        match formats.get(0) {
            1 => data.put_value(&value.to_be_bytes()),
            _ => data.put_value(value.to_string().as_bytes()),
        }
        data.finish();
        self.route = Route::Read;
        answer_rows(row.freeze(), out, limit)
    }

    /// Answers one of our own statements, with its RowDescription if `describe`.
    pub(super) async fn answer_own(&mut self, plan: &LocalPlan, describe: bool) -> Answer {
        let asker = super::asker(&self.me, &self.known, &self.route);
        let out = &mut self.io.client.output;
        let before = out.len();
        let answering = self.front.answerer.local(asker, plan, describe, out);
        match unless_cancelled(&self.me, answering).await {
            Some(Ok(())) => Answer::Done,
            Some(Err(error)) => {
                out.truncate(before);
                Answer::Error(error)
            }
            None => {
                out.truncate(before);
                Answer::Error(cancelled())
            }
        }
    }

    /// Begins or ends a transaction that Postgres need not know of, or a part of one.
    pub(super) async fn answer_transaction(&mut self, plan: &LocalPlan, sql: &Bytes) -> Answer {
        let pass = || Answer::Pass(passing(plan));
        if let Some(answer) = self.control_implicit(plan) {
            return answer;
        }
        let tag = match (plan, &self.tx) {
            (LocalPlan::Begin { modes, start }, Tx::Idle) => {
                if !modes.is_read_committed() || !self.begin_here(sql) {
                    return pass();
                }
                begin_tag(*start)
            }
            (LocalPlan::Commit { chain: false }, Tx::Here(_)) => {
                if let Some(answer) = self.commit_here(plan).await {
                    return answer;
                }
                "COMMIT"
            }
            (LocalPlan::Rollback { chain: false }, Tx::Here(_)) => {
                self.roll_back_here().await;
                "ROLLBACK"
            }
            (
                LocalPlan::Savepoint(_) | LocalPlan::Release(_) | LocalPlan::RollbackTo(_),
                Tx::Here(_),
            ) => {
                if let Some(answer) = self.savepoint_here(plan).await {
                    return answer;
                }
                match plan {
                    LocalPlan::Savepoint(_) => "SAVEPOINT",
                    LocalPlan::Release(_) => "RELEASE",
                    _ => "ROLLBACK",
                }
            }
            _ => return pass(),
        };
        put_tag(&mut self.io.client.output, tag);
        Answer::Done
    }

    /// Begins a block by these words. False: a transaction that begins now is Postgres's.
    pub(super) fn begin_here(&mut self, sql: &[u8]) -> bool {
        let may = self.known.may_begin_here && !self.known.stale;
        if may {
            self.tx = Tx::Here(Bytes::copy_from_slice(sql));
            self.spoken = false;
            self.block = self.front.answerer.begin();
        }
        may
    }

    pub(super) fn refused(&mut self, refusal: Refusal, fallback: &Arc<PassPlan>) -> Answer {
        match refusal {
            Refusal::PassThrough(reason) => {
                let pass = PassPlan {
                    reason,
                    ..PassPlan::clone(fallback)
                };
                Answer::Pass(Arc::new(pass))
            }
            Refusal::Error(error) => Answer::Error(error),
        }
    }
}

/// Answers from rows that are already here, as far as `limit` allows (0: all of them).
pub(super) fn answer_rows(mut rows: Bytes, out: &mut BytesMut, limit: usize) -> Answer {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let count = move_rows(&mut rows, out, limit);
    if count == limit {
        backend::portal_suspended(out);
        return Answer::More(rows);
    }
    put_tag(out, format_args!("SELECT {count}"));
    Answer::Done
}
