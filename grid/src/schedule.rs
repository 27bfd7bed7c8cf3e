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
use ripen_pg::ids::{Xid, Xid32};
use ripen_pg::tuple::Tuple;
use std::collections::BTreeMap;
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
}

impl OpenFlush {
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
    /// The last flush that ended in Postgres.
    pub last_seq: u64,
}

impl Schedule {
    /// Whether anything in the scope is not known to be in Postgres: pending, or in the open flush.
    pub fn has_pending(&self, scope: &Scope) -> bool {
        let inner = self.inner.lock();
        let flushing = inner.open.as_ref().is_some_and(|open| {
            open.groups
                .iter()
                .flat_map(|group| &group.rows)
                .any(|change| scope.has(&change.row))
        });
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
