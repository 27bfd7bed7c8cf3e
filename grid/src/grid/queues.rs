//! The grid's queues, asked together: which of them a row or a scope concerns, and what all of them hold. Does; each waits for its own log.

use super::{Grid, GridError};
use crate::change::RowId;
use crate::leader::{Leader, Proposal};
use crate::log::{Log, LogError, LogStats};
use crate::queue::{LogNumber, Queue};
use crate::schedule::ScheduleStats;
use crate::scope::Scope;
use parking_lot::MutexGuard;
use ripen_pg::ids::TableOid;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// One log's numbers.
#[derive(Clone, Copy, Debug)]
pub struct QueueStats {
    /// Which log's.
    pub number: LogNumber,
    /// Tables of which it has had changes, since they last left it.
    pub tables: u64,
    /// What is on its way to Postgres.
    pub schedule: ScheduleStats,
    /// What the log has done.
    pub log: LogStats,
}

impl Grid {
    /// Each log's numbers, in their order.
    pub fn stats_by_log(&self) -> Vec<QueueStats> {
        let queues = self.queues.iter();
        let stats = |queue: &Queue| QueueStats {
            number: queue.number,
            tables: queue.schedule.shapes().len() as u64,
            schedule: queue.schedule.stats(),
            log: queue.log.stats(),
        };
        queues.map(stats).collect()
    }

    /// The first log's: in a cluster, which has one, whatever nodes ask of the leader goes there.
    pub(super) fn first(&self) -> &Queue {
        &self.queues[0]
    }

    /// The queue of all these rows.
    ///
    /// # Errors
    /// [`GridError::Owned`] when they do not belong to one and the same: then no log could have them as one change.
    pub(super) fn queue_of(&self, rows: &[RowId]) -> Result<&Queue, GridError> {
        if let [only] = &self.queues[..] {
            return Ok(only);
        }
        let mut numbers = rows.iter().map(|row| self.log_of(row.table));
        let first = numbers.next().flatten().ok_or(GridError::Owned)?;
        match numbers.all(|number| number == Some(first)) {
            true => Ok(&self.queues[usize::from(first.0)]),
            false => Err(GridError::Owned),
        }
    }

    /// Whether all these rows belong to the queue. To be asked while its leader is locked: until it is not, they stay there.
    pub(super) fn belong(&self, queue: &Queue, rows: &[RowId]) -> bool {
        self.queues.len() == 1
            || rows
                .iter()
                .all(|row| self.log_of(row.table) == Some(queue.number))
    }

    /// Those in which something of the scope may be: all, for a table may be on its way from one to another.
    fn queues_of<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = &'a Queue> {
        let queues = self.queues.iter();
        queues.filter(move |_| !scope.is_nothing())
    }

    /// Nobody decides anything while these are held.
    pub(super) fn leaders(&self) -> SmallVec<[MutexGuard<'_, Leader>; 1]> {
        self.queues
            .iter()
            .map(|queue| queue.leader.lock())
            .collect()
    }

    /// The logs, to be watched for their failure: the process must stop acknowledging then.
    pub fn logs(&self) -> impl Iterator<Item = &Log> {
        self.queues.iter().map(|queue| &queue.log)
    }

    /// Whether the flushes that an earlier process left open are settled: before that, nothing can be loaded.
    pub fn settled(&self) -> bool {
        self.queues.iter().all(|queue| *queue.settled.borrow())
    }

    /// Waits for [`Grid::settled`]. Cancel safe.
    pub async fn until_settled(&self) {
        for queue in &self.queues {
            // An error means that the flusher has ended, which ends the process.
            let _ = queue.settled.clone().wait_for(|settled| *settled).await;
        }
    }

    /// Whether anything in the scope is not known to be in Postgres.
    pub fn has_pending(&self, scope: &Scope) -> bool {
        self.queues_of(scope)
            .any(|queue| queue.schedule.has_pending(scope))
    }

    pub(super) fn pending_bytes(&self) -> u64 {
        let queues = self.queues.iter();
        queues.map(|queue| queue.schedule.pending_bytes()).sum()
    }

    /// What is pending in all logs.
    pub fn queue_stats(&self) -> ScheduleStats {
        let stats = self.queues.iter().map(|queue| queue.schedule.stats());
        stats.fold(ScheduleStats::default(), ScheduleStats::and)
    }

    /// Pending rows by table.
    pub fn pending_by_table(&self) -> HashMap<TableOid, usize> {
        let mut tables = HashMap::new();
        for queue in &self.queues {
            queue.schedule.ask(|ripening| {
                for (table, rows) in ripening.tables() {
                    *tables.entry(table).or_default() += rows;
                }
            });
        }
        tables
    }

    /// What the logs have done.
    pub fn log_stats(&self) -> LogStats {
        let stats = self.logs().map(Log::stats);
        stats.reduce(LogStats::and).unwrap_or_default()
    }

    /// Flushes what is pending in the scope now, without waiting for it.
    pub fn flush_soon(&self, scope: Scope) {
        for queue in self.queues_of(&scope) {
            // A flusher that has ended ends the process.
            let _ = queue.flush(&scope);
        }
    }

    /// Where the logs are led: waits until everything proposed in the scope is in Postgres. Cancel safe.
    pub(super) async fn drain(&self, scope: &Scope) -> Result<(), GridError> {
        let proposed: SmallVec<[(&Queue, Proposal); 1]> = self
            .queues_of(scope)
            .map(|queue| (queue, queue.last()))
            .collect();
        for (queue, last) in &proposed {
            queue.wait_applied(*last).await;
        }
        let pending = proposed
            .iter()
            .filter(|(queue, _)| queue.schedule.has_pending(scope));
        let flushes = pending.map(|(queue, _)| queue.flush(scope));
        let flushes: SmallVec<[oneshot::Receiver<()>; 1]> = flushes.collect::<Result<_, _>>()?;
        match flushes.is_empty() {
            true => Ok(()),
            false => self.flushed(flushes).await,
        }
    }

    async fn flushed(
        &self,
        flushes: SmallVec<[oneshot::Receiver<()>; 1]>,
    ) -> Result<(), GridError> {
        let begun = Instant::now();
        let all = async {
            for flush in flushes {
                flush.await?;
            }
            Ok(())
        };
        let waited = tokio::time::timeout(self.options.barrier_timeout, all).await;
        let took = begun.elapsed().as_micros() as u64;
        let stats = &self.wait_stats;
        stats.barriers.fetch_add(1, Ordering::Relaxed);
        stats.barrier_us.fetch_add(took, Ordering::Relaxed);
        match waited {
            Ok(Ok(())) => Ok(()),
            Ok(Err(oneshot::error::RecvError { .. })) => Err(GridError::Log(LogError::Stopped)),
            Err(_) => Err(GridError::BarrierTimeout),
        }
    }
}
