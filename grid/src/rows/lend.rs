//! Rows between the memories of two nodes: what one tells another that loads a row, and how that takes it in. Holds no state; never decides who may ask whom (`peers`).

use super::slot::{Base, Lend, Seen, TookLent};
use super::{LoadTicket, Rows};
use crate::change::RowId;
use ripen_pg::ids::{Lsn, TableOid};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

impl Rows {
    /// What memory has of a row for a node that loads it. `fenced` is asked while the row is locked; `None` if it says yes.
    pub fn lend(&self, row: &RowId, fenced: impl FnOnce() -> bool) -> Option<Lend> {
        let place = self.place(row);
        let shard = self.shards[place.shard()].read();
        (!fenced()).then(|| shard.lend(&place))
    }

    /// Takes in what another node has lent: as [`Rows::finish_load`], for the rows of which `lent` knows. What only Postgres can tell stays with the ticket, to be loaded there.
    /// The other node must have been told, when it answered, at least what this one had been told when the load began.
    pub fn take_lent(&self, ticket: &mut LoadTicket, mut lent: impl FnMut(&RowId) -> Option<Base>) {
        let (load, near, now) = (ticket.load(), ticket.is_near(), self.now());
        ticket.retain(|row| {
            let Some(base) = lent(row) else { return true };
            match &base.seen {
                Seen::Loaded(moment) => {
                    if self.recent.lock().seen_by(load, &moment.snapshot) {
                        self.newest_xid
                            .fetch_max(moment.snapshot.xmax.0, Ordering::Relaxed);
                    }
                }
                // Before anybody sees it: loads of sets that begin from now on know of it.
                Seen::Told(lsn) | Seen::Lsn(lsn) => {
                    self.lent.fetch_max(lsn.0, Ordering::SeqCst);
                }
            }
            let place = self.place(row);
            let mut shard = self.shards[place.shard()].write();
            let (_, took) = shard.finish_load(&place, now, near, |busy| busy.take_lent(load, base));
            took == TookLent::Refused
        });
    }

    /// The stream begins to hand over what was committed there, in any of the ways that this type has.
    pub fn begin_told(&self, commit: Lsn) {
        self.told.fetch_max(commit.0, Ordering::SeqCst);
    }

    /// Where to look up to where the stream has handed over everything. Set once; rows of other nodes are not taken in before.
    pub fn measure_by(&self, followed: Arc<AtomicU64>) {
        // A second one would be our own mistake.
        let _ = self.followed.set(followed);
    }

    pub(super) fn followed(&self) -> Lsn {
        let followed = self.followed.get();
        Lsn(followed.map_or(0, |followed| followed.load(Ordering::SeqCst)))
    }

    /// Up to where something of the WAL may be seen in memory, or may have been seen of these rows, which are not known any more. Positions of before [`Rows::stream_lost`] do not count.
    pub fn may_have_shown<'a>(&self, rows: impl IntoIterator<Item = &'a RowId>) -> Lsn {
        let gone = rows.into_iter().map(|row| {
            let place = self.place(row);
            self.shards[place.shard()].read().gone()
        });
        let gone = gone.max().unwrap_or_default();
        gone.max(Lsn(self.told.load(Ordering::SeqCst)))
    }

    pub(super) fn forget_told(&self) {
        self.told.store(0, Ordering::SeqCst);
        self.lent.store(0, Ordering::SeqCst);
        // Those whose load began meanwhile.
        self.clear_sets();
        for shard in &self.shards {
            shard.write().forget_gone();
        }
    }

    /// Whether clean rows of the table grow too old after a while.
    pub fn expires(&self, table: TableOid) -> bool {
        self.shards[0].read().expires(table)
    }

    /// Near copies may take so much of the memory for rows.
    pub fn share_near(&self, share: f64) {
        for shard in &self.shards {
            shard.write().share_near(share);
        }
    }

    /// Looks again which rows are near copies, a few per lock; `is_near` is given what the row counts as.
    pub fn mark_near(&self, is_near: impl Fn(&RowId, bool) -> bool) {
        for shard in &self.shards {
            let mut from = Some(0);
            while let Some(at) = from {
                from = shard.write().mark_near(at, &is_near);
            }
        }
    }
}
