//! Carries ripe rows to Postgres, one flush transaction at a time. Does; which rows are ripe, and which a flush takes, `ripening` and the state machine decide.
//!
//! A flush is: `FlushStart` in the log (its application names the rows) → one Postgres transaction that also moves `ripen.progress` → `FlushEnd` in the log.
//! Whatever happens in between, `ripen.progress` tells whether the rows are in Postgres; nothing is assumed.

use crate::change::{FlushSeq, RowId};
use crate::clock::QueueClock;
use crate::limits;
use crate::loader::CatalogSource;
use crate::log::{Command, FlushEnd, FlushScope, FlushStart, Log, LogError};
use crate::record::Record;
use crate::rows::Rows;
use crate::schedule::Schedule;
use crate::scope::Scope;
use crate::settlement::SetBack;
use ripen_cachestore::failpoint::reach;
use ripen_cachestore::progress::LogKey;
use ripen_cachestore::{Class, StoreError};
use ripen_pg::ids::TableOid;
use standbys::Watched;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

mod again;
mod carrying;
mod choosing;
mod held_up;
mod settling;
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
    /// Who takes over: one log of a process after the other, for whoever waits for a take-over ends it after a while.
    pub turn: Arc<tokio::sync::Mutex<()>>,
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

fn ended(seq: FlushSeq, applied: bool, dead: Vec<RowId>) -> Command {
    Command::FlushEnd(FlushEnd { seq, applied, dead })
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
