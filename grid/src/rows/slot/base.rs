//! A row as Postgres has it: since when, and what a WAL change or a flush makes of it. Decides only.

use super::super::layer;
use super::super::load::Moment;
use crate::change::Change;
use crate::limits;
use ripen_pg::ids::{Lsn, Xid};
use ripen_pg::tuple::{Datum, Tuple};
use std::sync::Arc;

/// Where a flush was committed that no stream confirms.
pub(super) const UNFOLLOWED: Lsn = Lsn(0);

/// Which WAL changes a row already contains.
#[derive(Clone, Debug)]
pub enum Seen {
    /// Loaded: those that the load's snapshot saw.
    Loaded(Arc<Moment>),
    /// Set by a WAL change: everything committed up to there.
    Lsn(Lsn),
    /// The same in the memory of another node, whose stream may be ahead of this one's.
    Told(Lsn),
}

/// Who tells where a flush was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirms {
    /// The stream will.
    Stream,
    /// Nobody, and nobody need: the table has no other writers.
    Nobody,
    /// Nobody, although others write the table: the stream has lost sight of it, and may yet tell what was before the flush.
    Unknown,
}

/// What a row contains that the stream may not have told yet.
#[derive(Clone, Copy, Debug)]
pub enum Ahead<'a> {
    /// All that a load saw.
    Loaded(&'a Arc<Moment>),
    /// Everything committed up to there.
    Told(Lsn),
}

impl Ahead<'_> {
    /// When the stream has passed this, it has told all of it.
    pub fn wal(&self) -> Lsn {
        match self {
            Ahead::Loaded(moment) => moment.wal,
            Ahead::Told(lsn) => *lsn,
        }
    }

    /// Where another node was told what Postgres may not show yet; 0: nowhere.
    pub fn told(&self) -> Lsn {
        match self {
            Ahead::Loaded(_) => Lsn(0),
            Ahead::Told(lsn) => *lsn,
        }
    }

    /// Whether both contain the same.
    pub fn same(&self, other: &Ahead<'_>) -> bool {
        match (self, other) {
            (Ahead::Loaded(mine), Ahead::Loaded(others)) => Arc::ptr_eq(mine, others),
            (Ahead::Told(mine), Ahead::Told(others)) => mine == others,
            _ => false,
        }
    }
}

impl Seen {
    fn contains(&self, xid: Xid, commit: Lsn) -> bool {
        match self {
            Seen::Loaded(moment) => moment.snapshot.saw_full(xid),
            Seen::Lsn(lsn) | Seen::Told(lsn) => commit <= *lsn,
        }
    }
}

/// A row as Postgres has it.
#[derive(Clone, Debug)]
pub struct Base {
    /// `None`: known not to exist.
    pub row: Option<Tuple>,
    /// As of when.
    pub seen: Seen,
}

/// What taking in a WAL change did to a base.
pub(super) enum Took {
    Nothing,
    Changed,
    /// Part of the new row is not in the WAL and not known here.
    Lost,
}

impl Base {
    pub(super) fn take(&mut self, event: WalEvent) -> Took {
        if self.seen.contains(event.xid, event.commit) {
            return Took::Nothing;
        }
        self.seen = Seen::Lsn(event.commit);
        self.row = match (event.after, &self.row) {
            (After::Unknown, _) => return Took::Lost,
            (After::Absent, _) => None,
            (After::Row(row), _) if !has_missing(&row) => Some(row),
            (After::Row(row), Some(old)) => Some(fill(&row, old)),
            (After::Row(_), None) => return Took::Lost,
        };
        Took::Changed
    }

    /// A flush of ours. At [`UNFOLLOWED`], nobody tells where it was committed.
    pub(super) fn add(&mut self, change: &Change, xid: Xid, commit: Lsn) {
        if commit == UNFOLLOWED {
            self.row = layer::apply(change, self.row.as_ref());
        } else if !self.seen.contains(xid, commit) {
            self.row = layer::apply(change, self.row.as_ref());
            self.seen = Seen::Lsn(commit);
        }
    }

    /// Bytes of memory.
    pub(super) fn weight(&self) -> usize {
        let seen = match &self.seen {
            Seen::Loaded(moment) => limits::SNAPSHOT_BYTES + 8 * moment.snapshot.running.len(),
            Seen::Lsn(_) | Seen::Told(_) => 0,
        };
        seen + self.row.as_ref().map_or(0, Tuple::weight)
    }
}

fn has_missing(row: &Tuple) -> bool {
    row.iter().any(|column| column == Datum::Missing)
}

/// Unchanged TOAST values are missing in the WAL: they are what they were.
fn fill(row: &Tuple, old: &Tuple) -> Tuple {
    let column = |position: usize| match row.get(position) {
        Datum::Missing => old.get(position),
        known => known,
    };
    (0..row.len().max(old.len())).map(column).collect()
}

/// An outside change of one row in the WAL.
#[derive(Clone, Debug)]
pub struct WalEvent {
    /// By which transaction.
    pub xid: Xid,
    /// Committed where.
    pub commit: Lsn,
    /// The row afterwards.
    pub after: After,
}

/// A row after an outside transaction.
#[derive(Clone, Debug)]
pub enum After {
    /// It is this. Columns that the WAL did not repeat are missing.
    Row(Tuple),
    /// It is gone.
    Absent,
    /// It changed, and the WAL does not say to what.
    Unknown,
}

impl After {
    /// Bytes of memory.
    pub fn weight(&self) -> usize {
        match self {
            After::Row(row) => row.weight(),
            After::Absent | After::Unknown => 0,
        }
    }
}
