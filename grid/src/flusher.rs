//! Carries ripe rows to Postgres, one flush transaction at a time. Does; which rows are ripe, and which a flush takes, `ripening` and the state machine decide.
//!
//! A flush is: `FlushStart` in the log (its application names the rows) → one Postgres transaction that also moves `ripen.progress` → `FlushEnd` in the log.
//! Whatever happens in between, `ripen.progress` tells whether the rows are in Postgres; nothing is assumed.

use crate::change::{FlushSeq, RowId};
use crate::clock::QueueClock;
use crate::limits;
use crate::loader::CatalogSource;
use crate::log::{Command, FlushEnd, FlushScope, FlushStart, Log, LogError};
use crate::record::{Asked, Record};
use crate::rows::Rows;
use crate::schedule::{OpenFlush, Schedule};
use crate::scope::Scope;
use crate::settlement::{self, SetBack};
use ripen_cachestore::failpoint::reach;
use ripen_cachestore::flush::{FlushBatch, FlushOutcome};
use ripen_cachestore::progress::{FlushFate, LogKey, Taken, Taker};
use ripen_cachestore::{Class, StoreError};
use ripen_pg::ids::{TableOid, Xid};
use standbys::Watched;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

mod again;
mod held_up;
mod standbys;

pub use held_up::HeldUp;
pub use standbys::{StandbySeen, Standbys};

/// Somebody waits until what is pending in the scope at this moment is in Postgres. A dropped sender means that it will not happen.
pub struct FlushRequest {
    /// What to flush.
    pub scope: Scope,
    /// Rows that became pending at or before this time of the log's clock, in milliseconds.
    pub cutoff_ms: u64,
    /// Answered when it is done.
    pub done: oneshot::Sender<()>,
}

/// How a table's rows ripen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// How long a row may stay pending, in milliseconds.
    pub write_delay_ms: u64,
    /// 0..=1: a flush takes rows that have reached `(1 − batch_factor)` of their delay.
    pub batch_factor: f64,
    /// Most rows of one flush transaction.
    pub write_max_batch: usize,
}

/// Gives each table's pace, as configured now.
pub type PaceSource = Arc<dyn Fn(TableOid) -> Pace + Send + Sync>;

/// Counters for status and metrics.
#[derive(Debug, Default)]
pub struct FlushStats {
    /// Flush transactions committed.
    pub flushes: AtomicU64,
    /// Row changes carried out by them.
    pub rows: AtomicU64,
    /// Time spent in flush transactions, failed ones too, in microseconds.
    pub us: AtomicU64,
    /// Attempts that failed.
    pub failures: AtomicU64,
    /// Commit groups sent to the dead letters.
    pub dead: AtomicU64,
    /// Flushes that Postgres had lost and that were written again.
    pub again: AtomicU64,
}

/// What the flusher works with. [`Flusher::run`] is its task.
pub struct Flusher {
    /// The log it writes its starts and ends to.
    pub log: Log,
    /// The log's number in `ripen.progress`.
    pub log_number: i32,
    /// This process, in words: what others who want to write there are told.
    pub holder: String,
    /// True when the database may be written to.
    pub claimed: watch::Receiver<bool>,
    /// The system of record.
    pub store: Arc<dyn Record>,
    /// The newest catalog.
    pub catalog: CatalogSource,
    /// Rows, to be told the flush's transaction id.
    pub rows: Arc<Rows>,
    /// What is pending.
    pub schedule: Arc<Schedule>,
    /// How tables ripen.
    pub pace: PaceSource,
    /// Who asks for a flush.
    pub requests: mpsc::UnboundedReceiver<FlushRequest>,
    /// Becomes true when an open flush of an earlier process has been settled: loads may begin.
    pub settled: watch::Sender<bool>,
    /// The unix clock in milliseconds.
    pub clock: fn() -> u64,
    /// Chance for the backoff, in 0..1.
    pub chance: fn() -> f64,
    /// What it makes of that clock.
    pub time: QueueClock,
    /// What it has done.
    pub stats: Arc<FlushStats>,
    /// What it leaves out for a while.
    pub held_up: HeldUp,
    /// For whom flushes are kept.
    pub standbys: Arc<Standbys>,
    /// A flush has met another server, or one that lacks something.
    pub unsettled: bool,
    /// In which term this node leads the log, if it does: only then it flushes.
    pub leads: watch::Receiver<Option<u64>>,
    /// Whether other nodes must hear of a flush's transaction before it commits.
    pub has_peers: bool,
}

