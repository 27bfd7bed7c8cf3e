//! What a server lacks that has taken the place of the system of record is written there again, each flush under its own number, before anything new is flushed and before anybody is
//! let there. Does; `settlement` decides what that is.

use super::carrying::{complain_of_hold_up, is_outdated};
use super::{Flusher, FlusherError};
use crate::change::FlushSeq;
use crate::kept::KeptFlush;
use crate::log::Command;
use ripen_cachestore::StoreError;
use ripen_cachestore::flush::{Again, FlushBatch};
use ripen_cachestore::home::Server;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Flusher {
    /// Which server was taken over just now. `None`: it does not matter, and nothing is kept that it may lack.
    pub(super) async fn server_taken(&self, epoch: u64) -> Result<Option<Server>, FlusherError> {
        if !self.store.home().guarded() && !self.keeps() {
            return Ok(None);
        }
        let standing = self.store.standing(self.key()).await?;
        match standing.progress {
            Some(progress) if progress.epoch == epoch => Ok(Some(standing.server)),
            // The next connection was to another one: begin again there.
            _ => Err(StoreError::Strange(standing.server).into()),
        }
    }

    /// Writes kept flushes again, from that one to the last. Breaking off is harmless: Postgres counts them.
    pub(super) async fn write_again(
        &self,
        epoch: u64,
        first: FlushSeq,
        server: Option<Server>,
    ) -> Result<(), FlusherError> {
        let last = self.schedule.known().last;
        tracing::warn!(
            first = first.0,
            last = last.0,
            "Postgres lacks flushes that it had committed, after a failover or from a backup: writing them again"
        );
        for seq in (first.0..=last.0).map(FlushSeq) {
            let kept = self.schedule.ask_kept(|kept| kept.get(seq));
            let kept = kept.ok_or_else(|| {
                StoreError::Unexpected(format!("flush {} is not kept any more", seq.0))
            })?;
            self.write_kept(epoch, &kept, server).await?;
        }
        Ok(())
    }

    async fn write_kept(
        &self,
        epoch: u64,
        kept: &KeptFlush,
        server: Option<Server>,
    ) -> Result<(), FlusherError> {
        let mut batch = FlushBatch {
            log: self.key(),
            epoch,
            seq: kept.seq,
            groups: kept.groups.clone(),
            shapes: kept.shapes.clone(),
            guards: kept.guards.clone(),
            catalog_is_new: false,
        };
        let refused = kept.refused.clone();
        let again = Again { server, refused };
        let mut catalog = (self.catalog)();
        loop {
            match self.store.flush_again(&catalog, &batch, &again).await {
                Ok(outcome) => {
                    self.stats.again.fetch_add(1, Ordering::Relaxed);
                    self.committed(kept.seq, outcome);
                    return Ok(());
                }
                // The schema may be an older one there.
                Err(error) if is_outdated(&error, &batch) && !batch.catalog_is_new => {
                    catalog = Arc::new(self.store.load_catalog(catalog.epoch).await?);
                    batch.catalog_is_new = true;
                }
                Err(StoreError::HeldUp { rows, by }) => {
                    complain_of_hold_up(rows.len(), &by);
                    return Err(StoreError::HeldUp { rows, by }.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The server has everything: it is the system of record from now on, on all nodes. `lacked`: it lacked something, so what others had changed may be lost there.
    pub(super) async fn go_home(
        &self,
        term: u64,
        epoch: u64,
        server: Server,
        lacked: bool,
    ) -> Result<(), FlusherError> {
        let standing = self.store.standing(self.key()).await?;
        let last = self.schedule.known().last;
        let whole = standing
            .progress
            .is_some_and(|found| found.epoch == epoch && found.applied == last);
        if standing.server != server || !whole {
            return Err(StoreError::Strange(standing.server).into());
        }
        let before = self.store.home().now();
        let anew = lacked || before.is_some_and(|before| before.timeline != server.timeline);
        if before == Some(server) && !anew {
            return Ok(());
        }
        if anew {
            tracing::warn!(%server, "the system of record is another server now: what is in memory of others' changes is read anew");
        }
        let home = Command::Home(server, anew);
        self.log.propose_in(term, home).await?;
        Ok(())
    }

    /// Whether the server that a new connection leads to is another than the log says, or lacks something.
    pub(super) async fn is_elsewhere(&self, epoch: u64) -> bool {
        // Old connections may lead to where the system of record was.
        self.store.forget_idle();
        let last = self.schedule.known().last;
        match self.store.standing(self.key()).await {
            Ok(standing) => {
                let found = standing.progress;
                let whole =
                    found.is_some_and(|found| found.epoch == epoch && found.applied >= last);
                !whole || !self.store.home().is(Some(standing.server))
            }
            Err(error) => {
                tracing::warn!(%error, "cannot find out which server is the system of record now");
                false
            }
        }
    }
}
