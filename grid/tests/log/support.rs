//! A state machine that remembers numbers, and commands that carry them.

use parking_lot::Mutex;
use ripen_cachestore::change::codec::{Reader, put_many, put_u64};
use ripen_cachestore::change::{Change, CommitGroup, FlushSeq, RowChange, RowId};
use ripen_grid::log::disk::{Disk, SimDisk};
use ripen_grid::log::{
    Command, Entry, FlushScope, FlushStart, Log, LogError, LogIndex, LogOptions, Machine,
};
use ripen_pg::ids::TableOid;
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};
use std::path::PathBuf;
use std::sync::Arc;

/// Remembers the numbers applied. Clones share them.
#[derive(Clone, Default)]
pub struct Numbers {
    applied: Arc<Mutex<Vec<u64>>>,
    last: Arc<Mutex<(LogIndex, u64)>>,
}

impl Numbers {
    pub fn get(&self) -> Vec<u64> {
        self.applied.lock().clone()
    }

    /// Applies nothing for so long. Blocks.
    #[allow(dead_code, reason = "not all programs that share this need it")]
    pub fn stuck_for(&self, long: std::time::Duration) {
        let _applied = self.applied.lock();
        std::thread::sleep(long);
    }

    pub fn at_ms(&self) -> u64 {
        self.last.lock().1
    }
}

impl Machine for Numbers {
    fn apply(&mut self, index: LogIndex, entry: Entry) {
        let mut last = self.last.lock();
        assert!(index > last.0, "indexes grow");
        assert!(entry.at_ms >= last.1, "time does not go back");
        *last = (index, entry.at_ms);
        let numbers = entry.commands.iter().map(number_of);
        self.applied.lock().extend(numbers);
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_many(&mut out, &self.applied.lock(), |out, number| {
            put_u64(out, *number);
        });
        out
    }

    fn restore(&mut self, _: LogIndex, bytes: &[u8]) -> Result<(), String> {
        let numbers = Reader::new(bytes).many(Reader::u64);
        *self.applied.lock() = numbers.map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// A commit group that carries a number and `padding` bytes.
pub fn command(number: u64, padding: usize) -> Command {
    let mut key = Key::new();
    key.push_fixed(&number.to_be_bytes());
    let image: Tuple = [Datum::Value(&vec![7; padding])].into_iter().collect();
    Command::Group(CommitGroup {
        rows: vec![RowChange {
            row: RowId {
                table: TableOid(1),
                key,
            },
            change: Change::Put { image },
        }],
    })
}

fn number_of(command: &Command) -> u64 {
    let group = match command {
        Command::Group(group) => group,
        Command::FlushStart(start) => return start.seq.0,
        _ => panic!("nothing else is proposed here"),
    };
    let key = group.rows[0].row.key.as_bytes();
    u64::from_be_bytes(key.try_into().unwrap())
}

/// The start of a flush with that number.
pub fn flush_start(number: u64) -> Command {
    Command::FlushStart(FlushStart {
        seq: FlushSeq(number),
        cutoff_ms: 0,
        scope: FlushScope::All,
        rows_max: 1,
    })
}

pub const DIR: &str = "/log";

/// Small segments on a simulated disk, for a process that starts now.
pub fn options(disk: &SimDisk) -> LogOptions {
    LogOptions {
        segment_bytes: 16 << 10,
        disk: Arc::new(disk.of_new_process()),
        ..LogOptions::new(DIR)
    }
}

pub async fn open(options: &LogOptions) -> Result<(Log, Numbers), LogError> {
    let numbers = Numbers::default();
    let log = Log::open(options.clone(), numbers.clone()).await?;
    Ok((log, numbers))
}

/// Proposes numbers and waits for all.
pub async fn write(log: &Log, numbers: std::ops::Range<u64>, padding: usize) {
    let tickets: Vec<_> = numbers
        .map(|number| log.propose(command(number, padding)))
        .collect();
    for ticket in tickets {
        ticket.await.unwrap();
    }
}

/// Writes numbers one after the other, so that each has a batch of its own.
pub async fn write_slowly(log: &Log, numbers: std::ops::Range<u64>, padding: usize) {
    for number in numbers {
        log.propose(command(number, padding)).await.unwrap();
    }
}

/// Files of the log whose name contains `part`, in order.
pub fn files(disk: &SimDisk, part: &str) -> Vec<PathBuf> {
    let names = disk.list(DIR.as_ref()).unwrap();
    let mut names: Vec<_> = names
        .into_iter()
        .filter(|name| name.contains(part))
        .collect();
    names.sort();
    names
        .iter()
        .map(|name| PathBuf::from(DIR).join(name))
        .collect()
}
