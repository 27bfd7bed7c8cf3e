//! openraft's conformance suite for log stores and state machines, run on ours; and what only the inside can arrange.

use super::disk::{Disk, SimDisk};
use super::health::Health;
use super::index::SharedIndex;
use super::jobs::{Done, Job, NewRecord, Queue};
use super::network::Addresses;
use super::raft::{Id, Types, Vote};
use super::recovery::recover;
use super::segments::{self, Directory, Janitor};
use super::snapshots::Snapshots;
use super::state::State;
use super::store::Store;
use super::wal::{Kind, Position, SegmentHeader};
use super::writer::Writer;
use super::{Entry, LogIndex, Machine};
use bytes::Bytes;
use openraft::StorageError;
use openraft::storage::IOFlushed;
use openraft::testing::log::{StoreBuilder, Suite};
use std::sync::Arc;

struct Nothing;

impl Machine for Nothing {
    fn apply(&mut self, _index: LogIndex, _entry: Entry) {}

    fn snapshot(&self) -> Vec<u8> {
        b"nothing".to_vec()
    }

    fn restore(&mut self, _: LogIndex, bytes: &[u8]) -> Result<(), String> {
        assert_eq!(bytes, b"nothing");
        Ok(())
    }
}

/// Each store has a disk, small segments and a thread of its own.
struct Stores {
    disk: SimDisk,
    at_once: bool,
}

impl StoreBuilder<Types, Store, State> for Stores {
    async fn build(&self) -> Result<((), Store, State), StorageError<Types>> {
        let directory = directory(&self.disk, &format!("/log{}", self.disk.operations()));
        let recovered = recover(&directory).unwrap();
        let health = Arc::new(Health::new());
        let index = Arc::new(SharedIndex::new(recovered.index));
        let janitor = Janitor::start(directory.clone()).unwrap();
        let writer = Writer::new(1, true, index.clone(), None, janitor, health.clone());
        let queue = Arc::new(Queue::new(writer, self.at_once));
        let jobs = queue.clone();
        std::thread::spawn(move || jobs.run());
        let snapshots = Arc::new(Snapshots::new(directory, 1, None));
        let state = State::new(
            Box::new(Nothing),
            true,
            snapshots,
            health.clone(),
            Addresses::default(),
        );
        Ok(((), Store::new(index, queue, health), state))
    }
}

fn directory(disk: &SimDisk, path: &str) -> Directory {
    Directory {
        disk: Arc::new(disk.clone()),
        path: path.into(),
        segment_bytes: 16 << 10,
    }
}

#[tokio::test]
async fn storage_conforms_to_openraft() {
    for at_once in [false, true] {
        let disk = SimDisk::new();
        Suite::test_all(Stores { disk, at_once }).await.unwrap();
    }
}

fn job(records: Vec<NewRecord>) -> Vec<Job> {
    vec![Job {
        records,
        must_sync: true,
        done: Done::Raft(IOFlushed::noop()),
    }]
}

fn blank(index: u64) -> NewRecord {
    NewRecord {
        kind: Kind::Blank,
        id: Id { term: 1, index },
        payload: Bytes::new(),
    }
}

/// Writes jobs to what is recovered from the directory.
fn write(directory: &Directory, jobs: &[Vec<Job>]) -> Position {
    let recovered = recover(directory).unwrap();
    let index = Arc::new(SharedIndex::new(recovered.index));
    let janitor = Janitor::start(directory.clone()).unwrap();
    let health = Arc::new(Health::new());
    let mut writer = Writer::new(1, true, index, recovered.end, janitor, health);
    jobs.iter().for_each(|jobs| writer.write(jobs).unwrap());
    drop(writer);
    recover(directory).unwrap().end.unwrap()
}

#[test]
fn vote_outlives_the_segment_it_was_written_to() {
    let disk = SimDisk::new();
    let directory = directory(&disk, "/log");
    let mut vote = Vote::new(3, 1);
    vote.committed = true;
    let end = write(&directory, &[job(vec![NewRecord::vote(&vote), blank(0)])]);
    // A crash left of the second segment only its header.
    let header = SegmentHeader {
        identity: 1,
        segment: 2,
        previous_end: end.offset,
        synced: end,
    };
    let second = directory.path.join(segments::name(2));
    let file = disk.create(&second).unwrap();
    file.write_at(&[0; 16 << 10], 0).unwrap();
    file.write_at(&header.encode(), 0).unwrap();
    let purge = NewRecord::mark(Kind::Purged, Some(Id { term: 1, index: 0 }));
    write(&directory, &[job(vec![purge])]);
    assert!(
        disk.contents(&directory.path.join(segments::name(1)))
            .is_none()
    );
    let recovered = recover(&directory).unwrap();
    assert_eq!(recovered.index.vote, Some(vote));
}
