//! The extended protocol: Parse, Bind, Describe, Execute, Close, Sync. Each is answered here while the whole pipeline so far was, else relayed.

use super::answerer::Answerer;
use super::forward::{self, Bound};
use super::local::{self, Answer};
use super::{End, Segment, Session, Tx};
use crate::eval::Formats;
use crate::plan::{LocalPlan, Plan};
use crate::portals::{Portal, PortalState, Slot, Statement};
use crate::relay::HEADER_BYTES;
use crate::relay::expect::Expect;
use bytes::Bytes;
use ripen_pg::ids::TypeOid;
use ripen_pg::wire::backend;
use ripen_pg::wire::frontend::{Bind, Execute, Frontend, Target, decode};
use smallvec::SmallVec;
use std::sync::Arc;

/// Whether Postgres would not understand the statement.
fn only_ours(plan: &Plan) -> bool {
    matches!(plan, Plan::Local(LocalPlan::Show(_) | LocalPlan::Call(_)))
}

/// Whether a plan can be carried out here at all.
fn ours(plan: &Plan) -> bool {
    !matches!(plan, Plan::PassThrough(_) | Plan::Local(LocalPlan::Empty))
}

/// Whether a change of the schema has given the statement other columns than its client was told. Unknown columns are left to Postgres.
fn is_reshaped(slot: &Slot) -> bool {
    let (first, now) = (&slot.first.plan, &slot.planned.plan);
    ours(first) && ours(now) && !local::same_columns(first, now)
}

impl<A: Answerer> Session<A> {
    /// Whether the message may be answered here, its statement having this plan. Waits for Postgres if ours is the only place that can.
    async fn answerable(&mut self, plan: &Plan) -> Result<bool, End> {
        if only_ours(plan) && self.tx != Tx::Upstream(b'E') {
            return self.settle().await;
        }
        Ok(ours(plan) && self.answers_here())
    }

    /// A Parse message.
    pub(super) async fn parse(&mut self, frame: &Bytes) -> Result<(), End> {
        self.refresh().await?;
        // A copy: a slice would keep the whole read buffer.
        let kept = Bytes::copy_from_slice(frame);
        let Ok(Frontend::Parse(parse)) = decode(b'P', &kept[HEADER_BYTES..]) else {
            unreachable!("it was decoded before");
        };
        let (name, sql) = (kept.slice_ref(parse.name), kept.slice_ref(parse.sql));
        let declared: SmallVec<[TypeOid; 4]> = parse.types.iter().collect();
        let planned = self.plan_text(&sql, &declared);
        let statement = Arc::new(Statement {
            frame: kept.clone(),
            name: name.clone(),
            sql,
            declared,
        });
        let slot = Slot {
            statement,
            first: Arc::clone(&planned),
            planned,
            version: self.known.version,
            upstream: false,
        };
        let taken = !name.is_empty()
            && (self.names.is_foreign(&name) || self.names.statement(&name).is_some());
        let room = name.is_empty() || self.names.has_room();
        if !taken && room && self.answerable(&slot.planned.plan).await? {
            self.names.put(slot);
            backend::parse_complete(&mut self.io.client.output);
            return Ok(());
        }
        if self.skipping {
            return Ok(());
        }
        let plan = forward::passing(&slot.planned.plan);
        if !self.go_upstream(&plan.reason).await? {
            return Ok(());
        }
        self.recall_ahead(&plan).await?;
        if !self.secure_analysis(&plan).await? {
            return Ok(());
        }
        let before = match self.names.statement(&name).cloned() {
            Some(existing) if taken => {
                self.ensure_statement(&name);
                Some(Slot {
                    upstream: true,
                    ..existing
                })
            }
            _ if room => self.names.put(Slot {
                upstream: true,
                ..slot
            }),
            _ => None,
        };
        let before = Some(before.map(Box::new));
        self.forward(
            &kept,
            Expect::Parse {
                name,
                before,
                quiet: false,
            },
        );
        Ok(())
    }

