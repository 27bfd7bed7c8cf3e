//! One flush on its way to Postgres, until it is committed or given back. Does; nothing is assumed of what became of it: Postgres is asked.

use super::{Backoff, Flusher, FlusherError, complain_of_loss, ended};
use crate::change::{FlushSeq, RowId};
use crate::log::{Command, FlushEnd};
use crate::record::Asked;
use crate::schedule::OpenFlush;
use ripen_cachestore::failpoint::reach;
use ripen_cachestore::flush::{FlushBatch, FlushOutcome};
use ripen_cachestore::progress::FlushFate;
use ripen_cachestore::{Class, StoreError};
use ripen_pg::ids::Xid;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

impl Flusher {
    /// Brings one open flush to its end: committed, or given back for another try.
    pub(super) async fn carry(
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

    pub(super) fn committed(&self, seq: FlushSeq, outcome: FlushOutcome) -> FlushEnd {
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
}

/// Only the lack of a right needs a human.
pub(super) fn complain_of_hold_up(rows: usize, by: &StoreError) {
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
pub(super) fn is_outdated(error: &StoreError, batch: &FlushBatch) -> bool {
    let refused = error.class() == Class::Schema && !batch.catalog_is_new;
    refused || matches!(error, StoreError::CatalogUnsteady)
}

/// It did not happen: its rows are pending again.
fn given_back(open: &OpenFlush) -> FlushEnd {
    FlushEnd {
        seq: open.seq,
        applied: false,
        dead: Vec::new(),
    }
}
