//! What the leader has proposed and the log has not yet applied. Decides nothing about rows that are applied; `rows` holds those.
//!
//! Invariant: for each row, the overlay holds the image after the *last* proposal that touches it, so that the next decision builds on it
//! and writes to one row pipeline without waiting for the disk.

mod shapes;
mod taken;

use crate::change::{Change, CommitGroup, RowId, Shape};
use crate::grid::transaction::Nudge;
use crate::hashing::Seeded;
use crate::limits;
use crate::locks::{Locks, TxId};
use crate::log::RequestId;
use crate::mistake::Mistake;
use ripen_cachestore::catalog::Catalog;
use ripen_pg::ids::TableOid;
use ripen_pg::tuple::Tuple;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::oneshot;

use shapes::Told;
pub use shapes::Undrained;
pub use taken::{Taken, Taking};

/// Counts proposals in the order they were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proposal(pub u64);

/// The overlay and the two counters that say how far the log has come. All of it is of one term: what was proposed in another is not built upon.
#[derive(Debug)]
pub struct Leader {
    /// Rows that open transactions have locked. Of this term only, like the overlay.
    pub locks: Locks<oneshot::Sender<()>>,
    /// How to tell transactions that have locks that somebody in Postgres wants their rows.
    pub nudges: HashMap<TxId, Arc<Nudge>>,
    /// Rows that somebody has waited for and that were deleted meanwhile: whatever stands under their keys now is not what he waits for.
    pub gone: HashMap<TxId, BTreeSet<RowId>>,
    /// The term that this node leads in, once it has applied everything of earlier ones.
    term: Option<u64>,
    /// Requests that were proposed and not yet applied.
    asked: HashSet<RequestId>,
    /// Writes that it was asked for.
    pub taken: Taken,
    overlay: HashMap<RowId, Overlaid, Seeded>,
    proposed: Proposal,
    applied: Proposal,
    told: Told,
}

impl Default for Leader {
    fn default() -> Leader {
        Leader {
            locks: Locks::new(limits::ROW_LOCKS_MAX),
            nudges: HashMap::new(),
            gone: HashMap::new(),
            term: None,
            asked: HashSet::new(),
            taken: Taken::default(),
            overlay: HashMap::default(),
            proposed: Proposal::default(),
            applied: Proposal::default(),
            told: Told::default(),
        }
    }
}

#[derive(Debug)]
struct Overlaid {
    image: Option<Tuple>,
    proposals: u32,
}

impl Leader {
    /// From now on this node leads in that term (`None`: it does not), and everything of earlier ones is applied. What it had proposed before is nobody's concern
    /// any more: the log has it or not.
    pub fn lead(&mut self, term: Option<u64>) {
        if Mistake::StaleOverlay.is_made() && term.is_some() {
            (self.term, self.applied) = (term, self.proposed);
            return;
        }
        *self = Leader {
            term,
            proposed: self.proposed,
            applied: self.proposed,
            ..Leader::default()
        };
    }

    /// The term in which this node may decide.
    pub fn term(&self) -> Option<u64> {
        self.term
    }

    /// A request is about to be proposed.
    pub fn ask(&mut self, id: RequestId) {
        self.asked.insert(id);
    }

    /// Whether a request has been proposed and is not applied yet.
    pub fn is_asked(&self, id: RequestId) -> bool {
        self.asked.contains(&id)
    }

    /// A request has been applied, or will not be proposed.
    pub fn asked(&mut self, id: RequestId) {
        self.asked.remove(&id);
    }

    /// The image that the next decision about the row must build on, if it is not the applied one. `Some(None)`: deleted.
    pub fn image(&self, row: &RowId) -> Option<Option<Tuple>> {
        self.overlay.get(row).map(|overlaid| overlaid.image.clone())
    }

    /// See [`Told::tell`]. `pending`: whether anything of the table that is applied is on its way to Postgres.
    pub fn tell(
        &mut self,
        catalog: &Catalog,
        table: TableOid,
        logged: impl FnOnce() -> Option<Arc<Shape>>,
        pending: impl FnOnce() -> bool,
    ) -> Result<Option<Shape>, Undrained> {
        let overlay = &self.overlay;
        let drained = || !overlay.keys().any(|row| row.table == table) && !pending();
        self.told.tell(catalog, table, logged, drained)
    }

