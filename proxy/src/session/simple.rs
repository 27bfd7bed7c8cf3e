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
        // In the middle of a pipeline it ends what the pipeline has begun.
        if !self.front.answerer.plans() || self.implicit_here() {
            return self.pass_query(frame, &forward::UNKNOWN, None).await;
        }
        self.refresh().await?;
        let sql = frame.slice_ref(sql);
        let (planned, literals) = self.plan_query(&sql);
        self.forgive(&planned.plan);
        if let Plan::PassThrough(pass) = &planned.plan
            && let Some(parts) = self.parts(pass, &sql)
        {
            // Apart: it is large, and rare.
            return Box::pin(self.query_parts(&sql, &parts)).await;
        }
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

    pub(super) async fn answer_query(
        &mut self,
        plan: &Plan,
        params: &Params<'_>,
        sql: &Bytes,
    ) -> Answer {
        let formats = Formats::default();
        match plan {
            Plan::Read(read) => self.answer_read(read, params, formats, true, 0).await,
            Plan::Write(write) if self.may_write_here() => {
                self.answer_write(write, params, formats, true).await
            }
            Plan::Local(LocalPlan::Sequence(sequence)) => {
                self.answer_sequence(sequence, formats, true, 0).await
            }
            Plan::Local(local) => self.answer_transaction(local, sql).await,
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

    /// Whether a write may be queued, or kept for the COMMIT of a block that began here.
    pub(super) fn may_write_here(&self) -> bool {
        !matches!(self.tx, Tx::Upstream(_)) && self.known.writes_allowed
    }

    /// Ends a query answered here. It has ended the unnamed statement and portal, as it does in Postgres.
    pub(super) fn end_query(&mut self) {
        self.names.remove(b"", false);
        self.names.remove_portal(b"");
        if self.tx == Tx::Idle {
            self.names.clear_portals();
        }
        self.put_ready();
    }

    pub(super) async fn pass_query(
        &mut self,
        frame: &Bytes,
        plan: &Arc<PassPlan>,
        params: Option<&Params<'_>>,
    ) -> Result<(), End> {
        if !self.go_upstream(&plan.reason).await? || !self.secure(plan, params).await? {
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
        self.anchored &= plan.effects.prepares.is_empty() && !plan.effects.code;
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
