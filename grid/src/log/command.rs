//! What the log carries: commands and the entries that pack them. Never says how they look on disk; `codec.rs` does.

use crate::scope::Scope;
use bytes::Bytes;
use ripen_cachestore::change::{Before, CommitGroup, FlushSeq, RowId, Shape};
use ripen_cachestore::home::Server;
use ripen_pg::ids::{TableOid, Xid};

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
    /// The transaction that carries the open flush. Its COMMIT is sent only after this is acknowledged.
    FlushXid(FlushSeq, Xid),
    /// A flush has ended as applied, and is kept until the standbys have it, too.
    FlushKept(FlushEnd),
    /// All standbys have the flushes up to this one.
    Safe(FlushSeq),
    /// That server is the system of record, and has every flush that has ended. Whether what is known of the rows in Postgres says nothing about it: another one may lack changes made by others.
    Home(Server, bool),
    /// Nothing: who proposes it finds out whether it still leads.
    Nothing,
    /// A scope is given to the database.
    Hold(HeldScope),
    /// Holds end. Those that are not known end too, should they still come.
    Release(Vec<RequestId>, HoldEnd),
    /// The catalog in Postgres is another one: what was known of it counts no more.
    CatalogChanged,
    /// What a request came to, so that it is carried out once however often it is asked.
    Once(Answered, Box<Command>),
    /// A process has ended: nothing that it asked will be asked again.
    Forget(u64),
    /// A leader has taken over in Postgres: the database knows this log from then on.
    TakenOver,
    /// Nothing of these tables is on its way, and their next changes go into another log.
    Left(Vec<TableOid>),
}

impl Command {
    /// The start of a flush is on disk before the flush is in Postgres, with all before it: a log that has forgotten writes in a power loss
    /// ([`super::Durability::Memory`]) still knows every flush that Postgres has, and what each carried. And no log may believe that it has a table which another one has.
    pub(crate) fn must_sync(&self) -> bool {
        matches!(self, Command::FlushStart(_) | Command::Left(_))
    }
}

/// A request of a node's process, the same however often and to whomever it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// Drawn when the process began.
    pub process: u64,
    /// Its requests are numbered in the order in which they were first sent.
    pub number: u64,
}

/// A request and the answer to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// Which one.
    pub id: RequestId,
    /// Requests of the process below this number have been answered and will not be sent again.
    pub below: u64,
    /// The answer.
    pub answer: Bytes,
}

/// A scope that belongs to the database until it is released.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldScope {
    /// The request for it.
    pub id: RequestId,
    /// The node whose process asks.
    pub node: u64,
    /// Requests of the process below this number have been answered and will not be sent again.
    pub below: u64,
    /// Which rows.
    pub scope: Scope,
    /// The backend of Postgres in which the transaction runs, if it is known.
    pub backend: Option<i32>,
    /// The transaction may make statements of others touch more than they have named: it ends only when those are over that were held when it began.
    pub rewires: bool,
    /// Tables that are taken out of the publication while it lasts.
    pub withdrawn: Vec<TableOid>,
}

/// How a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldEnd {
    /// Its scope may have changed.
    Changed,
    /// Nothing was changed under it.
    Unchanged,
}

impl HoldEnd {
    /// By whether the scope may have changed.
    pub fn of(changed: bool) -> HoldEnd {
        match changed {
            true => HoldEnd::Changed,
            false => HoldEnd::Unchanged,
        }
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
    /// The term in which its commands were decided: in another one it counts for nothing. 0: in any.
    pub term: u64,
    /// In the order of the proposals.
    pub commands: Vec<Command>,
}
