//! What is on its way to Postgres, shared by the state machine (which changes it), the flusher (which carries it) and writers and barriers (which ask).
//! Holds the lock around [`Ripening`]; never awaits while holding it.

use crate::change::{CommitGroup, FlushSeq, RowId, Shapes};
use crate::kept::{Kept, KeptStats};
use crate::limits;
use crate::ripening::{Ripening, Taken};
use crate::scope::Scope;
use crate::settlement::Known;
use parking_lot::Mutex;
use ripen_cachestore::home::Server;
use ripen_cachestore::progress::LogIdentity;
use ripen_pg::ids::{TableOid, Xid, Xid32};
use ripen_pg::tuple::Tuple;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// A flush that the log has started and not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenFlush {
    /// Its number.
    pub seq: FlushSeq,
    /// What to write: connected commit groups, coalesced.
    pub groups: Vec<CommitGroup>,
    /// The rows as the schedule had them, in the same grouping, in case it fails.
    pub taken: Vec<Vec<Taken>>,
    /// Bytes of its rows.
    pub bytes: u64,
    /// The tables that it writes to.
    tables: BTreeSet<TableOid>,
}

impl OpenFlush {
    /// Writes these, which the schedule had so.
    pub fn new(seq: FlushSeq, groups: Vec<CommitGroup>, taken: Vec<Vec<Taken>>) -> OpenFlush {
        let rows = groups.iter().flat_map(|group| &group.rows);
        OpenFlush {
            seq,
            tables: rows.map(|change| change.row.table).collect(),
            bytes: taken.iter().flatten().map(|taken| taken.bytes).sum(),
            groups,
            taken,
        }
    }

    /// Whether it writes any row of the scope.
    fn has(&self, scope: &Scope) -> bool {
        match scope {
            Scope::Tables(tables) => !self.tables.is_disjoint(tables),
            scope => {
                let mut rows = self.groups.iter().flat_map(|group| &group.rows);
                rows.any(|change| scope.has(&change.row))
            }
        }
    }

    /// What rows must still be in Postgres for the flush to write them; `None` means absent.
    pub fn guards(&self) -> BTreeMap<RowId, Option<Tuple>> {
        let guard = |taken: &Taken| {
            let before = taken.before.demanded()?;
            Some((taken.row.clone(), before.cloned()))
        };
        self.taken.iter().flatten().filter_map(guard).collect()
    }

    /// All rows it carries.
    pub fn rows(&self) -> Vec<RowId> {
        self.groups
            .iter()
            .flat_map(|group| &group.rows)
            .map(|change| change.row.clone())
            .collect()
    }
}

/// The shared state.
#[derive(Default)]
pub struct Schedule {
    pub(crate) inner: Mutex<Inner>,
    pending_bytes: AtomicU64,
    clock_ms: AtomicU64,
    changed: Notify,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub ripening: Ripening,
    pub open: Option<Arc<OpenFlush>>,
    pub last_seq: FlushSeq,
    /// Rows of flushes that are in Postgres and that the stream has yet to confirm.
    pub unconfirmed: BTreeMap<FlushSeq, Vec<RowId>>,
    /// An open flush whose transaction the log has named.
    pub carried: Option<(FlushSeq, Xid32)>,
    /// An open flush that the stream has passed already.
    pub confirmed_early: Option<FlushSeq>,
    /// What the bytes of everything on its way mean. A table's changes only when nothing of it is.
    pub shapes: Shapes,
    /// Logs of whose last copies this one was made, the oldest first.
    pub formers: Vec<LogIdentity>,
    /// Whether a leader has taken over in Postgres.
    pub taken_over: bool,
    /// Flushes that Postgres's standbys may lack.
    pub kept: Kept,
    /// Which server is the system of record.
    pub home: Option<Server>,
    pub coalesced: u64,
    pub written: u64,
}

