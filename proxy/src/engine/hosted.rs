//! Transaction blocks of all nodes' clients, where this node leads: each step is a statement, a savepoint, or an end of a block that lives here. Does; which blocks there are and whose
//! turn it is, `ripen_grid::blocks` decides.
//!
//! Never tells anything of a block that this node, as leader, could not prove to be so for all nodes (`Grid::prove`).

use super::block::{Block, Terms};
use super::words::{self, Asked as Deed, Point, Words};
use super::{Engine, errors, forwarded, passed, refused};
use crate::eval::{CommandTag, Formats, Params};
use crate::limits::CATALOG_WAIT;
use crate::plan::Plan;
use crate::session::answerer::{Answerer, Refusal};
use bytes::{Bytes, BytesMut};
use forwarded::Forwarded;
use parking_lot::Mutex;
use ripen_grid::blocks::{Blocks, Step, Turn, Watch};
use ripen_grid::desk::{Answer, Asked, Request, encode_numbers};
use ripen_grid::grid::GridError;
use ripen_grid::grid::transaction::{Nudge, Patience};
use ripen_grid::limits::{BLOCKS_MAX, BLOCKS_SILENCE, BLOCKS_WATCH};
use ripen_grid::log::{Answered, HeldScope};
use ripen_pg::sqlstate::ErrorFields;
use std::pin::pin;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A block that lives here.
pub struct Hosted {
    kept: tokio::sync::Mutex<Kept>,
    nudge: Arc<Nudge>,
    /// Breaks off the step that is at work.
    at_work: Mutex<CancellationToken>,
}

struct Kept {
    block: Block,
    /// How many statements of savepoints are done.
    points: u64,
}

/// Those of all nodes' clients.
pub struct Hosting(Mutex<Blocks<Arc<Hosted>>>);

impl Default for Hosting {
    fn default() -> Hosting {
        Hosting(Mutex::new(Blocks::new(BLOCKS_MAX)))
    }
}

impl Hosted {
    fn new(block: Block, nudge: Arc<Nudge>) -> Arc<Hosted> {
        Arc::new(Hosted {
            kept: tokio::sync::Mutex::new(Kept { block, points: 0 }),
            nudge,
            at_work: Mutex::default(),
        })
    }

    /// Whoever is at work gives up; answers what breaks off who comes now.
    fn take_turn(&self) -> CancellationToken {
        let turn = CancellationToken::new();
        let before = std::mem::replace(&mut *self.at_work.lock(), turn.clone());
        before.cancel();
        turn
    }

    fn break_off(&self) {
        self.at_work.lock().cancel();
    }
}

/// Ends blocks that nobody has any more.
fn end(over: impl IntoIterator<Item = Arc<Hosted>>) {
    over.into_iter().for_each(|hosted| hosted.break_off());
}

impl Kept {
    /// What has come with a step. Those that came before with one that was not answered are done already. False: there is no such savepoint.
    fn apply(&mut self, known: u64, points: &[Point]) -> bool {
        let done = self.points.saturating_sub(known);
        let new = points
            .iter()
            .skip(usize::try_from(done).unwrap_or(usize::MAX));
        for point in new {
            if !self.block.apply(point) {
                return false;
            }
            self.points += 1;
        }
        true
    }
}

impl Engine {
    /// From now on this node keeps blocks of all nodes' clients, where it leads.
    pub fn host_blocks(self: &Arc<Self>) {
        let engine = Arc::downgrade(self);
        self.grid.set_host(Arc::new(move |request| {
            let engine = engine.upgrade();
            Box::pin(async move {
                match (engine, request) {
                    (Some(engine), Request::Step(step, words)) => {
                        engine.take_step(step, &words).await
                    }
                    (Some(engine), Request::Watch(watch)) => engine.watch_over(&watch).await,
                    (Some(engine), Request::Commit(asked, step, words)) => {
                        engine.commit_hosted(asked, step, &words).await
                    }
                    _ => Answer::Elsewhere,
                }
            })
        }));
    }