    /// A Bind message.
    pub(super) async fn bind(&mut self, frame: &Bytes, bind: Bind<'_>) -> Result<(), End> {
        let Some(slot) = self.current(bind.statement).await? else {
            return self.bind_unknown(frame, bind).await;
        };
        let portal_name = Bytes::copy_from_slice(bind.portal);
        let bound = Bound::new(&bind);
        let plan = &slot.planned.plan;
        let reshaped = is_reshaped(&slot);
        if reshaped && !slot.upstream {
            return self.refuse(&local::reshaped()).await.map(|_| ());
        }
        let fits = !reshaped && self.fits(plan, &bound);
        let taken = !bind.portal.is_empty() && self.names.portal(bind.portal).is_some();
        let mut portal = Portal {
            statement: Arc::clone(&slot.statement),
            planned: Arc::clone(&slot.planned),
            bind: Some(frame.clone()),
            state: PortalState::Fresh,
        };
        if fits && !taken && self.answerable(plan).await? && self.stays_here(plan, &bind).await? {
            self.names.put_portal(portal_name, portal);
            backend::bind_complete(&mut self.io.client.output);
            return Ok(());
        }
        if self.skipping {
            return Ok(());
        }
        // Its plan's snapshot is taken by Bind, not by Execute.
        self.forgive(plan);
        let passing = forward::passing(plan);
        if !self.go_upstream(&passing.reason).await?
            || !self.secure(&passing, Some(&bound.params())).await?
        {
            return Ok(());
        }
        // Postgres must know the portal whose name is used twice.
        if taken && !self.ensure_portal(bind.portal).await? {
            return Ok(());
        }
        if !slot.upstream && self.may_bind_in_vain(plan) {
            self.bind_in_vain(portal_name);
            return Ok(());
        }
        self.ensure_statement(bind.statement);
        portal.state = PortalState::Upstream {
            secured_at: self.io.client.reads,
        };
        let before = self
            .names
            .put_portal(portal_name.clone(), portal)
            .map(Box::new);
        self.forward(
            frame,
            Expect::Bind {
                name: portal_name,
                before,
                quiet: false,
            },
        );
        Ok(())
    }

    /// Whether Postgres need not know the portal. SQL may fetch from one that has a name; and its rows are those of the moment when it is bound, which only
    /// passes for the moment when it is executed if nothing comes in between.
    async fn stays_here(&mut self, plan: &Plan, bind: &Bind<'_>) -> Result<bool, End> {
        match plan {
            Plan::Read(_) | Plan::Write(_) | Plan::Local(LocalPlan::Sequence(_)) => {
                Ok(bind.portal.is_empty() && self.execute_is_next().await?)
            }
            Plan::Local(_) | Plan::PassThrough(_) => Ok(true),
        }
    }

    /// Whether Postgres would accept the Bind: it reads the parameters and folds constants then, and so must the errors come.
    fn fits(&self, plan: &Plan, bound: &Bound<'_>) -> bool {
        let columns = local::fields(plan).map_or(0, <[_]>::len);
        if !only_ours(plan) && !bound.fits(local::params(plan).len(), columns) {
            return false;
        }
        let (params, settings) = (bound.params(), &self.known.settings);
        match plan {
            Plan::Read(read) => read.keys(&params, settings).is_ok(),
            Plan::Write(write) => write.fits(&params, settings),
            Plan::Local(_) | Plan::PassThrough(_) => true,
        }
    }

    /// Binds a statement that is not known here.
    async fn bind_unknown(&mut self, frame: &Bytes, bind: Bind<'_>) -> Result<(), End> {
        let bound = Bound::new(&bind);
        if !self.go_upstream(&forward::UNKNOWN.reason).await?
            || !self
                .secure(&forward::UNKNOWN, Some(&bound.params()))
                .await?
        {
            return Ok(());
        }
        self.ensure_statement(bind.statement);
        let name = Bytes::copy_from_slice(bind.portal);
        let before = self.names.remove_portal(&name).map(Box::new);
        self.forward(
            frame,
            Expect::Bind {
                name,
                before,
                quiet: false,
            },
        );
        Ok(())
    }

    /// The statement of that name with a plan that holds now.
    async fn current(&mut self, name: &[u8]) -> Result<Option<Slot>, End> {
        self.refresh().await?;
        let version = self.known.version;
        let Some(slot) = self.names.statement(name) else {
            return Ok(None);
        };
        if slot.version == version && self.front.answerer.is_current(&slot.planned) {
            return Ok(Some(slot.clone()));
        }
        let statement = Arc::clone(&slot.statement);
        let planned = self.plan_text(&statement.sql, &statement.declared);
        Ok(self.names.statement_mut(name).map(|slot| {
            (slot.planned, slot.version) = (planned, version);
            slot.clone()
        }))
    }

