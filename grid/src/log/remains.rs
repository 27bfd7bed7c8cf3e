//! What is left of a log whose majority is lost: reads all of it into a machine without taking part in it, and makes a new log of that, of which one node is the only
//! member. Never changes the old one beyond what opening it would.
//!
//! The new log has another identity, so nodes that have the old one are strangers to it. It begins with a snapshot of everything that was in the old one, at the same
//! index and term, so whatever counts entries goes on.

use super::command::LogIndex;
use super::disk::LockGuard;
use super::error::LogError;
use super::health::Health;
use super::jobs::NewRecord;
use super::members::Members;
use super::network::Addresses;
use super::open::{check_agreement, draw_identity, lock};
use super::raft::{Id, Membership, StoredMembership, Vote};
use super::recovery::{Recovered, recover};
use super::segments::{self, Directory};
use super::snapshots::{Snapshot, Snapshots, newest};
use super::state::State;
use super::wal::{Kind, Position, SegmentHeader};
use super::{LogOptions, Machine};
use openraft::impls::BasicNode;
use ripen_cachestore::progress::LogIdentity;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// See the module. The old directory is locked while this lives.
pub struct Remains {
    /// Which log.
    pub identity: LogIdentity,
    /// Its last entry here.
    pub last: LogIndex,
    /// In which term that was made.
    pub term: u64,
    /// Up to where this node knew that a majority had it.
    pub committed: LogIndex,
    /// Who belongs to it.
    pub members: Members,
    /// When the last entry with commands was made, by its leader's clock, in unix milliseconds.
    pub at_ms: u64,
    state: State,
    /// The newest term in which this node has voted.
    voted: u64,
    directory: Directory,
    _lock: LockGuard,
}

impl LogOptions {
    /// Reads the log of the directory into a machine; `None`: there is none. Entries of which nobody knows whether they were acknowledged are applied, too. Blocks.
    ///
    /// # Errors
    /// When it is in use, cannot be read, or is damaged.
    pub fn remains(&self, machine: impl Machine) -> Result<Option<Remains>, LogError> {
        let directory = Directory {
            disk: self.disk.clone(),
            path: self.dir.clone(),
            segment_bytes: self.segment_bytes,
        };
        let lock = lock(&directory)?;
        let recovered = recover(&directory)?;
        let (snapshot, damage) = newest(&directory)?;
        check_agreement(&directory, &recovered, snapshot.as_ref(), damage)?;
        let (Some(identity), Some(last)) = (recovered.identity, recovered.index.last()) else {
            return Ok(None);
        };
        let mut state = State::new(
            Box::new(machine),
            false,
            Arc::new(Snapshots::new(directory.clone(), identity, None)),
            Arc::new(Health::new()),
            Addresses::default(),
        );
        replay(&mut state, &recovered, snapshot.as_ref())?;
        let index = &recovered.index;
        Ok(Some(Remains {
            identity: LogIdentity(identity),
            last: LogIndex(last.index),
            term: last.term,
            committed: LogIndex(index.committed.map_or(0, |id| id.index)),
            members: Members::of(state.membership()),
            at_ms: state.at_ms(),
            state,
            voted: index.vote.as_ref().map_or(0, |vote| vote.leader_id.term),
            directory,
            _lock: lock,
        }))
    }
}

fn replay(
    state: &mut State,
    recovered: &Recovered,
    snapshot: Option<&Snapshot>,
) -> Result<(), LogError> {
    if let Some(snapshot) = snapshot {
        state.restore(snapshot)?;
    }
    let covered = snapshot.and_then(|snapshot| snapshot.meta.last_log_id.as_ref());
    let first = covered.map_or(0, |id| id.index + 1);
    // One at a time: together they may be larger than memory.
    for index in first..recovered.index.next() {
        for found in recovered.index.find(index..index + 1)? {
            state.apply_entry((found.load()?, None))?;
        }
    }
    Ok(())
}

impl Remains {
    /// Makes a log of it in another directory, which is created, or emptied. All of it is on disk when this returns. Blocks.
    ///
    /// # Errors
    /// When it cannot be written, or the node does not belong to the log.
    pub fn found(&mut self, dir: &Path, node: u64) -> Result<LogIdentity, LogError> {
        let directory = Directory {
            path: dir.to_owned(),
            ..self.directory.clone()
        };
        empty(&directory)?;
        let identity = draw_identity();
        let last = Id {
            term: self.term,
            index: self.last.0,
        };
        let mut snapshot = self.state.snapshot();
        snapshot.identity = identity;
        snapshot.meta.last_log_id = Some(last.into());
        snapshot.meta.last_membership = StoredMembership::new(Some(last.into()), self.alone(node)?);
        let snapshots = Snapshots::new(directory.clone(), identity, None);
        snapshots.save(&snapshot)?;
        // The segment makes a log of it, so it comes last.
        let vote = Vote::new(self.voted.max(self.term), node);
        write_segment(&directory, identity, &vote, last)?;
        Ok(LogIdentity(identity))
    }

    fn alone(&self, node: u64) -> Result<Membership, LogError> {
        let addr = self.members.addresses.get(&node).cloned();
        let addr = addr.ok_or_else(|| LogError::Consensus {
            detail: format!("node {node} does not belong to the log"),
        })?;
        let nodes = BTreeMap::from([(node, BasicNode { addr })]);
        Membership::new(vec![BTreeSet::from([node])], nodes).map_err(super::open::consensus)
    }
}

fn empty(directory: &Directory) -> Result<(), LogError> {
    let (disk, path) = (&directory.disk, &directory.path);
    let created = disk.create_dir(path);
    created.map_err(|error| LogError::io("create", path, error))?;
    let names = disk.list(path);
    for name in names.map_err(|error| LogError::io("list", path, error))? {
        let removed = disk.remove(&path.join(&name));
        removed.map_err(|error| LogError::io("remove", path.join(&name), error))?;
    }
    directory.sync_names()
}

fn write_segment(
    directory: &Directory,
    identity: u64,
    vote: &Vote,
    last: Id,
) -> Result<(), LogError> {
    const NUMBER: u32 = 1;
    let header = SegmentHeader {
        identity,
        segment: NUMBER,
        previous_end: 0,
        synced: Position::default(),
    };
    let mut bytes = header.encode().to_vec();
    let records = [
        NewRecord::vote(vote),
        NewRecord::mark(Kind::Purged, Some(last)),
        NewRecord::mark(Kind::Committed, Some(last)),
    ];
    for record in records {
        let at = Position {
            segment: NUMBER,
            offset: bytes.len() as u32,
        };
        record.record().encode(&mut bytes, at, Position::default());
    }
    let path = directory.path.join(segments::name(NUMBER));
    let failed = |error| LogError::io("write", &path, error);
    let file = directory.disk.create(&path).map_err(failed)?;
    file.write_at(&bytes, 0).map_err(failed)?;
    file.sync().map_err(failed)?;
    directory.sync_names()
}
