//! What the replication stream means: messages in, events out. Decides only; `client` reads the connection and hands events over.
//!
//! ```text
//! between ── Begin ──► open ── Relation, rows, Truncate, Message ──► open ── Commit ──► between
//!    └─ keepalive: position                └─ our progress row: own flush, rows are skipped unless it says that they may be more than it carries
//! ```
//! Invariants: an event is told only for a transaction that has ended; `passed` never goes back within a stream; memory of an open transaction is bounded.

use crate::event::{Event, Outcome, OwnFlush, RowOutcome, Transaction};
use crate::limits::{ROW_OVERHEAD, TRANSACTION_BYTES_MAX};
use crate::publication::{Author, withdrawal};
use crate::shape::ShapeStamp;
use crate::table::{Mapping, Table, WalRow, fill, is_incomplete};
use foldhash::fast::RandomState;
use indexmap::IndexMap;
use progress::{Progress, Verdict};
use ripen_cachestore::catalog::Catalog;
use ripen_cachestore::change::{FlushSeq, RowId};
use ripen_cachestore::progress::LogKey;
use ripen_pg::ids::{Lsn, TableOid, Xid32};
use ripen_pg::replication::PgMicros;
use ripen_pg::replication::pgoutput::{Old, PgOutput, RelationMessage, TupleData};
use std::collections::{BTreeSet, HashMap};

mod progress;

/// Prefix of our messages in the WAL.
pub const MARK_PREFIX: &[u8] = b"ripen";
/// Prefix of the message by which a flush says, before its rows, that triggers or foreign keys may make more of it.
pub const TELL_PREFIX: &[u8] = b"ripen.tell";

/// Prefix of the message by which a change of the publication says, with its commit, which tables it took out.
pub const WITHDRAWN_PREFIX: &[u8] = b"ripen.withdrawn";

/// Messages that cannot follow each other, or contradict what the stream said before. The connection must be made anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A message outside or inside a transaction where it cannot be.
    #[error("replication message \"{0}\" out of order")]
    OutOfOrder(&'static str),
    /// A row of a table that was not described.
    #[error("replication stream tells rows of table {} without describing it", .0.0)]
    Undescribed(TableOid),
    /// Our own progress table is not what it should be.
    #[error("unexpected columns in \"ripen.progress\"")]
    Progress,
}

/// See the module.
#[derive(Debug)]
pub struct Stream {
    /// Ours, with the last flush seen of each.
    logs: Vec<(LogKey, Option<FlushSeq>)>,
    described: HashMap<TableOid, Described, RandomState>,
    open: Option<Open>,
    passed: Lsn,
    bytes_max: usize,
}

#[derive(Debug)]
enum Described {
    Progress(Progress),
    Table(Table),
}

/// A transaction whose commit has not come yet.
#[derive(Debug)]
struct Open {
    xid: Xid32,
    own_flush: Option<OwnFlush>,
    tells: bool,
    rows: IndexMap<RowId, Outcome, RandomState>,
    bytes: usize,
    /// Too large to keep rows: tables only.
    collapsed: bool,
    truncated: BTreeSet<TableOid>,
    invalidated: BTreeSet<TableOid>,
    schema_changed: BTreeSet<TableOid>,
    marks: Vec<u64>,
    withdrawals: Vec<(Author, Vec<TableOid>)>,
    shapes: Vec<(TableOid, ShapeStamp)>,
}

impl Stream {
    /// A stream that confirms the flushes of these logs.
    pub fn new(logs: &[LogKey]) -> Stream {
        Stream {
            logs: logs.iter().map(|log| (*log, None)).collect(),
            described: HashMap::default(),
            open: None,
            passed: Lsn(0),
            bytes_max: TRANSACTION_BYTES_MAX,
        }
    }

    /// A new connection: what was half told comes again, and tables are described again. `position` is where it begins.
    pub fn restart(&mut self, position: Lsn) {
        self.open = None;
        self.passed = position;
    }

