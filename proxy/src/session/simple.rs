//! Simple queries: one statement that can be answered here is; everything else is secured and relayed whole.

use super::answerer::Answerer;
use super::forward;
use super::literals;
use super::local::Answer;
use super::{End, Segment, Session, Tx};
use crate::eval::{Formats, Params};
use crate::plan::{LocalPlan, PassPlan, Plan};
use crate::relay::expect::Expect;
use bytes::Bytes;
use std::sync::Arc;

impl<A: Answerer> Session<A> {
    /// A Query message.
    pub(super) async fn query(&mut self, frame: &Bytes, sql: &[u8]) -> Result<(), End> {
        if !self.front.answerer.plans() {
            return self.pass_query(frame, &forward::UNKNOWN, None).await;
        }
        self.refresh().await?;
        let sql = frame.slice_ref(sql);
        let (planned, literals) = self.plan_query(&sql);
        let values = literals.values();
        let params = literals::params(&values);
        let answer = match &planned.plan {
            Plan::Local(local @ (LocalPlan::Show(_) | LocalPlan::Call(_)))
                if self.tx != Tx::Upstream(b'E') =>
            {
                if !self.settle().await? {
                    return Ok(());
                }
                self.answer_own(local, true).await
            }
            plan if self.answers_here() => self.answer_query(plan, &params, &sql).await,
            plan => Answer::Pass(forward::passing(plan)),
        };
        match answer {
            Answer::Done | Answer::More(_) => {
                self.end_query();
                Ok(())
            }
            Answer::Error(error) => {
                self.refuse(&error).await?;
                self.end_refused(b'Q')
            }
            Answer::Pass(plan) => self.pass_query(frame, &plan, Some(&params)).await,
        }
    }

    async fn answer_query(&mut self, plan: &Plan, params: &Params<'_>, sql: &Bytes) -> Answer {
        let formats = Formats::default();
        match plan {
            Plan::Read(read) => self.answer_read(read, params, formats, true, 0).await,
            Plan::Write(write) if self.may_write_here() => {
                self.answer_write(write, params, formats, true).await
            }
            Plan::Local(local) if self.answer_transaction(local, sql) => Answer::Done,
            plan => Answer::Pass(forward::passing(plan)),
        }
    }

    /// Whether nothing of the pipeline or the transaction is in Postgres.
    pub(super) fn answers_here(&self) -> bool {
        self.segment == Segment::Here
            && !matches!(self.tx, Tx::Upstream(_))
            && self.known.is_committed()
            && self.front.answerer.plans()
    }

    /// Whether a write may be queued.
    pub(super) fn may_write_here(&self) -> bool {
        self.tx == Tx::Idle && self.known.writes_allowed
    }

    /// Ends a query answered here. It has ended the unnamed statement and portal, as it does in Postgres.
    fn end_query(&mut self) {
        self.names.remove(b"", false);
        self.names.remove_portal(b"");
        if self.tx == Tx::Idle {
            self.names.clear_portals();
        }
        self.put_ready();
    }

    async fn pass_query(
        &mut self,
        frame: &Bytes,
        plan: &Arc<PassPlan>,
        params: Option<&Params<'_>>,
    ) -> Result<(), End> {
        if !self.go_upstream().await? || !self.secure(plan, params).await? {
            return self.end_refused(b'Q');
        }
        self.executed(plan);
        self.before_names(plan);
        let before = self.names.remove(b"", true).map(Box::new);
        self.names.remove_portal(b"");
        self.forward(frame, Expect::Query { before });
        self.segment = Segment::Sent;
        Ok(())
    }

    /// SQL that speaks of prepared statements finds those that lived here, and may end them or make new ones.
    pub(super) fn before_names(&mut self, plan: &PassPlan) {
        for name in &plan.effects.prepares {
            if name.is_empty() {
                self.ensure_all_statements();
                self.names.forget_statements();
            } else {
                self.ensure_statement(name.as_bytes());
                self.names.cede(name.as_bytes());
            }
        }
    }
}
