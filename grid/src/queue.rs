//! What one log has for itself on a node: who decides (`leader`), what is on its way to Postgres (`schedule`), and the way to its flusher. Rows, fences and the stream belong to all logs
//! together (`grid`). Never knows of other queues.

use crate::change::CommitGroup;
use crate::flusher::FlushRequest;
use crate::grid::GridError;
use crate::leader::{Leader, Proposal, Undrained};
use crate::log::{Command, Log, LogError};
use crate::schedule::Schedule;
use crate::scope::Scope;
use parking_lot::Mutex;
use ripen_cachestore::catalog::Catalog;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// A log's place in the order of a node's logs. The same on all nodes and for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogNumber(pub u8);

/// See the module.
pub struct Queue {
    /// Which log's.
    pub number: LogNumber,
    /// What is pending, and since when.
    pub schedule: Arc<Schedule>,
    /// Whether the flush that an earlier process left open is settled.
    pub(crate) settled: watch::Receiver<bool>,
    pub(crate) leader: Arc<Mutex<Leader>>,
    pub(crate) applied: watch::Receiver<Proposal>,
    pub(crate) log: Log,
    pub(crate) flushes: mpsc::UnboundedSender<FlushRequest>,
}

impl Queue {
    /// Tells the log what it must know before the group, so that its bytes can be understood. What was told of one table stands if another refuses.
    pub(crate) fn tell_shapes(
        &self,
        leader: &mut Leader,
        term: u64,
        catalog: &Catalog,
        group: &CommitGroup,
    ) -> Result<(), GridError> {
        for change in &group.rows {
            let table = change.row.table;
            let pending = || self.schedule.has_pending(&Scope::Tables([table].into()));
            let logged = || self.schedule.shapes().remove(&table);
            match leader.tell(catalog, table, logged, pending) {
                Ok(None) => {}
                // The group comes behind it in the log, and is not taken if this is not.
                Ok(Some(shape)) => drop(self.log.propose_in(term, Command::Shape(table, shape))),
                Err(Undrained) => return Err(GridError::Owned),
            }
        }
        Ok(())
    }

    /// The last proposal made here: wait for it, and all before it are applied.
    pub(crate) fn last(&self) -> Proposal {
        self.leader.lock().last()
    }

    /// Cancel safe.
    pub(crate) async fn wait_applied(&self, proposal: Proposal) {
        let mut applied = self.applied.clone();
        // An error means that the log ended; whoever waits finds that out at its next proposal.
        let _ = applied.wait_for(|applied| *applied >= proposal).await;
    }

    /// Has everything flushed that is pending in the scope now. The answer comes when it is in Postgres; a dropped sender means that it will not be.
    ///
    /// # Errors
    /// When the flusher has ended, which ends the process.
    pub(crate) fn flush(&self, scope: &Scope) -> Result<oneshot::Receiver<()>, GridError> {
        let (done, wait) = oneshot::channel();
        let request = FlushRequest {
            scope: scope.clone(),
            cutoff_ms: self.schedule.clock_ms(),
            done,
        };
        let sent = self.flushes.send(request);
        sent.map_err(|_| GridError::Log(LogError::Stopped))?;
        Ok(wait)
    }
}