    /// Everything committed up to here has been told: what may be acknowledged.
    pub fn passed(&self) -> Lsn {
        self.passed
    }

    /// Postgres has read its WAL up to `wal_end` and told everything committed before.
    pub fn keepalive(&mut self, wal_end: Lsn, tell: &mut impl FnMut(Event)) {
        if self.open.is_none() && wal_end > self.passed {
            self.passed = wal_end;
        }
        // Also told when it did not move: whoever asked learns that the stream is alive.
        tell(Event::Position(self.passed));
    }

    /// Takes in one message.
    pub fn handle(
        &mut self,
        message: PgOutput<'_>,
        catalog: &Catalog,
        tell: &mut impl FnMut(Event),
    ) -> Result<(), StreamError> {
        match message {
            PgOutput::Begin { xid, .. } => self.begin(xid),
            PgOutput::Commit {
                end_lsn,
                commit_time,
                ..
            } => self.commit(end_lsn, commit_time, tell),
            PgOutput::Origin { .. } | PgOutput::Type { .. } => Ok(()),
            PgOutput::Relation(relation) => self.describe(&relation),
            PgOutput::Insert { table, new } => self.row(table, catalog, Row::New(new, None)),
            PgOutput::Update { table, old, new } => self.row(table, catalog, Row::New(new, old)),
            PgOutput::Delete { table, old } => self.row(table, catalog, Row::Gone(old)),
            PgOutput::Truncate { tables, .. } => {
                let open = self.open("Truncate")?;
                tables.iter().for_each(|table| open.truncate(table));
                Ok(())
            }
            PgOutput::Message {
                transactional,
                lsn,
                prefix,
                content,
            } => self.message(transactional, lsn, prefix, content, tell),
        }
    }

    /// A row of this table changed, in a message too large to be read.
    pub fn oversized(&mut self, table: TableOid) -> Result<(), StreamError> {
        self.open("row")?.invalidate(table);
        Ok(())
    }

    fn open(&mut self, message: &'static str) -> Result<&mut Open, StreamError> {
        self.open.as_mut().ok_or(StreamError::OutOfOrder(message))
    }

    fn begin(&mut self, xid: Xid32) -> Result<(), StreamError> {
        if self.open.is_some() {
            return Err(StreamError::OutOfOrder("Begin"));
        }
        self.open = Some(Open::new(xid));
        Ok(())
    }

    fn commit(
        &mut self,
        end: Lsn,
        time: PgMicros,
        tell: &mut impl FnMut(Event),
    ) -> Result<(), StreamError> {
        let mut open = self.open.take().ok_or(StreamError::OutOfOrder("Commit"))?;
        self.passed = self.passed.max(end);
        if let Some(flush) = open.own_flush {
            let mut logs = self.logs.iter_mut();
            let log = logs.find(|(log, _)| log.number == flush.log);
            log.into_iter()
                .for_each(|(_, last)| *last = Some(flush.seq));
        }
        let withdrawals = std::mem::take(&mut open.withdrawals);
        let (transaction, marks) = open.end(end, time);
        let mut silent = marks.is_empty() && withdrawals.is_empty();
        if let Some(transaction) = transaction {
            tell(Event::Transaction(transaction));
            silent = false;
        }
        for (author, tables) in withdrawals {
            tell(Event::Withdrawn {
                author,
                tables,
                position: end,
            });
        }
        for id in marks {
            tell(Event::Mark { id, position: end });
        }
        if silent {
            tell(Event::Position(end));
        }
        Ok(())
    }

    fn describe(&mut self, message: &RelationMessage<'_>) -> Result<(), StreamError> {
        let table = message.table;
        if let Some(progress) = Progress::recognise(message)? {
            self.described.insert(table, Described::Progress(progress));
            return Ok(());
        }
        let known = self.described.get(&table);
        if let Some(Described::Table(known)) = known {
            if known.same_shape(message) {
                return Ok(());
            }
            if let Some(open) = &mut self.open {
                open.schema_changed.insert(table);
            }
        }
        let described = Described::Table(Table::new(message));
        self.described.insert(table, described);
        Ok(())
    }

