//! What a session's block is, alone and in a cluster, and how the second kind is carried out: by asking where the log is led. Does; `block.rs` and `hosted.rs` carry out there.

use super::block::Block;
use super::forwarded::{self, Forwarding};
use super::remote::Remote;
use super::words::{self, Deed};
use super::{Engine, Holds, errors, hosted};
use crate::eval::{CommandTag, Formats, Params};
use crate::plan::{LocalPlan, ReadPlan, Reason, WritePlan};
use crate::session::answerer::{Asker, Refusal};
use bytes::BytesMut;
use ripen_cachestore::flush::redo::Redo;
use ripen_grid::grid::GridError;
use ripen_pg::sqlstate::ErrorFields;
use std::sync::atomic::Ordering;

/// A session's block.
pub enum Kept {
    /// This node is alone, and has it.
    Here(Block),
    /// Whoever leads the cluster's log has it.
    There(Remote),
}

impl Default for Kept {
    fn default() -> Kept {
        Kept::Here(Block::default())
    }
}

impl Engine {
    /// A write whose parameters are complete, in a block of either kind.
    pub(super) async fn write_complete(
        &self,
        asker: Asker<'_>,
        block: &mut Kept,
        plan: &WritePlan,
        (params, formats): (&Params<'_>, Formats<'_>),
        out: &mut BytesMut,
    ) -> Result<CommandTag, Refusal> {
        match block {
            Kept::Here(block) => {
                let params = (params, formats);
                self.write_drawn_in_block(asker.into(), block, plan, params, out)
                    .await
            }
            Kept::There(remote) => {
                remote.writes(plan.table.oid);
                let text = (&plan.source, plan.shape());
                let forwarding = Forwarding::new(asker, text, (params, formats));
                let deed = Deed::Statement(asker.patience, &forwarding);
                let answer = remote.ask(&self.grid, &deed).await?;
                forwarded::decode_answer(&answer, out)
            }
        }
    }

    /// See [`crate::session::answerer::Answerer::write_in`]. Values are drawn here, wherever the block lives.
    pub(super) async fn write_in_kept(
        &self,
        asker: Asker<'_>,
        block: &mut Kept,
        plan: &WritePlan,
        (params, formats): (&Params<'_>, Formats<'_>),
        out: &mut BytesMut,
    ) -> Result<CommandTag, Refusal> {
        if plan.draws.is_empty() {
            let writing = self.write_complete(asker, block, plan, (params, formats), out);
            return writing.await;
        }
        if let Kept::Here(block) = &*block {
            // What is drawn for a write that passes through all the same is lost.
            self.keeps_block(asker.into(), block, &plan.table)?;
        }
        let drawn = self.draw(asker, plan, params).await?;
        let all = drawn.behind(params);
        let params = all.params();
        let writing = self.write_complete(asker, block, plan, (&params, formats), out);
        let tag = writing.await?;
        // A sequence knows no ROLLBACK.
        asker.given.give(&drawn.given);
        Ok(tag)
    }

    /// A read in such a block. What it has not written to is read here, as outside of blocks.
    pub(super) async fn read_there(
        &self,
        asker: Asker<'_>,
        remote: &mut Remote,
        plan: &ReadPlan,
        (params, formats): (&Params<'_>, Formats<'_>),
        out: &mut BytesMut,
    ) -> Result<u64, Refusal> {
        let mut tables = plan.tables();
        let written = tables.any(|table| remote.may_have_written(table.oid));
        if plan.lock.is_none() && !written {
            return self
                .read_by_key(asker.settings, (plan, None), params, formats, out)
                .await;
        }
        let text = (&plan.source, plan.shape());
        let forwarding = Forwarding::new(asker, text, (params, formats));
        let deed = Deed::Statement(asker.patience, &forwarding);
        let answer = remote.ask(&self.grid, &deed).await?;
        match forwarded::decode_answer(&answer, out)? {
            CommandTag::Select(rows) => {
                self.counters.reads.fetch_add(1, Ordering::Relaxed);
                Ok(rows)
            }
            _ => Err(forwarded::unreadable()),
        }
    }

    /// See [`crate::session::answerer::Answerer::savepoint`].
    pub(super) async fn savepoint_in(
        &self,
        block: &mut Kept,
        plan: &LocalPlan,
    ) -> Result<bool, Refusal> {
        match block {
            Kept::Here(block) => Ok(self.savepoint_in_block(block, plan)),
            Kept::There(remote) => remote.savepoint(&self.grid, plan).await,
        }
    }

    /// See [`crate::session::answerer::Answerer::promote`].
    pub(super) async fn promote_there(
        &self,
        asker: Asker<'_>,
        remote: &mut Remote,
        holds: &mut Holds,
        why: &Reason,
    ) -> Result<Vec<Redo>, ErrorFields> {
        if let Some(points) = remote.points_only() {
            return Ok(points);
        }
        self.counters.promoted(why);
        self.at_work(holds);
        let promise = self.grid.promise_hold(asker.backend.map(|pid| pid.0));
        let promise = promise.ok_or_else(|| errors::of_grid(&GridError::NoLeader))?;
        let moving = remote.ask(&self.grid, &Deed::Move(&promise.held)).await;
        let answer = moving.map_err(hosted::told)?;
        let (scope, redo) = words::decode_moved(&answer).map_err(hosted::told)?;
        let hold = promise.taken(scope).await;
        holds.add(hold.map_err(|error| errors::of_grid(&error))?);
        Ok(redo)
    }
}
