//! Transaction blocks in a cluster, as the client's node has them: a handle on what lives where the log is led (`hosted.rs`), and what keeps the two together. Does; decides nothing about
//! rows.
//!
//! A step is asked for once. Who gets no answer, or finds another leader, has lost the block: nothing of it stays, and its client gets 40001. Only COMMIT is asked again, of whoever
//! leads, for the log knows what became of it.

use super::words::{self, Deed, Point, Preface};
use super::{passed, refused};
use crate::limits::SAVEPOINTS_MAX;
use crate::plan::LocalPlan;
use crate::session::answerer::Refusal;
use bytes::Bytes;
use parking_lot::Mutex;
use ripen_cachestore::flush::redo::{self, Redo};
use ripen_grid::blocks::{BlockId, Step, Watch};
use ripen_grid::desk::{Answer, Request, decode_numbers};
use ripen_grid::grid::{Grid, GridError};
use ripen_grid::limits::{
    BLOCK_END_WAIT, BLOCK_STEP_WAIT, BLOCK_STEPS_MAX, BLOCKS_SILENCE, BLOCKS_WATCH, LEADER_RETRY,
    LEADER_WAIT,
};
use ripen_grid::requester::Once;
use ripen_pg::ids::TableOid;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A block whose rows are locked elsewhere, or nowhere yet. Dropped, it is over.
pub struct Remote {
    remotes: Arc<Remotes>,
    /// When BEGIN came.
    begun_us: i64,
    /// Where it lives, once it has done something.
    there: Option<There>,
    /// It has done something of which nobody knows any more.
    lost: bool,
    /// Savepoints that stand.
    names: Vec<String>,
    /// How many statements of savepoints are done there.
    known: u64,
    /// Those of which that is not known.
    points: Vec<Point>,
    /// Tables that it may have written to.
    written: BTreeSet<TableOid>,
}

struct There {
    id: BlockId,
    term: u64,
    steps: u64,
    signal: Arc<Signal>,
    _ours: Ours,
}

/// What a block is told from outside.
#[derive(Default)]
struct Signal {
    wanted: AtomicBool,
    wake: Notify,
    lost: CancellationToken,
}

/// All blocks of this process that have done something.
pub struct Remotes {
    mine: Mutex<Mine>,
    /// There is one more.
    begun: Notify,
    /// There is one less, of which the leader has not heard.
    ended: Notify,
    steps: Semaphore,
}

#[derive(Default)]
struct Mine {
    last: u64,
    open: BTreeMap<u64, Arc<Signal>>,
}

/// A block's place among them.
struct Ours {
    remotes: Arc<Remotes>,
    number: u64,
}

impl Drop for Ours {
    fn drop(&mut self) {
        if self.remotes.mine.lock().open.remove(&self.number).is_some() {
            self.remotes.ended.notify_one();
        }
    }
}

impl Default for Remotes {
    fn default() -> Remotes {
        Remotes {
            mine: Mutex::default(),
            begun: Notify::new(),
            ended: Notify::new(),
            steps: Semaphore::new(BLOCK_STEPS_MAX),
        }
    }
}

impl Remotes {
    fn begin(self: &Arc<Self>, grid: &Grid, term: u64) -> Option<There> {
        let signal = Arc::<Signal>::default();
        let number = {
            let mut mine = self.mine.lock();
            mine.last += 1;
            let number = mine.last;
            mine.open.insert(number, signal.clone());
            number
        };
        let ours = Ours {
            remotes: self.clone(),
            number,
        };
        self.begun.notify_one();
        Some(There {
            id: grid.block(number)?,
            term,
            steps: 0,
            signal,
            _ours: ours,
        })
    }

    /// The leader knows by itself that the block is over.
    fn forget(&self, number: u64) {
        self.mine.lock().open.remove(&number);
    }

    fn is_empty(&self) -> bool {
        self.mine.lock().open.is_empty()
    }

    fn watch(&self, grid: &Grid, term: u64, waits: bool) -> Option<Request> {
        let mine = self.mine.lock();
        let open = mine.open.iter();
        let open = open.map(|(number, signal)| (*number, signal.wanted.load(Ordering::SeqCst)));
        Some(Request::Watch(Watch {
            process: grid.member()?.process(),
            term,
            upto: mine.last,
            open: open.collect(),
            waits,
        }))
    }

    fn want(&self, numbers: &[u64]) {
        let mine = self.mine.lock();
        for signal in numbers.iter().filter_map(|number| mine.open.get(number)) {
            signal.wanted.store(true, Ordering::SeqCst);
            signal.wake.notify_one();
        }
    }

    fn lose_all(&self) {
        let mine = self.mine.lock();
        mine.open.values().for_each(|signal| signal.lost.cancel());
    }

