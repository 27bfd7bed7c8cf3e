//! Loads under way, as those see them who load and those who wait. Holds no row's state; the slot does.

use crate::change::RowId;
use ripen_pg::ids::{Lsn, Snapshot};
use tokio::sync::watch;

/// As of when rows were loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What the load's statement could see.
    pub snapshot: Snapshot,
    /// How far Postgres's WAL had come: when the stream has passed this, it has told all that the snapshot saw.
    pub wal: Lsn,
}

/// Rows that the holder must load, and then give to [`super::Rows::finish_load`] or [`super::Rows::fail_load`]. Dropped, it fails the load.
#[derive(Debug)]
pub struct LoadTicket {
    load: u64,
    rows: Vec<RowId>,
    near: bool,
    _ended: watch::Sender<()>,
}

impl LoadTicket {
    pub(super) fn new(load: u64, rows: Vec<RowId>, ended: watch::Sender<()>) -> LoadTicket {
        LoadTicket {
            load,
            rows,
            near: false,
            _ended: ended,
        }
    }

    pub(super) fn load(&self) -> u64 {
        self.load
    }

    /// Whether there is nothing to load (others do it, or the rows are known by now).
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows are another node's: what is kept of them here are near copies.
    pub fn near(mut self, near: bool) -> LoadTicket {
        self.near = near;
        self
    }

    pub(super) fn is_near(&self) -> bool {
        self.near
    }

    /// Leaves those that are still to be loaded.
    pub(super) fn retain(&mut self, still: impl FnMut(&RowId) -> bool) {
        self.rows.retain(still);
    }

    /// What to load.
    pub fn rows(&self) -> &[RowId] {
        &self.rows
    }
}

/// Loads of others that concern rows one asked for.
#[derive(Debug, Default)]
pub struct LoadWait(Vec<watch::Receiver<()>>);

impl LoadWait {
    pub(super) fn new(others: Vec<watch::Receiver<()>>) -> LoadWait {
        LoadWait(others)
    }

    /// Whether nobody else loads any of the rows.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits until all of them have ended, well or not. Cancel safe.
    pub async fn ended(self) {
        for mut ended in self.0 {
            // The ticket's sender never sends: it is dropped at the end of the load.
            while ended.changed().await.is_ok() {}
        }
    }
}