    /// A Describe message.
    pub(super) async fn describe(&mut self, frame: &Bytes, target: Target<'_>) -> Result<(), End> {
        match target {
            Target::Statement(name) => {
                let slot = self.current(name).await?;
                let reshaped = slot.as_ref().is_some_and(is_reshaped);
                if reshaped && slot.as_ref().is_some_and(|slot| !slot.upstream) {
                    return self.refuse(&local::reshaped()).await.map(|_| ());
                }
                if let Some(slot) = slot
                    && !reshaped
                    && self.answerable(&slot.planned.plan).await?
                {
                    let out = &mut self.io.client.output;
                    backend::parameter_description(out, local::params(&slot.planned.plan));
                    self.put_described(&slot.planned.plan, Formats::default());
                    return Ok(());
                }
            }
            Target::Portal(name) => {
                let portal = self.portal_here(name);
                if self.is_aborted(portal.as_ref()) {
                    let error = local::aborted("exec_describe_portal_message");
                    return self.refuse(&error).await.map(|_| ());
                }
                if let Some(portal) = portal
                    && self.portal_answerable(&portal).await?
                {
                    let bound = portal.bind.as_ref().and_then(Bound::of_frame);
                    let formats = bound
                        .as_ref()
                        .map(Bound::result_formats)
                        .unwrap_or_default();
                    self.put_described(&portal.planned.plan, formats);
                    return Ok(());
                }
            }
        }
        if self.skipping {
            return Ok(());
        }
        if !self.go_upstream(&forward::UNKNOWN.reason).await? {
            return Ok(());
        }
        match target {
            Target::Statement(name) => {
                if !self.secure_analysis(&forward::UNKNOWN).await? {
                    return Ok(());
                }
                self.ensure_statement(name);
            }
            Target::Portal(name) => {
                if !self.ensure_portal(name).await? {
                    return Ok(());
                }
            }
        }
        self.forward(frame, Expect::Describe);
        Ok(())
    }

    fn put_described(&mut self, plan: &Plan, formats: Formats<'_>) {
        let out = &mut self.io.client.output;
        match plan {
            Plan::Local(local @ (LocalPlan::Show(_) | LocalPlan::Call(_))) => {
                self.front.answerer.describe_local(local, formats, out);
            }
            plan => local::put_row_description(out, local::fields(plan), formats),
        }
    }

    /// The portal of that name, unless it lives in Postgres.
    fn portal_here(&self, name: &[u8]) -> Option<Portal> {
        let portal = self.names.portal(name)?;
        (!matches!(portal.state, PortalState::Upstream { .. })).then(|| portal.clone())
    }

    /// Whether a portal was executed here, in a transaction that has failed since.
    fn is_aborted(&self, portal: Option<&Portal>) -> bool {
        let executed =
            |portal: &Portal| matches!(portal.state, PortalState::Suspended(_) | PortalState::Done);
        self.tx == Tx::Upstream(b'E') && portal.is_some_and(executed)
    }

    /// Whether what is asked about a portal is answered here: its transaction is, or the portal has been executed here.
    async fn portal_answerable(&mut self, portal: &Portal) -> Result<bool, End> {
        match portal.state {
            PortalState::Upstream { .. } => Ok(false),
            PortalState::Fresh => self.answerable(&portal.planned.plan).await,
            PortalState::Suspended(_) | PortalState::Done => self.settle().await,
        }
    }

    /// An Execute message.
    pub(super) async fn execute(&mut self, frame: &Bytes, execute: Execute<'_>) -> Result<(), End> {
        let Some(portal) = self.portal_here(execute.portal) else {
            return self.execute_upstream(frame, execute.portal).await;
        };
        if self.is_aborted(Some(&portal)) {
            let error = local::aborted("exec_execute_message");
            return self.refuse(&error).await.map(|_| ());
        }
        let limit = usize::try_from(execute.max_rows).unwrap_or(0);
        if self.portal_answerable(&portal).await? {
            return self.execute_here(frame, execute, portal, limit).await;
        }
        if self.skipping {
            return Ok(());
        }
        self.execute_upstream(frame, execute.portal).await
    }

    async fn execute_here(
        &mut self,
        frame: &Bytes,
        execute: Execute<'_>,
        portal: Portal,
        limit: usize,
    ) -> Result<(), End> {
        let answer = match portal.state.clone() {
            PortalState::Suspended(rows) => {
                local::answer_rows(rows, &mut self.io.client.output, limit)
            }
            PortalState::Done => {
                local::answer_rows(Bytes::new(), &mut self.io.client.output, limit)
            }
            PortalState::Fresh | PortalState::Upstream { .. } => {
                self.execute_fresh(&portal, limit).await?
            }
        };
        let state = match answer {
            Answer::Done => PortalState::Done,
            Answer::More(rows) => PortalState::Suspended(rows),
            Answer::Error(error) => return self.refuse(&error).await.map(|_| ()),
            Answer::Pass(plan) => {
                if !self.go_upstream(&plan.reason).await? {
                    return Ok(());
                }
                return self.execute_upstream(frame, execute.portal).await;
            }
        };
        if let Some(portal) = self.names.portal_mut(execute.portal) {
            portal.state = state;
        }
        Ok(())
    }

