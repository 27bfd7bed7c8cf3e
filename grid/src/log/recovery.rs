//! Reads the segments when the log is opened, cuts a torn end, refuses damage. Never cuts what was synced.

use super::disk::DiskFile;
use super::error::LogError;
use super::index::{Index, Place, Segment};
use super::limits::ZERO_BYTES;
use super::raft::Id;
use super::segments::{self, Directory};
use super::wal::{self, HeaderFault, Kind, Position, Record, SegmentHeader};
use super::writer::vote_of;
use std::path::PathBuf;
use std::sync::Arc;

/// What the segments say.
#[derive(Default)]
pub(crate) struct Recovered {
    pub index: Index,
    /// `None`: there is no log yet.
    pub identity: Option<u64>,
    /// Where to go on writing; everything before is synced.
    pub end: Option<Position>,
}

/// A segment file as it was found.
struct Found {
    number: u32,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    bytes: Vec<u8>,
}

/// Reads the log in `directory`, and cuts what a crash left half written.
pub(crate) fn recover(directory: &Directory) -> Result<Recovered, LogError> {
    let numbers = segment_numbers(directory)?;
    let mut recovered = Recovered::default();
    let mut last: Option<Found> = None;
    for (position, number) in numbers.iter().enumerate() {
        let found = read(directory, *number)?;
        if !recovered.accepts(&found)? {
            recovered.cut(directory, last, &numbers[position..])?;
            return recovered.checked(directory);
        }
        recovered.replay(&found)?;
        last = Some(found);
    }
    recovered.cut(directory, last, &[])?;
    recovered.checked(directory)
}

fn segment_numbers(directory: &Directory) -> Result<Vec<u32>, LogError> {
    let names = directory
        .disk
        .list(&directory.path)
        .map_err(|error| LogError::io("list", &directory.path, error))?;
    let mut numbers: Vec<u32> = names
        .iter()
        .filter_map(|name| segments::number(name))
        .collect();
    numbers.sort_unstable();
    match numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        None => Ok(numbers),
        Some(pair) => Err(LogError::Damaged {
            path: directory.path.join(segments::name(pair[0] + 1)),
            offset: 0,
            detail: format!("the file is missing, though later ones are there; {ADVICE}"),
        }),
    }
}

fn read(directory: &Directory, number: u32) -> Result<Found, LogError> {
    let path = directory.path.join(segments::name(number));
    let failed = |error| LogError::io("read", &path, error);
    let file = directory.disk.open(&path).map_err(failed)?;
    let mut bytes = vec![0; file.length().map_err(failed)? as usize];
    file.read_at(&mut bytes, 0).map_err(failed)?;
    Ok(Found {
        number,
        path,
        file,
        bytes,
    })
}

/// What a user can do about a damaged log.
pub(crate) const ADVICE: &str = "restore the directory from a copy, or, if the acknowledged writes that are not yet in Postgres may be lost, move it away";

impl Found {
    fn damaged(&self, offset: u32, detail: &str) -> LogError {
        LogError::Damaged {
            path: self.path.clone(),
            offset: u64::from(offset),
            detail: format!("{detail}; {ADVICE}"),
        }
    }

    fn header(&self) -> Result<Option<SegmentHeader>, LogError> {
        match SegmentHeader::decode(&self.bytes, self.number) {
            Ok(header) => Ok(Some(header)),
            Err(HeaderFault::Version(found)) => Err(LogError::Version {
                path: self.path.clone(),
                found,
                known: wal::VERSION,
            }),
            Err(HeaderFault::Blank | HeaderFault::Invalid) => Ok(None),
        }
    }

    /// The furthest position that anything valid in this segment, from `from` on, knew to be synced; and where it says so.
    fn evidence(&self, from: u32) -> Result<Option<(Position, Position)>, LogError> {
        let at = Position {
            segment: self.number,
            offset: 0,
        };
        let header = self.header()?.filter(|_| from == 0);
        let header = header.map(|header| (header.synced, at));
        Ok(header.max(wal::evidence(&self.bytes, self.number, from)))
    }
}

impl Recovered {
    /// Whether a segment continues what was read so far.
    fn accepts(&mut self, found: &Found) -> Result<bool, LogError> {
        let Some(header) = found.header()? else {
            return Ok(false);
        };
        let identity = *self.identity.get_or_insert(header.identity);
        if identity != header.identity {
            return Err(found.damaged(16, "the segment belongs to another log"));
        }
        Ok(self.end.is_none_or(|end| end.offset == header.previous_end))
    }

    fn replay(&mut self, found: &Found) -> Result<(), LogError> {
        let mut last_index = None;
        let end = wal::scan(&found.bytes, found.number, |at, record| {
            let entry = matches!(record.kind, Kind::Blank | Kind::Normal | Kind::Membership);
            if entry {
                last_index = last_index.max(Some(record.index));
            }
            self.apply(found, at, &record)
        })?;
        self.end = Some(Position {
            segment: found.number,
            offset: end,
        });
        let segment = Segment {
            path: found.path.clone(),
            file: found.file.clone(),
            bytes: found.bytes.len() as u64,
            last_index,
        };
        self.index.segments.insert(found.number, segment);
        Ok(())
    }