    /// Gives up blocks of which nothing is heard, or whose term is over. Runs until stopped.
    pub async fn end_abandoned(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(BLOCKS_WATCH) => {}
            }
            let leads = self.grid.member().is_some_and(|member| {
                let leadership = *member.leadership().borrow();
                leadership.here
            });
            let over = {
                let mut blocks = self.hosting.0.lock();
                match leads {
                    true => blocks.silent(Instant::now(), BLOCKS_SILENCE),
                    false => blocks.clear(),
                }
            };
            end(over);
        }
    }

    async fn take_step(&self, step: Step, words: &Bytes) -> Answer {
        let Ok(words) = Words::decode(words) else {
            return Answer::Elsewhere;
        };
        let (over, turn) = {
            let mut blocks = self.hosting.0.lock();
            let over = blocks.lead(step.term);
            let begin = || {
                let (block, nudge) = Block::hosted(&self.grid, words.begun_us);
                Hosted::new(block, nudge)
            };
            (over, blocks.step(step, Instant::now(), begin))
        };
        end(over);
        let hosted = match turn {
            Turn::Take(hosted) => hosted,
            Turn::Full => return Answer::Refused(GridError::Crowded),
            Turn::Past | Turn::Gone => return Answer::Elsewhere,
        };
        let turn = hosted.take_turn();
        tokio::select! {
            biased;
            () = turn.cancelled() => Answer::Elsewhere,
            answer = self.act(&hosted, step, words) => answer,
        }
    }

    async fn act(&self, hosted: &Hosted, step: Step, words: Words) -> Answer {
        let mut kept = hosted.kept.lock().await;
        if !kept.apply(words.known, &words.points) {
            return Answer::Elsewhere;
        }
        let block = &mut kept.block;
        let done = match words.asked {
            Deed::Statement(patience, statement) => self.state(block, patience, &statement).await,
            Deed::Nothing => Ok(words::encode_done()),
            Deed::Move(held) => {
                let moved = self.move_hosted(block, held).await;
                moved.map_err(Refusal::Error)
            }
            Deed::End => {
                let ended = self.end_hosted(step, block).await;
                ended.map(|()| words::encode_done()).map_err(refused)
            }
            Deed::Commit => return Answer::Elsewhere,
        };
        Answer::Done(done.unwrap_or_else(|refusal| forwarded::encode_refusal(&refusal)))
    }

    /// A statement of a block.
    async fn state(
        &self,
        block: &mut Block,
        patience: Patience,
        statement: &Forwarded,
    ) -> Result<Bytes, Refusal> {
        if !self.keeper.is_fresh() {
            let fresh = self.keeper.until_fresh();
            // Until then everything passes through.
            let _ = tokio::time::timeout(CATALOG_WAIT, fresh).await;
        }
        let sql = statement.sql.as_bytes();
        let planned = self.plan(&statement.facts, sql, &statement.declared);
        let values: Vec<Option<&[u8]>> = statement.values.iter().map(Option::as_deref).collect();
        let params = Params {
            formats: Formats(&statement.param_formats),
            values: &values,
        };
        let formats = Formats(&statement.result_formats);
        let terms = Terms {
            facts: &statement.facts,
            settings: &statement.settings,
            patience,
        };
        let mut out = BytesMut::new();
        let tag = match &planned.plan {
            Plan::Write(plan) if plan.shape() == statement.shape => {
                let writing =
                    self.write_drawn_in_block(terms, block, plan, (&params, formats), &mut out);
                writing.await?
            }
            Plan::Read(plan) if plan.shape() == statement.shape => {
                let read = match plan.lock {
                    Some(lock) => {
                        let how = (&**plan, lock);
                        self.lock_in_block(terms, block, how, (&params, formats), &mut out)
                            .await
                    }
                    None => {
                        let read = (&**plan, Some(&*block));
                        self.read_by_key(terms.settings, read, &params, formats, &mut out)
                            .await
                    }
                };
                CommandTag::Select(read?)
            }
            _ => return Err(passed("leader", "the leader's catalog is another one")),
        };
        Ok(forwarded::encode_done(tag, &out))
    }

    /// What a block has locked is held for whoever goes on with it in Postgres, who is told what it has done.
    async fn move_hosted(&self, block: &mut Block, held: HeldScope) -> Result<Bytes, ErrorFields> {
        let (scope, redo) = self.promote_hosted(block, held).await?;
        Ok(words::encode_moved(&scope, &redo))
    }

    /// Its locks have stood until now, and end.
    async fn end_hosted(&self, step: Step, block: &mut Block) -> Result<(), GridError> {
        self.grid.prove(&[]).await?;
        *block = Block::default();
        // Others may be at it, as at a block that has ended.
        drop(self.hosting.0.lock().end(step.block));
        Ok(())
    }

    async fn commit_hosted(&self, asked: Asked, step: Step, words: &Bytes) -> Answer {
        let Ok(words) = Words::decode(words) else {
            return Answer::Elsewhere;
        };
        let turn = match asked.term == step.term {
            true => self.hosting.0.lock().last(step, Instant::now()),
            false => Turn::Gone,
        };
        let Turn::Take(hosted) = turn else {
            // All of earlier terms is applied here, and the request is not among it: it never will be.
            let lost = refused(GridError::LocksLost);
            return Answer::Done(forwarded::encode_refusal(&lost));
        };
        // Nothing comes after it that could break it off.
        let _ = hosted.take_turn();
        let mut kept = hosted.kept.lock().await;
        if !kept.apply(words.known, &words.points) {
            return Answer::Elsewhere;
        }
        let once = Answered {
            id: asked.id,
            below: asked.below,
            answer: words::encode_done(),
        };
        // What writes nothing is not in the log, which would prove that its locks have stood.
        let writes = kept.block.has_written();
        let committed = match self.try_commit(&mut kept.block, Some(once)).await {
            Ok(Ok(())) if !writes => Ok(self.grid.prove(&[]).await),
            committed => committed,
        };
        let refusal = match committed {
            Ok(Ok(())) => {
                drop(self.hosting.0.lock().end(step.block));
                return Answer::Done(words::encode_done());
            }
            Ok(Err(GridError::Log(_) | GridError::Elsewhere)) => return Answer::Elsewhere,
            Ok(Err(error)) => refused(error),
            Err(refusal) => refusal,
        };
        if matches!(refusal, Refusal::Error(_)) {
            drop(self.hosting.0.lock().end(step.block));
        }
        Answer::Done(forwarded::encode_refusal(&refusal))
    }

    /// Tells which blocks of a process are wanted in Postgres, and gives up those that it has no more.
    async fn watch_over(&self, watch: &Watch) -> Answer {
        let over = {
            let mut blocks = self.hosting.0.lock();
            let mut over = blocks.lead(watch.term);
            over.extend(blocks.watched(watch, Instant::now()));
            over
        };
        end(over);
        let until = Instant::now() + BLOCKS_WATCH;
        loop {
            let mut nudging = pin!(self.grid.nudging());
            // Before it is looked: what is said in between counts.
            nudging.as_mut().enable();
            let wanted = self.wanted(watch);
            if !wanted.is_empty() || !watch.waits {
                return Answer::Done(encode_numbers(&wanted));
            }
            tokio::select! {
                () = nudging => {}
                () = tokio::time::sleep_until(until) => return Answer::Done(encode_numbers(&[])),
            }
        }
    }

    fn wanted(&self, watch: &Watch) -> Vec<u64> {
        let blocks = self.hosting.0.lock();
        let known = |number: &u64| watch.open.get(number) == Some(&true);
        let all = blocks.of(watch.process);
        let wanted = all.filter(|(number, hosted)| hosted.nudge.is_given() && !known(number));
        wanted.map(|(number, _)| number).collect()
    }
}

/// What the client is told of an error that is not its block's end.
pub(super) fn told(refusal: Refusal) -> ErrorFields {
    match refusal {
        Refusal::Error(error) => error,
        Refusal::PassThrough(_) => errors::of_grid(&GridError::LocksLost),
    }
}