    /// Asks the leader what there is to know of this process's blocks, and tells it which they are. Answers whether it has answered.
    async fn ask(&self, grid: &Grid, waits: bool) -> bool {
        let Some(term) = grid.led_in() else {
            return false;
        };
        let Some(watch) = self.watch(grid, term, waits) else {
            return false;
        };
        match grid.ask_of_blocks(&watch, term, BLOCKS_WATCH * 4).await {
            Once::Answered(Answer::Done(numbers)) => {
                self.want(&decode_numbers(&numbers).unwrap_or_default());
                true
            }
            _ => false,
        }
    }

    /// Tells the leader that this process lives, and hears which of its blocks are wanted in Postgres. Runs until stopped.
    pub async fn listen(self: Arc<Self>, grid: Arc<Grid>, stop: CancellationToken) {
        let mut heard = Instant::now();
        loop {
            if self.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.begun.notified() => {}
                }
                heard = Instant::now();
                continue;
            }
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                asked = self.ask(&grid, true) => asked,
            };
            if asked {
                heard = Instant::now();
                continue;
            }
            if heard.elapsed() >= BLOCKS_SILENCE {
                self.lose_all();
            }
            tokio::time::sleep(LEADER_RETRY).await;
        }
    }

    /// Tells the leader of blocks that are over, many at once. Runs until stopped.
    pub async fn tell(self: Arc<Self>, grid: Arc<Grid>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.ended.notified() => {}
            }
            // Who does not hear of it finds out when nothing is heard of the process, or by the next word.
            self.ask(&grid, false).await;
        }
    }
}

/// What a client is told whose block is gone.
fn lost() -> Refusal {
    refused(GridError::LocksLost)
}

impl Remote {
    pub(super) fn new(remotes: &Arc<Remotes>, begun_us: i64) -> Remote {
        Remote {
            remotes: remotes.clone(),
            begun_us,
            there: None,
            lost: false,
            names: Vec::new(),
            known: 0,
            points: Vec::new(),
            written: BTreeSet::new(),
        }
    }

    pub(super) fn has_done(&self) -> bool {
        self.there.is_some() || self.lost || !self.names.is_empty()
    }

    /// A block that has done nothing, and began when this one did.
    pub(super) fn anew(&self) -> Remote {
        Remote::new(&self.remotes, self.begun_us)
    }

    /// Whether what it has done is to be undone at once when a statement fails.
    pub(super) fn has_savepoints(&self) -> bool {
        !self.names.is_empty()
    }

    /// Whether a read of the table is to see what the block has written.
    pub(super) fn may_have_written(&self, table: TableOid) -> bool {
        self.written.contains(&table)
    }

    /// A write to the table is about to be asked for.
    pub(super) fn writes(&mut self, table: TableOid) {
        self.written.insert(table);
    }

    /// Resolves when somebody in Postgres wants its rows. Cancel safe.
    pub(super) async fn nudged(&self) {
        let Some(there) = &self.there else {
            return std::future::pending().await;
        };
        while !there.signal.wanted.load(Ordering::SeqCst) {
            there.signal.wake.notified().await;
        }
    }

    fn lose(&mut self) -> Refusal {
        self.lost = true;
        self.there = None;
        lost()
    }

    /// Asks for a step, where the block lives; the first begins it there. Cancel safe in this sense: the next step breaks off what this one is at.
    ///
    /// # Errors
    /// The block is lost; or nothing was done, because it could not begin.
    pub(super) async fn ask(&mut self, grid: &Grid, deed: &Deed<'_>) -> Result<Bytes, Refusal> {
        if self.lost {
            return Err(lost());
        }
        let remotes = self.remotes.clone();
        let _turn = match deed {
            Deed::Statement(..) => {
                let turn = remotes.steps.try_acquire();
                let crowded = |_| passed("crowded", "too many transactions wait for rows");
                Some(turn.map_err(crowded)?)
            }
            // These do not wait for rows.
            _ => None,
        };
        if self.there.is_none() {
            return self.begin(grid, deed).await;
        }
        match self.step(grid, deed).await {
            Once::Answered(Answer::Done(answer)) => Ok(answer),
            once => {
                tracing::info!(?once, "a transaction has lost its leader");
                Err(self.lose())
            }
        }
    }

    /// Until the first step is answered nobody rests on it: it is asked for anew, as of a new block, where another leads.
    async fn begin(&mut self, grid: &Grid, deed: &Deed<'_>) -> Result<Bytes, Refusal> {
        let deadline = Instant::now() + LEADER_WAIT;
        loop {
            let Some(term) = grid.led_in() else {
                let left = deadline.saturating_duration_since(Instant::now());
                grid.until_led_anew(None, left).await;
                if Instant::now() >= deadline {
                    return Err(refused(GridError::NoLeader));
                }
                continue;
            };
            self.there = self.remotes.begin(grid, term);
            let once = self.step(grid, deed).await;
            if let Once::Answered(Answer::Done(answer)) = once {
                return Ok(answer);
            }
            self.there = None;
            match once {
                Once::Answered(Answer::Refused(error)) => return Err(refused(error)),
                Once::TooOld => {
                    let why = "the cluster's leader is of an earlier version";
                    return Err(passed("transaction", why));
                }
                Once::Answered(_) => tokio::time::sleep(LEADER_RETRY).await,
                Once::Unanswered => {
                    grid.until_led_anew(Some(term), BLOCKS_SILENCE).await;
                    if grid.led_in() == Some(term) {
                        return Err(self.lose());
                    }
                }
            }
            if Instant::now() >= deadline {
                return Err(refused(GridError::NoLeader));
            }
        }
    }

