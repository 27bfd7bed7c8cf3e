//! The changes that the log carries and the flush writes: what became of a row, decided once at the leader. Never evaluates SQL.

pub mod codec;
mod letter;
pub mod shape;

use bytes::Bytes;
use ripen_pg::ids::{TableOid, TypeOid};
use ripen_pg::key::Key;
use ripen_pg::tuple::Tuple;

pub use letter::Letter;
pub use shape::{Shape, Shapes};

/// Number of a flush transaction. `ripen.progress.applied` holds the last one that Postgres has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlushSeq(pub u64);

/// A row's identity everywhere in the grid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    /// The table.
    pub table: TableOid,
    /// Its primary key, canonical.
    pub key: Key,
}

/// The outcome of one transaction: atomic in the log, in memory and in Postgres.
#[derive(Clone, Debug, PartialEq)]
pub struct CommitGroup {
    /// Each row once.
    pub rows: Vec<RowChange>,
}

/// What became of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct RowChange {
    /// Which row.
    pub row: RowId,
    /// What became of it.
    pub change: Change,
}

/// An outcome. Images are whole rows as they are afterwards.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The row did not exist (in the grid's belief) and now does.
    Insert {
        /// The row.
        image: Tuple,
    },
    /// Whatever there was is replaced (a delete followed by an insert).
    Put {
        /// The row.
        image: Tuple,
    },
    /// Some columns were assigned.
    Update {
        /// The row afterwards, unassigned columns included.
        image: Tuple,
        /// Positions assigned to the image's value, ascending.
        set: Vec<u16>,
        /// Positions incremented, ascending, disjoint from `set`: they stay increments all the way into Postgres.
        add: Vec<Increment>,
    },
    /// The row existed and no longer does.
    Delete,
}

/// `column = column + amount`. Only for int2, int4, int8 and numeric, where addition is exact and commutes.
#[derive(Clone, Debug, PartialEq)]
pub struct Increment {
    /// `attnum - 1`.
    pub position: u16,
    /// The column's base type.
    pub type_oid: TypeOid,
    /// The amount (negative for `-`), in the binary form of the column's type.
    pub amount: Bytes,
}

/// A row as the grid believed it to be in Postgres when the first change of a flush was decided on it; with `conflict = "database"` the flush
/// goes on only where Postgres still has it so.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Before {
    /// Whatever it was: changes made by others are merged with ours.
    #[default]
    Any,
    /// It did not exist.
    Absent,
    /// It was this.
    Row(Tuple),
}

impl Before {
    /// What it was, where that counts; the inner `None` means absent.
    pub fn demanded(&self) -> Option<Option<&Tuple>> {
        match self {
            Before::Any => None,
            Before::Absent => Some(None),
            Before::Row(row) => Some(Some(row)),
        }
    }

    /// Bytes of memory.
    pub fn weight(&self) -> usize {
        match self {
            Before::Any | Before::Absent => 0,
            Before::Row(row) => row.weight(),
        }
    }
}

impl Change {
    /// The row afterwards; `None` when it is gone.
    pub fn image(&self) -> Option<&Tuple> {
        match self {
            Change::Insert { image } | Change::Put { image } | Change::Update { image, .. } => {
                Some(image)
            }
            Change::Delete => None,
        }
    }
}
