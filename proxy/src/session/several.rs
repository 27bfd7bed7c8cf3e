//! Texts of several statements in a simple query: one transaction, as in a pipeline, unless they begin and end some themselves. Carried out here one by one if each of them could be; from the
//! first that must pass through after all, the rest is Postgres's.

use super::answerer::Answerer;
use super::forward;
use super::literals;
use super::local::Answer;
use super::{End, Session, Tx};
use crate::plan::{LocalPlan, PassPlan, Plan};
use bytes::{BufMut, Bytes, BytesMut};
use ripen_pg::wire::frontend;
use std::sync::Arc;

/// One statement of a text.
pub(super) struct Part {
    /// Where it begins in the text.
    start: usize,
    sql: Bytes,
}

/// Whether a statement of a text may be carried out here.
fn kept(plan: &Plan) -> bool {
    match plan {
        Plan::Read(_) | Plan::Write(_) => true,
        Plan::Local(local) => !matches!(
            local,
            LocalPlan::Empty | LocalPlan::Show(_) | LocalPlan::Call(_)
        ),
        Plan::PassThrough(_) => false,
    }
}

impl<A: Answerer> Session<A> {
    /// The statements of a text, if all of them may be carried out here.
    pub(super) fn parts(&self, plan: &PassPlan, sql: &Bytes) -> Option<Vec<Part>> {
        if !plan.effects.multi || !self.answers_here() || !self.front.answerer.keeps_blocks() {
            return None;
        }
        let ranges = crate::plan::parse::split(std::str::from_utf8(sql).ok()?)?;
        let part = |range: std::ops::Range<usize>| {
            let (start, sql) = (range.start, sql.slice(range));
            let kept = kept(&self.plan_query(&sql).0.plan);
            kept.then_some(Part { start, sql })
        };
        ranges.into_iter().map(part).collect()
    }

    /// A Query message with these statements.
    pub(super) async fn query_parts(&mut self, sql: &Bytes, parts: &[Part]) -> Result<(), End> {
        for (at, part) in parts.iter().enumerate() {
            let (planned, literals) = self.plan_query(&part.sql);
            let values = literals.values();
            let params = literals::params(&values);
            let last = at + 1 == parts.len();
            let begins = matches!(planned.plan, Plan::Write(_)) && !last && self.tx == Tx::Idle;
            if begins && !self.begin_implicitly() {
                let plan = forward::passing(&planned.plan);
                return self.pass_rest(sql, part.start, &plan).await;
            }
            match self.answer_query(&planned.plan, &params, &part.sql).await {
                Answer::Done | Answer::More(_) => {}
                Answer::Error(error) => {
                    self.refuse(&error).await?;
                    return self.end_refused(b'Q');
                }
                Answer::Pass(plan) => return self.pass_rest(sql, part.start, &plan).await,
            }
        }
        if self.implicit && !self.sync_implicit().await? {
            // It is in Postgres, where only its end is missing.
            return self.end_refused(b'Q');
        }
        self.end_query();
        Ok(())
    }

    /// From there on the text goes to Postgres, whatever stands before it being blank: positions in errors count from its beginning.
    async fn pass_rest(&mut self, sql: &Bytes, start: usize, why: &PassPlan) -> Result<(), End> {
        let rest = self.plan_text(&sql.slice(start..), &[]);
        let plan = forward::passing(&rest.plan);
        let plan = Arc::new(PassPlan {
            reason: why.reason.clone(),
            ..PassPlan::clone(&plan)
        });
        let before = String::from_utf8_lossy(&sql[..start]).chars().count();
        let mut text = BytesMut::with_capacity(sql.len());
        text.put_bytes(b' ', before);
        text.extend_from_slice(&sql[start..]);
        let mut frame = BytesMut::with_capacity(text.len() + 8);
        frontend::query(&mut frame, &text);
        self.pass_query(&frame.freeze(), &plan, None).await
    }
}