    async fn execute_fresh(&mut self, portal: &Portal, limit: usize) -> Result<Answer, End> {
        let pass = || Answer::Pass(forward::passing(&portal.planned.plan));
        let Some(bound) = portal.bind.as_ref().and_then(Bound::of_frame) else {
            return Ok(pass());
        };
        let (params, formats) = (bound.params(), bound.result_formats());
        Ok(match &portal.planned.plan {
            Plan::Read(read) => self.answer_read(read, &params, formats, false, limit).await,
            // Without RETURNING no limit stops it: JDBC always names one.
            Plan::Write(write)
                if (limit == 0 || write.returning.is_none())
                    && self.may_write_here()
                    && (self.in_block()
                        || self.sync_is_next().await?
                        || self.begin_implicitly()) =>
            {
                self.answer_write(write, &params, formats, false).await
            }
            Plan::Local(own @ (LocalPlan::Show(_) | LocalPlan::Call(_))) => {
                self.answer_own(own, false).await
            }
            Plan::Local(LocalPlan::Sequence(sequence)) => {
                let answer = self.answer_sequence(sequence, formats, false, limit);
                answer.await
            }
            Plan::Local(transaction) => {
                self.answer_transaction(transaction, &portal.statement.sql)
                    .await
            }
            _ => pass(),
        })
    }

    async fn execute_upstream(&mut self, frame: &Bytes, name: &[u8]) -> Result<(), End> {
        let why = match self.names.portal(name) {
            Some(portal) => forward::passing(&portal.planned.plan),
            None => forward::UNKNOWN.clone(),
        };
        if !self.go_upstream(&why.reason).await? || !self.ensure_portal(name).await? {
            return Ok(());
        }
        let Some(portal) = self.names.portal(name) else {
            return self.execute_unknown(frame).await;
        };
        let plan = forward::passing(&portal.planned.plan);
        let reads = self.io.client.reads;
        if let PortalState::Upstream { secured_at } = portal.state
            && secured_at != reads
        {
            // Time has passed since Bind: others may have written, which Postgres's later snapshots would not show.
            let bind = portal.bind.clone();
            let bound = bind.as_ref().and_then(Bound::of_frame);
            if !self
                .secure(&plan, bound.as_ref().map(Bound::params).as_ref())
                .await?
            {
                return Ok(());
            }
        }
        self.executed(&plan);
        self.before_names(&plan);
        self.forward(frame, Expect::Execute);
        Ok(())
    }

    /// Executes a portal that is not known here, perhaps a cursor of SQL's.
    async fn execute_unknown(&mut self, frame: &Bytes) -> Result<(), End> {
        if !self.secure_unknown().await? {
            return Ok(());
        }
        self.executed(&forward::UNKNOWN);
        self.forward(frame, Expect::Execute);
        Ok(())
    }

    /// A Close message.
    pub(super) async fn close(&mut self, frame: &Bytes, target: Target<'_>) -> Result<(), End> {
        let here = self.answers_here();
        let (upstream, expect) = match target {
            Target::Statement(name) => {
                let upstream = match self.names.statement(name) {
                    Some(slot) => slot.upstream,
                    None => {
                        self.names.is_foreign(name)
                            || (name.is_empty() && self.names.stale_unnamed())
                    }
                };
                let before = self.names.remove(name, upstream || !here).map(Box::new);
                let name = Bytes::copy_from_slice(name);
                (
                    upstream,
                    Expect::CloseStatement {
                        name,
                        before,
                        quiet: false,
                    },
                )
            }
            Target::Portal(name) => {
                let before = self.names.remove_portal(name).map(Box::new);
                let name = Bytes::copy_from_slice(name);
                (false, Expect::ClosePortal { name, before })
            }
        };
        if here && !upstream {
            backend::close_complete(&mut self.io.client.output);
            return Ok(());
        }
        if !self.come_upstream(&forward::UNKNOWN.reason).await? {
            return Ok(());
        }
        self.forward(frame, expect);
        Ok(())
    }

    /// A Sync message.
    pub(super) async fn sync(&mut self, frame: &Bytes) -> Result<(), End> {
        let here = self.segment == Segment::Here
            && (!self.implicit || Box::pin(self.sync_implicit()).await?);
        if here {
            self.skipping = false;
            if self.tx == Tx::Idle {
                self.names.clear_portals();
            }
            self.put_ready();
            return Ok(());
        }
        self.skipping = false;
        self.forward(frame, Expect::Sync);
        self.segment = Segment::Sent;
        Ok(())
    }
}