    fn row(&mut self, table: TableOid, catalog: &Catalog, row: Row<'_>) -> Result<(), StreamError> {
        let open = self.open.as_mut().ok_or(StreamError::OutOfOrder("row"))?;
        let described = self.described.get_mut(&table);
        match described.ok_or(StreamError::Undescribed(table))? {
            Described::Progress(progress) => {
                if let Row::New(new, old) = row
                    && let Verdict::Flush(flush) = progress.judge(&self.logs, new, old)?
                {
                    open.become_own(flush);
                }
            }
            Described::Table(_) if open.is_echo() => {}
            Described::Table(described) => {
                let relation = catalog.relations.get(&table);
                let (mapping, lost) = described.mapping(catalog, relation);
                if lost {
                    open.schema_changed.insert(table);
                }
                if open.invalidated.contains(&table) {
                    return Ok(());
                }
                let taken = mapping.and_then(|mapping| open.take(&mapping, row));
                if taken.is_none() {
                    open.invalidate(table);
                }
                if open.bytes > self.bytes_max {
                    open.collapse();
                }
            }
        }
        Ok(())
    }

    fn message(
        &mut self,
        transactional: bool,
        lsn: Lsn,
        prefix: &[u8],
        content: &[u8],
        tell: &mut impl FnMut(Event),
    ) -> Result<(), StreamError> {
        if transactional && prefix == TELL_PREFIX {
            self.open("Message")?.tells = true;
            return Ok(());
        }
        if transactional && prefix == WITHDRAWN_PREFIX {
            let open = self.open("Message")?;
            // Of somebody else, if it cannot be read.
            open.withdrawals.extend(withdrawal(content));
            return Ok(());
        }
        let Some(id) = mark(prefix, content) else {
            return Ok(());
        };
        if transactional {
            self.open("Message")?.marks.push(id);
        } else {
            tell(Event::Mark { id, position: lsn });
        }
        Ok(())
    }
}

/// The number of a mark; messages of others are none.
fn mark(prefix: &[u8], content: &[u8]) -> Option<u64> {
    if prefix != MARK_PREFIX {
        return None;
    }
    std::str::from_utf8(content).ok()?.parse().ok()
}

/// A change of a row as the stream tells it.
#[derive(Clone, Copy, Debug)]
enum Row<'a> {
    New(TupleData<'a>, Option<Old<'a>>),
    Gone(Old<'a>),
}

impl Open {
    fn new(xid: Xid32) -> Open {
        Open {
            xid,
            own_flush: None,
            tells: false,
            rows: IndexMap::default(),
            bytes: 0,
            collapsed: false,
            truncated: BTreeSet::new(),
            invalidated: BTreeSet::new(),
            schema_changed: BTreeSet::new(),
            marks: Vec::new(),
            withdrawals: Vec::new(),
            shapes: Vec::new(),
        }
    }

    /// This is our own flush: what it does to rows is known already.
    fn become_own(&mut self, flush: OwnFlush) {
        self.own_flush = Some(flush);
        self.rows = IndexMap::default();
        self.bytes = 0;
        self.truncated.clear();
        self.invalidated.clear();
    }

    /// Whether what it does to rows is known already.
    fn is_echo(&self) -> bool {
        self.own_flush.is_some() && !self.tells
    }

    /// Keeps what became of a row; `None`: the stream does not tell enough, the table must be invalidated.
    fn take(&mut self, mapping: &Mapping, row: Row<'_>) -> Option<()> {
        let table = mapping.table();
        if self.collapsed || self.truncated.contains(&table) {
            return None;
        }
        self.note_shape(table, mapping.stamp());
        match row {
            Row::Gone(old) => self.set(mapping.old_row(old)?, Outcome::Delete),
            Row::New(new, old) => {
                let mut now = mapping.put(new, old)?;
                if let Some(old) = old {
                    let was = mapping.old_row(old)?;
                    if was != now.row {
                        self.move_row(mapping, was, &mut now);
                    }
                }
                self.put(mapping, now);
            }
        }
        Some(())
    }