    fn next(&mut self) -> Option<(Step, Arc<Signal>)> {
        let there = self.there.as_mut()?;
        let step = Step {
            block: there.id,
            term: there.term,
            number: there.steps,
        };
        there.steps += 1;
        Some((step, there.signal.clone()))
    }

    fn preface(&self) -> Preface<'_> {
        Preface {
            begun_us: self.begun_us,
            known: self.known,
            points: &self.points,
        }
    }

    async fn step(&mut self, grid: &Grid, deed: &Deed<'_>) -> Once {
        let Some((step, signal)) = self.next() else {
            return Once::Unanswered;
        };
        let request = Request::Step(step, words::encode(self.preface(), deed));
        let asking = grid.ask_of_blocks(&request, step.term, BLOCK_STEP_WAIT);
        let once = tokio::select! {
            biased;
            once = asking => once,
            () = signal.lost.cancelled() => Once::Unanswered,
        };
        if let Once::Answered(Answer::Done(_)) = &once {
            self.known += self.points.len() as u64;
            self.points.clear();
        }
        once
    }

    /// SAVEPOINT, RELEASE, ROLLBACK TO; the last is known there when this returns, for others may wait for the rows. False: Postgres is to do it.
    ///
    /// # Errors
    /// The block is lost.
    pub(super) async fn savepoint(
        &mut self,
        grid: &Grid,
        plan: &LocalPlan,
    ) -> Result<bool, Refusal> {
        let place = |name: &String| self.names.iter().rposition(|known| known == name);
        match plan {
            LocalPlan::Savepoint(_) if self.names.len() >= SAVEPOINTS_MAX => return Ok(false),
            LocalPlan::Savepoint(name) => {
                self.names.push(name.clone());
                self.points.push(Point::Set(name.clone()));
            }
            LocalPlan::Release(name) => {
                let Some(place) = place(name) else {
                    return Ok(false);
                };
                self.names.truncate(place);
                self.points.push(Point::Release(name.clone()));
            }
            LocalPlan::RollbackTo(name) => {
                let Some(place) = place(name) else {
                    return Ok(false);
                };
                self.names.truncate(place + 1);
                self.points.push(Point::BackTo(name.clone()));
                if self.there.is_some() {
                    let answer = self.ask(grid, &Deed::Nothing).await?;
                    words::decode_done(&answer)?;
                }
            }
            _ => return Ok(false),
        }
        // Each could be said again and again.
        if self.points.len() > SAVEPOINTS_MAX && self.there.is_some() {
            let answer = self.ask(grid, &Deed::Nothing).await?;
            words::decode_done(&answer)?;
        }
        Ok(true)
    }

    /// Its savepoints, where it has done nothing else.
    pub(super) fn points_only(&self) -> Option<Vec<Redo>> {
        let only = self.there.is_none() && !self.lost;
        only.then(|| {
            self.names
                .iter()
                .map(|name| redo::savepoint(name))
                .collect()
        })
    }

    /// COMMIT. Not cancel safe: it may have been carried out.
    ///
    /// # Errors
    /// What the client is to be told, or that Postgres is to do it; then it stands as before.
    pub(super) async fn commit(&mut self, grid: &Grid) -> Result<(), Refusal> {
        if self.lost {
            return Err(lost());
        }
        let Some((step, _)) = self.next() else {
            return Ok(());
        };
        let words = words::encode(self.preface(), &Deed::Commit);
        let answer = grid.ask_commit(step, words).await;
        let answer = answer.map_err(|error| match error {
            GridError::NoLeader => Refusal::Error(super::errors::unknown_outcome()),
            error => refused(error),
        })?;
        words::decode_done(&answer)?;
        self.remotes.forget(step.block.number);
        self.there = None;
        Ok(())
    }

    /// The block is over there, or has moved from there: its rows are free when this returns well. Until then nobody else had them.
    ///
    /// # Errors
    /// The block is lost, perhaps long since.
    pub(super) async fn end(&mut self, grid: &Grid) -> Result<(), Refusal> {
        if self.lost {
            return Err(lost());
        }
        if self.there.is_none() {
            return Ok(());
        }
        let ending = self.ask(grid, &Deed::End);
        let answer = tokio::time::timeout(BLOCK_END_WAIT, ending).await;
        let answer = answer.unwrap_or_else(|_| Err(lost()))?;
        words::decode_done(&answer)?;
        if let Some(there) = self.there.take() {
            self.remotes.forget(there.id.number);
        }
        Ok(())
    }
}