impl Inner {
    /// Tables of which something is pending or in the open flush.
    pub fn tables(&self) -> HashSet<TableOid> {
        let pending = self.ripening.tables().map(|(table, _)| table);
        let open = self.open.iter().flat_map(|open| &open.groups);
        let flushing = open.flat_map(|group| &group.rows);
        pending
            .chain(flushing.map(|change| change.row.table))
            .collect()
    }

    /// All rows that it knows of.
    pub fn rows(&self) -> Vec<RowId> {
        let pending = self.ripening.in_order().into_iter().map(|taken| taken.row);
        let open = self.open.iter().flat_map(|open| open.rows());
        let unconfirmed = self.unconfirmed.values().flatten().cloned();
        pending.chain(open).chain(unconfirmed).collect()
    }
}

/// Numbers for status and metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScheduleStats {
    /// Rows pending (flushing ones not counted).
    pub pending_rows: u64,
    /// Their bytes, and those of kept flushes.
    pub pending_bytes: u64,
    /// Flushes that Postgres's standbys may lack.
    pub kept: KeptStats,
    /// When the oldest became pending (unix milliseconds).
    pub oldest_ms: Option<u64>,
    /// Rows in the open flush.
    pub flushing_rows: u64,
    /// Rows flushed and not yet confirmed by the stream.
    pub unconfirmed_rows: u64,
    /// Row changes applied from the log.
    pub changes: u64,
    /// Of these, those that joined a row already pending.
    pub coalesced: u64,
    /// The last flush that ended in Postgres; of several logs, how many did.
    pub last_seq: u64,
}

impl ScheduleStats {
    /// The numbers of two logs together.
    pub fn and(self, other: ScheduleStats) -> ScheduleStats {
        ScheduleStats {
            pending_rows: self.pending_rows + other.pending_rows,
            pending_bytes: self.pending_bytes + other.pending_bytes,
            kept: self.kept.and(other.kept),
            oldest_ms: earliest(self.oldest_ms, other.oldest_ms),
            flushing_rows: self.flushing_rows + other.flushing_rows,
            unconfirmed_rows: self.unconfirmed_rows + other.unconfirmed_rows,
            changes: self.changes + other.changes,
            coalesced: self.coalesced + other.coalesced,
            last_seq: self.last_seq + other.last_seq,
        }
    }
}