    fn apply(&mut self, found: &Found, at: Position, record: &Record<'_>) -> Result<(), LogError> {
        let id = Id {
            term: record.term,
            index: record.index,
        };
        let id = record.payload.is_empty().then_some(id);
        match record.kind {
            Kind::Blank | Kind::Normal | Kind::Membership => self.entry(found, at, record)?,
            Kind::Vote => self.index.vote = Some(vote_of(record)),
            Kind::Committed => self.index.committed = id,
            Kind::Truncated => self.index.truncate_after(id.map(|id| id.index)),
            Kind::Purged => id.into_iter().for_each(|id| self.index.purge(id)),
        }
        Ok(())
    }

    fn entry(&mut self, found: &Found, at: Position, record: &Record<'_>) -> Result<(), LogError> {
        if self.index.first().is_some() && record.index != self.index.next() {
            return Err(found.damaged(at.offset, "the entry does not follow the one before it"));
        }
        let place = Place {
            term: record.term,
            at: Some(at),
            bytes: record.stored_bytes() as u32,
        };
        self.index.recover(record.index, place);
        Ok(())
    }

    /// Cuts the log where its valid records end, in `last`, unless something behind that place, also in the segments `later`, shows that it had been synced further.
    fn cut(
        &mut self,
        directory: &Directory,
        last: Option<Found>,
        later: &[u32],
    ) -> Result<(), LogError> {
        let end = self.end.unwrap_or(Position {
            segment: later.first().copied().unwrap_or_default(),
            offset: 0,
        });
        if let Some(last) = &last {
            check_evidence(directory, end, last.evidence(end.offset.max(1))?)?;
        }
        let mut removed = Vec::new();
        for number in later {
            let found = read(directory, *number)?;
            check_evidence(directory, end, found.evidence(0)?)?;
            removed.push(found);
        }
        if let Some(last) = last {
            zero_after(&last, end.offset)?;
        }
        // Newest first: were the oldest removed alone, the others would seem to follow a hole.
        for found in removed.iter().rev() {
            directory
                .disk
                .remove(&found.path)
                .map_err(|error| LogError::io("remove", &found.path, error))?;
        }
        if self.end.is_none() {
            self.identity = None;
        }
        Ok(())
    }

    /// Makes durable what was read, which a killed process may have left unsynced, and checks that nothing is missing at the start.
    fn checked(mut self, directory: &Directory) -> Result<Recovered, LogError> {
        for segment in self.index.segments.values() {
            segment
                .file
                .sync()
                .map_err(|error| LogError::io("sync", &segment.path, error))?;
        }
        directory.sync_names()?;
        let needed = self.index.purged.map_or(0, |purged| purged.index + 1);
        if let Some(first) = self.index.first().filter(|first| *first > needed) {
            return Err(LogError::Damaged {
                path: directory.path.clone(),
                offset: 0,
                detail: format!("entries {needed} to {} are missing; {ADVICE}", first - 1),
            });
        }
        let unneeded = self.index.take_unneeded_segments();
        directory.remove(&unneeded)?;
        Ok(self)
    }
}

fn check_evidence(
    directory: &Directory,
    end: Position,
    evidence: Option<(Position, Position)>,
) -> Result<(), LogError> {
    match evidence.filter(|(synced, _)| *synced > end) {
        None => Ok(()),
        Some((synced, at)) => Err(LogError::Damaged {
            path: directory.path.join(segments::name(end.segment)),
            offset: u64::from(end.offset),
            detail: format!(
                "no valid record, but the record at byte {} of \"{}\" shows that the log was complete up to byte {} of \"{}\"; {ADVICE}",
                at.offset,
                segments::name(at.segment),
                synced.offset,
                segments::name(synced.segment)
            ),
        }),
    }
}

/// Zeros what stands behind the end. Otherwise records of a batch that was never acknowledged could one day seem to follow newer ones.
fn zero_after(found: &Found, end: u32) -> Result<(), LogError> {
    let tail = &found.bytes[(end as usize).min(found.bytes.len())..];
    let Some(dirty) = tail.iter().rposition(|byte| *byte != 0) else {
        return Ok(());
    };
    let failed = |error| LogError::io("cut", &found.path, error);
    let zeros = vec![0; ZERO_BYTES.min(dirty + 1)];
    let mut done = 0;
    while done <= dirty {
        let count = zeros.len().min(dirty + 1 - done);
        let offset = u64::from(end) + done as u64;
        found
            .file
            .write_at(&zeros[..count], offset)
            .map_err(failed)?;
        done += count;
    }
    found.file.sync().map_err(failed)
}
