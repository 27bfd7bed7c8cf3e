//! Where each entry stands, and the youngest entries themselves. Shared by the store and the writer thread; never touches files while locked.

use super::disk::DiskFile;
use super::error::LogError;
use super::limits::CACHE_BYTES;
use super::raft::{Id, Payload, RaftEntry, Vote, decode_entry};
use super::wal::{Position, Record, decode_record_bytes};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// The index, behind its lock.
pub(crate) type SharedIndex = Mutex<Index>;

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub term: u64,
    /// `None` until written.
    pub at: Option<Position>,
    /// Bytes of the record.
    pub bytes: u32,
}

/// A segment file in use.
#[derive(Clone)]
pub(crate) struct Segment {
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    /// Bytes on disk.
    pub bytes: u64,
    /// Greatest index of an entry ever written to it: it is needed until that one is purged.
    pub last_index: Option<u64>,
}

/// Invariant: entries have the indexes `first..first + places.len()`, of which the cache holds the last `cache.len()`, all unwritten ones among them.
#[derive(Default)]
pub(crate) struct Index {
    pub purged: Option<Id>,
    pub vote: Option<Vote>,
    pub committed: Option<Id>,
    pub segments: BTreeMap<u32, Segment>,
    first: u64,
    places: VecDeque<Place>,
    cache: VecDeque<RaftEntry>,
    cache_bytes: usize,
}

/// An entry as read from the index.
pub(crate) enum Found {
    Cached(RaftEntry),
    Stored(u64, Place, Segment),
}

impl Index {
    /// The index of the next entry to be appended.
    pub(crate) fn next(&self) -> u64 {
        if self.places.is_empty() {
            self.purged.map_or(self.first, |purged| purged.index + 1)
        } else {
            self.first + self.places.len() as u64
        }
    }

    pub(crate) fn last(&self) -> Option<Id> {
        let term = self.places.back().map(|place| place.term);
        let last = term.map(|term| Id {
            term,
            index: self.next() - 1,
        });
        last.or(self.purged)
    }

    /// The lowest index held, if any entry is.
    pub(crate) fn first(&self) -> Option<u64> {
        (!self.places.is_empty()).then_some(self.first)
    }

    /// Bytes of the records after an index.
    pub(crate) fn bytes_after(&self, index: Option<u64>) -> u64 {
        let covered = index.map_or(0, |index| (index + 1).saturating_sub(self.first));
        let places = self.places.iter().skip(covered as usize);
        places.map(|place| u64::from(place.bytes)).sum()
    }

    /// Adds an entry found on disk.
    pub(crate) fn recover(&mut self, index: u64, place: Place) {
        if self.places.is_empty() {
            self.first = index;
        }
        self.places.push_back(place);
    }

    /// Adds an entry that is yet to be written.
    pub(crate) fn append(&mut self, entry: RaftEntry, bytes: u32) {
        if self.places.is_empty() {
            self.first = entry.log_id.index;
        }
        self.places.push_back(Place {
            term: entry.log_id.leader_id.term,
            at: None,
            bytes,
        });
        self.cache_bytes += cached_bytes(&entry, bytes);
        self.cache.push_back(entry);
        self.trim_cache();
    }

    /// Notes where an entry was written.
    pub(crate) fn written(&mut self, index: u64, at: Position) {
        if let Some(segment) = self.segments.get_mut(&at.segment) {
            segment.last_index = segment.last_index.max(Some(index));
        }
        let place = index.checked_sub(self.first);
        if let Some(place) = place.and_then(|place| self.places.get_mut(place as usize)) {
            place.at = Some(at);
        }
    }

    fn trim_cache(&mut self) {
        while self.cache_bytes > CACHE_BYTES {
            let oldest = self.places.len() - self.cache.len();
            match self.places.get(oldest) {
                Some(place) if place.at.is_some() => self.forget_oldest(place.bytes),
                _ => return,
            }
        }
    }

