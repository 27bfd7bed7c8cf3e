//! Before a node flushes: it takes over in Postgres, and finds out what became of the flush that an earlier process left open. Does; what follows, `settlement` decides.

use super::{Backoff, Flusher, FlusherError, complain_of_loss, ended};
use crate::change::FlushSeq;
use crate::log::{Command, FlushEnd};
use crate::settlement;
use ripen_cachestore::StoreError;
use ripen_cachestore::failpoint::reach;
use ripen_cachestore::progress::{Taken, Taker};
use tokio_util::sync::CancellationToken;

impl Flusher {
    /// Tries until it is done. `None`: stopped.
    pub(super) async fn settle_surely(
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

    pub(super) async fn take_over(&self, epoch: u64) -> Result<Taken, StoreError> {
        let (known, formers) = (self.schedule.known(), self.schedule.formers());
        let taker = Taker {
            log: self.key(),
            epoch,
            holder: &self.holder,
            has_flushed: known.last > FlushSeq(0) || known.open.is_some(),
            formers: &formers,
        };
        let _turn = self.turn.lock().await;
        self.store.take_over(taker).await
    }
}
