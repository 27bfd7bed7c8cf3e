//! openraft's log storage, on the index and the writer thread. Never answers before the writer has done what was promised.

use super::error::LogError;
use super::health::Health;
use super::index::{Found, Index, SharedIndex};
use super::jobs::{Done, Job, NewRecord, Queue};
use super::raft::{Id, LogId, Payload, RaftEntry, Types, Vote, encode_payload};
use super::wal::Kind;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;
use tokio::sync::oneshot;

/// The log as openraft sees it. Clones share it; when the last is dropped the writer ends.
#[derive(Clone)]
pub(crate) struct Store(Arc<Shared>);

struct Shared {
    index: Arc<SharedIndex>,
    queue: Arc<Queue>,
    health: Arc<Health>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Store {
    pub(crate) fn new(index: Arc<SharedIndex>, queue: Arc<Queue>, health: Arc<Health>) -> Store {
        Store(Arc::new(Shared {
            index,
            queue,
            health,
        }))
    }

    /// Writes one record and waits until it is synced.
    async fn write(&self, record: NewRecord) -> io::Result<()> {
        let (done, waiting) = oneshot::channel();
        let job = Job {
            records: vec![record],
            must_sync: true,
            done: Done::Task(done),
        };
        let stopped = |_| io::Error::other(self.0.health.why_stopped());
        self.0.queue.push(job).map_err(|_| stopped(()))?;
        let written = waiting.await.map_err(|_| stopped(()))?;
        written.map_err(io::Error::other)
    }

    fn enter(&self, index: &mut Index, entry: RaftEntry) -> io::Result<NewRecord> {
        let id = Id::from(&entry.log_id);
        if id.index != index.next() && index.last().is_some() {
            return Err(io::Error::other(LogError::Consensus {
                detail: format!("entry {} was appended after {:?}", id.index, index.last()),
            }));
        }
        let (kind, payload) = encode_payload(&entry.payload);
        let record = NewRecord { kind, id, payload };
        index.append(entry, record.record().stored_bytes() as u32);
        Ok(record)
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Store;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let index = self.0.index.lock();
        Ok(LogState {
            last_purged_log_id: index.purged.map(LogId::from),
            last_log_id: index.last().map(LogId::from),
        })
    }

    async fn get_log_reader(&mut self) -> Store {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.write(NewRecord::vote(vote)).await?;
        self.0.index.lock().vote = Some(*vote);
        Ok(())
    }

    /// Not durable at once: the writer takes it along. After a restart an older one may be read, which openraft allows.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.0.index.lock().committed = committed.as_ref().map(Id::from);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let index = self.0.index.lock();
        // A torn end may have taken entries that an earlier mark calls committed only if they were never synced.
        let committed = index.committed.min(index.last());
        Ok(committed.map(LogId::from))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + Send,
        I::IntoIter: Send,
    {
        let mut must_sync = false;
        let records = {
            let mut index = self.0.index.lock();
            let entries = entries.into_iter();
            let entered = entries.map(|entry| {
                must_sync |= matches!(&entry.payload, Payload::Normal(batch) if batch.must_sync());
                self.enter(&mut index, entry)
            });
            entered.collect::<io::Result<Vec<_>>>()?
        };
        let job = Job {
            records,
            must_sync,
            done: Done::Raft(callback),
        };
        let refused = self.0.queue.push(job);
        refused.map_err(|_| io::Error::other(self.0.health.why_stopped()))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let last = last.as_ref().map(Id::from);
        self.write(NewRecord::mark(Kind::Truncated, last)).await?;
        let mut index = self.0.index.lock();
        index.truncate_after(last.map(|last| last.index));
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let upto = Id::from(&upto);
        self.write(NewRecord::mark(Kind::Purged, Some(upto))).await
    }
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<RaftEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let found = self.0.index.lock().find(half_open(&range));
        let found = found.map_err(io::Error::other)?;
        let load = |found: Vec<Found>| found.into_iter().map(Found::load).collect();
        let loaded: Result<Vec<RaftEntry>, LogError> =
            if found.iter().all(|found| matches!(found, Found::Cached(_)))
                || self.0.queue.pace().is_some()
            {
                load(found)
            } else {
                let loading = tokio::task::spawn_blocking(move || load(found));
                loading.await.map_err(io::Error::other)?
            };
        loaded.map_err(|error| io::Error::other(self.0.health.fail(error)))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.0.index.lock().vote)
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}
