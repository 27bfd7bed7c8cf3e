//! The last copy of a grid whose majority of voters is lost: what it holds, and a new log of it for this node alone. Never starts a task, and talks to nobody.

use crate::feed::Feed;
use crate::fences::Fences;
use crate::leader::{Leader, Proposal};
use crate::log::{LogError, LogIndex, LogOptions, Members, Remains};
use crate::machine::GridMachine;
use crate::marks::Marks;
use crate::ownership::Ownership;
use crate::rows::Rows;
use crate::rows::slot::Confirms;
use crate::schedule::{Schedule, ScheduleStats};
use crate::settlement::Known;
use parking_lot::Mutex;
use ripen_cachestore::progress::LogIdentity;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::watch;

/// See the module. The log's directory is locked while this lives.
pub struct Rescue {
    remains: Remains,
    schedule: Arc<Schedule>,
}

/// What there is.
#[derive(Clone, Debug)]
pub struct Found {
    /// Which log.
    pub identity: LogIdentity,
    /// Of which logs it was made, the oldest first.
    pub formers: Vec<LogIdentity>,
    /// Its last entry here, and in which term that was made.
    pub last: (LogIndex, u64),
    /// Up to where this node knew that a majority had it.
    pub committed: LogIndex,
    /// When the last entry was made, by its leader's clock, in unix milliseconds.
    pub at_ms: u64,
    /// Who belongs to it.
    pub members: Members,
    /// What its flushes have come to.
    pub flushes: Known,
    /// What is pending.
    pub pending: ScheduleStats,
}

impl Rescue {
    /// Reads the log; `None`: there is none in the directory. Blocks.
    ///
    /// # Errors
    /// When it is in use, cannot be read, or is damaged.
    pub fn open(options: &LogOptions) -> Result<Option<Rescue>, LogError> {
        let (machine, schedule) = machine();
        let remains = options.remains(machine)?;
        Ok(remains.map(|remains| Rescue { remains, schedule }))
    }

    /// What there is.
    pub fn found(&self) -> Found {
        let remains = &self.remains;
        Found {
            identity: remains.identity,
            formers: self.schedule.formers(),
            last: (remains.last, remains.term),
            committed: remains.committed,
            at_ms: remains.at_ms,
            members: remains.members.clone(),
            flushes: self.schedule.known(),
            pending: self.schedule.stats(),
        }
    }

    /// Makes a new log in that directory, of which the node is the only member. It knows of which log it was made, so that it goes on with its count of flushes. Blocks.
    ///
    /// # Errors
    /// When it cannot be written, or the node does not belong to the log.
    pub fn make_log(&mut self, dir: &Path, node: u64) -> Result<LogIdentity, LogError> {
        let former = self.remains.identity;
        self.schedule.inner.lock().formers.push(former);
        self.remains.found(dir, node)
    }
}

/// A machine that nobody asks anything.
fn machine() -> (GridMachine, Arc<Schedule>) {
    let rows = Arc::new(Rows::new(u64::MAX, Arc::new(|| 0)));
    let (feed, schedule) = (Arc::new(Feed::default()), Arc::new(Schedule::default()));
    let ownership = Ownership {
        rows: rows.clone(),
        fences: Arc::new(Fences::default()),
        feed,
        marks: Arc::new(Marks::new(0)),
    };
    let machine = GridMachine {
        sole: true,
        home: Arc::default(),
        rows,
        schedule: schedule.clone(),
        leader: Arc::new(Mutex::new(Leader::default())),
        applied: watch::Sender::new(Proposal::default()),
        live: Arc::new(AtomicBool::new(false)),
        confirms: Arc::new(|_| Confirms::Nobody),
        requests: Arc::default(),
        ownership,
        catalog_changes: Arc::new(watch::Sender::new(0)),
    };
    (machine, schedule)
}
