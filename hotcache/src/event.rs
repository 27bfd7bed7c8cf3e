//! What the hot cache tells the grid, in the order of the WAL. Values, and what they are to whom; never talks to anybody.

use crate::error::Unavailable;
use crate::publication::Author;
use crate::shape::ShapeStamp;
use ripen_cachestore::catalog::Catalog;
use ripen_cachestore::change::{FlushSeq, RowId};
use ripen_pg::ids::{Lsn, TableOid, Xid32};
use ripen_pg::replication::PgMicros;
use ripen_pg::tuple::Tuple;
use std::collections::BTreeSet;

/// What happened, in order. Between `Connected` and the next `Disconnected` or `Unavailable` nothing is left out; things may be told twice
/// after a reconnect.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The stream stands.
    Connected {
        /// Nothing was missed since the last time. Otherwise whatever memory holds of followed tables may be stale and must go first.
        resumed: bool,
        /// Postgres's past is the one that was told of. Otherwise (a failover, a backup) transactions that were told may never have happened.
        same_history: bool,
        /// `systemid` of the cluster.
        system_id: u64,
        /// Its timeline.
        timeline: u32,
        /// Everything committed up to here was told before, or is not told at all (a new slot).
        position: Lsn,
    },
    /// The stream is away; it comes back by itself.
    Disconnected {
        /// Why, for people.
        reason: String,
    },
    /// There can be no stream until somebody changes something in Postgres. Tried again now and then.
    Unavailable(Unavailable),
    /// A committed transaction.
    Transaction(Transaction),
    /// A mark has passed: everything that had committed when it was written has been told.
    Mark {
        /// Its number.
        id: u64,
        /// The stream's position.
        position: Lsn,
    },
    /// Tables have left the publication: what is committed behind this position is not told of them. They may have come back since.
    Withdrawn {
        /// Who took them out.
        author: Author,
        /// Which.
        tables: Vec<TableOid>,
        /// The stream's position.
        position: Lsn,
    },
    /// Everything committed up to here has been told. (`Transaction`, `Mark` and `Withdrawn` imply it for their own positions.)
    Position(Lsn),
}

/// A flush of one of our logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnFlush {
    /// The log's number in `ripen.progress`.
    pub log: i32,
    /// The flush's.
    pub seq: FlushSeq,
}

/// A committed transaction, as far as it concerns followed tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    /// Its top-level id, what snapshots speak of.
    pub xid: Xid32,
    /// End of its commit record: what `Position` would say.
    pub commit: Lsn,
    /// When it committed, by Postgres's clock.
    pub commit_time: PgMicros,
    /// It is that flush of ours: nothing else of it is told, unless it may have changed more than it carried.
    pub own_flush: Option<OwnFlush>,
    /// What became of rows. Each row once, and none of a table in `truncated` or `invalidated`.
    pub rows: Vec<RowOutcome>,
    /// Emptied, and nothing was inserted afterwards.
    pub truncated: Vec<TableOid>,
    /// Any row of these tables may have changed.
    pub invalidated: Vec<TableOid>,
    /// The columns of these tables are no longer what they were, or not what the catalog says: load it anew.
    pub schema_changed: Vec<TableOid>,
    /// What the bytes of `rows` mean, of each of their tables: who has another catalog than the one they were read by must not use them ([`Transaction::fit`]).
    pub shapes: Vec<(TableOid, ShapeStamp)>,
}

impl Transaction {
    /// The transaction for somebody with this catalog: rows that mean something else under it are told by their tables.
    pub fn fit(&mut self, catalog: &Catalog) {
        let misfit = |(table, stamp): &(TableOid, ShapeStamp)| {
            let relation = catalog.relations.get(table);
            let fits = relation.is_some_and(|relation| ShapeStamp::of(catalog, relation) == *stamp);
            (!fits).then_some(*table)
        };
        let misfits: BTreeSet<TableOid> = self.shapes.iter().filter_map(misfit).collect();
        self.invalidate(&misfits);
        let known = self.schema_changed.iter().copied();
        let schema_changed: BTreeSet<TableOid> = known.chain(misfits).collect();
        self.schema_changed = schema_changed.into_iter().collect();
    }

    /// Tells these tables as changed, not their rows.
    pub fn invalidate(&mut self, tables: &BTreeSet<TableOid>) {
        self.rows.retain(|told| !tables.contains(&told.row.table));
        self.truncated.retain(|table| !tables.contains(table));
        self.shapes.retain(|(table, _)| !tables.contains(table));
        let known = self.invalidated.iter().copied();
        let all: BTreeSet<TableOid> = known.chain(tables.iter().copied()).collect();
        self.invalidated = all.into_iter().collect();
    }
}

/// What a transaction did to one row.
#[derive(Clone, Debug, PartialEq)]
pub struct RowOutcome {
    /// Which row.
    pub row: RowId,
    /// What became of it.
    pub outcome: Outcome,
}

impl RowOutcome {
    /// About the bytes it takes on its way to another node.
    pub(crate) fn weight(&self) -> usize {
        let image = match &self.outcome {
            Outcome::Put(image) => image.weight(),
            Outcome::Delete | Outcome::Unknown => 0,
        };
        self.row.key.as_bytes().len() + image
    }
}

/// See [`RowOutcome`].
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The row is this now. A missing column is unchanged (a TOAST value that the WAL does not repeat) or dropped.
    Put(Tuple),
    /// The row is gone.
    Delete,
    /// The row changed, and the WAL does not say what it is now (generated columns, types without binary form).
    Unknown,
}