/// Of two times that may not have been.
pub(crate) fn earliest(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

impl Schedule {
    /// Whether anything in the scope is not known to be in Postgres: pending, or in the open flush.
    pub fn has_pending(&self, scope: &Scope) -> bool {
        let inner = self.inner.lock();
        let flushing = inner.open.as_ref().is_some_and(|open| open.has(scope));
        flushing || inner.ripening.has(scope)
    }

    /// Bytes of pending and flushing rows, and of those of kept flushes: what back-pressure is measured by.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes.load(Ordering::Relaxed)
    }

    /// The flush that is open.
    pub fn open(&self) -> Option<Arc<OpenFlush>> {
        self.inner.lock().open.clone()
    }

    /// What the bytes of everything on its way mean.
    pub fn shapes(&self) -> Shapes {
        self.inner.lock().shapes.clone()
    }

    /// Whether changes of the table have ever been in the log, since it last left.
    pub fn has_shape(&self, table: TableOid) -> bool {
        self.inner.lock().shapes.contains_key(&table)
    }

    /// Logs of whose last copies this one was made, the oldest first.
    pub fn formers(&self) -> Vec<LogIdentity> {
        self.inner.lock().formers.clone()
    }

    /// Whether a leader has ever taken over in Postgres: the database of this log knows it since.
    pub fn taken_over(&self) -> bool {
        self.inner.lock().taken_over
    }

    /// The number of the next flush.
    pub fn next_seq(&self) -> FlushSeq {
        FlushSeq(self.inner.lock().last_seq.0 + 1)
    }

    /// What the log says of its flushes.
    pub fn known(&self) -> Known {
        let inner = self.inner.lock();
        let open = inner.open.as_ref();
        Known {
            open: open.map(|open| open.seq),
            last: inner.last_seq,
            kept_from: inner.kept.first(),
            pending_rows: inner.ripening.len() as u64
                + open.map_or(0, |open| open.rows().len() as u64),
        }
    }

    /// Asks for what is kept.
    pub fn ask_kept<R>(&self, ask: impl FnOnce(&Kept) -> R) -> R {
        ask(&self.inner.lock().kept)
    }

    /// Which server is the system of record, as the log says.
    pub fn home(&self) -> Option<Server> {
        self.inner.lock().home
    }

    /// The log has named the transaction of an open flush.
    pub(crate) fn carried(&self, seq: FlushSeq, xid: Xid) {
        self.inner.lock().carried = Some((seq, xid.low()));
    }

    /// Whether the log has told as much of a flush as must be known before the stream may confirm it.
    pub fn knows(&self, seq: FlushSeq, xid: Xid32) -> bool {
        let inner = self.inner.lock();
        inner.last_seq >= seq || inner.carried == Some((seq, xid))
    }

    /// Asks the ripening state.
    pub fn ask<R>(&self, ask: impl FnOnce(&Ripening) -> R) -> R {
        ask(&self.inner.lock().ripening)
    }

    /// The log's clock: the time of the last entry applied. Whatever was acknowledged before became pending then or earlier.
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms.load(Ordering::SeqCst)
    }

    pub(crate) fn set_clock(&self, at_ms: u64) {
        self.clock_ms.store(at_ms, Ordering::SeqCst);
    }

    /// Waits until something became pending or a flush ended. Cancel safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn publish(&self, inner: &Inner) {
        let open = inner.open.as_ref().map_or(0, |open| open.bytes);
        self.pending_bytes.store(
            inner.ripening.bytes() + open + inner.kept.bytes(),
            Ordering::Relaxed,
        );
        self.changed.notify_one();
    }

    /// The rows of a flush that the stream has just passed; each flush is confirmed once.
    pub fn confirm(&self, seq: FlushSeq) -> Vec<RowId> {
        let mut inner = self.inner.lock();
        if let Some(rows) = inner
            .open
            .as_ref()
            .filter(|open| open.seq == seq)
            .map(|open| open.rows())
        {
            inner.confirmed_early = Some(seq);
            return rows;
        }
        let mut later = inner.unconfirmed.split_off(&seq);
        let rows = later.remove(&seq).unwrap_or_default();
        // Earlier ones have passed before, or never will.
        inner.unconfirmed = later;
        rows
    }

    /// Nothing will be confirmed any more (the stream starts anew): the rows' bases must be dropped by the caller.
    pub fn forget_unconfirmed(&self) {
        self.inner.lock().unconfirmed.clear();
    }

    /// Notes rows whose confirmation is awaited. Answers rows to be forgotten because too many wait.
    pub(crate) fn await_confirmation(
        inner: &mut Inner,
        seq: FlushSeq,
        rows: Vec<RowId>,
    ) -> Vec<RowId> {
        if rows.is_empty() || inner.confirmed_early == Some(seq) {
            return Vec::new();
        }
        inner.unconfirmed.insert(seq, rows);
        let total: usize = inner.unconfirmed.values().map(Vec::len).sum();
        if total > limits::UNCONFIRMED_ROWS_MAX {
            return inner
                .unconfirmed
                .pop_first()
                .map(|(_, rows)| rows)
                .unwrap_or_default();
        }
        Vec::new()
    }

    /// Numbers now.
    pub fn stats(&self) -> ScheduleStats {
        let inner = self.inner.lock();
        ScheduleStats {
            pending_rows: inner.ripening.len() as u64,
            pending_bytes: self.pending_bytes(),
            kept: inner.kept.stats(),
            oldest_ms: inner.ripening.oldest_ms(),
            flushing_rows: inner
                .open
                .as_ref()
                .map_or(0, |open| open.rows().len() as u64),
            unconfirmed_rows: inner
                .unconfirmed
                .values()
                .map(|rows| rows.len() as u64)
                .sum(),
            changes: inner.written,
            coalesced: inner.coalesced,
            last_seq: inner.last_seq.0,
        }
    }
}