    /// What the log was told about tables.
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// The table is another log's from now on. Nothing of it may be on its way.
    pub fn forget(&mut self, table: TableOid) {
        self.told.forget(table);
    }

    /// Tells those who wait for rows that a group deletes, or puts others in their places, that they wait for nothing.
    pub fn part(&mut self, group: &CommitGroup) {
        for change in &group.rows {
            if matches!(change.change, Change::Delete | Change::Put { .. }) {
                for waiter in self.locks.waiting_for(&change.row) {
                    let gone = self.gone.entry(waiter).or_default();
                    gone.insert(change.row.clone());
                }
            }
        }
    }

    /// Notes a proposal. Call it in the order in which proposals enter the log's queue.
    pub fn propose(&mut self, group: &CommitGroup) -> Proposal {
        for change in &group.rows {
            let image = change.change.image().cloned();
            match self.overlay.entry(change.row.clone()) {
                Entry::Occupied(mut entry) => {
                    entry.get_mut().image = image;
                    entry.get_mut().proposals += 1;
                }
                Entry::Vacant(entry) => {
                    entry.insert(Overlaid {
                        image,
                        proposals: 1,
                    });
                }
            }
        }
        self.proposed.0 += 1;
        self.proposed
    }

    /// Notes that a group of that term is applied. If it is this leader's, it is the oldest proposal that was not.
    pub fn apply(&mut self, term: u64, group: &CommitGroup) {
        if self.term != Some(term) {
            return;
        }
        for change in &group.rows {
            if let Entry::Occupied(mut entry) = self.overlay.entry(change.row.clone()) {
                entry.get_mut().proposals -= 1;
                if entry.get().proposals == 0 {
                    entry.remove();
                }
            }
        }
        self.applied.0 += 1;
        assert!(
            self.applied <= self.proposed,
            "the log applied what nobody proposed"
        );
    }

    /// The last proposal made: wait for it, and all before it are applied too.
    pub fn last(&self) -> Proposal {
        self.proposed
    }

    /// The last proposal applied.
    pub fn applied(&self) -> Proposal {
        self.applied
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::RowChange;
    use ripen_pg::ids::TableOid;
    use ripen_pg::key::Key;
    use ripen_pg::tuple::Datum;

    fn row() -> RowId {
        RowId {
            table: TableOid(1),
            key: Key::from_bytes(b"k"),
        }
    }

    fn group(change: Change) -> CommitGroup {
        CommitGroup {
            rows: vec![RowChange { row: row(), change }],
        }
    }

    #[test]
    fn the_overlay_shows_the_last_proposal_until_all_are_applied() {
        let image: Tuple = [Datum::Value(b"1")].into_iter().collect();
        let mut leader = Leader::default();
        leader.lead(Some(7));
        let (insert, delete) = (group(Change::Insert { image }), group(Change::Delete));
        leader.propose(&insert);
        let last = leader.propose(&delete);
        assert_eq!(leader.image(&row()), Some(None));
        leader.apply(7, &insert);
        assert_eq!(leader.image(&row()), Some(None));
        assert!(leader.applied() < last);
        leader.apply(7, &delete);
        assert_eq!(leader.image(&row()), None);
        assert_eq!(leader.applied(), last);
    }

    #[test]
    fn what_was_proposed_in_another_term_is_not_built_upon() {
        let mut leader = Leader::default();
        leader.lead(Some(7));
        let last = leader.propose(&group(Change::Delete));
        leader.lead(Some(9));
        assert_eq!(leader.image(&row()), None);
        assert!(leader.applied() >= last, "nobody waits for it");
        leader.apply(7, &group(Change::Delete));
        leader.propose(&group(Change::Delete));
        leader.apply(9, &group(Change::Delete));
        assert_eq!(leader.image(&row()), None);
    }
}
