//! What the log carries: commands and the entries that pack them. Never says how they look on disk; `codec.rs` does.

use ripen_cachestore::change::{Before, CommitGroup, FlushSeq, RowId, Shape};
use ripen_pg::ids::TableOid;

/// A position in the log: the Raft index of an entry. Several commands may share one; Raft's own entries take some too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogIndex(pub u64);

/// One thing that changes what the grid believes.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// The outcome of one transaction.
    Group(CommitGroup),
    /// The same, with what each of its rows was before, in their order: for tables where changes of others win.
    Guarded(CommitGroup, Vec<Before>),
    /// From here on, what groups say of the table has this shape. Nothing of another one is on its way.
    Shape(TableOid, Shape),
    /// A flush begins. Applying it decides which rows it takes.
    FlushStart(FlushStart),
    /// A flush ended.
    FlushEnd(FlushEnd),
}

impl Command {
    /// The start of a flush is on disk before the flush is in Postgres, with all before it: a log that has forgotten writes in a power loss
    /// ([`super::Durability::Memory`]) still knows every flush that Postgres has, and what each carried.
    pub(crate) fn must_sync(&self) -> bool {
        matches!(self, Command::FlushStart(_))
    }
}

/// A flush begins.
#[derive(Clone, Debug, PartialEq)]
pub struct FlushStart {
    /// Its number, one more than the last.
    pub seq: FlushSeq,
    /// Rows that became pending at or before this unix time in milliseconds are taken.
    pub cutoff_ms: u64,
    /// Which rows it is about.
    pub scope: FlushScope,
    /// At most so many rows, split only between commit groups.
    pub rows_max: u32,
}

/// Which pending rows a flush is about.
#[derive(Clone, Debug, PartialEq)]
pub enum FlushScope {
    /// All.
    All,
    /// Those of some tables.
    Tables(Vec<TableOid>),
    /// Some rows.
    Rows(Vec<RowId>),
}

/// A flush ended.
#[derive(Clone, Debug, PartialEq)]
pub struct FlushEnd {
    /// Its number.
    pub seq: FlushSeq,
    /// Whether its transaction is committed in Postgres. If not, nothing of it is there and its rows become pending again.
    pub applied: bool,
    /// Rows that Postgres refused and that stand in `ripen.dead_letter` now.
    pub dead: Vec<RowId>,
}

/// What one Raft entry carries.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The leader's unix clock in milliseconds when the entry was packed. Never smaller than in an earlier entry.
    pub at_ms: u64,
    /// In the order of the proposals.
    pub commands: Vec<Command>,
}