/// Why the flusher's task ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum FlusherError {
    /// Another process has taken over this database's queue.
    #[error(
        "another Ripen has taken over the write-behind queue of this database: {0}; what is pending here stays in the data folder, to be written when this one is started again after the other has been stopped"
    )]
    Fenced(StoreError),
    /// The log is older than what Postgres has of it.
    #[error(transparent)]
    SetBack(#[from] SetBack),
    /// Postgres refuses or is away; never ends the task.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log is broken or stopped.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Flusher {
    /// Runs until stopped. Only ever fails when it must not go on: what is pending stays in the log. Not cancel safe.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), FlusherError> {
        loop {
            let term = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                term = self.turn() => match term { Some(term) => term, None => return Ok(()) },
            };
            let mut leads = self.leads.clone();
            let has_peers = self.has_peers;
            let ended = tokio::select! {
                ended = self.lead(term, &stop) => ended,
                // Whatever is under way is broken off: who leads next finds out what became of it.
                () = replaced(&mut leads, term) => continue,
                // Among several, what is proposed may never be decided.
                () = stop.cancelled(), if has_peers => return Ok(()),
            };
            match ended {
                Err(FlusherError::Fenced(error)) if self.has_peers && !self.is_foreign(&error) => {
                    tracing::warn!(%error, "another node of the cluster flushes now");
                    tokio::time::sleep(limits::FENCED_WAIT).await;
                }
                Err(FlusherError::Log(LogError::NotLeader | LogError::Unknown)) => {
                    tokio::time::sleep(limits::LEADER_RETRY).await;
                }
                ended => return ended,
            }
        }
    }

    /// Another Ripen flushes, not another node of this cluster: to take over in turn would never end.
    fn is_foreign(&self, error: &StoreError) -> bool {
        let own = self.log.identity();
        matches!(error, StoreError::Fenced { identity: Some(other), .. } if *other != own)
    }

    /// Waits until this node leads. Who asks meanwhile for a flush asks elsewhere. `None`: nobody will ever ask.
    async fn turn(&mut self) -> Option<u64> {
        loop {
            if let Some(term) = *self.leads.borrow_and_update() {
                return Some(term);
            }
            // Nothing has to be settled by this node, and nobody waits here for what another writes.
            self.held_up = HeldUp::default();
            self.standbys.look_away();
            let _ = self.settled.send(true);
            tokio::select! {
                request = self.requests.recv() => drop(request?),
                changed = self.leads.changed() => changed.ok()?,
            }
        }
    }

    /// Flushes for as long as this node leads in that term.
    async fn lead(&mut self, term: u64, stop: &CancellationToken) -> Result<(), FlusherError> {
        let _ = self.settled.send(false);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = self.may_begin() => {}
        }
        let Some(epoch) = self.settle_surely(term, stop).await? else {
            return Ok(());
        };
        // Nobody may be listening.
        let _ = self.settled.send(true);
        let (standbys, watched) = (self.standbys.clone(), self.watched(term));
        tokio::select! {
            ended = self.work(term, epoch, stop) => ended,
            Err(error) = standbys.watch(watched) => Err(error.into()),
        }
    }

    fn watched(&self, term: u64) -> Watched {
        Watched {
            log: self.log.clone(),
            key: self.key(),
            term,
            store: self.store.clone(),
            schedule: self.schedule.clone(),
            clock: self.clock,
        }
    }

    /// Tries until it is done. `None`: stopped.
    async fn settle_surely(
        &mut self,
        term: u64,
        stop: &CancellationToken,
    ) -> Result<Option<u64>, FlusherError> {
        let mut backoff = Backoff {
            step: 0,
            chance: self.chance,
        };
        self.unsettled = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                settled = self.settle(term) => match settled {
                    Ok(epoch) => return Ok(Some(epoch)),
                    Err(FlusherError::Store(error)) => self.wait_after(error, &mut backoff, "cannot settle the write-behind queue with Postgres").await?,
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Flushes what is ripe or asked for; settles again whenever another server may have come in the place of the system of record.
    async fn work(
        &mut self,
        term: u64,
        mut epoch: u64,
        stop: &CancellationToken,
    ) -> Result<(), FlusherError> {
        let mut doubts = self.store.home().doubts();
        while !stop.is_cancelled() {
            let (scope, cutoff_ms, waiting) = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Ok(()) = doubts.changed() => {
                    if self.is_elsewhere(epoch).await {
                        match self.settle_surely(term, stop).await? {
                            Some(settled) => epoch = settled,
                            None => return Ok(()),
                        }
                    }
                    continue;
                }
                work = self.next() => match work { Some(work) => work, None => return Ok(()) },
            };
            loop {
                let scope = scope.clone();
                self.flush_scope((term, epoch), scope, cutoff_ms, stop)
                    .await?;
                if !self.unsettled || stop.is_cancelled() {
                    break;
                }
                match self.settle_surely(term, stop).await? {
                    Some(settled) => epoch = settled,
                    None => return Ok(()),
                }
            }
            if !stop.is_cancelled() {
                for request in waiting {
                    self.held_up.answer(request);
                }
            }
        }
        Ok(())
    }

    /// Nothing is settled in a database that another Ripen has claimed. The catalog is read after Postgres was found fit for Ripen and the schema `ripen` stands,
    /// so there is nothing to settle with before. And under an empty catalog every table would count as dropped, every change as refused. Once read, it stays.
    async fn may_begin(&mut self) {
        // Who can claim no more ends everything.
        let _ = self.claimed.wait_for(|claimed| *claimed).await;
        while !(self.catalog)().is_loaded() {
            tokio::time::sleep(limits::CATALOG_POLL).await;
        }
    }

    /// Takes over the progress row (this waits out a flush transaction still running) and settles the flush that an earlier process left open.
    async fn settle(&self, term: u64) -> Result<u64, FlusherError> {
        reach("settle-begun");
        if self.store.home().guarded() {
            // Old connections may lead to where the system of record was.
            self.store.forget_idle();
        }
        if self.has_peers {
            // Who has been replaced and does not know it must not take over.
            self.log.propose_in(term, Command::Nothing).await?;
        }
        let epoch = self.store.newest_epoch(self.key().number).await?;
        let epoch = epoch.max(self.log.term()) + 1;
        let taken = self.take_over(epoch).await?;
        reach("settle-taken-over");
        if !self.schedule.taken_over() {
            self.log.propose_in(term, Command::TakenOver).await?;
        }
        let server = self.server_taken(epoch).await?;
        if let Some(other) = taken.other {
            tracing::warn!(
                other,
                "another Ripen has written behind to this database until now; what it had acknowledged and not yet written, if anything, stands in its data folder and is not known here"
            );
        }
        let settlement = settlement::settle(self.schedule.known(), taken.applied)?;
        if let Some((seq, applied)) = settlement.open {
            let dead = match applied {
                true => self.store.dead_rows(self.key(), seq).await?,
                false => Vec::new(),
            };
            let end = self.end(FlushEnd { seq, applied, dead });
            self.log.propose_in(term, end).await?;
            reach("settle-ended");
        }
        if let Some((first, last)) = settlement.lost {
            complain_of_loss(first, last);
        }
        if let Some(applied) = settlement.count_on {
            let end = ended(applied, true, Vec::new());
            self.log.propose_in(term, end).await?;
        }
        if let Some(first) = settlement.again {
            self.write_again(epoch, first, server).await?;
        }
        if let Some(server) = server {
            let lacked = settlement.lost.is_some() || settlement.again.is_some();
            self.go_home(term, epoch, server, lacked).await?;
        }
        if self.keeps() && !self.standbys.counts() {
            // The configuration names no standbys any more.
            let last = self.schedule.known().last;
            self.log.propose_in(term, Command::Safe(last)).await?;
        }
        Ok(epoch)
    }

    /// How a flush ends in the log.
    fn end(&self, end: FlushEnd) -> Command {
        match end.applied && self.standbys.counts() {
            true => Command::FlushKept(end),
            false => Command::FlushEnd(end),
        }
    }

    /// Whether Postgres may be given what it lacks.
    fn keeps(&self) -> bool {
        self.schedule.ask_kept(|kept| kept.first()).is_some()
    }

    fn key(&self) -> LogKey {
        LogKey {
            number: self.log_number,
            identity: self.log.identity(),
        }
    }

    async fn take_over(&self, epoch: u64) -> Result<Taken, StoreError> {
        let (known, formers) = (self.schedule.known(), self.schedule.formers());
        let taker = Taker {
            log: self.key(),
            epoch,
            holder: &self.holder,
            has_flushed: known.last > FlushSeq(0) || known.open.is_some(),
            formers: &formers,
        };
        self.store.take_over(taker).await
    }

    /// Waits for the next reason to flush.
    async fn next(&mut self) -> Option<(FlushScope, u64, Vec<FlushRequest>)> {
        loop {
            let mut again = self.held_up.try_again(Instant::now());
            if !again.is_empty() {
                again.extend(self.asked());
                let now = self.schedule.clock_ms();
                let (scope, _) = work(FlushScope::Rows(Vec::new()), 0, &again);
                return Some((scope, now, again));
            }
            let ripe = self.schedule.ask(|ripening| {
                let delay_ms = |table| (self.pace)(table).write_delay_ms;
                ripening.ripe_at(delay_ms, |row| self.held_up.has(row))
            });
            let (wall, log) = ((self.clock)(), self.schedule.clock_ms());
            let now = self.time.now_ms(wall, log, Instant::now().into_std());
            if ripe.is_some_and(|ripe| ripe <= now) {
                // Who asks goes along: there may always be something ripe.
                let requests = self.asked();
                let (scope, cutoff_ms) = work(self.ripe_scope(now), now, &requests);
                return Some((scope, cutoff_ms, requests));
            }
            let sleep = Duration::from_millis(
                ripe.map_or(u64::MAX / 2, |ripe| ripe - now)
                    .min(limits::FLUSHER_NAP_MS),
            );
            tokio::select! {
                request = self.requests.recv() => {
                    let mut requests = vec![request?];
                    requests.extend(self.asked());
                    let (scope, cutoff_ms) = work(FlushScope::Rows(Vec::new()), 0, &requests);
                    return Some((scope, cutoff_ms, requests));
                }
                () = self.schedule.changed() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn asked(&mut self) -> Vec<FlushRequest> {
        std::iter::from_fn(|| self.requests.try_recv().ok()).collect()
    }

    /// What a flush that starts now takes. When all tables flush whole, that is everything; else the rows are named, so that replicas need no configuration.
    fn ripe_scope(&self, now_ms: u64) -> FlushScope {
        self.schedule.ask(|ripening| {
            if ripening
                .tables()
                .all(|(table, _)| (self.pace)(table).batch_factor >= 1.0)
            {
                return FlushScope::All;
            }
            let age_ms = |table| {
                let pace = (self.pace)(table);
                ((1.0 - pace.batch_factor) * pace.write_delay_ms as f64) as u64
            };
            FlushScope::Rows(ripening.older_than(now_ms, age_ms, limits::FLUSH_ROWS_NAMED_MAX))
        })
    }

    /// Flushes until nothing of the scope that was pending at the cutoff is left.
    async fn flush_scope(
        &mut self,
        (term, epoch): (u64, u64),
        scope: FlushScope,
        cutoff_ms: u64,
        stop: &CancellationToken,
    ) -> Result<(), FlusherError> {
        let mut backoff = Backoff {
            step: 0,
            chance: self.chance,
        };
        while !stop.is_cancelled() {
            let scope = self.allowed(&scope, cutoff_ms);
            let rows_max = self.schedule.ask(|ripening| {
                ripening
                    .tables()
                    .map(|(table, _)| (self.pace)(table).write_max_batch)
                    .min()
            });
            let start = FlushStart {
                seq: self.schedule.next_seq(),
                cutoff_ms,
                scope: scope.clone(),
                rows_max: rows_max
                    .unwrap_or(limits::FLUSH_ROWS_MAX)
                    .clamp(1, limits::FLUSH_ROWS_MAX) as u32,
            };
            reach("flush-before-start");
            let start = Command::FlushStart(start);
            self.log.propose_in(term, start).await?;
            reach("flush-started");
            let Some(open) = self.schedule.open() else {
                // What it took may all have cancelled out, and more may stand behind it.
                let left = crate::machine::scope(scope.clone());
                if self
                    .schedule
                    .ask(|ripening| ripening.has_due(&left, cutoff_ms))
                {
                    continue;
                }
                return Ok(());
            };
            self.carry((term, epoch), &open, &mut backoff, stop).await?;
            if self.unsettled {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The scope without what is left out for a while.
    fn allowed(&self, scope: &FlushScope, cutoff_ms: u64) -> FlushScope {
        if self.held_up.is_empty() {
            return scope.clone();
        }
        let scope = crate::machine::scope(scope.clone());
        let held_up = |row: &RowId| self.held_up.has(row);
        FlushScope::Rows(
            self.schedule.ask(|ripening| {
                ripening.due(&scope, cutoff_ms, held_up, limits::FLUSH_ROWS_NAMED_MAX)
            }),
        )
    }

    /// Brings one open flush to its end: committed, or given back for another try.
    async fn carry(
        &mut self,
        (term, epoch): (u64, u64),
        open: &OpenFlush,
        backoff: &mut Backoff,
        stop: &CancellationToken,
    ) -> Result<(), FlusherError> {
        let mut batch = FlushBatch {
            log: self.key(),
            epoch,
            seq: open.seq,
            groups: open.groups.clone(),
            shapes: self.schedule.shapes(),
            guards: open.guards(),
            catalog_is_new: false,
        };
        let rows = open.rows();
        let (mut end, mut read_anew, mut counted) = (None, None, None);
        while end.is_none() && !stop.is_cancelled() {
            // Whatever was tried before is known not to have committed.
            self.rows.flush_retry(open.seq, &rows);
            batch.catalog_is_new = read_anew.is_some();
            let catalog = read_anew.take().unwrap_or_else(|| (self.catalog)());
            let begun = Instant::now();
            let tell =
                |xid| -> Asked<'_, ()> { Box::pin(self.tell_xid(term, open.seq, xid, &rows)) };
            let flushed = self.store.flush(&catalog, &batch, Box::new(tell)).await;
            let took = begun.elapsed().as_micros() as u64;
            self.stats.us.fetch_add(took, Ordering::Relaxed);
            match flushed {
                Ok(outcome) => {
                    backoff.step = 0;
                    self.held_up.written();
                    end = Some(self.committed(open.seq, outcome));
                }
                Err(error) if error.class() == Class::Unknown => {
                    end = self.find_out(epoch, open, &error, backoff).await?;
                    let out_of_order = matches!(error, StoreError::OutOfOrder { .. });
                    if end.is_none() && out_of_order && (self.keeps() || self.standbys.counts()) {
                        self.unsettled = true;
                        end = Some(given_back(open));
                    } else if end.is_none() && out_of_order {
                        counted = self.recount(epoch, open, backoff).await?;
                        end = counted.map(|_| given_back(open));
                    }
                }
                // Before a change is blamed for not fitting the schema, the schema is read anew.
                Err(error) if is_outdated(&error, &batch) => {
                    tracing::info!(%error, "the schema has changed under a flush");
                    if batch.catalog_is_new {
                        let what = "the schema changes faster than it can be flushed";
                        self.wait_after(error, backoff, what).await?;
                    }
                    match self.store.load_catalog(catalog.epoch).await {
                        Ok(anew) => read_anew = Some(Arc::new(anew)),
                        Err(error) => {
                            let what = "the schema cannot be read for a flush";
                            self.wait_after(error, backoff, what).await?;
                        }
                    }
                }
                Err(StoreError::Strange(server)) => {
                    tracing::warn!(%server, "a flush has met another server than the system of record");
                    self.unsettled = true;
                    end = Some(given_back(open));
                }
                Err(StoreError::HeldUp { rows, by }) => {
                    self.stats.failures.fetch_add(1, Ordering::Relaxed);
                    complain_of_hold_up(rows.len(), &by);
                    self.held_up.add(rows, Instant::now());
                    end = Some(given_back(open));
                }
                Err(error) => {
                    let give_back = error.class() == Class::Lock;
                    self.wait_after(
                        error,
                        backoff,
                        "a flush was refused and will be tried again",
                    )
                    .await?;
                    if give_back {
                        // Others need not wait behind a locked row: the rows go back and the next flush is chosen anew.
                        end = Some(given_back(open));
                    }
                }
            }
        }
        if let Some(end) = end {
            reach("flush-before-end");
            let end = self.end(end);
            self.log.propose_in(term, end).await?;
            reach("flush-ended");
        }
        if let Some(applied) = counted {
            let end = ended(applied, true, Vec::new());
            self.log.propose_in(term, end).await?;
        }
        Ok(())
    }

    /// All who load rows must know of the transaction before it commits: they could not tell whether what they load contains it.
    async fn tell_xid(
        &self,
        term: u64,
        seq: FlushSeq,
        xid: Xid,
        rows: &[RowId],
    ) -> Result<(), StoreError> {
        if !self.has_peers {
            self.rows.flush_xid(seq, xid, rows);
            return Ok(());
        }
        let told = self.log.propose_in(term, Command::FlushXid(seq, xid)).await;
        told.map(drop).map_err(|_| StoreError::Untold)
    }

    /// Postgres has another count of flushes than it had (it was restored from a backup, or lost the row): the flush under way is chosen anew, and counting goes
    /// on from what Postgres has. Nobody else counts: that would have been `Fenced`. `None`: the count is right again.
    async fn recount(
        &self,
        epoch: u64,
        open: &OpenFlush,
        backoff: &mut Backoff,
    ) -> Result<Option<FlushSeq>, FlusherError> {
        match self.take_over(epoch).await {
            Ok(taken) if taken.applied.0 + 1 == open.seq.0 => Ok(None),
            Ok(taken) => {
                let last = self.schedule.known().last;
                if taken.applied < last {
                    complain_of_loss(FlushSeq(taken.applied.0 + 1), last);
                }
                Ok(Some(taken.applied))
            }
            Err(error) => {
                let what = "Postgres cannot tell which flushes it has";
                self.wait_after(error, backoff, what).await?;
                Ok(None)
            }
        }
    }

    fn committed(&self, seq: FlushSeq, outcome: FlushOutcome) -> FlushEnd {
        self.stats.flushes.fetch_add(1, Ordering::Relaxed);
        self.stats
            .rows
            .fetch_add(outcome.rows as u64, Ordering::Relaxed);
        self.stats
            .dead
            .fetch_add(outcome.dead.len() as u64, Ordering::Relaxed);
        for dead in &outcome.dead {
            tracing::error!(
                sqlstate = dead.sqlstate,
                message = dead.message,
                rows = dead.group.rows.len(),
                "Postgres refused an acknowledged transaction: it is kept in ripen.dead_letter"
            );
        }
        let dead: Vec<RowId> = outcome
            .dead
            .into_iter()
            .flat_map(|dead| dead.group.rows)
            .map(|change| change.row)
            .collect();
        FlushEnd {
            seq,
            applied: true,
            dead,
        }
    }

    /// The connection broke around COMMIT: ask until Postgres answers. `None`: it did not happen, try again.
    async fn find_out(
        &self,
        epoch: u64,
        open: &OpenFlush,
        error: &StoreError,
        backoff: &mut Backoff,
    ) -> Result<Option<FlushEnd>, FlusherError> {
        tracing::warn!(%error, seq = open.seq.0, "the outcome of a flush is unknown; asking Postgres");
        self.stats.failures.fetch_add(1, Ordering::Relaxed);
        reach("flush-unknown");
        loop {
            let asked = match self.store.outcome(self.key(), epoch, open.seq).await {
                Ok(FlushFate::NotApplied) => return Ok(None),
                Ok(FlushFate::Applied) => self.store.dead_rows(self.key(), open.seq).await,
                Err(error) => Err(error),
            };
            match asked {
                Ok(dead) => {
                    self.stats.flushes.fetch_add(1, Ordering::Relaxed);
                    return Ok(Some(FlushEnd {
                        seq: open.seq,
                        applied: true,
                        dead,
                    }));
                }
                Err(error) => {
                    self.wait_after(
                        error,
                        backoff,
                        "Postgres cannot tell the outcome of a flush yet",
                    )
                    .await?
                }
            }
        }
    }

    async fn wait_after(
        &self,
        error: StoreError,
        backoff: &mut Backoff,
        what: &str,
    ) -> Result<(), FlusherError> {
        self.stats.failures.fetch_add(1, Ordering::Relaxed);
        if error.class() == Class::Fenced {
            return Err(FlusherError::Fenced(error));
        }
        let wait = backoff.next();
        tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "{what}");
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Until somebody else leads, or nobody; never, where nobody else can.
async fn replaced(leads: &mut watch::Receiver<Option<u64>>, term: u64) {
    if leads.wait_for(|now| *now != Some(term)).await.is_err() {
        std::future::pending().await
    }
}

/// Rows of these flushes are old in Postgres.
fn complain_of_loss(first: FlushSeq, last: FlushSeq) {
    tracing::error!(
        first = first.0,
        last = last.0,
        flushes = last.0 + 1 - first.0,
        "Postgres has lost flushes that it had committed, and they are not kept here: what they had written is lost. Where it fails over to asynchronous standbys, name them in \"standbys\""
    );
}

/// Only the lack of a right needs a human.
fn complain_of_hold_up(rows: usize, by: &StoreError) {
    match by.class() {
        Class::Lock => tracing::warn!(
            rows,
            %by,
            "somebody else has locked rows in Postgres: what is pending there waits, the rest goes on"
        ),
        _ => tracing::error!(
            rows,
            %by,
            "Ripen's role lacks a right: these rows wait until it is granted, the others go on"
        ),
    }
}

/// Whether another catalog may help.
fn is_outdated(error: &StoreError, batch: &FlushBatch) -> bool {
    let refused = error.class() == Class::Schema && !batch.catalog_is_new;
    refused || matches!(error, StoreError::CatalogUnsteady)
}

fn ended(seq: FlushSeq, applied: bool, dead: Vec<RowId>) -> Command {
    Command::FlushEnd(FlushEnd { seq, applied, dead })
}

/// It did not happen: its rows are pending again.
fn given_back(open: &OpenFlush) -> FlushEnd {
    FlushEnd {
        seq: open.seq,
        applied: false,
        dead: Vec::new(),
    }
}

/// What is ripe and what is asked for, as one: its scope and its cutoff.
fn work(ripe: FlushScope, now_ms: u64, requests: &[FlushRequest]) -> (FlushScope, u64) {
    if requests.is_empty() {
        return (ripe, now_ms);
    }
    let scope = requests
        .iter()
        .fold(crate::machine::scope(ripe), |all, request| {
            all.union(request.scope.clone())
        });
    let cutoffs = requests.iter().map(|request| request.cutoff_ms);
    (flush_scope(scope), cutoffs.fold(now_ms, u64::max))
}

fn flush_scope(scope: Scope) -> FlushScope {
    match scope {
        Scope::Everything => FlushScope::All,
        Scope::Tables(tables) => FlushScope::Tables(tables.into_iter().collect()),
        Scope::Rows(rows) => FlushScope::Rows(rows),
        Scope::Nothing => FlushScope::Rows(Vec::new()),
    }
}

/// Doubling waits with chance, so that many Ripens do not knock at once.
struct Backoff {
    step: u32,
    chance: fn() -> f64,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let doubled = limits::FLUSH_BACKOFF_MIN.saturating_mul(1 << self.step.min(16));
        self.step = self.step.saturating_add(1);
        doubled
            .min(limits::FLUSH_BACKOFF_MAX)
            .mul_f64(0.5 + 0.5 * (self.chance)())
    }
}