    fn forget_oldest(&mut self, bytes: u32) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= cached_bytes(&entry, bytes);
        }
    }

    /// Removes the entries after `last`; all of them if there is none.
    pub(crate) fn truncate_after(&mut self, last: Option<u64>) {
        let keep = last.map_or(0, |last| (last + 1).saturating_sub(self.first)) as usize;
        while self.places.len() > keep {
            let place = self.places.pop_back();
            if let (Some(place), Some(entry)) = (place, self.cache.pop_back()) {
                self.cache_bytes -= cached_bytes(&entry, place.bytes);
            }
        }
    }

    /// Removes the entries up to `purged`.
    pub(crate) fn purge(&mut self, purged: Id) {
        while self.first <= purged.index {
            let oldest_is_cached = self.cache.len() == self.places.len();
            let Some(place) = self.places.pop_front() else {
                break;
            };
            if oldest_is_cached {
                self.forget_oldest(place.bytes);
            }
            self.first += 1;
        }
        self.purged = self.purged.max(Some(purged));
    }

    /// Takes out the segments, oldest first, of which nothing is needed. The newest always is.
    pub(crate) fn take_unneeded_segments(&mut self) -> Vec<Segment> {
        let mut taken = Vec::new();
        while self.segments.len() > 1 {
            let oldest = self.segments.first_entry().expect("there are two");
            let purged = self.purged.map(|purged| purged.index);
            if oldest.get().last_index > purged {
                break;
            }
            taken.push(oldest.remove());
        }
        taken
    }

    /// What there is of `range`.
    pub(crate) fn find(&self, range: Range<u64>) -> Result<Vec<Found>, LogError> {
        let end = range.end.min(self.first + self.places.len() as u64);
        let cached_from = self.first + (self.places.len() - self.cache.len()) as u64;
        let found = |index: u64| {
            if index >= cached_from {
                let entry = &self.cache[(index - cached_from) as usize];
                return Ok(Found::Cached(entry.clone()));
            }
            let place = self.places[(index - self.first) as usize];
            let segment = place.at.and_then(|at| self.segments.get(&at.segment));
            let segment = segment.ok_or_else(|| LogError::Consensus {
                detail: format!("entry {index} has no segment"),
            })?;
            Ok(Found::Stored(index, place, segment.clone()))
        };
        (range.start.max(self.first)..end).map(found).collect()
    }
}

impl Found {
    /// The entry, read from its segment if need be. Blocks.
    pub(crate) fn load(self) -> Result<RaftEntry, LogError> {
        match self {
            Found::Cached(entry) => Ok(entry),
            Found::Stored(index, place, segment) => read(index, place, &segment),
        }
    }
}

fn read(index: u64, place: Place, segment: &Segment) -> Result<RaftEntry, LogError> {
    let at = place.at.expect("only written entries leave the cache");
    let mut bytes = vec![0; place.bytes as usize];
    segment
        .file
        .read_at(&mut bytes, u64::from(at.offset))
        .map_err(|error| LogError::io("read", &segment.path, error))?;
    let damaged = |detail: String| LogError::Damaged {
        path: segment.path.clone(),
        offset: u64::from(at.offset),
        detail,
    };
    let is_entry = |record: &Record<'_>| record.index == index && record.term == place.term;
    let (record, _) = decode_record_bytes(&bytes, at)
        .filter(|(record, _)| is_entry(record))
        .ok_or_else(|| damaged(format!("entry {index} has changed since it was written")))?;
    decode_entry(&record).map_err(|error| damaged(error.to_string()))
}

fn cached_bytes(entry: &RaftEntry, bytes: u32) -> usize {
    match entry.payload {
        Payload::Normal(_) => bytes as usize + 128,
        _ => 256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64) -> RaftEntry {
        RaftEntry {
            log_id: Id { term: 1, index }.into(),
            payload: Payload::Blank,
        }
    }

    fn index_of(range: Range<u64>) -> Index {
        let mut index = Index::default();
        range.for_each(|at| index.append(entry(at), 48));
        index
    }

    fn found(index: &Index, range: Range<u64>) -> Vec<u64> {
        let found = index.find(range).unwrap();
        let position = |found: Found| found.load().unwrap().log_id.index;
        found.into_iter().map(position).collect()
    }

    #[test]
    fn range_is_cut_to_what_there_is() {
        let mut index = index_of(0..10);
        index.purge(Id { term: 1, index: 3 });
        assert_eq!(found(&index, 0..6), [4, 5]);
        assert_eq!(found(&index, 8..20), [8, 9]);
        index.truncate_after(Some(6));
        assert_eq!(found(&index, 0..20), [4, 5, 6]);
        assert_eq!(index.last(), Some(Id { term: 1, index: 6 }));
    }

    #[test]
    fn purge_beyond_the_end_moves_the_start() {
        let mut index = index_of(0..3);
        index.purge(Id { term: 2, index: 9 });
        assert_eq!(index.last(), Some(Id { term: 2, index: 9 }));
        assert_eq!(index.next(), 10);
        index.append(entry(10), 48);
        assert_eq!(found(&index, 0..20), [10]);
    }

    #[test]
    fn truncating_all_leaves_nothing() {
        let mut index = index_of(0..3);
        index.truncate_after(None);
        assert_eq!((index.last(), index.next()), (None, 0));
    }

    #[test]
    fn unwritten_entries_stay_in_memory() {
        let large = (CACHE_BYTES / 4) as u32;
        let mut index = Index::default();
        let normal = |at| RaftEntry {
            payload: Payload::Normal(crate::log::raft::Batch::stored(Default::default())),
            ..entry(at)
        };
        (0..10).for_each(|at| index.append(normal(at), large));
        assert_eq!(found(&index, 0..10).len(), 10);
        (0..10).for_each(|at| index.written(at, Position::default()));
        index.append(entry(10), 48);
        assert_eq!(index.cache.len(), 4);
    }
}