    fn note_shape(&mut self, table: TableOid, stamp: ShapeStamp) {
        let noted = (table, stamp);
        if self.shapes.last() != Some(&noted) && !self.shapes.contains(&noted) {
            self.shapes.push(noted);
        }
    }

    /// The key changed: the row leaves its old place. Values that the stream does not repeat were at that place, not at the new one.
    fn move_row(&mut self, mapping: &Mapping, was: RowId, now: &mut WalRow) {
        let before = self.rows.get(&was).cloned();
        self.set(was, Outcome::Delete);
        if let Some(image) = now.image.take() {
            now.image = match before {
                _ if !is_incomplete(mapping, &image) => Some(image),
                Some(Outcome::Put(before)) => {
                    Some(fill(&image, &before)).filter(|image| !is_incomplete(mapping, image))
                }
                _ => None,
            };
        }
    }

    fn put(&mut self, mapping: &Mapping, now: WalRow) {
        let outcome = match (now.image, self.rows.get(&now.row)) {
            (None, _) => Outcome::Unknown,
            (Some(image), None) => Outcome::Put(image),
            (Some(image), Some(_)) if !is_incomplete(mapping, &image) => Outcome::Put(image),
            (Some(image), Some(Outcome::Put(before))) => Outcome::Put(fill(&image, before)),
            (Some(_), Some(Outcome::Delete | Outcome::Unknown)) => Outcome::Unknown,
        };
        self.set(now.row, outcome);
    }

    fn set(&mut self, row: RowId, outcome: Outcome) {
        let weight = |outcome: &Outcome| match outcome {
            Outcome::Put(image) => image.weight(),
            Outcome::Delete | Outcome::Unknown => 0,
        };
        self.bytes += weight(&outcome);
        let key_bytes = row.key.heap_weight();
        match self.rows.insert(row, outcome) {
            Some(before) => self.bytes -= weight(&before),
            None => self.bytes += ROW_OVERHEAD + key_bytes,
        }
    }

    fn truncate(&mut self, table: TableOid) {
        if !self.is_echo() && !self.invalidated.contains(&table) {
            self.forget_rows(table);
            self.truncated.insert(table);
        }
    }

    fn invalidate(&mut self, table: TableOid) {
        if !self.is_echo() && self.invalidated.insert(table) {
            self.forget_rows(table);
            self.truncated.remove(&table);
        }
    }

    /// The rows of the table are told by the table. The bytes they took stay counted, so that this cannot be repeated without end.
    fn forget_rows(&mut self, table: TableOid) {
        self.rows.retain(|row, _| row.table != table);
    }

    fn collapse(&mut self) {
        self.collapsed = true;
        let rows = std::mem::take(&mut self.rows);
        self.invalidated.extend(rows.keys().map(|row| row.table));
        self.bytes = 0;
    }

    fn end(self, commit: Lsn, commit_time: PgMicros) -> (Option<Transaction>, Vec<u64>) {
        let rows = self.rows.into_iter();
        let transaction = Transaction {
            xid: self.xid,
            commit,
            commit_time,
            own_flush: self.own_flush,
            rows: rows
                .map(|(row, outcome)| RowOutcome { row, outcome })
                .collect(),
            truncated: self.truncated.into_iter().collect(),
            invalidated: self.invalidated.into_iter().collect(),
            schema_changed: self.schema_changed.into_iter().collect(),
            shapes: self.shapes,
        };
        let says = transaction.own_flush.is_some()
            || !transaction.rows.is_empty()
            || !transaction.truncated.is_empty()
            || !transaction.invalidated.is_empty()
            || !transaction.schema_changed.is_empty();
        (says.then_some(transaction), self.marks)
    }
}

#[cfg(test)]
mod tests;
