//! Crashes at random places of a simulated disk. Whatever was acknowledged is there afterwards, in order, once. A failure prints its seed;
//! `LOG_SEEDS=17..18` replays it, `LOG_SEEDS=0..10000` looks for more.

use crate::support::{command, flush_start, open, options, write_slowly};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ripen_grid::log::disk::{Faults, SimDisk};
use ripen_grid::log::{Durability, Log, LogOptions};

pub fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("LOG_SEEDS") else {
        return 0..40;
    };
    let (from, to) = text.split_once("..").expect("LOG_SEEDS is like 0..100");
    from.parse().unwrap()..to.parse().unwrap()
}

struct Run {
    rng: StdRng,
    disk: SimDisk,
    durability: Durability,
    snapshot_after_bytes: u64,
    /// Next number to be proposed.
    next: u64,
    acknowledged: Vec<u64>,
    /// What was applied when the log was last opened whole.
    seen: Vec<u64>,
}

impl Run {
    fn new(seed: u64, durability: Durability) -> Run {
        let mut rng = StdRng::seed_from_u64(seed);
        let snapshot_after_bytes = rng.random_range(10_000..100_000);
        Run {
            rng,
            disk: SimDisk::new(),
            durability,
            snapshot_after_bytes,
            next: 0,
            acknowledged: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// What a process starts with.
    fn options(&self) -> LogOptions {
        LogOptions {
            durability: self.durability,
            snapshot_after_bytes: self.snapshot_after_bytes,
            ..options(&self.disk)
        }
    }

    /// Opens, writes until the machine dies, and restarts it.
    async fn round(&mut self, power_loss: bool) {
        let operations = self.rng.random_range(0..150);
        self.disk.set_faults(Faults {
            operations_left: Some(operations),
            ..Faults::default()
        });
        if let Ok((log, numbers)) = open(&self.options()).await {
            self.check(&numbers.get());
            self.write(&log).await;
            log.shutdown().await;
        }
        if power_loss {
            self.disk.crash(|bound| self.rng.random_range(0..bound));
        } else {
            self.disk.kill();
        }
    }

    async fn write(&mut self, log: &Log) {
        for _ in 0..self.rng.random_range(1..100) {
            let burst = self.rng.random_range(1..20);
            let mut tickets = Vec::new();
            for number in self.next..self.next + burst {
                let padding = self.rng.random_range(0..2000);
                tickets.push((number, log.propose(command(number, padding))));
            }
            self.next += burst;
            let mut failed = false;
            for (number, ticket) in tickets {
                match ticket.await {
                    Ok(_) => self.acknowledged.push(number),
                    Err(_) => failed = true,
                }
            }
            if failed {
                return;
            }
        }
    }

    fn check(&mut self, applied: &[u64]) {
        assert!(
            applied.is_sorted_by(|a, b| a < b),
            "in order, none twice: {applied:?}"
        );
        for number in &self.acknowledged {
            assert!(
                applied.binary_search(number).is_ok(),
                "{number} is lost: {applied:?}"
            );
        }
        assert!(applied.starts_with(&self.seen), "what was seen is gone");
        self.seen = applied.to_vec();
    }

    async fn check_at_the_end(&mut self) {
        let (log, numbers) = open(&self.options()).await.unwrap();
        self.check(&numbers.get());
        log.shutdown().await;
    }
}

async fn simulate(durability: Durability, power_loss: bool) {
    for seed in seeds() {
        println!("LOG_SEEDS={seed}..{}", seed + 1);
        let mut run = Run::new(seed, durability);
        for _ in 0..6 {
            run.round(power_loss).await;
        }
        run.check_at_the_end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_loss_takes_nothing_acknowledged() {
    simulate(Durability::Fsync, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_takes_nothing_acknowledged_even_in_memory_mode() {
    simulate(Durability::Memory, false).await;
}

/// In memory mode a power loss may take acknowledged commands, but the log opens, and what is left is a beginning of what was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_loss_in_memory_mode_leaves_a_beginning() {
    for seed in seeds() {
        println!("LOG_SEEDS={seed}..{}", seed + 1);
        let mut run = Run::new(seed, Durability::Memory);
        for _ in 0..6 {
            run.round(true).await;
            run.acknowledged.clear();
        }
        run.check_at_the_end().await;
        let (next, seen) = (run.next, run.seen.len() as u64);
        assert!(seen <= next);
    }
}

fn in_memory(disk: &SimDisk) -> LogOptions {
    LogOptions {
        durability: Durability::Memory,
        ..options(disk)
    }
}

/// As soon as a flush's start is durable Postgres may have the flush: then the log must know of it, and of all that it carried.
#[tokio::test]
async fn the_start_of_a_flush_survives_a_power_loss_even_in_memory_mode() {
    let disk = SimDisk::new();
    let (log, _) = open(&in_memory(&disk)).await.unwrap();
    write_slowly(&log, 0..20, 1000).await;
    log.propose(flush_start(20)).await.unwrap();
    write_slowly(&log, 21..40, 1000).await;
    disk.crash(|_| 0);
    drop(log);
    let (_log, numbers) = open(&in_memory(&disk)).await.unwrap();
    assert_eq!(numbers.get(), Vec::from_iter(0..=20));
}

/// Forty batches in memory mode, of which a power loss takes the tenth and leaves the others.
async fn with_a_hole() -> SimDisk {
    let disk = SimDisk::new();
    let (log, _) = open(&in_memory(&disk)).await.unwrap();
    write_slowly(&log, 0..40, 30).await;
    let mut writes = 0;
    disk.crash(|bound| {
        writes += u64::from(bound == 3);
        u64::from(writes != 10)
    });
    drop(log);
    disk
}

/// What was cut must not come back when newer records happen to end where older ones begin, so this tries all distances.
#[tokio::test]
async fn records_behind_a_hole_stay_cut() {
    for padding in (0..160).step_by(8) {
        let disk = with_a_hole().await;
        let (log, numbers) = open(&options(&disk)).await.unwrap();
        let mut expected = numbers.get();
        assert!((1..39).contains(&expected.len()), "{expected:?}");
        write_slowly(&log, 100..101, padding).await;
        log.shutdown().await;
        expected.push(100);
        let (_log, numbers) = open(&options(&disk)).await.unwrap();
        assert_eq!(numbers.get(), expected);
    }
}

#[tokio::test]
async fn what_was_seen_after_a_kill_survives_a_power_loss() {
    let disk = SimDisk::new();
    let (log, _) = open(&in_memory(&disk)).await.unwrap();
    write_slowly(&log, 0..100, 1000).await;
    disk.kill();
    drop(log);
    let (_log, numbers) = open(&options(&disk)).await.unwrap();
    assert_eq!(numbers.get().len(), 100);
    disk.crash(|_| 0);
    let (_log, numbers) = open(&options(&disk)).await.unwrap();
    assert_eq!(numbers.get().len(), 100);
}
