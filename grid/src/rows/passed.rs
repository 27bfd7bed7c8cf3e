//! What the stream has handed over and may not be visible to a load that begins now: Postgres writes a commit into the WAL first and shows it to others
//! later (with synchronous replication, much later). A load must not miss such a change only because its row was not in memory when it passed.
//!
//! A transaction is kept until some load's snapshot has seen it: all later ones see it too. Decides only; `Rows` calls it under its own locks.

use super::slot::WalEvent;
use crate::change::RowId;
use crate::hashing::Seeded;
use crate::limits;
use ripen_pg::ids::{Snapshot, TableOid, Xid};
use ripen_pg::key::Key;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// What a beginning load must take into account.
#[derive(Debug, Default)]
pub struct Passed {
    /// Changes of its row, in the order of the WAL. To be applied unless the load's snapshot saw them.
    pub events: Vec<WalEvent>,
    /// Transactions whose rows were too many to remember.
    pub must_see: Arc<MustSee>,
}

/// Transactions that a load must have seen to be kept.
#[derive(Clone, Debug, Default)]
pub struct MustSee {
    xids: Vec<Xid>,
    up_to: Xid,
}

impl MustSee {
    /// Whether the snapshot saw them all.
    pub fn seen_by(&self, snapshot: &Snapshot) -> bool {
        (self.up_to == Xid(0) || self.up_to < snapshot.xmin)
            && self.xids.iter().all(|xid| snapshot.saw_full(*xid))
    }

    fn is_empty(&self) -> bool {
        self.xids.is_empty() && self.up_to == Xid(0)
    }

    fn push(&mut self, xid: Xid) {
        if self.xids.contains(&xid) {
            return;
        }
        if self.xids.len() == limits::PASSED_TRANSACTIONS_MAX {
            self.up_to = self.xids.drain(..).fold(self.up_to, Xid::max);
        }
        self.xids.push(xid);
    }
}

/// The transactions that passed and that no load has seen yet. See the module.
#[derive(Debug, Default)]
pub struct Recent {
    /// Loads with smaller numbers are of another history, where other transactions have the same ids.
    first_load: u64,
    order: VecDeque<(Xid, RowId)>,
    events: HashMap<RowId, VecDeque<WalEvent>, Seeded>,
    unlisted: Arc<MustSee>,
    bytes: usize,
}

impl Recent {
    /// Of a history of which loads from that number on tell.
    pub fn from_load(first_load: u64) -> Recent {
        Recent {
            first_load,
            ..Recent::default()
        }
    }

    /// A change passed.
    pub fn push(&mut self, row: &RowId, event: &WalEvent) {
        self.order.push_back((event.xid, row.clone()));
        self.events
            .entry(row.clone())
            .or_default()
            .push_back(event.clone());
        self.bytes += weight(event);
        while (self.order.len() > limits::PASSED_EVENTS_MAX
            || self.bytes > limits::PASSED_BYTES_MAX)
            && let Some(xid) = self.pop()
        {
            self.push_unlisted(xid);
        }
    }

    /// A transaction passed that may have touched any row.
    pub fn push_unlisted(&mut self, xid: Xid) {
        if self.unlisted.xids.last() != Some(&xid) {
            Arc::make_mut(&mut self.unlisted).push(xid);
        }
    }

    /// What a load of this row that begins now must take into account.
    pub fn of(&self, row: &RowId) -> Passed {
        Passed {
            events: self
                .events
                .get(row)
                .map(|events| events.iter().cloned().collect())
                .unwrap_or_default(),
            must_see: self.unlisted.clone(),
        }
    }

    /// What a load of any rows of this table that begins now must take into account, in no order.
    pub fn of_table(&self, table: TableOid) -> impl Iterator<Item = (&Key, &WalEvent)> {
        let rows = self.events.iter();
        let rows = rows.filter(move |(row, _)| row.table == table);
        rows.flat_map(|(row, events)| events.iter().map(|event| (&row.key, event)))
    }

    /// Transactions of which nobody remembers what they changed: whatever is loaded must have seen them.
    pub fn must_see(&self) -> Arc<MustSee> {
        self.unlisted.clone()
    }

    /// All that this load's snapshot saw is visible to every load that begins after it was taken. False: the load is of another history, and tells nothing.
    pub fn seen_by(&mut self, load: u64, snapshot: &Snapshot) -> bool {
        if load < self.first_load {
            return false;
        }
        while self
            .order
            .front()
            .is_some_and(|(xid, _)| snapshot.saw_full(*xid))
        {
            self.pop();
        }
        if !self.unlisted.is_empty() {
            let unlisted = Arc::make_mut(&mut self.unlisted);
            unlisted.xids.retain(|xid| !snapshot.saw_full(*xid));
            if unlisted.up_to < snapshot.xmin {
                unlisted.up_to = Xid(0);
            }
        }
        true
    }

    fn pop(&mut self) -> Option<Xid> {
        let (xid, row) = self.order.pop_front()?;
        let events = self
            .events
            .get_mut(&row)
            .expect("each row in the order has its event");
        let event = events.pop_front();
        self.bytes -= event.as_ref().map_or(0, weight);
        if events.is_empty() {
            self.events.remove(&row);
        }
        Some(xid)
    }
}

fn weight(event: &WalEvent) -> usize {
    limits::EVENT_OVERHEAD_BYTES + event.after.weight()
}
