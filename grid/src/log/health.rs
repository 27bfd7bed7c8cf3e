//! What everybody who shares a log must know: whether it failed, and its counters. Decides nothing.

use super::command::LogIndex;
use super::error::LogError;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// The first fatal error, told to all who ask or wait.
#[derive(Debug)]
pub(crate) struct Health {
    failure: watch::Sender<Option<LogError>>,
    /// Last index applied.
    pub applied: watch::Sender<LogIndex>,
    /// Last index of which something may have been applied. Written before the machine is told, and read after something was seen in it.
    pub touched: AtomicU64,
    pub counters: Counters,
}

/// Counters since the log was opened. Relaxed: they order nothing.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub commands: AtomicU64,
    pub queued: AtomicU64,
    pub entries: AtomicU64,
    pub entry_commands_max: AtomicU64,
    pub batches: AtomicU64,
    pub syncs: AtomicU64,
    pub sync_us: AtomicU64,
    pub batch_entries_max: AtomicU64,
    pub snapshots: AtomicU64,
    pub snapshot_bytes: AtomicU64,
    pub applied_at_ms: AtomicU64,
    /// Bytes of log written, and how many of them were written when the last snapshot was taken.
    pub written_bytes: AtomicU64,
    pub covered_bytes: AtomicU64,
}

impl Health {
    pub(crate) fn new() -> Health {
        Health {
            failure: watch::Sender::new(None),
            applied: watch::Sender::default(),
            touched: AtomicU64::new(0),
            counters: Counters::default(),
        }
    }

    /// Records a fatal error, unless there is one already, and returns the one that counts.
    pub(crate) fn fail(&self, error: LogError) -> LogError {
        let first = self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert_with(|| error.clone());
            first
        });
        if first {
            tracing::error!(%error, "the log has failed, nothing more is acknowledged");
        }
        self.failure().unwrap_or(error)
    }

    pub(crate) fn failure(&self) -> Option<LogError> {
        self.failure.borrow().clone()
    }

    /// The failure, else that the log was shut down.
    pub(crate) fn why_stopped(&self) -> LogError {
        self.failure().unwrap_or(LogError::Stopped)
    }

    pub(crate) async fn failed(&self) -> LogError {
        let mut failure = self.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await;
        let failed = failed.map(|error| error.clone());
        failed.ok().flatten().unwrap_or(LogError::Stopped)
    }
}

pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

pub(crate) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

pub(crate) fn raise(counter: &AtomicU64, value: u64) {
    counter.fetch_max(value, Ordering::Relaxed);
}
