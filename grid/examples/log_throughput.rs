//! Measures the log: commands per second and latency at 1, 16 and 256 concurrent proposers, beside what the disk itself does in the same run.
//! Never part of the tests: its numbers depend on the machine.
//!
//! `cargo run --release -p ripen-grid --example log_throughput [directory] [seconds]`

use ripen_cachestore::change::{Change, CommitGroup, RowChange, RowId};
use ripen_grid::log::disk::{Disk, OsDisk};
use ripen_grid::log::{Command, Durability, Entry, Log, LogIndex, LogOptions, Machine};
use ripen_pg::ids::TableOid;
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const GROUP_BYTES: usize = 200;

/// Counts commands: the log's own cost, not the grid's.
struct Counter(u64);

impl Machine for Counter {
    fn apply(&mut self, _index: LogIndex, entry: Entry) {
        self.0 += entry.commands.len() as u64;
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }

    fn restore(&mut self, _: LogIndex, bytes: &[u8]) -> Result<(), String> {
        let bytes = bytes.try_into().map_err(|_| "not a count".to_owned())?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

fn command(number: u64, image: &Tuple) -> Command {
    let mut key = Key::new();
    key.push_fixed(&number.to_be_bytes());
    let row = RowId {
        table: TableOid(16384),
        key,
    };
    let image = image.clone();
    Command::Group(CommitGroup {
        rows: vec![RowChange {
            row,
            change: Change::Put { image },
        }],
    })
}

fn report(name: &str, mut latencies: Vec<Duration>, elapsed: Duration) {
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_micros();
    let rate = latencies.len() as f64 / elapsed.as_secs_f64();
    println!(
        "{name:28} {rate:9.0}/s   p50 {:6} us   p99 {:6} us",
        at(0.5),
        at(0.99)
    );
}

/// One write of a group's size and one sync after the other, into a file prepared as the log prepares its own.
fn measure_disk(dir: &Path, time: Duration) -> anyhow::Result<()> {
    let path = dir.join("bare");
    let file = OsDisk.create(&path)?;
    file.write_at(&vec![0; 32 << 20], 0)?;
    file.sync()?;
    let (bytes, start) = (vec![1; GROUP_BYTES], Instant::now());
    let mut latencies = Vec::new();
    while start.elapsed() < time {
        let before = Instant::now();
        file.write_at(&bytes, (latencies.len() * GROUP_BYTES) as u64)?;
        file.sync()?;
        latencies.push(before.elapsed());
    }
    report("bare write and sync", latencies, start.elapsed());
    Ok(OsDisk.remove(&path)?)
}

/// Processor time of this process so far, in microseconds. Unlike latency, it hardly depends on what else the machine does.
fn cpu_us() -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // After the name, which may contain anything: user and system time are the 12th and 13th field, in ticks of 10 ms.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks * 10_000)
}

async fn propose_for(log: Log, time: Duration, image: Tuple) -> anyhow::Result<Vec<Duration>> {
    let (mut latencies, start) = (Vec::new(), Instant::now());
    while start.elapsed() < time {
        let before = Instant::now();
        log.propose(command(latencies.len() as u64, &image)).await?;
        latencies.push(before.elapsed());
    }
    Ok(latencies)
}

async fn measure_log(
    log: &Log,
    proposers: usize,
    time: Duration,
    name: &str,
) -> anyhow::Result<()> {
    // Key, lengths and tags take the rest.
    let image: Tuple = [Datum::Value(&[7; GROUP_BYTES - 34])].into_iter().collect();
    let (before, cpu_before, start) = (log.stats(), cpu_us()?, Instant::now());
    let tasks: Vec<_> = (0..proposers)
        .map(|_| tokio::spawn(propose_for(log.clone(), time, image.clone())))
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    report(
        &format!("{name}, {proposers} proposers"),
        latencies,
        start.elapsed(),
    );
    let after = log.stats();
    let per = |count: u64, of: u64| count as f64 / of.max(1) as f64;
    let (commands, entries) = (
        after.commands - before.commands,
        after.entries - before.entries,
    );
    let batches = after.batches - before.batches;
    println!(
        "{:28} {:.1} commands an entry, {:.1} entries a batch, {:.2} us of processor a command",
        "",
        per(commands, entries),
        per(entries, batches),
        per(cpu_us()? - cpu_before, commands)
    );
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(
        arguments
            .next()
            .unwrap_or_else(|| "log_throughput.tmp".to_owned()),
    );
    let seconds = arguments.next().map_or(Ok(3), |seconds| seconds.parse())?;
    let time = Duration::from_secs(seconds);
    OsDisk.create_dir(&dir)?;
    measure_disk(&dir, time)?;
    for (name, durability) in [("fsync", Durability::Fsync), ("memory", Durability::Memory)] {
        let options = LogOptions {
            durability,
            ..LogOptions::new(dir.join(name))
        };
        let log = Log::open(options, Counter(0)).await?;
        for proposers in [1, 16, 256] {
            measure_log(&log, proposers, time, name).await?;
        }
        log.shutdown().await;
    }
    Ok(std::fs::remove_dir_all(&dir)?)
}
