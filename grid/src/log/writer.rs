//! Writes the log: jobs that are handed in together are one batch, synced once. Never retries a failed write or sync. `jobs.rs` says who is told.

use super::error::LogError;
use super::health::{Health, add, raise};
use super::index::{Segment, SharedIndex};
use super::jobs::{Job, NewRecord};
use super::limits::BUFFER_BYTES_KEPT;
use super::raft::{Id, Vote};
use super::segments::{Chore, Janitor};
use super::wal::{Kind, Position, Record, SegmentHeader};
use ripen_cachestore::failpoint::reach;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// Room for what [`Writer::repeat_state`] writes.
const STATE_BYTES: usize = 256;

/// Writes batches of records into segments.
pub(crate) struct Writer {
    identity: u64,
    /// Whether each batch is synced.
    durable: bool,
    index: Arc<SharedIndex>,
    janitor: Janitor,
    health: Arc<Health>,
    segment: Option<Segment>,
    /// Segments before that one which are not known to be synced.
    unsynced: Vec<Segment>,
    /// Where `buffer` goes.
    at: Position,
    /// Everything before is synced.
    synced: Position,
    /// Where the last seal ends.
    sealed: Position,
    buffer: Vec<u8>,
    vote: Option<Vote>,
    purged: Option<Id>,
    /// The segment may lack the state that each must begin with: a crash can leave its header alone.
    lacks_state: bool,
    /// Why nothing is written any more.
    failed: Option<LogError>,
}

impl Writer {
    /// A writer that goes on at `end` in the last segment of the index, all of which is synced; without `end`, it begins the first segment.
    pub(crate) fn new(
        identity: u64,
        durable: bool,
        index: Arc<SharedIndex>,
        end: Option<Position>,
        janitor: Janitor,
        health: Arc<Health>,
    ) -> Writer {
        let (segment, vote, purged) = {
            let index = index.lock();
            let last = end.and_then(|end| index.segments.get(&end.segment));
            (last.cloned(), index.vote, index.purged)
        };
        let at = end.unwrap_or_default();
        janitor.request(at.segment + 1);
        Writer {
            identity,
            durable,
            index,
            janitor,
            health,
            segment,
            unsynced: Vec::new(),
            at,
            synced: at,
            sealed: Position::default(),
            buffer: Vec::new(),
            vote,
            purged,
            lacks_state: true,
            failed: None,
        }
    }

    /// A panic here would leave everybody waiting for ever. After a failure nothing is attempted any more: a second sync would succeed without having kept
    /// what the first one lost.
    pub(crate) fn attempt(
        &mut self,
        act: impl FnOnce(&mut Writer) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = catch_unwind(AssertUnwindSafe(|| act(self))).unwrap_or_else(|_| {
            Err(LogError::Consensus {
                detail: "the log's writer panicked".to_owned(),
            })
        });
        result.map_err(|error| {
            let error = self.health.fail(error);
            self.failed.insert(error).clone()
        })
    }

    /// The last thing that is done.
    pub(crate) fn finish(&mut self) {
        // What was acknowledged is as durable as it was promised to be; this only makes the next start cheap and certain.
        let _ = self.attempt(|writer| {
            writer.sync()?;
            writer.seal()
        });
    }

    /// Writes a batch. When it returns, all of it is durable (or handed to the operating system, see [`super::Durability`]).
    pub(crate) fn write(&mut self, jobs: &[Job]) -> Result<(), LogError> {
        let mut written = Vec::new();
        if self.lacks_state {
            self.make_room(STATE_BYTES)?;
            self.repeat_state();
        }
        for new in jobs.iter().flat_map(|job| &job.records) {
            let record = new.record();
            self.make_room(record.stored_bytes())?;
            let at = self.end();
            record.encode(&mut self.buffer, at, self.synced);
            match new.kind {
                Kind::Blank | Kind::Normal | Kind::Membership => written.push((new.id.index, at)),
                Kind::Vote => self.vote = Some(vote_of(&record)),
                Kind::Purged => self.purged = Some(new.id),
                Kind::Committed | Kind::Truncated => {}
            }
        }
        self.flush()?;
        if self.durable || jobs.iter().any(|job| job.must_sync) {
            self.sync()?;
        }
        self.note(&written);
        if jobs.iter().any(Job::purges) {
            self.remove_unneeded();
        }
        Ok(())
    }

    /// Called when the record of the purge is synced, and with it all segments that remain: none of what is removed is missed after a crash.
    fn remove_unneeded(&self) {
        reach("log-purged");
        let mut index = self.index.lock();
        self.purged
            .into_iter()
            .for_each(|purged| index.purge(purged));
        let unneeded = index.take_unneeded_segments();
        drop(index);
        self.janitor.hand(Chore::Remove(unneeded));
    }

    fn note(&self, written: &[(u64, Position)]) {
        let counters = &self.health.counters;
        add(&counters.batches, 1);
        add(&counters.entries, written.len() as u64);
        raise(&counters.batch_entries_max, written.len() as u64);
        let mut index = self.index.lock();
        for (entry, at) in written {
            index.written(*entry, *at);
        }
    }

    /// Writes, without syncing it, a record which shows that everything before it was synced. Damage to the last batch is then told from a torn write.
    pub(crate) fn seal(&mut self) -> Result<(), LogError> {
        let seal = NewRecord::mark(Kind::Committed, self.index.lock().committed);
        let fits = self.fits(seal.record().stored_bytes());
        if self.synced < self.at || self.sealed == self.at || !fits {
            return Ok(());
        }
        let at = self.end();
        seal.record().encode(&mut self.buffer, at, self.synced);
        self.flush()?;
        self.sealed = self.at;
        Ok(())
    }

    fn end(&self) -> Position {
        let offset = self.at.offset + self.buffer.len() as u32;
        Position { offset, ..self.at }
    }

    fn fits(&self, bytes: usize) -> bool {
        let capacity = self.segment.as_ref().map_or(0, |segment| segment.bytes);
        u64::from(self.end().offset) + bytes as u64 <= capacity
    }

    /// Makes sure that `bytes` more fit into the segment. A record larger than a segment makes its segment larger.
    fn make_room(&mut self, bytes: usize) -> Result<(), LogError> {
        if self.fits(bytes) {
            return Ok(());
        }
        self.flush()?;
        if self.durable {
            self.sync()?;
        }
        self.begin_segment()
    }

    fn begin_segment(&mut self) -> Result<(), LogError> {
        let number = self.at.segment + 1;
        let next = self.janitor.receive(number)?;
        self.janitor.request(number + 1);
        let header = SegmentHeader {
            identity: self.identity,
            segment: number,
            previous_end: self.at.offset,
            synced: self.synced,
        };
        self.index.lock().segments.insert(number, next.clone());
        let full = self.segment.replace(next);
        self.unsynced.extend(full.filter(|_| self.synced < self.at));
        self.at = Position {
            segment: number,
            offset: 0,
        };
        self.buffer.extend_from_slice(&header.encode());
        self.repeat_state();
        Ok(())
    }

    /// Each segment begins with what earlier ones said about the whole log, so that they can be removed.
    fn repeat_state(&mut self) {
        let committed = self.index.lock().committed;
        let state = [
            self.vote.as_ref().map(NewRecord::vote),
            self.purged
                .map(|id| NewRecord::mark(Kind::Purged, Some(id))),
            committed.map(|id| NewRecord::mark(Kind::Committed, Some(id))),
        ];
        for record in state.iter().flatten() {
            let at = self.end();
            record.record().encode(&mut self.buffer, at, self.synced);
        }
        self.lacks_state = false;
    }

    fn flush(&mut self) -> Result<(), LogError> {
        let end = self.end();
        let Some(segment) = self.segment.as_mut().filter(|_| !self.buffer.is_empty()) else {
            return Ok(());
        };
        reach("log-before-write");
        segment
            .file
            .write_at(&self.buffer, u64::from(self.at.offset))
            .map_err(|error| LogError::io("write", &segment.path, error))?;
        segment.bytes = segment.bytes.max(u64::from(end.offset));
        self.at = end;
        add(
            &self.health.counters.written_bytes,
            self.buffer.len() as u64,
        );
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        reach("log-before-sync");
        let begun = Instant::now();
        for segment in self.unsynced.iter().chain(&self.segment) {
            segment
                .file
                .sync()
                .map_err(|error| LogError::io("sync", &segment.path, error))?;
        }
        reach("log-synced");
        let counters = &self.health.counters;
        add(&counters.syncs, 1);
        add(&counters.sync_us, begun.elapsed().as_micros() as u64);
        self.unsynced.clear();
        self.synced = self.at;
        Ok(())
    }
}

/// The vote that a record stores.
pub(crate) fn vote_of(record: &Record<'_>) -> Vote {
    let mut vote = Vote::new(record.term, record.index);
    vote.committed = record.payload == [1];
    vote
}
